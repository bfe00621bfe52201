//! A layer is a pure function of (parent tree, new tree): random trees and edits, through a plain tree and through an
//! overlay upper that is made in one of the many ways the kernel may make one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;
use rustix::fs::{CWD, FileType, Mode};

use super::super::entry::Timestamp;
use super::super::index::TreeIndex;
use super::super::{
    ApplyOptions, MergedIndex, Parent, Places, TreeHints, diff_trees_with, index_layer, writer::LayerWriter,
};
use super::support::{
    copy_dir_times, copy_one, copy_tree, diff_native, diff_upper, moment, native, overlay, plain, seen, set_mtime,
    set_xattr, temp, tree,
};

const LONG: &str =
    "a-name-that-is-too-long-for-the-hundred-bytes-of-a-ustar-header-so-that-a-pax-record-must-say-it-all-here";
const PATHS: [&str; 16] =
    ["a", "a/a", "a/a/a", "a/b", "a/b/ü", "a.b", "b", "b/a", "b/a/x", "b/c", "c", "c/d/e", "c/d", "d", LONG, "b/same"];

#[derive(Debug, Clone, Copy)]
enum Edit {
    Write {
        path: usize,
        text: u8,
    },
    Mkdir {
        path: usize,
    },
    Link {
        path: usize,
        target: u8,
    },
    Pipe {
        path: usize,
    },
    HardLink {
        from: usize,
        to: usize,
    },
    Remove {
        path: usize,
    },
    Rename {
        from: usize,
        to: usize,
    },
    Chmod {
        path: usize,
        mode: u8,
    },
    Touch {
        path: usize,
        time: u8,
    },
    /// Same size, same time, other content.
    Sneak {
        path: usize,
    },
    Attribute {
        path: usize,
        value: u8,
    },
    Recreate {
        path: usize,
    },
}

fn edit() -> impl Strategy<Value = Edit> {
    let path = || 0..PATHS.len();
    prop_oneof![
        4 => (path(), 0..4_u8).prop_map(|(path, text)| Edit::Write { path, text }),
        4 => path().prop_map(|path| Edit::Mkdir { path }),
        1 => (path(), 0..3_u8).prop_map(|(path, target)| Edit::Link { path, target }),
        1 => path().prop_map(|path| Edit::Pipe { path }),
        1 => (path(), path()).prop_map(|(from, to)| Edit::HardLink { from, to }),
        2 => path().prop_map(|path| Edit::Remove { path }),
        2 => (path(), path()).prop_map(|(from, to)| Edit::Rename { from, to }),
        2 => (path(), 0..3_u8).prop_map(|(path, mode)| Edit::Chmod { path, mode }),
        1 => (path(), 0..3_u8).prop_map(|(path, time)| Edit::Touch { path, time }),
        1 => path().prop_map(|path| Edit::Sneak { path }),
        1 => (path(), 0..3_u8).prop_map(|(path, value)| Edit::Attribute { path, value }),
        1 => path().prop_map(|path| Edit::Recreate { path }),
    ]
}

/// Does it if it can be done.
fn perform(root: &Path, edit: Edit, clock: i64) {
    let at = |index: usize| root.join(PATHS[index]);
    let now = Timestamp { secs: 1_700_000_000 + clock, nanos: u32::try_from(clock % 3).expect("small") * 1000 };
    let stamp = |path: &Path| {
        if fs::symlink_metadata(path).is_ok() {
            set_mtime(path, now);
        }
    };
    match edit {
        Edit::Write { path, text } => {
            let path = at(path);
            let is_file = fs::symlink_metadata(&path).is_ok_and(|m| m.is_file());
            // Overlay breaks the parent's hard links, plain trees do not: the documented exception.
            if is_file && fs::metadata(&path).is_ok_and(|m| m.nlink() > 1) {
                let _ = fs::remove_file(&path);
            } else if !is_file && fs::symlink_metadata(&path).is_ok() {
                return;
            }
            let _ = fs::write(&path, format!("content {text}").repeat(usize::from(text) * 300));
            stamp(&path);
        }
        Edit::Mkdir { path } => {
            if fs::create_dir(at(path)).is_ok() {
                stamp(&at(path));
            }
        }
        Edit::Link { path, target } => {
            if symlink(format!("../t{target}"), at(path)).is_ok() {
                stamp(&at(path));
            }
        }
        Edit::Pipe { path } => {
            if rustix::fs::mknodat(CWD, at(path), FileType::Fifo, Mode::RUSR, 0).is_ok() {
                stamp(&at(path));
            }
        }
        Edit::HardLink { from, to } => {
            if fs::symlink_metadata(at(from)).is_ok_and(|m| m.is_file()) {
                let _ = fs::hard_link(at(from), at(to));
            }
        }
        Edit::Remove { path } => {
            if fs::remove_file(at(path)).is_err() {
                let _ = fs::remove_dir_all(at(path));
            }
        }
        Edit::Rename { from, to } => {
            let _ = fs::rename(at(from), at(to));
        }
        Edit::Chmod { path, mode } => {
            let mode = [0o755, 0o700, 0o4711][usize::from(mode)];
            if fs::symlink_metadata(at(path)).is_ok_and(|m| m.is_dir() || (m.is_file() && m.nlink() == 1)) {
                fs::set_permissions(at(path), fs::Permissions::from_mode(mode)).expect("sets the mode");
            }
        }
        Edit::Touch { path, time } => {
            if fs::symlink_metadata(at(path)).is_ok_and(|m| m.nlink() == 1) {
                set_mtime(&at(path), Timestamp::seconds(1000 + i64::from(time)));
            }
        }
        Edit::Sneak { path } => {
            let path = at(path);
            let Ok(meta) = fs::symlink_metadata(&path) else { return };
            if meta.is_file() && meta.nlink() == 1 {
                let mut content = fs::read(&path).expect("reads");
                content.iter_mut().for_each(|b| *b ^= 1);
                fs::write(&path, content).expect("writes");
                set_mtime(&path, Timestamp { secs: meta.mtime(), nanos: meta.mtime_nsec() as u32 });
            }
        }
        Edit::Attribute { path, value } => {
            let path = at(path);
            if fs::symlink_metadata(&path).is_ok_and(|m| m.is_dir() || (m.is_file() && m.nlink() == 1)) {
                set_xattr(&path, "user.test", &[b'v', value]);
            }
        }
        Edit::Recreate { path } => {
            if fs::symlink_metadata(at(path)).is_ok_and(|m| m.is_dir()) {
                fs::remove_dir_all(at(path)).expect("removes");
                fs::create_dir(at(path)).expect("creates");
                stamp(&at(path));
            }
        }
    }
}

/// Makes an upper directory that turns `old` into `new`, deciding freely where overlay leaves a choice.
struct Upper<'a> {
    old: &'a Path,
    new: &'a Path,
    upper: &'a Path,
    links: BTreeMap<u64, PathBuf>,
    whiteout: Option<PathBuf>,
    choices: u64,
}

impl Upper<'_> {
    fn choose(&mut self) -> bool {
        self.choices = self.choices.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.choices >> 60 & 1 == 1
    }

    fn names(&self, root: &Path, at: &Path) -> BTreeSet<PathBuf> {
        fs::read_dir(root.join(at)).map_or_else(
            |_| BTreeSet::new(),
            |entries| entries.map(|e| at.join(e.expect("lists").file_name())).collect(),
        )
    }

    fn merge(&mut self, at: &Path) {
        let mut paths = self.names(self.old, at);
        paths.extend(self.names(self.new, at));
        for path in paths {
            let (old, new, upper) = (self.old.join(&path), self.new.join(&path), self.upper.join(&path));
            let (had, has) = (fs::symlink_metadata(&old).ok(), fs::symlink_metadata(&new).ok());
            match (had, has) {
                (_, None) => self.delete(&upper),
                (Some(had), Some(has)) if had.is_dir() && has.is_dir() => {
                    if tree(&old) == tree(&new) && seen(&old) == seen(&new) && self.choose() {
                        continue;
                    }
                    copy_one(&new, &upper, &mut self.links);
                    if self.choose() {
                        self.merge(&path);
                    } else {
                        set_xattr(&upper, "user.overlay.opaque", b"y");
                        self.copy_below(&path);
                    }
                }
                (Some(_), Some(has)) if !has.is_dir() && seen(&old) == seen(&new) && self.choose() => {}
                (_, Some(has)) => {
                    copy_one(&new, &upper, &mut self.links);
                    if has.is_dir() {
                        if self.choose() {
                            set_xattr(&upper, "user.overlay.opaque", b"y");
                        }
                        self.copy_below(&path);
                    } else if has.is_file() && self.choose() {
                        set_xattr(&upper, "user.overlay.origin", b"whatever the kernel notes");
                    }
                }
            }
        }
    }

    fn copy_below(&mut self, at: &Path) {
        for path in self.names(self.new, at) {
            let new = self.new.join(&path);
            copy_one(&new, &self.upper.join(&path), &mut self.links);
            if fs::symlink_metadata(&new).expect("exists").is_dir() {
                self.copy_below(&path);
            }
        }
    }

    /// As the kernel does it: all whiteouts are links to one.
    fn delete(&mut self, upper: &Path) {
        match &self.whiteout {
            Some(first) => fs::hard_link(first, upper).expect("links"),
            None => {
                rustix::fs::mknodat(CWD, upper, FileType::CharacterDevice, Mode::empty(), 0).expect("makes a whiteout");
                self.whiteout = Some(upper.to_owned());
            }
        }
    }
}

/// The real directory's content must be what the indexes say it is.
fn check_indexes(indexes: &[TreeIndex], root: &Path) {
    let merged = MergedIndex::new(indexes);
    let expected = tree(root);
    let mut pending = vec![PathBuf::new()];
    let mut found = BTreeMap::new();
    while let Some(dir) = pending.pop() {
        for child in merged.children(&dir) {
            let looked_up = merged.lookup(&child.entry.path).expect("a child can be looked up");
            assert_eq!(looked_up, child);
            pending.push(child.entry.path.clone());
            found.insert(child.entry.path.clone(), child);
        }
    }
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (path, seen) in expected {
        let entry = &found[&path];
        assert_eq!((entry.entry.mode, &entry.entry.xattrs), (seen.mode, &seen.xattrs), "{}", path.display());
        if seen.kind == '-' {
            assert_eq!(entry.digest, Some(crate::base::Digest::sha256(&seen.content)), "{}", path.display());
        }
    }
}

/// Fills the first tree, or edits would mostly find nothing to work on.
fn furnish(root: &Path, choices: u64) {
    for (index, path) in ["a", "a/a", "a/b", "b", "b/c", "c", "c/d"].into_iter().enumerate() {
        let index = PATHS.iter().position(|p| *p == path).unwrap_or(index);
        if choices >> index & 3 != 0 {
            perform(root, Edit::Mkdir { path: index }, 500);
        }
    }
    for path in 0..PATHS.len() {
        if choices >> (path + 16) & 3 != 0 {
            perform(root, Edit::Write { path, text: (choices >> path & 3) as u8 }, 501);
        }
    }
}

fn scenario(steps: &[Vec<Edit>], choices: u64) {
    let temp = temp();
    let (mut uppers, mut applied) = (Vec::new(), Vec::new());
    let mut indexes = Vec::new();
    let mut old = temp.path().join("tree0");
    let again = temp.path().join("again");
    fs::create_dir(&old).expect("creates");
    fs::create_dir(&again).expect("creates");
    let moving = temp.path().join("moving");
    fs::create_dir(&moving).expect("creates");
    for (number, edits) in steps.iter().enumerate() {
        let new = temp.path().join(format!("tree{}", number + 1));
        copy_tree(&old, &new);
        let marker = moment(temp.path());
        if number == 0 {
            furnish(&new, choices);
        }
        for (index, edit) in edits.iter().enumerate() {
            perform(&new, *edit, (number * 1000 + index) as i64);
        }
        let upper = temp.path().join(format!("upper{number}"));
        fs::create_dir(&upper).expect("creates");
        let mut maker = Upper { old: &old, new: &new, upper: &upper, links: BTreeMap::new(), whiteout: None, choices };
        maker.merge(Path::new(""));
        copy_dir_times(&new, &upper);

        let (tar, summary, _) = diff_native(Some(&old), &new);
        let (other, _, _) = diff_upper(&upper, &uppers);
        assert!(tar == other, "overlay and native differ:\n{:#?}", super::support::listing(&summary));

        let mut hinted = LayerWriter::new(Vec::new(), &plain()).expect("valid options");
        let hints = TreeHints { untouched_before: Some(marker), places: None };
        diff_trees_with(Parent::tree(Some(&old)), &new, &hints, &mut hinted).expect("diffs");
        assert!(tar == hinted.finish().expect("finishes").0, "hints change nothing");

        // The same edits on one tree that is never copied: of what it was, an older tree and the layers since tell.
        let places = Some(Arc::new(Places::of(&moving).expect("looks")));
        let marker = moment(temp.path());
        if number == 0 {
            furnish(&moving, choices);
        }
        for (index, edit) in edits.iter().enumerate() {
            perform(&moving, *edit, (number * 1000 + index) as i64);
        }
        copy_dir_times(&new, &moving);
        for (from, places) in [(0, places.clone()), (number / 2, places), (number / 2, None)] {
            let tree = temp.path().join(format!("tree{from}"));
            let parent = Parent { tree: Some(tree), layers: indexes[from..].to_vec() };
            let mut moved = LayerWriter::new(Vec::new(), &plain()).expect("valid options");
            let hints = TreeHints { untouched_before: Some(marker), places };
            diff_trees_with(parent, &moving, &hints, &mut moved).expect("diffs");
            assert!(tar == moved.finish().expect("finishes").0, "changing in place gives the same layer (from {from})");
        }

        // The way back, in both dialects.
        let by_native = native(&tar, &again);
        assert_eq!(tree(&again), tree(&new));
        let layer = temp.path().join(format!("layer{number}"));
        let by_overlay = overlay(&tar, &layer, &applied);
        assert!(diff_upper(&layer, &applied).0 == tar, "an applied layer gives the same tar again");
        let dry = index_layer(&mut &*tar, &ApplyOptions::default()).expect("indexes");
        for applied in [&by_native, &by_overlay, &dry] {
            assert_eq!(applied.diff_id, summary.diff_id);
            assert_eq!(applied.tar_size, summary.tar_size);
            assert!(applied.notes.is_empty(), "{:?}", applied.notes);
            assert_eq!(applied.index.iter().collect::<Vec<_>>(), summary.index.iter().collect::<Vec<_>>());
            assert!(applied.index == summary.index);
        }
        let bytes = summary.index.to_bytes();
        assert!(TreeIndex::from_bytes(&bytes).expect("reads") == summary.index);
        indexes.push(summary.index);
        check_indexes(&indexes, &new);

        uppers.push(upper);
        applied.push(layer);
        old = new;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn overlay_and_native_make_the_same_layers(
        steps in prop::collection::vec(prop::collection::vec(edit(), 0..25), 1..4),
        choices in any::<u64>(),
    ) {
        scenario(&steps, choices);
    }
}
