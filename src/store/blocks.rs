//! Where compressed blocks of earlier layers are, so that a layer in which little changed is not compressed again.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{OptionalExtension, Transaction};

use crate::archive::block::MAX_BLOCK;
use crate::archive::checksum::Checksum;
use crate::archive::{BlockKey, BlockSource, LayerSummary, PrefixKey};
use crate::base::Digest;

use super::Store;

/// Blobs of fewer blocks are compressed in no time.
const WORTH_IT: usize = 4;

/// The blocks of all blobs that are here.
pub(super) struct StoredBlocks {
    store: Store,
    files: Mutex<HashMap<String, Option<Arc<File>>>>,
}

struct Place {
    blob: String,
    offset: u64,
    size: usize,
    sum: Checksum,
}

impl Store {
    pub(super) fn blocks(&self) -> Arc<StoredBlocks> {
        Arc::new(StoredBlocks { store: self.clone(), files: Mutex::default() })
    }
}

impl StoredBlocks {
    /// The blob, if it is here and can be believed. It is not marked as used: it may go, the new one has a copy.
    fn file(&self, digest: &str) -> Option<Arc<File>> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = files.get(digest) {
            return known.clone();
        }
        let file = digest.parse::<Digest>().ok().and_then(|blob| self.store.trusted_blob(&blob)).map(Arc::new);
        files.insert(digest.to_owned(), file.clone());
        file
    }
}

impl BlockSource for StoredBlocks {
    fn find(&self, key: &BlockKey, out: &mut Vec<u8>) -> Option<Checksum> {
        let found = self.store.inner.meta.read("look up a block", |c| {
            c.prepare_cached("SELECT blob, offset, size, crc, length FROM blocks WHERE key = ?1")?
                .query_row([&key.0[..]], |row| {
                    let sum = Checksum { crc: row.get(3)?, length: row.get(4)? };
                    Ok(Place { blob: row.get(0)?, offset: row.get(1)?, size: row.get(2)?, sum })
                })
                .optional()
        });
        // Only a help: whatever goes wrong, the block is compressed.
        let place = found.ok().flatten()?;
        if place.size > 2 * MAX_BLOCK {
            return None;
        }
        let file = self.file(&place.blob)?;
        out.resize(place.size, 0);
        if file.read_exact_at(out, place.offset).is_err() {
            out.clear();
            return None;
        }
        Some(place.sum)
    }

    fn hashed(&self, key: &PrefixKey) -> Option<Vec<u8>> {
        let found = self.store.inner.meta.read("look up the hash of a tar's beginning", |c| {
            c.prepare_cached("SELECT state FROM prefixes WHERE key = ?1")?
                .query_row([&key.0[..]], |row| row.get(0))
                .optional()
        });
        found.ok().flatten()
    }
}

/// Remembers where the blocks of `blob` are, instead of where they were before, and where its tar's hash stood behind them.
pub(super) fn note(tx: &Transaction<'_>, blob: &Digest, packed: &LayerSummary) -> rusqlite::Result<()> {
    let LayerSummary { blocks, prefixes, .. } = packed;
    if blocks.len() < WORTH_IT {
        return Ok(());
    }
    let mut insert = tx.prepare_cached("INSERT OR REPLACE INTO blocks VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?;
    for block in blocks {
        insert.execute((&block.key.0[..], blob.as_str(), block.offset, block.size, block.sum.crc, block.sum.length))?;
    }
    let mut insert = tx.prepare_cached("INSERT OR REPLACE INTO prefixes VALUES (?1, ?2, ?3)")?;
    for prefix in prefixes {
        insert.execute((&prefix.key.0[..], blob.as_str(), &prefix.state[..]))?;
    }
    Ok(())
}

/// Forgets the blocks of a blob that goes.
pub(super) fn forget(tx: &Transaction<'_>, blob: &Digest) -> rusqlite::Result<()> {
    tx.prepare_cached("DELETE FROM blocks WHERE blob = ?1")?.execute([blob.as_str()])?;
    tx.prepare_cached("DELETE FROM prefixes WHERE blob = ?1")?.execute([blob.as_str()]).map(drop)
}
