//! Values that flags, attributes and instructions share (SPEC G.01, G.02, G.04).

/// Go's `strconv.ParseBool`.
#[must_use]
pub fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// The bytes that a part of a URL stands for: `%2B` is a plus, and a `%` without two digits is itself.
#[must_use]
pub fn percent_decode(text: &str) -> Vec<u8> {
    percent_encoding::percent_decode_str(text).collect()
}

/// Scheme, user information and the rest of a URL whose authority has a user. The text need not be a valid URL: what stands before
/// the last `@` of the authority may be a password. An authority ends at the first `/`, `?` or `#` (RFC 3986, 3.2), so that an `@`
/// of a query is none of its own.
#[must_use]
pub fn split_user(url: &str) -> Option<(&str, &str, &str)> {
    let (scheme, rest) = url.split_once("://")?;
    let at = rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())].rfind('@')?;
    Some((scheme, &rest[..at], &rest[at + 1..]))
}

/// Bytes: a number, whole or not, with an optional unit; units are powers of 1024.
#[must_use]
pub fn byte_size(text: &str) -> Option<u64> {
    let lower = text.trim().to_lowercase();
    let split = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
    let (number, unit) = lower.split_at(split);
    let shift = match unit.trim() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        "p" | "pb" | "pib" => 50,
        _ => return None,
    };
    if !number.contains('.') {
        return number.parse::<u64>().ok()?.checked_mul(1 << shift);
    }
    let value = number.parse::<f64>().ok()?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "there is no sign, and sizes with a fraction are far below 2^53 units"
    )]
    Some((value * (1_u64 << shift) as f64) as u64)
}

/// The fields of one CSV record (RFC 4180), as strict as Go's reader: what follows the first line is another record.
///
/// # Errors
/// For quotes that do not enclose a whole field.
pub fn csv_record(text: &str) -> Result<Vec<String>, String> {
    separated(text, ',')
}

/// The same with another separator.
///
/// # Errors
/// As [`csv_record`].
pub fn separated(text: &str, separator: char) -> Result<Vec<String>, String> {
    let mut rest = text.chars().peekable();
    let mut fields = Vec::new();
    loop {
        let mut field = String::new();
        if rest.next_if_eq(&'"').is_some() {
            loop {
                match rest.next() {
                    Some('"') if rest.next_if_eq(&'"').is_some() => field.push('"'),
                    Some('"') => break,
                    Some(other) => field.push(other),
                    None => return Err("a quote is not closed".into()),
                }
            }
        } else {
            while let Some(next) = rest.next_if(|c| *c != separator && !matches!(c, '\n' | '\r')) {
                if next == '"' {
                    return Err(
                        "a quote stands inside of a field; quote the whole field, and double the quotes in it".into()
                    );
                }
                field.push(next);
            }
        }
        fields.push(field);
        match rest.next() {
            Some(c) if c == separator => {}
            None | Some('\n' | '\r') => return Ok(fields),
            Some(_) => return Err("something follows a closed quote".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g_01_records() {
        let record = |text: &str| csv_record(text).map_err(|e| e.split(' ').take(4).collect::<Vec<_>>().join(" "));
        let fields = |all: &[&str]| Ok(all.iter().map(|f| (*f).to_owned()).collect::<Vec<_>>());
        assert_eq!(record("type=image,push=true"), fields(&["type=image", "push=true"]));
        assert_eq!(record("type=image,\"name=a,b\",x=\u{e9}"), fields(&["type=image", "name=a,b", "x=\u{e9}"]));
        assert_eq!(record("\"a \"\"b\"\"\","), fields(&["a \"b\"", ""]));
        assert_eq!(record(""), fields(&[""]));
        assert_eq!(record("a,b\nc"), fields(&["a", "b"]));
        assert_eq!(record("type=image,\"name=a"), Err("a quote is not".into()));
        assert_eq!(record("name=\"a,b\""), Err("a quote stands inside".into()));
        assert_eq!(record("\"a\"b"), Err("something follows a closed".into()));
    }

    #[test]
    fn g_02_booleans() {
        assert_eq!(["1", "T", "True"].map(boolean), [Some(true); 3]);
        assert_eq!(["0", "f", "FALSE"].map(boolean), [Some(false); 3]);
        assert_eq!(["yes", "", "tRUE"].map(boolean), [None; 3]);
    }

    #[test]
    fn parts_of_urls() {
        assert_eq!(percent_decode("a%2Bb%20c+d%2f"), b"a+b c+d/");
        assert_eq!(percent_decode("100%, %+f, %f"), b"100%, %+f, %f");
        assert_eq!(split_user("https://u:p@w@h.example/a@b"), Some(("https", "u:p@w", "h.example/a@b")));
        for url in
            ["https://h.example/a@b", "https://h.example?a=b@c", "https://h.example#a@b", "u@h.example/a", "https://"]
        {
            assert_eq!(split_user(url), None, "{url}");
        }
    }

    #[test]
    fn g_04_sizes_are_powers_of_1024() {
        assert_eq!(byte_size("64m"), Some(64 << 20));
        assert_eq!(byte_size("1.5KiB"), Some(1536));
        assert_eq!(byte_size("1.5 GiB"), Some(3 << 29));
        assert_eq!(byte_size("12"), Some(12));
        for text in ["x", "1x", "", "-1", "1.2.3k", ".", "99999999999999999999p", "9999999999p"] {
            assert_eq!(byte_size(text), None, "{text}");
        }
    }
}
