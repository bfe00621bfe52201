//! Records of what cannot have attributes, kept in an attribute of the directory that it is in.
//!
//! An entry has a hash of the name, not the name: some file systems have room for four kilobytes only, which are some 250 of them.
//! Whoever renames or removes a name sees to its entry ([`forget`], [`moved`]); of one that is stale nothing comes, since what is
//! made under the name is recorded anew. What a step writes into the attribute itself can only be about its own tree.

use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use super::access::accessible;
use super::{Device, Record, nearby};

/// The attribute of the directory.
pub(crate) const RECORDS: &str = "user.rbuild.beside";
/// The largest value that any file system keeps.
const MOST: usize = 65536;

/// Marks of an entry.
const OWNER: u8 = 0;
const CHAR: u8 = 1;
const BLOCK: u8 = 2;

/// What is recorded of the name at the end of `path`.
///
/// # Errors
/// The file system's.
pub(super) fn of_path(path: &Path) -> io::Result<Record> {
    let Some((dir, name)) = split(path) else { return Ok(Record::default()) };
    Ok(find(&read(dir)?, name).unwrap_or_default())
}

/// Records this of the name at the end of `path`; nothing, if it is the default.
///
/// # Errors
/// The file system's; `ENOSPC` where the directory has too many records already.
pub(super) fn write(path: &Path, record: Record) -> Result<(), Errno> {
    let Some((dir, name)) = split(path) else { return Err(Errno::OPNOTSUPP) };
    change(dir, name, record)
}

/// The name by which an open descriptor was opened; empty for what has none, as a pipe between two processes.
pub(super) fn name_of(fd: impl AsFd) -> Result<PathBuf, Errno> {
    let text = rustix::fs::readlink(nearby(&fd), Vec::new())?.into_bytes();
    let text = if text.starts_with(b"/") { text } else { Vec::new() };
    Ok(PathBuf::from(std::ffi::OsString::from_vec(text)))
}

/// A name is no more: nothing is recorded of it.
///
/// # Errors
/// The file system's.
pub(crate) fn forget(dir: impl AsFd, name: &OsStr) -> Result<(), Errno> {
    change(Path::new(&nearby(&dir)), name, Record::default())
}

/// A name has become another one; or, with `exchanged`, each the other.
///
/// # Errors
/// As [`write`].
pub(crate) fn moved(from: (impl AsFd, &OsStr), to: (impl AsFd, &OsStr), exchanged: bool) -> Result<(), Errno> {
    let (from_dir, to_dir) = (nearby(&from.0), nearby(&to.0));
    let (from_dir, to_dir) = (Path::new(&from_dir), Path::new(&to_dir));
    let record = find(&read(from_dir)?, from.1).unwrap_or_default();
    let other = if exchanged { find(&read(to_dir)?, to.1).unwrap_or_default() } else { Record::default() };
    change(from_dir, from.1, other)?;
    change(to_dir, to.1, record)
}

fn split(path: &Path) -> Option<(&Path, &OsStr)> {
    let dir = path.parent()?;
    Some((if dir.as_os_str().is_empty() { Path::new(".") } else { dir }, path.file_name()?))
}

fn read(dir: &Path) -> Result<Vec<u8>, Errno> {
    let mut small = [0; 512];
    match accessible(dir, || rustix::fs::getxattr(dir, RECORDS, &mut small[..])) {
        Ok(length) => return Ok(small[..length].to_vec()),
        Err(Errno::RANGE) => {}
        Err(Errno::NODATA | Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(e) => return Err(e),
    }
    let mut value = vec![0; MOST];
    let length = accessible(dir, || rustix::fs::getxattr(dir, RECORDS, &mut value[..]))?;
    value.truncate(length);
    Ok(value)
}

fn change(dir: &Path, name: &OsStr, record: Record) -> Result<(), Errno> {
    let old = read(dir)?;
    if old.is_empty() && record == Record::default() {
        return Ok(());
    }
    let new = with(&old, name, record);
    if new == old {
        return Ok(());
    }
    if new.is_empty() {
        return accessible(dir, || rustix::fs::removexattr(dir, RECORDS));
    }
    accessible(dir, || rustix::fs::setxattr(dir, RECORDS, &new, XattrFlags::empty()))
}

/// FNV-1a: names are no secrets, and whoever makes two that are alike confuses his own tree only.
fn hash(name: &OsStr) -> [u8; 8] {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    name.as_bytes().iter().fold(0xcbf2_9ce4_8422_2325, step).to_le_bytes()
}

fn find(records: &[u8], name: &OsStr) -> Option<Record> {
    let wanted = hash(name);
    entries(records).find(|(hash, _)| *hash == wanted).map(|(_, record)| record)
}

/// The records without those of a name, and with a new one of it if it says anything.
fn with(records: &[u8], name: &OsStr, record: Record) -> Vec<u8> {
    let own = hash(name);
    let mut out = Vec::with_capacity(records.len() + 24);
    let kept = entries(records).filter(|(hash, _)| *hash != own);
    let new = (record != Record::default()).then_some((own, record));
    for (hash, record) in kept.chain(new) {
        out.extend(hash);
        let mark = match record.device {
            None => OWNER,
            Some(device) if device.block => BLOCK,
            Some(_) => CHAR,
        };
        out.push(mark);
        out.extend(number(record.owner.0));
        out.extend(number(record.owner.1));
        if let Some(device) = record.device {
            out.extend(number(device.major));
            out.extend(number(device.minor));
        }
    }
    out
}

/// A number, seven bits to the byte.
fn number(mut value: u32) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push(u8::try_from(value & 0x7f).unwrap_or(0) | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).unwrap_or(0));
    out
}

/// Every entry up to the first that is none.
fn entries(records: &[u8]) -> impl Iterator<Item = ([u8; 8], Record)> {
    let mut rest = records;
    std::iter::from_fn(move || {
        let (hash, mut after) = rest.split_first_chunk::<8>()?;
        let mark = take_byte(&mut after)?;
        let owner = (take_number(&mut after)?, take_number(&mut after)?);
        let device = match mark {
            OWNER => None,
            CHAR | BLOCK => {
                let (major, minor) = (take_number(&mut after)?, take_number(&mut after)?);
                Some(Device { block: mark == BLOCK, major, minor })
            }
            _ => return None,
        };
        rest = after;
        Some((*hash, Record { owner, device, owner_bits: None }))
    })
}

fn take_byte(from: &mut &[u8]) -> Option<u8> {
    let (byte, rest) = from.split_first()?;
    *from = rest;
    Some(*byte)
}

fn take_number(from: &mut &[u8]) -> Option<u32> {
    let (mut value, mut shift) = (0u32, 0u32);
    loop {
        let byte = take_byte(from)?;
        value |= u32::from(byte & 0x7f).checked_shl(shift)?;
        shift += 7;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_kept_by_name() {
        let name = OsStr::new;
        let link = Record { owner: (33, 1000), ..Record::default() };
        let disk =
            Record { owner: (0, 6), device: Some(Device { block: true, major: 8, minor: 0x1_0001 }), owner_bits: None };
        let one = with(b"", name("link"), link);
        let two = with(&one, name("sda"), disk);
        assert_eq!((find(&two, name("link")), find(&two, name("sda"))), (Some(link), Some(disk)));
        assert_eq!(find(&two, name("other")), None);
        assert_eq!(with(&two, name("sda"), Record::default()), one, "the default is no record");
        assert_eq!(find(&with(&two, name("link"), disk), name("link")), Some(disk));
        assert!(with(&one, name("link"), Record::default()).is_empty());
        // What somebody else wrote there.
        assert_eq!(find(b"nonsense", name("link")), None);
        assert_eq!(find(&two[..two.len() - 1], name("link")), Some(link));
    }

    #[test]
    fn records_follow_names() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let name = OsStr::new;
        let fd = rustix::fs::open(dir.path(), rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).expect("opens");
        let record = Record { owner: (5, 6), ..Record::default() };
        match write(&dir.path().join("a"), record) {
            Ok(()) => {}
            // No attributes of users here (tmpfs before Linux 6.6).
            Err(e) => return assert_eq!(e, Errno::OPNOTSUPP),
        }
        moved((&fd, name("a")), (&fd, name("b")), false).expect("moves");
        let at = |name: &str| of_path(&dir.path().join(name)).expect("reads");
        assert_eq!((at("a"), at("b")), (Record::default(), record));
        write(&dir.path().join("c"), record).expect("records");
        moved((&fd, name("a")), (&fd, name("b")), true).expect("exchanges");
        forget(&fd, name("c")).expect("forgets");
        assert_eq!((at("a"), at("b"), at("c")), (record, Record::default(), Record::default()));
    }
}
