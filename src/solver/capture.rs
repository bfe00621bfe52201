//! What graphs were made from, for provenance (SPEC C4.13): known of every source, also where a result was in the cache.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use super::tree::Tree;
use super::{SolveError, Solver, Solving, lock};
use crate::attest::{Capture, Material, StepUsage};
use crate::base::Digest;
use crate::exec::run::RunResult;
use crate::llb::op::{ExecOp, Kind, MountType, NetMode, SourceOp};
use crate::llb::{Graph, Vertex};
use crate::oci::Platform;
use crate::store::LayerId;

impl Solver {
    /// What a graph is made from. Every source was pinned when it was solved, so nothing is asked again.
    ///
    /// # Errors
    /// When a source that nothing needed so far cannot be pinned.
    pub async fn capture(self: &Arc<Self>, graph: &Arc<Graph>) -> Result<Capture, SolveError> {
        let mut out = Capture::default();
        let Some(root) = &graph.root else { return Ok(out) };
        for vertex in graph.in_order(root) {
            match &vertex.op.kind {
                Some(Kind::Source(source)) => self.capture_source(graph, &vertex, source, &mut out).await?,
                Some(Kind::Exec(exec)) => capture_step(exec, &mut out),
                _ => {}
            }
        }
        Ok(out.sorted())
    }

    async fn capture_source(
        self: &Arc<Self>,
        graph: &Arc<Graph>,
        vertex: &Arc<Vertex>,
        source: &SourceOp,
        out: &mut Capture,
    ) -> Result<(), SolveError> {
        let (scheme, rest) = source.identifier.split_once("://").unwrap_or((source.identifier.as_str(), ""));
        match scheme {
            "docker-image" | "oci-layout" => {
                let platform = vertex.op.platform.as_ref().map_or_else(Platform::host, Into::into);
                let image = self.env.images.resolve_op(source, &platform).await;
                let image = image.map_err(|e| SolveError::at(vertex, e.kind(), e.to_string(), e.hint()))?;
                out.images.push(Material::image(&source.identifier, &image.digest, &platform));
            }
            "local" => out.locals.push(rest.to_owned()),
            _ => {
                // Where a later result was known by its definition, nobody needed to know what this is.
                self.keyed(graph, &vertex.digest).await?;
                out.remote.extend(lock(&self.materials).get(&vertex.digest).cloned());
            }
        }
        Ok(())
    }

    /// The layers of the results that are known, by vertex and output.
    #[must_use]
    pub fn chains(&self, graph: &Graph) -> BTreeMap<(Digest, usize), Vec<LayerId>> {
        let mut out = BTreeMap::new();
        let (solved, keyed) = (lock(&self.solved), lock(&self.keyed));
        for digest in graph.vertices.keys() {
            let result = solved.get(digest).and_then(Solving::result).map(|s| &s.outputs);
            let hit = || keyed.get(digest)?.peek()?.as_ref().ok()?.hit.as_ref().map(|hit| &hit.outputs);
            for (index, tree) in result.or_else(hit).into_iter().flatten().enumerate() {
                if let Tree::Layers(chain) = tree {
                    out.insert((digest.clone(), index), chain.clone());
                }
            }
        }
        out
    }

    /// Keeps what a step used, for [`Solver::usage`].
    pub(super) fn note_usage(&self, vertex: &Digest, result: &RunResult) {
        let nanos = |us: u64| us.saturating_mul(1000);
        let usage = StepUsage {
            ended: Timestamp::now(),
            user_ns: nanos(result.usage.user_us),
            system_ns: nanos(result.usage.system_us),
            peak: result.usage.max_rss,
        };
        lock(&self.usage).insert(vertex.clone(), usage);
    }

    /// What the steps that ran used, by vertex; those found in a cache used nothing.
    #[must_use]
    pub fn usage(&self) -> BTreeMap<Digest, StepUsage> {
        lock(&self.usage).clone()
    }
}

fn capture_step(exec: &ExecOp, out: &mut Capture) {
    // Of two steps that use one thing, one that insists on it counts.
    let note = |map: &mut BTreeMap<String, bool>, id: &str, optional: bool| {
        *map.entry(id.to_owned()).or_insert(true) &= optional;
    };
    for mount in &exec.mounts {
        if mount.mount_type == MountType::Secret as i32 {
            let secret = mount.secret_opt.clone().unwrap_or_default();
            note(&mut out.secrets, &secret.id, secret.optional);
        } else if mount.mount_type == MountType::Ssh as i32 {
            let agent = mount.ssh_opt.clone().unwrap_or_default();
            note(&mut out.ssh, if agent.id.is_empty() { "default" } else { &agent.id }, agent.optional);
        }
    }
    for secret in &exec.secretenv {
        note(&mut out.secrets, &secret.id, secret.optional);
    }
    out.network |= exec.network != NetMode::None as i32;
}
