//! Tests across the module's files, and what they share.

mod golden;
mod hostile;
mod interop;
mod kernel;
mod layers;
mod random;
mod reuse;
mod support;
mod throughput;
