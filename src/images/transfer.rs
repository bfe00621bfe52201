//! Between registries and the store.

use std::sync::Arc;

use futures_util::future::{BoxFuture, FutureExt as _, try_join_all};
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};

use super::parts::{self, Parts};
use super::{ImageError, Images, blocking};
use crate::base::Digest;
use crate::base::events::Outcome;
use crate::llb::ResolveMode;
use crate::oci::manifest::Document;
use crate::oci::{Descriptor, Platform, Reference, media_type};
use crate::registry::{BlobSource, Progress, PushOutcome};
use crate::store::RemoteBlob;

/// Blobs on their way at a time; the client bounds them per host too.
pub(super) const PARALLEL: usize = 4;

impl Images {
    /// Brings an image into the store under its name: the one for `platform`, or the whole index without one.
    ///
    /// # Errors
    /// If it does not exist, is not for the platform, or cannot be had completely; it has no name in the store then.
    pub async fn pull(&self, reference: &Reference, platform: Option<&Platform>) -> Result<Descriptor, ImageError> {
        let id = Digest::sha256(format!("pull {reference}"));
        self.events.vertex(&id, format!("pulling {reference}"), Vec::new());
        self.events.started(&id);
        let result = self.fetch(reference, platform, &id).await;
        self.end(&id, &result);
        result
    }

    async fn fetch(
        &self,
        reference: &Reference,
        platform: Option<&Platform>,
        id: &Digest,
    ) -> Result<Descriptor, ImageError> {
        let root = match platform {
            Some(platform) => {
                // The source chooses in indexes, by the rules that FROM has.
                let identifier = format!("docker-image://{reference}");
                self.source.resolve_manifest(&identifier, platform, ResolveMode::Pull).await?
            }
            None => self.client.resolve(reference).await?,
        };
        self.complete(reference.clone(), root.clone(), id.clone()).await?;
        let (store, name, descriptor) = (self.store.clone(), reference.clone(), root.clone());
        blocking(move || Ok(store.tag_image(&name, &descriptor)?)).await?;
        self.events.progress(id, format!("naming to {reference}"), 0, None, true);
        Ok(root)
    }

    /// Makes everything below a document local.
    pub(super) fn complete(
        &self,
        from: Reference,
        at: Descriptor,
        id: Digest,
    ) -> BoxFuture<'static, Result<(), ImageError>> {
        let this = self.clone();
        async move {
            let (store, digest) = (this.store.clone(), at.digest.clone());
            let known =
                blocking(move || Ok(store.has_blob(&digest)?.map(|_| store.read_blob(&digest)).transpose()?)).await?;
            let bytes = match known {
                Some(bytes) => bytes.into(),
                None => {
                    let fetched = this.client.manifest(&from.with_digest(at.digest.clone())).await?;
                    let (store, bytes) = (this.store.clone(), fetched.bytes.clone());
                    blocking(move || Ok(store.put_blob(&bytes)?)).await?;
                    fetched.bytes
                }
            };
            match parts::document(&at.digest, &bytes, &at.media_type)? {
                Document::Index(index) => {
                    let children = index.manifests.into_iter().map(|d| this.complete(from.clone(), d, id.clone()));
                    try_join_all(children).await?;
                }
                Document::Manifest(manifest) => {
                    let mut blobs = manifest.layers;
                    blobs.retain(|l| !media_type::is_foreign(&l.media_type));
                    blobs.push(manifest.config);
                    let wanted = blobs.into_iter().map(|descriptor| {
                        let remote = RemoteBlob {
                            host: from.domain.clone(),
                            repository: from.path.clone(),
                            descriptor: descriptor.clone(),
                        };
                        let (source, id) = (this.source.clone(), id.clone());
                        async move { source.ensure_blob(&descriptor, &[remote], Some(&id)).await }
                    });
                    stream::iter(wanted).buffer_unordered(PARALLEL).try_collect::<Vec<()>>().await?;
                }
            }
            Ok(())
        }
        .boxed()
    }

    /// Sends an image of the store to the registry of `target`, byte for byte. Layers that are only known to be in
    /// a registry are mounted or copied from there.
    ///
    /// # Errors
    /// If something is missing, or the registry refuses; it has no tag for it then.
    pub async fn push(&self, name: &str, target: &Reference) -> Result<Digest, ImageError> {
        let (this, name) = (self.clone(), name.to_owned());
        let image = blocking(move || this.find(&name)).await?;
        self.push_image(&image, target).await
    }

    /// The same for an image that needs no name.
    ///
    /// # Errors
    /// As [`Images::push`].
    pub async fn push_image(&self, image: &Descriptor, target: &Reference) -> Result<Digest, ImageError> {
        let id = Digest::sha256(format!("push {target}"));
        self.events.vertex(&id, format!("pushing {target}"), Vec::new());
        self.events.started(&id);
        let result = self.send(image.clone(), target, &id).await;
        self.end(&id, &result);
        result
    }

    async fn send(&self, root: Descriptor, target: &Reference, id: &Digest) -> Result<Digest, ImageError> {
        let this = self.clone();
        let (root, parts) = blocking(move || {
            let parts = Parts::collect(&this.store, &root)?;
            Ok((root, parts))
        })
        .await?;
        // Whoever may not push should know it before gigabytes are read; what is there already costs one request.
        let tagged = Reference { digest: None, ..target.clone() };
        if self.client.pushed(&tagged).await?.as_ref() == Some(&root.digest) {
            self.events.progress(id, format!("already there: {target}"), 0, None, true);
            return Ok(root.digest);
        }
        let by_digest = |digest: &Digest| Reference { tag: None, digest: Some(digest.clone()), ..target.clone() };
        // Under another tag it is there with all that it consists of.
        let there = self.client.pushed(&by_digest(&root.digest)).await?.as_ref() == Some(&root.digest);
        if !there {
            let blobs = parts.layers.iter().chain(&parts.configs).map(|blob| self.send_blob(target, blob, id));
            stream::iter(blobs).buffer_unordered(PARALLEL).try_collect::<Vec<()>>().await?;
            self.events.progress(id, "pushing layers", 0, None, true);
        }
        for (descriptor, bytes) in parts.documents.iter().filter(|(d, _)| !there || d.digest == root.digest) {
            let last = descriptor.digest == root.digest;
            let place = if last { tagged.clone() } else { by_digest(&descriptor.digest) };
            self.client.push_manifest(&place, &descriptor.media_type, bytes.clone()).await?;
        }
        self.events.progress(id, format!("pushing manifest for {target}@{}", root.digest), 0, None, true);
        Ok(root.digest)
    }

    async fn send_blob(&self, target: &Reference, blob: &Descriptor, id: &Digest) -> Result<(), ImageError> {
        let (store, digest) = (self.store.clone(), blob.digest.clone());
        let (here, remotes) =
            blocking(move || Ok((store.has_blob(&digest)?.is_some(), store.remotes_of(&digest)?))).await?;
        if !here && remotes.is_empty() {
            return Err(ImageError::Incomplete { what: "layer", digest: blob.digest.clone() });
        }
        let from: Vec<String> =
            remotes.iter().filter(|r| r.host == target.domain).map(|r| r.repository.clone()).collect();
        let item = format!("pushing {}", blob.digest);
        let progress: Progress = {
            let (events, id, item, total) = (self.events.clone(), id.clone(), item.clone(), blob.size);
            Arc::new(move |sent| events.progress(&id, item.clone(), sent, Some(total), false))
        };
        let source = {
            let (store, images, blob) = (self.store.clone(), self.source.clone(), blob.clone());
            let runtime = tokio::runtime::Handle::current();
            BlobSource::new(move || {
                // Only when the registry could not mount it.
                runtime.block_on(images.ensure_blob(&blob, &remotes, None)).map_err(std::io::Error::other)?;
                Ok(Box::new(store.open_blob(&blob.digest).map_err(std::io::Error::other)?))
            })
        };
        if self.client.push_blob(target, blob, &source, &from, &progress).await? == PushOutcome::Uploaded {
            self.events.progress(id, item, blob.size, Some(blob.size), true);
        }
        Ok(())
    }

    pub(super) fn end<T>(&self, id: &Digest, result: &Result<T, ImageError>) {
        match result {
            Ok(_) => self.events.completed(id, Outcome::Done),
            Err(error) => self.events.completed(id, Outcome::Failed(error.to_string())),
        }
    }
}
