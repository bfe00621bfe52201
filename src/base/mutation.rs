//! What a fuzzer does, for tests: inputs that are nearly right, as many as asked for and the same ones every time.

/// Pieces that mean something to one reader or another.
const TOKENS: [&[u8]; 16] = [
    b"\0",
    b"\xff\xff\xff\xff",
    b"-1",
    b"1e999",
    b"18446744073709551616",
    b"../",
    b"\"",
    b"\\u0000",
    b"[[[[[[[[",
    b"{\"a\":",
    b"null",
    b"sha256:",
    b"\r\n",
    b",",
    b"=",
    b"9999999999999999999999",
];

/// Shows `look` the seeds, and then `rounds` mutations of them.
pub(crate) fn each(seeds: &[&[u8]], rounds: u32, mut look: impl FnMut(&[u8])) {
    seeds.iter().for_each(|seed| look(seed));
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut below = |n: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 33).unwrap_or(0) % n.max(1)
    };
    for _ in 0..rounds {
        let mut bytes = seeds[below(seeds.len())].to_vec();
        for _ in 0..=below(4) {
            let at = below(bytes.len());
            let end = (at + below(64)).min(bytes.len());
            match below(6) {
                0 if !bytes.is_empty() => bytes[at] ^= u8::try_from(1 + below(255)).unwrap_or(1),
                1 => drop(bytes.drain(at..end)),
                2 => {
                    let piece = bytes[at..end].to_vec();
                    bytes.splice(at..at, piece);
                }
                3 => bytes.truncate(at),
                4 => {
                    let other = seeds[below(seeds.len())];
                    let from = below(other.len());
                    bytes.splice(at..end, other[from..(from + below(64)).min(other.len())].iter().copied());
                }
                _ => drop(bytes.splice(at..at, TOKENS[below(TOKENS.len())].iter().copied())),
            }
        }
        look(&bytes);
    }
}
