//! Owners that files cannot have, and devices that cannot be made, recorded beside what stands for them.
//!
//! For files and directories the attribute and its form are those other rootless tools use: `user.rootlesscontainers`, a
//! protobuf message with the user as field 1 and the group as field 2, zeros left out. Root has no record.
//!
//! Links, pipes, sockets and devices cannot have attributes of users. They can have one that means nothing to them, file
//! capabilities, which root of a user namespace may set, and which renaming, linking and an overlay's copy-up keep: their
//! four words hold a mark, the user, the group and the number of the device. A device is a socket with such a record: it
//! cannot be opened, as the device could not be.
//!
//! Who has no privileges at all can set neither ([`without_privileges`]): there the record of what is no file is kept in the directory
//! it is in ([`beside`]). A mode that keeps the owner out is recorded too, as a third field of the attribute, and the file has one that
//! does not ([`modes`]). What else cannot be written to, as a file of mode 0444, is opened to its owner while its record is changed.

pub(crate) mod access;
pub(crate) mod beside;
mod modes;

use access::accessible;
pub use access::with_open;
pub use modes::set_mode;
pub(crate) use modes::{record_new, settle_mode};

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FileType, XattrFlags};
use rustix::io::Errno;
use rustix::path::Arg;

/// The attribute of files and directories.
pub const RECORD: &str = "user.rootlesscontainers";

/// The attribute that keeps file capabilities for who may not set them, in the kernel's form.
pub(crate) const CAPABILITY: &str = "user.rbuild.capability";

/// The kernel's attribute of an access list, which sets the mode too.
pub(crate) const ACCESS_LIST: &[u8] = b"system.posix_acl_access";

/// The kernel's attribute of file capabilities.
const FILE_CAPABILITIES: &[u8] = b"security.capability";

/// The attribute that keeps one of a file's: another one for file capabilities that may not be set.
#[must_use]
pub fn kept_as(name: &[u8]) -> &[u8] {
    if without_privileges() && name == FILE_CAPABILITIES { CAPABILITY.as_bytes() } else { name }
}

/// What an attribute keeps: the reverse of [`kept_as`].
#[must_use]
pub fn shown_as(name: &[u8]) -> &[u8] {
    if without_privileges() && name == CAPABILITY.as_bytes() { FILE_CAPABILITIES } else { name }
}

/// Whether an attribute is a record of ours.
pub(crate) fn is_record(name: &[u8]) -> bool {
    name == RECORD.as_bytes() || name == beside::RECORDS.as_bytes()
}

/// The attribute of everything else.
const SPECIAL_RECORD: &str = "security.capability";
/// `VFS_CAP_REVISION_2`: the form that a user namespace shows of its own capabilities.
const REVISION: u32 = 0x0200_0000;
/// Our mark; the lowest byte says what is recorded.
const MARK: u32 = 0x7262_6400;
const MARK_OWNER: u32 = MARK;
const MARK_CHAR: u32 = MARK | 1;
const MARK_BLOCK: u32 = MARK | 2;

/// Tags of the message: its fields are numbers.
const UID: u8 = 0x08;
const GID: u8 = 0x10;
/// Ours: there where a mode is recorded, also as zero.
const BITS: u8 = 0x18;

/// The owner's bits in a mode.
const OWNER_BITS: u32 = 0o700;
const OWNER_SHIFT: u32 = 6;

/// A device that could not be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    /// A block device, else a character device.
    pub block: bool,
    /// Major number, 12 bits.
    pub major: u32,
    /// Minor number, 20 bits.
    pub minor: u32,
}

impl Device {
    /// From a type and a number as the kernel has them; `None` for what is no device.
    #[must_use]
    pub fn new(kind: FileType, number: u64) -> Option<Self> {
        let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
        match kind {
            FileType::BlockDevice => Some(Self { block: true, major, minor }),
            FileType::CharacterDevice => Some(Self { block: false, major, minor }),
            _ => None,
        }
    }

    /// Its type.
    #[must_use]
    pub fn kind(self) -> FileType {
        if self.block { FileType::BlockDevice } else { FileType::CharacterDevice }
    }

    /// Its number as the kernel has it.
    #[must_use]
    pub fn number(self) -> u64 {
        rustix::fs::makedev(self.major, self.minor)
    }
}

/// What is recorded of one file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Record {
    /// User and group.
    pub owner: (u32, u32),
    /// What a socket stands for.
    pub device: Option<Device>,
    /// What the owner of a file or directory may do, three bits, where its own mode says more.
    pub owner_bits: Option<u32>,
}

impl Record {
    /// The record of what is at `path` itself, which is of this kind; nothing is root's and no device.
    ///
    /// # Errors
    /// The file system's.
    pub fn of_path(path: &Path, kind: FileType) -> io::Result<Self> {
        if without_privileges() && !is_plain(kind) {
            return beside::of_path(path);
        }
        let mut value = [0; 32];
        let length = accessible(path, || rustix::fs::lgetxattr(path, attribute(kind), &mut value[..]));
        Self::found(length.map(|n| &value[..n]), kind)
    }

    /// The record of an open file, or of what a descriptor names.
    ///
    /// # Errors
    /// The file system's.
    pub fn of_fd(fd: impl AsFd, kind: FileType) -> io::Result<Self> {
        if without_privileges() && !is_plain(kind) {
            return beside::of_path(&beside::name_of(fd)?);
        }
        let (mut value, path) = ([0; 32], nearby(&fd));
        let length = accessible(&path, || rustix::fs::getxattr(&path, attribute(kind), &mut value[..]));
        Self::found(length.map(|n| &value[..n]), kind)
    }

    /// Whether anything may be recorded of what a descriptor names, whatever it is: cheaper than to ask what it is first.
    pub(crate) fn may_be_of_fd(fd: impl AsFd) -> bool {
        Self::may_be_through(nearby(&fd))
    }

    /// The same of a name, links followed.
    pub(crate) fn may_be_through(path: impl Arg) -> bool {
        let mut names = [0; 256];
        match rustix::fs::listxattr(path, &mut names[..]) {
            Ok(length) => {
                let mut names = names[..length].split(|b| *b == 0);
                names.any(|name| name == RECORD.as_bytes() || name == SPECIAL_RECORD.as_bytes())
            }
            Err(Errno::OPNOTSUPP) => false,
            // More names than that, or something that the look itself will tell.
            Err(_) => true,
        }
    }

    /// The mode of a file whose own is `mode`; bits of its type are kept.
    #[must_use]
    pub fn mode(self, mode: u32) -> u32 {
        self.owner_bits.map_or(mode, |bits| mode & !OWNER_BITS | bits << OWNER_SHIFT)
    }

    /// Records this of what a descriptor names.
    ///
    /// # Errors
    /// `EPERM` or `EOPNOTSUPP` where it cannot be recorded.
    pub fn write(self, fd: impl AsFd, kind: FileType) -> Result<(), Errno> {
        if without_privileges() && !is_plain(kind) {
            return beside::write(&beside::name_of(fd)?, self);
        }
        let (path, name) = (nearby(&fd), attribute(kind));
        if self == Self::default() {
            return match accessible(&path, || rustix::fs::removexattr(&path, name)) {
                // Nothing was recorded, or can be.
                Err(Errno::NODATA | Errno::PERM | Errno::OPNOTSUPP) => Ok(()),
                other => other,
            };
        }
        let value = if is_plain(kind) { self.encode() } else { self.encode_special().to_vec() };
        accessible(&path, || rustix::fs::setxattr(&path, name, &value, XattrFlags::empty()))
    }

    fn found(value: Result<&[u8], Errno>, kind: FileType) -> io::Result<Self> {
        match value {
            Ok(value) if is_plain(kind) => Ok(Self::decode(value).unwrap_or_default()),
            Ok(value) => {
                let mut record = Self::decode_special(value).unwrap_or_default();
                record.device = record.device.filter(|_| kind == FileType::Socket);
                Ok(record)
            }
            Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::PERM | Errno::RANGE) => Ok(Self::default()),
            Err(e) => Err(e.into()),
        }
    }

    fn encode_special(self) -> [u8; 20] {
        let (mark, number) = match self.device {
            None => (MARK_OWNER, 0),
            Some(d) => (if d.block { MARK_BLOCK } else { MARK_CHAR }, (d.major & 0xfff) << 20 | d.minor & 0xf_ffff),
        };
        let mut out = [0; 20];
        let words = [REVISION, mark, self.owner.0, self.owner.1, number];
        for (to, word) in out.chunks_exact_mut(4).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        out
    }

    fn decode_special(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; 20] = bytes.try_into().ok()?;
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let device = |block| Some(Device { block, major: word(16) >> 20, minor: word(16) & 0xf_ffff });
        let device = match word(4) {
            MARK_OWNER => None,
            MARK_CHAR => device(false),
            MARK_BLOCK => device(true),
            _ => return None,
        };
        Some(Self { owner: (word(8), word(12)), device, owner_bits: None })
    }

    /// As a message of a file or directory.
    fn encode(self) -> Vec<u8> {
        let mut out = Vec::new();
        let (uid, gid) = (Some(self.owner.0).filter(|id| *id != 0), Some(self.owner.1).filter(|id| *id != 0));
        for (tag, value) in [(UID, uid), (GID, gid), (BITS, self.owner_bits)] {
            let Some(mut value) = value else { continue };
            out.push(tag);
            while value >= 0x80 {
                out.push(u8::try_from(value & 0x7f).unwrap_or(0) | 0x80);
                value >>= 7;
            }
            out.push(u8::try_from(value).unwrap_or(0));
        }
        out
    }

    /// From such a message; `None` if it is none.
    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut found = Self::default();
        let mut rest = bytes.iter();
        while let Some(tag) = rest.next() {
            let (mut value, mut shift) = (0u32, 0u32);
            loop {
                let byte = *rest.next()?;
                value |= u32::from(byte & 0x7f).checked_shl(shift)?;
                shift += 7;
                if byte & 0x80 == 0 {
                    break;
                }
            }
            match *tag {
                UID => found.owner.0 = value,
                GID => found.owner.1 = value,
                BITS => found.owner_bits = Some(value & 7),
                _ => return None,
            }
        }
        Some(found)
    }
}

/// What can have attributes of users.
fn is_plain(kind: FileType) -> bool {
    matches!(kind, FileType::RegularFile | FileType::Directory)
}

fn attribute(kind: FileType) -> &'static str {
    if is_plain(kind) { RECORD } else { SPECIAL_RECORD }
}

/// The name that leads to what a descriptor stands for: few calls take one that only says where something is.
pub(crate) fn by_descriptor(fd: &impl AsFd) -> String {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}

/// The same, for looks at attributes, where half of the time goes into the way there. Not for a process that was forked from one
/// that works [among descriptors](work_among_descriptors).
fn nearby(fd: &impl AsFd) -> String {
    if AMONG_DESCRIPTORS.load(Ordering::Relaxed) { fd.as_fd().as_raw_fd().to_string() } else { by_descriptor(fd) }
}

/// There are no capabilities, and no user namespace that gives any.
static WITHOUT_PRIVILEGES: AtomicBool = AtomicBool::new(false);

/// From now on this process records what it could only do with capabilities: owners of everything, and devices.
pub(crate) fn work_without_privileges() {
    WITHOUT_PRIVILEGES.store(true, Ordering::Relaxed);
}

/// Whether owners and devices are recorded because this process has no capabilities.
#[must_use]
pub fn without_privileges() -> bool {
    WITHOUT_PRIVILEGES.load(Ordering::Relaxed)
}

/// The working directory is `/proc/self/fd`.
static AMONG_DESCRIPTORS: AtomicBool = AtomicBool::new(false);

/// Makes `/proc/self/fd` the working directory of this process, which has no use for another and never changes it again, so
/// that records are found sooner.
pub(crate) fn work_among_descriptors() {
    if rustix::process::chdir("/proc/self/fd").is_ok() {
        AMONG_DESCRIPTORS.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_those_of_other_tools() {
        let owned = |uid, gid| Record { owner: (uid, gid), ..Record::default() };
        assert_eq!(owned(33, 44).encode(), [0x08, 0x21, 0x10, 0x2c]);
        assert!(Record::default().encode().is_empty());
        for (uid, gid) in [(0, 0), (1, 0), (0, 65534), (1000, 1000), (u32::MAX - 1, 300)] {
            for owner_bits in [None, Some(0), Some(5)] {
                let record = Record { owner_bits, ..owned(uid, gid) };
                assert_eq!(Record::decode(&record.encode()), Some(record));
            }
        }
        assert_eq!(Record::decode(&[0x08]), None);
        assert_eq!(Record::decode(&[0x99, 1]), None);
        assert_eq!(Record::decode(&[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]), None);
    }

    #[test]
    fn a_recorded_mode_differs_in_what_the_owner_may() {
        let record = Record { owner_bits: Some(1), ..Record::default() };
        assert_eq!(record.mode(0o104_711), 0o104_111);
        assert_eq!(Record::default().mode(0o104_711), 0o104_711);
    }

    #[test]
    fn records_of_what_cannot_have_attributes() {
        let null = Device::new(FileType::CharacterDevice, rustix::fs::makedev(1, 3));
        let disk = Device::new(FileType::BlockDevice, rustix::fs::makedev(0xfff, 0xf_ffff));
        assert_eq!(Device::new(FileType::Fifo, 0), None);
        for record in [
            Record { owner: (33, 44), ..Record::default() },
            Record { owner: (0, 0), device: null, ..Record::default() },
            Record { owner: (u32::MAX - 1, 5), device: disk, ..Record::default() },
        ] {
            assert_eq!(Record::decode_special(&record.encode_special()), Some(record));
        }
        // Capabilities that somebody set are no record.
        let mut capability = Record { owner: (1, 2), device: null, ..Record::default() }.encode_special();
        capability[4..8].copy_from_slice(&0x400_u32.to_le_bytes());
        assert_eq!(Record::decode_special(&capability), None);
        assert_eq!(Record::decode_special(b"short"), None);
        // And a pipe is no device, whatever it says.
        let value = Record { owner: (1, 2), device: null, ..Record::default() }.encode_special();
        let found = Record::found(Ok(&value), FileType::Fifo).expect("reads");
        assert_eq!(found, Record { owner: (1, 2), ..Record::default() });
    }
}
