//! Words of the language: the bridge to the parser, to variable expansion and to suggestions.

use super::args::Variables;
use super::error::{FrontendError, Place};
use super::options::Warning;
use crate::dockerfile::ast::{Dockerfile, Instruction, Kind};
use crate::dockerfile::{Diagnostic, Diagnostics, Expander, Expansion};

pub(super) use crate::dockerfile::{Mode, closest};

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
