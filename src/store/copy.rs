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
    let (from, to) = (crate::base::file::open_dir(from)?, crate::base::file::open_dir(to)?);
    let mut copier = Copier { links: HashMap::new(), root: to.as_fd(), reflink: true };
    copier.copy_children(from.as_fd(), to.as_fd(), &mut Vec::new())?;
    copy_metadata(from.as_fd(), to.as_fd())
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
    let mut copier = Copier { links: HashMap::new(), root: to_dir.as_fd(), reflink: true };
    copier.copy_entry(from_dir.as_fd(), to_dir.as_fd(), &from_name, &mut Vec::new())?;
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
    rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    copy_xattrs(from, to)?;
    rustix::fs::futimens(to, &times(&stat))?;
    Ok(())
}

struct Copier<'a> {
    /// Where the first name of a file with several was put, relative to the root.
    links: HashMap<(u64, u64), Vec<CString>>,
    root: BorrowedFd<'a>,
    reflink: bool,
}

impl Copier<'_> {
    fn copy_children(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, path: &mut Vec<CString>) -> io::Result<()> {
        for (name, _) in entries(from)? {
            path.push(name.clone());
            self.copy_entry(from, to, &name, path)?;
            path.pop();
        }
        Ok(())
    }

    fn copy_entry(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: &CStr,
        path: &mut Vec<CString>,
    ) -> io::Result<()> {
        let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind != FileType::Directory && stat.st_nlink > 1 {
            let key = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.links.get(&key) {
                let (dir, leaf) = self.open_parent(first)?;
                rustix::fs::linkat(&dir, leaf.as_c_str(), to, name, AtFlags::empty())?;
                return Ok(());
            }
            self.links.insert(key, path.clone());
        }
        match kind {
            FileType::Directory => {
                rustix::fs::mkdirat(to, name, Mode::RWXU)?;
                let (below_from, below_to) = (open(from, name, OFlags::DIRECTORY)?, open(to, name, OFlags::DIRECTORY)?);
                self.copy_children(below_from.as_fd(), below_to.as_fd(), path)?;
                copy_metadata(below_from.as_fd(), below_to.as_fd())
            }
            FileType::RegularFile => {
                let source = open(from, name, OFlags::empty())?;
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let target = rustix::fs::openat(to, name, flags, Mode::RUSR | Mode::WUSR)?;
                self.copy_content(&source, &target, &stat)?;
                copy_metadata(source.as_fd(), target.as_fd())
            }
            FileType::Symlink => {
                let text = rustix::fs::readlinkat(from, name, Vec::new())?;
                rustix::fs::symlinkat(text.as_c_str(), to, name)?;
                finish_node(from, to, name, &stat)
            }
            kind => {
                rustix::fs::mknodat(to, name, kind, Mode::RUSR | Mode::WUSR, stat.st_rdev)?;
                finish_node(from, to, name, &stat)
            }
        }
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
            copy_range(source, target, position, end)?;
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
