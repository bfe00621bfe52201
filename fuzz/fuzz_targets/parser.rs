//! A Dockerfile to a tree, to text, to a tree.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| rbuild_fuzz::targets::parser(bytes));
