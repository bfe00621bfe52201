//! Content of files that goes into a tar, read later and by whichever thread builds the block.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::buffer::spare_capacity;
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use super::error::ArchiveError;
use super::reuse::BlockName;
use crate::base::pieces::Position;

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
    /// A whole file, and what its sha256 should be, if that is known.
    File { open: Option<Opener>, size: usize, path: PathBuf, entry: Position, digest: Option<[u8; 32]> },
    /// A piece of a large one; with the place of its digest if one is wanted.
    Piece { file: Arc<File>, offset: u64, size: usize, path: Arc<PathBuf>, entry: Option<Position>, last: bool },
    /// Zeros.
    Padding(usize),
}

/// A piece of a large file inside a block: its digest needs the pieces in order.
pub(super) struct Span {
    pub(super) range: Range<usize>,
    pub(super) entry: Position,
    pub(super) last: bool,
}

/// Where the index has an entry's digest, and the sha256 of its content.
pub(super) type EntryDigest = (Position, [u8; 32]);

impl Part {
    fn size(&self) -> usize {
        match self {
            Self::Bytes(size) | Self::Padding(size) | Self::File { size, .. } | Self::Piece { size, .. } => *size,
        }
    }
}

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
        self.length += part.size();
        self.parts.push(part);
    }

    /// Names what the block holds; `None` if a digest is not known, or if there is a piece of a large file in it.
    pub(super) fn name(&self) -> Option<BlockName> {
        let mut parts = Vec::with_capacity(self.parts.len() * 48);
        let mut put = |kind: u8, size: usize, digest: &[u8]| {
            parts.push(kind);
            parts.extend_from_slice(&(size as u64).to_le_bytes());
            parts.extend_from_slice(digest);
        };
        for part in &self.parts {
            match part {
                Part::Bytes(count) => put(0, *count, b""),
                Part::Padding(count) => put(1, *count, b""),
                Part::File { size, digest, .. } => put(2, *size, digest.as_ref()?),
                Part::Piece { .. } => return None,
            }
        }
        Some(BlockName::of_recipe(&parts, &self.bytes))
    }

    /// Forgets everything, but keeps the memory.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.parts.clear();
        self.length = 0;
    }

    /// Reads what is missing into `raw`, which is replaced; gives the pieces of large files in it.
    pub(super) fn build(&mut self, raw: &mut Vec<u8>) -> Result<Vec<Span>, ArchiveError> {
        let mut spans = Vec::new();
        raw.clear();
        raw.reserve(self.length + 1);
        let mut taken = 0;
        for part in &mut self.parts {
            let at = raw.len();
            match part {
                Part::Bytes(count) => {
                    raw.extend_from_slice(&self.bytes[taken..taken + *count]);
                    taken += *count;
                }
                Part::Padding(count) => raw.resize(at + *count, 0),
                Part::File { open, size, path, .. } => {
                    let Some(open) = open.take() else { continue };
                    let file = open().map_err(|e| ArchiveError::io("open", path, e))?;
                    // One more byte than there should be: so a file that has grown is noticed without asking.
                    let found = append(&file, raw, *size, path)?;
                    if found != *size {
                        let (expected, found) = (*size as u64, found as u64);
                        return Err(ArchiveError::Changed { path: path.clone(), expected, found });
                    }
                }
                Part::Piece { file, offset, size, path, entry, last } => {
                    let found = read(file, *offset, raw, *size, path)?;
                    if found != *size {
                        let (expected, found) = (*offset + *size as u64, *offset + found as u64);
                        return Err(ArchiveError::Changed { path: path.to_path_buf(), expected, found });
                    }
                    if let Some(entry) = *entry {
                        spans.push(Span { range: at..at + *size, entry, last: *last });
                    }
                }
            }
        }
        Ok(spans)
    }

    /// Takes the digests of the files in `raw`, the block that was built; gives those that were not known, and the path of a file
    /// that has another one than was said.
    pub(super) fn hash(&mut self, raw: &[u8]) -> (Vec<EntryDigest>, Option<PathBuf>) {
        let (mut digests, mut other, mut at) = (Vec::new(), None, 0);
        for part in &mut self.parts {
            let end = at + part.size();
            if let Part::File { path, entry, digest, .. } = part {
                let found: [u8; 32] = Sha256::digest(&raw[at..end]).into();
                if *digest != Some(found) {
                    digests.push((*entry, found));
                    if digest.replace(found).is_some() {
                        other = Some(path.clone());
                    }
                }
            }
            at = end;
        }
        (digests, other)
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

/// Appends `size` bytes from `offset` on, or less at the end of the file; tells how many. As [`append`], into memory as it is.
fn read(file: &File, offset: u64, out: &mut Vec<u8>, size: usize, path: &Path) -> Result<usize, ArchiveError> {
    let start = out.len();
    out.reserve(size);
    loop {
        let done = out.len() - start;
        if done >= size {
            out.truncate(start + size);
            return Ok(size);
        }
        match rustix::io::pread(file, spare_capacity(out), offset + done as u64) {
            Ok(0) => return Ok(done),
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(ArchiveError::io("read", path, e)),
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
        let mut piece = b"before".to_vec();
        assert_eq!(read(&file, 3, &mut piece, 4, Path::new("f")).expect("reads"), 4);
        assert_eq!(piece, b"before3456", "and nothing behind the piece");
        assert_eq!(read(&file, 8, &mut piece, 4, Path::new("f")).expect("reads"), 2);
        assert_eq!(piece, b"before345689");
    }
}
