//! Where the directories of a tree were: how a move of one is noticed without comparing what is inside.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::Metadata;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};

use super::error::ArchiveError;

/// The directories of a tree at some moment, by inode: the directory that each was in, and its name there.
///
/// A file whose change time is older than that moment, in a directory that is where it was, all the way up, is what it was.
/// Nothing can set change times, and whoever gives a file another place changes its change time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Places {
    dirs: HashMap<u64, (u64, OsString)>,
    root: u64,
}

impl Places {
    /// Looks at the tree `root`, which nobody changes meanwhile.
    ///
    /// # Errors
    /// The file system's.
    pub fn of(root: &Path) -> Result<Self, ArchiveError> {
        let failed = |e: rustix::io::Errno| ArchiveError::io("list", root, io::Error::from(e));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let top = rustix::fs::open(root, flags, Mode::empty()).map_err(failed)?;
        let mut places = Self { dirs: HashMap::new(), root: rustix::fs::fstat(&top).map_err(failed)?.st_ino };
        // Paths instead of a stack of descriptors: trees may be deeper than there are of those.
        let mut todo: Vec<(PathBuf, u64)> = vec![(PathBuf::from("."), 0)];
        while let Some((path, parent)) = todo.pop() {
            let dir = rustix::fs::openat(&top, &path, flags, Mode::empty()).map_err(failed)?;
            // Not the number that the listing gave: some file systems have others there.
            let number = rustix::fs::fstat(&dir).map_err(failed)?.st_ino;
            if let Some(name) = path.file_name() {
                places.dirs.insert(number, (parent, name.to_owned()));
            }
            for entry in Dir::read_from(&dir).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                let name = entry.file_name();
                let kind = match entry.file_type() {
                    FileType::Unknown => FileType::from_raw_mode(
                        rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?.st_mode,
                    ),
                    kind => kind,
                };
                if kind == FileType::Directory && !matches!(name.to_bytes(), b"." | b"..") {
                    todo.push((path.join(OsStr::from_bytes(name.to_bytes())), number));
                }
            }
        }
        Ok(places)
    }

    /// Whether `dir` is called `name` in `parent` (an inode), as it was then.
    pub(super) fn holds(&self, dir: &Metadata, parent: u64, name: &OsStr) -> bool {
        self.dirs.get(&dir.ino()).is_some_and(|(was_in, was_called)| *was_in == parent && was_called == name)
    }

    /// The root's inode.
    pub(super) fn root(&self) -> u64 {
        self.root
    }
}
