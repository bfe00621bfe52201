//! `rbuild diff` and `rbuild verify`: what differs between images, and whether builds give the same one every time.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stderr, reason = "skip reasons are collected by scripts/test")]
#![allow(missing_docs, unreachable_pub, reason = "a test program")]

mod support;

use serde_json::Value;
use support::Bench;
use support::registry::Registry;

/// `rbuild verify` of the bench's context.
fn verify(bench: &Bench, args: &[&str]) -> support::Run {
    support::finish(bench.command_on_context("verify", args).output().unwrap())
}

#[test]
fn images_are_compared_file_by_file() {
    let bench = Bench::new();
    bench.file("same", "same").file("a", "line 1\nline 2\n").file("b", "x").chmod("b", 0o644);
    let text = "FROM scratch\nCOPY same /same\nCOPY a b /d/\nENV X=1\n";
    bench.dockerfile(text).build(&["-t", "app:1"]).ok();
    bench.file("a", "line 1\nline two\n").chmod("b", 0o600).file("c", "new");
    bench.dockerfile(&text.replace("a b", "a b c").replace("X=1", "X=2")).build(&["-t", "app:2"]).ok();

    let same = bench.rbuild(&["diff", "app:1", "app:1"]).ok().stdout;
    assert!(same.contains(": the same\n"), "{same}");
    let found = bench.rbuild(&["diff", "app:1", "app:2"]);
    assert_eq!(found.code, 1, "{}", found.stderr);
    for part in [
        ": different\n  layer 2: COPY a b /d/\n",
        "    /d/a: content, size 14 / 16",
        "      line 2\n        - line 2\n        + line two\n",
        "    /d/b: mode 0644 / 0600",
        "    /d/c: only in app:2\n",
        "    .config.Env[1]: \"X=1\" / \"X=2\"\n",
    ] {
        assert!(found.stdout.contains(part), "{part:?} is not in:\n{}", found.stdout);
    }
    assert!(!found.stdout.contains("/same"), "{}", found.stdout);

    let found = bench.rbuild(&["diff", "--format", "json", "app:1", "app:2"]);
    let value: Value = serde_json::from_str(&found.stdout).unwrap();
    assert_eq!((found.code, &value["same"]), (1, &Value::Bool(false)));
    let files = value["platforms"][0]["layers"][0]["files"].as_array().unwrap();
    let added = files.iter().find(|file| file["path"] == "d/c").unwrap();
    assert_eq!(added["change"], "only-in-second");

    bench.rbuild(&["diff", "app:1", "nothing"]).fails(2, &["there is no image \"nothing\""]);
}

#[test]
fn another_compression_is_no_difference() {
    let bench = Bench::new();
    bench.file("a", "content").dockerfile("FROM scratch\nCOPY a /a\n");
    bench.build(&["-o", "type=image,name=app:1,compression=gzip"]).ok();
    bench.build(&["-o", "type=image,name=app:2,compression=zstd,force-compression=true"]).ok();
    let found = bench.rbuild(&["diff", "app:1", "app:2"]).ok().stdout;
    assert!(found.contains("the same (layer 1 is compressed differently)"), "{found}");
}

#[test]
fn a_build_that_is_the_same_every_time_is_verified() {
    need_run!();
    let bench = Bench::new();
    bench.file("a", "x").dockerfile("FROM busybox\nCOPY a /a\nRUN mkdir /d && cp /a /d/b && ln -s b /d/l\n");
    let run = verify(&bench, &[]).ok();
    assert!(run.stdout.contains(": the same\n"), "{}", run.stdout);
    assert!(run.stderr.contains("SOURCE_DATE_EPOCH is not set"), "{}", run.stderr);
    // Nothing of it has a name.
    assert_eq!(bench.rbuild(&["images", "-q"]).ok().stdout, "");
}

#[test]
fn the_file_that_differs_is_named() {
    need_run!();
    let bench = Bench::new();
    bench.dockerfile(
        "FROM busybox\nRUN echo 1 > /one\nRUN mkdir -p /var/log && cat /proc/sys/kernel/random/uuid > /var/log/install.log\n",
    );
    let run = verify(&bench, &[]);
    assert_eq!(run.code, 1, "{}", run.stderr);
    for part in
        ["RUN mkdir -p /var/log", "    /var/log/install.log: content\n", "      line 1\n        - ", "often comes from"]
    {
        assert!(run.stdout.contains(part), "{part:?} is not in:\n{}", run.stdout);
    }
    assert!(!run.stdout.contains("/one"), "{}", run.stdout);
}

#[test]
fn a_published_image_is_compared_with_its_source() {
    need_run!();
    let registry = need!(Registry::start());
    let name = format!("{}/team/app:1", registry.host);
    let publisher = Bench::new();
    publisher.file("a", "x").dockerfile("FROM busybox\nCOPY a /a\nRUN echo 1 > /one\n");
    let output = format!("type=image,name={name},push=true,rewrite-timestamp=true");
    publisher.build(&["--build-arg", "SOURCE_DATE_EPOCH=1000", "-o", &output]).ok();

    let other = Bench::new();
    other.file("a", "x").dockerfile("FROM busybox\nCOPY a /a\nRUN echo 1 > /one\n");
    let epoch = ["--build-arg", "SOURCE_DATE_EPOCH=1000", "--against", &name];
    let run = verify(&other, &epoch).ok();
    assert!(run.stdout.contains(": the same\n"), "{}", run.stdout);
    // What was published is not what this source gives.
    other.file("a", "y");
    let run = verify(&other, &epoch);
    assert_eq!(run.code, 1, "{}", run.stderr);
    assert!(run.stdout.contains("    /a: content"), "{}", run.stdout);
    assert!(run.stdout.contains("        - x\n        + y\n"), "{}", run.stdout);
}

#[test]
fn what_would_keep_a_result_is_refused() {
    let bench = Bench::new();
    bench.dockerfile("FROM scratch\n");
    for flag in ["--tag=a", "--push", "--load", "--output=type=oci,dest=x.tar", "--iidfile=x", "--cache-to=type=inline"]
    {
        let name = flag.split('=').next().unwrap();
        verify(&bench, &[flag]).fails(2, &[name, "has no meaning for rbuild verify"]);
    }
}

#[test]
fn a_build_that_fails_is_reported_as_such() {
    need_run!();
    let bench = Bench::new();
    bench.dockerfile("FROM busybox\nRUN exit 3\n");
    verify(&bench, &[]).fails(9, &["exit code: 3", "Dockerfile:2"]);
}
