//! Sockets with names in the file system.
//!
//! A call that names one has the name in memory, where the caller could exchange it for one of the machine's. So a step never has a
//! socket that could be connected: what `socket` gives is one end of a pair, which the kernel lets nobody connect any more, and when
//! the step binds or connects it, a socket for which that is done already takes its place. Datagram sockets can name somebody else
//! with every message, so there are none (`EPROTONOSUPPORT`; programs that write to a system log go on without).

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::net::sockopt;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::reach::Target;
use super::{PathEmulation, error, kind_of};
use crate::notify::Call;
use crate::notify::memory::{Ids, Memory};
use crate::ownership::{Record, by_descriptor, with_open};
use crate::sys::Answer;

/// So many sockets that are neither bound nor connected are remembered; then those that nobody has any more are looked for.
const MOST: usize = 256;
/// Of a bound socket, until its owner says how many.
const BACKLOG: i32 = 128;

/// The sockets of a step that are neither bound nor connected.
#[derive(Default)]
pub(super) struct Sockets(HashMap<u64, Unused>);

struct Unused {
    /// What the step has.
    placeholder: OwnedFd,
    kind: SocketType,
}

impl Sockets {
    /// `socket` of the local family.
    pub(super) fn make(&mut self, call: &Call) -> io::Result<Answer> {
        let word = call.word(1);
        let cloexec = word & SocketFlags::CLOEXEC.bits() != 0;
        let nonblock = word & SocketFlags::NONBLOCK.bits() != 0;
        let kind = SocketType::from_raw(word & 0xf);
        if kind != SocketType::STREAM && kind != SocketType::SEQPACKET || call.word(2) > 1 {
            return Err(error(libc::EPROTONOSUPPORT));
        }
        let mut flags = SocketFlags::CLOEXEC;
        flags.set(SocketFlags::NONBLOCK, nonblock);
        let (placeholder, _) = rustix::net::socketpair(AddressFamily::UNIX, kind, flags, None)?;
        if self.0.len() >= MOST {
            // Nobody can tell those that are still held from those that are not, but programs use what they make.
            self.0.clear();
        }
        self.0.insert(inode(&placeholder)?, Unused { placeholder: placeholder.try_clone()?, kind });
        Ok(Answer::Fd { fd: placeholder, cloexec })
    }
}

fn inode(fd: impl AsFd) -> io::Result<u64> {
    Ok(rustix::fs::fstat(fd)?.st_ino)
}

/// A name of a socket.
enum Name {
    Path(Vec<u8>),
    Abstract(Vec<u8>),
    /// The kernel gives one.
    None,
}

impl PathEmulation {
    pub(super) fn connect(&mut self, call: &Call) -> io::Result<Answer> {
        let Some((unused, inode)) = self.unused(call)? else { return Ok(Answer::Continue) };
        let socket = fresh(&unused)?;
        match name_of(call)? {
            Name::None => return Err(error(libc::EINVAL)),
            Name::Abstract(name) => rustix::net::connect(&socket, &own_name(&name)?)?,
            Name::Path(path) => {
                let target = Target { tid: call.tid, dir: libc::AT_FDCWD, path: &path };
                let place = target.place(self.procfs.proc(), true)?;
                if kind_of(&place)? != FileType::Socket {
                    return Err(error(libc::ECONNREFUSED));
                }
                let address = SocketAddrUnix::new(by_descriptor(&place).as_str())?;
                with_open(&[&place], || rustix::net::connect(&socket, &address))?;
            }
        }
        self.exchange(call, socket, &unused, inode)
    }

    pub(super) fn bind(&mut self, call: &Call) -> io::Result<Answer> {
        let Some((unused, inode)) = self.unused(call)? else { return Ok(Answer::Continue) };
        let socket = fresh(&unused)?;
        match name_of(call)? {
            Name::None => return Err(error(libc::EINVAL)),
            Name::Abstract(name) => {
                rustix::net::bind(&socket, &own_name(&name)?)?;
                rustix::net::listen(&socket, BACKLOG)?;
            }
            Name::Path(path) => {
                let target = Target { tid: call.tid, dir: libc::AT_FDCWD, path: &path };
                let proc = self.procfs.proc();
                let (parent, name) = target.parent(proc, libc::EADDRINUSE)?;
                let umask = proc.umask(call.tid)?;
                // Names of sockets are short, and must not follow a link at their end: through the directory.
                let address = SocketAddrUnix::new(PathBuf::from(by_descriptor(&parent)).join(&name).as_path())?;
                with_open(&[&parent], || rustix::net::bind(&socket, &address))?;
                rustix::net::listen(&socket, BACKLOG)?;
                let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let made = rustix::fs::openat(&parent, name.as_bytes(), flags, Mode::empty())?;
                rustix::fs::chmod(by_descriptor(&made), Mode::from_raw_mode(0o777 & !umask))?;
                let owner = self.owner_of_new(target)?;
                if owner != (0, 0) {
                    Record { owner, ..Record::default() }.write(&made, FileType::Socket)?;
                }
            }
        }
        self.exchange(call, socket, &unused, inode)
    }

    /// The placeholder that a call is about; `None` for every other descriptor.
    fn unused(&mut self, call: &Call) -> io::Result<Option<(Unused, u64)>> {
        let inode = inode(self.procfs.proc().base(call.tid, call.int(0))?)?;
        let Some(unused) = self.sockets.0.get(&inode) else { return Ok(None) };
        Ok(Some((Unused { placeholder: unused.placeholder.try_clone()?, kind: unused.kind }, inode)))
    }

    /// Gives the caller what is bound or connected in the place of what is not.
    fn exchange(&mut self, call: &Call, socket: OwnedFd, unused: &Unused, inode: u64) -> io::Result<Answer> {
        let blocks = !rustix::fs::fcntl_getfl(&unused.placeholder)?.contains(OFlags::NONBLOCK);
        rustix::io::ioctl_fionbio(&socket, !blocks)?;
        if sockopt::socket_passcred(&unused.placeholder)? {
            sockopt::set_socket_passcred(&socket, true)?;
        }
        let info = self.procfs.proc().read(&format!("{}/fdinfo/{}", call.tid, call.int(0)))?;
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = flags.and_then(|text| u32::from_str_radix(text.trim(), 8).ok()).unwrap_or(0);
        self.sockets.0.remove(&inode);
        let cloexec = OFlags::from_bits_retain(flags).contains(OFlags::CLOEXEC);
        Ok(Answer::Replace { fd: socket, number: call.word(0), cloexec })
    }
}

/// An abstract name as no other step and nobody else on the machine has it.
fn own_name(name: &[u8]) -> io::Result<SocketAddrUnix> {
    let own = [format!("rbuild-{}-", rustix::process::getpid().as_raw_pid()).as_bytes(), name].concat();
    Ok(SocketAddrUnix::new_abstract_name(&own)?)
}

/// A socket of the same kind, which does not wait: nobody else would be answered meanwhile.
fn fresh(unused: &Unused) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, unused.kind, flags, None)?)
}

/// The name in the arguments of a call; `EINVAL` for one of another family.
fn name_of(call: &Call) -> io::Result<Name> {
    const FAMILY: usize = 2;
    /// Of `struct sockaddr_un`.
    const LONGEST: usize = 110;
    let length = usize::try_from(call.args[2] & 0xffff_ffff).unwrap_or(usize::MAX);
    if !(FAMILY..=LONGEST).contains(&length) {
        return Err(error(libc::EINVAL));
    }
    let bytes = Memory::new(call.tid, Ids::ROOT).bytes(call.args[1], length)?;
    let (family, name) = bytes.split_at(FAMILY);
    if u16::from_ne_bytes([family[0], family[1]]) != AddressFamily::UNIX.as_raw() {
        return Err(error(libc::EINVAL));
    }
    Ok(match name {
        [] => Name::None,
        [0, name @ ..] => Name::Abstract(name.to_vec()),
        path => Name::Path(path.split(|b| *b == 0).next().unwrap_or_default().to_vec()),
    })
}
