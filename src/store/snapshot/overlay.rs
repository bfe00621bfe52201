//! Overlay mounts: a layer is a directory, a step's change is the upper.
//!
//! Facts this rests on (kernel 6.18, ext4, in a user namespace): without `userxattr` the mount succeeds but renaming a
//! lower directory gives EIO; `volatile` saves the fsyncs and forbids to reuse a work directory, so each mount has a
//! fresh one; a value passed to `fsconfig` is at most 255 bytes; a read-only overlay needs two lowers; 500 lowers are
//! the limit; upper on overlay is EINVAL, on tmpfs fine.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{CWD, Mode, OFlags, lgetxattr};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount, mount_remount, move_mount, open_tree,
};

use crate::archive::{
    ApplyOptions, ApplySummary, ArchiveError, Dialect, DiffStats, LayerWriter, TarStream, apply, diff_overlay,
};
use crate::base::file::open_dir;
use crate::store::StoreError;
use crate::store::content::BlobWriter;
use crate::store::copy::copy_metadata;
use crate::store::stub::{Plan, Stub, root_mtime};

use super::native::empty_root;
use super::{Against, Snapshotter, View, ViewRequest, detach};

/// What the kernel takes.
const MAX_LOWERS: usize = 500;

/// How overlay file systems can be mounted here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Api {
    /// `fsopen` and one `lowerdir+` per layer (kernel 6.8).
    Fsconfig,
    /// `mount(2)` with all directories in one option string.
    Mount,
}

/// The snapshotter that mounts.
#[derive(Debug)]
pub(crate) struct Overlay {
    api: Api,
    /// Mountpoints of the views made last: most steps change nothing about them.
    known: Mutex<Vec<Arc<Mountpoints>>>,
}

/// What goes into one mount.
struct Layers<'a> {
    /// Bottom first.
    lowers: &'a [PathBuf],
    /// Upper and work directory.
    upper: Option<(&'a Path, &'a Path)>,
}

impl Overlay {
    fn new(api: Api) -> Self {
        Self { api, known: Mutex::default() }
    }

    /// Whether the kernel lets this process make a file system at all. Costs nothing.
    pub(crate) fn allowed() -> Result<(), String> {
        match fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC) {
            // Without the call there may still be the old one; the probe will tell.
            Ok(_) | Err(Errno::NOSYS) => Ok(()),
            Err(e) => Err(format!("fsopen: {e}")),
        }
    }

    /// A probe's result as kept in the metadata.
    pub(crate) fn number(&self) -> i64 {
        match self.api {
            Api::Fsconfig => 1,
            Api::Mount => 2,
        }
    }

    /// The reverse of [`Overlay::number`].
    pub(crate) fn from_number(number: i64) -> Option<Self> {
        let api = match number {
            1 => Api::Fsconfig,
            2 => Api::Mount,
            _ => return None,
        };
        Some(Self::new(api))
    }

    /// Mounts a small overlay below `scratch` and does there what steps do. The error says what failed.
    pub(crate) fn probe(scratch: &Path) -> Result<Self, String> {
        let make = |name: &str| -> io::Result<PathBuf> {
            let path = scratch.join(name);
            fs::create_dir(&path)?;
            Ok(path)
        };
        let prepare = || -> io::Result<Vec<PathBuf>> {
            let dirs: Vec<PathBuf> =
                ["l1", "l2", "upper", "work", "merged"].iter().map(|n| make(n)).collect::<Result<_, _>>()?;
            fs::create_dir_all(dirs[0].join("dir/sub"))?;
            fs::write(dirs[1].join("file"), "x")?;
            Ok(dirs)
        };
        let dirs = prepare().map_err(|e| format!("cannot prepare a test mount: {e}"))?;
        let (lowers, merged) = (&dirs[..2], &dirs[4]);
        let layers = Layers { lowers, upper: Some((&dirs[2], &dirs[3])) };
        let (api, fs) = match detached(&layers) {
            Ok(fs) => (Api::Fsconfig, Some(fs)),
            Err(first) => {
                mount_old(&layers, merged, false).map_err(|_| first.to_string())?;
                (Api::Mount, None)
            }
        };
        if let Some(fs) = &fs {
            attach(fs, merged).map_err(|e| e.to_string())?;
        }
        // Deleting a lower directory and making it again is what fails without working `user.*` attributes.
        let tried = (|| -> io::Result<bool> {
            fs::remove_dir_all(merged.join("dir"))?;
            fs::create_dir(merged.join("dir"))?;
            fs::remove_file(merged.join("file"))?;
            Ok(fs::symlink_metadata(dirs[2].join("file"))?.file_type().is_char_device()
                && fs::read_dir(merged.join("dir"))?.next().is_none())
        })();
        drop(fs);
        let _ = detach(merged);
        match tried {
            Ok(true) => Ok(Self::new(api)),
            Ok(false) => Err("deletions are not recorded".into()),
            Err(e) => Err(format!("deleting in a test mount: {e}")),
        }
    }

    /// Mounts at `target`.
    fn mount(&self, layers: &Layers<'_>, target: &Path) -> Result<(), StoreError> {
        if layers.lowers.len() > MAX_LOWERS {
            return Err(StoreError::Mount {
                what: format!("{} layers at {}", layers.lowers.len(), target.display()),
                reason: format!("overlay takes at most {MAX_LOWERS}"),
                source: io::Error::from(Errno::INVAL),
            });
        }
        match self.api {
            Api::Fsconfig => attach(&detached(layers)?, target),
            Api::Mount => mount_old(layers, target, layers.upper.is_none()),
        }
    }
}

/// How many layers of mountpoints are remembered.
const KNOWN: usize = 32;

/// What was found out about the mountpoints of a view.
#[derive(Debug)]
struct Mountpoints {
    /// The layers they were looked for in.
    lowers: Vec<PathBuf>,
    stubs: Vec<Stub>,
    /// Where each of them really is.
    resolved: Vec<PathBuf>,
    /// What that depends on, relative.
    visited: BTreeSet<PathBuf>,
    /// A layer with those that are missing.
    dir: Option<PathBuf>,
}

impl Mountpoints {
    /// Whether `layer` has anything at a path that decided where the mountpoints are.
    fn touched_by(&self, layer: &Path) -> bool {
        if lgetxattr(layer, "user.overlay.opaque", &mut [0_u8; 2]).is_ok() {
            return true;
        }
        // Something that cannot be looked at is better looked for again.
        let absent = |path: &PathBuf| matches!(fs::symlink_metadata(layer.join(path)), Err(e) if e.kind() == io::ErrorKind::NotFound);
        !self.visited.iter().all(absent)
    }

    fn is_there(&self) -> bool {
        self.dir.as_ref().is_none_or(|dir| dir.is_dir())
    }
}

impl Snapshotter for Overlay {
    fn name(&self) -> &'static str {
        "overlay"
    }

    fn per_layer(&self) -> bool {
        true
    }

    fn prepare(&self, target: &Path, below: &[PathBuf]) -> io::Result<()> {
        match below.last() {
            Some(top) => {
                let (from, to) = (open_dir(top)?, open_dir(target)?);
                copy_metadata(from.as_fd(), to.as_fd())
            }
            None => empty_root(target),
        }
    }

    fn unpack(&self, tar: &mut dyn TarStream, target: &Path, below: &[PathBuf]) -> Result<ApplySummary, ArchiveError> {
        apply(tar, target, Dialect::Overlay, below, &ApplyOptions::default())
    }

    fn view(&self, request: &ViewRequest<'_>) -> Result<View, StoreError> {
        let scratch = request.scratch;
        let new_dir = |name: &str| -> Result<PathBuf, StoreError> {
            let path = scratch.join(name);
            fs::create_dir(&path).map_err(StoreError::io("create", &path))?;
            Ok(path)
        };
        let mut lowers = request.dirs.to_vec();
        if lowers.is_empty() {
            let empty = new_dir("empty")?;
            empty_root(&empty).map_err(StoreError::io("prepare", &empty))?;
            lowers.push(empty);
        }
        let image = lowers.clone();
        let mut stubs = Vec::new();
        if !request.stubs.is_empty() {
            let found = self.mountpoints(&lowers, request)?;
            lowers.extend(found.dir.clone());
            stubs.clone_from(&found.resolved);
        }
        let mountpoint = request.mountpoint;
        fs::create_dir(mountpoint).map_err(StoreError::io("create", mountpoint))?;
        let (mut keep, mut root_time) = (None, None);
        if request.writable {
            let (upper, work) = (new_dir("fs")?, new_dir("work")?);
            // The root of the merged view is the upper's root: it looks like the image's.
            self.prepare(&upper, &image).map_err(StoreError::io("prepare", &upper))?;
            root_time = Some(root_mtime(&upper)?);
            self.mount(&Layers { lowers: &lowers, upper: Some((&upper, &work)) }, mountpoint)?;
            keep = Some(upper);
        } else if let [only] = lowers.as_slice() {
            bind_read_only(only, mountpoint)?;
        } else {
            self.mount(&Layers { lowers: &lowers, upper: None }, mountpoint)?;
        }
        let mut view = View::at(mountpoint);
        view.keep = keep;
        view.root_time = root_time;
        view.mounted = true;
        view.stubs = stubs;
        Ok(view)
    }

    fn pack(&self, dir: &Path, below: Against, out: &mut LayerWriter<BlobWriter>) -> Result<DiffStats, ArchiveError> {
        diff_overlay(dir, &below.dirs, out)
    }
}

impl Overlay {
    /// The layer of mountpoints for `request` above `lowers`: that of the step before, unless the layer since then
    /// touches one of them.
    fn mountpoints(&self, lowers: &[PathBuf], request: &ViewRequest<'_>) -> Result<Arc<Mountpoints>, StoreError> {
        let lock = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (top, below) = lowers.split_last().ok_or_else(|| StoreError::Misuse("a view of nothing".into()))?;
        let found = lock().iter().rev().find_map(|known| {
            let same = known.lowers == lowers || known.lowers == below && !known.touched_by(top);
            (same && known.stubs == request.stubs && known.is_there()).then(|| Arc::clone(known))
        });
        let (resolved, visited, dir) = match found {
            Some(known) if known.lowers == lowers => return Ok(known),
            Some(known) => (known.resolved.clone(), known.visited.clone(), known.dir.clone()),
            None => self.with_merged(lowers, request.scratch, |root| {
                let plan = Plan::new(root, request.stubs)?;
                if plan.is_empty() {
                    return Ok((plan.resolved, plan.visited, None));
                }
                // Beside the view and not in it: others use it too.
                let name = request.scratch.file_name().unwrap_or_default().to_string_lossy();
                let dir = request.scratch.with_file_name(format!("{name}-mountpoints"));
                fs::create_dir(&dir).map_err(StoreError::io("create", &dir))?;
                plan.make_layer(root, &dir).map_err(StoreError::io("make mountpoints in", &dir))?;
                Ok((plan.resolved, plan.visited, Some(dir)))
            })?,
        };
        let (lowers, stubs) = (lowers.to_vec(), request.stubs.to_vec());
        let new = Arc::new(Mountpoints { lowers, stubs, resolved, visited, dir });
        let mut known = lock();
        if known.len() == KNOWN {
            known.remove(0);
        }
        known.push(Arc::clone(&new));
        Ok(new)
    }

    /// Calls `body` with the root of a read-only view over `lowers` that is mounted nowhere.
    fn with_merged<T>(
        &self,
        lowers: &[PathBuf],
        scratch: &Path,
        body: impl FnOnce(BorrowedFd<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        if let [only] = lowers {
            return body(open_dir(only).map_err(StoreError::io("open", only))?.as_fd());
        }
        let layers = Layers { lowers, upper: None };
        if self.api == Api::Fsconfig {
            let root = detached(&layers)?;
            // The mount's descriptor is O_PATH; directories below are opened for reading.
            return body(root.as_fd());
        }
        let at = scratch.join("look");
        fs::create_dir(&at).map_err(StoreError::io("create", &at))?;
        mount_old(&layers, &at, true)?;
        let result = open_dir(&at).map_err(StoreError::io("open", &at)).and_then(|root| body(root.as_fd()));
        let _ = detach(&at);
        result
    }
}

/// A value for `fsconfig`, which takes no more than 255 bytes: a long path goes through a descriptor.
struct Short {
    value: OsString,
    _fd: Option<OwnedFd>,
}

fn short(path: &Path, limit: usize) -> Result<Short, StoreError> {
    if path.as_os_str().len() <= limit {
        return Ok(Short { value: path.as_os_str().to_owned(), _fd: None });
    }
    let fd = rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(StoreError::errno("open", path))?;
    Ok(Short { value: format!("/proc/self/fd/{}", fd.as_raw_fd()).into(), _fd: Some(fd) })
}

/// Creates an overlay file system that is mounted nowhere yet.
fn detached(layers: &Layers<'_>) -> Result<OwnedFd, StoreError> {
    const LIMIT: usize = 255;
    let what = || format!("an overlay of {} layers", layers.lowers.len());
    let fail = |step: &str, fs: Option<&OwnedFd>, source: Errno| StoreError::Mount {
        what: what(),
        reason: format!("{step}: {}", fs.and_then(kernel_says).unwrap_or_else(|| source.to_string())),
        source: source.into(),
    };
    let fs = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(|e| fail("fsopen", None, e))?;
    let mut held = Vec::with_capacity(layers.lowers.len() + 2);
    let mut set = |key: &str, path: &Path| -> Result<(), StoreError> {
        let short = short(path, LIMIT)?;
        fsconfig_set_string(&fs, key, short.value.as_os_str()).map_err(|e| fail(key, Some(&fs), e))?;
        held.push(short);
        Ok(())
    };
    // Topmost first.
    for lower in layers.lowers.iter().rev() {
        set("lowerdir+", lower)?;
    }
    if let Some((upper, work)) = layers.upper {
        set("upperdir", upper)?;
        set("workdir", work)?;
    }
    let flags: &[&str] = if layers.upper.is_some() { &["userxattr", "volatile"] } else { &["userxattr"] };
    for flag in flags {
        fsconfig_set_flag(&fs, *flag).map_err(|e| fail(flag, Some(&fs), e))?;
    }
    fsconfig_create(&fs).map_err(|e| fail("create", Some(&fs), e))?;
    // Device nodes an image brings along are files like others; without a device cgroup they must not open anything.
    let mut attributes = MountAttrFlags::MOUNT_ATTR_NODEV;
    if layers.upper.is_none() {
        attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY;
    }
    fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(|e| fail("fsmount", Some(&fs), e))
}

fn attach(mount: &OwnedFd, target: &Path) -> Result<(), StoreError> {
    move_mount(mount, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).map_err(|e| StoreError::Mount {
        what: format!("an overlay at {}", target.display()),
        reason: e.to_string(),
        source: e.into(),
    })
}

/// The first message the kernel left in the file system context's log, e.g. `overlayfs: limit is 500`.
fn kernel_says(fs: &OwnedFd) -> Option<String> {
    let mut buffer = [0_u8; 1024];
    let length = rustix::io::read(fs, &mut buffer).ok()?;
    let text = String::from_utf8_lossy(&buffer[..length]);
    // Lines begin with their severity: "e overlay: …".
    let text = text.trim().trim_start_matches(['e', 'w', 'i']).trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// `mount(2)` for kernels before `lowerdir+`. All directories go through descriptors: the option string is limited to
/// one page, and their paths could contain colons and commas.
fn mount_old(layers: &Layers<'_>, target: &Path, read_only: bool) -> Result<(), StoreError> {
    let fail = |source: Errno| StoreError::Mount {
        what: format!("an overlay of {} layers at {}", layers.lowers.len(), target.display()),
        reason: source.to_string(),
        source: source.into(),
    };
    let mut held = Vec::new();
    let mut name = |path: &Path| -> Result<String, StoreError> {
        let short = short(path, 0)?;
        let value = short.value.to_string_lossy().into_owned();
        held.push(short);
        Ok(value)
    };
    let lowers: Vec<String> = layers.lowers.iter().rev().map(|l| name(l)).collect::<Result<_, _>>()?;
    let mut options = format!("lowerdir={},userxattr", lowers.join(":"));
    if let Some((upper, work)) = layers.upper {
        options.push_str(&format!(",upperdir={},workdir={},volatile", name(upper)?, name(work)?));
    }
    let options = std::ffi::CString::new(options).map_err(|_| fail(Errno::INVAL))?;
    let flags = if read_only { MountFlags::RDONLY | MountFlags::NODEV } else { MountFlags::NODEV };
    mount("overlay", target, "overlay", flags, options.as_c_str()).map_err(fail)
}

/// Shows `dir` at `target`, not writable.
fn bind_read_only(dir: &Path, target: &Path) -> Result<(), StoreError> {
    let fail = |source: Errno| StoreError::Mount {
        what: format!("{} at {}", dir.display(), target.display()),
        reason: source.to_string(),
        source: source.into(),
    };
    let tree = open_tree(CWD, dir, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC).map_err(fail)?;
    move_mount(&tree, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).map_err(fail)?;
    // Flags the parent namespace locked must be named again, or the remount is refused.
    let locked = rustix::fs::statvfs(target).map_err(fail)?.f_flag;
    let mut flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NODEV;
    for (has, flag) in [
        (rustix::fs::StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        (rustix::fs::StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
        (rustix::fs::StatVfsMountFlags::NOATIME, MountFlags::NOATIME),
        (rustix::fs::StatVfsMountFlags::NODIRATIME, MountFlags::NODIRATIME),
        (rustix::fs::StatVfsMountFlags::RELATIME, MountFlags::RELATIME),
    ] {
        if locked.contains(has) {
            flags |= flag;
        }
    }
    if let Err(e) = mount_remount(target, flags, "") {
        let _ = detach(target);
        return Err(fail(e));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::{overlay_store, skip};

    #[test]
    fn both_ways_to_mount_do_the_same() {
        if overlay_store().is_none() {
            return;
        }
        for api in [Api::Fsconfig, Api::Mount] {
            let dir = tempfile::tempdir().expect("a temporary directory");
            let overlay = Overlay::new(api);
            let dirs: Vec<PathBuf> = (0..40).map(|i| dir.path().join(format!("a,b:c{i}"))).collect();
            for (i, layer) in dirs.iter().enumerate() {
                fs::create_dir(layer).expect("creates");
                fs::write(layer.join("same"), i.to_string()).expect("writes");
                fs::write(layer.join(format!("only{i}")), "x").expect("writes");
            }
            let scratch = dir.path().join("scratch");
            fs::create_dir(&scratch).expect("creates");
            let stub = crate::store::Stub { path: "/run/x".into(), dir: true };
            let request = ViewRequest {
                dirs: &dirs,
                taken: false,
                writable: true,
                stubs: std::slice::from_ref(&stub),
                scratch: &scratch,
                mountpoint: &dir.path().join("mnt"),
            };
            let mut view = overlay.view(&request).expect("mounts");
            assert_eq!(fs::read_to_string(view.root.join("same")).expect("reads"), "39", "{api:?}: the last is on top");
            assert_eq!(fs::read_dir(&view.root).expect("lists").count(), 42, "{api:?}");
            fs::write(view.root.join("new"), "x").expect("writes");
            fs::remove_file(view.root.join("only0")).expect("removes");
            if rustix::process::geteuid().is_root() {
                let node = view.root.join("null");
                let (kind, mode) = (rustix::fs::FileType::CharacterDevice, Mode::RUSR | Mode::WUSR);
                match rustix::fs::mknodat(CWD, &node, kind, mode, rustix::fs::makedev(1, 3)) {
                    Ok(()) => assert!(fs::File::open(&node).is_err(), "{api:?}: devices of an image must not open"),
                    Err(e) => skip(&format!("mknod: {e}")),
                }
            }
            view.release().expect("unmounts");
            let keep = view.keep.clone().expect("is kept");
            assert!(keep.join("new").is_file() && !keep.join("run").exists());
            assert!(fs::symlink_metadata(keep.join("only0")).expect("is a whiteout").file_type().is_char_device());
        }
    }

    /// Where the mountpoints of a chain of layers are, each layer made by a step in what is visible then; and how often
    /// they had to be looked for.
    fn chain_of_mountpoints(steps: &[fn(&Path)]) -> Option<(Vec<Vec<PathBuf>>, usize)> {
        overlay_store()?;
        let dir = tempfile::tempdir().expect("a temporary directory");
        let owner = dir.path().join("owner");
        fs::create_dir(&owner).expect("creates");
        let stubs = [Stub { path: "/etc/hosts".into(), dir: false }, Stub { path: "/proc".into(), dir: true }];
        let overlay = Overlay::new(Api::Fsconfig);
        let (mut dirs, mut seen) = (Vec::new(), Vec::new());
        for (i, step) in steps.iter().enumerate() {
            let (scratch, mountpoint) = (owner.join(format!("view{i}")), dir.path().join(format!("mnt{i}")));
            fs::create_dir(&scratch).expect("creates");
            let request = ViewRequest {
                dirs: &dirs,
                taken: false,
                writable: true,
                stubs: &stubs,
                scratch: &scratch,
                mountpoint: &mountpoint,
            };
            let mut view = overlay.view(&request).expect("mounts");
            // What a step sees must not depend on what was remembered.
            let fresh_scratch = owner.join(format!("fresh{i}"));
            fs::create_dir(&fresh_scratch).expect("creates");
            let (at, fresh) = (dir.path().join(format!("other{i}")), Overlay::new(Api::Fsconfig));
            let mut other =
                fresh.view(&ViewRequest { scratch: &fresh_scratch, mountpoint: &at, ..request }).expect("mounts");
            assert_eq!(view.stubs, other.stubs, "step {i}");
            for (stub, at) in stubs.iter().zip(&view.stubs) {
                let at = view.root.join(at.strip_prefix("/").expect("is absolute"));
                assert_eq!(at.symlink_metadata().expect("is there").is_dir(), stub.dir, "step {i}: {}", at.display());
            }
            for name in ["", "etc"] {
                use std::os::unix::fs::MetadataExt;
                let meta = |root: &Path| fs::symlink_metadata(root.join(name)).map(|m| (m.mode(), m.mtime()));
                assert_eq!(meta(&view.root).ok(), meta(&other.root).ok(), "step {i}: /{name}");
            }
            other.release().expect("unmounts");
            seen.push(view.stubs.clone());
            step(&view.root);
            view.release().expect("unmounts");
            dirs.push(view.keep.clone().expect("is kept"));
        }
        let made = fs::read_dir(&owner).expect("lists").flatten().map(|e| e.file_name().to_string_lossy().into_owned());
        let made = made.filter(|name| name.starts_with("view") && name.ends_with("-mountpoints")).count();
        Some((seen, made))
    }

    #[test]
    fn mountpoints_are_looked_for_again_when_a_step_moves_them() {
        use std::os::unix::fs::symlink;
        let steps: [fn(&Path); 6] = [
            |root| fs::write(root.join("a"), "").expect("writes"),
            |root| fs::create_dir(root.join("etc2")).expect("creates"),
            |root| {
                fs::remove_dir_all(root.join("etc")).expect("removes");
                symlink("link", root.join("etc")).expect("links");
                symlink("etc2", root.join("link")).expect("links");
            },
            |root| fs::write(root.join("b"), "").expect("writes"),
            |root| {
                fs::remove_file(root.join("link")).expect("removes");
                fs::create_dir(root.join("etc3")).expect("creates");
                symlink("etc3", root.join("link")).expect("links");
            },
            |_| {},
        ];
        let Some((seen, made)) = chain_of_mountpoints(&steps) else { return };
        let hosts: Vec<&Path> = seen.iter().map(|paths| paths[0].as_path()).collect();
        let expected = ["/etc/hosts", "/etc/hosts", "/etc/hosts", "/etc2/hosts", "/etc2/hosts", "/etc3/hosts"];
        assert_eq!(hosts, expected.map(Path::new));
        // On nothing, on the first layer, after the links came, and after one was turned.
        assert_eq!(made, 4);
    }

    #[test]
    fn too_many_layers_are_refused_in_words() {
        let dirs = vec![PathBuf::from("/nonexistent"); 501];
        let error = Overlay::new(Api::Fsconfig)
            .mount(&Layers { lowers: &dirs, upper: None }, Path::new("/nonexistent"))
            .expect_err("too many");
        assert!(error.to_string().contains("at most 500"), "{error}");
    }
}
