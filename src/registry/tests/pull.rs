//! SPEC E3.05, E3.06, E3.13, E3.18: resolve, manifests, blobs, and everything that goes wrong with them.

use std::io::Write;

use super::super::fake_registry::{Action, FakeRegistry};
use super::*;
use crate::base::{Digest, FaultKind};
use crate::oci::media_type::{OCI_INDEX, OCI_MANIFEST};

const MANIFEST: &[u8] =
    br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{},"layers":[]}"#;

fn registry_with_manifest() -> FakeRegistry {
    let registry = FakeRegistry::start();
    registry.put_manifest("a/b", Some("1"), OCI_MANIFEST, MANIFEST);
    registry
}

async fn pull(client: &Client, registry: &FakeRegistry, blob: &[u8]) -> Result<Vec<u8>, RegistryError> {
    client.blob(&reference(registry, "a/b"), &describe(blob), Vec::new(), &no_progress()).await
}

// SPEC E3.05, E4.01
#[tokio::test]
async fn e3_05_resolve_is_one_head_request() {
    let registry = registry_with_manifest();
    let found = client().resolve(&reference(&registry, "a/b:1")).await.expect("resolved");
    assert_eq!(found, Descriptor::of_bytes(OCI_MANIFEST, MANIFEST));
    assert_eq!((registry.count("HEAD", "/manifests/1"), registry.count("GET", "/v2/")), (1, 0));
    let accept = registry.requests().last().and_then(|r| r.header("accept").map(ToOwned::to_owned));
    assert!(accept.is_some_and(|a| a.contains(OCI_INDEX) && a.ends_with("*/*")), "SPEC E4.01");
}

#[tokio::test]
async fn e3_05_resolve_falls_back_to_get() {
    let registry = registry_with_manifest();
    let expected = Descriptor::of_bytes(OCI_MANIFEST, MANIFEST);
    for fault in [
        Action::Without("Docker-Content-Digest"),
        Action::Without("Content-Type"),
        Action::Status(405, vec![], String::new()),
        Action::Status(401, vec![], String::new()),
        Action::Status(403, vec![], String::new()),
    ] {
        registry.fault("HEAD", "/manifests/", 1, fault.clone());
        let found = client().resolve(&reference(&registry, "a/b:1")).await;
        assert_eq!(found.expect("resolved"), expected, "{fault:?}");
    }
}

#[tokio::test]
async fn e3_05_digest_wins_over_tag() {
    let registry = registry_with_manifest();
    let other = br#"{"schemaVersion":2,"manifests":[]}"#;
    registry.put_manifest("a/b", Some("2"), OCI_INDEX, other);
    let pinned = reference(&registry, "a/b:2").with_digest(Digest::sha256(MANIFEST));
    let fetched = client().manifest(&pinned).await.expect("fetched");
    assert_eq!(&fetched.bytes[..], MANIFEST);
    assert_eq!(registry.count("GET", "/manifests/2"), 0);
    // Without a type of its own the document is what the server says.
    let fetched = client().manifest(&reference(&registry, "a/b:2")).await.expect("fetched");
    assert_eq!(fetched.descriptor, Descriptor::of_bytes(OCI_INDEX, other));
}

#[tokio::test]
async fn a_manifest_must_have_its_digest() {
    let registry = registry_with_manifest();
    registry.fault("GET", "/manifests/", 2, Action::Corrupt);
    let by_tag = client().manifest(&reference(&registry, "a/b:1")).await.expect_err("corrupt");
    assert!(matches!(by_tag.fault(), Fault::DigestMismatch { .. }), "{by_tag}");
    let pinned = reference(&registry, "a/b").with_digest(Digest::sha256(MANIFEST));
    let by_digest = client().manifest(&pinned).await.expect_err("corrupt");
    assert!(matches!(by_digest.fault(), Fault::DigestMismatch { .. }), "{by_digest}");
    assert_eq!(by_digest.kind(), FaultKind::Remote);
}

#[tokio::test]
async fn e3_18_sha512_is_verified_too() {
    let registry = FakeRegistry::start();
    let text = "sha512:cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e";
    let mut empty = describe(b"");
    empty.digest = text.parse().expect("valid");
    registry.state().repositories.entry("a/b".into()).or_default().blobs.insert(text.into(), Vec::new());
    let repository = reference(&registry, "a/b");
    client().blob(&repository, &empty, Vec::new(), &no_progress()).await.expect("the empty blob");
    registry.state().repositories.entry("a/b".into()).or_default().blobs.insert(text.into(), b"x".to_vec());
    empty.size = 1;
    let error = client().blob(&repository, &empty, Vec::new(), &no_progress()).await.expect_err("wrong digest");
    assert!(matches!(error.fault(), Fault::DigestMismatch { .. }), "{error}");
}

#[tokio::test]
async fn e3_14_what_is_missing_is_named() {
    let registry = registry_with_manifest();
    let name = reference(&registry, "a/b:none");
    for error in [
        client().resolve(&name).await.expect_err("missing"),
        client().manifest(&name).await.map(|_| ()).expect_err("missing"),
    ] {
        let text = error.to_string();
        assert!(
            text.starts_with(&format!("failed to resolve source metadata for {name}: {name}: not found")),
            "{text}"
        );
        assert!(error.is_not_found());
        assert_eq!(error.kind(), FaultKind::Remote);
    }
    let error = pull(&client(), &registry, b"nowhere").await.expect_err("missing");
    assert!(error.is_not_found() && error.to_string().contains(Digest::sha256(b"nowhere").as_str()), "{error}");
}

#[tokio::test]
async fn e3_06_a_broken_stream_is_resumed_where_it_broke() {
    let registry = FakeRegistry::start();
    let blob = content(300_000);
    registry.put_blob("a/b", &blob);
    registry.fault("GET", "/blobs/", 1, Action::CutAfter(100_000));
    registry.fault("GET", "/blobs/", 1, Action::CutAfter(50_000));
    assert_eq!(pull(&client(), &registry, &blob).await.expect("pulled"), blob);
    let ranges: Vec<Option<String>> =
        registry.requests().iter().map(|r| r.header("range").map(ToOwned::to_owned)).collect();
    assert_eq!(ranges.len(), 3, "{ranges:?}");
    assert_eq!(ranges[0], None);
    assert_eq!(ranges[1].as_deref(), Some("bytes=100000-"));
    assert_eq!(ranges[2].as_deref(), Some("bytes=150000-"));
}

#[tokio::test]
async fn e3_06_a_server_without_ranges_is_read_from_the_start() {
    let registry = FakeRegistry::start();
    let blob = content(200_000);
    registry.put_blob("a/b", &blob);
    registry.fault("GET", "/blobs/", 1, Action::CutAfter(77_777));
    registry.fault("GET", "/blobs/", 1, Action::IgnoreRange);
    assert_eq!(pull(&client(), &registry, &blob).await.expect("pulled"), blob);
}

#[tokio::test]
async fn many_breaks_with_progress_are_survived() {
    let registry = FakeRegistry::start();
    let blob = content(100_000);
    registry.put_blob("a/b", &blob);
    // More than the policy allows without progress.
    registry.fault("GET", "/blobs/", 15, Action::CutAfter(5_000));
    assert_eq!(pull(&client(), &registry, &blob).await.expect("pulled"), blob);
}

#[tokio::test]
async fn a_truncated_blob_is_told_from_a_corrupt_one() {
    let registry = FakeRegistry::start();
    let blob = content(10_000);
    registry.put_blob("a/b", &blob);
    registry.fault("GET", "/blobs/", 1, Action::Corrupt);
    let error = pull(&client(), &registry, &blob).await.expect_err("corrupt");
    assert!(error.to_string().contains("is corrupt: expected sha256:"), "{error}");
    assert_eq!(registry.count("GET", "/blobs/"), 1, "the wrong bytes do not get better");

    // The server believes in the short length.
    registry.fault("GET", "/blobs/", 1, Action::Truncate(9_000));
    let error = pull(&client(), &registry, &blob).await.expect_err("short");
    assert!(error.to_string().contains("is truncated: expected 10000 bytes, got 9000"), "{error}");

    // The connection ends early, every time.
    registry.fault("GET", "/blobs/", 1, Action::CutAfter(8_000));
    registry.fault("GET", "/blobs/", 100, Action::CutAfter(0));
    let error = pull(&client(), &registry, &blob).await.expect_err("short");
    assert!(error.to_string().contains("is truncated: expected 10000 bytes, got 8000"), "{error}");
    assert_eq!(error.kind(), FaultKind::Remote);
}

#[tokio::test]
async fn a_blob_longer_than_announced_is_refused() {
    let registry = FakeRegistry::start();
    let blob = content(10_000);
    registry.put_blob("a/b", &blob);
    let mut descriptor = describe(&blob);
    descriptor.size = 9_999;
    let repository = reference(&registry, "a/b");
    let error = client().blob(&repository, &descriptor, Vec::new(), &no_progress()).await.expect_err("too long");
    assert!(error.to_string().contains("is too long: expected 9999 bytes, got 10000"), "{error}");
    let error = client().blob_bytes(&repository, &descriptor).await.expect_err("too long");
    assert!(error.to_string().contains("too long"), "{error}");
}

#[tokio::test]
async fn e3_13_server_faults_are_tried_again() {
    let registry = registry_with_manifest();
    for (times, action) in [
        (3, Action::Status(500, vec![], String::new())),
        (5, Action::Status(503, vec![], String::new())),
        (2, Action::Close),
        (1, Action::CutAfter(10)),
        (2, Action::Status(429, vec![("Retry-After", "0".into())], String::new())),
    ] {
        registry.fault("GET", "/manifests/", times, action.clone());
        client().manifest(&reference(&registry, "a/b:1")).await.unwrap_or_else(|e| panic!("{action:?}: {e}"));
    }
}

#[tokio::test]
async fn e3_13_patience_ends_with_the_last_error() {
    let registry = registry_with_manifest();
    registry.fault("GET", "/manifests/", 100, Action::Status(502, vec![], "<html>bad gateway".into()));
    let error = client().manifest(&reference(&registry, "a/b:1")).await.expect_err("gives up");
    assert_eq!(registry.count("GET", "/manifests/"), 6, "one attempt and five more");
    assert!(error.to_string().contains("unexpected status from GET request to http://"), "{error}");
    assert!(error.to_string().ends_with("502 Bad Gateway"), "{error}");
}

#[tokio::test]
async fn e3_13_retry_after_is_honoured() {
    let registry = registry_with_manifest();
    registry.fault("GET", "/manifests/", 1, Action::Status(429, vec![("Retry-After", "1".into())], String::new()));
    let begin = std::time::Instant::now();
    client().manifest(&reference(&registry, "a/b:1")).await.expect("at last");
    assert!(begin.elapsed() >= Duration::from_secs(1), "waited only {:?}", begin.elapsed());
}

#[tokio::test]
async fn e3_13_a_long_ban_is_not_sat_out() {
    let registry = registry_with_manifest();
    let body = r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your pull rate limit."}]}"#;
    let headers = vec![("Retry-After", "21600".into())];
    registry.fault("GET", "/manifests/", 1, Action::Status(429, headers, body.into()));
    let error = client().manifest(&reference(&registry, "a/b:1")).await.expect_err("limited");
    assert!(matches!(error.fault(), Fault::RateLimited { .. }), "{error}");
    assert!(error.to_string().contains("You have reached your pull rate limit"), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("rbuild login")), "anonymous: logging in helps");
}

#[tokio::test]
async fn retries_are_announced() {
    let registry = registry_with_manifest();
    let (events, seen) = notices();
    let client = Client::new(ClientOptions { events, ..options() }).expect("a client");
    registry.fault("GET", "/manifests/", 1, Action::Status(503, vec![], String::new()));
    client.manifest(&reference(&registry, "a/b:1")).await.expect("fetched");
    let seen = seen.lock().expect("not poisoned").clone();
    assert!(seen.iter().any(|text| text.contains("trying again") && text.contains("503")), "{seen:?}");
}

#[tokio::test]
async fn e3_06_redirects_leave_credentials_behind() {
    let registry = FakeRegistry::start();
    registry.set_auth(super::super::fake_registry::Auth::Basic { user: "user", password: "secret" });
    let storage = FakeRegistry::start();
    let blob = content(50_000);
    let digest = registry.put_blob("a/b", &blob);
    storage.put_blob("x", &blob);
    let location = format!("http://{}/storage/{digest}?X-Signature=s3cret", storage.host());
    let (client, _) = client_with(&registry, user("secret"));
    // Let it learn first that this host wants a password.
    pull(&client, &registry, &blob).await.expect("pulled");
    registry.fault("GET", "/blobs/", 2, Action::Status(307, vec![("Location", location.clone())], String::new()));
    storage.fault("GET", "/storage/", 1, Action::CutAfter(20_000));
    assert_eq!(pull(&client, &registry, &blob).await.expect("pulled"), blob);
    let stored = storage.requests();
    assert_eq!(stored.len(), 2);
    assert!(stored.iter().all(|r| r.header("authorization").is_none()), "the storage server saw credentials");
    assert_eq!(stored[1].header("range"), Some("bytes=20000-"), "resuming goes through the registry again");

    // What the storage server says is shown without the signature.
    registry.fault("GET", "/blobs/", 1, Action::Status(307, vec![("Location", location)], String::new()));
    storage.fault("GET", "/storage/", 1, Action::Status(403, vec![], "expired".into()));
    let error = pull(&client, &registry, &blob).await.expect_err("refused").to_string();
    assert!(error.contains("/storage/") && error.contains("expired") && !error.contains("s3cret"), "{error}");
}

#[tokio::test]
async fn redirects_end() {
    let registry = registry_with_manifest();
    let itself = format!("http://{}/v2/a/b/manifests/1", registry.host());
    registry.fault("GET", "/manifests/", 100, Action::Status(302, vec![("Location", itself)], String::new()));
    let error = client().manifest(&reference(&registry, "a/b:1")).await.expect_err("a loop");
    assert!(error.to_string().contains("too many redirects"), "{error}");
    registry.fault(
        "GET",
        "/blobs/",
        1,
        Action::Status(302, vec![("Location", "file:///etc/passwd".into())], String::new()),
    );
    let error = pull(&client(), &registry, b"x").await.expect_err("not http");
    assert!(error.to_string().contains("redirects to a file URL"), "{error}");
}

#[tokio::test]
async fn e3_06_foreign_layers_come_from_their_urls() {
    let registry = FakeRegistry::start();
    let elsewhere = FakeRegistry::start();
    let blob = content(5_000);
    let digest = elsewhere.put_blob("x", &blob);
    let mut descriptor = describe(&blob);
    descriptor.urls = vec![
        format!("http://{}/storage/none", elsewhere.host()),
        format!("http://{}/storage/{digest}", elsewhere.host()),
    ];
    let got = client().blob(&reference(&registry, "a/b"), &descriptor, Vec::new(), &no_progress()).await;
    assert_eq!(got.expect("pulled"), blob);
    assert_eq!(registry.count("GET", "/blobs/"), 1, "the registry is asked first");
}

#[tokio::test]
async fn unreachable_is_a_network_fault() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
    let name: Reference = format!("127.0.0.1:{port}/a:1").parse().expect("valid");
    let begin = std::time::Instant::now();
    let error =
        Client::new(ClientOptions::default()).expect("a client").resolve(&name).await.expect_err("nobody there");
    assert_eq!(error.kind(), FaultKind::Network);
    assert!(error.to_string().contains("cannot reach") && error.to_string().contains("refused"), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("running")), "{:?}", error.hint());
    assert!(begin.elapsed() < Duration::from_secs(1), "a refused connection is final");
}

#[tokio::test]
async fn silence_is_not_waited_for_for_ever() {
    let registry = FakeRegistry::start();
    let blob = content(5_000);
    registry.put_blob("a/b", &blob);
    let timeouts = Timeouts { stall: Duration::from_millis(50), ..Timeouts::default() };
    let client = Client::new(ClientOptions { timeouts, ..options() }).expect("a client");
    registry.fault("GET", "/blobs/", 1, Action::Delay(Duration::from_secs(3)));
    let begin = std::time::Instant::now();
    assert_eq!(pull(&client, &registry, &blob).await.expect("the second time"), blob);
    assert!(begin.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn e2_08_parallel_transfers_are_bounded_and_manifests_do_not_wait() {
    let registry = registry_with_manifest();
    let blobs: Vec<Vec<u8>> = (1..13).map(|n| content(10_000 * n)).collect();
    for blob in &blobs {
        registry.put_blob("a/b", blob);
    }
    let client = client();
    let tasks: Vec<_> = blobs
        .iter()
        .map(|blob| {
            let (client, name, descriptor) = (client.clone(), reference(&registry, "a/b"), describe(blob));
            tokio::spawn(async move { client.blob(&name, &descriptor, Vec::new(), &no_progress()).await })
        })
        .collect();
    client.manifest(&reference(&registry, "a/b:1")).await.expect("fetched");
    for (task, blob) in tasks.into_iter().zip(&blobs) {
        assert_eq!(&task.await.expect("no panic").expect("pulled"), blob);
    }
    assert!(registry.busiest() <= 4, "{} at once", registry.busiest());
}

#[tokio::test]
async fn identical_manifest_requests_are_sent_once() {
    let registry = registry_with_manifest();
    registry.fault("GET", "/manifests/", 1, Action::Delay(Duration::from_millis(50)));
    let client = client();
    let name = reference(&registry, "a/b:1");
    let all = futures_util::future::join_all((0..20).map(|_| client.manifest(&name))).await;
    assert!(all.iter().all(Result::is_ok));
    assert_eq!(registry.count("GET", "/manifests/"), 1);
}

#[tokio::test]
async fn a_full_disk_is_not_the_registrys_fault() {
    struct Full;
    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let registry = FakeRegistry::start();
    let blob = content(1_000_000);
    registry.put_blob("a/b", &blob);
    let got = client().blob(&reference(&registry, "a/b"), &describe(&blob), Full, &no_progress()).await;
    let error = got.err().expect("no space");
    assert_eq!(error.kind(), FaultKind::NoSpace, "{error}");
    assert_eq!(registry.count("GET", "/blobs/"), 1);
}

#[tokio::test]
async fn progress_ends_at_the_size() {
    let registry = FakeRegistry::start();
    let blob = content(100_000);
    registry.put_blob("a/b", &blob);
    registry.fault("GET", "/blobs/", 1, Action::CutAfter(30_000));
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&seen);
    let progress: Progress = Arc::new(move |n| sink.lock().expect("not poisoned").push(n));
    client().blob(&reference(&registry, "a/b"), &describe(&blob), Vec::new(), &progress).await.expect("pulled");
    let seen = seen.lock().expect("not poisoned").clone();
    assert!(seen.is_sorted(), "{seen:?}");
    assert_eq!(seen.last(), Some(&100_000));
}

/// The solver spawns these.
#[test]
fn operations_can_be_spawned() {
    fn is_send<T: Send>(_: &T) {}
    let (client, name, descriptor) = (client(), "a".parse::<Reference>().expect("valid"), describe(b""));
    is_send(&client.blob(&name, &descriptor, Vec::new(), &no_progress()));
    is_send(&client.manifest(&name));
    is_send(&client.push_blob(&name, &descriptor, &BlobSource::bytes("".into()), &[], &no_progress()));
}
