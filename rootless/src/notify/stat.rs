//! What `stat` and its like write, with owners and devices as they are recorded.

use std::io;
use std::os::fd::OwnedFd;

use crate::ownership::Record;
use crate::sys;

/// `struct stat` of 64-bit programs.
pub(super) fn native_bytes(fd: &OwnedFd, record: Record) -> io::Result<Vec<u8>> {
    sys::stat_bytes(fd, record)
}

/// `struct statx`, the same for all programs.
pub(super) fn statx_bytes(fd: &OwnedFd, mask: u32, record: Record) -> io::Result<Vec<u8>> {
    sys::statx_bytes(fd, mask, record)
}

/// `struct stat64` of 32-bit programs: i386's, which has no padding. That of 32-bit ARM is another one.
#[cfg(target_arch = "x86_64")]
pub(super) fn narrow_bytes(fd: &OwnedFd, record: Record) -> io::Result<Option<Vec<u8>>> {
    let stat = sys::recorded_stat(fd, record)?;
    // As the kernel does: what does not fit is cut, where the caller asked for 32 bits of it.
    let low = |value: u64| u32::try_from(value & 0xffff_ffff).unwrap_or(0).to_le_bytes();
    let signed = |value: i64| low(value.cast_unsigned());
    let mut out = Vec::with_capacity(96);
    out.extend(stat.st_dev.to_le_bytes());
    out.extend([0; 4]);
    out.extend(low(stat.st_ino));
    out.extend(stat.st_mode.to_le_bytes());
    out.extend(low(stat.st_nlink));
    out.extend(stat.st_uid.to_le_bytes());
    out.extend(stat.st_gid.to_le_bytes());
    out.extend(stat.st_rdev.to_le_bytes());
    out.extend([0; 4]);
    out.extend(stat.st_size.to_le_bytes());
    out.extend(signed(stat.st_blksize));
    out.extend(stat.st_blocks.to_le_bytes());
    for (seconds, nanos) in
        [(stat.st_atime, stat.st_atime_nsec), (stat.st_mtime, stat.st_mtime_nsec), (stat.st_ctime, stat.st_ctime_nsec)]
    {
        out.extend(signed(seconds));
        out.extend(signed(nanos));
    }
    out.extend(stat.st_ino.to_le_bytes());
    Ok(Some(out))
}

/// Not known here: the kernel's own answer.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn narrow_bytes(_fd: &OwnedFd, _record: Record) -> io::Result<Option<Vec<u8>>> {
    Ok(None)
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    #[test]
    fn the_structure_of_i386_has_its_size() {
        let file = OwnedFd::from(tempfile::tempfile().expect("makes a file"));
        let record = Record { owner: (33, 44), ..Record::default() };
        let bytes = narrow_bytes(&file, record).expect("inspects").expect("known");
        assert_eq!(bytes.len(), 96);
        assert_eq!(bytes[24..32], [33, 0, 0, 0, 44, 0, 0, 0]);
    }
}
