//! Downloads: what is needed, at once, each blob once.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use futures_util::future::{BoxFuture, try_join_all};
use tokio::task::JoinHandle;

use super::oci_layout::blob_path;
use super::{ImageSource, SourceError};
use crate::base::{Digest, Events, FaultKind};
use crate::oci::{Descriptor, Reference};
use crate::registry::{Client, Progress, no_progress};
use crate::store::{BlobWriter, LayerId, RemoteBlob, StoreError, ToUnpack, Unpacked, Unpacking, Written};

/// The host under which the store remembers that a layer's blob is in an OCI layout; the repository is the layout's
/// path. No registry can have this name, since a host without dot and port is not one.
pub const LAYOUT_HOST: &str = "oci-layout";

/// A place with blobs that is neither a registry nor a directory, e.g. a bucket that holds a cache.
#[async_trait::async_trait]
pub trait BlobPlace: Send + Sync {
    /// Writes a blob to `writer` and gives it back. The content is verified by the caller.
    ///
    /// # Errors
    /// When it cannot be had.
    async fn fetch(&self, descriptor: &Descriptor, writer: BlobWriter) -> Result<BlobWriter, PlaceFault>;
}

/// Why a blob could not be had from a place.
#[derive(Debug)]
pub struct PlaceFault {
    /// One line: what, where, why.
    pub reason: String,
    /// The place answered, and has no such blob.
    pub missing: bool,
}

impl PlaceFault {
    /// Something went wrong.
    pub fn new(reason: impl std::fmt::Display) -> Self {
        Self { reason: reason.to_string(), missing: false }
    }

    /// There is no such blob.
    pub fn missing(reason: impl std::fmt::Display) -> Self {
        Self { missing: true, ..Self::new(reason) }
    }
}

/// What the hosts of remotes begin with that are neither registries nor directories. Without the place that was added
/// under such a name in this invocation there is no way to it.
pub const OBJECT_HOST: &str = "cache+";

/// Blobs being downloaded: two vertices that want the same one wait for each other.
#[derive(Default)]
pub(super) struct Downloads(Mutex<HashMap<Digest, Weak<tokio::sync::Mutex<()>>>>);

impl Downloads {
    fn of(&self, digest: &Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = all.get(digest).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::default();
        all.insert(digest.clone(), Arc::downgrade(&lock));
        lock
    }
}

impl ImageSource {
    /// Makes sure that a chain of layers can be mounted: downloads the blobs of those that have neither a directory
    /// nor a blob here, in parallel. With `vertex` each download is a progress item of it.
    ///
    /// # Errors
    /// When a blob cannot be had, or is not what its digest promises. Other downloads are abandoned then.
    pub async fn ensure_local(&self, layers: &[LayerId], vertex: Option<&Digest>) -> Result<(), SourceError> {
        let chain = layers.to_vec();
        let needed = self.blocking(move |store| Ok(store.blobs_needed(&chain)?)).await?;
        try_join_all(needed.iter().map(|blob| self.ensure_blob(&blob.descriptor, &blob.remotes, vertex))).await?;
        Ok(())
    }

    /// As [`ImageSource::ensure_local`] for a chain that is about to be mounted: layers are unpacked while they arrive, several
    /// at a time.
    ///
    /// # Errors
    /// As [`ImageSource::ensure_local`]. What cannot be unpacked is told by the mount.
    pub async fn ensure_unpacked(&self, layers: &[LayerId], vertex: Option<&Digest>) -> Result<(), SourceError> {
        let chain = layers.to_vec();
        let told: Unpacked = {
            let (events, vertex) = (self.0.events.clone(), vertex.cloned());
            Arc::new(move |blob, done| {
                if let Some(vertex) = &vertex {
                    let current = if done { blob.size } else { 0 };
                    events.progress(vertex, format!("extracting {}", blob.digest), current, Some(blob.size), done);
                }
            })
        };
        let (needed, mut unpacking) = self
            .blocking(move |store| {
                let unpacking = match store.unpack_ahead(&chain, told)? {
                    ToUnpack::Nothing => return Ok((Vec::new(), None)),
                    ToUnpack::Mount => None,
                    ToUnpack::Layers(unpacking) => Some(unpacking),
                };
                Ok((store.blobs_needed(&chain)?, unpacking))
            })
            .await?;
        if let Some(unpacking) = &mut unpacking {
            unpacking.begin(needed.iter().map(|blob| blob.descriptor.digest.clone()));
        }
        let watcher = unpacking.as_ref();
        let fetching = needed.iter().map(|blob| async move {
            let fetched = self.ensure_watched(&blob.descriptor, &blob.remotes, vertex, watcher).await;
            if let Some(unpacking) = watcher {
                unpacking.settled(&blob.descriptor.digest);
            }
            fetched
        });
        let fetched = try_join_all(fetching).await;
        if let Some(unpacking) = unpacking {
            self.blocking(move |_| {
                unpacking.finish();
                Ok(())
            })
            .await?;
        }
        fetched.map(drop)
    }

    /// Makes sure that one blob is in the content store.
    ///
    /// # Errors
    /// When it cannot be had, or is not what its digest promises.
    pub async fn ensure_blob(
        &self,
        descriptor: &Descriptor,
        remotes: &[RemoteBlob],
        vertex: Option<&Digest>,
    ) -> Result<(), SourceError> {
        self.ensure_watched(descriptor, remotes, vertex, None).await
    }

    async fn ensure_watched(
        &self,
        descriptor: &Descriptor,
        remotes: &[RemoteBlob],
        vertex: Option<&Digest>,
        watcher: Option<&Unpacking>,
    ) -> Result<(), SourceError> {
        let lock = self.0.downloads.of(&descriptor.digest);
        let _one_at_a_time = lock.lock().await;
        let digest = descriptor.digest.clone();
        if self.blocking(move |store| Ok(store.has_blob(&digest)?.is_some())).await? {
            return Ok(());
        }
        let near_blobs = self.near_blobs(descriptor).await?;
        let of_layouts = !remotes.is_empty() && remotes.iter().all(|remote| remote.host == LAYOUT_HOST);
        let near = of_layouts || !near_blobs.is_empty();
        let item = if near { format!("copying {}", descriptor.digest) } else { descriptor.digest.to_string() };
        let report = Report::new(&self.0.events, vertex, item, descriptor.size);
        let needed = self.is_of_an_image(&descriptor.digest);
        let client = if needed { &self.0.client } else { &self.0.hasty };
        let mut failed = None;
        // Copying from a directory is cheaper than any download.
        let (layouts, registries): (Vec<_>, Vec<_>) = remotes.iter().partition(|r| r.host == LAYOUT_HOST);
        for remote in near_blobs.iter().chain(layouts).chain(registries) {
            let key = (remote.host.clone(), remote.repository.clone());
            if !needed && self.0.late.is_down(&key) {
                continue;
            }
            let place = self.0.places.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
            if place.is_none() && remote.host.starts_with(OBJECT_HOST) {
                // Only who was told of the cache can read it.
                continue;
            }
            let mut writer = self.writer(&remote.descriptor.digest, watcher).await?;
            let written = writer.watch();
            let work = self.bring(place, client.clone(), remote.clone(), writer, report.progress());
            let result = if needed { work.await } else { self.hedged(work, &key, &remote.descriptor, &written).await };
            match result {
                Ok(()) => {
                    report.done(descriptor.size);
                    return Ok(());
                }
                // Our own trouble is the same everywhere.
                Err(error) if matches!(error.kind(), FaultKind::Store | FaultKind::NoSpace) => return Err(error),
                Err(error) => {
                    if !needed && error.is_outage() {
                        self.0.late.goes_down(&key);
                    }
                    if near_blobs.contains(remote) {
                        self.passed_over(&error.to_string());
                    }
                    failed = Some(error);
                }
            }
        }
        let error = failed.unwrap_or_else(|| SourceError::Lost { digest: descriptor.digest.clone() });
        if needed {
            return Err(error);
        }
        self.0.lost.lock().unwrap_or_else(PoisonError::into_inner).insert(descriptor.digest.clone());
        Err(SourceError::Gone { source: Box::new(error) })
    }

    /// A writer for a blob; who watches reads along.
    async fn writer(&self, digest: &Digest, watcher: Option<&Unpacking>) -> Result<BlobWriter, SourceError> {
        let mut writer = self.blocking(|store| Ok(store.blob_writer()?)).await?;
        if let Some(unpacking) = watcher {
            unpacking.arrives(digest, writer.follow()?);
        }
        Ok(writer)
    }

    /// Brings in one blob, by whatever way leads to the remote.
    fn bring(
        &self,
        place: Option<Arc<dyn BlobPlace>>,
        client: Client,
        remote: RemoteBlob,
        writer: BlobWriter,
        progress: Progress,
    ) -> BoxFuture<'static, Result<(), SourceError>> {
        let this = self.clone();
        Box::pin(async move {
            match place {
                Some(place) => this.fetch(place.as_ref(), &remote, writer).await,
                None if remote.host == LAYOUT_HOST => this.copy(&remote, writer, progress).await,
                None => this.download(&client, &remote, writer, &progress).await,
            }
        })
    }

    /// Waits for a blob that a cache promised as long as something of it comes. After a silence the caller does without it,
    /// and the download goes on: what comes after all is said by [`ImageSource::late`].
    async fn hedged(
        &self,
        work: BoxFuture<'static, Result<(), SourceError>>,
        key: &(String, String),
        descriptor: &Descriptor,
        written: &Written,
    ) -> Result<(), SourceError> {
        let mut task = Abandoned(tokio::spawn(work));
        // Downloads from one place wait for each other: what counts is whether anything comes from there.
        let flow = self.0.late.flow(key);
        let hedge = self.0.late.hedge();
        let (mut seen, mut whole, mut last) = (0, 0, Instant::now());
        while last.elapsed() < hedge {
            match tokio::time::timeout(hedge.min(Duration::from_secs(1)) / 10, &mut task.0).await {
                Ok(Ok(result)) => return result,
                Ok(Err(e)) => return Err(SourceError::Internal(e.to_string())),
                Err(_) => {}
            }
            let now = written.so_far();
            let total = flow.fetch_add(now - seen, Ordering::Relaxed) + now - seen;
            seen = now;
            if total != whole {
                (whole, last) = (total, Instant::now());
            }
        }
        // Who unpacks it while it comes does not wait for it.
        written.unfollow();
        self.0.late.goes_down(key);
        let (this, key, digest) = (self.clone(), key.clone(), descriptor.digest.clone());
        let waiting = tokio::spawn(async move {
            if let Ok(Ok(())) = (&mut task.0).await {
                this.0.late.came(&key, digest);
            }
        });
        self.0.late.keep(waiting);
        Err(SourceError::Silent { digest: descriptor.digest.clone() })
    }

    async fn fetch(&self, place: &dyn BlobPlace, remote: &RemoteBlob, writer: BlobWriter) -> Result<(), SourceError> {
        let what = format!("{} {}", remote.host, remote.repository);
        let writer = place.fetch(&remote.descriptor, writer).await.map_err(|fault| SourceError::Place {
            what: format!("blob {} of {what}", remote.descriptor.digest),
            reason: fault.reason,
            missing: fault.missing,
        })?;
        let digest = remote.descriptor.digest.clone();
        self.blocking(move |_| commit(writer, &what, &digest)).await
    }

    async fn download(
        &self,
        client: &Client,
        remote: &RemoteBlob,
        writer: BlobWriter,
        progress: &Progress,
    ) -> Result<(), SourceError> {
        let repository = Reference {
            domain: remote.host.clone(),
            path: remote.repository.clone(),
            tag: None,
            digest: Some(remote.descriptor.digest.clone()),
        };
        // The store's writer hashes; once is enough.
        let writer = client.blob_unhashed(&repository, &remote.descriptor, writer, progress).await?;
        let (what, digest) = (repository.repository(), remote.descriptor.digest.clone());
        self.blocking(move |_| commit(writer, &what, &digest)).await
    }

    async fn copy(&self, remote: &RemoteBlob, writer: BlobWriter, progress: Progress) -> Result<(), SourceError> {
        let (path, descriptor) = (remote.repository.clone(), remote.descriptor.clone());
        self.blocking(move |_| copy(writer, Path::new(&path), &descriptor, &progress)).await
    }
}

/// Ends with whoever waits for it.
struct Abandoned<T>(JoinHandle<T>);

impl<T> Drop for Abandoned<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn copy(
    mut writer: BlobWriter,
    layout: &Path,
    descriptor: &Descriptor,
    progress: &Progress,
) -> Result<(), SourceError> {
    let path = blob_path(layout, &descriptor.digest);
    let fail = |source| SourceError::Io { path: path.clone(), source };
    let mut file = File::open(&path).map_err(fail)?;
    let mut piece = vec![0; 256 << 10];
    loop {
        let n = match file.read(&mut piece) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(fail(e)),
        };
        writer.write_all(&piece[..n]).map_err(|e| writer.error(e))?;
        progress(writer.written());
    }
    commit(writer, &format!("OCI layout {}", layout.display()), &descriptor.digest)
}

fn commit(writer: BlobWriter, place: &str, digest: &Digest) -> Result<(), SourceError> {
    match writer.commit(Some(digest)) {
        Ok(_) => Ok(()),
        Err(StoreError::DigestMismatch { expected, actual, .. }) => {
            Err(SourceError::Corrupt { what: format!("blob {digest} of {place}"), expected, actual })
        }
        Err(error) => Err(error.into()),
    }
}

/// Progress of one blob, a few times a second at most.
struct Report {
    events: Events,
    vertex: Option<Digest>,
    item: String,
    total: u64,
}

impl Report {
    fn new(events: &Events, vertex: Option<&Digest>, item: String, total: u64) -> Self {
        let report = Self { events: events.clone(), vertex: vertex.cloned(), item, total };
        report.send(0, false);
        report
    }

    fn send(&self, current: u64, done: bool) {
        if let Some(vertex) = &self.vertex {
            self.events.progress(vertex, &self.item, current, Some(self.total), done);
        }
    }

    fn done(&self, size: u64) {
        self.send(size, true);
    }

    fn progress(&self) -> Progress {
        const PAUSE: Duration = Duration::from_millis(100);
        let Some(vertex) = self.vertex.clone() else { return no_progress() };
        let (events, item, total) = (self.events.clone(), self.item.clone(), self.total);
        let last = Mutex::new(Instant::now());
        Arc::new(move |current| {
            let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
            if last.elapsed() >= PAUSE {
                *last = Instant::now();
                events.progress(&vertex, &item, current, Some(total), false);
            }
        })
    }
}
