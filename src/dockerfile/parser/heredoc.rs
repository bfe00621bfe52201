//! Finds `<<NAME` in a line (SPEC A2.01–A2.03).

use super::super::ast::Span;
use super::words;

/// A heredoc announced on a line.
pub(super) struct Opening {
    pub(super) name: String,
    pub(super) expand: bool,
    pub(super) chomp: bool,
    pub(super) fd: Option<u32>,
    /// Where in the logical line.
    pub(super) range: Span,
}

/// The heredocs of an instruction, none for instructions that cannot have any or are in JSON form.
pub(super) fn openings(text: &str, escape: char) -> Vec<Opening> {
    if !text.contains("<<") {
        return Vec::new();
    }
    let Some(start) = arguments(text, escape) else { return Vec::new() };
    words::shell_words(text, start..text.len(), escape).into_iter().filter_map(|range| opening(text, range, escape)).collect()
}

/// Where the arguments begin, if heredocs are possible.
fn arguments(text: &str, escape: char) -> Option<usize> {
    let mut at = 0;
    loop {
        let (keyword, rest) = words::keyword(text, at);
        match text[keyword].to_ascii_uppercase().as_str() {
            "ONBUILD" => at = rest,
            "RUN" | "COPY" | "ADD" => {
                let start = words::flags(text, rest, escape).1;
                return if text[start..].trim_start().starts_with('[') && words::json(&text[start..]).is_some() {
                    None
                } else {
                    Some(start)
                };
            }
            _ => return None,
        }
    }
}

/// `[fd]<<[-]NAME`, as one word.
pub(super) fn opening(text: &str, range: Span, escape: char) -> Option<Opening> {
    let word = &text[range.clone()];
    let digits = word.bytes().take_while(u8::is_ascii_digit).count();
    let fd = if digits == 0 { None } else { Some(word[..digits].parse().ok()?) };
    let rest = word[digits..].strip_prefix("<<")?;
    let (chomp, rest) = match rest.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let delimiter = rest.trim_start();
    if delimiter.is_empty() || delimiter.contains('<') {
        return None;
    }
    let name = unquote(delimiter, escape)?;
    let expand = name == delimiter;
    Some(Opening { name, expand, chomp, fd, range })
}

/// The delimiter without quotes and escapes.
fn unquote(text: &str, escape: char) -> Option<String> {
    let mut out = String::new();
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (None, '\'' | '"') => quote = Some(c),
            (Some(q), c) if q == c => quote = None,
            (Some('\''), c) => out.push(c),
            (_, c) if c == escape => out.extend(chars.next()),
            (_, c) => out.push(c),
        }
    }
    if quote.is_some() || out.is_empty() { None } else { Some(out) }
}
