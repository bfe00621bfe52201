//! The documents of caches in registries and OCI layouts (SPEC C7.02–C7.04): an image manifest whose config is the
//! cache config, an index that lists the blobs, or an image with records in its config.

use std::collections::HashMap;

use crate::base::{DiffId, Digest};
use crate::cache::backend::{CacheBlob, CacheError};
use crate::cache::config::{self, CONFIG_TYPE, CREATED_AT, CacheConfig, INLINE_KEY, LayerAnnotations, UNCOMPRESSED};
use crate::cache::graph::{from_rfc3339, rfc3339};
use crate::cache::import::{Import, ImportLayer, Place};
use crate::cache::mounts::DOCUMENT_TYPE;
use crate::oci::manifest::{Document, to_json_pretty};
use crate::oci::media_type::{Codec, Family, OCI_MANIFEST, layer_codec};
use crate::oci::{Descriptor, Index, Manifest};

/// The form in which a cache is written (SPEC B4.03).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DocumentForm {
    /// Media types.
    pub family: Family,
    /// An image manifest (C7.02), else an index (C7.03).
    pub image_manifest: bool,
}

impl Default for DocumentForm {
    fn default() -> Self {
        Self { family: Family::Oci, image_manifest: true }
    }
}

impl DocumentForm {
    /// The document and its descriptor. `config` describes the cache config's blob.
    pub(super) fn document(self, config: &Descriptor, blobs: &[CacheBlob]) -> (Descriptor, Vec<u8>) {
        let mut seen = std::collections::HashSet::new();
        let layers = blobs.iter().filter(|blob| seen.insert(&blob.descriptor.digest)).map(|blob| self.layer(blob));
        if self.image_manifest {
            let manifest = Manifest {
                schema_version: 2,
                media_type: self.family.manifest().into(),
                artifact_type: None,
                config: config.clone(),
                layers: layers.collect(),
                subject: None,
                annotations: std::collections::BTreeMap::new(),
            };
            let bytes = to_json_pretty(&manifest);
            return (Descriptor::of_bytes(self.family.manifest(), &bytes), bytes);
        }
        let mut index = Index::new(layers.chain([config.clone()]).collect());
        index.media_type = self.family.index().into();
        let bytes = to_json_pretty(&index);
        (Descriptor::of_bytes(self.family.index(), &bytes), bytes)
    }

    fn layer(self, blob: &CacheBlob) -> Descriptor {
        let codec = layer_codec(&blob.descriptor.media_type).unwrap_or(Codec::Gzip);
        let mut layer = Descriptor::new(self.family.layer(codec), blob.descriptor.digest.clone(), blob.descriptor.size);
        layer.annotations.insert(CREATED_AT.into(), rfc3339(blob.created));
        layer.annotations.insert(UNCOMPRESSED.into(), blob.diff_id.to_string());
        layer
    }
}

/// The manifest that holds the document of cache mounts and its packs: an artifact whose config is the document.
pub(super) fn mounts_manifest(document: &[u8], packs: &[Descriptor]) -> (Descriptor, Descriptor, Vec<u8>) {
    let config = Descriptor::of_bytes(DOCUMENT_TYPE, document);
    let manifest = Manifest {
        schema_version: 2,
        media_type: OCI_MANIFEST.into(),
        artifact_type: Some(DOCUMENT_TYPE.into()),
        config: config.clone(),
        layers: packs.to_vec(),
        subject: None,
        annotations: std::collections::BTreeMap::new(),
    };
    let bytes = to_json_pretty(&manifest);
    (config, Descriptor::of_bytes(OCI_MANIFEST, &bytes), bytes)
}

/// The document of cache mounts in a manifest.
pub(super) fn mounts_document(title: &str, document: Document) -> Result<Descriptor, CacheError> {
    match document {
        Document::Manifest(manifest) if manifest.config.media_type == DOCUMENT_TYPE => Ok(manifest.config),
        _ => Err(CacheError::new(format!("{title} is no list of cache mounts"))),
    }
}

/// What a document leads to.
pub(super) enum Found {
    /// A cache config, and descriptions of the blobs that the document lists.
    Config(Descriptor, HashMap<Digest, ImportLayer>),
    /// An image, whose config may hold records.
    Image(Manifest),
    /// Further documents.
    Documents(Vec<Descriptor>),
}

/// Finds the cache in a document.
pub(super) fn examine(document: Document) -> Found {
    match document {
        Document::Manifest(manifest) if manifest.config.media_type == CONFIG_TYPE => {
            Found::Config(manifest.config.clone(), describe(&manifest.layers))
        }
        Document::Manifest(manifest) => Found::Image(manifest),
        Document::Index(index) => match index.manifests.iter().rev().find(|entry| entry.media_type == CONFIG_TYPE) {
            Some(config) => Found::Config(config.clone(), describe(&index.manifests)),
            None => Found::Documents(index.manifests),
        },
    }
}

fn describe(layers: &[Descriptor]) -> HashMap<Digest, ImportLayer> {
    let one = |layer: &Descriptor| {
        layer_codec(&layer.media_type)?;
        let diff_id: DiffId = layer.annotations.get(UNCOMPRESSED)?.parse().ok()?;
        let created = layer.annotations.get(CREATED_AT).map_or(std::time::SystemTime::UNIX_EPOCH, |t| from_rfc3339(t));
        let descriptor = Descriptor { annotations: std::collections::BTreeMap::new(), ..layer.clone() };
        Some((layer.digest.clone(), ImportLayer { descriptor, diff_id, created }))
    };
    layers.iter().filter_map(one).collect()
}

/// The cache that is written in an image's config; `None` for an image that carries none (SPEC C7.04).
///
/// # Errors
/// When the records cannot be read.
pub fn read_image_config(
    title: &str,
    place: Place,
    manifest: &Manifest,
    config: &[u8],
) -> Result<Option<Import>, CacheError> {
    let Ok(image) = serde_json::from_slice::<crate::oci::ImageConfig>(config) else { return Ok(None) };
    let Some(value) = image.extra.get(INLINE_KEY).and_then(|v| v.as_str()) else { return Ok(None) };
    let diff_ids = &image.rootfs.diff_ids;
    if diff_ids.len() != manifest.layers.len() {
        return Ok(None);
    }
    let records = config::from_inline(value)
        .map_err(|e| CacheError::new(format!("the cache records of image {title} cannot be read: {e}")))?;
    // Each layer's history entry says when it was made.
    let mut times = image.history.iter().filter(|h| !h.empty_layer).map(|h| h.created.as_deref());
    let layers = manifest
        .layers
        .iter()
        .zip(diff_ids)
        .map(|(layer, diff_id)| ImportLayer {
            descriptor: layer.clone(),
            diff_id: diff_id.clone(),
            created: times.next().flatten().map_or(std::time::SystemTime::UNIX_EPOCH, from_rfc3339),
        })
        .collect();
    Ok(Some(Import::inline(title, place, layers, records)))
}

/// The config with a description of each blob, for caches without a manifest (SPEC B4.09).
pub(super) fn annotated(mut config: CacheConfig, blobs: &[CacheBlob]) -> CacheConfig {
    for (layer, blob) in config.layers.iter_mut().zip(blobs) {
        layer.annotations = Some(LayerAnnotations {
            media_type: blob.descriptor.media_type.clone(),
            diff_id: Some(blob.diff_id.clone()),
            size: blob.descriptor.size,
            created_at: rfc3339(blob.created),
        });
    }
    config
}

/// Parses a cache config.
pub(super) fn parse_config(title: &str, bytes: &[u8]) -> Result<CacheConfig, CacheError> {
    serde_json::from_slice(bytes).map_err(|e| CacheError::new(format!("the cache config of {title} is broken: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::manifest::parse_document;
    use crate::oci::media_type::{DOCKER_INDEX, DOCKER_LAYER_GZIP, OCI_INDEX, OCI_LAYER_ZSTD};
    use crate::registry::BlobSource;

    fn blob(name: &str, media_type: &str) -> CacheBlob {
        CacheBlob {
            descriptor: Descriptor::of_bytes(media_type, name.as_bytes()),
            diff_id: DiffId(Digest::sha256(format!("diff {name}"))),
            created: std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(1500),
            source: BlobSource::bytes(name.as_bytes().to_vec().into()),
            held_by: Vec::new(),
        }
    }

    // SPEC C7.02, C7.03: both forms, both families; each is read back.
    #[test]
    fn c7_02_and_c7_03_forms_of_the_document() {
        let config = Descriptor::of_bytes(CONFIG_TYPE, b"{}");
        let blobs = [blob("a", OCI_LAYER_ZSTD), blob("b", DOCKER_LAYER_GZIP), blob("a", OCI_LAYER_ZSTD)];
        for (family, image_manifest, expected) in
            [(Family::Oci, true, OCI_MANIFEST), (Family::Oci, false, OCI_INDEX), (Family::Docker, false, DOCKER_INDEX)]
        {
            let (descriptor, bytes) = DocumentForm { family, image_manifest }.document(&config, &blobs);
            assert_eq!(descriptor.media_type, expected);
            let document = parse_document(&bytes, "").expect("parses");
            let text = String::from_utf8(bytes).expect("text");
            assert!(text.contains("\"buildkit/createdat\": \"1970-01-01T00:00:01.5Z\""), "{text}");
            let Found::Config(found, known) = examine(document) else { panic!("no config in {text}") };
            assert_eq!((found.digest, known.len()), (config.digest.clone(), 2));
            assert_eq!(known[&blobs[0].descriptor.digest].diff_id, blobs[0].diff_id);
        }
    }

    #[test]
    fn c7_04_images_without_records_or_with_other_layers_are_skipped() {
        let place = || Place { host: "h".into(), repository: "r".into() };
        let layer = Descriptor::of_bytes(OCI_LAYER_ZSTD, b"x");
        let manifest = Manifest {
            schema_version: 2,
            media_type: OCI_MANIFEST.into(),
            artifact_type: None,
            config: Descriptor::of_bytes("x", b""),
            layers: vec![layer],
            subject: None,
            annotations: std::collections::BTreeMap::new(),
        };
        let diff = Digest::sha256("d");
        let value = CacheConfig::default().to_inline();
        let with = |extra: &str, diffs: &str| {
            let config = format!(r#"{{"rootfs":{{"type":"layers","diff_ids":[{diffs}]}}{extra}}}"#);
            read_image_config("t", place(), &manifest, config.as_bytes())
        };
        let records = format!(r#","moby.buildkit.cache.v0":"{value}""#);
        assert!(with("", &format!("\"{diff}\"")).expect("fine").is_none());
        assert!(with(&records, "").expect("fine").is_none());
        assert!(with(&records, &format!("\"{diff}\"")).expect("fine").is_some());
        assert!(with(r#","moby.buildkit.cache.v0":"%%""#, &format!("\"{diff}\"")).is_err());
    }
}
