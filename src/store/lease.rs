//! Leases: what a running build created or looked up is not collected.
//!
//! The data base has a counter, the *generation*. A lease raises it and is a locked file named by its generation;
//! everything created or looked up is marked with the generation of that moment (`used_gen`). What is marked with the
//! generation of the oldest living lease, or a later one, is in use. So a lease costs one small transaction, a look-up
//! at most one more per object, a killed owner's lease ends by itself, and clocks do not matter.

use std::fs;
use std::io;
use std::sync::{Arc, PoisonError, Weak};

use rusqlite::{Connection, Transaction};

use super::lock::{FileLock, Mode, is_held};
use super::meta::{self, TxError};
use super::{Store, StoreError};

/// Keeps everything created or looked up while it lives from being collected. Clones share one lease.
#[derive(Debug, Clone)]
pub struct Lease {
    _inner: Arc<LeaseInner>,
}

#[derive(Debug)]
pub(crate) struct LeaseInner {
    pub(crate) generation: i64,
    _lock: FileLock,
}

impl Store {
    /// Takes a lease, or shares the one this process already has.
    ///
    /// # Errors
    /// If the lease file or the metadata cannot be written.
    pub fn lease(&self) -> Result<Lease, StoreError> {
        let mut current = self.inner.lease.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lease) = current.upgrade() {
            return Ok(Lease { _inner: lease });
        }
        let lease = self.inner.meta.write("take a lease", |tx| {
            let generation = meta::generation(tx)? + 1;
            meta::set_setting(tx, "generation", generation)?;
            // Inside the transaction, as the collector lists the leases inside one.
            let path = self.inner.layout.leases().join(format!("{generation}-{}", super::random_name()?));
            Ok(LeaseInner { generation, _lock: FileLock::wait(&path, Mode::Exclusive)? })
        })?;
        let lease = Arc::new(lease);
        *current = Arc::downgrade(&lease);
        Ok(Lease { _inner: lease })
    }

    /// The generation of this process's lease: what carries it, or a later one, need not be marked again.
    pub(crate) fn marked_since(&self) -> Option<i64> {
        let current = self.inner.lease.lock().unwrap_or_else(PoisonError::into_inner);
        Weak::upgrade(&current).map(|lease| lease.generation)
    }

    /// The generation of the oldest living lease; `i64::MAX` if there is none. Removes what dead owners left.
    pub(crate) fn oldest_lease(&self, _tx: &Transaction<'_>) -> Result<i64, StoreError> {
        let dir = self.inner.layout.leases();
        let mut oldest = i64::MAX;
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(oldest),
            Err(e) => return Err(StoreError::io("list", &dir)(e)),
        };
        for entry in entries {
            let path = entry.map_err(StoreError::io("list", &dir))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let generation = name.split_once('-').and_then(|(number, _)| number.parse::<i64>().ok());
            if is_held(&path)? {
                // A name that is none of ours is taken as the oldest of all: better to keep too much.
                oldest = oldest.min(generation.unwrap_or(0));
            } else {
                let _ = fs::remove_file(&path);
            }
        }
        Ok(oldest)
    }

    /// Marks a row as used now, unless this process's lease already covers it.
    ///
    /// `table` and `column` name the row; the answer says whether it exists. One small transaction at most.
    pub(crate) fn touch(&self, table: &'static str, column: &'static str, value: &str) -> Result<bool, StoreError> {
        let since = self.marked_since();
        let marked = self.inner.meta.read("look up", |c| used_generation(c, table, column, value))?;
        let Some(marked) = marked else { return Ok(false) };
        if since.is_some_and(|since| marked >= since) {
            return Ok(true);
        }
        self.inner.meta.write("mark as used", |tx| mark(tx, table, column, value))
    }
}

fn used_generation(c: &Connection, table: &str, column: &str, value: &str) -> rusqlite::Result<Option<i64>> {
    use rusqlite::OptionalExtension;
    c.prepare_cached(&format!("SELECT used_gen FROM {table} WHERE {column} = ?1"))?
        .query_row([value], |row| row.get(0))
        .optional()
}

/// Marks a row as used now, inside a transaction. False if there is no such row.
pub(crate) fn mark(tx: &Transaction<'_>, table: &str, column: &str, value: &str) -> Result<bool, TxError> {
    let usage = if matches!(table, "layers" | "records") { ", usage = usage + 1" } else { "" };
    let changed = tx
        .prepare_cached(&format!("UPDATE {table} SET used_gen = ?2, last_used = ?3{usage} WHERE {column} = ?1"))?
        .execute((value, meta::generation(tx)?, meta::now()))?;
    Ok(changed > 0)
}
