//! Real steps on the rungs this machine has: as the calling user, and, when that is root, again as an ordinary user.
//!
//! The program plays all parts: broker (probes and enters), worker (runs the tests), step process.

#![allow(clippy::print_stdout, clippy::print_stderr, missing_docs)]

mod cases;
mod support;

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use rootless::{ProbeInput, Rung, WorkerCommand, WorkerOptions};

/// The ordinary user of the second run, as `scripts/setup` makes it.
const USER: &str = "rbuild-test";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    match args.get(1).map(String::as_str) {
        Some("__step") => rootless::step_main(),
        Some("--list") => {
            println!("steps: test");
            ExitCode::SUCCESS
        }
        Some("__broker") => broker(&args[2..]),
        _ => run_all(&args[1..]),
    }
}

fn run_all(filter: &[String]) -> ExitCode {
    if !Path::new("/bin/busybox").exists() {
        println!("skipped: no /bin/busybox (install busybox-static)");
        return ExitCode::SUCCESS;
    }
    let mut code = broker(filter);
    if rustix::process::geteuid().is_root() {
        if let Some((uid, gid)) = user_ids(USER) {
            code = if as_user(uid, gid, filter) && code == ExitCode::SUCCESS { code } else { ExitCode::FAILURE };
        } else {
            println!("skipped: the userns rung as an ordinary user (no user {USER})");
        }
    }
    code
}

fn user_ids(name: &str) -> Option<(u32, u32)> {
    let text = std::fs::read_to_string("/etc/passwd").ok()?;
    let line = text.lines().find(|l| l.split(':').next() == Some(name))?;
    let mut fields = line.split(':').skip(2);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// Runs this program again as somebody who may not read the target directory.
fn as_user(uid: u32, gid: u32, filter: &[String]) -> bool {
    let dir = tempfile::Builder::new().prefix("rbuild-steps-").tempdir().expect("a temporary directory");
    let exe = dir.path().join("steps");
    std::fs::copy("/proc/self/exe", &exe).expect("a copy of this program");
    std::fs::set_permissions(&exe, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("ours");
    if let Err(e) = std::os::unix::fs::chown(dir.path(), Some(uid), Some(gid)) {
        println!("skipped: as {USER}, whose id does not exist here ({e})");
        return true;
    }
    let status = Command::new(exe)
        .arg("__broker")
        .args(filter)
        .current_dir("/")
        .env("TMPDIR", dir.path())
        .env("HOME", dir.path())
        .uid(uid)
        .gid(gid)
        .status()
        .expect("this program again");
    status.success()
}

fn broker(filter: &[String]) -> ExitCode {
    let uid = rustix::process::geteuid().as_raw();
    let report = rootless::probe(&ProbeInput { store: Path::new("/"), pinned: None });
    println!("uid {uid}: rung {}, proc {:?}, landlock {}", report.rung, report.proc_mode, report.landlock_abi);
    for b in &report.blockers {
        println!("  {}: {} [{}] -> {}", b.rung, b.what, b.evidence, b.remedy);
    }
    if report.rung == Rung::None {
        println!("skipped: no rung that can run steps");
        return ExitCode::SUCCESS;
    }
    let mut modes = vec![report.proc_mode];
    if report.proc_mode == rootless::ProcMode::Fresh {
        modes.push(rootless::ProcMode::Bind);
    }
    let mut code = ExitCode::SUCCESS;
    for mode in modes {
        let mut report = report.clone();
        report.proc_mode = mode;
        let mountpoint = std::env::temp_dir().join(format!("rbuild-steps-state-{uid}"));
        let options = WorkerOptions::new(&report, mountpoint);
        let work = Box::new(|_| worker(&options, filter));
        let status = rootless::enter(WorkerCommand { report: &report, work, fds: vec![] });
        match status {
            Ok(status) if status.success() => {}
            other => {
                println!("worker: {other:?}");
                code = ExitCode::FAILURE;
            }
        }
    }
    code
}

fn worker(options: &WorkerOptions, args: &[String]) -> u8 {
    let context = match rootless::worker_init(options) {
        Ok(context) => context,
        Err(e) => {
            println!("worker_init: {e}");
            return 1;
        }
    };
    let filters: Vec<&String> = args.iter().filter(|a| !a.starts_with('-')).collect();
    let bench = support::Bench::new(context);
    let mut failed = 0;
    for (name, case) in cases::ALL {
        if !filters.is_empty() && !filters.iter().any(|f| name.contains(f.as_str())) {
            continue;
        }
        let started = std::time::Instant::now();
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| case(&bench)));
        let ms = started.elapsed().as_millis();
        println!(
            "test {}/{:?} {name} ... {} ({ms} ms)",
            options.rung,
            options.proc_mode,
            if result.is_ok() { "ok" } else { "FAILED" }
        );
        failed += usize::from(result.is_err());
    }
    drop(bench);
    u8::from(failed != 0)
}
