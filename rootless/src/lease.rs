//! File leases: the kernel's word that nobody else has a file open (fcntl(2), *Leases*).

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

/// `F_SETSIG` of `asm-generic/fcntl.h`, which the libc crate does not have for every C library.
const F_SETSIG: libc::c_int = 10;

/// A lease on a file. It does not keep others out for long: who opens the file waits for its end, and it has to end soon.
#[derive(Debug)]
pub struct FileLease {
    file: OwnedFd,
    kind: libc::c_int,
}

impl FileLease {
    /// Nobody has the file open for writing, which `file` is not either. `None` where somebody has, the file is another user's, or
    /// this file system has no leases.
    #[must_use]
    pub fn against_writers(file: &File) -> Option<Self> {
        Self::take(file, libc::F_RDLCK)
    }

    /// Nobody but `file` has the file open at all. `None` as for [`Self::against_writers`].
    #[must_use]
    pub fn against_all(file: &File) -> Option<Self> {
        Self::take(file, libc::F_WRLCK)
    }

    fn take(file: &File, kind: libc::c_int) -> Option<Self> {
        // A duplicate is the same open file: the lease counts for both.
        let file = OwnedFd::from(file.try_clone().ok()?);
        // Who wants to open the file is told of by SIGIO unless asked otherwise, which ends a process; SIGURG is ignored.
        fcntl(&file, F_SETSIG, libc::SIGURG).ok()?;
        fcntl(&file, libc::F_SETLEASE, kind).ok()?;
        Some(Self { file, kind })
    }

    /// Whether nobody has asked for the file since the lease was taken.
    #[must_use]
    pub fn undisturbed(&self) -> bool {
        fcntl(&self.file, libc::F_GETLEASE, 0).is_ok_and(|kind| kind == self.kind)
    }
}

impl Drop for FileLease {
    fn drop(&mut self) {
        // It cannot fail for who has one.
        let _ = fcntl(&self.file, libc::F_SETLEASE, libc::F_UNLCK);
    }
}

fn fcntl(file: &OwnedFd, command: libc::c_int, argument: libc::c_int) -> io::Result<libc::c_int> {
    // SAFETY: the descriptor is open, and the commands used here take a number.
    let answer = unsafe { libc::fcntl(file.as_raw_fd(), command, argument) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_lease_tells_of_others() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file");
        fs::write(&path, "text").expect("written");
        let reader = File::open(&path).expect("opens");
        // (Every file system of a developer's machine has leases.)
        let lease = FileLease::against_writers(&reader).expect("nobody else has the file");
        assert!(lease.undisturbed());
        let again = File::open(&path).expect("reading disturbs nobody");
        assert!(lease.undisturbed());
        drop(lease);
        let writer = fs::OpenOptions::new().write(true).open(&path).expect("opens: the lease is over");
        assert!(FileLease::against_writers(&reader).is_none(), "somebody has it open for writing");
        assert!(FileLease::against_all(&writer).is_none(), "somebody reads it");
        drop((reader, again));
        let lease = FileLease::against_all(&writer).expect("alone");
        let nonblocking = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK;
        let refused = rustix::fs::open(&path, nonblocking, rustix::fs::Mode::empty());
        assert!(refused.is_err() && !lease.undisturbed(), "somebody wants to read it");
    }
}
