//! Tar headers, written exactly: a ustar header, preceded by PAX records only where ustar cannot say it (SPEC C6.10).
//!
//! What decides bytes is written down here once and pinned by golden tests: numeric ids and no names, `0`-padded octal
//! numbers, records in a fixed order, the name of the PAX member fixed, every other field of it zero.

use std::borrow::Cow;
use std::os::unix::ffi::OsStrExt;

use super::entry::{Entry, EntryKind, OPAQUE_NAME, Timestamp, WHITEOUT_PREFIX};

/// Size of a header and unit of everything in a tar.
pub const BLOCK: usize = 512;
/// The largest value of an eleven-digit octal field.
const MAX_OCTAL_11: u64 = 0o77_777_777_777;
/// The largest value of a seven-digit octal field.
const MAX_OCTAL_7: u64 = 0o7_777_777;
/// The name Python's and GNU's writers made known; tools that cannot read PAX show it harmlessly.
const PAX_NAME: &[u8] = b"././@PaxHeader";

/// Bytes that fill `size` up to whole blocks.
#[must_use]
pub fn padding(size: u64) -> usize {
    // The remainder is below 512.
    ((BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64) as usize
}

/// Appends the header blocks of `entry` (with its PAX member if it needs one) to `out`.
pub fn encode(entry: &Entry, out: &mut Vec<u8>) {
    let name = member_name(entry);
    let link = entry.link.as_os_str().as_bytes();
    let size = if entry.kind == EntryKind::File { entry.size } else { 0 };
    let mut records = Vec::new();

    let (prefix, short_name) = match split_name(&name) {
        Some(parts) if plain_text(&name) => parts,
        _ => {
            pax_record(&mut records, b"path", &name);
            (&b""[..], truncate(&name, 100))
        }
    };
    if link.len() > 100 || !plain_text(link) {
        pax_record(&mut records, b"linkpath", link);
    }
    if size > MAX_OCTAL_11 {
        pax_record(&mut records, b"size", size.to_string().as_bytes());
    }
    for (key, id) in [(&b"uid"[..], entry.uid), (&b"gid"[..], entry.gid)] {
        if u64::from(id) > MAX_OCTAL_7 {
            pax_record(&mut records, key, id.to_string().as_bytes());
        }
    }
    let seconds = u64::try_from(entry.mtime.secs).ok().filter(|s| *s <= MAX_OCTAL_11);
    if seconds.is_none() || entry.mtime.nanos != 0 {
        pax_record(&mut records, b"mtime", decimal_time(entry.mtime).as_bytes());
    }
    for (name, value) in &entry.xattrs {
        let mut key = b"SCHILY.xattr.".to_vec();
        for byte in name {
            // A record's key ends at the first `=`; GNU tar escapes it the same way.
            match byte {
                b'=' => key.extend_from_slice(b"%3D"),
                b'%' => key.extend_from_slice(b"%25"),
                _ => key.push(*byte),
            }
        }
        pax_record(&mut records, &key, value);
    }

    if !records.is_empty() {
        let mut header = Header::new(out, b'x', PAX_NAME, b"");
        header.octal(124, 11, records.len() as u64);
        header.finish();
        out.extend_from_slice(&records);
        out.resize(out.len() + padding(records.len() as u64), 0);
    }
    let type_flag = match entry.kind {
        EntryKind::File | EntryKind::Whiteout => b'0',
        EntryKind::Hardlink => b'1',
        EntryKind::Symlink => b'2',
        EntryKind::Char => b'3',
        EntryKind::Block => b'4',
        EntryKind::Dir => b'5',
        EntryKind::Fifo => b'6',
    };
    let mut header = Header::new(out, type_flag, short_name, prefix);
    header.octal(100, 7, u64::from(entry.mode & 0o7777));
    header.octal(108, 7, Some(u64::from(entry.uid)).filter(|id| *id <= MAX_OCTAL_7).unwrap_or(0));
    header.octal(116, 7, Some(u64::from(entry.gid)).filter(|id| *id <= MAX_OCTAL_7).unwrap_or(0));
    header.octal(124, 11, if size > MAX_OCTAL_11 { 0 } else { size });
    header.octal(136, 11, seconds.unwrap_or(0));
    header.bytes(157, 100, truncate(link, 100));
    if matches!(entry.kind, EntryKind::Char | EntryKind::Block) {
        // Linux numbers have 12 and 20 bits; seven octal digits hold 21.
        header.octal(329, 7, u64::from(entry.device.0) & MAX_OCTAL_7);
        header.octal(337, 7, u64::from(entry.device.1) & MAX_OCTAL_7);
    }
    header.finish();
}

/// The name as it stands in the tar: directories end with a slash, deletions are called `.wh.<name>`.
#[must_use]
pub fn member_name(entry: &Entry) -> Cow<'_, [u8]> {
    let path = entry.path.as_os_str().as_bytes();
    match entry.kind {
        EntryKind::Dir if path.is_empty() => b"./".into(),
        EntryKind::Dir => [path, b"/"].concat().into(),
        EntryKind::Whiteout => {
            let base = path.iter().rposition(|b| *b == b'/').map_or(0, |slash| slash + 1);
            [&path[..base], WHITEOUT_PREFIX, &path[base..]].concat().into()
        }
        _ => path.into(),
    }
}

/// The entry that makes `dir` opaque in a tar.
#[must_use]
pub fn opaque_marker(dir: &Entry) -> Entry {
    Entry::new(dir.path.join(std::ffi::OsStr::from_bytes(OPAQUE_NAME)), EntryKind::File)
}

/// ASCII needs no PAX record. Nor do names that are not UTF-8, which PAX cannot spell: every reader takes their raw bytes.
fn plain_text(name: &[u8]) -> bool {
    name.is_ascii() || std::str::from_utf8(name).is_err()
}

fn truncate(name: &[u8], limit: usize) -> &[u8] {
    &name[..name.len().min(limit)]
}

/// Splits a name into ustar's `prefix` and `name` fields, or `None` if it does not fit.
fn split_name(name: &[u8]) -> Option<(&[u8], &[u8])> {
    if name.len() <= 100 {
        return Some((b"", name));
    }
    let body = name.strip_suffix(b"/").unwrap_or(name);
    let slash = body[..body.len().min(156)].iter().rposition(|b| *b == b'/')?;
    let rest = &name[slash + 1..];
    (slash > 0 && rest.len() <= 100).then_some((&name[..slash], rest))
}

/// Appends `LENGTH KEY=VALUE\n`, where LENGTH counts itself.
fn pax_record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    out.extend_from_slice(length.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// Seconds with as many decimals as there are.
fn decimal_time(time: Timestamp) -> String {
    if time.nanos == 0 {
        return time.secs.to_string();
    }
    // -0.25 s is kept as -1 s + 0.75 s.
    let (sign, secs, nanos) = if time.secs < 0 {
        ("-", time.secs.unsigned_abs() - 1, 1_000_000_000 - time.nanos)
    } else {
        ("", time.secs.unsigned_abs(), time.nanos)
    };
    format!("{sign}{secs}.{}", format!("{nanos:09}").trim_end_matches('0'))
}

/// One header block under construction, where it will stay.
struct Header<'a>(&'a mut [u8]);

impl<'a> Header<'a> {
    fn new(out: &'a mut Vec<u8>, type_flag: u8, name: &[u8], prefix: &[u8]) -> Self {
        let start = out.len();
        out.resize(start + BLOCK, 0);
        let mut header = Self(&mut out[start..]);
        header.bytes(0, 100, name);
        for (at, digits) in [(100, 7), (108, 7), (116, 7), (124, 11), (136, 11)] {
            header.octal(at, digits, 0);
        }
        header.0[156] = type_flag;
        header.bytes(257, 8, b"ustar\x0000");
        header.bytes(345, 155, prefix);
        header
    }

    fn bytes(&mut self, at: usize, limit: usize, value: &[u8]) {
        debug_assert!(value.len() <= limit);
        self.0[at..at + value.len()].copy_from_slice(value);
    }

    /// `digits` octal digits; the byte after them stays NUL.
    fn octal(&mut self, at: usize, digits: usize, mut value: u64) {
        for position in (at..at + digits).rev() {
            self.0[position] = b'0' + (value & 7) as u8;
            value >>= 3;
        }
    }

    fn finish(mut self) {
        self.0[148..156].fill(b' ');
        // 512 bytes make less than 2^17.
        let sum: u32 = self.0.iter().map(|b| u32::from(*b)).sum();
        self.octal(148, 6, u64::from(sum));
        self.0[154] = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(entry: &Entry) -> Vec<u8> {
        let mut out = Vec::new();
        encode(entry, &mut out);
        out
    }

    #[test]
    fn c6_10_ordinary_entries_need_one_block() {
        let mut entry = Entry::file("usr/bin/tool", 0o4755, 10);
        entry.mtime = Timestamp::seconds(1_700_000_000);
        (entry.uid, entry.gid) = (1000, 65_534);
        let block = encoded(&entry);
        assert_eq!(block.len(), BLOCK);
        assert_eq!(&block[..13], b"usr/bin/tool\0");
        assert_eq!(&block[100..108], b"0004755\0");
        assert_eq!(&block[108..124], b"0001750\x000177776\0");
        assert_eq!(&block[265..329], [0; 64], "no user or group names");
        // A long name with a fitting prefix is still plain ustar.
        let long = format!("{}/{}", "d".repeat(150), "f".repeat(99));
        assert_eq!(encoded(&Entry::file(long, 0o644, 0)).len(), BLOCK);
    }

    #[test]
    fn c6_10_pax_only_where_needed() {
        let pax = |entry: &Entry| {
            let bytes = encoded(entry);
            assert_eq!(bytes[156], b'x');
            let size = usize::from_str_radix(std::str::from_utf8(&bytes[124..135]).expect("digits"), 8).expect("octal");
            String::from_utf8_lossy(&bytes[BLOCK..BLOCK + size]).into_owned()
        };
        assert_eq!(pax(&Entry::file("ü", 0o644, 0)), "11 path=ü\n");
        assert_eq!(pax(&Entry::symlink("l", "t".repeat(101))), format!("115 linkpath={}\n", "t".repeat(101)));
        assert_eq!(pax(&Entry::file("big", 0o644, 1 << 33)), "19 size=8589934592\n");
        let mut entry = Entry::file("f", 0o644, 0);
        entry.mtime = Timestamp { secs: 7, nanos: 120_000_000 };
        assert_eq!(pax(&entry), "14 mtime=7.12\n");
        entry.mtime = Timestamp { secs: -1, nanos: 750_000_000 };
        assert_eq!(pax(&entry), "15 mtime=-0.25\n");
        entry.mtime = Timestamp::default();
        entry.uid = 3_000_000;
        entry.xattrs.insert(b"user.a=b".to_vec(), b"x\0y".to_vec());
        assert_eq!(pax(&entry), "15 uid=3000000\n31 SCHILY.xattr.user.a%3Db=x\0y\n");
    }

    #[test]
    fn pax_lengths_count_themselves() {
        for value in 80..120 {
            let mut out = Vec::new();
            pax_record(&mut out, b"k", &vec![b'v'; value]);
            let text = String::from_utf8(out).expect("ASCII");
            let (length, _) = text.split_once(' ').expect("a space");
            assert_eq!(length.parse::<usize>().expect("a number"), text.len());
        }
    }

    #[test]
    fn whiteouts_and_directories_are_named() {
        assert_eq!(*member_name(&Entry::whiteout("a/b")), *b"a/.wh.b");
        assert_eq!(*member_name(&Entry::whiteout("b")), *b".wh.b");
        assert_eq!(*member_name(&Entry::dir("a", 0o755)), *b"a/");
        assert_eq!(*member_name(&Entry::dir("", 0o755)), *b"./");
    }
}
