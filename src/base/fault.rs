//! Kinds of failure, from which `cli` picks the exit code and the wording; and what is said of a file that failed.

use std::io;
use std::path::{Path, PathBuf};

/// What sort of thing went wrong. Every error type below `cli` can name its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// The command line, a flag value or a configuration file is wrong.
    Usage,
    /// The Dockerfile or the build context is wrong.
    Input,
    /// A RUN step ended with a non-zero exit code or a signal.
    Step,
    /// A registry or another server refused, or answered nonsense.
    Remote,
    /// Credentials are missing or were refused.
    Auth,
    /// A server cannot be reached.
    Network,
    /// The store is damaged, locked, too new, or cannot be written.
    Store,
    /// No space left on the device, or over quota.
    NoSpace,
    /// This machine does not allow what the build needs (namespaces, mounts).
    Isolation,
    /// The user stopped the build.
    Interrupted,
    /// A defect of rbuild itself.
    Internal,
}

impl FaultKind {
    /// `NoSpace` for ENOSPC and EDQUOT, `other` for everything else.
    #[must_use]
    pub fn of_io(error: &io::Error, other: Self) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace,
            _ => other,
        }
    }
}

/// A file operation that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {attempt} {}: {error}", path.display())]
pub struct PathError {
    /// What was attempted, as a verb: "open", "create directory".
    pub attempt: &'static str,
    /// On what.
    pub path: PathBuf,
    /// The system's answer.
    #[source]
    pub error: io::Error,
}

impl PathError {
    /// For `map_err`; the path is copied only if it comes to that.
    pub fn at(attempt: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        move |error| Self { attempt, path: path.as_ref().to_owned(), error }
    }

    /// For the exit code: files that the product writes are the store's, wherever they are.
    #[must_use]
    pub fn kind(&self) -> FaultKind {
        FaultKind::of_io(&self.error, FaultKind::Store)
    }
}
