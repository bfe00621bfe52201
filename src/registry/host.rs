//! One registry host: its address, its scheme, its slots and what is known about its authentication.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use reqwest::Url;
use tokio::sync::Semaphore;
use tokio::time::{Duration, Instant};

use super::auth::HostAuth;
use super::transport::{SendError, Transport};
use super::{Fault, HostOptions};
use crate::base::Digest;

/// State of one registry.
pub(super) struct Host {
    /// As in image references.
    pub(super) name: String,
    options: Mutex<HostOptions>,
    /// Scheme and authority, once known.
    base: Mutex<Option<Url>>,
    probing: tokio::sync::Mutex<()>,
    /// After a 429: nobody sends anything before this moment.
    quiet_until: Mutex<Option<Instant>>,
    /// As a mirror it was of no use; only ever asked again as a registry of its own.
    dead: AtomicBool,
    pub(super) auth: HostAuth,
    /// Slots for blob transfers.
    pub(super) blobs: Semaphore,
    /// Slots for everything small, so that a manifest never waits behind layers (SPEC E2.08).
    pub(super) small: Semaphore,
    /// Repositories known to hold a blob: skips existence checks and offers mounts.
    present: Mutex<HashMap<Digest, HashSet<String>>>,
}

impl Host {
    pub(super) fn new(name: &str, options: HostOptions, parallel: usize) -> Self {
        Self {
            name: name.to_owned(),
            options: Mutex::new(options),
            base: Mutex::default(),
            probing: tokio::sync::Mutex::default(),
            quiet_until: Mutex::default(),
            dead: AtomicBool::new(false),
            auth: HostAuth::default(),
            blobs: Semaphore::new(parallel.max(1)),
            small: Semaphore::new(parallel.max(1)),
            present: Mutex::default(),
        }
    }

    pub(super) fn options(&self) -> HostOptions {
        self.options.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }

    pub(super) fn set_dead(&self) {
        self.dead.store(true, Ordering::Relaxed);
    }

    /// Accepts any certificate from now on, and plain HTTP: what is said for one output beats the configuration.
    pub(super) fn set_insecure(&self) {
        let mut options = self.options.lock().unwrap_or_else(PoisonError::into_inner);
        if !options.insecure || options.plain_http == Some(false) {
            options.insecure = true;
            options.plain_http = options.plain_http.filter(|plain| *plain);
            *self.base.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }

    /// Waits while the server wants to be left alone.
    pub(super) async fn wait_quiet(&self) {
        let until = *self.quiet_until.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(until) = until {
            tokio::time::sleep_until(until).await;
        }
    }

    /// Keeps everybody from sending for `pause`.
    pub(super) fn be_quiet(&self, pause: Duration) {
        let until = Instant::now() + pause;
        let mut quiet = self.quiet_until.lock().unwrap_or_else(PoisonError::into_inner);
        *quiet = Some(quiet.map_or(until, |old| old.max(until)));
    }

    /// `https://HOST/` or `http://HOST/` (SPEC E2.01, E2.02). Found out once and remembered.
    pub(super) async fn base(&self, transport: &Transport) -> Result<Url, SendError> {
        let known = || self.base.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(url) = known() {
            return Ok(url);
        }
        let _one_at_a_time = self.probing.lock().await;
        if let Some(url) = known() {
            return Ok(url);
        }
        let options = self.options();
        let authority = api_host(&self.name);
        let make = |scheme: &str| {
            Url::parse(&format!("{scheme}://{authority}/"))
                .map_err(|e| Fault::Setting(format!("\"{}\" is not a registry host: {e}", self.name)))
                .map_err(SendError::fatal)
        };
        let scheme = match options.plain_http {
            Some(true) => "http",
            None if is_loopback(authority) || options.insecure => {
                let mut probe = make("https")?;
                probe.set_path("/v2/");
                match transport.speaks_tls(&probe).await {
                    Ok(true) => "https",
                    Ok(false) => "http",
                    // Without a port the two schemes mean different ports.
                    Err(e) if probe.port().is_some() => return Err(e),
                    Err(SendError { fault: Fault::Unreachable { .. } | Fault::Silent { .. }, .. }) => "http",
                    Err(e) => return Err(e),
                }
            }
            _ => "https",
        };
        let url = make(scheme)?;
        *self.base.lock().unwrap_or_else(PoisonError::into_inner) = Some(url.clone());
        Ok(url)
    }

    /// Remembers that `repository` holds the blob.
    pub(super) fn note_blob(&self, digest: &Digest, repository: &str) {
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        present.entry(digest.clone()).or_default().insert(repository.to_owned());
    }

    /// Repositories known to hold the blob, sorted.
    pub(super) fn holders(&self, digest: &Digest) -> Vec<String> {
        let present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        let mut out: Vec<String> = present.get(digest).into_iter().flatten().cloned().collect();
        out.sort();
        out
    }
}

/// The host that serves the API of a registry (SPEC E2.01).
pub(super) fn api_host(name: &str) -> &str {
    if name == "docker.io" { "registry-1.docker.io" } else { name }
}

/// `host` or `host:port` of a URL, as registries are named.
pub(super) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Whether two URLs lead to the same server, so that credentials may travel from one to the other.
pub(super) fn same_origin(a: &Url, b: &Url) -> bool {
    a.scheme() == b.scheme() && a.host_str() == b.host_str() && a.port_or_known_default() == b.port_or_known_default()
}

/// Whether `host[:port]` is this machine (SPEC E2.02).
pub(super) fn is_loopback(authority: &str) -> bool {
    let host = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((v6, _)) => v6,
        None => authority.rsplit_once(':').map_or(authority, |(host, _)| host),
    };
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<Ipv4Addr>().is_ok_and(|ip| ip.is_loopback())
        || host.parse::<Ipv6Addr>().is_ok_and(|ip| ip.is_loopback())
}

/// Google's metadata service.
pub(super) const GOOGLE: &str = "metadata.google.internal";

/// Whether a cloud has its metadata service there, which gives the machine's own credentials to whoever asks.
pub(super) fn is_metadata(ip: IpAddr) -> bool {
    match ip {
        // Most clouds and Amazon's for containers, Alibaba's, Azure's second one.
        IpAddr::V4(ip) => {
            matches!(ip.octets(), [169, 254, 169 | 170, _] | [100, 100, 100, 200] | [168, 63, 129, 16])
        }
        // Amazon's, for machines and for containers, and Google's.
        IpAddr::V6(ip) => {
            matches!(ip.segments(), [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254 | 0x23] | [0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254])
                || ip.to_ipv4_mapped().is_some_and(|ip| is_metadata(IpAddr::V4(ip)))
        }
    }
}

/// Whether a URL names the metadata service of a cloud.
pub(super) fn names_metadata(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Ipv4(ip)) => is_metadata(IpAddr::V4(ip)),
        Some(url::Host::Ipv6(ip)) => is_metadata(IpAddr::V6(ip)),
        Some(url::Host::Domain(name)) => name.trim_end_matches('.') == GOOGLE,
        None => false,
    }
}

/// Whether a URL names a link-local address, or a metadata service elsewhere: nobody sends us there.
pub(super) fn is_link_local(url: &Url) -> bool {
    names_metadata(url)
        || match url.host() {
            Some(url::Host::Ipv4(ip)) => ip.is_link_local(),
            Some(url::Host::Ipv6(ip)) => {
                ip.is_unicast_link_local() || ip.to_ipv4_mapped().is_some_and(|ip| ip.is_link_local())
            }
            _ => false,
        }
}

/// A URL for messages: no user, no password, and no query, which may hold a signature.
pub(super) fn show(url: &Url) -> String {
    format!("{}://{}{}", url.scheme(), authority(url), url.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn e2_01_docker_hub_has_another_api_host() {
        assert_eq!(api_host("docker.io"), "registry-1.docker.io");
        assert_eq!(api_host("ghcr.io"), "ghcr.io");
    }

    #[test]
    fn e2_02_loopback_names() {
        for yes in ["localhost", "localhost:5000", "127.0.0.1", "127.8.0.1:80", "[::1]:5000", "LOCALHOST:1"] {
            assert!(is_loopback(yes), "{yes}");
        }
        for no in ["docker.io", "localhost.example:5000", "10.0.0.1:5000", "[fe80::1]:5000", "128.0.0.1"] {
            assert!(!is_loopback(no), "{no}");
        }
    }

    #[test]
    fn messages_show_no_secrets() {
        let url = Url::parse("https://u:p@r.example:444/v2/a?sig=secret#x").expect("valid");
        assert_eq!(show(&url), "https://r.example:444/v2/a");
    }
}
