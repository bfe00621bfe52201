//! Files whose mode keeps their owner out: root may use them all the same, nobody else may.
//!
//! These alone are looked at: other permissions are not checked between the users of a step, all of whom are the builder's user. As
//! the mode of these is recorded and the file is open to him, the kernel would let everybody in.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::OFlags;

use super::{PathEmulation, error, recorded};

/// What is to be done with a file, as bits of a mode.
pub(super) const READ: u32 = 4;
pub(super) const WRITE: u32 = 2;
pub(super) const EXECUTE: u32 = 1;

/// What flags of `open` are about.
pub(super) fn wanted_by(flags: OFlags) -> u32 {
    let write = if flags.contains(OFlags::TRUNC) { WRITE } else { 0 };
    match flags & OFlags::RWMODE {
        OFlags::WRONLY => WRITE,
        OFlags::RDWR => READ | WRITE,
        _ => READ | write,
    }
}

/// Which of a process's ids counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    Real,
    Effective,
}

impl PathEmulation {
    /// Whether a thread may do this with a file, as far as its recorded mode says something.
    ///
    /// # Errors
    /// `EACCES` if it may not.
    pub(super) fn permit(&mut self, tid: i32, file: &OwnedFd, wanted: u32, by: By) -> io::Result<()> {
        let creds = self.creds.of(self.procfs.proc(), tid)?;
        let at = if by == By::Real { 0 } else { 1 };
        let (uid, gid) = (creds.uid[at], creds.gid[at]);
        if uid == 0 {
            return Ok(());
        }
        let (stat, record) = recorded(file)?;
        if record.owner_bits.is_none() {
            return Ok(());
        }
        let mode = record.mode(stat.st_mode);
        let granted = match record.owner {
            (owner, _) if owner == uid => mode >> 6,
            (_, group) if group == gid || creds.groups.contains(&group) => mode >> 3,
            _ => mode,
        };
        if granted & wanted == wanted { Ok(()) } else { Err(error(libc::EACCES)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_say_what_is_wanted() {
        assert_eq!(wanted_by(OFlags::RDONLY), READ);
        assert_eq!(wanted_by(OFlags::WRONLY | OFlags::TRUNC), WRITE);
        assert_eq!(wanted_by(OFlags::RDWR), READ | WRITE);
        assert_eq!(wanted_by(OFlags::RDONLY | OFlags::TRUNC), READ | WRITE);
    }
}
