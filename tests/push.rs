//! Pushing to and pulling from a real registry, checked with skopeo.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stderr, reason = "skip reasons are collected by scripts/test")]
#![allow(missing_docs, unreachable_pub, reason = "a test program")]
#![allow(clippy::type_complexity, reason = "shapes are compared, not kept")]

#[path = "support/fake_registry/mod.rs"]
mod fake_registry;
mod support;

use std::collections::BTreeSet;
use std::process::Stdio;
use std::time::{Duration, Instant};

use fake_registry::{Action, FakeRegistry, sha256};
use support::registry::Registry;
use support::{Bench, Run};

fn registry() -> Result<(Registry, std::path::PathBuf), String> {
    let bases = support::bases()?;
    support::can_run()?;
    Ok((Registry::start()?, bases))
}

macro_rules! registry {
    () => {
        need!(registry())
    };
}

// SPEC B2.15, B2.30, B3.06, C6.17
#[test]
fn pulls_builds_pushes_and_the_same_image_comes_back() {
    let (registry, bases) = registry!();
    registry.put(&bases.join("busybox"), "base/busybox:latest");
    let bench = Bench::new();
    bench
        .file("f", "payload")
        .dockerfile(&format!("FROM {}/base/busybox\nCOPY f /f\nRUN echo run > /r\n", registry.host));
    let tag = format!("{}/app/one:1", registry.host);
    let local = bench.path("local.tar");
    let first = bench.build(&["-t", &tag, "--push", "-o", &format!("type=oci,dest={}", local.display())]).ok();
    assert!(
        first.count(" extracting sha256:") > 0,
        "the base's layer is unpacked ahead of the mount:\n{}",
        first.stderr
    );
    let pushed = registry.get("app/one:1");
    let local = support::image::Image::open_tar(&local);
    assert_eq!(pushed.manifest["layers"], local.manifest["layers"]);
    assert_eq!(pushed.config, local.config);
    assert_eq!(pushed.text("f"), "payload");
    // Again: nothing is uploaded, the tag stays.
    let again = bench.build(&["-t", &tag, "--push"]).ok();
    assert_eq!(again.count("CACHED"), 2);
    assert_eq!(registry.get("app/one:1").digest, pushed.digest);
}

// SPEC C6.02
#[test]
fn c6_02_an_image_keeps_the_blobs_of_its_own_base() {
    let registry = need!(Registry::start());
    let made = Bench::new();
    made.file("f", "x".repeat(100_000)).dockerfile("FROM scratch\nCOPY f /f\n");
    let bases = [("one:1", 0), ("two:1", 9)].map(|(name, level)| {
        let output = format!("type=image,name={}/{name},push=true,compression-level={level}", registry.host);
        made.build(&["-o", &output]).ok();
        let base = registry.get(name);
        (name, base.manifest["layers"][0]["digest"].clone(), base.config["rootfs"].clone())
    });
    assert_ne!(bases[0].1, bases[1].1);
    assert_eq!(bases[0].2, bases[1].2, "it is one layer");
    let bench = Bench::new();
    for (name, blob, _) in &bases {
        bench.dockerfile(&format!("FROM {}/{name}\nLABEL of={name}\n", registry.host));
        assert_eq!(bench.build_image(&[]).manifest["layers"][0]["digest"], *blob, "{name}");
    }
}

// SPEC C2.01, E3.06
#[test]
fn bases_that_nothing_reads_are_never_pulled() {
    let (registry, bases) = registry!();
    registry.put(&bases.join("debian"), "base/debian:latest");
    let bench = Bench::new();
    bench.dockerfile(&format!("FROM {}/base/debian\nENV A=b\n", registry.host));
    let tag = format!("{}/app/meta:1", registry.host);
    bench.build(&["-t", &tag, "--push"]).ok();
    let largest = walk(&bench.store().join("oci/blobs")).into_iter().max().unwrap_or(0);
    assert!(largest < 100_000, "a layer of {largest} bytes was pulled for an image that only sets ENV");
    assert_eq!(registry.get("app/meta:1").config["config"]["Env"].to_string().matches("A=b").count(), 1);
}

fn walk(dir: &std::path::Path) -> Vec<u64> {
    let mut sizes = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().unwrap().is_dir() {
            sizes.extend(walk(&entry.path()));
        } else {
            sizes.push(entry.metadata().unwrap().len());
        }
    }
    sizes
}

// SPEC E1.03, E1.05
#[test]
fn credentials_from_config_and_from_a_helper() {
    need_run!();
    let registry = need!(Registry::with_auth(Some(("user", "pass"))));
    let bench = Bench::new();
    bench.dockerfile("FROM busybox\nRUN echo x > /x\n");
    let tag = format!("{}/app:1", registry.host);
    bench.build(&["-t", &tag, "--push"]).fails(6, &[&registry.host]);
    std::fs::create_dir_all(bench.path("home/.docker")).unwrap();
    let config = bench.path("home/.docker/config.json");
    std::fs::write(&config, format!(r#"{{"auths":{{"{}":{{"auth":"dXNlcjpwYXNz"}}}}}}"#, registry.host)).unwrap();
    bench.build(&["-t", &tag, "--push"]).ok();
    // E1.03, E1.05: a helper; it must run as the real user, not as uid 0 of a namespace.
    let bin = bench.path("bin");
    std::fs::create_dir(&bin).unwrap();
    let helper = bin.join("docker-credential-testing");
    let uid = rustix::process::getuid().as_raw();
    std::fs::write(
        &helper,
        format!("#!/bin/sh\n[ \"$(id -u)\" = {uid} ] || exit 3\ncat >/dev/null\necho '{{\"ServerURL\":\"x\",\"Username\":\"user\",\"Secret\":\"pass\"}}'\n"),
    )
    .unwrap();
    std::fs::set_permissions(&helper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::write(&config, format!(r#"{{"credHelpers":{{"{}":"testing"}}}}"#, registry.host)).unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
    let tag = format!("{}/app:2", registry.host);
    let output = bench.build_command(&["-t", &tag, "--push"]).env("PATH", path).output().unwrap();
    support::finish(output).ok();
}

// SPEC B2.15, B2.16, B2.30
#[test]
fn several_tags_and_metadata() {
    let (registry, _) = registry!();
    let bench = Bench::new();
    bench.dockerfile("FROM busybox\nRUN echo x > /x\n");
    let (a, b) = (format!("{}/app:a", registry.host), format!("{}/other:b", registry.host));
    let metadata = bench.path("m.json");
    bench.build(&["-t", &a, "-t", &b, "--push", "--metadata-file", &metadata.display().to_string()]).ok();
    let (first, second) = (registry.get("app:a"), registry.get("other:b"));
    assert_eq!(first.digest, second.digest);
    let metadata: serde_json::Value = serde_json::from_slice(&std::fs::read(metadata).unwrap()).unwrap();
    assert_eq!(metadata["containerimage.digest"], first.digest.as_str());
    assert_eq!(metadata["image.name"], format!("{a},{b}"));
}

/// What a step polls for; [`open_gate`] puts it there.
const GATE: &[u8] = b"go on";

/// A step that does `then` when the gate is open.
fn wait_at_gate(registry: &FakeRegistry, then: &str) -> String {
    let url = format!("http://{}/v2/gate/blobs/{}", registry.host(), sha256(GATE));
    format!(
        "RUN --network=host for i in $(seq 600); do if wget -q -O /dev/null {url}; then {then}; fi; sleep 0.1; done; exit 99\n"
    )
}

/// Builds and pushes, and opens the gate for its last step as soon as `seen` holds for the registry.
fn build_through_gate(bench: &Bench, registry: &FakeRegistry, tag: &str, seen: impl Fn(&FakeRegistry) -> bool) -> Run {
    let mut command = bench.build_command(&["-t", tag, "--push", "--allow", "network.host"]);
    let mut child = command.stdin(Stdio::null()).spawn().unwrap();
    let started = Instant::now();
    while !seen(registry) && child.try_wait().unwrap().is_none() && started.elapsed() < Duration::from_secs(50) {
        std::thread::sleep(Duration::from_millis(10));
    }
    registry.put_blob("gate", GATE);
    support::finish(child.wait_with_output().unwrap())
}

fn blobs_of(registry: &FakeRegistry, repository: &str) -> BTreeSet<String> {
    registry.state().repositories.get(repository).map(|r| r.blobs.keys().cloned().collect()).unwrap_or_default()
}

// SPEC E3.07, E3.10: layers travel while later steps run, each once, and only those of the image.
#[test]
fn layers_are_uploaded_while_later_steps_run() {
    need_run!();
    let registry = FakeRegistry::start();
    let bench = Bench::new();
    bench.file("f", vec![7; 100_000]).dockerfile(&format!(
        "FROM busybox AS other\nRUN echo not part of the image > /other\nFROM busybox\nCOPY f /f\nCOPY --link f /g\n\
         COPY --from=other /other /o\n{}",
        wait_at_gate(&registry, "echo done > /done; exit 0")
    ));
    let tag = format!("{}/app:1", registry.host());
    // The base, f, g and o; the last step has not ended.
    build_through_gate(&bench, &registry, &tag, |registry| blobs_of(registry, "app").len() >= 4).ok();
    let log = registry.requests();
    let gate = log.iter().position(|r| r.target.starts_with("/v2/gate/") && r.method == "GET");
    let puts: Vec<usize> = log
        .iter()
        .enumerate()
        .filter(|(_, r)| r.method == "PUT" && r.target.contains("/uploads/"))
        .map(|(i, _)| i)
        .collect();
    assert!(gate.is_some(), "the step polled");
    let last_poll = log.iter().rposition(|r| r.target.starts_with("/v2/gate/")).unwrap();
    assert_eq!(puts.iter().filter(|i| **i < last_poll).count(), 4, "before the step ended");
    assert_eq!(puts.len(), 6, "then its own layer and the config");
    let manifest: serde_json::Value = {
        let state = registry.state();
        let app = &state.repositories["app"];
        serde_json::from_slice(&app.manifests[&app.tags["1"]].1).unwrap()
    };
    let layers = manifest["layers"].as_array().unwrap().iter();
    let named: BTreeSet<String> =
        layers.chain([&manifest["config"]]).map(|d| d["digest"].as_str().unwrap().to_owned()).collect();
    assert_eq!(blobs_of(&registry, "app"), named, "nothing else was uploaded");
}

// SPEC E3.10
#[test]
fn a_failed_build_leaves_no_image_and_no_open_upload() {
    need_run!();
    let registry = FakeRegistry::start();
    let bench = Bench::new();
    bench
        .file("f", vec![7; 100_000])
        .dockerfile(&format!("FROM busybox\nCOPY f /f\n{}", wait_at_gate(&registry, "exit 7")));
    let tag = format!("{}/app:1", registry.host());
    // One of the two blobs gets stuck.
    registry.fault("PUT", "/uploads/", 1, Action::Hold);
    let puts = |registry: &FakeRegistry| registry.count("PUT", "/v2/app/blobs/uploads/") >= 2;
    build_through_gate(&bench, &registry, &tag, puts).fails(9, &["exit code: 7"]);
    assert!(registry.state().repositories.get("app").is_none_or(|app| app.manifests.is_empty() && app.tags.is_empty()));
    assert_eq!(registry.count("PUT", "/manifests/"), 0);
    assert!(registry.state().uploads.is_empty(), "the stuck session was ended");
    assert_eq!(blobs_of(&registry, "app").len(), 1);
}
