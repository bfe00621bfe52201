//! The cache bugs that users of other builders suffered from, one test each, and what hostile steps do to mounts
//! (SPEC C4, A5.04, C5.18, B2.19, B2.24, B8.04, B8.05).
//!
//! The witness of whether a step ran is a number that the kernel makes up: the same number is the same run.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stderr, reason = "skip reasons are collected by scripts/test")]
#![allow(missing_docs, unreachable_pub, reason = "a test program")]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use support::image::Image;
use support::registry::Registry;
use support::{Bench, finish};

/// A command that gives something else each time it runs.
const NONCE: &str = "cat /proc/sys/kernel/random/uuid";

const SNAPSHOTTERS: [&str; 2] = ["overlay", "native"];

/// Fills in [`NONCE`].
fn bench(dockerfile: &str) -> Bench {
    let bench = Bench::new();
    bench.dockerfile(&dockerfile.replace("NONCE", NONCE));
    bench
}

/// Writes a file and gives it back the modification time it had.
fn overwrite_unnoticed(path: &Path, content: &str) {
    let before = path.metadata().unwrap();
    assert_eq!(before.len(), content.len() as u64, "the size is to stay the same");
    fs::write(path, content).unwrap();
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_modified(before.modified().unwrap()).unwrap();
}

/// The isolations that this user can choose from: as root also the one without mounts.
fn isolations() -> &'static [&'static str] {
    let report = finish(Command::new(support::rbuild_path()).args(["doctor", "--format", "json"]).output().unwrap());
    let report: serde_json::Value = serde_json::from_str(&report.stdout).unwrap();
    if report["rung"] == "root" { &["auto", "chroot"] } else { &["auto"] }
}

// PAIN 54: with and without wildcards, from a stage, from a stage built on a stage, and from a named context.
// SPEC C4.04, C4.05
#[test]
fn copies_from_a_stage_that_changed_are_never_stale() {
    need_run!();
    let bench = bench(
        "FROM busybox AS source\nARG V\nCOPY in /in\nRUN mkdir /o && cp /in/* /o && echo $V > /o/v.arg\n\
         FROM source AS child\nRUN cp -r /o /child\n\
         FROM scratch\nCOPY --from=source /o/a.txt /plain\nCOPY --from=source /o/*.txt /o/?.arg /glob/\n\
         COPY --from=child /child /tree\nCOPY --from=child /chil*/b* /deep/\nCOPY --from=other *.txt /named/\n",
    );
    bench.file("in/a.txt", "a1").file("in/b.txt", "b1");
    let other = bench.path("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("n.txt"), "n1").unwrap();
    let context = format!("other={}", other.display());
    let check = |v: &str, a: &str, b: &str, n: &str| {
        let image = bench.build_image(&["--build-context", &context, "--build-arg", &format!("V={v}")]);
        for (path, expected) in [
            ("plain", a),
            ("glob/a.txt", a),
            ("glob/b.txt", b),
            ("glob/v.arg", &format!("{v}\n")),
            ("tree/a.txt", a),
            ("tree/v.arg", &format!("{v}\n")),
            ("deep/b.txt", b),
            ("named/n.txt", n),
        ] {
            assert_eq!(image.text(path), expected, "{path} with {v} {a} {b} {n}");
        }
        image
    };
    check("1", "a1", "b1", "n1");
    bench.file("in/a.txt", "a2");
    check("1", "a2", "b1", "n1");
    bench.file("in/b.txt", "b2");
    check("1", "a2", "b2", "n1");
    check("2", "a2", "b2", "n1");
    fs::write(other.join("n.txt"), "n2").unwrap();
    check("2", "a2", "b2", "n2");
    // A name that a wildcard did not match before, and one that is gone.
    bench.file("in/c.txt", "c");
    let image = check("2", "a2", "b2", "n2");
    assert_eq!(image.text("glob/c.txt"), "c");
    fs::remove_file(bench.ctx().join("in/c.txt")).unwrap();
    // Back to what was built first: the first result, not the last.
    bench.file("in/a.txt", "a1").file("in/b.txt", "b1");
    fs::write(other.join("n.txt"), "n1").unwrap();
    let image = check("1", "a1", "b1", "n1");
    assert!(!image.has("glob/c.txt") && !image.has("tree/c.txt"));
}

// PAIN 55: what a step, a stage and the context say a link points to, from this store and from a cache elsewhere.
// SPEC A6.10, C4.06
#[test]
fn symlinks_that_point_elsewhere_are_kept_by_cached_layers() {
    need_run!();
    let bench = bench(
        "FROM busybox AS tools\nARG TOOL=one\nRUN mkdir /t && echo one > /t/one && echo two > /t/two && ln -s one /t/current\n\
         RUN ln -sfn $TOOL /t/current\n\
         FROM busybox\nCOPY --from=tools /t /t\nCOPY ctx /ctx\nRUN cat /t/current /ctx/link > /seen\n\
         RUN ln -sfn /ctx/b /ctx/link\nARG LATE\nRUN cat /ctx/link >> /seen; echo $LATE > /late\n",
    );
    bench.file("ctx/a", "a\n").file("ctx/b", "b\n").symlink("a", "ctx/link");
    let cache = bench.path("cache");
    let to = format!("type=local,dest={},mode=max", cache.display());
    let from = format!("type=local,src={}", cache.display());
    let check = |image: &Image, tool: &str, first: &str| {
        assert_eq!(image.node("t/current").link, tool);
        assert_eq!(image.node("ctx/link").link, "/ctx/b");
        assert_eq!(image.text("seen"), format!("{tool}\n{first}\nb\n"));
    };
    check(&bench.build_image(&["--cache-to", &to]), "one", "a");
    check(&bench.build_image(&["--build-arg", "LATE=1"]), "one", "a");
    check(&bench.build_image(&["--build-arg", "TOOL=two"]), "two", "a");
    fs::remove_file(bench.ctx().join("ctx/link")).unwrap();
    bench.symlink("b", "ctx/link");
    check(&bench.build_image(&["--build-arg", "TOOL=two"]), "two", "b");
    fs::remove_file(bench.ctx().join("ctx/link")).unwrap();
    bench.symlink("a", "ctx/link");
    bench.rbuild(&["system", "reset", "--force"]).ok();
    check(&bench.build_image(&["--cache-from", &from, "--build-arg", "LATE=2"]), "one", "a");
}

// PAIN 56: whatever happens to a directory, its copy is what a first build would make.
// SPEC C4.05, C4.06
#[test]
fn copies_of_directories_follow_every_change_below_them() {
    need_run!();
    let bench = bench("FROM scratch\nCOPY dir /dir\n");
    bench.file("dir/a", "aaaa").file("dir/b", "bbbb").file("dir/sub/c", "c").file("dir/empty/x", "");
    bench.chmod("dir/a", 0o644).chmod("dir/b", 0o644);
    let at = |name: &str| bench.ctx().join(name);
    let changes: [(&str, &dyn Fn()); 10] = [
        ("nothing", &|| {}),
        ("two files changed names", &|| {
            fs::rename(at("dir/a"), at("tmp")).unwrap();
            fs::rename(at("dir/b"), at("dir/a")).unwrap();
            fs::rename(at("tmp"), at("dir/b")).unwrap();
        }),
        ("a file moved down", &|| fs::rename(at("dir/b"), at("dir/sub/b")).unwrap()),
        ("a directory was renamed", &|| fs::rename(at("dir/sub"), at("dir/sub2")).unwrap()),
        ("a directory lost its only file", &|| fs::remove_file(at("dir/empty/x")).unwrap()),
        ("an empty directory went", &|| fs::remove_dir(at("dir/empty")).unwrap()),
        ("a file became a directory", &|| {
            fs::remove_file(at("dir/a")).unwrap();
            fs::create_dir(at("dir/a")).unwrap();
        }),
        ("a directory became a link", &|| {
            fs::remove_dir(at("dir/a")).unwrap();
            bench.symlink("sub2", "dir/a");
        }),
        ("a mode deep down", &|| {
            bench.chmod("dir/sub2/c", 0o700);
        }),
        ("a deep file, unnoticed by its time and size", &|| overwrite_unnoticed(&at("dir/sub2/c"), "d")),
    ];
    type Shape = Vec<(String, char, u32, Vec<u8>, String)>;
    let shape = |image: &Image| -> Shape {
        image.tree().into_iter().map(|(path, n)| (path, n.kind, n.mode, n.content, n.link)).collect()
    };
    let mut before: Option<Shape> = None;
    for (what, change) in changes {
        change();
        let cached = shape(&bench.build_image(&[]));
        assert_eq!(cached, shape(&bench.build_image(&["--no-cache"])), "{what}");
        assert!(what == "nothing" || before.as_ref() != Some(&cached), "{what} is not to be seen");
        before = Some(cached);
    }
}

// PAIN 57
// SPEC C4.01, C4.02: the definitions differ, the content does not.
#[test]
fn unchanged_content_of_a_changed_stage_is_still_found() {
    need_run!();
    let bench = bench(
        "FROM busybox AS source\nARG V\nRUN mkdir /o && echo same > /o/file && echo $V > /other\n\
         FROM busybox\nCOPY --from=source /o /o\nCOPY --from=source /o/f* /glob/\n\
         RUN --mount=from=source,source=/o,target=/m NONCE > /nonce && cat /m/file\n",
    );
    let first = bench.build_image(&["--build-arg", "V=1"]);
    let run = bench.build(&["--build-arg", "V=2"]).ok();
    assert_eq!(run.count("CACHED"), 3, "{}", run.stderr);
    assert_eq!(bench.build_image(&["--build-arg", "V=2"]).text("nonce"), first.text("nonce"));
}

// PAIN 58: the rule of docs/CACHE.md: values are not part of keys, so that tokens can rotate; what tells a staging build
// from one for production is the id of the secret, an argument, or the word not to use the cache.
// SPEC A5.06, C4.03
#[test]
fn secrets_count_by_their_id_and_never_by_their_value() {
    need_run!();
    let mut bench = bench(
        "FROM busybox AS app\nARG STAGE\nRUN --mount=type=secret,id=token NONCE > /nonce; cat /run/secrets/token > /token\n",
    );
    bench.env.push(("STAGING".into(), "for-staging".into()));
    bench.env.push(("PRODUCTION".into(), "for-production".into()));
    let staging = ["--secret", "id=token,env=STAGING"];
    let production = ["--secret", "id=token,env=PRODUCTION"];
    let with = |args: &[&str], more: &[&str]| bench.build_image(&[args, more].concat());
    let first = with(&staging, &[]);
    assert_eq!(with(&production, &[]).text("nonce"), first.text("nonce"), "a rotated token is no reason");
    assert_eq!(with(&production, &["--build-arg", "STAGE=production"]).text("token"), "for-production");
    assert_eq!(with(&staging, &["--build-arg", "STAGE=staging"]).text("token"), "for-staging");
    assert_eq!(with(&production, &["--no-cache-filter", "app"]).text("token"), "for-production");
    bench.dockerfile(&fs::read_to_string(bench.ctx().join("Dockerfile")).unwrap().replace("token", "token2"));
    assert_eq!(with(&["--secret", "id=token2,env=STAGING"], &[]).text("token2"), "for-staging");
}

// PAIN 59: stat is a hint, content decides.
// SPEC C2.06, C4.06
#[test]
fn a_changed_file_of_the_same_size_and_time_is_seen() {
    need_run!();
    let bench = bench(
        "FROM busybox\nCOPY one /one\nCOPY dir /dir\nRUN --mount=source=mnt,target=/m cat /m/f > /mounted\nCOPY g* /glob/\n",
    );
    let names = ["one", "dir/deep/f", "mnt/f", "glob-me"];
    for name in names {
        bench.file(name, "1111");
    }
    for content in ["1111", "2222", "3333"] {
        for name in names {
            overwrite_unnoticed(&bench.ctx().join(name), content);
        }
        let image = bench.build_image(&[]);
        for path in ["one", "dir/deep/f", "mounted", "glob/glob-me"] {
            assert_eq!(image.text(path), content, "{path}");
        }
    }
}

// PAIN 60: another place, other times, another order of making the files. What the umask did to the modes is in the image,
// so it counts.
// SPEC C4.06, C7.02
#[test]
fn the_same_checkout_on_another_machine_is_found_and_its_modes_count() {
    need_run!();
    let dockerfile =
        "FROM busybox\nCOPY src /src\nCOPY s*/x /x\nRUN --mount=target=/ctx NONCE > /nonce && cat /ctx/src/a\n";
    let (here, there) = (bench(dockerfile), bench(dockerfile));
    let names = ["src/a", "src/x", "src/d/b"];
    for name in names {
        here.file(name, name).chmod(name, 0o644);
    }
    for name in names.iter().rev() {
        there.file(name, name).chmod(name, 0o644);
    }
    for dir in ["", "src", "src/d"] {
        here.chmod(dir, 0o755);
        there.chmod(dir, 0o755);
    }
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    for name in names.iter().chain(&["src", "src/d", "Dockerfile"]) {
        fs::File::open(there.ctx().join(name)).unwrap().set_modified(long_ago).unwrap();
    }
    there.chmod("Dockerfile", 0o644);
    here.chmod("Dockerfile", 0o644);
    let cache = here.path("cache");
    let first = here.build_image(&["--cache-to", &format!("type=local,dest={},mode=max", cache.display())]);
    let from = format!("type=local,src={}", cache.display());
    let run = there.build(&["--cache-from", &from]).ok();
    assert_eq!(run.count("CACHED"), 3, "{}", run.stderr);
    assert_eq!(there.build_image(&["--cache-from", &from]).text("nonce"), first.text("nonce"));
    // Touched alone: still found, in the same store.
    fs::File::open(here.ctx().join("src/a")).unwrap().set_modified(long_ago).unwrap();
    assert_eq!(here.build_image(&[]).text("nonce"), first.text("nonce"));
    there.chmod("src/a", 0o664);
    let group = there.build_image(&["--cache-from", &from]);
    assert_eq!(group.node("src/a").mode, 0o664);
    assert_ne!(group.text("nonce"), first.text("nonce"));
}

// PAIN 61: global, of the last stage, and of the first stage but after its step.
// SPEC A4.13
#[test]
fn an_argument_used_late_leaves_the_steps_before_it_cached() {
    need_run!();
    let bench = bench(
        "ARG LATE=0\nFROM busybox AS first\nRUN NONCE > /first\nARG LATE\nRUN echo $LATE > /used\n\
         FROM busybox\nRUN NONCE > /second\nCOPY --from=first /first /first\nCOPY --from=first /used /used\n\
         ARG LATE\nRUN echo $LATE > /late\n",
    );
    let builds: Vec<Image> =
        ["1", "2"].iter().map(|v| bench.build_image(&["--build-arg", &format!("LATE={v}")])).collect();
    for (image, v) in builds.iter().zip(["1\n", "2\n"]) {
        assert_eq!((image.text("late").as_str(), image.text("used").as_str()), (v, v));
        for path in ["first", "second"] {
            assert_eq!(image.text(path), builds[0].text(path), "{path} ran again with LATE={v}");
        }
    }
}

// PAIN 62
// SPEC A6.15
#[test]
fn linked_copies_move_to_another_base_without_being_made_again() {
    need_run!();
    let bench = bench(
        "ARG BASE=one\nFROM busybox AS one\nRUN echo one > /base && mkdir -p /app && echo old > /app/old\n\
         FROM busybox AS two\nRUN echo two > /base\n\
         FROM $BASE\nCOPY --link f /app/f\nCOPY --link dir /app/dir/\nRUN cat /base /app/f > /seen\n",
    );
    bench.file("f", "f\n").file("dir/g", "g");
    let one = bench.build_image(&[]);
    // The other stage is new, the copies are not, and they are on top of it.
    let args = ["--build-arg", "BASE=two"];
    let run = bench.build(&args).ok();
    assert_eq!(run.count("CACHED"), 2, "{}", run.stderr);
    let two = bench.build_image(&args);
    assert_eq!((one.text("seen").as_str(), two.text("seen").as_str()), ("one\nf\n", "two\nf\n"));
    assert!(one.has("app/old") && !two.has("app/old"));
    assert_eq!(two.text("app/dir/g"), "g");
    let links = |image: &Image| -> Vec<String> {
        let layers = image.manifest["layers"].as_array().unwrap();
        layers[layers.len() - 3..layers.len() - 1].iter().map(|l| l["digest"].to_string()).collect()
    };
    assert_eq!(links(&one), links(&two), "the layers of the copies are the same blobs");
}

// PAIN 63: real checkouts, back and forth, with both snapshotters: same-sized files, files that come and go, a directory
// that is a file on the other branch.
// SPEC C2.06, C4.06
#[test]
fn switching_branches_gives_the_files_of_the_branch() {
    need_run!();
    let bench = bench(
        "FROM busybox AS all\nCOPY . /all\nRUN cp -r /all /copy && rm -rf /copy/only && find /all -type f | sort | xargs cat > /sum\nFROM busybox\nCOPY --from=all /copy /copy\nCOPY --from=all /all /all\nCOPY --from=all /sum /sum\n",
    );
    let git = |args: &[&str]| {
        let mut command = Command::new("git");
        command.args(["-c", "user.name=t", "-c", "user.email=t@t", "-c", "init.defaultBranch=a"]).args(args);
        command.current_dir(bench.ctx()).env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_SYSTEM", "/dev/null");
        let output = command.output().unwrap();
        assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    bench.file(".dockerignore", ".git\nDockerfile\n.dockerignore\n");
    git(&["init", "-q", "."]);
    let write = |branch: &str| {
        for n in 0..60 {
            bench.file(&format!("d{}/f{n}", n % 7), format!("{branch}{n:04}\n"));
        }
    };
    write("a");
    bench.file("kind", "a file").file("only/on-a", "x");
    git(&["add", "-A"]);
    git(&["commit", "-q", "-m", "a"]);
    git(&["checkout", "-q", "-b", "b"]);
    git(&["rm", "-q", "-r", "kind", "only"]);
    write("b");
    bench.file("kind/inner", "a directory").file("d0/on-b", "y\n");
    git(&["add", "-A"]);
    git(&["commit", "-q", "-m", "b"]);
    for branch in ["a", "b", "a"] {
        git(&["checkout", "-q", branch]);
        for snapshotter in SNAPSHOTTERS {
            let image = bench.build_image(&[
                "--snapshotter",
                snapshotter,
                "--root",
                &bench.path(snapshotter).display().to_string(),
            ]);
            let tree = image.tree();
            for top in ["all", "copy"] {
                for n in 0..60 {
                    let file = &tree[&format!("{top}/d{}/f{n}", n % 7)];
                    assert_eq!(file.content, format!("{branch}{n:04}\n").as_bytes(), "{branch} with {snapshotter}");
                }
                assert_eq!(tree[&format!("{top}/kind")].kind, if branch == "a" { '-' } else { 'd' });
                assert_eq!(tree.contains_key(&format!("{top}/d0/on-b")), branch == "b");
            }
            assert_eq!(tree.contains_key("all/only/on-a"), branch == "a");
            assert_eq!(
                tree["sum"].content.iter().filter(|b| **b == b'\n').count(),
                if branch == "a" { 60 } else { 61 }
            );
        }
    }
    for snapshotter in SNAPSHOTTERS {
        bench.rbuild(&["--root", &bench.path(snapshotter).display().to_string(), "system", "reset", "--force"]).ok();
    }
}

/// A directory beside the store that no step may see or change.
fn outside(bench: &Bench) -> std::path::PathBuf {
    let outside = bench.path("outside");
    fs::create_dir_all(outside.join("deep/deeper")).unwrap();
    fs::write(outside.join("canary"), CANARY).unwrap();
    fs::write(outside.join("empty"), "").unwrap();
    outside
}

const CANARY: &str = "only the machine may read this";

#[track_caller]
fn assert_untouched(outside: &Path) {
    let mut found: Vec<String> = Vec::new();
    let mut dirs = vec![outside.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            found.push(path.strip_prefix(outside).unwrap().display().to_string());
            if path.is_dir() {
                dirs.push(path);
            }
        }
    }
    found.sort();
    assert_eq!(found, ["canary", "deep", "deep/deeper", "empty"]);
    assert_eq!(fs::read_to_string(outside.join("canary")).unwrap(), CANARY);
    assert_eq!(fs::metadata(outside.join("empty")).unwrap().len(), 0);
}

// SPEC A5.04. CVE-2024-23651: one step swaps a directory of a shared cache for a link to a directory of the machine, over and over,
// while others start that mount something there or want it as the source. They may fail; they may not get out.
#[test]
fn cve_2024_23651_a_cache_whose_directories_become_links_while_steps_start_leads_nowhere() {
    need_run!();
    for isolation in isolations() {
        let bench = Bench::new();
        let outside = outside(&bench);
        let real = outside.display();
        bench.file("seed/f", "seed");
        let swap = format!(
            "n=0; touch /c/started; until [ -e /c/stop ] || [ $n -gt 3000 ]; do n=$((n + 1)); \
             rm -rf /c/sub; mkdir -p /c/sub/deep; mv /c/sub /c/old; ln -s {real} /c/sub; \
             rm -rf /c/old; rm -f /c/sub; ln -s ../../../../../../../../../..{real} /c/sub; rm -f /c/sub; done"
        );
        bench.file("Swap", format!("FROM busybox\nRUN --mount=type=cache,id=c,target=/c {swap}\n"));
        bench.file("Stop", "FROM busybox\nRUN --mount=type=cache,id=c,target=/c touch /c/stop\n");
        bench.file(
            "Wait",
            "FROM busybox\nRUN --mount=type=cache,id=c,target=/c for i in $(seq 1000); do [ -e /c/started ] && exit 0; sleep 0.02; done; exit 1\n",
        );
        let steps =
            "echo planted > /c/sub/planted; echo planted > /c/sub/deep/planted; cat /c/sub/* /d/* 2>/dev/null; true";
        let victims = [
            "--mount=source=seed,target=/c/sub,rw",
            "--mount=type=tmpfs,target=/c/sub/deep",
            "--mount=type=cache,id=other,target=/c/sub/deep/more",
            "--mount=type=cache,id=c,source=sub,target=/d",
            "--mount=type=cache,id=fresh,from=base,source=link,target=/d",
        ];
        for (n, mount) in victims.iter().enumerate() {
            // The last one's source is a link out of the stage it comes from. A part of a cache, which was BuildKit's
            // way out, is refused; that it stays so is tested with the front end.
            bench.file(
                &format!("Victim{n}"),
                format!("FROM busybox AS base\nRUN ln -s {real} /link && mkdir -p /d\nFROM base\nARG N\nRUN --mount=type=cache,id=c,target=/c {mount} {steps}\n"),
            );
        }
        // Without mounts a cache is lent to one step at a time: there is no race, and who waits would wait for ever.
        let racing = *isolation != "chroot";
        let start = |name: &str, more: &[&str]| {
            let file = bench.ctx().join(name).display().to_string();
            bench.build_command(&[&["--isolation", isolation, "-f", &file], more].concat()).spawn().unwrap()
        };
        let end = |child: std::process::Child| finish(child.wait_with_output().unwrap());
        let swapping = if racing {
            let child = start("Swap", &[]);
            end(start("Wait", &["--no-cache"])).ok();
            Some(child)
        } else {
            let once = bench.ctx().join("Swap");
            fs::write(&once, fs::read_to_string(&once).unwrap().replace("rm -f /c/sub; done", "touch /c/stop; done"))
                .unwrap();
            end(start("Swap", &[])).ok();
            None
        };
        for round in 0..3 {
            let arg = format!("N={round}");
            let children: Vec<_> =
                (0..victims.len()).map(|n| start(&format!("Victim{n}"), &["--build-arg", &arg])).collect();
            for child in children {
                let run = end(child);
                assert!(!run.stderr.contains(CANARY) && !run.stdout.contains(CANARY), "{}", run.stderr);
                assert!(!run.stderr.contains("panicked"), "{}", run.stderr);
            }
            assert_untouched(&outside);
        }
        if let Some(child) = swapping {
            end(start("Stop", &[])).ok();
            end(child).ok();
        }
        assert_untouched(&outside);
    }
}

// SPEC C5.18. CVE-2024-23652: the directory made for a mount is moved away and a link to a directory of the machine (or of the image)
// put in its place; what is then taken away must be what was made.
#[test]
fn cve_2024_23652_a_mountpoint_that_became_a_link_takes_nothing_outside_with_it() {
    need_run!();
    for isolation in isolations() {
        for snapshotter in SNAPSHOTTERS {
            if *isolation == "chroot" && snapshotter == "overlay" {
                // It mounts nothing.
                continue;
            }
            let bench = Bench::new();
            let outside = outside(&bench);
            let real = outside.display();
            let up = format!("../../../../../../../../../../../..{real}");
            // Without mounts the loss of a cache is an error.
            let last = if *isolation == "chroot" { "tmpfs" } else { "cache" };
            bench.file("seed", "seed");
            bench.dockerfile(&format!(
                "FROM busybox\nRUN mkdir -p /keep/deep/deeper /p1 /p2 /p3 /p4 && touch /keep/empty\n\
                 RUN --mount=type=tmpfs,target=/p1/x/deep/deeper mv /p1/x /p1/moved; ln -s {real} /p1/x; true\n\
                 RUN --mount=type=tmpfs,target=/p2/x/deep mv /p2/x /p2/moved; ln -s {up} /p2/x; true\n\
                 RUN --mount=type=bind,source=seed,target=/p3/x/empty mv /p3/x /p3/moved; ln -s {real} /p3/x; true\n\
                 RUN --mount=type=tmpfs,target=/p4/x/deep/deeper mv /p4/x /p4/moved; ln -s /keep /p4/x; true\n\
                 RUN --mount=type={last},target=/p1/y/deep mv /p1/y /p1/moved2; ln -s {real} /p1/y; mv /p1 /q1; ln -s {real} /p1; true\n"
            ));
            let image = bench.build_image(&["--isolation", isolation, "--snapshotter", snapshotter]);
            assert_untouched(&outside);
            let tree = image.tree();
            for kept in ["keep/deep/deeper", "keep/empty"] {
                assert!(tree.contains_key(kept), "{kept} of the image went, {isolation} {snapshotter}");
            }
            assert!(!tree.values().any(|n| n.content == CANARY.as_bytes()));
            if snapshotter == "native" {
                // There it is really a rename, so the trick was played.
                assert_eq!(tree["p2/x"].link, up, "{isolation}");
                assert_eq!(tree["p4/x"].link, "/keep", "{isolation}");
            }
        }
    }
}

/// What a command has said so far, line by line.
fn lines_of(child: &mut Child) -> impl Iterator<Item = String> + use<> {
    BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok)
}

// SPEC C4.07: whoever is second waits for the first one's result, in other processes and from other contexts too.
#[test]
fn c4_07_processes_that_build_the_same_step_at_once_run_it_once() {
    need_run!();
    const STEPS: &str = "FROM busybox\nCOPY f /f\nRUN sleep 2; NONCE > /n\nRUN NONCE > /m\n";
    let bench = bench(STEPS);
    bench.file("f", "f");
    let other = bench.path("elsewhere");
    fs::create_dir(&other).unwrap();
    for name in ["f", "Dockerfile"] {
        fs::copy(bench.ctx().join(name), other.join(name)).unwrap();
    }
    let builds: Vec<_> = (0..4)
        .map(|n| {
            let tar = bench.path(&format!("{n}.tar"));
            let out = format!("type=oci,dest={}", tar.display());
            let context = if n % 2 == 0 { bench.ctx() } else { other.clone() };
            let mut words = vec!["build".to_owned(), "-o".into(), out, context.display().to_string()];
            words.extend(bench.args.iter().cloned());
            let mut command = bench.command(words);
            (tar, command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
        })
        .collect();
    let mut runs = BTreeSet::new();
    for (tar, child) in builds {
        finish(child.wait_with_output().unwrap()).ok();
        let image = Image::open_tar(&tar);
        runs.insert((image.text("n"), image.text("m")));
    }
    assert_eq!(runs.len(), 1, "{runs:?}");
}

// SPEC C4.07: who waits for another build's step does not wait for one that is gone.
#[test]
fn c4_07_a_step_whose_build_was_killed_is_run_by_who_waited_for_it() {
    need_run!();
    // The value of a secret is not in the key: this is the same step for both.
    let bench =
        bench("FROM busybox\nRUN --mount=type=secret,id=ends echo begun; [ -s /run/secrets/ends ] || sleep 100000\n");
    let yes = bench.path("yes");
    fs::write(&yes, "yes").unwrap();
    let start = |args: &[&str]| {
        let mut command = bench.build_command(args);
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let mut first = start(&[]);
    // Kept open: who cannot say anything any more ends by itself.
    let mut heard = lines_of(&mut first);
    assert!(heard.any(|line| line.ends_with(" begun")), "the step was not begun");
    let secret = format!("id=ends,src={}", yes.display());
    let mut second = start(&["--secret", &secret]);
    let mut said = lines_of(&mut second);
    assert!(said.any(|line| line.contains("busybox")), "the second build was not begun");
    first.kill().unwrap();
    first.wait().unwrap();
    assert!(said.any(|line| line.ends_with(" begun")), "nobody runs the step");
    said.for_each(drop);
    assert!(second.wait().unwrap().success());
}

// SPEC B2.19, C4.08: stages by name whatever the case, several at once; the others stay cached. That everything built on a
// stage is in the cache does not spare the stage from running.
#[test]
fn b2_19_only_the_named_stages_run_again() {
    need_run!();
    let bench = bench(
        "FROM busybox AS one\nRUN NONCE > /n; echo same > /same # 1\nFROM busybox AS two\nRUN NONCE > /n # 2\n\
         FROM busybox AS three\nRUN NONCE > /n # 3\nFROM three AS child\nRUN cp /n /m\n\
         FROM busybox\nCOPY --from=one /same /same\nRUN NONCE > /last\n\
         COPY --from=one /n /one\nCOPY --from=two /n /two\nCOPY --from=child /m /three\n",
    );
    let numbers = |args: &[&str]| {
        let image = bench.build_image(args);
        ["one", "two", "three", "last"].map(|path| image.text(path))
    };
    let mut last = numbers(&[]);
    let mut check = |args: &[&str], again: [bool; 4]| {
        let now = numbers(args);
        let changed = [0, 1, 2, 3].map(|i| now[i] != last[i]);
        assert_eq!(changed, again, "{args:?}");
        last = now;
    };
    check(&[], [false; 4]);
    // What is copied of the stage first has not changed, so what follows is still found.
    check(&["--no-cache-filter", "ONE"], [true, false, false, false]);
    check(&["--no-cache-filter", "one,three"], [true, false, true, false]);
    check(&["--no-cache-filter", "two", "--no-cache-filter", "three"], [false, true, true, false]);
    check(&["--no-cache-filter", "two", "--no-cache"], [true; 4]);
    // A name that no stage has is passed over, as with BuildKit, and said.
    let said = bench.build(&["--no-cache-filter", "tow", "--no-cache-filter="]).ok().stderr;
    assert_eq!(said.matches("no stage is called tow (did you mean two?)").count(), 1, "{said}");
    // What ran last is what the cache has from then on.
    check(&[], [false; 4]);
    // The caches of others are no way around it either.
    let cache = bench.path("cache");
    check(&["--cache-to", &format!("type=local,dest={},mode=max", cache.display())], [false; 4]);
    bench.rbuild(&["system", "reset", "--force"]).ok();
    let from = format!("type=local,src={}", cache.display());
    check(&["--cache-from", &from, "--no-cache-filter", "one"], [true, false, false, false]);
}

// SPEC B2.19: stages of the same steps are one; told to run again under either name they do.
#[test]
fn b2_19_a_stage_that_equals_another_runs_again_under_either_name() {
    need_run!();
    let bench = bench(
        "FROM busybox AS one\nRUN NONCE > /n\nFROM busybox AS two\nRUN NONCE > /n\n\
         FROM scratch\nCOPY --from=one /n /one\nCOPY --from=two /n /two\n",
    );
    let mut before = bench.build_image(&[]).text("one");
    for name in ["one", "two"] {
        let image = bench.build_image(&["--no-cache-filter", name]);
        assert_ne!(image.text(name), before, "{name} was not run");
        assert_eq!(image.text("one"), image.text("two"));
        before = image.text("one");
    }
}

// SPEC B2.24: a tag that moved in the registry.
#[test]
fn b2_24_pull_asks_the_registry_again() {
    need_run!();
    let registry = need!(Registry::start());
    let bench = Bench::new();
    let tag = format!("{}/base:1", registry.host);
    let publish = |content: &str| {
        let base = Bench::new();
        base.dockerfile(&format!("FROM busybox\nRUN echo {content} > /base\n"));
        base.build(&["-t", &tag, "--push"]).ok();
    };
    publish("old");
    bench.dockerfile(&format!("FROM {tag}\nRUN {NONCE} > /nonce && cat /base > /seen\n"));
    let old = bench.build_image(&[]);
    assert_eq!(old.text("seen"), "old\n");
    assert_eq!(bench.build_image(&["--pull"]).text("nonce"), old.text("nonce"), "the same image is no reason");
    publish("new");
    let new = bench.build_image(&["--pull"]);
    assert_eq!(new.text("seen"), "new\n");
    assert_eq!(bench.build_image(&["--pull=true"]).text("nonce"), new.text("nonce"));
    // Who asks must get an answer.
    drop(registry);
    assert_ne!(bench.build(&["--pull"]).code, 0);
}

/// The records of `du`, with the filters given.
fn records(bench: &Bench, filters: &[&str]) -> Vec<serde_json::Value> {
    let mut args = vec!["du", "--format", "json"];
    args.extend(filters.iter().flat_map(|f| ["--filter", f]));
    serde_json::from_str(&bench.rbuild(&args).ok().stdout).unwrap()
}

fn ids(records: &[serde_json::Value]) -> BTreeSet<String> {
    records.iter().map(|r| r["ID"].as_str().unwrap().to_owned()).collect()
}

// SPEC B8.04, B8.05: every key and operator; what `du` lists under a filter is what `prune` takes under it, and nothing else.
#[test]
fn b8_05_prune_takes_what_its_filters_name_and_nothing_else() {
    need_run!();
    let bench = bench(
        "FROM busybox\nCOPY f /f\nRUN --mount=type=cache,target=/c echo x > /c/x; echo one > /one\nRUN echo two > /two\n",
    );
    bench.file("f", "f");
    let build = || bench.build(&[]).ok();
    build();
    let all = records(&bench, &[]);
    let find = |type_: &str, text: &str| {
        let found = all.iter().find(|r| r["Type"] == type_ && r["Description"].as_str().unwrap().contains(text));
        found.unwrap_or_else(|| panic!("no {type_} with {text} in {all:?}"))["ID"].as_str().unwrap().to_owned()
    };
    let (below, top, mount) = (find("regular", "echo one"), find("regular", "echo two"), find("exec.cachemount", ""));
    let cases: Vec<Vec<String>> = vec![
        vec!["until=24h".into()],
        vec!["type=exec.cachemount".into(), "until=1h".into()],
        vec!["type=frontend".into()],
        vec!["inuse".into(), "type=regular".into()],
        vec!["type==exec.cachemount".into()],
        vec![format!("id={mount}")],
        vec![format!("id={top}")],
        vec!["type=regular".into(), "description~=echo (one|two)".into()],
        vec!["mutable".into(), "type=exec.cachemount".into()],
        vec!["mutable=true".into(), "type!=regular".into(), "type!=source.local".into()],
        vec!["immutable".into(), "description~=echo two$".into()],
        vec!["description~=^no such step$".into()],
        vec!["type=regular".into(), "private".into()],
        vec!["shared".into()],
        vec!["type=regular,description~=echo (one|two),private".into()],
        vec![format!("parents={below}")],
    ];
    for case in cases {
        let filters: Vec<&str> = case.iter().map(String::as_str).collect();
        build();
        let before = records(&bench, &[]);
        let named = records(&bench, &filters);
        let expected: BTreeSet<String> = ids(&named)
            .intersection(&ids(&named.iter().filter(|r| r["Reclaimable"] == true).cloned().collect::<Vec<_>>()))
            .cloned()
            .collect();
        let mut args = vec!["prune", "--force"];
        args.extend(filters.iter().flat_map(|f| ["--filter", f]));
        let run = bench.rbuild(&args).ok();
        let gone: BTreeSet<String> = ids(&before).difference(&ids(&records(&bench, &[]))).cloned().collect();
        assert_eq!(gone, expected, "{filters:?}\n{}", run.stdout);
        assert!(run.stdout.contains("Total:"), "{}", run.stdout);
    }
    for (bad, words) in [
        ("colour=red", "unknown key"),
        ("until=soon", "is not a duration"),
        ("until!=1h", "until=<duration>"),
        ("description~=(", ""),
        ("type>regular", "unknown key"),
    ] {
        bench.rbuild(&["prune", "--force", "--filter", bad]).fails(2, &[bad, words]);
        bench.rbuild(&["du", "--filter", bad]).fails(2, &[bad, words]);
    }
}
