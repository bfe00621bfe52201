//! Writing to registries: blobs, mounts, manifests (SPEC E3.07–E3.11).

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{ACCEPT, CONTENT_RANGE, CONTENT_TYPE, LOCATION, RANGE};
use reqwest::{Method, StatusCode, Url};

use super::client::{BlobSource, Client, DroppedUpload, Inner, Progress, PushOutcome};
use super::host::{self, Host};
use super::mirrors::Endpoint;
use super::options::progress_of;
use super::request::{Backoff, Call, Payload, Slot, Small, Target};
use super::transport::SendError;
use super::{Fault, RegistryError};
use crate::base::{Digest, FaultKind};
use crate::oci::{Descriptor, Reference, media_type};

/// The largest answer to a write that is read.
const MAX_ANSWER: u64 = 1 << 20;
/// How long the end waits for servers to forget unfinished uploads.
const PARTING: Duration = Duration::from_secs(2);
/// How many repositories are offered as a source of a mount.
const MAX_MOUNTS: usize = 3;

/// Where an upload begins.
enum Start {
    /// The blob is there without an upload.
    Mounted,
    /// Send it here.
    At(Session),
}

/// Where an upload goes on.
struct Session {
    url: Url,
    /// The server takes no smaller pieces, the last one aside.
    least: u64,
}

impl Session {
    fn of(answer: &Small) -> Result<Self, Fault> {
        let least = answer.header("oci-chunk-min-length").and_then(|text| text.trim().parse().ok());
        Ok(Self { url: location(answer)?, least: least.unwrap_or(0) })
    }
}

impl Client {
    /// Makes sure the repository of `target` has a blob: looks whether it is there, mounts it from one of
    /// `mount_from` (repository paths on the same host) or uploads it. `progress` is called during an upload only.
    ///
    /// # Errors
    /// See [`Fault`].
    pub async fn push_blob(
        &self,
        target: &Reference,
        descriptor: &Descriptor,
        source: &BlobSource,
        mount_from: &[String],
        progress: &Progress,
    ) -> Result<PushOutcome, RegistryError> {
        let operation = || async {
            let pushed = async {
                let Endpoint { host, repository, .. } = self.0.origin(target)?;
                let push = Push { inner: &self.0, host: &host, repository: &repository, descriptor };
                push.run(source, mount_from, progress).await
            };
            pushed.await.map_err(|fault| push_error(target, fault))
        };
        self.0.pushing.run(format!("{} {}", target.repository(), descriptor.digest), operation).await
    }

    /// Whether the repository of `target` has a blob.
    ///
    /// # Errors
    /// See [`Fault`].
    pub async fn has_blob(&self, target: &Reference, descriptor: &Descriptor) -> Result<bool, RegistryError> {
        let asked = async {
            let Endpoint { host, repository, .. } = self.0.origin(target)?;
            Push { inner: &self.0, host: &host, repository: &repository, descriptor }.exists().await
        };
        asked.await.map_err(|fault| push_error(target, fault))
    }

    /// Puts a manifest or index under the digest or tag of `target`. [`Client::pushed`] tells whether it is there.
    ///
    /// # Errors
    /// See [`Fault`].
    pub async fn push_manifest(
        &self,
        target: &Reference,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<Digest, RegistryError> {
        let put = async {
            let place = self.0.origin(target)?;
            self.0.put_manifest(&place, target, media_type, bytes).await
        };
        put.await.map_err(|fault| push_error(target, fault))
    }

    /// What the registry has under the name or digest of `target`, asked with the rights of a push; `None` if nothing.
    ///
    /// # Errors
    /// See [`Fault`].
    pub async fn pushed(&self, target: &Reference) -> Result<Option<Digest>, RegistryError> {
        let asked = async {
            let place = self.0.origin(target)?;
            self.0.head_pushed(&place, target).await
        };
        asked.await.map_err(|fault| push_error(target, fault))
    }

    /// Ends the upload sessions of pushes that were dropped on their way. The servers' own clean-up does it where this fails,
    /// or takes long.
    pub async fn abandon_uploads(&self) {
        let left = std::mem::take(&mut *self.0.dropped.lock().unwrap_or_else(PoisonError::into_inner));
        let ending = left.iter().map(|u| self.0.abandon(&u.host, &u.repository, u.location.clone()));
        let _ = tokio::time::timeout(PARTING, futures_util::future::join_all(ending)).await;
    }

    /// Finds out whether a push to the repository of `target` will be allowed, before anything is built.
    ///
    /// # Errors
    /// See [`Fault`].
    pub async fn check_push(&self, target: &Reference) -> Result<(), RegistryError> {
        let checked = async {
            let Endpoint { host, repository, .. } = self.0.origin(target)?;
            let call = Call::push(Method::POST, &repository, "blobs/uploads/".into());
            let answer = self.0.small(&host, &call, MAX_ANSWER).await?;
            match answer.status {
                StatusCode::ACCEPTED => {}
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                    return Err(Fault::Denied {
                        action: "push",
                        host: host.name.clone(),
                        anonymous: answer.anonymous,
                        lookup: None,
                        detail: answer.words(),
                    });
                }
                StatusCode::NOT_FOUND => {
                    return Err(Fault::NotFound { what: target.repository(), detail: answer.words() });
                }
                _ => return Err(answer.unexpected(&Method::POST)),
            }
            self.0.abandon(&host, &repository, location(&answer)?).await;
            Ok(())
        };
        checked.await.map_err(|fault| push_error(target, fault))
    }
}

fn push_error(target: &Reference, fault: Fault) -> RegistryError {
    RegistryError::new(format!("failed to push {target}"), fault)
}

/// Where the server wants the upload, possibly on another host.
fn location(answer: &Small) -> Result<Url, Fault> {
    let invalid = |reason: String| Fault::Invalid { url: host::show(&answer.url), reason };
    let text = answer.header(LOCATION).ok_or_else(|| invalid("it accepts an upload without saying where".into()))?;
    let url = answer.url.join(text).map_err(|e| invalid(format!("upload location \"{text}\": {e}")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(invalid(format!("upload location with scheme {}", url.scheme())));
    }
    Ok(url)
}

impl Inner {
    async fn head_pushed(&self, place: &Endpoint, target: &Reference) -> Result<Option<Digest>, Fault> {
        let head = Call::push(Method::HEAD, &place.repository, format!("manifests/{}", target.manifest_part()))
            .header(ACCEPT, media_type::MANIFEST_ACCEPT);
        let there = self.small(&place.host, &head, MAX_ANSWER).await?;
        if matches!(there.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return Err(there.unexpected(&Method::HEAD));
        }
        // Anything else is no statement about the image; the push will tell.
        if there.status != StatusCode::OK {
            return Ok(None);
        }
        Ok(there.header("docker-content-digest").and_then(|text| text.parse().ok()))
    }

    async fn put_manifest(
        &self,
        place: &Endpoint,
        target: &Reference,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<Digest, Fault> {
        let digest = Digest::sha256(&bytes);
        if let Some(expected) = target.digest.as_ref().filter(|expected| **expected != digest) {
            let what = format!("manifest {target}");
            return Err(Fault::DigestMismatch { what, expected: expected.clone(), actual: digest });
        }
        let part = target.manifest_part();
        let mut call =
            Call::push(Method::PUT, &place.repository, format!("manifests/{part}")).header(CONTENT_TYPE, media_type);
        call.payload = Payload::Bytes(bytes.clone());
        let answer = self.small(&place.host, &call, MAX_ANSWER).await?;
        if !answer.status.is_success() {
            return Err(answer.unexpected(&Method::PUT));
        }
        self.note_referrer(place, &answer, media_type, &bytes).await?;
        match answer.header("docker-content-digest").and_then(|text| text.parse::<Digest>().ok()) {
            Some(stored) if stored != digest && stored.algorithm() == digest.algorithm() => {
                Err(Fault::DigestMismatch {
                    what: format!("manifest {target} in the registry"),
                    expected: digest,
                    actual: stored,
                })
            }
            _ => Ok(digest),
        }
    }

    /// Ends an upload session that will not be used; the server's clean-up is its own affair if this fails.
    async fn abandon(&self, host: &Host, repository: &str, session: Url) {
        let mut call = Call::push(Method::DELETE, repository, String::new());
        call.target = Target::Location(session);
        let _ = self.attempt(host, &call).await;
    }
}

/// An upload session of a server. When it is dropped before its end, it is noted for [`Client::abandon_uploads`].
struct OpenSession<'a> {
    inner: &'a Inner,
    host: &'a Arc<Host>,
    repository: &'a str,
    url: Option<Url>,
}

impl Drop for OpenSession<'_> {
    fn drop(&mut self) {
        if let Some(url) = self.url.take() {
            let mut dropped = self.inner.dropped.lock().unwrap_or_else(PoisonError::into_inner);
            let (host, repository) = (Arc::clone(self.host), self.repository.to_owned());
            dropped.push(DroppedUpload { host, repository, location: url });
        }
    }
}

/// One blob on its way out.
struct Push<'a> {
    inner: &'a Inner,
    host: &'a Arc<Host>,
    repository: &'a str,
    descriptor: &'a Descriptor,
}

impl Push<'_> {
    async fn run(&self, source: &BlobSource, mount_from: &[String], progress: &Progress) -> Result<PushOutcome, Fault> {
        let digest = &self.descriptor.digest;
        let holders = self.host.holders(digest);
        if holders.iter().any(|r| r == self.repository) {
            return Ok(PushOutcome::Exists);
        }
        let mut candidates: Vec<&str> = Vec::new();
        for candidate in mount_from.iter().chain(&holders) {
            if candidate != self.repository && !candidates.contains(&candidate.as_str()) {
                candidates.push(candidate);
            }
        }
        candidates.truncate(MAX_MOUNTS);
        let mut backoff = Backoff::new(self.inner, self.host);
        let sent = Arc::new(AtomicU64::new(0));
        loop {
            // Asked again after a broken upload: its last byte may have arrived.
            if self.exists().await? {
                self.host.note_blob(digest, self.repository);
                return Ok(PushOutcome::Exists);
            }
            let session = match self.start(&candidates).await? {
                Start::Mounted => {
                    self.host.note_blob(digest, self.repository);
                    return Ok(PushOutcome::Mounted);
                }
                Start::At(session) => session,
            };
            match self.upload_all(session, source, progress, &sent, &mut backoff).await {
                Ok(()) => {
                    self.host.note_blob(digest, self.repository);
                    self.told_extra(sent.load(Ordering::Relaxed));
                    return Ok(PushOutcome::Uploaded);
                }
                Err(error) => {
                    backoff.again(error).await?;
                    // What the server did not mount the first time it will not mount now.
                    candidates.clear();
                }
            }
        }
    }

    /// Uploads within one session, going on where a broken connection left off as long as the server can say where.
    async fn upload_all(
        &self,
        session: Session,
        source: &BlobSource,
        progress: &Progress,
        sent: &Arc<AtomicU64>,
        backoff: &mut Backoff<'_>,
    ) -> Result<(), SendError> {
        let Session { url: mut session, least } = session;
        // SPEC E3.08: one request, unless somebody between us and the registry does not let large ones through.
        let piece = self.inner.options.chunk.map_or(u64::MAX, |bytes| bytes.max(least).max(1));
        let (mut at, mut counted): (u64, u64) = (0, 0);
        let mut open = OpenSession { inner: self.inner, host: self.host, repository: self.repository, url: None };
        loop {
            let end = at.saturating_add(piece).min(self.descriptor.size);
            open.url = Some(session.clone());
            let result = self.upload(session.clone(), at..end, source, progress, sent).await;
            open.url = None;
            let error = match result {
                Ok(None) => return Ok(()),
                Ok(Some(next)) => {
                    (session, at, counted) = (next, end, end);
                    backoff.reset();
                    continue;
                }
                Err(error) => error,
            };
            if !error.transient || error.session_lost {
                self.inner.abandon(self.host, self.repository, session).await;
                return Err(error);
            }
            backoff.again(error).await.map_err(SendError::fatal)?;
            match self.received(&session).await {
                Some((place, received)) if received <= self.descriptor.size => {
                    if received.saturating_sub(counted) >= progress_of(self.descriptor.size) {
                        // Only standing still counts.
                        counted = received;
                        backoff.reset();
                    }
                    (session, at) = (place, received);
                }
                _ => {
                    self.inner.abandon(self.host, self.repository, session.clone()).await;
                    let fault = Fault::Broken {
                        url: host::show(&session),
                        cause: "the server does not know how much of the upload arrived".into(),
                    };
                    return Err(SendError { immediate: true, ..SendError::transient(fault) });
                }
            }
        }
    }

    /// Where a session goes on, and how many bytes it has.
    async fn received(&self, session: &Url) -> Option<(Url, u64)> {
        let mut call = Call::push(Method::GET, self.repository, String::new());
        call.target = Target::Location(session.clone());
        let answer = self.inner.small(self.host, &call, MAX_ANSWER).await.ok()?;
        if !answer.status.is_success() {
            return None;
        }
        let text = answer.header(RANGE)?;
        let last: u64 = text.strip_prefix("bytes=").unwrap_or(text).rsplit_once('-')?.1.trim().parse().ok()?;
        // `0-0` is what an empty session has.
        let received = if last == 0 { 0 } else { last + 1 };
        let place = location(&answer).unwrap_or_else(|_| session.clone());
        Some((place, received))
    }

    /// Says what broken connections cost.
    fn told_extra(&self, sent: u64) {
        let extra = sent.saturating_sub(self.descriptor.size);
        if extra > 0 {
            let (digest, name) = (&self.descriptor.digest, &self.host.name);
            let text = format!("{extra} bytes of {digest} were sent to {name} again because connections broke");
            self.inner.options.events.notice("registry-extra", text);
        }
    }

    async fn exists(&self) -> Result<bool, Fault> {
        let call = Call::push(Method::HEAD, self.repository, format!("blobs/{}", self.descriptor.digest));
        let answer = self.inner.small(self.host, &call, MAX_ANSWER).await?;
        match answer.status.as_u16() {
            200..=299 => Ok(true),
            401 | 403 => Err(answer.unexpected(&Method::HEAD)),
            // Anything else is no statement about the blob; the upload will tell.
            _ => Ok(false),
        }
    }

    /// Begins an upload, or avoids it by a mount.
    async fn start(&self, candidates: &[&str]) -> Result<Start, Fault> {
        let digest = &self.descriptor.digest;
        for (at, from) in candidates.iter().enumerate() {
            // Digests and repository names need no escaping in a query.
            let path = format!("blobs/uploads/?mount={digest}&from={from}");
            let mut call = Call::push(Method::POST, self.repository, path);
            call.scopes.merge(&format!("repository:{from}:pull"));
            let answer = match self.inner.small(self.host, &call, MAX_ANSWER).await {
                Ok(answer) => answer,
                // We may not read there; that does not mean we may not write here.
                Err(fault) if fault.kind() == FaultKind::Auth => continue,
                Err(fault) => return Err(fault),
            };
            match answer.status {
                StatusCode::CREATED => return Ok(Start::Mounted),
                // Not there: the server began an ordinary upload instead.
                StatusCode::ACCEPTED if at + 1 == candidates.len() => return Ok(Start::At(Session::of(&answer)?)),
                StatusCode::ACCEPTED => self.inner.abandon(self.host, self.repository, location(&answer)?).await,
                _ => {}
            }
        }
        let call = Call::push(Method::POST, self.repository, "blobs/uploads/".into());
        let answer = self.inner.small(self.host, &call, MAX_ANSWER).await?;
        match answer.status {
            StatusCode::ACCEPTED => Ok(Start::At(Session::of(&answer)?)),
            StatusCode::CREATED => Ok(Start::Mounted),
            _ => Err(answer.unexpected(&Method::POST)),
        }
    }

    /// Sends these bytes: up to the end of the blob with the PUT that ends the upload, else with a PATCH, which gives the
    /// place to go on.
    async fn upload(
        &self,
        mut session: Url,
        bytes: Range<u64>,
        source: &BlobSource,
        progress: &Progress,
        sent: &Arc<AtomicU64>,
    ) -> Result<Option<Url>, SendError> {
        let (at, size) = (bytes.start, self.descriptor.size);
        let last = bytes.end >= size;
        let method = if last { Method::PUT } else { Method::PATCH };
        if last {
            session.query_pairs_mut().append_pair("digest", self.descriptor.digest.as_str());
        }
        let mut call =
            Call::push(method.clone(), self.repository, String::new()).header(CONTENT_TYPE, "application/octet-stream");
        if (at > 0 || !last) && at < size {
            call = call.header(CONTENT_RANGE, &format!("{at}-{}", bytes.end - 1));
        }
        call.target = Target::Location(session.clone());
        call.slot = Slot::Blob;
        let progress: Progress = {
            let (progress, sent, last) = (progress.clone(), Arc::clone(sent), AtomicU64::new(0));
            Arc::new(move |now| {
                // A refused token starts the count again.
                let before = last.swap(now, Ordering::Relaxed);
                sent.fetch_add(if now > before { now - before } else { now }, Ordering::Relaxed);
                progress(at + now);
            })
        };
        call.payload = Payload::Blob { source: source.clone(), bytes, size, progress };
        let answer = self.inner.attempt(self.host, &call).await?;
        let status = answer.status();
        if status.is_success() && last {
            return Ok(None);
        }
        if status.is_success() {
            // Without a new place the old one holds.
            let place = answer.headers().get(LOCATION).and_then(|text| answer.url().join(text.to_str().ok()?).ok());
            let web = place.filter(|place| matches!(place.scheme(), "http" | "https"));
            return Ok(Some(web.unwrap_or(session)));
        }
        let detail = answer.detail(self.inner.options.timeouts.stall).await;
        let fault = Fault::status(method.as_str(), &session, status.as_u16(), detail);
        // The session is gone or out of step: a new one may work.
        let session_lost = matches!(status.as_u16(), 404 | 416) || (at > 0 && status.as_u16() == 400);
        Err(SendError { transient: session_lost, session_lost, ..SendError::fatal(fault) })
    }
}
