//! The fast half of solving: keys from definitions, and look-ups that need no tree but local ones.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use futures_util::FutureExt as _;
use futures_util::future::try_join_all;

use super::tree::{self, Tree};
use super::{Once, SolveError, Solver, blocking, lock};
use crate::base::events::Outcome;
use crate::base::{CacheKey, Digest};
use crate::cache::key::{self, Dependency, Part, Selection};
use crate::llb::op::Kind;
use crate::llb::{Graph, Vertex};
use crate::source::Pinned;

/// What is known of a vertex before anything runs.
#[derive(Debug)]
pub(super) struct Keyed {
    /// Definition key. Local sources have none: what they hold is only known by content.
    pub(super) key: Option<CacheKey>,
    /// What went into the key, in input order; nothing for sources.
    pub(super) parts: Vec<Part>,
    /// The result, if it is in the cache or costs nothing.
    pub(super) hit: Option<Hit>,
    /// A source that is settled but perhaps not here.
    pub(super) pinned: Option<Arc<dyn Pinned>>,
    /// Of a vertex that must run whatever the cache has: what stands for its result in the keys of what is built on it.
    /// No record has it, so that nothing of those is found before the vertex has run (C4.08).
    pub(super) renewed: Option<CacheKey>,
}

impl Keyed {
    /// A result that is there.
    pub(super) fn found(key: CacheKey, hit: Hit) -> Self {
        Self { key: Some(key), parts: Vec::new(), hit: Some(hit), pinned: None, renewed: None }
    }
}

/// A result found without running anything.
#[derive(Debug)]
pub(super) struct Hit {
    pub(super) canonical: CacheKey,
    pub(super) outputs: Vec<Tree>,
    /// It is a source, not a cached result.
    pub(super) source: bool,
    /// What went into the key of the record.
    pub(super) parts: Vec<Part>,
}

impl Solver {
    /// The key of a vertex, computed once, with a look-up in the cache.
    pub(super) fn keyed(self: &Arc<Self>, graph: &Arc<Graph>, digest: &Digest) -> Once<Keyed> {
        let mut keyed = lock(&self.keyed);
        if let Some(known) = keyed.get(digest) {
            return known.clone();
        }
        let (this, graph, id) = (Arc::clone(self), Arc::clone(graph), digest.clone());
        let future = async move {
            let Some(vertex) = graph.vertices.get(&id).cloned() else {
                return Err(SolveError::internal(format!("vertex {} is not in the graph", id.short())));
            };
            let task = tokio::spawn(async move { this.compute_key(&graph, &vertex).await });
            match task.await {
                Ok(result) => result.map(Arc::new),
                Err(panic) => Err(SolveError::internal(format!("a task ended unexpectedly: {panic}"))),
            }
        };
        let future = future.boxed().shared();
        keyed.insert(digest.clone(), future.clone());
        future
    }

    async fn compute_key(self: Arc<Self>, graph: &Arc<Graph>, vertex: &Arc<Vertex>) -> Result<Keyed, SolveError> {
        if let Some(Kind::Source(source)) = &vertex.op.kind {
            self.env.events.started(&vertex.digest);
            let keyed = self.source(vertex, source).await;
            match &keyed {
                Ok(_) => self.env.events.completed(&vertex.digest, Outcome::Done),
                Err(error) => {
                    self.env.events.completed(&vertex.digest, Outcome::Failed(error.message().to_owned()));
                    self.stop();
                }
            }
            return keyed;
        }
        let dependencies = key::dependencies(vertex);
        let inputs = try_join_all(vertex.inputs.iter().map(|edge| self.keyed(graph, &edge.vertex))).await?;
        let mut parts = Vec::with_capacity(inputs.len());
        for ((edge, dependency), input) in vertex.inputs.iter().zip(&dependencies).zip(&inputs) {
            let tree = input.hit.as_ref().and_then(|hit| hit.outputs.get(edge.index));
            parts.push(match (dependency, tree) {
                (Dependency::Content(selections), Some(tree @ Tree::Local(_))) => {
                    Part::Content(self.content(vertex, tree, selections).await?)
                }
                (Dependency::Definition, Some(tree @ Tree::Local(_))) => {
                    Part::Content(self.content(vertex, tree, &[whole()]).await?)
                }
                _ => Part::Key(self.definition_key(vertex, input)?, edge.index),
            });
        }
        let key = key::combine(&key::operation(vertex), &parts);
        if vertex.metadata.ignore_cache {
            let renewed = Some(key::combine(&fresh(), &[Part::Key(key.clone(), 0)]));
            return Ok(Keyed { key: Some(key), parts, hit: None, pinned: None, renewed });
        }
        let mut hit = self.look_up(vertex, &key).await?;
        if hit.is_none() {
            hit = self.look_elsewhere(graph, vertex, &parts, &key).await?;
        }
        if hit.is_some() {
            self.env.events.completed(&vertex.digest, Outcome::Cached);
        }
        Ok(Keyed { key: Some(key), parts, hit, pinned: None, renewed: None })
    }

    fn definition_key(&self, vertex: &Vertex, input: &Keyed) -> Result<CacheKey, SolveError> {
        let canonical = input.hit.as_ref().map(|hit| &hit.canonical).or(input.renewed.as_ref());
        canonical.or(input.key.as_ref()).cloned().ok_or_else(|| {
            SolveError::internal(format!("an input of {} has neither a key nor a tree", vertex.digest.short()))
        })
    }

    /// A record that is complete, as a hit.
    pub(super) async fn look_up(&self, vertex: &Arc<Vertex>, key: &CacheKey) -> Result<Option<Hit>, SolveError> {
        let (store, key, vertex) = (self.env.store.clone(), key.clone(), Arc::clone(vertex));
        blocking(move || {
            let record = store.record(&key).map_err(|e| tree::store_error(&vertex, &e))?;
            Ok(record.map(|record| Hit {
                canonical: record.canonical,
                parts: super::collect::recorded_parts(&record.inputs),
                outputs: record.outputs.into_iter().map(Tree::Layers).collect(),
                source: false,
            }))
        })
        .await
    }

    /// The digest of what `selections` choose from `tree`. That of a local directory is computed once: what it was at first
    /// is what this build is about.
    pub(super) async fn content(
        self: &Arc<Self>,
        vertex: &Arc<Vertex>,
        tree: &Tree,
        selections: &[Selection],
    ) -> Result<Digest, SolveError> {
        let Tree::Local(local) = tree else { return self.hash(vertex, tree, selections).await };
        let id = (Arc::as_ptr(local) as usize, selections.to_vec());
        let future = {
            let mut contents = lock(&self.contents);
            let known = contents.iter().find(|(known, _)| *known == id).map(|(_, future)| future.clone());
            known.unwrap_or_else(|| {
                let (this, vertex, tree) = (Arc::clone(self), Arc::clone(vertex), tree.clone());
                let selections = selections.to_vec();
                let work = async move { this.hash(&vertex, &tree, &selections).await.map(Arc::new) };
                let future = work.boxed().shared();
                contents.push((id, future.clone()));
                future
            })
        };
        future.await.map(|digest| Digest::clone(&digest))
    }

    async fn hash(
        self: &Arc<Self>,
        vertex: &Arc<Vertex>,
        tree: &Tree,
        selections: &[Selection],
    ) -> Result<Digest, SolveError> {
        let opened = self.open(vertex, tree).await?;
        let (selections, vertex) = (selections.to_vec(), Arc::clone(vertex));
        blocking(move || {
            let mut digests = String::new();
            for selection in &selections {
                let digest = opened.digest(selection).map_err(|e| tree::file_error(&vertex, &e, opened.local()))?;
                digests.push_str(digest.as_str());
                digests.push('\n');
            }
            Ok(Digest::sha256(digests))
        })
        .await
    }
}

/// A digest nobody has seen before.
fn fresh() -> Digest {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_nanos());
    Digest::sha256(format!("{now} {} {}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed)))
}

/// Everything of a tree.
pub(super) fn whole() -> Selection {
    Selection { path: "/".into(), follow: true, ..Selection::default() }
}
