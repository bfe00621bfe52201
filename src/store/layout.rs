//! Where things are in the store's directory, its `VERSION` file, and on which file systems it may be.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, IFlags, RenameFlags};

use crate::base::Digest;
use crate::base::file::write_atomic;
use crate::oci::Index;
use crate::oci::layout::{MARKER, MARKER_NAME};

use super::StoreError;

/// The number in `VERSION`. It changes only when an older version would misread the store in spite of the
/// feature lists.
pub(crate) const FORMAT: u32 = 1;

/// Features in use, as ext4 has them: unknown `incompatible` and `read-only-compatible` ones make a store
/// unusable for us (we always write), unknown `compatible` ones do not matter.
const INCOMPATIBLE: &[&str] = &[];
const READ_ONLY_COMPATIBLE: &[&str] = &[];

const VERSION_FILE: &str = "VERSION";

/// Every directory of a store. `oci/blobs/sha256` stands for its parents too.
const DIRECTORIES: &[&str] = &[
    "oci/blobs/sha256",
    "snapshots",
    "indexes",
    "contexts",
    "mounts",
    "locks/key",
    "locks/layer",
    "locks/mount",
    "leases",
    "history",
    "explain",
    "trash",
    "tmp",
];

/// Top-level names that belong to a store; anything else in the directory means it is not one.
const KNOWN: &[&str] = &[
    VERSION_FILE,
    "oci",
    "snapshots",
    "indexes",
    "meta.db",
    "meta.db-wal",
    "meta.db-shm",
    "meta.db-journal",
    "contexts",
    "mounts",
    "locks",
    "leases",
    "history",
    "explain",
    "trash",
    "tmp",
];

/// The paths of one store.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub(crate) root: PathBuf,
}

impl Layout {
    pub(crate) fn new(root: &Path) -> Self {
        Self { root: root.to_path_buf() }
    }

    pub(crate) fn version(&self) -> PathBuf {
        self.root.join(VERSION_FILE)
    }
    pub(crate) fn meta(&self) -> PathBuf {
        self.root.join("meta.db")
    }
    pub(crate) fn oci(&self) -> PathBuf {
        self.root.join("oci")
    }
    pub(crate) fn blobs(&self) -> PathBuf {
        self.root.join("oci/blobs")
    }
    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(digest.algorithm()).join(digest.hex())
    }
    pub(crate) fn snapshots(&self) -> PathBuf {
        self.root.join("snapshots")
    }
    /// The directory tree of the snapshot called `name`.
    pub(crate) fn snapshot(&self, name: &str) -> PathBuf {
        self.root.join("snapshots").join(name).join("fs")
    }
    pub(crate) fn indexes(&self) -> PathBuf {
        self.root.join("indexes")
    }
    pub(crate) fn index(&self, diff_id: &Digest) -> PathBuf {
        self.indexes().join(diff_id.hex())
    }
    pub(crate) fn contexts(&self) -> PathBuf {
        self.root.join("contexts")
    }
    pub(crate) fn mounts(&self) -> PathBuf {
        self.root.join("mounts")
    }
    pub(crate) fn locks(&self) -> PathBuf {
        self.root.join("locks")
    }
    pub(crate) fn leases(&self) -> PathBuf {
        self.root.join("leases")
    }
    pub(crate) fn explanations(&self) -> PathBuf {
        self.root.join("explain")
    }

    pub(crate) fn history(&self) -> PathBuf {
        self.root.join("history")
    }
    pub(crate) fn trash(&self) -> PathBuf {
        self.root.join("trash")
    }
    pub(crate) fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// Checks that what is there can be used, or creates what is missing and says what is left to do about that.
    pub(crate) fn open(&self) -> Result<Option<Creation>, StoreError> {
        match fs::read_to_string(self.version()) {
            Ok(text) => return self.check_version(&text).map(|()| None),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(StoreError::io("read", self.version())(e)),
        }
        create_dirs(&self.root)?;
        self.check_file_system()?;
        // Two first builds at once: one creates, the other waits and finds the file.
        let root = super::housekeeping::lock(&self.root, FlockOperation::LockExclusive)?;
        if let Ok(text) = fs::read_to_string(self.version()) {
            return self.check_version(&text).map(|()| None);
        }
        if let Some(found) = self.foreign_entry()? {
            return Err(StoreError::NotAStore { root: self.root.clone(), found });
        }
        make_private(&self.root)?;
        self.create_directories()?;
        let empty = serde_json::to_vec(&Index::new(Vec::new())).expect("because the index has string keys only");
        for (name, bytes) in [("index.json", empty.as_slice()), (MARKER_NAME, MARKER)] {
            let path = self.oci().join(name);
            // What is there already is a view of images, made before the creation was interrupted.
            if !fs::metadata(&path).is_ok_and(|m| m.len() > 0) {
                fs::write(&path, bytes).map_err(StoreError::io("write", &path))?;
            }
        }
        Ok(Some(Creation { layout: self.clone(), _lock: root }))
    }

    /// Creates what is missing of [`DIRECTORIES`], where the file system can do that in a place of its own.
    fn create_directories(&self) -> Result<(), StoreError> {
        create_dirs(&self.tmp())?;
        if scatter(&self.tmp()).is_ok() {
            // What a directory of `tmp` contains stays where that was put when it gets another name.
            let place = self.tmp().join(super::random_name()?);
            for dir in DIRECTORIES {
                create_dirs(&place.join(dir))?;
            }
            let top: BTreeSet<&str> = DIRECTORIES.iter().filter_map(|dir| dir.split('/').next()).collect();
            for name in top {
                // What is there already is of a creation that was interrupted.
                let _ =
                    rustix::fs::renameat_with(CWD, place.join(name), CWD, self.root.join(name), RenameFlags::NOREPLACE);
            }
            fs::remove_dir_all(&place).map_err(StoreError::io("remove", &place))?;
        }
        DIRECTORIES.iter().try_for_each(|dir| create_dirs(&self.root.join(dir)))
    }

    fn check_version(&self, text: &str) -> Result<(), StoreError> {
        let too_new = |what: String| Err(StoreError::TooNew { root: self.root.clone(), what });
        let version = parse_version(text)
            .ok_or_else(|| StoreError::Damaged { path: self.version(), reason: "no format number".into() })?;
        if version.format > FORMAT {
            return too_new(format!("format {}", version.format));
        }
        for (known, used) in
            [(INCOMPATIBLE, &version.incompatible), (READ_ONLY_COMPATIBLE, &version.read_only_compatible)]
        {
            if let Some(feature) = used.iter().find(|f| !known.contains(f)) {
                return too_new(format!("the feature \"{feature}\""));
            }
        }
        self.check_file_system()
    }

    /// Refuses network file systems and FUSE, by the magic number of the root's file system.
    fn check_file_system(&self) -> Result<(), StoreError> {
        let stat = rustix::fs::statfs(&self.root).map_err(StoreError::errno("examine", &self.root))?;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Magic numbers are 32 bits wide.
        match refused_file_system(stat.f_type as u32) {
            Some(fs) => Err(StoreError::FileSystem { root: self.root.clone(), fs }),
            None => Ok(()),
        }
    }

    /// A top-level entry that no store has.
    pub(crate) fn foreign_entry(&self) -> Result<Option<String>, StoreError> {
        let entries = fs::read_dir(&self.root).map_err(StoreError::io("list", &self.root))?;
        for entry in entries {
            let name = entry.map_err(StoreError::io("list", &self.root))?.file_name();
            let name = name.to_string_lossy();
            // `.rbuild-*` are what an interrupted atomic write leaves; `lost+found` is there on a volume of its own.
            if !KNOWN.contains(&name.as_ref()) && !name.starts_with(".rbuild-") && name != "lost+found" {
                return Ok(Some(name.into_owned()));
            }
        }
        Ok(None)
    }
}

/// The end of a store's creation. Others that open the store wait for it.
#[derive(Debug)]
pub(crate) struct Creation {
    layout: Layout,
    _lock: File,
}

impl Creation {
    /// Makes what was created survive a crash of the machine, and after that the directory a store: one without
    /// `VERSION` is completed by the next open.
    pub(crate) fn finish(self) -> Result<(), StoreError> {
        let layout = &self.layout;
        let sync = |path: &Path| File::open(path).and_then(|f| f.sync_all()).map_err(StoreError::io("sync", path));
        for path in [layout.meta(), layout.oci().join("index.json"), layout.oci().join(MARKER_NAME)] {
            sync(&path)?;
        }
        write_atomic(&layout.version(), version_text().as_bytes()).map_err(StoreError::io("write", layout.version()))
    }
}

/// Has ext4 put each new directory in `dir` into some part of the disk that is little used, and what it will contain beside it.
/// Others go beside their parent, where ext4 looks, for each new file, at every inode that was deleted in the last minutes
/// before it takes one: after a large tree was removed, extracting another beside it takes several times as long.
fn scatter(dir: &Path) -> io::Result<()> {
    let dir = File::open(dir)?;
    if rustix::fs::fstatfs(&dir)?.f_type != EXT4_MAGIC {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let flags = rustix::fs::ioctl_getflags(&dir)?;
    Ok(rustix::fs::ioctl_setflags(&dir, flags | IFlags::TOPDIR)?)
}

/// `EXT4_SUPER_MAGIC`, as `statfs` tells it.
const EXT4_MAGIC: rustix::fs::FsWord = 0xef53;

/// `mkdir -p` with mode 0700 for what is created.
fn create_dirs(path: &Path) -> Result<(), StoreError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(StoreError::io("create", path))
}

/// Takes group and others out of the mode of an existing root. A volume whose root belongs to somebody else stays
/// as it is: everything below is created with mode 0700 anyway.
fn make_private(path: &Path) -> Result<(), StoreError> {
    let mode = fs::metadata(path).map_err(StoreError::io("examine", path))?.permissions().mode();
    if mode & 0o077 == 0 {
        return Ok(());
    }
    match fs::set_permissions(path, fs::Permissions::from_mode(0o700)) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        other => other.map_err(StoreError::io("chmod", path)),
    }
}

/// The name of a file system that cannot hold a store.
pub(super) fn refused_file_system(magic: u32) -> Option<&'static str> {
    Some(match magic {
        0x6969 => "NFS",
        0x517b | 0xff53_4d42 | 0xfe53_4d42 => "SMB",
        0x6573_5546 => "FUSE",
        0x0102_1997 => "9p",
        0x5346_414f | 0x6b41_4653 => "AFS",
        _ => return None,
    })
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Version<'a> {
    format: u32,
    compatible: Vec<&'a str>,
    read_only_compatible: Vec<&'a str>,
    incompatible: Vec<&'a str>,
}

fn version_text() -> String {
    format!(
        "format {FORMAT}\ncompatible\nread-only-compatible {}\nincompatible {}\n",
        READ_ONLY_COMPATIBLE.join(" "),
        INCOMPATIBLE.join(" ")
    )
}

fn parse_version(text: &str) -> Option<Version<'_>> {
    let mut version = Version::default();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        match words.next() {
            Some("format") => version.format = words.next()?.parse().ok()?,
            Some("compatible") => version.compatible = words.collect(),
            Some("read-only-compatible") => version.read_only_compatible = words.collect(),
            Some("incompatible") => version.incompatible = words.collect(),
            _ => {}
        }
    }
    (version.format > 0).then_some(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fresh() -> (tempfile::TempDir, Layout) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let layout = Layout::new(&dir.path().join("store"));
        (dir, layout)
    }

    /// Makes a store of it, as the first open does.
    fn create(layout: &Layout) {
        let creation = layout.open().expect("creates").expect("is new");
        fs::write(layout.meta(), "").expect("writes");
        creation.finish().expect("finishes");
    }

    #[test]
    fn a_new_store_is_private_and_an_oci_layout() {
        let (_dir, layout) = fresh();
        create(&layout);
        assert!(layout.open().expect("opens again").is_none());
        let mode = fs::metadata(&layout.root).expect("exists").permissions().mode();
        assert_eq!(mode & 0o7777, 0o700);
        assert_eq!(fs::read(layout.oci().join(MARKER_NAME)).expect("written"), MARKER);
        assert!(layout.blobs().join("sha256").is_dir());
        let left: Vec<_> = fs::read_dir(layout.tmp()).expect("lists").collect();
        assert!(left.is_empty(), "{left:?}");
        let tmp = File::open(layout.tmp()).expect("opens");
        if rustix::fs::fstatfs(&tmp).expect("examines").f_type == EXT4_MAGIC {
            assert!(rustix::fs::ioctl_getflags(&tmp).expect("reads flags").contains(IFlags::TOPDIR));
        } else {
            crate::store::testing::skip("the place of new directories: not on ext4 here");
        }
    }

    #[test]
    fn a_newer_store_is_refused() {
        let (_dir, layout) = fresh();
        create(&layout);
        fs::write(layout.version(), "format 2\n").expect("writes");
        let error = layout.open().expect_err("too new");
        assert!(error.to_string().contains("has format 2"), "{error}");
        assert!(error.hint().is_some());
        fs::write(layout.version(), "format 1\ncompatible later\nincompatible quantum\n").expect("writes");
        let error = layout.open().expect_err("unknown feature");
        assert!(error.to_string().contains("\"quantum\""), "{error}");
        fs::write(layout.version(), "format 1\ncompatible later\n").expect("writes");
        layout.open().expect("unknown compatible features do not matter");
        fs::write(layout.version(), "").expect("writes");
        assert!(matches!(layout.open(), Err(StoreError::Damaged { .. })));
    }

    #[test]
    fn a_directory_with_other_things_is_not_taken_over() {
        let (_dir, layout) = fresh();
        fs::create_dir_all(layout.root.join("Documents")).expect("creates");
        let error = layout.open().expect_err("not a store");
        assert!(matches!(&error, StoreError::NotAStore { found, .. } if found == "Documents"), "{error}");
    }

    #[test]
    fn a_creation_that_was_killed_is_completed() {
        let (_dir, layout) = fresh();
        fs::create_dir_all(layout.oci()).expect("creates");
        fs::write(layout.root.join(".rbuild-x"), "").expect("writes");
        create(&layout);
        assert!(layout.tmp().is_dir());
    }

    #[test]
    fn a_creation_that_was_killed_late_loses_no_view() {
        let (_dir, layout) = fresh();
        fs::create_dir_all(layout.oci()).expect("creates");
        fs::write(layout.oci().join("index.json"), "a view").expect("writes");
        create(&layout);
        assert_eq!(fs::read(layout.oci().join("index.json")).expect("reads"), b"a view");
    }

    #[test]
    fn nobody_takes_a_store_for_one_before_its_creation_has_ended() {
        let (_dir, layout) = fresh();
        let creation = layout.open().expect("creates").expect("is new");
        fs::write(layout.meta(), "").expect("writes");
        assert!(!layout.version().exists());
        let other = {
            let layout = layout.clone();
            std::thread::spawn(move || layout.open().map(|creation| creation.is_none()))
        };
        creation.finish().expect("finishes");
        assert!(other.join().expect("ends").expect("opens"), "the second one must find it complete");
    }

    #[test]
    fn network_file_systems_are_refused() {
        assert_eq!(refused_file_system(0x6969), Some("NFS"));
        assert_eq!(refused_file_system(0xff53_4d42), Some("SMB"));
        assert_eq!(refused_file_system(0x6573_5546), Some("FUSE"));
        assert_eq!(refused_file_system(0xef53), None, "ext4");
        assert_eq!(refused_file_system(0x0102_1994), None, "tmpfs");
    }
}
