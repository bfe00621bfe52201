//! Sources that are archives (SPEC A6.17): detection and unpacking belong to [`crate::archive`].

use std::fs::File;
use std::io::Seek;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};

use super::error::FileOpError;
use super::select::text;
use crate::archive::{self, ArchiveFormat};
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
        mut self,
        root: &Path,
        dest: &Path,
        owner: Option<(u32, u32)>,
    ) -> Result<Vec<String>, FileOpError> {
        let failed = |reason: String| FileOpError::Unpack { path: self.path.clone(), reason };
        self.file.rewind().map_err(|e| failed(e.to_string()))?;
        let notes = archive::extract_archive(self.file, self.format, root, dest, owner)
            .map_err(|e| failed(e.to_string()))?;
        Ok(notes.iter().map(|n| format!("{}: {:?}, {} times", n.path.display(), n.kind, n.count)).collect())
    }
}
