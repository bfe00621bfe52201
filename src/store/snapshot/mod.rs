//! The two ways to turn layers into a root file system and back (SPEC C5.20).
//!
//! `overlay` keeps one directory per layer and mounts them; `native` keeps one whole tree per chain and mounts nothing.
//! Both give byte-identical layers for the same change.

mod native;
mod overlay;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use rustix::mount::{MountFlags, UnmountFlags, mount_remount, unmount};

use crate::archive::{
    ApplySummary, ArchiveError, DiffStats, LayerWriter, Places, TarStream, Timestamp, TreeHints, TreeIndex,
};
use crate::base::Digest;

use super::content::BlobWriter;
use super::stub::{Placed, Stub};
use super::{LayerId, SnapshotterChoice, Store, StoreError};

pub(crate) use native::{Native, tells_changes};
pub(crate) use overlay::Overlay;

/// What is to be made visible.
pub(crate) struct ViewRequest<'a> {
    /// Layer directories bottom first, or one tree.
    pub(crate) dirs: &'a [PathBuf],
    /// The tree is in `scratch` as `fs` already, and nobody else's any more.
    pub(crate) taken: bool,
    pub(crate) writable: bool,
    pub(crate) stubs: &'a [Stub],
    /// A new empty directory for what the view needs; removed by the caller.
    pub(crate) scratch: &'a Path,
    /// Where to mount; does not exist yet.
    pub(crate) mountpoint: &'a Path,
}

/// A file system made visible.
#[derive(Debug)]
pub(crate) struct View {
    /// Where it can be used.
    pub(crate) root: PathBuf,
    /// What a commit keeps; `None` for read-only views.
    pub(crate) keep: Option<PathBuf>,
    /// To be unmounted.
    pub(crate) mounted: bool,
    /// Where each stub really is.
    pub(crate) stubs: Vec<PathBuf>,
    /// Stubs to be taken out of the tree.
    pub(crate) placed: Option<Placed>,
    /// When the tree was still exactly its parent, and where its directories were then.
    pub(crate) copied_at: Option<Timestamp>,
    pub(crate) places: Option<Arc<Places>>,
    /// Modification time of the root before anything was done in it. No layer has an entry for the root, so a commit
    /// sets it again: the directory would be another one than what its layer unpacks to.
    pub(crate) root_time: Option<(i64, i64)>,
}

/// What a directory is compared with.
#[derive(Debug, Default)]
pub(crate) struct Against {
    /// Layer directories bottom first, or one tree.
    pub(crate) dirs: Vec<PathBuf>,
    /// What layers put on top of the tree, bottom first.
    pub(crate) layers: Vec<TreeIndex>,
    pub(crate) hints: TreeHints,
}

/// One way to keep and show layers.
pub(crate) trait Snapshotter: Send + Sync + std::fmt::Debug {
    /// Recorded in the dialect of each directory.
    fn name(&self) -> &'static str;

    /// Whether a directory belongs to one layer, whatever is below it, and not to a whole chain.
    fn per_layer(&self) -> bool;

    /// Fills the empty directory `target` with a layer. `below` are the layer directories below it, bottom first, or
    /// the tree below it, if any.
    fn unpack(&self, tar: &mut dyn TarStream, target: &Path, below: &[PathBuf]) -> Result<ApplySummary, ArchiveError>;

    /// Prepares the empty directory `target` for [`Snapshotter::unpack`]: its own metadata, or the tree below.
    fn prepare(&self, target: &Path, below: &[PathBuf]) -> io::Result<()>;

    /// Makes a file system visible.
    fn view(&self, request: &ViewRequest<'_>) -> Result<View, StoreError>;

    /// Writes what `dir` changes on top of what is below it.
    fn pack(&self, dir: &Path, below: Against, out: &mut LayerWriter<BlobWriter>) -> Result<DiffStats, ArchiveError>;

    /// The name under which the directory for the top of `chain` is kept.
    fn key(&self, chain: &[LayerId]) -> String {
        let top = chain.last().map_or("", |id| id.0.as_str());
        if self.per_layer() || chain.len() == 1 {
            return top.to_owned();
        }
        let text: Vec<&str> = chain.iter().map(|id| id.0.as_str()).collect();
        format!("chain {}", Digest::sha256(text.join(" ")).hex())
    }
}

impl View {
    /// A view of `root` that needs no cleaning up.
    fn at(root: &Path) -> Self {
        let root = root.to_path_buf();
        Self {
            root,
            keep: None,
            mounted: false,
            stubs: Vec::new(),
            placed: None,
            copied_at: None,
            places: None,
            root_time: None,
        }
    }

    /// Makes what was written final: a step can hand descriptors of its files to another one (by a socket in a cache mount), or leave
    /// some with the kernel (a loop device), which would change a layer that has its key already. Whether it is final: otherwise
    /// somebody has files of it open still, and only a copy is nobody else's.
    pub(super) fn seal(&self) -> bool {
        if !self.mounted || self.keep.is_none() {
            return true;
        }
        for _ in 0..100 {
            match mount_remount(&self.root, MountFlags::RDONLY | MountFlags::NODEV, c"") {
                // The last process of a step may be on its way out.
                Err(rustix::io::Errno::BUSY) => std::thread::sleep(std::time::Duration::from_millis(5)),
                Ok(()) => return true,
                // Forbidden (a policy of the machine).
                Err(_) => return false,
            }
        }
        false
    }

    /// Unmounts and takes the stubs out. Afterwards what is to be kept is exactly what was written.
    pub(crate) fn release(&mut self) -> Result<(), StoreError> {
        if self.mounted {
            unmount_settled(&self.root)?;
            self.mounted = false;
        }
        if let Some(placed) = self.placed.take() {
            placed.remove().map_err(StoreError::io("remove the mountpoints of", &self.root))?;
        }
        Ok(())
    }
}

impl Drop for View {
    fn drop(&mut self) {
        if self.mounted {
            let _ = detach(&self.root);
        }
    }
}

/// Unmounts, waiting a little for a process that is just ending.
fn unmount_settled(path: &Path) -> Result<(), StoreError> {
    for _ in 0..50 {
        match unmount(path, UnmountFlags::NOFOLLOW) {
            Ok(()) => return Ok(()),
            Err(rustix::io::Errno::BUSY) => std::thread::sleep(std::time::Duration::from_millis(2)),
            Err(e) => return Err(StoreError::errno("unmount", path)(e)),
        }
    }
    detach(path).map_err(StoreError::io("unmount", path))
}

/// Takes a mount away at once, whoever still uses it.
pub(crate) fn detach(path: &Path) -> io::Result<()> {
    Ok(unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?)
}

impl Store {
    /// The snapshotter, chosen at the first call: `auto` mounts a small overlay to see whether that works here.
    pub(crate) fn snapshotter(&self) -> Result<Arc<dyn Snapshotter>, StoreError> {
        let mut chosen = self.inner.snapshotter.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(chosen) = &*chosen {
            return Ok(chosen.clone());
        }
        let new: Arc<dyn Snapshotter> = match self.inner.options.snapshotter {
            SnapshotterChoice::Native => Arc::new(Native),
            choice => match self.probe_overlay() {
                Ok(overlay) => Arc::new(overlay),
                Err(reason) if choice == SnapshotterChoice::Overlay => {
                    return Err(StoreError::NoOverlay { root: self.root().to_path_buf(), reason });
                }
                Err(reason) => {
                    self.inner.options.events.notice(
                        "native-snapshotter",
                        format!(
                            "overlay mounts do not work on {} ({reason}): using the native snapshotter, which keeps whole trees",
                            self.root().display()
                        ),
                    );
                    Arc::new(Native)
                }
            },
        };
        *chosen = Some(new.clone());
        Ok(new)
    }

    /// The name of the snapshotter in use: `overlay` or `native`.
    ///
    /// # Errors
    /// If overlay was asked for and does not work.
    pub fn snapshotter_name(&self) -> Result<&'static str, StoreError> {
        Ok(self.snapshotter()?.name())
    }

    /// A probe that succeeded holds for this boot, device and set of rights; one that failed is repeated.
    fn probe_overlay(&self) -> Result<Overlay, String> {
        Overlay::allowed()?;
        let name = self.probe_name();
        let meta = &self.inner.meta;
        let known = meta.read("look up a probe", |c| super::meta::setting(c, &name)).map_err(|e| e.to_string())?;
        if let Some(overlay) = known.and_then(Overlay::from_number) {
            return Ok(overlay);
        }
        let scratch = self.owner().and_then(|owner| owner.dir("probe")).map_err(|e| e.to_string())?;
        let result = Overlay::probe(&scratch);
        self.inner.janitor.remove(scratch);
        let overlay = result?;
        // Only a hint, so an error does not matter.
        let _ = meta.write("keep a probe", |tx| {
            tx.execute("DELETE FROM settings WHERE name LIKE 'overlay %'", [])?;
            Ok(super::meta::set_setting(tx, &name, overlay.number())?)
        });
        Ok(overlay)
    }

    fn probe_name(&self) -> String {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let rights: Vec<&str> = status
            .lines()
            .filter(|line| ["Uid:", "CapEff:", "Seccomp:"].iter().any(|key| line.starts_with(key)))
            .collect();
        let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        let device = rustix::fs::stat(self.root()).map_or(0, |stat| stat.st_dev);
        let all = format!("{} {device} {map} {}", self.inner.boot, rights.join(" "));
        format!("overlay {}", Digest::sha256(all).hex())
    }

    /// What a directory must have been made with to be usable now: the snapshotter, and the id map, without which its
    /// owners and whiteouts mean something else.
    pub(crate) fn dialect(&self) -> Result<String, StoreError> {
        if let Some(dialect) = self.inner.dialect.get() {
            return Ok(dialect.clone());
        }
        let map = |path: &str| -> String {
            let text = fs::read_to_string(path).unwrap_or_default();
            let extents = text.lines().map(|line| {
                let words: Vec<&str> = line.split_ascii_whitespace().collect();
                // The whole range, with and without its last id, is the same for us.
                words.join(":").replace("4294967294", "4294967295")
            });
            extents.collect::<Vec<_>>().join(",")
        };
        // Inside nested namespaces equal maps can mean different ids; how the store's own owner looks tells them apart.
        let stat = rustix::fs::stat(self.root()).map_err(StoreError::errno("examine", self.root()))?;
        let dialect = format!(
            "{} uid={} gid={} owner={}:{}",
            self.snapshotter()?.name(),
            map("/proc/self/uid_map"),
            map("/proc/self/gid_map"),
            stat.st_uid,
            stat.st_gid
        );
        Ok(self.inner.dialect.get_or_init(|| dialect).clone())
    }
}
