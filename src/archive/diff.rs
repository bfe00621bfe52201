//! Computing a layer from directories.

use std::io::Write;
use std::path::{Path, PathBuf};

use super::entry::Timestamp;
use super::error::ArchiveError;
use super::extract::Note;
use super::writer::LayerWriter;

/// What a diff found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DiffStats {
    /// Entries written, deletions included.
    pub entries: u64,
    /// Deletions among them.
    pub whiteouts: u64,
    /// Bytes of file content written.
    pub bytes: u64,
    /// Entries of the upper or new tree that turned out equal to the parent's.
    pub unchanged: u64,
    /// What could not be put into the layer.
    pub notes: Vec<Note>,
}

/// What the caller knows about two trees.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TreeHints {
    /// `new` was made as a copy of `old`, and nobody touched it before this moment (of the file system's own clock, read from
    /// the change time of a file made after the copy was complete): what has an earlier change time is still the copy.
    pub untouched_before: Option<Timestamp>,
}

/// Writes what `upper` changes on top of `lowers` (bottom first, overlay dialect). Costs what the upper holds.
///
/// # Errors
/// Reading the directories or writing the layer failed.
pub fn diff_overlay<W: Write + Send>(
    _upper: &Path,
    _lowers: &[PathBuf],
    _out: &mut LayerWriter<W>,
) -> Result<DiffStats, ArchiveError> {
    todo!()
}

/// Writes what turns `old` (nothing: an empty tree) into `new`, both plain trees.
///
/// # Errors
/// Reading the directories or writing the layer failed.
pub fn diff_trees<W: Write + Send>(
    old: Option<&Path>,
    new: &Path,
    out: &mut LayerWriter<W>,
) -> Result<DiffStats, ArchiveError> {
    diff_trees_with(old, new, &TreeHints::default(), out)
}

/// [`diff_trees`] with hints that spare reading contents.
///
/// # Errors
/// As [`diff_trees`].
pub fn diff_trees_with<W: Write + Send>(
    _old: Option<&Path>,
    _new: &Path,
    _hints: &TreeHints,
    _out: &mut LayerWriter<W>,
) -> Result<DiffStats, ArchiveError> {
    todo!()
}
