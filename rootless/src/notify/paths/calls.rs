//! Every call that a step without privileges can make, and who answers it. What is not in these lists is refused by the filter: a
//! call with a path that nobody looks at would find the machine's files.

use crate::notify::{creds, signals};
use crate::seccomp::{Action, Trap, When};

/// Calls with paths, owners or capabilities; those that programs make most come first.
const ANSWERED: [&str; 58] = [
    "openat",
    "newfstatat",
    "fstat",
    "stat",
    "lstat",
    "open",
    "access",
    "readlink",
    "statx",
    "faccessat",
    "faccessat2",
    "readlinkat",
    "openat2",
    "creat",
    "getcwd",
    "unlink",
    "unlinkat",
    "rmdir",
    "mkdir",
    "mkdirat",
    "mknod",
    "mknodat",
    "rename",
    "renameat",
    "renameat2",
    "link",
    "linkat",
    "symlink",
    "symlinkat",
    "chmod",
    "fchmod",
    "fchmodat",
    "fchmodat2",
    "chown",
    "lchown",
    "fchown",
    "fchownat",
    "utime",
    "utimes",
    "futimesat",
    "truncate",
    "statfs",
    "setxattr",
    "lsetxattr",
    "fsetxattr",
    "getxattr",
    "lgetxattr",
    "fgetxattr",
    "listxattr",
    "llistxattr",
    "flistxattr",
    "removexattr",
    "lremovexattr",
    "fremovexattr",
    "bind",
    "connect",
    "capget",
    "capset",
];

/// Calls that only the caller itself can make, with other arguments.
const TRACED: [&str; 3] = ["execve", "execveat", "chdir"];

/// Calls that are refused, and why.
const REFUSED: [(&str, i32); 14] = [
    // Attributes by the calls of Linux 6.13: programs have the older ones.
    ("setxattrat", libc::ENOSYS),
    ("getxattrat", libc::ENOSYS),
    ("listxattrat", libc::ENOSYS),
    ("removexattrat", libc::ENOSYS),
    // A watch is on a descriptor of the caller's that nobody else can have.
    ("inotify_add_watch", libc::ENOSYS),
    ("name_to_handle_at", libc::EOPNOTSUPP),
    ("fanotify_mark", libc::EPERM),
    ("chroot", libc::EPERM),
    ("ptrace", libc::EPERM),
    ("process_vm_readv", libc::EPERM),
    ("process_vm_writev", libc::EPERM),
    // The machine's mounts are none of a step's business.
    ("statmount", libc::EPERM),
    ("listmount", libc::EPERM),
    ("memfd_secret", libc::ENOSYS),
];

/// Calls without paths of files, owners and addresses of sockets.
#[rustfmt::skip]
const HARMLESS: [&str; 218] = [
    "accept", "accept4", "adjtimex", "alarm", "arch_prctl", "brk", "cachestat", "clock_adjtime",
    "clock_getres", "clock_gettime", "clock_nanosleep", "clone", "close", "close_range", "copy_file_range", "dup", "dup2",
    "dup3", "epoll_create", "epoll_create1", "epoll_ctl", "epoll_ctl_old", "epoll_pwait", "epoll_pwait2", "epoll_wait",
    "epoll_wait_old", "eventfd", "eventfd2", "exit", "exit_group", "fadvise64", "fallocate", "fchdir", "fcntl",
    "fdatasync", "flock", "fork", "fstatfs", "fsync", "ftruncate", "futex", "futex_requeue", "futex_wait", "futex_waitv",
    "futex_wake", "getcpu", "getdents", "getdents64", "getitimer", "getpeername", "getpgid", "getpgrp", "getpid", "getppid",
    "getpriority", "getrandom", "getrlimit", "get_robust_list", "getrusage", "getsid", "getsockname", "getsockopt",
    "get_thread_area", "gettid", "gettimeofday", "inotify_init", "inotify_init1", "inotify_rm_watch", "io_cancel", "ioctl",
    "io_destroy", "io_getevents", "io_pgetevents", "ioprio_get", "ioprio_set", "io_setup", "io_submit", "kill",
    "landlock_add_rule", "landlock_create_ruleset", "landlock_restrict_self", "listen", "lseek", "madvise",
    "map_shadow_stack", "membarrier", "memfd_create", "mincore", "mlock", "mlock2", "mlockall", "mmap", "modify_ldt",
    "mprotect", "mq_getsetattr", "mq_notify", "mq_open", "mq_timedreceive", "mq_timedsend", "mq_unlink", "mremap", "mseal",
    "msgctl", "msgget", "msgrcv", "msgsnd", "msync", "munlock", "munlockall", "munmap", "nanosleep", "pause",
    "personality", "pidfd_open", "pidfd_send_signal", "pipe", "pipe2", "pkey_alloc", "pkey_free", "pkey_mprotect", "poll",
    "ppoll", "prctl", "pread64", "preadv", "preadv2", "prlimit64", "process_mrelease", "pselect6", "pwrite64", "pwritev",
    "pwritev2", "read", "readahead", "readv", "recvfrom", "recvmmsg", "recvmsg", "remap_file_pages", "restart_syscall",
    "rseq", "rt_sigaction", "rt_sigpending", "rt_sigprocmask", "rt_sigqueueinfo", "rt_sigreturn", "rt_sigsuspend",
    "rt_sigtimedwait", "rt_tgsigqueueinfo", "sched_getaffinity", "sched_getattr", "sched_getparam",
    "sched_get_priority_max", "sched_get_priority_min", "sched_getscheduler", "sched_rr_get_interval", "sched_setaffinity",
    "sched_setattr", "sched_setparam", "sched_setscheduler", "sched_yield", "seccomp", "select", "semctl", "semget", "semop",
    "semtimedop", "sendfile", "sendmmsg", "sendmsg", "sendto", "setitimer", "setpgid", "setpriority", "setrlimit",
    "set_robust_list", "setsid", "setsockopt", "set_thread_area", "set_tid_address", "shmat", "shmctl", "shmdt", "shmget",
    "shutdown", "sigaltstack", "signalfd", "signalfd4", "socket", "socketpair", "splice", "sync", "sync_file_range",
    "syncfs", "sysinfo", "tee", "tgkill", "time", "timer_create", "timer_delete", "timer_getoverrun", "timer_gettime",
    "timer_settime", "timerfd_create", "timerfd_gettime", "timerfd_settime", "times", "tkill", "umask", "uname",
    "uretprobe", "utimensat", "vfork", "vmsplice", "wait4", "waitid", "write", "writev",
];

const AF_UNIX: u32 = 1;
/// The types of sockets, without flags.
const TYPE: u32 = 0xf;
const SOCK_DGRAM: u32 = 2;

/// The whole filter of a step.
pub(crate) fn rules() -> Vec<Trap> {
    let mut out: Vec<Trap> = ANSWERED.iter().map(|name| (*name, When::Always, Action::Notify)).collect();
    out.extend(TRACED.iter().map(|name| (*name, When::Always, Action::Trace)));
    // Of a name that comes more than once the first rule counts.
    out.extend(creds::traps().filter(|(name, _, _)| *name != "prctl"));
    out.push(("prctl", When::Masked(0, u32::MAX, super::PRCTL), Action::Notify));
    // Without a path it is about an open file.
    out.push(("utimensat", When::Given(1), Action::Notify));
    out.push(("socket", When::Masked(0, u32::MAX, &[AF_UNIX]), Action::Notify));
    // Datagrams have their address in memory, where nobody can keep it.
    out.push(("socketpair", When::Masked(1, TYPE, &[SOCK_DGRAM]), Action::Errno(libc::EPROTONOSUPPORT)));
    out.extend(signals::traps());
    out.extend(REFUSED.iter().map(|(name, code)| (*name, When::Always, Action::Errno(*code))));
    out.extend(HARMLESS.iter().map(|name| (*name, When::Always, Action::Allow)));
    out
}

/// The calls that are answered without waiting for anybody, other than a network's `connect`.
pub(super) fn answered_at_once() -> impl Iterator<Item = &'static str> {
    let notified = rules().into_iter().filter(|(_, _, action)| *action == Action::Notify).map(|(name, _, _)| name);
    notified.filter(|name| *name != "connect")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn somebody_has_thought_of_every_call() {
        let rules = rules();
        let known = crate::seccomp::known_calls();
        let missing: Vec<_> = known.iter().filter(|name| !rules.iter().any(|(n, _, _)| n == *name)).collect();
        assert!(missing.is_empty(), "{missing:?}");
        for name in ANSWERED.iter().chain(&TRACED).chain(REFUSED.iter().map(|(name, _)| name)) {
            assert!(known.contains(name), "{name} is none");
            assert!(!HARMLESS.contains(name), "{name}");
        }
        assert!(crate::seccomp::closed_filter(&rules).len() < 4096);
    }

    #[test]
    fn what_could_find_the_machines_files_is_not_harmless() {
        for name in ["uselib", "open_tree", "mount", "io_uring_setup", "acct", "swapon", "open_by_handle_at"] {
            assert!(!rules().iter().any(|(n, _, action)| *n == name && *action == Action::Allow), "{name}");
        }
    }
}
