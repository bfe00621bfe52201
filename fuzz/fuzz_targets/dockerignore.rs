//! An ignore file, and paths against it.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| rbuild_fuzz::targets::dockerignore(bytes));
