//! Things that could not be done exactly and do not stop the work.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Something that could not be done exactly, and does not stop the work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// What.
    pub kind: NoteKind,
    /// The first path it happened to.
    pub path: PathBuf,
    /// How often it happened.
    pub count: u64,
}

/// The kinds of [`Note`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum NoteKind {
    /// The ids cannot be given to a file here (outside the user namespace's map).
    UnmappedOwner {
        /// User.
        uid: u32,
        /// Group.
        gid: u32,
    },
    /// The kernel does not let us make this device node.
    DeviceRefused,
    /// A device `c 0:0`, which on overlay would mean a deletion; left out.
    DeviceZero,
    /// An extended attribute that archives may not bring in; dropped.
    XattrDropped(String),
    /// An extended attribute that this file system does not take.
    XattrRefused(String),
    /// A name that starts with `.wh.` cannot be in a layer; left out.
    ReservedName,
    /// An entry type that is not a file; skipped.
    UnknownType(u8),
}

/// Collects notes: one per kind, and not arbitrarily many kinds.
#[derive(Debug, Default)]
pub(super) struct Notes(BTreeMap<NoteKind, (PathBuf, u64)>);

impl Notes {
    const MOST: usize = 500;

    pub(super) fn add(&mut self, kind: NoteKind, path: &Path) {
        let full = self.0.len() >= Self::MOST;
        match self.0.get_mut(&kind) {
            Some((_, count)) => *count += 1,
            None if full => {}
            None => {
                self.0.insert(kind, (path.to_owned(), 1));
            }
        }
    }

    pub(super) fn into_list(self) -> Vec<Note> {
        self.0.into_iter().map(|(kind, (path, count))| Note { kind, path, count }).collect()
    }
}
