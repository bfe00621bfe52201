//! Physical and logical lines, and the way back from a joined line to bytes of the file.

use std::borrow::Cow;

use crate::dockerfile::ast::{Span, Word};

/// Stands for a byte that is not UTF-8; one byte long, so that offsets stay true.
pub(super) const INVALID: char = '\u{1a}';

/// The file as text with the byte offsets of the original.
pub(super) struct Source<'a> {
    pub(super) text: Cow<'a, str>,
    /// Offsets of bytes that are not UTF-8.
    invalid: Vec<usize>,
    /// Where each line starts.
    starts: Vec<usize>,
}

impl<'a> Source<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        let mut invalid = Vec::new();
        let text = match std::str::from_utf8(bytes) {
            Ok(text) => Cow::Borrowed(text),
            Err(_) => {
                let mut text = String::with_capacity(bytes.len());
                for chunk in bytes.utf8_chunks() {
                    text.push_str(chunk.valid());
                    for _ in chunk.invalid() {
                        invalid.push(text.len());
                        text.push(INVALID);
                    }
                }
                Cow::Owned(text)
            }
        };
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { text, invalid, starts }
    }

    /// 1-based line of a byte.
    pub(super) fn line_of(&self, offset: usize) -> u32 {
        let line = self.starts.partition_point(|start| *start <= offset);
        u32::try_from(line).unwrap_or(u32::MAX)
    }

    /// The first byte in the range that is not UTF-8.
    pub(super) fn invalid_in(&self, span: &Span) -> Option<usize> {
        let first = self.invalid.partition_point(|at| *at < span.start);
        self.invalid.get(first).copied().filter(|at| *at < span.end)
    }

    /// Text for people: what is not UTF-8 becomes a replacement character.
    pub(super) fn readable(&self, span: Span) -> String {
        let text = &self.text[span.clone()];
        if self.invalid_in(&span).is_none() { text.to_owned() } else { text.replace(INVALID, "\u{fffd}") }
    }
}

/// Reads the physical lines in turn.
#[derive(Clone)]
pub(super) struct Cursor<'a> {
    pub(super) source: &'a Source<'a>,
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(source: &'a Source<'a>) -> Self {
        let at = if source.text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
        Self { source, at }
    }

    /// The next line without its line end.
    pub(super) fn next_line(&mut self) -> Option<Line<'a>> {
        let rest = &self.source.text[self.at..];
        if rest.is_empty() {
            return None;
        }
        let len = rest.find('\n').map_or(rest.len(), |at| at + 1);
        let start = self.at;
        self.at += len;
        Some(Line { text: rest[..len].trim_end_matches(['\r', '\n']), start })
    }

    /// Where the next line starts.
    pub(super) fn position(&self) -> usize {
        self.at
    }
}

/// A physical line.
pub(super) struct Line<'a> {
    /// Without its line end.
    pub(super) text: &'a str,
    /// Its first byte.
    pub(super) start: usize,
}

impl Line<'_> {
    /// Behind its last byte that is not a line end.
    pub(super) fn text_end(&self) -> usize {
        self.start + self.text.len()
    }
}

/// The line without its continuation mark, if it has one (SPEC A1.08): the escape character with only spaces and
/// tabs behind it and no other escape character directly before it.
pub(in crate::dockerfile) fn continued(line: &str, escape: char) -> Option<&str> {
    let before = line.trim_end_matches([' ', '\t']).strip_suffix(escape)?;
    (!before.ends_with(escape)).then_some(before)
}

/// Continuation lines joined with nothing between them.
#[derive(Default)]
pub(super) struct Logical {
    text: String,
    /// Offsets in `text` and in the file where pieces begin.
    pieces: Vec<(usize, usize)>,
}

impl Logical {
    pub(super) fn push(&mut self, text: &str, at: usize) {
        if !text.is_empty() {
            self.pieces.push((self.text.len(), at));
            self.text.push_str(text);
        }
    }

    /// All of it, without white space around.
    pub(super) fn slice(&self) -> Slice<'_> {
        Slice { logical: self, start: 0, end: self.text.len() }.trim()
    }

    /// Offset in the file of a byte of the joined line.
    fn offset(&self, at: usize) -> usize {
        let piece = self.pieces.partition_point(|(joined, _)| *joined <= at);
        match piece.checked_sub(1).and_then(|piece| self.pieces.get(piece)) {
            Some((joined, file)) => file + (at - joined),
            None => at,
        }
    }
}

/// Part of a logical line.
#[derive(Clone, Copy)]
pub(super) struct Slice<'a> {
    logical: &'a Logical,
    start: usize,
    end: usize,
}

impl<'a> Slice<'a> {
    pub(super) fn text(&self) -> &'a str {
        &self.logical.text[self.start..self.end]
    }

    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// A part, by offsets in [`Slice::text`].
    pub(super) fn part(&self, range: std::ops::Range<usize>) -> Slice<'a> {
        Slice { logical: self.logical, start: self.start + range.start, end: self.start + range.end }
    }

    /// From an offset in [`Slice::text`] to the end.
    pub(super) fn from(&self, start: usize) -> Slice<'a> {
        self.part(start..self.end - self.start)
    }

    /// Where `part`, made from this slice, lies in [`Slice::text`].
    pub(super) fn range_of(&self, part: &Slice<'a>) -> std::ops::Range<usize> {
        part.start - self.start..part.end - self.start
    }

    /// Without white space around.
    pub(super) fn trim(&self) -> Slice<'a> {
        let text = self.text();
        let left = text.len() - text.trim_start().len();
        self.part(left..left + text.trim().len())
    }

    /// The bytes of the file it covers.
    pub(super) fn span(&self) -> Span {
        let start = self.logical.offset(self.start);
        let end = if self.is_empty() { start } else { self.logical.offset(self.end - 1) + 1 };
        start..end
    }

    pub(super) fn word(&self) -> Word {
        Word { text: self.text().to_owned(), span: self.span() }
    }
}

#[cfg(test)]
mod tests {
    use super::{Cursor, Logical, Source, continued};

    #[test]
    fn continuation_rules_a1_08() {
        assert_eq!(continued("RUN a \\", '\\'), Some("RUN a "));
        assert_eq!(continued("RUN a\\ \t ", '\\'), Some("RUN a"));
        assert_eq!(continued("\\", '\\'), Some(""));
        assert_eq!(continued("\\  ", '\\'), Some(""));
        assert_eq!(continued("RUN a \\\\", '\\'), None, "an escaped escape");
        assert_eq!(continued("RUN a \\\\\\", '\\'), None, "not handled, as in the reference");
        assert_eq!(continued("RUN a \\ b", '\\'), None);
        assert_eq!(continued("RUN a \\", '`'), None);
        assert_eq!(continued("RUN a `", '`'), Some("RUN a "));
        assert_eq!(continued("", '\\'), None);
    }

    #[test]
    fn lines_lose_their_ends_a1_12() {
        let source = Source::new(b"\xef\xbb\xbfa\r\nb\n\nc");
        let mut cursor = Cursor::new(&source);
        let lines: Vec<_> = std::iter::from_fn(|| cursor.next_line().map(|l| (l.text, l.start))).collect();
        assert_eq!(lines, [("a", 3), ("b", 6), ("", 8), ("c", 9)]);
        assert_eq!((source.line_of(0), source.line_of(5), source.line_of(6), source.line_of(9)), (1, 1, 2, 4));
    }

    #[test]
    fn joined_text_maps_back_to_the_file() {
        let mut logical = Logical::default();
        logical.push("ab ", 10);
        logical.push("", 20);
        logical.push("cd", 30);
        let slice = logical.slice();
        assert_eq!(slice.text(), "ab cd");
        assert_eq!(slice.span(), 10..32);
        assert_eq!(slice.part(1..3).span(), 11..13);
        assert_eq!(slice.part(3..5).span(), 30..32);
        assert_eq!(slice.part(1..4).span(), 11..31);
        assert_eq!(slice.part(5..5).span(), 32..32);
    }

    #[test]
    fn invalid_bytes_keep_their_place() {
        let source = Source::new(b"ab\xff\xfec\xc3\xa9");
        assert_eq!(source.text.len(), 7);
        assert_eq!(source.invalid_in(&(0..7)), Some(2));
        assert_eq!(source.invalid_in(&(3..7)), Some(3));
        assert_eq!(source.invalid_in(&(4..7)), None);
        assert_eq!(source.readable(0..7), "ab\u{fffd}\u{fffd}c\u{e9}");
    }
}
