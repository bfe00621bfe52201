//! One request's way: slot, authentication, redirects, and the pauses between attempts.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, HeaderMap, HeaderValue, LOCATION};
use reqwest::{Method, Request, Response, StatusCode, Url};
use tokio::sync::SemaphorePermit;
use tokio::time::{Duration, Instant, timeout};

use super::answers::error_message;
use super::auth::Session;
use super::client::{BlobSource, Inner, Progress};
use super::host::{self, Host};
use super::mirrors::Endpoint;
use super::scopes::Scopes;
use super::transport::{SendError, classify};
use super::upload::Upload;
use super::web::retry_after;
use super::{Fault, RetryPolicy};

/// How much of an error page is read.
const ERROR_BODY: u64 = 16 << 10;

/// What a request carries.
#[derive(Clone)]
pub(super) enum Payload {
    None,
    Bytes(Bytes),
    /// A blob of known size, opened anew for each attempt.
    Blob {
        source: BlobSource,
        /// What of it is sent.
        bytes: Range<u64>,
        /// All of it.
        size: u64,
        progress: Progress,
    },
}

/// A request without authentication.
#[derive(Clone)]
pub(super) struct Wire {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) payload: Payload,
}

impl Wire {
    pub(super) fn new(method: Method, url: Url) -> Self {
        Self { method, url, headers: HeaderMap::new(), payload: Payload::None }
    }
}

/// Which of the host's slots a request takes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Slot {
    /// Manifests, existence checks, configs.
    Small,
    /// Layers.
    Blob,
}

/// Where a request goes.
#[derive(Clone)]
pub(super) enum Target {
    /// Below `/v2/REPOSITORY/`.
    Repository(String),
    /// `/v2/` itself.
    Root,
    /// A location given by the server, possibly on another host.
    Location(Url),
}

/// A request to a registry with all it needs.
#[derive(Clone)]
pub(super) struct Call<'a> {
    pub(super) method: Method,
    pub(super) repository: &'a str,
    pub(super) target: Target,
    pub(super) headers: HeaderMap,
    pub(super) payload: Payload,
    pub(super) scopes: Scopes,
    /// `pull` or `push`, for messages.
    pub(super) action: &'static str,
    pub(super) slot: Slot,
    /// How often to try again, if not as often as usual.
    pub(super) retries: Option<u32>,
    /// The registry that a mirror is asked for.
    pub(super) ns: Option<&'a str>,
}

impl<'a> Call<'a> {
    /// A request to `place` in order to read. A mirror gets one second chance: there is somebody else to ask.
    pub(super) fn read(method: Method, place: &'a Endpoint, path: String) -> Self {
        let retries = place.mirror.then_some(1);
        Self { retries, ns: place.ns.as_deref(), ..Self::pull(method, &place.repository, path) }
    }

    /// A request for something small in order to read.
    pub(super) fn pull(method: Method, repository: &'a str, path: String) -> Self {
        Self {
            method,
            repository,
            target: Target::Repository(path),
            headers: HeaderMap::new(),
            payload: Payload::None,
            scopes: Scopes::pull(repository),
            action: "pull",
            slot: Slot::Small,
            retries: None,
            ns: None,
        }
    }

    /// A request for something small in order to write.
    pub(super) fn push(method: Method, repository: &'a str, path: String) -> Self {
        Self { scopes: Scopes::push(repository), action: "push", ..Self::pull(method, repository, path) }
    }

    pub(super) fn header(mut self, name: reqwest::header::HeaderName, value: &str) -> Self {
        // Values here are media types and byte ranges; one that is no header value is left out, and the server
        // then complains about the right thing.
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
        self
    }
}

/// The pauses of one operation (SPEC E3.13).
pub(super) struct Backoff<'a> {
    policy: RetryPolicy,
    inner: &'a Inner,
    host: &'a Host,
    done: u32,
    /// All attempts that failed, whatever came of them.
    broken: u32,
}

impl<'a> Backoff<'a> {
    pub(super) fn new(inner: &'a Inner, host: &'a Host) -> Self {
        Self { policy: inner.options.retry, inner, host, done: 0, broken: 0 }
    }

    /// Gives up sooner than usual.
    pub(super) fn at_most(mut self, retries: Option<u32>) -> Self {
        self.policy.retries = retries.unwrap_or(self.policy.retries);
        self
    }

    /// There was progress: the count starts again.
    pub(super) fn reset(&mut self) {
        self.done = 0;
    }

    /// Pauses before another attempt, or gives up with the last error.
    pub(super) async fn again(&mut self, error: SendError) -> Result<(), Fault> {
        let hopeless = matches!(error.fault, Fault::Silent { .. }) && !self.policy.after_silence;
        if !error.transient || hopeless || self.done >= self.policy.retries || self.broken >= self.policy.breaks {
            return Err(error.fault);
        }
        self.broken += 1;
        if error.immediate {
            return Ok(());
        }
        let pause = error.retry_after.unwrap_or_else(|| self.policy.pause(self.done));
        if pause > self.policy.patience {
            return Err(error.fault);
        }
        if matches!(error.fault, Fault::RateLimited { .. }) {
            // Everybody else would only make it worse.
            self.host.be_quiet(pause);
        }
        self.done += 1;
        let text = format!("{}: trying again in {:.1} s: {}", self.host.name, pause.as_secs_f32(), error.fault);
        self.inner.options.events.notice("registry-retry", text);
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

/// An answer whose body is still to be read. Holds the request's slot.
pub(super) struct Answer<'a> {
    response: Response,
    url: Url,
    anonymous: bool,
    _permit: Option<SemaphorePermit<'a>>,
}

/// A whole answer.
pub(super) struct Small {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    pub(super) url: Url,
    pub(super) anonymous: bool,
}

impl<'a> Answer<'a> {
    pub(super) fn new(response: Response, url: Url) -> Self {
        Self { response, url, anonymous: true, _permit: None }
    }

    pub(super) fn status(&self) -> StatusCode {
        self.response.status()
    }

    pub(super) fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    pub(super) fn url(&self) -> &Url {
        &self.url
    }

    /// Whether the server was not told who we are.
    pub(super) fn is_anonymous(&self) -> bool {
        self.anonymous
    }

    /// The next piece of the body, `None` at its end. Silence and broken connections are transient.
    pub(super) async fn chunk(&mut self, stall: Duration) -> Result<Option<Bytes>, SendError> {
        match timeout(stall, self.response.chunk()).await {
            Ok(Ok(chunk)) => Ok(chunk),
            // Whatever ends a body early may go better the next time.
            Ok(Err(e)) => Err(SendError { transient: true, ..classify(&self.url, &e) }),
            Err(_) => {
                let cause = format!("nothing received for {} s", stall.as_secs());
                Err(SendError::silence(&self.url, cause))
            }
        }
    }

    /// The whole body, at most `limit` bytes.
    pub(super) async fn read(mut self, limit: u64, stall: Duration) -> Result<Bytes, SendError> {
        let mut out = BytesMut::new();
        while let Some(chunk) = self.chunk(stall).await? {
            if (out.len() + chunk.len()) as u64 > limit {
                let reason = format!("it is larger than {limit} bytes");
                return Err(SendError::fatal(Fault::Invalid { url: host::show(&self.url), reason }));
            }
            out.extend_from_slice(&chunk);
        }
        Ok(out.freeze())
    }

    /// The server's words, as far as they can be had.
    pub(super) async fn detail(mut self, stall: Duration) -> String {
        error_message(&self.error_body(stall).await)
    }

    async fn error_body(&mut self, stall: Duration) -> Vec<u8> {
        let mut out = Vec::new();
        while let Ok(Some(chunk)) = self.chunk(stall).await {
            out.extend_from_slice(&chunk);
            if out.len() as u64 > ERROR_BODY {
                break;
            }
        }
        out
    }

    /// The error of a status after which trying again may help; `None` for all others.
    pub(super) fn transient(&self, host: &Host) -> Option<SendError> {
        let status = self.status();
        let retry_after = retry_after(self.headers());
        let fault = match status {
            StatusCode::TOO_MANY_REQUESTS => {
                Fault::RateLimited { host: host.name.clone(), anonymous: self.anonymous, detail: String::new() }
            }
            StatusCode::NOT_IMPLEMENTED | StatusCode::HTTP_VERSION_NOT_SUPPORTED => return None,
            StatusCode::REQUEST_TIMEOUT => Fault::status("", &self.url, status.as_u16(), String::new()),
            _ if status.is_server_error() => Fault::status("", &self.url, status.as_u16(), String::new()),
            _ => return None,
        };
        Some(SendError { retry_after, ..SendError::transient(fault) })
    }
}

impl Fault {
    /// An unexpected status.
    pub(super) fn status(method: &str, url: &Url, code: u16, detail: String) -> Self {
        let reason = StatusCode::from_u16(code).ok().and_then(|s| s.canonical_reason()).unwrap_or_default();
        Self::Status { method: method.into(), url: host::show(url), code, reason, detail }
    }
}

impl Small {
    /// The error this answer means where its status was not expected.
    pub(super) fn unexpected(&self, method: &Method) -> Fault {
        Fault::status(method.as_str(), &self.url, self.status.as_u16(), error_message(&self.body))
    }

    /// The server's words.
    pub(super) fn words(&self) -> String {
        error_message(&self.body)
    }

    /// A header as text.
    pub(super) fn header(&self, name: impl reqwest::header::AsHeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim).filter(|v| !v.is_empty())
    }
}

impl Inner {
    /// Sends a small request, tries again where that may help, and reads the whole answer.
    pub(super) async fn small(&self, host: &Host, call: &Call<'_>, limit: u64) -> Result<Small, Fault> {
        let mut backoff = Backoff::new(self, host).at_most(call.retries);
        loop {
            let outcome = async {
                let answer = self.attempt(host, call).await?;
                let (status, headers, url) = (answer.status(), answer.headers().clone(), answer.url().clone());
                let anonymous = answer.is_anonymous();
                let body = answer.read(limit, self.options.timeouts.stall).await?;
                Ok(Small { status, headers, body, url, anonymous })
            };
            match outcome.await {
                Ok(small) => return Ok(small),
                Err(error) => backoff.again(error).await?,
            }
        }
    }

    /// Sends a request once: authenticated, redirects followed. Statuses that are worth another attempt come back as
    /// transient errors, all others as answers.
    pub(super) async fn attempt<'h>(&self, host: &'h Host, call: &Call<'_>) -> Result<Answer<'h>, SendError> {
        host.wait_quiet().await;
        let slots = if call.slot == Slot::Blob { &host.blobs } else { &host.small };
        let permit = slots.acquire().await.expect("because these semaphores are never closed");
        let base = host.base(&self.transport).await?;
        let url = match &call.target {
            Target::Location(url) => url.clone(),
            Target::Root => join(&base, "v2/")?,
            Target::Repository(path) => {
                let mut url = join(&base, &format!("v2/{}/{path}", call.repository))?;
                if let Some(ns) = call.ns {
                    url.query_pairs_mut().append_pair("ns", ns);
                }
                url
            }
        };
        let mut session = Session::new(host, call.repository, call.action, call.scopes.clone());
        let first = session.first().await;
        let ours = host::same_origin(&url, &base);
        let mut proof = if ours { session.proof(self).await? } else { super::auth::Proof::default() };
        loop {
            let mut wire = Wire {
                method: call.method.clone(),
                url: url.clone(),
                headers: call.headers.clone(),
                payload: call.payload.clone(),
            };
            if let Some(header) = &proof.header {
                wire.headers.insert(AUTHORIZATION, header.clone());
            }
            let (response, end) = self.exchange(host, &wire).await?;
            let mut answer = Answer::new(response, end);
            if answer.status() == StatusCode::UNAUTHORIZED && ours && host::same_origin(answer.url(), &base) {
                let headers = answer.headers().clone();
                let body = answer.error_body(self.options.timeouts.stall).await;
                proof = session.challenged(self, &proof, &headers, &body).await?;
                continue;
            }
            session.accepted();
            drop(first);
            answer.anonymous = proof.is_anonymous();
            if let Some(mut error) = answer.transient(host) {
                let detail = answer.detail(self.options.timeouts.stall).await;
                match &mut error.fault {
                    Fault::RateLimited { detail: place, .. } => *place = detail,
                    Fault::Status { detail: place, method, .. } => {
                        *place = detail;
                        call.method.as_str().clone_into(method);
                    }
                    _ => {}
                }
                return Err(error);
            }
            answer._permit = Some(permit);
            return Ok(answer);
        }
    }

    /// Sends a request and follows redirects; credentials do not leave the server they are for (SPEC E3.06).
    pub(super) async fn exchange(&self, host: &Host, wire: &Wire) -> Result<(Response, Url), SendError> {
        let mut headers = wire.headers.clone();
        let mut url = wire.url.clone();
        for _ in 0..10 {
            let options = self.options_for(host, &url);
            let response = self.send(&wire.method, &url, headers.clone(), &wire.payload, &options).await?;
            let status = response.status();
            let follow = match status.as_u16() {
                307 | 308 => true,
                301..=303 => matches!(wire.method, Method::GET | Method::HEAD),
                _ => false,
            };
            let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            let (true, Some(location)) = (follow, location) else { return Ok((response, url)) };
            let invalid = |reason: String| SendError::fatal(Fault::Invalid { url: host::show(&url), reason });
            let next = url.join(location).map_err(|e| invalid(format!("it redirects to \"{location}\": {e}")))?;
            if !matches!(next.scheme(), "http" | "https") {
                return Err(invalid(format!("it redirects to a {} URL", next.scheme())));
            }
            if host::is_link_local(&next) && !host::is_link_local(&url) {
                return Err(invalid(format!("it redirects to the link-local address {}", host::authority(&next))));
            }
            if !host::same_origin(&next, &url) {
                headers.remove(AUTHORIZATION);
            }
            url = next;
        }
        Err(SendError::fatal(Fault::Invalid { url: host::show(&wire.url), reason: "too many redirects".into() }))
    }

    async fn send(
        &self,
        method: &Method,
        url: &Url,
        headers: HeaderMap,
        payload: &Payload,
        options: &super::HostOptions,
    ) -> Result<Response, SendError> {
        let mut request = Request::new(method.clone(), url.clone());
        *request.headers_mut() = headers;
        let limits = self.options.timeouts;
        let upload = match payload {
            Payload::None => {
                if matches!(*method, Method::POST | Method::PUT) {
                    request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
                }
                None
            }
            Payload::Bytes(bytes) => {
                *request.body_mut() = Some(bytes.clone().into());
                None
            }
            Payload::Blob { source, bytes, size, progress } => {
                request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(bytes.end - bytes.start));
                let (body, upload) = Upload::start(source, bytes.clone(), *size, progress);
                *request.body_mut() = Some(body);
                Some(upload)
            }
        };
        let sending = self.transport.send(request, options);
        let Some(upload) = upload else {
            return timeout(limits.stall, sending).await.unwrap_or_else(|_| Err(silence(url, limits.stall)));
        };
        tokio::pin!(sending);
        let mut seen = (0, Instant::now());
        let outcome = loop {
            // An upload may take hours, so what counts is whether bytes still move.
            match timeout(limits.stall.min(Duration::from_secs(1)), &mut sending).await {
                Ok(outcome) => break outcome,
                Err(_) => {
                    if upload.sent() != seen.0 {
                        seen = (upload.sent(), Instant::now());
                    }
                    let patience = if upload.is_complete() { limits.commit } else { limits.stall };
                    if seen.1.elapsed() >= patience {
                        break Err(silence(url, patience));
                    }
                }
            }
        };
        match upload.failure() {
            // Our own side failed; the server's view of that does not matter.
            Some(error) => Err(SendError::fatal(Fault::Local {
                action: "cannot read the blob to upload".into(),
                source: Arc::new(error),
            })),
            None => outcome,
        }
    }

    fn options_for(&self, host: &Host, url: &Url) -> super::HostOptions {
        let authority = host::authority(url);
        if authority == host::api_host(&host.name) { host.options() } else { self.host(&authority).options() }
    }
}

fn join(base: &Url, path: &str) -> Result<Url, SendError> {
    base.join(path).map_err(|e| SendError::fatal(Fault::Setting(format!("\"{path}\" is not part of a URL: {e}"))))
}

fn silence(url: &Url, limit: Duration) -> SendError {
    let cause = format!("no answer for {} s", limit.as_secs());
    SendError::silence(url, cause)
}
