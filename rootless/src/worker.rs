//! First things in the worker: private mounts, no cgroups for libcontainer, a tmpfs for state.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::idmap::IdMaps;
use crate::report::{ProbeReport, ProcMode, Rung};

/// What the broker tells the worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerOptions {
    /// The rung entered.
    pub rung: Rung,
    /// `/proc` of steps.
    pub proc_mode: ProcMode,
    /// Landlock ABI version.
    pub landlock_abi: u32,
    /// A directory that may be hidden by the worker's tmpfs; created if missing. All workers can share it.
    pub mountpoint: PathBuf,
}

impl WorkerOptions {
    /// The options that go with a probe's report.
    #[must_use]
    pub fn new(report: &ProbeReport, mountpoint: PathBuf) -> Self {
        Self { rung: report.rung, proc_mode: report.proc_mode, landlock_abi: report.landlock_abi, mountpoint }
    }
}

/// What the worker may use.
#[derive(Debug, Clone)]
pub struct WorkerContext {
    /// The rung.
    pub rung: Rung,
    /// A directory in memory (tmpfs), private to this worker, mode 0700.
    pub state_dir: PathBuf,
    /// `/proc` of steps.
    pub proc_mode: ProcMode,
    /// Landlock ABI version.
    pub landlock_abi: u32,
    /// The ids that can be used.
    pub ids: IdMaps,
    /// A read-only cgroup2 to bind at `/sys/fs/cgroup` of steps where `/sys` does not bring one.
    pub cgroup_dir: Option<PathBuf>,
}

impl WorkerContext {
    /// Whether two steps that run at once can be kept from reading each other's environment and mounts.
    #[must_use]
    pub fn steps_are_separate(&self) -> bool {
        self.proc_mode == ProcMode::Fresh || self.landlock_abi > 0
    }
}

/// Why the worker cannot work.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// A system call failed.
    #[error("cannot {what}: {source}")]
    Sys {
        /// What was attempted.
        what: String,
        /// The kernel's answer.
        source: std::io::Error,
    },
}

/// Prepares the worker's mount namespace. To be called before any thread is started.
///
/// # Errors
/// When a mount is refused.
pub fn worker_init(options: &WorkerOptions) -> Result<WorkerContext, WorkerError> {
    todo!("{options:?}")
}
