//! Trees: results as layers or as a local directory, and how they are opened for reading.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::{Environment, SolveError, Solver, blocking, lock};
use crate::base::{CacheKey, Digest, FaultKind, StatKey};
use crate::cache::key::{self, Part, Selection};
use crate::exec::file::{self, FileOpError, Selector, StatCache};
use crate::llb::Vertex;
use crate::llb::op::{FileActionCopy, SourceOp};
use crate::source::SourceError;
use crate::store::{CacheRecord, ContextIndex, LayerId, MountRequest, Mounted, Store, StoreError};
use crate::tree::CopySource;

/// A local directory that a build may read.
#[derive(Debug, Clone, Default)]
pub struct ContextDir {
    /// The directory.
    pub dir: PathBuf,
    /// Name of its ignore file, for messages.
    pub ignore_name: Option<String>,
    /// Line of each of its patterns.
    pub ignore_lines: Vec<usize>,
}

/// A file tree that is the result of a vertex.
#[derive(Debug, Clone)]
pub enum Tree {
    /// A chain of layers, bottom first.
    Layers(Vec<LayerId>),
    /// A directory outside the store, filtered.
    Local(Arc<LocalTree>),
}

/// A local directory as the source of copies.
pub struct LocalTree {
    pub(super) source: CopySource,
    hashes: ContextHashes,
    ignore_name: Option<String>,
}

impl std::fmt::Debug for LocalTree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LocalTree({})", self.source.root.display())
    }
}

/// The store's memory of file digests, as the content digest wants it.
struct ContextHashes(ContextIndex);

impl StatCache for ContextHashes {
    fn get(&self, path: &Path, key: &StatKey) -> Option<Digest> {
        self.0.get(path, key)
    }

    fn put(&self, path: &Path, key: &StatKey, digest: &Digest, plain: bool) {
        self.0.put(path, key, digest, plain);
    }

    fn plain(&self, path: &Path, key: &StatKey) -> Option<[u8; 32]> {
        self.0.plain(path, key)
    }

    fn seen(&self, path: &Path, mode: u32) {
        self.0.seen(path, mode);
    }

    fn just_seen(&self, path: &Path) -> Option<file::Seen> {
        self.0.just_seen(path).map(|(mode, key, digest)| file::Seen {
            mode,
            size: key.size,
            mtime_ns: key.mtime,
            digest,
        })
    }
}

impl LocalTree {
    /// One layer that holds what `src` selects at `dest`, made once per `key`.
    pub(super) fn as_layer(
        &self,
        store: &Store,
        vertex: &Vertex,
        key: &CacheKey,
        src: &str,
        dest: &str,
    ) -> Result<Vec<LayerId>, SolveError> {
        let fail = |e: StoreError| store_error(vertex, &e);
        let _lock = store.key_lock(key).map_err(fail)?;
        if let Some(record) = store.record(key).map_err(fail)? {
            return Ok(record.outputs.into_iter().next().unwrap_or_default());
        }
        let mounted = store.mount(&[], &MountRequest::writable(Vec::new())).map_err(fail)?;
        let copy =
            FileActionCopy { create_dest_path: true, follow_symlink: true, ..FileActionCopy::contents(src, dest) };
        file::copy(&self.source, mounted.root(), &copy, None).map_err(|e| file_error(vertex, &e, Some(self)))?;
        let description = format!("local directory {}", self.source.root.display());
        let layer = mounted.commit(&description).map_err(fail)?;
        store.put_record(&CacheRecord::new(key, vec![vec![layer.clone()]], &description)).map_err(fail)?;
        Ok(vec![layer])
    }
}

/// A tree that can be read, for as long as this lives.
pub(super) struct Opened {
    pub(super) source: CopySource,
    local: Option<Arc<LocalTree>>,
    _mount: Option<Mounted>,
}

impl Opened {
    pub(super) fn digest(&self, selection: &Selection) -> Result<Digest, FileOpError> {
        file::content_digest(&self.source, &selector(selection), self.hashes())
    }

    /// What is selected, entry by entry; `None` if it is more than `most`.
    pub(super) fn entries(
        &self,
        selection: &Selection,
        most: usize,
    ) -> Result<Option<Vec<file::SelectedEntry>>, FileOpError> {
        file::content_entries(&self.source, &selector(selection), self.hashes(), most)
    }

    /// What is remembered of its files.
    pub(super) fn hashes(&self) -> &dyn StatCache {
        match &self.local {
            Some(local) => &local.hashes,
            None => &file::NoStatCache,
        }
    }

    /// The local directory that it is, for messages.
    pub(super) fn local(&self) -> Option<&LocalTree> {
        self.local.as_deref()
    }
}

fn selector(selection: &Selection) -> Selector {
    Selector {
        path: selection.path.clone(),
        wildcard: selection.wildcard,
        follow_symlink: selection.follow,
        include_patterns: selection.include.clone(),
        exclude_patterns: selection.exclude.clone(),
        required_paths: selection.required.clone(),
    }
}

/// Local contexts opened by this solver, by the vertex that names them.
#[derive(Default)]
pub(super) struct LocalTrees(Mutex<HashMap<Digest, Arc<LocalTree>>>);

impl LocalTrees {
    pub(super) async fn open(
        &self,
        env: &Environment,
        vertex: &Arc<Vertex>,
        name: &str,
        op: &SourceOp,
    ) -> Result<Arc<LocalTree>, SolveError> {
        if let Some(known) = lock(&self.0).get(&vertex.digest) {
            return Ok(Arc::clone(known));
        }
        let Some(context) = env.contexts.get(name).cloned() else {
            if name == "context" {
                let hint = "the Dockerfile came alone, on standard input: give a directory, with -f -, to copy from it";
                return Err(SolveError::at(vertex, FaultKind::Input, "the build context is empty", Some(hint.into())));
            }
            let message = format!("there is no local context named \"{name}\"");
            return Err(SolveError::at(vertex, FaultKind::Usage, message, None));
        };
        let (store, op, place) = (env.store.clone(), op.clone(), Arc::clone(vertex));
        let opened = blocking(move || {
            let index = store.context_index(&context.dir).map_err(|e| store_error(&place, &e))?;
            let source = crate::source::local::open(&context.dir, &op, &context.ignore_lines)
                .map_err(|e| SolveError::at(&place, FaultKind::Input, e.to_string(), None))?;
            let hashes = ContextHashes(index);
            Ok(Arc::new(LocalTree { source, hashes, ignore_name: context.ignore_name }))
        })
        .await?;
        lock(&self.0).insert(vertex.digest.clone(), Arc::clone(&opened));
        Ok(opened)
    }

    /// Writes what was learnt about files back to the store.
    fn save(&self) {
        for local in lock(&self.0).values() {
            // A hint that is lost costs time, never correctness.
            let _ = local.hashes.0.save();
        }
    }
}

impl Solver {
    /// Keeps what was learnt about context files for the next build. Losing it costs time only.
    pub fn save_hints(&self) {
        self.locals.save();
    }

    /// Makes a tree readable; layers are fetched and mounted.
    pub(super) async fn open(self: &Arc<Self>, vertex: &Arc<Vertex>, tree: &Tree) -> Result<Opened, SolveError> {
        match tree {
            Tree::Local(local) => {
                Ok(Opened { source: local.source.clone(), local: Some(Arc::clone(local)), _mount: None })
            }
            Tree::Layers(chain) => {
                let mount = self.mount(vertex, chain, MountRequest::read_only()).await?;
                let source = CopySource::plain(mount.root());
                Ok(Opened { source, local: None, _mount: Some(mount) })
            }
        }
    }

    /// Downloads the layers of a chain that are not here.
    pub(super) async fn fetch(&self, vertex: &Vertex, chain: &[LayerId]) -> Result<(), SolveError> {
        let fetched = self.env.images.ensure_local(chain, Some(&vertex.digest)).await;
        fetched.map_err(|e| source_error(vertex, &e))
    }

    /// Mounts a chain, fetching what is not here yet.
    pub(super) async fn mount(
        self: &Arc<Self>,
        vertex: &Arc<Vertex>,
        chain: &[LayerId],
        request: MountRequest,
    ) -> Result<Mounted, SolveError> {
        let fetched = self.env.images.ensure_unpacked(chain, Some(&vertex.digest)).await;
        fetched.map_err(|e| source_error(vertex, &e))?;
        let (store, chain, place) = (self.env.store.clone(), chain.to_vec(), Arc::clone(vertex));
        blocking(move || store.mount(&chain, &request).map_err(|e| store_error(&place, &e))).await
    }

    /// The layers of a tree; a local directory becomes one layer, once per content.
    pub(super) async fn layers(
        self: &Arc<Self>,
        vertex: &Arc<Vertex>,
        tree: &Tree,
    ) -> Result<Vec<LayerId>, SolveError> {
        let local = match tree {
            Tree::Layers(chain) => return Ok(chain.clone()),
            Tree::Local(local) => local,
        };
        let content = self.content(vertex, tree, &[super::keys::whole()]).await?;
        let key = key::combine(&Digest::sha256("local directory as a layer"), &[Part::Content(content)]);
        let (store, local, place) = (self.env.store.clone(), Arc::clone(local), Arc::clone(vertex));
        blocking(move || local.as_layer(&store, &place, &key, "/", "/")).await
    }
}

fn source_error(vertex: &Vertex, error: &SourceError) -> SolveError {
    match error {
        SourceError::Gone { .. } => SolveError::lost(vertex, error.kind(), error.to_string(), error.hint()),
        _ => SolveError::at(vertex, error.kind(), error.to_string(), error.hint()),
    }
}

pub(super) fn store_error(vertex: &Vertex, error: &StoreError) -> SolveError {
    SolveError::at(vertex, error.kind(), error.to_string(), error.hint())
}

/// Whether `path` is what became of a word of `title`, an instruction, whose `..` led above the root.
fn leads_out(title: &str, path: &Path) -> bool {
    title.split_ascii_whitespace().any(|word| {
        let (mut parts, mut above) = (Vec::new(), false);
        for part in word.trim_matches(['[', ']', '"', ',']).split('/').filter(|part| !matches!(*part, "" | ".")) {
            match part {
                ".." => above |= parts.pop().is_none(),
                _ => parts.push(part),
            }
        }
        above && path == Path::new("/").join(parts.join("/"))
    })
}

/// The nearest directory above a context that has what is missing in it: the Dockerfile may be made for that one.
fn above<'a>(context: &'a LocalTree, path: &Path) -> Option<&'a Path> {
    const LEVELS: usize = 6;
    let inside = path.strip_prefix("/").ok()?;
    let above = context.source.root.ancestors().skip(1).take(LEVELS);
    above.take_while(|dir| dir.parent().is_some()).find(|dir| dir.join(inside).symlink_metadata().is_ok())
}

/// A source that is nowhere.
struct Missing<'a> {
    /// The instruction.
    title: &'a str,
    /// Absolute, in the source's tree.
    path: &'a Path,
    /// A name that is similar.
    near: Option<&'a str>,
    /// The local directory in which it was looked for, if it was one.
    context: Option<&'a LocalTree>,
}

impl Missing<'_> {
    /// What may be meant.
    fn hint(&self) -> String {
        match self.context.and_then(|context| above(context, self.path)) {
            _ if leads_out(self.title, self.path) => format!(
                "\"..\" does not lead out of the source of a copy, so this is \"{}\" in it; build with a directory above \
                 as the context (and -f for the Dockerfile), or name the other one: --build-context NAME=DIR and --from=NAME",
                self.path.display()
            ),
            Some(dir) => format!(
                "there is no \"{}\" in the context, but there is in {}: give that as the context, and the Dockerfile with -f",
                self.path.display(),
                dir.display()
            ),
            None => format!(
                "there is no \"{}\" in the source of this copy{}; paths are relative to its root",
                self.path.display(),
                self.near.map_or_else(String::new, |near| format!(" (did you mean \"/{near}\"?)"))
            ),
        }
    }
}

/// A missing source gets the words people know (SPEC A6.07) and the reason that helps. `context` is the local directory in
/// which it was looked for, if it was one.
pub(super) fn file_error(vertex: &Vertex, error: &FileOpError, context: Option<&LocalTree>) -> SolveError {
    if let FileOpError::NotFound { path, excluded_by, near } = error {
        let path = Path::new("/").join(path.trim_start_matches('/'));
        let message = format!(
            "failed to compute cache key: failed to calculate checksum of ref {}: \"{}\": not found",
            vertex.digest.short(),
            path.display()
        );
        let hint = match excluded_by {
            Some(by) => {
                let name = context.and_then(|context| context.ignore_name.as_deref()).unwrap_or(".dockerignore");
                let line = by.line.map_or_else(String::new, |line| format!(" line {line}"));
                format!("\"{}\" is excluded by {name}{line}: {}", path.display(), by.pattern)
            }
            None => Missing { title: &vertex.name(), path: &path, near: near.as_deref(), context }.hint(),
        };
        return SolveError::at(vertex, FaultKind::Input, message, Some(hint));
    }
    let kind = match error {
        FileOpError::Io { error, .. } => FaultKind::of_io(error, FaultKind::Input),
        _ => FaultKind::Input,
    };
    let hint = (kind == FaultKind::NoSpace).then(|| "`rbuild prune` frees what no image needs".to_owned());
    SolveError::at(vertex, kind, error.to_string(), hint)
}
