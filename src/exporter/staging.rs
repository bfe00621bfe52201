//! Files that appear under their final names only when everything has succeeded.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FallocateFlags, Timespec, Timestamps};

use super::layout::PIECE;
use super::{Dest, ExportError};
use crate::base::{Digest, file};
use crate::store::Store;

/// Files from this size on get their room before they are written.
const ROOM: u64 = 1 << 20;

/// A file that is written and not yet visible.
pub(super) struct StagedFile {
    temp: file::NewFile,
    path: PathBuf,
}

impl StagedFile {
    /// Writes next to `path`; `size` is what the file will have, if that is known, or a little less. The writer's type is
    /// known, so that whole files can be copied into it by the kernel.
    pub(super) fn write(
        path: &Path,
        size: Option<u64>,
        write: impl FnOnce(&mut BufWriter<&File>) -> Result<(), ExportError>,
    ) -> Result<Self, ExportError> {
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(parent).map_err(ExportError::io("create", parent))?;
        if path.is_dir() {
            return Err(ExportError::io("write", path)(io::ErrorKind::IsADirectory.into()));
        }
        let temp = file::beside(path).map_err(ExportError::io("create a file in", parent))?;
        // Finding room at once is cheaper than page by page. A file that takes another's place goes the usual way: ext4 sees to
        // it that after a crash of the machine it is not empty.
        if let Some(size) = size.filter(|size| *size >= ROOM && fs::symlink_metadata(path).is_err()) {
            // Where it cannot be done, writing says what is wrong.
            let _ = rustix::fs::fallocate(temp.as_file(), FallocateFlags::KEEP_SIZE, 0, size);
        }
        let mut out = BufWriter::with_capacity(PIECE, temp.as_file());
        write(&mut out)?;
        out.flush().map_err(ExportError::io("write", path))?;
        drop(out);
        Ok(Self { temp, path: path.to_owned() })
    }

    /// Gives it its name.
    pub(super) fn publish(self) -> Result<(), ExportError> {
        file::publish(self.temp, &self.path).map_err(ExportError::io("rename to", self.path))
    }

    /// The same for an archive with this content, which `store` remembers.
    pub(super) fn publish_archive(self, store: &Store, content: &Digest) -> Result<(), ExportError> {
        let Self { temp, path } = self;
        let file = temp.as_file().try_clone().map_err(ExportError::io("rename to", &path))?;
        store
            .name_archive(&path, content, &file, || file::publish(temp, &path))
            .map_err(ExportError::io("rename to", &path))
    }
}

/// Writes to standard output.
pub(super) fn write_stdout(
    write: impl FnOnce(&mut BufWriter<File>) -> Result<(), ExportError>,
) -> Result<(), ExportError> {
    let fail = || ExportError::io("write", "standard output");
    let out = rustix::io::dup(rustix::stdio::stdout()).map_err(|e| fail()(e.into()))?;
    let mut out = BufWriter::with_capacity(PIECE, File::from(out));
    write(&mut out)?;
    out.flush().map_err(fail())
}

/// How messages call a destination.
pub(super) fn shown(dest: &Dest) -> PathBuf {
    match dest {
        Dest::Path(path) => path.clone(),
        Dest::Stdout => PathBuf::from("standard output"),
    }
}

/// A directory tree that is complete and not yet visible.
pub(super) struct StagedTree {
    temp: tempfile::TempDir,
    dest: PathBuf,
    /// Delete what the tree does not have.
    delete: bool,
}

impl StagedTree {
    /// An empty one, on the file system of `dest`.
    pub(super) fn new(dest: &Path, delete: bool) -> Result<Self, ExportError> {
        let parent = dest.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let inside = fs::symlink_metadata(dest).is_ok();
        // Inside an existing destination: its parent may be another file system, or closed to us.
        let place = if inside { dest } else { parent };
        fs::create_dir_all(place).map_err(ExportError::io("create", place))?;
        let temp = tempfile::Builder::new()
            .prefix(".rbuild-")
            .tempdir_in(place)
            .map_err(ExportError::io("create a directory in", place))?;
        let tree = temp.path().join("tree");
        fs::create_dir(&tree).map_err(ExportError::io("create", &tree))?;
        Ok(Self { temp, dest: dest.to_owned(), delete })
    }

    /// Where to put the files.
    pub(super) fn root(&self) -> PathBuf {
        self.temp.path().join("tree")
    }

    /// Moves everything to its place by renames.
    pub(super) fn publish(self) -> Result<(), ExportError> {
        let tree = self.root();
        if fs::symlink_metadata(&self.dest).is_err() {
            return fs::rename(&tree, &self.dest).map_err(ExportError::io("rename to", &self.dest));
        }
        let keep = self.temp.path().file_name().map(ToOwned::to_owned);
        merge(&tree, &self.dest, self.delete, keep.as_deref())
    }
}

/// Moves the entries of `from` into `to`. Directories on both sides are merged, anything else is replaced. `keep` is not
/// deleted, whatever `delete` says.
fn merge(from: &Path, to: &Path, delete: bool, keep: Option<&std::ffi::OsStr>) -> Result<(), ExportError> {
    let mut names = std::collections::HashSet::new();
    for entry in fs::read_dir(from).map_err(ExportError::io("read", from))? {
        let entry = entry.map_err(ExportError::io("read", from))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let is_dir = entry.file_type().map_err(ExportError::io("read", &source))?.is_dir();
        let old = fs::symlink_metadata(&target).ok().map(|m| m.is_dir());
        match old {
            Some(true) if is_dir => {
                merge(&source, &target, delete, None)?;
                copy_attributes(&source, &target)?;
            }
            Some(true) => {
                fs::remove_dir_all(&target).map_err(ExportError::io("replace", &target))?;
                fs::rename(&source, &target).map_err(ExportError::io("rename to", &target))?;
            }
            other => {
                if other.is_some() && is_dir {
                    fs::remove_file(&target).map_err(ExportError::io("replace", &target))?;
                }
                fs::rename(&source, &target).map_err(ExportError::io("rename to", &target))?;
            }
        }
        names.insert(entry.file_name());
    }
    if !delete {
        return Ok(());
    }
    for entry in fs::read_dir(to).map_err(ExportError::io("read", to))? {
        let entry = entry.map_err(ExportError::io("read", to))?;
        if names.contains(&entry.file_name()) || Some(entry.file_name().as_os_str()) == keep {
            continue;
        }
        let path = entry.path();
        let removed = if entry.file_type().is_ok_and(|t| t.is_dir()) {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
        removed.map_err(ExportError::io("delete", &path))?;
    }
    Ok(())
}

/// Permissions and times of a merged directory; the destination's own root keeps what it has.
fn copy_attributes(from: &Path, to: &Path) -> Result<(), ExportError> {
    use std::os::unix::fs::MetadataExt as _;
    let meta = fs::symlink_metadata(from).map_err(ExportError::io("read", from))?;
    fs::set_permissions(to, fs::Permissions::from_mode(meta.mode() & 0o7777)).map_err(ExportError::io("write", to))?;
    let time = Timespec { tv_sec: meta.mtime(), tv_nsec: meta.mtime_nsec() };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, to, &times, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|e| ExportError::io("write", to)(e.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().expect("a parent")).expect("created");
        fs::write(path, text).expect("written");
    }

    fn read(path: &Path) -> String {
        fs::read_to_string(path).expect("readable")
    }

    // SPEC B3.01
    #[test]
    fn trees_merge_into_what_is_there() {
        let dir = tempfile::tempdir().expect("a directory");
        let dest = dir.path().join("out");
        put(&dest.join("old"), "old");
        put(&dest.join("both/old"), "old");
        put(&dest.join("both/replaced"), "old");
        put(&dest.join("dir-becomes-file/x"), "old");
        put(&dest.join("file-becomes-dir"), "old");
        let tree = StagedTree::new(&dest, false).expect("staged");
        put(&tree.root().join("both/replaced"), "new");
        put(&tree.root().join("dir-becomes-file"), "new");
        put(&tree.root().join("file-becomes-dir/x"), "new");
        assert_eq!(read(&dest.join("both/replaced")), "old", "nothing is visible before the end");
        tree.publish().expect("published");
        assert_eq!(read(&dest.join("old")), "old");
        assert_eq!(read(&dest.join("both/old")), "old");
        assert_eq!(read(&dest.join("both/replaced")), "new");
        assert_eq!(read(&dest.join("dir-becomes-file")), "new");
        assert_eq!(read(&dest.join("file-becomes-dir/x")), "new");
        assert_eq!(fs::read_dir(&dest).expect("reads").count(), 4, "no temporary directory is left");
    }

    // SPEC C6.14
    #[test]
    fn mode_delete_leaves_nothing_else() {
        let dir = tempfile::tempdir().expect("a directory");
        let dest = dir.path().join("out");
        put(&dest.join("stale"), "old");
        put(&dest.join("stale-dir/x"), "old");
        put(&dest.join("both/stale"), "old");
        let tree = StagedTree::new(&dest, true).expect("staged");
        put(&tree.root().join("both/new"), "new");
        tree.publish().expect("published");
        assert_eq!(fs::read_dir(&dest).expect("reads").count(), 1);
        assert_eq!(fs::read_dir(dest.join("both")).expect("reads").count(), 1);
    }

    #[test]
    fn what_is_dropped_leaves_the_old_as_it_was() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("a.tar");
        put(&file, "old");
        let staged = StagedFile::write(&file, None, |out| {
            out.write_all(b"new").map_err(ExportError::io("write", "a.tar"))?;
            Ok(())
        });
        drop(staged.expect("staged"));
        assert_eq!(read(&file), "old");
        let broken = StagedFile::write(&file, None, |_| Err(ExportError::Internal("broken".into())));
        assert!(broken.is_err());
        drop(StagedTree::new(&dir.path().join("new"), true).expect("staged"));
        assert_eq!(fs::read_dir(dir.path()).expect("reads").count(), 1);
        assert!(StagedFile::write(dir.path(), None, |_| Ok(())).is_err(), "a directory is no file");
    }
}
