//! A Dockerfile to a tree, to text, to a tree.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rbuild_fuzz::dockerfile::excerpt::excerpt;
use rbuild_fuzz::dockerfile::lint::{CheckConfig, lint};
use rbuild_fuzz::dockerfile::parser::parse;
use rbuild_fuzz::dockerfile::print::print;

fuzz_target!(|bytes: &[u8]| {
    let parsed = parse(bytes);
    for error in &parsed.errors {
        if let Some(lines) = error.lines {
            let _ = excerpt("Dockerfile", bytes, lines, error.span.as_ref());
        }
    }
    let Ok((tree, warnings)) = parsed.into_result() else { return };
    let config = tree.directives.check.as_ref().and_then(|word| CheckConfig::parse(&word.text).ok());
    let _ = lint(&tree, &warnings, &config.unwrap_or_default());
    let once = print(&tree);
    let (again, _) = parse(once.as_bytes()).into_result().expect("what was printed parses");
    assert_eq!(tree.instructions.len(), again.instructions.len(), "{once}");
    assert_eq!(once, print(&again));
});
