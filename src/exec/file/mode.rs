//! Permission bits of a copy: kept, octal, or symbolic as chmod(1) has them (SPEC A6.05, C1.10).

use super::FileOpError;

/// How permission bits change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum ModeChange {
    /// Not at all.
    #[default]
    Keep,
    /// All are replaced.
    Octal(u32),
    /// Clause after clause.
    Symbolic(Vec<Clause>),
}

/// One operation of a symbolic mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Clause {
    /// The bits it may touch.
    who: u32,
    operator: u8,
    /// The bits it names, for everyone.
    bits: u32,
    /// Execution for directories and what is executable by anyone.
    conditional: bool,
    /// Copies the bits of the owner (6), the group (3) or others (0): the shift of their three bits.
    copy: Option<u32>,
}

const SETUID: u32 = 0o4000;
const SETGID: u32 = 0o2000;
const STICKY: u32 = 0o1000;

impl ModeChange {
    /// The change a copy action asks for: `text` if there is one, else `octal`, where -1 keeps.
    pub(super) fn new(text: &str, octal: i32) -> Result<Self, FileOpError> {
        if !text.is_empty() {
            return Self::parse(text).ok_or_else(|| FileOpError::Mode { mode: text.to_owned() });
        }
        Ok(u32::try_from(octal).map_or(Self::Keep, |mode| Self::Octal(mode & 0o7777)))
    }

    fn parse(text: &str) -> Option<Self> {
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            return u32::from_str_radix(text, 8).ok().filter(|m| *m <= 0o7777).map(Self::Octal);
        }
        let mut clauses = Vec::new();
        for part in text.split(',') {
            parse_clauses(part.as_bytes(), &mut clauses)?;
        }
        Some(Self::Symbolic(clauses))
    }

    /// The octal value, if this is one: it also counts for the parents of a destination.
    pub(super) fn octal(&self) -> Option<u32> {
        if let Self::Octal(mode) = self { Some(*mode) } else { None }
    }

    /// The new bits of something that has the bits `old`.
    pub(super) fn apply(&self, old: u32, directory: bool) -> u32 {
        match self {
            Self::Keep => old & 0o7777,
            Self::Octal(mode) => *mode,
            Self::Symbolic(clauses) => clauses.iter().fold(old & 0o7777, |mode, c| c.apply(mode, old, directory)),
        }
    }
}

impl Clause {
    fn apply(&self, mode: u32, old: u32, directory: bool) -> u32 {
        let mut bits = self.bits;
        if self.conditional && (directory || old & 0o111 != 0) {
            bits |= 0o111;
        }
        if let Some(shift) = self.copy {
            bits |= ((mode >> shift) & 0o7) * 0o111;
        }
        let bits = bits & self.who;
        match self.operator {
            b'+' => mode | bits,
            b'-' => mode & !bits,
            _ => mode & !self.who | bits,
        }
    }
}

/// `[ugoa]*` and then any number of `[+-=]` with permissions.
fn parse_clauses(part: &[u8], out: &mut Vec<Clause>) -> Option<()> {
    let who_end = part.iter().position(|c| !b"ugoa".contains(c))?;
    let who = part[..who_end].iter().fold(0, |who, c| {
        who | match c {
            b'u' => 0o700 | SETUID,
            b'g' => 0o070 | SETGID,
            b'o' => 0o007 | STICKY,
            _ => 0o7777,
        }
    });
    // Nobody named is everybody: there is no umask in a build.
    let who = if who_end == 0 { 0o7777 } else { who };
    let mut rest = &part[who_end..];
    while let [operator @ (b'+' | b'-' | b'='), after @ ..] = rest {
        let end = after.iter().position(|c| b"+-=".contains(c)).unwrap_or(after.len());
        let mut clause = Clause { who, operator: *operator, bits: 0, conditional: false, copy: None };
        match &after[..end] {
            b"u" => clause.copy = Some(6),
            b"g" => clause.copy = Some(3),
            b"o" => clause.copy = Some(0),
            letters => {
                for letter in letters {
                    match letter {
                        b'r' => clause.bits |= 0o444,
                        b'w' => clause.bits |= 0o222,
                        b'x' => clause.bits |= 0o111,
                        b's' => clause.bits |= SETUID | SETGID,
                        b't' => clause.bits |= STICKY,
                        b'X' => clause.conditional = true,
                        _ => return None,
                    }
                }
            }
        }
        out.push(clause);
        rest = &after[end..];
    }
    rest.is_empty().then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a6_05_symbolic_modes() {
        for (text, old, directory, want) in [
            ("u=rwX,go=rX", 0o600, false, 0o644),
            ("u=rwX,go=rX", 0o700, false, 0o755),
            ("u=rwX,go=rX", 0o600, true, 0o755),
            ("+x", 0o644, false, 0o755),
            ("-x", 0o755, false, 0o644),
            ("a+rX", 0o600, false, 0o644),
            ("u+s", 0o755, false, 0o4755),
            ("g+s,o+t", 0o755, true, 0o3755),
            ("u-s", 0o4755, false, 0o755),
            ("=", 0o7777, false, 0),
            ("go=", 0o777, false, 0o700),
            ("g=u", 0o640, false, 0o660),
            ("o=g-w", 0o664, false, 0o664),
            ("u+w-x", 0o555, false, 0o655),
            ("a-x,a+X", 0o755, false, 0o755),
            ("0640", 0o755, false, 0o640),
            ("4755", 0o644, false, 0o4755),
        ] {
            let change = ModeChange::new(text, -1).expect(text);
            assert_eq!(change.apply(old, directory), want, "{text} on {old:o}: {:o}", change.apply(old, directory));
        }
    }

    #[test]
    fn a6_05_octal_and_kept() {
        assert_eq!(ModeChange::new("", -1).expect("kept").apply(0o104_755, false), 0o4755);
        assert_eq!(ModeChange::new("", 0).expect("octal").apply(0o755, false), 0);
        assert_eq!(ModeChange::new("", 0o2750).expect("octal").octal(), Some(0o2750));
    }

    #[test]
    fn a6_05_bad_modes_are_refused() {
        for text in ["z", "u", "u+z", "u+rw;", "8", "77777", "u=r,", ",", "u=ug"] {
            assert!(ModeChange::new(text, -1).is_err(), "{text}");
        }
    }
}
