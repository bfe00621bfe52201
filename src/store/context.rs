//! The stat cache of a build context: which content a file had when it last looked like this.
//!
//! A hint only: content decides. One flat file per context directory, read at once, searched in place, replaced
//! atomically. A file whose times are too close to the moment the index was opened is not recorded: it could change
//! again within the same tick of the clock and look the same ("racily clean").

use std::cell::Cell;
use std::collections::HashMap;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::base::digest::hex;
use crate::base::pieces::{Pieces, Position};
use crate::base::{Digest, StatKey};

use super::meta::now;
use super::{Store, StoreError};

/// First bytes of the file; the last one is the version.
const MAGIC: &[u8; 8] = b"rbctx\0\0\x02";

/// How far from the opening of the index a file's times must be. The coarsest clocks (vfat, old ext) tick every two
/// seconds.
const RACY: Duration = Duration::from_secs(2);

/// Bytes of an entry before its path.
const FIXED: usize = 4 * 8 + 32 + 1 + 4;

/// An entry that is not asked for in this many writing builds is dropped.
const MAX_AGE: u8 = 16;

/// About as much is written at a time.
const PIECE: usize = 64 << 10;

/// What was seen of a file is known for so many milliseconds: a build that copies later looks again.
const MOMENT: u64 = 1000;

/// The entry was asked for.
const SEEN: u8 = 1;

/// There is a newer entry for the path.
const REPLACED: u8 = 2;

/// The bit of the age that says that a file had no extended attributes.
const PLAIN: u8 = 0x80;

/// The index of one context directory. Usable from several threads.
#[derive(Debug)]
pub struct ContextIndex {
    store: Store,
    path: PathBuf,
    context: Vec<u8>,
    /// The file as read.
    data: Vec<u8>,
    /// Where each entry starts in `data`, in order of their paths.
    starts: Vec<usize>,
    /// New and replaced entries.
    new: Mutex<Changes>,
    /// Something was put that the file does not have: until then nobody has to look there for such paths.
    added: AtomicBool,
    /// What is known of the file's entries, by position: [`SEEN`], [`REPLACED`].
    marks: Vec<AtomicU8>,
    /// What was seen at the entries' paths, by position: when (see [`moment`]), and below that 16 type and permission bits. 0 for
    /// nothing.
    looks: Vec<AtomicU64>,
    opened: i64,
}

/// New and replaced entries, kept as small as they will be in the file: there may be hundreds of thousands.
#[derive(Debug, Default)]
struct Changes {
    /// Entries as they will be in the file.
    pieces: Pieces,
    /// Where the newest entry is by the hash of its path. Of two paths with one hash the later is kept: all this is a hint.
    places: HashMap<u64, Position>,
    hasher: RandomState,
}

/// An age that says that an entry is not to be kept.
const GONE: u8 = PLAIN - 1;

impl Changes {
    fn put(&mut self, path: &[u8], value: Option<&Known>) {
        let none = Known { key: StatKey { size: 0, mtime: 0, ctime: 0, ino: 0 }, digest: [0; 32], plain: false };
        let known = value.unwrap_or(&none);
        let age = if value.is_none() {
            GONE
        } else if known.plain {
            PLAIN
        } else {
            0
        };
        let (position, piece) = self.pieces.next(FIXED + path.len());
        self.places.insert(self.hasher.hash_one(path), position);
        append(piece, path, &known.key, &known.digest, age);
    }

    fn at(&self, position: Position) -> Stored<'_> {
        Stored::read(self.pieces.from(position))
    }

    fn get(&self, path: &[u8]) -> Option<Stored<'_>> {
        self.places.get(&self.hasher.hash_one(path)).map(|place| self.at(*place)).filter(|found| found.path == path)
    }

    /// The newest entries in order of their paths.
    fn sorted(&self) -> Vec<Position> {
        let mut places: Vec<_> = self.places.values().copied().collect();
        places.sort_unstable_by(|a, b| self.at(*a).path.cmp(self.at(*b).path));
        places
    }
}

/// What a file was.
#[derive(Debug, Clone, Copy)]
struct Known {
    key: StatKey,
    digest: [u8; 32],
    /// It had no extended attributes at all.
    plain: bool,
}

struct Stored<'a> {
    key: StatKey,
    digest: &'a [u8],
    age: u8,
    plain: bool,
    path: &'a [u8],
}

impl Store {
    /// Opens the index of the context directory `context` (its canonical path). What is damaged counts as empty.
    ///
    /// # Errors
    /// If the file exists and cannot be read.
    pub fn context_index(&self, context: &Path) -> Result<ContextIndex, StoreError> {
        let name = Digest::sha256(context.as_os_str().as_bytes());
        let path = self.inner.layout.contexts().join(&name.hex()[..32]);
        let opened = now();
        let data = match fs::read(&path) {
            Ok(data) => {
                // The file's own time says when it was last used; that costs no transaction.
                let _ = fs::File::open(&path).and_then(|file| file.set_modified(SystemTime::now()));
                data
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(StoreError::io("read", path)(e)),
        };
        let context = context.as_os_str().as_bytes().to_vec();
        let starts = entries(&data, &context).unwrap_or_default();
        let marks = starts.iter().map(|_| AtomicU8::new(0)).collect();
        let looks = starts.iter().map(|_| AtomicU64::new(0)).collect();
        let (new, added) = (Mutex::default(), AtomicBool::new(false));
        Ok(ContextIndex { store: self.clone(), path, context, data, starts, new, added, marks, looks, opened })
    }
}

thread_local! {
    /// The entry behind the one that this thread found last, in whichever index.
    static NEXT: Cell<usize> = const { Cell::new(0) };
}

impl ContextIndex {
    /// The content of the file at `path` (relative to the context), if it still looks as it did when it was read.
    pub fn get(&self, path: &Path, key: &StatKey) -> Option<Digest> {
        self.known(path, key).map(|known| Digest::from_sha256(&known.digest))
    }

    /// sha256 of the content of the file at `path`, if it has no extended attributes: it had none when it last looked like
    /// `key`, and setting one changes the change time.
    pub fn plain(&self, path: &Path, key: &StatKey) -> Option<[u8; 32]> {
        self.known(path, key).filter(|known| known.plain).map(|known| known.digest)
    }

    /// Notes the type and permission bits of the file at `path`, which looks as its entry says.
    pub fn seen(&self, path: &Path, mode: u32) {
        if let Some(position) = self.position(path.as_os_str().as_bytes()) {
            self.looks[position].store(moment() << 16 | u64::from(mode & 0xffff), Ordering::Release);
        }
    }

    /// What was [seen](Self::seen) of a file without extended attributes a moment ago: type and permission bits, what it looked
    /// like, and sha256 of its content.
    pub fn just_seen(&self, path: &Path) -> Option<(u32, StatKey, [u8; 32])> {
        let position = self.position(path.as_os_str().as_bytes())?;
        let look = self.looks[position].load(Ordering::Acquire);
        let is_fresh = look != 0 && moment().saturating_sub(look >> 16) <= MOMENT;
        if !is_fresh || self.marks[position].load(Ordering::Acquire) & REPLACED != 0 {
            return None;
        }
        let entry = self.entry(self.starts[position]);
        let known = entry.known(&entry.key)?;
        known.plain.then_some(((look & 0xffff) as u32, known.key, known.digest))
    }

    fn known(&self, path: &Path, key: &StatKey) -> Option<Known> {
        let path = path.as_os_str().as_bytes();
        let position = self.position(path);
        // Of tens of thousands of files a few have changed: the others are found without waiting for anybody.
        let replaced = match position {
            Some(position) => self.marks[position].load(Ordering::Acquire) & REPLACED != 0,
            None => self.added.load(Ordering::Acquire),
        };
        if replaced {
            return self.new.lock().unwrap_or_else(PoisonError::into_inner).get(path)?.known(key);
        }
        let position = position?;
        let known = self.entry(self.starts[position]).known(key)?;
        // Most were asked for before, by somebody else: what is only read stays in every processor's cache.
        if self.marks[position].load(Ordering::Relaxed) & SEEN == 0 {
            self.marks[position].fetch_or(SEEN, Ordering::Relaxed);
        }
        Some(known)
    }

    /// Where the entry of `path` is. Whoever looks at a directory asks in the order of the entries, so the next one is tried first:
    /// a search takes forty times as long.
    fn position(&self, path: &[u8]) -> Option<usize> {
        let next = NEXT.get();
        let is_at = |at: &usize| self.starts.get(*at).is_some_and(|start| self.entry(*start).path == path);
        // Or the last one once more.
        let found = match [next, next.wrapping_sub(1)].into_iter().find(is_at) {
            Some(found) => found,
            None => self.starts.binary_search_by(|start| self.entry(*start).path.cmp(path)).ok()?,
        };
        NEXT.set(found + 1);
        Some(found)
    }

    /// Remembers what the file at `path` contained when it looked like `key`, and whether it had no extended
    /// attributes. `key` must have been taken before the content was read, and after the index was opened.
    pub fn put(&self, path: &Path, key: &StatKey, digest: &Digest, plain: bool) {
        let raw = (digest.algorithm() == "sha256").then(|| raw_digest(digest)).flatten();
        let value = raw.filter(|_| !self.racy(key)).map(|digest| Known { key: *key, digest, plain });
        let path = path.as_os_str().as_bytes();
        self.new.lock().unwrap_or_else(PoisonError::into_inner).put(path, value.as_ref());
        match self.position(path) {
            Some(position) => drop(self.marks[position].fetch_or(REPLACED, Ordering::Release)),
            None => self.added.store(true, Ordering::Release),
        }
    }

    /// Writes the index if something was put.
    ///
    /// # Errors
    /// If the file cannot be written; the old one stays.
    pub fn save(&self) -> Result<(), StoreError> {
        let changes = self.new.lock().unwrap_or_else(PoisonError::into_inner);
        if changes.places.is_empty() {
            return Ok(());
        }
        // Not synced: a damaged file counts as empty.
        let temp = self.store.owner()?.path("context");
        let file = fs::File::create(&temp).map_err(StoreError::io("create", &temp))?;
        self.write(&changes, Summed::new(file)).map_err(StoreError::io("write", &temp))?;
        fs::rename(&temp, &self.path).map_err(|e| {
            let _ = fs::remove_file(&temp);
            StoreError::io("rename", &self.path)(e)
        })
    }

    /// Writes the old entries with the changes.
    fn write(&self, changes: &Changes, mut file: Summed) -> io::Result<()> {
        let mut out = Vec::with_capacity(2 * PIECE);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&length(&self.context));
        out.extend_from_slice(&self.context);
        let places = changes.sorted();
        let mut new = places.iter().map(|place| changes.at(*place)).peekable();
        for (position, start) in self.starts.iter().enumerate() {
            let old = self.entry(*start);
            while let Some(entry) = new.next_if(|entry| entry.path < old.path) {
                append_new(&mut out, &entry);
                file.pass_on(&mut out)?;
            }
            if let Some(entry) = new.next_if(|entry| entry.path == old.path) {
                append_new(&mut out, &entry);
                file.pass_on(&mut out)?;
                continue;
            }
            let seen = self.marks[position].load(Ordering::Relaxed) & SEEN != 0;
            let age = if seen { 0 } else { old.age.saturating_add(1) };
            if age <= MAX_AGE {
                append(&mut out, old.path, &old.key, old.digest, age | if old.plain { PLAIN } else { 0 });
            }
            file.pass_on(&mut out)?;
        }
        for entry in new {
            append_new(&mut out, &entry);
            file.pass_on(&mut out)?;
        }
        file.finish(&out)
    }

    /// Whether a file could have changed once more without looking different. The change time decides; a modification
    /// time just before or after the opening is a file being written, too.
    fn racy(&self, key: &StatKey) -> bool {
        let slack = i64::try_from(RACY.as_nanos()).unwrap_or(i64::MAX);
        key.ctime > self.opened - slack || (key.mtime - self.opened).abs() < slack
    }

    fn entry(&self, start: usize) -> Stored<'_> {
        Stored::read(&self.data[start..])
    }
}

/// Milliseconds on a clock that nobody sets; never 0.
fn moment() -> u64 {
    static BEGINNING: OnceLock<Instant> = OnceLock::new();
    u64::try_from(BEGINNING.get_or_init(Instant::now).elapsed().as_millis()).unwrap_or(u64::MAX) + 1
}

impl<'a> Stored<'a> {
    /// The entry at the beginning of `data`.
    fn read(data: &'a [u8]) -> Self {
        let word = |index: usize| {
            let mut raw = [0; 8];
            raw.copy_from_slice(&data[index * 8..index * 8 + 8]);
            u64::from_le_bytes(raw)
        };
        #[allow(clippy::cast_possible_wrap)] // Written by the reverse cast.
        let key = StatKey { size: word(0), mtime: word(1) as i64, ctime: word(2) as i64, ino: word(3) };
        let length = read_length(&data[FIXED - 4..]);
        Self {
            key,
            digest: &data[32..64],
            age: data[64] & !PLAIN,
            plain: data[64] & PLAIN != 0,
            path: &data[FIXED..FIXED + length],
        }
    }

    /// What it says of a file that looks like `key`.
    fn known(&self, key: &StatKey) -> Option<Known> {
        if self.key != *key || self.age == GONE {
            return None;
        }
        Some(Known { key: *key, digest: self.digest.try_into().ok()?, plain: self.plain })
    }
}

/// A file that ends with a checksum of what is in it.
struct Summed {
    file: fs::File,
    sum: blake3::Hasher,
}

impl Summed {
    fn new(file: fs::File) -> Self {
        Self { file, sum: blake3::Hasher::new() }
    }

    /// Writes what was collected once it is worth it, so that memory does not grow with the index.
    fn pass_on(&mut self, collected: &mut Vec<u8>) -> io::Result<()> {
        if collected.len() >= PIECE {
            self.sum.update(collected);
            self.file.write_all(collected)?;
            collected.clear();
        }
        Ok(())
    }

    fn finish(mut self, rest: &[u8]) -> io::Result<()> {
        self.sum.update(rest);
        self.file.write_all(rest)?;
        self.file.write_all(&self.sum.finalize().as_bytes()[..8])
    }
}

/// The context a file belongs to, for listings.
pub(crate) fn context_of(file: &Path) -> Option<(PathBuf, SystemTime)> {
    use std::io::Read;
    use std::os::unix::ffi::OsStringExt;
    let mut handle = fs::File::open(file).ok()?;
    let mut head = [0; 12];
    handle.read_exact(&mut head).ok()?;
    let length = read_length(&head[8..]);
    if head[..8] != *MAGIC || length > 4096 {
        return None;
    }
    let mut path = vec![0; length];
    handle.read_exact(&mut path).ok()?;
    Some((std::ffi::OsString::from_vec(path).into(), handle.metadata().ok()?.modified().ok()?))
}

/// Checks a file as a whole and finds its entries. `None` if it is not one of ours, or damaged.
fn entries(data: &[u8], context: &[u8]) -> Option<Vec<usize>> {
    let body = data.len().checked_sub(8)?;
    let sum = blake3::hash(&data[..body]);
    let mut at = MAGIC.len() + 4 + context.len();
    if data[body..] != sum.as_bytes()[..8] || data.get(..8)? != MAGIC || data.get(12..at)? != context {
        return None;
    }
    if data.get(8..12)? != length(context) {
        return None;
    }
    let mut starts = Vec::new();
    while at < body {
        starts.push(at);
        at += FIXED + read_length(data.get(at + FIXED - 4..body)?.get(..4)?);
    }
    (at == body).then_some(starts)
}

fn append_new(out: &mut Vec<u8>, entry: &Stored<'_>) {
    if entry.age != GONE {
        append(out, entry.path, &entry.key, entry.digest, if entry.plain { PLAIN } else { 0 });
    }
}

fn append(out: &mut Vec<u8>, path: &[u8], key: &StatKey, digest: &[u8], age: u8) {
    out.extend_from_slice(&key.size.to_le_bytes());
    out.extend_from_slice(&key.mtime.to_le_bytes());
    out.extend_from_slice(&key.ctime.to_le_bytes());
    out.extend_from_slice(&key.ino.to_le_bytes());
    out.extend_from_slice(digest);
    out.push(age);
    out.extend_from_slice(&length(path));
    out.extend_from_slice(path);
}

fn length(bytes: &[u8]) -> [u8; 4] {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes()
}

fn read_length(bytes: &[u8]) -> usize {
    let mut raw = [0; 4];
    raw.copy_from_slice(&bytes[..4]);
    u32::from_le_bytes(raw) as usize
}

fn raw_digest(digest: &Digest) -> Option<[u8; 32]> {
    let mut raw = [0; 32];
    for (byte, pair) in raw.iter_mut().zip(digest.hex().as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    debug_assert_eq!(hex(&raw), digest.hex());
    Some(raw)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::store;

    const CONTEXT: &str = "/home/user/project";

    fn key(size: u64) -> StatKey {
        StatKey { size, mtime: 1_000, ctime: 2_000, ino: 7 }
    }

    fn open(store: &Store) -> ContextIndex {
        store.context_index(Path::new(CONTEXT)).expect("opens")
    }

    #[test]
    fn many_entries_are_written_in_order_and_the_newest_of_a_path_counts() {
        let (_dir, store) = store();
        let name = |i: u64| format!("d{}/a-file-with-a-name-of-some-length-{i:06}", i % 7);
        let index = open(&store);
        // More than a piece holds, in no order; every third is put twice, every fifth in the end not to be kept.
        let racy = StatKey { ctime: i64::MAX, ..key(0) };
        for i in (0..3000).rev() {
            index.put(Path::new(&name(i)), &key(i), &Digest::sha256(name(i)), i % 2 == 0);
            if i % 3 == 0 {
                index.put(Path::new(&name(i)), &key(i), &Digest::sha256("newer"), false);
            }
            if i % 5 == 0 {
                index.put(Path::new(&name(i)), &racy, &Digest::sha256("too new"), false);
            }
        }
        let check = |index: &ContextIndex| {
            for i in 0..3000 {
                let digest = Digest::sha256(if i % 3 == 0 { "newer".into() } else { name(i) });
                let expected = (i % 5 != 0).then_some(digest);
                assert_eq!(index.get(Path::new(&name(i)), &key(i)), expected, "{i}");
                assert_eq!(
                    index.plain(Path::new(&name(i)), &key(i)).is_some(),
                    i % 2 == 0 && i % 3 != 0 && i % 5 != 0,
                    "{i}"
                );
            }
        };
        check(&index);
        index.save().expect("saves");
        check(&open(&store));
        // Entries that are there are replaced, removed, and stay.
        let again = open(&store);
        again.put(Path::new(&name(1)), &key(1), &Digest::sha256("changed"), false);
        again.put(Path::new(&name(2)), &racy, &Digest::sha256("too new"), false);
        again.save().expect("saves");
        let last = open(&store);
        assert_eq!(last.get(Path::new(&name(1)), &key(1)), Some(Digest::sha256("changed")));
        assert_eq!(last.get(Path::new(&name(2)), &key(2)), None);
        assert_eq!(last.get(Path::new(&name(4)), &key(4)), Some(Digest::sha256(name(4))));
    }

    #[test]
    fn c2_07_each_directory_keeps_what_is_known_of_it() {
        let (_dir, store) = store();
        let file = Path::new("Dockerfile");
        let at = |dir: &str| store.context_index(Path::new(dir)).expect("opens");
        for dir in ["/a/app", "/b/app"] {
            let index = at(dir);
            index.put(file, &key(1), &Digest::sha256(dir), false);
            index.save().expect("saves");
        }
        // Builds of one do not push out what is known of the other, whose files look the same.
        for dir in ["/a/app", "/b/app", "/a/app"] {
            assert_eq!(at(dir).get(file, &key(1)), Some(Digest::sha256(dir)), "{dir}");
        }
    }

    #[test]
    fn what_looks_the_same_is_found_again() {
        let (_dir, store) = store();
        let index = open(&store);
        for (i, name) in ["b", "a/x", "a", "c/deep/file"].iter().enumerate() {
            index.put(Path::new(name), &key(i as u64), &Digest::sha256(name), false);
        }
        assert_eq!(index.get(Path::new("a"), &key(2)), Some(Digest::sha256("a")), "before saving, too");
        index.save().expect("saves");
        let index = open(&store);
        for (i, name) in ["b", "a/x", "a", "c/deep/file"].iter().enumerate() {
            assert_eq!(index.get(Path::new(name), &key(i as u64)), Some(Digest::sha256(name)), "{name}");
        }
        assert_eq!(index.get(Path::new("nope"), &key(0)), None);
        for other in [
            StatKey { size: 99, ..key(0) },
            StatKey { mtime: 1, ..key(0) },
            StatKey { ctime: 1, ..key(0) },
            StatKey { ino: 1, ..key(0) },
        ] {
            assert_eq!(index.get(Path::new("b"), &other), None, "{other:?}");
        }
        // Replacing one keeps the others.
        index.put(Path::new("a"), &key(50), &Digest::sha256("new"), false);
        index.save().expect("saves");
        let index = open(&store);
        assert_eq!(index.get(Path::new("a"), &key(50)), Some(Digest::sha256("new")));
        assert_eq!(index.get(Path::new("b"), &key(0)), Some(Digest::sha256("b")));
    }

    #[test]
    fn entries_are_found_in_whatever_order_and_index_they_are_asked_for() {
        let (_dir, store) = store();
        let other = store.context_index(Path::new("/elsewhere")).expect("opens");
        other.put(Path::new("f1"), &key(1), &Digest::sha256("elsewhere"), false);
        other.save().expect("saves");
        let index = open(&store);
        for i in 0..9_u64 {
            index.put(Path::new(&format!("f{i}")), &key(i), &Digest::sha256(format!("{i}")), true);
        }
        index.save().expect("saves");
        let (index, other) = (open(&store), store.context_index(Path::new("/elsewhere")).expect("opens"));
        let get = |index: &ContextIndex, i: u64| index.get(Path::new(&format!("f{i}")), &key(i));
        for i in (0..9).chain((0..9).rev()).chain([3, 3, 4, 8, 0, 1, 7]) {
            assert_eq!(get(&index, i), Some(Digest::sha256(format!("{i}"))), "f{i}");
            // Behind each of them: what was found there is no place here.
            assert_eq!(get(&other, i), (i == 1).then(|| Digest::sha256("elsewhere")), "f{i}");
            assert_eq!(index.get(Path::new("f"), &key(i)), None);
        }
    }

    #[test]
    fn what_was_just_seen_is_known_until_it_changes_or_a_moment_has_passed() {
        let (_dir, store) = store();
        let index = open(&store);
        for (name, plain) in [("a", true), ("b", true), ("marked", false), ("seen long ago", true)] {
            index.put(Path::new(name), &key(1), &Digest::sha256(name), plain);
        }
        index.save().expect("saves");
        let index = open(&store);
        assert_eq!(index.just_seen(Path::new("a")), None, "nobody looked");
        for name in ["a", "b", "marked", "seen long ago", "unknown"] {
            index.seen(Path::new(name), 0o100_640);
        }
        let digest = raw_digest(&Digest::sha256("a")).expect("of this kind");
        assert_eq!(index.just_seen(Path::new("a")), Some((0o100_640, key(1), digest)));
        assert_eq!(index.just_seen(Path::new("marked")), None, "its attributes have to be read");
        assert_eq!(index.just_seen(Path::new("unknown")), None);
        index.put(Path::new("b"), &key(2), &Digest::sha256("newer"), true);
        assert_eq!(index.just_seen(Path::new("b")), None, "it has changed since");
        let position = index.position(b"seen long ago").expect("is there");
        assert!(index.just_seen(Path::new("seen long ago")).is_some());
        // As if the clock had gone on.
        index.looks[position].store(1 << 16 | 0o100_640, Ordering::Relaxed);
        while moment() <= MOMENT + 1 {
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(index.just_seen(Path::new("seen long ago")), None);
    }

    #[test]
    fn files_without_attributes_are_known_as_such() {
        let (_dir, store) = store();
        let index = open(&store);
        index.put(Path::new("plain"), &key(1), &Digest::sha256("p"), true);
        index.put(Path::new("marked"), &key(1), &Digest::sha256("m"), false);
        for _ in 0..3 {
            index.save().expect("saves");
            // Not asked for: what is kept must not be lost with age.
            let index = open(&store);
            index.put(Path::new("other"), &key(1), &Digest::sha256("o"), false);
            index.save().expect("saves");
        }
        let index = open(&store);
        assert!(index.plain(Path::new("plain"), &key(1)).is_some());
        assert!(index.plain(Path::new("plain"), &key(2)).is_none(), "it may have got one");
        assert!(index.plain(Path::new("marked"), &key(1)).is_none());
        assert!(index.plain(Path::new("unknown"), &key(1)).is_none());
        assert_eq!(index.get(Path::new("plain"), &key(1)), Some(Digest::sha256("p")));
    }

    #[test]
    fn racily_clean_files_are_not_believed() {
        let (dir, store) = store();
        let index = open(&store);
        index.put(Path::new("f"), &key(1), &Digest::sha256("old"), false);
        index.save().expect("saves");
        let file = dir.path().join("f");
        fs::write(&file, "new").expect("writes");
        let fresh = StatKey::of(&fs::metadata(&file).expect("exists"));
        let index = open(&store);
        index.put(Path::new("f"), &fresh, &Digest::sha256("new"), false);
        assert_eq!(index.get(Path::new("f"), &fresh), None);
        index.save().expect("saves");
        let index = open(&store);
        assert_eq!(index.get(Path::new("f"), &fresh), None);
        assert_eq!(index.get(Path::new("f"), &key(1)), None, "the old entry must not come back either");
        // An old modification time does not help when the inode changed just now.
        let touched = StatKey { ctime: now(), ..key(1) };
        index.put(Path::new("g"), &touched, &Digest::sha256("g"), false);
        assert_eq!(index.get(Path::new("g"), &touched), None);
    }

    #[test]
    fn a_damaged_or_foreign_file_counts_as_empty() {
        let (_dir, store) = store();
        let index = open(&store);
        index.put(Path::new("f"), &key(1), &Digest::sha256("f"), false);
        index.save().expect("saves");
        let path = index.path.clone();
        let good = fs::read(&path).expect("reads");
        assert_eq!(context_of(&path).expect("has a head").0, Path::new(CONTEXT));
        for cut in [0, 5, 12, good.len() / 2, good.len() - 1] {
            fs::write(&path, &good[..cut]).expect("writes");
            assert_eq!(open(&store).get(Path::new("f"), &key(1)), None, "{cut} bytes");
        }
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, &bad).expect("writes");
            assert_eq!(open(&store).get(Path::new("f"), &key(1)), None, "byte {at}");
        }
        fs::write(&path, &good).expect("writes");
        assert!(open(&store).get(Path::new("f"), &key(1)).is_some());
    }

    #[test]
    fn entries_nobody_asks_for_fade() {
        let (_dir, store) = store();
        let index = open(&store);
        index.put(Path::new("old"), &key(1), &Digest::sha256("f"), false);
        index.put(Path::new("used"), &key(1), &Digest::sha256("f"), false);
        index.save().expect("saves");
        for round in 0..=u64::from(MAX_AGE) {
            let index = open(&store);
            assert!(index.get(Path::new("used"), &key(1)).is_some());
            index.put(Path::new("other"), &key(round), &Digest::sha256("g"), false);
            index.save().expect("saves");
        }
        let index = open(&store);
        assert_eq!(index.get(Path::new("old"), &key(1)), None);
        assert!(index.get(Path::new("used"), &key(1)).is_some());
    }
}
