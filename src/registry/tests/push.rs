//! SPEC E3.07–E3.11, C6.17: blobs, mounts, manifests.

use std::io::{self, Read};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::fake_registry::{Action, Auth, FakeRegistry, Tokens, sha256};
use super::*;
use crate::base::{Digest, FaultKind};
use crate::oci::media_type::{OCI_INDEX, OCI_MANIFEST};

async fn push(client: &Client, target: &Reference, blob: &[u8], from: &[&str]) -> Result<PushOutcome, RegistryError> {
    let from: Vec<String> = from.iter().map(|s| (*s).to_owned()).collect();
    let source = BlobSource::bytes(blob.to_vec().into());
    client.push_blob(target, &describe(blob), &source, &from, &no_progress()).await
}

#[tokio::test]
async fn e3_07_a_blob_is_sent_once_in_one_put() {
    let registry = FakeRegistry::start();
    let (client, target) = (client(), reference(&registry, "a/b:1"));
    for length in [0, 1, 131_072, 500_001] {
        let blob = content(length);
        assert_eq!(push(&client, &target, &blob, &[]).await.expect("pushed"), PushOutcome::Uploaded);
        assert_eq!(registry.blob("a/b", &sha256(&blob)), Some(blob), "{length}");
    }
    let put = registry.requests().into_iter().find(|r| r.method == "PUT").expect("a PUT");
    assert_eq!(put.header("content-type"), Some("application/octet-stream"));
    assert!(put.target.contains("_state=a%3Db&digest=sha256%3A"), "the location's query is kept: {}", put.target);
    assert_eq!(put.header("transfer-encoding"), None, "the size is known");
    assert_eq!(registry.count("PATCH", ""), 0);

    // The same again: this client knows, another one asks.
    let blob = content(500_001);
    let before = registry.requests().len();
    assert_eq!(push(&client, &target, &blob, &[]).await.expect("pushed"), PushOutcome::Exists);
    assert_eq!(registry.requests().len(), before);
    assert_eq!(push(&super::client(), &target, &blob, &[]).await.expect("pushed"), PushOutcome::Exists);
    assert_eq!(registry.requests().len(), before + 1);
}

#[tokio::test]
async fn e3_07_blobs_are_mounted_from_other_repositories() {
    let registry = FakeRegistry::start();
    let blob = content(10_000);
    let digest = registry.put_blob("base", &blob);
    let target = reference(&registry, "a/b:1");
    assert_eq!(push(&client(), &target, &blob, &["none", "base"]).await.expect("pushed"), PushOutcome::Mounted);
    assert_eq!(registry.blob("a/b", &digest), Some(blob));
    assert_eq!(registry.count("PUT", ""), 0);
    assert!(registry.state().uploads.is_empty(), "the session of the first try was ended");
    // Nobody has it: the session that was begun instead is used.
    let blob = content(20_000);
    assert_eq!(push(&client(), &target, &blob, &["none"]).await.expect("pushed"), PushOutcome::Uploaded);
    assert!(registry.state().uploads.is_empty());
}

#[tokio::test]
async fn e3_07_a_mount_that_is_not_allowed_becomes_an_upload() {
    let registry = FakeRegistry::start();
    let blob = content(10_000);
    for code in [401, 403] {
        registry.fault("POST", "mount=", 1, Action::Status(code, vec![], String::new()));
        let target = reference(&registry, &format!("a/b{code}:1"));
        assert_eq!(push(&client(), &target, &blob, &["base"]).await.expect("pushed"), PushOutcome::Uploaded);
    }
}

#[tokio::test]
async fn e3_04_a_mount_asks_for_both_scopes() {
    let registry = FakeRegistry::start();
    registry.set_auth(Auth::Token(Tokens { anonymous_pull: false, ..Tokens::default() }));
    let blob = content(10_000);
    registry.put_blob("base", &blob);
    let (client, _) = client_with(&registry, user("secret"));
    assert_eq!(
        push(&client, &reference(&registry, "a/b:1"), &blob, &["base"]).await.expect("pushed"),
        PushOutcome::Mounted
    );
    let scopes: Vec<String> = registry
        .requests()
        .iter()
        .filter(|r| r.path() == "/token")
        .filter_map(|r| r.form().into_iter().find(|(k, _)| k == "scope").map(|(_, v)| v))
        .collect();
    assert_eq!(scopes, ["repository:a/b:pull,push", "repository:a/b:pull,push repository:base:pull"]);
}

#[tokio::test]
async fn a_second_repository_mounts_from_the_first() {
    let registry = FakeRegistry::start();
    let (client, blob) = (client(), content(10_000));
    assert_eq!(push(&client, &reference(&registry, "one:1"), &blob, &[]).await.expect("pushed"), PushOutcome::Uploaded);
    assert_eq!(push(&client, &reference(&registry, "two:1"), &blob, &[]).await.expect("pushed"), PushOutcome::Mounted);
}

#[tokio::test]
async fn e3_13_broken_uploads_start_again() {
    for (name, fault) in [
        ("half", Action::CloseAfterReading(100_000)),
        ("500", Action::Status(500, vec![], String::new())),
        ("429", Action::Status(429, vec![("Retry-After", "0".into())], String::new())),
        ("lost session", Action::Status(404, vec![], String::new())),
    ] {
        let registry = FakeRegistry::start();
        let blob = content(400_000);
        registry.fault("PUT", "/uploads/", 2, fault);
        let opened = Arc::new(AtomicUsize::new(0));
        let (counter, bytes) = (Arc::clone(&opened), blob.clone());
        let source = BlobSource::new(move || {
            counter.fetch_add(1, Ordering::SeqCst);
            Ok(Box::new(io::Cursor::new(bytes.clone())))
        });
        let target = reference(&registry, "a/b:1");
        let outcome = client().push_blob(&target, &describe(&blob), &source, &[], &no_progress()).await;
        assert_eq!(outcome.unwrap_or_else(|e| panic!("{name}: {e}")), PushOutcome::Uploaded);
        assert_eq!(registry.blob("a/b", &sha256(&blob)), Some(blob), "{name}");
        assert_eq!(opened.load(Ordering::SeqCst), 3, "{name}: the source is read again from its beginning");
    }
}

#[tokio::test]
async fn a_lost_answer_does_not_send_the_blob_twice() {
    let registry = FakeRegistry::start();
    registry.fault("PUT", "/uploads/", 1, Action::LoseAnswer);
    let outcome = push(&client(), &reference(&registry, "a/b:1"), &content(10_000), &[]).await;
    assert_eq!(outcome.expect("pushed"), PushOutcome::Exists);
    assert_eq!(registry.count("PUT", "/uploads/"), 1);
}

#[tokio::test]
async fn e3_14_refused_uploads_are_reported_and_cleaned_up() {
    let registry = FakeRegistry::start();
    let body = r#"{"errors":[{"code":"DENIED","message":"quota exceeded"}]}"#;
    registry.fault("PUT", "/uploads/", 1, Action::Status(403, vec![], body.into()));
    let target = reference(&registry, "a/b:1");
    let error = push(&client(), &target, &content(10_000), &[]).await.expect_err("refused");
    let text = error.to_string();
    assert!(
        text.starts_with(&format!("failed to push {target}: unexpected status from PUT request to http://")),
        "{text}"
    );
    assert!(text.ends_with("403 Forbidden: server message: denied: quota exceeded"), "{text}");
    assert_eq!(error.kind(), FaultKind::Auth);
    assert!(registry.state().uploads.is_empty(), "the session was ended");
    registry.fault("PUT", "/uploads/", 1, Action::Status(413, vec![], String::new()));
    let error = push(&client(), &target, &content(10_000), &[]).await.expect_err("too big");
    assert!(error.hint().is_some_and(|h| h.contains("limits the size")));
}

#[tokio::test]
async fn a_source_that_changed_is_our_own_fault() {
    let registry = FakeRegistry::start();
    let target = reference(&registry, "a/b:1");
    for (length, word) in [(9_000, "fewer"), (11_000, "more")] {
        let source = BlobSource::bytes(content(length).into());
        let error = client()
            .push_blob(&target, &describe(&content(10_000)), &source, &[], &no_progress())
            .await
            .expect_err("another length");
        assert!(error.to_string().contains(word), "{error}");
        assert_eq!(error.kind(), FaultKind::Store);
        assert_eq!(registry.count("PUT", "/uploads/"), 0, "a broken body is no request");
    }
    let source = BlobSource::new(|| -> io::Result<Box<dyn Read + Send>> { Err(io::ErrorKind::NotFound.into()) });
    let blob = content(10);
    let error = client().push_blob(&target, &describe(&blob), &source, &[], &no_progress()).await.expect_err("gone");
    assert!(error.to_string().contains("cannot read the blob to upload"), "{error}");
}

#[tokio::test]
async fn e3_07_an_upload_may_go_to_another_host_without_credentials() {
    let registry = FakeRegistry::start();
    registry.set_auth(Auth::Basic { user: "user", password: "secret" });
    let storage = FakeRegistry::start();
    storage.state().uploads.insert("elsewhere".into(), ("a/b".into(), Vec::new()));
    let (client, _) = client_with(&registry, user("secret"));
    let target = reference(&registry, "a/b:1");
    client.check_push(&target).await.expect("allowed");
    let location = format!("http://{}/v2/a/b/blobs/uploads/elsewhere?_state=a%3Db", storage.host());
    registry.fault("POST", "/uploads/", 1, Action::Status(202, vec![("Location", location)], String::new()));
    let blob = content(10_000);
    assert_eq!(push(&client, &target, &blob, &[]).await.expect("pushed"), PushOutcome::Uploaded);
    assert!(storage.requests().iter().all(|r| r.header("authorization").is_none()));
    assert_eq!(storage.blob("a/b", &sha256(&blob)), Some(blob));
}

#[tokio::test]
async fn an_upload_survives_when_it_takes_longer_than_the_stall_limit() {
    let registry = FakeRegistry::start();
    let timeouts = Timeouts { stall: Duration::from_millis(150), ..Timeouts::default() };
    let client = Client::new(ClientOptions { timeouts, ..options() }).expect("a client");
    let blob = content(500_000);
    let bytes = blob.clone();
    let source = BlobSource::new(move || Ok(Box::new(Slow(io::Cursor::new(bytes.clone())))));
    registry.fault("PUT", "/uploads/", 1, Action::Delay(Duration::from_millis(300)));
    let target = reference(&registry, "a/b:1");
    let outcome = client.push_blob(&target, &describe(&blob), &source, &[], &no_progress()).await;
    assert_eq!(outcome.expect("pushed"), PushOutcome::Uploaded);
    assert_eq!(registry.count("PUT", "/uploads/"), 1, "neither a slow source nor a slow commit is silence");
}

struct Slow(io::Cursor<Vec<u8>>);

impl Read for Slow {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        std::thread::sleep(Duration::from_millis(60));
        self.0.read(buf)
    }
}

#[tokio::test]
async fn concurrent_pushes_of_one_blob_are_one_upload() {
    let registry = FakeRegistry::start();
    let (client, target, blob) = (client(), reference(&registry, "a/b:1"), content(100_000));
    let all = futures_util::future::join_all((0..5).map(|_| push(&client, &target, &blob, &[]))).await;
    assert!(all.iter().all(|r| matches!(r, Ok(PushOutcome::Uploaded))), "{all:?}");
    assert_eq!(registry.count("PUT", "/uploads/"), 1);
}

#[tokio::test]
async fn c6_17_manifests_go_by_digest_and_by_tag() {
    let registry = FakeRegistry::start();
    let (client, target) = (client(), reference(&registry, "a/b:1"));
    let (manifest, index) = (&b"{\"schemaVersion\":2}"[..], &b"{\"manifests\":[]}"[..]);
    let digest = Digest::sha256(manifest);
    let by_digest = Reference { tag: None, ..target.clone() }.with_digest(digest.clone());
    assert_eq!(client.push_manifest(&by_digest, OCI_MANIFEST, manifest.into()).await.expect("pushed"), digest);
    client.push_manifest(&target, OCI_INDEX, index.into()).await.expect("pushed");
    let state = registry.state().repositories["a/b"].clone();
    assert_eq!(state.manifests[digest.as_str()], (OCI_MANIFEST.to_owned(), manifest.to_vec()), "exact bytes and type");
    assert_eq!(state.tags["1"], sha256(index));
    // A name that promises another digest is a mistake of ours, found before anything is sent.
    let wrong = client.push_manifest(&by_digest, OCI_MANIFEST, index.into()).await.expect_err("another digest");
    assert!(matches!(wrong.fault(), Fault::DigestMismatch { .. }), "{wrong}");
}

// SPEC E3.11
#[tokio::test]
async fn e3_11_one_request_tells_what_a_tag_means() {
    let registry = FakeRegistry::start();
    let (client, target) = (client(), reference(&registry, "a/b:1"));
    assert_eq!(client.pushed(&target).await.expect("an answer"), None);
    let digest = client.push_manifest(&target, OCI_MANIFEST, "{}".into()).await.expect("pushed");
    let before = registry.requests().len();
    assert_eq!(client.pushed(&target).await.expect("an answer"), Some(digest));
    assert_eq!(registry.requests().len(), before + 1);
    registry.fault("HEAD", "manifests/1", 1, Action::Status(403, vec![], String::new()));
    assert_eq!(client.pushed(&target).await.expect_err("refused").kind(), FaultKind::Auth);
}

#[tokio::test]
async fn check_push_leaves_nothing_behind() {
    let registry = FakeRegistry::start();
    client().check_push(&reference(&registry, "a/b:1")).await.expect("allowed");
    assert!(registry.state().uploads.is_empty());
    registry.set_auth(Auth::Basic { user: "user", password: "secret" });
    let error = client().check_push(&reference(&registry, "a/b:1")).await.expect_err("needs a password");
    assert!(error.to_string().contains("push access denied"), "{error}");
}
