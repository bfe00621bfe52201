//! One member of a layer, and the rules about what of it may enter or leave an archive.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// Extended attributes, by name.
pub type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

/// What a layer's deletions start with (OCI image specification, "Whiteouts").
pub const WHITEOUT_PREFIX: &[u8] = b".wh.";
/// The name that empties the directory it stands in, as far as lower layers filled it.
pub const OPAQUE_NAME: &[u8] = b".wh..wh..opq";

/// A point in time as file systems keep it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp {
    /// Seconds since 1970, rounded down.
    pub secs: i64,
    /// Nanoseconds to add, below 1,000,000,000.
    pub nanos: u32,
}

impl Timestamp {
    /// A whole second.
    #[must_use]
    pub const fn seconds(secs: i64) -> Self {
        Self { secs, nanos: 0 }
    }
}

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link; `link` is its text.
    Symlink,
    /// Another name of a file of the same layer; `link` is its path.
    Hardlink,
    /// A character device.
    Char,
    /// A block device.
    Block,
    /// A named pipe.
    Fifo,
    /// A deletion: `path` is what disappears. In a tar it is the file `.wh.<name>`.
    Whiteout,
}

/// One member of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Relative, without `.` and `..`; empty for the root directory.
    pub path: PathBuf,
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits with setuid, setgid and sticky (`07777`).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time.
    pub mtime: Timestamp,
    /// Bytes of content; 0 for everything but files.
    pub size: u64,
    /// Text of a symlink, path of a hard link's other name, else empty.
    pub link: PathBuf,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// Extended attributes.
    pub xattrs: Xattrs,
    /// A directory that hides what lower layers put into it.
    pub opaque: bool,
}

impl Entry {
    /// An entry of this kind with nothing else set: mode 0, owner 0:0, time 0.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>, kind: EntryKind) -> Self {
        Self {
            path: path.into(),
            kind,
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: Timestamp::default(),
            size: 0,
            link: PathBuf::new(),
            device: (0, 0),
            xattrs: Xattrs::new(),
            opaque: false,
        }
    }

    /// The deletion of `path`. Owner, mode and time are always 0 (SPEC C6.09).
    #[must_use]
    pub fn whiteout(path: impl Into<PathBuf>) -> Self {
        Self::new(path, EntryKind::Whiteout)
    }

    /// A regular file's entry.
    #[must_use]
    pub fn file(path: impl Into<PathBuf>, mode: u32, size: u64) -> Self {
        Self { mode, size, ..Self::new(path, EntryKind::File) }
    }

    /// A directory's entry.
    #[must_use]
    pub fn dir(path: impl Into<PathBuf>, mode: u32) -> Self {
        Self { mode, ..Self::new(path, EntryKind::Dir) }
    }

    /// A symlink's entry.
    #[must_use]
    pub fn symlink(path: impl Into<PathBuf>, target: impl Into<PathBuf>) -> Self {
        Self { mode: 0o777, link: target.into(), ..Self::new(path, EntryKind::Symlink) }
    }

    /// Another name for the earlier entry `target`.
    #[must_use]
    pub fn hardlink(path: impl Into<PathBuf>, target: impl Into<PathBuf>) -> Self {
        Self { link: target.into(), ..Self::new(path, EntryKind::Hardlink) }
    }
}

/// Whether an extended attribute may be written into a layer or taken from an archive.
///
/// `user.*` and file capabilities belong to the image. Everything else describes the machine (`security.selinux`, ACLs a
/// directory of the host handed down) or is a mark that some layer of software takes at face value: overlay's own, those
/// of rootless runtimes that keep owners in attributes, and ours. A layer or a context could smuggle those in.
#[must_use]
pub fn xattr_allowed(name: &[u8]) -> bool {
    const RESERVED: [&[u8]; 3] = [b"user.overlay.", b"user.rootlesscontainers", b"user.rbuild."];
    name == b"security.capability" || (name.starts_with(b"user.") && !RESERVED.iter().any(|r| name.starts_with(r)))
}

/// Whether a name can stand in a layer: names that start with `.wh.` would be read as deletions.
#[must_use]
pub fn name_representable(name: &OsStr) -> bool {
    !name.as_bytes().starts_with(WHITEOUT_PREFIX)
}

/// Normalises a path from an archive: leading `/` and `./`, doubled and trailing slashes and inner `.` go away.
///
/// `None` if it contains `..` (which would leave the directory, or hide where it leads) or a NUL.
#[must_use]
pub fn clean_path(raw: &[u8]) -> Option<PathBuf> {
    if is_clean(raw) {
        return Some(PathBuf::from(OsStr::from_bytes(raw)));
    }
    if raw.contains(&0) {
        return None;
    }
    let mut out = PathBuf::new();
    for component in Path::new(OsStr::from_bytes(raw)).components() {
        match component {
            Component::Normal(name) => out.push(name),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
            Component::ParentDir => return None,
        }
    }
    Some(out)
}

/// Whether [`clean_path`] would change nothing of it.
#[must_use]
pub fn is_clean(raw: &[u8]) -> bool {
    let plain = |part: &[u8]| !matches!(part, b"" | b"." | b"..") && !part.contains(&0);
    raw.is_empty() || raw.split(|b| *b == b'/').all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_or_refused() {
        let clean = |raw: &str| clean_path(raw.as_bytes()).map(|p| p.to_str().expect("it was UTF-8").to_owned());
        assert_eq!(clean("./a//b/./c/").as_deref(), Some("a/b/c"));
        assert_eq!(clean("/etc/passwd").as_deref(), Some("etc/passwd"));
        assert_eq!(clean("./").as_deref(), Some(""));
        for raw in ["", "a", "a/b/c", ".a/..b/c."] {
            assert!(is_clean(raw.as_bytes()), "{raw:?}");
            assert_eq!(clean(raw).as_deref(), Some(raw));
        }
        for raw in [".", "/", "/a", "a/", "a//b", "./a", "a/.", "a/./b"] {
            assert!(!is_clean(raw.as_bytes()), "{raw:?}");
            assert_ne!(clean(raw).as_deref(), Some(raw));
        }
        for bad in ["..", "../x", "a/../../x", "a/..", "a\0b"] {
            assert!(!is_clean(bad.as_bytes()), "{bad:?}");
            assert_eq!(clean(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn only_the_images_own_xattrs_pass() {
        for name in ["user.mime", "user.overlays", "security.capability"] {
            assert!(xattr_allowed(name.as_bytes()), "{name}");
        }
        for name in [
            "user.overlay.opaque",
            "user.overlay.overlay.opaque",
            "user.rootlesscontainers",
            "user.rbuild.owner",
            "trusted.overlay.opaque",
            "security.selinux",
            "system.posix_acl_default",
        ] {
            assert!(!xattr_allowed(name.as_bytes()), "{name}");
        }
    }
}
