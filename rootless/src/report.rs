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
    /// No RUN possible.
    None,
}

impl Rung {
    /// The name users see.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Userns => "userns",
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

/// How the user namespace of [`Rung::Userns`] gets its ids.
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
    /// Ids of [`Rung::Userns`].
    pub mapping: Option<IdMapping>,
    /// Landlock ABI version; 0 without Landlock.
    pub landlock_abi: u32,
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
