//! The patterns of `${name#pattern}` and its relatives: `*` and `?`, no classes (SPEC A3.03).

enum Token {
    Star,
    Any,
    Char(char),
}

/// A shell pattern.
pub(super) struct Pattern(Vec<Token>);

impl Pattern {
    pub(super) fn new(text: &str) -> Self {
        let mut tokens = Vec::new();
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            tokens.push(match c {
                '*' => Token::Star,
                '?' => Token::Any,
                '\\' => Token::Char(chars.next().unwrap_or('\\')),
                c => Token::Char(c),
            });
        }
        Self(tokens)
    }

    /// For every length whether the first so many characters of `text` match: one pass per token, never exponential.
    fn prefixes(&self, text: &[char]) -> Vec<bool> {
        let mut reach = vec![false; text.len() + 1];
        reach[0] = true;
        for token in &self.0 {
            let mut next = vec![false; text.len() + 1];
            let mut open = false;
            for (i, slot) in next.iter_mut().enumerate() {
                open |= reach[i];
                *slot = match token {
                    Token::Star => open,
                    Token::Any => i > 0 && reach[i - 1],
                    Token::Char(c) => i > 0 && reach[i - 1] && text[i - 1] == *c,
                };
            }
            reach = next;
        }
        reach
    }

    fn matches(&self, text: &[char]) -> bool {
        self.prefixes(text).last().copied().unwrap_or(false)
    }

    pub(super) fn trim_prefix(&self, value: &str, greedy: bool) -> String {
        let chars: Vec<char> = value.chars().collect();
        let reach = self.prefixes(&chars);
        let cut = if greedy { reach.iter().rposition(|r| *r) } else { reach.iter().position(|r| *r) };
        chars[cut.unwrap_or(0)..].iter().collect()
    }

    pub(super) fn trim_suffix(&self, value: &str, greedy: bool) -> String {
        let chars: Vec<char> = value.chars().collect();
        let mut starts = 0..=chars.len();
        let fits = |start: &usize| self.matches(&chars[*start..]);
        let cut = if greedy { starts.find(fits) } else { starts.rev().find(fits) };
        chars[..cut.unwrap_or(chars.len())].iter().collect()
    }

    pub(super) fn replace(&self, value: &str, replacement: &str, all: bool) -> String {
        let chars: Vec<char> = value.chars().collect();
        let (mut out, mut at, mut done) = (String::new(), 0, false);
        while at <= chars.len() {
            let longest = if done && !all { None } else { self.prefixes(&chars[at..]).iter().rposition(|r| *r) };
            match longest {
                Some(n) if n > 0 || self.0.is_empty() => {
                    out.push_str(replacement);
                    done = true;
                    if n == 0 {
                        out.extend(chars.get(at));
                    }
                    at += n.max(1);
                }
                _ => {
                    out.extend(chars.get(at));
                    at += 1;
                }
            }
        }
        out
    }
}

/// Removes escapes: `\/` is `/`.
pub(super) fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        out.push(if c == '\\' { chars.next().unwrap_or('\\') } else { c });
    }
    out
}
