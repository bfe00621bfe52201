//! Mounts inside of other mounts: what is in the way of one is found before the kernel, or whoever puts things in place instead,
//! says so in words of its own.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Component, Path, PathBuf};

use rootless::step::StepMount;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};

use crate::base::file::{open_dir, open_in_root};

/// What keeps a mount from its target.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot mount {target}: {reason}; remove it, or choose another target", target = target.display())]
pub struct TargetError {
    target: PathBuf,
    reason: String,
}

/// Looks at the targets that are inside of what another one of `mounts` (parents first) brings along. Of the others the store has
/// made sure.
pub(super) fn check(root: &Path, mounts: &[StepMount]) -> Result<(), TargetError> {
    for (at, mount) in mounts.iter().enumerate() {
        let target = mount.target();
        let above = mounts[..at].iter().rev().find(|m| target.starts_with(m.target()));
        let Some(StepMount::Bind { source, target: top, .. }) = above else { continue };
        let wanted = match mount {
            StepMount::Tmpfs { .. } => Some(true),
            StepMount::Bind { source, .. } => source.metadata().ok().map(|m| m.is_dir()),
            StepMount::Host { .. } => None,
        };
        let below = target.strip_prefix(top).unwrap_or(Path::new(""));
        let elsewhere = |path: &Path| mounts.iter().any(|m| path.starts_with(m.target()));
        if let Some(reason) = obstacle(source, below, top, wanted, root, &elsewhere) {
            return Err(TargetError { target: target.to_owned(), reason });
        }
    }
    Ok(())
}

/// What is in the way of `below` in the directory `source`, which is mounted at `top`. `None` also where that cannot be told.
fn obstacle(
    source: &Path,
    below: &Path,
    top: &Path,
    directory: Option<bool>,
    root: &Path,
    elsewhere: &dyn Fn(&Path) -> bool,
) -> Option<String> {
    let mut dir = match open_dir(source) {
        Ok(dir) => dir,
        Err(e) if e.kind() == io::ErrorKind::NotADirectory && !below.as_os_str().is_empty() => {
            return Some(format!("{} is a file", top.display()));
        }
        Err(_) => return None,
    };
    let mut path = top.to_owned();
    let mut parts = below.components().peekable();
    while let Some(part) = parts.next() {
        path.push(part);
        // Nothing there: it is made.
        let stat = rustix::fs::statat(&dir, part.as_os_str(), AtFlags::SYMLINK_NOFOLLOW).ok()?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory if parts.peek().is_none() => {
                return (directory == Some(false))
                    .then(|| format!("{} is a directory, and not a file", path.display()));
            }
            FileType::Directory => {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                dir = rustix::fs::openat(&dir, part.as_os_str(), flags, Mode::empty()).ok()?;
            }
            FileType::Symlink => {
                let text = rustix::fs::readlinkat(&dir, part.as_os_str(), Vec::new()).ok()?;
                let text = PathBuf::from(OsString::from_vec(text.into_bytes()));
                let to = by_name(&path.parent().unwrap_or(Path::new("/")).join(text));
                return (!elsewhere(&to) && is_missing(root, &to))
                    .then(|| format!("{} is a link that leads nowhere", path.display()));
            }
            _ if parts.peek().is_some() || directory == Some(true) => {
                return Some(format!("{} is a file, and not a directory", path.display()));
            }
            _ => return None,
        }
    }
    None
}

fn is_missing(root: &Path, path: &Path) -> bool {
    let found = open_dir(root)
        .and_then(|root| open_in_root(&root, path.strip_prefix("/").unwrap_or(path), OFlags::PATH, Mode::empty()));
    found.is_err_and(|e| e.kind() == io::ErrorKind::NotFound)
}

/// Without `.` and `..`.
fn by_name(path: &Path) -> PathBuf {
    let mut out = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::ParentDir => drop(out.pop()),
            Component::Normal(name) => out.push(name),
            _ => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_the_way_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let (root, cache) = (dir.path().join("root"), dir.path().join("cache"));
        std::fs::create_dir_all(root.join("there")).expect("creates");
        std::fs::create_dir_all(cache.join("d")).expect("creates");
        std::fs::write(cache.join("f"), "").expect("writes");
        std::os::unix::fs::symlink("/nowhere", cache.join("l")).expect("links");
        std::os::unix::fs::symlink("../there", cache.join("to")).expect("links");
        std::os::unix::fs::symlink("/other/x", cache.join("mounted")).expect("links");
        let bind = |source: &Path, target: &str| StepMount::Bind {
            source: source.to_owned(),
            target: target.into(),
            readonly: false,
        };
        let tmpfs = |target: &str| StepMount::Tmpfs { target: target.into(), size: 0, mode: 0o755 };
        let said = |mount: StepMount| {
            let mounts = [bind(&cache, "/c"), tmpfs("/other"), mount];
            check(&root, &mounts).map_err(|e| e.to_string()).err().unwrap_or_default()
        };
        let end = "; remove it, or choose another target";
        assert_eq!(said(tmpfs("/c/f/t")), format!("cannot mount /c/f/t: /c/f is a file, and not a directory{end}"));
        assert_eq!(said(tmpfs("/c/f")), format!("cannot mount /c/f: /c/f is a file, and not a directory{end}"));
        assert_eq!(said(tmpfs("/c/l/t")), format!("cannot mount /c/l/t: /c/l is a link that leads nowhere{end}"));
        let file = cache.join("f");
        assert_eq!(said(bind(&file, "/c/d")), format!("cannot mount /c/d: /c/d is a directory, and not a file{end}"));
        for fine in ["/c/d", "/c/new/deep", "/c/d/x", "/c/to/x", "/c/mounted/y", "/etc/x"] {
            assert_eq!(said(tmpfs(fine)), "", "{fine}");
        }
        assert_eq!(said(bind(&file, "/c/f")), "");
        let mounts = [bind(&file, "/c"), tmpfs("/c/x")];
        assert!(check(&root, &mounts).is_err_and(|e| e.reason == "/c is a file"));
    }
}
