//! First things in the worker: private mounts, no cgroups for libcontainer, a tmpfs for state.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, mount_remount, unmount,
};
use rustix::process::{DumpableBehavior, Signal};

use crate::cgroup::{self, Cgroups};
use crate::idmap::IdMaps;
use crate::report::{ProbeReport, ProcMode, Rung};
use crate::step::{Emulation, RootSwitch};
use crate::sys::{Context, SysError};

const CGROUP: &str = "/sys/fs/cgroup";
const QUIET: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

/// What the broker tells the worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerOptions {
    /// The rung entered.
    pub rung: Rung,
    /// `/proc` of steps.
    pub proc_mode: ProcMode,
    /// Landlock ABI version.
    pub landlock_abi: u32,
    /// Seccomp user notification works.
    pub notify: bool,
    /// A directory that may be hidden by the worker's tmpfs; created if missing. All workers can share it.
    pub mountpoint: PathBuf,
    /// The control groups of the broker ([`crate::cgroup::own_groups`]).
    pub groups: Vec<(String, PathBuf)>,
}

impl WorkerOptions {
    /// The options that go with a probe's report.
    #[must_use]
    pub fn new(report: &ProbeReport, mountpoint: PathBuf) -> Self {
        Self {
            rung: report.rung,
            proc_mode: report.proc_mode,
            landlock_abi: report.landlock_abi,
            notify: report.notify,
            mountpoint,
            groups: cgroup::own_groups(),
        }
    }
}

/// What the worker may use.
#[derive(Debug, Clone)]
pub struct WorkerContext {
    /// The rung.
    pub rung: Rung,
    /// A directory private to this worker, mode 0700: in memory (tmpfs) where the rung can mount.
    pub state_dir: PathBuf,
    /// `/proc` of steps.
    pub proc_mode: ProcMode,
    /// Landlock ABI version.
    pub landlock_abi: u32,
    /// Seccomp user notification works.
    pub notify: bool,
    /// The ids that can be used.
    pub ids: IdMaps,
    /// A read-only cgroup2 to bind at `/sys/fs/cgroup` of steps where `/sys` does not bring one.
    pub cgroup_dir: Option<PathBuf>,
    /// The groups that limits are set in.
    pub groups: Arc<Cgroups>,
}

impl WorkerContext {
    /// Whether two steps that run at once can be kept from reading each other's environment and mounts.
    #[must_use]
    pub fn steps_are_separate(&self) -> bool {
        // ABI 1 has no harmless access right to build a domain from.
        match self.rung {
            // Without namespaces it is Landlock or nothing, and any version restricts ptrace.
            Rung::Chroot | Rung::Ptrace => self.landlock_abi > 0,
            _ => self.proc_mode == ProcMode::Fresh || self.landlock_abi > 1,
        }
    }

    /// How steps change their root.
    #[must_use]
    pub fn switch(&self) -> RootSwitch {
        match self.rung {
            Rung::Chroot => RootSwitch::Chroot,
            Rung::Ptrace => RootSwitch::Traced,
            _ => RootSwitch::Pivot,
        }
    }

    /// What is emulated for a step with all rights (`insecure`) or an ordinary one.
    #[must_use]
    pub fn emulation(&self, insecure: bool) -> Emulation {
        match (self.rung, self.notify) {
            // With all rights it may want to answer calls itself, which only one of us can.
            (Rung::Userns, true) if !insecure => Emulation::Nodes,
            (Rung::Root, true) if !insecure && !self.ids.are_initial() => Emulation::Nodes,
            (Rung::Chroot, true) => Emulation::Proc,
            (Rung::Ptrace, _) => Emulation::Paths,
            (Rung::UsernsOne, true) => Emulation::Ids,
            (Rung::UsernsOne, false) => Emulation::Errno,
            _ => Emulation::None,
        }
    }
}

/// Why the worker cannot work.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// A system call failed.
    #[error(transparent)]
    Sys(#[from] SysError),
}

/// Prepares the worker's mount namespace. To be called before any thread is started.
///
/// Everything a step must not see of this process is closed off here too: the worker becomes undumpable, so its memory,
/// environment and descriptors are out of reach even for its own user id.
///
/// # Errors
/// When a mount is refused.
pub fn worker_init(options: &WorkerOptions) -> Result<WorkerContext, WorkerError> {
    let mut context = WorkerContext {
        rung: options.rung,
        state_dir: options.mountpoint.clone(),
        proc_mode: options.proc_mode,
        landlock_abi: options.landlock_abi,
        notify: options.notify,
        ids: IdMaps::current(),
        cgroup_dir: None,
        // Before they are hidden.
        groups: Arc::new(Cgroups::open(&options.groups)),
    };
    if options.rung == Rung::Ptrace {
        crate::ownership::work_without_privileges();
    }
    make_dir(&options.mountpoint)?;
    match options.rung {
        Rung::None | Rung::Chroot | Rung::Ptrace => {
            let own = options.mountpoint.join(format!("worker-{}", std::process::id()));
            make_dir(&own)?;
            context.state_dir = own;
        }
        Rung::Root | Rung::Userns | Rung::UsernsOne => {
            mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
                .what(|| "make the worker's mounts private".into())?;
            // Not `noexec`: programs for other architectures are tried out here.
            let flags = MountFlags::NOSUID | MountFlags::NODEV;
            mount("tmpfs", &context.state_dir, "tmpfs", flags, Some(c"mode=0700"))
                .what(|| format!("mount a tmpfs on {}", context.state_dir.display()))?;
            if options.rung == Rung::Root {
                context.cgroup_dir = own_cgroup(&context.state_dir.join("cgroup"))?;
                hide_cgroups()?;
            } else {
                mask_cgroups()?;
            }
        }
    }
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .what(|| "make the worker undumpable".into())?;
    // Set before the exec and kept across it, unless the file has capabilities of its own.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .what(|| "set the parent death signal".into())?;
    Ok(context)
}

/// Lets the worker live on when its broker ends: nobody waits for its output, its directory is nobody's.
///
/// # Errors
/// When a call is refused; the worker may still be heard then.
pub fn outlive_parent() -> Result<(), WorkerError> {
    let null = fs::OpenOptions::new().read(true).write(true).open("/dev/null").what(|| "open /dev/null".into())?;
    rustix::process::chdir("/").what(|| "change to /".into())?;
    rustix::process::set_parent_process_death_signal(None).what(|| "clear the parent death signal".into())?;
    // Whoever reads what was written waits for its end.
    rustix::stdio::dup2_stdin(&null)
        .and_then(|()| rustix::stdio::dup2_stdout(&null))
        .and_then(|()| rustix::stdio::dup2_stderr(&null))
        .what(|| "let go of the standard streams".into())?;
    Ok(())
}

fn make_dir(path: &Path) -> Result<(), SysError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).what(|| format!("create {}", path.display()))
}

/// Keeps libcontainer, which knows no way without cgroups, from touching any: over a read-only cgroup2 it tolerates
/// that nothing can be created. (Only in a user namespace: as real root it insists, see [`hide_cgroups`].)
fn mask_cgroups() -> Result<(), SysError> {
    if mount("cgroup2", CGROUP, "cgroup2", QUIET | MountFlags::RDONLY, None).is_ok() {
        return Ok(());
    }
    // EBUSY: the same cgroup2 is mounted there already. Make our view of it read-only.
    let bound = mount_bind(CGROUP, CGROUP)
        .and_then(|()| mount_remount(CGROUP, QUIET | MountFlags::BIND | MountFlags::RDONLY, c""));
    if bound.is_ok() && is_cgroup2(CGROUP) {
        return Ok(());
    }
    // No cgroups at all, or a v2-only machine that refused both: libcontainer finds no v1 mounts and does nothing.
    mount("tmpfs", CGROUP, "tmpfs", QUIET, Some(c"mode=0755,size=64k")).what(|| format!("hide {CGROUP}"))
}

/// As real root libcontainer fails on a read-only cgroup2, but does nothing where it finds no cgroup mounts: take them
/// all out of this mount namespace.
fn hide_cgroups() -> Result<(), SysError> {
    let info = fs::read_to_string("/proc/self/mountinfo").what(|| "read /proc/self/mountinfo".into())?;
    let mut points: Vec<&str> = info
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .filter(|point| *point == CGROUP || point.starts_with("/sys/fs/cgroup/"))
        .collect();
    // Innermost first.
    points.reverse();
    for point in points {
        unmount(point, UnmountFlags::DETACH).what(|| format!("unmount {point} from the worker's view"))?;
    }
    if !Path::new(CGROUP).is_dir() {
        return Ok(());
    }
    mount("tmpfs", CGROUP, "tmpfs", QUIET, Some(c"mode=0755,size=64k")).what(|| format!("hide {CGROUP}"))
}

/// A read-only cgroup2 for steps to see; without one they see none.
fn own_cgroup(at: &Path) -> Result<Option<PathBuf>, SysError> {
    make_dir(at)?;
    Ok(mount("cgroup2", at, "cgroup2", QUIET | MountFlags::RDONLY, None).is_ok().then(|| at.to_owned()))
}

fn is_cgroup2(path: &str) -> bool {
    rustix::fs::statfs(path).is_ok_and(|s| s.f_type == 0x6367_7270)
}
