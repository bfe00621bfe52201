//! Users, groups, owners and devices on every rung: the same calls of 64-bit and 32-bit programs have the same answers and
//! leave the same tree, whether the kernel answers them or we do (rung `userns-one`).
//!
//! DESIGN 7; SPEC C5.05, C6.09.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stderr, reason = "skip reasons are collected by scripts/test")]
#![allow(missing_docs, unreachable_pub, reason = "a test program")]

mod support;

use std::process::Command;

use support::Bench;
use support::image::Image;

/// A bench with `calls64` and, where the machine runs such programs, `calls32` in its context.
fn bench() -> Option<(Bench, Vec<&'static str>)> {
    if let Err(reason) = support::can_run() {
        eprintln!("skipped: {reason}");
        return None;
    }
    if !cfg!(target_arch = "x86_64") {
        eprintln!("skipped: the calls are those of x86-64 and i386");
        return None;
    }
    let bench = Bench::new();
    bench.file("calls.c", include_str!("ids/calls.c"));
    let mut widths = Vec::new();
    for width in ["64", "32"] {
        let name = format!("calls{width}");
        let compiled = Command::new("gcc")
            .arg(format!("-m{width}"))
            .args("-O1 -fno-builtin -fno-pic -no-pie -fno-stack-protector -ffreestanding -nostdlib -static".split(' '))
            .args(["-Wall", "-Werror", "-o", &name, "calls.c"])
            .current_dir(bench.ctx())
            .output();
        match compiled {
            Ok(output) if output.status.success() => {}
            Ok(output) => panic!("{}", String::from_utf8_lossy(&output.stderr)),
            Err(e) => {
                eprintln!("skipped: gcc: {e}");
                return None;
            }
        }
        if Command::new(bench.ctx().join(&name)).arg("ids").output().is_ok() {
            widths.push(width);
        } else {
            eprintln!("skipped: this machine runs no {width}-bit programs");
        }
    }
    Some((bench, widths))
}

/// The image of a Dockerfile on a rung; `None` where the machine does not have it.
fn image_on(bench: &Bench, rung: &str) -> Option<Image> {
    // What another rung made is not asked for.
    let run = bench.build(&["--no-cache", "--isolation", rung, "-o", "type=cacheonly"]);
    if run.code == 10 && run.stderr.contains("does not work here") {
        eprintln!("skipped: no isolation {rung} here");
        return None;
    }
    run.ok();
    Some(bench.build_image(&["--isolation", rung]))
}

fn rungs() -> &'static [&'static str] {
    if rustix::process::geteuid().is_root() { &["root", "userns", "userns-one"] } else { &["userns", "userns-one"] }
}

// SPEC C5.04, C5.19
#[test]
fn calls_have_the_same_answers_on_every_rung() {
    let Some((bench, widths)) = bench() else { return };
    for width in widths {
        bench.dockerfile(&format!(
            "FROM busybox\nCOPY --chmod=755 calls{width} /calls\n\
             RUN cp /calls /setid && chown 33:44 /setid && chmod 6755 /setid && mkdir /t && cd /t && /calls all > /said\n\
             USER 1000:1001\nRUN /setid ids > /tmp/setid && /calls ids > /tmp/own\n"
        ));
        let mut expected: Option<Vec<String>> = None;
        for rung in rungs() {
            let Some(image) = image_on(&bench, rung) else { continue };
            let mut found: Vec<String> = ["said", "tmp/setid", "tmp/own"]
                .iter()
                .flat_map(|file| image.text(file).lines().map(str::to_owned).collect::<Vec<_>>())
                .collect();
            for (path, node) in image.tree() {
                if path == "t" || path.starts_with("t/") || path.starts_with("tmp/") || path == "setid" {
                    let device =
                        if matches!(node.kind, 'c' | 'b') { format!("{:?}", node.device) } else { String::new() };
                    found.push(format!(
                        "/{path} {}{:04o} {}:{} {device}{}",
                        node.kind, node.mode, node.uid, node.gid, node.link
                    ));
                }
            }
            assert!(found.iter().any(|line| line.starts_with("/t/w/a -0644 1002:21 ")), "{found:#?}");
            match &expected {
                None => expected = Some(found),
                Some(expected) => {
                    let longest = expected.len().max(found.len());
                    let at = (0..longest).find(|at| expected.get(*at) != found.get(*at));
                    if let Some(at) = at {
                        let around = |lines: &[String]| {
                            lines[at.saturating_sub(6).min(lines.len())..lines.len().min(at + 3)].join("\n")
                        };
                        panic!(
                            "{width}-bit calls on {rung}, line {at}:\n{}\non {}:\n{}",
                            around(&found),
                            rungs()[0],
                            around(expected)
                        );
                    }
                }
            }
        }
    }
}

/// A signal does not restart a call that was answered already (`SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV`).
#[test]
fn signals_do_not_repeat_calls() {
    let Some((bench, _)) = bench() else { return };
    bench.dockerfile("FROM busybox\nCOPY --chmod=755 calls64 /calls\nRUN mkdir /t && cd /t && /calls storm > /said\n");
    for rung in rungs() {
        if let Some(image) = image_on(&bench, rung) {
            assert_eq!(image.text("said"), "failed 0\n", "{rung}");
        }
    }
}

/// The kernel takes one listener only: below another one the calls succeed and do nothing, where that was asked for.
// SPEC C5.19
#[test]
fn inside_of_a_step_owners_are_lost_but_steps_run() {
    if !std::env::var("RBUILD_TEST_LONG").is_ok_and(|v| !v.is_empty()) {
        skip!("rbuild inside of a step of rbuild, which copies whole trees (long tier)");
    }
    need_run!();
    let bench = Bench::new();
    bench.file(
        "inner/Dockerfile",
        "FROM busybox\nRUN touch /f && chown 33:44 /f && id -u > /who && stat -c %u /f >> /who\n",
    );
    let dir = bench.path("bin");
    std::fs::create_dir(&dir).unwrap();
    // Without what debuggers read, which is most of it.
    let stripped = Command::new("strip").arg("-o").arg(dir.join("rbuild")).arg(support::rbuild_path()).output();
    if !stripped.is_ok_and(|output| output.status.success()) {
        skip!("no strip (package binutils)");
    }
    let dir = dir.display().to_string();
    let base = support::bases().unwrap().join("busybox").display().to_string();
    let script = "rbuild=/bin-of-rbuild/rbuild\nrun() { $rbuild --root /tmp/s build --progress plain --build-context busybox=oci-layout:///base \"$@\" /in; }\n\
        export HOME=/tmp TMPDIR=/tmp XDG_RUNTIME_DIR=\n\
        $rbuild doctor --root /tmp/s | grep 'seccomp notification' \n\
        run -o type=local,dest=/out --isolation userns-one 2>&1 && cat /out/who\n";
    bench.file("script", script);
    bench.dockerfile(
        "FROM debian\nRUN --security=insecure --mount=type=bind,from=dir,target=/bin-of-rbuild --mount=type=bind,from=base,target=/base \
         --mount=type=bind,source=inner,target=/in --mount=type=bind,source=script,target=/script --mount=type=tmpfs,target=/tmp sh /script > /said 2>&1; cat /said\n",
    );
    let args = [
        "--isolation",
        "userns-one",
        "--allow",
        "security.insecure",
        "--build-context",
        &format!("dir={dir}"),
        "--build-context",
        &format!("base={base}"),
    ];
    let run = bench.build(&args);
    if run.code == 10 && run.stderr.contains("does not work here") {
        skip!("no isolation userns-one here");
    }
    let run = run.ok();
    assert!(run.stderr.contains("seccomp notification: not available"), "{}", run.stderr);
    // As root all the time, whose files are root's.
    let said = run.stderr.lines().filter_map(|line| line.split_once(' ')?.1.split_once(' ')).map(|(_, text)| text);
    let said: Vec<&str> = said.collect();
    assert!(said.windows(2).any(|two| two == ["0", "0"]), "{}", run.stderr);
}
