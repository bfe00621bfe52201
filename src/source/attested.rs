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

    /// A document of an image, from the store if it is there.
    async fn attested<T: serde::de::DeserializeOwned>(
        &self,
        reference: &Reference,
        digest: &Digest,
    ) -> Result<T, SourceError> {
        let bytes: Bytes = match self.read_stored(digest).await? {
            Some(bytes) => bytes,
            None => self.client().manifest(&reference.with_digest(digest.clone())).await?.bytes,
        };
        parsed(reference, &bytes, &Descriptor::new("", digest.clone(), bytes.len() as u64))
    }
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
