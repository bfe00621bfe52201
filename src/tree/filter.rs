//! Which paths of a tree count: ordered include and exclude patterns with exceptions (SPEC A9.03, A6.13, A6.14, C2.06).
//!
//! The same rules hide what `.dockerignore` excludes from a context and choose what `COPY --exclude` and `--parents` take.
//! A directory that is not chosen itself still counts when something in it is: see [`Verdict`].

use crate::dockerfile::matcher::{Matched, Matcher, PatternError};

/// Why a path is not visible: the pattern that decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exclusion {
    /// The pattern as given.
    pub pattern: String,
    /// Its position among the exclude patterns.
    pub index: usize,
    /// Its line in the ignore file, where known.
    pub line: Option<usize>,
}

/// Include and exclude patterns over relative, clean paths.
#[derive(Clone, Debug, Default)]
pub struct PathFilter {
    include: Option<Matcher>,
    exclude: Matcher,
    exclude_texts: Vec<String>,
    exclude_lines: Vec<usize>,
}

/// What the contents of a directory inherit.
#[derive(Clone, Debug)]
pub struct Inherited {
    include: Option<Matched>,
    exclude: Matched,
}

/// What a filter says of a directory.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// It is chosen itself.
    pub itself: bool,
    /// Something below it may be.
    pub below: bool,
    /// For what is in it.
    pub inherited: Inherited,
}

impl PathFilter {
    /// A filter; no include patterns means everything. `lines[i]` is where the i-th exclude pattern was written.
    ///
    /// # Errors
    /// A malformed pattern.
    pub fn new<P: AsRef<[u8]>>(include: &[P], exclude: &[P], lines: &[usize]) -> Result<Self, PatternError> {
        let include = if include.is_empty() { None } else { Some(Matcher::new(include)?) };
        Ok(Self {
            include: include.filter(|m| !m.is_empty()),
            exclude: Matcher::new(exclude)?,
            exclude_texts: exclude.iter().map(|p| String::from_utf8_lossy(p.as_ref()).into_owned()).collect(),
            exclude_lines: lines.to_vec(),
        })
    }

    /// Whether it chooses everything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.include.is_none() && self.exclude.is_empty()
    }

    /// Judges the directory `path`; `parent` is `None` at the top.
    #[must_use]
    pub fn enter(&self, path: &[u8], parent: Option<&Inherited>) -> Verdict {
        let (included, include) = match &self.include {
            None => (true, None),
            Some(m) => {
                let (hit, state) = m.enter(path, parent.and_then(|p| p.include.as_ref()));
                (hit, Some(state))
            }
        };
        let (excluded, exclude) = self.exclude.enter(path, parent.map(|p| &p.exclude));
        let may_include = || self.include.as_ref().is_none_or(|m| m.may_match_below(path));
        let below = (included || may_include()) && (!excluded || self.exclude.may_except_below(path));
        Verdict { itself: included && !excluded, below, inherited: Inherited { include, exclude } }
    }

    /// Whether `path`, which is no directory, is chosen.
    #[must_use]
    pub fn takes(&self, path: &[u8], parent: Option<&Inherited>) -> bool {
        self.include.as_ref().is_none_or(|m| m.matches_in(path, parent.and_then(|p| p.include.as_ref())))
            && !self.exclude.matches_in(path, parent.map(|p| &p.exclude))
    }

    /// The exclude pattern that hides `path`, by itself or through a parent.
    #[must_use]
    pub fn excluded_by(&self, path: &[u8]) -> Option<Exclusion> {
        let index = self.exclude.deciding(path)?;
        Some(Exclusion {
            pattern: self.exclude_texts.get(index).cloned().unwrap_or_default(),
            index,
            line: self.exclude_lines.get(index).copied(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(include: &[&str], exclude: &[&str]) -> PathFilter {
        let own = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        PathFilter::new(&own(include), &own(exclude), &[10, 20, 30]).expect("valid patterns")
    }

    #[test]
    fn a9_03_excluded_directories_are_pruned_unless_an_exception_may_be_inside() {
        let f = filter(&[], &["node_modules", "docs", "!docs/README.md"]);
        let node = f.enter(b"node_modules", None);
        assert!(!node.itself && !node.below);
        let docs = f.enter(b"docs", None);
        assert!(!docs.itself && docs.below);
        assert!(f.takes(b"docs/README.md", Some(&docs.inherited)));
        assert!(!f.takes(b"docs/x", Some(&docs.inherited)));
        let src = f.enter(b"src", None);
        assert!(src.itself && src.below);
    }

    #[test]
    fn a9_06_includes_choose_what_is_followed() {
        let f = filter(&["a/b", "c/*.txt"], &["**/skip"]);
        let a = f.enter(b"a", None);
        assert!(!a.itself && a.below);
        let ab = f.enter(b"a/b", Some(&a.inherited));
        assert!(ab.itself);
        assert!(f.takes(b"a/b/x", Some(&ab.inherited)) && !f.takes(b"a/b/skip", Some(&ab.inherited)));
        assert!(!f.takes(b"a/x", Some(&a.inherited)));
        let z = f.enter(b"z", None);
        assert!(!z.itself && !z.below);
    }

    #[test]
    fn names_the_pattern_and_its_line() {
        let f = filter(&[], &["*.log", "!keep.log", "tmp"]);
        let by = f.excluded_by(b"tmp/x").expect("it is excluded");
        assert_eq!((by.pattern.as_str(), by.index, by.line), ("tmp", 2, Some(30)));
        assert_eq!(f.excluded_by(b"keep.log"), None);
    }
}
