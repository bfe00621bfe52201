//! The processes of steps, one of them started in advance.

use std::sync::{Mutex, MutexGuard, PoisonError};

use rootless::step::StepSpec;
use rootless::{IdleStep, RunningStep, SealedExe, SpawnError, StepHandles, StepIo};

/// Starts the processes of steps.
pub(super) struct Spawner {
    exe: SealedExe,
    spare: Mutex<Option<IdleStep>>,
}

impl Spawner {
    /// Nothing is started yet.
    pub(super) fn new(exe: SealedExe) -> Self {
        Self { exe, spare: Mutex::default() }
    }

    fn spare(&self) -> MutexGuard<'_, Option<IdleStep>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts one for the next step, unless there is one. Trouble is for the step to meet.
    pub(super) fn make_spare(&self) {
        // Held meanwhile: a step that comes now waits for this one, which is quicker than to start another.
        let mut spare = self.spare();
        if spare.is_none() {
            *spare = rootless::spawn_idle(&self.exe, false).ok();
        }
    }

    /// A step whose output is captured.
    pub(super) fn start(&self, spec: &StepSpec, handles: StepHandles<'_>) -> Result<RunningStep, SpawnError> {
        if !spec.insecure
            && let Some(spare) = self.spare().take()
            && let Ok(step) = spare.start(spec, handles)
        {
            return Ok(step);
        }
        rootless::spawn_step(&self.exe, spec, handles)
    }

    /// A step that reads and writes what it is given.
    pub(super) fn start_attached(
        &self,
        spec: &StepSpec,
        handles: StepHandles<'_>,
        io: StepIo,
    ) -> Result<RunningStep, SpawnError> {
        rootless::spawn_attached(&self.exe, spec, handles, io)
    }
}
