//! Values that flags, attributes and instructions share (SPEC G.02, G.04).

/// Go's `strconv.ParseBool`.
#[must_use]
pub fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g_02_booleans() {
        assert_eq!(["1", "T", "True"].map(boolean), [Some(true); 3]);
        assert_eq!(["0", "f", "FALSE"].map(boolean), [Some(false); 3]);
        assert_eq!(["yes", "", "tRUE"].map(boolean), [None; 3]);
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
