//! Text that may be a reference to a git repository.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| rbuild_fuzz::targets::gitref(bytes));
