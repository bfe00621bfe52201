//! What can go wrong with a registry, told apart so that people and exit codes can (SPEC E3.14).

use std::fmt;
use std::io;
use std::sync::Arc;

use crate::base::{Digest, FaultKind};

/// A failed operation: what was attempted and why it failed. Cheap to clone, since waiters of one request share it.
#[derive(Clone)]
pub struct RegistryError(Arc<Failure>);

struct Failure {
    attempt: String,
    fault: Fault,
}

impl RegistryError {
    /// `attempt` begins with "failed to" and names the reference or digest.
    pub fn new(attempt: impl Into<String>, fault: Fault) -> Self {
        Self(Arc::new(Failure { attempt: attempt.into(), fault }))
    }

    /// The cause.
    #[must_use]
    pub fn fault(&self) -> &Fault {
        &self.0.fault
    }

    /// For the exit code.
    #[must_use]
    pub fn kind(&self) -> FaultKind {
        self.0.fault.kind()
    }

    /// The remedy, where known.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        self.0.fault.hint()
    }

    /// Whether the registry's words say that a tag cannot be changed (SPEC D1.42): Amazon's code, and what Harbor, Google, GitLab
    /// and Docker Hub say.
    #[must_use]
    pub fn is_immutable_tag(&self) -> bool {
        let error = self.to_string().to_lowercase();
        error.contains("imagetagalreadyexistsexception") || (error.contains("tag") && error.contains("immutable"))
    }

    /// Whether the thing asked for does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self.0.fault, Fault::NotFound { .. })
    }

    /// Whether the server said nothing at all.
    #[must_use]
    pub fn is_silence(&self) -> bool {
        matches!(self.0.fault, Fault::Silent { .. })
    }
}

impl fmt::Display for RegistryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.attempt, self.0.fault)
    }
}

impl fmt::Debug for RegistryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RegistryError({self})")
    }
}

impl std::error::Error for RegistryError {}

/// Why a registry operation failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Fault {
    /// The server says it has no such thing.
    #[error("{what}: not found{}", tail(.detail))]
    NotFound {
        /// Reference or digest.
        what: String,
        /// The server's words.
        detail: String,
    },
    /// We proved who we are, wrongly.
    #[error("{host} refused the credentials{}{}", of_user(.username), tail(.detail))]
    BadCredentials {
        /// Registry.
        host: String,
        /// Whose password it was, where it was a password.
        username: Option<String>,
        /// The server's words.
        detail: String,
    },
    /// Not allowed, with the credentials given or without any.
    #[error("{action} access denied, repository does not exist or may require authorization{}", tail(.detail))]
    Denied {
        /// `pull` or `push`.
        action: &'static str,
        /// Registry.
        host: String,
        /// No credentials were sent.
        anonymous: bool,
        /// Why there were no credentials, if asking for them failed.
        lookup: Option<String>,
        /// The server's words.
        detail: String,
    },
    /// Too many requests, and the server wants a longer pause than we are ready to make.
    #[error("{host} limits the rate of requests{}", tail(.detail))]
    RateLimited {
        /// Registry.
        host: String,
        /// No credentials were sent.
        anonymous: bool,
        /// The server's words.
        detail: String,
    },
    /// No connection: name, route, port or TLS.
    #[error("cannot reach {url}: {cause}")]
    Unreachable {
        /// Where.
        url: String,
        /// One line.
        cause: String,
        /// What to do about it, where known.
        hint: Option<&'static str>,
    },
    /// No connection, or no answer on one, for as long as we wait.
    #[error("{url} says nothing: {cause}")]
    Silent {
        /// Where.
        url: String,
        /// One line.
        cause: String,
    },
    /// The connection broke, again and again.
    #[error("connection to {url} broke: {cause}")]
    Broken {
        /// Where.
        url: String,
        /// One line.
        cause: String,
    },
    /// The bytes are not the ones asked for.
    #[error("{what} is corrupt: expected {expected}, got {actual}")]
    DigestMismatch {
        /// Blob or manifest and where it came from.
        what: String,
        /// Wanted.
        expected: Digest,
        /// Received.
        actual: Digest,
    },
    /// Fewer or more bytes than announced.
    #[error("{what} is {}: expected {expected} bytes, got {actual}", if .actual < .expected { "truncated" } else { "too long" })]
    SizeMismatch {
        /// Blob and where it came from.
        what: String,
        /// Wanted.
        expected: u64,
        /// Received or announced.
        actual: u64,
    },
    /// An answer nobody expected.
    #[error("unexpected status from {method} request to {url}: {code} {reason}{}", server_message(.detail))]
    Status {
        /// HTTP method.
        method: String,
        /// Where, without secrets in the query.
        url: String,
        /// e.g. 403.
        code: u16,
        /// e.g. `Forbidden`.
        reason: &'static str,
        /// The server's words.
        detail: String,
    },
    /// An answer that makes no sense.
    #[error("invalid answer from {url}: {reason}")]
    Invalid {
        /// Where.
        url: String,
        /// One line.
        reason: String,
    },
    /// The manifest is not an image, or its bytes are not a manifest.
    #[error("{0}")]
    Document(String),
    /// Reading or writing on our side.
    #[error("{action}: {source}")]
    Local {
        /// What was attempted.
        action: String,
        /// Why not.
        source: Arc<io::Error>,
    },
    /// A setting cannot be used.
    #[error("{0}")]
    Setting(String),
}

impl Fault {
    /// For the exit code.
    #[must_use]
    pub fn kind(&self) -> FaultKind {
        match self {
            Self::BadCredentials { .. } | Self::Denied { .. } | Self::Status { code: 401 | 403, .. } => FaultKind::Auth,
            Self::Unreachable { .. } | Self::Silent { .. } | Self::Broken { .. } => FaultKind::Network,
            Self::Local { source, .. } => FaultKind::of_io(source, FaultKind::Store),
            Self::Setting(_) => FaultKind::Usage,
            _ => FaultKind::Remote,
        }
    }

    /// The remedy, where known.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::BadCredentials { host, .. } => Some(format!(
                "check the entry for {host} in the docker config, or log in again with `rbuild login {host}`"
            )),
            Self::Denied { lookup: Some(cause), .. } => Some(format!("no credentials could be looked up: {cause}")),
            Self::Denied { host, anonymous: true, .. } => {
                Some(format!("check the name; if the repository is private, log in with `rbuild login {host}`"))
            }
            Self::Denied { action, host, .. } => {
                Some(format!("the account logged in to {host} may not {action} here, or the name is misspelt"))
            }
            Self::RateLimited { host, anonymous: true, .. } => {
                Some(format!("log in with `rbuild login {host}` for a higher limit"))
            }
            Self::Status { code: 413, .. } => Some(
                "the registry, or a proxy in front of it, limits the size of an upload: --push-chunk-size sends \
                      smaller pieces"
                    .into(),
            ),
            Self::Unreachable { hint, .. } => hint.map(Into::into),
            _ => None,
        }
    }
}

fn tail(detail: &str) -> String {
    if detail.is_empty() { String::new() } else { format!(": {detail}") }
}

fn of_user(username: &Option<String>) -> String {
    username.as_ref().map_or_else(String::new, |name| format!(" of user \"{name}\""))
}

fn server_message(detail: &str) -> String {
    if detail.is_empty() { String::new() } else { format!(": server message: {detail}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn e3_14_wording() {
        let status = Fault::Status {
            method: "PUT".into(),
            url: "https://r.example/v2/a/manifests/1".into(),
            code: 403,
            reason: "Forbidden",
            detail: "denied: quota".into(),
        };
        assert_eq!(
            RegistryError::new("failed to push r.example/a:1", status).to_string(),
            "failed to push r.example/a:1: unexpected status from PUT request to https://r.example/v2/a/manifests/1: \
             403 Forbidden: server message: denied: quota"
        );
        let missing = Fault::NotFound { what: "r.example/a:1".into(), detail: String::new() };
        assert_eq!(missing.to_string(), "r.example/a:1: not found");
        assert_eq!(missing.kind(), FaultKind::Remote);
    }

    #[test]
    fn truncated_and_too_long_differ() {
        let fault = |actual| Fault::SizeMismatch { what: "blob".into(), expected: 5, actual }.to_string();
        assert_eq!(fault(3), "blob is truncated: expected 5 bytes, got 3");
        assert_eq!(fault(7), "blob is too long: expected 5 bytes, got 7");
    }

    #[test]
    fn full_disk_is_told_apart() {
        let full = Fault::Local {
            action: "cannot write blob".into(),
            source: Arc::new(io::Error::from(io::ErrorKind::StorageFull)),
        };
        assert_eq!(full.kind(), FaultKind::NoSpace);
    }
}
