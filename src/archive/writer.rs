//! Writing a layer in one pass.
//!
//! ```text
//! append ── recipe of a block ─> threads: file content ─┬─> content digest ─> TreeIndex
//!                                                       └─> tar block ─┬─> diff ID
//!                                                                      └─> compressed block, in order ─> blob digest ─> sink
//! ```
//!
//! Where blocks end is known from names and sizes, before any content was read: that is left to the threads of
//! [`super::pipeline`], and the caller only makes entries.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::block::{Cutter, MAX_BLOCK, Method, Trailer};
use super::content::{Opener, Part, Recipe};
use super::entry::{Entry, EntryKind, Timestamp, is_clean};
use super::error::ArchiveError;
use super::header;
use super::index::{IndexBuilder, TreeIndex};
use super::pipeline::{Done, Finished, Pipeline};
use super::reuse::{BlockSource, HashedPrefix, PackedBlock};
use crate::base::pieces::Position;
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
    /// Earlier ones are set to it, too (SPEC D3.04).
    pub earlier_too: bool,
    /// Threads that may work on it; never changes the bytes.
    pub threads: usize,
}

impl Default for LayerOptions {
    fn default() -> Self {
        Self { codec: Codec::default(), level: None, epoch: None, earlier_too: false, threads: 1 }
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
    /// The blob's blocks, if [`LayerWriter::reuse`] asked for their names.
    pub blocks: Vec<PackedBlock>,
    /// Where the hash of the tar stood behind the first of them, as far as they have names without being read.
    pub prefixes: Vec<HashedPrefix>,
}

/// Where the content of a file is.
pub enum Content<'a> {
    /// Read now.
    Reader(&'a mut dyn Read),
    /// Opened when its block is built, if it is smaller than a block; the path is for messages.
    File {
        /// Opens it.
        open: Opener,
        /// Its path.
        path: PathBuf,
        /// sha256 of the content, if that is known. It is a hint: what is read counts. But a file in a block that an earlier layer has,
        /// too, may not be read at all.
        digest: Option<[u8; 32]>,
    },
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
    earlier_too: bool,
    relocation: Option<Relocation>,
    /// Files larger than a block get no digest in the index.
    large_unhashed: bool,
    cutter: Cutter,
    /// The block being filled.
    block: Recipe,
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
    blocks: Vec<PackedBlock>,
}

impl<W: Write> Output<W> {
    fn deliver(&mut self, done: &Done, index: &mut IndexBuilder) -> io::Result<()> {
        self.trailer.add(done.sum);
        if let (Some(key), Ok(size)) = (done.key, u32::try_from(done.bytes.len())) {
            self.blocks.push(PackedBlock { key, offset: self.blob.written(), size, sum: done.sum });
        }
        for (entry, digest) in &done.digests {
            index.set_digest(*entry, digest);
        }
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
            output: Output { blob, trailer: Trailer::new(method), blocks: Vec::new() },
            block: pipeline.recipe(),
            pipeline,
            method,
            epoch: options.epoch,
            earlier_too: options.earlier_too,
            relocation: None,
            large_unhashed: false,
            cutter: Cutter::default(),
            flushed: 0,
            index: IndexBuilder::default(),
        })
    }

    /// Changes the entries that follow.
    pub fn relocate(&mut self, relocation: Relocation) {
        self.relocation = Some(relocation);
    }

    /// Takes compressed blocks from `source` where it has them, and names all of them in the summary. `digests` says that those of
    /// most files will be known: then the hash of the tar is taken from there, too, as far as it is the same.
    #[must_use]
    pub fn reuse(mut self, source: Arc<dyn BlockSource>, digests: bool) -> Self {
        if self.method.codec() != Codec::Uncompressed {
            self.pipeline.reuse(source, digests);
        }
        self
    }

    /// Leaves the digests of files larger than a block out of the index. Hashing them costs as much as the tar's own hash; who
    /// writes a layer from a directory has that to look into.
    #[must_use]
    pub fn without_large_digests(mut self) -> Self {
        self.large_unhashed = true;
        self
    }

    /// Adds an entry; `content` must yield at least `entry.size` bytes for a file that is not empty.
    ///
    /// # Errors
    /// The sink's, the content's, or an entry that a tar cannot hold.
    pub fn append(&mut self, entry: &Entry, content: Option<&mut dyn Read>) -> Result<(), ArchiveError> {
        self.append_content(entry, content.map(Content::Reader))
    }

    /// The same with content that is read later. What goes wrong then is told by a later call.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub fn append_content(&mut self, entry: &Entry, content: Option<Content<'_>>) -> Result<(), ArchiveError> {
        if !is_clean(entry.path.as_os_str().as_encoded_bytes())
            || (entry.path.as_os_str().is_empty() && entry.kind != EntryKind::Dir)
        {
            return Err(ArchiveError::refused(&entry.path, "not a relative path without \"..\""));
        }
        if let Some(relocation) = &self.relocation {
            let moved = relocation.apply(entry);
            return self.append_clamped(&moved, content);
        }
        let newest = self.epoch.map(Timestamp::seconds);
        let wrong = |epoch: &Timestamp| entry.mtime > *epoch || (self.earlier_too && entry.mtime != *epoch);
        if let Some(epoch) = newest.filter(wrong) {
            let clamped = Entry { mtime: epoch, ..entry.clone() };
            return self.append_clamped(&clamped, content);
        }
        self.append_clamped(entry, content)
    }

    fn append_clamped(&mut self, entry: &Entry, content: Option<Content<'_>>) -> Result<(), ArchiveError> {
        let start = self.block.bytes.len();
        header::encode(entry, &mut self.block.bytes);
        if entry.opaque && entry.kind == EntryKind::Dir {
            header::encode(&header::opaque_marker(entry), &mut self.block.bytes);
        }
        let size = if entry.kind == EntryKind::File { entry.size } else { 0 };
        let headers = self.block.bytes.len() - start;
        let whole = headers as u64 + size + header::padding(size) as u64;
        if self.cutter.before(self.block.length, whole) {
            let mut next = self.pipeline.recipe();
            next.bytes.extend_from_slice(&self.block.bytes[start..]);
            self.block.bytes.truncate(start);
            let full = std::mem::replace(&mut self.block, next);
            self.ship(full)?;
        }
        self.block.grown(headers);
        let data_offset = self.flushed + self.block.length as u64;
        let known = match &content {
            Some(Content::File { digest: Some(digest), .. }) if size > 0 && whole <= MAX_BLOCK as u64 => *digest,
            _ => EMPTY,
        };
        let large = matches!(&content, Some(Content::File { .. })) && whole > MAX_BLOCK as u64;
        let hashed = entry.kind == EntryKind::File && !(large && self.large_unhashed);
        let number = self.index.push(entry, hashed.then_some(known), data_offset - headers as u64, data_offset);
        match content {
            _ if size == 0 => {}
            Some(Content::File { open, path, digest }) if whole <= MAX_BLOCK as u64 => {
                // Less than a block fits into every usize.
                self.block.push(Part::File { open: Some(open), size: size as usize, path, entry: number, digest });
            }
            Some(Content::File { open, path, .. }) => self.pieces(open, path, size, hashed.then_some(number))?,
            Some(Content::Reader(reader)) => self.read(entry, size, reader, number)?,
            None => return Err(ArchiveError::Changed { path: entry.path.clone(), expected: size, found: 0 }),
        }
        match header::padding(size) {
            0 => {}
            padding => self.block.push(Part::Padding(padding)),
        }
        if self.cutter.after(self.block.length, whole, entry.path.as_os_str().as_encoded_bytes()) {
            self.cut()?;
        }
        Ok(())
    }

    /// Puts a large file into blocks of its own.
    fn pieces(&mut self, open: Opener, path: PathBuf, size: u64, entry: Option<Position>) -> Result<(), ArchiveError> {
        let file: Arc<File> = Arc::new(open().map_err(|e| ArchiveError::io("open", &path, e))?);
        let path = Arc::new(path);
        let mut offset = 0;
        while offset < size {
            if self.block.length >= MAX_BLOCK {
                self.cut()?;
            }
            let count = ((MAX_BLOCK - self.block.length) as u64).min(size - offset);
            let last = offset + count == size;
            let (file, path) = (Arc::clone(&file), Arc::clone(&path));
            self.block.push(Part::Piece { file, offset, size: count as usize, path, entry, last });
            offset += count;
        }
        Ok(())
    }

    /// Copies `size` bytes now.
    fn read(
        &mut self,
        entry: &Entry,
        size: u64,
        mut reader: &mut dyn Read,
        number: Position,
    ) -> Result<(), ArchiveError> {
        let mut hasher = Sha256::new();
        let mut left = size;
        while left > 0 {
            if self.block.length >= MAX_BLOCK {
                self.cut()?;
            }
            let room = ((MAX_BLOCK - self.block.length) as u64).min(left);
            let at = self.block.bytes.len();
            let read = Read::take(&mut reader, room)
                .read_to_end(&mut self.block.bytes)
                .map_err(|e| ArchiveError::io("read", &entry.path, e))?;
            if read == 0 {
                return Err(ArchiveError::Changed { path: entry.path.clone(), expected: size, found: size - left });
            }
            hasher.update(&self.block.bytes[at..]);
            self.block.grown(read);
            left -= read as u64;
        }
        self.index.set_digest(number, &hasher.finalize().into());
        Ok(())
    }

    /// Ends the block being filled.
    fn cut(&mut self) -> Result<(), ArchiveError> {
        let next = self.pipeline.recipe();
        let full = std::mem::replace(&mut self.block, next);
        self.ship(full)
    }

    fn ship(&mut self, block: Recipe) -> Result<(), ArchiveError> {
        self.flushed += block.length as u64;
        let (output, index) = (&mut self.output, &mut self.index);
        self.pipeline.push(block, &mut |done| output.deliver(done, index))
    }

    /// Ends the layer.
    ///
    /// # Errors
    /// The sink's.
    pub fn finish(mut self) -> Result<(W, LayerSummary), ArchiveError> {
        self.block.push(Part::Padding(2 * header::BLOCK));
        let last = std::mem::take(&mut self.block);
        self.ship(last)?;
        let Self { mut output, pipeline, mut index, .. } = self;
        let Finished { diff_id, digests, prefixes } = pipeline.finish(&mut |done| output.deliver(done, &mut index))?;
        let Output { mut blob, trailer, blocks } = output;
        for (entry, digest) in digests {
            index.set_digest(entry, &digest);
        }
        blob.write_all(&trailer.finish()).and_then(|()| blob.flush()).map_err(ArchiveError::Sink)?;
        let (sink, digest, size) = blob.finish();
        let summary = LayerSummary {
            diff_id,
            tar_size: self.flushed,
            blob: digest,
            size,
            codec: self.method.codec(),
            index: index.finish(),
            blocks,
            prefixes,
        };
        Ok((sink, summary))
    }
}

/// sha256 of nothing.
const EMPTY: [u8; 32] = [
    0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24, 0x27, 0xae, 0x41,
    0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55,
];
