//! `--check` and `--call`: questions about a Dockerfile, as a user asks them.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stderr, reason = "skip reasons are collected by scripts/test")]
#![allow(missing_docs, unreachable_pub, reason = "a test program")]

mod support;

use support::Bench;

/// A file with two failed checks and an outline.
const FILE: &str = "# V of the thing\nARG V=1\nFROM scratch AS Base\nARG V\nENTRYPOINT run\n";

#[test]
fn a10_25_check_says_what_fails_and_builds_nothing() {
    let bench = Bench::new();
    bench.dockerfile(FILE);
    let run = bench.build(&["--check", "-t", "x"]).fails(1, &[]);
    assert!(run.stdout.starts_with("Check complete, 2 warnings have been found!\n\nWARNING: StageNameCasing - https"));
    assert!(run.stdout.contains("Dockerfile:5\n") && run.stdout.contains("   5 | >>> ENTRYPOINT run\n"));
    assert!(!run.stderr.contains("error"), "{}", run.stderr);
    assert!(!bench.rbuild(&["images"]).ok().stdout.contains("\nx "));

    bench.dockerfile("FROM scratch\n");
    let clean = bench.build(&["--check"]).ok();
    assert_eq!(clean.stdout, "Check complete, no warnings found.\n");

    bench.dockerfile("FROM scratch\nRUM x\n");
    let broken = bench.build(&["--call=lint"]).fails(1, &[]);
    assert!(
        broken.stdout.contains("ERROR: dockerfile parse error on line 2: unknown instruction: RUM (did you mean RUN?)")
    );
}

// SPEC B2.10
#[test]
fn a10_26_the_grammar_of_call() {
    let bench = Bench::new();
    bench.dockerfile(FILE);
    bench.build(&["--call=check,ignorestatus=true"]).ok();
    bench.build(&["--call", "check,ignorestatus=0"]).fails(1, &[]);
    let json = bench.build(&["--call=lint,format=json"]).fails(1, &[]).stdout;
    let answer: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(answer["warnings"][0]["ruleName"], "StageNameCasing");
    assert!(bench.build(&["--call=frontend.targets"]).ok().stdout.contains("base (default)"));
    assert!(bench.build(&["--print=outline"]).ok().stdout.contains("BUILD ARG"));
    assert!(bench.build(&["--call=subrequests.describe"]).ok().stdout.contains("outline"));
    // SPEC A10.30
    assert!(bench.build(&["--print=convertllb"]).ok().stdout.contains("\"def\": {"));
    assert!(bench.build(&["--call=subrequests.describe,format=json"]).ok().stdout.contains("\"frontend.convertllb\""));
    for (option, text) in [
        ("--call=outlin", "unknown method \"outlin\" (did you mean outline?)"),
        ("--call=outline,fromat=json", "unknown option \"fromat\" (did you mean format?)"),
        ("--call=outline,format=jso", "unknown format \"jso\" (did you mean json?)"),
        ("--call=check,ignorestatus=perhaps", "invalid ignorestatus value \"perhaps\""),
        ("--call=", "no method"),
    ] {
        bench.build(&[option]).fails(2, &[text]);
    }
    bench.build(&["--check", "--call=outline"]).fails(2, &["different things"]);
    bench.dockerfile("FROM scratch\nCOPY <<x /x\nx\n");
    let graph = bench.build(&["--call=frontend.convertllb,format=json"]).ok().stdout;
    let graph: serde_json::Value = serde_json::from_str(&graph).unwrap();
    assert_eq!(graph["source"]["infos"][0]["filename"], "Dockerfile");
    // `build` is the usual.
    bench.build(&["--call=build", "-t", "y"]).ok();
    assert!(bench.rbuild(&["images"]).ok().stdout.contains("\ny "));
}

// As buildx does, so that editors find the place: the path that was typed, not the name in the context.
#[test]
fn a10_25_check_names_the_file_as_it_was_given() {
    let bench = Bench::new();
    bench.file("docker/App.Dockerfile", FILE);
    let path = bench.path("ctx/docker/App.Dockerfile");
    let run = bench.build(&["--check", "-f", path.to_str().unwrap()]).fails(1, &[]);
    assert!(run.stdout.contains(&format!("\n{}:3\n", path.display())), "{}", run.stdout);
}

#[test]
fn b2_16_answers_are_in_the_metadata_file() {
    let bench = Bench::new();
    bench.dockerfile(FILE);
    let path = bench.path("metadata.json");
    let ask = |call: &str, code: i32| -> serde_json::Value {
        let run = bench.build(&[&format!("--call={call}"), "--metadata-file", path.to_str().unwrap()]);
        let _ = if code == 0 { run.ok() } else { run.fails(code, &[]) };
        serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap()
    };
    let check = ask("check,format=json", 1);
    assert_eq!(check["result.json"]["warnings"].as_array().unwrap().len(), 2);
    assert_eq!(check["result.statuscode"], "1");
    assert!(check.get("buildx.build.ref").is_none(), "a question is not a build");
    let outline = ask("outline", 0);
    assert_eq!(outline["result.json"]["args"][0]["name"], "V");
    assert!(
        outline["result.txt"].as_str().unwrap().contains("BUILD ARG") && outline.get("result.statuscode").is_none()
    );

    // SPEC B7.23: the same below the name of the target.
    std::fs::write(bench.path("out/docker-bake.hcl"), "target \"default\" {}\n").unwrap();
    std::fs::write(bench.path("out/Dockerfile"), FILE).unwrap();
    let run = bench.rbuild(&["bake", "--call=check", "--metadata-file", path.to_str().unwrap()]).fails(1, &[]);
    let told: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    assert_eq!(told["default"]["result.json"]["warnings"].as_array().unwrap().len(), 2, "{}", run.stdout);
}

// SPEC B2.16: the variable is a boolean.
#[test]
fn b2_16_failed_checks_are_in_the_metadata_file_on_request() {
    let mut bench = Bench::new();
    bench.dockerfile(FILE);
    let path = bench.path("metadata.json");
    for (value, count) in [("true", Some(2)), ("1", Some(2)), ("false", None), ("0", None), ("", None), ("x", None)] {
        bench.env.push(("BUILDX_METADATA_WARNINGS".into(), value.into()));
        bench.build(&["--metadata-file", path.to_str().unwrap()]).ok();
        let told: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(told["buildx.build.warnings"].as_array().map(Vec::len), count, "{value:?}");
    }
}

#[test]
fn a10_28_a10_29_outline_and_targets_as_json() {
    let bench = Bench::new();
    bench.dockerfile(FILE);
    let ask = |call: &str| -> serde_json::Value {
        serde_json::from_str(&bench.build(&[&format!("--call={call},format=json")]).ok().stdout).unwrap()
    };
    let outline = ask("outline");
    assert_eq!(outline["args"][0]["name"], "V");
    assert_eq!(outline["args"][0]["value"], "1");
    assert_eq!(outline["args"][0]["description"], "of the thing");
    let targets = ask("targets");
    assert_eq!(targets["targets"][0]["base"], "scratch");
    assert_eq!(targets["targets"][0]["default"], true);
}

// SPEC A1.04, A10.24
#[test]
fn checks_can_fail_a_build_or_be_silenced() {
    let bench = Bench::new();
    bench.dockerfile(FILE);
    let built = bench.build(&[]).ok();
    assert!(built.stderr.contains("2 warnings found"), "{}", built.stderr);
    assert!(built.stderr.contains(" - StageNameCasing: Stage name 'Base' should be lowercase (line 3)"));
    bench.dockerfile(&format!("# check=error=true\n{FILE}"));
    bench.build(&[]).fails(4, &["lint violation found for rules: JSONArgsRecommended, StageNameCasing"]);
    let silenced = bench.build(&["--build-arg", "BUILDKIT_DOCKERFILE_CHECK=skip=all"]).ok();
    assert!(!silenced.stderr.contains("warning"), "{}", silenced.stderr);
    bench.dockerfile(&format!("# check=skp=all\n{FILE}"));
    bench.build(&[]).fails(4, &["invalid check option \"skp\""]);
}

// SPEC A10.24: what a check has to say often explains the error.
#[test]
fn checks_are_shown_by_a_build_that_fails() {
    let bench = Bench::new();
    let maintainer = "MaintainerDeprecated: Maintainer instruction is deprecated in favor of using label (line 2)";
    bench.dockerfile("FROM scratch AS A\nMAINTAINER me\nBADCMD\n");
    let run = bench
        .build(&[])
        .fails(4, &["2 warnings found (use --debug to expand):", maintainer, "unknown instruction: BADCMD"]);
    assert!(run.stderr.find("2 warnings found") < run.stderr.find("error:"), "{}", run.stderr);
    bench.dockerfile("FROM scratch\nMAINTAINER me\nCOPY nothing /\n");
    bench.build(&[]).fails(4, &[maintainer, "\"/nothing\": not found"]);
    bench.dockerfile("FROM --platform=linux/${MYARCH} busybox\nMAINTAINER me\n");
    bench.build(&[]).fails(
        4,
        &["UndefinedArgInFrom: FROM argument 'MYARCH' is not declared (line 1)", maintainer, "invalid component"],
    );
}

// SPEC A10.24: programs get each one once, however many platforms find it.
#[test]
fn b6_04_checks_are_warnings_of_the_stream() {
    let bench = Bench::new();
    bench.dockerfile(FILE);
    let run = bench.build(&["--progress=rawjson", "--platform=linux/amd64,linux/arm64"]).ok();
    let lines = run.stderr.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let warnings = lines.filter_map(|line| line["warnings"].as_array().cloned()).flatten();
    // Notices about the machine have level 0.
    let warnings: Vec<serde_json::Value> = warnings.filter(|warning| warning["level"] == 1).collect();
    assert_eq!(warnings.len(), 2, "{}", run.stderr);
    assert_eq!(warnings[0]["range"][0]["start"]["line"], 3);
    assert_eq!(warnings[0]["url"], "https://docs.docker.com/go/dockerfile/rule/stage-name-casing/");
    assert!(!run.stderr.contains("warnings found"), "{}", run.stderr);
}

#[test]
fn a1_03_the_official_front_end_is_built_in_wherever_it_is_mirrored() {
    let bench = Bench::new();
    let digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    bench.dockerfile(&format!("# syntax=registry.example.com/docker/dockerfile:1@{digest}\nFROM scratch\n"));
    bench.build(&[]).ok();
    bench.dockerfile("# syntax=registry.example.com/other/frontend:1\nFROM scratch\n");
    let what = "'registry.example.com/other/frontend:1' of the syntax directive is not an allowed gateway source";
    bench.build(&["--frontend", "builtin"]).fails(4, &[what, "Dockerfile:1", "hint:"]);
    bench.build(&["--build-arg", "BUILDKIT_SYNTAX=docker/dockerfile:1"]).ok();
}
