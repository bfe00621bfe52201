//! Front ends that are images (SPEC C3): a real one in an image, which speaks with the builder over its standard input and output.
//!
//! The front end is this program: [`program::run`] in an image, started by a shell that keeps standard output for the conversation,
//! since a test program prints to it.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stderr, reason = "skip reasons are collected by scripts/test")]
#![allow(missing_docs, unreachable_pub, reason = "a test program")]

#[path = "frontends/client.rs"]
mod client;
#[path = "frontends/containers.rs"]
mod containers;
#[path = "frontends/program.rs"]
mod program;
mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use support::git::Repositories;
use support::registry::Registry;
use support::web::Web;
use support::{Bench, Run};

const NAME: &str = "example.com/lines:1";
/// What the directories of its layouts begin with.
const PREFIX: &str = "rbuild-front-end-";

/// What the image of the front end runs.
#[test]
fn front_end_program() {
    program::run();
}

/// The front end as an OCI layout, made once.
fn layout() -> &'static Path {
    static LAYOUT: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = LAYOUT.get_or_init(|| {
        // Nobody drops what lives as long as the program: later runs clean up behind earlier ones.
        for old in std::fs::read_dir(std::env::temp_dir()).unwrap().flatten() {
            let ours = old.file_name().to_string_lossy().starts_with(PREFIX);
            let age = old.metadata().ok().and_then(|data| data.modified().ok()?.elapsed().ok());
            if ours && age.is_some_and(|age| age.as_secs() > 3600) {
                let _ = std::fs::remove_dir_all(old.path());
            }
        }
        let dir = tempfile::Builder::new().prefix(PREFIX).tempdir().unwrap();
        let bench = Bench::new();
        let exe = std::env::current_exe().unwrap();
        let mut files = vec![];
        let output = Command::new("ldd").arg(&exe).output().unwrap();
        for word in String::from_utf8(output.stdout).unwrap().split_whitespace().filter(|word| word.starts_with('/')) {
            files.push(PathBuf::from(word));
        }
        for path in &files {
            bench.file(&format!("root{}", path.display()), std::fs::read(path).unwrap());
            bench.chmod(&format!("root{}", path.display()), 0o755);
        }
        // Symbols are most of it.
        let place = bench.ctx().join("root/front-end");
        if !Command::new("strip").arg("-o").arg(&place).arg(&exe).status().is_ok_and(|status| status.success()) {
            std::fs::copy(&exe, &place).unwrap();
        }
        bench.chmod("root/front-end", 0o755);
        bench.file(
            "root/start",
            "#!/bin/sh\nexec 3>&1 1>&2\nexec /front-end --exact front_end_program --nocapture --test-threads 1\n",
        );
        bench.chmod("root/start", 0o755);
        bench.dockerfile(
            "FROM busybox\nCOPY root/ /\nENV FROM_IMAGE=yes\nENTRYPOINT [\"/start\"]\n\
             LABEL moby.buildkit.frontend.caps=moby.buildkit.frontend.contexts,moby.buildkit.frontend.subrequests\n\
             LABEL moby.buildkit.frontend.network.none=true\n",
        );
        let path = dir.path().join("layout");
        bench.build(&["-o", &format!("type=oci,tar=false,dest={}", path.display())]).ok();
        (dir, path)
    });
    path
}

/// A bench where the front end has its name.
fn bench() -> Bench {
    let mut bench = Bench::new();
    bench.args.extend(["--build-context".into(), format!("{NAME}=oci-layout://{}", layout().display())]);
    bench
}

/// Benches on the rungs that this user has; front ends are no different on any of them.
fn benches() -> Vec<Bench> {
    let rungs: &[&str] =
        if rustix::process::geteuid().is_root() { &["root", "chroot"] } else { &["userns", "userns-one", "ptrace"] };
    let on = |rung: &&str| {
        let mut bench = bench();
        bench.args.extend(["--isolation".into(), (*rung).into()]);
        bench.dockerfile("FROM busybox\nRUN true\n");
        let run = bench.build(&[]);
        if run.stderr.contains("does not work here") {
            eprintln!("skipped: no isolation {rung} here");
            return None;
        }
        run.ok();
        Some(bench)
    };
    rungs.iter().filter_map(on).collect()
}

fn page(bench: &Bench, lines: &str) {
    bench.dockerfile(&format!("# syntax={NAME} more words\n{lines}"));
}

// SPEC A1.03, C3.01–C3.06, C3.08, C3.09, C3.11–C3.14, N2.08, N2.16, S2.01, S2.03, S2.23
#[test]
fn c3_01_a_front_end_that_is_an_image_makes_the_image() {
    need_run!();
    for bench in benches() {
        bench.file("hello.txt", "hello\n").file("other.txt", "unread\n");
        page(
            &bench,
            "from busybox\nrun echo ran > /ran; id -u > /uid\ncopy hello.txt /d/hello\nmkdir /a/b\nmkfile /a/f some text\n\
         symlink /a/f /link\nmkfile /gone x\nrm /gone\nenv A=1\nread RAN /ran\n",
        );
        let image = bench.build_image(&[]);
        assert_eq!(
            (image.text("ran"), image.text("uid"), image.text("d/hello")),
            ("ran\n".into(), "0\n".into(), "hello\n".into())
        );
        let (dir, file) = (image.node("a/b"), image.node("a/f"));
        assert_eq!((dir.kind, dir.mode, file.mode, file.content), ('d', 0o750, 0o640, b"some text\n".to_vec()));
        assert_eq!(image.node("link").link, "/a/f");
        assert!(!image.has("gone") && !image.has("other.txt"));
        let env: Vec<&str> =
            image.config["config"]["Env"].as_array().unwrap().iter().map(|v| v.as_str().unwrap()).collect();
        assert!(env.contains(&"A=1") && env.contains(&"RAN=ran"), "{env:?}");
        let history = image.config["history"].as_array().unwrap();
        let full = history.iter().filter(|entry| entry["empty_layer"] != true).count();
        assert_eq!(full, image.layers.len(), "an entry of history for each layer");
        // What it did is in the cache.
        let again = bench.build(&[]).ok();
        assert!(
            again.stderr.contains("the front end was asked for as example.com/lines:1 more words"),
            "{}",
            again.stderr
        );
        assert!(again.count("CACHED") >= 3, "{}", again.stderr);
    }
}

// SPEC C3.13–C3.15
#[test]
fn c3_14_it_looks_into_results_and_lives_with_failures() {
    need_run!();
    for bench in benches() {
        page(
            &bench,
            "from busybox\nmkdir /d\nmkfile /d/x 12345\ntry exit 3\nlist . /d\nstat /d/x\nlist own /\nwarn mind the gap\nrun echo on > /on\ninputs\n",
        );
        bench.file("d/secret", "");
        let run = bench.build(&[]).ok();
        for text in [
            "tried in vain: process \"/bin/sh -c exit 3\" did not",
            "listed: x:640",
            "found: x 640 6",
            "listed: Dockerfile:",
            "mind the gap",
            "inputs: []",
        ] {
            assert!(run.stderr.contains(text), "{text} in {}", run.stderr);
        }
        assert!(!run.stderr.contains("secret"), "only what was asked for is there: {}", run.stderr);
    }
}

// SPEC C3.13
#[test]
fn c3_13_failures_are_told_as_they_are() {
    need_run!();
    let bench = bench();
    page(&bench, "from busybox\nrun echo words; exit 9\n");
    bench
        .build(&[])
        .fails(9, &["process \"/bin/sh -c echo words; exit 9\" did not complete successfully: exit code: 9"]);
    page(&bench, "from busybox\nrun exit 9\nread X /x\n");
    bench.build(&[]).fails(9, &["exit code: 9"]);
    page(&bench, "fail the page is wrong\n");
    bench.build(&[]).fails(4, &["example.com/lines:1: the page is wrong", "Dockerfile:1"]);
    page(&bench, "from busybox\nread X /missing\n");
    bench.build(&[]).fails(4, &["open /missing: no such file or directory"]);
    page(&bench, "call NoSuchCall\n");
    bench.build(&[]).fails(4, &["there is no call /moby.buildkit.v1.frontend.LLBBridge/NoSuchCall here"]);
}

// SPEC C3.06
#[test]
fn c3_06_front_ends_that_misbehave_are_named() {
    need_run!();
    let bench = bench();
    page(&bench, "from busybox\n");
    let misbehave = |how: &str, more: &[&str]| -> Run {
        let how = format!("MISBEHAVE={how}");
        let mut args = vec!["--build-arg", &how];
        args.extend(more);
        bench.build(&args)
    };
    misbehave("nonsense", &[])
        .fails(4, &[NAME, "no conversation with a builder; it begins with \"hello, I am no front end"]);
    misbehave("crash", &[]).fails(4, &["the front end example.com/lines:1 failed: exit code: 7", "about to crash"]);
    misbehave("silent", &["--step-timeout", "2s"]).fails(4, &[NAME, "it asked for nothing for 2s", "--step-timeout"]);
    misbehave("leave", &[]).fails(4, &[NAME, "it ended without saying what it made"]);
}

// SPEC C2.06, C3.18, C5.15
#[test]
fn c3_18_a_front_end_has_no_more_than_the_build() {
    need_run!();
    for bench in benches() {
        page(&bench, "from busybox\nhost true\n");
        bench.build(&[]).fails(4, &["network.host is not allowed"]);
        for (source, code, text) in [
            ("oci-layout:///etc", 4, "there is no OCI layout"),
            ("oci-layout+blob://x@sha256:00", 4, "there is no OCI layout"),
            ("local://elsewhere", 2, "there is no local context named \"elsewhere\""),
            ("file:///etc/passwd", 4, "cannot be had by a front end"),
        ] {
            page(&bench, &format!("source {source}\nlist . /\n"));
            bench.build(&[]).fails(code, &[text]);
        }
    }
}

// SPEC C2.06, C3.18: which files there are, and of a few what is in them.
#[test]
fn c2_06_a_directory_is_listed_for_front_ends() {
    need_run!();
    for bench in benches() {
        bench.file("data", "12345").file("dir/a", "a").file("dir/b.keep", "keep").file("dir-2/c", "c");
        bench.chmod("data", 0o600).symlink("data", "dir/link");
        let whole = r#"local.metadatatransferexclude=["dir/*.keep"]"#;
        let skip = r#"local.excludepatterns=["Dockerfile","dir/a"]"#;
        page(
            &bench,
            &format!(
                "source local://context local.metadatatransfer=true {whole} {skip}\nlisting\nlist . /\nlist . /dir\nread K /dir/b.keep\n"
            ),
        );
        let run = bench.build(&[]).ok();
        let listing =
            "listing: data:600:5: dir:755:0: dir/b.keep:644:4: dir/link:777:4:data dir-2:755:0: dir-2/c:644:1:\n";
        assert!(run.stderr.contains(listing), "{}", run.stderr);
        assert!(run.stderr.contains("listed: .fsutil-metadata:644 dir:"), "{}", run.stderr);
        assert!(run.stderr.contains("listed: b.keep:644\n"), "{}", run.stderr);
        // A change that the list does not show changes nothing, one that it shows does.
        bench.file("dir-2/d", "d");
        let run = bench.build(&[]).ok();
        assert!(run.stderr.contains("dir-2/c:644:1: dir-2/d:644:1:\n"), "{}", run.stderr);
        page(&bench, "source local://context local.metadatatransfer=perhaps\nlist . /\n");
        bench.build(&[]).fails(4, &["invalid attribute local.metadatatransfer", "expected true or false"]);
    }
}

// SPEC C3.10: commits and tags as git keeps them, digests of other kinds, and what is attested of an image.
#[test]
fn c3_10_more_is_told_of_sources() {
    need_run!();
    let repositories = Repositories::new();
    let repository = repositories.create("a.git", &[]);
    repository.file("f", "x").commit("first");
    repository.git(&["tag", "-a", "-m", "one", "v1"]);
    let git = Web::git(repositories.path(), None);
    let web = Web::file("a file", &[("Last-Modified", "Sat, 02 Mar 2024 10:00:00 GMT")]);
    let registry = need!(Registry::start());
    let attested = Bench::new();
    attested.dockerfile("FROM busybox\n");
    let image = format!("{}/some/attested:1", registry.host);
    attested.build(&["--provenance=mode=max", "-o", &format!("type=image,name={image},push=true")]).ok();
    let bench = bench();
    let url = git.url("/a.git");
    let place = url.split_once("://").unwrap().1;
    page(
        &bench,
        &format!(
            "from busybox\nmeta git://{place}#v1 git.fullurl={url}\nmeta {}\nmeta docker-image://{image}\n",
            web.url("/dir/name.txt")
        ),
    );
    let run = bench.build(&[]).ok();
    let line = run.stderr.lines().find_map(|line| line.split_once("git: ")).unwrap().1;
    let words: Vec<&str> = line.split(' ').collect();
    let [tag, reference, commit] = words[..3] else { panic!("{line}") };
    assert!(tag != commit && reference == "refs/tags/v1" && commit.len() == 40, "{line}");
    assert!(line.contains("| tree ") && line.ends_with(&format!("| object {commit}")), "{line}");
    let digest = "sha512:dcc464582bf2b7c9";
    assert!(run.stderr.contains(&format!("file: name.txt Some(1709373600) Some(\"{digest}")), "{}", run.stderr);
    assert!(run.stderr.contains("attested: https://slsa.dev/provenance/v1"), "{}", run.stderr);
    assert!(run.stderr.contains("chain: 4 documents, 0 signatures"), "{}", run.stderr);
}

// SPEC C2.03, C3.18: one blob of a registry or of a layout that the command line names, as a file.
#[test]
fn c2_03_blobs_for_front_ends() {
    need_run!();
    let registry = need!(Registry::start());
    let bases = need!(support::bases());
    registry.put(&bases.join("busybox"), "some/blobs:1");
    let blob = |digest: &str| bases.join("busybox/blobs").join(digest.replace(':', "/"));
    let json = |path: &Path| serde_json::from_slice::<serde_json::Value>(&std::fs::read(path).unwrap()).unwrap();
    let index = json(&bases.join("busybox/index.json"));
    let manifest = json(&blob(index["manifests"][0]["digest"].as_str().unwrap()));
    let digest = manifest["layers"][0]["digest"].as_str().unwrap();
    let size = std::fs::metadata(blob(digest)).unwrap().len();
    for bench in benches() {
        let file = "http.filename=doc.json http.perm=0644";
        let host = &registry.host;
        let blob = |from: &str| {
            page(&bench, &format!("source {from}@{digest} {file}\nstat /doc.json\n"));
            bench.build(&[])
        };
        let found = format!("found: doc.json 644 {size}\n");
        for from in ["oci-layout+blob://busybox".to_owned(), format!("docker-image+blob://{host}/some/blobs")] {
            let run = blob(&from).ok();
            assert!(run.stderr.contains(&found), "{from}: {}", run.stderr);
        }
        blob("oci-layout+blob://elsewhere").fails(4, &["there is no OCI layout"]);
        page(&bench, &format!("source docker-image+blob://{host}/some/blobs@sha256:{}\nlist . /\n", "0".repeat(64)));
        bench.build(&[]).fails(5, &["failed to find blob sha256:0000"]);
        page(&bench, &format!("source docker-image+blob://{host}/some/blobs:1\nlist . /\n"));
        bench.build(&[]).fails(4, &["expected docker-image+blob://REPOSITORY@DIGEST"]);
    }
}

// SPEC C3.14
#[test]
fn c3_14_it_reads_nothing_but_files_of_its_results() {
    need_run!();
    for bench in benches() {
        let outside = bench.path("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("canary"), "CANARY").unwrap();
        let (out, up) = (outside.display(), "/..".repeat(12));
        for lines in [
            format!("symlink {out}/canary /l\nread X /l\n"),
            format!("symlink {out} /l\nread X /l/canary\n"),
            format!("symlink {up}{out} /l\nlist . /l\n"),
            format!("read X {up}{out}/canary\n"),
            format!("list . {up}{out}\n"),
            "run mkfifo /p\nread X /p\n".into(),
            "run ln -s /dev/zero /z; ln -s /proc/self/environ /e\nread X /e\n".into(),
        ] {
            page(&bench, &format!("from busybox\n{lines}"));
            let run = bench.build(&[]).fails(4, &[]);
            assert!(!run.stderr.contains("CANARY") && !run.stderr.contains("panicked"), "{lines}: {}", run.stderr);
        }
    }
}

// SPEC C3.06
#[test]
fn c3_06_front_ends_that_flood_the_builder_are_stopped() {
    need_run!();
    for bench in benches() {
        page(&bench, "from busybox\n");
        for how in ["calls", "headers"] {
            let how = format!("MISBEHAVE={how}");
            let run = bench.build(&["--build-arg", &how, "--step-timeout", "10m"]).fails(4, &[NAME]);
            assert!(run.stderr.contains("no conversation with a builder any more"), "{how}: {}", run.stderr);
        }
        // What belongs to a call that was answered is thrown away, for as long as nothing is asked.
        bench.build(&["--build-arg", "MISBEHAVE=message", "--step-timeout", "10s"]).fails(4, &[NAME]);
    }
}

// SPEC C3.11, C3.19: the built-in front end, asked by another one.
#[test]
fn c3_11_it_asks_the_built_in_front_end() {
    need_run!();
    let bench = bench();
    bench.file("hello.txt", "hello\n").file("ignored.txt", "");
    bench.file(".dockerignore", "ignored.txt\n");
    bench.file(
        "inner/Dockerfile",
        "# syntax=docker/dockerfile:1\nFROM busybox AS base\nARG WHO\nENV WHO=$WHO\nRUN echo ran for $WHO > /ran\nCOPY . /ctx/\n\
         FROM base AS last\nCOPY --from=mark /made /made\nLABEL a=b\n",
    );
    page(
        &bench,
        "mkfile /made by the other\nmark\ndockerfile inner/Dockerfile build-arg:WHO=me label:x=y\nrun cat /ran /made > /both\n",
    );
    let image = bench.build_image(&[]);
    assert_eq!(image.text("both"), "ran for me\nby the other\n");
    assert!(image.has("ctx/hello.txt") && !image.has("ctx/ignored.txt"));
    let labels = &image.config["config"]["Labels"];
    assert_eq!((labels["a"].as_str(), labels["x"].as_str()), (Some("b"), Some("y")));
    // An input takes the place of the build context, another that of an image; layouts have names, not paths.
    bench.file("second.Dockerfile", format!("FROM {NAME}\nCOPY made /here\n"));
    page(&bench, "mkfile /made again\nmark\ndockerfile second.Dockerfile as=context\n");
    let image = bench.build_image(&[]);
    assert!(image.text("here") == "again\n" && image.has("front-end"));
    // A question, several platforms, a target.
    bench.file("third.Dockerfile", "FROM scratch AS first\nCOPY hello.txt /\nFROM scratch\nCOPY nothing /\n");
    page(
        &bench,
        "dockerfile third.Dockerfile requestid=frontend.targets\n\
         dockerfile third.Dockerfile target=first platform=linux/amd64,linux/arm64\nmkfile /f x\n",
    );
    let run = bench.build(&[]).ok();
    for text in ["answered: TARGET", "several: linux/amd64 linux/arm64", "told: containerimage.config/linux/amd64"] {
        assert!(run.stderr.contains(text), "{text} in {}", run.stderr);
    }
}

// SPEC C3.11, C5.15
#[test]
fn c3_11_the_built_in_front_end_gives_no_more_than_the_build() {
    need_run!();
    let bench = bench();
    bench.file("inner", "FROM busybox\nRUN true\nRUN exit 5\n");
    bench.file("wrong", "FROM busybox\nRNU true\n");
    bench.file("layout", "FROM x\n");
    for (line, code, text) in [
        ("dockerfile inner", 9, "process \"/bin/sh -c exit 5\" did not complete"),
        ("dockerfile inner force-network-mode=host", 4, "network.host is not allowed"),
        ("dockerfile inner memory=1g", 4, "no option memory"),
        ("dockerfile inner frontend.caps=x", 4, "unsupported frontend capability x"),
        ("dockerfile wrong", 4, "wrong:2: "),
        ("dockerfile missing", 4, "failed to read dockerfile: open missing"),
        ("dockerfile layout context:x=oci-layout:///etc", 4, "there is no OCI layout"),
        ("dockerfile layout context:x=input:y", 4, "invalid input y for x"),
        ("dockerfile inner requestid=frontend.nothing", 4, "unsupported request frontend.nothing"),
    ] {
        page(&bench, &format!("{line}\n"));
        bench.build(&[]).fails(code, &[text]);
    }
}

// SPEC C3.16: processes of a front end, in containers of results.
#[test]
fn c3_16_it_runs_programs_in_containers() {
    need_run!();
    for bench in benches() {
        for scene in ["pipe", "codes", "several", "first-ends", "release", "hang-up", "terminal", "refused"] {
            page(&bench, &format!("from busybox\nplay {scene}\nmkfile /f x\n"));
            let run = bench.build(&[]).ok();
            assert!(run.stderr.contains(&format!("played: {scene}")), "{}", run.stderr);
        }
    }
}

// SPEC C3.16, C1.07: what is mounted, and that nothing of it is kept but caches.
#[test]
fn c3_16_containers_have_mounts_secrets_and_hosts() {
    need_run!();
    for bench in benches() {
        page(&bench, "from busybox\nmkfile /f x\nplay mounts\nlist . /\nlist . /bin\n");
        let secret = bench.path("secret");
        std::fs::write(&secret, "s3cr3t\n").unwrap();
        let secret = format!("id=tok,src={}", secret.display());
        let run = bench.build(&["--secret", &secret]);
        if run.stderr.contains("which cannot be kept from a program that runs beside its steps") {
            eprintln!("skipped: front ends and secrets go together nowhere here");
            continue;
        }
        let run = run.ok();
        assert!(!run.stderr.contains("written:") && !run.stderr.contains("s3cr3t"), "{}", run.stderr);
        assert!(run.stderr.contains("cache lines: 1"), "{}", run.stderr);
        assert!(bench.build(&["--secret", &secret]).ok().stderr.contains("cache lines: 2"));
    }
}

// SPEC C3.16
#[test]
fn c3_16_containers_end_with_the_front_end() {
    need_run!();
    for bench in benches() {
        page(&bench, "from busybox\nplay leave\nmkfile /f x\n");
        bench.build(&[]).ok();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            assert!(!line.windows(5).any(|text| text == b"86417"), "{}", String::from_utf8_lossy(&line));
        }
    }
}

// SPEC C1.12, C3.18, C5.15
#[test]
fn c1_12_a_graph_in_a_file_takes_its_place() {
    need_run!();
    let bench = bench();
    page(&bench, "from busybox\nrun echo made > /made\nnest\nrun cat /made /made > /twice\nnest other.llb\n");
    assert_eq!(bench.build_image(&[]).text("twice"), "made\nmade\n");
    // An empty tree is one, too.
    page(&bench, "nest\nmkfile /f x\n");
    assert_eq!(bench.build_image(&[]).top(), ["f"]);
    for (lines, text) in [
        ("from busybox\nhost true\nnest\n", "network.host is not allowed"),
        ("source oci-layout:///etc\nnest\n", "there is no OCI layout"),
        ("from busybox\nnest\nnest\nnest\nnest\nnest\nnest\nnest\nnest\nnest\nnest\n", "more than 8 deep"),
    ] {
        page(&bench, lines);
        bench.build(&[]).fails(4, &[text]);
    }
}

// SPEC A10.25, C3.07
#[test]
fn c3_07_questions_go_to_the_front_end() {
    need_run!();
    let bench = bench();
    page(&bench, "from busybox\n");
    assert_eq!(bench.build(&["--call", "outline"]).ok().stdout, "an answer\n");
    let json = bench.build(&["--call", "targets,format=json"]).ok().stdout;
    assert!(json.contains("\"question\": \"frontend.targets\""), "{json}");
}

// SPEC C3.12, C3.20, S2.02
#[test]
fn c3_20_several_platforms_are_one_run() {
    need_run!();
    let bench = bench();
    page(&bench, "from busybox\nmkfile /f x\n");
    let tar = bench.path("image.tar");
    let dest = format!("type=oci,dest={}", tar.display());
    let run = bench.build(&["--platform", "linux/amd64,linux/arm64", "-o", &dest]).ok();
    assert_eq!(run.count("the front end was asked for as"), 1, "{}", run.stderr);
    for platform in ["linux/amd64", "linux/arm64"] {
        let image = support::image::Image::open_platform(&tar, platform);
        assert_eq!(
            (image.text("f"), format!("linux/{}", image.config["architecture"].as_str().unwrap())),
            ("x\n".into(), platform.into())
        );
    }
}

// SPEC C3.01, C3.22, S2.06
#[test]
fn c3_22_who_may_read_the_file_can_be_said() {
    let bench = Bench::new();
    bench.dockerfile("# syntax=docker/dockerfile:1\nFROM scratch\nCOPY Dockerfile /\n");
    bench.build(&[]).ok();
    bench.build(&["--frontend", "builtin"]).ok();
    bench.build(&["--frontend", "builtin", "--frontend-opt", "a=b"]).fails(2, &["--frontend-opt a"]);
    bench.build(&["--frontend", "imgae"]).fails(2, &["did you mean image?"]);
    bench.dockerfile("# syntax=127.0.0.1:9/x/y:1\nFROM scratch\nCOPY Dockerfile /\n");
    bench
        .build(&["--frontend", "builtin"])
        .fails(4, &["'127.0.0.1:9/x/y:1' of the syntax directive is not an allowed gateway source"]);
    bench.build(&["--build-arg", "BUILDKIT_SYNTAX=dockerfile.v0"]).ok();
    bench.build(&["--build-arg", "BUILDKIT_SYNTAX="]).fails(2, &["no source specified for gateway"]);
}

// SPEC C3.02, S2.02, S2.04
#[test]
fn c3_02_it_comes_from_a_registry_by_tag_or_digest() {
    need_run!();
    let registry = need!(Registry::start());
    let mut bench = bench();
    let name = format!("{}/team/lines:1", registry.host);
    bench.dockerfile(&format!("FROM {NAME}\n"));
    bench.build(&["-t", &name, "--push"]).ok();
    bench.args.truncate(bench.args.len() - 2);
    bench.dockerfile(&format!("# syntax={name}\nfrom busybox\nmkfile /f x\n"));
    assert_eq!(bench.build_image(&[]).text("f"), "x\n");
    let accept = "Accept: application/vnd.oci.image.manifest.v1+json\r\n";
    let answer = registry.request("HEAD", "/v2/team/lines/manifests/1", accept);
    let digest = answer.lines().find_map(|line| line.strip_prefix("Docker-Content-Digest: ")).unwrap().trim();
    let pinned = format!("{}/team/lines@{digest}", registry.host);
    bench.dockerfile("from busybox\nmkfile /f y\n");
    assert_eq!(bench.build_image(&["--build-arg", &format!("BUILDKIT_SYNTAX={pinned}")]).text("f"), "y\n");
}

// SPEC C1.07, C1.13
#[test]
fn c1_13_trees_are_merged_and_compared_and_mounts_are_results() {
    need_run!();
    let bench = bench();
    page(&bench, "mkfile /a 1\nmkfile /b 1\nmark\nscratch\nmkfile /b 2\nmkfile /c 2\nmerge\n");
    let image = bench.build_image(&[]);
    assert_eq!(["a", "b", "c"].map(|name| image.text(name)), ["1\n", "2\n", "2\n"]);
    // Above a base nothing has to be compared.
    page(&bench, "from busybox\nmark\nmkfile /new x\ndiff\n");
    assert_eq!(bench.build_image(&[]).top(), ["new"]);
    // Of two trees that have nothing in common everything has.
    page(&bench, "mkfile /same 1\nmkfile /gone 1\nmark\nscratch\nmkfile /same 22\nmkfile /more 2\ndiff\n");
    let image = bench.build_image(&[]);
    assert_eq!((image.layers.len(), image.top()), (1, vec![".wh.gone".into(), "more".into(), "same".into()]));
    page(&bench, "from busybox\ninto /out echo made > /out/f; echo lost > /elsewhere\n");
    let image = bench.build_image(&[]);
    assert_eq!((image.top(), image.layers.len(), image.text("f")), (vec!["f".into()], 1, "made\n".into()));
}

// SPEC C3.12, C8.04
#[test]
fn c3_12_what_it_attests_is_beside_the_image() {
    need_run!();
    let bench = bench();
    page(&bench, "mkfile /p.json {\"k\":\"v\"}\nattest /p.json https://example.com/p\n");
    let tar = bench.path("image.tar");
    bench.build(&["-o", &format!("type=oci,dest={}", tar.display())]).ok();
    let files = support::image::tar_files(&tar);
    let statement = files.values().filter_map(|bytes| serde_json::from_slice::<serde_json::Value>(bytes).ok());
    let found = statement.into_iter().find(|value| value["predicateType"] == "https://example.com/p");
    assert_eq!(found.expect("a statement")["predicate"]["k"], "v");
    page(&bench, "mkfile /p.json no\nattest /p.json https://example.com/p\n");
    bench
        .build(&["-o", &format!("type=oci,dest={}", tar.display())])
        .fails(4, &["the front end attests p.json: no JSON"]);
}

// SPEC C8.01, C8.09
#[test]
fn c8_09_provenance_names_the_front_end() {
    need_run!();
    let bench = bench();
    page(&bench, "mkfile /f x\n");
    let metadata = bench.path("metadata.json");
    bench
        .build(&[
            "--metadata-file",
            metadata.to_str().unwrap(),
            "--provenance",
            "mode=max",
            "-o",
            &format!("type=oci,dest={}", bench.path("i.tar").display()),
        ])
        .ok();
    let told = std::fs::read_to_string(metadata).unwrap();
    assert!(told.contains("\"frontend\": \"gateway.v0\"") && told.contains("example.com/lines"), "{told}");
}

/// Copies /f of a tree to /g of an empty one.
fn copy_of_f(from: &rbuild::llb::Edge) -> rbuild::llb::op::Op {
    use rbuild::llb::op::{FileAction, FileActionCopy, FileActionKind, FileOp, Kind, Op};
    let copy =
        FileActionCopy { src: "/f".into(), dest: "/g".into(), mode: -1, timestamp: -1, ..FileActionCopy::default() };
    let action = FileAction { input: -1, secondary_input: 0, output: 0, action: Some(FileActionKind::Copy(copy)) };
    let kind = Some(Kind::File(FileOp { actions: vec![action] }));
    Op { inputs: vec![rbuild::llb::Builder::input(from)], kind, ..Op::default() }
}

// SPEC C1.01, C1.16, S2.22
#[test]
fn c1_01_a_definition_on_standard_input_is_built() {
    use prost::Message as _;
    use rbuild::llb::op::{Kind, Op, OpMetadata, SourceOp};
    use rbuild::llb::{Builder, Edge};
    let bench = Bench::new();
    bench.file("f", "x\n").file("ignored", "");
    let source = |name: &str| SourceOp { identifier: format!("local://{name}"), ..SourceOp::default() };
    let graph = |name: &str| {
        let mut builder = Builder::default();
        let op = Op { kind: Some(Kind::Source(source(name))), ..Op::default() };
        let context: Edge = builder.add(&op, OpMetadata::default(), &[]);
        let copied = builder.add(&copy_of_f(&context), OpMetadata::named("copy f"), &[]);
        builder.finish(Some(&copied)).pb.encode_to_vec()
    };
    let tar = bench.path("image.tar");
    let dest = format!("type=oci,dest={}", tar.display());
    bench.build_stdin(&["--frontend", "llb", "-o", &dest], &graph("context")).ok();
    let image = support::image::Image::open_tar(&tar);
    assert_eq!(
        (image.text("g"), image.top(), image.config["os"].as_str()),
        ("x\n".into(), vec!["g".into()], Some("linux"))
    );
    bench.build_stdin(&["--frontend", "llb"], &graph("other")).fails(2, &["there is no local context named \"other\""]);
    bench.build_stdin(&["--frontend", "llb"], b"\xff\xff").fails(4, &["what is on standard input is no definition"]);
    bench.build_stdin(&["--frontend", "llb"], b"").ok();
    bench.build(&["--frontend", "llb", "--target", "x"]).fails(2, &["--target means nothing"]);
    // As buildctl has it, with a directory of its own.
    let local = format!("src={}", bench.ctx().display());
    let mut command = bench.command(["buildctl", "build", "--local", &local, "--output", &dest]);
    let mut child = command.stdin(std::process::Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), &graph("src")).unwrap();
    support::finish(child.wait_with_output().unwrap()).ok();
    assert_eq!(support::image::Image::open_tar(&tar).text("g"), "x\n");
    // And shown, for who writes a front end (SPEC C1.16).
    std::fs::write(bench.path("graph"), graph("src")).unwrap();
    let file = bench.path("graph").display().to_string();
    let shown = support::finish(bench.command(["buildctl", "debug", "dump-llb", &file]).output().unwrap()).ok();
    assert!(
        shown.stdout.lines().count() == 3 && shown.stdout.contains(r#"{"identifier":"local://src"}"#),
        "{}",
        shown.stdout
    );
    let drawn = support::finish(bench.command(["llb", "--dot", &file]).output().unwrap()).ok();
    assert!(drawn.stdout.contains(r#"[label="copy{src=/f, dest=/g}" shape="note"];"#), "{}", drawn.stdout);
    std::fs::write(bench.path("graph"), b"\xff\xff").unwrap();
    support::finish(bench.command(["llb", &file]).output().unwrap()).fails(4, &["cannot show", "graph"]);
    support::finish(bench.command(["llb", "/nowhere"]).output().unwrap()).fails(2, &["cannot open /nowhere"]);
}

// SPEC C1.14: a passthrough hands on the inputs that it names.
#[test]
fn c1_14_a_passthrough_hands_on_what_it_names() {
    use prost::Message as _;
    use rbuild::llb::op::{Kind, Op, OpMetadata, PassthroughOp, SourceOp};
    use rbuild::llb::{Builder, Edge};
    let bench = Bench::new();
    bench.file("f", "of the context").file("other/f", "of the other");
    let graph = |outputs: Vec<i64>| {
        let mut builder = Builder::default();
        let mut source = |name: &str| -> Edge {
            let source = SourceOp { identifier: format!("local://{name}"), ..SourceOp::default() };
            builder.add(&Op { kind: Some(Kind::Source(source)), ..Op::default() }, OpMetadata::default(), &[])
        };
        let (context, other) = (source("context"), source("other"));
        let inputs = vec![Builder::input(&context), Builder::input(&other)];
        let kind = Some(Kind::Passthrough(PassthroughOp { id: "pair".into(), outputs }));
        let pair = builder.add(&Op { inputs, kind, ..Op::default() }, OpMetadata::named("both"), &[]);
        let copied = builder.add(&copy_of_f(&pair), OpMetadata::named("keep one"), &[]);
        builder.finish(Some(&copied)).pb.encode_to_vec()
    };
    let other = format!("other={}", bench.ctx().join("other").display());
    let tar = bench.path("image.tar");
    let dest = format!("type=oci,dest={}", tar.display());
    let args = ["--frontend", "llb", "--build-context", &other, "-o", &dest];
    for (outputs, text) in [(vec![0], "of the context"), (vec![1, 0], "of the other")] {
        bench.build_stdin(&args, &graph(outputs)).ok();
        assert_eq!(support::image::Image::open_tar(&tar).text("g"), text);
    }
    bench.build_stdin(&args, &graph(vec![2])).fails(4, &["PassthroughOp: there is no input 2"]);
}
