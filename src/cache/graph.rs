//! What a build tells others: the graph it solved, with the results it knows, and its form as records.

use std::collections::HashMap;
use std::time::SystemTime;

use super::config::{CacheConfig, ConfigInput, ConfigRecord, ConfigResult};
use crate::base::Digest;
use crate::store::LayerId;

/// A solved graph. Nodes come after their inputs.
#[derive(Debug, Clone, Default)]
pub struct ExportGraph {
    /// The nodes.
    pub nodes: Vec<ExportNode>,
    /// Those whose results are the build's, one for each platform.
    pub roots: Vec<usize>,
}

/// An operation, or a source without inputs.
#[derive(Debug, Clone)]
pub struct ExportNode {
    /// See [`super::key::record`].
    pub digest: Digest,
    /// For each input the nodes that may stand for it: its own node, and that of its content.
    pub inputs: Vec<Vec<ExportLink>>,
    /// Its first output, if it is known.
    pub result: Option<ExportResult>,
}

/// A link to an input.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ExportLink {
    /// Which output; empty for the first one.
    pub selector: String,
    /// Index of the node.
    pub node: usize,
}

/// The layers of a result.
#[derive(Debug, Clone)]
pub struct ExportResult {
    /// Bottom first.
    pub chain: Vec<LayerId>,
    /// When it was made.
    pub created: SystemTime,
}

impl ExportGraph {
    /// A node for something that has no inputs: content, an image.
    pub fn leaf(&mut self, digest: Digest) -> usize {
        self.nodes.push(ExportNode { digest, inputs: Vec::new(), result: None });
        self.nodes.len() - 1
    }

    /// Results that are worth exporting: all of them (`max`), or those whose layers are part of a root's (`min`).
    #[must_use]
    pub fn results(&self, everything: bool) -> Vec<(usize, &ExportResult)> {
        let roots: Vec<&ExportResult> =
            self.roots.iter().filter_map(|root| self.nodes.get(*root)?.result.as_ref()).collect();
        let part = |result: &ExportResult| roots.iter().any(|root| root.chain.starts_with(&result.chain));
        let all = self.nodes.iter().enumerate().filter_map(|(at, node)| Some((at, node.result.as_ref()?)));
        all.filter(|(_, result)| !result.chain.is_empty() && (everything || part(result))).collect()
    }

    /// The records. `layers` gives the index of the layer at the top of a node's result, for those that are exported.
    /// Nodes that are the same become one; the order depends on what they are, not on how they were found (C7.01).
    #[must_use]
    pub fn records(&self, layers: &HashMap<usize, usize>) -> CacheConfig {
        // What a node is, all the way down.
        let mut names: Vec<Digest> = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            let mut text = format!("{}\n", node.digest);
            for links in &node.inputs {
                let mut links: Vec<String> =
                    links.iter().map(|link| format!("{} {}", link.selector, names[link.node])).collect();
                links.sort();
                text.push_str(&links.join("|"));
                text.push('\n');
            }
            names.push(Digest::sha256(text));
        }
        let mut first: HashMap<&Digest, usize> = HashMap::new();
        for (at, name) in names.iter().enumerate() {
            let known = first.entry(name).or_insert(at);
            if layers.contains_key(&at) && !layers.contains_key(known) {
                *known = at;
            }
        }
        let mut order: Vec<(&Digest, &Digest, usize)> =
            first.iter().map(|(name, at)| (&self.nodes[*at].digest, *name, *at)).collect();
        order.sort();
        let position: HashMap<&Digest, usize> =
            order.iter().enumerate().map(|(position, (_, name, _))| (*name, position)).collect();
        let records = order
            .iter()
            .map(|(digest, _, at)| {
                let node = &self.nodes[*at];
                let input = |links: &Vec<ExportLink>| {
                    let link =
                        |l: &ExportLink| ConfigInput { selector: l.selector.clone(), link: position[&names[l.node]] };
                    let mut links: Vec<ConfigInput> = links.iter().map(link).collect();
                    links.sort();
                    links.dedup();
                    links
                };
                let results = match (layers.get(at), &node.result) {
                    (Some(layer), Some(result)) => {
                        vec![ConfigResult { layer: *layer, created_at: rfc3339(result.created) }]
                    }
                    _ => Vec::new(),
                };
                ConfigRecord {
                    results,
                    chains: Vec::new(),
                    digest: (*digest).clone(),
                    inputs: node.inputs.iter().map(input).collect(),
                }
            })
            .collect();
        CacheConfig { layers: Vec::new(), records }
    }
}

/// A time as caches write it.
#[must_use]
pub fn rfc3339(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string()
}

/// A time as caches write it, read back; the epoch for what is none.
#[must_use]
pub fn from_rfc3339(text: &str) -> SystemTime {
    text.parse::<jiff::Timestamp>().map_or(SystemTime::UNIX_EPOCH, Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, inputs: Vec<Vec<usize>>) -> ExportNode {
        let link = |node| ExportLink { selector: String::new(), node };
        ExportNode {
            digest: Digest::sha256(name),
            inputs: inputs.into_iter().map(|i| i.into_iter().map(link).collect()).collect(),
            result: Some(ExportResult { chain: vec![LayerId::from_text(name)], created: SystemTime::UNIX_EPOCH }),
        }
    }

    #[test]
    fn c7_01_records_do_not_depend_on_the_order_of_nodes_and_equal_ones_are_one() {
        let one = ExportGraph {
            nodes: vec![node("a", vec![]), node("b", vec![]), node("c", vec![vec![0], vec![1, 0]])],
            roots: vec![2],
        };
        let two = ExportGraph {
            nodes: vec![node("b", vec![]), node("a", vec![]), node("a", vec![]), node("c", vec![vec![2], vec![1, 0]])],
            roots: vec![3],
        };
        let (a, b) = (one.records(&HashMap::from([(2, 7)])), two.records(&HashMap::from([(3, 7)])));
        assert_eq!(a, b);
        assert_eq!(a.records.len(), 3);
        let last = a.records.iter().find(|r| !r.inputs.is_empty()).expect("is there");
        assert_eq!((last.results[0].layer, last.inputs[1].len()), (7, 2));
    }

    #[test]
    fn c7_05_min_exports_what_is_part_of_the_result() {
        let chain = |names: &[&str]| {
            let chain = names.iter().map(|n| LayerId::from_text(*n)).collect();
            Some(ExportResult { chain, created: SystemTime::UNIX_EPOCH })
        };
        let mut graph = ExportGraph {
            nodes: vec![node("base", vec![]), node("other", vec![]), node("run", vec![vec![0], vec![1]])],
            roots: vec![2],
        };
        graph.nodes[2].result = chain(&["base", "x"]);
        let indices = |everything| graph.results(everything).into_iter().map(|(at, _)| at).collect::<Vec<_>>();
        assert_eq!(indices(false), [0, 2]);
        assert_eq!(indices(true), [0, 1, 2]);
    }
}
