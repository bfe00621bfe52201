//! Owners of files, also where there is one id only.
//!
//! In a user namespace with a single id (isolation `userns-one`) every file belongs to it; who a file should belong to is
//! recorded in an attribute, which only trees of our own store have: layers and contexts cannot bring it in, as it is
//! never taken from or written to an archive. Everywhere else these functions are the plain system calls.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::sync::OnceLock;

use rootless::ownership::{RECORD, decode, encode};
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid, XattrFlags};
use rustix::io::Errno;
use rustix::path::Arg;

/// Whether owners are recorded here.
#[must_use]
pub fn are_recorded() -> bool {
    static RECORDED: OnceLock<bool> = OnceLock::new();
    *RECORDED.get_or_init(|| rootless::IdMaps::current().sizes() == (1, 1))
}

/// The owner of what is at `path` itself, of which `found` is the kernel's answer.
///
/// # Errors
/// When the record cannot be read.
pub fn of_path(path: &Path, found: (u32, u32)) -> io::Result<(u32, u32)> {
    if !are_recorded() {
        return Ok(found);
    }
    let mut value = [0; 32];
    of_record(rustix::fs::lgetxattr(path, RECORD, &mut value[..]).map(|n| &value[..n]))
}

/// The owner of an open file, of which `found` is the kernel's answer.
///
/// # Errors
/// When the record cannot be read.
pub fn of_fd(fd: impl AsFd, found: (u32, u32)) -> io::Result<(u32, u32)> {
    if !are_recorded() {
        return Ok(found);
    }
    let mut value = [0; 32];
    of_record(rustix::fs::fgetxattr(fd, RECORD, &mut value[..]).map(|n| &value[..n]))
}

/// The owner of what is at `name` itself, of which `found` is the kernel's answer.
///
/// # Errors
/// When the record cannot be read.
pub fn of_at(dir: impl AsFd, name: impl Arg, found: (u32, u32)) -> io::Result<(u32, u32)> {
    if !are_recorded() {
        return Ok(found);
    }
    let fd = rustix::fs::openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let mut value = [0; 32];
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    of_record(rustix::fs::getxattr(path, RECORD, &mut value[..]).map(|n| &value[..n]))
}

fn of_record(value: Result<&[u8], Errno>) -> io::Result<(u32, u32)> {
    match value {
        Ok(value) => Ok(decode(value).unwrap_or((0, 0))),
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::PERM | Errno::RANGE) => Ok((0, 0)),
        Err(e) => Err(e.into()),
    }
}

/// Changes the owner of an open file.
///
/// # Errors
/// `EINVAL` for ids that do not exist here.
pub fn set_fd(fd: impl AsFd, uid: u32, gid: u32) -> Result<(), Errno> {
    if !are_recorded() {
        return rustix::fs::fchown(fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    }
    let result = if (uid, gid) == (0, 0) {
        rustix::fs::fremovexattr(fd, RECORD)
    } else {
        rustix::fs::fsetxattr(fd, RECORD, &encode(uid, gid), XattrFlags::empty())
    };
    settled(result, uid, gid)
}

/// Changes the owner of what is at `name` itself.
///
/// # Errors
/// `EINVAL` for ids that do not exist here, `EPERM` for links and pipes where owners are recorded.
pub fn set_at(dir: impl AsFd, name: impl Arg + Copy, uid: u32, gid: u32) -> Result<(), Errno> {
    if !are_recorded() {
        let owner = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        return rustix::fs::chownat(dir, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW);
    }
    let fd = rustix::fs::openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let result = if (uid, gid) == (0, 0) {
        rustix::fs::removexattr(path, RECORD)
    } else {
        rustix::fs::setxattr(path, RECORD, &encode(uid, gid), XattrFlags::empty())
    };
    settled(result, uid, gid)
}

fn settled(result: Result<(), Errno>, uid: u32, gid: u32) -> Result<(), Errno> {
    match result {
        // Nothing was recorded, or can be: then it is root's, as wanted.
        Err(Errno::NODATA | Errno::PERM | Errno::OPNOTSUPP) if (uid, gid) == (0, 0) => Ok(()),
        Err(Errno::OPNOTSUPP) => Err(Errno::PERM),
        other => other,
    }
}
