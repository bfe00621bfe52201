//! From bytes to the tree (SPEC A1, A2).
//!
//! [`parse`] never fails as a whole: it gives every instruction it can read and every error it finds. It does no
//! I/O and expands no variables. Physical lines become logical ones in `lines`, words in `words`, `flags` and
//! `heredoc`, instructions in `instruction`.

mod directives;
mod flags;
mod healthcheck;
mod heredoc;
mod instruction;
mod lines;
mod problem;
mod words;

#[cfg(test)]
mod tests;

use super::ast::{Directives, Dockerfile, Instruction, Kind, Span, Word};
use super::diagnostic::{Diagnostic, Diagnostics};
use super::lint::Rule;
use instruction::Reader;
use lines::{Cursor, Line, Logical, Source};

pub(super) use lines::continued;

pub use directives::{Syntax, detect_check, detect_syntax};
pub use heredoc::is_one_heredoc;

/// A tree and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Parsed {
    /// Everything that could be read; instructions with errors are left out.
    pub dockerfile: Dockerfile,
    /// In order of appearance. With any of these the file must not be built.
    pub errors: Vec<Diagnostic>,
    /// In order of appearance; each has a rule.
    pub warnings: Vec<Diagnostic>,
}

impl Parsed {
    /// The tree and its warnings if there is no error.
    #[cfg(test)]
    pub(in crate::dockerfile) fn into_result(self) -> Result<(Dockerfile, Vec<Diagnostic>), Diagnostics> {
        if self.errors.is_empty() { Ok((self.dockerfile, self.warnings)) } else { Err(Diagnostics(self.errors)) }
    }
}

/// Parses a Dockerfile. Lines may have any length (SPEC A1.11).
#[must_use]
pub fn parse(source: &[u8]) -> Parsed {
    let source_text = Source::new(source);
    let mut parser = Parser::new(&source_text, Some(Directives::default()));
    parser.run();
    let mut parsed = parser.parsed;
    if parsed.errors.is_empty() {
        let stage = |instruction: &Instruction| matches!(instruction.kind, Kind::From { .. });
        let instructions = &parsed.dockerfile.instructions;
        let message = if source.is_empty() {
            Some("the Dockerfile cannot be empty")
        } else if instructions.is_empty() {
            Some("file with no instructions")
        } else if !instructions.iter().any(stage) {
            Some("dockerfile contains no stages to build")
        } else {
            None
        };
        let hint = "a Dockerfile begins with FROM and the image to build upon, or FROM scratch";
        parsed.errors.extend(message.map(|message| Diagnostic::whole_file(message).with_hint(hint)));
    }
    parsed
}

/// Parses one ONBUILD trigger as an image config holds it (SPEC A8.12). Spans are offsets in `text`.
pub fn parse_trigger(text: &str, escape: char) -> Result<Instruction, Diagnostics> {
    let source = Source::new(text.as_bytes());
    let mut parser = Parser::new(&source, None);
    parser.parsed.dockerfile.directives.escape = Some(escape);
    parser.run();
    let Parsed { dockerfile, errors, .. } = parser.parsed;
    if !errors.is_empty() {
        return Err(Diagnostics(errors));
    }
    match <[Instruction; 1]>::try_from(dockerfile.instructions) {
        Ok([instruction]) => Ok(instruction),
        Err(_) => Err(Diagnostics(vec![Diagnostic::whole_file("onbuild trigger should be a single expression")])),
    }
}

struct Parser<'s> {
    cursor: Cursor<'s>,
    parsed: Parsed,
    /// The text is a trigger: no directives, no FROM.
    trigger: bool,
    /// Directives may still come.
    top: bool,
    /// Comment lines directly above.
    comments: Vec<String>,
    /// There is a FROM, or an error that may have swallowed it.
    in_stage: bool,
    /// «No build stage» was said; once is enough.
    stage_missed: bool,
}

impl<'s> Parser<'s> {
    fn new(source: &'s Source<'s>, directives: Option<Directives>) -> Self {
        let trigger = directives.is_none();
        let dockerfile = Dockerfile { directives: directives.unwrap_or_default(), instructions: Vec::new() };
        Self {
            cursor: Cursor::new(source),
            parsed: Parsed { dockerfile, ..Parsed::default() },
            trigger,
            top: !trigger,
            comments: Vec::new(),
            in_stage: trigger,
            stage_missed: false,
        }
    }

    fn run(&mut self) {
        while let Some(line) = self.cursor.next_line() {
            let text = line.text.trim_start();
            if let Some(comment) = text.strip_prefix('#') {
                self.comment(comment, line.text_end());
                continue;
            }
            self.top = false;
            if text.is_empty() {
                self.comments.clear();
                continue;
            }
            let at = line.text_end() - text.len();
            self.instruction(text, at);
        }
    }

    /// `text` is what follows the marker and ends at `end`.
    fn comment(&mut self, text: &str, end: usize) {
        let start = end - text.len();
        if self.top {
            match directives::directive(text) {
                Some((key, value, at)) => {
                    let span = start + at..start + at + value.len();
                    self.directive(&key, value, span);
                    return;
                }
                None => self.top = false,
            }
        }
        if text.trim().is_empty() {
            self.comments.clear();
        } else {
            self.comments.push(self.cursor.source.readable(start..end).trim().to_owned());
        }
    }

    fn directive(&mut self, key: &str, value: &str, span: Span) {
        let directives = &mut self.parsed.dockerfile.directives;
        let word = Word { text: value.to_owned(), span: span.clone() };
        let seen = match key {
            "syntax" => directives.syntax.replace(word).is_some(),
            "check" => {
                directives.check_line = self.cursor.source.line_of(span.start);
                directives.check.replace(word).is_some()
            }
            _ => directives.escape.is_some(),
        };
        if seen {
            self.error(Diagnostic::whole_file(format!("only one {key} parser directive can be used")), span);
        } else if key == "escape" {
            match value {
                "\\" => directives.escape = Some('\\'),
                "`" => directives.escape = Some('`'),
                _ => {
                    let message = format!("invalid escape token '{value}' does not match ` or \\");
                    self.error(Diagnostic::whole_file(message), span);
                }
            }
        }
    }

    fn instruction(&mut self, text: &'s str, at: usize) {
        let escape = self.parsed.dockerfile.directives.escape_char();
        let mut logical = Logical::default();
        let mut gap: Option<Span> = None;
        let mut next = Some((text, at));
        while let Some((text, at)) = next {
            let Some(before) = continued(text, escape) else {
                logical.push(text, at);
                break;
            };
            logical.push(before, at);
            next = self.continuation(&mut gap).map(|line| (line.text, line.start));
        }
        let slice = logical.slice();
        let comments = std::mem::take(&mut self.comments);
        if slice.is_empty() {
            return;
        }
        let line_span = slice.span();
        let source = self.cursor.source;
        let lines = (source.line_of(line_span.start), source.line_of(line_span.end.saturating_sub(1)));
        if let Some(gap) = gap {
            // Reported on the last line of the instruction, as the reference implementation does.
            let mut warning = Diagnostic::at("Empty continuation line", gap, (lines.1, lines.1));
            warning.rule = Some(Rule::NoEmptyContinuation);
            self.parsed.warnings.push(warning);
        }
        let mut reader = Reader::new(&mut self.cursor, escape);
        let mut result = reader.read(&slice, comments, self.trigger);
        // In comments between the lines anything may stand.
        if result.is_ok() && source.invalid_in(&line_span).is_some() && slice.text().contains(lines::INVALID) {
            result = Err(problem::Problem::new("instruction is not valid UTF-8"));
        }
        match result {
            Ok(instruction) => self.accept(instruction),
            Err(problem) => {
                // It may have been the FROM that the others miss.
                self.in_stage = true;
                let problem::Problem { message, suggestion, hint, span } = problem;
                let span = span.unwrap_or(line_span);
                let mut diagnostic = Diagnostic::at(message, span, lines);
                diagnostic.suggestion = suggestion;
                diagnostic.hint = hint;
                self.parsed.errors.push(diagnostic);
            }
        }
    }

    /// The next line of a continued instruction; comments and blank lines are skipped (SPEC A1.06, A1.09).
    fn continuation(&mut self, gap: &mut Option<Span>) -> Option<Line<'s>> {
        loop {
            let line = self.cursor.next_line()?;
            let text = line.text.trim_start();
            if text.is_empty() {
                gap.get_or_insert(line.start..line.text_end());
            } else if !text.starts_with('#') {
                return Some(line);
            }
        }
    }

    fn accept(&mut self, instruction: Instruction) {
        match instruction.kind {
            Kind::From { .. } => self.in_stage = true,
            Kind::Arg(_) => {}
            _ if self.in_stage => {}
            _ => {
                if !self.stage_missed {
                    self.stage_missed = true;
                    self.parsed.errors.push(
                        Diagnostic::at("no build stage in current context", instruction.span, instruction.lines)
                            .with_hint("begin the Dockerfile with FROM; only ARG may stand before it"),
                    );
                }
                return;
            }
        }
        self.parsed.dockerfile.instructions.push(instruction);
    }

    fn error(&mut self, diagnostic: Diagnostic, span: Span) {
        let line = self.cursor.source.line_of(span.start);
        self.parsed.errors.push(Diagnostic { span: Some(span), lines: Some((line, line)), ..diagnostic });
    }
}
