//! Paths in the arguments of calls, and the `/proc` of whoever makes them.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::memory::{Ids, Memory};
use crate::sys;

/// Our `/proc`, opened once.
#[derive(Debug)]
pub(super) struct Proc {
    dir: OwnedFd,
    /// The root of all of the step's processes, as long as none has changed its own.
    shared_root: SharedRoot,
    /// The name of that root here; empty where it is ours.
    root_path: Vec<u8>,
    /// The call that is being answered.
    asked: Option<(OwnedFd, u64)>,
    /// The thread that is asked about is stopped by its tracer, and waits for no answer.
    stopped: bool,
    /// What descriptors stand for that processes were given in the place of one that says where something is: by device and
    /// inode, the newest last.
    stand_ins: VecDeque<((u64, u64), OwnedFd)>,
}

/// So many stand-ins are known. Programs open a place, do something with it and close it.
const STAND_INS: usize = 256;

#[derive(Debug)]
enum SharedRoot {
    /// Nobody would tell of changes, or somebody has changed it.
    No,
    Unknown,
    Known(OwnedFd),
}

impl Proc {
    pub(super) fn open() -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(CWD, "/proc", flags, Mode::empty())?;
        Ok(Self {
            dir,
            shared_root: SharedRoot::No,
            root_path: Vec::new(),
            asked: None,
            stopped: false,
            stand_ins: VecDeque::new(),
        })
    }

    /// From now on another call is answered.
    pub(super) fn answers(&mut self, listener: &OwnedFd, id: u64) -> io::Result<()> {
        self.stopped = false;
        match &mut self.asked {
            Some((_, asked)) => *asked = id,
            None => self.asked = Some((listener.try_clone()?, id)),
        }
        Ok(())
    }

    /// Until the next call is answered threads are asked about that a tracer has stopped: their numbers are nobody else's.
    pub(super) fn asks_the_stopped(&mut self) {
        self.stopped = true;
    }

    /// To be called between opening what a thread's number leads to and using it: a thread that is killed leaves its number to
    /// another process, which may be one outside of the step.
    ///
    /// # Errors
    /// If the caller is gone.
    pub(super) fn still_waits(&self) -> io::Result<()> {
        match &self.asked {
            Some((listener, id)) if !self.stopped && !sys::notify_waits(listener.as_fd(), *id) => {
                Err(io::Error::from_raw_os_error(libc::ESRCH))
            }
            _ => Ok(()),
        }
    }

    /// The root of the step's processes has this real name.
    pub(super) fn name_root(&mut self, path: Vec<u8>) {
        self.root_path = path;
    }

    /// Paths are looked up below this directory, whatever root processes have.
    pub(super) fn answer_below(&mut self, root: OwnedFd) {
        self.shared_root = SharedRoot::Known(root);
    }

    /// A name of ours as one below the step's root; `None` for what is not in it.
    pub(super) fn inside<'a>(&self, path: &'a [u8]) -> Option<&'a [u8]> {
        let rest = path.strip_prefix(self.root_path.as_slice())?;
        match rest.first() {
            None => Some(b"/"),
            Some(b'/') => Some(rest),
            Some(_) => None,
        }
    }

    /// Has another process answer the call of `tid`, with a descriptor that may be long in coming. A signal to the caller ends it
    /// before.
    ///
    /// # Errors
    /// When there can be no other process.
    pub(super) fn answer_elsewhere(
        &self,
        tid: i32,
        cloexec: bool,
        open: impl Fn() -> io::Result<OwnedFd>,
    ) -> io::Result<sys::Answer> {
        /// Of the kernel: the call is made again unless the signal has a handler.
        const ERESTARTNOHAND: i32 = 514;
        let Some((listener, id)) = &self.asked else { return Err(io::Error::from_raw_os_error(libc::ESRCH)) };
        if let sys::Fork::Child = sys::fork()? {
            let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
            // Without it the call waits on, as it does for others that a step cannot interrupt.
            let _ = sys::interrupt_waiting();
            let opened = loop {
                match open() {
                    Err(e) if e.kind() == io::ErrorKind::Interrupted && !self.has_signal(tid) => {}
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => break Err(ERESTARTNOHAND),
                    other => break other.map_err(|e| e.raw_os_error().unwrap_or(libc::EIO)),
                }
            };
            match opened {
                // A pipe is at its end, or has no other side, only when nobody holds it: this process must not be the last.
                Ok(fd) => sys::notify_hand_over(listener.as_fd(), *id, fd, cloexec),
                Err(code) => sys::notify_answer(listener.as_fd(), *id, &sys::Answer::Error(code)),
            }
            sys::exit_now(0);
        }
        Ok(sys::Answer::Elsewhere)
    }

    /// Whether a signal has come for a thread that would be delivered if it did not wait for us.
    fn has_signal(&self, tid: i32) -> bool {
        let Ok(text) = self.read(&format!("{tid}/status")) else { return true };
        let mask = |field: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(field)).unwrap_or_default();
            u64::from_str_radix(line.trim(), 16).unwrap_or(0)
        };
        (mask("SigPnd:") | mask("ShdPnd:")) & !mask("SigBlk:") != 0
    }

    /// Every process has the same root until [`Self::roots_differ`] is called.
    pub(super) fn share_root(&mut self) {
        self.shared_root = SharedRoot::Unknown;
    }

    /// A process changes its root.
    pub(super) fn roots_differ(&mut self) {
        self.shared_root = SharedRoot::No;
    }

    /// Looks the root up where it is shared, for a thread that makes a call.
    pub(super) fn remember_root(&mut self, tid: i32) {
        if matches!(self.shared_root, SharedRoot::Unknown) {
            self.shared_root = self.root_of(tid).map_or(SharedRoot::No, SharedRoot::Known);
        }
    }

    fn root_of(&self, tid: i32) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(self.fd(), format!("{tid}/root"), flags, Mode::empty())?;
        self.still_waits()?;
        Ok(root)
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// The ids a thread's files in `/proc` belong to: its effective ones, or root's where it is not dumpable.
    pub(super) fn owner(&self, tid: i32) -> io::Result<Ids> {
        let stat = rustix::fs::statat(&self.dir, tid.to_string(), AtFlags::empty())?;
        Ok(Ids { uid: stat.st_uid, gid: stat.st_gid })
    }

    /// What a thread's directory is known by in `/proc`: no two threads have the same.
    pub(super) fn inode(&self, tid: i32) -> io::Result<u64> {
        Ok(rustix::fs::statat(&self.dir, tid.to_string(), AtFlags::empty())?.st_ino)
    }

    /// Reads a small file. The kernel makes as much of these as there is room for, so that a page takes one call.
    pub(super) fn read(&self, path: &str) -> io::Result<String> {
        let fd = rustix::fs::openat(&self.dir, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let mut page = [0; 4096];
        let length = rustix::io::read(&fd, &mut page)?;
        let mut bytes = page[..length].to_vec();
        if length == page.len() {
            io::Read::read_to_end(&mut std::fs::File::from(fd), &mut bytes)?;
        }
        String::from_utf8(bytes).map_err(|_| io::ErrorKind::InvalidData.into())
    }

    /// The text of a link.
    pub(super) fn link(&self, path: &str) -> io::Result<Vec<u8>> {
        Ok(rustix::fs::readlinkat(&self.dir, path, Vec::new())?.into_bytes())
    }

    /// A field of a process's `status`, as numbers.
    pub(super) fn status_numbers(&self, tid: i32, field: &str) -> io::Result<Vec<u32>> {
        let text = self.read(&format!("{tid}/status"))?;
        let line = text.lines().find_map(|l| l.strip_prefix(field)?.strip_prefix(':')).unwrap_or_default();
        Ok(line.split_ascii_whitespace().filter_map(|n| n.parse().ok()).collect())
    }

    /// The process a thread belongs to.
    pub(super) fn process_of(&self, tid: i32) -> io::Result<i32> {
        let numbers = self.status_numbers(tid, "Tgid")?;
        numbers.first().and_then(|n| i32::try_from(*n).ok()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// What a call's directory argument means.
    pub(super) fn base(&self, tid: i32, dir: i32) -> io::Result<OwnedFd> {
        let link = if dir == libc::AT_FDCWD { format!("{tid}/cwd") } else { format!("{tid}/fd/{dir}") };
        match rustix::fs::openat(self.fd(), link, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
            Err(Errno::NOENT) => Err(io::Error::from_raw_os_error(libc::EBADF)),
            other => {
                let base = other?;
                self.still_waits()?;
                match self.stand_ins.is_empty() {
                    true => Ok(base),
                    false => self.stood_for(base),
                }
            }
        }
    }

    /// A descriptor to give to a process for a place: the kernel hands on none that only say where something is.
    pub(super) fn stand_in(&mut self, place: OwnedFd) -> io::Result<OwnedFd> {
        let given = rustix::fs::memfd_create(c"place", rustix::fs::MemfdFlags::CLOEXEC)?;
        if self.stand_ins.len() >= STAND_INS {
            self.stand_ins.pop_front();
        }
        self.stand_ins.push_back((identity(&given)?, place));
        Ok(given)
    }

    /// The place that a descriptor stands for, or itself.
    fn stood_for(&self, fd: OwnedFd) -> io::Result<OwnedFd> {
        let own = identity(&fd)?;
        match self.stand_ins.iter().rev().find(|(identity, _)| *identity == own) {
            Some((_, place)) => Ok(place.try_clone()?),
            None => Ok(fd),
        }
    }

    /// Opens `path` as the thread would.
    pub(super) fn lookup(&self, tid: i32, dir: i32, path: &[u8], open: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        self.lookup_with(tid, dir, path, open, mode, ResolveFlags::empty())
    }

    /// [`Self::lookup`] with less than is allowed.
    pub(super) fn lookup_with(
        &self,
        tid: i32,
        dir: i32,
        path: &[u8],
        open: OFlags,
        mode: Mode,
        less: ResolveFlags,
    ) -> io::Result<OwnedFd> {
        let text = OsStr::from_bytes(path);
        let joined;
        let mut inside = text;
        if path.first() != Some(&b'/') {
            let base = self.base(tid, dir)?;
            match rustix::fs::openat2(&base, text, open, mode, less | ResolveFlags::BENEATH) {
                // Upwards, or through a link from the root: by the directory's name then.
                Err(Errno::XDEV) => {}
                other => return Ok(other?),
            }
            let link = if dir == libc::AT_FDCWD { format!("{tid}/cwd") } else { format!("{tid}/fd/{dir}") };
            let base = self.link(&link)?;
            self.still_waits()?;
            let base = self.inside(&base).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))?;
            joined = PathBuf::from(OsString::from_vec(base.to_vec())).join(text);
            inside = joined.as_os_str();
        }
        let own;
        let root = match &self.shared_root {
            SharedRoot::Known(root) => root,
            SharedRoot::No | SharedRoot::Unknown => {
                own = self.root_of(tid)?;
                &own
            }
        };
        Ok(rustix::fs::openat2(root, inside, open, mode, less | ResolveFlags::IN_ROOT)?)
    }

    /// Opens what a call names, as a place only.
    pub(super) fn resolve(&self, tid: i32, dir: i32, path: Option<u64>, flags: i32) -> io::Result<OwnedFd> {
        let path = match path {
            Some(address) => Memory::new(tid, Ids::ROOT).string(address)?,
            None => Vec::new(),
        };
        let mut open = OFlags::PATH | OFlags::CLOEXEC;
        if flags & libc::AT_SYMLINK_NOFOLLOW != 0 {
            open |= OFlags::NOFOLLOW;
        }
        if path.is_empty() {
            if flags & libc::AT_EMPTY_PATH == 0 {
                return Err(io::Error::from_raw_os_error(libc::ENOENT));
            }
            return self.base(tid, dir);
        }
        self.lookup(tid, dir, &path, open, Mode::empty())
    }

    /// The directory that a path is in.
    pub(super) fn parent(&self, tid: i32, dir: i32, path: &[u8]) -> io::Result<OwnedFd> {
        let above = match Path::new(OsStr::from_bytes(path)).parent() {
            Some(above) if !above.as_os_str().is_empty() => above.as_os_str().as_bytes(),
            _ => b".",
        };
        self.lookup(tid, dir, above, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
    }

    /// The number of the terminal that controls a thread's session; 0 without one.
    pub(super) fn terminal(&self, tid: i32) -> io::Result<i32> {
        let text = self.read(&format!("{tid}/stat"))?;
        // State, parent, group, session and terminal come behind the name, which can hold anything.
        let field = text.rsplit_once(')').and_then(|(_, rest)| rest.split_ascii_whitespace().nth(4)?.parse().ok());
        Ok(field.unwrap_or(0))
    }

    /// What is taken from the mode of new files.
    pub(super) fn umask(&self, tid: i32) -> io::Result<u32> {
        let text = self.read(&format!("{tid}/status"))?;
        let line = text.lines().find_map(|l| l.strip_prefix("Umask:")).unwrap_or("0022");
        Ok(u32::from_str_radix(line.trim(), 8).unwrap_or(0o022))
    }

    /// Whether a thread has this capability in its user namespace.
    pub(super) fn has_capability(&self, tid: i32, number: u32) -> io::Result<bool> {
        let text = self.read(&format!("{tid}/status"))?;
        let line = text.lines().find_map(|l| l.strip_prefix("CapEff:")).unwrap_or_default();
        Ok(u64::from_str_radix(line.trim(), 16).unwrap_or(0) >> number & 1 == 1)
    }
}

#[allow(clippy::useless_conversion)] // Narrower on some architectures.
fn identity(fd: &OwnedFd) -> io::Result<(u64, u64)> {
    let stat = rustix::fs::fstat(fd)?;
    Ok((stat.st_dev.into(), stat.st_ino.into()))
}

/// The last component of a path, where a call may make something; `None` for `..` and the like.
pub(super) fn last_name(path: &[u8]) -> Option<&OsStr> {
    Path::new(OsStr::from_bytes(path)).file_name()
}

/// The components of an absolute path, without `.`, with `..` resolved by name.
pub(super) fn components(path: &[u8]) -> Vec<&[u8]> {
    let mut out = Vec::new();
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(out.pop()),
            name => out.push(name),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_taken_apart() {
        assert_eq!(components(b"//proc/./self/../1/"), [b"proc" as &[u8], b"1"]);
        assert!(components(b"/..").is_empty());
    }

    #[test]
    fn our_own_process_is_found() {
        let proc = Proc::open().expect("a /proc");
        let own = rustix::process::getpid().as_raw_pid();
        assert_eq!(proc.process_of(own).expect("exists"), own);
        assert_eq!(proc.owner(own).expect("exists").uid, rustix::process::geteuid().as_raw());
    }
}
