//! The slow half of solving: content keys, running what missed, remembering results.

use std::sync::Arc;
use std::time::SystemTime;

use futures_util::future::try_join_all;

use super::tree::{self, Tree};
use super::{SolveError, Solved, Solver, blocking, lock, patiently};
use crate::base::CacheKey;
use crate::cache::key::{self, Dependency, Part};
use crate::llb::op::Kind;
use crate::llb::{Graph, Vertex};
use crate::store::{CacheRecord, LayerId};

impl Solver {
    /// The result of a vertex: found, or made. Layers that a cache promised and does not have are done without.
    pub(super) async fn find_or_operate(
        self: &Arc<Self>,
        graph: &Arc<Graph>,
        vertex: &Arc<Vertex>,
    ) -> Result<Solved, SolveError> {
        // Each round loses at least one layer of a cache for good, so this ends.
        loop {
            match self.attempt(graph, vertex).await {
                Err(error) if error.is_lost() => {
                    self.forget_lost().await?;
                }
                result => return result,
            }
        }
    }

    async fn attempt(self: &Arc<Self>, graph: &Arc<Graph>, vertex: &Arc<Vertex>) -> Result<Solved, SolveError> {
        let keyed = self.keyed(graph, &vertex.digest).await?;
        if let Some(hit) = &keyed.hit {
            let cached = !hit.source;
            return Ok(Solved { canonical: hit.canonical.clone(), outputs: hit.outputs.clone(), cached, known: true });
        }
        if let (Some(pinned), Some(key)) = (&keyed.pinned, &keyed.key) {
            return self.bring_in(vertex, key, pinned).await;
        }
        let inputs = try_join_all(vertex.inputs.iter().map(|edge| self.solved(graph, &edge.vertex)));
        let inputs = match &keyed.key {
            // A result that comes late makes what it is made from needless.
            Some(key) if keyed.renewed.is_none() => tokio::select! {
                biased;
                inputs = inputs => inputs?,
                hit = self.late_hit(graph, vertex, &keyed.parts, key) => return Ok(Solved::late(hit?)),
            },
            _ => inputs.await?,
        };
        let mut trees = Vec::with_capacity(inputs.len());
        for (edge, input) in vertex.inputs.iter().zip(&inputs) {
            let tree = input.outputs.get(edge.index).cloned();
            trees.push(tree.ok_or_else(|| SolveError::internal("an input has no such output"))?);
        }
        if self.env.cancel.is_cancelled() {
            return Err(SolveError::cancelled());
        }
        let (key, parts) = self.content_key(vertex, &inputs, &trees).await?;
        lock(&self.parts).insert(vertex.digest.clone(), parts.clone());
        let fast = keyed.key.clone().unwrap_or_else(|| key.clone());
        if let Some(canonical) = &keyed.renewed {
            self.explain(graph, vertex, &parts, &trees).await;
            let outputs = self.operate(vertex, &trees).await?;
            // Later builds that may use the cache find this result; what builds on it now is keyed apart (C4.08).
            self.remember(vertex, &parts, (&key, &fast, canonical), &outputs).await?;
            return Ok(Solved {
                canonical: canonical.clone(),
                outputs: outputs.into_iter().map(Tree::Layers).collect(),
                cached: false,
                known: false,
            });
        }
        if let Some(hit) = self.look_up(vertex, &key).await? {
            self.alias(vertex, &fast, &hit.canonical).await?;
            return Ok(Solved::late(hit));
        }
        if let Some(hit) = self.look_elsewhere(graph, vertex, &parts, &key).await? {
            self.alias(vertex, &fast, &hit.canonical).await?;
            return Ok(Solved::late(hit));
        }
        // One process runs a vertex while others wait for its result.
        let lock = {
            let (store, key, vertex) = (self.env.store.clone(), key.clone(), Arc::clone(vertex));
            patiently(move || store.key_lock(&key).map_err(|e| tree::store_error(&vertex, &e))).await?
        };
        if let Some(hit) = self.look_up(vertex, &key).await? {
            return Ok(Solved::late(hit));
        }
        self.explain(graph, vertex, &parts, &trees).await;
        let outputs = match &vertex.op.kind {
            Some(Kind::Exec(_)) => tokio::select! {
                biased;
                outputs = self.operate(vertex, &trees) => outputs?,
                hit = self.late_hit(graph, vertex, &parts, &key) => {
                    let hit = hit?;
                    self.alias(vertex, &fast, &hit.canonical).await?;
                    return Ok(Solved::late(hit));
                }
            },
            // Other operations are short, and cannot be stopped half-way.
            _ => {
                let (this, vertex, trees) = (Arc::clone(self), Arc::clone(vertex), trees.clone());
                let task = tokio::spawn(async move { this.operate(&vertex, &trees).await });
                task.await.map_err(|panic| SolveError::internal(format!("a task ended unexpectedly: {panic}")))??
            }
        };
        self.remember(vertex, &parts, (&key, &fast, &key), &outputs).await?;
        drop(lock);
        Ok(Solved {
            canonical: key,
            outputs: outputs.into_iter().map(Tree::Layers).collect(),
            cached: false,
            known: false,
        })
    }

    async fn content_key(
        self: &Arc<Self>,
        vertex: &Arc<Vertex>,
        inputs: &[Arc<Solved>],
        trees: &[Tree],
    ) -> Result<(CacheKey, Vec<Part>), SolveError> {
        let mut parts = Vec::with_capacity(inputs.len());
        let dependencies = key::dependencies(vertex);
        for (i, dependency) in dependencies.iter().enumerate() {
            parts.push(match (dependency, &trees[i]) {
                (Dependency::Content(selections), tree) => Part::Content(self.content(vertex, tree, selections).await?),
                (Dependency::Definition, tree @ Tree::Local(_)) => {
                    Part::Content(self.content(vertex, tree, &[super::keys::whole()]).await?)
                }
                (Dependency::Definition, Tree::Layers(_)) => {
                    Part::Key(inputs[i].canonical.clone(), vertex.inputs[i].index)
                }
            });
        }
        Ok((key::combine(&key::operation(vertex), &parts), parts))
    }

    /// Notes what steps read: when that had to be made, they have to run.
    pub(super) fn note_steps(&self, graph: &Graph) {
        let steps = graph.vertices.values().filter(|vertex| matches!(vertex.op.kind, Some(Kind::Exec(_))));
        lock(&self.before_steps).extend(steps.flat_map(|step| step.inputs.iter().map(|edge| edge.vertex.clone())));
    }

    /// Notes who reads what: a result with one reader need not outlive it.
    pub(super) fn note_readers(&self, graph: &Graph) {
        let mut readers = lock(&self.readers);
        for vertex in graph.vertices.values() {
            for edge in &vertex.inputs {
                readers.entry(edge.vertex.clone()).or_default().insert(Some(vertex.digest.clone()));
            }
        }
        // The outputs are a reader too.
        if let Some(root) = &graph.root {
            readers.entry(root.vertex.clone()).or_default().insert(None);
        }
    }

    /// Whether this vertex is the only reader of its input number `input`.
    pub(super) fn is_last_reader(&self, vertex: &Vertex, input: i64) -> bool {
        let edge = usize::try_from(input).ok().and_then(|input| vertex.inputs.get(input));
        let readers = lock(&self.readers);
        edge.and_then(|edge| readers.get(&edge.vertex)).is_some_and(|readers| readers.len() == 1)
    }

    /// Whether a step reads what this vertex makes.
    pub(super) fn is_before_step(&self, vertex: &Vertex) -> bool {
        lock(&self.before_steps).contains(&vertex.digest)
    }

    /// Runs the operation. Sources never come here.
    async fn operate(self: &Arc<Self>, vertex: &Arc<Vertex>, trees: &[Tree]) -> Result<Vec<Vec<LayerId>>, SolveError> {
        lock(&self.begun).insert(vertex.digest.clone());
        match &vertex.op.kind {
            Some(Kind::File(file)) => {
                self.env.events.started(&vertex.digest);
                if let (true, Ok(runner)) = (self.is_before_step(vertex), &self.env.steps) {
                    runner.expect_step();
                }
                self.file_op(vertex, file, trees).await
            }
            Some(Kind::Exec(exec)) => self.exec_op(vertex, exec, trees).await,
            Some(Kind::Merge(merge)) => {
                self.env.events.started(&vertex.digest);
                let mut chain = Vec::new();
                for input in &merge.inputs {
                    let tree = usize::try_from(input.input).ok().and_then(|i| trees.get(i));
                    chain.extend(match tree {
                        Some(tree) => self.layers(vertex, tree).await?,
                        None => Vec::new(),
                    });
                }
                Ok(vec![chain])
            }
            Some(Kind::Diff(diff)) => {
                self.env.events.started(&vertex.digest);
                Ok(vec![self.diff_op(vertex, diff, trees).await?])
            }
            // What is in a file took its place when the graph came in.
            Some(Kind::Build(_)) => Err(SolveError::internal("a BuildOp that nobody has read")),
            Some(Kind::Passthrough(op)) => {
                self.env.events.started(&vertex.digest);
                self.passthrough_op(vertex, op, trees).await
            }
            Some(Kind::Source(_)) | None => Err(SolveError::internal("an operation without a kind")),
        }
    }

    async fn remember(
        &self,
        vertex: &Arc<Vertex>,
        parts: &[Part],
        (key, fast, canonical): (&CacheKey, &CacheKey, &CacheKey),
        outputs: &[Vec<LayerId>],
    ) -> Result<(), SolveError> {
        let now = SystemTime::now();
        let record = CacheRecord {
            key: key.clone(),
            canonical: canonical.clone(),
            outputs: outputs.to_vec(),
            inputs: self.record_inputs(vertex, parts),
            description: vertex.name(),
            created: now,
            last_used: now,
            usage: 0,
        };
        let (store, fast, vertex) = (self.env.store.clone(), fast.clone(), Arc::clone(vertex));
        blocking(move || {
            store.put_record(&record).map_err(|e| tree::store_error(&vertex, &e))?;
            if fast != record.key {
                store.alias(&fast, &record.key).map_err(|e| tree::store_error(&vertex, &e))?;
            }
            Ok(())
        })
        .await
    }

    async fn alias(&self, vertex: &Arc<Vertex>, from: &CacheKey, to: &CacheKey) -> Result<(), SolveError> {
        if from == to {
            return Ok(());
        }
        let (store, from, to, vertex) = (self.env.store.clone(), from.clone(), to.clone(), Arc::clone(vertex));
        blocking(move || store.alias(&from, &to).map_err(|e| tree::store_error(&vertex, &e))).await
    }
}
