//! The HTTP connections: lazily built `reqwest` clients, proxies, and what a failed request means.

use std::collections::HashMap;
use std::error::Error as _;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{NoProxy, Proxy, Request, Response, Url};
use rustls::AlertDescription;

use super::handshake::{self, HandshakeLimit, TOO_LONG};
use super::tls::HostFiles;
use super::{ClientOptions, Fault, HostOptions, host, tls};

/// Which of the lazily built clients a request needs.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Kind {
    /// Plain HTTP: pays for no TLS set-up.
    Plain,
    /// HTTPS with the usual trust.
    Verified,
    /// HTTPS with any certificate of the server; with a client certificate for this host.
    Unverified(Option<String>),
    /// HTTPS with files of the host's own.
    Host(String),
}

/// A lazily built client.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    kind: Kind,
    /// Proxies are asked, if there are any.
    proxied: bool,
    /// HTTP/2 and nothing else.
    http2: bool,
}

/// Why a request brought no answer.
#[derive(Debug)]
pub(super) struct SendError {
    pub(super) fault: Fault,
    /// Trying again may help (SPEC E3.13).
    pub(super) transient: bool,
    /// The peer answered the TLS greeting with something else.
    pub(super) not_tls: bool,
    /// The peer ended the connection before the announced end of its answer.
    pub(super) cut: bool,
    /// The pause the server asks for.
    pub(super) retry_after: Option<Duration>,
    /// What was begun with the server is lost: it has to begin anew.
    pub(super) session_lost: bool,
    /// There was a pause already.
    pub(super) immediate: bool,
}

impl SendError {
    pub(super) fn fatal(fault: Fault) -> Self {
        Self {
            fault,
            transient: false,
            not_tls: false,
            cut: false,
            retry_after: None,
            session_lost: false,
            immediate: false,
        }
    }

    pub(super) fn transient(fault: Fault) -> Self {
        Self { transient: true, ..Self::fatal(fault) }
    }

    /// The peer says nothing for as long as we wait.
    pub(super) fn silence(url: &Url, cause: String) -> Self {
        Self::transient(Fault::Silent { url: host::show(url), cause })
    }
}

/// Sends requests; follows no redirects, retries nothing, decodes nothing.
pub(super) struct Transport {
    options: ClientOptions,
    clients: Mutex<HashMap<Key, reqwest::Client>>,
    /// Hosts with certificates of their own, and those without.
    own_files: Mutex<HashMap<String, Option<Arc<HostFiles>>>>,
    /// One trust store set-up at a time.
    building: tokio::sync::Mutex<()>,
}

impl Transport {
    /// # Errors
    /// When a proxy setting is not a URL: better now than at the first request.
    pub(super) fn new(options: ClientOptions) -> Result<Self, Fault> {
        proxies(&options)?;
        Ok(Self {
            options,
            clients: Mutex::default(),
            own_files: Mutex::default(),
            building: tokio::sync::Mutex::default(),
        })
    }

    /// Sends one request and waits for the head of its answer.
    pub(super) async fn send(&self, request: Request, host: &HostOptions) -> Result<Response, SendError> {
        let url = request.url().clone();
        let client = self.client(&url, host.insecure).await.map_err(SendError::fatal)?;
        client.execute(request).await.map_err(|e| classify(&url, &e))
    }

    /// The same by HTTP/2, also where there is no TLS to agree on it.
    pub(super) async fn send_http2(&self, request: Request) -> Result<Response, SendError> {
        let url = request.url().clone();
        let client = self.build(&url, false, true).await.map_err(SendError::fatal)?;
        client.execute(request).await.map_err(|e| classify(&url, &e))
    }

    /// Whether the server at `url` speaks TLS. Carries no credentials and verifies nothing: loopback registries
    /// usually speak plain HTTP, and finding that out must not cost the set-up of a trust store.
    pub(super) async fn speaks_tls(&self, url: &Url) -> Result<bool, SendError> {
        let client = self.client(url, true).await.map_err(SendError::fatal)?;
        // Who has shaken hands and says no more speaks TLS all the same.
        match tokio::time::timeout(self.options.timeouts.stall, client.head(url.clone()).send()).await {
            Err(_) | Ok(Ok(_)) => Ok(true),
            Ok(Err(error)) => {
                let failed = classify(url, &error);
                // Refused and unreachable hosts say nothing about TLS. A server that hangs up on the greeting does.
                if failed.not_tls || (error.is_connect() && failed.transient && !error.is_timeout()) {
                    return Ok(false);
                }
                Err(failed)
            }
        }
    }

    pub(super) async fn client(&self, url: &Url, insecure: bool) -> Result<reqwest::Client, Fault> {
        self.build(url, insecure, false).await
    }

    async fn build(&self, url: &Url, insecure: bool, http2: bool) -> Result<reqwest::Client, Fault> {
        let authority = host::authority(url);
        let mut files = None;
        let kind = match url.scheme() {
            "http" => Kind::Plain,
            _ => {
                files = self.host_files(&authority)?;
                let own = files.as_ref().filter(|files| !insecure || files.identifies()).map(|_| authority.clone());
                match (insecure, own) {
                    (true, own) => Kind::Unverified(own),
                    (false, Some(own)) => Kind::Host(own),
                    (false, None) => Kind::Verified,
                }
            }
        };
        let key = Key { kind, proxied: !host::is_loopback(&authority), http2 };
        if let Some(client) = self.built(&key) {
            return Ok(client);
        }
        let _one_at_a_time = self.building.lock().await;
        if let Some(client) = self.built(&key) {
            return Ok(client);
        }
        let (options, kind) = (self.options.clone(), key.kind.clone());
        let mut config = match kind {
            // Never used for TLS, but reqwest wants one; this one costs nothing.
            Kind::Plain => tls::unverified(None)?,
            Kind::Unverified(_) => tls::unverified(files.as_deref())?,
            Kind::Verified | Kind::Host(_) => {
                tokio::task::spawn_blocking(move || tls::verified(&options.trust, files.as_deref(), &options.events))
                    .await
                    .map_err(|e| Fault::Setting(format!("cannot set up TLS: {e}")))??
            }
        };
        handshake::watch(&mut config);
        if http2 {
            config.alpn_protocols = vec![b"h2".to_vec()];
        }
        let builder = reqwest::Client::builder().tls_backend_preconfigured(config);
        let mut builder = if http2 { builder.http2_prior_knowledge() } else { builder.http1_only() }
            .redirect(Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .user_agent(&self.options.user_agent)
            .connect_timeout(self.options.timeouts.connect)
            .connector_layer(HandshakeLimit(self.options.timeouts.handshake))
            .tcp_keepalive(self.options.timeouts.keepalive)
            .pool_idle_timeout(self.options.timeouts.idle)
            .dns_resolver(std::sync::Arc::new(super::resolve::Resolver))
            .no_proxy();
        if key.proxied {
            for proxy in proxies(&self.options)? {
                builder = builder.proxy(proxy);
            }
        }
        let client = builder.build().map_err(|e| Fault::Setting(format!("cannot set up HTTP: {}", innermost(&e))))?;
        self.clients.lock().unwrap_or_else(PoisonError::into_inner).insert(key, client.clone());
        Ok(client)
    }

    fn host_files(&self, authority: &str) -> Result<Option<Arc<HostFiles>>, Fault> {
        let mut known = self.own_files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(files) = known.get(authority) {
            return Ok(files.clone());
        }
        let named = if authority == host::api_host("docker.io") { "docker.io" } else { authority };
        let own = self.options.hosts.get(authority).or_else(|| self.options.exceptions(named));
        let files = tls::host_files(&self.options.trust, authority, own)?.map(Arc::new);
        known.insert(authority.to_owned(), files.clone());
        Ok(files)
    }

    fn built(&self, key: &Key) -> Option<reqwest::Client> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }
}

fn proxies(options: &ClientOptions) -> Result<Vec<Proxy>, Fault> {
    let settings = &options.proxies;
    let no_proxy = settings.no_proxy.as_deref().and_then(NoProxy::from_string);
    let make = |name: &str, url: &Option<String>, build: fn(&str) -> reqwest::Result<Proxy>| {
        // An empty variable means "no proxy", as everywhere.
        let Some(text) = url.as_deref().filter(|u| !u.trim().is_empty()) else { return Ok(None) };
        let text = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        // The value may hold a password: it is not repeated in the message.
        let proxy =
            build(&text).map_err(|_| Fault::Setting(format!("the {name} proxy setting is not a usable proxy URL")))?;
        Ok(Some(proxy.no_proxy(no_proxy.clone())))
    };
    // The first that matches wins: `all` comes last.
    let all = [
        make("http", &settings.http, |u| Proxy::http(u))?,
        make("https", &settings.https, |u| Proxy::https(u))?,
        make("all", &settings.all, |u| Proxy::all(u))?,
    ];
    Ok(all.into_iter().flatten().collect())
}

/// The innermost cause of an error: the levels above it say the same with less detail, or repeat the URL.
fn innermost(error: &reqwest::Error) -> String {
    let mut last: &dyn std::error::Error = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

/// Tells transient failures from final ones (SPEC E3.13).
pub(super) fn classify(url: &Url, error: &reqwest::Error) -> SendError {
    let mut io_kind = None;
    let mut tls_error = None;
    let mut source = error.source();
    while let Some(e) = source {
        source = e.source();
        if let Some(tls) = e.downcast_ref::<rustls::Error>() {
            tls_error = Some(tls.clone());
        }
        // An I/O error is no link of the chain for what it wraps, and it may wrap another one.
        let mut io = e.downcast_ref::<io::Error>();
        while let Some(e) = io {
            io_kind = Some(e.kind());
            let inner = e.get_ref();
            tls_error = inner.and_then(|i| i.downcast_ref::<rustls::Error>()).cloned().or(tls_error);
            io = inner.and_then(|i| i.downcast_ref::<io::Error>());
        }
    }
    let shown = host::show(url);
    let cause = innermost(error);
    if let Some(tls) = tls_error {
        let not_tls = matches!(tls, rustls::Error::InvalidMessage(_));
        let hint = match tls {
            rustls::Error::InvalidCertificate(_) => Some(
                "add the registry's CA to the system's certificates or name it in SSL_CERT_FILE, or set `ca` or `insecure = true` for it in rbuild.toml",
            ),
            // Go's servers call a missing one bad.
            rustls::Error::AlertReceived(AlertDescription::CertificateRequired | AlertDescription::BadCertificate) => {
                Some(
                    "the server wants a client certificate that it trusts: set `keypair` or `tlsconfigdir` for it in rbuild.toml",
                )
            }
            _ if not_tls => Some(
                "the server seems to speak plain HTTP: set `http = true` for it in rbuild.toml, or registry.insecure=true for the output",
            ),
            _ => None,
        };
        let fault = Fault::Unreachable { url: shown, cause: format!("TLS: {cause}"), hint };
        return SendError { not_tls, ..SendError::fatal(fault) };
    }
    if error.is_timeout() {
        // Only what makes a connection has a deadline in there.
        let cause = if cause == TOO_LONG { TOO_LONG } else { "no connection in time" };
        return SendError::silence(url, cause.into());
    }
    if error.is_dns() {
        // EAI_AGAIN in the words of glibc and musl; unknown names stay unknown.
        let transient = cause.contains("Temporary failure") || cause.contains("Try again");
        let hint = (!transient).then_some("check the registry's name, the network and the proxy settings");
        let fault = Fault::Unreachable { url: shown, cause, hint };
        return SendError { transient, ..SendError::fatal(fault) };
    }
    if error.is_connect() {
        let transient = io_kind.is_some_and(|kind| {
            matches!(
                kind,
                io::ErrorKind::ConnectionReset
                    | io::ErrorKind::BrokenPipe
                    | io::ErrorKind::UnexpectedEof
                    | io::ErrorKind::ConnectionAborted
                    | io::ErrorKind::TimedOut
            )
        });
        let hint = match io_kind {
            Some(io::ErrorKind::ConnectionRefused) if host::is_loopback(&host::authority(url)) => {
                Some("check that the registry is running and the port is right")
            }
            // The error does not tell whose connection it was.
            Some(io::ErrorKind::ConnectionRefused) => Some(
                "check that the registry is running and the port is right; where HTTPS_PROXY, HTTP_PROXY or ALL_PROXY is set, that the proxy is",
            ),
            _ => None,
        };
        return SendError { transient, ..SendError::fatal(Fault::Unreachable { url: shown, cause, hint }) };
    }
    if error.is_builder() {
        return SendError::fatal(Fault::Invalid { url: shown, reason: cause });
    }
    let cut = io_kind == Some(io::ErrorKind::UnexpectedEof);
    SendError { cut, ..SendError::transient(Fault::Broken { url: shown, cause }) }
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Transport")
    }
}
