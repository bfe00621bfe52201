//! `manifest`: lists of images that are put together in the store, in our words and in buildah's.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stderr, reason = "skip reasons are collected by scripts/test")]
#![allow(missing_docs, unreachable_pub, reason = "a test program")]

mod support;

use serde_json::Value;
use support::Bench;
use support::registry::Registry;

fn inspect(bench: &Bench, list: &str) -> Value {
    let text = bench.rbuild(&["manifest", "inspect", list]).ok().stdout;
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// `OS/ARCHITECTURE[/VARIANT]` of every entry.
fn platforms(list: &Value) -> Vec<String> {
    let of = |entry: &Value| -> String {
        let named = ["os", "architecture", "variant"].iter().filter_map(|name| entry["platform"][name].as_str());
        named.collect::<Vec<_>>().join("/")
    };
    list["manifests"].as_array().unwrap().iter().map(of).collect()
}

/// A bench whose Dockerfile makes an image without attestations for any platform.
fn bench() -> Bench {
    let bench = Bench::new();
    bench.file("f", "payload").dockerfile("FROM scratch\nARG TARGETARCH\nENV ARCH=$TARGETARCH\nCOPY f /f\n");
    bench
}

fn build(bench: &Bench, platform: &str, rest: &[&str]) {
    let platform = format!("--platform={platform}");
    bench.build(&[&["--provenance=false", &platform], rest].concat()).ok();
}

// SPEC B8.16, D3.34
#[test]
fn b8_16_a_list_is_put_together_from_the_store_and_a_registry() {
    let registry = need!(Registry::start());
    let bench = bench();
    let arm = format!("{}/parts/arm:1", registry.host);
    build(&bench, "linux/amd64", &["-t", "amd"]);
    build(&bench, "linux/arm64", &["-t", &arm, "--push"]);
    bench.rbuild(&["rm", "--force", &arm]).ok();
    bench.rbuild(&["manifest", "exists", "all"]).fails(1, &[]);
    assert_eq!(bench.rbuild(&["manifest", "create", "all", "amd"]).ok().stdout, "all:latest\n");
    bench.rbuild(&["manifest", "exists", "all"]).ok();
    bench.rbuild(&["manifest", "create", "all"]).fails(2, &["the name all:latest is in use already", "--amend"]);
    let added = bench.rbuild(&["manifest", "add", "--variant", "v8", "--annotation", "k=v", "all", &arm]).ok().stdout;
    let list = inspect(&bench, "all");
    assert_eq!(platforms(&list), ["linux/amd64", "linux/arm64/v8"]);
    assert_eq!(list["manifests"][1]["annotations"]["k"], "v");
    assert_eq!(added.trim(), format!("all: {}", list["manifests"][1]["digest"].as_str().unwrap()));
    // The same image again changes what is said of it, and nothing else.
    bench.rbuild(&["manifest", "create", "--amend", "all", "amd"]).ok();
    assert_eq!(inspect(&bench, "all"), list);

    let target = format!("{}/app:1", registry.host);
    let digest = bench.path("digest");
    bench.rbuild(&["manifest", "push", "--digest-file", digest.to_str().unwrap(), "all", &target]).ok();
    for architecture in ["amd64", "arm64"] {
        let (ok, config) = registry.inspect("app:1", architecture);
        assert!(ok, "skopeo: {config}");
        let env = config["config"]["Env"].to_string();
        assert!(env.contains(&format!("\"ARCH={architecture}\"")), "{env}");
    }
    let there = bench.rbuild(&["imagetools", "inspect", "--format", "{{.Manifest.Digest}}", &target]).ok().stdout;
    assert_eq!(there.trim(), std::fs::read_to_string(&digest).unwrap());
    // A list of a registry can be looked at, and be part of another one: one image of it, or all.
    assert_eq!(platforms(&inspect(&bench, &target)), ["linux/amd64", "linux/arm64/v8"]);
    let remote = format!("docker-image://{target}");
    bench.rbuild(&["manifest", "create", "one", &remote]).ok();
    assert_eq!(platforms(&inspect(&bench, "one")).len(), 1);
    bench.rbuild(&["manifest", "create", "--all", "both", &remote]).ok();
    assert_eq!(platforms(&inspect(&bench, "both")).len(), 2);
}

// SPEC B8.16, D3.34
#[test]
fn b8_16_images_of_a_list_are_described_and_taken_away() {
    let bench = bench();
    build(&bench, "linux/amd64", &["-t", "amd"]);
    build(&bench, "linux/arm/v7", &["-t", "arm"]);
    bench.rbuild(&["manifest", "create", "--annotation", "a=b", "all", "amd", "arm"]).ok();
    bench.rbuild(&["manifest", "annotate", "--os-version", "10.1", "--os-features", "x,y", "all", "amd"]).ok();
    bench.rbuild(&["manifest", "annotate", "--index", "--annotation", "c=d", "all"]).ok();
    let list = inspect(&bench, "all");
    assert_eq!(list["annotations"], serde_json::json!({"a": "b", "c": "d"}));
    assert_eq!(list["manifests"][0]["platform"]["os.version"], "10.1");
    assert_eq!(list["manifests"][0]["platform"]["os.features"], serde_json::json!(["x", "y"]));
    // All names of a list mean the same, whatever becomes of it.
    bench.rbuild(&["tag", "all", "other", "third"]).ok();
    let digest = list["manifests"][0]["digest"].as_str().unwrap().to_owned();
    bench.rbuild(&["manifest", "remove", "other", &digest]).ok();
    for name in ["all", "other", "third"] {
        assert_eq!(platforms(&inspect(&bench, name)), ["linux/arm/v7"], "{name}");
    }
    bench.rbuild(&["manifest", "remove", "all", "amd"]).fails(2, &["amd is no entry of all"]);
    bench.rbuild(&["manifest", "annotate", "all", "--annotation", "novalue", "arm"]).fails(2, &["expected KEY=VALUE"]);
    bench.rbuild(&["manifest", "rm", "amd"]).fails(2, &["amd is a single image, not a list of images"]);
    bench.rbuild(&["manifest", "add", "amd", "arm"]).fails(2, &["amd is a single image"]);
    let gone = bench.rbuild(&["manifest", "rm", "third"]).ok().stdout;
    assert_eq!(gone.matches("untagged: ").count(), 3, "{gone}");
    bench.rbuild(&["manifest", "inspect", "--", "127.0.0.1:1/all"]).fails(7, &[]);
    bench.rbuild(&["inspect", "arm"]).ok();
}

// SPEC B8.16, C8.01
#[test]
fn b8_16_what_is_attested_of_an_image_comes_and_goes_with_it() {
    let bench = bench();
    bench.build(&["--provenance=mode=min", "-t", "amd"]).ok();
    bench.rbuild(&["manifest", "create", "all", "amd"]).ok();
    let list = inspect(&bench, "all");
    assert_eq!(list["manifests"].as_array().unwrap().len(), 2, "{list}");
    bench.rbuild(&["manifest", "remove", "all", "amd"]).ok();
    assert_eq!(inspect(&bench, "all")["manifests"], serde_json::json!([]));
}

// SPEC D3.34, D3.23
#[test]
fn d3_34_a_script_for_buildah_makes_an_image_for_two_platforms() {
    let registry = need!(Registry::start());
    let bench = bench();
    let buildah = |line: &[&str]| bench.rbuild(&[&["buildah"], line].concat());
    buildah(&["manifest", "create", "app"]).ok();
    for arch in ["amd64", "arm64"] {
        let context = bench.ctx();
        buildah(&["build", "--arch", arch, "--manifest", "app", "-q", context.to_str().unwrap()]).ok();
    }
    for name in ["app", "localhost/app"] {
        assert_eq!(platforms(&inspect(&bench, name)), ["linux/amd64", "linux/arm64"], "{name}");
    }
    let target = format!("docker://{}/app:2", registry.host);
    buildah(&["manifest", "push", "--all", "--tls-verify=false", "--rm", "localhost/app", &target]).ok();
    assert!(registry.inspect("app:2", "arm64").0);
    for name in ["app", "localhost/app"] {
        buildah(&["manifest", "exists", name]).fails(1, &[]);
    }
    // Of one kind or the other, as it is.
    build(&bench, "linux/amd64", &["-o", "type=image,name=plain,oci-mediatypes=false"]);
    buildah(&["push", "--format", "v2s2", "plain", &target]).ok();
    buildah(&["push", "--format", "oci", "plain", &target])
        .fails(125, &["plain is v2s2, and images are sent as they are"]);
    buildah(&["manifest", "create", "docker", "plain"]).ok();
    assert_eq!(inspect(&bench, "docker")["mediaType"], "application/vnd.docker.distribution.manifest.list.v2+json");
    // A layout directory is written, and read again.
    let layout = bench.path("layout");
    let layout = layout.to_str().unwrap();
    buildah(&["push", "plain", &format!("oci:{layout}")]).ok();
    buildah(&["rmi", "--all"]).ok();
    assert_eq!(bench.rbuild(&["images", "-q"]).ok().stdout, "");
    buildah(&["manifest", "create", "again", &format!("oci:{layout}")]).ok();
    assert_eq!(platforms(&inspect(&bench, "again")), ["linux/amd64"]);
}
