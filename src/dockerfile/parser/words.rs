//! Splitting text: keywords, flags, quoted words, JSON arrays (SPEC A1.16–A1.18).

use super::super::ast::Span;
use super::super::text::is_blank;

/// The first word from `at` on and where what follows it begins.
pub(super) fn keyword(text: &str, at: usize) -> (Span, usize) {
    let start = skip_space(text, at);
    let end = text[start..].find(char::is_whitespace).map_or(text.len(), |i| start + i);
    (start..end, skip_space(text, end))
}

/// The first offset from `at` on that is not white space.
pub(super) fn skip_space(text: &str, at: usize) -> usize {
    let rest = &text[at..];
    at + (rest.len() - rest.trim_start().len())
}

/// A flag word: its range and its text without quotes and escapes.
pub(super) type FlagWord = (Span, String);

/// The `--flags` from `at` on and where the arguments begin (A1.16).
pub(super) fn flags(text: &str, at: usize, escape: char) -> (Vec<FlagWord>, usize) {
    let mut found = Vec::new();
    let mut at = skip_space(text, at);
    while text[at..].starts_with("--") {
        let start = at;
        let mut word = String::new();
        let mut quote = None;
        let mut chars = text[at..].char_indices().peekable();
        let mut end = text.len();
        while let Some((i, c)) = chars.next() {
            match quote {
                None if c.is_whitespace() => {
                    end = at + i;
                    break;
                }
                None if c == '\'' || c == '"' => quote = Some(c),
                Some(q) if c == q => quote = None,
                _ if c == escape && quote != Some('\'') => match chars.next() {
                    Some((_, next)) => word.push(next),
                    None => break,
                },
                _ => word.push(c),
            }
        }
        at = skip_space(text, end);
        if word == "--" {
            break;
        }
        found.push((start..end, word));
    }
    (found, at)
}

/// Words separated by blanks, no quotes (A1.18: COPY, ADD, EXPOSE, FROM, VOLUME).
pub(super) fn blank_words(text: &str, range: Span) -> Vec<Span> {
    let mut found = Vec::new();
    let mut start = None;
    for (i, c) in text[range.clone()].char_indices() {
        let at = range.start + i;
        match (is_blank(c), start) {
            (true, Some(s)) => {
                found.push(s..at);
                start = None;
            }
            (false, None) => start = Some(at),
            _ => {}
        }
    }
    if let Some(s) = start {
        found.push(s..range.end);
    }
    found
}

/// Words with quotes and escapes kept (A1.18: ENV, LABEL, ARG).
pub(super) fn quoted_words(text: &str, range: Span, escape: char) -> Vec<Span> {
    let mut found = Vec::new();
    let (mut start, mut quote) = (None, None);
    let mut chars = text[range.clone()].char_indices();
    while let Some((i, c)) = chars.next() {
        let at = range.start + i;
        if start.is_none() {
            if c.is_whitespace() {
                continue;
            }
            start = Some(at);
        }
        match quote {
            None if c.is_whitespace() => {
                if let Some(s) = start.take() {
                    found.push(s..at);
                }
            }
            None if c == '\'' || c == '"' => quote = Some(c),
            Some(q) if c == q => quote = None,
            _ if c == escape && quote != Some('\'') => {
                chars.next();
            }
            _ => {}
        }
    }
    if let Some(s) = start {
        found.push(s..range.end);
    }
    found
}

/// Words as a shell would see them, quotes kept: how heredocs are found (A2.02).
pub(super) fn shell_words(text: &str, range: Span, escape: char) -> Vec<Span> {
    quoted_words(text, range, escape)
}

/// What a JSON array turned out to be.
pub(super) enum Json {
    /// An array of strings.
    Strings(Vec<String>),
    /// An array with something else in it.
    Mixed,
}

/// Parses text that begins with `[`; `None` if it is no JSON array, which makes it shell form (A1.17).
pub(super) fn json(text: &str) -> Option<Json> {
    let text = text.trim_start();
    if !text.starts_with('[') {
        return None;
    }
    // Only the first value counts; whatever follows it is ignored, as upstream does.
    let value = serde_json::Deserializer::from_str(text).into_iter::<serde_json::Value>().next()?.ok()?;
    let serde_json::Value::Array(items) = value else { return None };
    let strings = items.into_iter().map(|item| match item {
        serde_json::Value::String(s) => Some(s),
        _ => None,
    });
    Some(strings.collect::<Option<Vec<_>>>().map_or(Json::Mixed, Json::Strings))
}
