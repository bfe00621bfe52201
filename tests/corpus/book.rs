//! What is written elsewhere about the corpus: the rows above each test, and the list of what buildah does otherwise.

use std::collections::BTreeSet;
use std::path::Path;

use super::case::{self, Peer};

/// Fails if the file is not what the corpus makes of it; writes it where `RBUILD_BLESS` is set.
#[track_caller]
pub fn check(path: &str, old: &str, make: impl Fn(&str) -> String) {
    let new = make(old);
    if std::env::var_os("RBUILD_BLESS").is_some() {
        std::fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join(path), &new).unwrap();
        return;
    }
    assert!(new == old, "{path} is not current: run this test with RBUILD_BLESS=1");
}

/// The test program with the rows of each file's cases above its test.
pub fn comments(files: &[(&str, &str)], old: &str) -> String {
    let mut out: Vec<String> = old.lines().map(str::to_owned).collect();
    for (name, text) in files {
        let call = format!("corpus::golden(\"{name}\"");
        let at = out.iter().position(|l| l.contains(&call)).unwrap_or_else(|| panic!("{name} has no test"));
        let test = (0..at).rev().find(|i| out[*i] == "#[test]").unwrap();
        let first = (0..test).rev().take_while(|i| out[*i].starts_with("//")).last().unwrap_or(test);
        let rows: BTreeSet<String> = case::parse(text).into_iter().flat_map(|c| c.rows).collect();
        let mut lines = Vec::new();
        let mut line = String::from("// SPEC");
        for row in &rows {
            if line.len() + row.len() + 2 > 118 {
                lines.push(std::mem::replace(&mut line, "//".into()));
            }
            let comma = if line.ends_with("SPEC") || line == "//" { "" } else { "," };
            line.push_str(&format!("{comma} {row}"));
        }
        lines.push(line);
        // A line that goes on ends with a comma.
        let last = lines.len() - 1;
        for line in &mut lines[..last] {
            line.push(',');
        }
        out.splice(first..test, lines);
    }
    out.join("\n") + "\n"
}

/// The document.
pub fn differences(files: &[(&str, &str)]) -> String {
    let mut cases = 0;
    let mut rows = String::new();
    let mut unasked = 0;
    for (file, text) in files {
        for case in case::parse(text) {
            cases += 1;
            match case.peer {
                Peer::Same => {}
                Peer::No(_) => unasked += 1,
                Peer::Differs(why) => rows.push_str(&format!("| {file} | {} | {why} |\n", case.name)),
            }
        }
    }
    format!(
        "# Beside buildah\n\nMade from tests/corpus by `tests/oracle.rs`; do not edit.\n\nThe corpus has {cases} cases. Of {} of them \
         buildah 1.28 makes the same image or the same refusal, {unasked} it cannot be asked about (heredocs, `--link`, \
         `--parents`, `--exclude`, …), and below is where it does otherwise and why we do not follow.\n\n| file | case | \
         buildah |\n| --- | --- | --- |\n{rows}",
        cases - unasked - rows.lines().count(),
    )
}
