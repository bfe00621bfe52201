//! The processes of steps, one of them started in advance.

use std::sync::Arc;

use rootless::step::StepSpec;
use rootless::{IdleStep, RunningStep, SealedExe, SpawnError, StepHandles, StepIo};

use super::spare::{self, Spare};

/// Starts the processes of steps.
pub(super) struct Spawner {
    exe: SealedExe,
    spare: Spare<IdleStep>,
}

impl Spawner {
    /// Nothing is started yet.
    pub(super) fn new(exe: SealedExe) -> Self {
        Self { exe, spare: Spare::default() }
    }

    /// Starts one for the next step.
    pub(super) fn expect(self: &Arc<Self>) {
        spare::expect(self, |this| &this.spare, |this| rootless::spawn_idle(&this.exe, false).ok());
    }

    /// A step whose output is captured.
    pub(super) fn start(&self, spec: &StepSpec, handles: StepHandles<'_>) -> Result<RunningStep, SpawnError> {
        if !spec.insecure
            && let Some(spare) = self.spare.take()
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
