//! A blob as the body of a request.

use std::io::Read;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use futures_util::stream;
use reqwest::Body;
use tokio::sync::mpsc;

use super::client::{BlobSource, Progress};

/// Bytes read at a time.
const PIECE: usize = 128 << 10;

/// A blob on its way out: read on a blocking thread, a few pieces ahead of the connection.
pub(super) struct Upload {
    size: u64,
    sent: Arc<AtomicU64>,
    failed: Arc<Mutex<Option<std::io::Error>>>,
}

impl Upload {
    /// Bytes handed to the connection so far.
    pub(super) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Everything was handed to the connection.
    pub(super) fn is_complete(&self) -> bool {
        self.sent() >= self.size
    }

    /// What went wrong on our own side, if anything did.
    pub(super) fn failure(&self) -> Option<std::io::Error> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// A part of a blob of `size` bytes; counts it from 0.
    pub(super) fn start(source: &BlobSource, bytes: Range<u64>, size: u64, progress: &Progress) -> (Body, Self) {
        let upload = Self { size: bytes.end - bytes.start, sent: Arc::default(), failed: Arc::default() };
        let (sender, receiver) = mpsc::channel::<Result<Bytes, std::io::Error>>(4);
        let (source, failed) = (source.clone(), Arc::clone(&upload.failed));
        tokio::task::spawn_blocking(move || {
            if let Err(error) = read_pieces(&source, &bytes, size, &sender) {
                let kind = error.kind();
                *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                // Ends the request; when nobody listens any more there is nothing to end.
                let _ = sender.blocking_send(Err(kind.into()));
            }
        });
        let (sent, progress) = (Arc::clone(&upload.sent), Arc::clone(progress));
        let body = stream::unfold(receiver, move |mut receiver| {
            let (sent, progress) = (Arc::clone(&sent), Arc::clone(&progress));
            async move {
                let piece = receiver.recv().await?;
                if let Ok(piece) = &piece {
                    let before = sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
                    progress(before + piece.len() as u64);
                }
                Some((piece, receiver))
            }
        });
        (Body::wrap_stream(body), upload)
    }
}

fn read_pieces(
    source: &BlobSource,
    bytes: &Range<u64>,
    size: u64,
    sender: &mpsc::Sender<Result<Bytes, std::io::Error>>,
) -> std::io::Result<()> {
    // At the end one byte more than announced, to notice a source that grew.
    let limit = if bytes.end == size { size + 1 } else { bytes.end };
    let mut reader = source.open()?.take(limit);
    let mut total = std::io::copy(&mut reader.by_ref().take(bytes.start), &mut std::io::sink())?;
    loop {
        let mut piece = BytesMut::zeroed(PIECE);
        let mut filled = 0;
        while filled < PIECE {
            match reader.read(&mut piece[filled..]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        total += filled as u64;
        if total > size || (filled == 0 && total < bytes.end) {
            let text = format!("it has {} than the expected {size} bytes", if total > size { "more" } else { "fewer" });
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, text));
        }
        if filled == 0 {
            return Ok(());
        }
        piece.truncate(filled);
        if sender.blocking_send(Ok(piece.freeze())).is_err() {
            // The request is over, one way or the other.
            return Ok(());
        }
    }
}
