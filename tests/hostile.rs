//! A Dockerfile is hostile input: none of these may see or touch anything outside.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stderr, reason = "skip reasons are collected by scripts/test")]
#![allow(missing_docs, unreachable_pub, reason = "a test program")]
#![allow(clippy::type_complexity, reason = "shapes are compared, not kept")]

mod support;

use std::io::Write as _;

use support::Bench;

#[test]
fn one_step_cannot_read_another_steps_environment_or_secret() {
    need_run!();
    let bench = Bench::new();
    std::fs::write(bench.path("token"), "top-s3cret-value").unwrap();
    // Two steps that wait for each other through a cache mount; the second one searches /proc while the first holds a secret.
    bench.dockerfile(
        "FROM busybox AS holder\nRUN --mount=type=cache,target=/c --mount=type=secret,id=t --mount=type=secret,id=t,env=TOKEN touch /c/up; for i in $(seq 200); do [ -e /c/done ] && break; sleep 0.1; done\n\
         FROM busybox AS thief\nRUN --mount=type=cache,target=/c for i in $(seq 100); do [ -e /c/up ] && break; sleep 0.1; done; \
           { for p in /proc/[0-9]*; do cat $p/environ $p/root/run/secrets/t $p/cwd/run/secrets/t; ls $p/fd; done; } > /loot 2>/dev/null; touch /c/done\n\
         FROM scratch\nCOPY --from=thief /loot /loot\nCOPY --from=holder /etc/passwd /p\n",
    );
    let secret = format!("id=t,src={}", bench.path("token").display());
    let image = bench.build_image(&["--secret", &secret]);
    let loot = String::from_utf8_lossy(&image.node("loot").content).into_owned();
    assert!(!loot.contains("top-s3cret-value"), "the secret leaked");
    assert!(!loot.contains("TOKEN="), "another step's environment is readable");
}

#[test]
fn steps_see_no_credentials_store_or_builder() {
    need_run!();
    let bench = Bench::new();
    std::fs::create_dir_all(bench.path("home/.docker")).unwrap();
    std::fs::write(
        bench.path("home/.docker/config.json"),
        r#"{"auths":{"example.com":{"auth":"Y2FuYXJ5OmNhbmFyeQ=="}}}"#,
    )
    .unwrap();
    let store = bench.store().display().to_string();
    let home = bench.path("home").display().to_string();
    bench.dockerfile(&format!(
        "FROM busybox\nRUN {{ env; cat /proc/1/environ /proc/1/cmdline /proc/self/mountinfo; ls -la /proc/1/fd /proc/self/fd; ls {store} {home} && echo VISI''BLE; }} > /seen 2>&1; true\n"
    ));
    let image = bench.build_image(&[]);
    let seen = String::from_utf8_lossy(&image.node("seen").content).into_owned();
    assert!(!seen.contains("VISIBLE") && !seen.contains("Y2FuYXJ5"), "{seen}");
    assert!(!seen.contains("socket:"), "a step inherited a socket: {seen}");
}

#[test]
fn copy_and_workdir_do_not_leave_the_root() {
    need_run!();
    let bench = Bench::new();
    let outside = bench.path("outside");
    std::fs::write(&outside, "OUTSIDE").unwrap();
    bench
        .file("ok", "fine")
        .symlink(&outside.display().to_string(), "abs")
        .symlink("../outside", "up")
        .symlink("/proc/self/fd", "fds");
    // Links inside a copied tree are copied as links; a link as the source itself is resolved inside the context.
    for source in ["abs", "up", "fds/0", "../outside"] {
        bench.dockerfile(&format!("FROM busybox\nCOPY {source} /got\n"));
        let run = bench.build(&["-o", &format!("type=oci,dest={}", bench.path("x.tar").display())]);
        if run.code == 0 {
            let image = support::image::Image::open_tar(&bench.path("x.tar"));
            assert!(
                !image.has("got") || !String::from_utf8_lossy(&image.node("got").content).contains("OUTSIDE"),
                "COPY {source} escaped"
            );
        }
    }
    // Destinations through links planted in the image.
    bench.dockerfile(&format!(
        "FROM busybox\nRUN ln -s {} /evil && ln -s /proc/self/fd /fds && ln -s ../../../../../../../../../tmp /up\nCOPY ok /evil/x\nCOPY ok /up/planted\n",
        bench.path("out").display()
    ));
    bench.build(&[]);
    assert!(!bench.path("out/x").exists(), "COPY wrote through a link of the image");
    assert!(!std::path::Path::new("/tmp/planted").exists());
    bench.dockerfile("FROM busybox\nWORKDIR /proc/self/fd/3\nRUN pwd\n");
    let run = bench.build(&[]);
    assert!(!run.stderr.contains("OUTSIDE"));
    bench.dockerfile("FROM busybox\nSHELL [\"/proc/self/exe\", \"-c\"]\nRUN __worker\n");
    assert_ne!(bench.build(&[]).code, 0);
}

#[test]
fn archives_do_not_leave_the_root() {
    need_run!();
    let bench = Bench::new();
    let mut tar = tar::Builder::new(Vec::new());
    let target = bench.path("out").display().to_string();
    let mut link = |name: &str, to: &str, kind: tar::EntryType| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(0);
        header.set_mode(0o777);
        header.set_link_name_literal(to).unwrap();
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        tar.append(&header, std::io::empty()).unwrap();
    };
    link("a/link", &target, tar::EntryType::Symlink);
    link("dots", "../../../../../../../..", tar::EntryType::Symlink);
    let mut file = |name: &str| {
        let mut header = tar::Header::new_gnu();
        header.set_size(4);
        header.set_mode(0o644);
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        tar.append(&header, &b"evil"[..]).unwrap();
    };
    file("a/link/escaped");
    file("../../../../../../../tmp/rbuild-escaped");
    file("/tmp/rbuild-escaped-absolute");
    file("dots/tmp/rbuild-escaped-dots");
    let bytes = tar.into_inner().unwrap();
    std::fs::File::create(bench.ctx().join("evil.tar")).unwrap().write_all(&bytes).unwrap();
    bench.dockerfile("FROM busybox\nADD evil.tar /x/\n");
    bench.build(&[]);
    assert!(!bench.path("out/escaped").exists());
    for name in ["rbuild-escaped", "rbuild-escaped-absolute", "rbuild-escaped-dots"] {
        assert!(!std::path::Path::new("/tmp").join(name).exists(), "{name}");
    }
}

#[test]
fn smuggled_attributes_are_not_taken_at_face_value() {
    need_run!();
    let bench = Bench::new();
    bench.file("d/f", "x").file("d/g", "y");
    let set = |name: &str, value: &str, path: &str| {
        std::process::Command::new("setfattr")
            .args(["-n", name, "-v", value])
            .arg(bench.ctx().join(path))
            .status()
            .is_ok_and(|s| s.success())
    };
    if !set("user.overlay.opaque", "y", "d") || !set("user.rootlesscontainers", "0sCAE=", "d/f") {
        skip!("this file system has no user xattrs");
    }
    set("user.overlay.whiteout", "y", "d/g");
    set("user.mine", "kept", "d/f");
    bench.dockerfile("FROM busybox AS lower\nRUN mkdir /d && echo old > /d/old\nFROM lower\nCOPY d /d\n");
    let image = bench.build_image(&[]);
    assert!(image.has("d/old"), "an opaque mark came from the context");
    assert!(image.has("d/g"), "a whiteout mark came from the context");
    assert_eq!(image.node("d/f").uid, 0);
    for layer in &image.layers {
        for (path, node) in layer {
            assert!(
                !node.xattrs.keys().any(|k| k.starts_with("user.overlay.") || k.starts_with("user.rootless")),
                "{path}"
            );
        }
    }
}

#[test]
fn leftovers_die_with_their_step() {
    need_run!();
    let bench = Bench::new();
    bench.dockerfile(
        "FROM busybox\nRUN (setsid sleep 3141 &) ; (trap '' TERM HUP INT; sleep 3142) & sleep 0.1; echo ok > /ok\n",
    );
    assert_eq!(bench.build_image(&[]).text("ok"), "ok\n");
    let running = std::process::Command::new("pgrep").args(["-f", "^sleep 314[12]"]).output().unwrap();
    assert!(running.stdout.is_empty(), "processes survived their step");
}
