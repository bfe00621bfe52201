//! Moves the content of one file into another.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{SeekFrom, Stat};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use crate::base::Digest;

/// Which side failed.
#[derive(Debug)]
pub(super) enum CopyError {
    Read(io::Error),
    Write(io::Error),
}

/// Files up to this size are read and written in one go.
const BUFFER: usize = 128 * 1024;

thread_local! {
    static SHARED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Runs `work` with this thread's buffer.
fn with_buffer<T>(work: impl FnOnce(&mut [u8]) -> T) -> T {
    SHARED.with_borrow_mut(|buffer| {
        buffer.resize(BUFFER, 0);
        work(buffer)
    })
}

/// Reads once, however often a signal interrupts it.
fn read(file: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match rustix::io::read(file, &mut *buffer) {
            Err(Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

/// Feeds the content of `file`, which is `size` bytes long, to `sink`.
fn each_block(file: &OwnedFd, size: u64, mut sink: impl FnMut(&[u8])) -> io::Result<()> {
    with_buffer(|buffer| {
        let mut done = 0;
        loop {
            let n = read(file, buffer)?;
            sink(&buffer[..n]);
            done += n as u64;
            if n == 0 || n < buffer.len() && done == size {
                return Ok(());
            }
        }
    })
}

/// sha256 of the content of `file`, which is `size` bytes long.
pub(super) fn sha256(file: &OwnedFd, size: u64) -> io::Result<Digest> {
    let mut hasher = Sha256::new();
    each_block(file, size, |block| hasher.update(block))?;
    Ok(Digest::from_sha256(&hasher.finalize()))
}

/// Copies all of `from`, whose metadata is `stat`, into the new file `to`; tells how many bytes. Holes stay holes.
pub(super) fn copy(from: &OwnedFd, to: &OwnedFd, stat: &Stat) -> Result<u64, CopyError> {
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    let blocks = u64::try_from(stat.st_blocks).unwrap_or(0);
    if size > BUFFER as u64 {
        if blocks.saturating_mul(512) < size {
            return sparse(from, to, size);
        }
        if let Some(done) = in_kernel(from, to)? {
            return Ok(done);
        }
    }
    by_hand(from, to, u64::MAX, size)
}

/// Lets the kernel copy, or share, the content. `None` when it cannot between these two files.
fn in_kernel(from: &OwnedFd, to: &OwnedFd) -> Result<Option<u64>, CopyError> {
    let mut done = 0;
    loop {
        match rustix::fs::copy_file_range(from, None, to, None, 1 << 30) {
            Ok(0) => return Ok((done > 0).then_some(done)),
            Ok(n) => done += n as u64,
            Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM) if done == 0 => {
                return Ok(None);
            }
            Err(e) => return Err(CopyError::Write(e.into())),
        }
    }
}

/// Copies up to `limit` bytes from the files' positions; after `end` bytes a short read is the end of the file.
fn by_hand(from: &OwnedFd, to: &OwnedFd, limit: u64, end: u64) -> Result<u64, CopyError> {
    with_buffer(|buffer| {
        let mut done = 0;
        while done < limit {
            let want = usize::try_from(limit - done).unwrap_or(usize::MAX).min(buffer.len());
            let n = read(from, &mut buffer[..want]).map_err(CopyError::Read)?;
            let mut rest = &buffer[..n];
            while !rest.is_empty() {
                match rustix::io::write(to, rest) {
                    Ok(n) => rest = &rest[n..],
                    Err(Errno::INTR) => {}
                    Err(e) => return Err(CopyError::Write(e.into())),
                }
            }
            done += n as u64;
            if n == 0 || n < want && done == end {
                break;
            }
        }
        Ok(done)
    })
}

/// Copies only the parts that hold data.
fn sparse(from: &OwnedFd, to: &OwnedFd, size: u64) -> Result<u64, CopyError> {
    let mut done = 0;
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(e) => return Err(CopyError::Read(e.into())),
        };
        let end = rustix::fs::seek(from, SeekFrom::Hole(start)).map_err(|e| CopyError::Read(e.into()))?.min(size);
        rustix::fs::seek(from, SeekFrom::Start(start)).map_err(|e| CopyError::Read(e.into()))?;
        rustix::fs::seek(to, SeekFrom::Start(start)).map_err(|e| CopyError::Write(e.into()))?;
        let part = end.saturating_sub(start);
        let n = by_hand(from, to, part, part)?;
        done += n;
        if n < part {
            break;
        }
        at = end;
    }
    rustix::fs::ftruncate(to, size).map_err(|e| CopyError::Write(e.into()))?;
    Ok(done)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, MetadataExt};

    use super::*;

    fn copied(make: impl FnOnce(&std::fs::File)) -> (Vec<u8>, Vec<u8>, u64) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let from = std::fs::File::create_new(dir.path().join("from")).expect("a file");
        make(&from);
        let from: OwnedFd = std::fs::File::open(dir.path().join("from")).expect("a file").into();
        let to: OwnedFd = std::fs::File::create_new(dir.path().join("to")).expect("a file").into();
        copy(&from, &to, &rustix::fs::fstat(&from).expect("stat")).expect("it copies");
        let read = |name| std::fs::read(dir.path().join(name)).expect("it reads");
        let blocks = std::fs::metadata(dir.path().join("to")).expect("stat").blocks();
        (read("from"), read("to"), blocks)
    }

    #[test]
    fn small_large_and_sparse_files() {
        for size in [0, 1, BUFFER - 1, BUFFER, BUFFER + 1, 3 * BUFFER + 17] {
            let data: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
            let (from, to, _) = copied(|f| f.write_all_at(&data, 0).expect("it writes"));
            assert_eq!(from, data);
            assert_eq!(to, data, "{size}");
        }
        let (from, to, blocks) = copied(|f| {
            f.write_all_at(b"start", 0).expect("it writes");
            f.write_all_at(b"middle", 8 << 20).expect("it writes");
            f.set_len(16 << 20).expect("it grows");
        });
        assert!(from == to, "holes changed the content");
        assert!(blocks * 512 < 1 << 20, "{blocks} blocks: the holes were filled");
    }
}
