//! Planning actions: what is selected of a source, and where it goes. The same rules as in [`crate::exec::file::copy`].

use std::ffi::{CStr, OsStr};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{FileType, Stat};

use super::Refused;
use super::nodes::{LayerPlan, Made, Node, SourceBase};
use crate::archive::entry::{Timestamp, Xattrs, name_representable};
use crate::archive::{EntryKind, xattrs_of};
use crate::base::owner;
use crate::exec::file::digest::split;
use crate::exec::file::error::FileOpError;
use crate::exec::file::meta::{self, Settings};
use crate::exec::file::mode::ModeChange;
use crate::exec::file::select::{Source, c_name, selection, text};
use crate::exec::file::walk::{Directory, Found, Scope, Visitor, lock, walk};
use crate::exec::file::{CopySource, StatCache, StatKey, unpack};
use crate::llb::op::{FileActionCopy, FileActionMkDir};
use crate::tree::root::{Last, Place, Root, open_subdir, read_link, relative};
use crate::tree::view::{DirVerdict, View};

/// What file capabilities a copy gets depends on who sets them.
const CAPABILITY: &[u8] = b"security.capability";

impl LayerPlan<'_> {
    /// Plans a copy. `known` is what is remembered of the source's files.
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn copy(
        &mut self,
        source: &CopySource,
        known: &dyn StatCache,
        action: &FileActionCopy,
        owner: Option<(u32, u32)>,
    ) -> Result<(), Refused> {
        let settings = Settings {
            owner,
            reset_owner: source.reset_owner,
            mode: ModeChange::new(&action.mode_str, action.mode)?,
            time: meta::time_of(action.timestamp),
            no_chown: false,
        };
        let root =
            Root::open(&source.root).map_err(|e| FileOpError::io("open", source.root.display().to_string(), e))?;
        let source = Source::open(source)?;
        let last = if action.follow_symlink { Last::Follow } else { Last::Keep };
        let src = action.src.as_bytes();
        if !action.create_dest_path {
            let place = self.locate(action.dest.as_bytes())?;
            if !place.beyond.is_empty() {
                let error = io::Error::from(io::ErrorKind::NotFound);
                return Err(FileOpError::io("look at", action.dest.clone(), error).into());
            }
        }
        let found = if action.allow_wildcard { source.expand(src, last)? } else { vec![relative(src)] };
        if found.is_empty() && !action.allow_empty_wildcard {
            return Err(source.not_found(src).into());
        }
        let selection = selection(&action.include_patterns, &action.exclude_patterns)?;
        let view = View { filter: source.filter(), selection: selection.as_ref() };
        let mut copy =
            Copy { plan: self, source: &source, root: Arc::new(root), known, action, settings: &settings, view };
        let mut at_dest = false;
        for path in found {
            let put_there = copy.one(&path, last)?;
            if put_there && at_dest {
                return Err(Refused::NeedsDirectory("files replace each other, which is told by who copies"));
            }
            at_dest |= put_there;
        }
        Ok(())
    }

    /// Plans a directory.
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn mkdir(&mut self, action: &FileActionMkDir, owner: Option<(u32, u32)>) -> Result<(), Refused> {
        let mtime = meta::time_of(action.timestamp).map_or(self.now, timestamp);
        let mode = u32::try_from(action.mode).unwrap_or(0) & 0o777;
        let found = self.locate(action.path.as_bytes())?;
        if !action.make_parents {
            if !found.beyond.is_empty() {
                let error = io::Error::from(io::ErrorKind::NotFound);
                return Err(FileOpError::io("create directory", &*action.path, error).into());
            }
            if found.kind.is_some() {
                return Ok(());
            }
        }
        self.make_dirs(action.path.as_bytes(), Made { mode, owner: owner.unwrap_or((0, 0)), mtime })?;
        Ok(())
    }
}

fn timestamp(time: rustix::fs::Timespec) -> Timestamp {
    Timestamp { secs: time.tv_sec, nanos: u32::try_from(time.tv_nsec).unwrap_or_default() }
}

/// One copy action.
struct Copy<'a, 'p> {
    plan: &'a mut LayerPlan<'p>,
    source: &'a Source<'a>,
    root: Arc<Root>,
    known: &'a dyn StatCache,
    action: &'a FileActionCopy,
    settings: &'a Settings,
    view: View<'a>,
}

impl Copy<'_, '_> {
    fn made(&self) -> Made {
        Made {
            mode: self.settings.mode.octal().unwrap_or(0o755),
            owner: self.settings.owner.unwrap_or((0, 0)),
            mtime: self.settings.time.map_or(self.plan.now, timestamp),
        }
    }

    /// Plans one of the paths that the source argument means; tells whether it is a file at the destination itself.
    fn one(&mut self, path: &[u8], last: Last) -> Result<bool, Refused> {
        let Some(source) = self.source.find(path, last)? else { return Err(self.source.not_found(path).into()) };
        if self.action.attempt_unpack_docker_compatibility
            && let Some(target) = self.source.find(path, Last::Follow)?
            && unpack::detect(&target, path)?.is_some()
        {
            return Err(Refused::NeedsDirectory("an archive is unpacked"));
        }
        if source.is_dir() {
            self.source.require(
                source.path.as_os_str().as_bytes(),
                self.action.src.as_bytes(),
                &self.action.required_paths,
                self.view.selection,
            )?;
        }
        let made = self.made();
        let dest = self.action.dest.as_bytes();
        let split = dest.iter().rposition(|b| *b == b'/').map_or(0, |i| i + 1);
        let ensure = if matches!(&dest[split..], b"" | b".") { dest } else { &dest[..split] };
        if !ensure.is_empty() {
            self.plan.make_dirs(ensure, made)?;
        }
        let found = self.plan.locate(dest)?;
        let mut target = found.path.clone();
        target.extend(&found.beyond);
        let base = path.rsplit(|b| *b == b'/').next().unwrap_or_default();
        let merges = source.is_dir() && self.action.dir_copy_contents;
        let is_dir = found.kind == Some(EntryKind::Dir);
        if found.kind.is_some() && (source.is_dir() && !merges || !source.is_dir() && is_dir) {
            // The root of the source has no name.
            target.extend((!base.is_empty()).then(|| OsStr::from_bytes(base)));
        }
        if source.is_dir() {
            self.directory(&source, &target, merges && found.kind.is_none(), made)?;
        } else {
            self.file(&source, &target, made)?;
        }
        Ok(!source.is_dir() && !is_dir)
    }

    fn base(&mut self, path: &[u8], dest: &Path) -> u32 {
        let dest = dest.as_os_str().as_bytes().to_vec();
        self.plan.sources.push(SourceBase { root: Arc::clone(&self.root), path: path.to_vec(), dest });
        // Far fewer than that many source arguments exist.
        u32::try_from(self.plan.sources.len() - 1).unwrap_or(u32::MAX)
    }

    fn directory(&mut self, source: &Place, target: &Path, fresh: bool, made: Made) -> Result<(), Refused> {
        let path = source.path.as_os_str().as_bytes();
        let io = |attempt, e| FileOpError::io(attempt, text(path), e);
        let fd = open_subdir(&source.dir, source.name.as_os_str()).map_err(|e| io("open directory", e))?;
        let mut stat = owner::stat_fd(&fd).map_err(|e| io("look at", e))?;
        if path.is_empty() && self.source.tree.reset_owner {
            // The directory a context happens to be in is no part of it.
            stat.st_mode = stat.st_mode & !0o7777 | 0o755;
        }
        let number = self.base(path, target);
        let planner =
            Planner { settings: self.settings, known: self.known, number, like: Some(stat), found: Mutex::default() };
        // The contents of a directory are copied, not the directory itself: one made for them is like any parent.
        if fresh {
            self.plan.make_dirs(target.as_os_str().as_bytes(), made)?;
            self.plan.date(target, planner.time(&stat));
        } else if let (Some(parent), Some(_)) = (target.parent(), target.file_name()) {
            self.plan.make_dirs(parent.as_os_str().as_bytes(), made)?;
            match self.plan.kind(target)? {
                Some(EntryKind::Dir) => self.plan.date(target, planner.time(&stat)),
                _ => {
                    let node = planner.dir_node(&fd, &stat, path)?;
                    let name = target.as_os_str().as_bytes().into();
                    self.plan.put_dir(name, node, None, self.action.always_replace_existing_dest_paths)?;
                }
            }
        }
        let mut found = planner.run(Scope { view: self.view, sockets: self.settings.reset_owner }, fd, path, target)?;
        // Directories before what is in them.
        found.sort_unstable_by(|a, b| crate::archive::index::path_order(&a.dest, &b.dest));
        if self.plan.is_blank(target) {
            let nodes = found.into_iter().map(|Item { dest, mut node, dir }| {
                node.fresh = dir.is_some();
                (dest, node)
            });
            self.plan.put_all(nodes);
            return Ok(());
        }
        for Item { dest, node, dir } in found {
            let replace = self.action.always_replace_existing_dest_paths;
            match dir {
                Some(DirItem { passed }) => self.plan.put_dir(dest, node, passed, replace)?,
                None => self.plan.put(dest, node, replace)?,
            }
        }
        Ok(())
    }

    fn file(&mut self, source: &Place, target: &Path, made: Made) -> Result<(), Refused> {
        let parent = target.parent().unwrap_or(Path::new(""));
        self.plan.make_dirs(parent.as_os_str().as_bytes(), made)?;
        if target.file_name().is_none() {
            return Err(FileOpError::ReplaceDirectory { path: "/".into() }.into());
        }
        let path = source.path.as_os_str().as_bytes();
        let number = self.base(path, target);
        let planner =
            Planner { settings: self.settings, known: self.known, number, like: None, found: Mutex::default() };
        let Some(node) = planner.node(&source.dir, &c_name(&source.name)?, path)? else { return Ok(()) };
        let replace = self.action.always_replace_existing_dest_paths;
        self.plan.put(target.as_os_str().as_bytes().into(), node, replace)?;
        // A new name dates its directory, whatever an earlier source gave that.
        self.plan.date(parent, made.mtime);
        Ok(())
    }
}

/// Something that was selected.
struct Item {
    dest: Box<[u8]>,
    node: Node,
    dir: Option<DirItem>,
}

struct DirItem {
    /// The source's own bits, when it is not taken for its own sake.
    passed: Option<u32>,
}

/// One directory being looked through, by several threads.
struct Planner<'a> {
    settings: &'a Settings,
    known: &'a dyn StatCache,
    number: u32,
    /// Any answer of the kernel, to put in what is known of a file.
    like: Option<Stat>,
    found: Mutex<Vec<Item>>,
}

/// A source directory being planned.
struct Planned {
    dest: Vec<u8>,
    own: bool,
    /// It, or something in it, is taken.
    taken: AtomicBool,
}

impl Visitor for Planner<'_> {
    type Dir = Planned;
    type Batch = Vec<Item>;
    type Error = Refused;

    fn open(
        &self,
        parent: &Directory<Planned>,
        name: &CStr,
        _: &[u8],
        _: &OwnedFd,
        verdict: &DirVerdict,
    ) -> Result<Planned, Refused> {
        let dest = below(&parent.state.dest, name);
        Ok(Planned { dest, own: verdict.own, taken: AtomicBool::new(false) })
    }

    fn selected(&self, dir: &Arc<Directory<Planned>>) -> Result<(), Refused> {
        self.take(dir)
    }

    fn entry(
        &self,
        dir: &Arc<Directory<Planned>>,
        batch: &mut Vec<Item>,
        Found { name, path, .. }: Found<'_>,
    ) -> Result<(), Refused> {
        let node = self.node(&dir.fd, name, path)?;
        batch.extend(node.map(|node| Item { dest: below(&dir.state.dest, name).into(), node, dir: None }));
        Ok(())
    }

    fn batch(&self, dir: &Arc<Directory<Planned>>, mut batch: Vec<Item>) -> Result<(), Refused> {
        if !batch.is_empty() {
            self.take(dir)?;
            lock(&self.found).append(&mut batch);
        }
        Ok(())
    }
}

impl Planner<'_> {
    fn run(self, scope: Scope<'_>, fd: OwnedFd, path: &[u8], dest: &Path) -> Result<Vec<Item>, Refused> {
        let dest = dest.as_os_str().as_bytes().to_vec();
        walk(&self, scope, fd, path, Planned { dest, own: true, taken: AtomicBool::new(true) })?;
        Ok(self.found.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes a directory and those above it.
    fn take(&self, dir: &Arc<Directory<Planned>>) -> Result<(), Refused> {
        let mut at = Some(dir);
        while let Some(dir) = at {
            if dir.state.taken.swap(true, Ordering::AcqRel) {
                return Ok(());
            }
            let stat = owner::stat_fd(&dir.fd).map_err(|e| FileOpError::io("look at", text(&dir.path), e))?;
            let node = self.dir_node(&dir.fd, &stat, &dir.path)?;
            let passed = (!dir.state.own).then_some(stat.st_mode & 0o7777);
            lock(&self.found).push(Item { dest: dir.state.dest[..].into(), node, dir: Some(DirItem { passed }) });
            at = dir.parent();
        }
        Ok(())
    }

    fn time(&self, stat: &Stat) -> Timestamp {
        timestamp(self.settings.times(stat).last_modification)
    }

    fn base_node(&self, kind: EntryKind, stat: &Stat) -> Node {
        let (uid, gid) = self.settings.owner(stat);
        Node {
            kind,
            mode: self.settings.mode(stat).as_raw_mode(),
            uid,
            gid,
            mtime: self.time(stat),
            size: 0,
            fresh: false,
            source: self.number,
            digest: None,
            more: None,
        }
    }

    fn dir_node(&self, fd: &OwnedFd, stat: &Stat, path: &[u8]) -> Result<Node, Refused> {
        let mut node = self.base_node(EntryKind::Dir, stat);
        // The link in /proc itself has no attributes.
        self.attributes(&mut node, &PathBuf::from(format!("/proc/self/fd/{}/.", fd.as_raw_fd())), path)?;
        if path.rsplit(|b| *b == b'/').next().is_some_and(|name| !name_representable(OsStr::from_bytes(name))) {
            return Err(Refused::NeedsDirectory("a name cannot stand in a layer"));
        }
        Ok(node)
    }

    fn attributes(&self, node: &mut Node, place: &Path, path: &[u8]) -> Result<(), Refused> {
        let attempt = "read the extended attributes of";
        let xattrs: Xattrs =
            xattrs_of(place).map_err(|e| FileOpError::io(attempt, text(path), io::Error::other(e.to_string())))?;
        if xattrs.contains_key(CAPABILITY) {
            return Err(Refused::NeedsDirectory("a file has capabilities"));
        }
        if !xattrs.is_empty() {
            node.more().xattrs = xattrs;
        }
        Ok(())
    }

    /// The node for a file that was looked at a moment ago, for the key of this copy.
    #[allow(clippy::unnecessary_cast, clippy::cast_possible_wrap, reason = "the types differ between architectures")]
    fn seen(&self, path: &[u8]) -> Option<Node> {
        let mut stat = self.like.filter(|_| self.settings.reset_owner)?;
        let seen = self.known.just_seen(Path::new(OsStr::from_bytes(path)))?;
        let (secs, nanos) = split(seen.mtime_ns);
        stat.st_mode = seen.mode as _;
        stat.st_mtime = secs as _;
        stat.st_mtime_nsec = nanos as _;
        let mut node = self.base_node(EntryKind::File, &stat);
        (node.size, node.digest) = (seen.size, Some(seen.digest));
        Some(node)
    }

    /// The node for `name` in `dir`, which is no directory.
    fn node(&self, dir: &OwnedFd, name: &CStr, path: &[u8]) -> Result<Option<Node>, Refused> {
        let io = |attempt| move |e: io::Error| FileOpError::io(attempt, text(path), e);
        if !name_representable(OsStr::from_bytes(name.to_bytes())) {
            return Err(Refused::NeedsDirectory("a name cannot stand in a layer"));
        }
        if let Some(node) = self.seen(path) {
            return Ok(Some(node));
        }
        let stat = owner::stat_at(dir, name).map_err(io("look at"))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {
                let mut node = self.base_node(EntryKind::File, &stat);
                node.size = u64::try_from(stat.st_size).unwrap_or(0);
                if stat.st_nlink > 1 {
                    node.more().inode = Some((stat.st_dev, stat.st_ino));
                }
                node.digest = self.known.plain(Path::new(OsStr::from_bytes(path)), &StatKey::of_stat(&stat));
                if node.digest.is_none() {
                    let place = Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string());
                    self.attributes(&mut node, &place.join(OsStr::from_bytes(name.to_bytes())), path)?;
                }
                Ok(Some(node))
            }
            FileType::Symlink => {
                let mut node = self.base_node(EntryKind::Symlink, &stat);
                node.mode = 0o777;
                node.more().link = read_link(dir, name).map_err(io("read link"))?.into();
                Ok(Some(node))
            }
            FileType::Socket if self.settings.reset_owner => Err(Refused::NeedsDirectory("a socket is copied")),
            FileType::Socket => Ok(None),
            FileType::Directory => Err(io("copy")(io::Error::other("it changed while it was copied")).into()),
            _ => Err(Refused::NeedsDirectory("a device or a pipe is copied")),
        }
    }
}

/// `name` in the directory `dir`.
fn below(dir: &[u8], name: &CStr) -> Vec<u8> {
    let mut path = Vec::with_capacity(dir.len() + 1 + name.to_bytes().len());
    if !dir.is_empty() {
        path.extend_from_slice(dir);
        path.push(b'/');
    }
    path.extend_from_slice(name.to_bytes());
    path
}
