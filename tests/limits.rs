//! What steps may use, and what is said when they use more (SPEC A5.17, B2.26, B2.32, C4.14, C5.09, C5.10).
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stderr, reason = "skip reasons are collected by scripts/test")]
#![allow(missing_docs, unreachable_pub, reason = "a test program")]

mod support;

use support::Bench;

// A step that hangs is stopped with all it has started.
// SPEC C4.14
#[test]
fn a_step_that_takes_too_long_is_stopped() {
    need_run!();
    let bench = Bench::new();
    bench.dockerfile("FROM busybox\nRUN (setsid sleep 2718 &); trap '' TERM; sleep 2719\n");
    bench.build(&["--step-timeout", "500ms"]).fails(9, &["took longer than 500ms", "--step-timeout"]);
    let running = std::process::Command::new("pgrep").args(["-f", "^sleep 271[89]"]).output().unwrap();
    assert!(running.stdout.is_empty(), "processes survived their step");
    bench.dockerfile("FROM busybox\nRUN true\n");
    bench.build(&["--step-timeout", "1h30m"]).ok();
    bench.build(&["--step-timeout", "soon"]).fails(2, &["--step-timeout: invalid duration \"soon\""]);
}

// SPEC B2.32, C5.09: limits of the kernel's own, and the one on processes that every step of a user namespace has.
#[test]
fn b2_32_limits_of_processes() {
    need_run!();
    let bench = Bench::new();
    bench.dockerfile(
        "FROM busybox\nRUN ulimit -n > /files; ulimit -u > /processes\n\
         RUN (for i in $(seq 60); do sleep 5 & done) 2> /bomb; true\n",
    );
    let image = bench.build_image(&["--ulimit", "nofile=123:456", "--ulimit", "nproc=40"]);
    assert_eq!((image.text("files").trim(), image.text("processes").trim()), ("123", "40"));
    if !rustix::process::geteuid().is_root() {
        // (The kernel exempts the machine's root, for whom there are control groups.)
        assert!(image.text("bomb").contains("fork"), "60 processes within a limit of 40: {}", image.text("bomb"));
        let image = bench.build_image(&["--no-cache"]);
        let processes: u64 = image.text("processes").trim().parse().unwrap_or(u64::MAX);
        assert!(processes <= 16_384, "no bound on processes: {processes}");
    }
}

// SPEC B2.26, C4.14, C5.10: limits of control groups are set or refused, and memory that ran out has its name.
#[test]
fn b2_26_limits_of_control_groups() {
    need_run!();
    let bench = Bench::new();
    bench.dockerfile("FROM busybox\nRUN dd if=/dev/zero of=/dev/null bs=400M count=1\n");
    let run = bench.build(&["--memory", "64m"]);
    if run.stderr.contains("cannot limit memory") {
        run.fails(10, &["cannot limit memory: ", "control group", "hint: give rbuild a control group of its own"]);
        bench.build(&["--pids-limit", "30"]).fails(10, &["cannot limit pids: "]);
        skip!("no control groups of one's own here: memory limits were seen to be refused only");
    }
    run.fails(9, &["exit code: 137: cannot allocate memory", "hint: the kernel killed a process of the step"]);
    bench.build(&["--resource", "memory=800m,cpu-shares=512"]).ok();
    bench.dockerfile("FROM busybox\nRUN (for i in $(seq 60); do sleep 5 & done) 2> /bomb; true\n");
    let image = bench.build_image(&["--pids-limit", "30"]);
    assert!(image.text("bomb").contains("fork"), "60 processes within a limit of 30: {}", image.text("bomb"));
}

/// A control group that was given to a user, of either version.
struct Delegated(std::path::PathBuf);

impl Delegated {
    fn new(controller: &str, ids: &[u32]) -> Option<Self> {
        let top = std::path::Path::new("/sys/fs/cgroup");
        let name = format!("rbuild-delegated-{controller}-{}", std::process::id());
        let unified = std::fs::read_to_string(top.join("cgroup.subtree_control"));
        let group = match unified {
            Ok(on) if on.split_whitespace().any(|word| word == controller) => top.join(name),
            Ok(_) => return None,
            Err(_) => top.join(controller).join(name),
        };
        std::fs::create_dir(&group).ok()?;
        let group = Self(group);
        // What cgroups(7) has to be given to whoever a group is delegated to; version 1 has the first two.
        for file in ["", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"] {
            let _ = std::os::unix::fs::chown(group.0.join(file), Some(ids[0]), Some(ids[1]));
        }
        group.0.join("cgroup.procs").exists().then_some(group)
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        // Housekeeping of the builds may still be in there.
        for _ in 0..50 {
            for step in std::fs::read_dir(&self.0).into_iter().flatten().flatten() {
                let _ = std::fs::remove_dir(step.path());
            }
            let _ = std::fs::remove_dir(&self.0);
            if !self.0.exists() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
    }
}

// SPEC B2.26, C5.10: a group that an ordinary user was given is enough, and the build never leaves it.
#[test]
fn b2_26_a_delegated_group_limits_the_steps_of_a_user() {
    use std::os::unix::fs::{PermissionsExt as _, chown};
    need_run!();
    if !rustix::process::geteuid().is_root() {
        skip!("only root can give control groups away");
    }
    let user = std::env::var("RBUILD_TEST_USER").unwrap_or_else(|_| "rbuild-test".into());
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
    let Some(line) = passwd.lines().find(|line| line.starts_with(&format!("{user}:"))) else {
        skip!("there is no test user");
    };
    let ids: Vec<u32> = line.split(':').skip(2).take(2).map(|id| id.parse().unwrap()).collect();
    let [Some(for_memory), Some(for_processes)] = ["memory", "pids"].map(|limit| Delegated::new(limit, &ids)) else {
        skip!("no control groups can be made here");
    };
    let dir = tempfile::Builder::new().prefix("rbuild-delegated-").tempdir_in("/var/tmp").unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::copy(support::rbuild_path(), dir.path().join("rbuild")).unwrap();
    for (at, text) in [
        "FROM busybox\nRUN dd if=/dev/zero of=/dev/null bs=400M count=1\n",
        "FROM busybox\nRUN (for i in $(seq 60); do sleep 5 & done) 2> /bomb; grep -q fork /bomb\n",
    ]
    .iter()
    .enumerate()
    {
        std::fs::create_dir(dir.path().join(at.to_string())).unwrap();
        std::fs::write(dir.path().join(format!("{at}/Dockerfile")), text).unwrap();
    }
    let home = dir.path().join("home");
    std::fs::create_dir(&home).unwrap();
    chown(&home, Some(ids[0]), Some(ids[1])).unwrap();
    let rbuild = |group: &Delegated, args: &str| {
        let busybox = support::bases().unwrap().join("busybox");
        let script = format!(
            "echo $$ > {}/cgroup.procs || exit 99; \
             exec setpriv --reuid {} --regid {} --clear-groups env -i HOME={} PATH=/usr/sbin:/usr/bin:/sbin:/bin \
             {}/rbuild build --progress plain --isolation userns --build-context busybox=oci-layout://{} {args}",
            group.0.display(),
            ids[0],
            ids[1],
            home.display(),
            dir.path().display(),
            busybox.display(),
        );
        support::finish(std::process::Command::new("sh").args(["-c", &script]).current_dir("/").output().unwrap())
    };
    let memory = rbuild(&for_memory, &format!("--memory 64m {}", dir.path().join("0").display()));
    let processes = rbuild(&for_processes, &format!("--pids-limit 30 {}", dir.path().join("1").display()));
    memory.fails(9, &["exit code: 137: cannot allocate memory", "hint: the kernel killed a process of the step"]);
    processes.ok();
}

// SPEC B2.26
#[test]
fn b2_26_mistakes_are_named() {
    let bench = Bench::new();
    bench.dockerfile("FROM scratch\n");
    for (args, text) in [
        (["--resource", "memry=1g"], "--resource: unknown resource \"memry\" (did you mean memory?)"),
        (["--resource", "memory"], "--resource: invalid size \"\""),
        (["--resource", "cpu-shares=x"], "--resource: invalid cpu-shares \"x\": expected a number"),
        (["--cpuset-cpus", "a"], "--cpuset-cpus: invalid cpuset-cpus \"a\": expected e.g. 0-2"),
        (["--memory", "lots"], "--memory: invalid size \"lots\""),
        (["--memory-swap", "-2"], "--memory-swap: invalid size \"-2\""),
    ] {
        bench.build(&args).fails(2, &[text]);
    }
}

// SPEC B2.11, C9.10
#[test]
fn b2_11_a_build_runs_below_the_control_group_that_is_named() {
    need_run!();
    let bench = Bench::new();
    bench.dockerfile("FROM busybox\nRUN grep Cpus_allowed_list /proc/self/status > /cpus\n");
    bench.build(&["--cgroup-parent", "../up"]).fails(2, &["--cgroup-parent: \"../up\" names no control group"]);
    let name = format!("rbuild-test-{}", std::process::id());
    let below = format!("{name}/builds");
    let places = ["/sys/fs/cgroup/cpuset", "/sys/fs/cgroup"].map(|at| std::path::Path::new(at).join(&name));
    let parent = places.iter().find(|dir| std::fs::create_dir(dir).is_ok() && dir.join("cpuset.cpus").exists());
    let Some(parent) = parent else {
        let run = bench.build(&["--cgroup-parent", &below]);
        let run = run.fails(
            10,
            &["--cgroup-parent", "the control group", "Permission denied", "hint: name a group that is yours"],
        );
        assert!(!run.stderr.contains("load build definition"), "there was work before: {}", run.stderr);
        skip!("no control groups of one's own here: --cgroup-parent was seen to be refused only");
    };
    for (file, text) in [("cpuset.mems", "0"), ("cpuset.cpus", "0")] {
        std::fs::write(parent.join(file), text).unwrap();
    }
    let image = bench.build_image(&["--cgroup-parent", &below]);
    assert_eq!(image.text("cpus").split_whitespace().last(), Some("0"));
    assert_eq!(bench.build(&[]).ok().count("CACHED"), 1, "where a step runs changes nothing about it");
    std::fs::create_dir_all(bench.path("home/.config/rbuild")).unwrap();
    std::fs::write(
        bench.path("home/.config/rbuild/rbuild.toml"),
        format!("[worker.oci]\ndefaultCgroupParent = \"/{below}\"\n"),
    )
    .unwrap();
    assert_eq!(bench.build_image(&["--no-cache"]).text("cpus").split_whitespace().last(), Some("0"));
    // Late housekeeping is still in there: whoever looks at the store waits for its end.
    bench.rbuild(&["du"]).ok();
    std::thread::sleep(std::time::Duration::from_millis(200));
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        for dir in [hierarchy.path().join(&below), hierarchy.path().join(&name)] {
            for group in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
                let _ = std::fs::remove_dir(group.path());
            }
            let _ = std::fs::remove_dir(dir);
        }
    }
}
