//! Removing a whole store. Runs inside the worker: only there can files of mapped ids be deleted.

use std::fs;
use std::io;
use std::path::Path;

use rustix::fs::FlockOperation;

use super::StoreError;
use super::layout::Layout;
use super::lock::is_held;
use super::sweep::{detach_below, list};
use super::tree::remove_tree;

/// Removes the store at `root` with everything in it. Nothing happens if there is none.
///
/// # Errors
/// [`StoreError::NotAStore`] if the directory holds anything else, [`StoreError::Busy`] while a build runs.
pub fn reset(root: &Path) -> Result<(), StoreError> {
    let layout = Layout::new(root);
    if matches!(fs::symlink_metadata(root), Err(e) if e.kind() == io::ErrorKind::NotFound) {
        return Ok(());
    }
    if let Some(found) = layout.foreign_entry()? {
        return Err(StoreError::NotAStore { root: root.to_path_buf(), found });
    }
    // Builds that have ended but are not done with the store are waited for.
    let _alone = super::housekeeping::lock(root, FlockOperation::LockExclusive)?;
    let locks = list(&layout.tmp())?.into_iter().filter(|path| path.extension().is_some_and(|e| e == "lock"));
    for path in list(&layout.leases())?.into_iter().chain(locks) {
        if is_held(&path)? {
            return Err(StoreError::Busy { root: root.to_path_buf() });
        }
    }
    for dir in [layout.tmp(), layout.trash()] {
        detach_below(&std::path::absolute(&dir).unwrap_or(dir));
    }
    // The metadata first: without rows everything else is garbage that the next open sweeps. VERSION last: until then
    // the directory is a store.
    let meta = layout.meta();
    for suffix in ["", "-wal", "-shm", "-journal"] {
        let mut name = meta.clone().into_os_string();
        name.push(suffix);
        remove_tree(Path::new(&name)).map_err(StoreError::io("remove", &name))?;
    }
    for path in list(root)?.into_iter().filter(|path| *path != layout.version()) {
        if path.file_name().is_some_and(|name| name != "lost+found") {
            remove_tree(&path).map_err(StoreError::io("remove", &path))?;
        }
    }
    remove_tree(&layout.version()).map_err(StoreError::io("remove", layout.version()))?;
    match fs::remove_dir(root) {
        // A mountpoint, or in a directory that is not ours: empty is as good.
        Err(e) if e.kind() != io::ErrorKind::DirectoryNotEmpty && e.kind() != io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(StoreError::io("remove", root)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::store;

    #[test]
    fn a_store_is_removed_whole() {
        let (_dir, store) = store();
        store.put_blob(b"x").expect("writes");
        let root = store.root().to_path_buf();
        assert!(matches!(reset(&root), Err(StoreError::Busy { .. })), "its owner lives");
        drop(store);
        reset(&root).expect("resets");
        assert!(!root.exists());
        reset(&root).expect("is gone already");
    }

    #[test]
    fn nothing_else_is_ever_removed() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::write(dir.path().join("thesis.tex"), "x").expect("writes");
        assert!(matches!(reset(dir.path()), Err(StoreError::NotAStore { .. })));
        assert!(dir.path().join("thesis.tex").exists());
    }

    #[test]
    fn a_reset_that_was_killed_leaves_a_usable_store() {
        let (_dir, store) = store();
        let digest = store.put_blob(b"x").expect("writes");
        let root = store.root().to_path_buf();
        drop(store);
        // As after the first removals.
        for name in ["meta.db", "meta.db-wal", "meta.db-shm"] {
            let _ = fs::remove_file(root.join(name));
        }
        fs::remove_dir_all(root.join("locks")).expect("removes");
        let store = crate::store::testing::open(&root, crate::store::SnapshotterChoice::Native).expect("opens");
        assert_eq!(store.has_blob(&digest).expect("asks"), None);
        store.put_blob(b"x").expect("heals");
        store.sweep_orphans().expect("sweeps");
        assert_eq!(store.read_blob(&digest).expect("reads"), b"x");
    }
}
