//! Caches for other machines: which layers of what was solved are exported, as which blobs (SPEC C7, B4).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};

use super::image::Layer;
use super::spec::ImageOptions;
use super::{ExportContext, ExportError, image, push};
use crate::base::events::Outcome;
use crate::base::{DiffId, Digest};
use crate::cache::backend::{CacheBackend, CacheBlob, CacheError, ExportOptions, Moved};
use crate::cache::config::{CacheConfig, ConfigLayer, INLINE_KEY};
use crate::cache::graph::{ExportGraph, ExportResult};
use crate::oci::media_type::Family;
use crate::oci::{Descriptor, ImageConfig};
use crate::registry::Progress;
use crate::store::LayerId;

/// Blobs on their way at a time.
const PARALLEL: usize = 4;

/// A cache to write to.
pub struct CacheTarget {
    /// Where it is.
    pub backend: Arc<dyn CacheBackend>,
    /// What is written, and how.
    pub options: ExportOptions,
}

/// Why a cache was not written.
#[derive(Debug, thiserror::Error)]
pub enum CacheExportError {
    /// A layer could not be made or read.
    #[error(transparent)]
    Layer(#[from] ExportError),
    /// The cache.
    #[error("failed to export the cache to {title}: {source}")]
    Backend {
        /// Which one.
        title: String,
        /// Why not.
        source: CacheError,
    },
}

impl CacheExportError {
    /// The remedy, where known.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Layer(e) => e.hint(),
            Self::Backend { source, .. } => {
                let safe = "the outputs are written; with ignore-error=true such a failure is a warning";
                Some(source.hint.as_ref().map_or_else(|| safe.to_owned(), |hint| format!("{hint}; {safe}")))
            }
        }
    }
}

/// Puts the records of an inline cache into an image's config (SPEC C7.04); what the base image carried goes.
pub fn inline(config: &mut ImageConfig, graph: Option<&ExportGraph>) {
    config.extra.shift_remove(INLINE_KEY);
    let Some(graph) = graph else { return };
    // A layer of the image is known by its position.
    let tops: HashMap<usize, usize> =
        graph.results(false).into_iter().map(|(node, result)| (node, result.chain.len() - 1)).collect();
    if !tops.is_empty() {
        config.extra.insert(INLINE_KEY.into(), graph.records(&tops).to_inline().into());
    }
}

/// Writes one cache, if what was `checked` of it allows that. Gives its document, where it has one.
///
/// # Errors
/// See [`CacheExportError`]; the cache is what it was then.
pub async fn export(
    context: &ExportContext<'_>,
    graph: &ExportGraph,
    target: &CacheTarget,
    checked: Result<(), CacheError>,
) -> Result<Option<Descriptor>, CacheExportError> {
    let name = format!("exporting cache to {}", target.backend.title());
    let id = Digest::sha256(&name);
    context.events.vertex(&id, name, Vec::new());
    context.events.started(&id);
    let outcome = match checked {
        Ok(()) => write(context, graph, target, &id).await,
        Err(source) => Err(CacheExportError::Backend { title: target.backend.title(), source }),
    };
    match &outcome {
        Ok(_) => context.events.completed(&id, Outcome::Done),
        Err(error) => context.events.completed(&id, Outcome::Failed(error.to_string())),
    }
    outcome
}

async fn write(
    context: &ExportContext<'_>,
    graph: &ExportGraph,
    target: &CacheTarget,
    id: &Digest,
) -> Result<Option<Descriptor>, CacheExportError> {
    let results = graph.results(target.options.everything);
    if results.is_empty() {
        context.events.progress(id, "skipping cache export for empty result", 0, None, true);
        return Ok(None);
    }
    let (layers, tops) = arrange(&results);
    let jobs = layers.iter().map(|layer| blob(context, &layer.chain, &target.options, id));
    // A few at a time: each uses several threads itself, and buffers stay bounded.
    let blobs: Vec<CacheBlob> = stream::iter(jobs).buffered(2).try_collect().await?;
    context.events.progress(id, "preparing build cache for export", 0, None, true);
    let fail = |source| CacheExportError::Backend { title: target.backend.title(), source };
    // Two layers can be the same bytes, as a file that is copied on from stage to stage; those are moved once.
    let mut seen = HashSet::new();
    let unique = blobs.iter().filter(|blob| seen.insert(&blob.descriptor.digest));
    let puts = unique.map(|blob| put(context, target.backend.as_ref(), blob, id));
    let moved: Vec<Moved> = stream::iter(puts).buffer_unordered(PARALLEL).try_collect().await.map_err(fail)?;
    let bytes: u64 = moved.iter().map(|m| if let Moved::Bytes(n) = m { *n } else { 0 }).sum();

    let mut config: CacheConfig = graph.records(&tops);
    config.layers = layers
        .iter()
        .zip(&blobs)
        .map(|(layer, blob)| ConfigLayer {
            blob: blob.descriptor.digest.clone(),
            parent: layer.parent.map_or(-1, |p| i64::try_from(p).unwrap_or(-1)),
            annotations: None,
        })
        .collect();
    let written = target.backend.publish(config, &blobs).await.map_err(fail)?;
    let name = written.name;
    let what = format!("{} results, {} layers, written to {name}", results.len(), blobs.len());
    context.events.progress(id, what, bytes, Some(bytes), true);
    Ok(written.document)
}

/// A layer on top of another one, as configs list them.
struct Arranged {
    /// Up to and including it.
    chain: Vec<LayerId>,
    parent: Option<usize>,
}

/// Every layer of these results once, and for each result's node the layer at its top.
fn arrange(results: &[(usize, &ExportResult)]) -> (Vec<Arranged>, HashMap<usize, usize>) {
    let mut layers: Vec<Arranged> = Vec::new();
    let mut known: HashMap<(Option<usize>, LayerId), usize> = HashMap::new();
    let mut tops = HashMap::new();
    for (node, result) in results {
        let mut parent = None;
        for (at, layer) in result.chain.iter().enumerate() {
            let index = *known.entry((parent, layer.clone())).or_insert_with(|| {
                layers.push(Arranged { chain: result.chain[..=at].to_vec(), parent });
                layers.len() - 1
            });
            parent = Some(index);
        }
        tops.extend(parent.map(|top| (*node, top)));
    }
    (layers, tops)
}

/// The blob of a chain's last layer.
async fn blob(
    context: &ExportContext<'_>,
    chain: &[LayerId],
    options: &ExportOptions,
    id: &Digest,
) -> Result<CacheBlob, ExportError> {
    let chain: Arc<[LayerId]> = chain.into();
    let wanted = ImageOptions {
        family: Family::Oci,
        codec: options.codec,
        level: options.level,
        force: options.force,
        ..ImageOptions::default()
    };
    let (layer, diff_id, created): (Layer, DiffId, _) = image::cache_layer(context, &chain, &wanted, id).await?;
    let source = push::source(context, &layer);
    let held_by = layer.remotes.iter().map(|r| (r.host.clone(), r.repository.clone())).collect();
    Ok(CacheBlob { descriptor: layer.descriptor, diff_id, created, source, held_by })
}

async fn put(
    context: &ExportContext<'_>,
    backend: &dyn CacheBackend,
    blob: &CacheBlob,
    id: &Digest,
) -> Result<Moved, CacheError> {
    let what = format!("writing layer {}", blob.descriptor.digest);
    shown(context, id, what, blob.descriptor.size, |progress| async move { backend.put(blob, &progress).await }).await
}

/// Moves `size` bytes and shows how far it is as the item `what` of vertex `id`.
pub(super) async fn shown<F: Future<Output = Result<Moved, CacheError>>>(
    context: &ExportContext<'_>,
    id: &Digest,
    what: String,
    size: u64,
    put: impl FnOnce(Progress) -> F,
) -> Result<Moved, CacheError> {
    let progress: Progress = {
        let (events, id, what) = (context.events.clone(), id.clone(), what.clone());
        Arc::new(move |sent| events.progress(&id, what.clone(), sent, Some(size), false))
    };
    let moved = put(progress).await?;
    if let Moved::Bytes(_) = moved {
        context.events.progress(id, what, size, Some(size), true);
    }
    Ok(moved)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_that_results_share_are_listed_once() {
        let result = |names: &[&str]| ExportResult {
            chain: names.iter().map(|n| LayerId::from_text(*n)).collect(),
            created: std::time::SystemTime::UNIX_EPOCH,
        };
        let (a, b, c) = (result(&["base", "x", "y"]), result(&["base", "x"]), result(&["x"]));
        let (layers, tops) = arrange(&[(4, &a), (5, &b), (6, &c)]);
        let parents: Vec<Option<usize>> = layers.iter().map(|l| l.parent).collect();
        assert_eq!(parents, [None, Some(0), Some(1), None]);
        assert_eq!(tops, HashMap::from([(4, 2), (5, 1), (6, 3)]));
        assert_eq!(layers[2].chain, a.chain);
    }
}
