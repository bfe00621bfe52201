//! From recipes of blocks to blob bytes: reading, hashing and compressing on several threads, delivered in order.
//!
//! ```text
//! recipe ─> worker: reads the files, takes the block from an earlier blob or compresses it
//!             └─ in order ─┬─> caller: writes the compressed block
//!                          └─> hash thread: diff ID (and another one for the digests of files larger than a block)
//! ```
//!
//! The first block is worked on by the caller (most layers are no longer); threads start with the second. Blocks in flight are
//! bounded, so memory is too, whatever the size of the layer.

use std::collections::BTreeMap;
use std::io;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use sha2::{Digest as _, Sha256};

use super::block::{Encoder, MAX_BLOCK, Method};
use super::checksum::Checksum;
use super::content::{Built, EntryDigest, Recipe, Span};
use super::error::ArchiveError;
use super::reuse::{BlockKey, BlockSource};
use crate::base::digest::Hasher;
use crate::base::{DiffId, Digest};

/// More threads than this do not help one layer: hashing it is slower then.
const MAX_THREADS: usize = 8;

/// A compressed block.
pub(super) struct Done {
    pub(super) bytes: Vec<u8>,
    pub(super) sum: Checksum,
    /// Its name, if blocks are named.
    pub(super) key: Option<BlockKey>,
    /// Of the files that are whole in it.
    pub(super) digests: Vec<EntryDigest>,
}

/// What takes compressed blocks.
pub(super) type Deliver<'a> = &'a mut dyn FnMut(&Done) -> io::Result<()>;

struct Job {
    number: u64,
    recipe: Recipe,
    /// Where the block goes; recycled.
    raw: Vec<u8>,
    /// Where the result goes; recycled.
    out: Vec<u8>,
}

struct Outcome {
    number: u64,
    recipe: Recipe,
    result: Result<Worked, ArchiveError>,
}

struct Worked {
    raw: Vec<u8>,
    spans: Vec<Span>,
    done: Done,
}

/// Takes recipes, gives back compressed blocks in the same order.
pub(super) struct Pipeline {
    worker: Worker,
    threads: usize,
    /// Until the threads start.
    hasher: Option<Hasher>,
    files: FileHasher,
    crew: Option<Crew>,
    blocks: u64,
    spare_recipes: Vec<Recipe>,
    spare_raw: Vec<Vec<u8>>,
    spare_out: Vec<Vec<u8>>,
}

/// What turns a recipe into a block; one per thread.
struct Worker {
    method: Method,
    encoder: Encoder,
    source: Option<Arc<dyn BlockSource>>,
}

struct Crew {
    jobs: SyncSender<Job>,
    results: Receiver<Outcome>,
    hashing: SyncSender<Arc<Vec<u8>>>,
    hash_thread: JoinHandle<Digest>,
    /// Started by the first large file.
    files: Option<FileThread>,
    /// Blocks that were hashed.
    used: Receiver<Vec<u8>>,
    give_back: Sender<Vec<u8>>,
    waiting: BTreeMap<u64, Outcome>,
    next: u64,
    in_flight: usize,
    limit: usize,
}

struct FileThread {
    pieces: SyncSender<(Arc<Vec<u8>>, Vec<Span>)>,
    thread: JoinHandle<FileHasher>,
}

/// Digests of files whose pieces come one after the other.
#[derive(Default)]
struct FileHasher {
    current: Sha256,
    finished: Vec<EntryDigest>,
}

impl FileHasher {
    fn add(&mut self, raw: &[u8], spans: &[Span]) {
        for span in spans {
            self.current.update(&raw[span.range.clone()]);
            if span.last {
                self.finished.push((span.entry, self.current.finalize_reset().into()));
            }
        }
    }
}

impl Worker {
    fn new(method: Method, source: Option<Arc<dyn BlockSource>>) -> io::Result<Self> {
        Ok(Self { method, encoder: Encoder::new(method)?, source })
    }

    fn work(&mut self, recipe: &mut Recipe, mut raw: Vec<u8>, mut bytes: Vec<u8>) -> Result<Worked, ArchiveError> {
        let Built { digests, spans } = recipe.build(&mut raw)?;
        recipe.clear();
        let key = self.source.as_ref().map(|_| BlockKey::of(&raw, self.method));
        bytes.clear();
        let known = match (&self.source, &key) {
            (Some(source), Some(key)) => source.find(key, &mut bytes),
            _ => None,
        };
        let sum = match known.filter(|sum| sum.length == raw.len() as u64) {
            Some(sum) => sum,
            None => self.encoder.encode(&raw, &mut bytes).map_err(ArchiveError::Sink)?,
        };
        Ok(Worked { raw, spans, done: Done { bytes, sum, key, digests } })
    }
}

impl Pipeline {
    pub(super) fn new(method: Method, threads: usize) -> io::Result<Self> {
        Ok(Self {
            worker: Worker::new(method, None)?,
            threads: threads.clamp(1, MAX_THREADS),
            hasher: Some(Hasher::default()),
            files: FileHasher::default(),
            crew: None,
            blocks: 0,
            spare_recipes: Vec::new(),
            spare_raw: Vec::new(),
            spare_out: Vec::new(),
        })
    }

    /// Names blocks, and takes those that `source` has from there.
    pub(super) fn reuse(&mut self, source: Arc<dyn BlockSource>) {
        self.worker.source = Some(source);
    }

    /// An empty recipe for the next block.
    pub(super) fn recipe(&mut self) -> Recipe {
        self.spare_recipes.pop().unwrap_or_default()
    }

    /// Takes a block; `deliver` gets whatever is finished, in order.
    pub(super) fn push(&mut self, mut recipe: Recipe, deliver: Deliver<'_>) -> Result<(), ArchiveError> {
        self.blocks += 1;
        if self.crew.is_none() && self.threads > 1 && self.blocks > 1 {
            self.crew = Some(self.start().map_err(ArchiveError::Sink)?);
        }
        let raw = self.buffer();
        let out = self.spare_out.pop().unwrap_or_default();
        let Some(crew) = &mut self.crew else {
            let Worked { mut raw, spans, done } = self.worker.work(&mut recipe, raw, out)?;
            if let Some(hasher) = &mut self.hasher {
                hasher.update(&raw);
            }
            self.files.add(&raw, &spans);
            deliver(&done).map_err(ArchiveError::Sink)?;
            self.spare_out.push(done.bytes);
            raw.clear();
            self.spare_raw.push(raw);
            self.spare_recipes.push(recipe);
            return Ok(());
        };
        crew.jobs.send(Job { number: self.blocks, recipe, raw, out }).map_err(|_| died())?;
        crew.in_flight += 1;
        self.collect(false, deliver)
    }

    fn buffer(&mut self) -> Vec<u8> {
        if let Some(crew) = &self.crew {
            self.spare_raw.extend(crew.used.try_iter());
        }
        self.spare_raw.pop().unwrap_or_else(|| Vec::with_capacity(MAX_BLOCK))
    }

    /// Waits for everything that is still being worked on; the digest of all blocks, and those of files larger than a block.
    pub(super) fn finish(mut self, deliver: Deliver<'_>) -> Result<(DiffId, Vec<EntryDigest>), ArchiveError> {
        self.collect(true, deliver)?;
        let Some(crew) = self.crew else {
            return Ok((DiffId(self.hasher.unwrap_or_default().finish()), self.files.finished));
        };
        drop((crew.hashing, crew.jobs));
        let digest = crew.hash_thread.join().map_err(|_| died())?;
        let files = match crew.files {
            Some(FileThread { pieces, thread }) => {
                drop(pieces);
                thread.join().map_err(|_| died())?
            }
            None => self.files,
        };
        Ok((DiffId(digest), files.finished))
    }

    /// Hands out finished blocks; waits while too many (or, at the end, any) are in flight.
    fn collect(&mut self, all: bool, deliver: Deliver<'_>) -> Result<(), ArchiveError> {
        let Some(crew) = &mut self.crew else { return Ok(()) };
        loop {
            while let Some(Outcome { recipe, result, .. }) = crew.waiting.remove(&crew.next) {
                crew.next += 1;
                crew.in_flight -= 1;
                self.spare_recipes.push(recipe);
                let Worked { raw, spans, done } = result?;
                let raw = Arc::new(raw);
                if !spans.is_empty() {
                    if crew.files.is_none() {
                        crew.files = Some(hash_files(std::mem::take(&mut self.files), &crew.give_back, crew.limit)?);
                    }
                    if let Some(files) = &crew.files {
                        files.pieces.send((Arc::clone(&raw), spans)).map_err(|_| died())?;
                    }
                }
                crew.hashing.send(raw).map_err(|_| died())?;
                deliver(&done).map_err(ArchiveError::Sink)?;
                self.spare_out.push(done.bytes);
            }
            let limit = if all { 1 } else { crew.limit };
            let result = if crew.in_flight >= limit {
                crew.results.recv().map_err(|_| died())?
            } else if let Ok(result) = crew.results.try_recv() {
                result
            } else {
                return Ok(());
            };
            crew.waiting.insert(result.number, result);
        }
    }

    fn start(&mut self) -> io::Result<Crew> {
        // One for each thread, one that is being handed out, one in reserve.
        let limit = self.threads + 2;
        let (jobs, job_queue) = sync_channel::<Job>(limit);
        let (hashing, hash_queue) = sync_channel::<Arc<Vec<u8>>>(2);
        // Never full: no more than `limit` blocks are in flight.
        let (result_sender, results) = sync_channel(limit + 1);
        let (give_back, used) = channel();
        let mut hasher = self.hasher.take().unwrap_or_default();
        let back = give_back.clone();
        let hash_thread = std::thread::Builder::new().name("layer-hash".into()).spawn(move || {
            for raw in hash_queue {
                hasher.update(&raw);
                recycle(raw, &back);
            }
            hasher.finish()
        })?;
        let job_queue = Arc::new(Mutex::new(job_queue));
        for _ in 0..self.threads {
            let mut worker = Worker::new(self.worker.method, self.worker.source.clone())?;
            let (queue, sender) = (Arc::clone(&job_queue), result_sender.clone());
            std::thread::Builder::new().name("layer-pack".into()).spawn(move || {
                loop {
                    let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(Job { number, mut recipe, raw, out }) = job else { return };
                    let result = worker.work(&mut recipe, raw, out);
                    if sender.send(Outcome { number, recipe, result }).is_err() {
                        return;
                    }
                }
            })?;
        }
        Ok(Crew {
            jobs,
            results,
            hashing,
            hash_thread,
            files: None,
            used,
            give_back,
            waiting: BTreeMap::new(),
            next: self.blocks,
            in_flight: 0,
            limit,
        })
    }
}

fn hash_files(mut hasher: FileHasher, back: &Sender<Vec<u8>>, limit: usize) -> Result<FileThread, ArchiveError> {
    let (pieces, queue) = sync_channel::<(Arc<Vec<u8>>, Vec<Span>)>(limit);
    let back = back.clone();
    let thread = std::thread::Builder::new().name("layer-file-hash".into()).spawn(move || {
        for (raw, spans) in queue {
            hasher.add(&raw, &spans);
            recycle(raw, &back);
        }
        hasher
    });
    Ok(FileThread { pieces, thread: thread.map_err(ArchiveError::Sink)? })
}

/// The last one who used a block gives its memory back.
fn recycle(raw: Arc<Vec<u8>>, back: &Sender<Vec<u8>>) {
    if let Some(mut raw) = Arc::into_inner(raw) {
        raw.clear();
        let _ = back.send(raw);
    }
}

fn died() -> ArchiveError {
    ArchiveError::Sink(io::Error::other("a compression thread ended early"))
}
