//! Finds the best rung by performing its operations in forked children.

use std::path::Path;

use crate::report::ProbeReport;

/// What a probe needs to know.
#[derive(Debug, Clone, Copy)]
pub struct ProbeInput<'a> {
    /// The store's directory (need not exist).
    pub store: &'a Path,
}

/// Identity of everything a probe's result depends on.
#[must_use]
pub fn cache_key(input: &ProbeInput<'_>) -> String {
    todo!("{input:?}")
}

/// Probes the machine. The caller must be single-threaded.
#[must_use]
pub fn probe(input: &ProbeInput<'_>) -> ProbeReport {
    todo!("{input:?}")
}
