//! HTTP for sources that are no registries: the same connections, proxies and trust, and nothing of the registry protocol.

use std::path::PathBuf;
use std::time::SystemTime;

use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Request, Response, Url};
use tokio::time::Duration;

use super::transport::{SendError, classify};
use super::{Client, Fault, HostOptions, RetryPolicy, Timeouts, TrustOptions, host};

/// Why a request brought no answer, or not all of it.
#[derive(Debug)]
pub struct WebError {
    /// What happened.
    pub fault: Fault,
    /// Trying again may help.
    pub transient: bool,
}

impl From<SendError> for WebError {
    fn from(error: SendError) -> Self {
        Self { fault: error.fault, transient: error.transient }
    }
}

impl WebError {
    /// What a broken body of an answer from `url` means.
    #[must_use]
    pub fn of_body(url: &Url, error: &reqwest::Error) -> Self {
        classify(url, error).into()
    }
}

/// Who a server has to be, and who it is told that we are. PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Whom to trust in place of the system's roots.
    pub root: Option<PathBuf>,
    /// Certificate and key of ours.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl Client {
    /// A client for the server of `url` alone, which knows it by other certificates. It shares no connection with this one.
    #[must_use]
    pub fn for_peer(&self, url: &Url, peer: &Peer) -> Self {
        let mut options = self.0.options.clone();
        if peer.root.is_some() {
            options.trust = TrustOptions { cert_file: peer.root.clone(), ..TrustOptions::default() };
        }
        let own = HostOptions { identity: peer.identity.clone(), ..HostOptions::default() };
        options.hosts.insert(host::authority(url), own);
        Self::new(options).expect("because these settings of proxies made a client before")
    }

    /// Sends one request as it is: follows no redirect, tries once, adds no authentication, decodes nothing.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn web(&self, request: Request) -> Result<Response, WebError> {
        Ok(self.0.transport.send(request, &HostOptions::default()).await?)
    }

    /// How patient this client is.
    #[must_use]
    pub fn patience(&self) -> (RetryPolicy, Timeouts) {
        (self.0.options.retry, self.0.options.timeouts)
    }
}

/// The pause that a server asks for, in seconds or until a date.
#[must_use]
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(SystemTime::now()).unwrap_or_default())
}

/// Whether credentials for `a` may be sent to `b`: same scheme, host and port.
#[must_use]
pub fn same_origin(a: &Url, b: &Url) -> bool {
    host::same_origin(a, b)
}

/// Whether a URL names a link-local address or the metadata service of a cloud: no redirect leads there.
#[must_use]
pub fn is_link_local(url: &Url) -> bool {
    host::is_link_local(url)
}

/// Whether a URL names the metadata service of a cloud, which gives the machine's own credentials to whoever asks.
#[must_use]
pub fn names_metadata(url: &Url) -> bool {
    host::names_metadata(url)
}

/// A URL for messages: no user, no password, and no query, which may hold a signature.
#[must_use]
pub fn show(url: &Url) -> String {
    host::show(url)
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;

    #[test]
    fn e3_13_retry_after_in_both_forms() {
        let header = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_str(text).expect("valid"));
            retry_after(&headers)
        };
        assert_eq!(header("7"), Some(Duration::from_secs(7)));
        let date = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(30));
        assert!(header(&date).is_some_and(|d| d > Duration::from_secs(25) && d <= Duration::from_secs(30)));
        assert_eq!(header("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        assert_eq!(header("soon"), None);
    }
}
