//! Real steps on the rungs this machine has: as the calling user, and, when that is root, again as an ordinary user.
//!
//! The program plays all parts: broker (probes and enters), worker (runs the tests), step process.

#![allow(clippy::print_stdout, clippy::print_stderr, missing_docs)]

mod cases;
mod support;
mod user;

use std::path::Path;
use std::process::ExitCode;

use rootless::{ProbeInput, Rung, WorkerCommand, WorkerOptions};

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
    if rustix::process::geteuid().is_root() && !user::again(filter) {
        code = ExitCode::FAILURE;
    }
    code
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
    // Where it is not the best one there is, as nobody's who has subordinate ids.
    let report = rootless::probe(&ProbeInput { store: Path::new("/"), pinned: Some(Rung::UsernsOne) });
    if report.rung != Rung::UsernsOne {
        println!("skipped: what concerns one id: {:?}", report.blockers);
        return code;
    }
    let options = WorkerOptions::new(&report, std::env::temp_dir().join(format!("rbuild-steps-one-{uid}")));
    let work = Box::new(|_| support::run(&options, filter, cases::ONE_ID, |_| {}));
    match rootless::enter(WorkerCommand { report: &report, work, fds: vec![] }) {
        Ok(status) if status.success() => code,
        other => {
            println!("worker: {other:?}");
            ExitCode::FAILURE
        }
    }
}

fn worker(options: &WorkerOptions, args: &[String]) -> u8 {
    support::run(options, args, cases::ALL, |_| {})
}
