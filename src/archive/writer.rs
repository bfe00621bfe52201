//! Writing a layer in one pass.
//!
//! ```text
//! append ── file content ─┬─> content digest ─> TreeIndex
//!                         └─> tar block ─┬─> diff ID           (one thread)
//!                                        └─> compressed block  (several threads)
//!                                                └─ in order ─> blob digest ─> sink
//! ```

use std::io::{self, Read, Write};
use std::path::PathBuf;

use sha2::{Digest as _, Sha256};

use super::block::{Cutter, MAX_BLOCK, Method, Trailer};
use super::entry::{Entry, EntryKind, Timestamp, clean_path};
use super::error::ArchiveError;
use super::header;
use super::index::{IndexBuilder, TreeIndex};
use super::pipeline::{Done, Pipeline};
use crate::base::{DiffId, Digest, DigestWriter};
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

impl Default for LayerOptions {
    fn default() -> Self {
        Self { codec: Codec::default(), level: None, epoch: None, threads: 1 }
    }
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

/// Changes to every entry of a tar that is no layer but an output of files (SPEC B3.02).
#[derive(Debug, Clone, Default)]
pub struct Relocation {
    /// Directory to put everything into; empty for none.
    pub prefix: PathBuf,
    /// The modification time of every entry.
    pub mtime: Option<Timestamp>,
}

/// Writes one layer: tar, diff ID, tree index, compression and blob digest in one pass with bounded memory.
pub struct LayerWriter<W: Write + Send> {
    output: Output<W>,
    pipeline: Pipeline,
    method: Method,
    epoch: Option<i64>,
    relocation: Option<Relocation>,
    cutter: Cutter,
    /// The block being filled.
    block: Vec<u8>,
    /// Bytes of tar before `block`.
    flushed: u64,
    index: IndexBuilder,
}

impl Relocation {
    fn apply(&self, entry: &Entry) -> Entry {
        let mut moved = entry.clone();
        if !self.prefix.as_os_str().is_empty() {
            // Joining an empty path would leave a slash at the end.
            moved.path =
                if entry.path.as_os_str().is_empty() { self.prefix.clone() } else { self.prefix.join(&entry.path) };
            if entry.kind == EntryKind::Hardlink {
                moved.link = self.prefix.join(&entry.link);
            }
        }
        moved.mtime = self.mtime.unwrap_or(entry.mtime);
        moved
    }
}

struct Output<W> {
    blob: DigestWriter<W>,
    trailer: Trailer,
}

impl<W: Write> Output<W> {
    fn deliver(&mut self, done: &Done) -> io::Result<()> {
        self.trailer.add(&done.sum);
        self.blob.write_all(&done.bytes)
    }
}

impl<W: Write + Send> LayerWriter<W> {
    /// Starts a layer that goes to `sink`.
    ///
    /// # Errors
    /// A level the codec does not have; the sink's.
    pub fn new(sink: W, options: &LayerOptions) -> Result<Self, ArchiveError> {
        let method = Method::new(options.codec, options.level)?;
        let mut pipeline = Pipeline::new(method, options.threads).map_err(ArchiveError::Sink)?;
        let mut blob = DigestWriter::new(sink);
        blob.write_all(method.head()).map_err(ArchiveError::Sink)?;
        Ok(Self {
            output: Output { blob, trailer: Trailer::new(method) },
            block: pipeline.buffer(),
            pipeline,
            method,
            epoch: options.epoch,
            relocation: None,
            cutter: Cutter::default(),
            flushed: 0,
            index: IndexBuilder::default(),
        })
    }

    /// Changes the entries that follow.
    pub fn relocate(&mut self, relocation: Relocation) {
        self.relocation = Some(relocation);
    }

    /// Adds an entry; `content` must yield at least `entry.size` bytes for a file that is not empty.
    ///
    /// # Errors
    /// The sink's, the content's, or an entry that a tar cannot hold.
    pub fn append(&mut self, entry: &Entry, content: Option<&mut dyn Read>) -> Result<(), ArchiveError> {
        // Compared as bytes: `Path` takes `a//b` and `a/b` for equal.
        let clean = clean_path(entry.path.as_os_str().as_encoded_bytes());
        if clean.is_none_or(|clean| clean.as_os_str() != entry.path.as_os_str())
            || (entry.path.as_os_str().is_empty() && entry.kind != EntryKind::Dir)
        {
            return Err(ArchiveError::refused(&entry.path, "not a relative path without \"..\""));
        }
        if let Some(relocation) = &self.relocation {
            let moved = relocation.apply(entry);
            return self.append_clamped(&moved, content);
        }
        let newest = self.epoch.map(Timestamp::seconds);
        if let Some(epoch) = newest.filter(|epoch| entry.mtime > *epoch) {
            let clamped = Entry { mtime: epoch, ..entry.clone() };
            return self.append_clamped(&clamped, content);
        }
        self.append_clamped(entry, content)
    }

    fn append_clamped(&mut self, entry: &Entry, content: Option<&mut dyn Read>) -> Result<(), ArchiveError> {
        let start = self.block.len();
        header::encode(entry, &mut self.block);
        if entry.opaque && entry.kind == EntryKind::Dir {
            header::encode(&header::opaque_marker(entry), &mut self.block);
        }
        let size = if entry.kind == EntryKind::File { entry.size } else { 0 };
        let headers = self.block.len() - start;
        let whole = headers as u64 + size + header::padding(size) as u64;
        if self.cutter.before(start, whole) {
            let mut next = self.pipeline.buffer();
            next.extend_from_slice(&self.block[start..]);
            self.block.truncate(start);
            let full = std::mem::replace(&mut self.block, next);
            self.ship(full)?;
        }
        let data_offset = self.flushed + self.block.len() as u64;
        let digest = if entry.kind == EntryKind::File { Some(self.content(entry, size, content)?) } else { None };
        self.index.push(entry, digest, data_offset - headers as u64, data_offset);
        if self.cutter.after(self.block.len(), whole, entry.path.as_os_str().as_encoded_bytes()) {
            self.cut()?;
        }
        Ok(())
    }

    /// Copies `size` bytes and their padding; gives their digest.
    fn content(
        &mut self,
        entry: &Entry,
        size: u64,
        mut content: Option<&mut dyn Read>,
    ) -> Result<[u8; 32], ArchiveError> {
        let mut hasher = Sha256::new();
        let mut left = size;
        while left > 0 {
            if self.block.len() >= MAX_BLOCK {
                self.cut()?;
            }
            let at = self.block.len();
            let room = ((MAX_BLOCK - at) as u64).min(left);
            let read = match &mut content {
                Some(reader) => reader
                    .by_ref()
                    .take(room)
                    .read_to_end(&mut self.block)
                    .map_err(|e| ArchiveError::io("read", &entry.path, e))?,
                None => 0,
            };
            if read == 0 {
                return Err(ArchiveError::Changed { path: entry.path.clone(), expected: size, found: size - left });
            }
            hasher.update(&self.block[at..]);
            left -= read as u64;
        }
        let padded = self.block.len() + header::padding(size);
        self.block.resize(padded, 0);
        Ok(hasher.finalize().into())
    }

    /// Ends the block being filled.
    fn cut(&mut self) -> Result<(), ArchiveError> {
        let next = self.pipeline.buffer();
        let full = std::mem::replace(&mut self.block, next);
        self.ship(full)
    }

    fn ship(&mut self, block: Vec<u8>) -> Result<(), ArchiveError> {
        self.flushed += block.len() as u64;
        let output = &mut self.output;
        self.pipeline.push(block, &mut |done| output.deliver(done)).map_err(ArchiveError::Sink)
    }

    /// Ends the layer.
    ///
    /// # Errors
    /// The sink's.
    pub fn finish(mut self) -> Result<(W, LayerSummary), ArchiveError> {
        let end = self.block.len() + 2 * header::BLOCK;
        self.block.resize(end, 0);
        let last = std::mem::take(&mut self.block);
        self.ship(last)?;
        let Self { mut output, pipeline, .. } = self;
        let diff_id = pipeline.finish(&mut |done| output.deliver(done)).map_err(ArchiveError::Sink)?;
        let Output { mut blob, trailer } = output;
        blob.write_all(&trailer.finish()).and_then(|()| blob.flush()).map_err(ArchiveError::Sink)?;
        let (sink, digest, size) = blob.finish();
        let summary = LayerSummary {
            diff_id,
            tar_size: self.flushed,
            blob: digest,
            size,
            codec: self.method.codec(),
            index: self.index.finish(),
        };
        Ok((sink, summary))
    }
}
