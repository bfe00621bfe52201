//! Reading a blob while it is still being written.
//!
//! A reader reaches the end only when the blob is complete and its digest was found right: whoever read to the end has read
//! what the digest promises.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Open,
    Whole,
    Broken,
}

/// How far a blob is.
#[derive(Debug)]
pub(super) struct Growth {
    state: Mutex<(u64, End)>,
    changed: Condvar,
    /// Bytes that came, whether they are in the file or not.
    received: AtomicU64,
}

impl Growth {
    /// Of a blob that has `size` bytes so far.
    pub(super) fn new(size: u64) -> Self {
        Self { state: Mutex::new((size, End::Open)), changed: Condvar::new(), received: AtomicU64::new(size) }
    }

    /// So many bytes came.
    pub(super) fn received(&self, size: u64) {
        self.received.store(size, Ordering::Relaxed);
    }

    /// So many bytes are in the file.
    pub(super) fn reached(&self, size: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if size > state.0 {
            state.0 = size;
            self.changed.notify_all();
        }
    }

    /// The blob is what its digest says; or nothing more will come. The first word counts.
    pub(super) fn end(&self, whole: bool) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.1 == End::Open {
            state.1 = if whole { End::Whole } else { End::Broken };
            self.changed.notify_all();
        }
    }
}

/// Tells how far a blob is, without reading it.
#[derive(Debug, Clone)]
pub struct Written {
    pub(super) growth: Arc<Growth>,
}

impl Written {
    /// Bytes that came so far.
    #[must_use]
    pub fn so_far(&self) -> u64 {
        self.growth.received.load(Ordering::Relaxed)
    }

    /// Who reads along is told that nothing more will come; the blob itself goes on.
    pub fn unfollow(&self) {
        self.growth.end(false);
    }
}

/// Reads along.
#[derive(Debug)]
pub struct Following {
    pub(super) file: File,
    pub(super) at: u64,
    pub(super) growth: Arc<Growth>,
}

impl Read for Following {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut state = self.growth.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let (size, end) = *state;
            if size > self.at {
                drop(state);
                let most = usize::try_from(size - self.at).unwrap_or(usize::MAX).min(buffer.len());
                let count = self.file.read_at(&mut buffer[..most], self.at)?;
                self.at += count as u64;
                return Ok(count);
            }
            match end {
                End::Whole => return Ok(0),
                End::Broken => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it did not arrive")),
                End::Open => state = self.growth.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::base::Digest;
    use crate::store::testing::store;

    #[test]
    fn a_reader_waits_and_ends_only_when_the_digest_is_right() {
        let (_dir, store) = store();
        let content: Vec<u8> = (0..300_000_u32).map(|n| n as u8).collect();
        for right in [true, false] {
            let mut writer = store.blob_writer().expect("begins");
            writer.write_all(&content[..10]).expect("writes");
            let mut following = writer.follow().expect("opens");
            let reader = std::thread::spawn(move || {
                let mut read = Vec::new();
                following.read_to_end(&mut read).map(|_| read)
            });
            for piece in content[10..].chunks(7_001) {
                writer.write_all(piece).expect("writes");
            }
            let expected = if right { Digest::sha256(&content) } else { Digest::sha256("other") };
            assert_eq!(writer.commit(Some(&expected)).is_ok(), right);
            let read = reader.join().expect("no panic");
            assert_eq!(read.ok(), right.then(|| content.clone()));
        }
        let mut dropped = store.blob_writer().expect("begins");
        let mut following = dropped.follow().expect("opens");
        dropped.write_all(b"x").expect("writes");
        drop(dropped);
        assert!(following.read_to_end(&mut Vec::new()).is_err());
    }
}
