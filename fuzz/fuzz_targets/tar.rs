//! Layers and archives, unpacked.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| rbuild_fuzz::targets::tar(bytes));
