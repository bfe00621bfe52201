//! Cutting a stream where its content says so: an insertion changes the chunks around it and no others.

use std::io::{self, Write};

use fastcdc::v2020::FastCDC;

/// Bytes of the smallest chunk but the last.
const MIN_CHUNK: usize = 16 << 10;
/// Bytes of most chunks, about.
const AVERAGE_CHUNK: usize = 64 << 10;
/// Bytes of the largest chunk.
pub const MAX_CHUNK: usize = 256 << 10;
/// Bytes collected before they are cut.
const BUFFER: usize = 8 * MAX_CHUNK;

/// Hands what is written to `visit`, chunk by chunk.
pub struct Chunker<F> {
    buffer: Vec<u8>,
    visit: F,
}

impl<F: FnMut(&[u8]) -> io::Result<()>> Chunker<F> {
    /// A chunker with nothing written yet.
    pub fn new(visit: F) -> Self {
        Self { buffer: Vec::with_capacity(BUFFER), visit }
    }

    /// Cuts what is certain: where at least the largest chunk follows, or everything `at_end`.
    fn cut(&mut self, at_end: bool) -> io::Result<()> {
        let cutter = FastCDC::new(&self.buffer, MIN_CHUNK, AVERAGE_CHUNK, MAX_CHUNK);
        let mut start = 0;
        while self.buffer.len() - start >= if at_end { 1 } else { MAX_CHUNK } {
            let (_, end) = cutter.cut(start, self.buffer.len() - start);
            (self.visit)(&self.buffer[start..end])?;
            start = end;
        }
        self.buffer.drain(..start);
        Ok(())
    }

    /// Hands over the rest.
    ///
    /// # Errors
    /// What `visit` says.
    pub fn finish(mut self) -> io::Result<()> {
        self.cut(true)
    }
}

impl<F: FnMut(&[u8]) -> io::Result<()>> Write for Chunker<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(BUFFER - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        if self.buffer.len() == BUFFER {
            self.cut(false)?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
