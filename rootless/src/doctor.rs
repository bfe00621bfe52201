//! Everything `rbuild doctor` prints, as data.

use serde::Serialize;

use crate::probe::ProbeInput;
use crate::report::ProbeReport;

/// One fact about the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fact {
    /// What was looked at.
    pub name: &'static str,
    /// What was found.
    pub value: String,
    /// Whether that is good for building; `None` where it is neither good nor bad.
    pub good: Option<bool>,
}

/// A probe with the facts around it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DoctorReport {
    /// The probe.
    pub probe: ProbeReport,
    /// What was looked at besides.
    pub facts: Vec<Fact>,
}

/// Examines the machine. The caller must be single-threaded.
#[must_use]
pub fn doctor(input: &ProbeInput<'_>) -> DoctorReport {
    todo!("{input:?}")
}
