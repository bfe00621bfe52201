//! Named contexts: `--build-context name=value` (SPEC A4.02, C3.19).

use std::collections::BTreeMap;

use super::error::FrontendError;
use super::remote::{ArchiveRef, RemoteContext, is_url, without_credentials};
use crate::dockerfile::gitref::GitRef;
use crate::llb::InContext;
use crate::oci::{Platform, Reference};

/// What a named context stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    /// `docker-image://scratch`.
    Empty,
    /// `docker-image://…`.
    Image(Reference),
    /// `oci-layout://PATH[:tag][@digest]`, the part behind the scheme.
    Layout(String),
    /// A directory; the name of the local source.
    Local(String),
    /// A repository, or a file from a web server.
    Remote(Box<RemoteContext>),
    /// A tree that was given; its name among the inputs.
    Given(String),
}

/// One named context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NamedContext {
    /// The name as given, with its platform if it has one.
    pub(super) title: String,
    /// The value as given: progress shows it in the user's words.
    value: String,
    /// What it stands for.
    pub(super) content: Content,
}

/// All named contexts, by normalised name.
#[derive(Debug, Default)]
pub(super) struct Contexts {
    by_name: BTreeMap<String, (String, String)>,
}

impl Contexts {
    /// Reads the options; values are looked at when a context is used.
    pub(super) fn new(options: &BTreeMap<String, String>) -> Self {
        let by_name = options
            .iter()
            .map(|(title, value)| {
                let key = match title.split_once("::") {
                    Some((name, platform)) => {
                        let platform = platform.parse::<Platform>().map_or_else(|_| platform.into(), |p| p.to_string());
                        format!("{}::{platform}", normalise(name))
                    }
                    None => normalise(title),
                };
                (key, (title.clone(), value.clone()))
            })
            .collect();
        Self { by_name }
    }

    /// The context for `name`, the one for `platform` first.
    ///
    /// # Errors
    /// When there is one but of a kind that is not known.
    pub(super) fn find(&self, name: &str, platform: &Platform) -> Result<Option<NamedContext>, FrontendError> {
        if name.eq_ignore_ascii_case("scratch") || name.eq_ignore_ascii_case("context") {
            return Ok(None);
        }
        let name = normalise(name);
        let specific = format!("{name}::{}", platform.normalised());
        let Some((title, value)) = self.by_name.get(&specific).or_else(|| self.by_name.get(&name)) else {
            return Ok(None);
        };
        Ok(Some(NamedContext { title: title.clone(), value: value.clone(), content: content(title, value)? }))
    }
}

impl NamedContext {
    /// This context as a policy has it, which put the source `identifier` in the place of its image (SPEC C9.02).
    ///
    /// # Errors
    /// When no context can be that.
    pub(super) fn converted(&self, identifier: &str) -> Result<Self, FrontendError> {
        let content = match identifier.strip_prefix("local://") {
            Some(name) => Content::Local(name.into()),
            None => content(&self.title, identifier)?,
        };
        Ok(Self { title: self.title.clone(), value: identifier.to_owned(), content })
    }

    /// The image that it stands for, as progress shows it; `None` if it is something else.
    pub(super) fn image(&self) -> Option<InContext> {
        let image = match &self.content {
            Content::Image(_) => self.shown(),
            // Where a layout is says little; what it is used as says more.
            Content::Layout(_) => {
                let name = self.title.split("::").next().unwrap_or_default();
                Reference::parse_raw(name).map_or_else(|_| name.to_owned(), |name| name.to_string())
            }
            _ => return None,
        };
        Some(InContext { name: self.title.clone(), image })
    }

    /// How progress calls its source (SPEC B6.02).
    pub(super) fn source_title(&self) -> String {
        let what = match &self.content {
            Content::Layout(_) => "OCI load from client".to_owned(),
            Content::Local(_) => "load from client".to_owned(),
            // As BuildKit has it: a repository is a repository, in a context of any name.
            Content::Remote(remote) if remote.is_git() => {
                return format!("[internal] load git source {}", without_credentials(&self.value));
            }
            _ => self.shown(),
        };
        format!("[context {}] {what}", self.title)
    }

    /// The value, without what nobody else need see.
    fn shown(&self) -> String {
        if let Some(archive) = ArchiveRef::parse(&self.value) {
            return without_credentials(&archive.url);
        }
        without_credentials(self.value.strip_prefix("docker-image://").unwrap_or(&self.value))
    }
}

/// The familiar name without `:latest`, so that `alpine` is found under `docker.io/library/alpine:latest`.
fn normalise(name: &str) -> String {
    let familiar = Reference::parse_raw(name).map_or_else(|_| name.to_owned(), |reference| reference.familiar());
    familiar.strip_suffix(":latest").map_or(familiar.clone(), Into::into)
}

fn content(title: &str, value: &str) -> Result<Content, FrontendError> {
    if let Some(reference) = value.strip_prefix("docker-image://") {
        if reference == "scratch" {
            return Ok(Content::Empty);
        }
        return reference
            .parse()
            .map(Content::Image)
            .map_err(|error| FrontendError::usage(format!("build context {title}: {error}")));
    }
    if let Some(layout) = value.strip_prefix("oci-layout://") {
        return Ok(Content::Layout(layout.into()));
    }
    if let Some(name) = value.strip_prefix("local:") {
        return Ok(Content::Local(name.into()));
    }
    if let Some(name) = value.strip_prefix("input:") {
        return Ok(Content::Given(name.into()));
    }
    let fail = |reason: String| FrontendError::usage(format!("build context {title}: {reason}"));
    if let Some(reference) = GitRef::parse(value) {
        return Ok(Content::Remote(Box::new(RemoteContext::git(&reference.map_err(fail)?, false))));
    }
    if let Some(archive) = ArchiveRef::parse(value) {
        return Ok(Content::Remote(Box::new(archive.context())));
    }
    if is_url(value) {
        return Ok(Content::Remote(Box::new(RemoteContext::http(value))));
    }
    if let Some(scheme) = ["target:", "docker-image+blob:"].iter().find(|scheme| value.starts_with(**scheme)) {
        let scheme = scheme.trim_end_matches(':');
        return Err(fail(format!("contexts of kind {scheme} are not supported yet"))
            .hint("use a directory, a git or http URL, docker-image://REFERENCE or oci-layout://DIRECTORY"));
    }
    Ok(Content::Local(title.into()))
}

/// The identifier of the layout's image once it is pinned to `digest`.
pub(super) fn pinned_layout(layout: &str, digest: &crate::base::Digest) -> String {
    let path = layout.rsplit_once('@').map_or(layout, |(path, _)| path);
    let path = match path.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => path,
        _ => path,
    };
    format!("oci-layout://{path}@{digest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contexts(pairs: &[(&str, &str)]) -> Contexts {
        Contexts::new(&pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect())
    }

    fn find(contexts: &Contexts, name: &str) -> Option<Content> {
        let platform = Platform::new("linux", "amd64", "");
        contexts.find(name, &platform).expect("known kind").map(|c| c.content)
    }

    #[test]
    fn a4_02_names_are_normalised_and_platforms_go_first() {
        let all = contexts(&[
            ("docker.io/library/alpine:latest", "docker-image://debian"),
            ("base", "./dir"),
            ("base::linux/x86_64", "oci-layout:///images/x:1"),
            ("scratch", "./x"),
        ]);
        assert_eq!(find(&all, "alpine"), Some(Content::Image("debian".parse().expect("valid"))));
        assert_eq!(find(&all, "base"), Some(Content::Layout("/images/x:1".into())));
        let arm = Platform::new("linux", "arm64", "");
        assert_eq!(all.find("base", &arm).expect("ok").map(|c| c.content), Some(Content::Local("base".into())));
        assert_eq!(find(&all, "alpine:3"), None);
        assert_eq!(find(&all, "scratch"), None);
    }

    #[test]
    fn unknown_kinds_are_refused_by_name() {
        let all = contexts(&[("x", "target:other"), ("y", "https://example.com/a.git?foo=bar")]);
        let error = |name| all.find(name, &Platform::host()).expect_err("refused");
        insta::assert_snapshot!(error("x"), @"build context x: contexts of kind target are not supported yet");
        insta::assert_snapshot!(error("y"), @r#"build context y: unexpected query "foo""#);
    }

    #[test]
    fn b1_06_repositories_and_files_of_servers() {
        let all = contexts(&[
            ("repo", "https://h.example/a.git#v1:sub"),
            ("scp", "git@h.example:a/b"),
            ("file", "https://h.example/a.tar.gz"),
            ("made", "input:base"),
            ("archive", "tar+https://h.example/a.tar.gz#:dir"),
        ]);
        let Some(Content::Remote(archive)) = find(&all, "archive") else { panic!("an archive is remote") };
        assert_eq!((archive.archive.as_deref(), archive.subdir.as_deref()), (Some("context"), Some("dir")));
        assert_eq!(find(&all, "made"), Some(Content::Given("base".into())));
        for (name, identifier) in [
            ("repo", "git://h.example/a.git#v1:sub"),
            ("scp", "git://h.example/a/b"),
            ("file", "https://h.example/a.tar.gz"),
        ] {
            let Some(Content::Remote(remote)) = find(&all, name) else { panic!("{name} is remote") };
            assert_eq!(remote.source.identifier, identifier);
            assert_eq!(remote.archive, None, "archives are not unpacked");
        }
    }

    #[test]
    fn layouts_are_pinned_without_their_tag() {
        let digest = crate::base::Digest::sha256(b"");
        assert_eq!(pinned_layout("/a/b:1", &digest), format!("oci-layout:///a/b@{digest}"));
        assert_eq!(pinned_layout(&format!("/a:8/b@{digest}"), &digest), format!("oci-layout:///a:8/b@{digest}"));
    }
}
