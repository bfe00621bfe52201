//! The modules under test, compiled alone: they need no store, no network and no namespaces.

// They, and the targets, name their crate.
extern crate self as rbuild;

/// What they use of `base`.
#[path = "../../src/base"]
pub mod base {
    pub mod digest;
    pub mod events;
    pub mod fault;
    pub mod file;
    pub mod owner;
    pub mod values;
    pub mod wording;

    pub use digest::{DiffId, Digest, DigestWriter};
    pub use fault::FaultKind;
}
#[path = "../../src/archive/mod.rs"]
pub mod archive;
#[path = "../../src/dockerfile/mod.rs"]
pub mod dockerfile;
#[path = "../../src/oci/mod.rs"]
pub mod oci;
/// What registries answer.
#[path = "../../src/registry"]
pub mod registry {
    pub mod answers;
    pub mod challenge;
}
pub mod targets;
