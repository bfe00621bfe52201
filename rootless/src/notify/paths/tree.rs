//! Names: made, removed, moved.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::reach::{PLACE, Target};
use super::{PathEmulation, error};
use crate::notify::{nodes, with_umask};
use crate::ownership::{Device, Record, beside, by_descriptor, record_new, with_open};
use crate::sys::Answer;

impl PathEmulation {
    pub(super) fn mkdir(&mut self, tid: i32, dir: i32, path: u64, mode: u32) -> io::Result<Answer> {
        let text = Self::string(tid, path)?;
        let target = Target { tid, dir, path: &text };
        let proc = self.procfs.proc();
        let (parent, name) = target.parent(proc, libc::EEXIST)?;
        let (mode, umask) = (Mode::from_raw_mode(mode & 0o1777), proc.umask(tid)?);
        with_umask(umask, || with_open(&[&parent], || rustix::fs::mkdirat(&parent, &name, mode)))?;
        self.settle_new(target, FileType::Directory, None)
    }

    pub(super) fn symlink(&mut self, tid: i32, text: u64, dir: i32, path: u64) -> io::Result<Answer> {
        let (text, path) = (Self::string(tid, text)?, Self::string(tid, path)?);
        let target = Target { tid, dir, path: &path };
        let (parent, name) = target.parent(self.procfs.proc(), libc::EEXIST)?;
        with_open(&[&parent], || rustix::fs::symlinkat(OsStr::from_bytes(&text), &parent, &name))?;
        self.settle_new(target, FileType::Symlink, None)
    }

    pub(super) fn mknod(&mut self, tid: i32, dir: i32, path: u64, mode: u32, number: u64) -> io::Result<Answer> {
        let kind = match mode & libc::S_IFMT {
            0 => FileType::RegularFile,
            _ => FileType::from_raw_mode(mode),
        };
        let device = nodes::device(kind, number);
        if device.is_some() && self.creds.of(self.procfs.proc(), tid)?.uid[1] != 0 {
            return Err(error(libc::EPERM));
        }
        let kind = match (kind, device) {
            (_, Some(_)) => FileType::Socket,
            (FileType::RegularFile | FileType::Fifo | FileType::Socket, None) => kind,
            // The mark of a deletion, which only a kernel reads, and what is none.
            (FileType::CharacterDevice, None) => return Err(error(libc::EPERM)),
            _ => return Err(error(libc::EINVAL)),
        };
        let path = Self::string(tid, path)?;
        let target = Target { tid, dir, path: &path };
        let proc = self.procfs.proc();
        let (parent, name) = target.parent(proc, libc::EEXIST)?;
        let (mode, umask) = (Mode::from_raw_mode(mode & 0o7777), proc.umask(tid)?);
        with_umask(umask, || with_open(&[&parent], || rustix::fs::mknodat(&parent, &name, kind, mode, 0)))?;
        self.settle_new(target, kind, device)
    }

    /// Records to whom belongs what was just made, and what it stands for.
    fn settle_new(&mut self, target: Target<'_>, kind: FileType, device: Option<Device>) -> io::Result<Answer> {
        let owner = self.owner_of_new(target)?;
        let has_mode = matches!(kind, FileType::RegularFile | FileType::Directory);
        if has_mode || owner != (0, 0) || device.is_some() {
            let (parent, name) = target.parent(self.procfs.proc(), libc::ENOENT)?;
            let made = rustix::fs::openat(&parent, &name, PLACE | OFlags::NOFOLLOW, Mode::empty())?;
            if let Err(e) = record_new(&made, Record { owner, device, owner_bits: None }) {
                // The first error is the one to tell; nothing may stay that is not what was asked for.
                let flags = if kind == FileType::Directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
                let _ = rustix::fs::unlinkat(&parent, &name, flags);
                return Err(e.into());
            }
        }
        Ok(Answer::Value(0))
    }

    /// Who a file belongs to that is made there.
    pub(super) fn owner_of_new(&mut self, target: Target<'_>) -> io::Result<(u32, u32)> {
        let proc = self.procfs.proc();
        let creds = self.creds.of(proc, target.tid)?;
        let own = (creds.uid[1], creds.gid[1]);
        let Ok((parent, _)) = target.parent(proc, libc::ENOENT) else { return Ok(own) };
        match rustix::fs::fstat(&parent) {
            Ok(stat) if stat.st_mode & 0o2000 != 0 => Ok((own.0, Record::of_fd(&parent, FileType::Directory)?.owner.1)),
            _ => Ok(own),
        }
    }

    pub(super) fn unlink(&mut self, tid: i32, dir: i32, path: u64, flags: i32) -> io::Result<Answer> {
        let directory = flags & libc::AT_REMOVEDIR != 0;
        if flags & !libc::AT_REMOVEDIR != 0 {
            return Err(error(libc::EINVAL));
        }
        let text = Self::string(tid, path)?;
        let target = Target { tid, dir, path: &text };
        let nameless = if directory { libc::EINVAL } else { libc::EISDIR };
        let (parent, name) = target.parent(self.procfs.proc(), nameless)?;
        let flags = if directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        with_open(&[&parent], || rustix::fs::unlinkat(&parent, &name, flags))?;
        beside::forget(&parent, &name)?;
        Ok(Answer::Value(0))
    }

    pub(super) fn rename(&mut self, tid: i32, from: (i32, u64), to: (i32, u64), flags: u32) -> io::Result<Answer> {
        // A whiteout would be a device.
        let flags = RenameFlags::from_bits(flags).filter(|flags| !flags.contains(RenameFlags::WHITEOUT));
        let flags = flags.ok_or_else(|| error(libc::EINVAL))?;
        let (from_text, to_text) = (Self::string(tid, from.1)?, Self::string(tid, to.1)?);
        let proc = self.procfs.proc();
        let (from_dir, from_name) = Target { tid, dir: from.0, path: &from_text }.parent(proc, libc::EBUSY)?;
        let (to_dir, to_name) = Target { tid, dir: to.0, path: &to_text }.parent(proc, libc::EBUSY)?;
        let rename = || rustix::fs::renameat_with(&from_dir, &from_name, &to_dir, &to_name, flags);
        // A directory that comes under another one is changed itself.
        let moved = rustix::fs::openat(&from_dir, &from_name, PLACE | OFlags::NOFOLLOW, Mode::empty());
        match &moved {
            Ok(moved) => with_open(&[&from_dir, &to_dir, moved], rename)?,
            Err(_) => with_open(&[&from_dir, &to_dir], rename)?,
        }
        let exchanged = flags.contains(RenameFlags::EXCHANGE);
        beside::moved((&from_dir, &from_name), (&to_dir, &to_name), exchanged)?;
        Ok(Answer::Value(0))
    }

    pub(super) fn link(&mut self, tid: i32, from: (i32, u64), to: (i32, u64), flags: i32) -> io::Result<Answer> {
        if flags & !(libc::AT_SYMLINK_FOLLOW | libc::AT_EMPTY_PATH) != 0 {
            return Err(error(libc::EINVAL));
        }
        let nofollow = if flags & libc::AT_SYMLINK_FOLLOW == 0 { libc::AT_SYMLINK_NOFOLLOW } else { 0 };
        let found = self.found(tid, from.0, Some(from.1), nofollow | flags & libc::AT_EMPTY_PATH)?;
        let text = Self::string(tid, to.1)?;
        let (parent, name) = Target { tid, dir: to.0, path: &text }.parent(self.procfs.proc(), libc::EEXIST)?;
        let path = by_descriptor(&found);
        with_open(&[&parent], || rustix::fs::linkat(CWD, &path, &parent, &name, AtFlags::SYMLINK_FOLLOW))?;
        let (stat, record) = super::recorded(&found)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if !matches!(kind, FileType::RegularFile | FileType::Directory) {
            let made = rustix::fs::openat(&parent, &name, PLACE | OFlags::NOFOLLOW, Mode::empty())?;
            match record.write(&made, kind) {
                Ok(()) | Err(Errno::OPNOTSUPP) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(Answer::Value(0))
    }
}
