//! A stack of overlay directories, seen as the one tree that the kernel would show.
//!
//! Looked at by path: a component is only followed after it was seen to be a real directory in that layer, and layers do not
//! change, so no symlink can lead anywhere else.

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::ArchiveError;
use super::scan::kind_of;

/// The attribute by which an overlay directory hides what lower layers put into it.
pub(super) const OPAQUE_XATTR: &str = "user.overlay.opaque";

/// Gives the directories of the layers below, bottom first, when these are complete: asking may wait.
pub type Awaited = Arc<dyn Fn() -> io::Result<Vec<PathBuf>> + Send + Sync>;

/// Directories of layers, topmost first.
pub(super) struct Lowers {
    roots: OnceCell<Vec<PathBuf>>,
    /// Who is asked for them, once somebody looks.
    awaited: Option<Awaited>,
    /// Plain trees know no whiteouts and no opaque directories.
    overlay: bool,
}

/// A directory of the merged tree: which layers (by number, topmost first) contribute to it.
#[derive(Debug, Clone)]
pub(super) struct LowerDir(Vec<usize>);

/// Something in the merged tree.
pub(super) struct LowerNode {
    pub(super) path: PathBuf,
    pub(super) meta: Metadata,
    /// For directories.
    pub(super) dir: Option<LowerDir>,
}

impl Lowers {
    /// A stack of overlay directories, given bottom first.
    pub(super) fn overlay(bottom_first: &[PathBuf]) -> Self {
        Self { roots: OnceCell::from(reversed(bottom_first)), awaited: None, overlay: true }
    }

    /// The same for directories that may not be complete yet. There is at least one.
    pub(super) fn awaited(awaited: Awaited) -> Self {
        Self { roots: OnceCell::new(), awaited: Some(awaited), overlay: true }
    }

    /// One plain tree, or nothing.
    pub(super) fn plain(tree: Option<&Path>) -> Self {
        Self {
            roots: OnceCell::from(tree.iter().map(|t| t.to_path_buf()).collect::<Vec<_>>()),
            awaited: None,
            overlay: false,
        }
    }

    /// Whether there is anything below at all. Waits for nothing.
    pub(super) fn exist(&self) -> bool {
        self.awaited.is_some() || self.roots.get().is_some_and(|roots| !roots.is_empty())
    }

    /// Whether they may still have to be waited for.
    pub(super) fn are_awaited(&self) -> bool {
        self.awaited.is_some()
    }

    fn roots(&self) -> Result<&[PathBuf], ArchiveError> {
        if let (None, Some(awaited)) = (self.roots.get(), &self.awaited) {
            let dirs = awaited().map_err(|e| ArchiveError::io("wait for the layers below", Path::new("/"), e))?;
            // Nobody else can have set it: the cell is this thread's.
            let _ = self.roots.set(reversed(&dirs));
        }
        Ok(self.roots.get().map_or(&[], Vec::as_slice))
    }

    pub(super) fn root(&self) -> Result<Option<LowerDir>, ArchiveError> {
        let roots = self.roots()?;
        Ok((!roots.is_empty()).then(|| LowerDir((0..roots.len()).collect())))
    }

    /// The topmost layer's root.
    pub(super) fn top(&self) -> Result<Option<&Path>, ArchiveError> {
        Ok(self.roots()?.first().map(PathBuf::as_path))
    }

    /// What stands at `path`, a child of the directory `dir`.
    pub(super) fn child(&self, dir: &LowerDir, path: &Path) -> Result<Option<LowerNode>, ArchiveError> {
        let mut found: Option<LowerNode> = None;
        let roots = self.roots()?;
        for layer in &dir.0 {
            let here = roots[*layer].join(path);
            let meta = match std::fs::symlink_metadata(&here) {
                Ok(meta) => meta,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(ArchiveError::io("inspect", &here, e)),
            };
            if !meta.is_dir() {
                if found.is_none() && is_representable(&here, &meta)? {
                    found = Some(LowerNode { path: here, meta, dir: None });
                }
                break;
            }
            let opaque = self.overlay && is_opaque(&here)?;
            let node = found.get_or_insert_with(|| LowerNode { path: here, meta, dir: Some(LowerDir(Vec::new())) });
            if let Some(LowerDir(members)) = &mut node.dir {
                members.push(*layer);
            }
            if opaque {
                break;
            }
        }
        Ok(found)
    }

    /// Walks down to `path`; `None` if it is not there or a component is not a directory.
    pub(super) fn find(&self, path: &Path) -> Result<Option<LowerNode>, ArchiveError> {
        let Some(mut dir) = self.root()? else { return Ok(None) };
        let mut at = PathBuf::new();
        let mut components = path.components().peekable();
        while let Some(component) = components.next() {
            at.push(component);
            let Some(node) = self.child(&dir, &at)? else { return Ok(None) };
            if components.peek().is_none() {
                return Ok(Some(node));
            }
            let Some(below) = node.dir else { return Ok(None) };
            dir = below;
        }
        Ok(None)
    }

    /// The names in `dir`, which stands at `path`.
    pub(super) fn names(&self, dir: &LowerDir, path: &Path) -> Result<BTreeSet<OsString>, ArchiveError> {
        let mut names = BTreeSet::new();
        let mut hidden = BTreeSet::new();
        let roots = self.roots()?;
        for layer in &dir.0 {
            let here = roots[*layer].join(path);
            let mut gone = Vec::new();
            for entry in std::fs::read_dir(&here).map_err(|e| ArchiveError::io("list", &here, e))? {
                let entry = entry.map_err(|e| ArchiveError::io("list", &here, e))?;
                let name = entry.file_name();
                if hidden.contains(&name) {
                    continue;
                }
                let device = self.overlay && entry.file_type().is_ok_and(|t| t.is_char_device());
                if device && entry.metadata().is_ok_and(|m| is_whiteout(&m)) {
                    gone.push(name);
                } else {
                    names.insert(name);
                }
            }
            // A deletion is about the layers below; a name that a higher layer has stays.
            hidden.extend(gone);
        }
        Ok(names)
    }
}

fn reversed(bottom_first: &[PathBuf]) -> Vec<PathBuf> {
    bottom_first.iter().rev().cloned().collect()
}

/// Whether overlay takes this for a deletion. Must be asked before anything about hard links: the kernel links all of a
/// layer's whiteouts to one inode.
pub(super) fn is_whiteout(meta: &Metadata) -> bool {
    meta.file_type().is_char_device() && meta.rdev() == 0
}

/// Whether a layer can hold this at all: sockets mean nothing without their process (SPEC A6.11), and a device `c 0:0` would be
/// a deletion wherever the layer is put on overlay. Both count as not being there.
fn is_representable(path: &Path, meta: &Metadata) -> Result<bool, ArchiveError> {
    Ok(!is_whiteout(meta) && kind_of(path, meta)?.is_some())
}

/// Whether overlay takes this directory for opaque.
pub(super) fn is_opaque(dir: &Path) -> Result<bool, ArchiveError> {
    let mut value = [0_u8; 2];
    match rustix::fs::lgetxattr(dir, OPAQUE_XATTR, &mut value) {
        Ok(length) => Ok(value[..length] == *b"y"),
        // A longer value is none of overlay's.
        Err(rustix::io::Errno::NODATA | rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::RANGE) => Ok(false),
        Err(e) => Err(ArchiveError::io("read the attributes of", dir, e)),
    }
}
