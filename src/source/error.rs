//! Why an image could not be had.

use std::io;
use std::path::PathBuf;

use super::git::GitError;
use crate::base::{Digest, FaultKind};
use crate::llb::host::HostError;
use crate::registry::{Fault, RegistryError};
use crate::store::StoreError;

/// A failed resolution or download.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Not an identifier this module knows, or a broken one.
    #[error("invalid image source \"{identifier}\": {reason}")]
    Identifier {
        /// The identifier.
        identifier: String,
        /// Why not.
        reason: String,
    },
    /// An attribute with a value that means nothing.
    #[error("invalid value \"{value}\" of {name}")]
    Attribute {
        /// e.g. `image.resolvemode`.
        name: &'static str,
        /// The value.
        value: String,
    },
    /// The registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There are images under this name, but none for this platform.
    #[error("failed to resolve source metadata for {name}: no image for platform {wanted}, only for {available}")]
    NoPlatform {
        /// The reference.
        name: String,
        /// Asked for.
        wanted: String,
        /// Comma-separated.
        available: String,
    },
    /// The name means something that is not a container image.
    #[error("failed to resolve source metadata for {name}: {reason}")]
    NotAnImage {
        /// The reference.
        name: String,
        /// Why not.
        reason: String,
    },
    /// The registry must not be asked, and the store has nothing.
    #[error(
        "failed to resolve source metadata for {name}: not in the local store, and the registry is not to be asked"
    )]
    NotLocal {
        /// The reference.
        name: String,
    },
    /// SPEC C2.01: `image.checksum`.
    #[error("image digest {actual} for {name} does not match expected checksum {expected}")]
    Checksum {
        /// The reference.
        name: String,
        /// Wanted.
        expected: Digest,
        /// Found.
        actual: Digest,
    },
    /// Bytes with another digest than their name promises.
    #[error("{what} is corrupt: expected {expected}, got {actual}")]
    Corrupt {
        /// Blob and where it came from.
        what: String,
        /// Wanted.
        expected: Digest,
        /// Received.
        actual: Digest,
    },
    /// A layer that is neither here nor anywhere known.
    #[error("layer {digest} is not in the local store, and no registry is known to have it")]
    Lost {
        /// The blob.
        digest: Digest,
    },
    /// Another kind of place.
    #[error("failed to fetch {what}: {reason}")]
    Place {
        /// Blob and where it should be.
        what: String,
        /// Why not.
        reason: String,
        /// The place answered, and does not have it.
        missing: bool,
    },
    /// A layer that a cache promised, and that it does not have.
    #[error("a layer of the cache could not be fetched: {source}")]
    Gone {
        /// What happened at the last place that was asked.
        source: Box<Self>,
    },
    /// A layer that a cache promised, and of which nothing came for a while.
    #[error("nothing of layer {digest} came for a while")]
    Silent {
        /// The blob.
        digest: Digest,
    },
    /// A directory that is not an OCI layout, or not the right one.
    #[error("OCI layout {}: {reason}", .path.display())]
    Layout {
        /// The directory.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// A file of a layout.
    #[error("cannot read {}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A web server did not answer, or not in HTTP.
    #[error("failed to load {url}: {fault}")]
    Web {
        /// What was to be loaded, without secrets.
        url: String,
        /// Why not.
        fault: Fault,
    },
    /// A web server said no (SPEC C2.05).
    #[error("failed to load {url}: invalid response status {code} {reason}")]
    Status {
        /// What was to be loaded, without secrets.
        url: String,
        /// e.g. 404.
        code: u16,
        /// e.g. `Not Found`.
        reason: &'static str,
        /// The server.
        host: String,
        /// No credentials were sent.
        anonymous: bool,
    },
    /// A file that is not what its checksum says (SPEC A6.19, C2.05).
    #[error("digest mismatch for {url}: {actual} (expected: {expected})")]
    Mismatch {
        /// Where it came from, without secrets.
        url: String,
        /// Wanted.
        expected: Digest,
        /// Received.
        actual: Digest,
    },
    /// A server that would keep us busy for ever.
    #[error("failed to load {url}: it {what}")]
    Limit {
        /// What was to be loaded, without secrets.
        url: String,
        /// e.g. `redirects more than 10 times`.
        what: String,
    },
    /// A secret that cannot be sent.
    #[error("the secret for {host} cannot be used: {reason}")]
    Secret {
        /// Whom it is for.
        host: String,
        /// Why not; without the value.
        reason: String,
    },
    /// An archive that cannot be read.
    #[error("cannot read the archive {digest}: {reason}")]
    Archive {
        /// The blob.
        digest: Digest,
        /// Why not.
        reason: String,
    },
    /// A git repository that cannot be had.
    #[error(transparent)]
    Git(#[from] GitError),
    /// A thread died.
    #[error("internal error: {0}")]
    Internal(String),
}

impl SourceError {
    /// For the exit code.
    #[must_use]
    pub fn kind(&self) -> FaultKind {
        match self {
            Self::Registry(e) => e.kind(),
            Self::Store(e) => e.kind(),
            Self::Identifier { .. } | Self::NoPlatform { .. } | Self::Layout { .. } | Self::Io { .. } => {
                FaultKind::Input
            }
            Self::Attribute { .. } | Self::Checksum { .. } | Self::NotLocal { .. } => FaultKind::Input,
            Self::Web { fault, .. } => fault.kind(),
            Self::Status { code: 401 | 403 | 407, .. } => FaultKind::Auth,
            Self::Mismatch { .. } | Self::Archive { .. } => FaultKind::Input,
            Self::Secret { .. } => FaultKind::Usage,
            Self::Git(e) => e.kind(),
            Self::NotAnImage { .. }
            | Self::Corrupt { .. }
            | Self::Status { .. }
            | Self::Limit { .. }
            | Self::Place { .. }
            | Self::Silent { .. } => FaultKind::Remote,
            Self::Lost { .. } => FaultKind::Store,
            Self::Gone { source } => source.kind(),
            Self::Internal(_) => FaultKind::Internal,
        }
    }

    /// Whether the place that was asked does not work, so that asking it for anything else costs the same wait again.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Registry(error) => error.kind() == FaultKind::Network,
            Self::Place { missing, .. } => !missing,
            _ => false,
        }
    }

    /// The remedy, where known.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Registry(e) => e.hint(),
            Self::Store(e) => e.hint(),
            Self::NoPlatform { available, .. } => {
                let first = available.split(',').next().unwrap_or_default();
                Some(format!("choose one with --platform={first}, or another base image"))
            }
            Self::NotLocal { .. } => Some("build with --pull to ask the registry".into()),
            Self::Gone { source } => source.hint(),
            Self::Lost { .. } => Some("build with --no-cache --pull to fetch the image again".into()),
            Self::Web { fault: Fault::Unreachable { cause, .. }, .. } if cause.starts_with("TLS") => {
                Some("add the server's CA to the system's certificates or name it in SSL_CERT_FILE".into())
            }
            Self::Web { fault: Fault::Unreachable { .. }, .. } => {
                Some("check the host's name and port, the network and the proxy settings".into())
            }
            Self::Status { code: 401 | 403, host, anonymous: true, .. } => {
                Some(format!("if it wants a token, give one with --secret id=HTTP_AUTH_TOKEN_{host},env=VARIABLE"))
            }
            Self::Mismatch { actual, .. } => {
                Some(format!("if the content is right, give --checksum={actual}; otherwise find out who changed it"))
            }
            Self::Git(e) => e.hint(),
            _ => None,
        }
    }
}

impl From<SourceError> for HostError {
    fn from(error: SourceError) -> Self {
        Self { kind: error.kind(), message: error.to_string(), hint: error.hint(), became: None }
    }
}
