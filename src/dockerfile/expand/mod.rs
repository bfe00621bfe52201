//! Substitution of variables in words (SPEC A3).
//!
//! [`Expander`] is the entry. It knows nothing of ARG and ENV: the caller gives a look-up function and learns from
//! [`Expansion`] which names were used and which of them had no value.

mod pattern;
mod scan;

#[cfg(test)]
mod tests;

use crate::base::wording::quote;

/// How quotes, escapes and undefined variables are treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Arguments of instructions: quotes group and disappear, escapes take the next character literally.
    Word,
    /// Sources of COPY and ADD: as [`Mode::Word`], but an escaped wildcard stays escaped, with a backslash, because it
    /// means the character and not the wildcard (SPEC A6.06).
    Source,
    /// Bodies of COPY and ADD heredocs: quotes are ordinary characters, escapes work (SPEC A2.08).
    Heredoc,
    /// For showing a command to people: quotes and escapes are kept, undefined variables stay as written.
    Display,
}

/// A word after substitution.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Expansion {
    /// The result.
    pub text: String,
    /// Names that had a value, in order of first use.
    pub used: Vec<String>,
    /// Names that had none and silently became empty, in order of first use. A name whose absence the word itself
    /// provides for (`${x:-y}`, `${x+y}`) is not listed.
    pub undefined: Vec<String>,
}

/// A word that cannot be expanded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to process {}: {fault}", quote(.text))]
pub struct ExpandError {
    /// The word as written.
    pub text: String,
    /// What is wrong with it.
    pub fault: ExpandFault,
}

/// Why a word cannot be expanded (SPEC A3.02–A3.06).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExpandFault {
    /// `${}`, `${:…`, `${{`
    #[error("syntax error: bad substitution")]
    BadSubstitution,
    /// `${x`
    #[error("syntax error: missing '}}'")]
    MissingBrace,
    /// `${x/pattern}`
    #[error("syntax error: missing '/' in ${{}}")]
    MissingSlash,
    /// `${x@…}`
    #[error("unsupported modifier ({0}) in substitution")]
    UnsupportedModifier(String),
    /// `${x:?message}`
    #[error("{name}: {message}")]
    Required {
        /// Variable.
        name: String,
        /// Given or standard text.
        message: String,
    },
    /// `'…`
    #[error("unexpected end of statement while looking for matching single-quote")]
    SingleQuote,
    /// `"…`
    #[error("unexpected end of statement while looking for matching double-quote")]
    DoubleQuote,
    /// A pattern with an escape that means nothing.
    #[error("invalid pattern ({pattern}) in substitution: {reason}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Substitutions inside substitutions beyond any sane use.
    #[error("substitutions are nested deeper than {}", scan::MAX_DEPTH)]
    TooDeep,
    /// A result that would eat the memory.
    #[error("the result is larger than {} MiB", scan::MAX_RESULT >> 20)]
    TooLarge,
}

/// Expands words of one Dockerfile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expander {
    escape: char,
    mode: Mode,
}

/// Gives the value of a variable.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

impl Expander {
    /// An expander for the given escape character (`Directives::escape_char`).
    #[must_use]
    pub fn new(escape: char, mode: Mode) -> Self {
        Self { escape, mode }
    }

    /// An expander for the arguments of instructions.
    #[must_use]
    pub fn words(escape: char) -> Self {
        Self::new(escape, Mode::Word)
    }

    /// An expander for heredoc bodies; their escape character is always the backslash.
    #[must_use]
    pub fn heredoc() -> Self {
        Self::new('\\', Mode::Heredoc)
    }

    /// Substitutes variables in `text`; blanks are kept.
    pub fn expand(&self, text: &str, lookup: Lookup<'_>) -> Result<Expansion, ExpandError> {
        self.run(text, lookup, None)
    }

    /// Substitutes variables and then splits at white space that is neither quoted nor escaped; white space from
    /// unquoted variables separates words (EXPOSE, SPEC A3.07). Empty words vanish.
    pub fn expand_words(&self, text: &str, lookup: Lookup<'_>) -> Result<(Vec<String>, Expansion), ExpandError> {
        let mut words = scan::Words::default();
        let expansion = self.run(text, lookup, Some(&mut words))?;
        Ok((words.finish(), expansion))
    }

    fn run(&self, text: &str, lookup: Lookup<'_>, words: Option<&mut scan::Words>) -> Result<Expansion, ExpandError> {
        let options = scan::Options {
            escape: self.escape,
            quotes: self.mode != Mode::Heredoc,
            keep_quotes: self.mode == Mode::Display,
            keep_escapes: self.mode == Mode::Display,
            keep_undefined: self.mode == Mode::Display,
            keep_wildcards: self.mode == Mode::Source,
        };
        scan::scan(text, &options, lookup, words).map_err(|fault| ExpandError { text: text.to_owned(), fault })
    }
}

/// How a heredoc delimiter reads with and without its quotes, if it is exactly one word (SPEC A2.02–A2.03).
/// Undefined variables stay as written, the escape character is the backslash.
pub(super) fn delimiter(raw: &str) -> Result<Option<(String, String)>, ExpandError> {
    let read = |keep_quotes| {
        let options = scan::Options {
            escape: '\\',
            quotes: true,
            keep_quotes,
            keep_escapes: false,
            keep_undefined: true,
            keep_wildcards: false,
        };
        let mut words = scan::Words::default();
        scan::scan(raw, &options, &|_| None, Some(&mut words))
            .map_err(|fault| ExpandError { text: raw.to_owned(), fault })?;
        Ok(words.finish())
    };
    let (Ok([plain]), Ok([quoted])) = (<[String; 1]>::try_from(read(false)?), <[String; 1]>::try_from(read(true)?))
    else {
        return Ok(None);
    };
    Ok(Some((plain, quoted)))
}
