//! What changes while it is looked at, and who looks at what is not theirs.

use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::rungs;
use super::support::{self, Bench};
use crate::{need_run, skip};

/// A tracer that is nothing but system calls: tries to attach to, read, and take descriptors of every process it can name.
const TRACER: &str = r#"
import ctypes, os, platform
libc = ctypes.CDLL(None, use_errno=True)
arm = platform.machine() == "aarch64"
PTRACE, READV, KCMP, OPEN, GETFD = (117, 270, 272, 434, 438) if arm else (101, 310, 312, 434, 438)
EPERM, ESRCH, EFAULT, EBADF, ENOSYS = 1, 3, 14, 9, 38
def call(*args):
    ctypes.set_errno(0)
    result = libc.syscall(*[ctypes.c_long(a) for a in args])
    return result, ctypes.get_errno()
own = os.getpid()
mine = {own}
buffer = ctypes.create_string_buffer(4096)
iov = (ctypes.c_ulong * 2)(ctypes.addressof(buffer), 4096)
remote = (ctypes.c_ulong * 2)(0x400000, 4096)
tried = 0
for pid in sorted(set(range(1, 400)) | set(range(max(1, own - 800), own + 50))):
    if pid in mine:
        continue
    for name, args in (
        ("attach", (PTRACE, 16, pid, 0, 0)),
        ("seize", (PTRACE, 0x4206, pid, 0, 0)),
        ("read", (READV, pid, ctypes.addressof(iov), 1, ctypes.addressof(remote), 1, 0)),
        ("compare", (KCMP, pid, own, 0, 0, 0)),
    ):
        result, error = call(*args)
        tried += error != ESRCH
        if result >= 0 or error not in (EPERM, ESRCH, ENOSYS):
            print("CANARY", name, pid, error)
    fd, error = call(OPEN, pid, 0)
    if fd >= 0:
        for number in range(8):
            taken, error = call(GETFD, fd, number, 0)
            if taken >= 0 or error not in (EPERM, ESRCH, ENOSYS):
                print("CANARY descriptor", pid, number, error)
        os.close(fd)
    for name in ("mem", "environ", "maps", "auxv"):
        try:
            with open(f"/proc/{pid}/{name}", "rb") as file:
                file.seek(0x400000 if name == "mem" else 0)
                file.read(64)
                print("CANARY", name, pid)
        except OSError:
            pass
print("done", tried)
"#;

/// Nothing of the builder can be traced, by a program that knows how.
#[test]
fn tracers_get_nothing() {
    need_run!();
    if !support::bases().unwrap().join("python/index.json").is_file() {
        skip!("no base image with Python");
    }
    // The weaker rung of the two is where it could succeed; the long tier tries both.
    let weaker = if super::long() { rungs() } else { &rungs()[1..] };
    for rung in weaker {
        let bench = Bench::new();
        bench
            .file("tracer.py", TRACER)
            .dockerfile("FROM python\nCOPY tracer.py /\nRUN [\"python3\", \"/tracer.py\"]\n");
        let run = bench.build(&["--isolation", rung]).ok();
        assert!(run.stderr.contains(" done "), "{rung}: the tracer did not come to its end: {}", run.stderr);
        let leaks: Vec<&str> = run.stderr.lines().filter(|l| l.contains("CANARY") && !l.contains("print")).collect();
        assert!(leaks.is_empty(), "{rung}: {leaks:#?}");
    }
}

/// A context in which a directory and a link to elsewhere change places all the time.
#[test]
fn a_context_that_changes_while_it_is_copied_leads_nowhere() {
    need_run!();
    let bench = Bench::new();
    let outside = bench.path("outside");
    std::fs::create_dir(&outside).unwrap();
    for n in 0..30 {
        std::fs::write(outside.join(format!("f{n}")), "CANARY-OUTSIDE").unwrap();
        bench.file(&format!("d/f{n}"), "inside");
    }
    bench.symlink(&outside.display().to_string(), "swap");
    let (one, other) = (bench.ctx().join("d"), bench.ctx().join("swap"));
    if renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE).is_err() {
        skip!("this file system cannot exchange names");
    }
    renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE).unwrap();
    bench.dockerfile("FROM scratch\nCOPY d /d/\nCOPY d/f1 /f1\n");
    let stop = AtomicBool::new(false);
    let (mut built, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // The directory is in its place for most of the time, or no build would get as far as copying.
            while !stop.load(Ordering::Relaxed) {
                let _ = renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE);
                let _ = renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE);
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        });
        for round in 0..12 {
            let tar = bench.path(&format!("race-{round}.tar"));
            let run = bench.build(&["--no-cache", "-o", &format!("type=oci,dest={}", tar.display())]);
            if run.code != 0 {
                refused += 1;
                if run.stderr.contains("panicked") || run.code == 70 {
                    stop.store(true, Ordering::Relaxed);
                    panic!("{}", run.stderr);
                }
                continue;
            }
            built += 1;
            let tree = support::image::Image::open_tar(&tar).tree();
            let leak = tree.iter().find(|(_, n)| String::from_utf8_lossy(&n.content).contains("CANARY"));
            if let Some((path, _)) = leak {
                stop.store(true, Ordering::Relaxed);
                panic!("/{path} came from outside of the context");
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(built > 0, "no build got as far as copying");
    eprintln!("hostile: {built} builds of a context in motion, and {refused} that were refused");
}

/// A step that changes a shared cache mount while mounts of another one are made below it.
#[test]
fn a_cache_mount_that_changes_while_mounts_are_made_leads_nowhere() {
    need_run!();
    for rung in rungs().iter().filter(|r| **r != "chroot") {
        let bench = Bench::new();
        let outside = bench.path("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("canary"), "CANARY").unwrap();
        let out = outside.display();
        let mounts: String = (0..6)
            .map(|n| {
                format!(
                    "RUN --mount=type=cache,target=/c --mount=type=tmpfs,target=/c/x/y --mount=type=bind,target=/c/x/z echo {n} > /c/x/y/f; ls /c/x; cat /c/x/canary /c/x/y/canary 2>/dev/null | sed s/CANARY/LEAK/; true\n"
                )
            })
            .collect();
        bench.dockerfile(&format!(
            "FROM busybox AS mover\nRUN --mount=type=cache,target=/c i=0; while [ ! -e /c/stop ] && [ $i -lt 4000 ]; do i=$((i+1)); rm -rf /c/x; ln -s {out} /c/x; rm -f /c/x; mkdir -p /c/x; done; touch /moved\n\
             FROM busybox AS mounter\n{mounts}RUN --mount=type=cache,target=/c touch /c/stop /mounted\n\
             FROM scratch\nCOPY --from=mover /moved /\nCOPY --from=mounter /mounted /\n"
        ));
        // Whether a mount finds its place is chance; a mount that fails ends the build with an error.
        let run = bench.build(&["--isolation", rung, "--no-cache"]);
        assert!(!run.stderr.contains("panicked") && run.code != 70, "{rung}: {}", run.stderr);
        assert!(!run.stderr.lines().any(|l| l.contains("LEAK") && !l.contains("sed")), "{rung}: {}", run.stderr);
        let left: Vec<_> = std::fs::read_dir(&outside).unwrap().flatten().map(|e| e.file_name()).collect();
        assert_eq!(left, ["canary"], "{rung}: something was made outside");
        assert_eq!(std::fs::read_to_string(outside.join("canary")).unwrap(), "CANARY");
    }
}

/// Hands a descriptor of its root, or a file of it that can be written, to whoever listens in a cache mount.
const GIVER: &str = r#"
import os, socket, sys, time
s = socket.socket(socket.AF_UNIX)
while True:
    try: s.connect("/c/socket"); break
    except OSError: time.sleep(0.05)
fd = os.open("/", os.O_RDONLY) if sys.argv[1] == "root" else os.open("/held", os.O_RDWR | os.O_CREAT)
socket.send_fds(s, [b"x"], [fd])
"#;
const TAKER: &str = r#"
import errno, os, socket, sys, time
s = socket.socket(socket.AF_UNIX)
s.bind("/c/socket")
s.listen(1)
c, _ = s.accept()
os.unlink("/c/socket")
_, (fd,), _, _ = socket.recv_fds(c, 10, 1)
for n in range(600):
    time.sleep(0.1)
    if sys.argv[1] != "root":
        continue
    try: os.close(os.open(f"late{n}", os.O_WRONLY | os.O_CREAT, dir_fd=fd))
    except OSError as e: sys.exit(0 if e.errno == errno.EROFS else f"CANARY {e}")
sys.exit("CANARY: it can still be written")
"#;

/// What a step has written is final when it has ended, whoever has been handed descriptors of it. Without overlays there is nothing
/// that two steps share at one time.
#[test]
fn a_step_that_ended_is_not_changed_by_another_one() {
    need_run!();
    if !support::bases().unwrap().join("python/index.json").is_file() {
        skip!("no base image with Python");
    }
    for rung in rungs().iter().filter(|rung| **rung != "chroot") {
        let bench = Bench::new();
        bench.file("giver.py", GIVER).file("taker.py", TAKER);
        let dockerfile = |what: &str| {
            let step = |program: &str| {
                format!("RUN --mount=type=bind,target=/p --mount=type=cache,target=/c python3 /p/{program}.py {what}\n")
            };
            format!(
                "FROM python AS giver\n{}FROM python AS taker\n{}FROM scratch\nCOPY --from=giver /etc/passwd /a\nCOPY --from=taker /etc/passwd /b\n",
                step("giver"),
                step("taker")
            )
        };
        bench.dockerfile(&dockerfile("root"));
        let run = bench.build(&["--isolation", rung]);
        if run.stderr.contains("does not work here") {
            eprintln!("skipped: no isolation {rung} here");
            continue;
        }
        run.ok();
        bench.dockerfile(&dockerfile("file"));
        let run = bench.build(&["--isolation", rung]);
        assert!(run.code != 0 && run.stderr.contains("open for writing"), "{rung}: {}", run.stderr);
    }
}
