//! `rbuild`: a daemonless, rootless container image builder.
//!
//! Modules import from strictly lower layers only; `tests/architecture.rs` enforces it. See `docs/ARCHITECTURE.md`.

pub mod archive;
pub mod attest;
pub mod bake;
pub mod base;
pub mod build;
pub mod cache;
pub mod cli;
pub mod dockerfile;
pub mod engine;
pub mod exec;
pub mod exporter;
pub mod frontend;
pub mod grpc;
pub mod images;
pub mod llb;
pub mod oci;
pub mod policy;
pub mod registry;
pub mod solver;
pub mod source;
pub mod ssh;
pub mod store;
pub mod tree;
pub mod ui;
