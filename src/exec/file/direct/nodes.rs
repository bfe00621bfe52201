//! What a layer will hold, by name, and writing it.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::ops::Bound;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;

use super::Refused;
use super::below::Below;
use crate::archive::entry::{Timestamp, Xattrs};
use crate::archive::index::{is_below, path_order};
use crate::archive::{ArchiveError, Content, Entry, EntryKind, LayerWriter};
use crate::base::Digest;
use crate::exec::file::content;
use crate::exec::file::error::FileOpError;
use crate::tree::root::{Root, relative, shown};

/// As many links as Linux follows in one path.
const MAX_LINKS: usize = 40;

/// A path in the order of a tar.
#[derive(PartialEq, Eq)]
pub(super) struct Name(pub(super) Box<[u8]>);

impl Ord for Name {
    fn cmp(&self, other: &Self) -> Ordering {
        path_order(&self.0, &other.0)
    }
}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Name {
    fn of(path: &Path) -> Self {
        Self(path.as_os_str().as_bytes().into())
    }
}

/// Something in the new layer.
pub(super) struct Node {
    pub(super) kind: EntryKind,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: Timestamp,
    pub(super) size: u64,
    /// A directory where none was below: nothing of the tree below shows through.
    pub(super) fresh: bool,
    /// Which of the plan's sources its content comes from.
    pub(super) source: u32,
    /// sha256 of its content, if that is known.
    pub(super) digest: Option<[u8; 32]>,
    /// What few have.
    pub(super) more: Option<Box<More>>,
}

#[derive(Default)]
pub(super) struct More {
    pub(super) link: PathBuf,
    pub(super) xattrs: Xattrs,
    /// Device and inode of a source file with several names.
    pub(super) inode: Option<(u64, u64)>,
    /// The content itself.
    pub(super) data: Option<Vec<u8>>,
}

impl Node {
    pub(super) fn more(&mut self) -> &mut More {
        self.more.get_or_insert_default()
    }

    fn from_entry(entry: &Entry) -> Self {
        let mut node = Self {
            kind: entry.kind,
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            mtime: entry.mtime,
            size: entry.size,
            fresh: false,
            source: 0,
            digest: None,
            more: None,
        };
        if !entry.link.as_os_str().is_empty() || !entry.xattrs.is_empty() {
            let more = More { link: entry.link.clone(), xattrs: entry.xattrs.clone(), ..More::default() };
            node.more = Some(Box::new(more));
        }
        node
    }

    fn entry(&self, path: &Path) -> Entry {
        let mut entry = Entry::new(path, self.kind);
        (entry.mode, entry.uid, entry.gid) = (self.mode, self.uid, self.gid);
        (entry.mtime, entry.size) = (self.mtime, self.size);
        if let Some(more) = &self.more {
            entry.link.clone_from(&more.link);
            entry.xattrs.clone_from(&more.xattrs);
        }
        entry
    }
}

/// A selected path of a source tree: what a destination's content is.
pub(super) struct SourceBase {
    pub(super) root: Arc<Root>,
    /// The source path that stands at...
    pub(super) path: Vec<u8>,
    /// ...this destination path.
    pub(super) dest: Vec<u8>,
}

/// A layer being planned.
pub struct LayerPlan<'a> {
    pub(super) below: &'a dyn Below,
    nodes: BTreeMap<Name, Node>,
    pub(super) sources: Vec<SourceBase>,
    /// What made directories are dated with.
    pub(super) now: Timestamp,
}

/// Where a path leads.
pub(super) struct Located {
    /// Free of links.
    pub(super) path: PathBuf,
    pub(super) kind: Option<EntryKind>,
    /// Components after `path`, when that is missing.
    pub(super) beyond: Vec<OsString>,
}

/// The metadata of directories that are made on the way.
#[derive(Clone, Copy)]
pub(super) struct Made {
    pub(super) mode: u32,
    pub(super) owner: (u32, u32),
    pub(super) mtime: Timestamp,
}

impl<'a> LayerPlan<'a> {
    /// An empty layer on top of `below`. `now` is the time of directories that nothing else dates.
    #[must_use]
    pub fn new(below: &'a dyn Below, now: Timestamp) -> Self {
        Self { below, nodes: BTreeMap::new(), sources: Vec::new(), now }
    }

    /// Whether nothing of the tree below shows at `path`, as a directory above is new.
    fn hidden(&self, path: &Path) -> bool {
        path.ancestors().skip(1).any(|dir| self.nodes.get(&Name::of(dir)).is_some_and(|node| node.fresh))
    }

    /// What is at `path`, which has no links before its last component.
    pub(super) fn kind(&self, path: &Path) -> Result<Option<EntryKind>, Refused> {
        if path.as_os_str().is_empty() {
            return Ok(Some(EntryKind::Dir));
        }
        if let Some(node) = self.nodes.get(&Name::of(path)) {
            return Ok(Some(node.kind));
        }
        if self.hidden(path) {
            return Ok(None);
        }
        Ok(self.below.lookup(path)?.map(|entry| entry.kind))
    }

    fn link(&self, path: &Path) -> Result<PathBuf, Refused> {
        if let Some(node) = self.nodes.get(&Name::of(path)) {
            return Ok(node.more.as_ref().map(|more| more.link.clone()).unwrap_or_default());
        }
        Ok(self.below.lookup(path)?.map(|entry| entry.link).unwrap_or_default())
    }

    /// Follows `path`, as [`Root::locate`] with `Last::Follow` does in a directory.
    pub(super) fn locate(&self, path: &[u8]) -> Result<Located, Refused> {
        let mut left: VecDeque<OsString> = components(&relative(path)).collect();
        let (mut real, mut links) = (PathBuf::new(), 0);
        while let Some(name) = left.pop_front() {
            if name == ".." {
                real.pop();
                continue;
            }
            let next = real.join(&name);
            match self.kind(&next)? {
                None => {
                    if left.iter().any(|part| part == "..") {
                        return Err(Refused::NeedsDirectory("a link leads through what is missing"));
                    }
                    return Ok(Located { path: next, kind: None, beyond: left.into() });
                }
                Some(EntryKind::Symlink) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(FileOpError::io("look at", shown(&next), Errno::LOOP.into()).into());
                    }
                    let target = self.link(&next)?;
                    if target.is_absolute() {
                        real = PathBuf::new();
                    }
                    for part in components(target.as_os_str().as_bytes()).rev() {
                        left.push_front(part);
                    }
                }
                Some(EntryKind::Dir) => real = next,
                kind if left.is_empty() => return Ok(Located { path: next, kind, beyond: Vec::new() }),
                Some(_) => return Err(FileOpError::io("look at", shown(&next), Errno::NOTDIR.into()).into()),
            }
        }
        Ok(Located { path: real, kind: Some(EntryKind::Dir), beyond: Vec::new() })
    }

    /// Follows `path` to a directory and makes what is missing; gives its real path.
    pub(super) fn make_dirs(&mut self, path: &[u8], made: Made) -> Result<PathBuf, Refused> {
        let found = self.locate(path)?;
        let mut real = found.path;
        match found.kind {
            Some(EntryKind::Dir) => return Ok(real),
            Some(_) => return Err(FileOpError::io("create directory", shown(&real), Errno::NOTDIR.into()).into()),
            None => self.make(&real, made),
        }
        for part in found.beyond {
            real.push(part);
            self.make(&real, made);
        }
        Ok(real)
    }

    /// Makes a directory where nothing is.
    fn make(&mut self, path: &Path, made: Made) {
        let node = Node {
            kind: EntryKind::Dir,
            mode: made.mode,
            uid: made.owner.0,
            gid: made.owner.1,
            mtime: made.mtime,
            size: 0,
            fresh: true,
            source: 0,
            digest: None,
            more: None,
        };
        self.nodes.insert(Name::of(path), node);
    }

    /// Dates a directory that was made, if it was.
    pub(super) fn date(&mut self, path: &Path, mtime: Timestamp) {
        if let Some(node) = self.nodes.get_mut(&Name::of(path)) {
            node.mtime = mtime;
        }
    }

    /// Puts `node`, which is no directory, at `path`.
    pub(super) fn put(&mut self, path: Box<[u8]>, node: Node, replace: bool) -> Result<(), Refused> {
        let at = Path::new(OsStr::from_bytes(&path));
        if self.kind(at)? == Some(EntryKind::Dir) {
            if replace {
                return Err(Refused::NeedsDirectory("a directory is replaced"));
            }
            return Err(FileOpError::ReplaceDirectory { path: shown(at) }.into());
        }
        self.nodes.insert(Name(path), node);
        Ok(())
    }

    /// Whether `path` is a new directory with nothing in it, neither here nor in the tree below.
    pub(super) fn is_blank(&self, path: &Path) -> bool {
        let name = Name::of(path);
        let mut from = self.nodes.range((Bound::Included(&name), Bound::Unbounded));
        from.next().is_some_and(|(at, node)| *at == name && node.fresh)
            && from.next().is_none_or(|(next, _)| !is_below(&next.0, &name.0))
    }

    /// Puts everything that is in a directory that [is blank](Self::is_blank), in order of the paths.
    pub(super) fn put_all(&mut self, nodes: impl Iterator<Item = (Box<[u8]>, Node)>) {
        // Made at once it takes less time and memory than one by one.
        let mut made = nodes.map(|(path, node)| (Name(path), node)).collect();
        if self.nodes.len() < BTreeMap::len(&made) {
            std::mem::swap(&mut self.nodes, &mut made);
        }
        self.nodes.extend(made);
    }

    /// Puts a directory with the metadata of `node` at `path`. One that is there keeps its owner and attributes, and gets the
    /// bits in `passed`, if it is only passed through.
    pub(super) fn put_dir(
        &mut self,
        path: Box<[u8]>,
        mut node: Node,
        passed: Option<u32>,
        replace: bool,
    ) -> Result<(), Refused> {
        let at = Path::new(OsStr::from_bytes(&path)).to_owned();
        match self.kind(&at)? {
            None => node.fresh = true,
            Some(EntryKind::Dir) => {
                let old = match self.nodes.remove(&Name::of(&at)) {
                    Some(old) => old,
                    None => self
                        .below
                        .lookup(&at)?
                        .map_or_else(|| Node::from_entry(&Entry::dir(&at, 0o755)), |e| Node::from_entry(&e)),
                };
                node.fresh = old.fresh;
                if let Some(bits) = passed {
                    (node.mode, node.uid, node.gid, node.more) = (bits, old.uid, old.gid, old.more);
                } else if let Some(more) = old.more {
                    let mut xattrs = more.xattrs;
                    xattrs.append(&mut node.more().xattrs);
                    node.more().xattrs = xattrs;
                }
            }
            Some(_) if replace => node.fresh = true,
            Some(_) => return Err(FileOpError::NonDirectory { path: shown(&at) }.into()),
        }
        self.nodes.insert(Name(path), node);
        Ok(())
    }

    /// Writes everything that differs from the tree below, in the order of a tar.
    ///
    /// # Errors
    /// Reading a source failed, or it changed since it was planned; the writer's.
    pub fn write<W: Write + Send>(mut self, out: &mut LayerWriter<W>) -> Result<(), WriteError> {
        let mut links: HashMap<(u32, u64, u64), PathBuf> = HashMap::new();
        // New directories above the node at hand: what is in them needs no look below.
        let mut fresh: Option<PathBuf> = None;
        // Each is gone when it is written: the writer remembers as much of it again.
        for (Name(path), node) in std::mem::take(&mut self.nodes) {
            let at = Path::new(OsStr::from_bytes(&path));
            if fresh.as_ref().is_some_and(|dir| !at.starts_with(dir)) {
                fresh = None;
            }
            if at.as_os_str().is_empty() || fresh.is_none() && self.unchanged(at, &node)? {
                continue;
            }
            if node.fresh && fresh.is_none() {
                fresh = Some(at.to_owned());
            }
            let mut entry = node.entry(at);
            if let Some((device, inode)) = node.more.as_ref().and_then(|more| more.inode) {
                // Names are linked within what one source path selected, as a copy does it.
                match links.entry((node.source, device, inode)) {
                    std::collections::hash_map::Entry::Occupied(first) => {
                        entry.kind = EntryKind::Hardlink;
                        entry.link.clone_from(first.get());
                        entry.size = 0;
                        out.append(&entry, None)?;
                        continue;
                    }
                    std::collections::hash_map::Entry::Vacant(place) => {
                        place.insert(at.to_owned());
                    }
                }
            }
            if node.kind != EntryKind::File || node.size == 0 {
                out.append(&entry, None)?;
                continue;
            }
            match node.more.as_ref().and_then(|more| more.data.as_ref()) {
                Some(data) => out.append(&entry, Some(&mut &data[..]))?,
                None => {
                    let (root, source) = self.source(&path, &node);
                    let shown = source.clone();
                    let open = Box::new(move || root.open_file(&source));
                    let path = Path::new("/").join(shown);
                    out.append_content(&entry, Some(Content::File { open, path, digest: node.digest }))?;
                }
            }
        }
        Ok(())
    }

    /// The file that is the content of the node at `path`.
    fn source(&self, path: &[u8], node: &Node) -> (Arc<Root>, PathBuf) {
        let base = &self.sources[node.source as usize];
        // At the base itself, or below it.
        let rest = path[base.dest.len()..].strip_prefix(b"/").unwrap_or(&path[base.dest.len()..]);
        let mut source = PathBuf::from(OsStr::from_bytes(&base.path));
        if !rest.is_empty() {
            source.push(OsStr::from_bytes(rest));
        }
        (Arc::clone(&base.root), source)
    }

    /// Whether the node is what the tree below has, by the rules of [`crate::archive::diff`].
    fn unchanged(&self, path: &Path, node: &Node) -> Result<bool, WriteError> {
        if node.fresh {
            return Ok(false);
        }
        let Some(old) = self.below.lookup(path)? else { return Ok(false) };
        let new = node.entry(path);
        if old.kind != new.kind || (old.uid, old.gid) != (new.uid, new.gid) {
            return Ok(false);
        }
        match node.kind {
            EntryKind::Dir => Ok(old.mode == new.mode && old.xattrs == new.xattrs),
            EntryKind::Symlink => Ok(old.mtime == new.mtime && old.link == new.link),
            EntryKind::File => Ok(old.mode == new.mode
                && old.mtime == new.mtime
                && old.size == new.size
                && old.xattrs == new.xattrs
                && (new.size == 0 || self.below.content(path)? == self.content(path, node)?)),
            _ => Ok(false),
        }
    }

    /// sha256 of what the node will contain.
    fn content(&self, path: &Path, node: &Node) -> Result<Digest, WriteError> {
        if let Some(data) = node.more.as_ref().and_then(|more| more.data.as_ref()) {
            return Ok(Digest::sha256(data));
        }
        let (root, source) = self.source(path.as_os_str().as_bytes(), node);
        let io = |e| FileOpError::io("read", shown(&source), e);
        let file = root.open_file(&source).map_err(io)?;
        Ok(content::sha256(&file.into(), node.size).map_err(io)?)
    }
}

/// Why a planned layer could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// A source.
    #[error(transparent)]
    Files(#[from] FileOpError),
    /// The tar, or reading into it.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
}

fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = OsString> {
    path.split(|b| *b == b'/').filter(|c| !c.is_empty() && *c != b".").map(|c| OsStr::from_bytes(c).to_owned())
}
