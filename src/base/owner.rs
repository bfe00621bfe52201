//! Owners and modes of files and devices, also where they cannot be had.
//!
//! In a user namespace with a single id (isolation `userns-one`) every file belongs to it, and so it is without privileges (isolation
//! `ptrace`); in neither can devices be made: who a file should belong to, and which device a socket stands for, is recorded in an attribute ([`rootless::ownership`]),
//! which only trees of our own store have: layers and contexts cannot bring it in, as it is never taken from or written to an
//! archive. Without privileges the same goes for modes that keep their owner out. Everywhere else these functions are the plain system calls.

use std::fs::Metadata;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::OnceLock;

use rootless::ownership::{self, Record, with_open, without_privileges};
pub use rootless::ownership::{Device, kept_as, shown_as};
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Stat, Uid};
use rustix::io::Errno;
use rustix::path::Arg;

/// Whether owners are recorded here.
#[must_use]
pub fn are_recorded() -> bool {
    static RECORDED: OnceLock<bool> = OnceLock::new();
    without_privileges() || *RECORDED.get_or_init(|| rootless::IdMaps::current().sizes() == (1, 1))
}

/// Whether sockets may stand for devices here: in every user namespace but the first, and without privileges.
fn devices_are_recorded() -> bool {
    static RECORDED: OnceLock<bool> = OnceLock::new();
    without_privileges() || *RECORDED.get_or_init(|| !rootless::IdMaps::current().are_initial())
}

fn kind_of(meta: &Metadata) -> FileType {
    FileType::from_raw_mode(meta.mode())
}

/// The owner and the mode, with the bits of its type, of what is at `path` itself, of which `meta` is the kernel's answer.
///
/// # Errors
/// When the record cannot be read.
pub fn owner_and_mode(path: &Path, meta: &Metadata) -> io::Result<((u32, u32), u32)> {
    if !are_recorded() {
        return Ok(((meta.uid(), meta.gid()), meta.mode()));
    }
    let record = Record::of_path(path, kind_of(meta))?;
    Ok((record.owner, record.mode(meta.mode())))
}

/// The device at `path` itself, of which `meta` is the kernel's answer; `None` if it is none.
///
/// # Errors
/// When the record cannot be read.
pub fn device_at(path: &Path, meta: &Metadata) -> io::Result<Option<Device>> {
    match kind_of(meta) {
        FileType::Socket if devices_are_recorded() => Ok(Record::of_path(path, FileType::Socket)?.device),
        kind => Ok(Device::new(kind, meta.rdev())),
    }
}

/// What is known of an open file, with its owner and mode.
///
/// # Errors
/// The file system's.
pub fn stat_fd(fd: impl AsFd) -> io::Result<Stat> {
    with_record(rustix::fs::fstat(&fd)?, |kind| Record::of_fd(&fd, kind))
}

/// The kernel's answer, with what is recorded where something may be.
fn with_record(mut stat: Stat, record: impl FnOnce(FileType) -> io::Result<Record>) -> io::Result<Stat> {
    let kind = FileType::from_raw_mode(stat.st_mode);
    if !(are_recorded() || kind == FileType::Socket && devices_are_recorded()) {
        return Ok(stat);
    }
    let record = record(kind)?;
    if are_recorded() {
        (stat.st_uid, stat.st_gid) = record.owner;
    }
    stat.st_mode = record.mode(stat.st_mode);
    if let Some(device) = record.device {
        stat.st_mode = device.kind().as_raw_mode() | stat.st_mode & 0o7777;
        stat.st_rdev = device.number();
    }
    Ok(stat)
}

/// Moves what is at `from` to `to`, as root would: also where a mode keeps its owner from changing a directory, and there are no
/// privileges.
///
/// # Errors
/// The file system's.
pub fn rename_at(from: (impl AsFd, impl Arg + Copy), to: (impl AsFd, impl Arg + Copy)) -> io::Result<()> {
    let rename = || rustix::fs::renameat(&from.0, from.1, &to.0, to.1);
    if !without_privileges() {
        return Ok(rename()?);
    }
    // A directory that comes under another one is changed itself.
    let moved = place(&from.0, from.1)?;
    let dirs = [place(&from.0, c".")?, place(&to.0, c".")?];
    with_open(&[&dirs[0], &dirs[1], &moved], rename)
}

/// What is at `name` itself, with its owner and mode, and its device if it stands for one.
///
/// # Errors
/// The file system's.
pub fn stat_at(dir: impl AsFd, name: impl Arg + Copy) -> io::Result<Stat> {
    let stat = rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    with_record(stat, |kind| Record::of_fd(place(&dir, name)?, kind))
}

/// Makes a device, or a socket that stands for it.
///
/// # Errors
/// `EPERM` where neither is possible.
pub fn make_device(dir: impl AsFd, name: impl Arg + Copy, kind: FileType, number: u64) -> Result<(), Errno> {
    let mode = Mode::RUSR | Mode::WUSR;
    match (rustix::fs::mknodat(&dir, name, kind, mode, number), Device::new(kind, number)) {
        (Err(Errno::PERM), Some(device)) if devices_are_recorded() => {
            rustix::fs::mknodat(&dir, name, FileType::Socket, mode, 0)?;
            let record = Record { device: Some(device), ..Record::default() };
            record.write(place(&dir, name)?, FileType::Socket).map_err(|e| {
                // Nothing may be left that is not what was asked for; the first error is the one to tell.
                let _ = rustix::fs::unlinkat(&dir, name, AtFlags::empty());
                if e == Errno::OPNOTSUPP { Errno::PERM } else { e }
            })
        }
        (other, _) => other,
    }
}

fn place(dir: impl AsFd, name: impl Arg) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// Changes the owner of an open file or directory.
///
/// # Errors
/// `EINVAL` for ids that do not exist here.
pub fn set_fd(fd: impl AsFd, uid: u32, gid: u32) -> Result<(), Errno> {
    if !are_recorded() {
        return rustix::fs::fchown(fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    }
    // Of the two only one can be open, and their records are alike.
    let kind = FileType::RegularFile;
    let old = known(&fd, kind)?;
    settled(Record { owner: (uid, gid), ..old }.write(fd, kind))
}

/// Changes the mode of an open file or directory. Without privileges one that would keep its owner out is recorded.
///
/// # Errors
/// The file system's.
pub fn set_mode(fd: impl AsFd, mode: Mode) -> Result<(), Errno> {
    if without_privileges() { ownership::set_mode(fd, mode.as_raw_mode()) } else { rustix::fs::fchmod(fd, mode) }
}

/// The same of what is at `name` itself, which is no link. It is not opened: devices and pipes must not be.
///
/// # Errors
/// The file system's.
pub fn set_mode_at(dir: impl AsFd, name: impl Arg, mode: Mode) -> Result<(), Errno> {
    ownership::set_mode(place(dir, name)?, mode.as_raw_mode())
}

/// Gives everything in a tree the modes that are recorded, for who is to have it outside of the store: what keeps its owner out
/// keeps this user out from then on.
///
/// # Errors
/// The file system's.
pub fn settle_modes(tree: &Path) -> io::Result<()> {
    if !without_privileges() {
        return Ok(());
    }
    // Directories after what is in them.
    for entry in walkdir::WalkDir::new(tree).contents_first(true) {
        let entry = entry?;
        let kind = FileType::from_raw_mode(entry.metadata()?.mode());
        if !matches!(kind, FileType::RegularFile | FileType::Directory) {
            continue;
        }
        let fd = place(CWD, entry.path())?;
        let record = Record::of_fd(&fd, kind)?;
        if record.owner_bits.is_some() {
            let mode = Mode::from_raw_mode(record.mode(rustix::fs::fstat(&fd)?.st_mode) & 0o7777);
            Record { owner_bits: None, ..record }.write(&fd, kind)?;
            rustix::fs::chmod(entry.path(), mode)?;
        }
    }
    Ok(())
}

/// What is recorded that a change of owner leaves as it is.
fn known(fd: impl AsFd, kind: FileType) -> Result<Record, Errno> {
    if kind != FileType::Socket && !without_privileges() {
        return Ok(Record::default());
    }
    Record::of_fd(fd, kind).map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))
}

/// Changes the owner of what is at `name` itself.
///
/// # Errors
/// `EINVAL` for ids that do not exist here.
pub fn set_at(dir: impl AsFd, name: impl Arg + Copy, uid: u32, gid: u32) -> Result<(), Errno> {
    let change = || {
        rustix::fs::chownat(&dir, name, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), AtFlags::SYMLINK_NOFOLLOW)
    };
    if !devices_are_recorded() {
        return change();
    }
    let fd = place(&dir, name)?;
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode);
    let mut record = known(&fd, kind)?;
    if are_recorded() {
        record.owner = (uid, gid);
        return settled(record.write(fd, kind));
    }
    // Takes the record away.
    change()?;
    if record.device.is_some() { settled(record.write(fd, kind)) } else { Ok(()) }
}

/// Gives what was copied to `to`, and is neither file nor directory, the record of `from`.
///
/// # Errors
/// The file system's.
pub fn copy_record(from: (impl AsFd, impl Arg), to: (impl AsFd, impl Arg), kind: FileType) -> io::Result<()> {
    if !devices_are_recorded() {
        return Ok(());
    }
    let record = Record::of_fd(place(from.0, from.1)?, kind)?;
    if record == Record::default() {
        return Ok(());
    }
    Ok(record.write(place(to.0, to.1)?, kind)?)
}

fn settled(result: Result<(), Errno>) -> Result<(), Errno> {
    if result == Err(Errno::OPNOTSUPP) { Err(Errno::PERM) } else { result }
}
