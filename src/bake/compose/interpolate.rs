//! `$NAME`, `${NAME}`, `${NAME:-default}` and the like, as compose files and `.env` have them.

/// What a name stands for.
pub(super) type Lookup<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// Told of a name that stands for nothing where nothing else is said.
pub(super) type Unset<'a> = dyn Fn(&str) + 'a;

/// Fills variables in; one that is not set is empty.
///
/// # Errors
/// When the text is no template, or says that a variable has to be set which is not.
pub(super) fn fill(text: &str, lookup: &Lookup<'_>, unset: &Unset<'_>) -> Result<String, String> {
    fill_at(text, &(lookup, unset), 0)
}

/// What names stand for, and who is told of those that stand for nothing.
type Names<'a> = (&'a Lookup<'a>, &'a Unset<'a>);

/// A name that has to stand for something, or is empty.
fn plain(name: &str, (lookup, unset): &Names<'_>) -> String {
    lookup(name).unwrap_or_else(|| {
        unset(name);
        String::new()
    })
}

/// Templates in defaults of templates.
const MAX_DEPTH: usize = 20;

fn fill_at(text: &str, names: &Names<'_>, depth: usize) -> Result<String, String> {
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
            out.push_str(&braced(&inner[..end], names, depth)?.ok_or_else(invalid)?);
            rest = &inner[end + 1..];
        } else {
            let length = name_length(rest);
            if length == 0 {
                return Err(invalid());
            }
            out.push_str(&plain(&rest[..length], names));
            rest = &rest[length..];
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// What is between the braces; `None` if it is nothing of the kind.
fn braced(inner: &str, names: &Names<'_>, depth: usize) -> Result<Option<String>, String> {
    let length = name_length(inner);
    let (name, rest) = inner.split_at(length);
    if length == 0 {
        return Ok(None);
    }
    if rest.is_empty() {
        return Ok(Some(plain(name, names)));
    }
    let value = (names.0)(name);
    // With a colon, empty is as good as not set.
    let (value, rest) = match rest.strip_prefix(':') {
        Some(rest) => (value.filter(|value| !value.is_empty()), rest),
        None => (value, rest),
    };
    let mut characters = rest.chars();
    let operator = characters.next();
    let word = || fill_at(characters.as_str(), names, depth + 1);
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
            assert_eq!(fill(text, &lookup, &|_| {}).as_deref(), Ok(expected), "{text}");
        }
        let told = std::cell::RefCell::new(Vec::new());
        let unset = |name: &str| told.borrow_mut().push(name.to_owned());
        assert_eq!(fill("$ONE ${TWO} ${NO:-d} ${NO+x} $A ${EMPTY}", &lookup, &unset).as_deref(), Ok("  d  a "));
        assert_eq!(*told.borrow(), ["ONE", "TWO"]);
        for (text, said) in [
            ("${NO:?set it}", "required variable NO is missing a value: set it"),
            ("${EMPTY:?}", "required variable EMPTY is missing a value"),
            ("$", "invalid interpolation format"),
            ("${A", "invalid interpolation format"),
            ("${}", "invalid interpolation format"),
            ("${A!x}", "invalid interpolation format"),
            ("$1", "invalid interpolation format"),
        ] {
            let error = fill(text, &lookup, &|_| {}).expect_err(text);
            assert!(error.contains(said), "{text}: {error}");
        }
        let deep = format!("{}{}", "${NO:-".repeat(1000), "}".repeat(1000));
        assert!(fill(&deep, &lookup, &|_| {}).is_err());
    }
}
