//! Programs for another architecture, with an emulator that nobody registered with the host (SPEC A5.18, C5.13).
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stderr, reason = "skip reasons are collected by scripts/test")]
#![allow(missing_docs, unreachable_pub, reason = "a test program")]

mod support;

use std::path::Path;
use std::process::Command;

use support::{Bench, Run};

/// A program for arm64 that exits with `code`: `mov x8,#93; mov x0,#code; svc #0`.
fn program(code: u32) -> Vec<u8> {
    let mut out = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0];
    out.extend([0; 8]);
    out.extend([2u16.to_le_bytes(), 183u16.to_le_bytes()].concat());
    out.extend(1u32.to_le_bytes());
    for word in [0x1_0000u64 + 120, 64, 0] {
        out.extend(word.to_le_bytes());
    }
    out.extend(0u32.to_le_bytes());
    for half in [64u16, 56, 1, 0, 0, 0] {
        out.extend(half.to_le_bytes());
    }
    out.extend([1u32.to_le_bytes(), 5u32.to_le_bytes()].concat());
    for word in [0u64, 0x1_0000, 0x1_0000, 132, 132, 0x1_0000] {
        out.extend(word.to_le_bytes());
    }
    for instruction in [0xd280_0ba8u32, 0xd280_0000 | (code << 5), 0xd400_0001] {
        out.extend(instruction.to_le_bytes());
    }
    out
}

const QEMU: &str = "/usr/bin/qemu-aarch64-static";

/// A bench for arm64 with a Dockerfile that runs two programs, and the flags for a rung that has a user namespace.
fn bench() -> Option<(Bench, Vec<&'static str>)> {
    if let Err(reason) = support::can_run() {
        eprintln!("skipped: {reason}");
        return None;
    }
    if !Path::new(QEMU).is_file() {
        eprintln!("skipped: no qemu-aarch64-static (package qemu-user-static)");
        return None;
    }
    if cfg!(target_arch = "aarch64") {
        eprintln!("skipped: arm64 is not foreign here");
        return None;
    }
    let bench = Bench::new();
    bench.file("fine", program(0)).file("fails", program(3)).chmod("fine", 0o755).chmod("fails", 0o755);
    bench.dockerfile("FROM scratch\nCOPY fine fails /\nRUN [\"/fine\"]\n");
    let mut flags = vec!["--platform", "linux/arm64"];
    if rustix::process::geteuid().is_root() {
        flags.extend(["--isolation", "userns"]);
    }
    let run = bench.build(&flags);
    if run.code == 10 && run.stderr.contains("Linux 6.7") {
        eprintln!("skipped: this kernel has no binfmt_misc in user namespaces (Linux 6.7)");
        return None;
    }
    if run.code == 10 && run.stderr.contains("does not work here") {
        eprintln!("skipped: no user namespaces here");
        return None;
    }
    run.ok();
    Some((bench, flags))
}

/// A command that sees the machine as if nobody had installed emulators, on the rung that works inside of it.
fn without_emulators(bench: &Bench, args: &[&str]) -> Run {
    let plain = bench.build_command(args);
    let hide = "for file in /usr/bin/qemu-*-static; do mount --bind /dev/null $file || exit 99; done; exec \"$@\"";
    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.arg("--map-root-user");
    }
    command.args(["--mount", "sh", "-c", hide, "sh"]).arg(plain.get_program()).args(plain.get_args());
    for (name, value) in plain.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    if let Some(dir) = plain.get_current_dir() {
        command.current_dir(dir);
    }
    let isolation = if rustix::process::geteuid().is_root() { "userns" } else { "userns-one" };
    command.args(["--isolation", isolation]);
    support::finish(command.output().unwrap())
}

// SPEC C5.13
#[test]
fn a5_18_an_emulator_of_this_machine_needs_no_registration() {
    let Some((bench, flags)) = bench() else { return };
    bench.dockerfile("FROM scratch\nCOPY fine fails /\nRUN [\"/fails\"]\n");
    bench.build(&flags).fails(9, &["exit code: 3"]);
    let left = std::fs::read_dir("/proc/sys/fs/binfmt_misc")
        .map_or(0, |d| d.flatten().filter(|e| e.file_name().to_string_lossy().starts_with("qemu-")).count());
    assert_eq!(left, 0, "the host's registrations changed");
}

/// A shell and the programs it starts (busybox is told by its first argument which one it is), and a platform of its own for one stage only.
// SPEC A4.08, A5.18, C5.13
#[test]
fn a5_18_a_dockerfile_for_arm64_builds_here() {
    let Some((mut bench, mut flags)) = bench() else { return };
    let base = support::bases().unwrap().join("busybox-arm64");
    if !base.join("index.json").is_file() {
        skip!("no base image busybox-arm64; run scripts/setup");
    }
    bench.args.extend(["--build-context".into(), format!("arm=oci-layout://{}", base.display())]);
    bench.dockerfile(
        "FROM arm\nARG TARGETARCH\nRUN uname -m > /machine && (cat /machine; echo $TARGETARCH) | sort > /out && chown 33:44 /out\n\
         RUN mkdir -m 777 /made\nUSER daemon\nRUN id -un > /made/who\n",
    );
    let image = bench.build_image(&flags);
    assert_eq!(image.text("out"), "aarch64\narm64\n");
    assert_eq!((image.node("out").uid, image.node("out").gid), (33, 44));
    assert_eq!((image.text("made/who"), image.node("made/who").uid), ("daemon\n".into(), 1));
    assert!(!image.has("usr/bin/qemu-aarch64-static"), "the image has no copy of the emulator");
    bench.dockerfile(
        "FROM --platform=linux/arm64 arm AS made\nRUN uname -m > /machine\nFROM busybox\nCOPY --from=made /machine /\nRUN uname -m > /own\n",
    );
    let isolation = flags.split_off(2);
    let image = bench.build_image(&isolation);
    assert_eq!(image.text("machine"), "aarch64\n");
    assert_ne!(image.text("own"), "aarch64\n");
}

// SPEC A5.18, C5.13
#[test]
fn a5_18_an_emulator_can_be_named() {
    let Some((bench, flags)) = bench() else { return };
    let dir = bench.path("emulators");
    std::fs::create_dir(&dir).unwrap();
    std::fs::copy(QEMU, dir.join("qemu-aarch64")).unwrap();
    let text = |name: &str| dir.join(name).display().to_string();
    for named in [text("qemu-aarch64"), text("."), format!("arm64={}", text("qemu-aarch64"))] {
        let mut args = flags.clone();
        args.extend(["--no-cache", "--emulator", &named]);
        without_emulators(&bench, &args).ok();
    }
    bench.file("rbuild.toml", format!("[steps]\nemulators = [\"{}\"]\n", text("qemu-aarch64")));
    let config = bench.ctx().join("rbuild.toml").display().to_string();
    let mut args = flags.clone();
    args.extend(["--no-cache", "--config", &config]);
    without_emulators(&bench, &args).ok();
    // It is the one that was named that runs, also where the machine has another one.
    let other = bench.path("other");
    std::fs::create_dir(&other).unwrap();
    std::fs::copy("/bin/busybox", other.join("qemu-aarch64")).unwrap();
    let named = other.join("qemu-aarch64").display().to_string();
    let mut args = flags.clone();
    args.extend(["--no-cache", "--emulator", &named]);
    bench.build(&args).fails(10, &["qemu-aarch64 does not run programs for linux/arm64"]);
    let script = text("qemu-arm");
    std::fs::write(&script, "#!/bin/sh\n").unwrap();
    bench.build(&["--emulator", &script]).fails(2, &["cannot use an emulator", "not a static program of this machine"]);
    bench.build(&["--emulator", "vax=/bin/busybox"]).fails(2, &["unknown architecture \"vax\""]);
    bench.build(&["--emulator", "arm64=image"]).fails(2, &["--emulator", "paths begin with / or ."]);
    bench.build(&["--emulator", "/bin/busybox"]).fails(2, &["does not tell its architecture"]);
}

// SPEC A5.18, C5.13
#[test]
fn a5_18_an_image_of_the_store_has_emulators() {
    let Some((bench, flags)) = bench() else { return };
    let mut args = flags.clone();
    args.push("--no-cache");
    without_emulators(&bench, &args)
        .fails(10, &["no emulator was found on this machine, nor in the store", "rbuild pull tonistiigi/binfmt"]);
    // Laid out as that image is.
    std::fs::copy(QEMU, bench.ctx().join("qemu-aarch64")).unwrap();
    bench.file("Emulators", "FROM scratch\nCOPY qemu-aarch64 /usr/bin/qemu-aarch64\n");
    let file = bench.ctx().join("Emulators").display().to_string();
    without_emulators(&bench, &["-f", &file, "-t", "my/emulators:1"]).ok();
    // No other image is looked into without being named.
    without_emulators(&bench, &args).fails(10, &["nor in the store"]);
    let mut named = args.clone();
    named.extend(["--emulator", "my/emulators:1"]);
    let run = without_emulators(&bench, &named).ok();
    assert_eq!(run.count("programs for linux/arm64 run in the emulator of image my/emulators:1"), 1, "{}", run.stderr);
    without_emulators(&bench, &["-f", &file, "-t", "tonistiigi/binfmt"]).ok();
    let run = without_emulators(&bench, &args).ok();
    assert_eq!(run.count("run in the emulator of image tonistiigi/binfmt"), 1, "{}", run.stderr);
}

// SPEC A5.18
#[test]
fn a5_18_isolation_chroot_says_why_it_does_not() {
    if !rustix::process::geteuid().is_root() {
        skip!("isolation chroot needs root");
    }
    let Some((bench, _)) = bench() else { return };
    for isolation in ["chroot", "root"] {
        let run = bench.build(&["--platform", "linux/arm64", "--no-cache", "--isolation", isolation]);
        if run.stderr.contains("does not work here") {
            eprintln!("skipped: no isolation {isolation} here");
            continue;
        }
        run.fails(10, &[&format!("isolation {isolation} "), "registered"]);
    }
}

// SPEC A5.18
#[test]
fn a5_18_the_best_rung_gives_way_to_one_that_can_have_an_emulator() {
    if !rustix::process::geteuid().is_root() {
        skip!("isolation root needs root");
    }
    let Some((bench, _)) = bench() else { return };
    let doctor = bench.rbuild(&["doctor", "--format", "json"]).stdout;
    let doctor: serde_json::Value = serde_json::from_str(&doctor).unwrap();
    if doctor["rung"] != "root" {
        skip!("isolation root is not the best one here");
    }
    if Path::new("/proc/sys/fs/binfmt_misc/qemu-aarch64").exists() {
        skip!("an emulator is registered with this machine");
    }
    let words = "steps run in isolation userns: it can have an emulator for linux/arm64";
    let run = bench.build(&["--platform", "linux/arm64", "--no-cache"]).ok();
    assert_eq!(run.count(words), 1, "{}", run.stderr);
    // What needs none stays where it is.
    bench.dockerfile("FROM scratch\nCOPY fine /\n");
    assert_eq!(bench.build(&["--no-cache"]).ok().count(words), 0);
    assert_eq!(bench.build(&["--platform", "linux/arm64", "--check"]).count(words), 0);
}
