//! `.dockerignore` files (SPEC A9.02): text to patterns that remember their lines.

use super::matcher::{Matcher, PatternError, trim};
use super::pattern::clean;

/// A line of an ignore file that is a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IgnorePattern {
    /// Cleaned, relative, with its `!` if it is an exception.
    pub text: Vec<u8>,
    /// Where it stands, counted from 1.
    pub line: usize,
}

/// A parsed ignore file.
#[derive(Clone, Debug, Default)]
pub struct IgnoreFile {
    patterns: Vec<IgnorePattern>,
    matcher: Matcher,
}

/// Why an ignore file cannot be used (SPEC A9.04).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("failed parsing {name}: line {line}: {error}")]
pub struct IgnoreError {
    /// Name of the file.
    pub name: String,
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong.
    pub error: PatternError,
}

impl IgnoreFile {
    /// Parses `text`; `name` is for messages.
    ///
    /// # Errors
    /// The first malformed pattern.
    pub fn parse(name: &str, text: &[u8]) -> Result<Self, IgnoreError> {
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        let patterns: Vec<_> = text
            .split(|b| *b == b'\n')
            .enumerate()
            // A comment starts in the first column; a `#` after blanks is part of a pattern.
            .filter(|(_, line)| !line.starts_with(b"#"))
            .filter_map(|(i, line)| Some(IgnorePattern { text: pattern_of(line)?, line: i + 1 }))
            .collect();
        match Matcher::new(patterns.iter().map(|p| &p.text)) {
            Ok(matcher) => Ok(Self { patterns, matcher }),
            Err(error) => Err(IgnoreError { name: name.into(), line: patterns[error.index].line, error }),
        }
    }

    /// The patterns, in order.
    #[must_use]
    pub fn patterns(&self) -> &[IgnorePattern] {
        &self.patterns
    }

    /// The patterns as text and their lines, in the form a local source takes them.
    #[must_use]
    pub fn texts_and_lines(&self) -> (Vec<String>, Vec<usize>) {
        self.patterns.iter().map(|p| (String::from_utf8_lossy(&p.text).into_owned(), p.line)).unzip()
    }

    /// The pattern that hides `path`, by itself or through a parent; `None` if it is visible.
    #[must_use]
    pub fn excluded_by(&self, path: &[u8]) -> Option<&IgnorePattern> {
        let path = clean(&[b"/", path].concat());
        self.matcher.deciding(&path[1..]).map(|i| &self.patterns[i])
    }

    /// Whether `path`, which may have wildcards, and all below it are hidden.
    #[must_use]
    pub fn hides_all(&self, path: &[u8]) -> bool {
        let path = clean(&[b"/", path].concat());
        if path != b"/" {
            return self.matcher.matches_all_below(&path[1..]);
        }
        let all = |pattern: &IgnorePattern| matches!(pattern.text.as_slice(), b"*" | b"**" | b"**/*");
        let last = self.patterns.iter().rposition(all);
        last.is_some_and(|last| self.patterns[last..].iter().all(|pattern| !pattern.text.starts_with(b"!")))
    }
}

/// The pattern of a line; `None` for a blank one.
fn pattern_of(line: &[u8]) -> Option<Vec<u8>> {
    let line = trim(line);
    let (exception, text) = match line.strip_prefix(b"!") {
        Some(rest) => (true, trim(rest)),
        None if line.is_empty() => return None,
        None => (false, line),
    };
    let mut out = if exception { b"!".to_vec() } else { Vec::new() };
    if !text.is_empty() {
        let cleaned = clean(text);
        out.extend_from_slice(if cleaned.len() > 1 {
            cleaned.strip_prefix(b"/").unwrap_or(&cleaned)
        } else {
            &cleaned
        });
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Vec<(String, usize)> {
        let file = IgnoreFile::parse(".dockerignore", text.as_bytes()).expect("a valid file");
        let (texts, lines) = file.texts_and_lines();
        texts.into_iter().zip(lines).collect()
    }

    #[test]
    fn a9_02_lines_become_patterns() {
        let text = "\u{feff}test1\n/test2\n/a/file/here\n\nlastfile\n# this is a comment\n! /inverted/abs/path\n!\tx\n./..//y/\r\n  # no comment\n/\n";
        assert_eq!(
            parse(text),
            [
                ("test1", 1),
                ("test2", 2),
                ("a/file/here", 3),
                ("lastfile", 5),
                ("!inverted/abs/path", 7),
                ("!x", 8),
                ("../y", 9),
                ("# no comment", 10),
                ("/", 11),
            ]
            .map(|(t, l)| (t.to_owned(), l))
        );
        assert!(parse("").is_empty());
        assert!(parse("\n \n#\n").is_empty());
    }

    #[test]
    fn a9_02_a_byte_order_mark_hides_no_comment() {
        assert_eq!(parse("\u{feff}# c\nx"), [("x".to_owned(), 2)]);
    }

    #[test]
    fn a9_04_errors_name_the_line() {
        let err = IgnoreFile::parse(".dockerignore", b"ok\n\n!\n").expect_err("a lone !");
        assert_eq!(err.to_string(), "failed parsing .dockerignore: line 3: illegal exclusion pattern: \"!\"");
        let err = IgnoreFile::parse("a.dockerignore", b"[").expect_err("a bad class");
        assert_eq!(
            err.to_string(),
            "failed parsing a.dockerignore: line 1: invalid pattern \"[\": syntax error in pattern"
        );
    }

    #[test]
    fn says_which_line_excludes() {
        let file =
            IgnoreFile::parse(".dockerignore", b"# c\n*.log\n!keep.log\n\nnode_modules\n").expect("a valid file");
        let line = |path: &str| file.excluded_by(path.as_bytes()).map(|p| p.line);
        assert_eq!(line("/x.log"), Some(2));
        assert_eq!(line("keep.log"), None);
        assert_eq!(line("./node_modules/a/../b.js"), Some(5));
        assert_eq!(line("src"), None);
    }

    #[test]
    fn a9_03_bytes_that_are_not_utf_8() {
        let file = IgnoreFile::parse(".dockerignore", b"bad\xff*\n").expect("a valid file");
        assert!(file.excluded_by(b"bad\xffname").is_some());
        assert!(file.excluded_by(b"bad\xfename").is_none());
    }

    proptest::proptest! {
        #[test]
        fn a9_02_any_bytes_are_patterns_or_an_error_with_a_line(
            text in proptest::collection::vec(proptest::sample::select(b"ab/.*?![]\\-^# \n\r\t\xff".to_vec()), 0..60),
            path in "[ab/.]{0,12}",
        ) {
            match IgnoreFile::parse(".dockerignore", &text) {
                Ok(file) => {
                    let hidden = file.excluded_by(path.as_bytes());
                    proptest::prop_assert!(hidden.is_none_or(|pattern| !pattern.text.starts_with(b"!")));
                }
                Err(error) => {
                    let lines = text.iter().filter(|byte| **byte == b'\n').count() + 1;
                    proptest::prop_assert!((1..=lines).contains(&error.line));
                }
            }
        }
    }
}
