//! What a stage takes from outside: its arguments, secrets, agents and caches (SPEC A10.28).

use super::mount::{MountKind, MountSpec};
use super::text::{base_name, clean};

/// An argument that is declared somewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Argument {
    pub(super) name: String,
    /// Its value here, if it has one.
    pub(super) value: Option<String>,
    /// What the comment above says of it.
    pub(super) description: Option<String>,
    /// Lines of the instruction.
    pub(super) lines: (u32, u32),
    /// Variables that its default value uses.
    pub(super) needs: Vec<String>,
}

/// A secret, an agent or a cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mounted {
    pub(super) kind: MountKind,
    pub(super) id: String,
    pub(super) required: bool,
    /// Lines of the instruction.
    pub(super) lines: (u32, u32),
}

/// What the instructions of one stage take from outside.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Uses {
    /// Arguments with a value of their own, or without any.
    pub(super) arguments: Vec<Argument>,
    /// Names of arguments whose value is that of the global scope.
    pub(super) inherited: Vec<String>,
    pub(super) mounts: Vec<Mounted>,
}

impl Uses {
    /// Notes a mount of a step that is no tree.
    pub(super) fn mount(&mut self, spec: &MountSpec, lines: (u32, u32)) {
        let id = match spec.kind {
            MountKind::Secret => secret_id(spec).to_owned(),
            MountKind::Ssh => agent_id(spec).to_owned(),
            MountKind::Cache => cache_id(spec),
            MountKind::Bind | MountKind::Tmpfs => return,
        };
        self.mounts.push(Mounted { kind: spec.kind, id, required: spec.required, lines });
    }
}

/// The id of a secret mount (SPEC A5.06).
pub(super) fn secret_id(spec: &MountSpec) -> &str {
    match (spec.source.as_str(), spec.id.as_str()) {
        ("", "") => base_name(&spec.target),
        ("", id) => id,
        (source, _) => source,
    }
}

/// The id of an agent mount (SPEC A5.07).
pub(super) fn agent_id(spec: &MountSpec) -> &str {
    if spec.id.is_empty() { "default" } else { &spec.id }
}

/// The id of a cache mount, without a name space (SPEC A5.04).
pub(super) fn cache_id(spec: &MountSpec) -> String {
    if spec.id.is_empty() { clean(&spec.target) } else { spec.id.clone() }
}
