//! Bytes to a syntax tree (SPEC A1, A2, A8).
//!
//! [`lines`] joins physical lines into logical ones and reads directives and heredocs; [`words`] splits text;
//! [`instruction`] and [`command`] make the nodes. Parsing goes on after an error, so that one run shows them all.

mod command;
mod heredoc;
mod instruction;
mod lines;
mod transfer;
mod words;

use super::ast::{Dockerfile, Instruction};
use super::diagnostic::{Diagnostic, Diagnostics};

/// A parsed Dockerfile.
#[derive(Debug, Clone, Default)]
pub struct Parsed {
    /// The tree.
    pub file: Dockerfile,
    /// 1-based line ranges of instructions with blank lines inside a continuation (SPEC A1.09).
    pub empty_continuations: Vec<(u32, u32)>,
}

/// Parses a Dockerfile.
///
/// # Errors
/// Every mistake found, in order of appearance.
pub fn parse(source: &[u8]) -> Result<Parsed, Diagnostics> {
    if source.is_empty() {
        return Err(Diagnostics(vec![Diagnostic::whole_file("the Dockerfile cannot be empty")]));
    }
    let text = String::from_utf8_lossy(source);
    let mut errors = Vec::new();
    let mut reader = lines::Reader::new(&text);
    let directives = reader.directives(&mut errors);
    let escape = directives.escape_char();
    let mut parsed = Parsed { file: Dockerfile { directives, instructions: Vec::new() }, ..Parsed::default() };
    while let Some(logical) = reader.next(escape, &mut errors) {
        if logical.has_empty_lines {
            parsed.empty_continuations.push(logical.lines);
        }
        match instruction::parse(&logical, escape) {
            Ok(instruction) => parsed.file.instructions.push(instruction),
            Err(error) => errors.push(error),
        }
    }
    if !errors.is_empty() {
        return Err(Diagnostics(errors));
    }
    if parsed.file.instructions.is_empty() {
        return Err(Diagnostics(vec![Diagnostic::whole_file("file with no instructions")]));
    }
    Ok(parsed)
}

/// Parses the text of an ONBUILD trigger (SPEC A8.12).
///
/// # Errors
/// If it is not exactly one instruction.
pub fn parse_trigger(text: &str, escape: char) -> Result<Instruction, Diagnostic> {
    let mut errors = Vec::new();
    let mut reader = lines::Reader::new(text);
    let first = reader.next(escape, &mut errors);
    let more = reader.next(escape, &mut errors).is_some();
    if let Some(error) = errors.into_iter().next() {
        return Err(error);
    }
    match first {
        Some(logical) if !more => instruction::parse(&logical, escape),
        Some(_) => Err(Diagnostic::whole_file("an ONBUILD trigger must be a single instruction")),
        None => Err(Diagnostic::whole_file("an ONBUILD trigger is empty")),
    }
}

#[cfg(test)]
mod tests;
