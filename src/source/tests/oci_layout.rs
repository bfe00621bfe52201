//! SPEC B1.06, C2.02: images in directories.

use std::path::{Path, PathBuf};

use super::*;
use crate::base::FaultKind;

const REF_NAME: &str = "org.opencontainers.image.ref.name";

fn write_blob(layout: &Path, bytes: &[u8]) {
    let dir = layout.join("blobs/sha256");
    std::fs::create_dir_all(&dir).expect("a directory");
    std::fs::write(dir.join(Digest::sha256(bytes).hex()), bytes).expect("written");
}

/// A layout with these images under these tags.
fn layout(dir: &Path, images: &[(&Built, Option<&str>)]) -> PathBuf {
    let path = dir.join("layout");
    let mut entries = Vec::new();
    for (built, tag) in images {
        for blob in built.layers.iter().chain([&built.config, &built.manifest]) {
            write_blob(&path, blob);
        }
        let mut entry = Descriptor::of_bytes(built.family.manifest(), &built.manifest);
        entry.annotations.extend(tag.map(|tag| (REF_NAME.to_owned(), tag.to_owned())));
        entries.push(entry);
    }
    std::fs::write(path.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("written");
    std::fs::write(path.join("index.json"), serde_json::to_vec(&Index::new(entries)).expect("JSON")).expect("written");
    path
}

#[tokio::test]
async fn c2_02_tags_digests_and_layers() {
    let fixture = Fixture::new();
    let (one, two) =
        (build("one", Family::Oci, &[Codec::Gzip, Codec::Zstd]), build("two", Family::Docker, &[Codec::Gzip]));
    let path = layout(fixture.dir.path(), &[(&one, Some("latest")), (&two, Some("docker.io/library/two:v2"))]);
    let resolve = async |suffix: &str| {
        let id = format!("oci-layout://{}{suffix}", path.display());
        fixture.source.resolve(&id, &amd64(), ResolveMode::Pull).await.map(|found| found.digest)
    };
    assert_eq!(resolve("").await.expect("latest"), one.digest());
    assert_eq!(resolve(":v2").await.expect("tagged"), two.digest());
    assert_eq!(resolve(&format!("@{}", two.digest())).await.expect("pinned"), two.digest());
    assert_eq!(resolve(&format!(":latest@{}", two.digest())).await.expect("pinned"), two.digest());
    let error = resolve(":v3").await.expect_err("no such tag").to_string();
    assert!(error.contains("no image with tag \"v3\" among 2: it has latest, v2"), "{error}");

    let layers = fixture.source.layers(&format!("oci-layout://{}", path.display()), &amd64()).await.expect("known");
    assert_eq!(layers.len(), 2);
    // Another process, which never looked at the layout, still finds the blobs.
    fixture.again().ensure_local(&layers, None).await.expect("copied");
    for layer in &one.layers {
        assert!(fixture.store.has_blob(&Digest::sha256(layer)).expect("readable").is_some());
    }
}

#[tokio::test]
async fn b1_06_a_single_image_needs_no_tag() {
    let fixture = Fixture::new();
    let one = build("one", Family::Oci, &[Codec::Gzip]);
    let path = layout(fixture.dir.path(), &[(&one, None)]);
    let id = format!("oci-layout://{}:whatever", path.display());
    let found = fixture.source.resolve(&id, &amd64(), ResolveMode::Default).await.expect("the only one");
    assert_eq!(found.digest, one.digest());
}

#[tokio::test]
async fn c2_02_an_index_inside_a_layout() {
    let fixture = Fixture::new();
    let (one, two) = (build("one", Family::Oci, &[Codec::Gzip]), build("two", Family::Oci, &[Codec::Gzip]));
    let path = layout(fixture.dir.path(), &[(&one, None), (&two, None)]);
    let (bytes, kind) = index(vec![one.descriptor("linux/arm64"), two.descriptor("linux/amd64")], Family::Oci);
    write_blob(&path, &bytes);
    let outer = Index::new(vec![Descriptor::of_bytes(kind, &bytes)]);
    std::fs::write(path.join("index.json"), serde_json::to_vec(&outer).expect("JSON")).expect("written");
    let id = format!("oci-layout://{}", path.display());
    let found = fixture.source.resolve(&id, &amd64(), ResolveMode::Default).await.expect("resolved");
    assert_eq!((found.digest, found.config.to_vec()), (Digest::sha256(&bytes), two.config));
    let wanted = "linux/s390x".parse().expect("valid");
    let error = fixture.source.resolve(&id, &wanted, ResolveMode::Default).await.expect_err("none").to_string();
    assert!(error.contains("only for linux/arm64, linux/amd64"), "{error}");
}

#[tokio::test]
async fn broken_layouts_are_named() {
    let fixture = Fixture::new();
    let one = build("one", Family::Oci, &[Codec::Gzip]);
    let path = layout(fixture.dir.path(), &[(&one, None)]);
    let id = format!("oci-layout://{}", path.display());
    let fail = async || {
        let error = fixture.source.resolve(&id, &amd64(), ResolveMode::Default).await.expect_err("broken");
        (error.kind(), error.to_string())
    };
    let layers = fixture.source.layers(&id, &amd64()).await.expect("known");

    let blob = |bytes: &[u8]| path.join("blobs/sha256").join(Digest::sha256(bytes).hex());
    std::fs::write(blob(&one.layers[0]), b"something else").expect("written");
    let error = fixture.source.ensure_local(&layers, None).await.expect_err("corrupt");
    assert!(error.to_string().contains("is corrupt"), "{error}");
    std::fs::remove_file(blob(&one.layers[0])).expect("removed");
    let error = fixture.source.ensure_local(&layers, None).await.expect_err("gone");
    assert!(error.to_string().contains("cannot read"), "{error}");

    std::fs::write(blob(&one.config), b"{}").expect("written");
    assert!(fail().await.1.contains("is corrupt"));
    std::fs::write(path.join("index.json"), "{").expect("written");
    assert!(fail().await.1.contains("index.json"));
    std::fs::write(path.join("oci-layout"), r#"{"imageLayoutVersion":"9.0"}"#).expect("written");
    assert!(fail().await.1.contains("unknown version \"9.0\""));
    std::fs::remove_file(path.join("oci-layout")).expect("removed");
    assert!(fail().await.1.contains("not an OCI layout"));
    std::fs::remove_dir_all(&path).expect("removed");
    let (kind, text) = fail().await;
    assert!(text.contains("no such directory"), "{text}");
    assert_eq!(kind, FaultKind::Input);
}
