//! Looks at files below `/proc` by their names, where there is no `/proc`: `stat` and `access` of open files (`/dev/stdin` is
//! one for `cp` and `install`), and of processes, which the skeleton cannot show.
//!
//! Only calls that count from the working directory ask: names below `/proc` are written out, and what walks through trees
//! goes from descriptor to descriptor and stays as fast as it was. Nothing is opened for the program.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, CWD, Mode, OFlags};

use super::files::Proc;
use super::memory::{Ids, Memory};
use super::{Call, stat};
use crate::ownership::{Record, by_descriptor};
use crate::seccomp::{Action, Trap, When};
use crate::sys::{self, Answer};

/// A directory argument that names none.
const NO_DIRECTORY: &[u32] = &[libc::AT_FDCWD.cast_unsigned()];

/// The calls, by the positions of their directory, path and flags.
const CALLS: [(&str, Option<usize>, usize, Option<usize>); 8] = [
    ("stat", None, 0, None),
    ("stat64", None, 0, None),
    ("newfstatat", Some(0), 1, Some(3)),
    ("fstatat64", Some(0), 1, Some(3)),
    ("statx", Some(0), 1, Some(2)),
    ("access", None, 0, None),
    ("faccessat", Some(0), 1, None),
    ("faccessat2", Some(0), 1, Some(3)),
];

pub(super) fn traps() -> impl Iterator<Item = Trap> {
    CALLS.iter().map(|(name, dir, _, _)| {
        let when = dir.map_or(When::Always, |at| When::Masked(u32::try_from(at).unwrap_or(0), u32::MAX, NO_DIRECTORY));
        (*name, when, Action::Notify)
    })
}

/// Directory and path of a call, if it is one of these and follows links.
pub(super) fn place(call: &Call) -> Option<(i32, u64)> {
    let (_, dir, path, flags) = CALLS.iter().find(|(name, _, _, _)| *name == call.name)?;
    if flags.is_some_and(|at| call.int(at) & libc::AT_SYMLINK_NOFOLLOW != 0) {
        return None;
    }
    // The old structure of 32-bit programs, which libraries have not used since there are large files.
    if call.compat && call.name == "stat" {
        return None;
    }
    Some((dir.map_or(libc::AT_FDCWD, |at| call.int(at)), call.args[*path]))
}

/// Whether it is one of these calls, whatever it follows.
pub(super) fn is_one(call: &Call) -> bool {
    CALLS.iter().any(|(name, _, _, _)| *name == call.name)
}

/// Answers a call about the file `path` of our `/proc`, which belongs to a process of these ids.
pub(super) fn answer(
    proc: &Proc,
    call: &Call,
    memory: Memory,
    path: &str,
    owner: Ids,
    asking: Ids,
) -> io::Result<Answer> {
    let open = || rustix::fs::openat(proc.fd(), path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    let fd: OwnedFd = sys::as_file_ids(owner.uid, owner.gid, open)?;
    let a = &call.args;
    let wanted = match call.name {
        "access" => call.word(1),
        "faccessat" | "faccessat2" => call.word(2),
        _ => {
            let found = rustix::fs::fstat(&fd)?;
            let record = Record { owner: (found.st_uid, found.st_gid), ..Record::default() };
            let (bytes, to) = match call.name {
                "statx" => (stat::statx_bytes(&fd, call.word(3), record)?, a[4]),
                "stat" | "newfstatat" => {
                    (stat::native_bytes(&fd, record)?, if call.name == "stat" { a[1] } else { a[2] })
                }
                _ => match stat::narrow_bytes(&fd, record)? {
                    Some(bytes) => (bytes, if call.name == "stat64" { a[1] } else { a[2] }),
                    None => return Ok(Answer::Continue),
                },
            };
            proc.still_waits()?;
            memory.write(to, &bytes)?;
            return Ok(Answer::Value(0));
        }
    };
    let wanted = rustix::fs::Access::from_bits(u16::try_from(wanted).unwrap_or(u16::MAX).into());
    let wanted = wanted.ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
    sys::as_file_ids(asking.uid, asking.gid, || {
        rustix::fs::accessat(CWD, by_descriptor(&fd), wanted, AtFlags::EACCESS)
    })?;
    Ok(Answer::Value(0))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;

    use super::*;

    fn call(name: &'static str, args: [u64; 6]) -> Call {
        Call { name, tid: rustix::process::getpid().as_raw_pid(), args, narrow: false, compat: false }
    }

    #[test]
    fn what_does_not_follow_links_is_the_skeletons() {
        let here = u64::from(NO_DIRECTORY[0]);
        assert_eq!(place(&call("newfstatat", [here, 7, 0, 0, 0, 0])), Some((libc::AT_FDCWD, 7)));
        let about_the_link = call("newfstatat", [here, 7, 0, 0x100, 0, 0]);
        assert_eq!(place(&about_the_link), None);
        assert!(is_one(&about_the_link) && !is_one(&call("open", [0; 6])));
        assert_eq!(place(&call("access", [9, 0, 0, 0, 0, 0])), Some((libc::AT_FDCWD, 9)));
    }

    #[test]
    fn an_open_file_is_looked_at_through_its_descriptor() {
        let file = OwnedFd::from(tempfile::tempfile().expect("a file"));
        rustix::fs::ftruncate(&file, 12).expect("grows");
        let pid = rustix::process::getpid().as_raw_pid();
        let (proc, path) = (Proc::open().expect("a /proc"), format!("{pid}/fd/{}", file.as_raw_fd()));
        let ids = proc.owner(pid).expect("known");
        let memory = || Memory::new(pid, ids);
        let mut found = [0_u8; size_of::<libc::stat>()];
        let to = found.as_mut_ptr() as u64;
        let answered = answer(&proc, &call("newfstatat", [0, 0, to, 0, 0, 0]), memory(), &path, ids, ids);
        assert!(matches!(answered.expect("looks"), Answer::Value(0)));
        let size = std::mem::offset_of!(libc::stat, st_size);
        assert_eq!(found[size..size + 8], 12_u64.to_ne_bytes());
        let readable = answer(&proc, &call("access", [0, 4, 0, 0, 0, 0]), memory(), &path, ids, ids);
        assert!(matches!(readable.expect("looks"), Answer::Value(0)));
        let gone = answer(&proc, &call("access", [0, 4, 0, 0, 0, 0]), memory(), &format!("{pid}/fd/999"), ids, ids);
        assert_eq!(gone.expect_err("closed").raw_os_error(), Some(libc::ENOENT));
    }
}
