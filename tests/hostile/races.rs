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

/// Whether steps have mounts there; elsewhere what they mount is put into their tree.
pub(crate) fn mounts(rung: &str) -> bool {
    !matches!(rung, "chroot" | "ptrace")
}

/// A step that changes a shared cache mount while mounts of another one are made below it.
#[test]
fn a_cache_mount_that_changes_while_mounts_are_made_leads_nowhere() {
    need_run!();
    for rung in rungs().iter().filter(|rung| mounts(rung)) {
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

/// Hands descriptors of its root, or of a file of it that can be written, or both, to whoever listens in a cache mount.
const GIVER: &str = r#"
import os, socket, sys, time
s = socket.socket(socket.AF_UNIX)
while True:
    try: s.connect("/c/socket"); break
    except OSError: time.sleep(0.05)
with open("/held", "w") as held: held.write("good")
fds = []
if "root" in sys.argv[1:]: fds.append(os.open("/", os.O_RDONLY))
if "file" in sys.argv[1:]: fds.append(os.open("/held", os.O_RDWR))
socket.send_fds(s, [b"x"], fds)
"#;
/// Changes what it was handed once the step that follows the other one says that it runs.
const TAKER: &str = r#"
import os, socket, stat, time
s = socket.socket(socket.AF_UNIX)
s.bind("/c/socket")
s.listen(1)
c, _ = s.accept()
os.unlink("/c/socket")
_, fds, _, _ = socket.recv_fds(c, 10, 2)
while not os.path.exists("/c/ended"): time.sleep(0.05)
for fd in fds:
    try:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            os.close(os.open("late", os.O_WRONLY | os.O_CREAT, dir_fd=fd))
            os.unlink("held", dir_fd=fd)
        else:
            os.pwrite(fd, b"LATE", 0)
    except OSError as e: print("refused", e)
open("/c/changed", "w").close()
"#;

/// What a step has written is final when it has ended, whoever has been handed descriptors of it, whether layers are mounted or
/// whole trees are changed in place; and the build is none the worse. On `chroot` and `ptrace` no two steps find one socket.
#[test]
fn a_step_that_ended_is_not_changed_by_another_one() {
    need_run!();
    if !support::bases().unwrap().join("python/index.json").is_file() {
        skip!("no base image with Python");
    }
    for (at, rung) in rungs().iter().filter(|rung| mounts(rung)).enumerate() {
        // A mount can be made read-only unless a file is open: both, on the rungs in turn.
        let mounted = if at == 0 && *rung != "root" { "root" } else { "root file" };
        for (snapshotter, what) in [("overlay", mounted), ("native", "root file")] {
            let bench = Bench::new();
            bench.file("giver.py", GIVER).file("taker.py", TAKER);
            let step = |program: &str| {
                format!("RUN --mount=type=bind,target=/p --mount=type=cache,target=/c python3 /p/{program}.py {what}\n")
            };
            bench.dockerfile(&format!(
                "FROM python AS giver\n{}\
                 RUN --mount=type=cache,target=/c touch /c/ended; while ! [ -e /c/changed ]; do sleep 0.05; done; cat /held > /after; ls / > /names\n\
                 FROM python AS taker\n{}\
                 FROM scratch\nCOPY --from=giver /held /after /names /\nCOPY --from=taker /etc/passwd /b\n",
                step("giver"),
                step("taker")
            ));
            let tar = bench.path("out.tar");
            let output = format!("type=oci,dest={}", tar.display());
            let run = bench.build(&["--isolation", rung, "--snapshotter", snapshotter, "-o", &output]);
            if run.stderr.contains("does not work here") || run.stderr.contains("overlay mounts do not work") {
                eprintln!("skipped: no isolation {rung} with {snapshotter} here");
                continue;
            }
            let run = run.ok();
            let copied = snapshotter == "overlay" && what.contains("file");
            assert_eq!(run.stderr.contains("still open elsewhere"), copied, "{rung}: {}", run.stderr);
            let image = support::image::Image::open_tar(&tar);
            for name in ["held", "after"] {
                assert_eq!(image.text(name), "good", "{rung}, {snapshotter}, {what}: /{name}");
            }
            assert!(!image.text("names").contains("late"), "{rung}, {snapshotter}: {}", image.text("names"));
        }
    }
}

/// Files that are linked from a cache mount into the step's tree, or the other way round, as package managers do: later changes of the
/// cache change no layer, and no tree that later builds begin with.
#[test]
fn links_between_a_cache_mount_and_a_tree_are_none_afterwards() {
    need_run!();
    for rung in rungs() {
        let bench = Bench::new();
        let linked = "FROM busybox\nRUN --mount=type=cache,target=/c echo good > /c/f && { ln /c/f /joined || cp /c/f /joined; }; ln /etc/passwd /c/passwd; true\n";
        let change = "RUN --mount=type=cache,target=/c echo CANARY > /c/f; echo CANARY > /c/passwd; ";
        let build = |dockerfile: &str| {
            bench.dockerfile(dockerfile);
            bench.build(&["--isolation", rung, "-o", "type=cacheonly"]).ok();
        };
        build(linked);
        // Another build, with nothing of the first one but its cache.
        build(&format!("FROM busybox\n{change}true\n"));
        // One on top of what the first one left, and the same in one build.
        bench.dockerfile(&format!("{linked}{change}cat /joined /etc/passwd > /seen\n"));
        let image = bench.build_image(&["--isolation", rung]);
        for name in ["joined", "seen", "etc/passwd"] {
            assert!(!image.text(name).contains("CANARY"), "{rung}: /{name} changed with the cache");
        }
        assert!(image.text("seen").starts_with("good\n"), "{rung}: {}", image.text("seen"));
    }
}

/// Locks, leases, watches and mappings of a step's files, held by processes that mean to outlive it, and by its own end.
const HOLDER: &str = r#"
import ctypes, fcntl, mmap, os, time
root = os.open("/", os.O_RDONLY)
fcntl.flock(root, fcntl.LOCK_EX)
held = open("/held", "w+b")
held.write(b"good" + bytes(4092)); held.flush()
fcntl.lockf(held, fcntl.LOCK_EX)
libc = ctypes.CDLL(None, use_errno=True)
libc.inotify_add_watch(libc.inotify_init(), b"/", 0xfff)
leased = os.open("/etc/passwd", os.O_RDONLY)
try: fcntl.fcntl(leased, fcntl.F_SETLEASE, fcntl.F_RDLCK)
except OSError: pass
shared = mmap.mmap(held.fileno(), 4096)
child = os.fork()
if child == 0:
    os.setsid()
    if os.fork(): os._exit(0)
    time.sleep(0.2)
    while True: shared[0:4] = b"LATE"
os.waitpid(child, 0)
"#;

/// Under both snapshotters the next step finds what was there when the one before ended, and is not kept waiting.
#[test]
fn what_a_step_holds_of_its_tree_ends_with_it() {
    need_run!();
    if !support::bases().unwrap().join("python/index.json").is_file() {
        skip!("no base image with Python");
    }
    for rung in rungs() {
        let bench = Bench::new();
        bench.file("holder.py", HOLDER).dockerfile(
            "FROM python\nRUN --mount=type=bind,target=/p python3 /p/holder.py\n\
             RUN head -c 4 /held > /one; echo x:x:9:9::/:/bin/sh >> /etc/passwd; sleep 0.4; head -c 4 /held > /two\n\
             FROM scratch\nCOPY --from=0 /one /two /held /\n",
        );
        let image = bench.build_image(&["--isolation", rung, "--snapshotter", "native"]);
        assert_eq!((image.text("one"), image.text("two")), ("good".into(), "good".into()), "{rung}");
        assert!(image.node("held").content.starts_with(b"good"), "{rung}");
    }
}

/// A tree that is deeper than a call stack, and than names can say, is copied or refused; nothing breaks.
#[test]
fn trees_without_a_bottom_come_to_an_end() {
    need_run!();
    if !support::bases().unwrap().join("python/index.json").is_file() {
        skip!("no base image with Python");
    }
    for rung in rungs() {
        let bench = Bench::new();
        for (depth, code) in [(400, 0), (2_100, 4)] {
            bench.dockerfile(&format!(
                "FROM python AS deep\nRUN [\"python3\", \"-c\", \"import os\\nfor n in range({depth}): os.mkdir('d'); os.chdir('d')\"]\n\
                 FROM deep AS one\nRUN touch /one\nFROM deep AS two\nRUN touch /two\n\
                 FROM scratch\nCOPY --from=one /one /\nCOPY --from=two /two /\n"
            ));
            let run = bench.build(&["--isolation", rung, "--snapshotter", "native", "-o", "type=cacheonly"]);
            assert!(run.code == 0 || run.code == code, "{rung}, {depth}: {} {}", run.code, run.stderr);
            assert!(!run.stderr.contains("panicked"), "{rung}, {depth}: {}", run.stderr);
        }
        bench.dockerfile("FROM busybox\nRUN true\n");
        bench.build(&["--isolation", rung, "--no-cache"]).ok();
    }
}
