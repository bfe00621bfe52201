//! Several platforms in one build, and every kind of output (SPEC B2.12–B2.21, B3, C6).
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stderr, reason = "skip reasons are collected by scripts/test")]
#![allow(missing_docs, unreachable_pub, reason = "a test program")]

#[path = "support/fake_registry/mod.rs"]
mod fake_registry;
mod support;

use std::path::Path;

use fake_registry::{Action, Auth, FakeRegistry, Tokens};
use serde_json::Value;
use support::Bench;
use support::image::{Image, name_of, tar_files};

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

/// The index inside an OCI archive, and the entry that points at it.
fn index_of(path: &Path) -> (Value, Value) {
    let files = tar_files(path);
    let top = json(&files["index.json"]);
    let entry = top["manifests"][0].clone();
    let digest = entry["digest"].as_str().unwrap().replace(':', "/");
    (json(&files[&format!("blobs/{digest}")]), entry)
}

/// A Dockerfile that anything can build: no RUN.
fn copies(bench: &Bench) {
    bench.file("f", "payload").dockerfile("FROM scratch\nARG TARGETPLATFORM\nENV P=$TARGETPLATFORM\nCOPY f /f\n");
}

// SPEC B2.21, A4.08, A4.15, B6.02, C6.11
// SPEC C4.07
#[test]
fn several_platforms_become_an_index_and_share_the_build_stage() {
    need_run!();
    let bench = Bench::new();
    bench.dockerfile(
        "FROM --platform=$BUILDPLATFORM busybox AS build\n\
         RUN echo shared > /shared\n\
         ARG TARGETPLATFORM TARGETARCH TARGETVARIANT BUILDPLATFORM\n\
         RUN echo \"$BUILDPLATFORM makes $TARGETPLATFORM ($TARGETARCH,$TARGETVARIANT)\" > /out\n\
         FROM scratch\nCOPY --from=build /out /shared /\n",
    );
    let tar = bench.path("multi.tar");
    let dest = format!("type=oci,dest={}", tar.display());
    let run = bench.build(&["--platform", "linux/amd64,linux/arm64,linux/arm/v7", "-o", &dest]).ok();
    let host = rbuild::oci::Platform::host();
    let distinct: std::collections::HashSet<&str> =
        run.stderr.lines().filter(|l| l.ends_with("RUN echo shared > /shared")).collect();
    assert_eq!(distinct.len(), 1, "{}", run.stderr);
    assert!(run.count("[linux/arm/v7 stage-1 1/1] COPY --from=build") > 0, "{}", run.stderr);
    assert_eq!(run.count("[context busybox] load metadata for"), 1, "{}", run.stderr);
    if host.to_string() == "linux/amd64" {
        assert!(run.count("[linux/amd64->arm64 build 2/2] RUN") > 0, "{}", run.stderr);
    }
    let (index, entry) = index_of(&tar);
    assert_eq!(entry["mediaType"], OCI_INDEX);
    assert_eq!(index["mediaType"], OCI_INDEX);
    let platforms: Vec<String> =
        index["manifests"].as_array().unwrap().iter().map(|m| name_of(&m["platform"])).collect();
    assert_eq!(platforms, ["linux/amd64", "linux/arm64", "linux/arm/v7"]);
    let arm = Image::open_platform(&tar, "linux/arm/v7");
    assert_eq!((&arm.config["architecture"], &arm.config["variant"]), (&"arm".into(), &"v7".into()));
    assert_eq!(arm.text("out"), format!("{host} makes linux/arm/v7 (arm,v7)\n"));
    assert_eq!(Image::open_platform(&tar, "linux/arm64").text("out"), format!("{host} makes linux/arm64 (arm64,)\n"));
    // Again: everything is found, and the bytes are the same.
    let again = bench.path("again.tar");
    let dest = format!("type=oci,dest={}", again.display());
    bench.build(&["--platform", "linux/amd64,linux/arm64,linux/arm/v7", "-o", &dest]).ok();
    assert_eq!(std::fs::read(tar).unwrap(), std::fs::read(again).unwrap());
}

// SPEC A5.18
#[test]
fn run_for_a_foreign_platform_is_refused_with_the_remedy() {
    need_run!();
    let bench = Bench::new();
    bench.dockerfile("FROM scratch\nCOPY --from=busybox / /\nRUN true\n");
    // s390x never runs here unless somebody registered an emulator.
    let run = bench.build(&["--platform", "linux/s390x"]);
    if run.code == 0 {
        skip!("this machine runs s390x programs");
    }
    run.fails(10, &["runtime execution on platform linux/s390x not supported", "--platform=$BUILDPLATFORM"]);
}

// SPEC A4.08, A4.09, C6.17, E3.10: COPY onto foreign bases works anywhere, the index is pushed and pulled again.
#[test]
fn foreign_bases_and_a_pushed_index() {
    need_run!();
    let registry = need!(support::registry::Registry::start());
    let bench = Bench::new();
    copies(&bench);
    let base = format!("{}/base:1", registry.host);
    let both = "linux/amd64,linux/arm64";
    bench.build(&["--platform", both, "-t", &base, "--push"]).ok();
    bench.file("g", "more").dockerfile(&format!("FROM {base}\nCOPY g /g\n"));
    let (tag, twice) = (format!("{}/app:1", registry.host), format!("{}/app:2", registry.host));
    let metadata = bench.path("meta.json");
    let (iid, meta) = (bench.path("iid").display().to_string(), metadata.display().to_string());
    let flags = ["--platform", both, "-t", &tag, "-t", &twice, "--push", "--iidfile", &iid, "--metadata-file", &meta];
    bench.build(&flags).ok();
    for platform in ["linux/amd64", "linux/arm64"] {
        let arch = platform.split('/').nth(1).unwrap();
        let (status, image) = registry.inspect("app:1", arch);
        assert!(status, "{image}");
        assert_eq!(image["architecture"], arch);
        assert!(image["config"]["Env"].to_string().contains(&format!("\"P={platform}\"")), "{image}");
    }
    // SPEC B2.12, B2.16: an index has no config, so its own digest is the ID.
    let meta = json(&std::fs::read(&metadata).unwrap());
    assert_eq!(meta["containerimage.descriptor"]["mediaType"], OCI_INDEX);
    assert_eq!(meta.get("containerimage.config.digest"), None);
    assert_eq!(meta["image.name"], format!("{tag},{twice}"));
    assert_eq!(std::fs::read_to_string(&iid).unwrap(), meta["containerimage.digest"].as_str().unwrap());
    // The store has it under its names too.
    assert!(bench.rbuild(&["images"]).ok().stdout.contains("/app"));
}

// SPEC A4.17
#[test]
fn buildkit_multi_platform_makes_an_index_of_one() {
    let bench = Bench::new();
    copies(&bench);
    let tar = bench.path("one.tar");
    let dest = format!("type=oci,dest={}", tar.display());
    bench.build(&["--build-arg", "BUILDKIT_MULTI_PLATFORM=1", "-o", &dest]).ok();
    let (index, _) = index_of(&tar);
    assert_eq!(index["manifests"].as_array().unwrap().len(), 1);
}

// SPEC B3.01, B3.02, C6.14
#[test]
fn files_of_several_platforms_are_split_or_must_not_overlap() {
    let bench = Bench::new();
    bench
        .file("amd64.txt", "a")
        .file("arm.txt", "b")
        .dockerfile("FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH.txt /only/\n");
    let both = ["--platform", "linux/amd64,linux/arm/v7"];
    let build = |dest: &str| bench.build(&[both[0], both[1], "-o", dest]);
    build("type=local,dest=split").ok();
    let out = bench.path("out");
    assert_eq!(std::fs::read_to_string(out.join("split/linux_amd64/only/amd64.txt")).unwrap(), "a");
    assert_eq!(std::fs::read_to_string(out.join("split/linux_arm_v7/only/arm.txt")).unwrap(), "b");
    build("type=local,dest=flat,platform-split=false").ok();
    assert!(out.join("flat/only/amd64.txt").is_file() && out.join("flat/only/arm.txt").is_file());
    build("type=tar,dest=split.tar").ok();
    let files = tar_files(&out.join("split.tar"));
    assert_eq!(files["linux_arm_v7/only/arm.txt"], b"b");
    build("type=tar,dest=flat.tar,platform-split=false").ok();
    let files = tar_files(&out.join("flat.tar"));
    assert!(files.contains_key("only/amd64.txt") && files.contains_key("only/arm.txt"));
    // One platform is not split, unless asked.
    bench.build(&["--platform", "linux/amd64", "-o", "type=local,dest=one,platform-split=true"]).ok();
    assert!(out.join("one/linux_amd64/only/amd64.txt").is_file());

    bench.file("f", "x").dockerfile("FROM scratch\nCOPY f /f\n");
    let text = "cannot overwrite f from linux/amd64 with linux/arm/v7 when split option is disabled";
    build("type=local,dest=clash,platform-split=false").fails(2, &[text]);
    assert!(!out.join("clash").exists(), "a failed export leaves nothing");
}

// SPEC B3.01, C6.14
#[test]
fn local_output_merges_or_deletes_and_keeps_times() {
    let bench = Bench::new();
    bench.file("new", "new").dockerfile("FROM scratch\nCOPY new /dir/new\n");
    let out = bench.path("out");
    std::fs::create_dir_all(out.join("o/dir")).unwrap();
    std::fs::write(out.join("o/dir/old"), "old").unwrap();
    bench.build(&["-o", "type=local,dest=o,source-date-epoch=77"]).ok();
    assert!(out.join("o/dir/old").is_file());
    let meta = std::fs::metadata(out.join("o/dir/new")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::mtime(&meta), 77);
    bench.build(&["-o", "type=local,dest=o,mode=delete"]).ok();
    assert!(out.join("o/dir/new").is_file() && !out.join("o/dir/old").exists());
    bench.build(&["-o", "type=local,dest=.,mode=delete"]).fails(2, &["mode=delete", "--allow buildx.local.delete"]);
    bench.build(&["-o", "type=tar,dest=t.tar,source-date-epoch=77"]).ok();
    let mut archive = tar::Archive::new(std::fs::File::open(out.join("t.tar")).unwrap());
    for entry in archive.entries().unwrap() {
        assert_eq!(entry.unwrap().header().mtime().unwrap(), 77);
    }
}

// SPEC B2.03, C6.12
#[test]
fn annotations_at_all_levels() {
    let bench = Bench::new();
    copies(&bench);
    let tar = bench.path("a.tar");
    let dest = format!("type=oci,dest={},annotation.org.A=attr,annotation-index.i=1", tar.display());
    let flags = [
        "--platform=linux/amd64,linux/arm64",
        "--annotation=all=1",
        "--annotation=manifest[linux/arm64]:only=arm",
        "--annotation=index-descriptor:top=1",
        "--annotation=manifest-descriptor[linux/amd64],index:both=1",
    ];
    bench.build(&[&flags[..], &["-o", &dest]].concat()).ok();
    let (index, entry) = index_of(&tar);
    assert_eq!(entry["annotations"]["top"], "1");
    assert_eq!(index["annotations"], serde_json::json!({"both": "1", "i": "1"}));
    assert_eq!(index["manifests"][0]["annotations"]["both"], "1");
    assert_eq!(index["manifests"][1].get("annotations"), None);
    let arm = Image::open_platform(&tar, "linux/arm64").manifest["annotations"].clone();
    assert_eq!(arm, serde_json::json!({"all": "1", "only": "arm", "org.A": "attr"}));
    let amd = Image::open_platform(&tar, "linux/amd64").manifest["annotations"].clone();
    assert_eq!(amd, serde_json::json!({"all": "1", "org.A": "attr"}));
    // One image: no index to annotate, but a descriptor.
    bench.build(&["--annotation=index:x=y", "-o", &dest]).fails(2, &["index annotations not supported"]);
    let dest = format!("type=oci,dest={},annotation-manifest-descriptor.d=1", tar.display());
    bench.build(&["-o", &dest]).ok();
    assert_eq!(json(&tar_files(&tar)["index.json"])["manifests"][0]["annotations"]["d"], "1");
}

// SPEC C6.02, C6.03, E4.02–E4.05
#[test]
fn compressions_and_media_types() {
    let bench = Bench::new();
    bench.file("f", "payload ".repeat(4000)).dockerfile("FROM busybox\nCOPY f /f\n");
    if support::bases().is_err() {
        skip!("no base images");
    }
    let image = |attributes: &str| {
        let tar = bench.path("c.tar");
        bench.build(&["-o", &format!("type=oci,dest={},{attributes}", tar.display())]).ok();
        Image::open_tar(&tar)
    };
    let types = |image: &Image| -> Vec<String> {
        let layers = image.manifest["layers"].as_array().unwrap();
        layers.iter().map(|l| l["mediaType"].as_str().unwrap().rsplit('.').next().unwrap().to_owned()).collect()
    };
    assert_eq!(types(&image("compression=uncompressed")), ["tar+gzip", "tar"]);
    assert_eq!(types(&image("compression=zstd,force-compression=true")), ["tar+zstd", "tar+zstd"]);
    let (fast, best) = (image("compression=gzip,compression-level=1"), image("compression=gzip,compression-level=9"));
    assert_ne!(fast.manifest["layers"][1]["size"], best.manifest["layers"][1]["size"]);
    assert_eq!(fast.config["rootfs"], best.config["rootfs"], "compression changes no diff ID");
    let lazy = image("compression=estargz");
    let layer = &lazy.manifest["layers"][1];
    assert!(layer["annotations"]["containerd.io/snapshot/stargz/toc.digest"].as_str().unwrap().starts_with("sha256:"));
    assert_eq!(lazy.text("f"), "payload ".repeat(4000));
    assert!(lazy.has("stargz.index.json"), "the table is a file of the tar");
    let docker = image("oci-mediatypes=false");
    assert_eq!(docker.manifest["mediaType"], "application/vnd.docker.distribution.manifest.v2+json");
    assert_eq!(docker.manifest["config"]["mediaType"], "application/vnd.docker.container.image.v1+json");
    assert_eq!(types(&docker), ["gzip", "gzip"]);
}

// SPEC C9.13: what was made to be pulled piece by piece is pulled as a whole.
#[test]
fn c9_13_images_for_lazy_pulling_are_bases_like_others() {
    let registry = FakeRegistry::start();
    let bench = Bench::new();
    bench.file("dir/f", "payload ".repeat(4000)).dockerfile("FROM scratch\nCOPY dir /dir\n");
    for compression in ["estargz", "zstd"] {
        let name = format!("{}/lazy:{compression}", registry.host());
        bench
            .build(&["-t", &name, "-o", &format!("type=registry,compression={compression},force-compression=true")])
            .ok();
        let other = Bench::new();
        other.dockerfile(&format!("FROM {name} AS lazy\nFROM scratch\nCOPY --from=lazy /dir /\n"));
        let image = other.build_image(&[]);
        assert_eq!((image.text("f"), image.top()), ("payload ".repeat(4000), vec!["f".into()]), "{compression}");
    }
}

// SPEC C9.14: without steps an image for Windows can be put together; that Windows does not run it is said.
#[test]
fn c9_14_images_for_windows_are_put_together_and_run_no_steps() {
    let bench = Bench::new();
    bench.file("a.exe", "MZ").dockerfile("FROM scratch\nCOPY a.exe a.exe\nCMD [\"a.exe\"]\n");
    let tar = bench.path("w.tar");
    let output = format!("type=oci,dest={}", tar.display());
    let said = bench.build(&["--platform", "windows/amd64", "-o", &output]).ok().stderr;
    assert!(said.contains("layers for windows/amd64 are written as for Linux"), "{said}");
    let image = Image::open_tar(&tar);
    assert_eq!((image.config["os"].as_str(), image.text("a.exe")), (Some("windows"), "MZ".into()));
    bench.dockerfile("FROM scratch\nCOPY a.exe a.exe\nRUN a.exe\n");
    let said = bench
        .build(&["--platform", "windows/amd64"])
        .fails(10, &["runtime execution on platform windows/amd64 not supported"]);
    assert!(
        said.stderr.contains("no other operating system") && said.stderr.contains("keep RUN on Linux"),
        "{}",
        said.stderr
    );
}

// SPEC B3.09, C6.16: nothing is published before every output is ready, and old files stay as they were.
#[test]
fn a_failed_output_leaves_the_others_as_they_were() {
    let registry = FakeRegistry::start();
    let bench = Bench::new();
    copies(&bench);
    let (file, layout) = (bench.path("out/a.tar"), bench.path("out/layout"));
    std::fs::write(&file, "old").unwrap();
    std::fs::write(bench.path("out/taken"), "").unwrap();
    let tag = format!("{}/app:1", registry.host());
    let flags = [
        "-t",
        &tag,
        "--push",
        "-o",
        "type=oci,dest=a.tar",
        "-o",
        "type=oci,dest=layout,tar=false",
        "-o",
        "type=local,dest=files",
        // A file is in the way of the directory.
        "-o",
        "type=tar,dest=taken/x.tar",
    ];
    bench.build(&flags).fails(8, &["taken"]);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "old");
    assert!(!layout.join("index.json").exists() && !bench.path("out/files").exists());
    assert_eq!(registry.count("PUT", "/manifests/"), 0);
    assert!(!bench.rbuild(&["images"]).ok().stdout.contains("/app"));
    // Without the obstacle all of them are written by one build.
    std::fs::remove_file(bench.path("out/taken")).unwrap();
    bench.build(&flags).ok();
    assert!(bench.path("out/files/f").is_file() && bench.path("out/taken/x.tar").is_file());
    let names: Vec<_> = std::fs::read_dir(bench.path("out")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names.len(), 4, "no temporary file is left: {names:?}");
    assert_eq!(Image::open_tar(&file).digest, Image::open_dir(&layout).digest);
    assert_eq!(registry.count("PUT", "/manifests/"), 1);
}

// SPEC C6.11, E4.02, E4.03, E4.10: a single image is a manifest without an index; members and white space as Go's encoder has them, since
// digests depend on them. What is said about an image needs an index.
#[test]
fn c6_11_documents_are_written_as_buildkit_writes_them() {
    let bench = Bench::new();
    copies(&bench);
    let (oci, path) = ("type=oci,dest=c6_11.tar,name=app", bench.path("out/c6_11.tar"));
    bench.build(&["-o", oci, "--annotation", "k=v"]).ok();
    let files = tar_files(&path);
    let top = json(&files["index.json"]);
    let entry = &top["manifests"][0];
    assert_eq!(entry["mediaType"], "application/vnd.oci.image.manifest.v1+json");
    let blob = |digest: &Value| files[&format!("blobs/{}", digest.as_str().unwrap().replace(':', "/"))].clone();
    let text = String::from_utf8(blob(&entry["digest"])).unwrap();
    let manifest = json(text.as_bytes());
    let (config, layer) = (&manifest["config"], &manifest["layers"][0]);
    let expected = format!(
        r#"{{
  "schemaVersion": 2,
  "mediaType": "application/vnd.oci.image.manifest.v1+json",
  "config": {{
    "mediaType": "application/vnd.oci.image.config.v1+json",
    "digest": {},
    "size": {}
  }},
  "layers": [
    {{
      "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
      "digest": {},
      "size": {}
    }}
  ],
  "annotations": {{
    "k": "v"
  }}
}}"#,
        config["digest"], config["size"], layer["digest"], layer["size"]
    );
    assert_eq!(text, expected);
    assert_eq!(layer["size"], blob(&layer["digest"]).len());
    bench.build(&["-o", oci, "--provenance=true"]).ok();
    let (index, entry) = index_of(&path);
    assert_eq!(entry["mediaType"], OCI_INDEX);
    let keys: Vec<&String> = index.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["schemaVersion", "mediaType", "manifests"]);
    let platforms: Vec<String> =
        index["manifests"].as_array().unwrap().iter().map(|entry| name_of(&entry["platform"])).collect();
    assert_eq!(platforms.len(), 2);
    assert_eq!(platforms[1], "unknown/unknown");
}

// SPEC B3.03, C6.15
#[test]
fn a_layout_directory_takes_several_images() {
    let bench = Bench::new();
    copies(&bench);
    let entries =
        || json(&std::fs::read(bench.path("out/l/index.json")).unwrap())["manifests"].as_array().unwrap().clone();
    bench.build(&["-o", "type=oci,dest=l,tar=false,name=app:1"]).ok();
    bench.build(&["-o", "type=oci,dest=l,tar=false,name=app:2"]).ok();
    assert_eq!(entries().len(), 2);
    bench.build(&["--label", "x=y", "-o", "type=oci,dest=l,tar=false,name=app:2"]).ok();
    let all = entries();
    assert_eq!(all.len(), 2, "a name means one image");
    assert_ne!(all[0]["digest"], all[1]["digest"]);
    assert_eq!(all[1]["annotations"]["io.containerd.image.name"], "docker.io/library/app:2");
    assert_eq!(all[1]["annotations"]["org.opencontainers.image.ref.name"], "2");
}

// SPEC C6.01, C6.05, C6.17
#[test]
fn names_by_digest() {
    let registry = FakeRegistry::start();
    let bench = Bench::new();
    copies(&bench);
    let repository = format!("{}/app", registry.host());
    let meta = bench.path("m.json");
    let flag = meta.display().to_string();
    let dest = format!("type=image,name={repository},push=true,push-by-digest=true,name-canonical=true");
    bench.build(&["-o", &dest, "--metadata-file", &flag]).ok();
    let digest = json(&std::fs::read(&meta).unwrap())["containerimage.digest"].as_str().unwrap().to_owned();
    let state = registry.state().repositories["app"].clone();
    assert!(state.tags.is_empty() && state.manifests.contains_key(&digest));
    let images = bench.rbuild(&["images", "--format", "json"]).ok().stdout;
    assert!(images.contains(&format!("{repository}:latest@{digest}")), "{images}");
    bench.build(&["-o", "type=image,dangling-name-prefix=dangling"]).ok();
    let images = bench.rbuild(&["images", "--format", "json"]).ok().stdout;
    assert!(images.contains(&format!("docker.io/library/dangling@{digest}")), "{images}");
    // With a name, and the prefix for nameless images only: no second name.
    let dest = "type=image,name=named,dangling-name-prefix=other,danging-name-empty-only=true,unpack=true";
    bench.build(&["-o", dest]).ok();
    let images = bench.rbuild(&["images", "--format", "json"]).ok().stdout;
    assert!(images.contains("/named:latest") && !images.contains("/other@"), "{images}");
    bench.build(&["-o", "type=image,name=unkept,store=false"]).ok();
    assert!(!bench.rbuild(&["images"]).ok().stdout.contains("unkept"));
}

// An unchanged image costs no layer bytes and at most three requests besides authentication.
#[test]
fn e3_11_an_unchanged_image_is_pushed_with_three_requests() {
    let registry = FakeRegistry::start();
    let bench = Bench::new().with_default_attestations();
    copies(&bench);
    let tag = format!("{}/app:1", registry.host());
    bench.build(&["--platform=linux/amd64,linux/arm64", "-t", &tag, "--push"]).ok();
    let puts = registry.count("PUT", "/manifests/");
    assert_eq!(puts, 5, "two images, their provenance, then the index");
    let order: Vec<String> =
        registry.requests().iter().filter(|r| r.method == "PUT").map(|r| r.target.clone()).collect();
    assert!(order.last().unwrap().ends_with("/manifests/1"), "the tag comes last: {order:?}");
    let before = registry.requests().len();
    bench.build(&["--platform=linux/amd64,linux/arm64", "-t", &tag, "--push"]).ok();
    let extra = registry.requests().split_off(before);
    assert!(extra.len() <= 3, "{extra:?}");
    assert!(extra.iter().all(|r| r.body.is_empty()));
}

// The same where the registry wants tokens: what is asked of the token server is authentication.
#[test]
fn e3_11_an_unchanged_image_is_pushed_with_three_requests_that_carry_a_token() {
    let registry = FakeRegistry::start();
    registry.set_auth(Auth::Token(Tokens { anonymous_pull: false, ..Tokens::default() }));
    let bench = Bench::new().with_default_attestations();
    copies(&bench);
    let tag = format!("{}/app:1", registry.host());
    let push = || {
        let before = registry.requests().len();
        bench.build(&["-t", &tag, "--push", "--creds", "user:secret"]).ok();
        registry.requests().split_off(before)
    };
    assert!(push().iter().any(|r| r.method == "PUT"));
    let again = push();
    let carried = again.iter().filter(|r| r.path() != "/token" && r.header("authorization").is_some()).count();
    assert!(carried <= 3, "{again:?}");
    assert!(again.iter().all(|r| !["PUT", "PATCH"].contains(&r.method.as_str())), "{again:?}");
}

// The same image under another tag, by a build and by `rbuild push`: what the registry has is not asked for piece by piece.
#[test]
fn e3_11_another_tag_of_an_unchanged_image_costs_three_requests() {
    let registry = FakeRegistry::start();
    let bench = Bench::new();
    copies(&bench);
    let tag = |tag: &str| format!("{}/app:{tag}", registry.host());
    let asked = |args: &[&str]| {
        let before = registry.requests().len();
        bench.rbuild(args).ok();
        registry.requests().split_off(before)
    };
    let context = bench.path("ctx").display().to_string();
    let build = |tag: &str, flags: &[&str]| {
        asked(&[&["build", &context, "-t", tag, "--push", "--provenance=false"], flags].concat())
    };
    assert!(build(&tag("1"), &[]).len() > 3);
    let again = build(&tag("2"), &[]);
    assert!(again.len() <= 3 && again.iter().all(|r| !r.target.contains("/blobs/")), "{again:?}");
    bench.rbuild(&["tag", &tag("1"), &tag("3")]).ok();
    let again = asked(&["push", &tag("3")]);
    assert!(again.len() <= 3 && again.iter().all(|r| !r.target.contains("/blobs/")), "{again:?}");
    assert!(asked(&["push", &tag("3")]).len() <= 3);
    let state = registry.state().repositories["app"].clone();
    assert!(state.tags["1"] == state.tags["2"] && state.tags["1"] == state.tags["3"]);
    // What is said about the image names the tag, so that is new; the image is not.
    let attested = build(&tag("4"), &["--provenance=true"]);
    let statement = |r: &&fake_registry::Request| r.method == "PUT" && r.target.contains("/blobs/");
    assert!(attested.iter().filter(statement).count() <= 2, "its config and what it says: {attested:?}");
    let layers: Vec<String> = bench
        .rbuild(&["inspect", "--format", "{{json .}}", &tag("1")])
        .ok()
        .stdout
        .split('"')
        .filter(|text| text.starts_with("sha256:"))
        .map(ToOwned::to_owned)
        .collect();
    let manifest = state.tags["1"].clone();
    let blobs = layers.iter().filter(|digest| **digest != manifest);
    for digest in blobs {
        assert!(attested.iter().all(|r| !r.target.contains(digest.as_str())), "{digest}: {attested:?}");
    }
}

/// Calls of a build, by name with their arguments; `Err` where they cannot be watched.
fn calls(bench: &Bench, output: &str) -> Result<Vec<String>, String> {
    let log = bench.path("calls");
    let mut strace = std::process::Command::new("strace");
    strace.args(["-f", "-e", "trace=copy_file_range,read,ioctl", "-o"]).arg(&log);
    // Without namespaces: what needs a setuid program cannot be watched.
    let build = bench.build_command(&["--isolation", "none", "-o", output]);
    strace.arg(build.get_program()).args(build.get_args()).current_dir(bench.path("out"));
    strace.envs(build.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let run = strace.output().map_err(|e| format!("strace: {e}"))?;
    if !run.status.success() {
        return Err(format!("strace: {}", String::from_utf8_lossy(&run.stderr).lines().last().unwrap_or_default()));
    }
    Ok(std::fs::read_to_string(log).unwrap().lines().map(ToOwned::to_owned).collect())
}

// SPEC B3.03: what is in the store already is copied, file to file by the kernel, which shares the bytes where the file system
// can, and into an archive in pieces; it is never linked, and never compressed again.
#[test]
fn b3_03_an_unchanged_image_costs_a_copy() {
    let bench = Bench::new();
    let size = 3 << 20;
    // Random, so that the layer is large.
    let mut random = vec![0; size];
    std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom").unwrap(), &mut random).unwrap();
    bench.file("f", random).dockerfile("FROM scratch\nCOPY f /f\n");
    bench.build(&["-o", "type=oci,dest=first.tar", "--isolation", "none"]).ok();
    for (output, place) in [("type=oci,dest=l,tar=false", "l/blobs/sha256"), ("type=oci,dest=a.tar", "a.tar")] {
        let calls = need!(calls(&bench, output));
        // (Nothing else is copied by a build whose steps are cached.)
        let bytes = |call: &String| call.rsplit("= ").next()?.trim().parse::<usize>().ok();
        let copied: usize = match place {
            // In pieces. Which file a descriptor is of cannot be seen of a process whose program is not readable, so it
            // is told by the size: nothing else is read by more than a page or two.
            "a.tar" => {
                let reads = calls.iter().filter(|call| call.contains("read(") || call.contains("read resumed"));
                reads.filter_map(bytes).filter(|bytes| *bytes > 64 << 10).sum()
            }
            _ => calls.iter().filter(|call| call.contains("copy_file_range(")).filter_map(bytes).sum(),
        };
        let shared = calls.iter().any(|call| call.contains("FICLONE") && call.ends_with("= 0"));
        assert!(copied >= size || shared, "{output}: {copied} of {size}: {calls:#?}");
        let path = bench.path("out").join(place);
        let files: Vec<_> = match path.is_dir() {
            true => std::fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()).collect(),
            false => vec![path],
        };
        for file in files {
            assert_eq!(
                std::os::unix::fs::MetadataExt::nlink(&std::fs::metadata(&file).unwrap()),
                1,
                "{}",
                file.display()
            );
        }
    }
    let layer = |image: &Image| image.manifest["layers"].clone();
    let archive = Image::open_tar(&bench.path("out/a.tar"));
    assert_eq!(layer(&archive), layer(&Image::open_tar(&bench.path("out/first.tar"))));
}

// SPEC B3.03: an archive that nobody touched since it was written stays, and looks like one that was written now. Whatever was done to it,
// it is written again.
#[test]
fn b3_03_an_archive_that_is_there_is_not_written_again() {
    use std::os::unix::fs::MetadataExt as _;
    let bench = Bench::new();
    bench.file("f", "payload").dockerfile("FROM scratch\nCOPY f /f\n");
    let (out, path) = ("type=oci,dest=a.tar,name=example.com/a:1", bench.path("out/a.tar"));
    let build = |output: &str| bench.build(&["-o", output, "--isolation", "none", "--progress=plain"]).ok();
    build(out);
    let bytes = std::fs::read(&path).unwrap();
    let first = std::fs::metadata(&path).unwrap();
    let again = build(out);
    let second = std::fs::metadata(&path).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
    assert!(second.modified().unwrap() > first.modified().unwrap(), "make(1) sees that it was made");
    // Where the file system does not tell changes apart that follow each other at once, it is always written.
    let kept = again.stderr.contains("keeping tarball");
    assert_eq!(kept, first.ino() == second.ino(), "{}", again.stderr);
    if !kept {
        eprintln!("skipped in part: this file system does not tell changes apart");
    }
    let changed = |harm: &str, inflict: &dyn Fn()| {
        inflict();
        let run = build(out);
        assert!(!run.stderr.contains("keeping tarball"), "{harm}: {}", run.stderr);
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "{harm}");
    };
    changed("other bytes, same size and time", &|| {
        let time = std::fs::metadata(&path).unwrap().modified().unwrap();
        std::fs::write(&path, vec![b'x'; bytes.len()]).unwrap();
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
    });
    changed("deleted", &|| std::fs::remove_file(&path).unwrap());
    changed("another file of the same bytes", &|| {
        std::fs::copy(&path, bench.path("copy")).unwrap();
        std::fs::rename(bench.path("copy"), &path).unwrap();
    });
    // Another image, and the first one again.
    build(&out.replace("a:1", "a:2"));
    assert_ne!(std::fs::read(&path).unwrap(), bytes);
    changed("another image", &|| {});
}

// SPEC N2.19: who may not push learns it before the build, not after it.
#[test]
fn a_push_that_is_not_allowed_stops_the_build_early() {
    need_run!();
    let registry = FakeRegistry::start();
    registry.fault("POST", "/blobs/uploads/", 9, Action::Status(403, vec![], String::new()));
    let bench = Bench::new();
    bench.dockerfile("FROM busybox\nRUN sleep 60; echo late > /late\n");
    let tag = format!("{}/app:1", registry.host());
    let run = bench.build(&["-t", &tag, "--push"]).fails(6, &["push access denied"]);
    assert!(!run.stderr.contains("exit code"), "{}", run.stderr);
    assert_eq!(registry.count("PUT", ""), 0);
}

/// Takes what a docker or podman would take; gives the archive.
fn engine(path: &Path, info: &'static str) -> std::sync::mpsc::Receiver<Vec<u8>> {
    use std::io::{BufRead as _, BufReader, Read as _, Write as _};
    let listener = std::os::unix::net::UnixListener::bind(path).unwrap();
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).is_ok_and(|n| n > 0) {}
            let mut body = Vec::new();
            let answer = if head.starts_with("GET /info") {
                info
            } else if head.starts_with("POST /images/load") {
                loop {
                    let mut line = String::new();
                    reader.read_line(&mut line).unwrap();
                    let size = usize::from_str_radix(line.trim(), 16).unwrap();
                    let mut chunk = vec![0; size + 2];
                    reader.read_exact(&mut chunk).unwrap();
                    if size == 0 {
                        break;
                    }
                    body.extend_from_slice(&chunk[..size]);
                }
                "{\"stream\":\"Loaded image: demo:1\\n\"}\n"
            } else {
                continue;
            };
            let text =
                format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{answer}", answer.len());
            let _ = stream.write_all(text.as_bytes());
            if !body.is_empty() {
                let _ = sender.send(body);
            }
        }
    });
    receiver
}

// SPEC B2.14, B3.04, N2.13, B5.03
#[test]
fn load_goes_to_docker_where_it_answers_and_else_to_the_store() {
    let mut bench = Bench::new();
    copies(&bench);
    // The usual sockets may belong to somebody: only the one named counts here.
    let socket = bench.path("docker.sock");
    bench.env.push(("DOCKER_HOST".into(), format!("unix://{}", socket.display())));
    bench.build(&["-t", "demo:1", "--load"]).fails(7, &["nothing answers at unix://", "DOCKER_HOST"]);
    let loaded = engine(&socket, r#"{"Driver":"overlay2"}"#);
    let run = bench.build(&["-t", "demo:1", "--load"]).ok();
    assert_eq!(run.count("Loaded image: demo:1"), 1, "{}", run.stderr);
    let archive = bench.path("loaded.tar");
    std::fs::write(&archive, loaded.recv().unwrap()).unwrap();
    assert_eq!(json(&tar_files(&archive)["manifest.json"])[0]["RepoTags"][0], "demo:1");
    assert_eq!(Image::open_tar(&archive).text("f"), "payload");
    // SPEC B2.15: pushed and loaded by one build; the archive has the name with its registry.
    let registry = FakeRegistry::start();
    let tag = format!("{}/demo:1", registry.host());
    bench.build(&["-t", &tag, "--push", "--load"]).ok();
    std::fs::write(&archive, loaded.recv().unwrap()).unwrap();
    assert_eq!(json(&tar_files(&archive)["manifest.json"])[0]["RepoTags"][0], tag.as_str());
    assert!(registry.state().repositories["demo"].tags.contains_key("1"));
    let both = ["--platform=linux/amd64,linux/arm64", "-t", "demo:1", "--load"];
    bench.build(&both).fails(2, &["manifest lists", "containerd image store"]);
    std::fs::remove_file(&socket).unwrap();
    let loaded = engine(&socket, r#"{"DriverStatus":[["driver-type","io.containerd.snapshotter.v1"]]}"#);
    bench.build(&both).ok();
    std::fs::write(&archive, loaded.recv().unwrap()).unwrap();
    assert_eq!(Image::open_platform(&archive, "linux/arm64").text("f"), "payload");
}

// SPEC B2.14, B5.03: where podman listens, where a context of docker's says, and nobody else.
#[test]
fn b2_14_podmans_socket_and_contexts_of_docker_are_found() {
    let usual = ["/var/run/docker.sock", "/run/podman/podman.sock"];
    if usual.iter().any(|path| std::os::unix::net::UnixStream::connect(path).is_ok()) {
        skip!("an engine listens on this machine");
    }
    let mut bench = Bench::new();
    copies(&bench);
    let run = bench.build(&["-t", "demo:1", "--load"]).ok();
    assert_eq!(run.count("neither docker nor podman answers on this machine"), 1, "{}", run.stderr);
    // As rootless podman has it.
    let runtime = bench.path("run");
    std::fs::create_dir_all(runtime.join("podman")).unwrap();
    std::fs::set_permissions(&runtime, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    bench.env.push(("XDG_RUNTIME_DIR".into(), runtime.display().to_string()));
    let loaded = engine(&runtime.join("podman/podman.sock"), "{}");
    bench.build(&["-t", "demo:1", "--load"]).ok();
    assert!(!loaded.recv().unwrap().is_empty());
    // The current context of docker goes before the usual places, DOCKER_CONTEXT before it, `context=` before both.
    let docker = bench.path("home/.docker");
    let context = |name: &str| {
        let socket = bench.path(&format!("{name}.sock"));
        let dir =
            docker.join("contexts/meta").join(fake_registry::sha256(name.as_bytes()).trim_start_matches("sha256:"));
        std::fs::create_dir_all(&dir).unwrap();
        let host = format!("unix://{}", socket.display());
        let meta = serde_json::json!({"Name": name, "Endpoints": {"docker": {"Host": host}}});
        std::fs::write(dir.join("meta.json"), meta.to_string()).unwrap();
        engine(&socket, "{}")
    };
    let (current, named, asked) = (context("current"), context("named"), context("asked"));
    std::fs::write(docker.join("config.json"), r#"{"currentContext":"current"}"#).unwrap();
    bench.build(&["-t", "demo:1", "--load"]).ok();
    assert!(!current.recv().unwrap().is_empty());
    bench.env.push(("DOCKER_CONTEXT".into(), "named".into()));
    bench.build(&["-t", "demo:1", "--load"]).ok();
    assert!(!named.recv().unwrap().is_empty());
    bench.build(&["-t", "demo:1", "-o", "type=docker,context=asked"]).ok();
    assert!(!asked.recv().unwrap().is_empty());
    bench.build(&["-t", "demo:1", "-o", "type=docker,context=nobody"]).fails(2, &["docker context \"nobody\""]);
}
