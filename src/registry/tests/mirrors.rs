//! SPEC E2.04: mirrors, and what happens when they are of no use.

use super::super::fake_registry::{Action, FakeRegistry, sha256};
use super::*;
use crate::base::FaultKind;
use crate::oci::media_type::OCI_MANIFEST;

/// A client for which `mirrors` come before `origin`.
fn with_mirrors(origin: &FakeRegistry, mirrors: Vec<Mirror>) -> (Client, Arc<Mutex<Vec<String>>>) {
    let (events, seen) = notices();
    let routes = vec![Route { prefix: origin.host(), mirrors, ..Route::default() }];
    (Client::new(ClientOptions { routes, events, ..options() }).expect("a client"), seen)
}

#[tokio::test]
async fn e2_04_a_mirror_is_asked_first_and_told_for_whom() {
    let (origin, mirror) = (FakeRegistry::start(), FakeRegistry::start());
    let digest = mirror.put_manifest("hub/a/b", Some("1"), OCI_MANIFEST, b"{}");
    let blob = content(50_000);
    mirror.put_blob("hub/a/b", &blob);
    let (client, _) = with_mirrors(&origin, vec![Mirror::new(format!("{}/hub", mirror.host()))]);
    let name = reference(&origin, "a/b:1");
    assert_eq!(client.resolve(&name).await.expect("there").digest.as_str(), digest);
    client.manifest(&name).await.expect("there");
    assert_eq!(client.blob(&name, &describe(&blob), Vec::new(), &no_progress()).await.expect("there"), blob);
    assert!(origin.requests().is_empty());
    let ns = format!("ns={}", origin.host().replace(':', "%3A"));
    assert!(mirror.requests().iter().all(|r| r.target.contains(&ns)), "{:?}", mirror.requests());
}

#[tokio::test]
async fn e2_04_what_mirrors_do_not_have_comes_from_the_registry() {
    let (origin, empty, broken) = (FakeRegistry::start(), FakeRegistry::start(), FakeRegistry::start());
    broken.fault("*", "/v2/", 99, Action::Status(500, vec![], String::new()));
    let gone = FakeRegistry::start().host();
    origin.put_manifest("a/b", Some("1"), OCI_MANIFEST, b"{}");
    let blob = content(50_000);
    origin.put_blob("a/b", &blob);
    let mirrors = [empty.host(), broken.host(), gone.clone()].map(Mirror::new).to_vec();
    let (client, seen) = with_mirrors(&origin, mirrors);
    let name = reference(&origin, "a/b:1");
    for _ in 0..3 {
        client.manifest(&name).await.expect("the registry has it");
    }
    assert_eq!(client.blob(&name, &describe(&blob), Vec::new(), &no_progress()).await.expect("there"), blob);
    let seen = seen.lock().expect("not poisoned").clone();
    let said = |host: &str| seen.iter().filter(|n| n.contains(&format!("without the mirror {host}"))).count();
    assert_eq!((said(&empty.host()), said(&gone)), (0, 1), "{seen:?}");
    assert!(said(&broken.host()) > 0);
    // What nobody has is not found; the registry has the last word.
    let missing = client.manifest(&reference(&origin, "a/b:2")).await.expect_err("missing");
    assert!(missing.is_not_found(), "{missing}");
}

#[tokio::test]
async fn e2_04_the_registry_goes_on_where_a_mirror_broke_off() {
    let (origin, mirror) = (FakeRegistry::start(), FakeRegistry::start());
    let blob = content(200_000);
    origin.put_blob("a/b", &blob);
    mirror.put_blob("a/b", &blob);
    mirror.fault("GET", "/blobs/", 1, Action::CutAfter(80_000));
    mirror.fault("GET", "/blobs/", 99, Action::Status(503, vec![], String::new()));
    let (client, _) = with_mirrors(&origin, vec![Mirror::new(mirror.host())]);
    let name = reference(&origin, "a/b:1");
    assert_eq!(client.blob(&name, &describe(&blob), Vec::new(), &no_progress()).await.expect("whole"), blob);
    let request = &origin.requests()[0];
    assert_eq!(request.header("range"), Some("bytes=80000-"));
}

#[tokio::test]
async fn e2_04_pushes_go_to_the_registry_itself() {
    let (origin, mirror) = (FakeRegistry::start(), FakeRegistry::start());
    let (client, _) = with_mirrors(&origin, vec![Mirror::new(mirror.host())]);
    let name = reference(&origin, "a/b:1");
    let blob = content(1000);
    let source = BlobSource::bytes(blob.clone().into());
    client.push_blob(&name, &describe(&blob), &source, &[], &no_progress()).await.expect("pushed");
    client.push_manifest(&name, OCI_MANIFEST, "{}".into()).await.expect("pushed");
    assert!(mirror.requests().is_empty());
    assert_eq!(origin.blob("a/b", &sha256(&blob)), Some(blob));
}

#[tokio::test]
async fn e2_04_digests_only_mirrors_blocked_and_moved_registries() {
    let (origin, other) = (FakeRegistry::start(), FakeRegistry::start());
    origin.put_manifest("a/b", Some("1"), OCI_MANIFEST, b"{}");
    let digests = Mirror { only: Some(Pulls::Digests), ..Mirror::new(other.host()) };
    let (client, _) = with_mirrors(&origin, vec![digests]);
    client.manifest(&reference(&origin, "a/b:1")).await.expect("there");
    assert!(other.requests().is_empty(), "tags are not asked for there");

    let name = reference(&origin, "team/app:1");
    let route = |route: Route| {
        let routes = vec![Route { prefix: format!("{}/team", origin.host()), ..route }];
        Client::new(ClientOptions { routes, ..options() }).expect("a client")
    };
    let error = route(Route { blocked: true, ..Route::default() }).manifest(&name).await.expect_err("blocked");
    assert!(error.kind() == FaultKind::Usage && error.to_string().contains("is blocked"), "{error}");
    other.put_manifest("elsewhere/app", Some("1"), OCI_MANIFEST, b"{}");
    let moved = route(Route { location: Some(format!("{}/elsewhere", other.host())), ..Route::default() });
    moved.manifest(&name).await.expect("there");
    moved.push_manifest(&name, OCI_MANIFEST, "{ }".into()).await.expect("pushed");
    assert_eq!(other.state().repositories["elsewhere/app"].manifests.len(), 2);
}
