//! Policies that want images to be signed, with openssl as the signer (SPEC B8.09, C8.16).
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stderr, reason = "skip reasons are collected by scripts/test")]
#![allow(missing_docs, unreachable_pub, reason = "a test program")]

#[path = "support/fake_registry/mod.rs"]
mod fake_registry;
mod support;

use std::path::PathBuf;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use fake_registry::{FakeRegistry, sha256};
use serde_json::{Value, json};
use support::Bench;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const SIMPLE_SIGNING: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
const DSSE: &str = "application/vnd.dsse.envelope.v1+json";

/// Whether openssl is there to sign.
fn signer() -> Result<(), String> {
    Command::new("openssl").arg("version").output().map(drop).map_err(|e| format!("openssl: {e}"))
}

/// A key pair of openssl.
struct Key {
    dir: tempfile::TempDir,
    algorithm: &'static str,
}

impl Key {
    fn new(algorithm: &'static str) -> Self {
        let key = Self { dir: tempfile::tempdir().unwrap(), algorithm };
        let generate: &[&str] = match algorithm {
            "RSA" => &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
            "ED25519" => &["-algorithm", "ED25519"],
            curve => &["-algorithm", "EC", "-pkeyopt", &format!("ec_paramgen_curve:{curve}")],
        };
        key.openssl(&[&["genpkey", "-out", "private.pem"], generate].concat());
        key.openssl(&["pkey", "-in", "private.pem", "-pubout", "-out", "public.pem"]);
        key
    }

    fn openssl(&self, args: &[&str]) {
        let output = Command::new("openssl").args(args).current_dir(self.dir.path()).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn public(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("public.pem")).unwrap()
    }

    /// The signature of a message, in base64.
    fn sign(&self, message: &[u8]) -> String {
        std::fs::write(self.dir.path().join("message"), message).unwrap();
        match self.algorithm {
            "ED25519" => self.openssl(&[
                "pkeyutl",
                "-sign",
                "-rawin",
                "-inkey",
                "private.pem",
                "-in",
                "message",
                "-out",
                "signature",
            ]),
            _ => self.openssl(&["dgst", "-sha256", "-sign", "private.pem", "-out", "signature", "message"]),
        }
        BASE64.encode(std::fs::read(self.dir.path().join("signature")).unwrap())
    }

    /// A layer as `cosign sign` makes it.
    fn simple(&self, image: &str, name: &str) -> Layer {
        let payload = json!({ "critical": {
            "identity": { "docker-reference": name }, "image": { "docker-manifest-digest": image },
            "type": "cosign container image signature",
        }, "optional": null });
        let bytes = payload.to_string().into_bytes();
        let signature = self.sign(&bytes);
        Layer {
            media_type: SIMPLE_SIGNING,
            annotations: json!({ "dev.cosignproject.cosign/signature": signature }),
            bytes,
        }
    }

    /// An envelope as `cosign attest` makes it.
    fn envelope(&self, image: &str, predicate_type: &str, predicate: &Value) -> Value {
        let statement = json!({
            "_type": "https://in-toto.io/Statement/v1", "predicateType": predicate_type, "predicate": predicate,
            "subject": [{ "digest": { "sha256": image.trim_start_matches("sha256:") } }],
        });
        let (kind, statement) = ("application/vnd.in-toto+json", statement.to_string());
        let signature = self.sign(format!("DSSEv1 {} {kind} {} {statement}", kind.len(), statement.len()).as_bytes());
        json!({ "payloadType": kind, "payload": BASE64.encode(statement), "signatures": [{ "sig": signature }] })
    }

    /// A bundle as `cosign sign` makes it since version 3.
    fn bundle(&self, image: &str) -> Layer {
        let envelope = self.envelope(image, "https://sigstore.dev/cosign/sign/v1", &json!({}));
        let bundle = json!({
            "mediaType": BUNDLE, "dsseEnvelope": envelope, "verificationMaterial": { "publicKey": { "hint": "" } },
        });
        Layer { media_type: BUNDLE, annotations: json!({}), bytes: bundle.to_string().into_bytes() }
    }
}

struct Layer {
    media_type: &'static str,
    annotations: Value,
    bytes: Vec<u8>,
}

/// A registry with an image of one layer.
struct World {
    registry: FakeRegistry,
    name: String,
    digest: String,
    layer: String,
}

impl World {
    fn new() -> Self {
        let registry = FakeRegistry::start();
        let name = format!("{}/base", registry.host());
        let made = Bench::new();
        made.file("f", "of the base").dockerfile("FROM scratch\nCOPY f /f\n");
        made.build(&["--push", "-t", &format!("{name}:1")]).ok();
        let (digest, layer) = {
            let state = registry.state();
            let repository = &state.repositories["base"];
            let digest = repository.tags["1"].clone();
            let manifest: Value = serde_json::from_slice(&repository.manifests[&digest].1).unwrap();
            (digest, manifest["layers"][0]["digest"].as_str().unwrap().to_owned())
        };
        Self { registry, name, digest, layer }
    }

    /// Stores an artifact under one of cosign's tags, or as what refers to the image.
    fn sign(&self, tag: Option<&str>, artifact_type: &str, layers: &[Layer]) {
        let layers: Vec<Value> = layers
            .iter()
            .map(|layer| {
                let digest = self.registry.put_blob("base", &layer.bytes);
                json!({ "mediaType": layer.media_type, "digest": digest, "size": layer.bytes.len(), "annotations": layer.annotations })
            })
            .collect();
        let config = self.registry.put_blob("base", b"{}");
        let mut manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "layers": layers,
            "config": { "mediaType": "application/vnd.oci.empty.v1+json", "digest": config, "size": 2 },
        });
        if tag.is_none() {
            let size = self.registry.state().repositories["base"].manifests[&self.digest].1.len();
            manifest["artifactType"] = artifact_type.into();
            manifest["subject"] = json!({ "mediaType": MANIFEST, "digest": self.digest, "size": size });
        }
        let tag = tag.map(|tag| format!("{}.{tag}", self.digest.replace(':', "-")));
        self.registry.put_manifest("base", tag.as_deref(), MANIFEST, manifest.to_string().as_bytes());
    }

    /// A build on the image, under the policy that allows an image if `condition` holds.
    fn bench(&self, condition: &str) -> Bench {
        let bench = Bench::new();
        bench.dockerfile(&format!("FROM {}:1\n", self.name));
        let rules = format!(
            "package docker\ndefault allow := false\nallow if input.local\nallow if {{ {condition} }}\n\
             deny_msg contains \"release images are signed\" if not allow\n\
             decision := {{\"allow\": allow, \"deny_msg\": deny_msg}}\n"
        );
        bench.file("Dockerfile.rego", rules);
        bench
    }
}

fn key_file(bench: &Bench, key: &Key) -> PathBuf {
    bench.file("keys/release.pub", key.public());
    bench.ctx().join("keys/release.pub")
}

const SIGNED: &str = "verify_image_signature(input.image, \"keys/release.pub\")";

// SPEC B8.09, C8.16: an image that is not signed by the key is refused before its layers are pulled; one that is builds.
#[test]
fn c8_16_an_unsigned_base_is_refused_before_its_layers_are_pulled() {
    need!(signer());
    for algorithm in ["P-256", "P-384", "ED25519", "RSA"] {
        let (key, other, world) = (Key::new(algorithm), Key::new(algorithm), World::new());
        let bench = world.bench(SIGNED);
        key_file(&bench, &key);
        let denied = format!(
            "source \"docker-image://{}:1\" not allowed by policy: action DENY: release images are signed",
            world.name
        );
        let refused = || {
            bench.build(&[]).fails(4, &[&denied, "hint: Dockerfile.rego says so", ">>> FROM"]);
            assert_eq!(world.registry.count("GET", &world.layer), 0, "{algorithm}: the layer was pulled");
        };
        refused();
        // By somebody else, and of something else.
        world.sign(
            Some("sig"),
            "",
            &[other.simple(&world.digest, &world.name), key.simple(&sha256(b"x"), &world.name)],
        );
        refused();
        world.sign(
            Some("sig"),
            "",
            &[other.simple(&world.digest, &world.name), key.simple(&world.digest, &world.name)],
        );
        bench.build(&["--no-cache", "-o", "type=tar,dest=image.tar"]).ok();
        assert_eq!(world.registry.count("GET", &world.layer), 1, "{algorithm}");
    }
}

// SPEC B8.09, C8.16, E3.15: signatures are found as referrers too, with a registry that lists them and with one that does not.
#[test]
fn c8_16_signatures_that_refer_to_an_image_are_found() {
    need!(signer());
    let key = Key::new("P-256");
    for (artifact_type, layer) in [
        (BUNDLE, Key::bundle as fn(&Key, &str) -> Layer),
        ("application/vnd.dev.cosign.artifact.sig.v1+json", |key, image| key.simple(image, "r.example/base")),
    ] {
        let world = World::new();
        world.registry.state().has_referrers = true;
        let bench = world.bench(SIGNED);
        key_file(&bench, &key);
        bench.build(&[]).fails(4, &["release images are signed"]);
        world.sign(None, artifact_type, &[layer(&key, &world.digest)]);
        bench.build(&[]).ok();
    }
}

// SPEC B8.09: what is attested counts only with its signature; the name a signature was made under can be asked for.
#[test]
fn b8_09_signed_attestations_are_what_the_key_says() {
    need!(signer());
    let (key, other, world) = (Key::new("P-256"), Key::new("P-256"), World::new());
    let scanned = |key: &Key, by: &str| Layer {
        media_type: DSSE,
        annotations: json!({ "predicateType": "https://example.com/scan" }),
        bytes: key
            .envelope(&world.digest, "https://example.com/scan", &json!({ "by": by, "critical": 0 }))
            .to_string()
            .into_bytes(),
    };
    world.sign(Some("att"), "", &[scanned(&other, "somebody"), scanned(&key, "ci")]);
    world.sign(Some("sig"), "", &[key.simple(&world.digest, "r.example/released")]);
    let attested = |condition: &str| {
        format!(
            "some a in image_attestations(input.image, \"keys/release.pub\"); a.predicateType == \"https://example.com/scan\"; {condition}"
        )
    };
    for (condition, allowed) in [
        (attested("a.predicate.critical == 0; a.predicate.by == \"ci\""), true),
        (attested("a.predicate.by == \"somebody\""), false),
        (
            "some s in image_signatures(input.image, \"keys/release.pub\"); s.dockerReference == \"r.example/released\"; \
             s.kind == \"self-signed\"; s.type == \"simplesigning-v1\""
                .into(),
            true,
        ),
        // An attestation is not a signature of the image.
        ("count(image_signatures(input.image, \"keys/release.pub\")) == 2".into(), false),
    ] {
        let bench = world.bench(&condition);
        key_file(&bench, &key);
        match allowed {
            true => drop(bench.build(&[]).ok()),
            false => drop(bench.build(&[]).fails(4, &["not allowed by policy"])),
        }
    }
}

// SPEC B8.09: a key can stand in the policy; what is no key is told, and nothing outside the policy's directory is one.
#[test]
fn b8_09_keys_are_files_beside_the_policy_or_in_it() {
    need!(signer());
    let (key, world) = (Key::new("P-256"), World::new());
    world.sign(Some("sig"), "", &[key.simple(&world.digest, &world.name)]);
    world.bench(&format!("verify_image_signature(input.image, `{}`)", key.public())).build(&[]).ok();
    let bench = world.bench(SIGNED);
    let said = "policy Dockerfile.rego: ";
    bench.build(&[]).fails(4, &[said, "verify_image_signature: keys/release.pub: "]);
    let path = key_file(&bench, &key);
    std::fs::copy(key.dir.path().join("private.pem"), &path).unwrap();
    bench.build(&[]).fails(4, &["verify_image_signature: keys/release.pub: it is a private key"]);
    std::fs::write(&path, "none").unwrap();
    bench.build(&[]).fails(4, &["verify_image_signature: keys/release.pub: it is not a public key in PEM format"]);
    std::fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink(key.dir.path().join("public.pem"), &path).unwrap();
    bench.build(&[]).fails(4, &["verify_image_signature: keys/release.pub: "]);
    // What buildx knows beside keys is refused by name.
    for (word, why) in [
        (
            "some s in input.image.signatures; s.isDHI",
            "certificates of Sigstore are not verified; verify_image_signature",
        ),
        ("docker_github_builder(input.image, \"moby/buildkit\")", "certificates of Sigstore are not verified"),
        ("input.git.commit", "objects of git are not read"),
        ("github_attestation(input.http, \"a/b\")", "signatures of downloads are not verified"),
    ] {
        world.bench(word).build(&[]).fails(4, &["policy Dockerfile.rego: it needs ", why]);
    }
}

// SPEC D3.26: podman's policy.json, for buildah's command line and for docker's.
#[test]
fn d3_26_images_are_held_to_a_policy_of_podman() {
    need!(signer());
    let (key, other, world) = (Key::new("P-256"), Key::new("P-256"), World::new());
    let bench = world.bench("true");
    let file = key_file(&bench, &key);
    let policy = |identity: &str| {
        let requirement = format!(
            r#"{{"type": "sigstoreSigned", "keyPath": "{}", "signedIdentity": {{"type": "{identity}"}}}}"#,
            file.display()
        );
        let text = format!(
            r#"{{"default": [{{"type": "reject"}}], "transports": {{"docker": {{"{}": [{requirement}]}}}}}}"#,
            world.registry.host()
        );
        std::fs::write(bench.path("out/policy.json"), text).unwrap();
    };
    let build = || bench.build(&["--signature-policy", "policy.json"]);
    policy("matchRepository");
    let denied = format!("source \"docker-image://{}:1\" not allowed by policy: action DENY: ", world.name);
    let unsigned = format!("{denied}it has no signature by the keys of \"{}\"", world.registry.host());
    build().fails(4, &[&unsigned, "hint: policy.json says so"]);
    world.sign(Some("sig"), "", &[other.simple(&world.digest, &world.name)]);
    build().fails(4, &[&unsigned]);
    assert_eq!(world.registry.count("GET", &world.layer), 0, "the layer was pulled");
    world.sign(Some("sig"), "", &[key.simple(&world.digest, &world.name)]);
    build().ok();
    // cosign signs repositories, no tags.
    policy("matchExact");
    build().fails(4, &["it is signed as \"", "does not accept"]);
    world.sign(Some("sig"), "", &[key.simple(&world.digest, &format!("{}:1", world.name))]);
    build().ok();
    let policy = bench.path("out/policy.json").display().to_string();
    let context = bench.ctx().display().to_string();
    bench.rbuild(&["buildah", "bud", "--signature-policy", &policy, &context]).ok();
    bench.file("Containerfile", "FROM docker.io/library/busybox\n");
    let run = bench.rbuild(&["buildah", "bud", "--signature-policy", &policy, &context]);
    // (With the exit code of that program.)
    run.fails(125, &["docker.io/library/busybox:latest\" not allowed by policy: action DENY: default rejects it"]);
    std::fs::write(&policy, r#"{"default": [{"type": "signedBy", "keyPath": "k"}]}"#).unwrap();
    build().fails(2, &["--signature-policy policy.json: default: it asks for signedBy"]);
    bench.build(&["--signature-policy", "missing.json"]).fails(2, &["--signature-policy missing.json: cannot read it"]);
}
