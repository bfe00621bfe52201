//! Cache mounts for other machines: which of them are read, and how their packs get to the cache.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};

use super::cache::CacheExportError;
use super::{ExportContext, cache};
use crate::base::events::Outcome;
use crate::base::{DiffId, Digest};
use crate::cache::backend::{CacheBackend, CacheBlob, CacheError, MountPlace, Moved};
use crate::cache::mounts::save::{self, LocalMount};
use crate::cache::mounts::{Document, PACK_TYPE, Pack, shown};
use crate::oci::Descriptor;
use crate::registry::BlobSource;
use crate::store::{CacheMount, HeldMount, Store};

/// Blobs on their way, or asked for, at a time.
const PARALLEL: usize = 4;
/// How long another build may keep a mount to itself before it is left out.
const PATIENCE: Duration = Duration::from_secs(10);

/// A cache mount that the build names.
#[derive(Debug, Clone)]
pub struct WantedMount {
    /// Its id, with the namespace.
    pub id: String,
    /// A step of this build opened it; otherwise what the cache has of it is as good as what is here.
    pub opened: bool,
}

/// Writes these mounts beside a cache, `cap` bytes at most.
///
/// # Errors
/// See [`CacheExportError`]; the cache is what it was then.
pub async fn export(
    context: &ExportContext<'_>,
    backend: &dyn CacheBackend,
    wanted: &[WantedMount],
    cap: u64,
) -> Result<(), CacheExportError> {
    let title = backend.title();
    let name = format!("exporting cache mounts to {title}");
    let id = Digest::sha256(&name);
    context.events.vertex(&id, name, Vec::new());
    context.events.started(&id);
    let outcome = match backend.mounts() {
        Some(place) => write(context, place, wanted, cap, &id).await,
        None => Err(CacheError::new("this kind of cache has no place for cache mounts")),
    };
    match &outcome {
        Ok(()) => context.events.completed(&id, Outcome::Done),
        Err(error) => context.events.completed(&id, Outcome::Failed(error.to_string())),
    }
    outcome.map_err(|source| CacheExportError::Backend { title, source })
}

async fn write(
    context: &ExportContext<'_>,
    place: &dyn MountPlace,
    wanted: &[WantedMount],
    cap: u64,
    id: &Digest,
) -> Result<(), CacheError> {
    let known = known(context, place).await?;
    let (store, events) = (context.store.clone(), context.events.clone());
    let wanted: Vec<String> =
        wanted.iter().filter(|w| w.opened || known.mount(&w.id).is_none()).map(|w| w.id.clone()).collect();
    let saved = blocking(move || {
        let mut held: Vec<CacheMount> = Vec::new();
        let mut local = Vec::new();
        for id in wanted {
            match hold(&store, &id)? {
                Held::Missing => {}
                Held::Busy => events.warning(format!("cache mount {} is in use and not exported", shown(&id))),
                Held::Here(mount, found) => {
                    held.push(mount);
                    local.push(found);
                }
            }
        }
        if local.is_empty() {
            return Ok(None);
        }
        save::save(&store, &local, &known, cap).map(Some).map_err(|e| CacheError::new(e.to_string()))
    })
    .await?;
    let Some(saved) = saved else {
        context.events.progress(id, "no cache mount was used", 0, None, true);
        return Ok(());
    };
    for dropped in &saved.dropped {
        context.events.progress(id, format!("left out for its size: {}", shown(dropped)), 0, None, true);
    }
    if saved.trimmed.0 > 0 {
        let (files, bytes) = saved.trimmed;
        let what = format!("left out {files} files that were not used for longest ({bytes} bytes)");
        context.events.progress(id, what, bytes, None, true);
    }
    let puts = saved.fresh.iter().map(|pack| put(context, place, pack, id));
    let moved: Result<Vec<Moved>, CacheError> = stream::iter(puts).buffer_unordered(PARALLEL).try_collect().await;
    for pack in &saved.fresh {
        // Otherwise it is collected, sooner or later.
        let _ = context.store.discard_blob(&pack.digest);
    }
    let bytes: u64 = moved?.iter().map(|m| if let Moved::Bytes(n) = m { *n } else { 0 }).sum();
    let document = saved.document.encode()?;
    let bytes = bytes + document.len() as u64;
    let packs: Vec<Descriptor> = saved.document.packs.iter().map(descriptor).collect();
    let name = place.publish_mounts(document, &packs).await?;
    let (mounts, total) = (saved.document.mounts.len(), packs.iter().map(|p| p.size).sum::<u64>());
    let what = format!("{mounts} cache mounts, {total} bytes in {} packs, written to {name}", packs.len());
    context.events.progress(id, what, bytes, Some(bytes), true);
    Ok(())
}

/// What the cache has already, and still has.
async fn known(context: &ExportContext<'_>, place: &dyn MountPlace) -> Result<Document, CacheError> {
    let title = format!("cache mounts of {}", place.title());
    let known = match place.load_mounts(true).await {
        Ok(bytes) => match Document::decode(&title, &bytes) {
            Ok(document) => document,
            Err(error) => {
                context.events.warning(format!("{error}; it is replaced"));
                Document::default()
            }
        },
        Err(error) if error.missing => Document::default(),
        Err(error) => return Err(error),
    };
    let looks = known.packs.iter().map(|pack| async {
        let there = place.has(&descriptor(pack)).await?;
        Ok::<_, CacheError>((!there).then(|| pack.digest.clone()))
    });
    let lost: Vec<Option<Digest>> = stream::iter(looks).buffer_unordered(2 * PARALLEL).try_collect().await?;
    let lost: HashSet<Digest> = lost.into_iter().flatten().collect();
    Ok(known.without(&lost))
}

enum Held {
    Missing,
    Busy,
    Here(CacheMount, LocalMount),
}

fn hold(store: &Store, id: &str) -> Result<Held, CacheError> {
    let held = store.hold_mount(id, PATIENCE).map_err(|e| CacheError::new(e.to_string()))?;
    Ok(match held {
        HeldMount::Missing => Held::Missing,
        HeldMount::Busy => Held::Busy,
        HeldMount::Here { mount, used } => {
            let used = used.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
            let local = LocalMount { id: id.to_owned(), path: mount.path().to_path_buf(), used };
            Held::Here(mount, local)
        }
    })
}

fn descriptor(pack: &Pack) -> Descriptor {
    Descriptor::new(PACK_TYPE, pack.digest.clone(), pack.size)
}

async fn put(
    context: &ExportContext<'_>,
    place: &dyn MountPlace,
    pack: &Pack,
    id: &Digest,
) -> Result<Moved, CacheError> {
    let (store, digest) = (context.store.clone(), pack.digest.clone());
    let open = move || Ok(Box::new(store.open_blob(&digest).map_err(std::io::Error::other)?) as _);
    let blob = CacheBlob {
        descriptor: descriptor(pack),
        // A pack is not compressed as a whole: what is inside is the pack.
        diff_id: DiffId(pack.digest.clone()),
        created: SystemTime::now(),
        source: BlobSource::new(open),
        held_by: Vec::new(),
    };
    let what = format!("writing pack {}", pack.digest);
    let blob = &blob;
    cache::shown(context, id, what, pack.size, |progress| async move { place.put(blob, &progress).await }).await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CacheError> + Send + 'static,
) -> Result<T, CacheError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) => Err(CacheError::new(format!("internal error: {e}"))),
    }
}
