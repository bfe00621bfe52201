//! An error inside an instruction before its line range is known.

use crate::base::wording::closest;
use crate::dockerfile::ast::Span;

/// What becomes a `Diagnostic`.
pub(super) struct Problem {
    pub(super) message: String,
    pub(super) suggestion: Option<String>,
    pub(super) hint: Option<String>,
    /// `None`: the whole instruction.
    pub(super) span: Option<Span>,
}

impl Problem {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), suggestion: None, hint: None, span: None }
    }

    pub(super) fn at(mut self, span: Span) -> Self {
        self.span = Some(span);
        self
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// In small letters where the word is.
    pub(super) fn suggest<'a>(mut self, word: &str, options: impl IntoIterator<Item = &'a str>) -> Self {
        let small = word.chars().all(|c| !c.is_uppercase());
        self.suggestion = closest(word, options).map(|near| if small { near.to_lowercase() } else { near.to_owned() });
        self
    }
}

/// Result of reading a part of an instruction.
pub(super) type Parse<T> = Result<T, Problem>;
