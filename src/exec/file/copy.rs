//! The copy action (SPEC A6.06–A6.14, C1.10): where things go; [`super::transfer`] brings them there.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use rustix::fs::{Mode, Timestamps};

use super::error::FileOpError;
use super::meta::{self, Settings};
use super::mode::ModeChange;
use super::select::{Source, c_name, selection, text};
use super::transfer::{Finish, Transfer};
use super::unpack;
use crate::base::owner;
use crate::llb::op::FileActionCopy;
use crate::tree::CopySource;
use crate::tree::root::{Last, Place, Root, open_subdir, relative, shown};
use crate::tree::view::View;

/// What a copy did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CopyStats {
    /// Entries made: files, directories, links, devices.
    pub entries: u64,
    /// Bytes of content.
    pub bytes: u64,
    /// What could not be kept and is no error, each once.
    pub notes: Vec<String>,
}

/// Copies as the action says (SPEC A6.06–A6.14, C1.10).
///
/// # Errors
/// See [`FileOpError`].
pub fn copy(
    source: &CopySource,
    dest_root: &Path,
    action: &FileActionCopy,
    owner: Option<(u32, u32)>,
) -> Result<CopyStats, FileOpError> {
    let no_chown = !meta::can_chown();
    let settings = Settings {
        owner,
        reset_owner: source.reset_owner,
        mode: ModeChange::new(&action.mode_str, action.mode)?,
        time: meta::time_of(action.timestamp),
        no_chown,
    };
    let work = Work {
        source: Source::open(source)?,
        dest: Root::open(dest_root).map_err(|e| FileOpError::io("open", dest_root.display().to_string(), e))?,
        dest_root,
        action,
        settings: &settings,
        last: if action.follow_symlink { Last::Follow } else { Last::Keep },
    };
    let mut stats = work.run()?;
    if no_chown {
        stats.notes.push("owners were not set: rbuild is not uid 0 here".into());
    }
    Ok(stats)
}

/// One copy action.
struct Work<'a> {
    source: Source<'a>,
    dest: Root,
    dest_root: &'a Path,
    action: &'a FileActionCopy,
    settings: &'a Settings,
    last: Last,
}

impl Work<'_> {
    fn run(&self) -> Result<CopyStats, FileOpError> {
        let src = self.action.src.as_bytes();
        if !self.action.create_dest_path {
            let whole = relative(self.action.dest.as_bytes());
            let place = self.locate_dest(&whole)?;
            if !place.beyond.is_empty() {
                let error = io::Error::from(io::ErrorKind::NotFound);
                return Err(FileOpError::io("look at", self.action.dest.clone(), error));
            }
        }
        let found = if self.action.allow_wildcard { self.source.expand(src, self.last)? } else { vec![relative(src)] };
        if found.is_empty() && !self.action.allow_empty_wildcard {
            return Err(self.source.not_found(src));
        }
        let selection = selection(&self.action.include_patterns, &self.action.exclude_patterns)?;
        let view = View { filter: self.source.filter(), selection: selection.as_ref() };
        let mut stats = CopyStats::default();
        let mut at_dest = Vec::new();
        for path in found {
            let transfer =
                Transfer::new(view, self.settings, self.action.always_replace_existing_dest_paths, &self.dest);
            if self.one(&transfer, &path)? {
                at_dest.push(path);
            }
            stats.entries += transfer.entries.load(Ordering::Relaxed);
            stats.bytes += transfer.bytes.load(Ordering::Relaxed);
            let notes = transfer.notes.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
            stats.notes.extend(notes.into_iter().filter(|n| !stats.notes.contains(n)).collect::<Vec<_>>());
        }
        if let [_, .., last] = &at_dest[..] {
            stats.notes.push(format!(
                "{} matches several files and {} is no directory: each replaces the one before, {} is what stays",
                self.action.src,
                self.action.dest,
                text(last)
            ));
        }
        Ok(stats)
    }

    /// Copies one of the paths that the source argument means; tells whether it is a file that is now at the destination
    /// itself, and not in it.
    fn one(&self, transfer: &Transfer<'_>, path: &[u8]) -> Result<bool, FileOpError> {
        let Some(source) = self.source.find(path, self.last)? else { return Err(self.source.not_found(path)) };
        let mut parents = Parents { work: self, made: Vec::new() };
        if self.action.attempt_unpack_docker_compatibility
            && let Some(notes) = self.unpack(path, &mut parents)?
        {
            transfer.notes.lock().unwrap_or_else(std::sync::PoisonError::into_inner).extend(notes);
            return parents.finish().map(|()| false);
        }
        if source.is_dir() {
            self.source.require(
                source.path.as_os_str().as_bytes(),
                self.action.src.as_bytes(),
                &self.action.required_paths,
                transfer.view.selection,
            )?;
        }
        self.prepare(&mut parents)?;
        let dest = self.locate_dest(&relative(self.action.dest.as_bytes()))?;
        let mut target = dest.path.clone();
        target.extend(&dest.beyond);
        let base = path.rsplit(|b| *b == b'/').next().unwrap_or_default();
        let merges = source.is_dir() && self.action.dir_copy_contents;
        if dest.stat.is_some() && (source.is_dir() && !merges || !source.is_dir() && dest.is_dir()) {
            target.push(OsStr::from_bytes(base));
        }
        let at_dest = !source.is_dir() && !dest.is_dir();
        if source.is_dir() {
            self.directory(transfer, source, target, merges && dest.stat.is_none(), &mut parents)?;
        } else {
            self.file(transfer, &source, &target, &mut parents)?;
        }
        parents.finish().map(|()| at_dest)
    }

    fn directory(
        &self,
        transfer: &Transfer<'_>,
        source: Place,
        target: PathBuf,
        fresh: bool,
        parents: &mut Parents<'_>,
    ) -> Result<(), FileOpError> {
        let path = source.path.as_os_str().as_bytes().to_vec();
        let io = |attempt, e| FileOpError::io(attempt, text(&path), e);
        let fd = open_subdir(&source.dir, source.name.as_os_str()).map_err(|e| io("open directory", e))?;
        let mut stat = owner::stat_fd(&fd).map_err(|e| io("look at", e))?;
        if path.is_empty() && self.source.tree.reset_owner {
            // The directory a context happens to be in is no part of it.
            stat.st_mode = stat.st_mode & !0o7777 | 0o755;
        }
        // The contents of a directory are copied, not the directory itself: one made for them is like any parent.
        if fresh {
            let (dest, path_) = parents.make(target.as_os_str().as_bytes())?;
            return transfer.directory(fd, stat, &path, dest, path_, Finish::Times);
        }
        let (parent, name) = self.split(&target, parents)?;
        let Some(name) = name else {
            return transfer.directory(fd, stat, &path, parent, target, Finish::Times);
        };
        let (dest, created) = transfer.make_dir(&parent, &name, &target)?;
        let finish = if created { Finish::Everything } else { Finish::Times };
        transfer.directory(fd, stat, &path, dest, target, finish)
    }

    fn file(
        &self,
        transfer: &Transfer<'_>,
        source: &Place,
        target: &Path,
        parents: &mut Parents<'_>,
    ) -> Result<(), FileOpError> {
        let (parent, name) = self.split(target, parents)?;
        let Some(name) = name else { return Err(FileOpError::ReplaceDirectory { path: "/".into() }) };
        let Some(kind) = source.kind() else { return Err(self.source.not_found(source.path.as_os_str().as_bytes())) };
        let source_name = c_name(&source.name)?;
        let dir = target.parent().unwrap_or(Path::new(""));
        transfer.single((&source.dir, &source_name, source.path.as_os_str().as_bytes()), kind, (&parent, &name, dir))
    }

    /// The directory of `target`, made if it is missing, and the name in it; no name for the root.
    fn split(&self, target: &Path, parents: &mut Parents<'_>) -> Result<(OwnedFd, Option<CString>), FileOpError> {
        let parent = target.parent().unwrap_or(Path::new(""));
        let (fd, _) = parents.make(parent.as_os_str().as_bytes())?;
        Ok((fd, target.file_name().map(c_name).transpose()?))
    }

    /// Makes the directories that the text of the destination asks for: all of them before a trailing `/` or `/.`.
    fn prepare(&self, parents: &mut Parents<'_>) -> Result<(), FileOpError> {
        let dest = self.action.dest.as_bytes();
        let split = dest.iter().rposition(|b| *b == b'/').map_or(0, |i| i + 1);
        let ensure = if matches!(&dest[split..], b"" | b".") { dest } else { &dest[..split] };
        if !ensure.is_empty() {
            parents.make(ensure)?;
        }
        Ok(())
    }

    fn locate_dest(&self, path: &[u8]) -> Result<Place, FileOpError> {
        self.dest.locate(path, Last::Follow).map_err(|e| FileOpError::io("look at", text(path), e))
    }

    /// Unpacks the source if it is an archive (SPEC A6.17).
    fn unpack(&self, path: &[u8], parents: &mut Parents<'_>) -> Result<Option<Vec<String>>, FileOpError> {
        let Some(source) = self.source.find(path, Last::Follow)? else { return Ok(None) };
        let Some(archive) = unpack::detect(&source, path)? else { return Ok(None) };
        let (_, dest) = parents.make(self.action.dest.as_bytes())?;
        archive.extract(self.dest_root, &dest, self.settings.owner).map(Some)
    }
}

/// Directories made on the way to a destination.
struct Parents<'a> {
    work: &'a Work<'a>,
    made: Vec<PathBuf>,
}

impl Parents<'_> {
    /// Makes `path` and its parents: 0755 or the octal mode of the copy, owned as the copy is (SPEC A6.09).
    fn make(&mut self, path: &[u8]) -> Result<(OwnedFd, PathBuf), FileOpError> {
        let settings = self.work.settings;
        let made = &mut self.made;
        self.work
            .dest
            .make_dirs(path, |dir, name, path| {
                make_parent(dir, name, settings.mode.octal().unwrap_or(0o755), settings)?;
                made.push(path.to_owned());
                Ok(())
            })
            .map_err(|e| FileOpError::io("create directory", text(path), e))
    }

    /// Gives what was made the time of the copy again: what was put in has changed it.
    fn finish(&self) -> Result<(), FileOpError> {
        let Some(time) = self.work.settings.time else { return Ok(()) };
        let times = Timestamps { last_access: time, last_modification: time };
        for path in &self.made {
            let io = |e| FileOpError::io("set the times of", shown(path), e);
            let fd = self.work.dest.open_plain(path).map_err(io)?;
            rustix::fs::futimens(&fd, &times).map_err(|e| io(e.into()))?;
        }
        Ok(())
    }
}

/// Makes one directory with the metadata that made parents get.
pub(super) fn make_parent(dir: BorrowedFd<'_>, name: &OsStr, mode: u32, settings: &Settings) -> io::Result<()> {
    rustix::fs::mkdirat(dir, name, Mode::RWXU)?;
    let fd = open_subdir(dir, name)?;
    if !settings.no_chown {
        let (uid, gid) = settings.owner.unwrap_or((0, 0));
        meta::chown(&fd, uid, gid)?;
    }
    owner::set_mode(&fd, Mode::from_raw_mode(mode))?;
    if let Some(time) = settings.time {
        rustix::fs::futimens(fd.as_fd(), &Timestamps { last_access: time, last_modification: time })?;
    }
    Ok(())
}
