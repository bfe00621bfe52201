//! What podman's and buildah's users say and have that docker's have not (SPEC D3).
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stderr, reason = "skip reasons are collected by scripts/test")]
#![allow(missing_docs, unreachable_pub, reason = "a test program")]

#[path = "support/fake_registry/mod.rs"]
mod fake_registry;
mod support;

use fake_registry::{Auth, FakeRegistry};
use support::Bench;
use support::image::Image;

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

/// `rbuild buildah bud FLAGS CONTEXT` with the local bases.
fn bud_command(bench: &Bench, args: &[&str]) -> std::process::Command {
    let mut all = vec!["buildah".to_owned(), "bud".to_owned()];
    all.extend(bench.args.iter().cloned());
    all.extend(args.iter().map(|arg| (*arg).to_owned()));
    all.push(bench.ctx().display().to_string());
    let mut command = bench.command(all);
    if !bench.env.iter().any(|(name, _)| name == "CONTAINERS_CONF") {
        // What this machine's says is no matter of the tests.
        command.env("CONTAINERS_CONF", "/dev/null");
    }
    command
}

fn bud(bench: &Bench, args: &[&str]) -> support::Run {
    support::finish(bud_command(bench, args).output().unwrap())
}

/// Builds to an archive, as `-t oci-archive:` says.
#[track_caller]
fn bud_image(bench: &Bench, args: &[&str]) -> Image {
    let tar = bench.path("bud.tar");
    let place = format!("oci-archive:{}", tar.display());
    bud(bench, &[&["-t", &place], args].concat()).ok();
    Image::open_tar(&tar)
}

fn labels(image: &Image) -> &serde_json::Value {
    &image.config["config"]["Labels"]
}

// SPEC D3.31, D3.32, D3.35
#[test]
fn d3_31_the_id_is_told_as_buildah_tells_it() {
    let bench = Bench::new();
    bench.file("f", "x").file("Containerfile", "FROM scratch\nCOPY f /\n");
    let [iid, raw, log] = ["iid", "raw", "log"].map(|name| bench.path(name).display().to_string());
    let run = bud(&bench, &["-t", "app", "--iidfile", &iid, "--iidfile-raw", &raw]).ok();
    let id = run.stdout.trim().to_owned();
    assert!(id.len() == 64 && run.stderr.contains("COPY f /"), "{}", run.stdout);
    assert_eq!(std::fs::read_to_string(&iid).unwrap(), format!("sha256:{id}"));
    assert_eq!(std::fs::read_to_string(&raw).unwrap(), id);
    // A short name is the store's under both of its forms, so that either can be built upon.
    let names = bench.rbuild(&["images"]).ok().stdout;
    assert!(names.contains("localhost/app") && names.lines().any(|line| line.starts_with("app ")), "{names}");
    bench.file("Containerfile", "FROM localhost/app\nFROM app\nCOPY --from=0 f /g\n");
    assert_eq!(bud_image(&bench, &[]).tree().into_keys().collect::<Vec<_>>(), ["f", "g"]);
    let quiet = bud(&bench, &["-q", "--logfile", &log]).ok();
    assert_eq!((quiet.stdout.as_str(), quiet.stderr.as_str()), ("", ""));
    assert_eq!(std::fs::read_to_string(&log).unwrap().trim().len(), 64);
    // Without a name it is there under its ID.
    let id = bud(&bench, &["-q"]).ok().stdout;
    bench.rbuild(&["inspect", &id.trim()[..12]]).ok();
}

// SPEC D3.35, D3.22
#[test]
fn d3_35_images_go_to_layouts_archives_and_other_formats() {
    let bench = Bench::new();
    bench.file("f", "x").file("Containerfile", "FROM scratch\nCOPY f /\nHEALTHCHECK CMD true\n");
    let out = bench.path("out");
    let place = |kind: &str, name: &str| format!("{kind}:{}", out.join(name).display());
    let [oci, docker] = [place("oci", "d:v1"), place("docker-archive", "a.tar:r.example/app:2")];
    let mut command = bud_command(&bench, &["-t", &oci, "-t", &docker]);
    support::finish(command.output().unwrap()).ok();
    let layout = Image::open_dir(&out.join("d"));
    assert_eq!(layout.top(), ["f"]);
    assert_eq!(layout.index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"], "v1");
    let manifest = support::image::tar_files(&out.join("a.tar"))["manifest.json"].clone();
    assert!(String::from_utf8(manifest).unwrap().contains("r.example/app:2"));
    // What podman needs docker's format for is in both.
    assert_eq!(layout.config["config"]["Healthcheck"]["Test"][1], "true");
    for (flags, kind) in [(&[][..], "application/vnd.oci.image.manifest"), (&["--format", "docker"], "vnd.docker")] {
        bud(&bench, &[flags, &["-t", "app"]].concat()).ok();
        let text = bench.rbuild(&["inspect", "app"]).ok().stdout;
        assert!(text.contains(kind) && text.contains("Healthcheck"), "{text}");
    }
}

// SPEC D3.14
#[test]
fn d3_14_containerfiles_are_found_joined_and_preprocessed() {
    let bench = Bench::new();
    bench.dockerfile("FROM scratch\nLABEL from=docker\n").file("Containerfile", "FROM scratch\nLABEL from=podman\n");
    assert_eq!(labels(&bud_image(&bench, &[]))["from"], "podman");
    // In the context if it is not here.
    bench.file("sub/Dockerfile", "FROM scratch\nARG A=1\nLABEL from=sub").file("more", "LABEL a=$A\n");
    for files in [&["-f", "sub/Dockerfile", "-f", "more"][..], &["-f", "sub/Dockerfile,more"]] {
        assert_eq!(labels(&bud_image(&bench, files)), &serde_json::json!({"from": "sub", "a": "1"}));
    }
    bud(&bench, &["-f", "sub"]).fails(125, &["--file sub: it cannot be a path to a directory"]);
    bud(&bench, &["-f", "missing"]).fails(125, &["missing: no such file"]);
    if std::process::Command::new("cpp").arg("--version").output().is_err() {
        skip!("no cpp");
    }
    bench.file("Containerfile.in", "#include \"rest\"\n#ifdef WITH\nLABEL with=WITH\n#endif\nLABEL x=\"it's\"\n");
    bench.file("rest", "FROM scratch\n");
    let image = bud_image(&bench, &["-f", "Containerfile.in", "--cpp-flag=-DWITH=flag"]);
    assert_eq!(labels(&image), &serde_json::json!({"with": "flag", "x": "it's"}));
    let mut command = bud_command(&bench, &["-f", "Containerfile.in", "-t", "x"]);
    let run = support::finish(command.env("BUILDAH_CPPFLAGS", "-DWITH=a -UWITH").output().unwrap()).ok();
    assert!(!run.stderr.contains("BUILDAH_CPPFLAGS"), "{}", run.stderr);
    // What it does not understand is said; it may be a comment. Without a part of the file there is no build.
    bench.file("odd.in", "FROM scratch\n#This is no directive\nLABEL a=b\n");
    let run = bud(&bench, &["-f", "odd.in", "-t", "x"]).ok();
    assert!(run.stderr.contains("ignoring what cpp says of") && run.stderr.contains("#This"), "{}", run.stderr);
    bench.file("bad.in", "FROM scratch\n#include \"missing\"\n");
    bud(&bench, &["-f", "bad.in"]).fails(125, &["cannot preprocess", "missing: No such file"]);
    // Nobody else's file is.
    let file = bench.ctx().join("Containerfile.in").display().to_string();
    let run = bench.build(&["--call=check", "-f", &file]).fails(1, &[]);
    assert!(run.stdout.contains("no build stage"), "{}", run.stdout);
}

// SPEC D3.13
#[test]
fn d3_13_buildah_reads_containerignore_first() {
    let bench = Bench::new();
    bench.file("Containerfile", "FROM scratch\nCOPY a* b* c* /\n");
    for name in ["a", "b", "c"] {
        bench.file(name, name);
    }
    bench.file(".containerignore", "a\n").file(".dockerignore", "b\n").file("rules", "c\n");
    assert_eq!(bud_image(&bench, &[]).top(), ["b", "c"]);
    let rules = bench.ctx().join("rules").display().to_string();
    assert_eq!(bud_image(&bench, &["--ignorefile", &rules]).top(), ["a", "b"]);
    bench.file("Containerfile.containerignore", "b\nc\n");
    assert_eq!(bud_image(&bench, &[]).top(), ["a"]);
}

// SPEC D3.05, D3.07, D3.08, D3.09, D3.11
#[test]
fn d3_08_what_stages_begin_with_and_what_is_taken_away() {
    let bench = Bench::new();
    bench.file("Containerfile", "FROM scratch\nENV A=base B=base\nLABEL l=base m=base\n");
    bud(&bench, &["-t", "r.example/base"]).ok();
    bench.file("f", "x").file(
        "Containerfile",
        "FROM nowhere.example/none AS one\nENV B=own\nLABEL mine=$C own=$B\nFROM one\nCOPY f /\n",
    );
    let usual = ["--from", "r.example/base", "--pull=never"];
    let image = bud_image(&bench, &[&usual[..], &["--env", "C=cli", "--env", "A=cli"]].concat());
    assert_eq!(labels(&image), &serde_json::json!({"l": "base", "m": "base", "mine": "cli", "own": "own"}));
    let env: Vec<&str> = image.config["config"]["Env"].as_array().unwrap().iter().filter_map(|e| e.as_str()).collect();
    assert_eq!(&env[1..], ["A=cli", "B=own", "C=cli"]);
    // All of the environment whose names begin so.
    let tar = bench.path("bud.tar");
    let place = format!("oci-archive:{}", tar.display());
    let mut command = bud_command(&bench, &[&usual[..], &["-t", &place, "--env", "MINE_*"]].concat());
    support::finish(command.env("MINE_A", "1").env("MINE_B", "2").output().unwrap()).ok();
    let env = Image::open_tar(&tar).config["config"]["Env"].to_string();
    assert!(env.contains("MINE_A=1") && env.contains("MINE_B=2") && !env.contains("HOME="), "{env}");
    let image = bud_image(
        &bench,
        &[&usual[..], &["--inherit-labels=false", "--unsetenv=A", "--unsetlabel=mine", "--omit-history"]].concat(),
    );
    assert_eq!(labels(&image), &serde_json::json!({"own": "own"}));
    assert!(!image.config["config"]["Env"].to_string().contains("A=") && image.config.get("history").is_none());
    bud(&bench, &["--pull=never"]).fails(125, &["nowhere.example/none"]);
    bench.file("Containerfile", "# syntax=r.example/front\nFROM scratch\n");
    bud(&bench, &["--env=A=1"]).fails(125, &["the built-in front end"]);
}

// SPEC D3.02, D3.04
#[test]
fn d3_02_layers_become_one_and_times_are_set() {
    let bench = Bench::new();
    bench.file("Containerfile", "FROM scratch\nCOPY a /a\nCOPY b /b\n").file("a", "1").file("b", "2").file("c", "3");
    bud(&bench, &["-t", "r.example/two"]).ok();
    bench.file("Containerfile", "FROM r.example/two\nCOPY c /c\nLABEL x=y\nCOPY a /b\nCOPY b /d\n");
    let plain = bud_image(&bench, &[]);
    // podman's `--squash` keeps the base image's layers, buildah's does not.
    let podman = |flags: &[&str]| {
        let tar = bench.path("podman.tar");
        let line =
            ["podman", "build", "-t", &format!("oci-archive:{}", tar.display()), &bench.ctx().display().to_string()];
        bench.rbuild(&[&line[..4], flags, &line[4..]].concat()).ok();
        Image::open_tar(&tar)
    };
    let squashed = podman(&["--squash"]);
    let all = bud_image(&bench, &["--squash", "--timestamp=9"]);
    assert_eq!((plain.layers.len(), squashed.layers.len(), all.layers.len()), (5, 3, 1));
    let files = |image: &Image| {
        let tree = image.tree();
        tree.into_iter().map(|(path, node)| (path, node.mode, node.content)).collect::<Vec<_>>()
    };
    assert!(files(&plain) == files(&squashed) && files(&plain) == files(&all));
    for image in [&squashed, &all] {
        let history = image.config["history"].as_array().unwrap();
        let layers = history.iter().filter(|entry| entry["empty_layer"] != true).count();
        assert_eq!((history.len(), layers), (6, image.layers.len()), "{history:?}");
    }
    assert_eq!(squashed.layers[..2].iter().flatten().map(|(path, _)| path.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(all.config["created"], "1970-01-01T00:00:09Z");
    // SPEC D3.04: the manifest says when, too, if asked.
    let created = |image: &Image| image.manifest["annotations"]["org.opencontainers.image.created"].clone();
    let told = bud_image(&bench, &["--timestamp=9", "--created-annotation"]);
    assert_eq!((created(&told), created(&all)), ("1970-01-01T00:00:09Z".into(), serde_json::Value::Null));
    assert!(all.layers[0].iter().all(|(_, node)| node.mtime == 9), "{:?}", all.layers[0]);
    // SPEC D3.04: files that are older have that time, too, and nothing that is kept is taken for another time.
    for (seconds, flag) in [(4_000_000_000, "--timestamp=4000000000"), (9, "--timestamp=9")] {
        let image = bud_image(&bench, &[flag]);
        assert!(image.layers[2..].iter().flatten().all(|(_, node)| node.mtime == seconds), "{:?}", image.layers);
    }
    // Once more it is the same image, and `--layers=false` makes one layer too.
    assert_eq!(podman(&["--squash"]).digest, squashed.digest);
    assert_eq!(podman(&["--squash-all"]).layers.len(), 1);
    assert_eq!(bud_image(&bench, &["--layers=false"]).layers.len(), 3);
    // kaniko's word for it.
    let context = format!("dir://{}", bench.ctx().display());
    let line = ["kaniko", "--single-snapshot", "--no-push", "--tar-path=k.tar", "-f", "Containerfile", "-c", &context];
    bench.rbuild(&line).ok();
    let files = support::image::tar_files(&bench.path("out/k.tar"));
    let manifest: serde_json::Value = serde_json::from_slice(&files["manifest.json"]).unwrap();
    assert_eq!(manifest[0]["Layers"].as_array().map(Vec::len), Some(3));
}

// SPEC D3.10, D3.17, D3.19
#[test]
fn d3_10_steps_see_volumes_and_have_what_was_given() {
    need_run!();
    let bench = Bench::new();
    bench.file("../vol/f", "from outside").file(
        "Containerfile",
        "FROM busybox\nRUN cp /vol/f /copy && grep CapBnd /proc/self/status > /caps && cat /etc/resolv.conf > /dns; \
         ls /etc/hosts > /hosts 2>&1; ! touch /vol/x\n",
    );
    let volume = format!("{}:/vol:ro,Z", bench.path("vol").display());
    let run = bud(&bench, &["-t", "x", "-v", &volume, "--isolation=chroot"]);
    if run.code == 0 || !run.stderr.contains("isolation chroot: it does not work here") {
        run.fails(125, &["--volume /vol: isolation chroot mounts nothing"]);
    }
    let flags = [
        "-v",
        &volume,
        "--cap-add=net_admin",
        "--cap-drop=CAP_CHOWN,KILL",
        "--dns=192.0.2.7",
        "--dns-search=x.example",
    ];
    let image = bud_image(&bench, &[&flags[..], &["--dns-option=ndots:3", "--no-hosts"]].concat());
    assert_eq!(image.text("copy"), "from outside");
    assert!(!image.has("vol"), "the mountpoint is in no layer");
    let caps = image.text("caps");
    let caps = u64::from_str_radix(caps.split_whitespace().last().unwrap(), 16).unwrap();
    assert_eq!(caps, (0xa804_25fb | 1 << 12) & !(1 | 1 << 5), "{caps:x}");
    let dns = image.text("dns");
    assert!(
        dns.contains("nameserver 192.0.2.7\n") && dns.contains("search x.example\n") && dns.contains("options ndots:3"),
        "{dns}"
    );
    assert!(image.text("hosts").contains("No such file"));
    bud(&bench, &["-v", "/missing:/x"]).fails(125, &["--volume /missing:/x: cannot find"]);
    bud(&bench, &["--dns=x"]).fails(125, &["--dns: \"x\" is not an IP address"]);
    bud(&bench, &["--cap-add=SYS_ADMIN"]).fails(125, &["--cap-add: SYS_ADMIN is of no use"]);
}

// SPEC D3.26, D3.35
#[test]
fn d3_26_an_authfile_is_the_only_one() {
    let bench = Bench::new();
    let registry = FakeRegistry::start();
    registry.set_auth(Auth::Basic { user: "me", password: "pass" });
    bench.file("f", "x").file("Containerfile", "FROM scratch\nCOPY f /\n");
    let place = format!("docker://{}/app:1", registry.host());
    let file = |name: &str, auth: &str| {
        bench.file(name, format!(r#"{{"auths": {{"{}": {{"auth": "{auth}"}}}}}}"#, registry.host()));
        bench.ctx().join(name).display().to_string()
    };
    let (right, wrong) = (file("right.json", "bWU6cGFzcw=="), file("wrong.json", "bWU6b3RoZXI="));
    bud(&bench, &["-t", &place, "--authfile", &right]).ok();
    assert!(registry.state().repositories["app"].tags.contains_key("1"));
    let mut command = bud_command(&bench, &["-t", &place, "--authfile", &wrong]);
    support::finish(command.env("REGISTRY_AUTH_FILE", &right).output().unwrap()).fails(125, &["refused"]);
    // It has to be there even if nobody is asked for a password.
    for place in [&place, "x"] {
        bud(&bench, &["-t", place, "--authfile", "missing.json"]).fails(125, &["cannot read missing.json"]);
    }
}

// SPEC D3.21
#[test]
fn d3_21_builds_at_once_lose_nothing_of_each_other() {
    let bench = Bench::new();
    bench.file("f", "x").file(
        "Containerfile",
        "FROM scratch
COPY f /
",
    );
    let platforms = ["linux/amd64", "linux/arm64", "linux/arm/v7", "linux/riscv64", "linux/s390x", "linux/ppc64le"];
    std::thread::scope(|scope| {
        for platform in platforms {
            scope.spawn(|| bud(&bench, &["--platform", platform, "--manifest", "m"]).ok());
        }
    });
    let listed = bench.rbuild(&["images", "--format", "json", "localhost/m"]).ok().stdout;
    let row: serde_json::Value = serde_json::from_str(listed.trim()).unwrap();
    let mut found: Vec<String> = serde_json::from_value(row["Platforms"].clone()).unwrap();
    found.sort();
    let mut wanted = platforms.map(str::to_owned);
    wanted.sort();
    assert_eq!(found, wanted);
}

// SPEC D3.21
#[test]
fn d3_21_an_index_grows_with_each_build() {
    let bench = Bench::new().with_default_attestations();
    bench.file("f", "x").file("Containerfile", "FROM scratch\nCOPY f /\n");
    let list = || {
        let listed = bench.rbuild(&["images", "--format", "json", "localhost/m"]).ok().stdout;
        let row: serde_json::Value = serde_json::from_str(listed.trim()).unwrap();
        let mut platforms: Vec<String> = serde_json::from_value(row["Platforms"].clone()).unwrap();
        platforms.sort();
        platforms
    };
    for platform in ["linux/arm64", "linux/amd64"] {
        bud(&bench, &["--platform", platform, "--manifest", "m"]).ok();
    }
    assert_eq!(list(), ["linux/amd64", "linux/arm64"]);
    // What is built again is replaced, with what is said about it.
    bench.file("f", "y");
    bud(&bench, &["--platform", "linux/amd64", "--manifest", "m"]).ok();
    assert_eq!(list(), ["linux/amd64", "linux/arm64"]);
    let tar = bench.path("m.tar").display().to_string();
    bench.rbuild(&["save", "--format", "oci", "-o", &tar, "localhost/m"]).ok();
    let text = |platform| Image::open_platform(bench.path("m.tar").as_path(), platform).text("f");
    assert_eq!((text("linux/amd64"), text("linux/arm64")), ("y".into(), "x".into()));
    // A single image is not taken for an index, and registries are joined elsewhere.
    bench.rbuild(&["build", "--provenance=false", "-t", "one", &bench.ctx().display().to_string()]).ok();
    let append = "type=image,name=one,append=true";
    bench.build(&["-o", append]).fails(2, &["one:latest is a single image, not an index"]);
    bench.build(&["-o", append, "--push"]).fails(2, &["an index of the store, not of a registry"]);
    bench.build(&["-o", "type=image,append=true"]).fails(2, &["append=true needs a name"]);
}

// SPEC D3.13
#[test]
fn d3_13_ignore_files_are_those_of_their_directory() {
    let bench = Bench::new();
    bench.file("Containerfile", "FROM scratch\nCOPY a b /\n").file("a", "1").file("b", "2").file("../outside", "a\n");
    for name in [".dockerignore", ".containerignore"] {
        bench.symlink("../outside", name);
        for build in [bud, Bench::build] {
            let run = build(&bench, &["-f", &bench.ctx().join("Containerfile").display().to_string()]).ok();
            assert!(run.stderr.contains("it leads out of its directory"), "{}", run.stderr);
        }
        std::fs::remove_file(bench.ctx().join(name)).unwrap();
    }
    bench.file("rules", "a\n").symlink("rules", ".dockerignore");
    bud(&bench, &[]).fails(125, &["\"/a\" is excluded"]);
    std::fs::remove_file(bench.ctx().join(".dockerignore")).unwrap();
    // Named contexts have them under both names, too.
    bench.file("Containerfile", "FROM scratch\nCOPY --from=more c /\n").file("../more/c", "3");
    let more = format!("more={}", bench.path("more").display());
    bud(&bench, &["--build-context", &more]).ok();
    bench.file("../more/.containerignore", "c\n");
    bud(&bench, &["--build-context", &more]).fails(125, &["\"/c\""]);
}

// SPEC D3.14
#[test]
fn d3_14_an_archive_has_a_containerfile_before_a_dockerfile() {
    let bench = Bench::new();
    bench.dockerfile("FROM scratch\nLABEL from=docker\n").file("Containerfile", "FROM scratch\nLABEL from=podman\n");
    let tar = bench.path("c.tar");
    let made = std::process::Command::new("tar").arg("-cf").arg(&tar).arg("-C").arg(bench.ctx()).arg(".").status();
    assert!(made.unwrap().success());
    let out = bench.path("bud.tar");
    for (line, from) in [
        (&["buildah", "build", "-t", &format!("oci-archive:{}", out.display())][..], "podman"),
        (&["build", "-o", &format!("type=oci,dest={}", out.display())], "docker"),
    ] {
        let mut command = bench.command([line, &["-"]].concat());
        support::finish(command.stdin(std::fs::File::open(&tar).unwrap()).output().unwrap()).ok();
        assert_eq!(labels(&Image::open_tar(&out))["from"], from);
    }
}

// SPEC D3.14
#[test]
fn d3_14_a_containerfile_in_the_place_of_the_context() {
    let bench = Bench::new();
    bench.file("sub/f", "x").file("sub/Some", "FROM scratch\nCOPY f /\n");
    let tar = bench.path("bud.tar");
    let place = format!("oci-archive:{}", tar.display());
    let file = bench.ctx().join("sub/Some").display().to_string();
    bench.rbuild(&["buildah", "build", "-t", &place, &file]).ok();
    assert_eq!(Image::open_tar(&tar).top(), ["f"]);
}

// SPEC D3.21
#[test]
fn d3_21_an_image_says_what_system_it_needs() {
    let bench = Bench::new();
    bench.file("f", "x").file("Containerfile", "FROM scratch\nCOPY f /\n");
    let image = bud_image(&bench, &["--os-version=1.0", "--os-feature=a", "--os-feature=b", "--os-feature=a-"]);
    assert_eq!((&image.config["os.version"], &image.config["os.features"]), (&"1.0".into(), &serde_json::json!(["b"])));
    let platform = |flags: &[&str]| {
        let config = bud_image(&bench, flags).config;
        [config["os"].clone(), config["architecture"].clone()]
    };
    // What is missing is the machine's.
    let usual = platform(&[]);
    assert_eq!(platform(&["--platform=windows/"]), [serde_json::Value::from("windows"), usual[1].clone()]);
    assert_eq!(platform(&["--platform=/riscv64"]), [usual[0].clone(), "riscv64".into()]);
    assert_eq!(platform(&["--platform=/"]), usual);
}

// SPEC D3.21
#[test]
fn d3_21_all_platforms_that_the_base_images_are_for() {
    let bench = Bench::new();
    bench.file("f", "x").file("Containerfile", "FROM scratch\nCOPY f /\n");
    let base = |name: &str, platforms: &str| {
        let place = format!("oci:{}", bench.path(name).display());
        bud(&bench, &["--platform", platforms, "-t", &place]).ok();
        format!("{name}=oci-layout://{}", bench.path(name).display())
    };
    let one = base("one", "linux/amd64,linux/arm64,linux/s390x");
    let other = base("other", "linux/s390x,linux/riscv64,linux/amd64");
    let built = |dockerfile: &str| {
        bench.file("Containerfile", dockerfile);
        let flags = ["--build-context", &one, "--build-context", &other, "--all-platforms", "--manifest", "m"];
        bud(&bench, &flags)
    };
    let listed = || {
        let listed = bench.rbuild(&["images", "--format", "json", "localhost/m"]).ok().stdout;
        let row: serde_json::Value = serde_json::from_str(listed.trim()).unwrap();
        let mut platforms: Vec<String> = serde_json::from_value(row["Platforms"].clone()).unwrap();
        platforms.sort();
        platforms
    };
    built("FROM one\nFROM other AS files\nFROM one\nCOPY --from=files f /g\n").ok();
    assert_eq!(listed(), ["linux/amd64", "linux/s390x"]);
    built("FROM one\nCOPY f /g\n").ok();
    assert_eq!(listed(), ["linux/amd64", "linux/arm64", "linux/s390x"]);
    built("FROM scratch\nCOPY f /\n").fails(125, &["--all-platforms: no base image says which they are"]);
}

// SPEC D3.31
#[test]
fn d3_31_steps_read_standard_input() {
    need_run!();
    let bench = Bench::new();
    bench.file("Containerfile", "FROM busybox\nRUN true\nRUN read x; echo first $x\nRUN read -r x; cat; ! read y\n");
    let mut child = bud_command(&bench, &["--stdin", "-t", "x"]).stdin(std::process::Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"one\ntwo\nthree\n").unwrap();
    let run = support::finish(child.wait_with_output().unwrap()).ok();
    assert!(run.stderr.contains("first one") && run.stderr.contains("three"), "{}", run.stderr);
    // Nobody else's steps do.
    bench.file("Containerfile", "FROM busybox\nRUN ! read x\n");
    let mut child = bud_command(&bench, &["-t", "x"]).stdin(std::process::Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"one\n").unwrap();
    support::finish(child.wait_with_output().unwrap()).ok();
}

// SPEC D3.19
#[test]
fn d3_19_groups_are_added_and_privileges_are_not_gained() {
    need_run!();
    let bench = Bench::new();
    let text = "FROM busybox\nRUN echo 'mine:x:4711:' >> /etc/group\n\
                RUN id -G > /groups; grep NoNewPrivs /proc/self/status > /privileges\n";
    bench.file("Containerfile", text);
    let image = bud_image(&bench, &["--group-add=4712,4711", "--security-opt=no-new-privileges"]);
    let groups = image.text("groups");
    assert!(["4711", "4712"].iter().all(|group| groups.split_whitespace().any(|g| g == *group)), "{groups}");
    assert_eq!(image.text("privileges").trim(), "NoNewPrivs:\t1");
    bench.file("Containerfile", "FROM busybox\nRUN true\n");
    bud(&bench, &["--group-add=nobodies"]).fails(125, &["nobodies", "/etc/group"]);
}

// SPEC D3.03: stages are images without a name, which labels find.
#[test]
fn d3_03_stages_are_kept() {
    let bench = Bench::new();
    bench.file("f", "x").dockerfile(
        "FROM scratch AS one\nCOPY f /one\nFROM scratch AS unused\nCOPY f /unused\nFROM one\nCOPY f /two\nFROM scratch\nCOPY --from=1 /unused /3\nCOPY --from=2 /two /4\n",
    );
    bud(&bench, &["--stage-labels"]).fails(125, &["--stage-labels requires --save-stages"]);
    let run = bud(&bench, &["--save-stages", "--stage-labels", "-t", "app"]).ok();
    let listed = |filter: &str| {
        let run = bench.rbuild(&["images", "-q", "--filter", &format!("label={filter}")]).ok();
        run.stdout.lines().map(ToOwned::to_owned).collect::<Vec<_>>()
    };
    let told = |image: &str| {
        let text = bench.rbuild(&["inspect", "--format", "json", image]).ok().stdout;
        serde_json::from_str::<serde_json::Value>(&text).unwrap()
    };
    assert_eq!(listed("io.buildah.stage.name").len(), 4, "{}", run.stderr);
    for (name, base) in [("one", "scratch"), ("unused", "scratch"), ("3", "scratch")] {
        let found = listed(&format!("io.buildah.stage.name={name}"));
        assert_eq!(found.len(), 1, "{name}");
        assert!(listed(&format!("io.buildah.stage.base={base}")).contains(&found[0]), "{name}");
    }
    // What builds on another stage names its image.
    let one = told(&listed("io.buildah.stage.name=one")[0]).to_string();
    let two = told(&listed("io.buildah.stage.name=2")[0]).to_string();
    let below = two.split("io.buildah.stage.base\":\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
    assert!(one.contains(below) && below.len() == 64, "{below}: {one}");
    // The last line is the image's own, as ever.
    assert_eq!(run.stdout.lines().count(), 1);
    // Without labels they are there all the same; what is not needed is not.
    bench.rbuild(&["system", "reset", "--force"]).ok();
    bud(&bench, &["--save-stages", "--target=2", "--iidfile=id"]).ok();
    assert_eq!(bench.rbuild(&["images", "-q"]).ok().stdout.lines().count(), 2);
    assert!(std::fs::read_to_string(bench.path("out/id")).unwrap().starts_with("sha256:"));
}

// SPEC D3.31
#[test]
fn d3_31_each_platform_has_its_own_log() {
    let bench = Bench::new();
    bench.file("f", "x").dockerfile("FROM scratch\nARG TARGETARCH\nCOPY f /$TARGETARCH\n");
    bud(&bench, &["--logfile=log", "--logsplit", "--platform=linux/amd64,linux/arm64", "--manifest=all"]).ok();
    let text = |name: &str| std::fs::read_to_string(bench.path("out").join(name)).unwrap();
    let (one, two) = (text("log_linux_amd64"), text("log_linux_arm64"));
    assert!(one.contains("COPY f /amd64") && !one.contains("COPY f /arm64"), "{one}");
    assert!(two.contains("COPY f /arm64") && !two.contains("COPY f /amd64"), "{two}");
    assert!(one.contains("[internal] load build context") && two.contains("[internal] load build context"), "{one}");
    assert!(text("log").contains("COPY f /arm64"));
    bud(&bench, &["--logfile=one", "--logsplit"]).ok();
    assert_eq!(
        std::fs::read_dir(bench.path("out"))
            .unwrap()
            .filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().starts_with("one"))
            .count(),
        2
    );
}

// SPEC D3.36: for buildah's command line, and for no other.
#[test]
fn d3_36_containers_conf_is_what_flags_leave_open() {
    need_run!();
    let mut bench = Bench::new();
    std::fs::write(bench.path("shown"), "shown").unwrap();
    let conf = format!(
        "[containers]\nenv = [\"FROM_CONF=yes\", \"PATH=/nowhere\"]\nvolumes = [\"{}:/shown:ro\"]\ndefault_ulimits = [\"nofile=99:99\"]\ndns_servers = [\"192.0.2.7\"]\n",
        bench.path("shown").display()
    );
    std::fs::write(bench.path("containers.conf"), conf).unwrap();
    bench.env.push(("CONTAINERS_CONF".into(), bench.path("containers.conf").display().to_string()));
    bench.dockerfile(
        "FROM busybox\nRUN echo $FROM_CONF $(ulimit -n) $(cat /shown 2>/dev/null) $(grep -c 192.0.2.7 /etc/resolv.conf) > /told\n",
    );
    let image = bud_image(&bench, &[]);
    assert_eq!(image.text("told"), "yes 99 shown 1\n");
    assert!(!image.config["config"]["Env"].to_string().contains("FROM_CONF"));
    assert_eq!(bud_image(&bench, &["--ulimit=nofile=77:77"]).text("told"), "yes 77 shown 1\n");
    assert!(!bud(&bench, &[]).ok().stderr.contains("CONTAINERS_CONF"));
    let plain = bench.build(&["-o", "type=oci,dest=plain.tar"]).ok();
    assert!(plain.stderr.contains("CONTAINERS_CONF has no meaning here"), "{}", plain.stderr);
    assert!(!Image::open_tar(&bench.path("out/plain.tar")).text("told").contains("shown"));
    std::fs::write(bench.path("containers.conf"), "[containers]\nvolumes = \"x\"\n").unwrap();
    bud(&bench, &[]).fails(125, &["volumes of [containers]: expected a list of texts"]);
}

// SPEC D3.28, C8.14: a scanner of one's own sees the image's files and the context.
#[test]
fn d3_28_a_scanner_lists_what_is_in_the_image() {
    need_run!();
    let bench = Bench::new();
    let scanner = "FROM busybox AS scanner\nCOPY --chmod=755 scan /scan\nUSER 1234\n";
    let scan = "#!/bin/sh\nname=$(cat $1/name)\necho '{\"components\":[{\"name\":\"'$name'\",\"version\":\"1\",\"purl\":\"pkg:generic/'$name'@1\"},{\"name\":\"both\",\"version\":\"2\"}]}' > $2\n";
    bench.file("scan", scan).file("name", "context").file("image-name", "image").file("rest", "x");
    bench.file("scanner", scanner).dockerfile("FROM scratch AS other\nCOPY rest /\nFROM scratch AS app\nCOPY image-name /name\nENTRYPOINT [\"/x\"]\n# the end\nFROM other\nCOPY rest /never\n");
    let file = bench.ctx().join("scanner").display().to_string();
    bud(&bench, &["-f", &file, "-t", "scanner"]).ok();
    let own = ["--sbom-scanner-image=scanner", "--sbom-scanner-command=/scan {ROOTFS} {OUTPUT}"];
    let both = [&own[..], &["--sbom-scanner-command=/scan {CONTEXT} {OUTPUT}"]].concat();
    let merge = "--sbom-merge-strategy=merge-cyclonedx-by-component-name-and-version";
    let outputs = [
        "--sbom-output=list",
        "--sbom-purl-output=urls",
        "--sbom-image-output=/root/list.json",
        "--sbom-image-purl-output=/root/urls.json",
    ];
    let image = bud_image(&bench, &[&both[..], &[merge, "--target=app"], &outputs[..]].concat());
    let read = |name: &str| std::fs::read_to_string(bench.path("out").join(name)).unwrap();
    let list: serde_json::Value = serde_json::from_str(&read("list")).unwrap();
    let names: Vec<_> = list["components"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["image", "both", "context"]);
    assert_eq!(read("urls"), r#"{"image_contents":{"dependencies":["pkg:generic/context@1","pkg:generic/image@1"]}}"#);
    assert_eq!((image.text("root/list.json"), image.text("root/urls.json")), (read("list"), read("urls")));
    assert_eq!(image.config["config"]["Entrypoint"], serde_json::json!(["/x"]));
    assert!(!image.has("never") && !image.has(".rootfs") && image.has("name"));
    // Without a place in the image, that is what it would be anyway.
    let plain = bud_image(&bench, &["--target=app"]);
    let beside = bud_image(&bench, &[&own[..], &["--target=app", "--sbom-output=only"]].concat());
    assert_eq!(beside.manifest["layers"], plain.manifest["layers"]);
    assert!(read("only").starts_with("{\"components\":[{\"name\":\"image\""), "{}", read("only"));

    // A stage without a name.
    bud(&bench, &[&own[..], &["--sbom-output=last"]].concat()).ok();
    assert!(read("last").contains("\"both\""), "{}", read("last"));

    for (args, rule) in [
        (&["--sbom-output=x"][..], "needs --sbom-scanner-image"),
        (&own[..], "the list goes nowhere"),
        (&[&both[..], &["--sbom-output=x"]].concat()[..], "several commands need --sbom-merge-strategy"),
        (&[&own[..], &["--sbom-output=x", "--sbom-merge-strategy=zip"]].concat()[..], "unknown strategy \"zip\""),
        (&[&own[..], &["--sbom-image-output=x"]].concat()[..], "expected an absolute path"),
        (&[own[0], "--sbom-scanner-command=true", "--sbom-output=x"][..], "it wrote no list"),
        (&[own[0], "--sbom-scanner-command=false", "--sbom-output=x"][..], "exit code: 1"),
    ] {
        let run = bud(&bench, &[args, &["--target=app"]].concat());
        assert!(run.code != 0 && run.stderr.contains(rule), "{args:?}: {}", run.stderr);
    }
}

// SPEC D3.07, D3.08
#[test]
fn d3_07_annotations_of_a_base_image_are_inherited() {
    let registry = FakeRegistry::start();
    let bench = Bench::new();
    let name = format!("{}/base", registry.host());
    bench.file("f", "x").dockerfile("FROM scratch\nCOPY f /\n");
    let given = ["--annotation=a=base", "--annotation=b=base", "--annotation=org.opencontainers.image.created=then"];
    bench.build(&[&["-t", &name, "--push"], &given[..]].concat()).ok();
    bench.dockerfile(&format!("FROM {name} AS one\nCOPY f /g\nFROM one\nCOPY f /h\n"));
    let annotations = |args: &[&str]| bud_image(&bench, args).manifest["annotations"].clone();
    assert_eq!(annotations(&[]), serde_json::json!({"a": "base", "b": "base"}));
    let own = annotations(&["--annotation=a=mine", "--unsetannotation=b"]);
    assert_eq!(own, serde_json::json!({"a": "mine"}));
    assert!(annotations(&["--inherit-annotations=false"]).is_null());
    let plain = bench.build_image(&[]).manifest["annotations"].clone();
    assert!(plain.is_null(), "{plain}");
}

// SPEC D3.36: for buildah's command line, and for no other.
#[test]
fn d3_36_short_names_are_looked_up() {
    let (one, two) = (FakeRegistry::start(), FakeRegistry::start());
    let mut bench = Bench::new();
    bench.file("f", "x").dockerfile("FROM scratch\nARG AT\nCOPY f /$AT\n");
    for (registry, name) in [(&two, "searched"), (&one, "alias"), (&two, "alias"), (&two, "both"), (&one, "team/own")] {
        let name = format!("{}/{name}", registry.host());
        let at = format!("--build-arg=AT={}", name.replace([':', '/', '.'], "-"));
        bench.build(&["-t", &name, "--push", &at]).ok();
    }
    let conf = bench.path("registries.conf");
    let text = format!(
        "unqualified-search-registries = [\"{}\", \"{}\"]\n[aliases]\n\"alias\" = \"{1}/alias\"\n\"mine\" = \"{1}/team/own\"\n",
        one.host(),
        two.host()
    );
    std::fs::write(&conf, text).unwrap();
    bench.env.push(("CONTAINERS_REGISTRIES_CONF".into(), conf.display().to_string()));
    let top = |bench: &Bench, from: &str| {
        bench.dockerfile(&format!("FROM {from}\nCOPY f /g\n"));
        bud_image(bench, &[]).tree().into_keys().next().unwrap().replace([':', '/', '.'], "-")
    };
    let at = |registry: &FakeRegistry, name: &str| format!("{}/{name}", registry.host()).replace([':', '/', '.'], "-");
    assert_eq!(top(&bench, "searched"), at(&two, "searched"), "the first one that has it");
    assert_eq!(top(&bench, "alias:latest"), at(&two, "alias"), "an alias goes before the search");
    bench.dockerfile("FROM scratch\nCOPY --from=both / /\nCOPY f /g\n");
    assert_eq!(bud_image(&bench, &[]).tree().into_keys().next().unwrap(), at(&two, "both"));
    bench.dockerfile("FROM nowhere\nCOPY f /g\n");
    let run = bud(&bench, &[]).fails(125, &["no registry has nowhere: ", &one.host(), &two.host()]);
    assert_eq!(run.count("docker.io"), 0, "{}", run.stderr);
    // What was built here under that name goes before all of them; and rbuild's own command knows nothing of it.
    bench.dockerfile("FROM scratch\nCOPY f /built\n");
    bud(&bench, &["-t", "searched"]).ok();
    assert_eq!(top(&bench, "searched"), "built");
    bench.dockerfile("FROM mine\nCOPY f /g\n");
    let plain = bench.build(&["--registry=docker.io,only-mirrors,mirror=127.0.0.1:1"]);
    assert!(plain.code != 0 && !plain.stderr.contains("team/own"), "{}", plain.stderr);
}

// SPEC D3.10
#[test]
fn d3_10_what_steps_change_in_an_overlay_is_theirs_alone() {
    need_run!();
    let bench = Bench::new();
    bench.file("../vol/f", "mine").file("../vol/d/g", "too").file(
        "Containerfile",
        "FROM busybox\nRUN cat /vol/f && echo changed > /vol/f && rm -r /vol/d && touch /vol/new && cp /vol/f /copy\n\
         RUN ls -R /vol > /seen && cat /vol/f >> /seen\n",
    );
    let dir = bench.path("vol").display().to_string();
    for more in [&[][..], &["--snapshotter=native"]] {
        let volume = format!("{dir}:/vol:O,z");
        let tar = bench.path("o.tar");
        let place = format!("oci-archive:{}", tar.display());
        let line = [more, &["buildah", "bud", "--no-cache", "-t", &place, "-v", &volume]].concat();
        let words: Vec<String> = line.iter().map(|word| (*word).to_owned()).chain(bench.args.iter().cloned()).collect();
        let mut command = bench.command(words.into_iter().chain([bench.ctx().display().to_string()]));
        support::finish(command.env("CONTAINERS_CONF", "/dev/null").output().unwrap()).ok();
        let image = Image::open_tar(&tar);
        assert_eq!((image.text("copy"), image.has("vol")), ("changed\n".into(), false));
        let seen = image.text("seen");
        assert!(seen.ends_with("mine") && seen.contains("g\n") && !seen.contains("new"), "{seen}");
    }
    assert_eq!(std::fs::read_to_string(bench.path("vol/f")).unwrap(), "mine");
    assert!(bench.path("vol/d/g").is_file() && !bench.path("vol/new").exists());
    bud(&bench, &["-v", &format!("{dir}/f:/f:O")]).fails(125, &["O is for directories"]);
    bud(&bench, &["-v", &format!("{dir}:/f:U")]).fails(125, &["the option \"U\" is not supported"]);
}
