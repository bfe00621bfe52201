//! Layer 5: hands images to a docker or podman that runs on this machine (SPEC B2.14, B3.04).
//!
//! Knows the three calls of Docker's API that this takes (podman answers to the same ones) and nothing of images: the
//! archive comes in as a writer's output. Reads no environment: where the engine listens is an [`Endpoint`].

use std::fmt;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use reqwest::{Body, Client, Response};
use tokio::sync::mpsc;

use crate::base::FaultKind;
use crate::registry::engine_tls;

/// The longest silence of an engine that is not loading anything.
const PATIENCE: Duration = Duration::from_secs(30);
/// Pieces on their way to the engine, 256 KiB each.
const AHEAD: usize = 4;

/// Where an engine listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// A socket.
    Unix(PathBuf),
    /// `HOST:PORT`, with the directory of `ca.pem`, `cert.pem` and `key.pem` where it speaks TLS.
    Tcp {
        /// `HOST:PORT`.
        address: String,
        /// Certificates; `None` for plain HTTP.
        certificates: Option<PathBuf>,
    },
}

impl Endpoint {
    /// Parses a value of `DOCKER_HOST`; `certificates` is what `DOCKER_CERT_PATH` and `DOCKER_TLS_VERIFY` say.
    ///
    /// # Errors
    /// For transports that rbuild does not speak.
    pub fn parse(text: &str, certificates: Option<PathBuf>) -> Result<Self, EngineError> {
        match text.split_once("://") {
            Some(("unix", path)) if path.starts_with('/') => Ok(Self::Unix(path.into())),
            Some(("tcp" | "http" | "https", address)) if !address.is_empty() => {
                Ok(Self::Tcp { address: address.trim_end_matches('/').to_owned(), certificates })
            }
            _ => Err(EngineError::Endpoint(text.to_owned())),
        }
    }

    /// Whether somebody listens: cheap, and enough to choose between sockets.
    #[must_use]
    pub fn answers(&self) -> bool {
        match self {
            Self::Unix(path) => UnixStream::connect(path).is_ok(),
            Self::Tcp { .. } => true,
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp { address, .. } => write!(f, "tcp://{address}"),
        }
    }
}

/// Why an engine did not take an image.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A transport that is not spoken here.
    #[error("\"{0}\" is no address of an engine that rbuild can reach: expected unix:///PATH or tcp://HOST:PORT")]
    Endpoint(String),
    /// Certificates cannot be used.
    #[error("{0}")]
    Setting(String),
    /// No answer.
    #[error("cannot reach the engine at {endpoint}: {cause}")]
    Unreachable {
        /// Where.
        endpoint: Endpoint,
        /// One line.
        cause: String,
    },
    /// It said no.
    #[error("the engine at {endpoint} refused: {message}")]
    Refused {
        /// Where.
        endpoint: Endpoint,
        /// Its words.
        message: String,
    },
    /// The archive could not be made.
    #[error("cannot write the image for the engine: {0}")]
    Local(#[source] io::Error),
}

impl EngineError {
    /// For the exit code.
    #[must_use]
    pub fn kind(&self) -> FaultKind {
        match self {
            Self::Endpoint(_) | Self::Setting(_) => FaultKind::Usage,
            Self::Unreachable { .. } => FaultKind::Network,
            Self::Refused { .. } => FaultKind::Remote,
            Self::Local(e) => FaultKind::of_io(e, FaultKind::Store),
        }
    }

    /// The remedy, where known.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unreachable { .. } => {
                Some("start it, or set DOCKER_HOST; without --load the image stays in rbuild's own store".into())
            }
            _ => None,
        }
    }
}

/// A connection to an engine.
pub struct Engine {
    endpoint: Endpoint,
    client: Client,
    base: &'static str,
}

impl Engine {
    /// Sets up a connection; nothing is sent yet.
    ///
    /// # Errors
    /// When certificates cannot be used.
    pub fn new(endpoint: Endpoint) -> Result<Self, EngineError> {
        let setting =
            |e: &dyn fmt::Display| EngineError::Setting(format!("cannot set up a connection to {endpoint}: {e}"));
        let (socket, certificates) = match &endpoint {
            Endpoint::Unix(path) => (Some(path.as_path()), None),
            Endpoint::Tcp { certificates, .. } => (None, certificates.as_deref()),
        };
        let tls = engine_tls(certificates).map_err(|e| setting(&e))?;
        let base = if certificates.is_some() { "https" } else { "http" };
        let mut builder = Client::builder()
            .tls_backend_preconfigured(tls)
            .http1_only()
            .no_proxy()
            .user_agent(concat!("rbuild/", env!("CARGO_PKG_VERSION")));
        if let Some(path) = socket {
            builder = builder.unix_socket(path);
        }
        let client = builder.build().map_err(|e| setting(&e))?;
        Ok(Self { endpoint, client, base })
    }

    fn url(&self, path: &str) -> String {
        match &self.endpoint {
            Endpoint::Unix(_) => format!("http://localhost{path}"),
            Endpoint::Tcp { address, .. } => format!("{}://{address}{path}", self.base),
        }
    }

    /// Whether its image store keeps OCI indexes, so that an image of several platforms can be loaded (SPEC N2.13).
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn keeps_indexes(&self) -> Result<bool, EngineError> {
        let answer = tokio::time::timeout(PATIENCE, self.client.get(self.url("/info")).send()).await;
        let answer = answer.map_err(|_| self.unreachable("no answer"))?.map_err(|e| self.unreachable(&cause(&e)))?;
        let text = self.fine(answer).await?.text().await.map_err(|e| self.unreachable(&cause(&e)))?;
        // Docker with containerd's store says so in a list of pairs; podman has no such store.
        Ok(text.contains("io.containerd.snapshotter"))
    }

    /// Loads an archive that `write` writes; gives what the engine says it loaded.
    ///
    /// # Errors
    /// When the engine refuses, or `write` fails.
    pub async fn load<E: Send + 'static>(
        &self,
        write: impl FnOnce(&mut (dyn Write + Send)) -> Result<(), E> + Send + 'static,
    ) -> Result<Vec<String>, LoadError<E>> {
        let (sender, receiver) = mpsc::channel::<io::Result<Bytes>>(AHEAD);
        let writing = tokio::task::spawn_blocking(move || {
            let mut out = io::BufWriter::with_capacity(256 << 10, Pieces(sender.clone()));
            let written = write(&mut out);
            if written.is_err() || out.flush().is_err() {
                // An archive that ends early must not look like a whole one.
                let _ = sender.blocking_send(Err(io::ErrorKind::BrokenPipe.into()));
            }
            written
        });
        let body = Body::wrap_stream(stream::unfold(receiver, |mut receiver| async move {
            receiver.recv().await.map(|piece| (piece, receiver))
        }));
        let request = self.client.post(self.url("/images/load?quiet=1")).header("content-type", "application/x-tar");
        let answer = request.body(body).send().await;
        let written = writing.await.map_err(|e| EngineError::Local(io::Error::other(e)))?;
        let answer = match (answer, written) {
            // It may have answered before it had everything; its words then explain our broken pipe.
            (Ok(answer), written) if !answer.status().is_success() => {
                drop(written);
                self.fine(answer).await?
            }
            (_, Err(error)) => return Err(LoadError::Writer(error)),
            (Ok(answer), Ok(())) => answer,
            (Err(e), Ok(())) => return Err(self.unreachable(&cause(&e)).into()),
        };
        let text = answer.text().await.map_err(|e| self.unreachable(&cause(&e)))?;
        Ok(self.report(&text)?)
    }

    /// Reads the JSON lines of a load.
    fn report(&self, text: &str) -> Result<Vec<String>, EngineError> {
        let mut loaded = Vec::new();
        for line in text.lines().map(str::trim).filter(|l| !l.is_empty()) {
            let value: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
            if let Some(message) = value.get("error").and_then(|e| e.as_str()) {
                return Err(EngineError::Refused { endpoint: self.endpoint.clone(), message: one_line(message) });
            }
            if let Some(stream) = value.get("stream").and_then(|s| s.as_str()) {
                loaded.extend(stream.lines().map(one_line).filter(|l| !l.is_empty()));
            }
        }
        Ok(loaded)
    }

    async fn fine(&self, answer: Response) -> Result<Response, EngineError> {
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let text = answer.text().await.unwrap_or_default();
        let message = serde_json::from_str::<serde_json::Value>(&text).ok();
        let message = message.and_then(|v| Some(v.get("message")?.as_str()?.to_owned())).unwrap_or(text);
        Err(EngineError::Refused {
            endpoint: self.endpoint.clone(),
            message: format!("{status}: {}", one_line(&message)),
        })
    }

    fn unreachable(&self, cause: &str) -> EngineError {
        EngineError::Unreachable { endpoint: self.endpoint.clone(), cause: cause.to_owned() }
    }
}

/// Why [`Engine::load`] failed.
pub enum LoadError<E> {
    /// The engine.
    Engine(EngineError),
    /// Whoever wrote the archive.
    Writer(E),
}

impl<E> From<EngineError> for LoadError<E> {
    fn from(error: EngineError) -> Self {
        Self::Engine(error)
    }
}

/// The innermost reason.
fn cause(error: &reqwest::Error) -> String {
    let mut inner: &dyn std::error::Error = error;
    while let Some(next) = inner.source() {
        inner = next;
    }
    inner.to_string()
}

fn one_line(text: &str) -> String {
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().filter(|c| !c.is_control()).take(300).collect()
}

/// Sends what is written.
struct Pieces(mpsc::Sender<io::Result<Bytes>>);

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = Bytes::copy_from_slice(bytes);
        self.0.blocking_send(Ok(piece)).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
