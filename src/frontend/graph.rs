//! The graph while it is being written.
//!
//! Ops refer to each other by [`NodeId`], not by digest, because one thing is only known at the end: which paths of
//! a local context are needed (SPEC A9.06). [`Draft::finish_all`] fills that in and hands over to [`Builder`].

use std::collections::{BTreeMap, BTreeSet};

use crate::llb::op::{Kind, MergeOp, Op, OpMetadata, SourceOp};
use crate::llb::{Builder, Definition, Edge};

/// A vertex of a [`Draft`]; only its first output is ever used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct NodeId(usize);

/// Lines of the Dockerfile.
pub(super) type Lines = Vec<(u32, u32)>;

struct Node {
    body: Body,
    inputs: Vec<NodeId>,
    metadata: OpMetadata,
    lines: Lines,
}

enum Body {
    Op(Op),
    Local(Local),
    Given(Definition),
}

/// A directory of the machine that runs the build.
struct Local {
    name: String,
    excludes: Vec<String>,
    paths: BTreeSet<String>,
}

/// A graph under construction.
#[derive(Default)]
pub(super) struct Draft {
    nodes: Vec<Node>,
    locals: BTreeMap<String, NodeId>,
}

impl Draft {
    /// Adds an op whose inputs are `inputs`, in this order. Trees of local contexts that the op builds upon are
    /// needed whole; where it only copies from one, [`Draft::needs`] says what.
    pub(super) fn add(
        &mut self,
        kind: Kind,
        inputs: Vec<NodeId>,
        platform: Option<crate::llb::op::Platform>,
        metadata: OpMetadata,
        lines: Lines,
    ) -> NodeId {
        let op = Op { kind: Some(kind), platform, ..Op::default() };
        self.push(Node { body: Body::Op(op), inputs, metadata, lines })
    }

    /// The local context `name`; the first call decides title and exclusions.
    pub(super) fn local(&mut self, name: &str, title: String, excludes: Vec<String>) -> NodeId {
        if let Some(&id) = self.locals.get(name) {
            return id;
        }
        let local = Local { name: name.into(), excludes, paths: BTreeSet::new() };
        let metadata = OpMetadata::named(title);
        let id = self.push(Node { body: Body::Local(local), inputs: Vec::new(), metadata, lines: Vec::new() });
        self.locals.insert(name.into(), id);
        id
    }

    /// The result of a graph that was given, as it is.
    pub(super) fn given(&mut self, definition: &Definition) -> NodeId {
        let body = Body::Given(definition.clone());
        self.push(Node { body, inputs: Vec::new(), metadata: OpMetadata::default(), lines: Vec::new() })
    }

    /// Notes that `path` of `tree` is read by what stands at `lines`. Of use for local contexts only.
    pub(super) fn needs(&mut self, tree: Option<NodeId>, path: &str, lines: (u32, u32)) {
        let Some(node) = tree.map(|id| &mut self.nodes[id.0]) else { return };
        let Body::Local(local) = &mut node.body else { return };
        local.paths.insert(follow_path(path));
        if !node.lines.contains(&lines) {
            node.lines.push(lines);
        }
    }

    /// Notes that everything in `tree` is read. Of use for local contexts only.
    pub(super) fn whole(&mut self, tree: NodeId) {
        if let Body::Local(local) = &mut self.nodes[tree.0].body {
            local.paths.insert(String::new());
        }
    }

    /// The definitions whose results are `roots`; they share steps.
    pub(super) fn finish_all(mut self, roots: &[Option<NodeId>], filename: &str, source: &[u8]) -> Vec<Definition> {
        for root in roots.iter().flatten() {
            self.whole(*root);
        }
        let mut builder = Builder::with_source(filename, source);
        let mut edges: Vec<Edge> = Vec::with_capacity(self.nodes.len());
        for node in self.nodes {
            let mut op = match node.body {
                Body::Op(op) => op,
                Body::Local(local) => Op { kind: Some(Kind::Source(local.into_op())), ..Op::default() },
                Body::Given(definition) => match builder.include(&definition) {
                    Some(edge) => {
                        edges.push(edge);
                        continue;
                    }
                    // An empty tree: nothing put together.
                    None => Op { kind: Some(Kind::Merge(MergeOp::default())), ..Op::default() },
                },
            };
            op.inputs = node.inputs.iter().map(|id| Builder::input(&edges[id.0])).collect();
            edges.push(builder.add(&op, node.metadata, &node.lines));
        }
        roots.iter().map(|root| builder.finish(root.map(|id| &edges[id.0]))).collect()
    }

    fn push(&mut self, node: Node) -> NodeId {
        self.nodes.push(node);
        NodeId(self.nodes.len() - 1)
    }
}

impl Local {
    fn into_op(self) -> SourceOp {
        let mut attrs = BTreeMap::new();
        let mut list = |key: &str, values: Vec<String>| {
            if !values.is_empty() {
                attrs.insert(key.to_owned(), serde_json::Value::from(values).to_string());
            }
        };
        list("local.excludepatterns", self.excludes);
        // The root itself is needed: no restriction.
        if !self.paths.contains("") {
            list("local.followpaths", self.paths.into_iter().collect());
        }
        SourceOp { identifier: format!("local://{}", self.name), attrs }
    }
}

/// A path or pattern relative to the context's root, cleaned; empty for the root. A pattern is cut before `**`,
/// which the walker of a context does not know.
fn follow_path(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part if part.contains("**") => break,
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a9_06_paths_stay_inside_and_double_stars_widen() {
        assert_eq!(follow_path("/a/./b/../c/"), "a/c");
        assert_eq!(follow_path("../../etc"), "etc");
        assert_eq!(follow_path("src/**/x.go"), "src");
        assert_eq!(follow_path("**/*.go"), "");
        assert_eq!(follow_path("*.txt"), "*.txt");
        assert_eq!(follow_path("."), "");
    }

    #[test]
    fn a9_06_one_context_is_the_union_of_its_users() {
        let mut draft = Draft::default();
        let context = draft.local("context", "[internal] load build context".into(), vec!["*.log".into()]);
        draft.needs(Some(context), "/b", (2, 2));
        draft.needs(Some(context), "a", (3, 3));
        let copy = Kind::Merge(crate::llb::op::MergeOp::default());
        let root = draft.add(copy, vec![context], None, OpMetadata::default(), vec![(2, 2)]);
        assert_eq!(draft.local("context", String::new(), vec![]), context);
        let graph = draft.finish_all(&[Some(root)], "Dockerfile", b"")[0].graph().expect("valid");
        let local = graph.vertices.values().find(|v| v.inputs.is_empty()).expect("there");
        let Some(Kind::Source(op)) = &local.op.kind else { panic!("not a source") };
        assert_eq!(op.attrs["local.followpaths"], r#"["a","b"]"#);
        assert_eq!(op.attrs["local.excludepatterns"], r#"["*.log"]"#);
        assert_eq!(local.location.as_ref().map(|l| l.1.clone()), Some(vec![(2, 2), (3, 3)]));
    }
}
