//! Caches on other machines: every backend against the real thing, and what happens when it misbehaves (SPEC B4, C7).
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stderr, reason = "skip reasons are collected by scripts/test")]
#![allow(missing_docs, unreachable_pub, reason = "a test program")]

#[path = "support/fake_gha.rs"]
mod fake_gha;
#[path = "support/fake_registry/mod.rs"]
mod fake_registry;
#[path = "support/proxy.rs"]
mod proxy;
mod support;

use std::time::{Duration, Instant};

use fake_gha::FakeGha;
use fake_registry::{Action, FakeRegistry};
use proxy::{Proxy, Spoil};
use support::registry::Registry;
use support::services::{AUTHORIZED, AZURE_KEY, Service};
use support::{Bench, Run};

/// Another machine: the same context, an empty store.
fn elsewhere(bench: &Bench, args: &[&str]) -> Run {
    let _ = bench.rbuild(&["system", "reset", "--force"]);
    bench.build(args)
}

const STAGES: &str = "FROM busybox AS tools
RUN echo tool > /tool
FROM busybox AS build
COPY src /src
COPY --from=tools /tool /tool
RUN cat /src/* /tool > /out
FROM busybox
COPY --from=build /out /out
RUN cp /out /final
";

fn project() -> Bench {
    let bench = Bench::new();
    bench.file("src/a", "a\n").file("src/b", "b\n").dockerfile(STAGES);
    bench
}

/// What a client of caches accepts.
const ACCEPT: &str = "Accept: application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json\r\n";

/// Writes a document beside the others of a local cache.
fn put(dir: &std::path::Path, document: &[u8]) -> String {
    let digest = rbuild::base::Digest::sha256(document).to_string();
    std::fs::write(dir.join("blobs").join(digest.replace(':', "/")), document).unwrap();
    digest
}

/// Every vertex of [`STAGES`] that runs or copies.
const STEPS: usize = 6;

/// Bytes of the largest blob in the store: that of a layer, if one was fetched.
fn largest_blob(bench: &Bench) -> u64 {
    let blobs = std::fs::read_dir(bench.store().join("oci/blobs/sha256")).unwrap();
    blobs.map(|e| e.unwrap().metadata().unwrap().len()).max().unwrap_or(0)
}

// SPEC B4.03, C7.02, C7.05, C7.10
// SPEC C4.02, C4.09
#[test]
fn b4_03_registry_cache_is_shared_and_nothing_is_pulled_that_nothing_reads() {
    need_run!();
    let registry = Registry::start().unwrap();
    let bench = project();
    let cache = format!("type=registry,ref={}/app:cache,mode=max", registry.host);
    let first = bench.build(&["--cache-to", &cache]).ok();
    assert!(first.stderr.contains("exporting cache to"), "{}", first.stderr);
    let from = format!("{}/app:cache", registry.host);
    let second = elsewhere(&bench, &["--cache-from", &from]).ok();
    assert_eq!(second.count("CACHED"), STEPS, "{}", second.stderr);
    assert!(second.stderr.contains("importing cache manifest from"), "{}", second.stderr);
    assert!(largest_blob(&bench) < 100_000, "a layer was fetched although nothing reads it");
    // One file changed: what does not depend on it is still found, and what it needs is fetched.
    bench.file("src/a", "changed\n");
    let third = elsewhere(&bench, &["--cache-from", &from]).ok();
    assert_eq!(third.count("CACHED"), 1, "{}", third.stderr);
    let image = bench.build_image(&[]);
    assert_eq!(image.text("final"), "changed\nb\ntool\n");
}

// SPEC C7.05: with mode=min only the layers of the result are there, and that is enough for an unchanged build.
#[test]
fn c7_05_min_exports_the_result_only() {
    need_run!();
    let registry = Registry::start().unwrap();
    let bench = project();
    let spec = |name: &str, mode: &str| format!("type=registry,ref={}/{name},mode={mode}", registry.host);
    bench.build(&["--cache-to", &spec("min:c", "min"), "--cache-to", &spec("max:c", "max")]).ok();
    let layers = |name: &str| {
        let text = registry.request("GET", &format!("/v2/{name}/manifests/c"), ACCEPT);
        text.matches("buildkit/createdat").count()
    };
    assert!(layers("min") < layers("max"), "{} and {}", layers("min"), layers("max"));
    let from = format!("{}/min:c", registry.host);
    let again = elsewhere(&bench, &["--cache-from", &from]).ok();
    assert_eq!(again.count("CACHED"), 2, "{}", again.stderr);
    assert!(!again.stderr.contains("RUN cat"), "nothing else was even looked at: {}", again.stderr);
    assert_eq!(bench.build_image(&[]).text("final"), "a\nb\ntool\n");
}

// SPEC C7.03, E4.08: the older form, both families.
#[test]
fn c7_03_indexes_of_blobs_are_written_and_read() {
    need_run!();
    let registry = Registry::start().unwrap();
    let bench = project();
    for (name, options) in
        [("oci", "image-manifest=false"), ("docker", "oci-mediatypes=false"), ("zstd", "compression=zstd")]
    {
        let spec = format!("type=registry,ref={}/{name}:c,mode=max,{options}", registry.host);
        elsewhere(&bench, &["--cache-to", &spec]).ok();
        let text = registry.request("GET", &format!("/v2/{name}/manifests/c"), ACCEPT);
        let expected = match name {
            "oci" => "application/vnd.oci.image.index.v1+json",
            "docker" => "application/vnd.docker.distribution.manifest.list.v2+json",
            _ => "application/vnd.oci.image.layer.v1.tar+zstd",
        };
        assert!(text.contains(expected) && text.contains("application/vnd.buildkit.cacheconfig.v0"), "{name}: {text}");
        let from = format!("type=registry,ref={}/{name}:c", registry.host);
        assert_eq!(elsewhere(&bench, &["--cache-from", &from]).ok().count("CACHED"), STEPS, "{name}");
        assert_eq!(bench.build_image(&[]).text("final"), "a\nb\ntool\n");
    }
}

// SPEC B4.02, C7.04
#[test]
fn b4_02_inline_cache_travels_with_the_image() {
    need_run!();
    let registry = Registry::start().unwrap();
    let bench = project();
    let tag = format!("{}/app:1", registry.host);
    bench.build(&["-t", &tag, "--push", "--build-arg", "BUILDKIT_INLINE_CACHE=1"]).ok();
    let image = registry.get("app:1");
    assert!(image.config["moby.buildkit.cache.v0"].is_string(), "{}", image.config);
    let again = elsewhere(&bench, &["-t", &tag, "--push", "--cache-to", "type=inline", "--cache-from", &tag]).ok();
    assert_eq!(again.count("RUN cp /out /final\n"), 1, "{}", again.stderr);
    assert!(largest_blob(&bench) < 100_000, "a layer was fetched although nothing reads it: {}", again.stderr);
    assert_eq!(registry.get("app:1").digest, image.digest, "the same image comes out");
    // An image that is built on it does not carry its records.
    bench.dockerfile(&format!("FROM {tag}\nENV A=b\n"));
    assert!(bench.build_image(&[]).config.get("moby.buildkit.cache.v0").is_none());
}

// SPEC C7.12, N2.09: BuildKit writes such caches and refuses to read them.
#[test]
fn n2_09_caches_with_large_documents_are_read() {
    need_run!();
    let bench = project();
    let dir = bench.path("cache");
    bench.build(&["--cache-to", &format!("type=local,dest={},mode=max", dir.display())]).ok();
    let read = |digest: &serde_json::Value| {
        std::fs::read(dir.join("blobs").join(digest.as_str().unwrap().replace(':', "/"))).unwrap()
    };
    let json = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).unwrap();
    let mut index = json(&std::fs::read(dir.join("index.json")).unwrap());
    let mut manifest = json(&read(&index["manifests"][0]["digest"]));
    let mut config = read(&manifest["config"]["digest"]);
    config.resize(config.len() + (2 << 20), b' ');
    manifest["config"]["digest"] = put(&dir, &config).into();
    manifest["config"]["size"] = config.len().into();
    let mut manifest = manifest.to_string().into_bytes();
    manifest.resize(manifest.len() + (1 << 20), b' ');
    index["manifests"][0]["digest"] = put(&dir, &manifest).into();
    index["manifests"][0]["size"] = manifest.len().into();
    std::fs::write(dir.join("index.json"), index.to_string()).unwrap();
    let again = elsewhere(&bench, &["--cache-from", &format!("type=local,src={}", dir.display())]).ok();
    assert_eq!(again.count("CACHED"), STEPS, "{}", again.stderr);
}

// SPEC B4.04, C7.06
#[test]
fn b4_04_local_cache() {
    need_run!();
    let bench = project();
    let dir = bench.path("cache");
    let to = format!("type=local,dest={},mode=max", dir.display());
    bench.build(&["--cache-to", &to]).ok();
    let from = format!("type=local,src={}", dir.display());
    let again = elsewhere(&bench, &["--cache-from", &from]).ok();
    assert_eq!(again.count("CACHED"), STEPS, "{}", again.stderr);
    assert_eq!(bench.build_image(&[]).text("final"), "a\nb\ntool\n");
    let index = std::fs::read_to_string(dir.join("index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_str(&index).unwrap();
    assert_eq!(index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"], "latest");
    let digest = index["manifests"][0]["digest"].as_str().unwrap();
    let by_digest = format!("type=local,src={},digest={digest}", dir.display());
    assert_eq!(elsewhere(&bench, &["--cache-from", &by_digest]).ok().count("CACHED"), STEPS);
}

// SPEC C7.10: all are asked, the first match counts; one that is not there is one warning.
#[test]
fn c7_10_several_caches_at_once() {
    need_run!();
    let registry = Registry::start().unwrap();
    let bench = project();
    let (one, two) = (bench.path("one"), format!("type=registry,ref={}/two:c,mode=max", registry.host));
    bench.build(&["--cache-to", &format!("type=local,dest={},mode=max", one.display()), "--cache-to", &two]).ok();
    bench.file("src/a", "other\n");
    bench.build(&["--cache-to", &two]).ok();
    let from = [
        format!("{}/missing:c", registry.host),
        format!("type=local,src={}", one.display()),
        format!("{}/two:c", registry.host),
    ];
    let args: Vec<&str> = from.iter().flat_map(|f| ["--cache-from", f.as_str()]).collect();
    for content in ["a\n", "other\n"] {
        bench.file("src/a", content);
        let run = elsewhere(&bench, &args).ok();
        assert_eq!(run.count("CACHED"), STEPS, "{}", run.stderr);
        assert_eq!(run.count("warning: "), 1, "{}", run.stderr);
    }
}

// SPEC N2.10, B4.01: an export that fails is an error after the image is safe, or a warning.
#[test]
fn n2_10_a_failed_export_fails_after_the_image_is_safe() {
    need_run!();
    let registry = Registry::start().unwrap();
    let bench = project();
    let tag = format!("{}/app:1", registry.host);
    let bad = "type=registry,ref=127.0.0.1:1/no:c";
    bench
        .build(&["-t", &tag, "--push", "--cache-to", bad])
        .fails(5, &["failed to export the cache", "ignore-error=true"]);
    assert_eq!(registry.get("app:1").text("final"), "a\nb\ntool\n");
    let run = bench.build(&["--cache-to", &format!("{bad},ignore-error=true")]).ok();
    assert_eq!(run.count("warning: failed to export the cache"), 1, "{}", run.stderr);
}

#[test]
fn b2_09_bad_values_are_refused_before_anything_happens() {
    let bench = project();
    bench.build(&["--cache-from", "type=redis,x=y"]).fails(2, &["unknown cache type"]);
    bench.build(&["--cache-to", "type=registry"]).fails(2, &["registry cache exporter requires ref"]);
    bench.build(&["--cache-to", "type=local,dest=/x,mde=max"]).fails(2, &["did you mean mode?"]);
    assert!(!bench.store().exists());
}

// PAIN 68: blobs that have expired are misses, not errors.
#[test]
fn c7_10_expired_blobs_are_misses() {
    need_run!();
    let bench = project();
    let dir = bench.path("cache");
    bench.build(&["--cache-to", &format!("type=local,dest={},mode=max", dir.display())]).ok();
    for blob in std::fs::read_dir(dir.join("blobs/sha256")).unwrap() {
        let path = blob.unwrap().path();
        if std::fs::read(&path).unwrap().starts_with(&[0x1f, 0x8b]) {
            std::fs::remove_file(path).unwrap();
        }
    }
    let from = format!("type=local,src={}", dir.display());
    // Everything is found, and nothing of it is there when the image is written.
    let _ = bench.rbuild(&["system", "reset", "--force"]);
    let tar = bench.path("o.tar");
    let run = bench.build(&["--cache-from", &from, "-o", &format!("type=oci,dest={}", tar.display())]).ok();
    assert!(run.count("warning: ") >= 1 && run.count("warning: ") <= 3, "{}", run.stderr);
    assert_eq!(support::image::Image::open_tar(&tar).text("final"), "a\nb\ntool\n");
    // The store does not believe in them any more either.
    let run = bench.build(&[]).ok();
    assert_eq!(run.count("warning: "), 0, "{}", run.stderr);
}

// SPEC C7.11: blobs of a cache have the codec that was asked for; layers that exist with another one only with force.
#[test]
fn c7_11_blobs_are_compressed_as_asked() {
    need_run!();
    let registry = FakeRegistry::start();
    let bench = project();
    let magic = |name: &str| -> std::collections::BTreeSet<[u8; 4]> {
        let state = registry.state();
        let blobs = state.repositories[name].blobs.values();
        blobs.filter(|blob| !blob.starts_with(b"{")).map(|blob| blob[..4].try_into().unwrap()).collect()
    };
    let zstd = [0x28, 0xb5, 0x2f, 0xfd];
    let to = |name: &str, more: &str| format!("type=registry,ref={}/{name}:c,mode=max,{more}", registry.host());
    elsewhere(&bench, &["--cache-to", &to("zstd", "compression=zstd,compression-level=3,force-compression=true")]).ok();
    assert_eq!(magic("zstd"), [zstd].into());
    bench.build(&["--cache-to", &to("plain", "compression=uncompressed,force-compression=true")]).ok();
    assert!(!magic("plain").contains(&zstd) && magic("plain").iter().all(|m| m[..2] != [0x1f, 0x8b]));
    // The base is gzip where it comes from, and stays what it is.
    elsewhere(&bench, &["--cache-to", &to("both", "compression=zstd")]).ok();
    assert!(magic("both").contains(&zstd));
    for name in ["zstd", "plain", "both"] {
        let from = format!("{}/{name}:c", registry.host());
        assert_eq!(elsewhere(&bench, &["--cache-from", &from]).ok().count("CACHED"), STEPS, "{name}");
    }
}

// SPEC C7.12: BuildKit reads no list above 1 MiB; here larger ones are read.
#[test]
fn c7_12_large_lists_are_read() {
    need_run!();
    let registry = FakeRegistry::start();
    let (bench, from) = cached_at(&registry);
    let (document, config) = {
        let state = registry.state();
        let app = &state.repositories["app"];
        let document: serde_json::Value = serde_json::from_slice(&app.manifests[&app.tags["cache"]].1).unwrap();
        let digest = document["config"]["digest"].as_str().unwrap();
        (document.clone(), serde_json::from_slice::<serde_json::Value>(&app.blobs[digest]).unwrap())
    };
    let (mut document, mut config) = (document, config);
    let records = config["records"].as_array_mut().unwrap();
    let others = (0..20_000).map(|n| serde_json::json!({ "digest": fake_registry::sha256(format!("{n}").as_bytes()) }));
    records.extend(others);
    let bytes = config.to_string().into_bytes();
    assert!(bytes.len() > 1 << 20);
    document["config"]["digest"] = registry.put_blob("app", &bytes).into();
    document["config"]["size"] = bytes.len().into();
    let kind = document["mediaType"].as_str().unwrap().to_owned();
    registry.put_manifest("app", Some("cache"), &kind, document.to_string().as_bytes());
    let run = elsewhere(&bench, &["--cache-from", &from]).ok();
    assert_eq!((run.count("CACHED"), run.count("warning: ")), (STEPS, 0), "{}", run.stderr);
}

/// One fault at a time: the build succeeds, with the right content, after at most one warning for each cache.
fn with_fault(bench: &Bench, registry: &FakeRegistry, path: &str, action: Action) -> Run {
    let _ = bench.rbuild(&["system", "reset", "--force"]);
    registry.state().forget_faults();
    registry.fault("GET", path, usize::MAX, action);
    let tar = bench.path("fault.tar");
    let from = format!("{}/app:cache", registry.host());
    let out = format!("type=oci,dest={}", tar.display());
    let run = bench.build(&["--cache-from", &from, "-o", &out]).ok();
    assert_eq!(support::image::Image::open_tar(&tar).text("final"), "a\nb\ntool\n");
    run
}

// SPEC C7.10: whatever a cache does, the build succeeds without it.
#[test]
fn c7_10_a_cache_that_misbehaves_is_a_miss() {
    need_run!();
    let registry = FakeRegistry::start();
    let bench = project();
    let to = format!("type=registry,ref={}/app:cache,mode=max", registry.host());
    bench.build(&["--cache-to", &to]).ok();
    let status = |code| Action::Status(code, Vec::new(), "{}".into());
    let busy = Action::Status(429, vec![("Retry-After", "600".into())], "{}".into());
    for (path, action) in [
        ("/manifests/", status(404)),
        ("/manifests/", status(401)),
        ("/manifests/", status(500)),
        ("/manifests/", busy.clone()),
        ("/manifests/", Action::Close),
        ("/manifests/", Action::Truncate(20)),
        ("/manifests/", Action::Corrupt),
        ("/blobs/", status(404)),
        ("/blobs/", status(500)),
        ("/blobs/", busy),
        ("/blobs/", Action::CutAfter(10)),
        ("/blobs/", Action::Truncate(10)),
        ("/blobs/", Action::Corrupt),
    ] {
        let what = format!("{path} {action:?}");
        let run = with_fault(&bench, &registry, path, action);
        let warnings = run.count("warning: ");
        assert!(warnings == 1, "{what}: {warnings} warnings\n{}", run.stderr);
    }
}

// SPEC C7.10: the same when the config is fine and only layers cannot be had.
#[test]
fn c7_10_layers_that_cannot_be_fetched_are_built() {
    need_run!();
    let registry = FakeRegistry::start();
    let bench = project();
    let to = format!("type=registry,ref={}/app:cache,mode=max", registry.host());
    bench.build(&["--cache-to", &to]).ok();
    let layers = registry.state().large_blobs(0);
    assert!(layers.len() > 2, "{layers:?}");
    for action in [Action::Status(404, Vec::new(), "{}".into()), Action::Corrupt, Action::Truncate(30)] {
        let _ = bench.rbuild(&["system", "reset", "--force"]);
        registry.state().forget_faults();
        for layer in &layers {
            // The config is a blob too.
            if !registry.blob("app", layer).unwrap().starts_with(b"{") {
                registry.fault("GET", layer, usize::MAX, action.clone());
            }
        }
        let tar = bench.path("o.tar");
        let from = format!("{}/app:cache", registry.host());
        let run = bench.build(&["--cache-from", &from, "-o", &format!("type=oci,dest={}", tar.display())]).ok();
        assert_eq!(support::image::Image::open_tar(&tar).text("final"), "a\nb\ntool\n", "{action:?}");
        assert!(run.count("warning: ") >= 1, "{}", run.stderr);
    }
}

/// A project whose results are in the cache `app:cache` of a registry that will misbehave.
fn cached_at(registry: &FakeRegistry) -> (Bench, String) {
    let bench = project();
    let from = format!("{}/app:cache", registry.host());
    bench.build(&["--cache-to", &format!("type=registry,ref={from},mode=max")]).ok();
    (bench, from)
}

// SPEC C7.10: a cache that says nothing is asked once, and the build ends while the answer is still awaited.
#[test]
fn c7_10_a_cache_that_stalls_is_not_waited_for() {
    need_run!();
    let registry = FakeRegistry::start();
    let (mut bench, _) = cached_at(&registry);
    bench.env.push(("RBUILD_CACHE_PATIENCE".into(), "0s".into()));
    let before = registry.requests().len();
    let run = with_fault(&bench, &registry, "/manifests/", Action::Hold);
    assert_eq!(run.count("warning: "), 1, "{}", run.stderr);
    let asked: Vec<_> =
        registry.requests().into_iter().skip(before).filter(|r| r.target.len() > "/v2/".len()).collect();
    assert_eq!(asked.len(), 1, "{asked:?}");
}

// SPEC C7.10: layers that never come cost one deadline, not one for each: the cache is not asked for others.
#[test]
fn c7_10_a_cache_whose_layers_stall_is_asked_once() {
    need_run!();
    let registry = FakeRegistry::start();
    let (bench, from) = cached_at(&registry);
    let layers = registry.state().large_blobs(0);
    for layer in layers {
        if !registry.blob("app", &layer).unwrap().starts_with(b"{") {
            registry.fault("GET", &layer, usize::MAX, Action::Hold);
        }
    }
    let before = registry.count("GET", "/blobs/");
    let tar = bench.path("o.tar");
    let run = elsewhere(&bench, &["--cache-from", &from, "-o", &format!("type=oci,dest={}", tar.display())]).ok();
    assert_eq!(support::image::Image::open_tar(&tar).text("final"), "a\nb\ntool\n");
    assert_eq!(run.count("warning: "), 1, "{}", run.stderr);
    // The config, and the two layers of the result at the same time.
    assert_eq!(registry.count("GET", "/blobs/") - before, 3);
}

// SPEC C7.10: a cache that comes late is used from then on, and a step that runs by then does not go on.
#[test]
fn c7_10_a_cache_that_comes_late_is_used_when_it_comes() {
    need_run!();
    let registry = FakeRegistry::start();
    let dockerfile = format!("FROM busybox\nARG ENDS\n{ENDLESS}\nRUN echo 2 > /two\n");
    let (mut bench, from) = cached_endless(&registry, &dockerfile, "max");
    bench.env.push(("RBUILD_CACHE_PATIENCE".into(), "0s".into()));
    registry.fault("GET", "/manifests/", 1, Action::Delay(Duration::from_secs(4)));
    let run = elsewhere(&bench, &["--cache-from", &from]).ok();
    // Whether the step is found itself or only what is built on it depends on who is faster.
    assert!(run.count("CACHED") >= 1 && run.count("DONE") >= 1, "{}", run.stderr);
    assert_eq!(run.count("warning: "), 0, "{}", run.stderr);
}

/// A step that ends at once where the secret `ends` is given, and never elsewhere.
const ENDLESS: &str = "RUN --mount=type=secret,id=ends [ -s /run/secrets/ends ] || sleep 100000";

/// Builds `dockerfile` where it ends, and writes a cache of this mode.
fn cached_endless(registry: &FakeRegistry, dockerfile: &str, mode: &str) -> (Bench, String) {
    let bench = Bench::new();
    bench.dockerfile(dockerfile).file("yes", "yes");
    let secret = format!("id=ends,src={}", bench.ctx().join("yes").display());
    let from = format!("{}/app:cache", registry.host());
    bench.build(&["--secret", &secret, "--cache-to", &format!("type=registry,ref={from},mode={mode}")]).ok();
    (bench, from)
}

// SPEC C7.10: a layer of which nothing comes is built while it is waited for, and what comes first ends the other.
#[test]
fn c7_10_a_layer_that_comes_late_ends_the_step_that_makes_it() {
    need_run!();
    let registry = FakeRegistry::start();
    let (bench, from) =
        cached_endless(&registry, &format!("FROM busybox\n{ENDLESS}; echo 1 > /one\nRUN echo 2 > /two\n"), "max");
    let layers = registry.state().large_blobs(0);
    for layer in layers {
        if !registry.blob("app", &layer).unwrap().starts_with(b"{") {
            registry.fault("GET", &layer, 1, Action::Delay(Duration::from_secs(3)));
        }
    }
    let tar = bench.path("o.tar");
    let out = format!("type=oci,dest={}", tar.display());
    let run = elsewhere(&bench, &["--cache-from", &from, "-o", &out]).ok();
    assert!(run.stderr.contains("sleep 100000"), "it was begun: {}", run.stderr);
    let image = support::image::Image::open_tar(&tar);
    assert_eq!((image.text("one"), image.text("two")), ("1\n".into(), "2\n".into()));
}

// SPEC C7.10: what a late result makes needless is stopped, however far below it is.
#[test]
fn c7_10_what_leads_to_a_late_result_is_stopped() {
    need_run!();
    let registry = FakeRegistry::start();
    let dockerfile =
        format!("FROM busybox AS build\n{ENDLESS}; echo 1 > /one\nFROM scratch\nCOPY --from=build /one /one\n");
    // The result is in the cache, what it was made from is not.
    let (mut bench, from) = cached_endless(&registry, &dockerfile, "min");
    bench.env.push(("RBUILD_CACHE_PATIENCE".into(), "0s".into()));
    registry.fault("GET", "/manifests/", 1, Action::Delay(Duration::from_secs(3)));
    let run = elsewhere(&bench, &["--cache-from", &from]).ok();
    assert_eq!((run.count("CACHED"), run.count("CANCELED")), (1, 1), "{}", run.stderr);
    assert_eq!(run.count("warning: "), 0, "{}", run.stderr);
    assert_eq!(bench.build_image(&[]).text("one"), "1\n");
}

// SPEC N2.10, C7.10: a cache that takes nothing is given up after one deadline, when the image is safe.
#[test]
fn n2_10_a_cache_that_takes_nothing_is_given_up() {
    need_run!();
    let registry = FakeRegistry::start();
    registry.fault("*", "/blobs/", usize::MAX, Action::Hold);
    let bench = project();
    let tar = bench.path("o.tar");
    let to = format!("type=registry,ref={}/app:cache,mode=max,ignore-error=true", registry.host());
    let run = bench.build(&["--cache-to", &to, "-o", &format!("type=oci,dest={}", tar.display())]).ok();
    assert_eq!(support::image::Image::open_tar(&tar).text("final"), "a\nb\ntool\n");
    assert_eq!(run.count("warning: "), 1, "{}", run.stderr);
    let asked = registry.requests().iter().filter(|r| r.target.contains("/blobs/")).count();
    assert!((1..=4).contains(&asked), "as many as are written at a time, each once: {asked}");
}

// SPEC N2.10, C7.10: who does not even greet is asked once, also by a build that is over at once.
#[test]
fn n2_10_a_registry_that_makes_no_connection_is_given_up() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let host = silent.local_addr().unwrap();
    let bench = Bench::new();
    bench.dockerfile("FROM scratch\nCOPY Dockerfile /f\n");
    let to = format!("type=registry,ref={host}/app:cache");
    let tar = bench.path("o.tar");
    let out = format!("type=oci,dest={}", tar.display());
    bench.build(&["--cache-to", &to, "-o", &out]).fails(5, &["failed to export the cache", "no connection in time"]);
    assert!(support::image::Image::open_tar(&tar).has("f"), "the image is safe");
    silent.set_nonblocking(true).unwrap();
    let asked = silent.incoming().map_while(Result::ok).count();
    assert!((1..=2).contains(&asked), "{asked}: by who wants to know ahead, and by the export");
}

/// What a build takes with a cache that fails, and without any; printed for docs/PERFORMANCE.md, never judged.
#[test]
fn c7_10_measured_faults() {
    need_run!();
    if std::env::var("RBUILD_TEST_LONG").unwrap_or_default().is_empty() {
        skip!("figures only: run with --long");
    }
    let mut bench = Bench::new();
    // What a user has.
    bench.env.push(("RBUILD_CACHE_PATIENCE".into(), "500ms".into()));
    let steps: String = (0..10).map(|n| format!("RUN sleep 2; echo {n} > /step{n}\n")).collect();
    bench.dockerfile(&format!("FROM busybox\n{steps}"));
    let registry = FakeRegistry::start();
    let from = format!("{}/app:cache", registry.host());
    bench.build(&["--cache-to", &format!("type=registry,ref={from},mode=max")]).ok();
    let tar = bench.path("o.tar");
    let out = format!("type=oci,dest={}", tar.display());
    let timed = |args: &[&str]| {
        let _ = bench.rbuild(&["system", "reset", "--force"]);
        let began = Instant::now();
        let run = bench.build(&[&["-o", &out], args].concat()).ok();
        (began.elapsed().as_secs_f64(), run.count("warning: "))
    };
    let (without, _) = timed(&[]);
    eprintln!("no cache: {without:.2} s");
    let status = |code| Action::Status(code, Vec::new(), "{}".into());
    let to = format!("type=registry,ref={}/other:cache,mode=max,ignore-error=true", registry.host());
    // Only one of them, as often as wanted.
    let only = std::env::var("RBUILD_TEST_FAULT").unwrap_or_default();
    for (what, action) in [
        ("404", status(404)),
        ("429", status(429)),
        ("500", status(500)),
        ("silence", Action::Hold),
        ("truncated", Action::Truncate(30)),
        ("cut", Action::CutAfter(30)),
        ("wrong digest", Action::Corrupt),
    ] {
        for (part, path, method) in
            [("list", "app/manifests/", "GET"), ("layers", "app/blobs/", "GET"), ("export", "other/", "*")]
        {
            if !only.is_empty() && only != format!("{what} {part}") {
                continue;
            }
            registry.state().forget_faults();
            if part == "layers" {
                // The list is read, so only what it promises fails.
                let layers = registry.state().large_blobs(0);
                for layer in layers {
                    if registry.blob("app", &layer).is_some_and(|blob| !blob.starts_with(b"{")) {
                        registry.fault(method, &layer, usize::MAX, action.clone());
                    }
                }
            } else {
                registry.fault(method, path, usize::MAX, action.clone());
            }
            let (took, warnings) =
                if part == "export" { timed(&["--cache-to", &to]) } else { timed(&["--cache-from", &from]) };
            eprintln!(
                "{what}, {part}: {:+.2} s ({:+.1} %), {warnings} warnings",
                took - without,
                100.0 * (took / without - 1.0)
            );
        }
    }
}

fn round_trip(bench: &Bench, cache: &str, expire: impl FnOnce()) {
    bench.build(&["--cache-to", &format!("{cache},mode=max")]).ok();
    let again = elsewhere(bench, &["--cache-from", cache]).ok();
    assert_eq!(again.count("CACHED"), STEPS, "{}", again.stderr);
    assert!(largest_blob(bench) < 100_000, "a layer was fetched although nothing reads it");
    bench.file("src/a", "changed\n");
    let image = |args: &[&str]| {
        let tar = bench.path("o.tar");
        let out = format!("type=oci,dest={}", tar.display());
        let run = elsewhere(bench, &[args, &["-o", &out]].concat()).ok();
        (support::image::Image::open_tar(&tar).text("final"), run)
    };
    let (text, run) = image(&["--cache-from", cache, "--cache-to", &format!("{cache},mode=max")]);
    assert_eq!((text.as_str(), run.count("CACHED")), ("changed\nb\ntool\n", 1), "{}", run.stderr);
    let (text, run) = image(&["--cache-from", cache]);
    assert_eq!((text.as_str(), run.count("CACHED")), ("changed\nb\ntool\n", STEPS), "{}", run.stderr);
    expire();
    let (text, run) = image(&["--cache-from", cache]);
    assert_eq!(text, "changed\nb\ntool\n");
    assert!(run.count("warning: ") >= 1, "{}", run.stderr);
}

// SPEC B4.07, B4.09, B5.12, C7.07
#[test]
fn b4_07_s3() {
    need_run!();
    let service = need!(Service::s3("caches"));
    let mut bench = project();
    bench.env = vec![("AWS_ACCESS_KEY_ID".into(), "id".into()), ("AWS_SECRET_ACCESS_KEY".into(), "geheim".into())];
    // More than a part, so that it is uploaded in several.
    bench.dockerfile(
        &STAGES.replace("RUN echo tool > /tool", "RUN echo tool > /tool; head -c 20000000 /dev/urandom > /big"),
    );
    let cache = service.s3_cache("name=one;two,prefix=p/");
    round_trip(&bench, &cache, || {
        let list = service.request("GET", "/caches?list-type=2&prefix=p/blobs/", AUTHORIZED);
        let keys: Vec<&str> = list.split("<Key>").skip(1).map(|k| k.split("</Key>").next().unwrap()).collect();
        assert!(keys.iter().all(|k| k.starts_with("p/blobs/sha256:")) && keys.len() > 4, "{keys:?}");
        for key in keys {
            let answer = service.request("DELETE", &format!("/caches/{key}"), AUTHORIZED);
            assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
        }
    });
    let manifest = service.request("GET", "/caches/p/manifests/two", AUTHORIZED);
    assert!(manifest.contains("\"diffID\":\"sha256:") && manifest.contains("\"records\":["), "{manifest}");
    // Blobs that are old are renewed; here everything is.
    bench.build(&["--cache-to", &format!("{cache},mode=max,touch_refresh=0s")]).ok();
    bench.build(&["--cache-to", &format!("{cache},mode=max,touch_refresh=0s")]).ok();
    assert_eq!(elsewhere(&bench, &["--cache-from", &cache]).ok().count("CACHED"), STEPS);
    // Keys from the file that Amazon's tools share.
    bench.env.clear();
    bench.file(
        "../keys",
        "[default]\naws_access_key_id = a\n[ci]\naws_access_key_id = id\naws_secret_access_key = geheim\n",
    );
    bench.env.push(("AWS_SHARED_CREDENTIALS_FILE".into(), bench.ctx().join("../keys").display().to_string()));
    bench.env.push(("AWS_PROFILE".into(), "ci".into()));
    assert_eq!(elsewhere(&bench, &["--cache-from", &cache]).ok().count("CACHED"), STEPS);
    bench.env[1].1 = "other".into();
    bench.build(&["--cache-from", &cache]).fails(2, &["no keys for AWS_PROFILE=other", "export-credentials"]);
    bench.env[1].1 = "ci".into();
    let wrong = cache.replace("bucket=caches", "bucket=other");
    bench.build(&["--cache-from", &wrong]).ok();
    bench.build(&["--cache-to", &wrong]).fails(5, &["failed to export the cache"]);
}

// SPEC B4.08, C7.08: the container is made by whoever writes first.
#[test]
fn b4_08_azure() {
    need_run!();
    let service = need!(Service::azure());
    let bench = project();
    let cache = service.azure_cache();
    bench.build(&["--cache-to", &format!("{cache},mode=max")]).ok();
    let again = elsewhere(&bench, &["--cache-from", &cache]).ok();
    assert_eq!(again.count("CACHED"), STEPS, "{}", again.stderr);
    assert_eq!(bench.build_image(&[]).text("final"), "a\nb\ntool\n");
    assert!(!again.stderr.contains(AZURE_KEY), "the key is shown");
}

// SPEC B4.05, B4.09, C7.09
#[test]
fn b4_05_gha_in_both_versions_with_few_calls() {
    need_run!();
    for version in [1, 2] {
        let service = FakeGha::start();
        let bench = project();
        let cache = format!("type=gha,url={0},url_v2={0},token={1},version={version}", service.url, fake_gha::token());
        round_trip(&bench, &cache, || service.expire("buildkit-blob-"));
        assert_eq!(service.complaints(), [""; 0]);
        let keys = service.keys();
        let hash = &fake_registry::sha256(b"refs/heads/x")[7..15];
        assert!(
            keys.contains(&format!("index-buildkit-1-{hash}#1"))
                && keys.contains(&format!("index-buildkit-1-{hash}#2")),
            "{keys:?}"
        );
        // A build that finds everything: one look-up for each ref that may be read.
        bench.build(&["--cache-to", &format!("{cache},mode=max")]).ok();
        service.calls();
        elsewhere(&bench, &["--cache-from", &cache, "--cache-to", &format!("{cache},mode=max")]).ok();
        let calls = service.calls();
        // Two look-ups; then the index: a look-up, a place for it and its end.
        let expected = if version == 1 { 6 } else { 5 };
        assert!(calls.len() <= expected, "{calls:?}");
    }
}

/// Whatever the server behind `proxy` does with requests for these paths, builds succeed without the cache, with one warning.
fn without_trouble(cache: &str, proxy: &Proxy, list: &str, layer: &str, export: &str) {
    let mut bench = Bench::new();
    bench.file("src", "a\n").dockerfile("FROM busybox\nCOPY src /src\nRUN cat /src > /out\n");
    bench.build(&["--cache-to", &format!("{cache},mode=max")]).ok();
    // A list that never comes is not waited for.
    bench.env.push(("RBUILD_CACHE_PATIENCE".into(), "0s".into()));
    let tar = bench.path("o.tar");
    let out = format!("type=oci,dest={}", tar.display());
    let patient = |spoil: Spoil, path: &str| if spoil == Spoil::Hold && path == list { "0s" } else { "10m" };
    let spoils = [429, 500, 404].map(Spoil::Status);
    for (path, spoil) in [list, layer]
        .into_iter()
        .flat_map(|path| spoils.into_iter().map(move |spoil| (path, spoil)))
        .chain([list, layer].map(|path| (path, Spoil::Hold)))
        .chain([list, layer].map(|path| (path, Spoil::Truncate)))
        .chain([list, layer].map(|path| (path, Spoil::Corrupt)))
        .chain([(layer, Spoil::Cut)])
    {
        let _ = bench.rbuild(&["system", "reset", "--force"]);
        bench.env.last_mut().unwrap().1 = patient(spoil, path).into();
        proxy.spoil("GET", path, spoil);
        if path.contains("twirp") {
            proxy.spoil("POST", path, spoil);
        }
        let run = bench.build(&["--cache-from", cache, "-o", &out]).ok();
        assert_eq!(support::image::Image::open_tar(&tar).text("out"), "a\n", "{path} {spoil:?}");
        assert_eq!(run.count("warning: "), 1, "{path} {spoil:?}: {}", run.stderr);
    }
    // The store has it all, so that only the export can go wrong.
    for spoil in [Spoil::Status(403), Spoil::Status(500), Spoil::Hold] {
        proxy.spoil("*", export, spoil);
        let to = format!("{cache},mode=max,ignore-error=true");
        let run = bench.build(&["--cache-to", &to, "-o", &out]).ok();
        assert_eq!(run.count("warning: failed to export"), 1, "{spoil:?}: {}", run.stderr);
    }
    if std::env::var("RBUILD_TEST_LONG").is_ok_and(|v| !v.is_empty()) {
        // Now that counts, it is waited for: as long as a healthy server may need, and the image is there anyway.
        std::fs::remove_file(&tar).unwrap();
        let run = bench.build(&["--cache-to", &format!("{cache},mode=max"), "-o", &out]);
        run.fails(5, &["failed to export the cache", "no answer"]);
        assert_eq!(support::image::Image::open_tar(&tar).text("out"), "a\n");
    }
    proxy.mend();
    let run = elsewhere(&bench, &["--cache-from", cache]).ok();
    assert_eq!((run.count("CACHED"), run.count("warning: ")), (2, 0), "it is what it was: {}", run.stderr);
}

// SPEC B4.07, C7.10
#[test]
fn b4_07_s3_that_misbehaves_is_a_miss() {
    need_run!();
    let service = need!(Service::s3("caches"));
    let proxy = Proxy::start(&service.host);
    let cache = service.s3_cache("access_key_id=id,secret_access_key=geheim,retry_max_attempts=1,retry_mode=adaptive");
    let cache = cache.replace(&service.host, &proxy.host);
    without_trouble(&cache, &proxy, "/manifests/", "/blobs/", "/caches/");
}

// SPEC B4.08, C7.10
#[test]
fn b4_08_azure_that_misbehaves_is_a_miss() {
    need_run!();
    let service = need!(Service::azure());
    let proxy = Proxy::start(&service.host);
    let cache = service.azure_cache().replace(&service.host, &proxy.host);
    without_trouble(&cache, &proxy, "/manifests/", "/blobs/", "/caches/");
}

// SPEC B4.05, C7.10: blobs are entries as the index is; the first one is a layer.
#[test]
fn b4_05_gha_that_misbehaves_is_a_miss() {
    need_run!();
    for (version, list, export) in [
        (2, "twirp/github.actions.results.api.v1.CacheService/Get", "/twirp/"),
        (1, "/_apis/artifactcache/cache?", "/_apis/"),
    ] {
        let service = FakeGha::start();
        let proxy = Proxy::start(service.url.trim_start_matches("http://").trim_end_matches('/'));
        service.known_as(&proxy.host);
        let url = format!("http://{}/", proxy.host);
        let token = fake_gha::token();
        let cache = format!("type=gha,url={url},url_v2={url},token={token},version={version},timeout=1s");
        without_trouble(&cache, &proxy, list, "/blobs/0", export);
        assert_eq!(service.complaints(), [""; 0]);
    }
}

// SPEC B4.05: outside of a workflow the cache is left out.
#[test]
fn b4_05_gha_outside_of_a_workflow_is_left_out() {
    let bench = project();
    bench.dockerfile("FROM scratch\nCOPY src /src\n");
    let run = bench.build(&["--cache-from", "type=gha", "--cache-to", "type=gha,mode=max"]).ok();
    assert_eq!(run.count("warning: "), 0, "{}", run.stderr);
}
