//! What is said about files: modes, owners, times, lengths, extended attributes.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, CWD, FileType, OFlags, Timespec, Timestamps, XattrFlags};

use super::permission::{By, WRITE};
use super::{PathEmulation, error, kind_of, recorded};
use crate::notify::creds::KEEP;
use crate::notify::memory::{Ids, Memory};
use crate::notify::{Call, clear_set_ids, open_files};
use crate::ownership::{self, CAPABILITY, Record, by_descriptor, kept_as, shown_as, with_open};
use crate::sys::Answer;

/// The attribute of file capabilities, which is recorded.
const FILE_CAPABILITIES: &[u8] = b"security.capability";
/// The kernel's limit for values and lists of names.
const MOST: usize = 65536;

impl PathEmulation {
    pub(super) fn change(&mut self, call: &Call) -> io::Result<Answer> {
        let a = &call.args;
        let (cwd, tid, link) = (libc::AT_FDCWD, call.tid, libc::AT_SYMLINK_NOFOLLOW);
        match call.name {
            "chmod" => self.chmod(tid, cwd, a[0], call.word(1), 0),
            "fchmod" => {
                let found = self.found(tid, call.int(0), None, libc::AT_EMPTY_PATH)?;
                ownership::set_mode(found, call.word(1))?;
                Ok(Answer::Value(0))
            }
            "fchmodat" => self.chmod(tid, call.int(0), a[1], call.word(2), 0),
            "fchmodat2" => self.chmod(tid, call.int(0), a[1], call.word(2), call.int(3)),
            "chown" => self.chown(tid, cwd, Some(a[0]), 0, (call.word(1), call.word(2))),
            "lchown" => self.chown(tid, cwd, Some(a[0]), link, (call.word(1), call.word(2))),
            "fchown" => self.chown(tid, call.int(0), None, libc::AT_EMPTY_PATH, (call.word(1), call.word(2))),
            "fchownat" => self.chown(tid, call.int(0), Some(a[1]), call.int(4), (call.word(2), call.word(3))),
            "utime" => self.set_times(tid, cwd, a[0], 0, seconds(tid, a[1])?),
            "utimes" => self.set_times(tid, cwd, a[0], 0, microseconds(tid, a[1])?),
            "futimesat" => self.set_times(tid, call.int(0), a[1], 0, microseconds(tid, a[2])?),
            "utimensat" => {
                let times = open_files::times(call, Memory::new(tid, Ids::ROOT))?;
                self.set_times(tid, call.int(0), a[1], call.int(3), times)
            }
            "truncate" => {
                let found = self.found(tid, cwd, Some(a[0]), 0)?;
                if kind_of(&found)? == FileType::Directory {
                    return Err(error(libc::EISDIR));
                }
                if a[1] > i64::MAX.unsigned_abs() || kind_of(&found)? != FileType::RegularFile {
                    return Err(error(libc::EINVAL));
                }
                self.permit(tid, &found, WRITE, By::Effective)?;
                rustix::fs::ftruncate(Self::reopened(&found, OFlags::WRONLY)?, a[1])?;
                Ok(Answer::Value(0))
            }
            _ => self.attribute(call),
        }
    }

    fn chmod(&mut self, tid: i32, dir: i32, path: u64, mode: u32, flags: i32) -> io::Result<Answer> {
        let found = self.found(tid, dir, Some(path), flags)?;
        if kind_of(&found)? == FileType::Symlink {
            return Err(error(libc::EOPNOTSUPP));
        }
        ownership::set_mode(found, mode)?;
        Ok(Answer::Value(0))
    }

    /// `ids` are the new ones, or [`KEEP`].
    fn chown(&mut self, tid: i32, dir: i32, path: Option<u64>, flags: i32, ids: (u32, u32)) -> io::Result<Answer> {
        let found = self.found(tid, dir, path, flags)?;
        let (stat, old) = recorded(&found)?;
        if !self.creds.of(self.procfs.proc(), tid)?.may_change_owner(old.owner, ids.0, ids.1) {
            return Err(error(libc::EPERM));
        }
        let kept = |new: u32, old: u32| if new == KEEP { old } else { new };
        let owner = (kept(ids.0, old.owner.0), kept(ids.1, old.owner.1));
        let kind = FileType::from_raw_mode(stat.st_mode);
        clear_set_ids(&found, &stat);
        if kind == FileType::RegularFile {
            // As a change of owner does.
            let _ = rustix::fs::removexattr(by_descriptor(&found), CAPABILITY);
        }
        if owner != old.owner {
            match (Record { owner, ..old }).write(&found, kind) {
                // A pipe, or a file system that layers are not made from.
                Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(Answer::Value(0))
    }

    fn set_times(&mut self, tid: i32, dir: i32, path: u64, flags: i32, times: Timestamps) -> io::Result<Answer> {
        let found = self.found(tid, dir, Some(path), flags)?;
        rustix::fs::utimensat(CWD, by_descriptor(&found), &times, AtFlags::empty())?;
        Ok(Answer::Value(0))
    }

    fn attribute(&mut self, call: &Call) -> io::Result<Answer> {
        let (a, tid) = (&call.args, call.tid);
        // The first letter of the name says what is meant: a link itself, a descriptor, or what a path leads to.
        let (found, what) = match call.name.split_at(1) {
            ("l", what) if what != "istxattr" => {
                (self.found(tid, libc::AT_FDCWD, Some(a[0]), libc::AT_SYMLINK_NOFOLLOW)?, what)
            }
            ("f", what) => (self.found(tid, call.int(0), None, libc::AT_EMPTY_PATH)?, what),
            _ => (self.found(tid, libc::AT_FDCWD, Some(a[0]), 0)?, call.name),
        };
        let memory = Memory::new(tid, Ids::ROOT);
        match what {
            "getxattr" => {
                let (name, mut value) = (memory.string(a[1])?, vec![0; MOST]);
                let length = on_file(&found, |path| rustix::fs::getxattr(path, kept_as(&name), &mut value[..]))?;
                self.procfs.proc().still_waits()?;
                open_files::give(memory, a[2], a[3], &value[..length])
            }
            "listxattr" => {
                let mut names = vec![0; MOST];
                let length = on_file(&found, |path| rustix::fs::listxattr(path, &mut names[..]))?;
                self.procfs.proc().still_waits()?;
                open_files::give(memory, a[1], a[2], &shown(&names[..length]))
            }
            "removexattr" => {
                let name = memory.string(a[1])?;
                on_file(&found, |path| rustix::fs::removexattr(path, kept_as(&name)))?;
                Ok(Answer::Value(0))
            }
            "setxattr" => {
                let name = memory.string(a[1])?;
                let size = usize::try_from(a[3]).ok().filter(|size| *size <= MOST).ok_or_else(|| error(libc::E2BIG))?;
                let value = memory.bytes(a[2], size)?;
                if name == FILE_CAPABILITIES && self.creds.of(self.procfs.proc(), tid)?.uid[1] != 0 {
                    return Err(error(libc::EPERM));
                }
                let flags = XattrFlags::from_bits_retain(call.word(4));
                on_file(&found, |path| rustix::fs::setxattr(path, kept_as(&name), &value, flags))?;
                if name == ownership::ACCESS_LIST {
                    ownership::settle_mode(&found)?;
                }
                Ok(Answer::Value(0))
            }
            _ => Err(error(libc::ENOSYS)),
        }
    }
}

fn on_file<T>(found: &OwnedFd, mut work: impl FnMut(&str) -> Result<T, rustix::io::Errno>) -> io::Result<T> {
    let path = by_descriptor(found);
    with_open(&[found], || work(&path))
}

/// Names of attributes as the step knows them: without those of records.
fn shown(names: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for name in names.split(|b| *b == 0).filter(|name| !name.is_empty()) {
        if !ownership::is_record(name) {
            out.extend(shown_as(name));
            out.push(0);
        }
    }
    out
}

/// `struct utimbuf`: two times in seconds; none are now.
fn seconds(tid: i32, address: u64) -> io::Result<Timestamps> {
    words::<2>(tid, address).map(|words| words.map_or(NOW, |[access, change]| stamps((access, 0), (change, 0))))
}

/// Two of `struct timeval`; none are now.
fn microseconds(tid: i32, address: u64) -> io::Result<Timestamps> {
    let Some([access, access_us, change, change_us]) = words::<4>(tid, address)? else { return Ok(NOW) };
    if [access_us, change_us].iter().any(|us| !(0..1_000_000).contains(us)) {
        return Err(error(libc::EINVAL));
    }
    Ok(stamps((access, access_us * 1000), (change, change_us * 1000)))
}

fn words<const N: usize>(tid: i32, address: u64) -> io::Result<Option<[i64; N]>> {
    if address == 0 {
        return Ok(None);
    }
    let bytes = Memory::new(tid, Ids::ROOT).bytes(address, 8 * N)?;
    let (words, _) = bytes.as_chunks::<8>();
    Ok(Some(std::array::from_fn(|at| i64::from_ne_bytes(words[at]))))
}

#[allow(clippy::useless_conversion, clippy::unnecessary_cast)] // Narrower on some architectures.
fn stamps(access: (i64, i64), change: (i64, i64)) -> Timestamps {
    let at = |(seconds, nanos)| Timespec { tv_sec: seconds, tv_nsec: nanos as _ };
    Timestamps { last_access: at(access), last_modification: at(change) }
}

const NOW: Timestamps = {
    let now = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW as _ };
    Timestamps { last_access: now, last_modification: now }
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_sees_no_records_but_its_capabilities() {
        ownership::work_without_privileges();
        let names = b"user.mine\0user.rootlesscontainers\0user.rbuild.capability\0user.rbuild.beside\0";
        assert_eq!(shown(names), b"user.mine\0security.capability\0");
        assert_eq!(kept_as(b"security.capability"), CAPABILITY.as_bytes());
        assert_eq!(kept_as(b"user.mine"), b"user.mine");
    }
}
