//! Steps without namespaces of their own: a forked child of this process.
//!
//! There is no pid namespace whose end would take everything along, so the step process is the subreaper of all that the
//! program starts, and hunts it down at the end.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{DumpableBehavior, PidfdFlags};

use super::errors::{ErrorPipe, report};
use super::executor::StepExecutor;
use super::signals::Signals;
use super::{descendants, kill};
use crate::notify::Supervisor;
use crate::step::{StepOutcome, StepSpec, Usage};
use crate::sys::{self, Fork};

/// A step that is about to be forked.
pub(super) struct Prepared {
    /// Becomes the program, in the child.
    pub(super) executor: StepExecutor,
    /// Answers the program's calls, if some are.
    pub(super) supervisor: Option<Supervisor>,
    /// Tells when a child has changed.
    pub(super) children: SignalFd,
    /// What the executor says before it is the program.
    pub(super) errors: ErrorPipe,
}

impl Prepared {
    pub(super) fn new(spec: StepSpec) -> Result<Self, String> {
        if !spec.mounts.is_empty() {
            return Err("a step without a mount namespace was given mounts".into());
        }
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
            .map_err(|e| format!("cannot adopt the step's processes: {e}"))?;
        let errors = ErrorPipe::new().map_err(|e| format!("cannot make a pipe: {e}"))?;
        let (supervisor, theirs) = super::supervisor(&spec)?;
        let executor = StepExecutor::new(spec, errors.writer(), theirs).map_err(|e| errors.explain(&e))?;
        let children = block_child_signals().map_err(|e| format!("cannot watch the step's processes: {e}"))?;
        Ok(Self { executor, supervisor, children, errors })
    }
}

fn block_child_signals() -> nix::Result<SignalFd> {
    let mut set = SigSet::empty();
    set.add(Signal::SIGCHLD);
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), None)?;
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

/// A descriptor of the child that was just forked.
pub(super) fn pidfd_of(pid: i32) -> Result<OwnedFd, String> {
    let process = rustix::process::Pid::from_raw(pid).ok_or("fork gave no process")?;
    rustix::process::pidfd_open(process, PidfdFlags::empty()).map_err(|e| format!("cannot open a pidfd: {e}"))
}

/// Runs a step in a forked child, which does what `enter` says before it is the program.
pub(super) fn run(
    socket: &UnixStream,
    spec: StepSpec,
    enter: impl FnOnce() -> Result<(), String>,
) -> Result<StepOutcome, String> {
    let Prepared { executor, mut supervisor, children, errors } = Prepared::new(spec)?;
    let pid = match sys::fork().map_err(|e| format!("cannot fork: {e}"))? {
        Fork::Child => {
            let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
            let _ = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
            // The caller's session has his terminal, which /dev/tty would open, and processes that a signal to the group reaches.
            // A child just forked leads no group, so it cannot be refused.
            let _ = rustix::process::setsid();
            if let Err(message) = enter() {
                report(&errors.writer(), &message);
                sys::exit_now(125);
            }
            executor.become_program()
        }
        Fork::Parent(pid) => pid,
    };
    // The child has the other ends of what the parent waits on.
    drop(executor);
    let pidfd = pidfd_of(pid)?;
    end(watch(socket, &pidfd, pid, &children, supervisor.as_mut()), &pidfd, &errors)
}

/// Waits for the program, reaps orphans, answers calls; kills everything when the worker loses interest.
fn watch(
    socket: &UnixStream,
    pidfd: &OwnedFd,
    pid: i32,
    children: &SignalFd,
    mut supervisor: Option<&mut Supervisor>,
) -> std::io::Result<(i32, Usage)> {
    let mut interested = true;
    let mut signals = Signals::any_process();
    loop {
        let (ended, worker, orphans, calls) = {
            let mut fds = vec![PollFd::new(pidfd, PollFlags::IN), PollFd::new(children, PollFlags::IN)];
            let mut add = |fd| {
                fds.push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
                fds.len() - 1
            };
            let worker_at = interested.then(|| add(socket.as_fd()));
            let calls_at = supervisor.as_ref().and_then(|s| s.fd()).map(&mut add);
            match poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
            let ready = |at: Option<usize>| at.is_some_and(|at| !fds[at].revents().is_empty());
            (ready(Some(0)), ready(worker_at), ready(Some(1)), ready(calls_at))
        };
        if ended {
            return sys::wait_usage(pid);
        }
        if worker && !signals.pass_on(socket, pidfd) {
            kill(pidfd);
            interested = false;
        }
        if orphans {
            while let Ok(Some(_)) = children.read_signal() {}
            sys::reap_others(pid);
        }
        if let (true, Some(supervisor)) = (calls, supervisor.as_mut()) {
            supervisor.serve()?;
        }
    }
}

/// Ends whatever is left of a step that was watched until it ended, or could not be.
pub(super) fn end(
    watched: io::Result<(i32, Usage)>,
    pidfd: &OwnedFd,
    errors: &ErrorPipe,
) -> Result<StepOutcome, String> {
    if watched.is_err() {
        kill(pidfd);
    }
    let gone = descendants::end_all();
    let (status, usage) = watched.map_err(|e| format!("cannot wait for the step: {e}"))?;
    if !gone {
        return Err("some of the step's processes cannot be ended".into());
    }
    match errors.executor_report() {
        Some(message) => Err(message),
        None => Ok(StepOutcome::Exited { code: sys::exit_code(status), usage }),
    }
}
