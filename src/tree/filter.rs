//! Which paths of a build context exist as far as a build is concerned (SPEC A9, C2.06).

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

/// Include and exclude patterns of a context.
#[derive(Debug)]
pub struct PathFilter {}
