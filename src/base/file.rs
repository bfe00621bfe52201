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
    let mut temp = beside(path)?;
    temp.write_all(bytes)?;
    if durable {
        temp.as_file().sync_all()?;
    }
    publish(temp, path)
}

/// A file in the directory of `path` that is going to take its name; it vanishes if it does not.
///
/// # Errors
/// If the directory is missing or cannot be written to.
pub fn beside(path: &Path) -> io::Result<NamedTempFile> {
    let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    tempfile::Builder::new().prefix(".rbuild-").tempfile_in(dir)
}

/// Gives a file made by [`beside`] its name, and the mode of an ordinary file.
///
/// # Errors
/// If it cannot be renamed; what was there is as it was then.
pub fn publish(temp: NamedTempFile, path: &Path) -> io::Result<()> {
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
