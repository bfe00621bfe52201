//! One blob as a tree of one file (SPEC C2.03): `oci-layout+blob://NAME@DIGEST`.
//!
//! Only blobs that are in the store already: a build context that came on standard input is one.

use std::path::Path;
use std::sync::Arc;

use super::SourceError;
use super::file::{FileAttributes, newest_entry};
use super::kind::{Pinned, Request, Source};
use crate::attest::Material;
use crate::base::Digest;
use crate::store::Store;

/// Name of a file that has none.
const UNNAMED: &str = "blob";

/// Blobs of the store.
#[derive(Clone)]
pub(super) struct BlobSource(Store);

impl BlobSource {
    pub(super) fn new(store: Store) -> Self {
        Self(store)
    }
}

#[async_trait::async_trait]
impl Source for BlobSource {
    async fn pin(&self, request: &Request<'_>) -> Result<Arc<dyn Pinned>, SourceError> {
        let identifier = &request.op.identifier;
        let digest = identifier.rsplit_once('@').and_then(|(_, digest)| digest.parse::<Digest>().ok());
        let digest = digest.ok_or_else(|| SourceError::Identifier {
            identifier: identifier.clone(),
            reason: "expected oci-layout+blob://NAME@DIGEST".into(),
        })?;
        let attributes = FileAttributes::parse(request.op)?;
        let name = attributes.name.clone().unwrap_or_else(|| UNNAMED.into());
        Ok(Arc::new(PinnedBlob { store: self.0.clone(), uri: identifier.clone(), attributes, digest, name }))
    }
}

#[derive(Debug)]
struct PinnedBlob {
    store: Store,
    uri: String,
    attributes: FileAttributes,
    digest: Digest,
    name: String,
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

    async fn time(&self, _request: &Request<'_>) -> Result<Option<i64>, SourceError> {
        let (store, digest) = (self.store.clone(), self.digest.clone());
        let work = move || newest_entry(&store, &digest);
        tokio::task::spawn_blocking(work).await.map_err(|e| SourceError::Internal(e.to_string()))?
    }

    async fn materialise(&self, dest: &Path, _request: &Request<'_>) -> Result<(), SourceError> {
        let (store, attributes, digest, name) =
            (self.store.clone(), self.attributes.clone(), self.digest.clone(), self.name.clone());
        let dest = dest.to_path_buf();
        let work = move || attributes.write(&store, &digest, &dest, &name, 0);
        tokio::task::spawn_blocking(work).await.map_err(|e| SourceError::Internal(e.to_string()))?
    }
}
