//! Policies in Rego: asked about each source before it is used, found beside the Dockerfile or named (SPEC B2.22, B8.09).
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stderr, reason = "skip reasons are collected by scripts/test")]
#![allow(missing_docs, unreachable_pub, reason = "a test program")]

mod support;

use support::Bench;
use support::git::{Repositories, daemon};
use support::registry::Registry;
use support::web::{Answer, Web};

/// The Dockerfile, which is a source as well, is allowed.
fn rules(condition: &str) -> String {
    format!(
        "package docker\ndefault allow := false\nallow if {{ {condition} }}\n\
         allow if input.local.name == \"dockerfile\"\n\
         deny_msg contains \"ask the platform team\" if not allow\ndecision := {{\"allow\": allow, \"deny_msg\": deny_msg}}\n"
    )
}

// SPEC B2.22, B8.09, C9.03: the policy beside the Dockerfile counts by itself, others with it; a denied source is not asked for.
#[test]
fn b2_22_the_policy_beside_the_dockerfile_is_applied() {
    let web = Web::start(|_| Answer::new(200).with_body("text/plain", b"tool".to_vec()));
    let bench = Bench::new();
    bench.dockerfile(&format!("FROM scratch\nADD {} /tool\nCOPY Dockerfile /\n", web.url("/tool")));
    let policy = |name: &str, condition: &str| std::fs::write(bench.ctx().join(name), rules(condition)).unwrap();
    policy("Dockerfile.rego", "input.local");
    let denied = format!("source \"{}\" not allowed by policy: action DENY: ask the platform team", web.url("/tool"));
    bench.build(&[]).fails(4, &[&denied, "hint: Dockerfile.rego says so", ">>> ADD"]);
    bench.build(&["--check"]).ok();
    assert!(web.requests().is_empty());
    bench.build(&["--policy", "disabled=true"]).ok();
    policy("Dockerfile.rego", &format!("input.http.host == \"{}\"", web.host));
    bench.build(&[]).fails(4, &["source \"local://context\" not allowed by policy", ">>> COPY"]);
    let both = format!("input.local\n}}\nallow if {{ input.http.host == \"{}\"", web.host);
    policy("Dockerfile.rego", &both);
    let run = bench.build(&["--policy", "log-level=debug", "--no-cache"]).ok();
    for said in
        ["loading policies ", "ctx/Dockerfile.rego", "policy input: {", "\"schema\": \"http\"", "local://context"]
    {
        assert!(run.stderr.contains(said), "{said}: {}", run.stderr);
    }
    assert!(run.stderr.contains("policy decision for source local://context (linux/amd64): ALLOW"), "{}", run.stderr);
    // All have to allow; without the first one the named ones remain.
    std::fs::write(bench.path("out/none.rego"), rules("false")).unwrap();
    std::fs::write(bench.path("out/all.rego"), rules("true")).unwrap();
    bench
        .build(&["--policy", "filename=all.rego", "--policy", "filename=none.rego"])
        .fails(4, &["hint: none.rego says so"]);
    policy("Dockerfile.rego", "false");
    bench.build(&["--policy", "reset=true,filename=cwd://all.rego,strict=true"]).ok();
    bench.build(&["--policy", "filename=all.rego"]).fails(4, &["hint: Dockerfile.rego says so"]);
    // Another Dockerfile has its own.
    std::fs::write(bench.ctx().join("b.Dockerfile"), "FROM scratch\nCOPY Dockerfile /\n").unwrap();
    bench.build(&["-f", "../ctx/b.Dockerfile"]).ok();
    std::fs::write(bench.ctx().join("b.Dockerfile.rego"), "package docker\ndecision := {\"allow\": false}").unwrap();
    bench.build(&["-f", "../ctx/b.Dockerfile"]).fails(4, &["action DENY"]);
}

// SPEC B8.09: arguments and target of the build, and what a download is.
#[test]
fn b8_09_rules_look_at_the_build_and_at_what_is_downloaded() {
    let web = Web::start(|_| Answer::new(200).with_body("text/plain", b"tool".to_vec()));
    let bench = Bench::new();
    bench.dockerfile(&format!("FROM scratch AS app\nARG V\nADD {} /tool\n", web.url("/tool")));
    let policy = |condition: &str| std::fs::write(bench.ctx().join("Dockerfile.rego"), rules(condition)).unwrap();
    policy("input.env.args.V == \"1\"; input.env.target == \"app\"; input.env.labels.l == \"x\"");
    bench.build(&["--build-arg", "V=2", "--target", "app", "--label", "l=x"]).fails(4, &["not allowed by policy"]);
    bench.build(&["--build-arg", "V=1", "--target", "app", "--label", "l=x"]).ok();
    policy("input.http.checksum == \"sha256:0000\"");
    bench.build(&[]).fails(4, &["not allowed by policy"]);
    policy("startswith(input.http.checksum, \"sha256:\"); count(input.http.checksum) == 71");
    bench.build(&[]).ok();
}

// SPEC B8.09: a policy that cannot be applied fails the build and says why.
#[test]
fn b2_22_a_policy_that_cannot_be_applied_is_refused() {
    let bench = Bench::new();
    bench.dockerfile("FROM scratch\nCOPY Dockerfile /\n");
    for (text, said) in [
        ("package docker\ndecision := {", "policy Dockerfile.rego: Dockerfile.rego:2"),
        (
            "package docker\ndecision := {\"allow\": github_attestation(input.http, \"a/b\")}",
            "it needs github_attestation",
        ),
        ("package other\nx := 1", "policy Dockerfile.rego"),
        (
            "package docker\ndecision := {\"allow\": true, \"caps\": {\"exec.proxy\": true}}",
            "the capability exec.proxy",
        ),
    ] {
        std::fs::write(bench.ctx().join("Dockerfile.rego"), text).unwrap();
        bench.build(&[]).fails(4, &[said]);
    }
    std::fs::remove_file(bench.ctx().join("Dockerfile.rego")).unwrap();
    for (flag, said) in [
        ("filename=", "--policy: invalid value filename="),
        ("filename=none.rego", "--policy: none.rego: no such file or directory"),
        ("reset=perhaps", "--policy: invalid value reset=perhaps: true or false"),
        ("log-level=loud", "--policy: invalid value log-level=loud"),
        ("colour=red", "--policy: unknown field \"colour\""),
    ] {
        bench.build(&["--policy", flag]).fails(2, &[said]);
    }
    bench
        .build(&["--policy", "disabled=true", "--policy", "reset=true"])
        .fails(2, &["--policy: disabled policy cannot be combined with other policy flags"]);
}

// SPEC B8.09: images are looked at where a rule needs it, and pinned where one says so.
#[test]
fn b8_09_images_are_looked_at_and_pinned() {
    let bases = need!(support::bases());
    let registry = need!(Registry::start());
    registry.put(&bases.join("busybox"), "app:1");
    let bench = Bench::new();
    bench.dockerfile(&format!("FROM {}/app:1\n", registry.host));
    let policy = |text: &str| std::fs::write(bench.ctx().join("Dockerfile.rego"), text).unwrap();
    policy(&rules(&format!("input.image.host == \"{}\"; input.image.tag == \"1\"", registry.host)));
    bench.build(&[]).ok();
    policy(&rules("input.image.labels.team == \"infra\""));
    bench.build(&[]).fails(4, &["not allowed by policy", ">>> FROM"]);
    policy(&rules("startswith(input.image.checksum, \"sha256:\"); not input.image.labels"));
    bench.build(&[]).ok();
    let digest = format!("sha256:{}", "0".repeat(64));
    policy(&format!(
        "package docker\ndecision := {{\"allow\": true}} if {{ pin_image(input.image, \"{digest}\") }}\n\
         decision := {{\"allow\": true}} if input.local\n"
    ));
    bench.build(&["--no-cache", "--pull"]).fails(5, &[&digest]);
    // `policy eval` says the same without a build.
    let name = format!("docker-image://{}/app:1", registry.host);
    let eval = |args: &[&str]| bench.rbuild(&[&["policy", "eval"], args, &[name.as_str()]].concat());
    let run = eval(&["--print", "--fields", "image.checksum"]).ok();
    let input: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(input["image"]["tag"], "1");
    assert!(input["image"]["checksum"].as_str().unwrap().starts_with("sha256:"));
    policy(&rules("input.image.tag == \"2\""));
    eval(&["-f", "../ctx/Dockerfile"]).fails(4, &["policy denied: ask the platform team"]);
    policy(&rules("input.image.tag == \"1\""));
    eval(&["-f", "../ctx/Dockerfile"]).ok();
    eval(&["-f", "nothing"]).fails(4, &["there is no policy nothing.rego"]);
    eval(&["--print", "--fields", "image.colour"]).fails(2, &["--fields: unknown field \"image.colour\""]);
}

// SPEC B8.09: the policy of a remote context comes with it, and says something about that context too.
#[test]
fn b8_09_a_remote_context_has_its_own_policy() {
    let repositories = Repositories::new();
    let repository = repositories.create("a.git", &[]);
    repository.file("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n");
    repository.file("Dockerfile.rego", &rules("input.git.branch == \"good\""));
    repository.commit("one");
    repository.git(&["branch", "good"]);
    repository.git(&["branch", "bad"]);
    let server = need!(daemon(&repositories));
    let bench = Bench::new();
    let build = |branch: &str, args: &[&str]| {
        let context = format!("git://{}/a.git#{branch}", server.host);
        bench.rbuild(&[&["build"], args, &[context.as_str()]].concat())
    };
    build("good", &[]).ok();
    build("bad", &[]).fails(4, &["not allowed by policy: action DENY", "Dockerfile.rego says so"]);
    build("bad", &["--policy", "reset=true"]).ok();
}

// SPEC B8.09: the Dockerfile is the first source that is asked about, as in buildx; one that came with a remote context is a part of that.
#[test]
fn b8_09_the_dockerfile_is_a_source_as_well() {
    let bench = Bench::new();
    bench.dockerfile("FROM scratch\nLABEL a=b\n");
    let policy = |rule: &str| {
        let text = format!("package docker\ndefault allow := false\n{rule}\ndecision := {{\"allow\": allow}}\n");
        std::fs::write(bench.ctx().join("Dockerfile.rego"), text).unwrap();
    };
    policy("");
    let denied = "source \"local://dockerfile\" not allowed by policy: action DENY";
    bench.build(&[]).fails(4, &[denied, "hint: Dockerfile.rego says so"]);
    bench.build(&["--policy", "disabled=true"]).ok();
    policy("allow if input.local.name == \"dockerfile\"");
    bench.build(&[]).ok();
}

// SPEC B8.09 `policy test`: results in buildx's words; of a failed test everything that was looked at.
#[test]
fn b8_09_policies_are_tested() {
    let bench = Bench::new();
    let write = |name: &str, text: &str| std::fs::write(bench.path("out").join(name), text).unwrap();
    write("Dockerfile.rego", &rules("input.image.repo == \"alpine\"; input.image.hasProvenance"));
    let test = |name: &str, repo: &str| {
        let input = format!("{{\"image\": {{\"repo\": \"{repo}\", \"hasProvenance\": true}}}}");
        format!("{name} if {{ decision.allow with input as {input} }}\n")
    };
    write("Dockerfile_test.rego", &format!("package docker\n{}", test("test_alpine", "alpine")));
    let run = bench.rbuild(&["policy", "test", "."]).ok();
    assert_eq!(run.stdout, "test_alpine: PASS (allow=true)\n");
    let bare = "test_wanting if { decision.allow with input as {\"image\": {\"repo\": \"alpine\"}} }\n";
    write("more_test.rego", &format!("package docker\n{}{bare}", test("test_other", "other")));
    let run = bench.rbuild(&["policy", "test", "."]).fails(4, &["2 of 3 policy tests failed"]);
    for said in [
        "test_alpine: PASS (allow=true)\ntest_other: FAIL (allow=false, deny_msg=ask the platform team)\ninput:\n{\n",
        "\"repo\": \"other\"",
        "}\ndecision:\n{\n  \"allow\": false,",
        "test_wanting: FAIL (allow=false",
        "missing_input: input.image.hasProvenance",
    ] {
        assert!(run.stdout.contains(said), "{said}: {}", run.stdout);
    }
    bench.rbuild(&["buildx", "policy", "test", "--run", "alp", "."]).ok();
    bench.rbuild(&["policy", "test", "--run", "none", "."]).fails(4, &["no policy tests found"]);
    bench.rbuild(&["policy", "test", "Dockerfile.rego"]).fails(2, &["_test.rego suffix"]);
    // The Dockerfile is named from here, wherever the tests are.
    std::fs::create_dir(bench.path("out/tests")).unwrap();
    std::fs::rename(bench.path("out/Dockerfile_test.rego"), bench.path("out/tests/a_test.rego")).unwrap();
    bench.rbuild(&["policy", "test", "tests"]).ok();
    bench.rbuild(&["policy", "test", "tests/a_test.rego"]).ok();
    let hint = "hint: name the Dockerfile it belongs to with --filename";
    bench.rbuild(&["policy", "test", "--filename", "tests/Dockerfile", "tests"]).fails(4, &[hint]);
}

// SPEC B8.09: targets name their policies; for all of them --policy says how they are applied.
#[test]
fn b8_09_policies_of_targets_and_of_bake() {
    let bench = Bench::new();
    let ctx = bench.ctx();
    let write = |name: &str, text: &str| std::fs::write(ctx.join(name), text).unwrap();
    write("Dockerfile", "FROM scratch\nLABEL a=b\n");
    write("Dockerfile.rego", "package docker\ndecision := {\"allow\": input.env.args.OWN == \"1\"}\n");
    write("extra.rego", "package docker\ndecision := {\"allow\": input.env.labels.extra == \"1\"}\n");
    let target = |name: &str, own: &str, extra: &str, policies: &str| {
        format!(
            "target \"{name}\" {{\n args = {{ OWN = \"{own}\" }}\n labels = {{ extra = \"{extra}\" }}\n \
             policy = [{policies}]\n output = [\"type=cacheonly\"]\n}}\n"
        )
    };
    let extra = "{ filename = \"extra.rego\" }";
    let reset = "{ filename = \"extra.rego\", reset = true }";
    write(
        "docker-bake.hcl",
        &[
            target("both", "1", "1", extra),
            target("not-own", "0", "1", extra),
            target("not-extra", "1", "0", extra),
            target("reset", "0", "1", reset),
            target("reset-denied", "0", "0", reset),
            target("off", "0", "0", "{ disabled = true }"),
            target("off-and-more", "0", "0", &format!("{extra}, {{ disabled = true }}")),
        ]
        .concat(),
    );
    let denied = "not allowed by policy";
    let alone = "disabled policy cannot be combined with other policy flags";
    for (name, flags, says) in [
        ("both", &[][..], ""),
        ("not-own", &[], denied),
        ("not-extra", &[], denied),
        ("reset", &[], ""),
        ("reset-denied", &[], denied),
        ("off", &[], ""),
        ("off-and-more", &[], alone),
        ("not-extra", &["--policy=disabled=true"], ""),
        ("both", &["--policy=strict=true", "--policy=log-level=debug"], ""),
        ("not-extra", &["--policy=strict=true"], denied),
        ("both", &["--policy=filename=extra.rego"], "--policy does not accept filename for all targets"),
        ("both", &["--policy=reset=true"], "--policy does not accept reset for all targets"),
        ("both", &["--policy=disabled=true,strict=true"], alone),
    ] {
        let mut command = bench.command([&["bake", "--progress=plain"], flags, &[name]].concat());
        command.current_dir(&ctx);
        let run = support::finish(command.output().unwrap());
        assert_eq!(run.code == 0, says.is_empty(), "{name} {flags:?}: {}", run.stderr);
        assert!(run.stderr.contains(says), "{name} {flags:?}: {}", run.stderr);
    }
}

// SPEC B8.09
#[test]
fn b8_09_the_schema_of_what_policies_see() {
    let bench = Bench::new();
    let run = bench.rbuild(&["policy", "json-schema"]).ok();
    let schema: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(schema["properties"]["image"]["properties"]["volumes"]["items"]["type"], "string");
    assert_eq!(run.stdout, bench.rbuild(&["buildx", "policy", "json-schema"]).ok().stdout);
}

// SPEC B8.09: what stands beside an image in a registry is what its builder says of it.
#[test]
fn b8_09_provenance_of_images_is_read() {
    let registry = match Registry::start() {
        Ok(registry) => registry,
        Err(why) => skip!("{why}"),
    };
    let made = Bench::new();
    made.dockerfile("FROM scratch\nARG V\nCOPY Dockerfile /\n");
    let name = |tag: &str| format!("{}/base:{tag}", registry.host);
    let told = "--provenance=mode=max,builder-id=https://ci.example/1";
    for (tag, flags) in [
        ("v1", &[told, "--build-arg=V=7"][..]),
        ("v02", &["--provenance=mode=max,builder-id=https://ci.example/1,version=v0.2", "--build-arg=V=7"]),
        ("none", &["--provenance=false"]),
    ] {
        made.build(&[&["--push", "-t", &name(tag)], flags].concat()).ok();
    }
    let built = "input.image.provenance.builderID == \"https://ci.example/1\"; \
                 input.image.provenance.buildArgs.V == \"7\"; input.image.provenance.frontend == \"dockerfile.v0\"";
    for (tag, condition, allowed) in [
        ("v1", built, true),
        ("v02", built, true),
        ("v1", "input.image.hasProvenance; input.image.provenance.completeness.parameters", true),
        ("none", built, false),
        ("none", "not input.image.hasProvenance", true),
        ("v1", "not input.image.hasProvenance", false),
    ] {
        let bench = Bench::new();
        bench.dockerfile(&format!("FROM {}\n", name(tag)));
        let rules = rules(condition);
        std::fs::write(bench.ctx().join("Dockerfile.rego"), rules).unwrap();
        let run = bench.build(&[]);
        match allowed {
            true => drop(run.ok()),
            false => drop(run.fails(4, &["not allowed by policy"])),
        }
    }
}
