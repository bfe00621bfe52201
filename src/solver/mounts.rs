//! Cache mounts of other machines: a mount that is not here yet is filled from a cache that has it. Whatever goes wrong is
//! a warning, and the mount begins empty.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, Shared};
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};

use super::{Solver, lock};
use crate::base::Digest;
use crate::cache::import::Place;
use crate::cache::mounts::{self, Document, MountChoice, PACK_TYPE, Pack, SavedMount, restore};
use crate::oci::Descriptor;
use crate::store::RemoteBlob;

/// Packs on their way at a time.
const PARALLEL: usize = 4;

/// How long a pack may take, some megabytes: what comes slower than that is fetched sooner from where it was made.
const DEADLINE: Duration = Duration::from_secs(60);

/// What one cache has.
#[derive(Debug, Clone)]
pub struct SavedMounts {
    /// The cache, for messages.
    pub title: String,
    /// Where its packs are.
    pub place: Place,
    /// Which of its mounts were asked for.
    pub wanted: MountChoice,
    /// Its mounts.
    pub document: Document,
}

/// What the caches have, on its way or there. Waiting for it ends: whoever makes this has a deadline.
pub type LoadingMounts = Shared<BoxFuture<'static, Arc<Vec<SavedMounts>>>>;

impl Solver {
    /// The cache mounts that steps opened, by their ids.
    #[must_use]
    pub fn opened_mounts(&self) -> BTreeSet<String> {
        lock(&self.opened).clone()
    }

    /// Makes `dir` and fills it with the mount `id` of the first cache that has it; nothing is there otherwise.
    pub(super) async fn restore_mount(self: &Arc<Self>, vertex: &Digest, id: &str, dir: &Path) {
        let Some(loading) = self.env.mounts.clone() else { return };
        for saved in loading.await.iter().filter(|saved| saved.wanted.wants(id)) {
            let Some(mount) = saved.document.mount(id) else { continue };
            let restored = tokio::select! {
                restored = self.restore_from(vertex, saved, mount, dir) => restored,
                () = self.env.cancel.cancelled() => return,
            };
            match restored {
                Ok(()) => return,
                Err(reason) => {
                    let (id, title) = (mounts::shown(id), &saved.title);
                    self.env.events.warning(format!("cache mount {id} is not restored from {title}: {reason}"));
                }
            }
        }
    }

    async fn restore_from(
        self: &Arc<Self>,
        vertex: &Digest,
        saved: &SavedMounts,
        mount: &SavedMount,
        dir: &Path,
    ) -> Result<(), String> {
        let item = format!("restoring cache mount {}", mounts::shown(&mount.id));
        let packs = saved.document.packs_of(mount);
        let total = packs.iter().map(|pack| pack.size).sum();
        self.env.events.progress(vertex, item.clone(), 0, Some(total), false);
        let fetches = packs.into_iter().map(|pack| self.fetch_pack(&saved.place, pack));
        let fetched: Result<Vec<Option<Digest>>, String> =
            stream::iter(fetches).buffer_unordered(PARALLEL).try_collect().await;
        let fresh: Vec<Digest> = fetched?.into_iter().flatten().collect();
        let (store, document, mount) = (self.env.store.clone(), saved.document.clone(), mount.clone());
        // Half a mount must not be taken for a whole one.
        let (dir, half) = (dir.to_owned(), dir.with_extension("half"));
        let work = tokio::task::spawn_blocking(move || {
            std::fs::create_dir(&half).map_err(|e| e.to_string())?;
            let open = |digest: &Digest| store.open_blob(digest).map_err(std::io::Error::other);
            let restored = restore::restore(&document, &mount, &half, &open).map_err(|e| e.to_string());
            for digest in &fresh {
                // Otherwise it is collected, sooner or later.
                let _ = store.discard_blob(digest);
            }
            match restored.and_then(|notes| std::fs::rename(&half, &dir).map(|()| notes).map_err(|e| e.to_string())) {
                Ok(notes) => Ok(notes),
                Err(reason) => {
                    let _ = std::fs::remove_dir_all(&half);
                    Err(reason)
                }
            }
        });
        let notes = work.await.map_err(|e| format!("internal error: {e}"))??;
        if let Some(note) = notes.first() {
            let (path, more) = (note.path.display(), notes.iter().map(|n| n.count).sum::<u64>() - 1);
            let text = format!("{item}: {path} is not as it was saved ({:?}; {more} more)", note.kind);
            self.env.events.warning(text);
        }
        self.env.events.progress(vertex, item, total, Some(total), true);
        Ok(())
    }

    /// Gives the digest of a pack that was not here before.
    async fn fetch_pack(&self, place: &Place, pack: &Pack) -> Result<Option<Digest>, String> {
        let descriptor = Descriptor::new(PACK_TYPE, pack.digest.clone(), pack.size);
        if self.env.store.has_blob(&pack.digest).map_err(|e| e.to_string())?.is_some() {
            return Ok(None);
        }
        let remote = RemoteBlob {
            host: place.host.clone(),
            repository: place.repository.clone(),
            descriptor: descriptor.clone(),
        };
        let remotes = [remote];
        let fetch = self.env.images.ensure_blob(&descriptor, &remotes, None);
        let fetched = tokio::time::timeout(DEADLINE, fetch).await;
        let slow = |_| format!("pack {} did not come within {} seconds", pack.digest.short(), DEADLINE.as_secs());
        fetched.map_err(slow)?.map_err(|e| e.to_string())?;
        Ok(Some(pack.digest.clone()))
    }
}
