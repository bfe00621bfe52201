//! Words with variables, in every mode.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rbuild_fuzz::dockerfile::{Expander, Mode};

fuzz_target!(|input: (&str, &str, bool)| {
    let (text, value, tick) = input;
    let escape = if tick { '`' } else { '\\' };
    // Some variables are set, some are empty, the others unset.
    let lookup = |name: &str| match name.len() % 3 {
        0 => None,
        1 => Some(value.to_owned()),
        _ => Some(String::new()),
    };
    for mode in [Mode::Word, Mode::Heredoc, Mode::Display] {
        let _ = Expander::new(escape, mode).expand(text, &lookup);
    }
    if let Ok((words, _)) = Expander::words(escape).expand_words(text, &lookup) {
        assert!(words.iter().all(|word| !word.is_empty()));
    }
});
