//! `--cgroup-parent`: this process moves into a group of its own below the one that somebody names, before it starts the worker,
//! and with it goes all that it will start (SPEC B2.11).
//!
//! Steps alone cannot be moved there: they are started inside a control group namespace, from which version 2 lets nobody out.
//! So the limits of the parent hold for the whole build.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use super::{CONTROLLERS, PREFIX, UNIFIED, directory, is_abandoned, own_groups};

/// Why a group cannot be the parent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParentError {
    /// It is no name of a group.
    #[error("\"{0}\" names no control group: expected a path without . and ..")]
    Name(String),
    /// No controller can be seen.
    #[error("no control groups are visible here")]
    None,
    /// The system says no.
    #[error("cannot {what} the control group {dir}: {why}", dir = dir.display())]
    Refused {
        /// Attempted.
        what: &'static str,
        /// Which.
        dir: PathBuf,
        /// The system's words.
        why: String,
    },
}

/// Membership in groups below a parent. When this is dropped the process goes back to where it was, if it may, and the groups
/// vanish unless something still runs there; then a later one removes them.
#[derive(Debug)]
pub struct Joined {
    before: Vec<PathBuf>,
    made: Vec<PathBuf>,
}

/// Moves this process, which has no threads yet, into a new group below `parent` in every hierarchy that has a controller for
/// limits; a parent that does not exist is made. Relative names begin at the root, as Docker's do.
///
/// # Errors
/// Where groups cannot be seen, made or entered.
pub fn join(parent: &str) -> Result<Joined, ParentError> {
    let parent = absolute(parent)?;
    let dirs = directories(&fs::read_to_string("/proc/self/mountinfo").unwrap_or_default(), &parent);
    if dirs.is_empty() {
        return Err(ParentError::None);
    }
    let before = own_groups().into_iter().map(|(_, dir)| dir).collect();
    let mut joined = Joined { before, made: Vec::new() };
    for (point, dir) in dirs {
        make(&point, &dir)?;
        sweep(&dir);
        let own = dir.join(format!("{PREFIX}{}", std::process::id()));
        make(&point, &own)?;
        joined.made.push(own.clone());
        // The writer itself.
        fs::write(own.join("cgroup.procs"), "0").map_err(refused("enter", &own))?;
    }
    Ok(joined)
}

impl Drop for Joined {
    fn drop(&mut self) {
        for dir in &self.before {
            let _ = fs::write(dir.join("cgroup.procs"), "0");
        }
        for dir in &self.made {
            remove(dir);
        }
    }
}

fn absolute(parent: &str) -> Result<PathBuf, ParentError> {
    let path = Path::new("/").join(parent);
    let plain = path.components().skip(1).all(|c| matches!(c, Component::Normal(_)));
    if parent.is_empty() || !plain || parent.contains('\0') {
        return Err(ParentError::Name(parent.to_owned()));
    }
    Ok(path)
}

/// Where each hierarchy begins here, and where the parent is in it: those of version 1 with a controller that limits are set
/// with, and version 2 where it has one, or is all there is.
fn directories(mountinfo: &str, parent: &Path) -> Vec<(PathBuf, PathBuf)> {
    let parent = parent.to_string_lossy();
    let find = |name: &str| {
        let line = mountinfo.lines().find(|line| directory(line, name, &parent).is_some())?;
        let dir = directory(line, name, &parent)?;
        let point = line.split(' ').nth(4).map(PathBuf::from)?;
        Some((point, dir))
    };
    let mut out: Vec<(PathBuf, PathBuf)> = CONTROLLERS.into_iter().filter_map(find).collect();
    out.dedup();
    if let Some(unified) = find(UNIFIED) {
        let controllers = fs::read_to_string(unified.0.join("cgroup.controllers")).unwrap_or_default();
        if out.is_empty() || controllers.split_ascii_whitespace().any(|c| CONTROLLERS.contains(&c)) {
            out.push(unified);
        }
    }
    out
}

/// Makes a group and those above it.
fn make(point: &Path, dir: &Path) -> Result<(), ParentError> {
    if dir.is_dir() || dir == point {
        return Ok(());
    }
    if let Some(above) = dir.parent() {
        make(point, above)?;
    }
    match fs::create_dir(dir) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(refused("make", dir)(e)),
        _ => {}
    }
    // Version 1 takes no process into a set of processors that nobody filled.
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let above = dir.parent().and_then(|above| fs::read_to_string(above.join(file)).ok());
        if let (Some(above), Ok("" | "\n")) = (above, fs::read_to_string(dir.join(file)).as_deref()) {
            // In version 2 an empty one means all.
            let _ = fs::write(dir.join(file), above.trim());
        }
    }
    Ok(())
}

/// Removes the groups of processes that have ended: what is in use cannot be removed.
fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(is_abandoned) {
            remove(&entry.path());
        }
    }
}

/// A group with those below it, if none has a process.
fn remove(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let _ = fs::remove_dir(entry.path());
        }
    }
    let _ = fs::remove_dir(dir);
}

fn refused(what: &'static str, dir: &Path) -> impl FnOnce(io::Error) -> ParentError {
    let dir = dir.to_owned();
    move |e| ParentError::Refused { what, dir, why: e.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    // SPEC B2.11
    #[test]
    fn b2_11_names_of_parents() {
        assert_eq!(absolute("ci/builds"), Ok("/ci/builds".into()));
        assert_eq!(absolute("/ci.slice"), Ok("/ci.slice".into()));
        for bad in ["", "..", "/a/../b", "a/..", "x\0"] {
            assert!(matches!(absolute(bad), Err(ParentError::Name(_))), "{bad:?}");
        }
    }

    // SPEC B2.11: also where a container sees a part of a hierarchy only.
    #[test]
    fn b2_11_the_parent_is_found_in_every_hierarchy() {
        const MOUNTS: &str = "\
31 30 0:27 / /nowhere/unified rw - cgroup2 cgroup2 rw
32 30 0:28 / /nowhere/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
33 30 0:29 /docker/x /nowhere/pids rw - cgroup cgroup rw,pids
34 30 0:30 / /nowhere/freezer rw - cgroup cgroup rw,freezer
";
        let dirs = |parent: &str, mounts: &str| -> Vec<String> {
            let found = directories(mounts, Path::new(parent));
            found.iter().map(|(point, dir)| format!("{} {}", point.display(), dir.display())).collect()
        };
        let cpu = "/nowhere/cpu,cpuacct /nowhere/cpu,cpuacct/docker/x/y";
        assert_eq!(dirs("/docker/x/y", MOUNTS), [cpu, "/nowhere/pids /nowhere/pids/y"]);
        assert_eq!(dirs("/ci", MOUNTS), ["/nowhere/cpu,cpuacct /nowhere/cpu,cpuacct/ci"]);
        let unified = MOUNTS.lines().next().unwrap_or_default();
        assert_eq!(dirs("/ci", unified), ["/nowhere/unified /nowhere/unified/ci"]);
        assert!(dirs("/ci", "").is_empty());
    }
}
