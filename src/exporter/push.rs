//! Pushing: blobs in parallel, configs, then manifests by digest, tags last (SPEC E3.10).

use std::collections::HashSet;
use std::sync::Arc;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};

use super::assembly::{Assembly, Document};
use super::image::{Assembled, Layer};
use super::{ExportContext, ExportError, OutputSpec};
use crate::base::Digest;
use crate::base::events::SAVED;
use crate::oci::{Descriptor, Reference, media_type};
use crate::registry::{BlobSource, Progress, PushOutcome};

/// Blobs on their way at a time; the client bounds them per host too.
pub(super) const PARALLEL: usize = 4;

/// A push whose blobs are in the registries; nothing names them yet.
pub(super) struct Pushed {
    /// Manifests below an index, with the repository each goes to.
    children: Vec<(Reference, Document)>,
    /// What names the image: tags, or the digest.
    roots: Vec<Reference>,
    root: Document,
    /// Tags that cannot be changed are left as they are.
    immutable_tags: bool,
    /// Layers that are now known to be in a repository.
    holders: Vec<(Layer, Reference)>,
}

/// Brings every blob to every repository of the names. A name that already means this very image costs one request.
pub(super) async fn prepare(
    context: &ExportContext<'_>,
    assembly: &Assembly,
    spec: &OutputSpec,
    names: &[Reference],
    id: &Digest,
) -> Result<Pushed, ExportError> {
    if names.is_empty() {
        return Err(ExportError::Usage("tag is needed when pushing to registry".into()));
    }
    let root = assembly.root();
    let mut pushed = Pushed {
        children: Vec::new(),
        roots: Vec::new(),
        root: root.clone(),
        immutable_tags: spec.immutable_tags,
        holders: Vec::new(),
    };
    let mut whole: HashSet<String> = HashSet::new();
    for name in names {
        if spec.insecure {
            context.client.set_insecure(&name.domain);
        }
        let target = if spec.by_digest {
            by_digest(name, &root.descriptor.digest)
        } else {
            Reference { digest: None, ..name.clone() }
        };
        // SPEC E3.11: nothing to do at all, the most frequent case of a rebuild.
        if context.client.pushed(&target).await?.as_ref() == Some(&root.descriptor.digest) {
            whole.insert(name.repository());
            let size = assembly.images.iter().flat_map(|image| &image.layers).map(|layer| layer.descriptor.size).sum();
            context.events.progress(id, format!("{}{target}", SAVED[0]), size, Some(size), true);
            continue;
        }
        if whole.insert(name.repository()) {
            blobs(context, assembly, name, id, &mut pushed).await?;
        }
        if !pushed.roots.contains(&target) {
            pushed.roots.push(target);
        }
    }
    context.events.progress(id, "pushing layers", 0, None, true);
    Ok(pushed)
}

async fn blobs(
    context: &ExportContext<'_>,
    assembly: &Assembly,
    repository: &Reference,
    id: &Digest,
    pushed: &mut Pushed,
) -> Result<(), ExportError> {
    let mut there = HashSet::new();
    for image in assembly.images.iter().filter(|image| may_have(repository, image)) {
        let digest = &image.descriptor.digest;
        let target = by_digest(repository, digest);
        // Under another tag, or in another index: nothing of it needs a request.
        if context.client.pushed(&target).await?.as_ref() == Some(digest) {
            let size = image.layers.iter().map(|layer| layer.descriptor.size).sum();
            context.events.progress(id, format!("{}{target}", SAVED[0]), size, Some(size), true);
            there.insert(digest);
        }
    }
    let images = || assembly.images.iter().filter(|image| !there.contains(&image.descriptor.digest));
    // Platforms share layers: each goes once. Those that must not be distributed stay away (SPEC E3.12).
    let mut seen = HashSet::new();
    let layers: Vec<&Layer> = images()
        .flat_map(|image| &image.layers)
        .filter(|layer| !media_type::is_foreign(&layer.descriptor.media_type))
        .filter(|layer| seen.insert(&layer.descriptor.digest))
        .collect();
    let sending = layers.iter().map(|layer| push_layer(context, repository, layer, id));
    stream::iter(sending).buffer_unordered(PARALLEL).try_collect::<Vec<()>>().await?;
    pushed.holders.extend(layers.into_iter().map(|layer| (layer.clone(), repository.clone())));
    let configs = images().map(|image| (&image.config, &image.config_bytes));
    let statements = assembly.attested.iter().flat_map(|a| &a.blobs).map(|blob| (&blob.descriptor, &blob.bytes));
    let small = configs.chain(statements).filter(|(descriptor, _)| seen.insert(&descriptor.digest));
    let sending = small.map(|(descriptor, bytes)| async move {
        let source = BlobSource::bytes(bytes.clone());
        let silent = crate::registry::no_progress();
        context.client.push_blob(repository, descriptor, &source, &[], &silent).await
    });
    stream::iter(sending).buffer_unordered(PARALLEL).try_collect::<Vec<_>>().await?;
    for child in assembly.children().into_iter().filter(|child| !there.contains(&child.descriptor.digest)) {
        pushed.children.push((by_digest(repository, &child.descriptor.digest), child));
    }
    Ok(())
}

/// A name of the same repository.
fn by_digest(repository: &Reference, digest: &Digest) -> Reference {
    Reference { tag: None, digest: Some(digest.clone()), ..repository.clone() }
}

/// Whether a repository is known to have every layer of an image, so that it is worth a question whether it has all of it.
fn may_have(repository: &Reference, image: &Assembled) -> bool {
    let mut layers = image.layers.iter().filter(|layer| !media_type::is_foreign(&layer.descriptor.media_type));
    layers.all(|layer| {
        layer.remotes.iter().any(|remote| {
            remote.host == repository.domain
                && remote.repository == repository.path
                && remote.descriptor.digest == layer.descriptor.digest
        })
    })
}

impl Pushed {
    /// Makes the image visible: manifests, then tags.
    pub(super) async fn publish(self, context: &ExportContext<'_>, id: &Digest) -> Result<(), ExportError> {
        for (target, document) in &self.children {
            put(context, target, document).await?;
            context.events.progress(id, format!("pushing manifest for {target}"), 0, None, true);
        }
        for target in &self.roots {
            match put(context, target, &self.root).await {
                Err(ExportError::Registry(error)) if self.immutable_tags && error.is_immutable_tag() => {
                    context.events.notice("immutable-tag", format!("{target} is immutable and stays as it is"));
                    continue;
                }
                done => done?,
            }
            let shown = match &target.digest {
                Some(_) => target.to_string(),
                None => format!("{target}@{}", self.root.descriptor.digest),
            };
            context.events.progress(id, format!("pushing manifest for {shown}"), 0, None, true);
        }
        // The next image that has these layers can mount them from here.
        let (store, holders) = (context.store.clone(), self.holders);
        super::blocking(move || {
            for (layer, repository) in &holders {
                store.add_remote(&layer.id, &repository.domain, &repository.path, &layer.descriptor)?;
            }
            Ok(())
        })
        .await
    }
}

async fn put(context: &ExportContext<'_>, target: &Reference, document: &Document) -> Result<(), ExportError> {
    let kind = &document.descriptor.media_type;
    context.client.push_manifest(target, kind, document.bytes.clone()).await?;
    Ok(())
}

/// Brings one layer to a repository.
pub(super) async fn push_layer(
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
    let [there, mounted] = SAVED.map(|how| format!("{how}{}", layer.descriptor.digest));
    let item = match outcome {
        PushOutcome::Uploaded => item,
        PushOutcome::Exists => there,
        PushOutcome::Mounted => mounted,
    };
    context.events.progress(id, item, layer.descriptor.size, Some(layer.descriptor.size), true);
    Ok(())
}

/// Opens the blob; one that was never read is fetched first, which only happens when the registry cannot mount it.
pub(super) fn source(context: &ExportContext<'_>, layer: &Layer) -> BlobSource {
    let (store, images) = (context.store.clone(), context.source.clone());
    let (descriptor, remotes): (Descriptor, Vec<_>) = (layer.descriptor.clone(), layer.remotes.clone());
    let runtime = tokio::runtime::Handle::current();
    BlobSource::new(move || {
        runtime.block_on(images.ensure_blob(&descriptor, &remotes, None)).map_err(std::io::Error::other)?;
        Ok(Box::new(store.open_blob(&descriptor.digest).map_err(std::io::Error::other)?))
    })
}
