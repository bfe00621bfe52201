//! Puts a document and everything below it under names (SPEC B8.01, E3.17).

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt as _, try_join_all};
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};

use super::super::parts::{MAX_DEPTH, document};
use super::super::transfer::PARALLEL;
use super::super::{ImageError, blocking};
use super::{Combined, Place, RemoteImages};
use crate::base::Digest;
use crate::base::events::Outcome;
use crate::exporter::layout;
use crate::oci::manifest::Document;
use crate::oci::{Descriptor, Reference, media_type};
use crate::registry::{Progress, PushOutcome, cosign_tag};

/// Behind `sha256-<hex>`: where cosign keeps signatures, attestations and SBOMs.
const COSIGN: [&str; 3] = ["sig", "att", "sbom"];

impl RemoteImages {
    /// Writes what was combined to its names; a name is written last, when everything below it is there.
    ///
    /// # Errors
    /// If something cannot be read or written; names that were not reached are as they were.
    pub async fn publish(&self, combined: &Combined, targets: &[Place]) -> Result<(), ImageError> {
        try_join_all(targets.iter().map(|target| async move {
            let id = Digest::sha256(format!("imagetools {target}"));
            self.events.vertex(&id, format!("[internal] pushing {target}"), Vec::new());
            self.events.started(&id);
            let result = self.publish_one(combined, target, &id).await;
            let outcome = result.as_ref().map_or_else(|e| Outcome::Failed(e.to_string()), |()| Outcome::Done);
            self.events.completed(&id, outcome);
            result
        }))
        .await?;
        Ok(())
    }

    async fn publish_one(&self, combined: &Combined, target: &Place, id: &Digest) -> Result<(), ImageError> {
        for (place, member) in &combined.members {
            if place.repository() != target.repository() {
                let copying =
                    format!("copying {} from {} to {}", member.digest, place.repository(), target.repository());
                self.events.progress(id, copying.clone(), 0, None, false);
                self.copy(place.clone(), member.clone(), target.clone(), id.clone(), 0).await?;
                self.events.progress(id, copying, 0, None, true);
            }
        }
        match target {
            Place::Registry(reference) => {
                let name = Reference { digest: None, ..reference.clone() };
                self.client.push_manifest(&name, &combined.descriptor.media_type, combined.bytes.clone()).await?;
            }
            Place::Layout(directory) => {
                let mut entry = combined.descriptor.clone();
                entry.annotations.extend(combined.entry.clone());
                let (directory, bytes) = (directory.clone(), combined.bytes.clone());
                blocking(move || {
                    layout::put_blob(directory.path(), &entry.digest, &mut bytes.as_ref())?;
                    entry.annotations.extend(directory.names());
                    Ok(layout::name(directory.path(), &[entry])?)
                })
                .await?;
            }
        }
        self.events.progress(id, format!("pushing {}", combined.descriptor.digest), 0, None, true);
        Ok(())
    }

    /// Copies a manifest or an index and what it consists of to another repository.
    fn copy(
        &self,
        from: Place,
        at: Descriptor,
        to: Place,
        id: Digest,
        depth: usize,
    ) -> BoxFuture<'static, Result<(), ImageError>> {
        let this = self.clone();
        async move {
            let there = to.at(&at.digest);
            if let Place::Registry(there) = &there
                && this.client.pushed(there).await?.as_ref() == Some(&at.digest)
            {
                return Ok(());
            }
            let (descriptor, bytes) = from.at(&at.digest).root(&this.client).await?;
            match document(&descriptor.digest, &bytes, &descriptor.media_type)? {
                Document::Index(_) if depth == MAX_DEPTH => {
                    let reason = "indexes are nested too deep".into();
                    return Err(ImageError::Document { digest: descriptor.digest, reason });
                }
                Document::Index(index) => {
                    let below = |d: Descriptor| this.copy(from.clone(), d, to.clone(), id.clone(), depth + 1);
                    try_join_all(index.manifests.into_iter().map(below)).await?;
                }
                Document::Manifest(manifest) => {
                    let mut blobs = manifest.layers;
                    blobs.retain(|l| !media_type::is_foreign(&l.media_type));
                    blobs.push(manifest.config);
                    let copies = blobs.into_iter().map(|blob| {
                        let (this, from, to, id) = (this.clone(), from.clone(), to.clone(), id.clone());
                        async move { this.copy_blob(&from, &blob, &to, &id).await }
                    });
                    stream::iter(copies).buffer_unordered(PARALLEL).try_collect::<Vec<()>>().await?;
                }
            }
            this.put(&there, &descriptor, bytes).await?;
            this.copy_what_refers(&from, &descriptor.digest, &to, &id, depth).await
        }
        .boxed()
    }

    /// A document under its digest.
    async fn put(&self, there: &Place, descriptor: &Descriptor, bytes: Bytes) -> Result<(), ImageError> {
        match there {
            Place::Registry(reference) => {
                self.client.push_manifest(reference, &descriptor.media_type, bytes).await?;
                Ok(())
            }
            Place::Layout(directory) => {
                let (path, digest) = (directory.path().to_owned(), descriptor.digest.clone());
                blocking(move || Ok(layout::put_blob(&path, &digest, &mut bytes.as_ref())?)).await
            }
        }
    }

    async fn copy_blob(&self, from: &Place, blob: &Descriptor, to: &Place, id: &Digest) -> Result<(), ImageError> {
        let source = from.blob(&self.client, blob);
        let item = format!("copying {}", blob.digest);
        match to {
            Place::Registry(target) => {
                let progress: Progress = {
                    let (events, id, item, total) = (self.events.clone(), id.clone(), item.clone(), blob.size);
                    Arc::new(move |sent| events.progress(&id, item.clone(), sent, Some(total), false))
                };
                let mounts = match from {
                    Place::Registry(from) if from.domain == target.domain => vec![from.path.clone()],
                    _ => Vec::new(),
                };
                if self.client.push_blob(target, blob, &source, &mounts, &progress).await? != PushOutcome::Uploaded {
                    return Ok(());
                }
            }
            Place::Layout(directory) => {
                let (path, digest) = (directory.path().to_owned(), blob.digest.clone());
                blocking(move || {
                    if layout::has_blob(&path, &digest) {
                        return Ok(());
                    }
                    let mut bytes = source.open().map_err(ImageError::io("read", &path))?;
                    Ok(layout::put_blob(&path, &digest, &mut bytes)?)
                })
                .await?;
            }
        }
        self.events.progress(id, item, blob.size, Some(blob.size), true);
        Ok(())
    }

    /// Signatures and other things about an image, in the list of referrers and under cosign's tags.
    async fn copy_what_refers(
        &self,
        from: &Place,
        subject: &Digest,
        to: &Place,
        id: &Digest,
        depth: usize,
    ) -> Result<(), ImageError> {
        let (Place::Registry(source), Place::Registry(target)) = (from, to) else { return Ok(()) };
        if depth >= MAX_DEPTH {
            return Ok(());
        }
        for referrer in self.client.referrers(source, subject, None).await? {
            self.copy(from.clone(), referrer, to.clone(), id.clone(), depth + 1).await?;
        }
        for what in COSIGN {
            let tag = cosign_tag(subject, what);
            let at = |place: &Reference| Reference { tag: Some(tag.clone()), digest: None, ..place.clone() };
            let found = match self.client.manifest(&at(source)).await {
                Ok(found) => found,
                Err(e) if e.is_not_found() => continue,
                Err(e) => return Err(e.into()),
            };
            self.copy(from.clone(), found.descriptor.clone(), to.clone(), id.clone(), depth + 1).await?;
            self.client.push_manifest(&at(target), &found.descriptor.media_type, found.bytes).await?;
        }
        Ok(())
    }
}
