//! `ptrace` and the waiting that belongs to it.

use std::io;

use crate::step::Usage;
use crate::sys::usage_of;

/// What stops are asked for: every call of the filter's, new processes, programs, and the end of a borrowed memory. Whoever is traced
/// dies with the tracer.
const OPTIONS: libc::c_int = libc::PTRACE_O_TRACESYSGOOD
    | libc::PTRACE_O_TRACEFORK
    | libc::PTRACE_O_TRACEVFORK
    | libc::PTRACE_O_TRACECLONE
    | libc::PTRACE_O_TRACEEXEC
    | libc::PTRACE_O_TRACEVFORKDONE
    | libc::PTRACE_O_TRACESECCOMP
    | libc::PTRACE_O_EXITKILL;

/// What a request is, which the C libraries do not agree about.
#[cfg(target_env = "musl")]
type Request = libc::c_int;
#[cfg(not(target_env = "musl"))]
type Request = libc::c_uint;

/// How a thread goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    /// Until something happens.
    Event,
    /// Until a call begins or ends, too.
    Call,
    /// Not at all: it is stopped, and waits for somebody to let it continue.
    Continued,
}

/// Begins to trace a child.
///
/// # Errors
/// `EPERM` where that is forbidden (a seccomp filter, Yama).
pub(crate) fn seize(pid: i32) -> io::Result<()> {
    request(libc::PTRACE_SEIZE, pid, 0, OPTIONS as usize)
}

/// Lets a stopped thread go on, with this signal if it is not 0. One that has been killed meanwhile is an error, which is as well.
pub(super) fn resume(tid: i32, until: Until, signal: i32) {
    let kind = match until {
        Until::Event => libc::PTRACE_CONT,
        Until::Call => libc::PTRACE_SYSCALL,
        Until::Continued => libc::PTRACE_LISTEN,
    };
    let _ = request(kind, tid, 0, usize::try_from(signal).unwrap_or(0));
}

/// What an event tells: the new process, or the former number of a thread.
pub(super) fn event_message(tid: i32) -> io::Result<i32> {
    let mut message: libc::c_ulong = 0;
    request(libc::PTRACE_GETEVENTMSG, tid, 0, (&raw mut message) as usize)?;
    Ok(i32::try_from(message).unwrap_or(0))
}

/// Reads the registers of a stopped thread into a structure of the architecture.
pub(super) fn read_registers<T>(tid: i32, registers: &mut T) -> io::Result<()> {
    let mut place = libc::iovec { iov_base: (&raw mut *registers).cast(), iov_len: size_of::<T>() };
    request(libc::PTRACE_GETREGSET, tid, libc::NT_PRSTATUS as usize, (&raw mut place) as usize)
}

/// Writes registers of a stopped thread: those that `set` says.
pub(super) fn write_registers<T>(tid: i32, set: libc::c_int, registers: &T) -> io::Result<()> {
    let mut place = libc::iovec { iov_base: (&raw const *registers).cast_mut().cast(), iov_len: size_of::<T>() };
    request(libc::PTRACE_SETREGSET, tid, usize::try_from(set).unwrap_or(0), (&raw mut place) as usize)
}

/// Sends a signal to one thread.
pub(super) fn signal_thread(tid: i32, signal: i32) {
    // SAFETY: plain numbers. An error means that it has ended.
    unsafe { libc::syscall(libc::SYS_tkill, tid, signal) };
}

fn request(kind: Request, tid: i32, address: usize, data: usize) -> io::Result<()> {
    // SAFETY: the callers pass numbers, or pointers to live locals of the type that the request is about, with their size.
    match unsafe { libc::ptrace(kind, tid, address, data) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// What has happened to a process.
#[derive(Debug)]
pub(crate) struct Change {
    /// The process, or thread.
    pub(crate) pid: i32,
    /// The raw status.
    pub(crate) status: i32,
    /// What it has used, if it has ended.
    pub(crate) usage: Usage,
}

/// The next child or traced thread that has stopped or ended; `None` if there is none at present.
pub(crate) fn next_change() -> Option<Change> {
    let mut status = 0;
    // SAFETY: all-zero is a valid `rusage`, a plain C struct.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to live locals of the right types.
    let pid = unsafe { libc::wait4(-1, &raw mut status, libc::__WALL | libc::WNOHANG, &raw mut usage) };
    (pid > 0).then(|| Change { pid, status, usage: usage_of(&usage) })
}
