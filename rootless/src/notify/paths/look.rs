//! Looks at files: what they are, whether they may be used, where links and the working directory lead.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::FileType;

use super::permission::{By, EXECUTE};
use super::reach::Target;
use super::{PathEmulation, error, kind_of, recorded};
use crate::notify::memory::{Ids, Memory};
use crate::notify::{Call, stat};
use crate::ownership::{by_descriptor, with_open};
use crate::sys::{self, Answer};

impl PathEmulation {
    /// What a call means: a path, or with an empty one the descriptor itself.
    pub(super) fn found(&mut self, tid: i32, dir: i32, path: Option<u64>, flags: i32) -> io::Result<OwnedFd> {
        let path = match path {
            Some(0) if flags & libc::AT_EMPTY_PATH != 0 => Vec::new(),
            Some(address) => Self::string(tid, address)?,
            None => Vec::new(),
        };
        if path.is_empty() {
            if flags & libc::AT_EMPTY_PATH == 0 {
                return Err(error(libc::ENOENT));
            }
            return self.procfs.proc().base(tid, dir);
        }
        Target { tid, dir, path: &path }.place(self.procfs.proc(), flags & libc::AT_SYMLINK_NOFOLLOW == 0)
    }

    pub(super) fn stat(&mut self, call: &Call) -> io::Result<Answer> {
        let a = &call.args;
        let (dir, path, flags, to) = match call.name {
            "stat" => (libc::AT_FDCWD, Some(a[0]), 0, a[1]),
            "lstat" => (libc::AT_FDCWD, Some(a[0]), libc::AT_SYMLINK_NOFOLLOW, a[1]),
            "fstat" => (call.int(0), None, libc::AT_EMPTY_PATH, a[1]),
            "newfstatat" => (call.int(0), Some(a[1]), call.int(3), a[2]),
            _ => (call.int(0), Some(a[1]), call.int(2), a[4]),
        };
        let fd = self.found(call.tid, dir, path, flags)?;
        let (_, record) = recorded(&fd)?;
        let bytes = match call.name {
            "statx" => stat::statx_bytes(&fd, call.word(3), record)?,
            _ => stat::native_bytes(&fd, record)?,
        };
        self.procfs.proc().still_waits()?;
        Memory::new(call.tid, Ids::ROOT).write(to, &bytes)?;
        Ok(Answer::Value(0))
    }

    /// Root may read and write everything, and execute what anybody may: permissions are not checked between users of a step, but
    /// for files that keep their owner out.
    pub(super) fn access(&mut self, tid: i32, dir: i32, path: u64, wanted: u32, flags: i32) -> io::Result<Answer> {
        if wanted > 7 {
            return Err(error(libc::EINVAL));
        }
        let place = self.found(tid, dir, Some(path), flags)?;
        let by = if flags & libc::AT_EACCESS == 0 { By::Real } else { By::Effective };
        self.permit(tid, &place, wanted, by)?;
        let found = rustix::fs::fstat(place)?;
        let runs = FileType::from_raw_mode(found.st_mode) == FileType::Directory || found.st_mode & 0o111 != 0;
        if wanted & EXECUTE != 0 && !runs { Err(error(libc::EACCES)) } else { Ok(Answer::Value(0)) }
    }

    pub(super) fn readlink(&mut self, tid: i32, dir: i32, path: u64, to: u64, size: u64) -> io::Result<Answer> {
        let room = usize::try_from(size).ok().filter(|room| *room > 0).ok_or_else(|| error(libc::EINVAL))?;
        let flags = libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH;
        let link = self.found(tid, dir, Some(path), flags)?;
        if kind_of(&link)? != FileType::Symlink {
            return Err(error(libc::EINVAL));
        }
        let text = rustix::fs::readlinkat(&link, "", Vec::new())?.into_bytes();
        let text = &text[..text.len().min(room)];
        self.procfs.proc().still_waits()?;
        Memory::new(tid, Ids::ROOT).write(to, text)?;
        Ok(Answer::Value(i64::try_from(text.len()).unwrap_or(0)))
    }

    pub(super) fn getcwd(&mut self, tid: i32, to: u64, size: u64) -> io::Result<Answer> {
        let proc = self.procfs.proc();
        if rustix::fs::fstat(proc.base(tid, libc::AT_FDCWD)?)?.st_nlink == 0 {
            return Err(error(libc::ENOENT));
        }
        let path = proc.link(&format!("{tid}/cwd"))?;
        let mut path = proc.inside(&path).ok_or_else(|| error(libc::ENOENT))?.to_vec();
        path.push(0);
        if size < path.len() as u64 {
            return Err(error(libc::ERANGE));
        }
        proc.still_waits()?;
        Memory::new(tid, Ids::ROOT).write(to, &path)?;
        Ok(Answer::Value(i64::try_from(path.len()).unwrap_or(0)))
    }

    pub(super) fn statfs(&mut self, tid: i32, path: u64, to: u64) -> io::Result<Answer> {
        let found = self.found(tid, libc::AT_FDCWD, Some(path), 0)?;
        let bytes = sys::statfs_bytes(&found)?;
        self.procfs.proc().still_waits()?;
        Memory::new(tid, Ids::ROOT).write(to, &bytes)?;
        Ok(Answer::Value(0))
    }

    /// Opens again, for reading and writing, what a place names.
    pub(super) fn reopened(fd: &OwnedFd, flags: rustix::fs::OFlags) -> io::Result<OwnedFd> {
        let path = by_descriptor(fd);
        let flags = flags | rustix::fs::OFlags::CLOEXEC | rustix::fs::OFlags::NOCTTY;
        with_open(&[fd], || rustix::fs::open(&path, flags, rustix::fs::Mode::empty()))
    }
}
