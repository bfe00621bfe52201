//! The safety net: random multi-stage Dockerfiles and random edits, built with the cache and without, on overlay and
//! native snapshots. Type, mode, ids, xattrs, content and config must be equal, and the whole image where times are fixed
//! (SPEC C4, PAIN 54–63).
//!
//! A run is one comparison: the project as it is after the latest edit, built with a cache that has seen it before that edit and
//! much else, and built again with `--no-cache` by the other snapshotter. Most projects have no RUN and are built in this
//! program's processes ([`equality::inside`]); a part has steps and is built by the real program ([`equality::plain`]).
//!
//! `RBUILD_TEST_SEED` is the first seed (1 if not set; `scripts/test` makes one of the commit, so that each covers others) and
//! `RBUILD_TEST_RUNS` says how many runs; what is printed at a failure repeats it.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stderr, reason = "skip reasons are collected by scripts/test")]
#![allow(missing_docs, unreachable_pub, reason = "a test program")]

mod equality;
mod support;

use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use support::Bench;

/// Processes that build at once.
const PROCESSES: u64 = 2;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

fn first_seed() -> u64 {
    number("RBUILD_TEST_SEED").unwrap_or(1)
}

/// How many runs: what was asked for, or one of the two.
fn runs(normal: u64, long: u64) -> u64 {
    let is_long = std::env::var("RBUILD_TEST_LONG").is_ok_and(|v| !v.is_empty());
    number("RBUILD_TEST_RUNS").unwrap_or(if is_long { long } else { normal })
}

// SPEC C4.01, C4.02
#[test]
fn cached_equals_uncached() {
    need_run!();
    let (first, wanted) = (first_seed(), runs(60, 1000));
    let (next, done) = (AtomicU64::new(first), AtomicU64::new(0));
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..PROCESSES {
            scope.spawn(|| {
                while done.load(Ordering::Relaxed) < wanted && failures.lock().unwrap().is_empty() {
                    match equality::plain::project(next.fetch_add(1, Ordering::Relaxed)) {
                        Ok(runs) => {
                            done.fetch_add(runs, Ordering::Relaxed);
                        }
                        Err(why) => failures.lock().unwrap().push(why),
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "repeat with RBUILD_TEST_SEED={first}\n{}", failures.join("\n\n"));
    eprintln!("compared {} builds with steps from seed {first}", done.into_inner());
}

// SPEC C4.01, C4.02
#[test]
fn cached_equals_uncached_in_many_builds() {
    const NAME: &str = "cached_equals_uncached_in_many_builds";
    if let Ok(order) = std::env::var(equality::inside::WORK) {
        return equality::inside::work(&order);
    }
    need_run!();
    let (first, wanted) = (first_seed(), runs(2000, 10_000));
    let projects = wanted.div_ceil(PROCESSES * equality::inside::ROUNDS);
    let bench = Bench::new();
    let shared = bench.path("shared");
    std::fs::create_dir(&shared).unwrap();
    let program = std::env::current_exe().unwrap();
    let start = |number: u64| {
        let order = format!("{first} {projects} {number} {}", shared.display());
        let mut command: Command = bench.command(["unshare", "--"]);
        command.arg(&program).args(["--exact", NAME, "--nocapture"]).env(equality::inside::WORK, order);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let children: Vec<_> = (0..PROCESSES).map(start).collect();
    let ended: Vec<_> = children.into_iter().map(|child| support::finish(child.wait_with_output().unwrap())).collect();
    let failures: Vec<_> = ended.iter().filter(|run| run.code != 0).map(|run| run.stderr.clone()).collect();
    let images = ended.iter().flat_map(|run| run.stderr.lines()).filter(|line| line.ends_with("are images"));
    images.for_each(|line| eprintln!("{line}"));
    // What the namespace owns, only the namespace can delete.
    bench.rbuild(&["unshare", "--", "rm", "-rf", &shared.display().to_string()]).ok();
    let again = format!("repeat with RBUILD_TEST_SEED={first} RBUILD_TEST_RUNS={wanted}");
    assert!(failures.is_empty(), "{again}\n{}", failures.join("\n\n"));
    eprintln!(
        "compared {} builds in {PROCESSES} processes from seed {first}",
        projects * PROCESSES * equality::inside::ROUNDS
    );
}
