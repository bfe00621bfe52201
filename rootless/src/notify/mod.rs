//! Answers system calls of a step in the kernel's stead (seccomp user notification).
//!
//! The program installs a filter and sends its listener to the step process, which is single-threaded, outside of the
//! step's root and pid namespace, and answers from its poll loop. What a call's arguments point to is read from the
//! caller's memory, and can be changed by another thread of the caller afterwards: so an answer is either complete in
//! itself, or [`Answer::Continue`] where the kernel's own answer would have been allowed anyway. Nothing here guards
//! anything: that is what namespaces, Landlock and the other filters are for.

mod arguments;
mod creds;
mod files;
mod ids;
mod looks;
mod memory;
mod nodes;
mod open_files;
mod paths;
mod procfs;
mod signals;
mod stat;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FileType, Mode, Stat};

use crate::ownership::by_descriptor;
use crate::seccomp::{CallNames, Trap};
use crate::step::{Emulation, StepSpec};
use crate::sys::{self, Answer, Notification, Program};
pub(crate) use procfs::{MACHINE_FILES, MADE_UP_FILES, PRIVATE_FILES, PUBLIC_FILES};

pub(crate) use arguments::ArgumentReader;
use ids::IdEmulation;
use nodes::NodeEmulation;
pub(crate) use paths::{PathEmulation, Program as Planned};
use procfs::ProcEmulation;

/// The filter that takes from the kernel what a step's emulation answers.
pub(crate) fn filter(emulation: Emulation) -> Program {
    match emulation {
        Emulation::Paths => crate::seccomp::closed_filter(&traps(emulation)),
        _ => crate::seccomp::trap_filter(&traps(emulation)),
    }
}

/// The calls a step's emulation takes from the kernel.
fn traps(emulation: Emulation) -> Vec<Trap> {
    match emulation {
        Emulation::Proc => procfs::traps(),
        Emulation::Ids => ids::traps(),
        Emulation::Nodes => nodes::TRAPS.to_vec(),
        Emulation::Paths => paths::rules(),
        Emulation::None | Emulation::Errno => Vec::new(),
    }
}

/// What [`Emulation::Errno`] lets succeed without doing it.
pub(crate) fn errno_traps() -> Vec<Trap> {
    ids::errno_traps()
}

/// Answers the calls of one step.
pub(crate) struct Supervisor {
    /// Where the listener comes from.
    socket: UnixStream,
    listener: Option<OwnedFd>,
    /// Nobody uses the filter any more.
    closed: bool,
    names: CallNames,
    emulator: Emulator,
}

enum Emulator {
    Proc(ProcEmulation),
    Ids(IdEmulation),
    Nodes(NodeEmulation),
    Paths(Box<PathEmulation>),
}

impl Emulator {
    fn proc(&mut self) -> &mut files::Proc {
        match self {
            Self::Proc(emulation) => emulation.proc(),
            Self::Ids(emulation) => emulation.proc(),
            Self::Nodes(emulation) => emulation.proc(),
            Self::Paths(emulation) => emulation.proc(),
        }
    }
}

/// One call, decoded.
pub(crate) struct Call {
    pub(crate) name: &'static str,
    pub(crate) tid: i32,
    pub(crate) args: [u64; 6],
    /// A call of i386 or 32-bit ARM, whose id calls without a number in their name have 16-bit ids.
    pub(crate) narrow: bool,
    /// The caller's pointers and structures are those of a 32-bit architecture.
    pub(crate) compat: bool,
}

impl Supervisor {
    pub(crate) fn new(spec: &StepSpec, socket: UnixStream) -> io::Result<Self> {
        let names = CallNames::new(traps(spec.emulation).iter().map(|(name, _, _)| *name));
        let emulator = match spec.emulation {
            Emulation::Ids => Emulator::Ids(IdEmulation::new(spec)?),
            Emulation::Nodes => Emulator::Nodes(NodeEmulation::new()?),
            Emulation::Paths => Emulator::Paths(Box::new(PathEmulation::new(spec)?)),
            _ => Emulator::Proc(ProcEmulation::new(&spec.rootfs)?),
        };
        Ok(Self { socket, listener: None, closed: false, names, emulator })
    }

    /// What to poll for reading.
    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        if self.closed {
            return None;
        }
        Some(self.listener.as_ref().map_or_else(|| self.socket.as_fd(), AsFd::as_fd))
    }

    /// What answers for paths, where something does.
    pub(crate) fn paths(&mut self) -> Option<&mut PathEmulation> {
        match &mut self.emulator {
            Emulator::Paths(emulation) => Some(emulation),
            _ => None,
        }
    }

    /// To be called when the step has ended and its root is still there.
    pub(crate) fn finish(&self) {
        if let Emulator::Nodes(emulation) = &self.emulator {
            emulation.finish();
        }
    }

    /// Does what [`Self::fd`] is ready for.
    pub(crate) fn serve(&mut self) -> io::Result<()> {
        let Some(listener) = &self.listener else {
            self.listener = sys::receive_fd(self.socket.as_fd())?;
            match &self.listener {
                Some(listener) => {
                    sys::notify_wake_up_in_step(listener.as_fd());
                    if matches!(self.emulator, Emulator::Ids(_) | Emulator::Paths(_)) {
                        crate::ownership::work_among_descriptors();
                    }
                }
                // The program ended before it had a filter.
                None => self.closed = true,
            }
            return Ok(());
        };
        let Some(request) = sys::notify_receive(listener.as_fd())? else {
            let mut fds = [PollFd::new(listener, PollFlags::empty())];
            let now = rustix::fs::Timespec { tv_sec: 0, tv_nsec: 0 };
            self.closed = poll(&mut fds, Some(&now)).is_ok() && fds[0].revents().contains(PollFlags::HUP);
            return Ok(());
        };
        self.emulator.proc().answers(listener, request.id)?;
        if let Emulator::Paths(emulation) = &mut self.emulator
            && let Some(answer) = emulation.take_given(request.pid)
        {
            sys::notify_answer(listener.as_fd(), request.id, &answer);
            return Ok(());
        }
        let answer = match decode(&self.names, &request) {
            Some(call) => match &mut self.emulator {
                Emulator::Proc(emulation) => emulation.answer(&call),
                Emulator::Ids(emulation) => emulation.answer(&call),
                Emulator::Nodes(emulation) => emulation.answer(&call),
                Emulator::Paths(emulation) => emulation.answer(&call),
            },
            None => Answer::Continue,
        };
        sys::notify_answer(listener.as_fd(), request.id, &answer);
        Ok(())
    }
}

fn decode(names: &CallNames, request: &Notification) -> Option<Call> {
    let name = names.find(request.arch, request.nr)?;
    let mut args = request.args;
    let compat = crate::seccomp::is_32_bit(request.arch);
    if compat {
        // The upper halves of registers are undefined.
        args.iter_mut().for_each(|a| *a &= 0xffff_ffff);
    }
    Some(Call { name, tid: request.pid, args, narrow: compat, compat })
}

impl Call {
    /// An argument that is a C `int`.
    pub(crate) fn int(&self, index: usize) -> i32 {
        #[allow(clippy::cast_possible_truncation)] // The register's low half is the argument.
        let low = self.args[index] as u32;
        i32::from_ne_bytes(low.to_ne_bytes())
    }

    /// An argument that is a C `unsigned int`.
    pub(crate) fn word(&self, index: usize) -> u32 {
        u32::from_ne_bytes(self.int(index).to_ne_bytes())
    }
}

/// Makes something with the caller's umask: that of this process must not show, and the kernel itself leaves it out where a directory
/// has a default access list.
fn with_umask<T>(umask: u32, work: impl FnOnce() -> T) -> T {
    let own = rustix::process::umask(Mode::from_raw_mode(umask & 0o777));
    let result = work();
    rustix::process::umask(own);
    result
}

/// As a change of owner does for everything but directories.
fn clear_set_ids(fd: &OwnedFd, stat: &Stat) {
    let has_some = !matches!(FileType::from_raw_mode(stat.st_mode), FileType::Directory | FileType::Symlink);
    let mut drop = stat.st_mode & 0o4000;
    if stat.st_mode & 0o010 != 0 {
        drop |= stat.st_mode & 0o2000;
    }
    if has_some && drop != 0 {
        // The chown that changed nothing has done it, except where the kernel thinks root may keep them.
        let _ = rustix::fs::chmod(by_descriptor(fd), Mode::from_raw_mode(stat.st_mode & 0o7777 & !drop));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::seccomp::{Action, When, trap_filter};

    #[test]
    #[allow(clippy::print_stderr)]
    fn a_caller_waits_until_it_has_its_answer() {
        let (give, take) = mpsc::channel();
        // The filter is this thread's alone.
        let caller = std::thread::spawn(move || {
            let filter = trap_filter(&[("readlinkat", When::Always, Action::Notify)]);
            let listener = rustix::thread::set_no_new_privs(true)
                .map_err(io::Error::from)
                .and_then(|()| sys::install_listener(&filter));
            let installed = listener.is_ok();
            give.send(listener).expect("because somebody waits for it");
            // SAFETY: both strings are live, and the buffer has the length that is said.
            installed.then(|| unsafe {
                libc::syscall(libc::SYS_readlinkat, libc::AT_FDCWD, c"/".as_ptr(), [0_u8; 8].as_mut_ptr(), 8)
            })
        });
        let listener = match take.recv().expect("because the thread sends it first") {
            Ok(listener) => listener,
            Err(e) => {
                eprintln!("skipped: no seccomp notifications here: {e}");
                return;
            }
        };
        let version = rustix::system::uname().release().to_string_lossy().into_owned();
        let mut version = version.split('.').map(|n| n.parse::<u32>().unwrap_or(0));
        let version = (version.next().unwrap_or(0), version.next().unwrap_or(0));
        assert_eq!(sys::notify_wake_up_in_step(listener.as_fd()), version >= (6, 6));
        let request = sys::notify_receive(listener.as_fd()).expect("receives").expect("a call");
        let mut proc = files::Proc::open().expect("a /proc");
        proc.answers(&listener, request.id).expect("a descriptor");
        assert!(proc.still_waits().is_ok() && proc.base(request.pid, libc::AT_FDCWD).is_ok());
        sys::notify_answer(listener.as_fd(), request.id, &Answer::Value(5));
        assert_eq!(caller.join().expect("ends"), Some(5));
        assert_eq!(proc.still_waits().expect_err("it is gone").raw_os_error(), Some(libc::ESRCH));
        let process = rustix::process::getpid().as_raw_pid();
        let left = proc.base(process, libc::AT_FDCWD).expect_err("whoever has its number now is not asked");
        assert_eq!(left.raw_os_error(), Some(libc::ESRCH));
    }
}
