//! Makes the working directory of a step (SPEC C5.05).

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::base::file::open_in_root;

/// As the kernel: more links than this are a loop.
const MAX_LINKS: usize = 40;
/// Mounted over in every step: nothing made below them would be seen, but it would enter the layer.
const MOUNTED_OVER: [&str; 3] = ["proc", "sys", "dev"];

/// Makes `path` and its missing parents below `root`, 0755 and owned by `owner`. Symlinks, dangling ones too, are
/// followed inside `root` only.
pub(super) fn ensure(root: &OwnedFd, path: &Path, owner: (u32, u32)) -> io::Result<()> {
    match open_in_root(root, path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()) {
        Ok(_) => return Ok(()),
        Err(e) if is(&e, Errno::NOENT) => {}
        Err(e) => return Err(e),
    }
    let mut left: VecDeque<OsString> = names(path);
    let mut done = PathBuf::new();
    let mut links = 0;
    while let Some(name) = left.pop_front() {
        if name == ".." {
            done.pop();
            continue;
        }
        if done.as_os_str().is_empty() && MOUNTED_OVER.iter().any(|m| name == *m) {
            return Ok(());
        }
        let parent = open_in_root(root, &done, OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW, Mode::empty())?;
        match rustix::fs::statat(&parent, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => make(&parent, &name, owner)?,
            Err(e) => return Err(e.into()),
            Ok(stat) => match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {}
                FileType::Symlink => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Errno::LOOP.into());
                    }
                    let target = rustix::fs::readlinkat(&parent, &name, Vec::new())?;
                    let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
                    if target.is_absolute() {
                        done = PathBuf::new();
                    }
                    let mut rest = names(&target);
                    rest.append(&mut left);
                    left = rest;
                    continue;
                }
                _ => return Err(Errno::NOTDIR.into()),
            },
        }
        done.push(name);
    }
    Ok(())
}

fn make(parent: &OwnedFd, name: &OsStr, owner: (u32, u32)) -> io::Result<()> {
    let mode = Mode::from_raw_mode(0o755);
    rustix::fs::mkdirat(parent, name, mode)?;
    crate::base::owner::set_at(parent, name, owner.0, owner.1)?;
    // The umask had its say in mkdir.
    Ok(rustix::fs::chmodat(parent, name, mode, AtFlags::empty())?)
}

fn names(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|c| match c {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    fn me() -> (u32, u32) {
        (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
    }

    #[test]
    fn missing_directories_are_made_for_the_user() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let root = crate::base::file::open_dir(dir.path()).expect("a directory");
        let owner = if me().0 == 0 { (1000, 1001) } else { me() };
        ensure(&root, Path::new("/a/b/../c"), owner).expect("made");
        // Lexically /a/c, but b is made on the way, as by the kernel's own walk.
        for made in ["a", "a/b", "a/c"] {
            let meta = fs::metadata(dir.path().join(made)).expect("made");
            assert_eq!(
                (meta.uid(), meta.gid(), meta.permissions().mode() & 0o7777),
                (owner.0, owner.1, 0o755),
                "{made}"
            );
        }
        fs::set_permissions(dir.path().join("a"), fs::Permissions::from_mode(0o700)).expect("ours");
        ensure(&root, Path::new("/a"), owner).expect("exists");
        assert_eq!(fs::metadata(dir.path().join("a")).expect("there").permissions().mode() & 0o777, 0o700);
    }

    /// Hostile: links that point out of the root, magic links, files in the way.
    #[test]
    fn nothing_is_made_outside() {
        let outer = tempfile::tempdir().expect("a temporary directory");
        let inside = outer.path().join("root");
        fs::create_dir(&inside).expect("writable");
        let root = crate::base::file::open_dir(&inside).expect("a directory");
        symlink("../../escape", inside.join("up")).expect("writable");
        symlink(outer.path().join("absolute"), inside.join("abs")).expect("writable");
        symlink("loop", inside.join("loop")).expect("writable");
        fs::write(inside.join("file"), "").expect("writable");
        ensure(&root, Path::new("/up/x"), me()).expect("made inside");
        ensure(&root, Path::new("/abs"), me()).expect("made inside");
        ensure(&root, Path::new("/proc/self/fd/7"), me()).expect("left to the step");
        assert!(inside.join("escape/x").is_dir());
        assert!(!inside.join("proc").exists());
        let left: Vec<_> =
            fs::read_dir(outer.path()).expect("readable").map(|e| e.expect("an entry").file_name()).collect();
        assert_eq!(left, ["root"]);
        assert!(ensure(&root, Path::new("/loop/x"), me()).is_err());
        assert!(ensure(&root, Path::new("/file/x"), me()).is_err());
    }
}
