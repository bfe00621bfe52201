//! Starts the worker inside the namespaces of a rung.
//!
//! The caller is single-threaded: a user namespace can be entered only by such a process, and `fork` in it leaves the
//! child with a consistent heap. The child unshares, the parent (or the setuid helpers it starts) writes the id maps,
//! then the child goes on as the worker. It executes nothing: what was parsed and read by then need not be once more,
//! and a program of this size takes 2 ms to begin.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::panic::AssertUnwindSafe;
use std::process::{Command, ExitStatus, Stdio};

use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{DumpableBehavior, PidfdFlags};
use rustix::thread::UnshareFlags;

use crate::idmap::{IdMaps, helper_args, identity_map};
use crate::report::{IdMapping, ProbeReport, Rung};
use crate::sys::{self, Context, Fork, SysError};

/// What the worker does with the descriptors it was given; its exit code.
pub type Work<'a> = Box<dyn FnOnce(Vec<OwnedFd>) -> u8 + 'a>;

/// The worker to start.
pub struct WorkerCommand<'a> {
    /// Which namespaces, which ids. With [`Rung::None`] the worker gets no namespaces at all.
    pub report: &'a ProbeReport,
    /// What it does. Nothing that it borrows from the caller is dropped in the worker.
    pub work: Work<'a>,
    /// Stay open in the worker; everything else above 2 is closed.
    pub fds: Vec<OwnedFd>,
}

/// Why no worker could be started.
#[derive(Debug, thiserror::Error)]
pub enum EnterError {
    /// A system call failed.
    #[error(transparent)]
    Sys(#[from] SysError),
    /// `newuidmap` or `newgidmap` failed.
    #[error("{program} failed: {message}")]
    Helper {
        /// Which.
        program: &'static str,
        /// What it said, or its exit status.
        message: String,
    },
    /// The new process could not do its part.
    #[error("cannot {0}")]
    Child(String),
}

/// A started worker.
#[derive(Debug)]
pub struct WorkerHandle {
    pid: i32,
    pidfd: OwnedFd,
    signals: SignalFd,
    mask: SigSet,
}

impl Drop for WorkerHandle {
    fn drop(&mut self) {
        // Whoever still runs after the worker can be interrupted again.
        let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&self.mask), None);
    }
}

/// What the handle takes over from the process.
const FORWARDED: [Signal; 6] =
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGUSR2];

impl WorkerHandle {
    /// Process id, in the caller's pid namespace.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Waits for the worker's end and forwards the signals that people and supervisors send to it meanwhile.
    ///
    /// A signal from the terminal reaches the whole process group and with it the worker; only those sent to the
    /// caller alone are passed on, so that one Ctrl-C is not taken for two.
    ///
    /// # Errors
    /// When waiting is impossible.
    pub fn wait(self) -> Result<ExitStatus, EnterError> {
        loop {
            let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN), PollFd::new(&self.signals, PollFlags::IN)];
            match poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(SysError { what: "wait for the worker".into(), source: e.into() }.into()),
            }
            let (ended, signalled) = (!fds[0].revents().is_empty(), !fds[1].revents().is_empty());
            if signalled {
                while let Ok(Some(info)) = self.signals.read_signal() {
                    let from_terminal = info.ssi_code == libc::SI_KERNEL;
                    let signal = i32::try_from(info.ssi_signo).ok().and_then(rustix::process::Signal::from_named_raw);
                    if let (false, Some(signal)) = (from_terminal, signal) {
                        // An error means the worker has just ended.
                        let _ = rustix::process::pidfd_send_signal(&self.pidfd, signal);
                    }
                }
            }
            if ended {
                let (status, _) = sys::wait_usage(self.pid).what(|| "wait for the worker".into())?;
                return Ok(ExitStatus::from_raw(status));
            }
        }
    }
}

/// [`spawn_worker`] and [`WorkerHandle::wait`].
///
/// # Errors
/// See there.
pub fn enter(command: WorkerCommand<'_>) -> Result<ExitStatus, EnterError> {
    spawn_worker(command)?.wait()
}

/// Starts a worker. The caller must be single-threaded; it may start threads afterwards. From here on the signals
/// that [`WorkerHandle::wait`] passes on are blocked in the caller.
///
/// # Errors
/// When a namespace, a map or the program's start is refused.
pub fn spawn_worker(command: WorkerCommand<'_>) -> Result<WorkerHandle, EnterError> {
    let WorkerCommand { report, work, fds } = command;
    let mut blocked = SigSet::empty();
    FORWARDED.iter().for_each(|s| blocked.add(*s));
    let mut before = SigSet::empty();
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&blocked), Some(&mut before)).what(|| "block signals".into())?;
    let started = start(report, work, fds, &before).and_then(|pid| {
        let raw = rustix::process::Pid::from_raw(pid).expect("fork returns positive process ids");
        let pidfd = rustix::process::pidfd_open(raw, PidfdFlags::empty()).what(|| "open the worker's pidfd".into())?;
        let signals = SignalFd::with_flags(&blocked, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .what(|| "open a signalfd".into())?;
        // Only now: the maps of a child can be written by helpers only while its files in /proc are the user's.
        rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
            .what(|| "make the program undumpable".into())?;
        Ok(WorkerHandle { pid, pidfd, signals, mask: before })
    });
    if started.is_err() {
        let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&before), None);
    }
    started
}

/// Forks; the child enters the rung's namespaces and works. Returns once it has entered them.
fn start(report: &ProbeReport, work: Work<'_>, fds: Vec<OwnedFd>, mask: &SigSet) -> Result<i32, EnterError> {
    let flags = rustix::pipe::PipeFlags::CLOEXEC;
    let (ready_r, ready_w) = rustix::pipe::pipe_with(flags).what(|| "make a pipe".into())?;
    let (go_r, go_w) = rustix::pipe::pipe_with(flags).what(|| "make a pipe".into())?;
    let broker = rustix::process::getpid();
    match sys::fork().what(|| "fork".into())? {
        Fork::Child => {
            drop((ready_r, go_w));
            if let Err(error) = child(report.rung, broker, &ready_w, go_r, mask) {
                // "!" and the reason; the pipe's end without it is success.
                let _ = rustix::io::write(&ready_w, format!("!{}: {}", error.what, error.source).as_bytes());
                sys::exit_now(125)
            }
            live(work, fds)
        }
        Fork::Parent(pid) => {
            drop((ready_w, go_r, fds));
            let outcome = parent(report, pid, &ready_r, go_w);
            if outcome.is_err() {
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL);
                let _ = sys::wait_usage(pid);
            }
            outcome.map(|()| pid)
        }
    }
}

fn child(
    rung: Rung,
    broker: rustix::process::Pid,
    ready: &OwnedFd,
    go: OwnedFd,
    mask: &SigSet,
) -> Result<(), SysError> {
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(mask), None).what(|| "restore the signal mask".into())?;
    // The files of an undumpable process in /proc belong to root, and nobody else could write its id maps.
    rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable).what(|| "become dumpable".into())?;
    unshare_rung(rung)?;
    rustix::io::write(ready, b"+").what(|| "report to the parent".into())?;
    if rustix::io::read(&go, &mut [0u8; 1]).what(|| "wait for the parent".into())? == 0 {
        sys::exit_now(125);
    }
    drop(go);
    if has_user_namespace(rung) {
        become_root()?;
    }
    // After the change of ids, which clears it. The worker must not outlive the broker.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .what(|| "set the parent death signal".into())?;
    if rustix::process::getppid() != Some(broker) {
        sys::exit_now(125);
    }
    Ok(())
}

/// The rest of the worker's life. What the caller's functions own is neither used nor dropped: it is the broker's.
fn live(work: Work<'_>, fds: Vec<OwnedFd>) -> ! {
    let keep: Vec<_> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    // The end of the pipe to the parent among them: it says that the worker works.
    sys::close_from_except(3, &keep);
    // A panic must not go on in functions that were called in the broker. As a program's of its own it gives 101.
    let code = std::panic::catch_unwind(AssertUnwindSafe(|| work(fds))).unwrap_or(101);
    std::process::exit(i32::from(code))
}

/// Unshares what a worker on `rung` needs.
pub(crate) fn unshare_rung(rung: Rung) -> Result<(), SysError> {
    let flags = match rung {
        Rung::Root => UnshareFlags::NEWNS | UnshareFlags::NEWCGROUP,
        Rung::Userns | Rung::UsernsOne => UnshareFlags::NEWUSER | UnshareFlags::NEWNS | UnshareFlags::NEWCGROUP,
        Rung::Chroot | Rung::Ptrace | Rung::None => return Ok(()),
    };
    sys::unshare(flags).what(|| match rung {
        Rung::Userns | Rung::UsernsOne => "unshare user, mount and cgroup namespaces".into(),
        _ => "unshare mount and cgroup namespaces".into(),
    })
}

fn has_user_namespace(rung: Rung) -> bool {
    matches!(rung, Rung::Userns | Rung::UsernsOne)
}

/// Takes the ids of the namespace's root. Supplementary groups stay: files readable through them must remain so.
pub(crate) fn become_root() -> Result<(), SysError> {
    let (uid, gid) = (rustix::process::Uid::ROOT, rustix::process::Gid::ROOT);
    rustix::thread::set_thread_res_gid(gid, gid, gid).what(|| "become group 0 of the user namespace".into())?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).what(|| "become user 0 of the user namespace".into())
}

fn parent(report: &ProbeReport, pid: i32, ready: &OwnedFd, go: OwnedFd) -> Result<(), EnterError> {
    expect_ready(ready)?;
    if let (true, Some(mapping)) = (has_user_namespace(report.rung), &report.mapping) {
        write_maps(pid, mapping)?;
    }
    rustix::io::write(&go, b"+").what(|| "release the worker".into())?;
    match read_message(ready)? {
        None => Ok(()),
        Some(reason) => Err(EnterError::Child(reason)),
    }
}

/// Waits for the child's "+" and turns its "!reason" into an error.
pub(crate) fn expect_ready(ready: &OwnedFd) -> Result<(), EnterError> {
    match read_message(ready)?.as_deref() {
        Some("+") => Ok(()),
        Some(reason) => Err(EnterError::Child(reason.to_owned())),
        None => Err(EnterError::Child("start the worker: it ended at once".into())),
    }
}

/// One message of a child: "+", or the text after "!". `None` at the end of the pipe.
fn read_message(ready: &OwnedFd) -> Result<Option<String>, SysError> {
    let mut buf = [0u8; 1024];
    let n = loop {
        match rustix::io::read(ready, &mut buf) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other.what(|| "read from the new process".into())?,
        }
    };
    let text = String::from_utf8_lossy(&buf[..n]);
    Ok((n > 0).then(|| text.strip_prefix('!').unwrap_or(&text).to_owned()))
}

/// Writes the id maps of `pid`, which has just unshared its user namespace.
pub(crate) fn write_maps(pid: i32, mapping: &IdMapping) -> Result<(), EnterError> {
    match mapping {
        IdMapping::Direct => {
            let own = IdMaps::current();
            for (file, ranges) in [("uid_map", &own.uids), ("gid_map", &own.gids)] {
                let path = format!("/proc/{pid}/{file}");
                fs::write(&path, identity_map(ranges)).what(|| format!("write {path}"))?;
            }
            Ok(())
        }
        IdMapping::One { own } => {
            // Without it the kernel would let an unprivileged user drop groups that deny him something.
            for (file, text) in [
                ("setgroups", "deny".to_owned()),
                ("gid_map", format!("0 {} 1", own.1)),
                ("uid_map", format!("0 {} 1", own.0)),
            ] {
                let path = format!("/proc/{pid}/{file}");
                fs::write(&path, text).what(|| format!("write {path}"))?;
            }
            Ok(())
        }
        IdMapping::Helpers { own, uids, gids } => {
            // Side by side: each is a setuid program that reads its file, about 2 ms.
            let users = start_helper("newuidmap", pid, &helper_args(own.0, uids))?;
            let groups = start_helper("newgidmap", pid, &helper_args(own.1, gids))?;
            let users = finish_helper("newuidmap", users);
            finish_helper("newgidmap", groups).and(users)
        }
    }
}

fn start_helper(program: &'static str, pid: i32, args: &[String]) -> Result<std::process::Child, EnterError> {
    Command::new(program)
        .arg(pid.to_string())
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| EnterError::Helper { program, message: e.to_string() })
}

fn finish_helper(program: &'static str, child: std::process::Child) -> Result<(), EnterError> {
    let out = child.wait_with_output().map_err(|e| EnterError::Helper { program, message: e.to_string() })?;
    if out.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&out.stderr).trim().replace('\n', "; ");
    Err(EnterError::Helper { program, message: if said.is_empty() { out.status.to_string() } else { said } })
}
