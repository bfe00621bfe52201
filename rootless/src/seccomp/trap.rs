//! Short filters that treat some calls specially and allow the rest; stacked on the default one.
//!
//! The kernel takes the strictest answer of all filters: an error of one wins over a notification of another.

use std::collections::HashMap;

use libc::sock_filter;

use super::filter::{ARCH, ARG0, NR, X32, alu_and, arches, goto, jump, load, ret};
use super::profile::{ALLOWED, CLONE, Numbers, PERSONALITY, SOCKET};

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// It fails with this error, or succeeds without doing anything (0).
    Errno(i32),
    /// The supervisor answers it.
    Notify,
    /// The tracer looks at it first.
    Trace,
    /// The kernel carries it out.
    Allow,
}

impl Action {
    fn value(self) -> u32 {
        match self {
            Self::Errno(code) => libc::SECCOMP_RET_ERRNO | u32::try_from(code).unwrap_or(0),
            Self::Notify => libc::SECCOMP_RET_USER_NOTIF,
            Self::Trace => libc::SECCOMP_RET_TRACE,
            Self::Allow => libc::SECCOMP_RET_ALLOW,
        }
    }
}

/// Which calls of one name are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    /// All.
    Always,
    /// Those with one of these bits in the low half of this argument.
    Bits(u32, u32),
    /// Those where this argument, a pointer, is not null.
    Given(u32),
    /// Those where this argument, masked, has one of these values.
    Masked(u32, u32, &'static [u32]),
}

/// A call by its name in the table and what to do about it.
pub(crate) type Trap = (&'static str, When, Action);

/// The numbers of a call the default filter knows.
fn numbers(name: &str) -> Option<&'static Numbers> {
    match name {
        "clone" => Some(&CLONE),
        "socket" => Some(&SOCKET),
        "personality" => Some(&PERSONALITY),
        _ => ALLOWED.iter().find(|(n, _)| *n == name).map(|(_, n)| n),
    }
}

/// The program for these traps on this machine. Calls the table does not know are none a step could make.
pub(crate) fn trap_filter(traps: &[Trap]) -> Vec<sock_filter> {
    let mut out = vec![load(ARCH)];
    for arch in arches() {
        let mut section = vec![load(NR)];
        if let Some(marked) = arch.marked {
            let mut inner = vec![alu_and(!X32)];
            inner.extend(checks(traps, marked as usize));
            section.push(jump(libc::BPF_JGE, X32, 1, 0));
            section.push(goto(inner.len()));
            section.extend(inner);
        }
        section.extend(checks(traps, arch.column as usize));
        out.push(jump(libc::BPF_JEQ, arch.audit, 1, 0));
        out.push(goto(section.len()));
        out.extend(section);
    }
    out.push(ret(libc::SECCOMP_RET_ALLOW));
    out
}

/// The program that refuses what is not among `rules` (`ENOSYS`), and all calls but those of this machine's own architecture.
pub(crate) fn closed_filter(rules: &[Trap]) -> Vec<sock_filter> {
    const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
    let Some(native) = arches().first() else { return vec![ret(ENOSYS)] };
    let mut out = vec![load(ARCH), jump(libc::BPF_JEQ, native.audit, 1, 0), ret(ENOSYS), load(NR)];
    if native.marked.is_some() {
        out.extend([jump(libc::BPF_JGE, X32, 0, 1), ret(ENOSYS)]);
    }
    let mut rules = checks(rules, native.column as usize);
    rules.pop();
    out.extend(rules);
    out.push(ret(ENOSYS));
    out
}

/// The names of all calls that a step can make on this machine by the default filter.
#[cfg(test)]
pub(crate) fn known_calls() -> Vec<&'static str> {
    let Some(native) = arches().first() else { return Vec::new() };
    let own = ALLOWED.iter().filter(|(_, numbers)| numbers[native.column as usize] >= 0).map(|(name, _)| *name);
    own.chain(["clone", "socket", "personality"]).collect()
}

fn checks(traps: &[Trap], column: usize) -> Vec<sock_filter> {
    let mut out = Vec::new();
    for (name, when, action) in traps {
        let Some(nr) = numbers(name).and_then(|n| u32::try_from(n[column]).ok()) else { continue };
        let block = decide(*when, action.value());
        let skip = u8::try_from(block.len()).expect("blocks are a dozen instructions");
        out.push(jump(libc::BPF_JEQ, nr, 0, skip));
        out.extend(block);
    }
    out.push(ret(libc::SECCOMP_RET_ALLOW));
    out
}

fn decide(when: When, value: u32) -> Vec<sock_filter> {
    let argument = |index: u32| load(ARG0 + 8 * index);
    match when {
        When::Always => vec![ret(value)],
        When::Bits(index, bits) => {
            vec![argument(index), jump(libc::BPF_JSET, bits, 0, 1), ret(value), ret(libc::SECCOMP_RET_ALLOW)]
        }
        When::Given(index) => {
            let halves = [ARG0 + 8 * index, ARG0 + 8 * index + 4];
            let mut out = Vec::new();
            for half in halves {
                out.extend([load(half), jump(libc::BPF_JEQ, 0, 1, 0), ret(value)]);
            }
            out.push(ret(libc::SECCOMP_RET_ALLOW));
            out
        }
        When::Masked(index, mask, values) => {
            let mut out = vec![argument(index), alu_and(mask)];
            for wanted in values {
                out.extend([jump(libc::BPF_JEQ, *wanted, 0, 1), ret(value)]);
            }
            out.push(ret(libc::SECCOMP_RET_ALLOW));
            out
        }
    }
}

/// The calls of some names, by the architecture and number that notifications have. One is asked for at every call.
#[derive(Debug)]
pub(crate) struct CallNames(HashMap<(u32, i32), &'static str>);

impl CallNames {
    /// Of several names for one call the first one counts.
    pub(crate) fn new(names: impl IntoIterator<Item = &'static str>) -> Self {
        let mut out = HashMap::new();
        for name in names {
            let Some(numbers) = numbers(name) else { continue };
            for arch in arches() {
                let own = numbers[arch.column as usize];
                if own >= 0 {
                    out.entry((arch.audit, own)).or_insert(name);
                }
                let marked = arch.marked.and_then(|column| u32::try_from(numbers[column as usize]).ok());
                if let Some(number) = marked {
                    out.entry((arch.audit, i32::from_ne_bytes((number | X32).to_ne_bytes()))).or_insert(name);
                }
            }
        }
        Self(out)
    }

    /// The name of the call with this number on this architecture.
    pub(crate) fn find(&self, audit: u32, nr: i32) -> Option<&'static str> {
        self.0.get(&(audit, nr)).copied()
    }

    /// Whether one of the names is that of the machine's own call with this number.
    pub(crate) fn has_native(&self, nr: i64) -> bool {
        let native = arches().first().zip(i32::try_from(nr).ok());
        native.is_some_and(|(arch, nr)| self.find(arch.audit, nr).is_some())
    }
}

/// Whether calls of this architecture pass 32-bit arguments.
pub(crate) fn is_32_bit(audit: u32) -> bool {
    // The marker of 64-bit architectures in audit numbers.
    audit & 0x8000_0000 == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_in_the_table() {
        for name in ["open", "openat", "openat2", "readlinkat", "chown32", "setresuid32", "socket", "socketcall"] {
            assert!(numbers(name).is_some(), "{name}");
        }
        assert!(numbers("nonsense").is_none());
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn names_are_found_for_every_way_to_call() {
        let names = CallNames::new(["chown", "chown32", "openat"]);
        assert_eq!(names.find(0xc000_003e, 92), Some("chown"));
        assert_eq!(names.find(0x4000_0003, 212), Some("chown32"));
        assert_eq!(names.find(0xc000_003e, 0x4000_0101), Some("openat"));
        assert_eq!(names.find(0xc000_003e, 1), None);
        assert!(is_32_bit(0x4000_0003) && !is_32_bit(0xc000_003e));
    }

    #[test]
    fn programs_fit_into_the_kernels_limit() {
        let traps: Vec<Trap> = ALLOWED.iter().take(80).map(|(n, _)| (*n, When::Always, Action::Notify)).collect();
        assert!(trap_filter(&traps).len() < 4096);
    }
}
