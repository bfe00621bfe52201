//! Looking into a tree: what is at a path, what is in a directory, a part of a file. Links are followed inside the tree, and what
//! its filter hides is not there.

use std::ffi::{CString, OsString};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

use rustix::fs::{FileType, Stat};

use super::CopySource;
use super::root::{Last, Place, Root, open_subdir, read_link};
use super::view::{Listing, shows};
use crate::base::owner;
use crate::llb::gateway::{self, go_mode};

/// Something in a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name, without the directory that it is in.
    pub name: OsString,
    /// `st_mode`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    /// Nanoseconds since 1970.
    pub mtime: i64,
    /// Where a symlink leads.
    pub link: OsString,
    /// Major and minor number of a device.
    pub device: (u32, u32),
}

impl Entry {
    /// In the words of BuildKit's protocols.
    #[must_use]
    pub fn told(self) -> gateway::Stat {
        gateway::Stat {
            path: self.name.to_string_lossy().into_owned(),
            mode: go_mode(self.mode),
            uid: self.uid,
            gid: self.gid,
            size: i64::try_from(self.size).unwrap_or(i64::MAX),
            mod_time: self.mtime,
            linkname: self.link.to_string_lossy().into_owned(),
            devmajor: self.device.0.into(),
            devminor: self.device.1.into(),
        }
    }
}

fn missing() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "no such file or directory")
}

/// Where `path` is, if it is there and shown.
fn find(source: &CopySource, root: &Root, path: &str) -> io::Result<Place> {
    let place = root.locate(path, Last::Follow)?;
    let kind = place.kind().ok_or_else(missing)?;
    if let Some(filter) = &source.filter {
        let name = CString::new(place.name.as_bytes())?;
        if !shows(filter, place.path.as_os_str().as_bytes(), &place.dir, &name, kind)? {
            return Err(missing());
        }
    }
    Ok(place)
}

/// What is at a path.
///
/// # Errors
/// The kernel's; `NotFound` where nothing is.
pub fn entry(source: &CopySource, path: &str) -> io::Result<Entry> {
    let root = Root::open(&source.root)?;
    let place = find(source, &root, path)?;
    let found = owner::stat_at(&place.dir, &CString::new(place.name.as_bytes())?)?;
    let name = if place.path.as_os_str().is_empty() { OsString::from("/") } else { place.name.clone() };
    Ok(made(source, name, &found, OsString::new()))
}

/// What is in a directory, by name.
///
/// # Errors
/// As [`entry`]; `NotADirectory` for something else.
pub fn entries(source: &CopySource, path: &str) -> io::Result<Vec<Entry>> {
    let root = Root::open(&source.root)?;
    let place = find(source, &root, path)?;
    let dir = open_subdir(&place.dir, &place.name)?;
    let mut out = Vec::new();
    for (name, kind) in Listing::read(&dir)?.iter() {
        let mut at = place.path.as_os_str().as_bytes().to_vec();
        if !at.is_empty() {
            at.push(b'/');
        }
        at.extend_from_slice(name.to_bytes());
        if let Some(filter) = &source.filter
            && !shows(filter, &at, &dir, name, kind)?
        {
            continue;
        }
        // What is gone meanwhile is not there.
        let found = match owner::stat_at(&dir, name) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            found => found?,
        };
        let link = if kind == FileType::Symlink { read_link(&dir, name)? } else { OsString::new() };
        out.push(made(source, OsString::from_vec(name.to_bytes().to_vec()), &found, link));
    }
    out.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(out)
}

/// Everything of a tree, a directory before what is in it, with the paths from the root.
///
/// # Errors
/// As [`entries`].
pub fn all(source: &CopySource) -> io::Result<Vec<(String, Entry)>> {
    let mut out = Vec::new();
    // Directories that are still to be read, the next one last; one level of names is sorted already.
    let mut todo: Vec<(String, Entry)> = Vec::new();
    let below = |dir: &str, todo: &mut Vec<(String, Entry)>| {
        let found = match entries(source, &format!("/{dir}")) {
            // It went away, or became something else.
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Vec::new(),
            found => found?,
        };
        todo.extend(found.into_iter().rev().map(|entry| {
            let name = entry.name.to_string_lossy();
            (if dir.is_empty() { name.into_owned() } else { format!("{dir}/{name}") }, entry)
        }));
        io::Result::Ok(())
    };
    below("", &mut todo)?;
    while let Some((path, entry)) = todo.pop() {
        if FileType::from_raw_mode(entry.mode) == FileType::Directory {
            below(&path, &mut todo)?;
        }
        out.push((path, entry));
    }
    Ok(out)
}

/// So many bytes of a regular file at most, from `offset` on.
///
/// # Errors
/// As [`entry`]; `InvalidInput` for what is no regular file.
pub fn read(source: &CopySource, path: &str, offset: u64, most: u64) -> io::Result<Vec<u8>> {
    let root = Root::open(&source.root)?;
    let place = find(source, &root, path)?;
    if place.kind() != Some(FileType::RegularFile) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let mut file = root.open_file(&place.path)?;
    file.seek(SeekFrom::Start(offset))?;
    let mut out = Vec::new();
    file.take(most).read_to_end(&mut out)?;
    Ok(out)
}

fn made(source: &CopySource, name: OsString, found: &Stat, link: OsString) -> Entry {
    let (uid, gid) = if source.reset_owner { (0, 0) } else { (found.st_uid, found.st_gid) };
    let device = match FileType::from_raw_mode(found.st_mode) {
        FileType::CharacterDevice | FileType::BlockDevice => {
            (rustix::fs::major(found.st_rdev), rustix::fs::minor(found.st_rdev))
        }
        _ => (0, 0),
    };
    Entry {
        name,
        mode: found.st_mode,
        uid,
        gid,
        size: u64::try_from(found.st_size).unwrap_or_default(),
        mtime: nanoseconds(found),
        link,
        device,
    }
}

#[allow(clippy::useless_conversion, reason = "narrower on some architectures")]
fn nanoseconds(found: &Stat) -> i64 {
    let (seconds, rest) = (i64::try_from(found.st_mtime), i64::try_from(found.st_mtime_nsec));
    seconds.unwrap_or_default().saturating_mul(1_000_000_000).saturating_add(rest.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::sync::Arc;

    use super::*;
    use crate::tree::PathFilter;

    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::fs::create_dir_all(dir.path().join("d/e")).expect("directories");
        std::fs::write(dir.path().join("d/f"), "0123456789").expect("a file");
        std::fs::write(dir.path().join("hidden"), "").expect("a file");
        symlink("/d/f", dir.path().join("inside")).expect("a link");
        symlink("/etc/passwd", dir.path().join("outside")).expect("a link");
        dir
    }

    // SPEC C3.14
    #[test]
    fn c3_14_files_are_read_inside_the_tree_and_in_parts() {
        let dir = tree();
        let source = CopySource::plain(dir.path());
        assert_eq!(read(&source, "/inside", 2, 3).expect("read"), b"234");
        assert_eq!(read(&source, "../../d/f", 8, 100).expect("read"), b"89");
        assert_eq!(read(&source, "d/f", 100, 1).expect("read"), b"");
        for path in ["outside", "gone", "d/f/x"] {
            assert!(read(&source, path, 0, 1).is_err(), "{path}");
        }
        assert_eq!(read(&source, "d", 0, 1).expect_err("a directory").kind(), io::ErrorKind::InvalidInput);
        assert_eq!(
            (entry(&source, "/inside").expect("there").size, entry(&source, "/").expect("there").name),
            (10, "/".into())
        );
    }

    // SPEC C3.14
    #[test]
    fn c3_14_directories_show_what_the_filter_shows() {
        let dir = tree();
        let mut source = CopySource::plain(dir.path());
        let names = |source: &CopySource, path: &str| -> Vec<String> {
            let all = entries(source, path).expect("a directory");
            all.into_iter().map(|one| one.name.to_string_lossy().into_owned()).collect()
        };
        assert_eq!(names(&source, "/"), ["d", "hidden", "inside", "outside"]);
        let links = entries(&source, "").expect("a directory");
        assert_eq!(links[2].link, "/d/f");
        let filter = PathFilter::new(&[], &[b"hidden".to_vec(), b"d/f".to_vec()], &[]).expect("patterns");
        source.filter = Some(Arc::new(filter));
        assert_eq!(
            (names(&source, "/"), names(&source, "d")),
            (vec!["d".into(), "inside".into(), "outside".into()], vec!["e".into()])
        );
        assert_eq!(entry(&source, "hidden").expect_err("hidden").kind(), io::ErrorKind::NotFound);
        assert_eq!(read(&source, "inside", 0, 1).expect_err("hidden").kind(), io::ErrorKind::NotFound);
    }
}
