//! A layer written straight is the layer that a directory and a diff give, byte for byte.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use sha2::{Digest as _, Sha256};

use super::*;
use crate::archive::{ApplyOptions, LayerOptions, LayerWriter, Timestamp, diff_trees, index_layer};
use crate::base::Digest;
use crate::exec::file::copy_tests::action;
use crate::exec::file::{CopySource, NoStatCache, Seen, StatCache, StatKey, copy, mkdir};
use crate::llb::op::{FileActionCopy, FileActionMkDir};
use crate::oci::media_type::Codec;

/// Everything later is dated with this: directories made on the way have the time of the test.
const EPOCH: i64 = 1_600_000_000;

fn options() -> LayerOptions {
    LayerOptions { codec: Codec::Gzip, level: None, epoch: Some(EPOCH), earlier_too: false, threads: 2 }
}

/// A file, a directory, a link or another name of an earlier file.
#[derive(Debug, Clone)]
enum Thing {
    File { size: usize, mode: u32, time: i64 },
    Dir { mode: u32 },
    Link(String),
    Name(usize),
}

fn things() -> impl Strategy<Value = Vec<(String, Thing)>> {
    let name = prop_oneof!["[abc]", "[ab]/[abc]", "[ab]/[ab]/[abc]"];
    let thing = prop_oneof![
        4 => (0_usize..3, prop_oneof![Just(0o644), Just(0o755)], 0_i64..3).prop_map(|(size, mode, time)| {
            Thing::File { size: [0, 700, 600_000][size], mode, time: 1_500_000_000 + time }
        }),
        2 => prop_oneof![Just(0o755), Just(0o750)].prop_map(|mode| Thing::Dir { mode }),
        1 => prop_oneof!["[abc]", "/[ab]/[abc]", "\\.\\./[ab]"].prop_map(Thing::Link),
        1 => (0_usize..4).prop_map(Thing::Name),
    ];
    proptest::collection::vec((name, thing), 0..9)
}

/// Makes what can be made; the others are left out.
fn furnish(root: &Path, things: &[(String, Thing)]) {
    std::fs::create_dir_all(root).expect("a directory");
    let mut files: Vec<PathBuf> = Vec::new();
    for (name, thing) in things {
        let path = root.join(name);
        let parent = path.parent().expect("below the root");
        let plain = parent
            .ancestors()
            .take_while(|p| *p != root)
            .all(|p| std::fs::symlink_metadata(p).map_or(true, |meta| meta.is_dir()));
        if !plain || std::fs::symlink_metadata(&path).is_ok() || std::fs::create_dir_all(parent).is_err() {
            continue;
        }
        match thing {
            Thing::File { size, mode, time } => {
                let content: Vec<u8> = name.bytes().chain(0..=255).cycle().take(*size).collect();
                std::fs::write(&path, content).expect("a file");
                std::fs::set_permissions(&path, PermissionsExt::from_mode(*mode)).expect("bits");
                date(&path, *time);
                files.push(path);
            }
            Thing::Dir { mode } => {
                std::fs::create_dir(&path).expect("a directory");
                std::fs::set_permissions(&path, PermissionsExt::from_mode(*mode)).expect("bits");
            }
            Thing::Link(target) => symlink(target, &path).expect("a link"),
            Thing::Name(of) => {
                if let Some(first) = files.get(*of) {
                    std::fs::hard_link(first, &path).expect("another name");
                }
            }
        }
    }
}

fn date(path: &Path, seconds: i64) {
    let time = rustix::fs::Timespec { tv_sec: seconds, tv_nsec: 250 };
    let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(rustix::fs::CWD, path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).expect("it is dated");
}

#[derive(Debug, Clone)]
enum Act {
    Copy(FileActionCopy, bool),
    Mkdir(FileActionMkDir),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let src = prop_oneof![Just("/".to_owned()), "[abc]", "[ab]/[abc*]", Just("*".to_owned())];
    let dest = prop_oneof![Just("/".to_owned()), "/[abc]", "/[ab]/", "/[ab]/[abc]", "/x/y/"];
    let copy = (src, dest, any::<bool>(), 0_usize..4, any::<bool>()).prop_map(|(src, dest, contents, kind, owned)| {
        let mut copy = FileActionCopy { dir_copy_contents: contents, ..action(&src, &dest) };
        match kind {
            1 => copy.mode = 0o700,
            2 => copy.exclude_patterns = vec!["**/a".into()],
            3 => copy.include_patterns = vec!["a/**".into(), "b".into()],
            _ => {}
        }
        Act::Copy(copy, owned)
    });
    let mkdir = ("/[abc]/[abc]", any::<bool>()).prop_map(|(path, make_parents)| {
        Act::Mkdir(FileActionMkDir { path, mode: 0o711, make_parents, owner: None, timestamp: -1 })
    });
    proptest::collection::vec(prop_oneof![4 => copy, 1 => mkdir], 1..4)
}

fn owner(owned: bool) -> Option<(u32, u32)> {
    (owned && rustix::process::geteuid().is_root()).then_some((7, 8))
}

/// The layer by way of a directory, or the error.
fn by_directory(temp: &Path, source: &CopySource, acts: &[Act]) -> Result<Vec<u8>, String> {
    let (old, new) = (temp.join("old"), temp.join("new"));
    let status = std::process::Command::new("cp").arg("-a").arg(&old).arg(&new).status().expect("cp runs");
    assert!(status.success());
    for act in acts {
        match act {
            Act::Copy(action, owned) => copy(source, &new, action, owner(*owned)).map(drop),
            Act::Mkdir(action) => mkdir(&new, action, None),
        }
        .map_err(|e| e.to_string())?;
    }
    let mut writer = LayerWriter::new(Vec::new(), &options()).expect("valid options");
    diff_trees(Some(&old), &new, &mut writer).expect("it diffs");
    Ok(writer.finish().expect("it finishes").0)
}

fn straight(below: &dyn Below, source: &CopySource, acts: &[Act]) -> Result<Vec<u8>, Refused> {
    let mut plan = LayerPlan::new(below, Timestamp::seconds(EPOCH + 1));
    for act in acts {
        match act {
            Act::Copy(action, owned) => plan.copy(source, &NoStatCache, action, owner(*owned))?,
            Act::Mkdir(action) => plan.mkdir(action, None)?,
        }
    }
    let mut writer = LayerWriter::new(Vec::new(), &options()).expect("valid options");
    plan.write(&mut writer).expect("it writes");
    Ok(writer.finish().expect("it finishes").0)
}

/// The tree `root` as the index of one layer.
fn index(root: &Path) -> BelowIndexes {
    let plain = LayerOptions { codec: Codec::Uncompressed, ..LayerOptions::default() };
    let mut writer = LayerWriter::new(Vec::new(), &plain).expect("valid options");
    diff_trees(None, root, &mut writer).expect("it diffs");
    let (tar, _) = writer.finish().expect("it finishes");
    BelowIndexes(vec![index_layer(&mut &tar[..], &ApplyOptions::default()).expect("it reads").index])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn a_direct_layer_is_that_of_a_directory(old in things(), new in things(), acts in acts(), context in any::<bool>()) {
        let temp = tempfile::tempdir().expect("a temporary directory");
        furnish(&temp.path().join("old"), &old);
        furnish(&temp.path().join("src"), &new);
        let source = CopySource { reset_owner: context && owner(true).is_some(), ..CopySource::plain(temp.path().join("src")) };
        let expected = by_directory(temp.path(), &source, &acts);
        let directory = BelowDirectory(temp.path().join("old"));
        let indexes = index(&temp.path().join("old"));
        for (what, below) in [("directory", &directory as &dyn Below), ("indexes", &indexes)] {
            match (straight(below, &source, &acts), &expected) {
                (Err(Refused::NeedsDirectory(_)), _) => {}
                (Ok(layer), Ok(expected)) => prop_assert!(layer == *expected, "other bytes over {what}"),
                (Err(Refused::Failed(_)), Err(_)) => {}
                (Ok(_), Err(e)) => prop_assert!(false, "over {what} it works, in a directory not: {e}"),
                (Err(e), Ok(_)) => prop_assert!(false, "over {what}: {e}"),
            }
        }
    }
}

#[test]
fn what_cannot_be_said_is_refused_before_anything_is_written() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let source = CopySource::plain(temp.path());
    for name in [".wh.x", "d/.wh.y"] {
        let path = temp.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        std::fs::write(path, "").expect("a file");
        let below = BelowIndexes(Vec::new());
        let mut plan = LayerPlan::new(&below, Timestamp::seconds(0));
        let refused = plan.copy(&source, &NoStatCache, &action(name, "/to/"), None);
        assert!(matches!(refused, Err(Refused::NeedsDirectory(_))), "{name}: {refused:?}");
    }
}

#[test]
fn a_file_that_changes_after_it_was_planned_is_an_error() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let file = temp.path().join("f");
    std::fs::write(&file, "four").expect("a file");
    let below = BelowIndexes(Vec::new());
    let mut plan = LayerPlan::new(&below, Timestamp::seconds(0));
    plan.copy(&CopySource::plain(temp.path()), &NoStatCache, &action("f", "/f"), None).expect("it plans");
    std::fs::write(&file, "seven77").expect("a file");
    let mut writer = LayerWriter::new(Vec::new(), &LayerOptions::default()).expect("valid options");
    let written = plan
        .write(&mut writer)
        .map_err(|e| e.to_string())
        .and_then(|()| writer.finish().map(drop).map_err(|e| e.to_string()));
    assert!(written.expect_err("it changed").contains("changed while it was being read"));
}

/// Takes every file of one name for one without extended attributes.
struct Plain(&'static str);

impl StatCache for Plain {
    fn get(&self, _: &Path, _: &StatKey) -> Option<Digest> {
        None
    }
    fn put(&self, _: &Path, _: &StatKey, _: &Digest, _: bool) {}
    fn plain(&self, path: &Path, key: &StatKey) -> Option<[u8; 32]> {
        (path == Path::new(self.0) && key.size == 4).then(|| Sha256::digest(b"text").into())
    }
}

/// Says of every file of one name what it just was.
struct JustSeen(&'static str, Seen);

impl StatCache for JustSeen {
    fn get(&self, _: &Path, _: &StatKey) -> Option<Digest> {
        None
    }
    fn put(&self, _: &Path, _: &StatKey, _: &Digest, _: bool) {}
    fn plain(&self, _: &Path, _: &StatKey) -> Option<[u8; 32]> {
        None
    }
    fn just_seen(&self, path: &Path) -> Option<Seen> {
        (path == Path::new(self.0)).then_some(self.1)
    }
}

#[test]
fn a_file_of_a_context_that_was_just_seen_is_not_looked_at_again() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    for name in ["src/d/a", "src/d/b"] {
        let path = temp.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        std::fs::write(&path, "text").expect("a file");
    }
    // (What the kernel says is something else, so that it shows who was believed.)
    let digest = Sha256::digest(b"text").into();
    let known = JustSeen("d/a", Seen { mode: 0o100_604, size: 4, mtime_ns: 1_500_000_001_000_000_000, digest });
    let written = |reset_owner| {
        let below = BelowIndexes(Vec::new());
        let mut plan = LayerPlan::new(&below, Timestamp::seconds(0));
        let source = CopySource { reset_owner, ..CopySource::plain(temp.path().join("src")) };
        plan.copy(&source, &known, &action("/", "/to/"), None).expect("it plans");
        let mut writer = LayerWriter::new(Vec::new(), &LayerOptions::default()).expect("valid options");
        plan.write(&mut writer).expect("it writes");
        let index = writer.finish().expect("it finishes").1.index;
        let entry = |name: &str| {
            let found = index.iter().find(|found| found.entry.path.ends_with(name)).expect("is there");
            (found.entry.mode, found.entry.mtime, found.entry.uid)
        };
        (entry("d/a"), entry("d/b"))
    };
    let (seen, looked_at) = written(true);
    assert_eq!(seen, (0o604, Timestamp::seconds(1_500_000_001), 0));
    assert_ne!(looked_at.1, seen.1);
    // Where owners count they are asked for.
    assert_ne!(written(false).0.1, seen.1);
}

#[test]
fn a_file_known_to_have_no_attributes_is_not_asked_for_them() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    for name in ["src/d/a", "src/d/b"] {
        let path = temp.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        std::fs::write(&path, "text").expect("a file");
        if rustix::fs::setxattr(&path, "user.mark", b"yes", rustix::fs::XattrFlags::empty()).is_err() {
            println!("skipped: no user attributes on {}", temp.path().display());
            return;
        }
    }
    let below = BelowIndexes(Vec::new());
    let mut plan = LayerPlan::new(&below, Timestamp::seconds(0));
    let source = CopySource::plain(temp.path().join("src"));
    plan.copy(&source, &Plain("d/a"), &action("/", "/to/"), None).expect("it plans");
    let mut writer = LayerWriter::new(Vec::new(), &options()).expect("valid options");
    plan.write(&mut writer).expect("it writes");
    let index = writer.finish().expect("it finishes").1.index;
    let marks = |name: &str| {
        let found = index.iter().find(|found| found.entry.path.ends_with(name)).expect("is there");
        found.entry.xattrs.len()
    };
    assert_eq!((marks("d/a"), marks("d/b")), (0, 1));
}
