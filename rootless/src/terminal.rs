//! Terminals for programs: a pair of which the worker keeps one end.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use nix::fcntl::OFlag;
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use rustix::fs::{Mode, OFlags};

/// A pseudoterminal.
#[derive(Debug)]
pub struct Pty {
    /// What is written here is typed; what is read from here is shown.
    pub master: OwnedFd,
    /// The program's end.
    pub slave: OwnedFd,
    /// Name of the program's end, where this process can see it.
    pub path: Option<PathBuf>,
}

/// Makes a pseudoterminal; neither end becomes this process's own.
///
/// # Errors
/// The kernel's: there are no pseudoterminals here, or no more of them.
pub fn open_pty() -> io::Result<Pty> {
    let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let path = PathBuf::from(ptsname_r(&master)?);
    let slave = rustix::fs::open(&path, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
    Ok(Pty { master: OwnedFd::from(master), slave, path: path.exists().then_some(path) })
}
