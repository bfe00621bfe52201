//! Writing a layer in one pass.

use std::io::{Read, Write};

use super::entry::Entry;
use super::error::ArchiveError;
use super::index::TreeIndex;
use crate::base::{DiffId, Digest};
use crate::oci::media_type::Codec;

/// How a layer is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerOptions {
    /// Compression.
    pub codec: Codec,
    /// Compression level: gzip 0–9, zstd 0–22; `None` or -1 for the default.
    pub level: Option<i32>,
    /// Modification times later than this many seconds since 1970 are set to it (SPEC C6.09).
    pub epoch: Option<i64>,
    /// Threads that may work on it; never changes the bytes.
    pub threads: usize,
}

/// What was written.
#[derive(Debug, Clone)]
pub struct LayerSummary {
    /// Digest of the tar stream.
    pub diff_id: DiffId,
    /// Bytes of the tar stream.
    pub tar_size: u64,
    /// Digest of the blob.
    pub blob: Digest,
    /// Bytes of the blob.
    pub size: u64,
    /// How the blob is compressed.
    pub codec: Codec,
    /// The layer's entries.
    pub index: TreeIndex,
}

/// Writes one layer: tar, diff ID, tree index, compression and blob digest in one pass with bounded memory.
pub struct LayerWriter<W: Write + Send> {
    sink: W,
}

impl<W: Write + Send> LayerWriter<W> {
    /// Starts a layer that goes to `sink`.
    ///
    /// # Errors
    /// A level the codec does not have.
    pub fn new(sink: W, _options: &LayerOptions) -> Result<Self, ArchiveError> {
        Ok(Self { sink })
    }

    /// Adds an entry; `content` must yield at least `entry.size` bytes for a file that is not empty.
    ///
    /// # Errors
    /// The sink's, the content's, or an entry that a tar cannot hold.
    pub fn append(&mut self, _entry: &Entry, _content: Option<&mut dyn Read>) -> Result<(), ArchiveError> {
        todo!()
    }

    /// Ends the layer.
    ///
    /// # Errors
    /// The sink's.
    pub fn finish(self) -> Result<(W, LayerSummary), ArchiveError> {
        todo!()
    }
}
