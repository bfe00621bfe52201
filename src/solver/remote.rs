//! Caches of other machines as the solver sees them: which of their records stand for a vertex, and what becomes of
//! their results here (SPEC C7.10).
//!
//! Matching needs what was read of the caches and nothing else. A result that is found becomes a record of this store
//! whose layers are somewhere else; they are fetched when something reads them. A layer that cannot be fetched then is
//! a miss found out late: its record is forgotten and the vertex is solved again.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared, join_all, pending};

use super::keys::{Hit, Keyed};
use super::loading::Arrived;
use super::tree::Tree;
use super::{SolveError, Solver, Solving, blocking, lock};
use crate::base::{CacheKey, Digest};
use crate::cache::import::{Found, Imports, InputState, Match, Place};
use crate::cache::key::{self, Part};
use crate::llb::{Graph, Vertex};
use crate::store::{AdoptedLayer, CacheRecord};

/// Records that stand for a vertex.
type Matches = Shared<BoxFuture<'static, Arc<Vec<Match>>>>;

/// What was found of each vertex when so many caches had come.
#[derive(Default)]
pub(super) struct Matched {
    revision: usize,
    by_vertex: HashMap<Digest, Matches>,
}

impl Solver {
    /// A result of another machine's cache for a vertex with these parts, made a record of this store.
    pub(super) async fn look_elsewhere(
        self: &Arc<Self>,
        graph: &Arc<Graph>,
        vertex: &Arc<Vertex>,
        parts: &[Part],
        key: &CacheKey,
    ) -> Result<Option<Hit>, SolveError> {
        let Some(arrived) = self.imports().await else { return Ok(None) };
        let imports = &arrived.imports;
        let matches = self.matching(graph, vertex, parts, &arrived).await;
        {
            let mut refined = lock(&self.refined);
            let known = refined.entry(vertex.digest.clone()).or_default();
            known.extend(matches.iter().filter(|m| !known.contains(m)).copied().collect::<Vec<_>>());
        }
        let lost = self.not_to_be_had(imports);
        match imports.result(&matches, &lost) {
            Some(found) => self.adopt(vertex, key, parts, found).await,
            None => Ok(None),
        }
    }

    /// Blobs that the caches promise and that cannot be had, or not now.
    fn not_to_be_had(&self, imports: &Imports) -> HashSet<Digest> {
        let mut lost = lock(&self.lost).clone();
        for came in self.env.images.late().borrow().iter() {
            lost.remove(came);
        }
        // A cache that broke once is not asked for anything else: each answer would have to be waited for.
        let down = self.env.images.places_down();
        if !down.is_empty() {
            let down = down.into_iter().map(|(host, repository)| Place { host, repository }).collect();
            lost.extend(imports.blobs_only_at(&down));
        }
        lost
    }

    /// Returns if a result comes late that makes it needless to go on with a vertex: a cache was slow, or one of its layers
    /// was. `parts` and `key` are what is known of the vertex so far.
    pub(super) async fn late_hit(
        self: &Arc<Self>,
        graph: &Arc<Graph>,
        vertex: &Arc<Vertex>,
        parts: &[Part],
        key: &CacheKey,
    ) -> Result<Hit, SolveError> {
        if vertex.metadata.ignore_cache {
            return pending().await;
        }
        let imports = self.env.imports.as_ref();
        let mut seen = imports.map_or(0, |imports| imports.now().revision);
        let mut layers = self.env.images.late();
        let more = async |seen| match imports {
            Some(imports) => imports.after(seen).await.revision,
            None => pending().await,
        };
        loop {
            let mut hit = None;
            tokio::select! {
                revision = more(seen) => seen = revision,
                // The sender lives as long as the source of images does, which is here.
                _ = layers.changed() => hit = self.look_up(vertex, key).await?,
            }
            if hit.is_none() {
                hit = self.look_elsewhere(graph, vertex, parts, key).await?;
            }
            if let Some(hit) = hit {
                return Ok(hit);
            }
        }
    }

    async fn imports(&self) -> Option<Arrived> {
        let arrived = self.env.imports.as_ref()?.get().await;
        (!arrived.imports.is_empty()).then_some(arrived)
    }

    async fn matching(
        self: &Arc<Self>,
        graph: &Arc<Graph>,
        vertex: &Arc<Vertex>,
        parts: &[Part],
        arrived: &Arrived,
    ) -> Vec<Match> {
        let inputs = vertex.inputs.iter().zip(parts).map(|(edge, part)| async move {
            let mut matches: Vec<Match> = self.matched(graph, &edge.vertex, arrived).await.as_ref().clone();
            if let Some(refined) = lock(&self.refined).get(&edge.vertex) {
                matches.extend(refined);
            }
            let content = match part {
                Part::Content(digest) => Some(key::content_record(digest)),
                Part::Key(..) => None,
            };
            InputState { matches, output: edge.index, content }
        });
        let inputs = join_all(inputs).await;
        arrived.imports.matching(&key::record(&key::operation(vertex)), &inputs)
    }

    /// The records that stand for a vertex by its definition, found once for what has arrived. Its key must be known
    /// already.
    fn matched(self: &Arc<Self>, graph: &Arc<Graph>, digest: &Digest, arrived: &Arrived) -> Matches {
        let mut matched = lock(&self.matched);
        if matched.revision != arrived.revision {
            *matched = Matched { revision: arrived.revision, by_vertex: HashMap::new() };
        }
        if let Some(known) = matched.by_vertex.get(digest) {
            return known.clone();
        }
        let (this, graph, id, arrived) = (Arc::clone(self), Arc::clone(graph), digest.clone(), arrived.clone());
        let future = async move {
            let Some(vertex) = graph.vertices.get(&id).cloned() else { return Arc::default() };
            let imports = &arrived.imports;
            let Ok(keyed) = this.keyed(&graph, &id).await else { return Arc::default() };
            Arc::new(match keyed.as_ref() {
                // A source is what it is, without any inputs.
                Keyed { hit: Some(Hit { source: true, canonical, .. }), .. } => imports.matching(&canonical.0, &[]),
                Keyed { pinned: Some(_), key: Some(key), .. } => imports.matching(&key.0, &[]),
                // It runs again: what the caches have of it stands for nothing.
                Keyed { renewed: Some(_), .. } => Vec::new(),
                keyed => this.matching(&graph, &vertex, &keyed.parts, &arrived).await,
            })
        };
        let future = future.boxed().shared();
        matched.by_vertex.insert(digest.clone(), future.clone());
        future
    }

    async fn adopt(
        &self,
        vertex: &Arc<Vertex>,
        key: &CacheKey,
        parts: &[Part],
        found: Found,
    ) -> Result<Option<Hit>, SolveError> {
        let inputs = self.record_inputs(vertex, parts);
        let parts = parts.to_vec();
        let (store, key, vertex) = (self.env.store.clone(), key.clone(), Arc::clone(vertex));
        let layers: Vec<AdoptedLayer> = found
            .layers
            .into_iter()
            .map(|(chain, layer)| AdoptedLayer {
                chain,
                diff_id: layer.diff_id,
                descriptor: layer.descriptor,
                created: layer.created,
            })
            .collect();
        let adopted = blocking(move || {
            let description = vertex.name();
            let remote = (found.place.host.as_str(), found.place.repository.as_str());
            let made = store.adopt_layers(&layers, remote, &description).and_then(|chain| {
                let record = CacheRecord { inputs, ..CacheRecord::new(&key, vec![chain.clone()], &description) };
                store.put_record(&record).map(|()| chain)
            });
            Ok(made.map(|chain| Hit { canonical: key, outputs: vec![Tree::Layers(chain)], source: false, parts }))
        })
        .await?;
        match adopted {
            Ok(hit) => Ok(Some(hit)),
            Err(error) => {
                self.trouble(&format!("cache {} cannot be used: {error}", found.title));
                Ok(None)
            }
        }
    }

    /// Nothing will be looked up any more: caches that have not come are given up.
    pub async fn end_imports(&self) {
        self.env.images.end_late();
        if let Some(imports) = &self.env.imports {
            imports.end().await;
        }
    }

    /// Something is wrong with a cache: said, and then built without it.
    pub(super) fn trouble(&self, text: &str) {
        self.env.events.warning(format!("{text}; building without it"));
    }

    /// Forgets layers that a cache promised and that could not be fetched: records and results that have them are
    /// misses from now on. Gives whether there were any since this was last asked.
    ///
    /// # Errors
    /// When the store cannot be changed.
    pub async fn forget_lost(self: &Arc<Self>) -> Result<bool, SolveError> {
        let lost = self.env.images.take_lost();
        if lost.is_empty() {
            return Ok(false);
        }
        self.tell_lost(&lost);
        lock(&self.lost).extend(lost.iter().cloned());
        let store = self.env.store.clone();
        let gone = blocking(move || {
            for digest in &lost {
                store.forget_remotes(digest).map_err(|e| SolveError::internal(e.to_string()))?;
            }
            Ok(lost)
        })
        .await?;
        self.forget_results(&gone).await?;
        Ok(true)
    }

    /// Says that layers cannot be had, once for each cache: what else it has may be as good as lost.
    fn tell_lost(&self, lost: &HashSet<Digest>) {
        let mut titles =
            self.env.imports.as_ref().map(|imports| imports.now().imports.titles_of(lost)).unwrap_or_default();
        if titles.is_empty() {
            titles.insert("that an earlier build read".into());
        }
        let mut told = lock(&self.told_lost);
        if titles.is_subset(&told) {
            return;
        }
        let which = lost.iter().next().map_or("", |d| d.short());
        let names = titles.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        told.extend(titles.iter().cloned());
        self.trouble(&format!("layers of cache {names} cannot be fetched ({which})"));
    }

    /// Drops what is remembered of vertices whose result has one of these blobs.
    async fn forget_results(self: &Arc<Self>, gone: &HashSet<Digest>) -> Result<(), SolveError> {
        let layers: HashSet<crate::store::LayerId> = {
            let (store, gone) = (self.env.store.clone(), gone.clone());
            blocking(move || store.layers_of_blobs(&gone).map_err(|e| SolveError::internal(e.to_string()))).await?
        };
        let has = |outputs: &[Tree]| {
            outputs.iter().any(|tree| match tree {
                Tree::Layers(chain) => chain.iter().any(|layer| layers.contains(layer)),
                Tree::Local(_) => false,
            })
        };
        lock(&self.solved).retain(|_, solving| match solving {
            Solving::Done(Ok(solved)) => !has(&solved.outputs),
            Solving::Done(Err(error)) => !error.is_lost(),
            Solving::Going(_) => true,
        });
        lock(&self.keyed).retain(|_, keyed| match keyed.peek() {
            Some(Ok(keyed)) => keyed.hit.as_ref().is_none_or(|hit| hit.source || !has(&hit.outputs)),
            Some(Err(error)) => !error.is_lost(),
            None => true,
        });
        Ok(())
    }
}
