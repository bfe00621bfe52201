//! What the command line changes in an image before it is written: layers, history, variables and labels are taken away, what it
//! says of its operating system is set (SPEC D3.02, D3.05, D3.08, D3.21).

use super::{ExportContext, ExportError, ImageResult, blocking};
use crate::archive::{LayerOptions, diff_trees};
use crate::base::Digest;
use crate::base::events::Outcome;
use crate::cache::key::{self, Part};
use crate::oci::History;
use crate::store::{CacheRecord, LayerId, MountRequest};

/// Which layers become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SingleLayer {
    /// Those that were made here.
    New,
    /// All, those of the base image included.
    All,
}

/// What is different about an image.
#[derive(Debug, Clone, Default)]
pub struct Shape {
    /// Its layers but one.
    pub single_layer: Option<SingleLayer>,
    /// Its history.
    pub omit_history: bool,
    /// Variables.
    pub unset_env: Vec<String>,
    /// Labels.
    pub unset_labels: Vec<String>,
    /// Annotations of the base image are those of the image, too (SPEC D3.07).
    pub inherit_annotations: bool,
    /// But for these.
    pub unset_annotations: Vec<String>,
    /// What the image says its operating system's version is (SPEC D3.21).
    pub os_version: Option<String>,
    /// Features of the operating system that the image says it needs: each is added, or taken away (SPEC D3.21).
    pub os_features: Vec<(String, bool)>,
}

impl Shape {
    /// The image as it is to be.
    ///
    /// # Errors
    /// When its layers cannot be read, or the new one cannot be written.
    pub async fn apply(&self, context: &ExportContext<'_>, mut image: ImageResult) -> Result<ImageResult, ExportError> {
        image.config.config.env.retain(|entry| {
            let name = entry.split_once('=').map_or(entry.as_str(), |(name, _)| name);
            !self.unset_env.iter().any(|unset| unset == name)
        });
        image.config.config.labels.retain(|name, _| !self.unset_labels.contains(name));
        image.annotations.retain(|name, _| !self.unset_annotations.contains(name));
        self.system(&mut image);
        if let Some(which) = self.single_layer {
            join(context, &mut image, which).await?;
        }
        if self.omit_history {
            image.config.history.clear();
        }
        Ok(image)
    }

    /// What the image, and an index that names it, say of the operating system.
    fn system(&self, image: &mut ImageResult) {
        let ImageResult { config, platform, .. } = image;
        for (version, features) in
            [(&mut config.os_version, &mut config.os_features), (&mut platform.os_version, &mut platform.os_features)]
        {
            if let Some(wanted) = &self.os_version {
                version.clone_from(wanted);
            }
            for (feature, needed) in &self.os_features {
                features.retain(|known| known != feature);
                features.extend(needed.then(|| feature.clone()));
            }
        }
    }
}

/// Makes one layer of those of an image.
async fn join(context: &ExportContext<'_>, image: &mut ImageResult, which: SingleLayer) -> Result<(), ExportError> {
    let below = match which {
        SingleLayer::New => image.base_layers.min(image.chain.len()),
        SingleLayer::All => 0,
    };
    if image.chain.len() > below + 1 {
        let name = format!("joining {} layers", image.chain.len() - below);
        let id = Digest::sha256(format!("{name} {:?}", image.chain));
        context.events.vertex(&id, name, Vec::new());
        context.events.started(&id);
        let made = joined(context, &image.chain, below, &id).await;
        context.events.completed(
            &id,
            match &made {
                Ok(_) => Outcome::Done,
                Err(e) => Outcome::Failed(e.to_string()),
            },
        );
        image.chain.truncate(below);
        image.chain.push(made?);
        one_entry(&mut image.config.history, below);
    }
    image.base_layers = below;
    Ok(())
}

/// The layer that holds what the layers above the first `below` ones do; the same one whenever they are the same.
async fn joined(
    context: &ExportContext<'_>,
    chain: &[LayerId],
    below: usize,
    id: &Digest,
) -> Result<LayerId, ExportError> {
    let said: Vec<&str> = chain.iter().map(LayerId::as_str).collect();
    let content = Digest::sha256(said.join("\n"));
    let key = key::combine(&Digest::sha256(format!("one layer above {below}")), &[Part::Content(content)]);
    context.source.ensure_unpacked(chain, Some(id)).await?;
    let (store, chain, threads) = (context.store.clone(), chain.to_vec(), context.threads);
    blocking(move || {
        let _lock = store.key_lock(&key)?;
        if let Some(layer) = store.record(&key)?.and_then(|record| record.outputs.into_iter().flatten().next()) {
            return Ok(layer);
        }
        let description = "several layers as one";
        let before = match below {
            0 => None,
            below => Some(store.mount(&chain[..below], &MountRequest::read_only())?),
        };
        let after = store.mount(&chain, &MountRequest::read_only())?;
        let options = LayerOptions { threads, ..LayerOptions::default() };
        let layer = store.write_layer(&chain[..below], description, &options, |out| {
            let before = before.as_ref().map(|tree| tree.root());
            diff_trees(before, after.root(), out).map(drop).map_err(ExportError::from)
        })?;
        store.put_record(&CacheRecord::new(&key, vec![vec![layer.clone()]], description))?;
        Ok(layer)
    })
    .await
}

/// Of the entries of layers above the first `below` ones, the last is that of the one layer there is.
fn one_entry(history: &mut [History], below: usize) {
    let mut entries: Vec<&mut History> = history.iter_mut().filter(|entry| !entry.empty_layer).skip(below).collect();
    entries.pop();
    for entry in entries {
        entry.empty_layer = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // SPEC D3.02
    #[test]
    fn d3_02_history_has_an_entry_for_each_layer_that_is_left() {
        let left = |below| {
            let mut history: Vec<History> = [false, true, false, false, true]
                .map(|empty_layer| History { empty_layer, ..History::default() })
                .into();
            one_entry(&mut history, below);
            history.iter().map(|entry| entry.empty_layer).collect::<Vec<_>>()
        };
        assert_eq!(left(1), [false, true, true, false, true]);
        assert_eq!(left(0), [true, true, true, false, true]);
    }
}
