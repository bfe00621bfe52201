//! One file's way: redirects, revalidation, retries, and the limits of all of them.

use std::io::Write as _;

use reqwest::header::{
    AUTHORIZATION, CONTENT_DISPOSITION, CONTENT_RANGE, ETAG, HeaderMap, HeaderName, HeaderValue, IF_NONE_MATCH,
    IF_RANGE, LAST_MODIFIED, LOCATION, RANGE,
};
use reqwest::{Method, Response, StatusCode, Url};
use tokio::time::{Duration, Instant, timeout};

use super::super::SourceError;
use super::super::file::safe_name;
use crate::base::{Digest, Events};
use crate::registry::web::{self, WebError};
use crate::registry::{Client, Fault};
use crate::store::{BlobWriter, Download, Store};

/// What a server may do to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest file in bytes.
    pub size: u64,
    /// Redirects in a row.
    pub redirects: usize,
    /// How long one download may take, retries included.
    pub time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { size: 64 << 30, redirects: 10, time: Duration::from_secs(6 * 3600) }
    }
}

/// What the server has.
#[derive(Debug)]
pub(super) enum Found {
    /// The same as before.
    Known(Download),
    /// Something that is now in the store.
    New(Download),
}

/// A file to be fetched.
pub(super) struct Fetch<'a> {
    pub(super) client: &'a Client,
    pub(super) store: &'a Store,
    pub(super) events: &'a Events,
    pub(super) limits: &'a Limits,
    pub(super) vertex: &'a Digest,
    pub(super) url: Url,
    /// For the origin of `url` only.
    pub(super) auth: Option<HeaderValue>,
    pub(super) headers: HeaderMap,
}

/// Why one attempt failed.
struct Failed {
    error: SourceError,
    transient: bool,
    pause: Option<Duration>,
}

impl From<SourceError> for Failed {
    fn from(error: SourceError) -> Self {
        Self { error, transient: false, pause: None }
    }
}

/// A download under way, kept across attempts.
#[derive(Default)]
struct Partial {
    writer: Option<BlobWriter>,
    etag: Option<String>,
}

impl Fetch<'_> {
    /// What makes two requests for one URL different.
    pub(super) fn conditions(&self) -> String {
        // A header that is a secret shows as "Sensitive".
        format!("{:?} {}", self.headers, self.auth.is_some())
    }

    /// Asks the server for the file unless it still has one of `known`.
    pub(super) async fn ask(&self, known: &[Download], wanted: Option<&Digest>) -> Result<Found, SourceError> {
        let all = async {
            let mut partial = Partial::default();
            let (policy, _) = self.client.patience();
            let mut retries = 0;
            loop {
                let before = partial.writer.as_ref().map_or(0, BlobWriter::written);
                let failed = match self.attempt(known, wanted, &mut partial).await {
                    Ok(found) => return Ok(found),
                    Err(failed) => failed,
                };
                if partial.writer.as_ref().map_or(0, BlobWriter::written) > before {
                    retries = 0;
                }
                let pause = failed.pause.unwrap_or_else(|| policy.pause(retries));
                if !failed.transient || retries >= policy.retries || pause > policy.patience {
                    return Err(failed.error);
                }
                retries += 1;
                let (host, seconds) = (self.url.host_str().unwrap_or_default(), pause.as_secs_f32());
                self.events.notice("http-retry", format!("{host}: trying again in {seconds:.1} s: {}", failed.error));
                tokio::time::sleep(pause).await;
            }
        };
        let limit = self.limits.time;
        timeout(limit, all).await.unwrap_or_else(|_| {
            Err(SourceError::Limit {
                url: web::show(&self.url),
                what: format!("takes longer than {} s", limit.as_secs()),
            })
        })
    }

    async fn attempt(
        &self,
        known: &[Download],
        wanted: Option<&Digest>,
        partial: &mut Partial,
    ) -> Result<Found, Failed> {
        let tagged: Vec<&Download> = known.iter().filter(|d| d.etag.is_some()).collect();
        let matching = |headers: &HeaderMap| -> Option<Download> {
            let etag = text(headers, &ETAG)?;
            tagged.iter().find(|d| d.etag.as_ref() == Some(&etag)).map(|d| (*d).clone())
        };
        let mut conditions = HeaderMap::new();
        let etags: Vec<&str> = tagged.iter().filter_map(|d| d.etag.as_deref()).collect();
        if !etags.is_empty()
            && let Ok(value) = HeaderValue::from_str(&etags.join(", "))
        {
            conditions.insert(IF_NONE_MATCH, value);
            // Some servers do not know HEAD, or fail at it: then only GET tells.
            if let Ok(answer) = self.send(&Method::HEAD, &conditions).await {
                let status = answer.status();
                if let Some(download) = matching(answer.headers()).filter(|_| fresh(status)) {
                    return Ok(Found::Known(download));
                }
                if let (StatusCode::NOT_MODIFIED, [only]) = (status, tagged.as_slice()) {
                    return Ok(Found::Known((*only).clone()));
                }
            }
        }
        let resumed = partial.writer.as_ref().map(BlobWriter::written).filter(|n| *n > 0);
        if let (Some(offset), Some(etag)) = (resumed, &partial.etag) {
            conditions.remove(IF_NONE_MATCH);
            if let (Ok(range), Ok(etag)) =
                (HeaderValue::from_str(&format!("bytes={offset}-")), HeaderValue::from_str(etag))
            {
                conditions.insert(RANGE, range);
                conditions.insert(IF_RANGE, etag);
            }
        }
        let answer = self.send(&Method::GET, &conditions).await?;
        let status = answer.status();
        if status == StatusCode::NOT_MODIFIED {
            let known = matching(answer.headers()).or_else(|| match tagged.as_slice() {
                [only] => Some((*only).clone()),
                _ => None,
            });
            return match known {
                Some(download) => Ok(Found::Known(download)),
                None => Err(self.invalid("it says \"not modified\" without saying what").into()),
            };
        }
        if let Some(download) = matching(answer.headers()).filter(|_| status == StatusCode::OK) {
            return Ok(Found::Known(download));
        }
        let continues = resumed.is_some_and(|offset| continues(&answer, offset));
        if !status.is_success() || (status == StatusCode::PARTIAL_CONTENT && !continues) {
            return Err(self.status(&answer));
        }
        if !continues {
            partial.writer = None;
        }
        let headers = answer.headers();
        let etag = text(headers, &ETAG);
        let modified = text(headers, &LAST_MODIFIED).and_then(|t| seconds(&t));
        let filename = text(headers, &CONTENT_DISPOSITION).and_then(|t| disposition(&t));
        // Weak tags do not promise the same bytes.
        partial.etag = etag.clone().filter(|etag| !etag.starts_with("W/"));
        let digest = self.body(answer, wanted, partial).await?;
        Ok(Found::New(Download { digest, etag, modified, filename }))
    }

    /// Takes the body into the store.
    async fn body(
        &self,
        mut answer: Response,
        wanted: Option<&Digest>,
        partial: &mut Partial,
    ) -> Result<Digest, Failed> {
        let (_, timeouts) = self.client.patience();
        let store = |e: crate::store::StoreError| Failed::from(SourceError::from(e));
        let mut writer = match partial.writer.take() {
            Some(writer) => writer,
            None => self.store.blob_writer().map_err(store)?,
        };
        let total = answer.content_length().map(|n| n + writer.written());
        if total.is_some_and(|n| n > self.limits.size) {
            return Err(self.too_large().into());
        }
        let item = web::show(&self.url);
        let mut told = Instant::now();
        loop {
            let failed = match timeout(timeouts.stall, answer.chunk()).await {
                Ok(Ok(Some(chunk))) => {
                    if writer.written() + chunk.len() as u64 > self.limits.size {
                        return Err(self.too_large().into());
                    }
                    writer.write_all(&chunk).map_err(|e| {
                        let action = "cannot write the download".into();
                        self.web(Fault::Local { action, source: std::sync::Arc::new(e) })
                    })?;
                    if told.elapsed() > Duration::from_millis(100) {
                        told = Instant::now();
                        self.events.progress(self.vertex, item.as_str(), writer.written(), total, false);
                    }
                    continue;
                }
                Ok(Ok(None)) => break,
                Ok(Err(error)) => self.failed(WebError::of_body(answer.url(), &error)),
                Err(_) => self.silent(timeouts.stall),
            };
            partial.writer = Some(writer);
            return Err(failed);
        }
        self.events.progress(self.vertex, item, writer.written(), total, true);
        // A checksum of another algorithm has to be computed from the file; a mismatch is told with the URL.
        match writer.commit(wanted) {
            Ok((digest, _)) => Ok(digest),
            Err(crate::store::StoreError::DigestMismatch { expected, actual, .. }) => {
                Err(SourceError::Mismatch { url: web::show(&self.url), expected, actual }.into())
            }
            Err(other) => Err(store(other)),
        }
    }

    /// One request with its redirects. Credentials go to the first origin only.
    async fn send(&self, method: &Method, conditions: &HeaderMap) -> Result<Response, Failed> {
        let (_, timeouts) = self.client.patience();
        let mut url = self.url.clone();
        let _ = url.set_username("");
        let _ = url.set_password(None);
        // A Dockerfile is not to be trusted with what the machine's cloud tells the machine.
        if web::names_metadata(&url) {
            return Err(self.invalid("the metadata service of a cloud is not for builds").into());
        }
        for _ in 0..=self.limits.redirects {
            let mut request = reqwest::Request::new(method.clone(), url.clone());
            request.headers_mut().extend(self.headers.clone());
            request.headers_mut().extend(conditions.clone());
            if let Some(auth) = self.auth.as_ref().filter(|_| web::same_origin(&self.url, &url)) {
                request.headers_mut().insert(AUTHORIZATION, auth.clone());
            }
            let answer = match timeout(timeouts.stall, self.client.web(request)).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(error)) => return Err(self.failed(error)),
                Err(_) => return Err(self.silent(timeouts.stall)),
            };
            let status = answer.status();
            if status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED
                || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT)
            {
                return Err(self.status(&answer));
            }
            let moved = matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308);
            let Some(location) = text(answer.headers(), &LOCATION).filter(|_| moved) else { return Ok(answer) };
            let next = url.join(&location).map_err(|e| self.invalid(&format!("redirect to \"{location}\": {e}")))?;
            if !matches!(next.scheme(), "http" | "https") {
                return Err(self.invalid(&format!("redirect to {}, which is not HTTP", next.scheme())).into());
            }
            if web::is_link_local(&next) && !web::is_link_local(&url) {
                return Err(self.invalid(&format!("redirect to the link-local address {}", web::show(&next))).into());
            }
            url = next;
        }
        let what = format!("redirects more than {} times", self.limits.redirects);
        Err(SourceError::Limit { url: web::show(&self.url), what }.into())
    }

    fn web(&self, fault: Fault) -> SourceError {
        SourceError::Web { url: web::show(&self.url), fault }
    }

    fn failed(&self, error: WebError) -> Failed {
        Failed { transient: error.transient, error: self.web(error.fault), pause: None }
    }

    fn silent(&self, limit: Duration) -> Failed {
        let cause = format!("no answer for {} s", limit.as_secs());
        let error = self.web(Fault::Broken { url: web::show(&self.url), cause });
        Failed { error, transient: true, pause: None }
    }

    fn invalid(&self, reason: &str) -> SourceError {
        self.web(Fault::Invalid { url: web::show(&self.url), reason: reason.to_owned() })
    }

    fn too_large(&self) -> SourceError {
        let what = format!("is larger than {} bytes", self.limits.size);
        SourceError::Limit { url: web::show(&self.url), what }
    }

    fn status(&self, answer: &Response) -> Failed {
        let status = answer.status();
        let error = SourceError::Status {
            url: web::show(&self.url),
            code: status.as_u16(),
            reason: status.canonical_reason().unwrap_or_default(),
            host: self.url.host_str().unwrap_or_default().to_owned(),
            anonymous: self.auth.is_none(),
        };
        let transient =
            status.is_server_error() || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT);
        Failed { error, transient, pause: web::retry_after(answer.headers()) }
    }
}

/// Whether an answer with this status tells what the file is now.
fn fresh(status: StatusCode) -> bool {
    status == StatusCode::NOT_MODIFIED || status == StatusCode::OK
}

/// Whether the answer goes on at `offset`.
fn continues(answer: &Response, offset: u64) -> bool {
    answer.status() == StatusCode::PARTIAL_CONTENT
        && text(answer.headers(), &CONTENT_RANGE).is_some_and(|r| r.starts_with(&format!("bytes {offset}-")))
}

fn text(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let value = headers.get(name)?.to_str().ok()?.trim();
    (!value.is_empty()).then(|| value.to_owned())
}

/// An HTTP date in seconds since 1970.
fn seconds(date: &str) -> Option<i64> {
    let time = httpdate::parse_http_date(date).ok()?;
    i64::try_from(time.duration_since(std::time::UNIX_EPOCH).ok()?.as_secs()).ok()
}

/// The `filename` of a `Content-Disposition`.
fn disposition(value: &str) -> Option<String> {
    for part in value.split(';').skip(1) {
        let Some((key, name)) = part.split_once('=') else { continue };
        if key.trim().eq_ignore_ascii_case("filename") {
            let name = name.trim();
            return safe_name(name.strip_prefix('"').and_then(|n| n.strip_suffix('"')).unwrap_or(name));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c2_05_names_from_dispositions() {
        assert_eq!(disposition("attachment; filename=\"a b.txt\"").as_deref(), Some("a b.txt"));
        assert_eq!(disposition("attachment; FileName=x").as_deref(), Some("x"));
        assert_eq!(disposition("attachment; filename=\"../../etc/passwd\"").as_deref(), Some("passwd"));
        assert_eq!(disposition("inline"), None);
        assert_eq!(disposition("attachment; filename=\"..\""), None);
    }

    #[test]
    fn a6_18_dates() {
        assert_eq!(seconds("Thu, 01 Jan 1970 00:01:00 GMT"), Some(60));
        assert_eq!(seconds("yesterday"), None);
    }
}
