//! The small actions: make a directory, a file, a link; remove (SPEC C1.11).

use std::io;
use std::path::Path;

use rustix::fs::{Mode, OFlags, Timespec, Timestamps};

use super::copy::make_parent;
use super::error::FileOpError;
use super::meta::{self, Settings};
use super::remove;
use super::select::{Source, c_name, text};
use crate::llb::op::{FileActionMkDir, FileActionMkFile, FileActionRm, FileActionSymlink};
use crate::tree::CopySource;
use crate::tree::root::{Last, Place, Root, relative};

fn open(root: &Path) -> Result<Root, FileOpError> {
    Root::open(root).map_err(|e| FileOpError::io("open", root.display().to_string(), e))
}

fn settings(owner: Option<(u32, u32)>, timestamp: i64) -> Settings {
    Settings {
        owner: Some(owner.unwrap_or((0, 0))),
        time: meta::time_of(timestamp),
        no_chown: !meta::can_chown(),
        ..Settings::default()
    }
}

fn times(time: Timespec) -> Timestamps {
    Timestamps { last_access: time, last_modification: time }
}

fn bits(mode: i32) -> u32 {
    u32::try_from(mode).unwrap_or(0) & 0o777
}

/// Finds where `path` leads in a directory that must be there.
fn place(root: &Root, path: &str, last: Last, attempt: &'static str) -> Result<Place, FileOpError> {
    let place = root.locate(path, last).map_err(|e| FileOpError::io(attempt, path, e))?;
    if place.beyond.is_empty() {
        return Ok(place);
    }
    Err(FileOpError::io(attempt, path, io::Error::from(io::ErrorKind::NotFound)))
}

/// Makes a directory. One that is there is left alone; so is anything else that is there, unless parents are made too.
///
/// # Errors
/// See [`FileOpError`].
pub fn mkdir(root: &Path, action: &FileActionMkDir, owner: Option<(u32, u32)>) -> Result<(), FileOpError> {
    const ATTEMPT: &str = "create directory";
    let settings = settings(owner, action.timestamp);
    let root = open(root)?;
    if !action.make_parents {
        let place = place(&root, &action.path, Last::Follow, ATTEMPT)?;
        if place.stat.is_some() {
            return Ok(());
        }
        return make_parent(std::os::fd::AsFd::as_fd(&place.dir), &place.name, bits(action.mode), &settings)
            .map_err(|e| FileOpError::io(ATTEMPT, &*action.path, e));
    }
    let mut made = Vec::new();
    root.make_dirs(&action.path, |dir, name, path| {
        made.push(path.to_owned());
        make_parent(dir, name, bits(action.mode), &settings)
    })
    .map_err(|e| FileOpError::io(ATTEMPT, &*action.path, e))?;
    if let Some(time) = settings.time {
        for path in made {
            let io = |e| FileOpError::io("set the times of", &*action.path, e);
            let fd = root.open_plain(&path).map_err(io)?;
            rustix::fs::futimens(&fd, &times(time)).map_err(|e| io(e.into()))?;
        }
    }
    Ok(())
}

/// Writes a file. One that is there is overwritten and keeps its permission bits.
///
/// # Errors
/// See [`FileOpError`].
pub fn mkfile(root: &Path, action: &FileActionMkFile, owner: Option<(u32, u32)>) -> Result<(), FileOpError> {
    let settings = settings(owner, action.timestamp);
    let root = open(root)?;
    let io = |attempt| move |e: io::Error| FileOpError::io(attempt, &*action.path, e);
    let place = place(&root, &action.path, Last::Follow, "create")?;
    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let flags = flags | if place.stat.is_some() { OFlags::TRUNC } else { OFlags::CREATE | OFlags::EXCL };
    let file = rustix::fs::openat(&place.dir, place.name.as_os_str(), flags, Mode::RUSR | Mode::WUSR)
        .map_err(|e| io("create")(e.into()))?;
    let mut file = std::fs::File::from(file);
    io::Write::write_all(&mut file, &action.data).map_err(io("write"))?;
    if let (false, Some((uid, gid))) = (settings.no_chown, settings.owner) {
        meta::chown(&file, uid, gid).map_err(io("chown"))?;
    }
    if place.stat.is_none() {
        rustix::fs::fchmod(&file, Mode::from_raw_mode(bits(action.mode))).map_err(|e| io("chmod")(e.into()))?;
    }
    if let Some(time) = settings.time {
        rustix::fs::futimens(&file, &times(time)).map_err(|e| io("set the times of")(e.into()))?;
    }
    Ok(())
}

/// Removes a path, or what a pattern matches; a path that is a link is removed itself.
///
/// # Errors
/// See [`FileOpError`].
pub fn rm(root: &Path, action: &FileActionRm) -> Result<(), FileOpError> {
    let tree = CopySource::plain(root);
    let source = Source::open(&tree)?;
    let paths = if action.allow_wildcard {
        source.expand(action.path.as_bytes(), Last::Keep)?
    } else {
        vec![relative(action.path.as_bytes())]
    };
    for path in paths {
        if path.is_empty() {
            return Err(FileOpError::Invalid("cannot remove the root of a file system".into()));
        }
        let Some(place) = source.find(&path, Last::Keep)? else {
            if action.allow_not_found {
                continue;
            }
            return Err(source.not_found(&path));
        };
        let name = c_name(&place.name)?;
        remove::tree(&place.dir, &name).map_err(|e| FileOpError::io("remove", text(&path), e))?;
    }
    Ok(())
}

/// Makes a symlink; its target is text and may not exist.
///
/// # Errors
/// See [`FileOpError`]; something at its place already is one.
pub fn symlink(root: &Path, action: &FileActionSymlink, owner: Option<(u32, u32)>) -> Result<(), FileOpError> {
    const ATTEMPT: &str = "create link";
    let settings = settings(owner, action.timestamp);
    let root = open(root)?;
    let io = |e: io::Error| FileOpError::io(ATTEMPT, &*action.newpath, e);
    let place = place(&root, &action.newpath, Last::Keep, ATTEMPT)?;
    let name = c_name(&place.name)?;
    rustix::fs::symlinkat(&*action.oldpath, &place.dir, name.as_c_str()).map_err(|e| io(e.into()))?;
    if let (false, Some((uid, gid))) = (settings.no_chown, settings.owner) {
        meta::chown_at(&place.dir, &name, uid, gid).map_err(io)?;
    }
    if let Some(time) = settings.time {
        rustix::fs::utimensat(&place.dir, name.as_c_str(), &times(time), rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| io(e.into()))?;
    }
    Ok(())
}
