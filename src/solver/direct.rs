//! File operations whose result is a blob and not a directory.
//!
//! A layer that only the image needs is written as a blob at once ([`crate::exec::file::direct`]). Whatever reads a tree (a RUN, a
//! copy from it, an owner looked up by name) needs directories, and so does everything below that tree.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::tree::{self, Opened, Tree};
use super::{SolveError, Solver, blocking, lock};
use crate::archive::{LayerOptions, Timestamp};
use crate::base::Digest;
use crate::exec::file;
use crate::exec::file::direct::{Below, BelowDirectory, BelowIndexes, LayerPlan, Refused, WriteError};
use crate::llb::op::{ChownOpt, FileActionKind, FileOp, Kind, UserKind};
use crate::llb::{Graph, Vertex};
use crate::store::{LayerId, MountRequest, Mounted, StoreError};

/// The file operations of `graph` whose results nothing reads.
pub(super) fn unread(graph: &Graph) -> HashSet<Digest> {
    let mut read: HashSet<&Digest> = HashSet::new();
    let mut todo: Vec<&Digest> = Vec::new();
    for vertex in graph.vertices.values() {
        for (at, edge) in vertex.inputs.iter().enumerate() {
            let reads = match &vertex.op.kind {
                Some(Kind::File(op)) => !is_chain(op) || reads_input(op, at),
                Some(Kind::Merge(_) | Kind::Diff(_)) => false,
                _ => true,
            };
            if reads && read.insert(&edge.vertex) {
                todo.push(&edge.vertex);
            }
        }
    }
    while let Some(digest) = todo.pop() {
        for edge in graph.vertices.get(digest).iter().flat_map(|vertex| &vertex.inputs) {
            if read.insert(&edge.vertex) {
                todo.push(&edge.vertex);
            }
        }
    }
    let files = graph.vertices.values().filter(|v| matches!(&v.op.kind, Some(Kind::File(op)) if is_chain(op)));
    files.map(|v| &v.digest).filter(|digest| !read.contains(digest)).cloned().collect()
}

/// Whether every action works on the result of the one before and only the last is an output.
fn is_chain(op: &FileOp) -> bool {
    let inputs: i64 =
        op.actions.iter().flat_map(|a| [a.input, a.secondary_input]).filter(|&n| n >= 0).max().unwrap_or(-1);
    let last = op.actions.len().saturating_sub(1);
    // Without knowing the number of inputs, the results are those numbers that count up by one.
    let first = op.actions.get(1).map_or(inputs + 1, |second| second.input);
    !op.actions.is_empty()
        && op.actions.iter().enumerate().all(|(at, action)| {
            let number = i64::try_from(at).unwrap_or(i64::MAX);
            let continues = if at == 0 { action.input < first } else { action.input == first + number - 1 };
            let shape = match &action.action {
                Some(FileActionKind::Copy(_)) => action.secondary_input >= 0 && action.secondary_input < first,
                Some(FileActionKind::Mkdir(_)) => true,
                _ => false,
            };
            continues && shape && (action.output >= 0) == (at == last)
        })
}

/// Whether `op` reads its input `at`, and does not only build on it.
fn reads_input(op: &FileOp, at: usize) -> bool {
    let at = i64::try_from(at).unwrap_or(i64::MAX);
    op.actions.iter().any(|action| {
        let copied = matches!(action.action, Some(FileActionKind::Copy(_))) && action.secondary_input == at;
        let owner = action.action.as_ref().and_then(super::file_op::owner_of);
        copied || owner.is_some_and(|owner| named_in(owner) == Some(at))
    })
}

/// The input in which an owner's name is looked up.
fn named_in(owner: &ChownOpt) -> Option<i64> {
    [&owner.user, &owner.group].into_iter().flatten().find_map(|u| match &u.user {
        Some(UserKind::ByName(name)) => Some(name.input),
        _ => None,
    })
}

/// A tree to put a layer on; a mount lives as long as it is looked at.
struct Base {
    below: Box<dyn Below>,
    _mount: Option<Mounted>,
}

impl Solver {
    /// Notes which results of `graph` can be blobs.
    pub(super) fn note_unread(&self, graph: &Graph) {
        if self.env.layers.is_some() {
            let found = unread(graph);
            let mut unread = lock(&self.unread);
            // What another graph reads is read.
            unread.retain(|digest| found.contains(digest) || !graph.vertices.contains_key(digest));
            unread.extend(found);
        }
    }

    /// Runs a file operation without a directory; `None` if that cannot be done.
    pub(super) async fn direct_op(
        self: &Arc<Self>,
        vertex: &Arc<Vertex>,
        op: &FileOp,
        trees: &[Tree],
    ) -> Result<Option<Vec<Vec<LayerId>>>, SolveError> {
        let Some(options) = self.env.layers.clone().filter(|_| lock(&self.unread).contains(&vertex.digest)) else {
            return Ok(None);
        };
        let base = match op.actions.first().and_then(|a| usize::try_from(a.input).ok()).map(|n| trees.get(n)) {
            Some(Some(tree)) => self.layers(vertex, tree).await?,
            Some(None) => return Ok(None),
            None => Vec::new(),
        };
        let mut actions = Vec::with_capacity(op.actions.len());
        for action in &op.actions {
            let Some(kind) = action.action.clone() else { return Ok(None) };
            let owner = match super::file_op::owner_of(&kind) {
                Some(owner) => match (self.plain_owner(vertex, owner, trees).await, &kind) {
                    (Ok(Some(owner)), _) => Some(owner),
                    // Whether an unknown owner matters, only the directory can say.
                    (Ok(None), _) | (Err(_), FileActionKind::Mkdir(_)) => return Ok(None),
                    (Err(error), _) => return Err(error),
                },
                None => None,
            };
            let source = match usize::try_from(action.secondary_input).ok().and_then(|n| trees.get(n)) {
                Some(tree) if matches!(kind, FileActionKind::Copy(_)) => Some(self.open(vertex, tree).await?),
                _ => None,
            };
            actions.push((kind, owner, source));
        }
        let Some(below) = self.base(vertex, &base).await? else { return Ok(None) };
        let (store, place) = (self.env.store.clone(), Arc::clone(vertex));
        blocking(move || write(&store, &place, &below, base, &actions, &options)).await
    }

    /// An owner in numbers, if that needs no tree or one that is an input of its own.
    async fn plain_owner(
        self: &Arc<Self>,
        vertex: &Arc<Vertex>,
        owner: &ChownOpt,
        trees: &[Tree],
    ) -> Result<Option<(u32, u32)>, SolveError> {
        let opened = match named_in(owner).map(usize::try_from) {
            Some(Ok(n)) => match trees.get(n) {
                Some(tree) => Some(self.open(vertex, tree).await?),
                None => return Ok(None),
            },
            Some(Err(_)) | None => None,
        };
        let (owner, place) = (owner.clone(), Arc::clone(vertex));
        blocking(move || {
            let root = opened.as_ref().map(|opened| opened.source.root.as_path());
            file::resolve_owner(root, &owner).map(Some).map_err(|e| tree::file_error(&place, &e, None))
        })
        .await
    }

    /// What is below a new layer: directories if they are there, else what the layers' indexes say.
    async fn base(self: &Arc<Self>, vertex: &Arc<Vertex>, chain: &[LayerId]) -> Result<Option<Base>, SolveError> {
        if chain.is_empty() {
            return Ok(Some(Base { below: Box::new(BelowIndexes(Vec::new())), _mount: None }));
        }
        let (store, place, part) = (self.env.store.clone(), Arc::clone(vertex), chain.to_vec());
        let mounted = blocking(move || {
            let fail = |e: StoreError| tree::store_error(&place, &e);
            if !store.is_materialised(&part).map_err(fail)? {
                return Ok(None);
            }
            store.mount(&part, &MountRequest::read_only()).map(Some).map_err(fail)
        })
        .await?;
        if let Some(mount) = mounted {
            let below = Box::new(BelowDirectory(mount.root().to_path_buf()));
            return Ok(Some(Base { below, _mount: Some(mount) }));
        }
        self.fetch(vertex, chain).await?;
        let (store, place, part) = (self.env.store.clone(), Arc::clone(vertex), chain.to_vec());
        let indexes = blocking(move || store.tree_indexes(&part).map_err(|e| tree::store_error(&place, &e))).await?;
        match indexes {
            // Made from a directory that is gone: its large files have to be there again to be compared.
            Some(indexes) if indexes.iter().any(|index| !index.tells_contents()) => {
                let (store, place, part) = (self.env.store.clone(), Arc::clone(vertex), chain.to_vec());
                let mount = move || store.mount(&part, &MountRequest::read_only());
                let mount = blocking(move || mount().map_err(|e| tree::store_error(&place, &e))).await?;
                let below = Box::new(BelowDirectory(mount.root().to_path_buf()));
                Ok(Some(Base { below, _mount: Some(mount) }))
            }
            Some(indexes) => Ok(Some(Base { below: Box::new(BelowIndexes(indexes)), _mount: None })),
            None => Ok(None),
        }
    }
}

type Action = (FileActionKind, Option<(u32, u32)>, Option<Opened>);

fn write(
    store: &crate::store::Store,
    vertex: &Vertex,
    base: &Base,
    mut chain: Vec<LayerId>,
    actions: &[Action],
    options: &LayerOptions,
) -> Result<Option<Vec<Vec<LayerId>>>, SolveError> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let secs = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    let mut plan = LayerPlan::new(&*base.below, Timestamp { secs, nanos: since.subsec_nanos() });
    for (kind, owner, source) in actions {
        let planned = match (kind, source) {
            (FileActionKind::Copy(copy), Some(opened)) => plan.copy(&opened.source, opened.hashes(), copy, *owner),
            (FileActionKind::Mkdir(mkdir), _) => plan.mkdir(mkdir, *owner),
            _ => return Ok(None),
        };
        match planned {
            Ok(()) => {}
            Err(Refused::NeedsDirectory(_)) => return Ok(None),
            Err(Refused::Failed(e)) => {
                return Err(tree::file_error(vertex, &e, source.as_ref().and_then(Opened::local)));
            }
        }
    }
    let written = store.write_layer(&chain, &vertex.name(), options, |out| plan.write(out).map_err(Problem::Write));
    let layer = written.map_err(|problem| match problem {
        Problem::Store(e) => tree::store_error(vertex, &e),
        Problem::Write(WriteError::Files(e)) => tree::file_error(vertex, &e, None),
        Problem::Write(WriteError::Archive(e)) => SolveError::at(vertex, e.kind(), e.to_string(), None),
    })?;
    chain.push(layer);
    Ok(Some(vec![chain]))
}

enum Problem {
    Store(StoreError),
    Write(WriteError),
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}
