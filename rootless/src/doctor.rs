//! Everything `rbuild doctor` prints, as data.

use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::explain::{status, sysctl};
use crate::idmap::{IdMaps, parse_subids, user_name};
use crate::operations::{Operation, operations};
use crate::probe::{IDS_NEEDED, ProbeInput, find_program, probe, probe_all};
use crate::report::{Blocker, ProbeReport, ProcMode, Rung};

/// One fact about the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fact {
    /// What was looked at.
    pub name: &'static str,
    /// What was found.
    pub value: String,
    /// Whether that is good for building; `None` where it is neither good nor bad.
    pub good: Option<bool>,
}

/// A probe with the facts around it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DoctorReport {
    /// The probe.
    pub probe: ProbeReport,
    /// Every rung, best first.
    pub rungs: Vec<RungStatus>,
    /// The operations that rungs are made of.
    pub operations: Vec<Operation>,
    /// What was looked at besides.
    pub facts: Vec<Fact>,
}

/// One rung on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RungStatus {
    /// Which.
    pub rung: Rung,
    /// Its operations were performed and succeeded.
    pub works: bool,
    /// Why not, and what to do about it.
    pub blockers: Vec<Blocker>,
}

/// Examines the machine. The caller must be single-threaded.
#[must_use]
pub fn doctor(input: &ProbeInput<'_>) -> DoctorReport {
    let probe = probe(input);
    let rungs = probe_all(input)
        .into_iter()
        .map(|(rung, blockers)| RungStatus { rung, works: blockers.is_empty(), blockers })
        .collect();
    let facts = facts(&probe);
    let place = input.store.ancestors().find(|dir| dir.is_dir()).unwrap_or(Path::new("/"));
    let operations = operations(place);
    DoctorReport { probe, rungs, operations, facts }
}

fn facts(probe: &ProbeReport) -> Vec<Fact> {
    let uid = rustix::process::geteuid().as_raw();
    let name = user_name(Path::new("/etc/passwd"), uid);
    let (uids, gids) = IdMaps::current().sizes();
    let caps = crate::sys::effective_capabilities();
    let mut out = vec![
        Fact {
            name: "kernel",
            value: probe.kernel.clone(),
            good: Some(crate::explain::old_kernel(&probe.kernel).is_none()),
        },
        Fact {
            name: "user",
            value: format!("{} ({uid})", name.as_deref().unwrap_or("not in /etc/passwd")),
            good: None,
        },
        Fact { name: "capabilities", value: format!("{:#x}", caps.bits()), good: None },
        Fact { name: "ids in this user namespace", value: format!("{uids} users, {gids} groups"), good: None },
    ];
    for file in ["/etc/subuid", "/etc/subgid"] {
        let ranges = parse_subids(&fs::read_to_string(file).unwrap_or_default(), name.as_deref(), uid);
        let count: u64 = ranges.iter().map(|r| u64::from(r.count)).sum();
        let good = (uid != 0).then_some(count >= IDS_NEEDED - 1);
        out.push(Fact {
            name: if file.ends_with("uid") { "subordinate uids" } else { "subordinate gids" },
            value: count.to_string(),
            good,
        });
    }
    for helper in ["newuidmap", "newgidmap"] {
        let found = find_program(helper);
        out.push(Fact {
            name: helper,
            value: found.as_ref().map_or_else(|| "not found".into(), |p| p.display().to_string()),
            good: (uid != 0).then_some(found.is_some()),
        });
    }
    let setting = |name: &'static str, file: &str, bad: &str| {
        let value = sysctl(file);
        let good = (!value.is_empty()).then_some(value != bad);
        Fact { name, value: if value.is_empty() { "not present".into() } else { value }, good }
    };
    out.push(setting("user.max_user_namespaces", "user/max_user_namespaces", "0"));
    out.push(setting("kernel.unprivileged_userns_clone", "kernel/unprivileged_userns_clone", "0"));
    out.push(setting(
        "kernel.apparmor_restrict_unprivileged_userns",
        "kernel/apparmor_restrict_unprivileged_userns",
        "1",
    ));
    let seccomp = match status("Seccomp").as_str() {
        "0" => "none",
        "2" => "a filter is installed",
        _ => "unknown",
    };
    out.push(Fact { name: "seccomp", value: seccomp.into(), good: None });
    out.push(Fact { name: "no_new_privs", value: status("NoNewPrivs"), good: Some(status("NoNewPrivs") != "1") });
    let label = fs::read_to_string("/proc/self/attr/current").unwrap_or_default();
    let label = label.trim_matches(['\0', '\n', ' ']);
    out.push(Fact {
        name: "security label",
        value: if label.is_empty() { "none".into() } else { label.into() },
        good: None,
    });
    out.push(Fact {
        name: "landlock",
        value: if probe.landlock_abi == 0 { "not available".into() } else { format!("ABI {}", probe.landlock_abi) },
        good: Some(probe.landlock_abi > 1),
    });
    out.push(Fact {
        name: "seccomp notification",
        value: if probe.notify { "works".into() } else { "not available".into() },
        good: Some(probe.notify),
    });
    if matches!(probe.rung, Rung::Chroot | Rung::Ptrace) {
        let value = if probe.notify { "emulated" } else { "empty" };
        out.push(Fact { name: "/proc in steps", value: value.into(), good: Some(probe.notify) });
    } else if probe.can_run() {
        out.push(Fact {
            name: "/proc in steps",
            value: match probe.proc_mode {
                ProcMode::Fresh => "their own".into(),
                ProcMode::Bind => "the outer one (parts of it are masked here)".into(),
            },
            good: None,
        });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_found_without_privileges() {
        let probe = ProbeReport {
            rung: Rung::None,
            blockers: vec![],
            proc_mode: ProcMode::Fresh,
            mapping: None,
            landlock_abi: 0,
            notify: false,
            kernel: "4.18.0".into(),
            key: String::new(),
        };
        let facts = facts(&probe);
        let fact = |name| facts.iter().find(|f| f.name == name).unwrap_or_else(|| panic!("{name}"));
        assert_eq!(fact("kernel").good, Some(false));
        assert_eq!(fact("landlock").value, "not available");
        assert!(facts.iter().all(|f| !f.value.is_empty()), "{facts:?}");
    }
}
