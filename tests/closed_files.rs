//! Files and directories whose mode keeps their owner out: on no rung does that keep the build out, not even where it has no
//! privileges, and everything that comes out has the modes it was given.
//!
//! SPEC C5.19 (the same tree on every rung), C6.10, B3.01, B3.02.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stderr, reason = "skip reasons are collected by scripts/test")]
#![allow(missing_docs, unreachable_pub, reason = "a test program")]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use support::Bench;
use support::image::Image;

/// The rungs that this user may have: of those that are not here a line says so.
fn rungs() -> &'static [&'static str] {
    if rustix::process::geteuid().is_root() { &["root", "chroot"] } else { &["userns", "userns-one", "ptrace"] }
}

fn works(bench: &Bench, rung: &str) -> bool {
    bench.dockerfile("FROM busybox\nRUN true\n");
    let run = bench.build(&["--isolation", rung]);
    if run.stderr.contains("does not work here") {
        eprintln!("skipped: no isolation {rung} here");
        return false;
    }
    run.ok();
    true
}

/// What the first image has below `/q`.
const CLOSED: &str = "mkdir /q && cd /q && echo text > file && chown 33:44 file && chmod 0 file && cp /bin/busybox run && chmod 4111 run && \
    mkdir -m 0311 dir && echo y > dir/f && chmod 0040 dir/f && mkdir none && echo z > none/g && chmod 0 none/g none && chown 7 none && \
    (umask 0777; echo u > new; mkdir sub) && ln file twin && echo gone > none/gone && chmod 0 none/gone";

fn modes(image: &Image, names: &[&str]) -> Vec<String> {
    let tree = image.tree();
    names
        .iter()
        .map(|name| tree.get(*name).map_or("-".into(), |n| format!("{:o} {}:{}", n.mode, n.uid, n.gid)))
        .collect()
}

#[test]
fn layers_copies_and_steps_have_files_that_keep_their_owner_out() {
    need!(support::bases());
    for rung in rungs() {
        let bench = Bench::new();
        if !works(&bench, rung) {
            continue;
        }
        let build = |args: &[&str]| bench.build_image(&[&["--isolation", rung], args].concat());
        bench.dockerfile(&format!(
            "FROM busybox AS made\nRUN {CLOSED}\nFROM busybox\nCOPY --from=made /q /q\nCOPY --from=made --chmod=0111 /q/file /copy\n\
             COPY --from=made /q/none /q/dir/\nRUN cat /q/file /q/none/g /copy > /seen && chmod 0 /seen && stat -c %a /q/none > /q/new\n"
        ));
        let first = build(&[]);
        let names =
            ["q/file", "q/run", "q/dir", "q/dir/f", "q/dir/g", "q/none", "q/none/g", "q/new", "q/sub", "copy", "seen"];
        let wanted = [
            "0 33:44",
            "4111 0:0",
            "311 0:0",
            "40 0:0",
            "0 0:0",
            "0 7:0",
            "0 0:0",
            "0 0:0",
            "0 0:0",
            "111 33:44",
            "0 0:0",
        ];
        assert_eq!(modes(&first, &names), wanted, "{rung}");
        assert_eq!((first.text("seen"), first.text("q/new")), ("text\nz\ntext\n".into(), "0\n".into()), "{rung}");
        assert!(first.node("q/file").twin == "q/twin" || first.node("q/twin").twin == "q/file", "{rung}");
        let attributes =
            |image: &Image| image.tree().values().any(|n| n.xattrs.keys().any(|k| k.starts_with("user.r")));
        assert!(!attributes(&first), "{rung}: a record is in the image");
        // As a base, from its blobs: read, changed, removed.
        let layout = bench.path("layout");
        let dest = format!("type=oci,tar=false,dest={}", layout.display());
        bench.build(&["--isolation", rung, "-o", &dest]).ok();
        bench.dockerfile(
            "FROM closed\nRUN cd /q && cat file dir/f > /all && rm none/gone && chmod 600 new && mv dir moved && echo more >> none/g\nRUN stat -c %a /q/file /q/none > /told\n",
        );
        bench.rbuild(&["system", "reset", "--force"]).ok();
        let second = build(&["--build-context", &format!("closed=oci-layout://{}", layout.display())]);
        assert_eq!(second.text("all"), "text\ny\n", "{rung}");
        assert_eq!(second.text("told"), "0\n0\n", "{rung}");
        assert_eq!(second.text("q/none/g"), "z\nmore\n", "{rung}");
        let names = ["q/file", "q/new", "q/moved", "q/moved/f", "q/none", "q/none/g", "q/none/gone"];
        assert_eq!(
            modes(&second, &names),
            ["0 33:44", "600 0:0", "311 0:0", "40 0:0", "0 7:0", "0 0:0", "-"],
            "{rung}"
        );
        assert!(!second.top().iter().any(|path| path == "q/file"), "{rung}: what nobody changed is in no other layer");
        assert!(!attributes(&second), "{rung}: a record is in the image");
    }
}

#[test]
fn files_and_archives_have_the_modes_that_keep_their_owner_out() {
    need!(support::bases());
    for rung in rungs() {
        let bench = Bench::new();
        if !works(&bench, rung) {
            continue;
        }
        bench.dockerfile(&format!("FROM busybox AS made\nRUN {CLOSED}\nFROM scratch\nCOPY --from=made /q /\n"));
        let (dir, tar) = (bench.path("out/files"), bench.path("out/files.tar"));
        let local = format!("type=local,dest={}", dir.display());
        let archive = format!("type=tar,dest={}", tar.display());
        bench.build(&["--isolation", rung, "-o", &local, "-o", &archive]).ok();
        let mode = |path: &Path| fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(
            ["file", "dir", "none", "new", "sub"].map(|name| mode(&dir.join(name))),
            [0, 0o311, 0, 0, 0],
            "{rung}"
        );
        fs::set_permissions(dir.join("file"), fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(fs::read(dir.join("file")).unwrap(), b"text\n", "{rung}");
        let mut listed = tar::Archive::new(fs::File::open(&tar).unwrap());
        let mut found: Vec<_> = listed
            .entries()
            .unwrap()
            .map(|e| e.unwrap())
            .map(|e| (e.path().unwrap().display().to_string(), e.header().mode().unwrap() & 0o7777))
            .filter(|(path, _)| !path.contains("/g") && !path.contains("/f"))
            .collect();
        found.sort();
        let modes: Vec<u32> = found.iter().filter(|(path, _)| path != "./").map(|(_, mode)| *mode).collect();
        assert_eq!(modes, [0o311, 0, 0, 0, 0o4111, 0, 0], "{rung}: {found:?}");
    }
}

/// Whoever is not root of the step is kept out, as by the kernel; `userns-one` checks nothing between users of a step.
#[test]
fn only_root_of_a_step_reads_what_is_closed() {
    need!(support::bases());
    for rung in rungs().iter().filter(|rung| **rung != "userns-one") {
        let bench = Bench::new();
        if !works(&bench, rung) {
            continue;
        }
        bench.dockerfile(
            "FROM busybox\nRUN echo secret > /f && chmod 0 /f && cat /f > /dev/null && echo own > /own && chown 1000:1000 /own && chmod 0 /own\n\
             USER 1000:1000\nRUN ! cat /f && ! cat /own && ! [ -r /f ] && chmod 400 /own && cat /own\n",
        );
        let run = bench.build(&["--isolation", rung]).ok();
        assert!(run.stderr.contains("can't open '/f': Permission denied"), "{rung}: {}", run.stderr);
    }
}
