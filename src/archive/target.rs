//! The directory that an archive is extracted into, and how names in it are resolved.
//!
//! Nothing here ever lets the kernel follow a symlink: directories are opened one component at a time, or all at once with
//! `RESOLVE_NO_SYMLINKS`; symlinks are read and resolved by hand, with the target as the root. So whatever earlier entries
//! planted, no operation reaches outside.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::{CString, OsStr, OsString};
use std::fs::Metadata;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, Timestamps};
use rustix::io::Errno;

use super::entry::{Entry, Timestamp, Xattrs};
use super::error::ArchiveError;
use super::lowers::{LowerNode, Lowers, OPAQUE_XATTR};
use super::scan::{mtime_of, owner_and_mode, xattrs_of};
use crate::base::owner;

/// As many as the kernel follows.
const MAX_SYMLINKS: usize = 40;

/// A directory inside the target.
#[derive(Clone)]
pub(super) struct Place {
    fd: Rc<OwnedFd>,
    /// Its path without symlinks, relative to the root.
    pub(super) real: PathBuf,
}

impl AsFd for Place {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What to do about a directory that an entry needs and nobody made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    /// Make it.
    Create,
    /// Make it if lower layers have it, as they have it.
    FromLowers,
}

/// The directory that is extracted into.
pub(super) struct Target {
    root: Place,
    /// For messages.
    shown: PathBuf,
    lowers: Lowers,
    /// Directories made here that hide what lower layers have.
    opaque: BTreeSet<PathBuf>,
    /// Modification times to set when everything is in place.
    times: BTreeMap<PathBuf, Timestamp>,
    /// Directories that the archive does not mention keep their times.
    keep_times: bool,
    /// Directories made because an entry needed them, that no layer has.
    pub(super) implied: Vec<Entry>,
    /// The root is to look like that of a layer below that was not complete yet.
    root_owed: bool,
    cached: Option<(PathBuf, Place)>,
}

impl Target {
    pub(super) fn open(root: &Path, lowers: Lowers, keep_times: bool) -> Result<Self, ArchiveError> {
        let fd = crate::base::file::open_dir(root).map_err(|e| ArchiveError::io("open", root, e))?;
        let root_place = Place { fd: Rc::new(fd), real: PathBuf::new() };
        let mut target = Self {
            root: root_place,
            shown: root.to_owned(),
            lowers,
            opaque: BTreeSet::new(),
            times: BTreeMap::new(),
            keep_times,
            implied: Vec::new(),
            root_owed: false,
            cached: None,
        };
        if target.lowers.are_awaited() {
            target.root_owed = true;
        } else {
            target.root_like_lower()?;
        }
        Ok(target)
    }

    /// The root looks like that of the layer below, unless the archive says how it looks.
    fn root_like_lower(&mut self) -> Result<(), ArchiveError> {
        if let Some(top) = self.lowers.top()?.map(Path::to_path_buf) {
            let meta = std::fs::metadata(&top).map_err(|e| ArchiveError::io("inspect", &top, e))?;
            let root = self.root.clone();
            self.copy_metadata(root.as_fd(), &root.real, &top, &meta)?;
        }
        Ok(())
    }

    /// The archive says how the root looks.
    pub(super) fn root_told(&mut self) {
        self.root_owed = false;
    }

    pub(super) fn root(&self) -> Place {
        self.root.clone()
    }

    /// A path for messages.
    pub(super) fn shown(&self, real: &Path) -> PathBuf {
        if real.as_os_str().is_empty() { self.shown.clone() } else { self.shown.join(real) }
    }

    pub(super) fn error(&self, action: &'static str, real: &Path, errno: Errno) -> ArchiveError {
        ArchiveError::io(action, &self.shown(real), errno)
    }

    /// The directory called `logical`, symlinks resolved; `None` if it may not be made.
    pub(super) fn dir(&mut self, logical: &Path, missing: Missing) -> Result<Option<Place>, ArchiveError> {
        if logical.as_os_str().is_empty() {
            self.remember_time(&self.root())?;
            return Ok(Some(self.root()));
        }
        if let Some((path, place)) = &self.cached
            && path == logical
        {
            return Ok(Some(place.clone()));
        }
        let place = match self.open_real(logical, OFlags::PATH) {
            Ok(fd) => Some(Place { fd: Rc::new(fd), real: logical.to_owned() }),
            Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => self.resolve(logical, missing)?,
            Err(e) => return Err(self.error("open", logical, e)),
        };
        if let Some(place) = &place {
            self.remember_time(place)?;
            self.cached = Some((logical.to_owned(), place.clone()));
        }
        Ok(place)
    }

    /// Opens a directory whose path has no symlinks.
    fn open_real(&self, real: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        let path = if real.as_os_str().is_empty() { Path::new(".") } else { real };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let flags = flags | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat2(&self.root, path, flags, Mode::empty(), resolve)
    }

    /// As [`dir`](Self::dir), for any path: absolute, with `..`. Goes component by component, through symlinks and lower layers.
    pub(super) fn resolve(&mut self, logical: &Path, missing: Missing) -> Result<Option<Place>, ArchiveError> {
        let mut left: VecDeque<OsString> = names(logical).collect();
        let mut at = self.root();
        let mut hops = 0;
        while let Some(name) = left.pop_front() {
            if name == ".." {
                let up = at.real.parent().unwrap_or(Path::new("")).to_owned();
                let fd = self.open_real(&up, OFlags::PATH).map_err(|e| self.error("open", &up, e))?;
                at = Place { fd: Rc::new(fd), real: up };
                continue;
            }
            let real = at.real.join(&name);
            let mut link = None;
            let stat = self.stat(&at, &name)?;
            match stat.as_ref().map(|s| FileType::from_raw_mode(s.st_mode)) {
                Some(FileType::Directory) => {}
                Some(FileType::Symlink) => {
                    let text = rustix::fs::readlinkat(&at, &name, Vec::new())
                        .map_err(|e| self.error("read the symlink", &real, e))?;
                    link = Some(PathBuf::from(OsStr::from_bytes(text.as_bytes())));
                }
                Some(_) if stat.as_ref().is_some_and(is_whiteout_stat) => {
                    if missing == Missing::FromLowers {
                        return Ok(None);
                    }
                    self.remember_time(&at)?;
                    rustix::fs::unlinkat(&at, &name, AtFlags::empty()).map_err(|e| self.error("remove", &real, e))?;
                    self.make_implied(&at, &name, &real)?;
                    self.hide_lowers(&real)?;
                }
                Some(_) => {
                    return Err(ArchiveError::refused(logical, format!("{} is not a directory", real.display())));
                }
                None => match self.lower(&real)? {
                    Some(node) if node.meta.is_symlink() => {
                        link = Some(
                            std::fs::read_link(&node.path)
                                .map_err(|e| ArchiveError::io("read the symlink", &node.path, e))?,
                        );
                    }
                    Some(node) if node.meta.is_dir() => self.make_like_lower(&at, &name, &real, &node)?,
                    Some(_) => {
                        return Err(ArchiveError::refused(logical, format!("{} is not a directory", real.display())));
                    }
                    None if missing == Missing::FromLowers => return Ok(None),
                    None => {
                        self.remember_time(&at)?;
                        self.make_implied(&at, &name, &real)?;
                    }
                },
            }
            if let Some(text) = link {
                hops += 1;
                if hops > MAX_SYMLINKS {
                    return Err(ArchiveError::refused(logical, "too many levels of symbolic links"));
                }
                if text.is_absolute() {
                    at = self.root();
                }
                for name in names(&text).rev() {
                    left.push_front(name);
                }
                continue;
            }
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = rustix::fs::openat(&at, &name, flags, Mode::empty()).map_err(|e| self.error("open", &real, e))?;
            at = Place { fd: Rc::new(fd), real };
        }
        Ok(Some(at))
    }

    /// What is called `name` in `dir`, not following a symlink.
    pub(super) fn stat(&self, dir: &Place, name: &OsStr) -> Result<Option<Stat>, ArchiveError> {
        match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(self.error("inspect", &dir.real.join(name), e)),
        }
    }

    /// What lower layers show at `real` through this one.
    pub(super) fn lower(&self, real: &Path) -> Result<Option<LowerNode>, ArchiveError> {
        if !self.lowers.exist() || real.ancestors().skip(1).any(|a| self.opaque.contains(a)) {
            return Ok(None);
        }
        self.lowers.find(real)
    }

    /// Makes the directory `real` hide what lower layers have there, if they have a directory there.
    pub(super) fn hide_lowers(&mut self, real: &Path) -> Result<(), ArchiveError> {
        if self.lower(real)?.is_some_and(|node| node.dir.is_some()) { self.make_opaque(real) } else { Ok(()) }
    }

    /// Marks the directory `real` as opaque.
    pub(super) fn make_opaque(&mut self, real: &Path) -> Result<(), ArchiveError> {
        let fd = self.open_real(real, OFlags::RDONLY).map_err(|e| self.error("open", real, e))?;
        rustix::fs::fsetxattr(&fd, OPAQUE_XATTR, b"y", rustix::fs::XattrFlags::empty())
            .map_err(|e| self.error("make opaque", real, e))?;
        self.opaque.insert(real.to_owned());
        Ok(())
    }

    fn make_implied(&mut self, at: &Place, name: &OsStr, real: &Path) -> Result<(), ArchiveError> {
        rustix::fs::mkdirat(at, name, Mode::from_raw_mode(0o755))
            .and_then(|()| {
                // Whatever the umask is.
                rustix::fs::chmodat(at, name, Mode::from_raw_mode(0o755), AtFlags::empty())
            })
            .map_err(|e| self.error("create directory", real, e))?;
        if self.keep_times {
            self.times.insert(real.to_owned(), Timestamp::default());
        }
        self.implied.push(Entry::dir(real, 0o755));
        Ok(())
    }

    fn make_like_lower(&mut self, at: &Place, name: &OsStr, real: &Path, node: &LowerNode) -> Result<(), ArchiveError> {
        self.remember_time(at)?;
        rustix::fs::mkdirat(at, name, Mode::RWXU).map_err(|e| self.error("create directory", real, e))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(at, name, flags, Mode::empty()).map_err(|e| self.error("open", real, e))?;
        self.copy_metadata(fd.as_fd(), real, &node.path, &node.meta)
    }

    /// Gives the directory `fd` owner, mode, attributes and time of a lower layer's.
    fn copy_metadata(
        &mut self,
        fd: BorrowedFd<'_>,
        real: &Path,
        from: &Path,
        meta: &Metadata,
    ) -> Result<(), ArchiveError> {
        self.copy_owner(fd, real, from, meta)?;
        self.times.insert(real.to_owned(), mtime_of(meta));
        Ok(())
    }

    /// Gives `fd` owner, mode and attributes of a lower layer's file.
    pub(super) fn copy_owner(
        &self,
        fd: BorrowedFd<'_>,
        real: &Path,
        from: &Path,
        meta: &Metadata,
    ) -> Result<(), ArchiveError> {
        let ((uid, gid), mode) = owner_and_mode(from, meta)?;
        match owner::set_fd(fd, uid, gid) {
            // What the lower layer's file shows is then not its owner either.
            Ok(()) | Err(Errno::INVAL | Errno::PERM) => {}
            Err(e) => return Err(self.error("change the owner of", real, e)),
        }
        owner::set_mode(fd, Mode::from_raw_mode(mode & 0o7777))
            .map_err(|e| self.error("change the mode of", real, e))?;
        let xattrs: Xattrs = xattrs_of(from)?;
        for (name, value) in &xattrs {
            match rustix::fs::fsetxattr(fd, name.as_slice(), value, rustix::fs::XattrFlags::empty()) {
                Ok(()) | Err(Errno::PERM | Errno::OPNOTSUPP) => {}
                Err(e) => return Err(self.error("set an attribute of", real, e)),
            }
        }
        Ok(())
    }

    /// Notes a directory's time before something is put into it.
    fn remember_time(&mut self, place: &Place) -> Result<(), ArchiveError> {
        if !self.keep_times || self.times.contains_key(&place.real) {
            return Ok(());
        }
        let stat =
            rustix::fs::statat(place, "", AtFlags::EMPTY_PATH).map_err(|e| self.error("inspect", &place.real, e))?;
        let nanos = u32::try_from(stat.st_mtime_nsec).unwrap_or_default();
        self.times.insert(place.real.clone(), Timestamp { secs: stat.st_mtime, nanos });
        Ok(())
    }

    /// Notes the time that the archive gives a directory.
    pub(super) fn set_time(&mut self, real: &Path, time: Timestamp) {
        self.times.insert(real.to_owned(), time);
    }

    /// Sets the noted times.
    pub(super) fn finish(mut self) -> Result<(), ArchiveError> {
        if self.root_owed {
            self.root_like_lower()?;
        }
        for (real, time) in &self.times {
            let set = self.open_real(real, OFlags::RDONLY).and_then(|fd| rustix::fs::futimens(&fd, &timestamps(*time)));
            match set {
                // Replaced or removed since.
                Ok(()) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(e) => return Err(self.error("set the time of", real, e)),
            }
        }
        Ok(())
    }

    /// Removes `name` from `dir`, with everything in it.
    pub(super) fn remove(&mut self, dir: &Place, name: &OsStr) -> Result<(), ArchiveError> {
        self.remove_except(dir, name, &|_| false)
    }

    /// Removes `name` from `dir`, with everything in it, but not what `keep` says nor what that lies in.
    pub(super) fn remove_except(
        &mut self,
        dir: &Place,
        name: &OsStr,
        keep: &dyn Fn(&Path) -> bool,
    ) -> Result<(), ArchiveError> {
        let real = dir.real.join(name);
        self.cached = None;
        self.times.retain(|path, _| !path.starts_with(&real) || keep(path));
        self.opaque.retain(|path| !path.starts_with(&real));
        remove_tree(dir.as_fd(), name, &real, keep).map_err(|(path, e)| self.error("remove", &path, e))
    }

    /// Empties the directory `place`, but not of what `keep` says.
    pub(super) fn empty_except(&mut self, place: &Place, keep: &dyn Fn(&Path) -> bool) -> Result<(), ArchiveError> {
        let names = list(place.as_fd()).map_err(|e| self.error("list", &place.real, e))?;
        for name in names {
            self.remove_except(place, OsStr::from_bytes(name.as_bytes()), keep)?;
        }
        Ok(())
    }
}

/// The form in which the kernel wants times.
pub(super) fn timestamps(time: Timestamp) -> Timestamps {
    let time = rustix::fs::Timespec { tv_sec: time.secs, tv_nsec: time.nanos.into() };
    Timestamps { last_access: time, last_modification: time }
}

/// Whether this is overlay's sign of a deletion.
pub(super) fn is_whiteout_stat(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// The names of a path; `..` is kept, the leading slash and `.` are not.
pub(super) fn names(path: &Path) -> impl DoubleEndedIterator<Item = OsString> + '_ {
    path.components().filter_map(|c| match c {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        _ => None,
    })
}

fn list(dir: BorrowedFd<'_>) -> Result<Vec<CString>, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut names = Vec::new();
    for entry in Dir::read_from(rustix::fs::openat(dir, ".", flags, Mode::empty())?)? {
        let name = entry?.file_name().to_owned();
        if !matches!(name.as_bytes(), b"." | b"..") {
            names.push(name);
        }
    }
    Ok(names)
}

/// A directory being emptied.
struct Emptying {
    fd: OwnedFd,
    names: Vec<CString>,
    /// Its name in the directory above.
    name: CString,
    real: PathBuf,
    kept: bool,
}

fn remove_tree(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    real: &Path,
    keep: &dyn Fn(&Path) -> bool,
) -> Result<(), (PathBuf, Errno)> {
    let name = CString::new(name.as_bytes()).map_err(|_| (real.to_owned(), Errno::INVAL))?;
    let mut stack: Vec<Emptying> = Vec::new();
    let mut next = Some((name, real.to_owned()));
    loop {
        if let Some((name, real)) = next.take() {
            let parent = stack.last().map_or(dir, |top| top.fd.as_fd());
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            match rustix::fs::openat(parent, &name, flags, Mode::empty()) {
                Ok(fd) => {
                    let names = list(fd.as_fd()).map_err(|e| (real.clone(), e))?;
                    let kept = keep(&real);
                    stack.push(Emptying { fd, names, name, real, kept });
                }
                Err(Errno::NOTDIR | Errno::LOOP) if keep(&real) => {
                    if let Some(top) = stack.last_mut() {
                        top.kept = true;
                    }
                }
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    rustix::fs::unlinkat(parent, &name, AtFlags::empty()).map_err(|e| (real, e))?;
                }
                Err(Errno::NOENT) => {}
                Err(e) => return Err((real, e)),
            }
        }
        let Some(top) = stack.last_mut() else { return Ok(()) };
        if let Some(name) = top.names.pop() {
            let real = top.real.join(OsStr::from_bytes(name.as_bytes()));
            next = Some((name, real));
            continue;
        }
        let Some(done) = stack.pop() else { return Ok(()) };
        if done.kept {
            if let Some(above) = stack.last_mut() {
                above.kept = true;
            }
            continue;
        }
        let parent = stack.last().map_or(dir, |top| top.fd.as_fd());
        rustix::fs::unlinkat(parent, &done.name, AtFlags::REMOVEDIR).map_err(|e| (done.real, e))?;
    }
}
