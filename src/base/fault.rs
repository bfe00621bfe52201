//! Kinds of failure, from which `cli` picks the exit code and the wording.

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
    pub fn of_io(error: &std::io::Error, other: Self) -> Self {
        match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Self::NoSpace,
            _ => other,
        }
    }
}
