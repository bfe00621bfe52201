//! Ordered lists of patterns with exceptions, as moby's patternmatcher evaluates them (SPEC A9.03, A6.13).
//!
//! The last pattern that matches a path, or one of its parents, decides; `!` makes an exception. During a walk the
//! answer for a directory is handed down to what is in it ([`Matcher::enter`], [`Matcher::matches_in`]), so that parents are
//! not matched again for each file.

use std::fmt;

use super::pattern::{self, BadPattern, Glob};

/// A pattern of a list that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct PatternError {
    /// The pattern as given.
    pub pattern: String,
    /// Its position in the list.
    pub index: usize,
}

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.pattern.trim() == "!" {
            f.write_str("illegal exclusion pattern: \"!\"")
        } else {
            write!(f, "invalid pattern \"{}\": {BadPattern}", self.pattern)
        }
    }
}

/// One pattern of a [`Matcher`].
#[derive(Clone, Debug)]
struct Pattern {
    kind: Kind,
    /// Starts with `!`.
    exception: bool,
    /// Position in the list given, which may have blank lines.
    index: usize,
}

impl Pattern {
    /// Whether this pattern, the `i`-th, matches `path` in a directory that matched `parent`.
    fn matches_with(&self, i: usize, path: &[u8], parent: Option<&Matched>) -> bool {
        match parent {
            Some(parent) => parent.get(i) || self.kind.matches(path),
            None => self.matches(path),
        }
    }

    fn matches(&self, path: &[u8]) -> bool {
        self.kind.matches(path) || parents(path).any(|parent| self.kind.matches(parent))
    }
}

/// Most patterns are plain text, perhaps with `**` at one end; these need no [`Glob`].
#[derive(Clone, Debug)]
enum Kind {
    Exact(Vec<u8>),
    /// `text**`
    Prefix(Vec<u8>),
    /// `**text`
    Suffix(Vec<u8>),
    Glob(Glob),
}

impl Kind {
    fn new(pattern: &[u8]) -> Result<Self, BadPattern> {
        // Go checks the syntax with its own matcher, which knows no `**`; so do we.
        Glob::new(pattern)?;
        let plain = |text: &[u8]| !pattern::has_wildcards(text) && !text.contains(&b'\\');
        if plain(pattern) {
            return Ok(Self::Exact(pattern.to_vec()));
        }
        match (pattern.strip_prefix(b"**"), pattern.strip_suffix(b"**")) {
            (Some(text), _) if plain(text) => Ok(Self::Suffix(text.to_vec())),
            (_, Some(text)) if plain(text) => Ok(Self::Prefix(text.to_vec())),
            _ => Glob::with_double_star(pattern).map(Self::Glob),
        }
    }

    fn matches(&self, path: &[u8]) -> bool {
        match self {
            Self::Exact(text) => path == text,
            Self::Prefix(text) => path.starts_with(text),
            // `**/foo` also means `foo` itself.
            Self::Suffix(text) => path.ends_with(text) || text.strip_prefix(b"/") == Some(path),
            Self::Glob(glob) => glob.matches(path),
        }
    }

    fn may_match_below(&self, dir: &[u8]) -> bool {
        let below = |text: &[u8]| text.strip_prefix(dir).is_some_and(|rest| rest.first() == Some(&b'/'));
        match self {
            Self::Exact(text) => below(text),
            Self::Prefix(text) => below(text) || dir.starts_with(text) || [dir, b"/"].concat().starts_with(text),
            Self::Suffix(_) => true,
            Self::Glob(glob) => glob.may_continue(&[dir, b"/"].concat()),
        }
    }
}

/// Which patterns of a list a directory matched: what its contents inherit.
#[derive(Clone, Debug, Default)]
pub struct Matched {
    first: u64,
    more: Vec<u64>,
}

impl Matched {
    fn get(&self, i: usize) -> bool {
        let word = if i < 64 { self.first } else { self.more.get(i / 64 - 1).copied().unwrap_or(0) };
        word & (1 << (i % 64)) != 0
    }

    fn set(&mut self, i: usize) {
        if i < 64 {
            self.first |= 1 << i;
        } else {
            self.more.resize(self.more.len().max(i / 64), 0);
            self.more[i / 64 - 1] |= 1 << (i % 64);
        }
    }
}

/// An ordered list of patterns. Paths are relative, clean and separated by `/`.
#[derive(Clone, Debug, Default)]
pub struct Matcher {
    patterns: Vec<Pattern>,
}

impl Matcher {
    /// Compiles a list; blank patterns count for nothing.
    ///
    /// # Errors
    /// The first malformed pattern.
    pub fn new<P: AsRef<[u8]>>(patterns: impl IntoIterator<Item = P>) -> Result<Self, PatternError> {
        let mut out = Vec::new();
        for (index, given) in patterns.into_iter().enumerate() {
            let given = given.as_ref();
            let trimmed = trim(given);
            if trimmed.is_empty() {
                continue;
            }
            let cleaned = pattern::clean(trimmed);
            let (text, exception) = match cleaned.strip_prefix(b"!") {
                Some(rest) => (rest, true),
                None => (&cleaned[..], false),
            };
            let kind = if text.is_empty() { Err(BadPattern) } else { Kind::new(text) };
            let kind = kind.map_err(|_| PatternError { pattern: String::from_utf8_lossy(given).into(), index })?;
            out.push(Pattern { kind, exception, index });
        }
        Ok(Self { patterns: out })
    }

    /// Whether there is nothing in the list.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Whether `path` matches, by itself or through a parent.
    #[must_use]
    pub fn matches(&self, path: &[u8]) -> bool {
        self.deciding(path).is_some()
    }

    /// The position of the pattern that makes `path` match; `None` if it does not.
    #[must_use]
    pub fn deciding(&self, path: &[u8]) -> Option<usize> {
        let mut decided = None;
        for p in &self.patterns {
            if p.exception == decided.is_some() && p.matches(path) {
                decided = (!p.exception).then_some(p.index);
            }
        }
        decided
    }

    /// Whether `path` matches and so does all below it: no exception that comes later can be about any of that.
    ///
    /// A component with wildcards stands for any name.
    #[must_use]
    pub fn matches_all_below(&self, path: &[u8]) -> bool {
        let Some(last) = self.patterns.iter().rposition(|p| !p.exception && p.matches(path)) else { return false };
        let known: Vec<&[u8]> =
            path.split(|b| *b == b'/').take_while(|component| !pattern::has_wildcards(component)).collect();
        let known = known.join(&b'/');
        let excepts = |p: &Pattern| known.is_empty() || p.matches(path) || p.kind.may_match_below(&known);
        !self.patterns[last + 1..].iter().any(|p| p.exception && excepts(p))
    }

    /// Whether the directory `path` matches, and what its contents inherit. `parent` is `None` at the top.
    ///
    /// moby's walk forgets a `!` pattern that matched a directory before anything excluded it (`*/*` with `!src` hides
    /// all of `src`); here, as in its other functions and in SPEC A9.03, the last match wins.
    #[must_use]
    pub fn enter(&self, path: &[u8], parent: Option<&Matched>) -> (bool, Matched) {
        let mut inherited = Matched::default();
        let mut matched = false;
        for (i, p) in self.patterns.iter().enumerate() {
            if p.matches_with(i, path, parent) {
                matched = !p.exception;
                inherited.set(i);
            }
        }
        (matched, inherited)
    }

    /// Whether `path`, in a directory that was entered, matches.
    #[must_use]
    pub fn matches_in(&self, path: &[u8], parent: Option<&Matched>) -> bool {
        let mut matched = false;
        for (i, p) in self.patterns.iter().enumerate() {
            if p.exception == matched && p.matches_with(i, path, parent) {
                matched = !p.exception;
            }
        }
        matched
    }

    /// Whether something below the directory `dir`, which does not match, might.
    #[must_use]
    pub fn may_match_below(&self, dir: &[u8]) -> bool {
        self.patterns.iter().any(|p| !p.exception && p.kind.may_match_below(dir))
    }

    /// Whether something below the directory `dir`, which matches, might not.
    #[must_use]
    pub fn may_except_below(&self, dir: &[u8]) -> bool {
        self.patterns.iter().any(|p| p.exception && p.kind.may_match_below(dir))
    }
}

/// The parents of a relative path, the topmost first.
fn parents(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(i, _)| &path[..i])
}

/// Go's `strings.TrimSpace`, also for what is not UTF-8.
pub(super) fn trim(text: &[u8]) -> &[u8] {
    match std::str::from_utf8(text) {
        Ok(text) => text.trim().as_bytes(),
        Err(_) => text.trim_ascii(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matcher(patterns: &[&str]) -> Matcher {
        Matcher::new(patterns).expect("valid patterns")
    }

    #[test]
    fn a9_03_double_star_and_parents() {
        for (pattern, path, want) in [
            ("**", "file", true),
            ("**", "file/a", true),
            ("**/", "dir/file", true),
            ("**/**", "dir/file", true),
            ("dir/**", "dir/file", true),
            ("dir/**", "dir", false),
            ("dir/**", "dir/dir2/file", true),
            ("**/dir", "dir/file", true),
            ("**/dir2/*", "dir/dir2/file", true),
            ("**/dir2/**", "dir/dir2/dir2/file", true),
            ("**file", "file", true),
            ("**file", "dir/file", true),
            ("**/file", "dir/file", true),
            ("**file", "dirfile", true),
            ("**/file", "dirfile", false),
            ("**/file*", "dir/dir/file.txt", true),
            ("**/file*.txt*", "dir/dir/file.txt.bak", true),
            ("a**/*.txt", "a/file.txt", true),
            ("a**/*.txt", "a/dir/file.txt", true),
            ("a**/*.txt", "a/dir/dir/file.txt", true),
            ("a/*.txt", "a/dir/file.txt", false),
            ("a/*.txt", "a/file.txt", true),
            ("a/*.txt**", "a/file.txt", true),
            ("a[b-d]e", "ae", false),
            ("a[b-d]e", "ace", true),
            ("abc.def", "abcZdef", false),
            ("abc?def", "abcZdef", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "axb", false),
            ("**/foo/bar", "foo/bar", true),
            ("**/foo/bar", "x/foo/bar/baz", true),
            ("abc/**", "abc/def/ghi", true),
            (".foo", "foo", false),
            ("**", ".foo/bar", true),
            ("a(b)c/def", "a(b)c/def", true),
            ("a.|)$(}+{bc", "a.|)$(}+{bc", true),
            ("foo", "foo/bar/baz", true),
            ("foo", "food", false),
            ("*/bar", "foo/bar/baz", true),
            ("/", "foo", false),
            ("./foo/", "foo/x", true),
            ("a/../foo", "foo", true),
        ] {
            assert_eq!(matcher(&[pattern]).matches(path.as_bytes()), want, "{pattern} against {path}");
        }
    }

    #[test]
    fn a9_03_order_and_exceptions() {
        for (patterns, path, want) in [
            (&["**", "!file"][..], "file", false),
            (&["!file", "**"], "file", true),
            (&["*", "!docs/README.md"], "docs/README.md", false),
            (&["*", "!docs/README.md"], "docs/other", true),
            (&["docs", "!docs", "docs/secret"], "docs/secret", true),
            (&["docs", "!docs", "docs/secret"], "docs/open", false),
            (&["*.md", "!README*.md", "README-secret.md"], "README-secret.md", true),
            (&["*.md", "!README*.md", "README-secret.md"], "README-open.md", false),
            (&["dir", "", "  ", "!dir/**"], "dir/a/b", false),
        ] {
            assert_eq!(matcher(patterns).matches(path.as_bytes()), want, "{patterns:?} against {path}");
        }
    }

    #[test]
    fn a6_23_exceptions_below_a_path() {
        for (patterns, path, want) in [
            (&["sub"][..], "sub/a", true),
            (&["sub"], "other", false),
            (&["sub", "!sub/b"], "sub/a", true),
            (&["sub", "!sub/b"], "sub", false),
            (&["sub", "!sub/b"], "sub/b", false),
            (&["sub", "!sub/b"], "sub/*", false),
            (&["sub", "!other", "!nope/b", "!other/*"], "sub/a", true),
            (&["!sub/b", "sub"], "sub", true),
            (&["!sub/b", "sub", "!sub/b"], "sub", false),
            (&["sub", "!sub/b", "sub"], "sub", true),
            (&["sub", "!sub/x/y"], "sub", false),
            (&["sub", "!*/b"], "sub", false),
            (&["su.b", "!su\\.b/c"], "su.b", false),
            (&["**", "!sub"], "sub/a", false),
            (&["*.x", "!a.x"], "*.x", false),
        ] {
            assert_eq!(matcher(patterns).matches_all_below(path.as_bytes()), want, "{patterns:?} against {path}");
        }
    }

    #[test]
    fn the_deciding_pattern_is_named() {
        let m = matcher(&["", "*.log", "!keep.log", "tmp"]);
        assert_eq!(m.deciding(b"x.log"), Some(1));
        assert_eq!(m.deciding(b"keep.log"), None);
        assert_eq!(m.deciding(b"tmp/keep.log"), Some(3));
    }

    #[test]
    fn a9_04_bad_patterns_are_refused() {
        for (pattern, text) in [
            ("[", "invalid pattern \"[\": syntax error in pattern"),
            ("a[b-", "invalid pattern \"a[b-\": syntax error in pattern"),
            ("!", "illegal exclusion pattern: \"!\""),
            ("x\\", "invalid pattern \"x\\\": syntax error in pattern"),
        ] {
            let err = Matcher::new(["ok", pattern]).expect_err(pattern);
            assert_eq!((err.to_string().as_str(), err.index), (text, 1));
        }
    }

    #[test]
    fn more_patterns_than_one_word_holds() {
        let mut list: Vec<String> = (0..200).map(|i| format!("d{i}")).collect();
        list.push("!d150/keep".into());
        let m = Matcher::new(&list).expect("valid patterns");
        let (matched, state) = m.enter(b"d150", None);
        assert!(matched && m.may_except_below(b"d150") && !m.may_except_below(b"d151"));
        assert!(m.matches_in(b"d150/x", Some(&state)));
        assert!(!m.matches_in(b"d150/keep", Some(&state)));
    }

    /// Obviously right and slow: the definition of one pattern, tried by recursion.
    fn naive(pattern: &[u8], path: &[u8]) -> bool {
        match pattern {
            [] => path.is_empty(),
            [b'*', b'*', rest @ ..] => {
                let rest = rest.strip_prefix(b"/").unwrap_or(rest);
                if rest.is_empty() {
                    return true;
                }
                naive(rest, path) || (0..path.len()).any(|i| path[i] == b'/' && naive(rest, &path[i + 1..]))
            }
            [b'*', rest @ ..] => {
                (0..=path.len()).take_while(|i| *i == 0 || path[i - 1] != b'/').any(|i| naive(rest, &path[i..]))
            }
            [b'?', rest @ ..] => path.first().is_some_and(|c| *c != b'/') && naive(rest, &path[1..]),
            [b'\\', c, rest @ ..] | [c, rest @ ..] => path.first() == Some(c) && naive(rest, &path[1..]),
        }
    }

    /// `**text` compares text only, so it also matches in the middle of a name.
    fn naive_pattern(pattern: &[u8], path: &[u8]) -> bool {
        let plain_end = pattern.strip_prefix(b"**").filter(|t| !t.iter().any(|c| b"*?[\\".contains(c)));
        naive(pattern, path) || plain_end.is_some_and(|t| path.ends_with(t))
    }

    fn naive_list(patterns: &[String], path: &str) -> bool {
        let mut matched = false;
        for p in patterns {
            let (p, exception) = p.strip_prefix('!').map_or((p.as_str(), false), |p| (p, true));
            let p = pattern::clean(p.as_bytes());
            let hit = naive_pattern(&p, path.as_bytes())
                || path.match_indices('/').any(|(i, _)| naive_pattern(&p, &path.as_bytes()[..i]));
            if hit {
                matched = !exception;
            }
        }
        matched
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn a9_03_agrees_with_the_definition(
            patterns in prop::collection::vec("!?(\\*\\*/)?[ab*?]{1,3}(/(\\*\\*|[ab*?]{1,3})){0,2}", 1..4),
            path in "[ab]{1,3}(/[ab]{1,3}){0,3}",
        ) {
            let m = Matcher::new(&patterns).expect("valid patterns");
            let want = naive_list(&patterns, &path);
            prop_assert_eq!(m.matches(path.as_bytes()), want, "{:?} against {}", patterns, path);

            // The same, the way a walk does it; and a walk that prunes must not miss anything.
            let mut state: Option<Matched> = None;
            let mut pruned = None;
            for (i, _) in path.match_indices('/') {
                let dir = &path.as_bytes()[..i];
                let (hit, next) = m.enter(dir, state.as_ref());
                let more = if hit { m.may_except_below(dir) } else { m.may_match_below(dir) };
                if !more && pruned.is_none() {
                    pruned = Some(hit);
                }
                state = Some(next);
            }
            prop_assert_eq!(m.matches_in(path.as_bytes(), state.as_ref()), want, "walking {:?} to {}", patterns, path);
            if let Some(all) = pruned {
                prop_assert_eq!(all, want, "pruned {:?} above {}", patterns, path);
            }
        }
    }
}
