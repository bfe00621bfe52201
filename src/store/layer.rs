//! Layers: one change of a file system with its several forms (directories, blobs, remote descriptors).

use std::collections::HashSet;
use std::fmt;
use std::time::SystemTime;

use rusqlite::{Connection, OptionalExtension, Row, Transaction};
use serde::{Deserialize, Serialize};

use crate::base::{ChainId, DiffId, Digest};
use crate::oci::Descriptor;
use crate::oci::media_type::{Codec, Family, layer_codec};

use super::lease::mark;
use super::meta::{self, TxError, from_nanos, now};
use super::{Store, StoreError, random_name};

/// Names a layer in the store. A file system is a chain of them, bottom first.
///
/// The ID of a pulled layer is its chain ID; that of a committed one is random, as its content is not known yet.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LayerId(pub(crate) String);

impl LayerId {
    /// The text, as the metadata has it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the layer was made here, rather than pulled.
    #[must_use]
    pub fn is_committed(&self) -> bool {
        self.0.starts_with(COMMITTED)
    }

    /// An ID that need not exist.
    #[cfg(test)]
    pub(crate) fn from_text(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A blob that holds a layer's tar stream, or a transformed one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerBlob {
    /// Digest of the blob.
    pub digest: Digest,
    /// Bytes of the blob.
    pub size: u64,
    /// How it is compressed.
    pub codec: Codec,
    /// The level it was compressed with; `None` for pulled blobs and the default level.
    pub level: Option<i32>,
    /// The epoch its times were clamped to, if they were.
    pub epoch: Option<i64>,
    /// Digest of the tar stream inside.
    pub diff_id: DiffId,
    /// Media type of a pulled blob, the OCI one of a blob made here.
    pub media_type: String,
}

impl LayerBlob {
    /// A descriptor of the blob.
    #[must_use]
    pub fn descriptor(&self) -> Descriptor {
        Descriptor::new(self.media_type.clone(), self.digest.clone(), self.size)
    }
}

/// Where a layer's blob is in a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteBlob {
    /// Registry host, as in a reference.
    pub host: String,
    /// Repository below it.
    pub repository: String,
    /// What to ask for.
    pub descriptor: Descriptor,
}

/// What is known of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerRecord {
    /// The layer.
    pub id: LayerId,
    /// For people.
    pub description: String,
    /// When it was committed or registered.
    pub created: SystemTime,
    /// Digest of the stream without transformations, once one was made or pulled.
    pub diff_id: Option<DiffId>,
    /// The chain below it when it was committed or registered, bottom first. Empty for pulled layers.
    pub parents: Vec<LayerId>,
    /// Blobs, local or not: [`Store::has_blob`] tells.
    pub blobs: Vec<LayerBlob>,
    /// Registries that have it.
    pub remotes: Vec<RemoteBlob>,
    /// A directory of the dialect in use exists (with the native snapshotter: some tree that ends with this layer).
    pub materialised: bool,
}

impl LayerRecord {
    /// Whether the stream in `blob` is the layer's own: it was not transformed, or that changed nothing.
    #[must_use]
    pub fn is_own(&self, blob: &LayerBlob) -> bool {
        blob.epoch.is_none() || self.diff_id.as_ref() == Some(&blob.diff_id)
    }
}

/// A layer that another machine's cache has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdoptedLayer {
    /// The chain ID up to and including it.
    pub chain: ChainId,
    /// Digest of the stream inside.
    pub diff_id: DiffId,
    /// The blob, of a layer's media type.
    pub descriptor: Descriptor,
    /// When it was made.
    pub created: SystemTime,
}

/// A layer whose content must be downloaded before it can be mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NeededBlob {
    /// The layer.
    pub layer: LayerId,
    /// The blob to put into the content store.
    pub descriptor: Descriptor,
    /// Where it can be had; empty if nobody has it.
    pub remotes: Vec<RemoteBlob>,
}

impl Store {
    /// Makes a layer of an image known without having its content. Idempotent; new remotes are added.
    ///
    /// `chain` is the chain ID up to and including this layer, `descriptor` that of its blob, whose media type tells
    /// the codec. `remote` is the registry host and repository the descriptor came from.
    ///
    /// # Errors
    /// If the media type is not a layer's, or the metadata cannot be written.
    pub fn register_layer(
        &self,
        chain: &ChainId,
        diff_id: &DiffId,
        descriptor: &Descriptor,
        remote: Option<(&str, &str)>,
    ) -> Result<LayerId, StoreError> {
        let description = format!("pulled {}", descriptor.digest);
        self.inner
            .meta
            .write("register a layer", |tx| register(tx, chain, diff_id, descriptor, remote, &description, now()))
    }

    /// The same for all layers of a result of another machine's cache, bottom first, with the times they were made:
    /// who exports them again must get the same image.
    ///
    /// # Errors
    /// As [`Store::register_layer`].
    pub fn adopt_layers(
        &self,
        layers: &[AdoptedLayer],
        remote: (&str, &str),
        description: &str,
    ) -> Result<Vec<LayerId>, StoreError> {
        self.inner.meta.write("adopt layers", |tx| {
            let one = |layer: &AdoptedLayer| {
                let created = meta::to_nanos(layer.created);
                register(tx, &layer.chain, &layer.diff_id, &layer.descriptor, Some(remote), description, created)
            };
            layers.iter().map(one).collect()
        })
    }

    /// Forgets that anybody else has the content of a layer: somebody promised it and did not keep the promise. What
    /// is not here then is gone, and records that name it are misses. Gives whether there was anything to forget.
    ///
    /// # Errors
    /// If the metadata cannot be written.
    pub fn forget_remotes(&self, blob: &Digest) -> Result<bool, StoreError> {
        self.inner.meta.write("forget a remote", |tx| {
            let layers = "SELECT layer FROM layer_blobs WHERE digest = ?1";
            let gone = tx.execute(&format!("DELETE FROM remotes WHERE layer IN ({layers})"), [blob.as_str()])?;
            Ok(gone > 0)
        })
    }

    /// The layers that have one of these blobs.
    ///
    /// # Errors
    /// If the metadata cannot be read.
    pub fn layers_of_blobs(&self, blobs: &HashSet<Digest>) -> Result<HashSet<LayerId>, StoreError> {
        self.inner.meta.read("look up layers", |c| {
            let mut query = c.prepare_cached("SELECT layer FROM layer_blobs WHERE digest = ?1")?;
            let mut found = HashSet::new();
            for blob in blobs {
                for layer in query.query_map([blob.as_str()], |row| row.get(0))? {
                    found.insert(LayerId(layer?));
                }
            }
            Ok(found)
        })
    }

    /// Registries that are known to have a layer's blob.
    ///
    /// # Errors
    /// If the metadata cannot be read.
    pub fn remotes_of(&self, blob: &Digest) -> Result<Vec<RemoteBlob>, StoreError> {
        let rows: Vec<(String, String, String)> = self.inner.meta.read("look up remotes", |c| {
            c.prepare_cached("SELECT DISTINCT host, repository, descriptor FROM remotes WHERE digest = ?1")?
                .query_map([blob.as_str()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
                .collect()
        })?;
        let parse = |(host, repository, json): (String, String, String)| {
            Some(RemoteBlob { host, repository, descriptor: serde_json::from_str(&json).ok()? })
        };
        Ok(rows.into_iter().filter_map(parse).collect())
    }

    /// What is known of a layer.
    ///
    /// # Errors
    /// [`StoreError::NoLayer`] if there is no such layer.
    pub fn layer(&self, id: &LayerId) -> Result<LayerRecord, StoreError> {
        let dialect = self.dialect()?;
        self.inner
            .meta
            .read("read a layer", |c| self.read_layer(c, id, &dialect))?
            .ok_or_else(|| StoreError::NoLayer { id: id.clone() })
    }

    /// The layers of `chain` that have neither a directory in the dialect in use nor a local blob: their blobs must be
    /// put into the content store before [`Store::mount`].
    ///
    /// # Errors
    /// [`StoreError::NoLayer`] for a layer that does not exist, [`StoreError::NotLocal`] for one that has no blob at
    /// all any more.
    pub fn blobs_needed(&self, chain: &[LayerId]) -> Result<Vec<NeededBlob>, StoreError> {
        let mut needed = Vec::new();
        // A tree of a whole prefix makes the layers below it unnecessary with the native snapshotter.
        let first = self.first_missing(chain)?;
        for (index, id) in chain.iter().enumerate().skip(first) {
            if self.find_dir(&chain[..=index])?.is_some() {
                continue;
            }
            let record = self.layer(id)?;
            let mut local = false;
            for blob in record.blobs.iter().filter(|b| record.is_own(b)) {
                if self.has_blob(&blob.digest)?.is_some() {
                    local = true;
                    break;
                }
            }
            if local || self.can_rebuild(&record)? {
                continue;
            }
            // Any pulled blob will do; prefer one that a registry is known to have.
            let blob = record
                .blobs
                .iter()
                .find(|b| record.is_own(b) && record.remotes.iter().any(|r| r.descriptor.digest == b.digest))
                .or_else(|| record.blobs.iter().find(|b| record.is_own(b)))
                .ok_or_else(|| StoreError::NotLocal { id: id.clone() })?;
            let mut remotes = record.remotes.clone();
            remotes.retain(|r| r.descriptor.digest == blob.digest);
            let descriptor = remotes.first().map_or_else(|| blob.descriptor(), |r| r.descriptor.clone());
            needed.push(NeededBlob { layer: id.clone(), descriptor, remotes });
        }
        Ok(needed)
    }

    /// A layer's row with everything attached, or `None`.
    pub(crate) fn read_layer(
        &self,
        c: &Connection,
        id: &LayerId,
        dialect: &str,
    ) -> rusqlite::Result<Option<LayerRecord>> {
        let row = c
            .prepare_cached("SELECT description, created, diff_id, parents FROM layers WHERE id = ?1")?
            .query_row([&id.0], |row| {
                Ok((
                    row.get::<_, String>(0)?,
                    row.get::<_, i64>(1)?,
                    row.get::<_, Option<String>>(2)?,
                    row.get::<_, String>(3)?,
                ))
            })
            .optional()?;
        let Some((description, created, diff_id, parents)) = row else { return Ok(None) };
        let blobs = read_blobs(c, id)?;
        let remotes = c
            .prepare_cached(
                "SELECT host, repository, descriptor FROM remotes WHERE layer = ?1 ORDER BY host, repository",
            )?
            .query_map([&id.0], |row| Ok((row.get(0)?, row.get(1)?, row.get::<_, String>(2)?)))?
            .filter_map(|row| {
                row.map(|(host, repository, json)| {
                    let descriptor = serde_json::from_str(&json).ok()?;
                    Some(RemoteBlob { host, repository, descriptor })
                })
                .transpose()
            })
            .collect::<rusqlite::Result<_>>()?;
        let materialised = self.dirs_of(c, id, dialect)?;
        Ok(Some(LayerRecord {
            id: id.clone(),
            description,
            created: from_nanos(created),
            diff_id: diff_id.and_then(|d| d.parse().ok()),
            parents: serde_json::from_str(&parents).unwrap_or_default(),
            blobs,
            remotes,
            materialised,
        }))
    }
}

fn register(
    tx: &Transaction<'_>,
    chain: &ChainId,
    diff_id: &DiffId,
    descriptor: &Descriptor,
    remote: Option<(&str, &str)>,
    description: &str,
    created: i64,
) -> Result<LayerId, TxError> {
    let codec = layer_codec(&descriptor.media_type)
        .ok_or_else(|| StoreError::Misuse(format!("\"{}\" is not the media type of a layer", descriptor.media_type)))?;
    let id = LayerId(chain.to_string());
    if !mark(tx, "layers", "id", &id.0)? {
        insert_layer(tx, &id, description, &[], Some(diff_id))?;
        tx.prepare_cached("UPDATE layers SET created = ?2 WHERE id = ?1")?.execute((&id.0, created))?;
    }
    let blob = LayerBlob {
        digest: descriptor.digest.clone(),
        size: descriptor.size,
        codec,
        level: None,
        epoch: None,
        diff_id: diff_id.clone(),
        media_type: descriptor.media_type.clone(),
    };
    insert_blob(tx, &id, &blob)?;
    mark(tx, "blobs", "digest", blob.digest.as_str())?;
    if let Some((host, repository)) = remote {
        insert_remote(tx, &id, host, repository, descriptor)?;
    }
    Ok(id)
}

/// Blobs of a layer, those without transformations first.
pub(crate) fn read_blobs(c: &Connection, id: &LayerId) -> rusqlite::Result<Vec<LayerBlob>> {
    c.prepare_cached(
        "SELECT digest, size, codec, level, epoch, diff_id, media_type FROM layer_blobs WHERE layer = ?1
         ORDER BY epoch IS NOT NULL, digest",
    )?
    .query_map([&id.0], read_blob)?
    .collect()
}

fn read_blob(row: &Row<'_>) -> rusqlite::Result<LayerBlob> {
    let parsed = |index: usize, text: String| {
        text.parse()
            .map_err(|e| rusqlite::Error::FromSqlConversionFailure(index, rusqlite::types::Type::Text, Box::new(e)))
    };
    Ok(LayerBlob {
        digest: parsed(0, row.get(0)?)?,
        size: row.get(1)?,
        codec: codec_from(&row.get::<_, String>(2)?),
        level: row.get(3)?,
        epoch: row.get(4)?,
        diff_id: DiffId(parsed(5, row.get(5)?)?),
        media_type: row.get(6)?,
    })
}

fn codec_from(text: &str) -> Codec {
    match text {
        "uncompressed" => Codec::Uncompressed,
        "zstd" => Codec::Zstd,
        _ => Codec::Gzip,
    }
}

fn codec_text(codec: Codec) -> &'static str {
    match codec {
        Codec::Uncompressed => "uncompressed",
        Codec::Gzip => "gzip",
        Codec::Zstd => "zstd",
    }
}

/// The media type of a blob made here; exporters that write Docker's family replace it.
pub(crate) fn own_media_type(codec: Codec) -> String {
    Family::Oci.layer(codec).to_owned()
}

/// What IDs of layers made here begin with.
const COMMITTED: &str = "layer-";

/// A new layer ID for a change whose content is not known yet.
pub(crate) fn new_id() -> Result<LayerId, StoreError> {
    Ok(LayerId(format!("{COMMITTED}{}", random_name()?)))
}

pub(crate) fn insert_layer(
    tx: &Transaction<'_>,
    id: &LayerId,
    description: &str,
    parents: &[LayerId],
    diff_id: Option<&DiffId>,
) -> Result<(), TxError> {
    let json = serde_json::to_string(parents).expect("because these are strings");
    tx.prepare_cached(
        "INSERT INTO layers (id, description, parents, depth, diff_id, created, last_used, usage, used_gen)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6, 1, ?7)",
    )?
    .execute((
        &id.0,
        description,
        json,
        parents.len(),
        diff_id.map(DiffId::to_string),
        now(),
        meta::generation(tx)?,
    ))?;
    Ok(())
}

/// That a registry holds a layer's blob.
pub(crate) fn insert_remote(
    tx: &Transaction<'_>,
    id: &LayerId,
    host: &str,
    repository: &str,
    descriptor: &Descriptor,
) -> Result<(), TxError> {
    let json = serde_json::to_string(descriptor).expect("because descriptors have string keys only");
    tx.prepare_cached("INSERT OR REPLACE INTO remotes VALUES (?1, ?2, ?3, ?4, ?5)")?.execute((
        &id.0,
        host,
        repository,
        descriptor.digest.as_str(),
        json,
    ))?;
    Ok(())
}

pub(crate) fn insert_blob(tx: &Transaction<'_>, id: &LayerId, blob: &LayerBlob) -> Result<(), TxError> {
    tx.prepare_cached("INSERT OR IGNORE INTO layer_blobs VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?.execute((
        &id.0,
        blob.digest.as_str(),
        blob.size,
        codec_text(blob.codec),
        blob.level,
        blob.epoch,
        blob.diff_id.to_string(),
        &blob.media_type,
    ))?;
    Ok(())
}
