//! Why work on an image failed.

use std::path::{Path, PathBuf};

use crate::base::{Digest, FaultKind, PathError};
use crate::exec::emulators::NoEmulator;
use crate::exec::run::ExecError;
use crate::exporter::ExportError;
use crate::oci::Platform;
use crate::registry::RegistryError;
use crate::source::SourceError;
use crate::store::StoreError;

/// See the variants.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// No image of the store has that name or digest.
    #[error("there is no image \"{name}\" in the store")]
    NotFound {
        /// As asked for.
        name: String,
        /// A name that is close.
        near: Option<String>,
    },
    /// Several images have a digest that begins so.
    #[error("\"{name}\" is the beginning of the digests of several images")]
    Ambiguous {
        /// As asked for.
        name: String,
    },
    /// A digest stands for more than is meant to go, perhaps.
    #[error("\"{image}\" has several names: {names}", names = names.join(", "))]
    SeveralNames {
        /// As asked for.
        image: String,
        /// What it is called.
        names: Vec<String>,
    },
    /// A new list of images cannot have that name.
    #[error("the name {name} is in use already")]
    NameInUse {
        /// Which.
        name: String,
    },
    /// Some content is neither here nor in a registry that is known to have it.
    #[error("{what} {digest} is not in the store")]
    Incomplete {
        /// Kind of content.
        what: &'static str,
        /// Which.
        digest: Digest,
    },
    /// A document is not what it should be.
    #[error("{digest}: {reason}")]
    Document {
        /// Which.
        digest: Digest,
        /// What is wrong.
        reason: String,
    },
    /// An archive is not what it should be.
    #[error("cannot load {path}: {reason}", path = path.display())]
    Archive {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// There is nothing where an archive should be.
    #[error("cannot load {path}: there is no such file", path = .0.display())]
    NoArchive(PathBuf),
    /// A file or directory.
    #[error(transparent)]
    Io(#[from] PathError),
    /// What was asked for makes no sense.
    #[error("{0}")]
    Usage(String),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// An image that is to be pulled.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Files could not be written.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// A program for machines of this platform.
    #[error("programs for {0} do not run here: this machine is {host}, and {1}", host = Platform::host())]
    Foreign(Box<Platform>, NoEmulator),
    /// A program of the image.
    #[error(transparent)]
    Exec(#[from] ExecError),
    /// A defect.
    #[error("{0}")]
    Internal(String),
}

impl ImageError {
    pub(super) fn io(attempt: &'static str, path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        move |error| Self::Io(PathError::at(attempt, path)(error))
    }

    /// For the exit code.
    #[must_use]
    pub fn kind(&self) -> FaultKind {
        match self {
            Self::NotFound { .. }
            | Self::Ambiguous { .. }
            | Self::SeveralNames { .. }
            | Self::NameInUse { .. }
            | Self::Usage(_)
            | Self::NoArchive(_) => FaultKind::Usage,
            Self::Archive { .. } => FaultKind::Input,
            Self::Incomplete { .. } | Self::Document { .. } => FaultKind::Store,
            Self::Io(e) => e.kind(),
            Self::Store(e) => e.kind(),
            Self::Registry(e) => e.kind(),
            Self::Source(e) => e.kind(),
            Self::Export(e) => e.kind(),
            Self::Foreign(..) => FaultKind::Isolation,
            Self::Exec(e) => e.kind(),
            Self::Internal(_) => FaultKind::Internal,
        }
    }

    /// The remedy, where known.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotFound { near: Some(near), .. } => Some(format!("did you mean {near}?")),
            Self::NotFound { near: None, .. } => Some("`rbuild images` lists what is there".into()),
            Self::Ambiguous { .. } => Some("give more of the digest".into()),
            Self::SeveralNames { .. } => Some("name those to take away, or give --force for all of them".into()),
            Self::NameInUse { .. } => {
                Some("give --amend to add to that list, or take the name away with `rbuild rm`".into())
            }
            Self::Incomplete { .. } => Some("pull or build the image again".into()),
            Self::Foreign(_, why) => Some(why.hint.clone()),
            Self::Store(e) => e.hint(),
            Self::Registry(e) => e.hint(),
            Self::Source(e) => e.hint(),
            Self::Export(e) => e.hint(),
            _ => None,
        }
    }
}
