//! How registries are reached and signed in to, from the command line (SPEC E1, E2, C9.11).
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stderr, reason = "skip reasons are collected by scripts/test")]
#![allow(missing_docs, unreachable_pub, reason = "a test program")]

#[path = "support/fake_registry/mod.rs"]
mod fake_registry;
mod support;

use std::io::Write as _;
use std::process::Stdio;

use fake_registry::{Action, Auth, FakeRegistry, Tokens};
use serde_json::Value;
use support::{Bench, Run, finish};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Runs `rbuild ARGS` with something on standard input.
fn with_input(bench: &Bench, args: &[&str], input: &str) -> Run {
    let mut child = bench.command(args).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    finish(child.wait_with_output().unwrap())
}

fn config(bench: &Bench) -> Value {
    serde_json::from_slice(&std::fs::read(bench.path("home/.docker/config.json")).unwrap()).unwrap()
}

/// Puts an image without layers into a registry.
fn put_image(registry: &FakeRegistry, repository: &str) {
    let config = r#"{"architecture":"amd64","os":"linux","config":{"Env":["FROM=mirror"]},"rootfs":{"type":"layers","diff_ids":[]}}"#;
    let digest = registry.put_blob(repository, config.as_bytes());
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "layers": [],
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest, "size": config.len()},
    });
    registry.put_manifest(repository, Some("1"), MANIFEST, manifest.to_string().as_bytes());
}

// SPEC E1.15, E1.16
#[test]
fn login_checks_stores_and_logout_forgets() {
    use std::os::unix::fs::PermissionsExt as _;
    let registry = FakeRegistry::start();
    registry.set_auth(Auth::Token(Tokens { anonymous_pull: false, ..Tokens::default() }));
    let (bench, host) = (Bench::new(), registry.host());
    let login = ["login", &host, "-u", "user", "--password-stdin"];
    with_input(&bench, &login, "wrong\n").fails(6, &["failed to log in to", "check user name and password"]);
    assert!(!bench.path("home/.docker/config.json").exists(), "a refused login is not kept");
    let run = with_input(&bench, &login, "secret\n").ok();
    assert_eq!(run.stdout, "Login Succeeded\n");
    assert!(run.stderr.contains("kept unencrypted") && !run.stderr.contains("secret"), "{}", run.stderr);
    assert_eq!(config(&bench)["auths"][&host]["auth"], "dXNlcjpzZWNyZXQ=");
    let mode = std::fs::metadata(bench.path("home/.docker/config.json")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(bench.rbuild(&["login", "--get-login", &host]).ok().stdout, "user\n");
    // A push finds it.
    bench.file("f", "x").dockerfile("FROM scratch\nCOPY f /f\n");
    bench.build(&["-t", &format!("{host}/app:1"), "--push"]).ok();
    bench.rbuild(&["logout", &host]).ok();
    assert_eq!(config(&bench)["auths"], serde_json::json!({}));
    assert!(bench.rbuild(&["logout", &host]).ok().stdout.contains("Not logged in"));
    bench.rbuild(&["login", "--get-login", &host]).fails(6, &["not logged into"]);
    // Contradictions.
    bench.rbuild(&["login", "--password-stdin"]).fails(2, &["Must provide --username with --password-stdin"]);
    bench.rbuild(&["login", "-u", "u", "-p", "p", "--password-stdin"]).fails(2, &["mutually exclusive"]);
    bench.rbuild(&["logout", "--all", &host]).fails(2, &["contradict"]);
}

// SPEC E1.15, E1.05
#[test]
fn login_with_a_helper_keeps_no_password_in_the_file() {
    let registry = FakeRegistry::start();
    let mut bench = Bench::new();
    let bin = bench.path("bin");
    std::fs::create_dir(&bin).unwrap();
    let (helper, kept) = (bin.join("docker-credential-kept"), bench.path("kept"));
    std::fs::write(&helper, format!("#!/bin/sh\ncat >{}.$1\n", kept.display())).unwrap();
    std::process::Command::new("chmod").arg("755").arg(&helper).status().unwrap();
    std::fs::create_dir_all(bench.path("home/.docker")).unwrap();
    std::fs::write(bench.path("home/.docker/config.json"), r#"{"credsStore":"kept","psFormat":"x"}"#).unwrap();
    bench.env.push(("PATH".into(), format!("{}:{}", bin.display(), std::env::var("PATH").unwrap())));
    let host = registry.host();
    with_input(&bench, &["login", &host, "-u", "user", "--password-stdin"], "secret").ok();
    let stored: Value = serde_json::from_slice(&std::fs::read(bench.path("kept.store")).unwrap()).unwrap();
    assert_eq!(stored, serde_json::json!({"ServerURL": host, "Username": "user", "Secret": "secret"}));
    let text = config(&bench);
    assert_eq!((&text["auths"][&host], &text["psFormat"]), (&serde_json::json!({}), &"x".into()));
    bench.rbuild(&["logout", &host]).ok();
    assert_eq!(std::fs::read_to_string(bench.path("kept.erase")).unwrap(), host);
}

// SPEC C9.11, E2.04
#[test]
fn mirrors_of_the_configuration_file() {
    let (origin, mirror) = (FakeRegistry::start(), FakeRegistry::start());
    put_image(&mirror, "hub/team/base");
    let bench = Bench::new();
    let dir = bench.path("home/.config/rbuild");
    std::fs::create_dir_all(&dir).unwrap();
    let text = format!("[registry.\"{}\"]\nmirrors = [\"{}/hub\"]\n", origin.host(), mirror.host());
    std::fs::write(dir.join("rbuild.toml"), &text).unwrap();
    bench.dockerfile(&format!("FROM {}/team/base:1\nENV A=b\n", origin.host()));
    let tag = format!("{}/app:1", origin.host());
    bench.build(&["-t", &tag, "--push"]).ok();
    assert_eq!(origin.count("GET", "team/base"), 0);
    assert!(origin.state().repositories["app"].tags.contains_key("1"), "pushes go to the registry itself");
    // Another file by flag; mistakes in it are named before any work.
    let other = bench.path("other.toml");
    std::fs::write(&other, "[registry.\"x.example\"]\ninsecur = true\n").unwrap();
    let flag = other.display().to_string();
    let hint = "unknown key registry.\"x.example\".insecur (did you mean insecure?)";
    bench.build(&["--config", &flag]).fails(2, &[&flag, hint]);
    bench.build(&["--config", "/nowhere.toml"]).fails(2, &["cannot read /nowhere.toml"]);
}

// SPEC D3.36, E2.05, B5.13, PAIN 95: the files of other tools.
#[test]
fn mirrors_of_podman_s_configuration() {
    let (origin, mirror) = (FakeRegistry::start(), FakeRegistry::start());
    put_image(&mirror, "copy/base");
    let mut bench = Bench::new();
    let file = bench.path("registries.conf");
    let text = format!(
        "[[registry]]\nprefix = \"{}/team\"\nlocation = \"{0}/team\"\n[[registry.mirror]]\nlocation = \"{}/copy\"\n",
        origin.host(),
        mirror.host()
    );
    std::fs::write(&file, text).unwrap();
    bench.env.push(("CONTAINERS_REGISTRIES_CONF".into(), file.display().to_string()));
    bench.dockerfile(&format!("FROM {}/team/base:1\nENV A=b\n", origin.host()));
    bench.build(&["-t", "app"]).ok();
    assert!(origin.requests().is_empty());
}

// SPEC E2.03, C9.11: an authority and a client certificate from each place that may name them.
#[test]
fn e2_03_client_certificates_from_every_place() {
    let registry = FakeRegistry::start_closed();
    let host = registry.host();
    let files = |dir: &std::path::Path, names: [&str; 3]| {
        std::fs::create_dir_all(dir).unwrap();
        let texts: [&[u8]; 3] = [
            include_bytes!("support/tls/ca.crt"),
            include_bytes!("support/tls/client.crt"),
            include_bytes!("support/tls/client.key"),
        ];
        for (name, text) in names.iter().zip(texts) {
            std::fs::write(dir.join(name), text).unwrap();
        }
    };
    let keypair = format!(
        "[registry.\"{host}\"]\nca = [\"ca.pem\"]\n[[registry.\"{host}\".keypair]]\nkey = \"c.key\"\ncert = \"c.pem\"\n"
    );
    let directory = format!("[registry.\"{host}\"]\ntlsconfigdir = [\"tls\"]\n");
    let (usual, pem) = (["ca.crt", "client.cert", "client.key"], ["ca.pem", "c.pem", "c.key"]);
    let certs = format!("home/.config/docker/certs.d/{host}");
    let ours = "home/.config/rbuild";
    for (place, names, config) in [
        (ours.to_owned(), pem, Some(("rbuild.toml", &keypair))),
        (format!("{ours}/tls"), usual, Some(("../rbuild.toml", &directory))),
        (certs, usual, None),
    ] {
        let bench = Bench::new();
        bench.file("f", "x").dockerfile("FROM scratch\nCOPY f /f\n");
        let tag = format!("{host}/app:1");
        bench.build(&["-t", &tag, "--push"]).fails(7, &["failed to push", "wants a client certificate"]);
        let dir = bench.path(&place);
        files(&dir, names);
        if let Some((name, text)) = config {
            std::fs::write(dir.join(name), text).unwrap();
        }
        registry.state().repositories.clear();
        bench.build(&["-t", &tag, "--push"]).ok();
        assert!(registry.state().repositories["app"].tags.contains_key("1"), "{place}");
    }
}

// SPEC E1.14: a registry that a pipeline's environment signs in to, without any login.
#[test]
fn a_pipeline_signs_in_by_its_environment() {
    let registry = FakeRegistry::start();
    let tokens = Tokens { user: "gitlab-ci-token", password: "job", anonymous_pull: false, ..Tokens::default() };
    registry.set_auth(Auth::Token(tokens));
    let mut bench = Bench::new();
    bench.file("f", "x").dockerfile("FROM scratch\nCOPY f /f\n");
    let tag = format!("{}/app:1", registry.host());
    bench.build(&["-t", &tag, "--push"]).fails(6, &["rbuild login"]);
    bench.env.push(("CI_REGISTRY".into(), registry.host()));
    bench.env.push(("CI_JOB_TOKEN".into(), "job".into()));
    let run = bench.build(&["-t", &tag, "--push"]).ok();
    assert!(run.stderr.contains("signed in to"), "{}", run.stderr);
}

// SPEC B5.02, E1.01
#[test]
fn credentials_are_found_where_other_tools_keep_them() {
    let registry = FakeRegistry::start();
    registry.set_auth(Auth::Token(Tokens { anonymous_pull: false, ..Tokens::default() }));
    let host = registry.host();
    let auth = format!(r#"{{"auths":{{"{host}":{{"auth":"dXNlcjpzZWNyZXQ="}}}}}}"#);
    for (variable, file) in [
        ("DOCKER_AUTH_CONFIG", None),
        ("REGISTRY_AUTH_FILE", Some("auth.json")),
        ("DOCKER_CONFIG", Some("config.json")),
        ("XDG_RUNTIME_DIR", Some("containers/auth.json")),
        ("HOME", Some(".config/containers/auth.json")),
    ] {
        let mut bench = Bench::new();
        bench.file("f", "x").dockerfile("FROM scratch\nCOPY f /f\n");
        let tag = format!("{host}/app:{}", variable.to_lowercase());
        bench.env.push(("REGISTRY_AUTH_FILE".into(), String::new()));
        let dir = bench.path("home");
        let value = match file {
            None => auth.clone(),
            Some(file) => {
                let path = dir.join(file);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(&path, &auth).unwrap();
                let named = if variable == "REGISTRY_AUTH_FILE" { path } else { dir };
                named.display().to_string()
            }
        };
        if variable != "HOME" {
            bench.build(&["-t", &tag, "--push"]).fails(6, &[]);
            bench.env.push((variable.into(), value));
        }
        bench.build(&["-t", &tag, "--push"]).ok();
    }
}

// SPEC E1.09
#[test]
fn credentials_for_one_repository() {
    let registry = FakeRegistry::start();
    registry.set_auth(Auth::Token(Tokens { anonymous_pull: false, ..Tokens::default() }));
    let mut bench = Bench::new();
    bench.file("f", "x").dockerfile("FROM scratch\nCOPY f /f\n");
    let host = registry.host();
    let auth = |text: &str| format!(r#"{{"auths":{{"{host}":{{"auth":"{text}"}}}}}}"#);
    let usual = bench.path("home/.docker");
    std::fs::create_dir_all(&usual).unwrap();
    // user:wrong for all, user:secret for one.
    std::fs::write(usual.join("config.json"), auth("dXNlcjp3cm9uZw==")).unwrap();
    let own = bench.path(&format!("buildx/config/{host}/team/app@push"));
    std::fs::create_dir_all(&own).unwrap();
    std::fs::write(own.join("config.json"), auth("dXNlcjpzZWNyZXQ=")).unwrap();
    bench.env.push(("BUILDX_CONFIG".into(), bench.path("buildx").display().to_string()));
    bench.build(&["-t", &format!("{host}/team/app:1"), "--push"]).ok();
    bench.build(&["-t", &format!("{host}/team/other:1"), "--push"]).fails(6, &["refused the credentials"]);
}

// SPEC E3.07, E3.13: broken connections end in a whole image, and the cost is said.
#[test]
fn a_push_over_a_bad_line_ends_right() {
    let registry = FakeRegistry::start();
    registry.state().resumable = true;
    let bench = Bench::new();
    let payload: Vec<u8> = (0..3_000_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    bench.file("f", payload).dockerfile("FROM scratch\nCOPY f /f\n");
    registry.fault("PUT", "/uploads/", 1, Action::CloseAfterReading(2_000_000));
    registry.fault("PUT", "/uploads/", 1, Action::Status(503, vec![("Retry-After", "0".into())], String::new()));
    let tag = format!("{}/app:1", registry.host());
    let run = bench.build(&["-t", &tag, "--push", "-o", "type=image,compression=uncompressed"]).ok();
    let sizes: Vec<u64> = registry
        .requests()
        .iter()
        .filter(|r| r.method == "PUT" && r.target.contains("/uploads/"))
        .filter_map(|r| r.header("content-length")?.parse().ok())
        .filter(|n| *n > 1_000_000)
        .collect();
    assert_eq!(sizes.len(), 3, "{sizes:?}");
    assert_eq!(sizes[1], sizes[0] - 2_000_000, "it goes on where it broke");
    assert!(run.stderr.contains("again because connections broke"), "{}", run.stderr);
}
