//! Text that may be a reference to a git repository.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rbuild_fuzz::dockerfile::gitref::GitRef;

fuzz_target!(|text: &str| {
    if let Some(Ok(reference)) = GitRef::parse(text) {
        let _ = reference.host();
        assert!(!reference.subdir.split('/').any(|part| part == ".."), "{reference:?}");
        assert!(!reference.remote.is_empty() && !reference.remote.contains(['#', '?']), "{reference:?}");
    }
});
