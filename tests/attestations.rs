//! What is said about images (SPEC C8): provenance beside them, in files and in the metadata.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stderr, reason = "skip reasons are collected by scripts/test")]
#![allow(missing_docs, unreachable_pub, reason = "a test program")]

#[path = "support/fake_registry/mod.rs"]
mod fake_registry;
mod support;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;

use fake_registry::{FakeRegistry, sha256};
use serde_json::{Value, json};
use support::git::Repositories;
use support::registry::Registry;
use support::web::Web;
use support::{Bench, Run};

const USAGE: i32 = 2;
const SLSA: &str = "https://slsa.dev/provenance/v1";

/// Images with files and nothing that runs. Attestations are docker's default, as for users.
fn copies() -> Bench {
    let mut bench = Bench::new().with_default_attestations();
    // Bases that are not built on are arguments all the same.
    bench.args.clear();
    bench.file("f", "payload").dockerfile("FROM scratch\nARG TOKEN\nCOPY f /f\nLABEL a=b\n");
    bench
}

/// What a repository has under a tag.
struct Pushed {
    digest: String,
    index: Value,
    manifests: BTreeMap<String, Value>,
    blobs: BTreeMap<String, Vec<u8>>,
}

impl Pushed {
    fn of(registry: &FakeRegistry, repository: &str, tag: &str) -> Self {
        let state = registry.state();
        let found = &state.repositories[repository];
        let digest = found.tags[tag].clone();
        let parse = |bytes: &[u8]| serde_json::from_slice(bytes).unwrap();
        let manifests: BTreeMap<String, Value> =
            found.manifests.iter().map(|(digest, (_, bytes))| (digest.clone(), parse(bytes))).collect();
        let blobs = found.blobs.clone().into_iter().collect();
        Self { index: manifests[&digest].clone(), digest, manifests, blobs }
    }

    fn entries(&self) -> &Vec<Value> {
        self.index["manifests"].as_array().unwrap_or_else(|| panic!("no index: {}", self.index))
    }

    /// The attestation manifest about the image at a place of the index.
    fn about(&self, image: usize) -> &Value {
        let digest = &self.entries()[image]["digest"];
        let about = |entry: &&Value| {
            entry["annotations"]["vnd.docker.reference.digest"] == *digest
                && entry["annotations"]["vnd.docker.reference.type"] == "attestation-manifest"
        };
        let entry = self.entries().iter().find(about).unwrap_or_else(|| panic!("nothing about it: {}", self.index));
        assert_eq!(entry["platform"], json!({"architecture": "unknown", "os": "unknown"}));
        &self.manifests[entry["digest"].as_str().unwrap()]
    }

    /// The statement with a predicate of a type.
    fn statement(&self, image: usize, kind: &str) -> Value {
        let layers = self.about(image)["layers"].as_array().unwrap();
        let layer = layers.iter().find(|layer| layer["annotations"]["in-toto.io/predicate-type"] == kind);
        let digest = layer.unwrap_or_else(|| panic!("no {kind} in {layers:?}"))["digest"].as_str().unwrap();
        let bytes = &self.blobs[digest];
        assert_eq!(sha256(bytes), digest);
        serde_json::from_slice(bytes).unwrap()
    }
}

fn push(bench: &Bench, registry: &FakeRegistry, flags: &[&str]) -> (Run, Pushed) {
    let name = format!("{}/app:1", registry.host());
    let mut all = vec!["-t", name.as_str(), "--push"];
    all.extend(flags);
    let run = bench.build(&all).ok();
    (run, Pushed::of(registry, "app", "1"))
}

// SPEC C8.01, C8.02, C8.04, C8.05, C8.06, C8.10, B2.05, N2.12
#[test]
fn c8_01_an_image_that_is_pushed_carries_its_provenance() {
    let registry = FakeRegistry::start();
    let bench = copies();
    bench.file(".git/HEAD", "0123456789abcdef0123456789abcdef01234567\n");
    bench.file(".git/config", "[remote \"origin\"]\n\turl = https://u:secret@example.com/x.git\n");
    let (_, pushed) = push(&bench, &registry, &["--build-arg", "TOKEN=hush"]);
    assert_eq!(pushed.entries().len(), 2, "{}", pushed.index);
    let image = &pushed.entries()[0];
    assert_eq!(image["platform"]["os"], "linux");
    let about = pushed.about(0);
    assert_eq!(about["artifactType"], "application/vnd.docker.attestation.manifest.v1+json");
    assert_eq!(about["subject"]["digest"], image["digest"]);
    assert_eq!(about["config"]["mediaType"], "application/vnd.oci.empty.v1+json");
    let statement = pushed.statement(0, SLSA);
    assert_eq!(statement["_type"], "https://in-toto.io/Statement/v1");
    let subject = statement["subject"][0].clone();
    let name = subject["name"].as_str().unwrap();
    assert!(
        name.starts_with(&format!("pkg:docker/{}/app@1?platform=linux%2F", registry.host().replace(':', "%3A"))),
        "{name}"
    );
    assert_eq!(format!("sha256:{}", subject["digest"]["sha256"].as_str().unwrap()), image["digest"].as_str().unwrap());
    let external = &statement["predicate"]["buildDefinition"]["externalParameters"];
    assert_eq!(external["configSource"], json!({"path": "Dockerfile"}));
    assert_eq!(
        external["request"],
        json!({"frontend": "dockerfile.v0", "locals": [{"name": "context"}, {"name": "dockerfile"}]})
    );
    let metadata = &statement["predicate"]["runDetails"]["metadata"];
    assert_eq!(metadata["buildkit_completeness"], json!({"request": false, "resolvedDependencies": false}));
    let vcs = json!({
        "localdir:context": ".", "localdir:dockerfile": ".", "source": "https://example.com/x.git",
        "revision": "0123456789abcdef0123456789abcdef01234567",
    });
    assert_eq!(metadata["buildkit_metadata"]["vcs"], vcs);
    assert!(!statement.to_string().contains("hush"), "arguments may be secret");
    // No tag beside the one that was asked for.
    assert_eq!(registry.state().repositories["app"].tags.len(), 1);
}

#[test]
fn c8_08_credentials_are_masked_and_an_unread_context_is_told() {
    let registry = FakeRegistry::start();
    let bench = copies();
    bench.dockerfile("FROM scratch\nLABEL a=b\n");
    let image = format!("docker-image://busybox@sha256:{}", "0".repeat(64));
    let contexts = ["web=https://user:hush@example.invalid/a.tar".to_owned(), format!("image={image}")];
    let (_, pushed) = push(&bench, &registry, &["--build-context", &contexts[0], "--build-context", &contexts[1]]);
    let statement = pushed.statement(0, SLSA);
    let request = &statement["predicate"]["buildDefinition"]["externalParameters"]["request"];
    assert_eq!(request["args"]["context:web"], "https://xxxxx:xxxxx@example.invalid/a.tar");
    assert_eq!(request["args"]["context:image"], image);
    assert_eq!(request["locals"], json!([{"name": "context"}, {"name": "dockerfile"}]));
    assert!(!statement.to_string().contains("hush"));
}

// SPEC B2.05, C8.05: what nobody asked for costs nothing when nothing changed, and never changes the image itself.
#[test]
fn c8_05_an_unchanged_image_keeps_its_provenance_and_digest() {
    let registry = FakeRegistry::start();
    let bench = copies();
    let (_, first) = push(&bench, &registry, &[]);
    let before = registry.requests().len();
    let (_, again) = push(&bench, &registry, &[]);
    assert_eq!(again.digest, first.digest);
    let extra = registry.requests().split_off(before);
    assert!(extra.len() <= 3, "{extra:?}");
    // Whoever asks for provenance gets that of this very build.
    let (_, asked) = push(&bench, &registry, &["--provenance=mode=min"]);
    assert_ne!(asked.digest, first.digest);
    assert_eq!(asked.entries()[0], first.entries()[0]);
    let (_, other) = push(&bench, &registry, &["--label", "x=y"]);
    assert_ne!(other.entries()[0], first.entries()[0]);
    assert_ne!(other.digest, first.digest);
    // Without any, the image is the same, and not in an index.
    let (_, plain) = push(&bench, &registry, &["--provenance=false"]);
    assert_eq!(Value::from(plain.digest), first.entries()[0]["digest"]);
}

// SPEC C8.06, C8.08
#[test]
fn c8_06_complete_provenance_has_steps_arguments_and_the_dockerfile() {
    let registry = FakeRegistry::start();
    let bench = copies();
    let flags = ["--provenance=mode=max,builder-id=https://ci.example/7", "--build-arg", "TOKEN=told", "--target", ""];
    let (_, pushed) = push(&bench, &registry, &flags);
    let predicate = pushed.statement(0, SLSA)["predicate"].clone();
    assert_eq!(predicate["runDetails"]["builder"]["id"], "https://ci.example/7");
    let definition = &predicate["buildDefinition"];
    assert_eq!(definition["externalParameters"]["request"]["args"], json!({"build-arg:TOKEN": "told"}));
    let config = &definition["internalParameters"]["buildConfig"];
    let steps = config["llbDefinition"].as_array().unwrap();
    assert_eq!(steps[0]["op"]["Op"]["source"]["identifier"], "local://context");
    assert_eq!(steps[1]["inputs"], json!(["step0:0"]));
    assert!(steps[1]["op"]["Op"]["file"]["actions"][0]["Action"]["copy"]["dest"].is_string(), "{}", steps[1]);
    assert_eq!(steps.last().unwrap()["op"], json!({"Op": {}}));
    assert_eq!(config["digestMapping"].as_object().unwrap().len(), steps.len());
    let metadata = &predicate["runDetails"]["metadata"];
    assert_eq!(metadata["buildkit_completeness"]["request"], true);
    let source = &metadata["buildkit_metadata"]["source"];
    assert_eq!(source["infos"][0]["filename"], "Dockerfile");
    assert_eq!(source["locations"]["step1"]["locations"][0]["ranges"][0]["start"]["line"], 3);
    let layers = metadata["buildkit_metadata"]["layers"]["step1:0"][0].as_array().unwrap();
    let image = &pushed.manifests[pushed.entries()[0]["digest"].as_str().unwrap()];
    assert_eq!(layers[0]["digest"], image["layers"][0]["digest"]);
}

// SPEC C8.01, E3.10
#[test]
fn c8_01_each_platform_has_its_own() {
    let registry = FakeRegistry::start();
    let bench = copies();
    let (_, pushed) = push(&bench, &registry, &["--platform=linux/amd64,linux/arm64"]);
    assert_eq!(pushed.entries().len(), 4);
    for (at, platform) in ["linux%2Famd64", "linux%2Farm64"].iter().enumerate() {
        let statement = pushed.statement(at, SLSA);
        assert!(statement["subject"][0]["name"].as_str().unwrap().ends_with(platform));
        assert_eq!(
            pushed.entries()[at + 2]["annotations"]["vnd.docker.reference.digest"],
            pushed.entries()[at]["digest"]
        );
    }
    let puts: Vec<String> = registry
        .requests()
        .iter()
        .filter(|r| r.method == "PUT" && r.target.contains("/manifests/"))
        .map(|r| r.target.rsplit('/').next().unwrap().to_owned())
        .collect();
    let order: Vec<&str> = pushed.entries().iter().map(|e| e["digest"].as_str().unwrap()).chain(["1"]).collect();
    assert_eq!(puts, order, "images, what is about them, the tag");
}

// SPEC B5.06, C8.03, C8.07, N2.06
#[test]
fn c8_03_older_forms_can_be_had() {
    let registry = FakeRegistry::start();
    let mut bench = copies();
    let name = format!("{}/app:1", registry.host());
    let output = format!("type=registry,name={name},oci-artifact=false");
    bench.build(&["-o", &output, "--provenance=mode=min,version=v0.2"]).ok();
    let pushed = Pushed::of(&registry, "app", "1");
    let about = pushed.about(0);
    assert_eq!((about.get("subject"), about.get("artifactType")), (None, None));
    let config: Value = serde_json::from_slice(&pushed.blobs[about["config"]["digest"].as_str().unwrap()]).unwrap();
    assert_eq!(config["os"], "unknown");
    assert_eq!(config["rootfs"]["diff_ids"][0], about["layers"][0]["digest"]);
    let statement = pushed.statement(0, "https://slsa.dev/provenance/v0.2");
    assert_eq!(statement["predicate"]["buildType"], "https://mobyproject.org/buildkit@v1");
    assert_eq!(statement["predicate"]["invocation"]["configSource"]["entryPoint"], "Dockerfile");
    // BuildKit of that time made images of OCI's types of them, and so on.
    let old = format!("type=registry,name={name},compatibility-version=20");
    bench.build(&["-o", &old, "--provenance=mode=min"]).ok();
    let pushed = Pushed::of(&registry, "app", "1");
    assert_eq!(pushed.index["mediaType"], "application/vnd.oci.image.index.v1+json");
    assert_eq!(pushed.about(0).get("subject"), None);
    bench.env.push(("BUILDX_NO_DEFAULT_OCI_ARTIFACT".into(), "true".into()));
    bench.build(&["-o", &format!("type=registry,name={name}"), "--provenance=mode=min"]).ok();
    assert_eq!(Pushed::of(&registry, "app", "1").about(0).get("artifactType"), None);
    bench.build(&["-o", &format!("type=registry,name={name},oci-artifact=true"), "--provenance=mode=min"]).ok();
    assert_ne!(Pushed::of(&registry, "app", "1").about(0).get("artifactType"), None);
}

// SPEC C8.05, C6.13, B3.03, B3.04: the default goes with images only, what was asked for also with archives.
#[test]
fn c6_13_archives_and_files_have_what_was_asked_for() {
    let bench = copies();
    assert!(bench.build_image(&[]).index["manifests"].as_array().unwrap().len() == 1);
    let tar = bench.path("asked.tar");
    let oci = format!("type=oci,dest={}", tar.display());
    let index_of = || {
        let files = support::image::tar_files(&tar);
        let index: Value = serde_json::from_slice(&files["index.json"]).unwrap();
        let digest = index["manifests"][0]["digest"].as_str().unwrap().replace(':', "/");
        serde_json::from_slice::<Value>(&files[&format!("blobs/{digest}")]).unwrap()
    };
    bench.build(&["-o", &oci, "--provenance=true"]).ok();
    assert_eq!(index_of()["manifests"].as_array().unwrap().len(), 2);
    bench.build(&["-o", &format!("{oci},attestation-inline=true,name=x")]).ok();
    assert_eq!(index_of()["manifests"].as_array().unwrap().len(), 2);
    let docker = format!("type=docker,dest={}", bench.path("docker.tar").display());
    bench.build(&["-o", &docker]).ok();
    bench
        .build(&["-o", &docker, "--provenance=true"])
        .fails(USAGE, &["does not currently support exporting manifest lists"]);
    // Files.
    let out = bench.path("files");
    let local = format!("type=local,dest={}", out.display());
    bench.build(&["-o", &local]).ok();
    assert!(!out.join("provenance.json").exists());
    bench.build(&["-o", &format!("{local},attestation-prefix=app."), "--provenance=true"]).ok();
    let path = out.join("app.provenance.json");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let statement: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let digest = sha256(b"payload").trim_start_matches("sha256:").to_owned();
    assert_eq!(statement["subject"], json!([{"name": "f", "digest": {"sha256": digest}}]));
    let platforms = "--platform=linux/amd64,linux/arm64";
    let split = bench.path("split.tar");
    bench.build(&["-o", &format!("type=tar,dest={}", split.display()), "--provenance=true", platforms]).ok();
    let files = support::image::tar_files(&split);
    for name in ["linux_amd64/provenance.json", "linux_arm64/provenance.json", "linux_arm64/f"] {
        assert!(files.contains_key(name), "{name} of {:?}", files.keys());
    }
}

// SPEC B3.01: where the platforms share a directory, each has statements of its own, about its own files.
#[test]
fn b3_01_statements_are_told_apart_where_platforms_are_not_split() {
    let bench = Bench::new();
    bench.file("amd64/a", "1").file("arm64/b", "2");
    bench.dockerfile("FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH /\n");
    let out = bench.path("files");
    let output = format!("type=local,dest={},platform-split=false,attestation-prefix=x-", out.display());
    bench.build(&["-o", &output, "--provenance=true", "--platform=linux/amd64,linux/arm64"]).ok();
    let mut names: Vec<String> =
        std::fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["a", "b", "x-provenance.linux_amd64.json", "x-provenance.linux_arm64.json"]);
    for (platform, file) in [("amd64", "a"), ("arm64", "b")] {
        let bytes = std::fs::read(out.join(format!("x-provenance.linux_{platform}.json"))).unwrap();
        let statement: Value = serde_json::from_slice(&bytes).unwrap();
        let subjects: Vec<&Value> = statement["subject"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
        assert_eq!(subjects, [file]);
    }
}

// SPEC B2.16, B5.06
#[test]
fn b2_16_metadata_tells_where_an_image_comes_from() {
    let mut bench = copies();
    let file = bench.path("metadata.json");
    let metadata = |bench: &Bench, flags: &[&str]| -> Value {
        let mut all = vec!["--metadata-file", file.to_str().unwrap(), "--build-arg", "TOKEN=x"];
        all.extend(flags);
        bench.build(&all).ok();
        serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap()
    };
    let short = metadata(&bench, &["--provenance=false"]);
    let told = &short["buildx.build.provenance"];
    assert_eq!(told["buildDefinition"]["externalParameters"]["configSource"]["path"], "Dockerfile");
    assert_eq!(told["runDetails"], json!({"builder": {"id": ""}}));
    assert_eq!(told["buildDefinition"]["internalParameters"].get("buildConfig"), None);
    let several = metadata(&bench, &["--platform=linux/amd64,linux/arm64"]);
    assert!(several["buildx.build.provenance/linux/arm64"].is_object(), "{several}");
    bench.env.push(("BUILDX_METADATA_PROVENANCE".into(), "max".into()));
    let all = metadata(&bench, &["--provenance=mode=max"]);
    assert!(all["buildx.build.provenance"]["runDetails"]["metadata"]["startedOn"].is_string());
    bench.env.push(("BUILDX_METADATA_PROVENANCE".into(), "disabled".into()));
    assert_eq!(metadata(&bench, &[]).get("buildx.build.provenance"), None);
}

// SPEC C4.13, C8.09, E4.07: the base is a material, also when every step was in the cache; other tools read the image.
#[test]
fn c4_13_materials_are_known_of_cached_steps_and_others_read_the_image() {
    let (registry, bases) = match (Registry::start(), support::bases()) {
        (Ok(registry), Ok(bases)) => (registry, bases),
        (Err(why), _) | (_, Err(why)) => skip!("{why}"),
    };
    registry.put(&bases.join("busybox"), "base/busybox:latest");
    let bench = Bench::new().with_default_attestations();
    bench.file("f", "payload").dockerfile(&format!("FROM {}/base/busybox\nCOPY f /f\n", registry.host));
    let name = format!("{}/app:1", registry.host);
    let metadata = bench.path("metadata.json");
    let build = || {
        bench.build(&["-t", &name, "--push", "--metadata-file", metadata.to_str().unwrap()]).ok();
        serde_json::from_slice::<Value>(&std::fs::read(&metadata).unwrap()).unwrap()
    };
    let first = build();
    let materials = first["buildx.build.provenance"]["buildDefinition"]["resolvedDependencies"].clone();
    let uri = materials[0]["uri"].as_str().unwrap();
    assert!(
        uri.starts_with(&format!(
            "pkg:docker/{}/base/busybox@latest?digest=sha256:",
            registry.host.replace(':', "%3A")
        )),
        "{uri}"
    );
    assert!(uri.contains(materials[0]["digest"]["sha256"].as_str().unwrap()), "{uri}");
    let again = build();
    assert_eq!(again["buildx.build.provenance"]["buildDefinition"]["resolvedDependencies"], materials);
    assert_eq!(first["containerimage.digest"], again["containerimage.digest"]);
    assert_eq!(first["containerimage.descriptor"]["mediaType"], "application/vnd.oci.image.index.v1+json");
    assert_eq!(first.get("containerimage.config.digest"), None, "an index has none");
    // skopeo takes the image out of the index, and so does whoever builds on it.
    assert_eq!(registry.get("app:1").text("f"), "payload");
    let above = Bench::new();
    above.dockerfile(&format!("FROM {name}\nCOPY --from={name} /f /g\n"));
    assert_eq!(above.build_image(&[]).text("g"), "payload");
    for command in [&["pull", &name][..], &["inspect", &name], &["history", &name], &["images"]] {
        above.rbuild(command).ok();
    }
}

const SPDX: &str = "https://spdx.dev/Document";

/// A scanner that tells what it was given.
const SCANNER: &str = r#"#!/bin/sh
set -e
tell() {
  printf '{"_type":"https://in-toto.io/Statement/v0.1","predicateType":"https://spdx.dev/Document","predicate":' >"$2"
  printf '{"spdxVersion":"SPDX-2.3","files":"%s","depth":"%s","cwd":"%s"}}' "$(echo $(ls "$1"))" "$BUILDKIT_SCAN_DEPTH" "$PWD" >>"$2"
}
! touch "$BUILDKIT_SCAN_SOURCE/x" 2>/dev/null
touch /tmp/x
test "$BUILDKIT_SCAN_DESTINATION" = /run/out/
tell "$BUILDKIT_SCAN_SOURCE" "${BUILDKIT_SCAN_DESTINATION}sbom.spdx.json"
if [ -n "$BUILDKIT_SCAN_SOURCE_EXTRAS" ]; then
  for dir in "$BUILDKIT_SCAN_SOURCE_EXTRAS"*; do
    tell "$dir" "/run/out/${dir##*/}.spdx.json"
  done
fi
"#;

// SPEC C8.13, B2.06
#[test]
fn c8_13_a_scanner_is_run_over_the_result() {
    let (registry, bases) = match (Registry::start(), support::bases(), support::can_run()) {
        (Ok(registry), Ok(bases), Ok(())) => (registry, bases),
        (Err(why), ..) | (_, Err(why), _) | (.., Err(why)) => skip!("{why}"),
    };
    registry.put(&bases.join("busybox"), "base/busybox:latest");
    let scanner = Bench::new();
    scanner.file("scan", SCANNER).chmod("scan", 0o755);
    scanner.dockerfile(&format!(
        "FROM {}/base/busybox\nCOPY scan /scan\nWORKDIR /work\nENTRYPOINT [\"/scan\"]\n",
        registry.host
    ));
    let generator = format!("{}/scan:1", registry.host);
    scanner.build(&["-t", &generator, "--push"]).ok();
    let mut bench = Bench::new();
    bench.args.clear();
    bench
        .file("f", "x")
        .dockerfile("FROM scratch AS early\nCOPY f /early\nFROM scratch\nCOPY --from=early /early /f\nCOPY f /g\n");
    let out = bench.path("files");
    let (local, sbom) = (format!("type=local,dest={}", out.display()), format!("--sbom=generator={generator},depth=3"));
    let predicate = |name: &str| {
        let statement: Value = serde_json::from_slice(&std::fs::read(out.join(name)).unwrap()).unwrap();
        assert_eq!(statement["predicateType"], SPDX);
        assert_eq!(statement["subject"].as_array().unwrap().len(), 2, "each file");
        statement["predicate"].clone()
    };
    let first = bench.build(&["-o", &local, &sbom]).ok();
    assert_eq!(first.count(&format!("[sbom] generating sbom using {generator}")), 1);
    assert_eq!(
        predicate("sbom.spdx.json"),
        json!({"spdxVersion": "SPDX-2.3", "files": "f g", "depth": "3", "cwd": "/work"})
    );
    assert!(!out.join("sbom-early.spdx.json").exists());
    // With a stage; what was scanned before is not scanned again.
    bench.build(&["-o", &local, &sbom, "--build-arg", "BUILDKIT_SBOM_SCAN_STAGE=true"]).ok();
    assert_eq!(predicate("sbom-early.spdx.json")["files"], "early");
    let again = bench.build(&["-o", &local, &sbom]).ok();
    assert!(again.stderr.contains("CACHED"), "{}", again.stderr);
    // A scanner that finds nothing to say has failed, and so has one that is none.
    let base = format!("--sbom=generator={}/base/busybox", registry.host);
    bench.build(&["-o", &local, &base]).fails(4, &["wrote no statement into /run/out"]);
    bench.build(&["-o", &local, "--sbom=generator=UP"]).fails(USAGE, &["invalid generator \"UP\""]);
}

// SPEC C8.05: what has no digest is not passed over.
#[test]
fn c8_05_materials_can_be_asked_to_be_complete() {
    let bench = copies();
    let wish = "--provenance=complete-materials=true";
    bench.build(&["-t", "x", wish]).fails(4, &["materials are incomplete: the local directory", "--network=none"]);
    let repositories = Repositories::new();
    let repository = repositories.create("a.git", &[]);
    repository.file("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n").commit("first");
    let web = Web::git(repositories.path(), None);
    bench.rbuild(&["build", &web.url("/a.git"), "-t", "x", wish]).ok();
}

#[test]
fn c8_05_what_steps_used_is_captured() {
    if let Err(why) = support::can_run() {
        skip!("{why}");
    }
    let bench = Bench::new();
    bench.dockerfile("FROM busybox\nRUN i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo $i >/n\n");
    let usage = |flag: &str| {
        bench.build(&["--no-cache", "-o", "files", flag]).ok();
        let told: Value =
            serde_json::from_slice(&std::fs::read(bench.path("out/files/provenance.json")).unwrap()).unwrap();
        let config = &told["predicate"]["buildDefinition"]["internalParameters"]["buildConfig"]["llbDefinition"];
        let steps = config.as_array().unwrap().iter();
        steps.filter_map(|step| step.get("resourceUsage").cloned()).collect::<Vec<_>>()
    };
    assert_eq!(usage("--provenance=mode=max"), Vec::<Value>::new());
    let used = usage("--provenance=mode=max,capture-usage=true");
    let sample = &used[0]["samples"][0];
    assert_eq!(used.len(), 1, "one step ran");
    assert!(sample["cpuStat"]["usageNanos"].as_u64().unwrap() > 0, "{sample}");
    assert!(sample["memoryStat"]["peak"].as_u64().unwrap() > 0, "{sample}");
}

// SPEC C8.11, C9.09
#[test]
fn c8_11_the_machine_says_what_it_is() {
    let bench = copies();
    let dir = bench.path("env.d");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("10.json"), r#"{"runner": "one", "pool": 7, "builderPlatform": "mine"}"#).unwrap();
    std::fs::write(dir.join("20.json"), r#"{"runner": "two"}"#).unwrap();
    std::fs::write(dir.join("README"), "no JSON").unwrap();
    let config = bench.path("rbuild.toml");
    std::fs::write(&config, "provenanceEnvDir = \"env.d\"\n").unwrap();
    let build = || {
        let context = bench.path("ctx");
        let flags = ["--config", config.to_str().unwrap(), "build", "-o", "files", "--provenance=true"];
        bench.rbuild(&[&flags[..], &[context.to_str().unwrap()]].concat())
    };
    build().ok();
    let told: Value = serde_json::from_slice(&std::fs::read(bench.path("out/files/provenance.json")).unwrap()).unwrap();
    let told = &told["predicate"]["buildDefinition"]["internalParameters"];
    assert_eq!((&told["runner"], &told["pool"]), (&json!("two"), &json!(7)));
    assert_ne!(told["builderPlatform"], "mine", "what is known counts");
    std::fs::write(dir.join("30.json"), "[]").unwrap();
    build().fails(USAGE, &["provenanceEnvDir: ", "30.json: it is no JSON object"]);
}

// SPEC C8.13, C8.15, B2.06
#[test]
fn c8_15_the_built_in_generator_needs_no_image() {
    let registry = FakeRegistry::start();
    let bench = copies();
    bench.file("status", "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.36\n");
    bench.file(
        "package-lock.json",
        r#"{"packages": {"node_modules/left-pad": {"version": "1.3.0", "license": "WTFPL"}}}"#,
    );
    bench.dockerfile("FROM scratch\nCOPY status /var/lib/dpkg/status\nCOPY package-lock.json /app/\n");
    let flags = ["--sbom=generator=builtin", "--provenance=false", "--platform=linux/amd64,linux/arm64"];
    let (_, pushed) = push(&bench, &registry, &flags);
    assert_eq!(pushed.entries().len(), 4);
    let document = pushed.statement(1, SPDX)["predicate"].clone();
    assert_eq!((&document["spdxVersion"], &document["SPDXID"]), (&json!("SPDX-2.3"), &json!("SPDXRef-DOCUMENT")));
    let purls: Vec<&str> = document["packages"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|package| package["externalRefs"][0]["referenceLocator"].as_str())
        .collect();
    assert_eq!(purls, ["pkg:npm/left-pad@1.3.0", "pkg:deb/debian/libc6@2.36?arch=amd64"]);
    // SPEC C8.13: the files that name packages, with the layers they came in.
    let layers = pushed.manifests[pushed.entries()[1]["digest"].as_str().unwrap()]["layers"].clone();
    let files = document["files"].as_array().unwrap();
    let told: Vec<(&str, &str)> =
        files.iter().map(|f| (f["fileName"].as_str().unwrap(), f["comment"].as_str().unwrap())).collect();
    let layer = |at: usize| format!("layerID: {}", layers[at]["digest"].as_str().unwrap());
    assert_eq!(told, [("./app/package-lock.json", layer(1).as_str()), ("./var/lib/dpkg/status", layer(0).as_str())]);
    // The context is scanned where that is asked for, without what .dockerignore leaves out.
    bench.file("Cargo.lock", "version = 3\n[[package]]\nname = \"left\"\nversion = \"1.0.0\"\nsource = \"registry+https://example.org/index\"\n");
    bench.file("old/Cargo.lock", "version = 3\n[[package]]\nname = \"ignored\"\nversion = \"1.0.0\"\nsource = \"registry+https://example.org/index\"\n");
    bench.file(".dockerignore", "old\n");
    let out = format!("type=local,dest={}", bench.path("out/files").display());
    let context = ["--sbom=generator=builtin", "--build-arg=BUILDKIT_SBOM_SCAN_CONTEXT=true", "-o", out.as_str()];
    bench.build(&context).ok();
    let text = std::fs::read_to_string(bench.path("out/files/sbom-context.spdx.json")).unwrap();
    assert!(text.contains("pkg:cargo/left@1.0.0") && !text.contains("ignored"), "{text}");
    // The scanner that docker runs cannot be had here: the remedy is named.
    let name = format!("--sbom=generator={}/none:1", registry.host());
    let refused = bench.build(&["-t", "x", &name]);
    assert_ne!(refused.code, 0);
    assert!(refused.stderr.contains("--sbom=generator=builtin"), "{}", refused.stderr);
}

// SPEC C6.04, C8.03
#[test]
fn c6_04_the_rules_that_an_image_was_written_by_are_told() {
    let registry = FakeRegistry::start();
    let bench = copies();
    for (version, said) in [("", 30), (",compatibility-version=20", 20)] {
        let output = format!("type=image,push=true,name={}/app:1{version}", registry.host());
        bench.build(&["-o", &output, "--provenance=mode=max"]).ok();
        let pushed = Pushed::of(&registry, "app", "1");
        let definition = &pushed.statement(0, SLSA)["predicate"]["buildDefinition"];
        assert_eq!(definition["internalParameters"]["compatibilityVersion"], said);
        let artifact = pushed.about(0).get("artifactType").is_some();
        assert_eq!(artifact, said == 30, "the older rules give attestations the form of images");
    }
}
