//! How messages show words: quoted, and with the word that was probably meant.

use std::fmt::Write as _;

/// The option nearest to `word`, ignoring case, if it is near enough to be a typing error. `None` also if `word`
/// is one of the options.
#[must_use]
pub fn closest<'a>(word: &str, options: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    // Two, as BuildKit has it; of a single letter everything would be near, and long words bear more.
    let limit = match word.chars().count() {
        0 => return None,
        1 => 1,
        2..=7 => 2,
        _ => 3,
    };
    let mut best = None;
    for option in options {
        let distance = strsim::osa_distance(&word, &option.to_lowercase());
        if distance == 0 {
            return None;
        }
        if distance <= limit && best.is_none_or(|(least, _)| distance < least) {
            best = Some((distance, option));
        }
    }
    best.map(|(_, option)| option)
}

/// ` (did you mean X?)` where one of `options` is close, else nothing (SPEC G.06).
#[must_use]
pub fn did_you_mean(word: &str, options: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    let options: Vec<_> = options.into_iter().collect();
    closest(word, options.iter().map(AsRef::as_ref))
        .map_or_else(String::new, |option| format!(" (did you mean {option}?)"))
}

/// A word of a shell command, in single quotes where it needs them.
#[must_use]
pub fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_@%+=:,./-".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// `"…"` with the escapes of Go's `%q`.
#[must_use]
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => {
                let _ = write!(out, "\\x{:02x}", c as u32);
            }
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Bytes for people, powers of 1000 as docker prints them.
#[must_use]
pub fn size(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in ["kB", "MB", "GB", "TB"] {
        if value < 1000.0 {
            break;
        }
        value /= 1000.0;
        unit = next;
    }
    if unit == "B" { format!("{bytes}B") } else { format!("{value:.2}{unit}") }
}

#[cfg(test)]
mod tests {
    use super::{closest, did_you_mean, quote, shell_word, size};

    #[test]
    fn words_of_a_shell() {
        for (text, word) in
            [("/a/b-1", "/a/b-1"), ("", "''"), ("a b", "'a b'"), ("it's", r"'it'\''s'"), ("$(x)", "'$(x)'")]
        {
            assert_eq!(shell_word(text), word);
        }
    }

    #[test]
    fn typing_errors_are_recognised_g_06() {
        let names = ["COPY", "ADD", "RUN", "FROM", "ENTRYPOINT"];
        assert_eq!(closest("FORM", names), Some("FROM"));
        assert_eq!(closest("rnu", names), Some("RUN"));
        assert_eq!(closest("ENTRYPONT", names), Some("ENTRYPOINT"));
        assert_eq!(closest("INSTALL", names), None);
        assert_eq!(closest("", names), None);
    }

    #[test]
    fn a_known_word_needs_no_suggestion() {
        assert_eq!(closest("run", ["RUN", "RUM"]), None);
    }

    #[test]
    fn suggestions_g_06() {
        assert_eq!(did_you_mean("sorce", ["source", "target"]), " (did you mean source?)");
        assert_eq!(did_you_mean("source", ["source"]), "");
        assert_eq!(did_you_mean("ab", ["source"]), "");
    }

    #[test]
    fn quoting_escapes_what_would_confuse() {
        assert_eq!(quote("a\"b\\c\n\t"), r#""a\"b\\c\n\t""#);
        assert_eq!(quote("é\u{1}\u{85}"), r#""é\x01\u0085""#);
    }

    #[test]
    fn sizes() {
        assert_eq!((size(12), size(1200), size(3_400_000)), ("12B".into(), "1.20kB".into(), "3.40MB".into()));
    }
}
