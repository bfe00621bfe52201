//! CRC-32 of pieces, put together without their bytes.

/// CRC-32 (as in gzip) and length of some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Checksum {
    /// The CRC.
    pub crc: u32,
    /// How many bytes.
    pub length: u64,
}

/// The polynomial, highest power in the lowest bit.
const POLYNOMIAL: u32 = 0xedb8_8320;
/// The number 1 as a polynomial.
const ONE: u32 = 1 << 31;

impl Checksum {
    /// Of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let mut crc = flate2::Crc::new();
        crc.update(bytes);
        Self { crc: crc.sum(), length: bytes.len() as u64 }
    }

    /// The checksum of these bytes followed by those of `next`.
    #[must_use]
    pub fn then(self, next: Self) -> Self {
        // Appending a byte multiplies by x^8; the CRCs' initial and final complements cancel out.
        let shifted = multiply(self.crc, power(next.length.wrapping_mul(8)));
        Self { crc: shifted ^ next.crc, length: self.length + next.length }
    }
}

/// The product of two polynomials modulo [`POLYNOMIAL`].
fn multiply(a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    for bit in (0..32).rev() {
        if a >> bit & 1 == 1 {
            product ^= b;
        }
        b = if b & 1 == 1 { b >> 1 ^ POLYNOMIAL } else { b >> 1 };
    }
    product
}

/// x to the power of `exponent`.
fn power(mut exponent: u64) -> u32 {
    let (mut result, mut square) = (ONE, ONE >> 1);
    while exponent > 0 {
        if exponent & 1 == 1 {
            result = multiply(result, square);
        }
        square = multiply(square, square);
        exponent >>= 1;
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_add_up() {
        let bytes: Vec<u8> = (0..70_000_u32).map(|i| (i.wrapping_mul(i) >> 7) as u8).collect();
        for cut in [0, 1, 7, 512, 65_536, 69_999, 70_000] {
            let (a, b) = bytes.split_at(cut);
            assert_eq!(Checksum::of(a).then(Checksum::of(b)), Checksum::of(&bytes), "{cut}");
        }
        assert_eq!(Checksum::default().then(Checksum::of(b"x")), Checksum::of(b"x"));
    }
}
