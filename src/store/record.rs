//! Cache records: which layers came out of which inputs. And the locks that let one process run a vertex at a time.

use std::time::SystemTime;

use rusqlite::{Connection, OptionalExtension, Transaction};

use crate::base::CacheKey;

use super::layer::read_blobs;
use super::lease::mark;
use super::lock::{FileLock, Mode};
use super::meta::{self, from_nanos, to_nanos};
use super::{LayerId, Store, StoreError};

/// Aliases may point to aliases, but not round and round.
const MAX_HOPS: usize = 8;

/// What a vertex gave.
#[derive(Debug, Clone, PartialEq)]
pub struct CacheRecord {
    /// What it is found under.
    pub key: CacheKey,
    /// The key that stands for the result in the keys of whatever is built on it.
    pub canonical: CacheKey,
    /// For each output a chain of layers, bottom first.
    pub outputs: Vec<Vec<LayerId>>,
    /// What went into the key, for explanations.
    pub inputs: serde_json::Value,
    /// For people.
    pub description: String,
    /// When it was made.
    pub created: SystemTime,
    /// When it was last looked up.
    pub last_used: SystemTime,
    /// How often.
    pub usage: u64,
}

/// Held while a vertex runs; dropped when its record is written.
#[derive(Debug)]
pub struct KeyLock {
    _lock: FileLock,
}

impl CacheRecord {
    /// A record of a result made just now, which stands for itself in the keys of what is built on it.
    #[must_use]
    pub fn new(key: &CacheKey, outputs: Vec<Vec<LayerId>>, description: &str) -> Self {
        let now = SystemTime::now();
        Self {
            key: key.clone(),
            canonical: key.clone(),
            outputs,
            inputs: serde_json::Value::Null,
            description: description.into(),
            created: now,
            last_used: now,
            usage: 0,
        }
    }
}

impl Store {
    /// The record under `key` or an alias of it. `None` if there is none, or if a layer of it is gone. Marks it and
    /// its layers as used.
    ///
    /// # Errors
    /// If the metadata cannot be read.
    pub fn record(&self, key: &CacheKey) -> Result<Option<CacheRecord>, StoreError> {
        let dialect = self.dialect()?;
        let since = self.marked_since();
        let found = self.inner.meta.read("look up a record", |c| {
            let Some((record, marked)) = find(c, key)? else { return Ok(None) };
            if !self.complete(c, &record, &dialect)? {
                return Ok(None);
            }
            let marked = since.is_some_and(|since| marked >= since);
            Ok(Some((record, marked)))
        })?;
        let Some((record, marked)) = found else { return Ok(None) };
        if marked {
            return Ok(Some(record));
        }
        // In a transaction, so that a collector has either taken it before or finds it in use.
        let kept = self
            .inner
            .meta
            .write("use a record", |tx| Ok(self.complete(tx, &record, &dialect)? && mark_record(tx, &record)?))?;
        Ok(kept.then_some(record))
    }

    /// Writes a record, replacing one with the same key.
    ///
    /// # Errors
    /// [`StoreError::DanglingRecord`] if it names a layer that does not exist.
    pub fn put_record(&self, record: &CacheRecord) -> Result<(), StoreError> {
        let outputs = serde_json::to_string(&record.outputs).expect("because these are strings");
        self.inner.meta.write("write a record", |tx| {
            let key = record.key.to_string();
            delete_record(tx, &key)?;
            for layer in record.outputs.iter().flatten() {
                let exists: bool = tx
                    .prepare_cached("SELECT EXISTS (SELECT 1 FROM layers WHERE id = ?1)")?
                    .query_row([&layer.0], |row| row.get(0))?;
                if !exists {
                    return Err(StoreError::DanglingRecord { key: record.key.clone(), layer: layer.clone() }.into());
                }
                tx.prepare_cached("INSERT OR IGNORE INTO record_layers VALUES (?1, ?2)")?.execute((&layer.0, &key))?;
            }
            tx.prepare_cached(
                "INSERT INTO records (key, canonical, outputs, inputs, description, created, last_used, usage, used_gen)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            )?
            .execute((
                &key,
                record.canonical.to_string(),
                outputs,
                record.inputs.to_string(),
                &record.description,
                to_nanos(record.created),
                to_nanos(record.last_used),
                record.usage,
                meta::generation(tx)?,
            ))?;
            // An older alias of the same name would be dead weight.
            tx.prepare_cached("DELETE FROM aliases WHERE key = ?1")?.execute([&key])?;
            Ok(())
        })
    }

    /// Makes the record under `canonical` found under `key` too.
    ///
    /// # Errors
    /// If the metadata cannot be written.
    pub fn alias(&self, key: &CacheKey, canonical: &CacheKey) -> Result<(), StoreError> {
        if key == canonical {
            return Ok(());
        }
        self.inner.meta.write("write an alias", |tx| {
            tx.prepare_cached("INSERT OR REPLACE INTO aliases VALUES (?1, ?2)")?
                .execute((key.to_string(), canonical.to_string()))?;
            Ok(())
        })
    }

    /// Waits until no other process works on `key`, then holds it. Look the record up again afterwards.
    ///
    /// # Errors
    /// If the lock file cannot be made.
    pub fn key_lock(&self, key: &CacheKey) -> Result<KeyLock, StoreError> {
        Ok(KeyLock { _lock: FileLock::wait(&self.key_path(key), Mode::Exclusive)? })
    }

    /// The same without waiting: `None` if somebody works on it.
    #[cfg(test)]
    pub(super) fn try_key_lock(&self, key: &CacheKey) -> Result<Option<KeyLock>, StoreError> {
        Ok(FileLock::attempt(&self.key_path(key), Mode::Exclusive)?.map(|lock| KeyLock { _lock: lock }))
    }

    fn key_path(&self, key: &CacheKey) -> std::path::PathBuf {
        self.inner.layout.locks().join("key").join(key.0.hex())
    }

    /// Whether every layer of the record can still be had.
    fn complete(&self, c: &Connection, record: &CacheRecord, dialect: &str) -> rusqlite::Result<bool> {
        for chain in &record.outputs {
            for id in chain {
                if !self.available(c, id, dialect)? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Whether a layer has a directory, a local blob or a remote one.
    pub(crate) fn available(&self, c: &Connection, id: &LayerId, dialect: &str) -> rusqlite::Result<bool> {
        let remote: bool = c
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM remotes WHERE layer = ?1)")?
            .query_row([&id.0], |row| row.get(0))?;
        if remote || self.dirs_of(c, id, dialect)? {
            return Ok(true);
        }
        let Some(record) = self.read_layer(c, id, dialect)? else { return Ok(false) };
        for blob in record.blobs.iter().filter(|blob| record.is_own(blob)) {
            if self.blob_present(c, &blob.digest)? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn find(c: &Connection, key: &CacheKey) -> rusqlite::Result<Option<(CacheRecord, i64)>> {
    let mut name = key.to_string();
    for _ in 0..MAX_HOPS {
        if let Some(found) = read(c, &name)? {
            return Ok(Some(found));
        }
        let next: Option<String> = c
            .prepare_cached("SELECT canonical FROM aliases WHERE key = ?1")?
            .query_row([&name], |row| row.get(0))
            .optional()?;
        match next {
            Some(next) => name = next,
            None => return Ok(None),
        }
    }
    Ok(None)
}

fn read(c: &Connection, key: &str) -> rusqlite::Result<Option<(CacheRecord, i64)>> {
    let row = c
        .prepare_cached(
            "SELECT key, canonical, outputs, inputs, description, created, last_used, usage, used_gen FROM records WHERE key = ?1",
        )?
        .query_row([key], |row| {
            let text = |index| row.get::<_, String>(index);
            Ok((text(0)?, text(1)?, text(2)?, text(3)?, text(4)?, row.get(5)?, row.get(6)?, row.get(7)?, row.get(8)?))
        })
        .optional()?;
    let Some((key, canonical, outputs, inputs, description, created, last_used, usage, marked)) = row else {
        return Ok(None);
    };
    // What cannot be read any more is a miss.
    let parsed = (|| {
        Some(CacheRecord {
            key: key.parse().ok()?,
            canonical: canonical.parse().ok()?,
            outputs: serde_json::from_str(&outputs).ok()?,
            inputs: serde_json::from_str(&inputs).ok()?,
            description,
            created: from_nanos(created),
            last_used: from_nanos(last_used),
            usage,
        })
    })();
    Ok(parsed.map(|record| (record, marked)))
}

fn mark_record(tx: &Transaction<'_>, record: &CacheRecord) -> Result<bool, meta::TxError> {
    if !mark(tx, "records", "key", &record.key.to_string())? {
        return Ok(false);
    }
    for id in record.outputs.iter().flatten() {
        if !mark(tx, "layers", "id", &id.0)? {
            return Ok(false);
        }
        for blob in read_blobs(tx, id)? {
            mark(tx, "blobs", "digest", blob.digest.as_str())?;
        }
    }
    Ok(true)
}

/// Removes a record; its aliases stay and lead nowhere until a record with their target's key is written again.
pub(crate) fn delete_record(tx: &Transaction<'_>, key: &str) -> rusqlite::Result<()> {
    tx.prepare_cached("DELETE FROM records WHERE key = ?1")?.execute([key])?;
    tx.prepare_cached("DELETE FROM record_layers WHERE key = ?1")?.execute([key])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{ChainId, DiffId, Digest};
    use crate::oci::Descriptor;
    use crate::oci::media_type::OCI_LAYER_GZIP;
    use crate::store::testing::store;

    fn key(text: &str) -> CacheKey {
        CacheKey(Digest::sha256(text))
    }

    fn record(name: &str, layers: &[LayerId]) -> CacheRecord {
        let now = SystemTime::now();
        CacheRecord {
            key: key(name),
            canonical: key("canonical"),
            outputs: vec![layers.to_vec()],
            inputs: serde_json::json!({"op": name}),
            description: name.into(),
            created: now,
            last_used: now,
            usage: 0,
        }
    }

    fn layer(store: &Store, name: &str, remote: bool) -> (LayerId, Digest) {
        let diff = DiffId(Digest::sha256(name));
        let blob = store.put_blob(name.as_bytes()).expect("writes");
        let descriptor = Descriptor::new(OCI_LAYER_GZIP, blob.clone(), name.len() as u64);
        let chain = ChainId::extend(None, &diff);
        let remote = remote.then_some(("docker.io", "library/x"));
        (store.register_layer(&chain, &diff, &descriptor, remote).expect("registers"), blob)
    }

    #[test]
    fn records_and_aliases_are_found_until_a_layer_is_gone() {
        let (_dir, store) = store();
        let (a, blob) = layer(&store, "a", false);
        let (b, remote_blob) = layer(&store, "b", true);
        let one = record("one", &[b.clone(), a.clone()]);
        store.put_record(&one).expect("writes");
        store.alias(&key("content"), &key("one")).expect("writes");
        store.alias(&key("more"), &key("content")).expect("writes");
        let found = store.record(&key("more")).expect("reads").expect("is there");
        assert_eq!((&found.key, &found.outputs, &found.inputs), (&one.key, &one.outputs, &one.inputs));
        assert!(store.record(&key("other")).expect("reads").is_none());
        // A layer that a registry has is as good as here.
        store.drop_blob(&remote_blob).expect("drops");
        assert!(store.record(&key("one")).expect("reads").is_some());
        store.drop_blob(&blob).expect("drops");
        assert!(store.record(&key("one")).expect("reads").is_none());
        assert!(store.record(&key("content")).expect("reads").is_none());
    }

    #[test]
    fn alias_loops_end() {
        let (_dir, store) = store();
        store.alias(&key("a"), &key("b")).expect("writes");
        store.alias(&key("b"), &key("a")).expect("writes");
        assert!(store.record(&key("a")).expect("reads").is_none());
    }

    #[test]
    fn a_record_of_unknown_layers_is_refused() {
        let (_dir, store) = store();
        let error = store.put_record(&record("x", &[LayerId::from_text("nope")])).expect_err("dangles");
        assert!(matches!(error, StoreError::DanglingRecord { .. }), "{error}");
        assert!(store.record(&key("x")).expect("reads").is_none());
    }

    #[test]
    fn looking_up_counts_once_per_lease() {
        let (_dir, store) = store();
        let (a, _) = layer(&store, "a", false);
        store.put_record(&record("one", &[a])).expect("writes");
        let usage = |store: &Store| store.record(&key("one")).expect("reads").expect("is there").usage;
        let lease = store.lease().expect("leases");
        usage(&store);
        assert_eq!((usage(&store), usage(&store)), (1, 1));
        drop(lease);
        let _lease = store.lease().expect("leases");
        usage(&store);
        assert_eq!(usage(&store), 2);
    }

    #[test]
    fn one_process_works_on_a_key() {
        let (_dir, store) = store();
        let held = store.key_lock(&key("a")).expect("locks");
        assert!(store.try_key_lock(&key("a")).expect("tries").is_none());
        assert!(store.try_key_lock(&key("b")).expect("tries").is_some());
        drop(held);
        assert!(store.try_key_lock(&key("a")).expect("tries").is_some());
    }
}
