//! What a step finds in `/dev` and `/proc` where neither can be mounted: device nodes (or what stands for them, where nobody may make
//! any), and a skeleton of `/proc`.
//!
//! Both are built in a directory of their own that is put into the step's root and taken out again, so nothing of it gets
//! into a layer.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, makedev};

use crate::notify::{MACHINE_FILES, MADE_UP_FILES, PRIVATE_FILES, PUBLIC_FILES};
use crate::ownership::{self, Device, Record};

/// The devices Docker gives (the device cgroup of every container allows them), with their numbers.
const DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];
/// Names of descriptors that programs look for before they open them; bash counts down from 63.
const DESCRIPTORS: u32 = 64;

/// Fills the empty directory `dir`, to become `/dev`.
///
/// # Errors
/// When nodes cannot be made: without CAP_MKNOD, or on a file system mounted `nodev`.
pub fn furnish_dev(dir: &Path) -> io::Result<()> {
    set_mode(dir, 0o755)?;
    for (name, major, minor) in DEVICES {
        let path = dir.join(name);
        if ownership::without_privileges() {
            stand_in(&path, Device { block: false, major, minor })?;
        } else {
            let mode = Mode::from_raw_mode(0o666);
            rustix::fs::mknodat(CWD, &path, FileType::CharacterDevice, mode, makedev(major, minor))?;
        }
        set_mode(&path, 0o666)?;
    }
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        symlink(target, dir.join(name))?;
    }
    for (name, mode) in [("shm", 0o1777), ("mqueue", 0o1777), ("pts", 0o755)] {
        let path = dir.join(name);
        fs::create_dir(&path)?;
        set_mode(&path, mode)?;
    }
    Ok(())
}

/// Fills the empty directory `dir`, to become `/proc` of a step whose opens are emulated: names without content.
///
/// # Errors
/// The file system's.
pub fn furnish_proc(dir: &Path) -> io::Result<()> {
    set_mode(dir, 0o755)?;
    for name in MACHINE_FILES {
        empty_file(&dir.join(name))?;
    }
    symlink("self/mounts", dir.join("mounts"))?;
    symlink("self/net", dir.join("net"))?;
    for path in ["sys/kernel", "sys/vm", "sys/fs", "sys/net/core", "sys/net/ipv4"] {
        fs::create_dir_all(dir.join(path))?;
    }
    for path in ["self", "thread-self"] {
        let own = dir.join(path);
        for sub in ["fd", "fdinfo", "net", "task"] {
            fs::create_dir_all(own.join(sub))?;
        }
        for name in PUBLIC_FILES.iter().chain(&PRIVATE_FILES).chain(&MADE_UP_FILES).chain(&["exe"]) {
            empty_file(&own.join(name))?;
        }
        for (name, target) in [("cwd", "/"), ("root", "/")] {
            symlink(target, own.join(name))?;
        }
        // One file with many names: they only have to exist.
        let first = own.join("fd/0");
        empty_file(&first)?;
        for number in 1..DESCRIPTORS {
            fs::hard_link(&first, own.join(format!("fd/{number}")))?;
        }
    }
    Ok(())
}

/// A socket that stands for a device.
fn stand_in(path: &Path, device: Device) -> io::Result<()> {
    rustix::fs::mknodat(CWD, path, FileType::Socket, Mode::RUSR | Mode::WUSR, 0)?;
    let place = rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    Ok(Record { device: Some(device), ..Record::default() }.write(place, FileType::Socket)?)
}

fn empty_file(path: &Path) -> io::Result<()> {
    fs::File::create(path)?;
    set_mode(path, 0o444)
}

/// The umask must not show.
fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    Ok(rustix::fs::chmodat(CWD, path, Mode::from_raw_mode(mode), AtFlags::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_skeleton_has_what_programs_look_for() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        furnish_proc(dir.path()).expect("furnishes");
        for name in ["self/exe", "self/fd/63", "self/status", "cpuinfo", "self/mountinfo", "mounts", "sys/kernel"] {
            assert!(dir.path().join(name).exists(), "{name}");
        }
    }

    #[test]
    #[allow(clippy::print_stderr)]
    fn devices_are_real() {
        use std::os::unix::fs::FileTypeExt;
        let dir = tempfile::tempdir().expect("a temporary directory");
        match furnish_dev(dir.path()) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                eprintln!("skipped: no CAP_MKNOD");
                return;
            }
            Err(e) => panic!("{e}"),
        }
        let kind = fs::metadata(dir.path().join("null")).expect("exists").file_type();
        assert!(kind.is_char_device());
    }
}
