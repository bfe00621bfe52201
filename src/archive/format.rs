//! Compression formats of archives that come from outside.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek};
use std::path::Path;

use super::error::ArchiveError;
use super::extract::{Extractor, Meaning};
use super::header::BLOCK;
use super::input::Buffered;
use super::limits::UnpackLimits;
use super::lowers::Lowers;
use super::notes::Note;
use super::reader::{TarReader, checksum_fits};
use crate::oci::media_type::Codec;

/// How an archive is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArchiveFormat {
    /// Not at all.
    Tar,
    /// gzip.
    Gzip,
    /// bzip2.
    Bzip2,
    /// xz.
    Xz,
    /// zstd.
    Zstd,
}

/// How much memory an xz stream may ask for: `xz -9` needs 65 MiB.
const XZ_MEMORY: u64 = 256 << 20;

impl ArchiveFormat {
    /// From the magic number; [`Tar`](Self::Tar) if there is none.
    #[must_use]
    pub fn sniff(head: &[u8]) -> Self {
        match head {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Self::Bzip2,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            // The second form is a skippable frame, which some writers put first.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::Tar,
        }
    }

    /// Undoes this compression.
    fn decode(self, reader: Box<dyn BufRead + Send>) -> io::Result<Box<dyn Read + Send>> {
        Ok(match self {
            Self::Tar => Box::new(reader),
            Self::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(reader)),
            Self::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(reader)),
            Self::Xz => {
                let stream = liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY, liblzma::stream::CONCATENATED)?;
                Box::new(liblzma::bufread::XzDecoder::new_stream(reader, stream))
            }
            Self::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(reader)?),
        })
    }
}

/// Undoes the compression of a layer. What the bytes say wins over `codec`, which comes from a media type and may be wrong
/// (SPEC E4.09).
///
/// # Errors
/// Reading the first bytes failed, or there are none although `codec` promises a compressed stream.
pub fn decompressor(reader: impl Read + Send + 'static, codec: Codec) -> Result<Box<dyn Read + Send>, ArchiveError> {
    let mut reader = BufReader::with_capacity(128 << 10, reader);
    let mut head = Vec::new();
    reader.by_ref().take(6).read_to_end(&mut head).map_err(ArchiveError::Source)?;
    if head.is_empty() && codec != Codec::Uncompressed {
        return Err(ArchiveError::Source(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the compressed layer is empty",
        )));
    }
    let format = ArchiveFormat::sniff(&head);
    format.decode(Box::new(io::Cursor::new(head).chain(reader))).map_err(ArchiveError::Source)
}

/// Whether `file` is an archive that ADD unpacks (SPEC A6.17): decompresses its beginning and looks for a tar header. The
/// name does not matter. Leaves the file at its beginning.
///
/// # Errors
/// Reading failed.
pub fn detect_archive(file: &File) -> Result<Option<ArchiveFormat>, ArchiveError> {
    let mut file = file;
    file.rewind().map_err(ArchiveError::Source)?;
    let mut head = Vec::new();
    // Enough for the first block of every format: bzip2's have up to 900 kB.
    file.take(1 << 20).read_to_end(&mut head).map_err(ArchiveError::Source)?;
    file.rewind().map_err(ArchiveError::Source)?;
    let format = ArchiveFormat::sniff(&head);
    let mut block = [0; BLOCK];
    let Ok(mut plain) = format.decode(Box::new(io::Cursor::new(head))) else { return Ok(None) };
    // Whatever goes wrong in here says that it is none.
    let complete = plain.read_exact(&mut block).is_ok();
    Ok((complete && block.iter().any(|b| *b != 0) && checksum_fits(&block)).then_some(format))
}

/// Whether data that begins with `head` is meant to be an archive: by the magic number of a compression or by a tar header
/// (SPEC B1.02, B1.04). No Dockerfile begins like that.
#[must_use]
pub fn looks_like_archive(head: &[u8]) -> bool {
    ArchiveFormat::sniff(head) != ArchiveFormat::Tar
        || head.first_chunk::<BLOCK>().is_some_and(|block| block.iter().any(|b| *b != 0) && checksum_fits(block))
}

/// The modification time of the newest entry, in seconds since 1970; `None` for an archive without entries (SPEC A4.18).
///
/// # Errors
/// A damaged archive.
pub fn newest_entry(mut file: File, format: ArchiveFormat) -> Result<Option<i64>, ArchiveError> {
    file.rewind().map_err(ArchiveError::Source)?;
    let reader = BufReader::with_capacity(128 << 10, file);
    let plain = format.decode(Box::new(reader)).map_err(ArchiveError::Source)?;
    let mut plain = Buffered::new(plain);
    let mut tar = TarReader::new(&mut plain, UnpackLimits::current());
    let mut newest = None;
    while let Some(member) = tar.next()? {
        newest = newest.max(Some(member.entry.mtime.secs));
    }
    Ok(newest)
}

/// Unpacks an archive into `dest` inside `root`, which may both lead through whatever symlinks: nothing outside of `root` is touched.
///
/// `dest` is made if it is missing. `owner` replaces the owners of all entries (`--chown`). Names that start with `.wh.` mean
/// nothing here.
///
/// # Errors
/// A damaged or hostile archive, or the file system's.
pub fn extract_archive(
    mut file: File,
    format: ArchiveFormat,
    root: &Path,
    dest: &Path,
    owner: Option<(u32, u32)>,
) -> Result<Vec<Note>, ArchiveError> {
    file.rewind().map_err(ArchiveError::Source)?;
    let reader = BufReader::with_capacity(128 << 10, file);
    let plain = format.decode(Box::new(reader)).map_err(ArchiveError::Source)?;
    let mut extractor = Extractor::new(root, Lowers::plain(None), Meaning::Files, owner)?;
    extractor.enter(dest)?;
    extractor.run(&mut TarReader::new(&mut Buffered::new(plain), UnpackLimits::current()))?;
    extractor.finish().map(|(_, notes)| notes)
}

/// Unpacks a plain tar from a source that is not to be trusted into the directory `root`: like [`extract_archive`], but
/// devices are left out, and noted.
///
/// # Errors
/// A damaged or hostile archive, or the file system's.
pub fn extract_plain(tar: &mut dyn Read, root: &Path) -> Result<Vec<Note>, ArchiveError> {
    let mut extractor = Extractor::new(root, Lowers::plain(None), Meaning::Files, None)?.without_devices();
    extractor.run(&mut TarReader::new(&mut Buffered::new(tar), UnpackLimits::current()))?;
    extractor.finish().map(|(_, notes)| notes)
}
