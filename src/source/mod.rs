//! Layer 5: where content from outside comes in.
//!
//! Images of registries and of OCI layouts: what a name means (resolve), which layers it has (known to the store at
//! once, downloaded only when something reads them), and their download. And what becomes a tree of its own: files from
//! web servers, git repositories, blobs; each is a [`Source`], found by its scheme in [`Sources`]. Knows the store and
//! the registry client; knows nothing of the solver or of Dockerfiles. Start reading at [`ImageSource`] and [`kind`].

mod attested;
mod attributes;
mod blob;
mod document;
mod error;
mod fetch;
mod file;
pub mod git;
pub mod http;
pub mod image;
pub mod kind;
mod late;
pub mod local;
mod nearby;
pub mod oci_layout;
mod once;
mod signed;
mod sources;

pub use attributes::ImageAttributes;
pub use document::{below, choose};
pub use error::SourceError;
pub use fetch::{BlobPlace, LAYOUT_HOST, OBJECT_HOST, PlaceFault};
pub use image::ImageSource;
pub use kind::{Agents, Algorithm, Checksum, FileFacts, Pinned, Request, SecretValues, Source};
pub use nearby::Nearby;
pub use sources::Sources;

#[cfg(test)]
mod tests;
