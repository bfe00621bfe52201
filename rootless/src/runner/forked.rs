//! Steps without namespaces: a forked child of this process.
//!
//! There is no pid namespace whose end would take everything along, so the step process is the subreaper of all that the
//! program starts, and hunts it down at the end.

use std::io;
use std::os::fd::OwnedFd;

use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::process::PidfdFlags;

use super::errors::ErrorPipe;
use super::executor::StepExecutor;
use super::{descendants, kill};
use crate::notify::Supervisor;
use crate::step::{StepOutcome, StepSpec, Usage};
use crate::sys;

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
