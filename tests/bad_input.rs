//! Every mistake gets a clear message and a fitting exit code, and the store stays whole.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stderr, reason = "skip reasons are collected by scripts/test")]
#![allow(missing_docs, unreachable_pub, reason = "a test program")]
#![allow(clippy::type_complexity, reason = "shapes are compared, not kept")]

mod support;

use support::Bench;
use support::registry::Registry;

/// Exit codes as documented in docs/cli/exit-codes.md.
const USAGE: i32 = 2;
const INPUT: i32 = 4;
const AUTH: i32 = 6;
const NETWORK: i32 = 7;

// SPEC B2.35
#[test]
fn missing_files() {
    let bench = Bench::new();
    bench.build(&[]).fails(INPUT, &["Dockerfile", "no such file"]);
    bench
        .rbuild(&["build", "/nonexistent/dir"])
        .fails(USAGE, &["unable to prepare context: path \"/nonexistent/dir\" not found"]);
}

// SPEC A1.13, A1.14, A1.16, A1.19, A6.01, G.06
#[test]
fn syntax_errors_show_the_place() {
    let bench = Bench::new();
    bench.dockerfile("FROM scratch\nRUM echo hi\n");
    bench.build(&[]).fails(
        INPUT,
        &["dockerfile parse error on line 2: unknown instruction: RUM (did you mean RUN?)", "Dockerfile:2", ">>>"],
    );
    bench.dockerfile("FROM scratch\nCOPY --form=x a b\n");
    bench.build(&[]).fails(INPUT, &["unknown flag: --form", "did you mean"]);
    bench.dockerfile("FROM scratch\nCOPY a\n");
    bench.build(&[]).fails(INPUT, &["COPY requires at least two arguments"]);
    bench.dockerfile("");
    bench.build(&[]).fails(INPUT, &["the Dockerfile cannot be empty"]);
    bench.dockerfile("FROM busybox AS a\nFROM scratch\nCOPY --from=b /x /x\nCOPY <<EOF /y\nnever ends\n");
    bench.build(&[]).fails(INPUT, &["unterminated heredoc"]);
    bench.dockerfile("FROM scratch\nENV A=${B:?must be given}\n");
    bench.build(&[]).fails(INPUT, &["must be given"]);
}

// SPEC A6.07
#[test]
fn a6_07_a_source_that_is_nearly_right_is_told() {
    let bench = Bench::new();
    bench.file("app/package.json", "{}").dockerfile("FROM scratch\nCOPY app/packge.json /\n");
    bench.build(&[]).fails(INPUT, &["\"/app/packge.json\": not found", "did you mean \"/app/package.json\"?"]);
}

// SPEC A6.07
#[test]
fn a6_07_dots_do_not_lead_out_of_the_context() {
    let bench = Bench::new();
    bench.file("x", "inside").dockerfile("FROM scratch\nCOPY ../x /y\n");
    assert_eq!(bench.build_image(&[]).text("y"), "inside");
    for copy in ["COPY ../shared/a /y", "COPY --link a/../../shared/a /y", "COPY [\"../shared/a\", \"/y\"]"] {
        bench.dockerfile(&format!("FROM scratch\n{copy}\n"));
        let hint = "\"..\" does not lead out of the source of a copy, so this is \"/shared/a\" in it";
        bench.build(&[]).fails(INPUT, &["\"/shared/a\": not found", hint, "--build-context NAME=DIR"]);
    }
    bench.dockerfile("FROM scratch\nCOPY b/../shared/a /y\n");
    bench.build(&[]).fails(INPUT, &["hint: there is no \"/shared/a\" in the source of this copy"]);
}

// SPEC A6.07
#[test]
fn a6_07_a_directory_above_that_has_the_source_is_told() {
    let bench = Bench::new();
    bench.file("shared/a", "x").file("apps/one/Dockerfile", "FROM scratch\nCOPY shared/a /a\n");
    let (above, context) = (bench.ctx().display().to_string(), bench.ctx().join("apps/one").display().to_string());
    let hint = format!("there is no \"/shared/a\" in the context, but there is in {above}");
    bench.rbuild(&["build", &context]).fails(INPUT, &["\"/shared/a\": not found", &hint]);
    bench.rbuild(&["build", "-f", &format!("{context}/Dockerfile"), &above]).ok();
}

// SPEC A1.19, A6.20
#[test]
fn a1_19_what_is_wrong_with_a_checksum_is_underlined() {
    let bench = Bench::new();
    bench.dockerfile("FROM scratch\nADD --checksum=md5:00 http://127.0.0.1:1/f /f\n");
    let run = bench.build(&[]).fails(INPUT, &["unsupported digest algorithm \"md5:00\" of a URL"]);
    let marked = ">>> ADD --checksum=md5:00 http://127.0.0.1:1/f /f\n     |         ^^^^^^^^^^^^^^^^^\n";
    assert!(run.stderr.contains(marked), "{}", run.stderr);
    bench.file("f", "").dockerfile("FROM scratch\nADD --checksum=sha256:00 f /f\n");
    let run = bench.build(&[]).fails(INPUT, &["checksum requires HTTP(S) or Git sources"]);
    assert!(run.stderr.contains("|         ^^^^^^^^^^^^^^^^^^^^\n"), "{}", run.stderr);
}

// SPEC A4.07, B2.31
#[test]
fn unknown_stages_and_targets() {
    let bench = Bench::new();
    bench.dockerfile("FROM scratch AS first\n");
    bench.build(&["--target", "fisrt"]).fails(USAGE, &["target stage \"fisrt\" could not be found", "first"]);
}

// SPEC B2.01, B2.17, B2.20, B2.21, B2.23, B2.27, B2.30, B2.35
#[test]
fn bad_flags_are_refused_before_any_work() {
    let bench = Bench::new();
    bench.dockerfile("FROM scratch\n");
    for (args, text) in [
        (vec!["--platform", "linux/"], "invalid component of \"linux/\""),
        (vec!["--output", "type=nonsense,dest=x"], "unknown output type \"nonsense\""),
        (vec!["--no-such-flag"], "--no-such-flag"),
        (vec!["-t", "UPPERCASE"], "invalid tag \"UPPERCASE\""),
        (vec!["--push"], "tag is needed when pushing to registry"),
        (vec!["--network", "weird"], "network mode \"weird\" not supported"),
        (vec!["--progress", "loud"], "invalid progress mode \"loud\""),
        (vec!["--secret", "src=x"], "secret missing ID"),
        (vec!["--add-host", "x"], "invalid host x"),
    ] {
        bench.build(&args).fails(USAGE, &[text]);
        assert!(!bench.path("x").exists());
    }
}

#[test]
fn b2_04_attestations_that_cannot_be_made_are_refused_by_name() {
    let bench = Bench::new();
    bench.dockerfile("FROM scratch\nCOPY Dockerfile /\n");
    bench.build(&["--provenance=false", "--sbom=false"]).ok();
    let mode = ["--provenance=mode=most"];
    bench.build(&mode).fails(USAGE, &["--provenance: invalid mode \"most\": expected min or max"]);
    bench.build(&["--attest", "type=sbmo"]).fails(USAGE, &["unknown attestation type \"sbmo\"", "did you mean sbom?"]);
}

// SPEC E2.02, E3.14
#[test]
fn unreachable_registries() {
    let bench = Bench::new();
    bench.dockerfile("FROM 127.0.0.1:1/x/y\nRUN true\n");
    bench.build(&[]).fails(NETWORK, &["127.0.0.1:1/x/y", "Dockerfile:1"]);
}

// SPEC E3.02, E3.14
#[test]
fn missing_images_and_wrong_passwords() {
    let registry = need!(Registry::with_auth(Some(("user", "right"))));
    let bench = Bench::new();
    bench.dockerfile(&format!("FROM {}/some/image\nRUN true\n", registry.host));
    let login = |password: &str| {
        let auth = base64(&format!("user:{password}"));
        std::fs::create_dir_all(bench.path("home/.docker")).unwrap();
        let config = format!(r#"{{"auths":{{"{}":{{"auth":"{auth}"}}}}}}"#, registry.host);
        std::fs::write(bench.path("home/.docker/config.json"), config).unwrap();
    };
    bench.build(&[]).fails(AUTH, &["some/image"]);
    login("wrong");
    bench.build(&[]).fails(AUTH, &["some/image"]);
    login("right");
    bench.build(&[]).fails(5, &["some/image", "not found"]);
}

fn base64(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}

// SPEC E3.06
#[test]
fn damaged_blobs_are_noticed() {
    let registry = need!(Registry::start());
    let bases = need!(support::bases());
    need_run!();
    registry.put(&bases.join("busybox"), "base/busybox:latest");
    let layer = std::fs::read_dir(registry.data().join("docker/registry/v2/blobs/sha256"))
        .unwrap()
        .flat_map(|d| std::fs::read_dir(d.unwrap().path()).unwrap())
        .map(|d| d.unwrap().path().join("data"))
        .max_by_key(|p| p.metadata().unwrap().len())
        .unwrap();
    let mut bytes = std::fs::read(&layer).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    std::fs::write(&layer, &bytes).unwrap();
    let bench = Bench::new();
    bench.dockerfile(&format!("FROM {}/base/busybox\nRUN true\n", registry.host));
    bench.build(&[]).fails(5, &["sha256:"]);
    bytes[middle] ^= 0xff;
    std::fs::write(&layer, &bytes).unwrap();
    bench.build(&[]).ok();
}

// SPEC B5.02
#[test]
fn stores_of_a_newer_version_and_unwritable_homes() {
    let bench = Bench::new();
    bench.dockerfile("FROM scratch\nCOPY Dockerfile /\n");
    bench.build(&[]).ok();
    let version = bench.store().join("VERSION");
    let text = std::fs::read_to_string(&version).unwrap();
    std::fs::write(&version, text.replacen('1', "999", 1)).unwrap();
    bench.build(&[]).fails(8, &["999"]);
    std::fs::write(&version, text).unwrap();
    bench.build(&[]).ok();
    if std::env::var("USER").is_ok_and(|u| u == "root") {
        skip!("a read-only home does not stop root");
    }
    let args = ["--root", "/proc/nowhere/store", "build", "."];
    let run = support::finish(
        std::process::Command::new(support::rbuild_path()).args(args).current_dir(bench.ctx()).output().unwrap(),
    );
    run.fails(8, &["/proc/nowhere/store"]);
}

// SPEC C4.14
#[test]
fn a_full_disk_is_named_and_leaves_the_store_whole() {
    let bench = Bench::new();
    bench.file("big", vec![7_u8; 6 << 20]).dockerfile("FROM scratch\nCOPY big /big\n");
    std::fs::create_dir(bench.store()).unwrap();
    // A small disk of its own, in a namespace of its own.
    let run = |text: &str| {
        let build = format!(
            "{} --root {store} --isolation none --snapshotter native build --progress plain {ctx}",
            support::rbuild_path().display(),
            store = bench.store().display(),
            ctx = bench.ctx().display()
        );
        let script =
            format!("mount -t tmpfs -o size=3m tmpfs {} && {}", bench.store().display(), text.replace("BUILD", &build));
        let mut command = std::process::Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script]).current_dir("/");
        command.env("HOME", bench.path("home"));
        support::finish(command.output().unwrap())
    };
    let probe = run("echo mounted");
    if !probe.stdout.contains("mounted") {
        skip!("no user namespace to mount a small disk in: {}", probe.stderr.trim());
    }
    run("BUILD").fails(8, &["No space left on device"]);
    let small = run(&format!(
        "{{ BUILD; echo first $?; head -c 1000 /dev/zero > {}/big; BUILD; echo second $?; }}",
        bench.ctx().display()
    ));
    assert!(
        small.stdout.contains("first 8") && small.stdout.contains("second 0"),
        "{}\n{}",
        small.stdout,
        small.stderr
    );
}
