//! Parser directives and the detection of the front end (SPEC A1.01–A1.04).

/// A comment read as a directive: lower-cased key, value and where the value starts in `comment`. `comment` is the
/// text behind the marker.
pub(super) fn directive(comment: &str) -> Option<(String, &str, usize)> {
    let is_space = |c: char| matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0c');
    let body = comment.trim_start();
    let (key, value) = body.split_once('=')?;
    let key = key.trim_end_matches(is_space);
    if !key.starts_with(|c: char| c.is_ascii_alphabetic()) || !key.chars().all(|c| c.is_ascii_alphanumeric()) {
        return None;
    }
    let key = key.to_ascii_lowercase();
    if !matches!(key.as_str(), "syntax" | "escape" | "check") {
        return None;
    }
    let trimmed = value.trim_start_matches(is_space);
    let at = comment.len() - trimmed.len();
    let value = trimmed.trim_end_matches(is_space);
    if value.is_empty() {
        return None;
    }
    Some((key, value, at))
}

/// The front end a file asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Syntax {
    /// Image reference: the first word.
    pub reference: String,
    /// The whole value, passed on to the front end.
    pub cmdline: String,
    /// 1-based line.
    pub line: u32,
}

/// Finds `syntax=` in a Dockerfile or in a file of any other language: `#` or `//` comments at the top, behind an
/// optional shebang line, or a JSON object with a `syntax` key (SPEC A1.03).
#[must_use]
pub fn detect_syntax(source: &[u8]) -> Option<Syntax> {
    detect(source, "syntax", true)
}

/// The value of `check=` at the top of a Dockerfile.
#[must_use]
pub fn detect_check(source: &[u8]) -> Option<String> {
    detect(source, "check", false).map(|found| found.cmdline)
}

fn detect(source: &[u8], wanted: &str, any_format: bool) -> Option<Syntax> {
    let text = String::from_utf8_lossy(source);
    let mut text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let mut first = 1;
    if text.starts_with("#!") {
        text = text.split_once('\n').map_or("", |(_, rest)| rest);
        first = 2;
    }
    let markers = if any_format { &["#", "//"][..] } else { &["#"] };
    for marker in markers {
        let lines = text.lines().map_while(|line| directive(line.strip_prefix(marker)?));
        for (line, (key, value, _)) in (first..).zip(lines) {
            if key == wanted {
                let reference = value.split(' ').next().unwrap_or(value).to_owned();
                return Some(Syntax { reference, cmdline: value.to_owned(), line });
            }
        }
    }
    if !any_format || !text.trim_start().starts_with('{') {
        return None;
    }
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(text).ok()?;
    let value = object.get(wanted)?.as_str()?.to_owned();
    Some(Syntax { reference: value.clone(), cmdline: value, line: first })
}

#[cfg(test)]
mod tests {
    use super::{detect_check, detect_syntax, directive};

    #[test]
    fn directive_syntax_a1_01() {
        assert_eq!(directive(" syntax=a/b"), Some(("syntax".into(), "a/b", 8)));
        assert_eq!(directive("ESCAPE\t = `  "), Some(("escape".into(), "`", 10)));
        assert_eq!(directive("check=skip=all;error=true"), Some(("check".into(), "skip=all;error=true", 6)));
        assert_eq!(directive(" syntax="), None);
        assert_eq!(directive(" other=x"), None);
        assert_eq!(directive(" sy ntax=x"), None);
        assert_eq!(directive(" 1escape=x"), None);
        assert_eq!(directive(" escape"), None);
    }

    #[test]
    fn syntax_detection_in_any_language_a1_03() {
        let find = |text: &str| detect_syntax(text.as_bytes()).map(|s| (s.reference, s.cmdline, s.line));
        let hit = |r: &str, c: &str, l: u32| Some((r.to_owned(), c.to_owned(), l));
        assert_eq!(find("# syntax=docker/dockerfile:1\nFROM x"), hit("docker/dockerfile:1", "docker/dockerfile:1", 1));
        assert_eq!(find("\u{feff}#escape=`\r\n#syntax = x a=b\r\n"), hit("x", "x a=b", 2));
        assert_eq!(find("#!/usr/bin/env rbuild\n# syntax=x\n"), hit("x", "x", 2));
        assert_eq!(find("// syntax=x\nlet y;"), hit("x", "x", 1));
        assert_eq!(find("#!shebang\n// syntax=x"), hit("x", "x", 2));
        assert_eq!(find("{\"a\": 1, \"syntax\": \"x y\"}"), hit("x y", "x y", 1));
        assert_eq!(find("{\"syntax\": 1}"), None);
        assert_eq!(find("\n# syntax=x"), None, "a blank line ends the search");
        assert_eq!(find("# hello\n# syntax=x"), None, "another comment ends the search");
        assert_eq!(find("FROM x\n# syntax=x"), None);
        assert_eq!(find(""), None);
    }

    #[test]
    fn check_is_a_directive_of_dockerfiles_only_a1_04() {
        assert_eq!(detect_check(b"# syntax=x\n# check=skip=all\n").as_deref(), Some("skip=all"));
        assert_eq!(detect_check(b"// check=skip=all\n"), None);
    }
}
