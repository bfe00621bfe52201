//! SPEC E2.01–E2.03, E2.05, E2.07: schemes, certificates, proxies.

use std::path::{Path, PathBuf};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::super::fake_registry::{Auth, FakeRegistry};
use super::*;
use crate::base::FaultKind;
use crate::oci::media_type::OCI_MANIFEST;

pub(super) fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/tls").join(name)
}

pub(super) fn server_config() -> rustls::ServerConfig {
    let chain = CertificateDer::pem_file_iter(file("server.crt")).and_then(Iterator::collect).expect("a certificate");
    let key = PrivateKeyDer::from_pem_file(file("server.key")).expect("a key");
    rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("a key that fits")
}

pub(super) fn tls_registry() -> FakeRegistry {
    let registry = FakeRegistry::start_tls(Arc::new(server_config()));
    registry.put_manifest("a/b", Some("1"), OCI_MANIFEST, b"{}");
    registry
}

fn trusting(trust: TrustOptions) -> ClientOptions {
    ClientOptions { trust, ..options() }
}

async fn fetch(options: ClientOptions, name: &Reference) -> Result<FetchedManifest, RegistryError> {
    Client::new(options).expect("a client").manifest(name).await
}

#[tokio::test]
async fn e2_03_the_named_bundle_is_trusted_and_nothing_else() {
    let registry = tls_registry();
    let name = reference(&registry, "a/b:1");
    let trust = TrustOptions { cert_file: Some(file("ca.crt")), ..TrustOptions::default() };
    fetch(trusting(trust), &name).await.expect("trusted");
    let blob = content(200_000);
    registry.put_blob("a/b", &blob);
    let trust = TrustOptions { cert_file: Some(file("ca.crt")), ..TrustOptions::default() };
    let client = Client::new(trusting(trust)).expect("a client");
    let got = client.blob(&name, &describe(&blob), Vec::new(), &no_progress()).await;
    assert_eq!(got.expect("pulled over TLS"), blob);

    let error = fetch(options(), &name).await.expect_err("the system does not know this CA");
    assert_eq!(error.kind(), FaultKind::Network);
    assert!(error.to_string().contains("UnknownIssuer"), "{error}");
    assert!(error.hint().is_some_and(|h| h.contains("CA")), "{:?}", error.hint());
    assert!(registry.requests().iter().all(|r| r.header("authorization").is_none()));
}

#[tokio::test]
async fn e2_03_certs_d_adds_roots_for_one_host() {
    let registry = tls_registry();
    let dir = tempfile::tempdir().expect("a directory");
    let host = dir.path().join(registry.host());
    std::fs::create_dir(&host).expect("a directory");
    std::fs::copy(file("ca.crt"), host.join("ca.crt")).expect("copied");
    let trust = TrustOptions { host_dirs: vec![dir.path().into()], ..TrustOptions::default() };
    fetch(trusting(trust), &reference(&registry, "a/b:1")).await.expect("trusted");
}

#[tokio::test]
async fn e2_03_directories_of_roots_are_trusted_and_nothing_else() {
    let registry = tls_registry();
    let dir = tempfile::tempdir().expect("a directory");
    let trust = TrustOptions { cert_dirs: vec![dir.path().into()], ..TrustOptions::default() };
    std::fs::copy(file("ca.crt"), dir.path().join("one.pem")).expect("copied");
    fetch(trusting(trust), &reference(&registry, "a/b:1")).await.expect("trusted");
}

// SPEC E2.04: a mirror is a server with a section of its own: whom to trust there is said there.
#[tokio::test]
async fn e2_04_a_mirror_has_its_own_tls() {
    let mirror = tls_registry();
    let with = |hosts: std::collections::BTreeMap<String, HostOptions>| {
        let mirrors = vec![Mirror::new(mirror.host())];
        let route = Route { prefix: "r.example".into(), mirrors, ..Route::default() };
        ClientOptions { hosts, routes: vec![route], ..options() }
    };
    let name: Reference = "r.example/a/b:1".parse().expect("valid");
    let roots = HostOptions { roots: vec![file("ca.crt")], ..HostOptions::default() };
    fetch(with([(mirror.host(), roots.clone())].into()), &name).await.expect("trusted");
    let mut other = with([("r.example".to_owned(), roots)].into());
    other.retry.retries = 0;
    fetch(other, &name).await.expect_err("what is said of the registry is not said of its mirror");
}

#[tokio::test]
async fn e2_02_insecure_accepts_any_certificate_and_plain_http() {
    let insecure = |registry: &FakeRegistry| {
        let hosts = [(registry.host(), HostOptions { insecure: true, ..HostOptions::default() })].into();
        ClientOptions { hosts, ..options() }
    };
    let registry = tls_registry();
    fetch(insecure(&registry), &reference(&registry, "a/b:1")).await.expect("accepted");
    let registry = FakeRegistry::start();
    registry.put_manifest("a/b", Some("1"), OCI_MANIFEST, b"{}");
    fetch(insecure(&registry), &reference(&registry, "a/b:1")).await.expect("accepted");
}

#[tokio::test]
async fn e2_02_loopback_is_tried_with_tls_first() {
    // Plain: found out once, with a probe that carries nothing.
    let registry = FakeRegistry::start();
    registry.put_manifest("a/b", Some("1"), OCI_MANIFEST, b"{}");
    registry.set_auth(Auth::Basic { user: "user", password: "secret" });
    let (client, _) = client_with(&registry, user("secret"));
    client.manifest(&reference(&registry, "a/b:1")).await.expect("over plain HTTP");
    // TLS: the probe finds it, and the certificate is still verified.
    let registry = tls_registry();
    registry.set_auth(Auth::Basic { user: "user", password: "secret" });
    let (client, _) = client_with(&registry, user("secret"));
    let error = client.manifest(&reference(&registry, "a/b:1")).await.expect_err("not trusted");
    assert!(error.to_string().contains("https://"), "{error}");
    assert!(registry.requests().iter().all(|r| r.header("authorization").is_none()), "a password went unverified");
}

#[tokio::test]
async fn e2_02_the_scheme_can_be_fixed() {
    let registry = FakeRegistry::start();
    registry.put_manifest("a/b", Some("1"), OCI_MANIFEST, b"{}");
    let name = reference(&registry, "a/b:1");
    let with = |plain| {
        let hosts = [(registry.host(), HostOptions { plain_http: Some(plain), ..HostOptions::default() })].into();
        ClientOptions { hosts, ..options() }
    };
    fetch(with(true), &name).await.expect("plain");
    let error = fetch(with(false), &name).await.expect_err("TLS only");
    assert!(error.hint().is_some_and(|h| h.contains("plain HTTP")), "{error}: {:?}", error.hint());
    // Changed at run time, as by `registry.insecure=true` of an output.
    let client = Client::new(with(false)).expect("a client");
    client.manifest(&name).await.expect_err("TLS only");
    client.set_insecure(&registry.host());
    client.manifest(&name).await.expect("plain");
}

#[tokio::test]
async fn e2_06_proxies_are_used_where_they_should_be() {
    // Plain HTTP through a proxy arrives with the whole URL in the request line.
    let proxy = FakeRegistry::start();
    let with = |proxies: ProxyOptions| ClientOptions {
        proxies,
        hosts: [("r.example:5000".to_owned(), HostOptions { plain_http: Some(true), ..HostOptions::default() })].into(),
        ..options()
    };
    let name: Reference = "r.example:5000/a/b:1".parse().expect("valid");
    for proxies in [
        ProxyOptions { http: Some(format!("http://{}", proxy.host())), ..ProxyOptions::default() },
        ProxyOptions { http: Some(proxy.host()), https: Some(String::new()), ..ProxyOptions::default() },
        ProxyOptions { all: Some(format!("http://{}", proxy.host())), ..ProxyOptions::default() },
    ] {
        let before = proxy.requests().len();
        fetch(with(proxies), &name).await.map(|_| ()).expect_err("the fake is no proxy, but it was asked");
        assert!(proxy.requests()[before..].iter().any(|r| r.target.starts_with("http://r.example:5000/v2/a/b/")));
    }
    let before = proxy.requests().len();
    let excepted = ProxyOptions {
        http: Some(format!("http://{}", proxy.host())),
        no_proxy: Some("other.example, .example".into()),
        ..ProxyOptions::default()
    };
    let mut direct = with(excepted);
    direct.retry.retries = 0;
    fetch(direct, &name).await.map(|_| ()).expect_err("there is no such host");
    // Loopback never goes through a proxy.
    let registry = FakeRegistry::start();
    registry.put_manifest("a/b", Some("1"), OCI_MANIFEST, b"{}");
    let all = ProxyOptions { all: Some(format!("http://{}", proxy.host())), ..ProxyOptions::default() };
    fetch(with(all), &reference(&registry, "a/b:1")).await.expect("direct");
    assert_eq!(proxy.requests().len(), before);
}

#[tokio::test]
async fn e2_06_a_proxy_that_is_not_there_is_thought_of() {
    // Nobody listens where a listener was a moment ago.
    let gone = std::net::TcpListener::bind("127.0.0.1:0").and_then(|one| one.local_addr()).expect("an address");
    let proxies = ProxyOptions { https: Some(format!("http://{gone}")), ..ProxyOptions::default() };
    let mut options = ClientOptions { proxies, ..options() };
    options.retry.retries = 0;
    let name: Reference = "r.example/a/b:1".parse().expect("valid");
    let error = fetch(options, &name).await.map(|_| ()).expect_err("the proxy is gone");
    assert!(error.hint().is_some_and(|hint| hint.contains("HTTPS_PROXY")), "{error}: {:?}", error.hint());
}

// SPEC E2.06
#[test]
fn e2_06_a_bad_proxy_setting_is_said_at_once() {
    let proxies = ProxyOptions { https: Some("http://user:hunter2@[bad".into()), ..ProxyOptions::default() };
    let error = Client::new(ClientOptions { proxies, ..options() }).expect_err("not a URL");
    assert_eq!(error.kind(), FaultKind::Usage);
    assert!(error.to_string().contains("https proxy") && !error.to_string().contains("hunter2"), "{error}");
}

#[tokio::test]
async fn e2_07_the_user_agent_is_ours() {
    let registry = FakeRegistry::start();
    registry.put_manifest("a/b", Some("1"), OCI_MANIFEST, b"{}");
    client().manifest(&reference(&registry, "a/b:1")).await.expect("fetched");
    assert!(registry.requests().iter().all(|r| r.header("user-agent").is_some_and(|ua| ua.starts_with("rbuild/"))));
    assert!(
        registry.requests().iter().all(|r| r.header("accept-encoding").is_none()),
        "SPEC E3.06: nothing is decoded"
    );
}
