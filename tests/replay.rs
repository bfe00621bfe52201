//! `rbuild replay`: images built again from what their provenance says (SPEC C8.12, B8.14).
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stderr, reason = "skip reasons are collected by scripts/test")]
#![allow(missing_docs, unreachable_pub, reason = "a test program")]

mod support;

use std::sync::{Arc, Mutex};

use serde_json::Value;
use support::Bench;
use support::git::{Repositories, Repository};
use support::registry::Registry;
use support::web::{Answer, Web};

/// A Dockerfile with another image in it, so that there are materials of every kind.
const DOCKERFILE: &str =
    "FROM scratch\nARG WHO=nobody\nLABEL who=$WHO\nCOPY --from=other /payload /payload\nCOPY own /own\n";

fn repository(repositories: &Repositories, dockerfile: &str) -> Repository {
    let repository = repositories.create("app.git", &[]);
    repository.file("Dockerfile", dockerfile);
    repository.file("own", "recorded");
    repository.commit("first");
    repository
}

/// Pushes an image that others build on; its name.
fn other(bench: &Bench, host: &str, payload: &str) -> String {
    let name = format!("{host}/other:1");
    bench.file("payload", payload).dockerfile("FROM scratch\nCOPY payload /payload\n");
    bench.build(&["--provenance=false", "-t", &name, "--push"]).ok();
    name
}

/// `rbuild build` of a context that is elsewhere.
fn build(bench: &Bench, context: &str, args: &[&str]) -> support::Run {
    let line = [&["build", "--progress=plain", "--provenance=mode=max"], args, &[context]].concat();
    bench.rbuild(&line)
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

#[test]
fn c8_12_an_image_from_a_repository_is_built_again_from_the_commit_and_the_images_that_were_recorded() {
    let registry = need!(Registry::start());
    let bench = Bench::new();
    let other_name = other(&bench, &registry.host, "one");
    let repositories = Repositories::new();
    let repository = repository(&repositories, DOCKERFILE);
    let web = Web::git(repositories.path(), None);
    let context = format!("http://{}/app.git#main", web.host);
    let name = format!("{}/app:1", registry.host);
    let args = [
        "--build-arg=WHO=me",
        "--label=a=b",
        &format!("--build-context=other=docker-image://{other_name}"),
        "-t",
        &name,
        "--push",
    ];
    build(&bench, &context, &args).ok();

    let plan = json(&bench.rbuild(&["replay", "build", &name, "--dry-run", "--format=json"]).ok().stdout);
    let subject = &plan["subjects"][0];
    assert_eq!(subject["buildConfig"]["context"], context);
    assert_eq!(subject["buildConfig"]["buildArgs"]["WHO"], "me");
    assert_eq!(subject["buildConfig"]["labels"]["a"], "b");
    assert_eq!(subject["descriptor"]["platform"]["os"], "linux");
    let mut kinds: Vec<&str> =
        subject["materials"].as_array().unwrap().iter().map(|m| m["kind"].as_str().unwrap()).collect();
    kinds.sort_unstable();
    assert_eq!(kinds, ["git", "image"]);
    let shown =
        bench.rbuild(&["buildx", "replay", "build", &format!("docker-image://{name}"), "--dry-run"]).ok().stdout;
    for part in ["Replay plan\n", "Context:    http://", "Build args: WHO=me\n", "Labels:     a=b\n", "Materials (2)\n"]
    {
        assert!(shown.contains(part), "{part:?} is not in:\n{shown}");
    }

    // Neither the name of the other image nor the branch means what it meant.
    other(&bench, &registry.host, "two");
    let again = |bench: &Bench, mode: &str| {
        let out = bench.path(&format!("out-{mode}"));
        let dest = format!("--output=type=local,dest={}", out.display());
        let run =
            bench.rbuild(&["replay", "build", &name, &dest, &format!("--replay-mode={mode}"), "--progress=plain"]);
        (run, out)
    };
    let (run, out) = again(&bench, "materials");
    run.ok();
    assert_eq!(std::fs::read_to_string(out.join("payload")).unwrap(), "one");
    assert_eq!(std::fs::read_to_string(out.join("own")).unwrap(), "recorded");
    let (run, out) = again(&bench, "frontend");
    run.ok();
    assert_eq!(std::fs::read_to_string(out.join("payload")).unwrap(), "two");

    repository.file("own", "changed");
    repository.commit("second");
    let (run, _) = again(&Bench::new(), "materials");
    run.fails(4, &["expected checksum to match"]);
}

#[test]
fn what_a_server_gives_has_to_be_what_it_gave() {
    let registry = need!(Registry::start());
    let bench = Bench::new();
    let archive = |dockerfile: &str| {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(dockerfile.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, "Dockerfile", dockerfile.as_bytes()).unwrap();
        tar.into_inner().unwrap()
    };
    let dockerfile = "FROM scratch\nCOPY Dockerfile /\n";
    let given = Arc::new(Mutex::new(archive(dockerfile)));
    let now = Arc::clone(&given);
    let web = Web::start(move |_| Answer::new(200).with_body("application/x-tar", now.lock().unwrap().clone()));
    let context = format!("http://{}/context.tar", web.host);
    let name = format!("{}/app:1", registry.host);
    build(&bench, &context, &["-t", &name, "--push"]).ok();
    bench.rbuild(&["replay", "build", &name, "--progress=plain"]).ok();
    *given.lock().unwrap() = archive(&format!("{dockerfile}# changed\n"));
    Bench::new().rbuild(&["replay", "build", &name, "--progress=plain"]).fails(4, &["digest mismatch"]);
}

#[test]
fn c8_12_verify_says_whether_the_image_is_the_same() {
    let registry = need!(Registry::start());
    let bench = Bench::new();
    let repositories = Repositories::new();
    repository(&repositories, "FROM scratch\nCOPY own /own\n");
    let web = Web::git(repositories.path(), None);
    let context = format!("http://{}/app.git#main", web.host);
    let name = |tag: &str| format!("{}/app:{tag}", registry.host);
    // Written in different ways, of which provenance says nothing.
    for (tag, how) in [
        ("plain", "oci-mediatypes=true"),
        ("zstd", "compression=zstd,oci-mediatypes=true"),
        ("times", "rewrite-timestamp=true"),
    ] {
        let output = format!("--output=type=image,name={},push=true,{how}", name(tag));
        build(&bench, &context, &["--build-arg=SOURCE_DATE_EPOCH=1000000", &output]).ok();
        let run = Bench::new().rbuild(&["replay", "verify", &name(tag), "--progress=rawjson"]);
        let run = run.ok();
        assert!(run.stdout.contains("the same: sha256:"), "{}", run.stdout);
        assert!(run.stderr.contains("\"vertexes\""), "{}", run.stderr);
    }

    // An image whose provenance is not its own.
    bench.file("own", "something else").dockerfile("FROM scratch\nCOPY own /own\n");
    let forged = name("forged");
    bench.build(&["--build-arg=SOURCE_DATE_EPOCH=1000000", "--provenance=false", "-t", &forged, "--push"]).ok();
    let layout = bench.path("layout");
    forge(&bench, &name("plain"), &forged, &layout);
    let subject = format!("oci-layout://{}", layout.display());
    let verdict = bench.path("verdict");
    let dest = format!("type=local,dest={}", verdict.display());
    let run = bench.rbuild(&["replay", "verify", &subject, "--compare=artifact", "-o", &dest, "--progress=plain"]);
    assert_eq!(run.code, 1, "{}{}", run.stdout, run.stderr);
    assert!(run.stdout.contains("/own: content"), "{}", run.stdout);
    let statement = json(&std::fs::read_to_string(verdict.join("vsa.intoto.jsonl")).unwrap());
    assert_eq!(statement["predicateType"], "https://slsa.dev/verification_summary/v1");
    assert_eq!(statement["predicate"]["verificationResult"], "FAILED");
    assert_eq!(json(&std::fs::read_to_string(verdict.join("diff.json")).unwrap())["same"], false);
    let run = bench.rbuild(&["replay", "verify", &subject, "--progress=plain"]);
    assert_eq!(run.code, 1, "{}{}", run.stdout, run.stderr);
    assert!(run.stderr.contains("replay mismatch"), "{}", run.stderr);
}

/// Writes a layout with the image of `image` and the provenance of `provenance`.
fn forge(bench: &Bench, provenance: &str, image: &str, layout: &std::path::Path) {
    let to = format!("oci-layout://{}", layout.display());
    bench.rbuild(&["imagetools", "create", "-t", &format!("{to}:given"), provenance]).ok();
    bench.rbuild(&["imagetools", "create", "-t", &format!("{to}:image"), image]).ok();
    let blob = |digest: &str| layout.join("blobs").join(digest.replace(':', "/"));
    let read = |digest: &str| json(&std::fs::read_to_string(blob(digest)).unwrap());
    let path = layout.join("index.json");
    let index = json(&std::fs::read_to_string(&path).unwrap());
    let named = |name: &str| {
        let entries = index["manifests"].as_array().unwrap();
        let entry = entries.iter().find(|e| e["annotations"]["org.opencontainers.image.ref.name"] == name);
        entry.unwrap_or_else(|| panic!("no {name} in {index}")).clone()
    };
    let (given, image) = (named("given"), named("image"));
    let mut document = read(given["digest"].as_str().unwrap());
    let mut image_entry = image.clone();
    if read(image["digest"].as_str().unwrap())["manifests"].is_array() {
        image_entry = read(image["digest"].as_str().unwrap())["manifests"][0].clone();
    }
    let entries = document["manifests"].as_array_mut().unwrap();
    entries[0]["digest"] = image_entry["digest"].clone();
    entries[0]["size"] = image_entry["size"].clone();
    entries[0]["mediaType"] = image_entry["mediaType"].clone();
    entries[1]["annotations"]["vnd.docker.reference.digest"] = image_entry["digest"].clone();
    let bytes = document.to_string();
    let digest = rbuild::base::Digest::sha256(bytes.as_bytes()).to_string();
    std::fs::write(blob(&digest), &bytes).unwrap();
    let mut entry = given;
    entry["digest"] = digest.into();
    entry["size"] = bytes.len().into();
    entry["annotations"] = serde_json::json!({"org.opencontainers.image.ref.name": "latest"});
    std::fs::write(&path, serde_json::json!({"schemaVersion": 2, "manifests": [entry]}).to_string()).unwrap();
}

#[test]
fn what_cannot_be_built_again_is_told_before_any_work() {
    let registry = need!(Registry::start());
    let bench = Bench::new();
    let repositories = Repositories::new();
    repository(&repositories, "FROM scratch\nCOPY own /own\n");
    let web = Web::git(repositories.path(), None);
    let context = format!("http://{}/app.git#main", web.host);
    let name = |tag: &str| format!("{}/app:{tag}", registry.host);
    let replay = |tag: &str, args: &[&str]| {
        let name = name(tag);
        bench.rbuild(&[&["replay", "build", &name, "--dry-run"], args].concat())
    };

    let line = |flag: &'static str, tag: &str| vec![flag.to_owned(), "-t".to_owned(), name(tag), "--push".to_owned()];
    let built = |flag, tag: &str, context: &str| {
        let line = line(flag, tag);
        build(&bench, context, &line.iter().map(String::as_str).collect::<Vec<_>>()).ok();
    };
    built("--provenance=false", "none", &context);
    replay("none", &[]).fails(4, &["no SLSA provenance attestation found", "--provenance=mode=max"]);
    built("--provenance=mode=min", "min", &context);
    replay("min", &[]).fails(4, &["provenance was recorded with mode=min", "--provenance=mode=max"]);

    bench.file("own", "x").dockerfile("FROM scratch\nCOPY own /own\n");
    built("--provenance=mode=max", "local", bench.ctx().to_str().unwrap());
    replay("local", &[])
        .fails(4, &["image was built from local inputs that replay cannot fetch: context", "--against"]);

    built("--provenance=mode=max", "good", &context);
    replay("good", &["--platform=all"]).fails(2, &["--platform \"all\" is not supported by replay"]);
    replay("good", &["--platform=linux/s390x"]).fails(4, &["has no image for linux/s390x"]);
    replay("good", &["--secret=id=x,env=HOME"]).fails(2, &["extra secrets not declared in provenance: x"]);
    replay("good", &["--materials=oci-layout:///x"]).fails(2, &["not implemented"]);
    let dest = format!("--output=type=local,dest={},mode=delete", bench.path("out/new").display());
    replay("good", &[&dest]).fails(2, &["mode=delete is not for replay"]);
    bench.rbuild(&["buildx", "replay", "snapshot", &name("good"), "-o", "x"]).fails(2, &["replay snapshot"]);
    bench.rbuild(&["replay", "build", &name("missing")]).fails(5, &["app:missing"]);
}

#[test]
fn secrets_of_the_build_are_asked_for() {
    need!(support::can_run());
    let registry = need!(Registry::start());
    let bench = Bench::new();
    let base = format!("{}/busybox:1", registry.host);
    let layout = format!("oci-layout://{}", need!(support::bases()).join("busybox").display());
    bench.rbuild(&["imagetools", "create", "-t", &base, &layout]).ok();
    let repositories = Repositories::new();
    let text = format!("FROM {base}\nRUN --mount=type=secret,id=api,required=true cp /run/secrets/api /copy\n");
    repository(&repositories, &text);
    let web = Web::git(repositories.path(), None);
    let context = format!("http://{}/app.git#main", web.host);
    let name = format!("{}/app:1", registry.host);
    let file = bench.path("secret");
    std::fs::write(&file, "hunter2").unwrap();
    let secret = format!("--secret=id=api,src={}", file.display());
    build(&bench, &context, &[&secret, "-t", &name, "--push"]).ok();
    bench.rbuild(&["replay", "build", &name]).fails(2, &["missing required secrets: api"]);
    let out = bench.path("out");
    let dest = format!("--output=type=local,dest={}", out.display());
    bench.rbuild(&["replay", "build", &name, &secret, &dest, "--progress=plain"]).ok();
    assert_eq!(std::fs::read_to_string(out.join("copy")).unwrap(), "hunter2");
}
