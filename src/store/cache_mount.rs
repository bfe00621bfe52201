//! Persistent directories of `RUN --mount=type=cache` (SPEC C4.10), and copies of git repositories.
//!
//! A mount's files belong to the id map they were made with, so each map has its own. `shared` holders share a lock,
//! `locked` ones wait for it alone, and `private` ones take the first instance that nobody uses. The lock is also what
//! keeps a mount in use from being pruned.
//!
//! Where nothing can be mounted the directory itself moves into the step's root and back ([`CacheMount::lend`]). A note
//! beside it says where it is, so that the sweep of a killed owner, or the next user, fetches it back.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use rusqlite::OptionalExtension as _;
use rustix::fs::{AtFlags, CWD, FileType, Mode as FsMode, OFlags, RenameFlags};
use serde::{Deserialize, Serialize};

use crate::base::Digest;
use crate::base::file::{open_dir, open_in_root};

use super::lock::{FileLock, Mode};
use super::meta::{from_nanos, now};
use super::part::part;
use super::tree::remove_tree;
use super::{Store, StoreError};

/// What the names of git repositories begin with; no cache mount's does.
const GIT: &str = "git-";

/// Whether the directory of this name below `mounts` is a git repository.
pub(crate) fn is_git_repository(name: &str) -> bool {
    name.starts_with(GIT)
}

/// How several steps may use a cache mount at once; the stricter, the greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Sharing {
    /// All at once.
    #[default]
    Shared,
    /// Each its own instance.
    Private,
    /// One after the other.
    Locked,
}

/// Makes the directory of a new cache mount, with what is in it; one that is not made is an empty one of mode 0755.
pub type Seed<'a> = &'a mut dyn FnMut(&Path) -> io::Result<()>;

/// A cache mount in use; dropped when the step has ended.
#[derive(Debug)]
pub struct CacheMount {
    path: PathBuf,
    _lock: FileLock,
}

/// What there is of a cache mount, for whoever copies it.
#[derive(Debug)]
pub enum HeldMount {
    /// Nothing.
    Missing,
    /// Others use it.
    Busy,
    /// It, held alone.
    Here {
        /// The mount.
        mount: CacheMount,
        /// When a step last opened it.
        used: SystemTime,
    },
}

/// Where a lent directory is: the file `lent` beside it.
#[derive(Debug, Serialize, Deserialize)]
struct Lent {
    /// The root of the tree it was put into.
    root: PathBuf,
    /// Its name there, without symlinks.
    path: PathBuf,
    inode: u64,
}

/// The name of the note.
const LENT: &str = "lent";

impl CacheMount {
    /// The directory to bind.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Moves the directory to `path` (relative, without symlinks, not there yet) inside `root`, on the same file system.
    ///
    /// # Errors
    /// The file system's.
    pub fn lend(&self, root: &Path, path: &Path) -> io::Result<()> {
        let note = self.path.with_file_name(LENT);
        let inode = fs::symlink_metadata(&self.path)?.ino();
        let lent = Lent { root: root.to_path_buf(), path: path.to_path_buf(), inode };
        crate::base::file::write_atomic(&note, &serde_json::to_vec(&lent)?)?;
        let moved = parent_in(root, path).and_then(|(dir, name)| {
            Ok(rustix::fs::renameat_with(CWD, &self.path, &dir, name, RenameFlags::NOREPLACE)?)
        });
        if moved.is_err() {
            let _ = fs::remove_file(&note);
        }
        moved
    }

    /// Moves the directory back. Whether it was still where it had been put: a step can remove it or move it away, which
    /// a mount would have refused. What the step linked into the tree, or out of it, is a file of its own afterwards: between a
    /// mount and a tree there are no links.
    ///
    /// # Errors
    /// The file system's. Where files could not be parted the cache is lost: it must not change what a layer is.
    pub fn take_back(&self) -> io::Result<bool> {
        if !recall(&self.path)? {
            return Ok(false);
        }
        if let Err(error) = part(&self.path, &self.path.with_file_name("parting")) {
            let _ = remove_tree(&self.path);
            return Err(error);
        }
        Ok(true)
    }
}

/// Fetches a lent directory back to `path`; whether it is there now.
fn recall(path: &Path) -> io::Result<bool> {
    let note = path.with_file_name(LENT);
    let lent: Lent = match fs::read(&note) {
        Ok(text) => serde_json::from_slice(&text)?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(path.is_dir()),
        Err(e) => return Err(e),
    };
    if !path.exists()
        && let Ok((dir, name)) = parent_in(&lent.root, &lent.path)
        // The tree is one that a step filled: only the directory itself will do.
        && rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|s| s.st_ino == lent.inode && FileType::from_raw_mode(s.st_mode) == FileType::Directory)
    {
        rustix::fs::renameat(&dir, name, CWD, path)?;
    }
    fs::remove_file(&note)?;
    Ok(path.is_dir())
}

/// The directory that holds `path` inside `root`, opened, and the last name.
fn parent_in<'a>(root: &Path, path: &'a Path) -> io::Result<(OwnedFd, &'a OsStr)> {
    let name = path.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let root = open_dir(root)?;
    let parent = path.parent().unwrap_or(Path::new(""));
    Ok((open_in_root(&root, parent, OFlags::PATH | OFlags::DIRECTORY, FsMode::empty())?, name))
}

impl Store {
    /// Opens the cache mount `id`, creating it if it does not exist. `seed` makes a new one (`from=`, `mode=`, `uid=`);
    /// without it the directory is empty and has mode 0755. Waits for its turn with [`Sharing::Locked`].
    ///
    /// # Errors
    /// If the directory cannot be made, or what `seed` says.
    pub fn cache_mount(&self, id: &str, sharing: Sharing, seed: Option<Seed<'_>>) -> Result<CacheMount, StoreError> {
        self.open_mount("", id, sharing, seed)
    }

    /// The directory for a copy of the git repository called `id`, for one user at a time. No step can name it: what is
    /// in it must not come from a build.
    ///
    /// # Errors
    /// If the directory cannot be made.
    pub fn git_repository(&self, id: &str) -> Result<CacheMount, StoreError> {
        self.open_mount(GIT, id, Sharing::Locked, None)
    }

    /// Holds the first instance of the cache mount `id` alone, without using it. Waits for others so long.
    ///
    /// # Errors
    /// If the locks or the metadata cannot be read.
    pub fn hold_mount(&self, id: &str, patience: Duration) -> Result<HeldMount, StoreError> {
        let name = self.mount_name("", id, 0)?;
        let path = self.inner.layout.mounts().join(&name).join("fs");
        let started = Instant::now();
        let lock = loop {
            match FileLock::attempt(&self.mount_lock_path(&name), Mode::Exclusive)? {
                Some(lock) => break lock,
                None if started.elapsed() >= patience => return Ok(HeldMount::Busy),
                None => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        if !path.is_dir() && !recall(&path).map_err(StoreError::io("fetch back", &path))? {
            return Ok(HeldMount::Missing);
        }
        let used: Option<i64> = self.inner.meta.read("look up a cache mount", |c| {
            c.prepare_cached("SELECT last_used FROM mounts WHERE name = ?1")?
                .query_row([&name], |row| row.get(0))
                .optional()
        })?;
        let used = used.map_or(SystemTime::UNIX_EPOCH, from_nanos);
        Ok(HeldMount::Here { mount: CacheMount { path, _lock: lock }, used })
    }

    fn open_mount(
        &self,
        prefix: &str,
        id: &str,
        sharing: Sharing,
        seed: Option<Seed<'_>>,
    ) -> Result<CacheMount, StoreError> {
        let (name, lock) = self.lock_mount(prefix, id, sharing)?;
        let path = self.inner.layout.mounts().join(&name).join("fs");
        // Who lent it holds the lock alone, so a note that is still there is a killed one's.
        if !path.is_dir() && !recall(&path).map_err(StoreError::io("fetch back", &path))? {
            // Two shared holders may both be here: one makes it, the other finds it made.
            let making = self.mount_lock_path(&format!("{name}-new"));
            let _making = FileLock::wait(&making, Mode::Exclusive)?;
            if !path.is_dir() {
                // Its directory was lost in a step.
                self.to_trash(&self.inner.layout.mounts().join(&name))?;
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

    /// Fetches back what was lent into `dir`, which is about to be deleted.
    pub(crate) fn recall_mounts(&self, dir: &Path) -> Result<(), StoreError> {
        for mount in super::sweep::list(&self.inner.layout.mounts())? {
            let Ok(text) = fs::read(mount.join(LENT)) else { continue };
            let Ok(lent) = serde_json::from_slice::<Lent>(&text) else { continue };
            let name = mount.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if lent.root.starts_with(dir) {
                let _lock = FileLock::wait(&self.mount_lock_path(&name), Mode::Exclusive)?;
                let path = mount.join("fs");
                recall(&path).map_err(StoreError::io("fetch back", &path))?;
            }
        }
        Ok(())
    }

    fn mount_name(&self, prefix: &str, id: &str, instance: u32) -> Result<String, StoreError> {
        let base = Digest::sha256(format!("{id} {}", self.id_map()?));
        Ok(format!("{prefix}{}-{instance}", &base.hex()[..32]))
    }

    fn lock_mount(&self, prefix: &str, id: &str, sharing: Sharing) -> Result<(String, FileLock), StoreError> {
        let mut name = self.mount_name(prefix, id, 0)?;
        let lock = match sharing {
            Sharing::Shared => FileLock::wait(&self.mount_lock_path(&name), Mode::Shared)?,
            Sharing::Locked => FileLock::wait(&self.mount_lock_path(&name), Mode::Exclusive)?,
            Sharing::Private => {
                let mut instance = 0;
                loop {
                    if let Some(lock) = FileLock::attempt(&self.mount_lock_path(&name), Mode::Exclusive)? {
                        break lock;
                    }
                    instance += 1;
                    name = self.mount_name(prefix, id, instance)?;
                }
            }
        };
        Ok((name, lock))
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
        if let Some(seed) = seed {
            seed(&tree).map_err(StoreError::io("fill", &tree))?;
        }
        match fs::symlink_metadata(&tree) {
            Ok(made) if made.is_dir() => {}
            Ok(_) => {
                let error = io::Error::new(io::ErrorKind::NotADirectory, "its source is not a directory");
                return Err(StoreError::io("fill", &tree)(error));
            }
            Err(_) => fs::create_dir(&tree)
                .and_then(|()| fs::set_permissions(&tree, fs::Permissions::from_mode(0o755)))
                .map_err(StoreError::io("create", &tree))?,
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
                fs::create_dir(path)?;
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
    fn c4_10_a_lent_mount_comes_back_from_a_killed_owner() {
        let (_dir, store) = store();
        let mount = store.cache_mount("id", Sharing::Locked, None).expect("opens");
        fs::write(mount.path().join("kept"), "x").expect("writes");
        let root = store.owner().expect("an owner").dir("view").expect("a directory");
        fs::create_dir(root.join("a")).expect("creates");
        mount.lend(&root, Path::new("a/cache")).expect("lends");
        assert!(root.join("a/cache/kept").is_file() && !mount.path().exists());
        // As if killed: the lock is free, the note is there.
        let path = mount.path().to_path_buf();
        drop(mount);
        store.recall_mounts(&root).expect("recalls");
        assert!(path.join("kept").is_file() && !root.join("a/cache").exists());
        assert_eq!(fs::read_dir(path.parent().expect("has one")).expect("lists").count(), 1, "no note is left");

        // The next user finds it as well.
        let mount = store.cache_mount("id", Sharing::Locked, None).expect("opens");
        mount.lend(&root, Path::new("a/cache")).expect("lends");
        drop(mount);
        let mount = store.cache_mount("id", Sharing::Locked, None).expect("opens");
        assert!(mount.path().join("kept").is_file());
    }

    #[test]
    fn c4_10_a_step_that_swaps_a_lent_mount_for_a_link_gains_nothing() {
        let (_dir, store) = store();
        let mount = store.cache_mount("id", Sharing::Locked, None).expect("opens");
        let root = store.owner().expect("an owner").dir("view").expect("a directory");
        mount.lend(&root, Path::new("cache")).expect("lends");
        fs::rename(root.join("cache"), root.join("elsewhere")).expect("renames");
        std::os::unix::fs::symlink("/etc", root.join("cache")).expect("links");
        assert!(!mount.take_back().expect("looks"), "it is gone");
        assert!(!mount.path().exists());
        drop(mount);
        let mount = store.cache_mount("id", Sharing::Locked, None).expect("opens a new one");
        assert_eq!(fs::read_dir(mount.path()).expect("lists").count(), 0);
    }

    #[test]
    fn no_step_can_name_a_git_repository() {
        let (_dir, store) = store();
        let repository = store.git_repository("https://host.example/a.git").expect("opens");
        let mount = store.cache_mount("https://host.example/a.git", Sharing::Shared, None).expect("opens");
        assert_ne!(repository.path(), mount.path());
        drop((repository, mount));
        let usage = store.disk_usage().expect("lists");
        let kinds: Vec<&str> = usage.iter().map(|u| u.kind.name()).filter(|k| *k != "internal").collect();
        assert_eq!(kinds.len(), 2, "{kinds:?}");
        assert!(kinds.contains(&"source.git.checkout") && kinds.contains(&"exec.cachemount"), "{kinds:?}");
    }

    #[test]
    fn a_failed_seed_leaves_nothing() {
        let (_dir, store) = store();
        let mut seed = |_: &Path| Err(io::Error::other("no"));
        assert!(store.cache_mount("id", Sharing::Shared, Some(&mut seed)).is_err());
        assert_eq!(fs::read_dir(store.root().join("mounts")).expect("lists").count(), 0);
    }
}
