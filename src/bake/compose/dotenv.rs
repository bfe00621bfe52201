//! `.env` files: `NAME=value`, one a line, with quotes, comments and variables.

use std::collections::BTreeMap;

use super::interpolate::{Lookup, fill};

/// Reads a file. What `outer` knows goes before the file's own where a value names a variable.
///
/// # Errors
/// Names the line that is none.
pub(super) fn parse(text: &str, outer: &Lookup<'_>) -> Result<BTreeMap<String, String>, String> {
    let mut found: BTreeMap<String, String> = BTreeMap::new();
    let mut rest = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut line = 1;
    while !rest.is_empty() {
        let fault = |why: &str| format!("line {line}: {why}");
        let (first, after) = rest.split_once('\n').unwrap_or((rest, ""));
        let trimmed = first.trim();
        if trimmed.is_empty() || trimmed.starts_with('#') {
            (rest, line) = (after, line + 1);
            continue;
        }
        let start = rest.trim_start();
        let start = start.strip_prefix("export ").map_or(start, str::trim_start);
        let length = start.find(|c: char| !(c.is_alphanumeric() || "_.-[]".contains(c))).unwrap_or(start.len());
        let (name, behind) = start.split_at(length);
        if name.is_empty() {
            return Err(fault(&format!("\"{trimmed}\" is not NAME=VALUE")));
        }
        let behind = behind.trim_start_matches([' ', '\t']);
        let Some(value) = behind.strip_prefix(['=', ':']) else {
            if !(behind.is_empty() || behind.starts_with(['\n', '\r', '#'])) {
                return Err(fault(&format!("\"{trimmed}\" is not NAME=VALUE")));
            }
            // A name alone takes what is there.
            found.extend(outer(name).map(|value| (name.to_owned(), value)));
            (rest, line) = (after, line + 1);
            continue;
        };
        let lookup = |name: &str| outer(name).or_else(|| found.get(name).cloned());
        let value = value.trim_start_matches([' ', '\t']);
        let (value, left) = match value.chars().next() {
            Some(quote @ ('\'' | '"')) => {
                let (inner, left) = quoted(&value[1..], quote).ok_or_else(|| fault("a quote is not closed"))?;
                let value = if quote == '"' { fill(&inner, &lookup, &|_| {}).map_err(|e| fault(&e))? } else { inner };
                (value, left.split_once('\n').map_or("", |(_, left)| left))
            }
            _ => {
                let (value, left) = value.split_once('\n').unwrap_or((value, ""));
                let value = match value.find(" #") {
                    Some(at) => &value[..at],
                    None if value.starts_with('#') => "",
                    None => value,
                };
                (fill(value.trim(), &lookup, &|_| {}).map_err(|e| fault(&e))?, left)
            }
        };
        found.insert(name.to_owned(), value);
        line += rest[..rest.len() - left.len()].matches('\n').count();
        rest = left;
    }
    Ok(found)
}

/// Up to the quote that ends the text, and what is behind it.
fn quoted(text: &str, quote: char) -> Option<(String, &str)> {
    let mut out = String::new();
    let mut characters = text.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            c if c == quote => return Some((out, &text[at + 1..])),
            '\\' => {
                let (_, next) = characters.next()?;
                match next {
                    next if next == quote => out.push(next),
                    'n' if quote == '"' => out.push('\n'),
                    'r' if quote == '"' => out.push('\r'),
                    't' if quote == '"' => out.push('\t'),
                    '\\' if quote == '"' => out.push('\\'),
                    '$' if quote == '"' => out.push_str("$$"),
                    next => out.extend(['\\', next]),
                }
            }
            c => out.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    // SPEC B7.24
    #[test]
    fn b7_24_env_files_are_read() {
        let text = "# comment\n\nA=1\nexport B = two # why\nC='a $A \\' b'\nD=\"x\\n$A\\$A\"\nE=${A}${OUT}\nF=\"many\nlines\"\nG: yaml\nOUT\nNONE\nH=a#b\nI=\nJ=#x\n";
        let outer = |name: &str| (name == "OUT").then(|| "o".to_owned());
        let found = parse(text, &outer).expect("valid");
        let expected = [
            ("A", "1"),
            ("B", "two"),
            ("C", "a $A ' b"),
            ("D", "x\n1$A"),
            ("E", "1o"),
            ("F", "many\nlines"),
            ("G", "yaml"),
            ("H", "a#b"),
            ("I", ""),
            ("J", ""),
            ("OUT", "o"),
        ];
        assert_eq!(found, expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
        for (text, said) in [("A=1\n!x=1\n", "line 2"), ("A B\n", "is not NAME=VALUE"), ("\nA='x\n", "line 2: a quote")]
        {
            let error = parse(text, &outer).expect_err(text);
            assert!(error.contains(said), "{error}");
        }
    }
}
