//! Options that stand before the command, of buildah and of podman.

/// What an option before the command comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Global {
    /// It says nothing about a build here.
    Idle,
    /// Nothing can be done with it, and why.
    Refused(&'static str),
}

/// An option: its name, whether a value follows, and what it comes to.
type Entry = (&'static str, bool, Global);

const ELSEWHERE: Global = Global::Refused("builds run here, not on another machine");
const IDS: Global = Global::Refused("ids are mapped as /etc/subuid and /etc/subgid say");

const ALL: &[Entry] = &[
    ("--cgroup-manager", true, Global::Idle),
    ("--conmon", true, Global::Idle),
    ("--cpu-profile", true, Global::Idle),
    ("--events-backend", true, Global::Idle),
    ("--log-level", true, Global::Idle),
    ("--memory-profile", true, Global::Idle),
    ("--network-cmd-path", true, Global::Idle),
    ("--network-config-dir", true, Global::Idle),
    ("--registries-conf-dir", true, Global::Idle),
    ("--runroot", true, Global::Idle),
    ("--runtime", true, Global::Idle),
    ("--runtime-flag", true, Global::Idle),
    ("--storage-driver", true, Global::Idle),
    ("--storage-opt", true, Global::Idle),
    ("--syslog", false, Global::Idle),
    ("--tmpdir", true, Global::Idle),
    ("--transient-store", false, Global::Idle),
    ("--volumepath", true, Global::Idle),
    ("--connection", true, ELSEWHERE),
    ("-c", true, ELSEWHERE),
    ("--identity", true, ELSEWHERE),
    ("--remote", false, ELSEWHERE),
    ("-r", false, ELSEWHERE),
    ("--ssh", true, ELSEWHERE),
    ("--url", true, ELSEWHERE),
    ("--userns-gid-map", true, IDS),
    ("--userns-uid-map", true, IDS),
    ("--config", true, Global::Refused("`build --authfile FILE` names the file with credentials")),
    ("--default-mounts-file", true, Global::Refused("`build -v HOST:CONTAINER:ro` mounts a directory for each step")),
    ("--hooks-dir", true, Global::Refused("hooks of a runtime are not run")),
    ("--imagestore", true, Global::Refused("there is one store; --root names its directory")),
    ("--module", true, Global::Refused("CONTAINERS_CONF=FILE in the environment names the file")),
    ("--registries-conf", true, Global::Refused("CONTAINERS_REGISTRIES_CONF=FILE in the environment names the file")),
    ("--short-name-alias-conf", true, Global::Refused("short-name-aliases.conf is where podman has it by itself")),
];

/// Whether a value follows an option, and what the option comes to; `None` for what is none.
pub(super) fn option(name: &str) -> Option<(bool, Global)> {
    ALL.iter().find(|(known, ..)| *known == name).map(|(_, value, meaning)| (*value, *meaning))
}
