//! Whether steps can run without namespaces and without privileges: the operations of the rung `ptrace`, performed.

use std::os::fd::AsFd as _;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, XattrFlags};

use crate::ownership::RECORD;
use crate::probe::in_child;
use crate::report::{Blocker, ProcMode, Rung};
use crate::seccomp::{Action, When};
use crate::sys::{self, Context as _, SysError};

/// Performs all of them; `store` is where the trees will be. `asked_for`: somebody has pinned the rung.
pub(crate) fn try_ptrace(store: &Path, asked_for: bool) -> Result<(), Vec<Blocker>> {
    let blocker = |what: &str, evidence: String, remedy: &str| Blocker {
        rung: Rung::Ptrace,
        what: what.into(),
        evidence,
        remedy: remedy.into(),
    };
    if cfg!(not(target_arch = "x86_64")) {
        let evidence = std::env::consts::ARCH.to_owned();
        return Err(vec![blocker("steps are traced on x86-64 only", evidence, "use a rung above this one")]);
    }
    let mut blockers = Vec::new();
    if crate::landlock::abi() == 0 && !asked_for {
        blockers.push(blocker(
            "the kernel has no Landlock, which keeps steps inside their root",
            "landlock_create_ruleset is not answered".into(),
            "use a kernel with Landlock (5.13, and \"landlock\" in /sys/kernel/security/lsm), or accept steps that can leave \
             their root: --isolation ptrace",
        ));
    }
    if let Err(e) = in_child(|| Ok(()), |_| Ok(()), || filtered().map(|()| ProcMode::Bind)) {
        blockers.push(blocker(
            "a filter whose calls are answered under Landlock is refused",
            e.to_string(),
            "use Linux 5.19 or newer, not inside another program that has a listener, with a seccomp profile that allows \
             seccomp and landlock_restrict_self, as the runtimes' default does",
        ));
    }
    if let Err(e) = traced() {
        blockers.push(blocker(
            "processes cannot be traced",
            e.to_string(),
            "let the container's seccomp profile allow ptrace and process_vm_readv, as the runtimes' default does; \
             sysctl kernel.yama.ptrace_scope must be 0 or 1",
        ));
    }
    let place = store.ancestors().find(|dir| dir.is_dir()).unwrap_or(Path::new("/"));
    if let Err(e) = recorded(place) {
        blockers.push(blocker(
            "owners cannot be recorded where the store is",
            e.to_string(),
            "put the store (--root) on a writable file system with extended attributes of users (ext4, xfs, btrfs, overlay; \
             tmpfs from Linux 6.6 on)",
        ));
    }
    if blockers.is_empty() { Ok(()) } else { Err(blockers) }
}

/// A filter with notifications and stops for a tracer, in a Landlock domain.
fn filtered() -> Result<(), SysError> {
    let root = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).what(|| "open /".into())?;
    crate::landlock::confine(root.as_fd()).map_err(std::io::Error::other).what(|| "enter a Landlock domain".into())?;
    rustix::thread::set_no_new_privs(true).what(|| "set no_new_privs".into())?;
    let filter = crate::seccomp::trap_filter(&[
        ("readlink", When::Always, Action::Notify),
        ("chdir", When::Always, Action::Trace),
    ]);
    sys::install_listener(&filter).what(|| "install a filter with notifications".into())?;
    Ok(())
}

/// Traces a child and looks into its memory.
fn traced() -> Result<(), SysError> {
    let text = *b"seen";
    let (ready_r, ready_w) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).what(|| "make a pipe".into())?;
    match sys::fork().what(|| "fork".into())? {
        sys::Fork::Child => {
            let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::Dumpable);
            let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
            let _ = rustix::io::write(&ready_w, b"+");
            loop {
                std::thread::sleep(std::time::Duration::from_secs(1));
            }
        }
        sys::Fork::Parent(pid) => {
            drop(ready_w);
            let begun = rustix::io::read(&ready_r, &mut [0; 1]).what(|| "wait for a child".into());
            let result = begun.and_then(|_| {
                seize(pid).what(|| "trace a child".into())?;
                let mut found = [0; 4];
                // It is a copy of this process.
                let address = text.as_ptr() as u64;
                sys::read_memory(pid, address, &mut found).what(|| "read the memory of a child".into())?;
                sys::write_memory(pid, address, &text).what(|| "write the memory of a child".into())?;
                Ok(())
            });
            sys::kill_raw(pid, libc::SIGKILL);
            let _ = sys::wait_usage(pid);
            result
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn seize(pid: i32) -> std::io::Result<()> {
    crate::trace::seize(pid)
}

#[cfg(not(target_arch = "x86_64"))]
fn seize(_: i32) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}

/// Records an owner in `place`.
fn recorded(place: &Path) -> Result<(), SysError> {
    let probe = place.join(format!(".rbuild-probe-{}", rustix::process::getpid().as_raw_pid()));
    let what = || format!("record an owner in {}", place.display());
    rustix::fs::mknodat(CWD, &probe, FileType::RegularFile, Mode::RUSR | Mode::WUSR, 0).what(what)?;
    let result = rustix::fs::setxattr(&probe, RECORD, b"\x08\x01", XattrFlags::empty()).what(what);
    let _ = std::fs::remove_file(&probe);
    result
}
