//! Layer 3: everything that is kept between builds.
//!
//! Owns the directory described in `docs/STATE.md`: content (blobs in an OCI layout), layers and their directories,
//! cache records, images, cache mounts, context indexes, leases and locks, and their collection. Only this module knows
//! file names inside the store. It refuses to know registries, ops and how steps run. Safe with several processes at
//! once, and after `kill -9` at any point. Start reading at [`Store`], then `meta`, `layer` and `mount`.
//!
//! All calls block; callers in async code use `spawn_blocking`.

mod archive_file;
mod blocks;
mod cache_mount;
mod company;
mod content;
mod context;
mod copy;
mod derive;
mod download;
mod error;
mod follow;
mod gc;
mod history;
mod housekeeping;
mod image;
mod layer;
mod layout;
mod lease;
mod lock;
mod memory;
mod meta;
mod mount;
mod part;
mod policy;
mod record;
mod reset;
mod snapshot;
mod stub;
mod sweep;
mod tree;
mod unpack;
mod usage;
mod whole;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::thread::JoinHandle;

use crate::archive::Places;
use crate::base::Events;
use crate::base::digest::hex;

pub use cache_mount::{CacheMount, HeldMount, Seed, Sharing};
pub use company::Company;
pub use content::BlobWriter;
pub use context::ContextIndex;
pub(crate) use copy::copy_any;
pub use download::Download;
pub use error::StoreError;
pub use follow::{Following, Written};
pub use gc::{PruneOptions, PruneReport};
pub use history::{BuildHistory, KeptBuild, MAX_STEP_LOG, StepLog};
pub use housekeeping::Housekeeping;
pub use image::{ImageRecord, NamesLock};
pub use layer::{AdoptedLayer, LayerBlob, LayerId, LayerRecord, NeededBlob, RemoteBlob};
pub use lease::Lease;
pub use mount::{MountRequest, Mounted};
pub use policy::{GcCaps, GcPolicy, GcRule, Space};
pub use record::{CacheRecord, KeyLock};
pub use reset::reset;
pub use stub::Stub;
pub use unpack::{ToUnpack, Unpacked, Unpacking};
pub use usage::{Filter, UsageKind, UsageRecord};

use layout::Layout;
use meta::Meta;
use snapshot::Snapshotter;
use sweep::{Janitor, Owner};

/// Which snapshotter to use (SPEC C5.20).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SnapshotterChoice {
    /// Overlay where a probe mount works, else native with one notice.
    #[default]
    Auto,
    /// Overlay mounts, or an error.
    Overlay,
    /// Whole trees and no mounts.
    Native,
}

/// How to open a store.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Which snapshotter.
    pub snapshotter: SnapshotterChoice,
    /// A private directory for mountpoints, best a tmpfs of the worker's mount namespace; inside the store if absent.
    pub mount_dir: Option<PathBuf>,
    /// Where notices go.
    pub events: Events,
}

impl StoreOptions {
    /// The defaults.
    #[must_use]
    pub fn new(events: Events) -> Self {
        Self { snapshotter: SnapshotterChoice::Auto, mount_dir: None, events }
    }
}

/// An open store. Cheap to clone; usable from any thread.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    layout: Layout,
    meta: Meta,
    options: StoreOptions,
    boot: String,
    /// Chosen at the first use: opening does not mount anything.
    snapshotter: Mutex<Option<Arc<dyn Snapshotter>>>,
    /// See [`Store::dialect`].
    dialect: OnceLock<String>,
    /// Whole trees that this process made, by the keys of their chains.
    fresh: Mutex<FreshTrees>,
    /// The lease of this process, if any.
    lease: Mutex<Weak<lease::LeaseInner>>,
    /// Deletes in the background.
    janitor: Janitor,
    /// This process's directory below `tmp`, made at the first use.
    owner: Mutex<Option<Arc<Owner>>>,
    /// Ends the store's creation.
    creating: Mutex<Option<JoinHandle<()>>>,
    /// This process has written a log, which makes the store larger and has no row.
    logged: Arc<AtomicBool>,
}

/// By the key of its chain: where the directories of a tree were before it was changed, if that is known.
type FreshTrees = HashMap<String, Option<Arc<Places>>>;

impl Inner {
    /// Waits for the end of the store's creation.
    fn created(&self) {
        let thread = self.creating.lock().unwrap_or_else(PoisonError::into_inner).take();
        // A panic is reported by then, and the next open completes the store.
        let _ = thread.map(JoinHandle::join);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.created();
    }
}

impl Store {
    /// Opens the store at `root`, creating it if the directory is missing or empty.
    ///
    /// # Errors
    /// If it was written by a newer version, is on a network file system, is damaged or cannot be written.
    pub fn open(root: &Path, options: &StoreOptions) -> Result<Self, StoreError> {
        let root = std::path::absolute(root).map_err(StoreError::io("resolve", root))?;
        let layout = Layout::new(&root);
        let creation = layout.open()?;
        let meta = match &creation {
            Some(_) => Meta::create(&root, &layout.meta())?,
            None => Meta::open(&root, &layout.meta())?,
        };
        let store = Self {
            inner: Arc::new(Inner {
                layout,
                meta,
                options: options.clone(),
                boot: meta::boot_id(),
                snapshotter: Mutex::new(None),
                dialect: OnceLock::new(),
                fresh: Mutex::default(),
                lease: Mutex::new(Weak::new()),
                janitor: Janitor::default(),
                owner: Mutex::new(None),
                creating: Mutex::new(None),
                logged: Arc::default(),
            }),
        };
        if let Some(creation) = creation {
            store.finish(creation)?;
        }
        store.sweep_dead_owners()?;
        Ok(store)
    }

    /// Ends the store's creation in the background: a build need not wait for the disk.
    fn finish(&self, creation: layout::Creation) -> Result<(), StoreError> {
        let events = self.inner.options.events.clone();
        let finish = move || {
            if let Err(error) = creation.finish() {
                events.notice("store-creation", format!("the next build has to complete the store: {error}"));
            }
        };
        let thread = std::thread::Builder::new().name("create".into()).spawn(finish);
        let thread = thread.map_err(StoreError::io("finish the creation of", self.root()))?;
        *self.inner.creating.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        Ok(())
    }

    /// The store's directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.inner.layout.root
    }

    /// Where the logs and reports of builds go: one directory per build.
    #[must_use]
    pub fn history_dir(&self) -> PathBuf {
        self.inner.layout.history()
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("root", &self.inner.layout.root).finish_non_exhaustive()
    }
}

/// A name that nobody else has: 80 random bits.
fn random_name() -> Result<String, StoreError> {
    let mut raw = [0_u8; 10];
    let source = Path::new("/dev/urandom");
    std::fs::File::open(source).and_then(|mut f| f.read_exact(&mut raw)).map_err(StoreError::io("read", source))?;
    Ok(hex(&raw))
}
