//! Whole trees, no mounts: works everywhere. A step changes a copy of the tree, or the tree itself if nobody else needs it.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::archive::{
    ApplyOptions, ApplySummary, ArchiveError, Dialect, DiffStats, LayerWriter, Parent, Places, TarStream, Timestamp,
    apply, diff_trees_with,
};
use crate::base::file::open_dir;
use crate::store::StoreError;
use crate::store::content::BlobWriter;
use crate::store::copy::copy_tree;
use crate::store::stub::{Plan, root_mtime};

use super::{Against, Snapshotter, View, ViewRequest};

/// The snapshotter that copies.
#[derive(Debug)]
pub(crate) struct Native;

impl Snapshotter for Native {
    fn name(&self) -> &'static str {
        "native"
    }

    fn per_layer(&self) -> bool {
        false
    }

    fn prepare(&self, target: &Path, below: &[PathBuf]) -> io::Result<()> {
        match below.last() {
            Some(tree) => copy_tree(tree, target),
            None => empty_root(target),
        }
    }

    fn unpack(&self, tar: &mut dyn TarStream, target: &Path, _below: &[PathBuf]) -> Result<ApplySummary, ArchiveError> {
        apply(tar, target, Dialect::Native, &[], &ApplyOptions::default())
    }

    fn view(&self, request: &ViewRequest<'_>) -> Result<View, StoreError> {
        let scratch = request.scratch;
        // A tree that nobody may change is shown as it is, unless mountpoints are missing in it.
        if let (false, Some(tree)) = (request.writable, request.dirs.last()) {
            let root = open_dir(tree).map_err(StoreError::io("open", tree))?;
            let plan = Plan::new(root.as_fd(), request.stubs)?;
            if plan.is_empty() {
                let mut view = View::at(tree);
                view.stubs = plan.resolved;
                return Ok(view);
            }
        }
        let tree = scratch.join("fs");
        if !request.taken {
            fs::create_dir(&tree).map_err(StoreError::io("create", &tree))?;
            self.prepare(&tree, request.dirs).map_err(StoreError::io("copy a tree to", &tree))?;
        }
        let root = open_dir(&tree).map_err(StoreError::io("open", &tree))?;
        let plan = Plan::new(root.as_fd(), request.stubs)?;
        let mut view = View::at(&tree);
        view.root_time = Some(root_mtime(&tree)?);
        view.placed = Some(plan.make_in_place(&tree).map_err(StoreError::io("make mountpoints in", &tree))?);
        view.stubs = plan.resolved;
        if request.writable && tells_changes(scratch)? {
            // Only a help: without it more is compared.
            view.places = Places::of(&tree).ok().map(Arc::new);
            view.copied_at = Some(file_system_now(scratch)?);
        }
        view.keep = request.writable.then_some(tree);
        Ok(view)
    }

    fn pack(&self, dir: &Path, below: Against, out: &mut LayerWriter<BlobWriter>) -> Result<DiffStats, ArchiveError> {
        let parent = Parent { tree: below.dirs.into_iter().next_back(), layers: below.layers };
        diff_trees_with(parent, dir, &below.hints, out)
    }
}

/// The root directory of a file system that begins with nothing.
pub(super) fn empty_root(dir: &Path) -> io::Result<()> {
    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?;
    let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
    let times = Timestamps { last_access: zero, last_modification: zero };
    Ok(rustix::fs::utimensat(CWD, dir, &times, AtFlags::empty())?)
}

/// Whether a file's change time says that its content changed. A tmpfs says nothing of what is written through a mapping.
pub(crate) fn tells_changes(dir: &Path) -> Result<bool, StoreError> {
    const TMPFS: i64 = 0x0102_1994;
    let stat = rustix::fs::statfs(dir).map_err(StoreError::errno("examine", dir))?;
    #[allow(clippy::useless_conversion, clippy::unnecessary_cast)] // Narrower on some architectures.
    Ok(stat.f_type as i64 != TMPFS)
}

/// The file system's own clock.
fn file_system_now(scratch: &Path) -> Result<Timestamp, StoreError> {
    let path = scratch.join("now");
    fs::write(&path, b"").map_err(StoreError::io("create", &path))?;
    let stat = rustix::fs::stat(&path).map_err(StoreError::errno("examine", &path))?;
    fs::remove_file(&path).map_err(StoreError::io("remove", &path))?;
    #[allow(clippy::useless_conversion, clippy::unnecessary_cast)] // Narrower on some architectures.
    Ok(Timestamp { secs: stat.st_ctime as i64, nanos: u32::try_from(stat.st_ctime_nsec).unwrap_or(0) })
}
