//! Limits that only control groups can set, and what the kernel says about memory that ran out.
//!
//! The broker finds the groups it is in ([`own_groups`]); the worker opens them before it hides the file system they are in,
//! and makes a group below them for each step that is limited. Both versions of control groups are spoken, controller by
//! controller: machines have either, or both.

mod parent;

pub use parent::{Joined, ParentError, join};

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, mkdirat, openat, unlinkat};
use rustix::io::Errno;

/// What steps may use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources {
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Bytes of memory and swap together; negative is unlimited.
    pub memory_swap: Option<i64>,
    /// Weight, 2 to 262144; 1024 is normal.
    pub cpu_shares: Option<u64>,
    /// Microseconds in which `cpu_quota` counts.
    pub cpu_period: Option<u64>,
    /// Microseconds of processor time in each period; negative is unlimited.
    pub cpu_quota: Option<i64>,
    /// Processors, e.g. `0-2,7`.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes.
    pub cpuset_mems: Option<String>,
    /// Processes and threads.
    pub processes: Option<u64>,
}

impl Resources {
    /// Whether nothing is limited.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Controller, file and text of each limit, in the files' order.
    fn settings(&self, controller: &str, v2: bool) -> Vec<(&'static str, String)> {
        /// The period where none is given.
        const PERIOD: u64 = 100_000;
        let mut out = Vec::new();
        match controller {
            "memory" => {
                if let Some(bytes) = self.memory {
                    out.push((if v2 { "memory.max" } else { "memory.limit_in_bytes" }, bytes.to_string()));
                }
                if let Some(both) = self.memory_swap {
                    out.push(match (v2, u64::try_from(both)) {
                        (true, Err(_)) => ("memory.swap.max", "max".into()),
                        // Here swap is counted alone.
                        (true, Ok(both)) => {
                            ("memory.swap.max", both.saturating_sub(self.memory.unwrap_or(0)).to_string())
                        }
                        (false, Err(_)) => ("memory.memsw.limit_in_bytes", "-1".into()),
                        (false, Ok(both)) => ("memory.memsw.limit_in_bytes", both.to_string()),
                    });
                }
            }
            "cpu" => {
                if let Some(shares) = self.cpu_shares {
                    let shares = shares.clamp(2, 262_144);
                    out.push(match v2 {
                        true => ("cpu.weight", (1 + (shares - 2) * 9_999 / 262_142).to_string()),
                        false => ("cpu.shares", shares.to_string()),
                    });
                }
                let quota = self.cpu_quota.map(|q| u64::try_from(q).ok());
                if v2 && (quota.is_some() || self.cpu_period.is_some()) {
                    let quota = quota.flatten().map_or("max".to_owned(), |q| q.to_string());
                    out.push(("cpu.max", format!("{quota} {}", self.cpu_period.unwrap_or(PERIOD))));
                } else {
                    out.extend(self.cpu_period.map(|p| ("cpu.cfs_period_us", p.to_string())));
                    out.extend(quota.map(|q| ("cpu.cfs_quota_us", q.map_or("-1".to_owned(), |q| q.to_string()))));
                }
            }
            "cpuset" => {
                out.extend(self.cpuset_cpus.clone().map(|c| ("cpuset.cpus", c)));
                out.extend(self.cpuset_mems.clone().map(|m| ("cpuset.mems", m)));
            }
            "pids" => out.extend(self.processes.map(|n| ("pids.max", n.to_string()))),
            _ => {}
        }
        out
    }
}

const CONTROLLERS: [&str; 4] = ["memory", "cpu", "cpuset", "pids"];
/// What groups of this program are called, before the number of their process.
pub const PREFIX: &str = "rbuild-";
/// Version 2 among the names of version 1's controllers.
const UNIFIED: &str = "";

/// The directories of the groups this process is in, by controller; that of version 2 has no name. To be asked before
/// any namespace is entered.
#[must_use]
pub fn own_groups() -> Vec<(String, PathBuf)> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    groups(&read("/proc/self/cgroup"), &read("/proc/self/mountinfo"))
}

fn groups(cgroup: &str, mountinfo: &str) -> Vec<(String, PathBuf)> {
    let mut out = Vec::new();
    for line in cgroup.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(names), Some(path)) = (fields.next(), fields.next()) else { continue };
        for name in names.split(',') {
            if name != UNIFIED && !CONTROLLERS.contains(&name) {
                continue;
            }
            if let Some(dir) = mountinfo.lines().find_map(|mount| directory(mount, name, path)) {
                out.push((name.to_owned(), dir));
            }
        }
    }
    out
}

/// Where `path` of a controller's hierarchy is, if this line mounts it.
fn directory(mount: &str, controller: &str, path: &str) -> Option<PathBuf> {
    let (before, after) = mount.split_once(" - ")?;
    let mut before = before.split(' ').skip(3);
    let (root, point) = (before.next()?, before.next()?);
    let mut after = after.split(' ');
    let (kind, options) = (after.next()?, after.nth(1)?);
    let fits = match controller {
        UNIFIED => kind == "cgroup2",
        name => kind == "cgroup" && options.split(',').any(|o| o == name),
    };
    let inside = Path::new(path).strip_prefix(root).ok()?;
    fits.then(|| Path::new(point).join(inside))
}

/// The groups this process was started in.
#[derive(Debug)]
pub struct Cgroups {
    dirs: BTreeMap<String, OwnedFd>,
    swept: Once,
}

/// Why steps cannot be limited.
#[derive(Debug, Clone, thiserror::Error)]
#[error("cannot limit {controller}: {why}")]
pub struct LimitError {
    /// The controller.
    pub controller: String,
    /// What is in the way.
    pub why: String,
}

impl Cgroups {
    /// Opens what [`own_groups`] found, as far as it can be opened.
    #[must_use]
    pub fn open(groups: &[(String, PathBuf)]) -> Self {
        let open =
            |path: &PathBuf| openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let swept = Once::new();
        Self { swept, dirs: groups.iter().filter_map(|(name, path)| Some((name.clone(), open(path).ok()?))).collect() }
    }

    /// Makes a group for a step. With `force` the processes of this program are moved out of the way where version 2 wants
    /// that.
    ///
    /// # Errors
    /// Where a controller is not there or not ours to use.
    pub fn create(&self, name: &str, resources: &Resources, force: bool) -> Result<StepGroup, LimitError> {
        self.swept.call_once(|| self.dirs.values().for_each(sweep));
        let mut group = StepGroup { name: name.to_owned(), dirs: Vec::new() };
        for controller in CONTROLLERS {
            let v2 = self.dirs.get(UNIFIED).filter(|dir| has_word(dir, "cgroup.controllers", controller));
            let settings = resources.settings(controller, v2.is_some());
            if settings.is_empty() {
                continue;
            }
            let Some(dir) = v2.or_else(|| self.dirs.get(controller)) else {
                return Err(LimitError {
                    controller: controller.into(),
                    why: "no control group with this controller is visible here".into(),
                });
            };
            let fail = |what: &str, e: Errno| LimitError {
                controller: controller.into(),
                why: format!("{what} in the control group of this process: {}", io::Error::from(e)),
            };
            if v2.is_some() {
                enable(dir, controller, force).map_err(|e| fail("switching the controller on", e))?;
            }
            let own = group.dir(dir, controller, v2.is_some()).map_err(|e| fail("making a group", e))?;
            for (file, text) in settings {
                write(own, file, &text).map_err(|e| fail(&format!("writing \"{text}\" to {file}"), e))?;
            }
        }
        Ok(group)
    }

    /// The controllers that are visible here, and whether steps can have groups of their own with them: this process may
    /// make some.
    #[must_use]
    pub fn controllers(&self) -> Vec<(&'static str, bool)> {
        let find = |name: &'static str| {
            let unified = self.dirs.get(UNIFIED).filter(|dir| has_word(dir, "cgroup.controllers", name));
            let dir = unified.or_else(|| self.dirs.get(name))?;
            let flags = rustix::fs::AtFlags::EACCESS;
            Some((name, rustix::fs::accessat(dir, ".", rustix::fs::Access::WRITE_OK, flags).is_ok()))
        };
        CONTROLLERS.into_iter().filter_map(find).collect()
    }

    /// How often the kernel has killed a process of these groups because memory ran out. Where the groups do not tell, the
    /// machine's count.
    #[must_use]
    pub fn out_of_memory(&self) -> u64 {
        let told = self.dirs.values().filter_map(oom_kills).max();
        told.unwrap_or_else(|| field(&fs::read_to_string("/proc/vmstat").unwrap_or_default(), "oom_kill").unwrap_or(0))
    }
}

/// Removes what steps of builds that were killed have left.
fn sweep(dir: &OwnedFd) {
    let open = openat(dir, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let Some(entries) = open.ok().and_then(|open| Dir::new(open).ok()) else { return };
    for entry in entries.flatten() {
        if entry.file_name().to_str().is_ok_and(is_abandoned) {
            // One that is in use cannot be removed.
            let _ = unlinkat(dir, entry.file_name(), AtFlags::REMOVEDIR);
        }
    }
}

/// Whether a group is called after a process that is not there any more. Of one that is it may be entered in a moment.
fn is_abandoned(name: &str) -> bool {
    let process = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
    process.is_some_and(|process| !Path::new(&format!("/proc/{process}")).exists())
}

/// Lets groups below `dir` use a controller of version 2, and take processes in.
fn enable(dir: &OwnedFd, controller: &str, force: bool) -> Result<(), Errno> {
    if has_processes(dir) {
        // Of such a group the kernel passes no controller on, or one that counts threads (cpu, cpuset, pids) to groups that are
        // "domain invalid": no process can enter those.
        if !force {
            return Err(Errno::BUSY);
        }
        go_one_down(dir)?;
    }
    if has_word(dir, "cgroup.subtree_control", controller) {
        return Ok(());
    }
    write(dir, "cgroup.subtree_control", &format!("+{controller}"))
}

/// Whether a group of version 2 has processes of its own, which all but the machine's root may not have beside groups below.
fn has_processes(dir: &OwnedFd) -> bool {
    read(dir, "cgroup.type").is_ok() && read(dir, "cgroup.procs").is_ok_and(|text| !text.trim().is_empty())
}

/// Moves this program's processes into a group below.
fn go_one_down(dir: &OwnedFd) -> Result<(), Errno> {
    const LEAF: &str = "rbuild";
    // What somebody switched on all the same would make that group invalid, too.
    for on in read(dir, "cgroup.subtree_control").unwrap_or_default().split_ascii_whitespace() {
        write(dir, "cgroup.subtree_control", &format!("-{on}"))?;
    }
    match mkdirat(dir, LEAF, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(e) => return Err(e),
    }
    let leaf = openat(dir, LEAF, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    for process in [rustix::process::getppid(), Some(rustix::process::getpid())].into_iter().flatten() {
        write(&leaf, "cgroup.procs", &process.as_raw_pid().to_string())?;
    }
    // Somebody else's are not ours to move.
    if has_processes(dir) { Err(Errno::BUSY) } else { Ok(()) }
}

/// The groups of one step; removed when dropped.
#[derive(Debug)]
pub struct StepGroup {
    name: String,
    /// Parent, whether of version 2, and the group.
    dirs: Vec<(OwnedFd, bool, OwnedFd)>,
}

impl StepGroup {
    /// The group below `parent`; controllers of version 2 share one.
    fn dir(&mut self, parent: &OwnedFd, controller: &str, v2: bool) -> Result<&OwnedFd, Errno> {
        if let Some(at) = self.dirs.iter().position(|(_, known, _)| v2 && *known) {
            return Ok(&self.dirs[at].2);
        }
        match mkdirat(parent, &self.name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(e),
        }
        let own = openat(parent, &self.name, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        if controller == "cpuset" && !v2 {
            // Version 1 takes no process in before both are said.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                write(&own, file, read(parent, file)?.trim())?;
            }
        }
        self.dirs.push((parent.try_clone().map_err(|_| Errno::MFILE)?, v2, own));
        let (_, _, own) = self.dirs.last().expect("because it was just pushed");
        Ok(own)
    }

    /// Puts a process in, and with it what it will start.
    pub(crate) fn add(&self, pid: u32) -> io::Result<()> {
        for (_, _, dir) in &self.dirs {
            write(dir, "cgroup.procs", &pid.to_string())?;
        }
        Ok(())
    }

    /// Whether the kernel killed a process of the step because its memory ran out.
    #[must_use]
    pub fn ran_out_of_memory(&self) -> bool {
        self.dirs.iter().filter_map(|(_, _, dir)| oom_kills(dir)).any(|n| n > 0)
    }
}

impl Drop for StepGroup {
    fn drop(&mut self) {
        for (parent, _, _) in &self.dirs {
            // The last process may still be on its way out.
            for _ in 0..20 {
                match unlinkat(parent, &self.name, AtFlags::REMOVEDIR) {
                    Err(Errno::BUSY) => std::thread::sleep(Duration::from_millis(5)),
                    _ => break,
                }
            }
        }
    }
}

fn oom_kills(dir: &OwnedFd) -> Option<u64> {
    // Version 2, then version 1.
    let text = read(dir, "memory.events").or_else(|_| read(dir, "memory.oom_control")).ok()?;
    field(&text, "oom_kill")
}

fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

fn has_word(dir: &OwnedFd, file: &str, word: &str) -> bool {
    read(dir, file).is_ok_and(|text| text.split_ascii_whitespace().any(|w| w == word))
}

fn read(dir: &OwnedFd, file: &str) -> Result<String, Errno> {
    let fd = openat(dir, file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    io::read_to_string(fs::File::from(fd)).map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))
}

fn write(dir: &OwnedFd, file: &str, text: &str) -> Result<(), Errno> {
    let fd = openat(dir, file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(fd, text.as_bytes()).map(|_| ())
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd as _, BorrowedFd};

    use super::*;

    const MOUNTS: &str = "\
30 23 0:26 / /sys/fs/cgroup rw,nosuid - tmpfs tmpfs rw
31 30 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
32 30 0:28 /docker/x /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct
33 30 0:29 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
";

    #[test]
    fn groups_are_found_where_they_are_mounted() {
        let found = groups("4:cpu,cpuacct:/docker/x/y\n3:pids:/a/b\n2:memory:/m\n0::/user.slice/s\n", MOUNTS);
        let texts: Vec<String> = found.iter().map(|(n, p)| format!("{n}={}", p.display())).collect();
        assert_eq!(
            texts,
            [
                "cpu=/sys/fs/cgroup/cpu,cpuacct/y",
                "pids=/sys/fs/cgroup/pids/a/b",
                "=/sys/fs/cgroup/unified/user.slice/s"
            ]
        );
    }

    /// SPEC B2.26: both versions say the same in their own words.
    #[test]
    fn b2_26_limits_in_both_versions() {
        let resources = Resources {
            memory: Some(64 << 20),
            memory_swap: Some(96 << 20),
            cpu_shares: Some(1024),
            cpu_quota: Some(50_000),
            processes: Some(9),
            ..Resources::default()
        };
        let all = |v2| -> Vec<String> {
            let of = |c| resources.settings(c, v2).into_iter().map(|(f, t)| format!("{f}={t}"));
            CONTROLLERS.into_iter().flat_map(of).collect()
        };
        assert_eq!(
            all(true),
            ["memory.max=67108864", "memory.swap.max=33554432", "cpu.weight=39", "cpu.max=50000 100000", "pids.max=9"]
        );
        assert_eq!(
            all(false),
            [
                "memory.limit_in_bytes=67108864",
                "memory.memsw.limit_in_bytes=100663296",
                "cpu.shares=1024",
                "cpu.cfs_quota_us=50000",
                "pids.max=9"
            ]
        );
        let endless = Resources { memory_swap: Some(-1), cpu_quota: Some(-1), ..Resources::default() };
        assert_eq!(endless.settings("memory", true), [("memory.swap.max", "max".to_owned())]);
        assert_eq!(endless.settings("cpu", true), [("cpu.max", "max 100000".to_owned())]);
    }

    #[test]
    fn groups_of_processes_that_ended_are_abandoned() {
        assert!(is_abandoned(&format!("rbuild-{}-s3", u32::MAX)) && is_abandoned(&format!("rbuild-{}", u32::MAX)));
        for other in [format!("rbuild-{}-s3", std::process::id()), "rbuild".into(), "rbuild-x".into(), "user-1".into()]
        {
            assert!(!is_abandoned(&other), "{other}");
        }
    }

    /// With a controller that nothing here limits, as no other need be in version 2 where the tests run.
    #[test]
    #[allow(clippy::print_stderr)]
    fn version_2_passes_controllers_on_and_takes_processes_in() {
        const CONTROLLER: &str = "hugetlb";
        let open = |at: BorrowedFd<'_>, path: &Path| {
            openat(at, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        };
        let top = own_groups().into_iter().find(|(name, _)| name == UNIFIED).and_then(|(_, dir)| open(CWD, &dir).ok());
        let Some(top) = top.filter(|top| has_word(top, "cgroup.controllers", CONTROLLER)) else {
            eprintln!("skipped: no hierarchy of version 2 that has {CONTROLLER}");
            return;
        };
        let name = format!("check-{}", std::process::id());
        // Another program's that uses it, or ours.
        let was_on = has_word(&top, "cgroup.subtree_control", CONTROLLER);
        if mkdirat(&top, &*name, Mode::from_raw_mode(0o755)).is_err() || enable(&top, CONTROLLER, false).is_err() {
            let _ = unlinkat(&top, &*name, AtFlags::REMOVEDIR);
            eprintln!("skipped: the hierarchy of version 2 is not ours");
            return;
        }
        let base = open(top.as_fd(), Path::new(&name)).expect("was made");
        let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            enable(&base, CONTROLLER, false).expect("has no process yet");
            enable(&base, CONTROLLER, false).expect("is on already");
            let mut group = StepGroup { name: "rbuild-step".into(), dirs: Vec::new() };
            let own = group.dir(&base, CONTROLLER, true).expect("makes one").try_clone().expect("a descriptor");
            assert!(has_word(&own, "cgroup.controllers", CONTROLLER));
            group.dir(&base, "memory", true).expect("the same for all controllers");
            assert_eq!(group.dirs.len(), 1);
            let mut child = std::process::Command::new("sleep").arg("100").spawn().expect("starts");
            group.add(child.id()).expect("takes it in");
            assert_eq!(read(&own, "cgroup.procs").expect("read").trim(), child.id().to_string());
            child.kill().and_then(|()| child.wait()).expect("ends");
            drop(group);
            assert!(open(base.as_fd(), Path::new("rbuild-step")).is_err(), "it is removed");
        }));
        unlinkat(&top, &*name, AtFlags::REMOVEDIR).expect("nothing is left in it");
        if !was_on {
            let _ = write(&top, "cgroup.subtree_control", &format!("-{CONTROLLER}"));
        }
        checked.expect("see above");
    }

    /// A controller that counts threads is passed on by a group with processes, to groups that nobody can enter.
    #[test]
    #[allow(clippy::print_stderr)]
    fn a_group_of_version_2_with_processes_is_not_used() {
        let open = |at: BorrowedFd<'_>, path: &Path| {
            openat(at, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        };
        let top = own_groups().into_iter().find(|(name, _)| name == UNIFIED).and_then(|(_, dir)| open(CWD, &dir).ok());
        let name = format!("busy-{}", std::process::id());
        let Some(top) = top.filter(|top| mkdirat(top, &*name, Mode::from_raw_mode(0o755)).is_ok()) else {
            eprintln!("skipped: no hierarchy of version 2 that is ours");
            return;
        };
        let base = open(top.as_fd(), Path::new(&name)).expect("was made");
        let mut child = std::process::Command::new("sleep").arg("100").spawn().expect("starts");
        write(&base, "cgroup.procs", &child.id().to_string()).expect("takes it in");
        let refused = ["pids", "hugetlb"].map(|controller| enable(&base, controller, false));
        child.kill().and_then(|()| child.wait()).expect("ends");
        let children = read(&base, "cgroup.subtree_control");
        unlinkat(&top, &*name, AtFlags::REMOVEDIR).expect("nothing is left in it");
        assert_eq!((refused, children.as_deref().map(str::trim)), ([Err(Errno::BUSY); 2], Ok("")));
    }

    #[test]
    fn a_limit_that_cannot_be_set_says_why() {
        let error = Cgroups::open(&[])
            .create("x", &Resources { memory: Some(1), ..Resources::default() }, true)
            .expect_err("no groups");
        assert!(error.to_string().starts_with("cannot limit memory: no control group"), "{error}");
        assert!(Cgroups::open(&[]).create("x", &Resources::default(), true).is_ok());
    }
}
