//! The checks.

use std::fs;
use std::time::{Duration, Instant};

use rootless::step::{Network, Rlimit, StepMount, StepOutcome};

use crate::support::{Bench, Case};

pub(crate) const ALL: &[Case] = &[
    ("exit_codes_and_output", exit_codes_and_output),
    ("a_missing_program_is_127", a_missing_program_is_127),
    ("signals", signals),
    ("environment_is_exact", environment_is_exact),
    ("ids_and_groups", ids_and_groups),
    ("capabilities_and_no_new_privs", capabilities_and_no_new_privs),
    ("seccomp", seccomp),
    ("standard_mounts", standard_mounts),
    ("masked_and_readonly_paths", masked_and_readonly_paths),
    ("network_none", network_none),
    ("extra_mounts", extra_mounts),
    ("limits_hostname_umask", limits_hostname_umask),
    ("working_directory", working_directory),
    ("working_directory_outside", working_directory_outside),
    ("another_steps_proc", another_steps_proc),
    ("no_stray_descriptors", no_stray_descriptors),
    ("proc_self_exe_is_harmless", proc_self_exe_is_harmless),
    ("failures_name_their_cause", failures_name_their_cause),
    ("insecure", insecure),
    ("kill_takes_the_whole_tree", kill_takes_the_whole_tree),
    ("leftovers_do_not_delay", leftovers_do_not_delay),
    ("parallel", parallel),
    ("no_state_remains", no_state_remains),
    ("cost", cost),
];

/// Those of the rung `userns-one`.
pub(crate) const ONE_ID: &[Case] = &[("the_umask_is_the_steps", the_umask_is_the_steps)];

/// What is made in a step's stead has the step's umask taken from its mode, and not that of the process that makes it.
fn the_umask_is_the_steps(b: &Bench) {
    let mut as_user = b.sh("umask 002; cd /tmp; touch f; mkdir d; mknod p p; stat -c '%n %a' f d p; rm -r f d p");
    (as_user.uid, as_user.gid, as_user.groups) = (1000, 1000, vec![1000]);
    let ran = b.run(&as_user);
    let device = b.run(&b.sh("umask 002; cd /tmp; mknod n c 1 3; stat -c '%n %a' n; rm n"));
    assert_eq!(ran.out, "f 664\nd 775\np 664\n", "{ran:?}");
    assert_eq!(device.out, "n 664\n", "{device:?}");
}

fn exit_codes_and_output(b: &Bench) {
    let ran = b.run(&b.sh("echo out; echo err >&2; exit 7"));
    assert_eq!((ran.code(), ran.out.as_str(), ran.err.as_str()), (7, "out\n", "err\n"));
    assert_eq!(b.run(&b.spec(&["true"])).code(), 0);
    let ran = b.run(&b.sh("dd if=/dev/zero bs=1024 count=4096 2>/dev/null | tr '\\0' x"));
    assert_eq!(ran.out.len(), 4 << 20);
    let StepOutcome::Exited { usage, .. } = b.run(&b.sh("i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done")).outcome
    else {
        panic!("not started");
    };
    assert!(usage.user_us > 10_000 && usage.max_rss > 100_000, "{usage:?}");
}

fn a_missing_program_is_127(b: &Bench) {
    let ran = b.run(&b.spec(&["nonsense"]));
    assert_eq!(ran.code(), 127);
    assert_eq!(ran.err, "exec nonsense: executable file not found in $PATH (/bin)\n");
    let ran = b.run(&b.spec(&["/bin/nonsense"]));
    assert_eq!((ran.code(), ran.err.as_str()), (127, "exec /bin/nonsense: no such file or directory\n"));
    let ran = b.run(&b.spec(&["/etc/passwd"]));
    assert_eq!((ran.code(), ran.err.as_str()), (126, "exec /etc/passwd: permission denied\n"));
    let ran = b.run(&b.spec(&["/etc"]));
    assert_eq!(ran.code(), 126, "{ran:?}");
}

fn signals(b: &Bench) {
    let ran = b.run(&b.sh("sh -c 'kill -TERM $$'; echo $?"));
    assert_eq!(ran.out.trim(), "143");
    assert_eq!(b.run(&b.sh("kill -9 $$; exit 3")).code(), 3, "pid 1 cannot be killed from inside");
    let out = b.run(&b.spec(&["grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"])).out;
    assert_eq!(out, "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n");
}

fn environment_is_exact(b: &Bench) {
    let mut spec = b.spec(&["env"]);
    spec.env = vec!["PATH=/bin".into(), "A=1 = 2".into(), "EMPTY=".into(), "HOME=/x".into(), "LISTEN_FDS=1".into()];
    assert_eq!(b.run(&spec).out, "PATH=/bin\nA=1 = 2\nEMPTY=\nHOME=/x\nLISTEN_FDS=1\n");
}

fn ids_and_groups(b: &Bench) {
    assert_eq!(b.run(&b.spec(&["id"])).out.trim(), "uid=0(root) gid=0 groups=0");
    let mut spec = b.spec(&["sh", "-c", "id; grep ^Cap /proc/self/status"]);
    (spec.uid, spec.gid, spec.groups) = (1000, 1001, vec![1001, 27, 5000]);
    let out = b.run(&spec).out;
    assert!(out.starts_with("uid=1000(app) gid=1001 groups=27,1001,5000\n"), "{out}");
    assert!(out.contains("CapEff:\t0000000000000000") && out.contains("CapPrm:\t0000000000000000"), "{out}");
    assert!(out.contains("CapBnd:\t00000000a80425fb"), "{out}");
}

/// SPEC A5.14.
fn capabilities_and_no_new_privs(b: &Bench) {
    let out = b.run(&b.sh("grep -E 'Cap|NoNew|Seccomp:' /proc/self/status")).out;
    for line in [
        "CapInh:\t0000000000000000",
        "CapPrm:\t00000000a80425fb",
        "CapEff:\t00000000a80425fb",
        "CapBnd:\t00000000a80425fb",
        "CapAmb:\t0000000000000000",
        "NoNewPrivs:\t0",
        "Seccomp:\t2",
    ] {
        assert!(out.contains(line), "{line} in {out}");
    }
}

fn seccomp(b: &Bench) {
    let ran = b.run(&b.sh("unshare -U true; echo $?; mount -t tmpfs tmpfs /tmp; echo $?"));
    assert_eq!(ran.out, "1\n1\n", "{ran:?}");
    assert!(ran.err.contains("Operation not permitted"), "{ran:?}");
}

/// SPEC C5.07.
fn standard_mounts(b: &Bench) {
    let out = b.run(&b.sh("cat /proc/self/mounts; df -k /dev/shm; ls -l /dev/fd /dev/ptmx /dev/null; echo x > /dev/shm/f; cat /dev/shm/f; sh -c 'test -d /dev/mqueue'; cat < /dev/null; ls /run 2>&1")).out;
    for mount in [
        " /proc proc ",
        " /dev tmpfs ",
        " /dev/pts devpts ",
        " /dev/shm tmpfs ",
        " /dev/mqueue mqueue ",
        " /sys sysfs ",
    ] {
        assert!(out.contains(mount), "{mount} in {out}");
    }
    assert!(out.contains("65536"), "64 MiB of shm: {out}");
    let sys = out.lines().find(|l| l.contains(" /sys sysfs ")).expect("a line");
    assert!(sys.contains(" ro,"), "{sys}");
    assert!(out.contains("\nx\n"));
    let cgroup = b.run(&b.sh("grep -c ' /sys/fs/cgroup ' /proc/self/mounts; touch /sys/fs/cgroup/x 2>&1")).out;
    assert!(cgroup.contains("Read-only file system") || cgroup.contains("Permission denied"), "{cgroup}");
}

fn masked_and_readonly_paths(b: &Bench) {
    let ran = b.run(&b.sh(
        "for f in kcore keys timer_list; do test -e /proc/$f && head -c 1 /proc/$f; done; ls /sys/firmware 2>/dev/null; \
         for f in sys/kernel/core_pattern sysrq-trigger; do test -e /proc/$f && (: >> /proc/$f) && echo $f; done; \
         touch /sys/x && echo sys; grep -cE ' /proc/(sys|irq|bus|fs) proc ro,' /proc/self/mounts",
    ));
    // More where the machine's own /proc is masked and bound.
    assert!(ran.out.trim().parse::<u32>().is_ok_and(|n| n >= 4), "{ran:?}");
}

/// SPEC A5.08.
fn network_none(b: &Bench) {
    let mut spec = b.sh("ls /proc/sys/net/ipv4/conf; ip addr show lo; ip link | grep -c ^");
    spec.network = Network::None;
    let out = b.run(&spec).out;
    assert!(out.starts_with("all\ndefault\nlo\n"), "{out}");
    assert!(out.contains("127.0.0.1") && out.contains("UP"), "{out}");
    let host = b.run(&b.spec(&["readlink", "/proc/self/ns/net"])).out;
    assert_eq!(host.trim(), fs::read_link("/proc/self/ns/net").expect("a namespace").display().to_string());
}

fn extra_mounts(b: &Bench) {
    let outside = tempfile::tempdir().expect("a temporary directory");
    fs::write(outside.path().join("f"), "outside").expect("writable");
    let bind =
        |target: &str, readonly| StepMount::Bind { source: outside.path().into(), target: target.into(), readonly };
    let mut spec = b.sh(
        "cat /work/f; echo new > /work/g; cat /home/f; echo no > /home/h; echo t > /tmp/t; df -k /tmp | grep -c 1024",
    );
    spec.mounts = vec![
        bind("/work", false),
        bind("/home", true),
        StepMount::Tmpfs { target: "/tmp".into(), size: 1 << 20, mode: 0o1777 },
        StepMount::Bind { source: outside.path().join("f"), target: "/etc/hosts".into(), readonly: true },
    ];
    let ran = b.run(&spec);
    assert_eq!(ran.out, "outsideoutside1\n", "{ran:?}");
    assert!(ran.err.contains("/home/h: Read-only file system"), "{ran:?}");
    assert_eq!(fs::read_to_string(outside.path().join("g")).expect("written"), "new\n");
    assert!(!b.root.join("tmp/t").exists());
    spec = b.spec(&["df", "-k", "/dev/shm"]);
    spec.mounts = vec![StepMount::Tmpfs { target: "/dev/shm".into(), size: 3 << 20, mode: 0o1777 }];
    assert!(b.run(&spec).out.contains(" 3072 "));
}

fn limits_hostname_umask(b: &Bench) {
    let mut spec = b.sh("ulimit -n; ulimit -Hn; hostname; umask; pwd");
    spec.rlimits = vec![Rlimit { name: "nofile".into(), soft: 100, hard: 200 }];
    spec.hostname = "some-host".into();
    assert_eq!(b.run(&spec).out, "100\n200\nsome-host\n0022\n/\n");
    spec.rlimits[0].name = "nonsense".into();
    assert!(b.run(&spec).failure().contains("nonsense"));
}

fn working_directory(b: &Bench) {
    let mut spec = b.spec(&["pwd"]);
    spec.cwd = "/work".into();
    assert_eq!(b.run(&spec).out, "/work\n");
    // Only root may enter, the program runs as somebody else.
    fs::create_dir_all(b.root.join("private")).expect("a directory");
    fs::set_permissions(b.root.join("private"), std::os::unix::fs::PermissionsExt::from_mode(0o700)).expect("ours");
    (spec.uid, spec.gid, spec.cwd) = (1000, 1000, "/private".into());
    assert_eq!(b.run(&spec).code(), 0);
    spec.cwd = "/missing".into();
    let failure = b.run(&spec);
    assert!(failure.failure().contains("enter the working directory /missing: No such file"), "{failure:?}");
}

/// Hostile: CVE-2024-21626 and its relatives.
fn working_directory_outside(b: &Bench) {
    for n in 0..12 {
        let mut spec = b.sh("ls ..; cat ../../../../etc/hostname; pwd");
        spec.cwd = format!("/proc/self/fd/{n}").into();
        let ran = b.run(&spec);
        assert!(matches!(ran.outcome, StepOutcome::Failed { .. }), "descriptor {n}: {ran:?}");
    }
    let outside = b.start(&b.spec(&["sleep", "5"]));
    for what in ["cwd", "root", "task/self/cwd"] {
        for pid in [std::process::id(), outside.step.pid()] {
            let mut spec = b.sh("ls; pwd");
            spec.cwd = format!("/proc/{pid}/{what}").into();
            let ran = b.run(&spec);
            assert!(matches!(ran.outcome, StepOutcome::Failed { .. }), "{what} of {pid}: {ran:?}");
        }
    }
}

/// Hostile: a step must not read another's environment, files or memory, with either kind of /proc.
fn another_steps_proc(b: &Bench) {
    let mut victim = b.sh("echo $$; echo hidden > /dev/shm/secret; exec sleep 20");
    victim.env.push("SECRET=hunter2".into());
    let victim = b.start(&victim);
    std::thread::sleep(Duration::from_millis(300));
    let attacker = b.sh(
        "for p in /proc/[0-9]*; do [ ${p#/proc/} = $$ ] && continue; cat $p/environ; cat $p/root/dev/shm/secret; ls -d $p/cwd/; \
         ls $p/fd/; cat $p/maps; done 2>/dev/null | grep -aE 'hunter2|hidden|/proc|r-xp' ; \
         for p in /proc/[0-9]*; do kill -9 ${p#/proc/} 2>/dev/null && [ ${p#/proc/} != $$ ] && echo killed $p; done; echo done",
    );
    let ran = b.run(&attacker);
    let leaked: Vec<&str> = ran.out.lines().filter(|l| l.contains("hunter2") || l.contains("hidden")).collect();
    assert!(leaked.is_empty(), "{leaked:?}");
    assert!(ran.out.ends_with("done\n"), "{ran:?}");
    let pid = victim.step.pid();
    assert!(fs::metadata(format!("/proc/{pid}")).is_ok(), "the victim lives");
    victim.step.kill();
    assert_eq!(victim.wait().code(), 137);
}

fn no_stray_descriptors(b: &Bench) {
    // `ls` itself has the directory open.
    let ran = b.run(&b.sh("ls -l /proc/self/fd | wc -l; readlink /proc/self/fd/0; ls /proc/self/fd"));
    let mut lines = ran.out.lines();
    lines.next();
    assert_eq!(lines.next(), Some("/dev/null"), "{ran:?}");
    assert_eq!(lines.collect::<Vec<_>>(), ["0", "1", "2", "3"], "{ran:?}");
}

/// Hostile: SHELL ["/proc/self/exe"].
fn proc_self_exe_is_harmless(b: &Bench) {
    let before = fs::metadata("/proc/self/exe").expect("our program").len();
    let ran = b.run(&b.spec(&["/proc/self/exe", "-c", "true"]));
    // It is this program, started in a container: whatever it does there, it is not what it was asked for.
    assert!(!matches!(ran.outcome, StepOutcome::Exited { code: 0, .. }) || !ran.out.is_empty(), "{ran:?}");
    for role in ["__step", "__worker"] {
        let ran = b.run(&b.spec(&["/proc/self/exe", role]));
        assert_ne!(ran.code(), 0, "{ran:?}");
    }
    assert_eq!(fs::metadata("/proc/self/exe").expect("our program").len(), before);
}

fn failures_name_their_cause(b: &Bench) {
    let mut spec = b.spec(&["true"]);
    spec.mounts = vec![StepMount::Bind { source: "/does/not/exist".into(), target: "/work".into(), readonly: true }];
    let ran = b.run(&spec);
    assert!(ran.failure().contains("/does/not/exist") && ran.failure().contains("No such file"), "{}", ran.failure());
    spec = b.spec(&["true"]);
    spec.rootfs = "/does/not/exist".into();
    assert!(b.run(&spec).failure().contains("/does/not/exist"), "{:?}", b.run(&spec));
    spec = b.spec(&["true"]);
    spec.uid = 4_000_000_000;
    if b.context.rung == rootless::Rung::Userns && !b.context.ids.has_uid(spec.uid) {
        assert_eq!(b.run(&spec).failure(), "cannot become user 4000000000: Invalid argument (os error 22)");
    }
    spec = b.spec(&["true"]);
    spec.env.push("A=\0".into());
    assert!(b.run(&spec).failure().contains("NUL"));
}

/// SPEC A5.09.
fn insecure(b: &Bench) {
    let mut spec = b.sh("grep -E 'CapEff|Seccomp:' /proc/self/status; mount -t tmpfs tmpfs /tmp && echo mounted; cat /proc/timer_list | head -c 1 | wc -c");
    spec.insecure = true;
    spec.emulation = b.context.emulation(true);
    let ran = b.run(&spec);
    assert!(ran.out.contains("Seccomp:\t0") && ran.out.contains("mounted"), "{ran:?}");
    let mask = ran.out.lines().find_map(|l| l.strip_prefix("CapEff:\t")).expect("a line");
    assert!(u64::from_str_radix(mask, 16).expect("hex") & (1 << 21) != 0, "CAP_SYS_ADMIN in {mask}");
}

fn kill_takes_the_whole_tree(b: &Bench) {
    let marker = b.root.join("tmp/alive");
    let script = "trap '' TERM INT HUP; for i in 1 2 3 4 5; do setsid sh -c 'while :; do echo $$ > /tmp/alive; sleep 0.05; done' & done; echo up; wait";
    let running = b.start(&b.sh(script));
    let limit = Instant::now() + Duration::from_secs(10);
    while !marker.exists() && Instant::now() < limit {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(marker.exists());
    let started = Instant::now();
    running.step.kill();
    let ran = running.wait();
    assert_eq!(ran.code(), 137);
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    fs::remove_file(&marker).expect("written before");
    std::thread::sleep(Duration::from_millis(200));
    assert!(!marker.exists(), "somebody still writes");
    // Dropping does the same.
    let running = b.start(&b.sh(script));
    while !marker.exists() && Instant::now() < limit {
        std::thread::sleep(Duration::from_millis(10));
    }
    let pid = running.step.pid();
    drop(running);
    fs::remove_file(&marker).expect("written before");
    std::thread::sleep(Duration::from_millis(200));
    assert!(!marker.exists() && fs::metadata(format!("/proc/{pid}")).is_err());
    // And a step process that is killed by somebody else takes its program along.
    let running = b.start(&b.sh(script));
    while !marker.exists() && Instant::now() < limit {
        std::thread::sleep(Duration::from_millis(10));
    }
    let pid = rustix::process::Pid::from_raw(running.step.pid().cast_signed()).expect("a process id");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("our child");
    assert!(running.step.wait().is_err());
    // The kernel takes them down after its end has been noticed.
    std::thread::sleep(Duration::from_millis(200));
    let _ = fs::remove_file(&marker);
    std::thread::sleep(Duration::from_millis(200));
    assert!(!marker.exists(), "somebody still writes");
}

fn leftovers_do_not_delay(b: &Bench) {
    let started = Instant::now();
    let ran = b.run(&b.sh("sleep 30 & setsid sleep 30 & echo done"));
    assert_eq!((ran.code(), ran.out.as_str()), (0, "done\n"));
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

fn parallel(b: &Bench) {
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|n| {
                scope.spawn(move || {
                    for i in 0..5 {
                        let ran = b.run(&b.sh(&format!("echo {n}.{i}; exit {n}")));
                        assert_eq!((ran.code(), ran.out), (n, format!("{n}.{i}\n")));
                    }
                })
            })
            .collect();
        for t in threads {
            t.join().expect("no failure");
        }
    });
}

fn no_state_remains(b: &Bench) {
    assert_eq!(b.run(&b.spec(&["true"])).code(), 0);
    for sub in ["c", "b"] {
        let left: Vec<_> = fs::read_dir(b.context.state_dir.join(sub)).expect("made by the first step").collect();
        // A step process that is killed cannot tidy up; that one test leaves one behind.
        assert!(left.len() <= 1, "{left:?}");
    }
}

/// Not a check but a measurement.
fn cost(b: &Bench) {
    let mut times: Vec<Duration> = (0..40)
        .map(|_| {
            let started = Instant::now();
            assert_eq!(b.run(&b.spec(&["/bin/true"])).code(), 0);
            started.elapsed()
        })
        .collect();
    times.sort();
    println!("  step: min {:?}, median {:?}, max {:?}", times[0], times[times.len() / 2], times[times.len() - 1]);
}
