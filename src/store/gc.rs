//! Collection: what was not used for longest goes first, and nothing that a living lease or an image needs.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use rusqlite::Transaction;

use crate::base::Digest;

use super::image::images;
use super::lock::{FileLock, Mode};
use super::meta::TxError;
use super::record::delete_record;
use super::sweep::{Patience, list};
use super::usage::{Item, What};
use super::{Filter, ImageRecord, LayerId, Store, StoreError, UsageKind, UsageRecord};

/// What to remove (SPEC B8.04, B8.05). The default removes everything that is not in use, but internal items.
#[derive(Debug, Clone, Default)]
pub struct PruneOptions {
    /// Internal items too: histories.
    pub all: bool,
    /// Only what fulfils all of these.
    pub filters: Vec<Filter>,
    /// Only what fulfils all of at least one of these lists; empty for everything.
    pub any: Vec<Vec<Filter>>,
    /// Only what was not used for so long.
    pub keep_duration: Option<Duration>,
    /// Stop as soon as the store is not larger.
    pub max_used_space: Option<u64>,
    /// Stop as soon as the disk has so much free space.
    pub min_free_space: Option<u64>,
    /// Never make the store smaller than this.
    pub reserved_space: Option<u64>,
}

/// What was removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PruneReport {
    /// The items, in the order in which they went. The size is what each freed.
    pub removed: Vec<UsageRecord>,
    /// Bytes freed.
    pub bytes: u64,
}

impl Store {
    /// Removes items, those first that were not used for longest. Things in use are left alone.
    ///
    /// # Errors
    /// If the metadata cannot be changed, or files cannot be deleted.
    pub fn prune(&self, options: &PruneOptions) -> Result<PruneReport, StoreError> {
        self.sweep_dead_owners()?;
        self.sweep_orphans()?;
        self.empty_trash(Patience::Wait)?;
        let mut items = self.inventory()?;
        let mut left: u64 = items.iter().map(|item| item.record.size).sum();
        let Some(target) = self.target(options, left)? else { return Ok(PruneReport::default()) };
        items.sort_by_key(|item| (item.record.last_used, std::cmp::Reverse(item.depth)));
        // With limits a layer that a registry has keeps its row: it is lazy, not gone.
        let forget = target == 0;
        let mut report = PruneReport::default();
        let mut pins = Pins::default();
        for item in items.into_iter().filter(|item| selected(item, options)) {
            if target > 0 && left <= target {
                break;
            }
            if item.record.reclaimable == 0 && !forget {
                continue;
            }
            let freed = self.remove(&item, forget, &mut pins)?;
            if let Some(freed) = freed.filter(|freed| *freed > 0) {
                left = left.saturating_sub(freed);
                report.bytes += freed;
                report.removed.push(UsageRecord { size: freed, ..item.record });
            }
        }
        self.tidy()?;
        self.write_index()?;
        self.empty_trash(Patience::Wait)?;
        Ok(report)
    }

    pub(super) fn available_space(&self) -> Result<u64, StoreError> {
        let stat = rustix::fs::statvfs(self.root()).map_err(StoreError::errno("examine", self.root()))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// How large the store may stay; 0 for no limit on what is removed; `None` if nothing has to be done.
    pub(super) fn target(&self, options: &PruneOptions, used: u64) -> Result<Option<u64>, StoreError> {
        let given = |limit: Option<u64>| limit.filter(|bytes| *bytes > 0);
        let (max, free, reserved) =
            (given(options.max_used_space), given(options.min_free_space), given(options.reserved_space));
        if (max, free, reserved) == (None, None, None) {
            return Ok(Some(0));
        }
        let mut keep = max.unwrap_or(if free.is_some() { used } else { 0 });
        if let Some(free) = free {
            let excess = free.saturating_sub(self.available_space()?);
            keep = keep.min(used.saturating_sub(excess));
        }
        // At least one byte, as 0 means something else.
        let keep = keep.max(reserved.unwrap_or(0)).max(1);
        Ok((used > keep).then_some(keep))
    }

    /// Removes a layer that is not in use.
    pub(super) fn remove_one_layer(&self, id: &LayerId) -> Result<(), StoreError> {
        let mut pins = Pins::default();
        self.inner.meta.write("remove a layer", |tx| {
            pins.refresh(self, tx)?;
            self.remove_layer(tx, id, &pins.blobs, true)
        })?;
        Ok(())
    }

    /// Removes one item unless it came into use. Gives the bytes that went, or `None` if nothing did.
    fn remove(&self, item: &Item, forget: bool, pins: &mut Pins) -> Result<Option<u64>, StoreError> {
        let size = item.record.reclaimable;
        match &item.what {
            What::Layer(id) => {
                let gone = self.inner.meta.write("remove a layer", |tx| {
                    pins.refresh(self, tx)?;
                    self.remove_layer(tx, id, &pins.blobs, forget)
                })?;
                Ok(gone.then_some(size))
            }
            What::Blob(digest) => {
                let gone = self.inner.meta.write("remove a blob", |tx| {
                    pins.refresh(self, tx)?;
                    let oldest = self.oldest_lease(tx)?;
                    self.remove_blob(tx, digest, oldest, &pins.blobs)
                })?;
                Ok(gone.then_some(size))
            }
            What::Mount(name) => {
                let Some(_lock) = FileLock::attempt(&self.mount_lock_path(name), Mode::Exclusive)? else {
                    return Ok(None);
                };
                self.inner.meta.write("remove a cache mount", |tx| {
                    tx.execute("DELETE FROM mounts WHERE name = ?1", [name])?;
                    Ok(self.to_trash(&self.inner.layout.mounts().join(name))?)
                })?;
                Ok(Some(size))
            }
            What::Context(path) | What::History(path) => {
                self.to_trash(path)?;
                Ok(Some(size))
            }
            What::Fixed => Ok(None),
        }
    }

    /// Takes a layer's directories and blobs away; the row too, if nothing is left that it could come from.
    fn remove_layer(
        &self,
        tx: &Transaction<'_>,
        id: &LayerId,
        pinned: &HashSet<String>,
        forget: bool,
    ) -> Result<bool, TxError> {
        let oldest = self.oldest_lease(tx)?;
        let row: Option<(i64, Option<String>)> = {
            use rusqlite::OptionalExtension;
            tx.prepare_cached("SELECT used_gen, diff_id FROM layers WHERE id = ?1")?
                .query_row([&id.0], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()?
        };
        let Some((_, diff_id)) = row.filter(|(used, _)| *used < oldest) else { return Ok(false) };
        let mut kept = false;
        for name in strings(tx, "SELECT name FROM dirs WHERE layer = ?1", &id.0)? {
            // A directory of another id map may refuse to be moved; it stays, and so does its row.
            if self.to_trash(&self.inner.layout.snapshots().join(&name)).is_ok() {
                tx.prepare_cached("DELETE FROM dirs WHERE name = ?1")?.execute([&name])?;
            } else {
                kept = true;
            }
        }
        for digest in strings(tx, "SELECT digest FROM layer_blobs WHERE layer = ?1", &id.0)? {
            let claims: i64 = tx
                .prepare_cached("SELECT count(*) FROM layer_blobs WHERE digest = ?1 AND layer != ?2")?
                .query_row((&digest, &id.0), |row| row.get(0))?;
            let Ok(digest) = digest.parse::<Digest>() else { continue };
            kept |= claims > 0 || !self.remove_blob(tx, &digest, oldest, pinned)?;
        }
        let remotes: bool = tx
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM remotes WHERE layer = ?1)")?
            .query_row([&id.0], |row| row.get(0))?;
        if kept || (remotes && !forget) {
            return Ok(true);
        }
        for key in strings(tx, "SELECT key FROM record_layers WHERE layer = ?1", &id.0)? {
            delete_record(tx, &key)?;
        }
        for table in ["layer_blobs", "remotes"] {
            tx.execute(&format!("DELETE FROM {table} WHERE layer = ?1"), [&id.0])?;
        }
        tx.prepare_cached("DELETE FROM layers WHERE id = ?1")?.execute([&id.0])?;
        if let Some(diff_id) = diff_id.and_then(|text| text.parse::<Digest>().ok()) {
            let others: bool = tx
                .prepare_cached("SELECT EXISTS (SELECT 1 FROM layers WHERE diff_id = ?1)")?
                .query_row([diff_id.as_str()], |row| row.get(0))?;
            if !others {
                self.to_trash(&self.inner.layout.index(&diff_id))?;
            }
        }
        Ok(true)
    }

    /// Removes a blob that nobody uses; false if it stays.
    fn remove_blob(
        &self,
        tx: &Transaction<'_>,
        digest: &Digest,
        oldest: i64,
        pinned: &HashSet<String>,
    ) -> Result<bool, TxError> {
        if pinned.contains(digest.as_str()) {
            return Ok(false);
        }
        let used: bool = tx
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM blobs WHERE digest = ?1 AND used_gen >= ?2)")?
            .query_row((digest.as_str(), oldest), |row| row.get(0))?;
        if used {
            return Ok(false);
        }
        tx.prepare_cached("DELETE FROM blobs WHERE digest = ?1")?.execute([digest.as_str()])?;
        super::blocks::forget(tx, digest)?;
        self.to_trash(&self.inner.layout.blob(digest))?;
        Ok(true)
    }

    /// Removes what refers to nothing: aliases without a record, and lock files that a killed process left.
    fn tidy(&self) -> Result<(), StoreError> {
        self.inner.meta.write("tidy up", |tx| {
            // A chain of aliases loses one link per run; there are seldom two.
            tx.execute(
                "DELETE FROM aliases WHERE canonical NOT IN (SELECT key FROM records)
                 AND canonical NOT IN (SELECT key FROM aliases)",
                [],
            )?;
            Ok(())
        })?;
        for dir in ["key", "layer", "mount"] {
            for path in list(&self.inner.layout.locks().join(dir))? {
                // Removed when the lock is dropped; who waits for it meanwhile starts again with a new file.
                drop(FileLock::take_over(&path)?);
            }
        }
        Ok(())
    }
}

/// What images need. Looked at inside each transaction: an image can get its name, and the build that made it end its
/// lease, while a collection runs.
#[derive(Default)]
struct Pins {
    images: Option<Vec<ImageRecord>>,
    blobs: HashSet<String>,
}

impl Pins {
    fn refresh(&mut self, store: &Store, tx: &Transaction<'_>) -> Result<(), TxError> {
        let images = images(tx)?;
        if self.images.as_ref() != Some(&images) {
            self.blobs = store.blobs_of_images(&images)?;
            self.images = Some(images);
        }
        Ok(())
    }
}

fn selected(item: &Item, options: &PruneOptions) -> bool {
    let record = &item.record;
    let unused = options
        .keep_duration
        .is_none_or(|keep| SystemTime::now().duration_since(record.last_used).is_ok_and(|unused| unused >= keep));
    let kind = options.all || record.kind != UsageKind::Internal;
    let all = |filters: &[Filter]| filters.iter().all(|filter| filter.matches(record));
    let any = options.any.is_empty() || options.any.iter().any(|filters| all(filters));
    !record.in_use && unused && kind && any && all(&options.filters)
}

fn strings(tx: &Transaction<'_>, query: &str, value: &str) -> rusqlite::Result<Vec<String>> {
    tx.prepare_cached(query)?.query_map([value], |row| row.get(0))?.collect()
}
