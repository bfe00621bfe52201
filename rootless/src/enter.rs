//! Starts the worker inside the namespaces of a rung.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::process::ExitStatus;

use crate::report::ProbeReport;

/// The worker to start: this binary again, with a role.
#[derive(Debug)]
pub struct WorkerCommand<'a> {
    /// Which namespaces, which ids.
    pub report: &'a ProbeReport,
    /// Arguments including the program's name.
    pub argv: Vec<OsString>,
    /// The whole environment; `None` passes on the caller's.
    pub env: Option<Vec<(OsString, OsString)>>,
    /// Become descriptors 3, 4, … of the worker.
    pub fds: Vec<OwnedFd>,
}

/// Why no worker could be started.
#[derive(Debug, thiserror::Error)]
pub enum EnterError {
    /// A system call failed.
    #[error("cannot {what}: {source}")]
    Sys {
        /// What was attempted.
        what: String,
        /// The kernel's answer.
        source: std::io::Error,
    },
}

/// A started worker.
#[derive(Debug)]
pub struct WorkerHandle {
    pid: i32,
}

impl WorkerHandle {
    /// Process id, in the caller's pid namespace.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Waits for the worker's end and forwards SIGINT, SIGTERM and SIGHUP to it meanwhile.
    ///
    /// # Errors
    /// When waiting is impossible.
    pub fn wait(self) -> Result<ExitStatus, EnterError> {
        todo!()
    }
}

/// Starts a worker. The caller must be single-threaded; it may start threads afterwards.
///
/// # Errors
/// When a namespace, a map or the program's start is refused.
pub fn spawn_worker(command: WorkerCommand<'_>) -> Result<WorkerHandle, EnterError> {
    todo!("{command:?}")
}

/// [`spawn_worker`] and [`WorkerHandle::wait`].
///
/// # Errors
/// See there.
pub fn enter(command: WorkerCommand<'_>) -> Result<ExitStatus, EnterError> {
    spawn_worker(command)?.wait()
}
