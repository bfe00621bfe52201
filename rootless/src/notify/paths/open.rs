//! Opening files, also those that nobody without privileges can have: devices.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};

use super::permission::{By, wanted_by};
use super::reach::{PLACE, Target};
use super::{PathEmulation, error, kind_of};
use crate::notify::memory::{Ids, Memory};
use crate::notify::{Call, with_umask};
use crate::ownership::{Device, Record, record_new};
use crate::sys::Answer;

/// Flags that `openat2` knows; `open` ignores others.
const KNOWN: OFlags = OFlags::from_bits_retain(0o37_777_703);
const TMPFILE: OFlags = OFlags::from_bits_retain(OFlags::TMPFILE.bits() & !OFlags::DIRECTORY.bits());
/// Of `openat2`: the path stays below the directory that it counts from.
const BELOW: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::IN_ROOT);

/// Devices that steps may open, as the machine has them.
const DEVICES: [(&str, u32, u32); 5] =
    [("/dev/null", 1, 3), ("/dev/zero", 1, 5), ("/dev/full", 1, 7), ("/dev/random", 1, 8), ("/dev/urandom", 1, 9)];
/// Major and minor number of the caller's terminal.
const TERMINAL: (u32, u32) = (5, 0);

/// How a file is to be opened.
struct How {
    flags: OFlags,
    mode: u32,
    resolve: ResolveFlags,
}

impl How {
    fn makes(&self) -> bool {
        self.flags.contains(OFlags::CREATE) || self.flags.intersects(TMPFILE)
    }
}

impl PathEmulation {
    pub(super) fn open(&mut self, call: &Call) -> io::Result<Answer> {
        let a = &call.args;
        let how = |flags: u32, mode| How {
            flags: OFlags::from_bits_retain(flags) & KNOWN,
            mode,
            resolve: ResolveFlags::empty(),
        };
        let (dir, path, how) = match call.name {
            "creat" => {
                let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::TRUNC;
                (libc::AT_FDCWD, a[0], how(flags.bits(), call.word(1)))
            }
            "open" => (libc::AT_FDCWD, a[0], how(call.word(1), call.word(2))),
            "openat" => (call.int(0), a[1], how(call.word(2), call.word(3))),
            _ => (call.int(0), a[1], Self::how_of_openat2(call)?),
        };
        let text = Self::string(call.tid, path)?;
        if text.is_empty() {
            return Err(error(libc::ENOENT));
        }
        let target = Target { tid: call.tid, dir, path: &text };
        let answer = self.open_target(target, &how)?;
        if let Answer::Fd { .. } = answer {
            self.loader_opened(call.tid, &text)?;
        }
        Ok(answer)
    }

    /// `struct open_how`: flags, mode, resolve.
    fn how_of_openat2(call: &Call) -> io::Result<How> {
        if call.args[3] < 24 {
            return Err(error(libc::EINVAL));
        }
        let bytes = Memory::new(call.tid, Ids::ROOT).bytes(call.args[2], 24)?;
        let (words, _) = bytes.as_chunks::<8>();
        let [flags, mode, resolve] = [0, 1, 2].map(|at| u64::from_ne_bytes(words[at]));
        let flags = u32::try_from(flags).ok().map(OFlags::from_bits_retain).filter(|flags| KNOWN.contains(*flags));
        let resolve = ResolveFlags::from_bits(resolve);
        let (Some(flags), Some(resolve), Ok(mode)) = (flags, resolve, u32::try_from(mode)) else {
            return Err(error(libc::EINVAL));
        };
        Ok(How { flags, mode, resolve })
    }

    fn open_target(&mut self, target: Target<'_>, how: &How) -> io::Result<Answer> {
        let cloexec = how.flags.contains(OFlags::CLOEXEC);
        let give = |fd| Ok(Answer::Fd { fd, cloexec });
        if how.flags.contains(OFlags::CREATE | OFlags::EXCL) || how.flags.intersects(TMPFILE) {
            return give(self.open_plain(target, how, true)?);
        }
        let found = match self.place_of(target, how) {
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) && how.makes() => {
                return give(self.open_plain(target, how, true)?);
            }
            other => other?,
        };
        if how.flags.contains(OFlags::PATH) {
            let kind = kind_of(&found)?;
            if how.flags.contains(OFlags::DIRECTORY) && kind != FileType::Directory {
                return Err(error(libc::ENOTDIR));
            }
            return match kind {
                // Entered without us.
                FileType::Directory => give(Self::reopened(&found, OFlags::RDONLY | OFlags::DIRECTORY)?),
                _ => give(self.procfs.proc().stand_in(found)?),
            };
        }
        self.permit(target.tid, &found, wanted_by(how.flags), By::Effective)?;
        match kind_of(&found)? {
            // Waits for the other side, which nobody else should.
            FileType::Fifo if !how.flags.contains(OFlags::NONBLOCK) && how.flags & OFlags::RWMODE != OFlags::RDWR => {
                let flags = how.flags & !(OFlags::CREATE | OFlags::NOFOLLOW);
                self.procfs.proc().answer_elsewhere(target.tid, cloexec, || Self::reopened(&found, flags))
            }
            FileType::Socket => match Record::of_fd(&found, FileType::Socket)?.device {
                Some(device) => give(self.open_device(target.tid, device, how.flags)?),
                None => Err(error(libc::ENXIO)),
            },
            _ => give(self.open_plain(target, how, false)?),
        }
    }

    fn place_of(&mut self, target: Target<'_>, how: &How) -> io::Result<OwnedFd> {
        let proc = self.procfs.proc();
        let flags = PLACE | how.flags & OFlags::NOFOLLOW;
        if how.resolve.intersects(BELOW) {
            let base = proc.base(target.tid, target.dir)?;
            return Ok(rustix::fs::openat2(base, target.path, flags, Mode::empty(), how.resolve)?);
        }
        target.open(proc, flags, Mode::empty(), how.resolve)
    }

    /// Opens what is there, or with `new` makes it: then it belongs to whoever the caller believes to be.
    fn open_plain(&mut self, target: Target<'_>, how: &How, new: bool) -> io::Result<OwnedFd> {
        let creates = how.makes();
        let (mode, umask) = if creates { (how.mode & 0o7777, self.procfs.proc().umask(target.tid)?) } else { (0, 0) };
        let (mode, flags) = (Mode::from_raw_mode(mode), how.flags | OFlags::CLOEXEC | OFlags::NOCTTY);
        let fd = if how.resolve.intersects(BELOW) {
            let base = self.procfs.proc().base(target.tid, target.dir)?;
            with_umask(umask, || rustix::fs::openat2(base, target.path, flags, mode, how.resolve))?
        } else {
            let proc = self.procfs.proc();
            with_umask(umask, || target.open(proc, flags, mode, how.resolve))?
        };
        if new {
            record_new(&fd, Record { owner: self.owner_of_new(target)?, ..Record::default() })?;
        }
        Ok(fd)
    }

    /// The machine's device of these numbers, if it is one that every container has.
    fn open_device(&mut self, tid: i32, device: Device, flags: OFlags) -> io::Result<OwnedFd> {
        let flags = flags & (OFlags::RWMODE | OFlags::NONBLOCK | OFlags::APPEND) | OFlags::CLOEXEC | OFlags::NOCTTY;
        let numbers = (device.major, device.minor);
        if device.block {
            return Err(error(libc::EPERM));
        }
        if numbers == TERMINAL {
            // This process has none; but if the step has one it came as standard input.
            let stdin = std::io::stdin();
            let has_one = self.procfs.proc().terminal(tid)? != 0 && rustix::termios::isatty(stdin.as_fd());
            if !has_one {
                return Err(error(libc::ENXIO));
            }
            return Ok(rustix::fs::open("/proc/self/fd/0", flags, Mode::empty())?);
        }
        let path = DEVICES.iter().find(|(_, major, minor)| (*major, *minor) == numbers).map(|(path, _, _)| *path);
        let fd = rustix::fs::open(path.ok_or_else(|| error(libc::EPERM))?, flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&fd)?;
        let same = Device::new(FileType::from_raw_mode(stat.st_mode), stat.st_rdev) == Some(device);
        if same { Ok(fd) } else { Err(error(libc::ENXIO)) }
    }
}
