//! Which foreign architectures this machine can run: asked by running a program of a few instructions, not read from
//! names in `/proc`, where handlers of the host may not be visible (SPEC A5.18, C5.13).

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use crate::oci::Platform;

/// Enough of an ELF file to run `exit(0)`.
struct Program {
    architecture: &'static str,
    /// `e_machine`.
    machine: u16,
    wide: bool,
    big_endian: bool,
    flags: u32,
    code: &'static [u8],
}

const PROGRAMS: &[Program] = &[
    // mov $60,%eax; xor %edi,%edi; syscall
    program("amd64", 62, true, false, 0, &[0xb8, 60, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05]),
    // mov $1,%eax; xor %ebx,%ebx; int $0x80
    program("386", 3, false, false, 0, &[0xb8, 1, 0, 0, 0, 0x31, 0xdb, 0xcd, 0x80]),
    // mov x8,#93; mov x0,#0; svc #0
    program("arm64", 183, true, false, 0, &[0xa8, 0x0b, 0x80, 0xd2, 0, 0, 0x80, 0xd2, 0x01, 0, 0, 0xd4]),
    // mov r7,#1; mov r0,#0; svc #0 (EABI 5)
    program("arm", 40, false, false, 0x0500_0000, &[0x01, 0x70, 0xa0, 0xe3, 0, 0, 0xa0, 0xe3, 0, 0, 0, 0xef]),
    // li a7,93; li a0,0; ecall (double-float ABI)
    program("riscv64", 243, true, false, 4, &[0x93, 0x08, 0xd0, 0x05, 0x13, 0x05, 0, 0, 0x73, 0, 0, 0]),
    // li r0,1; li r3,0; sc (ELFv2)
    program("ppc64le", 21, true, false, 2, &[0x01, 0, 0, 0x38, 0, 0, 0x60, 0x38, 0x02, 0, 0, 0x44]),
    // lghi %r2,0; svc 1
    program("s390x", 22, true, true, 0, &[0xa7, 0x29, 0, 0, 0x0a, 0x01]),
    // li.w $a7,93; li.w $a0,0; syscall 0 (double-float ABI)
    program("loong64", 258, true, false, 0x43, &[0x0b, 0x74, 0x81, 0x03, 0x04, 0, 0x80, 0x03, 0, 0, 0x2b, 0]),
    // li $v0,5058; li $a0,0; syscall (64-bit ABI, release 2)
    program("mips64le", 8, true, false, 0x8000_0000, &[0xc2, 0x13, 2, 0x24, 0, 0, 4, 0x24, 12, 0, 0, 0]),
    program("mips64", 8, true, true, 0x8000_0000, &[0x24, 2, 0x13, 0xc2, 0x24, 4, 0, 0, 0, 0, 0, 12]),
];

const fn program(
    architecture: &'static str,
    machine: u16,
    wide: bool,
    big_endian: bool,
    flags: u32,
    code: &'static [u8],
) -> Program {
    Program { architecture, machine, wide, big_endian, flags, code }
}

impl Program {
    /// The file: header, one loadable segment, code.
    fn elf(&self) -> Vec<u8> {
        const BASE: u64 = 0x1_0000;
        let (header, segment) = if self.wide { (64_u16, 56_u16) } else { (52, 32) };
        let start = u64::from(header) + u64::from(segment);
        let size = start + self.code.len() as u64;
        let mut out = Vec::new();
        let half = |out: &mut Vec<u8>, n: u16| {
            out.extend(if self.big_endian { n.to_be_bytes() } else { n.to_le_bytes() });
        };
        let word = |out: &mut Vec<u8>, n: u32| {
            out.extend(if self.big_endian { n.to_be_bytes() } else { n.to_le_bytes() });
        };
        let address = |out: &mut Vec<u8>, n: u64| {
            if self.wide {
                out.extend(if self.big_endian { n.to_be_bytes() } else { n.to_le_bytes() });
            } else {
                word(out, u32::try_from(n).unwrap_or_default());
            }
        };
        out.extend([0x7f, b'E', b'L', b'F', 1 + u8::from(self.wide), 1 + u8::from(self.big_endian), 1, 0]);
        out.extend([0; 8]);
        half(&mut out, 2); // an executable
        half(&mut out, self.machine);
        word(&mut out, 1);
        address(&mut out, BASE + start); // entry
        address(&mut out, u64::from(header)); // program headers
        address(&mut out, 0); // no sections
        word(&mut out, self.flags);
        for n in [header, segment, 1, 0, 0, 0] {
            half(&mut out, n);
        }
        word(&mut out, 1); // PT_LOAD
        if self.wide {
            word(&mut out, 5); // read, execute
        }
        for n in [0, BASE, BASE, size, size] {
            address(&mut out, n);
        }
        if !self.wide {
            word(&mut out, 5);
        }
        address(&mut out, BASE);
        out.extend(self.code);
        out
    }
}

/// What was found out in this process, by architecture.
static KNOWN: Mutex<Option<HashMap<String, bool>>> = Mutex::new(None);

/// The platforms whose programs run here, this machine's first. As [`can_run`].
#[must_use]
pub fn platforms(dir: &Path) -> Vec<Platform> {
    let host = Platform::host();
    let of = |program: &Program| Platform {
        architecture: program.architecture.into(),
        variant: String::new(),
        ..host.clone()
    };
    let foreign = PROGRAMS.iter().map(of).filter(|platform| platform.architecture != host.architecture);
    let foreign: Vec<Platform> = foreign.filter(|platform| can_run(platform, dir)).collect();
    std::iter::once(host).chain(foreign).collect()
}

/// Whether programs for `platform` run here. Blocks for a few milliseconds the first time; `dir` is a private directory
/// in which files may be executed.
#[must_use]
pub fn can_run(platform: &Platform, dir: &Path) -> bool {
    let host = Platform::host();
    if platform.os != host.os {
        return false;
    }
    if platform.architecture == host.architecture {
        return true;
    }
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let known = known.get_or_insert_default();
    *known.entry(platform.architecture.clone()).or_insert_with(|| can_run_now(platform, dir))
}

/// As [`can_run`], found out again: what is registered may change.
#[must_use]
pub fn can_run_now(platform: &Platform, dir: &Path) -> bool {
    let host = Platform::host();
    let program = PROGRAMS.iter().find(|p| p.architecture == platform.architecture);
    platform.os == host.os
        && (platform.architecture == host.architecture
            || program.is_some_and(|program| runs(program, dir).unwrap_or(false)))
}

fn runs(program: &Program, dir: &Path) -> io::Result<bool> {
    let path = dir.join(format!("probe-{}", program.architecture));
    {
        use io::Write as _;
        let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o700).open(&path)?;
        file.write_all(&program.elf())?;
    }
    // A descriptor of ours that a child of another thread holds for a moment makes the kernel say "text file busy".
    let mut status = Err(io::ErrorKind::Other.into());
    for _ in 0..20 {
        let mut command = Command::new(&path);
        status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        if status.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::ExecutableFileBusy) {
            std::thread::sleep(std::time::Duration::from_millis(5));
        } else {
            break;
        }
    }
    let _ = std::fs::remove_file(&path);
    Ok(status?.success())
}

/// How to make it possible, where emulators can be registered for steps alone or cannot.
#[must_use]
pub fn remedy(platform: &Platform, for_steps_alone: bool) -> String {
    let own = if for_steps_alone {
        "give rbuild an emulator (package qemu-user-static, `rbuild pull tonistiigi/binfmt`, or --emulator), or "
    } else {
        ""
    };
    format!(
        "keep RUN on the machine's own platform (FROM --platform=$BUILDPLATFORM … and cross-compile), or {own}register an \
         emulator for {} with the kernel (package qemu-user-static with binfmt-support, or `docker run --privileged \
         --rm tonistiigi/binfmt --install {}`)",
        platform.architecture, platform.architecture
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_architecture_runs_and_unknown_ones_do_not() {
        let dir = tempfile::tempdir().expect("a directory");
        assert!(can_run(&Platform::host(), dir.path()));
        assert!(!can_run(&Platform::new("linux", "sparc64", ""), dir.path()));
        assert!(!can_run(&Platform::new("windows", "amd64", ""), dir.path()));
    }

    /// The program for this very machine is the one that can be tried everywhere.
    #[test]
    fn the_programs_are_programs() {
        let dir = tempfile::tempdir().expect("a directory");
        let own = PROGRAMS.iter().find(|p| p.architecture == Platform::host().architecture);
        if let Some(own) = own {
            assert!(runs(own, dir.path()).expect("runs"));
        }
        for program in PROGRAMS {
            let elf = program.elf();
            let head = if program.wide { 64 + 56 } else { 52 + 32 };
            assert_eq!(elf.len(), head + program.code.len(), "{}", program.architecture);
        }
        assert_eq!(std::fs::read_dir(dir.path()).expect("reads").count(), 0);
    }

    /// What qemu's user-mode emulators say about them, where they are installed.
    #[test]
    fn emulators_run_the_foreign_programs() {
        let dir = tempfile::tempdir().expect("a directory");
        for program in PROGRAMS {
            let name = match program.architecture {
                "arm64" => "aarch64",
                "loong64" => "loongarch64",
                "mips64le" => "mips64el",
                "amd64" => "x86_64",
                "386" => "i386",
                other => other,
            };
            let path = dir.path().join(program.architecture);
            std::fs::write(&path, program.elf()).expect("written");
            // Emulators look at it as the kernel does.
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o700))
                .expect("made executable");
            for emulator in [format!("qemu-{name}-static"), format!("qemu-{name}")] {
                if let Ok(status) = Command::new(&emulator).arg(&path).status() {
                    assert!(status.success(), "{emulator} on the program for {}: {status}", program.architecture);
                }
            }
        }
    }
}
