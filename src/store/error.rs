//! What can go wrong in the store.

use std::io;
use std::path::{Path, PathBuf};

use crate::base::{CacheKey, DiffId, Digest, FaultKind, PathError};

use super::LayerId;

/// An error of the store. Every variant names the thing and what was attempted.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file operation failed.
    #[error("store: {0}")]
    Io(#[source] PathError),
    /// SQLite refused.
    #[error("store: metadata {}: cannot {action}: {source}", path.display())]
    Sql {
        /// What was attempted.
        action: &'static str,
        /// The data base.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// The store was written by a newer version.
    #[error("store {} has {what}, which this version does not know", root.display())]
    TooNew {
        /// The store.
        root: PathBuf,
        /// The number or the feature.
        what: String,
    },
    /// The directory holds something else.
    #[error("{} is not a store: it contains \"{found}\"", root.display())]
    NotAStore {
        /// The directory.
        root: PathBuf,
        /// What should not be there.
        found: String,
    },
    /// A file system on which locks, owners or overlay directories cannot be relied on.
    #[error("the store {} would be on {fs}, which does not keep file locks and owners as a store needs them", root.display())]
    FileSystem {
        /// The store.
        root: PathBuf,
        /// Its name.
        fs: &'static str,
    },
    /// Another process uses the store.
    #[error("the store {} is in use by another build", root.display())]
    Busy {
        /// The store.
        root: PathBuf,
    },
    /// A file of the store does not hold what it should.
    #[error("store: {} is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// In which way.
        reason: String,
    },
    /// A blob is not there.
    #[error("blob {digest} is not in the store")]
    NoBlob {
        /// The blob.
        digest: Digest,
    },
    /// Bytes do not have the digest they should have.
    #[error("blob digest mismatch: expected {expected}, got {actual} ({size} bytes)")]
    DigestMismatch {
        /// What was asked for.
        expected: Digest,
        /// What the bytes are.
        actual: Digest,
        /// How many bytes came.
        size: u64,
    },
    /// No such layer.
    #[error("layer {id} is not in the store")]
    NoLayer {
        /// The layer.
        id: LayerId,
    },
    /// Neither a directory nor a local blob of the layer exists.
    #[error("layer {id} has no local content")]
    NotLocal {
        /// The layer.
        id: LayerId,
    },
    /// A tar stream is not the one that was recorded.
    #[error("layer {id}: {what} has diff id {actual}, recorded is {expected}")]
    DiffIdMismatch {
        /// The layer.
        id: LayerId,
        /// Which stream.
        what: String,
        /// What the record says.
        expected: DiffId,
        /// What the bytes are.
        actual: DiffId,
    },
    /// A layer could not be unpacked or packed.
    #[error("cannot {action} layer {id}: {source}")]
    Archive {
        /// `unpack` or `pack`.
        action: &'static str,
        /// The layer.
        id: LayerId,
        /// Why.
        source: Box<crate::archive::ArchiveError>,
    },
    /// A mount failed.
    #[error("cannot mount {what}: {reason}")]
    Mount {
        /// What was to be mounted.
        what: String,
        /// The kernel's words.
        reason: String,
        /// Its number.
        source: io::Error,
    },
    /// A mountpoint cannot be made because something else is in its place.
    #[error("cannot prepare mountpoint {} in the image: {reason}", path.display())]
    Stub {
        /// As asked for.
        path: PathBuf,
        /// What is there.
        reason: String,
    },
    /// The snapshotter that was asked for does not work here.
    #[error("the overlay snapshotter does not work on {}: {reason}", root.display())]
    NoOverlay {
        /// The store.
        root: PathBuf,
        /// What the probe saw.
        reason: String,
    },
    /// A filter of `prune` or `du` is not understood.
    #[error("invalid filter \"{text}\": {reason}")]
    Filter {
        /// As written.
        text: String,
        /// Why.
        reason: String,
    },
    /// A call that makes no sense, a defect of the caller.
    #[error("store: {0}")]
    Misuse(String),
    /// A record that was to be written refers to what does not exist.
    #[error("cache record {key} refers to layer {layer}, which is not in the store")]
    DanglingRecord {
        /// The record.
        key: CacheKey,
        /// The layer.
        layer: LayerId,
    },
}

impl StoreError {
    /// Makes a closure for `map_err` on I/O results.
    pub(crate) fn io(attempt: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::Io(PathError::at(attempt, path)(error))
    }

    /// The same for rustix results.
    pub(crate) fn errno(attempt: &'static str, path: impl AsRef<Path>) -> impl FnOnce(rustix::io::Errno) -> Self {
        move |error| Self::io(attempt, path)(error.into())
    }

    /// Which exit code and wording fit.
    #[must_use]
    pub fn kind(&self) -> FaultKind {
        match self {
            Self::Io(e) => e.kind(),
            Self::Sql { source, .. } => match source.sqlite_error_code() {
                Some(rusqlite::ErrorCode::DiskFull) => FaultKind::NoSpace,
                _ => FaultKind::Store,
            },
            Self::Archive { source, .. } => source.kind(),
            Self::Mount { .. } | Self::NoOverlay { .. } => FaultKind::Isolation,
            Self::Stub { .. } => FaultKind::Input,
            Self::Filter { .. } => FaultKind::Usage,
            Self::Misuse(_) => FaultKind::Internal,
            _ => FaultKind::Store,
        }
    }

    /// What the user can do about it, where we know.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::FileSystem { .. } => {
                "choose a directory on a local disk (or a tmpfs volume) with --root or XDG_DATA_HOME".into()
            }
            Self::TooNew { .. } => "use the rbuild version that wrote it, or another --root".into(),
            Self::NotAStore { .. } => "choose an empty or new directory with --root".into(),
            Self::Busy { .. } => "wait until the other build has ended".into(),
            Self::Damaged { .. } => {
                "rbuild system reset removes the store; images in registries are not touched".into()
            }
            Self::Sql { source, .. } => match source.sqlite_error_code() {
                Some(rusqlite::ErrorCode::DatabaseBusy) => "another rbuild holds the metadata; try again".into(),
                Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase) => {
                    "rbuild system reset removes the store; images in registries are not touched".into()
                }
                Some(rusqlite::ErrorCode::ReadOnly | rusqlite::ErrorCode::CannotOpen) => {
                    "choose a writable directory with --root".into()
                }
                _ => return None,
            },
            Self::Io(e) => match e.error.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    "free space with rbuild prune, or choose another disk with --root".into()
                }
                io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
                    "choose a writable directory with --root".into()
                }
                _ => return None,
            },
            Self::NoOverlay { .. } => "use --snapshotter=native, which needs no mounts".into(),
            _ => return None,
        })
    }
}
