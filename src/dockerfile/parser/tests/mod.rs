//! The parser against SPEC A1, A2, A4.01, A5.01, A6.01–A6.03 and A8.

mod heredocs;
mod instructions;
mod properties;
mod structure;

use super::{Parsed, parse};
use crate::dockerfile::ast::{Instruction, Kind};

/// Parses what must be right.
fn good(text: &str) -> Parsed {
    let parsed = parse(text.as_bytes());
    assert_eq!(parsed.errors, [], "{text}");
    parsed
}

/// The only instruction behind a FROM.
fn one(line: &str) -> Instruction {
    let mut instructions = good(&format!("FROM x\n{line}")).dockerfile.instructions;
    assert_eq!(instructions.len(), 2, "{line}");
    instructions.pop().expect("two instructions")
}

fn kind(line: &str) -> Kind {
    one(line).kind
}

/// All errors of a file as a user sees them.
fn errors(text: impl AsRef<[u8]>) -> Vec<String> {
    parse(text.as_ref()).errors.iter().map(ToString::to_string).collect()
}

/// The only error of a line behind a FROM, without the place.
fn error(line: &str) -> String {
    let errors = errors(format!("FROM x\n{line}"));
    let [error] = errors.as_slice() else { panic!("{line}: {errors:?}") };
    error.strip_prefix("dockerfile parse error on line 2: ").expect("it is on line 2").to_owned()
}
