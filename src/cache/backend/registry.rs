//! Caches in registries (SPEC B4.02, B4.03): artifacts of their own, or records in the config of an image.

use std::collections::VecDeque;

use async_trait::async_trait;

use super::document::{Found, examine, mounts_document, mounts_manifest, parse_config, read_image_config};
use super::{CacheBackend, CacheBlob, CacheError, DocumentForm, MountPlace, Moved, Written};
use crate::base::FaultKind;
use crate::cache::config::{CONFIG_TYPE, CacheConfig};
use crate::cache::import::{Import, Place};
use crate::cache::mounts::SUFFIX;
use crate::oci::manifest::parse_document;
use crate::oci::{Descriptor, Reference, media_type};
use crate::registry::{BlobSource, Client, Progress, PushOutcome, RegistryError, no_progress};

/// Images below an index that are looked at.
const MAX_DOCUMENTS: usize = 64;
/// Characters of the longest tag (OCI distribution specification).
const MAX_TAG: usize = 128;

/// A cache under a reference.
pub struct RegistryCache {
    client: Client,
    reference: Reference,
    form: DocumentForm,
}

impl RegistryCache {
    /// The cache at `reference`.
    #[must_use]
    pub fn new(client: Client, reference: Reference, form: DocumentForm) -> Self {
        Self { client, reference, form }
    }

    fn place(&self) -> Place {
        Place { host: self.reference.domain.clone(), repository: self.reference.path.clone() }
    }

    async fn config(
        &self,
        config: &Descriptor,
        known: &std::collections::HashMap<crate::base::Digest, crate::cache::import::ImportLayer>,
    ) -> Result<Import, CacheError> {
        let bytes = self.client.blob_bytes(&self.reference, config).await.map_err(|e| failed(&e))?;
        let config = parse_config(&self.title(), &bytes)?;
        Ok(Import::new(&self.title(), self.place(), config, known))
    }
}

impl RegistryCache {
    /// The tag beside the cache's.
    fn mounts_reference(&self) -> Result<Reference, CacheError> {
        if self.reference.digest.is_some() {
            return Err(CacheError::missing(format!(
                "{}: a cache that is named by a digest has no mounts",
                self.title()
            )));
        }
        let tag = format!("{}{SUFFIX}", self.reference.tag.as_deref().unwrap_or("latest"));
        if tag.len() > MAX_TAG {
            return Err(CacheError::new(format!("\"{tag}\" is too long for a tag: give the cache a shorter one")));
        }
        Ok(Reference { tag: Some(tag), ..self.reference.clone() })
    }
}

#[async_trait]
impl MountPlace for RegistryCache {
    fn place(&self) -> Place {
        Self::place(self)
    }

    async fn load_mounts(&self, to_replace: bool) -> Result<Vec<u8>, CacheError> {
        let reference = self.mounts_reference()?;
        let title = reference.to_string();
        let fetched = self.client.manifest(&reference).await.map_err(|e| failed(&e))?;
        let document = parse_document(&fetched.bytes, &fetched.descriptor.media_type)
            .map_err(|e| CacheError::new(format!("{title}: {e}")))?;
        let config = mounts_document(&title, document)?;
        let bytes = self.client.blob_bytes(&reference, &config).await;
        // That there is no list is no trouble; that a list is not all there is, unless it is replaced anyway.
        let lost = |e: &RegistryError| CacheError { missing: to_replace && e.is_not_found(), ..failed(e) };
        Ok(bytes.map_err(|e| lost(&e))?.to_vec())
    }

    async fn has(&self, blob: &Descriptor) -> Result<bool, CacheError> {
        self.client.has_blob(&self.reference, blob).await.map_err(|e| failed(&e))
    }

    async fn publish_mounts(&self, document: Vec<u8>, packs: &[Descriptor]) -> Result<String, CacheError> {
        let reference = self.mounts_reference()?;
        let (config, descriptor, manifest) = mounts_manifest(&document, packs);
        let source = BlobSource::bytes(document.into());
        self.client.push_blob(&reference, &config, &source, &[], &no_progress()).await.map_err(|e| failed(&e))?;
        let pushed = self.client.push_manifest(&reference, &descriptor.media_type, manifest.into()).await;
        pushed.map_err(|e| failed(&e))?;
        Ok(format!("{reference}@{}", descriptor.digest))
    }
}

fn failed(error: &RegistryError) -> CacheError {
    CacheError {
        message: error.to_string(),
        hint: error.hint(),
        missing: error.is_not_found(),
        silent: error.is_silence(),
    }
}

#[async_trait]
impl CacheBackend for RegistryCache {
    fn title(&self) -> String {
        self.reference.to_string()
    }

    async fn load(&self) -> Result<Vec<Import>, CacheError> {
        let mut found = Vec::new();
        let mut waiting = VecDeque::from([self.reference.clone()]);
        let mut looked_at = 0;
        while let Some(reference) = waiting.pop_front() {
            looked_at += 1;
            let fetched = self.client.manifest(&reference).await.map_err(|e| failed(&e))?;
            let document = parse_document(&fetched.bytes, &fetched.descriptor.media_type)
                .map_err(|e| CacheError::new(format!("{}: {e}", self.title())))?;
            match examine(document) {
                Found::Config(config, known) => found.push(self.config(&config, &known).await?),
                Found::Image(manifest) => {
                    let bytes =
                        self.client.blob_bytes(&self.reference, &manifest.config).await.map_err(|e| failed(&e))?;
                    found.extend(read_image_config(&self.title(), self.place(), &manifest, &bytes)?);
                }
                Found::Documents(documents) => {
                    let documents = documents
                        .into_iter()
                        .filter(|d| media_type::is_manifest(&d.media_type) || media_type::is_index(&d.media_type));
                    let room = MAX_DOCUMENTS.saturating_sub(looked_at + waiting.len());
                    waiting.extend(documents.take(room).map(|d| self.reference.with_digest(d.digest)));
                }
            }
        }
        Ok(found)
    }

    async fn put(&self, blob: &CacheBlob, progress: &Progress) -> Result<Moved, CacheError> {
        let here = blob.held_by.iter().filter(|(host, _)| *host == self.reference.domain);
        let from: Vec<String> = here.map(|(_, path)| path.clone()).collect();
        let outcome = self.client.push_blob(&self.reference, &blob.descriptor, &blob.source, &from, progress).await;
        Ok(match outcome.map_err(|e| failed(&e))? {
            PushOutcome::Uploaded => Moved::Bytes(blob.descriptor.size),
            PushOutcome::Exists | PushOutcome::Mounted => Moved::Nothing,
        })
    }

    async fn publish(&self, config: CacheConfig, blobs: &[CacheBlob]) -> Result<Written, CacheError> {
        let bytes = config.to_json();
        let config = Descriptor::of_bytes(CONFIG_TYPE, &bytes);
        let source = BlobSource::bytes(bytes.into());
        self.client.push_blob(&self.reference, &config, &source, &[], &no_progress()).await.map_err(|e| failed(&e))?;
        let (descriptor, document) = self.form.document(&config, blobs);
        let pushed = self.client.push_manifest(&self.reference, &descriptor.media_type, document.into()).await;
        pushed.map_err(|e| {
            let mut error = failed(&e);
            // Harbor, Artifactory and others refuse what is not quite an image (PAIN 71).
            if e.kind() == FaultKind::Remote && error.hint.is_none() {
                error.hint = Some(match self.form.image_manifest {
                    true => {
                        "some registries take no cache manifests: try another registry for the cache, or type=inline"
                            .into()
                    }
                    false => "some registries take no indexes of blobs: try image-manifest=true".into(),
                });
            }
            error
        })?;
        Ok(Written { name: format!("{}@{}", self.reference, descriptor.digest), document: Some(descriptor) })
    }

    async fn probe(&self) -> Result<(), CacheError> {
        self.client.check_push(&self.reference).await.map_err(|e| failed(&e))
    }

    fn mounts(&self) -> Option<&dyn MountPlace> {
        Some(self)
    }
}
