//! Signals on their way from the worker to the program.

use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use rustix::process::{Signal, pidfd_send_signal};

use crate::spawn::StepSignal;

/// Those that end a program which does nothing about them, and that people and supervisors send.
const FATAL: [Signal; 6] = [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM, Signal::USR1, Signal::USR2];

/// Passes signals on.
pub(super) struct Signals {
    /// The program, if it is the first process of a pid namespace: those never die of a signal they do not handle.
    first: Option<i32>,
    /// What ended it in the kernel's stead.
    ended_by: Option<Signal>,
}

impl Signals {
    /// To a program that is the first process of its pid namespace.
    pub(super) fn first_process(pid: i32) -> Self {
        Self { first: Some(pid), ended_by: None }
    }

    /// To a program like any other.
    pub(super) fn any_process() -> Self {
        Self { first: None, ended_by: None }
    }

    /// Passes on what the worker sent; false if it has lost interest in the program.
    pub(super) fn pass_on(&mut self, socket: &UnixStream, pidfd: &OwnedFd) -> bool {
        let mut bytes = [0; 16];
        let mut from = socket;
        let count = match from.read(&mut bytes) {
            Ok(0) => return false,
            Ok(count) => count,
            Err(e) => return e.kind() == std::io::ErrorKind::Interrupted,
        };
        for byte in &bytes[..count] {
            let signal = StepSignal::from_byte(*byte);
            let (StepSignal::Send(number) | StepSignal::Typed(number)) = signal;
            let Some(named) = Signal::from_named_raw(i32::from(number)) else { continue };
            // Errors mean that it has ended.
            if FATAL.contains(&named) && self.first.is_some_and(|pid| has_default_action(pid, named)) {
                self.ended_by = Some(named);
                let _ = pidfd_send_signal(pidfd, Signal::KILL);
            } else if matches!(signal, StepSignal::Send(_)) {
                let _ = pidfd_send_signal(pidfd, named);
            }
        }
        true
    }

    /// The status with which the program ended, as it would have been outside of a pid namespace.
    pub(super) fn status(&self, status: i32) -> i32 {
        match self.ended_by {
            Some(signal) if status & 0x7f == libc::SIGKILL => signal.as_raw(),
            _ => status,
        }
    }
}

/// Whether a process neither handles nor ignores a signal. One that cannot be asked has ended.
fn has_default_action(pid: i32, signal: Signal) -> bool {
    let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else { return false };
    let is_in = |field: &str| {
        let mask = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        let mask = mask.and_then(|text| u64::from_str_radix(text.trim(), 16).ok()).unwrap_or(0);
        mask & (1 << (signal.as_raw() - 1)) != 0
    };
    !is_in("SigCgt") && !is_in("SigIgn")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_does_about_a_signal() {
        let own = i32::try_from(std::process::id()).expect("small");
        // The standard library ignores SIGPIPE; nothing here handles SIGUSR2.
        assert!(!has_default_action(own, Signal::PIPE));
        assert!(has_default_action(own, Signal::USR2));
    }

    #[test]
    fn the_status_tells_of_the_signal_that_was_meant() {
        let mut signals = Signals::first_process(1);
        assert_eq!(signals.status(libc::SIGKILL), libc::SIGKILL);
        signals.ended_by = Some(Signal::TERM);
        assert_eq!((signals.status(libc::SIGKILL), signals.status(3 << 8)), (libc::SIGTERM, 3 << 8));
    }
}
