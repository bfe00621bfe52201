//! Pushing: blobs in parallel, then the config, then manifests, tags last (SPEC E3.10).

use std::sync::Arc;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};

use super::image::{Assembled, Layer};
use super::{ExportContext, ExportError, OutputSpec};
use crate::base::Digest;
use crate::oci::{Descriptor, Reference};
use crate::registry::{BlobSource, HostOptions, Progress, PushOutcome};

/// Blobs on their way at a time; the client bounds them per host too.
const PARALLEL: usize = 4;

pub(super) async fn push(
    context: &ExportContext<'_>,
    image: &Assembled,
    spec: &OutputSpec,
    id: &Digest,
) -> Result<(), ExportError> {
    if spec.names.is_empty() {
        return Err(ExportError::Usage("tag is needed when pushing to registry".into()));
    }
    let mut repositories: Vec<&Reference> = Vec::new();
    for name in &spec.names {
        if spec.insecure {
            context.client.set_host(&name.domain, HostOptions { plain_http: None, insecure: true });
        }
        if !repositories.iter().any(|known| known.repository() == name.repository()) {
            repositories.push(name);
        }
    }
    for repository in repositories {
        let blobs = image.layers.iter().map(|layer| push_layer(context, repository, layer, id));
        stream::iter(blobs).buffer_unordered(PARALLEL).try_collect::<Vec<()>>().await?;
        let config = BlobSource::bytes(image.config_bytes.clone());
        context.client.push_blob(repository, &image.config, &config, &[], &crate::registry::no_progress()).await?;
        if spec.by_digest {
            let target = Reference { tag: None, digest: Some(image.descriptor.digest.clone()), ..repository.clone() };
            let bytes = image.manifest_bytes.clone();
            context.client.push_manifest(&target, &image.descriptor.media_type, bytes).await?;
        }
    }
    context.events.progress(id, "pushing layers", 0, None, true);
    if spec.by_digest {
        return Ok(());
    }
    // Every tag after every blob of every repository.
    for name in &spec.names {
        let target = Reference { digest: None, ..name.clone() };
        let bytes = image.manifest_bytes.clone();
        context.client.push_manifest(&target, &image.descriptor.media_type, bytes).await?;
        context.events.progress(id, format!("pushing manifest for {name}@{}", image.descriptor.digest), 0, None, true);
    }
    Ok(())
}

async fn push_layer(
    context: &ExportContext<'_>,
    target: &Reference,
    layer: &Layer,
    id: &Digest,
) -> Result<(), ExportError> {
    let from: Vec<String> =
        layer.remotes.iter().filter(|r| r.host == target.domain).map(|r| r.repository.clone()).collect();
    let item = format!("pushing {}", layer.descriptor.digest);
    let progress: Progress = {
        let (events, id, item, total) = (context.events.clone(), id.clone(), item.clone(), layer.descriptor.size);
        Arc::new(move |sent| events.progress(&id, item.clone(), sent, Some(total), false))
    };
    let source = source(context, layer);
    let outcome = context.client.push_blob(target, &layer.descriptor, &source, &from, &progress).await?;
    if outcome == PushOutcome::Uploaded {
        context.events.progress(id, item, layer.descriptor.size, Some(layer.descriptor.size), true);
    }
    Ok(())
}

/// Opens the blob; one that was never read is fetched first, which only happens when the registry cannot mount it.
fn source(context: &ExportContext<'_>, layer: &Layer) -> BlobSource {
    let (store, images) = (context.store.clone(), context.source.clone());
    let (descriptor, remotes): (Descriptor, Vec<_>) = (layer.descriptor.clone(), layer.remotes.clone());
    let runtime = tokio::runtime::Handle::current();
    BlobSource::new(move || {
        runtime.block_on(images.ensure_blob(&descriptor, &remotes, None)).map_err(std::io::Error::other)?;
        Ok(Box::new(store.open_blob(&descriptor.digest).map_err(std::io::Error::other)?))
    })
}
