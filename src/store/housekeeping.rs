//! What a build leaves to be done once its result was delivered: making the store durable, and keeping it small.
//!
//! Nobody has to wait for either, so that whoever started the build may be gone by then. Meanwhile the store's root is
//! locked (shared, as several builds may be at it): what looks at the store as a whole waits for [`Store::settle`].

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::{GcPolicy, Store, StoreError};

/// Tables whose rows say whether what they describe survives a crash of the machine.
const TABLES: [&str; 2] = ["blobs", "dirs"];

/// The work that is left, and the right to do it undisturbed.
#[derive(Debug)]
pub struct Housekeeping {
    store: Store,
    /// Held until the end of the process: by then every other lock of it has to be free.
    root: File,
}

impl Housekeeping {
    /// Does it.
    ///
    /// # Errors
    /// If the file system reports a write error, or the metadata cannot be changed.
    pub fn run(&self, policy: &GcPolicy) -> Result<(), StoreError> {
        // Where nothing was written, nothing has grown.
        let logged = self.store.inner.logged.load(Ordering::Relaxed);
        let synced = self.store.sync()?;
        if !synced {
            // Builds that find everything note when they used it.
            self.store.inner.meta.shorten_log();
        }
        if (synced || logged) && self.is_in_place() {
            self.store.gc(policy)?;
        }
        Ok(())
    }

    /// Whether the store's path still names this store: whoever deleted it by hand may have another one there by now.
    fn is_in_place(&self) -> bool {
        let (Ok(held), Ok(named)) = (self.root.metadata(), std::fs::metadata(self.store.root())) else { return false };
        (held.dev(), held.ino()) == (named.dev(), named.ino())
    }
}

impl Store {
    /// Ends this process's work in progress. What is left after a build is returned; until that is dropped, nobody
    /// resets or measures the store.
    ///
    /// # Errors
    /// If the store's directory cannot be opened or locked.
    pub fn retire(self) -> Result<Housekeeping, StoreError> {
        self.inner.created();
        let root = lock(self.root(), FlockOperation::LockShared)?;
        drop(self.inner.owner.lock().unwrap_or_else(PoisonError::into_inner).take());
        Ok(Housekeeping { store: self, root })
    }

    /// Waits until no build that has ended is busy with the store any more.
    ///
    /// # Errors
    /// If the store's directory cannot be opened or locked.
    pub fn settle(&self) -> Result<(), StoreError> {
        lock(self.root(), FlockOperation::LockExclusive).map(drop)
    }

    /// Makes everything written so far survive a crash of the machine: one `syncfs`, then the rows are marked. To be
    /// called once, after the result of a build was delivered. Says whether there was anything.
    ///
    /// # Errors
    /// If the file system reports a write error.
    pub fn sync(&self) -> Result<bool, StoreError> {
        let fresh = self.inner.meta.read("read", |c| {
            let mut last = [0_i64; 2];
            for (table, last) in TABLES.iter().zip(&mut last) {
                let query = format!("SELECT coalesce(max(rowid), 0) FROM {table} WHERE durable = 0 AND boot = ?1");
                *last = c.query_row(&query, [&self.inner.boot], |row| row.get(0))?;
            }
            Ok(last)
        })?;
        if fresh == [0, 0] {
            return Ok(false);
        }
        let root = crate::base::file::open_dir(self.root()).map_err(StoreError::io("open", self.root()))?;
        rustix::fs::syncfs(&root).map_err(StoreError::errno("sync", self.root()))?;
        self.inner.meta.write("mark as durable", |tx| {
            for (table, last) in TABLES.iter().zip(fresh) {
                tx.execute(
                    &format!("UPDATE {table} SET durable = 1 WHERE durable = 0 AND boot = ?1 AND rowid <= ?2"),
                    (&self.inner.boot, last),
                )?;
            }
            Ok(())
        })?;
        self.inner.meta.checkpoint();
        Ok(true)
    }
}

/// Opens and locks a store's directory, waiting for others.
pub(crate) fn lock(root: &Path, operation: FlockOperation) -> Result<File, StoreError> {
    let dir = File::open(root).map_err(StoreError::io("open", root))?;
    loop {
        match rustix::fs::flock(&dir, operation) {
            Err(Errno::INTR) => {}
            other => return other.map(|()| dir).map_err(StoreError::errno("lock", root)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use crate::store::testing::{open, store};
    use crate::store::{GcPolicy, SnapshotterChoice, reset};

    #[test]
    fn only_what_was_written_is_synced() {
        let (_dir, store) = store();
        assert!(!store.sync().expect("syncs"), "a new store has nothing");
        store.put_blob(b"x").expect("writes");
        assert!(store.sync().expect("syncs"));
        assert!(!store.sync().expect("syncs"), "it is durable now");
    }

    #[test]
    fn a_reset_waits_for_the_housekeeping_and_then_meets_nobody() {
        let (_dir, store) = store();
        store.put_blob(b"x").expect("writes");
        let root = store.root().to_path_buf();
        let left = store.retire().expect("retires");
        let (sender, answers) = channel();
        let resetting = {
            let root = root.clone();
            std::thread::spawn(move || sender.send(reset(&root)))
        };
        assert!(answers.recv_timeout(Duration::from_millis(200)).is_err(), "it must wait");
        left.run(&GcPolicy::default()).expect("keeps house");
        drop(left);
        answers.recv().expect("answers").expect("resets, as no lock is held any more");
        resetting.join().expect("ends").expect("sent");
        assert!(!root.exists());
    }

    #[test]
    fn a_store_that_took_the_place_of_a_deleted_one_is_left_alone() {
        let (_dir, store) = store();
        let root = store.root().to_path_buf();
        let left = store.retire().expect("retires");
        assert!(left.is_in_place());
        std::fs::rename(&root, root.with_extension("old")).expect("moves");
        assert!(!left.is_in_place(), "there is none");
        let _other = open(&root, SnapshotterChoice::Native).expect("opens");
        assert!(!left.is_in_place(), "it is another one");
    }

    #[test]
    fn settling_waits_for_all_of_several_builds() {
        let (_dir, store) = store();
        let again = || open(store.root(), SnapshotterChoice::Native).expect("opens");
        let (one, two) = (again().retire().expect("retires"), again().retire().expect("shares the lock"));
        let (sender, settled) = channel();
        let waiting = {
            let store = store.clone();
            std::thread::spawn(move || sender.send(store.settle()))
        };
        drop(one);
        assert!(settled.recv_timeout(Duration::from_millis(100)).is_err(), "the other one is not done");
        drop(two);
        settled.recv().expect("answers").expect("settles");
        waiting.join().expect("ends").expect("sent");
    }
}
