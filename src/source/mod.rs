//! Layer 4: where content from outside comes in.
//!
//! Images of registries and of OCI layouts: what a name means (resolve), which layers it has (known to the store at
//! once, downloaded only when something reads them), and their download. Knows the store and the registry client;
//! knows nothing of the solver or of Dockerfiles. Start reading at [`ImageSource`].

mod attributes;
mod document;
mod error;
mod fetch;
pub mod image;
pub mod oci_layout;

pub use attributes::ImageAttributes;
pub use error::SourceError;
pub use fetch::LAYOUT_HOST;
pub use image::ImageSource;

#[cfg(test)]
mod tests;
