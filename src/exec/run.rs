//! Runs the process of an `ExecOp` over a mounted root file system.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rootless::WorkerContext;
use rootless::step::{StepMount, Usage};

use crate::base::{Digest, Events, FaultKind};
use crate::llb::op::{Meta, NetMode, SecurityMode};

/// A mountpoint that must exist in the root file system but must not enter the layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountStub {
    /// Absolute path inside the root.
    pub path: PathBuf,
    /// Directory or file.
    pub dir: bool,
}

/// One RUN.
#[derive(Debug)]
pub struct RunRequest<'a> {
    /// The process.
    pub meta: &'a Meta,
    /// Network mode.
    pub network: NetMode,
    /// Security mode.
    pub security: SecurityMode,
    /// The mounted root file system, writable.
    pub root: &'a Path,
    /// Mounts beside the standard ones, in order; their targets exist (see [`required_stubs`]).
    pub mounts: Vec<StepMount>,
    /// Environment added last, e.g. secrets.
    pub extra_env: Vec<(String, String)>,
    /// Bytes of /dev/shm; 0 for the default of 64 MiB.
    pub shm_size: u64,
    /// The step has secrets or agents in its environment or mounts.
    pub confidential: bool,
}

/// How a RUN ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunResult {
    /// Exit code; 128 + signal for a signal.
    pub code: i32,
    /// What it used.
    pub usage: Usage,
}

/// Why a RUN could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The user stopped the build, or another step failed.
    #[error("step canceled")]
    Canceled,
}

impl ExecError {
    /// The kind of failure.
    #[must_use]
    pub fn kind(&self) -> FaultKind {
        FaultKind::Interrupted
    }
}

/// Starts steps. One per worker.
pub struct Runner {
    context: WorkerContext,
}

/// DNS settings beyond the machine's own.
#[derive(Debug, Clone, Default)]
pub struct DnsOptions {
    /// Replaces the name servers.
    pub nameservers: Vec<IpAddr>,
    /// Replaces the options.
    pub options: Vec<String>,
    /// Replaces the search domains.
    pub search: Vec<String>,
}

impl Runner {
    /// A runner for this worker.
    ///
    /// # Errors
    /// When the program cannot be copied.
    pub fn new(context: WorkerContext, dns: DnsOptions) -> Result<Self, ExecError> {
        let _ = dns;
        Ok(Self { context })
    }

    /// Runs one step to its end. Output goes to `events` as it comes. When `cancel` completes, or the returned future is
    /// dropped, every process of the step is killed at once.
    ///
    /// # Errors
    /// When the step could not be started or was canceled. A non-zero exit code is not an error here.
    pub async fn run_step(
        &self,
        request: RunRequest<'_>,
        events: &Events,
        vertex: &Digest,
        cancel: impl Future<Output = ()> + Send,
    ) -> Result<RunResult, ExecError> {
        let _ = (request, events, vertex, cancel, &self.context);
        Err(ExecError::Canceled)
    }
}

/// The mountpoints the root of a step must have, for the store to make before the mount.
#[must_use]
pub fn required_stubs(meta: &Meta, mounts: &[StepMount]) -> Vec<MountStub> {
    let _ = (meta, mounts);
    Vec::new()
}

/// The error text of a step that ended with `code` (SPEC A5.16).
#[must_use]
pub fn failure_text(meta: &Meta, code: i32) -> String {
    format!("process \"{}\" did not complete successfully: exit code: {code}", meta.args.join(" "))
}

/// Proxy variables of a step (SPEC C5.11).
#[must_use]
pub fn proxy_env(meta: &Meta) -> BTreeMap<String, String> {
    let _ = meta;
    BTreeMap::new()
}
