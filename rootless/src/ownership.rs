//! Owners that files cannot have, recorded beside them.
//!
//! The attribute and its form are those other rootless tools use: `user.rootlesscontainers`, a protobuf message with the
//! user as field 1 and the group as field 2, zeros left out. Root has no record.

/// The attribute.
pub const RECORD: &str = "user.rootlesscontainers";

/// The record of an owner.
#[must_use]
pub fn encode(uid: u32, gid: u32) -> Vec<u8> {
    let mut out = Vec::new();
    for (tag, mut value) in [(0x08, uid), (0x10, gid)] {
        if value == 0 {
            continue;
        }
        out.push(tag);
        while value >= 0x80 {
            out.push(u8::try_from(value & 0x7f).unwrap_or(0) | 0x80);
            value >>= 7;
        }
        out.push(u8::try_from(value).unwrap_or(0));
    }
    out
}

/// The owner in a record; `None` if it is none.
#[must_use]
pub fn decode(bytes: &[u8]) -> Option<(u32, u32)> {
    let (mut uid, mut gid) = (0, 0);
    let mut rest = bytes.iter();
    while let Some(tag) = rest.next() {
        let (mut value, mut shift) = (0u32, 0u32);
        loop {
            let byte = *rest.next()?;
            value |= u32::from(byte & 0x7f).checked_shl(shift)?;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
        match tag {
            0x08 => uid = value,
            0x10 => gid = value,
            _ => return None,
        }
    }
    Some((uid, gid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_those_of_other_tools() {
        assert_eq!(encode(33, 44), [0x08, 0x21, 0x10, 0x2c]);
        assert!(encode(0, 0).is_empty());
        for owner in [(0, 0), (1, 0), (0, 65534), (1000, 1000), (u32::MAX - 1, 300)] {
            assert_eq!(decode(&encode(owner.0, owner.1)), Some(owner));
        }
        assert_eq!(decode(&[0x08]), None);
        assert_eq!(decode(&[0x99, 1]), None);
        assert_eq!(decode(&[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]), None);
    }
}
