//! The SSH wire format's strings and numbers (RFC 4251 section 5).

/// Appends a string: its length, then its bytes.
pub(crate) fn put_string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(u32::try_from(bytes.len()).unwrap_or(0).to_be_bytes());
    out.extend(bytes);
}

/// Appends a number that is not negative, given as big-endian bytes.
pub(crate) fn put_number(out: &mut Vec<u8>, bytes: &[u8]) {
    let start = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len());
    let bytes = &bytes[start..];
    // The first bit is the sign.
    let sign: &[u8] = if bytes.first().is_some_and(|byte| byte & 0x80 != 0) { &[0] } else { &[] };
    put_string(out, &[sign, bytes].concat());
}

/// Takes a string off the front.
pub(crate) fn take_string<'a>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(take_u32(from)?).ok()?;
    let (string, rest) = from.split_at_checked(length)?;
    *from = rest;
    Some(string)
}

/// Takes a 32-bit number off the front.
pub(crate) fn take_u32(from: &mut &[u8]) -> Option<u32> {
    let (number, rest) = from.split_at_checked(4)?;
    *from = rest;
    Some(u32::from_be_bytes(number.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4251's own examples.
    #[test]
    fn numbers_are_as_short_as_they_can_be() {
        for (number, wire) in [
            (&[0u8, 0][..], &[0u8, 0, 0, 0][..]),
            (&[0, 0, 0x80], &[0, 0, 0, 2, 0, 0x80]),
            (&[0x09, 0xa3], &[0, 0, 0, 2, 0x09, 0xa3]),
        ] {
            let mut out = Vec::new();
            put_number(&mut out, number);
            assert_eq!(out, wire);
        }
    }

    #[test]
    fn short_input_is_no_string() {
        assert_eq!(take_string(&mut &[0, 0, 0, 2, 1][..]), None);
        assert_eq!(take_string(&mut &[0, 0][..]), None);
        let mut rest = &[0, 0, 0, 1, 7, 8][..];
        assert_eq!((take_string(&mut rest), rest), (Some(&[7][..]), &[8][..]));
    }
}
