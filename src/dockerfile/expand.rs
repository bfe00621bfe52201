//! Expansion of variables in words (SPEC A3).

use std::collections::BTreeSet;

use super::glob;

/// How quotes and unset variables are treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A word of an instruction: quotes are processed and removed.
    Word,
    /// An inline document: quotes are text (SPEC A2.08).
    Document,
    /// A command for people to read: quotes stay, unset variables too.
    Display,
}

/// An expanded text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expansion {
    /// The text.
    pub text: String,
    /// The text split at white space that was not quoted.
    pub words: Vec<String>,
    /// Variables that were used and are set.
    pub matched: BTreeSet<String>,
    /// Variables that were used and are not set.
    pub unmatched: BTreeSet<String>,
}

/// Why a word cannot be expanded (SPEC A3.05, A3.06).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ExpandError(pub String);

/// Expands `text`; `env` gives the values of variables.
///
/// # Errors
/// For bad substitutions, missing braces and quotes, and `${x?}` of an unset variable.
pub fn expand(
    text: &str,
    escape: char,
    mode: Mode,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Expansion, ExpandError> {
    let mut expander = Expander {
        chars: text.chars().collect(),
        at: 0,
        escape,
        mode,
        env,
        matched: BTreeSet::new(),
        unmatched: BTreeSet::new(),
        depth: 0,
    };
    let (text, words) = expander.until(None, false)?;
    Ok(Expansion { text, words: words.done(), matched: expander.matched, unmatched: expander.unmatched })
}

/// Collects words as they are read: unquoted white space separates.
#[derive(Default)]
struct Words {
    words: Vec<String>,
    word: String,
}

impl Words {
    fn plain(&mut self, c: char) {
        if c.is_whitespace() {
            if !self.word.is_empty() {
                self.words.push(std::mem::take(&mut self.word));
            }
        } else {
            self.word.push(c);
        }
    }

    fn quoted(&mut self, text: &str) {
        self.word.push_str(text);
    }

    fn done(mut self) -> Vec<String> {
        if !self.word.is_empty() {
            self.words.push(self.word);
        }
        self.words
    }
}

struct Expander<'a> {
    chars: Vec<char>,
    at: usize,
    escape: char,
    mode: Mode,
    env: &'a dyn Fn(&str) -> Option<String>,
    matched: BTreeSet<String>,
    unmatched: BTreeSet<String>,
    depth: usize,
}

/// Nested substitutions deeper than this are refused rather than exhausting the stack.
const MAX_DEPTH: usize = 200;

fn error<T>(text: impl Into<String>) -> Result<T, ExpandError> {
    Err(ExpandError(text.into()))
}

impl Expander<'_> {
    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += 1;
        Some(c)
    }

    fn get(&mut self, name: &str) -> Option<String> {
        let value = (self.env)(name);
        let known = if value.is_some() { &mut self.matched } else { &mut self.unmatched };
        known.insert(name.to_owned());
        value
    }

    /// Reads up to an unquoted `stop`, or to the end. `raw_escapes` keeps escape characters, for patterns.
    fn until(&mut self, stop: Option<char>, raw_escapes: bool) -> Result<(String, Words), ExpandError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return error("substitutions are nested too deeply");
        }
        let quotes = self.mode != Mode::Document;
        let (mut text, mut words) = (String::new(), Words::default());
        while let Some(c) = self.peek() {
            if stop == Some(c) {
                self.at += 1;
                self.depth -= 1;
                return Ok((text, words));
            }
            match c {
                '$' => {
                    let value = self.dollar()?;
                    value.chars().for_each(|c| words.plain(c));
                    text.push_str(&value);
                }
                '\'' if quotes => {
                    let value = self.single_quoted()?;
                    words.quoted(&value);
                    text.push_str(&value);
                }
                '"' if quotes => {
                    let value = self.double_quoted()?;
                    words.quoted(&value);
                    text.push_str(&value);
                }
                c if c == self.escape => {
                    self.at += 1;
                    if raw_escapes {
                        words.word.push(c);
                        text.push(c);
                    }
                    let Some(next) = self.next() else { break };
                    words.word.push(next);
                    text.push(next);
                }
                c => {
                    self.at += 1;
                    words.plain(c);
                    text.push(c);
                }
            }
        }
        self.depth -= 1;
        match stop {
            Some(stop) => error(format!("unexpected end of statement while looking for matching {stop}")),
            None => Ok((text, words)),
        }
    }

    fn single_quoted(&mut self) -> Result<String, ExpandError> {
        let mut text = String::new();
        let raw = self.mode == Mode::Display;
        self.at += 1;
        if raw {
            text.push('\'');
        }
        loop {
            match self.next() {
                None => return error("unexpected end of statement while looking for matching single-quote"),
                Some('\'') => break,
                Some(c) => text.push(c),
            }
        }
        if raw {
            text.push('\'');
        }
        Ok(text)
    }

    fn double_quoted(&mut self) -> Result<String, ExpandError> {
        let mut text = String::new();
        let raw = self.mode == Mode::Display;
        self.at += 1;
        if raw {
            text.push('"');
        }
        loop {
            match self.peek() {
                None => return error("unexpected end of statement while looking for matching double-quote"),
                Some('"') => {
                    self.at += 1;
                    break;
                }
                Some('$') => text.push_str(&self.dollar()?),
                Some(c) => {
                    self.at += 1;
                    if c != self.escape {
                        text.push(c);
                        continue;
                    }
                    match self.peek() {
                        None => {}
                        // Only these can be escaped; any other escape character stays (A3.06).
                        Some(next) if next == '"' || next == '$' || next == self.escape => {
                            self.at += 1;
                            text.push(next);
                        }
                        Some(_) => text.push(c),
                    }
                }
            }
        }
        if raw {
            text.push('"');
        }
        Ok(text)
    }

    fn name(&mut self) -> String {
        let mut name = String::new();
        while let Some(c) = self.peek() {
            if name.is_empty() && c.is_ascii_digit() {
                while let Some(d) = self.peek().filter(char::is_ascii_digit) {
                    name.push(d);
                    self.at += 1;
                }
                return name;
            }
            if name.is_empty() && matches!(c, '@' | '*' | '#' | '?' | '-' | '$' | '!') {
                self.at += 1;
                return c.to_string();
            }
            if !(c.is_alphanumeric() || c == '_') {
                break;
            }
            name.push(c);
            self.at += 1;
        }
        name
    }

    fn dollar(&mut self) -> Result<String, ExpandError> {
        self.at += 1;
        let keep = self.mode == Mode::Display;
        if self.peek() != Some('{') {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".into());
            }
            return Ok(match self.get(&name) {
                None if keep => format!("${name}"),
                value => value.unwrap_or_default(),
            });
        }
        self.at += 1;
        match self.peek() {
            None => return error("syntax error: missing '}'"),
            Some('{' | '}' | ':') => return error("syntax error: bad substitution"),
            Some(_) => {}
        }
        let name = self.name();
        let Some(mut c) = self.next() else { return error("syntax error: missing '}'") };
        let mut modifier = c.to_string();
        let mut null_is_unset = false;
        match c {
            '}' => {
                return Ok(match self.get(&name) {
                    None if keep => format!("${{{name}}}"),
                    value => value.unwrap_or_default(),
                });
            }
            ':' => {
                null_is_unset = true;
                let Some(next) = self.next() else { return error("syntax error: missing '}'") };
                c = next;
                modifier.push(c);
            }
            '/' => return self.replace(&name),
            _ => {}
        }
        let unsupported = || error(format!("unsupported modifier ({modifier}) in substitution"));
        if !matches!(c, '+' | '-' | '?' | '#' | '%') || (null_is_unset && matches!(c, '#' | '%')) {
            return unsupported();
        }
        let word = self.nested('}', matches!(c, '#' | '%'), "syntax error: missing '}'")?;
        let value = self.get(&name);
        if keep && value.is_none() {
            return Ok(format!("${{{name}{modifier}{word}}}"));
        }
        let unset = value.is_none() || (null_is_unset && value.as_deref() == Some(""));
        match c {
            '-' => Ok(if unset { word } else { value.unwrap_or_default() }),
            '+' => Ok(if unset { String::new() } else { word }),
            '?' if unset => {
                let why = if value.is_none() { "is not allowed to be unset" } else { "is not allowed to be empty" };
                error(format!("{name}: {}", if word.is_empty() { why } else { &word }))
            }
            '?' => Ok(value.unwrap_or_default()),
            side => {
                let value = value.unwrap_or_default();
                let (greedy, pattern) = match word.strip_prefix(side) {
                    Some(rest) => (true, rest),
                    None => (false, word.as_str()),
                };
                let pattern = glob::Pattern::new(pattern);
                Ok(if side == '#' { pattern.trim_prefix(&value, greedy) } else { pattern.trim_suffix(&value, greedy) })
            }
        }
    }

    /// `${name/pattern/replacement}` and `${name//pattern/replacement}` (A3.04).
    fn replace(&mut self, name: &str) -> Result<String, ExpandError> {
        let all = self.peek() == Some('/');
        if all {
            self.at += 1;
        }
        let pattern = self.nested('/', true, "syntax error: missing '/' in ${}")?;
        let replacement = self.nested('}', true, "syntax error: missing '}'")?;
        let Some(value) = self.get(name) else {
            let slashes = if all { "//" } else { "/" };
            let kept = format!("${{{name}{slashes}{pattern}/{replacement}}}");
            return Ok(if self.mode == Mode::Display { kept } else { String::new() });
        };
        let replacement = glob::unescape(&replacement);
        Ok(glob::Pattern::new(&pattern).replace(&value, &replacement, all))
    }

    fn nested(&mut self, stop: char, raw_escapes: bool, missing: &str) -> Result<String, ExpandError> {
        match self.until(Some(stop), raw_escapes) {
            Ok((text, _)) => Ok(text),
            Err(_) if self.peek().is_none() => error(missing),
            Err(e) => Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "foo" => Some("foovalue".into()),
            "empty" => Some(String::new()),
            "path" => Some("/usr/local/lib/foo.tar.gz".into()),
            "list" => Some("a b c".into()),
            "1" => Some("one".into()),
            _ => None,
        }
    }

    fn word(text: &str) -> String {
        expand(text, '\\', Mode::Word, &env).map_or_else(|e| format!("error: {e}"), |e| e.text)
    }

    #[test]
    fn a3_01_plain_forms() {
        for (text, want) in [
            ("$foo", "foovalue"),
            ("${foo}x", "foovaluex"),
            ("$foo_x", ""),
            ("$1x", "onex"),
            ("$11", ""),
            ("a$", "a$"),
            ("$.", "$."),
            ("$/x", "$/x"),
            ("$@x", "x"),
            ("${nope}", ""),
            ("hé$foo", "héfoovalue"),
        ] {
            assert_eq!(word(text), want, "{text}");
        }
    }

    #[test]
    fn a3_02_posix_modifiers() {
        for (text, want) in [
            ("${nope:-d}", "d"),
            ("${nope-d}", "d"),
            ("${empty:-d}", "d"),
            ("${empty-d}", ""),
            ("${foo:-d}", "foovalue"),
            ("${foo:+y}", "y"),
            ("${nope:+y}", ""),
            ("${empty+y}", "y"),
            ("${empty:+y}", ""),
            ("${nope:-${foo}}", "foovalue"),
            ("${nope:-${nope2:-deep}}", "deep"),
            ("${nope:-a b}", "a b"),
            ("${foo?}", "foovalue"),
            ("${nope?}", "error: nope: is not allowed to be unset"),
            ("${empty:?}", "error: empty: is not allowed to be empty"),
            ("${nope:?go away}", "error: nope: go away"),
        ] {
            assert_eq!(word(text), want, "{text}");
        }
    }

    #[test]
    fn a3_03_prefixes_and_suffixes() {
        for (text, want) in [
            ("${path##*/}", "foo.tar.gz"),
            ("${path#*/}", "usr/local/lib/foo.tar.gz"),
            ("${path%.*}", "/usr/local/lib/foo.tar"),
            ("${path%%.*}", "/usr/local/lib/foo"),
            ("${foo#foo}", "value"),
            ("${foo#?}", "oovalue"),
            ("${foo%e}", "foovalu"),
            ("${foo#\\*}", "foovalue"),
            ("${foo:#x}", "error: unsupported modifier (:#) in substitution"),
            ("${nope#x}", ""),
        ] {
            assert_eq!(word(text), want, "{text}");
        }
    }

    #[test]
    fn a3_04_replacements() {
        for (text, want) in [
            ("${foo/o/0}", "f0ovalue"),
            ("${foo//o/0}", "f00value"),
            ("${path/\\/usr/X}", "X/local/lib/foo.tar.gz"),
            ("${foo/o*/x}", "fx"),
            ("${foo//[/x}", "foovalue"),
            ("${foo/o", "error: syntax error: missing '/' in ${}"),
            ("${foo/o/x", "error: syntax error: missing '}'"),
        ] {
            assert_eq!(word(text), want, "{text}");
        }
    }

    #[test]
    fn a3_05_bad_substitutions() {
        for (text, want) in [
            ("${}", "error: syntax error: bad substitution"),
            ("${:x}", "error: syntax error: bad substitution"),
            ("${{x}}", "error: syntax error: bad substitution"),
            ("${foo", "error: syntax error: missing '}'"),
            ("${", "error: syntax error: missing '}'"),
            ("${foo:", "error: syntax error: missing '}'"),
            ("${foo:=x}", "error: unsupported modifier (:=) in substitution"),
            ("${foo^}", "error: unsupported modifier (^) in substitution"),
        ] {
            assert_eq!(word(text), want, "{text}");
        }
    }

    #[test]
    fn a3_06_quotes_and_escapes() {
        for (text, want) in [
            ("'$foo'", "$foo"),
            ("\"$foo\"", "foovalue"),
            ("\\$foo", "$foo"),
            ("\"\\$foo\"", "$foo"),
            ("\"a\\nb\"", "a\\nb"),
            ("\"a\\\"b\"", "a\"b"),
            ("a\\ b", "a b"),
            ("'a'\"b\"c", "abc"),
            ("it\\'s", "it's"),
            ("\"x", "error: unexpected end of statement while looking for matching double-quote"),
            ("'x", "error: unexpected end of statement while looking for matching single-quote"),
        ] {
            assert_eq!(word(text), want, "{text}");
        }
        let backtick = expand("a`$foo\\b", '`', Mode::Word, &env).expect("valid");
        assert_eq!(backtick.text, "a$foo\\b");
    }

    #[test]
    fn words_split_where_nothing_is_quoted() {
        let words = |text| expand(text, '\\', Mode::Word, &env).expect("valid").words;
        assert_eq!(words("$list x"), ["a", "b", "c", "x"]);
        assert_eq!(words("\"$list\" 'x y' z\\ w"), ["a b c", "x y", "z w"]);
    }

    #[test]
    fn a2_08_documents_keep_quotes_and_display_keeps_the_unknown() {
        let document = expand("\"$foo\" 'x' \\$foo", '\\', Mode::Document, &env).expect("valid");
        assert_eq!(document.text, "\"foovalue\" 'x' $foo");
        let display = expand("a \"$foo\" $nope ${nope:-x}", '\\', Mode::Display, &env).expect("valid");
        assert_eq!(display.text, "a \"foovalue\" $nope ${nope:-x}");
        assert!(display.unmatched.contains("nope") && display.matched.contains("foo"));
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in "[${}:/#%?*\\\\'\"a-c \\n-]{0,40}") {
            for mode in [Mode::Word, Mode::Document, Mode::Display] {
                let _ = expand(&text, '\\', mode, &env);
            }
        }
    }
}
