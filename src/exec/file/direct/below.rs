//! The tree that a layer is put on, as far as one has to know it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::archive::{Entry, EntryKind, MergedIndex, TreeIndex, entry_at};
use crate::base::Digest;
use crate::exec::file::content;
use crate::exec::file::error::FileOpError;
use crate::tree::root::shown;

/// A tree that can be asked.
pub trait Below: Send + Sync {
    /// What is at `path`, whose parents are directories and no links. A link is itself the answer.
    ///
    /// # Errors
    /// If it cannot be looked at.
    fn lookup(&self, path: &Path) -> Result<Option<Entry>, FileOpError>;

    /// sha256 of the content of the regular file at `path`.
    ///
    /// # Errors
    /// If it cannot be read.
    fn content(&self, path: &Path) -> Result<Digest, FileOpError>;
}

/// A directory of the machine that shows the tree.
pub struct BelowDirectory(pub PathBuf);

impl Below for BelowDirectory {
    fn lookup(&self, path: &Path) -> Result<Option<Entry>, FileOpError> {
        entry_at(&self.0, path).map_err(|e| FileOpError::io("look at", shown(path), io::Error::other(e.to_string())))
    }

    fn content(&self, path: &Path) -> Result<Digest, FileOpError> {
        let io = |e| FileOpError::io("read", shown(path), e);
        let file = fs::File::open(self.0.join(path)).map_err(io)?;
        let size = file.metadata().map_err(io)?.len();
        content::sha256(&file.into(), size).map_err(io)
    }
}

/// The indexes of its layers, bottom first.
pub struct BelowIndexes(pub Vec<TreeIndex>);

impl BelowIndexes {
    fn merged(&self) -> MergedIndex<'_> {
        MergedIndex::new(&self.0)
    }
}

impl Below for BelowIndexes {
    fn lookup(&self, path: &Path) -> Result<Option<Entry>, FileOpError> {
        let merged = self.merged();
        if let Some(found) = merged.lookup(path) {
            let mut entry = found.entry;
            if entry.kind == EntryKind::Hardlink {
                // A name of a file is a file.
                let Some(target) = merged.lookup(&entry.link) else { return Ok(None) };
                entry = Entry { path: entry.path, ..target.entry };
            }
            return Ok(Some(entry));
        }
        // A layer may have something in a directory that it never mentions.
        Ok((!merged.children(path).is_empty()).then(|| Entry::dir(path, 0o755)))
    }

    fn content(&self, path: &Path) -> Result<Digest, FileOpError> {
        let found = self.merged().lookup(path).and_then(|found| found.digest);
        found.ok_or_else(|| FileOpError::Invalid(format!("the content of {} is not known", shown(path))))
    }
}
