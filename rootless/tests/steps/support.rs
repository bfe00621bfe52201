//! A busybox root file system and the running of steps over it.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rootless::step::{Network, STEP_VERSION, StepOutcome, StepSpec};
use rootless::{Rung, RunningStep, SealedExe, WorkerContext, WorkerOptions, spawn_step};

pub(crate) struct Bench {
    pub(crate) context: WorkerContext,
    pub(crate) exe: SealedExe,
    pub(crate) root: PathBuf,
    _dir: tempfile::TempDir,
}

/// A check, and its name.
pub(crate) type Case = (&'static str, fn(&Bench));

/// Runs the cases that `args` name, or all, in a worker of these options; 0 if none failed.
pub(crate) fn run(options: &WorkerOptions, args: &[String], cases: &[Case], furnish: impl FnOnce(&Bench)) -> u8 {
    let context = match rootless::worker_init(options) {
        Ok(context) => context,
        Err(e) => {
            println!("worker_init: {e}");
            return 1;
        }
    };
    let filters: Vec<&String> = args.iter().filter(|a| !a.starts_with('-')).collect();
    let bench = Bench::new(context);
    furnish(&bench);
    let mut failed = 0;
    for (name, case) in cases {
        if !filters.is_empty() && !filters.iter().any(|f| name.contains(f.as_str())) {
            continue;
        }
        let started = std::time::Instant::now();
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| case(&bench)));
        let ms = started.elapsed().as_millis();
        let end = if result.is_ok() { "ok" } else { "FAILED" };
        println!("test {}/{:?} {name} ... {end} ({ms} ms)", options.rung, options.proc_mode);
        failed += usize::from(result.is_err());
    }
    u8::from(failed != 0)
}

/// What a step did.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) outcome: StepOutcome,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    pub(crate) fn code(&self) -> i32 {
        match &self.outcome {
            StepOutcome::Exited { code, .. } => *code,
            StepOutcome::Failed { message } => panic!("not started: {message}"),
        }
    }

    pub(crate) fn failure(&self) -> &str {
        match &self.outcome {
            StepOutcome::Failed { message } => message,
            StepOutcome::Exited { .. } => panic!("started: {self:?}"),
        }
    }
}

impl Bench {
    pub(crate) fn new(context: WorkerContext) -> Self {
        let dir = tempfile::Builder::new().prefix("rbuild-root-").tempdir().expect("a temporary directory");
        let root = dir.path().join("root");
        let umask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
        for sub in ["bin", "etc", "tmp", "proc", "sys", "dev", "work", "home"] {
            fs::create_dir_all(root.join(sub)).expect("a directory");
        }
        fs::copy("/bin/busybox", root.join("bin/busybox")).expect("busybox-static");
        for applet in [
            "sh", "true", "false", "cat", "echo", "id", "env", "ls", "sleep", "pwd", "grep", "ps", "kill", "mount",
            "umount", "touch", "head", "hostname", "ip", "test", "chown", "stat", "setsid", "nc", "mknod", "dd", "wc",
            "unshare", "tr", "readlink", "df", "ulimit", "rm",
        ] {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).expect("a link");
        }
        fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home:/bin/sh\n")
            .expect("writable");
        fs::write(root.join("etc/hosts"), "").expect("writable");
        // Tests of other owners need the directory to be reachable.
        let mode =
            |path: &Path| fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("ours");
        mode(dir.path());
        mode(&root);
        // Steps must not depend on what the caller's shell has.
        rustix::process::umask(umask);
        let exe = SealedExe::new().expect("a sealed program");
        println!("  steps start from {}", exe.describe());
        Self { context, exe, root, _dir: dir }
    }

    pub(crate) fn spec(&self, args: &[&str]) -> StepSpec {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        StepSpec {
            version: STEP_VERSION,
            id: format!("step-{}", NEXT.fetch_add(1, Ordering::Relaxed)),
            rootfs: self.root.clone(),
            state_dir: self.context.state_dir.clone(),
            args: args.iter().map(|s| (*s).to_owned()).collect(),
            env: vec!["PATH=/bin".into(), "HOME=/root".into()],
            cwd: "/".into(),
            uid: 0,
            gid: 0,
            groups: vec![0],
            hostname: "buildkitsandbox".into(),
            mounts: vec![],
            network: Network::Host,
            shm_size: 64 << 20,
            rlimits: vec![],
            capabilities: rootless::Capabilities::default(),
            insecure: false,
            no_new_privileges: false,
            proc_mode: self.context.proc_mode,
            switch: self.context.switch(),
            emulation: self.context.emulation(false),
            fresh_sys: self.context.rung == Rung::Root,
            cgroup_dir: self.context.cgroup_dir.clone(),
            attached: None,
            joins: None,
        }
    }

    pub(crate) fn sh(&self, script: &str) -> StepSpec {
        self.spec(&["/bin/sh", "-c", script])
    }

    pub(crate) fn start(&self, spec: &StepSpec) -> Running {
        let mut step = spawn_step(&self.exe, spec, Default::default()).expect("a step process");
        let read = |fd: Option<std::os::fd::OwnedFd>| {
            let mut file = fs::File::from(fd.expect("a pipe"));
            std::thread::spawn(move || {
                let mut text = Vec::new();
                file.read_to_end(&mut text).expect("readable");
                String::from_utf8_lossy(&text).into_owned()
            })
        };
        let (out, err) = (read(step.stdout.take()), read(step.stderr.take()));
        Running { step, out, err }
    }

    pub(crate) fn run(&self, spec: &StepSpec) -> Ran {
        self.start(spec).wait()
    }
}

pub(crate) struct Running {
    pub(crate) step: RunningStep,
    out: std::thread::JoinHandle<String>,
    err: std::thread::JoinHandle<String>,
}

impl Running {
    pub(crate) fn wait(self) -> Ran {
        let outcome = self.step.wait().expect("an outcome");
        Ran { outcome, out: self.out.join().expect("no panic"), err: self.err.join().expect("no panic") }
    }
}
