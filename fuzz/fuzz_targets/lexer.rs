//! Any bytes as lines, directives and heredocs.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| rbuild_fuzz::targets::lexer(bytes));
