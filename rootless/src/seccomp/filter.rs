//! From the table of allowed calls to BPF.

use libc::sock_filter;

use super::profile::{ALLOWED, CLONE, CLONE3, Column, PERSONALITY, SOCKET};

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const EPERM: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

/// `clone` flags that would make namespaces: NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET.
const CLONE_NAMESPACES: u32 = 0x7e02_0000;
/// Values of `personality` that only ask or choose the ordinary Linux ones.
const PERSONALITIES: [u32; 5] = [0, 8, 0x2_0000, 0x2_0008, u32::MAX];
/// Address families of `socket`, as inclusive ranges; among the missing are AF_ALG (38) and AF_VSOCK (40).
const FAMILIES: [(u32, u32); 8] = [(0, 11), (13, 18), (21, 22), (24, 24), (26, 33), (35, 36), (39, 39), (41, 45)];

/// The marker bit of x32 calls.
pub(super) const X32: u32 = 0x4000_0000;

/// Where `struct seccomp_data` keeps things (little-endian machines only, like every architecture in the table).
pub(super) const NR: u32 = 0;
pub(super) const ARCH: u32 = 4;
pub(super) const ARG0: u32 = 16;

/// What to do with a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    /// Return this value.
    Ret(u32),
    /// Look at the arguments.
    Check(Check),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    Clone,
    Socket,
    Personality,
}

/// An architecture a step may use: its audit number and where its calls are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arch {
    pub(super) audit: u32,
    pub(super) column: Column,
    /// The column for numbers that carry the x32 marker.
    pub(super) marked: Option<Column>,
}

const AUDIT_X86_64: u32 = 0xc000_003e;
const AUDIT_I386: u32 = 0x4000_0003;
const AUDIT_AARCH64: u32 = 0xc000_00b7;
const AUDIT_ARM: u32 = 0x4000_0028;
const AUDIT_RISCV64: u32 = 0xc000_00f3;

const X86: &[Arch] = &[
    Arch { audit: AUDIT_X86_64, column: Column::X86_64, marked: Some(Column::X32) },
    Arch { audit: AUDIT_I386, column: Column::X86, marked: None },
];
const ARM: &[Arch] = &[
    Arch { audit: AUDIT_AARCH64, column: Column::Aarch64, marked: None },
    Arch { audit: AUDIT_ARM, column: Column::Arm, marked: None },
];
const RISCV: &[Arch] = &[Arch { audit: AUDIT_RISCV64, column: Column::Riscv64, marked: None }];

/// The architectures a step may use on this machine; none where the table has no column for it.
pub(super) fn arches() -> &'static [Arch] {
    if cfg!(target_arch = "x86_64") {
        X86
    } else if cfg!(target_arch = "aarch64") {
        ARM
    } else if cfg!(target_arch = "riscv64") {
        RISCV
    } else {
        &[]
    }
}

/// The filter for this machine; `None` where the table has no column for it.
pub(crate) fn default_filter() -> Option<Vec<sock_filter>> {
    let arches = arches();
    (!arches.is_empty()).then(|| program(arches))
}

fn program(arches: &[Arch]) -> Vec<sock_filter> {
    let mut out = vec![load(ARCH)];
    for arch in arches {
        let section = section(*arch);
        // Sections are longer than a conditional jump reaches.
        out.push(jump(libc::BPF_JEQ, arch.audit, 1, 0));
        out.push(goto(section.len()));
        out.extend(section);
    }
    out.push(ret(ENOSYS));
    out
}

fn section(arch: Arch) -> Vec<sock_filter> {
    let mut out = vec![load(NR)];
    if let Some(marked) = arch.marked {
        let mut inner = vec![alu_and(!X32)];
        inner.extend(search(marked));
        out.push(jump(libc::BPF_JGE, X32, 1, 0));
        out.push(goto(inner.len()));
        out.extend(inner);
    }
    out.extend(search(arch.column));
    out
}

/// Binary search for the number in the accumulator, then the argument checks it may lead to.
fn search(column: Column) -> Vec<sock_filter> {
    let mut out = Vec::new();
    let mut gotos = Vec::new();
    tree(&segments(column), &mut out, &mut gotos);
    for check in [Check::Clone, Check::Socket, Check::Personality] {
        let here = out.len();
        for (at, _) in gotos.iter().filter(|(_, c)| *c == check) {
            out[*at] = goto(here - at - 1);
        }
        out.push(load(ARG0));
        match check {
            Check::Clone => {
                out.push(jump(libc::BPF_JSET, CLONE_NAMESPACES, 0, 1));
                out.push(ret(EPERM));
                out.push(ret(ALLOW));
            }
            Check::Socket => values(&FAMILIES, &mut out),
            Check::Personality => values(&PERSONALITIES.map(|p| (p, p)), &mut out),
        }
    }
    out
}

/// Allows the values in `ranges`, denies others.
fn values(ranges: &[(u32, u32)], out: &mut Vec<sock_filter>) {
    let mut segments = vec![(0, Action::Ret(EPERM))];
    for (low, high) in ranges {
        push(&mut segments, *low, Action::Ret(ALLOW));
        if let Some(next) = high.checked_add(1) {
            push(&mut segments, next, Action::Ret(EPERM));
        }
    }
    tree(&segments, out, &mut Vec::new());
}

/// The whole number line of an architecture as `(start, action)`, ascending, beginning at 0.
fn segments(column: Column) -> Vec<(u32, Action)> {
    let number = |numbers: &[i32; 6]| u32::try_from(numbers[column as usize]).ok();
    let mut calls: Vec<(u32, Action)> =
        ALLOWED.iter().filter_map(|(_, n)| Some((number(n)?, Action::Ret(ALLOW)))).collect();
    calls.extend(number(&CLONE).map(|n| (n, Action::Check(Check::Clone))));
    calls.extend(number(&SOCKET).map(|n| (n, Action::Check(Check::Socket))));
    calls.extend(number(&PERSONALITY).map(|n| (n, Action::Check(Check::Personality))));
    calls.extend(number(&CLONE3).map(|n| (n, Action::Ret(ENOSYS))));
    calls.sort_by_key(|(n, _)| *n);
    calls.dedup_by_key(|(n, _)| *n);
    // Programs probe for calls newer than this table and expect ENOSYS; private numbers (32-bit ARM) are far above.
    let newest = calls.iter().map(|(n, _)| *n).filter(|n| *n < 0x1_0000).max().unwrap_or(0);
    let gap = |at: u32| Action::Ret(if at > newest { ENOSYS } else { EPERM });
    let mut out = vec![(0, gap(0))];
    for (n, action) in calls {
        push(&mut out, n, action);
        push(&mut out, n + 1, gap(n + 1));
    }
    out
}

/// Appends a segment; one that starts where the last does replaces it, one with the same action is merged.
fn push(segments: &mut Vec<(u32, Action)>, start: u32, action: Action) {
    if segments.last().is_some_and(|(last, _)| *last == start) {
        segments.pop();
    }
    if segments.last().is_none_or(|(_, last)| *last != action) {
        segments.push((start, action));
    }
}

fn tree(segments: &[(u32, Action)], out: &mut Vec<sock_filter>, gotos: &mut Vec<(usize, Check)>) {
    match segments {
        [] => {}
        [(_, Action::Ret(value))] => out.push(ret(*value)),
        [(_, Action::Check(check))] => {
            gotos.push((out.len(), *check));
            out.push(goto(0));
        }
        _ => {
            let (left, right) = segments.split_at(segments.len() / 2);
            let (mut below, mut below_gotos) = (Vec::new(), Vec::new());
            tree(left, &mut below, &mut below_gotos);
            match u8::try_from(below.len()) {
                Ok(reach) => out.push(jump(libc::BPF_JGE, right[0].0, reach, 0)),
                Err(_) => out.extend([jump(libc::BPF_JGE, right[0].0, 0, 1), goto(below.len())]),
            }
            gotos.extend(below_gotos.into_iter().map(|(at, check)| (at + out.len(), check)));
            out.extend(below);
            tree(right, out, gotos);
        }
    }
}

pub(super) fn insn(code: u32, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code: u16::try_from(code).expect("opcodes are 16 bits"), jt, jf, k }
}

pub(super) fn load(offset: u32) -> sock_filter {
    insn(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, offset)
}

pub(super) fn ret(value: u32) -> sock_filter {
    insn(libc::BPF_RET | libc::BPF_K, 0, 0, value)
}

pub(super) fn alu_and(mask: u32) -> sock_filter {
    insn(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0, 0, mask)
}

pub(super) fn jump(test: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    insn(libc::BPF_JMP | test | libc::BPF_K, jt, jf, k)
}

pub(super) fn goto(skip: usize) -> sock_filter {
    insn(libc::BPF_JMP | libc::BPF_JA, 0, 0, u32::try_from(skip).expect("programs have at most 4096 instructions"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel's interpreter would answer.
    fn run(program: &[sock_filter], arch: u32, nr: u32, arg0: u32) -> u32 {
        let (mut pc, mut acc) = (0usize, 0u32);
        loop {
            let i = program[pc];
            pc += 1;
            let code = u32::from(i.code);
            if code == libc::BPF_LD | libc::BPF_W | libc::BPF_ABS {
                acc = match i.k {
                    NR => nr,
                    ARCH => arch,
                    ARG0 => arg0,
                    other => panic!("load of {other}"),
                };
            } else if code == libc::BPF_RET | libc::BPF_K {
                return i.k;
            } else if code == libc::BPF_ALU | libc::BPF_AND | libc::BPF_K {
                acc &= i.k;
            } else if code == libc::BPF_JMP | libc::BPF_JA {
                pc += usize::try_from(i.k).expect("fits");
            } else {
                let yes = match code & 0xf0 {
                    c if c == libc::BPF_JEQ => acc == i.k,
                    c if c == libc::BPF_JGE => acc >= i.k,
                    c if c == libc::BPF_JSET => acc & i.k != 0,
                    c => panic!("jump {c:#x}"),
                };
                pc += usize::from(if yes { i.jt } else { i.jf });
            }
        }
    }

    fn expected(column: Column, nr: u32) -> Option<u32> {
        let n = i32::try_from(nr).unwrap_or(i32::MAX);
        let is = |numbers: &[i32; 6]| numbers[column as usize] == n;
        if is(&CLONE) || is(&SOCKET) || is(&PERSONALITY) {
            return None;
        }
        if is(&CLONE3) {
            return Some(ENOSYS);
        }
        let newest = ALLOWED.iter().map(|(_, x)| x[column as usize]).filter(|x| *x < 0x1_0000).max().unwrap_or(0);
        Some(match ALLOWED.iter().any(|(_, x)| is(x)) {
            true => ALLOW,
            false if n > newest => ENOSYS,
            false => EPERM,
        })
    }

    #[test]
    fn every_number_of_every_architecture_gets_the_tables_answer() {
        for arches in [X86, ARM, RISCV] {
            let program = program(arches);
            assert!(program.len() < 2000, "{}", program.len());
            for arch in arches {
                for nr in (0..1200).chain(0xf_0000..0xf_0010).chain([0x3fff_ffff, 0x8000_0000, u32::MAX]) {
                    if let Some(want) = expected(arch.column, nr) {
                        assert_eq!(run(&program, arch.audit, nr, 0), want, "{arch:?} {nr}");
                    }
                    if let Some(marked) = arch.marked
                        && nr < 1200
                        && let Some(want) = expected(marked, nr)
                    {
                        assert_eq!(run(&program, arch.audit, nr | X32, 0), want, "x32 {nr}");
                    }
                }
            }
            assert_eq!(run(&program, 0x1234, 0, 0), ENOSYS, "an unknown architecture");
        }
    }

    #[test]
    fn conditional_calls_look_at_their_first_argument() {
        for (arches, audit, column) in [
            (X86, AUDIT_X86_64, Column::X86_64),
            (X86, AUDIT_I386, Column::X86),
            (ARM, AUDIT_AARCH64, Column::Aarch64),
            (ARM, AUDIT_ARM, Column::Arm),
            (RISCV, AUDIT_RISCV64, Column::Riscv64),
        ] {
            let program = program(arches);
            let ask = |numbers: &[i32; 6], arg| {
                run(&program, audit, u32::try_from(numbers[column as usize]).expect("present"), arg)
            };
            assert_eq!(ask(&CLONE, 0x0120_0011), ALLOW, "fork");
            assert_eq!(ask(&CLONE, 0x1000_0011), EPERM, "CLONE_NEWUSER");
            assert_eq!(ask(&CLONE, 0x0002_0011), EPERM, "CLONE_NEWNS");
            for family in 0..60 {
                let allowed = FAMILIES.iter().any(|(low, high)| (*low..=*high).contains(&family));
                assert_eq!(ask(&SOCKET, family), if allowed { ALLOW } else { EPERM }, "family {family}");
            }
            assert_eq!(ask(&SOCKET, 40), EPERM, "AF_VSOCK");
            assert_eq!(ask(&SOCKET, 10), ALLOW, "AF_INET6");
            for (value, want) in [(0, ALLOW), (8, ALLOW), (0x2_0008, ALLOW), (u32::MAX, ALLOW), (0x4_0000, EPERM)] {
                assert_eq!(ask(&PERSONALITY, value), want, "personality {value:#x}");
            }
        }
    }

    #[test]
    fn dangerous_calls_are_not_in_the_table() {
        let names: Vec<&str> = ALLOWED.iter().map(|(name, _)| *name).collect();
        for bad in [
            "mount",
            "unshare",
            "setns",
            "keyctl",
            "add_key",
            "bpf",
            "userfaultfd",
            "kexec_load",
            "open_by_handle_at",
            "init_module",
            "reboot",
            "pivot_root",
            "io_uring_setup",
            "perf_event_open",
            "open_tree",
            "move_mount",
        ] {
            assert!(!names.contains(&bad), "{bad}");
        }
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        for (name, number) in
            [("openat2", libc::SYS_openat2), ("chroot", libc::SYS_chroot), ("execve", libc::SYS_execve)]
        {
            let row = ALLOWED.iter().find(|(n, _)| *n == name).expect("in the table");
            assert_eq!(i64::from(row.1[Column::X86_64 as usize]), number, "{name}");
        }
    }
}
