//! Pushing to and pulling from a real registry, checked with skopeo.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stderr, reason = "skip reasons are collected by scripts/test")]
#![allow(missing_docs, unreachable_pub, reason = "a test program")]
#![allow(clippy::type_complexity, reason = "shapes are compared, not kept")]

mod support;

use support::Bench;
use support::registry::Registry;

fn registry() -> Result<(Registry, std::path::PathBuf), String> {
    let bases = support::bases()?;
    support::can_run()?;
    Ok((Registry::start()?, bases))
}

macro_rules! registry {
    () => {
        match registry() {
            Ok(found) => found,
            Err(why) => skip!("{why}"),
        }
    };
}

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
    bench.build(&["-t", &tag, "--push", "-o", &format!("type=oci,dest={}", local.display())]).ok();
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

#[test]
fn credentials_from_config_and_from_a_helper() {
    if let Err(why) = support::can_run() {
        skip!("{why}");
    }
    let registry = match Registry::with_auth(Some(("user", "pass"))) {
        Ok(registry) => registry,
        Err(why) => skip!("{why}"),
    };
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
    std::os::unix::fs::PermissionsExt::set_mode(&mut helper.metadata().unwrap().permissions(), 0o755);
    std::process::Command::new("chmod").arg("755").arg(&helper).status().unwrap();
    std::fs::write(&config, format!(r#"{{"credHelpers":{{"{}":"testing"}}}}"#, registry.host)).unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
    let tag = format!("{}/app:2", registry.host);
    let output = bench.build_command(&["-t", &tag, "--push"]).env("PATH", path).output().unwrap();
    support::finish(output).ok();
}

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
