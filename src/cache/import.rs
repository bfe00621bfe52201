//! What others told: caches as they were read, and which of their records stand for what is built now.
//!
//! A vertex matches a record when the operation is the same and, for each input, one of the record's links leads to a
//! record that the input matches, or to the input's content. So matching needs no keys and no trees, and a hit on the
//! last vertex looks at nothing before it but records.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use super::config::{CacheConfig, ConfigRecord};
use super::graph::from_rfc3339;
use crate::base::{ChainId, DiffId, Digest};
use crate::oci::Descriptor;
use crate::oci::media_type::layer_codec;

/// Layers in one chain; more is a loop or an attack.
const MAX_CHAIN: usize = 4096;

/// A layer of a cache.
#[derive(Debug, Clone, PartialEq)]
pub struct ImportLayer {
    /// Its blob.
    pub descriptor: Descriptor,
    /// Digest of the stream inside.
    pub diff_id: DiffId,
    /// When it was made.
    pub created: SystemTime,
}

/// Where the blobs of a cache are: what the store remembers as a remote (host, repository).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    /// A registry's host, or the name of another kind of place.
    pub host: String,
    /// The repository on it.
    pub repository: String,
}

/// One cache as it was read.
#[derive(Debug, Clone)]
pub struct Import {
    /// For messages.
    pub title: String,
    /// Where the blobs are.
    pub place: Place,
    /// By index; `None` for one that cannot be used.
    layers: Vec<Option<ImportLayer>>,
    parents: Vec<i64>,
    records: Vec<ConfigRecord>,
    by_digest: HashMap<Digest, Vec<u32>>,
}

impl Import {
    /// Puts a cache together. `known` describes blobs that a manifest lists, by digest.
    #[must_use]
    pub fn new(title: &str, place: Place, config: CacheConfig, known: &HashMap<Digest, ImportLayer>) -> Self {
        let layers = config
            .layers
            .iter()
            .map(|layer| {
                let annotated = layer.annotations.as_ref().and_then(|a| {
                    let descriptor = Descriptor::new(a.media_type.clone(), layer.blob.clone(), a.size);
                    Some(ImportLayer { descriptor, diff_id: a.diff_id.clone()?, created: from_rfc3339(&a.created_at) })
                });
                annotated.or_else(|| known.get(&layer.blob).cloned())
            })
            .collect();
        let parents = config.layers.iter().map(|l| l.parent).collect();
        Self::with_layers(title, place, layers, parents, config.records)
    }

    /// The cache of an image: its layers in their order, with records that name them by their index (SPEC C7.04).
    #[must_use]
    pub fn inline(title: &str, place: Place, layers: Vec<ImportLayer>, records: Vec<ConfigRecord>) -> Self {
        let parents = (0..layers.len()).map(|at| i64::try_from(at).unwrap_or(i64::MAX) - 1).collect();
        Self::with_layers(title, place, layers.into_iter().map(Some).collect(), parents, records)
    }

    fn with_layers(
        title: &str,
        place: Place,
        layers: Vec<Option<ImportLayer>>,
        parents: Vec<i64>,
        records: Vec<ConfigRecord>,
    ) -> Self {
        let mut by_digest: HashMap<Digest, Vec<u32>> = HashMap::new();
        for (at, record) in records.iter().enumerate() {
            let at = u32::try_from(at).unwrap_or(u32::MAX);
            by_digest.entry(record.digest.clone()).or_default().push(at);
        }
        Self { title: title.to_owned(), place, layers, parents, records, by_digest }
    }

    /// Leaves out results that were made before a moment, and those that do not say when.
    pub fn forget_before(&mut self, moment: SystemTime) {
        for record in &mut self.records {
            record.results.retain(|result| from_rfc3339(&result.created_at) >= moment);
            record.chains.retain(|chain| from_rfc3339(&chain.created_at) >= moment);
        }
    }

    /// How many records there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there is nothing to find.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The first result of a record whose layers are all described.
    fn result(&self, record: u32, lost: &HashSet<Digest>) -> Option<Vec<ImportLayer>> {
        let record = self.records.get(record as usize)?;
        let chains = record.results.iter().filter_map(|r| self.chain(r.layer));
        let listed = record.chains.iter().map(|c| c.layers.clone());
        chains.chain(listed).find_map(|chain| {
            let layer = |at: &usize| {
                let layer = self.layers.get(*at)?.clone()?;
                // A blob that is no layer, or that is known not to be there, is no result.
                let usable = layer_codec(&layer.descriptor.media_type).is_some();
                (usable && !lost.contains(&layer.descriptor.digest)).then_some(layer)
            };
            chain.iter().map(layer).collect::<Option<Vec<_>>>().filter(|c| !c.is_empty())
        })
    }

    fn chain(&self, top: usize) -> Option<Vec<usize>> {
        let mut chain = vec![top];
        loop {
            let parent = *self.parents.get(*chain.last()?)?;
            let Ok(parent) = usize::try_from(parent) else { break };
            chain.push(parent);
            if chain.len() > MAX_CHAIN {
                return None;
            }
        }
        chain.reverse();
        Some(chain)
    }
}

/// A record of one of the caches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Match {
    cache: u32,
    record: u32,
}

/// What is known of an input.
#[derive(Debug, Clone, Default)]
pub struct InputState {
    /// Records that stand for it.
    pub matches: Vec<Match>,
    /// Which of its outputs is used.
    pub output: usize,
    /// The record digest of what is selected from it, if that was looked at.
    pub content: Option<Digest>,
}

/// A result of a cache.
#[derive(Debug, Clone)]
pub struct Found {
    /// Name of the cache, for messages.
    pub title: String,
    /// Where the blobs are.
    pub place: Place,
    /// Bottom first, each with its chain ID.
    pub layers: Vec<(ChainId, ImportLayer)>,
}

/// The caches of a build that are there, in the order in which they are asked (SPEC C7.10).
#[derive(Debug, Clone, Default)]
pub struct Imports {
    /// By their place in that order, which does not change when another one comes.
    caches: BTreeMap<u32, Arc<Import>>,
}

/// How many caches may be under one name (the images below an index).
const MAX_OF_ONE: usize = 1 << 12;

impl Imports {
    /// Adds what was read under the name that was given as number `order`.
    pub fn insert(&mut self, order: usize, caches: Vec<Import>) {
        let first = u32::try_from(order.saturating_mul(MAX_OF_ONE)).unwrap_or(u32::MAX);
        self.caches.extend((first..).zip(caches.into_iter().take(MAX_OF_ONE).map(Arc::new)));
    }

    /// Whether there is nothing to look at.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.caches.is_empty()
    }

    /// Blobs that are at these places and at no other.
    #[must_use]
    pub fn blobs_only_at(&self, places: &HashSet<Place>) -> HashSet<Digest> {
        let (there, elsewhere): (Vec<_>, Vec<_>) = self.caches.values().partition(|c| places.contains(&c.place));
        let blobs = |caches: Vec<&Arc<Import>>| -> HashSet<Digest> {
            let layers = caches.into_iter().flat_map(|c| c.layers.iter().flatten());
            layers.map(|layer| layer.descriptor.digest.clone()).collect()
        };
        let elsewhere = blobs(elsewhere);
        blobs(there).into_iter().filter(|blob| !elsewhere.contains(blob)).collect()
    }

    /// Names of the caches that promise one of these blobs.
    #[must_use]
    pub fn titles_of(&self, blobs: &HashSet<Digest>) -> BTreeSet<String> {
        let has = |cache: &&Arc<Import>| cache.layers.iter().flatten().any(|l| blobs.contains(&l.descriptor.digest));
        self.caches.values().filter(has).map(|cache| cache.title.clone()).collect()
    }

    /// The records that stand for an operation on these inputs.
    #[must_use]
    pub fn matching(&self, digest: &Digest, inputs: &[InputState]) -> Vec<Match> {
        let mut found = Vec::new();
        for (&cache, import) in &self.caches {
            for &record in import.by_digest.get(digest).into_iter().flatten() {
                let candidate = &import.records[record as usize];
                let fits = candidate.inputs.len() == inputs.len()
                    && candidate.inputs.iter().zip(inputs).all(|(links, input)| {
                        links.iter().any(|link| {
                            let Ok(target) = u32::try_from(link.link) else { return false };
                            let same = link.selector == selector(input.output)
                                && input.matches.contains(&Match { cache, record: target });
                            let content = input.content.as_ref().is_some_and(|content| {
                                import
                                    .records
                                    .get(link.link)
                                    .is_some_and(|r| r.digest == *content && r.inputs.is_empty())
                            });
                            same || content
                        })
                    });
                if fits {
                    found.push(Match { cache, record });
                }
            }
        }
        found
    }

    /// The first result among these records that has none of the `lost` blobs.
    #[must_use]
    pub fn result(&self, matches: &[Match], lost: &HashSet<Digest>) -> Option<Found> {
        matches.iter().find_map(|at| {
            let import = self.caches.get(&at.cache)?;
            let mut below: Option<ChainId> = None;
            let layers = import
                .result(at.record, lost)?
                .into_iter()
                .map(|layer| {
                    let id = ChainId::extend(below.as_ref(), &layer.diff_id);
                    below = Some(id.clone());
                    (id, layer)
                })
                .collect();
            Some(Found { title: import.title.clone(), place: import.place.clone(), layers })
        })
    }
}

/// How a link names an output.
#[must_use]
pub fn selector(output: usize) -> String {
    if output == 0 { String::new() } else { output.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::config::{ConfigChain, ConfigInput, ConfigLayer, ConfigResult};
    use crate::oci::media_type::OCI_LAYER_GZIP;

    fn d(text: &str) -> Digest {
        Digest::sha256(text)
    }

    fn record(name: &str, inputs: &[&[usize]], layer: Option<usize>) -> ConfigRecord {
        let link = |link: &usize| ConfigInput { selector: String::new(), link: *link };
        ConfigRecord {
            results: layer.map(|layer| ConfigResult { layer, created_at: String::new() }).into_iter().collect(),
            chains: Vec::new(),
            digest: d(name),
            inputs: inputs.iter().map(|links| links.iter().map(link).collect()).collect(),
        }
    }

    fn import(records: Vec<ConfigRecord>, parents: &[i64]) -> Import {
        let blob = |at: usize| d(&format!("layer {at}"));
        let layers = parents
            .iter()
            .enumerate()
            .map(|(at, parent)| ConfigLayer { blob: blob(at), parent: *parent, annotations: None })
            .collect();
        let known = (0..parents.len())
            .map(|at| {
                let descriptor = Descriptor::new(OCI_LAYER_GZIP, blob(at), 1);
                let layer = ImportLayer { descriptor, diff_id: DiffId(blob(at)), created: SystemTime::UNIX_EPOCH };
                (blob(at), layer)
            })
            .collect();
        let place = Place { host: "h".into(), repository: "r".into() };
        Import::new("t", place, CacheConfig { layers, records }, &known)
    }

    fn all(caches: Vec<Import>) -> Imports {
        let mut imports = Imports::default();
        imports.insert(0, caches);
        imports
    }

    fn state(matches: Vec<Match>, content: Option<&str>) -> InputState {
        InputState { matches, output: 0, content: content.map(d) }
    }

    #[test]
    fn c7_10_a_record_is_found_by_definition_or_by_content() {
        // base → step (its second input by definition or by content) → last.
        let records = vec![
            record("base", &[], None),
            record("content", &[], None),
            record("other", &[], None),
            record("step", &[&[0], &[2, 1]], None),
            record("last", &[&[3]], Some(1)),
        ];
        let caches = all(vec![import(records, &[-1, 0])]);
        let base = caches.matching(&d("base"), &[]);
        let other = caches.matching(&d("other"), &[]);
        let by_definition = caches.matching(&d("step"), &[state(base.clone(), None), state(other, None)]);
        let by_content = caches.matching(&d("step"), &[state(base.clone(), None), state(vec![], Some("content"))]);
        assert_eq!((by_definition.len(), &by_definition), (1, &by_content));
        assert!(caches.matching(&d("step"), &[state(base.clone(), None), state(vec![], Some("changed"))]).is_empty());
        assert!(caches.matching(&d("step"), &[state(base.clone(), None)]).is_empty());
        // A step without a result of its own still leads to the last one.
        assert!(caches.result(&by_definition, &HashSet::new()).is_none());
        let last = caches.matching(&d("last"), &[state(by_definition, None)]);
        let found = caches.result(&last, &HashSet::new()).expect("has a result");
        assert_eq!(found.layers.len(), 2);
        assert!(caches.result(&last, &HashSet::from([d("layer 1")])).is_none(), "a lost blob is a miss");
        assert_eq!(found.layers[0].0.0, d("layer 0"));
    }

    #[test]
    fn hostile_caches_are_misses() {
        // Loops of layers, layers and links out of range, links to themselves.
        let mut records =
            vec![record("loop", &[], Some(0)), record("range", &[], Some(9)), record("self", &[&[2]], Some(0))];
        records[1].chains.push(ConfigChain { layers: vec![77], created_at: String::new() });
        let caches = all(vec![import(records, &[1, 0])]);
        for name in ["loop", "range"] {
            let matches = caches.matching(&d(name), &[]);
            assert_eq!(matches.len(), 1);
            assert!(caches.result(&matches, &HashSet::new()).is_none(), "{name}");
        }
        assert!(caches.matching(&d("self"), &[InputState::default()]).is_empty());
    }

    #[test]
    fn c7_10_the_first_cache_wins() {
        let one = import(vec![record("a", &[], Some(0))], &[-1]);
        let two = import(vec![record("a", &[], Some(1))], &[-1, -1]);
        let caches = all(vec![two, one]);
        let found = caches.result(&caches.matching(&d("a"), &[]), &HashSet::new()).expect("has a result");
        assert_eq!(found.layers[0].0.0, d("layer 1"));
    }
    // A cache that comes late changes neither what was found nor who is asked first.
    #[test]
    fn c7_10_caches_may_come_in_any_order() {
        let one = import(vec![record("a", &[], Some(0))], &[-1]);
        let two = import(vec![record("a", &[], Some(1))], &[-1, -1]);
        let mut caches = Imports::default();
        caches.insert(1, vec![one]);
        let early = caches.matching(&d("a"), &[]);
        caches.insert(0, vec![two]);
        let layer =
            |matches: &[Match]| caches.result(matches, &HashSet::new()).expect("has a result").layers[0].0.clone();
        assert_eq!(layer(&early).0, d("layer 0"));
        assert_eq!(layer(&caches.matching(&d("a"), &[])).0, d("layer 1"));
    }

    #[test]
    fn blobs_that_only_a_lost_place_has_are_lost() {
        let here = import(vec![], &[-1, 0]);
        let mut there = import(vec![], &[-1]);
        there.place.repository = "other".into();
        let lost = HashSet::from([here.place.clone()]);
        assert_eq!(all(vec![here, there]).blobs_only_at(&lost), HashSet::from([d("layer 1")]));
    }
}
