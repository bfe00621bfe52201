//! `rbuild`: a daemonless, rootless container image builder.
//!
//! Modules import from strictly lower layers only; `tests/architecture.rs` enforces it. See `docs/ARCHITECTURE.md`.

pub mod archive;
pub mod base;
pub mod dockerfile;
pub mod exec;
pub mod llb;
pub mod oci;
pub mod source;
pub mod tree;
