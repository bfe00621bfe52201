//! The substitution machine: one pass over the characters of a word.

use indexmap::IndexSet;

use super::pattern::Pattern;
use super::{ExpandFault, Expansion, Lookup};

/// Deepest nesting of `${a:-${b:-…}}`; keeps hostile input from exhausting the stack.
pub(super) const MAX_DEPTH: usize = 100;

/// Largest result; `ENV a=$a$a` thirty times over would otherwise take all memory.
pub(super) const MAX_RESULT: usize = 64 << 20;

/// Quoting rules of a mode.
pub(super) struct Options {
    /// The escape character.
    pub(super) escape: char,
    /// Quotes mean something.
    pub(super) quotes: bool,
    /// They stay in the result.
    pub(super) keep_quotes: bool,
    /// Escape characters stay in the result.
    pub(super) keep_escapes: bool,
    /// `$x` stays as written if `x` has no value.
    pub(super) keep_undefined: bool,
    /// An escaped wildcard keeps a backslash.
    pub(super) keep_wildcards: bool,
}

/// Expands `text`, collecting words on the way if asked.
pub(super) fn scan(
    text: &str,
    options: &Options,
    lookup: Lookup<'_>,
    words: Option<&mut Words>,
) -> Result<Expansion, ExpandFault> {
    let mut scanner = Scanner {
        rest: text,
        options,
        lookup,
        keep_escapes: options.keep_escapes,
        depth: 0,
        used: IndexSet::new(),
        undefined: IndexSet::new(),
    };
    let text = scanner.until(None, options.keep_escapes, words)?;
    Ok(Expansion { text, used: scanner.used.into_iter().collect(), undefined: scanner.undefined.into_iter().collect() })
}

/// Splits the result into words while it is made: only then is it known which white space was quoted.
#[derive(Default)]
pub(super) struct Words {
    done: Vec<String>,
    current: String,
}

impl Words {
    /// An unquoted character or text: white space separates.
    fn open(&mut self, text: &str) {
        for c in text.chars() {
            if c.is_whitespace() {
                self.end();
            } else {
                self.current.push(c);
            }
        }
    }

    /// Quoted or escaped text.
    fn closed(&mut self, text: &str) {
        self.current.push_str(text);
    }

    fn end(&mut self) {
        if !self.current.is_empty() {
            self.done.push(std::mem::take(&mut self.current));
        }
    }

    pub(super) fn finish(mut self) -> Vec<String> {
        self.end();
        self.done
    }
}

struct Scanner<'a> {
    rest: &'a str,
    options: &'a Options,
    lookup: Lookup<'a>,
    /// The rule in force: patterns keep escapes for the pattern parser.
    keep_escapes: bool,
    depth: usize,
    used: IndexSet<String>,
    undefined: IndexSet<String>,
}

impl Scanner<'_> {
    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let c = chars.next();
        self.rest = chars.as_str();
        c
    }

    /// Expands up to the end, or up to and without `stop`.
    fn until(
        &mut self,
        stop: Option<char>,
        keep_escapes: bool,
        mut words: Option<&mut Words>,
    ) -> Result<String, ExpandFault> {
        if self.depth == MAX_DEPTH {
            return Err(ExpandFault::TooDeep);
        }
        self.depth += 1;
        let before = std::mem::replace(&mut self.keep_escapes, keep_escapes);
        let mut out = String::new();
        let mut buffer = [0u8; 4];
        loop {
            let Some(c) = self.next() else {
                if stop.is_some() {
                    return Err(ExpandFault::MissingBrace);
                }
                break;
            };
            if Some(c) == stop {
                break;
            }
            match c {
                '$' => {
                    let value = self.dollar()?;
                    if out.len() + value.len() > MAX_RESULT {
                        return Err(ExpandFault::TooLarge);
                    }
                    if let Some(words) = words.as_deref_mut() {
                        words.open(&value);
                    }
                    out.push_str(&value);
                }
                '\'' | '"' if self.options.quotes => {
                    let inner = if c == '"' { self.double_quoted()? } else { self.single_quoted()? };
                    if let Some(words) = words.as_deref_mut() {
                        words.closed(&inner);
                    }
                    out.push_str(&inner);
                }
                c if c == self.options.escape => {
                    if self.keep_escapes {
                        if let Some(words) = words.as_deref_mut() {
                            words.closed(c.encode_utf8(&mut buffer));
                        }
                        out.push(c);
                    }
                    // At the very end it escapes nothing and is dropped.
                    let Some(escaped) = self.next() else { continue };
                    if self.options.keep_wildcards && matches!(escaped, '*' | '?' | '[') {
                        out.push('\\');
                    }
                    if let Some(words) = words.as_deref_mut() {
                        words.closed(escaped.encode_utf8(&mut buffer));
                    }
                    out.push(escaped);
                }
                c => {
                    if let Some(words) = words.as_deref_mut() {
                        words.open(c.encode_utf8(&mut buffer));
                    }
                    out.push(c);
                }
            }
        }
        self.keep_escapes = before;
        self.depth -= 1;
        Ok(out)
    }

    /// After the opening quote.
    fn single_quoted(&mut self) -> Result<String, ExpandFault> {
        let end = self.rest.find('\'').ok_or_else(|| {
            self.rest = "";
            ExpandFault::SingleQuote
        })?;
        let inner = &self.rest[..end];
        self.rest = &self.rest[end + 1..];
        Ok(if self.options.keep_quotes { format!("'{inner}'") } else { inner.to_owned() })
    }

    /// After the opening quote.
    fn double_quoted(&mut self) -> Result<String, ExpandFault> {
        let keep = self.options.keep_quotes;
        let mut out = String::new();
        if keep {
            out.push('"');
        }
        loop {
            match self.next().ok_or(ExpandFault::DoubleQuote)? {
                '"' => {
                    if keep {
                        out.push('"');
                    }
                    return Ok(out);
                }
                '$' => {
                    let value = self.dollar()?;
                    if out.len() + value.len() > MAX_RESULT {
                        return Err(ExpandFault::TooLarge);
                    }
                    out.push_str(&value);
                }
                c if c == self.options.escape => match self.peek() {
                    // Only these three can be escaped; before others the escape is itself.
                    Some(escaped) if escaped == '"' || escaped == '$' || escaped == self.options.escape => {
                        if self.keep_escapes {
                            out.push(c);
                        }
                        self.next();
                        out.push(escaped);
                    }
                    Some(_) => out.push(c),
                    None => {}
                },
                c => out.push(c),
            }
        }
    }

    /// After the dollar sign.
    fn dollar(&mut self) -> Result<String, ExpandFault> {
        if self.peek() != Some('{') {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".to_owned());
            }
            return Ok(match self.value(&name) {
                None if self.options.keep_undefined => format!("${name}"),
                value => self.or_undefined(name, value),
            });
        }
        self.next();
        match self.peek() {
            None => return Err(ExpandFault::MissingBrace),
            Some('{' | '}' | ':') => return Err(ExpandFault::BadSubstitution),
            Some(_) => {}
        }
        let name = self.name();
        match self.next() {
            None => Err(ExpandFault::MissingBrace),
            Some('}') => Ok(match self.value(&name) {
                None if self.options.keep_undefined => format!("${{{name}}}"),
                value => self.or_undefined(name, value),
            }),
            Some(':') => {
                let operator = self.next().ok_or(ExpandFault::MissingBrace)?;
                self.conditional(name, operator, true)
            }
            Some(operator @ ('-' | '+' | '?')) => self.conditional(name, operator, false),
            Some(operator @ ('#' | '%')) => self.trim(name, operator),
            Some('/') => self.replace(name),
            Some(other) => Err(ExpandFault::UnsupportedModifier(other.to_string())),
        }
    }

    /// The text up to `stop`; anything unfinished in it means that the stop is missing.
    fn operand(&mut self, stop: char, keep_escapes: bool, missing: ExpandFault) -> Result<String, ExpandFault> {
        self.until(Some(stop), keep_escapes, None).map_err(|fault| match fault {
            ExpandFault::TooDeep | ExpandFault::TooLarge => fault,
            _ if self.rest.is_empty() => missing,
            _ => fault,
        })
    }

    /// `${name:-word}` and its relatives (SPEC A3.02).
    fn conditional(&mut self, name: String, operator: char, null_is_unset: bool) -> Result<String, ExpandFault> {
        let colon = if null_is_unset { ":" } else { "" };
        let word = self.operand('}', false, ExpandFault::MissingBrace)?;
        if !matches!(operator, '-' | '+' | '?') {
            return Err(ExpandFault::UnsupportedModifier(format!("{colon}{operator}")));
        }
        let value = self.value(&name);
        if value.is_none() && self.options.keep_undefined {
            return Ok(format!("${{{name}{colon}{operator}{word}}}"));
        }
        let unset = value.is_none();
        let value = value.filter(|value| !(null_is_unset && value.is_empty()));
        match (operator, value) {
            ('-', value) => Ok(value.unwrap_or(word)),
            ('+', value) => Ok(value.map_or_else(String::new, |_| word)),
            (_, Some(value)) => Ok(value),
            (_, None) => {
                let standard = if unset { "is not allowed to be unset" } else { "is not allowed to be empty" };
                let message = if word.is_empty() { standard.to_owned() } else { word };
                Err(ExpandFault::Required { name, message })
            }
        }
    }

    /// `${name#pattern}`, `${name%pattern}` and the doubled, greedy forms (SPEC A3.03).
    fn trim(&mut self, name: String, operator: char) -> Result<String, ExpandFault> {
        let word = self.operand('}', true, ExpandFault::MissingBrace)?;
        let value = self.value(&name);
        if value.is_none() && self.options.keep_undefined {
            return Ok(format!("${{{name}{operator}{word}}}"));
        }
        let (longest, text) = match word.strip_prefix(operator) {
            Some(text) => (true, text),
            None => (false, word.as_str()),
        };
        let pattern = parse_pattern(text)?;
        let value = self.or_undefined(name, value);
        Ok(if operator == '#' { pattern.trim_start(&value, longest) } else { pattern.trim_end(&value, longest) })
    }

    /// `${name/pattern/replacement}`, with `//` for all matches (SPEC A3.04).
    fn replace(&mut self, name: String) -> Result<String, ExpandFault> {
        let all = self.peek() == Some('/');
        if all {
            self.next();
        }
        let text = self.operand('/', true, ExpandFault::MissingSlash)?;
        let replacement = self.operand('}', true, ExpandFault::MissingBrace)?;
        let value = self.value(&name);
        if value.is_none() && self.options.keep_undefined {
            let slash = if all { "//" } else { "/" };
            return Ok(format!("${{{name}{slash}{text}/{replacement}}}"));
        }
        let pattern = parse_pattern(&text)?;
        let value = self.or_undefined(name, value);
        if all {
            return pattern.replace_all(&value, &replacement, MAX_RESULT).ok_or(ExpandFault::TooLarge);
        }
        Ok(pattern.replace_first(&value, &replacement))
    }

    /// Letters, digits and underscores; a leading digit takes digits only; or one special character (SPEC A3.01).
    fn name(&mut self) -> String {
        let Some(first) = self.peek() else { return String::new() };
        let len = if first.is_numeric() {
            self.rest.find(|c: char| !c.is_numeric())
        } else if matches!(first, '@' | '*' | '#' | '?' | '-' | '$' | '!') {
            Some(first.len_utf8())
        } else {
            self.rest.find(|c: char| !(c.is_alphanumeric() || c == '_'))
        };
        let (name, rest) = self.rest.split_at(len.unwrap_or(self.rest.len()));
        self.rest = rest;
        name.to_owned()
    }

    fn value(&mut self, name: &str) -> Option<String> {
        let value = (self.lookup)(name);
        if value.is_some() && !self.used.contains(name) {
            self.used.insert(name.to_owned());
        }
        value
    }

    fn or_undefined(&mut self, name: String, value: Option<String>) -> String {
        value.unwrap_or_else(|| {
            self.undefined.insert(name);
            String::new()
        })
    }
}

fn parse_pattern(text: &str) -> Result<Pattern, ExpandFault> {
    Pattern::parse(text).map_err(|reason| ExpandFault::Pattern { pattern: text.to_owned(), reason })
}
