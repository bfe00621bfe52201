//! Path patterns as Go's `path/filepath` understands them, over bytes so that names need not be UTF-8.
//!
//! Dockerfiles and ignore files are written against `filepath.Match` and `filepath.Clean` (SPEC A6.06, A9.02, A9.03);
//! [`Glob`] and [`clean`] are those two. With [`Glob::with_double_star`] a pattern also knows `**`, in the form that
//! moby's patternmatcher gives it.

/// `pattern` breaks the syntax of `filepath.Match`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("syntax error in pattern")]
pub struct BadPattern;

/// Go's `filepath.Clean`: the shortest equivalent path, by text alone.
#[must_use]
pub fn clean(path: &[u8]) -> Vec<u8> {
    let rooted = path.first() == Some(&b'/');
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => match parts.last() {
                Some(last) if *last != b".." => {
                    parts.pop();
                }
                _ if rooted => {}
                _ => parts.push(part),
            },
            _ => parts.push(part),
        }
    }
    let mut out = Vec::with_capacity(path.len().max(1));
    if rooted {
        out.push(b'/');
    }
    out.extend_from_slice(&parts.join(&b'/'));
    if out.is_empty() {
        out.push(b'.');
    }
    out
}

/// Whether `text` has an unescaped `*`, `?` or `[`.
#[must_use]
pub fn has_wildcards(text: &[u8]) -> bool {
    let mut escaped = false;
    text.iter().any(|b| {
        let hit = !escaped && matches!(b, b'*' | b'?' | b'[');
        escaped = !escaped && *b == b'\\';
        hit
    })
}

/// `text` without the backslashes that escape.
#[must_use]
pub fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.iter();
    while let Some(b) = bytes.next() {
        out.push(if *b == b'\\' { *bytes.next().unwrap_or(b) } else { *b });
    }
    out
}

/// The pattern that matches exactly `text`.
#[must_use]
pub fn escape(text: &[u8]) -> Vec<u8> {
    let special = |b: &u8| matches!(b, b'*' | b'?' | b'[' | b'\\');
    text.iter().flat_map(|b| if special(b) { vec![b'\\', *b] } else { vec![*b] }).collect()
}

/// Matches `name` against `pattern` as `filepath.Match` does.
///
/// # Errors
/// A malformed pattern.
pub fn matches(pattern: &[u8], name: &[u8]) -> Result<bool, BadPattern> {
    Ok(Glob::new(pattern)?.matches(name))
}

/// One element of a pattern. Characters are code points, or [`BYTE`] plus the value of a byte that is not UTF-8.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Literal(u32),
    /// `?`: any character but `/`.
    One,
    /// `*`: any characters but `/`.
    Star,
    Class {
        negated: bool,
        ranges: Vec<(u32, u32)>,
    },
    /// `**/`: nothing, or anything that ends in `/`.
    Dirs,
    /// `**` at the end: anything.
    Rest,
}

const BYTE: u32 = 0x11_0000;
/// What Go decodes a byte that is not UTF-8 to, when a class looks at it.
const REPLACEMENT: u32 = 0xfffd;

/// Takes one character off `text`, which is not empty.
fn decode(text: &[u8]) -> (u32, usize) {
    let first = text[0];
    if first < 0x80 {
        return (u32::from(first), 1);
    }
    let len = match first {
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        _ => 1,
    };
    match text.get(..len).and_then(|t| std::str::from_utf8(t).ok()).and_then(|t| t.chars().next()) {
        Some(c) => (u32::from(c), len),
        None => (BYTE + u32::from(first), 1),
    }
}

/// A compiled pattern.
#[derive(Clone, Debug)]
pub struct Glob {
    tokens: Vec<Token>,
    /// Literal bytes that every match starts with, and ends with: most names are refused by these alone.
    prefix: Vec<u8>,
    suffix: Vec<u8>,
}

impl Glob {
    /// Compiles a pattern of `filepath.Match`.
    ///
    /// # Errors
    /// A malformed pattern.
    pub fn new(pattern: &[u8]) -> Result<Self, BadPattern> {
        Self::parse(pattern, false)
    }

    /// The same with `**`, which stands for any number of path components.
    ///
    /// # Errors
    /// A malformed pattern.
    pub fn with_double_star(pattern: &[u8]) -> Result<Self, BadPattern> {
        Self::parse(pattern, true)
    }

    fn parse(pattern: &[u8], double_star: bool) -> Result<Self, BadPattern> {
        let mut tokens = Vec::new();
        let mut prefix = Vec::new();
        let mut suffix = Vec::new();
        let mut literal_so_far = true;
        let mut rest = pattern;
        while let Some(first) = rest.first() {
            let token = match first {
                b'*' if double_star && rest.get(1) == Some(&b'*') => {
                    rest = rest[2..].strip_prefix(b"/").unwrap_or(&rest[2..]);
                    if rest.is_empty() { Token::Rest } else { Token::Dirs }
                }
                b'*' => {
                    rest = &rest[1..];
                    Token::Star
                }
                b'?' => {
                    rest = &rest[1..];
                    Token::One
                }
                b'[' => {
                    let (class, after) = parse_class(&rest[1..])?;
                    rest = after;
                    class
                }
                _ => {
                    if *first == b'\\' {
                        rest = &rest[1..];
                        if rest.is_empty() {
                            return Err(BadPattern);
                        }
                    }
                    let (character, len) = decode(rest);
                    suffix.extend_from_slice(&rest[..len]);
                    if literal_so_far {
                        prefix.extend_from_slice(&rest[..len]);
                    }
                    rest = &rest[len..];
                    tokens.push(Token::Literal(character));
                    continue;
                }
            };
            literal_so_far = false;
            suffix.clear();
            tokens.push(token);
        }
        Ok(Self { tokens, prefix, suffix })
    }

    /// The text that a pattern without any special meaning stands for.
    #[must_use]
    pub fn literal(&self) -> Option<&[u8]> {
        self.tokens.iter().all(|t| matches!(t, Token::Literal(_))).then_some(&self.prefix)
    }

    /// Whether the whole of `name` matches.
    #[must_use]
    pub fn matches(&self, name: &[u8]) -> bool {
        name.starts_with(&self.prefix) && name.ends_with(&self.suffix) && self.run(name, contains)
    }

    /// Whether some longer name that starts with `start` could match.
    #[must_use]
    pub fn may_continue(&self, start: &[u8]) -> bool {
        let common = start.len().min(self.prefix.len());
        start[..common] == self.prefix[..common] && self.run(start, |states, end| (0..end).any(|i| contains(states, i)))
    }

    /// Follows all ways through the pattern at once and asks about the states at the end of `name`.
    fn run(&self, name: &[u8], ask: impl Fn(&[u64], usize) -> bool) -> bool {
        let words = self.tokens.len() / 64 + 1;
        let (mut small, mut large);
        let (current, next) = if words <= 2 {
            small = [0u64; 4];
            small.split_at_mut(2)
        } else {
            large = vec![0u64; words * 2];
            large.split_at_mut(words)
        };
        let (mut current, mut next) = (current, next);
        self.enter(0, current);
        let mut rest = name;
        while !rest.is_empty() {
            let (character, len) = decode(rest);
            rest = &rest[len..];
            next.fill(0);
            let mut alive = false;
            for (word, bits) in current.iter().enumerate() {
                let mut bits = *bits;
                while bits != 0 {
                    let state = word * 64 + bits.trailing_zeros() as usize;
                    bits &= bits - 1;
                    alive |= self.step(state, character, next);
                }
            }
            if !alive {
                return false;
            }
            std::mem::swap(&mut current, &mut next);
        }
        ask(current, self.tokens.len())
    }

    /// Adds `state` and what can be reached from it without reading.
    fn enter(&self, state: usize, states: &mut [u64]) {
        let mut state = state;
        loop {
            states[state / 64] |= 1 << (state % 64);
            match self.tokens.get(state) {
                Some(Token::Star | Token::Dirs | Token::Rest) => state += 1,
                _ => return,
            }
        }
    }

    /// Adds what follows `state` when it reads `character`; tells whether anything does.
    fn step(&self, state: usize, character: u32, next: &mut [u64]) -> bool {
        let slash = character == u32::from(b'/');
        let (stay, advance) = match self.tokens.get(state) {
            None => (false, false),
            Some(Token::Literal(c)) => (false, *c == character),
            Some(Token::One) => (false, !slash),
            Some(Token::Class { negated, ranges }) => {
                let character = if character >= BYTE { REPLACEMENT } else { character };
                (false, ranges.iter().any(|(lo, hi)| (*lo..=*hi).contains(&character)) != *negated)
            }
            Some(Token::Star) => (!slash, !slash),
            // Once it has read something, `**/` ends only after a `/`: state without the way out that `enter` adds.
            Some(Token::Dirs) => (true, slash),
            Some(Token::Rest) => (true, true),
        };
        if stay {
            next[state / 64] |= 1 << (state % 64);
        }
        if advance {
            self.enter(state + 1, next);
        }
        stay || advance
    }
}

fn contains(states: &[u64], state: usize) -> bool {
    states[state / 64] & (1 << (state % 64)) != 0
}

/// Parses a class after its `[`.
fn parse_class(mut rest: &[u8]) -> Result<(Token, &[u8]), BadPattern> {
    let negated = rest.first() == Some(&b'^');
    if negated {
        rest = &rest[1..];
    }
    let mut ranges = Vec::new();
    loop {
        if let (Some(after), false) = (rest.strip_prefix(b"]"), ranges.is_empty()) {
            return Ok((Token::Class { negated, ranges }, after));
        }
        let lo = class_member(&mut rest)?;
        let hi = match rest.strip_prefix(b"-") {
            Some(after) => {
                rest = after;
                class_member(&mut rest)?
            }
            None => lo,
        };
        ranges.push((lo, hi));
    }
}

fn class_member(rest: &mut &[u8]) -> Result<u32, BadPattern> {
    let mut text = match rest.first() {
        None | Some(b'-' | b']') => return Err(BadPattern),
        Some(b'\\') => &rest[1..],
        Some(_) => *rest,
    };
    if text.is_empty() {
        return Err(BadPattern);
    }
    let (character, len) = decode(text);
    text = &text[len..];
    // A class must go on after each member: its `]` is still missing.
    if character >= BYTE || text.is_empty() {
        return Err(BadPattern);
    }
    *rest = text;
    Ok(character)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cases of Go's own `filepath.Match` test (facts, so that we agree with it); `None` is a bad pattern.
    #[test]
    fn a6_06_matches_as_go_does() {
        let cases: &[(&str, &str, Option<bool>)] = &[
            ("abc", "abc", Some(true)),
            ("*", "abc", Some(true)),
            ("*c", "abc", Some(true)),
            ("a*", "a", Some(true)),
            ("a*", "abc", Some(true)),
            ("a*", "ab/c", Some(false)),
            ("a*/b", "abc/b", Some(true)),
            ("a*/b", "a/c/b", Some(false)),
            ("a*b*c*d*e*/f", "axbxcxdxe/f", Some(true)),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/f", Some(true)),
            ("a*b*c*d*e*/f", "axbxcxdxe/xxx/f", Some(false)),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/fff", Some(false)),
            ("a*b?c*x", "abxbbxdbxebxczzx", Some(true)),
            ("a*b?c*x", "abxbbxdbxebxczzy", Some(false)),
            ("ab[c]", "abc", Some(true)),
            ("ab[b-d]", "abc", Some(true)),
            ("ab[e-g]", "abc", Some(false)),
            ("ab[^c]", "abc", Some(false)),
            ("ab[^b-d]", "abc", Some(false)),
            ("ab[^e-g]", "abc", Some(true)),
            ("a\\*b", "a*b", Some(true)),
            ("a\\*b", "ab", Some(false)),
            ("a?b", "a☺b", Some(true)),
            ("a[^a]b", "a☺b", Some(true)),
            ("a???b", "a☺b", Some(false)),
            ("a[^a][^a][^a]b", "a☺b", Some(false)),
            ("[a-ζ]*", "α", Some(true)),
            ("*[a-ζ]", "A", Some(false)),
            ("a?b", "a/b", Some(false)),
            ("a*b", "a/b", Some(false)),
            ("[\\]a]", "]", Some(true)),
            ("[\\-]", "-", Some(true)),
            ("[x\\-]", "x", Some(true)),
            ("[x\\-]", "-", Some(true)),
            ("[x\\-]", "z", Some(false)),
            ("[\\-x]", "a", Some(false)),
            ("[]a]", "]", None),
            ("[-]", "-", None),
            ("[x-]", "x", None),
            ("[-x]", "x", None),
            ("\\", "a", None),
            ("[a-b-c]", "a", None),
            ("[", "a", None),
            ("[^", "a", None),
            ("[^bc", "a", None),
            ("a[", "a", None),
            ("a[", "ab", None),
            ("a[", "x", None),
            ("a/b[", "x", None),
            ("*x", "xxx", Some(true)),
            ("", "", Some(true)),
            ("", "a", Some(false)),
        ];
        for (pattern, name, want) in cases {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()).ok(), *want, "{pattern} against {name}");
        }
    }

    #[test]
    fn a6_06_names_need_not_be_utf_8() {
        assert_eq!(matches(b"a?c", b"a\xffc"), Ok(true));
        assert_eq!(matches(b"a??c", b"a\xffc"), Ok(false));
        assert_eq!(matches(b"a\xffc", b"a\xffc"), Ok(true));
        assert_eq!(matches(b"a\xfec", b"a\xffc"), Ok(false));
        assert_eq!(matches(b"*[^x]", b"\xf0\x28\xff"), Ok(true));
    }

    #[test]
    fn a9_02_clean_as_go_does() {
        for (path, want) in [
            ("", "."),
            ("abc", "abc"),
            ("abc/def", "abc/def"),
            (".", "."),
            ("..", ".."),
            ("../..", "../.."),
            ("../../abc", "../../abc"),
            ("/abc", "/abc"),
            ("/", "/"),
            ("abc/", "abc"),
            ("abc//def//ghi", "abc/def/ghi"),
            ("//abc", "/abc"),
            ("abc/./def", "abc/def"),
            ("/./abc/def", "/abc/def"),
            ("abc/def/..", "abc"),
            ("abc/def/../..", "."),
            ("/abc/def/../..", "/"),
            ("abc/def/../../..", ".."),
            ("/abc/def/../../..", "/"),
            ("abc/def/../../../ghi/jkl/../../../mno", "../../mno"),
            ("abc/./../def", "def"),
            ("abc//./../def", "def"),
            ("abc/../../././../def", "../../def"),
        ] {
            assert_eq!(String::from_utf8_lossy(&clean(path.as_bytes())), want, "{path}");
        }
    }

    #[test]
    fn wildcards_are_seen_unless_escaped() {
        for (text, want) in
            [("a", false), ("a*", true), ("a\\*", false), ("a\\\\*", true), ("[", true), ("\\?x?", true)]
        {
            assert_eq!(has_wildcards(text.as_bytes()), want, "{text}");
        }
        assert_eq!(escape(b"a[1]*\\"), b"a\\[1]\\*\\\\");
        assert_eq!(matches(&escape(b"a[1]*?\\"), b"a[1]*?\\"), Ok(true));
        assert_eq!(unescape(b"a\\*b\\\\c\\"), b"a*b\\c\\");
    }

    #[test]
    fn tells_whether_something_below_could_match() {
        let glob = |p: &str| Glob::with_double_star(p.as_bytes()).expect("a valid pattern");
        for (pattern, start, want) in [
            ("a/b/c", "a/", true),
            ("a/b/c", "b/", false),
            ("a/*/c", "a/x/", true),
            ("a/*/c", "a/x/c/", false),
            ("**/c", "any/thing/", true),
            ("a/**", "a/", true),
            ("a/**", "b/", false),
            ("a", "a/", false),
        ] {
            assert_eq!(glob(pattern).may_continue(start.as_bytes()), want, "{pattern} below {start}");
        }
    }

    #[test]
    fn long_patterns_work_as_short_ones() {
        let pattern = format!("{}*{}", "a?".repeat(120), "b".repeat(70));
        let name = format!("{}xyz{}", "ac".repeat(120), "b".repeat(70));
        assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), Ok(true));
        assert_eq!(matches(pattern.as_bytes(), &name.as_bytes()[1..]), Ok(false));
    }
}
