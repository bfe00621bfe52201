//! Users, groups and owners for steps that have one id only.
//!
//! Every process of the step really has the one id of its user namespace, with root's capabilities there; which ids it
//! believes to have is kept in a table here. Owners that files cannot have are recorded in the attribute of
//! [`crate::ownership`], from which layers get them. Permissions are therefore not checked between the users of a step:
//! what one user of it may not do, another can. (That is between the step and itself.)
//!
//! What cannot carry the attribute has it in another one, and devices are sockets there.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::creds::{CredTable, Creds, KEEP};
use super::files::{Proc, last_name};
use super::memory::{Ids as MemoryIds, Memory};
use super::{Call, clear_set_ids, creds, nodes, stat, with_umask};
use crate::ownership::{Record, by_descriptor};
use crate::seccomp::{Action, Trap, When};
use crate::step::StepSpec;
use crate::sys::Answer;

/// Calls that change or tell ids, or make something that has an owner.
pub(super) fn traps() -> Vec<Trap> {
    let always = SET_OWNERS.iter().chain(&OTHERS).map(|name| (*name, When::Always, Action::Notify));
    let mut out: Vec<Trap> = always.chain(creds::traps()).collect();
    let create = u32::from_ne_bytes(libc::O_CREAT.to_ne_bytes());
    out.push(("open", When::Bits(1, create), Action::Notify));
    out.push(("openat", When::Bits(2, create), Action::Notify));
    // Programs copy owners from one file to another (passwd, cp, tar, dpkg): what they see must be what is recorded.
    out.extend(STAT.iter().map(|name| (*name, When::Always, Action::Notify)));
    out
}

/// What succeeds without being done where no supervisor can answer: owners are lost.
pub(super) fn errno_traps() -> Vec<Trap> {
    SET_OWNERS
        .iter()
        .chain(&creds::SET_GROUPS)
        .chain(&creds::SET_IDS)
        .map(|name| (*name, When::Always, Action::Errno(0)))
        .collect()
}

const SET_OWNERS: [&str; 7] = ["chown", "chown32", "fchown", "fchown32", "lchown", "lchown32", "fchownat"];
/// What makes files, starts programs, changes a root or the record of an owner.
const OTHERS: [&str; 15] = [
    "chroot",
    "creat",
    "mkdir",
    "mkdirat",
    "openat2",
    "execve",
    "execveat",
    "setxattr",
    "lsetxattr",
    "fsetxattr",
    "setxattrat",
    "mknod",
    "mknodat",
    "symlink",
    "symlinkat",
];
const STAT: [&str; 9] = ["stat", "lstat", "fstat", "newfstatat", "statx", "stat64", "lstat64", "fstat64", "fstatat64"];

/// The emulation for one step.
pub(crate) struct IdEmulation {
    proc: Proc,
    creds: CredTable,
}

impl IdEmulation {
    pub(crate) fn new(spec: &StepSpec) -> io::Result<Self> {
        let mut proc = Proc::open()?;
        if !spec.insecure {
            // All that can change a root is `chroot`, which is among the traps.
            proc.share_root();
        }
        Ok(Self { proc, creds: CredTable::new(spec) })
    }

    pub(super) fn proc(&mut self) -> &mut Proc {
        &mut self.proc
    }

    pub(crate) fn answer(&mut self, call: &Call) -> Answer {
        self.try_answer(call).unwrap_or_else(|e| Answer::Error(e.raw_os_error().unwrap_or(libc::EPERM)))
    }

    fn try_answer(&mut self, call: &Call) -> io::Result<Answer> {
        let a = &call.args;
        self.proc.remember_root(call.tid);
        if let Some(answer) = self.creds.answer(&self.proc, call) {
            return answer;
        }
        // The 16-bit calls of i386 end where their 32-bit ones have a suffix.
        let (name, narrow) = match call.name.strip_suffix("32") {
            Some(name) => (name, false),
            None => (call.name, call.narrow),
        };
        let id = |index: usize| creds::id(call, narrow, index);
        let at_cwd = libc::AT_FDCWD;
        match name {
            "chown" => self.chown(call.tid, at_cwd, Some(a[0]), 0, id(1), id(2)),
            "lchown" => self.chown(call.tid, at_cwd, Some(a[0]), libc::AT_SYMLINK_NOFOLLOW, id(1), id(2)),
            "fchown" => self.chown(call.tid, call.int(0), None, libc::AT_EMPTY_PATH, id(1), id(2)),
            "fchownat" => self.chown(call.tid, call.int(0), Some(a[1]), call.int(4), call.word(2), call.word(3)),
            "creat" => self.open(call, at_cwd, a[0], libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC, call.word(1)),
            "open" => self.open(call, at_cwd, a[0], call.int(1), call.word(2)),
            "openat" => self.open(call, call.int(0), a[1], call.int(2), call.word(3)),
            "openat2" => {
                let how = Memory::new(call.tid, MemoryIds::ROOT).bytes(a[2], 16)?;
                let word = |at: usize| u32::from_le_bytes([how[at], how[at + 1], how[at + 2], how[at + 3]]);
                let flags = i32::from_ne_bytes(word(0).to_ne_bytes());
                if flags & libc::O_CREAT == 0 {
                    return Ok(Answer::Continue);
                }
                self.open(call, call.int(0), a[1], flags, word(8))
            }
            "symlink" => self.symlink(call, a[0], at_cwd, a[1]),
            "symlinkat" => self.symlink(call, a[0], call.int(1), a[2]),
            "mknod" => self.mknod(call, at_cwd, a[0], call.word(1), a[2]),
            "mknodat" => self.mknod(call, call.int(0), a[1], call.word(2), a[3]),
            "mkdir" => self.mkdir(call, at_cwd, a[0], call.word(1)),
            "mkdirat" => self.mkdir(call, call.int(0), a[1], call.word(2)),
            "chroot" => {
                self.proc.roots_differ();
                Ok(Answer::Continue)
            }
            "execve" => self.exec(call, at_cwd, a[0], 0),
            "execveat" => self.exec(call, call.int(0), a[1], call.int(4)),
            "setxattr" | "lsetxattr" | "fsetxattr" | "setxattrat" => {
                let attribute = if name == "setxattrat" { a[3] } else { a[1] };
                let attribute = Memory::new(call.tid, MemoryIds::ROOT).string(attribute)?;
                match attribute.as_slice() {
                    b"system.posix_acl_access" | b"system.posix_acl_default" => {
                        self.set_access_list(call, name, &attribute)
                    }
                    _ => Ok(Answer::Continue),
                }
            }
            // The old calls of 32-bit programs, which libraries have not used since there are large files.
            "stat" | "lstat" | "fstat" if call.compat => Ok(Answer::Continue),
            "stat" | "lstat" | "fstat" | "newfstatat" | "statx" | "stat64" | "lstat64" | "fstat64" | "fstatat64" => {
                self.stat(call)
            }
            _ => Ok(Answer::Continue),
        }
    }

    fn chown(&mut self, tid: i32, dir: i32, path: Option<u64>, flags: i32, uid: u32, gid: u32) -> io::Result<Answer> {
        let fd = match self.proc.resolve(tid, dir, path, flags) {
            Ok(fd) => fd,
            // Through /proc/self/fd, as /dev/stdout: pipes have no owners to record.
            Err(e) if e.raw_os_error() == Some(libc::EXDEV) => return Ok(Answer::Value(0)),
            Err(e) => return Err(e),
        };
        let creds = self.creds.of(&self.proc, tid)?;
        let (stat, old) = recorded(&fd)?;
        let now = old.owner;
        if !creds.may_change_owner(now, uid, gid) {
            return Err(error(libc::EPERM));
        }
        // Changes nothing but does what a change does: permission, copy-up, set-id bits, the time of change.
        let (real_uid, real_gid) = (None, None);
        rustix::fs::chownat(&fd, "", real_uid, real_gid, AtFlags::EMPTY_PATH)?;
        let kept = |new: u32, old: u32| if new == KEEP { old } else { new };
        let new = (kept(uid, now.0), kept(gid, now.1));
        clear_set_ids(&fd, &stat);
        let kind = FileType::from_raw_mode(stat.st_mode);
        // The change took the record of a link, a pipe or a device away.
        if new != now || !matches!(kind, FileType::RegularFile | FileType::Directory) {
            record(&fd, kind, Record { owner: new, ..old })?;
        }
        Ok(Answer::Value(0))
    }

    /// An access list without the entries that name ids which do not exist here: what remains gives the same modes, to the file and
    /// to those that inherit it. No list is part of a layer.
    fn set_access_list(&self, call: &Call, name: &str, attribute: &[u8]) -> io::Result<Answer> {
        let a = &call.args;
        let memory = Memory::new(call.tid, MemoryIds::ROOT);
        let (dir, path, flags, value, size) = match name {
            "setxattr" => (libc::AT_FDCWD, Some(a[0]), 0, a[2], a[3]),
            "lsetxattr" => (libc::AT_FDCWD, Some(a[0]), libc::AT_SYMLINK_NOFOLLOW, a[2], a[3]),
            "fsetxattr" => (call.int(0), None, libc::AT_EMPTY_PATH, a[2], a[3]),
            _ => {
                // `struct xattr_args`: a pointer, a size, flags.
                let args = memory.bytes(a[4], 12)?;
                let (value, size) = args.split_at(8);
                let value = value.try_into().map_or(0, u64::from_ne_bytes);
                let size = size.try_into().map_or(0, u32::from_ne_bytes);
                (call.int(0), Some(a[1]), call.int(2), value, u64::from(size))
            }
        };
        let size = usize::try_from(size).ok().filter(|s| *s <= 65536).ok_or_else(|| error(libc::E2BIG))?;
        let list = memory.bytes(value, size)?;
        // One that is none, and one that names nobody else: the kernel knows what to do.
        let Some(known) = without_unknown_ids(&list).filter(|known| known.len() < list.len()) else {
            return Ok(Answer::Continue);
        };
        let Ok(fd) = self.proc.resolve(call.tid, dir, path, flags) else { return Ok(Answer::Continue) };
        self.proc.still_waits()?;
        rustix::fs::setxattr(by_descriptor(&fd), attribute, &known, rustix::fs::XattrFlags::empty())?;
        Ok(Answer::Value(0))
    }

    /// A file made by somebody who is not root belongs to him; one made in a set-group-id directory has its group.
    fn open(&mut self, call: &Call, dir: i32, path: u64, flags: i32, mode: u32) -> io::Result<Answer> {
        const TMPFILE: i32 = libc::O_TMPFILE & !libc::O_DIRECTORY;
        let creds = self.creds.of(&self.proc, call.tid)?;
        if flags & TMPFILE != 0 {
            return Ok(Answer::Continue);
        }
        let text = Memory::new(call.tid, MemoryIds::ROOT).string(path)?;
        let owner = self.owner_of_new(&creds, call.tid, dir, &text);
        if owner == (0, 0) {
            return Ok(Answer::Continue);
        }
        let place = OFlags::PATH | OFlags::CLOEXEC;
        match self.proc.lookup(call.tid, dir, &text, place, Mode::empty()) {
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {}
            // There already, or none of our business.
            _ => return Ok(Answer::Continue),
        }
        let (mode, umask) = (Mode::from_raw_mode(mode & 0o7777), self.proc.umask(call.tid)?);
        let flags = u32::from_ne_bytes(flags.to_ne_bytes());
        let open = OFlags::from_bits_retain(flags) | OFlags::CLOEXEC | OFlags::NOCTTY;
        let fd = match with_umask(umask, || self.proc.lookup(call.tid, dir, &text, open, mode)) {
            Ok(fd) => fd,
            // Its directory does not exist, or only for the caller: /dev/stderr leads to /proc/self.
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::EXDEV)) => return Ok(Answer::Continue),
            Err(e) => return Err(e),
        };
        record(&fd, FileType::RegularFile, owned_by(owner))?;
        Ok(Answer::Fd { fd, cloexec: OFlags::from_bits_retain(flags).contains(OFlags::CLOEXEC) })
    }

    fn mkdir(&mut self, call: &Call, dir: i32, path: u64, mode: u32) -> io::Result<Answer> {
        let creds = self.creds.of(&self.proc, call.tid)?;
        let text = Memory::new(call.tid, MemoryIds::ROOT).string(path)?;
        let owner = self.owner_of_new(&creds, call.tid, dir, &text);
        let Some(name) = last_name(&text) else { return Ok(Answer::Continue) };
        if owner == (0, 0) {
            return Ok(Answer::Continue);
        }
        let parent = self.proc.parent(call.tid, dir, &text)?;
        let (mode, umask) = (Mode::from_raw_mode(mode & 0o1777), self.proc.umask(call.tid)?);
        with_umask(umask, || rustix::fs::mkdirat(&parent, name, mode))?;
        record(&place(&parent, name)?, FileType::Directory, owned_by(owner))?;
        Ok(Answer::Value(0))
    }

    /// A link made by somebody who is not root belongs to him.
    fn symlink(&mut self, call: &Call, target: u64, dir: i32, path: u64) -> io::Result<Answer> {
        let creds = self.creds.of(&self.proc, call.tid)?;
        let memory = Memory::new(call.tid, MemoryIds::ROOT);
        let text = memory.string(path)?;
        let owner = self.owner_of_new(&creds, call.tid, dir, &text);
        let Some(name) = last_name(&text).filter(|_| owner != (0, 0)) else { return Ok(Answer::Continue) };
        let parent = self.proc.parent(call.tid, dir, &text)?;
        rustix::fs::symlinkat(OsStr::from_bytes(&memory.string(target)?), &parent, name)?;
        record(&place(&parent, name)?, FileType::Symlink, owned_by(owner))?;
        Ok(Answer::Value(0))
    }

    /// A pipe or socket made by somebody who is not root belongs to him; devices are recorded.
    fn mknod(&mut self, call: &Call, dir: i32, path: u64, mode: u32, number: u64) -> io::Result<Answer> {
        let creds = self.creds.of(&self.proc, call.tid)?;
        let text = Memory::new(call.tid, MemoryIds::ROOT).string(path)?;
        let owner = self.owner_of_new(&creds, call.tid, dir, &text);
        let kind = kind_of_mode(mode);
        let device = nodes::device(kind, number);
        if device.is_some() && creds.uid[1] != 0 {
            return Err(error(libc::EPERM));
        }
        let record = Record { owner, device, owner_bits: None };
        if record == Record::default() {
            return Ok(Answer::Continue);
        }
        nodes::make(&self.proc, call.tid, (dir, &text), kind, mode, record)?;
        Ok(Answer::Value(0))
    }

    /// Who a file belongs to that is made there.
    fn owner_of_new(&self, creds: &Creds, tid: i32, dir: i32, path: &[u8]) -> (u32, u32) {
        let own = (creds.uid[1], creds.gid[1]);
        // Whether there is a directory at all is for the kernel to say.
        let Ok(parent) = self.proc.parent(tid, dir, path) else { return own };
        match rustix::fs::fstat(&parent) {
            Ok(stat) if stat.st_mode & 0o2000 != 0 => {
                (own.0, Record::of_fd(&parent, FileType::Directory).unwrap_or_default().owner.1)
            }
            _ => own,
        }
    }

    /// A set-id program gives its owner's id to somebody who is not root.
    fn exec(&mut self, call: &Call, dir: i32, path: u64, flags: i32) -> io::Result<Answer> {
        let creds = self.creds.of(&self.proc, call.tid)?;
        if creds.uid == [0; 3] && creds.gid == [0; 3] {
            return Ok(Answer::Continue);
        }
        let Ok(fd) = self.proc.resolve(call.tid, dir, Some(path), flags) else { return Ok(Answer::Continue) };
        let (stat, Record { owner, .. }) = recorded(&fd)?;
        self.creds.executes(&self.proc, call.tid, &stat, owner)?;
        Ok(Answer::Continue)
    }

    /// Files as they are recorded.
    fn stat(&mut self, call: &Call) -> io::Result<Answer> {
        let a = &call.args;
        let (dir, path, flags, to) = match call.name {
            "stat" | "stat64" => (libc::AT_FDCWD, Some(a[0]), 0, a[1]),
            "lstat" | "lstat64" => (libc::AT_FDCWD, Some(a[0]), libc::AT_SYMLINK_NOFOLLOW, a[1]),
            "fstat" | "fstat64" => (call.int(0), None, libc::AT_EMPTY_PATH, a[1]),
            "newfstatat" | "fstatat64" => (call.int(0), Some(a[1]), call.int(3), a[2]),
            _ => (call.int(0), Some(a[1]), call.int(2), a[4]),
        };
        if flags & libc::AT_EMPTY_PATH != 0 && Self::is_empty(call.tid, path) {
            // By the descriptor's name, without opening what it stands for: programs do this to all they open.
            let name =
                if dir == libc::AT_FDCWD { format!("{}/cwd", call.tid) } else { format!("{}/fd/{dir}", call.tid) };
            if !Record::may_be_through(Path::new("/proc").join(name)) {
                return Ok(Answer::Continue);
            }
        }
        // Through /proc/self, pipes and the like: the kernel knows better.
        let Ok(fd) = self.proc.resolve(call.tid, dir, path, flags) else { return Ok(Answer::Continue) };
        if !Record::may_be_of_fd(&fd) {
            return Ok(Answer::Continue);
        }
        let (_, record) = recorded(&fd)?;
        if record == Record::default() {
            return Ok(Answer::Continue);
        }
        let bytes = match call.name {
            "statx" => stat::statx_bytes(&fd, call.word(3), record)?,
            _ if !call.compat => stat::native_bytes(&fd, record)?,
            _ => match stat::narrow_bytes(&fd, record)? {
                Some(bytes) => bytes,
                None => return Ok(Answer::Continue),
            },
        };
        self.proc.still_waits()?;
        Memory::new(call.tid, MemoryIds::ROOT).write(to, &bytes)?;
        Ok(Answer::Value(0))
    }

    /// Whether a call names its descriptor itself: with an empty path, or with none.
    fn is_empty(tid: i32, path: Option<u64>) -> bool {
        match path {
            None | Some(0) => true,
            Some(address) => Memory::new(tid, MemoryIds::ROOT).bytes(address, 1).is_ok_and(|bytes| bytes == [0]),
        }
    }
}

/// What `mknod` makes for a mode: nothing said is a file.
fn kind_of_mode(mode: u32) -> FileType {
    if mode & libc::S_IFMT == 0 { FileType::RegularFile } else { FileType::from_raw_mode(mode) }
}

fn place(dir: &OwnedFd, name: &OsStr) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?)
}

fn error(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

/// What is left of an access list where there is one id: the entries that name no other user or group. `None` if it is no list.
fn without_unknown_ids(list: &[u8]) -> Option<Vec<u8>> {
    const VERSION: u32 = 2;
    /// `ACL_USER` and `ACL_GROUP`: a tag, permissions, and an id.
    const NAMED: [u16; 2] = [0x02, 0x08];
    let (head, entries) = list.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*head) != VERSION || entries.len() % 8 != 0 {
        return None;
    }
    let is_known = |e: &&[u8]| !NAMED.contains(&u16::from_le_bytes([e[0], e[1]])) || e[4..] == [0; 4];
    Some([head.as_slice(), &entries.chunks_exact(8).filter(is_known).collect::<Vec<_>>().concat()].concat())
}

/// What something is, and what is recorded of it.
fn recorded(fd: &OwnedFd) -> io::Result<(Stat, Record)> {
    let stat = rustix::fs::fstat(fd)?;
    Ok((stat, Record::of_fd(fd, FileType::from_raw_mode(stat.st_mode))?))
}

/// Records an owner, or a device, where that is possible.
fn record(fd: &OwnedFd, kind: FileType, record: Record) -> io::Result<()> {
    match record.write(fd, kind) {
        // A file system (proc, an old tmpfs) that layers are not made from.
        Ok(()) | Err(Errno::PERM | Errno::OPNOTSUPP) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

fn owned_by(owner: (u32, u32)) -> Record {
    Record { owner, ..Record::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seccomp::trap_filter;

    #[test]
    fn access_lists_have_a_mode() {
        let list = |entries: &[(u16, u16, u32)]| {
            let mut out = 2u32.to_le_bytes().to_vec();
            for (tag, permissions, id) in entries {
                out.extend(tag.to_le_bytes().iter().chain(&permissions.to_le_bytes()).chain(&id.to_le_bytes()));
            }
            out
        };
        let none = u32::MAX;
        let plain = list(&[(1, 6, none), (4, 4, none), (0x20, 0, none)]);
        assert_eq!(without_unknown_ids(&plain), Some(plain.clone()));
        let named =
            list(&[(1, 7, none), (2, 6, 0), (2, 6, 1000), (4, 5, none), (8, 1, 5), (0x10, 7, none), (0x20, 5, none)]);
        let known = list(&[(1, 7, none), (2, 6, 0), (4, 5, none), (0x10, 7, none), (0x20, 5, none)]);
        assert_eq!(without_unknown_ids(&named), Some(known), "the mask stays, which is what the group's bits show");
        assert_eq!(without_unknown_ids(&plain[..11]), None);
        assert_eq!(without_unknown_ids(b"\x01\0\0\0"), None);
    }

    #[test]
    fn all_calls_make_a_filter() {
        assert!(trap_filter(&traps()).len() < 4096);
        assert_eq!(errno_traps().len(), 25);
    }
}
