//! Command lines that people and tools bring along from docker, buildx and buildctl.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stderr, reason = "skip reasons are collected by scripts/test")]
#![allow(missing_docs, unreachable_pub, reason = "a test program")]

mod support;

use std::os::unix::fs::symlink;
use std::process::Command;

use support::{Bench, rbuild_path};

#[test]
fn b1_01_the_spellings_of_docker_build_the_same() {
    let bench = Bench::new();
    bench.dockerfile("FROM scratch\nCOPY Dockerfile /\n");
    let context = bench.ctx().display().to_string();
    let mut ids = Vec::new();
    for words in [
        vec!["build"],
        vec!["buildx", "build"],
        vec!["image", "build"],
        vec!["builder", "build"],
        vec!["buildx", "b"],
        vec![],
    ] {
        let mut args = words;
        args.extend(["-q", "-t", "app", context.as_str()]);
        ids.push(bench.rbuild(&args).ok().stdout);
    }
    assert!(ids[0].starts_with("sha256:") && ids.iter().all(|id| *id == ids[0]), "{ids:?}");
}

#[test]
fn b2_34_buildctl_builds() {
    let bench = Bench::new();
    bench.file("docker/Containerfile", "FROM scratch AS one\nARG A\nLABEL a=$A\nCOPY x /x\nFROM scratch\n");
    bench.file("x", "x");
    let context = bench.ctx();
    let (local, dockerfile) =
        (format!("context={}", context.display()), format!("dockerfile={}", context.join("docker").display()));
    let dest = bench.path("out");
    let output = format!("type=local,dest={}", dest.display());
    bench
        .rbuild(&[
            "buildctl",
            "build",
            "--frontend",
            "dockerfile.v0",
            "--local",
            &local,
            "--local",
            &dockerfile,
            "--opt",
            "filename=Containerfile",
            "--opt",
            "target=one",
            "--opt",
            "build-arg:A=1",
            "--output",
            &output,
        ])
        .ok();
    assert!(dest.join("x").is_file());
    bench.rbuild(&["buildctl", "build", "--frontend", "dockerfile.v0"]).fails(2, &["there is no build context"]);
}

/// What setup-buildx-action and build-push-action do, in their order.
#[test]
fn b8_14_as_a_docker_plugin() {
    let bench = Bench::new();
    bench.dockerfile("FROM scratch\nCOPY Dockerfile /\n");
    let plugin = bench.path("docker-buildx");
    symlink(rbuild_path(), &plugin).unwrap();
    let run = |args: &[&str]| {
        let output = Command::new(&plugin).args(args).env("XDG_DATA_HOME", bench.path("data")).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let metadata: serde_json::Value = serde_json::from_str(&run(&["docker-cli-plugin-metadata"])).unwrap();
    assert_eq!(metadata["SchemaVersion"], "0.1.0");
    assert!(run(&["buildx", "version"]).starts_with("github.com/docker/buildx v0."));
    let create = [
        "buildx",
        "create",
        "--name",
        "builder-1",
        "--driver",
        "docker-container",
        "--buildkitd-flags",
        "--allow-insecure-entitlement network.host",
        "--use",
    ];
    assert_eq!(run(&create).trim(), "builder-1");
    assert!(
        run(&["buildx", "inspect", "--bootstrap", "--builder", "builder-1"]).contains("Status:                running")
    );
    assert!(run(&["buildx", "ls"]).contains("rbuild*"));
    let (iid, metadata) = (bench.path("iid"), bench.path("metadata"));
    run(&[
        "buildx",
        "build",
        "--builder",
        "builder-1",
        "--iidfile",
        iid.to_str().unwrap(),
        "--metadata-file",
        metadata.to_str().unwrap(),
        "--provenance",
        "false",
        "--tag",
        "app:1",
        "--load",
        bench.ctx().to_str().unwrap(),
    ]);
    let id = std::fs::read_to_string(&iid).unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&std::fs::read(&metadata).unwrap()).unwrap();
    assert_eq!(metadata["containerimage.config.digest"], id.as_str());
    run(&["buildx", "rm", "builder-1"]);
}

#[test]
fn b5_04_progress_settings_and_the_build_in_numbers() {
    let mut bench = Bench::new();
    bench.dockerfile("FROM scratch\nCOPY Dockerfile /\n");
    let (json, metrics) = (bench.path("summary.json"), bench.path("rbuild.prom"));
    let files = ["--summary-file", json.to_str().unwrap(), "--metrics-file", metrics.to_str().unwrap()];
    let run = bench.build(&files).ok();
    assert!(run.stderr.contains("built in "), "{}", run.stderr);
    let summary: serde_json::Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    assert!(
        summary["steps"].as_array().unwrap().iter().any(|s| s["name"].as_str().unwrap().contains("COPY Dockerfile"))
    );
    assert!(std::fs::read_to_string(&metrics).unwrap().contains("rbuild_build_success 1"));
    bench.dockerfile("FROM scratch\nCOPY nothing /\n");
    bench.build(&files).fails(4, &["nothing"]);
    assert!(std::fs::read_to_string(&metrics).unwrap().contains("rbuild_build_success 0"));
    bench.env.push(("BUILDKIT_TTY_LOG_LINES".into(), "many".into()));
    bench.build(&[]).fails(2, &["BUILDKIT_TTY_LOG_LINES"]);
}
