//! The document that says which chunks make up which mount: JSON, compressed with zstd.

use std::collections::{HashMap, HashSet};
use std::io::Read as _;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::chunk::MAX_CHUNK;
use crate::base::Digest;
use crate::cache::backend::CacheError;

/// Media type of the document.
pub const DOCUMENT_TYPE: &str = "application/vnd.rbuild.cache-mounts.v1+json+zstd";
/// Media type of packs.
pub const PACK_TYPE: &str = "application/vnd.rbuild.cache-mounts.pack.v1";
/// The format that is written and read.
const VERSION: u32 = 1;
/// The largest document that is read, in plain text; some million chunks.
const MAX_PLAIN: u64 = 256 << 20;

/// Identity of a chunk's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChunkHash([u8; 32]);

impl ChunkHash {
    /// Of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

impl Serialize for ChunkHash {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&crate::base::digest::hex(&self.0))
    }
}

impl<'de> Deserialize<'de> for ChunkHash {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        let hash = blake3::Hash::from_hex(text.as_bytes()).map_err(serde::de::Error::custom)?;
        Ok(Self(*hash.as_bytes()))
    }
}

/// A piece of a mount's stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(ChunkHash, u32, u32)", into = "(ChunkHash, u32, u32)")]
pub struct Chunk {
    /// Its content.
    pub hash: ChunkHash,
    /// Bytes of its content.
    pub length: u32,
    /// Bytes of the zstd frame in the pack.
    pub stored: u32,
}

impl From<(ChunkHash, u32, u32)> for Chunk {
    fn from((hash, length, stored): (ChunkHash, u32, u32)) -> Self {
        Self { hash, length, stored }
    }
}

impl From<Chunk> for (ChunkHash, u32, u32) {
    fn from(chunk: Chunk) -> Self {
        (chunk.hash, chunk.length, chunk.stored)
    }
}

/// A blob with chunks, one after the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pack {
    /// The blob.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
    /// What is in it.
    pub chunks: Vec<Chunk>,
}

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedMount {
    /// Its id, with the namespace.
    pub id: String,
    /// When a build last used it, in seconds since 1970.
    pub used: u64,
    /// Bytes of its stream.
    pub length: u64,
    /// Its chunks: the number of the first one, counted through all packs, and how many follow each other.
    pub runs: Vec<(u32, u32)>,
}

/// The mounts of a cache.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document {
    version: u32,
    /// Every blob that a mount needs.
    pub packs: Vec<Pack>,
    /// The mounts.
    pub mounts: Vec<SavedMount>,
}

/// Where a chunk is: the pack's number, the frame's bytes in it.
pub(super) type Site = (usize, Range<u64>);

impl Document {
    /// The document as it is stored.
    ///
    /// # Errors
    /// The encoder's.
    pub fn encode(&self) -> Result<Vec<u8>, CacheError> {
        let document = Self { version: VERSION, ..self.clone() };
        let plain = serde_json::to_vec(&document).map_err(|e| CacheError::new(e.to_string()))?;
        zstd::bulk::compress(&plain, 3).map_err(|e| CacheError::new(e.to_string()))
    }

    /// Reads a document that may come from anybody.
    ///
    /// # Errors
    /// When it is broken, or of a later version. `title` names the cache.
    pub fn decode(title: &str, bytes: &[u8]) -> Result<Self, CacheError> {
        let broken = |why: &dyn std::fmt::Display| CacheError::new(format!("the list of {title} is broken: {why}"));
        let mut plain = Vec::new();
        let decoder = zstd::stream::read::Decoder::with_buffer(bytes).map_err(|e| broken(&e))?;
        decoder.take(MAX_PLAIN).read_to_end(&mut plain).map_err(|e| broken(&e))?;
        let document: Self = serde_json::from_slice(&plain).map_err(|e| broken(&e))?;
        if document.version != VERSION {
            let found = document.version;
            return Err(CacheError::new(format!("{title} has format {found}, this rbuild reads {VERSION}")));
        }
        document.check().map_err(|e| broken(&e))?;
        Ok(document)
    }

    /// What the rest of the code relies on.
    fn check(&self) -> Result<(), &'static str> {
        for pack in &self.packs {
            let stored: u64 = pack.chunks.iter().map(|c| u64::from(c.stored)).sum();
            if stored != pack.size {
                return Err("a pack is not as long as its chunks");
            }
            // A frame that does not shrink is a little longer than its content.
            let sane = |c: &Chunk| c.length > 0 && c.length as usize <= MAX_CHUNK && c.stored <= c.length + 1024;
            if !pack.chunks.iter().all(sane) {
                return Err("a chunk has an impossible size");
            }
        }
        let lengths: Vec<u64> = self.chunks().map(|c| u64::from(c.length)).collect();
        let mut ids = HashSet::new();
        for mount in &self.mounts {
            if !ids.insert(&mount.id) {
                return Err("a mount is there twice");
            }
            let mut length: u64 = 0;
            for (first, count) in &mount.runs {
                let run =
                    (*first as usize).checked_add(*count as usize).and_then(|end| lengths.get(*first as usize..end));
                length += run.ok_or("a mount has chunks that do not exist")?.iter().sum::<u64>();
                if length > mount.length {
                    break;
                }
            }
            if length != mount.length {
                return Err("a mount is not as long as its chunks");
            }
        }
        Ok(())
    }

    /// All chunks in the order of their numbers.
    pub(super) fn chunks(&self) -> impl Iterator<Item = &Chunk> {
        self.packs.iter().flat_map(|pack| &pack.chunks)
    }

    /// Where each chunk is, by its number.
    pub(super) fn sites(&self) -> Vec<(Chunk, Site)> {
        let mut sites = Vec::new();
        for (number, pack) in self.packs.iter().enumerate() {
            let mut at = 0;
            for chunk in &pack.chunks {
                let end = at + u64::from(chunk.stored);
                sites.push((*chunk, (number, at..end)));
                at = end;
            }
        }
        sites
    }

    /// The mount with this id.
    #[must_use]
    pub fn mount(&self, id: &str) -> Option<&SavedMount> {
        self.mounts.iter().find(|mount| mount.id == id)
    }

    /// The packs that a mount needs.
    #[must_use]
    pub fn packs_of(&self, mount: &SavedMount) -> Vec<&Pack> {
        let sites = self.sites();
        let mut needed: Vec<usize> = numbers(mount).filter_map(|n| sites.get(n).map(|(_, (pack, _))| *pack)).collect();
        needed.sort_unstable();
        needed.dedup();
        needed.into_iter().map(|pack| &self.packs[pack]).collect()
    }

    /// Takes packs away that are not there any more, and the mounts that need them.
    #[must_use]
    pub fn without(&self, lost: &HashSet<Digest>) -> Self {
        if lost.is_empty() {
            return self.clone();
        }
        let streams = self.mounts.iter().filter(|m| self.packs_of(m).iter().all(|p| !lost.contains(&p.digest)));
        let streams = streams.map(|mount| (mount.clone(), self.stream(mount))).collect();
        let packs = self.packs.iter().filter(|pack| !lost.contains(&pack.digest)).cloned().collect();
        Self::assemble(packs, streams, true)
    }

    /// The chunks of a mount in their order.
    pub(super) fn stream(&self, mount: &SavedMount) -> Vec<ChunkHash> {
        let hashes: Vec<ChunkHash> = self.chunks().map(|c| c.hash).collect();
        numbers(mount).filter_map(|n| hashes.get(n).copied()).collect()
    }

    /// A document of these packs and mounts, whose chunks are all in the packs. Packs that no mount needs are left out
    /// unless `keep` is given.
    pub(super) fn assemble(packs: Vec<Pack>, mounts: Vec<(SavedMount, Vec<ChunkHash>)>, keep: bool) -> Self {
        let needed: HashSet<ChunkHash> = mounts.iter().flat_map(|(_, stream)| stream).copied().collect();
        let mut first = HashSet::new();
        // Of a chunk that is in two packs the first one counts.
        let used = |pack: &Pack, first: &mut HashSet<ChunkHash>| {
            let mut used = keep;
            for chunk in &pack.chunks {
                used |= needed.contains(&chunk.hash) && first.insert(chunk.hash);
            }
            used
        };
        let packs: Vec<Pack> = packs.into_iter().filter(|pack| used(pack, &mut first)).collect();
        let mut numbers: HashMap<ChunkHash, u32> = HashMap::new();
        for (at, chunk) in packs.iter().flat_map(|pack| &pack.chunks).enumerate() {
            numbers.entry(chunk.hash).or_insert(u32::try_from(at).unwrap_or(u32::MAX));
        }
        let mounts = mounts.into_iter().map(|(mut mount, stream)| {
            mount.runs = Vec::new();
            for number in stream.iter().filter_map(|hash| numbers.get(hash)) {
                match mount.runs.last_mut() {
                    Some((first, count)) if *first + *count == *number => *count += 1,
                    _ => mount.runs.push((*number, 1)),
                }
            }
            mount
        });
        let mounts = mounts.collect();
        Self { version: VERSION, packs, mounts }
    }
}

/// Numbers of a mount's chunks.
pub(super) fn numbers(mount: &SavedMount) -> impl Iterator<Item = usize> + '_ {
    mount.runs.iter().flat_map(|(first, count)| *first as usize..*first as usize + *count as usize)
}
