//! The tree index: what a layer contains, without the layer.

use std::path::{Path, PathBuf};

use super::entry::Entry;
use super::error::ArchiveError;
use crate::base::Digest;

/// One entry of an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexEntry {
    /// The entry as it stands in the tar.
    pub entry: Entry,
    /// sha256 of a file's content (of the linked file's, for a hard link inside the layer).
    pub digest: Option<Digest>,
    /// Where its first header starts in the tar.
    pub offset: u64,
    /// Where its content starts in the tar.
    pub data_offset: u64,
}

/// Sorted entries of one layer, kept compactly.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TreeIndex {
    data: Vec<u8>,
    starts: Vec<u32>,
}

impl TreeIndex {
    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    /// Whether the layer changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// The entry at `path`.
    #[must_use]
    pub fn lookup(&self, _path: &Path) -> Option<IndexEntry> {
        todo!()
    }

    /// All entries in order of their paths.
    pub fn iter(&self) -> impl Iterator<Item = IndexEntry> + '_ {
        std::iter::empty()
    }

    /// The entries below (not at) `dir`.
    pub fn below(&self, _dir: &Path) -> impl Iterator<Item = IndexEntry> + '_ {
        std::iter::empty()
    }

    /// The bytes to store.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        todo!()
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote.
    ///
    /// # Errors
    /// Another version, or damage.
    pub fn from_bytes(_bytes: &[u8]) -> Result<Self, ArchiveError> {
        todo!()
    }
}

/// Several indexes seen as one file system, bottom first.
pub struct MergedIndex<'a> {
    layers: Vec<&'a TreeIndex>,
}

impl<'a> MergedIndex<'a> {
    /// Over `layers`, bottom first.
    #[must_use]
    pub fn new(layers: impl IntoIterator<Item = &'a TreeIndex>) -> Self {
        Self { layers: layers.into_iter().collect() }
    }

    /// What the file system has at exactly `path` (symlinks are not followed); `None` if nothing, or deleted.
    #[must_use]
    pub fn lookup(&self, _path: &Path) -> Option<IndexEntry> {
        let _ = &self.layers;
        todo!()
    }

    /// Follows symlinks inside the file system; the real path and its entry (`None` entry for a directory that no layer
    /// names, or the root).
    #[must_use]
    pub fn resolve(&self, _path: &Path) -> Option<(PathBuf, Option<IndexEntry>)> {
        todo!()
    }

    /// Names directly inside `dir`.
    #[must_use]
    pub fn children(&self, _dir: &Path) -> Vec<IndexEntry> {
        todo!()
    }
}
