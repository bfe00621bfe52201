//! Any bytes as lines, directives and heredocs.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rbuild_fuzz::dockerfile::parser::{detect_check, detect_syntax, parse, parse_trigger};

fuzz_target!(|bytes: &[u8]| {
    let _ = detect_syntax(bytes);
    let _ = detect_check(bytes);
    let parsed = parse(bytes);
    for instruction in &parsed.dockerfile.instructions {
        assert!(instruction.span.start < instruction.span.end && instruction.span.end <= bytes.len());
        assert!(1 <= instruction.lines.0 && instruction.lines.0 <= instruction.lines.1);
    }
    for diagnostic in parsed.errors.iter().chain(&parsed.warnings) {
        assert!(diagnostic.span.as_ref().is_none_or(|span| span.start <= span.end && span.end <= bytes.len()));
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = parse_trigger(text, '\\');
    }
});
