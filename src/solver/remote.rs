//! Caches of other machines as the solver sees them: which of their records stand for a vertex, and what becomes of
//! their results here (SPEC C7.10).
//!
//! Matching needs what was read of the caches and nothing else. A result that is found becomes a record of this store
//! whose layers are somewhere else; they are fetched when something reads them. A layer that cannot be fetched then is
//! a miss found out late: its record is forgotten and the vertex is solved again.

use std::collections::HashSet;
use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared, join_all};

use super::keys::{Hit, Keyed};
use super::tree::Tree;
use super::{SolveError, Solver, blocking, lock};
use crate::base::{CacheKey, Digest};
use crate::cache::import::{Found, Imports, InputState, Match};
use crate::cache::key::{self, Part};
use crate::llb::{Graph, Vertex};
use crate::store::{AdoptedLayer, CacheRecord};

/// The caches of a build, on their way or there. Waiting for them ends: whoever makes this has a deadline.
pub type LoadingImports = Shared<BoxFuture<'static, Arc<Imports>>>;

/// Records that stand for a vertex.
pub(super) type Matches = Shared<BoxFuture<'static, Arc<Vec<Match>>>>;

impl Solver {
    /// A result of another machine's cache for a vertex with these parts, made a record of this store.
    pub(super) async fn look_elsewhere(
        self: &Arc<Self>,
        graph: &Arc<Graph>,
        vertex: &Arc<Vertex>,
        parts: &[Part],
        key: &CacheKey,
    ) -> Result<Option<Hit>, SolveError> {
        let Some(imports) = self.imports().await else { return Ok(None) };
        let matches = self.matching(graph, vertex, parts, &imports).await;
        {
            let mut refined = lock(&self.refined);
            let known = refined.entry(vertex.digest.clone()).or_default();
            known.extend(matches.iter().filter(|m| !known.contains(m)).copied().collect::<Vec<_>>());
        }
        let lost = lock(&self.lost).clone();
        match imports.result(&matches, &lost) {
            Some(found) => self.adopt(vertex, key, parts, found).await,
            None => Ok(None),
        }
    }

    async fn imports(&self) -> Option<Arc<Imports>> {
        let imports = self.env.imports.clone()?.await;
        (!imports.caches.is_empty()).then_some(imports)
    }

    async fn matching(
        self: &Arc<Self>,
        graph: &Arc<Graph>,
        vertex: &Arc<Vertex>,
        parts: &[Part],
        imports: &Imports,
    ) -> Vec<Match> {
        let inputs = vertex.inputs.iter().zip(parts).map(|(edge, part)| async move {
            let mut matches: Vec<Match> = self.matched(graph, &edge.vertex).await.as_ref().clone();
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
        imports.matching(&key::record(&key::operation(vertex)), &inputs)
    }

    /// The records that stand for a vertex by its definition, found once. Its key must be known already.
    fn matched(self: &Arc<Self>, graph: &Arc<Graph>, digest: &Digest) -> Matches {
        let mut matched = lock(&self.matched);
        if let Some(known) = matched.get(digest) {
            return known.clone();
        }
        let (this, graph, id) = (Arc::clone(self), Arc::clone(graph), digest.clone());
        let future = async move {
            let (Some(vertex), Some(imports)) = (graph.vertices.get(&id).cloned(), this.imports().await) else {
                return Arc::default();
            };
            let Ok(keyed) = this.keyed(&graph, &id).await else { return Arc::default() };
            Arc::new(match keyed.as_ref() {
                // A source is what it is, without any inputs.
                Keyed { hit: Some(Hit { source: true, canonical, .. }), .. } => imports.matching(&canonical.0, &[]),
                Keyed { pinned: Some(_), key: Some(key), .. } => imports.matching(&key.0, &[]),
                // It runs again: what the caches have of it stands for nothing.
                Keyed { renewed: Some(_), .. } => Vec::new(),
                keyed => this.matching(&graph, &vertex, &keyed.parts, &imports).await,
            })
        };
        let future = future.boxed().shared();
        matched.insert(digest.clone(), future.clone());
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
        let said = lock(&self.lost).iter().any(|known| lost.contains(known));
        if !said {
            let which = lost.iter().next().map_or("", |d| d.short());
            self.trouble(&format!(
                "{} of a cache cannot be fetched (layer {which})",
                if lost.len() == 1 { "a layer" } else { "layers" }
            ));
        }
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
        lock(&self.solved).retain(|_, solved| match solved.peek() {
            Some(Ok(solved)) => !has(&solved.outputs),
            Some(Err(error)) => !error.is_lost(),
            None => true,
        });
        lock(&self.keyed).retain(|_, keyed| match keyed.peek() {
            Some(Ok(keyed)) => keyed.hit.as_ref().is_none_or(|hit| hit.source || !has(&hit.outputs)),
            Some(Err(error)) => !error.is_lost(),
            None => true,
        });
        Ok(())
    }
}
