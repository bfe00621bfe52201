//! What the kinds of sources have in common that become a tree of their own: asked once what they are now, brought in
//! only if somebody reads them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::SourceError;
use crate::attest::Material;
use crate::attest::git::GitObjects;
use crate::base::Digest;
use crate::llb::op::SourceOp;
use crate::ssh::Agent;

/// Secret values by id. They go to the server they are for and nowhere else.
pub type SecretValues = BTreeMap<String, Arc<Vec<u8>>>;

/// SSH agents by id.
pub type Agents = BTreeMap<String, Arc<dyn Agent>>;

/// A source of a build.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// The vertex, for progress.
    pub vertex: &'a Digest,
    /// Identifier and attributes.
    pub op: &'a SourceOp,
    /// Secrets of the build.
    pub secrets: &'a SecretValues,
    /// Agents of the build.
    pub agents: &'a Agents,
}

/// What a web server says of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileFacts {
    /// Its name.
    pub name: String,
    /// When it was changed last, in seconds since 1970.
    pub modified: Option<i64>,
}

/// A digest that somebody wants of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checksum {
    /// How it is made.
    pub algorithm: Algorithm,
    /// What stands behind the content for it: signatures are about more than the file.
    pub suffix: Vec<u8>,
}

/// How a digest is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// SHA-256
    Sha256,
    /// SHA-384
    Sha384,
    /// SHA-512
    Sha512,
}

/// A kind of source.
#[async_trait::async_trait]
pub trait Source: Send + Sync {
    /// Finds out what the source is now, as cheaply as possible.
    ///
    /// # Errors
    /// When it does not exist, cannot be reached, or is not what its checksum says.
    async fn pin(&self, request: &Request<'_>) -> Result<Arc<dyn Pinned>, SourceError>;
}

/// A source whose content is settled.
#[async_trait::async_trait]
pub trait Pinned: Send + Sync + std::fmt::Debug {
    /// Equal for equal trees: what the cache key is made of.
    fn key(&self) -> String;

    /// What it is, for provenance.
    fn material(&self) -> Material;

    /// The full name of the ref that was asked for, of a repository.
    fn reference(&self) -> Option<String> {
        None
    }

    /// The object of an annotated tag that led to the commit, of a repository.
    fn tag(&self) -> Option<String> {
        None
    }

    /// What a web server says of a file.
    fn file(&self) -> Option<FileFacts> {
        None
    }

    /// What git keeps of a commit.
    ///
    /// # Errors
    /// When the commit cannot be had.
    async fn objects(&self, request: &Request<'_>) -> Result<Option<GitObjects>, SourceError> {
        let _ = request;
        Ok(None)
    }

    /// The digest of a file's content with something behind it; `None` for what is no file.
    ///
    /// # Errors
    /// When the content cannot be had.
    async fn checksum(&self, request: &Request<'_>, wanted: Checksum) -> Result<Option<String>, SourceError> {
        let _ = (request, wanted);
        Ok(None)
    }

    /// Seconds since 1970 at which the content was made, where the source knows it (SPEC A4.18).
    ///
    /// # Errors
    /// When finding out needs the content and that cannot be had.
    async fn time(&self, request: &Request<'_>) -> Result<Option<i64>, SourceError>;

    /// Puts the tree into `dest`, an empty directory.
    ///
    /// # Errors
    /// When the content cannot be had or written.
    async fn materialise(&self, dest: &Path, request: &Request<'_>) -> Result<(), SourceError>;
}
