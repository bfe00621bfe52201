//! From a refusal to what is missing and how to get it.
//!
//! Looks at the settings that are known to cause each refusal, only after the operation itself was refused.

use std::fs;

use crate::enter::EnterError;
use crate::report::{Blocker, IdMapping, Rung};

/// The first kernel with everything libcontainer uses without a fallback (`mount_setattr`).
const OLDEST_KERNEL: (u32, u32) = (5, 12);

/// A blocker if `release` is older than what steps need.
pub(crate) fn old_kernel(release: &str) -> Option<Blocker> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    let version = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    (version < OLDEST_KERNEL).then(|| Blocker {
        rung: Rung::Userns,
        what: format!("kernel {release} is too old to run steps"),
        evidence: format!(
            "uname says {release}; the new mount API of {}.{} is needed",
            OLDEST_KERNEL.0, OLDEST_KERNEL.1
        ),
        remedy: format!("use a machine with Linux {}.{} or newer", OLDEST_KERNEL.0, OLDEST_KERNEL.1),
    })
}

/// `newuidmap` or `newgidmap` is not installed.
pub(crate) fn no_helper(helper: &str) -> Blocker {
    Blocker {
        rung: Rung::Userns,
        what: format!("{helper} is not installed"),
        evidence: format!("no {helper} in PATH"),
        remedy:
            "apt-get install uidmap (Debian, Ubuntu), dnf install shadow-utils (Fedora), apk add shadow-subids (Alpine)"
                .into(),
    }
}

/// A subid file has too few ids for the user.
/// `free` is the first id that nobody has there.
pub(crate) fn no_subids(file: &str, name: Option<&str>, uid: u32, count: u64, free: u32) -> Blocker {
    let who = name.map_or_else(|| uid.to_string(), str::to_owned);
    let flag = if file.ends_with("gid") { "--add-subgids" } else { "--add-subuids" };
    let remedy = if name.is_some() {
        format!("sudo usermod {flag} {free}-{} {who}", u64::from(free) + 65535)
    } else {
        format!("as root: echo {uid}:{free}:65536 >> {file}")
    };
    Blocker {
        rung: Rung::Userns,
        what: format!("{who} has {} in {file}", if count == 0 { "no ids".into() } else { format!("only {count} ids") }),
        evidence: format!("{file} gives {who} {count} ids, 65535 are needed"),
        remedy: format!(
            "{remedy} (which adds the line {who}:{free}:65536); in a container: run it as user 0 (Kubernetes: \
             securityContext.runAsUser: 0)"
        ),
    }
}

/// Entering a user namespace, mapping its ids or mounting inside it was refused.
pub(crate) fn userns(error: &EnterError, mapping: &IdMapping) -> Blocker {
    let evidence = error.to_string();
    let blocker = |what: &str, remedy: String| Blocker {
        rung: Rung::Userns,
        what: what.into(),
        evidence: evidence.clone(),
        remedy,
    };
    match error {
        EnterError::Helper { program, .. } => {
            if status("NoNewPrivs") == "1" {
                return blocker(
                    &format!("{program} cannot gain privileges: no_new_privs is set"),
                    "allow privilege escalation (Kubernetes: securityContext.allowPrivilegeEscalation: true; Docker: no \
                     --security-opt no-new-privileges)"
                        .into(),
                );
            }
            blocker(
                &format!("{program} does not work"),
                format!(
                    "check that {program} has its file capability (setcap cap_set{0}id+ep $(command -v {program}); setuid root \
                     does not help in containers without CAP_SYS_ADMIN), is not on a nosuid mount, and that the ranges in \
                     /etc/subuid and /etc/subgid are its caller's",
                    if *program == "newgidmap" { "g" } else { "u" }
                ),
            )
        }
        EnterError::Child(text) if text.starts_with("unshare") => refused_unshare(&evidence),
        EnterError::Child(text) if text.contains("mount") => {
            if sysctl("kernel/apparmor_restrict_unprivileged_userns") == "1" {
                let remedy = format!(
                    "{}\nor for every program: sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
                    apparmor_profile(&own_program())
                );
                return blocker("AppArmor lets user namespaces be made but not used", remedy);
            }
            blocker(
                "mounts are refused inside a user namespace",
                "Kubernetes: securityContext: { appArmorProfile: { type: Unconfined } }\n\
                 Docker, Podman: --security-opt apparmor=unconfined"
                    .into(),
            )
        }
        EnterError::Sys(_) if matches!(mapping, IdMapping::Direct) => blocker(
            "the id maps of a user namespace cannot be written",
            "keep CAP_SETUID, CAP_SETGID and CAP_SETFCAP in the container (they are in the default set)".into(),
        ),
        _ => blocker("a user namespace cannot be set up", "see the evidence".into()),
    }
}

/// The AppArmor profile that this process is confined by.
fn apparmor_profile_of_ours() -> Option<String> {
    // The older name is that of whichever module came first.
    let label = fs::read_to_string("/proc/self/attr/apparmor/current").ok()?;
    let (name, mode) = label.trim_matches(['\0', '\n']).rsplit_once(" (")?;
    (mode == "enforce)").then(|| name.to_owned())
}

fn own_program() -> String {
    fs::read_link("/proc/self/exe").map_or_else(|_| "/usr/local/bin/rbuild".into(), |path| path.display().to_string())
}

/// A command that gives one program user namespaces, instead of switching the protection off for all.
fn apparmor_profile(program: &str) -> String {
    format!(
        "sudo tee /etc/apparmor.d/rbuild <<'EOF' && sudo apparmor_parser -r /etc/apparmor.d/rbuild\n\
         abi <abi/4.0>,\n\
         include <tunables/global>\n\
         profile rbuild {program} flags=(unconfined) {{\n  userns,\n}}\n\
         EOF"
    )
}

fn refused_unshare(evidence: &str) -> Blocker {
    let (what, remedy): (&str, String) = if sysctl("user/max_user_namespaces") == "0" {
        ("user namespaces are switched off", "sudo sysctl -w user.max_user_namespaces=15000".into())
    } else if sysctl("kernel/unprivileged_userns_clone") == "0" {
        (
            "user namespaces are switched off for unprivileged users",
            "sudo sysctl -w kernel.unprivileged_userns_clone=1".into(),
        )
    } else if let Some(profile) = apparmor_profile_of_ours()
        && evidence.contains("Permission denied")
    {
        // A seccomp filter would not permit the operation, and the kernel neither.
        let what = format!("the AppArmor profile {profile} forbids user namespaces");
        let remedy = format!(
            "add the rule `userns,` to that profile, or give rbuild one of its own:\n{}",
            apparmor_profile(&own_program())
        );
        return Blocker { rung: Rung::Userns, what, evidence: evidence.into(), remedy };
    } else if status("Seccomp") == "2" {
        (
            "a seccomp filter forbids user namespaces",
            "Kubernetes: securityContext: { seccompProfile: { type: Unconfined } } (or, from 1.33, hostUsers: false in the pod)\n\
             Docker, Podman: --security-opt seccomp=unconfined"
                .into(),
        )
    } else {
        (
            "user namespaces cannot be made here",
            "check user.max_user_namespaces, the container's seccomp profile, and that rbuild does not run in a chroot"
                .into(),
        )
    };
    Blocker { rung: Rung::Userns, what: what.into(), evidence: evidence.into(), remedy }
}

/// A value under `/proc/sys`; empty where there is none.
pub(crate) fn sysctl(name: &str) -> String {
    fs::read_to_string(format!("/proc/sys/{name}")).map(|s| s.trim().to_owned()).unwrap_or_default()
}

/// A field of `/proc/self/status`; empty where there is none.
pub(crate) fn status(field: &str) -> String {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    text.lines().find_map(|l| l.strip_prefix(field)?.strip_prefix(':')).map(|v| v.trim().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_compared_by_number() {
        assert!(old_kernel("4.18.0-553.el8").is_some());
        assert!(old_kernel("5.9.0").is_some());
        assert!(old_kernel("5.12.0-rc1").is_none());
        assert!(old_kernel("6.1.0-18-amd64").is_none());
        assert!(old_kernel("10.0").is_none());
    }

    #[test]
    fn missing_subids_name_the_command() {
        let b = no_subids("/etc/subgid", Some("alice"), 1000, 0, 165_536);
        assert!(b.remedy.starts_with("sudo usermod --add-subgids 165536-231071 alice"), "{}", b.remedy);
        assert!(b.remedy.contains("the line alice:165536:65536"), "{}", b.remedy);
        assert_eq!(b.what, "alice has no ids in /etc/subgid");
        let b = no_subids("/etc/subuid", None, 61_998, 0, 100_000);
        assert!(b.remedy.starts_with("as root: echo 61998:100000:65536 >> /etc/subuid"), "{}", b.remedy);
    }

    #[test]
    fn the_apparmor_profile_is_for_this_program() {
        let text = apparmor_profile(&own_program());
        let exe = fs::read_link("/proc/self/exe").expect("a program").display().to_string();
        assert!(text.contains(&format!("profile rbuild {exe} flags=(unconfined) {{\n  userns,\n}}")), "{text}");
    }

    #[test]
    fn refused_mounts_and_helpers_are_told_apart() {
        let mount = userns(&EnterError::Child("mount a tmpfs: Permission denied".into()), &IdMapping::Direct);
        assert!(mount.what.contains("AppArmor") || mount.what.contains("mounts"), "{}", mount.what);
        let helper = EnterError::Helper { program: "newuidmap", message: "write to uid_map failed".into() };
        assert!(userns(&helper, &IdMapping::Direct).what.contains("newuidmap"));
    }
}
