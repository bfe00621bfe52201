//! Making a chain of layers visible, and keeping what was written on top.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Transaction};

use crate::archive::{
    ApplyOptions, ApplySummary, EntryKind, MergedIndex, Note, NoteKind, ReadAhead, Timestamp, TreeIndex, decompressor,
    index_layer,
};

use super::copy::copy_live_tree;
use super::layer::{insert_layer, new_id, read_blobs};
use super::lease::{Lease, mark};
use super::meta::{self, TxError, now};
use super::snapshot::{Snapshotter, View, ViewRequest};
use super::stub::{Stub, set_root_mtime};
use super::sweep::Owner;
use super::tree::remove_tree;
use super::whole::Held;
use super::{LayerBlob, LayerId, LayerRecord, Store, StoreError};
use crate::base::Digest;

/// How to mount.
#[derive(Debug, Clone, Default)]
pub struct MountRequest {
    /// Something will be written, and perhaps committed.
    pub writable: bool,
    /// Mountpoints that must exist in the view but never enter the layer.
    pub stubs: Vec<Stub>,
    /// Nobody else in this build needs the chain's last layer: where file systems are whole trees, its tree may be changed
    /// instead of a copy. (It can be made again.)
    pub last: bool,
}

impl MountRequest {
    /// A view that nothing is written to.
    #[must_use]
    pub fn read_only() -> Self {
        Self::default()
    }

    /// The same for the last reader of what is below.
    #[must_use]
    pub fn as_last(self, last: bool) -> Self {
        Self { last, ..self }
    }

    /// A view to write to, with these mountpoints.
    #[must_use]
    pub fn writable(stubs: Vec<Stub>) -> Self {
        Self { writable: true, stubs, last: false }
    }
}

/// A file system made visible. Dropped without [`Mounted::commit`], what was written is discarded.
#[derive(Debug)]
pub struct Mounted {
    store: Store,
    chain: Vec<LayerId>,
    view: View,
    scratch: PathBuf,
    mountpoint: PathBuf,
    snapshotter: Arc<dyn Snapshotter>,
    /// Others may have descriptors of it that they can write with.
    exposed: bool,
    /// Keeps a whole tree from being changed.
    _tree: Held,
    /// Keeps the layers below from being collected.
    _lease: Lease,
    _owner: Arc<Owner>,
}

/// A directory of the store.
#[derive(Debug, Clone)]
pub(crate) struct Dir {
    pub(crate) path: PathBuf,
    pub(crate) copied_at: Option<Timestamp>,
}

impl Store {
    /// Makes `chain` (bottom first; empty for nothing at all) visible. Layers without a directory are unpacked from
    /// their local blobs first.
    ///
    /// # Errors
    /// [`StoreError::NotLocal`] if a layer has to be downloaded first, see [`Store::blobs_needed`]; otherwise what the
    /// kernel or the archive says.
    pub fn mount(&self, chain: &[LayerId], request: &MountRequest) -> Result<Mounted, StoreError> {
        self.visible(chain, request, |snapshotter, scratch| self.show(chain, request, scratch, snapshotter))
    }

    /// Makes a directory of this machine visible, to be written to: what is written stays in the view. It is never committed.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn mount_directory(&self, dir: &Path) -> Result<Mounted, StoreError> {
        let request = MountRequest::writable(Vec::new());
        self.visible(&[], &request, |_, _| Ok((Held::layers(vec![dir.to_owned()]), false)))
    }

    /// Makes what `show` finds visible.
    fn visible(
        &self,
        chain: &[LayerId],
        request: &MountRequest,
        show: impl FnOnce(&dyn Snapshotter, &Path) -> Result<(Held, bool), StoreError>,
    ) -> Result<Mounted, StoreError> {
        let lease = self.lease()?;
        let snapshotter = self.snapshotter()?;
        self.mark_chain(chain)?;
        let owner = self.owner()?;
        let scratch = owner.dir("view")?;
        let (held, taken) = match show(&*snapshotter, &scratch) {
            Ok(shown) => shown,
            Err(e) => {
                let _ = remove_tree(&scratch);
                return Err(e);
            }
        };
        let mountpoint = match &self.inner.options.mount_dir {
            // The owner's name makes it unique among processes that share the directory.
            Some(dir) => {
                let owner_name = scratch.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
                let name = scratch.file_name().unwrap_or_default().to_string_lossy();
                dir.join(format!("{owner_name}-{name}"))
            }
            None => {
                // All in one place, where a sweep of what a dead owner left looks for mounts.
                let dir = scratch.with_file_name("mnt");
                fs::create_dir_all(&dir).map_err(StoreError::io("create", &dir))?;
                dir.join(scratch.file_name().unwrap_or_default())
            }
        };
        let view = snapshotter.view(&ViewRequest {
            dirs: &held.dirs,
            taken,
            writable: request.writable,
            stubs: &request.stubs,
            scratch: &scratch,
            mountpoint: &mountpoint,
        });
        let view = match view {
            Ok(view) => view,
            Err(e) => {
                let _ = fs::remove_dir(&mountpoint);
                let _ = remove_tree(&scratch);
                return Err(e);
            }
        };
        Ok(Mounted {
            store: self.clone(),
            chain: chain.to_vec(),
            view,
            scratch,
            mountpoint,
            snapshotter,
            exposed: false,
            _tree: held,
            _lease: lease,
            _owner: owner,
        })
    }

    /// The directories that show `chain`, or nothing and `true` if its tree is in `scratch` now.
    fn show(
        &self,
        chain: &[LayerId],
        request: &MountRequest,
        scratch: &Path,
        snapshotter: &dyn Snapshotter,
    ) -> Result<(Held, bool), StoreError> {
        let may_take = request.writable && request.last && !snapshotter.per_layer();
        if may_take {
            drop(self.hold_tree(chain, true, snapshotter)?);
            if self.take_tree(chain, &scratch.join("fs"))? {
                return Ok((Held::default(), true));
            }
        }
        Ok((self.materialise(chain)?, false))
    }

    /// What the layer contains, if its stream was read or written before.
    ///
    /// # Errors
    /// [`StoreError::NoLayer`], or if the stored index is damaged.
    pub fn tree_index(&self, id: &LayerId) -> Result<Option<TreeIndex>, StoreError> {
        let Some(diff_id) = self.layer(id)?.diff_id else { return Ok(None) };
        let path = self.inner.layout.index(&diff_id.0);
        match fs::read(&path) {
            // An index can be made again from the blob, so damage is as good as absence.
            Ok(bytes) => Ok(TreeIndex::from_bytes(&bytes).ok()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(StoreError::io("read", path)(e)),
        }
    }

    /// What each layer of `chain` contains. Streams of pulled layers that nobody has read are read once. `None` if only
    /// directories can tell.
    ///
    /// # Errors
    /// A damaged blob, or what the file system says.
    pub fn tree_indexes(&self, chain: &[LayerId]) -> Result<Option<Vec<TreeIndex>>, StoreError> {
        let mut indexes: Vec<TreeIndex> = Vec::with_capacity(chain.len());
        for id in chain {
            let index = match self.tree_index(id)? {
                Some(index) => index,
                None => match self.read_index(id, &indexes)? {
                    Some(index) => index,
                    None => return Ok(None),
                },
            };
            indexes.push(index);
        }
        Ok(Some(indexes))
    }

    /// Reads a layer's blob for its index alone.
    fn read_index(&self, id: &LayerId, below: &[TreeIndex]) -> Result<Option<TreeIndex>, StoreError> {
        let archive = |source| StoreError::Archive { action: "read", id: id.clone(), source: Box::new(source) };
        let mut local = None;
        let record = self.layer(id)?;
        for blob in record.blobs.iter().filter(|blob| record.is_own(blob)) {
            if self.has_blob(&blob.digest)?.is_some() {
                local = Some(blob);
                break;
            }
        }
        let Some(blob) = local else { return Ok(None) };
        let mut tar = decompressor(self.open_blob(&blob.digest)?, blob.codec).map_err(archive)?;
        let summary = index_layer(&mut tar, &ApplyOptions::default()).map_err(archive)?;
        if summary.diff_id != blob.diff_id {
            return Err(StoreError::DiffIdMismatch {
                id: id.clone(),
                what: format!("blob {}", blob.digest),
                expected: blob.diff_id.clone(),
                actual: summary.diff_id,
            });
        }
        // Names that lead through a link of a lower layer mean something else once they are unpacked.
        let merged = MergedIndex::new(below);
        let mut checked: Option<PathBuf> = None;
        for found in summary.index.iter() {
            let parent = found.entry.path.parent().unwrap_or(Path::new(""));
            if checked.as_deref() == Some(parent) {
                continue;
            }
            let straight = parent.ancestors().all(|dir| {
                let here = summary.index.lookup(dir).or_else(|| merged.lookup(dir));
                here.is_none_or(|found| found.entry.kind == EntryKind::Dir)
            });
            if !straight {
                return Ok(None);
            }
            checked = Some(parent.to_path_buf());
        }
        self.keep_index(&summary.diff_id.0, &summary.index)?;
        Ok(Some(summary.index))
    }

    /// Whether [`Store::mount`] has nothing to unpack for `chain`.
    ///
    /// # Errors
    /// If the metadata cannot be read.
    pub fn is_materialised(&self, chain: &[LayerId]) -> Result<bool, StoreError> {
        if !self.snapshotter()?.per_layer() {
            return Ok(chain.is_empty() || self.find_dir(chain)?.is_some());
        }
        for end in 1..=chain.len() {
            if self.find_dir(&chain[..end])?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The directories that show `chain`, bottom first (native: the one tree); what is missing is unpacked.
    pub(super) fn materialise(&self, chain: &[LayerId]) -> Result<Held, StoreError> {
        let snapshotter = self.snapshotter()?;
        if !snapshotter.per_layer() {
            return self.hold_tree(chain, false, &*snapshotter);
        }
        let chain = without_repetitions(chain);
        let mut dirs = Vec::with_capacity(chain.len());
        for end in 1..=chain.len() {
            let part = &chain[..end];
            let dir = match self.find_dir(part)? {
                Some(dir) => dir.path,
                None => self.unpack(&chain[..end - 1], &dirs, &part[end - 1..], &*snapshotter)?,
            };
            dirs.push(dir);
        }
        Ok(Held::layers(dirs))
    }

    /// With the native snapshotter the length of the longest prefix that has a tree; 0 with overlay.
    pub(crate) fn first_missing(&self, chain: &[LayerId]) -> Result<usize, StoreError> {
        if self.snapshotter()?.per_layer() {
            return Ok(0);
        }
        for end in (1..=chain.len()).rev() {
            if self.find_dir(&chain[..end])?.is_some() {
                return Ok(end);
            }
        }
        Ok(0)
    }

    /// Unpacks `layers` on top of the file system `below` (whose directories are `below_dirs`) into one new directory.
    fn unpack(
        &self,
        below: &[LayerId],
        below_dirs: &[PathBuf],
        layers: &[LayerId],
        snapshotter: &dyn Snapshotter,
    ) -> Result<PathBuf, StoreError> {
        let chain: Vec<LayerId> = below.iter().chain(layers).cloned().collect();
        let key = snapshotter.key(&chain);
        let dialect = self.dialect()?;
        let _lock = self.dir_lock(&key, &dialect)?;
        // Somebody else may have done it while we waited.
        if let Some(dir) = self.find_dir(&chain)? {
            return Ok(dir.path);
        }
        let owner = self.owner()?;
        let scratch = owner.dir("layer")?;
        let target = scratch.join("fs");
        let made = fs::create_dir(&target).map_err(StoreError::io("create", &target)).and_then(|()| {
            snapshotter.prepare(&target, below_dirs).map_err(StoreError::io("prepare", &target))?;
            self.unpack_into(&target, below_dirs, layers, snapshotter)
        });
        let result = made.and_then(|_| {
            let top = layers.last().ok_or_else(|| StoreError::Misuse("no layers to unpack".into()))?;
            self.inner.meta.write("add a layer directory", |tx| self.adopt_dir(tx, &scratch, top, &key, &dialect, None))
        });
        if result.is_err() {
            let _ = remove_tree(&scratch);
        }
        result
    }

    /// Unpacks `layers` into `target`, which is prepared for the first of them. Says whether all became what the layers say.
    pub(super) fn unpack_into(
        &self,
        target: &Path,
        below_dirs: &[PathBuf],
        layers: &[LayerId],
        snapshotter: &dyn Snapshotter,
    ) -> Result<bool, StoreError> {
        let mut exact = true;
        for id in layers {
            let archive = |source| StoreError::Archive { action: "unpack", id: id.clone(), source: Box::new(source) };
            let blob = self.local_stream(id)?;
            let file = self.open_blob(&blob.digest)?;
            let mut tar = ReadAhead::new(decompressor(file, blob.codec).map_err(archive)?);
            let summary = snapshotter.unpack(&mut tar, target, below_dirs).map_err(archive)?;
            exact &= summary.notes.is_empty();
            self.check_unpacked(id, &blob, summary)?;
        }
        Ok(exact)
    }

    /// Keeps what was learnt by unpacking a blob, if that was what it should be.
    pub(super) fn check_unpacked(
        &self,
        id: &LayerId,
        blob: &LayerBlob,
        summary: ApplySummary,
    ) -> Result<(), StoreError> {
        if summary.diff_id != blob.diff_id {
            return Err(StoreError::DiffIdMismatch {
                id: id.clone(),
                what: format!("blob {}", blob.digest),
                expected: blob.diff_id.clone(),
                actual: summary.diff_id,
            });
        }
        self.keep_index(&summary.diff_id.0, &summary.index)?;
        self.announce(&summary.notes);
        Ok(())
    }

    /// A local blob with the layer's own stream, derived first if only a directory has it.
    pub(super) fn local_stream(&self, id: &LayerId) -> Result<LayerBlob, StoreError> {
        let record = self.layer(id)?;
        for blob in record.blobs.iter().filter(|blob| record.is_own(blob)) {
            if self.has_blob(&blob.digest)?.is_some() {
                return Ok(blob.clone());
            }
        }
        if self.can_rebuild(&record)? {
            return self.derive_plain(&record);
        }
        Err(StoreError::NotLocal { id: id.clone() })
    }

    /// Whether the layer's stream can be had from a directory that was made for another chain.
    pub(crate) fn can_rebuild(&self, record: &LayerRecord) -> Result<bool, StoreError> {
        let mut chain = record.parents.clone();
        chain.push(record.id.clone());
        Ok(!self.snapshotter()?.per_layer() && self.find_dir(&chain)?.is_some())
    }

    /// Writes a tree index, once. It is only a help: not synced, made again when missing.
    pub(crate) fn keep_index(&self, diff_id: &Digest, index: &TreeIndex) -> Result<(), StoreError> {
        let path = self.inner.layout.index(diff_id);
        if path.exists() {
            return Ok(());
        }
        let temp = self.owner()?.path("index");
        let mut file = fs::File::create(&temp).map_err(StoreError::io("create", &temp))?;
        index.write_to(&mut file).map_err(StoreError::io("write", &temp))?;
        fs::rename(&temp, &path).map_err(StoreError::io("rename", &path))
    }

    /// Tells what could not be done exactly, once for all layers.
    pub(crate) fn announce(&self, notes: &[Note]) {
        if let Some(note) = notes.first() {
            let more = if notes.len() > 1 { format!(" (and {} more)", notes.len() - 1) } else { String::new() };
            self.inner.options.events.notice("layer-notes", format!("{}{more}", describe(note)));
        }
    }

    /// The directory for the top of `chain` in the dialect in use, if there is one that can be trusted.
    pub(crate) fn find_dir(&self, chain: &[LayerId]) -> Result<Option<Dir>, StoreError> {
        let key = self.snapshotter()?.key(chain);
        let dialect = self.dialect()?;
        let row = self.inner.meta.read("look up a layer directory", |c| {
            c.prepare_cached("SELECT name, durable OR boot = ?3, copied_at FROM dirs WHERE key = ?1 AND dialect = ?2")?
                .query_row((&key, &dialect, &self.inner.boot), |row| {
                    Ok((row.get::<_, String>(0)?, row.get::<_, bool>(1)?, row.get::<_, Option<i64>>(2)?))
                })
                .optional()
        })?;
        let Some((name, trusted, copied_at)) = row else { return Ok(None) };
        let path = self.inner.layout.snapshot(&name);
        if trusted && path.is_dir() {
            return Ok(Some(Dir { path, copied_at: copied_at.map(timestamp) }));
        }
        // Missing, or written in an earlier boot and never synced: files may be empty. The blob makes it again.
        self.inner.meta.write("drop a layer directory", |tx| {
            tx.execute("DELETE FROM dirs WHERE name = ?1", [&name])?;
            Ok(self.to_trash(&self.inner.layout.snapshots().join(&name))?)
        })?;
        Ok(None)
    }

    /// Whether any directory of the layer exists in `dialect`.
    pub(crate) fn dirs_of(&self, c: &Connection, id: &LayerId, dialect: &str) -> rusqlite::Result<bool> {
        let names: Vec<String> = c
            .prepare_cached("SELECT name FROM dirs WHERE layer = ?1 AND dialect = ?2 AND (durable OR boot = ?3)")?
            .query_map((&id.0, dialect, &self.inner.boot), |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        Ok(names.iter().any(|name| self.inner.layout.snapshot(name).is_dir()))
    }

    /// Renames `scratch` (which holds `fs`) into the snapshots and adds its row.
    pub(super) fn adopt_dir(
        &self,
        tx: &Transaction<'_>,
        scratch: &Path,
        layer: &LayerId,
        key: &str,
        dialect: &str,
        copied_at: Option<Timestamp>,
    ) -> Result<PathBuf, TxError> {
        let layout = &self.inner.layout;
        let mut number = meta::setting(tx, "snapshot")?.unwrap_or(0) + 1;
        // Names stay short, as every layer of a mount is named in /proc/self/mountinfo. They can be taken if the
        // metadata was lost.
        while layout.snapshots().join(base36(number)).exists() {
            number += 1;
        }
        meta::set_setting(tx, "snapshot", number)?;
        let name = base36(number);
        let target = layout.snapshots().join(&name);
        fs::rename(scratch, &target).map_err(StoreError::io("rename", &target))?;
        tx.prepare_cached(
            "INSERT OR REPLACE INTO dirs (key, dialect, layer, name, created, boot, copied_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute((key, dialect, &layer.0, &name, now(), &self.inner.boot, copied_at.map(nanos)))?;
        Ok(layout.snapshot(&name))
    }

    /// Marks every layer of a chain as used, in one transaction, or in none if this process's lease covers them.
    pub(crate) fn mark_chain(&self, chain: &[LayerId]) -> Result<(), StoreError> {
        if let Some(since) = self.marked_since() {
            let covered = self.inner.meta.read("look at layers", |c| {
                let mut statement =
                    c.prepare_cached("SELECT EXISTS (SELECT 1 FROM layers WHERE id = ?1 AND used_gen >= ?2)")?;
                for id in chain {
                    if !statement.query_row((&id.0, since), |row| row.get(0))? {
                        return Ok(false);
                    }
                }
                Ok(true)
            })?;
            if covered {
                return Ok(());
            }
        }
        let missing = self.inner.meta.write("mark layers as used", |tx| {
            for id in chain {
                if !mark(tx, "layers", "id", &id.0)? {
                    return Ok(Some(id.clone()));
                }
                for blob in read_blobs(tx, id)? {
                    mark(tx, "blobs", "digest", blob.digest.as_str())?;
                }
            }
            Ok(None)
        })?;
        missing.map_or(Ok(()), |id| Err(StoreError::NoLayer { id }))
    }
}

impl Mounted {
    /// The root of the file system.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.view.root
    }

    /// Where a stub really is: absolute inside the root, free of symlinks.
    #[cfg(test)]
    pub(super) fn stub_path(&self, index: usize) -> &Path {
        &self.view.stubs[index]
    }

    /// A new directory on the file system of [`Mounted::root`] but outside of it, which goes away with the mount.
    ///
    /// # Errors
    /// The file system's.
    pub fn aside(&self) -> io::Result<PathBuf> {
        let path = self.scratch.join("aside");
        fs::create_dir(&path)?;
        Ok(path)
    }

    /// The layers below.
    #[must_use]
    pub fn chain(&self) -> &[LayerId] {
        &self.chain
    }

    /// Says that others may still have descriptors of what was written: a copy of it is committed.
    pub fn expose(&mut self) {
        self.exposed = true;
    }

    /// Keeps what was written as a new layer on top of the chain. No tar is made yet. If somebody has files of it open, a copy is
    /// kept: what they write later changes nothing.
    ///
    /// # Errors
    /// If the view is read-only, or the file system refuses.
    pub fn commit(mut self, description: &str) -> Result<LayerId, StoreError> {
        let keep =
            self.view.keep.clone().ok_or_else(|| StoreError::Misuse("a read-only view cannot be committed".into()))?;
        let is_ours = self.view.seal() && !self.exposed;
        self.view.release()?;
        let out = self.scratch.join("out");
        fs::create_dir(&out).map_err(StoreError::io("create", &out))?;
        let tree = out.join("fs");
        if is_ours {
            fs::rename(&keep, &tree).map_err(StoreError::io("rename", &tree))?;
        } else {
            if !self.exposed {
                self.store.inner.options.events.notice(
                    "open-files",
                    format!("{description}: files that it wrote are still open elsewhere, or cannot be made read-only; its layer is a copy"),
                );
            }
            fs::create_dir(&tree).map_err(StoreError::io("create", &tree))?;
            copy_live_tree(&keep, &tree).map_err(StoreError::io("copy", &keep))?;
        }
        if let Some(time) = self.view.root_time {
            set_root_mtime(&tree, time)?;
        }
        let id = new_id()?;
        let mut chain = self.chain.clone();
        chain.push(id.clone());
        let key = self.snapshotter.key(&chain);
        let dialect = self.store.dialect()?;
        self.store.inner.meta.write("commit a layer", |tx| {
            insert_layer(tx, &id, description, &self.chain, None)?;
            self.store.adopt_dir(tx, &out, &id, &key, &dialect, self.view.copied_at)?;
            Ok(())
        })?;
        if self.view.copied_at.is_some() {
            self.store.note_fresh(key, self.view.places.take());
        }
        Ok(id)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // On failure the sweep of this owner's directory takes the rest.
        if self.view.mounted && self.view.release().is_err() {
            return;
        }
        let janitor = &self.store.inner.janitor;
        if self.mountpoint.exists() {
            janitor.remove(std::mem::take(&mut self.mountpoint));
        }
        janitor.remove(std::mem::take(&mut self.scratch));
    }
}

fn describe(note: &Note) -> String {
    let path = note.path.display();
    match &note.kind {
        NoteKind::UnmappedOwner { uid, gid } => {
            format!("{path}: owner {uid}:{gid} is outside the id map and could not be set ({} files)", note.count)
        }
        NoteKind::DeviceRefused => format!("{path}: device nodes cannot be made here, left out"),
        NoteKind::DeviceZero => format!("{path}: a device 0:0 would mean a deletion, left out"),
        NoteKind::XattrDropped(name) => format!("{path}: the extended attribute {name} is not taken from archives"),
        NoteKind::XattrRefused(name) => format!("{path}: the file system does not take the extended attribute {name}"),
        NoteKind::ReservedName => format!("{path}: names that begin with .wh. cannot be in a layer, left out"),
        NoteKind::UnknownType(kind) => format!("{path}: unknown entry type {kind}, left out"),
    }
}

/// A layer that occurs twice counts where it is last: overlay refuses the same directory twice, and the later
/// occurrence covers the earlier one.
pub(super) fn without_repetitions(chain: &[LayerId]) -> Vec<LayerId> {
    let mut seen = std::collections::HashSet::new();
    let mut kept: Vec<LayerId> = chain.iter().rev().filter(|id| seen.insert(*id)).cloned().collect();
    kept.reverse();
    kept
}

fn base36(mut number: i64) -> String {
    let mut out = Vec::new();
    while number > 0 {
        let digit = u32::try_from(number % 36).unwrap_or(0);
        out.push(char::from_digit(digit, 36).unwrap_or('0'));
        number /= 36;
    }
    out.iter().rev().collect()
}

fn nanos(time: Timestamp) -> i64 {
    time.secs.saturating_mul(1_000_000_000).saturating_add(i64::from(time.nanos))
}

fn timestamp(nanos: i64) -> Timestamp {
    Timestamp {
        secs: nanos.div_euclid(1_000_000_000),
        nanos: u32::try_from(nanos.rem_euclid(1_000_000_000)).unwrap_or(0),
    }
}
