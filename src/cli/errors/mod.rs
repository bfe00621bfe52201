//! Errors as people see them: the place in the Dockerfile, the message, the hint, the exit code.
//!
//! | exit code | meaning |
//! | --- | --- |
//! | 0 | success |
//! | 1 | a defect of rbuild |
//! | 2 | the command line or a flag's value is wrong |
//! | 4 | the Dockerfile or the context is wrong |
//! | 5 | a registry refused or does not have it |
//! | 6 | credentials are missing or wrong |
//! | 7 | a server cannot be reached |
//! | 8 | the store or an output cannot be read or written, or the disk is full |
//! | 9 | a RUN step failed |
//! | 10 | this machine does not allow what the build needs |
//! | 130 | stopped by the user |

mod codes;
mod failing_line;

use std::io::Write;
use std::path::Path;

use crate::base::FaultKind;
use crate::build::BuildError;
use crate::dockerfile::excerpt;
use crate::frontend::FrontendError;
use crate::ui::FailedStep;

pub use codes::ExitCodes;

/// An error on its way to the user.
#[derive(Debug, Clone)]
pub struct Failure {
    /// For the exit code.
    pub kind: FaultKind,
    /// One line.
    pub message: String,
    /// The remedy, where known.
    pub hint: Option<String>,
    /// Lines of the Dockerfile with the failing instruction marked.
    pub excerpt: Option<String>,
    /// What else is wrong with the same file.
    pub others: Vec<Failure>,
    /// With what the command of a RUN step ended.
    pub exited: Option<u8>,
}

/// What is known of the step that failed, beside the error.
#[derive(Debug, Clone, Copy, Default)]
pub struct Aftermath<'a> {
    /// What it said last.
    pub step: Option<&'a FailedStep>,
    /// Where all of that is.
    pub log: Option<&'a Path>,
    /// The command that enters the failed step again.
    pub enter: Option<&'a str>,
}

/// More mistakes than this are counted, not shown.
const SHOWN: usize = 10;

impl Failure {
    /// A failure without a place.
    pub fn new(kind: FaultKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None, excerpt: None, others: Vec::new(), exited: None }
    }

    /// Adds the remedy.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// A failed build; `filename` and `source` are the Dockerfile's, `said` what the failed step said last.
    #[must_use]
    pub fn of_build(error: &BuildError, filename: &str, source: &[u8], said: &[String]) -> Self {
        let failure = Self::new(error.kind(), error.to_string());
        match error {
            BuildError::Frontend(e) => Self::of_front_end(e, filename, source),
            BuildError::Solve(e) => {
                let lines = e.location().and_then(|(_, ranges)| ranges.first().copied());
                let message = match error.kind() {
                    FaultKind::Step => format!("failed to solve: {}", e.message()),
                    _ => failure.message,
                };
                let line = lines.filter(|lines| lines.0 != lines.1).and_then(|lines| {
                    let step = e.failed_step()?;
                    failing_line::find(&String::from_utf8_lossy(source), lines, &step.args(), step.code, said)
                });
                let excerpt = lines.and_then(|lines| match line {
                    Some(line) => excerpt::excerpt_of_line(filename, source, lines, line),
                    None => excerpt::excerpt(filename, source, lines, None),
                });
                let exited = e.failed_step().and_then(|step| u8::try_from(step.code).ok()).filter(|code| *code != 0);
                Self { message, hint: e.hint().map(ToOwned::to_owned), excerpt, exited, ..failure }
            }
            BuildError::Export(e) => Self { hint: e.hint(), ..failure },
            BuildError::Cache(e) => Self { hint: e.hint(), ..failure },
            BuildError::Internal(_) => failure,
        }
    }

    /// A Dockerfile that is none.
    #[must_use]
    pub fn of_front_end(error: &FrontendError, filename: &str, source: &[u8]) -> Self {
        let place = error.place.as_ref();
        Self {
            hint: error.hint.clone(),
            excerpt: place.and_then(|place| excerpt::excerpt(filename, source, place.lines, place.span.as_ref())),
            others: error.others.iter().map(|other| Self::of_front_end(other, filename, source)).collect(),
            ..Self::new(error.kind, error.message.clone())
        }
    }

    /// Our exit code.
    #[must_use]
    pub fn code(&self) -> u8 {
        exit_code(self.kind)
    }

    /// Writes it, with what is known of the step that failed.
    pub fn print(&self, out: &mut dyn Write, after: &Aftermath<'_>) -> std::io::Result<()> {
        if let Some(step) = after.step.filter(|_| self.kind == FaultKind::Step) {
            writeln!(out, "------\n > {}:", step.name)?;
            for line in &step.tail {
                writeln!(out, "{line}")?;
            }
            writeln!(out, "------")?;
        }
        if let Some(excerpt) = &self.excerpt {
            writeln!(out, "{}", excerpt.trim_end())?;
        }
        if self.kind == FaultKind::Interrupted {
            return writeln!(out, "canceled");
        }
        writeln!(out, "error: {}", self.message)?;
        if let Some(log) = after.log {
            writeln!(out, "the whole log of the step: {} (zstdcat shows it)", log.display())?;
        }
        if let Some(enter) = after.enter {
            writeln!(out, "to look around where it failed: {enter}")?;
        }
        if let Some(hint) = &self.hint {
            writeln!(out, "hint: {hint}")?;
        }
        for other in self.others.iter().take(SHOWN) {
            writeln!(out)?;
            other.print(out, &Aftermath::default())?;
        }
        match self.others.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => writeln!(out, "\nand {more} more errors"),
        }
    }
}

/// See the table above.
#[must_use]
pub fn exit_code(kind: FaultKind) -> u8 {
    match kind {
        FaultKind::Internal => 1,
        FaultKind::Usage => 2,
        FaultKind::Input => 4,
        FaultKind::Remote => 5,
        FaultKind::Auth => 6,
        FaultKind::Network => 7,
        FaultKind::Store | FaultKind::NoSpace => 8,
        FaultKind::Step => 9,
        FaultKind::Isolation => 10,
        FaultKind::Interrupted => 130,
    }
}

#[cfg(test)]
mod tests;
