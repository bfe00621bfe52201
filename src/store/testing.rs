//! What the tests of this module share.

use std::path::Path;

use super::{SnapshotterChoice, Store, StoreOptions};
use crate::base::Events;

/// A fresh store that needs no mounts, in a directory that disappears.
pub(crate) fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = open(&dir.path().join("store"), SnapshotterChoice::Native).expect("opens");
    (dir, store)
}

/// The same with overlay mounts; `None`, and the reason printed, where they do not work.
pub(crate) fn overlay_store() -> Option<(tempfile::TempDir, Store)> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = open(&dir.path().join("store"), SnapshotterChoice::Overlay).expect("opens");
    match store.snapshotter_name() {
        Ok(_) => Some((dir, store)),
        Err(e) => {
            skip(&e.to_string());
            None
        }
    }
}

pub(crate) fn open(root: &Path, snapshotter: SnapshotterChoice) -> Result<Store, super::StoreError> {
    Store::open(root, &StoreOptions { snapshotter, ..StoreOptions::new(Events::none()) })
}

/// Says why a test does nothing.
#[allow(clippy::print_stderr)]
pub(crate) fn skip(why: &str) {
    eprintln!("skipped: {why}");
}
