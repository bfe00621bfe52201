//! Exact copies of trees inside the store, for the native snapshotter: content by reflink where the file system can,
//! holes kept, hard links kept, owners, modes, xattrs and times as they were.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, SeekFrom, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::tree::entries;
use crate::base::owner;

/// Copies the directory `from` with everything below it to `to`, which exists and is empty.
pub(crate) fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    copy_dir(from, to, false)
}

/// [`copy_tree`] of a tree that somebody may be changing: each file is as it was at some moment meanwhile, and what goes away
/// while it is looked at is left out.
pub(crate) fn copy_live_tree(from: &Path, to: &Path) -> io::Result<()> {
    copy_dir(from, to, true)
}

fn copy_dir(from: &Path, to: &Path, live: bool) -> io::Result<()> {
    let (from, to) = (crate::base::file::open_dir(from)?, crate::base::file::open_dir(to)?);
    let root = to.try_clone()?;
    let mut copier = Copier { links: HashMap::new(), root: root.as_fd(), reflink: true, live };
    copier.copy_below(from, to, &mut Vec::new())
}

/// Copies whatever `from` is to `to`, which does not exist.
pub(crate) fn copy_any(from: &Path, to: &Path) -> io::Result<()> {
    let split = |path: &Path| -> io::Result<(OwnedFd, CString)> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        Ok((crate::base::file::open_dir(parent)?, CString::new(name.as_bytes())?))
    };
    let (from_dir, from_name) = split(from)?;
    let (to_dir, to_name) = split(to)?;
    if rustix::fs::statat(&from_dir, &from_name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::Directory)
    {
        rustix::fs::mkdirat(&to_dir, &to_name, Mode::RWXU)?;
        return copy_tree(from, to);
    }
    // Under its old name first: an entry is copied with its name.
    let mut copier = Copier { links: HashMap::new(), root: to_dir.as_fd(), reflink: true, live: false };
    copier.copy_entry(from_dir.as_fd(), to_dir.as_fd(), &from_name, &[])?;
    Ok(rustix::fs::renameat(&to_dir, &from_name, &to_dir, &to_name)?)
}

/// Gives `to` the owner, mode, extended attributes and times of `from`.
pub(crate) fn copy_metadata(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    let stat = rustix::fs::fstat(from)?;
    let now = rustix::fs::fstat(to)?;
    // Owner first: chown clears setuid bits and file capabilities.
    if (stat.st_uid, stat.st_gid) != (now.st_uid, now.st_gid) {
        rustix::fs::fchown(to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    }
    // Mode last: it may forbid setting attributes.
    copy_xattrs(from, to)?;
    rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    rustix::fs::futimens(to, &times(&stat))?;
    Ok(())
}

struct Copier<'a> {
    /// Where the first name of a file with several was put, relative to the root.
    links: HashMap<(u64, u64), Vec<CString>>,
    root: BorrowedFd<'a>,
    reflink: bool,
    /// The source may change meanwhile.
    live: bool,
}

/// A directory that is being copied. Kept on a list rather than on the call stack: trees may be deeper than that is.
struct Frame {
    from: OwnedFd,
    to: OwnedFd,
    /// What is still to be copied of it.
    names: std::vec::IntoIter<(CString, FileType)>,
}

impl Copier<'_> {
    /// Copies what is below `from`, and `from`'s own metadata.
    fn copy_below(&mut self, from: OwnedFd, to: OwnedFd, path: &mut Vec<CString>) -> io::Result<()> {
        let names = entries(from.as_fd())?.into_iter();
        let mut frames = vec![Frame { from, to, names }];
        while let Some(frame) = frames.last_mut() {
            let Some((name, _)) = frame.names.next() else {
                copy_metadata(frame.from.as_fd(), frame.to.as_fd())?;
                frames.pop();
                path.pop();
                continue;
            };
            path.push(name.clone());
            match self.copy_entry(frame.from.as_fd(), frame.to.as_fd(), &name, path) {
                // The directory is done when what is below it is.
                Ok(Some((from, to))) => {
                    let names = entries(from.as_fd())?.into_iter();
                    frames.push(Frame { from, to, names });
                    continue;
                }
                Ok(None) => {}
                // Removed, or replaced by something of another kind. What was made of it by then was never there as a whole.
                Err(e) if self.live && is_other_now(&e) => {
                    let _ = rustix::fs::unlinkat(&frame.to, &name, AtFlags::empty());
                    self.links.retain(|_, first| first != path);
                }
                Err(e) => return Err(e),
            }
            path.pop();
        }
        Ok(())
    }

    /// Copies one name. Of a directory, only an empty one: with what is below, and its metadata, goes on who calls.
    fn copy_entry(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: &CStr,
        path: &[CString],
    ) -> io::Result<Option<(OwnedFd, OwnedFd)>> {
        let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind != FileType::Directory && stat.st_nlink > 1 {
            let key = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.links.get(&key) {
                let (dir, leaf) = self.open_parent(first)?;
                rustix::fs::linkat(&dir, leaf.as_c_str(), to, name, AtFlags::empty())?;
                return Ok(None);
            }
            self.links.insert(key, path.to_vec());
        }
        match kind {
            FileType::Directory => {
                let below = open(from, name, OFlags::DIRECTORY)?;
                rustix::fs::mkdirat(to, name, Mode::RWXU)?;
                return Ok(Some((below, open(to, name, OFlags::DIRECTORY)?)));
            }
            FileType::RegularFile => {
                // Opening what is a pipe by now must not wait for somebody who writes.
                let source = open(from, name, OFlags::NONBLOCK)?;
                if self.live && FileType::from_raw_mode(rustix::fs::fstat(&source)?.st_mode) != kind {
                    return Err(Errno::LOOP.into());
                }
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let target = rustix::fs::openat(to, name, flags, Mode::RUSR | Mode::WUSR)?;
                self.copy_content(&source, &target, &stat)?;
                copy_metadata(source.as_fd(), target.as_fd())?;
            }
            FileType::Symlink => {
                let text = rustix::fs::readlinkat(from, name, Vec::new())?;
                rustix::fs::symlinkat(text.as_c_str(), to, name)?;
                finish_node(from, to, name, &stat)?;
            }
            kind => {
                rustix::fs::mknodat(to, name, kind, Mode::RUSR | Mode::WUSR, stat.st_rdev)?;
                finish_node(from, to, name, &stat)?;
            }
        }
        Ok(None)
    }

    fn copy_content(&mut self, source: &OwnedFd, target: &OwnedFd, stat: &Stat) -> io::Result<()> {
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        if size == 0 {
            return Ok(());
        }
        if self.reflink {
            match rustix::fs::ioctl_ficlone(target, source) {
                Ok(()) => return Ok(()),
                // Not this file system; do not ask again for every file.
                Err(Errno::OPNOTSUPP | Errno::XDEV | Errno::NOTTY | Errno::INVAL | Errno::NOSYS) => {
                    self.reflink = false
                }
                Err(e) => return Err(e.into()),
            }
        }
        rustix::fs::ftruncate(target, size)?;
        let sparse = u64::try_from(stat.st_blocks).unwrap_or(u64::MAX).saturating_mul(512) < size;
        let mut position = 0;
        while position < size {
            let end = if sparse {
                match rustix::fs::seek(source, SeekFrom::Data(position)) {
                    Ok(data) => position = data,
                    // Only a hole is left.
                    Err(Errno::NXIO) => return Ok(()),
                    Err(e) => return Err(e.into()),
                }
                rustix::fs::seek(source, SeekFrom::Hole(position))?
            } else {
                size
            };
            match copy_range(source, target, position, end) {
                // It became shorter: what is beyond its end are zeros.
                Err(e) if self.live && e.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                copied => copied?,
            }
            position = end;
        }
        Ok(())
    }

    fn open_parent(&self, path: &[CString]) -> io::Result<(OwnedFd, CString)> {
        let (leaf, parents) = path.split_last().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let mut dir = rustix::fs::openat(self.root, c".", OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        for name in parents {
            dir = open(dir.as_fd(), name, OFlags::DIRECTORY)?;
        }
        Ok((dir, leaf.clone()))
    }
}

/// Whether an error says that a name is gone, or names something of another kind.
fn is_other_now(error: &io::Error) -> bool {
    let gone = [Errno::NOENT, Errno::LOOP, Errno::NOTDIR, Errno::NXIO, Errno::INVAL, Errno::STALE];
    Errno::from_io_error(error).is_some_and(|e| gone.contains(&e))
}

fn open(dir: BorrowedFd<'_>, name: &CStr, flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, name, flags, Mode::empty())?)
}

/// Owner, mode and times of what cannot be opened without side effects.
fn finish_node(from: BorrowedFd<'_>, dir: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> io::Result<()> {
    let kind = FileType::from_raw_mode(stat.st_mode);
    let nofollow = AtFlags::SYMLINK_NOFOLLOW;
    let now = rustix::fs::statat(dir, name, nofollow)?;
    if (stat.st_uid, stat.st_gid) != (now.st_uid, now.st_gid) {
        rustix::fs::chownat(dir, name, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)), nofollow)?;
    }
    owner::copy_record((from, name), (dir, name), kind)?;
    if kind != FileType::Symlink {
        rustix::fs::chmodat(dir, name, Mode::from_raw_mode(stat.st_mode & 0o7777), AtFlags::empty())?;
    }
    Ok(rustix::fs::utimensat(dir, name, &times(stat), nofollow)?)
}

fn times(stat: &Stat) -> Timestamps {
    // The fields are narrower on some architectures.
    #[allow(clippy::useless_conversion, clippy::unnecessary_cast)]
    let at = |secs, nanos| Timespec { tv_sec: secs, tv_nsec: nanos as _ };
    Timestamps {
        last_access: at(stat.st_atime, stat.st_atime_nsec),
        last_modification: at(stat.st_mtime, stat.st_mtime_nsec),
    }
}

fn copy_range(source: &OwnedFd, target: &OwnedFd, start: u64, end: u64) -> io::Result<()> {
    let (mut read, mut write) = (start, start);
    while read < end {
        let length = usize::try_from(end - read).unwrap_or(usize::MAX).min(1 << 30);
        match rustix::fs::copy_file_range(source, Some(&mut read), target, Some(&mut write), length) {
            // Shorter than it said: the store's trees do not change, so this is a truncated file system.
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL) => {
                return copy_buffered(source, target, read, end);
            }
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

fn copy_buffered(source: &OwnedFd, target: &OwnedFd, mut position: u64, end: u64) -> io::Result<()> {
    let mut buffer = vec![0; 128 << 10];
    while position < end {
        let want = usize::try_from(end - position).unwrap_or(usize::MAX).min(buffer.len());
        let count = rustix::io::pread(source, &mut buffer[..want], position)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut written = 0;
        while written < count {
            written += rustix::io::pwrite(target, &buffer[written..count], position + written as u64)?;
        }
        position += count as u64;
    }
    Ok(())
}

fn copy_xattrs(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    for name in xattr_names(from)? {
        // Labels belong to the machine's policy, not to the image.
        if name.as_bytes() == b"security.selinux" {
            continue;
        }
        let size = rustix::fs::fgetxattr_query(from, &name)?;
        let mut value = vec![0; size];
        let size = rustix::fs::fgetxattr(from, &name, value.as_mut_slice())?;
        value.truncate(size);
        rustix::fs::fsetxattr(to, &name, &value, XattrFlags::empty())?;
    }
    Ok(())
}

fn xattr_names(fd: BorrowedFd<'_>) -> io::Result<Vec<CString>> {
    let size = match rustix::fs::flistxattr_query(fd) {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Ok(size) => size,
        Err(e) => return Err(e.into()),
    };
    let mut list = vec![0; size];
    let size = rustix::fs::flistxattr(fd, list.as_mut_slice())?;
    Ok(list[..size].split(|b| *b == 0).filter(|n| !n.is_empty()).filter_map(|n| CString::new(n).ok()).collect())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    /// Names come and go, files shrink and become pipes: the copy is made all the same, and what nobody touched is exact.
    #[test]
    fn trees_that_change_are_copied() {
        use std::sync::atomic::{AtomicBool, Ordering};
        let dir = tempfile::tempdir().expect("a temporary directory");
        let from = dir.path().join("from");
        fs::create_dir_all(from.join("quiet")).expect("creates");
        fs::write(from.join("quiet/file"), "kept").expect("writes");
        for n in 0..200 {
            fs::write(from.join(format!("f{n}")), "x".repeat(10_000)).expect("writes");
        }
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for n in (0..200).cycle().take_while(|_| !stop.load(Ordering::Relaxed)) {
                    let path = from.join(format!("f{n}"));
                    let _ = fs::File::options().write(true).open(&path).and_then(|file| file.set_len(10));
                    let _ = fs::remove_file(&path);
                    match n % 3 {
                        0 => drop(rustix::fs::mkfifoat(rustix::fs::CWD, &path, Mode::RUSR)),
                        1 => drop(std::os::unix::fs::symlink("nowhere", &path)),
                        _ => drop(fs::create_dir(&path)),
                    }
                    let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir(&path));
                    let _ = fs::write(&path, "y".repeat(20_000));
                }
            });
            for round in 0..20 {
                let to = dir.path().join(format!("to{round}"));
                fs::create_dir(&to).expect("creates");
                let copied = copy_live_tree(&from, &to);
                let quiet = fs::read_to_string(to.join("quiet/file"));
                if copied.is_err() || quiet.as_ref().is_ok_and(|text| text != "kept") || quiet.is_err() {
                    stop.store(true, Ordering::Relaxed);
                    panic!("round {round}: {copied:?} {quiet:?}");
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
    }

    #[test]
    fn copies_keep_everything() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir_all(from.join("sub/deeper")).expect("creates");
        fs::write(from.join("sub/file"), "content").expect("writes");
        fs::set_permissions(from.join("sub/file"), fs::Permissions::from_mode(0o4751)).expect("chmod");
        fs::hard_link(from.join("sub/file"), from.join("sub/deeper/second")).expect("links");
        std::os::unix::fs::symlink("../nowhere", from.join("sub/link")).expect("links");
        rustix::fs::mkfifoat(rustix::fs::CWD, from.join("pipe"), Mode::RUSR).expect("mkfifo");
        let sparse = fs::File::create(from.join("sparse")).expect("creates");
        std::os::unix::fs::FileExt::write_all_at(&sparse, b"end", 50 << 20).expect("writes");
        rustix::fs::fsetxattr(&sparse, "user.note", b"kept", XattrFlags::empty()).expect("sets");
        let past = Timespec { tv_sec: 1_000_000_000, tv_nsec: 123_456_789 };
        let past = Timestamps { last_access: past, last_modification: past };
        for name in ["sub/file", "sub/link", "sub"] {
            rustix::fs::utimensat(rustix::fs::CWD, from.join(name), &past, AtFlags::SYMLINK_NOFOLLOW).expect("utimes");
        }
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(from.join("sub/deeper"), Some(123), Some(456)).expect("chown");
        }
        fs::create_dir(&to).expect("creates");
        copy_tree(&from, &to).expect("copies");

        let stat = |root: &Path, name: &str| fs::symlink_metadata(root.join(name)).expect("exists");
        for name in ["", "sub", "sub/file", "sub/deeper", "sub/deeper/second", "sub/link", "pipe", "sparse"] {
            let (a, b) = (stat(&from, name), stat(&to, name));
            let of = |m: &fs::Metadata| {
                (
                    m.mode(),
                    m.uid(),
                    m.gid(),
                    m.mtime(),
                    m.mtime_nsec(),
                    m.nlink(),
                    if m.is_dir() { 0 } else { m.size() },
                )
            };
            assert_eq!(of(&a), of(&b), "{name}");
        }
        assert_eq!(stat(&to, "sub/file").ino(), stat(&to, "sub/deeper/second").ino());
        assert_eq!(fs::read_link(to.join("sub/link")).expect("reads"), Path::new("../nowhere"));
        assert!(stat(&to, "sparse").blocks() * 512 < 1 << 20, "holes stay holes");
        let copy = fs::File::open(to.join("sparse")).expect("opens");
        let mut value = [0; 8];
        assert_eq!(rustix::fs::fgetxattr(&copy, "user.note", &mut value[..]).expect("reads"), 4);
        assert_eq!(fs::read(to.join("sparse")).expect("reads"), fs::read(from.join("sparse")).expect("reads"));
    }
}
