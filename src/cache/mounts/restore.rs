//! Packs to a mount's directory.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::chunk::MAX_CHUNK;
use super::document::{Chunk, ChunkHash, Document, SavedMount, Site, numbers};
use crate::archive::{ArchiveError, Note, extract_plain};
use crate::base::Digest;

/// Fills the empty directory `dir` with a mount. `open` opens the packs, which need not be trusted.
///
/// # Errors
/// A pack that is not what the document says, a hostile stream, or the file system's; some of it may be there then.
pub fn restore(
    document: &Document,
    mount: &SavedMount,
    dir: &Path,
    open: &dyn Fn(&Digest) -> io::Result<File>,
) -> Result<Vec<Note>, ArchiveError> {
    let sites = document.sites();
    let files = document.packs.iter().map(|_| None).collect();
    let mut stream = Stream {
        document,
        chunks: numbers(mount).filter_map(|n| sites.get(n).cloned()).collect::<Vec<_>>().into_iter(),
        open,
        files,
        decoder: zstd::bulk::Decompressor::new().map_err(ArchiveError::Source)?,
        frame: Vec::new(),
        plain: Vec::new(),
        at: 0,
    };
    extract_plain(&mut stream, dir)
}

/// The chunks of a mount, one after the other.
struct Stream<'a> {
    document: &'a Document,
    chunks: std::vec::IntoIter<(Chunk, Site)>,
    open: &'a dyn Fn(&Digest) -> io::Result<File>,
    files: Vec<Option<File>>,
    decoder: zstd::bulk::Decompressor<'static>,
    frame: Vec<u8>,
    plain: Vec<u8>,
    at: usize,
}

impl Stream<'_> {
    fn fill(&mut self, (chunk, (pack, range)): (Chunk, Site)) -> io::Result<()> {
        let file = match &mut self.files[pack] {
            Some(file) => file,
            empty => empty.insert((self.open)(&self.document.packs[pack].digest)?),
        };
        self.frame.resize(chunk.stored as usize, 0);
        file.read_exact_at(&mut self.frame, range.start)?;
        self.plain = self.decoder.decompress(&self.frame, MAX_CHUNK)?;
        self.at = 0;
        if self.plain.len() != chunk.length as usize || ChunkHash::of(&self.plain) != chunk.hash {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a chunk is not what its list says"));
        }
        Ok(())
    }
}

impl Read for Stream<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.at == self.plain.len() {
            let Some(next) = self.chunks.next() else { return Ok(0) };
            self.fill(next)?;
        }
        let count = out.len().min(self.plain.len() - self.at);
        out[..count].copy_from_slice(&self.plain[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}
