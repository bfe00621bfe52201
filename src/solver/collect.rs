//! What was solved, as other machines can use it: the graph with its content and its results (SPEC C7).

use std::collections::HashMap;
use std::sync::Arc;

use super::keys::{Hit, Keyed};
use super::tree::Tree;
use super::{SolveError, Solver, blocking, lock};
use crate::base::Digest;
use crate::cache::graph::{ExportGraph, ExportLink, ExportNode, ExportResult};
use crate::cache::import::selector;
use crate::cache::key::{self, Part};
use crate::llb::{Edge, Graph, Vertex};
use crate::store::LayerId;

impl Solver {
    /// The solved graphs. Everything that was looked up is in it, with the results that are known; local directories
    /// are what was selected from them.
    ///
    /// # Errors
    /// When a key cannot be made, or the store cannot be read.
    pub async fn collect(self: &Arc<Self>, graphs: &[Arc<Graph>]) -> Result<ExportGraph, SolveError> {
        let mut out = ExportGraph::default();
        let mut nodes: HashMap<Digest, usize> = HashMap::new();
        let mut contents: HashMap<Digest, usize> = HashMap::new();
        for graph in graphs {
            let Some(root) = &graph.root else { continue };
            self.collect_graph(graph, root, &mut out, &mut nodes, &mut contents).await?;
            out.roots.extend(nodes.get(&root.vertex));
        }
        Ok(out)
    }

    async fn collect_graph(
        self: &Arc<Self>,
        graph: &Arc<Graph>,
        root: &Edge,
        out: &mut ExportGraph,
        nodes: &mut HashMap<Digest, usize>,
        contents: &mut HashMap<Digest, usize>,
    ) -> Result<(), SolveError> {
        for vertex in graph.in_order(root) {
            if nodes.contains_key(&vertex.digest) {
                continue;
            }
            let keyed = self.keyed(graph, &vertex.digest).await?;
            if let Keyed { hit: Some(Hit { source: true, canonical, outputs, .. }), .. } = keyed.as_ref() {
                // A local directory is no node: what is selected from it is.
                if let Some(Tree::Layers(_)) = outputs.first() {
                    nodes.insert(vertex.digest.clone(), out.leaf(canonical.0.clone()));
                }
                continue;
            }
            if let Keyed { pinned: Some(_), key: Some(key), .. } = keyed.as_ref() {
                nodes.insert(vertex.digest.clone(), out.leaf(key.0.clone()));
                continue;
            }
            let mut inputs = Vec::with_capacity(vertex.inputs.len());
            for (at, edge) in vertex.inputs.iter().enumerate() {
                let mut links = Vec::new();
                if let Some(node) = nodes.get(&edge.vertex) {
                    links.push(ExportLink { selector: selector(edge.index), node: *node });
                }
                for content in self.contents(&vertex, &keyed, at) {
                    let digest = key::content_record(&content);
                    let node = *contents.entry(digest.clone()).or_insert_with(|| out.leaf(digest));
                    links.push(ExportLink { selector: String::new(), node });
                }
                inputs.push(links);
            }
            let result = self.result(&vertex, &keyed).await?;
            let digest = key::record(&key::operation(&vertex));
            nodes.insert(vertex.digest.clone(), out.nodes.len());
            out.nodes.push(ExportNode { digest, inputs, result });
        }
        Ok(())
    }

    /// What is known to have been selected from an input: from the definition, from this build, from an older one.
    fn contents(&self, vertex: &Vertex, keyed: &Keyed, at: usize) -> Vec<Digest> {
        let content = |parts: &[Part]| match parts.get(at) {
            Some(Part::Content(digest)) => Some(digest.clone()),
            _ => None,
        };
        let slow = lock(&self.parts).get(&vertex.digest).and_then(|parts| content(parts));
        let recorded = keyed.hit.as_ref().and_then(|hit| content(&hit.parts));
        let mut found: Vec<Digest> = [content(&keyed.parts), slow, recorded].into_iter().flatten().collect();
        found.sort();
        found.dedup();
        found
    }

    async fn result(&self, vertex: &Arc<Vertex>, keyed: &Keyed) -> Result<Option<ExportResult>, SolveError> {
        let first = |outputs: &[Tree]| match outputs.first() {
            Some(Tree::Layers(chain)) => Some(chain.clone()),
            _ => None,
        };
        let solved = match lock(&self.solved).get(&vertex.digest) {
            Some(super::Solving::Done(result)) => Some(result.clone()),
            _ => None,
        };
        let chain: Option<Vec<LayerId>> = match solved {
            Some(Ok(solved)) => first(&solved.outputs),
            _ => keyed.hit.as_ref().and_then(|hit| first(&hit.outputs)),
        };
        let Some(chain) = chain else { return Ok(None) };
        let Some(top) = chain.last().cloned() else { return Ok(None) };
        let store = self.env.store.clone();
        let created = blocking(move || {
            // A layer that went meanwhile is no result.
            Ok(store.layer(&top).ok().map(|layer| layer.created))
        })
        .await?;
        Ok(created.map(|created| ExportResult { chain, created }))
    }

    /// What went into a key, as records keep it.
    pub(super) fn record_inputs(&self, vertex: &Vertex, parts: &[Part]) -> serde_json::Value {
        let parts: Vec<serde_json::Value> = parts
            .iter()
            .map(|part| match part {
                Part::Key(key, output) => serde_json::json!({ "key": key, "output": output }),
                Part::Content(digest) => serde_json::json!({ "content": digest }),
            })
            .collect();
        serde_json::json!({ "op": key::operation(vertex), "parts": parts })
    }
}

/// What [`Solver::record_inputs`] wrote, as far as it can be read.
pub(super) fn recorded_parts(inputs: &serde_json::Value) -> Vec<Part> {
    let part = |value: &serde_json::Value| {
        let digest = |name: &str| value.get(name)?.as_str()?.parse::<Digest>().ok();
        match (digest("content"), digest("key")) {
            (Some(content), _) => Some(Part::Content(content)),
            (None, Some(key)) => {
                let output = value.get("output").and_then(serde_json::Value::as_u64).unwrap_or(0);
                Some(Part::Key(crate::base::CacheKey(key), usize::try_from(output).ok()?))
            }
            (None, None) => None,
        }
    };
    let parts = inputs.get("parts").and_then(|parts| parts.as_array());
    parts.and_then(|parts| parts.iter().map(part).collect::<Option<Vec<_>>>()).unwrap_or_default()
}
