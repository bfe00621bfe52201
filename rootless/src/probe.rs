//! Finds the best rung by performing its operations in forked children.
//!
//! Nothing is inferred from names or versions: a child unshares, gets its id maps, mounts a tmpfs and a procfs, and says
//! how far it came. What the machine's settings say is only used to explain a failure ([`crate::doctor`] and the
//! blockers' remedies).

use std::fmt::Write as _;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, MountPropagationFlags};
use rustix::thread::{CapabilitySet, UnshareFlags};

use crate::enter::{EnterError, become_root, expect_ready, unshare_rung, write_maps};
use crate::explain;
use crate::idmap::{IdMaps, IdRange, free_subids, parse_subids, user_name};
use crate::report::{Blocker, IdMapping, ProbeReport, ProcMode, Rung};
use crate::seccomp::{Action, When};
use crate::sys::{self, Context, Fork, SysError};

/// Ids an exact rung must have: images use those below 65536.
pub(crate) const IDS_NEEDED: u64 = 65536;

/// What a probe needs to know.
#[derive(Debug, Clone, Copy)]
pub struct ProbeInput<'a> {
    /// The store's directory (need not exist).
    pub store: &'a Path,
    /// The one rung to look at; without it the best.
    pub pinned: Option<Rung>,
}

/// Identity of everything a probe's result depends on: boot, ids, namespaces, capabilities, filters, labels, the subid
/// files and the store's device.
#[must_use]
pub fn cache_key(input: &ProbeInput<'_>) -> String {
    let mut key = String::from("3");
    let _ = write!(key, " pinned={}", input.pinned.map_or("auto", Rung::as_str));
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let _ = write!(key, " boot={}", read("/proc/sys/kernel/random/boot_id").trim());
    let ids = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let _ = write!(key, " ids={}:{}", ids.0, ids.1);
    for ns in ["user", "mnt", "pid", "cgroup"] {
        let inode = fs::metadata(format!("/proc/self/ns/{ns}")).map_or(0, |m| m.ino());
        let _ = write!(key, " {ns}={inode}");
    }
    for line in read("/proc/self/status").lines() {
        if ["CapEff", "CapBnd", "NoNewPrivs", "Seccomp"].iter().any(|name| line.starts_with(name)) {
            let _ = write!(key, " {}", line.replace(['\t', ' '], ""));
        }
    }
    let _ = write!(key, " label={}", read("/proc/self/attr/current").trim_end_matches(['\0', '\n']));
    for path in ["/etc/subuid", "/etc/subgid", "/proc/sys/user/max_user_namespaces"] {
        let stamp = fs::metadata(path).map_or((0, 0, 0), |m| (m.mtime(), m.mtime_nsec(), m.size()));
        let _ = write!(key, " {path}={}.{}.{}", stamp.0, stamp.1, stamp.2);
    }
    for path in ["/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "/proc/sys/user/max_user_namespaces"] {
        let _ = write!(key, " {}", read(path).trim());
    }
    for helper in ["newuidmap", "newgidmap"] {
        let stamp = find_program(helper).and_then(|p| fs::metadata(p).ok()).map_or((0, 0), |m| (m.ino(), m.mode()));
        let _ = write!(key, " {helper}={}.{:o}", stamp.0, stamp.1);
    }
    let device = input.store.ancestors().find_map(|dir| fs::metadata(dir).ok()).map_or(0, |m| m.dev());
    let _ = write!(key, " dev={device}");
    key
}

/// What a working rung was found to have.
struct Found {
    proc_mode: ProcMode,
    mapping: Option<IdMapping>,
}

/// Probes the machine. The caller must be single-threaded.
#[must_use]
pub fn probe(input: &ProbeInput<'_>) -> ProbeReport {
    let mut report = empty_report(input);
    if let Some(blocker) = explain::old_kernel(&report.kernel) {
        report.blockers = vec![blocker];
        return report;
    }
    for rung in Rung::ALL {
        if input.pinned.is_some_and(|pinned| pinned != rung) {
            continue;
        }
        match try_rung(rung, input, report.notify) {
            Ok(found) => {
                report.rung = rung;
                report.proc_mode = found.proc_mode;
                report.mapping = found.mapping;
                break;
            }
            Err(blockers) => report.blockers.extend(blockers),
        }
        // Half a root is better than the rungs below: without CAP_NET_ADMIN only RUN --network=none fails.
        if rung == Rung::Userns
            && input.pinned.is_none()
            && let Ok(proc_mode) = try_root(CapabilitySet::SYS_ADMIN)
        {
            report.rung = Rung::Root;
            report.proc_mode = proc_mode;
            break;
        }
    }
    report
}

/// Every rung: whether it works, and if not, why.
pub(crate) fn probe_all(input: &ProbeInput<'_>) -> Vec<(Rung, Vec<Blocker>)> {
    let report = empty_report(input);
    if let Some(blocker) = explain::old_kernel(&report.kernel) {
        return vec![(Rung::Userns, vec![blocker])];
    }
    Rung::ALL.into_iter().map(|rung| (rung, try_rung(rung, input, report.notify).err().unwrap_or_default())).collect()
}

fn empty_report(input: &ProbeInput<'_>) -> ProbeReport {
    ProbeReport {
        rung: Rung::None,
        blockers: Vec::new(),
        proc_mode: ProcMode::default(),
        mapping: None,
        landlock_abi: crate::landlock::abi(),
        notify: try_notify().is_ok(),
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        key: cache_key(input),
    }
}

fn try_rung(rung: Rung, input: &ProbeInput<'_>, notify: bool) -> Result<Found, Vec<Blocker>> {
    let plain = |proc_mode| Found { proc_mode, mapping: None };
    match rung {
        Rung::Root => try_root(ROOT_CAPABILITIES).map(plain).map_err(|b| vec![b]),
        Rung::Userns => try_userns().map(|(mapping, proc_mode)| Found { proc_mode, mapping: Some(mapping) }),
        Rung::UsernsOne => try_userns_one(notify || input.pinned == Some(rung))
            .map(|(mapping, proc_mode)| Found { proc_mode, mapping: Some(mapping) })
            .map_err(|b| vec![b]),
        Rung::Chroot => try_chroot(input.store, input.pinned == Some(rung)).map(|()| plain(ProcMode::Bind)),
        Rung::Ptrace => {
            crate::unprivileged::try_ptrace(input.store, input.pinned == Some(rung)).map(|()| plain(ProcMode::Bind))
        }
        Rung::None => Ok(plain(ProcMode::default())),
    }
}

/// Whether a seccomp filter can ask another process for answers.
pub(crate) fn try_notify() -> Result<(), EnterError> {
    let install = || {
        rustix::thread::set_no_new_privs(true).what(|| "set no_new_privs".into())?;
        let filter = crate::seccomp::trap_filter(&[("readlink", When::Always, Action::Notify)]);
        sys::install_listener(&filter).what(|| "install a filter with notifications".into())?;
        Ok(ProcMode::default())
    };
    in_child(|| Ok(()), |_| Ok(()), install).map(drop)
}

/// The ids a user without subordinate ones has.
fn try_userns_one(notify: bool) -> Result<(IdMapping, ProcMode), Blocker> {
    let blocker = |what: &str, evidence: String, remedy: &str| Blocker {
        rung: Rung::UsernsOne,
        what: what.into(),
        evidence,
        remedy: remedy.into(),
    };
    if !notify {
        return Err(blocker(
            "seccomp user notification is not available",
            format!(
                "kernel {}; a filter with a listener was refused",
                rustix::system::uname().release().to_string_lossy()
            ),
            "use Linux 5.19 or newer, not inside another program that has a listener; or pin the rung (--isolation \
             userns-one) and lose the ownership of files other than root's",
        ));
    }
    let mapping = IdMapping::One { own: (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()) };
    match perform(Rung::UsernsOne, Some(&mapping)) {
        Ok(proc_mode) => Ok((mapping, proc_mode)),
        Err(error) => {
            let mut blocker = explain::userns(&error, &mapping);
            blocker.rung = Rung::UsernsOne;
            Err(blocker)
        }
    }
}

/// What the worker and its steps make use of without namespaces.
const CHROOT_CAPABILITIES: CapabilitySet = CapabilitySet::SYS_CHROOT
    .union(CapabilitySet::CHOWN)
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETGID);

fn try_chroot(store: &Path, asked_for: bool) -> Result<(), Vec<Blocker>> {
    let blocker = |what: String, evidence: String, remedy: &str| Blocker {
        rung: Rung::Chroot,
        what,
        evidence,
        remedy: remedy.into(),
    };
    let caps = sys::effective_capabilities();
    let missing = CHROOT_CAPABILITIES.difference(caps);
    if !missing.is_empty() || !rustix::process::geteuid().is_root() {
        let names: Vec<_> = missing.iter_names().map(|(name, _)| format!("CAP_{name}")).collect();
        let uid = rustix::process::geteuid().as_raw();
        return Err(vec![blocker(
            if uid == 0 { format!("no {}", names.join(", ")) } else { format!("it needs user 0, this is {uid}") },
            format!("user {uid}, effective capabilities {:#x}", caps.bits()),
            "run the container as user 0 with the default capabilities (Kubernetes: securityContext.runAsUser: 0, and no \
             capabilities.drop)",
        )]);
    }
    let mut blockers = Vec::new();
    if crate::landlock::abi() == 0 && !asked_for {
        blockers.push(blocker(
            "the kernel has no Landlock, which keeps steps inside their root".into(),
            "landlock_create_ruleset is not answered".into(),
            "use a kernel with Landlock (5.13, and \"landlock\" in /sys/kernel/security/lsm), or accept steps that can leave \
             their root: --isolation chroot",
        ));
    }
    let confine = || {
        let root =
            rustix::fs::open("/", rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC, rustix::fs::Mode::empty())
                .what(|| "open the root directory".into())?;
        crate::landlock::confine(std::os::fd::AsFd::as_fd(&root))
            .map_err(std::io::Error::other)
            .what(|| "enter a Landlock domain".into())?;
        rustix::process::chroot("/").what(|| "chroot".into())?;
        Ok(ProcMode::Bind)
    };
    if let Err(error) = in_child(|| Ok(()), |_| Ok(()), confine) {
        blockers.push(blocker(
            "chroot under Landlock is refused".into(),
            error.to_string(),
            "let the container's seccomp profile allow chroot and landlock_restrict_self, as the runtimes' default does",
        ));
    }
    let place = store.ancestors().find(|dir| dir.is_dir()).unwrap_or(Path::new("/"));
    let node = place.join(format!(".rbuild-probe-{}", rustix::process::getpid().as_raw_pid()));
    if let Err(error) = try_node(&node) {
        blockers.push(blocker(
            "device nodes cannot be made or used where the store is".into(),
            format!("mknod {} c 1 3: {error}", node.display()),
            "keep CAP_MKNOD, and put the store (--root) on a writable file system that is not mounted nodev",
        ));
    }
    if blockers.is_empty() { Ok(()) } else { Err(blockers) }
}

/// Makes a /dev/null at `path` and writes to it.
pub(crate) fn try_node(path: &Path) -> std::io::Result<()> {
    use rustix::fs::{CWD, FileType, Mode, OFlags, makedev};
    rustix::fs::mknodat(CWD, path, FileType::CharacterDevice, Mode::RUSR | Mode::WUSR, makedev(1, 3))?;
    let opened = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
    fs::remove_file(path)?;
    rustix::io::write(&opened?, b"x")?;
    Ok(())
}

/// What the worker and its steps make use of as real root. In a user namespace they have all of them.
const ROOT_CAPABILITIES: CapabilitySet = CapabilitySet::SYS_ADMIN
    .union(CapabilitySet::NET_ADMIN)
    .union(CapabilitySet::CHOWN)
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETPCAP);

fn try_root(wanted: CapabilitySet) -> Result<ProcMode, Blocker> {
    let (uids, gids) = IdMaps::current().sizes();
    let caps = sys::effective_capabilities();
    let missing = match wanted.difference(caps) {
        // The one that stands for all.
        all if all.contains(CapabilitySet::SYS_ADMIN) => CapabilitySet::SYS_ADMIN,
        some => some,
    };
    if !missing.is_empty() {
        let names: Vec<_> = missing.iter_names().map(|(name, _)| format!("CAP_{name}")).collect();
        return Err(Blocker {
            rung: Rung::Root,
            what: format!("no {}", names.join(", ")),
            evidence: format!("effective capabilities are {:#x}", caps.bits()),
            remedy: "not needed where the userns rung works; else run as root in a privileged container".into(),
        });
    }
    if uids.min(gids) < IDS_NEEDED {
        return Err(Blocker {
            rung: Rung::Root,
            what: format!("the user namespace has only {} ids", uids.min(gids)),
            evidence: format!("/proc/self/uid_map has {uids} ids, /proc/self/gid_map {gids}; images need {IDS_NEEDED}"),
            remedy: "start rbuild outside of this user namespace, or map 65536 ids into it".into(),
        });
    }
    perform(Rung::Root, None).map_err(|e| Blocker {
        rung: Rung::Root,
        what: "mounts are refused in spite of CAP_SYS_ADMIN".into(),
        evidence: e.to_string(),
        remedy: "add --security-opt apparmor=unconfined --security-opt seccomp=unconfined to the container".into(),
    })
}

fn try_userns() -> Result<(IdMapping, ProcMode), Vec<Blocker>> {
    let mapping = choose_mapping();
    match &mapping {
        Ok(mapping) => match perform(Rung::Userns, Some(mapping)) {
            Ok(proc_mode) => Ok((mapping.clone(), proc_mode)),
            Err(error) => Err(vec![explain::userns(&error, mapping)]),
        },
        Err(found) => {
            // Say at once if namespaces are refused as well, not only after the ids have been arranged.
            let mut found = found.clone();
            if let Err(error) = perform_unmapped() {
                found.push(explain::userns(&error, &IdMapping::Direct));
            }
            Err(found)
        }
    }
}

/// How ids could be mapped here, or why they cannot.
pub(crate) fn choose_mapping() -> Result<IdMapping, Vec<Blocker>> {
    let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let caps = sys::effective_capabilities();
    let set_ids = CapabilitySet::SETUID | CapabilitySet::SETGID;
    let (uids, gids) = IdMaps::current().sizes();
    if own.0 == 0 && caps.contains(set_ids) && uids.min(gids) >= IDS_NEEDED {
        return Ok(IdMapping::Direct);
    }
    let name = user_name(Path::new("/etc/passwd"), own.0);
    let mut blockers = Vec::new();
    for helper in ["newuidmap", "newgidmap"] {
        if find_program(helper).is_none() {
            blockers.push(explain::no_helper(helper));
        }
    }
    let mut ranges = Vec::new();
    for file in ["/etc/subuid", "/etc/subgid"] {
        let text = fs::read_to_string(file).unwrap_or_default();
        let found = parse_subids(&text, name.as_deref(), own.0);
        let count: u64 = found.iter().map(|r| u64::from(r.count)).sum();
        // The user himself is id 0, so one less is needed.
        if count < IDS_NEEDED - 1 {
            blockers.push(explain::no_subids(file, name.as_deref(), own.0, count, free_subids(&text)));
        }
        ranges.push(found);
    }
    if !blockers.is_empty() {
        return Err(blockers);
    }
    let gids = ranges.pop().unwrap_or_default();
    let uids: Vec<IdRange> = ranges.pop().unwrap_or_default();
    Ok(IdMapping::Helpers { own, uids, gids })
}

/// Where a program is, by PATH.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|p| p.is_file())
}

/// Does what a worker on `rung` does, in a child.
pub(crate) fn perform(rung: Rung, mapping: Option<&IdMapping>) -> Result<ProcMode, EnterError> {
    in_child(
        || unshare_rung(rung),
        |pid| mapping.map_or(Ok(()), |m| write_maps(pid, m)),
        || {
            if rung != Rung::Root {
                become_root()?;
            }
            try_mounts()
        },
    )
}

/// Whether a user namespace can be made and mounts work in it, without any ids.
fn perform_unmapped() -> Result<(), EnterError> {
    in_child(|| unshare_rung(Rung::Userns), |_| Ok(()), || private_tmpfs().map(|()| ProcMode::Bind)).map(|_| ())
}

/// Runs `first` in a child, then `middle` here, then `last` in the child.
pub(crate) fn in_child(
    first: impl FnOnce() -> Result<(), SysError>,
    middle: impl FnOnce(i32) -> Result<(), EnterError>,
    last: impl FnOnce() -> Result<ProcMode, SysError>,
) -> Result<ProcMode, EnterError> {
    let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).what(|| "make a pipe".into());
    let (ready_r, ready_w) = pipe()?;
    let (go_r, go_w) = pipe()?;
    match sys::fork().what(|| "fork".into())? {
        Fork::Child => {
            drop((ready_r, go_w));
            // A caller that entered before is undumpable, and the maps of such a process cannot be written.
            let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::Dumpable);
            let result = first().and_then(|()| {
                say(&ready_w, "+");
                match rustix::io::read(&go_r, &mut [0u8; 1]) {
                    Ok(1) => last(),
                    _ => sys::exit_now(0),
                }
            });
            match result {
                Ok(ProcMode::Fresh) => say(&ready_w, "fresh"),
                Ok(ProcMode::Bind) => say(&ready_w, "bind"),
                Err(error) => say(&ready_w, &format!("!{}: {}", error.what, error.source)),
            }
            sys::exit_now(0)
        }
        Fork::Parent(pid) => {
            drop((ready_w, go_r));
            let result = expect_ready(&ready_r).and_then(|()| middle(pid)).and_then(|()| {
                rustix::io::write(&go_w, b"+").what(|| "release the child".into())?;
                let mut buf = [0u8; 1024];
                let n = rustix::io::read(&ready_r, &mut buf).what(|| "read from the child".into())?;
                match &buf[..n] {
                    b"fresh" => Ok(ProcMode::Fresh),
                    b"bind" => Ok(ProcMode::Bind),
                    [b'!', reason @ ..] => Err(EnterError::Child(String::from_utf8_lossy(reason).into_owned())),
                    _ => Err(EnterError::Child("probe mounts: the child ended at once".into())),
                }
            });
            drop(go_w);
            let _ = sys::wait_usage(pid);
            result
        }
    }
}

fn say(to: &OwnedFd, text: &str) {
    // The reader is this program's own parent; if it is gone there is nobody to tell.
    let _ = rustix::io::write(to, text.as_bytes());
}

/// The mounts a worker and its steps make, in a mount namespace that is thrown away.
fn try_mounts() -> Result<ProcMode, SysError> {
    private_tmpfs()?;
    Ok(if fresh_proc_works() { ProcMode::Fresh } else { ProcMode::Bind })
}

pub(crate) fn private_tmpfs() -> Result<(), SysError> {
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .what(|| "make mounts private".into())?;
    // Over the root itself: the one directory that certainly exists. Paths already resolved are not affected.
    rustix::mount::mount("tmpfs", "/", "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, None)
        .what(|| "mount a tmpfs".into())
}

/// Whether the kernel lets us mount a procfs for a new pid namespace (it does not where the visible one is masked).
pub(crate) fn fresh_proc_works() -> bool {
    if sys::unshare(UnshareFlags::NEWPID).is_err() {
        return false;
    }
    match sys::fork() {
        Ok(Fork::Child) => {
            let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
            let ok = rustix::mount::mount("proc", "/proc", "proc", flags, None).is_ok();
            sys::exit_now(if ok { 0 } else { 1 })
        }
        Ok(Fork::Parent(pid)) => sys::wait_usage(pid).is_ok_and(|(status, _)| status == 0),
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_key_is_stable_and_follows_the_store() {
        let one = ProbeInput { store: Path::new("/"), pinned: None };
        assert_eq!(cache_key(&one), cache_key(&one));
        let other = ProbeInput { store: Path::new("/proc/does-not-exist"), pinned: None };
        assert_ne!(cache_key(&one), cache_key(&other));
    }
}
