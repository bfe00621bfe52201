//! The broker's side: entering, descriptors, exit codes, signals, and that nobody outlives it.
//!
//! Runs as the calling user and, when that is root, again as an ordinary one. The program plays all parts.

#![allow(clippy::print_stdout, missing_docs)]

use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use rootless::step::{Network, STEP_VERSION, StepSpec};
use rootless::{ProbeInput, ProbeReport, Rung, SealedExe, WorkerCommand, WorkerOptions};

const USER: &str = "rbuild-test";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    match args.get(1).map(String::as_str) {
        Some(rootless::STEP_ROLE) => rootless::step_main(),
        Some("__broker") => {
            let status = enter(&probe(), &args[2], vec![]);
            println!("code {:?} signal {:?}", status.code(), status.signal());
            ExitCode::SUCCESS
        }
        Some("--list") => {
            println!("enter: test");
            ExitCode::SUCCESS
        }
        Some("__cases") => cases(),
        _ => run_all(),
    }
}

fn run_all() -> ExitCode {
    let mut code = cases();
    if !rustix::process::geteuid().is_root() {
        return code;
    }
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let ids = passwd.lines().find(|l| l.split(':').next() == Some(USER)).and_then(|l| {
        let mut fields = l.split(':').skip(2).map(str::parse::<u32>);
        Some((fields.next()?.ok()?, fields.next()?.ok()?))
    });
    let Some((uid, gid)) = ids else {
        println!("skipped: as an ordinary user (no user {USER})");
        return code;
    };
    let dir = tempfile::Builder::new().prefix("rbuild-enter-").tempdir().expect("a temporary directory");
    let exe = dir.path().join("enter");
    fs::copy("/proc/self/exe", &exe).expect("a copy of this program");
    std::fs::set_permissions(&exe, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("ours");
    if let Err(e) = std::os::unix::fs::chown(dir.path(), Some(uid), Some(gid)) {
        println!("skipped: as {USER}, whose id does not exist here ({e})");
        return code;
    }
    let mut again = Command::new(exe);
    again.arg("__cases").current_dir("/").env("TMPDIR", dir.path()).uid(uid).gid(gid);
    if !again.status().expect("this program again").success() {
        code = ExitCode::FAILURE;
    }
    code
}

fn probe() -> ProbeReport {
    rootless::probe(&ProbeInput { store: Path::new("/"), pinned: None })
}

fn state_dir() -> PathBuf {
    std::env::temp_dir().join(format!("rbuild-enter-state-{}", rustix::process::geteuid().as_raw()))
}

fn enter(report: &ProbeReport, what: &str, fds: Vec<std::os::fd::OwnedFd>) -> std::process::ExitStatus {
    // Descriptors are counted: those of control groups are the worker's own, and depend on the machine.
    let options = WorkerOptions { groups: Vec::new(), ..WorkerOptions::new(report, state_dir()) };
    let work = Box::new(|fds| worker(&options, what, fds));
    rootless::enter(WorkerCommand { report, work, fds }).expect("a worker")
}

fn worker(options: &WorkerOptions, what: &str, fds: Vec<std::os::fd::OwnedFd>) -> u8 {
    let context = rootless::worker_init(options).expect("a worker");
    match what {
        "facts" => {
            let dumpable = rustix::process::dumpable_behavior().expect("known");
            let open: Vec<_> =
                fs::read_dir("/proc/self/fd").expect("readable").map(|e| e.expect("an entry").file_name()).collect();
            let facts = format!(
                "uid {} dumpable {} groups {} fds {} ids {:?} state {}",
                rustix::process::geteuid().as_raw(),
                dumpable == rustix::process::DumpableBehavior::Dumpable,
                rustix::process::getgroups().expect("known").len(),
                open.len(),
                context.ids.sizes().0 >= 65536,
                fs::metadata(&context.state_dir).is_ok(),
            );
            let [_, second] = <[_; 2]>::try_from(fds).expect("two were passed");
            fs::File::from(second).write_all(facts.as_bytes()).expect("a pipe");
            7
        }
        "panic" => {
            std::panic::set_hook(Box::new(|_| {}));
            panic!("of the worker");
        }
        "wait" => {
            // Alive until a signal ends it.
            fs::write(std::env::var_os("ALIVE").expect("set by the test"), "up").expect("writable");
            std::thread::sleep(Duration::from_secs(30));
            0
        }
        "step" => {
            let root = busybox_root(&context.state_dir);
            let marker = PathBuf::from(std::env::var_os("ALIVE").expect("set by the test"));
            let spec = StepSpec {
                version: STEP_VERSION,
                id: "one".into(),
                rootfs: root,
                state_dir: context.state_dir.clone(),
                args: vec!["/bin/sh".into(), "-c".into(), "while :; do echo x > /out/alive; sleep 0.02; done".into()],
                env: vec!["PATH=/bin".into()],
                cwd: "/".into(),
                uid: 0,
                gid: 0,
                groups: vec![],
                hostname: "h".into(),
                mounts: vec![rootless::step::StepMount::Bind {
                    source: marker.parent().expect("a directory").into(),
                    target: "/out".into(),
                    readonly: false,
                }],
                network: Network::Host,
                shm_size: 1 << 20,
                rlimits: vec![],
                capabilities: rootless::Capabilities::default(),
                insecure: false,
                no_new_privileges: false,
                proc_mode: context.proc_mode,
                switch: context.switch(),
                emulation: context.emulation(false),
                fresh_sys: context.rung == Rung::Root,
                cgroup_dir: None,
                attached: None,
                joins: None,
            };
            let exe = SealedExe::new().expect("a sealed program");
            // From a thread that ends: its end must not be taken for the worker's.
            let step = std::thread::spawn(move || rootless::spawn_step(&exe, &spec, Default::default()))
                .join()
                .expect("no panic");
            let outcome = step.expect("a step").wait();
            println!("the step ended: {outcome:?}");
            1
        }
        other => panic!("{other}"),
    }
}

/// In a directory of its own on a file system that allows execution.
fn busybox_root(_: &Path) -> PathBuf {
    let root = std::env::temp_dir().join("root");
    for sub in ["bin", "proc", "sys", "dev", "out"] {
        fs::create_dir_all(root.join(sub)).expect("a directory");
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).expect("busybox-static");
    for applet in ["sh", "sleep"] {
        let _ = std::os::unix::fs::symlink("busybox", root.join("bin").join(applet));
    }
    root
}

fn cases() -> ExitCode {
    let report = probe();
    if report.rung == Rung::None {
        println!("skipped: no rung that can run steps: {:?}", report.blockers);
        return ExitCode::SUCCESS;
    }
    println!("rung {}", report.rung);
    descriptors_and_exit_codes(&report);
    a_panic_stays_in_the_worker(&report);
    signals_are_passed_on();
    if Path::new("/bin/busybox").exists() {
        nobody_outlives_the_broker();
    } else {
        println!("skipped: nobody_outlives_the_broker (no /bin/busybox)");
    }
    cost(&report);
    println!("ok");
    ExitCode::SUCCESS
}

fn descriptors_and_exit_codes(report: &ProbeReport) {
    let groups = rustix::process::getgroups().expect("known").len();
    let (first_r, first_w) = std::io::pipe().expect("a pipe");
    let (mut second_r, second_w) = std::io::pipe().expect("a pipe");
    let status = enter(report, "facts", vec![first_w.into(), second_w.into()]);
    assert_eq!(status.code(), Some(7));
    let mut facts = String::new();
    second_r.read_to_string(&mut facts).expect("readable");
    // 0 to 2, the two, and the directory that lists them.
    assert_eq!(facts, format!("uid 0 dumpable false groups {groups} fds 6 ids true state true"));
    drop(first_r);
    let undumpable = rustix::process::dumpable_behavior().expect("known");
    assert_ne!(undumpable, rustix::process::DumpableBehavior::Dumpable, "the broker too");
    // What this test does next needs its own files in /proc, as a freshly started program has them.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::Dumpable).expect("allowed");
}

/// What called the worker is the broker's, and does not go on in the worker.
fn a_panic_stays_in_the_worker(report: &ProbeReport) {
    let before = std::process::id();
    let status = enter(report, "panic", vec![]);
    assert_eq!((status.code(), std::process::id()), (Some(101), before));
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::Dumpable).expect("allowed");
}

fn broker(what: &str, alive: &Path) -> Child {
    let _ = fs::remove_file(alive);
    let child = Command::new("/proc/self/exe")
        .args(["__broker", what])
        .env("ALIVE", alive)
        .env("TMPDIR", alive.parent().expect("a directory"))
        .stdout(Stdio::piped())
        .spawn()
        .expect("this program");
    let limit = Instant::now() + Duration::from_secs(20);
    while !alive.exists() {
        assert!(Instant::now() < limit, "{what} never came up");
        std::thread::sleep(Duration::from_millis(5));
    }
    child
}

fn kill(child: &Child, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(child.id().cast_signed()).expect("a process id");
    rustix::process::kill_process(pid, signal).expect("our child");
}

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

/// Whether this process was started with a signal ignored, which children inherit.
fn ignored(number: u32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").expect("procfs");
    let mask = status.lines().find_map(|l| l.strip_prefix("SigIgn:")).expect("a mask").trim();
    u64::from_str_radix(mask, 16).expect("hex") >> (number - 1) & 1 == 1
}

fn signals_are_passed_on() {
    let dir = scratch();
    for (signal, number) in
        [(rustix::process::Signal::TERM, 15), (rustix::process::Signal::INT, 2), (rustix::process::Signal::HUP, 1)]
    {
        if ignored(number) {
            println!("skipped: signal {number} is ignored by whoever started the tests (nohup, a background job)");
            continue;
        }
        let child = broker("wait", &dir.path().join("alive"));
        let started = Instant::now();
        kill(&child, signal);
        let out = child.wait_with_output().expect("it ends");
        assert_eq!(String::from_utf8_lossy(&out.stdout), format!("code None signal Some({number})\n"));
        assert!(started.elapsed() < Duration::from_secs(5));
    }
}

fn nobody_outlives_the_broker() {
    let dir = scratch();
    let alive = dir.path().join("alive");
    let mut child = broker("step", &alive);
    // Longer than the thread that started the step lives.
    std::thread::sleep(Duration::from_millis(300));
    fs::remove_file(&alive).expect("written");
    std::thread::sleep(Duration::from_millis(200));
    assert!(alive.exists(), "the step does not run any more");
    kill(&child, rustix::process::Signal::KILL);
    child.wait().expect("it ends");
    std::thread::sleep(Duration::from_millis(300));
    fs::remove_file(&alive).expect("written");
    std::thread::sleep(Duration::from_millis(300));
    assert!(!alive.exists(), "the step still runs");
}

fn cost(report: &ProbeReport) {
    let mut times: Vec<Duration> = (0..10)
        .map(|_| {
            let (_r, w) = std::io::pipe().expect("a pipe");
            let (_s, x) = std::io::pipe().expect("a pipe");
            let started = Instant::now();
            let command = WorkerCommand { report, work: Box::new(|_| 0), fds: vec![w.into(), x.into()] };
            let status = rootless::enter(command).expect("a worker");
            assert!(status.success());
            rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::Dumpable).expect("allowed");
            started.elapsed()
        })
        .collect();
    times.sort();
    let probed = Instant::now();
    let _ = probe();
    println!("  enter: min {:?}, median {:?}; probe {:?}", times[0], times[5], probed.elapsed());
}
