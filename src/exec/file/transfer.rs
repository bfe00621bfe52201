//! Copies trees in parallel ([`super::walk`]).
//!
//! A directory appears when it is taken itself or when the first thing in it is; its metadata is set when its last entry is
//! done, because entries change its times and its bits may forbid making them. Nothing depends on which task runs first.

use std::collections::{BTreeSet, HashMap};
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::content;
use super::error::FileOpError;
use super::meta::Settings;
use super::remove;
use super::walk::{Directory, Found, Scope, Visitor, lock, walk};
use crate::base::owner;
use crate::tree::root::{Root, open_subdir, read_link, shown, stat};
use crate::tree::view::{DirVerdict, View};

/// Directory and name of the first of several hard links; `None` if it could not be made.
type FirstLink = Arc<OnceLock<Option<(PathBuf, CString)>>>;

/// A copy under way.
pub(super) struct Transfer<'a> {
    pub(super) view: View<'a>,
    pub(super) settings: &'a Settings,
    /// What stands at a destination gives way, whatever it is.
    pub(super) replace: bool,
    pub(super) dest: &'a Root,
    pub(super) entries: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) notes: Mutex<BTreeSet<String>>,
    /// Where the first of several hard links went, by device and inode.
    links: Mutex<HashMap<(u64, u64), FirstLink>>,
}

/// Metadata that a destination directory gets when its contents are done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finish {
    /// All of it.
    Everything,
    /// The source's permission bits and times: it was there, and is only passed through.
    Bits,
    /// Times: it was there, and its contents are merged into it.
    Times,
}

/// A source directory being copied.
pub(super) struct Copied {
    stat: Stat,
    /// Path in the destination tree.
    dest_path: PathBuf,
    /// It is taken for its own sake.
    own: bool,
    made: Mutex<Option<(Arc<OwnedFd>, Finish)>>,
}

fn source_text(path: &[u8]) -> String {
    format!("/{}", String::from_utf8_lossy(path))
}

impl Visitor for Transfer<'_> {
    type Dir = Copied;
    type Batch = ();
    type Error = FileOpError;

    fn open(
        &self,
        parent: &Directory<Copied>,
        name: &CStr,
        path: &[u8],
        fd: &OwnedFd,
        verdict: &DirVerdict,
    ) -> Result<Copied, FileOpError> {
        let stat = owner::stat_fd(fd).map_err(|e| FileOpError::io("open directory", source_text(path), e))?;
        let dest_path = parent.state.dest_path.join(to_path(name));
        Ok(Copied { stat, dest_path, own: verdict.own, made: Mutex::new(None) })
    }

    fn selected(&self, dir: &Arc<Directory<Copied>>) -> Result<(), FileOpError> {
        self.make(dir).map(drop)
    }

    fn entry(
        &self,
        dir: &Arc<Directory<Copied>>,
        (): &mut (),
        Found { kind, name, path, .. }: Found<'_>,
    ) -> Result<(), FileOpError> {
        let dest = self.make(dir)?;
        self.single((&dir.fd, name, path), kind, (&dest, name, &dir.state.dest_path))
    }

    fn done(&self, dir: &Directory<Copied>) -> Result<(), FileOpError> {
        self.finish(&dir.fd, &dir.state)
    }
}

impl<'a> Transfer<'a> {
    pub(super) fn new(view: View<'a>, settings: &'a Settings, replace: bool, dest: &'a Root) -> Self {
        Self {
            view,
            settings,
            replace,
            dest,
            entries: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            notes: Mutex::default(),
            links: Mutex::default(),
        }
    }

    /// Copies the directory `source`, which is `path` in its tree, into the existing directory `dest`.
    pub(super) fn directory(
        &self,
        source: OwnedFd,
        stat: Stat,
        path: &[u8],
        dest: OwnedFd,
        dest_path: PathBuf,
        finish: Finish,
    ) -> Result<(), FileOpError> {
        let scope = Scope { view: self.view, sockets: self.settings.reset_owner };
        let made = Mutex::new(Some((Arc::new(dest), finish)));
        walk(self, scope, source, path, Copied { stat, dest_path, own: true, made })
    }

    fn note(&self, text: String) {
        lock(&self.notes).insert(text);
    }

    /// The destination of `dir`, made now with those of its parents if need be.
    fn make(&self, dir: &Arc<Directory<Copied>>) -> Result<Arc<OwnedFd>, FileOpError> {
        let mut missing = Vec::new();
        let mut at = Arc::clone(dir);
        let mut fd = loop {
            if let Some((fd, _)) = &*lock(&at.state.made) {
                break Arc::clone(fd);
            }
            let parent = at.parent().cloned();
            missing.push(at);
            // Only the top has none, and that is always there.
            let Some(parent) = parent else { return Err(FileOpError::Invalid("no destination".into())) };
            at = parent;
        };
        for dir in missing.into_iter().rev() {
            let mut made = lock(&dir.state.made);
            if made.is_none() {
                let (new, created) = self.make_dir(&fd, &dir.name, &dir.state.dest_path)?;
                let finish = if created || dir.state.own { Finish::Everything } else { Finish::Bits };
                *made = Some((Arc::new(new), finish));
            }
            if let Some((new, _)) = &*made {
                fd = Arc::clone(new);
            }
        }
        Ok(fd)
    }

    /// Makes a directory, or takes the one that is there; tells whether it is new.
    pub(super) fn make_dir(&self, dest: &OwnedFd, name: &CStr, path: &Path) -> Result<(OwnedFd, bool), FileOpError> {
        let io = |attempt| move |e: io::Error| FileOpError::io(attempt, shown(path), e);
        let created = loop {
            match rustix::fs::mkdirat(dest, name, Mode::RWXU) {
                Ok(()) => break true,
                Err(Errno::EXIST) => {}
                Err(e) => return Err(io("create directory")(e.into())),
            }
            let there = stat(dest, name).map_err(io("look at"))?;
            match there.map(|s| FileType::from_raw_mode(s.st_mode)) {
                Some(FileType::Directory) => break false,
                None => {}
                Some(_) if self.replace => {
                    rustix::fs::unlinkat(dest, name, AtFlags::empty()).map_err(|e| io("remove")(e.into()))?;
                }
                Some(_) => return Err(FileOpError::NonDirectory { path: shown(path) }),
            }
        };
        let fd = open_subdir(dest, name).map_err(io("open directory"))?;
        self.entries.fetch_add(1, Ordering::Relaxed);
        Ok((fd, created))
    }

    /// Sets the metadata of a directory that is complete.
    fn finish(&self, source: &OwnedFd, dir: &Copied) -> Result<(), FileOpError> {
        let Some((fd, finish)) = lock(&dir.made).take() else { return Ok(()) };
        let io = |(attempt, e): (&'static str, io::Error)| FileOpError::io(attempt, shown(&dir.dest_path), e);
        match finish {
            Finish::Everything => self
                .settings
                .apply(&fd, &dir.stat, Some(source.as_fd()), &mut |name, e| self.lost(name, e))
                .map_err(io)?,
            Finish::Bits => owner::set_mode(&fd, Mode::from_raw_mode(dir.stat.st_mode & 0o7777))
                .map_err(|e| io(("chmod", e.into())))?,
            Finish::Times => {}
        }
        rustix::fs::futimens(&fd, &self.settings.times(&dir.stat)).map_err(|e| io(("set the times of", e.into())))
    }

    fn lost(&self, name: &CStr, e: Errno) {
        self.note(format!("the extended attribute {} was not kept: {e}", name.to_string_lossy()));
    }

    /// Copies what is no directory: `(directory, name, path)` to `(directory, name, directory's path)`.
    pub(super) fn single(
        &self,
        (source, source_name, source_path): (&OwnedFd, &CStr, &[u8]),
        kind: FileType,
        (dest, name, dest_dir): (&OwnedFd, &CStr, &Path),
    ) -> Result<(), FileOpError> {
        let dest_path = || shown(&dest_dir.join(to_path(name)));
        let from = |attempt| move |e: io::Error| FileOpError::io(attempt, source_text(source_path), e);
        let to = |attempt| move |e: io::Error| FileOpError::io(attempt, shown(&dest_dir.join(to_path(name))), e);
        let applied = |(attempt, e): (&'static str, io::Error)| FileOpError::io(attempt, dest_path(), e);
        match kind {
            FileType::RegularFile => {
                // NONBLOCK: should a pipe have taken the file's place, the open must not wait for a writer.
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let file = rustix::fs::openat(source, source_name, flags, Mode::empty())
                    .map_err(|e| from("open")(e.into()))?;
                let stat = owner::stat_fd(&file).map_err(from("look at"))?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                    return Err(from("copy")(io::Error::other("it changed while it was copied")));
                }
                if stat.st_nlink > 1 {
                    return self.linked(&file, &stat, source_path, (dest, name, dest_dir));
                }
                self.file(&file, &stat, source_path, (dest, name, dest_dir))?;
            }
            FileType::Symlink => {
                let target = read_link(source, source_name).map_err(from("read link"))?;
                let stat = owner::stat_at(source, source_name).map_err(from("look at"))?;
                self.place(dest, name, dest_dir, || rustix::fs::symlinkat(&target, dest, name))?;
                self.settings.apply_at(dest, name, &stat, true).map_err(applied)?;
            }
            FileType::Fifo | FileType::CharacterDevice | FileType::BlockDevice => {
                let stat = owner::stat_at(source, source_name).map_err(from("look at"))?;
                let kind = FileType::from_raw_mode(stat.st_mode);
                if kind == FileType::CharacterDevice && stat.st_rdev == 0 {
                    self.note("a character device 0:0 was left out: it would mean a deletion".into());
                    return Ok(());
                }
                if !matches!(kind, FileType::Fifo | FileType::CharacterDevice | FileType::BlockDevice) {
                    return Err(from("copy")(io::Error::other("it changed while it was copied")));
                }
                self.place(dest, name, dest_dir, || owner::make_device(dest, name, kind, stat.st_rdev))?;
                self.settings.apply_at(dest, name, &stat, false).map_err(applied)?;
            }
            // A context that is sent over a wire arrives with its sockets as empty files (SPEC A6.11).
            FileType::Socket if self.settings.reset_owner => {
                let stat = owner::stat_at(source, source_name).map_err(from("look at"))?;
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                self.place(dest, name, dest_dir, || rustix::fs::openat(dest, name, flags, Mode::RUSR | Mode::WUSR))?;
                self.settings.apply_at(dest, name, &stat, false).map_err(applied)?;
            }
            FileType::Socket => return Ok(()),
            _ => return Err(to("copy")(io::Error::other("unknown file type"))),
        }
        self.entries.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Copies an open file.
    fn file(
        &self,
        file: &OwnedFd,
        stat: &Stat,
        source_path: &[u8],
        (dest, name, dest_dir): (&OwnedFd, &CStr, &Path),
    ) -> Result<(), FileOpError> {
        let to =
            |(attempt, e): (&'static str, io::Error)| FileOpError::io(attempt, shown(&dest_dir.join(to_path(name))), e);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let new =
            self.place(dest, name, dest_dir, || rustix::fs::openat(dest, name, flags, Mode::RUSR | Mode::WUSR))?;
        let bytes = content::copy(file, &new, stat).map_err(|e| match e {
            content::CopyError::Read(e) => FileOpError::io("read", source_text(source_path), e),
            content::CopyError::Write(e) => to(("write", e)),
        })?;
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.settings.apply(&new, stat, Some(file.as_fd()), &mut |name, e| self.lost(name, e)).map_err(to)?;
        rustix::fs::futimens(&new, &self.settings.times(stat)).map_err(|e| to(("set the times of", e.into())))
    }

    /// Copies an open file that has several names: its content once, and then links to that (SPEC A6.10).
    fn linked(
        &self,
        file: &OwnedFd,
        stat: &Stat,
        source_path: &[u8],
        dest: (&OwnedFd, &CStr, &Path),
    ) -> Result<(), FileOpError> {
        let cell = Arc::clone(lock(&self.links).entry((stat.st_dev, stat.st_ino)).or_default());
        let mut result = Ok(());
        let mut mine = false;
        // Whoever comes second waits for the content, which the first one is writing and waits for nobody.
        let first = cell.get_or_init(|| {
            mine = true;
            result = self.file(file, stat, source_path, dest);
            result.is_ok().then(|| (dest.2.to_owned(), dest.1.to_owned()))
        });
        if let (false, Some((first_dir, first_name))) = (mine, first) {
            let io = |e: io::Error| FileOpError::io("link", shown(&dest.2.join(to_path(dest.1))), e);
            let from = self.dest.open_plain(first_dir).map_err(io)?;
            self.place(dest.0, dest.1, dest.2, || {
                rustix::fs::linkat(&from, first_name.as_c_str(), dest.0, dest.1, AtFlags::empty())
            })?;
        }
        self.entries.fetch_add(1, Ordering::Relaxed);
        result
    }

    /// Runs `make`, which makes `name` in `dest`, after removing what is there (SPEC A6.08).
    fn place<T>(
        &self,
        dest: &OwnedFd,
        name: &CStr,
        dest_dir: &Path,
        make: impl Fn() -> Result<T, Errno>,
    ) -> Result<T, FileOpError> {
        let path = || shown(&dest_dir.join(to_path(name)));
        loop {
            match make() {
                Ok(out) => return Ok(out),
                Err(Errno::EXIST) => {}
                Err(e) => return Err(FileOpError::io("create", path(), e.into())),
            }
            let there = stat(dest, name).map_err(|e| FileOpError::io("look at", path(), e))?;
            let Some(there) = there else { continue };
            if FileType::from_raw_mode(there.st_mode) != FileType::Directory {
                rustix::fs::unlinkat(dest, name, AtFlags::empty())
                    .map_err(|e| FileOpError::io("remove", path(), e.into()))?;
            } else if self.replace {
                remove::tree(dest, name).map_err(|e| FileOpError::io("remove", path(), e))?;
            } else {
                return Err(FileOpError::ReplaceDirectory { path: path() });
            }
        }
    }
}

pub(super) fn to_path(name: &CStr) -> &Path {
    Path::new(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(name.to_bytes()))
}
