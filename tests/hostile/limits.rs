//! Steps that never end or want everything, and named contexts and archives that are traps; on each rung.

use super::support::{self, Bench};
use super::{rungs, table};
use crate::need_run;

/// A fork bomb meets a limit and ends with its step; so does what hangs and hears no signal. The next build works.
#[test]
fn bombs_and_steps_that_hang_come_to_an_end() {
    need_run!();
    let left = || {
        let output = std::process::Command::new("pgrep").args(["-f", "^(sh bomb161|sleep 16180)"]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    for rung in rungs() {
        let bench = Bench::new();
        bench.file("bomb", "sh bomb161 & sh bomb161 & sleep 16180\n");
        bench.dockerfile("FROM busybox\nRUN --mount=type=bind,target=/b cp /b/bomb /bomb161 && cd / && sh bomb161\n");
        // (The kernel exempts the machine's root from the limit of a user, for whom there are control groups.)
        let limit = if matches!(*rung, "root" | "chroot" | "ptrace") {
            ["--pids-limit", "60"]
        } else {
            ["--ulimit", "nproc=60"]
        };
        let args = ["--isolation", rung, "--step-timeout", "3s", limit[0], limit[1]];
        let run = bench.build(&args);
        if run.stderr.contains("cannot limit pids") {
            eprintln!("skipped: {}: fork bomb on rung {rung} (no control groups of one's own here)", table::FOREVER[0]);
        } else {
            // Either the time is over, or the first shell cannot fork and gives up.
            run.fails(9, &[]);
        }
        assert_eq!(left(), "", "{rung}: processes of the bomb are left");
        bench.dockerfile("FROM busybox\nRUN (trap '' TERM HUP INT QUIT; while :; do sleep 16180; done)\n");
        bench.build(&["--isolation", rung, "--step-timeout", "1s"]).fails(9, &["took longer than 1s"]);
        assert_eq!(left(), "", "{rung}: processes of the step that hangs are left");
        bench.dockerfile("FROM busybox\nRUN true\n");
        bench.build(&["--isolation", rung, "--no-cache"]).ok();
    }
}

/// Named contexts that lead out, and archives with attributes that would mean something to an overlay, or files larger than
/// everything: nothing outside is read, nothing is believed.
#[test]
fn named_contexts_and_archives_that_are_traps() {
    need_run!();
    let names: Vec<&str> =
        CONTEXTS.iter().map(|c| c.0).chain(["attributes in an archive", "a file of 8 EiB"]).collect();
    assert_eq!(names, table::CONTEXTS, "the table of cases");
    for rung in rungs() {
        let bench = Bench::new();
        let (evil, outside) = (bench.path("evil"), bench.path("outside"));
        std::fs::create_dir_all(evil.join("d")).unwrap();
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("canary"), "CANARY-OUTSIDE").unwrap();
        for (name, to) in [("l", &outside), ("f", &outside.join("canary")), ("d/up", &"../../outside".into())] {
            std::os::unix::fs::symlink(to, evil.join(name)).unwrap();
        }
        let context = format!("evil={}", evil.display());
        let tar = bench.path("out.tar");
        let dest = format!("type=oci,dest={}", tar.display());
        let checked = |name: &str, code: i32, stderr: &str| {
            assert!(!stderr.contains("panicked") && code != 70, "{rung}: {name}: {stderr}");
            assert!(!stderr.contains("CANARY-OUTSIDE"), "{rung}: {name}: {stderr}");
            (code == 0).then(|| support::image::Image::open_tar(&tar))
        };
        for (name, instruction) in CONTEXTS {
            bench.dockerfile(&format!("FROM busybox\n{instruction}\n"));
            let run = bench.build(&["--isolation", rung, "--build-context", &context, "-o", &dest]);
            for (path, node) in checked(name, run.code, &run.stderr).map(|i| i.tree()).into_iter().flatten() {
                assert!(!String::from_utf8_lossy(&node.content).contains("CANARY"), "{rung}: {name}: /{path}");
            }
        }
        let mut attributes = tar::Builder::new(Vec::new());
        for (name, kind) in [("d", tar::EntryType::Directory), ("d/new", tar::EntryType::Regular)] {
            attributes
                .append_pax_extensions([
                    ("SCHILY.xattr.user.overlay.opaque", &b"y"[..]),
                    ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
                    ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
                    ("SCHILY.xattr.user.overlay.whiteout", b"y"),
                    ("SCHILY.xattr.user.rootlesscontainers", b"\x08\x05\x10\x05"),
                ])
                .unwrap();
            let mut header = tar::Header::new_ustar();
            header.set_entry_type(kind);
            header.set_path(name).unwrap();
            header.set_mode(0o755);
            header.set_size(0);
            header.set_cksum();
            attributes.append(&header, std::io::empty()).unwrap();
        }
        bench.file("a.tar", attributes.into_inner().unwrap());
        bench.dockerfile(
            "FROM busybox\nRUN mkdir /x /x/d && echo old > /x/d/old\nADD a.tar /x/\nRUN cat /x/d/old > /read\n",
        );
        let run = bench.build(&["--isolation", rung, "-o", &dest]).ok();
        let image = checked("attributes in an archive", 0, &run.stderr).unwrap();
        assert_eq!(image.text("read"), "old\n", "{rung}: an archive's attribute hid a file");
        assert_eq!(image.node("x/d/new").uid, 0, "{rung}: an owner came from an attribute");
        for (path, node) in image.layers.iter().flatten() {
            let smuggled = node.xattrs.keys().find(|k| k.contains("overlay") || k.contains("rootless"));
            assert!(smuggled.is_none(), "{rung}: /{path}: {smuggled:?}");
        }
        // A sparse file: the size is said, the blocks are not there.
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::GNUSparse);
        header.set_path("sparse").unwrap();
        header.set_mode(0o644);
        header.set_size(0);
        header.as_gnu_mut().unwrap().set_real_size(u64::MAX >> 1);
        header.set_cksum();
        let mut sparse = tar::Builder::new(Vec::new());
        sparse.append(&header, std::io::empty()).unwrap();
        bench.file("a.tar", sparse.into_inner().unwrap()).dockerfile("FROM scratch\nADD a.tar /x/\n");
        let run = bench.build(&["--isolation", rung, "--step-timeout", "20s"]);
        assert!(![0, 70, 101, 134, 139, -1].contains(&run.code), "{rung}: 8 EiB: {}: {}", run.code, run.stderr);
    }
}

const CONTEXTS: &[(&str, &str)] = &[
    ("COPY of a symlink out of a named context", "COPY --from=evil /f /f"),
    ("COPY through a symlink out of a named context", "COPY --from=evil /l/canary /f"),
    ("COPY of dots out of a named context", "COPY --from=evil /../outside/canary /f"),
    ("COPY of a pattern through a symlink", "COPY --from=evil /d/up/c* /f/"),
    (
        "a bind mount of a symlink of a named context",
        "RUN --mount=from=evil,source=/l,target=/m cat /m/canary > /f; true",
    ),
    (
        "a bind mount of a named context, and its symlinks",
        "RUN --mount=from=evil,target=/m cat /m/f /m/l/canary /m/d/up/canary > /f; true",
    ),
];
