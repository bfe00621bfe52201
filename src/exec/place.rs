//! Mounts without mount(2): what a step is to see is put into its root before it runs and taken out afterwards.
//!
//! For each mount the thing at its target is renamed out of the tree, and a copy, a new directory or (for cache mounts)
//! the directory itself is put there. Afterwards everything is renamed back, and directories whose time nobody else
//! changed get their old one, so that the layer is what it would be with mounts. What was put in and is not wanted any
//! more stays aside, where the view's owner deletes it.
//!
//! What this cannot do: read-only binds are copies that can be written (nothing of it is kept), and sizes of tmpfs mounts
//! are not enforced.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rootless::step::{Emulation, StepMount};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;

use crate::base::file::{open_dir, open_in_root};
use crate::base::owner;
use crate::store::{CacheMount, copy_any};

/// Why mounts could not be put in place or taken out.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// The file system refused.
    #[error("cannot put {target} in place without mounting: {source}", target = target.display())]
    Io {
        /// The mount's target.
        target: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// What a mount would have refused.
    #[error("the step removed or moved {target}, which is a cache mount; its content is lost", target = target.display())]
    Lost {
        /// The mount's target.
        target: PathBuf,
    },
}

/// A directory by the one above it and its name.
type MadeDir = (OwnedFd, OsString);

/// The things put into one root. Dropping it takes them out as well.
pub(super) struct Placement<'a> {
    root: OwnedFd,
    root_path: PathBuf,
    aside: PathBuf,
    lent: &'a [&'a CacheMount],
    items: Vec<Item<'a>>,
}

struct Item<'a> {
    target: PathBuf,
    parent: OwnedFd,
    name: OsString,
    /// Of what was put there.
    inode: u64,
    /// Where the original is.
    original: Option<PathBuf>,
    /// Directories made for a target that was not there, deepest last.
    made: Vec<MadeDir>,
    /// Times of the parent before and after.
    before: (i64, i64),
    after: (i64, i64),
    cache: Option<&'a CacheMount>,
    /// Overwritten when it is taken out: it may be a secret.
    file: bool,
    _relay: Option<Relay>,
}

impl<'a> Placement<'a> {
    /// Puts `mounts` (parents first) into `root`, after `/dev`, `/proc` and `/sys`. `aside` is an empty directory on the
    /// same file system; sources among `lent` are moved and not copied.
    pub(super) fn new(
        root: &Path,
        aside: &Path,
        mounts: &[StepMount],
        lent: &'a [&'a CacheMount],
        emulation: Emulation,
    ) -> Result<Self, PlaceError> {
        let fail = |target: &Path| {
            let target = target.to_path_buf();
            move |source| PlaceError::Io { target, source }
        };
        let dir = open_dir(root).map_err(fail(Path::new("/")))?;
        let root_path = real_path(dir.as_fd()).map_err(fail(Path::new("/")))?;
        let mut placement = Self { root: dir, root_path, aside: aside.to_path_buf(), lent, items: Vec::new() };
        for target in ["/dev", "/proc", "/sys"] {
            let new = placement.aside_name("new");
            let furnish = match target {
                "/dev" => rootless::furnish_dev,
                "/proc" if matches!(emulation, Emulation::Proc | Emulation::Paths) => rootless::furnish_proc,
                _ => |dir: &Path| fs::set_permissions(dir, fs::Permissions::from_mode(0o555)),
            };
            let target = Path::new(target);
            fs::create_dir(&new).and_then(|()| furnish(&new)).map_err(fail(target))?;
            placement.put(target, Some(&new), None).map_err(fail(target))?;
        }
        for mount in mounts {
            placement.mount(mount).map_err(fail(mount.target()))?;
        }
        Ok(placement)
    }

    fn aside_name(&self, what: &str) -> PathBuf {
        self.aside.join(format!("{}.{what}", self.items.len()))
    }

    fn mount(&mut self, mount: &StepMount) -> io::Result<()> {
        let new = self.aside_name("new");
        match mount {
            StepMount::Tmpfs { target, mode, .. } => {
                fs::create_dir(&new)?;
                fs::set_permissions(&new, fs::Permissions::from_mode(*mode))?;
                self.put(target, Some(&new), None)
            }
            // The solver has refused it already.
            StepMount::Host { .. } => Err(io::ErrorKind::Unsupported.into()),
            StepMount::Bind { source, target, .. } => {
                if let Some(cache) = self.lent.iter().find(|c| c.path() == source) {
                    return self.put(target, None, Some(cache));
                }
                let kind = fs::symlink_metadata(source)?.file_type();
                let relay = if kind.is_socket() { Some(Relay::start(source, &new)?) } else { None };
                if relay.is_none() {
                    copy_any(source, &new)?;
                }
                self.put(target, Some(&new), None)?;
                if let Some(item) = self.items.last_mut() {
                    item.file = kind.is_file();
                    item._relay = relay;
                }
                Ok(())
            }
        }
    }

    /// Renames what is at `target` away and `new` (or the cache's directory) there.
    fn put(&mut self, target: &Path, new: Option<&Path>, cache: Option<&'a CacheMount>) -> io::Result<()> {
        let (parent, name, made) = self.resolve(target)?;
        let before = mtime(&rustix::fs::fstat(&parent)?);
        let aside = self.aside_name("original");
        let original = match owner::rename_at((&parent, &name), (CWD, &aside)) {
            Ok(()) => Some(aside),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(e),
        };
        let placed = match (new, cache) {
            (Some(new), _) => owner::rename_at((CWD, new), (&parent, &name)),
            (None, Some(cache)) => {
                let path = real_path(parent.as_fd())?.join(&name);
                let path = path.strip_prefix(&self.root_path).map_err(|_| io::Error::from(io::ErrorKind::NotFound))?;
                cache.lend(&self.root_path, path)
            }
            (None, None) => Ok(()),
        };
        if let Err(error) = placed {
            if let Some(original) = &original {
                owner::rename_at((CWD, original), (&parent, &name))?;
            }
            return Err(error);
        }
        let inode = rustix::fs::statat(&parent, &name, AtFlags::SYMLINK_NOFOLLOW)?.st_ino;
        let after = mtime(&rustix::fs::fstat(&parent)?);
        let target = target.to_path_buf();
        self.items.push(Item {
            target,
            parent,
            name,
            inode,
            original,
            made,
            before,
            after,
            cache,
            file: false,
            _relay: None,
        });
        Ok(())
    }

    /// The directory and name behind a target, links followed inside the root; what is missing of it is made.
    fn resolve(&self, target: &Path) -> io::Result<(OwnedFd, OsString, Vec<MadeDir>)> {
        let relative = target.strip_prefix("/").unwrap_or(target);
        let mut made = Vec::new();
        let real = match open_in_root(&self.root, relative, OFlags::PATH, Mode::empty()) {
            Ok(found) => {
                let real = real_path(found.as_fd())?;
                real.strip_prefix(&self.root_path).map_err(|_| io::Error::from(io::ErrorKind::NotFound))?.to_path_buf()
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                // Below something that was put in: the stubs are in the tree underneath.
                let mut path = PathBuf::new();
                for part in relative.parent().unwrap_or(Path::new("")).components() {
                    let parent = open_in_root(&self.root, &path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())
                        .map_err(|e| explain_missing(e, &path))?;
                    path.push(part);
                    match rustix::fs::mkdirat(&parent, part.as_os_str(), Mode::from_raw_mode(0o755)) {
                        Ok(()) => made.push((parent, part.as_os_str().to_owned())),
                        Err(Errno::EXIST) => {}
                        Err(e) => return Err(e.into()),
                    }
                }
                relative.to_path_buf()
            }
            Err(e) => return Err(e),
        };
        let above = real.parent().unwrap_or(Path::new(""));
        let name = real.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?.to_owned();
        let parent = open_in_root(&self.root, above, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
            .map_err(|e| explain_missing(e, above))?;
        Ok((parent, name, made))
    }

    /// Takes everything out again. Nothing of the step may run any more.
    pub(super) fn remove(mut self) -> Result<(), PlaceError> {
        self.take_out()
    }

    fn take_out(&mut self) -> Result<(), PlaceError> {
        let mut result = Ok(());
        while let Some(item) = self.items.pop() {
            let at = self.items.len();
            let outcome = take_out(&item, &self.aside, at);
            let target = item.target;
            let outcome = outcome.map_err(|source| PlaceError::Io { target: target.clone(), source });
            let outcome = outcome.and_then(|there| if there { Ok(()) } else { Err(PlaceError::Lost { target }) });
            result = result.and(outcome);
        }
        result
    }
}

impl Drop for Placement<'_> {
    fn drop(&mut self) {
        // The tree is thrown away; what matters is that the cache mounts come home, and the notes beside them see to that
        // in the worst case.
        let _ = self.take_out();
    }
}

/// Whether it was still there, where that matters.
fn take_out(item: &Item<'_>, aside: &Path, at: usize) -> io::Result<bool> {
    let time = mtime(&rustix::fs::fstat(&item.parent)?);
    let mut there = true;
    let found = rustix::fs::statat(&item.parent, &item.name, AtFlags::SYMLINK_NOFOLLOW);
    let ours = found.is_ok_and(|s| s.st_ino == item.inode);
    if let Some(cache) = item.cache {
        there = cache.take_back()?;
    } else if ours && item.file {
        overwrite(&item.parent, &item.name);
    }
    match owner::rename_at((&item.parent, &item.name), (CWD, &aside.join(format!("{at}.used")))) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    if let Some(original) = &item.original {
        owner::rename_at((CWD, original), (&item.parent, &item.name))?;
    }
    set_mtime(item.parent.as_fd(), if time == item.after { item.before } else { time })?;
    for (parent, name) in item.made.iter().rev() {
        // Filled by the step: then it is the step's.
        let _ = rustix::fs::unlinkat(parent, name.as_os_str(), AtFlags::REMOVEDIR);
    }
    Ok(there)
}

/// A secret's bytes are not left on the disk for whoever reads free blocks.
fn overwrite(dir: &OwnedFd, name: &OsStr) {
    let open = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(fd) = rustix::fs::openat(dir, name, open, Mode::empty()) else { return };
    let mut file = fs::File::from(fd);
    let length = file.metadata().map_or(0, |m| m.len()).min(1 << 20);
    let _ = file.write_all(&vec![0; usize::try_from(length).unwrap_or(0)]);
}

/// Something there was made or found, and still cannot be opened.
fn explain_missing(error: io::Error, path: &Path) -> io::Error {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("/{} is a file, or a link that leads nowhere; remove it, or choose another target", path.display()),
        ),
        _ => error,
    }
}

fn real_path(fd: BorrowedFd<'_>) -> io::Result<PathBuf> {
    fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

#[allow(clippy::useless_conversion, clippy::unnecessary_cast)] // Narrower on some architectures.
fn mtime(stat: &Stat) -> (i64, i64) {
    (stat.st_mtime as i64, stat.st_mtime_nsec as i64)
}

fn set_mtime(dir: BorrowedFd<'_>, (secs, nanos): (i64, i64)) -> io::Result<()> {
    #[allow(clippy::useless_conversion, clippy::unnecessary_cast)]
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: secs, tv_nsec: nanos as _ },
    };
    Ok(rustix::fs::futimens(dir, &times)?)
}

/// A socket inside the root whose connections are passed on to one outside: a socket cannot be copied.
struct Relay {
    stop: Arc<AtomicBool>,
    path: PathBuf,
}

impl Relay {
    fn start(source: &Path, at: &Path) -> io::Result<Self> {
        // Names of sockets are short: go through the directory.
        let dir = open_dir(at.parent().unwrap_or(Path::new("/")))?;
        let name = at.file_name().unwrap_or_default();
        let listener = UnixListener::bind(Path::new(&format!("/proc/self/fd/{}", dir.as_raw_fd())).join(name))?;
        let meta = fs::symlink_metadata(source)?;
        use std::os::unix::fs::MetadataExt;
        std::os::unix::fs::chown(at, Some(meta.uid()), Some(meta.gid()))?;
        fs::set_permissions(at, fs::Permissions::from_mode(meta.mode() & 0o7777))?;
        let (stop, source) = (Arc::new(AtomicBool::new(false)), source.to_path_buf());
        let stopped = Arc::clone(&stop);
        // A second name that stays where it is, to wake the listener up at the end.
        let path = at.with_extension("relay");
        fs::hard_link(at, &path)?;
        std::thread::Builder::new().name("relay".into()).spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(to) = UnixStream::connect(&source) else { continue };
                let (Ok(from2), Ok(to2)) = (stream.try_clone(), to.try_clone()) else { continue };
                pump(stream, to);
                pump(to2, from2);
            }
        })?;
        Ok(Self { stop, path })
    }
}

fn pump(mut from: UnixStream, mut to: UnixStream) {
    // Without a thread the connection is closed, which is what a busy agent does.
    let _ = std::thread::Builder::new().name("relay".into()).spawn(move || {
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(std::net::Shutdown::Write);
    });
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let short = open_dir(self.path.parent().unwrap_or(Path::new("/"))).and_then(|dir| {
            let path = format!("/proc/self/fd/{}", dir.as_raw_fd());
            UnixStream::connect(Path::new(&path).join(self.path.file_name().unwrap_or_default()))
        });
        drop(short);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    /// A root and a place aside on one file system; `None` where devices cannot be made.
    #[allow(clippy::print_stderr)]
    fn tree() -> Option<(tempfile::TempDir, PathBuf, PathBuf)> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let probe = dir.path().join("probe");
        fs::create_dir(&probe).expect("creates");
        if rootless::furnish_dev(&probe).is_err() {
            eprintln!("skipped: no device nodes here");
            return None;
        }
        let (root, aside) = (dir.path().join("root"), dir.path().join("aside"));
        for path in ["dev", "proc", "sys", "etc", "tmp", "cache", "data"] {
            fs::create_dir_all(root.join(path)).expect("creates");
        }
        fs::create_dir(&aside).expect("creates");
        fs::write(root.join("etc/hosts"), "the image's").expect("writes");
        fs::write(root.join("data/own"), "x").expect("writes");
        Some((dir, root, aside))
    }

    fn listing(root: &Path) -> Vec<(PathBuf, i64, i64)> {
        use std::os::unix::fs::MetadataExt;
        let mut out: Vec<_> = walkdir::WalkDir::new(root)
            .into_iter()
            .map(|e| e.expect("lists"))
            .map(|e| {
                let m = e.path().symlink_metadata().expect("exists");
                (e.path().to_path_buf(), m.mtime(), m.mtime_nsec())
            })
            .collect();
        out.sort();
        out
    }

    /// SPEC C5.18: nothing of a mount is in the layer, not even a time.
    #[test]
    fn what_was_put_in_leaves_no_trace() {
        let Some((dir, root, aside)) = tree() else { return };
        let before = listing(&root);
        let source = dir.path().join("source");
        fs::create_dir(&source).expect("creates");
        fs::write(source.join("file"), "bound").expect("writes");
        let hosts = dir.path().join("hosts");
        fs::write(&hosts, "ours").expect("writes");
        let bind = |source: &Path, target: &str| StepMount::Bind {
            source: source.into(),
            target: target.into(),
            readonly: true,
        };
        let mounts = [
            bind(&hosts, "/etc/hosts"),
            bind(&source, "/data"),
            StepMount::Tmpfs { target: "/tmp".into(), size: 0, mode: 0o1777 },
            bind(&hosts, "/data/below/deep"),
        ];
        let placement = Placement::new(&root, &aside, &mounts, &[], Emulation::Proc).expect("places");
        assert_eq!(fs::read_to_string(root.join("etc/hosts")).expect("reads"), "ours");
        assert_eq!(fs::read_to_string(root.join("data/file")).expect("reads"), "bound");
        assert_eq!(fs::read_to_string(root.join("data/below/deep")).expect("reads"), "ours");
        assert!(!root.join("data/own").exists() && root.join("dev/null").exists());
        fs::write(root.join("data/file"), "changed").expect("writes");
        placement.remove().expect("takes out");
        assert_eq!(listing(&root), before);
        assert_eq!(fs::read_to_string(source.join("file")).expect("reads"), "bound", "the source is not touched");
    }

    #[test]
    fn a_step_that_replaces_a_parent_by_a_link_changes_nothing_outside() {
        let Some((dir, root, aside)) = tree() else { return };
        let outside = dir.path().join("outside");
        fs::create_dir(&outside).expect("creates");
        fs::write(outside.join("hosts"), "precious").expect("writes");
        let hosts = dir.path().join("hosts");
        fs::write(&hosts, "ours").expect("writes");
        let mounts = [StepMount::Bind { source: hosts, target: "/etc/hosts".into(), readonly: true }];
        let placement = Placement::new(&root, &aside, &mounts, &[], Emulation::None).expect("places");
        fs::rename(root.join("etc"), root.join("moved")).expect("renames");
        std::os::unix::fs::symlink(&outside, root.join("etc")).expect("links");
        placement.remove().expect("takes out");
        assert_eq!(fs::read_to_string(outside.join("hosts")).expect("reads"), "precious");
        assert_eq!(fs::read_to_string(root.join("moved/hosts")).expect("reads"), "the image's");
    }

    /// SPEC A5.07.
    #[test]
    fn a_socket_is_passed_on() {
        let Some((dir, root, aside)) = tree() else { return };
        let socket = dir.path().join("agent");
        let agent = UnixListener::bind(&socket).expect("binds");
        let mounts = [StepMount::Bind { source: socket, target: "/tmp/agent".into(), readonly: false }];
        let placement = Placement::new(&root, &aside, &mounts, &[], Emulation::None).expect("places");
        let mut client = UnixStream::connect(root.join("tmp/agent")).expect("connects");
        client.write_all(b"hello").expect("writes");
        client.shutdown(std::net::Shutdown::Write).expect("ends");
        let (mut served, _) = agent.accept().expect("accepts");
        let mut text = String::new();
        served.read_to_string(&mut text).expect("reads");
        served.write_all(b"answer").expect("writes");
        drop(served);
        let mut back = String::new();
        client.read_to_string(&mut back).expect("reads");
        assert_eq!((text.as_str(), back.as_str()), ("hello", "answer"));
        placement.remove().expect("takes out");
    }
}
