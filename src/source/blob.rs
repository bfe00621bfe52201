//! One blob as a tree of one file (SPEC C2.03): `docker-image+blob://REPOSITORY@DIGEST`, `oci-layout+blob://DIRECTORY@DIGEST`.
//!
//! A layout without a directory is the store itself: a build context that came on standard input is a blob there.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::SourceError;
use super::file::{FileAttributes, newest_entry};
use super::kind::{Pinned, Request, Source};
use super::oci_layout::blob_path;
use crate::attest::Material;
use crate::base::{Digest, Events};
use crate::oci::{Descriptor, Reference};
use crate::registry::Client;
use crate::store::{Store, StoreError};

/// Name of a file that has none.
const UNNAMED: &str = "blob";

/// Blobs by their digests.
#[derive(Clone)]
pub(super) struct BlobSource {
    store: Store,
    client: Client,
    events: Events,
}

/// Where a blob is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    /// In the store, and nowhere else.
    Store,
    /// In a layout.
    Layout(PathBuf),
    /// In a repository of a registry.
    Registry(Reference),
}

impl Place {
    fn parse(identifier: &str) -> Result<(Self, Digest), SourceError> {
        let invalid = |reason: String| SourceError::Identifier { identifier: identifier.to_owned(), reason };
        let expected =
            || invalid("expected docker-image+blob://REPOSITORY@DIGEST or oci-layout+blob://NAME@DIGEST".into());
        let (scheme, rest) = identifier.split_once("://").ok_or_else(expected)?;
        let (name, digest) = rest.rsplit_once('@').ok_or_else(expected)?;
        let digest: Digest = digest.parse().map_err(|_| expected())?;
        let place = match scheme {
            "docker-image+blob" => {
                let reference = Reference::parse_raw(name).map_err(|e| invalid(e.to_string()))?;
                Self::Registry(Reference { tag: None, digest: Some(digest.clone()), ..reference })
            }
            _ if name.starts_with('/') => Self::Layout(name.into()),
            _ => Self::Store,
        };
        Ok((place, digest))
    }
}

impl BlobSource {
    pub(super) fn new(store: Store, client: Client, events: Events) -> Self {
        Self { store, client, events }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, SourceError> + Send + 'static,
    ) -> Result<T, SourceError> {
        let store = self.store.clone();
        tokio::task::spawn_blocking(move || work(&store)).await.map_err(|e| SourceError::Internal(e.to_string()))?
    }
}

#[async_trait::async_trait]
impl Source for BlobSource {
    async fn pin(&self, request: &Request<'_>) -> Result<Arc<dyn Pinned>, SourceError> {
        let (place, digest) = Place::parse(&request.op.identifier)?;
        let attributes = FileAttributes::parse(request.op)?;
        let name = attributes.name.clone().unwrap_or_else(|| UNNAMED.into());
        let uri = request.op.identifier.clone();
        Ok(Arc::new(PinnedBlob { source: self.clone(), place, uri, attributes, digest, name }))
    }
}

struct PinnedBlob {
    source: BlobSource,
    place: Place,
    uri: String,
    attributes: FileAttributes,
    digest: Digest,
    name: String,
}

impl std::fmt::Debug for PinnedBlob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PinnedBlob({})", self.uri)
    }
}

impl PinnedBlob {
    /// The blob in the store.
    async fn ensure_here(&self, request: &Request<'_>) -> Result<(), SourceError> {
        let digest = self.digest.clone();
        if self.place == Place::Store || self.source.blocking(move |s| Ok(s.has_blob(&digest)?.is_some())).await? {
            return Ok(());
        }
        let digest = self.digest.clone();
        match &self.place {
            Place::Store => Ok(()),
            Place::Layout(directory) => {
                let path = blob_path(directory, &digest);
                self.source
                    .blocking(move |store| {
                        let mut writer = store.blob_writer()?;
                        let copied = File::open(&path).and_then(|mut file| std::io::copy(&mut file, &mut writer));
                        copied.map_err(|source| SourceError::Io { path, source })?;
                        kept(writer.commit(Some(&digest)), "the OCI layout", &digest)
                    })
                    .await
            }
            Place::Registry(repository) => {
                let size = self.source.client.blob_size(repository, &digest).await?;
                let descriptor = Descriptor::new("", digest.clone(), size);
                let writer = self.source.blocking(|store| Ok(store.blob_writer()?)).await?;
                let (events, vertex, item) = (self.source.events.clone(), request.vertex.clone(), digest.to_string());
                let (on, of) = (events.clone(), item.clone());
                let progress: crate::registry::Progress =
                    Arc::new(move |done| on.progress(&vertex, of.clone(), done, Some(size), false));
                let writer = self.source.client.blob_unhashed(repository, &descriptor, writer, &progress).await?;
                events.progress(request.vertex, item, size, Some(size), true);
                let what = repository.repository();
                self.source.blocking(move |_| kept(writer.commit(Some(&digest)), &what, &digest)).await
            }
        }
    }
}

fn kept<T>(result: Result<T, StoreError>, place: &str, digest: &Digest) -> Result<(), SourceError> {
    match result {
        Ok(_) => Ok(()),
        Err(StoreError::DigestMismatch { expected, actual, .. }) => {
            Err(SourceError::Corrupt { what: format!("blob {digest} of {place}"), expected, actual })
        }
        Err(error) => Err(error.into()),
    }
}

#[async_trait::async_trait]
impl Pinned for PinnedBlob {
    fn key(&self) -> String {
        let FileAttributes { mode, uid, gid, .. } = &self.attributes;
        format!("{}\n{}\n{mode:o} {uid}:{gid}", self.digest, self.name)
    }

    fn material(&self) -> Material {
        Material { uri: self.uri.clone(), digest: self.digest.to_string() }
    }

    async fn time(&self, request: &Request<'_>) -> Result<Option<i64>, SourceError> {
        self.ensure_here(request).await?;
        let digest = self.digest.clone();
        self.source.blocking(move |store| newest_entry(store, &digest)).await
    }

    async fn materialise(&self, dest: &Path, request: &Request<'_>) -> Result<(), SourceError> {
        self.ensure_here(request).await?;
        let (attributes, digest, name) = (self.attributes.clone(), self.digest.clone(), self.name.clone());
        let dest = dest.to_path_buf();
        self.source.blocking(move |store| attributes.write(store, &digest, &dest, &name, 0)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c2_03_where_blobs_are() {
        let digest = Digest::sha256(b"x");
        let parse = |text: String| Place::parse(&text).map(|(place, _)| place);
        let registry = parse(format!("docker-image+blob://h.example/a/b:1@{digest}")).expect("valid");
        assert!(matches!(registry, Place::Registry(r) if r.repository() == "h.example/a/b" && r.tag.is_none()));
        assert_eq!(parse(format!("oci-layout+blob:///a@b@{digest}")).expect("valid"), Place::Layout("/a@b".into()));
        assert_eq!(parse(format!("oci-layout+blob://stdin@{digest}")).expect("valid"), Place::Store);
        for bad in ["docker-image+blob://a:1", "oci-layout+blob:///a@sha256:0", "docker-image+blob://A@x"] {
            assert!(parse(bad.into()).expect_err(bad).to_string().contains(bad), "{bad}");
        }
    }
}
