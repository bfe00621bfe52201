//! The client and the types its operations speak in.

use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use super::{ClientOptions, Fault, HostOptions, RegistryError};
use crate::base::Digest;
use crate::oci::{Descriptor, Reference};

/// Called with the number of bytes transferred so far.
pub type Progress = Arc<dyn Fn(u64) + Send + Sync>;

/// For callers that do not care about progress.
#[must_use]
pub fn no_progress() -> Progress {
    Arc::new(|_| {})
}

/// A manifest or index as the registry holds it.
#[derive(Debug, Clone)]
pub struct FetchedManifest {
    /// Media type, digest and size of `bytes`.
    pub descriptor: Descriptor,
    /// The exact bytes; their digest was verified.
    pub bytes: Bytes,
}

/// How a blob got to where it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PushOutcome {
    /// It was there already.
    Exists,
    /// Taken from another repository of the same registry.
    Mounted,
    /// Its bytes were sent.
    Uploaded,
}

type Opener = dyn Fn() -> io::Result<Box<dyn Read + Send>> + Send + Sync;

/// Content to upload, which can be read again from its beginning after a failed attempt.
#[derive(Clone)]
pub struct BlobSource(Arc<Opener>);

impl BlobSource {
    /// `open` is called on a thread that may block, once per attempt.
    pub fn new(open: impl Fn() -> io::Result<Box<dyn Read + Send>> + Send + Sync + 'static) -> Self {
        Self(Arc::new(open))
    }

    /// A file.
    #[must_use]
    pub fn file(path: PathBuf) -> Self {
        Self::new(move || Ok(Box::new(std::fs::File::open(&path)?)))
    }

    /// Bytes in memory.
    #[must_use]
    pub fn bytes(bytes: Bytes) -> Self {
        Self::new(move || Ok(Box::new(io::Cursor::new(bytes.clone()))))
    }
}

/// A registry client: cheap to clone, shared by a whole invocation. Nothing is set up before it is needed.
#[derive(Clone)]
pub struct Client(Arc<ClientOptions>);

#[allow(unused_variables, clippy::missing_errors_doc, clippy::unused_async, missing_docs)]
impl Client {
    pub fn new(options: ClientOptions) -> Result<Self, RegistryError> {
        Ok(Self(Arc::new(options)))
    }

    /// Changes how a host is spoken to (`registry.insecure=true` of an output).
    pub fn set_host(&self, host: &str, options: HostOptions) {}

    /// HEAD; the digest, type and size of what a tag or digest names.
    pub async fn resolve(&self, reference: &Reference) -> Result<Descriptor, RegistryError> {
        Err(missing())
    }

    pub async fn manifest(&self, reference: &Reference) -> Result<FetchedManifest, RegistryError> {
        Err(missing())
    }

    /// Streams a blob into `sink` on a blocking thread, verified; gives the sink back for committing.
    pub async fn blob<W: io::Write + Send + 'static>(
        &self,
        repository: &Reference,
        descriptor: &Descriptor,
        sink: W,
        progress: &Progress,
    ) -> Result<W, RegistryError> {
        Err(missing())
    }

    /// A small blob (config) in memory, verified.
    pub async fn blob_bytes(&self, repository: &Reference, descriptor: &Descriptor) -> Result<Bytes, RegistryError> {
        Err(missing())
    }

    /// `mount_from`: repository paths on the same host that may have the blob.
    pub async fn push_blob(
        &self,
        target: &Reference,
        descriptor: &Descriptor,
        source: &BlobSource,
        mount_from: &[String],
        progress: &Progress,
    ) -> Result<PushOutcome, RegistryError> {
        Err(missing())
    }

    /// PUT under the reference's digest or tag; skipped when the registry has it under that name.
    pub async fn push_manifest(
        &self,
        target: &Reference,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<Digest, RegistryError> {
        Err(missing())
    }

    /// Whether a push to this repository will be allowed, before anything is built.
    pub async fn check_push(&self, target: &Reference) -> Result<(), RegistryError> {
        Err(missing())
    }
}

fn missing() -> RegistryError {
    RegistryError::new("failed to start", Fault::Setting("not written yet".into()))
}
