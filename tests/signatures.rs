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
    // What is asked of GitHub is refused by name.
    let bench = world.bench("github_attestation(input.http, \"a/b\")");
    bench.build(&[]).fails(4, &["policy Dockerfile.rego: it needs github_attestation: GitHub is not asked"]);
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

#[path = "support/sigstore.rs"]
mod sigstore;

use sigstore::{Instance, Made, NOW, Who};

const MAIL: &str = "release@h.example";
const ISSUER: &str = "https://accounts.example";

impl World {
    /// Stores a payload with cosign's annotations.
    fn annotate(&self, made: &Made) {
        let layer =
            Layer { media_type: SIMPLE_SIGNING, annotations: made.annotations.clone(), bytes: made.bytes.clone() };
        self.sign(Some("sig"), "", &[layer]);
    }

    /// Stores a bundle as what refers to the image.
    fn refer(&self, bundle: &Value) {
        let layer = Layer { media_type: BUNDLE, annotations: json!({}), bytes: bundle.to_string().into_bytes() };
        self.sign(None, BUNDLE, &[layer]);
    }
}

// SPEC D3.26: certificates of Fulcio, held to an issuer and a mail address, and to the log that has them.
#[test]
fn d3_26_certificates_are_held_to_a_policy_of_podman() {
    let (made, world) = (Instance::new("podman"), World::new());
    let bench = world.bench("true");
    let authorities = bench.path("out/fulcio.pem");
    std::fs::write(&authorities, made.root_pem()).unwrap();
    std::fs::write(bench.path("out/rekor.pub"), sigstore::public_pem(&made.log)).unwrap();
    let policy = |requirement: &str| {
        let text = format!(
            r#"{{"default": [{{"type": "reject"}}], "transports": {{"docker": {{"{}": [{{"type": "sigstoreSigned",
                "signedIdentity": {{"type": "matchRepository"}}, {requirement}}}]}}}}}}"#,
            world.registry.host()
        );
        std::fs::write(bench.path("out/policy.json"), text).unwrap();
    };
    let log = format!("\"rekorPublicKeyPath\": \"{}\"", bench.path("out/rekor.pub").display());
    let fulcio = |issuer: &str, mail: &str| {
        format!(
            r#""fulcio": {{"caPath": "{}", "oidcIssuer": "{issuer}", "subjectEmail": "{mail}"}}, {log}"#,
            authorities.display()
        )
    };
    let build = || bench.build(&["--signature-policy", "policy.json"]);
    policy(&fulcio(ISSUER, MAIL));
    let scope = world.registry.host().to_owned();
    build().fails(
        4,
        &[&format!("it has no signature by a certificate, which \"{scope}\" wants"), "hint: policy.json says so"],
    );
    // podman's logs of certificates are none: it asks for no signed timestamp.
    let by = made.person(&Who { logged: false, ..Who::new(MAIL, ISSUER) });
    world.annotate(&made.annotated(&by, &world.digest, &world.name));
    build().ok();
    for (issuer, mail) in [(ISSUER, "eve@h.example"), ("https://other.example", MAIL)] {
        policy(&fulcio(issuer, mail));
        let told =
            format!("it is signed by \"{MAIL}\" (issuer \"{ISSUER}\"), expected \"{mail}\" (issuer \"{issuer}\")");
        build().fails(4, &[&told]);
    }
    policy(&fulcio(ISSUER, MAIL));
    world.annotate(&made.annotated(&by, &format!("sha256:{}", "0".repeat(64)), &world.name));
    build().fails(4, &["its signatures by certificates are about another image"]);
    let expired = made.person(&Who { not_before: NOW - 900, not_after: NOW - 300, ..Who::new(MAIL, ISSUER) });
    world.annotate(&made.annotated(&expired, &world.digest, &world.name));
    build().fails(4, &[&format!("the certificate of \"{MAIL}\""), "does not hold at 2023-11-14T22:13:20Z"]);
    let foreign = Instance::new("somebody else's");
    world.annotate(&foreign.annotated(&foreign.person(&Who::new(MAIL, ISSUER)), &world.digest, &world.name));
    build().fails(4, &["its entry is in the log ", "which is not believed"]);
    // Keys, too, can be held to a log.
    need!(signer());
    let key = Key::new("P-256");
    let public = bench.path("out/release.pub");
    std::fs::write(&public, key.public()).unwrap();
    policy(&format!("\"keyPath\": \"{}\", {log}", public.display()));
    let plain = key.simple(&world.digest, &world.name);
    let signature = BASE64.decode(plain.annotations["dev.cosignproject.cosign/signature"].as_str().unwrap()).unwrap();
    let logged = made.logged(&plain.bytes, &signature, &key.public());
    world.sign(Some("sig"), "", &[plain]);
    build().fails(4, &["no log of transparency has it: there is no entry"]);
    world.annotate(&logged);
    build().ok();
    std::fs::write(&authorities, "nothing").unwrap();
    policy(&fulcio(ISSUER, MAIL));
    build().fails(2, &["it has no certificate in PEM format"]);
}

// SPEC B8.09, C8.16: policies see who signed an image by a certificate; what does not count is told before anything is pulled.
#[test]
fn c8_16_policies_see_who_signed_without_a_key() {
    let (made, world) = (Instance::new("policy"), World::new());
    world.registry.state().has_referrers = true;
    let listed = "some s in keyless_signatures(input.image, \"keys/root.json\")";
    let bench = world
        .bench(&format!("{listed}; s.signer.issuer == \"{ISSUER}\"; s.signer.subjectAlternativeName == \"{MAIL}\""));
    bench.file("keys/root.json", made.trusted_root());
    bench.build(&[]).fails(4, &["release images are signed; keyless_signatures: it has no signature by a certificate"]);
    world.refer(&made.signature(&made.person(&Who::new("eve@h.example", ISSUER)), &world.digest));
    bench.build(&[]).fails(4, &["release images are signed"]);
    let late = Instance { integrated: NOW + 3600, ..Instance::new("policy") };
    world.refer(&late.signature(&late.person(&Who::new(MAIL, ISSUER)), &world.digest));
    bench.build(&[]).fails(4, &["keyless_signatures: the certificate of", "does not hold at 2023-11-14T23:13:20Z"]);
    assert_eq!(world.registry.count("GET", &world.layer), 0, "the layer was pulled");
    world.refer(&made.signature(&made.person(&Who::new(MAIL, ISSUER)), &world.digest));
    bench.build(&[]).ok();
    // The public instance does not know this one.
    let bench = world.bench("count(keyless_signatures(input.image, \"public\")) > 0");
    bench.build(&[]).fails(4, &["keyless_signatures: its entry is in the log ", "which is not believed"]);
    let bench = world.bench("count(keyless_signatures(input.image, \"nothing.json\")) > 0");
    bench.build(&[]).fails(4, &["keyless_signatures: nothing.json: "]);
}

// SPEC B8.09: a bundle beside the policy about a download; nobody believes an instance of the test's own.
#[test]
fn b8_09_bundles_about_downloads_are_verified() {
    let made = Instance::new("download");
    let web = support::web::Web::start(|_| {
        support::web::Answer::new(200).with_body("application/octet-stream", b"the tool".to_vec())
    });
    let bench = Bench::new();
    bench.dockerfile(&format!("FROM scratch\nADD {} /tool\n", web.url("/tool")));
    bench.file(
        "Dockerfile.rego",
        "package docker\ndefault allow := false\nallow if input.local\nallow if artifact_attestation(input.http, \"tool.json\").signer\n\
         decision := {\"allow\": allow}\n",
    );
    let by = made.person(&Who::new(MAIL, ISSUER));
    let bundle = |digest: &str| made.bundle(&by, digest, "https://slsa.dev/provenance/v1", &json!({})).to_string();
    bench.file("tool.json", bundle(&sha256(b"the tool")));
    bench.build(&[]).fails(4, &["artifact_attestation: its entry is in the log ", "which is not believed"]);
    bench.file("tool.json", bundle(&sha256(b"another")));
    bench.build(&[]).fails(4, &["artifact_attestation: its signatures by certificates are about another image"]);
    bench.file("tool.json", "{}");
    bench
        .build(&[])
        .fails(4, &["artifact_attestation: tool.json has no signature by a certificate about the download"]);
}

// SPEC B5.06, B8.10: the policy of buildx has the last word about tags that need a signature, before anything of them is pulled.
#[test]
fn b8_10_the_policy_of_buildx_can_be_turned_on() {
    let (mut bench, made) = (Bench::new(), Bench::new());
    let registry = FakeRegistry::start();
    let host = registry.host();
    bench.env.push(("BUILDX_DEFAULT_POLICY".into(), "1".into()));
    let dir = bench.path("home/.config/rbuild");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("rbuild.toml"), format!("[registry.\"docker.io\"]\nmirrors = [\"{host}\"]\n")).unwrap();
    made.file("buildctl", "x").dockerfile("FROM scratch\nCOPY buildctl /usr/bin/buildctl\n");
    let push = |tag: &str| {
        let name = format!("{host}/moby/buildkit:{tag}");
        made.build(&["--push", "-t", &name, "--provenance=mode=min"]).ok();
    };
    push("latest");
    push("v0.26.0");
    // The front end is built in: its tag is no source of this build.
    bench.dockerfile("# syntax=docker/dockerfile:1\nFROM scratch\nCOPY Dockerfile /\n");
    bench.build(&[]).ok();
    let from =
        |tag: &str| bench.dockerfile(&format!("FROM scratch\nCOPY --from=moby/buildkit:{tag} /usr/bin/buildctl /\n"));
    from("latest");
    // What refers to an image is asked of its own registry, which may be out of reach.
    let denied = "not allowed by policy: action DENY: its tag needs a signature";
    for flags in [&[][..], &["--policy", "disabled=true"], &["--policy", "reset=true"]] {
        let run = bench.build(flags);
        let asked =
            run.code == 7 && run.stderr.contains("failed to list what refers to docker.io/moby/buildkit@sha256:");
        assert!(asked || (run.code == 4 && run.stderr.contains(denied)), "{}", run.stderr);
    }
    // A release from before there were signatures.
    from("v0.26.0");
    bench.build(&[]).ok();
}
