//! What changed between two trees (SPEC C1.13), and trees passed on as they are (C1.14).

use std::sync::Arc;

use super::tree::{self, Tree};
use super::{SolveError, Solver, blocking};
use crate::archive::{ArchiveError, LayerOptions, diff_trees};
use crate::base::FaultKind;
use crate::llb::Vertex;
use crate::llb::op::{BuildInput, DiffOp, PassthroughOp};
use crate::store::{LayerId, MountRequest, StoreError};

/// Why a difference could not be written.
enum Problem {
    Store(StoreError),
    Archive(ArchiveError),
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Solver {
    /// The layers that turn the lower tree into the upper one: those that are above, or a new one that says what differs.
    pub(super) async fn diff_op(
        self: &Arc<Self>,
        vertex: &Arc<Vertex>,
        diff: &DiffOp,
        trees: &[Tree],
    ) -> Result<Vec<LayerId>, SolveError> {
        let lower = self.side(vertex, diff.lower.as_ref(), trees).await?;
        let upper = self.side(vertex, diff.upper.as_ref(), trees).await?;
        if let Some(above) = upper.strip_prefix(lower.as_slice()) {
            return Ok(above.to_vec());
        }
        let before = self.mount(vertex, &lower, MountRequest::read_only()).await?;
        let after = self.mount(vertex, &upper, MountRequest::read_only()).await?;
        let (store, place) = (self.env.store.clone(), Arc::clone(vertex));
        let options = self.env.layers.clone().unwrap_or_default();
        let layer = blocking(move || {
            let write = |store: &crate::store::Store, options: &LayerOptions| {
                store.write_layer(&[], &place.name(), options, |out| {
                    diff_trees(Some(before.root()), after.root(), out).map(drop).map_err(Problem::Archive)
                })
            };
            write(&store, &options).map_err(|problem| match problem {
                Problem::Store(e) => tree::store_error(&place, &e),
                Problem::Archive(e) => SolveError::at(&place, e.kind(), e.to_string(), None),
            })
        })
        .await?;
        Ok(vec![layer])
    }

    async fn side(
        self: &Arc<Self>,
        vertex: &Arc<Vertex>,
        input: Option<&BuildInput>,
        trees: &[Tree],
    ) -> Result<Vec<LayerId>, SolveError> {
        match input.and_then(|input| usize::try_from(input.input).ok()).and_then(|i| trees.get(i)) {
            Some(tree) => self.layers(vertex, tree).await,
            None => Ok(Vec::new()),
        }
    }

    /// The inputs that are outputs.
    pub(super) async fn passthrough_op(
        self: &Arc<Self>,
        vertex: &Arc<Vertex>,
        op: &PassthroughOp,
        trees: &[Tree],
    ) -> Result<Vec<Vec<LayerId>>, SolveError> {
        let mut out = Vec::with_capacity(op.outputs.len());
        for input in &op.outputs {
            let tree = usize::try_from(*input).ok().and_then(|i| trees.get(i));
            let tree = tree.ok_or_else(|| {
                SolveError::at(vertex, FaultKind::Input, format!("PassthroughOp: there is no input {input}"), None)
            })?;
            out.push(self.layers(vertex, tree).await?);
        }
        Ok(out)
    }
}
