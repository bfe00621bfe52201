//! Whole trees, as the native snapshotter keeps them: one for each chain.
//!
//! Copying a tree for every step costs what the image is large. So a tree that this process made, and that nobody else in this
//! build needs, is *taken*: the next step changes it in place. What it was is known afterwards by the blob of its last layer,
//! which is written before. A tree that is used is held by a shared lock of its directory, one that is taken by an exclusive one;
//! whoever looks for a taken tree finds none, and makes it again from the blobs.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::mount::Dir;
use super::snapshot::{Against, Snapshotter, tells_changes};
use super::tree::remove_tree;
use super::{LayerId, Store, StoreError};
use crate::archive::{Places, TreeHints, TreeIndex};

/// Directories that show a chain, with what keeps them as they are.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// Bottom first; the one tree, if trees are whole.
    pub(super) dirs: Vec<PathBuf>,
    _lock: Option<TreeLock>,
}

impl Held {
    /// Directories of layers, which nobody ever changes.
    pub(super) fn layers(dirs: Vec<PathBuf>) -> Self {
        Self { dirs, _lock: None }
    }
}

/// A lock of a tree's directory.
#[derive(Debug)]
struct TreeLock(OwnedFd);

impl TreeLock {
    /// `None` if the tree is gone, or (exclusive) in use.
    fn attempt(tree: &Path, operation: FlockOperation) -> Result<Option<Self>, StoreError> {
        let Some(dir) = tree.parent() else { return Ok(None) };
        let fd = match crate::base::file::open_dir(dir) {
            Ok(fd) => fd,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(StoreError::io("open", dir)(e)),
        };
        loop {
            match rustix::fs::flock(&fd, operation) {
                Ok(()) => break,
                Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(e) => return Err(StoreError::errno("lock", dir)(e)),
            }
        }
        let lock = Self(fd);
        // Whoever had the lock before may have taken the tree.
        Ok(tree.is_dir().then_some(lock))
    }
}

impl Drop for TreeLock {
    fn drop(&mut self) {
        // Closing is not enough: a process that is being forked at this moment has a copy until it calls exec.
        let _ = rustix::fs::flock(&self.0, FlockOperation::Unlock);
    }
}

impl Store {
    /// The tree of `chain`, made if it is missing; nothing for an empty chain. With `last` a tree below that nobody else needs
    /// may be taken for that.
    pub(super) fn hold_tree(
        &self,
        chain: &[LayerId],
        last: bool,
        snapshotter: &dyn Snapshotter,
    ) -> Result<Held, StoreError> {
        if chain.is_empty() {
            return Ok(Held::default());
        }
        loop {
            if let Some(held) = self.held(chain)? {
                return Ok(held);
            }
            // One copy, then all missing layers into it: the trees between are made when somebody asks for them. The copied
            // tree can be taken by somebody else meanwhile.
            let first = self.first_missing(chain)?;
            if first < chain.len() {
                self.unpack_tree(chain, first, last, snapshotter)?;
            }
        }
    }

    /// Makes the tree of `chain` from that of its first `first` layers and the blobs of the others.
    fn unpack_tree(
        &self,
        chain: &[LayerId],
        first: usize,
        last: bool,
        snapshotter: &dyn Snapshotter,
    ) -> Result<(), StoreError> {
        let (key, dialect) = (snapshotter.key(chain), self.dialect()?);
        let _lock = self.dir_lock(&key, &dialect)?;
        // Somebody else may have done it while we waited.
        if self.find_dir(chain)?.is_some() {
            return Ok(());
        }
        let (below, layers) = chain.split_at(first);
        let Some(top) = layers.last() else { return Ok(()) };
        let scratch = self.owner()?.dir("layer")?;
        let target = scratch.join("fs");
        let make = || {
            if !(last && self.take_tree(below, &target)?) {
                let held = match below {
                    [] => Held::default(),
                    // Where it is gone, the caller looks again for what there is.
                    below => match self.held(below)? {
                        Some(held) => held,
                        None => return Ok(()),
                    },
                };
                fs::create_dir(&target).map_err(StoreError::io("create", &target))?;
                snapshotter.prepare(&target, &held.dirs).map_err(StoreError::io("prepare", &target))?;
            }
            let exact = self.unpack_into(&target, &[], layers, snapshotter)?;
            self.inner
                .meta
                .write("add a tree", |tx| self.adopt_dir(tx, &scratch, top, &key, &dialect, None).map(drop))?;
            if exact && top.is_committed() && tells_changes(&self.inner.layout.snapshots())? {
                self.note_fresh(key.clone(), None);
            }
            Ok(())
        };
        let made = make();
        // Unless it was adopted.
        let _ = remove_tree(&scratch);
        made
    }

    /// The tree of `chain` with a lock that keeps it from being taken; `None` if there is none.
    fn held(&self, chain: &[LayerId]) -> Result<Option<Held>, StoreError> {
        let Some(dir) = self.find_dir(chain)? else { return Ok(None) };
        // Who takes a tree holds it for a moment only.
        let lock = TreeLock::attempt(&dir.path, FlockOperation::LockShared)?;
        Ok(lock.map(|lock| Held { dirs: vec![dir.path], _lock: Some(lock) }))
    }

    /// Moves the tree of `chain` to `target`, if it is one that this process made and that nobody uses now.
    pub(super) fn take_tree(&self, chain: &[LayerId], target: &Path) -> Result<bool, StoreError> {
        let snapshotter = self.snapshotter()?;
        let key = snapshotter.key(chain);
        let Some(top) = chain.last().filter(|top| top.is_committed()) else { return Ok(false) };
        if snapshotter.per_layer() || !self.fresh().contains_key(&key) {
            return Ok(false);
        }
        let Some(dir) = self.find_dir(chain)? else { return Ok(false) };
        self.local_stream(top)?;
        if self.tree_index(top)?.is_none() {
            return Ok(false);
        }
        let operation = FlockOperation::NonBlockingLockExclusive;
        let Some(_lock) = TreeLock::attempt(&dir.path, operation)? else { return Ok(false) };
        let Some(home) = dir.path.parent() else { return Ok(false) };
        let name = home.file_name().unwrap_or_default().to_string_lossy();
        let taken = self.inner.meta.write("take a tree", |tx| {
            if tx.execute("DELETE FROM dirs WHERE name = ?1", [&name])? == 0 {
                return Ok(false);
            }
            fs::rename(&dir.path, target).map_err(StoreError::io("rename", target))?;
            Ok(true)
        })?;
        if taken {
            self.fresh().remove(&key);
            // What remains is empty; left there, the sweep takes it.
            let _ = fs::remove_dir(home);
        }
        Ok(taken)
    }

    /// Notes that this process made the tree of a chain, and where its directories were before it changed.
    pub(super) fn note_fresh(&self, key: String, places: Option<Arc<Places>>) {
        self.fresh().insert(key, places);
    }

    /// What the tree of `parents` and `top` has to be compared with for the layer `top`.
    pub(super) fn against(
        &self,
        chain: &[LayerId],
        dir: &Dir,
        parents: &[LayerId],
    ) -> Result<(Held, Against), StoreError> {
        let snapshotter = self.snapshotter()?;
        if snapshotter.per_layer() {
            let held = self.materialise(parents)?;
            let against = Against { dirs: held.dirs.clone(), ..Against::default() };
            return Ok((held, against));
        }
        let places = self.fresh().get(&snapshotter.key(chain)).cloned().flatten();
        let hints = TreeHints { untouched_before: dir.copied_at, places: places.filter(|_| dir.copied_at.is_some()) };
        let (held, layers) = match self.told(parents)? {
            Some(told) => told,
            None => (self.hold_tree(parents, false, &*snapshotter)?, Vec::new()),
        };
        let against = Against { dirs: held.dirs.clone(), layers, hints };
        Ok((held, against))
    }

    /// A chain as the highest tree that is there and what the layers above it say; `None` if that is not known exactly.
    fn told(&self, chain: &[LayerId]) -> Result<Option<(Held, Vec<TreeIndex>)>, StoreError> {
        let first = self.first_missing(chain)?;
        let (below, above) = chain.split_at(first);
        // What a foreign layer says may not be what its tree is: some owners and devices cannot be made everywhere.
        if !above.iter().all(LayerId::is_committed) {
            return Ok(None);
        }
        let held = match below {
            [] => Held::default(),
            below => match self.held(below)? {
                Some(held) => held,
                None => return Ok(None),
            },
        };
        let indexes = above.iter().map(|id| self.tree_index(id)).collect::<Result<Option<Vec<_>>, _>>()?;
        Ok(indexes.map(|indexes| (held, indexes)))
    }

    fn fresh(&self) -> std::sync::MutexGuard<'_, super::FreshTrees> {
        self.inner.fresh.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
