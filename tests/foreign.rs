//! Programs for another architecture, with an emulator that nobody registered with the host (SPEC A5.18, C5.13).
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stderr, reason = "skip reasons are collected by scripts/test")]
#![allow(missing_docs, unreachable_pub, reason = "a test program")]

mod support;

use support::Bench;

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

// SPEC C5.13
#[test]
fn a5_18_an_emulator_of_this_machine_needs_no_registration() {
    need_run!();
    if !std::path::Path::new("/usr/bin/qemu-aarch64-static").is_file() {
        skip!("no qemu-aarch64-static (package qemu-user-static)");
    }
    if cfg!(target_arch = "aarch64") {
        skip!("arm64 is not foreign here");
    }
    let bench = Bench::new();
    let rung = bench.rbuild(&["doctor", "--format", "json"]).stdout;
    if rung.contains("\"rung\": \"root\"") && rustix::process::geteuid().is_root() {
        skip!("real root leaves the host's binfmt_misc alone");
    }
    bench.file("fine", program(0)).file("fails", program(3)).chmod("fine", 0o755).chmod("fails", 0o755);
    bench.dockerfile("FROM scratch\nCOPY fine fails /\nRUN [\"/fine\"]\n");
    let run = bench.build(&["--platform", "linux/arm64"]);
    if run.code == 10 && run.stderr.contains("register an emulator") {
        skip!("this kernel has no binfmt_misc in user namespaces (Linux 6.7)");
    }
    run.ok();
    bench.dockerfile("FROM scratch\nCOPY fine fails /\nRUN [\"/fails\"]\n");
    bench.build(&["--platform", "linux/arm64"]).fails(9, &["exit code: 3"]);
    let left = std::fs::read_dir("/proc/sys/fs/binfmt_misc")
        .map_or(0, |d| d.flatten().filter(|e| e.file_name().to_string_lossy().starts_with("qemu-")).count());
    assert_eq!(left, 0, "the host's registrations changed");
}
