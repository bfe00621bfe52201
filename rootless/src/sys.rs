//! The few system calls no safe wrapper offers, and the error that names what was attempted.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use crate::step::Usage;

/// A system call that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what}: {source}")]
pub struct SysError {
    /// What was attempted.
    pub what: String,
    /// The kernel's answer.
    pub source: io::Error,
}

/// Names what an operation was for.
pub(crate) trait Context<T> {
    /// Wraps the error.
    fn what(self, what: impl FnOnce() -> String) -> Result<T, SysError>;
}

impl<T, E: Into<io::Error>> Context<T> for Result<T, E> {
    fn what(self, what: impl FnOnce() -> String) -> Result<T, SysError> {
        self.map_err(|e| SysError { what: what(), source: e.into() })
    }
}

/// Which side of a [`fork`] this is.
pub(crate) enum Fork {
    /// The new process.
    Child,
    /// The old one, with the new one's id.
    Parent(i32),
}

/// Forks. The caller must be single-threaded, else only async-signal-safe code may run in the child.
pub(crate) fn fork() -> io::Result<Fork> {
    // SAFETY: every caller documents that it must be single-threaded, so the child's heap and locks are consistent.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(pid)),
    }
}

/// Leaves namespaces. The caller must be single-threaded.
pub(crate) fn unshare(flags: rustix::thread::UnshareFlags) -> io::Result<()> {
    // SAFETY: no flag used in this crate detaches the descriptor table (`UnshareFlags::FILES`), which is what could
    // invalidate owned descriptors.
    Ok(unsafe { rustix::thread::unshare_unsafe(flags) }?)
}

/// The effective capabilities of this thread; none if the kernel does not say.
pub(crate) fn effective_capabilities() -> rustix::thread::CapabilitySet {
    rustix::thread::capabilities(None).map_or(rustix::thread::CapabilitySet::empty(), |c| c.effective)
}

/// Ends the process without running destructors or flushing buffers that belong to the parent.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Waits for a child; the raw wait status and what the child used.
pub(crate) fn wait_usage(pid: i32) -> io::Result<(i32, Usage)> {
    let mut status = 0;
    // SAFETY: all-zero is a valid `rusage`, a plain C struct.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: both pointers are to live locals of the right types. `__WALL` also finds children that were cloned
        // without an exit signal, as libcontainer does.
        let got = unsafe { libc::wait4(pid, &mut status, libc::__WALL, &mut usage) };
        if got == pid {
            break;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    let micros =
        |t: libc::timeval| u64::try_from(t.tv_sec).unwrap_or(0) * 1_000_000 + u64::try_from(t.tv_usec).unwrap_or(0);
    let usage = Usage {
        user_us: micros(usage.ru_utime),
        system_us: micros(usage.ru_stime),
        max_rss: u64::try_from(usage.ru_maxrss).unwrap_or(0) * 1024,
    };
    Ok((status, usage))
}

/// A shell's view of a wait status: the exit code, or 128 + signal.
pub(crate) fn exit_code(status: i32) -> i32 {
    if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { 128 + libc::WTERMSIG(status) }
}

/// Closes every descriptor from `first` on except `keep`.
pub(crate) fn close_from_except(first: RawFd, keep: RawFd) {
    if first < keep {
        close_range(first, keep - 1, 0);
    }
    close_range(keep + 1, RawFd::MAX, 0);
}

/// Marks every descriptor from `first` on close-on-exec.
pub(crate) fn close_on_exec_from(first: RawFd) {
    close_range(first, RawFd::MAX, libc::CLOSE_RANGE_CLOEXEC);
}

fn close_range(first: RawFd, last: RawFd, flags: libc::c_uint) {
    // SAFETY: no preconditions; the callers own no descriptor in the range. The only error is an old kernel's ENOSYS,
    // which the probe has excluded.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) };
}

/// Takes over descriptor `3 + index`, which the process that started this one put there (`WorkerCommand::fds`). Each can
/// be taken once.
///
/// # Errors
/// When there is no such descriptor, or it was taken before.
pub fn inherited_fd(index: u32) -> io::Result<OwnedFd> {
    static TAKEN: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let bit = 1u64.checked_shl(index).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let fd = RawFd::try_from(index + 3).unwrap_or(RawFd::MAX);
    // SAFETY: `F_GETFD` only asks.
    if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        return Err(io::Error::last_os_error());
    }
    if TAKEN.fetch_or(bit, std::sync::atomic::Ordering::Relaxed) & bit != 0 {
        return Err(io::Error::from(io::ErrorKind::AlreadyExists));
    }
    // SAFETY: the descriptor is open. It was open when this process began (by the contract of the function), so nothing
    // else in it has been given that number, and it is handed out only once.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A seccomp filter program.
pub(crate) type Program = Vec<libc::sock_filter>;

/// Installs a filter on this thread without setting `no_new_privs`; needs CAP_SYS_ADMIN.
pub(crate) fn install_filter(program: &Program) -> io::Result<()> {
    let len = libc::c_ushort::try_from(program.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let filter = libc::sock_fprog { len, filter: program.as_ptr().cast_mut() };
    // SAFETY: `filter` points to `len` initialised instructions that outlive the call; the kernel copies them.
    let rc = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const filter) };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sets attributes of a mount given by descriptor.
pub(crate) fn mount_setattr(mount: BorrowedFd<'_>, set: u64) -> io::Result<()> {
    let attr = libc::mount_attr { attr_set: set, attr_clr: 0, propagation: 0, userns_fd: 0 };
    // SAFETY: the path is a NUL-terminated literal, `attr` lives through the call and its size is passed.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes the kernel send SIGIO, whose default action is to end the process, when anything happens on `fd`.
pub(crate) fn die_on_activity(fd: BorrowedFd<'_>, enable: bool) -> io::Result<()> {
    let fd = fd.as_raw_fd();
    // SAFETY: plain fcntl calls on an open descriptor.
    unsafe {
        if libc::fcntl(fd, libc::F_SETOWN, libc::getpid()) < 0 {
            return Err(io::Error::last_os_error());
        }
        let flags = libc::fcntl(fd, libc::F_GETFL);
        let wanted = if enable { flags | libc::O_ASYNC } else { flags & !libc::O_ASYNC };
        if flags < 0 || libc::fcntl(fd, libc::F_SETFL, wanted) < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Brings the loopback interface of the current network namespace up.
pub(crate) fn loopback_up() -> io::Result<()> {
    // SAFETY: a socket call with constant arguments; the result is checked before it is owned.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just created, owned by nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    // SAFETY: all-zero is a valid `ifreq`, a plain C struct.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo\0") {
        *to = libc::c_char::try_from(*from).unwrap_or(0);
    }
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(libc::IFF_UP | libc::IFF_RUNNING).unwrap_or(0);
    // SAFETY: SIOCSIFFLAGS reads an `ifreq`, which `request` is.
    let rc = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sets a resource limit by the kernel's number.
pub(crate) fn set_rlimit(resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    // SAFETY: `limit` lives through the call; pid 0 is this process and no old limit is asked for.
    let rc = unsafe {
        libc::syscall(libc::SYS_prlimit64, 0, resource, &raw const limit, std::ptr::null_mut::<libc::rlimit64>())
    };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Gives every signal its default action and unblocks all: a program must not inherit what this one ignores (SIGPIPE, by
/// the standard library) or what whoever started us did.
pub(crate) fn reset_signals() {
    // All-zero is SIG_DFL without flags in the kernel's own `sigaction`, and the empty set in its `sigset_t`. The C
    // library would keep its hands on the two signals it uses itself.
    let zero = [0u64; 4];
    for signal in 1..=64 {
        // SAFETY: `zero` is at least as large as the kernel's struct on every architecture and lives through the call;
        // no old action is asked for. Signals that cannot be changed give an error.
        unsafe {
            libc::syscall(libc::SYS_rt_sigaction, signal, zero.as_ptr(), std::ptr::null_mut::<u64>(), size_of::<u64>())
        };
    }
    // SAFETY: as above, with a set of 64 signals.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            zero.as_ptr(),
            std::ptr::null_mut::<u64>(),
            size_of::<u64>(),
        )
    };
}

/// Duplicates `from` onto `to`, which stays open across exec.
pub(crate) fn dup_onto(from: BorrowedFd<'_>, to: RawFd) -> io::Result<()> {
    // SAFETY: `from` is open; the caller owns whatever is at `to`.
    if unsafe { libc::dup2(from.as_raw_fd(), to) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Duplicates `fd` to the lowest free number that is at least `lowest`, close-on-exec.
pub(crate) fn dup_above(fd: BorrowedFd<'_>, lowest: RawFd) -> io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(fd, lowest)?)
}

/// Sends `signal` to a whole process group.
pub(crate) fn kill_group(pgid: i32, signal: i32) {
    if pgid > 1 {
        // SAFETY: no preconditions; errors (nobody left) do not matter.
        unsafe { libc::kill(-pgid, signal) };
    }
}

/// The strings as the NUL-terminated ones exec wants; a string with a NUL inside is an error.
pub(crate) fn c_strings<'a>(items: impl IntoIterator<Item = &'a [u8]>) -> io::Result<Vec<CString>> {
    items
        .into_iter()
        .map(|s| {
            CString::new(s).map_err(|_| {
                let text = String::from_utf8_lossy(s);
                io::Error::new(io::ErrorKind::InvalidInput, format!("a NUL byte in \"{}\"", text.escape_debug()))
            })
        })
        .collect()
}

/// The kernel's Landlock ABI version; 0 without Landlock.
pub(crate) fn landlock_abi() -> u32 {
    const LANDLOCK_CREATE_RULESET_VERSION: libc::c_uint = 1;
    // SAFETY: with this flag the call only asks for the version and takes no attributes.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<libc::c_void>(),
            0usize,
            LANDLOCK_CREATE_RULESET_VERSION,
        )
    };
    u32::try_from(version).unwrap_or(0)
}
