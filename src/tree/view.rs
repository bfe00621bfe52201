//! Walking a tree as a build sees it: what the context shows, and of that what a selection takes.

use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, RawDir};

use super::filter::{Inherited, PathFilter, Verdict};
use super::root::open_subdir;
use crate::base::owner;

/// The names in a directory, sorted.
#[derive(Default)]
pub struct Listing {
    /// All names, each with its terminating zero.
    names: Vec<u8>,
    entries: Vec<Named>,
}

/// Where the name of an entry begins, how long it is without the zero, and what it is.
type Named = (u32, u16, FileType);

impl Listing {
    /// Reads a directory.
    ///
    /// # Errors
    /// The kernel's.
    pub fn read(dir: impl AsFd) -> io::Result<Self> {
        let mut out = Self::default();
        let mut buffer = [MaybeUninit::<u8>::uninit(); 16 * 1024];
        let mut raw = RawDir::new(dir.as_fd(), &mut buffer);
        while let Some(entry) = raw.next() {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let kind = match entry.file_type() {
                // Some file systems do not tell.
                FileType::Unknown => match rustix::fs::statat(dir.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                    Err(rustix::io::Errno::NOENT) => continue,
                    Err(e) => return Err(e.into()),
                },
                kind => kind,
            };
            let kind = match kind {
                FileType::Socket => match owner::stat_at(dir.as_fd(), name) {
                    // It may stand for a device.
                    Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                    Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                    Err(e) => return Err(e),
                },
                kind => kind,
            };
            let start = u32::try_from(out.names.len()).map_err(|_| io::Error::other("directory too large"))?;
            let length = u16::try_from(name.count_bytes()).map_err(|_| io::Error::other("name too long"))?;
            out.names.extend_from_slice(name.to_bytes_with_nul());
            out.entries.push((start, length, kind));
        }
        let Self { names, entries } = &mut out;
        let name = |entry: &Named| &names[entry.0 as usize..][..usize::from(entry.1)];
        entries.sort_unstable_by(|a, b| name(a).cmp(name(b)));
        Ok(out)
    }

    /// How many names.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The `i`-th name and what it is.
    #[must_use]
    pub fn get(&self, i: usize) -> (&CStr, FileType) {
        let (start, length, kind) = self.entries[i];
        let name = &self.names[start as usize..][..=usize::from(length)];
        (CStr::from_bytes_with_nul(name).unwrap_or_default(), kind)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&CStr, FileType)> {
        (0..self.len()).map(|i| self.get(i))
    }
}

/// A way to look at a tree from one of its directories.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// What the tree shows, by paths from its root.
    pub filter: Option<&'a PathFilter>,
    /// What is taken of that, by paths from the directory.
    pub selection: Option<&'a PathFilter>,
}

/// What the contents of a directory inherit.
#[derive(Clone, Debug, Default)]
pub struct Context {
    filter: Option<Inherited>,
    selection: Option<Inherited>,
}

/// What a view says of a directory.
#[derive(Clone, Debug)]
pub struct DirVerdict {
    /// It is taken whatever it contains; if not, then only together with something in it that is.
    pub itself: bool,
    /// When it is taken, it is for its own sake, and not only as the parent of something.
    pub own: bool,
    /// Its contents must be looked at.
    pub descend: bool,
    /// For its contents.
    pub context: Context,
}

impl View<'_> {
    /// The context of the directory `path` of the tree, from which the selection counts.
    #[must_use]
    pub fn start(&self, path: &[u8]) -> Context {
        Context { filter: self.filter.and_then(|f| inherited(f, path)), selection: None }
    }

    /// Judges the directory `name` of `parent`: `path` is its path from the root of the tree, the last `path.len() - from`
    /// bytes of it that from the start of the selection.
    ///
    /// # Errors
    /// The kernel's, when only the contents can tell whether the directory is shown.
    pub fn dir(
        &self,
        path: &[u8],
        from: usize,
        context: &Context,
        parent: impl AsFd,
        name: &CStr,
    ) -> io::Result<DirVerdict> {
        let shown = self.filter.map(|f| f.enter(path, context.filter.as_ref()));
        let taken = self.selection.map(|s| s.enter(&path[from..], context.selection.as_ref()));
        let (shows_itself, shows_below) = shown.as_ref().map_or((true, true), |v| (v.itself, v.below));
        let (takes_itself, takes_below) = taken.as_ref().map_or((true, true), |v| (v.itself, v.below));
        // A hidden directory is shown after all when an exception shows something in it. Without a selection that
        // something is taken too, so the question answers itself.
        let itself = takes_itself
            && match (self.filter, &shown) {
                (Some(f), Some(v)) if !shows_itself && shows_below && taken.is_some() => {
                    shows_something(f, path, &v.inherited, parent, name)?
                }
                _ => shows_itself,
            };
        Ok(DirVerdict {
            itself,
            own: takes_itself,
            descend: (shows_itself || shows_below) && (takes_itself || takes_below),
            context: Context { filter: shown.map(|v| v.inherited), selection: taken.map(|v| v.inherited) },
        })
    }

    /// Whether something that is no directory is taken; paths as for [`Self::dir`].
    #[must_use]
    pub fn takes(&self, path: &[u8], from: usize, context: &Context) -> bool {
        self.filter.is_none_or(|f| f.takes(path, context.filter.as_ref()))
            && self.selection.is_none_or(|s| s.takes(&path[from..], context.selection.as_ref()))
    }
}

/// What the contents of the directory `path` inherit from `filter`; `None` for the root.
fn inherited(filter: &PathFilter, path: &[u8]) -> Option<Inherited> {
    let ends = path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(i, _)| i).chain([path.len()]);
    ends.filter(|end| *end > 0).fold(None, |parent, end| Some(filter.enter(&path[..end], parent.as_ref()).inherited))
}

/// Whether `filter` shows what is at `path`: `name` in `dir`, of type `kind`.
///
/// # Errors
/// The kernel's.
pub fn shows(filter: &PathFilter, path: &[u8], dir: impl AsFd, name: &CStr, kind: FileType) -> io::Result<bool> {
    if path.is_empty() {
        return Ok(true);
    }
    let parent = path.iter().rposition(|b| *b == b'/').and_then(|end| inherited(filter, &path[..end]));
    if kind != FileType::Directory {
        return Ok(filter.takes(path, parent.as_ref()));
    }
    let verdict = filter.enter(path, parent.as_ref());
    Ok(verdict.itself || verdict.below && shows_something(filter, path, &verdict.inherited, dir, name)?)
}

/// Whether `filter` shows anything inside the directory at `path`.
fn shows_something(
    filter: &PathFilter,
    path: &[u8],
    inherited: &Inherited,
    dir: impl AsFd,
    name: &CStr,
) -> io::Result<bool> {
    /// A directory still to look at; opened only then, so that few descriptors are open at once.
    struct Todo {
        parent: Rc<OwnedFd>,
        name: CString,
        path: Vec<u8>,
        inherited: Inherited,
    }
    let first = Rc::new(open_subdir(dir, name)?);
    let inherited = inherited.clone();
    let mut todo = vec![Todo { parent: first, name: c".".to_owned(), path: path.to_vec(), inherited }];
    while let Some(Todo { parent, name, mut path, inherited }) = todo.pop() {
        let fd = Rc::new(open_subdir(&parent, name.as_c_str())?);
        let len = path.len();
        for (name, kind) in Listing::read(&fd)?.iter() {
            path.truncate(len);
            path.push(b'/');
            path.extend_from_slice(name.to_bytes());
            if kind != FileType::Directory {
                if filter.takes(&path, Some(&inherited)) {
                    return Ok(true);
                }
                continue;
            }
            let Verdict { itself, below, inherited } = filter.enter(&path, Some(&inherited));
            if itself {
                return Ok(true);
            }
            if below {
                todo.push(Todo { parent: Rc::clone(&fd), name: name.to_owned(), path: path.clone(), inherited });
            }
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;
    use crate::tree::root::Root;

    #[test]
    fn a9_03_a_hidden_directory_is_shown_for_what_is_shown_in_it() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::fs::create_dir_all(dir.path().join("docs/deep/er")).expect("directories");
        std::fs::write(dir.path().join("docs/deep/er/keep"), "").expect("a file");
        std::fs::create_dir_all(dir.path().join("empty/x")).expect("directories");
        let patterns: Vec<String> = ["*", "!**/keep"].map(str::to_owned).to_vec();
        let filter = PathFilter::new(&[], &patterns, &[]).expect("valid patterns");
        let root = Root::open(dir.path()).expect("the root opens");
        let shown =
            |name: &CStr| shows(&filter, name.to_bytes(), root.fd(), name, FileType::Directory).expect("no error");
        assert!(shown(c"docs"));
        assert!(!shown(c"empty"));
    }

    #[test]
    fn listings_are_sorted_bytes() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        for name in [&b"b"[..], b"a\xff", b"a", b"B"] {
            std::fs::write(dir.path().join(std::ffi::OsStr::from_bytes(name)), "").expect("a file");
        }
        let root = Root::open(dir.path()).expect("the root opens");
        let listing = Listing::read(root.open_plain("".as_ref()).expect("it opens")).expect("it lists");
        let names: Vec<&[u8]> = listing.iter().map(|(n, _)| n.to_bytes()).collect();
        assert_eq!(names, [&b"B"[..], b"a", b"a\xff", b"b"]);
    }
}
