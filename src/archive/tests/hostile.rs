//! Archives that try to leave their target, or to smuggle something in.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use super::super::entry::{Entry, EntryKind};
use super::super::index::TreeIndex;
use super::super::{
    ApplyOptions, ArchiveError, ArchiveFormat, Buffered, Dialect, NoteKind, UnpackLimits, apply, extract_archive,
    index_layer,
};
use super::support::{dir, file, link, mine, native, overlay, raw_tar, skipped, temp, tree, try_apply};

/// A directory with a secret beside the target; the secret must survive and stay alone.
struct Jail {
    temp: tempfile::TempDir,
}

impl Jail {
    fn new() -> Self {
        let temp = temp();
        fs::create_dir(temp.path().join("target")).expect("creates");
        fs::create_dir(temp.path().join("outside")).expect("creates");
        fs::write(temp.path().join("outside/secret"), "secret").expect("writes");
        Self { temp }
    }

    fn target(&self) -> PathBuf {
        self.temp.path().join("target")
    }

    fn outside(&self) -> String {
        self.temp.path().join("outside").display().to_string()
    }

    /// In both dialects and as an ADD; whether any of them succeeded.
    fn attack(&self, entries: &[(Entry, &[u8])]) -> bool {
        let tar = raw_tar(entries);
        let before = self.outside_state();
        let mut any = false;
        for variant in 0..3 {
            fs::remove_dir_all(self.target()).expect("removes");
            fs::create_dir(self.target()).expect("creates");
            let result = match variant {
                0 => try_apply(&tar, &self.target(), Dialect::Native, &[]).map(drop),
                1 => try_apply(&tar, &self.target(), Dialect::Overlay, &[]).map(drop),
                _ => self.add(&tar, Path::new("/")),
            };
            any |= result.is_ok();
            assert_eq!(before, self.outside_state(), "{result:?}");
            assert!(!Path::new("/rbuild-escaped").exists());
        }
        any
    }

    fn add(&self, tar: &[u8], dest: &Path) -> Result<(), ArchiveError> {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(tar).expect("writes");
        extract_archive(file, ArchiveFormat::Tar, &self.target(), dest, None).map(drop)
    }

    fn outside_state(&self) -> (Vec<PathBuf>, Vec<u8>, u64, u32) {
        let secret = self.temp.path().join("outside/secret");
        let meta = fs::symlink_metadata(&secret).expect("exists");
        let mut names: Vec<PathBuf> =
            fs::read_dir(self.temp.path().join("outside")).expect("lists").map(|e| e.expect("lists").path()).collect();
        names.extend(fs::read_dir(self.temp.path()).expect("lists").map(|e| e.expect("lists").path()));
        names.sort();
        (names, fs::read(&secret).expect("reads"), meta.nlink(), meta.mode())
    }
}

#[test]
fn names_cannot_leave_the_target() {
    let jail = Jail::new();
    for name in ["../outside/new", "a/../../outside/new", "..", "a/.."] {
        assert!(!jail.attack(&[(file(name, b"x"), b"x")]), "{name}");
        assert!(!jail.attack(&[(dir(name), b"")]), "{name}");
    }
    // Absolute names are names in the target.
    assert!(jail.attack(&[(file("/rbuild-escaped", b"x"), b"x")]));
    assert!(jail.target().join("rbuild-escaped").exists());
}

#[test]
fn planted_symlinks_lead_nowhere_else() {
    let jail = Jail::new();
    let outside = jail.outside();
    for text in [outside.as_str(), "../outside", "../../../../../../../../outside", "/proc/self/cwd", "/proc/self/root"]
    {
        jail.attack(&[(link("door", text), b""), (file("door/new", b"x"), b"x")]);
        jail.attack(&[(link("door", text), b""), (file("door/secret", b"x"), b"x")]);
        jail.attack(&[(link("door", text), b""), (dir("door"), b""), (file("door/new", b"x"), b"x")]);
        jail.attack(&[(link("door", text), b""), (Entry::whiteout("door/secret"), b"")]);
        jail.attack(&[(link("door", text), b""), (file("door/.wh..wh..opq", b""), b"")]);
        jail.attack(&[(link("a", text), b""), (link("b", "a"), b""), (file("b/new", b"x"), b"x")]);
        jail.attack(&[(link("door", &format!("{text}/new")), b""), (file("door", b"x"), b"x")]);
        jail.attack(&[(Entry { mode: 0o777, ..link("door", &format!("{text}/secret")) }, b""), (dir("door"), b"")]);
    }
    // A circle ends.
    let circle = [(link("a", "b"), &b""[..]), (link("b", "a"), b""), (file("a/x", b""), b"")];
    assert!(!jail.attack(&circle));
}

#[test]
fn hard_links_stay_inside() {
    let jail = Jail::new();
    let secret = format!("{}/secret", jail.outside());
    for target in [secret.as_str(), "../outside/secret", "/etc/passwd", "missing", "", ".", "/"] {
        assert!(!jail.attack(&[(mine(Entry::hardlink("stolen", target)), b"")]), "{target}");
    }
    let through = [(link("door", &jail.outside()), &b""[..]), (mine(Entry::hardlink("stolen", "door/secret")), b"")];
    assert!(!jail.attack(&through));
    // A hard link to a symlink is the symlink again: writing "through" it replaces it.
    assert!(jail.attack(&[
        (link("door", &secret), b""),
        (mine(Entry::hardlink("stolen", "door")), b""),
        (file("stolen", b"overwritten"), b"overwritten"),
    ]));
    assert!(!jail.attack(&[(dir("d"), b""), (mine(Entry::hardlink("x", "d")), b"")]));
}

#[test]
fn a_file_is_no_directory() {
    let jail = Jail::new();
    assert!(!jail.attack(&[(file("a", b""), b""), (file("a/b", b""), b"")]));
    assert!(!jail.attack(&[(file("", b""), b"")]));
}

#[test]
fn a_whiteout_must_name_something() {
    let jail = Jail::new();
    for name in [".wh.", ".wh..", ".wh...", "a/.wh..."] {
        let tar = raw_tar(&[(dir("a"), b""), (file(name, b""), b"")]);
        for dialect in [Dialect::Native, Dialect::Overlay] {
            fs::remove_dir_all(jail.target()).expect("removes");
            fs::create_dir(jail.target()).expect("creates");
            let error = try_apply(&tar, &jail.target(), dialect, &[]).expect_err("refused");
            assert!(matches!(error, ArchiveError::Refused { .. }), "{name}: {error}");
        }
    }
    // Left over from aufs; no deletion, and nothing to extract.
    let summary = native(&raw_tar(&[(dir(".wh..wh.plnk"), b"")]), &jail.target());
    assert!(summary.index.is_empty());
}

#[test]
fn a_device_zero_zero_is_no_deletion() {
    let temp = temp();
    let (lower, upper, plain) = (temp.path().join("l"), temp.path().join("u"), temp.path().join("p"));
    overlay(&raw_tar(&[(file("passwd", b"x"), b"x")]), &lower, &[]);
    fs::create_dir(&plain).expect("creates");
    let tar = raw_tar(&[(Entry::new("passwd", EntryKind::Char), b"")]);
    for summary in [overlay(&tar, &upper, &[lower]), native(&tar, &plain)] {
        assert_eq!(summary.notes[0].kind, NoteKind::DeviceZero);
        assert!(summary.index.is_empty());
    }
    assert!(tree(&upper).is_empty() && tree(&plain).is_empty());
}

#[test]
fn devices_are_noted_where_they_cannot_be_made() {
    let temp = temp();
    let null = Entry { device: (1, 3), mode: 0o666, ..mine(Entry::new("null", EntryKind::Char)) };
    let summary = native(&raw_tar(&[(null.clone(), b"")]), temp.path());
    // Either it is there, or it is noted; the index knows it in any case.
    let made = temp.path().join("null").exists();
    assert_eq!(summary.notes.iter().any(|n| n.kind == NoteKind::DeviceRefused), !made);
    assert_eq!(summary.index.lookup(Path::new("null")).expect("there").entry, null);
}

#[test]
fn smuggled_attributes_are_dropped() {
    let temp = temp();
    let names = [
        "user.overlay.opaque",
        "user.overlay.whiteout",
        "trusted.overlay.opaque",
        "user.rootlesscontainers",
        "user.rbuild.x",
    ];
    let mut entry = dir("d");
    for name in names {
        entry.xattrs.insert(name.into(), b"y".to_vec());
    }
    let tar = raw_tar(&[(entry, b"")]);
    let summary = overlay(&tar, &temp.path().join("u"), &[]);
    assert_eq!(summary.notes.len(), names.len());
    assert!(summary.index.lookup(Path::new("d")).expect("there").entry.xattrs.is_empty());
    let mut list = [0_u8; 256];
    let length = rustix::fs::listxattr(temp.path().join("u/d"), &mut list).expect("lists");
    assert!(!list[..length].windows(7).any(|w| w == b"overlay"), "nothing reached the disk");
    assert!(index_layer(&mut &*tar, &ApplyOptions::default()).expect("indexes").index == summary.index);
}

#[test]
fn ids_that_cannot_be_given_are_noted() {
    if super::support::is_root() {
        skipped("root can give every id");
        return;
    }
    let temp = temp();
    let mut entry = file("x", b"");
    (entry.uid, entry.gid, entry.mode) = (12345, 54321, 0o4755);
    let summary = native(&raw_tar(&[(entry, b"")]), temp.path());
    assert_eq!(summary.notes[0].kind, NoteKind::UnmappedOwner { uid: 12345, gid: 54321 });
    let mode = fs::metadata(temp.path().join("x")).expect("exists").mode();
    assert_eq!(mode & 0o7777, 0o755, "setuid to whom it was not meant for");
    let kept = summary.index.lookup(Path::new("x")).expect("there").entry;
    assert_eq!((kept.uid, kept.mode), (12345, 0o4755));
}

#[test]
fn an_id_of_minus_one_is_noted() {
    let temp = temp();
    let mut entry = file("x", b"");
    entry.uid = u32::MAX;
    let summary = native(&raw_tar(&[(entry, b"")]), temp.path());
    assert!(matches!(summary.notes[0].kind, NoteKind::UnmappedOwner { uid: u32::MAX, .. }));
}

#[test]
fn damaged_archives_are_errors_and_never_panics() {
    let good = raw_tar(&[(dir("d"), b""), (file("d/x", &[7; 2000]), &[7; 2000]), (link("l", &"t".repeat(200)), b"")]);
    let attempt = |bytes: &[u8]| {
        let temp = temp();
        try_apply(bytes, temp.path(), Dialect::Native, &[]).map(drop)
    };
    attempt(&good).expect("it is good");
    for cut in (1..good.len() - 1024).step_by(97).filter(|cut| cut % 512 != 0) {
        attempt(&good[..cut]).expect_err("truncated");
    }
    // Its end is two blocks; of what stops after the first one GNU tar says so and goes on, what stops inside of the second one was cut.
    attempt(&good[..good.len() - 512]).expect("one block of zeros");
    attempt(&good[..good.len() - 100]).expect_err("cut in its last block");
    let mut state = 1_u32;
    for _ in 0..300 {
        let mut bad = good.clone();
        for _ in 0..3 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let at = state as usize % bad.len();
            bad[at] ^= (state >> 13) as u8;
        }
        // Most are caught by a checksum; none may panic.
        let _ = attempt(&bad);
    }
}

/// With checksums that fit, so that what was changed is read: nothing leaves the target, nothing panics.
#[test]
fn mutated_archives_stay_in_their_target() {
    let jail = Jail::new();
    let seed = raw_tar(&[
        (dir("d"), b""),
        (file("d/x", &[7; 700]), &[7; 700]),
        (link("l", &jail.outside()), b""),
        (link("up", "../.."), b""),
        (file("d/.wh.y", b""), b""),
    ]);
    let before = jail.outside_state();
    crate::base::mutation::each(&[&seed], 600, |bytes| {
        let mut bytes = bytes.to_vec();
        for header in bytes.chunks_exact_mut(512).filter(|block| block[257..262] == *b"ustar") {
            header[148..156].fill(b' ');
            let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
            header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        fs::remove_dir_all(jail.target()).expect("removes");
        fs::create_dir(jail.target()).expect("creates");
        let _ = try_apply(&bytes, &jail.target(), Dialect::Native, &[]);
        let _ = jail.add(&bytes, Path::new("/l"));
    });
    assert_eq!(jail.outside_state(), before, "something outside is different");
}

#[test]
fn what_an_archive_can_make_large_is_bounded() {
    let header = |flag: u8, size: &[u8; 12], magic: bool| {
        let mut out = Vec::new();
        super::super::header::encode(&file("x", b""), &mut out);
        out[156] = flag;
        out[124..136].copy_from_slice(size);
        if magic {
            out[257..265].copy_from_slice(b"ustar  \0");
        }
        out[148..156].fill(b' ');
        let sum: u32 = out.iter().map(|b| u32::from(*b)).sum();
        out[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        out
    };
    for (flag, magic) in [(b'x', false), (b'g', false), (b'L', true), (b'K', true)] {
        // 8 GB of long name, of which nothing follows: refused before memory is taken.
        let error =
            try_apply(&header(flag, b"77777777777\0", magic), temp().path(), Dialect::Native, &[]).expect_err("huge");
        assert!(matches!(error, ArchiveError::Malformed { .. }), "{error}");
    }
    let tar = raw_tar(&[(file("x", &[0; 5000]), &[0; 5000])]);
    let options = ApplyOptions { limits: UnpackLimits { bytes: 4000, ..UnpackLimits::default() } };
    let error =
        apply(&mut Buffered::hashed(&tar[..]), temp().path(), Dialect::Native, &[], &options).expect_err("too large");
    assert!(error.to_string().contains("larger than 4000 bytes (unpack.max-size"), "{error}");
    let tar = raw_tar(&[(file("a", b""), b""), (file("b", b""), b""), (file("c", b""), b"")]);
    let options = ApplyOptions { limits: UnpackLimits { entries: 2, ..UnpackLimits::default() } };
    let error =
        apply(&mut Buffered::hashed(&tar[..]), temp().path(), Dialect::Native, &[], &options).expect_err("too many");
    assert!(error.to_string().contains("more entries than the limit (unpack.max-entries"), "{error}");
}

#[test]
fn deep_trees_are_no_problem_and_too_deep_ones_an_error() {
    let temp = temp();
    let deep = |depth: usize| -> PathBuf { std::iter::repeat_n("d", depth).collect() };
    for depth in [500, 1500] {
        let mut tar = Vec::new();
        for level in 1..=depth {
            super::super::header::encode(&mine(Entry::dir(deep(level), 0o755)), &mut tar);
        }
        tar.resize(tar.len() + 1024, 0);
        let root = temp.path().join(depth.to_string());
        fs::create_dir(&root).expect("creates");
        native(&tar, &root);
        let (again, summary, _) = super::support::diff_native(None, &root);
        assert_eq!((summary.index.len(), again.len()), (depth, tar.len()));
    }
    let _ = try_apply(&raw_tar(&[(file(&"d/".repeat(5000), b""), b"")]), temp.path(), Dialect::Native, &[]);
}

#[test]
fn a6_17_add_stays_inside_the_root() {
    let jail = Jail::new();
    let tar = raw_tar(&[(file("x", b"1"), b"1")]);
    // The destination is a symlink that, outside, would lead away.
    symlink("/outside", jail.target().join("dest")).expect("links");
    jail.add(&tar, Path::new("/dest")).expect("extracts");
    assert_eq!(fs::read(jail.target().join("outside/x")).expect("reads"), b"1");
    jail.add(&tar, Path::new("../../dest/../deeper/./place")).expect("extracts");
    assert_eq!(fs::read(jail.target().join("deeper/place/x")).expect("reads"), b"1");
    // Names that mean deletions in a layer are files here.
    jail.add(&raw_tar(&[(file("outside/.wh.x", b""), b"")]), Path::new("/")).expect("extracts");
    assert!(jail.target().join("outside/x").exists() && jail.target().join("outside/.wh.x").exists());
    assert_eq!(fs::read_dir(jail.outside()).expect("lists").count(), 1);
}

#[test]
fn names_that_are_not_text_survive() {
    let temp = temp();
    let name = PathBuf::from(OsString::from_vec(b"caf\xe9".to_vec()));
    let long = PathBuf::from(OsString::from_vec([&b"\xff"[..], &[b'x'; 200]].concat()));
    let entry = |path: &PathBuf| Entry { path: path.clone(), ..file("", b"") };
    native(&raw_tar(&[(entry(&name), b""), (entry(&long), b"")]), temp.path());
    File::open(temp.path().join(name)).expect("exists");
    File::open(temp.path().join(long)).expect("exists");
}

#[test]
fn a_damaged_index_is_an_error_and_never_a_panic() {
    let (_, summary) = super::support::layer(
        &[(dir("d"), b""), (file("d/x", b"1"), b"1"), (Entry::whiteout("d/y"), b"")],
        &super::support::plain(),
    );
    let good = summary.index.to_bytes();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x55;
        assert!(TreeIndex::from_bytes(&bad).is_err(), "byte {at}");
        assert!(TreeIndex::from_bytes(&good[..at]).is_err(), "length {at}");
    }
}
