//! Mounts to chunks and packs: what a cache has is not made again, what is too much is left out.

use std::collections::HashSet;
use std::io::{self, Write as _};
use std::path::PathBuf;

use super::chunk::Chunker;
use super::document::{Chunk, ChunkHash, Document, Pack, SavedMount};
use super::tree::{self, FileUse};
use crate::store::{BlobWriter, Store, StoreError};

/// A pack is complete with so many bytes.
const PACK_SIZE: u64 = 8 << 20;
/// zstd's level for chunks.
const LEVEL: i32 = 3;

/// A mount of this machine, held alone.
#[derive(Debug, Clone)]
pub struct LocalMount {
    /// Its id, with the namespace.
    pub id: String,
    /// Its directory.
    pub path: PathBuf,
    /// When a build last used it, in seconds since 1970.
    pub used: u64,
}

/// What a cache is to hold now.
#[derive(Debug, Default)]
pub struct Saved {
    /// Its document.
    pub document: Document,
    /// The packs that are new: blobs of the store, for whoever uploads them, to be discarded then.
    pub fresh: Vec<Pack>,
    /// Mounts that had no room, by their ids.
    pub dropped: Vec<String>,
    /// Files that had no room, and their bytes.
    pub trimmed: (usize, u64),
}

/// Why mounts could not be saved.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// The mount's directory, or the encoder.
    #[error("cannot read cache mount {id}: {source}")]
    Read {
        /// Which mount.
        id: String,
        /// Why not.
        source: io::Error,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Packs `mounts` beside what `known` (whose packs are all there) has of other mounts, `cap` bytes at most.
///
/// # Errors
/// See [`SaveError`].
pub fn save(store: &Store, mounts: &[LocalMount], known: &Document, cap: u64) -> Result<Saved, SaveError> {
    let mut saved = Saved::default();
    let (sizes, left_out) = trim(mounts, cap, &mut saved.trimmed)?;
    let mut room = cap.saturating_sub(sizes);
    let local: HashSet<&str> = mounts.iter().map(|m| m.id.as_str()).collect();
    let mut others: Vec<&SavedMount> = known.mounts.iter().filter(|m| !local.contains(m.id.as_str())).collect();
    others.sort_by(|a, b| b.used.cmp(&a.used).then_with(|| a.id.cmp(&b.id)));
    let mut kept = Vec::new();
    for mount in others {
        if mount.length <= room {
            room -= mount.length;
            kept.push((mount.clone(), known.stream(mount)));
        } else {
            saved.dropped.push(mount.id.clone());
        }
    }
    let there: HashSet<ChunkHash> = known.chunks().map(|c| c.hash).collect();
    let mut packer = Packer::new(store)?;
    let mut streams = Vec::new();
    for (mount, left_out) in mounts.iter().zip(&left_out) {
        let mut stream = Vec::new();
        let mut length = 0;
        scan(mount, left_out, &mut |bytes| {
            let hash = ChunkHash::of(bytes);
            stream.push(hash);
            length += bytes.len() as u64;
            if there.contains(&hash) { Ok(()) } else { packer.add(hash, bytes) }
        })?;
        streams.push((SavedMount { id: mount.id.clone(), used: mount.used, length, runs: Vec::new() }, stream));
    }
    // Packs of which little is left would keep the rest alive: what is needed of them is packed again.
    let sparse = sparse(known, &streams, &kept);
    if !sparse.is_empty() {
        let again: HashSet<ChunkHash> =
            sparse.iter().flat_map(|pack| &known.packs[*pack].chunks).map(|chunk| chunk.hash).collect();
        for (mount, left_out) in mounts.iter().zip(&left_out) {
            scan(mount, left_out, &mut |bytes| {
                let hash = ChunkHash::of(bytes);
                if again.contains(&hash) { packer.add(hash, bytes) } else { Ok(()) }
            })?;
        }
    }
    saved.fresh = packer.finish()?;
    let old = known.packs.iter().enumerate().filter(|(at, _)| !sparse.contains(at)).map(|(_, pack)| pack);
    let packs = old.chain(&saved.fresh).cloned().collect();
    streams.extend(kept);
    saved.document = Document::assemble(packs, streams, false);
    Ok(saved)
}

fn scan(
    mount: &LocalMount,
    left_out: &HashSet<PathBuf>,
    visit: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) -> Result<(), SaveError> {
    let mut chunker = Chunker::new(visit);
    let written = tree::write(&mount.path, left_out, &mut chunker).and_then(|()| chunker.finish());
    written.map_err(|source| read_error(mount, source))
}

fn read_error(mount: &LocalMount, source: io::Error) -> SaveError {
    SaveError::Read { id: super::shown(&mount.id).to_owned(), source }
}

/// What to leave out of each mount so that all together have at most `cap` bytes: files that were not used for longest.
/// Gives the bytes of the rest, too.
fn trim(
    mounts: &[LocalMount],
    cap: u64,
    trimmed: &mut (usize, u64),
) -> Result<(u64, Vec<HashSet<PathBuf>>), SaveError> {
    let mut total = 0;
    let mut files: Vec<(usize, FileUse)> = Vec::new();
    for (at, mount) in mounts.iter().enumerate() {
        let (bytes, found) = tree::measure(&mount.path).map_err(|e| read_error(mount, e))?;
        total += bytes;
        files.extend(found.into_iter().map(|file| (at, file)));
    }
    let mut left_out = vec![HashSet::new(); mounts.len()];
    files.sort_by(|(_, a), (_, b)| a.used.cmp(&b.used).then_with(|| a.path.cmp(&b.path)));
    for (at, file) in files {
        if total <= cap {
            break;
        }
        total -= file.bytes;
        trimmed.0 += 1;
        trimmed.1 += file.bytes;
        left_out[at].insert(file.path);
    }
    Ok((total, left_out))
}

/// Packs less than half of which is needed, if all that is needed of them is here.
fn sparse(
    known: &Document,
    streams: &[(SavedMount, Vec<ChunkHash>)],
    kept: &[(SavedMount, Vec<ChunkHash>)],
) -> Vec<usize> {
    let here: HashSet<ChunkHash> = streams.iter().flat_map(|(_, stream)| stream).copied().collect();
    let elsewhere: HashSet<ChunkHash> = kept.iter().flat_map(|(_, stream)| stream).copied().collect();
    let mut found = Vec::new();
    for (at, pack) in known.packs.iter().enumerate() {
        if pack.chunks.iter().any(|c| elsewhere.contains(&c.hash) && !here.contains(&c.hash)) {
            continue;
        }
        let needed: u64 = pack.chunks.iter().filter(|c| here.contains(&c.hash)).map(|c| u64::from(c.stored)).sum();
        if needed > 0 && needed * 2 < pack.size {
            found.push(at);
        }
    }
    found
}

/// Puts chunks into packs.
struct Packer<'a> {
    store: &'a Store,
    encoder: zstd::bulk::Compressor<'static>,
    known: HashSet<ChunkHash>,
    open: Option<(BlobWriter, Vec<Chunk>)>,
    done: Vec<Pack>,
}

impl<'a> Packer<'a> {
    fn new(store: &'a Store) -> Result<Self, SaveError> {
        let encoder =
            zstd::bulk::Compressor::new(LEVEL).map_err(|source| SaveError::Read { id: String::new(), source })?;
        Ok(Self { store, encoder, known: HashSet::new(), open: None, done: Vec::new() })
    }

    fn add(&mut self, hash: ChunkHash, bytes: &[u8]) -> io::Result<()> {
        if !self.known.insert(hash) {
            return Ok(());
        }
        let frame = self.encoder.compress(bytes)?;
        let (writer, chunks) = match &mut self.open {
            Some(open) => open,
            None => self.open.insert((self.store.blob_writer().map_err(io::Error::other)?, Vec::new())),
        };
        writer.write_all(&frame)?;
        let size = |length: usize| u32::try_from(length).map_err(io::Error::other);
        chunks.push(Chunk { hash, length: size(bytes.len())?, stored: size(frame.len())? });
        if writer.written() >= PACK_SIZE {
            self.close().map_err(io::Error::other)?;
        }
        Ok(())
    }

    fn close(&mut self) -> Result<(), StoreError> {
        if let Some((writer, chunks)) = self.open.take() {
            let (digest, size) = writer.commit(None)?;
            self.done.push(Pack { digest, size, chunks });
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<Pack>, SaveError> {
        self.close()?;
        Ok(self.done)
    }
}
