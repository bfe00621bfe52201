//! Killed at any moment, the next build just works; several builds at once share one store.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stderr, reason = "skip reasons are collected by scripts/test")]
#![allow(missing_docs, unreachable_pub, reason = "a test program")]
#![allow(clippy::type_complexity, reason = "shapes are compared, not kept")]

mod support;

use std::os::unix::process::ExitStatusExt as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use support::Bench;

const DOCKERFILE: &str = "FROM busybox AS a\nRUN for i in $(seq 200); do echo $i > /f$i; done\nFROM busybox\nCOPY . /ctx/\nCOPY --from=a /f7 /f7\nRUN rm /bin/wget; mkdir /d; echo x > /d/x\n";

// SPEC C4.14
#[test]
fn killed_at_random_points_the_store_stays_whole() {
    need_run!();
    let bench = Bench::new();
    for i in 0..200 {
        bench.file(&format!("f{i}"), format!("{i}").repeat(500));
    }
    bench.dockerfile(DOCKERFILE);
    let started = Instant::now();
    let rounds = if std::env::var("RBUILD_TEST_LONG").is_ok_and(|v| !v.is_empty()) { 200 } else { 20 };
    let mut killed = 0;
    for round in 0..rounds {
        // Something is always new, so that every round has work to be killed in.
        bench.file("round", round.to_string());
        let mut child = bench
            .build_command(&["-t", "x:1", "-o", &format!("type=oci,dest={}", bench.path("k.tar").display())])
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(5 + (round * 37) % 400));
        child.kill().unwrap();
        killed += i32::from(child.wait().unwrap().signal().is_some());
        if started.elapsed() > Duration::from_secs(300) {
            break;
        }
    }
    assert!(killed > 0, "no build lived long enough to be killed");
    let image = bench.build_image(&[]);
    assert_eq!(image.text("f7"), "7\n");
    assert!(!image.has("bin/wget") && image.has("d/x"));
    assert_eq!(image.tree().keys().filter(|p| p.starts_with("ctx/")).count(), 202);
    let fresh = Bench::new();
    for i in 0..200 {
        fresh.file(&format!("f{i}"), format!("{i}").repeat(500));
    }
    fresh.file("round", std::fs::read(bench.ctx().join("round")).unwrap()).dockerfile(DOCKERFILE);
    let strip = |image: &support::image::Image| -> Vec<(String, char, u32, Vec<u8>)> {
        image.tree().into_iter().map(|(p, n)| (p, n.kind, n.mode, n.content)).collect()
    };
    assert_eq!(strip(&image), strip(&fresh.build_image(&[])), "after kills the result is another one");
    bench.rbuild(&["du"]).ok();
    bench.rbuild(&["prune", "--all", "--force"]).ok();
    bench.build(&[]).ok();
}

/// A build that is killed in the milliseconds in which containers are made leaves none of their processes behind.
// SPEC C4.14
#[test]
fn killed_while_steps_start_nothing_is_left_running() {
    need_run!();
    let bench = Bench::new();
    let steps: String = (0..25).map(|n| format!("RUN true # {n}\n")).collect();
    bench.dockerfile(&format!("FROM busybox\n{steps}"));
    bench.build(&[]).ok();
    let rounds = if std::env::var("RBUILD_TEST_LONG").is_ok_and(|v| !v.is_empty()) { 200 } else { 30 };
    for round in 0..rounds {
        let mut child =
            bench.build_command(&["--no-cache"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(80 + (round * 23) % 500));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let mut left = orphans();
    for _ in 0..100 {
        if left.is_empty() {
            break;
        }
        // What another test has just killed is gone in a moment.
        std::thread::sleep(Duration::from_millis(100));
        let now = orphans();
        left.retain(|pid| now.contains(pid));
    }
    assert!(left.is_empty(), "step processes without a builder: {left:?}");
}

/// Step processes whose parent is no process of rbuild.
fn orphans() -> Vec<String> {
    let command_line = |pid: &str| std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let numbers = processes.filter_map(|e| e.file_name().into_string().ok().filter(|n| n.parse::<u32>().is_ok()));
    numbers
        .filter(|pid| command_line(pid).starts_with(b"rbuild\0__step"))
        .filter(|pid| {
            let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else { return false };
            let field =
                |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).map(str::trim).unwrap_or_default();
            // The worker has the command line of the program that was started.
            let parent = command_line(field("PPid:"));
            let parent = parent.split(|b| *b == 0).next().unwrap_or_default().rsplit(|b| *b == b'/').next();
            !field("State:").starts_with('Z') && parent != Some(b"rbuild")
        })
        .collect()
}

// SPEC C4.07
#[test]
fn several_builds_at_once_share_a_store_and_run_a_vertex_once() {
    need_run!();
    let bench = Bench::new();
    bench.dockerfile("FROM busybox\nRUN --mount=type=cache,target=/c echo x >> /c/runs; sleep 1; wc -l < /c/runs > /runs\nRUN cat /runs\n");
    let children: Vec<_> = (0..4).map(|_| bench.build_command(&[]).spawn().unwrap()).collect();
    for child in children {
        support::finish(child.wait_with_output().unwrap()).ok();
    }
    assert_eq!(bench.build_image(&[]).text("runs"), "1\n");
}

// SPEC B2.35
#[test]
fn an_interrupted_build_stops_at_once_and_leaves_nothing_behind() {
    need_run!();
    let bench = Bench::new();
    bench.dockerfile("FROM busybox\nRUN echo started; sleep 2718\n");
    let child = bench.build_command(&[]).spawn().unwrap();
    let started = Instant::now();
    while !running() && started.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(50));
    }
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::INT).unwrap();
    // A step that is waited for takes three quarters of an hour.
    let run = support::finish(child.wait_with_output().unwrap());
    assert_eq!(run.code, 130, "{}", run.stderr);
    assert!(!running(), "the step survived");
    let left: Vec<_> = std::fs::read_dir(bench.store().join("tmp")).unwrap().flatten().map(|e| e.path()).collect();
    assert!(left.is_empty(), "{left:?}");
}

fn running() -> bool {
    let found = std::process::Command::new("pgrep").args(["-f", "^sleep 2718"]).output().unwrap();
    !found.stdout.is_empty()
}
