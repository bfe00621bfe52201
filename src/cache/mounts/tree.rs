//! A mount's directory as a stream: a tar with the root first, names in order, owners, modes, times, attributes and hard
//! links kept. Sockets and devices are left out.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use crate::archive::header::{self, BLOCK};
use crate::archive::{EntryKind, entry_at};

/// A file that may be left out to save space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileUse {
    /// When it was last read or written, as far as the file system knows (seconds and nanoseconds since 1970).
    pub used: (i64, i64),
    /// What it adds to the stream.
    pub bytes: u64,
    /// Relative to the mount.
    pub path: PathBuf,
}

fn at(path: &Path) -> impl Fn(io::Error) -> io::Error + '_ {
    move |e| io::Error::new(e.kind(), format!("{}: {e}", path.display()))
}

/// Calls `visit` for everything below `root`, a directory before what is in it, names in the order of their bytes.
fn walk(root: &Path, visit: &mut dyn FnMut(&Path, &Metadata) -> io::Result<()>) -> io::Result<()> {
    // A list rather than the call stack: trees may be deeper than that is.
    let mut waiting = vec![PathBuf::new()];
    while let Some(path) = waiting.pop() {
        let here = root.join(&path);
        let meta = fs::symlink_metadata(&here).map_err(at(&here))?;
        visit(&path, &meta)?;
        if meta.is_dir() {
            let mut names = Vec::new();
            for entry in fs::read_dir(&here).map_err(at(&here))? {
                names.push(entry.map_err(at(&here))?.file_name());
            }
            names.sort_unstable_by(|a, b| b.as_bytes().cmp(a.as_bytes()));
            waiting.extend(names.into_iter().map(|name| path.join(name)));
        }
    }
    Ok(())
}

/// Bytes of the stream, about, and the files in it.
///
/// # Errors
/// The file system's.
pub fn measure(root: &Path) -> io::Result<(u64, Vec<FileUse>)> {
    let mut total = 0;
    let mut files = Vec::new();
    walk(root, &mut |path, meta| {
        let bytes = (2 * BLOCK) as u64 + if meta.is_file() { meta.len() } else { 0 };
        total += bytes;
        if meta.is_file() {
            let used = (meta.atime(), meta.atime_nsec()).max((meta.mtime(), meta.mtime_nsec()));
            files.push(FileUse { used, bytes, path: path.to_owned() });
        }
        Ok(())
    })?;
    Ok((total, files))
}

/// Writes the stream of `root` without the files in `left_out`.
///
/// # Errors
/// The file system's and the sink's; a file that changes while it is read.
pub fn write(root: &Path, left_out: &HashSet<PathBuf>, sink: &mut dyn Write) -> io::Result<()> {
    let mut links: HashMap<(u64, u64), PathBuf> = HashMap::new();
    let mut head = Vec::new();
    walk(root, &mut |path, meta| {
        if left_out.contains(path) {
            return Ok(());
        }
        let Some(mut entry) = entry_at(root, path).map_err(io::Error::other)? else { return Ok(()) };
        if !matches!(entry.kind, EntryKind::File | EntryKind::Dir | EntryKind::Symlink | EntryKind::Fifo) {
            return Ok(());
        }
        if entry.kind == EntryKind::File && meta.nlink() > 1 {
            match links.get(&(meta.dev(), meta.ino())) {
                Some(first) => {
                    entry.kind = EntryKind::Hardlink;
                    entry.link.clone_from(first);
                    entry.size = 0;
                }
                None => drop(links.insert((meta.dev(), meta.ino()), path.to_owned())),
            }
        }
        head.clear();
        header::encode(&entry, &mut head);
        sink.write_all(&head)?;
        if entry.kind == EntryKind::File && entry.size > 0 {
            let here = root.join(path);
            let file = open(&here).map_err(at(&here))?;
            let copied = io::copy(&mut file.take(entry.size), sink).map_err(at(&here))?;
            if copied != entry.size {
                return Err(at(&here)(io::Error::other("it changed while it was read")));
            }
            sink.write_all(&[0; BLOCK][..header::padding(entry.size)])?;
        }
        Ok(())
    })?;
    sink.write_all(&[0; 2 * BLOCK])
}

/// Opens a file for reading without leaving a trace in its access time, which says what builds use.
fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NOATIME | OFlags::NONBLOCK;
    let with = |flags: OFlags| File::options().read(true).custom_flags(flags.bits().cast_signed()).open(path);
    match with(flags) {
        // Somebody else's file, and no right over it.
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => with(flags - OFlags::NOATIME),
        other => other,
    }
}
