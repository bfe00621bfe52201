//! References to git repositories (SPEC A7.01–A7.03): which texts are one, and what their fragment and query say.
//!
//! Pure: whether the repository exists, and what a name in it means, is for others to find out.

use crate::base::values::boolean;

/// A repository and what of it is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GitRef {
    /// What git takes: a URL, or `user@host:path`.
    pub remote: String,
    /// Branch, tag, commit or full ref; empty for the default branch.
    pub reference: String,
    /// Directory of the repository; empty for all of it.
    pub subdir: String,
    /// What the commit must be, or begin with.
    pub checksum: Option<String>,
    /// Keep `.git`.
    pub keep_git_dir: Option<bool>,
    /// Bring in submodules too.
    pub submodules: Option<bool>,
    /// Modification times of the files: that of the commit, instead of now.
    pub commit_times: Option<bool>,
    /// Take the checksum as the commit and do not look at the ref.
    pub fetch_by_commit: bool,
    /// `github.com/…`: could also be a directory. Known for build contexts only.
    pub like_a_path: bool,
}

impl GitRef {
    /// Reads `text`. `None` if it is no reference to a repository.
    ///
    /// # Errors
    /// A reference with a query that means nothing.
    pub fn parse(text: &str) -> Option<Result<Self, String>> {
        if text.starts_with("./") || text.starts_with("../") {
            return None;
        }
        let like_a_path = text.starts_with("github.com/");
        // Said aloud, a repository need not be called `.git`.
        let said = ["git+https://", "git+http://"].iter().any(|scheme| text.starts_with(scheme));
        let full = match like_a_path {
            true => format!("https://{text}"),
            false => text.strip_prefix("git+").filter(|_| said).unwrap_or(text).to_owned(),
        };
        let (rest, fragment) = cut(&full, '#');
        let (remote, query) = cut(rest, '?');
        match remote.split_once("://") {
            Some(("http" | "https", address)) => {
                let path = address.split_once('/').map_or("", |(_, path)| path);
                if !said && !like_a_path && !path.ends_with(".git") {
                    return None;
                }
            }
            Some(("git" | "ssh", _)) => {}
            Some(_) => return None,
            None if is_scp_like(remote) => {}
            None => return None,
        }
        let mut out = Self { remote: remote.into(), like_a_path, ..Self::default() };
        let (reference, subdir) = cut(fragment.unwrap_or_default(), ':');
        out.reference = reference.into();
        out.subdir = subdir.unwrap_or_default().into();
        Some(out.read_query(query.unwrap_or_default()).map(|()| Self { subdir: clean(&out.subdir), ..out }))
    }

    /// A directory of what this one means.
    #[must_use]
    pub fn below(&self, dir: &str) -> Self {
        Self { subdir: clean(&format!("{}/{}", self.subdir, clean(dir))), ..self.clone() }
    }

    /// The text that [`Self::parse`] reads as this.
    #[must_use]
    pub fn text(&self) -> String {
        let remote = if self.like_a_path { self.remote.trim_start_matches("https://") } else { &self.remote };
        let mut out = remote.to_owned();
        let switches = [
            ("keep-git-dir", self.keep_git_dir),
            ("submodules", self.submodules),
            ("fetch-by-commit", self.fetch_by_commit.then_some(true)),
        ];
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        for (name, value) in switches {
            if let Some(value) = value {
                query.append_pair(name, if value { "true" } else { "false" });
            }
        }
        if let Some(checksum) = &self.checksum {
            query.append_pair("checksum", checksum);
        }
        if let Some(commit) = self.commit_times {
            query.append_pair("mtime", if commit { "commit" } else { "checkout" });
        }
        let query = query.finish();
        if !query.is_empty() {
            out.push_str(&format!("?{query}"));
        }
        match (self.reference.as_str(), self.subdir.as_str()) {
            ("", "") => {}
            (reference, "") => out.push_str(&format!("#{reference}")),
            (reference, subdir) => out.push_str(&format!("#{reference}:{subdir}")),
        }
        out
    }

    /// Host and port, as secrets are named after them.
    #[must_use]
    pub fn host(&self) -> &str {
        host(&self.remote)
    }

    fn read_query(&mut self, query: &str) -> Result<(), String> {
        let pairs: Vec<(String, String)> = url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        let (mut tag, mut branch) = (String::new(), String::new());
        for (at, (key, value)) in pairs.iter().enumerate() {
            if pairs[..at].iter().any(|(other, _)| other == key) {
                return Err(format!("query \"{key}\" has multiple values"));
            }
            let switch = |name: &str| match value.as_str() {
                "" => Ok(true),
                text => boolean(text).ok_or_else(|| format!("invalid {name} value: \"{text}\"")),
            };
            match key.as_str() {
                "keep-git-dir" => self.keep_git_dir = Some(switch(key)?),
                "submodules" => self.submodules = Some(switch(key)?),
                "fetch-by-commit" => self.fetch_by_commit = switch(key)?,
                "ref" | "tag" | "branch" | "subdir" | "checksum" | "commit" | "mtime" if value.is_empty() => {
                    return Err(format!("query \"{key}\" has no value"));
                }
                "ref" => agree("ref", &mut self.reference, value)?,
                "tag" => tag.clone_from(value),
                "branch" => branch.clone_from(value),
                "subdir" => agree("subdir", &mut self.subdir, value)?,
                "checksum" | "commit" => {
                    let mut known = self.checksum.take().unwrap_or_default();
                    agree("checksum", &mut known, value)?;
                    self.checksum = Some(known);
                }
                "mtime" => {
                    self.commit_times = Some(match value.as_str() {
                        "commit" => true,
                        "checkout" => false,
                        other => return Err(format!("invalid mtime value: \"{other}\"")),
                    });
                }
                _ => return Err(format!("unexpected query \"{key}\"")),
            }
        }
        if !tag.is_empty() && !branch.is_empty() {
            return Err("branch conflicts with tag".into());
        }
        for (prefix, name) in [("refs/tags/", tag), ("refs/heads/", branch)] {
            if !name.is_empty() {
                let name = if name.starts_with(prefix) { name } else { format!("{prefix}{name}") };
                agree("ref", &mut self.reference, &name)?;
            }
        }
        match &self.checksum {
            Some(checksum) if self.reference.is_empty() => self.reference.clone_from(checksum),
            None if self.fetch_by_commit => return Err("fetch-by-commit requires a checksum".into()),
            _ => {}
        }
        Ok(())
    }
}

/// Sets `known` unless it says something else already.
fn agree(what: &str, known: &mut String, value: &str) -> Result<(), String> {
    if !known.is_empty() && known != value {
        return Err(format!("{what} conflicts: \"{known}\" vs \"{value}\""));
    }
    *known = value.into();
    Ok(())
}

fn cut(text: &str, at: char) -> (&str, Option<&str>) {
    text.split_once(at).map_or((text, None), |(before, after)| (before, Some(after)))
}

/// `user@host:path`. Without a user it would be a file name with a colon.
fn is_scp_like(text: &str) -> bool {
    let Some((user, rest)) = text.split_once('@') else { return false };
    let Some((host, _)) = rest.split_once(':') else { return false };
    let word = |text: &str, extra: &str| {
        !text.is_empty()
            && !text.starts_with('-')
            && text.chars().all(|c| c.is_ascii_alphanumeric() || extra.contains(c))
    };
    word(user, "-_") && word(host, "-.")
}

/// Host and port of a remote.
#[must_use]
pub fn host(remote: &str) -> &str {
    match remote.split_once("://") {
        Some((_, rest)) => {
            let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
            authority.rsplit_once('@').map_or(authority, |(_, host)| host)
        }
        None => {
            let rest = remote.split_once('@').map_or(remote, |(_, rest)| rest);
            rest.split_once(':').map_or(rest, |(host, _)| host)
        }
    }
}

/// A directory inside the repository, without what leads out of it.
pub(crate) fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> GitRef {
        GitRef::parse(text).unwrap_or_else(|| panic!("{text} is a reference")).unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    fn refused(text: &str) -> String {
        GitRef::parse(text).unwrap_or_else(|| panic!("{text} is a reference")).expect_err(text)
    }

    #[test]
    fn a_reference_can_be_written_again() {
        for text in [
            "https://h.example/a.git",
            "https://h.example/a.git#main",
            "git@h.example:a/b.git#:sub",
            "ssh://h.example/a.git#v1:sub/dir",
            "https://h.example/a.git?keep-git-dir=true&submodules=false&checksum=abc1234&mtime=commit#main",
        ] {
            let read = GitRef::parse(text).expect("a reference").expect("valid");
            assert_eq!(read.text(), text);
        }
    }

    #[test]
    fn a7_01_accepted_forms() {
        for (text, remote, host) in [
            ("https://h.example/a/b.git", "https://h.example/a/b.git", "h.example"),
            ("http://u:p@h.example:8080/b.git", "http://u:p@h.example:8080/b.git", "h.example:8080"),
            ("git://h.example/b", "git://h.example/b", "h.example"),
            ("ssh://git@h.example:22/b", "ssh://git@h.example:22/b", "h.example:22"),
            ("git@h.example:a/b", "git@h.example:a/b", "h.example"),
            ("github.com/a/b", "https://github.com/a/b", "github.com"),
        ] {
            let found = parse(text);
            assert_eq!((found.remote.as_str(), found.host()), (remote, host), "{text}");
            assert_eq!(found.like_a_path, text.starts_with("github.com"), "{text}");
        }
        for text in [
            "https://h.example/a.tar.gz",
            "https://h.example.git",
            "https://h.example/?x=/a.git",
            "./git@h:x",
            "../a.git",
            "a.git",
            "foo:bar",
            "a@b",
            "-x@h:p",
            "ext::sh -c x",
            "file:///x.git",
            "",
        ] {
            assert_eq!(GitRef::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a7_02_fragments() {
        for (fragment, reference, subdir) in [
            ("#v1", "v1", ""),
            ("#a/b:c/d", "a/b", "c/d"),
            ("#:c/", "", "c"),
            ("#refs/pull/7/head", "refs/pull/7/head", ""),
            ("#x:../../etc", "x", "etc"),
            ("#x:/", "x", ""),
            ("", "", ""),
        ] {
            let found = parse(&format!("https://h.example/a.git{fragment}"));
            assert_eq!((found.reference.as_str(), found.subdir.as_str()), (reference, subdir), "{fragment}");
        }
    }

    // SPEC B7.21
    #[test]
    fn b7_21_directories_of_references() {
        for (text, dir, expected) in [
            ("https://h.example/a.git", "d", "https://h.example/a.git#:d"),
            ("https://h.example/a.git#v1:x", "d/../e", "https://h.example/a.git#v1:x/e"),
            ("https://h.example/a.git#v1:x", "../../etc", "https://h.example/a.git#v1:x/etc"),
            ("github.com/a/b?ref=v1", ".", "github.com/a/b#v1"),
            ("git@h.example:a?commit=abc&keep-git-dir", "d", "git@h.example:a?keep-git-dir=true&checksum=abc#abc:d"),
        ] {
            let below = parse(text).below(dir);
            assert_eq!(below.text(), expected, "{text}");
            assert_eq!(parse(expected), below, "{text}");
        }
    }

    #[test]
    fn a7_03_queries() {
        let all = parse(
            "https://h.example/a.git?tag=v1&subdir=x%2Fy&commit=abc&keep-git-dir&submodules=false&mtime=commit&fetch-by-commit=1",
        );
        let expected = GitRef {
            remote: "https://h.example/a.git".into(),
            reference: "refs/tags/v1".into(),
            subdir: "x/y".into(),
            checksum: Some("abc".into()),
            keep_git_dir: Some(true),
            submodules: Some(false),
            commit_times: Some(true),
            fetch_by_commit: true,
            like_a_path: false,
        };
        assert_eq!(all, expected);
        assert_eq!(parse("git@h:a?branch=main").reference, "refs/heads/main");
        assert_eq!(parse("https://h/a.git?branch=refs/heads/main#refs/heads/main").reference, "refs/heads/main");
        assert_eq!(parse("https://h/a.git?checksum=abc").reference, "abc", "the checksum stands in for the ref");
        for (query, error) in [
            ("?ref=a#b", r#"ref conflicts: "b" vs "a""#),
            ("?tag=a#b", r#"ref conflicts: "b" vs "refs/tags/a""#),
            ("?tag=a&branch=b", "branch conflicts with tag"),
            ("?ref=a&ref=b", r#"query "ref" has multiple values"#),
            ("?foo=bar", r#"unexpected query "foo""#),
            ("?ref=", r#"query "ref" has no value"#),
            ("?subdir=a#:b", r#"subdir conflicts: "b" vs "a""#),
            ("?checksum=a&commit=b", r#"checksum conflicts: "a" vs "b""#),
            ("?keep-git-dir=maybe", r#"invalid keep-git-dir value: "maybe""#),
            ("?submodules=2", r#"invalid submodules value: "2""#),
            ("?mtime=never", r#"invalid mtime value: "never""#),
            ("?fetch-by-commit", "fetch-by-commit requires a checksum"),
        ] {
            assert_eq!(refused(&format!("https://h.example/a.git{query}")), error, "{query}");
        }
    }

    proptest::proptest! {
        #[test]
        fn anything_is_a_reference_or_not(text in "(https?://|git@|git://|)[a-z.:@/#?=&%-]{0,40}(\\.git|)[#?:a-z=&%]{0,20}") {
            if let Some(Ok(found)) = GitRef::parse(&text) {
                proptest::prop_assert!(!found.subdir.split('/').any(|part| part == ".."), "{}", found.subdir);
                proptest::prop_assert!(!found.remote.starts_with('-'));
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn a7_02_no_text_panics_or_leaves_the_repository(
            scheme in proptest::sample::select(vec!["https://h/a.git", "git@h:a", "ssh://h/a", "git://h/a", "github.com/a/b", ""]),
            rest in "[a-z0-9./:#?=&@%~\\[\\] -]{0,40}",
        ) {
            if let Some(Ok(reference)) = GitRef::parse(&format!("{scheme}{rest}")) {
                let _ = reference.host();
                proptest::prop_assert!(!reference.remote.is_empty());
                proptest::prop_assert!(!reference.subdir.split('/').any(|part| part == ".."), "{reference:?}");
            }
        }
    }
}
