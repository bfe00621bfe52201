//! SPEC E2.07, E2.08: connections, how they are made, kept and let go.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;

use super::super::fake_registry::FakeRegistry;
use super::super::fake_registry::http::{Answer, read_head};
use super::tls::{file, server_config, tls_registry};
use super::*;
use crate::base::FaultKind;
use crate::oci::media_type::OCI_MANIFEST;

/// Longer than any of these tests lasts.
const EVER: Duration = Duration::from_secs(3600);
/// Sooner than anything ends that nobody ends.
const SOON: Duration = Duration::from_millis(50);

/// Takes connections and says nothing.
fn silent() -> (String, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    (listener.local_addr().expect("an address").to_string(), listener)
}

/// What comes of asking a host for a manifest by TLS, once.
async fn asked(host: &str, timeouts: Timeouts) -> RegistryError {
    let hosts = [(host.to_owned(), HostOptions { plain_http: Some(false), ..HostOptions::default() })].into();
    let retry = RetryPolicy { retries: 0, ..RetryPolicy::default() };
    let client = Client::new(ClientOptions { hosts, retry, timeouts, ..options() }).expect("a client");
    let name: Reference = format!("{host}/a/b:1").parse().expect("valid");
    client.manifest(&name).await.expect_err("nobody answers")
}

#[tokio::test]
async fn e2_08_a_handshake_has_a_limit_of_its_own() {
    let (host, _listener) = silent();
    let error = asked(&host, Timeouts { connect: EVER, handshake: SOON, ..Timeouts::default() }).await;
    assert_eq!(error.kind(), FaultKind::Network);
    assert!(error.to_string().contains("no TLS handshake in time"), "{error}");
}

#[tokio::test]
async fn e2_08_a_connection_has_one_too() {
    let (host, _listener) = silent();
    let error = asked(&host, Timeouts { connect: SOON, handshake: EVER, ..Timeouts::default() }).await;
    assert_eq!(error.kind(), FaultKind::Network);
    assert!(error.to_string().contains("no connection in time"), "{error}");
}

#[tokio::test]
async fn e2_08_a_handshake_in_time_is_not_ended_later() {
    let registry = tls_registry();
    let trust = TrustOptions { cert_file: Some(file("ca.crt")), ..TrustOptions::default() };
    let timeouts = Timeouts { handshake: Duration::from_secs(2), ..Timeouts::default() };
    let client = Client::new(ClientOptions { trust, timeouts, ..options() }).expect("a client");
    let name = reference(&registry, "a/b:1");
    client.manifest(&name).await.expect("fetched");
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    registry.put_manifest("a/b", Some("2"), OCI_MANIFEST, b"{ }");
    client.manifest(&reference(&registry, "a/b:2")).await.expect("fetched over the same connection");
}

/// Even a server that would rather speak HTTP/2 is spoken with in HTTP/1.1, and a body is sent without asking first whether it is
/// welcome: there is no answer to wait for that may not come.
#[tokio::test]
async fn e2_08_pushes_are_http_1_1_and_wait_for_no_continue() {
    let mut config = server_config();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let registry = FakeRegistry::start_tls(Arc::new(config));
    let trust = TrustOptions { cert_file: Some(file("ca.crt")), ..TrustOptions::default() };
    let client = Client::new(ClientOptions { trust, ..options() }).expect("a client");
    let blob = content(300_000);
    let target = reference(&registry, "a/b:1");
    let source = BlobSource::bytes(blob.clone().into());
    client.push_blob(&target, &describe(&blob), &source, &[], &no_progress()).await.expect("pushed");
    assert_eq!(registry.blob("a/b", describe(&blob).digest.as_str()), Some(blob));
    let requests = registry.requests();
    assert!(requests.iter().any(|r| r.method == "PUT" || r.method == "PATCH"));
    assert!(requests.iter().all(|r| r.header("expect").is_none()));
}

/// Answers one request after the other, and tells of each which connection it came over.
fn counting() -> (String, mpsc::Receiver<(usize, TcpStream)>) {
    let (host, listener) = silent();
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        for (number, stream) in listener.incoming().flatten().enumerate() {
            let tell = tell.clone();
            thread::spawn(move || {
                let (mut stream, mut buffer) = (stream, Vec::new());
                while let Ok(Some(_)) = read_head(&mut stream, &mut buffer) {
                    let told = stream.try_clone().map(|copy| tell.send((number, copy)));
                    let answer = Answer::new(200)
                        .with_body(OCI_MANIFEST, b"{}".to_vec())
                        .with("Docker-Distribution-Api-Version", "registry/1.0, nonsense");
                    if told.is_err() || stream.write_all(&answer.to_bytes(false)).is_err() {
                        return;
                    }
                }
                let _ = stream.read(&mut [0]);
            });
        }
    });
    (host, told)
}

fn plain(host: &str, timeouts: Timeouts) -> Client {
    let hosts = [(host.to_owned(), HostOptions { plain_http: Some(true), ..HostOptions::default() })].into();
    Client::new(ClientOptions { hosts, timeouts, ..options() }).expect("a client")
}

/// The numbers of the connections that two requests come over, with a pause between them.
async fn connections_of_two(timeouts: Timeouts) -> [usize; 2] {
    let (host, told) = counting();
    let client = plain(&host, timeouts);
    let ask = async |tag: &str| {
        client.manifest(&format!("{host}/a/b:{tag}").parse().expect("valid")).await.expect("fetched");
        told.recv().expect("asked").0
    };
    let first = ask("1").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    [first, ask("2").await]
}

// SPEC E2.07: what a server says of its version changes nothing.
#[tokio::test]
async fn e2_08_idle_connections_are_used_again_and_closed_after_a_while() {
    assert_eq!(connections_of_two(Timeouts { idle: EVER, ..Timeouts::default() }).await, [0, 0]);
    assert_eq!(connections_of_two(Timeouts { idle: Duration::from_millis(1), ..Timeouts::default() }).await, [0, 1]);
}

/// The kernel's timer of the client's end of a connection: its kind, and what is left of it in hundredths of a second.
fn timer(server: &TcpStream) -> (u8, u64) {
    let client = server.peer_addr().expect("a client").port();
    let table = std::fs::read_to_string("/proc/net/tcp").expect("a table");
    let row = table
        .lines()
        .find(|row| row.split_whitespace().nth(1).is_some_and(|own| own.ends_with(&format!(":{client:04X}"))));
    let field = row.and_then(|row| row.split_whitespace().nth(5)).expect("a timer");
    let (kind, left) = field.split_once(':').expect("two numbers");
    (u8::from_str_radix(kind, 16).expect("a number"), u64::from_str_radix(left, 16).expect("a number"))
}

#[tokio::test]
async fn e2_08_silent_connections_are_asked_whether_anybody_is_there() {
    const KEEPALIVE: u8 = 2;
    let (host, told) = counting();
    let client = plain(&host, Timeouts { keepalive: Duration::from_secs(77), ..Timeouts::default() });
    client.manifest(&format!("{host}/a/b:1").parse().expect("valid")).await.expect("fetched");
    let (_, server) = told.recv().expect("asked");
    let (kind, left) = timer(&server);
    assert_eq!(kind, KEEPALIVE);
    assert!((7_000..=7_700).contains(&left), "{left}");
}
