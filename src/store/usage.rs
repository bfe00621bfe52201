//! What the store occupies, item by item (SPEC B8.03, C4.11). The sizes add up to what `du` says about the directory.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rusqlite::Transaction;

use crate::base::Digest;

use super::cache_mount::is_git_repository;
use super::history::is_running;
use super::lock::is_held;
use super::meta::{from_nanos, now};
use super::sweep::list;
use super::tree::{allocated, allocated_here};
use super::{ImageRecord, LayerId, Store, StoreError};

mod filter;

pub use filter::Filter;

/// The kinds of things a store holds, with BuildKit's names (SPEC C4.11).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UsageKind {
    /// A layer, or a blob that no layer claims.
    Regular,
    /// The store's own files, and content that images need.
    Internal,
    /// The index of a build context.
    SourceLocal,
    /// A cache mount.
    CacheMount,
    /// The copy of a git repository that sources are checked out from.
    SourceGit,
}

impl UsageKind {
    /// The name in listings and filters.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Regular => "regular",
            Self::Internal => "internal",
            Self::SourceLocal => "source.local",
            Self::CacheMount => "exec.cachemount",
            Self::SourceGit => "source.git.checkout",
        }
    }
}

/// One item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageRecord {
    /// Unique in the store.
    pub id: String,
    /// What it is.
    pub kind: UsageKind,
    /// For people.
    pub description: String,
    /// Bytes on the disk.
    pub size: u64,
    /// How many of them `prune` could free now.
    pub reclaimable: u64,
    /// When it was made.
    pub created: SystemTime,
    /// When it was last used.
    pub last_used: SystemTime,
    /// How often.
    pub usage: u64,
    /// A running build uses it, or an image needs it.
    pub in_use: bool,
    /// Can change: cache mounts and context indexes.
    pub mutable: bool,
    /// An image or another layer has the same content.
    pub shared: bool,
    /// The layers below, bottom first.
    pub parents: Vec<String>,
}

/// An item with what the collector must know.
pub(crate) struct Item {
    pub(crate) record: UsageRecord,
    pub(crate) what: What,
    /// Of several last used at once the upper layers go first.
    pub(crate) depth: u64,
}

pub(crate) enum What {
    Layer(LayerId),
    Blob(Digest),
    Mount(String),
    Context(PathBuf),
    History(PathBuf),
    Fixed,
}

struct LayerRow {
    id: String,
    description: String,
    parents: String,
    depth: u64,
    diff_id: Option<String>,
    created: i64,
    last_used: i64,
    usage: u64,
    used_gen: i64,
}

struct DirRow {
    name: String,
    bytes: Option<u64>,
    durable: bool,
}

struct BlobRow {
    digest: String,
    created: i64,
    last_used: i64,
    used_gen: i64,
}

struct MountRow {
    name: String,
    id: String,
    created: i64,
    last_used: i64,
    usage: u64,
    bytes: Option<u64>,
    measured: i64,
}

/// Everything the rows say, read in one go.
struct Rows {
    oldest: i64,
    layers: Vec<LayerRow>,
    dirs: HashMap<String, Vec<DirRow>>,
    blobs: Vec<BlobRow>,
    layer_blobs: Vec<(String, String)>,
    mounts: Vec<MountRow>,
}

/// What is known of blobs while items are made.
#[derive(Default)]
struct Content<'a> {
    /// Images need these.
    pinned: HashSet<String>,
    sizes: HashMap<&'a str, u64>,
    /// How many layers have a blob.
    claims: HashMap<&'a str, u32>,
    of_layer: HashMap<&'a str, Vec<&'a str>>,
    /// Blobs that are part of an item already.
    counted: HashSet<&'a str>,
    /// The same for indexes, by diff ID.
    indexed: HashSet<&'a str>,
}

impl Store {
    /// Everything the store holds, with its size on the disk.
    ///
    /// # Errors
    /// If the metadata or a directory cannot be read.
    pub fn disk_usage(&self) -> Result<Vec<UsageRecord>, StoreError> {
        Ok(self.inventory()?.into_iter().map(|item| item.record).collect())
    }

    pub(crate) fn inventory(&self) -> Result<Vec<Item>, StoreError> {
        let rows = self.inner.meta.write("list the store", |tx| self.rows(tx))?;
        let mut content = Content {
            pinned: self.blobs_of_images(&self.images()?)?,
            sizes: rows.blobs.iter().map(|row| (row.digest.as_str(), self.blob_size(&row.digest))).collect(),
            ..Content::default()
        };
        for (layer, digest) in &rows.layer_blobs {
            *content.claims.entry(digest).or_default() += 1;
            content.of_layer.entry(layer).or_default().push(digest);
        }
        let mut items = Vec::new();
        for row in &rows.layers {
            items.push(self.layer_item(row, &rows, &mut content)?);
        }
        for row in rows.blobs.iter().filter(|row| !content.counted.contains(row.digest.as_str())) {
            items.extend(blob_item(row, rows.oldest, &content));
        }
        for row in &rows.mounts {
            items.push(self.mount_item(row)?);
        }
        self.file_items(&mut items)?;
        items.push(self.fixed_item(&rows)?);
        Ok(items)
    }

    /// A layer with its directories, its index and those of its blobs that no layer before it has.
    fn layer_item<'a>(&self, row: &'a LayerRow, rows: &'a Rows, content: &mut Content<'a>) -> Result<Item, StoreError> {
        let in_use = row.used_gen >= rows.oldest;
        let mut size = 0;
        for dir in rows.dirs.get(&row.id).into_iter().flatten() {
            size += self.dir_size(dir)?;
        }
        let mut reclaimable = size;
        let (mut shared, mut pinned) = (false, false);
        for digest in content.of_layer.get(row.id.as_str()).cloned().into_iter().flatten() {
            let needed = content.pinned.contains(digest);
            pinned |= needed;
            shared |= needed || content.claims.get(digest).is_some_and(|n| *n > 1);
            if content.counted.insert(digest) {
                let bytes = content.sizes.get(digest).copied().unwrap_or(0);
                size += bytes;
                reclaimable += if needed { 0 } else { bytes };
            }
        }
        // The index goes with the row, which stays as long as a blob does.
        if let Some(diff_id) = row.diff_id.as_deref().filter(|diff_id| content.indexed.insert(diff_id))
            && let Ok(diff_id) = diff_id.parse()
        {
            let bytes = allocated_here(&self.inner.layout.index(&diff_id));
            size += bytes;
            reclaimable += if pinned { 0 } else { bytes };
        }
        let record = UsageRecord {
            id: row.id.clone(),
            kind: UsageKind::Regular,
            description: row.description.clone(),
            size,
            reclaimable: if in_use { 0 } else { reclaimable },
            created: from_nanos(row.created),
            last_used: from_nanos(row.last_used),
            usage: row.usage,
            in_use,
            mutable: false,
            shared,
            parents: serde_json::from_str(&row.parents).unwrap_or_default(),
        };
        Ok(Item { record, what: What::Layer(LayerId(row.id.clone())), depth: row.depth })
    }

    fn mount_item(&self, row: &MountRow) -> Result<Item, StoreError> {
        let in_use = is_held(&self.mount_lock_path(&row.name))?;
        let size = match row.bytes {
            Some(bytes) if !in_use && row.measured > row.last_used => bytes,
            _ => {
                let path = self.inner.layout.mounts().join(&row.name);
                let (started, size) = (now(), allocated(&path).map_err(StoreError::io("measure", &path))?);
                self.inner.meta.write("note a size", |tx| {
                    Ok(tx.execute(
                        "UPDATE mounts SET bytes = ?2, measured = ?3 WHERE name = ?1",
                        (&row.name, size, started),
                    )?)
                })?;
                size
            }
        };
        let (kind, what) = match is_git_repository(&row.name) {
            true => (UsageKind::SourceGit, "git repository"),
            false => (UsageKind::CacheMount, "cache mount"),
        };
        Ok(Item {
            record: UsageRecord {
                id: row.name.clone(),
                kind,
                description: format!("{what} {}", row.id),
                size,
                reclaimable: if in_use { 0 } else { size },
                created: from_nanos(row.created),
                last_used: from_nanos(row.last_used),
                usage: row.usage,
                in_use,
                mutable: true,
                shared: false,
                parents: Vec::new(),
            },
            what: What::Mount(row.name.clone()),
            depth: 0,
        })
    }

    /// Context indexes and histories, which have no rows.
    fn file_items(&self, items: &mut Vec<Item>) -> Result<(), StoreError> {
        for path in list(&self.inner.layout.contexts())? {
            let context = super::context::context_of(&path);
            let (description, last_used) = match context {
                Some((context, used)) => (format!("index of the context {}", context.display()), used),
                None => ("damaged context index".into(), SystemTime::UNIX_EPOCH),
            };
            let size = allocated_here(&path);
            items.push(Item {
                record: plain_record(&path, UsageKind::SourceLocal, description, size, last_used),
                what: What::Context(path),
                depth: 0,
            });
        }
        for path in list(&self.inner.layout.explanations()).unwrap_or_default() {
            let modified = fs::metadata(&path).and_then(|m| m.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
            let (size, description) = (allocated_here(&path), "what steps of a project depended on".to_owned());
            items.push(Item {
                record: plain_record(&path, UsageKind::SourceLocal, description, size, modified),
                what: What::Context(path),
                depth: 0,
            });
        }
        for path in list(&self.inner.layout.history())? {
            let size = allocated(&path).map_err(StoreError::io("measure", &path))?;
            let modified = fs::metadata(&path).and_then(|m| m.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
            let running = is_running(&path)?;
            items.push(Item {
                record: UsageRecord {
                    reclaimable: if running { 0 } else { size },
                    in_use: running,
                    ..plain_record(&path, UsageKind::Internal, "log and report of a build".into(), size, modified)
                },
                what: What::History(path),
                depth: 0,
            });
        }
        Ok(())
    }

    /// Directories, metadata, locks, work in progress, trash, and what no row knows.
    fn fixed_item(&self, rows: &Rows) -> Result<Item, StoreError> {
        let known_dirs: HashSet<&str> = rows.dirs.values().flatten().map(|dir| dir.name.as_str()).collect();
        let layout = &self.inner.layout;
        let measure = |path: &Path| allocated(path).map_err(StoreError::io("measure", path));
        let mut size = allocated_here(&layout.root);
        for dir in [
            layout.oci(),
            layout.blobs(),
            layout.snapshots(),
            layout.indexes(),
            layout.contexts(),
            layout.mounts(),
            layout.history(),
            layout.explanations(),
        ] {
            size += allocated_here(&dir);
        }
        for path in [layout.trash(), layout.tmp(), layout.locks(), layout.leases()] {
            size += measure(&path)?;
        }
        for path in list(&layout.root)?.into_iter().chain(list(&layout.oci())?).filter(|path| path.is_file()) {
            size += allocated_here(&path);
        }
        let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for path in list(&layout.snapshots())?.into_iter().filter(|path| !known_dirs.contains(name(path).as_str())) {
            size += measure(&path)?;
        }
        let known_blobs: HashSet<&str> = rows.blobs.iter().map(|row| row.digest.as_str()).collect();
        for algorithm in list(&layout.blobs())? {
            size += allocated_here(&algorithm);
            for path in list(&algorithm)? {
                if !known_blobs.contains(format!("{}:{}", name(&algorithm), name(&path)).as_str()) {
                    size += allocated_here(&path);
                }
            }
        }
        let indexes: HashSet<String> = rows.layers.iter().filter_map(|row| row.diff_id.clone()).collect();
        for path in list(&layout.indexes())? {
            if !indexes.contains(&format!("sha256:{}", name(&path))) {
                size += allocated_here(&path);
            }
        }
        let mounts: HashSet<&str> = rows.mounts.iter().map(|row| row.name.as_str()).collect();
        for path in list(&layout.mounts())?.into_iter().filter(|path| !mounts.contains(name(path).as_str())) {
            size += measure(&path)?;
        }
        let mut record = plain_record(
            Path::new("store"),
            UsageKind::Internal,
            "metadata and work in progress".into(),
            size,
            SystemTime::now(),
        );
        record.in_use = true;
        record.reclaimable = 0;
        Ok(Item { record, what: What::Fixed, depth: 0 })
    }

    /// The size of a layer directory; measured once, and remembered when its blocks cannot change any more.
    fn dir_size(&self, row: &DirRow) -> Result<u64, StoreError> {
        if let Some(bytes) = row.bytes {
            return Ok(bytes);
        }
        let path = self.inner.layout.snapshots().join(&row.name);
        let bytes = allocated(&path).map_err(StoreError::io("measure", &path))?;
        // Before the sync blocks are only reserved, and may turn out fewer.
        if row.durable {
            self.inner.meta.write("note a size", |tx| {
                Ok(tx.execute("UPDATE dirs SET bytes = ?2 WHERE name = ?1", (&row.name, bytes))?)
            })?;
        }
        Ok(bytes)
    }

    fn blob_size(&self, digest: &str) -> u64 {
        digest.parse().map_or(0, |digest| allocated_here(&self.inner.layout.blob(&digest)))
    }

    /// Digests of everything that images consist of.
    pub(crate) fn blobs_of_images(&self, images: &[ImageRecord]) -> Result<HashSet<String>, StoreError> {
        let mut pinned = HashSet::new();
        for image in images {
            let found = self.blobs_of(&image.descriptor)?;
            pinned.extend(found.blobs.iter().map(Digest::to_string));
        }
        Ok(pinned)
    }

    fn rows(&self, tx: &Transaction<'_>) -> Result<Rows, super::meta::TxError> {
        let oldest = self.oldest_lease(tx)?;
        let layers = tx
            .prepare_cached(
                "SELECT id, description, parents, depth, diff_id, created, last_used, usage, used_gen FROM layers ORDER BY id",
            )?
            .query_map([], |row| {
                Ok(LayerRow {
                    id: row.get(0)?,
                    description: row.get(1)?,
                    parents: row.get(2)?,
                    depth: row.get(3)?,
                    diff_id: row.get(4)?,
                    created: row.get(5)?,
                    last_used: row.get(6)?,
                    usage: row.get(7)?,
                    used_gen: row.get(8)?,
                })
            })?
            .collect::<rusqlite::Result<Vec<_>>>()?;
        let mut dirs: HashMap<String, Vec<DirRow>> = HashMap::new();
        let mut statement = tx.prepare_cached("SELECT layer, name, bytes, durable FROM dirs")?;
        let mut found = statement.query([])?;
        while let Some(row) = found.next()? {
            let dir = DirRow { name: row.get(1)?, bytes: row.get(2)?, durable: row.get(3)? };
            dirs.entry(row.get(0)?).or_default().push(dir);
        }
        let blobs = tx
            .prepare_cached("SELECT digest, created, last_used, used_gen FROM blobs ORDER BY digest")?
            .query_map([], |row| {
                Ok(BlobRow { digest: row.get(0)?, created: row.get(1)?, last_used: row.get(2)?, used_gen: row.get(3)? })
            })?
            .collect::<rusqlite::Result<Vec<_>>>()?;
        let layer_blobs = tx
            .prepare_cached("SELECT layer, digest FROM layer_blobs ORDER BY layer, digest")?
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<rusqlite::Result<Vec<_>>>()?;
        let mounts = tx
            .prepare_cached("SELECT name, id, created, last_used, usage, bytes, measured FROM mounts ORDER BY name")?
            .query_map([], |row| {
                Ok(MountRow {
                    name: row.get(0)?,
                    id: row.get(1)?,
                    created: row.get(2)?,
                    last_used: row.get(3)?,
                    usage: row.get(4)?,
                    bytes: row.get(5)?,
                    measured: row.get(6)?,
                })
            })?
            .collect::<rusqlite::Result<Vec<_>>>()?;
        Ok(Rows { oldest, layers, dirs, blobs, layer_blobs, mounts })
    }
}

/// A blob that no layer has; `None` if its digest cannot be read.
fn blob_item(row: &BlobRow, oldest: i64, content: &Content<'_>) -> Option<Item> {
    let digest = row.digest.parse().ok()?;
    let size = content.sizes.get(row.digest.as_str()).copied().unwrap_or(0);
    let needed = content.pinned.contains(&row.digest);
    let in_use = needed || row.used_gen >= oldest;
    let record = UsageRecord {
        id: row.digest.clone(),
        kind: if needed { UsageKind::Internal } else { UsageKind::Regular },
        description: if needed { "content of an image".into() } else { "content".into() },
        size,
        reclaimable: if in_use { 0 } else { size },
        created: from_nanos(row.created),
        last_used: from_nanos(row.last_used),
        usage: 0,
        in_use,
        mutable: false,
        shared: needed,
        parents: Vec::new(),
    };
    Some(Item { record, what: What::Blob(digest), depth: 0 })
}

fn plain_record(path: &Path, kind: UsageKind, description: String, size: u64, last_used: SystemTime) -> UsageRecord {
    UsageRecord {
        id: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        kind,
        description,
        size,
        reclaimable: size,
        created: last_used,
        last_used,
        usage: 0,
        in_use: false,
        mutable: kind == UsageKind::SourceLocal,
        shared: false,
        parents: Vec::new(),
    }
}
