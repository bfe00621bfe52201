//! The whole contract with `rbuild step`: what to run and how it ended. Serialised as JSON over a pipe.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::capabilities::Capabilities;
use crate::report::ProcMode;

/// Version of [`StepSpec`] and [`StepOutcome`]; both sides are the same binary, so a mismatch is a defect.
pub const STEP_VERSION: u32 = 7;

/// One process to run in its own namespaces over a prepared root file system.
///
/// Secrets never travel in this struct's environment: it is passed over a pipe that only the step process reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepSpec {
    /// [`STEP_VERSION`].
    pub version: u32,
    /// Unique among concurrently running steps; letters, digits and dashes.
    pub id: String,
    /// Mounted root file system.
    pub rootfs: PathBuf,
    /// Where libcontainer may keep its state (tmpfs).
    pub state_dir: PathBuf,
    /// The program and its arguments.
    pub args: Vec<String>,
    /// `K=V`, complete.
    pub env: Vec<String>,
    /// Absolute, exists.
    pub cwd: PathBuf,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// UTS host name.
    pub hostname: String,
    /// Mounts beside the standard ones, in order.
    pub mounts: Vec<StepMount>,
    /// Network of the step.
    pub network: Network,
    /// Bytes of /dev/shm.
    pub shm_size: u64,
    /// Resource limits.
    pub rlimits: Vec<Rlimit>,
    /// Those that its root has, unless it is insecure.
    pub capabilities: Capabilities,
    /// All capabilities, no seccomp filter (`--security=insecure`).
    pub insecure: bool,
    /// Its programs gain no privileges by being executed.
    pub no_new_privileges: bool,
    /// What the step sees at `/proc`, where it has mounts.
    pub proc_mode: ProcMode,
    /// How the root is changed.
    pub switch: RootSwitch,
    /// Which system calls are answered for the kernel.
    pub emulation: Emulation,
    /// Mount a sysfs of its own (real root) rather than the outer `/sys`.
    pub fresh_sys: bool,
    /// A directory to show read-only at `/sys/fs/cgroup`, where `/sys` does not bring one along.
    pub cgroup_dir: Option<PathBuf>,
    /// How the program is attached to whoever started it; `None` gives it `/dev/null` to read.
    pub attached: Option<Attached>,
    /// The step process whose program's namespaces this one enters, in place of namespaces of its own; `mounts` must then be empty.
    /// Goes with [`RootSwitch::Pivot`]. The program ends with that one.
    pub joins: Option<u32>,
}

/// A program that reads from somebody: its standard input follows the specification through the socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// Standard input is a terminal that becomes the program's own.
    pub terminal: bool,
    /// Where that terminal is, to be shown at `/dev/console` where the step has mounts.
    pub console: Option<PathBuf>,
}

/// How a step gets its root file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RootSwitch {
    /// Namespaces and `pivot_root`: libcontainer's work.
    Pivot,
    /// `chroot` under Landlock, no namespaces. `mounts` must be empty: whoever prepares the root puts things in place.
    Chroot,
    /// None at all: every path is looked up for the step, in `rootfs`. Goes with [`Emulation::Paths`]; `mounts` must be empty.
    Traced,
}

/// What a step process does in the kernel's stead, by seccomp user notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Emulation {
    /// Nothing.
    None,
    /// Opens and links below `/proc`, where none can be mounted (see [`crate::furnish_proc`]).
    Proc,
    /// Users, groups and owners beyond the one id there is, and devices.
    Ids,
    /// Devices, which no user namespace can have.
    Nodes,
    /// Every path, owners and ids, devices, and what is below `/proc`, for steps without any privileges.
    Paths,
    /// The same calls succeed and do nothing: the kernel takes one listener only, and somebody else has it.
    Errno,
}

/// Network of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// The namespace rbuild runs in.
    Host,
    /// Loopback only.
    None,
    /// The namespace whose descriptor comes with the step (see [`crate::network`]).
    Own,
}

/// A mount of a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum StepMount {
    /// Recursive bind mount of a file or directory.
    Bind {
        /// Outside.
        source: PathBuf,
        /// Absolute, inside; exists already as a file or directory.
        target: PathBuf,
        /// Recursively read-only.
        readonly: bool,
    },
    /// Fresh tmpfs.
    Tmpfs {
        /// Absolute, inside; exists already.
        target: PathBuf,
        /// Bytes; 0 for the kernel's default.
        size: u64,
        /// Permission bits.
        mode: u32,
    },
    /// A device node, file or directory of the machine, mounted as whoever owns the machine says.
    Host {
        /// Outside.
        source: PathBuf,
        /// Absolute, inside; exists already unless it is below `/dev`.
        target: PathBuf,
        /// Of mount, `bind` or `rbind` among them.
        options: Vec<String>,
    },
}

impl StepMount {
    /// Where it appears.
    #[must_use]
    pub fn target(&self) -> &std::path::Path {
        match self {
            Self::Bind { target, .. } | Self::Tmpfs { target, .. } | Self::Host { target, .. } => target,
        }
    }
}

/// A resource limit by Docker's name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// e.g. `nofile`.
    pub name: String,
    /// Soft limit; `u64::MAX` is unlimited.
    pub soft: u64,
    /// Hard limit.
    pub hard: u64,
}

/// How a step ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "lowercase")]
pub enum StepOutcome {
    /// The process ran and ended.
    Exited {
        /// Exit code; 128 + signal for a signal.
        code: i32,
        /// CPU time and memory.
        usage: Usage,
    },
    /// The process could not be started.
    Failed {
        /// What was attempted and the kernel's words.
        message: String,
    },
}

/// What a step used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Microseconds of user CPU time.
    pub user_us: u64,
    /// Microseconds of system CPU time.
    pub system_us: u64,
    /// Peak resident bytes of the largest process.
    pub max_rss: u64,
}
