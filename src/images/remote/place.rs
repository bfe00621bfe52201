//! A name in a registry or in an OCI layout directory, and reading from it.

use std::fmt;
use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use bytes::Bytes;

use super::super::{ImageError, blocking};
use crate::base::Digest;
use crate::oci::{Descriptor, Reference};
use crate::registry::{BlobSource, Client, no_progress};
use crate::source::oci_layout::Layout;

/// Chunks of a blob on its way from one registry to another: at most this many wait.
const CHUNKS: usize = 16;

/// Where an image is, or is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In a registry.
    Registry(Reference),
    /// In a directory: `oci-layout://PATH[:TAG][@DIGEST]`.
    Layout(Layout),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry(reference) => reference.fmt(f),
            Self::Layout(layout) => layout.fmt(f),
        }
    }
}

impl Place {
    /// Parses what users write.
    ///
    /// # Errors
    /// [`ImageError::Usage`].
    pub fn parse(text: &str) -> Result<Self, ImageError> {
        match text.strip_prefix("oci-layout://") {
            Some(rest) => Layout::parse(rest)
                .map(Self::Layout)
                .map_err(|e| ImageError::Usage(format!("invalid image name \"{text}\": {e}"))),
            None => text
                .parse()
                .map(Self::Registry)
                .map_err(|e: crate::oci::reference::ReferenceError| ImageError::Usage(e.to_string())),
        }
    }

    /// What holds the content of several names: a repository or a directory.
    pub(super) fn repository(&self) -> String {
        match self {
            Self::Registry(reference) => reference.repository(),
            Self::Layout(layout) => format!("oci-layout://{}", layout.path().display()),
        }
    }

    /// The same repository or directory at a digest.
    #[must_use]
    pub fn at(&self, digest: &Digest) -> Self {
        match self {
            Self::Registry(r) => Self::Registry(Reference { tag: None, ..r.with_digest(digest.clone()) }),
            Self::Layout(layout) => Self::Layout(layout.at(digest.clone())),
        }
    }

    /// The manifest or index that it names, with its exact bytes.
    pub(super) async fn root(&self, client: &Client) -> Result<(Descriptor, Bytes), ImageError> {
        match self {
            Self::Registry(reference) => {
                let fetched = client.manifest(reference).await?;
                Ok((fetched.descriptor, fetched.bytes))
            }
            Self::Layout(layout) => {
                let layout = layout.clone();
                blocking(move || {
                    let (descriptor, bytes) = layout.root()?;
                    Ok((descriptor, bytes.into()))
                })
                .await
            }
        }
    }

    /// A small blob, such as a config.
    pub(super) async fn small(&self, client: &Client, blob: &Descriptor) -> Result<Bytes, ImageError> {
        match self {
            Self::Registry(reference) => Ok(client.blob_bytes(reference, blob).await?),
            Self::Layout(layout) => {
                let (layout, digest) = (layout.clone(), blob.digest.clone());
                blocking(move || Ok(layout.blob(&digest)?.into())).await
            }
        }
    }

    /// A blob to be uploaded; nothing is read before somebody does.
    pub(super) fn blob(&self, client: &Client, blob: &Descriptor) -> BlobSource {
        match self {
            Self::Layout(layout) => BlobSource::file(layout.blob_path(&blob.digest)),
            Self::Registry(reference) => {
                let (client, reference, blob) = (client.clone(), reference.clone(), blob.clone());
                let runtime = tokio::runtime::Handle::current();
                BlobSource::new(move || {
                    let (sender, chunks) = sync_channel(CHUNKS);
                    let (client, reference, blob) = (client.clone(), reference.clone(), blob.clone());
                    runtime.spawn(async move {
                        let sink = Sink(sender.clone());
                        if let Err(error) = client.blob(&reference, &blob, sink, &no_progress()).await {
                            // The reader waits for a chunk or for this; gone, it has its own reasons.
                            let _ =
                                tokio::task::spawn_blocking(move || sender.send(Err(io::Error::other(error)))).await;
                        }
                    });
                    Ok(Box::new(Chunks { chunks, at: io::Cursor::default() }))
                })
            }
        }
    }
}

/// Where a download is written to: the reader of [`Chunks`].
struct Sink(SyncSender<io::Result<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Nobody reads any more: the upload has ended or begins anew.
        self.0.send(Ok(bytes.to_vec())).map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A download as it comes. It ends where the download succeeded, and fails where that failed.
struct Chunks {
    chunks: Receiver<io::Result<Vec<u8>>>,
    at: io::Cursor<Vec<u8>>,
}

impl Read for Chunks {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = self.at.read(out)?;
            if read > 0 || out.is_empty() {
                return Ok(read);
            }
            match self.chunks.recv() {
                Ok(chunk) => self.at = io::Cursor::new(chunk?),
                Err(_) => return Ok(0),
            }
        }
    }
}
