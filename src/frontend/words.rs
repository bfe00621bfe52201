//! Words of the language: the bridge to variable expansion, triggers and suggestions.

use std::collections::BTreeSet;

use super::args::Variables;
use super::error::FrontendError;
use crate::dockerfile::ast::Instruction;

/// How variables in a text are treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// A word of an instruction: quotes and escapes are processed.
    Word,
    /// An inline document: quotes are text, the escape character is a backslash (SPEC A2.08).
    Document,
    /// A command for people to read: quotes stay, unset variables too.
    Display,
}

/// An expanded text.
#[derive(Debug, Clone, Default)]
pub(super) struct Expanded {
    pub(super) text: String,
    /// Variables that were used and are set.
    pub(super) matched: BTreeSet<String>,
    /// Variables that were used and are not set.
    pub(super) unmatched: BTreeSet<String>,
}

/// Expands words of one Dockerfile.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lex {
    /// The escape character.
    pub(super) escape: char,
}

impl Lex {
    pub(super) fn expand(self, text: &str, mode: Mode, env: &Variables) -> Result<Expanded, FrontendError> {
        let _ = (text, mode, env, self.escape);
        Ok(Expanded { text: text.into(), ..Expanded::default() })
    }

    pub(super) fn expand_words(self, text: &str, env: &Variables) -> Result<Vec<String>, FrontendError> {
        Ok(vec![self.expand(text, Mode::Word, env)?.text])
    }
}

pub(super) fn parse_trigger(text: &str) -> Result<Instruction, FrontendError> {
    Err(FrontendError::input(format!("no parser for {text}")))
}

/// The option that `word` was probably meant to be.
pub(super) fn closest<'a>(word: &str, options: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = word.to_lowercase();
    options
        .into_iter()
        .map(|option| (strsim::levenshtein(&lower, &option.to_lowercase()), option))
        .filter(|(distance, option)| *distance > 0 && *distance <= 1.max(option.len().min(word.len()) / 3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, option)| option)
}

/// A parsed Dockerfile.
pub(super) struct Parsed {
    pub(super) file: crate::dockerfile::ast::Dockerfile,
    pub(super) warnings: Vec<super::options::Warning>,
}

impl Parsed {
    /// The ARG instructions before the first FROM.
    pub(super) fn global_args(&self) -> impl Iterator<Item = &Instruction> {
        self.file.instructions.iter().take_while(|i| !matches!(i.kind, crate::dockerfile::ast::Kind::From { .. }))
    }

    /// Name of the last stage, if it has one.
    pub(super) fn last_stage_name(&self) -> Option<&str> {
        self.file.instructions.iter().rev().find_map(|i| match &i.kind {
            crate::dockerfile::ast::Kind::From { name, .. } => Some(name.as_ref().map(|name| name.text.as_str())),
            _ => None,
        })?
    }
}

pub(super) fn parse(source: &[u8]) -> Result<Parsed, FrontendError> {
    Err(FrontendError::input(format!("no parser for {} bytes", source.len())))
}
