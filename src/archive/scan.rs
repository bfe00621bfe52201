//! Reading from disk what an archive needs to know.

use std::fs::Metadata;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use rustix::fs::{lgetxattr, listxattr, llistxattr};
use rustix::io::Errno;

use super::entry::{Entry, EntryKind, Timestamp, Xattrs, xattr_allowed};
use super::error::ArchiveError;
use crate::base::owner;

/// Overlay features that are never on in our mounts; a file that carries their mark is not what it seems.
const FOREIGN_MARKS: [&[u8]; 2] = [b"user.overlay.redirect", b"user.overlay.metacopy"];

/// What kind of entry what is at `path` makes; `None` for sockets that are just that.
pub(super) fn kind_of(path: &Path, meta: &Metadata) -> Result<Option<EntryKind>, ArchiveError> {
    let kind = meta.file_type();
    Ok(Some(match () {
        () if kind.is_file() => EntryKind::File,
        () if kind.is_dir() => EntryKind::Dir,
        () if kind.is_symlink() => EntryKind::Symlink,
        () if kind.is_fifo() => EntryKind::Fifo,
        () => match device_at(path, meta)? {
            Some(device) if device.block => EntryKind::Block,
            Some(_) => EntryKind::Char,
            None => return Ok(None),
        },
    }))
}

/// The device at `path`, if it is one.
pub(super) fn device_at(path: &Path, meta: &Metadata) -> Result<Option<owner::Device>, ArchiveError> {
    owner::device_at(path, meta).map_err(|e| ArchiveError::io("read the device number of", path, e))
}

/// The time of the last change of content.
pub(super) fn mtime_of(meta: &Metadata) -> Timestamp {
    Timestamp { secs: meta.mtime(), nanos: u32::try_from(meta.mtime_nsec()).unwrap_or_default() }
}

/// The entry, called `name`, for what is at `path`.
pub(super) fn entry_of(name: &Path, path: &Path, meta: &Metadata, kind: EntryKind) -> Result<Entry, ArchiveError> {
    let mut entry = Entry::new(name, kind);
    let ((uid, gid), mode) = owner_and_mode(path, meta)?;
    (entry.uid, entry.gid, entry.mode) = (uid, gid, mode & 0o7777);
    entry.mtime = mtime_of(meta);
    match kind {
        EntryKind::File => entry.size = meta.size(),
        EntryKind::Symlink => {
            // Its mode means nothing, and file systems differ in what they report.
            entry.mode = 0o777;
            entry.link = std::fs::read_link(path).map_err(|e| ArchiveError::io("read the symlink", path, e))?;
        }
        EntryKind::Char | EntryKind::Block => {
            entry.device = device_at(path, meta)?.map(|d| (d.major, d.minor)).unwrap_or_default();
        }
        _ => {}
    }
    if matches!(kind, EntryKind::File | EntryKind::Dir) {
        entry.xattrs = xattrs_of(path)?;
    }
    Ok(entry)
}

/// Who owns what is at `path`, and its mode with the bits of its type.
pub(super) fn owner_and_mode(path: &Path, meta: &Metadata) -> Result<((u32, u32), u32), ArchiveError> {
    owner::owner_and_mode(path, meta).map_err(|e| ArchiveError::io("read the owner of", path, e))
}

/// The entry for what is at `path` in the plain tree `root`; `None` if nothing is there that a layer can hold.
///
/// # Errors
/// The file system's.
pub fn entry_at(root: &Path, path: &Path) -> Result<Option<Entry>, ArchiveError> {
    let here = root.join(path);
    let meta = match std::fs::symlink_metadata(&here) {
        Ok(meta) => meta,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(ArchiveError::io("inspect", &here, e)),
    };
    kind_of(&here, &meta)?.map(|kind| entry_of(path, &here, &meta, kind)).transpose()
}

/// The attributes of a file or directory that belong into a layer. `path` must not end in a symlink.
///
/// # Errors
/// The file system's.
pub fn xattrs_of(path: &Path) -> Result<Xattrs, ArchiveError> {
    let failed = |e: Errno| ArchiveError::io("read the attributes of", path, e);
    let mut out = Xattrs::new();
    let mut names = [0_u8; 1024];
    let mut larger;
    // `path` is known not to be a symlink, for which only the l-forms would do.
    let list = match llistxattr(path, &mut names) {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(out),
        Ok(length) => &names[..length],
        Err(Errno::RANGE) => {
            // The kernel's upper limit for all names.
            larger = vec![0_u8; 64 << 10];
            let length = listxattr(path, &mut larger).map_err(failed)?;
            &larger[..length]
        }
        Err(e) => return Err(failed(e)),
    };
    for name in list.split(|b| *b == 0).filter(|n| !n.is_empty()) {
        if FOREIGN_MARKS.contains(&name) {
            let name = String::from_utf8_lossy(name);
            return Err(ArchiveError::refused(path, format!("overlay feature {name} is not supported")));
        }
        let shown = owner::shown_as(name);
        if !xattr_allowed(shown) {
            continue;
        }
        let mut value = vec![0_u8; 256];
        let length = loop {
            match lgetxattr(path, name, &mut value) {
                Ok(length) => break Some(length),
                Err(Errno::RANGE) if value.len() < 64 << 10 => value.resize(64 << 10, 0),
                Err(Errno::NODATA) => break None,
                Err(e) => return Err(failed(e)),
            }
        };
        if let Some(length) = length {
            value.truncate(length);
            out.insert(shown.to_vec(), value);
        }
    }
    Ok(out)
}
