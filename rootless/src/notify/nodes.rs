//! Devices for steps whose user namespace cannot have any: what is made is recorded ([`crate::ownership`]), so that layers
//! have it.
//!
//! A change of owner takes the record away from what is not a file, and only some rungs answer that call: so what was made
//! here is looked at again when the step has ended.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType, Gid, Mode, Uid};

use super::files::{Proc, last_name};
use super::memory::{Ids, Memory};
use super::{Call, with_umask};
use crate::ownership::{Device, Record};
use crate::seccomp::{Action, Trap, When};
use crate::sys::Answer;

/// The kernel makes everything but devices.
pub(super) const TRAPS: [Trap; 2] = [
    ("mknod", When::Masked(1, libc::S_IFMT, &[libc::S_IFCHR, libc::S_IFBLK]), Action::Notify),
    ("mknodat", When::Masked(2, libc::S_IFMT, &[libc::S_IFCHR, libc::S_IFBLK]), Action::Notify),
];
const CAP_MKNOD: u32 = 27;
/// So many devices are remembered to the end of a step.
const MOST: usize = 256;

/// The emulation for one step.
pub(crate) struct NodeEmulation {
    proc: Proc,
    made: Vec<(OwnedFd, Device)>,
}

impl NodeEmulation {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { proc: Proc::open()?, made: Vec::new() })
    }

    pub(super) fn proc(&mut self) -> &mut Proc {
        &mut self.proc
    }

    pub(crate) fn answer(&mut self, call: &Call) -> Answer {
        self.try_answer(call).unwrap_or_else(|e| Answer::Error(e.raw_os_error().unwrap_or(libc::EPERM)))
    }

    fn try_answer(&mut self, call: &Call) -> io::Result<Answer> {
        let a = &call.args;
        let (dir, path, mode, number) = match call.name {
            "mknod" => (libc::AT_FDCWD, a[0], call.word(1), a[2]),
            _ => (call.int(0), a[1], call.word(2), a[3]),
        };
        let kind = FileType::from_raw_mode(mode);
        let Some(device) = device(kind, number) else { return Ok(Answer::Continue) };
        if !self.proc.has_capability(call.tid, CAP_MKNOD)? {
            return Err(io::Error::from_raw_os_error(libc::EPERM));
        }
        let path = Memory::new(call.tid, Ids::ROOT).string(path)?;
        let record = Record { owner: (0, 0), device: Some(device), ..Record::default() };
        let fd = make(&self.proc, call.tid, (dir, &path), kind, mode, record)?;
        if self.made.len() < MOST {
            self.made.push((fd, device));
        }
        Ok(Answer::Value(0))
    }

    /// Records again what lost its record.
    pub(crate) fn finish(&self) {
        for (fd, device) in &self.made {
            let there = rustix::fs::fstat(fd).is_ok_and(|stat| stat.st_nlink > 0);
            if there && Record::of_fd(fd, FileType::Socket).is_ok_and(|record| record.device.is_none()) {
                // Where it could be recorded before it can be now.
                let _ =
                    Record { owner: (0, 0), device: Some(*device), ..Record::default() }.write(fd, FileType::Socket);
            }
        }
    }
}

/// The device of a call; `None` for what the kernel can make: everything else, and the mark of a deletion.
pub(super) fn device(kind: FileType, number: u64) -> Option<Device> {
    // The number is a C `unsigned int`.
    Device::new(kind, number & 0xffff_ffff).filter(|d| d.block || (d.major, d.minor) != (0, 0))
}

/// Makes what `mknod` was to make, with its record; gives it as a place.
pub(super) fn make(
    proc: &Proc,
    tid: i32,
    (dir, path): (i32, &[u8]),
    kind: FileType,
    mode: u32,
    record: Record,
) -> io::Result<OwnedFd> {
    let Some(name) = last_name(path) else { return Err(io::Error::from_raw_os_error(libc::EEXIST)) };
    let parent = proc.parent(tid, dir, path)?;
    let kind = if record.device.is_some() { FileType::Socket } else { kind };
    let (mode, umask) = (Mode::from_raw_mode(mode & 0o7777), proc.umask(tid)?);
    with_umask(umask, || rustix::fs::mknodat(&parent, name, kind, mode, 0))?;
    let undo = |e: io::Error| {
        // The first error is the one to tell.
        let _ = rustix::fs::unlinkat(&parent, name, AtFlags::empty());
        e
    };
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::CLOEXEC;
    let fd = rustix::fs::openat(&parent, name, flags, Mode::empty())?;
    let caller = proc.owner(tid)?;
    if (caller.uid, caller.gid) != (0, 0) && record.owner == (0, 0) {
        let stat = rustix::fs::fstat(&fd)?;
        // Else it has the group of a set-group-id directory.
        let group = (stat.st_gid == 0).then(|| Gid::from_raw(caller.gid));
        rustix::fs::chownat(&fd, "", Some(Uid::from_raw(caller.uid)), group, AtFlags::EMPTY_PATH)
            .map_err(|e| undo(e.into()))?;
    }
    match record.write(&fd, kind) {
        Ok(()) => Ok(fd),
        // Where there is no record for an owner, it is root's; a device that is none would be a lie.
        Err(rustix::io::Errno::PERM | rustix::io::Errno::OPNOTSUPP) if record.device.is_none() => Ok(fd),
        Err(rustix::io::Errno::OPNOTSUPP) => Err(undo(io::Error::from_raw_os_error(libc::EPERM))),
        Err(e) => Err(undo(e.into())),
    }
}
