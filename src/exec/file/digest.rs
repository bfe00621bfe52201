//! Content digests of what a copy or a mount selects (SPEC C4.04–C4.06).
//!
//! Our own hash, under the salt `rbuild.v1`: of each entry its type, permission bits, owner, link target, device number,
//! extended attributes and content, of a directory also the names and hashes of what is selected in it. Times do not count.
//! Directories are hashed in parallel, each when the last of its entries is.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{FileType, Mode, OFlags, Stat};
use sha2::{Digest as _, Sha256};

use super::content;
use super::error::FileOpError;
use super::meta::{attributes, xattrs};
use super::select::{Source, c_name, selection, text};
use super::walk::{Directory, Found, Scope, Visitor, lock, walk};
use crate::base::{Digest, StatKey, owner};
use crate::dockerfile::pattern::has_wildcards;
use crate::llb::op::FileActionCopy;
use crate::tree::CopySource;
use crate::tree::root::{Last, Place, open_subdir, read_link};
use crate::tree::view::{DirVerdict, Listing, View};

/// What of a tree counts: the fields of a copy that select (SPEC C4.05).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// Source path or pattern.
    pub path: String,
    /// `path` is a pattern; without a match nothing is selected.
    pub wildcard: bool,
    /// Follow a path that is itself a symlink.
    pub follow_symlink: bool,
    /// Only these, relative to the selected directory.
    pub include_patterns: Vec<String>,
    /// Not these.
    pub exclude_patterns: Vec<String>,
    /// These must exist.
    pub required_paths: Vec<String>,
}

impl Selector {
    /// One path, followed if it is a symlink: a bind mount's, or `/etc/passwd` for an owner by name.
    #[must_use]
    pub fn literal(path: impl Into<String>) -> Self {
        Self { path: path.into(), follow_symlink: true, ..Self::default() }
    }
}

impl From<&FileActionCopy> for Selector {
    fn from(action: &FileActionCopy) -> Self {
        Self {
            path: action.src.clone(),
            wildcard: action.allow_wildcard,
            follow_symlink: action.follow_symlink,
            include_patterns: action.include_patterns.clone(),
            exclude_patterns: action.exclude_patterns.clone(),
            required_paths: action.required_paths.clone(),
        }
    }
}

/// Remembers digests of file bodies, so that unchanged files are not read again.
pub trait StatCache: Send + Sync {
    /// The digest put for `path` (relative to the root of the tree) with the same `key`.
    fn get(&self, path: &Path, key: &StatKey) -> Option<Digest>;
    /// Remembers one, and whether the file has no extended attributes at all. Not called for files that changed so
    /// recently that their time stamps prove nothing.
    fn put(&self, path: &Path, key: &StatKey, digest: &Digest, plain: bool);
    /// sha256 of the content of the file with this `key`, if it is known to have no extended attributes.
    fn plain(&self, path: &Path, key: &StatKey) -> Option<[u8; 32]>;
    /// Told of a file that looks as it did when its digest was put: its type and permission bits. It has one name, and its
    /// owner does not count.
    fn seen(&self, _: &Path, _: u32) {}
    /// What a moment ago was [seen](Self::seen) of a file without extended attributes. Who copies files has just looked at
    /// all of them to know whether they changed, and need not do so again.
    fn just_seen(&self, _: &Path) -> Option<Seen> {
        None
    }
}

/// What was seen of a regular file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Type and permission bits.
    pub mode: u32,
    /// Bytes.
    pub size: u64,
    /// Modification time, in nanoseconds since 1970.
    pub mtime_ns: i64,
    /// sha256 of its content.
    pub digest: [u8; 32],
}

/// Remembers nothing.
pub struct NoStatCache;

impl StatCache for NoStatCache {
    fn get(&self, _: &Path, _: &StatKey) -> Option<Digest> {
        None
    }
    fn put(&self, _: &Path, _: &StatKey, _: &Digest, _: bool) {}
    fn plain(&self, _: &Path, _: &StatKey) -> Option<[u8; 32]> {
        None
    }
}

/// Version of everything below: a change of format changes it.
const SALT: &[u8] = b"rbuild.v1 content\0";
/// A file whose metadata changed this recently may change again without a trace in its time stamps, which are only as
/// fine as the kernel's clock tick.
const UNSETTLED: Duration = Duration::from_millis(100);

type Hash = [u8; 32];

/// Digest of what `selector` selects from `source`.
///
/// # Errors
/// [`FileOpError::NotFound`] for a missing literal path.
pub fn content_digest(source: &CopySource, selector: &Selector, hashes: &dyn StatCache) -> Result<Digest, FileOpError> {
    digest(source, selector, hashes, None)
}

/// An entry that counts in a [`content_digest`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectedEntry {
    /// Relative to the root of the tree.
    pub path: String,
    /// Type and permission bits.
    pub mode: u32,
    /// User and group.
    pub owner: (u32, u32),
    /// Hash of content, link target or device number; 0 for directories.
    pub hash: u64,
}

/// What `selector` selects from `source`, in no order: to say later what changed. `None` if it is more than `most`
/// entries, after looking at little more than so many.
///
/// # Errors
/// As [`content_digest`].
pub fn content_entries(
    source: &CopySource,
    selector: &Selector,
    hashes: &dyn StatCache,
    most: usize,
) -> Result<Option<Vec<SelectedEntry>>, FileOpError> {
    let found = Counted { most, entries: Mutex::default(), full: AtomicBool::new(false) };
    let whole = digest(source, selector, hashes, Some(&found));
    let entries = found.entries.into_inner().unwrap_or_else(PoisonError::into_inner);
    if entries.len() > most {
        return Ok(None);
    }
    whole.map(|_| Some(entries))
}

/// Entries that count, as they are found.
struct Counted {
    most: usize,
    entries: Mutex<Vec<SelectedEntry>>,
    /// There are more than `most`.
    full: AtomicBool,
}

fn digest(
    source: &CopySource,
    selector: &Selector,
    hashes: &dyn StatCache,
    found: Option<&Counted>,
) -> Result<Digest, FileOpError> {
    let source = Source::open(source)?;
    let chosen = selection(&selector.include_patterns, &selector.exclude_patterns)?;
    let view = View { filter: source.filter(), selection: chosen.as_ref() };
    let last = if selector.follow_symlink { Last::Follow } else { Last::Keep };
    let path = selector.path.as_bytes();
    let settled = SystemTime::now().checked_sub(UNSETTLED).and_then(|t| t.duration_since(UNIX_EPOCH).ok());
    let hashing = Hashing {
        view,
        hashes,
        found,
        reset_owner: source.tree.reset_owner,
        settled_ns: settled.map_or(0, |t| i64::try_from(t.as_nanos()).unwrap_or(0)),
        top: Mutex::default(),
    };
    let one = |path: &[u8]| -> Result<Hash, FileOpError> {
        let Some(place) = source.find(path, last)? else { return Err(source.not_found(path)) };
        if place.is_dir() {
            let dir = place.path.as_os_str().as_bytes();
            source.require(dir, selector.path.as_bytes(), &selector.required_paths, chosen.as_ref())?;
        }
        hashing.place(&place)
    };
    let mut all = Sha256::new();
    all.update(SALT);
    let paths = if selector.wildcard { source.expand(path, last)? } else { vec![crate::tree::root::relative(path)] };
    if selector.wildcard && has_wildcards(path) {
        all.update(b"matches\0");
        for path in paths {
            let name = path.rsplit(|b| *b == b'/').next().unwrap_or_default();
            field(&mut all, name);
            all.update(one(&path)?);
        }
    } else {
        all.update(b"one\0");
        for path in paths {
            all.update(one(&path)?);
        }
    }
    Ok(Digest::from_sha256(&all.finalize()))
}

/// The digest that a [`StatCache`] remembers for a file: that of its content, and only if there are extended attributes
/// that count, one of both. A cache may thus be filled with content digests known from elsewhere.
#[must_use]
pub fn body_digest(content: Digest, xattrs: &[(CString, Vec<u8>)]) -> Digest {
    if xattrs.is_empty() {
        return content;
    }
    let mut both = Sha256::new();
    both.update(b"rbuild.v1 body\0");
    hash_xattrs(&mut both, xattrs);
    field(&mut both, content.as_str().as_bytes());
    Digest::from_sha256(&both.finalize())
}

fn field(hash: &mut Sha256, bytes: &[u8]) {
    hash.update((bytes.len() as u64).to_le_bytes());
    hash.update(bytes);
}

fn hash_xattrs(hash: &mut Sha256, xattrs: &[(CString, Vec<u8>)]) {
    for (name, value) in xattrs {
        field(hash, name.to_bytes());
        field(hash, value);
    }
}

/// Whether the modification time is in the key exactly as it is: those of thousands of years hence are not.
fn tells_mtime_of(key: &StatKey, stat: &Stat) -> bool {
    let (secs, nanos) = split(key.mtime);
    i128::from(stat.st_mtime) == i128::from(secs) && i128::from(stat.st_mtime_nsec) == i128::from(nanos)
}

/// Seconds and nanoseconds of a time in nanoseconds.
pub(super) fn split(ns: i64) -> (i64, u32) {
    // Less than a thousand million fits.
    (ns.div_euclid(1_000_000_000), ns.rem_euclid(1_000_000_000) as u32)
}

/// One hashing of a tree.
struct Hashing<'a> {
    view: View<'a>,
    hashes: &'a dyn StatCache,
    /// Where entries are noted, if somebody wants to know.
    found: Option<&'a Counted>,
    reset_owner: bool,
    /// Files changed after this are not remembered.
    settled_ns: i64,
    /// The hash of the directory that is walked.
    top: Mutex<Option<Hash>>,
}

/// A directory being hashed.
struct Hashed {
    /// It counts even when nothing in it does.
    itself: bool,
    /// The hash so far: its own metadata.
    hash: Mutex<Sha256>,
    entries: Mutex<(Arc<Listing>, Vec<Option<Hash>>)>,
}

impl Hashed {
    fn new(itself: bool, hash: Sha256) -> Self {
        Self { itself, hash: Mutex::new(hash), entries: Mutex::default() }
    }
}

impl Visitor for Hashing<'_> {
    type Dir = Hashed;
    type Batch = Vec<(usize, Hash)>;
    type Error = FileOpError;

    fn enough(&self) -> bool {
        // Nobody remembers so many: the rest need not be looked at.
        self.found.is_some_and(|found| found.full.load(Ordering::Relaxed))
    }

    fn open(
        &self,
        _: &Directory<Hashed>,
        _: &CStr,
        path: &[u8],
        fd: &OwnedFd,
        verdict: &DirVerdict,
    ) -> Result<Hashed, FileOpError> {
        let io = |e| FileOpError::io("open directory", text(path), e);
        let stat = owner::stat_fd(fd).map_err(io)?;
        let mut hash = Sha256::new();
        let owner = (stat.st_uid, stat.st_gid);
        self.header(&mut hash, &stat, owner);
        if verdict.itself {
            self.note(path, &stat, owner, b"");
        }
        hash_xattrs(&mut hash, &xattrs(fd).map_err(io)?);
        Ok(Hashed::new(verdict.itself, hash))
    }

    fn listed(&self, dir: &Directory<Hashed>, listing: &Arc<Listing>) {
        *lock(&dir.state.entries) = (Arc::clone(listing), vec![None; listing.len()]);
    }

    fn entry(
        &self,
        dir: &Arc<Directory<Hashed>>,
        batch: &mut Self::Batch,
        Found { slot, kind, name, path }: Found<'_>,
    ) -> Result<(), FileOpError> {
        batch.push((slot, self.one(&dir.fd, name, kind, path)?));
        Ok(())
    }

    fn batch(&self, dir: &Arc<Directory<Hashed>>, batch: Self::Batch) -> Result<(), FileOpError> {
        let mut entries = lock(&dir.state.entries);
        for (slot, hash) in batch {
            entries.1[slot] = Some(hash);
        }
        Ok(())
    }

    fn done(&self, dir: &Directory<Hashed>) -> Result<(), FileOpError> {
        let (listing, hashes) = std::mem::take(&mut *lock(&dir.state.entries));
        let mut hash = std::mem::take(&mut *lock(&dir.state.hash));
        let mut counts = dir.state.itself;
        for (i, entry) in hashes.into_iter().enumerate() {
            if let Some(entry) = entry {
                field(&mut hash, listing.get(i).0.to_bytes());
                hash.update(entry);
                counts = true;
            }
        }
        let hash = counts.then(|| hash.finalize().into());
        match dir.parent() {
            None => *lock(&self.top) = hash,
            Some(parent) => {
                if let Some(place) = lock(&parent.state.entries).1.get_mut(dir.slot()) {
                    *place = hash;
                }
            }
        }
        Ok(())
    }
}

impl Hashing<'_> {
    /// Hashes what was found at the top.
    fn place(&self, place: &Place) -> Result<Hash, FileOpError> {
        let path = place.path.as_os_str().as_bytes();
        let io = |e| FileOpError::io("open", text(path), e);
        let kind = place.kind().unwrap_or(FileType::Unknown);
        if kind != FileType::Directory {
            return self.one(&place.dir, &c_name(&place.name)?, kind, path);
        }
        let fd = open_subdir(&place.dir, place.name.as_os_str()).map_err(io)?;
        let mut hash = Sha256::new();
        if path.is_empty() && self.reset_owner {
            // The directory a context happens to be in is no part of it.
            hash.update(b"context\0");
        } else {
            let stat = owner::stat_fd(&fd).map_err(io)?;
            self.header(&mut hash, &stat, (stat.st_uid, stat.st_gid));
            hash_xattrs(&mut hash, &xattrs(&fd).map_err(io)?);
        }
        let scope = Scope { view: self.view, sockets: self.reset_owner };
        walk(self, scope, fd, path, Hashed::new(true, hash))?;
        // Set when everything in the directory is done.
        lock(&self.top).take().ok_or_else(|| FileOpError::Invalid(format!("{} was not hashed", text(path))))
    }

    /// Notes an entry for [`content_entries`].
    fn note(&self, path: &[u8], stat: &Stat, owner: (u32, u32), content: &[u8]) {
        let Some(found) = self.found else { return };
        let hash = if content.is_empty() {
            0
        } else {
            let raw: Hash = Sha256::digest(content).into();
            u64::from_le_bytes([raw[0], raw[1], raw[2], raw[3], raw[4], raw[5], raw[6], raw[7]])
        };
        let owner = if self.reset_owner { (0, 0) } else { owner };
        let mut entries = lock(&found.entries);
        entries.push(SelectedEntry { path: text(path).to_string(), mode: stat.st_mode, owner, hash });
        if entries.len() > found.most {
            found.full.store(true, Ordering::Relaxed);
        }
    }

    /// Type, permission bits, owner and device number.
    fn header(&self, hash: &mut Sha256, stat: &Stat, owner: (u32, u32)) {
        let kind = FileType::from_raw_mode(stat.st_mode);
        // What a link's bits say differs between file systems and means nothing.
        let mode = if kind == FileType::Symlink { stat.st_mode | 0o777 } else { stat.st_mode };
        let (uid, gid) = if self.reset_owner { (0, 0) } else { owner };
        let device = match kind {
            FileType::CharacterDevice | FileType::BlockDevice => stat.st_rdev,
            _ => 0,
        };
        let mut header = [0u8; 20];
        header[..4].copy_from_slice(&mode.to_le_bytes());
        header[4..8].copy_from_slice(&uid.to_le_bytes());
        header[8..12].copy_from_slice(&gid.to_le_bytes());
        header[12..].copy_from_slice(&device.to_le_bytes());
        hash.update(header);
    }

    /// Hashes one entry that is no directory.
    fn one(&self, dir: &OwnedFd, name: &CStr, kind: FileType, path: &[u8]) -> Result<Hash, FileOpError> {
        let io = |attempt| move |e: io::Error| FileOpError::io(attempt, text(path), e);
        let stat = owner::stat_at(dir, name).map_err(io("look at"))?;
        let mut hash = Sha256::new();
        let owner = (stat.st_uid, stat.st_gid);
        self.header(&mut hash, &stat, owner);
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {
                let body = self.body(dir, name, &stat, path)?;
                self.note(path, &stat, owner, body.as_str().as_bytes());
                field(&mut hash, body.as_str().as_bytes());
            }
            FileType::Symlink => {
                let target = read_link(dir, name).map_err(io("read link"))?;
                self.note(path, &stat, owner, target.as_bytes());
                field(&mut hash, target.as_bytes());
            }
            FileType::Directory if kind != FileType::Directory => {
                return Err(io("hash")(io::Error::other("it changed while it was hashed")));
            }
            _ => self.note(path, &stat, owner, &stat.st_rdev.to_le_bytes()),
        }
        Ok(hash.finalize().into())
    }

    /// Digest of the content and the extended attributes of a file, read only if the cache does not know it.
    fn body(&self, dir: &OwnedFd, name: &CStr, stat: &Stat, path: &[u8]) -> Result<Digest, FileOpError> {
        let key = StatKey::of_stat(stat);
        let cache_path = Path::new(OsStr::from_bytes(path));
        if let Some(known) = self.hashes.get(cache_path, &key) {
            if self.reset_owner && stat.st_nlink == 1 && tells_mtime_of(&key, stat) {
                self.hashes.seen(cache_path, stat.st_mode);
            }
            return Ok(known);
        }
        let io = |attempt| move |e: io::Error| FileOpError::io(attempt, text(path), e);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::openat(dir, name, flags, Mode::empty()).map_err(|e| io("open")(e.into()))?;
        let before = rustix::fs::fstat(&file).map_err(|e| io("look at")(e.into()))?;
        if FileType::from_raw_mode(before.st_mode) != FileType::RegularFile {
            return Err(io("hash")(io::Error::other("it changed while it was hashed")));
        }
        let content = content::sha256(&file, key.size).map_err(io("read"))?;
        let attributes = attributes(&file).map_err(io("read the extended attributes of"))?;
        let digest = body_digest(content, attributes.as_deref().unwrap_or_default());
        let after = rustix::fs::fstat(&file).map_err(|e| io("look at")(e.into()))?;
        if StatKey::of_stat(&after) == key && key.ctime < self.settled_ns {
            self.hashes.put(cache_path, &key, &digest, attributes.is_none());
        }
        Ok(digest)
    }
}
