//! Graphs for whoever writes front ends: read, and shown (SPEC C1.16).

use std::fs::File;
use std::io::{self, IsTerminal as _, Read};
use std::path::Path;

use super::args::ShowGraph;
use super::errors::Failure;
use crate::base::FaultKind;
use crate::llb::{Definition, dot, json};

/// Larger definitions are refused.
const MAX_GRAPH: u64 = 64 << 20;

fn input(message: impl Into<String>) -> Failure {
    Failure::new(FaultKind::Input, message)
}

/// The bytes of a definition; `shown` is what messages call them.
///
/// # Errors
/// If they cannot be read, or are too many.
pub(super) fn read(from: impl Read, shown: &str) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    from.take(MAX_GRAPH + 1).read_to_end(&mut bytes).map_err(|e| input(format!("cannot read {shown}: {e}")))?;
    if bytes.len() as u64 > MAX_GRAPH {
        return Err(input(format!("the definition on {shown} is larger than 64 MiB")));
    }
    Ok(bytes)
}

pub(super) fn show(args: &ShowGraph) -> Result<u8, Failure> {
    let usage = |message: String| Failure::new(FaultKind::Usage, message);
    let (bytes, shown) = match args.file.as_deref().filter(|path| *path != Path::new("-")) {
        Some(path) => {
            let shown = path.display().to_string();
            let file = File::open(path).map_err(|e| usage(format!("cannot open {shown}: {e}")))?;
            (read(file, &shown)?, shown)
        }
        None if io::stdin().is_terminal() => {
            return Err(usage("there is no definition".into()).hint("name a file, or give one on standard input"));
        }
        None => (read(io::stdin(), "standard input")?, "standard input".to_owned()),
    };
    let bad = |e: &dyn std::fmt::Display| input(format!("cannot show {shown}: {e}"));
    let definition = Definition::decode(&bytes).map_err(|e| bad(&e))?;
    let text = if args.dot { dot::to_dot(&definition) } else { json::to_lines(&definition) };
    super::print(&text.map_err(|e| bad(&e))?)
}
