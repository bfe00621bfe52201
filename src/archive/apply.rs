//! Extracting a layer into a directory.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::entry::{Entry, EntryKind, OPAQUE_NAME, WHITEOUT_PREFIX, clean_path, xattr_allowed};
use super::error::ArchiveError;
use super::extract::{Extractor, Meaning};
use super::index::{IndexBuilder, TreeIndex};
use super::input::{Buffered, TarStream};
use super::limits::UnpackLimits;
use super::lowers::{Awaited, Lowers};
use super::notes::{Note, NoteKind, Notes};
use super::reader::{Piece, TarReader};
use crate::base::DiffId;

/// How a directory says what it deletes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// One layer: deletions are devices `c 0:0`, opaque directories carry `user.overlay.opaque=y`.
    Overlay,
    /// A full plain tree; deletions are carried out.
    Native,
}

/// Limits for [`apply`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApplyOptions {
    /// Refuse a tar stream beyond these.
    pub limits: UnpackLimits,
}

impl Default for ApplyOptions {
    fn default() -> Self {
        Self { limits: UnpackLimits::current() }
    }
}

/// What was extracted.
#[derive(Debug, Clone)]
pub struct ApplySummary {
    /// Digest of all bytes read, to the end of the stream.
    pub diff_id: DiffId,
    /// How many bytes.
    pub tar_size: u64,
    /// The layer's entries.
    pub index: TreeIndex,
    /// What could not be done exactly.
    pub notes: Vec<Note>,
}

/// Extracts the layer `tar` (not compressed, and hashed) into `target`.
///
/// With [`Dialect::Overlay`], `target` is an empty directory and `lowers` (bottom first) are those of the layers below: parents
/// that the tar does not name get their owner, mode and time from there (as does `target` itself), symlinked parents are
/// resolved through them, hard links to their files become copies. With [`Dialect::Native`] `target` is the parent's
/// whole tree and `lowers` is not used.
///
/// # Errors
/// A damaged or hostile archive, or the file system's.
pub fn apply(
    tar: &mut dyn TarStream,
    target: &Path,
    dialect: Dialect,
    lowers: &[PathBuf],
    options: &ApplyOptions,
) -> Result<ApplySummary, ArchiveError> {
    let (lowers, meaning) = match dialect {
        Dialect::Overlay => (Lowers::overlay(lowers), Meaning::Overlay),
        Dialect::Native => (Lowers::plain(None), Meaning::Native),
    };
    extract(Extractor::new(target, lowers, meaning, None)?, tar, options)
}

/// As [`apply`] with [`Dialect::Overlay`], for layers below that may not be complete yet: they are asked for when something of
/// them is needed, which is never for most layers but their last act, and never at all for one that describes its root.
///
/// # Errors
/// As [`apply`]; also when the layers below will never be complete.
pub fn apply_above(
    tar: &mut dyn TarStream,
    target: &Path,
    below: Awaited,
    options: &ApplyOptions,
) -> Result<ApplySummary, ArchiveError> {
    extract(Extractor::new(target, Lowers::awaited(below), Meaning::Overlay, None)?, tar, options)
}

fn extract(
    mut extractor: Extractor,
    tar: &mut dyn TarStream,
    options: &ApplyOptions,
) -> Result<ApplySummary, ArchiveError> {
    let mut reader = TarReader::new(tar, options.limits);
    extractor.run(&mut reader)?;
    let (diff_id, tar_size) = whole(reader)?;
    let (index, notes) = extractor.finish()?;
    Ok(ApplySummary { diff_id, tar_size, index, notes })
}

/// Reads to the end: the digest and the length of the whole stream.
fn whole(reader: TarReader<'_>) -> Result<(DiffId, u64), ArchiveError> {
    let (digest, size) = reader.drain()?;
    let digest = digest.ok_or_else(|| ArchiveError::Source(io::Error::other("the stream was not hashed")))?;
    Ok((digest, size))
}

/// Reads a layer without extracting it: its digest and its index.
///
/// Names are taken as they stand: symlinked parents cannot be resolved without a directory.
///
/// # Errors
/// A damaged archive.
pub fn index_layer(tar: &mut dyn Read, options: &ApplyOptions) -> Result<ApplySummary, ArchiveError> {
    let mut tar = Buffered::hashed(tar);
    let mut reader = TarReader::new(&mut tar, options.limits);
    let (mut index, mut notes) = (IndexBuilder::default(), Notes::default());
    while let Some(member) = reader.next()? {
        let shown = PathBuf::from(OsStr::from_bytes(&member.name));
        if let Some(flag) = member.unknown {
            notes.add(NoteKind::UnknownType(flag), &shown);
            continue;
        }
        let refused = || ArchiveError::refused(&shown, "the name leads out of the archive");
        let mut entry = member.entry;
        entry.path = clean_path(&member.name).ok_or_else(refused)?;
        entry.xattrs.retain(|name, _| xattr_allowed(name));
        let name = entry.path.file_name().unwrap_or_default().as_bytes();
        if name == OPAQUE_NAME {
            let dir = entry.path.parent().unwrap_or(Path::new(""));
            index.push_opaque(&Entry::dir(dir, 0o755), member.offset);
            continue;
        }
        if let Some(victim) = name.strip_prefix(WHITEOUT_PREFIX) {
            if !victim.starts_with(WHITEOUT_PREFIX) {
                let path = entry.path.with_file_name(OsStr::from_bytes(victim));
                index.push(&Entry::whiteout(path), None, member.offset, member.data_offset);
            }
            continue;
        }
        let digest = match entry.kind {
            EntryKind::File => Some(digest_content(&mut reader)?),
            EntryKind::Hardlink => {
                entry.link = clean_path(&member.link).ok_or_else(refused)?;
                None
            }
            EntryKind::Char if entry.device == (0, 0) => {
                notes.add(NoteKind::DeviceZero, &entry.path);
                continue;
            }
            _ => None,
        };
        index.push(&entry, digest, member.offset, member.data_offset);
    }
    let (diff_id, tar_size) = whole(reader)?;
    Ok(ApplySummary { diff_id, tar_size, index: index.finish(), notes: notes.into_list() })
}

/// The contents of the files of a layer at the paths in `wanted`, but for those of more than `largest` bytes.
///
/// # Errors
/// A damaged archive.
pub fn read_files(
    tar: &mut dyn Read,
    wanted: &BTreeSet<PathBuf>,
    largest: u64,
) -> Result<BTreeMap<PathBuf, Vec<u8>>, ArchiveError> {
    let mut tar = Buffered::new(tar);
    let mut reader = TarReader::new(&mut tar, UnpackLimits::current());
    let mut found = BTreeMap::new();
    while found.len() < wanted.len()
        && let Some(member) = reader.next()?
    {
        let path = clean_path(&member.name).filter(|path| wanted.contains(path));
        let Some(path) = path.filter(|_| member.entry.kind == EntryKind::File && member.entry.size <= largest) else {
            continue;
        };
        let mut content = Vec::new();
        while let Some(piece) = reader.piece()? {
            match piece {
                Piece::Data(bytes) => content.extend_from_slice(bytes),
                Piece::Hole(length) => content.resize(content.len() + usize::try_from(length).unwrap_or_default(), 0),
            }
        }
        found.insert(path, content);
    }
    Ok(found)
}

fn digest_content(reader: &mut TarReader<'_>) -> Result<[u8; 32], ArchiveError> {
    let mut hasher = Sha256::new();
    while let Some(piece) = reader.piece()? {
        piece.hash_into(&mut hasher);
    }
    Ok(hasher.finalize().into())
}
