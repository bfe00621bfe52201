//! Bytes that are only appended to, in pieces that never move.
//!
//! A vector that grows is copied each time it doubles: for that moment it takes twice its size and more.

/// Bytes kept together.
const PIECE: usize = 64 << 10;

/// Appended bytes. What was appended at once lies in one piece.
#[derive(Debug, Default, Clone)]
pub struct Pieces {
    pieces: Vec<Vec<u8>>,
}

/// Where something begins in [`Pieces`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    // Neither number comes near its end: pieces are small, and so many of them would not fit into memory.
    piece: u32,
    start: u32,
}

impl Position {
    /// So many bytes further in what was appended at once.
    #[must_use]
    pub fn plus(self, count: usize) -> Self {
        Self { start: self.start + count as u32, ..self }
    }
}

impl Pieces {
    /// What to append the next `most` bytes to, or fewer, and where they will be.
    pub fn next(&mut self, most: usize) -> (Position, &mut Vec<u8>) {
        if self.pieces.last().is_none_or(|piece| piece.len() + most > piece.capacity()) {
            self.pieces.push(Vec::with_capacity(PIECE.max(most)));
        }
        let number = self.pieces.len() - 1;
        let piece = &mut self.pieces[number];
        (Position { piece: number as u32, start: piece.len() as u32 }, piece)
    }

    /// What begins at `position`, and all that was appended to the same piece behind it.
    #[must_use]
    pub fn from(&self, position: Position) -> &[u8] {
        &self.pieces[position.piece as usize][position.start as usize..]
    }

    /// Replaces what is at `position` by as many other bytes.
    pub fn replace(&mut self, position: Position, bytes: &[u8]) {
        let start = position.start as usize;
        self.pieces[position.piece as usize][start..start + bytes.len()].copy_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_appended_is_where_it_was_put() {
        let mut pieces = Pieces::default();
        let sizes = [1, PIECE - 2, 1, 1, PIECE, 0, 3 * PIECE, 7];
        let put: Vec<_> = sizes
            .iter()
            .enumerate()
            .map(|(number, size)| {
                let (position, out) = pieces.next(*size);
                out.resize(out.len() + size, number as u8);
                (position, vec![number as u8; *size])
            })
            .collect();
        for (position, content) in &put {
            assert!(pieces.from(*position).starts_with(content), "{position:?}");
        }
        pieces.replace(put[4].0.plus(3), b"new");
        assert!(pieces.from(put[4].0).starts_with(&[4, 4, 4, b'n', b'e', b'w', 4]));
    }

    #[test]
    fn nothing_is_moved_or_left_free_for_growth() {
        let mut pieces = Pieces::default();
        let (_, first) = pieces.next(100);
        first.extend_from_slice(&[1; 100]);
        let there = first.as_ptr();
        for _ in 0..10_000 {
            pieces.next(100).1.extend_from_slice(&[2; 100]);
        }
        assert_eq!(pieces.pieces[0].as_ptr(), there);
        assert!(pieces.pieces.iter().map(Vec::capacity).sum::<usize>() < 1_000_100 + 2 * PIECE);
    }
}
