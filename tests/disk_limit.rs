//! A disk limit that is a limit (SPEC C9.04, C9.05; PAIN 73, 74, 78): many builds at once, some killed, under a small cap.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stderr, reason = "skip reasons are collected by scripts/test")]
#![allow(missing_docs, unreachable_pub, reason = "a test program")]

mod support;

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use support::image::Image;
use support::{Bench, Run, finish};

/// A layer that is new in every build, a cache mount that grows and is trimmed by its step, a log, and a file to know the
/// result by.
const DOCKERFILE: &str = "FROM busybox
ARG N
RUN --mount=type=cache,target=/c,sharing=locked head -c 3000000 /dev/urandom > /layer && head -c 500000 /layer > /c/$N && \\
  ls -t /c | tail -n +4 | while read f; do rm /c/$f; done; seq 2000; echo $N > /n
RUN test $(cat /n) = $N && cp /n /copied
";

/// Bytes on the disk below a directory of the store's user namespace.
fn du(bench: &Bench) -> Option<u64> {
    let run = bench.rbuild(&["unshare", "du", "-s", "-B1", &bench.store().display().to_string()]);
    // Files that go while it looks are no matter; what it found counts.
    run.stdout.split_whitespace().next()?.parse().ok()
}

/// The same as `rbuild du` says.
fn counted(bench: &Bench) -> u64 {
    let usage: serde_json::Value =
        serde_json::from_str(&bench.rbuild(&["du", "--format", "json"]).ok().stdout).unwrap();
    usage.as_array().unwrap().iter().map(|r| r["Size"].as_u64().unwrap()).sum()
}

fn limited(bench: &Bench, cap: u64) -> String {
    let config = bench.path("rbuild.toml");
    std::fs::write(&config, format!("[worker.oci]\nmaxUsedSpace = {cap}\nreservedSpace = 0\n")).unwrap();
    config.display().to_string()
}

/// One build; `None` when it was killed.
fn one(bench: &Bench, config: &str, n: u64, kill_after: Option<Duration>) -> Option<(Run, Image)> {
    let tar = bench.path(&format!("{n}.tar"));
    let (out, arg) = (format!("type=oci,dest={}", tar.display()), format!("N={n}"));
    let mut command = bench.build_command(&["-o", &out, "--build-arg", &arg]);
    command.arg("--config").arg(config);
    let mut child = command.spawn().unwrap();
    if let Some(after) = kill_after {
        std::thread::sleep(after);
        child.kill().unwrap();
        if child.wait().unwrap().code().is_none() {
            let _ = std::fs::remove_file(&tar);
            return None;
        }
    }
    let run = finish(child.wait_with_output().unwrap());
    let run = if kill_after.is_some() { run } else { run.ok() };
    let image = Image::open_tar(&tar);
    std::fs::remove_file(&tar).unwrap();
    Some((run, image))
}

#[test]
fn c9_05_many_builds_and_kills_stay_below_the_cap() {
    need_run!();
    let long = std::env::var("RBUILD_TEST_LONG").is_ok_and(|v| !v.is_empty());
    let builds: u64 = if long { 200 } else { 24 };
    // What one build needs while it runs, base image included.
    let alone = Bench::new();
    alone.dockerfile(DOCKERFILE);
    one(&alone, &limited(&alone, 1 << 40), 0, None).unwrap();
    counted(&alone);
    let working_set = du(&alone).unwrap();

    let bench = Bench::new();
    bench.dockerfile(DOCKERFILE);
    let cap = 24_000_000;
    let config = limited(&bench, cap);
    let (next, peak, over) = (AtomicU64::new(1), AtomicU64::new(0), AtomicBool::new(false));
    let (finished, killed) = (AtomicU64::new(0), AtomicU64::new(0));
    let lost = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        let mut workers = Vec::new();
        for _ in 0..4 {
            workers.push(scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n > builds {
                        break;
                    }
                    // Every third one, at points that are spread over its life.
                    let kill = (n % 3 == 0).then(|| Duration::from_millis(20 + n * 97 % 700));
                    match one(&bench, &config, n, kill) {
                        Some((_, image)) if image.text("copied") == format!("{n}\n") => {
                            finished.fetch_add(1, Ordering::Relaxed);
                        }
                        Some(_) => lost.lock().unwrap().push(n),
                        None => drop(killed.fetch_add(1, Ordering::Relaxed)),
                    }
                }
            }));
        }
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                peak.fetch_max(du(&bench).unwrap_or(0), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        let ended: Vec<_> = workers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        over.store(true, Ordering::Relaxed);
        assert!(ended.iter().all(Result::is_ok), "a build failed");
    });
    let (peak, killed) = (peak.into_inner(), killed.into_inner());
    eprintln!("{} builds, {killed} killed: cap {cap}, working set {working_set}, peak {peak}", finished.into_inner());
    assert_eq!(lost.into_inner().unwrap(), [0_u64; 0], "results of other builds");
    assert!(killed > 0, "no build lived long enough to be killed");
    // Four at work at any time; what has ended cleans up, and what a killed one left is gone when the next one begins.
    assert!(peak <= cap + 4 * working_set, "peak {peak}, cap {cap}, working set {working_set}");
    // One more alone, and nothing is left of the others but what fits.
    one(&bench, &config, builds + 1, None).unwrap();
    // This waits for what the last build left to be done.
    let counted = counted(&bench);
    let real = du(&bench).unwrap();
    assert!(real <= cap + cap / 50, "{real} bytes at rest, the cap is {cap}");
    assert!(real.abs_diff(counted) <= real / 100, "du says {real}, rbuild du says {counted}");
    assert!(directory_is_small(&bench.store().join("tmp")), "work in progress of nobody");
}

fn directory_is_small(dir: &Path) -> bool {
    std::fs::read_dir(dir).unwrap().count() <= 1
}

// SPEC C9.05: reports and logs of builds count, and go when nothing else is left to go.
#[test]
fn c9_05_logs_count_and_are_collected() {
    need_run!();
    let bench = Bench::new();
    bench.dockerfile("FROM busybox\nARG N\nRUN head -c 3000000 /dev/urandom | od -x; echo $N\n");
    let config = limited(&bench, 6_000_000);
    for n in 0..4 {
        bench.build(&["--config", &config, "--build-arg", &format!("N={n}")]).ok();
    }
    counted(&bench);
    let histories = std::fs::read_dir(bench.store().join("history")).unwrap().count();
    let real = du(&bench).unwrap();
    assert!(histories < 4 && real <= 6_500_000, "{histories} histories, {real} bytes");
}

#[test]
fn c9_04_collection_can_be_switched_off_and_ruled() {
    need_run!();
    let bench = Bench::new();
    bench.dockerfile("FROM busybox\nRUN --mount=type=cache,target=/c echo x > /c/x; echo $(ls /c | wc -l) > /n\nRUN rm /c/x || true\n");
    let config = bench.path("rbuild.toml");
    let build = |text: &str| {
        std::fs::write(&config, text).unwrap();
        bench.build(&["--config", &config.display().to_string()]).ok()
    };
    let kinds = || bench.rbuild(&["du", "--verbose"]).ok().stdout;
    build("[worker.oci]\ngc = false\nmaxUsedSpace = 1\nreservedSpace = 0\n");
    assert!(kinds().contains("exec.cachemount") && kinds().contains("RUN"));
    bench.file("Dockerfile", "FROM busybox\nRUN --mount=type=cache,target=/c echo y > /c/x\n");
    build("[[worker.oci.gcpolicy]]\nfilters = [\"type==exec.cachemount\"]\nkeepDuration = \"0s\"\n");
    assert!(!kinds().contains("exec.cachemount") && kinds().contains("RUN"), "{}", kinds());
    bench.file("Dockerfile", "FROM busybox\nRUN echo z\nRUN false\n");
    std::fs::write(&config, "[worker.oci]\nmaxUsedSpace = 1\nreservedSpace = 0\n").unwrap();
    bench.build(&["--config", &config.display().to_string()]).fails(9, &["exit code: 1"]);
    assert!(!kinds().contains("RUN"), "a build that failed is followed by a collection, too: {}", kinds());
}
