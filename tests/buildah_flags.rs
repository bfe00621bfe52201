//! What podman's and buildah's users say and have that docker's have not (SPEC D3).
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stderr, reason = "skip reasons are collected by scripts/test")]
#![allow(missing_docs, unreachable_pub, reason = "a test program")]

mod support;

use support::Bench;

// SPEC D3.14
#[test]
fn d3_14_a_containerfile_is_found_where_there_is_no_dockerfile() {
    let bench = Bench::new();
    bench.file("Containerfile", "FROM scratch\nCOPY f /podman\n").file("f", "x");
    assert_eq!(bench.build_image(&[]).top(), ["podman"]);
    // In an archive too.
    let tar = bench.path("c.tar");
    let made = std::process::Command::new("tar").arg("-cf").arg(&tar).arg("-C").arg(bench.ctx()).arg(".").status();
    assert!(made.unwrap().success());
    bench.rbuild(&["build", &format!("tar://{}", tar.display())]).ok();
    bench.dockerfile("FROM scratch\nCOPY f /docker\n");
    assert_eq!(bench.build_image(&[]).top(), ["docker"]);
    let file = bench.ctx().join("Containerfile").display().to_string();
    assert_eq!(bench.build_image(&["-f", &file]).top(), ["podman"]);
}

// SPEC D3.13
#[test]
fn d3_13_containerignore_and_ignorefile() {
    let bench = Bench::new();
    bench.dockerfile("FROM scratch\nCOPY a* b* c* d* /\n");
    for name in ["a", "b", "c", "d"] {
        bench.file(name, name);
    }
    bench.file(".containerignore", "a\n");
    assert_eq!(bench.build_image(&[]).top(), ["b", "c", "d"]);
    bench.file(".dockerignore", "b\n");
    assert_eq!(bench.build_image(&[]).top(), ["a", "c", "d"]);
    bench.file("Dockerfile.containerignore", "c\n");
    assert_eq!(bench.build_image(&[]).top(), ["a", "b", "d"]);
    bench.file("../rules", "d\n");
    let rules = bench.path("rules").display().to_string();
    assert_eq!(bench.build_image(&["--ignorefile", &rules]).top(), ["a", "b", "c"]);
    bench.build(&["--ignorefile", "missing"]).fails(2, &["--ignorefile: there is no missing"]);
}

// SPEC D3.12
#[test]
fn d3_12_files_of_build_arguments() {
    let bench = Bench::new();
    bench.dockerfile("FROM scratch\nARG A=0\nARG B=0\nARG C=0\nLABEL a=$A b=$B c=$C\n");
    bench.file("one", "# a comment\nA=1 2\n\nB=1\n").file("two", "B=2\n");
    let [one, two] = ["one", "two"].map(|name| bench.ctx().join(name).display().to_string());
    let image = bench.build_image(&["--build-arg=C=3", "--build-arg-file", &one, "--build-arg-file", &two]);
    assert_eq!(image.config["config"]["Labels"], serde_json::json!({"a": "1 2", "b": "2", "c": "3"}));
    let image = bench.build_image(&["--build-arg=A=mine", "--build-arg-file", &one]);
    assert_eq!(image.config["config"]["Labels"]["a"], "mine");
    bench.build(&["--build-arg-file", "missing"]).fails(2, &["--build-arg-file: cannot read missing"]);
}
