//! The single operations that rungs are made of, each performed in a child: what `rbuild doctor` shows as a matrix.

use std::fs;
use std::os::fd::AsFd as _;

use rustix::mount::{MountFlags, mount};
use rustix::thread::UnshareFlags;
use serde::Serialize;

use crate::enter::{EnterError, become_root, unshare_rung, write_maps};
use crate::probe::{choose_mapping, in_child, perform, private_tmpfs, try_node, try_notify};
use crate::report::{IdMapping, ProcMode, Rung};
use crate::sys::{self, Context as _, SysError};

/// One operation and how it went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Operation {
    /// What was done.
    pub name: &'static str,
    /// It succeeded.
    pub works: bool,
    /// How the machine answered.
    pub evidence: String,
}

/// Performs all of them; `place` is a directory in which files can be made. The caller must be single-threaded.
pub(crate) fn operations(place: &std::path::Path) -> Vec<Operation> {
    let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let one = IdMapping::One { own };
    let in_userns = |work: &dyn Fn() -> Result<(), SysError>| {
        let last = || {
            become_root()?;
            work().map(|()| ProcMode::Bind)
        };
        in_child(|| unshare_rung(Rung::UsernsOne), |pid| write_maps(pid, &one), last).map(drop)
    };
    let alone = |work: &dyn Fn() -> Result<(), SysError>| {
        in_child(|| Ok(()), |_| Ok(()), || work().map(|()| ProcMode::Bind)).map(drop)
    };
    let unshare = |flags: UnshareFlags, what: &'static str| move || sys::unshare(flags).what(|| what.into());
    let many = || -> Result<(), EnterError> {
        let mapping = choose_mapping().map_err(|blockers| {
            EnterError::Child(blockers.iter().map(|b| b.what.clone()).collect::<Vec<_>>().join(", "))
        })?;
        perform(Rung::Userns, Some(&mapping)).map(drop)
    };
    let results = [
        ("a mount namespace", alone(&unshare(UnshareFlags::NEWNS, "unshare the mount namespace"))),
        ("a user namespace", alone(&unshare(UnshareFlags::NEWUSER, "unshare the user namespace"))),
        ("many ids in it", many()),
        ("one id in it", in_userns(&|| Ok(()))),
        ("tmpfs in it", in_userns(&private_tmpfs)),
        ("overlay in it", in_userns(&overlay)),
        ("a procfs of its own in it", in_userns(&procfs)),
        ("a network namespace in it", in_userns(&unshare(UnshareFlags::NEWNET, "unshare the network namespace"))),
        ("binfmt_misc in it", in_userns(&binfmt_misc)),
        ("chroot", alone(&|| rustix::process::chroot("/").what(|| "chroot".into()))),
        ("device nodes", alone(&|| device(place))),
        ("Landlock", alone(&landlock)),
        ("seccomp notification", try_notify()),
        ("ptrace", alone(&ptrace)),
    ];
    let shown = |(name, result): (&'static str, Result<(), EnterError>)| Operation {
        name,
        works: result.is_ok(),
        evidence: result.err().map_or_else(|| "performed".into(), |e| e.to_string()),
    };
    results.into_iter().map(shown).collect()
}

const QUIET: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

/// On a tmpfs over `/proc`: a directory that certainly exists.
fn overlay() -> Result<(), SysError> {
    let above = "put a tmpfs below an overlay";
    mount("tmpfs", "/proc", "tmpfs", QUIET, None).what(|| above.into())?;
    for dir in ["lower", "upper", "work", "merged"] {
        fs::create_dir(format!("/proc/{dir}")).what(|| above.into())?;
    }
    let options = c"lowerdir=/proc/lower,upperdir=/proc/upper,workdir=/proc/work,userxattr";
    mount("overlay", "/proc/merged", "overlay", MountFlags::empty(), Some(options)).what(|| "mount an overlay".into())
}

fn procfs() -> Result<(), SysError> {
    if crate::probe::fresh_proc_works() {
        return Ok(());
    }
    Err(std::io::Error::from_raw_os_error(libc::EPERM)).what(|| "mount a procfs for a new pid namespace".into())
}

fn binfmt_misc() -> Result<(), SysError> {
    mount("tmpfs", "/proc", "tmpfs", QUIET, None).what(|| "make a mount point".into())?;
    fs::create_dir("/proc/b").what(|| "make a mount point".into())?;
    mount("binfmt_misc", "/proc/b", "binfmt_misc", QUIET, None).what(|| "mount binfmt_misc (Linux 6.7)".into())
}

fn device(place: &std::path::Path) -> Result<(), SysError> {
    let node = place.join(format!(".rbuild-probe-{}", rustix::process::getpid().as_raw_pid()));
    try_node(&node).what(|| format!("make {} as c 1 3 and write to it", node.display()))
}

fn landlock() -> Result<(), SysError> {
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
    let root = rustix::fs::open("/", flags, rustix::fs::Mode::empty()).what(|| "open /".into())?;
    match crate::landlock::confine(root.as_fd())
        .map_err(std::io::Error::other)
        .what(|| "enter a Landlock domain".into())?
    {
        true => Ok(()),
        false => Err(std::io::Error::from_raw_os_error(libc::ENOSYS)).what(|| "create a Landlock ruleset".into()),
    }
}

fn ptrace() -> Result<(), SysError> {
    sys::trace_me().what(|| "be traced by the parent".into())
}
