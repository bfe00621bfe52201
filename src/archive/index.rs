//! The tree index: what a layer contains, without the layer.
//!
//! Sorted by path, component by component (so that everything below a directory follows it directly). In memory an index is
//! encoded entries and their positions; entries are decoded when looked at. The stored form shares path prefixes
//! and carries a version and a checksum:
//!
//! ```text
//! "RBTI" version:u8 count:varint { shared:varint suffix:bytes fields }* crc32:u32le
//! fields: kind:u8 (128: opaque, 64: with digest) mode uid gid secs:zigzag nanos size link:bytes [major minor]
//!         xattrs:{ count (name:bytes value:bytes)* } [digest:32] offset headers      (numbers: LEB128; bytes: length first)
//! ```

use std::cmp::Ordering;
use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::entry::{Entry, EntryKind, Timestamp, Xattrs};
use super::error::ArchiveError;
use crate::base::Digest;
use crate::base::pieces::{Pieces, Position};

const MAGIC: &[u8; 5] = b"RBTI\x01";
/// About as much is written at a time.
const PIECE: usize = 64 << 10;
/// The most bytes of a number.
const NUMBER: usize = 10;
const OPAQUE: u8 = 128;
const WITH_DIGEST: u8 = 64;

/// One entry of an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexEntry {
    /// The entry as it stands in the tar.
    pub entry: Entry,
    /// sha256 of a file's content (of the linked file's, for a hard link inside the layer).
    pub digest: Option<Digest>,
    /// Where its first header starts in the tar.
    pub offset: u64,
    /// Where its content starts in the tar.
    pub data_offset: u64,
}

/// Sorted entries of one layer, kept compactly.
#[derive(Debug, Clone, Default)]
pub struct TreeIndex {
    /// Encoded entries, each with its whole path.
    data: Pieces,
    /// Where each entry starts in `data`, in order of the paths.
    starts: Vec<Position>,
}

impl PartialEq for TreeIndex {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && (0..self.len()).all(|at| self.raw(at) == other.raw(at))
    }
}

impl Eq for TreeIndex {}

impl TreeIndex {
    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    /// Whether the layer changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// The entry at `path`.
    #[must_use]
    pub fn lookup(&self, path: &Path) -> Option<IndexEntry> {
        self.find(path.as_os_str().as_bytes()).ok().and_then(|at| self.get(at))
    }

    /// All entries in order of their paths.
    pub fn iter(&self) -> impl Iterator<Item = IndexEntry> + '_ {
        (0..self.starts.len()).filter_map(|at| self.get(at))
    }

    /// The entries below (not at) `dir`.
    pub fn below(&self, dir: &Path) -> impl Iterator<Item = IndexEntry> + '_ {
        self.range_below(dir.as_os_str().as_bytes()).filter_map(|at| self.get(at))
    }

    /// The entries directly in `dir`.
    pub fn children(&self, dir: &Path) -> impl Iterator<Item = IndexEntry> + '_ {
        let range = self.range_below(dir.as_os_str().as_bytes());
        let (mut at, end) = (range.start, range.end);
        let depth = dir.components().count();
        std::iter::from_fn(move || {
            while at < end {
                let found = self.get(at)?;
                if found.entry.path.components().count() == depth + 1 {
                    // Over the child's own subtree, in one search.
                    at = self.range_below(found.entry.path.as_os_str().as_bytes()).end;
                    return Some(found);
                }
                at += 1;
            }
            None
        })
    }

    /// Whether the content digest of every file is known.
    #[must_use]
    pub fn tells_contents(&self) -> bool {
        self.starts.iter().all(|start| {
            let mut cursor = Cursor { rest: self.data.from(*start) };
            let kind = cursor.bytes().and_then(|_| cursor.byte());
            kind.is_some_and(|kind| kind & WITH_DIGEST != 0 || usize::from(kind & !OPAQUE) != FILE)
        })
    }

    /// The bytes to store.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write_to(&mut out).expect("because a vector takes everything");
        out
    }

    /// Writes the bytes to store, a piece at a time.
    ///
    /// # Errors
    /// The writer's.
    pub fn write_to(&self, out: &mut impl Write) -> io::Result<()> {
        let mut piece = MAGIC.to_vec();
        let mut crc = flate2::Crc::new();
        put_number(&mut piece, self.starts.len() as u64);
        let mut previous: &[u8] = b"";
        for at in 0..self.starts.len() {
            let (path, fields) = self.raw(at);
            let shared = path.iter().zip(previous).take_while(|(a, b)| a == b).count();
            put_number(&mut piece, shared as u64);
            put_bytes(&mut piece, &path[shared..]);
            piece.extend_from_slice(fields);
            previous = path;
            if piece.len() >= PIECE {
                crc.update(&piece);
                out.write_all(&piece)?;
                piece.clear();
            }
        }
        crc.update(&piece);
        piece.extend_from_slice(&crc.sum().to_le_bytes());
        out.write_all(&piece)
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote.
    ///
    /// # Errors
    /// Another version, or damage.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ArchiveError> {
        let bad = ArchiveError::Index;
        if !bytes.starts_with(MAGIC) {
            return Err(bad(if bytes.starts_with(&MAGIC[..4]) { "unknown version" } else { "not a tree index" }));
        }
        let (body, crc) = bytes.split_last_chunk::<4>().ok_or(bad("truncated"))?;
        if body.len() < MAGIC.len() || crc32(body) != u32::from_le_bytes(*crc) {
            return Err(bad("checksum mismatch"));
        }
        let mut cursor = Cursor { rest: &body[MAGIC.len()..] };
        let count = cursor.number().ok_or(bad("truncated"))?;
        let mut index = Self::default();
        let mut path: Vec<u8> = Vec::new();
        for _ in 0..count {
            let shared = cursor.number().and_then(|n| usize::try_from(n).ok()).ok_or(bad("truncated"))?;
            let suffix = cursor.bytes().ok_or(bad("truncated"))?;
            if shared > path.len() {
                return Err(bad("path prefix out of range"));
            }
            let mut next = path[..shared].to_vec();
            next.extend_from_slice(suffix);
            if !index.starts.is_empty() && path_order(&path, &next) != Ordering::Less {
                return Err(bad("entries out of order"));
            }
            path = next;
            let fields = cursor.rest;
            decode_fields(&mut cursor, &path).ok_or(bad("invalid entry"))?;
            let fields = &fields[..fields.len() - cursor.rest.len()];
            let (start, data) = index.data.next(NUMBER + path.len() + fields.len());
            put_bytes(data, &path);
            data.extend_from_slice(fields);
            index.starts.push(start);
        }
        if cursor.rest.is_empty() { Ok(index) } else { Err(bad("trailing bytes")) }
    }

    fn raw(&self, at: usize) -> (&[u8], &[u8]) {
        let mut cursor = Cursor { rest: self.data.from(self.starts[at]) };
        let path = cursor.bytes().unwrap_or_default();
        let fields = cursor.rest;
        if decode_fields(&mut cursor, b"").is_none() {
            return (path, b"");
        }
        (path, &fields[..fields.len() - cursor.rest.len()])
    }

    fn path_at(&self, at: usize) -> &[u8] {
        Cursor { rest: self.data.from(self.starts[at]) }.bytes().unwrap_or_default()
    }

    fn get(&self, at: usize) -> Option<IndexEntry> {
        let mut found = self.decode(at)?;
        if found.entry.kind == EntryKind::Hardlink {
            let target = self.find(found.entry.link.as_os_str().as_bytes()).ok();
            found.digest = target.and_then(|at| self.decode(at)).and_then(|target| target.digest);
        }
        Some(found)
    }

    fn decode(&self, at: usize) -> Option<IndexEntry> {
        let mut cursor = Cursor { rest: self.data.from(*self.starts.get(at)?) };
        let path = cursor.bytes()?;
        decode_fields(&mut cursor, path)
    }

    fn find(&self, path: &[u8]) -> Result<usize, usize> {
        let (mut low, mut high) = (0, self.starts.len());
        while low < high {
            let middle = low.midpoint(high);
            match path_order(self.path_at(middle), path) {
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
                Ordering::Equal => return Ok(middle),
            }
        }
        Err(low)
    }

    fn range_below(&self, dir: &[u8]) -> std::ops::Range<usize> {
        if dir.is_empty() {
            let root = usize::from(self.starts.first().is_some_and(|_| self.path_at(0).is_empty()));
            return root..self.starts.len();
        }
        let start = self.find(dir).map_or_else(|at| at, |at| at + 1);
        let (mut low, mut high) = (start, self.starts.len());
        while low < high {
            let middle = low.midpoint(high);
            if is_below(self.path_at(middle), dir) { low = middle + 1 } else { high = middle }
        }
        start..low
    }
}

/// Orders paths component by component: `/` sorts before every byte that a name can contain.
#[must_use]
pub fn path_order(a: &[u8], b: &[u8]) -> Ordering {
    let rank = |byte: u8| if byte == b'/' { 0 } else { byte };
    match a.iter().zip(b).find(|(x, y)| x != y) {
        Some((x, y)) => rank(*x).cmp(&rank(*y)),
        None => a.len().cmp(&b.len()),
    }
}

/// Whether `path` lies inside `dir`.
#[must_use]
pub fn is_below(path: &[u8], dir: &[u8]) -> bool {
    if dir.is_empty() { !path.is_empty() } else { path.strip_prefix(dir).is_some_and(|rest| rest.starts_with(b"/")) }
}

/// Collects entries in the order of a tar, where later ones replace earlier ones.
#[derive(Debug, Default)]
pub struct IndexBuilder {
    index: TreeIndex,
    /// Entries (by number) that only say "this directory is opaque"; their other fields are a fallback.
    markers: Vec<usize>,
    /// Whether the entries came in order and without repetition, so that nothing is left to do.
    disordered: bool,
}

impl IndexBuilder {
    /// Adds the next entry of the tar; gives the place of its digest, if it has one, for [`set_digest`](Self::set_digest).
    pub fn push(&mut self, entry: &Entry, digest: Option<[u8; 32]>, offset: u64, data_offset: u64) -> Position {
        let path = entry.path.as_os_str().as_bytes();
        let count = self.index.starts.len();
        // What is ordered cannot repeat. A deletion can still have entries below it, which a sorted tar puts next.
        if count > 0 {
            let last = self.index.path_at(count - 1);
            self.disordered |= path_order(last, path) != Ordering::Less || is_below(path, last) && !self.last_is_dir();
        }
        let (start, data) = self.index.data.next(NUMBER + path.len() + largest_fields(entry));
        let before = data.len();
        put_bytes(data, path);
        encode_fields(data, entry, digest.as_ref(), offset, data_offset);
        let size = data.len() - before;
        self.index.starts.push(start);
        // The offsets stand behind it.
        let behind = number_size(offset) + number_size(data_offset - offset);
        start.plus(size - behind - if digest.is_some() { 32 } else { 0 })
    }

    /// Replaces the digest of an entry that was pushed with one.
    pub fn set_digest(&mut self, place: Position, digest: &[u8; 32]) {
        self.index.data.replace(place, digest);
    }

    /// Notes that a marker makes `dir` opaque; the rest of `dir` counts only if the tar has no entry for it.
    pub fn push_opaque(&mut self, dir: &Entry, offset: u64) {
        self.disordered = true;
        self.markers.push(self.index.starts.len());
        self.push(&Entry { opaque: true, ..dir.clone() }, None, offset, offset);
    }

    fn last_is_dir(&self) -> bool {
        self.index
            .starts
            .len()
            .checked_sub(1)
            .and_then(|at| self.index.decode(at))
            .is_some_and(|e| e.entry.kind == EntryKind::Dir)
    }

    /// Sorts, and keeps of each path what the tar as a whole says about it.
    #[must_use]
    pub fn finish(self) -> TreeIndex {
        if !self.disordered {
            return self.index;
        }
        let source = self.index;
        let mut order: Vec<usize> = (0..source.starts.len()).collect();
        order.sort_by(|a, b| path_order(source.path_at(*a), source.path_at(*b)).then(a.cmp(b)));
        let mut kept: Vec<(usize, IndexEntry)> = Vec::new();
        for number in order {
            let Some(next) = source.decode(number) else { continue };
            let marker = self.markers.binary_search(&number).is_ok();
            match kept.last_mut() {
                Some((at, previous)) if previous.entry.path == next.entry.path => {
                    let earlier_marker = self.markers.binary_search(at).is_ok();
                    replace(at, previous, number, next, marker, earlier_marker);
                }
                _ => kept.push((number, next)),
            }
        }
        // Nothing is below a file; what came later than the file made it a directory.
        let mut out = Self::default();
        let mut ancestors: Vec<(usize, IndexEntry)> = Vec::new();
        let mut result: Vec<IndexEntry> = Vec::new();
        for (number, entry) in kept {
            while ancestors.last().is_some_and(|(_, a)| {
                !is_below(entry.entry.path.as_os_str().as_bytes(), a.entry.path.as_os_str().as_bytes())
            }) {
                ancestors.pop();
            }
            if let Some((at, blocker)) = ancestors.last_mut().filter(|(_, a)| a.entry.kind != EntryKind::Dir) {
                if *at > number {
                    continue;
                }
                let path = blocker.entry.path.clone();
                blocker.entry = Entry { opaque: true, ..Entry::dir(path.clone(), 0o755) };
                blocker.digest = None;
                if let Some(stored) = result.iter_mut().rev().find(|e| e.entry.path == path) {
                    *stored = blocker.clone();
                }
            }
            ancestors.push((number, entry.clone()));
            result.push(entry);
        }
        for found in result {
            let digest = found.digest.as_ref().and_then(raw_digest);
            out.push(&found.entry, digest, found.offset, found.data_offset);
        }
        out.index
    }
}

/// Merges two entries for one path, of which `next` came later in the tar.
fn replace(
    at: &mut usize,
    previous: &mut IndexEntry,
    number: usize,
    mut next: IndexEntry,
    marker: bool,
    earlier_marker: bool,
) {
    let both = (previous.entry.kind, next.entry.kind);
    match both {
        // A deletion is about lower layers: what this layer has stays, alone.
        (EntryKind::Dir, EntryKind::Whiteout) => previous.entry.opaque = true,
        (_, EntryKind::Whiteout) => {}
        (EntryKind::Dir, EntryKind::Dir) if marker && !earlier_marker => previous.entry.opaque = true,
        (EntryKind::Dir, EntryKind::Dir) => {
            next.entry.opaque |= previous.entry.opaque;
            (*at, *previous) = (number, next);
        }
        (_, kind) => {
            // A directory that takes the place of a file does not show what lower layers have there.
            next.entry.opaque |= kind == EntryKind::Dir;
            (*at, *previous) = (number, next);
        }
    }
}

fn raw_digest(digest: &Digest) -> Option<[u8; 32]> {
    let mut out = [0; 32];
    for (byte, pair) in out.iter_mut().zip(digest.hex().as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    (digest.algorithm() == "sha256").then_some(out)
}

/// Where files stand in [`KINDS`].
const FILE: usize = 0;
const KINDS: [EntryKind; 8] = [
    EntryKind::File,
    EntryKind::Dir,
    EntryKind::Symlink,
    EntryKind::Hardlink,
    EntryKind::Char,
    EntryKind::Block,
    EntryKind::Fifo,
    EntryKind::Whiteout,
];

/// The most that [`encode_fields`] writes.
fn largest_fields(entry: &Entry) -> usize {
    let xattrs: usize = entry.xattrs.iter().map(|(name, value)| 2 * NUMBER + name.len() + value.len()).sum();
    // The kind, eleven numbers, the lengths of the link and of the list of attributes.
    1 + 13 * NUMBER + entry.link.as_os_str().len() + xattrs + 32
}

fn encode_fields(out: &mut Vec<u8>, entry: &Entry, digest: Option<&[u8; 32]>, offset: u64, data_offset: u64) {
    let kind = KINDS.iter().position(|k| *k == entry.kind).unwrap_or_default() as u8;
    out.push(kind | if entry.opaque { OPAQUE } else { 0 } | if digest.is_some() { WITH_DIGEST } else { 0 });
    for number in [u64::from(entry.mode), u64::from(entry.uid), u64::from(entry.gid)] {
        put_number(out, number);
    }
    let secs = entry.mtime.secs;
    put_number(out, ((secs << 1) ^ (secs >> 63)).cast_unsigned());
    put_number(out, u64::from(entry.mtime.nanos));
    put_number(out, entry.size);
    put_bytes(out, entry.link.as_os_str().as_bytes());
    if matches!(entry.kind, EntryKind::Char | EntryKind::Block) {
        put_number(out, u64::from(entry.device.0));
        put_number(out, u64::from(entry.device.1));
    }
    put_number(out, entry.xattrs.len() as u64);
    for (name, value) in &entry.xattrs {
        put_bytes(out, name);
        put_bytes(out, value);
    }
    if let Some(digest) = digest {
        out.extend_from_slice(digest);
    }
    put_number(out, offset);
    put_number(out, data_offset - offset);
}

fn decode_fields(cursor: &mut Cursor<'_>, path: &[u8]) -> Option<IndexEntry> {
    let flags = cursor.byte()?;
    let kind = *KINDS.get(usize::from(flags & !(OPAQUE | WITH_DIGEST)))?;
    let mut entry = Entry::new(PathBuf::from(OsStr::from_bytes(path)), kind);
    entry.opaque = flags & OPAQUE != 0;
    entry.mode = cursor.small()?;
    entry.uid = cursor.small()?;
    entry.gid = cursor.small()?;
    let zigzag = cursor.number()?;
    entry.mtime = Timestamp { secs: (zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed(), nanos: cursor.small()? };
    entry.size = cursor.number()?;
    entry.link = PathBuf::from(OsString::from_vec(cursor.bytes()?.to_vec()));
    if matches!(kind, EntryKind::Char | EntryKind::Block) {
        entry.device = (cursor.small()?, cursor.small()?);
    }
    let mut xattrs = Xattrs::new();
    for _ in 0..cursor.number()? {
        xattrs.insert(cursor.bytes()?.to_vec(), cursor.bytes()?.to_vec());
    }
    entry.xattrs = xattrs;
    let digest = if flags & WITH_DIGEST != 0 { Some(Digest::from_sha256(cursor.take(32)?)) } else { None };
    let offset = cursor.number()?;
    Some(IndexEntry { entry, digest, offset, data_offset: offset.checked_add(cursor.number()?)? })
}

fn put_number(out: &mut Vec<u8>, mut value: u64) {
    while value >= 128 {
        out.push((value & 127) as u8 | 128);
        value >>= 7;
    }
    out.push(value as u8);
}

/// How many bytes [`put_number`] takes.
fn number_size(value: u64) -> usize {
    (64 - value.leading_zeros()).div_ceil(7).max(1) as usize
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// Reads encoded values; `None` at every end and overflow.
struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    fn number(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 127).checked_shl(shift)?;
            if byte & 128 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn small(&mut self) -> Option<u32> {
        self.number()?.try_into().ok()
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(bytes)
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let count = self.number()?.try_into().ok()?;
        self.take(count)
    }
}
