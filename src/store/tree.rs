//! Removing and measuring directory trees that others filled: any depth, any mode, never through a mount.

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// How deep a descent goes before the rest is moved up: open descriptors are few (often 1024).
const MAX_DEPTH: usize = 100;

/// Removes `path` and everything below it. What is gone already is fine; mounts are not entered and make it fail.
pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    };
    let name = CString::new(name.as_bytes())?;
    let parent = match crate::base::file::open_dir(parent) {
        Ok(fd) => fd,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    let mut remover =
        Remover { base: parent.as_fd(), stem: path.file_name().unwrap_or_default(), moved: Vec::new(), count: 0 };
    remover.remove(parent.as_fd(), &name, 0)?;
    while let Some(name) = remover.moved.pop() {
        remover.remove(parent.as_fd(), &name, 0)?;
    }
    Ok(())
}

struct Remover<'a> {
    base: BorrowedFd<'a>,
    stem: &'a std::ffi::OsStr,
    /// Deep directories that were moved next to the tree's root, to be removed next.
    moved: Vec<CString>,
    count: u32,
}

impl Remover<'_> {
    fn remove(&mut self, parent: BorrowedFd<'_>, name: &CStr, depth: usize) -> io::Result<()> {
        // A file most often; directories answer EISDIR (or EPERM on some file systems).
        match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(Errno::ACCESS) => {
                make_writable(parent)?;
                return match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
                    Ok(()) | Err(Errno::NOENT) => Ok(()),
                    Err(Errno::ISDIR | Errno::PERM) => self.remove_dir(parent, name, depth),
                    Err(e) => Err(e.into()),
                };
            }
            Err(e) => return Err(e.into()),
        }
        self.remove_dir(parent, name, depth)
    }

    fn remove_dir(&mut self, parent: BorrowedFd<'_>, name: &CStr, depth: usize) -> io::Result<()> {
        if depth >= MAX_DEPTH && self.move_up(parent, name)? {
            return Ok(());
        }
        let dir = match open_subdir(parent, name) {
            Ok(dir) => dir,
            Err(Errno::NOENT) => return Ok(()),
            Err(Errno::ACCESS) => {
                rustix::fs::chmodat(parent, name, Mode::RWXU, AtFlags::empty())?;
                open_subdir(parent, name)?
            }
            Err(e) => return Err(e.into()),
        };
        for (entry, kind) in entries(dir.as_fd())? {
            if kind == FileType::Directory {
                self.remove_dir(dir.as_fd(), &entry, depth + 1)?;
            } else {
                self.remove(dir.as_fd(), &entry, depth + 1)?;
            }
        }
        drop(dir);
        match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::ACCESS) => {
                make_writable(parent)?;
                Ok(rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)?)
            }
            Err(e) => Err(e.into()),
        }
    }

    fn move_up(&mut self, parent: BorrowedFd<'_>, name: &CStr) -> io::Result<bool> {
        self.count += 1;
        let mut to = self.stem.as_bytes().to_vec();
        to.extend_from_slice(format!(".deep{}", self.count).as_bytes());
        let to = CString::new(to)?;
        match rustix::fs::renameat(parent, name, self.base, &to) {
            Ok(()) => {
                self.moved.push(to);
                Ok(true)
            }
            // Cannot be moved: go on by descending.
            Err(_) => Ok(false),
        }
    }
}

fn make_writable(dir: BorrowedFd<'_>) -> io::Result<()> {
    Ok(rustix::fs::fchmod(dir, Mode::RWXU)?)
}

/// Opens a directory without following links and without crossing into another mount, bind mounts included.
fn open_subdir(parent: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    loop {
        match rustix::fs::openat2(parent, name, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            // A mount: the caller's rmdir would say the same.
            Err(Errno::XDEV) => return Err(Errno::BUSY),
            other => return other,
        }
    }
}

/// The names in a directory with their types, read before anything is changed.
pub(crate) fn entries(dir: BorrowedFd<'_>) -> io::Result<Vec<(CString, FileType)>> {
    let mut out = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            let kind = match entry.file_type() {
                FileType::Unknown => {
                    FileType::from_raw_mode(rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode)
                }
                kind => kind,
            };
            out.push((name.to_owned(), kind));
        }
    }
    Ok(out)
}

/// Bytes that the tree at `path` occupies on the disk, as `du` counts: allocated blocks, hard links once, the
/// directories themselves included. 0 for what is not there.
pub(crate) fn allocated(path: &Path) -> io::Result<u64> {
    let mut seen = HashSet::new();
    let stat = match rustix::fs::lstat(path) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(0),
        Err(e) => return Err(e.into()),
    };
    let mut total = blocks(&stat);
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        let dir = crate::base::file::open_dir(path)?;
        total += allocated_below(dir.as_fd(), &mut seen)?;
    }
    Ok(total)
}

/// Bytes allocated for one file or directory, without what is below it.
pub(crate) fn allocated_here(path: &Path) -> u64 {
    rustix::fs::lstat(path).map_or(0, |stat| blocks(&stat))
}

fn allocated_below(dir: BorrowedFd<'_>, seen: &mut HashSet<(u64, u64)>) -> io::Result<u64> {
    let mut total = 0;
    for (name, _) in entries(dir)? {
        let stat = match rustix::fs::statat(dir, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => continue,
            Err(e) => return Err(e.into()),
        };
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            total += blocks(&stat);
            match open_subdir(dir, &name) {
                Ok(below) => total += allocated_below(below.as_fd(), seen)?,
                // A mount, or unreadable for this id map: `du` would say so too.
                Err(Errno::NOENT | Errno::BUSY | Errno::ACCESS) => {}
                Err(e) => return Err(e.into()),
            }
        } else if stat.st_nlink < 2 || seen.insert((stat.st_dev, stat.st_ino)) {
            total += blocks(&stat);
        }
    }
    Ok(total)
}

fn blocks(stat: &rustix::fs::Stat) -> u64 {
    u64::try_from(stat.st_blocks).unwrap_or(0) * 512
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn removes_unwritable_and_very_deep_trees() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let top = dir.path().join("top");
        fs::create_dir(&top).expect("creates");
        fs::write(top.join("file"), "x").expect("writes");
        std::os::unix::fs::symlink("/nonexistent", top.join("link")).expect("links");
        let closed = top.join("closed");
        fs::create_dir(&closed).expect("creates");
        fs::write(closed.join("file"), "x").expect("writes");
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o0)).expect("chmod");
        // Deeper than PATH_MAX allows to name, and than there are descriptors.
        let mut fd = crate::base::file::open_dir(&top).expect("opens");
        for _ in 0..1500 {
            rustix::fs::mkdirat(&fd, "subdir", Mode::RWXU).expect("creates");
            fd = rustix::fs::openat(&fd, "subdir", OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).expect("opens");
        }
        drop(fd);
        remove_tree(&top).expect("removes");
        remove_tree(&top).expect("is gone already");
        assert_eq!(fs::read_dir(dir.path()).expect("lists").count(), 0);
    }

    #[test]
    fn measures_like_du() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir(dir.path().join("a")).expect("creates");
        fs::write(dir.path().join("a/x"), vec![1; 100_000]).expect("writes");
        fs::hard_link(dir.path().join("a/x"), dir.path().join("y")).expect("links");
        fs::File::create(dir.path().join("sparse")).and_then(|f| f.set_len(1 << 30)).expect("creates");
        let ours = allocated(dir.path()).expect("measures");
        let Ok(du) = std::process::Command::new("du").args(["-s", "-B1"]).arg(dir.path()).output() else {
            eprintln_skip("du is not installed");
            return;
        };
        let du: u64 = String::from_utf8_lossy(&du.stdout)
            .split_whitespace()
            .next()
            .and_then(|n| n.parse().ok())
            .expect("du prints a number");
        assert_eq!(ours, du);
        assert_eq!(allocated(&dir.path().join("missing")).expect("measures"), 0);
    }

    #[allow(clippy::print_stderr)]
    fn eprintln_skip(why: &str) {
        eprintln!("skipped: {why}");
    }
}
