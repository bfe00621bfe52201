//! Ends a step process, and the processes libcontainer has started for it, when the worker loses interest or dies while the
//! container is being made.
//!
//! From the moment the container's first process is about to become the user's program the kernel sees to that (parent
//! death signals, the end of a pid namespace). Before, such a process waits for messages on sockets of which it holds both
//! ends, and would wait for ever. So the signal that the worker's socket sends has a handler here.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicI32, Ordering};

use rustix::fs::{Mode, OFlags};

use crate::sys;

/// The kernel's list of this process's children, opened. Handlers can only use what lives for ever.
static CHILDREN: AtomicI32 = AtomicI32::new(-1);

/// While it exists, anything that happens on the worker's socket ends this process and its children.
pub(super) struct Lifeline<'a> {
    socket: BorrowedFd<'a>,
    _children: OwnedFd,
}

impl<'a> Lifeline<'a> {
    /// The caller must be single-threaded.
    pub(super) fn hold(socket: BorrowedFd<'a>) -> io::Result<Self> {
        let pid = rustix::process::getpid().as_raw_pid();
        let list = format!("/proc/self/task/{pid}/children");
        let children = rustix::fs::open(list, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        CHILDREN.store(children.as_fd().as_raw_fd(), Ordering::Relaxed);
        sys::handle_signal(libc::SIGIO, end_all)?;
        sys::signal_on_activity(socket, true)?;
        Ok(Self { socket, _children: children })
    }

    /// From here on others see to it.
    pub(super) fn let_go(self) -> io::Result<()> {
        sys::signal_on_activity(self.socket, false)
    }
}

/// A signal handler: nothing but system calls. A process that has been sent SIGKILL makes no other one any more, so those
/// found at the second look are all.
extern "C" fn end_all(_: libc::c_int) {
    let mut text = [0; 4096];
    for _ in 0..3 {
        let length = sys::read_at_start(CHILDREN.load(Ordering::Relaxed), &mut text);
        for_each_number(&text[..length], |pid| sys::kill_raw(pid, libc::SIGKILL));
    }
    // What has not left the group is the rest of libcontainer's processes, and this one.
    sys::kill_group(rustix::process::getpid().as_raw_pid(), libc::SIGKILL);
    sys::exit_now(125);
}

fn for_each_number(text: &[u8], mut work: impl FnMut(i32)) {
    let mut number = 0i32;
    for byte in text.iter().chain(b" ") {
        if byte.is_ascii_digit() {
            number = number.saturating_mul(10).saturating_add(i32::from(byte - b'0'));
        } else if number > 0 {
            work(number);
            number = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_in_the_kernels_list() {
        let mut found = Vec::new();
        for_each_number(b"12 4194303 7 ", |n| found.push(n));
        for_each_number(b"", |n| found.push(n));
        for_each_number(b"99", |n| found.push(n));
        assert_eq!(found, [12, 4_194_303, 7, 99]);
    }
}
