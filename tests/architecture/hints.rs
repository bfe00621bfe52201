//! Every hint of an error message has an entry in docs/troubleshooting.md.
//!
//! Hints are found in the source: texts in `.hint(…)`, in functions called `hint`, and in what is called `hint`.
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("the source tree is readable") {
        let path = entry.expect("the source tree is readable").path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && name != "tests" {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") && !name.ends_with("tests") {
            found.push(path);
        }
    }
}

/// The code up to the end of what began before it: the bracket that is one too many, or a `;` outside of all.
fn extent(code: &str) -> &str {
    let (mut depth, mut in_text, mut escaped) = (0_i32, false, false);
    for (at, c) in code.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if in_text => escaped = true,
            '"' => in_text = !in_text,
            _ if in_text => {}
            '(' | '{' | '[' => depth += 1,
            ')' | '}' | ']' if depth == 0 => return &code[..at],
            ')' | '}' | ']' => depth -= 1,
            ';' if depth == 0 => return &code[..at],
            _ => {}
        }
    }
    code
}

/// Texts of more than one word, with `…` for what is filled in; not what is appended to others.
fn texts(code: &str) -> Vec<String> {
    let mut all = Vec::new();
    let mut rest = code.chars().peekable();
    while let Some(c) = rest.next() {
        if c != '"' {
            continue;
        }
        let mut text = String::new();
        while let Some(c) = rest.next() {
            match c {
                '"' => break,
                '\\' => match rest.next() {
                    Some('\n') => while rest.next_if(|c| c.is_whitespace()).is_some() {},
                    Some(other) => text.push(other),
                    None => {}
                },
                '{' | '}' if rest.next_if_eq(&c).is_some() => text.push(c),
                '{' => {
                    while rest.next().is_some_and(|c| c != '}') {}
                    text.push('…');
                }
                other => text.push(other),
            }
        }
        if text.trim().contains(' ') && !text.starts_with(' ') && text.contains(char::is_alphabetic) {
            all.push(text);
        }
    }
    all
}

/// Hints, and where each is.
fn hints() -> BTreeMap<String, PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut found = BTreeMap::new();
    for file in files {
        let code = std::fs::read_to_string(&file).expect("the source tree is readable");
        let code = code.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        for mark in [
            ".hint(",
            "fn hint(&self) -> Option<",
            "fn hint(&self) -> String ",
            "let hint = ",
            "let safe = ",
            "hint: Some(",
            ".hint = Some(",
            "const HINT: &str = ",
            "hint: hint.then(",
        ] {
            for (at, _) in code.match_indices(mark) {
                let mut after = &code[at + mark.len()..];
                if mark.starts_with("fn") {
                    after = &after[after.find('{').map_or(0, |open| open + 1)..];
                }
                for text in texts(extent(after)) {
                    found.insert(text, file.clone());
                }
            }
        }
    }
    found
}

#[test]
fn every_hint_has_an_entry_and_every_entry_a_hint() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/troubleshooting.md");
    let page = std::fs::read_to_string(page).expect("the page is there").replace("\\|", "|");
    let hints = hints();
    assert!(hints.len() > 100, "only {} hints were found: has their shape changed?", hints.len());
    // The first cell of each row, without the backticks around it.
    let entries: Vec<String> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` | ").map(|(entry, _)| entry))
        .map(|entry| entry.replace("{{", "{").replace("}}", "}"))
        .map(|entry| {
            entry.strip_prefix("` ").and_then(|e| e.strip_suffix(" `")).map_or(entry.clone(), ToOwned::to_owned)
        })
        .collect();
    let missing: Vec<String> = hints
        .iter()
        .filter(|(hint, _)| !entries.contains(hint))
        .map(|(hint, file)| format!("{}: {hint}", file.display()))
        .collect();
    let stale: Vec<&String> = entries.iter().filter(|entry| !hints.contains_key(*entry)).collect();
    assert!(missing.is_empty(), "add these to docs/troubleshooting.md:\n{}", missing.join("\n"));
    assert!(stale.is_empty(), "docs/troubleshooting.md has entries for hints that nobody gives: {stale:#?}");
}
