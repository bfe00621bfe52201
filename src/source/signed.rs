//! Signatures of an image in a registry (SPEC B8.09, C8.16): in the list of what refers to it, and under cosign's tags.

use bytes::Bytes;

use super::image::{ImageSource, Place};
use super::{ImageAttributes, SourceError};
use crate::attest::signature::{self, Signatures, TAGS};
use crate::base::Digest;
use crate::llb::op::SourceOp;
use crate::oci::{Manifest, Platform, Reference};
use crate::registry::cosign_tag;

/// An image with more signatures is not looked at: somebody fills its repository.
const MAX_SIGNATURES: usize = 128;
/// Larger ones are not read, in bytes: a signed list of software may have some.
const MAX_SIGNATURE: u64 = 16 << 20;

impl ImageSource {
    /// The signatures that stand beside an image: of its index, and of the platform's manifest. Nothing of its layers is fetched.
    /// Images that are in no registry have none.
    ///
    /// # Errors
    /// As [`ImageSource::resolve_op`], and when a document that a list names cannot be had or read.
    pub async fn signatures(&self, op: &SourceOp, platform: &Platform) -> Result<Signatures, SourceError> {
        let mode = ImageAttributes::parse(&op.attrs)?.mode;
        let root = self.resolve_op(op, platform).await?.digest;
        let Place::Registry(reference) = Place::parse(&op.identifier)? else { return Ok(Signatures::of(vec![root])) };
        let mut image = vec![root];
        let manifest = self.resolve_manifest(&op.identifier, platform, mode).await?;
        if !image.contains(&manifest.digest) {
            image.push(manifest.digest);
        }
        let mut found = Signatures::of(image.clone());
        for subject in &image {
            for artifact in self.artifacts(&reference, subject).await? {
                self.read_signatures(&reference, &artifact, &mut found).await?;
            }
        }
        Ok(found)
    }

    /// The signatures of what is attested of a platform's image, as buildx's builder makes them. There are none where nothing is
    /// attested, and of what is in no registry.
    ///
    /// # Errors
    /// As [`ImageSource::signatures`].
    pub async fn attestation_signatures(&self, op: &SourceOp, platform: &Platform) -> Result<Signatures, SourceError> {
        let Place::Registry(reference) = Place::parse(&op.identifier)? else { return Ok(Signatures::default()) };
        let chain = self.attestation_chain(op, platform, &[]).await?;
        let Some(attestation) = chain.and_then(|chain| chain.attestation) else { return Ok(Signatures::default()) };
        let mut found = Signatures::of(vec![attestation.clone()]);
        for artifact in self.artifacts(&reference, &attestation).await? {
            self.read_signatures(&reference, &artifact, &mut found).await?;
        }
        Ok(found)
    }

    /// The manifests that may hold signatures of `subject`.
    pub(super) async fn artifacts(&self, image: &Reference, subject: &Digest) -> Result<Vec<Bytes>, SourceError> {
        let mut found = Vec::new();
        for listed in self.client().referrers(image, subject, None).await? {
            if listed.artifact_type.as_deref().is_some_and(signature::is_signature) {
                found.push(self.client().manifest(&image.with_digest(listed.digest)).await?.bytes);
            }
            if found.len() > MAX_SIGNATURES {
                return Err(too_many(image));
            }
        }
        for what in TAGS {
            let tagged = Reference { tag: Some(cosign_tag(subject, what)), digest: None, ..image.clone() };
            match self.client().manifest(&tagged).await {
                Ok(manifest) => found.push(manifest.bytes),
                Err(e) if e.is_not_found() => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(found)
    }

    async fn read_signatures(
        &self,
        image: &Reference,
        artifact: &[u8],
        found: &mut Signatures,
    ) -> Result<(), SourceError> {
        // Something else under a tag that looks like cosign's is no signature.
        let Ok(manifest) = serde_json::from_slice::<Manifest>(artifact) else { return Ok(()) };
        for layer in &manifest.layers {
            if !signature::is_read(&layer.media_type) || layer.size > MAX_SIGNATURE {
                continue;
            }
            if found.count() >= MAX_SIGNATURES {
                return Err(too_many(image));
            }
            let bytes = self.client().blob_bytes(image, layer).await?;
            found.add(&layer.media_type, &layer.annotations, &bytes);
        }
        Ok(())
    }
}

fn too_many(image: &Reference) -> SourceError {
    let reason = format!("it has more than {MAX_SIGNATURES} signatures");
    SourceError::NotAnImage { name: image.to_string(), reason }
}
