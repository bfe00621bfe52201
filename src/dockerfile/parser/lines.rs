//! Physical lines to logical ones: directives, comments, continuation, heredoc bodies.

use super::super::ast::{Directives, Heredoc, Span, Word};
use super::super::diagnostic::Diagnostic;
use super::heredoc;

/// An instruction's text with its continuation lines joined.
#[derive(Debug)]
pub(super) struct Logical {
    pub(super) text: String,
    /// (offset in `text`, offset in the file), ascending.
    pieces: Vec<(usize, usize)>,
    pub(super) span: Span,
    pub(super) lines: (u32, u32),
    pub(super) comments: Vec<String>,
    pub(super) heredocs: Vec<Heredoc>,
    pub(super) has_empty_lines: bool,
}

impl Logical {
    /// Where a range of `text` stands in the file.
    pub(super) fn span_of(&self, range: &Span) -> Span {
        if range.is_empty() {
            let at = self.source_at(range.start);
            return at..at;
        }
        self.source_at(range.start)..self.source_at(range.end - 1) + 1
    }

    fn source_at(&self, at: usize) -> usize {
        let piece = self.pieces.partition_point(|p| p.0 <= at).saturating_sub(1);
        self.pieces.get(piece).map_or(at, |(text, source)| source + (at - text))
    }

    /// A word of `text`.
    pub(super) fn word(&self, range: Span) -> Word {
        Word { text: self.text[range.clone()].to_owned(), span: self.span_of(&range) }
    }

    /// An error about a range of `text`.
    pub(super) fn error(&self, message: impl Into<String>, range: &Span) -> Diagnostic {
        Diagnostic::at(message, self.span_of(range), self.lines)
    }

}

/// A physical line.
#[derive(Clone, Copy)]
struct Line<'a> {
    /// Without the line ending.
    text: &'a str,
    /// With it.
    raw: &'a str,
    start: usize,
    number: u32,
}

pub(super) struct Reader<'a> {
    lines: Vec<Line<'a>>,
    at: usize,
    comments: Vec<String>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        let bom = if text.starts_with('\u{feff}') { 3 } else { 0 };
        let mut start = bom;
        let mut lines = Vec::new();
        for (i, raw) in text[bom..].split_inclusive('\n').enumerate() {
            let line = raw.strip_suffix('\n').unwrap_or(raw);
            let line = line.strip_suffix('\r').unwrap_or(line);
            lines.push(Line { text: line, raw, start, number: u32::try_from(i + 1).unwrap_or(u32::MAX) });
            start += raw.len();
        }
        Self { lines, at: 0, comments: Vec::new() }
    }

    /// Reads the parser directives at the top (A1.01). They are comments too, so nothing is consumed.
    pub(super) fn directives(&mut self, errors: &mut Vec<Diagnostic>) -> Directives {
        let mut found = Directives::default();
        for line in &self.lines {
            let Some((key, value)) = directive(line) else { break };
            let lines = (line.number, line.number);
            let duplicate = match key.as_str() {
                "syntax" => found.syntax.replace(value.clone()).is_some(),
                "check" => found.check.replace(value.clone()).is_some(),
                "escape" => {
                    let known = found.escape.is_some();
                    match value.text.as_str() {
                        "\\" => found.escape = Some('\\'),
                        "`" => found.escape = Some('`'),
                        other => {
                            let message = format!("invalid escape token '{other}' does not match ` or \\");
                            errors.push(Diagnostic::at(message, value.span.clone(), lines));
                        }
                    }
                    known
                }
                _ => break,
            };
            if duplicate {
                let message = format!("only one {key} parser directive can be used");
                errors.push(Diagnostic::at(message, value.span, lines));
            }
        }
        found
    }

    /// The next instruction.
    pub(super) fn next(&mut self, escape: char, errors: &mut Vec<Diagnostic>) -> Option<Logical> {
        let first = loop {
            let line = *self.lines.get(self.at)?;
            self.at += 1;
            let text = line.text.trim_start();
            if text.is_empty() {
                self.comments.clear();
            } else if let Some(comment) = text.strip_prefix('#') {
                // An empty comment line ends the block that documents what follows (A1.07).
                if comment.trim().is_empty() {
                    self.comments.clear();
                } else {
                    self.comments.push(comment.trim().to_owned());
                }
            } else {
                break line;
            }
        };
        let indent = first.text.len() - first.text.trim_start().len();
        let mut logical = Logical {
            text: String::new(),
            pieces: Vec::new(),
            span: first.start + indent..first.start + first.text.len(),
            lines: (first.number, first.number),
            comments: std::mem::take(&mut self.comments),
            heredocs: Vec::new(),
            has_empty_lines: false,
        };
        let mut open = logical.push(&first.text[indent..], first.start + indent, escape);
        while open {
            let Some(line) = self.lines.get(self.at).copied() else { break };
            self.at += 1;
            let trimmed = line.text.trim_start();
            if trimmed.starts_with('#') {
                continue;
            }
            if trimmed.is_empty() {
                logical.has_empty_lines = true;
                continue;
            }
            open = logical.push(line.text, line.start, escape);
            logical.span.end = line.start + line.text.len();
            logical.lines.1 = line.number;
        }
        if logical.text.trim().is_empty() {
            return self.next(escape, errors);
        }
        self.heredocs(&mut logical, escape, errors);
        Some(logical)
    }

    /// Reads the bodies of the heredocs an instruction announces (A2.05).
    fn heredocs(&mut self, logical: &mut Logical, escape: char, errors: &mut Vec<Diagnostic>) {
        for opening in heredoc::openings(&logical.text, escape) {
            let mut body = String::new();
            let start = self.lines.get(self.at).map_or(logical.span.end, |l| l.start);
            let mut end = start;
            let mut terminated = false;
            while let Some(line) = self.lines.get(self.at).copied() {
                self.at += 1;
                logical.lines.1 = line.number;
                logical.span.end = line.start + line.text.len();
                let candidate = if opening.chomp { line.text.trim_start_matches('\t') } else { line.text };
                if candidate == opening.name {
                    terminated = true;
                    break;
                }
                body.push_str(line.raw);
                end = line.start + line.raw.len();
            }
            if !terminated {
                let message = format!("unterminated heredoc: expected a line {}", opening.name);
                errors.push(logical.error(message, &opening.range).with_hint("close the heredoc with its delimiter alone on a line"));
            }
            logical.heredocs.push(Heredoc {
                name: opening.name,
                expand: opening.expand,
                chomp: opening.chomp,
                fd: opening.fd,
                body,
                span: start..end,
            });
        }
    }
}

impl Logical {
    /// Appends a physical line; whether it continues on the next one (A1.08).
    fn push(&mut self, line: &str, start: usize, escape: char) -> bool {
        let content = continued(line, escape);
        let (text, open) = content.map_or((line, false), |c| (c, true));
        self.pieces.push((self.text.len(), start));
        self.text.push_str(text);
        open
    }
}

/// The line without its continuation mark, if it has one: the escape character at the end, not itself escaped, trailing
/// spaces and tabs allowed.
fn continued(line: &str, escape: char) -> Option<&str> {
    let trimmed = line.trim_end_matches([' ', '\t']);
    let before = trimmed.strip_suffix(escape)?;
    if before.ends_with(escape) { None } else { Some(before) }
}

/// `# key = value` (A1.01).
fn directive(line: &Line<'_>) -> Option<(String, Word)> {
    let comment = line.text.trim_start().strip_prefix('#')?;
    let (key, value) = comment.split_once('=')?;
    let key = key.trim();
    let mut letters = key.chars();
    let valid = letters.next().is_some_and(|c| c.is_ascii_alphabetic()) && letters.all(|c| c.is_ascii_alphanumeric());
    let value = value.trim();
    if !valid || value.is_empty() {
        return None;
    }
    let end = line.start + line.text.trim_end().len();
    Some((key.to_lowercase(), Word { text: value.to_owned(), span: end - value.len()..end }))
}
