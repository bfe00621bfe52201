//! What programs do to an open file by its name in `/proc/self/fd`, where there is no `/proc`: the C library changes modes so
//! where a link must not be followed, and files without a name get one so.
//!
//! Done with the file rights of the process, whose descriptor gives it none beyond them.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};

use super::Call;
use super::files::{Proc, last_name};
use super::memory::Memory;
use crate::ownership::{ACCESS_LIST, by_descriptor, set_mode, settle_mode};
use crate::seccomp::{Action, Trap, When};
use crate::sys::{self, Answer};

/// The calls, by the positions of their directory and path; without a directory the path counts from the working one.
const CALLS: [(&str, Option<usize>, usize); 15] = [
    ("chmod", None, 0),
    ("fchmodat", Some(0), 1),
    ("fchmodat2", Some(0), 1),
    ("chown", None, 0),
    ("chown32", None, 0),
    ("fchownat", Some(0), 1),
    ("truncate", None, 0),
    ("truncate64", None, 0),
    ("linkat", Some(0), 1),
    ("utimensat", Some(0), 1),
    ("utimensat_time64", Some(0), 1),
    ("getxattr", None, 0),
    ("listxattr", None, 0),
    ("setxattr", None, 0),
    ("removexattr", None, 0),
];

pub(super) fn traps() -> impl Iterator<Item = Trap> {
    CALLS.iter().map(|(name, _, _)| (*name, When::Always, Action::Notify))
}

/// Directory and path of a call, if it is one of these.
pub(super) fn place(call: &Call) -> Option<(i32, u64)> {
    let (_, dir, path) = CALLS.iter().find(|(name, _, _)| *name == call.name)?;
    Some((dir.map_or(libc::AT_FDCWD, |at| call.int(at)), call.args[*path]))
}

/// Whether it is about the link in `/proc` and not about the file.
fn is_about_the_link(call: &Call) -> bool {
    let flags = match call.name {
        // The kernel's has no flags; a fourth argument is whatever was in the register.
        "fchmodat2" | "utimensat" | "utimensat_time64" => call.int(3),
        "fchownat" => call.int(4),
        "linkat" => return call.int(4) & libc::AT_SYMLINK_FOLLOW == 0,
        _ => 0,
    };
    flags & libc::AT_SYMLINK_NOFOLLOW != 0
}

/// Carries out a call on descriptor `number` of the process `pid`, which makes it.
pub(super) fn answer(proc: &Proc, call: &Call, memory: Memory, pid: i32, number: u32) -> io::Result<Answer> {
    if is_about_the_link(call) {
        return Ok(Answer::Continue);
    }
    let owner = proc.owner(pid)?;
    // Looked up before the rights change: directories on the way may be closed to others.
    let target = if call.name == "linkat" { Some(new_name(proc, call, memory)?) } else { None };
    sys::as_file_ids(owner.uid, owner.gid, || {
        let fd = proc.base(pid, i32::try_from(number).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?)?;
        let path = by_descriptor(&fd);
        let a = &call.args;
        match (call.name, target) {
            ("linkat", Some((dir, name))) => {
                rustix::fs::linkat(CWD, path, dir, name, AtFlags::SYMLINK_FOLLOW)?;
            }
            ("chmod", _) => set_mode(&fd, call.word(1))?,
            ("fchmodat" | "fchmodat2", _) => set_mode(&fd, call.word(2))?,
            ("chown" | "chown32" | "fchownat", _) => {
                let at = if call.name == "fchownat" { 2 } else { 1 };
                let narrow = call.narrow && call.name == "chown";
                let id = |index: usize| match call.word(index) {
                    word if narrow && word & 0xffff == 0xffff => None,
                    word if narrow => Some(word & 0xffff),
                    word => Some(word).filter(|id| *id != u32::MAX),
                };
                rustix::fs::chown(path, id(at).map(Uid::from_raw), id(at + 1).map(Gid::from_raw))?;
            }
            ("truncate" | "truncate64", _) => {
                let length = match (call.name, call.compat) {
                    // i386 and ARM pass a large number in two registers, ARM from an even one on.
                    ("truncate64", true) if cfg!(target_arch = "aarch64") => a[2] | a[3] << 32,
                    ("truncate64", true) => a[1] | a[2] << 32,
                    _ => a[1],
                };
                // Not through the descriptor, which may be for reading only.
                let file = rustix::fs::open(path, OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?;
                rustix::fs::ftruncate(file, length)?;
            }
            ("utimensat" | "utimensat_time64", _) => {
                rustix::fs::utimensat(CWD, path, &times(call, memory)?, AtFlags::empty())?;
            }
            ("getxattr", _) => {
                let mut value = vec![0; 65536];
                let length = rustix::fs::getxattr(path, memory.string(a[1])?, &mut value)?;
                return give(memory, a[2], a[3], &value[..length]);
            }
            ("listxattr", _) => {
                let mut names = vec![0; 65536];
                let length = rustix::fs::listxattr(path, &mut names)?;
                return give(memory, a[1], a[2], &names[..length]);
            }
            ("setxattr" | "removexattr", _) => {
                let attribute = memory.string(a[1])?;
                // Rights to files do not change those to capabilities, which only the step's root has.
                let allowed = attribute.starts_with(b"user.") || attribute.starts_with(b"system.") || owner.uid == 0;
                if !allowed || attribute.starts_with(b"trusted.") {
                    return Err(io::Error::from_raw_os_error(libc::EPERM));
                }
                if call.name == "removexattr" {
                    rustix::fs::removexattr(path, attribute)?;
                } else {
                    let size = usize::try_from(a[3]).ok().filter(|size| *size <= 65536);
                    let value = memory.bytes(a[2], size.ok_or_else(|| io::Error::from_raw_os_error(libc::E2BIG))?)?;
                    rustix::fs::setxattr(path, &*attribute, &value, XattrFlags::from_bits_retain(call.word(4)))?;
                    if attribute == ACCESS_LIST {
                        settle_mode(&fd)?;
                    }
                }
            }
            _ => return Ok(Answer::Continue),
        }
        Ok(Answer::Value(0))
    })
}

/// Where `linkat` puts the new name.
fn new_name(proc: &Proc, call: &Call, memory: Memory) -> io::Result<(OwnedFd, std::ffi::OsString)> {
    let path = memory.string(call.args[3])?;
    let name = last_name(&path).ok_or_else(|| io::Error::from_raw_os_error(libc::EEXIST))?;
    Ok((proc.parent(call.tid, call.int(2), &path)?, name.to_owned()))
}

pub(super) fn times(call: &Call, memory: Memory) -> io::Result<Timestamps> {
    let address = call.args[2];
    let now = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW as _ };
    if address == 0 {
        return Ok(Timestamps { last_access: now, last_modification: now });
    }
    let width = if call.compat && call.name == "utimensat" { 4 } else { 8 };
    let bytes = memory.bytes(address, 4 * width)?;
    let word = |at: usize| match bytes[at * width..(at + 1) * width] {
        [a, b, c, d] => i64::from(i32::from_ne_bytes([a, b, c, d])),
        [a, b, c, d, e, f, g, h] => i64::from_ne_bytes([a, b, c, d, e, f, g, h]),
        _ => 0,
    };
    #[allow(clippy::useless_conversion, clippy::unnecessary_cast)] // Narrower on some architectures.
    let time = |at: usize| Timespec { tv_sec: word(at) as _, tv_nsec: word(at + 1) as _ };
    Ok(Timestamps { last_access: time(0), last_modification: time(2) })
}

/// Writes what was asked for into a buffer that has room, or tells how much it is.
pub(super) fn give(memory: Memory, address: u64, room: u64, value: &[u8]) -> io::Result<Answer> {
    let length = i64::try_from(value.len()).unwrap_or(i64::MAX);
    if room == 0 {
        return Ok(Answer::Value(length));
    }
    if room < value.len() as u64 {
        return Err(io::Error::from_raw_os_error(libc::ERANGE));
    }
    memory.write(address, value)?;
    Ok(Answer::Value(length))
}
