//! Everything the client must be told, because nothing below `cli` reads the environment.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::mirrors::Route;
use super::{Anonymous, CredentialProvider};
use crate::base::Events;

/// How to build a [`super::Client`].
#[derive(Clone)]
pub struct ClientOptions {
    /// Who knows the passwords.
    pub credentials: Arc<dyn CredentialProvider>,
    /// `User-Agent` (SPEC E2.07).
    pub user_agent: String,
    /// Where notices go.
    pub events: Events,
    /// Exceptions by host name and port as in image references; `*` is for those without one of their own.
    pub hosts: BTreeMap<String, HostOptions>,
    /// Mirrors and stand-ins, by the beginning of a name (SPEC E2.04).
    pub routes: Vec<Route>,
    /// Which registries may be used at all.
    pub permitted: super::Permitted,
    /// `HTTP_PROXY` and friends (SPEC E2.06).
    pub proxies: ProxyOptions,
    /// Whom to trust (SPEC E2.03).
    pub trust: TrustOptions,
    /// How patient to be.
    pub retry: RetryPolicy,
    /// How long to wait for one answer.
    pub timeouts: Timeouts,
    /// Blob transfers at a time per host; manifests and other small requests have slots of their own (SPEC E2.08).
    pub parallel: usize,
    /// Bytes of an upload that go in one request; all of them by default (SPEC E3.08).
    pub chunk: Option<u64>,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            credentials: Arc::new(Anonymous),
            user_agent: concat!("rbuild/", env!("CARGO_PKG_VERSION")).into(),
            events: Events::none(),
            hosts: BTreeMap::new(),
            routes: Vec::new(),
            permitted: super::Permitted::default(),
            proxies: ProxyOptions::default(),
            trust: TrustOptions::default(),
            retry: RetryPolicy::default(),
            timeouts: Timeouts::default(),
            parallel: 4,
            chunk: None,
        }
    }
}

impl fmt::Debug for ClientOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientOptions").field("user_agent", &self.user_agent).field("hosts", &self.hosts).finish()
    }
}

impl ClientOptions {
    /// What is said about a host, or else about all.
    pub(super) fn exceptions(&self, host: &str) -> Option<&HostOptions> {
        self.hosts.get(host).or_else(|| self.hosts.get("*"))
    }
}

/// Exceptions for one host (SPEC E2.02).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostOptions {
    /// `Some(true)`: plain HTTP only. `Some(false)`: HTTPS only. `None`: HTTPS, and for loopback and insecure hosts
    /// HTTP where the server does not speak TLS.
    pub plain_http: Option<bool>,
    /// Accept any certificate.
    pub insecure: bool,
    /// Further roots, PEM files.
    pub roots: Vec<PathBuf>,
    /// Client certificate and its key, PEM files.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Directories in the manner of `certs.d/HOST` (SPEC E2.03).
    pub cert_dirs: Vec<PathBuf>,
}

/// Values of the proxy variables; each is a URL or `host:port`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProxyOptions {
    /// `HTTP_PROXY`.
    pub http: Option<String>,
    /// `HTTPS_PROXY`.
    pub https: Option<String>,
    /// `ALL_PROXY`, for what the others leave open.
    pub all: Option<String>,
    /// `NO_PROXY`. Loopback hosts never go through a proxy.
    pub no_proxy: Option<String>,
}

/// Where trusted certificates are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TrustOptions {
    /// `SSL_CERT_FILE`: a PEM bundle instead of the system's.
    pub cert_file: Option<PathBuf>,
    /// `SSL_CERT_DIR`: directories of PEM files instead of the system's.
    pub cert_dirs: Vec<PathBuf>,
    /// Directories in the manner of `/etc/docker/certs.d`: `HOST:PORT/*.crt` are further roots for that host, `*.cert`
    /// with `*.key` client certificates.
    pub host_dirs: Vec<PathBuf>,
}

/// Waiting times between attempts (SPEC E3.13).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The first pause; then 2, 4 and 8 times as much.
    pub base: Duration,
    /// How often to try again without any progress in between.
    pub retries: u32,
    /// A server that asks for a longer pause than this (`Retry-After`) is not waited for.
    pub patience: Duration,
    /// How often one transfer may fail in all, however much progress there was in between.
    pub breaks: u32,
    /// Try again after a silence. Who said nothing for that long will hardly answer now.
    pub after_silence: bool,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            base: Duration::from_secs(1),
            retries: 5,
            patience: Duration::from_secs(120),
            breaks: 1000,
            after_silence: true,
        }
    }
}

/// How much of a transfer of `size` bytes must get through to count as progress: a hundredth, but between 4 KiB and
/// 8 MiB. Otherwise a server that cuts each answer after a few bytes would be asked for ever.
pub(super) fn progress_of(size: u64) -> u64 {
    (size / 100).clamp(4 << 10, 8 << 20)
}

impl RetryPolicy {
    /// The pause before retry number `retry` (from 0).
    #[must_use]
    pub fn pause(&self, retry: u32) -> Duration {
        self.base * (1 << retry.min(3))
    }
}

/// Limits of waiting for a server (SPEC E2.08).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP and TLS set-up.
    pub connect: Duration,
    /// TLS set-up alone: whoever has taken a connection is there, and has no reason to be slow.
    pub handshake: Duration,
    /// A connection that nothing was sent over for so long is closed.
    pub idle: Duration,
    /// How often a silent connection is asked whether anybody is at its other end.
    pub keepalive: Duration,
    /// The longest silence during an answer or an upload.
    pub stall: Duration,
    /// The longest silence after the last byte of an upload: some registries then move the blob to its final place.
    pub commit: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(30),
            handshake: Duration::from_secs(10),
            idle: Duration::from_secs(30),
            keepalive: Duration::from_secs(30),
            stall: Duration::from_secs(60),
            commit: Duration::from_secs(600),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn e2_08_limits_are_those_that_buildkit_has() {
        let limits = Timeouts::default();
        let seconds = [limits.connect, limits.handshake, limits.idle, limits.keepalive].map(|limit| limit.as_secs());
        assert_eq!((seconds, ClientOptions::default().parallel), ([30, 10, 30, 30], 4));
    }

    #[test]
    fn e3_13_pauses_double_up_to_eight() {
        let policy = RetryPolicy::default();
        let pauses: Vec<u64> = (0..policy.retries).map(|n| policy.pause(n).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 8]);
    }
}
