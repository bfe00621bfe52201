//! Modes that keep the owner out, for who has no capabilities: the file has one that does not, and what the owner may do in truth
//! is recorded ([`Record::owner_bits`]). All other bits are the file's own, so that what the kernel changes of them is right.
//!
//! That a file is open for a moment only ([`super::access`]) would not do here: several threads read one tree, and one of them would
//! find the mode of that moment.

use std::os::fd::AsFd;

use rustix::fs::{FileType, Mode};
use rustix::io::Errno;

use super::{OWNER_BITS, OWNER_SHIFT, Record, by_descriptor, is_plain, without_privileges};

/// Permission bits and set-id bits.
const BITS: u32 = 0o7777;

/// The mode that a file has whose mode is to be this one: its owner can read it, and execute it if anybody can; a directory he can
/// change too. Files that only cannot be written to stay as they are: there are many, and nobody writes to them but in passing.
fn open_to_owner(kind: FileType, mode: u32) -> u32 {
    match kind {
        FileType::Directory => mode | 0o700,
        FileType::RegularFile => {
            let wanted = if mode & 0o111 == 0 { 0o400 } else { 0o500 };
            if mode & wanted == wanted { mode } else { mode | wanted | 0o200 }
        }
        _ => mode,
    }
}

/// Changes the mode of what a descriptor names, no link, as root would: whatever it is, this user can go on using it.
///
/// # Errors
/// The file system's.
pub fn set_mode(fd: impl AsFd, mode: u32) -> Result<(), Errno> {
    let (path, mode) = (by_descriptor(&fd), mode & BITS);
    let change = |mode| rustix::fs::chmod(&path, Mode::from_raw_mode(mode));
    if !without_privileges() {
        return change(mode);
    }
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode);
    if !is_plain(kind) {
        return change(mode);
    }
    let open = open_to_owner(kind, mode);
    let owner_bits = (open != mode).then_some(owner_bits(mode));
    change(open)?;
    let old = Record::of_fd(&fd, kind).map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
    if old.owner_bits == owner_bits {
        return Ok(());
    }
    match (Record { owner_bits, ..old }).write(&fd, kind) {
        // Nothing that layers are made from: a file in memory, an old tmpfs.
        Err(Errno::OPNOTSUPP | Errno::PERM) => change(mode),
        other => other,
    }
}

/// Records what has just been made with the mode that was asked for. One that keeps its owner out is recorded too: the descriptor that
/// the file was made with does not mind it, the next one would.
///
/// # Errors
/// As [`Record::write`].
pub(crate) fn record_new(fd: impl AsFd, mut record: Record) -> Result<(), Errno> {
    let mode = rustix::fs::fstat(&fd)?.st_mode;
    let (kind, bits) = (FileType::from_raw_mode(mode), mode & BITS);
    let open = open_to_owner(kind, bits);
    if open != bits {
        rustix::fs::chmod(by_descriptor(&fd), Mode::from_raw_mode(open))?;
        record.owner_bits = Some(owner_bits(bits));
    }
    if record == Record::default() { Ok(()) } else { record.write(&fd, kind) }
}

/// Takes a mode that another call than a change of mode has given a file, as that of an access list does.
///
/// # Errors
/// As [`set_mode`].
pub(crate) fn settle_mode(fd: impl AsFd) -> Result<(), Errno> {
    if !without_privileges() {
        return Ok(());
    }
    let mode = rustix::fs::fstat(&fd)?.st_mode;
    set_mode(fd, mode)
}

fn owner_bits(mode: u32) -> u32 {
    (mode & OWNER_BITS) >> OWNER_SHIFT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_that_keep_nobody_out_stay() {
        let file = |mode| open_to_owner(FileType::RegularFile, mode);
        for mode in [0o644, 0o444, 0o400, 0o555, 0o4755, 0o500] {
            assert_eq!(file(mode), mode);
        }
        assert_eq!((file(0), file(0o111), file(0o4111), file(0o040)), (0o600, 0o711, 0o4711, 0o640));
        assert_eq!(file(0o655), 0o755, "root may execute what anybody may");
        let directory = |mode| open_to_owner(FileType::Directory, mode);
        assert_eq!(
            (directory(0o755), directory(0o555), directory(0o1311), directory(0)),
            (0o755, 0o755, 0o1711, 0o700)
        );
        assert_eq!(open_to_owner(FileType::Fifo, 0), 0);
    }
}
