//! The rules of layers, one by one.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::entry::{Entry, EntryKind, Timestamp};
use super::super::lowers::is_whiteout;
use super::super::{
    ApplyOptions, ArchiveError, Awaited, Buffered, Dialect, LayerOptions, LayerWriter, MergedIndex, NoteKind, Parent,
    Places, TreeHints, apply_above, diff_trees_with,
};
use super::support::{
    diff_native, diff_upper, dir, file, is_root, layer, link, listing, mine, native, overlay, plain, raw_tar, seen,
    set_mtime, set_xattr, skipped, temp, tree, try_apply,
};

fn meta(path: &Path) -> fs::Metadata {
    fs::symlink_metadata(path).expect("exists")
}

/// A parent with one of each, as a tar.
fn base() -> Vec<u8> {
    raw_tar(&[
        (dir("d"), b""),
        (file("d/keep", b"keep"), b"keep"),
        (file("d/gone", b"gone"), b"gone"),
        (dir("d/sub"), b""),
        (file("d/sub/deep", b"deep"), b"deep"),
        (Entry { mode: 0o1777, ..dir("tmp") }, b""),
        (link("lib", "d/sub"), b""),
    ])
}

/// Owner and mode of a file are set only where it was not made with them: by the directory it is in, or by bits that are not given to
/// new files.
#[test]
fn files_look_as_their_entries_say_wherever_they_are() {
    let temp = temp();
    let target = temp.path().join("layer");
    let group = if is_root() { 7 } else { dir("").gid };
    let passes_on = Entry { gid: group, mode: 0o2775, ..dir("d") };
    let modes = [0o644, 0o777, 0o444, 0o000, 0o4755, 0o2755, 0o1600];
    let files = modes.map(|mode| Entry { mode, ..file(&format!("d/{mode:o}"), b"x") });
    let other = Entry { uid: dir("").uid, gid: group, ..file("other", b"x") };
    let mut entries: Vec<(Entry, &[u8])> = vec![(passes_on, b""), (other, b"x")];
    entries.extend(files.map(|file| (file, &b"x"[..])));
    overlay(&raw_tar(&entries), &target, &[]);
    for (entry, _) in entries {
        let meta = meta(&target.join(&entry.path));
        let found = (meta.mode() & 0o7777, meta.uid(), meta.gid());
        assert_eq!(found, (entry.mode, entry.uid, entry.gid), "{}", entry.path.display());
    }
}

#[test]
fn directories_appear_only_for_their_own_sake() {
    let temp = temp();
    let (lower, upper) = (temp.path().join("lower"), temp.path().join("upper"));
    overlay(&base(), &lower, &[]);
    fs::create_dir_all(upper.join("d/sub")).expect("creates");
    fs::write(upper.join("d/sub/new"), "x").expect("writes");
    let (_, summary, stats) = diff_upper(&upper, std::slice::from_ref(&lower));
    assert_eq!(listing(&summary), ["- d/sub/new"]);
    assert_eq!((stats.entries, stats.unchanged, stats.bytes), (1, 2, 1));
    fs::set_permissions(upper.join("d"), fs::Permissions::from_mode(0o700)).expect("sets the mode");
    set_xattr(&upper.join("d/sub"), "user.mine", b"1");
    let (_, summary, _) = diff_upper(&upper, &[lower]);
    assert_eq!(listing(&summary), ["d d", "d d/sub", "- d/sub/new"]);
}

#[test]
fn opaque_directories_become_explicit_deletions() {
    let temp = temp();
    let (lower, upper) = (temp.path().join("lower"), temp.path().join("upper"));
    overlay(&base(), &lower, &[]);
    fs::create_dir_all(upper.join("d/sub")).expect("creates");
    set_xattr(&upper.join("d"), "user.overlay.opaque", b"y");
    fs::write(upper.join("d/keep"), "keep").expect("writes");
    set_mtime(&upper.join("d/keep"), Timestamp::default());
    let (_, summary, stats) = diff_upper(&upper, std::slice::from_ref(&lower));
    // `d/keep` is as it was; what `d/sub` had is hidden, too, although only `d` says so.
    assert_eq!(listing(&summary), ["w d/gone", "w d/sub/deep"]);
    assert_eq!(stats.whiteouts, 2);
    // Any other value is not opaque.
    set_xattr(&upper.join("d"), "user.overlay.opaque", b"x");
    assert_eq!(listing(&diff_upper(&upper, &[lower]).1), Vec::<String>::new());
}

#[test]
fn whiteouts_are_seen_before_hard_links() {
    let temp = temp();
    let (lower, upper) = (temp.path().join("lower"), temp.path().join("upper"));
    overlay(&base(), &lower, &[]);
    // The kernel links all its whiteouts to one inode.
    let tar = raw_tar(&[(Entry::whiteout("d/gone"), b""), (Entry::whiteout("tmp"), b"")]);
    overlay(&tar, &upper, std::slice::from_ref(&lower));
    fs::remove_file(upper.join("tmp")).expect("removes");
    fs::hard_link(upper.join("d/gone"), upper.join("tmp")).expect("links");
    let (bytes, summary, _) = diff_upper(&upper, &[lower]);
    assert_eq!(listing(&summary), ["w d/gone", "w tmp"]);
    assert!(bytes == tar, "fixed mode, owner and time");
}

#[test]
fn a_whiteout_of_nothing_is_dropped() {
    let temp = temp();
    let upper = temp.path().join("upper");
    overlay(&raw_tar(&[(dir("d"), b""), (Entry::whiteout("d/never"), b"")]), &upper, &[]);
    assert!(is_whiteout(&meta(&upper.join("d/never"))));
    assert_eq!(listing(&diff_upper(&upper, &[]).1), ["d d"]);
}

#[test]
fn c6_10_hard_links_are_kept_inside_a_layer() {
    let temp = temp();
    let new = temp.path().join("new");
    fs::create_dir(&new).expect("creates");
    fs::write(new.join("b"), "x").expect("writes");
    fs::hard_link(new.join("b"), new.join("a")).expect("links");
    let (tar, summary, _) = diff_native(None, &new);
    assert_eq!(listing(&summary), ["- a", "h b"]);
    assert_eq!(summary.index.lookup(Path::new("b")).expect("there").digest, Some(crate::base::Digest::sha256("x")));
    let again = temp.path().join("again");
    overlay(&tar, &again, &[]);
    assert_eq!(meta(&again.join("a")).ino(), meta(&again.join("b")).ino());
}

#[test]
fn a_hard_link_to_a_lower_file_copies_it_up() {
    let temp = temp();
    let (lower, upper) = (temp.path().join("lower"), temp.path().join("upper"));
    overlay(&base(), &lower, &[]);
    let mut entry = mine(Entry::hardlink("linked", "d/sub/deep"));
    let tar = raw_tar(&[(entry.clone(), b"")]);
    overlay(&tar, &upper, std::slice::from_ref(&lower));
    assert_eq!(fs::read(upper.join("linked")).expect("reads"), b"deep");
    assert_eq!(meta(&upper.join("linked")).ino(), meta(&upper.join("d/sub/deep")).ino());
    assert_eq!(
        listing(&diff_upper(&upper, std::slice::from_ref(&lower)).1),
        ["- linked"],
        "the copy equals the parent's"
    );
    // Through the parent's symlink.
    entry.link = "lib/deep".into();
    let other = temp.path().join("other");
    overlay(&raw_tar(&[(entry.clone(), b"")]), &other, std::slice::from_ref(&lower));
    assert_eq!(meta(&other.join("linked")).ino(), meta(&other.join("d/sub/deep")).ino());
    // Not to what the layer deleted.
    entry.link = "d/gone".into();
    let deleted = temp.path().join("deleted");
    fs::create_dir(&deleted).expect("creates");
    let tar = raw_tar(&[(Entry::whiteout("d/gone"), b""), (entry, b"")]);
    let error = try_apply(&tar, &deleted, Dialect::Overlay, &[lower]).expect_err("refused");
    assert!(error.to_string().contains("no such file"), "{error}");
}

#[test]
fn parents_are_taken_from_lower_layers() {
    let temp = temp();
    let (lower, upper) = (temp.path().join("lower"), temp.path().join("upper"));
    overlay(&base(), &lower, &[]);
    set_mtime(&lower.join("tmp"), Timestamp { secs: 77, nanos: 5 });
    let tar = raw_tar(&[(file("lib/x", b"1"), b"1"), (file("new/y", b"2"), b"2"), (file("tmp/z", b"3"), b"3")]);
    let summary = overlay(&tar, &upper, std::slice::from_ref(&lower));
    // `lib` is a symlink below: a directory of that name would hide it.
    assert_eq!(fs::read(upper.join("d/sub/x")).expect("reads"), b"1");
    assert!(!upper.join("lib").exists());
    assert!(summary.index.lookup(Path::new("d/sub/x")).is_some());
    let tmp = meta(&upper.join("tmp"));
    assert_eq!((tmp.mode() & 0o7777, tmp.mtime(), tmp.mtime_nsec()), (0o1777, 77, 5));
    // Nobody has `new`: it gets a fixed mode and time, and the index knows it.
    assert_eq!((meta(&upper.join("new")).mode() & 0o7777, meta(&upper.join("new")).mtime()), (0o755, 0));
    assert_eq!(summary.index.lookup(Path::new("new")).expect("there").entry.kind, EntryKind::Dir);
    assert_eq!(listing(&diff_upper(&upper, &[lower]).1), ["- d/sub/x", "d new", "- new/y", "- tmp/z"]);
}

#[test]
fn layers_look_the_same_above_ones_that_are_still_on_their_way() {
    let temp = temp();
    let lower = temp.path().join("lower");
    overlay(&base(), &lower, &[]);
    fs::set_permissions(&lower, fs::Permissions::from_mode(0o711)).expect("sets the mode");
    set_xattr(&lower, "user.mine", b"1");
    set_mtime(&lower, Timestamp { secs: 77, nanos: 5 });
    let root = mine(Entry { mtime: Timestamp::seconds(9), ..Entry::dir("", 0o750) });
    // How often each asks for what is below: to find a parent, or how the root looks, or not at all.
    type Entries = Vec<(Entry, &'static [u8])>;
    let cases: [(&str, Entries, usize); 4] = [
        ("parents", vec![(file("lib/x", b"1"), b"1"), (file("tmp/z", b"3"), b"3"), (dir("d"), b"")], 1),
        ("root", vec![(dir("new"), b""), (file("new/y", b"2"), b"2")], 1),
        ("own root", vec![(root.clone(), b""), (dir("new"), b""), (file("new/y", b"2"), b"2")], 0),
        ("root last", vec![(file("y", b"2"), b"2"), (dir("d"), b""), (root, b"")], 0),
    ];
    for (name, entries, asked) in cases {
        let tar = raw_tar(&entries);
        let (one, other) = (temp.path().join(format!("{name} 1")), temp.path().join(format!("{name} 2")));
        let expected = overlay(&tar, &one, std::slice::from_ref(&lower));
        fs::create_dir(&other).expect("creates");
        let count = Arc::new(AtomicUsize::new(0));
        let below: Awaited = {
            let (count, lower) = (Arc::clone(&count), lower.clone());
            Arc::new(move || {
                count.fetch_add(1, Ordering::SeqCst);
                Ok(vec![lower.clone()])
            })
        };
        let summary =
            apply_above(&mut Buffered::hashed(&tar[..]), &other, below, &ApplyOptions::default()).expect("applies");
        assert_eq!(count.load(Ordering::SeqCst), asked, "{name}");
        assert!(summary.index.to_bytes() == expected.index.to_bytes(), "{name}");
        assert_eq!(tree(&one), tree(&other), "{name}");
        assert_eq!(seen(&one), seen(&other), "{name}: the root");
        assert_eq!(meta(&one).mtime(), meta(&other).mtime(), "{name}: the root's time");
    }
    // What never becomes complete fails who needs it.
    let (tar, target) = (raw_tar(&[(dir("new"), b"")]), temp.path().join("failed"));
    fs::create_dir(&target).expect("creates");
    let below: Awaited = Arc::new(|| Err(std::io::Error::other("gone")));
    assert!(apply_above(&mut Buffered::hashed(&tar[..]), &target, below, &ApplyOptions::default()).is_err());
}

#[test]
fn a_native_tree_keeps_the_times_of_directories_it_is_not_told_about() {
    let temp = temp();
    let target = temp.path().join("t");
    fs::create_dir(&target).expect("creates");
    native(&base(), &target);
    for path in ["d", "d/sub", "tmp"] {
        set_mtime(&target.join(path), Timestamp::seconds(5));
    }
    native(&raw_tar(&[(Entry::whiteout("d/gone"), b""), (file("d/sub/x", b""), b""), (dir("tmp"), b"")]), &target);
    let times: Vec<i64> = ["d", "d/sub", "tmp"].iter().map(|p| meta(&target.join(p)).mtime()).collect();
    assert_eq!(times, [5, 5, 0]);
}

#[test]
fn types_change_both_ways_in_both_dialects() {
    let temp = temp();
    let (lower, upper, tree_root) = (temp.path().join("l"), temp.path().join("u"), temp.path().join("t"));
    overlay(&base(), &lower, &[]);
    fs::create_dir(&tree_root).expect("creates");
    native(&base(), &tree_root);
    let tar = raw_tar(&[
        (file("d", b"now a file"), b"now a file"),
        (dir("lib"), b""),
        (file("lib/inside", b"1"), b"1"),
        (link("tmp", "lib"), b""),
    ]);
    overlay(&tar, &upper, std::slice::from_ref(&lower));
    let summary = native(&tar, &tree_root);
    assert!(meta(&tree_root.join("d")).is_file() && meta(&tree_root.join("tmp")).is_symlink());
    assert_eq!(tree(&upper), tree(&tree_root));
    assert!(diff_upper(&upper, &[lower]).0 == tar);
    assert_eq!(summary.index.len(), 4);
}

#[test]
fn a_layer_that_deletes_and_refills_a_directory() {
    // Other builders write the deletion first, or an opaque marker before or after the content.
    let variants: [Vec<(Entry, &[u8])>; 4] = [
        vec![(Entry::whiteout("d"), b""), (dir("d"), b""), (file("d/new", b"n"), b"n")],
        vec![(dir("d"), b""), (file("d/new", b"n"), b"n"), (Entry::whiteout("d"), b"")],
        vec![(dir("d"), b""), (file("d/.wh..wh..opq", b""), b""), (file("d/new", b"n"), b"n")],
        vec![(dir("d"), b""), (file("d/new", b"n"), b"n"), (file("d/.wh..wh..opq", b""), b"")],
    ];
    for (number, entries) in variants.iter().enumerate() {
        let temp = temp();
        let (lower, upper, tree_root) = (temp.path().join("l"), temp.path().join("u"), temp.path().join("t"));
        let below = overlay(&base(), &lower, &[]);
        fs::create_dir(&tree_root).expect("creates");
        native(&base(), &tree_root);
        let tar = raw_tar(entries);
        let summary = overlay(&tar, &upper, std::slice::from_ref(&lower));
        let other = native(&tar, &tree_root);
        let names: Vec<_> = fs::read_dir(tree_root.join("d")).expect("lists").collect();
        assert_eq!(names.len(), 1, "variant {number}");
        assert_eq!(
            listing(&diff_upper(&upper, &[lower]).1),
            ["w d/gone", "w d/keep", "- d/new", "w d/sub"],
            "variant {number}"
        );
        assert!(summary.index == other.index, "variant {number}");
        let merged = MergedIndex::new([&below.index, &summary.index]);
        assert!(merged.lookup(Path::new("d/new")).is_some() && merged.lookup(Path::new("d/keep")).is_none());
        assert_eq!(merged.children(Path::new("d")).len(), 1, "variant {number}");
        assert!(merged.lookup(Path::new("tmp")).is_some());
    }
}

#[test]
fn opaque_entries_are_written_as_markers() {
    let temp = temp();
    let entry = Entry { opaque: true, ..dir("d") };
    let (tar, summary) = layer(&[(entry, b""), (file("d/new", b"n"), b"n")], &plain());
    assert!(summary.index.lookup(Path::new("d")).expect("there").entry.opaque);
    let upper = temp.path().join("u");
    assert!(overlay(&tar, &upper, &[]).index.lookup(Path::new("d")).expect("there").entry.opaque);
}

#[test]
fn a6_11_sockets_are_skipped() {
    let temp = temp();
    let new = temp.path().join("new");
    fs::create_dir(&new).expect("creates");
    let _listener = UnixListener::bind(new.join("socket")).expect("binds");
    fs::write(new.join("x"), "").expect("writes");
    assert!(meta(&new.join("socket")).file_type().is_socket());
    assert_eq!(listing(&diff_native(None, &new).1), ["- x"]);
    // In the place of a parent's file it deletes that; in the parent it is nothing.
    let old = temp.path().join("old");
    fs::create_dir(&old).expect("creates");
    fs::write(old.join("socket"), "").expect("writes");
    assert_eq!(listing(&diff_native(Some(&old), &new).1), ["w socket", "- x"]);
    assert_eq!(listing(&diff_native(Some(&new), &old).1), ["- socket", "w x"]);
}

#[test]
fn names_that_mean_deletions_are_left_out_and_noted() {
    let temp = temp();
    fs::write(temp.path().join(".wh.x"), "").expect("writes");
    let (_, summary, stats) = diff_native(None, temp.path());
    assert!(summary.index.is_empty());
    assert_eq!(stats.notes[0].kind, NoteKind::ReservedName);
}

#[test]
fn overlays_own_attributes_stay_out_of_layers() {
    let temp = temp();
    fs::write(temp.path().join("x"), "").expect("writes");
    for name in ["user.overlay.origin", "user.overlay.overlay.opaque", "user.rootlesscontainers", "user.kept"] {
        set_xattr(&temp.path().join("x"), name, b"v");
    }
    let (_, summary, _) = diff_native(None, temp.path());
    let entry = summary.index.lookup(Path::new("x")).expect("there").entry;
    assert_eq!(entry.xattrs.keys().map(|k| String::from_utf8_lossy(k)).collect::<Vec<_>>(), ["user.kept"]);
    // These change what a file is; taking it at face value would lose its content.
    set_xattr(&temp.path().join("x"), "user.overlay.metacopy", b"");
    let mut writer = LayerWriter::new(Vec::new(), &plain()).expect("valid options");
    let error = super::super::diff_overlay(temp.path(), &[], &mut writer).expect_err("refused");
    assert!(error.to_string().contains("metacopy"), "{error}");
}

#[test]
fn owners_modes_times_and_capabilities_come_back() {
    let temp = temp();
    let time = Timestamp { secs: 1_234_567_890, nanos: 987_654_321 };
    let mut setuid = file("setuid", b"x");
    (setuid.mode, setuid.mtime) = (0o6755, time);
    setuid.xattrs.insert(b"user.mime".to_vec(), b"text\0".to_vec());
    let mut symlink = link("link", "setuid");
    symlink.mtime = time;
    let mut directory = dir("dir");
    (directory.mode, directory.mtime) = (0o2750, time);
    if is_root() {
        (setuid.uid, setuid.gid) = (12, 34);
        (symlink.uid, symlink.gid) = (56, 78);
        let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        setuid.xattrs.insert(b"security.capability".to_vec(), capability.to_vec());
    } else {
        skipped("owners and file capabilities need root");
    }
    let entries = [directory.clone(), file("dir/later", b""), symlink, setuid];
    let tar = raw_tar(
        &entries.iter().map(|e| (e.clone(), &b"x"[..usize::try_from(e.size).expect("small")])).collect::<Vec<_>>(),
    );
    let summary = native(&tar, temp.path());
    assert!(summary.notes.is_empty(), "{:?}", summary.notes);
    let found = meta(&temp.path().join("dir"));
    assert_eq!((found.mode() & 0o7777, found.mtime_nsec()), (0o2750, i64::from(time.nanos)), "set after its content");
    // Reading it back gives the same entries.
    let (_, again, _) = diff_native(None, temp.path());
    let sorted = |index: &super::super::TreeIndex| index.iter().map(|f| f.entry).collect::<Vec<_>>();
    assert_eq!(sorted(&again.index), sorted(&summary.index));
}

#[test]
fn a_hint_does_not_hide_directories_that_changed_places() {
    let temp = temp();
    let (old, new) = (temp.path().join("old"), temp.path().join("new"));
    for (path, content) in [("a/x", "one"), ("b/x", "two"), ("c/x", "one")] {
        fs::create_dir_all(old.join(path).parent().expect("has one")).expect("creates");
        fs::write(old.join(path), content).expect("writes");
        set_mtime(&old.join(path), Timestamp::seconds(7));
    }
    super::support::copy_tree(&old, &new);
    let marker = super::support::moment(temp.path());
    let places = Places::of(&new).expect("looks");
    // No file's own change time tells.
    for (from, to) in [("a", "t"), ("b", "a"), ("t", "b")] {
        fs::rename(new.join(from), new.join(to)).expect("renames");
    }
    let places = Some(std::sync::Arc::new(places));
    for hints in [
        TreeHints { untouched_before: Some(marker), places },
        TreeHints { untouched_before: Some(marker), places: None },
    ] {
        let mut writer = LayerWriter::new(Vec::new(), &plain()).expect("valid options");
        diff_trees_with(Parent::tree(Some(&old)), &new, &hints, &mut writer).expect("diffs");
        assert_eq!(listing(&writer.finish().expect("finishes").1), ["- a/x", "- b/x"]);
    }
}

/// Takes so many bytes, then no more.
struct Full(usize);

impl std::io::Write for Full {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 = self.0.checked_sub(bytes.len()).ok_or(std::io::ErrorKind::StorageFull)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_disk_is_told_at_any_moment() {
    let noise: Vec<u8> = (0..3_000_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 20) as u8).collect();
    for (room, threads) in [(5, 1), (100_000, 1), (100_000, 4), (1_000_000, 4)] {
        let options = LayerOptions { threads, ..plain() };
        let outcome = LayerWriter::new(Full(room), &options).and_then(|mut writer| {
            writer.append(&file("x", &noise), Some(&mut &*noise))?;
            writer.finish().map(drop)
        });
        let error = outcome.expect_err("no room");
        assert_eq!(error.kind(), crate::base::FaultKind::NoSpace, "{error}");
    }
}

#[test]
fn a_file_that_shrinks_is_an_error() {
    let mut writer = LayerWriter::new(Vec::new(), &LayerOptions::default()).expect("valid options");
    let error = writer.append(&file("x", b"12345"), Some(&mut &b"123"[..])).expect_err("too short");
    assert!(matches!(error, ArchiveError::Changed { expected: 5, found: 3, .. }), "{error}");
}

#[test]
fn the_writer_refuses_names_that_escape() {
    for name in ["../x", "/x", "a/../b", "./a", "a//b", ""] {
        let mut writer = LayerWriter::new(Vec::new(), &plain()).expect("valid options");
        assert!(writer.append(&file(name, b""), None).is_err(), "{name:?}");
    }
}
