//! The tree before a change: directories, and above them layers that are known by their indexes alone.
//!
//! A tree that is changed in place is gone afterwards. What it was is known all the same: some tree below it that is still there,
//! and what the layers between said.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::Path;

use super::entry::EntryKind;
use super::error::ArchiveError;
use super::index::{IndexEntry, TreeIndex};
use super::lowers::{LowerDir, LowerNode, Lowers};

/// Directories below, indexes above (bottom first).
pub(super) struct Before {
    below: Lowers,
    above: Vec<TreeIndex>,
}

/// A directory of the tree.
#[derive(Clone)]
pub(super) struct OldDir {
    /// What the directories below contribute, if they do.
    below: Option<LowerDir>,
    /// The lowest index that contributes.
    from: usize,
}

/// Something in the tree.
pub(super) struct OldNode {
    pub(super) source: Known,
    /// For directories.
    pub(super) dir: Option<OldDir>,
}

/// How something in the tree is known.
pub(super) enum Known {
    /// It is there.
    Here(LowerNode),
    /// A layer's index describes it; a hard link is described as the file that it is a name of.
    Told(Box<IndexEntry>),
}

impl Before {
    pub(super) fn new(below: Lowers, above: Vec<TreeIndex>) -> Self {
        Self { below, above }
    }

    pub(super) fn root(&self) -> Result<Option<OldDir>, ArchiveError> {
        let below = self.below.root()?;
        Ok((below.is_some() || !self.above.is_empty()).then_some(OldDir { below, from: 0 }))
    }

    /// What stands at `path`, a child of `dir`.
    pub(super) fn child(&self, dir: &OldDir, path: &Path) -> Result<Option<OldNode>, ArchiveError> {
        let mut top: Option<Box<IndexEntry>> = None;
        let mut inside = OldDir { below: None, from: dir.from };
        for (number, layer) in self.above.iter().enumerate().skip(dir.from).rev() {
            let Some(found) = layer.lookup(path) else { continue };
            if found.entry.kind != EntryKind::Dir {
                if top.is_some() || found.entry.kind == EntryKind::Whiteout {
                    // Nothing below this layer shows through.
                    inside.from = number + 1;
                    return Ok(top.map(|top| OldNode { source: Known::Told(top), dir: Some(inside) }));
                }
                let told = Known::Told(Box::new(named(layer, found)));
                return Ok(Some(OldNode { source: told, dir: None }));
            }
            let opaque = found.entry.opaque;
            top.get_or_insert_with(|| Box::new(found));
            if opaque {
                inside.from = number;
                return Ok(top.map(|top| OldNode { source: Known::Told(top), dir: Some(inside) }));
            }
        }
        let here = dir.below.as_ref().map(|below| self.below.child(below, path)).transpose()?.flatten();
        Ok(match (top, here) {
            (Some(top), here) => {
                inside.below = here.and_then(|here| here.dir);
                Some(OldNode { source: Known::Told(top), dir: Some(inside) })
            }
            (None, Some(here)) => {
                let dir = here.dir.clone().map(|below| OldDir { below: Some(below), ..inside });
                Some(OldNode { source: Known::Here(here), dir })
            }
            (None, None) => None,
        })
    }

    /// The names in `dir`, which stands at `path`.
    pub(super) fn names(&self, dir: &OldDir, path: &Path) -> Result<BTreeSet<OsString>, ArchiveError> {
        let mut names = match &dir.below {
            Some(below) => self.below.names(below, path)?,
            None => BTreeSet::new(),
        };
        for layer in self.above.iter().skip(dir.from) {
            for child in layer.children(path) {
                let Some(name) = child.entry.path.file_name() else { continue };
                if child.entry.kind == EntryKind::Whiteout {
                    names.remove(name);
                } else {
                    names.insert(name.to_owned());
                }
            }
        }
        Ok(names)
    }
}

/// The file that a hard link is a name of; what `found` is otherwise.
fn named(layer: &TreeIndex, found: IndexEntry) -> IndexEntry {
    if found.entry.kind != EntryKind::Hardlink {
        return found;
    }
    layer.lookup(&found.entry.link).unwrap_or(found)
}
