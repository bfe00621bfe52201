//! Walking a source tree by several threads: a task for each directory and for each handful of its entries, never nested on the
//! stack. What is selected of a tree is decided here alone; what is done with it is a [`Visitor`]'s. Nothing depends on which
//! task runs first.

use std::ffi::{CStr, CString};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::FileType;

use super::error::FileOpError;
use super::select::text;
use crate::tree::root::open_subdir;
use crate::tree::view::{Context, DirVerdict, Listing, View};

/// Entries of a directory that one task looks at.
const BATCH: usize = 128;

/// What is selected of a tree.
#[derive(Clone, Copy)]
pub(super) struct Scope<'a> {
    pub(super) view: View<'a>,
    /// Sockets count: those of a context do.
    pub(super) sockets: bool,
}

/// What is done with the parts of a tree that are selected.
pub(super) trait Visitor: Sync {
    /// What is kept of a directory while it is walked.
    type Dir: Send + Sync;
    /// What a handful of entries of one directory gives.
    type Batch: Default;
    /// What ends the walk.
    type Error: From<FileOpError> + Send;

    /// Whether nothing more needs to be looked at.
    fn enough(&self) -> bool {
        false
    }

    /// Looks at the directory `fd`, which is `name` in `parent` and `path` in the tree, before what is in it.
    fn open(
        &self,
        parent: &Directory<Self::Dir>,
        name: &CStr,
        path: &[u8],
        fd: &OwnedFd,
        verdict: &DirVerdict,
    ) -> Result<Self::Dir, Self::Error>;

    /// A directory is selected, whatever is in it.
    fn selected(&self, _: &Arc<Directory<Self::Dir>>) -> Result<(), Self::Error> {
        Ok(())
    }

    /// The names of what is in a directory were read.
    fn listed(&self, _: &Directory<Self::Dir>, _: &Arc<Listing>) {}

    /// Something in `dir` is selected that is no directory.
    fn entry(
        &self,
        dir: &Arc<Directory<Self::Dir>>,
        batch: &mut Self::Batch,
        found: Found<'_>,
    ) -> Result<(), Self::Error>;

    /// A handful of entries was looked at.
    fn batch(&self, _: &Arc<Directory<Self::Dir>>, _: Self::Batch) -> Result<(), Self::Error> {
        Ok(())
    }

    /// Everything in a directory was looked at.
    fn done(&self, _: &Directory<Self::Dir>) -> Result<(), Self::Error> {
        Ok(())
    }
}

/// An entry of a directory.
pub(super) struct Found<'a> {
    /// Its number in the listing.
    pub(super) slot: usize,
    /// What it was when the directory was read.
    pub(super) kind: FileType,
    pub(super) name: &'a CStr,
    /// Path in the tree.
    pub(super) path: &'a [u8],
}

/// A directory being walked.
pub(super) struct Directory<D> {
    /// What it is in, and which entry of that; the top is in nothing.
    parent: Option<(Arc<Self>, usize)>,
    pub(super) fd: OwnedFd,
    /// Its name in its parent; the top needs none.
    pub(super) name: CString,
    /// Path in the tree.
    pub(super) path: Vec<u8>,
    /// Where in `path` the selection starts.
    from: usize,
    context: Context,
    /// Tasks and subdirectories not yet done.
    pending: AtomicUsize,
    /// The visitor's.
    pub(super) state: D,
}

impl<D> Directory<D> {
    /// What it is in; `None` at the top.
    pub(super) fn parent(&self) -> Option<&Arc<Self>> {
        self.parent.as_ref().map(|(parent, _)| parent)
    }

    /// Which entry of its parent's listing it is; 0 at the top.
    pub(super) fn slot(&self) -> usize {
        self.parent.as_ref().map_or(0, |(_, slot)| *slot)
    }
}

impl<D> Drop for Directory<D> {
    fn drop(&mut self) {
        // A deep tree is not freed by recursion.
        let mut next = self.parent.take();
        while let Some(mut dir) = next.take().and_then(|(dir, _)| Arc::into_inner(dir)) {
            next = dir.parent.take();
        }
    }
}

/// Shows `visitor` what `scope` selects of the directory `fd`, which is `path` in its tree.
///
/// # Errors
/// The visitor's first, or the kernel's about a directory. The walk ends soon after it.
pub(super) fn walk<V: Visitor>(
    visitor: &V,
    scope: Scope<'_>,
    fd: OwnedFd,
    path: &[u8],
    state: V::Dir,
) -> Result<(), V::Error> {
    let top = Arc::new(Directory {
        parent: None,
        fd,
        name: CString::default(),
        path: path.to_vec(),
        from: if path.is_empty() { 0 } else { path.len() + 1 },
        context: scope.view.start(path),
        pending: AtomicUsize::new(1),
        state,
    });
    let walk = Walk { visitor, scope, failed: Mutex::new(None), stop: AtomicBool::new(false) };
    rayon::scope(|scope| walk.enter(scope, top));
    walk.failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

/// The state of a walk is as good as it was: a panic elsewhere ends the whole of it anyway.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Walk<'v, V: Visitor> {
    visitor: &'v V,
    scope: Scope<'v>,
    failed: Mutex<Option<V::Error>>,
    stop: AtomicBool,
}

impl<V: Visitor> Walk<'_, V> {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.visitor.enough()
    }

    /// Runs a part of the work on `dir` and ends the directory, and those above, after the last one.
    fn part(&self, dir: Arc<Directory<V::Dir>>, work: impl FnOnce(&Arc<Directory<V::Dir>>) -> Result<(), V::Error>) {
        let fail = |error| {
            self.stop.store(true, Ordering::Relaxed);
            lock(&self.failed).get_or_insert(error);
        };
        if !self.stopped()
            && let Err(error) = work(&dir)
        {
            fail(error);
        }
        let mut next = Some(dir);
        while let Some(dir) = next.take() {
            if dir.pending.fetch_sub(1, Ordering::AcqRel) != 1 || self.stopped() {
                return;
            }
            if let Err(error) = self.visitor.done(&dir) {
                fail(error);
            }
            next = dir.parent().cloned();
        }
    }

    fn enter<'s>(&'s self, scope: &rayon::Scope<'s>, dir: Arc<Directory<V::Dir>>) {
        self.part(dir, |dir| {
            let io = |e| FileOpError::io("read directory", text(&dir.path), e);
            let listing = Arc::new(Listing::read(&dir.fd).map_err(io)?);
            self.visitor.listed(dir, &listing);
            let mut start = 0;
            while listing.len() - start > BATCH {
                let (batch, range) = (Arc::clone(&listing), start..start + BATCH);
                let dir = Arc::clone(dir);
                dir.pending.fetch_add(1, Ordering::AcqRel);
                scope.spawn(move |scope| self.part(dir, |dir| self.batch(scope, dir, &batch, range)));
                start += BATCH;
            }
            self.batch(scope, dir, &listing, start..listing.len())
        });
    }

    fn batch<'s>(
        &'s self,
        scope: &rayon::Scope<'s>,
        dir: &Arc<Directory<V::Dir>>,
        listing: &Listing,
        range: Range<usize>,
    ) -> Result<(), V::Error> {
        let mut path = dir.path.clone();
        if !path.is_empty() {
            path.push(b'/');
        }
        let length = path.len();
        let mut batch = V::Batch::default();
        for slot in range {
            if self.stopped() {
                return Ok(());
            }
            let (name, kind) = listing.get(slot);
            path.truncate(length);
            path.extend_from_slice(name.to_bytes());
            if kind == FileType::Directory {
                self.subdirectory(scope, dir, slot, name, &path)?;
            } else if (kind != FileType::Socket || self.scope.sockets)
                && self.scope.view.takes(&path, dir.from, &dir.context)
            {
                self.visitor.entry(dir, &mut batch, Found { slot, kind, name, path: &path })?;
            }
        }
        self.visitor.batch(dir, batch)
    }

    fn subdirectory<'s>(
        &'s self,
        scope: &rayon::Scope<'s>,
        dir: &Arc<Directory<V::Dir>>,
        slot: usize,
        name: &CStr,
        path: &[u8],
    ) -> Result<(), V::Error> {
        let verdict = self
            .scope
            .view
            .dir(path, dir.from, &dir.context, &dir.fd, name)
            .map_err(|e| FileOpError::io("open directory", text(path), e))?;
        if !verdict.itself && !verdict.descend {
            return Ok(());
        }
        dir.pending.fetch_add(1, Ordering::AcqRel);
        // Opened by its own task: a directory of thousands of directories must not need thousands of descriptors.
        let (dir, name, path) = (Arc::clone(dir), name.to_owned(), path.to_vec());
        scope.spawn(move |scope| {
            let (itself, descend) = (verdict.itself, verdict.descend);
            match self.open(&dir, slot, name, path, verdict) {
                Err(error) => self.part(dir, |_| Err(error)),
                Ok(child) => match if itself { self.visitor.selected(&child) } else { Ok(()) } {
                    Ok(()) if descend => self.enter(scope, child),
                    outcome => self.part(child, |_| outcome),
                },
            }
        });
        Ok(())
    }

    fn open(
        &self,
        parent: &Arc<Directory<V::Dir>>,
        slot: usize,
        name: CString,
        path: Vec<u8>,
        verdict: DirVerdict,
    ) -> Result<Arc<Directory<V::Dir>>, V::Error> {
        let fd =
            open_subdir(&parent.fd, name.as_c_str()).map_err(|e| FileOpError::io("open directory", text(&path), e))?;
        let state = self.visitor.open(parent, &name, &path, &fd, &verdict)?;
        Ok(Arc::new(Directory {
            parent: Some((Arc::clone(parent), slot)),
            fd,
            name,
            path,
            from: parent.from,
            context: verdict.context,
            pending: AtomicUsize::new(1),
            state,
        }))
    }
}
