//! Why a repository, or something of it, could not be had.

use std::io;
use std::path::Path;

use crate::attest::git::Unsigned;
use crate::base::{FaultKind, PathError};
use crate::store::StoreError;

/// A failed resolution, fetch or checkout.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// There is no `git` to run.
    #[error("cannot run git: {0}")]
    Program(io::Error),
    /// git said no.
    #[error("failed to {action} {remote}: {message}")]
    Failed {
        /// `fetch remote` or `check out`.
        action: &'static str,
        /// The repository, without credentials.
        remote: String,
        /// git's own words, one line.
        message: String,
    },
    /// The repository has no such branch, tag or commit.
    #[error("{remote}: repository does not contain ref {reference}")]
    NoRef {
        /// The repository.
        remote: String,
        /// The ref.
        reference: String,
    },
    /// Not a name that a ref can have.
    #[error("invalid git ref \"{reference}\": {reason}")]
    InvalidRef {
        /// The text.
        reference: String,
        /// Why not.
        reason: &'static str,
    },
    /// A URL that is not used.
    #[error("invalid git remote \"{remote}\": {reason}")]
    Remote {
        /// The text, without credentials.
        remote: String,
        /// Why not.
        reason: &'static str,
    },
    /// SPEC A6.21.
    #[error("invalid checksum {checksum} for git source, expected hex commit hash")]
    InvalidChecksum {
        /// The text.
        checksum: String,
    },
    /// SPEC A6.21, C2.04.
    #[error("expected checksum to match {expected}, got {actual}")]
    Checksum {
        /// Wanted.
        expected: String,
        /// The commit, and the tag object where there is one.
        actual: String,
    },
    /// SPEC A7.02.
    #[error("invalid subdir {subdir} of {remote}: {reason}")]
    Subdir {
        /// As given.
        subdir: String,
        /// The repository.
        remote: String,
        /// Why not.
        reason: &'static str,
    },
    /// An ssh remote without a key.
    #[error("no ssh agent or key \"{id}\" for {remote}")]
    NoSsh {
        /// The id.
        id: String,
        /// The repository.
        remote: String,
    },
    /// SPEC A7.07: what the keys that were given have not signed.
    #[error("{remote}: {why}")]
    Signature {
        /// The repository.
        remote: String,
        /// What was found instead.
        why: Unsigned,
    },
    /// `git.sig.…` that cannot be held to.
    #[error("invalid {name} of a git source: {reason}")]
    InvalidSignature {
        /// The attribute.
        name: String,
        /// Why.
        reason: String,
    },
    /// A server that says one thing of a tag and gives another.
    #[error("{remote}: the tag {tag} leads to {found}, and the server says {said}")]
    OtherCommit {
        /// The repository.
        remote: String,
        /// The tag's object.
        tag: String,
        /// Where it leads.
        found: String,
        /// Where it should.
        said: String,
    },
    /// Something that is known but not done.
    #[error("{0} is not supported yet")]
    Unsupported(&'static str),
    /// A secret that cannot be sent.
    #[error("the secret {id} for {remote} cannot be used: it is not the value of a header")]
    Secret {
        /// Its id.
        id: String,
        /// Whom it is for.
        remote: String,
    },
    /// A thread died.
    #[error("internal error: {0}")]
    Internal(String),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file.
    #[error(transparent)]
    Io(#[from] PathError),
}

impl GitError {
    pub(super) fn io(attempt: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::Io(PathError::at(attempt, path)(error))
    }

    /// For the exit code.
    #[must_use]
    pub fn kind(&self) -> FaultKind {
        match self {
            Self::Program(_) => FaultKind::Isolation,
            Self::Failed { message, .. } => match Cause::of(message) {
                Cause::Auth => FaultKind::Auth,
                Cause::Network => FaultKind::Network,
                Cause::HostKey => FaultKind::Auth,
                Cause::Space => FaultKind::NoSpace,
                Cause::Other => FaultKind::Remote,
            },
            Self::NoSsh { .. } | Self::Secret { .. } => FaultKind::Usage,
            Self::Store(e) => e.kind(),
            Self::Internal(_) => FaultKind::Internal,
            Self::Io(e) => e.kind(),
            _ => FaultKind::Input,
        }
    }

    /// The remedy, where known.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Program(e) if e.kind() == io::ErrorKind::NotFound => "install git, or put it on the PATH".into(),
            Self::Failed { message, remote, .. } => match Cause::of(message) {
                Cause::Auth if is_ssh(remote) => "give a key or an agent with --ssh default[=PATH]".into(),
                Cause::Auth => {
                    "give a token with --secret id=GIT_AUTH_TOKEN,env=VARIABLE; if the repository is public, \
                                check its name"
                        .into()
                }
                Cause::Network => "check the host's name and port, the network and the proxy settings".into(),
                Cause::HostKey => {
                    "the key of the host is not the one in known_hosts: find out why, or update known_hosts".into()
                }
                Cause::Space | Cause::Other => return None,
            },
            Self::NoRef { .. } => "`git ls-remote URL` shows what there is".into(),
            Self::Checksum { .. } => {
                "the ref was moved since the checksum was written down, or one of them is wrong".into()
            }
            Self::NoSsh { id, .. } => {
                format!("give one with --ssh {id} (the agent in $SSH_AUTH_SOCK) or --ssh {id}=KEYFILE")
            }
            Self::Store(e) => return e.hint(),
            _ => return None,
        })
    }
}

fn is_ssh(remote: &str) -> bool {
    remote.starts_with("ssh://") || !remote.contains("://")
}

/// What git's words come down to.
enum Cause {
    Auth,
    Network,
    HostKey,
    Space,
    Other,
}

impl Cause {
    fn of(message: &str) -> Self {
        let any = |words: &[&str]| words.iter().any(|word| message.contains(word));
        if any(&["Host key verification failed", "REMOTE HOST IDENTIFICATION HAS CHANGED"]) {
            Self::HostKey
        } else if any(&[
            "could not read Username",
            "could not read Password",
            "Authentication failed",
            "Permission denied (",
            "returned error: 401",
            "returned error: 403",
            "terminal prompts disabled",
        ]) {
            Self::Auth
        } else if any(&[
            "Could not resolve host",
            "Could not resolve hostname",
            "unable to look up",
            "Connection refused",
            "Connection timed out",
            "Failed to connect",
            "Couldn't connect",
            "unable to connect",
            "Network is unreachable",
            "No route to host",
            "no answer in",
            "Operation too slow",
        ]) {
            Self::Network
        } else if any(&["No space left on device", "Disk quota exceeded"]) {
            Self::Space
        } else {
            Self::Other
        }
    }
}
