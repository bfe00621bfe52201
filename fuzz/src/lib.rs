//! The modules under test, compiled alone: they need no store, no network and no namespaces.

#[path = "../../src/base/mod.rs"]
pub mod base;
#[path = "../../src/dockerfile/mod.rs"]
pub mod dockerfile;
