//! Signals of steps that have no pid namespace, where Landlock does not keep them inside (it does from its ABI 6 on, Linux 6.12):
//! they reach the step's own processes only, although the builder has the same user.
//!
//! All that decides is in registers, so the kernel may carry out what was looked at here.

use std::io;

use rustix::fs::{Mode, OFlags};

use super::Call;
use super::files::Proc;
use crate::seccomp::{Action, Trap, When};
use crate::sys::Answer;

/// The Landlock ABI that scopes signals.
const SCOPED: u32 = 6;

const F_SETOWN: u32 = 8;
const F_SETOWN_EX: u32 = 15;
/// `FIOSETOWN`, `SIOCSPGRP`
const SET_OWNER: &[u32] = &[0x8901, 0x8902];

/// What sends a signal, or has one sent later.
const CALLS: [Trap; 9] = [
    ("kill", When::Always, Action::Notify),
    ("tkill", When::Always, Action::Notify),
    ("tgkill", When::Always, Action::Notify),
    ("rt_sigqueueinfo", When::Always, Action::Notify),
    ("rt_tgsigqueueinfo", When::Always, Action::Notify),
    ("pidfd_open", When::Always, Action::Notify),
    ("fcntl", When::Masked(1, u32::MAX, &[F_SETOWN, F_SETOWN_EX]), Action::Notify),
    ("fcntl64", When::Masked(1, u32::MAX, &[F_SETOWN, F_SETOWN_EX]), Action::Notify),
    ("ioctl", When::Masked(1, u32::MAX, SET_OWNER), Action::Notify),
];

pub(super) fn traps() -> impl Iterator<Item = Trap> {
    let scoped = crate::landlock::abi() >= SCOPED;
    CALLS.into_iter().filter(move |_| !scoped)
}

/// Whether a call is about signals.
pub(super) fn is_one(call: &Call) -> bool {
    Target::of(call).is_some()
}

/// Whom a signal is for.
#[derive(Debug, PartialEq, Eq)]
enum Target {
    /// A process, by the number of one of its threads.
    Process(i32),
    /// A process group.
    Group(i32),
    /// All that the caller may signal.
    Everybody,
    /// The caller's group, or nobody: the kernel's answer is right.
    Harmless,
    /// Said in memory, where it can change; programs hardly do that.
    Unclear,
}

impl Target {
    fn of(call: &Call) -> Option<Self> {
        let number = |number: i32| match number {
            0 | i32::MIN => Self::Harmless,
            n if n > 0 => Self::Process(n),
            n => Self::Group(-n),
        };
        Some(match call.name {
            "kill" if call.int(0) == -1 => Self::Everybody,
            "kill" => number(call.int(0)),
            "tkill" | "tgkill" | "rt_sigqueueinfo" | "rt_tgsigqueueinfo" | "pidfd_open" => match call.int(0) {
                n if n > 0 => Self::Process(n),
                _ => Self::Harmless,
            },
            "fcntl" | "fcntl64" if call.word(1) == F_SETOWN => number(call.int(2)),
            "fcntl" | "fcntl64" | "ioctl" => Self::Unclear,
            _ => return None,
        })
    }
}

/// Answers a call, if it is about signals. `is_of_step` knows the step's processes.
pub(super) fn answer(proc: &Proc, call: &Call, is_of_step: &dyn Fn(i32) -> bool) -> Option<Answer> {
    let refused = Answer::Error(libc::EPERM);
    let allowed = |all_inside: bool| if all_inside { Answer::Continue } else { Answer::Error(libc::EPERM) };
    Some(match Target::of(call)? {
        Target::Harmless => Answer::Continue,
        Target::Unclear => refused,
        Target::Process(thread) => match proc.process_of(thread) {
            // Programs signal their own threads all the time (Go does it to stop them).
            Ok(pid) => allowed(proc.process_of(call.tid).is_ok_and(|own| own == pid) || is_of_step(pid)),
            // Whoever is not there is not there for the kernel either.
            Err(e) => allowed(matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ESRCH))),
        },
        Target::Group(group) => match processes(proc) {
            Ok(all) => allowed(all.iter().all(|p| p.group != group || is_of_step(p.pid))),
            Err(_) => refused,
        },
        Target::Everybody => everybody(proc, call, is_of_step).unwrap_or(refused),
    })
}

/// `kill(-1, …)` among the processes of the step.
fn everybody(proc: &Proc, call: &Call, is_of_step: &dyn Fn(i32) -> bool) -> io::Result<Answer> {
    let (own, uid) = (proc.process_of(call.tid)?, proc.owner(call.tid)?.uid);
    let signal = match call.int(1) {
        0 => None,
        number => Some(nix::sys::signal::Signal::try_from(number).map_err(io::Error::from)?),
    };
    let mut reached = false;
    for Process { pid, .. } in processes(proc)? {
        if pid == own || !is_of_step(pid) || uid != 0 && proc.owner(pid).is_ok_and(|owner| owner.uid != uid) {
            continue;
        }
        // An error means that it has ended.
        reached |= nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).is_ok();
    }
    Ok(if reached { Answer::Value(0) } else { Answer::Error(libc::ESRCH) })
}

struct Process {
    pid: i32,
    group: i32,
}

fn processes(proc: &Proc) -> io::Result<Vec<Process>> {
    let mut out = Vec::new();
    let open = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    for entry in rustix::fs::Dir::new(rustix::fs::openat(proc.fd(), ".", open, Mode::empty())?)? {
        let Some(pid) = entry?.file_name().to_str().ok().and_then(|name| name.parse().ok()) else { continue };
        let Ok(stat) = proc.read(&format!("{pid}/stat")) else { continue };
        // State, parent and group come behind the name, which can hold anything.
        let group = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_ascii_whitespace().nth(2)?.parse().ok());
        out.extend(group.map(|group| Process { pid, group }));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(name: &'static str, args: [i64; 6]) -> Call {
        let tid = rustix::process::getpid().as_raw_pid();
        Call { name, tid, args: args.map(i64::cast_unsigned), narrow: false, compat: false }
    }

    #[test]
    fn signals_stay_inside() {
        let proc = Proc::open().expect("a /proc");
        let mut child = std::process::Command::new("sleep").arg("100").spawn().expect("starts");
        let own = i64::from(rustix::process::getpid().as_raw_pid());
        let (inside, outside) = (i64::from(child.id()), i64::from(std::os::unix::process::parent_id()));
        let is_of_step = |pid: i32| i64::from(pid) == inside;
        let ask = |name, args| answer(&proc, &call(name, args), &is_of_step).expect("is about signals");
        let refused = |name, args| matches!(ask(name, args), Answer::Error(libc::EPERM));
        let passed = |name, args| matches!(ask(name, args), Answer::Continue);
        for name in ["kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "pidfd_open"] {
            assert!(passed(name, [inside, 9, 0, 0, 0, 0]) && refused(name, [outside, 9, 0, 0, 0, 0]), "{name}");
            assert!(passed(name, [own, 9, 0, 0, 0, 0]), "{name}: itself");
        }
        let group = i64::from(rustix::process::getpgrp().as_raw_pid());
        assert!(refused("kill", [-group, 9, 0, 0, 0, 0]) && passed("kill", [0, 9, 0, 0, 0, 0]));
        assert!(refused("fcntl", [0, 8, outside, 0, 0, 0]) && passed("fcntl", [0, 8, inside, 0, 0, 0]));
        assert!(refused("fcntl", [0, 15, 0, 0, 0, 0]) && refused("ioctl", [0, 0x8901, 0, 0, 0, 0]));
        assert!(matches!(ask("kill", [-1, 0, 0, 0, 0, 0]), Answer::Value(0)));
        assert!(child.try_wait().expect("looks").is_none());
        assert!(matches!(ask("kill", [-1, 9, 0, 0, 0, 0]), Answer::Value(0)));
        assert!(!child.wait().expect("ends").success());
        assert!(answer(&proc, &call("open", [0; 6]), &is_of_step).is_none());
    }
}
