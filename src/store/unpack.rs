//! Layers unpacked side by side, and while they arrive.
//!
//! Only the overlay snapshotter's layers have directories of their own. A layer needs those below it when it puts something
//! into a directory that it does not describe, and for the look of its root; then it waits for them. Layers are begun from the
//! bottom up, so what is waited for has always begun.
//!
//! All this is ahead of [`Store::mount`], which has the last word: what failed here is tried there again, and told.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::follow::Following;
use super::lock::{FileLock, Mode};
use super::mount::without_repetitions;
use super::tree::remove_tree;
use super::{LayerBlob, LayerId, Store, StoreError};
use crate::archive::{Awaited, ReadAhead, apply_above, decompressor};
use crate::base::Digest;
use crate::base::budget::Budget;

/// Told that a layer's blob begins to be unpacked, and that it is (`true`).
pub type Unpacked = Arc<dyn Fn(&LayerBlob, bool) + Send + Sync>;

/// Layers being unpacked.
pub struct Unpacking {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    store: Store,
    /// Bottom first.
    chain: Vec<LayerId>,
    state: Mutex<State>,
    changed: Condvar,
    told: Unpacked,
}

struct State {
    /// For each layer of the chain.
    layers: Vec<Progress>,
    /// Blobs that somebody is about to fetch.
    expected: HashSet<Digest>,
    /// Those on their way.
    arriving: HashMap<Digest, Following>,
}

enum Progress {
    Missing,
    Begun,
    Done(PathBuf),
    Failed,
}

/// What of a chain is still to be unpacked.
pub enum ToUnpack {
    /// Nothing.
    Nothing,
    /// Something, which only the mount can do.
    Mount,
    /// Layers that can be unpacked side by side.
    Layers(Unpacking),
}

impl Store {
    /// Gets ready to unpack the layers of `chain` that have no directory yet.
    ///
    /// # Errors
    /// If the metadata cannot be read.
    pub fn unpack_ahead(&self, chain: &[LayerId], told: Unpacked) -> Result<ToUnpack, StoreError> {
        if !self.snapshotter()?.per_layer() {
            return Ok(ToUnpack::Mount);
        }
        let chain = without_repetitions(chain);
        let mut layers = Vec::with_capacity(chain.len());
        for end in 1..=chain.len() {
            layers.push(match self.find_dir(&chain[..end])? {
                Some(dir) => Progress::Done(dir.path),
                None => Progress::Missing,
            });
        }
        if !layers.iter().any(|layer| matches!(layer, Progress::Missing)) {
            return Ok(ToUnpack::Nothing);
        }
        let state = State { layers, expected: HashSet::new(), arriving: HashMap::new() };
        let shared =
            Arc::new(Shared { store: self.clone(), chain, state: Mutex::new(state), changed: Condvar::new(), told });
        Ok(ToUnpack::Layers(Unpacking { shared, threads: Vec::new() }))
    }
}

impl Unpacking {
    /// Begins. The blobs `expected` are going to arrive, the others are here.
    pub fn begin(&mut self, expected: impl Iterator<Item = Digest>) {
        let missing = {
            let mut state = self.shared.lock();
            state.expected.extend(expected);
            state.layers.iter().filter(|layer| matches!(layer, Progress::Missing)).count()
        };
        // Each has a decoder's memory, and writes: more of them than processors gain little.
        for _ in 0..missing.min(Budget::detect().cpus.clamp(2, 4)) {
            let shared = Arc::clone(&self.shared);
            let thread = std::thread::Builder::new().name("unpack".into()).spawn(move || shared.work());
            match thread {
                Ok(thread) => self.threads.push(thread),
                // Without threads the mount unpacks.
                Err(_) => break,
            }
        }
    }

    /// A blob of one of the layers begins to arrive.
    pub fn arrives(&self, digest: &Digest, following: Following) {
        self.shared.lock().arriving.entry(digest.clone()).or_insert(following);
        self.shared.changed.notify_all();
    }

    /// A blob will not arrive any more: it is here, or cannot be had.
    pub fn settled(&self, digest: &Digest) {
        self.shared.lock().expected.remove(digest);
        self.shared.changed.notify_all();
    }

    /// Waits for the layers whose blobs are here or on their way. No more will come.
    pub fn finish(mut self) {
        self.shared.expect_nothing();
        for thread in self.threads.drain(..) {
            // What went wrong there is done again by the mount.
            let _ = thread.join();
        }
    }
}

impl Drop for Unpacking {
    fn drop(&mut self) {
        // Nobody is left who would tell the threads that something arrives.
        self.shared.expect_nothing();
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn expect_nothing(&self) {
        self.lock().expected.clear();
        self.changed.notify_all();
    }

    /// Takes the lowest layer that nobody has begun, until there is none.
    fn work(self: Arc<Self>) {
        loop {
            let at = {
                let mut state = self.lock();
                let next = state.layers.iter().position(|layer| matches!(layer, Progress::Missing));
                let Some(at) = next else { return };
                state.layers[at] = Progress::Begun;
                at
            };
            let outcome = Fate { shared: &self, at, dir: None };
            self.one(outcome);
        }
    }

    fn one(self: &Arc<Self>, mut fate: Fate<'_>) {
        let at = fate.at;
        let Ok(record) = self.store.layer(&self.chain[at]) else { return };
        let mut state = self.lock();
        let arriving = loop {
            let blob = record.blobs.iter().find(|b| record.is_own(b) && state.arriving.contains_key(&b.digest));
            if let Some(blob) = blob {
                break state.arriving.remove(&blob.digest).map(|following| (blob.clone(), following));
            }
            if !record.blobs.iter().any(|blob| state.expected.contains(&blob.digest)) {
                break None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        };
        drop(state);
        let (blob, source): (LayerBlob, Box<dyn io::Read + Send>) = match arriving {
            Some((blob, following)) => (blob, Box::new(following)),
            None => {
                let Ok(blob) = self.store.local_stream(&self.chain[at]) else { return };
                let Ok(file) = self.store.open_blob(&blob.digest) else { return };
                (blob, Box::new(file))
            }
        };
        (self.told)(&blob, false);
        if let Ok(dir) = self.store.unpack_one(&self.chain[..=at], &blob, source, self.below(at)) {
            fate.dir = Some(dir);
        }
        (self.told)(&blob, true);
    }

    /// The directories of the layers below the one at `at`: whoever asks waits until all are complete.
    fn below(self: &Arc<Self>, at: usize) -> Option<Awaited> {
        let shared = Arc::clone(self);
        (at > 0).then(|| -> Awaited { Arc::new(move || shared.wait_for(at)) })
    }

    fn wait_for(&self, count: usize) -> io::Result<Vec<PathBuf>> {
        let mut state = self.lock();
        loop {
            let mut dirs = Vec::with_capacity(count);
            for layer in &state.layers[..count] {
                match layer {
                    Progress::Done(dir) => dirs.push(dir.clone()),
                    Progress::Failed => return Err(io::Error::other("a layer below cannot be unpacked")),
                    Progress::Missing | Progress::Begun => {}
                }
            }
            if dirs.len() == count {
                return Ok(dirs);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Says how a layer ended, whatever way its unpacking is left.
struct Fate<'a> {
    shared: &'a Shared,
    at: usize,
    dir: Option<PathBuf>,
}

impl Drop for Fate<'_> {
    fn drop(&mut self) {
        self.shared.lock().layers[self.at] = self.dir.take().map_or(Progress::Failed, Progress::Done);
        self.shared.changed.notify_all();
    }
}

impl Store {
    /// Unpacks the top layer of `chain` from `source`, which ends only if it is what the blob's digest promises.
    fn unpack_one(
        &self,
        chain: &[LayerId],
        blob: &LayerBlob,
        source: Box<dyn io::Read + Send>,
        below: Option<Awaited>,
    ) -> Result<PathBuf, StoreError> {
        let snapshotter = self.snapshotter()?;
        let id = chain.last().ok_or_else(|| StoreError::Misuse("no layer to unpack".into()))?;
        let (key, dialect) = (snapshotter.key(chain), self.dialect()?);
        let _lock = self.dir_lock(&key, &dialect)?;
        // Somebody else may have done it while we waited.
        if let Some(dir) = self.find_dir(chain)? {
            return Ok(dir.path);
        }
        let owner = self.owner()?;
        let scratch = owner.dir("layer")?;
        let work = || {
            let archive = |source| StoreError::Archive { action: "unpack", id: id.clone(), source: Box::new(source) };
            let target = scratch.join("fs");
            fs::create_dir(&target).map_err(StoreError::io("create", &target))?;
            let mut tar = ReadAhead::new(decompressor(source, blob.codec).map_err(archive)?);
            let summary = match below {
                Some(below) => apply_above(&mut tar, &target, below, &Default::default()).map_err(archive)?,
                None => {
                    snapshotter.prepare(&target, &[]).map_err(StoreError::io("prepare", &target))?;
                    snapshotter.unpack(&mut tar, &target, &[]).map_err(archive)?
                }
            };
            // A decoder may stop before the end of its input, where it is told whether all of that is right.
            io::copy(&mut tar, &mut io::sink()).map_err(StoreError::io("read", &target))?;
            self.check_unpacked(id, blob, summary)?;
            self.inner.meta.write("add a layer directory", |tx| self.adopt_dir(tx, &scratch, id, &key, &dialect, None))
        };
        let result = work();
        if result.is_err() {
            let _ = remove_tree(&scratch);
        }
        result
    }

    /// The lock under which a layer's directory is made.
    pub(super) fn dir_lock(&self, key: &str, dialect: &str) -> Result<FileLock, StoreError> {
        let name = Digest::sha256(format!("{key} {dialect}"));
        FileLock::wait(&self.inner.layout.locks().join("layer").join(&name.hex()[..32]), Mode::Exclusive)
    }
}
