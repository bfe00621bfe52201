//! What goes wrong between a Dockerfile and its graph, and where.

use super::options::Warning;
use crate::base::FaultKind;
use crate::dockerfile::ast::{Instruction, Span, Word};
use crate::llb::HostError;

/// A place in the Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// 1-based first and last line.
    pub lines: (u32, u32),
    /// The bytes concerned, where it is more precise than the lines.
    pub span: Option<Span>,
}

impl From<&Instruction> for Place {
    fn from(instruction: &Instruction) -> Self {
        Self { lines: instruction.lines, span: Some(instruction.span.clone()) }
    }
}

impl Place {
    /// The place of a word of the instruction that stands here. Without a span of its own the instruction is the
    /// trigger of an image, whose words are not in the file.
    pub(super) fn word(&self, word: &Word) -> Self {
        Self { lines: self.lines, span: self.span.as_ref().map(|_| word.span.clone()) }
    }
}

/// Why a Dockerfile cannot be turned into a graph.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct FrontendError {
    /// For the exit code.
    pub kind: FaultKind,
    /// One line, complete.
    pub message: String,
    /// The remedy, where known.
    pub hint: Option<String>,
    /// Where in the Dockerfile.
    pub place: Option<Place>,
    /// Further errors of the same file, in order of appearance.
    pub others: Box<[FrontendError]>,
    /// Checks that had failed by then.
    pub warnings: Box<[Warning]>,
}

impl FrontendError {
    /// A mistake in the Dockerfile or the context.
    pub(super) fn input(message: impl Into<String>) -> Self {
        Self {
            kind: FaultKind::Input,
            message: message.into(),
            hint: None,
            place: None,
            others: Box::default(),
            warnings: Box::default(),
        }
    }

    /// A failure outside of the front end, on the way to its input.
    #[must_use]
    pub fn outside(kind: FaultKind, message: impl Into<String>, hint: Option<String>) -> Self {
        Self { kind, hint, ..Self::input(message) }
    }

    /// A mistake in the options.
    pub(super) fn usage(message: impl Into<String>) -> Self {
        Self { kind: FaultKind::Usage, ..Self::input(message) }
    }

    /// A defect of the program.
    pub(super) fn internal(message: impl Into<String>) -> Self {
        Self { kind: FaultKind::Internal, ..Self::input(message) }
    }

    /// Adds a remedy.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds `(did you mean X?)` where `word` resembles one of `options` (SPEC G.06).
    #[must_use]
    pub(super) fn suggest<'a>(mut self, word: &str, options: impl IntoIterator<Item = &'a str>) -> Self {
        if let Some(close) = super::words::closest(word, options) {
            self.message.push_str(&format!(" (did you mean {close}?)"));
        }
        self
    }

    /// Sets the place unless a more precise one is known.
    #[must_use]
    pub fn at(mut self, place: &Place) -> Self {
        self.place.get_or_insert_with(|| place.clone());
        self
    }
}

impl From<HostError> for FrontendError {
    fn from(error: HostError) -> Self {
        Self::outside(error.kind, error.message, error.hint)
    }
}
