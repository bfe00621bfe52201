//! Shell patterns of `#`, `%` and `/` substitutions: `*` and `?`, no brackets (SPEC A3.03–A3.04).
//!
//! As in a POSIX shell and unlike in a regular expression, the wildcards also match line breaks. That makes a
//! pattern a list of fixed pieces that must follow one another, and matching needs no backtracking.

/// One position of a fixed piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Atom {
    Char(char),
    Any,
}

/// A parsed pattern: fixed pieces, a `*` between each two.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern {
    pieces: Vec<Vec<Atom>>,
}

impl Pattern {
    /// Reads `*`, `?`, `\*`, `\?`, `\\`; `\}` and `\/` are `}` and `/`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut pieces = vec![Vec::new()];
        let mut piece = Vec::new();
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            match c {
                '*' => {
                    let last = pieces.len() - 1;
                    pieces[last] = std::mem::take(&mut piece);
                    pieces.push(Vec::new());
                }
                '?' => piece.push(Atom::Any),
                '\\' => match chars.next() {
                    Some(c @ ('*' | '?' | '\\' | '}' | '/')) => piece.push(Atom::Char(c)),
                    Some(other) => return Err(format!("invalid escape '\\{other}'")),
                    None => return Err("invalid escape '\\' at the end".to_owned()),
                },
                c => piece.push(Atom::Char(c)),
            }
        }
        let last = pieces.len() - 1;
        pieces[last] = piece;
        Ok(Self { pieces })
    }

    /// `${x#pattern}`
    pub(super) fn trim_start(&self, value: &str, longest: bool) -> String {
        let chars: Vec<char> = value.chars().collect();
        match self.prefix(&chars, longest) {
            Some(end) => chars[end..].iter().collect(),
            None => value.to_owned(),
        }
    }

    /// `${x%pattern}`: the same from the other side.
    pub(super) fn trim_end(&self, value: &str, longest: bool) -> String {
        let pieces = self.pieces.iter().rev().map(|piece| piece.iter().rev().copied().collect()).collect();
        let chars: Vec<char> = value.chars().rev().collect();
        match (Self { pieces }).prefix(&chars, longest) {
            Some(end) => chars[end..].iter().rev().collect(),
            None => value.to_owned(),
        }
    }

    /// `${x/pattern/replacement}`, the replacement taken literally.
    pub(super) fn replace_first(&self, value: &str, replacement: &str) -> String {
        let chars: Vec<char> = value.chars().collect();
        match self.find(&chars, 0) {
            Some((start, end)) => {
                let mut out: String = chars[..start].iter().collect();
                out.push_str(replacement);
                out.extend(&chars[end..]);
                out
            }
            None => value.to_owned(),
        }
    }

    /// `${x//pattern/replacement}`; `$0` in the replacement is the match. `None` if the result exceeds `limit` bytes.
    pub(super) fn replace_all(&self, value: &str, replacement: &str, limit: usize) -> Option<String> {
        let chars: Vec<char> = value.chars().collect();
        let mut out = String::new();
        let mut copied = 0;
        let mut at = 0;
        while at <= chars.len() {
            let Some((start, end)) = self.find(&chars, at) else { break };
            out.extend(&chars[copied..start]);
            // An empty match directly behind another match does not count.
            if end > copied || start == 0 {
                template(replacement, &chars[start..end], &mut out);
            }
            if out.len() > limit {
                return None;
            }
            copied = end;
            at = end.max(at + 1);
        }
        out.extend(&chars[copied.min(chars.len())..]);
        (out.len() <= limit).then_some(out)
    }

    /// End of the shortest or longest match at the start.
    fn prefix(&self, value: &[char], longest: bool) -> Option<usize> {
        let first = &self.pieces[0];
        if !matches_at(first, value, 0) {
            return None;
        }
        self.rest(value, first.len(), longest)
    }

    /// The leftmost match from `from` on, and of those the longest.
    fn find(&self, value: &[char], from: usize) -> Option<(usize, usize)> {
        let first = &self.pieces[0];
        // If the other pieces cannot follow the first occurrence, they cannot follow a later one.
        let start = (from..=value.len()).find(|&at| matches_at(first, value, at))?;
        Some((start, self.rest(value, start + first.len(), true)?))
    }

    /// Where the match ends, given that the first piece ends at `at`.
    fn rest(&self, value: &[char], mut at: usize, longest: bool) -> Option<usize> {
        let Some((last, middle)) = self.pieces[1..].split_last() else { return Some(at) };
        for piece in middle {
            at = (at..=value.len()).find(|&at| matches_at(piece, value, at))? + piece.len();
        }
        let mut ends = at..=value.len();
        let start = if longest {
            ends.rev().find(|&at| matches_at(last, value, at))
        } else {
            ends.find(|&at| matches_at(last, value, at))
        };
        Some(start? + last.len())
    }
}

fn matches_at(piece: &[Atom], value: &[char], at: usize) -> bool {
    value.get(at..at + piece.len()).is_some_and(|slice| {
        piece.iter().zip(slice).all(|(atom, c)| match atom {
            Atom::Char(wanted) => wanted == c,
            Atom::Any => true,
        })
    })
}

/// Appends a replacement in which `$0` and `${0}` are the match, `$$` is a dollar sign and any other `$name` is
/// empty, because a pattern has no groups.
fn template(replacement: &str, matched: &[char], out: &mut String) {
    let mut rest = replacement;
    while let Some(dollar) = rest.find('$') {
        out.push_str(&rest[..dollar]);
        rest = &rest[dollar + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
            continue;
        }
        let is_name = |c: char| c.is_alphanumeric() || c == '_';
        let (name, after) = match rest.strip_prefix('{') {
            Some(inner) => match inner.split_once('}') {
                Some((name, after)) if name.chars().all(is_name) => (name, after),
                _ => ("", rest),
            },
            None => rest.split_at(rest.find(|c| !is_name(c)).unwrap_or(rest.len())),
        };
        match name {
            "" => out.push('$'),
            "0" => out.extend(matched),
            _ => {}
        }
        if !name.is_empty() {
            rest = after;
        }
    }
    out.push_str(rest);
}
