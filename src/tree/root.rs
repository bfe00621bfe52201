//! A directory as the root of a tree: paths are resolved inside it, whatever its symlinks say.
//!
//! Every component is looked up by itself, relative to the descriptor of the directory above and without following
//! links; links and `..` are followed here, against the directories already held open. So neither an absolute link, nor
//! `..`, nor `/proc/self/fd`, nor a directory that is renamed or replaced meanwhile leads out.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::base::file;
use crate::dockerfile::pattern::clean;

/// As many links as Linux follows in one path.
const MAX_LINKS: usize = 40;

/// The root of a tree.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
}

/// What happens to the last component of a path when it is a symlink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Last {
    /// It is followed.
    Follow,
    /// It is the result.
    Keep,
}

/// Where a path leads: a name in a directory that is there, though what it names may not be.
#[derive(Debug)]
pub struct Place {
    /// The directory.
    pub dir: OwnedFd,
    /// The name in it; `.` for the root itself.
    pub name: OsString,
    /// The path from the root without links, `..` and leading `/`; empty for the root itself.
    pub path: PathBuf,
    /// What is there.
    pub stat: Option<Stat>,
    /// Components after `name`, when a directory on the way is missing.
    pub beyond: Vec<OsString>,
    /// The links followed, each as a path from the root without links.
    pub links: Vec<PathBuf>,
}

impl Place {
    /// The type of what is there.
    #[must_use]
    pub fn kind(&self) -> Option<FileType> {
        self.stat.as_ref().map(|s| FileType::from_raw_mode(s.st_mode))
    }

    /// Whether a directory is there.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        self.kind() == Some(FileType::Directory)
    }
}

/// `path` as the user should see it: absolute in its tree.
#[must_use]
pub fn shown(path: &Path) -> String {
    format!("/{}", path.display().to_string().trim_start_matches('/'))
}

/// The clean form of a path given by a user, without leading `/`: `..` does not lead above the root.
#[must_use]
pub fn relative(path: &[u8]) -> Vec<u8> {
    clean(&[b"/", path].concat()).split_off(1)
}

/// A directory inside `dir`, opened for reading without following a link.
///
/// # Errors
/// The kernel's; `ENOTDIR` for anything else than a directory.
pub fn open_subdir(dir: impl AsFd, name: impl rustix::path::Arg) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, name, flags, Mode::empty())?)
}

/// What `name` in `dir` is, `None` if there is nothing.
///
/// # Errors
/// The kernel's.
pub fn stat(dir: impl AsFd, name: impl rustix::path::Arg) -> io::Result<Option<Stat>> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// The target of the link `name` in `dir`.
///
/// # Errors
/// The kernel's.
pub fn read_link(dir: impl AsFd, name: impl rustix::path::Arg) -> io::Result<OsString> {
    Ok(OsString::from_vec(rustix::fs::readlinkat(dir, name, Vec::with_capacity(256))?.into_bytes()))
}

impl Root {
    /// Opens `path`, which is a directory of the machine.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { fd: file::open_dir(path)? })
    }

    /// The descriptor of the root directory.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Follows `path` as far as it exists.
    ///
    /// # Errors
    /// `ENOTDIR` when something on the way is no directory, `ELOOP` for too many links, or the kernel's.
    pub fn locate(&self, path: impl AsRef<[u8]>, last: Last) -> io::Result<Place> {
        let mut way = Way::new(self, path.as_ref());
        loop {
            match way.next(last)? {
                Found::Place(place) => return Ok(place),
                Found::Missing(name, beyond) => return way.place(name, None, beyond),
                Found::More => {}
            }
        }
    }

    /// Follows `path` to a directory, and makes what is missing with `make(parent, name, path)`.
    ///
    /// # Errors
    /// As [`Self::locate`], or what `make` says.
    pub fn make_dirs(
        &self,
        path: impl AsRef<[u8]>,
        mut make: impl FnMut(BorrowedFd<'_>, &OsStr, &Path) -> io::Result<()>,
    ) -> io::Result<(OwnedFd, PathBuf)> {
        // The trailing `.` makes the last component one to go through: a link to a directory is as good as one.
        let mut way = Way::new(self, path.as_ref());
        way.rest.push_back(OsString::from("."));
        loop {
            match way.next(Last::Follow)? {
                Found::Place(place) => {
                    let dir = if place.path.as_os_str().is_empty() {
                        self.fd.try_clone()?
                    } else {
                        open_subdir(&place.dir, &place.name)?
                    };
                    return Ok((dir, place.path));
                }
                Found::Missing(name, beyond) => {
                    make(way.dir(), &name, &way.path(Some(&name)))?;
                    way.rest = beyond.into();
                    way.rest.push_front(name);
                }
                Found::More => {}
            }
        }
    }

    /// Opens a directory below the root by a path that has no links.
    ///
    /// # Errors
    /// The kernel's; `ELOOP` when there is a link after all.
    pub fn open_plain(&self, path: &Path) -> io::Result<OwnedFd> {
        if path.as_os_str().is_empty() {
            return open_subdir(&self.fd, ".");
        }
        self.open_below(path, OFlags::DIRECTORY)
    }

    /// Opens a file below the root, by a path that has no links, for reading. Waits for nobody, should it be a pipe.
    ///
    /// # Errors
    /// The kernel's; `ELOOP` when there is a link after all.
    pub fn open_file(&self, path: &Path) -> io::Result<File> {
        self.open_below(path, OFlags::NONBLOCK | OFlags::NOCTTY).map(File::from)
    }

    fn open_below(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let flags = flags | OFlags::RDONLY | OFlags::CLOEXEC;
        let resolve = rustix::fs::ResolveFlags::BENEATH | rustix::fs::ResolveFlags::NO_SYMLINKS;
        loop {
            match rustix::fs::openat2(&self.fd, path, flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return Ok(other?),
            }
        }
    }

    /// The content of a regular file, links followed inside the root; `None` if there is none.
    ///
    /// # Errors
    /// The kernel's, or `InvalidData` for a file larger than `limit`.
    pub fn read(&self, path: &str, limit: u64) -> io::Result<Option<Vec<u8>>> {
        let place = match self.locate(path, Last::Follow) {
            Err(e) if e.raw_os_error() == Some(Errno::NOTDIR.raw_os_error()) => return Ok(None),
            other => other?,
        };
        if place.kind() != Some(FileType::RegularFile) {
            return Ok(None);
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(&place.dir, &place.name, flags, Mode::empty())?);
        let mut out = Vec::new();
        io::Read::read_to_end(&mut io::Read::take(file, limit + 1), &mut out)?;
        if out.len() as u64 > limit {
            let text = format!("{path} is larger than {limit} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Ok(Some(out))
    }
}

enum Found {
    Place(Place),
    Missing(OsString, Vec<OsString>),
    More,
}

/// A path half followed.
struct Way<'a> {
    root: &'a Root,
    /// The directories below the root on the way, each with its name.
    dirs: Vec<(OsString, OwnedFd)>,
    rest: VecDeque<OsString>,
    links: Vec<PathBuf>,
}

fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = OsString> {
    path.split(|b| *b == b'/').filter(|c| !c.is_empty() && *c != b".").map(|c| OsStr::from_bytes(c).to_owned())
}

impl<'a> Way<'a> {
    fn new(root: &'a Root, path: &[u8]) -> Self {
        Self { root, dirs: Vec::new(), rest: components(&relative(path)).collect(), links: Vec::new() }
    }

    fn dir(&self) -> BorrowedFd<'_> {
        self.dirs.last().map_or(self.root.fd(), |(_, fd)| fd.as_fd())
    }

    fn path(&self, name: Option<&OsStr>) -> PathBuf {
        self.dirs.iter().map(|(name, _)| name.as_os_str()).chain(name).collect()
    }

    fn place(&mut self, name: OsString, stat: Option<Stat>, beyond: Vec<OsString>) -> io::Result<Place> {
        let path = self.path((name != ".").then_some(&name));
        let dir = match self.dirs.pop() {
            Some((_, fd)) => fd,
            None => self.root.fd.try_clone()?,
        };
        Ok(Place { dir, name, path, stat, beyond, links: std::mem::take(&mut self.links) })
    }

    /// The directory the way has come to, as a place in its parent.
    fn here(&mut self) -> io::Result<Place> {
        match self.dirs.pop() {
            Some((name, fd)) => {
                let stat = rustix::fs::fstat(&fd)?;
                self.place(name, Some(stat), Vec::new())
            }
            None => {
                let stat = rustix::fs::fstat(&self.root.fd)?;
                self.place(OsString::from("."), Some(stat), Vec::new())
            }
        }
    }

    /// Takes one step.
    fn next(&mut self, last: Last) -> io::Result<Found> {
        let Some(name) = self.rest.pop_front() else { return self.here().map(Found::Place) };
        if name == "." {
            return Ok(Found::More);
        }
        if name == ".." {
            self.dirs.pop();
            return Ok(Found::More);
        }
        let is_last = self.rest.is_empty();
        let Some(stat) = stat(self.dir(), &name)? else {
            let beyond = self.rest.drain(..).filter(|c| c != ".").collect();
            return Ok(Found::Missing(name, beyond));
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink if !is_last || last == Last::Follow => {
                self.links.push(self.path(Some(&name)));
                if self.links.len() > MAX_LINKS {
                    return Err(Errno::LOOP.into());
                }
                let target = read_link(self.dir(), &name)?;
                if target.as_bytes().first() == Some(&b'/') {
                    self.dirs.clear();
                }
                for part in components(target.as_bytes()).rev() {
                    self.rest.push_front(part);
                }
                Ok(Found::More)
            }
            _ if is_last => self.place(name, Some(stat), Vec::new()).map(Found::Place),
            FileType::Directory => {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let fd = rustix::fs::openat(self.dir(), &name, flags, Mode::empty())?;
                self.dirs.push((name, fd));
                Ok(Found::More)
            }
            _ => Err(Errno::NOTDIR.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn tree() -> (tempfile::TempDir, Root) {
        let outer = tempfile::tempdir().expect("a temporary directory");
        let root = outer.path().join("root");
        std::fs::create_dir_all(root.join("a/b")).expect("directories");
        std::fs::write(outer.path().join("secret"), "outside").expect("a file");
        std::fs::write(root.join("a/b/file"), "inside").expect("a file");
        let opened = Root::open(&root).expect("the root opens");
        (outer, opened)
    }

    fn link(outer: &tempfile::TempDir, target: &str, name: &str) {
        symlink(target, outer.path().join("root").join(name)).expect("a link");
    }

    fn path_of(root: &Root, path: &str) -> String {
        let place = root.locate(path, Last::Follow).expect("it resolves");
        let mut whole = place.path;
        whole.extend(place.beyond);
        shown(&whole)
    }

    #[test]
    fn a6_10_links_are_followed_inside_the_root() {
        let (outer, root) = tree();
        link(&outer, "/a/b", "absolute");
        link(&outer, "b/../../../../../a", "a/up");
        link(&outer, "absolute/file", "twice");
        assert_eq!(path_of(&root, "absolute/file"), "/a/b/file");
        assert_eq!(path_of(&root, "a/up/b"), "/a/b");
        assert_eq!(path_of(&root, "/twice"), "/a/b/file");
        assert_eq!(path_of(&root, "../../../a/./b/"), "/a/b");
        assert_eq!(path_of(&root, "/"), "/");
        let kept = root.locate("twice", Last::Keep).expect("it resolves");
        assert_eq!((kept.kind(), kept.links.len()), (Some(FileType::Symlink), 0));
    }

    #[test]
    fn a6_08_nothing_leads_out_of_the_root() {
        let (outer, root) = tree();
        let secret = outer.path().join("secret");
        link(&outer, "../secret", "relative");
        link(&outer, secret.to_str().expect("a UTF-8 path"), "absolute");
        link(&outer, "/proc/self/fd", "fds");
        link(&outer, "/proc/self/root", "proc-root");
        for path in ["relative", "absolute", "../secret", "proc-root/etc/passwd", "fds/0"] {
            assert_eq!(root.read(path, 100).expect("no error"), None, "{path} leads out");
        }
        assert_eq!(path_of(&root, "relative"), "/secret");
        assert_eq!(root.read("/a/b/file", 100).expect("no error").as_deref(), Some(&b"inside"[..]));
    }

    #[test]
    fn endless_links_are_an_error() {
        let (outer, root) = tree();
        link(&outer, "two", "one");
        link(&outer, "one", "two");
        let err = root.locate("one", Last::Follow).expect_err("a loop");
        assert_eq!(err.raw_os_error(), Some(Errno::LOOP.raw_os_error()));
        assert_eq!(root.locate("a/b/file/x", Last::Follow).expect_err("no directory").raw_os_error(), Some(20));
    }

    #[test]
    fn a6_09_missing_directories_are_made_behind_links_too() {
        let (outer, root) = tree();
        link(&outer, "/new/place", "dangling");
        let mut made = Vec::new();
        let (_, path) = root
            .make_dirs("dangling/x/y", |dir, name, path| {
                made.push(shown(path));
                Ok(rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(0o755))?)
            })
            .expect("it can be made");
        assert_eq!(shown(&path), "/new/place/x/y");
        assert_eq!(made, ["/new", "/new/place", "/new/place/x", "/new/place/x/y"]);
        assert!(outer.path().join("root/new/place/x/y").is_dir());
        let again = root.make_dirs("dangling/x", |_, _, _| Err(io::Error::other("nothing is missing")));
        assert_eq!(shown(&again.expect("it is there").1), "/new/place/x");
    }
}
