//! `$NAME`, `${NAME}`, `${NAME:-default}` and the like, as compose files and `.env` have them.

/// What a name stands for.
pub(super) type Lookup<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// Fills variables in; one that is not set is empty.
///
/// # Errors
/// When the text is no template, or says that a variable has to be set which is not.
pub(super) fn fill(text: &str, lookup: &Lookup<'_>) -> Result<String, String> {
    fill_at(text, lookup, 0)
}

/// Templates in defaults of templates.
const MAX_DEPTH: usize = 20;

fn fill_at(text: &str, lookup: &Lookup<'_>, depth: usize) -> Result<String, String> {
    let invalid = || format!("invalid interpolation format: \"{text}\"; a $ that is one is written $$");
    if depth > MAX_DEPTH {
        return Err(invalid());
    }
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some(inner) = rest.strip_prefix('{') {
            let end = closing(inner).ok_or_else(invalid)?;
            out.push_str(&braced(&inner[..end], lookup, depth)?.ok_or_else(invalid)?);
            rest = &inner[end + 1..];
        } else {
            let length = name_length(rest);
            if length == 0 {
                return Err(invalid());
            }
            out.push_str(&lookup(&rest[..length]).unwrap_or_default());
            rest = &rest[length..];
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// What is between the braces; `None` if it is nothing of the kind.
fn braced(inner: &str, lookup: &Lookup<'_>, depth: usize) -> Result<Option<String>, String> {
    let length = name_length(inner);
    let (name, rest) = inner.split_at(length);
    if length == 0 {
        return Ok(None);
    }
    let value = lookup(name);
    if rest.is_empty() {
        return Ok(Some(value.unwrap_or_default()));
    }
    // With a colon, empty is as good as not set.
    let (value, rest) = match rest.strip_prefix(':') {
        Some(rest) => (value.filter(|value| !value.is_empty()), rest),
        None => (value, rest),
    };
    let mut characters = rest.chars();
    let operator = characters.next();
    let word = || fill_at(characters.as_str(), lookup, depth + 1);
    Ok(Some(match (operator, value) {
        (Some('-' | '?'), Some(value)) => value,
        (Some('-'), None) | (Some('+'), Some(_)) => word()?,
        (Some('+'), None) => String::new(),
        (Some('?'), None) => {
            let why = word()?;
            let why = if why.is_empty() { String::new() } else { format!(": {why}") };
            return Err(format!("required variable {name} is missing a value{why}"));
        }
        _ => return Ok(None),
    }))
}

/// Where the brace ends that `text` stands behind.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    let mut before = '\0';
    for (at, c) in text.char_indices() {
        match c {
            '{' if before == '$' => depth += 1,
            '}' if depth == 0 => return Some(at),
            '}' => depth -= 1,
            _ => {}
        }
        before = c;
    }
    None
}

fn name_length(text: &str) -> usize {
    let first = text.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    if first { text.bytes().take_while(|b| b.is_ascii_alphanumeric() || *b == b'_').count() } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    // SPEC B7.24
    #[test]
    fn b7_24_variables_are_filled_in() {
        let lookup = |name: &str| match name {
            "A" => Some("a".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        for (text, expected) in [
            ("x $A ${A}y$$A", "x a ay$A"),
            ("${NO}|$NO|", "||"),
            ("${NO:-d}${NO-d}${EMPTY:-d}${EMPTY-d}", "ddd"),
            ("${A:-d}${A:+p}${NO:+p}${EMPTY+p}${EMPTY:+p}", "app"),
            ("${NO:-${A:-b}}-${NO:-$A}", "a-a"),
            ("${A:?gone}", "a"),
            ("${NO:-}", ""),
        ] {
            assert_eq!(fill(text, &lookup).as_deref(), Ok(expected), "{text}");
        }
        for (text, said) in [
            ("${NO:?set it}", "required variable NO is missing a value: set it"),
            ("${EMPTY:?}", "required variable EMPTY is missing a value"),
            ("$", "invalid interpolation format"),
            ("${A", "invalid interpolation format"),
            ("${}", "invalid interpolation format"),
            ("${A!x}", "invalid interpolation format"),
            ("$1", "invalid interpolation format"),
        ] {
            let error = fill(text, &lookup).expect_err(text);
            assert!(error.contains(said), "{text}: {error}");
        }
        let deep = format!("{}{}", "${NO:-".repeat(1000), "}".repeat(1000));
        assert!(fill(&deep, &lookup).is_err());
    }
}
