//! What an image in a registry or layout is, and what its attestations say (SPEC B8.02, C8.01–C8.04).

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::Value;

use super::super::ImageError;
use super::super::parts::{document, is_image};
use super::{Place, RemoteImages};
use crate::attest::manifest::{self, PREDICATE_TYPE, REFERENCE_DIGEST};
use crate::attest::predicate::SLSA;
use crate::attest::statement::SPDX;
use crate::oci::manifest::Document;
use crate::oci::{Descriptor, ImageConfig, Index, Manifest, Platform};

/// A manifest or an index.
#[derive(Debug, Clone)]
pub struct Looked {
    /// Where it is.
    pub place: Place,
    /// Its digest and type.
    pub descriptor: Descriptor,
    /// Its exact bytes.
    pub bytes: Bytes,
    /// What they say.
    pub document: Document,
}

impl Looked {
    /// The index, if it is one.
    #[must_use]
    pub fn index(&self) -> Option<&Index> {
        match &self.document {
            Document::Index(index) => Some(index),
            Document::Manifest(_) => None,
        }
    }
}

/// An image, and what is said of how it was made.
#[derive(Debug, Clone)]
pub struct Origin {
    /// Its manifest.
    pub descriptor: Descriptor,
    /// What it is for, where the index says.
    pub platform: Option<Platform>,
    /// The predicate of its provenance.
    pub provenance: Option<Value>,
}

/// What images consist of, by platform. A single image has one entry.
#[derive(Debug, Default)]
pub struct Details {
    /// Configs.
    pub images: BTreeMap<String, Value>,
    /// `{"SLSA": …}`.
    pub provenance: BTreeMap<String, Value>,
    /// `{"SPDX": …, "AdditionalSPDXs": […]}`.
    pub sbom: BTreeMap<String, Value>,
}

impl RemoteImages {
    /// Reads the manifest or index under a name.
    ///
    /// # Errors
    /// If there is none, or it is not what it should be.
    pub async fn look(&self, place: &Place) -> Result<Looked, ImageError> {
        let (descriptor, bytes) = place.root(&self.client).await?;
        let document = document(&descriptor.digest, &bytes, &descriptor.media_type)?;
        Ok(Looked { place: place.clone(), descriptor, bytes, document })
    }

    /// Reads the configs and attestations below it.
    ///
    /// # Errors
    /// If something is missing or broken.
    pub async fn details(&self, looked: &Looked) -> Result<Details, ImageError> {
        let mut details = Details::default();
        let index = match &looked.document {
            Document::Manifest(manifest) => {
                let (platform, config) = self.config(&looked.place, manifest).await?;
                details.images.insert(platform, config);
                return Ok(details);
            }
            Document::Index(index) => index,
        };
        let manifests = index.manifests.iter().map(|entry| async move {
            let looked = self.look(&looked.place.at(&entry.digest)).await?;
            match looked.document {
                Document::Manifest(manifest) => Ok::<_, ImageError>(Some((entry, manifest))),
                Document::Index(_) => Ok(None),
            }
        });
        let manifests = futures_util::future::try_join_all(manifests).await?;
        let mut names = BTreeMap::new();
        for (entry, manifest) in manifests.iter().flatten().filter(|(entry, _)| is_image(entry)) {
            let (platform, config) = self.config(&looked.place, manifest).await?;
            let platform = entry.platform.as_ref().map_or(platform, Platform::to_string);
            names.insert(entry.digest.to_string(), platform.clone());
            details.images.insert(platform, config);
        }
        for (entry, manifest) in manifests.iter().flatten().filter(|(entry, _)| !is_image(entry)) {
            if let Some(platform) = entry.annotations.get(REFERENCE_DIGEST).and_then(|digest| names.get(digest)) {
                self.attestations(&looked.place, platform, manifest, &mut details).await?;
            }
        }
        Ok(details)
    }

    /// The images below it, each with its provenance. What somebody attached to an image is not looked for: its builder writes
    /// provenance into the index.
    ///
    /// # Errors
    /// If something is missing or broken.
    pub async fn origins(&self, looked: &Looked) -> Result<Vec<Origin>, ImageError> {
        let Some(index) = looked.index() else {
            return Ok(vec![Origin { descriptor: looked.descriptor.clone(), platform: None, provenance: None }]);
        };
        let mut origins = Vec::new();
        for image in index.manifests.iter().filter(|entry| is_image(entry)) {
            let mut provenance = None;
            if let Some(about) = manifest::about(&index.manifests, image)
                && let Document::Manifest(listed) = self.look(&looked.place.at(&about.digest)).await?.document
                && let Some((_, layer)) = manifest::provenance(&listed)
            {
                provenance = Some(self.predicate(&looked.place, layer).await?);
            }
            origins.push(Origin { descriptor: image.clone(), platform: image.platform.clone(), provenance });
        }
        Ok(origins)
    }

    /// What a statement says.
    async fn predicate(&self, place: &Place, layer: &Descriptor) -> Result<Value, ImageError> {
        let bytes = place.small(&self.client, layer).await?;
        let mut statement: Value = serde_json::from_slice(&bytes)
            .map_err(|e| ImageError::Document { digest: layer.digest.clone(), reason: e.to_string() })?;
        Ok(statement.get_mut("predicate").map(Value::take).unwrap_or_default())
    }

    /// The platform and the config of an image.
    async fn config(&self, place: &Place, manifest: &Manifest) -> Result<(String, Value), ImageError> {
        let bytes = place.small(&self.client, &manifest.config).await?;
        let bad = |e: serde_json::Error| ImageError::Document {
            digest: manifest.config.digest.clone(),
            reason: e.to_string(),
        };
        let config: ImageConfig = serde_json::from_slice(&bytes).map_err(bad)?;
        Ok((config.platform().to_string(), serde_json::from_slice(&bytes).map_err(bad)?))
    }

    async fn attestations(
        &self,
        place: &Place,
        platform: &str,
        manifest: &Manifest,
        details: &mut Details,
    ) -> Result<(), ImageError> {
        for layer in &manifest.layers {
            let Some(kind) = layer.annotations.get(PREDICATE_TYPE) else { continue };
            if !kind.starts_with(SLSA) && kind != SPDX {
                continue;
            }
            let predicate = self.predicate(place, layer).await?;
            if kind == SPDX {
                match details.sbom.get_mut(platform) {
                    None => {
                        details.sbom.insert(platform.to_owned(), serde_json::json!({"SPDX": predicate}));
                    }
                    Some(Value::Object(first)) => {
                        let more = first.entry("AdditionalSPDXs").or_insert_with(|| Value::Array(Vec::new()));
                        more.as_array_mut().into_iter().for_each(|more| more.push(predicate.clone()));
                    }
                    Some(_) => {}
                }
            } else {
                details.provenance.insert(platform.to_owned(), serde_json::json!({"SLSA": predicate}));
            }
        }
        Ok(())
    }
}
