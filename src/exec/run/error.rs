//! Why a RUN could not be carried out.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use rootless::SpawnError;
use rootless::binfmt::EmulatorError;
use rootless::cgroup::LimitError;

use crate::base::FaultKind;
use crate::exec::place::PlaceError;
use crate::exec::targets::TargetError;
use crate::exec::user::UserError;

/// See the variants.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The user stopped the build, or another step failed.
    #[error("step canceled")]
    Canceled,
    /// This machine cannot run steps.
    #[error("RUN is not possible on this machine: it allows neither real nor user namespaces (see `rbuild doctor`)")]
    NoRung,
    /// The step's user does not exist.
    #[error(transparent)]
    User(#[from] UserError),
    /// The step's user exists in the image but not in rbuild's user namespace.
    #[error("{kind} id {id} is outside of the ids that are mapped here ({available})")]
    UnmappedId {
        /// `user` or `group`.
        kind: &'static str,
        /// Which.
        id: u32,
        /// Those that exist.
        available: String,
    },
    /// The working directory cannot be made.
    #[error("cannot make the working directory {path} in the image: {source}", path = path.display())]
    Cwd {
        /// As given.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file or pipe failed.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was attempted.
        what: String,
        /// The cause.
        source: io::Error,
    },
    /// A `--ulimit` nobody knows.
    #[error("invalid ulimit: {name} has soft limit {soft} above hard limit {hard}")]
    Ulimit {
        /// Docker's name.
        name: String,
        /// Soft limit.
        soft: i64,
        /// Hard limit.
        hard: i64,
    },
    /// `--network=sandbox` where steps cannot have networks of their own.
    #[error("steps cannot have a network of their own here: {0} (--network=host shares the machine's)")]
    NoNetwork(String),
    /// A step asks for another parent of its control group than rbuild was given.
    #[error("the step is to run in a control group below \"{0}\"")]
    CgroupParent(String),
    /// A limit cannot be set.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// A step took too long.
    #[error("the step was stopped: it took longer than {0:?}")]
    TimedOut(Duration),
    /// What was named is no emulator.
    #[error("cannot use an emulator (--emulator): {0}")]
    Emulator(#[from] EmulatorError),
    /// Something is in the way of a mount.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// Mounts could not be replaced by moves and copies.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// The step process failed.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// The step's namespaces, mounts or credentials could not be set up.
    #[error("cannot start the step: {0}")]
    NotStarted(String),
}

impl ExecError {
    /// The kind of failure.
    #[must_use]
    pub fn kind(&self) -> FaultKind {
        match self {
            Self::Canceled => FaultKind::Interrupted,
            Self::NoRung | Self::UnmappedId { .. } | Self::NoNetwork(_) | Self::NotStarted(_) => FaultKind::Isolation,
            Self::Limit(_) | Self::CgroupParent(_) => FaultKind::Isolation,
            Self::TimedOut(_) => FaultKind::Step,
            Self::User(_) | Self::Cwd { .. } => FaultKind::Input,
            Self::Ulimit { .. } | Self::Emulator(_) => FaultKind::Usage,
            Self::Place(PlaceError::Io { source, .. }) if source.kind() == io::ErrorKind::InvalidInput => {
                FaultKind::Input
            }
            Self::Io { source, .. } | Self::Place(PlaceError::Io { source, .. }) => {
                FaultKind::of_io(source, FaultKind::Internal)
            }
            Self::Target(_) | Self::Place(PlaceError::Lost { .. }) => FaultKind::Input,
            Self::Spawn(_) => FaultKind::Internal,
        }
    }

    /// What can be done about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Limit(_) => Some(
                "give rbuild a control group of its own, e.g. systemd-run --user --scope -p Delegate=yes rbuild …; in a \
                 container mount /sys/fs/cgroup writable"
                    .into(),
            ),
            Self::CgroupParent(parent) => Some(format!("say so to rbuild, too: --cgroup-parent {parent}")),
            Self::TimedOut(_) => Some("--step-timeout allows more".into()),
            _ => None,
        }
    }
}

/// Names what an operation was for.
pub(super) fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> ExecError {
    let what = what.into();
    |source| ExecError::Io { what, source }
}
