//! This program, in a form that nobody who runs it can change.
//!
//! A step that is told to run `/proc/self/exe` runs rbuild, and could write to the file behind it afterwards. So steps
//! are started from a mount of the file that is read-only, belongs to no mount namespace and costs nothing, or from a
//! sealed copy in memory where such a mount is impossible or where the step itself could change mounts.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{CWD, MemfdFlags, SealFlags};
use rustix::mount::OpenTreeFlags;

/// The program steps are started from.
#[derive(Debug)]
pub struct SealedExe {
    mount: Option<OwnedFd>,
    copy: OnceLock<OwnedFd>,
    /// Steps cannot reach the file, so that it needs no protection.
    out_of_reach: bool,
}

impl SealedExe {
    /// Protects the running program.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new() -> io::Result<Self> {
        let exe = Self { mount: own_mount().ok(), copy: OnceLock::new(), out_of_reach: false };
        if exe.mount.is_none() {
            exe.copied()?;
        }
        Ok(exe)
    }

    /// The running program as it is, for steps that change their root before they become anything else, and that have
    /// neither a `/proc` nor a file of ours in it.
    #[must_use]
    pub fn out_of_reach() -> Self {
        Self { mount: None, copy: OnceLock::new(), out_of_reach: true }
    }

    /// How it is protected, for logs.
    #[must_use]
    pub fn describe(&self) -> &'static str {
        match (self.out_of_reach, &self.mount) {
            (true, _) => "the program, out of reach",
            (false, Some(_)) => "a read-only mount",
            (false, None) => "a sealed copy in memory",
        }
    }

    /// The path to execute for a step; with `copy` one that is safe even from a process that may change mounts.
    pub(crate) fn path(&self, copy: bool) -> io::Result<PathBuf> {
        if self.out_of_reach {
            return Ok("/proc/self/exe".into());
        }
        let fd = match (&self.mount, copy) {
            (Some(mount), false) => mount,
            _ => self.copied()?,
        };
        Ok(format!("/proc/self/fd/{}", fd.as_raw_fd()).into())
    }

    fn copied(&self) -> io::Result<&OwnedFd> {
        if let Some(copy) = self.copy.get() {
            return Ok(copy);
        }
        let copy = sealed_copy()?;
        Ok(self.copy.get_or_init(|| copy))
    }
}

/// A read-only mount of the running program.
fn own_mount() -> io::Result<OwnedFd> {
    // By name, not by /proc/self/exe: that leads to the mount it was started from, which belongs to the mount namespace
    // before this one and cannot be cloned here. The name may have come to mean another file meanwhile.
    let mount = readonly_mount(&std::fs::read_link("/proc/self/exe")?)?;
    let (named, running) = (rustix::fs::fstat(&mount)?, rustix::fs::stat("/proc/self/exe")?);
    if (named.st_dev, named.st_ino) != (running.st_dev, running.st_ino) {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the program's file was replaced"));
    }
    Ok(mount)
}

fn readonly_mount(file: &Path) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let mount = rustix::mount::open_tree(CWD, file, flags)?;
    crate::sys::mount_setattr(mount.as_fd(), libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID)?;
    Ok(mount)
}

fn sealed_copy() -> io::Result<OwnedFd> {
    let mut exe = File::open("/proc/self/exe")?;
    let fd = rustix::fs::memfd_create(c"rbuild", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | MemfdFlags::EXEC)
        // Before Linux 6.3 there is no such flag, and every memfd is executable.
        .or_else(|_| rustix::fs::memfd_create(c"rbuild", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING))?;
    let mut copy = File::from(fd);
    io::copy(&mut exe, &mut copy)?;
    rustix::fs::fchmod(&copy, rustix::fs::Mode::from_raw_mode(0o555))?;
    rustix::fs::fcntl_add_seals(&copy, SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE)?;
    // Executing a file that is open for writing is ETXTBSY, sealed or not: keep a read-only descriptor instead.
    Ok(File::open(format!("/proc/self/fd/{}", copy.as_raw_fd()))?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copy_is_this_program_and_cannot_be_written() {
        let copy = sealed_copy().expect("a memfd");
        let path = format!("/proc/self/fd/{}", copy.as_raw_fd());
        let len = std::fs::metadata("/proc/self/exe").expect("our own program").len();
        assert_eq!(std::fs::metadata(&path).expect("the copy").len(), len);
        let error = std::fs::OpenOptions::new().write(true).open(&path).map(|mut f| io::Write::write(&mut f, b"x"));
        assert!(!matches!(error, Ok(Ok(_))), "{error:?}");
    }

    #[test]
    #[allow(clippy::print_stderr)]
    fn the_mount_cannot_be_opened_for_writing() {
        // Not the running program, whose file is busy anyway.
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        let Ok(mount) = readonly_mount(file.path()) else {
            eprintln!("skipped: no permission to clone a mount");
            return;
        };
        let path = format!("/proc/self/fd/{}", mount.as_raw_fd());
        let error = std::fs::OpenOptions::new().write(true).open(&path).expect_err("must be refused");
        assert_eq!(error.raw_os_error(), Some(libc::EROFS), "{error}");
    }
}
