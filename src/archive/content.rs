//! Content of files that goes into a tar, read later and by whichever thread builds the block.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

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
        raw.reserve(self.length);
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
                    // Room for one more byte than there should be: so a file that has grown is noticed without asking.
                    raw.resize(at + size + 1, 0);
                    let file = open().map_err(|e| ArchiveError::io("open", &path, e))?;
                    let found = read(&file, 0, &mut raw[at..], &path)?;
                    if found != size {
                        return Err(ArchiveError::Changed { path, expected: size as u64, found: found as u64 });
                    }
                    raw.truncate(at + size);
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

/// Reads as much as fits into `out`, or less at the end of the file.
fn read(file: &File, offset: u64, out: &mut [u8], path: &Path) -> Result<usize, ArchiveError> {
    let mut done = 0;
    loop {
        match file.read_at(&mut out[done..], offset + done as u64) {
            Ok(count) => done += count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(ArchiveError::io("read", path, e)),
        }
        // A file gives less than it was asked for at its end only, and a whole file was asked for one byte more.
        if done == out.len() || done + 1 >= out.len() {
            return Ok(done);
        }
        if file.metadata().map_err(|e| ArchiveError::io("inspect", path, e))?.len() <= offset + done as u64 {
            return Ok(done);
        }
    }
}
