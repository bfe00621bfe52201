//! Words with variables, in every mode.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| rbuild_fuzz::targets::expansion(bytes));
