//! The small actions: make a directory, a file, a link; remove (SPEC C1.11).

use std::io;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, Timespec, Timestamps};

use super::copy::make_parent;
use super::error::FileOpError;
use super::meta::{self, Settings};
use super::remove;
use super::select::{Source, c_name, text};
use crate::base::owner;
use crate::llb::op::{FileActionMkDir, FileActionMkFile, FileActionRm, FileActionSymlink};
use crate::tree::CopySource;
use crate::tree::root::{Last, Place, Root, relative};

fn open(root: &Path) -> Result<Root, FileOpError> {
    Root::open(root).map_err(|e| FileOpError::io("open", root.display().to_string(), e))
}

fn settings(owner: Option<(u32, u32)>, timestamp: i64) -> Settings {
    Settings {
        owner: Some(owner.unwrap_or((0, 0))),
        time: meta::time_of(timestamp),
        no_chown: !meta::can_chown(),
        ..Settings::default()
    }
}

fn times(time: Timespec) -> Timestamps {
    Timestamps { last_access: time, last_modification: time }
}

fn bits(mode: i32) -> u32 {
    u32::try_from(mode).unwrap_or(0) & 0o777
}

/// Finds where `path` leads in a directory that must be there.
fn place(root: &Root, path: &str, last: Last, attempt: &'static str) -> Result<Place, FileOpError> {
    let place = root.locate(path, last).map_err(|e| FileOpError::io(attempt, path, e))?;
    if place.beyond.is_empty() {
        return Ok(place);
    }
    Err(FileOpError::io(attempt, path, io::Error::from(io::ErrorKind::NotFound)))
}

/// Whether a directory is at a path, or a link to one.
#[must_use]
pub fn is_dir(root: &Path, path: &str) -> bool {
    open(root).and_then(|root| place(&root, path, Last::Follow, "find")).is_ok_and(|place| place.is_dir())
}

/// Makes a directory. One that is there is left alone; so is anything else that is there, unless parents are made too.
///
/// # Errors
/// See [`FileOpError`].
pub fn mkdir(root: &Path, action: &FileActionMkDir, owner: Option<(u32, u32)>) -> Result<(), FileOpError> {
    const ATTEMPT: &str = "create directory";
    let settings = settings(owner, action.timestamp);
    let root = open(root)?;
    if !action.make_parents {
        let place = place(&root, &action.path, Last::Follow, ATTEMPT)?;
        if place.stat.is_some() {
            return Ok(());
        }
        return make_parent(std::os::fd::AsFd::as_fd(&place.dir), &place.name, bits(action.mode), &settings)
            .map_err(|e| FileOpError::io(ATTEMPT, &*action.path, e));
    }
    let mut made = Vec::new();
    root.make_dirs(&action.path, |dir, name, path| {
        made.push(path.to_owned());
        make_parent(dir, name, bits(action.mode), &settings)
    })
    .map_err(|e| FileOpError::io(ATTEMPT, &*action.path, e))?;
    if let Some(time) = settings.time {
        for path in made {
            let io = |e| FileOpError::io("set the times of", &*action.path, e);
            let fd = root.open_plain(&path).map_err(io)?;
            rustix::fs::futimens(&fd, &times(time)).map_err(|e| io(e.into()))?;
        }
    }
    Ok(())
}

/// Writes a file. One that is there is overwritten and keeps its permission bits.
///
/// # Errors
/// See [`FileOpError`].
pub fn mkfile(root: &Path, action: &FileActionMkFile, owner: Option<(u32, u32)>) -> Result<(), FileOpError> {
    let settings = settings(owner, action.timestamp);
    let root = open(root)?;
    let io = |attempt| move |e: io::Error| FileOpError::io(attempt, &*action.path, e);
    let place = place(&root, &action.path, Last::Follow, "create")?;
    if place.kind().is_some_and(|kind| kind != FileType::RegularFile) {
        // A device of the tree would be the machine's.
        return Err(io("write")(io::Error::other("it is there and is no regular file")));
    }
    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let flags = flags | if place.stat.is_some() { OFlags::TRUNC } else { OFlags::CREATE | OFlags::EXCL };
    let file = rustix::fs::openat(&place.dir, place.name.as_os_str(), flags, Mode::RUSR | Mode::WUSR)
        .map_err(|e| io("create")(e.into()))?;
    let mut file = std::fs::File::from(file);
    io::Write::write_all(&mut file, &action.data).map_err(io("write"))?;
    if let (false, Some((uid, gid))) = (settings.no_chown, settings.owner) {
        meta::chown(&file, uid, gid).map_err(io("chown"))?;
    }
    if place.stat.is_none() {
        owner::set_mode(&file, Mode::from_raw_mode(bits(action.mode))).map_err(|e| io("chmod")(e.into()))?;
    }
    if let Some(time) = settings.time {
        rustix::fs::futimens(&file, &times(time)).map_err(|e| io("set the times of")(e.into()))?;
    }
    Ok(())
}

/// Removes a path, or what a pattern matches; a path that is a link is removed itself.
///
/// # Errors
/// See [`FileOpError`].
pub fn rm(root: &Path, action: &FileActionRm) -> Result<(), FileOpError> {
    let tree = CopySource::plain(root);
    let source = Source::open(&tree)?;
    let paths = if action.allow_wildcard {
        source.expand(action.path.as_bytes(), Last::Keep)?
    } else {
        vec![relative(action.path.as_bytes())]
    };
    for path in paths {
        if path.is_empty() {
            return Err(FileOpError::Invalid("cannot remove the root of a file system".into()));
        }
        let Some(place) = source.find(&path, Last::Keep)? else {
            if action.allow_not_found {
                continue;
            }
            return Err(source.not_found(&path));
        };
        let name = c_name(&place.name)?;
        remove::tree(&place.dir, &name).map_err(|e| FileOpError::io("remove", text(&path), e))?;
    }
    Ok(())
}

/// Makes a symlink; its target is text and may not exist.
///
/// # Errors
/// See [`FileOpError`]; something at its place already is one.
pub fn symlink(root: &Path, action: &FileActionSymlink, owner: Option<(u32, u32)>) -> Result<(), FileOpError> {
    const ATTEMPT: &str = "create link";
    let settings = settings(owner, action.timestamp);
    let root = open(root)?;
    let io = |e: io::Error| FileOpError::io(ATTEMPT, &*action.newpath, e);
    let place = place(&root, &action.newpath, Last::Keep, ATTEMPT)?;
    let name = c_name(&place.name)?;
    rustix::fs::symlinkat(&*action.oldpath, &place.dir, name.as_c_str()).map_err(|e| io(e.into()))?;
    if let (false, Some((uid, gid))) = (settings.no_chown, settings.owner) {
        meta::chown_at(&place.dir, &name, uid, gid).map_err(io)?;
    }
    if let Some(time) = settings.time {
        rustix::fs::utimensat(&place.dir, name.as_c_str(), &times(time), rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| io(e.into()))?;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::print_stdout, reason = "tests say what they skip")]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    fn tree() -> tempfile::TempDir {
        let outer = tempfile::tempdir().expect("a temporary directory");
        std::fs::create_dir(outer.path().join("root")).expect("a directory");
        std::fs::write(outer.path().join("secret"), "secret").expect("a file");
        outer
    }

    fn mode(outer: &tempfile::TempDir, path: &str) -> u32 {
        std::fs::symlink_metadata(outer.path().join(path)).expect(path).permissions().mode() & 0o7777
    }

    fn make(path: &str, mode: i32, make_parents: bool) -> FileActionMkDir {
        FileActionMkDir { path: path.into(), mode, make_parents, owner: None, timestamp: -1 }
    }

    fn file(path: &str, mode: i32, data: &str) -> FileActionMkFile {
        FileActionMkFile { path: path.into(), mode, data: data.into(), owner: None, timestamp: -1 }
    }

    fn remove(path: &str) -> FileActionRm {
        FileActionRm { path: path.into(), allow_not_found: false, allow_wildcard: false }
    }

    #[test]
    fn c1_11_mkdir() {
        let outer = tree();
        let root = outer.path().join("root");
        mkdir(&root, &make("/a/b", 0o750, true), None).expect("made");
        assert_eq!((mode(&outer, "root/a"), mode(&outer, "root/a/b")), (0o750, 0o750));
        mkdir(&root, &make("/a/b", 0o700, true), None).expect("there already");
        mkdir(&root, &make("/a", 0o700, false), None).expect("there already");
        assert_eq!(mode(&outer, "root/a"), 0o750, "what is there is left alone");
        mkdir(&root, &make("/c", 0o777, false), None).expect("made");
        assert_eq!(mode(&outer, "root/c"), 0o777, "no umask");
        let err = mkdir(&root, &make("/x/y", 0o755, false), None).expect_err("no parent").to_string();
        assert_eq!(err, "failed to create directory /x/y: entity not found");
        std::fs::write(root.join("f"), "").expect("a file");
        let err = mkdir(&root, &make("/f/y", 0o755, true), None).expect_err("no directory").to_string();
        assert_eq!(err, "failed to create directory /f/y: Not a directory (os error 20)");
        mkdir(&root, &FileActionMkDir { timestamp: 5_000_000_000, ..make("/t/u", 0o755, true) }, None).expect("made");
        for path in ["root/t", "root/t/u"] {
            assert_eq!(std::fs::metadata(outer.path().join(path)).expect(path).mtime(), 5);
        }
    }

    #[test]
    fn c1_11_owners() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: owners can only be set by uid 0");
            return;
        }
        let outer = tree();
        let root = outer.path().join("root");
        let owner = |path: &str| std::fs::symlink_metadata(root.join(path)).map(|m| (m.uid(), m.gid())).expect(path);
        mkdir(&root, &make("/a/b", 0o755, true), Some((1, 2))).expect("made");
        mkfile(&root, &file("/a/f", 0o644, ""), Some((3, 4))).expect("made");
        let link = FileActionSymlink { oldpath: "x".into(), newpath: "/a/l".into(), owner: None, timestamp: -1 };
        symlink_action(&root, &link, Some((5, 6)));
        assert_eq!((owner("a"), owner("a/b"), owner("a/f"), owner("a/l")), ((1, 2), (1, 2), (3, 4), (5, 6)));
    }

    fn symlink_action(root: &Path, action: &FileActionSymlink, owner: Option<(u32, u32)>) {
        super::symlink(root, action, owner).expect("made");
    }

    #[test]
    fn c1_11_mkfile() {
        let outer = tree();
        let root = outer.path().join("root");
        mkfile(&root, &file("/f", 0o640, "one"), None).expect("made");
        assert_eq!(mode(&outer, "root/f"), 0o640);
        mkfile(&root, &file("f", 0o777, "2"), None).expect("overwritten");
        assert_eq!(std::fs::read_to_string(root.join("f")).expect("a file"), "2");
        assert_eq!(mode(&outer, "root/f"), 0o640);
        let err = mkfile(&root, &file("/no/f", 0o644, ""), None).expect_err("no parent").to_string();
        assert_eq!(err, "failed to create /no/f: entity not found");
        std::fs::create_dir(root.join("d")).expect("a directory");
        let err = mkfile(&root, &file("/d", 0o644, ""), None).expect_err("a directory").to_string();
        assert_eq!(err, "failed to write /d: it is there and is no regular file");
        symlink("../../secret", root.join("out")).expect("a link");
        mkfile(&root, &file("/out", 0o644, "inside"), None).expect("made inside");
        assert_eq!(std::fs::read_to_string(root.join("secret")).expect("a file"), "inside");
        assert_eq!(std::fs::read_to_string(outer.path().join("secret")).expect("a file"), "secret");
    }

    #[test]
    fn c1_11_rm() {
        let outer = tree();
        let root = outer.path().join("root");
        for path in ["a/x.txt", "a/y.txt", "a/z.md", "b/deep/er/f", "kept"] {
            std::fs::create_dir_all(root.join(path).parent().expect("a parent")).expect("directories");
            std::fs::write(root.join(path), "").expect("a file");
        }
        symlink(outer.path(), root.join("out")).expect("a link");
        symlink("kept", root.join("link")).expect("a link");
        rm(&root, &FileActionRm { allow_wildcard: true, ..remove("/a/*.txt") }).expect("removed");
        rm(&root, &remove("/b")).expect("removed");
        rm(&root, &remove("/link")).expect("removed, not its target");
        let gone = rm(&root, &remove("/out/secret")).expect_err("not there inside the root").to_string();
        assert_eq!(gone, "\"/out/secret\": not found");
        rm(&root, &FileActionRm { allow_not_found: true, ..remove("/b") }).expect("gone already");
        rm(&root, &remove("/out")).expect("removed, not its target");
        for path in ["/", "..", ""] {
            let err = rm(&root, &remove(path)).expect_err("the root").to_string();
            assert_eq!(err, "cannot remove the root of a file system");
        }
        let mut left: Vec<_> =
            std::fs::read_dir(&root).expect("a directory").map(|e| e.expect("an entry").file_name()).collect();
        left.sort();
        assert_eq!(left, ["a", "kept"]);
        assert!(root.join("a/z.md").exists() && !root.join("a/x.txt").exists());
        assert_eq!(std::fs::read_to_string(outer.path().join("secret")).expect("a file"), "secret");
    }

    #[test]
    fn c1_11_symlink() {
        let outer = tree();
        let root = outer.path().join("root");
        symlink("/", root.join("up")).expect("a link");
        let link = |newpath: &str| FileActionSymlink {
            oldpath: "../../anywhere".into(),
            newpath: newpath.into(),
            owner: None,
            timestamp: 7_000_000_000,
        };
        super::symlink(&root, &link("/up/l"), None).expect("made");
        assert_eq!(std::fs::read_link(root.join("l")).expect("a link"), Path::new("../../anywhere"));
        assert_eq!(std::fs::symlink_metadata(root.join("l")).expect("a link").mtime(), 7);
        let err = super::symlink(&root, &link("/l"), None).expect_err("there already").to_string();
        assert_eq!(err, "failed to create link /l: File exists (os error 17)");
    }
}
