//! An ignore file, and paths against it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rbuild_fuzz::dockerfile::ignore::IgnoreFile;

fuzz_target!(|input: (&[u8], Vec<&[u8]>)| {
    let (text, paths) = input;
    let Ok(file) = IgnoreFile::parse(".dockerignore", text) else { return };
    for path in paths {
        if let Some(pattern) = file.excluded_by(path) {
            assert!(!pattern.text.starts_with(b"!"), "an exception hides nothing");
            assert!(file.patterns().contains(pattern));
        }
    }
});
