//! Small text rules: how history entries print values, paths inside images, signal names.

use crate::base::wording::quote;

/// A list as `[a b]`.
pub(super) fn list(items: &[String]) -> String {
    format!("[{}]", items.join(" "))
}

/// A list as `["a" "b"]`.
pub(super) fn quoted_list(items: &[String]) -> String {
    format!("[{}]", items.iter().map(|item| quote(item)).collect::<Vec<_>>().join(" "))
}

/// Nanoseconds as Go prints a duration: `1m30s`, `1.5ms`.
pub(super) fn duration(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let n = nanos.unsigned_abs();
    let decimal = |value: u64, unit: u64| {
        let (whole, rest) = (value / unit, value % unit);
        if rest == 0 {
            return whole.to_string();
        }
        let digits = unit.to_string().len() - 1;
        format!("{whole}.{}", format!("{rest:0digits$}").trim_end_matches('0'))
    };
    let text = match n {
        0 => "0s".into(),
        1..1_000 => format!("{n}ns"),
        1_000..1_000_000 => format!("{}µs", decimal(n, 1_000)),
        1_000_000..1_000_000_000 => format!("{}ms", decimal(n, 1_000_000)),
        _ => {
            let minutes = n / 60_000_000_000;
            let seconds = format!("{}s", decimal(n % 60_000_000_000, 1_000_000_000));
            match (minutes / 60, minutes % 60) {
                (0, 0) => seconds,
                (0, m) => format!("{m}m{seconds}"),
                (h, m) => format!("{h}h{m}m{seconds}"),
            }
        }
    };
    format!("{sign}{text}")
}

/// `path` seen from the absolute directory `dir`, cleaned; `..` ends at the root.
pub(super) fn absolute(dir: &str, path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    let dir = if path.starts_with('/') { "" } else { dir };
    for part in dir.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// A path cleaned as it stands: relative ones stay relative, an empty one is `.`.
pub(super) fn clean(path: &str) -> String {
    if path.starts_with('/') {
        return absolute("/", path);
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    if parts.is_empty() { ".".into() } else { parts.join("/") }
}

/// [`absolute`], keeping what says that a directory is meant: an end in `/` or `/.` (SPEC A6.12). An empty path and `.` are
/// the directory itself.
pub(super) fn destination(dir: &str, path: &str) -> String {
    let mut out = absolute(dir, path);
    let directory = path.is_empty() || path == "." || path.ends_with('/') || path.ends_with("/.");
    if directory && out != "/" {
        out.push('/');
    }
    out
}

/// The last component of a path, `/` for the root.
pub(super) fn base_name(path: &str) -> &str {
    match path.trim_end_matches('/') {
        "" if path.is_empty() => ".",
        "" => "/",
        trimmed => trimmed.rsplit('/').next().unwrap_or(trimmed),
    }
}

/// Whether a source argument is a pattern.
pub(super) fn has_wildcards(text: &str) -> bool {
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '*' | '?' | '[' => return true,
            '\\' => {
                chars.next();
            }
            _ => {}
        }
    }
    false
}

/// One CSV record (SPEC G.01).
pub(super) fn csv_fields(text: &str) -> Result<Vec<String>, String> {
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        if let Some(quoted) = rest.strip_prefix('"') {
            let (field, after) = quoted_field(quoted)?;
            fields.push(field);
            match after.strip_prefix(',') {
                Some(after) => rest = after,
                None if after.is_empty() => return Ok(fields),
                None => return Err("extraneous or missing \" in quoted-field".into()),
            }
        } else {
            let (field, after) = match rest.split_once(',') {
                Some((field, after)) => (field, Some(after)),
                None => (rest, None),
            };
            if field.contains('"') {
                return Err("bare \" in non-quoted-field".into());
            }
            fields.push(field.to_owned());
            match after {
                Some(after) => rest = after,
                None => return Ok(fields),
            }
        }
    }
}

fn quoted_field(text: &str) -> Result<(String, &str), String> {
    let mut field = String::new();
    let mut rest = text;
    loop {
        let Some((part, after)) = rest.split_once('"') else {
            return Err("extraneous or missing \" in quoted-field".into());
        };
        field.push_str(part);
        match after.strip_prefix('"') {
            Some(after) => {
                field.push('"');
                rest = after;
            }
            None => return Ok((field, after)),
        }
    }
}

/// Whether `text` names a signal: a name with or without `SIG`, or a positive number.
pub(super) fn is_signal(text: &str) -> bool {
    if let Ok(number) = text.parse::<i64>() {
        return number != 0;
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(offset) = name.strip_prefix("RTMIN") {
        return offset.is_empty() || in_range(offset.strip_prefix('+'), 15);
    }
    if let Some(offset) = name.strip_prefix("RTMAX") {
        return offset.is_empty() || in_range(offset.strip_prefix('-'), 14);
    }
    numbered(name).is_some()
}

/// The number that Linux has for a signal's name, with or without `SIG`.
pub(super) fn signal_number(name: &str) -> Option<u8> {
    let upper = name.to_ascii_uppercase();
    numbered(upper.strip_prefix("SIG").unwrap_or(&upper))
}

fn numbered(name: &str) -> Option<u8> {
    SIGNALS.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
}

fn in_range(offset: Option<&str>, last: u32) -> bool {
    offset.and_then(|text| text.parse::<u32>().ok()).is_some_and(|n| (1..=last).contains(&n))
}

const SIGNALS: &[(&str, u8)] = &[
    ("ABRT", 6),
    ("ALRM", 14),
    ("BUS", 7),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("FPE", 8),
    ("HUP", 1),
    ("ILL", 4),
    ("INT", 2),
    ("IO", 29),
    ("IOT", 6),
    ("KILL", 9),
    ("PIPE", 13),
    ("POLL", 29),
    ("PROF", 27),
    ("PWR", 30),
    ("QUIT", 3),
    ("SEGV", 11),
    ("STKFLT", 16),
    ("STOP", 19),
    ("SYS", 31),
    ("TERM", 15),
    ("TRAP", 5),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("USR1", 10),
    ("USR2", 12),
    ("VTALRM", 26),
    ("WINCH", 28),
    ("XCPU", 24),
    ("XFSZ", 25),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_print_like_go() {
        for (nanos, text) in [
            (0, "0s"),
            (1, "1ns"),
            (1_500, "1.5µs"),
            (1_000_000, "1ms"),
            (30_000_000_000, "30s"),
            (90_500_000_000, "1m30.5s"),
            (3_600_000_000_000, "1h0m0s"),
        ] {
            assert_eq!(duration(nanos), text);
        }
    }

    #[test]
    fn a6_12_destinations_keep_their_slash() {
        assert_eq!(destination("/w", "."), "/w/");
        assert_eq!(destination("/w", ""), "/w/");
        assert_eq!(destination("/w", "a/b"), "/w/a/b");
        assert_eq!(destination("/w", "/a/"), "/a/");
        assert_eq!(destination("/w", "a/."), "/w/a/");
        assert_eq!(destination("/w", "../../x"), "/x");
        assert_eq!(destination("/", "/"), "/");
        assert_eq!(destination("/w", "./"), "/w/");
    }

    #[test]
    fn g01_fields_are_rfc_4180() {
        assert_eq!(csv_fields("a,\"b,c\",\"d\"\"e\",").expect("valid"), ["a", "b,c", "d\"e", ""]);
        assert!(csv_fields("a\"b").is_err());
        assert!(csv_fields("\"a").is_err());
        assert!(csv_fields("\"a\"b").is_err());
    }

    #[test]
    fn a8_10_signals() {
        assert_eq!((signal_number("SIGTERM"), signal_number("kill"), signal_number("x")), (Some(15), Some(9), None));
        assert!(["SIGTERM", "term", "9", "SIGRTMIN+3", "RTMAX-1", "SIGKILL"].iter().all(|s| is_signal(s)));
        assert!(!["0", "SIGFOO", "", "RTMIN+99", "RTMAX+1"].iter().any(|s| is_signal(s)));
    }

    #[test]
    fn quotes_like_go() {
        assert_eq!(quoted_list(&["a\"b".into(), "\n\u{1}é".into()]), r#"["a\"b" "\n\x01é"]"#);
        assert_eq!(base_name("/a/b/"), "b");
        assert_eq!(base_name("/"), "/");
    }
}
