//! Images from a registry that misbehaves on request, and from OCI layouts, into a real store.

mod http;
mod image;
mod oci_layout;
#[path = "../../../tests/support/web.rs"]
#[allow(dead_code, reason = "shared with the black-box tests")]
mod web;

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::*;
use crate::base::{Digest, Event, Events};
use crate::llb::host::ResolveMode;
use crate::oci::media_type::{Codec, DOCKER_INDEX, Family, OCI_INDEX};
use crate::oci::{Descriptor, Index, Manifest, Platform};
use crate::registry::fake_registry::FakeRegistry;
use crate::registry::{Client, ClientOptions, Credential, CredentialProvider, RetryPolicy, Wanted};
use crate::store::{SnapshotterChoice, Store, StoreOptions};

/// A store, a source over it, and the events it sent.
pub(super) struct Fixture {
    pub(super) store: Store,
    pub(super) source: ImageSource,
    pub(super) events: Arc<Mutex<Vec<Event>>>,
    pub(super) dir: tempfile::TempDir,
}

impl Fixture {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let options = StoreOptions { snapshotter: SnapshotterChoice::Native, ..StoreOptions::new(Events::none()) };
        let store = Store::open(&dir.path().join("store"), &options).expect("a store");
        let events = Arc::new(Mutex::new(Vec::new()));
        let source = source(&store, &events);
        Self { store, source, events, dir }
    }

    /// As a new process would see the same store.
    pub(super) fn again(&self) -> ImageSource {
        source(&self.store, &self.events)
    }
}

fn source(store: &Store, events: &Arc<Mutex<Vec<Event>>>) -> ImageSource {
    let retry = RetryPolicy { base: Duration::from_millis(2), ..RetryPolicy::default() };
    let client = Client::new(ClientOptions { retry, ..ClientOptions::default() }).expect("a client");
    let sink = Arc::clone(events);
    let events = Events::new(move |event| sink.lock().expect("not poisoned").push(event));
    ImageSource::new(store.clone(), client, events)
}

/// An image as bytes.
pub(super) struct Built {
    pub(super) config: Vec<u8>,
    pub(super) layers: Vec<Vec<u8>>,
    pub(super) manifest: Vec<u8>,
    pub(super) family: Family,
}

impl Built {
    pub(super) fn digest(&self) -> Digest {
        Digest::sha256(&self.manifest)
    }

    pub(super) fn descriptor(&self, platform: &str) -> Descriptor {
        let mut d = Descriptor::of_bytes(self.family.manifest(), &self.manifest);
        d.platform = Some(platform.parse().expect("valid"));
        d
    }

    pub(super) fn put(&self, registry: &FakeRegistry, repository: &str, tag: Option<&str>) {
        for blob in self.layers.iter().chain([&self.config]) {
            registry.put_blob(repository, blob);
        }
        registry.put_manifest(repository, tag, self.family.manifest(), &self.manifest);
    }
}

/// A tar with one file.
fn tar(name: &str, content: &[u8]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    builder.append_data(&mut header, name, content).expect("in memory");
    builder.into_inner().expect("in memory")
}

fn compressed(tar: &[u8], codec: Codec) -> Vec<u8> {
    match codec {
        Codec::Uncompressed => tar.to_vec(),
        Codec::Gzip => {
            let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            out.write_all(tar).expect("in memory");
            out.finish().expect("in memory")
        }
        Codec::Zstd => zstd::encode_all(tar, 1).expect("in memory"),
    }
}

/// An image with one layer per codec; `salt` makes it another image.
pub(super) fn build(salt: &str, family: Family, codecs: &[Codec]) -> Built {
    let tars: Vec<Vec<u8>> =
        codecs.iter().enumerate().map(|(n, _)| tar(&format!("{salt}-{n}"), format!("{salt} {n}").as_bytes())).collect();
    let layers: Vec<Vec<u8>> = tars.iter().zip(codecs).map(|(tar, codec)| compressed(tar, *codec)).collect();
    let diff_ids: Vec<String> = tars.iter().map(|tar| Digest::sha256(tar).to_string()).collect();
    let config = serde_json::to_vec(&serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": {"Labels": {"salt": salt}},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }))
    .expect("JSON");
    let descriptors = layers.iter().zip(codecs).map(|(l, codec)| Descriptor::of_bytes(family.layer(*codec), l));
    let manifest = Manifest {
        schema_version: 2,
        media_type: family.manifest().into(),
        artifact_type: None,
        config: Descriptor::of_bytes(family.config(), &config),
        layers: descriptors.collect(),
        subject: None,
        annotations: std::collections::BTreeMap::new(),
    };
    let manifest = crate::oci::manifest::to_json_pretty(&manifest);
    Built { config, layers, manifest, family }
}

pub(super) fn amd64() -> Platform {
    "linux/amd64".parse().expect("valid")
}

/// An index over images, as bytes with its media type.
pub(super) fn index(entries: Vec<Descriptor>, family: Family) -> (Vec<u8>, &'static str) {
    let kind = if family == Family::Oci { OCI_INDEX } else { DOCKER_INDEX };
    let index = Index { media_type: kind.into(), ..Index::new(entries) };
    (serde_json::to_vec(&index).expect("JSON"), kind)
}
