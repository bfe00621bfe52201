//! What happens between libcontainer's last mount and the user's program, in the program's own process.
//!
//! The order is the point: the Landlock domain and the seccomp filter need CAP_SYS_ADMIN (without it they would set
//! `no_new_privs`, and sudo would stop working in steps), so they come before the capabilities go; the parent death
//! signal comes after the change of user, which clears it.

use std::collections::HashMap;
use std::ffi::CString;
use std::fmt::Write as _;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;

use libcontainer::oci_spec::runtime::Spec;
use libcontainer::workload::{Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError};
use rustix::fs::FileType;
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Gid, Signal, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::errors::report;
use crate::landlock;
use crate::notify;
use crate::seccomp::{self, Action, Trap, When};
use crate::step::{Emulation, Network, RootSwitch, StepSpec};
use crate::sys::{self, Context, Program, SysError};

/// Runs one step; cloned by libcontainer into the process that becomes the program.
#[derive(Clone)]
pub(super) struct StepExecutor {
    spec: Rc<StepSpec>,
    filters: Rc<[Program]>,
    /// The filter whose calls the step process answers, and the socket that takes its listener there.
    listener: Option<(Rc<Program>, Arc<OwnedFd>)>,
    argv: Rc<[CString]>,
    env: Rc<[CString]>,
    errors: Arc<OwnedFd>,
}

impl StepExecutor {
    /// Everything that can be prepared before the process exists.
    pub(super) fn new(spec: StepSpec, errors: Arc<OwnedFd>, supervisor: Option<OwnedFd>) -> Result<Self, SysError> {
        let argv = sys::c_strings(spec.args.iter().map(String::as_bytes)).what(|| "pass the arguments".into())?;
        let env = sys::c_strings(spec.env.iter().map(String::as_bytes)).what(|| "pass the environment".into())?;
        let mut filters = Vec::new();
        if !spec.insecure {
            filters.extend(seccomp::default_filter());
        }
        let refused = refused_calls(&spec);
        if !refused.is_empty() {
            filters.push(seccomp::trap_filter(&refused));
        }
        let listener = supervisor.map(|socket| (Rc::new(notify::filter(spec.emulation)), Arc::new(socket)));
        Ok(Self { spec: Rc::new(spec), filters: filters.into(), listener, argv: argv.into(), env: env.into(), errors })
    }

    pub(super) fn spec(&self) -> &StepSpec {
        &self.spec
    }

    fn prepare(&self) -> Result<(), SysError> {
        let spec = &*self.spec;
        // Not even a way out through /proc/self/fd for the directory below.
        let mut kept = vec![self.errors.as_raw_fd()];
        kept.extend(self.listener.as_ref().map(|(_, socket)| socket.as_raw_fd()));
        sys::close_from_except(3, &kept);
        if spec.attached.as_ref().is_some_and(|attached| attached.terminal) {
            sys::own_terminal().what(|| "take the terminal over".into())?;
        }
        let mut keep = if spec.insecure { CapabilitySet::all() } else { spec.capabilities.set() };
        match spec.switch {
            RootSwitch::Pivot => {
                if spec.network == Network::None {
                    sys::loopback_up().what(|| "bring up the loopback interface".into())?;
                }
                landlock::enter_domain(spec.insecure)
                    .map_err(io::Error::other)
                    .what(|| "enter a Landlock domain".into())?;
            }
            RootSwitch::Chroot => {
                change_root(&spec.rootfs)?;
                if !spec.insecure {
                    // With it, root walks out of a chroot.
                    keep -= CapabilitySet::SYS_CHROOT;
                }
            }
            RootSwitch::Traced => stay_below(&spec.rootfs)?,
        }
        if spec.switch != RootSwitch::Traced {
            drop_bounding(keep)?;
        }
        self.set_rlimits()?;
        let emulated = matches!(spec.emulation, Emulation::Ids | Emulation::Errno | Emulation::Paths);
        if !emulated {
            let groups: Vec<Gid> = spec.groups.iter().map(|g| Gid::from_raw(*g)).collect();
            rustix::thread::set_thread_groups(&groups).what(|| format!("set the groups {:?}", spec.groups))?;
        }
        // First as root, who may enter directories that the user may not (SPEC C5.05); if that fails, as the user.
        let entered = match spec.switch {
            // When somebody answers for paths.
            RootSwitch::Traced => Err(Errno::NOENT),
            _ => rustix::process::chdir(&spec.cwd),
        };
        // Of two errors the newer filter's counts: the profile's, where the supervisor's refuses what it does not know.
        if spec.switch == RootSwitch::Traced {
            self.hand_over_calls()?;
        }
        for filter in &*self.filters {
            sys::install_filter(filter).what(|| "install the seccomp filter".into())?;
        }
        if spec.switch != RootSwitch::Traced {
            self.hand_over_calls()?;
        }
        if emulated {
            // There is one id, and this process has it; others are the supervisor's to pretend.
            limit_capabilities(keep, true)?;
        } else {
            let (uid, gid) = (Uid::from_raw(spec.uid), Gid::from_raw(spec.gid));
            give_standard_descriptors(uid);
            rustix::thread::set_thread_res_gid(gid, gid, gid).what(|| format!("become group {}", spec.gid))?;
            rustix::thread::set_thread_res_uid(uid, uid, uid).what(|| format!("become user {}", spec.uid))?;
            limit_capabilities(keep, spec.uid == 0)?;
        }
        if spec.no_new_privileges {
            rustix::thread::set_no_new_privs(true).what(|| "set no_new_privs".into())?;
        }
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
            .what(|| "set the parent death signal".into())?;
        let directory = || format!("enter the working directory {}", spec.cwd.display());
        if entered.is_err() {
            rustix::process::chdir(&spec.cwd).what(directory)?;
        }
        verify_cwd().what(directory)?;
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
        sys::reset_signals();
        Ok(())
    }

    /// From here on the step process answers calls, where it answers any.
    fn hand_over_calls(&self) -> Result<(), SysError> {
        let Some((filter, socket)) = &self.listener else { return Ok(()) };
        let listener = sys::install_listener(filter).what(|| "install the filter of the supervisor".into())?;
        sys::send_fd(socket.as_fd(), listener.as_fd()).what(|| "hand the filter to the supervisor".into())
    }

    fn set_rlimits(&self) -> Result<(), SysError> {
        for limit in &self.spec.rlimits {
            let resource = rlimit_number(&limit.name)
                .ok_or_else(|| io::Error::other("no such limit"))
                .what(|| format!("set ulimit {}", limit.name))?;
            sys::set_rlimit(resource, limit.soft, limit.hard).what(|| {
                format!("set ulimit {} to {}:{}", limit.name, show_limit(limit.soft), show_limit(limit.hard))
            })?;
        }
        Ok(())
    }

    /// Executes the program; returns the exit code and what to say if that is impossible.
    fn execute(&self) -> (i32, String) {
        let Some(program) = self.spec.args.first().filter(|p| !p.is_empty()) else {
            return (127, "no program to run".into());
        };
        if program.contains('/') {
            let error = match self.argv.first() {
                Some(path) => self.try_exec(path),
                None => Errno::NOENT,
            };
            return failure(program, error);
        }
        let path = self.spec.env.iter().find_map(|e| e.strip_prefix("PATH=")).unwrap_or_default();
        let mut denied = None;
        // An empty element would mean the working directory, which is nobody's intention here.
        for dir in path.split(':').filter(|d| !d.is_empty()) {
            let Ok(candidate) = CString::new(format!("{dir}/{program}")) else { continue };
            match self.try_exec(&candidate) {
                Errno::NOENT | Errno::NOTDIR => {}
                Errno::ACCESS => denied = Some(Errno::ACCESS),
                other => return failure(program, other),
            }
        }
        match denied {
            Some(error) => failure(program, error),
            None => (127, format!("{program}: executable file not found in $PATH ({path})")),
        }
    }

    fn try_exec(&self, path: &CString) -> Errno {
        match nix::unistd::execve(path, &self.argv, &self.env) {
            Ok(never) => match never {},
            Err(e) => Errno::from_raw_os_error(e as i32),
        }
    }
}

fn failure(program: &str, error: Errno) -> (i32, String) {
    let hint = match error {
        Errno::NOENT if std::fs::symlink_metadata(program).is_ok() => " (its interpreter or dynamic loader is missing)",
        Errno::NOEXEC => " (a script without #!, or a program for another architecture)",
        _ => "",
    };
    let code = if error == Errno::NOENT { 127 } else { 126 };
    (code, format!("{program}: {}{hint}", describe(error)))
}

/// The error without the number that [`io::Error`] appends, in lower case.
fn describe(error: Errno) -> String {
    let text = io::Error::from(error).to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}

impl StepExecutor {
    /// Becomes the program.
    pub(super) fn become_program(&self) -> ! {
        if let Err(error) = self.prepare() {
            report(&self.errors, &error.to_string());
            sys::exit_now(125);
        }
        let (code, message) = self.execute();
        // Where the program's own messages go: this is its failure, not ours.
        let mut line = String::new();
        let _ = writeln!(line, "exec {message}");
        let _ = rustix::io::write(io::stderr(), line.as_bytes());
        sys::exit_now(code)
    }
}

impl Executor for StepExecutor {
    fn exec(&self, _: &Spec) -> Result<(), ExecutorError> {
        self.become_program()
    }

    fn validate(&self, _: &Spec) -> Result<(), ExecutorValidationError> {
        // execve is the judge of what can be executed.
        Ok(())
    }

    fn setup_envs(&self, _: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        // The environment goes to execve and nowhere else. What this hook is good for: from here on this process must
        // not outlive the step process. (Should that be gone already, the message that follows fails, and so does this.)
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
            .and_then(|()| rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable))
            .map_err(|e| ExecutorSetEnvsError::Other(format!("cannot set the parent death signal: {e}")))
    }
}

/// Calls refused to this step beyond the default filter's.
fn refused_calls(spec: &StepSpec) -> Vec<Trap> {
    const EPERM: Action = Action::Errno(libc::EPERM);
    let mut out = Vec::new();
    if spec.emulation == Emulation::Errno {
        out.extend(notify::errno_traps());
    }
    if spec.switch == RootSwitch::Pivot {
        return out;
    }
    if !spec.insecure {
        for name in ["chroot", "ptrace", "process_vm_readv", "process_vm_writev"] {
            out.push((name, When::Always, EPERM));
        }
        // The builder has the same user, and its limits could be lowered: a step changes its own only.
        out.push(("prlimit64", When::Bits(0, u32::MAX), EPERM));
    }
    if spec.network == Network::None {
        // AF_UNIX (1) and AF_NETLINK (16) reach nobody outside of the machine; everything else could. On i386 one call
        // stands for all of them, with arguments that a filter cannot see.
        const OTHERS: [u32; 44] = others();
        const EACCES: Action = Action::Errno(libc::EACCES);
        out.push(("socket", When::Masked(0, u32::MAX, &OTHERS), EACCES));
        out.push(("socketcall", When::Always, EACCES));
    }
    out
}

/// Address families up to 45, except AF_UNIX and AF_NETLINK.
const fn others() -> [u32; 44] {
    let mut out = [0; 44];
    let (mut family, mut at) = (0, 0);
    while family < 46 {
        if family != 1 && family != 16 {
            out[at] = family;
            at += 1;
        }
        family += 1;
    }
    out
}

/// Lets the step's user open again what it has as descriptors 0 to 2: `/dev/stderr`.
fn give_standard_descriptors(uid: Uid) {
    let standard = [io::stdin().as_raw_fd(), io::stdout().as_raw_fd(), io::stderr().as_raw_fd()];
    for fd in standard {
        // SAFETY: the three are open for as long as this process is, and nothing here closes them.
        let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
        let is_device =
            rustix::fs::fstat(fd).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice);
        // The null device is everybody's. An error leaves it as it is: a file somebody gave can be on any file system.
        if !is_device {
            let _ = rustix::fs::fchown(fd, Some(uid), None);
        }
    }
}

/// Goes into `root`, and can open nothing outside of it any more.
fn stay_below(root: &std::path::Path) -> Result<(), SysError> {
    let what = || format!("enter the root file system {}", root.display());
    let dir = open_root(root).what(what)?;
    confine(&dir)?;
    rustix::process::fchdir(&dir).what(what)
}

fn open_root(root: &std::path::Path) -> Result<OwnedFd, Errno> {
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    rustix::fs::open(root, flags, rustix::fs::Mode::empty())
}

fn confine(dir: &OwnedFd) -> Result<(), SysError> {
    let confined =
        landlock::confine(dir.as_fd()).map_err(io::Error::other).what(|| "enter a Landlock domain".into())?;
    if !confined {
        // The seccomp filters need it where there is no CAP_SYS_ADMIN.
        rustix::thread::set_no_new_privs(true).what(|| "set no_new_privs".into())?;
    }
    Ok(())
}

/// Makes `root` the root, and nothing outside of it reachable. (Landlock is not optional where nobody asked for less: the
/// probe decides whether this rung may be used without.)
fn change_root(root: &std::path::Path) -> Result<(), SysError> {
    let what = || format!("change the root to {}", root.display());
    let dir = open_root(root).what(what)?;
    confine(&dir)?;
    rustix::process::fchdir(&dir).what(what)?;
    drop(dir);
    rustix::process::chroot(".").what(what)?;
    rustix::process::chdir("/").what(what)
}

fn drop_bounding(keep: CapabilitySet) -> Result<(), SysError> {
    for bit in 0..63u32 {
        let capability = CapabilitySet::from_bits_retain(1 << bit);
        if keep.contains(capability) {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            // The kernel's last capability is behind us.
            Err(Errno::INVAL) => break,
            Err(e) => return Err(e).what(|| format!("drop capability {bit}")),
        }
    }
    Ok(())
}

/// Root keeps `keep`; for others the kernel has emptied the sets already. Nothing is inheritable or ambient.
fn limit_capabilities(keep: CapabilitySet, root: bool) -> Result<(), SysError> {
    let now = rustix::thread::capabilities(None).what(|| "read the capabilities".into())?;
    let wanted = if root { now.permitted & keep } else { CapabilitySet::empty() };
    let sets = CapabilitySets { effective: wanted, permitted: wanted, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets).what(|| "drop capabilities".into())?;
    rustix::thread::clear_ambient_capability_set().what(|| "clear the ambient capabilities".into())
}

/// Refuses a working directory outside of the root file system (CVE-2024-21626): the kernel says so in its name.
fn verify_cwd() -> io::Result<()> {
    let cwd = rustix::process::getcwd(Vec::new())?;
    if cwd.as_bytes().starts_with(b"/") {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::PermissionDenied, "it is outside of the root file system"))
}

fn show_limit(value: u64) -> String {
    if value == u64::MAX { "unlimited".into() } else { value.to_string() }
}

/// The kernel's number of a limit by Docker's name; the same on every architecture of the seccomp table.
fn rlimit_number(name: &str) -> Option<u32> {
    const NAMES: [&str; 16] = [
        "cpu",
        "fsize",
        "data",
        "stack",
        "core",
        "rss",
        "nproc",
        "nofile",
        "memlock",
        "as",
        "locks",
        "sigpending",
        "msgqueue",
        "nice",
        "rtprio",
        "rttime",
    ];
    NAMES.iter().position(|n| *n == name).and_then(|at| u32::try_from(at).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_have_dockers_names() {
        assert_eq!(rlimit_number("nofile"), Some(7));
        assert_eq!(rlimit_number("as"), Some(9));
        assert_eq!(rlimit_number("rttime"), Some(15));
        assert_eq!(rlimit_number("NOFILE"), None);
    }
}
