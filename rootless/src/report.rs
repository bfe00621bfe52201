//! What a probe found out: plain data, serialisable so that it can be kept between runs.

use serde::{Deserialize, Serialize};

use crate::idmap::IdRange;

/// A named combination of namespaces, root switch and emulation, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rung {
    /// Real `CAP_SYS_ADMIN`: own mount namespace, real ids.
    Root,
    /// A user namespace with many ids.
    Userns,
    /// A user namespace with one id; others are emulated.
    UsernsOne,
    /// No namespaces: `chroot` under Landlock.
    Chroot,
    /// Neither namespaces nor privileges: every call with a path is answered for the step, and its processes are traced.
    Ptrace,
    /// No RUN possible.
    None,
}

impl Rung {
    /// Every rung, best first.
    pub const ALL: [Self; 6] = [Self::Root, Self::Userns, Self::UsernsOne, Self::Chroot, Self::Ptrace, Self::None];

    /// The rung users call `name`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        // The program that does the same.
        let name = if name == "proot" { "ptrace" } else { name };
        Self::ALL.into_iter().find(|rung| rung.as_str() == name)
    }

    /// What it is, in a line.
    #[must_use]
    pub fn summary(self) -> &'static str {
        match self {
            Self::Root => "real root in namespaces of its own",
            Self::Userns => "a user namespace with many ids",
            Self::UsernsOne => "a user namespace with one id, the others emulated",
            Self::Chroot => "chroot under Landlock, no namespaces",
            Self::Ptrace => {
                "neither namespaces nor privileges: paths, owners and ids are answered for the step, under Landlock"
            }
            Self::None => "everything but RUN",
        }
    }

    /// Whether the worker has a mount namespace of its own.
    #[must_use]
    pub fn can_mount(self) -> bool {
        matches!(self, Self::Root | Self::Userns | Self::UsernsOne)
    }

    /// What steps on this rung can do that they should not; `None` where they are isolated.
    #[must_use]
    pub fn weakness(self) -> Option<&'static str> {
        match self {
            Self::Chroot => Some(
                "RUN steps are confined by chroot and Landlock only, not isolated: they share process ids and the network with \
                 the builder",
            ),
            Self::Ptrace => Some(
                "RUN steps have neither namespaces nor privileges: users and the root are emulated under Landlock, permissions are not \
                 checked between the users of a step, and process ids and the network are shared with the builder",
            ),
            Self::UsernsOne => Some(
                "there is one user id only: the others are emulated, and permissions are not checked between the users of a step",
            ),
            Self::Root | Self::Userns | Self::None => None,
        }
    }

    /// The name users see.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Userns => "userns",
            Self::UsernsOne => "userns-one",
            Self::Chroot => "chroot",
            Self::Ptrace => "ptrace",
            Self::None => "none",
        }
    }
}

impl std::fmt::Display for Rung {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a step sees at `/proc`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProcMode {
    /// A procfs of its own pid namespace.
    #[default]
    Fresh,
    /// The outer `/proc`, because the kernel refuses a fresh one where parts of the outer one are masked.
    Bind,
}

/// How the user namespace of [`Rung::Userns`] or [`Rung::UsernsOne`] gets its ids.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "lowercase")]
pub enum IdMapping {
    /// Written by us, who have the capabilities: every id of the current namespace stays itself.
    Direct,
    /// Written by the setuid programs `newuidmap` and `newgidmap`: the user is 0, the ranges follow from 1.
    Helpers {
        /// The user's own ids: uid, gid.
        own: (u32, u32),
        /// Subordinate uids.
        uids: Vec<IdRange>,
        /// Subordinate gids.
        gids: Vec<IdRange>,
    },
    /// Written by us, who may map our own ids only: the user is 0, nobody else exists.
    One {
        /// The user's own ids: uid, gid.
        own: (u32, u32),
    },
}

/// Why a rung is out of reach, and what would bring it within reach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocker {
    /// The rung.
    pub rung: Rung,
    /// What is missing, one line.
    pub what: String,
    /// What was tried and how the machine answered.
    pub evidence: String,
    /// The command, or line of configuration, that lifts it.
    pub remedy: String,
}

/// The result of a probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeReport {
    /// The best rung that works.
    pub rung: Rung,
    /// What keeps the machine from each better rung.
    pub blockers: Vec<Blocker>,
    /// `/proc` of steps.
    pub proc_mode: ProcMode,
    /// Ids of the user namespace, where the rung has one.
    pub mapping: Option<IdMapping>,
    /// Landlock ABI version; 0 without Landlock.
    pub landlock_abi: u32,
    /// A seccomp filter can ask this program to answer calls.
    pub notify: bool,
    /// `uname -r`.
    pub kernel: String,
    /// The [`crate::cache_key`] at the time of the probe: a kept report is valid while it is unchanged.
    pub key: String,
}

impl ProbeReport {
    /// Identity of the circumstances this report was made in; compare with [`crate::cache_key`] before reusing it.
    #[must_use]
    pub fn cache_key(&self) -> &str {
        &self.key
    }

    /// Whether RUN steps can be executed.
    #[must_use]
    pub fn can_run(&self) -> bool {
        self.rung != Rung::None
    }
}
