//! Where caches live (SPEC B4): what a backend must do, and the document forms that several share.
//!
//! A backend reports trouble and does nothing about it. Those who call it make a miss of a failed import and decide
//! what a failed export means, under deadlines of their own: no cache can fail or stall a build.

mod document;
pub mod gha;
pub mod local;
pub mod object;
mod pace;
pub mod registry;

use std::time::SystemTime;

use async_trait::async_trait;

use super::config::CacheConfig;
use super::import::{Import, Place};
use crate::base::DiffId;
use crate::oci::Descriptor;
use crate::registry::{BlobSource, Progress};

pub use document::{DocumentForm, read_image_config};

/// Why a cache could not be read or written.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct CacheError {
    /// One line: what, where, why.
    pub message: String,
    /// The remedy, where known.
    pub hint: Option<String>,
    /// There is no such cache: normal before the first export.
    pub missing: bool,
    /// Nothing was heard for as long as is waited for it.
    pub silent: bool,
}

impl CacheError {
    /// A failure.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, missing: false, silent: false }
    }

    /// Nobody answers.
    pub fn silence(message: impl Into<String>) -> Self {
        Self { silent: true, ..Self::new(message) }
    }

    /// There is nothing under this name.
    pub fn missing(message: impl Into<String>) -> Self {
        Self { missing: true, ..Self::new(message) }
    }
}

/// A blob of a cache to be written.
#[derive(Debug, Clone)]
pub struct CacheBlob {
    /// The blob.
    pub descriptor: Descriptor,
    /// Digest of the stream inside.
    pub diff_id: DiffId,
    /// When the layer was made.
    pub created: SystemTime,
    /// Its bytes.
    pub source: BlobSource,
    /// Repositories of registries that have it: host and path.
    pub held_by: Vec<(String, String)>,
}

/// How a blob got to where it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moved {
    /// It was there, or was taken from elsewhere without its bytes moving through here.
    Nothing,
    /// So many bytes.
    Bytes(u64),
}

/// A cache that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// What to call it, for messages.
    pub name: String,
    /// Its document, where that is one of a registry or a layout.
    pub document: Option<Descriptor>,
}

/// A cache on another machine or in a directory.
#[async_trait]
pub trait CacheBackend: Send + Sync {
    /// Kind and name, for messages, e.g. `registry localhost:5000/app:cache`.
    fn title(&self) -> String;

    /// Reads the cache. No layer is fetched.
    ///
    /// # Errors
    /// When it is not there or cannot be read.
    async fn load(&self) -> Result<Vec<Import>, CacheError>;

    /// Makes sure that the cache has a blob.
    ///
    /// # Errors
    /// When it cannot be written.
    async fn put(&self, blob: &CacheBlob, progress: &Progress) -> Result<Moved, CacheError>;

    /// Replaces the cache by what `config` says, once every blob of it was put.
    ///
    /// # Errors
    /// When it cannot be written; the cache is what it was then.
    async fn publish(&self, config: CacheConfig, blobs: &[CacheBlob]) -> Result<Written, CacheError>;

    /// Whether a cache could be written here now. Writes nothing that stays.
    ///
    /// # Errors
    /// When it could not.
    async fn probe(&self) -> Result<(), CacheError> {
        Ok(())
    }

    /// What carries cache mounts beside the cache; `None` where there is no place for them.
    fn mounts(&self) -> Option<&dyn MountPlace> {
        None
    }
}

/// A cache that can carry cache mounts: a document under a name of its own, and blobs that are put as those of layers.
#[async_trait]
pub trait MountPlace: CacheBackend {
    /// Where the blobs are.
    fn place(&self) -> Place;

    /// Reads the document. Who means to replace it keeps others from doing so meanwhile, where that is possible.
    ///
    /// # Errors
    /// When it is not there or cannot be read.
    async fn load_mounts(&self, to_replace: bool) -> Result<Vec<u8>, CacheError>;

    /// Whether a blob is there, and will be for a while.
    ///
    /// # Errors
    /// When that cannot be found out.
    async fn has(&self, blob: &Descriptor) -> Result<bool, CacheError>;

    /// Replaces the document, once every blob of it is there. Gives what to call it, for messages.
    ///
    /// # Errors
    /// When it cannot be written; the cache is what it was then.
    async fn publish_mounts(&self, document: Vec<u8>, packs: &[Descriptor]) -> Result<String, CacheError>;
}

/// A cache to write to, and what to do with it (SPEC B4.01).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExportOptions {
    /// All results (`mode=max`), not only those whose layers are part of the result's.
    pub everything: bool,
    /// A failure is a warning.
    pub ignore_error: bool,
    /// The codec of blobs.
    pub codec: crate::oci::media_type::Codec,
    /// Compression level.
    pub level: Option<i32>,
    /// Compress layers again that exist with another codec.
    pub force: bool,
}
