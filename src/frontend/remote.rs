//! Trees from elsewhere as source ops: URLs and git repositories of ADD, of contexts and of named contexts
//! (SPEC A6.18–A6.22, B1.02–B1.06).

use super::graph::{Draft, NodeId};
use crate::base::Digest;
use crate::base::values::{percent_decode, split_user};
use crate::dockerfile::gitref::{self, GitRef};
use crate::llb::op::{FileAction, FileActionCopy, FileActionKind, FileOp, Kind, Op, OpMetadata, SourceOp};
use crate::llb::{Builder, Definition};

/// Name of the file that a URL used as a context is (SPEC B1.04, B1.06).
pub const CONTEXT_FILE: &str = "context";

/// A source of ADD that is not a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Remote {
    /// A repository.
    Git(Box<GitRef>),
    /// Anything else that begins with `http://` or `https://`.
    Url,
}

impl Remote {
    /// What `source` is; `None` for a path.
    ///
    /// # Errors
    /// A reference to a repository that makes no sense.
    pub(super) fn of(source: &str) -> Result<Option<Self>, String> {
        match GitRef::parse(source) {
            // Could also be a directory of the context.
            Some(Ok(found)) if found.like_a_path => Ok(None),
            Some(found) => Ok(Some(Self::Git(Box::new(found?)))),
            None if is_url(source) => Ok(Some(Self::Url)),
            None => Ok(None),
        }
    }
}

/// Whether the text is an HTTP URL.
#[must_use]
pub fn is_url(text: &str) -> bool {
    text.starts_with("http://") || text.starts_with("https://")
}

/// An archive on a web server that is a context, unpacked: `tar+https://HOST/FILE[#:DIR]` (SPEC B7.21). Other builders make such
/// contexts too, of definitions that are in archives, but have no words for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveRef {
    /// The archive.
    pub url: String,
    /// Only what is below this directory; empty for all of it.
    pub subdir: String,
}

impl ArchiveRef {
    /// What `text` is; `None` if it is no archive by name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let whole = text.strip_prefix("tar+").filter(|url| is_url(url))?;
        let (url, subdir) = whole.rsplit_once("#:").unwrap_or((whole, ""));
        Some(Self { url: url.into(), subdir: gitref::clean(subdir) })
    }

    /// A directory of the archive at `url`.
    #[must_use]
    pub fn at(url: &str, dir: &str) -> Self {
        Self { url: url.into(), subdir: gitref::clean(dir) }
    }

    /// The text that [`Self::parse`] reads as this.
    #[must_use]
    pub fn text(&self) -> String {
        let dir = if self.subdir.is_empty() { String::new() } else { format!("#:{}", self.subdir) };
        format!("tar+{}{dir}", self.url)
    }

    /// The directory, if it is not all of the archive.
    #[must_use]
    pub fn dir(&self) -> Option<&str> {
        Some(self.subdir.as_str()).filter(|dir| !dir.is_empty())
    }

    /// The context that it is.
    #[must_use]
    pub fn context(&self) -> RemoteContext {
        RemoteContext::http(&self.url).unpacked().below(self.dir())
    }
}

/// The last component of a URL's path, as ADD names the file: what is escaped in the URL is not in the name.
pub(super) fn file_name(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let path = rest.split_once('/').map_or("", |(_, path)| path);
    let decoded = String::from_utf8(percent_decode(path)).ok().filter(|decoded| !decoded.contains('\0'));
    let path = decoded.as_deref().unwrap_or(path);
    match path.trim_end_matches('/').rsplit('/').next().unwrap_or_default() {
        "" | "." | ".." => "__unnamed__".into(),
        name => name.into(),
    }
}

/// A URL or remote without credentials, for titles.
#[must_use]
pub fn without_credentials(text: &str) -> String {
    match split_user(text) {
        Some((scheme, _, rest)) if scheme != "ssh" => format!("{scheme}://{rest}"),
        _ => text.to_owned(),
    }
}

/// The same for every URL in an instruction: neither history nor progress is the place for passwords.
pub(super) fn redacted(instruction: &str) -> String {
    let words = instruction.split_inclusive(|c: char| c.is_whitespace() || "\"',[]".contains(c));
    words.map(without_credentials).collect()
}

/// A file from a web server.
pub(super) fn http(url: &str, filename: &str, checksum: Option<&str>) -> SourceOp {
    let mut op = SourceOp { identifier: url.into(), ..SourceOp::default() };
    op.attrs.insert("http.filename".into(), filename.into());
    if let Some(checksum) = checksum {
        op.attrs.insert("http.checksum".into(), checksum.into());
    }
    op
}

/// A repository. `commit_times` is what files get where the reference does not say.
pub(super) fn git(reference: &GitRef, commit_times: bool) -> SourceOp {
    let remote = &reference.remote;
    let address = match remote.split_once("://") {
        Some((_, rest)) => {
            let end = rest.find('/').unwrap_or(rest.len());
            rest[..end].rfind('@').map_or(rest, |at| &rest[at + 1..]).to_owned()
        }
        None => remote.split_once('@').map_or(remote.as_str(), |(_, rest)| rest).replacen(':', "/", 1),
    };
    let mut identifier = format!("git://{address}");
    if !reference.reference.is_empty() || !reference.subdir.is_empty() {
        identifier.push_str(&format!("#{}", reference.reference));
    }
    if !reference.subdir.is_empty() {
        identifier.push_str(&format!(":{}", reference.subdir));
    }
    let mut op = SourceOp { identifier, ..SourceOp::default() };
    let mut set = |name: &str, value: &str| op.attrs.insert(name.into(), value.into());
    set("git.fullurl", remote);
    if reference.keep_git_dir == Some(true) {
        set("git.keepgitdir", "true");
    }
    if reference.submodules == Some(false) {
        set("git.skipsubmodules", "true");
    }
    if let Some(checksum) = &reference.checksum {
        set("git.checksum", checksum);
    }
    if reference.commit_times.unwrap_or(commit_times) {
        set("git.mtime", "commit");
    }
    if reference.fetch_by_commit {
        set("git.fetchbycommit", "true");
    }
    if remote.starts_with("ssh://") || !remote.contains("://") {
        set("git.mountsshsock", "default");
    }
    op
}

/// A context that is not a directory of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteContext {
    /// Where it comes from.
    pub source: SourceOp,
    /// How progress calls it.
    pub title: String,
    /// The source is one file with this name, an archive: the context is what is in it.
    pub archive: Option<String>,
    /// Only what is below this directory.
    pub subdir: Option<String>,
}

impl RemoteContext {
    /// A repository (SPEC B1.03).
    #[must_use]
    pub fn git(reference: &GitRef, commit_times: bool) -> Self {
        let title = format!("[internal] load git source {}", without_credentials(&reference.text()));
        Self { source: git(reference, commit_times), title, archive: None, subdir: None }
    }

    /// A file from a web server (SPEC B1.04).
    #[must_use]
    pub fn http(url: &str) -> Self {
        let title = "[internal] load remote build context".into();
        Self { source: http(url, CONTEXT_FILE, None), title, archive: None, subdir: None }
    }

    /// An archive that is a blob of the store; where it came from (SPEC B1.02).
    #[must_use]
    pub fn blob(from: &str, digest: &Digest) -> Self {
        let mut source = SourceOp { identifier: format!("oci-layout+blob://stdin@{digest}"), ..SourceOp::default() };
        source.attrs.insert("http.filename".into(), CONTEXT_FILE.into());
        let title = format!("[internal] load build context from {from}");
        Self { source, title, archive: Some(CONTEXT_FILE.into()), subdir: None }
    }

    /// It is a repository.
    pub(super) fn is_git(&self) -> bool {
        self.source.identifier.starts_with("git://")
    }

    /// It is one file.
    #[must_use]
    pub fn is_file(&self) -> bool {
        self.archive.is_none() && is_url(&self.source.identifier)
    }

    /// The same file, unpacked.
    #[must_use]
    pub fn unpacked(self) -> Self {
        Self { archive: Some(CONTEXT_FILE.into()), ..self }
    }

    /// What is below a directory of it (SPEC D1.03). A file has none.
    #[must_use]
    pub fn below(self, subdir: Option<&str>) -> Self {
        let subdir = subdir.filter(|_| self.archive.is_some()).map(ToOwned::to_owned);
        Self { subdir, ..self }
    }

    /// What takes a directory for the whole.
    fn enter(subdir: &str) -> Kind {
        let copy = FileActionCopy { create_dest_path: true, ..FileActionCopy::contents(format!("/{subdir}"), "/") };
        let action = FileAction { input: -1, secondary_input: 0, output: 0, action: Some(FileActionKind::Copy(copy)) };
        Kind::File(FileOp { actions: vec![action] })
    }

    fn enter_title(&self, subdir: &str) -> OpMetadata {
        self.titled(&format!("take {subdir} of the build context"))
    }

    /// A step that belongs to this context, as its source does.
    fn titled(&self, what: &str) -> OpMetadata {
        let place = self.title.split_once(']').map_or("[internal", |(place, _)| place);
        OpMetadata::named(format!("{place}] {what}"))
    }

    /// What unpacks the archive.
    fn unpack(file: &str) -> Kind {
        let copy = FileActionCopy {
            src: format!("/{file}"),
            dest: "/".into(),
            mode: -1,
            timestamp: -1,
            attempt_unpack_docker_compatibility: true,
            create_dest_path: true,
            ..FileActionCopy::default()
        };
        let action = FileAction { input: -1, secondary_input: 0, output: 0, action: Some(FileActionKind::Copy(copy)) };
        Kind::File(FileOp { actions: vec![action] })
    }

    fn unpack_title(&self) -> OpMetadata {
        self.titled("unpack build context")
    }

    /// Adds it to a graph.
    pub(super) fn add_to(&self, draft: &mut Draft) -> NodeId {
        let metadata = OpMetadata::named(self.title.as_str());
        let source = draft.add(Kind::Source(self.source.clone()), Vec::new(), None, metadata, Vec::new());
        let all = match &self.archive {
            None => source,
            Some(file) => draft.add(Self::unpack(file), vec![source], None, self.unpack_title(), Vec::new()),
        };
        match &self.subdir {
            None => all,
            Some(dir) => draft.add(Self::enter(dir), vec![all], None, self.enter_title(dir), Vec::new()),
        }
    }

    /// It alone: the same vertices as in the graph of a build, so that what was brought in for one serves the other.
    #[must_use]
    pub fn definition(&self) -> Definition {
        let mut builder = Builder::default();
        let source = Op { kind: Some(Kind::Source(self.source.clone())), ..Op::default() };
        let mut root = builder.add(&source, OpMetadata::named(self.title.as_str()), &[]);
        if let Some(file) = &self.archive {
            let inputs = vec![Builder::input(&root)];
            let unpack = Op { kind: Some(Self::unpack(file)), inputs, ..Op::default() };
            root = builder.add(&unpack, self.unpack_title(), &[]);
        }
        if let Some(dir) = &self.subdir {
            let inputs = vec![Builder::input(&root)];
            let enter = Op { kind: Some(Self::enter(dir)), inputs, ..Op::default() };
            root = builder.add(&enter, self.enter_title(dir), &[]);
        }
        builder.finish(Some(&root))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a6_18_names_of_files() {
        for (url, name) in [
            ("https://h/a/b.tar.gz", "b.tar.gz"),
            ("https://h/a/b.tar.gz?x=/y#z/w", "b.tar.gz"),
            ("https://h/", "__unnamed__"),
            ("https://h", "__unnamed__"),
            ("https://h/a/", "a"),
            ("https://h/a/..", "__unnamed__"),
            ("https://h/whl/torch-1.13.1%2Bcu117-cp310.whl", "torch-1.13.1+cu117-cp310.whl"),
            ("https://h/a%20b%2Fc%3fd+e", "c?d+e"),
            ("https://h/a/%2e%2e", "__unnamed__"),
            ("https://h/a/100%", "100%"),
            ("https://h/a/%00%ff", "%00%ff"),
        ] {
            assert_eq!(file_name(url), name, "{url}");
        }
    }

    #[test]
    fn c2_04_identifiers() {
        let op = |text: &str| git(&GitRef::parse(text).expect("a reference").expect("valid"), false);
        let plain = op("https://user:secret@h.example/a.git#v1:sub");
        assert_eq!(plain.identifier, "git://h.example/a.git#v1:sub");
        assert_eq!(plain.attrs["git.fullurl"], "https://user:secret@h.example/a.git");
        assert!(!plain.attrs.contains_key("git.mountsshsock"));
        let scp = op("git@h.example:a/b.git?keep-git-dir&submodules=0&mtime=commit");
        assert_eq!(scp.identifier, "git://h.example/a/b.git");
        for (name, value) in [
            ("git.mountsshsock", "default"),
            ("git.keepgitdir", "true"),
            ("git.skipsubmodules", "true"),
            ("git.mtime", "commit"),
        ] {
            assert_eq!(scp.attrs[name], value);
        }
        assert_eq!(op("https://h/a.git#:d").identifier, "git://h/a.git#:d");
    }

    #[test]
    fn b7_21_archives_that_are_contexts() {
        let archive = ArchiveRef::parse("tar+https://h.example/a.tar?x#:sub/../../dir/").expect("an archive");
        assert_eq!((archive.url.as_str(), archive.dir()), ("https://h.example/a.tar?x", Some("dir")));
        assert_eq!(archive.text(), "tar+https://h.example/a.tar?x#:dir");
        assert_eq!(ArchiveRef::at("http://h/a", "./").text(), "tar+http://h/a");
        for other in ["https://h/a.tar", "tar+git://h/a", "tar+", "tar://a"] {
            assert_eq!(ArchiveRef::parse(other), None, "{other}");
        }
        let context = RemoteContext { title: "[context x] h".into(), ..archive.context() };
        let graph = context.definition().graph().expect("a graph");
        let mut titles: Vec<String> = graph.vertices.values().map(|vertex| vertex.name()).collect();
        titles.sort();
        let expected =
            ["[context x] h", "[context x] take dir of the build context", "[context x] unpack build context"];
        assert_eq!(titles, expected);
    }

    #[test]
    fn instructions_are_shown_without_credentials() {
        for (text, shown) in [
            ("ADD a https://u:p@h/x /y", "ADD a https://h/x /y"),
            (r#"ADD ["https://u@h/x?a=b@c", "/y"]"#, r#"ADD ["https://h/x?a=b@c", "/y"]"#),
            ("ADD ssh://git@h/x git@h:x /y", "ADD ssh://git@h/x git@h:x /y"),
        ] {
            assert_eq!(redacted(text), shown);
        }
    }

    #[test]
    fn titles_hold_no_credentials() {
        let reference = GitRef::parse("https://user:s3cret@h.example/a.git#x").expect("one").expect("valid");
        assert_eq!(RemoteContext::git(&reference, false).title, "[internal] load git source https://h.example/a.git#x");
        let part = GitRef::parse("https://u@h.example/a.git#x:sub").expect("one").expect("valid");
        assert_eq!(RemoteContext::git(&part, false).title, "[internal] load git source https://h.example/a.git#x:sub");
    }
}
