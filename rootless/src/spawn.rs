//! Starting, watching and killing steps; the worker's side.

use std::os::fd::OwnedFd;

use crate::exe::SealedExe;
use crate::step::StepSpec;

/// Why a step could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// A system call failed.
    #[error("cannot {what}: {source}")]
    Sys {
        /// What was attempted.
        what: &'static str,
        /// The kernel's answer.
        source: std::io::Error,
    },
}

/// A step on its way. Dropping it kills it.
#[derive(Debug)]
pub struct RunningStep {
    /// Read end of its standard output; ends when all its processes are gone.
    pub stdout: Option<OwnedFd>,
    /// Read end of its standard error.
    pub stderr: Option<OwnedFd>,
    /// Carries one JSON [`crate::step::StepOutcome`], then ends.
    pub status: Option<OwnedFd>,
}

impl RunningStep {
    /// Kills every process of the step. Does not wait.
    pub fn kill(&mut self) {
        todo!()
    }
}

/// Starts a step; callable from any thread.
///
/// # Errors
/// When the step process cannot be started.
pub fn spawn_step(exe: &SealedExe, spec: &StepSpec) -> Result<RunningStep, SpawnError> {
    todo!("{exe:?} {spec:?}")
}

/// The `__step` role.
pub fn step_main() -> ! {
    todo!()
}
