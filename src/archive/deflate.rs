//! The default gzip level's own deflate encoder.
//!
//! zlib's fast levels either give up on statistics (53 % of the benchmark's tar instead of 37 %) or cost several times as
//! much. This one is greedy: one look into a table of two earlier places for each hash of four bytes, growing steps where
//! nothing repeats, one set of Huffman codes for each [`SPAN`], stored blocks where codes do not pay. A result depends on the
//! block alone: no window before it, no instruction set, no state that a later block could see.

use std::ops::Range;

/// Bytes of input that share a set of codes.
const SPAN: usize = 128 << 10;
/// How far back deflate can refer.
const WINDOW: usize = 32 << 10;
/// Bits of the hash of four bytes.
const HASH_BITS: u32 = 14;
/// The shortest match that is looked for.
const MIN_MATCH: usize = 4;
/// The longest match that deflate knows.
const MAX_MATCH: usize = 258;
/// Length of a stored block.
const MAX_STORED: usize = 65_535;
/// After this many failures in a row (as a power of two) the step grows by one.
const PATIENCE: u32 = 6;
/// Every position of a match up to this length can be found later; of a longer one its beginning and end.
const DENSE: usize = 4;

/// How many pieces of a block tell whether it may be incompressible...
const SAMPLES: usize = 4;
/// ...and how long each is at least: shorter ones do not pay for their codes.
const SHORTEST_SAMPLE: usize = 4 << 10;

const LITLEN: usize = 286;
const DIST: usize = 30;
const END: usize = 256;

/// The base and extra bits of each length code from 257 on.
const LENGTHS: [(u16, u8); 29] = [
    (3, 0),
    (4, 0),
    (5, 0),
    (6, 0),
    (7, 0),
    (8, 0),
    (9, 0),
    (10, 0),
    (11, 1),
    (13, 1),
    (15, 1),
    (17, 1),
    (19, 2),
    (23, 2),
    (27, 2),
    (31, 2),
    (35, 3),
    (43, 3),
    (51, 3),
    (59, 3),
    (67, 4),
    (83, 4),
    (99, 4),
    (115, 4),
    (131, 5),
    (163, 5),
    (195, 5),
    (227, 5),
    (258, 0),
];
/// The order in which the lengths of the code length code are sent.
const CODE_ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

/// Some literals, then a match; at the end of a span the match may be missing (length 0).
#[derive(Clone, Copy)]
struct Sequence {
    literals: u32,
    length: u16,
    distance: u16,
}

/// Compresses blocks, one after the other, each as if it were the only one.
pub(super) struct FastDeflate {
    /// For each hash the lower halves of the last two places in the block.
    table: Vec<[u16; 2]>,
    sequences: Vec<Sequence>,
    length_slot: [u8; MAX_MATCH + 1],
    distance_slot: Vec<u8>,
}

impl FastDeflate {
    pub(super) fn new() -> Self {
        let mut length_slot = [0; MAX_MATCH + 1];
        for (slot, (base, extra)) in LENGTHS.iter().enumerate() {
            let first = usize::from(*base);
            length_slot[first..(first + (1 << extra)).min(MAX_MATCH + 1)].fill(slot as u8);
        }
        let mut distance_slot = vec![0; 512];
        for slot in 0..DIST {
            let (base, extra) = distance_base(slot);
            for distance in base..base + (1 << extra) {
                distance_slot[distance_index(distance)] = slot as u8;
            }
        }
        Self { table: vec![[0; 2]; 1 << HASH_BITS], sequences: Vec::new(), length_slot, distance_slot }
    }

    /// Appends `block` as deflate blocks, none of them final, and a full flush.
    pub(super) fn encode(&mut self, block: &[u8], out: &mut Vec<u8>) {
        // What an earlier block left could be taken for a place in this one.
        self.table.fill([0; 2]);
        let mut writer = BitWriter::new(out);
        let mut start = 0;
        while start < block.len() {
            let end = self.find(block, start);
            self.write(block, start..end, &mut writer);
            start = end;
        }
        writer.stored(&[]);
        writer.finish();
    }

    /// Appends `block` as [`encode`](Self::encode) does if that makes it no smaller; else nothing that counts, and says no. A look
    /// at some pieces of it comes first, so that this costs little where it says no.
    pub(super) fn gives_up(&mut self, block: &[u8], out: &mut Vec<u8>) -> bool {
        let piece = (block.len() / (16 * SAMPLES)).clamp(SHORTEST_SAMPLE, SPAN);
        if block.len() < SAMPLES * piece {
            return false;
        }
        let grows = |deflate: &mut Self, bytes: &[u8], out: &mut Vec<u8>| {
            out.clear();
            deflate.encode(bytes, out);
            out.len() >= bytes.len()
        };
        let distance = (block.len() - piece) / (SAMPLES - 1);
        (0..SAMPLES).all(|n| grows(self, &block[n * distance..n * distance + piece], out)) && grows(self, block, out)
    }

    /// Splits a span that begins at `start` into sequences; gives its end.
    fn find(&mut self, block: &[u8], start: usize) -> usize {
        self.sequences.clear();
        let table = &mut self.table[..];
        let span = block.len().min(start + SPAN);
        // Matches may run over the end of the span, and eight bytes are read at a time.
        let limit = span.min(block.len().saturating_sub(8));
        let (mut at, mut from, mut misses) = (start, start, 0_u32);
        while at < limit {
            let word = load4(block, at);
            let bucket = &mut table[hash(word)];
            let candidates = *bucket;
            *bucket = [at as u16, candidates[0]];
            let (mut length, mut distance) = (0, 0);
            for candidate in candidates {
                // The bytes decide whether it is one: the place may be of any 64 KiB before.
                let back = usize::from((at as u16).wrapping_sub(candidate));
                if back > WINDOW - 1 || back > at || back == 0 || load4(block, at - back) != word {
                    continue;
                }
                let found = 4 + equal(block, at - back + 4, at + 4);
                if found > length {
                    (length, distance) = (found, back);
                }
            }
            if length < MIN_MATCH || length == MIN_MATCH && distance > WINDOW / 2 {
                at += 1 + (misses >> PATIENCE) as usize;
                misses += 1;
                continue;
            }
            misses = 0;
            self.sequences.push(Sequence {
                literals: (at - from) as u32,
                length: length as u16,
                // WINDOW itself would not fit, and is not worth a wider field.
                distance: distance as u16,
            });
            let end = at + length;
            let dense = end.min(at + DENSE).min(limit);
            for place in at + 1..dense {
                let bucket = &mut table[hash(load4(block, place))];
                *bucket = [place as u16, bucket[0]];
            }
            if end < limit && end > dense {
                let bucket = &mut table[hash(load4(block, end - 1))];
                *bucket = [(end - 1) as u16, bucket[0]];
            }
            (at, from) = (end, end);
        }
        let end = from.max(span);
        if end > from {
            self.sequences.push(Sequence { literals: (end - from) as u32, length: 0, distance: 0 });
        }
        end
    }

    /// Writes one span.
    fn write(&self, block: &[u8], span: Range<usize>, writer: &mut BitWriter<'_>) {
        let mut litlen = [0_u32; LITLEN];
        let mut dist = [0_u32; DIST];
        let mut extra_bits = 0_u64;
        let mut at = span.start;
        for sequence in &self.sequences {
            let literals = &block[at..at + sequence.literals as usize];
            for byte in literals {
                litlen[usize::from(*byte)] += 1;
            }
            at += literals.len() + usize::from(sequence.length);
            if sequence.length > 0 {
                let length = usize::from(self.length_slot[usize::from(sequence.length)]);
                let distance = self.slot(usize::from(sequence.distance));
                litlen[END + 1 + length] += 1;
                dist[distance] += 1;
                extra_bits += u64::from(LENGTHS[length].1) + u64::from(distance_base(distance).1);
            }
        }
        litlen[END] = 1;
        let litlen_lengths = code_lengths(&litlen, 15);
        let mut dist_lengths = code_lengths(&dist, 15);
        if dist.iter().all(|n| *n == 0) {
            // At least one code must be sent.
            dist_lengths[0] = 1;
        }
        let header = Header::new(&litlen_lengths, &dist_lengths);
        let cost = |counts: &[u32], lengths: &[u8]| -> u64 {
            counts.iter().zip(lengths).map(|(n, l)| u64::from(*n) * u64::from(*l)).sum()
        };
        let bits = header.bits() + cost(&litlen, &litlen_lengths) + cost(&dist, &dist_lengths) + extra_bits;
        if bits / 8 >= span.len() as u64 {
            for piece in block[span].chunks(MAX_STORED) {
                writer.stored(piece);
            }
            return;
        }
        header.write(writer);
        let litlen_codes = codes::<LITLEN>(&litlen_lengths);
        let dist_codes = codes::<DIST>(&dist_lengths);
        // A length's code and extra bits are always written together.
        let mut length_codes = [(0_u32, 0_u32); MAX_MATCH + 1];
        for (length, code) in length_codes.iter_mut().enumerate().skip(3) {
            let slot = usize::from(self.length_slot[length]);
            let (bits, count) = litlen_codes[END + 1 + slot];
            *code = (bits | (length as u32 - u32::from(LENGTHS[slot].0)) << count, count + u32::from(LENGTHS[slot].1));
        }
        let mut at = span.start;
        for sequence in &self.sequences {
            let literals = &block[at..at + sequence.literals as usize];
            let mut triples = literals.chunks_exact(3);
            for triple in &mut triples {
                for byte in triple {
                    let (bits, count) = litlen_codes[usize::from(*byte)];
                    writer.add(u64::from(bits), count);
                }
                writer.flush();
            }
            for byte in triples.remainder() {
                let (bits, count) = litlen_codes[usize::from(*byte)];
                writer.add(u64::from(bits), count);
            }
            at += literals.len() + usize::from(sequence.length);
            if sequence.length > 0 {
                writer.flush();
                let (bits, count) = length_codes[usize::from(sequence.length)];
                writer.add(u64::from(bits), count);
                let distance = usize::from(sequence.distance);
                let slot = self.slot(distance);
                let (bits, count) = dist_codes[slot];
                let (base, extra) = distance_base(slot);
                writer.add(u64::from(bits) | ((distance - base) as u64) << count, count + extra);
            }
            writer.flush();
        }
        let (bits, count) = litlen_codes[END];
        writer.add(u64::from(bits), count);
        writer.flush();
    }

    fn slot(&self, distance: usize) -> usize {
        usize::from(self.distance_slot[distance_index(distance)])
    }
}

/// Where the code of a distance is looked up: exactly for small ones, by their upper bits for others.
fn distance_index(distance: usize) -> usize {
    if distance <= 256 { distance - 1 } else { 256 + ((distance - 1) >> 7) }
}

/// The smallest distance of a code and how many extra bits follow it.
const fn distance_base(slot: usize) -> (usize, u32) {
    if slot < 4 {
        return (slot + 1, 0);
    }
    let extra = slot as u32 / 2 - 1;
    (((2 + (slot & 1)) << extra) + 1, extra)
}

fn load4(block: &[u8], at: usize) -> u32 {
    let mut raw = [0; 4];
    raw.copy_from_slice(&block[at..at + 4]);
    u32::from_le_bytes(raw)
}

fn load8(block: &[u8], at: usize) -> u64 {
    let mut raw = [0; 8];
    raw.copy_from_slice(&block[at..at + 8]);
    u64::from_le_bytes(raw)
}

fn hash(word: u32) -> usize {
    (word.wrapping_mul(0x9e37_79b1) >> (32 - HASH_BITS)) as usize
}

/// How many bytes at `a` and at the later `b` are equal, up to what a match can have beyond [`MIN_MATCH`].
fn equal(block: &[u8], a: usize, b: usize) -> usize {
    let limit = (block.len() - b).min(MAX_MATCH - MIN_MATCH);
    let mut count = 0;
    while count + 8 <= limit {
        let difference = load8(block, a + count) ^ load8(block, b + count);
        if difference != 0 {
            return count + (difference.trailing_zeros() / 8) as usize;
        }
        count += 8;
    }
    while count < limit && block[a + count] == block[b + count] {
        count += 1;
    }
    count
}

/// Lengths of an optimal prefix code in which none is longer than `limit`; 0 for symbols that do not occur.
fn code_lengths<const N: usize>(counts: &[u32; N], limit: usize) -> [u8; N] {
    let mut lengths = [0; N];
    let mut order: Vec<usize> = (0..N).filter(|i| counts[*i] > 0).collect();
    order.sort_by_key(|i| (counts[*i], *i));
    if order.len() < 2 {
        for symbol in order {
            lengths[symbol] = 1;
        }
        return lengths;
    }
    // Two queues, both in order of weight: leaves, and inner nodes as they are made. `parent` is by node number.
    let leaves = order.len();
    let mut weight: Vec<u64> = order.iter().map(|i| u64::from(counts[*i])).collect();
    let mut parent = vec![0; 2 * leaves - 1];
    let (mut leaf, mut inner) = (0, leaves);
    for next in leaves..2 * leaves - 1 {
        let mut sum = 0;
        for _ in 0..2 {
            let take_leaf = leaf < leaves && (inner >= next || weight[leaf] <= weight[inner]);
            let child = if take_leaf { &mut leaf } else { &mut inner };
            sum += weight[*child];
            parent[*child] = next;
            *child += 1;
        }
        weight.push(sum);
    }
    let mut depth = vec![0_usize; 2 * leaves - 1];
    let mut per_length = vec![0_u32; limit + 1];
    for node in (0..2 * leaves - 2).rev() {
        depth[node] = depth[parent[node]] + 1;
        if node < leaves {
            per_length[depth[node].min(limit)] += 1;
        }
    }
    // What was too long was cut off: others get longer until the code is one again.
    let mut total: u32 = (1..=limit).map(|l| per_length[l] << (limit - l)).sum();
    while total > 1 << limit {
        per_length[limit] -= 1;
        if let Some(shorter) = (1..limit).rev().find(|l| per_length[*l] > 0) {
            per_length[shorter] -= 1;
            per_length[shorter + 1] += 2;
        }
        total -= 1;
    }
    let by_length = (1..=limit).rev().flat_map(|l| std::iter::repeat_n(l as u8, per_length[l] as usize));
    for (symbol, length) in order.into_iter().zip(by_length) {
        lengths[symbol] = length;
    }
    lengths
}

/// The canonical code: for each symbol its bits, first one lowest, and their number.
fn codes<const N: usize>(lengths: &[u8; N]) -> [(u32, u32); N] {
    let mut next = [0_u32; 17];
    for length in lengths.iter().filter(|l| **l > 0) {
        next[usize::from(*length) + 1] += 1;
    }
    for length in 1..17 {
        next[length] = (next[length] + next[length - 1]) << 1;
    }
    // `next[l]` is twice the number of codes shorter than `l`, counted at that length.
    let mut out = [(0, 0); N];
    for (code, length) in out.iter_mut().zip(lengths).filter(|(_, l)| **l > 0) {
        let slot = &mut next[usize::from(*length)];
        *code = (slot.reverse_bits() >> (32 - u32::from(*length)), u32::from(*length));
        *slot += 1;
    }
    out
}

/// The description of a span's codes.
struct Header {
    litlen: usize,
    dist: usize,
    /// Symbols of the code length code, with extra bits and their number.
    symbols: Vec<(u8, u32, u32)>,
    lengths: [u8; 19],
    sent: usize,
}

impl Header {
    fn new(litlen_lengths: &[u8; LITLEN], dist_lengths: &[u8; DIST]) -> Self {
        let used =
            |lengths: &[u8], least: usize| lengths.iter().rposition(|l| *l > 0).map_or(least, |i| (i + 1).max(least));
        let (litlen, dist) = (used(litlen_lengths, 257), used(dist_lengths, 1));
        let all: Vec<u8> = litlen_lengths[..litlen].iter().chain(&dist_lengths[..dist]).copied().collect();
        let mut symbols = Vec::new();
        let mut at = 0;
        while at < all.len() {
            let run = all[at..].iter().take_while(|l| **l == all[at]).count();
            let (symbol, taken) = match (all[at], run) {
                (0, 11..) => ((18, run.min(138) as u32 - 11, 7), run.min(138)),
                (0, 3..) => ((17, run as u32 - 3, 3), run),
                (length, 4..) if length > 0 => {
                    symbols.push((length, 0, 0));
                    let more = (run - 1).min(6);
                    ((16, more as u32 - 3, 2), more + 1)
                }
                (length, _) => ((length, 0, 0), 1),
            };
            symbols.push(symbol);
            at += taken;
        }
        let mut counts = [0_u32; 19];
        for (symbol, _, _) in &symbols {
            counts[usize::from(*symbol)] += 1;
        }
        let lengths = code_lengths(&counts, 7);
        let sent = CODE_ORDER.iter().rposition(|i| lengths[*i] > 0).map_or(4, |i| (i + 1).max(4));
        Self { litlen, dist, symbols, lengths, sent }
    }

    fn bits(&self) -> u64 {
        let symbols =
            self.symbols.iter().map(|(s, _, extra)| u64::from(self.lengths[usize::from(*s)]) + u64::from(*extra));
        3 + 14 + 3 * self.sent as u64 + symbols.sum::<u64>()
    }

    fn write(&self, writer: &mut BitWriter<'_>) {
        // Not final, with codes of its own.
        writer.add(0b100, 3);
        writer.add(self.litlen as u64 - 257, 5);
        writer.add(self.dist as u64 - 1, 5);
        writer.add(self.sent as u64 - 4, 4);
        writer.flush();
        for symbol in &CODE_ORDER[..self.sent] {
            writer.add(u64::from(self.lengths[*symbol]), 3);
            writer.flush();
        }
        let codes = codes::<19>(&self.lengths);
        for (symbol, extra, count) in &self.symbols {
            let (bits, length) = codes[usize::from(*symbol)];
            writer.add(u64::from(bits | extra << length), length + count);
            writer.flush();
        }
    }
}

/// Appends bits, lowest first.
struct BitWriter<'a> {
    out: &'a mut Vec<u8>,
    /// Bytes of `out` that are complete.
    at: usize,
    bits: u64,
    count: u32,
}

impl<'a> BitWriter<'a> {
    fn new(out: &'a mut Vec<u8>) -> Self {
        let at = out.len();
        Self { out, at, bits: 0, count: 0 }
    }

    /// Adds the lowest `count` bits, the others being 0. At most 56 between two flushes.
    fn add(&mut self, bits: u64, count: u32) {
        self.bits |= bits << self.count;
        self.count += count;
    }

    /// Moves whole bytes out.
    fn flush(&mut self) {
        if self.out.len() < self.at + 8 {
            self.out.resize((self.at + 8).max(self.out.capacity()), 0);
        }
        self.out[self.at..self.at + 8].copy_from_slice(&self.bits.to_le_bytes());
        let bytes = self.count / 8;
        self.at += bytes as usize;
        self.bits >>= bytes * 8;
        self.count -= bytes * 8;
    }

    /// A stored block: it begins and ends on a byte.
    fn stored(&mut self, piece: &[u8]) {
        // Three zero bits: not final, stored; then up to the next byte.
        self.count = (self.count + 3).next_multiple_of(8);
        self.flush();
        self.out.truncate(self.at);
        let length = piece.len() as u16;
        self.out.extend_from_slice(&length.to_le_bytes());
        self.out.extend_from_slice(&(!length).to_le_bytes());
        self.out.extend_from_slice(piece);
        self.at = self.out.len();
    }

    /// Ends on a byte, which the last block saw to.
    fn finish(self) {
        self.out.truncate(self.at);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use proptest::prelude::*;

    use super::*;

    fn inflate(packed: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let whole = [packed, &[3, 0]].concat();
        flate2::read::DeflateDecoder::new(&whole[..]).read_to_end(&mut out).expect("valid deflate");
        out
    }

    fn packed(block: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        FastDeflate::new().encode(block, &mut out);
        assert!(out.ends_with(&[0, 0, 0xff, 0xff]), "ends with a flush");
        out
    }

    fn noise(length: usize, mut seed: u64) -> Vec<u8> {
        (0..length)
            .map(|_| {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                (seed >> 32) as u8
            })
            .collect()
    }

    #[test]
    fn what_goes_in_comes_out() {
        let text = b"all work and no play makes jack a dull boy. ".repeat(9000);
        let mixed = [noise(200_000, 1), text.clone(), noise(50_000, 2), vec![0; 100_000]].concat();
        for block in [&b""[..], b"a", b"abcabcabc", &[0; 7], &[7; 300_000], &text, &noise(300_000, 3), &mixed] {
            assert!(inflate(&packed(block)) == block, "{} bytes", block.len());
        }
    }

    #[test]
    fn noise_costs_a_thousandth_and_text_becomes_small() {
        assert!(packed(&noise(500_000, 5)).len() < 500_500);
        assert!(packed(&b"all work and no play makes jack a dull boy. ".repeat(9000)).len() < 6_000);
        // A distance of exactly the window and one more.
        for gap in [WINDOW, WINDOW + 1] {
            let block = [noise(gap, 6), noise(gap, 6)].concat();
            assert!(inflate(&packed(&block)) == block);
        }
    }

    #[test]
    fn codes_are_never_too_long() {
        // Fibonacci numbers make the deepest trees.
        let mut counts = [0_u32; DIST];
        let (mut a, mut b) = (1, 1);
        for count in &mut counts {
            *count = a;
            (a, b) = (b, a + b);
        }
        let lengths = code_lengths(&counts, 15);
        assert_eq!(lengths.iter().max(), Some(&15));
        let kraft: u32 = lengths.iter().map(|l| 1 << (15 - l)).sum();
        assert_eq!(kraft, 1 << 15, "a complete code");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        /// Pieces of few kinds, repeated and mixed, through one encoder that has seen other blocks.
        #[test]
        fn every_mixture_survives_and_depends_on_itself_alone(
            pieces in proptest::collection::vec((0_u64..6, 0_usize..40_000, any::<bool>()), 0..12)
        ) {
            let mut used = FastDeflate::new();
            used.encode(b"something else that was there before", &mut Vec::new());
            let mut block = Vec::new();
            for (seed, length, noisy) in pieces {
                if noisy {
                    block.extend(noise(length, seed + 1));
                } else {
                    block.extend(noise(seed as usize * 3 + 1, 9).into_iter().cycle().take(length));
                }
            }
            let mut out = Vec::new();
            used.encode(&block, &mut out);
            prop_assert!(out == packed(&block));
            prop_assert!(inflate(&out) == block);
        }
    }
}
