//! The modules under test, compiled alone: they need no store, no network and no namespaces.

/// What they use of `base`.
#[path = "../../src/base"]
pub mod base {
    pub mod digest;
    pub mod events;
    pub mod values;
    pub mod wording;

    pub use digest::Digest;
}
#[path = "../../src/dockerfile/mod.rs"]
pub mod dockerfile;
