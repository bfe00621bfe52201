//! `imagetools`: images looked at and put together where they are, in registries and layouts.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stderr, reason = "skip reasons are collected by scripts/test")]
#![allow(missing_docs, unreachable_pub, reason = "a test program")]

#[path = "support/fake_registry/mod.rs"]
mod fake_registry;
mod support;

use fake_registry::{FakeRegistry, sha256};
use serde_json::{Value, json};
use support::Bench;
use support::registry::Registry;

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// Two images for two platforms, as `one:amd64` and `two:arm64` of a registry.
fn two(bench: &Bench, host: &str) -> (String, String) {
    bench
        .file("f", "payload")
        .dockerfile("FROM scratch\nARG TARGETARCH\nENV ARCH=$TARGETARCH\nLABEL os=mine\nCOPY f /f\n");
    let name = |repository: &str, arch: &str| format!("{host}/{repository}:{arch}");
    for (repository, arch) in [("one", "amd64"), ("two", "arm64")] {
        let (platform, tag) = (format!("--platform=linux/{arch}"), name(repository, arch));
        bench.build(&["--provenance=false", &platform, "-t", &tag, "--push"]).ok();
    }
    (name("one", "amd64"), name("two", "arm64"))
}

fn digest_of(bench: &Bench, name: &str) -> String {
    bench.rbuild(&["imagetools", "inspect", "--format", "{{.Manifest.Digest}}", name]).ok().stdout.trim().to_owned()
}

// SPEC B8.01, E3.17
#[test]
fn b8_01_images_of_several_repositories_become_one_for_several_platforms() {
    let registry = need!(Registry::start());
    let bench = Bench::new();
    let (amd, arm) = two(&bench, &registry.host);
    let (app, other) = (format!("{}/app:1", registry.host), format!("{}/app:latest", registry.host));
    let metadata = bench.path("metadata.json");
    let made = bench.rbuild(&[
        "buildx",
        "imagetools",
        "create",
        "--progress=plain",
        "-t",
        &app,
        "-t",
        &other,
        "--metadata-file",
        metadata.to_str().unwrap(),
        "--annotation",
        "index:org.example.a=b",
        "--annotation",
        "manifest-descriptor[linux/arm64]:org.example.c=d",
        &amd,
        &arm,
    ]);
    let made = made.ok();
    assert!(made.stderr.contains(&format!("[internal] pushing {app}")), "{}", made.stderr);
    for architecture in ["amd64", "arm64"] {
        let (ok, config) = registry.inspect("app:1", architecture);
        assert!(ok, "skopeo: {config}");
        let env = config["config"]["Env"].to_string();
        assert!(env.contains(&format!("\"ARCH={architecture}\"")), "{env}");
    }
    assert_eq!(registry.get("app:1").text("f"), "payload");
    let raw = json(&bench.rbuild(&["imagetools", "inspect", "--raw", &app]).ok().stdout);
    assert_eq!(raw["annotations"], json!({"org.example.a": "b"}));
    assert_eq!(raw["manifests"][0].get("annotations"), None);
    assert_eq!(raw["manifests"][1]["annotations"], json!({"org.example.c": "d"}));
    let written = json(&std::fs::read_to_string(&metadata).unwrap());
    assert_eq!(written["containerimage.digest"], digest_of(&bench, &app));
    assert_eq!(written["image.name"], format!("{app},{other}"));
    assert_eq!(digest_of(&bench, &app), digest_of(&bench, &other));

    // A single index goes as it is; one platform of it can be chosen.
    let copy = format!("{}/copy:1", registry.host);
    bench.rbuild(&["imagetools", "create", "-t", &copy, &app]).ok();
    assert_eq!(digest_of(&bench, &copy), digest_of(&bench, &app));
    let arm_only = format!("{}/copy:arm", registry.host);
    bench.rbuild(&["imagetools", "create", "-p", "linux/arm64", "-t", &arm_only, &app]).ok();
    let chosen = json(&bench.rbuild(&["imagetools", "inspect", "--raw", &arm_only]).ok().stdout);
    assert_eq!(chosen["manifests"].as_array().unwrap().len(), 1);
    assert_eq!(chosen["manifests"][0]["digest"], digest_of(&bench, &arm));
    let absent = ["imagetools", "create", "-p", "linux/s390x", "-t", &copy, &app];
    bench.rbuild(&absent).fails(2, &["no source has an image for linux/s390x"]);

    // A single image becomes an index, unless it should not; more can be added to what is there.
    let grown = format!("{}/grown:1", registry.host);
    bench.rbuild(&["imagetools", "create", "--prefer-index=false", "-t", &grown, &amd]).ok();
    assert_eq!(digest_of(&bench, &grown), digest_of(&bench, &amd));
    bench.rbuild(&["imagetools", "create", "-t", &grown, &amd]).ok();
    assert_ne!(digest_of(&bench, &grown), digest_of(&bench, &amd));
    bench.rbuild(&["imagetools", "create", "--append", "-t", &grown, &arm]).ok();
    let platforms = bench.rbuild(&[
        "imagetools",
        "inspect",
        "--format",
        "{{range .Manifest.Manifests}}{{.Platform.OS}}/{{.Platform.Architecture}} {{end}}",
        &grown,
    ]);
    assert_eq!(platforms.ok().stdout, "linux/amd64 linux/arm64 \n");

    // Digests and descriptors are looked for in the repository of the tag; a dry run writes nothing.
    let digest = digest_of(&bench, &amd);
    let file = bench.path("descriptor.json");
    std::fs::write(
        &file,
        json!({"digest": digest, "platform": {"os": "linux", "architecture": "riscv64"}}).to_string(),
    )
    .unwrap();
    let dry = bench.rbuild(&[
        "imagetools",
        "create",
        "--dry-run",
        "-t",
        &format!("{}/one:x", registry.host),
        "-f",
        file.to_str().unwrap(),
    ]);
    let dry = json(&dry.ok().stdout);
    assert_eq!(dry["manifests"][0]["platform"]["architecture"], "riscv64");
    let by_digest = json(
        &bench
            .rbuild(&["imagetools", "create", "--dry-run", "-t", &format!("{}/one:x", registry.host), &digest])
            .ok()
            .stdout,
    );
    assert_eq!(by_digest["manifests"][0]["platform"], json!({"architecture": "amd64", "os": "linux"}));
    bench.rbuild(&["imagetools", "inspect", &format!("{}/one:x", registry.host)]).fails(5, &["one:x"]);
}

// SPEC B8.01
#[test]
fn b8_01_layouts_are_sources_and_targets() {
    let registry = need!(Registry::start());
    let bench = Bench::new();
    let (amd, arm) = two(&bench, &registry.host);
    let layout = format!("oci-layout://{}:both", bench.path("layout").display());
    bench.rbuild(&["imagetools", "create", "-t", &layout, &amd, &arm]).ok();
    let listed = bench.rbuild(&["imagetools", "inspect", &layout]).ok().stdout;
    assert!(listed.contains("Platform:  linux/arm64"), "{listed}");
    // Another name beside it, and back into a registry that has nothing of it.
    let second = format!("oci-layout://{}:amd", bench.path("layout").display());
    bench.rbuild(&["imagetools", "create", "--prefer-index=false", "-t", &second, &amd]).ok();
    assert_eq!(digest_of(&bench, &second), digest_of(&bench, &amd));
    let back = format!("{}/back/again:1", registry.host);
    bench.rbuild(&["imagetools", "create", "-t", &back, &layout]).ok();
    assert_eq!(digest_of(&bench, &back), digest_of(&bench, &layout));
    assert_eq!(registry.get("back/again:1").text("f"), "payload");
    let index = json(&std::fs::read_to_string(bench.path("layout/index.json")).unwrap());
    assert_eq!(index["manifests"].as_array().unwrap().len(), 2, "{index}");
    // A damaged blob is found before the name is written.
    let blob = index["manifests"][0]["digest"].as_str().unwrap().replace(':', "/");
    std::fs::write(bench.path("layout/blobs").join(blob), "{}").unwrap();
    let bad = format!("{}/bad:1", registry.host);
    let run = bench.rbuild(&["imagetools", "create", "-t", &bad, &layout]);
    assert!(run.code != 0 && run.stderr.contains("is corrupt"), "{}", run.stderr);
}

// SPEC B8.01
#[test]
fn b8_01_wishes_that_make_no_sense_are_refused() {
    let bench = Bench::new();
    for (args, text) in [
        (vec!["-t", "a/b:1"], "no sources specified"),
        (vec!["x:1"], "can't push with no tags specified, please set --tag or --dry-run"),
        (vec!["--append", "x:1"], "--append: there is nothing to append to"),
        (vec!["-t", "A:1", "x"], "repository name must be lowercase"),
        (vec!["-t", "x:1", "--annotation", "a=b", "x"], "\"manifest\" annotations are not supported here"),
        (vec!["-t", "x:1", "--annotation", "indx:a=b", "x"], "did you mean index?"),
        (vec!["--dry-run", &format!("sha256:{}", "0".repeat(64))], "no repositories specified"),
        (vec!["--dry-run", "sha256:12"], "invalid source"),
        (vec!["--dry-run", "{\"digest\":1}"], "invalid descriptor"),
        (vec!["--dry-run", "-p", "linux/", "x"], "--platform"),
        (vec!["-t", &format!("x:1@sha256:{}", "0".repeat(64)), "x"], "a digest is no name"),
    ] {
        let all: Vec<&str> = ["imagetools", "create"].into_iter().chain(args).collect();
        bench.rbuild(&all).fails(2, &[text]);
    }
    bench.rbuild(&["imagetools", "inspect", "--raw", "--format", "x", "y"]).fails(2, &["cannot be used together"]);
}

/// An index with one image, its provenance and two SBOMs, made by hand.
fn attested(registry: &FakeRegistry) -> (String, String) {
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let config = json!({"architecture": "amd64", "os": "linux", "created": "2026-01-02T03:04:05Z",
        "config": {"Env": ["A=b"], "Labels": {"os": "mine"}}, "rootfs": {"type": "layers", "diff_ids": []},
        "history": [{"created_by": "ENV A=b", "empty_layer": true}]})
    .to_string();
    let config_digest = registry.put_blob("app", config.as_bytes());
    let image = json!({"schemaVersion": 2, "mediaType": kind, "layers": [],
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config_digest, "size": config.len()}}).to_string();
    let image_digest = registry.put_manifest("app", None, kind, image.as_bytes());
    let statement = |kind: &str, predicate: Value| {
        let text = json!({"_type": "https://in-toto.io/Statement/v1", "predicateType": kind, "predicate": predicate})
            .to_string();
        let digest = registry.put_blob("app", text.as_bytes());
        json!({"mediaType": "application/vnd.in-toto+json", "digest": digest, "size": text.len(),
            "annotations": {"in-toto.io/predicate-type": kind}})
    };
    let empty = registry.put_blob("app", b"{}");
    let layers = [
        statement("https://slsa.dev/provenance/v1", json!({"buildDefinition": {"buildType": "t"}})),
        statement("https://spdx.dev/Document", json!({"name": "first", "os": "x"})),
        statement("https://spdx.dev/Document", json!({"name": "second"})),
        statement("https://example.com/other", json!({})),
    ];
    let attestation = json!({"schemaVersion": 2, "mediaType": kind, "layers": layers,
        "artifactType": "application/vnd.docker.attestation.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": empty, "size": 2}})
    .to_string();
    let attestation_digest = registry.put_manifest("app", None, kind, attestation.as_bytes());
    let index = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [
        {"mediaType": kind, "digest": image_digest, "size": image.len(), "platform": {"architecture": "amd64", "os": "linux"}},
        {"mediaType": kind, "digest": attestation_digest, "size": attestation.len(),
            "platform": {"architecture": "unknown", "os": "unknown"},
            "annotations": {"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": image_digest}},
    ]}).to_string();
    registry.put_manifest("app", Some("1"), "application/vnd.oci.image.index.v1+json", index.as_bytes());
    (format!("{}/app:1", registry.host()), index)
}

// SPEC B8.02, C8.12
#[test]
fn b8_02_an_image_is_shown_as_buildx_shows_it() {
    let registry = FakeRegistry::start();
    let (name, index) = attested(&registry);
    let bench = Bench::new();
    let show = |args: &[&str]| {
        let all: Vec<&str> = ["imagetools", "inspect"].iter().chain(args).chain([&name.as_str()]).copied().collect();
        bench.rbuild(&all).ok().stdout
    };
    let entries = json(&index)["manifests"].clone();
    let (image, attestation) = (entries[0]["digest"].as_str().unwrap(), entries[1]["digest"].as_str().unwrap());
    let digest = sha256(index.as_bytes());
    let expected = format!(
        "Name:      {name}\n\
         MediaType: application/vnd.oci.image.index.v1+json\n\
         Digest:    {digest}\n           \n\
         Manifests: \n  \
           Name:        {name}@{image}\n  \
           MediaType:   application/vnd.oci.image.manifest.v1+json\n  \
           Platform:    linux/amd64\n\n  \
           Name:        {name}@{attestation}\n  \
           MediaType:   application/vnd.oci.image.manifest.v1+json\n  \
           Platform:    unknown/unknown\n  \
           Annotations:\n    \
             vnd.docker.reference.digest: {image}\n    \
             vnd.docker.reference.type:   attestation-manifest\n"
    );
    assert_eq!(show(&[]), expected);
    assert_eq!(show(&["--format", "{{.Manifest}}"]), expected);
    assert_eq!(show(&["--raw"]), index, "to the last byte");
    for (format, expected) in [
        ("{{.Name}} {{.Manifest.Digest}}", format!("{name} {digest}")),
        ("{{index .Image.Config.Env 0}}", "A=b".into()),
        ("{{index .Image.Config.Labels \"os\"}}", "mine".into()),
        ("{{(index .Image.History 0).CreatedBy}}{{range .Image.RootFS.DiffIDs}}{{.}}{{end}}", "ENV A=b".into()),
        ("{{.Provenance.SLSA.buildDefinition.buildType}}", "t".into()),
        ("{{.SBOM.SPDX.name}}{{range .SBOM.AdditionalSPDXs}}, {{.name}}{{end}}", "first, second".into()),
        ("{{json .SBOM.SPDX}}", "{\n  \"name\": \"first\",\n  \"os\": \"x\"\n}".into()),
        ("{{json .Manifest.Digest}}", format!("\"{digest}\"")),
        ("{{upper .Image.OS}}", "LINUX".into()),
    ] {
        assert_eq!(show(&["--format", format]), format!("{expected}\n"), "{format}");
    }
    let manifest = json(&show(&["--format", "{{json .Manifest}}"]));
    assert_eq!(manifest["manifests"], entries);
    assert_eq!((&manifest["digest"], &manifest["schemaVersion"]), (&digest.clone().into(), &2.into()));
    let image = json(&show(&["--format", "{{json .Image}}"]));
    assert_eq!(
        (&image["config"]["Labels"], &image["created"]),
        (&json!({"os": "mine"}), &"2026-01-02T03:04:05Z".into())
    );
    assert_eq!(json(&show(&["--format", "{{json .Provenance}}"]))["SLSA"]["buildDefinition"]["buildType"], "t");
    let all = json(&show(&["--format", "{{json .}}"]));
    assert_eq!(all.as_object().unwrap().keys().collect::<Vec<_>>(), ["name", "manifest", "image"]);
    assert!(bench.rbuild(&["imagetools", "inspect", "--format", "{{.Nmae}}", &name]).code != 0);

    // Attestations go where their image goes.
    let copy = format!("{}/copy:1", registry.host());
    bench.rbuild(&["imagetools", "create", "-p", "linux/amd64", "-t", &copy, &name]).ok();
    let state = registry.state();
    let copied = &state.repositories["copy"];
    let copied = json(&String::from_utf8_lossy(&copied.manifests[&copied.tags["1"]].1));
    assert_eq!(copied["manifests"], entries);
    assert_eq!(state.repositories["copy"].blobs.len(), state.repositories["app"].blobs.len());
}

// SPEC B8.02: several platforms are maps by platform.
#[test]
fn b8_02_several_platforms_are_maps() {
    let registry = FakeRegistry::start();
    let bench = Bench::new();
    let (amd, arm) = two(&bench, &registry.host());
    let app = format!("{}/app:1", registry.host());
    bench.rbuild(&["imagetools", "create", "-t", &app, &amd, &arm]).ok();
    let show = |format: &str| bench.rbuild(&["imagetools", "inspect", "--format", format, &app]).ok().stdout;
    assert_eq!(show(r#"{{(index .Image "linux/arm64").Architecture}}"#), "arm64\n");
    let keys: Vec<String> = json(&show("{{json .Image}}")).as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys, ["linux/amd64", "linux/arm64"]);
    assert_eq!(show("{{range $p, $i := .Image}}{{$p}}={{$i.Architecture}};{{end}}").matches(';').count(), 2);
}

// SPEC E3.17, C8.16
#[test]
fn e3_17_signatures_and_referrers_are_copied_with_their_image() {
    let registry = FakeRegistry::start();
    let bench = Bench::new();
    let (amd, _) = two(&bench, &registry.host());
    let subject = digest_of(&bench, &amd);
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let empty = registry.put_blob("one", b"{}");
    let config = json!({"mediaType": "application/vnd.oci.empty.v1+json", "digest": empty, "size": 2});
    let signature = json!({"schemaVersion": 2, "mediaType": kind, "config": config, "layers": []}).to_string();
    registry.put_manifest("one", Some(&format!("{}.sig", subject.replace(':', "-"))), kind, signature.as_bytes());
    let copy = format!("{}/copy:1", registry.host());
    bench.rbuild(&["imagetools", "create", "--prefer-index=false", "-t", &copy, &amd]).ok();
    let state = registry.state();
    let tags = &state.repositories["copy"].tags;
    assert_eq!(tags.get(&format!("{}.sig", subject.replace(':', "-"))), Some(&sha256(signature.as_bytes())));
}
