//! Steps without namespaces and without privileges (the rung `ptrace`), as an ordinary user.
//!
//! The program plays all parts: broker, worker (runs the tests), step process. Run as root it becomes the user `rbuild-test` first.

#![allow(clippy::print_stdout, clippy::print_stderr, missing_docs)]

#[path = "steps/support.rs"]
mod support;
#[path = "traced/cases.rs"]
mod traced_cases;
#[path = "steps/user.rs"]
mod user;

use std::path::Path;
use std::process::ExitCode;

use rootless::{ProbeInput, Rung, WorkerCommand, WorkerOptions};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    match args.get(1).map(String::as_str) {
        Some("__step") => rootless::step_main(),
        Some("--list") => {
            println!("traced: test");
            ExitCode::SUCCESS
        }
        _ if !Path::new("/bin/busybox").exists() => {
            println!("skipped: no /bin/busybox (install busybox-static)");
            ExitCode::SUCCESS
        }
        Some("__broker") => broker(&args[2..]),
        _ if rustix::process::geteuid().is_root() => match user::again(&args[1..]) {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        },
        _ => broker(&args[1..]),
    }
}

fn broker(filter: &[String]) -> ExitCode {
    let store = std::env::temp_dir();
    let report = rootless::probe(&ProbeInput { store: &store, pinned: Some(Rung::Ptrace) });
    if report.rung != Rung::Ptrace {
        println!("skipped: {:?}", report.blockers);
        return ExitCode::SUCCESS;
    }
    let options = WorkerOptions::new(&report, store.join("rbuild-traced-state"));
    let work = Box::new(|_| worker(&options, filter));
    match rootless::enter(WorkerCommand { report: &report, work, fds: vec![] }) {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        other => {
            println!("worker: {other:?}");
            ExitCode::FAILURE
        }
    }
}

fn worker(options: &WorkerOptions, args: &[String]) -> u8 {
    support::run(options, args, traced_cases::ALL, |bench| {
        for (name, furnish) in [("dev", rootless::furnish_dev as fn(&Path) -> _), ("proc", rootless::furnish_proc)] {
            furnish(&bench.root.join(name)).expect("furnishes");
        }
    })
}
