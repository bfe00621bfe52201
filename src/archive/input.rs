//! The byte stream a tar is read from: buffered, counted, hashed to its end.

use std::io::{self, Read};

use super::error::ArchiveError;
use crate::base::digest::Hasher;
use crate::base::{DiffId, Digest};

const BUFFER: usize = 256 << 10;

/// A counted and (if wanted) hashed stream.
pub(super) struct Input<'a> {
    inner: &'a mut dyn Read,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Bytes handed out.
    position: u64,
    limit: u64,
    hasher: Option<Hasher>,
}

impl<'a> Input<'a> {
    pub(super) fn new(inner: &'a mut dyn Read, hash: bool, limit: u64) -> Self {
        Self {
            inner,
            buffer: vec![0; BUFFER],
            start: 0,
            end: 0,
            position: 0,
            limit,
            hasher: hash.then(Hasher::default),
        }
    }

    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// The next bytes, at least one unless the stream ends, at most `limit`.
    pub(super) fn chunk(&mut self, limit: u64) -> Result<&[u8], ArchiveError> {
        if self.start == self.end {
            self.fill()?;
        }
        let count = usize::try_from(limit).unwrap_or(usize::MAX).min(self.end - self.start);
        let from = self.start;
        self.start += count;
        self.position += count as u64;
        Ok(&self.buffer[from..from + count])
    }

    fn fill(&mut self) -> Result<(), ArchiveError> {
        (self.start, self.end) = (0, 0);
        // Filled as far as it goes: decompressors give small pieces, and hashing wants large ones.
        while self.end < self.buffer.len() {
            match self.inner.read(&mut self.buffer[self.end..]) {
                Ok(0) => break,
                Ok(count) => self.end += count,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(ArchiveError::Source(e)),
            }
        }
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&self.buffer[..self.end]);
        }
        if self.position + self.end as u64 > self.limit {
            let text = format!("the archive is larger than {} bytes (unpack.max-size in rbuild.toml)", self.limit);
            return Err(self.malformed(text));
        }
        Ok(())
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

    /// Reads to the end of the stream; the digest of all of it and its length.
    pub(super) fn drain(&mut self) -> Result<(DiffId, u64), ArchiveError> {
        while !self.chunk(u64::MAX)?.is_empty() {}
        let digest = self.hasher.take().map_or_else(|| Digest::sha256(b""), Hasher::finish);
        Ok((DiffId(digest), self.position))
    }

    pub(super) fn malformed(&self, reason: impl Into<String>) -> ArchiveError {
        ArchiveError::Malformed { offset: self.position, reason: reason.into() }
    }
}
