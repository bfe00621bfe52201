//! Why something was not found in the cache: every kind of input, changed one at a time (PAIN 72).
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stderr, reason = "skip reasons are collected by scripts/test")]
#![allow(missing_docs, unreachable_pub, reason = "a test program")]

mod support;

use support::Bench;

const DOCKERFILE: &str = "FROM busybox AS tools
RUN echo tool > /tool
FROM busybox AS main
ARG V=1
ENV E=1
COPY src /src
COPY --from=tools /tool /tool
RUN --mount=type=bind,source=mnt,target=/mnt cat /mnt/* > /cat
RUN echo $V > /v
";

fn project() -> Bench {
    let bench = Bench::new();
    bench.file("src/a", "a").file("src/d/b", "b").file("mnt/m", "m").symlink("a", "src/l").dockerfile(DOCKERFILE);
    bench
}

/// The first reason of the last build, as text and as JSON.
fn first(bench: &Bench) -> (String, serde_json::Value) {
    let ctx = bench.ctx().display().to_string();
    let json = bench.rbuild(&["explain", "--format", "json", &ctx]).ok().stdout;
    let steps: serde_json::Value = serde_json::from_str(&json).unwrap();
    let missed = steps.as_array().unwrap().iter().find(|s| s["cached"] == false);
    let Some(missed) = missed.cloned() else { return (String::new(), serde_json::Value::Null) };
    let text = bench.rbuild(&["explain", &ctx]).ok().stdout;
    let step = missed["step"].as_str().unwrap();
    let line = text.lines().skip_while(|l| *l != step).nth(1).unwrap_or_default().trim().to_owned();
    (line, missed)
}

/// What to change, and what must be said: the kind of input, its name, and words of the detail.
type Case = (&'static str, fn(&Bench), &'static [&'static str], &'static str, &'static str, &'static str);

fn dockerfile(bench: &Bench, from: &str, to: &str) {
    let text = DOCKERFILE.replace(from, to);
    assert_ne!(text, DOCKERFILE);
    bench.dockerfile(&text);
}

fn remove(bench: &Bench, name: &str) {
    std::fs::remove_file(bench.ctx().join(name)).unwrap();
}

const CASES: &[Case] = &[
    (
        "content of a file",
        |b| {
            b.file("src/a", "x");
        },
        &[],
        "file",
        "src/a",
        "has other content",
    ),
    (
        "a file in a directory",
        |b| {
            b.file("src/d/b", "xyz");
        },
        &[],
        "file",
        "src/d/b",
        "has other content",
    ),
    (
        "a new file",
        |b| {
            b.file("src/0", "x");
        },
        &[],
        "file",
        "src/0",
        "is new",
    ),
    ("a file that went", |b| remove(b, "src/d/b"), &[], "file", "src/d/b", "is gone"),
    (
        "a renamed file",
        |b| std::fs::rename(b.ctx().join("src/d/b"), b.ctx().join("src/d/c")).unwrap(),
        &[],
        "file",
        "src/d/b",
        "is gone",
    ),
    ("a new directory", |b| std::fs::create_dir(b.ctx().join("src/0")).unwrap(), &[], "file", "src/0", "is new"),
    (
        "a mode",
        |b| {
            b.chmod("src/a", 0o755);
        },
        &[],
        "file",
        "src/a",
        "has mode 755",
    ),
    (
        "a directory's mode",
        |b| {
            b.chmod("src/d", 0o700);
        },
        &[],
        "file",
        "src/d",
        "has mode 700",
    ),
    (
        "a symlink",
        |b| {
            remove(b, "src/l");
            b.symlink("d", "src/l");
        },
        &[],
        "file",
        "src/l",
        "points elsewhere",
    ),
    (
        "a file that became a symlink",
        |b| {
            remove(b, "src/a");
            b.symlink("d/b", "src/a");
        },
        &[],
        "file",
        "src/a",
        "was a file, is a symlink",
    ),
    (
        "an ignored file",
        |b| {
            b.file(".dockerignore", "src/d\n");
        },
        &[],
        "file",
        "src/d",
        "is gone",
    ),
    (
        "a mounted file",
        |b| {
            b.file("mnt/m", "x");
        },
        &[],
        "file",
        "mnt/m",
        "has other content",
    ),
    (
        "a file beside it",
        |b| {
            b.file("mnt/n", "x");
        },
        &[],
        "file",
        "mnt/n",
        "is new",
    ),
    ("a build argument", |_| {}, &["--build-arg", "V=2"], "variable", "V", "has another value"),
    ("an argument's default", |b| dockerfile(b, "V=1", "V=3"), &[], "variable", "V", "has another value"),
    ("an environment variable", |b| dockerfile(b, "E=1", "E=2"), &[], "variable", "E", "has another value"),
    ("a new variable", |b| dockerfile(b, "ENV E=1", "ENV E=1 F=2"), &[], "variable", "F", "is new"),
    ("a variable that went", |b| dockerfile(b, "ENV E=1\n", ""), &[], "variable", "E", "is gone"),
    ("a command", |b| dockerfile(b, "echo $V > /v", "echo $V > /w"), &[], "command", "", "echo $V > /w"),
    ("a copy's destination", |b| dockerfile(b, "COPY src /src", "COPY src /other"), &[], "instruction", "", "/other"),
    ("an owner", |b| dockerfile(b, "COPY src", "COPY --chown=1:2 src"), &[], "instruction", "", "--chown=1:2"),
    ("permission bits", |b| dockerfile(b, "COPY src", "COPY --chmod=640 src"), &[], "instruction", "", "--chmod=640"),
    ("what another stage made", |b| dockerfile(b, "echo tool", "echo saw"), &[], "command", "", "echo saw"),
    ("a working directory", |b| dockerfile(b, "RUN echo $V", "WORKDIR /src\nRUN echo $V"), &[], "instruction", "", ""),
    ("a user", |b| dockerfile(b, "RUN echo $V > /v", "USER 7\nRUN echo $V > /v || true"), &[], "command", "", ""),
    ("a shell", |b| dockerfile(b, "RUN echo $V", "SHELL [\"/bin/sh\",\"-xc\"]\nRUN echo $V"), &[], "shell", "", "-xc"),
    ("a mount's target", |b| dockerfile(b, "target=/mnt cat /mnt/*", "target=/m cat /m/*"), &[], "command", "", "/m/*"),
    (
        "a new mount",
        |b| dockerfile(b, "RUN echo $V", "RUN --mount=type=tmpfs,target=/t echo $V"),
        &[],
        "mount",
        "/t",
        "is new",
    ),
    (
        "a secret",
        |b| dockerfile(b, "RUN echo $V", "RUN --mount=type=secret,id=s echo $V"),
        &[],
        "mount",
        "/run/secrets/s",
        "is new",
    ),
    ("a network", |b| dockerfile(b, "RUN echo $V", "RUN --network=none echo $V"), &[], "network", "", "none"),
    ("a host", |_| {}, &["--add-host", "h:1.2.3.4"], "host", "h", "is new"),
    ("a limit", |_| {}, &["--ulimit", "nofile=100:200"], "limit", "nofile", "is new"),
    ("a hostname", |_| {}, &["--build-arg", "BUILDKIT_SANDBOX_HOSTNAME=box"], "hostname", "", "box"),
    ("the size of /dev/shm", |_| {}, &["--shm-size", "10m"], "mount", "/dev/shm", "is new"),
];

// SPEC C4.01
#[test]
fn the_first_input_that_differs_is_named() {
    need_run!();
    let bench = project();
    bench.build(&[]).ok();
    let mut wrong = Vec::new();
    for (what, change, args, input, name, detail) in CASES {
        // The state that everything is compared with.
        let _ = std::fs::remove_dir_all(bench.ctx());
        std::fs::create_dir(bench.ctx()).unwrap();
        bench.file("src/a", "a").file("src/d/b", "b").file("mnt/m", "m").symlink("a", "src/l").dockerfile(DOCKERFILE);
        bench.build(&[]).ok();
        change(&bench);
        let run = bench.build(args).ok();
        let (line, json) = first(&bench);
        let fits = json["input"] == *input
            && json["name"] == *name
            && json["detail"].as_str().unwrap_or_default().contains(detail);
        // The text says the same as the JSON, and so does the progress.
        let told = line.contains(detail) && run.stderr.contains(&format!("not cached: {line}"));
        if !fits || !told {
            wrong.push(format!("{what}: {json}\n  {line}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {} are wrong:\n{}", wrong.len(), CASES.len(), wrong.join("\n"));
    assert!(CASES.len() >= 25);
}

// SPEC C4.08, C9.06
#[test]
fn evicted_results_and_unwanted_caches_are_named() {
    need_run!();
    let bench = project();
    bench.build(&[]).ok();
    assert_eq!(first(&bench).1["reason"], "new");
    bench.build(&["--no-cache"]).ok();
    assert_eq!(first(&bench).1["reason"], "no-cache");
    bench.rbuild(&["prune", "--force", "--filter", "type=regular"]).ok();
    let run = bench.build(&[]).ok();
    let (line, json) = first(&bench);
    assert_eq!(json["reason"], "evicted", "{json}");
    assert!(run.stderr.contains(&format!("not cached: {line}")), "{}", run.stderr);
    bench.rbuild(&["explain", "/nowhere"]).fails(2, &["cannot find /nowhere"]);
    bench.rbuild(&["explain", &bench.path("out").display().to_string()]).fails(2, &["nothing is remembered"]);
}
