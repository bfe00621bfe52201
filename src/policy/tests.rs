//! Policies over a world that answers everything.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::sync::Mutex;

use serde_json::json;

use super::*;
use crate::attest::sigstore::maker::{Instance, Who};
use crate::base::FaultKind;

/// Knows one of each, and counts how often it was asked.
#[derive(Default)]
struct World(Mutex<Vec<String>>, Signatures, Option<Trust>);

#[async_trait::async_trait]
impl Facts for World {
    async fn image(&self, source: &SourceOp, _: &Platform) -> Result<ImageFacts, HostError> {
        self.0.lock().unwrap().push(source.identifier.clone());
        let config = json!({"created": "2024-05-01T00:00:00Z", "config": {"User": "app", "Labels": {"team": "infra"},
            "Env": ["A=b"], "Volumes": {"/data": {}}, "WorkingDir": "/srv"}});
        Ok(ImageFacts { digest: Digest::sha256("index"), config: config.to_string().into() })
    }

    async fn provenance(&self, source: &SourceOp, _: &Platform) -> Result<Option<Provenance>, HostError> {
        self.0.lock().unwrap().push(format!("provenance of {}", source.identifier));
        let predicate = json!({"buildDefinition": {"buildType": "b"}, "runDetails": {"builder": {"id": "ci"}}});
        let told = Provenance { predicate_type: "https://slsa.dev/provenance/v1".into(), predicate };
        Ok(source.identifier.contains("alpine").then_some(told))
    }

    async fn signatures(&self, source: &SourceOp, _: &Platform) -> Result<Signatures, HostError> {
        self.0.lock().unwrap().push(format!("signatures of {}", source.identifier));
        Ok(Signatures::of(vec![Digest::sha256("index")]))
    }

    async fn attestation_signatures(&self, source: &SourceOp, _: &Platform) -> Result<Signatures, HostError> {
        self.0.lock().unwrap().push(format!("signatures of attestations of {}", source.identifier));
        Ok(self.1.clone())
    }

    fn trust(&self) -> Result<Trust, String> {
        self.2.clone().map_or_else(Trust::public, Ok)
    }

    async fn pin(&self, source: &SourceOp) -> Result<Pin, HostError> {
        self.0.lock().unwrap().push(source.identifier.clone());
        match source.identifier.starts_with("git://") {
            true => Ok(Pin { checksum: "a".repeat(40), reference: Some("refs/heads/main".into()), tag: None }),
            false if source.identifier.ends_with("gone") => {
                Err(HostError { kind: FaultKind::Remote, message: "it is gone".into(), hint: None, became: None })
            }
            false => Ok(Pin { checksum: "sha256:12".into(), ..Pin::default() }),
        }
    }

    async fn objects(&self, source: &SourceOp) -> Result<Option<GitObjects>, HostError> {
        self.0.lock().unwrap().push(format!("objects of {}", source.identifier));
        let commit = b"tree 4b825dc642cb6eb9a060e54bf8d69288fbee4904\nparent p\nauthor A <a@h> 1700000000 +0530\n\
            committer C <c@h> 1700000000 +0000\n\nfirst\n";
        Ok(Some(GitObjects { commit: commit.to_vec(), tag: None }))
    }

    async fn signed_digest(&self, _: &SourceOp, _: &SignedDigest) -> Result<Option<Vec<u8>>, HostError> {
        Ok(None)
    }
}

fn policies(rules: &str) -> Result<Policies, RegoError> {
    let file = PolicyFile { name: "p.rego".into(), text: format!("package docker\n{rules}"), root: None };
    let env = Env { args: [("V".to_owned(), "1".to_owned())].into(), filename: "Dockerfile".into(), ..Env::default() };
    Policies::new(&[vec![file]], env)
}

fn source(identifier: &str) -> SourceOp {
    SourceOp { identifier: identifier.into(), ..SourceOp::default() }
}

fn ask(rules: &str, identifier: &str, world: &World) -> Result<Decision, RegoError> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let policies = policies(rules)?;
    runtime.block_on(policies.check(&source(identifier), &Platform::new("linux", "amd64", ""), world, &|_, _| {}))
}

fn allows(condition: &str, identifier: &str) -> bool {
    let rules = format!("default allow := false\nallow if {{ {condition} }}\ndecision := {{\"allow\": allow}}");
    match ask(&rules, identifier, &World::default()) {
        Ok(_) => true,
        Err(RegoError::Denied { .. }) => false,
        Err(e) => panic!("{condition}: {e}"),
    }
}

const ALPINE: &str = "docker-image://docker.io/library/alpine:3.19";

// SPEC B8.09: what policies see of each kind of source.
#[test]
fn b8_09_policies_see_what_a_source_is() {
    let digest = Digest::sha256("x");
    let pinned = format!("{ALPINE}@{digest}");
    let http = "https://Example.com:8443/a/b.tgz?x=1&x=2";
    let git = "git://github.com/moby/buildkit#refs/tags/v1:sub/dir";
    for (condition, identifier) in [
        ("input.image.repo == \"alpine\"", ALPINE),
        ("input.image.fullRepo == \"docker.io/library/alpine\"", ALPINE),
        ("input.image.host == \"docker.io\"; input.image.tag == \"3.19\"", ALPINE),
        ("input.image.ref == \"docker.io/library/alpine:3.19\"", ALPINE),
        ("input.image.platform == \"linux/amd64\"; input.image.os == \"linux\"; input.image.arch == \"amd64\"", ALPINE),
        ("not input.image.isCanonical", ALPINE),
        ("input.image.isCanonical; startswith(input.image.checksum, \"sha256:\")", &pinned),
        ("input.image.repo == \"r.example:5000/a/b\"", "docker-image://r.example:5000/a/b:1"),
        ("input.http.host == \"example.com:8443\"; input.http.schema == \"https\"", http),
        ("input.http.path == \"/a/b.tgz\"; input.http.query.x == [\"1\", \"2\"]", http),
        ("input.git.host == \"github.com\"; input.git.tagName == \"v1\"; input.git.subDir == \"sub/dir\"", git),
        ("input.git.remote == \"https://github.com/moby/buildkit\"; not input.git.branch", git),
        ("input.local.name == \"context\"", "local://context"),
        ("input.env.args.V == \"1\"; input.env.filename == \"Dockerfile\"", "local://context"),
        ("not input.env.capsRequest; not input.env.target", "local://context"),
    ] {
        assert!(allows(condition, identifier), "{condition} of {identifier}");
    }
    assert!(!allows("input.image", "local://context"));
    let error = ask("decision := {\"allow\": true}", "oci-layout://x", &World::default()).unwrap_err();
    assert_eq!(error.to_string(), "policy p.rego: unsupported source scheme: oci-layout");
}

// SPEC B8.09: unknown fields are asked for only if a rule speaks of them; comments do not count.
#[test]
fn b8_09_facts_are_asked_for_where_rules_speak_of_them() {
    for (condition, identifier, asked) in [
        ("input.image.labels.team == \"infra\"", ALPINE, 1),
        ("input.image.user == \"app\"; input.image.env == [\"A=b\"]; input.image.volumes == [\"/data\"]", ALPINE, 1),
        ("input.image.workingDir == \"/srv\"; input.image[\"checksum\"]", ALPINE, 1),
        ("time.now_ns() - time.parse_rfc3339_ns(input.image.createdTime) > time.parse_duration_ns(\"1h\")", ALPINE, 1),
        ("input.image.repo == \"alpine\" # labels, checksum\n", ALPINE, 0),
        ("input.image.hasProvenance; input.image.provenance.builderID == \"ci\"", ALPINE, 1),
        ("not input.image.hasProvenance; input.image.user == \"app\"", "docker-image://docker.io/library/debian", 2),
        ("input.http.checksum == \"sha256:12\"", "https://example.com/x", 1),
        ("input.git.branch == \"main\"; input.git.ref == \"refs/heads/main\"", "git://example.com/x.git", 1),
        ("count(input.git.commitChecksum) == 40; not input.git.isSHA256", "git://example.com/x.git", 1),
        (
            "input.git.commit.author.when == \"2023-11-15T03:43:20+05:30\"; not input.git.tag",
            "git://example.com/x.git",
            2,
        ),
        ("input.git.commit.parents == [\"p\"]; input.git.commit.message == \"first\\n\"", "git://example.com/x.git", 2),
        ("input.local; not input.image.labels", "local://context", 0),
    ] {
        let world = World::default();
        let rules = format!("default allow := false\nallow if {{ {condition} }}\ndecision := {{\"allow\": allow}}");
        ask(&rules, identifier, &world).unwrap_or_else(|e| panic!("{condition}: {e}"));
        assert_eq!(world.0.lock().unwrap().len(), asked, "{condition}");
    }
    let error =
        ask("decision := {\"allow\": input.http.checksum == \"\"}", "https://e.example/gone", &World::default());
    assert!(matches!(error, Err(RegoError::Facts(e)) if e.message == "it is gone"));
}

// SPEC B8.09: `decision`, and what is said of a denied source.
#[test]
fn b8_09_decisions_are_an_object_with_allow() {
    let say = |rules: &str| ask(rules, ALPINE, &World::default()).map_err(|e| e.to_string());
    assert_eq!(say("decision := {\"allow\": true}"), Ok(Decision::Allow));
    let denied = format!("source \"{ALPINE}\" not allowed by policy: action DENY");
    assert_eq!(say("decision := {}"), Err(denied.clone()));
    let messages = "deny_msg contains msg if { msg := sprintf(\"no %s\", [input.image.repo]) }\n\
        decision := {\"allow\": count(deny_msg) == 0, \"deny_msg\": deny_msg}";
    assert_eq!(say(messages), Err(format!("{denied}: no alpine")));
    for (rules, said) in [
        ("decision := true", "data.docker.decision is true, not an object"),
        ("decision := {\"allow\": \"yes\"}", "decision.allow is \"yes\""),
        ("decision := {\"allow\": true} if input.git", "data.docker.decision is undefined"),
        ("allow := true", "p.rego"),
        ("decision := {", "p.rego:2"),
        ("decision := {\"allow\": nothing(1)}", "nothing"),
        ("decision := {\"allow\": true, \"caps\": {\"exec.proxy\": true}}", "the capability exec.proxy"),
        ("decision := {\"allow\": github_attestation(input.http, \"a/b\")}", "needs github_attestation"),
        ("import data.lib\ndecision := {\"allow\": true}", "a policy of a remote context cannot read other files"),
        ("decision := {\"allow\": true} if { pin_image(input.image, \"x\") }", "pin_image"),
    ] {
        let error = say(rules).expect_err(rules);
        assert!(error.contains(said), "{rules}: {error}");
    }
    assert_eq!(say("# image.signatures\ndecision := {\"allow\": true}"), Ok(Decision::Allow));
}

// SPEC B8.09 `pin_image`.
#[test]
fn b8_09_a_pinned_image_is_another_source() {
    let digest = Digest::sha256("x");
    let rules = format!("decision := {{\"allow\": true}} if {{ pin_image(input.image, \"{digest}\") }}");
    let pinned = source(&format!("{ALPINE}@{digest}"));
    assert_eq!(ask(&rules, ALPINE, &World::default()).unwrap(), Decision::Convert(pinned.clone()));
    assert_eq!(ask(&rules, &pinned.identifier, &World::default()).unwrap(), Decision::Allow);
    let other = format!("{ALPINE}@{}", Digest::sha256("y"));
    assert!(ask(&rules, &other, &World::default()).unwrap_err().to_string().contains("has another digest"));
    let two = format!(
        "decision := {{\"allow\": true}} if {{ pin_image(input.image, \"{digest}\"); pin_image(input.image, \"{}\") }}",
        Digest::sha256("y")
    );
    assert!(ask(&two, ALPINE, &World::default()).unwrap_err().to_string().contains("multiple image pins"));
}

// SPEC B8.09: imports and `load_json` stay below the policy's directory; a policy does not run for ever.
#[test]
fn b8_09_policies_read_beside_themselves_only() {
    let dir = tempfile::tempdir().unwrap();
    let inner = dir.path().join("in");
    std::fs::create_dir_all(inner.join("lib")).unwrap();
    std::fs::write(inner.join("lib/names.rego"), "package whatever\nok(name) if name == \"alpine\"\n").unwrap();
    std::fs::write(inner.join("list.json"), "{\"repos\": [\"alpine\"]}").unwrap();
    std::fs::write(dir.path().join("outside.json"), "{\"repos\": [\"alpine\"]}").unwrap();
    std::os::unix::fs::symlink("../outside.json", inner.join("link.json")).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let say = |rules: &str| {
        let text = format!("package docker\n{rules}");
        let file = PolicyFile { name: "p.rego".into(), text, root: Some(inner.clone()) };
        let policies = Policies::new(&[vec![file]], Env::default()).map_err(|e| e.to_string())?;
        let platform = Platform::new("linux", "amd64", "");
        let (asked, world) = (source(ALPINE), World::default());
        runtime.block_on(policies.check(&asked, &platform, &world, &|_, _| {})).map_err(|e| e.to_string())
    };
    assert_eq!(
        say("import data.lib.names\ndecision := {\"allow\": true} if names.ok(input.image.repo)"),
        Ok(Decision::Allow)
    );
    assert_eq!(
        say(
            "import data.lib.names as n # names.ok(\nx := \"n.ok(1)\"\ndecision := {\"allow\": n.ok(input.image.repo)}"
        ),
        Ok(Decision::Allow)
    );
    let load = |path: &str| say(&format!("decision := {{\"allow\": input.image.repo in load_json(\"{path}\").repos}}"));
    assert_eq!(load("list.json"), Ok(Decision::Allow));
    for path in ["../outside.json", "link.json", "/etc/passwd", "none.json"] {
        assert!(load(path).is_err(), "{path}");
    }
    assert!(
        say("import data.missing.one\ndecision := {\"allow\": true}").unwrap_err().contains("import data.missing.one")
    );
}

// SPEC B8.09 `policy test`.
#[test]
fn b8_09_tests_are_rules_called_test() {
    let policies = policies("allow if input.image.repo == \"alpine\"\ndecision := {\"allow\": allow}").unwrap();
    let text = "package docker\ntest_alpine if { decision.allow with input as {\"image\": {\"repo\": \"alpine\"}} }\n\
        test_other if { decision.allow with input as {\"image\": {\"repo\": \"busybox\"}} }\n";
    let file = PolicyFile { name: "p_test.rego".into(), text: text.into(), root: None };
    let results = policies.tests(std::slice::from_ref(&file), None).unwrap();
    let shown: Vec<_> = results.iter().map(|test| (test.name.as_str(), test.passed)).collect();
    assert_eq!(shown, [("test_alpine", true), ("test_other", false)]);
    assert_eq!(policies.tests(&[file], Some("alp")).unwrap().len(), 1);
}

// SPEC B8.10
#[test]
fn b8_10_tags_that_need_a_signature_are_denied_and_nothing_else_is() {
    let policies = Policies::new(&[vec![PolicyFile::of_buildx()]], Env::default()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let world = World::default();
    let allowed = |identifier: &str| {
        let platform = Platform::new("linux", "amd64", "");
        match runtime.block_on(policies.check(&source(identifier), &platform, &world, &|_, _| {})) {
            Ok(_) => true,
            Err(RegoError::Denied { messages, .. }) => {
                let said =
                    "its tag needs a signature by the workflow that makes it; name it by digest alone to do without";
                assert_eq!(messages, [said]);
                false
            }
            Err(e) => panic!("{identifier}: {e}"),
        }
    };
    let digest = Digest::sha256("x");
    for name in [
        "docker/dockerfile:1",
        "docker/dockerfile:latest",
        "docker/dockerfile:1.21",
        "docker/dockerfile:1.21.0-labs",
        "docker/dockerfile:2.0",
        "docker/dockerfile-upstream:master",
        "docker/buildkit-syft-scanner:stable-1",
        "moby/buildkit:latest",
        "moby/buildkit:v0.27.0-rootless",
        "moby/buildkit:v1.0.0",
    ] {
        assert!(!allowed(&format!("docker-image://docker.io/{name}")), "{name}");
        assert!(!allowed(&format!("docker-image://docker.io/{name}@{digest}")), "{name} with a digest");
    }
    for name in [
        "docker/dockerfile:1.20",
        "docker/dockerfile:1.2-labs",
        "docker/dockerfile:1.9.0",
        "moby/buildkit:v0.26.3",
        "moby/buildkit:v0.9.0-rootless",
        "library/alpine:latest",
        "other/dockerfile:1",
    ] {
        assert!(allowed(&format!("docker-image://docker.io/{name}")), "{name}");
    }
    assert!(allowed(&format!("docker-image://docker.io/docker/dockerfile@{digest}")));
    assert!(allowed("docker-image://r.example/docker/dockerfile:1"), "another registry's is another image");
    assert!(allowed("local://context") && allowed("https://e.example/f") && allowed("git://e.example/r"));
    let asked = world.0.lock().unwrap();
    let only = |asked: &String| asked.contains("docker/dockerfile") || asked.contains("buildkit");
    assert!(asked.iter().all(only), "nothing has to be looked up of others: {asked:?}");
}

/// What Docker's builder says of an image, under an instance that is believed.
fn built(builder: &str, repository: &str, reference: &str) -> World {
    let made = Instance::new("builder");
    let by = made.person(&Who::workflow(builder, repository, reference));
    let attestation = Digest::sha256("attestation");
    let mut signatures = Signatures::of(vec![attestation.clone()]);
    let bundle = made.signature(&by, attestation.as_str());
    signatures.add_bundle(bundle.to_string().as_bytes());
    World(Mutex::default(), signatures, Some(Trust::parse(&made.trusted_root()).unwrap()))
}

const BUILDER: &str = "docker/github-builder/.github/workflows/bake.yml";

// SPEC B8.10: a tag is used if the workflow of its repository signed it for the tag of that version.
#[test]
fn b8_10_tags_that_their_workflow_signed_are_allowed() {
    let policies = Policies::new(&[vec![PolicyFile::of_buildx()]], Env::default()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let platform = Platform::new("linux", "amd64", "");
    let (buildkit, scanner) = ("moby/buildkit", "docker/buildkit-syft-scanner");
    for (name, repository, reference, allowed) in [
        ("docker/dockerfile:1.21.0", buildkit, "refs/tags/dockerfile/1.21.0", true),
        ("docker/dockerfile:1.21", buildkit, "refs/tags/dockerfile/1.21.3", true),
        ("docker/dockerfile:1", buildkit, "refs/tags/dockerfile/1.21.3", true),
        ("docker/dockerfile:1-labs", buildkit, "refs/tags/dockerfile/1.21.3-labs", true),
        ("docker/dockerfile:1", buildkit, "refs/tags/dockerfile/1.21.3-labs", false),
        ("docker/dockerfile:1", buildkit, "refs/tags/dockerfile/11.0.0", false),
        ("docker/dockerfile:1.21.0", buildkit, "refs/tags/dockerfile/1.22.0", false),
        ("docker/dockerfile:1.21.0", buildkit, "refs/heads/master", false),
        ("docker/dockerfile:latest", buildkit, "refs/heads/master", true),
        ("docker/dockerfile:latest", "eve/buildkit", "refs/heads/master", false),
        ("docker/dockerfile-upstream:master", buildkit, "refs/heads/master", true),
        ("docker/buildkit-syft-scanner:1", scanner, "refs/tags/v1.9.0", true),
        ("docker/buildkit-syft-scanner:1", buildkit, "refs/tags/v1.9.0", false),
        ("moby/buildkit:v0.27.0-rootless", buildkit, "refs/tags/v0.27.0", true),
        ("moby/buildkit:v0.27.0", buildkit, "refs/tags/v0.28.0", false),
        ("moby/buildkit:buildx-stable-1", buildkit, "refs/tags/v0.27.0", true),
    ] {
        let asked = source(&format!("docker-image://docker.io/{name}"));
        let answer =
            runtime.block_on(policies.check(&asked, &platform, &built(BUILDER, repository, reference), &|_, _| {}));
        assert_eq!(answer.is_ok(), allowed, "{name} {repository} {reference}: {answer:?}");
    }
    let asked = source("docker-image://docker.io/docker/dockerfile:latest");
    let other = built("eve/builder/.github/workflows/bake.yml", buildkit, "refs/heads/master");
    assert!(runtime.block_on(policies.check(&asked, &platform, &other, &|_, _| {})).is_err(), "another builder");
}

// SPEC B8.09: what policies see of signatures by certificates, and buildx's rules about its builder.
#[test]
fn b8_09_policies_see_who_signed_what_is_attested() {
    let world = built(BUILDER, "a/b", "refs/tags/v1.2.3");
    let say = |condition: &str| {
        let rules = format!("default allow := false\nallow if {{ {condition} }}\ndecision := {{\"allow\": allow}}");
        ask(&rules, ALPINE, &world).map_err(|e| e.to_string())
    };
    for condition in [
        "docker_github_builder(input.image, \"a/b\")",
        "docker_github_builder_tag(input.image, \"a/b\", \"v1.2.3\")",
        "some s in input.image.signatures; docker_github_builder_signature(s, \"a/b\")",
        "input.image.signatures[0].kind == \"docker-github-builder\"; input.image.signatures[0].type == \"bundle-v0.3\"",
        "input.image.signatures[0].signer.buildSignerURI == input.image.signatures[0].signer.subjectAlternativeName",
        "input.image.signatures[0].signer.sourceRepositoryRef == \"refs/tags/v1.2.3\"",
        "input.image.signatures[0].timestamps[0].type == \"Tlog\"",
        "input.image.signatures[0].timestamps[0].timestamp == \"2023-11-14T22:13:20Z\"",
    ] {
        assert_eq!(say(condition), Ok(Decision::Allow), "{condition}");
    }
    for condition in [
        "docker_github_builder(input.image, \"a/c\")",
        "docker_github_builder_tag(input.image, \"a/b\", \"v1.2.4\")",
        "count(input.image.signatures) == 2",
    ] {
        assert!(say(condition).is_err(), "{condition}");
    }
    let rules = "default allow := false\nallow if count(input.image.signatures) > 0\ndecision := {\"allow\": allow}";
    // Nobody believes this instance by itself.
    let world = World(Mutex::default(), built(BUILDER, "a/b", "x").1, None);
    let error = ask(rules, ALPINE, &world).unwrap_err().to_string();
    assert!(error.contains("action DENY: input.image.signatures: its entry is in the log "), "{error}");
}

// SPEC B8.09: whatever policies see is in the schema, with its type.
#[test]
fn b8_09_the_schema_describes_what_policies_see() {
    let schema = schema();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let world = World::default();
    let platform = Platform::new("linux", "arm64", "v8");
    let env = Env {
        args: [("A".to_owned(), "b".to_owned())].into(),
        labels: [("l".to_owned(), "x".to_owned())].into(),
        filename: "Dockerfile".into(),
        target: Some("app".into()),
    };
    let mut seen = 0;
    for identifier in [
        "docker-image://docker.io/library/alpine:3@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "docker-image://docker.io/library/alpine:3",
        "https://e.example:8443/f?x=1&x=2",
        "git://e.example/r#main:sub",
        "git://e.example/r#0123456789012345678901234567890123456789",
        "local://context",
    ] {
        let mut input = Input::new(&source(identifier), &platform).unwrap();
        runtime.block_on(input.resolve(&source(identifier), &platform, &world, &|_| true)).unwrap();
        for (kind, fields) in input.into_value(&env).as_object().unwrap() {
            for (field, value) in fields.as_object().unwrap() {
                let kind = match value {
                    Value::String(_) => ("string", kind),
                    Value::Bool(_) => ("boolean", kind),
                    Value::Array(_) => ("array", kind),
                    _ => ("object", kind),
                };
                assert_eq!(schema["properties"][kind.1]["properties"][field]["type"], kind.0, "{}.{field}", kind.1);
                seen += 1;
            }
        }
    }
    assert!(seen > 50, "{seen}");
    assert_eq!(schema["properties"]["image"]["properties"]["labels"]["additionalProperties"]["type"], "string");
    for (kind, fields) in FIELDS {
        for field in *fields {
            assert!(schema["properties"][kind]["properties"][field]["description"].is_string(), "{kind}.{field}");
        }
    }
}
