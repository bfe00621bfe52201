//! Images: what a name means, and which layers it has (SPEC C2.01, C2.02).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Write;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;

use super::document::{self, Image, MAX_DEPTH, Next};
use super::fetch::{BlobPlace, Downloads};
use super::late::Late;
use super::nearby::Nearby;
use super::oci_layout::Layout;
use super::{ImageAttributes, LAYOUT_HOST, SourceError};
use crate::base::{Digest, Events};
use crate::llb::host::{FrontendHost, HostError, InContext, ResolveMode, ResolvedImage};
use crate::llb::op::SourceOp;
use crate::oci::{Descriptor, ImageConfig, Manifest, Platform, Reference};
use crate::registry::Client;
use crate::store::{LayerId, Store};

/// Resolves images and brings in their layers. Cheap to clone; one serves a whole invocation.
#[derive(Clone)]
pub struct ImageSource(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) store: Store,
    pub(super) client: Client,
    pub(super) events: Events,
    /// Images looked at so far, by root digest and platform.
    seen: Mutex<HashMap<(Digest, String), Arc<Image>>>,
    /// What the registry said tags mean: a tag that moves during a build must not mean two things in it.
    told: Mutex<HashMap<Reference, Digest>>,
    pub(super) downloads: Downloads,
    /// Blobs of images that this invocation resolved: without them there is no build.
    pub(super) needed: Mutex<HashSet<Digest>>,
    /// Blobs that nobody could give although a cache promised them.
    pub(super) lost: Mutex<HashSet<Digest>>,
    /// Asked for layers that a cache promised: less patient.
    pub(super) hasty: Client,
    /// Caches that did not answer when a layer was wanted that they promised.
    pub(super) late: Late,
    /// Directories that are asked before registries.
    pub(super) nearby: OnceLock<Vec<Nearby>>,
    /// Places that are no registry, by host and repository of a remote.
    pub(super) places: Mutex<HashMap<(String, String), Arc<dyn BlobPlace>>>,
}

/// What an identifier names.
pub(super) enum Place {
    Registry(Reference),
    Layout(Layout),
}

impl ImageSource {
    /// Whether a blob is a layer of an image that this invocation resolved.
    #[must_use]
    pub fn is_of_an_image(&self, blob: &Digest) -> bool {
        self.0.needed.lock().unwrap_or_else(PoisonError::into_inner).contains(blob)
    }

    /// A source over a store and a registry client.
    #[must_use]
    pub fn new(store: Store, client: Client, events: Events) -> Self {
        let hasty = client.clone();
        Self::with_hasty(store, client, hasty, events)
    }

    /// The same, with a client of its own for layers that a cache promised: where waiting is worse than building.
    #[must_use]
    pub fn with_hasty(store: Store, client: Client, hasty: Client, events: Events) -> Self {
        Self(Arc::new(Inner {
            store,
            client,
            events,
            seen: Mutex::default(),
            told: Mutex::default(),
            downloads: Downloads::default(),
            needed: Mutex::default(),
            lost: Mutex::default(),
            hasty,
            nearby: OnceLock::new(),
            places: Mutex::default(),
            late: Late::default(),
        }))
    }

    /// Makes a place known that is no registry: remotes with this host and repository are fetched from it.
    pub fn add_place(&self, host: &str, repository: &str, place: Arc<dyn BlobPlace>) {
        let mut places = self.0.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.insert((host.to_owned(), repository.to_owned()), place);
    }

    /// Blobs that a cache promised and nobody could give, since this was last asked.
    #[must_use]
    pub fn take_lost(&self) -> HashSet<Digest> {
        std::mem::take(&mut *self.0.lost.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Host and repository of caches that are not asked for layers any more.
    #[must_use]
    pub fn places_down(&self) -> HashSet<(String, String)> {
        self.0.late.down()
    }

    /// Blobs that came after they were given up: all of them so far.
    #[must_use]
    pub fn late(&self) -> tokio::sync::watch::Receiver<Arc<HashSet<Digest>>> {
        self.0.late.watch()
    }

    /// Layers that caches promised are waited for at least so long, while nothing comes of them.
    pub fn set_cache_patience(&self, patience: std::time::Duration) {
        self.0.late.hedge_not_before(patience);
    }

    /// Nobody wants any more what was given up.
    pub fn end_late(&self) {
        self.0.late.give_up();
    }

    /// The registry client in use.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.0.client
    }

    /// Finds out what `docker-image://REF` or `oci-layout://PATH[:TAG][@DIGEST]` means for a platform.
    ///
    /// With [`ResolveMode::Default`] an image of the store under that name, or what the name meant when it was last
    /// asked for, is used without asking the registry.
    ///
    /// # Errors
    /// When it does not exist, is not for this platform, or cannot be reached.
    pub async fn resolve(
        &self,
        identifier: &str,
        platform: &Platform,
        mode: ResolveMode,
    ) -> Result<ResolvedImage, SourceError> {
        let image = self.image(&Place::parse(identifier)?, platform, mode).await?;
        Ok(ResolvedImage { digest: image.root.clone(), config: image.config.clone(), converted: None })
    }

    /// The manifest of a registry's image for a platform, not the index that it may be found in.
    ///
    /// # Errors
    /// As [`ImageSource::resolve`].
    pub async fn resolve_manifest(
        &self,
        identifier: &str,
        platform: &Platform,
        mode: ResolveMode,
    ) -> Result<Descriptor, SourceError> {
        let root = self.image(&Place::parse(identifier)?, platform, mode).await?.root.clone();
        let (name, platform) = (identifier.to_owned(), platform.clone());
        let found = self.blocking(move |store| stored_manifest(store, &name, &root, &platform)).await?;
        found.map(|(descriptor, _)| descriptor).ok_or_else(|| SourceError::NotLocal { name: identifier.to_owned() })
    }

    /// The annotations of an image's manifest. It was resolved before.
    ///
    /// # Errors
    /// As [`ImageSource::resolve`].
    pub async fn annotations(
        &self,
        identifier: &str,
        platform: &Platform,
    ) -> Result<BTreeMap<String, String>, SourceError> {
        let image = self.image(&Place::parse(identifier)?, platform, ResolveMode::Default).await?;
        Ok(image.manifest.annotations.clone())
    }

    /// The platforms that there are images for under an identifier: those of the index that is meant, or that of the one image.
    ///
    /// # Errors
    /// As [`ImageSource::resolve`].
    pub async fn platforms(&self, op: &SourceOp, platform: &Platform) -> Result<Vec<Platform>, SourceError> {
        let place = Place::parse(&op.identifier)?;
        let image = self.image(&place, platform, ImageAttributes::parse(&op.attrs)?.mode).await?;
        let document = match place {
            Place::Layout(layout) => Some(self.blocking(move |_| layout.root()).await?.1),
            Place::Registry(_) => self.read_stored(&image.root).await?.map(Vec::from),
        };
        match document.as_deref().and_then(document::platforms) {
            Some(several) => Ok(several),
            None => {
                let config: ImageConfig = serde_json::from_slice(&image.config)
                    .map_err(|e| SourceError::NotAnImage { name: op.identifier.clone(), reason: e.to_string() })?;
                Ok(vec![config.platform().normalised()])
            }
        }
    }

    /// As [`ImageSource::resolve`], for an op with its attributes.
    ///
    /// # Errors
    /// Also when the digest is not the one `image.checksum` asks for.
    pub async fn resolve_op(&self, op: &SourceOp, platform: &Platform) -> Result<ResolvedImage, SourceError> {
        let attributes = ImageAttributes::parse(&op.attrs)?;
        let resolved = self.resolve(&op.identifier, platform, attributes.mode).await?;
        check(&op.identifier, attributes.checksum.as_ref(), &resolved.digest)?;
        Ok(resolved)
    }

    /// The layers of an image, bottom first. They become known to the store; nothing is downloaded but the manifest
    /// and the config, where the store does not have them.
    ///
    /// # Errors
    /// As [`ImageSource::resolve`].
    pub async fn layers(&self, identifier: &str, platform: &Platform) -> Result<Vec<LayerId>, SourceError> {
        let place = Place::parse(identifier)?;
        let image = self.image(&place, platform, ResolveMode::Default).await?;
        self.register(&place, image, None).await
    }

    /// As [`ImageSource::layers`], for an op with its attributes.
    ///
    /// # Errors
    /// Also when the digest is not the one `image.checksum` asks for.
    pub async fn layers_op(&self, op: &SourceOp, platform: &Platform) -> Result<Vec<LayerId>, SourceError> {
        let attributes = ImageAttributes::parse(&op.attrs)?;
        let place = Place::parse(&op.identifier)?;
        let image = self.image(&place, platform, attributes.mode).await?;
        check(&op.identifier, attributes.checksum.as_ref(), &image.root)?;
        self.register(&place, image, attributes.layer_limit).await
    }

    async fn register(
        &self,
        place: &Place,
        image: Arc<Image>,
        limit: Option<usize>,
    ) -> Result<Vec<LayerId>, SourceError> {
        let (host, repository) = place.remote();
        {
            let mut needed = self.0.needed.lock().unwrap_or_else(PoisonError::into_inner);
            needed.extend(image.layers().into_iter().map(|(_, _, descriptor)| descriptor.digest.clone()));
        }
        self.blocking(move |store| {
            let remote = Some((host.as_str(), repository.as_str()));
            let mut chain = Vec::new();
            for (id, diff_id, descriptor) in image.layers().into_iter().take(limit.unwrap_or(usize::MAX)) {
                chain.push(store.register_layer(&id, diff_id, descriptor, remote)?);
            }
            Ok(chain)
        })
        .await
    }

    async fn image(&self, place: &Place, platform: &Platform, mode: ResolveMode) -> Result<Arc<Image>, SourceError> {
        let reference = match place {
            Place::Layout(layout) => {
                let (layout, platform) = (layout.clone(), platform.clone());
                // Read again each time: a directory may change, and reading it costs next to nothing.
                return self.blocking(move |_| layout.image(&platform)).await.map(Arc::new);
            }
            Place::Registry(reference) => reference,
        };
        if let Some(digest) = &reference.digest {
            return self.pinned(reference, digest, platform, mode).await;
        }
        let told = self.0.told.lock().unwrap_or_else(PoisonError::into_inner).get(reference).cloned();
        if let Some(digest) = told {
            return self.pinned(&reference.with_digest(digest.clone()), &digest, platform, mode).await;
        }
        if mode != ResolveMode::Pull {
            if let Some(image) = self.tagged(reference, platform).await? {
                return Ok(image);
            }
            if let Some(digest) = self.recorded(reference).await? {
                match self.pinned(&reference.with_digest(digest.clone()), &digest, platform, mode).await {
                    // It is there for another platform.
                    Err(SourceError::NoPlatform { .. }) => {}
                    found => {
                        self.0.told.lock().unwrap_or_else(PoisonError::into_inner).insert(reference.clone(), digest);
                        return found;
                    }
                }
            }
            if let Some(image) = self.resolved(reference, platform).await? {
                return Ok(image);
            }
        }
        if mode == ResolveMode::Local {
            return Err(SourceError::NotLocal { name: reference.to_string() });
        }
        let image = self.remote(reference, platform).await?;
        self.0.told.lock().unwrap_or_else(PoisonError::into_inner).insert(reference.clone(), image.root.clone());
        let (reference, platform, digest) = (reference.clone(), platform.to_string(), image.root.clone());
        self.blocking(move |store| Ok(store.remember_resolution(&reference, &platform, &digest)?)).await?;
        Ok(image)
    }

    /// The image that the store itself has under a tag.
    async fn tagged(&self, reference: &Reference, platform: &Platform) -> Result<Option<Arc<Image>>, SourceError> {
        let (name, wanted) = (reference.clone(), platform.clone());
        let found = self
            .blocking(move |store| {
                if let Some(record) = store.image(&name)? {
                    // An image of another platform under that name is no answer; the registry may have the right one.
                    match stored(store, &name.to_string(), &record.descriptor.digest, &wanted) {
                        Ok(Some(image)) if complete(store, &image)? => return Ok(Some(image)),
                        Ok(_) | Err(SourceError::NoPlatform { .. }) => {}
                        Err(e) => return Err(e),
                    }
                }
                Ok(None)
            })
            .await?;
        Ok(found.map(|image| self.remember(image, platform)))
    }

    /// What a tag meant when a registry was last asked, if its documents are here.
    async fn resolved(&self, reference: &Reference, platform: &Platform) -> Result<Option<Arc<Image>>, SourceError> {
        let (name, wanted) = (reference.clone(), platform.clone());
        let found = self
            .blocking(move |store| match store.resolution(&name, &wanted.to_string())? {
                Some((digest, _)) => stored(store, &name.to_string(), &digest, &wanted),
                None => Ok(None),
            })
            .await?;
        Ok(found.map(|image| self.remember(image, platform)))
    }

    async fn pinned(
        &self,
        reference: &Reference,
        digest: &Digest,
        platform: &Platform,
        mode: ResolveMode,
    ) -> Result<Arc<Image>, SourceError> {
        if let Some(image) = self.seen(digest, platform) {
            return Ok(image);
        }
        self.bring_near(digest, platform).await?;
        let (name, root, wanted) = (reference.to_string(), digest.clone(), platform.clone());
        // Content under a digest cannot change: there is nothing to ask the registry, whatever the mode.
        let found = self.blocking(move |store| stored(store, &name, &root, &wanted)).await?;
        match found {
            Some(image) => Ok(self.remember(image, platform)),
            None if mode == ResolveMode::Local => Err(SourceError::NotLocal { name: reference.to_string() }),
            None => self.remote(reference, platform).await,
        }
    }

    /// Asks the registry. Documents the store already has are not fetched again.
    async fn remote(&self, reference: &Reference, platform: &Platform) -> Result<Arc<Image>, SourceError> {
        let name = reference.to_string();
        let mut root = None;
        let mut kind = String::new();
        let mut bytes = None;
        if reference.digest.is_none() && self.knows(reference, platform).await? {
            // It was here before, so probably still is what it was: a HEAD request is enough to know.
            let descriptor = self.0.client.resolve(reference).await?;
            bytes = self.read_stored(&descriptor.digest).await?;
            root = Some(descriptor.digest);
            kind = descriptor.media_type;
        }
        let mut at = match &root {
            Some(digest) => reference.with_digest(digest.clone()),
            None => reference.clone(),
        };
        for _ in 0..MAX_DEPTH {
            let document = match bytes.take() {
                Some(bytes) => bytes,
                None => {
                    let fetched = self.0.client.manifest(&at).await?;
                    self.keep(&fetched.descriptor.digest, fetched.bytes.clone()).await?;
                    root.get_or_insert(fetched.descriptor.digest);
                    kind = fetched.descriptor.media_type;
                    fetched.bytes
                }
            };
            match document::read(&name, &document, &kind, platform)? {
                Next::Document(descriptor) => {
                    bytes = self.read_near(&descriptor.digest).await?;
                    kind = descriptor.media_type;
                    at = at.with_digest(descriptor.digest);
                }
                Next::Manifest(manifest) => {
                    document::check_manifest(&name, &manifest)?;
                    let config = self.config(&at, &manifest).await?;
                    let root = root.expect("because the first document was fetched or resolved");
                    return Ok(self.remember(Image::new(&name, root, manifest, config)?, platform));
                }
            }
        }
        Err(SourceError::NotAnImage { name, reason: "indexes are nested too deep".into() })
    }

    async fn config(&self, repository: &Reference, manifest: &Manifest) -> Result<Bytes, SourceError> {
        let descriptor = &manifest.config;
        if let Some(bytes) = self.read_near(&descriptor.digest).await? {
            return Ok(bytes);
        }
        let bytes = self.0.client.blob_bytes(repository, descriptor).await?;
        self.keep(&descriptor.digest, bytes.clone()).await?;
        Ok(bytes)
    }

    async fn knows(&self, reference: &Reference, platform: &Platform) -> Result<bool, SourceError> {
        let (name, platform) = (reference.clone(), platform.to_string());
        self.blocking(move |store| match store.resolution(&name, &platform)? {
            Some((digest, _)) => Ok(store.has_blob(&digest)?.is_some()),
            None => Ok(false),
        })
        .await
    }

    pub(super) async fn read_stored(&self, digest: &Digest) -> Result<Option<Bytes>, SourceError> {
        let digest = digest.clone();
        self.blocking(move |store| read_stored(store, &digest)).await
    }

    /// Small documents stay in the store: the next build needs no registry to know them.
    pub(super) async fn keep(&self, digest: &Digest, bytes: Bytes) -> Result<(), SourceError> {
        let digest = digest.clone();
        self.blocking(move |store| {
            if store.has_blob(&digest)?.is_none() {
                let mut writer = store.blob_writer()?;
                writer.write_all(&bytes).map_err(|e| writer.error(e))?;
                writer.commit(Some(&digest))?;
            }
            Ok(())
        })
        .await
    }

    fn seen(&self, root: &Digest, platform: &Platform) -> Option<Arc<Image>> {
        let seen = self.0.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.get(&(root.clone(), platform.to_string())).cloned()
    }

    fn remember(&self, image: Image, platform: &Platform) -> Arc<Image> {
        let image = Arc::new(image);
        let mut seen = self.0.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.insert((image.root.clone(), platform.to_string()), Arc::clone(&image));
        image
    }

    /// Store calls block.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, SourceError> + Send + 'static,
    ) -> Result<T, SourceError> {
        let store = self.0.store.clone();
        match tokio::task::spawn_blocking(move || work(&store)).await {
            Ok(result) => result,
            Err(error) => Err(SourceError::Internal(error.to_string())),
        }
    }
}

#[async_trait::async_trait]
impl FrontendHost for ImageSource {
    async fn resolve_image(
        &self,
        identifier: &str,
        platform: &Platform,
        mode: ResolveMode,
        _: Option<&InContext>,
    ) -> Result<ResolvedImage, HostError> {
        Ok(self.resolve(identifier, platform, mode).await?)
    }

    /// Images are not asked for their time.
    async fn source_time(&self, _source: &SourceOp) -> Result<Option<i64>, HostError> {
        Ok(None)
    }
}

impl Place {
    pub(super) fn parse(identifier: &str) -> Result<Self, SourceError> {
        let fail = |reason: String| SourceError::Identifier { identifier: identifier.to_owned(), reason };
        if let Some(text) = identifier.strip_prefix("docker-image://") {
            return Ok(Self::Registry(text.parse().map_err(|e| fail(format!("{e}")))?));
        }
        if let Some(text) = identifier.strip_prefix("oci-layout://") {
            return Ok(Self::Layout(Layout::parse(text).map_err(fail)?));
        }
        Err(fail("expected docker-image:// or oci-layout://".into()))
    }

    /// Where the store may find the blobs again.
    fn remote(&self) -> (String, String) {
        match self {
            Self::Registry(reference) => (reference.domain.clone(), reference.path.clone()),
            Self::Layout(layout) => (LAYOUT_HOST.to_owned(), layout.path().to_string_lossy().into_owned()),
        }
    }
}

fn check(name: &str, expected: Option<&Digest>, actual: &Digest) -> Result<(), SourceError> {
    match expected {
        Some(expected) if expected != actual => {
            let (expected, actual) = (expected.clone(), actual.clone());
            Err(SourceError::Checksum { name: name.to_owned(), expected, actual })
        }
        _ => Ok(()),
    }
}

fn read_stored(store: &Store, digest: &Digest) -> Result<Option<Bytes>, SourceError> {
    if store.has_blob(digest)?.is_none() {
        return Ok(None);
    }
    Ok(Some(store.read_blob(digest)?.into()))
}

/// The image from what the store has; `None` if a document is missing.
fn stored(store: &Store, name: &str, root: &Digest, platform: &Platform) -> Result<Option<Image>, SourceError> {
    let Some((_, manifest)) = stored_manifest(store, name, root, platform)? else { return Ok(None) };
    document::check_manifest(name, &manifest)?;
    let Some(config) = read_stored(store, &manifest.config.digest)? else { return Ok(None) };
    Image::new(name, root.clone(), manifest, config).map(Some)
}

/// The manifest for a platform from what the store has; `None` if a document is missing.
fn stored_manifest(
    store: &Store,
    name: &str,
    root: &Digest,
    platform: &Platform,
) -> Result<Option<(Descriptor, Manifest)>, SourceError> {
    let mut at = Descriptor::new("", root.clone(), 0);
    for _ in 0..MAX_DEPTH {
        let Some(bytes) = read_stored(store, &at.digest)? else { return Ok(None) };
        match document::read(name, &bytes, &at.media_type, platform)? {
            Next::Document(descriptor) => at = descriptor,
            Next::Manifest(manifest) => {
                let kind = if manifest.media_type.is_empty() { at.media_type } else { manifest.media_type.clone() };
                return Ok(Some((Descriptor::new(kind, at.digest, bytes.len() as u64), manifest)));
            }
        }
    }
    Ok(None)
}

/// Whether every layer of an image of the store can be had: a tagged image may have lost some to the collector.
fn complete(store: &Store, image: &Image) -> Result<bool, SourceError> {
    let mut chain = Vec::new();
    for (id, diff_id, descriptor) in image.layers() {
        chain.push(store.register_layer(&id, diff_id, descriptor, None)?);
    }
    match store.blobs_needed(&chain) {
        Ok(needed) => Ok(needed.iter().all(|blob| !blob.remotes.is_empty())),
        Err(_) => Ok(false),
    }
}
