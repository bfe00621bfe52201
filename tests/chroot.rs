//! The rungs without namespaces: `chroot`, which a root pod under the default seccomp profile gets, and `ptrace`, which one that is
//! not root gets. Root can pin the one anywhere, and everybody else the other.
//!
//! DESIGN 7; SPEC A5.02 to A5.07 (mounts), C5.18 (nothing of a mount in the layer).
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stderr, reason = "skip reasons are collected by scripts/test")]
#![allow(missing_docs, unreachable_pub, reason = "a test program")]

mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use support::Bench;
use support::image::Image;

/// A bench, the rung of this user that has no namespaces, and the best one he has; `None` where steps cannot be run.
fn bench() -> Option<(Bench, &'static str, &'static str)> {
    if let Err(why) = support::can_run() {
        eprintln!("skipped: {why}");
        return None;
    }
    let root = rustix::process::geteuid().is_root();
    let (weak, strong) = if root { ("chroot", "root") } else { ("ptrace", "userns") };
    Some((Bench::new(), weak, strong))
}

fn build(bench: &Bench, rung: &str, args: &[&str]) -> support::Run {
    bench.build(&[&["--isolation", rung], args].concat())
}

fn image(bench: &Bench, isolation: &str, args: &[&str]) -> Image {
    bench.build_image(&[&["--isolation", isolation], args].concat())
}

/// Everything of each layer but times, which differ from run to run.
#[allow(clippy::type_complexity)]
fn layers(image: &Image) -> Vec<BTreeMap<String, (char, u32, u64, u64, Vec<u8>, String, BTreeMap<String, Vec<u8>>)>> {
    image
        .layers
        .iter()
        .map(|layer| {
            let entry = |n: &support::image::Node| {
                (n.kind, n.mode, n.uid, n.gid, n.content.clone(), n.link.clone(), n.xattrs.clone())
            };
            layer.iter().map(|(path, node)| (path.clone(), entry(node))).collect()
        })
        .collect()
}

const MIXED: &str = "\
FROM busybox AS tools
RUN mkdir /tools && echo tool > /tools/t
FROM busybox
RUN echo app:x:1000:1000::/srv:/bin/sh >> /etc/passwd && mkdir -p /srv/app && chown -R 1000:1000 /srv && chmod 4755 /bin/busybox
RUN --mount=type=cache,target=/root/.cache --mount=type=tmpfs,target=/scratch --mount=type=bind,from=tools,source=/tools,target=/t \\
    --mount=type=secret,id=s,uid=1000,mode=0440 \\
    cat /t/t /run/secrets/s > /srv/got; echo x >> /root/.cache/n; touch /scratch/y; stat -c '%u %a' /run/secrets/s >> /srv/got
COPY --chown=1000:1000 file /srv/app/
USER app
WORKDIR /srv/app
RUN id -u > who && echo more >> file && rm -f nothing && ln -s file link && ln file hard && mkdir -p a/b && chmod 700 a
USER root
RUN rm -rf /srv/app/a && mv /srv/got /srv/moved && mkfifo /srv/pipe && echo $(hostname) > /dev/null
";

// SPEC C5.19, C6.10
#[test]
fn layers_are_those_of_the_best_rung() {
    let Some((bench, weak, strong)) = bench() else { return };
    bench.file("file", "content\n").file("secret", "hush\n").dockerfile(MIXED);
    let secret = format!("id=s,src={}", bench.ctx().join("secret").display());
    let weak = image(&bench, weak, &["--secret", &secret]);
    let strong = image(&bench, strong, &["--secret", &secret, "--no-cache"]);
    assert_eq!(layers(&weak), layers(&strong));
    assert_eq!(weak.config["config"], strong.config["config"]);
    assert_eq!(weak.text("srv/moved"), "tool\nhush\n1000 440\n");
    assert_eq!(weak.text("srv/app/who"), "1000\n");
    let top = weak.top();
    assert!(!top.iter().any(|p| p.starts_with("proc/") || p.starts_with("dev/") || p.contains("secrets")), "{top:?}");
}

#[test]
fn a5_03_cache_mounts_are_moved_in_and_out() {
    let Some((bench, weak, _)) = bench() else { return };
    bench.dockerfile(
        "FROM busybox\nRUN --mount=type=cache,id=c,target=/c echo one >> /c/log\nRUN --mount=type=cache,id=c,target=/other cp /other/log /got\n",
    );
    let first = image(&bench, weak, &[]);
    assert_eq!(first.text("got"), "one\n");
    assert!(!first.has("c/log") && !first.has("other"), "{:?}", first.tree().keys());
    // Two steps that want it at once take turns; a failed step loses nothing.
    bench.dockerfile(
        "FROM busybox AS a\nRUN --mount=type=cache,id=c,target=/c echo a >> /c/log; sleep 0.3\nFROM busybox AS b\nRUN --mount=type=cache,id=c,target=/c echo b >> /c/log; sleep 0.3\nFROM busybox\nCOPY --from=a /bin/sh /a\nCOPY --from=b /bin/sh /b\nRUN --mount=type=cache,id=c,target=/c wc -l < /c/log > /lines\n",
    );
    assert_eq!(image(&bench, weak, &[]).text("lines"), "3\n");
    bench.dockerfile("FROM busybox\nRUN --mount=type=cache,id=c,target=/c echo four >> /c/log; false\n");
    build(&bench, weak, &[]).fails(9, &["did not complete successfully"]);
    bench.dockerfile("FROM busybox\nRUN --mount=type=cache,id=c,target=/c wc -l < /c/log > /lines\n");
    assert_eq!(image(&bench, weak, &[]).text("lines"), "4\n");
    bench.dockerfile("FROM busybox\nRUN --mount=type=cache,id=c,target=/c mv /c /stolen\n");
    build(&bench, weak, &[]).fails(4, &["removed or moved /c"]);
}

/// A cache mount keeps what an earlier step put there, whatever it is.
// SPEC C5.18
#[test]
fn a_target_below_a_link_to_nowhere_has_a_name() {
    let Some((bench, weak, strong)) = bench() else { return };
    const LINK: &str = "FROM busybox\nRUN --mount=type=cache,target=/c ln -sfn /nowhere/x /c/l && touch /c/f && mkdir -p /c/d\n\
         RUN --mount=type=cache,target=/c --mount=type=tmpfs,target=/c/l/t true\n";
    bench.dockerfile(LINK);
    // The same on a rung with mounts.
    for rung in [weak, strong] {
        // (What one rung has in a cache mount another one need not.)
        let run = bench.build(&["--isolation", rung, "--no-cache"]);
        if run.stderr.contains("does not work here") {
            eprintln!("skipped: no isolation {rung} here");
            continue;
        }
        run.fails(4, &["cannot mount /c/l/t: /c/l is a link that leads nowhere"]);
        for (mounts, wanted) in [
            ("--mount=type=tmpfs,target=/c/f/t", "cannot mount /c/f/t: /c/f is a file, and not a directory"),
            ("--mount=type=tmpfs,target=/c/f", "cannot mount /c/f: /c/f is a file, and not a directory"),
            (
                "--mount=type=bind,source=Dockerfile,target=/c/d",
                "cannot mount /c/d: /c/d is a directory, and not a file",
            ),
        ] {
            bench.dockerfile(&format!("FROM busybox\nRUN --mount=type=cache,target=/c {mounts} true\n"));
            bench.build(&["--isolation", rung]).fails(4, &[wanted]);
        }
        bench.dockerfile(LINK);
    }
}

// SPEC A5.04
#[test]
fn a_cache_mount_survives_a_killed_build() {
    let Some((bench, weak, _)) = bench() else { return };
    bench.dockerfile("FROM busybox\nRUN --mount=type=cache,id=c,target=/c echo kept > /c/x\n");
    build(&bench, weak, &[]).ok();
    bench.dockerfile("FROM busybox\nRUN --mount=type=cache,id=c,target=/c ls /c > /dev/null; sleep 3141\n");
    let mut child = bench.build_command(&["--isolation", weak]).spawn().unwrap();
    let started = Instant::now();
    while !running("^sleep 3141") && started.elapsed() < Duration::from_secs(30) {
        std::thread::sleep(Duration::from_millis(50));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let killed = Instant::now();
    while running("^sleep 3141") && killed.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(!running("^sleep 3141"), "the step survived the builder");
    bench.dockerfile("FROM busybox\nRUN --mount=type=cache,id=c,target=/c cp /c/x /got\n");
    assert_eq!(image(&bench, weak, &[]).text("got"), "kept\n");
}

// SPEC C5.06, C5.19
#[test]
fn steps_do_not_leave_their_root_nor_reach_the_builder() {
    let Some((bench, weak, _)) = bench() else { return };
    std::fs::write(bench.path("out/outside"), "OUTSIDE").unwrap();
    // Each line must print only what is expected; `!` marks what must fail.
    let script = r#"
echo caps $(grep CapEff /proc/self/status | cut -f2) nnp $(grep NoNewPrivs /proc/self/status | cut -f2)
mkdir /x; chroot /x /bin/true 2>/dev/null && echo ESCAPE chroot
ls /proc/self/fd | tr '\n' ' '
cat /proc/1/environ 2>/dev/null | grep -q . && echo ESCAPE environ of 1
cat /proc/$PPID/environ 2>/dev/null | grep -q . && echo ESCAPE environ of the parent
ls /proc/self/root/../../../../ | grep -q ctx && echo ESCAPE root link
cat /proc/self/cwd/../../../../../etc/machine-id 2>/dev/null && echo ESCAPE cwd link
kill -9 $PPID 2>/dev/null && echo ESCAPE signal to the parent
kill -9 -1 2>/dev/null
mount -t tmpfs none /x 2>/dev/null && echo ESCAPE mount
unshare -m true 2>/dev/null && echo ESCAPE unshare
cat /proc/kcore 2>/dev/null | head -c 1 | grep -q . && echo ESCAPE kcore
echo w > /proc/sys/kernel/hostname 2>/dev/null && echo ESCAPE sysctl
echo end
"#;
    bench.file("script", script).dockerfile("FROM busybox\nCOPY script /script\nRUN sh /script\n");
    let run = build(&bench, weak, &[]).ok();
    assert!(!run.stderr.contains("ESCAPE"), "{}", run.stderr);
    // Docker's capabilities without CAP_SYS_CHROOT, or none.
    let (caps, said) = match weak {
        "chroot" => ("00000000a80025fb", "isolation chroot: RUN steps are confined by chroot and Landlock only"),
        _ => ("0000000000000000", "isolation ptrace: RUN steps have neither namespaces nor privileges"),
    };
    assert!(run.stderr.contains(&format!("caps {caps} nnp 1")), "{}", run.stderr);
    assert!(run.stderr.contains(said), "{}", run.stderr);
}

// SPEC C5.08, C5.19
#[test]
fn what_a_step_leaves_running_is_ended_with_it() {
    let Some((bench, weak, _)) = bench() else { return };
    bench.dockerfile(
        "FROM busybox\nRUN (setsid sleep 2236 &) ; setsid sh -c 'setsid sleep 2236 & sleep 2236' > /dev/null 2>&1 & sleep 0.2\n",
    );
    build(&bench, weak, &[]).ok();
    assert!(!running("^sleep 2236"));
}

/// In the caller's session a step could open his terminal, and a signal to its group would reach rbuild.
// SPEC C5.08, C5.19
#[test]
fn a_step_has_a_session_of_its_own() {
    let Some((bench, weak, _)) = bench() else { return };
    // Who leads a group already cannot begin a session in the same process: then it is done by a child, which has another number.
    bench.dockerfile("FROM busybox\nRUN echo $$ >/own; echo >/new; exec setsid sh -c 'echo $$ >/new'\n");
    let image = image(&bench, weak, &[]);
    assert_ne!(image.text("own"), image.text("new"));
}

// SPEC C5.07, C5.19
#[test]
fn proc_is_emulated() {
    let Some((bench, weak, _)) = bench() else { return };
    let script = r#"
set -e
test "$(readlink /proc/self/exe)" = /bin/busybox
cd /tmp && test "$(readlink /proc/self/cwd)" = /tmp && cd /
grep -q '^Name:' /proc/self/status
grep -q MemTotal /proc/meminfo
grep -q ' / ' /proc/mounts && grep -q ' /proc ' /proc/self/mountinfo
cat /proc/sys/kernel/ostype
test "$(cat /proc/self/cmdline | tr '\0' ' ')" = 'cat /proc/self/cmdline '
echo to-stderr > /dev/stderr
echo to-stdout > /dev/stdout
echo piped | cat /dev/stdin
sleep 5 &
# It is the shell until it has become the program.
for i in 1 2 3 4 5 6 7 8 9 10; do test "$(tr '\0' ' ' < /proc/$!/cmdline)" = 'sleep 5 ' && break; sleep 0.1; done
test "$(tr '\0' ' ' < /proc/$!/cmdline)" = 'sleep 5 '; kill $!; wait || true
ls /proc/self/fd/ > /dev/null
echo all-good
"#;
    bench.file("script", script).dockerfile("FROM busybox\nCOPY script /script\nRUN sh -x /script\n");
    let run = build(&bench, weak, &[]).ok();
    for text in ["all-good", "to-stderr", "to-stdout", "piped", "Linux"] {
        assert!(run.stderr.contains(text), "{text}: {}", run.stderr);
    }
}

/// By their names in `/proc/self/fd`, where nothing of that name is.
// SPEC C5.07, C5.19
#[test]
fn what_is_done_to_open_files_is_done_to_them() {
    let Some((bench, weak, strong)) = bench() else { return };
    let Ok(bases) = support::bases() else { return };
    if !bases.join("python/index.json").is_file() {
        skip!("no base image python");
    }
    let script = r#"
import os
d = "/srv"
fd = os.open(d + "/f", os.O_RDWR | os.O_CREAT, 0o600)
os.write(fd, b"0123456789")
name = f"/proc/self/fd/{fd}"
os.truncate(name, 4)
os.chmod(name, 0o640)
# (`ptrace` answers a change of owner by this name for the skeleton's file.)
owner = 33 if os.path.exists("/apart") else 0
if owner:
    os.chown(name, owner, -1)
os.utime(name, ns=(10**9, 2 * 10**9))
os.setxattr(name, "user.a", b"value")
assert os.getxattr(name, "user.a") == b"value"
assert "user.a" in os.listxattr(name)
os.setxattr(name, "user.b", b"")
os.removexattr(name, "user.b")
s = os.fstat(fd)
assert (s.st_size, s.st_mode & 0o7777, s.st_uid, s.st_mtime_ns) == (4, 0o640, owner, 2 * 10**9), s
assert os.getxattr(fd, "user.a") == b"value" and os.listxattr(fd) == ["user.a"]
# A file without a name gets one. (Overlays have none before Linux 6.3.)
try:
    tmp = os.open(d, os.O_TMPFILE | os.O_RDWR, 0o604)
except OSError as e:
    assert e.errno == 95, e
else:
    os.write(tmp, b"named")
    # (With a directory python asks for links to be followed.)
    os.link(f"/proc/self/fd/{tmp}", d + "/named", src_dir_fd=os.open("/", os.O_RDONLY), follow_symlinks=True)
    assert open(d + "/named").read() == "named"
# A descriptor gives no rights that its process does not have to the file. (Users of one step are not told apart on every rung.)
if os.path.exists("/apart"):
    os.close(os.open(d + "/roots", os.O_CREAT | os.O_WRONLY, 0o644))
    fd = os.open(d + "/roots", os.O_RDONLY)
    os.setresuid(1000, 1000, 1000)
    for work in (lambda n: os.truncate(n, 0), lambda n: os.chmod(n, 0o777), lambda n: os.chown(n, 1000, -1), lambda n: os.setxattr(n, "user.x", b"")):
        try:
            work(f"/proc/self/fd/{fd}")
        except PermissionError:
            continue
        raise SystemExit("allowed")
print("all-good")
"#;
    bench.file("script.py", script).dockerfile(
        "FROM python\nARG APART\nCOPY script.py /\nRUN [ -z \"$APART\" ] || touch /apart; python3 /script.py\n",
    );
    // As with a `/proc`.
    for rung in [strong, weak] {
        let apart = if rung == "ptrace" { "APART=" } else { "APART=y" };
        let run = bench.build(&["--isolation", rung, "--no-cache", "--build-arg", apart]);
        if run.stderr.contains("does not work here") {
            eprintln!("skipped: no isolation {rung} here");
            continue;
        }
        assert!(run.ok().stderr.contains("all-good"), "{rung}");
    }
}

/// Programs compare what a name stands for with what they opened (cp, install), or only look (test, kill scripts).
// SPEC C5.07, C5.19
#[test]
fn what_is_looked_at_below_proc_is_what_is_there() {
    let Some((bench, weak, strong)) = bench() else { return };
    let script = r#"
echo text | install -m 751 /dev/stdin /installed && stat -c '%a %s' /installed
echo piped | cp /dev/stdin /copied && cat /copied
cp /proc/self/exe /program 2>/dev/null && cmp /program /bin/cp && echo same
echo | { [ -p /dev/stdin ] && [ ! -f /proc/self/fd/0 ] && echo pipe; }
exec 7</etc/passwd; [ -f /dev/fd/7 ] && [ -s /proc/self/fd/7 ] && [ -r /proc/self/fd/7 ] && stat -L -c %i /dev/fd/7 | grep -qx "$(stat -c %i /etc/passwd)" && echo file
[ -e /proc/self/fd/9 ] || echo closed
sleep 100 & [ -d /proc/$! ] && [ -r /proc/$!/status ] && echo runs; kill $!; wait $! 2>/dev/null
[ -d /proc/$! ] || echo ended
[ -x /proc/self/exe ] && [ -d /proc/self/fd ] && [ -s /etc/passwd ] && [ ! -e /proc/nothing ] && echo skeleton
"#;
    bench.file("script", script).dockerfile("FROM debian\nCOPY script /\nRUN sh /script > /out 2>&1; cat /out\n");
    let expected = "751 5\npiped\nsame\npipe\nfile\nclosed\nruns\nended\nskeleton\n";
    for rung in [strong, weak] {
        let run = bench.build(&["--isolation", rung, "--no-cache"]);
        if run.stderr.contains("does not work here") {
            eprintln!("skipped: no isolation {rung} here");
            continue;
        }
        // What a program is, is looked at as its loader there, and opened as itself: `cp` thinks that it was replaced.
        let expected = if rung == "ptrace" { expected.replace("same\n", "") } else { expected.to_owned() };
        assert_eq!(image(&bench, rung, &[]).text("out"), expected, "{rung}");
    }
    // Other processes of the step can be looked at, those outside cannot.
    let outside = std::process::id();
    bench.dockerfile(&format!("FROM debian\nRUN [ ! -e /proc/{outside} ] && [ ! -e /proc/{outside}/exe ]\n"));
    build(&bench, weak, &[]).ok();
}

#[test]
fn c5_03_network_none_has_no_sockets() {
    let Some((bench, weak, _)) = bench() else { return };
    bench.dockerfile("FROM busybox\nRUN --network=none ! nc -w 1 127.0.0.1 9 2>/tmp/e; cat /tmp/e\n");
    let run = build(&bench, weak, &[]).ok();
    assert!(run.stderr.contains("ermission denied"), "{}", run.stderr);
}

// SPEC C5.19
#[test]
fn none_builds_everything_but_run() {
    let Some((bench, _, _)) = bench() else { return };
    bench.file("a", "1").dockerfile(
        "FROM busybox AS s\nCOPY a /a\nFROM scratch\nCOPY --from=s /a /b\nENV X=1\nADD --chmod=600 a /c\nWORKDIR /w\n",
    );
    assert_eq!(image(&bench, "none", &["--snapshotter", "native"]).text("b"), "1");
    bench.dockerfile("FROM busybox\nRUN true\n");
    bench
        .build(&["--isolation", "none"])
        .fails(10, &["this machine does not allow RUN steps", "Dockerfile:2", "isolation \"none\" runs no steps"]);
}

fn running(pattern: &str) -> bool {
    let found = std::process::Command::new("pgrep").args(["-f", pattern]).output().unwrap();
    !found.stdout.is_empty()
}
