//! Words of the language: the bridge to the parser, to variable expansion and to suggestions.

use super::args::Variables;
use super::error::{FrontendError, Place};
use crate::dockerfile::ast::Instruction;
use crate::dockerfile::{self, Diagnostic, Expander, Expansion};

pub(super) use crate::base::wording::closest;
pub(super) use crate::dockerfile::Mode;

/// Parses a trigger that a base image holds.
pub(super) fn parse_trigger(text: &str, escape: char) -> Result<Instruction, FrontendError> {
    dockerfile::parse_trigger(text, escape).map_err(|errors| FrontendError { place: None, ..mistakes(errors.0) })
}

/// What the parser found wrong, as one error.
pub(super) fn mistakes(errors: Vec<Diagnostic>) -> FrontendError {
    let mut errors = errors.into_iter().map(|error| {
        let (place, message) = (place(&error), error.to_string());
        FrontendError { place, hint: error.hint, ..FrontendError::input(message) }
    });
    let first = errors.next().unwrap_or_else(|| FrontendError::internal("the parser failed without an error"));
    FrontendError { others: errors.collect(), ..first }
}

fn place(diagnostic: &Diagnostic) -> Option<Place> {
    diagnostic.lines.map(|lines| Place { lines, span: diagnostic.span.clone() })
}

/// Expands words of one Dockerfile.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lex {
    escape: char,
}

impl Lex {
    /// For a file with this escape character.
    pub(super) fn new(escape: char) -> Self {
        Self { escape }
    }

    /// Replaces the variables in `text`.
    pub(super) fn expand(self, text: &str, mode: Mode, env: &Variables) -> Result<Expansion, FrontendError> {
        let expander = match mode {
            Mode::Heredoc => Expander::heredoc(),
            mode => Expander::new(self.escape, mode),
        };
        expander.expand(text, &|name| env.get(name).cloned()).map_err(|error| FrontendError::input(error.to_string()))
    }

    /// [`Lex::expand`], then splits into words.
    pub(super) fn expand_words(self, text: &str, env: &Variables) -> Result<Vec<String>, FrontendError> {
        Expander::words(self.escape)
            .expand_words(text, &|name| env.get(name).cloned())
            .map(|(words, _)| words)
            .map_err(|error| FrontendError::input(error.to_string()))
    }
}
