//! Layers of the image are packed while later steps run, below their priority, and whoever wants them is told.
//!
//! The exporter asks for the same blobs at the end: it finds them, or waits for the one that is being made. What goes wrong here
//! goes wrong there again and is reported there.

use std::collections::HashSet;
use std::sync::mpsc::{Sender, channel};

use super::{LayersReady, Solved, Solver, Tree, lock};
use crate::archive::LayerOptions;
use crate::base::Digest;
use crate::llb::op::Kind;
use crate::llb::{Graph, Vertex};
use crate::store::{LayerId, Store};

/// How much less the threads that pack are worth than those that run steps (see nice(1)).
const NICE: i32 = 10;

/// The vertices whose layers end up in the result of `graph`, without the last: when that is done, the exporter starts.
pub(super) fn exported(graph: &Graph) -> HashSet<Digest> {
    let mut found = HashSet::new();
    let mut todo: Vec<&Digest> = graph.root.iter().map(|edge| &edge.vertex).collect();
    while let Some(digest) = todo.pop() {
        let Some(vertex) = graph.vertices.get(digest) else { continue };
        let below: Vec<i64> = match &vertex.op.kind {
            Some(Kind::File(op)) => op.actions.first().map(|action| action.input).into_iter().collect(),
            Some(Kind::Exec(op)) => op.mounts.iter().filter(|m| m.dest == "/").map(|m| m.input).collect(),
            Some(Kind::Merge(op)) => op.inputs.iter().map(|input| input.input).collect(),
            _ => continue,
        };
        let edges = below.into_iter().filter_map(|n| vertex.inputs.get(usize::try_from(n).ok()?));
        for edge in edges {
            if found.insert(edge.vertex.clone()) {
                todo.push(&edge.vertex);
            }
        }
    }
    found
}

/// Chains to pack, each with whether its lower layers may want it too.
type Job = (Vec<LayerId>, bool);

/// A thread that packs one layer after the other.
#[derive(Debug)]
pub(super) struct Packer(Sender<Job>);

impl Packer {
    fn start(store: Store, options: LayerOptions, ready: Option<LayersReady>) -> Option<Self> {
        let (sender, jobs) = channel::<Job>();
        let work = move || {
            // Where that is refused, it competes with the steps.
            let _ = rustix::process::setpriority_process(None, NICE);
            // A tree that later steps change in place cannot be packed while they run.
            let steady = store.snapshotter_name().ok() == Some("overlay");
            for (chain, whole) in jobs {
                let first = if whole { 1 } else { chain.len() };
                for end in first..=chain.len() {
                    if steady && chain[..end].last().is_some_and(LayerId::is_committed) {
                        let _ = store.derive_blob(&chain[..end], &options);
                    }
                }
                if let Some(ready) = &ready {
                    ready(&chain, false);
                }
            }
        };
        std::thread::Builder::new().name("early-pack".into()).spawn(work).ok().map(|_| Self(sender))
    }
}

impl Solver {
    /// Notes whose layers the outputs want.
    pub(super) fn note_exported(&self, graph: &Graph) {
        if self.env.layers.is_some() {
            lock(&self.exported).extend(exported(graph));
        }
    }

    /// Has the layers of a vertex that is done packed, if the image will have them.
    pub(super) fn pack_early(&self, vertex: &Vertex, solved: &Solved) {
        let Some(options) = self.env.layers.clone().filter(|_| lock(&self.exported).contains(&vertex.digest)) else {
            return;
        };
        let Some(Tree::Layers(chain)) = solved.outputs.first() else { return };
        if let Some(Kind::Source(_)) = &vertex.op.kind {
            if let Some(ready) = &self.env.ready {
                ready(chain, true);
            }
            return;
        }
        let mut packer = lock(&self.packer);
        if packer.is_none() {
            *packer = Packer::start(self.env.store.clone(), options, self.env.ready.clone());
        }
        if let Some(Packer(sender)) = &*packer {
            // Below what was found in a cache nothing else was looked at.
            let _ = sender.send((chain.clone(), solved.cached));
        }
    }
}
