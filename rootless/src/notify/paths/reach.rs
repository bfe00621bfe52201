//! Places in the step's root, also where modes keep their owner out.
//!
//! All files belong to the builder's user, who has no capabilities: what root of a step may open, list or change whatever its mode
//! is has another mode for as long as that takes. Only the supervisor works in the root, one call after the other.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::error;
use crate::notify::files::Proc;
use crate::ownership::access::Opened;

/// Flags of a descriptor that only says where something is.
pub(super) const PLACE: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);

/// Links in a path that are followed in search of what is closed; the kernel's limit for all of a path.
const LINKS: u32 = 40;

/// A path of a call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target<'a> {
    /// The calling thread.
    pub(super) tid: i32,
    /// Its descriptor that the path counts from, or `AT_FDCWD`.
    pub(super) dir: i32,
    /// The path.
    pub(super) path: &'a [u8],
}

impl Target<'_> {
    /// Opens it as the thread would if it were root.
    pub(super) fn open(&self, proc: &Proc, open: OFlags, mode: Mode, less: ResolveFlags) -> io::Result<OwnedFd> {
        let mut opened = Opened::default();
        loop {
            match proc.lookup_with(self.tid, self.dir, self.path, open, mode, less) {
                Err(e) if e.raw_os_error() == Some(libc::EACCES) => {
                    if !self.open_next(proc, &mut opened, open)? {
                        return Err(e);
                    }
                }
                other => return other,
            }
        }
    }

    /// Finds it, without opening it.
    pub(super) fn place(&self, proc: &Proc, follow: bool) -> io::Result<OwnedFd> {
        let flags = if follow { PLACE } else { PLACE | OFlags::NOFOLLOW };
        self.open(proc, flags, Mode::empty(), ResolveFlags::empty())
    }

    /// The directory it is in, and its name there; `nameless` is the error for a path that ends in none.
    pub(super) fn parent(&self, proc: &Proc, nameless: i32) -> io::Result<(OwnedFd, OsString)> {
        let path = std::path::Path::new(OsStr::from_bytes(self.path));
        if self.path.is_empty() {
            return Err(error(libc::ENOENT));
        }
        let name = path.file_name().ok_or_else(|| error(nameless))?.to_owned();
        let above = match path.parent() {
            Some(above) if !above.as_os_str().is_empty() => above.as_os_str().as_bytes(),
            _ => b".",
        };
        let above = Target { path: above, ..*self };
        Ok((above.open(proc, PLACE | OFlags::DIRECTORY, Mode::empty(), ResolveFlags::empty())?, name))
    }

    /// Opens the next thing that was in the way; false if nothing is.
    fn open_next(&self, proc: &Proc, opened: &mut Opened, open: OFlags) -> io::Result<bool> {
        let flags = PLACE | open & OFlags::NOFOLLOW;
        match proc.lookup(self.tid, self.dir, self.path, flags, Mode::empty()) {
            Ok(found) => opened.open(&found),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {
                let (parent, _) = self.parent(proc, libc::ENOENT)?;
                opened.open(&parent)
            }
            Err(e) if e.raw_os_error() == Some(libc::EACCES) => self.open_way(proc, opened, LINKS),
            Err(e) => Err(e),
        }
    }

    /// Opens the first directory on the way that cannot be entered.
    fn open_way(&self, proc: &Proc, opened: &mut Opened, links: u32) -> io::Result<bool> {
        let absolute = self.path.starts_with(b"/");
        let mut prefix: Vec<u8> = if absolute { b"/".to_vec() } else { b".".to_vec() };
        for part in self.path.split(|b| *b == b'/').filter(|part| !part.is_empty()) {
            let before = prefix.clone();
            prefix.push(b'/');
            prefix.extend(part);
            match proc.lookup(self.tid, self.dir, &prefix, PLACE, Mode::empty()) {
                Ok(_) => {}
                Err(e) if e.raw_os_error() == Some(libc::EACCES) => {
                    let dir = proc.lookup(self.tid, self.dir, &before, PLACE | OFlags::DIRECTORY, Mode::empty())?;
                    if opened.open(&dir)? {
                        return Ok(true);
                    }
                    // Not the directory but what a link in it leads through.
                    let link = proc.lookup(self.tid, self.dir, &prefix, PLACE | OFlags::NOFOLLOW, Mode::empty())?;
                    let text = rustix::fs::readlinkat(&link, "", Vec::new())?.into_bytes();
                    let text = if text.starts_with(b"/") { text } else { [&before, b"/" as &[u8], &text].concat() };
                    let Some(links) = links.checked_sub(1) else { return Err(error(libc::ELOOP)) };
                    return Target { path: &text, ..*self }.open_way(proc, opened, links);
                }
                Err(e) => return Err(e),
            }
        }
        Ok(false)
    }
}
