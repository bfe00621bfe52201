//! The byte stream a tar is read from: buffered, counted, hashed to its end.

use std::io::{self, BufRead, Read};

use super::error::ArchiveError;
use crate::base::digest::Hasher;
use crate::base::{DiffId, Digest};

const BUFFER: usize = 256 << 10;

/// Where the bytes of a tar come from, in large pieces.
pub trait TarStream: BufRead {
    /// The digest of all bytes, once the end was reached; `None` before, or if nobody asked for one.
    fn digest(&self) -> Option<Digest>;
}

/// A stream that is read, and hashed if that is wanted, where it is used.
pub struct Buffered<R> {
    inner: R,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    hasher: Option<Hasher>,
    digest: Option<Digest>,
}

impl<R: Read> Buffered<R> {
    /// Nobody needs the digest.
    pub fn new(inner: R) -> Self {
        Self { inner, buffer: vec![0; BUFFER], start: 0, end: 0, hasher: None, digest: None }
    }

    /// The digest is needed.
    pub fn hashed(inner: R) -> Self {
        Self { hasher: Some(Hasher::default()), ..Self::new(inner) }
    }
}

impl<R: Read> BufRead for Buffered<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            // Filled as far as it goes: decompressors give small pieces, and hashing wants large ones.
            while self.end < self.buffer.len() {
                match self.inner.read(&mut self.buffer[self.end..]) {
                    Ok(0) => break,
                    Ok(count) => self.end += count,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(e),
                }
            }
            if self.end == 0 {
                self.digest = self.hasher.take().map(Hasher::finish).or(self.digest.take());
            } else if let Some(hasher) = &mut self.hasher {
                hasher.update(&self.buffer[..self.end]);
            }
        }
        Ok(&self.buffer[self.start..self.end])
    }

    fn consume(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
    }
}

impl<R: Read> Read for Buffered<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(out)?;
        self.consume(count);
        Ok(count)
    }
}

impl<R: Read> TarStream for Buffered<R> {
    fn digest(&self) -> Option<Digest> {
        self.digest.clone()
    }
}

/// A counted stream.
pub(super) struct Input<'a> {
    inner: &'a mut dyn TarStream,
    /// Bytes handed out that the stream does not know of yet.
    taken: usize,
    /// Bytes handed out.
    position: u64,
    limit: u64,
}

impl<'a> Input<'a> {
    pub(super) fn new(inner: &'a mut dyn TarStream, limit: u64) -> Self {
        Self { inner, taken: 0, position: 0, limit }
    }

    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// The next bytes, at least one unless the stream ends, at most `limit`.
    pub(super) fn chunk(&mut self, limit: u64) -> Result<&[u8], ArchiveError> {
        self.inner.consume(std::mem::take(&mut self.taken));
        let there = self.inner.fill_buf().map_err(ArchiveError::Source)?;
        if self.position + there.len() as u64 > self.limit {
            let text = format!("the archive is larger than {} bytes (unpack.max-size in rbuild.toml)", self.limit);
            return Err(ArchiveError::Malformed { offset: self.position, reason: text });
        }
        let count = usize::try_from(limit).unwrap_or(usize::MAX).min(there.len());
        self.taken = count;
        self.position += count as u64;
        Ok(&there[..count])
    }

    /// Fills `out`; gives the number of bytes that were left, which is less only at the end of the stream.
    pub(super) fn read_full(&mut self, out: &mut [u8]) -> Result<usize, ArchiveError> {
        let mut filled = 0;
        while filled < out.len() {
            let piece = self.chunk((out.len() - filled) as u64)?;
            if piece.is_empty() {
                break;
            }
            out[filled..filled + piece.len()].copy_from_slice(piece);
            filled += piece.len();
        }
        Ok(filled)
    }

    pub(super) fn skip(&mut self, mut count: u64) -> Result<(), ArchiveError> {
        while count > 0 {
            let piece = self.chunk(count)?.len() as u64;
            if piece == 0 {
                return Err(self.malformed("unexpected end of the archive"));
            }
            count -= piece;
        }
        Ok(())
    }

    /// Reads to the end of the stream; its digest, if somebody made one, and its length.
    pub(super) fn drain(&mut self) -> Result<(Option<DiffId>, u64), ArchiveError> {
        while !self.chunk(u64::MAX)?.is_empty() {}
        Ok((self.inner.digest().map(DiffId), self.position))
    }

    pub(super) fn malformed(&self, reason: impl Into<String>) -> ArchiveError {
        ArchiveError::Malformed { offset: self.position, reason: reason.into() }
    }
}
