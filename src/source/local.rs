//! A directory of the machine as a build context (SPEC C2.06).

use std::path::Path;

use crate::llb::op::SourceOp;
use crate::tree::CopySource;

/// Why a directory cannot be a context.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// It is missing or unreadable.
    #[error("cannot use {path} as a build context: {error}")]
    Root {
        /// The path as given.
        path: String,
        /// The system's reason.
        error: std::io::Error,
    },
    /// An attribute is not what it should be.
    #[error("invalid attribute {name} of a local source: {reason}")]
    Attribute {
        /// Its name.
        name: String,
        /// What is wrong.
        reason: String,
    },
}

/// Opens `dir` as the context of `op`. `ignore_lines[i]` is the line of the i-th exclude pattern, where known.
///
/// # Errors
/// A missing directory or a malformed attribute.
pub fn open(dir: &Path, op: &SourceOp, ignore_lines: &[usize]) -> Result<CopySource, LocalError> {
    let _ = (dir, op, ignore_lines);
    Err(LocalError::Attribute { name: String::new(), reason: String::new() })
}
