//! How two images differ: which files, in which layers, and what about them; which fields of config and manifest.
//!
//! Layers are compared as archives, entry by entry: nothing is unpacked and no rights are needed. Layers with the same diff ID are
//! not read at all. [`layer`] compares two layers, [`document`] two JSON documents, [`causes`] knows where differences
//! often come from.

mod causes;
mod document;
mod layer;

use serde::Serialize;

pub use self::causes::Cause;
pub use self::document::Difference;
pub use self::layer::{Aspect, Change, Excerpt, FileDifference};
use super::{ImageError, Images, blocking};
use crate::archive::{ApplyOptions, ArchiveError, TreeIndex, decompressor, index_layer, read_files};
use crate::base::DiffId;
use crate::oci::media_type::{self, Codec};
use crate::oci::{Descriptor, ImageConfig, Manifest};

/// Fields of a manifest that the layers and the config are compared for by themselves.
const COMPARED_BY_CONTENT: [&str; 2] = ["config", "layers"];

/// What two images have not in common.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Comparison {
    /// Platforms that both have, in the order of the first image.
    pub platforms: Vec<PlatformComparison>,
    /// Platforms of the first image alone.
    pub only_in_first: Vec<String>,
    /// Platforms of the second image alone.
    pub only_in_second: Vec<String>,
}

impl Comparison {
    /// Whether programs find the same files and the same config in both. How they are packed does not count.
    #[must_use]
    pub fn same(&self) -> bool {
        self.only_in_first.is_empty()
            && self.only_in_second.is_empty()
            && self.platforms.iter().all(PlatformComparison::same)
    }

    /// Where differences of files are known to come from, each cause once.
    #[must_use]
    pub fn causes(&self) -> Vec<Cause> {
        let layers = self.platforms.iter().flat_map(|platform| &platform.layers);
        causes::of(layers.flat_map(|layer| &layer.files))
    }
}

/// What two images for one platform have not in common.
#[derive(Debug, Clone, Serialize)]
pub struct PlatformComparison {
    /// The platform.
    pub platform: String,
    /// Layers that differ, bottom first.
    pub layers: Vec<LayerComparison>,
    /// Fields of the config, without the list of layers.
    pub config: Vec<Difference>,
    /// Fields of the manifest beside the layers and the config: media types, annotations.
    pub manifest: Vec<Difference>,
    /// Layers of the same content in different blobs, counted from 1.
    pub packed_differently: Vec<usize>,
}

impl PlatformComparison {
    fn same(&self) -> bool {
        self.layers.is_empty() && self.config.is_empty() && self.manifest.is_empty()
    }
}

/// A layer that is not the same in both.
#[derive(Debug, Clone, Serialize)]
pub struct LayerComparison {
    /// Counted from 1, the lowest.
    pub number: usize,
    /// The instruction that made it, if the history says so.
    pub created_by: String,
    /// Of the first image, if it has so many.
    pub first: Option<DiffId>,
    /// Of the second image, if it has so many.
    pub second: Option<DiffId>,
    /// Files that differ, in order of their paths. None where the archives differ in the order or the form of their entries alone, or
    /// where one image has no such layer.
    pub files: Vec<FileDifference>,
}

/// One platform's image.
type Part = (Descriptor, Manifest, ImageConfig, serde_json::Value);

impl Images {
    /// How two images of the store differ. Blobs that are only known to be in a registry are fetched where they are compared.
    ///
    /// # Errors
    /// If parts of them are missing or broken.
    pub async fn compare(&self, first: &Descriptor, second: &Descriptor) -> Result<Comparison, ImageError> {
        let (this, a, b) = (self.clone(), first.clone(), second.clone());
        let (mut a, mut b) = blocking(move || Ok((this.platforms(&a)?, this.platforms(&b)?))).await?;
        let mut comparison = Comparison::default();
        // Two images of one platform each are meant to be compared, whatever they say that they are for.
        let single = a.len() == 1 && b.len() == 1;
        for one in a.drain(..) {
            let name = one.2.platform().to_string();
            let Some(at) = b.iter().position(|other| single || other.2.platform() == one.2.platform()) else {
                comparison.only_in_first.push(name);
                continue;
            };
            let other = b.remove(at);
            comparison.platforms.push(self.compare_parts(name, &one, &other).await?);
        }
        comparison.only_in_second = b.iter().map(|part| part.2.platform().to_string()).collect();
        Ok(comparison)
    }

    async fn compare_parts(&self, platform: String, a: &Part, b: &Part) -> Result<PlatformComparison, ImageError> {
        let layers_of = |part: &Part| -> Vec<(DiffId, Descriptor)> {
            part.2.rootfs.diff_ids.iter().cloned().zip(part.1.layers.iter().cloned()).collect()
        };
        let (first, second) = (layers_of(a), layers_of(b));
        let (mut layers, mut packed_differently) = (Vec::new(), Vec::new());
        for at in 0..first.len().max(second.len()) {
            let number = at + 1;
            let (one, other) = (first.get(at), second.get(at));
            let files = match (one, other) {
                (Some(one), Some(other)) if one.0 == other.0 => {
                    if one.1.digest != other.1.digest {
                        packed_differently.push(number);
                    }
                    continue;
                }
                (Some(one), Some(other)) => self.compare_layers(&one.1, &other.1).await?,
                _ => Vec::new(),
            };
            layers.push(LayerComparison {
                number,
                created_by: instruction(&a.2, at).or_else(|| instruction(&b.2, at)).unwrap_or_default(),
                first: one.map(|(id, _)| id.clone()),
                second: other.map(|(id, _)| id.clone()),
                files,
            });
        }
        let manifest = |part: &Part| serde_json::to_value(&part.1).unwrap_or_default();
        Ok(PlatformComparison {
            platform,
            layers,
            config: document::differences(&a.3, &b.3, &["rootfs"]),
            manifest: document::differences(&manifest(a), &manifest(b), &COMPARED_BY_CONTENT),
            packed_differently,
        })
    }

    /// Two layers of different diff IDs, file by file.
    async fn compare_layers(&self, a: &Descriptor, b: &Descriptor) -> Result<Vec<FileDifference>, ImageError> {
        for blob in [a, b] {
            let (store, digest) = (self.store.clone(), blob.digest.clone());
            let remotes = blocking(move || Ok(store.remotes_of(&digest)?)).await?;
            self.source.ensure_blob(blob, &remotes, None).await?;
        }
        let (this, a, b) = (self.clone(), a.clone(), b.clone());
        blocking(move || {
            let mut found = layer::differences(&this.index(&a)?, &this.index(&b)?);
            let wanted = layer::worth_reading(&found);
            if !wanted.is_empty() {
                let read = |blob| {
                    read_files(&mut *this.tar(blob)?, &wanted, layer::LARGEST_EXCERPT).map_err(|e| broken(blob, &e))
                };
                let (first, second) = (read(&a)?, read(&b)?);
                for difference in found.iter_mut().filter(|d| d.change == Change::Changed) {
                    if let (Some(one), Some(other)) = (first.get(&difference.path), second.get(&difference.path)) {
                        difference.excerpt = layer::excerpt(one, other);
                    }
                }
            }
            Ok(found)
        })
        .await
    }

    fn index(&self, blob: &Descriptor) -> Result<TreeIndex, ImageError> {
        let summary = index_layer(&mut *self.tar(blob)?, &ApplyOptions::default());
        Ok(summary.map_err(|e| broken(blob, &e))?.index)
    }

    /// A layer's archive, decompressed.
    fn tar(&self, blob: &Descriptor) -> Result<Box<dyn std::io::Read + Send>, ImageError> {
        let codec = media_type::layer_codec(&blob.media_type).unwrap_or(Codec::Uncompressed);
        decompressor(self.store.open_blob(&blob.digest)?, codec).map_err(|e| broken(blob, &e))
    }
}

fn broken(blob: &Descriptor, error: &ArchiveError) -> ImageError {
    ImageError::Document { digest: blob.digest.clone(), reason: error.to_string() }
}

/// What the history says that a layer was made by.
fn instruction(config: &ImageConfig, layer: usize) -> Option<String> {
    config.history.iter().filter(|line| !line.empty_layer).nth(layer).map(|line| line.created_by.clone())
}
