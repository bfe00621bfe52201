//! From a manifest or an index to everything that it consists of.

use bytes::Bytes;

use super::ImageError;
use crate::base::Digest;
use crate::oci::manifest::{Document, parse_document};
use crate::oci::{Descriptor, Manifest, media_type};
use crate::store::Store;

/// Index in index in index: no deeper.
pub(super) const MAX_DEPTH: usize = 4;

/// Everything that an image consists of, each thing once.
#[derive(Debug, Default)]
pub struct Parts {
    /// Manifests and indexes with their exact bytes; what is referred to comes before what refers to it.
    pub documents: Vec<(Descriptor, Bytes)>,
    /// Manifests, parsed, in the order of their documents, with their descriptors.
    pub manifests: Vec<(Descriptor, Manifest)>,
    /// Configs.
    pub configs: Vec<Descriptor>,
    /// Layers and other blobs.
    pub layers: Vec<Descriptor>,
}

impl Parts {
    /// Reads the documents below `root` from the store.
    ///
    /// # Errors
    /// [`ImageError::Incomplete`] for a document that is not here, [`ImageError::Document`] for a bad one.
    pub fn collect(store: &Store, root: &Descriptor) -> Result<Self, ImageError> {
        let mut parts = Self::default();
        parts.walk(store, root, 0)?;
        Ok(parts)
    }

    fn walk(&mut self, store: &Store, at: &Descriptor, depth: usize) -> Result<(), ImageError> {
        if self.documents.iter().any(|(d, _)| d.digest == at.digest) {
            return Ok(());
        }
        if store.has_blob(&at.digest)?.is_none() {
            return Err(ImageError::Incomplete { what: "manifest", digest: at.digest.clone() });
        }
        let bytes = store.read_blob(&at.digest)?;
        match document(&at.digest, &bytes, &at.media_type)? {
            Document::Manifest(manifest) => {
                add(&mut self.configs, &manifest.config);
                for layer in manifest.layers.iter().filter(|l| !media_type::is_foreign(&l.media_type)) {
                    add(&mut self.layers, layer);
                }
                self.manifests.push((at.clone(), manifest));
            }
            Document::Index(_) if depth == MAX_DEPTH => {
                return Err(bad(&at.digest, "indexes are nested too deep"));
            }
            Document::Index(index) => {
                for child in &index.manifests {
                    self.walk(store, child, depth + 1)?;
                }
            }
        }
        self.documents.push((at.clone(), bytes.into()));
        Ok(())
    }

    /// Bytes of all layers as they are transferred.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.layers.iter().chain(&self.configs).map(|d| d.size).sum()
    }
}

fn add(list: &mut Vec<Descriptor>, descriptor: &Descriptor) {
    if !list.iter().any(|known| known.digest == descriptor.digest) {
        list.push(descriptor.clone());
    }
}

fn bad(digest: &Digest, reason: impl Into<String>) -> ImageError {
    ImageError::Document { digest: digest.clone(), reason: reason.into() }
}

/// Parses a document of an image; `kind` is the media type under which it was found.
///
/// # Errors
/// If it is not what it should be.
pub fn document(digest: &Digest, bytes: &[u8], kind: &str) -> Result<Document, ImageError> {
    parse_document(bytes, kind).map_err(|e| bad(digest, e.to_string()))
}

/// Whether an entry of an index is an image rather than an attestation about one (SPEC C8.01).
#[must_use]
pub fn is_image(entry: &Descriptor) -> bool {
    let unknown = entry.platform.as_ref().is_some_and(|p| p.os == "unknown" && p.architecture == "unknown");
    !unknown && !entry.annotations.contains_key("vnd.docker.reference.type")
}
