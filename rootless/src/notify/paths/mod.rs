//! Every call with a path or an owner, for steps that have neither a root of their own nor anybody's privileges (isolation
//! `ptrace`).
//!
//! The supervisor does what the call asks for inside of the step's root, which the kernel keeps it in (`RESOLVE_IN_ROOT`), and gives
//! the caller the result: nothing that the caller could change meanwhile is used by the kernel, so there is no way out by links or
//! races. A call that is not known here is refused by the filter ([`calls`]). Owners and devices are recorded
//! ([`crate::ownership`]), ids pretended ([`super::creds`]), and what is below `/proc` is [`super::procfs`]'s. What the caller alone can
//! do, as to become another program, is prepared here and brought about by [`crate::trace`].

mod attributes;
mod calls;
mod capable;
mod look;
mod open;
mod permission;
mod programs;
mod reach;
mod sockets;
mod tree;

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{FileType, OFlags, Stat};

use super::Call;
use super::creds::{self, CredTable};
use super::files::Proc;
use super::memory::{Ids, Memory};
use super::procfs::{self, ProcEmulation};
use crate::capabilities::Capabilities;
use crate::ownership::Record;
use crate::step::StepSpec;
use crate::sys::Answer;

pub(crate) use calls::rules;
use permission::By;
pub(crate) use programs::Program;
use programs::Started;
use reach::Target;
use sockets::Sockets;

/// `PR_SET_DUMPABLE`: whoever cannot be looked into cannot be answered.
const PR_SET_DUMPABLE: u32 = 4;
/// Uses of `prctl` that are answered.
const PRCTL: &[u32] = &[PR_SET_DUMPABLE, creds::PR_SET_KEEPCAPS, creds::PR_SET_SECUREBITS];

/// The emulation for one step.
pub(crate) struct PathEmulation {
    procfs: ProcEmulation,
    creds: CredTable,
    capabilities: Capabilities,
    sockets: Sockets,
    /// What threads are to be given by the next answer.
    given: HashMap<i32, OwnedFd>,
    /// Processes whose loader has not opened their program yet.
    loading: HashMap<i32, Started>,
}

impl PathEmulation {
    pub(crate) fn new(spec: &StepSpec) -> io::Result<Self> {
        crate::ownership::work_without_privileges();
        let mut procfs = ProcEmulation::new(&spec.rootfs)?;
        let root = procfs.root().try_clone()?;
        procfs.proc().answer_below(root);
        let (creds, sockets) = (CredTable::new(spec), Sockets::default());
        Ok(Self {
            procfs,
            creds,
            capabilities: spec.capabilities,
            sockets,
            given: HashMap::new(),
            loading: HashMap::new(),
        })
    }

    /// The calls that are answered without waiting for anybody.
    pub(crate) fn answered_at_once() -> impl Iterator<Item = &'static str> {
        calls::answered_at_once()
    }

    pub(super) fn proc(&mut self) -> &mut Proc {
        self.procfs.proc()
    }

    /// The next call of a thread, whatever it is, is answered with this descriptor.
    pub(crate) fn give(&mut self, tid: i32, fd: OwnedFd) {
        self.given.insert(tid, fd);
    }

    /// What [`Self::give`] was told for this thread.
    pub(super) fn take_given(&mut self, tid: i32) -> Option<Answer> {
        self.given.remove(&tid).map(|fd| Answer::Fd { fd, cloexec: true })
    }

    /// A directory of the step, open: the kernel hands on no descriptors that only say where something is.
    ///
    /// # Errors
    /// The file system's, and `ENOTDIR`.
    pub(crate) fn directory(&mut self, tid: i32, path: u64) -> io::Result<OwnedFd> {
        self.procfs.proc().asks_the_stopped();
        let path = Memory::new(tid, Ids::ROOT).string(path)?;
        let target = Target { tid, dir: libc::AT_FDCWD, path: &path };
        let found = target.place(self.procfs.proc(), true)?;
        if kind_of(&found)? != FileType::Directory {
            return Err(error(libc::ENOTDIR));
        }
        self.permit(tid, &found, permission::EXECUTE, By::Effective)?;
        // Entered by its owner, who is not root.
        if rustix::fs::fstat(&found)?.st_mode & 0o100 == 0 {
            return Err(error(libc::EACCES));
        }
        Self::reopened(&found, OFlags::RDONLY | OFlags::DIRECTORY)
    }

    pub(super) fn answer(&mut self, call: &Call) -> Answer {
        if call.name == "prctl" && call.word(0) == PR_SET_DUMPABLE {
            return Answer::Value(0);
        }
        if let Some(answer) = self.creds.answer(self.procfs.proc(), call) {
            return match answer {
                // Of what comes here on its own account only this is not for the kernel.
                Ok(Answer::Continue) if call.word(0) == creds::PR_SET_SECUREBITS => Answer::Value(0),
                other => settled(other),
            };
        }
        // An owner is recorded, of what is open too.
        if procfs::is_about_paths(call) && !matches!(call.name, "chown" | "fchownat") {
            match self.procfs.answer(call) {
                // Not below /proc, or something that is in its skeleton.
                Answer::Continue => {}
                answer => return answer,
            }
        }
        settled(self.answer_path(call))
    }

    fn answer_path(&mut self, call: &Call) -> io::Result<Answer> {
        let a = &call.args;
        let cwd = libc::AT_FDCWD;
        match call.name {
            "open" | "openat" | "openat2" | "creat" => self.open(call),
            "stat" | "lstat" | "fstat" | "newfstatat" | "statx" => self.stat(call),
            "access" => self.access(call.tid, cwd, a[0], call.word(1), 0),
            "faccessat" => self.access(call.tid, call.int(0), a[1], call.word(2), 0),
            "faccessat2" => self.access(call.tid, call.int(0), a[1], call.word(2), call.int(3)),
            "readlink" => self.readlink(call.tid, cwd, a[0], a[1], a[2]),
            "readlinkat" => self.readlink(call.tid, call.int(0), a[1], a[2], a[3]),
            "getcwd" => self.getcwd(call.tid, a[0], a[1]),
            "statfs" => self.statfs(call.tid, a[0], a[1]),
            "unlink" => self.unlink(call.tid, cwd, a[0], 0),
            "rmdir" => self.unlink(call.tid, cwd, a[0], libc::AT_REMOVEDIR),
            "unlinkat" => self.unlink(call.tid, call.int(0), a[1], call.int(2)),
            "mkdir" => self.mkdir(call.tid, cwd, a[0], call.word(1)),
            "mkdirat" => self.mkdir(call.tid, call.int(0), a[1], call.word(2)),
            "mknod" => self.mknod(call.tid, cwd, a[0], call.word(1), a[2]),
            "mknodat" => self.mknod(call.tid, call.int(0), a[1], call.word(2), a[3]),
            "rename" => self.rename(call.tid, (cwd, a[0]), (cwd, a[1]), 0),
            "renameat" => self.rename(call.tid, (call.int(0), a[1]), (call.int(2), a[3]), 0),
            "renameat2" => self.rename(call.tid, (call.int(0), a[1]), (call.int(2), a[3]), call.word(4)),
            "link" => self.link(call.tid, (cwd, a[0]), (cwd, a[1]), 0),
            "linkat" => self.link(call.tid, (call.int(0), a[1]), (call.int(2), a[3]), call.int(4)),
            "symlink" => self.symlink(call.tid, a[0], cwd, a[1]),
            "symlinkat" => self.symlink(call.tid, a[0], call.int(1), a[2]),
            "bind" => self.bind(call),
            "connect" => self.connect(call),
            "socket" => self.sockets.make(call),
            "capget" => self.capget(call),
            "capset" => Self::capset(call),
            _ => self.change(call),
        }
    }

    fn string(tid: i32, address: u64) -> io::Result<Vec<u8>> {
        Memory::new(tid, Ids::ROOT).string(address)
    }
}

fn settled(result: io::Result<Answer>) -> Answer {
    result.unwrap_or_else(|e| Answer::Error(e.raw_os_error().unwrap_or(libc::EPERM)))
}

fn error(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

fn kind_of(fd: impl AsFd) -> io::Result<FileType> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode))
}

/// What something is, and what is recorded of it.
fn recorded(fd: &OwnedFd) -> io::Result<(Stat, Record)> {
    let stat = rustix::fs::fstat(fd)?;
    Ok((stat, Record::of_fd(fd, FileType::from_raw_mode(stat.st_mode))?))
}
