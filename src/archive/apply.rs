//! Extracting a layer into a directory.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::error::ArchiveError;
use super::extract::Note;
use super::index::TreeIndex;
use crate::base::DiffId;

/// How a directory says what it deletes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// One layer: deletions are devices `c 0:0`, opaque directories carry `user.overlay.opaque=y`.
    Overlay,
    /// A full plain tree; deletions are carried out.
    Native,
}

/// Limits for [`apply`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ApplyOptions {
    /// Refuse a tar stream longer than this.
    pub max_tar_size: Option<u64>,
}

/// What was extracted.
#[derive(Debug, Clone)]
pub struct ApplySummary {
    /// Digest of all bytes read, to the end of the stream.
    pub diff_id: DiffId,
    /// How many bytes.
    pub tar_size: u64,
    /// The layer's entries.
    pub index: TreeIndex,
    /// What could not be done exactly.
    pub notes: Vec<Note>,
}

/// Extracts the layer `tar` (not compressed) into `target`.
///
/// With [`Dialect::Overlay`], `lowers` (bottom first) are the directories below: parents that the tar does not name get their
/// owner and mode from there, symlinked parents are resolved through them, hard links to their files become copies.
///
/// # Errors
/// A damaged or hostile archive, or the file system's.
pub fn apply(
    _tar: &mut dyn Read,
    _target: &Path,
    _dialect: Dialect,
    _lowers: &[PathBuf],
    _options: &ApplyOptions,
) -> Result<ApplySummary, ArchiveError> {
    todo!()
}
