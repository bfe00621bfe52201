//! Directories of work in progress, and what remains of them when their owner died.
//!
//! Each process that writes has `tmp/<name>/`, alive as long as the lock of `tmp/<name>.lock` is held. What a dead
//! owner left goes to `trash/`, which a background thread empties; so does everything the collector takes out.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, OnceLock, PoisonError};

use rusqlite::Transaction;

use super::lock::{FileLock, Mode};
use super::snapshot::detach;
use super::tree::remove_tree;
use super::{Store, StoreError, random_name};

/// What to do while another process empties the trash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Wait for it.
    Wait,
    /// Leave it to it.
    Skip,
}

/// This process's directory of work in progress.
#[derive(Debug)]
pub(crate) struct Owner {
    dir: PathBuf,
    next: AtomicU64,
    _lock: FileLock,
}

impl Owner {
    fn create(tmp: &Path) -> Result<Self, StoreError> {
        let name = random_name()?;
        // The lock before the directory, and gone after it: a directory without a lock is garbage.
        let lock = FileLock::wait(&tmp.join(format!("{name}.lock")), Mode::Exclusive)?;
        let dir = tmp.join(name);
        fs::create_dir(&dir).map_err(StoreError::io("create", &dir))?;
        Ok(Self { dir, next: AtomicU64::new(0), _lock: lock })
    }

    /// A path that does not exist yet.
    pub(crate) fn path(&self, prefix: &str) -> PathBuf {
        self.dir.join(format!("{prefix}{}", self.next.fetch_add(1, Ordering::Relaxed)))
    }

    /// A new directory.
    pub(crate) fn dir(&self, prefix: &str) -> Result<PathBuf, StoreError> {
        let path = self.path(prefix);
        fs::create_dir(&path).map_err(StoreError::io("create", &path))?;
        Ok(path)
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        // Empty unless something is leaked; then the next open finds a dead owner.
        let _ = remove_tree(&self.dir);
    }
}

/// Removes leftovers of views in the background: deleting a handful of directories can cost more than the mount did.
/// What is not done when the process ends is taken by the sweep of a dead owner.
#[derive(Debug, Default)]
pub(crate) struct Janitor(OnceLock<Option<Sender<PathBuf>>>);

impl Janitor {
    /// Removes `path` soon.
    pub(crate) fn remove(&self, path: PathBuf) {
        let sender = self.0.get_or_init(|| {
            let (sender, paths) = channel::<PathBuf>();
            let work = move || paths.iter().for_each(|path| drop(remove_tree(&path)));
            std::thread::Builder::new().name("janitor".into()).spawn(work).ok().map(|_| sender)
        });
        let refused = match sender {
            Some(sender) => sender.send(path).err().map(|e| e.0),
            None => Some(path),
        };
        if let Some(path) = refused {
            let _ = remove_tree(&path);
        }
    }
}

impl Store {
    /// This process's directory of work in progress.
    pub(crate) fn owner(&self) -> Result<Arc<Owner>, StoreError> {
        let mut owner = self.inner.owner.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(owner) = &*owner {
            return Ok(owner.clone());
        }
        let created = Arc::new(Owner::create(&self.inner.layout.tmp())?);
        *owner = Some(created.clone());
        Ok(created)
    }

    /// Moves what dead owners left into the trash and empties that in the background. Cheap when there is nothing.
    pub(crate) fn sweep_dead_owners(&self) -> Result<(), StoreError> {
        let layout = &self.inner.layout;
        let mut found = false;
        let names: HashSet<PathBuf> = list(&layout.tmp())?.into_iter().collect();
        for path in &names {
            if path.extension().is_some_and(|e| e == "lock") {
                let Some(lock) = FileLock::take_over(path)? else { continue };
                self.discard_owner(&path.with_extension(""))?;
                drop(lock);
                found = true;
            } else if !names.contains(&path.with_extension("lock")) && !path.with_extension("lock").exists() {
                // Listing is not atomic: the second look sees a lock that was made meanwhile.
                self.discard_owner(path)?;
                found = true;
            }
        }
        if found {
            // Somebody was killed: perhaps between a rename and its commit.
            self.sweep_orphans()?;
        }
        if !list(&layout.trash())?.is_empty() {
            let store = self.clone();
            // Without the thread the trash waits for `prune`.
            let _ = std::thread::Builder::new().name("sweep".into()).spawn(move || {
                let _ = store.empty_trash(Patience::Skip);
            });
        }
        Ok(())
    }

    fn discard_owner(&self, dir: &Path) -> Result<(), StoreError> {
        // Its mounts outlive it if it had no mount namespace of its own.
        detach_below(dir);
        self.recall_mounts(dir)?;
        self.to_trash(dir)
    }

    /// Moves `path` into the trash; nothing happens if it is gone.
    pub(crate) fn to_trash(&self, path: &Path) -> Result<(), StoreError> {
        let to = self.inner.layout.trash().join(random_name()?);
        match fs::rename(path, &to) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(StoreError::io("move to the trash", path)),
        }
    }

    /// Deletes what is in the trash. Another process may be at it.
    pub(crate) fn empty_trash(&self, patience: Patience) -> Result<(), StoreError> {
        let layout = &self.inner.layout;
        let path = layout.locks().join("trash");
        let lock = match patience {
            Patience::Wait => Some(FileLock::wait(&path, Mode::Exclusive)?),
            Patience::Skip => FileLock::attempt(&path, Mode::Exclusive)?,
        };
        if lock.is_none() {
            return Ok(());
        }
        let mut failed = Ok(());
        for path in list(&layout.trash())? {
            let removed = remove_tree(&path).or_else(|_| {
                detach_below(&path);
                remove_tree(&path)
            });
            // What one id map cannot delete another one made; the rest goes all the same.
            if let Err(e) = removed {
                failed = Err(StoreError::io("remove", &path)(e));
            }
        }
        failed
    }

    /// Moves files that no row knows into the trash: what was renamed into place by a process killed before its
    /// commit. Runs in a write transaction, as every such rename does.
    pub(crate) fn sweep_orphans(&self) -> Result<(), StoreError> {
        self.inner.meta.write("sweep orphans", |tx| {
            let layout = &self.inner.layout;
            let known = strings(tx, "SELECT name FROM dirs")?;
            self.trash_unknown(&layout.snapshots(), |name| known.contains(name))?;
            let known = strings(tx, "SELECT digest FROM blobs")?;
            for algorithm in list(&layout.blobs())? {
                let prefix = algorithm.file_name().unwrap_or_default().to_string_lossy().into_owned();
                self.trash_unknown(&algorithm, |name| known.contains(&format!("{prefix}:{name}")))?;
            }
            let known = strings(tx, "SELECT diff_id FROM layers WHERE diff_id IS NOT NULL")?;
            self.trash_unknown(&layout.indexes(), |name| known.contains(&format!("sha256:{name}")))?;
            let known = strings(tx, "SELECT name FROM mounts")?;
            self.trash_unknown(&layout.mounts(), |name| known.contains(name))?;
            Ok(())
        })
    }

    fn trash_unknown(&self, dir: &Path, known: impl Fn(&str) -> bool) -> Result<(), StoreError> {
        for path in list(dir)? {
            if !path.file_name().and_then(|n| n.to_str()).is_some_and(&known) {
                self.to_trash(&path)?;
            }
        }
        Ok(())
    }
}

fn strings(tx: &Transaction<'_>, query: &str) -> rusqlite::Result<HashSet<String>> {
    tx.prepare_cached(query)?.query_map([], |row| row.get(0))?.collect()
}

/// Detaches every mount below `dir` that this mount namespace has, the latest first.
pub(crate) fn detach_below(dir: &Path) {
    let Ok(table) = fs::read_to_string("/proc/self/mountinfo") else { return };
    let mountpoints = table.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape);
    let below: Vec<PathBuf> = mountpoints.filter(|path| path.starts_with(dir)).collect();
    for path in below.iter().rev() {
        let _ = detach(path);
    }
}

/// Paths in `mountinfo` have blanks, tabs, line feeds and backslashes as three octal digits.
fn unescape(text: &str) -> PathBuf {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let code = (*first == b'\\').then(|| std::str::from_utf8(tail.get(..3)?).ok()).flatten();
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = &tail[3..];
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsString::from_vec(out))
}

/// The paths in a directory; none if it does not exist.
pub(crate) fn list(dir: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(Vec::new()),
        Err(e) => return Err(StoreError::io("list", dir)(e)),
    };
    entries.map(|e| e.map(|e| e.path()).map_err(StoreError::io("list", dir))).collect()
}
