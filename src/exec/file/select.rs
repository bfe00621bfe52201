//! From the source argument of a copy to the paths it means (SPEC A6.06, A6.07, A6.10, A6.14).

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::FileType;
use rustix::io::Errno;

use super::error::FileOpError;
use crate::base::wording::closest;
use crate::dockerfile::matcher::PatternError;
use crate::dockerfile::pattern::{Glob, has_wildcards, unescape};
use crate::tree::root::{Last, Place, Root, open_subdir, relative};
use crate::tree::view::{Listing, shows};
use crate::tree::{CopySource, PathFilter};

/// A directory with more names is not searched for one that was meant.
const MOST_NAMES: usize = 10_000;

/// A tree opened to be read.
pub(super) struct Source<'a> {
    pub(super) root: Root,
    pub(super) tree: &'a CopySource,
}

impl From<PatternError> for FileOpError {
    fn from(e: PatternError) -> Self {
        Self::Pattern { pattern: e.pattern }
    }
}

/// A path as messages show it.
pub(super) fn text(path: &[u8]) -> String {
    format!("/{}", String::from_utf8_lossy(path).trim_start_matches('/'))
}

/// A file name for a system call.
pub(super) fn c_name(name: &std::ffi::OsStr) -> Result<CString, FileOpError> {
    CString::new(name.as_bytes()).map_err(|_| FileOpError::Invalid(format!("{} contains a zero byte", name.display())))
}

impl<'a> Source<'a> {
    pub(super) fn open(tree: &'a CopySource) -> Result<Self, FileOpError> {
        let root = Root::open(&tree.root).map_err(|e| FileOpError::io("open", tree.root.display().to_string(), e))?;
        Ok(Self { root, tree })
    }

    pub(super) fn filter(&self) -> Option<&'a PathFilter> {
        self.tree.filter.as_deref().filter(|f| !f.is_empty())
    }

    /// Whether a place that was found is shown by the tree, and so are the links that led there.
    fn visible(&self, place: &Place) -> Result<bool, FileOpError> {
        let Some(filter) = self.filter() else { return Ok(true) };
        let io = |e| FileOpError::io("read directory", text(place.path.as_os_str().as_bytes()), e);
        let Some(kind) = place.kind() else { return Ok(false) };
        let name = c_name(&place.name)?;
        for link in &place.links {
            if !shows(filter, link.as_os_str().as_bytes(), &place.dir, &name, FileType::Symlink).map_err(io)? {
                return Ok(false);
            }
        }
        shows(filter, place.path.as_os_str().as_bytes(), &place.dir, &name, kind).map_err(io)
    }

    /// Finds what `path` means; `None` if nothing is there, or nothing that is shown.
    pub(super) fn find(&self, path: &[u8], last: Last) -> Result<Option<Place>, FileOpError> {
        let place = match self.root.locate(path, last) {
            Ok(place) => place,
            Err(e) if e.raw_os_error() == Some(Errno::NOTDIR.raw_os_error()) => return Ok(None),
            Err(e) => return Err(FileOpError::io("look at", text(path), e)),
        };
        Ok(if place.stat.is_some() && self.visible(&place)? { Some(place) } else { None })
    }

    /// The error for a literal `path` that [`Self::find`] did not find: absent, or hidden by an ignore pattern (A6.07).
    pub(super) fn not_found(&self, path: &[u8]) -> FileOpError {
        let excluded_by = self.filter().and_then(|filter| {
            let place = self.root.locate(path, Last::Follow).ok().filter(|p| p.stat.is_some())?;
            let on_the_way = place.links.iter().chain([&place.path]);
            on_the_way.filter_map(|p| filter.excluded_by(p.as_os_str().as_bytes())).next()
        });
        let near = if excluded_by.is_some() { None } else { self.near(path) };
        FileOpError::NotFound { path: text(&relative(path)), excluded_by, near }
    }

    /// What is there and called nearly like `path`: whole paths are in another case where they were typed on a system that does
    /// not mind.
    fn near(&self, path: &[u8]) -> Option<String> {
        let mut path = relative(path);
        // One name is set right at a time; behind a link that leads nowhere none can be.
        for _ in path.clone().split(|byte| *byte == b'/') {
            path = self.nearer(&path)?;
            if self.root.locate(&path, Last::Follow).ok()?.stat.is_some() {
                return Some(String::from_utf8_lossy(&path).into_owned());
            }
        }
        None
    }

    /// `path` with its first name that is missing replaced by one that is there.
    fn nearer(&self, path: &[u8]) -> Option<Vec<u8>> {
        let place = self.root.locate(path, Last::Follow).ok().filter(|place| place.stat.is_none())?;
        let wanted = place.name.to_str()?;
        // The directory is open for its place alone, not for reading.
        let dir = open_subdir(&place.dir, ".").ok()?;
        let listing = Listing::read(&dir).ok().filter(|listing| listing.len() <= MOST_NAMES)?;
        let names: Vec<&str> = listing.iter().filter_map(|(name, _)| name.to_str().ok()).collect();
        let same = names.iter().copied().find(|name| name.to_lowercase() == wanted.to_lowercase());
        let mut whole = place.path.with_file_name(same.or_else(|| closest(wanted, names.iter().copied()))?);
        whole.extend(&place.beyond);
        let whole = relative(whole.as_os_str().as_bytes());
        // What nobody asked for is not shown here either; what an ignore file hides would not help.
        let hidden = self.filter().is_some_and(|filter| filter.excluded_by(&whole).is_some());
        (!hidden).then_some(whole)
    }

    /// The paths that the pattern `src` means, sorted; a path without wildcards means itself.
    pub(super) fn expand(&self, src: &[u8], last: Last) -> Result<Vec<Vec<u8>>, FileOpError> {
        let clean = relative(src);
        let parts: Vec<&[u8]> = clean.split(|b| *b == b'/').collect();
        let Some(first) = parts.iter().position(|p| has_wildcards(p)) else {
            // A backslash may escape a wildcard, or simply be part of a name.
            let plain = unescape(&clean);
            if plain != clean && self.find(&clean, last)?.is_none() && self.find(&plain, last)?.is_some() {
                return Ok(vec![plain]);
            }
            return Ok(vec![clean]);
        };
        let bad = |_| FileOpError::Pattern { pattern: String::from_utf8_lossy(src).into_owned() };
        let globs: Vec<Glob> = parts[first..].iter().map(|p| Glob::new(p)).collect::<Result<_, _>>().map_err(bad)?;
        let Some(place) = self.find(&parts[..first].join(&b'/'), last)?.filter(Place::is_dir) else {
            return Ok(Vec::new());
        };
        let prefix = place.path.as_os_str().as_bytes().to_vec();
        let io = |e: io::Error| FileOpError::io("read directory", text(&prefix), e);
        let start = open_subdir(&place.dir, place.name.as_os_str()).map_err(io)?;
        let mut found = Vec::new();
        self.matching(&start, &prefix, &globs, &mut found).map_err(io)?;
        Ok(found)
    }

    /// Adds what the patterns, one for each component, match below `dir`. Links to directories are not gone through.
    fn matching(&self, dir: &OwnedFd, path: &[u8], globs: &[Glob], found: &mut Vec<Vec<u8>>) -> io::Result<()> {
        let Some((glob, deeper)) = globs.split_first() else { return Ok(()) };
        for (name, kind) in Listing::read(dir)?.iter().filter(|(name, _)| glob.matches(name.to_bytes())) {
            let mut path = path.to_vec();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name.to_bytes());
            if !deeper.is_empty() {
                if kind == FileType::Directory {
                    self.matching(&open_subdir(dir, name)?, &path, deeper, found)?;
                }
            } else if (kind != FileType::Socket || self.tree.reset_owner)
                && match self.filter() {
                    Some(filter) => shows(filter, &path, dir, name, kind)?,
                    None => true,
                }
            {
                found.push(path);
            }
        }
        Ok(())
    }

    /// Checks that each of `required` exists, below the directory `dir` that `src` means by itself and not through links
    /// (A6.14). They are paths from the root, as `src` is.
    pub(super) fn require(
        &self,
        dir: &[u8],
        src: &[u8],
        required: &[String],
        selection: Option<&PathFilter>,
    ) -> Result<(), FileOpError> {
        let src = relative(src);
        for path in required {
            let below = relative(path.as_bytes());
            let below = below.strip_prefix(&src[..]).map_or(&below[..], |rest| rest.strip_prefix(b"/").unwrap_or(rest));
            let whole = relative(&[dir, b"/", below].concat());
            let found = self.find(&whole, Last::Keep)?;
            let plain = found.is_some_and(|p| p.path.as_os_str().as_bytes() == whole);
            if !plain || selection.is_some_and(|s| s.excluded_by(below).is_some()) {
                return Err(match self.not_found(&whole) {
                    FileOpError::NotFound { excluded_by, .. } => {
                        FileOpError::NotFound { path: text(&relative(path.as_bytes())), excluded_by, near: None }
                    }
                    other => other,
                });
            }
        }
        Ok(())
    }
}

/// The filter of a copy's own patterns; `None` when they choose everything.
pub(super) fn selection(include: &[String], exclude: &[String]) -> Result<Option<PathFilter>, FileOpError> {
    let filter = PathFilter::new(include, exclude, &[])?;
    Ok(if filter.is_empty() { None } else { Some(filter) })
}
