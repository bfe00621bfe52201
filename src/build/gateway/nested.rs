//! Graphs that are files of other graphs' results (SPEC C1.12, `BuildOp`). They are read when the graph around them is handed in, pass
//! the same policies, and take the place of the operations that name them: nothing behind knows that they came from a file.

use std::collections::HashMap;

use super::host::{FrontHost, MAX_OPS};
use crate::base::Digest;
use crate::grpc::{Status, code};
use crate::llb::op::{BuildOp, Kind, MergeOp, Op, OpMetadata};
use crate::llb::{Builder, Definition, Edge, strict};
use crate::tree::look;

/// Graphs in graphs, not for ever.
const MAX_DEPTH: usize = 8;
/// Larger files are refused.
const MAX_SIZE: u64 = 16 << 20;
/// The only builder that there is: what is read is a definition.
const LLB_BUILDER: i64 = -1;
/// Name of the input that has the file, and of the file.
const DEFINITION: &str = "buildkit.llb.definition";
/// The attribute that gives the file another name.
const FILENAME: &str = "llbbuild.filename";

fn invalid(message: impl Into<String>) -> Status {
    Status::new(code::INVALID_ARGUMENT, message)
}

/// Whether a definition has graphs that are to be read.
pub(super) fn has_nested(definition: &Definition) -> bool {
    definition.pb.def.iter().any(|bytes| matches!(decoded(bytes), Some(Op { kind: Some(Kind::Build(_)), .. })))
}

fn decoded(bytes: &[u8]) -> Option<Op> {
    prost::Message::decode(bytes).ok()
}

/// How much may still be read.
struct Budget {
    ops: usize,
    depth: usize,
}

impl Budget {
    fn take(&mut self, ops: usize) -> Result<(), Status> {
        let text = || format!("graphs in graphs with more than {MAX_OPS} operations");
        self.ops = self.ops.checked_sub(ops).ok_or_else(|| Status::new(code::RESOURCE_EXHAUSTED, text()))?;
        Ok(())
    }
}

impl FrontHost<'_> {
    /// The definition with what its graphs in files are in their place. Solves what the files are in.
    pub(super) async fn expanded(&self, definition: &Definition) -> Result<Definition, Status> {
        let mut budget = Budget { ops: MAX_OPS, depth: MAX_DEPTH };
        self.expand(definition, &mut budget).await
    }

    async fn expand(&self, definition: &Definition, budget: &mut Budget) -> Result<Definition, Status> {
        budget.take(definition.pb.def.len())?;
        // Broken ones are told as such.
        let graph = definition.graph().map_err(|e| invalid(e.to_string()))?;
        let mut builder = Builder::default();
        let mut places: HashMap<Digest, Place> = HashMap::new();
        for bytes in &definition.pb.def {
            let digest = Digest::sha256(bytes);
            let Some(vertex) = graph.vertices.get(&digest) else { continue };
            let mut op = vertex.op.clone();
            let inputs = vertex.inputs.iter().map(|edge| moved(edge, &places)).collect::<Result<Vec<_>, _>>()?;
            let place = match &op.kind {
                Some(Kind::Build(build)) => {
                    let nested = self.nested(build, &inputs, &builder, budget).await?;
                    let root = builder.include(&nested);
                    Place::Result(root.unwrap_or_else(|| {
                        // An empty tree: nothing put together.
                        let empty = Op { kind: Some(Kind::Merge(MergeOp::default())), ..Op::default() };
                        builder.add(&empty, OpMetadata::default(), &[])
                    }))
                }
                _ => {
                    op.inputs = inputs.iter().map(Builder::input).collect();
                    Place::Vertex(builder.add(&op, vertex.metadata.clone(), &[]).vertex)
                }
            };
            places.insert(digest, place);
        }
        let root = graph.root.as_ref().map(|root| moved(root, &places)).transpose()?;
        Ok(builder.finish(root.as_ref()))
    }

    /// What one operation stands for.
    async fn nested(
        &self,
        build: &BuildOp,
        inputs: &[Edge],
        builder: &Builder,
        budget: &mut Budget,
    ) -> Result<Definition, Status> {
        if build.builder != LLB_BUILDER {
            return Err(invalid("BuildOp: only LLB builder is currently allowed"));
        }
        let input = build.inputs.get(DEFINITION);
        let input = input.ok_or_else(|| invalid(format!("BuildOp: no llb definition input {DEFINITION} found")))?;
        let edge = usize::try_from(input.input).ok().and_then(|index| inputs.get(index));
        let edge = edge.ok_or_else(|| invalid(format!("BuildOp: there is no input {}", input.input)))?;
        let name = build.attrs.get(FILENAME).map_or(DEFINITION, String::as_str);
        let graph = self.admit_flat(builder.finish(Some(edge))).await?.graph;
        let bytes = self.look(&graph, name, |source, path| look::read(source, path, 0, MAX_SIZE + 1)).await?;
        if bytes.len() as u64 > MAX_SIZE {
            let text = format!("BuildOp: {name} is larger than {} MiB", MAX_SIZE >> 20);
            return Err(Status::new(code::RESOURCE_EXHAUSTED, text));
        }
        let definition = Definition::decode(&bytes);
        let definition = definition.map_err(|e| invalid(format!("BuildOp: {name} is no definition: {e}")))?;
        strict::check(&definition).map_err(|what| invalid(format!("BuildOp: {name}: {what}")))?;
        budget.depth = budget.depth.checked_sub(1).ok_or_else(|| {
            Status::new(code::RESOURCE_EXHAUSTED, format!("BuildOp: graphs in graphs, more than {MAX_DEPTH} deep"))
        })?;
        let expanded = Box::pin(self.expand(&definition, budget)).await;
        budget.depth += 1;
        expanded
    }
}

/// Where a vertex went.
enum Place {
    /// It is this one now, with the same results.
    Vertex(Digest),
    /// Its only result is this one.
    Result(Edge),
}

fn moved(edge: &Edge, places: &HashMap<Digest, Place>) -> Result<Edge, Status> {
    match places.get(&edge.vertex) {
        Some(Place::Vertex(vertex)) => Ok(Edge { vertex: vertex.clone(), index: edge.index }),
        Some(Place::Result(result)) if edge.index == 0 => Ok(result.clone()),
        Some(Place::Result(_)) => Err(invalid(format!("BuildOp: there is no result {}", edge.index))),
        None => Err(invalid(format!("an input {} that is not there", edge.vertex))),
    }
}
