//! Content of files that goes into a tar, read later and by whichever thread builds the block.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::buffer::spare_capacity;
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use super::error::ArchiveError;

/// Opens a file when its turn has come.
pub type Opener = Box<dyn FnOnce() -> io::Result<File> + Send>;

/// A block as it will be: headers, and whose content follows them.
#[derive(Default)]
pub(super) struct Recipe {
    /// Everything that is known already.
    pub(super) bytes: Vec<u8>,
    pub(super) parts: Vec<Part>,
    /// Length of the block.
    pub(super) length: usize,
}

pub(super) enum Part {
    /// The next bytes of [`Recipe::bytes`].
    Bytes(usize),
    /// A whole file.
    File { open: Opener, size: usize, path: PathBuf, entry: usize },
    /// A piece of a large one.
    Piece { file: Arc<File>, offset: u64, size: usize, path: Arc<PathBuf>, entry: usize, last: bool },
    /// Zeros.
    Padding(usize),
}

/// A piece of a large file inside a block: its digest needs the pieces in order.
pub(super) struct Span {
    pub(super) range: Range<usize>,
    pub(super) entry: usize,
    pub(super) last: bool,
}

/// What became known while a block was built.
#[derive(Default)]
pub(super) struct Built {
    /// Digests of whole files, by the numbers of their entries.
    pub(super) digests: Vec<EntryDigest>,
    pub(super) spans: Vec<Span>,
}

/// The number of an entry, and the sha256 of its content.
pub(super) type EntryDigest = (usize, [u8; 32]);

impl Recipe {
    /// Notes that `bytes` has grown by `count`.
    pub(super) fn grown(&mut self, count: usize) {
        self.length += count;
        match self.parts.last_mut() {
            Some(Part::Bytes(last)) => *last += count,
            _ => self.parts.push(Part::Bytes(count)),
        }
    }

    pub(super) fn push(&mut self, part: Part) {
        self.length += match &part {
            Part::Bytes(size) | Part::Padding(size) => *size,
            Part::File { size, .. } | Part::Piece { size, .. } => *size,
        };
        self.parts.push(part);
    }

    /// Forgets everything, but keeps the memory.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.parts.clear();
        self.length = 0;
    }

    /// Reads what is missing into `raw`, which is replaced.
    pub(super) fn build(&mut self, raw: &mut Vec<u8>) -> Result<Built, ArchiveError> {
        let mut built = Built::default();
        raw.clear();
        raw.reserve(self.length + 1);
        let mut taken = 0;
        for part in self.parts.drain(..) {
            let at = raw.len();
            match part {
                Part::Bytes(count) => {
                    raw.extend_from_slice(&self.bytes[taken..taken + count]);
                    taken += count;
                }
                Part::Padding(count) => raw.resize(at + count, 0),
                Part::File { open, size, path, entry } => {
                    let file = open().map_err(|e| ArchiveError::io("open", &path, e))?;
                    // One more byte than there should be: so a file that has grown is noticed without asking.
                    let found = append(&file, raw, size, &path)?;
                    if found != size {
                        return Err(ArchiveError::Changed { path, expected: size as u64, found: found as u64 });
                    }
                    built.digests.push((entry, Sha256::digest(&raw[at..]).into()));
                }
                Part::Piece { file, offset, size, path, entry, last } => {
                    raw.resize(at + size, 0);
                    let found = read(&file, offset, &mut raw[at..], &path)?;
                    if found != size {
                        let (expected, found) = (offset + size as u64, offset + found as u64);
                        return Err(ArchiveError::Changed { path: path.to_path_buf(), expected, found });
                    }
                    built.spans.push(Span { range: at..at + size, entry, last });
                }
            }
        }
        Ok(built)
    }
}

/// Appends a file that should have `size` bytes and tells how many it has, or at least how many more than that. Writes to
/// memory that was not filled with zeros before: for small files that would cost as much as reading them.
fn append(file: &File, out: &mut Vec<u8>, size: usize, path: &Path) -> Result<usize, ArchiveError> {
    let start = out.len();
    // Room for one more byte than there should be: so a file that has grown is noticed without asking.
    out.reserve(size + 1);
    loop {
        let done = out.len() - start;
        match rustix::io::pread(file, spare_capacity(out), done as u64) {
            Ok(0) => return Ok(done),
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(e) => return Err(ArchiveError::io("read", path, e)),
        }
        let done = out.len() - start;
        // A file gives less than it was asked for at its end only.
        if done >= size || at_end(file, done as u64, path)? {
            return Ok(done);
        }
    }
}

fn at_end(file: &File, offset: u64, path: &Path) -> Result<bool, ArchiveError> {
    Ok(file.metadata().map_err(|e| ArchiveError::io("inspect", path, e))?.len() <= offset)
}

/// Reads as much as fits into `out`, or less at the end of the file.
fn read(file: &File, offset: u64, out: &mut [u8], path: &Path) -> Result<usize, ArchiveError> {
    let mut done = 0;
    loop {
        match file.read_at(&mut out[done..], offset + done as u64) {
            Ok(count) => done += count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(ArchiveError::io("read", path, e)),
        }
        if done == out.len() || at_end(file, offset + done as u64, path)? {
            return Ok(done);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_whole_file_is_appended_and_one_of_another_size_noticed() {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(b"0123456789").expect("writes");
        for (size, found) in [(10, 10), (12, 10)] {
            let mut out = b"before".to_vec();
            assert_eq!(append(&file, &mut out, size, Path::new("f")).expect("reads"), found);
            assert_eq!(out, b"before0123456789");
        }
        let mut out = Vec::new();
        assert!(append(&file, &mut out, 9, Path::new("f")).expect("reads") > 9, "it has grown");
        let mut empty = Vec::new();
        assert_eq!(append(&tempfile::tempfile().expect("a file"), &mut empty, 5, Path::new("f")).expect("reads"), 0);
    }
}
