//! `flock` files: the only sign of life and the only long exclusion between processes.
//!
//! Never process ids (pods share volumes, not pid namespaces). A lock file is removed by its holder; whoever then
//! gets the lock of a removed file notices and starts again with the new one.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::StoreError;

/// Shared or exclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Shared,
    Exclusive,
}

/// A held lock. Dropping it releases it.
#[derive(Debug)]
pub(crate) struct FileLock {
    file: File,
    path: PathBuf,
    remove: bool,
}

impl FileLock {
    /// Waits for the lock on `path`, which is created if it is missing and removed on release by an exclusive holder.
    pub(crate) fn wait(path: &Path, mode: Mode) -> Result<Self, StoreError> {
        loop {
            let file = open(path)?;
            let operation =
                if mode == Mode::Shared { FlockOperation::LockShared } else { FlockOperation::LockExclusive };
            match rustix::fs::flock(&file, operation) {
                Ok(()) => {}
                Err(Errno::INTR) => continue,
                Err(e) => return Err(StoreError::errno("lock", path)(e)),
            }
            if is_current(&file, path)? {
                return Ok(Self { file, path: path.to_path_buf(), remove: mode == Mode::Exclusive });
            }
        }
    }

    /// The same without waiting: `None` if somebody else holds it.
    pub(crate) fn attempt(path: &Path, mode: Mode) -> Result<Option<Self>, StoreError> {
        loop {
            let file = open(path)?;
            if !try_flock(&file, path, mode)? {
                return Ok(None);
            }
            if is_current(&file, path)? {
                return Ok(Some(Self { file, path: path.to_path_buf(), remove: mode == Mode::Exclusive }));
            }
        }
    }

    /// The lock of an existing file, if its holder is gone; `None` if it lives, or if the file is gone.
    pub(crate) fn take_over(path: &Path) -> Result<Option<Self>, StoreError> {
        let file = match OpenOptions::new().read(true).open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(StoreError::io("open", path)(e)),
        };
        if !try_flock(&file, path, Mode::Exclusive)? || !is_current(&file, path)? {
            return Ok(None);
        }
        Ok(Some(Self { file, path: path.to_path_buf(), remove: true }))
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        if self.remove {
            // Before the descriptor is closed: nobody can hold the lock of the same name by then.
            let _ = fs::remove_file(&self.path);
        }
        release(&self.file);
    }
}

/// Whether the file at `path` is locked by somebody who lives.
pub(crate) fn is_held(path: &Path) -> Result<bool, StoreError> {
    match OpenOptions::new().read(true).open(path) {
        Ok(file) => {
            let free = try_flock(&file, path, Mode::Exclusive)?;
            release(&file);
            Ok(!free)
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(StoreError::io("open", path)(e)),
    }
}

/// Closing is not enough: a process being forked at this moment has a copy of the descriptor until it calls exec.
fn release(file: &File) {
    let _ = rustix::fs::flock(file, FlockOperation::Unlock);
}

fn try_flock(file: &File, path: &Path, mode: Mode) -> Result<bool, StoreError> {
    let operation = match mode {
        Mode::Shared => FlockOperation::NonBlockingLockShared,
        Mode::Exclusive => FlockOperation::NonBlockingLockExclusive,
    };
    loop {
        match rustix::fs::flock(file, operation) {
            Ok(()) => return Ok(true),
            Err(Errno::INTR) => {}
            Err(Errno::WOULDBLOCK) => return Ok(false),
            Err(e) => return Err(StoreError::errno("lock", path)(e)),
        }
    }
}

fn open(path: &Path) -> Result<File, StoreError> {
    let open = || OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
    match open() {
        // The directory can be missing in a store whose reset was interrupted.
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            if let Some(dir) = path.parent() {
                fs::create_dir_all(dir).map_err(StoreError::io("create", dir))?;
            }
            open()
        }
        other => other,
    }
    .map_err(StoreError::io("open", path))
}

/// Whether `file` is still what `path` names, and not one that its last holder removed.
fn is_current(file: &File, path: &Path) -> Result<bool, StoreError> {
    let ours = file.metadata().map_err(StoreError::io("examine", path))?;
    match fs::metadata(path) {
        Ok(named) => Ok((ours.dev(), ours.ino()) == (named.dev(), named.ino())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(StoreError::io("examine", path)(e)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn a_lock_excludes_and_leaves_nothing() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("locks/a");
        let held = FileLock::wait(&path, Mode::Exclusive).expect("locks");
        assert!(FileLock::attempt(&path, Mode::Exclusive).expect("tries").is_none());
        assert!(FileLock::attempt(&path, Mode::Shared).expect("tries").is_none());
        assert!(FileLock::take_over(&path).expect("tries").is_none());
        assert!(is_held(&path).expect("asks"));
        drop(held);
        assert!(!path.exists());
        assert!(!is_held(&path).expect("asks"));
        assert!(FileLock::attempt(&path, Mode::Exclusive).expect("tries").is_some());
    }

    #[test]
    fn shared_holders_coexist() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("a");
        let _one = FileLock::wait(&path, Mode::Shared).expect("locks");
        let _two = FileLock::attempt(&path, Mode::Shared).expect("tries").expect("is shared");
        assert!(FileLock::attempt(&path, Mode::Exclusive).expect("tries").is_none());
    }

    #[test]
    fn many_holders_one_after_the_other() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("a");
        let inside = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let _lock = FileLock::wait(&path, Mode::Exclusive).expect("locks");
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two holders at once");
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
    }

    #[test]
    fn a_copy_of_the_descriptor_does_not_keep_the_lock() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("a");
        let held = FileLock::wait(&path, Mode::Shared).expect("locks");
        // As a child has between fork and exec.
        let copy = held.file.try_clone().expect("duplicates");
        drop(held);
        assert!(!is_held(&path).expect("asks"));
        drop(copy);
    }

    #[test]
    fn what_a_dead_owner_left_can_be_taken_over() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("a");
        fs::write(&path, "").expect("writes");
        assert!(FileLock::take_over(&path).expect("tries").is_some());
        assert!(FileLock::take_over(&path).expect("tries").is_none(), "removed by its new owner");
    }
}
