//! Sources that are archives (SPEC A6.17): detection and unpacking belong to [`crate::archive`].

use std::fs::File;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};

use super::error::FileOpError;
use super::select::text;
use crate::archive::{self, ArchiveFormat, Note, NoteKind};
use crate::tree::root::Place;

/// An archive, found and not yet unpacked.
pub(super) struct Archive {
    file: File,
    format: ArchiveFormat,
    path: String,
}

/// Opens `place` if it is an archive. What cannot be opened or is no regular file is none.
pub(super) fn detect(place: &Place, path: &[u8]) -> Result<Option<Archive>, FileOpError> {
    if place.kind() != Some(FileType::RegularFile) {
        return Ok(None);
    }
    let path = text(path);
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&place.dir, place.name.as_os_str(), flags, Mode::empty())
        .map_err(|e| FileOpError::io("open", &*path, e.into()))?;
    let file = File::from(file);
    let format = archive::detect_archive(&file)
        .map_err(|e| FileOpError::Unpack { path: path.clone(), reason: e.to_string() })?;
    Ok(format.map(|format| Archive { file, format, path }))
}

impl Archive {
    /// Unpacks it into `dest` of the tree at `root`; tells what could not be kept.
    pub(super) fn extract(
        self,
        root: &Path,
        dest: &Path,
        owner: Option<(u32, u32)>,
    ) -> Result<Vec<String>, FileOpError> {
        let failed = |reason: String| FileOpError::Unpack { path: self.path.clone(), reason };
        let notes =
            archive::extract_archive(self.file, self.format, root, dest, owner).map_err(|e| failed(e.to_string()))?;
        Ok(notes.iter().map(describe).collect())
    }
}

/// A note in words.
fn describe(note: &Note) -> String {
    let what = match &note.kind {
        NoteKind::UnmappedOwner { uid, gid } => {
            format!("the owner {uid}:{gid} is not available in this user namespace")
        }
        NoteKind::DeviceRefused => "a device node could not be made and was left out".into(),
        NoteKind::DeviceZero => "a character device 0:0 was left out: it would mean a deletion".into(),
        NoteKind::XattrDropped(name) => format!("the extended attribute {name} was left out"),
        NoteKind::XattrRefused(name) => format!("the extended attribute {name} could not be kept"),
        NoteKind::ReservedName => "a name that starts with .wh. was left out".into(),
        NoteKind::UnknownType(kind) => format!("an entry of the unknown type {kind} was left out"),
    };
    match note.count {
        1 => format!("{}: {what}", note.path.display()),
        n => format!("{} and {} more: {what}", note.path.display(), n - 1),
    }
}
