//! Layer 4: sources: where trees come from.

pub mod local;
