//! Decompressing and hashing on a thread of its own: whoever unpacks a layer writes files meanwhile.
//!
//! Small streams stay on one thread: what a thread costs is more than it saves there.

use std::io::{self, BufRead, Read};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use super::input::TarStream;
use crate::base::Digest;
use crate::base::digest::Hasher;

/// Bytes handed over at a time.
const PIECE: usize = 256 << 10;
/// Pieces on their way; with the one being filled and the one being read, that is how many exist.
const WAITING: usize = 2;
/// Bytes that are read without a thread.
const INLINE: u64 = 1 << 20;

/// Reads `source` ahead of its reader, and hashes it.
pub struct ReadAhead {
    state: State,
    /// What is handed out now.
    piece: Vec<u8>,
    at: usize,
}

enum State {
    /// So many bytes more are read here.
    Inline(Source, u64),
    Threaded(Threaded),
    /// What comes behind the present piece.
    Last(io::Error),
    Ended(Option<Digest>),
}

struct Source {
    inner: Box<dyn Read + Send>,
    hasher: Hasher,
}

struct Threaded {
    pieces: Receiver<Message>,
    /// Where pieces go that were read.
    empty: Sender<Vec<u8>>,
}

/// What the thread sends.
enum Message {
    /// The next bytes.
    Piece(Vec<u8>),
    /// The last message: the digest of all pieces, or why there are no more.
    End(io::Result<Digest>),
}

impl ReadAhead {
    /// Ahead of `source`, whose errors are passed on where they occur.
    #[must_use]
    pub fn new(source: Box<dyn Read + Send>) -> Self {
        let source = Source { inner: source, hasher: Hasher::default() };
        Self { state: State::Inline(source, INLINE), piece: Vec::new(), at: 0 }
    }

    /// Gets the next piece, which is empty at the end.
    fn next(&mut self) -> io::Result<()> {
        self.at = 0;
        match std::mem::replace(&mut self.state, State::Ended(None)) {
            State::Inline(source, 0) => {
                self.state = State::Threaded(Threaded::start(source)?);
                self.next()
            }
            State::Inline(mut source, left) => {
                let result = source.read(&mut self.piece, left.min(PIECE as u64));
                let count = self.piece.len() as u64;
                self.state = match result {
                    Ok(()) if count == 0 => State::Ended(Some(source.hasher.finish())),
                    Ok(()) => State::Inline(source, left - count),
                    // What came before an error is read first.
                    Err(error) if count == 0 => return Err(error),
                    Err(error) => State::Last(error),
                };
                Ok(())
            }
            State::Threaded(threaded) => {
                let piece = std::mem::take(&mut self.piece);
                // It may have ended, and needs none then.
                let _ = threaded.empty.send(piece);
                match threaded.pieces.recv() {
                    Ok(Message::Piece(piece)) => {
                        self.piece = piece;
                        self.state = State::Threaded(threaded);
                    }
                    Ok(Message::End(end)) => self.state = State::Ended(Some(end?)),
                    // A thread that died without a last word is no end of the stream.
                    Err(_) => return Err(io::Error::other("the thread that decompresses has died")),
                }
                Ok(())
            }
            State::Last(error) => {
                self.piece.clear();
                Err(error)
            }
            State::Ended(digest) => {
                self.piece.clear();
                self.state = State::Ended(digest);
                Ok(())
            }
        }
    }
}

impl Source {
    /// Reads at most `most` bytes into `piece`, which is as long as what was read even after an error.
    fn read(&mut self, piece: &mut Vec<u8>, most: u64) -> io::Result<()> {
        piece.clear();
        piece.reserve(usize::try_from(most).unwrap_or(PIECE));
        let result = self.inner.by_ref().take(most).read_to_end(piece);
        self.hasher.update(piece);
        result.map(drop)
    }
}

impl Threaded {
    /// Goes on with a thread, which ends with the stream, or when nobody reads any more.
    fn start(source: Source) -> io::Result<Self> {
        let (sender, pieces) = sync_channel(WAITING);
        let (empty, used) = channel();
        std::thread::Builder::new().name("decompress".into()).spawn(move || fill(source, &sender, &used))?;
        Ok(Self { pieces, empty })
    }
}

/// Sends the pieces of `source`.
fn fill(mut source: Source, to: &SyncSender<Message>, used: &Receiver<Vec<u8>>) {
    loop {
        let mut piece = used.try_recv().unwrap_or_default();
        let result = source.read(&mut piece, PIECE as u64);
        let ended = piece.is_empty();
        // What came before an error is read first.
        if !ended && to.send(Message::Piece(piece)).is_err() {
            return;
        }
        let end = match result {
            Ok(()) if !ended => continue,
            Ok(()) => Ok(source.hasher.finish()),
            Err(error) => Err(error),
        };
        let _ = to.send(Message::End(end));
        return;
    }
}

impl BufRead for ReadAhead {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.piece.len() {
            self.next()?;
        }
        Ok(&self.piece[self.at..])
    }

    fn consume(&mut self, count: usize) {
        self.at = (self.at + count).min(self.piece.len());
    }
}

impl Read for ReadAhead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

impl TarStream for ReadAhead {
    fn digest(&self) -> Option<Digest> {
        match &self.state {
            State::Ended(digest) => digest.clone(),
            _ => None,
        }
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
            assert_eq!(reader.digest(), Some(Digest::sha256(&plain)), "{length} bytes");
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
            assert_eq!(reader.digest(), None, "what broke is not whole");
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
