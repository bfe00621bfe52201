//! SPEC C2.01, B2.24, E3.05: what a name means, and when the registry is asked.

use super::*;
use crate::base::FaultKind;
use crate::llb::op::SourceOp;
use crate::registry::fake_registry::Action;

fn id(registry: &FakeRegistry, name: &str) -> String {
    format!("docker-image://{}/{name}", registry.host())
}

fn simple(salt: &str) -> Built {
    build(salt, Family::Oci, &[Codec::Gzip, Codec::Zstd])
}

#[tokio::test]
async fn both_families_and_all_codecs_resolve() {
    let registry = FakeRegistry::start();
    let fixture = Fixture::new();
    for (salt, family) in [("one", Family::Oci), ("two", Family::Docker)] {
        let built = build(salt, family, &[Codec::Gzip, Codec::Zstd, Codec::Uncompressed]);
        built.put(&registry, "a", Some(salt));
        let name = id(&registry, &format!("a:{salt}"));
        let found = fixture.source.resolve(&name, &amd64(), ResolveMode::Pull).await.expect("resolved");
        assert_eq!((found.digest, found.config.to_vec()), (built.digest(), built.config.clone()));
        let layers = fixture.source.layers(&name, &amd64()).await.expect("known");
        assert_eq!(layers.len(), 3);
    }
    assert_eq!(registry.count("GET", "/blobs/"), 2, "configs only: no layer was read");
}

#[tokio::test]
async fn c2_01_an_index_gives_the_image_for_the_platform() {
    let registry = FakeRegistry::start();
    let fixture = Fixture::new();
    for (tag, family) in [("1", Family::Oci), ("2", Family::Docker)] {
        let name = id(&registry, &format!("a:{tag}"));
        let (one, two) = (build("one", family, &[Codec::Gzip]), build("two", family, &[Codec::Gzip]));
        one.put(&registry, "a", None);
        two.put(&registry, "a", None);
        let (bytes, kind) = index(vec![one.descriptor("linux/arm64"), two.descriptor("linux/amd64")], family);
        registry.put_manifest("a", Some(tag), kind, &bytes);
        let found = fixture.source.resolve(&name, &amd64(), ResolveMode::Pull).await.expect("resolved");
        assert_eq!(found.digest, Digest::sha256(&bytes), "the name means the index");
        assert_eq!(found.config.to_vec(), two.config);
        let wanted = "linux/s390x".parse().expect("valid");
        let error = fixture.source.resolve(&name, &wanted, ResolveMode::Pull).await.expect_err("none");
        assert!(error.to_string().ends_with("no image for platform linux/s390x, only for linux/arm64, linux/amd64"));
        assert_eq!(error.kind(), FaultKind::Input);
    }
}

#[tokio::test]
async fn c2_01_resolve_modes() {
    let registry = FakeRegistry::start();
    let fixture = Fixture::new();
    let (old, new) = (simple("old"), simple("new"));
    let name = id(&registry, "a:1");
    let resolve = async |mode| fixture.again().resolve(&name, &amd64(), mode).await.map(|found| found.digest);
    let error = resolve(ResolveMode::Local).await.expect_err("nothing here yet");
    assert!(error.to_string().contains("not in the local store"), "{error}");
    assert!(registry.requests().is_empty());

    old.put(&registry, "a", Some("1"));
    assert_eq!(resolve(ResolveMode::Default).await.expect("pulled"), old.digest());
    let before = registry.requests().len();
    assert_eq!(resolve(ResolveMode::Default).await.expect("remembered"), old.digest());
    assert_eq!(resolve(ResolveMode::Local).await.expect("remembered"), old.digest());
    assert_eq!(registry.requests().len(), before, "the registry was asked");

    new.put(&registry, "a", Some("1"));
    assert_eq!(resolve(ResolveMode::Default).await.expect("remembered"), old.digest());
    assert_eq!(resolve(ResolveMode::Pull).await.expect("pulled"), new.digest());
    assert_eq!(resolve(ResolveMode::Default).await.expect("remembered"), new.digest());

    // Unchanged: a HEAD request and nothing else.
    let before = registry.requests().len();
    assert_eq!(resolve(ResolveMode::Pull).await.expect("the same"), new.digest());
    let since: Vec<_> = registry.requests()[before..].iter().map(|r| r.method.clone()).collect();
    assert_eq!(since, ["HEAD"], "rate limits count GET");

    // An unreachable registry fails a pull, and only that.
    drop(registry);
    assert_eq!(resolve(ResolveMode::Pull).await.expect_err("unreachable").kind(), FaultKind::Network);
    assert_eq!(resolve(ResolveMode::Default).await.expect("remembered"), new.digest());
}

#[tokio::test]
async fn a_tag_means_one_thing_in_one_build() {
    let registry = FakeRegistry::start();
    let fixture = Fixture::new();
    let (old, new) = (simple("old"), simple("new"));
    old.put(&registry, "a", Some("1"));
    let resolve = async || fixture.source.resolve(&id(&registry, "a:1"), &amd64(), ResolveMode::Pull).await;
    assert_eq!(resolve().await.expect("pulled").digest, old.digest());
    new.put(&registry, "a", Some("1"));
    let before = registry.requests().len();
    assert_eq!(resolve().await.expect("known").digest, old.digest());
    assert_eq!(registry.requests().len(), before, "every stage asks again");
}

#[tokio::test]
async fn an_image_of_the_store_comes_before_the_registry() {
    let registry = FakeRegistry::start();
    let fixture = Fixture::new();
    let (ours, theirs) = (simple("ours"), simple("theirs"));
    theirs.put(&registry, "a", Some("1"));
    let name: crate::oci::Reference = format!("{}/a:1", registry.host()).parse().expect("valid");
    for blob in ours.layers.iter().chain([&ours.config, &ours.manifest]) {
        fixture.store.put_blob(blob).expect("stored");
    }
    let descriptor = Descriptor::of_bytes(ours.family.manifest(), &ours.manifest);
    fixture.store.tag_image(&name, &descriptor).expect("tagged");
    let resolve = async |mode| fixture.source.resolve(&id(&registry, "a:1"), &amd64(), mode).await.map(|f| f.digest);
    assert_eq!(resolve(ResolveMode::Default).await.expect("here"), ours.digest());
    assert_eq!(resolve(ResolveMode::Local).await.expect("here"), ours.digest());
    assert!(registry.requests().is_empty());
    let layers = fixture.source.layers(&id(&registry, "a:1"), &amd64()).await.expect("known");
    fixture.source.ensure_local(&layers, None).await.expect("all blobs are here");
    assert_eq!(resolve(ResolveMode::Pull).await.expect("there"), theirs.digest());
}

#[tokio::test]
async fn digests_are_not_asked_for_twice() {
    let registry = FakeRegistry::start();
    let fixture = Fixture::new();
    let built = simple("x");
    built.put(&registry, "a", None);
    let name = id(&registry, &format!("a@{}", built.digest()));
    fixture.source.resolve(&name, &amd64(), ResolveMode::Default).await.expect("pulled");
    let before = registry.requests().len();
    for mode in [ResolveMode::Pull, ResolveMode::Default, ResolveMode::Local] {
        let found = fixture.again().resolve(&name, &amd64(), mode).await.expect("content under a digest cannot change");
        assert_eq!(found.digest, built.digest());
    }
    assert_eq!(registry.requests().len(), before);
    let absent = id(&registry, &format!("a@{}", Digest::sha256(b"absent")));
    let error = fixture.source.resolve(&absent, &amd64(), ResolveMode::Default).await.expect_err("absent");
    assert!(error.to_string().contains("not found"), "{error}");
}

#[tokio::test]
async fn layers_are_downloaded_once_and_in_parallel() {
    let registry = FakeRegistry::start();
    let fixture = Fixture::new();
    let built = build("x", Family::Oci, &[Codec::Gzip; 8]);
    built.put(&registry, "a", Some("1"));
    let layers = fixture.source.layers(&id(&registry, "a:1"), &amd64()).await.expect("known");
    let vertex = Digest::sha256(b"vertex");
    registry.fault("GET", "/blobs/", 2, Action::CutAfter(40));
    // Two vertices want the same.
    let both = tokio::join!(
        fixture.source.ensure_local(&layers, Some(&vertex)),
        fixture.source.ensure_local(&layers[..4], None)
    );
    both.0.expect("downloaded");
    both.1.expect("downloaded");
    for layer in &built.layers {
        assert_eq!(fixture.store.has_blob(&Digest::sha256(layer)).expect("readable"), Some(layer.len() as u64));
    }
    assert_eq!(registry.count("GET", "/blobs/"), 1 + 8 + 2, "a config, eight layers, two of them in two pieces");
    assert!(registry.busiest() > 1, "one after the other");
    assert!(fixture.store.blobs_needed(&layers).expect("readable").is_empty());
    fixture.source.ensure_local(&layers, None).await.expect("nothing to do");

    let events = fixture.events.lock().expect("not poisoned").clone();
    let done = events.iter().filter(|e| {
        matches!(e, Event::Progress { id, done: true, current, total, .. } if *id == vertex && Some(*current) == *total)
    });
    assert!(done.count() >= 4, "each download of the vertex ends with a done item: {events:?}");
}

#[tokio::test]
async fn a_corrupt_layer_never_enters_the_store() {
    let registry = FakeRegistry::start();
    let fixture = Fixture::new();
    let built = build("x", Family::Oci, &[Codec::Gzip]);
    built.put(&registry, "a", Some("1"));
    let layers = fixture.source.layers(&id(&registry, "a:1"), &amd64()).await.expect("known");
    let digest = Digest::sha256(&built.layers[0]);
    for (fault, word) in [(Action::Corrupt, "is corrupt"), (Action::Truncate(20), "is truncated")] {
        registry.fault("GET", "/blobs/", 1, fault);
        let error = fixture.source.ensure_local(&layers, None).await.expect_err("refused");
        assert!(error.to_string().contains(word) && error.to_string().contains(digest.as_str()), "{error}");
        assert_eq!(error.kind(), FaultKind::Remote);
        assert_eq!(fixture.store.has_blob(&digest).expect("readable"), None);
    }
    fixture.source.ensure_local(&layers, None).await.expect("the next time all is well");
}

#[tokio::test]
async fn a_layer_is_fetched_from_whichever_repository_has_it() {
    let (one, two) = (FakeRegistry::start(), FakeRegistry::start());
    let fixture = Fixture::new();
    let built = simple("x");
    built.put(&one, "a", Some("1"));
    built.put(&two, "b", Some("1"));
    let layers = fixture.source.layers(&id(&one, "a:1"), &amd64()).await.expect("known");
    assert_eq!(fixture.source.layers(&id(&two, "b:1"), &amd64()).await.expect("known"), layers, "the same layers");
    drop(one);
    fixture.source.ensure_local(&layers, None).await.expect("from the other one");
}

#[tokio::test]
async fn c2_01_checksum_and_layer_limit() {
    let registry = FakeRegistry::start();
    let fixture = Fixture::new();
    let built = simple("x");
    built.put(&registry, "a", Some("1"));
    let op = |attrs: &[(&str, String)]| SourceOp {
        identifier: id(&registry, "a:1"),
        attrs: attrs.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect(),
    };
    let good = op(&[("image.checksum", built.digest().to_string()), ("image.layerlimit", "1".into())]);
    assert_eq!(fixture.source.resolve_op(&good, &amd64()).await.expect("fits").digest, built.digest());
    assert_eq!(fixture.source.layers_op(&good, &amd64()).await.expect("fits").len(), 1);
    let bad = op(&[("image.checksum", Digest::sha256(b"other").to_string())]);
    for error in [
        fixture.source.resolve_op(&bad, &amd64()).await.map(|_| ()).expect_err("another digest"),
        fixture.source.layers_op(&bad, &amd64()).await.map(|_| ()).expect_err("another digest"),
    ] {
        assert!(error.to_string().contains("does not match expected checksum"), "{error}");
    }
}

// SPEC E4.01
#[tokio::test]
async fn what_is_not_an_image_is_refused() {
    let registry = FakeRegistry::start();
    let fixture = Fixture::new();
    let d = |kind: &str| format!(r#"{{"mediaType":"{kind}","digest":"{}","size":2}}"#, Digest::sha256(b"{}"));
    let chart = format!(
        r#"{{"schemaVersion":2,"config":{},"layers":[{}]}}"#,
        d("application/vnd.cncf.helm.config.v1+json"),
        d("application/vnd.cncf.helm.chart.content.v1.tar+gzip")
    );
    registry.put_manifest("a", Some("chart"), Family::Oci.manifest(), chart.as_bytes());
    registry.put_manifest(
        "a",
        Some("old"),
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
        br#"{"schemaVersion":1}"#,
    );
    registry.put_manifest("a", Some("html"), "text/html", b"<html>");
    for (tag, word) in
        [("chart", "not a container image"), ("old", "no longer supported"), ("html", "invalid manifest")]
    {
        let name = id(&registry, &format!("a:{tag}"));
        let error = fixture.source.resolve(&name, &amd64(), ResolveMode::Default).await.expect_err("refused");
        assert!(error.to_string().contains(word), "{error}");
        assert_eq!(error.kind(), FaultKind::Remote);
    }
    for bad in ["docker-image://UPPER", "git://x", ""] {
        let error = fixture.source.resolve(bad, &amd64(), ResolveMode::Default).await.expect_err("no identifier");
        assert!(error.to_string().starts_with("invalid image source"), "{error}");
    }
}

#[test]
fn operations_can_be_spawned() {
    fn is_send<T: Send>(_: &T) {}
    let fixture = Fixture::new();
    let platform = amd64();
    is_send(&fixture.source.resolve("docker-image://a", &platform, ResolveMode::Default));
    is_send(&fixture.source.layers("docker-image://a", &platform));
    is_send(&fixture.source.ensure_local(&[], None));
}
