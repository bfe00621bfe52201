//! kaniko's command lines, as pipelines have them: `rbuild kaniko …`, and a program called `executor` (SPEC D1, D2).
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stderr, reason = "skip reasons are collected by scripts/test")]
#![allow(missing_docs, unreachable_pub, reason = "a test program")]

#[path = "support/fake_registry/mod.rs"]
mod fake_registry;
mod support;

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use fake_registry::{Action, Auth, FakeRegistry, Tokens};
use serde_json::Value;
use support::git::Repositories;
use support::image::{Image, tar_files};
use support::services::{AZURE_ACCOUNT, AZURE_KEY, Service};
use support::web::Web;
use support::{Bench, Run};

/// Without RUN, so that anything can build it.
fn copies() -> Bench {
    let bench = Bench::new();
    bench.file("f", "payload").dockerfile("FROM scratch AS base\nCOPY f /f\nFROM base\nARG A=none\nLABEL a=$A\n");
    bench
}

/// `rbuild kaniko --context CONTEXT ARGS`
fn kaniko(bench: &Bench, args: &[&str]) -> Run {
    let context = format!("--context=dir://{}", bench.ctx().display());
    bench.rbuild(&[&["kaniko", "--log-format=text", &context], args].concat())
}

fn text(bench: &Bench, name: &str) -> String {
    std::fs::read_to_string(bench.path("out").join(name)).unwrap()
}

fn tag(registry: &FakeRegistry, repository: &str, tag: &str) -> String {
    registry.state().repositories[repository].tags[tag].clone()
}

/// The config of a pushed image.
fn config(registry: &FakeRegistry, repository: &str, name: &str) -> Value {
    let digest = tag(registry, repository, name);
    let state = registry.state();
    let repository = &state.repositories[repository];
    let manifest: Value = serde_json::from_slice(&repository.manifests[&digest].1).unwrap();
    serde_json::from_slice(&repository.blobs[manifest["config"]["digest"].as_str().unwrap()]).unwrap()
}

// SPEC D1.01, D1.02, D1.05, D1.10–D1.15, D1.45
#[test]
fn d1_05_destinations_and_what_is_told_of_them() {
    let registry = FakeRegistry::start();
    let mut bench = copies();
    bench.env.push(("BUILDER_OUTPUT".into(), bench.path("out/told").display().to_string()));
    bench.env.push(("A".into(), "from the environment".into()));
    let (one, two) = (format!("{}/team/a:1", registry.host()), format!("{}/b", registry.host()));
    let run = kaniko(
        &bench,
        &[
            "-f",
            "Dockerfile",
            "--destination",
            &one,
            &format!("-d={two}"),
            "--build-arg=A",
            "--label",
            "b=c",
            "--target=1",
            "--digest-file=results/digest",
            "--image-name-with-digest-file=names",
            "--image-name-tag-with-digest-file=tags",
        ],
    );
    run.ok();
    let digest = tag(&registry, "team/a", "1");
    assert_eq!(tag(&registry, "b", "latest"), digest);
    assert_eq!(text(&bench, "results/digest"), digest, "no newline");
    let host = registry.host();
    assert_eq!(text(&bench, "names"), format!("{host}/team/a@{digest}\n{host}/b@{digest}\n"));
    assert_eq!(text(&bench, "tags"), format!("{host}/team/a:1@{digest}\n{host}/b:latest@{digest}\n"));
    let lines = text(&bench, "told/images");
    let line: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    assert_eq!((line["name"].as_str(), line["digest"].as_str()), (Some(one.as_str()), Some(digest.as_str())));
    assert_eq!(lines.lines().count(), 2);
    let config = config(&registry, "team/a", "1");
    assert_eq!(config["config"]["Labels"], serde_json::json!({"a": "from the environment", "b": "c"}));
    kaniko(&bench, &[]).fails(1, &["you must provide --destination, or use --no-push"]);
    kaniko(&bench, &["--no-push", "-f", "other"]).fails(1, &["error resolving dockerfile path"]);
    kaniko(&bench, &["--no-push", "--destinatoin=x"]).fails(1, &["--destinatoin", "--destination"]);
}

// SPEC D1.06, D1.08, D1.09, D1.16, D1.17, D1.24, D1.45
#[test]
fn d1_08_archives_without_a_push() {
    let bench = copies();
    let archives = ["--no-push", "--tar-path=a.tar", "--oci-layout-path=layout", "--digest-file=digest"];
    let more = ["-d", "r.example/a:1", "--compression=zstd", "--compression-level=3", "--annotation=x=y"];
    kaniko(&bench, &[&archives[..], &more[..], &["--customPlatform=linux/arm64"]].concat()).ok();
    let listed: Value = serde_json::from_slice(&tar_files(&bench.path("out/a.tar"))["manifest.json"]).unwrap();
    assert_eq!(listed[0]["RepoTags"][0], "r.example/a:1");
    let image = Image::open_dir(&bench.path("out/layout"));
    assert_eq!(image.digest, text(&bench, "digest"));
    assert_eq!(image.manifest["layers"][0]["mediaType"], "application/vnd.oci.image.layer.v1.tar+zstd");
    assert_eq!((&image.config["architecture"], &image.manifest["annotations"]["x"]), (&"arm64".into(), &"y".into()));
    // The variable is the flag.
    let mut bench = copies();
    bench.env.push(("KANIKO_NO_PUSH".into(), "true".into()));
    kaniko(&bench, &["-d", "127.0.0.1:1/a", "--tarPath", "b.tar"]).ok();
    assert!(bench.path("out/b.tar").is_file());
    kaniko(&bench, &["--no-push", "--compression=lz4"]).fails(1, &["--compression", "lz4"]);
}

// SPEC D1.28
#[test]
fn d1_28_reproducible_is_the_same_every_time() {
    let digests: Vec<String> = [1_000_000_000, 1_700_000_000]
        .into_iter()
        .map(|time| {
            let bench = copies();
            let file = std::fs::File::options().write(true).open(bench.ctx().join("f")).unwrap();
            file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(time)).unwrap();
            kaniko(&bench, &["--no-push", "--reproducible", "--oci-layout-path=l", "--digest-file=d"]).ok();
            let image = Image::open_dir(&bench.path("out/l"));
            assert_eq!(image.config["created"], "1970-01-01T00:00:00Z");
            assert_eq!(image.node("f").mtime, 0);
            text(&bench, "d")
        })
        .collect();
    assert_eq!(digests[0], digests[1]);
}

/// Every step is new, and its result is in the cache of the destination for somebody else.
fn steps_taken(bench: &Bench, args: &[&str]) -> usize {
    let run = kaniko(bench, args).ok();
    run.count("CACHED")
}

// SPEC D1.07, D1.18, D1.19, D1.21, D1.22, D1.23
#[test]
fn d1_18_the_cache_is_a_repository_or_a_directory() {
    let registry = FakeRegistry::start();
    let (one, two, three) = (copies(), copies(), copies());
    let name = format!("{}/app:1", registry.host());
    let push = ["-d", &name];
    assert_eq!(steps_taken(&one, &[&push[..], &["--cache=true", "--cache-copy-layers", "--cache-ttl=1h"]].concat()), 0);
    assert!(registry.state().repositories.contains_key("app/cache"));
    let read =
        [&push[..], &["--cache", "--no-push-cache", "--compressed-caching=false", "--cache-run-layers"]].concat();
    assert_eq!(steps_taken(&two, &read), 1);
    assert_eq!(steps_taken(&two, &push), 0, "without --cache every step is fresh, as with kaniko");
    // Everything in it is older than nothing.
    assert_eq!(steps_taken(&three, &[&read[..], &["--cache-ttl=0s"]].concat()), 0);
    let local = ["--no-push", "--cache", "--cache-repo=oci:cached"];
    assert_eq!(steps_taken(&one, &["--no-push", "--cache", &format!("--cache-repo={}/c", registry.host())]), 1);
    let shared = copies();
    assert_eq!(steps_taken(&shared, &local), 0);
    shared.rbuild(&["system", "reset", "--force"]).ok();
    assert_eq!(steps_taken(&shared, &local), 1);
    kaniko(&one, &["--no-push", "--cache"]).fails(1, &["specify cache repo with --cache-repo"]);
    let run = kaniko(&shared, &[&local[..], &["--cache-run-layers=false", "--cache-dir=/elsewhere"]].concat()).ok();
    assert_eq!(
        (run.count("CACHED"), run.count("notice: --cache-dir"), run.count("notice: --cache-run-layers")),
        (1, 1, 0),
        "what is copied is cached all the same"
    );
}

// SPEC D1.22: by kinds of instructions.
#[test]
fn d1_22_steps_that_run_are_fresh_where_they_are_not_cached() {
    need_run!();
    let bench = Bench::new();
    bench.file("f", "x").dockerfile("FROM busybox\nCOPY f /f\nRUN cat /proc/sys/kernel/random/uuid > /id\n");
    let id = |args: &[&str]| {
        let _ = std::fs::remove_dir_all(bench.path("out/l"));
        let run = bench.build(&[&["-o", "type=oci,tar=false,dest=l"], args].concat()).ok();
        (Image::open_dir(&bench.path("out/l")).text("id"), run.count("CACHED"))
    };
    let (first, _) = id(&[]);
    assert_eq!(id(&[]), (first.clone(), 2));
    let (second, cached) = id(&["--no-cache-run"]);
    assert!(second != first && cached == 1);
    assert_eq!(id(&[]).0, second, "what ran last is what is cached");
}

/// An image of a registry, with one layer.
fn base_of(registry: &FakeRegistry, name: &str) -> String {
    let name = format!("{}/{name}", registry.host());
    kaniko(&copies(), &["-d", &name]).ok();
    name
}

/// How often layers were asked for.
fn layers_asked(registry: &FakeRegistry) -> usize {
    registry.requests().iter().filter(|request| request.method == "GET" && request.target.contains("/blobs/")).count()
}

// SPEC D1.20, D1.48
#[test]
fn d1_48_the_warmer_puts_bases_where_builds_find_them() {
    let registry = FakeRegistry::start();
    let (base, other) = (base_of(&registry, "base:1"), base_of(&registry, "other:2"));
    let bench = Bench::new();
    bench.file("f", "x").dockerfile(&format!(
        "ARG TAG=none\nFROM {base} AS a\nFROM {}/other:$TAG\nCOPY f /g\nCOPY --from=a /f /h\n",
        registry.host()
    ));
    let dir = bench.path("out/warm").display().to_string();
    let file = bench.ctx().join("Dockerfile").display().to_string();
    let cache_dir = format!("--cache-dir={dir}");
    let warm = |args: &[&str]| bench.rbuild(&[&["kaniko", "warmer", "--log-format=text", &cache_dir], args].concat());
    warm(&[]).fails(1, &["at least one image"]);
    warm(&["--dockerfile=https://h.example/f"]).fails(1, &["must be a file of this machine"]);
    warm(&["-i", &format!("{}/missing", registry.host())]).fails(1, &["missing"]);
    let run = warm(&["-i", &format!("{}/missing", registry.host()), "-d", &file, "--build-arg=TAG=2"]).ok();
    assert_eq!(run.count("passing over"), 1, "{}", run.stderr);
    let asked = registry.requests().len();
    let fetched = layers_asked(&registry);

    // Nobody is asked, whatever the names; and it need not be possible to write there.
    for path in ["blobs/sha256", "blobs", ""] {
        std::fs::set_permissions(
            bench.path("out/warm").join(path),
            std::os::unix::fs::PermissionsExt::from_mode(0o555),
        )
        .unwrap();
    }
    let line = ["--no-push", "--cache", "--cache-repo=oci:c", "--build-arg=TAG=2", "--oci-layout-path=l", &cache_dir];
    let run = kaniko(&bench, &line).ok();
    assert_eq!((registry.requests().len(), run.count("notice")), (asked, 0), "{}", run.stderr);
    let image = Image::open_dir(&bench.path("out/l"));
    assert_eq!((image.text("f"), image.text("h")), ("payload".into(), "payload".into()));

    // A name that is too old is looked up; its content is still what it is. `--pull` does the same.
    let again = |args: &[&str]| {
        bench.rbuild(&["system", "reset", "--force"]).ok();
        let _ = std::fs::remove_dir_all(bench.path("out/l"));
        let before = registry.requests().len();
        let run = kaniko(&bench, &[&line[..], args].concat()).ok();
        (registry.requests().len() - before, run)
    };
    assert!(again(&["--cache-ttl=0s"]).0 >= 2);
    bench.rbuild(&["system", "reset", "--force"]).ok();
    let context = bench.ctx().display().to_string();
    let from = format!("--pull-from={dir}");
    bench.rbuild(&["build", "--pull", &from, "--build-arg=TAG=2", "-o", "type=oci,dest=p.tar", &context]).ok();
    assert_eq!(layers_asked(&registry), fetched);
    bench.rbuild(&["system", "reset", "--force"]).ok();
    bench.rbuild(&["build", "--pull-never", &from, "--build-arg=TAG=2", &context]).ok();
    assert_eq!(layers_asked(&registry), fetched);

    // What is damaged is had from the registry, and said; the warmer repairs it.
    for path in ["", "blobs", "blobs/sha256"] {
        std::fs::set_permissions(
            bench.path("out/warm").join(path),
            std::os::unix::fs::PermissionsExt::from_mode(0o755),
        )
        .unwrap();
    }
    let damage = |name: &str| {
        let path = bench.path("out/warm/blobs/sha256").join(name.trim_start_matches("sha256:"));
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[5] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    };
    let layer = image.manifest["layers"][0]["digest"].as_str().unwrap().to_owned();
    damage(&layer);
    damage(&tag(&registry, "other", "2"));
    let (_, run) = again(&[]);
    assert_eq!(run.count("a registry is asked"), 2, "{}", run.stderr);
    assert_eq!(Image::open_dir(&bench.path("out/l")).text("f"), "payload");
    let fetched = layers_asked(&registry);
    warm(&["-i", &base, "-i", &other]).ok();
    assert_eq!(layers_asked(&registry), fetched + 1, "the one that is damaged");
    assert_eq!(again(&[]).1.count("a registry is asked"), 0);
    warm(&["-i", &base, "--force"]).ok();
    assert_eq!(layers_asked(&registry), fetched + 3, "a layer and a config");
    std::fs::write(bench.path("out/warm/index.json"), "{").unwrap();
    assert!(again(&[]).1.count("a registry is asked") > 0);
}

// SPEC D1.48: a program of that name, and images of several platforms.
#[test]
fn d1_48_a_program_called_warmer() {
    let registry = FakeRegistry::start();
    let bench = copies();
    let name = format!("{}/base", registry.host());
    let context = bench.ctx().display().to_string();
    let platforms = "--platform=linux/amd64,linux/arm64";
    bench.rbuild(&["build", platforms, "--provenance=false", "-t", &name, "--push", &context]).ok();
    let warmer = bench.path("warmer");
    std::os::unix::fs::symlink(support::rbuild_path(), &warmer).unwrap();
    let run = |args: &[&str]| {
        let mut command = Command::new(&warmer);
        command.args(args).env("HOME", bench.path("home")).env_remove("XDG_DATA_HOME");
        support::finish(command.stdin(Stdio::null()).current_dir(bench.path("out")).output().unwrap())
    };
    assert!(run(&["--help"]).ok().stdout.contains("--skip-tls-verify-registry"));
    run(&["-i", &name, "-c", "w", "--custom-platform=linux/arm64", "--skip-tls-verify", "-v", "debug"]).ok();
    let blobs = std::fs::read_dir(bench.path("out/w/blobs/sha256")).unwrap().count();
    assert_eq!(blobs, 4, "an index, and a manifest, a config and a layer of one platform");
    bench.dockerfile(&format!("FROM {name}\nENV A=b\n"));
    bench.rbuild(&["system", "reset", "--force"]).ok();
    let asked = registry.requests().len();
    let build = |platform: &str| {
        bench.rbuild(&["build", "--pull-from=w", "--platform", platform, "-o", "type=oci,dest=o.tar", &context]).ok();
        registry.requests().len() - asked
    };
    assert_eq!(build("linux/arm64"), 0);
    assert!(build("linux/amd64") > 0, "what is not there is had from the registry");
}

/// A registry that speaks TLS with a certificate that nobody knows; with `closed` to those only who have one themselves.
fn tls_registry(closed: bool) -> FakeRegistry {
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let chain = |bytes: &[u8]| CertificateDer::pem_slice_iter(bytes).collect::<Result<Vec<_>, _>>().unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut clients = rustls::RootCertStore::empty();
    clients.add_parsable_certificates(chain(include_bytes!("support/tls/clients.crt")));
    let verifier =
        rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(clients), Arc::clone(&provider));
    let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let builder = match closed {
        true => builder.with_client_cert_verifier(verifier.build().unwrap()),
        false => builder.with_no_client_auth(),
    };
    let key = PrivateKeyDer::from_pem_slice(include_bytes!("support/tls/server.key")).unwrap();
    let config = builder.with_single_cert(chain(include_bytes!("support/tls/server.crt")), key).unwrap();
    FakeRegistry::start_tls(Arc::new(config))
}

fn write_keys(dir: &Path) -> [String; 3] {
    let all: [(&str, &[u8]); 3] = [
        ("ca.crt", include_bytes!("support/tls/ca.crt")),
        ("client.crt", include_bytes!("support/tls/client.crt")),
        ("client.key", include_bytes!("support/tls/client.key")),
    ];
    all.map(|(name, bytes)| {
        std::fs::write(dir.join(name), bytes).unwrap();
        dir.join(name).display().to_string()
    })
}

// SPEC D1.36–D1.39
#[test]
fn d1_36_certificates_of_registries() {
    let (open, closed) = (tls_registry(false), tls_registry(true));
    let bench = copies();
    let [ca, cert, key] = write_keys(&bench.path("out"));
    let (name, host) = (format!("{}/a:1", open.host()), open.host());
    kaniko(&bench, &["-d", &name]).fails(1, &["certificate"]);
    for flags in [
        &["--skip-tls-verify"][..],
        &["--insecure"],
        &["--skip-tls-verify-registry", &host],
        &["--insecure-registry", &host],
        &["--registry-certificate", &format!("{host}={ca}")],
    ] {
        open.state().repositories.clear();
        kaniko(&bench, &[&["-d", &name], flags].concat()).ok();
        assert!(open.state().repositories.contains_key("a"), "{flags:?}");
    }
    // SPEC D1.45: where a pod mounts what it trusts.
    open.state().repositories.clear();
    let own = bench.path("out/k");
    std::fs::create_dir_all(own.join("ssl/certs")).unwrap();
    std::fs::copy(&ca, own.join("ssl/certs/additional-ca.pem")).unwrap();
    kaniko(&bench, &["-d", &name, "--kaniko-dir", &own.display().to_string()]).ok();
    std::fs::write(own.join("ssl/certs/broken.crt"), "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n")
        .unwrap();
    kaniko(&bench, &["-d", &name, "--kaniko-dir", &own.display().to_string()]).fails(1, &["broken.crt"]);
    // What is said about pulls is for every registry, and for pulls.
    let puller = Bench::new();
    puller.dockerfile(&format!("FROM {name}\nENV A=b\n"));
    kaniko(&puller, &["--no-push"]).fails(1, &["certificate"]);
    for flag in ["--skip-tls-verify-pull", "--insecure-pull"] {
        let puller = Bench::new();
        puller.dockerfile(&format!("FROM {name}\nENV A=b\n"));
        kaniko(&puller, &["--no-push", flag]).ok();
    }
    let (name, host) = (format!("{}/a:1", closed.host()), closed.host());
    let known = format!("{host}={ca}");
    kaniko(&bench, &["-d", &name, "--registry-certificate", &known]).fails(1, &["wants a client certificate"]);
    let pair = format!("{host}={cert},{key}");
    kaniko(&bench, &["-d", &name, "--registry-certificate", &known, "--registry-client-cert", &pair]).ok();
    kaniko(&bench, &["-d", &name, "--registry-client-cert", &cert]).fails(1, &["expected HOST=CERT,KEY"]);
    // SPEC D1.10: the digest goes to a URL that somebody signed.
    open.fault("PUT", "/sink", 2, Action::Status(200, Vec::new(), String::new()));
    let mut bench = copies();
    bench.env.push(("SSL_CERT_FILE".into(), ca));
    kaniko(
        &bench,
        &["--no-push", "--digest-file=d", &format!("--digest-file=https://{}/sink?sig=geheim", open.host())],
    )
    .ok();
    let sent = open.requests().pop().unwrap();
    assert!(sent.method == "PUT" && sent.body.starts_with(b"sha256:") && sent.body.len() == 71);
    let run = kaniko(&bench, &["--no-push", &format!("--digest-file=https://{}/other?sig=geheim", open.host())]);
    let run = run.fails(1, &["cannot send the digest to https://", "/other: status"]);
    assert_eq!(run.count("geheim"), 0);
}

// SPEC D1.40, D1.45
#[test]
fn d1_40_mirrors_and_maps() {
    let (mirror, origin) = (FakeRegistry::start(), FakeRegistry::start());
    let bench = copies();
    kaniko(&bench, &["-d", &format!("{}/hub/library/base:1", mirror.host())]).ok();
    let (hub, map) = (format!("{}/hub", mirror.host()), format!("{}={}/hub", origin.host(), mirror.host()));
    for (from, flags) in [
        ("base:1".to_owned(), ["--registry-mirror", &hub]),
        ("base:1".to_owned(), ["--registry-map", &format!("index.docker.io={hub}")]),
        (format!("{}/library/base:1", origin.host()), ["--registry-map", &map]),
    ] {
        let bench = Bench::new();
        bench.dockerfile(&format!("FROM {from}\nENV A=b\n"));
        kaniko(&bench, &[&["--no-push", "--skip-default-registry-fallback"], &flags[..]].concat()).ok();
    }
    assert!(origin.requests().is_empty());
    // What the mirror has not is asked of the registry only where that is not switched off.
    let missing = Bench::new();
    missing.dockerfile(&format!("FROM {}/library/other:1\nENV A=b\n", origin.host()));
    kaniko(&missing, &["--no-push", "--skip-default-registry-fallback", "--registry-map", &map])
        .fails(1, &["not found"]);
    assert!(origin.requests().is_empty());
    kaniko(&missing, &["--no-push", "--registry-map", &map]).fails(1, &["not found"]);
    assert!(!origin.requests().is_empty());
    let mut bench = Bench::new();
    bench.dockerfile("FROM base:1\nENV A=b\n");
    bench.env.push(("KANIKO_REGISTRY_MIRROR".into(), hub));
    kaniko(&bench, &["--no-push", "--skip-default-registry-fallback"]).ok();
}

// SPEC D1.41, D1.42, D1.43
#[test]
fn d1_42_pushes_that_are_refused() {
    let registry = FakeRegistry::start();
    let bench = copies();
    let name = format!("{}/a:1", registry.host());
    let code = r#"{"errors":[{"code":"TAG_INVALID","message":"The image tag '1' already exists in the 'a' repository and cannot be overwritten because the tag is immutable."}]}"#;
    let refuse = |times| registry.fault("PUT", "/manifests/1", times, Action::Status(400, Vec::new(), code.into()));
    refuse(1);
    kaniko(&bench, &["-d", &name]).fails(1, &["immutable"]);
    refuse(1);
    let run = kaniko(&bench, &["-d", &name, "--push-ignore-immutable-tag-errors"]).ok();
    assert_eq!(run.count("is immutable and stays as it is"), 1, "{}", run.stderr);
    // Other refusals are still failures.
    registry.fault("PUT", "/manifests/1", 1, Action::Status(400, Vec::new(), "{}".into()));
    kaniko(&bench, &["-d", &name, "--push-ignore-immutable-tag-errors"]).fails(1, &["failed to push"]);
    registry.fault("PUT", "/manifests/1", 7, Action::Close);
    let retry = ["--push-retry=8", "--image-fs-extract-retry=1", "--image-download-retry=1"];
    let mut line: Vec<&str> = vec!["-d", &name, "--skip-push-permission-check"];
    line.extend(retry);
    let context = format!("dir://{}", bench.ctx().display());
    // The same by our own flags, with shorter pauses.
    registry.state().forget_faults();
    kaniko(&bench, &line).ok();
    registry.state().repositories.clear();
    registry.fault("PUT", "/manifests/1", 7, Action::Close);
    let plain = context.trim_start_matches("dir://");
    bench.rbuild(&["build", "-t", &name, "--push", "--retry=8", "--retry-delay=1ms", plain]).ok();
    registry.state().repositories.clear();
    registry.fault("PUT", "/manifests/1", 7, Action::Close);
    bench
        .rbuild(&["build", "-t", &name, "--push", "--retry=2", "--retry-delay=1ms", plain])
        .fails(7, &["failed to push"]);
}

// SPEC D1.45: where a pod mounts its secret for kaniko.
#[test]
fn d1_45_credentials_of_the_executors_own_directory() {
    let registry = FakeRegistry::start();
    registry.set_auth(Auth::Token(Tokens {
        user: "me",
        password: "geheim",
        anonymous_pull: false,
        ..Tokens::default()
    }));
    let mut bench = copies();
    let name = format!("{}/a:1", registry.host());
    kaniko(&bench, &["-d", &name]).fails(1, &[]);
    let dir = bench.path("kaniko/.docker");
    std::fs::create_dir_all(&dir).unwrap();
    let config = serde_json::json!({"auths": {registry.host(): {"username": "me", "password": "geheim"}}});
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    bench.env.push(("KANIKO_DIR".into(), bench.path("kaniko").display().to_string()));
    kaniko(&bench, &["-d", &name]).ok();
    // One's own goes first, and what DOCKER_CONFIG names before that.
    let own = bench.path("home/.docker");
    std::fs::create_dir_all(&own).unwrap();
    std::fs::write(own.join("config.json"), "{}").unwrap();
    kaniko(&bench, &["-d", &format!("{}/b:1", registry.host())]).fails(1, &[]);
    bench.env.push(("DOCKER_CONFIG".into(), dir.display().to_string()));
    kaniko(&bench, &["-d", &format!("{}/b:1", registry.host())]).ok();
}

// SPEC D1.25, D1.27, D1.29–D1.34, D1.26, D1.44, D1.46, D1.47
#[test]
fn d1_25_what_has_no_counterpart_is_accepted_or_said() {
    let bench = copies();
    let silent = [
        "--no-push",
        "--snapshot-mode=redo",
        "--snapshotMode=time",
        "--use-new-run",
        "--skip-unused-stages=true",
        "--cleanup",
        "--force",
        "--force-build-metadata",
        "--ignore-var-run=false",
        "--whitelist-var-run",
        "--no-push-cache",
    ];
    assert_eq!(kaniko(&bench, &silent).ok().count("notice"), 0);
    let run = kaniko(&bench, &["--no-push", "--ignore-path=/x", "--log-timestamp"]).ok();
    assert_eq!((run.count("notice: --ignore-path"), run.count("notice: --log-timestamp")), (1, 0), "{}", run.stderr);
    let timed = |line: &str| line.as_bytes().get(..21).is_some_and(|time| time[10] == b'T' && time.ends_with(b"Z "));
    assert!(run.stderr.lines().filter(|line| line.contains('#')).all(timed), "{}", run.stderr);
    kaniko(&bench, &["--no-push", "--snapshot-mode=half"]).fails(1, &["half"]);
    kaniko(&bench, &["--no-push", "--verbosity=loud"]).fails(1, &["unknown level \"loud\""]);
    assert_eq!(kaniko(&bench, &["--no-push", "-v", "error"]).ok().stderr, "");
    assert!(kaniko(&bench, &["--no-push", "--log-format=json"]).ok().stderr.starts_with('{'));
    assert_eq!(kaniko(&bench, &["--no-push", "-v=debug"]).ok().count("notice"), 0);
    // A program of that name, with a store below its own directory.
    let executor = bench.path("executor");
    std::os::unix::fs::symlink(support::rbuild_path(), &executor).unwrap();
    let run = |args: &[&str]| {
        let mut command = Command::new(&executor);
        command.args(args).env("HOME", bench.path("home")).env_remove("XDG_DATA_HOME").env_remove("DOCKER_CONFIG");
        support::finish(command.stdin(Stdio::null()).current_dir(bench.path("out")).output().unwrap())
    };
    assert!(run(&["version"]).ok().stdout.starts_with("rbuild "));
    assert!(run(&["--help"]).ok().stdout.contains("--destination"));
    let context = bench.ctx().display().to_string();
    run(&["--no-push", "--context", &context, "--kaniko-dir", &bench.path("k").display().to_string()]).ok();
    assert!(bench.path("k/rbuild/VERSION").is_file());
}

// SPEC D1.46: the names of its flags are docker's.
#[test]
fn d1_46_executor_signs_in() {
    let registry = FakeRegistry::start();
    registry.set_auth(Auth::Token(Tokens { anonymous_pull: false, ..Tokens::default() }));
    let (bench, host) = (copies(), registry.host());
    let destination = format!("{host}/app:1");
    kaniko(&bench, &["--destination", &destination]).fails(1, &[&host]);
    bench.rbuild(&["kaniko", "login", "-u", "user", "-p", "wrong", &host]).fails(1, &["failed to log in to"]);
    bench.rbuild(&["kaniko", "login", "-u", "user", "-p", "secret", &host]).ok();
    kaniko(&bench, &["--destination", &destination]).ok();
    assert!(!tag(&registry, "app", "1").is_empty());
}

// `executor push` of kaniko's successor: what was built without a push, under any name, as it is.
#[test]
fn d1_46_executor_pushes_what_was_built_before() {
    let registry = FakeRegistry::start();
    let bench = copies();
    let build = ["--no-push", "-d", "x/y:1", "--oci-layout-path=layout", "--tar-path=a.tar", "--digest-file=built"];
    kaniko(&bench, &build).ok();
    let (one, two) = (format!("{}/team/a:1", registry.host()), format!("{}/b", registry.host()));
    let push = |args: &[&str]| bench.rbuild(&[&["kaniko", "push", "--log-format=text"], args].concat());
    let files = ["--digest-file=told/digest", "--image-name-tag-with-digest-file=tags", "--push-retry=1"];
    push(&[&["layout", "-d", &one, &format!("--destination={two}")], &files[..]].concat()).ok();
    let digest = text(&bench, "built");
    assert_eq!((tag(&registry, "team/a", "1"), tag(&registry, "b", "latest")), (digest.clone(), digest.clone()));
    assert_eq!(text(&bench, "told/digest"), digest);
    let host = registry.host();
    assert_eq!(text(&bench, "tags"), format!("{host}/team/a:1@{digest}\n{host}/b:latest@{digest}\n"));
    push(&["a.tar", "-d", &format!("{host}/c:1")]).ok();
    assert_eq!(config(&registry, "c", "1")["config"]["Labels"]["a"], "none");
    // Nothing of it has a name here.
    assert_eq!(bench.rbuild(&["images", "-q"]).ok().stdout, format!("{digest}\n"));
    push(&["missing", "-d", &one]).fails(1, &["missing"]);
    push(&["layout"]).fails(1, &["--destination"]);
    push(&["layout", "-d", &format!("{host}/a@{digest}")]).fails(1, &["a digest is no name"]);
    bench.rbuild(&["push", "--archive", "layout"]).fails(2, &["not said where to push"]);
    bench.rbuild(&["push", "--archive", "layout", &one, &format!("{host}/d")]).ok();
    assert_eq!(tag(&registry, "d", "latest"), digest);
    let code = r#"{"errors":[{"code":"TAG_INVALID","message":"the tag is immutable"}]}"#;
    registry.fault("PUT", "/manifests/2", 2, Action::Status(400, Vec::new(), code.into()));
    push(&["layout", "-d", &format!("{host}/e:2")]).fails(1, &["immutable"]);
    push(&["layout", "-d", &format!("{host}/e:2"), "--push-ignore-immutable-tag-errors"]).ok();
}

// `executor bake` of kaniko's successor.
#[test]
fn d1_46_executor_bakes_one_target() {
    let registry = FakeRegistry::start();
    let bench = copies();
    let bake = |args: &[&str]| {
        let context = format!("--context=dir://{}", bench.ctx().display());
        bench.rbuild(&[&["kaniko", "bake", "bake.json", &context, "--log-format=text"], args].concat())
    };
    bake(&[]).fails(1, &["cannot read the bake file bake.json"]);
    let write = |text: &str| std::fs::write(bench.path("out/bake.json"), text).unwrap();
    let host = registry.host();
    write(&format!(
        r#"{{"version":"1","targets":{{"base":{{}},"app":{{"target":"1","destination":["{host}/a:1"]}}}}}}"#
    ));
    bake(&[]).fails(1, &["several targets", "app, base"]);
    bake(&["nothing"]).fails(1, &["no target \"nothing\""]);
    bake(&["base"]).fails(1, &["you must provide --destination"]);
    bake(&["app"]).ok();
    assert_eq!(config(&registry, "a", "1")["config"]["Labels"]["a"], "none");
    bake(&["base", "--set", &format!("base.destination={host}/b")]).ok();
    assert!(config(&registry, "b", "latest")["config"]["Labels"].is_null());
    bake(&["base", "--set=app.destination=x"]).fails(1, &["target \"app\" is not built"]);
    bake(&["base", "--set=base.context=x"]).fails(1, &["field \"context\" cannot be set"]);
    write(r#"{"group":{}}"#);
    bake(&[]).fails(1, &["unsupported version", "rbuild bake -f"]);
}

// SPEC D1.49: whoever is not named is not asked; and variables that are named for a registry.
#[test]
fn d1_49_credential_helpers_are_chosen() {
    let registry = FakeRegistry::start();
    registry.set_auth(Auth::Token(Tokens { anonymous_pull: false, ..Tokens::default() }));
    let mut bench = copies();
    let name = format!("{}/a:1", registry.host());
    let with = |helper: &str| format!("--credential-helpers={helper}");
    bench.env.push(("KANIKO_127_0_0_1_USER".into(), "user".into()));
    bench.env.push(("KANIKO_127_0_0_1_PASSWORD".into(), "secret".into()));
    kaniko(&bench, &["-d", &name, &with("ecr")]).fails(1, &[]);
    kaniko(&bench, &["-d", &name, &with("")]).fails(1, &[]);
    kaniko(&bench, &["-d", &name, &with("acr"), &with("env")]).ok();
    let other = format!("{}/b:1", registry.host());
    kaniko(&bench, &["-d", &other]).ok();
    kaniko(&bench, &["-d", &name, &with("gogle")]).fails(1, &["did you mean google?"]);
}

// kaniko's own check of what it prints: build arguments are all that it has for secrets.
#[test]
fn d1_13_values_of_arguments_are_not_shown() {
    let mut bench = Bench::new();
    bench.env.push(("A".into(), "geheim".into()));
    bench.file("f", "x").dockerfile("FROM scratch\nARG A\nARG B\nCOPY f /$A-$B\nLABEL a=$A\nWORKDIR /$B\n");
    let run = kaniko(&bench, &["--no-push", "--build-arg=A", "--build-arg=B=offen", "--oci-layout-path=l"]).ok();
    assert_eq!((run.count("geheim"), run.count("offen")), (0, 0), "{}", run.stderr);
    assert!(run.stderr.contains("COPY f /$A-$B") && Image::open_dir(&bench.path("out/l")).has("geheim-offen"));
}

/// The layout of a build without a push.
fn built(bench: &Bench, args: &[&str]) -> Image {
    let _ = std::fs::remove_dir_all(bench.path("out/l"));
    bench.rbuild(&[&["kaniko", "--log-format=text", "--no-push", "--oci-layout-path=l"], args].concat()).ok();
    Image::open_dir(&bench.path("out/l"))
}

fn archive(bench: &Bench, name: &str, flag: &str) -> String {
    let path = bench.path(name).display().to_string();
    let made =
        Command::new("tar").args([flag, &path, "-C", bench.path("ctx").to_str().unwrap(), "."]).status().unwrap();
    assert!(made.success());
    path
}

// SPEC D1.03, D2.01–D2.03
#[test]
fn d2_01_directories_and_archives() {
    let bench = Bench::new();
    bench.file("Dockerfile", "FROM scratch\nCOPY f /f\n").file("f", "top");
    bench
        .file("sub/Dockerfile", "FROM scratch\nCOPY f /f\n")
        .file("sub/f", "below")
        .file("sub/o", "FROM scratch\nCOPY f /g\n");
    let dir = bench.ctx().display().to_string();
    let tar = archive(&bench, "c.tar.gz", "-czf");
    for context in [dir.clone(), format!("dir://{dir}"), format!("tar://{tar}")] {
        assert_eq!(built(&bench, &["-c", &context]).text("f"), "top", "{context}");
        let below = built(&bench, &["-c", &context, "--context-sub-path=sub", "-f", "o"]);
        assert_eq!(below.text("g"), "below", "{context}");
        assert_eq!(below.top(), ["g"]);
    }
    assert_eq!(built(&bench, &["-c", &dir, "-f", &format!("{dir}/sub/Dockerfile")]).text("f"), "top");
    for (name, flag, more) in [("p.tar", "-cf", ""), ("x.tar.gz", "-czf", "sub")] {
        let bytes = std::fs::read(archive(&bench, name, flag)).unwrap();
        let sub = format!("--context-sub-path={more}");
        let line = ["kaniko", "--no-push", "-c", "tar://stdin", &sub, "--oci-layout-path=s"];
        let mut child = bench.command(line).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(&bytes).unwrap();
        support::finish(child.wait_with_output().unwrap()).ok();
        let expected = if more.is_empty() { "top" } else { "below" };
        assert_eq!(Image::open_dir(&bench.path("out/s")).text("f"), expected);
        std::fs::remove_dir_all(bench.path("out/s")).unwrap();
    }
    let refused = |args: &[&str], texts: &[&str]| {
        bench.rbuild(&[&["kaniko", "--no-push"], args].concat()).fails(1, texts);
    };
    refused(&["-c", "tar:///no/such"], &["cannot open /no/such"]);
    refused(&["-c", "/no/such"], &["\"/no/such\" not found"]);
    refused(&["-c", "ftp://x"], &["unknown build context prefix ftp://"]);
    let plain = format!("tar://{dir}/f");
    bench.rbuild(&["kaniko", "--no-push", "-c", &plain]).fails(1, &["is no tar archive"]);
    bench
        .rbuild(&["kaniko", "--no-push", "-c", &format!("tar://{tar}"), "--context-sub-path=nowhere"])
        .fails(1, &["nowhere"]);
}

// SPEC D1.35, D2.08
#[test]
fn d2_08_repositories() {
    let repositories = Repositories::new();
    let repository = repositories.create("a", &[]);
    repository.file("Dockerfile", "FROM scratch\nCOPY f /f\n").file("f", "one");
    repository.file("sub/Dockerfile", "FROM scratch\nCOPY f /f\n").file("sub/f", "below");
    let first = repository.commit("first");
    repository.git(&["checkout", "--quiet", "-b", "other"]);
    repository.file("f", "other").commit("second");
    repository.git(&["checkout", "--quiet", "main"]);
    let web = Web::git(repositories.path(), None);
    let mut bench = Bench::new();
    let url = web.url("/a").replace("http://", "git://");
    bench.rbuild(&["kaniko", "--no-push", "-c", &url]).fails(1, &["failed to fetch remote https://"]);
    bench.env.push(("GIT_PULL_METHOD".into(), "http".into()));
    for (context, more, expected) in [
        (url.clone(), &[][..], "one"),
        (format!("{url}#refs/heads/other"), &[], "other"),
        (format!("{url}#refs/heads/main#{first}"), &[], "one"),
        (url.clone(), &["--git=branch=other,single-branch=true,recurse-submodules=true"], "other"),
        (url.clone(), &["--context-sub-path", "sub"], "below"),
    ] {
        assert_eq!(built(&bench, &[&["-c", &context], more].concat()).text("f"), expected, "{context} {more:?}");
    }
    bench.rbuild(&["kaniko", "--no-push", "-c", &format!("{url}#refs/heads/other#{first}")]).fails(1, &["checksum"]);
    bench.env[0].1 = "ssh".into();
    bench.rbuild(&["kaniko", "--no-push", "-c", &url]).fails(1, &["GIT_PULL_METHOD=ssh"]);
}

// SPEC D1.04, D2.04
#[test]
fn d2_04_archives_of_googles_storage() {
    let service = need!(Service::google("contexts"));
    let mut bench = Bench::new();
    bench.file("c/Dockerfile", "FROM scratch\nCOPY f /f\n").file("c/f", "of google");
    let put = |name: &str, bytes: &[u8]| {
        let headers = format!("Content-Type: application/octet-stream\r\nContent-Length: {}\r\n", bytes.len());
        let path = format!("/upload/storage/v1/b/contexts/o?uploadType=media&name={name}");
        let answer = service.request_with("POST", &path, &headers, bytes);
        assert!(answer.contains(" 200 "), "{answer}");
    };
    let tar = bench.path("c.tar.gz");
    let mut pack = std::process::Command::new("tar");
    assert!(pack.arg("-czf").arg(&tar).arg("-C").arg(bench.ctx().join("c")).arg(".").status().unwrap().success());
    put("dir/c.tar.gz", &std::fs::read(&tar).unwrap());
    put("text", b"no archive");
    bench.env.push(("STORAGE_EMULATOR_HOST".into(), service.host.clone()));
    assert_eq!(built(&bench, &["-c", "gs://contexts/dir/c.tar.gz"]).text("f"), "of google");
    assert_eq!(built(&bench, &["-b", "contexts", "-c", "dir/c.tar.gz"]).text("f"), "of google");
    let refused = |context: &str, texts: &[&str]| {
        bench.rbuild(&["kaniko", "--no-push", "-c", context]).fails(1, texts);
    };
    refused("gs://contexts/text", &["gs://contexts/text is no tar archive"]);
    refused("gs://contexts/nothing", &["cannot read the build context gs://contexts/nothing", "404"]);
    bench.rbuild(&["gs://contexts"]).fails(2, &["gs://contexts: expected gs://BUCKET/OBJECT"]);
}

/// Puts an archive with a Dockerfile and a file into a store: as a layer of a cache, which is one. Gives its name there.
fn upload(bench: &Bench, cache: &str) -> String {
    bench
        .file("c/Dockerfile", "FROM scratch\nCOPY f /f\n")
        .file("c/f", "stored")
        .dockerfile("FROM scratch\nCOPY c /\n");
    bench.build(&["--cache-to", &format!("{cache},mode=max"), "-o", "type=oci,dest=up,tar=false"]).ok();
    let image = Image::open_dir(&bench.path("out/up"));
    format!("blobs/{}", image.manifest["layers"][0]["digest"].as_str().unwrap())
}

// SPEC D2.05, D1.45
#[test]
fn d2_05_archives_in_buckets() {
    let service = need!(Service::s3("caches"));
    let mut bench = Bench::new();
    bench.env = vec![("AWS_ACCESS_KEY_ID".into(), "id".into()), ("AWS_SECRET_ACCESS_KEY".into(), "geheim".into())];
    let name = upload(&bench, &service.s3_cache("name=x"));
    bench.env.push(("S3_ENDPOINT".into(), format!("http://{}", service.host)));
    bench.env.push(("S3_FORCE_PATH_STYLE".into(), "true".into()));
    assert_eq!(built(&bench, &["-c", &format!("s3://caches/{name}")]).text("f"), "stored");
    let missing = ["kaniko", "--no-push", "-c", "s3://caches/nothing.tar.gz"];
    bench.rbuild(&missing).fails(1, &["s3://caches/nothing.tar.gz", "cannot read nothing.tar.gz"]);
    // A bucket alone has kaniko's default name in it.
    bench.rbuild(&["kaniko", "--no-push", "-c", "s3://caches"]).fails(1, &["s3://caches/context.tar.gz"]);
    bench.rbuild(&["build", "s3://caches"]).fails(2, &["expected s3://BUCKET/OBJECT"]);
}

// SPEC D2.06, D1.45
#[test]
fn d2_06_archives_in_azure() {
    let service = need!(Service::azure());
    let mut bench = Bench::new();
    let name = upload(&bench, &service.azure_cache());
    let context = format!("azblob://{AZURE_ACCOUNT}/caches/{name}");
    let url = format!("http://{}/{AZURE_ACCOUNT}", service.host);
    bench.env.push(("BUILDKIT_AZURE_STORAGE_ACCOUNT_URL".into(), url));
    bench.env.push(("AZURE_STORAGE_ACCESS_KEY".into(), AZURE_KEY.into()));
    let dest = bench.path("l");
    let output = format!("type=oci,tar=false,dest={}", dest.display());
    bench.rbuild(&["build", "-o", &output, &context]).ok();
    assert_eq!(Image::open_dir(&dest).text("f"), "stored");
    bench.rbuild(&["build", &format!("azblob://{AZURE_ACCOUNT}/caches/nothing")]).fails(4, &["cannot read nothing"]);
    bench.env.pop();
    let https = "https://a.blob.core.windows.net/c/x.tar.gz";
    bench.rbuild(&["kaniko", "--no-push", "-c", https]).fails(1, &["AZURE_STORAGE_ACCESS_KEY is not set"]);
}

/// Debian's registry with the busybox base as `HOST/busybox`, and its FROM line.
fn with_busybox() -> Result<(support::registry::Registry, String), String> {
    let registry = support::registry::Registry::start()?;
    registry.put(&support::bases()?.join("busybox"), "busybox");
    let from = format!("FROM {}/busybox\n", registry.host);
    Ok((registry, from))
}

// SPEC D1.47; kaniko's cmd/executor/cmd/root.go: the exit code of the command that failed, else 1.
#[test]
fn d1_47_failures_end_as_the_executor() {
    need_run!();
    let (_registry, from) = match with_busybox() {
        Ok(found) => found,
        Err(why) => skip!("{why}"),
    };
    let bench = Bench::new();
    bench.dockerfile(&format!("{from}RUN exit 42\n"));
    kaniko(&bench, &["--no-push"]).fails(42, &["exit code: 42"]);
    bench.build(&[]).fails(9, &["exit code: 42"]);
    bench.dockerfile(&format!("{from}COPY missing /\n"));
    kaniko(&bench, &["--no-push"]).fails(1, &["missing"]);
    let bud = ["buildah", "bud", &bench.ctx().display().to_string()].map(ToOwned::to_owned);
    support::finish(bench.command(bud.to_vec()).output().unwrap()).fails(125, &["missing"]);
    bench.dockerfile(&format!("{from}RUN exit 43\n"));
    support::finish(bench.command(bud.to_vec()).output().unwrap()).fails(43, &["exit code: 43"]);
}

// SPEC A5.06; --secret is of kaniko's successor.
#[test]
fn d1_13_secrets_reach_steps() {
    need_run!();
    let (_registry, from) = match with_busybox() {
        Ok(found) => found,
        Err(why) => skip!("{why}"),
    };
    let mut bench = Bench::new();
    bench.env.push(("TOKEN".into(), "geheim".into()));
    bench.dockerfile(&format!("{from}RUN --mount=type=secret,id=token wc -c < /run/secrets/token > /size\n"));
    kaniko(&bench, &["--no-push", "--oci-layout-path=l", "--secret=id=token,env=TOKEN"]).ok();
    assert_eq!(Image::open_dir(&bench.path("out/l")).text("size"), "6\n");
}
