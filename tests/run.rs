//! `exec::run` over a busybox root, on the rung this machine has.
//!
//! The program plays all parts: broker (probes and enters), worker (runs the tests), step process.

#![allow(clippy::print_stdout, missing_docs)]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rbuild::base::events::Stream;
use rbuild::base::{Digest, Event, Events};
use rbuild::exec::run::{ExecError, RunRequest, RunResult, Runner, StepOptions, failure_text};
use rbuild::llb::op::{HostIp, Meta, NetMode, SecurityMode};
use rootless::step::StepMount;
use rootless::{ProbeInput, ProcMode, Rung, WorkerCommand, WorkerContext, WorkerOptions};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    match args.get(1).map(String::as_str) {
        Some(rootless::STEP_ROLE) => rootless::step_main(),
        Some("--list") => {
            println!("run: test");
            ExitCode::SUCCESS
        }
        _ => broker(),
    }
}

fn broker() -> ExitCode {
    if !Path::new("/bin/busybox").exists() {
        println!("skipped: no /bin/busybox (install busybox-static)");
        return ExitCode::SUCCESS;
    }
    let report = rootless::probe(&ProbeInput { store: Path::new("/"), pinned: None });
    if report.rung == Rung::None {
        println!("skipped: no rung that can run steps: {:?}", report.blockers);
        return ExitCode::SUCCESS;
    }
    println!("rung {}", report.rung);
    let state = tempfile::tempdir().expect("a temporary directory");
    let options = WorkerOptions::new(&report, state.path().join("state"));
    let work = Box::new(|_| worker(&options));
    match rootless::enter(WorkerCommand { report: &report, work, fds: vec![] }) {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        other => {
            println!("worker: {other:?}");
            ExitCode::FAILURE
        }
    }
}

fn worker(options: &WorkerOptions) -> u8 {
    let context = rootless::worker_init(options).expect("a worker");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let root = busybox_root(dir.path());
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| runtime.block_on(cases(&context, &root))));
    runtime.shutdown_timeout(Duration::from_secs(1));
    u8::from(result.is_err())
}

fn busybox_root(dir: &Path) -> PathBuf {
    let umask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("ours");
    let root = dir.join("root");
    for sub in ["bin", "etc", "proc", "sys", "dev", "tmp", "secrets"] {
        fs::create_dir_all(root.join(sub)).expect("a directory");
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).expect("busybox-static");
    for applet in ["sh", "cat", "id", "sleep", "pwd", "hostname", "env", "setsid", "touch", "rm"] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).expect("a link");
    }
    for (file, text) in [
        ("etc/passwd", "root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n"),
        ("etc/group", "root:x:0:\napp:x:1001:\nstaff:x:50:app\n"),
        ("etc/hosts", ""),
        ("etc/resolv.conf", ""),
    ] {
        fs::write(root.join(file), text).expect("writable");
    }
    // Steps must not depend on what the caller's shell has.
    rustix::process::umask(umask);
    root
}

/// Log events with the time they came.
#[derive(Clone, Default)]
struct Logs(Arc<Mutex<Vec<(Stream, String, Instant)>>>);

impl Logs {
    fn events(&self) -> Events {
        let logs = self.clone();
        Events::new(move |event| {
            if let Event::Log { stream, data, .. } = event {
                let text = String::from_utf8_lossy(&data).into_owned();
                logs.0.lock().expect("no panic").push((stream, text, Instant::now()));
            }
        })
    }

    fn text(&self, wanted: Stream) -> String {
        self.0.lock().expect("no panic").iter().filter(|(s, ..)| *s == wanted).map(|(_, t, _)| t.as_str()).collect()
    }
}

fn sh(script: &str) -> Meta {
    Meta { args: vec!["/bin/sh".into(), "-c".into(), script.into()], cwd: "/".into(), ..Meta::default() }
}

fn request<'a>(meta: &'a Meta, root: &'a Path) -> RunRequest<'a> {
    RunRequest {
        meta,
        network: NetMode::Unset,
        security: SecurityMode::Sandbox,
        root,
        mounts: vec![],
        extra_env: vec![],
        extra_groups: Vec::new(),
        shm_size: 0,
        confidential: false,
        aside: None,
        caches: vec![],
        followed: false,
    }
}

async fn run(runner: &Runner, request: RunRequest<'_>) -> (Result<RunResult, ExecError>, String, String) {
    let logs = Logs::default();
    let vertex = Digest::sha256(b"vertex");
    let result = runner.run_step(request, &logs.events(), &vertex, std::future::pending()).await;
    (result, logs.text(Stream::Stdout), logs.text(Stream::Stderr))
}

/// Runs a case and says so as the standard harness does; a panic ends them all.
macro_rules! case {
    ($name:ident($($argument:expr),*)) => {{
        $name($($argument),*).await;
        println!("test {} ... ok", stringify!($name));
    }};
}

async fn cases(context: &WorkerContext, root: &Path) {
    let runner = Runner::new(context.clone(), StepOptions::default()).expect("a runner");
    case!(exit_codes_and_streams(&runner, root));
    case!(users_and_directories(&runner, root));
    case!(names(&runner, root));
    case!(output_comes_as_it_is_written(&runner, root));
    case!(cancellation_kills_at_once(&runner, root));
    case!(errors_are_typed(&runner, context, root));
    case!(many_at_once(&runner, root));
    case!(secrets_alone_without_landlock(context, root));
    let left = fs::read_dir(context.state_dir.join("f")).expect("made by steps").count();
    assert_eq!(left, 0, "files of steps remain");
}

async fn exit_codes_and_streams(runner: &Runner, root: &Path) {
    let meta = sh("echo out; echo err >&2; exit 3");
    let (result, out, err) = run(runner, request(&meta, root)).await;
    assert_eq!((result.expect("ran").code, out.as_str(), err.as_str()), (3, "out\n", "err\n"));
    let (failed, _, _) = run(runner, request(&meta, root)).await;
    assert!(failure_text(&meta, &failed.expect("ran")).ends_with("did not complete successfully: exit code: 3"));
    let mut meta = sh("/bin/env");
    meta.env = vec!["A=b".into()];
    let mut with_secret = request(&meta, root);
    with_secret.extra_env = vec![("TOKEN".into(), "t".into())];
    let (_, out, _) = run(runner, with_secret).await;
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    for line in ["A=b", path, "TOKEN=t", "HOME=/root"] {
        assert!(out.lines().any(|l| l == line), "{line} in {out}");
    }
}

/// SPEC C5.04, C5.05.
async fn users_and_directories(runner: &Runner, root: &Path) {
    let mut meta = sh("id; pwd; touch mine");
    (meta.user, meta.cwd) = ("app".into(), "/srv/new/deep".into());
    let (result, out, err) = run(runner, request(&meta, root)).await;
    assert_eq!(result.expect("ran").code, 0, "{err}");
    assert_eq!(out, "uid=1000(app) gid=1001(app) groups=50(staff),1001(app)\n/srv/new/deep\n");
    let made = fs::metadata(root.join("srv/new")).expect("made");
    assert_eq!((made.uid(), made.gid(), made.mode() & 0o777), (1000, 1001, 0o755));
    assert_eq!(fs::metadata(root.join("srv/new/deep/mine")).expect("made").uid(), 1000);
}

/// SPEC C5.02, C5.03.
async fn names(runner: &Runner, root: &Path) {
    let mut meta = sh("cat /etc/hosts; hostname; echo x > /etc/hosts; cat /etc/resolv.conf");
    meta.extra_hosts = vec![HostIp { host: "db".into(), ip: "10.9.8.7".into() }];
    let on_the_machines = |meta| RunRequest { network: NetMode::Host, ..request(meta, root) };
    let (_, out, err) = run(runner, on_the_machines(&meta)).await;
    assert!(out.starts_with("127.0.0.1\tlocalhost buildkitsandbox\n"), "{out}");
    assert!(out.contains("\n10.9.8.7\tdb\nbuildkitsandbox\n"), "{out}");
    assert!(err.contains("Read-only"), "{err}");
    let system = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    assert!(out.ends_with(&format!("buildkitsandbox\n{system}")), "{out}");
    for file in ["etc/hosts", "etc/resolv.conf"] {
        assert_eq!(fs::read_to_string(root.join(file)).expect("still there"), "", "{file} in the layer");
    }
    // As images with systemd-resolved have it.
    fs::create_dir_all(root.join("run/systemd")).expect("a directory");
    fs::rename(root.join("etc/resolv.conf"), root.join("run/systemd/stub.conf")).expect("movable");
    std::os::unix::fs::symlink("/run/systemd/stub.conf", root.join("etc/resolv.conf")).expect("a link");
    let meta = sh("cat /etc/resolv.conf");
    assert_eq!(run(runner, on_the_machines(&meta)).await.1, system);
}

async fn output_comes_as_it_is_written(runner: &Runner, root: &Path) {
    let logs = Logs::default();
    let meta = sh("echo first; sleep 0.4; echo second");
    let vertex = Digest::sha256(b"vertex");
    runner.run_step(request(&meta, root), &logs.events(), &vertex, std::future::pending()).await.expect("ran");
    let seen = logs.0.lock().expect("no panic");
    assert_eq!(seen.len(), 2);
    assert!(seen[1].2 - seen[0].2 > Duration::from_millis(200));
}

async fn cancellation_kills_at_once(runner: &Runner, root: &Path) {
    let meta = sh("trap '' TERM; setsid sh -c 'while :; do touch /tmp/alive; sleep 0.02; done' & sleep 60");
    let alive = root.join("tmp/alive");
    let vertex = Digest::sha256(b"vertex");
    for drop_it in [false, true] {
        let waiting = async {
            while !alive.exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if drop_it {
            let events = Events::none();
            let run = runner.run_step(request(&meta, root), &events, &vertex, std::future::pending());
            tokio::select! { _ = run => panic!("cannot end"), () = waiting => {} }
        } else {
            let result = runner.run_step(request(&meta, root), &Events::none(), &vertex, waiting).await;
            assert!(matches!(result, Err(ExecError::Canceled)), "{result:?}");
        }
        fs::remove_file(&alive).expect("it ran");
        tokio::time::sleep(Duration::from_millis(150)).await;
        assert!(!alive.exists(), "somebody still runs");
    }
}

async fn errors_are_typed(runner: &Runner, context: &WorkerContext, root: &Path) {
    let mut meta = sh("true");
    meta.user = "ghost".into();
    let error = run(runner, request(&meta, root)).await.0.expect_err("no such user");
    assert_eq!(error.to_string(), "unable to find user ghost: no matching entries in /etc/passwd of the image");
    if context.rung == Rung::Userns && !context.ids.has_uid(2_000_000_000) {
        meta.user = "2000000000".into();
        let error = run(runner, request(&meta, root)).await.0.expect_err("not mapped").to_string();
        assert!(error.starts_with("user id 2000000000 is outside of the ids that are mapped here (0-"), "{error}");
    }
    // Hostile: a working directory in somebody's descriptors.
    meta = sh("pwd");
    meta.cwd = "/proc/self/fd/5".into();
    let error = run(runner, request(&meta, root)).await.0.expect_err("refused");
    assert!(error.to_string().contains("working directory /proc/self/fd/5"), "{error}");
    assert!(fs::read_dir(root.join("proc")).expect("there").next().is_none(), "nothing made below /proc");
    meta = sh("true");
    let mut bad = request(&meta, root);
    bad.mounts = vec![StepMount::Bind { source: "/no/such".into(), target: "/tmp".into(), readonly: true }];
    let error = run(runner, bad).await.0.expect_err("no such source");
    assert!(error.to_string().contains("/no/such"), "{error}");
}

async fn many_at_once(runner: &Runner, root: &Path) {
    let metas: Vec<Meta> = (0..8).map(|n| sh(&format!("echo {n}; exit {n}"))).collect();
    let runs = metas.iter().map(|meta| run(runner, request(meta, root)));
    for (n, (result, out, _)) in (0..).zip(futures_util::future::join_all(runs).await) {
        assert_eq!((result.expect("ran").code, out), (n, format!("{n}\n")));
    }
}

/// Where /proc is shared and nothing keeps steps apart, a step with secrets must not run beside another.
async fn secrets_alone_without_landlock(context: &WorkerContext, root: &Path) {
    let mut context = context.clone();
    (context.proc_mode, context.landlock_abi) = (ProcMode::Bind, 0);
    let runner = Runner::new(context, StepOptions::default()).expect("a runner");
    let meta = sh("test -e /tmp/busy && exit 9; touch /tmp/busy; sleep 0.1; rm /tmp/busy");
    let runs = (0..4).map(|_| {
        let mut confidential = request(&meta, root);
        confidential.confidential = true;
        run(&runner, confidential)
    });
    for (result, _, err) in futures_util::future::join_all(runs).await {
        assert_eq!(result.expect("ran").code, 0, "two ran at once: {err}");
    }
}
