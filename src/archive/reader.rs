//! Reading tar archives of all dialects that layers and contexts come in: v7, ustar, PAX (local and global records), GNU long
//! names, GNU and PAX sparse files. Everything that an archive can make large is bounded.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use sha2::{Digest as _, Sha256};

use super::entry::{Entry, EntryKind, Timestamp};
use super::error::ArchiveError;
use super::header::{BLOCK, padding};
use super::input::{Input, TarStream};
use super::limits::UnpackLimits;
use crate::base::DiffId;

/// Longest PAX header or GNU long name (Go's reader has the same limit).
const MAX_SPECIAL: u64 = 1 << 20;
/// Longest list of global records, which stay in memory and are looked at for every member.
const MAX_GLOBAL: usize = 64 << 10;
/// Largest member; also keeps sums of sizes from overflowing.
const MAX_SIZE: u64 = 1 << 60;
/// Most pieces of a sparse file.
const MAX_PIECES: usize = 1 << 18;
/// Largest sparse file: its holes cost the archive nothing, but their digest costs us time.
const MAX_SPARSE: u64 = 1 << 40;

/// A member as it stands in the archive: names not yet checked, xattrs not yet filtered.
#[derive(Debug)]
pub(super) struct Member {
    /// `path` is empty here, see `name`.
    pub(super) entry: Entry,
    pub(super) name: Vec<u8>,
    pub(super) link: Vec<u8>,
    /// A type that is no file, which can only be skipped.
    pub(super) unknown: Option<u8>,
    /// Where its first header starts.
    pub(super) offset: u64,
    /// Where its content starts.
    pub(super) data_offset: u64,
}

/// A piece of a file's content.
pub(super) enum Piece<'a> {
    Data(&'a [u8]),
    /// That many zero bytes which the archive does not contain.
    Hole(u64),
}

impl Piece<'_> {
    /// Feeds what the piece stands for to `hasher`.
    pub(super) fn hash_into(&self, hasher: &mut Sha256) {
        match self {
            Self::Data(bytes) => hasher.update(bytes),
            Self::Hole(length) => {
                let zeros = [0_u8; 4096];
                let mut left = *length;
                while left > 0 {
                    let count = left.min(zeros.len() as u64);
                    hasher.update(&zeros[..usize::try_from(count).unwrap_or_default()]);
                    left -= count;
                }
            }
        }
    }
}

/// Reads members one after another.
pub(super) struct TarReader<'a> {
    input: Input<'a>,
    global: Records,
    /// Bytes of the current member's content still in the archive.
    left: u64,
    padding: u64,
    /// What is left of a sparse file: data (true) and holes, last first.
    pieces: Option<Vec<(bool, u64)>>,
    ended: bool,
    /// How many more there may be.
    entries: u64,
}

#[derive(Debug, Default, Clone)]
struct Records {
    values: BTreeMap<Vec<u8>, Vec<u8>>,
    /// `GNU.sparse.offset` and `GNU.sparse.numbytes` may repeat; their order is their meaning.
    sparse: Vec<u64>,
}

impl<'a> TarReader<'a> {
    pub(super) fn new(inner: &'a mut dyn TarStream, limit: UnpackLimits) -> Self {
        Self {
            input: Input::new(inner, limit.bytes),
            entries: limit.entries,
            global: Records::default(),
            left: 0,
            padding: 0,
            pieces: None,
            ended: false,
        }
    }

    /// The next member; the previous one's content is skipped if it was not read.
    pub(super) fn next(&mut self) -> Result<Option<Member>, ArchiveError> {
        if self.ended {
            return Ok(None);
        }
        self.input.skip(std::mem::take(&mut self.left) + std::mem::take(&mut self.padding))?;
        self.pieces = None;
        let offset = self.input.position();
        let mut local = Records::default();
        let (mut long_name, mut long_link) = (None, None);
        loop {
            let Some(block) = self.header_block()? else {
                self.ended = true;
                return Ok(None);
            };
            let size = number(&block[124..136]).ok_or_else(|| self.input.malformed("invalid size"))?;
            let size = u64::try_from(size).map_err(|_| self.input.malformed("negative size"))?;
            match block[156] {
                b'x' | b'X' => local = self.records(size)?,
                b'g' => {
                    let records = self.records(size)?;
                    self.global.values.extend(records.values);
                    if self.global.values.iter().map(|(k, v)| k.len() + v.len()).sum::<usize>() > MAX_GLOBAL {
                        return Err(self.input.malformed("too many global PAX records"));
                    }
                }
                b'L' => long_name = Some(self.special(size)?),
                b'K' => long_link = Some(self.special(size)?),
                _ => {
                    self.entries = self.entries.checked_sub(1).ok_or_else(|| {
                        self.input.malformed(
                            "the archive has more entries than the limit (unpack.max-entries in rbuild.toml)",
                        )
                    })?;
                    let mut records = self.global.clone();
                    records.values.extend(local.values);
                    records.sparse = local.sparse;
                    return self.member(&block, size, records, offset, long_name, long_link).map(Some);
                }
            }
        }
    }

    /// The next piece of the current member's content.
    pub(super) fn piece(&mut self) -> Result<Option<Piece<'_>>, ArchiveError> {
        let mut limit = self.left;
        if let Some(pieces) = &mut self.pieces {
            let Some(last) = pieces.last_mut() else { return Ok(None) };
            if !last.0 {
                let hole = last.1;
                pieces.pop();
                return Ok(Some(Piece::Hole(hole)));
            }
            limit = last.1;
        }
        if limit == 0 {
            return Ok(None);
        }
        let offset = self.input.position();
        let data = self.input.chunk(limit)?;
        if data.is_empty() {
            return Err(ArchiveError::Malformed { offset, reason: "unexpected end of the archive".into() });
        }
        self.left -= data.len() as u64;
        if let Some(pieces) = &mut self.pieces
            && let Some(last) = pieces.last_mut()
        {
            last.1 -= data.len() as u64;
            if last.1 == 0 {
                pieces.pop();
            }
        }
        Ok(Some(Piece::Data(data)))
    }

    /// Reads what is behind the last member, to the end of the stream; its digest, if somebody made one, and its length.
    pub(super) fn drain(mut self) -> Result<(Option<DiffId>, u64), ArchiveError> {
        self.input.drain()
    }

    /// A header whose checksum is right; `None` at the end (a zero block, or the end of the stream between two members).
    fn header_block(&mut self) -> Result<Option<[u8; BLOCK]>, ArchiveError> {
        let mut block = [0; BLOCK];
        match self.input.read_full(&mut block)? {
            0 => return Ok(None),
            BLOCK => {}
            _ => return Err(self.input.malformed("unexpected end of the archive")),
        }
        if block.iter().all(|b| *b == 0) {
            // One such block is an end, though there are two. A part of the second one says that the archive was cut off.
            let next = self.input.read_full(&mut block)?;
            return if next == 0 || next == BLOCK {
                Ok(None)
            } else {
                Err(self.input.malformed("unexpected end of the archive"))
            };
        }
        if checksum_fits(&block) { Ok(Some(block)) } else { Err(self.input.malformed("header checksum mismatch")) }
    }

    fn special(&mut self, size: u64) -> Result<Vec<u8>, ArchiveError> {
        if size > MAX_SPECIAL {
            return Err(self.input.malformed(format!("a header of {size} bytes")));
        }
        let mut out = vec![0; usize::try_from(size).unwrap_or_default()];
        if self.input.read_full(&mut out)? < out.len() {
            return Err(self.input.malformed("unexpected end of the archive"));
        }
        self.input.skip(padding(size) as u64)?;
        // GNU ends names with a NUL; PAX records do not end with one.
        Ok(out)
    }

    fn records(&mut self, size: u64) -> Result<Records, ArchiveError> {
        let bytes = self.special(size)?;
        parse_records(&bytes).ok_or_else(|| self.input.malformed("invalid PAX records"))
    }

    fn member(
        &mut self,
        block: &[u8; BLOCK],
        mut size: u64,
        mut records: Records,
        offset: u64,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Member, ArchiveError> {
        let bad = |reason: &str| ArchiveError::Malformed { offset, reason: reason.to_owned() };
        let flag = block[156];
        let mut name = long_name.map_or_else(|| header_name(block), |n| until_nul(&n).to_vec());
        let mut link = long_link.map_or_else(|| until_nul(&block[157..257]).to_vec(), |n| until_nul(&n).to_vec());
        let (mut kind, unknown) = match flag {
            b'0' | 0 | b'7' | b'S' => (EntryKind::File, None),
            b'1' => (EntryKind::Hardlink, None),
            b'2' => (EntryKind::Symlink, None),
            b'3' => (EntryKind::Char, None),
            b'4' => (EntryKind::Block, None),
            b'5' | b'D' => (EntryKind::Dir, None),
            b'6' => (EntryKind::Fifo, None),
            other => (EntryKind::File, Some(other)),
        };
        let small = |range: std::ops::Range<usize>| number(&block[range]).and_then(|n| u32::try_from(n).ok());
        let mut entry = Entry::new(PathBuf::new(), kind);
        // Some writers put the file type into the mode.
        entry.mode = number(&block[100..108]).ok_or_else(|| bad("invalid mode"))? as u32 & 0o7777;
        entry.uid = small(108..116).ok_or_else(|| bad("invalid user id"))?;
        entry.gid = small(116..124).ok_or_else(|| bad("invalid group id"))?;
        entry.mtime = Timestamp::seconds(number(&block[136..148]).ok_or_else(|| bad("invalid time"))?);
        if matches!(kind, EntryKind::Char | EntryKind::Block) {
            entry.device = (
                small(329..337).ok_or_else(|| bad("invalid device number"))?,
                small(337..345).ok_or_else(|| bad("invalid device number"))?,
            );
        }
        for (key, value) in &mut records.values {
            let text = || std::str::from_utf8(value).ok();
            match key.as_slice() {
                b"path" => name.clone_from(value),
                b"linkpath" => link.clone_from(value),
                b"size" => size = text().and_then(|t| t.parse().ok()).ok_or_else(|| bad("invalid size record"))?,
                b"uid" => entry.uid = text().and_then(|t| t.parse().ok()).ok_or_else(|| bad("invalid uid record"))?,
                b"gid" => entry.gid = text().and_then(|t| t.parse().ok()).ok_or_else(|| bad("invalid gid record"))?,
                b"mtime" => entry.mtime = text().and_then(parse_time).ok_or_else(|| bad("invalid mtime record"))?,
                key => {
                    if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                        entry.xattrs.insert(unescape(name), std::mem::take(value));
                    }
                }
            }
        }
        // Before POSIX a directory was a file whose name ends with a slash.
        if flag == 0 && name.ends_with(b"/") {
            kind = EntryKind::Dir;
            entry.kind = kind;
        }
        if size > MAX_SIZE {
            return Err(bad("a member larger than any file"));
        }
        let has_content = kind == EntryKind::File || flag == b'D' || unknown.is_some();
        let stored = if has_content { size } else { 0 };
        self.left = stored;
        self.padding = padding(stored) as u64;
        if kind == EntryKind::File {
            entry.size = stored;
            self.sparse(block, &records, &mut entry, &mut name).map_err(|error| match error {
                SparseError::Invalid => bad("invalid sparse file"),
                SparseError::Read(error) => error,
            })?;
        }
        if matches!(kind, EntryKind::Symlink | EntryKind::Hardlink) {
            entry.link = PathBuf::from(OsString::from_vec(link.clone()));
        }
        let data_offset = self.input.position();
        Ok(Member { entry, name, link, unknown, offset, data_offset })
    }

    /// Recognises the four ways to write a sparse file and sets up its pieces.
    fn sparse(
        &mut self,
        block: &[u8; BLOCK],
        records: &Records,
        entry: &mut Entry,
        name: &mut Vec<u8>,
    ) -> Result<(), SparseError> {
        let record = |key: &str| records.values.get(key.as_bytes()).and_then(|v| std::str::from_utf8(v).ok());
        let mut numbers = Vec::new();
        let real_size;
        if block[156] == b'S' {
            real_size = number(&block[483..495]).and_then(|n| u64::try_from(n).ok()).ok_or(SparseError::Invalid)?;
            old_gnu_pieces(&block[386..482], &mut numbers)?;
            let mut more = block[482] != 0;
            while more {
                let mut extension = [0; BLOCK];
                self.input.read_full(&mut extension).map_err(SparseError::Read)?;
                old_gnu_pieces(&extension[..504], &mut numbers)?;
                more = extension[504] != 0;
            }
        } else if record("GNU.sparse.major") == Some("1") {
            real_size = record("GNU.sparse.realsize").and_then(|t| t.parse().ok()).ok_or(SparseError::Invalid)?;
            let count = self.map_number()?;
            for _ in 0..count.saturating_mul(2) {
                numbers.push(self.map_number()?);
                if numbers.len() > 2 * MAX_PIECES {
                    return Err(SparseError::Invalid);
                }
            }
            // The map fills whole blocks.
            let fill = (padding(entry.size - self.left) as u64).min(self.left);
            self.input.skip(fill).map_err(SparseError::Read)?;
            self.left -= fill;
        } else if let Some(size) = record("GNU.sparse.size") {
            real_size = size.parse().map_err(|_| SparseError::Invalid)?;
            match record("GNU.sparse.map") {
                Some(map) => {
                    for text in map.split(',').filter(|t| !t.is_empty()) {
                        numbers.push(text.parse().map_err(|_| SparseError::Invalid)?);
                    }
                }
                None => numbers.clone_from(&records.sparse),
            }
        } else {
            return Ok(());
        }
        if let Some(real_name) = records.values.get(&b"GNU.sparse.name"[..]) {
            name.clone_from(real_name);
        }
        if real_size > MAX_SPARSE {
            return Err(SparseError::Invalid);
        }
        self.pieces = Some(pieces(&numbers, real_size, self.left).ok_or(SparseError::Invalid)?);
        entry.size = real_size;
        Ok(())
    }

    /// A decimal line of a PAX 1.0 sparse map, which stands before the data.
    fn map_number(&mut self) -> Result<u64, SparseError> {
        let mut value = 0_u64;
        for digits in 0..21 {
            if self.left == 0 {
                return Err(SparseError::Invalid);
            }
            let byte = *self.input.chunk(1).map_err(SparseError::Read)?.first().ok_or(SparseError::Invalid)?;
            self.left -= 1;
            match byte {
                b'\n' if digits > 0 => return Ok(value),
                b'0'..=b'9' => {
                    value = value
                        .checked_mul(10)
                        .and_then(|v| v.checked_add(u64::from(byte - b'0')))
                        .ok_or(SparseError::Invalid)?;
                }
                _ => return Err(SparseError::Invalid),
            }
        }
        Err(SparseError::Invalid)
    }
}

enum SparseError {
    Invalid,
    Read(ArchiveError),
}

fn old_gnu_pieces(fields: &[u8], numbers: &mut Vec<u64>) -> Result<(), SparseError> {
    for pair in fields.chunks_exact(24) {
        if pair[0] == 0 || numbers.len() > 2 * MAX_PIECES {
            break;
        }
        for field in pair.chunks(12) {
            numbers.push(number(field).and_then(|n| u64::try_from(n).ok()).ok_or(SparseError::Invalid)?);
        }
    }
    if numbers.len() > 2 * MAX_PIECES { Err(SparseError::Invalid) } else { Ok(()) }
}

/// Turns (offset, length) pairs into alternating holes and data, last first.
fn pieces(numbers: &[u64], real_size: u64, stored: u64) -> Option<Vec<(bool, u64)>> {
    let mut out = Vec::new();
    let (mut at, mut data) = (0_u64, 0_u64);
    for pair in numbers.chunks(2) {
        let [offset, length] = pair else { return None };
        let end = offset.checked_add(*length)?;
        if *offset < at || end > real_size {
            return None;
        }
        if *offset > at {
            out.push((false, offset - at));
        }
        if *length > 0 {
            out.push((true, *length));
        }
        data = data.checked_add(*length)?;
        at = end;
    }
    if at < real_size {
        out.push((false, real_size - at));
    }
    out.reverse();
    (data == stored).then_some(out)
}

/// Whether the block looks like a tar header: used to recognise archives, too.
pub(super) fn checksum_fits(block: &[u8; BLOCK]) -> bool {
    let Some(expected) = number(&block[148..156]) else { return false };
    let bytes = || block.iter().enumerate().map(|(at, b)| if (148..156).contains(&at) { b' ' } else { *b });
    // Some old writers summed signed bytes.
    let unsigned: i64 = bytes().map(i64::from).sum();
    let signed: i64 = bytes().map(|b| i64::from(b.cast_signed())).sum();
    expected == unsigned || expected == signed
}

/// An octal number, or a base-256 one (GNU).
fn number(field: &[u8]) -> Option<i64> {
    let first = *field.first()?;
    if first & 0x80 != 0 {
        // Two's complement; bit 7 of the first byte is the mark, bit 6 the sign.
        let negative = first & 0x40 != 0;
        let mut value: i64 = if negative { -1 } else { 0 };
        for (at, byte) in field.iter().enumerate() {
            let byte = if at == 0 { (byte & 0x7f) | if negative { 0x80 } else { 0 } } else { *byte };
            value = value.checked_mul(256)?.checked_add(i64::from(byte))?;
        }
        return Some(value);
    }
    let text = std::str::from_utf8(until_nul(field)).ok()?.trim_matches(' ');
    if text.is_empty() { Some(0) } else { i64::from_str_radix(text, 8).ok() }
}

fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|b| *b == 0).next().unwrap_or_default()
}

fn header_name(block: &[u8; BLOCK]) -> Vec<u8> {
    let name = until_nul(&block[..100]);
    // GNU's magic has no prefix field: times stand there.
    let prefix = if &block[257..263] == b"ustar\0" { until_nul(&block[345..500]) } else { b"" };
    if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
}

fn parse_records(mut bytes: &[u8]) -> Option<Records> {
    let mut out = Records::default();
    while !bytes.is_empty() {
        let space = bytes.iter().position(|b| *b == b' ')?;
        let length: usize = std::str::from_utf8(&bytes[..space]).ok()?.parse().ok()?;
        let (record, rest) = bytes.split_at_checked(length)?;
        bytes = rest;
        let body = record.get(space + 1..)?.strip_suffix(b"\n")?;
        let equals = body.iter().position(|b| *b == b'=')?;
        let (key, value) = (&body[..equals], &body[equals + 1..]);
        match key {
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                // Offsets and lengths alternate.
                if (key == b"GNU.sparse.offset") != out.sparse.len().is_multiple_of(2) {
                    return None;
                }
                out.sparse.push(std::str::from_utf8(value).ok()?.parse().ok()?);
            }
            _ if value.is_empty() => {
                out.values.remove(key);
            }
            _ => {
                out.values.insert(key.to_vec(), value.to_vec());
            }
        }
    }
    Some(out)
}

/// `secs[.fraction]`, rounded towards minus infinity to nanoseconds.
fn parse_time(text: &str) -> Option<Timestamp> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let negative = whole.starts_with('-');
    let secs: i64 = if whole == "-" { 0 } else { whole.parse().ok()? };
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let nanos: u32 = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    if negative && nanos > 0 {
        return Some(Timestamp { secs: secs.checked_sub(1)?, nanos: 1_000_000_000 - nanos });
    }
    Some(Timestamp { secs, nanos })
}

/// Undoes GNU tar's escaping of `=` and `%` in attribute names.
fn unescape(name: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((first, tail)) = rest.split_first() {
        if let Some(tail) = rest.strip_prefix(b"%3D") {
            out.push(b'=');
            rest = tail;
        } else if let Some(tail) = rest.strip_prefix(b"%25") {
            out.push(b'%');
            rest = tail;
        } else {
            out.push(*first);
            rest = tail;
        }
    }
    out
}
