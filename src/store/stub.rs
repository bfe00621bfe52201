//! Mountpoints that must exist while a step runs but never enter its layer (SPEC C5.18).
//!
//! Paths are resolved inside the root file system through its symlinks, dangling ones included: `/etc/resolv.conf` is
//! often a link to a file below `/run` that only exists on a running machine. With overlay the missing directories and
//! files become an extra lowest-cost layer just below the upper; with native they are made in the tree and taken away.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, Timespec, Timestamps};
use rustix::io::Errno;

use crate::base::file::{open_dir, open_in_root};

use super::StoreError;
use super::copy::copy_metadata;

/// As many as the kernel follows.
const MAX_LINKS: u32 = 40;

/// A mountpoint to be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stub {
    /// Path in the image.
    pub path: PathBuf,
    /// A directory, else a file.
    pub dir: bool,
}

/// What has to be made for some stubs.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// For each stub where it really is, absolute inside the root and free of symlinks.
    pub(crate) resolved: Vec<PathBuf>,
    /// Every path that was looked at on the way, relative: while none of them changes, the plan holds.
    pub(crate) visited: BTreeSet<PathBuf>,
    /// Paths to create, relative, parents before children; true for directories.
    create: BTreeMap<PathBuf, bool>,
}

impl Plan {
    /// Looks at what is in `root` already.
    pub(crate) fn new(root: BorrowedFd<'_>, stubs: &[Stub]) -> Result<Self, StoreError> {
        let mut plan = Self::default();
        for stub in stubs {
            let path = plan.resolve(root, stub)?;
            plan.resolved.push(Path::new("/").join(path));
        }
        Ok(plan)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.create.is_empty()
    }

    /// Walks one path by its components; what is missing is noted for creation.
    fn resolve(&mut self, root: BorrowedFd<'_>, stub: &Stub) -> Result<PathBuf, StoreError> {
        let fail = |reason: String| StoreError::Stub { path: stub.path.clone(), reason };
        let mut todo: VecDeque<OsString> = components(&stub.path);
        let mut path = PathBuf::new();
        let mut links = 0;
        while let Some(name) = todo.pop_front() {
            if name == ".." {
                path.pop();
                continue;
            }
            let next = path.join(&name);
            let last = todo.is_empty();
            self.visited.insert(next.clone());
            let kind = match self.create.get(&next) {
                Some(true) => Some(FileType::Directory),
                Some(false) => Some(FileType::RegularFile),
                None => self.look(root, &path, &next).map_err(|e| fail(format!("{}: {e}", next.display())))?,
            };
            match kind {
                None => {
                    let dir = !last || stub.dir;
                    self.create.insert(next.clone(), dir);
                    path = next;
                }
                Some(FileType::Symlink) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(fail("too many levels of symbolic links".into()));
                    }
                    let fd = open_in_root(root, &path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())
                        .map_err(|e| fail(e.to_string()))?;
                    let target = rustix::fs::readlinkat(&fd, &name, Vec::new()).map_err(|e| fail(e.to_string()))?;
                    let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
                    if target.is_absolute() {
                        path = PathBuf::new();
                    }
                    for name in components(&target).into_iter().rev() {
                        todo.push_front(name);
                    }
                }
                Some(FileType::Directory) => {
                    if last && !stub.dir {
                        return Err(fail(format!("/{} is a directory", next.display())));
                    }
                    path = next;
                }
                Some(_) => {
                    if !last || stub.dir {
                        return Err(fail(format!("/{} is not a directory", next.display())));
                    }
                    path = next;
                }
            }
        }
        Ok(path)
    }

    /// What `next` is, without following it; `None` if it or its parent is not there.
    fn look(&self, root: BorrowedFd<'_>, parent: &Path, next: &Path) -> io::Result<Option<FileType>> {
        if self.create.contains_key(parent) {
            return Ok(None);
        }
        // The parent has no symlinks in it, so the last component is the only one that could be followed.
        match open_in_root(root, next, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty()) {
            Ok(fd) => Ok(Some(FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Makes an overlay layer in the empty directory `target` that adds the missing paths to `root` and otherwise looks
    /// like it: every directory that must be there carries the metadata of the one it covers.
    pub(crate) fn make_layer(&self, root: BorrowedFd<'_>, target: &Path) -> io::Result<()> {
        let top = open_dir(target)?;
        let mut copied: Vec<PathBuf> = Vec::new();
        for (path, dir) in &self.create {
            let ancestors: Vec<&Path> = path.ancestors().skip(1).filter(|p| !p.as_os_str().is_empty()).collect();
            for ancestor in ancestors.into_iter().rev() {
                if self.create.contains_key(ancestor) || copied.iter().any(|c| c == ancestor) {
                    continue;
                }
                rustix::fs::mkdirat(&top, ancestor, Mode::RWXU)?;
                copied.push(ancestor.to_path_buf());
            }
            make(top.as_fd(), path, *dir)?;
        }
        // Metadata last and from the deepest up, as creating children changes times.
        for (path, _) in self.create.iter().rev() {
            reset_times(top.as_fd(), path)?;
        }
        copied.sort();
        for path in copied.iter().rev() {
            let from = open_in_root(root, path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
            let to = open_in_root(&top, path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
            copy_metadata(from.as_fd(), to.as_fd())?;
        }
        let from = rustix::fs::openat(root, c".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        copy_metadata(from.as_fd(), top.as_fd())
    }

    /// Makes the missing paths in a tree itself.
    pub(crate) fn make_in_place(&self, root: &Path) -> io::Result<Placed> {
        let top = open_dir(root)?;
        let mut made = Vec::new();
        for (path, dir) in &self.create {
            let parent = parent_of(&top, path)?;
            let before = rustix::fs::fstat(&parent)?;
            make(top.as_fd(), path, *dir)?;
            let after = rustix::fs::fstat(&parent)?;
            let inode = rustix::fs::statat(&top, path, AtFlags::SYMLINK_NOFOLLOW)?.st_ino;
            made.push(Made { path: path.clone(), dir: *dir, inode, before: mtime(&before), after: mtime(&after) });
        }
        Ok(Placed { root: top, made })
    }
}

/// Paths that were made in a tree, to be taken away again.
#[derive(Debug)]
pub(crate) struct Placed {
    root: OwnedFd,
    made: Vec<Made>,
}

#[derive(Debug)]
struct Made {
    path: PathBuf,
    dir: bool,
    inode: u64,
    /// Time of the parent directory before and after the path was made.
    before: (i64, i64),
    after: (i64, i64),
}

impl Placed {
    /// Removes what is still empty; a parent directory whose time nobody else changed gets its old one back.
    pub(crate) fn remove(self) -> io::Result<()> {
        for made in self.made.iter().rev() {
            let Ok(parent) = parent_of(&self.root, &made.path) else { continue };
            let Some(name) = made.path.file_name() else { continue };
            let stat = match rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT | Errno::NOTDIR) => continue,
                Err(e) => return Err(e.into()),
            };
            let time = rustix::fs::fstat(&parent)?;
            // Replaced or filled by the step: then it is the step's.
            let kind = FileType::from_raw_mode(stat.st_mode);
            let ours = stat.st_ino == made.inode
                && if made.dir {
                    kind == FileType::Directory
                } else {
                    kind == FileType::RegularFile && stat.st_size == 0
                };
            if !ours {
                continue;
            }
            let flags = if made.dir { AtFlags::REMOVEDIR } else { AtFlags::empty() };
            match rustix::fs::unlinkat(&parent, name, flags) {
                Ok(()) => {}
                Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOENT) => continue,
                Err(e) => return Err(e.into()),
            }
            let back = if mtime(&time) == made.after { made.before } else { mtime(&time) };
            set_mtime(&parent, back)?;
        }
        Ok(())
    }
}

fn components(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|c| match c {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            _ => None,
        })
        .collect()
}

fn make(root: BorrowedFd<'_>, path: &Path, dir: bool) -> io::Result<()> {
    // Jailed although the path has no symlinks: the tree may be one that a step filled.
    let parent = parent_of(root, path)?;
    let name = path.file_name().unwrap_or_default();
    if dir {
        rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755))?;
        // The umask must not show.
        rustix::fs::chmodat(&parent, name, Mode::from_raw_mode(0o755), AtFlags::empty())?;
    } else {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o644))?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(0o644))?;
    }
    Ok(())
}

fn parent_of(root: impl AsFd, path: &Path) -> io::Result<OwnedFd> {
    open_in_root(root, path.parent().unwrap_or(Path::new("")), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
}

fn reset_times(root: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
    let times = Timestamps { last_access: zero, last_modification: zero };
    Ok(rustix::fs::utimensat(root, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

fn mtime(stat: &Stat) -> (i64, i64) {
    #[allow(clippy::useless_conversion, clippy::unnecessary_cast)] // Narrower on some architectures.
    (stat.st_mtime as i64, stat.st_mtime_nsec as i64)
}

/// The modification time of a directory, in seconds and nanoseconds.
pub(crate) fn root_mtime(dir: &Path) -> Result<(i64, i64), StoreError> {
    Ok(mtime(&rustix::fs::stat(dir).map_err(StoreError::errno("examine", dir))?))
}

/// Sets it.
pub(crate) fn set_root_mtime(dir: &Path, time: (i64, i64)) -> Result<(), StoreError> {
    let root = open_dir(dir).map_err(StoreError::io("open", dir))?;
    set_mtime(&root, time).map_err(StoreError::io("set the time of", dir))
}

#[allow(clippy::useless_conversion, clippy::unnecessary_cast)]
fn set_mtime(dir: &OwnedFd, (secs, nanos): (i64, i64)) -> io::Result<()> {
    let keep = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT as _ };
    let times = Timestamps { last_access: keep, last_modification: Timespec { tv_sec: secs, tv_nsec: nanos as _ } };
    Ok(rustix::fs::futimens(dir, &times)?)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn stub(path: &str, dir: bool) -> Stub {
        Stub { path: path.into(), dir }
    }

    fn image() -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let root = dir.path();
        fs::create_dir_all(root.join("etc")).expect("creates");
        fs::write(root.join("etc/hosts"), "127.0.0.1 x").expect("writes");
        symlink("../run/systemd/resolve/stub-resolv.conf", root.join("etc/resolv.conf")).expect("links");
        symlink("/etc", root.join("link")).expect("links");
        symlink("loop", root.join("loop")).expect("links");
        symlink("../../../../outside", root.join("escape")).expect("links");
        dir
    }

    #[test]
    fn c5_18_resolves_dangling_and_hostile_links_inside_the_root() {
        let image = image();
        let root = open_dir(image.path()).expect("opens");
        let stubs = [
            stub("/etc/resolv.conf", false),
            stub("/etc/hosts", false),
            stub("/link/new", true),
            stub("/proc", true),
            stub("escape/x", true),
            stub("/run/systemd/other", true),
        ];
        let plan = Plan::new(root.as_fd(), &stubs).expect("plans");
        let resolved: Vec<_> = plan.resolved.iter().map(|p| p.to_str().expect("is UTF-8")).collect();
        assert_eq!(
            resolved,
            [
                "/run/systemd/resolve/stub-resolv.conf",
                "/etc/hosts",
                "/etc/new",
                "/proc",
                "/outside/x",
                "/run/systemd/other"
            ]
        );
        let create: Vec<_> = plan.create.iter().map(|(p, d)| (p.to_str().expect("is UTF-8"), *d)).collect();
        assert_eq!(
            create,
            [
                ("etc/new", true),
                ("outside", true),
                ("outside/x", true),
                ("proc", true),
                ("run", true),
                ("run/systemd", true),
                ("run/systemd/other", true),
                ("run/systemd/resolve", true),
                ("run/systemd/resolve/stub-resolv.conf", false),
            ]
        );
        for (path, dir) in [("loop", true), ("etc/hosts", true), ("etc", false), ("etc/hosts/x", false)] {
            let error = Plan::new(root.as_fd(), &[stub(path, dir)]).expect_err(path);
            assert!(matches!(error, StoreError::Stub { .. }), "{error}");
        }
    }

    #[test]
    fn c5_18_in_place_stubs_leave_no_trace() {
        let image = image();
        let root = open_dir(image.path()).expect("opens");
        let old = (1_000_000_000, 5);
        set_mtime(&open_dir(&image.path().join("etc")).expect("opens"), old).expect("sets");
        set_mtime(&root, old).expect("sets");
        let stubs = [stub("/etc/a", false), stub("/etc/b", true), stub("/x/y/z", true), stub("/kept/inner", true)];
        let plan = Plan::new(root.as_fd(), &stubs).expect("plans");
        let placed = plan.make_in_place(image.path()).expect("makes");
        assert!(image.path().join("x/y/z").is_dir());
        assert!(image.path().join("etc/a").is_file());
        placed.remove().expect("removes");
        for gone in ["etc/a", "etc/b", "x", "kept"] {
            assert!(!image.path().join(gone).exists(), "{gone}");
        }
        for dir in ["etc", ""] {
            let stat = rustix::fs::stat(image.path().join(dir)).expect("exists");
            assert_eq!(mtime(&stat), old, "{dir:?}");
        }
    }

    #[test]
    fn c5_18_what_the_step_filled_stays() {
        let image = image();
        let root = open_dir(image.path()).expect("opens");
        let plan = Plan::new(root.as_fd(), &[stub("/kept/inner", true), stub("/etc/file", false)]).expect("plans");
        let placed = plan.make_in_place(image.path()).expect("makes");
        fs::write(image.path().join("kept/mine"), "x").expect("writes");
        fs::write(image.path().join("etc/file"), "x").expect("writes");
        let changed = rustix::fs::stat(image.path().join("kept")).expect("exists");
        placed.remove().expect("removes");
        assert!(!image.path().join("kept/inner").exists());
        assert!(image.path().join("kept/mine").is_file());
        assert!(image.path().join("etc/file").is_file());
        let now = rustix::fs::stat(image.path().join("kept")).expect("exists");
        assert_eq!(mtime(&now), mtime(&changed), "the step's own change of the directory stands");
    }
}
