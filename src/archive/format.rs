//! Compression formats of archives that come from outside.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::error::ArchiveError;
use super::extract::Note;
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

/// Undoes the compression of a layer. The magic number wins over `codec` (SPEC E4.09).
///
/// # Errors
/// Reading the first bytes failed.
pub fn decompressor(_reader: impl Read + Send + 'static, _codec: Codec) -> Result<Box<dyn Read + Send>, ArchiveError> {
    todo!()
}

/// Whether `file` is an archive that ADD unpacks (SPEC A6.17): decompresses its beginning and looks for a tar header. The
/// name does not matter. The file's position is not.
///
/// # Errors
/// Reading failed.
pub fn detect_archive(_file: &File) -> Result<Option<ArchiveFormat>, ArchiveError> {
    todo!()
}

/// Unpacks an archive into `dest` inside `root`, both made of whatever symlinks: nothing outside of `root` is touched.
/// `owner` replaces the owners of all entries.
///
/// # Errors
/// A damaged or hostile archive, or the file system's.
pub fn extract_archive(
    _file: File,
    _format: ArchiveFormat,
    _root: &Path,
    _dest: &Path,
    _owner: Option<(u32, u32)>,
) -> Result<Vec<Note>, ArchiveError> {
    todo!()
}
