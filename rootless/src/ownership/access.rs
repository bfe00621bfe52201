//! Files whose mode keeps their owner out, for who has no capabilities: they have another mode while something is done with them.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{FileType, Mode};
use rustix::io::Errno;
use rustix::path::Arg;

use super::{by_descriptor, without_privileges};

/// Files that are open to their owner for a moment. Their modes come back when it is dropped.
#[derive(Default)]
pub(crate) struct Opened(Vec<(OwnedFd, u32)>);

impl Opened {
    /// Opens one more; false if it was open.
    pub(crate) fn open(&mut self, fd: impl AsFd) -> io::Result<bool> {
        let mode = rustix::fs::fstat(&fd)?.st_mode;
        let wanted = match FileType::from_raw_mode(mode) {
            FileType::Directory => 0o700,
            FileType::Symlink => return Ok(false),
            _ => 0o600,
        };
        if mode & wanted == wanted {
            return Ok(false);
        }
        rustix::fs::chmod(by_descriptor(&fd), Mode::from_raw_mode(mode & 0o7777 | wanted))?;
        self.0.push((fd.as_fd().try_clone_to_owned()?, mode & 0o7777));
        Ok(true)
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        while let Some((fd, mode)) = self.0.pop() {
            // What has been removed meanwhile has no mode to lose.
            let _ = rustix::fs::chmod(by_descriptor(&fd), Mode::from_raw_mode(mode));
        }
    }
}

/// Does something with these files; if it is refused and there are no capabilities, once more with all of them open to their owner.
///
/// # Errors
/// Those of the work, and of the change of a mode.
pub fn with_open<T>(files: &[&dyn AsFd], mut work: impl FnMut() -> Result<T, Errno>) -> io::Result<T> {
    match work() {
        Err(Errno::ACCESS) if without_privileges() => {}
        other => return Ok(other?),
    }
    let mut opened = Opened::default();
    for file in files {
        opened.open(file.as_fd())?;
    }
    Ok(work()?)
}

/// Does something with the file at `path`. Where its mode keeps its owner, this user, from that and there are no capabilities,
/// the mode is another one meanwhile.
pub(crate) fn accessible<T>(path: impl Arg + Copy, mut work: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    match work() {
        Err(Errno::ACCESS) if without_privileges() => {
            let mode = rustix::fs::stat(path)?.st_mode & 0o7777;
            let more = mode | if mode & 0o600 == 0o600 { 0o700 } else { 0o600 };
            rustix::fs::chmod(path, Mode::from_raw_mode(more))?;
            let result = work();
            rustix::fs::chmod(path, Mode::from_raw_mode(mode))?;
            result
        }
        other => other,
    }
}
