//! Computing a layer from directories.
//!
//! A layer is a pure function of (parent tree, new tree): both walks below are one walk, and what differs is only where
//! "not mentioned" means "unchanged" (an overlay upper) or "deleted" (a plain tree, or an opaque directory). The rules:
//!
//! * Entries come in order of their paths, component by component; a deletion stands where the deleted name would.
//! * An entry equal to the parent's is dropped: same type, mode, owner, attributes, and for all but directories the same
//!   modification time, link text, device number and content.
//! * **Directories appear exactly if they are new or if their own mode, owner or attributes changed.** A directory's modification
//!   time changes with every child, and whether an overlay copied it up says nothing, so time alone is no change; a
//!   directory that does appear carries its time.
//! * Deletions are explicit, one per name that the parent has directly there; opaque directories become deletions of what they
//!   hide. What changed its type needs none: the new entry replaces the old one.
//! * Of names that share an inode the first that is written is the file and the others are hard links to it. Names that did
//!   not change are not written again: a hard link made to a file of the parent becomes a file of its own in the layer.
//! * Sockets, devices `c 0:0` and names that start with `.wh.` count as not being there. The root directory itself is never
//!   written.
//!
//! Known exception: overlay breaks hard links of the parent when it copies a file up, a plain tree does not, so writing through
//! one of several names gives different trees and different layers.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::before::{Before, Known, OldDir, OldNode};
use super::entry::{Entry, EntryKind, Timestamp, name_representable};
use super::error::ArchiveError;
use super::index::{IndexEntry, TreeIndex};
use super::lowers::{LowerNode, Lowers, is_opaque, is_whiteout};
use super::notes::{Note, NoteKind, Notes};
use super::places::Places;
use super::scan::{device_at, entry_of, kind_of, mtime_of, owner_and_mode, xattrs_of};
use super::writer::{Content, LayerWriter};
use crate::base::digest::DigestWriter;

/// What a diff found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DiffStats {
    /// Entries written, deletions included.
    pub entries: u64,
    /// Deletions among them.
    pub whiteouts: u64,
    /// Bytes of file content written.
    pub bytes: u64,
    /// Entries of the upper or new tree that turned out equal to the parent's.
    pub unchanged: u64,
    /// What could not be put into the layer.
    pub notes: Vec<Note>,
}

/// What the caller knows about two trees.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TreeHints {
    /// `new` was the same as `old`, and nobody touched it before this moment (of the file system's own clock, read from
    /// the change time of a file made after the copy was complete). A file that has an earlier change time, in directories
    /// that are where they were, is what it was: nothing can set change times, and moving something changes its own.
    pub untouched_before: Option<Timestamp>,
    /// Where directories were at that moment. Without it, a directory that has a later change time may have been moved.
    pub places: Option<Arc<Places>>,
}

/// The tree before a change.
#[derive(Debug, Clone, Default)]
pub struct Parent {
    /// A plain tree; nothing: an empty one.
    pub tree: Option<PathBuf>,
    /// What layers put on top of that, bottom first.
    pub layers: Vec<TreeIndex>,
}

impl Parent {
    /// A plain tree, or nothing.
    #[must_use]
    pub fn tree(tree: Option<&Path>) -> Self {
        Self { tree: tree.map(Path::to_path_buf), layers: Vec::new() }
    }
}

/// Writes what `upper` changes on top of `lowers` (bottom first, overlay dialect). Costs what the upper holds.
///
/// # Errors
/// Reading the directories or writing the layer failed.
pub fn diff_overlay<W: Write + Send>(
    upper: &Path,
    lowers: &[PathBuf],
    out: &mut LayerWriter<W>,
) -> Result<DiffStats, ArchiveError> {
    let old = Before::new(Lowers::overlay(lowers), Vec::new());
    Walk::new(upper, old, true, &TreeHints::default(), out).run()
}

/// Writes what turns `old` (nothing: an empty tree) into `new`, both plain trees.
///
/// # Errors
/// Reading the directories or writing the layer failed.
pub fn diff_trees<W: Write + Send>(
    old: Option<&Path>,
    new: &Path,
    out: &mut LayerWriter<W>,
) -> Result<DiffStats, ArchiveError> {
    diff_trees_with(Parent::tree(old), new, &TreeHints::default(), out)
}

/// [`diff_trees`] with hints that spare comparing, and a parent that need not be there as a whole. Of a file that the parent's
/// layers describe without its digest nothing but a change of the metadata can be seen: it is taken as changed.
///
/// # Errors
/// As [`diff_trees`].
pub fn diff_trees_with<W: Write + Send>(
    old: Parent,
    new: &Path,
    hints: &TreeHints,
    out: &mut LayerWriter<W>,
) -> Result<DiffStats, ArchiveError> {
    let old = Before::new(Lowers::plain(old.tree.as_deref()), old.layers);
    Walk::new(new, old, false, hints, out).run()
}

struct Walk<'a, W: Write + Send> {
    new: &'a Path,
    old: Before,
    overlay: bool,
    hints: &'a TreeHints,
    out: &'a mut LayerWriter<W>,
    stats: DiffStats,
    notes: Notes,
    /// Written files that have more names: (device, inode) to the first name.
    links: HashMap<(u64, u64), PathBuf>,
}

/// A directory being walked. Kept on a list rather than on the call stack: trees may be deeper than that is.
struct Frame {
    path: PathBuf,
    /// Names still to do, last first.
    names: Vec<OsString>,
    inside: Inside,
}

/// What is known of everything in a directory.
#[derive(Clone)]
struct Inside {
    /// The parent tree's directory at the same path.
    old: Option<OldDir>,
    /// What is not in the new directory is unchanged, not deleted.
    transparent: bool,
    /// Neither it nor a directory above (but the root, which cannot move) can have been moved since the trees were the same.
    settled: bool,
    /// Nothing was added to it or taken out of it since then.
    same_names: bool,
    /// Its inode.
    number: u64,
}

impl<'a, W: Write + Send> Walk<'a, W> {
    fn new(new: &'a Path, old: Before, overlay: bool, hints: &'a TreeHints, out: &'a mut LayerWriter<W>) -> Self {
        Self {
            new,
            old,
            overlay,
            hints,
            out,
            stats: DiffStats::default(),
            notes: Notes::default(),
            links: HashMap::new(),
        }
    }

    fn run(mut self) -> Result<DiffStats, ArchiveError> {
        let transparent = self.overlay && !is_opaque(self.new)?;
        let settled = self.hints.untouched_before.is_some();
        let number = self.hints.places.as_ref().map_or(0, |places| places.root());
        let inside = Inside { old: self.old.root()?, transparent, settled, same_names: false, number };
        let root = self.frame(PathBuf::new(), inside)?;
        let mut frames = vec![root];
        while let Some(frame) = frames.last_mut() {
            let Some(name) = frame.names.pop() else {
                frames.pop();
                continue;
            };
            let path = frame.path.join(&name);
            let inside = frame.inside.clone();
            if let Some(below) = self.visit(path, &name, &inside)? {
                frames.push(below);
            }
        }
        self.stats.notes = self.notes.into_list();
        Ok(self.stats)
    }

    fn frame(&self, path: PathBuf, inside: Inside) -> Result<Frame, ArchiveError> {
        let here = self.new.join(&path);
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&here).map_err(|e| ArchiveError::io("list", &here, e))? {
            names.push(entry.map_err(|e| ArchiveError::io("list", &here, e))?.file_name());
        }
        if let Some(old) = inside.old.as_ref().filter(|_| !inside.transparent && !inside.same_names) {
            names.extend(self.old.names(old, &path)?);
        }
        names.sort_unstable_by(|a, b| b.cmp(a));
        names.dedup();
        Ok(Frame { path, names, inside })
    }

    /// Handles one name; gives the directory to descend into.
    fn visit(&mut self, path: PathBuf, name: &OsString, inside: &Inside) -> Result<Option<Frame>, ArchiveError> {
        if !name_representable(name) {
            self.notes.add(NoteKind::ReservedName, &path);
            return Ok(None);
        }
        let here = self.new.join(&path);
        let meta = match std::fs::symlink_metadata(&here) {
            Ok(meta) => Some(meta),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(ArchiveError::io("inspect", &here, e)),
        };
        if !self.overlay && meta.as_ref().is_some_and(is_whiteout) {
            self.notes.add(NoteKind::DeviceZero, &path);
        }
        let present = match meta.filter(|meta| !is_whiteout(meta)) {
            Some(meta) => kind_of(&here, &meta)?.map(|kind| (meta, kind)),
            None => None,
        };
        let unmoved = inside.settled && present.as_ref().is_some_and(|(meta, _)| self.untouched(meta));
        if unmoved && present.as_ref().is_some_and(|(_, kind)| *kind != EntryKind::Dir) {
            self.stats.unchanged += 1;
            return Ok(None);
        }
        let old = inside.old.as_ref().map(|dir| self.old.child(dir, &path)).transpose()?.flatten();
        let Some((meta, kind)) = present else {
            if old.is_some() {
                self.write(&Entry::whiteout(path), None)?;
                self.stats.whiteouts += 1;
            }
            return Ok(None);
        };
        if kind != EntryKind::Dir {
            self.leaf(path, &here, &meta, kind, old.as_ref())?;
            return Ok(None);
        }
        let old = old.filter(|old| old.dir.is_some());
        let same = unmoved || old.as_ref().map(|old| same_dir(&here, &meta, old)).transpose()?.unwrap_or(false);
        if same {
            self.stats.unchanged += 1;
        } else {
            self.write(&entry_of(&path, &here, &meta, kind)?, None)?;
        }
        let settled = match &self.hints.places {
            Some(places) => inside.settled && places.holds(&meta, inside.number, name),
            None => unmoved,
        };
        let inside = Inside {
            transparent: inside.transparent && old.is_some() && !is_opaque(&here)?,
            settled,
            same_names: settled && unmoved,
            number: meta.ino(),
            old: old.and_then(|old| old.dir),
        };
        self.frame(path, inside).map(Some)
    }

    fn leaf(
        &mut self,
        path: PathBuf,
        here: &Path,
        meta: &Metadata,
        kind: EntryKind,
        old: Option<&OldNode>,
    ) -> Result<(), ArchiveError> {
        if let Some(old) = old
            && same_leaf(here, meta, kind, old)?
        {
            self.stats.unchanged += 1;
            return Ok(());
        }
        let mut entry = entry_of(&path, here, meta, kind)?;
        if meta.nlink() > 1 {
            match self.links.get(&(meta.dev(), meta.ino())) {
                Some(first) => {
                    entry.kind = EntryKind::Hardlink;
                    entry.link.clone_from(first);
                    entry.size = 0;
                    entry.device = (0, 0);
                    return self.write(&entry, None);
                }
                None => {
                    self.links.insert((meta.dev(), meta.ino()), path);
                }
            }
        }
        if kind != EntryKind::File || entry.size == 0 {
            return self.write(&entry, None);
        }
        self.stats.bytes += entry.size;
        let file = here.to_owned();
        let open = Box::new(move || open_plain(&file));
        self.write(&entry, Some(Content::File { open, path: here.to_owned(), digest: None }))
    }

    fn write(&mut self, entry: &Entry, content: Option<Content<'_>>) -> Result<(), ArchiveError> {
        self.stats.entries += 1;
        self.out.append_content(entry, content)
    }

    /// Whether the file's status (which includes its place, for a directory) is still that of the copy.
    fn untouched(&self, meta: &Metadata) -> bool {
        let changed = Timestamp { secs: meta.ctime(), nanos: u32::try_from(meta.ctime_nsec()).unwrap_or_default() };
        self.hints.untouched_before.is_some_and(|moment| changed < moment)
    }
}

/// Whether nothing changed. Metadata may say no; only content says yes.
fn same_leaf(here: &Path, meta: &Metadata, kind: EntryKind, old: &OldNode) -> Result<bool, ArchiveError> {
    let old = match &old.source {
        Known::Here(old) => old,
        Known::Told(old) => return same_as_told(here, meta, kind, old),
    };
    if (meta.dev(), meta.ino()) == (old.meta.dev(), old.meta.ino()) {
        return Ok(true);
    }
    if kind_of(&old.path, &old.meta)? != Some(kind) || mtime_of(meta) != mtime_of(&old.meta) {
        return Ok(false);
    }
    match kind {
        EntryKind::Symlink => {
            let read = |path: &Path| std::fs::read_link(path).map_err(|e| ArchiveError::io("read", path, e));
            Ok(same_owner(here, meta, old)? && read(here)? == read(&old.path)?)
        }
        EntryKind::File => Ok(same_owner(here, meta, old)?
            && meta.size() == old.meta.size()
            && xattrs_of(here)? == xattrs_of(&old.path)?
            && same_content(here, &old.path, meta.size())?),
        _ => Ok(same_owner(here, meta, old)? && device_at(here, meta)? == device_at(&old.path, &old.meta)?),
    }
}

/// The same for what only an index tells.
fn same_as_told(here: &Path, meta: &Metadata, kind: EntryKind, old: &IndexEntry) -> Result<bool, ArchiveError> {
    if old.entry.kind != kind || mtime_of(meta) != old.entry.mtime {
        return Ok(false);
    }
    let mut new = entry_of(&old.entry.path, here, meta, kind)?;
    new.opaque = old.entry.opaque;
    if kind == EntryKind::Symlink {
        // Which archives give as they like.
        new.mode = old.entry.mode;
    }
    if new != old.entry {
        return Ok(false);
    }
    match (kind, &old.digest) {
        (EntryKind::File, _) if new.size == 0 => Ok(true),
        (EntryKind::File, Some(digest)) => {
            let mut hashing = DigestWriter::new(io::sink());
            io::copy(&mut open_file(here)?, &mut hashing).map_err(|e| ArchiveError::io("read", here, e))?;
            let (_, found, _) = hashing.finish();
            Ok(found == *digest)
        }
        (EntryKind::File, None) => Ok(false),
        _ => Ok(true),
    }
}

fn same_owner(here: &Path, meta: &Metadata, old: &LowerNode) -> Result<bool, ArchiveError> {
    Ok(owner_and_mode(here, meta)? == owner_and_mode(&old.path, &old.meta)?)
}

/// Whether a directory's own mode, owner and attributes are as they were.
fn same_dir(here: &Path, meta: &Metadata, old: &OldNode) -> Result<bool, ArchiveError> {
    match &old.source {
        Known::Here(old) => Ok(same_owner(here, meta, old)? && xattrs_of(here)? == xattrs_of(&old.path)?),
        Known::Told(old) => {
            let (owner, mode) = owner_and_mode(here, meta)?;
            Ok(mode & 0o7777 == old.entry.mode
                && owner == (old.entry.uid, old.entry.gid)
                && xattrs_of(here)? == old.entry.xattrs)
        }
    }
}

/// Opens a regular file without following a symlink and without waiting for anything.
fn open_file(path: &Path) -> Result<File, ArchiveError> {
    open_plain(path).map_err(|e| ArchiveError::io("open", path, e))
}

fn open_plain(path: &Path) -> io::Result<File> {
    use rustix::fs::OFlags;
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path)
}

fn same_content(a: &Path, b: &Path, size: u64) -> Result<bool, ArchiveError> {
    if size == 0 {
        return Ok(true);
    }
    let (mut left, mut right) = (open_file(a)?, open_file(b)?);
    let room = usize::try_from(size.min(64 << 10)).unwrap_or(64 << 10);
    let (mut x, mut y) = (vec![0; room], vec![0; room]);
    loop {
        let read = read_full(&mut left, &mut x).map_err(|e| ArchiveError::io("read", a, e))?;
        let other = read_full(&mut right, &mut y).map_err(|e| ArchiveError::io("read", b, e))?;
        if x[..read] != y[..other] {
            return Ok(false);
        }
        if read < room {
            return Ok(true);
        }
    }
}

fn read_full(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}
