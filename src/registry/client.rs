//! The client and the types its operations speak in.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use reqwest::Url;

use super::flight::Flights;
use super::host::Host;
use super::transport::Transport;
use super::{ClientOptions, Credential, RegistryError, Wanted};
use crate::oci::Descriptor;

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

    /// Opens it once more.
    ///
    /// # Errors
    /// What the system says.
    pub fn open(&self) -> io::Result<Box<dyn Read + Send>> {
        (self.0)()
    }
}

impl fmt::Debug for BlobSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BlobSource")
    }
}

/// A registry client: cheap to clone, shared by a whole invocation. Nothing is set up before it is needed.
///
/// Its operations are in `pull.rs` and `push.rs`.
#[derive(Clone)]
pub struct Client(pub(super) Arc<Inner>);

/// What all clones share.
pub(super) struct Inner {
    pub(super) options: ClientOptions,
    pub(super) transport: Transport,
    hosts: Mutex<HashMap<String, Arc<Host>>>,
    pub(super) resolving: Flights<Descriptor>,
    pub(super) fetching: Flights<FetchedManifest>,
    pub(super) pushing: Flights<PushOutcome>,
    /// Upload sessions that nobody goes on with.
    pub(super) dropped: Mutex<Vec<DroppedUpload>>,
}

/// An upload session of a server.
pub(super) struct DroppedUpload {
    pub(super) host: Arc<Host>,
    pub(super) repository: String,
    pub(super) location: Url,
}

impl Client {
    /// A client; connects to nothing yet.
    ///
    /// # Errors
    /// When a proxy setting cannot be used.
    pub fn new(options: ClientOptions) -> Result<Self, RegistryError> {
        let transport = Transport::new(options.clone())
            .map_err(|fault| RegistryError::new("failed to set up the registry client", fault))?;
        Ok(Self(Arc::new(Inner {
            options,
            transport,
            hosts: Mutex::default(),
            resolving: Flights::default(),
            fetching: Flights::default(),
            pushing: Flights::default(),
            dropped: Mutex::default(),
        })))
    }

    /// An HTTP client for a URL with this client's proxies and trust: for caches that are no registries. It follows no
    /// redirects and retries nothing.
    ///
    /// # Errors
    /// When the trusted certificates or a proxy setting cannot be used.
    pub async fn http(&self, url: &Url) -> Result<reqwest::Client, RegistryError> {
        let client = self.0.transport.client(url, false).await;
        client.map_err(|fault| RegistryError::new("failed to set up the connection", fault))
    }

    /// Who we are to a host that is no registry; `None` is nobody in particular.
    ///
    /// # Errors
    /// One line, when there is something to sign in with and it does not work.
    pub async fn credential(&self, host: &str) -> Result<Option<Credential>, String> {
        self.0.options.credentials.credential(&Wanted { host, repository: None, actions: Vec::new() }).await
    }

    /// Accepts any certificate of a host, and plain HTTP: `registry.insecure=true` of one output.
    pub fn set_insecure(&self, host: &str) {
        self.0.host(host).set_insecure();
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client({:?})", self.0.options)
    }
}

impl Inner {
    /// The state of the registry `name` (a domain as in references).
    pub(super) fn host(&self, name: &str) -> Arc<Host> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let host = hosts.entry(name.to_owned()).or_insert_with(|| {
            let options = self.options.exceptions(name).cloned().unwrap_or_default();
            Arc::new(Host::new(name, options, self.options.parallel))
        });
        Arc::clone(host)
    }
}
