//! Paths in the arguments of calls, and the `/proc` of whoever makes them.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};

use super::memory::Ids;

/// Our `/proc`, opened once.
#[derive(Debug)]
pub(super) struct Proc(OwnedFd);

impl Proc {
    pub(super) fn open() -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::openat(CWD, "/proc", flags, Mode::empty())?))
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// The ids a thread's files in `/proc` belong to: its effective ones, or root's where it is not dumpable.
    pub(super) fn owner(&self, tid: i32) -> io::Result<Ids> {
        let stat = rustix::fs::statat(&self.0, tid.to_string(), AtFlags::empty())?;
        Ok(Ids { uid: stat.st_uid, gid: stat.st_gid })
    }

    /// Reads a small file.
    pub(super) fn read(&self, path: &str) -> io::Result<String> {
        let fd = rustix::fs::openat(&self.0, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let mut text = String::new();
        io::Read::read_to_string(&mut std::fs::File::from(fd), &mut text)?;
        Ok(text)
    }

    /// The text of a link.
    pub(super) fn link(&self, path: &str) -> io::Result<Vec<u8>> {
        Ok(rustix::fs::readlinkat(&self.0, path, Vec::new())?.into_bytes())
    }

    /// A field of a process's `status`, as numbers.
    pub(super) fn status_numbers(&self, tid: i32, field: &str) -> io::Result<Vec<u32>> {
        let text = self.read(&format!("{tid}/status"))?;
        let line = text.lines().find_map(|l| l.strip_prefix(field)?.strip_prefix(':')).unwrap_or_default();
        Ok(line.split_ascii_whitespace().filter_map(|n| n.parse().ok()).collect())
    }

    /// The process a thread belongs to.
    pub(super) fn process_of(&self, tid: i32) -> io::Result<i32> {
        let numbers = self.status_numbers(tid, "Tgid")?;
        numbers.first().and_then(|n| i32::try_from(*n).ok()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

/// The components of an absolute path, without `.`, with `..` resolved by name.
pub(super) fn components(path: &[u8]) -> Vec<&[u8]> {
    let mut out = Vec::new();
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(out.pop()),
            name => out.push(name),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_taken_apart() {
        assert_eq!(components(b"//proc/./self/../1/"), [b"proc" as &[u8], b"1"]);
        assert!(components(b"/..").is_empty());
    }

    #[test]
    fn our_own_process_is_found() {
        let proc = Proc::open().expect("a /proc");
        let own = rustix::process::getpid().as_raw_pid();
        assert_eq!(proc.process_of(own).expect("exists"), own);
        assert_eq!(proc.owner(own).expect("exists").uid, rustix::process::geteuid().as_raw());
    }
}
