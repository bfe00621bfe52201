//! What a ref means: the answer of a server read by the rules of SPEC A7.02 and A7.04.

use super::attributes::{is_commit, is_hex};

/// A commit, and how it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Resolved {
    /// The commit; of an annotated tag what it points to.
    pub(super) commit: String,
    /// The tag object, if the ref is an annotated tag.
    pub(super) tag: Option<String>,
    /// The full name of the ref; `None` where a commit was named.
    pub(super) name: Option<String>,
}

impl Resolved {
    pub(super) fn commit(commit: &str) -> Self {
        Self { commit: commit.into(), tag: None, name: None }
    }

    /// Whether it is what `checksum` says, or begins with it (SPEC A6.21).
    pub(super) fn fits(&self, checksum: &str) -> bool {
        self.commit.starts_with(checksum) || self.tag.as_ref().is_some_and(|tag| tag.starts_with(checksum))
    }

    /// For messages.
    pub(super) fn shown(&self) -> String {
        match &self.tag {
            Some(tag) => format!("{tag} or {}", self.commit),
            None => self.commit.clone(),
        }
    }
}

/// The refs to ask a server for.
pub(super) fn questions(reference: &str) -> Vec<String> {
    if reference.is_empty() {
        return vec!["HEAD".into()];
    }
    let mut out = Vec::new();
    for name in names(reference) {
        out.push(format!("{name}^{{}}"));
        out.push(name);
    }
    out
}

/// The full names that `reference` may stand for, the best first: a branch goes before a tag.
fn names(reference: &str) -> Vec<String> {
    if reference == "HEAD" || reference.starts_with("refs/") {
        return vec![reference.into()];
    }
    ["refs/heads/", "refs/tags/", "refs/"].iter().map(|prefix| format!("{prefix}{reference}")).collect()
}

/// Finds `reference` in the lines of `git ls-remote`.
pub(super) fn find(reference: &str, lines: &str) -> Option<Resolved> {
    let refs: Vec<(&str, &str)> =
        lines.lines().filter_map(|line| line.split_once('\t')).filter(|(sha, _)| is_commit(sha)).collect();
    // Patterns also match the ends of longer names: only the whole name counts.
    let get = |name: &str| refs.iter().find(|(_, found)| *found == name).map(|(sha, _)| (*sha).to_owned());
    let wanted = if reference.is_empty() { vec!["HEAD".to_owned()] } else { names(reference) };
    wanted.into_iter().find_map(|name| {
        let sha = get(&name)?;
        Some(match get(&format!("{name}^{{}}")) {
            Some(commit) => Resolved { commit, tag: Some(sha), name: Some(name) },
            None => Resolved { commit: sha, tag: None, name: Some(name) },
        })
    })
}

/// Whether `reference` can be the beginning of a commit.
pub(super) fn is_short_commit(reference: &str) -> bool {
    (4..64).contains(&reference.len()) && is_hex(reference)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sha(c: char) -> String {
        c.to_string().repeat(40)
    }

    #[test]
    fn a7_02_names_are_found_in_their_order() {
        let lines = [
            (sha('1'), "HEAD"),
            (sha('2'), "refs/heads/feature/main"),
            (sha('3'), "refs/heads/main"),
            (sha('4'), "refs/tags/main"),
            (sha('5'), "refs/tags/v1"),
            (sha('6'), "refs/tags/v1^{}"),
            (sha('7'), "refs/pull/7/head"),
        ]
        .map(|(sha, name)| format!("{sha}\t{name}\n"))
        .concat();
        let found = |reference: &str| find(reference, &lines).map(|r| r.commit);
        assert_eq!(found(""), Some(sha('1')));
        assert_eq!(found("main"), Some(sha('3')), "a branch goes before a tag");
        assert_eq!(found("refs/tags/main"), Some(sha('4')));
        assert_eq!(found("pull/7/head"), Some(sha('7')));
        assert_eq!(found("feature"), None);
        let tag = find("v1", &lines).expect("there");
        assert_eq!((tag.commit.clone(), tag.tag.clone()), (sha('6'), Some(sha('5'))));
        assert!(tag.fits("66") && tag.fits(&sha('5')) && !tag.fits("7"));
        assert_eq!(tag.shown(), format!("{} or {}", sha('5'), sha('6')));
    }

    #[test]
    fn answers_of_a_hostile_server_are_not_believed() {
        for lines in ["", "\t", "--upload-pack\trefs/heads/main\n", "zz\trefs/heads/main", "no tab"] {
            assert_eq!(find("main", lines), None, "{lines:?}");
        }
    }

    #[test]
    fn short_commits() {
        assert!(is_short_commit("abc1") && !is_short_commit("abc") && !is_short_commit("main"));
    }
}
