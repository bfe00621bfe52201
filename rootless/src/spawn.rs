//! Starting, watching and killing steps: the worker's side.
//!
//! A step process gets one socket as its standard input. The specification goes in through it, the outcome comes back,
//! and its other end *is* the worker's interest in the step: when it is shut down or the worker dies, the step process
//! kills everything it started. (A parent death signal would not do: it fires when the *thread* that spawned ends.)

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::{PidfdFlags, Signal};

use crate::cgroup::StepGroup;
use crate::exe::SealedExe;
use crate::step::{StepOutcome, StepSpec};
use crate::sys::{self, Context, SysError};

/// The argument that makes this binary a step process.
pub const STEP_ROLE: &str = "__step";

/// Why a step could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// A system call failed.
    #[error(transparent)]
    Sys(#[from] SysError),
    /// The step process ended without telling how the step ended.
    #[error("the step process ended without a result ({0})")]
    NoOutcome(String),
}

/// A step on its way. Dropping it kills it.
#[derive(Debug)]
pub struct RunningStep {
    /// Read end of its standard output; ends when all its processes are gone.
    pub stdout: Option<OwnedFd>,
    /// Read end of its standard error.
    pub stderr: Option<OwnedFd>,
    /// Carries one JSON [`StepOutcome`], then ends.
    pub status: Option<OwnedFd>,
    killer: StepKiller,
    child: Child,
    reaped: bool,
    /// It has nothing to run yet.
    idle: bool,
}

/// A step process that waits to be told what to run. Dropping it ends it.
#[derive(Debug)]
pub struct IdleStep(RunningStep);
/// What a program that is attached reads from and writes to.
#[derive(Debug)]
pub struct StepIo {
    /// Descriptor 0.
    pub stdin: OwnedFd,
    /// Descriptor 1.
    pub stdout: OwnedFd,
    /// Descriptor 2.
    pub stderr: OwnedFd,
}

/// A signal for the program of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepSignal {
    /// The signal of this number. To a program that does not handle it, it does what it does outside of a container:
    /// the kernel alone would not end the first process of a pid namespace.
    Send(u8),
    /// The terminal has sent it already; only what the kernel does not do for the first process is left.
    Typed(u8),
}

impl StepSignal {
    /// As it travels through the step's socket.
    fn to_byte(self) -> u8 {
        match self {
            Self::Send(number) => number & 0x7f,
            Self::Typed(number) => number | 0x80,
        }
    }

    pub(crate) fn from_byte(byte: u8) -> Self {
        if byte & 0x80 == 0 { Self::Send(byte) } else { Self::Typed(byte & 0x7f) }
    }
}

/// Kills a step from anywhere.
#[derive(Debug, Clone)]
pub struct StepKiller {
    socket: Arc<UnixStream>,
    pidfd: Arc<OwnedFd>,
    killed: Arc<AtomicBool>,
}

impl StepKiller {
    /// Kills every process of the step. Does not wait.
    pub fn kill(&self) {
        self.killed.store(true, Ordering::Relaxed);
        // An error means that the other side is gone already.
        let _ = self.socket.shutdown(std::net::Shutdown::Write);
    }

    /// Passes a signal on to the step's program. One that comes before the program has started ends the step.
    pub fn signal(&self, signal: StepSignal) {
        // An error means that the other side is gone already.
        let _ = (&*self.socket).write_all(&[signal.to_byte()]);
    }

    /// Whether [`Self::kill`] was called.
    #[must_use]
    pub fn was_killed(&self) -> bool {
        self.killed.load(Ordering::Relaxed)
    }

    /// The step process; readable when it has ended.
    #[must_use]
    pub fn pidfd(&self) -> &Arc<OwnedFd> {
        &self.pidfd
    }
}

impl RunningStep {
    /// Kills every process of the step. Does not wait.
    pub fn kill(&self) {
        self.killer.kill();
    }

    /// A handle for killing the step while somebody waits for it.
    #[must_use]
    pub fn killer(&self) -> StepKiller {
        self.killer.clone()
    }

    /// Process id of the step process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Reaps the step process and reads the outcome from what came out of [`Self::status`]. Blocks until it has ended,
    /// which is at the end of `status`.
    ///
    /// # Errors
    /// When there is no outcome.
    pub fn finish(mut self, status: &[u8]) -> Result<StepOutcome, SpawnError> {
        self.reaped = true;
        let ended = self.child.wait().what(|| "wait for the step process".into())?;
        match serde_json::from_slice(status) {
            Ok(outcome) => Ok(outcome),
            Err(_) if self.killer.was_killed() => Ok(StepOutcome::Exited { code: 137, usage: Default::default() }),
            Err(_) => Err(SpawnError::NoOutcome(ended.to_string())),
        }
    }

    /// Reads the status to its end and [`Self::finish`]es; the outputs must be read by somebody else meanwhile.
    ///
    /// # Errors
    /// See there.
    pub fn wait(mut self) -> Result<StepOutcome, SpawnError> {
        let mut text = Vec::new();
        if let Some(status) = self.status.take() {
            std::io::Read::read_to_end(&mut std::fs::File::from(status), &mut text)
                .what(|| "read the step's result".into())?;
        }
        self.finish(&text)
    }
}

impl Drop for RunningStep {
    fn drop(&mut self) {
        if self.reaped {
            return;
        }
        self.killer.kill();
        if self.idle {
            // It ends by itself and has started nothing: nobody need wait for it, and whoever ends this process reaps it.
            return;
        }
        // It needs about a millisecond to take its processes down. A step process that is stuck before that is ended
        // with its group; what it started by then has not yet become the user's program.
        let gone = {
            let mut fds =
                [rustix::event::PollFd::from_borrowed_fd(self.killer.pidfd.as_fd(), rustix::event::PollFlags::IN)];
            let patience = rustix::fs::Timespec { tv_sec: 2, tv_nsec: 0 };
            rustix::event::poll(&mut fds, Some(&patience)).is_ok_and(|n| n > 0)
        };
        if !gone {
            let _ = rustix::process::pidfd_send_signal(self.killer.pidfd.as_fd(), Signal::KILL);
        }
        sys::kill_group(i32::try_from(self.child.id()).unwrap_or(0), libc::SIGKILL);
        let _ = self.child.wait();
    }
}

/// What a step is given beside its specification.
#[derive(Debug, Clone, Copy, Default)]
pub struct StepHandles<'a> {
    /// The network namespace of a step with [`Network::Own`](crate::step::Network).
    pub network: Option<BorrowedFd<'a>>,
    /// The control group it runs in, where it has limits.
    pub group: Option<&'a StepGroup>,
}

/// Starts a step whose output is captured; callable from any thread.
///
/// # Errors
/// When the step process cannot be started.
pub fn spawn_step(exe: &SealedExe, spec: &StepSpec, handles: StepHandles<'_>) -> Result<RunningStep, SpawnError> {
    spawn_idle(exe, spec.insecure)?.start(spec, handles)
}

/// Starts a step that reads and writes what it is given. [`StepSpec::attached`] must say so.
///
/// # Errors
/// As [`spawn_step`].
pub fn spawn_attached(
    exe: &SealedExe,
    spec: &StepSpec,
    handles: StepHandles<'_>,
    io: StepIo,
) -> Result<RunningStep, SpawnError> {
    let IdleStep(mut step) = spawn(exe, spec.insecure, Stdio::from(io.stdout), Stdio::from(io.stderr))?;
    step.tell(spec, handles, Some(io.stdin.as_fd()))?;
    Ok(step)
}

/// Starts a step process before it is known what it will run: that takes longer than telling it. `insecure` as in the
/// specification that it will get.
///
/// # Errors
/// When the step process cannot be started.
pub fn spawn_idle(exe: &SealedExe, insecure: bool) -> Result<IdleStep, SpawnError> {
    spawn(exe, insecure, Stdio::piped(), Stdio::piped())
}

fn spawn(exe: &SealedExe, insecure: bool, stdout: Stdio, stderr: Stdio) -> Result<IdleStep, SpawnError> {
    let program = exe.path(insecure).what(|| "copy the program for an insecure step".into())?;
    let (ours, theirs) = UnixStream::pair().what(|| "make a socket pair".into())?;
    // No closure between fork and exec and nothing but standard descriptors: the standard library can then spawn
    // without copying this process's page tables, and no other thread's child can inherit what is meant for this one.
    let mut child = Command::new(program)
        .arg0("rbuild")
        .arg(STEP_ROLE)
        .env_clear()
        .process_group(0)
        .stdin(OwnedFd::from(theirs))
        .stdout(stdout)
        .stderr(stderr)
        .spawn()
        .what(|| "start a step process".into())?;
    let pid =
        i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw).expect("process ids are positive");
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).what(|| "open a step's pidfd".into())?;
    let stdout = child.stdout.take().map(OwnedFd::from);
    let stderr = child.stderr.take().map(OwnedFd::from);
    let status = ours.try_clone().what(|| "duplicate a socket".into())?;
    Ok(IdleStep(RunningStep {
        stdout,
        stderr,
        status: Some(status.into()),
        killer: StepKiller { socket: Arc::new(ours), pidfd: Arc::new(pidfd), killed: Arc::default() },
        child,
        reaped: false,
        idle: true,
    }))
}

impl IdleStep {
    /// Tells it what to run, and gives it what belongs to that.
    ///
    /// # Errors
    /// When it has ended meanwhile.
    pub fn start(self, spec: &StepSpec, handles: StepHandles<'_>) -> Result<RunningStep, SpawnError> {
        let Self(mut step) = self;
        step.tell(spec, handles, None)?;
        Ok(step)
    }
}

impl RunningStep {
    fn tell(
        &mut self,
        spec: &StepSpec,
        handles: StepHandles<'_>,
        stdin: Option<BorrowedFd<'_>>,
    ) -> Result<(), SpawnError> {
        if let Some(group) = handles.group {
            // Before it knows what to do: nothing it starts is outside.
            group.add(self.child.id()).what(|| "put a step into its control group".into())?;
        }
        send(&self.killer.socket, spec, handles.network, stdin)?;
        self.idle = false;
        Ok(())
    }
}

fn send(
    mut socket: &UnixStream,
    spec: &StepSpec,
    network: Option<BorrowedFd<'_>>,
    stdin: Option<BorrowedFd<'_>>,
) -> Result<(), SpawnError> {
    let text = serde_json::to_vec(spec).map_err(std::io::Error::from).what(|| "serialise a step".into())?;
    let length = u64::try_from(text.len()).unwrap_or(u64::MAX).to_le_bytes();
    socket.write_all(&length).and_then(|()| socket.write_all(&text)).what(|| "send a step to its process".into())?;
    if let Some(network) = network {
        sys::send_fd(socket.as_fd(), network).what(|| "send a step its network".into())?;
    }
    if let Some(stdin) = stdin {
        sys::send_fd(socket.as_fd(), stdin).what(|| "send a step its standard input".into())?;
    }
    Ok(())
}
