//! Writing files so that nobody ever sees half of one, and opening paths inside a root.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use tempfile::NamedTempFile;

/// Replaces `path` with `bytes`: temporary file in the same directory, fsync, rename.
///
/// # Errors
/// Whatever the file system says; the old file is untouched then.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write(path, bytes, true)
}

/// The same without the fsync: for what is worth nothing after a crash of the machine.
///
/// # Errors
/// As [`write_atomic`].
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write(path, bytes, false)
}

fn write(path: &Path, bytes: &[u8], durable: bool) -> io::Result<()> {
    let new = beside(path)?;
    new.as_file().write_all(bytes)?;
    if let (true, NewFile::Temporary(temp)) = (durable, &new) {
        temp.as_file().sync_all()?;
    }
    publish(new, path)
}

/// A file that is going to be there.
#[derive(Debug)]
pub enum NewFile {
    /// In the directory, without the name; it vanishes if it does not get it.
    Temporary(NamedTempFile),
    /// What is there is written to.
    InPlace(File),
}

impl NewFile {
    /// To be written to.
    #[must_use]
    pub fn as_file(&self) -> &File {
        match self {
            Self::Temporary(temp) => temp.as_file(),
            Self::InPlace(file) => file,
        }
    }
}

/// A file in the directory of `path` that is going to take its name. A device, a pipe, or a descriptor by its name is what it is,
/// and is never replaced: `/dev/null`, `/dev/stdout`.
///
/// # Errors
/// If the directory is missing or cannot be written to.
pub fn beside(path: &Path) -> io::Result<NewFile> {
    let special = std::fs::metadata(path).is_ok_and(|there| !there.is_file() && !there.is_dir());
    let by_descriptor = || {
        (path.starts_with("/dev") || path.starts_with("/proc"))
            && std::fs::symlink_metadata(path).is_ok_and(|there| there.is_symlink())
    };
    if special || by_descriptor() {
        return std::fs::OpenOptions::new().write(true).open(path).map(NewFile::InPlace);
    }
    let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    tempfile::Builder::new().prefix(".rbuild-").tempfile_in(dir).map(NewFile::Temporary)
}

/// Gives a file made by [`beside`] its name, and the mode of an ordinary file.
///
/// # Errors
/// If it cannot be renamed; what was there is as it was then.
pub fn publish(new: NewFile, path: &Path) -> io::Result<()> {
    let NewFile::Temporary(temp) = new else { return Ok(()) };
    // tempfile creates 0600; outputs follow the usual umask-governed mode instead.
    rustix::fs::fchmod(temp.as_file(), Mode::from_raw_mode(0o666 & !umask()))?;
    temp.persist(path).map_err(|e| e.error)?;
    Ok(())
}

/// The process's umask, read without changing it.
pub fn umask() -> u32 {
    std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|s| s.lines().find_map(|l| u32::from_str_radix(l.strip_prefix("Umask:")?.trim(), 8).ok()))
        .unwrap_or(0o022)
}

/// Opens `path` below `root` with every symlink and `..` resolved inside `root` (openat2 `RESOLVE_IN_ROOT`).
///
/// # Errors
/// The kernel's; ENOENT when a component is missing.
pub fn open_in_root(root: impl AsFd, path: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    loop {
        // NO_MAGICLINKS: /proc/self/fd and friends must not be a way out of a root.
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        match rustix::fs::openat2(root.as_fd(), path, flags | OFlags::CLOEXEC, mode, resolve) {
            // EAGAIN: a rename raced with the resolution of `..`.
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

/// Opens a directory as a base for [`open_in_root`].
///
/// # Errors
/// The kernel's.
pub fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY, Mode::empty())?)
}

/// Opens a regular file below `root`; `None` for what is something else, which is not waited for.
///
/// # Errors
/// The kernel's; ENOENT when a component is missing.
pub fn regular_in_root(root: impl AsFd, path: &Path) -> io::Result<Option<File>> {
    let file = File::from(open_in_root(root, path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty())?);
    Ok(file.metadata()?.is_file().then_some(file))
}

/// The names in a directory below `root`, sorted; none where there is no such directory.
///
/// # Errors
/// The kernel's.
pub fn names_in_root(root: impl AsFd, path: &Path) -> io::Result<Vec<OsString>> {
    let dir = match open_in_root(root, path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        dir => dir?,
    };
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::new(dir)? {
        let name = OsStr::from_bytes(entry?.file_name().to_bytes()).to_owned();
        if name != "." && name != ".." {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Reads a whole file below `root`, at most `limit` bytes.
///
/// # Errors
/// The kernel's, or `InvalidData` when the file is larger than `limit`.
pub fn read_in_root(root: impl AsFd, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let fd = open_in_root(root, path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty())?;
    let mut out = Vec::new();
    let n = io::Read::read_to_end(&mut io::Read::take(File::from(fd), limit + 1), &mut out)?;
    if n as u64 > limit {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{} is larger than {limit} bytes", path.display()),
        ));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::fd::AsRawFd as _;

    use rustix::fs::{CWD, FileType};

    use super::*;

    #[test]
    fn what_is_no_file_is_written_to_and_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        let pipe = dir.path().join("pipe");
        rustix::fs::mknodat(CWD, &pipe, FileType::Fifo, Mode::from_raw_mode(0o600), 0).expect("a pipe");
        // A reader that is there already: nobody waits for one.
        let reading = std::fs::OpenOptions::new().read(true).write(true).open(&pipe).expect("opens");
        write_atomic(&pipe, b"text").expect("written");
        let mut got = [0; 4];
        (&reading).read_exact(&mut got).expect("read");
        assert_eq!(&got, b"text");
        assert_eq!(std::fs::read_dir(dir.path()).expect("lists").count(), 1);
        replace(Path::new("/dev/null"), b"text").expect("written");
        assert_eq!(std::fs::metadata("/dev/null").map(|null| null.is_file()).ok(), Some(false));
        // As /dev/stdout, which may lead to a file.
        let file = tempfile::tempfile_in(dir.path()).expect("a file");
        write_atomic(Path::new(&format!("/proc/self/fd/{}", file.as_raw_fd())), b"more").expect("written");
        assert_eq!(file.metadata().expect("inspects").len(), 4);
    }
}
