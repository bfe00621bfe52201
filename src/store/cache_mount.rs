//! Persistent directories of `RUN --mount=type=cache` (SPEC C4.10).
//!
//! A mount's files belong to the id map they were made with, so each map has its own. `shared` holders share a lock,
//! `locked` ones wait for it alone, and `private` ones take the first instance that nobody uses. The lock is also what
//! keeps a mount in use from being pruned.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::base::Digest;

use super::lock::{FileLock, Mode};
use super::meta::now;
use super::{Store, StoreError};

/// How several steps may use a cache mount at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sharing {
    /// All at once.
    #[default]
    Shared,
    /// Each its own instance.
    Private,
    /// One after the other.
    Locked,
}

/// Fills a new cache mount, whose directory it is given.
pub type Seed<'a> = &'a mut dyn FnMut(&Path) -> io::Result<()>;

/// A cache mount in use; dropped when the step has ended.
#[derive(Debug)]
pub struct CacheMount {
    path: PathBuf,
    _lock: FileLock,
}

impl CacheMount {
    /// The directory to bind.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Store {
    /// Opens the cache mount `id`, creating it if it does not exist. `seed` fills a new one (`from=`, `mode=`, `uid=`);
    /// without it the directory is empty and has mode 0755. Waits for its turn with [`Sharing::Locked`].
    ///
    /// # Errors
    /// If the directory cannot be made, or what `seed` says.
    pub fn cache_mount(&self, id: &str, sharing: Sharing, seed: Option<Seed<'_>>) -> Result<CacheMount, StoreError> {
        let (name, lock) = self.lock_mount(id, sharing)?;
        let path = self.inner.layout.mounts().join(&name).join("fs");
        if !path.is_dir() {
            // Two shared holders may both be here: one makes it, the other finds it made.
            let making = self.mount_lock_path(&format!("{name}-new"));
            let _making = FileLock::wait(&making, Mode::Exclusive)?;
            if !path.is_dir() {
                self.make_mount(id, &name, seed)?;
            }
        }
        self.inner.meta.write("use a cache mount", |tx| {
            tx.execute(
                "INSERT INTO mounts (name, id, created, last_used, usage) VALUES (?1, ?2, ?3, ?3, 1)
                 ON CONFLICT (name) DO UPDATE SET last_used = ?3, usage = usage + 1",
                (&name, id, now()),
            )?;
            Ok(())
        })?;
        Ok(CacheMount { path, _lock: lock })
    }

    fn lock_mount(&self, id: &str, sharing: Sharing) -> Result<(String, FileLock), StoreError> {
        let base = Digest::sha256(format!("{id} {}", self.id_map()?));
        let name = |instance: u32| format!("{}-{instance}", &base.hex()[..32]);
        let path = |instance: u32| self.mount_lock_path(&name(instance));
        Ok(match sharing {
            Sharing::Shared => (name(0), FileLock::wait(&path(0), Mode::Shared)?),
            Sharing::Locked => (name(0), FileLock::wait(&path(0), Mode::Exclusive)?),
            Sharing::Private => {
                let mut instance = 0;
                loop {
                    if let Some(lock) = FileLock::attempt(&path(instance), Mode::Exclusive)? {
                        break (name(instance), lock);
                    }
                    instance += 1;
                }
            }
        })
    }

    /// Everything of the dialect but the snapshotter: cache mounts are plain directories with both.
    fn id_map(&self) -> Result<String, StoreError> {
        let dialect = self.dialect()?;
        Ok(dialect.split_once(' ').map_or(String::new(), |(_, map)| map.to_owned()))
    }

    pub(crate) fn mount_lock_path(&self, name: &str) -> PathBuf {
        self.inner.layout.locks().join("mount").join(name)
    }

    fn make_mount(&self, id: &str, name: &str, seed: Option<Seed<'_>>) -> Result<(), StoreError> {
        let scratch = self.owner()?.dir("mount")?;
        let tree = scratch.join("fs");
        fs::create_dir(&tree)
            .and_then(|()| fs::set_permissions(&tree, fs::Permissions::from_mode(0o755)))
            .map_err(StoreError::io("create", &tree))?;
        if let Some(seed) = seed {
            seed(&tree).map_err(StoreError::io("fill", &tree))?;
        }
        let target = self.inner.layout.mounts().join(name);
        self.inner.meta.write("add a cache mount", |tx| {
            fs::rename(&scratch, &target).map_err(StoreError::io("rename", &target))?;
            tx.execute(
                "INSERT OR REPLACE INTO mounts (name, id, created, last_used, usage) VALUES (?1, ?2, ?3, ?3, 0)",
                (name, id, now()),
            )?;
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::store;

    #[test]
    fn c4_10_a_mount_persists_and_is_seeded_once() {
        let (_dir, store) = store();
        let mut seeded = 0;
        for _ in 0..2 {
            let mut seed = |path: &Path| {
                seeded += 1;
                fs::write(path.join("seed"), "x")
            };
            let mount = store.cache_mount("/root/.cache", Sharing::Shared, Some(&mut seed)).expect("opens");
            assert!(mount.path().join("seed").is_file());
            fs::write(mount.path().join("mine"), "x").expect("writes");
        }
        assert_eq!(seeded, 1);
        let other = store.cache_mount("other", Sharing::Shared, None).expect("opens");
        assert_eq!(fs::read_dir(other.path()).expect("lists").count(), 0);
    }

    #[test]
    fn c4_10_sharing_modes() {
        let (_dir, store) = store();
        let open = |sharing| store.cache_mount("id", sharing, None).expect("opens");
        let (a, b) = (open(Sharing::Shared), open(Sharing::Shared));
        assert_eq!(a.path(), b.path());
        let private = open(Sharing::Private);
        assert_ne!(private.path(), a.path());
        drop((a, b));
        let locked = open(Sharing::Locked);
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let _next = open(Sharing::Locked);
                sender.send(()).expect("is received");
            });
            let early = receiver.recv_timeout(std::time::Duration::from_millis(100));
            assert!(early.is_err(), "two locked holders at once");
            drop(locked);
            receiver.recv_timeout(std::time::Duration::from_secs(10)).expect("is its turn");
        });
    }

    #[test]
    fn a_failed_seed_leaves_nothing() {
        let (_dir, store) = store();
        let mut seed = |_: &Path| Err(io::Error::other("no"));
        assert!(store.cache_mount("id", Sharing::Shared, Some(&mut seed)).is_err());
        assert_eq!(fs::read_dir(store.root().join("mounts")).expect("lists").count(), 0);
    }
}
