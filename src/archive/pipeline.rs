//! From tar blocks to blob bytes: hashing and compressing on several threads, delivered in order.
//!
//! The first block is worked on by the caller (most layers are no longer); threads start with the second. Blocks in flight are
//! bounded, so memory is too, whatever the size of the layer.

use std::collections::BTreeMap;
use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::block::{BlockSum, Encoder, MAX_BLOCK, Method};
use crate::base::digest::Hasher;
use crate::base::{DiffId, Digest};

/// More threads than this do not help one layer: reading its files is slower then.
const MAX_THREADS: usize = 8;

/// A compressed block.
pub(super) struct Done {
    pub(super) bytes: Vec<u8>,
    pub(super) sum: BlockSum,
}

struct Job {
    number: u64,
    raw: Arc<Vec<u8>>,
    /// Where the result goes; recycled.
    out: Vec<u8>,
}

struct Outcome {
    number: u64,
    raw: Arc<Vec<u8>>,
    done: io::Result<Done>,
}

/// Takes raw blocks, gives back compressed ones in the same order.
pub(super) struct Pipeline {
    method: Method,
    threads: usize,
    encoder: Encoder,
    /// Until the threads start.
    hasher: Option<Hasher>,
    crew: Option<Crew>,
    blocks: u64,
    spare_raw: Vec<Vec<u8>>,
    spare_out: Vec<Vec<u8>>,
}

struct Crew {
    jobs: SyncSender<Job>,
    hashing: SyncSender<Arc<Vec<u8>>>,
    hash_thread: JoinHandle<Digest>,
    results: Receiver<Outcome>,
    waiting: BTreeMap<u64, Outcome>,
    next: u64,
    in_flight: usize,
    limit: usize,
}

impl Pipeline {
    pub(super) fn new(method: Method, threads: usize) -> io::Result<Self> {
        Ok(Self {
            method,
            threads: threads.clamp(1, MAX_THREADS),
            encoder: Encoder::new(method)?,
            hasher: Some(Hasher::default()),
            crew: None,
            blocks: 0,
            spare_raw: Vec::new(),
            spare_out: Vec::new(),
        })
    }

    /// An empty buffer for the next block.
    pub(super) fn buffer(&mut self) -> Vec<u8> {
        self.spare_raw.pop().unwrap_or_else(|| Vec::with_capacity(MAX_BLOCK))
    }

    /// Takes a block; `deliver` gets whatever is finished, in order.
    pub(super) fn push(&mut self, raw: Vec<u8>, deliver: &mut dyn FnMut(&Done) -> io::Result<()>) -> io::Result<()> {
        self.blocks += 1;
        if self.crew.is_none() && self.threads > 1 && self.blocks > 1 {
            self.crew = Some(self.start()?);
        }
        let Some(crew) = &mut self.crew else {
            if let Some(hasher) = &mut self.hasher {
                hasher.update(&raw);
            }
            let mut bytes = self.spare_out.pop().unwrap_or_default();
            let sum = self.encoder.encode(&raw, &mut bytes)?;
            let done = Done { bytes, sum };
            deliver(&done)?;
            self.spare_out.push(done.bytes);
            self.recycle(raw);
            return Ok(());
        };
        let raw = Arc::new(raw);
        crew.hashing.send(Arc::clone(&raw)).map_err(|_| died())?;
        let out = self.spare_out.pop().unwrap_or_default();
        crew.jobs.send(Job { number: self.blocks, raw, out }).map_err(|_| died())?;
        crew.in_flight += 1;
        self.collect(false, deliver)
    }

    /// Waits for everything that is still being worked on; returns the digest of all blocks.
    pub(super) fn finish(mut self, deliver: &mut dyn FnMut(&Done) -> io::Result<()>) -> io::Result<DiffId> {
        self.collect(true, deliver)?;
        let digest = match (self.crew, self.hasher) {
            (Some(crew), _) => {
                drop((crew.hashing, crew.jobs));
                crew.hash_thread.join().map_err(|_| died())?
            }
            (None, hasher) => hasher.unwrap_or_default().finish(),
        };
        Ok(DiffId(digest))
    }

    /// Hands out finished blocks; waits while too many (or, at the end, any) are in flight.
    fn collect(&mut self, all: bool, deliver: &mut dyn FnMut(&Done) -> io::Result<()>) -> io::Result<()> {
        let Some(crew) = &mut self.crew else { return Ok(()) };
        loop {
            while let Some(result) = crew.waiting.remove(&crew.next) {
                crew.next += 1;
                crew.in_flight -= 1;
                let done = result.done?;
                deliver(&done)?;
                self.spare_out.push(done.bytes);
                // The hash thread may still hold it; then it is simply freed.
                if let Some(mut raw) = Arc::into_inner(result.raw) {
                    raw.clear();
                    self.spare_raw.push(raw);
                }
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

    fn recycle(&mut self, mut raw: Vec<u8>) {
        raw.clear();
        self.spare_raw.push(raw);
    }

    fn start(&mut self) -> io::Result<Crew> {
        let limit = self.threads * 2 + 1;
        let (jobs, job_queue) = sync_channel::<Job>(limit);
        let (hashing, hash_queue) = sync_channel::<Arc<Vec<u8>>>(limit);
        // Never full: no more than `limit` blocks are in flight.
        let (result_sender, results) = sync_channel(limit + 1);
        let mut hasher = self.hasher.take().unwrap_or_default();
        let hash_thread = std::thread::Builder::new().name("layer-hash".into()).spawn(move || {
            for raw in hash_queue {
                hasher.update(&raw);
            }
            hasher.finish()
        })?;
        let job_queue = Arc::new(Mutex::new(job_queue));
        for _ in 0..self.threads {
            let mut encoder = Encoder::new(self.method)?;
            let (queue, sender) = (Arc::clone(&job_queue), result_sender.clone());
            std::thread::Builder::new().name("layer-pack".into()).spawn(move || {
                loop {
                    let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(Job { number, raw, mut out }) = job else { return };
                    let done = encoder.encode(&raw, &mut out).map(|sum| Done { bytes: out, sum });
                    if sender.send(Outcome { number, raw, done }).is_err() {
                        return;
                    }
                }
            })?;
        }
        Ok(Crew {
            jobs,
            hashing,
            hash_thread,
            results,
            waiting: BTreeMap::new(),
            next: self.blocks,
            in_flight: 0,
            limit,
        })
    }
}

fn died() -> io::Error {
    io::Error::other("a compression thread ended early")
}
