//! Decompressing on a thread of its own: whoever unpacks a layer writes files and hashes meanwhile.
//!
//! Small streams stay on one thread: what a thread costs is more than it saves there.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

/// Bytes handed over at a time.
const PIECE: usize = 256 << 10;
/// Pieces on their way; with the one being filled and the one being read, that is how many exist.
const WAITING: usize = 2;
/// Bytes that are read without a thread.
const INLINE: u64 = 1 << 20;

/// Reads `source` ahead of its reader.
pub struct ReadAhead {
    state: State,
}

enum State {
    /// So many bytes more are read here.
    Inline(Box<dyn Read + Send>, u64),
    Threaded(Threaded),
    Ended,
}

struct Threaded {
    pieces: Receiver<io::Result<Vec<u8>>>,
    /// Where pieces go that were read.
    empty: Sender<Vec<u8>>,
    piece: Vec<u8>,
    at: usize,
}

impl ReadAhead {
    /// Ahead of `source`, whose errors are passed on where they occur.
    #[must_use]
    pub fn new(source: Box<dyn Read + Send>) -> Self {
        Self { state: State::Inline(source, INLINE) }
    }

    /// Goes on with a thread, or without one where there can be no more.
    fn start(source: Box<dyn Read + Send>) -> io::Result<State> {
        let (sender, pieces) = sync_channel(WAITING);
        let (empty, used) = channel();
        // It ends with the stream, or when nobody reads any more.
        std::thread::Builder::new().name("decompress".into()).spawn(move || fill(source, &sender, &used))?;
        Ok(State::Threaded(Threaded { pieces, empty, piece: Vec::new(), at: 0 }))
    }
}

/// Sends the pieces of `source`; an empty one, or an error, is the last.
fn fill(mut source: Box<dyn Read + Send>, to: &SyncSender<io::Result<Vec<u8>>>, used: &Receiver<Vec<u8>>) {
    loop {
        let mut piece = used.try_recv().unwrap_or_else(|_| Vec::with_capacity(PIECE));
        piece.clear();
        let result = source.by_ref().take(PIECE as u64).read_to_end(&mut piece);
        // What came before an error is read first.
        let ended = piece.is_empty();
        if (result.is_ok() || !ended) && to.send(Ok(piece)).is_err() {
            return;
        }
        match result {
            Ok(_) if ended => return,
            Ok(_) => {}
            Err(error) => {
                let _ = to.send(Err(error));
                return;
            }
        }
    }
}

impl Threaded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.piece.len() {
            // A thread that died without a last word is no end of the stream.
            let next = self.pieces.recv().map_err(|_| io::Error::other("the thread that decompresses has died"))??;
            // It may have ended, and needs none then.
            let _ = self.empty.send(std::mem::replace(&mut self.piece, next));
            self.at = 0;
        }
        let count = buffer.len().min(self.piece.len() - self.at);
        buffer[..count].copy_from_slice(&self.piece[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

impl Read for ReadAhead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if let State::Inline(_, 0) = self.state
            && let State::Inline(source, _) = std::mem::replace(&mut self.state, State::Ended)
        {
            self.state = Self::start(source)?;
        }
        let count = match &mut self.state {
            State::Inline(source, left) => {
                let most = buffer.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                let count = source.read(&mut buffer[..most])?;
                *left -= count as u64;
                count
            }
            State::Threaded(threaded) => threaded.read(buffer)?,
            State::Ended => return Ok(0),
        };
        if count == 0 {
            self.state = State::Ended;
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(length: usize) -> Vec<u8> {
        (0..length).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
    }

    #[test]
    fn everything_arrives_in_order_whatever_its_length() {
        for length in [0, 1, INLINE as usize - 1, INLINE as usize, INLINE as usize + 1, (4 << 20) + 77] {
            let plain = bytes(length);
            let mut reader = ReadAhead::new(Box::new(io::Cursor::new(plain.clone())));
            let mut read = Vec::new();
            reader.read_to_end(&mut read).expect("reads");
            assert!(read == plain, "{length} bytes");
            assert_eq!(reader.read(&mut [0; 8]).expect("stays at its end"), 0);
        }
    }

    /// Gives `left` bytes, then an error.
    struct Breaks {
        left: usize,
    }

    impl Read for Breaks {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.left == 0 {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "broken here"));
            }
            let count = buffer.len().min(self.left).min(10_000);
            buffer[..count].fill(1);
            self.left -= count;
            Ok(count)
        }
    }

    #[test]
    fn an_error_comes_after_what_was_before_it_and_is_no_end() {
        for length in [5, 1 << 20, (3 << 20) + 5] {
            let mut reader = ReadAhead::new(Box::new(Breaks { left: length }));
            let mut read = Vec::new();
            let error = reader.read_to_end(&mut read).expect_err("breaks");
            assert_eq!(
                (read.len(), error.kind(), error.to_string()),
                (length, io::ErrorKind::InvalidData, "broken here".into())
            );
        }
    }

    #[test]
    fn the_thread_ends_when_nobody_reads_any_more() {
        /// Never ends; tells when it is dropped.
        struct Endless(std::sync::mpsc::Sender<()>);
        impl Read for Endless {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                buffer.fill(0);
                Ok(buffer.len())
            }
        }
        impl Drop for Endless {
            fn drop(&mut self) {
                let _ = self.0.send(());
            }
        }
        let (sender, dropped) = channel();
        let mut reader = ReadAhead::new(Box::new(Endless(sender)));
        io::copy(&mut reader.by_ref().take(5 << 20), &mut io::sink()).expect("reads");
        drop(reader);
        dropped.recv().expect("the source is dropped");
    }
}
