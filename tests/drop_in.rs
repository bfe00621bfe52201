//! What people who type `docker buildx build` expect of its flags (SPEC B2, B3, B6).
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stderr, reason = "skip reasons are collected by scripts/test")]
#![allow(missing_docs, unreachable_pub, reason = "a test program")]

#[path = "support/fake_registry/mod.rs"]
mod fake_registry;
mod support;

use fake_registry::{Auth, FakeRegistry, Tokens};
use serde_json::Value;
use support::Bench;
use support::image::{Image, tar_files};
use support::terminal::Terminal;

const CACHE_ONLY: &str = "no output specified: the result stays in the cache only";

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

/// Without RUN, so that anything can build it; one instruction is miswritten.
fn copies() -> Bench {
    let bench = Bench::new();
    bench.file("f", "payload").dockerfile("FROM scratch AS base\nCOPY f /f\nFROM base AS top\ncopy f /g\n");
    bench
}

// SPEC B2.08, B6.06
#[test]
fn b2_08_debug_expands_warnings_and_a_builder_is_no_choice() {
    let bench = copies();
    let run = bench.build(&[]).ok();
    assert_eq!(run.count("1 warning found (use --debug to expand):\n - ConsistentInstructionCasing: "), 1);
    assert_eq!(run.count("More info: "), 0);
    let context = bench.ctx().display().to_string();
    for words in [vec!["build", "-D"], vec!["buildx", "--debug", "build"], vec!["-D"], vec!["build", "--debug=true"]] {
        let run = bench.rbuild(&[&words[..], &["--progress=plain", &context]].concat()).ok();
        assert_eq!(run.count("1 warning found:\n - ConsistentInstructionCasing: "), 1, "{}", run.stderr);
        for more in
            ["More info: https://docs.docker.com/go/dockerfile/rule/consistent-instruction-casing/", ">>> copy f /g"]
        {
            assert_eq!(run.count(more), 1, "{words:?}: {}", run.stderr);
        }
    }
    let run = bench.build(&["--builder", "mine"]).ok();
    assert_eq!(run.count("notice: --builder has no meaning: there is one builder, built in"), 1, "{}", run.stderr);
    assert_eq!(bench.build(&["--check"]).count("use --debug"), 0, "a check is whole without it");
}

// SPEC B2.20, B3.02, B3.03, C6.15
#[test]
fn b2_20_output_is_a_directory_a_tar_on_standard_output_or_a_record() {
    let bench = copies();
    bench.build(&["-o", "plain", "--output=type=local,dest=record", "-o", "type=tar,dest=files.tar"]).ok();
    for place in ["plain/g", "record/g"] {
        assert_eq!(std::fs::read(bench.path("out").join(place)).unwrap(), b"payload");
    }
    assert_eq!(tar_files(&bench.path("out/files.tar"))["g"], b"payload");
    let ways = [
        ("-", "g"),
        ("type=tar,dest=-", "g"),
        ("type=tar", "g"),
        ("type=oci,dest=-", "oci-layout"),
        ("type=oci", "oci-layout"),
    ];
    for (flag, file) in ways {
        let output = bench.build_command(&["-o", flag]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let path = bench.path("stdout.tar");
        std::fs::write(&path, output.stdout).unwrap();
        assert!(tar_files(&path).contains_key(file), "{flag}");
        let mut terminal = Terminal::start(bench.build_command(&["-o", flag]));
        terminal.wait_for("--output: refusing to write a tar to a terminal");
        assert_eq!(terminal.end(), 2, "{flag}");
    }
    // The archive has its names, in both forms.
    bench.build(&["-o", "type=oci,dest=a.tar,name=r.example/app:1"]).ok();
    let entry = json(&tar_files(&bench.path("out/a.tar"))["index.json"])["manifests"][0].clone();
    assert_eq!(entry["annotations"]["io.containerd.image.name"], "r.example/app:1");
    assert_eq!(entry["annotations"]["org.opencontainers.image.ref.name"], "1");
}

// SPEC B2.25, B6.05, B2.23
#[test]
fn b2_25_quiet_prints_the_id_and_none_nothing() {
    let bench = copies();
    let context = bench.ctx().display().to_string();
    let silent = |args: &[&str]| {
        let run = bench.rbuild(&[&["build"], args, &[context.as_str()]].concat()).ok();
        assert_eq!(run.stderr, "", "{args:?}");
        run.stdout
    };
    let id = silent(&["-q"]);
    assert!(id.starts_with("sha256:") && id.lines().count() == 1, "{id}");
    bench.build(&["-t", "app", "--iidfile", "id"]).ok();
    assert_eq!(id.trim_end(), std::fs::read_to_string(bench.path("out/id")).unwrap());
    assert_eq!(silent(&["--quiet", "-t", "app"]), id);
    assert_eq!(silent(&["--progress=quiet", "-t", "app"]), id);
    assert_eq!(silent(&["--progress", "none", "-t", "app"]), "");
    for other in ["plain", "tty", "none", "rawjson"] {
        let text = format!("progress={other} and quiet cannot be used together");
        bench.rbuild(&["build", "-q", "--progress", other, &context]).fails(2, &[&text]);
    }
    // Errors are no progress.
    bench.rbuild(&["build", "-q", "--target", "nothing", &context]).fails(2, &["target stage \"nothing\""]);
}

// SPEC B2.30, B3.05, B3.06, C6.01
#[test]
fn b2_30_tags_and_names_of_outputs() {
    let registry = FakeRegistry::start();
    let bench = copies();
    bench.build(&["-t", "app", "-t", "team/app:2", "-t", "app:latest", "--metadata-file", "m"]).ok();
    let names = json(&std::fs::read(bench.path("out/m")).unwrap())["image.name"].clone();
    assert_eq!(names, "docker.io/library/app:latest,docker.io/team/app:2", "each once, in order");
    bench.build(&["-t", "UP"]).fails(2, &["invalid tag \"UP\""]);
    let images = |bench: &Bench| bench.rbuild(&["images", "--format", "{{.Repository}}:{{.Tag}}"]).ok().stdout;
    assert!(images(&bench).contains("team/app:2\n"));
    // Several names in one attribute, quoted as CSV wants it; the flags' tags are for outputs without names.
    let (a, b) = (format!("{}/a:1", registry.host()), format!("{}/b:1", registry.host()));
    bench.build(&["-t", "unused", "-o", &format!("type=image,\"name={a},{b}\",push=true")]).ok();
    assert!(registry.state().repositories["a"].tags.contains_key("1"));
    assert!(registry.state().repositories["b"].tags.contains_key("1"));
    assert!(images(&bench).contains(&a) && !images(&bench).contains("unused"), "an image output is kept here too");
    for (at, kind) in ["type=registry", "type=image,push=true"].into_iter().enumerate() {
        bench.build(&["-t", &format!("{}/c{at}:1", registry.host()), "-o", kind]).ok();
        assert!(registry.state().repositories[&format!("c{at}")].tags.contains_key("1"), "{kind}");
    }
    bench.build(&["-o", "type=registry"]).fails(2, &["tag is needed when pushing to registry"]);
}

// SPEC B2.31, A4.07
#[test]
fn b2_31_target_chooses_the_stage() {
    let bench = copies();
    let image = bench.build_image(&["--target", "BASE"]);
    assert!(image.has("f") && !image.has("g"), "names of stages have no case");
    assert!(bench.build_image(&["--target=1"]).has("g"), "a number is a stage, too");
    bench.build(&["--target", "tpo"]).fails(2, &["target stage \"tpo\" could not be found", "did you mean top?"]);
}

// SPEC B2.33
#[test]
fn b2_33_flags_of_the_old_builder_do_nothing_and_say_so_where_it_matters() {
    let bench = copies();
    let quiet = ["--compress", "--rm", "--rm=false", "--force-rm", "--isolation=default"];
    let run = bench.build(&[&quiet[..], &["-t", "a"]].concat()).ok();
    assert_eq!(run.count("notice"), 0, "{}", run.stderr);
    for flag in ["--squash", "--security-opt=label=disable"] {
        let name = flag.split('=').next().unwrap();
        let text = format!("notice: {name} flag is deprecated with BuildKit and has no effect");
        assert_eq!(bench.build(&[flag]).ok().count(&text), 1, "{flag}");
    }
    bench.build(&["--isolation=hyperv"]).fails(2, &["--isolation: hyperv is an isolation of Windows containers"]);
}

// SPEC B2.35: what each kind of failure ends with is in docs/cli/exit-codes.md; an interrupt is in crash.rs.
#[test]
fn b2_35_exit_codes() {
    let bench = copies();
    bench.build(&[]).ok();
    let code = |args: &[&str]| bench.build(args).code;
    assert_eq!(code(&["--no-such-flag"]), 2);
    assert_eq!(code(&["--call=check"]), 1, "it found something");
    assert_eq!(code(&["--call=check,ignorestatus=true"]), 0);
    assert_eq!(code(&["--call=targets"]), 0);
    bench.dockerfile("FROM scratch\nCPOY f /f\n");
    assert_eq!(code(&[]), 4);
    bench.dockerfile("FROM 127.0.0.1:1/nobody\n");
    assert_eq!(code(&[]), 7);
    let registry = FakeRegistry::start();
    bench.dockerfile(&format!("FROM {}/nothing\n", registry.host()));
    assert_eq!(code(&[]), 5);
    registry.set_auth(Auth::Token(Tokens { anonymous_pull: false, ..Tokens::default() }));
    assert_eq!(code(&[]), 6);
    bench.dockerfile("FROM scratch\nCOPY f /f\n");
    std::fs::create_dir(bench.path("out/d")).unwrap();
    std::fs::write(bench.path("out/d/file"), "").unwrap();
    assert_eq!(code(&["-o", "type=tar,dest=d/file/x.tar"]), 8);
    need_run!();
    bench.dockerfile("FROM busybox\nRUN exit 42\n");
    bench.build(&[]).fails(9, &["exit code: 42"]);
}

// SPEC B3.07, C6.18
#[test]
fn b3_07_without_an_output_everything_is_built_and_only_cached() {
    let bench = copies();
    let run = bench.build(&[]).ok();
    assert_eq!(run.count(&format!("notice: {CACHE_ONLY}")), 1, "{}", run.stderr);
    let run = bench.build(&["-o", "type=cacheonly", "-t", "app"]).ok();
    assert_eq!((run.count(CACHE_ONLY), run.count("CACHED")), (0, 2), "{}", run.stderr);
    assert_eq!(bench.rbuild(&["images", "-q"]).ok().stdout, "");
    bench.dockerfile("FROM scratch\nCOPY missing /\n");
    bench.build(&["-o", "type=cacheonly"]).fails(4, &["missing"]);
}

// SPEC B3.08, B3.10, C8.03
#[test]
fn b3_08_what_has_no_meaning_here_is_refused_by_name() {
    let bench = copies();
    for (output, why) in [
        ("type=moby", "type=moby is how dockerd talks to itself; type=docker loads into it"),
        ("type=image,name=*", "name=* has no meaning"),
        (
            "type=image,name=a,oci-artifact=true,oci-mediatypes=false",
            "oci-artifact=true conflicts with oci-mediatypes=false",
        ),
        ("type=local,dest=x,attestation-prefix=p/", "attestation-prefix \"p/\" has a slash"),
    ] {
        bench.build(&["-o", output]).fails(2, &[why]);
    }
    bench.build(&["-o", "type=image,name=a,attestation-inline=false"]).ok();
}

// SPEC E1.12
#[test]
fn e1_12_credentials_for_one_command() {
    let registry = FakeRegistry::start();
    registry.set_auth(Auth::Basic { user: "me", password: "se:cret" });
    let bench = copies();
    let tag = format!("{}/app:1", registry.host());
    bench.build(&["-t", &tag, "--push"]).fails(6, &[&registry.host()]);
    bench.build(&["-t", &tag, "--push", "--creds", "me:se:cret"]).ok();
    bench.build(&["-t", &tag, "--push", "--creds", "me:other"]).fails(6, &["refused the credentials"]);
    bench.build(&["-t", &tag, "--push", "--creds", "me"]).fails(2, &["--creds: the password is missing"]);
    bench.build(&["--creds", "me:x"]).fails(2, &["--creds: there is no image name"]);
    bench.rbuild(&["rm", &tag]).ok();
    bench.rbuild(&["pull", &tag]).fails(6, &[]);
    bench.rbuild(&["pull", "--creds=me:se:cret", &tag]).ok();
    let other = format!("{}/other:1", registry.host());
    bench.rbuild(&["push", "--creds=me:se:cret", &tag, &other]).ok();
    assert!(!bench.path("home/.docker").exists(), "nothing is kept");
}

// SPEC E3.08
#[test]
fn e3_08_layers_go_in_pieces_where_large_requests_are_not_let_through() {
    let registry = FakeRegistry::start();
    let bench = Bench::new();
    // Random, so that compressing does not make it small.
    let mut random = vec![0; 300_000];
    std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom").unwrap(), &mut random).unwrap();
    bench.file("f", &random).dockerfile("FROM scratch\nCOPY f /f\n");
    let tag = format!("{}/app:1", registry.host());
    bench.build(&["-t", &tag, "--push", "--push-chunk-size", "100k"]).ok();
    let sizes: Vec<(String, usize)> = registry
        .requests()
        .iter()
        .filter(|r| r.target.contains("/uploads/") && ["PATCH", "PUT"].contains(&r.method.as_str()))
        .map(|r| (r.method.clone(), r.body.len()))
        .filter(|(_, size)| *size > 10_000)
        .collect();
    assert!(sizes.iter().all(|(_, size)| *size <= 100 << 10) && sizes.len() == 3, "{sizes:?}");
    assert_eq!(sizes.iter().filter(|(method, _)| method == "PATCH").count(), 2);
    let largest = registry.state().repositories["app"].blobs.values().map(Vec::len).max().unwrap();
    assert!(largest > 300_000);
    bench.build(&["-t", &tag, "--push-chunk-size", "10"]).fails(2, &["--push-chunk-size", "at least 64k"]);
}

/// The registry has an image whose second layer must not be distributed; gives the layer's digest and its bytes.
fn with_foreign_layer(registry: &FakeRegistry, docker: bool) -> String {
    let layer = |name: &str| {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(7);
        header.set_mode(0o644);
        header.set_cksum();
        tar.append_data(&mut header, name, &b"content"[..]).unwrap();
        tar.into_inner().unwrap()
    };
    let (plain, foreign) = (layer("plain"), layer("foreign"));
    let (one, two) = (registry.put_blob("base", &plain), registry.put_blob("elsewhere", &foreign));
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":["{one}","{two}"]}}}}"#
    );
    let digest = registry.put_blob("base", config.as_bytes());
    let (manifest, config_type, layer_type, foreign_type) = if docker {
        (
            "application/vnd.docker.distribution.manifest.v2+json",
            "application/vnd.docker.container.image.v1+json",
            "application/vnd.docker.image.rootfs.diff.tar",
            "application/vnd.docker.image.rootfs.foreign.diff.tar",
        )
    } else {
        (
            "application/vnd.oci.image.manifest.v1+json",
            "application/vnd.oci.image.config.v1+json",
            "application/vnd.oci.image.layer.v1.tar",
            "application/vnd.oci.image.layer.nondistributable.v1.tar",
        )
    };
    let text = serde_json::json!({
        "schemaVersion": 2, "mediaType": manifest,
        "config": {"mediaType": config_type, "digest": digest, "size": config.len()},
        "layers": [
            {"mediaType": layer_type, "digest": one, "size": plain.len()},
            {"mediaType": foreign_type, "digest": two, "size": foreign.len(),
             "urls": [format!("http://{}/v2/elsewhere/blobs/{two}", registry.host())]},
        ],
    });
    registry.put_manifest("base", Some("1"), manifest, text.to_string().as_bytes());
    two
}

// SPEC E3.12, E4.02–E4.06, E4.10
#[test]
fn e3_12_layers_that_must_not_be_distributed_stay_or_become_ordinary() {
    for docker in [false, true] {
        let registry = FakeRegistry::start();
        let foreign = with_foreign_layer(&registry, docker);
        let bench = Bench::new();
        bench.file("f", "x").dockerfile(&format!("FROM {}/base:1\nCOPY f /f\n", registry.host()));
        let push = |tag: &str, more: &str| {
            let name = format!("type=image,name={}/{tag},push=true,oci-mediatypes={}{more}", registry.host(), !docker);
            bench.build(&["--platform=linux/amd64", "-o", &name]).ok();
            let state = registry.state();
            let repository = &state.repositories[tag];
            let digest = &repository.tags["latest"];
            (json(&repository.manifests[digest].1), repository.blobs.contains_key(&foreign))
        };
        let (manifest, sent) = push("kept", ",prefer-nondist-layers=true");
        let layers = manifest["layers"].as_array().unwrap().clone();
        let (family, suffix) = if docker { ("docker.image.rootfs", ".gzip") } else { ("oci.image.layer", "+gzip") };
        assert!(!sent, "it stays where it is");
        assert!(layers[1]["urls"][0].as_str().unwrap().ends_with(&foreign), "{manifest}");
        let kind = if docker { "foreign.diff.tar" } else { "nondistributable.v1.tar" };
        assert_eq!(layers[1]["mediaType"], format!("application/vnd.{family}.{kind}"));
        let (manifest, sent) = push("ordinary", "");
        let usual = if docker { "diff.tar" } else { "v1.tar" };
        let layers = manifest["layers"].as_array().unwrap();
        assert!(sent, "it was brought in from its URL and sent");
        for (layer, expected) in layers.iter().zip([usual, usual, &format!("{usual}{suffix}")]) {
            assert_eq!(layer["mediaType"], format!("application/vnd.{family}.{expected}"));
            assert_eq!(layer.get("urls"), None);
        }
        let (config, own) = if docker {
            ("application/vnd.docker.container.image.v1+json", "application/vnd.docker.distribution.manifest.v2+json")
        } else {
            ("application/vnd.oci.image.config.v1+json", "application/vnd.oci.image.manifest.v1+json")
        };
        assert_eq!((&manifest["config"]["mediaType"], &manifest["mediaType"]), (&config.into(), &own.into()));
    }
    let bench = copies();
    let conflict = "compression=zstd conflicts with oci-mediatypes=false";
    bench.build(&["-o", "type=oci,dest=x,compression=zstd,oci-mediatypes=false"]).fails(2, &[conflict]);
    bench.build(&["-o", "type=oci,dest=x.tar,compression=zstd"]).ok();
    let zstd = Image::open_tar(&bench.path("out/x.tar"));
    assert_eq!(zstd.manifest["layers"][0]["mediaType"], "application/vnd.oci.image.layer.v1.tar+zstd");
}

// SPEC E3.09: what a base came from is remembered, so its layers are mounted, not read.
#[test]
fn e3_09_layers_of_a_base_are_mounted_from_its_repository() {
    let registry = FakeRegistry::start();
    let bench = copies();
    let base = format!("{}/library/base:1", registry.host());
    bench.build(&["-t", &base, "--push"]).ok();
    let elsewhere = Bench::new();
    elsewhere.file("h", "more").dockerfile(&format!("FROM {base}\nCOPY --link h /h\n"));
    let before = registry.requests().len();
    elsewhere.build(&["-t", &format!("{}/team/app:1", registry.host()), "--push"]).ok();
    let since = registry.requests().split_off(before);
    let mounts = since.iter().filter(|r| r.method == "POST" && r.target.contains("from=library/base")).count();
    assert_eq!(mounts, 2, "one for each layer of the base");
    let layers = registry.state().repositories["library/base"].blobs.values().filter(|b| b[0] == 0x1f).count();
    let read = since.iter().filter(|r| r.method == "GET" && r.target.contains("/blobs/")).count();
    assert_eq!((layers, read), (2, 1), "only the config was read");
}

// SPEC E4.07, E3.17: images with attestations are read past them, and copied with them.
#[test]
fn e4_07_attestations_beside_an_image_are_not_taken_for_one() {
    let registry = FakeRegistry::start();
    let bench = copies();
    let name = format!("{}/base:1", registry.host());
    bench.build(&["--platform=linux/amd64", "--build-arg=BUILDKIT_MULTI_PLATFORM=1", "-t", &name, "--push"]).ok();
    let index = {
        let state = registry.state();
        let base = &state.repositories["base"];
        json(&base.manifests[&base.tags["1"]].1)
    };
    let statement = br#"{"_type":"https://in-toto.io/Statement/v1","subject":[],"predicateType":"https://slsa.dev/provenance/v1","predicate":{}}"#;
    let blob = registry.put_blob("base", statement);
    let empty = registry.put_blob("base", b"{}");
    let image = index["manifests"][0].clone();
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "artifactType": "application/vnd.docker.attestation.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": empty, "size": 2},
        "layers": [{"mediaType": "application/vnd.in-toto+json", "digest": blob, "size": statement.len()}],
        "subject": image,
    })
    .to_string();
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let digest = registry.put_manifest("base", None, kind, manifest.as_bytes());
    let attestation = serde_json::json!({
        "mediaType": kind, "digest": digest, "size": manifest.len(),
        "platform": {"architecture": "unknown", "os": "unknown"},
        "annotations": {"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": image["digest"]},
    });
    let index = serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        // It comes first, which upstream never does.
        "manifests": [attestation, image],
    });
    let text = index.to_string();
    registry.put_manifest("base", Some("1"), "application/vnd.oci.image.index.v1+json", text.as_bytes());
    let elsewhere = Bench::new();
    elsewhere.file("h", "more").dockerfile(&format!("FROM {name}\nCOPY h /h\n"));
    let image = elsewhere.build_image(&["--platform=linux/amd64"]);
    assert_eq!(image.text("g"), "payload");
    // Brought in whole and sent on, it stays what it was.
    elsewhere.rbuild(&["pull", "--all-platforms", &name]).ok();
    elsewhere.rbuild(&["push", &name, &format!("{}/copy:1", registry.host())]).ok();
    let state = registry.state();
    assert_eq!(state.repositories["copy"].tags["1"], fake_registry::sha256(text.as_bytes()));
    assert!(state.repositories["copy"].blobs.contains_key(&blob), "with what it attests");
}

// SPEC B2.36, B5.06
#[test]
fn b5_06_labels_say_which_commit_an_image_is_made_of() {
    let mut bench = copies();
    bench
        .file(".git/HEAD", "ref: refs/heads/main\n")
        .file(".git/refs/heads/main", "0123456789abcdef0123456789abcdef01234567\n");
    bench.file(".git/config", "[remote \"origin\"]\n\turl = https://u:secret@example.com/x.git\n");
    let labels = |bench: &Bench, args: &[&str]| bench.build_image(args).config["config"]["Labels"].clone();
    assert_eq!(labels(&bench, &[]), Value::Null);
    bench.env.push(("BUILDX_GIT_LABELS".into(), "1".into()));
    let found = labels(&bench, &["--label", "org.opencontainers.image.source=mine"]);
    let expected = serde_json::json!({
        "org.opencontainers.image.revision": "0123456789abcdef0123456789abcdef01234567",
        "org.opencontainers.image.source": "mine", "com.docker.image.source.entrypoint": "Dockerfile",
    });
    assert_eq!(found, expected);
    assert_eq!(labels(&bench, &[])["org.opencontainers.image.source"], "https://example.com/x.git");
    let repository = |bench: &Bench| {
        json(bench.rbuild(&["builds", "inspect", "--format", "json"]).ok().stdout.as_bytes())["VCSRepository"].clone()
    };
    assert_eq!(repository(&bench), "https://example.com/x.git");
    bench.env.push(("BUILDX_GIT_INFO".into(), "false".into()));
    bench.build(&[]).ok();
    assert_eq!(repository(&bench), Value::Null);
    // Whether files were changed only git can say.
    std::fs::remove_dir_all(bench.ctx().join(".git")).unwrap();
    bench.env.push(("BUILDX_GIT_CHECK_DIRTY".into(), "true".into()));
    let git = |args: &[&str]| {
        let user = ["-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "init.defaultBranch=main"];
        let mut git = std::process::Command::new("git");
        git.current_dir(bench.ctx()).args(user).args(args).stdout(std::process::Stdio::null());
        git.status().unwrap().success()
    };
    assert!(git(&["init", "-q"]) && git(&["add", "."]) && git(&["commit", "-q", "-m", "x"]));
    let revision = |bench: &Bench| labels(bench, &[])["org.opencontainers.image.revision"].as_str().unwrap().to_owned();
    assert_eq!(revision(&bench).len(), 40);
    bench.file("f", "changed");
    assert!(revision(&bench).ends_with("-dirty"));
}

// SPEC C9.15
#[test]
fn c9_15_info_says_what_a_report_needs() {
    let bench = copies();
    let info = json(bench.rbuild(&["info", "--format", "json"]).ok().stdout.as_bytes());
    let platforms = info["Platforms"].as_array().unwrap();
    assert_eq!(platforms[0], rbuild::oci::Platform::host().to_string());
    for key in ["Snapshotter", "Isolation", "Kernel", "Root"] {
        assert!(info[key].as_str().is_some_and(|text| !text.is_empty()), "{key}: {info}");
    }
    assert!(info["UserNamespace"].is_boolean() && info["ControlGroups"].is_object(), "{info}");
    let rules = info["GcPolicy"].as_array().unwrap();
    assert!(rules.len() == 4 && rules.iter().all(|rule| rule["MaxUsedSpace"].as_u64() > Some(0)), "{info}");
    assert!(rules[0]["Filters"][0].as_str().unwrap().contains("exec") && rules[0]["KeepSeconds"] == 48 * 3600);
    std::fs::write(bench.path("c.toml"), "[worker.oci]\ngc = false\n").unwrap();
    let config = bench.path("c.toml").display().to_string();
    let text = bench.rbuild(&["--config", &config, "info"]).ok().stdout;
    assert!(text.contains("Collection:    off"), "{text}");
}

// SPEC B1.01
#[test]
fn b1_01_a_program_called_docker_does_what_docker_does_with_images() {
    use std::os::unix::process::CommandExt as _;
    let bench = copies();
    let docker = |line: &[&str]| {
        let home = bench.path("home");
        let mut command = std::process::Command::new(support::rbuild_path());
        command.arg0("/usr/local/bin/docker").args(line).env("HOME", &home).env("XDG_DATA_HOME", home.join("data"));
        support::finish(command.current_dir(bench.path("out")).output().unwrap())
    };
    let context = bench.ctx().display().to_string();
    docker(&["--context", "default", "build", "--progress=plain", "-t", "app:1", &context]).ok();
    docker(&["buildx", "build", "-q", "-t", "app:2", &context]).ok();
    docker(&["tag", "app:1", "app:3"]).ok();
    let listed = docker(&["image", "ls", "--format", "{{.Name}}"]).ok().stdout;
    for name in ["app:1", "app:2", "app:3"] {
        assert!(listed.contains(name), "{listed}");
    }
    docker(&["rmi", "app:3"]).ok();
    docker(&["ps", "-a"]).fails(2, &["docker ps: there is no such command here"]);
    bench.rbuild(&["docker", "buildx", "build", "--progress=plain", &context]).ok();
}
