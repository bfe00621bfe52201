//! Cache mounts on other machines (SPEC B4, C4.10; PAIN 64, 65): `mounts=true` with every cache that has a place for them.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stderr, reason = "skip reasons are collected by scripts/test")]
#![allow(missing_docs, unreachable_pub, reason = "a test program")]

#[path = "support/fake_registry/mod.rs"]
mod fake_registry;
mod support;

use std::path::Path;

use fake_registry::{Action, FakeRegistry};
use support::image::Image;
use support::registry::Registry;
use support::services::{AUTHORIZED, Service};
use support::{Bench, Run};

/// A step that says what it found in its caches, and leaves there what a package manager would: something large that
/// stays, and one small thing for each version of the source.
const TOOL: &str = "FROM busybox
COPY src /src
RUN --mount=type=cache,target=/root/.cache/tool --mount=type=cache,id=other,target=/o \\
  cd /root/.cache/tool && ls -ln | awk 'NR > 1 {print $1, $3, $4, $9}' > /found && ls /o >> /found && \\
  { [ -e big ] || head -c 12000000 /dev/urandom > big; } && sha256sum < big >> /found && \\
  touch $(cat /src/version) && chown 55:66 $(cat /src/version) && chmod 4750 $(cat /src/version) && touch /o/mine
";

fn project() -> Bench {
    let bench = Bench::new();
    bench.dockerfile(TOOL).file("src/version", "v1");
    bench
}

/// Another machine: the same context, an empty store.
fn elsewhere(bench: &Bench, args: &[&str]) -> (Image, Run) {
    let _ = bench.rbuild(&["system", "reset", "--force"]);
    let tar = bench.path("o.tar");
    let out = format!("type=oci,dest={}", tar.display());
    let run = bench.build(&[args, &["-o", &out]].concat()).ok();
    (Image::open_tar(&tar), run)
}

/// What the step found: names with modes and owners, of both caches; and the digest of the large file.
fn found(image: &Image) -> (Vec<String>, String) {
    let mut lines: Vec<String> = image.text("found").lines().map(ToOwned::to_owned).collect();
    let digest = lines.pop().unwrap();
    (lines, digest)
}

/// What an export moved, as it says: bytes of its last line.
fn packs_written(run: &Run) -> usize {
    let mut packs: Vec<&str> = run.stderr.split("writing pack sha256:").skip(1).map(|rest| &rest[..64]).collect();
    packs.sort_unstable();
    packs.dedup();
    packs.len()
}

/// The first machine exports, others go on: a cached step, the next commit, without asking, with other ids, and when packs
/// have expired.
fn carried(bench: &Bench, cache: &str, expire: impl FnOnce()) {
    let to = format!("{cache},mode=max,mounts=true");
    let from = format!("{cache},mounts=true");
    let (image, run) = elsewhere(bench, &["--cache-to", &to]);
    let (nothing, big) = found(&image);
    assert_eq!(nothing, [""; 0]);
    assert!(packs_written(&run) >= 2 && run.stderr.contains("2 cache mounts, "), "{}", run.stderr);

    // Nothing changed: the step is cached, no mount is fetched, and what the cache has of them stays.
    let (_, run) = elsewhere(bench, &["--cache-from", &from, "--cache-to", &to]);
    assert_eq!(run.count("CACHED"), 2, "{}", run.stderr);
    assert_eq!(run.count("restoring"), 0, "{}", run.stderr);
    assert!(run.stderr.contains("no cache mount was used"), "{}", run.stderr);

    // The next commit on another machine finds what the first left, and moves only what is new.
    bench.file("src/version", "v2");
    let (image, run) = elsewhere(bench, &["--cache-from", &from, "--cache-to", &to]);
    let (names, digest) = found(&image);
    assert_eq!(names, ["-rw-r--r-- 0 0 big", "-rwsr-x--- 55 66 v1", "mine"], "{}", run.stderr);
    assert_eq!(digest, big);
    assert!(run.count("restoring cache mount /root/.cache/tool") >= 1, "{}", run.stderr);
    assert_eq!((packs_written(&run), run.count("warning: ")), (1, 0), "{}", run.stderr);
    assert!(largest_blob(bench) < 2_000_000, "packs stay in the store");

    // Not asked for: not restored. Asked for by its id: only that one.
    bench.file("src/version", "v3");
    let (image, _) = elsewhere(bench, &["--cache-from", cache]);
    assert_eq!(found(&image).0, [""; 0]);
    let (image, _) = elsewhere(bench, &["--cache-from", &format!("{cache},mounts=other")]);
    assert_eq!(found(&image).0, ["mine"]);
    let (image, _) = elsewhere(bench, &["--cache-from", &format!("{cache},mounts=/root/.cache/tool;nothing")]);
    assert_eq!(found(&image).0, ["-rw-r--r-- 0 0 big", "-rwsr-x--- 55 66 v1", "-rwsr-x--- 55 66 v2"]);
    let (image, _) = elsewhere(bench, &["--cache-from", &from, "--build-arg", "BUILDKIT_CACHE_MOUNT_NS=another"]);
    assert_eq!(found(&image).0, [""; 0], "another namespace is another mount");

    expire();
    let (image, run) = elsewhere(bench, &["--cache-from", &from]);
    assert!(!found(&image).0.iter().any(|name| name.ends_with("big")), "{}", run.stderr);
    assert!(run.count("warning: ") >= 1, "{}", run.stderr);
    // Whoever exports next makes good what is gone.
    let (_, run) = elsewhere(bench, &["--no-cache", "--cache-to", &to]);
    assert!(packs_written(&run) >= 2, "{}", run.stderr);
    bench.file("src/version", "v4");
    let (image, run) = elsewhere(bench, &["--cache-from", &from]);
    assert_eq!((found(&image).0.len(), run.count("warning: ")), (3, 0), "{}", run.stderr);
}

fn largest_blob(bench: &Bench) -> u64 {
    let blobs = std::fs::read_dir(bench.store().join("oci/blobs/sha256")).unwrap();
    // The base image's layer is one.
    let mut sizes: Vec<u64> = blobs.map(|e| e.unwrap().metadata().unwrap().len()).collect();
    sizes.sort_unstable();
    sizes.pop();
    sizes.pop().unwrap_or(0)
}

/// Layers of these tests are gzip.
fn is_large_pack(bytes: &[u8]) -> bool {
    bytes.len() > 1_000_000 && bytes.starts_with(&[0x28, 0xb5, 0x2f, 0xfd])
}

/// Deletes the large packs of a cache directory.
fn expire_packs(dir: &Path) {
    for blob in std::fs::read_dir(dir.join("blobs/sha256")).unwrap() {
        let path = blob.unwrap().path();
        if is_large_pack(&std::fs::read(&path).unwrap()) {
            std::fs::remove_file(path).unwrap();
        }
    }
}

// SPEC B4.04
#[test]
fn b4_04_cache_mounts_in_a_directory() {
    need_run!();
    let bench = project();
    let dir = bench.path("cache");
    let to = format!("type=local,dest={},mode=max,mounts=true", dir.display());
    bench.build(&["--cache-to", &to]).ok();
    let index = || std::fs::read_to_string(dir.join("index.json")).unwrap();
    assert!(index().contains("\"latest\"") && index().contains("\"latest.mounts\""), "{}", index());
    // A cache of layers alone leaves the mounts alone, and `reset` too.
    bench.file("src/version", "v2");
    bench.build(&["--cache-to", &format!("type=local,dest={},mode=max,reset=true", dir.display())]).ok();
    assert!(index().contains("latest.mounts"), "{}", index());
    std::fs::remove_dir_all(&dir).unwrap();
    bench.file("src/version", "v1");
    // dest and src are two words for one thing.
    let both = |text: &str| text.replace("dest=", "src=");
    let cache = format!("type=local,dest={}", dir.display());
    let from = format!("{},mounts=true", both(&cache));
    elsewhere(&bench, &["--cache-to", &to]);
    bench.file("src/version", "v2");
    let (image, run) = elsewhere(&bench, &["--cache-from", &from, "--cache-to", &to]);
    assert_eq!(found(&image).0.len(), 3, "{}", run.stderr);
    // Packs that nothing needs any more are deleted with the list that needed them.
    let size = || -> u64 {
        std::fs::read_dir(dir.join("blobs/sha256")).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum()
    };
    assert!(size() > 12_000_000);
    let tight = format!("{to},mounts-max-size=1mb");
    bench.file("src/version", "v3");
    let run = bench.build(&["--cache-to", &tight]).ok();
    // What the first version left is older than the large file, which was read since it was restored.
    assert!(run.stderr.contains("left out 2 files that were not used for longest"), "{}", run.stderr);
    assert!(size() < 8_000_000, "{}", size());
    bench.file("src/version", "v4");
    let (image, _) = elsewhere(&bench, &["--cache-from", &from]);
    assert_eq!(found(&image).0, ["-rwsr-x--- 55 66 v2", "-rwsr-x--- 55 66 v3", "mine"]);
    elsewhere(&bench, &["--no-cache", "--cache-to", &to]);
    expire_packs(&dir);
    bench.file("src/version", "v5");
    let (image, run) = elsewhere(&bench, &["--cache-from", &from]);
    assert_eq!(found(&image).0, [""; 0]);
    assert!((1..=2).contains(&run.count("warning: ")), "{}", run.stderr);
}

// SPEC B4.03: the cache itself stays what other builders read.
#[test]
fn b4_03_cache_mounts_in_a_registry() {
    need_run!();
    let registry = FakeRegistry::start();
    let bench = project();
    let cache = format!("type=registry,ref={}/app:cache", registry.host());
    carried(&bench, &cache, || {
        let mut state = registry.state();
        let blobs = &mut state.repositories.get_mut("app").unwrap().blobs;
        blobs.retain(|_, bytes| !is_large_pack(bytes));
    });
}

// The same against the registry that people run; nothing of the mounts is in what a BuildKit importer reads.
#[test]
fn b4_03_documents_of_the_cache_are_untouched() {
    need_run!();
    let registry = Registry::start().unwrap();
    let bench = project();
    let spec = |name: &str, more: &str| format!("type=registry,ref={}/app:{name},mode=max{more}", registry.host);
    bench.build(&["--cache-to", &spec("with", ",mounts=true"), "--cache-to", &spec("without", "")]).ok();
    let accept = "Accept: application/vnd.oci.image.manifest.v1+json\r\n";
    let body = |tag: &str| {
        let answer = registry.request("GET", &format!("/v2/app/manifests/{tag}"), accept);
        answer.split_once("\r\n\r\n").unwrap().1.to_owned()
    };
    assert_eq!(body("with"), body("without"));
    assert!(
        body("with.mounts").contains("application/vnd.rbuild.cache-mounts.v1+json+zstd"),
        "{}",
        body("with.mounts")
    );
    assert!(body("without.mounts").contains("MANIFEST_UNKNOWN"));
    bench.file("src/version", "v2");
    let from = format!("type=registry,ref={}/app:with,mounts=true", registry.host);
    let (image, run) = elsewhere(&bench, &["--cache-from", &from]);
    assert_eq!((found(&image).0.len(), run.count("warning: ")), (3, 0), "{}", run.stderr);
    // A cache without mounts is no trouble.
    let from = format!("type=registry,ref={}/app:without,mounts=true", registry.host);
    let (image, run) = elsewhere(&bench, &["--cache-from", &from]);
    assert_eq!((found(&image).0.len(), run.count("warning: ")), (0, 0), "{}", run.stderr);
}

// SPEC B4.07
#[test]
fn b4_07_cache_mounts_in_s3() {
    need_run!();
    let service = need!(Service::s3("caches"));
    let mut bench = project();
    bench.env = vec![("AWS_ACCESS_KEY_ID".into(), "id".into()), ("AWS_SECRET_ACCESS_KEY".into(), "geheim".into())];
    let cache = service.s3_cache("name=one");
    carried(&bench, &cache, || {
        let list = service.request("GET", "/caches?list-type=2&prefix=blobs/", AUTHORIZED);
        for key in list.split("<Key>").skip(1).map(|k| k.split("</Key>").next().unwrap()) {
            let answer = service.request("DELETE", &format!("/caches/{key}"), AUTHORIZED);
            assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
        }
    });
}

// SPEC B4.08
#[test]
fn b4_08_cache_mounts_in_azure() {
    need_run!();
    let service = need!(Service::azure());
    let bench = project();
    let cache = service.azure_cache();
    elsewhere(&bench, &["--cache-to", &format!("{cache},mode=max,mounts=true")]);
    bench.file("src/version", "v2");
    let (image, run) = elsewhere(&bench, &["--cache-from", &format!("{cache},mounts=true")]);
    assert_eq!((found(&image).0.len(), run.count("warning: ")), (3, 0), "{}", run.stderr);
}

// SPEC C7.10: whatever goes wrong with mounts is a warning, and the build succeeds with empty ones.
#[test]
fn c7_10_mounts_that_cannot_be_read_are_empty() {
    need_run!();
    let registry = FakeRegistry::start();
    let bench = project();
    let cache = format!("type=registry,ref={}/app:cache", registry.host());
    bench.build(&["--cache-to", &format!("{cache},mode=max,mounts=true")]).ok();
    bench.file("src/version", "v2");
    let from = format!("{cache},mounts=true");
    let status = |code| Action::Status(code, Vec::new(), "{}".into());
    let packs: Vec<String> = registry.state().large_blobs(1_000_000);
    let packs = packs.iter().filter(|blob| is_large_pack(&registry.blob("app", blob).unwrap()));
    let pack = packs.max_by_key(|blob| registry.blob("app", blob).unwrap().len()).unwrap().clone();
    let list = "/manifests/cache.mounts".to_owned();
    for (path, action) in [
        (&list, status(500)),
        (&list, Action::Truncate(20)),
        (&list, Action::Corrupt),
        (&pack, status(404)),
        (&pack, status(500)),
        (&pack, Action::Corrupt),
        (&pack, Action::Truncate(30)),
    ] {
        registry.state().forget_faults();
        registry.fault("GET", path, usize::MAX, action.clone());
        let (image, run) = elsewhere(&bench, &["--cache-from", &from]);
        let names = found(&image).0;
        assert!(!names.iter().any(|n| n.ends_with("big")), "{path} {action:?}: {names:?}");
        assert_eq!(run.count("warning: "), 1, "{path} {action:?}: {}", run.stderr);
    }
}

#[test]
fn b2_09_options_of_mounts() {
    let bench = project();
    let refused = |option: &str, value: &str, text: &str| {
        bench.build(&[option, value]).fails(2, &[text]);
    };
    refused("--cache-to", "type=inline,mounts=true", "no place for cache mounts");
    refused("--cache-to", "type=gha,mounts=true", "no place for cache mounts");
    refused("--cache-to", "type=local,dest=/x,mounts-max-size=1gb", "means nothing without mounts=true");
    refused("--cache-to", "type=local,dest=/x,mounts=true,mounts-max-size=much", "is not a size");
    refused("--cache-to", "type=local,dest=/x,mount=true", "did you mean mounts?");
    refused("--cache-from", "type=local,src=/x,mount=true", "did you mean mounts?");
}
