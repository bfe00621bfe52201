//! What can go wrong with archives.

use std::io;
use std::path::{Path, PathBuf};

use crate::base::{FaultKind, PathError};

/// A failed archive operation, with the path and what was attempted.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// A system call on a file or directory failed.
    #[error(transparent)]
    Io(#[from] PathError),
    /// Writing the layer to where it should go failed.
    #[error("cannot write the layer: {0}")]
    Sink(#[source] io::Error),
    /// Reading the archive failed, or its compression is damaged.
    #[error("cannot read the archive: {0}")]
    Source(#[source] io::Error),
    /// The archive is not a valid tar.
    #[error("damaged tar archive at byte {offset}: {reason}")]
    Malformed {
        /// Where, in the uncompressed stream.
        offset: u64,
        /// What is wrong.
        reason: String,
    },
    /// An entry tries something an archive must not do.
    #[error("refused archive entry \"{}\": {reason}", path.display())]
    Refused {
        /// The entry's name.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A file became shorter or longer while it was being archived.
    #[error("{} changed while it was being read: expected {expected} bytes, found {found}", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
        /// Its size when the entry was made.
        expected: u64,
        /// How much there was, at least.
        found: u64,
    },
    /// A file's content changed after its digest was taken.
    #[error("{} changed while it was being copied", path.display())]
    Unsteady {
        /// The file.
        path: PathBuf,
    },
    /// A compression level the codec does not have.
    #[error("compression level {level} is not valid for {codec} (expected {expected})")]
    Level {
        /// The codec's name.
        codec: &'static str,
        /// The level asked for.
        level: i32,
        /// The valid range.
        expected: &'static str,
    },
    /// A stored tree index cannot be read.
    #[error("damaged tree index: {0}")]
    Index(&'static str),
}

impl ArchiveError {
    /// The kind of fault this is.
    #[must_use]
    pub fn kind(&self) -> FaultKind {
        match self {
            Self::Io(e) => e.kind(),
            Self::Sink(e) => FaultKind::of_io(e, FaultKind::Store),
            Self::Source(_)
            | Self::Malformed { .. }
            | Self::Refused { .. }
            | Self::Changed { .. }
            | Self::Unsteady { .. } => FaultKind::Input,
            Self::Level { .. } => FaultKind::Usage,
            Self::Index(_) => FaultKind::Store,
        }
    }

    /// An [`Io`](Self::Io) error.
    pub(crate) fn io(attempt: &'static str, path: &Path, error: impl Into<io::Error>) -> Self {
        Self::Io(PathError::at(attempt, path)(error.into()))
    }

    /// A [`Refused`](Self::Refused) error.
    pub(crate) fn refused(path: &Path, reason: impl Into<String>) -> Self {
        Self::Refused { path: path.to_owned(), reason: reason.into() }
    }
}
