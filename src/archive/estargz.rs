//! eStargz: a gzip layer that can be read lazily (SPEC C6.02).
//!
//! The content of each file begins a gzip member of its own, and so does every 4 MiB of a large one. A table of contents,
//! itself the last file of the tar, says where; the last 51 bytes say where the table is. Any gzip reader sees a tar with one
//! more file. The format is that of containerd's stargz snapshotter; no landmark files are added.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use base64::Engine as _;
use flate2::write::GzEncoder;
use flate2::{Compression, GzBuilder};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::error::ArchiveError;
use crate::base::digest::Hasher;
use crate::base::{DiffId, Digest};

/// Bytes of a file that are compressed together.
const CHUNK: u64 = 4 << 20;
/// The name of the table in the tar.
const TABLE: &str = "stargz.index.json";
/// The largest PAX header that is read.
const MAX_PAX: u64 = 8 << 20;

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EstargzSummary {
    /// Digest of the whole tar, the table included.
    pub diff_id: DiffId,
    /// Digest of the table.
    pub toc: Digest,
    /// Bytes of the whole tar.
    pub tar_size: u64,
}

#[derive(Serialize)]
struct Table {
    version: u32,
    entries: Vec<Row>,
}

#[derive(Serialize, Default, Clone)]
#[serde(rename_all = "camelCase")]
struct Row {
    name: String,
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "zero")]
    size: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    modtime: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    link_name: String,
    #[serde(skip_serializing_if = "zero")]
    mode: u64,
    #[serde(skip_serializing_if = "zero")]
    uid: u64,
    #[serde(skip_serializing_if = "zero")]
    gid: u64,
    #[serde(skip_serializing_if = "zero")]
    offset: u64,
    #[serde(skip_serializing_if = "zero")]
    dev_major: u64,
    #[serde(skip_serializing_if = "zero")]
    dev_minor: u64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    xattrs: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    digest: String,
    #[serde(skip_serializing_if = "zero")]
    chunk_offset: u64,
    #[serde(skip_serializing_if = "zero")]
    chunk_size: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    chunk_digest: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn zero(n: &u64) -> bool {
    *n == 0
}

/// Compresses a tar. `level` is gzip's, 0–9.
///
/// # Errors
/// What reading or writing says, and a tar that is none.
pub fn estargz(tar: impl Read, level: Option<i32>, out: impl Write) -> Result<EstargzSummary, ArchiveError> {
    let level =
        level.filter(|l| *l >= 0).and_then(|l| u32::try_from(l).ok()).map_or(Compression::new(6), Compression::new);
    let mut members =
        Members { out: Counted { out, bytes: 0 }, open: None, level, tar: Hasher::default(), tar_size: 0 };
    let rows = copy(tar, &mut members)?;
    members.close().map_err(ArchiveError::Sink)?;
    let place = members.out.bytes;
    let table = serde_json::to_vec_pretty(&Table { version: 1, entries: rows })
        .map_err(|e| ArchiveError::Sink(io::Error::other(e)))?;
    let write = |members: &mut Members<_>| -> io::Result<()> {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Regular);
        header.set_path(TABLE)?;
        header.set_size(table.len() as u64);
        header.set_mode(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_cksum();
        members.write_all(header.as_bytes())?;
        members.write_all(&table)?;
        members.write_all(&vec![0; padding(table.len() as u64) + 1024])?;
        members.close()?;
        members.out.write_all(&footer(place))?;
        members.out.flush()
    };
    write(&mut members).map_err(ArchiveError::Sink)?;
    Ok(EstargzSummary {
        diff_id: DiffId(members.tar.finish()),
        toc: Digest::sha256(&table),
        tar_size: members.tar_size,
    })
}

/// What the headers before an entry say about it.
#[derive(Default)]
struct Ahead {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    ids: (Option<u64>, Option<u64>),
    mtime: Option<i64>,
    xattrs: BTreeMap<String, String>,
}

/// Copies every block as it is, but for the end of the archive, and lists what passes.
fn copy<W: Write>(tar: impl Read, out: &mut Members<W>) -> Result<Vec<Row>, ArchiveError> {
    let mut archive = tar::Archive::new(tar);
    let mut rows = Vec::new();
    let mut ahead = Ahead::default();
    for entry in archive.entries().map_err(ArchiveError::Source)?.raw(true) {
        let mut entry = entry.map_err(ArchiveError::Source)?;
        let header = entry.header().clone();
        out.write_all(header.as_bytes()).map_err(ArchiveError::Sink)?;
        let size = header.entry_size().map_err(ArchiveError::Source)?;
        let kind = header.entry_type();
        if kind.is_pax_local_extensions()
            || kind.is_gnu_longname()
            || kind.is_gnu_longlink()
            || kind.is_pax_global_extensions()
        {
            let mut text = Vec::new();
            (&mut entry).take(MAX_PAX).read_to_end(&mut text).map_err(ArchiveError::Source)?;
            if text.len() as u64 != size {
                return Err(ArchiveError::Source(io::Error::other("a header of an entry is too large")));
            }
            out.write_all(&text).map_err(ArchiveError::Sink)?;
            out.pad(size).map_err(ArchiveError::Sink)?;
            ahead.take(kind, &text);
            continue;
        }
        let ahead = std::mem::take(&mut ahead);
        // Raw entries have the header's size; PAX may say another, for files of more than 8 GiB.
        if ahead.size.is_some_and(|real| real != size) {
            return Err(ArchiveError::Source(io::Error::other(
                "eStargz of a file of more than 8 GiB is not supported",
            )));
        }
        let row = ahead.row(&header);
        if row.kind == "reg" && size > 0 {
            file(&mut entry, row, size, out, &mut rows)?;
        } else {
            io::copy(&mut entry, out).map_err(ArchiveError::Sink)?;
            rows.push(Row { digest: if row.kind == "reg" { hex(&Sha256::digest(b"")) } else { String::new() }, ..row });
        }
        out.pad(size).map_err(ArchiveError::Sink)?;
    }
    Ok(rows)
}

/// A file's content, chunk by chunk.
fn file<W: Write>(
    entry: &mut impl Read,
    row: Row,
    size: u64,
    out: &mut Members<W>,
    rows: &mut Vec<Row>,
) -> Result<(), ArchiveError> {
    let first = rows.len();
    let mut whole = Sha256::new();
    let mut at = 0;
    let mut next = row.clone();
    while at < size {
        let length = CHUNK.min(size - at);
        out.close().map_err(ArchiveError::Sink)?;
        next.offset = out.out.bytes;
        next.chunk_offset = at;
        // As containerd writes it: the size of a chunk that reaches the end is left out.
        next.chunk_size = if size - at < CHUNK { 0 } else { length };
        let mut chunk = Vec::new();
        entry.by_ref().take(length).read_to_end(&mut chunk).map_err(ArchiveError::Source)?;
        if chunk.len() as u64 != length {
            return Err(ArchiveError::Source(io::ErrorKind::UnexpectedEof.into()));
        }
        whole.update(&chunk);
        next.chunk_digest = hex(&Sha256::digest(&chunk));
        out.write_all(&chunk).map_err(ArchiveError::Sink)?;
        rows.push(next);
        next = Row { name: row.name.clone(), kind: "chunk", ..Row::default() };
        at += length;
    }
    rows[first].digest = hex(&whole.finalize());
    Ok(())
}

impl Ahead {
    fn take(&mut self, kind: tar::EntryType, text: &[u8]) {
        let trimmed = || text.strip_suffix(b"\0").unwrap_or(text).to_vec();
        if kind.is_gnu_longname() {
            self.path = Some(trimmed());
        } else if kind.is_gnu_longlink() {
            self.link = Some(trimmed());
        } else if kind.is_pax_local_extensions() {
            for record in tar::PaxExtensions::new(text).flatten() {
                let (Ok(key), value) = (record.key(), record.value_bytes()) else { continue };
                let number = || std::str::from_utf8(value).ok().and_then(|v| v.parse::<u64>().ok());
                match key {
                    "path" => self.path = Some(value.to_vec()),
                    "linkpath" => self.link = Some(value.to_vec()),
                    "size" => self.size = number(),
                    "uid" => self.ids.0 = number(),
                    "gid" => self.ids.1 = number(),
                    "mtime" => {
                        let text = std::str::from_utf8(value).unwrap_or_default();
                        self.mtime = text.split('.').next().and_then(|s| s.parse().ok());
                    }
                    other => {
                        if let Some(name) = other.strip_prefix("SCHILY.xattr.") {
                            let value = base64::engine::general_purpose::STANDARD.encode(value);
                            self.xattrs.insert(name.to_owned(), value);
                        }
                    }
                }
            }
        }
    }

    fn row(self, header: &tar::Header) -> Row {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let kind = match header.entry_type() {
            tar::EntryType::Directory => "dir",
            tar::EntryType::Symlink => "symlink",
            tar::EntryType::Link => "hardlink",
            tar::EntryType::Char => "char",
            tar::EntryType::Block => "block",
            tar::EntryType::Fifo => "fifo",
            _ => "reg",
        };
        let mtime = self.mtime.or_else(|| i64::try_from(header.mtime().ok()?).ok()).unwrap_or_default();
        let modtime = if mtime == 0 {
            String::new()
        } else {
            jiff::Timestamp::from_second(mtime).map(|t| t.to_string()).unwrap_or_default()
        };
        let device = |n: io::Result<Option<u32>>| u64::from(n.ok().flatten().unwrap_or_default());
        Row {
            name: text(&self.path.unwrap_or_else(|| header.path_bytes().into_owned())),
            kind,
            size: if kind == "reg" { header.entry_size().unwrap_or_default() } else { 0 },
            modtime,
            link_name: if matches!(kind, "symlink" | "hardlink") {
                text(&self.link.or_else(|| Some(header.link_name_bytes()?.into_owned())).unwrap_or_default())
            } else {
                String::new()
            },
            mode: header.mode().unwrap_or_default().into(),
            uid: self.ids.0.or_else(|| header.uid().ok()).unwrap_or_default(),
            gid: self.ids.1.or_else(|| header.gid().ok()).unwrap_or_default(),
            dev_major: device(header.device_major()),
            dev_minor: device(header.device_minor()),
            xattrs: self.xattrs,
            ..Row::default()
        }
    }
}

fn hex(digest: &[u8]) -> String {
    use std::fmt::Write as _;
    digest.iter().fold("sha256:".to_owned(), |mut out, b| {
        let _ = write!(out, "{b:02x}");
        out
    })
}

fn padding(size: u64) -> usize {
    usize::try_from(size.next_multiple_of(512) - size).unwrap_or_default()
}

/// An empty gzip member whose header says where the table begins.
fn footer(place: u64) -> Vec<u8> {
    let mut out = vec![0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff, 26, 0, b'S', b'G', 22, 0];
    out.extend(format!("{place:016x}STARGZ").bytes());
    // An empty stored block, and the checksum and size of nothing.
    out.extend([1, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0]);
    out
}

/// gzip members, one after the other.
struct Members<W: Write> {
    out: Counted<W>,
    open: Option<GzEncoder<Vec<u8>>>,
    level: Compression,
    tar: Hasher,
    tar_size: u64,
}

impl<W: Write> Members<W> {
    fn close(&mut self) -> io::Result<()> {
        match self.open.take() {
            Some(member) => self.out.write_all(&member.finish()?),
            None => Ok(()),
        }
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        self.write_all(&[0; 512][..padding(size)])
    }
}

impl<W: Write> Write for Members<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        let level = self.level;
        let member =
            self.open.get_or_insert_with(|| GzBuilder::new().mtime(0).operating_system(255).write(Vec::new(), level));
        member.write_all(bytes)?;
        // A member of headers and padding may be long: what is compressed goes out.
        let done = std::mem::take(member.get_mut());
        self.out.write_all(&done)?;
        self.tar.update(bytes);
        self.tar_size += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Counted<W> {
    out: W,
    bytes: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.out.write(bytes)?;
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::{Entry, EntryKind, LayerOptions, LayerWriter};
    use crate::oci::media_type::Codec;

    fn plain(files: &[(&str, &[u8])]) -> Vec<u8> {
        let options = LayerOptions { codec: Codec::Uncompressed, ..LayerOptions::default() };
        let mut writer = LayerWriter::new(Vec::new(), &options).expect("starts");
        writer.append(&Entry::new("dir", EntryKind::Dir), None).expect("fits");
        for (name, content) in files {
            let mut entry = Entry::file(*name, 0o644, content.len() as u64);
            entry.xattrs.insert(b"user.x".to_vec(), b"y".to_vec());
            writer.append(&entry, Some(&mut &content[..])).expect("fits");
        }
        writer.finish().expect("ends").0
    }

    fn gunzip(bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        flate2::read::MultiGzDecoder::new(bytes).read_to_end(&mut out).expect("gzip");
        out
    }

    // SPEC C6.02
    #[test]
    fn c6_02_an_estargz_is_a_gzip_tar_with_a_table_that_is_true() {
        let large: Vec<u8> = (0..(5 << 20)).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let long = format!("dir/{}", "n".repeat(150));
        let tar = plain(&[("dir/large", &large), ("dir/empty", b""), (&long, b"hello")]);
        let mut blob = Vec::new();
        let summary = estargz(tar.as_slice(), None, &mut blob).expect("converts");
        // The whole is an ordinary layer.
        let whole = gunzip(&blob);
        assert_eq!(summary.diff_id, DiffId(Digest::sha256(&whole)));
        assert_eq!(summary.tar_size, whole.len() as u64);
        assert_eq!(&whole[..tar.len() - 1024], &tar[..tar.len() - 1024]);
        // The footer leads to the table, and the table to the chunks.
        let end = &blob[blob.len() - 51..];
        assert_eq!(&end[end.len() - 19..end.len() - 13], b"STARGZ");
        let place = u64::from_str_radix(std::str::from_utf8(&end[16..32]).expect("hex"), 16).expect("hex");
        let mut table = Vec::new();
        let mut last =
            tar::Archive::new(flate2::read::MultiGzDecoder::new(&blob[usize::try_from(place).expect("small")..]));
        let mut entry = last.entries().expect("a tar").next().expect("an entry").expect("read");
        assert_eq!(entry.path_bytes().as_ref(), TABLE.as_bytes());
        entry.read_to_end(&mut table).expect("read");
        assert_eq!(summary.toc, Digest::sha256(&table));
        let table: serde_json::Value = serde_json::from_slice(&table).expect("JSON");
        let rows = table["entries"].as_array().expect("a list");
        let names: Vec<_> = rows
            .iter()
            .map(|r| (r["name"].as_str().unwrap_or_default(), r["type"].as_str().unwrap_or_default()))
            .collect();
        assert_eq!(
            names,
            [("dir/", "dir"), ("dir/large", "reg"), ("dir/large", "chunk"), ("dir/empty", "reg"), (&long, "reg")]
        );
        let mut joined = Vec::new();
        for row in &rows[1..3] {
            let offset = usize::try_from(row["offset"].as_u64().expect("a number")).expect("small");
            let start = row["chunkOffset"].as_u64().unwrap_or_default();
            let length = row["chunkSize"].as_u64().unwrap_or(large.len() as u64 - start);
            let mut chunk = Vec::new();
            flate2::read::MultiGzDecoder::new(&blob[offset..]).take(length).read_to_end(&mut chunk).expect("read");
            assert_eq!(row["chunkDigest"], Digest::sha256(&chunk).as_str());
            joined.extend(chunk);
        }
        assert!(joined == large);
        assert_eq!(rows[1]["digest"], Digest::sha256(&large).as_str());
        assert_eq!(rows[4]["xattrs"]["user.x"], "eQ==");
        assert_eq!((rows[1]["size"].as_u64(), rows[1]["mode"].as_u64()), (Some(5 << 20), Some(0o644)));
    }

    #[test]
    fn the_same_tar_gives_the_same_blob() {
        let tar = plain(&[("a", b"x")]);
        let make = |level| {
            let mut blob = Vec::new();
            estargz(tar.as_slice(), level, &mut blob).expect("converts");
            blob
        };
        assert_eq!(make(None), make(Some(-1)));
        assert_ne!(make(Some(0)), make(Some(9)));
        assert!(estargz(&b"not a tar"[..], None, Vec::new()).is_err());
    }
}
