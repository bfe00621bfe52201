//! Reading from registries: tags, manifests, blobs (SPEC E3.05, E3.06).

use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt as _;
use reqwest::header::{ACCEPT, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, RANGE};
use reqwest::{Method, StatusCode, Url};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::client::{Client, FetchedManifest, Inner, Progress};
use super::host::{self, Host};
use super::mirrors::Endpoint;
use super::options::progress_of;
use super::request::{Answer, Backoff, Call, Slot, Small, Wire};
use super::transport::SendError;
use super::{Fault, RegistryError};
use crate::base::digest::Hasher;
use crate::base::{Digest, FaultKind};
use crate::oci::{Descriptor, Reference, media_type};

/// The largest manifest that is read: twice what registries accept.
const MAX_MANIFEST: u64 = 8 << 20;
/// The largest blob that is read into memory.
const MAX_SMALL_BLOB: u64 = 32 << 20;

impl Client {
    /// Finds out digest, media type and size of what a reference names, without fetching it: HEAD requests are not
    /// counted by rate limits.
    ///
    /// # Errors
    /// See [`Fault`].
    pub async fn resolve(&self, reference: &Reference) -> Result<Descriptor, RegistryError> {
        let operation = || async {
            let found = async {
                let places = self.0.places(reference, reference.digest.is_some())?;
                self.0.first_of(&places, |place| self.0.head(place, reference).boxed()).await
            };
            found.await.map_err(|fault| metadata_error(reference, fault))
        };
        self.0.resolving.run(manifest_key(reference), operation).await
    }

    /// Fetches the manifest or index a tag or digest names; with both, the digest counts.
    ///
    /// # Errors
    /// See [`Fault`].
    pub async fn manifest(&self, reference: &Reference) -> Result<FetchedManifest, RegistryError> {
        let operation = || async {
            let found = async {
                let places = self.0.places(reference, reference.digest.is_some())?;
                self.0.first_of(&places, |place| self.0.get(place, reference).boxed()).await
            };
            found.await.map_err(|fault| metadata_error(reference, fault))
        };
        self.0.fetching.run(manifest_key(reference), operation).await
    }

    /// Streams a blob into `sink` and gives the sink back once size and digest were verified. A broken stream is
    /// resumed where it broke. `sink` is written to on a thread that may block.
    ///
    /// # Errors
    /// See [`Fault`]; the sink is dropped then.
    pub async fn blob<W: Write + Send + 'static>(
        &self,
        repository: &Reference,
        descriptor: &Descriptor,
        sink: W,
        progress: &Progress,
    ) -> Result<W, RegistryError> {
        self.fetch_blob(repository, descriptor, sink, progress, true).await
    }

    /// As [`Client::blob`], for sinks that compute the digest themselves: only the size is verified here.
    ///
    /// # Errors
    /// See [`Fault`]; the sink is dropped then.
    pub async fn blob_unhashed<W: Write + Send + 'static>(
        &self,
        repository: &Reference,
        descriptor: &Descriptor,
        sink: W,
        progress: &Progress,
    ) -> Result<W, RegistryError> {
        self.fetch_blob(repository, descriptor, sink, progress, false).await
    }

    /// Fetches a small blob, such as an image config, into memory; verified.
    ///
    /// # Errors
    /// See [`Fault`].
    pub async fn blob_bytes(&self, repository: &Reference, descriptor: &Descriptor) -> Result<Bytes, RegistryError> {
        let what = blob_name(repository, descriptor);
        let fail = |fault| RegistryError::new(format!("failed to fetch {what}"), fault);
        if descriptor.size > MAX_SMALL_BLOB {
            let fault = Fault::SizeMismatch { what: what.clone(), expected: MAX_SMALL_BLOB, actual: descriptor.size };
            return Err(fail(fault));
        }
        let places = self.0.places(repository, true).map_err(fail)?;
        let mut fetch = Fetch::new(&self.0, &places, repository, descriptor, Slot::Small);
        let mut out = Vec::with_capacity(usize::try_from(descriptor.size).unwrap_or_default());
        fetch.run(&mut out).await.map_err(fail)?;
        let mut hasher = descriptor.digest.hasher();
        hasher.update(&out);
        verify(&what, &descriptor.digest, hasher.finish()).map_err(fail)?;
        Ok(out.into())
    }

    /// How large a blob is, of which only the digest is known.
    ///
    /// # Errors
    /// See [`Fault`].
    pub async fn blob_size(&self, repository: &Reference, digest: &Digest) -> Result<u64, RegistryError> {
        let what = format!("blob {digest} of {}", repository.repository());
        let found = async {
            let places = self.0.places(repository, true)?;
            self.0.first_of(&places, |place| self.0.size_of(place, digest, &what).boxed()).await
        };
        found.await.map_err(|fault| RegistryError::new(format!("failed to find {what}"), fault))
    }

    async fn fetch_blob<W: Write + Send + 'static>(
        &self,
        repository: &Reference,
        descriptor: &Descriptor,
        sink: W,
        progress: &Progress,
        hash: bool,
    ) -> Result<W, RegistryError> {
        let what = blob_name(repository, descriptor);
        let fail = |fault| RegistryError::new(format!("failed to fetch {what}"), fault);
        let places = self.0.places(repository, true).map_err(fail)?;
        let mut fetch = Fetch::new(&self.0, &places, repository, descriptor, Slot::Blob);
        let mut writer = Writer::new(sink, hash.then_some(&descriptor.digest));
        let outcome = fetch.run(&mut Counted { writer: &mut writer, done: 0, progress }).await;
        let written = writer.finish().await;
        // When writing failed, that is the cause of everything else.
        let (sink, digest) = match (written, outcome) {
            (Err(fault), _) | (_, Err(fault)) => return Err(fail(fault)),
            (Ok(written), Ok(())) => written,
        };
        if let Some(actual) = digest {
            verify(&what, &descriptor.digest, actual).map_err(fail)?;
        }
        Ok(sink)
    }
}

fn metadata_error(reference: &Reference, fault: Fault) -> RegistryError {
    RegistryError::new(format!("failed to resolve source metadata for {reference}"), fault)
}

fn manifest_key(reference: &Reference) -> String {
    format!("{} {}", reference.repository(), reference.manifest_part())
}

fn blob_name(repository: &Reference, descriptor: &Descriptor) -> String {
    format!("blob {} of {}", descriptor.digest, repository.repository())
}

fn verify(what: &str, expected: &Digest, actual: Digest) -> Result<(), Fault> {
    if actual == *expected {
        return Ok(());
    }
    Err(Fault::DigestMismatch { what: what.to_owned(), expected: expected.clone(), actual })
}

impl Small {
    /// The error this answer to a read means where its status was not expected.
    fn refusal(&self, host: &Host, method: &Method, what: &dyn std::fmt::Display) -> Fault {
        let fault = self.unexpected(method);
        let Fault::Status { detail, code, .. } = &fault else { return fault };
        let detail = detail.clone();
        match code {
            404 => Fault::NotFound { what: what.to_string(), detail },
            401 | 403 => Fault::Denied {
                action: "pull",
                host: host.name.clone(),
                anonymous: self.anonymous,
                lookup: None,
                detail,
            },
            _ => fault,
        }
    }
}

impl Inner {
    async fn size_of(&self, place: &Endpoint, digest: &Digest, what: &str) -> Result<u64, Fault> {
        let call = Call::read(Method::HEAD, place, format!("blobs/{digest}"));
        let answer = self.small(&place.host, &call, MAX_MANIFEST).await?;
        if answer.status != StatusCode::OK {
            return Err(answer.refusal(&place.host, &Method::HEAD, &what));
        }
        let size = answer.header(CONTENT_LENGTH).and_then(|text| text.parse().ok());
        let reason = "it does not say how large a blob is".to_owned();
        size.ok_or_else(|| Fault::Invalid { url: host::show(&answer.url), reason })
    }

    async fn head(&self, place: &Endpoint, reference: &Reference) -> Result<Descriptor, Fault> {
        let host = &*place.host;
        let part = reference.manifest_part();
        let call =
            Call::read(Method::HEAD, place, format!("manifests/{part}")).header(ACCEPT, media_type::MANIFEST_ACCEPT);
        let answer = match self.small(host, &call, MAX_MANIFEST).await {
            Ok(answer) => answer,
            // Some registries refuse HEAD itself: GET has the last word, and the better message.
            Err(fault) if fault.kind() == FaultKind::Auth => return Ok(self.get(place, reference).await?.descriptor),
            Err(fault) => return Err(fault),
        };
        if answer.status == StatusCode::OK {
            let digest = match &reference.digest {
                Some(digest) => Some(digest.clone()),
                None => answer.header("docker-content-digest").and_then(|text| text.parse().ok()),
            };
            let size = answer.header(CONTENT_LENGTH).and_then(|text| text.parse().ok());
            let kind = answer.header(CONTENT_TYPE).map(without_parameters).filter(|kind| is_document(kind));
            if let (Some(digest), Some(size), Some(kind)) = (digest, size, kind) {
                return Ok(Descriptor::new(kind, digest, size));
            }
        } else if answer.status == StatusCode::NOT_FOUND {
            return Err(answer.refusal(host, &Method::HEAD, reference));
        }
        Ok(self.get(place, reference).await?.descriptor)
    }

    async fn get(&self, place: &Endpoint, reference: &Reference) -> Result<FetchedManifest, Fault> {
        let host = &*place.host;
        let part = reference.manifest_part();
        let call =
            Call::read(Method::GET, place, format!("manifests/{part}")).header(ACCEPT, media_type::MANIFEST_ACCEPT);
        let answer = self.small(host, &call, MAX_MANIFEST).await?;
        if answer.status != StatusCode::OK {
            return Err(answer.refusal(host, &Method::GET, reference));
        }
        let what = format!("manifest {reference}");
        // By digest the name is the promise; by tag the header is, where it is there.
        let expected = match &reference.digest {
            Some(digest) => Some(digest.clone()),
            None => answer.header("docker-content-digest").and_then(|text| text.parse::<Digest>().ok()),
        };
        let digest = match expected {
            None => Digest::sha256(&answer.body),
            Some(expected) => {
                let mut hasher = expected.hasher();
                hasher.update(&answer.body);
                verify(&what, &expected, hasher.finish())?;
                expected
            }
        };
        let kind = document_type(&answer.body, answer.header(CONTENT_TYPE));
        let descriptor = Descriptor::new(kind, digest, answer.body.len() as u64);
        Ok(FetchedManifest { descriptor, bytes: answer.body })
    }
}

/// The document's own media type, else the server's.
fn document_type(body: &[u8], header: Option<&str>) -> String {
    #[derive(serde::Deserialize)]
    struct Typed {
        #[serde(rename = "mediaType", default)]
        media_type: String,
    }
    match serde_json::from_slice::<Typed>(body) {
        Ok(typed) if !typed.media_type.is_empty() => typed.media_type,
        _ => header.map(without_parameters).unwrap_or_default().to_owned(),
    }
}

fn without_parameters(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

fn is_document(content_type: &str) -> bool {
    media_type::is_index(content_type) || media_type::is_manifest(content_type)
}

/// Where the pieces of a blob go.
trait Take: Send {
    fn take(&mut self, chunk: Bytes) -> impl Future<Output = Result<(), Fault>> + Send;
}

impl Take for Vec<u8> {
    async fn take(&mut self, chunk: Bytes) -> Result<(), Fault> {
        self.extend_from_slice(&chunk);
        Ok(())
    }
}

/// One blob on its way in: how far it came, and from where it comes.
struct Fetch<'a> {
    inner: &'a Inner,
    /// Where to go on if this place is of no use.
    places: &'a [Endpoint],
    host: &'a Host,
    call: Call<'a>,
    what: String,
    digest: &'a Digest,
    size: u64,
    at: u64,
    /// Other places, for foreign layers the registry does not have (SPEC E3.06).
    urls: &'a [String],
    /// The place in use.
    url: Option<Url>,
}

impl<'a> Fetch<'a> {
    fn new(
        inner: &'a Inner,
        places: &'a [Endpoint],
        repository: &Reference,
        descriptor: &'a Descriptor,
        slot: Slot,
    ) -> Self {
        let place = &places[0];
        let mut call = Call::read(Method::GET, place, format!("blobs/{}", descriptor.digest));
        call.slot = slot;
        Self {
            inner,
            places,
            host: &place.host,
            call,
            what: blob_name(repository, descriptor),
            digest: &descriptor.digest,
            size: descriptor.size,
            at: 0,
            urls: &descriptor.urls,
            url: None,
        }
    }

    /// Fetches everything, piece by piece and in order, however many connections and places that takes. A place goes on
    /// where the one before it broke off.
    async fn run(&mut self, take: &mut impl Take) -> Result<(), Fault> {
        loop {
            let outcome = self.fetch_rest(take).await;
            match (outcome, self.places) {
                (Err(fault), [place, next, ..]) if self.inner.go_on(place, &fault) => {
                    self.places = &self.places[1..];
                    let slot = self.call.slot;
                    self.call = Call::read(Method::GET, next, format!("blobs/{}", self.digest));
                    (self.call.slot, self.host, self.url) = (slot, &next.host, None);
                }
                (outcome, _) => return outcome,
            }
        }
    }

    async fn fetch_rest(&mut self, take: &mut impl Take) -> Result<(), Fault> {
        let mut backoff = Backoff::new(self.inner, self.host).at_most(self.call.retries);
        let mut counted = self.at;
        loop {
            let error = match self.round(take).await {
                Ok(()) => break,
                Err(error) => error,
            };
            if self.at - counted >= progress_of(self.size) {
                // A big blob over a bad line may break often; only standing still counts.
                counted = self.at;
                backoff.reset();
            }
            if let Fault::NotFound { .. } = error.fault
                && let Some((next, rest)) = self.urls.split_first()
            {
                self.urls = rest;
                // Not a usable URL: the next round asks the same place again and comes back for the next one.
                self.url = Url::parse(next).ok().filter(|u| matches!(u.scheme(), "http" | "https"));
                continue;
            }
            backoff.again(error).await?;
        }
        if self.url.is_none() {
            self.host.note_blob(self.digest, self.call.repository);
        }
        Ok(())
    }

    /// One connection's worth.
    async fn round(&mut self, take: &mut impl Take) -> Result<(), SendError> {
        let stall = self.inner.options.timeouts.stall;
        let mut call = self.call.clone();
        if self.at > 0 {
            call = call.header(RANGE, &format!("bytes={}-", self.at));
        }
        let mut answer = match &self.url {
            None => self.inner.attempt(self.host, &call).await?,
            Some(url) => {
                let mut wire = Wire::new(Method::GET, url.clone());
                wire.headers = call.headers;
                let (response, end) = self.inner.exchange(self.host, &wire).await?;
                let answer = Answer::new(response, end);
                if let Some(error) = answer.transient(self.host) {
                    return Err(error);
                }
                answer
            }
        };
        let mut skip = match answer.status() {
            // The server ignores ranges: what is already here is read past.
            StatusCode::OK => self.at,
            StatusCode::PARTIAL_CONTENT if range_start(answer.headers()) == Some(self.at) => 0,
            status => return Err(SendError::fatal(self.refusal(answer, status).await)),
        };
        if let Some(length) = content_length(answer.headers()) {
            let announced = self.at - skip + length;
            if announced != self.size {
                return Err(SendError::fatal(self.wrong_size(announced)));
            }
        }
        loop {
            let mut chunk = match answer.chunk(stall).await {
                Ok(Some(chunk)) => chunk,
                Ok(None) if self.at < self.size => return Err(SendError::transient(self.wrong_size(self.at))),
                Ok(None) => return Ok(()),
                Err(error) if error.cut => return Err(SendError { fault: self.wrong_size(self.at), ..error }),
                Err(error) => return Err(error),
            };
            let known = skip.min(chunk.len() as u64);
            skip -= known;
            let chunk = chunk.split_off(usize::try_from(known).unwrap_or(usize::MAX));
            if self.at + chunk.len() as u64 > self.size {
                return Err(SendError::fatal(self.wrong_size(self.at + chunk.len() as u64)));
            }
            if !chunk.is_empty() {
                self.at += chunk.len() as u64;
                take.take(chunk).await.map_err(SendError::fatal)?;
            }
        }
    }

    fn wrong_size(&self, actual: u64) -> Fault {
        Fault::SizeMismatch { what: self.what.clone(), expected: self.size, actual }
    }

    async fn refusal(&self, answer: Answer<'_>, status: StatusCode) -> Fault {
        let (url, anonymous) = (answer.url().clone(), answer.is_anonymous());
        let detail = answer.detail(self.inner.options.timeouts.stall).await;
        match status.as_u16() {
            404 | 410 => Fault::NotFound { what: self.what.clone(), detail },
            // A storage server behind the registry has its own opinions; what it says is no matter of our account.
            401 | 403 if host::authority(&url) == host::api_host(&self.host.name) => {
                Fault::Denied { action: "pull", host: self.host.name.clone(), anonymous, lookup: None, detail }
            }
            206 => Fault::Invalid { url: host::show(&url), reason: "it sent another range than asked for".into() },
            code => Fault::status("GET", &url, code, detail),
        }
    }
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.trim().parse().ok()
}

/// The first byte of `Content-Range: bytes 5-9/10`.
fn range_start(headers: &HeaderMap) -> Option<u64> {
    let text = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    text.trim().strip_prefix("bytes")?.trim_start().split('-').next()?.trim().parse().ok()
}

/// Writes and hashes on a blocking thread, a few pieces behind the connection. The thread starts with the first piece:
/// an image may have a hundred layers, and most of them wait for a slot.
enum Writer<W> {
    Idle {
        sink: W,
        hasher: Option<Hasher>,
    },
    Busy {
        sender: mpsc::Sender<Bytes>,
        task: JoinHandle<std::io::Result<Written<W>>>,
    },
    /// Between the two.
    Gone,
}

type Written<W> = (W, Option<Digest>);

impl<W: Write + Send + 'static> Writer<W> {
    fn new(sink: W, digest: Option<&Digest>) -> Self {
        Self::Idle { sink, hasher: digest.map(Digest::hasher) }
    }

    async fn write(&mut self, chunk: Bytes) -> Result<(), Fault> {
        if let Self::Idle { .. } = self {
            *self = std::mem::replace(self, Self::Gone).start();
        }
        let sent = match self {
            Self::Busy { sender, .. } => sender.send(chunk).await.is_ok(),
            _ => false,
        };
        // The thread ended early; `finish` says why.
        if sent { Ok(()) } else { Err(local(std::io::ErrorKind::BrokenPipe.into())) }
    }

    fn start(self) -> Self {
        let Self::Idle { mut sink, mut hasher } = self else { return self };
        let (sender, mut receiver) = mpsc::channel::<Bytes>(4);
        let task = tokio::task::spawn_blocking(move || {
            while let Some(chunk) = receiver.blocking_recv() {
                sink.write_all(&chunk)?;
                if let Some(hasher) = &mut hasher {
                    hasher.update(&chunk);
                }
            }
            sink.flush()?;
            Ok((sink, hasher.map(Hasher::finish)))
        });
        Self::Busy { sender, task }
    }

    async fn finish(self) -> Result<Written<W>, Fault> {
        match self.start() {
            Self::Busy { sender, task } => {
                drop(sender);
                task.await.map_err(|e| local(std::io::Error::other(e)))?.map_err(local)
            }
            _ => Err(local(std::io::ErrorKind::BrokenPipe.into())),
        }
    }
}

/// A blob on its way to a writer.
struct Counted<'a, W> {
    writer: &'a mut Writer<W>,
    done: u64,
    progress: &'a Progress,
}

impl<W: Write + Send + 'static> Take for Counted<'_, W> {
    async fn take(&mut self, chunk: Bytes) -> Result<(), Fault> {
        self.done += chunk.len() as u64;
        self.writer.write(chunk).await?;
        (self.progress)(self.done);
        Ok(())
    }
}

fn local(error: std::io::Error) -> Fault {
    Fault::Local { action: "cannot write the blob".into(), source: Arc::new(error) }
}
