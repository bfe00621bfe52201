//! Definitions: the marshalled graph, the builder that makes one and the graph read back from one.

use std::collections::{BTreeMap, HashMap};

use prost::Message;

use super::op::{Input, Op, OpMetadata};
use crate::base::Digest;

/// The protobuf form of a definition (SPEC C1.01, C1.15).
#[derive(Clone, PartialEq, Message)]
pub struct PbDefinition {
    /// Marshalled ops in topological order; the last one is terminal.
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub def: Vec<Vec<u8>>,
    /// By op digest.
    #[prost(btree_map = "string, message", tag = "2")]
    pub metadata: BTreeMap<String, OpMetadata>,
    /// Where ops come from in source files.
    #[prost(message, optional, tag = "3")]
    pub source: Option<SourceMap>,
}

/// Maps ops to places in source files.
#[derive(Clone, PartialEq, Message)]
pub struct SourceMap {
    /// By op digest.
    #[prost(btree_map = "string, message", tag = "1")]
    pub locations: BTreeMap<String, Locations>,
    /// The files.
    #[prost(message, repeated, tag = "2")]
    pub infos: Vec<SourceInfo>,
}

/// Places of one op.
#[derive(Clone, PartialEq, Message)]
pub struct Locations {
    /// In order of relevance.
    #[prost(message, repeated, tag = "1")]
    pub locations: Vec<Location>,
}

/// A place.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Location {
    /// Index into [`SourceMap::infos`].
    #[prost(int32, tag = "1")]
    pub source_index: i32,
    /// Ranges.
    #[prost(message, repeated, tag = "2")]
    pub ranges: Vec<Range>,
}

/// A range of text.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Range {
    /// First position.
    #[prost(message, optional, tag = "1")]
    pub start: Option<Position>,
    /// Last position.
    #[prost(message, optional, tag = "2")]
    pub end: Option<Position>,
}

/// A position: 1-based line, 0-based character.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Position {
    /// Line.
    #[prost(int32, tag = "1")]
    pub line: i32,
    /// Character.
    #[prost(int32, tag = "2")]
    pub character: i32,
}

/// A source file.
#[derive(Clone, PartialEq, Message)]
pub struct SourceInfo {
    /// Name to show.
    #[prost(string, tag = "1")]
    pub filename: String,
    /// Content.
    #[prost(bytes = "vec", tag = "2")]
    pub data: Vec<u8>,
    /// Where it came from.
    #[prost(message, optional, boxed, tag = "3")]
    pub definition: Option<Box<PbDefinition>>,
    /// e.g. `Dockerfile`.
    #[prost(string, tag = "4")]
    pub language: String,
}

/// A marshalled graph. Foreign ones keep each op's raw bytes, over which they are digested.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Definition {
    /// The protobuf form.
    pub pb: PbDefinition,
}

/// One output of one vertex.
#[derive(Clone, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct Edge {
    /// The vertex.
    pub vertex: Digest,
    /// Which output.
    pub index: usize,
}

/// A vertex read back from a definition.
#[derive(Clone, Debug)]
pub struct Vertex {
    /// Digest of the op's raw bytes.
    pub digest: Digest,
    /// The op.
    pub op: Op,
    /// Its inputs, resolved.
    pub inputs: Vec<Edge>,
    /// Name, cache flags.
    pub metadata: OpMetadata,
    /// File name and 1-based inclusive line ranges it comes from.
    pub location: Option<(String, Vec<(u32, u32)>)>,
}

impl Vertex {
    /// The name to show.
    #[must_use]
    pub fn name(&self) -> String {
        if let Some(name) = self.metadata.description.get(super::op::CUSTOM_NAME) {
            return name.clone();
        }
        match &self.op.kind {
            Some(super::op::Kind::Source(s)) => s.identifier.clone(),
            Some(super::op::Kind::Exec(e)) => e.meta.as_ref().map(|m| m.args.join(" ")).unwrap_or_default(),
            Some(super::op::Kind::File(_)) => "file operation".into(),
            Some(super::op::Kind::Merge(_)) => "merge".into(),
            Some(super::op::Kind::Diff(_)) => "diff".into(),
            _ => self.digest.short().into(),
        }
    }
}

/// A whole graph and the edge it is about.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// By digest.
    pub vertices: HashMap<Digest, std::sync::Arc<Vertex>>,
    /// The result; `None` is an empty tree.
    pub root: Option<Edge>,
}

impl Graph {
    /// Every vertex that `root` needs, in an order in which they can run.
    #[must_use]
    pub fn in_order(&self, root: &Edge) -> Vec<std::sync::Arc<Vertex>> {
        let mut order = Vec::new();
        let mut seen = std::collections::HashSet::new();
        let mut stack = vec![(&root.vertex, false)];
        while let Some((digest, ready)) = stack.pop() {
            let Some(vertex) = self.vertices.get(digest) else { continue };
            if ready {
                order.push(std::sync::Arc::clone(vertex));
            } else if seen.insert(digest) {
                stack.push((digest, true));
                stack.extend(vertex.inputs.iter().rev().map(|e| (&e.vertex, false)));
            }
        }
        order
    }
}

/// Why a definition is refused.
#[derive(Debug, thiserror::Error)]
pub enum DefinitionError {
    /// Bytes that are not an op.
    #[error("invalid LLB definition: op {index}: {source}")]
    Decode {
        /// Position in the definition.
        index: usize,
        /// What protobuf said.
        source: prost::DecodeError,
    },
    /// The last op must name exactly one result.
    #[error("invalid LLB definition: the terminal op has {0} inputs, expected 1")]
    Terminal(usize),
    /// An op refers to one that is not there, or comes later.
    #[error("invalid LLB definition: op {op} refers to {input}, which does not come before it")]
    UnknownInput {
        /// The referring op.
        op: Digest,
        /// What it refers to.
        input: String,
    },
}

impl Definition {
    /// Reads a marshalled definition; [`Definition::graph`] says whether it makes sense.
    ///
    /// # Errors
    /// For bytes that are none.
    pub fn decode(bytes: &[u8]) -> Result<Self, prost::DecodeError> {
        Ok(Self { pb: PbDefinition::decode(bytes)? })
    }

    /// Whether it stands for an empty tree.
    #[must_use]
    pub fn is_scratch(&self) -> bool {
        self.pb.def.is_empty()
    }

    /// Reads the graph back, checking that every input comes before its user.
    ///
    /// # Errors
    /// See [`DefinitionError`].
    pub fn graph(&self) -> Result<Graph, DefinitionError> {
        let mut graph = Graph::default();
        let Some(last) = self.pb.def.len().checked_sub(1) else { return Ok(graph) };
        for (index, bytes) in self.pb.def.iter().enumerate() {
            let op = Op::decode(bytes.as_slice()).map_err(|source| DefinitionError::Decode { index, source })?;
            let digest = Digest::sha256(bytes);
            let mut inputs = Vec::with_capacity(op.inputs.len());
            for input in &op.inputs {
                let known = input.digest.parse().ok().filter(|d| graph.vertices.contains_key(d));
                let (Some(vertex), Ok(index)) = (known, usize::try_from(input.index)) else {
                    return Err(DefinitionError::UnknownInput { op: digest, input: input.digest.clone() });
                };
                inputs.push(Edge { vertex, index });
            }
            if index == last {
                let [edge] = inputs.as_slice() else { return Err(DefinitionError::Terminal(inputs.len())) };
                graph.root = Some(edge.clone());
                break;
            }
            let metadata = self.pb.metadata.get(digest.as_str()).cloned().unwrap_or_default();
            let location = self.location(&digest);
            let vertex = Vertex { digest: digest.clone(), op, inputs, metadata, location };
            graph.vertices.insert(digest, std::sync::Arc::new(vertex));
        }
        Ok(graph)
    }

    fn location(&self, digest: &Digest) -> Option<(String, Vec<(u32, u32)>)> {
        let source = self.pb.source.as_ref()?;
        let place = source.locations.get(digest.as_str())?.locations.first()?;
        let info = source.infos.get(usize::try_from(place.source_index).ok()?)?;
        let line = |p: &Option<Position>| p.as_ref().and_then(|p| u32::try_from(p.line).ok());
        let ranges = place.ranges.iter().filter_map(|r| Some((line(&r.start)?, line(&r.end)?))).collect();
        Some((info.filename.clone(), ranges))
    }
}

/// Builds a definition op by op; equal ops become one vertex.
#[derive(Default)]
pub struct Builder {
    ops: Vec<Vec<u8>>,
    seen: HashMap<Digest, usize>,
    metadata: BTreeMap<String, OpMetadata>,
    source: SourceMap,
}

impl Builder {
    /// An empty graph whose ops come from the file `filename` with content `data`.
    #[must_use]
    pub fn with_source(filename: &str, data: &[u8]) -> Self {
        let info = SourceInfo {
            filename: filename.into(),
            data: data.to_vec(),
            definition: None,
            language: "Dockerfile".into(),
        };
        Self { source: SourceMap { locations: BTreeMap::new(), infos: vec![info] }, ..Self::default() }
    }

    /// Adds an op with its inputs filled in by the caller through [`Builder::input`], its metadata and the lines it
    /// comes from. Adding an equal op again keeps the first one's metadata, but one that ignores the cache ignores it for
    /// all.
    pub fn add(&mut self, op: &Op, metadata: OpMetadata, lines: &[(u32, u32)]) -> Edge {
        let bytes = op.encode_to_vec();
        let digest = Digest::sha256(&bytes);
        if self.seen.contains_key(&digest) {
            if let Some(known) = self.metadata.get_mut(digest.as_str()) {
                known.ignore_cache |= metadata.ignore_cache;
            }
        } else {
            self.seen.insert(digest.clone(), self.ops.len());
            self.ops.push(bytes);
            self.metadata.insert(digest.to_string(), metadata);
            if !lines.is_empty() && !self.source.infos.is_empty() {
                let position = |line: u32| Some(Position { line: line.try_into().unwrap_or(i32::MAX), character: 0 });
                let ranges = lines.iter().map(|&(a, b)| Range { start: position(a), end: position(b) }).collect();
                let locations = vec![Location { source_index: 0, ranges }];
                self.source.locations.insert(digest.to_string(), Locations { locations });
            }
        }
        Edge { vertex: digest, index: 0 }
    }

    /// Adds a whole graph, byte for byte; its result, unless that is an empty tree.
    pub fn include(&mut self, definition: &Definition) -> Option<Edge> {
        let (last, ops) = definition.pb.def.split_last()?;
        for bytes in ops {
            let digest = Digest::sha256(bytes);
            if !self.seen.contains_key(&digest) {
                self.seen.insert(digest.clone(), self.ops.len());
                self.ops.push(bytes.clone());
                let metadata = definition.pb.metadata.get(digest.as_str()).cloned();
                self.metadata.insert(digest.to_string(), metadata.unwrap_or_default());
            }
        }
        let terminal = Op::decode(last.as_slice()).ok()?;
        let input = terminal.inputs.first()?;
        Some(Edge { vertex: input.digest.parse().ok()?, index: usize::try_from(input.index).ok()? })
    }

    /// The protobuf form of an edge.
    #[must_use]
    pub fn input(edge: &Edge) -> Input {
        Input { digest: edge.vertex.to_string(), index: i64::try_from(edge.index).unwrap_or(i64::MAX) }
    }

    /// The definition whose result is `root`, with only what `root` needs; `None` is an empty tree.
    #[must_use]
    pub fn finish(&self, root: Option<&Edge>) -> Definition {
        let Some(root) = root else { return Definition::default() };
        let mut needed = vec![false; self.ops.len()];
        let mut stack = vec![root.vertex.to_string()];
        while let Some(digest) = stack.pop() {
            let at = digest.parse::<Digest>().ok().and_then(|d| self.seen.get(&d).copied());
            let Some(at) = at.filter(|&i| !std::mem::replace(&mut needed[i], true)) else { continue };
            let op = Op::decode(self.ops[at].as_slice()).unwrap_or_default();
            stack.extend(op.inputs.into_iter().map(|i| i.digest));
        }
        let mut pb = PbDefinition {
            source: Some(SourceMap { infos: self.source.infos.clone(), ..SourceMap::default() }),
            ..PbDefinition::default()
        };
        for (bytes, _) in self.ops.iter().zip(&needed).filter(|(_, needed)| **needed) {
            let digest = Digest::sha256(bytes).to_string();
            if let Some(metadata) = self.metadata.get(&digest) {
                pb.metadata.insert(digest.clone(), metadata.clone());
            }
            if let (Some(places), Some(source)) = (self.source.locations.get(&digest), pb.source.as_mut()) {
                source.locations.insert(digest, places.clone());
            }
            pb.def.push(bytes.clone());
        }
        pb.def.push(Op { inputs: vec![Self::input(root)], ..Op::default() }.encode_to_vec());
        Definition { pb }
    }
}

#[cfg(test)]
mod tests {
    use super::super::op::{Kind, SourceOp};
    use super::*;

    fn source(id: &str, inputs: &[&Edge]) -> Op {
        Op {
            inputs: inputs.iter().map(|e| Builder::input(e)).collect(),
            kind: Some(Kind::Source(SourceOp { identifier: id.into(), ..SourceOp::default() })),
            ..Op::default()
        }
    }

    #[test]
    fn c1_01_round_trips_and_drops_what_is_not_needed() {
        let mut b = Builder::with_source("Dockerfile", b"FROM a\n");
        let a = b.add(&source("a", &[]), OpMetadata::named("first"), &[(1, 1)]);
        let unused = b.add(&source("unused", &[]), OpMetadata::default(), &[]);
        let c = b.add(&source("c", &[&a]), OpMetadata::default(), &[]);
        assert_eq!(b.add(&source("a", &[]), OpMetadata::named("again"), &[]), a);
        let graph = b.finish(Some(&c)).graph().expect("valid");
        assert_eq!(graph.root, Some(c));
        assert!(!graph.vertices.contains_key(&unused.vertex));
        let first = &graph.vertices[&a.vertex];
        assert_eq!(first.name(), "first");
        assert_eq!(first.location, Some(("Dockerfile".into(), vec![(1, 1)])));
    }

    #[test]
    fn c1_15_locations_say_which_lines_of_which_file() {
        let text = b"FROM a\nRUN b \\\n c\n";
        let mut b = Builder::with_source("Dockerfile", text);
        let a = b.add(&source("a", &[]), OpMetadata::default(), &[(1, 1), (2, 3)]);
        let definition = b.finish(Some(&a));
        let bytes = definition.pb.source.as_ref().expect("there").encode_to_vec();
        let map = SourceMap::decode(bytes.as_slice()).expect("what was written");
        let info = &map.infos[0];
        assert_eq!((info.filename.as_str(), info.language.as_str()), ("Dockerfile", "Dockerfile"));
        assert_eq!(info.data, text);
        let place = &map.locations[a.vertex.as_str()].locations[0];
        assert_eq!(place.source_index, 0);
        let line = |position: &Option<Position>| position.as_ref().map(|p| p.line);
        let ranges: Vec<_> = place.ranges.iter().map(|range| (line(&range.start), line(&range.end))).collect();
        assert_eq!(ranges, [(Some(1), Some(1)), (Some(2), Some(3))]);
        // Field 1 the line, field 2 the character.
        assert_eq!(Position { line: 5, character: 7 }.encode_to_vec(), [0x08, 5, 0x10, 7]);
        let vertex = &definition.graph().expect("valid").vertices[&a.vertex];
        assert_eq!(vertex.location, Some(("Dockerfile".into(), vec![(1, 1), (2, 3)])));
    }

    #[test]
    fn a_graph_can_be_part_of_another() {
        let mut inner = Builder::default();
        let a = inner.add(&source("a", &[]), OpMetadata::named("first"), &[]);
        let inner = inner.finish(Some(&a));
        let mut outer = Builder::default();
        assert_eq!(outer.include(&Definition::default()), None);
        let found = outer.include(&inner).expect("a result");
        assert_eq!((&found, outer.include(&inner).as_ref()), (&a, Some(&a)));
        let b = outer.add(&source("b", &[&found]), OpMetadata::default(), &[]);
        let graph = outer.finish(Some(&b)).graph().expect("valid");
        assert_eq!((graph.vertices.len(), graph.vertices[&a.vertex].name().as_str()), (2, "first"));
    }

    #[test]
    fn bad_definitions_are_refused() {
        let op = source("x", &[&Edge { vertex: Digest::sha256(b"gone"), index: 0 }]).encode_to_vec();
        let definition = Definition { pb: PbDefinition { def: vec![op, vec![]], ..PbDefinition::default() } };
        assert!(matches!(definition.graph(), Err(DefinitionError::UnknownInput { .. })));
        let definition = Definition { pb: PbDefinition { def: vec![vec![]], ..PbDefinition::default() } };
        assert!(matches!(definition.graph(), Err(DefinitionError::Terminal(0))));
        let definition = Definition { pb: PbDefinition { def: vec![vec![0xff]], ..PbDefinition::default() } };
        assert!(matches!(definition.graph(), Err(DefinitionError::Decode { .. })));
    }
}
