//! What is attested of an image in a registry (SPEC B8.09). Digests lead to it, so it belongs to the image; who wrote it, nothing here
//! says.

use bytes::Bytes;
use serde_json::Value;

use super::image::{ImageSource, Place};
use super::{ImageAttributes, SourceError};
use crate::attest::{Statement, manifest};
use crate::base::Digest;
use crate::llb::op::SourceOp;
use crate::oci::{Descriptor, Index, Manifest, Platform, Reference};

/// Larger signatures are not read, in bytes.
const MAX_SIGNATURE: u64 = 16 << 20;

/// What leads from an index to what is attested of one of its images.
#[derive(Debug)]
pub struct Chain {
    /// The index.
    pub root: Digest,
    /// The image.
    pub image: Digest,
    /// The manifest of what is attested of it.
    pub attestation: Option<Digest>,
    /// Manifests of signatures of that.
    pub signatures: Vec<Digest>,
    /// All these, what belongs to signatures, and predicates that were asked for.
    pub documents: Vec<(Descriptor, Bytes)>,
}

impl ImageSource {
    /// The provenance that stands beside a platform's image: the type of its predicate, and the predicate. `None` where there is none,
    /// and of what is in no registry.
    ///
    /// # Errors
    /// As [`ImageSource::resolve_op`], and when a document that the index names cannot be had or read.
    pub async fn provenance(&self, op: &SourceOp, platform: &Platform) -> Result<Option<(String, Value)>, SourceError> {
        let mode = ImageAttributes::parse(&op.attrs)?.mode;
        let root = self.resolve_op(op, platform).await?.digest;
        let Place::Registry(reference) = Place::parse(&op.identifier)? else { return Ok(None) };
        let image = self.resolve_manifest(&op.identifier, platform, mode).await?;
        if image.digest == root {
            return Ok(None);
        }
        let index: Index = self.attested(&reference, &root).await?;
        let Some(about) = manifest::about(&index.manifests, &image) else { return Ok(None) };
        let listed: Manifest = self.attested(&reference, &about.digest).await?;
        let Some((kind, layer)) = manifest::provenance(&listed) else { return Ok(None) };
        let bytes = match self.read_stored(&layer.digest).await? {
            Some(bytes) => bytes,
            None => self.client().blob_bytes(&reference, layer).await?,
        };
        let statement: Statement = parsed(&reference, &bytes, layer)?;
        Ok((statement.predicate_type == kind).then_some((statement.predicate_type, statement.predicate)))
    }

    /// What leads from an image's index to what is attested of a platform's image and to signatures of that, with the predicates of
    /// these types. `None` for what is in no registry, and for an image without an index.
    ///
    /// # Errors
    /// As [`ImageSource::provenance`].
    pub async fn attestation_chain(
        &self,
        op: &SourceOp,
        platform: &Platform,
        types: &[String],
    ) -> Result<Option<Chain>, SourceError> {
        let mode = ImageAttributes::parse(&op.attrs)?.mode;
        let root = self.resolve_op(op, platform).await?.digest;
        let Place::Registry(reference) = Place::parse(&op.identifier)? else { return Ok(None) };
        let image = self.resolve_manifest(&op.identifier, platform, mode).await?;
        if image.digest == root {
            return Ok(None);
        }
        let mut chain = Chain {
            root: root.clone(),
            image: image.digest.clone(),
            attestation: None,
            signatures: Vec::new(),
            documents: Vec::new(),
        };
        let bytes = self.document(&reference, &root).await?;
        let index: Index = parsed(&reference, &bytes, &Descriptor::new("", root.clone(), 0))?;
        chain.documents.push((described(&index.media_type, root, &bytes), bytes));
        let bytes = self.document(&reference, &image.digest).await?;
        chain.documents.push((image.clone(), bytes));
        let Some(about) = manifest::about(&index.manifests, &image) else { return Ok(Some(chain)) };
        chain.attestation = Some(about.digest.clone());
        let bytes = self.document(&reference, &about.digest).await?;
        let listed: Manifest = parsed(&reference, &bytes, about)?;
        chain.documents.push((about.clone(), bytes));
        for layer in listed.layers {
            if manifest::predicate_type(&layer).is_some_and(|kind| types.iter().any(|wanted| wanted == kind)) {
                let bytes = match self.read_stored(&layer.digest).await? {
                    Some(bytes) => bytes,
                    None => self.client().blob_bytes(&reference, &layer).await?,
                };
                chain.documents.push((layer, bytes));
            }
        }
        for bytes in self.artifacts(&reference, &about.digest).await? {
            // Something else under a tag that looks like a signature's is none.
            let Ok(signed) = serde_json::from_slice::<Manifest>(&bytes) else { continue };
            let digest = Digest::sha256(&bytes);
            for layer in &signed.layers {
                if layer.size <= MAX_SIGNATURE {
                    chain.documents.push((layer.clone(), self.client().blob_bytes(&reference, layer).await?));
                }
            }
            chain.documents.push((described(&signed.media_type, digest.clone(), &bytes), bytes));
            chain.signatures.push(digest);
        }
        Ok(Some(chain))
    }

    /// The bytes of a manifest or index, from the store if it is there.
    async fn document(&self, reference: &Reference, digest: &Digest) -> Result<Bytes, SourceError> {
        match self.read_stored(digest).await? {
            Some(bytes) => Ok(bytes),
            None => Ok(self.client().manifest(&reference.with_digest(digest.clone())).await?.bytes),
        }
    }

    /// A document of an image, from the store if it is there.
    async fn attested<T: serde::de::DeserializeOwned>(
        &self,
        reference: &Reference,
        digest: &Digest,
    ) -> Result<T, SourceError> {
        let bytes = self.document(reference, digest).await?;
        parsed(reference, &bytes, &Descriptor::new("", digest.clone(), bytes.len() as u64))
    }
}

fn described(media_type: &str, digest: Digest, bytes: &Bytes) -> Descriptor {
    Descriptor::new(media_type, digest, bytes.len() as u64)
}

fn parsed<T: serde::de::DeserializeOwned>(
    reference: &Reference,
    bytes: &[u8],
    what: &Descriptor,
) -> Result<T, SourceError> {
    serde_json::from_slice(bytes).map_err(|e| SourceError::NotAnImage {
        name: reference.to_string(),
        reason: format!("{}, which is attested of it, cannot be read: {e}", what.digest),
    })
}
