//! A text rule shared by the parser and the checks.

/// The separators of most instructions, SPEC A1.18: `[\t\v\f\r ]`.
pub(super) fn is_blank(c: char) -> bool {
    matches!(c, '\t' | '\x0b' | '\x0c' | '\r' | ' ')
}
