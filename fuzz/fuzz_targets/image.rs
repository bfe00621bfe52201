//! Manifests, indexes, configs and references.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| rbuild_fuzz::targets::image(bytes));
