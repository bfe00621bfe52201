//! Source policies: what a build may not use is not asked for, and what takes its place is what is built from.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stderr, reason = "skip reasons are collected by scripts/test")]
#![allow(missing_docs, unreachable_pub, reason = "a test program")]

mod support;

use support::Bench;
use support::registry::Registry;
use support::web::{Answer, Web};

/// A bench with a policy of these rules.
fn bench(rules: &str) -> Bench {
    let bench = Bench::new();
    std::fs::write(bench.path("out/policy.json"), format!("{{\"version\":1,\"rules\":[{rules}]}}")).unwrap();
    bench
}

const FLAG: [&str; 2] = ["--source-policy-file", "policy.json"];

// SPEC C9.01, C9.02, B5.08: by flag and by variable; nothing is asked of what is denied.
#[test]
fn c9_02_what_is_denied_is_not_asked_for() {
    let web = Web::start(|_| Answer::new(200).with_body("text/plain", b"tool".to_vec()));
    let mut bench = bench(&format!(r#"{{"action":"DENY","selector":{{"identifier":"http://{}/*"}}}}"#, web.host));
    bench.dockerfile(&format!("FROM scratch\nADD {} /tool\n", web.url("/tool")));
    let denied = format!("source \"{}\" denied by policy", web.url("/tool"));
    bench.build(&FLAG).fails(4, &[&denied, "hint: rule 1 of policy.json says so", ">>> ADD"]);
    bench.env.push(("EXPERIMENTAL_BUILDKIT_SOURCE_POLICY".into(), "policy.json".into()));
    bench.build(&[]).fails(4, &[&denied]);
    let context = web.url("/context.tar");
    bench.rbuild(&["build", &context]).fails(4, &["denied by policy"]);
    assert!(web.requests().is_empty());
    // The flag counts before the variable.
    std::fs::write(bench.path("out/any.json"), "{}").unwrap();
    bench.build(&["--source-policy-file", "any.json"]).ok();
    bench.dockerfile("FROM nowhere.invalid/app\n");
    std::fs::write(
        bench.path("out/policy.json"),
        r#"{"rules":[{"action":"DENY","selector":{"identifier":"docker-image://*"}}]}"#,
    )
    .unwrap();
    let error = "source \"docker-image://nowhere.invalid/app:latest\" denied by policy";
    bench.build(&[]).fails(4, &[error, ">>> FROM nowhere"]);
    bench.build(&["--check"]).fails(1, &[error]);
}

// SPEC C9.01, C9.02, A6.19: an attribute that a rule sets counts, and a URL that takes another's place is what is loaded.
#[test]
fn c9_02_a_url_is_converted_and_gets_a_checksum() {
    let web = Web::start(|request| Answer::new(200).with_body("text/plain", request.path().as_bytes().to_vec()));
    let rules = format!(
        r#"{{"action":"CONVERT","selector":{{"identifier":"https://old.invalid/*"}},"updates":{{"identifier":"http://{}/new/$1"}}}}"#,
        web.host
    );
    let bench = bench(&rules);
    bench.dockerfile("FROM scratch\nADD https://old.invalid/tool /\n");
    assert_eq!(bench.build_image(&FLAG).text("tool"), "/new/tool");
    let set = format!(
        r#"{rules},{{"action":"CONVERT","selector":{{"identifier":"http://{}/*"}},"updates":{{"attrs":{{"http.checksum":"sha256:{}"}}}}}}"#,
        web.host,
        "0".repeat(64)
    );
    std::fs::write(bench.path("out/policy.json"), format!("{{\"rules\":[{set}]}}")).unwrap();
    bench.build(&FLAG).fails(4, &["digest mismatch"]);
}

// SPEC C9.02, A4.02: a named context that is no image under the policy is what the policy says; a base in the file has to be an image.
#[test]
fn c9_02_a_named_context_may_become_a_directory() {
    let rule = |to: &str| {
        format!(
            r#"{{"action":"CONVERT","selector":{{"identifier":"docker-image://docker.io/library/tools:latest"}},"updates":{{"identifier":"{to}"}}}}"#
        )
    };
    let bench = bench(&rule("local://here"));
    std::fs::create_dir(bench.path("out/here")).unwrap();
    std::fs::write(bench.path("out/here/foo"), "of the directory").unwrap();
    bench.dockerfile("FROM scratch AS tools\nFROM scratch\nCOPY --from=tools /foo /\nCOPY --from=more /foo /more\n");
    let contexts = ["tools", "more"].map(|name| format!("{name}=docker-image://tools"));
    let mut args = FLAG.to_vec();
    for context in contexts.iter().map(String::as_str).chain(["here=here"]) {
        args.extend(["--build-context", context]);
    }
    let image = bench.build_image(&args);
    assert_eq!((image.text("foo").as_str(), image.text("more").as_str()), ("of the directory", "of the directory"));
    let web = Web::start(|_| Answer::new(200).with_body("text/plain", b"of the server".to_vec()));
    let rules = format!("{{\"rules\":[{}]}}", rule(&web.url("/foo")));
    std::fs::write(bench.path("out/policy.json"), rules).unwrap();
    bench.dockerfile("FROM scratch AS tools\nFROM scratch\nCOPY --from=tools / /all/\n");
    assert_eq!(bench.build_image(&args).text("all/context"), "of the server");
    // Nothing of an image that is none is asked for, and nothing fails.
    let run = bench.build(&args).ok();
    assert!(!run.stderr.contains("ERROR") && !run.stderr.contains("load metadata"), "{}", run.stderr);
    assert!(run.stderr.contains(&format!("[context tools] {}\n", web.url("/foo"))), "{}", run.stderr);
    bench.dockerfile("FROM tools\n");
    let refused = "which is no image of a registry";
    bench
        .build(&FLAG)
        .fails(4, &[refused, "hint: let the CONVERT rule of policy.json name docker-image://", ">>> FROM tools"]);
}

// SPEC C9.02: the front end goes on with the image that took the place of the one that the Dockerfile names.
#[test]
fn c9_02_an_image_is_converted() {
    let bases = need!(support::bases());
    let registry = need!(Registry::start());
    registry.put(&bases.join("busybox"), "hub/app:1");
    let host = &registry.host;
    let rule = |from: &str, to: &str| {
        format!(
            r#"{{"action":"CONVERT","selector":{{"identifier":"docker-image://{from}"}},"updates":{{"identifier":"docker-image://{to}"}}}}"#
        )
    };
    let bench = bench(&rule("docker.io/library/*", &format!("{host}/hub/$1")));
    bench.dockerfile(
        "FROM app:1 AS base\nFROM scratch\nCOPY --from=base /bin/busybox /\nCOPY --from=app:1 /bin/busybox /two\n",
    );
    let image = bench.build_image(&FLAG);
    assert!(image.has("busybox") && image.has("two"));
    std::fs::write(
        bench.path("out/policy.json"),
        format!("{{\"rules\":[{}]}}", rule("docker.io/library/*", "x").replace("docker-image://x", "https://x")),
    )
    .unwrap();
    bench.build(&FLAG).fails(4, &["no image of a registry"]);
}

// SPEC C9.02, C8.13, C8.15: a scanner is an image as others are, and what is listed is what was built.
#[test]
fn c9_02_scanners_and_what_they_look_at_are_as_the_policy_has_them() {
    let web = Web::start(|request| Answer::new(200).with_body("text/plain", request.path().as_bytes().to_vec()));
    let rules = format!(
        r#"{{"action":"DENY","selector":{{"identifier":"docker-image://nowhere.invalid/*"}}}},
        {{"action":"CONVERT","selector":{{"identifier":"https://old.invalid/*"}},"updates":{{"identifier":"http://{}/new/$1"}}}}"#,
        web.host
    );
    let bench = bench(&rules);
    bench.dockerfile(
        "FROM scratch AS early\nARG BUILDKIT_SBOM_SCAN_STAGE=true\nADD https://old.invalid/tool /\n\
         FROM scratch\nCOPY --from=early /tool /\n",
    );
    let build = |sbom: &str| bench.build(&[&FLAG[..], &[sbom, "-o", "type=local,dest=files"]].concat());
    let denied =
        "the scanner nowhere.invalid/scan:1: source \"docker-image://nowhere.invalid/scan:1\" denied by policy";
    build("--sbom=generator=nowhere.invalid/scan:1").fails(4, &[denied, "hint: rule 1 of policy.json says so"]);
    build("--sbom=generator=builtin").ok();
    for name in ["sbom.spdx.json", "sbom-early.spdx.json"] {
        assert!(bench.path("out/files").join(name).is_file(), "{name}");
    }
}
