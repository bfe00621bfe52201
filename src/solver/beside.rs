//! Programs that run beside the build and not in it: front ends, and what they look at with programs of their own. What they write
//! is thrown away, and they take no step's turn, since they wait for steps.

use std::path::PathBuf;
use std::sync::Arc;

use rootless::step::StepMount;

use super::exec_op::run_error;
use super::tree::Tree;
use super::{SolveError, Solver};
use crate::base::FaultKind;
use crate::exec::run::{Attachment, RunResult};
use crate::exec::secret::SecretFile;
use crate::llb::op::ExecOp;
use crate::llb::{Graph, Vertex};

/// A file that a program beside the build finds at a path.
#[derive(Debug, Clone)]
pub struct GivenFile {
    /// Where.
    pub path: PathBuf,
    /// What is in it.
    pub content: Vec<u8>,
}

impl Solver {
    /// Runs a program over the result of a graph, with `files` beside it. Its root is written to and forgotten.
    ///
    /// # Errors
    /// When the graph cannot be solved, or the program not be started; where steps can see each other, also when this build has
    /// secrets, which a step beside it could not keep.
    pub async fn run_beside(
        self: &Arc<Self>,
        graph: &Arc<Graph>,
        exec: &ExecOp,
        files: &[GivenFile],
        attachment: Attachment,
    ) -> Result<RunResult, SolveError> {
        let root = graph.root.as_ref().and_then(|root| Some((root, graph.vertices.get(&root.vertex).cloned()?)));
        let (root, vertex) = root.ok_or_else(|| SolveError::internal("a program that is in nothing"))?;
        let runner = self.runner(&vertex)?;
        let given = &self.env.secrets;
        if !(runner.context().steps_are_separate() || given.values.is_empty() && given.agents.is_empty()) {
            let message =
                "this build has secrets or agents, which cannot be kept from a program that runs beside its steps";
            let hint = "/proc is shared between steps here and the kernel has no Landlock; build without --secret and --ssh, \
                        or with the built-in front end (--frontend builtin)";
            return Err(SolveError::at(&vertex, FaultKind::Isolation, message, Some(hint.into())));
        }
        self.announce(graph, root);
        let tree = self.edge(graph, root).await?;
        self.run_in(&vertex, &[tree], exec, files, attachment).await
    }

    async fn run_in(
        self: &Arc<Self>,
        vertex: &Arc<Vertex>,
        trees: &[Tree],
        exec: &ExecOp,
        files: &[GivenFile],
        attachment: Attachment,
    ) -> Result<RunResult, SolveError> {
        let runner = self.runner(vertex)?;
        let mut written = Vec::new();
        let mut mounts = Vec::new();
        for file in files {
            let kept = SecretFile::write(&self.env.state_dir, &file.content, 0, 0, 0o444).map_err(|e| {
                let kind = FaultKind::of_io(&e, FaultKind::Store);
                SolveError::at(vertex, kind, format!("cannot hand over {}: {e}", file.path.display()), None)
            })?;
            let source = kept.path().to_path_buf();
            mounts.push(StepMount::Bind { source, target: file.path.clone(), readonly: true });
            written.push(kept);
        }
        let ready = self.ready(vertex, exec, trees, &runner, mounts).await?;
        let cancelled = self.env.cancel.cancelled();
        let result = runner.run_attached(ready.request(false), &self.env.events, attachment, cancelled).await;
        drop(written);
        result.map_err(|e| run_error(vertex, &e))
    }
}
