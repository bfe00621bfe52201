//! Steps without namespaces and without privileges (the rung `ptrace`), as an ordinary user.
//!
//! The program plays all parts: broker, worker (runs the tests), step process. Run as root it becomes the user `rbuild-test` first.

#![allow(clippy::print_stdout, clippy::print_stderr, missing_docs)]

#[path = "steps/support.rs"]
mod support;
#[path = "traced/cases.rs"]
mod traced_cases;

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use rootless::{ProbeInput, Rung, WorkerCommand, WorkerOptions};

/// The ordinary user, as `scripts/setup` makes it.
const USER: &str = "rbuild-test";

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
        _ if rustix::process::geteuid().is_root() => as_user(&args[1..]),
        _ => broker(&args[1..]),
    }
}

/// Runs this program again as somebody who may not read the target directory.
fn as_user(filter: &[String]) -> ExitCode {
    let text = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let fields = text.lines().find(|l| l.split(':').next() == Some(USER)).map(|l| l.split(':').collect::<Vec<_>>());
    let ids = fields.and_then(|f| Some((f.get(2)?.parse::<u32>().ok()?, f.get(3)?.parse::<u32>().ok()?)));
    let Some((uid, gid)) = ids else {
        println!("skipped: no user {USER}");
        return ExitCode::SUCCESS;
    };
    let dir = tempfile::Builder::new().prefix("rbuild-traced-").tempdir().expect("a temporary directory");
    let exe = dir.path().join("traced");
    std::fs::copy("/proc/self/exe", &exe).expect("a copy of this program");
    std::fs::set_permissions(&exe, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("ours");
    if let Err(e) = std::os::unix::fs::chown(dir.path(), Some(uid), Some(gid)) {
        println!("skipped: as {USER}, whose id does not exist here ({e})");
        return ExitCode::SUCCESS;
    }
    let mut command = Command::new(exe);
    command.arg("__broker").args(filter).current_dir("/").env("TMPDIR", dir.path()).env("HOME", dir.path());
    match command.uid(uid).gid(gid).status().expect("this program again").success() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
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
    let context = match rootless::worker_init(options) {
        Ok(context) => context,
        Err(e) => {
            println!("worker_init: {e}");
            return 1;
        }
    };
    let filters: Vec<&String> = args.iter().filter(|a| !a.starts_with('-')).collect();
    let bench = support::Bench::new(context);
    for (name, furnish) in [("dev", rootless::furnish_dev as fn(&Path) -> _), ("proc", rootless::furnish_proc)] {
        furnish(&bench.root.join(name)).expect("furnishes");
    }
    let mut failed = 0;
    for (name, case) in traced_cases::ALL {
        if !filters.is_empty() && !filters.iter().any(|f| name.contains(f.as_str())) {
            continue;
        }
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| case(&bench)));
        println!("test {name} ... {}", if result.is_ok() { "ok" } else { "FAILED" });
        failed += usize::from(result.is_err());
    }
    drop(bench);
    u8::from(failed != 0)
}
