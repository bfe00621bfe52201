//! Build contexts and Dockerfiles that are not directories of this machine (SPEC B1.02–B1.07).
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stderr, reason = "skip reasons are collected by scripts/test")]
#![allow(missing_docs, unreachable_pub, reason = "a test program")]

mod support;

use std::io::Write as _;
use std::process::{Command, Stdio};

use support::git::{COMMIT_TIME, Repositories};
use support::registry::Registry;
use support::web::{Answer, Web};
use support::{Bench, Run, image};

const MODIFIED: &str = "Sat, 02 Mar 2024 10:00:00 GMT";
const MODIFIED_SECONDS: u64 = 1_709_373_600;
/// Time of the newest entry of [`archive`].
const NEWEST: u64 = 1_600_000_000;

/// A tar with a Dockerfile, a file, and an ignore file that must not count.
fn archive() -> Vec<u8> {
    tar_of(&[
        ("Dockerfile", "FROM scratch\nCOPY . /\nCOPY --chown=9 file /owned\n", NEWEST - 10),
        (".dockerignore", "file\n", 5),
        ("other/Dockerfile", "FROM scratch\nCOPY file /other\n", 5),
        ("file", "from the archive", NEWEST),
    ])
}

fn tar_of(files: &[(&str, &str, u64)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, text, time) in files {
        let mut header = tar::Header::new_gnu();
        // Set by hand: the writer refuses hostile names.
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(*time);
        header.set_cksum();
        tar.append(&header, text.as_bytes()).unwrap();
    }
    tar.into_inner().unwrap()
}

/// The archive as a program compresses it; `None` where there is no such program.
fn compressed(program: &str, bytes: &[u8]) -> Option<Vec<u8>> {
    let child = Command::new(program).arg("-c").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = child.ok()?;
    let mut input = child.stdin.take().unwrap();
    let bytes = bytes.to_vec();
    let writer = std::thread::spawn(move || input.write_all(&bytes));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    Some(output.stdout)
}

/// Runs `rbuild build ARGS` with something on standard input, in the directory `out`.
fn build(bench: &Bench, args: &[&str], input: &[u8]) -> Run {
    let mut all: Vec<String> = vec!["build".into(), "--progress".into(), "plain".into()];
    all.extend(bench.args.iter().cloned());
    all.extend(args.iter().map(|a| (*a).to_owned()));
    let mut child = bench.command(all).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // Whoever refuses the input does not read it.
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let run = support::finish(child.wait_with_output().unwrap());
    writer.join().unwrap();
    run
}

#[track_caller]
fn build_image(bench: &Bench, args: &[&str], input: &[u8]) -> image::Image {
    let tar = bench.path("image.tar");
    let dest = format!("type=oci,dest={}", tar.display());
    build(bench, &[&["-o", dest.as_str()], args].concat(), input).ok();
    image::Image::open_tar(&tar)
}

#[test]
fn b1_02_archives_on_standard_input() {
    let bench = Bench::new();
    let plain = archive();
    let mut forms = vec![("tar", plain.clone())];
    for program in ["gzip", "bzip2", "xz", "zstd"] {
        forms.extend(compressed(program, &plain).map(|bytes| (program, bytes)));
    }
    for (form, bytes) in forms {
        let image = build_image(&bench, &["-"], &bytes);
        assert_eq!(image.text("file"), "from the archive", "{form}");
        assert_eq!(image.node("owned").uid, 9, "{form}");
        assert!(image.has(".dockerignore"), "ignore files count for directories only (A9.01)");
    }
    let image = build_image(&bench, &["-f", "other/Dockerfile", "-"], &plain);
    assert_eq!(image.text("other"), "from the archive");
    let again = build(&bench, &["-"], &plain).ok();
    assert_eq!(again.count("CACHED"), 3, "the unpacking and two copies\n{}", again.stderr);
}

#[test]
fn b1_02_a_dockerfile_on_standard_input() {
    let bench = Bench::new();
    let image = build_image(&bench, &["-"], b"FROM scratch\nCOPY <<E /hello\nhi\nE\n");
    assert_eq!(image.text("hello"), "hi\n");
    build(&bench, &["-"], b"FROM scratch\nCOPY x /\n").fails(4, &["the build context is empty", "-f -"]);
    for (args, error) in [
        (vec!["-f", "-", "-"], "invalid argument: can't use stdin for both build context and dockerfile"),
        (vec!["-f", "x", "-"], "ambiguous Dockerfile source: both stdin and flag correspond to Dockerfiles"),
    ] {
        build(&bench, &args, b"FROM scratch\n").fails(2, &[error]);
    }
    let no_dockerfile = tar_of(&[("file", "x", 0)]);
    let error = "failed to read dockerfile: open Dockerfile: no such file or directory";
    build(&bench, &["-"], &no_dockerfile).fails(4, &[error]);
    build(&bench, &["-"], &archive()[..700]).fails(4, &[]);
}

// SPEC B1.02
#[test]
fn an_archive_that_wants_to_escape_stays_inside() {
    let bench = Bench::new();
    let hostile = tar_of(&[
        ("Dockerfile", "FROM scratch\nCOPY . /\n", 0),
        ("../../escaped", "x", 0),
        ("/tmp/rbuild-escaped", "x", 0),
    ]);
    let run = build(&bench, &["-"], &hostile);
    assert!([0, 4].contains(&run.code), "{}", run.stderr);
    assert!(!bench.path("escaped").exists() && !std::path::Path::new("/tmp/rbuild-escaped").exists());
    // The Dockerfile is a link out of the context.
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    tar.append_link(&mut header, "Dockerfile", "/etc/passwd").unwrap();
    build(&bench, &["-"], &tar.into_inner().unwrap()).fails(4, &["failed to read dockerfile"]);
}

// SPEC B1.03, B1.07, A7.02
#[test]
fn b1_03_a_repository_as_context() {
    let repositories = Repositories::new();
    let repository = repositories.create("a.git", &[]);
    repository.file("Dockerfile", "FROM scratch\nCOPY . /all/\n").file("file", "one").file(".dockerignore", "file\n");
    repository.file("other", "FROM scratch\nCOPY file /from-other\n");
    repository.file("sub/dockerfile", "FROM scratch\nCOPY inner /\n").file("sub/inner", "inner");
    repository.commit("first");
    repository.git(&["tag", "v1"]);
    repository.file("file", "two").commit("second");
    let web = Web::git(repositories.path(), None);
    let mut bench = Bench::new();
    let url = web.url("/a.git");
    let image = build_image(&bench, &[&url], b"");
    assert_eq!((image.text("all/file").as_str(), image.has("all/.git")), ("two", false));
    web.forget();
    let again = build(&bench, &[&url], b"").ok();
    assert_eq!(again.count("CACHED"), 1, "{}", again.stderr);
    assert!(web.asked().len() <= 2, "{:?}", web.asked());
    assert_eq!(build_image(&bench, &[&format!("{url}#v1")], b"").text("all/file"), "one");
    let sub = format!("{url}#v1:sub");
    assert_eq!(build_image(&bench, &[&sub], b"").top(), ["inner"], "the Dockerfile of the subdir, in lower case");
    assert_eq!(build_image(&bench, &["-f", "other", &url], b"").text("from-other"), "two");
    let given = b"FROM scratch\nCOPY sub/inner /from-stdin\n";
    assert_eq!(build_image(&bench, &["-f", "-", &url], given).text("from-stdin"), "inner");
    bench.file("local", "FROM scratch\nCOPY file /from-absolute\n");
    let absolute = bench.ctx().join("local").display().to_string();
    assert_eq!(build_image(&bench, &["-f", &absolute, &url], b"").text("from-absolute"), "two");
    let keep = build_image(&bench, &["--build-arg", "BUILDKIT_CONTEXT_KEEP_GIT_DIR=1", &url], b"");
    assert!(keep.has("all/.git/HEAD"));
    build(&bench, &[&format!("{url}#nowhere")], b"").fails(4, &["does not contain ref nowhere"]);
    build(&bench, &[&format!("{url}?foo=1")], b"").fails(2, &["unable to prepare context", "unexpected query \"foo\""]);
    build(&bench, &["-f", "missing", &url], b"").fails(4, &["failed to read dockerfile: open missing"]);
    repository.file("Dockerfile", "FROM scratch\nRUNN x\n").commit("broken");
    build(&bench, &[&url], b"").fails(4, &["Dockerfile:2", ">>> RUNN x"]);
    bench.env.push(("GIT_DIR".into(), "/nowhere".into()));
    build(&bench, &[&format!("{url}#v1")], b"").ok();
}

// SPEC B1.04
#[test]
fn b1_04_archives_and_dockerfiles_of_servers() {
    let web = Web::start(|request| match request.path() {
        "/ctx.tar.gz" => Answer::new(200)
            .with_body("application/gzip", compressed("gzip", &archive()).unwrap())
            .with("ETag", "\"a\""),
        "/Dockerfile" => {
            Answer::new(200).with_body("text/plain", b"FROM scratch\nCOPY context /me\n".to_vec()).with("ETag", "\"b\"")
        }
        _ => Answer::new(404),
    });
    let bench = Bench::new();
    let image = build_image(&bench, &[&web.url("/ctx.tar.gz")], b"");
    assert_eq!(image.text("file"), "from the archive");
    assert_eq!(image.node("file").mtime, NEWEST);
    web.forget();
    let again = build(&bench, &[&web.url("/ctx.tar.gz")], b"").ok();
    assert_eq!(again.count("CACHED"), 3, "the unpacking and two copies\n{}", again.stderr);
    let url = web.url("/Dockerfile");
    assert_eq!(build_image(&bench, &[&url], b"").text("me"), "FROM scratch\nCOPY context /me\n");
    let named = build_image(&bench, &["-f", "other.Dockerfile", &url], b"");
    assert!(named.has("me"), "there is one file, and a name for it changes nothing");
    build(&bench, &[&web.url("/missing")], b"").fails(5, &["invalid response status 404"]);
    // SPEC B1.05: a Dockerfile from a server for a directory.
    bench.file("context", "of the directory");
    let dir = bench.ctx().display().to_string();
    assert_eq!(build_image(&bench, &["-f", &url, &dir], b"").text("me"), "of the directory");
}

// SPEC B1.05
#[test]
fn b1_05_where_the_dockerfile_is() {
    let bench = Bench::new();
    bench.file("a", "x").file("dockerfile", "FROM scratch\nCOPY a /lower\n");
    let dir = bench.ctx().display().to_string();
    assert!(build_image(&bench, &[&dir], b"").has("lower"));
    std::fs::write(bench.path("out/Outside"), "FROM scratch\nCOPY a /outside\n").unwrap();
    assert!(build_image(&bench, &["-f", "Outside", &dir], b"").has("outside"), "relative to the current directory");
    std::fs::write(bench.path("out/Outside.dockerignore"), "a\n").unwrap();
    build(&bench, &["-f", "Outside", &dir], b"").fails(4, &["excluded by Outside.dockerignore line 1"]);
    assert!(build_image(&bench, &["-f", "-", &dir], b"FROM scratch\nCOPY a /piped\n").has("piped"));
}

// SPEC B1.06
#[test]
fn b1_06_repositories_and_files_as_named_contexts() {
    let repositories = Repositories::new();
    let repository = repositories.create("n.git", &[]);
    repository.file("sub/file", "named").commit("first");
    let git = Web::git(repositories.path(), None);
    let web = Web::file("a file", &[]);
    let bench = Bench::new();
    bench
        .dockerfile("FROM scratch\nCOPY --from=repo /sub/file /g\nCOPY --from=file / /f/\nCOPY --from=base /file /b\n");
    let contexts = [
        format!("repo={}", git.url("/n.git#main")),
        format!("file={}", web.url("/x.tar.gz")),
        format!("base={}", git.url("/n.git?subdir=sub")),
    ];
    let mut args = Vec::new();
    for context in &contexts {
        args.extend(["--build-context", context.as_str()]);
    }
    let image = bench.build_image(&args);
    assert_eq!(
        (image.text("g").as_str(), image.text("f/context").as_str(), image.text("b").as_str()),
        ("named", "a file", "named")
    );
    for (value, error) in [
        ("x", "invalid context value: x, expected key=value"),
        ("x=https://h.example/a.git?foo=1", "unexpected query \"foo\""),
        ("x=/nowhere/at/all", "failed to find local context x"),
    ] {
        bench.build(&["--build-context", value]).fails(2, &[error]);
    }
}

// SPEC B6.02: what a named context is made of is called as BuildKit calls it, whatever it is.
#[test]
fn b6_02_named_contexts_have_names_in_progress() {
    let bases = need!(support::bases());
    let registry = need!(Registry::start());
    registry.put(&bases.join("busybox"), "hub/app:1");
    let host = &registry.host;
    let index: serde_json::Value =
        serde_json::from_slice(&std::fs::read(bases.join("busybox/index.json")).unwrap()).unwrap();
    let root = index["manifests"][0]["digest"].as_str().unwrap();
    let repositories = Repositories::new();
    let repository = repositories.create("n.git", &[]);
    repository.file("sub/g", "named").commit("first");
    let git = Web::git(repositories.path(), None);
    let (repo, web) = (git.url("/n.git#main:sub"), Web::file("a file", &[]));
    let bench = Bench::new();
    bench.file("dir/f", "x").file("dir/.dockerignore", "*.md\n").dockerfile(
        "FROM scratch\nCOPY --from=hub/img:2 /bin/busybox /1\nCOPY --from=lay /bin/busybox /2\nCOPY --from=dir f /3\n\
         COPY --from=repo g /4\nCOPY --from=file context /5\n",
    );
    let contexts = [
        format!("docker.io/hub/img:2=docker-image://{host}/hub/app:1"),
        format!("lay=oci-layout://{}", bases.join("busybox").display()),
        format!("dir={}", bench.ctx().join("dir").display()),
        format!("repo={repo}"),
        format!("file={}", web.url("/x.txt")),
    ];
    let mut args = Vec::new();
    for context in &contexts {
        args.extend(["--build-context", context.as_str()]);
    }
    let run = bench.build(&args).ok();
    for line in [
        "[internal] load .dockerignore".to_owned(),
        format!("[context hub/img:2] load metadata for {host}/hub/app:1"),
        format!("[context hub/img:2] {host}/hub/app:1"),
        format!("[context lay] load metadata for docker.io/library/lay@{root}"),
        "[context lay] OCI load from client".to_owned(),
        "[context dir] load .dockerignore".to_owned(),
        "[context dir] load from client".to_owned(),
        format!("[internal] load git source {repo}"),
        format!("[context file] {}", web.url("/x.txt")),
    ] {
        let found = run.stderr.lines().any(|own| own.split_once(' ').is_some_and(|(_, name)| name == line));
        assert!(found, "{line}:\n{}", run.stderr);
    }
    assert!(run.stderr.contains("transferring dir: 5B done"), "{}", run.stderr);
    assert!(!run.stderr.contains("[internal] load metadata"), "{}", run.stderr);
    // Of one that is not there it is told which context wanted it.
    bench.dockerfile("FROM hub/img:2\n");
    let missing = format!("hub/img:2=docker-image://{host}/hub/none:1");
    let name = format!("[context hub/img:2] load metadata for {host}/hub/none:1");
    bench.build(&["--build-context", &missing]).fails(5, &[&name, "ERROR: "]);
}

// SPEC B1.06
#[test]
fn b1_06_a_named_context_stands_in_for_an_image_with_a_tag_in_capitals() {
    let bench = Bench::new();
    bench.file("in/f", "x").dockerfile(
        "FROM scratch\nCOPY --from=example/store:RELEASE.2022-05-03T20-36-08Z /f /a\nCOPY --from=other /f /b\n",
    );
    let dir = bench.ctx().join("in").display().to_string();
    let image = bench.build_image(&[
        "--build-context",
        &format!("docker.io/example/store:RELEASE.2022-05-03T20-36-08Z={dir}"),
        "--build-context",
        &format!("Other={dir}"),
    ]);
    assert!(image.has("a") && image.has("b"));
}

// SPEC A4.18
#[test]
fn a4_18_times_from_contexts_and_stages() {
    let created = |image: &image::Image| image.config["created"].as_str().unwrap().to_owned();
    let repositories = Repositories::new();
    let repository = repositories.create("t.git", &[]);
    repository.file("Dockerfile", "FROM scratch\nCOPY file /\n").file("file", "x").commit("first");
    let git = Web::git(repositories.path(), None);
    let web = Web::start(|request| match request.path() {
        "/ctx.tar" => Answer::new(200).with_body("application/x-tar", archive()).with("Last-Modified", MODIFIED),
        _ => Answer::new(200).with_body("text/plain", b"x".to_vec()).with("Last-Modified", MODIFIED),
    });
    let bench = Bench::new();
    let time = |seconds: u64| {
        let stamp = i64::try_from(seconds).unwrap();
        jiff::Timestamp::from_second(stamp).unwrap().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    };
    let from_context = ["--build-arg", "SOURCE_DATE_EPOCH=context"];
    let url = git.url("/t.git");
    let image = build_image(&bench, &[&from_context[..], &[&url]].concat(), b"");
    assert_eq!(created(&image), time(COMMIT_TIME));
    assert_eq!(image.node("file").mtime, COMMIT_TIME, "files have the time of the commit");
    let url = web.url("/ctx.tar");
    let image = build_image(&bench, &[&from_context[..], &[&url]].concat(), b"");
    assert_eq!(created(&image), time(MODIFIED_SECONDS));
    let image = build_image(&bench, &[&from_context[..], &["-"]].concat(), &archive());
    assert_eq!(created(&image), time(NEWEST));
    bench.dockerfile(&format!(
        "ARG SOURCE_DATE_EPOCH\nFROM scratch AS time\nARG NAME=f\nADD {}/$NAME /\nFROM scratch\nARG SOURCE_DATE_EPOCH\nCOPY Dockerfile /\nENV E=$SOURCE_DATE_EPOCH\n",
        web.url("")
    ));
    let image = bench.build_image(&["--build-arg", "SOURCE_DATE_EPOCH=time"]);
    assert_eq!(created(&image), time(MODIFIED_SECONDS));
    assert!(image.config["config"]["Env"].to_string().contains(&format!("E={MODIFIED_SECONDS}")), "{}", image.config);
    let context = format!("n={}", git.url("/t.git"));
    let image = bench.build_image(&["--build-arg", "SOURCE_DATE_EPOCH=n", "--build-context", &context]);
    assert_eq!(created(&image), time(COMMIT_TIME));
    // A directory has no time of its own.
    let image = bench.build_image(&from_context);
    assert_ne!(created(&image), time(COMMIT_TIME));
    assert!(image.config["config"]["Env"].to_string().contains("\"E=\""), "{}", image.config);
    bench.build(&["--build-arg", "SOURCE_DATE_EPOCH=nonsense"]).fails(2, &["invalid SOURCE_DATE_EPOCH: nonsense"]);
    bench.dockerfile("FROM scratch AS two\nADD http://h/a http://h/b /x/\n");
    bench.build(&["--build-arg", "SOURCE_DATE_EPOCH=two"]).fails(2, &["invalid SOURCE_DATE_EPOCH: two", "hint:"]);
}
