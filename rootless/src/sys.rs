//! The few system calls no safe wrapper offers, and the error that names what was attempted.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use crate::ownership::Record;
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

/// Makes the allocator of the musl binary give memory back soon after it is free: what a build uses is promised, and
/// steps and workers are many processes. Not at once: what is free is mostly needed again. To be called first thing.
#[cfg(target_env = "musl")]
pub fn tune_allocator() {
    use libmimalloc_sys as _;
    /// `mi_option_purge_delay`.
    const PURGE_DELAY: libc::c_int = 15;
    unsafe extern "C" {
        fn mi_option_set(option: libc::c_int, value: libc::c_long);
    }
    /// Milliseconds.
    const SOON: libc::c_long = 20;
    // SAFETY: the library, which is linked, keeps the number in a table of settings; it may do so at any time.
    unsafe { mi_option_set(PURGE_DELAY, SOON) }
}

/// Other C libraries have nothing to tune.
#[cfg(not(target_env = "musl"))]
pub fn tune_allocator() {}

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
    Ok((status, usage_of(&usage)))
}

/// What a process used, as the kernel tells it.
pub(crate) fn usage_of(usage: &libc::rusage) -> Usage {
    let micros =
        |t: libc::timeval| u64::try_from(t.tv_sec).unwrap_or(0) * 1_000_000 + u64::try_from(t.tv_usec).unwrap_or(0);
    Usage {
        user_us: micros(usage.ru_utime),
        system_us: micros(usage.ru_stime),
        max_rss: u64::try_from(usage.ru_maxrss).unwrap_or(0) * 1024,
    }
}

/// A shell's view of a wait status: the exit code, or 128 + signal.
pub(crate) fn exit_code(status: i32) -> i32 {
    if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { 128 + libc::WTERMSIG(status) }
}

/// Closes every descriptor from `first` on except those in `keep`.
pub(crate) fn close_from_except(first: RawFd, keep: &[RawFd]) {
    let mut keep = keep.to_vec();
    keep.sort_unstable();
    let mut next = first;
    for fd in keep {
        if next < fd {
            close_range(next, fd - 1);
        }
        next = next.max(fd + 1);
    }
    close_range(next, RawFd::MAX);
}

fn close_range(first: RawFd, last: RawFd) {
    // SAFETY: no preconditions; the callers, children that never return to what owns a descriptor in the range, use none
    // of them any more. The only error is an old kernel's ENOSYS, which the probe has excluded.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
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

/// Installs a filter on this thread whose notifications can be read from the returned descriptor. Needs CAP_SYS_ADMIN or
/// `no_new_privs`.
pub(crate) fn install_listener(program: &Program) -> io::Result<OwnedFd> {
    // Signals must not restart a call that the supervisor has carried out already (kernel 5.19).
    const WAIT_KILLABLE_RECV: libc::c_ulong = 1 << 5;
    let len = libc::c_ushort::try_from(program.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let filter = libc::sock_fprog { len, filter: program.as_ptr().cast_mut() };
    let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | WAIT_KILLABLE_RECV;
    // SAFETY: `filter` points to `len` initialised instructions that outlive the call; the kernel copies them.
    let fd = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const filter) };
    match RawFd::try_from(fd) {
        // SAFETY: the kernel has just made this descriptor for us.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A call that waits for an answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Notification {
    /// The kernel's name for it.
    pub(crate) id: u64,
    /// The calling thread, in our pid namespace.
    pub(crate) pid: i32,
    /// Audit number of the architecture.
    pub(crate) arch: u32,
    /// The call.
    pub(crate) nr: i32,
    /// Its arguments.
    pub(crate) args: [u64; 6],
}

/// How a call is answered.
#[derive(Debug)]
pub(crate) enum Answer {
    /// The kernel carries it out.
    Continue,
    /// It returns this.
    Value(i64),
    /// It fails with this error number.
    Error(i32),
    /// It returns a duplicate of this descriptor.
    Fd {
        /// Ours.
        fd: OwnedFd,
        /// The caller's is close-on-exec.
        cloexec: bool,
    },
    /// A duplicate of this descriptor takes the place of one that the caller has, and the call returns 0.
    Replace {
        /// Ours.
        fd: OwnedFd,
        /// The caller's.
        number: u32,
        /// It is close-on-exec.
        cloexec: bool,
    },
    /// Another process answers.
    Elsewhere,
}

const NOTIF_RECV: libc::c_ulong = 0xc050_2100;
const NOTIF_SEND: libc::c_ulong = 0xc018_2101;
const NOTIF_ID_VALID: libc::c_ulong = 0x4008_2102;
const NOTIF_ADDFD: libc::c_ulong = 0x4018_2103;
const NOTIF_SET_FLAGS: libc::c_ulong = 0x4008_2104;

/// Wakes supervisor and caller on one CPU, which halves the cost of a call; whether the kernel can (6.6). Without it all works
/// the same.
pub(crate) fn notify_wake_up_in_step(listener: BorrowedFd<'_>) -> bool {
    const SYNC_WAKE_UP: u64 = 1;
    // SAFETY: the argument is a plain number.
    unsafe { libc::ioctl(listener.as_raw_fd(), NOTIF_SET_FLAGS as _, SYNC_WAKE_UP) == 0 }
}

/// Takes the next notification; `None` if its caller is gone.
pub(crate) fn notify_receive(listener: BorrowedFd<'_>) -> io::Result<Option<Notification>> {
    // SAFETY: all-zero is valid for this plain struct, and required by the kernel.
    let mut request: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the ioctl writes one `seccomp_notif`.
    if unsafe { libc::ioctl(listener.as_raw_fd(), NOTIF_RECV as _, &raw mut request) } < 0 {
        let error = io::Error::last_os_error();
        return match error.raw_os_error() {
            Some(libc::ENOENT | libc::EINTR | libc::EAGAIN) => Ok(None),
            _ => Err(error),
        };
    }
    Ok(Some(Notification {
        id: request.id,
        pid: i32::try_from(request.pid).unwrap_or(0),
        arch: request.data.arch,
        nr: request.data.nr,
        args: request.data.args,
    }))
}

/// Whether the thread that made a call still waits for its answer: as long as it does, its number is nobody else's.
pub(crate) fn notify_waits(listener: BorrowedFd<'_>, id: u64) -> bool {
    // SAFETY: the ioctl reads one number, a live local.
    unsafe { libc::ioctl(listener.as_raw_fd(), NOTIF_ID_VALID as _, &raw const id) == 0 }
}

/// Answers a notification. Errors do not matter: the caller is gone.
pub(crate) fn notify_answer(listener: BorrowedFd<'_>, id: u64, answer: &Answer) {
    const ADDFD_SETFD: u32 = 1;
    const ADDFD_SEND: u32 = 2;
    let code = |e: io::Error, otherwise| -e.raw_os_error().unwrap_or(otherwise);
    let mut response = libc::seccomp_notif_resp { id, val: 0, error: 0, flags: 0 };
    match answer {
        Answer::Continue => response.flags = 1,
        Answer::Value(value) => response.val = *value,
        Answer::Error(code) => response.error = -code,
        Answer::Fd { fd, cloexec } => match add_descriptor(listener, id, fd.as_fd(), 0, *cloexec, ADDFD_SEND) {
            Ok(_) => return,
            // The caller's table is full, most likely: its call must end all the same.
            Err(e) => response.error = code(e, libc::EMFILE),
        },
        Answer::Replace { fd, number, cloexec } => {
            if let Err(e) = add_descriptor(listener, id, fd.as_fd(), *number, *cloexec, ADDFD_SETFD) {
                response.error = code(e, libc::EBADF);
            }
        }
        Answer::Elsewhere => return,
    }
    notify_send(listener, &response);
}

/// Answers a notification with a descriptor that is closed here before the call returns: from then on the caller's is the only
/// one. Errors do not matter: the caller is gone.
pub(crate) fn notify_hand_over(listener: BorrowedFd<'_>, id: u64, fd: OwnedFd, cloexec: bool) {
    let added = add_descriptor(listener, id, fd.as_fd(), 0, cloexec, 0);
    drop(fd);
    let answer = match added {
        Ok(number) => Answer::Value(number.into()),
        Err(e) => Answer::Error(e.raw_os_error().unwrap_or(libc::EMFILE)),
    };
    notify_answer(listener, id, &answer);
}

/// Gives the caller a duplicate of a descriptor, under a number that it has or the kernel chooses.
fn add_descriptor(
    listener: BorrowedFd<'_>,
    id: u64,
    fd: BorrowedFd<'_>,
    number: u32,
    cloexec: bool,
    flags: u32,
) -> io::Result<libc::c_int> {
    let request = libc::seccomp_notif_addfd {
        id,
        flags,
        srcfd: u32::try_from(fd.as_raw_fd()).unwrap_or(u32::MAX),
        newfd: number,
        newfd_flags: if cloexec { u32::try_from(libc::O_CLOEXEC).unwrap_or(0) } else { 0 },
    };
    // SAFETY: the ioctl reads one `seccomp_notif_addfd`.
    let added = unsafe { libc::ioctl(listener.as_raw_fd(), NOTIF_ADDFD as _, &raw const request) };
    if added >= 0 { Ok(added) } else { Err(io::Error::last_os_error()) }
}

fn notify_send(listener: BorrowedFd<'_>, response: &libc::seccomp_notif_resp) {
    // SAFETY: the ioctl reads one `seccomp_notif_resp`.
    unsafe { libc::ioctl(listener.as_raw_fd(), NOTIF_SEND as _, std::ptr::from_ref(response)) };
}

/// An open file's status, with what is recorded of it.
pub(crate) fn recorded_stat(fd: &OwnedFd, record: Record) -> io::Result<libc::stat> {
    // SAFETY: all-zero is a valid `stat`, a plain C struct.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: `fd` is open and `stat` a live local.
    if unsafe { libc::fstat(fd.as_raw_fd(), &raw mut stat) } < 0 {
        return Err(io::Error::last_os_error());
    }
    (stat.st_uid, stat.st_gid) = record.owner;
    stat.st_mode = record.mode(stat.st_mode);
    if let Some(device) = record.device {
        stat.st_mode = device.kind().as_raw_mode() | stat.st_mode & 0o7777;
        stat.st_rdev = device.number();
    }
    Ok(stat)
}

/// The bytes of [`recorded_stat`].
pub(crate) fn stat_bytes(fd: &OwnedFd, record: Record) -> io::Result<Vec<u8>> {
    let stat = recorded_stat(fd, record)?;
    // SAFETY: the struct was zeroed, so that every byte of it, padding included, is initialised.
    Ok(unsafe { std::slice::from_raw_parts((&raw const stat).cast::<u8>(), size_of::<libc::stat>()) }.to_vec())
}

/// The bytes of `struct statx` for an open file, with what is recorded of it.
pub(crate) fn statx_bytes(fd: &OwnedFd, mask: u32, record: Record) -> io::Result<Vec<u8>> {
    // SAFETY: all-zero is a valid `statx`, a plain C struct.
    let mut stat: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the path is an empty literal, `fd` is open and `stat` a live local.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_statx,
            fd.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            mask | libc::STATX_BASIC_STATS,
            &raw mut stat,
        )
    };
    if rc < 0 {
        return Err(io::Error::last_os_error());
    }
    (stat.stx_uid, stat.stx_gid) = record.owner;
    stat.stx_mode = u16::try_from(record.mode(stat.stx_mode.into())).unwrap_or(stat.stx_mode);
    if let Some(device) = record.device {
        let kind = u16::try_from(device.kind().as_raw_mode()).unwrap_or(0);
        stat.stx_mode = kind | stat.stx_mode & 0o7777;
        (stat.stx_rdev_major, stat.stx_rdev_minor) = (device.major, device.minor);
    }
    // SAFETY: the struct was zeroed, so that every byte of it, padding included, is initialised.
    Ok(unsafe { std::slice::from_raw_parts((&raw const stat).cast::<u8>(), size_of::<libc::statx>()) }.to_vec())
}

/// The bytes of `struct statfs` for the file system of an open file, or of what a descriptor names.
pub(crate) fn statfs_bytes(fd: &OwnedFd) -> io::Result<Vec<u8>> {
    // SAFETY: all-zero is a valid `statfs`, a plain C struct.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: `fd` is open and `stat` a live local.
    if unsafe { libc::fstatfs(fd.as_raw_fd(), &raw mut stat) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the struct was zeroed, so that every byte of it, padding included, is initialised.
    Ok(unsafe { std::slice::from_raw_parts((&raw const stat).cast::<u8>(), size_of::<libc::statfs>()) }.to_vec())
}

/// Reads another process's memory into `buffer`; gives how much there was.
pub(crate) fn read_memory(pid: i32, address: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let local = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let remote = libc::iovec {
        iov_base: usize::try_from(address).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))? as *mut _,
        iov_len: buffer.len(),
    };
    // SAFETY: `local` describes `buffer`; `remote` is only interpreted by the kernel, in the other process.
    let got = unsafe { libc::process_vm_readv(pid, &raw const local, 1, &raw const remote, 1, 0) };
    usize::try_from(got).map_err(|_| io::Error::last_os_error())
}

/// Writes `bytes` into another process's memory.
pub(crate) fn write_memory(pid: i32, address: u64, bytes: &[u8]) -> io::Result<usize> {
    let local = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let remote = libc::iovec {
        iov_base: usize::try_from(address).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))? as *mut _,
        iov_len: bytes.len(),
    };
    // SAFETY: `local` describes `bytes`, which is only read; `remote` is only interpreted by the kernel.
    let got = unsafe { libc::process_vm_writev(pid, &raw const local, 1, &raw const remote, 1, 0) };
    usize::try_from(got).map_err(|_| io::Error::last_os_error())
}

/// Runs `work` with another real user and group id; the effective ones, and with them the capabilities, stay. Whether a
/// process may look into another one depends on the real ids. The caller must be single-threaded.
pub(crate) fn as_real_ids<T>(uid: u32, gid: u32, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    const KEEP: libc::c_long = -1;
    // SAFETY: plain numbers; only this thread's credentials change, and there is no other.
    let set = |uid: libc::c_long, gid: libc::c_long| unsafe {
        libc::syscall(libc::SYS_setresgid, gid, KEEP, KEEP) == 0
            && libc::syscall(libc::SYS_setresuid, uid, KEEP, KEEP) == 0
    };
    let result = if set(uid.into(), gid.into()) { work() } else { Err(io::Error::last_os_error()) };
    set(0, 0);
    result
}

/// Lets the parent trace this process, which has nothing to do but end.
pub(crate) fn trace_me() -> io::Result<()> {
    // SAFETY: the request takes no pointers; what it changes is who is told of this process's signals.
    let done = unsafe {
        libc::ptrace(
            libc::PTRACE_TRACEME,
            0,
            std::ptr::null_mut::<libc::c_void>(),
            std::ptr::null_mut::<libc::c_void>(),
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Runs `work` with another user's and group's rights to files. The caller must be single-threaded.
pub(crate) fn as_file_ids<T>(uid: u32, gid: u32, work: impl FnOnce() -> T) -> T {
    // SAFETY: plain numbers; only this thread's credentials change, and there is no other. The calls cannot fail but
    // keep the old value, and the caller's own ids are 0.
    let set = |uid: u32, gid: u32| unsafe {
        libc::syscall(libc::SYS_setfsgid, gid);
        libc::syscall(libc::SYS_setfsuid, uid);
    };
    set(uid, gid);
    let result = work();
    set(0, 0);
    result
}

/// Reaps every child that has ended except `spare`; whether any is left.
pub(crate) fn reap_others(spare: i32) -> bool {
    loop {
        // SAFETY: all-zero is a valid `siginfo_t`.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        // SAFETY: the pointer is to a live local; with WNOWAIT nothing is reaped yet.
        if unsafe { libc::waitid(libc::P_ALL, 0, &raw mut info, flags | libc::__WALL) } < 0 {
            return false;
        }
        // SAFETY: filled in by `waitid`, or still zero where no child has ended.
        let pid = unsafe { info.si_pid() };
        if pid == 0 || pid == spare {
            return true;
        }
        // SAFETY: only this process reaps its children, and this one has ended; no status is asked for.
        unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::__WALL | libc::WNOHANG) };
    }
}

/// Sends one message with a descriptor.
pub(crate) fn send_fd(socket: BorrowedFd<'_>, fd: BorrowedFd<'_>) -> io::Result<()> {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    let fds = [fd];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&fds));
    sendmsg(socket, &[io::IoSlice::new(b"l")], &mut control, SendFlags::empty())?;
    Ok(())
}

/// Receives what [`send_fd`] sent; `None` where the other side has closed.
pub(crate) fn receive_fd(socket: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(socket, &mut [io::IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let fd = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    Ok(fd)
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

/// Makes the kernel send SIGIO when anything happens on `fd`.
pub(crate) fn signal_on_activity(fd: BorrowedFd<'_>, enable: bool) -> io::Result<()> {
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

/// Has a signal handled by `handler`, which does nothing but system calls.
pub(crate) fn handle_signal(signal: i32, handler: extern "C" fn(libc::c_int)) -> io::Result<()> {
    // SAFETY: all-zero is a valid `sigaction`, a plain C struct: no flags, an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as *const () as usize;
    // SAFETY: the handler has the type that a handler without SA_SIGINFO has, and lives as long as the program.
    let rc = unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Has calls of this process that wait fail with `EINTR` several times a second.
pub(crate) fn interrupt_waiting() -> io::Result<()> {
    extern "C" fn nothing(_: libc::c_int) {}
    handle_signal(libc::SIGALRM, nothing)?;
    let pause = libc::timeval { tv_sec: 0, tv_usec: 100_000 };
    let timer = libc::itimerval { it_interval: pause, it_value: pause };
    // SAFETY: the kernel reads one `itimerval`, a live local.
    let rc = unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, std::ptr::null_mut()) };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Reads from the start of a file, in a signal handler. How many bytes; 0 for an error.
pub(crate) fn read_at_start(fd: i32, buffer: &mut [u8]) -> usize {
    // SAFETY: the buffer is as long as is said; a descriptor that is not open is an error.
    let length = unsafe { libc::pread(fd, buffer.as_mut_ptr().cast(), buffer.len(), 0) };
    usize::try_from(length).unwrap_or(0)
}

/// Sends a signal, in a signal handler. Whoever is gone already is none of its concern.
pub(crate) fn kill_raw(pid: i32, signal: i32) {
    // SAFETY: plain numbers.
    unsafe { libc::kill(pid, signal) };
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

/// The number of an interface in the network namespace of this thread.
pub(crate) fn interface_index(name: &str) -> io::Result<u32> {
    let name = CString::new(name)?;
    // SAFETY: the name is NUL-terminated and lives through the call.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index),
    }
}

/// A packet socket that sees what an interface receives, and sends through it: each packet behind a `virtio_net_hdr` and
/// an Ethernet header.
pub(crate) fn packet_socket(interface: u32) -> io::Result<OwnedFd> {
    const PACKET_VNET_HDR: libc::c_int = 15;
    const PACKET_IGNORE_OUTGOING: libc::c_int = 23;
    /// As much as fits; the kernel doubles it, and cuts it down where we may not force it.
    const BUFFER: libc::c_int = 8 << 20;
    // With protocol 0 nothing is received before the socket is bound.
    // SAFETY: a socket call with constant arguments; the result is checked before it is owned.
    let socket = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just created, owned by nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    let set = |level, option, value: libc::c_int| {
        let length = libc::socklen_t::try_from(size_of::<libc::c_int>()).expect("because an int is small");
        // SAFETY: the value lives through the call and its size is passed.
        let rc = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), length) };
        if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    set(libc::SOL_PACKET, PACKET_VNET_HDR, 1)?;
    set(libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)?;
    if set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, BUFFER).is_err() {
        set(libc::SOL_SOCKET, libc::SO_RCVBUF, BUFFER)?;
    }
    // SAFETY: all-zero is a valid `sockaddr_ll`, a plain C struct.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::c_ushort::try_from(libc::AF_PACKET).expect("because families are small");
    address.sll_protocol = libc::c_ushort::try_from(libc::ETH_P_ALL).expect("because protocols are 16 bits").to_be();
    address.sll_ifindex = i32::try_from(interface).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).expect("because addresses are small");
    // SAFETY: `address` lives through the call and its size is passed.
    let rc = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
    if rc == 0 { Ok(socket) } else { Err(io::Error::last_os_error()) }
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

/// Makes the terminal on descriptor 0 this process's own, as the leader of a new session.
pub(crate) fn own_terminal() -> io::Result<()> {
    // An error means that it leads one already.
    let _ = rustix::process::setsid();
    // SAFETY: TIOCSCTTY takes a number, not a pointer.
    if unsafe { libc::ioctl(0, libc::TIOCSCTTY as _, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
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
