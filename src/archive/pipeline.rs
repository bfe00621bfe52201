//! From recipes of blocks to blob bytes: reading, hashing and compressing on several threads, delivered in order.
//!
//! ```text
//! recipe ─> worker: reads the files, takes the block from an earlier blob or compresses it
//!             └─ in order ─┬─> caller: writes the compressed block
//!                          └─> hash thread: diff ID (and another one for the digests of files larger than a block)
//! ```
//!
//! As long as a tar begins with blocks that an earlier one began with, too, nothing is read: the compressed blocks are taken from
//! there, and the hash goes on from where it stood ([`super::reuse`]).
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
use super::content::{EntryDigest, Recipe, Span};
use super::error::ArchiveError;
use super::reuse::{BlockKey, BlockName, BlockSource, HashedPrefix, PrefixKey};
use crate::base::DiffId;
use crate::base::digest::Hasher;

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
    known: Known,
    /// Where the block goes; recycled.
    raw: Vec<u8>,
    /// Where the result goes; recycled.
    out: Vec<u8>,
}

/// What is known of a block before it is read.
#[derive(Default)]
struct Known {
    name: Option<BlockName>,
    /// The hash of the tar behind it.
    hasher: Option<Hasher>,
}

struct Outcome {
    number: u64,
    recipe: Recipe,
    result: Result<Worked, ArchiveError>,
}

struct Worked {
    step: Step,
    spans: Vec<Span>,
    done: Done,
}

/// What a block does to the hash of the tar.
struct Step {
    /// The block; empty if nobody needed it.
    raw: Vec<u8>,
    /// The hash behind it.
    hasher: Option<Hasher>,
    name: Option<BlockName>,
}

/// Takes recipes, gives back compressed blocks in the same order.
pub(super) struct Pipeline {
    worker: Worker,
    threads: usize,
    /// Until the threads start.
    hash: TarHash,
    files: FileHasher,
    /// The tar so far, while the hash of all its blocks is known.
    prefix: Option<PrefixKey>,
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
    hashing: SyncSender<Hashing>,
    hash_thread: JoinHandle<TarHash>,
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

/// A block on its way to the hash.
struct Hashing {
    raw: Arc<Vec<u8>>,
    hasher: Option<Hasher>,
    name: Option<BlockName>,
}

/// The hash of the tar.
#[derive(Default)]
struct TarHash {
    hasher: Hasher,
    /// The tar so far, while every block has a name and somebody wants to know.
    prefix: Option<PrefixKey>,
    /// Where the hash stood behind each block.
    stood: Vec<HashedPrefix>,
}

impl TarHash {
    fn step(&mut self, raw: &[u8], known: Option<Hasher>, name: Option<BlockName>) {
        match known {
            Some(hasher) => self.hasher = hasher,
            None => self.hasher.update(raw),
        }
        self.prefix = self.prefix.zip(name).map(|(prefix, name)| prefix.then(name));
        if let (Some(key), Some(state)) = (self.prefix, self.hasher.suspend()) {
            self.stood.push(HashedPrefix { key, state });
        }
    }
}

/// What became of a whole tar.
pub(super) struct Finished {
    pub(super) diff_id: DiffId,
    /// Of files larger than a block.
    pub(super) digests: Vec<EntryDigest>,
    pub(super) prefixes: Vec<HashedPrefix>,
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

    fn work(
        &mut self,
        recipe: &mut Recipe,
        known: Known,
        mut raw: Vec<u8>,
        mut bytes: Vec<u8>,
    ) -> Result<Worked, ArchiveError> {
        raw.clear();
        let Some(source) = self.source.clone() else {
            let spans = recipe.build(&mut raw)?;
            let (digests, _) = recipe.hash(&raw);
            recipe.clear();
            let sum = self.encoder.encode(&raw, &mut bytes).map_err(ArchiveError::Sink)?;
            let step = Step { raw, hasher: None, name: None };
            return Ok(Worked { step, spans, done: Done { bytes, sum, key: None, digests } });
        };
        let length = recipe.length as u64;
        let mut find = |key: &BlockKey| {
            bytes.clear();
            source.find(key, &mut bytes).filter(|sum| sum.length == length)
        };
        let Known { mut name, hasher } = known;
        name = name.or_else(|| recipe.name());
        let mut key = name.map(|name| BlockKey::named(name, self.method));
        let mut sum = key.as_ref().and_then(&mut find);
        let (mut spans, mut digests) = (Vec::new(), Vec::new());
        // As long as the hash is known too, nothing is read.
        if sum.is_none() || hasher.is_none() {
            spans = recipe.build(&mut raw)?;
            // Also of what was found it must be sure that this is what is hashed: a file could have changed meanwhile.
            if sum.is_none_or(|sum| Checksum::of(&raw) != sum) {
                let other;
                (digests, other) = recipe.hash(&raw);
                if let (Some(path), Some(_)) = (other, &hasher) {
                    // Blocks behind this one are not read any more: the hash of the tar would be wrong.
                    return Err(ArchiveError::Unsteady { path });
                }
                name = recipe.name();
                let real =
                    name.map_or_else(|| BlockKey::of(&raw, self.method), |name| BlockKey::named(name, self.method));
                sum = if key == Some(real) { None } else { find(&real) };
                key = Some(real);
            }
        }
        let sum = match sum {
            Some(sum) => sum,
            None => self.encoder.encode(&raw, &mut bytes).map_err(ArchiveError::Sink)?,
        };
        recipe.clear();
        Ok(Worked { step: Step { raw, hasher, name }, spans, done: Done { bytes, sum, key, digests } })
    }
}

impl Pipeline {
    pub(super) fn new(method: Method, threads: usize) -> io::Result<Self> {
        Ok(Self {
            worker: Worker::new(method, None)?,
            threads: threads.clamp(1, MAX_THREADS),
            hash: TarHash::default(),
            files: FileHasher::default(),
            prefix: None,
            crew: None,
            blocks: 0,
            spare_recipes: Vec::new(),
            spare_raw: Vec::new(),
            spare_out: Vec::new(),
        })
    }

    /// Names blocks, and takes those that `source` has from there; with `digests` also the hash of all of them from the start.
    pub(super) fn reuse(&mut self, source: Arc<dyn BlockSource>, digests: bool) {
        self.worker.source = Some(source);
        let start = digests.then(PrefixKey::default);
        (self.hash.prefix, self.prefix) = (start, start);
    }

    /// What is known of the next block.
    fn look_up(&mut self, recipe: &Recipe) -> Known {
        let (Some(source), Some(prefix)) = (&self.worker.source, self.prefix) else { return Known::default() };
        let name = recipe.name();
        self.prefix = name.map(|name| prefix.then(name));
        let hasher = self.prefix.and_then(|key| source.hashed(&key)).as_deref().and_then(Hasher::resume);
        if hasher.is_none() {
            self.prefix = None;
        }
        Known { name, hasher }
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
        let known = self.look_up(&recipe);
        let raw = self.buffer();
        let out = self.spare_out.pop().unwrap_or_default();
        let Some(crew) = &mut self.crew else {
            let Worked { step: Step { mut raw, hasher, name }, spans, done } =
                self.worker.work(&mut recipe, known, raw, out)?;
            self.hash.step(&raw, hasher, name);
            self.files.add(&raw, &spans);
            deliver(&done).map_err(ArchiveError::Sink)?;
            self.spare_out.push(done.bytes);
            raw.clear();
            self.spare_raw.push(raw);
            self.spare_recipes.push(recipe);
            return Ok(());
        };
        crew.jobs.send(Job { number: self.blocks, recipe, known, raw, out }).map_err(|_| died())?;
        crew.in_flight += 1;
        self.collect(false, deliver)
    }

    fn buffer(&mut self) -> Vec<u8> {
        if let Some(crew) = &self.crew {
            self.spare_raw.extend(crew.used.try_iter());
        }
        self.spare_raw.pop().unwrap_or_else(|| Vec::with_capacity(MAX_BLOCK))
    }

    /// Waits for everything that is still being worked on.
    pub(super) fn finish(mut self, deliver: Deliver<'_>) -> Result<Finished, ArchiveError> {
        self.collect(true, deliver)?;
        let (hash, files) = match self.crew {
            None => (self.hash, self.files),
            Some(crew) => {
                drop((crew.hashing, crew.jobs));
                let hash = crew.hash_thread.join().map_err(|_| died())?;
                let files = match crew.files {
                    Some(FileThread { pieces, thread }) => {
                        drop(pieces);
                        thread.join().map_err(|_| died())?
                    }
                    None => self.files,
                };
                (hash, files)
            }
        };
        Ok(Finished { diff_id: DiffId(hash.hasher.finish()), digests: files.finished, prefixes: hash.stood })
    }

    /// Hands out finished blocks; waits while too many (or, at the end, any) are in flight.
    fn collect(&mut self, all: bool, deliver: Deliver<'_>) -> Result<(), ArchiveError> {
        let Some(crew) = &mut self.crew else { return Ok(()) };
        loop {
            while let Some(Outcome { recipe, result, .. }) = crew.waiting.remove(&crew.next) {
                crew.next += 1;
                crew.in_flight -= 1;
                self.spare_recipes.push(recipe);
                let Worked { step: Step { raw, hasher, name }, spans, done } = result?;
                let raw = Arc::new(raw);
                if !spans.is_empty() {
                    if crew.files.is_none() {
                        crew.files = Some(hash_files(std::mem::take(&mut self.files), &crew.give_back, crew.limit)?);
                    }
                    if let Some(files) = &crew.files {
                        files.pieces.send((Arc::clone(&raw), spans)).map_err(|_| died())?;
                    }
                }
                crew.hashing.send(Hashing { raw, hasher, name }).map_err(|_| died())?;
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
        let (hashing, hash_queue) = sync_channel::<Hashing>(2);
        // Never full: no more than `limit` blocks are in flight.
        let (result_sender, results) = sync_channel(limit + 1);
        let (give_back, used) = channel();
        let mut hash = std::mem::take(&mut self.hash);
        let back = give_back.clone();
        let hash_thread = std::thread::Builder::new().name("layer-hash".into()).spawn(move || {
            for Hashing { raw, hasher, name } in hash_queue {
                hash.step(&raw, hasher, name);
                recycle(raw, &back);
            }
            hash
        })?;
        let job_queue = Arc::new(Mutex::new(job_queue));
        for _ in 0..self.threads {
            let mut worker = Worker::new(self.worker.method, self.worker.source.clone())?;
            let (queue, sender) = (Arc::clone(&job_queue), result_sender.clone());
            std::thread::Builder::new().name("layer-pack".into()).spawn(move || {
                loop {
                    let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(Job { number, mut recipe, known, raw, out }) = job else { return };
                    let result = worker.work(&mut recipe, known, raw, out);
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
