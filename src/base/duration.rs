//! Durations as Go writes them (SPEC G.03).

use std::time::Duration;

use crate::base::wording::quote;

/// Nanoseconds of `1h30m`, `1.5s`, `300ms`, `-2µs`, `0`. The error is one line.
pub fn parse_duration(text: &str) -> Result<i64, String> {
    let invalid = || format!("time: invalid duration {}", quote(text));
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let (whole, after) = digits(rest);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => digits(after),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(invalid());
        }
        let unit_len = after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_len);
        let nanos: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            "" => return Err(format!("time: missing unit in duration {}", quote(text))),
            _ => return Err(format!("time: unknown unit {} in duration {}", quote(unit), quote(text))),
        };
        // Behind the eighteenth digit nothing reaches a nanosecond.
        let fraction = &fraction[..fraction.len().min(18)];
        let scale = 10i128.pow(u32::try_from(fraction.len()).unwrap_or(0));
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| invalid())? };
        let part: i128 = if fraction.is_empty() { 0 } else { fraction.parse().map_err(|_| invalid())? };
        total = whole
            .checked_mul(nanos)
            .and_then(|value| value.checked_add(part * nanos / scale))
            .and_then(|value| value.checked_add(total))
            .filter(|value| *value <= i128::from(i64::MAX))
            .ok_or_else(invalid)?;
        rest = after;
    }
    i64::try_from(if negative { -total } else { total }).map_err(|_| invalid())
}

/// The same where it cannot be negative.
///
/// # Errors
/// Names the text and shows what is expected.
pub fn parse_span(text: &str) -> Result<Duration, String> {
    let nanos = parse_duration(text).ok().and_then(|nanos| u64::try_from(nanos).ok());
    nanos
        .map(Duration::from_nanos)
        .ok_or_else(|| format!("invalid duration {}: expected for example 300ms, 90s, 1.5h or 2h45m", quote(text)))
}

fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_g03() {
        assert_eq!(parse_duration("300ms"), Ok(300_000_000));
        assert_eq!(parse_duration("1.5h"), Ok(5_400_000_000_000));
        assert_eq!(parse_duration("2h45m"), Ok(9_900_000_000_000));
        assert_eq!(parse_duration("1h2m3s4ms5us6ns"), Ok(3_723_004_005_006));
        assert_eq!(parse_duration(".5s"), Ok(500_000_000));
        assert_eq!(parse_duration("1.s"), Ok(1_000_000_000));
        assert_eq!(parse_duration("-1µs"), Ok(-1_000));
        assert_eq!(parse_duration("0"), Ok(0));
        assert_eq!(parse_duration("+0"), Ok(0));
        assert_eq!(parse_duration("0.0000000000000000000000001h"), Ok(0));
    }

    #[test]
    fn bad_durations_say_why_g03() {
        let fails = |text: &str| parse_duration(text).expect_err(text);
        assert_eq!(fails("5"), "time: missing unit in duration \"5\"");
        assert_eq!(fails("5x"), "time: unknown unit \"x\" in duration \"5x\"");
        for text in ["", "-", ".", "s", ".s", "1s x", "99999999999h", "1e3s"] {
            assert!(fails(text).starts_with("time: "), "{text}");
        }
    }

    #[test]
    fn spans_are_not_negative_g03() {
        assert_eq!(parse_span("2h45m"), Ok(Duration::from_secs(9900)));
        assert_eq!(
            parse_span("-1s"),
            Err("invalid duration \"-1s\": expected for example 300ms, 90s, 1.5h or 2h45m".to_owned())
        );
        assert!(parse_span("5").is_err() && parse_span("x").is_err() && parse_span("").is_err());
    }

    proptest::proptest! {
        #[test]
        fn nothing_panics(text in "[-+.0-9hmsnuµx]{0,40}") {
            let _ = parse_duration(&text);
        }
    }
}
