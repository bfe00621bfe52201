//! COPY straight into a layer: no directory is written.
//!
//! A [`LayerPlan`] is the tree below (looked up, never read) with what the actions put on top of it, kept in memory by name:
//! some hundred bytes for each file. [`LayerPlan::write`] then reads each file once, into the tar. The layer has the bytes that
//! the same actions on a directory and a diff of that give (tests/`direct_tests.rs`); what cannot be said without a directory is
//! [`Refused::NeedsDirectory`], before anything was written.

mod below;
mod nodes;
mod walk;

#[cfg(test)]
#[allow(clippy::print_stdout, reason = "tests say what they skip")]
mod tests;

pub use below::{Below, BelowDirectory, BelowIndexes};
pub use nodes::{LayerPlan, WriteError};

use super::error::FileOpError;

/// Why a layer was not planned.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// It takes a directory to tell what this gives; for people, the reason.
    #[error("needs a directory: {0}")]
    NeedsDirectory(&'static str),
    /// It fails, with or without a directory.
    #[error(transparent)]
    Failed(#[from] FileOpError),
}
