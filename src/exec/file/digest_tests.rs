//! Tests of content digests: what changes them, what does not, and what is read for them.

use std::collections::HashMap;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use proptest::prelude::*;

use super::digest::split;
use super::*;
use crate::base::Digest;
use crate::llb::op::FileActionCopy;

fn tree(files: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for file in files {
        write(&dir, file, file);
    }
    dir
}

fn write(dir: &tempfile::TempDir, path: &str, content: &str) {
    let full = dir.path().join(path);
    if path.ends_with('/') {
        std::fs::create_dir_all(full).expect("a directory");
        return;
    }
    std::fs::create_dir_all(full.parent().expect("a parent")).expect("a directory");
    std::fs::write(full, content).expect("a file");
}

fn chmod(dir: &tempfile::TempDir, path: &str, mode: u32) {
    std::fs::set_permissions(dir.path().join(path), std::fs::Permissions::from_mode(mode)).expect("chmod");
}

fn selector(path: &str) -> Selector {
    Selector { wildcard: true, ..Selector::literal(path) }
}

fn digest(dir: &tempfile::TempDir, path: &str) -> Digest {
    content_digest(&CopySource::plain(dir.path()), &selector(path), &NoStatCache).expect(path)
}

/// Whether `change` changes the digest of `path` in a tree of `files`.
fn changes(files: &[&str], path: &str, change: impl FnOnce(&tempfile::TempDir)) -> bool {
    let dir = tree(files);
    let before = digest(&dir, path);
    change(&dir);
    before != digest(&dir, path)
}

const FILES: &[&str] = &["d/a", "d/sub/b", "d/empty/", "e/x"];

#[test]
fn c4_05_what_counts() {
    assert!(changes(FILES, "d", |d| write(d, "d/a", "D/a")), "content");
    assert!(changes(FILES, "d", |d| write(d, "d/sub/b", "")), "content further down");
    assert!(changes(FILES, "d", |d| chmod(d, "d/a", 0o755)), "permission bits");
    assert!(changes(FILES, "d", |d| chmod(d, "d/sub", 0o700)), "permission bits of a directory");
    assert!(changes(FILES, "d", |d| write(d, "d/new", "")), "a new file");
    assert!(changes(FILES, "d", |d| write(d, "d/empty/new/", "")), "a new directory");
    assert!(changes(FILES, "d", |d| std::fs::remove_dir(d.path().join("d/empty")).expect("gone")), "a removal");
    let rename = |from: &'static str, to: &'static str| {
        move |d: &tempfile::TempDir| std::fs::rename(d.path().join(from), d.path().join(to)).expect("renamed")
    };
    assert!(changes(FILES, "d", rename("d/a", "d/z")), "a name");
    assert!(changes(FILES, "d", rename("d/a", "d/sub/a")), "a place");
    let to_link = |d: &tempfile::TempDir| {
        std::fs::remove_file(d.path().join("d/a")).expect("gone");
        symlink("sub/b", d.path().join("d/a")).expect("a link");
    };
    assert!(changes(FILES, "d", to_link), "a type");
}

#[test]
fn c4_05_what_does_not_count() {
    let touch = |d: &tempfile::TempDir| {
        let times = std::fs::FileTimes::new().set_modified(SystemTime::UNIX_EPOCH);
        for path in ["d", "d/a", "d/sub"] {
            std::fs::File::open(d.path().join(path)).expect("it opens").set_times(times).expect("times");
        }
    };
    assert!(!changes(FILES, "d", touch), "times");
    assert!(!changes(FILES, "d", |d| write(d, "e/x", "other")), "other files");
    let socket = |d: &tempfile::TempDir| {
        std::os::unix::net::UnixListener::bind(d.path().join("d/socket")).expect("a socket");
    };
    assert!(!changes(FILES, "d", socket), "sockets");
    let moved = |d: &tempfile::TempDir| {
        std::fs::rename(d.path().join("d"), d.path().join("moved")).expect("renamed");
        symlink("moved", d.path().join("d")).expect("a link");
    };
    assert!(!changes(FILES, "d", moved), "where the tree is, when the source is a link to it");
}

#[test]
fn c4_06_xattrs_count_when_they_are_content() {
    let set = |name: &'static str| {
        move |d: &tempfile::TempDir| {
            rustix::fs::setxattr(d.path().join("d/a"), name, b"1", rustix::fs::XattrFlags::empty()).expect("an xattr");
        }
    };
    let dir = tree(&["f"]);
    if rustix::fs::setxattr(dir.path().join("f"), "user.x", b"1", rustix::fs::XattrFlags::empty()).is_err() {
        println!("skipped: this file system has no user extended attributes");
        return;
    }
    assert!(changes(FILES, "d", set("user.x")));
    assert!(!changes(FILES, "d", set("user.overlay.opaque")));
    assert!(!changes(FILES, "d", set("user.rootlesscontainers")));
}

#[test]
fn c4_05_owners_count_unless_they_are_reset() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: owners can only be set by uid 0");
        return;
    }
    let dir = tree(FILES);
    let context = CopySource { reset_owner: true, ..CopySource::plain(dir.path()) };
    let of = |source: &CopySource| content_digest(source, &selector("d"), &NoStatCache).expect("a digest");
    let before = (of(&CopySource::plain(dir.path())), of(&context));
    std::os::unix::fs::chown(dir.path().join("d/a"), Some(5), None).expect("chown");
    let after = (of(&CopySource::plain(dir.path())), of(&context));
    assert_ne!(before.0, after.0);
    assert_eq!(before.1, after.1);
    chmod(&dir, ".", 0o700);
    let root = |d: &tempfile::TempDir| {
        let source = CopySource { reset_owner: true, ..CopySource::plain(d.path()) };
        content_digest(&source, &selector("/"), &NoStatCache).expect("a digest")
    };
    let private = root(&dir);
    chmod(&dir, ".", 0o755);
    assert_eq!(private, root(&dir), "the directory a context is in is no part of it");
}

#[test]
fn c4_05_a_pattern_counts_the_names_it_matches() {
    let rename = |d: &tempfile::TempDir| std::fs::rename(d.path().join("a.txt"), d.path().join("b.txt")).expect("ok");
    assert!(changes(&["a.txt"], "*.txt", rename));
    // A literal name is in the key of the operation.
    let (a, b) = (tree(&["x/a"]), tree(&["y/b"]));
    std::fs::write(b.path().join("y/b"), "x/a").expect("a file");
    assert_eq!(digest(&a, "x/a"), digest(&b, "y/b"));
    assert_eq!(digest(&a, "x/*"), digest(&a, "*/a"));
    assert_ne!(digest(&a, "x/*"), digest(&b, "y/*"));
    assert_eq!(digest(&a, "none*"), digest(&b, "*.none"), "nothing is nothing");
    assert!(changes(&["a.txt", "b.md"], "*.txt", |d| write(d, "c.txt", "")));
    assert!(!changes(&["a.txt", "b.md"], "*.txt", |d| write(d, "c.md", "")));
}

#[test]
fn a6_10_links_are_followed_only_when_asked() {
    let dir = tree(&["real", "other"]);
    symlink("real", dir.path().join("link")).expect("a link");
    let source = CopySource::plain(dir.path());
    let of = |follow_symlink, path: &str| {
        content_digest(&source, &Selector { follow_symlink, ..selector(path) }, &NoStatCache).expect("a digest")
    };
    assert_eq!(of(true, "link"), of(true, "real"));
    assert_ne!(of(false, "link"), of(false, "real"));
    let before = of(false, "link");
    write(&dir, "real", "changed");
    assert_eq!(before, of(false, "link"));
    symlink("../../../../etc/passwd", dir.path().join("out")).expect("a link");
    let err = content_digest(&source, &selector("out"), &NoStatCache).expect_err("it leads nowhere");
    assert!(matches!(err, FileOpError::NotFound { .. }), "{err}");
}

#[test]
fn a6_07_missing_sources_say_what_hides_them() {
    let dir = tree(&["a", "b/c"]);
    let filter = PathFilter::new(&[], &["*", "!a"], &[4, 9]).expect("valid patterns");
    let source = CopySource { filter: Some(Arc::new(filter)), ..CopySource::plain(dir.path()) };
    let of = |path: &str| content_digest(&source, &selector(path), &NoStatCache);
    assert!(of("a").is_ok());
    assert_eq!(of("nothing").expect_err("absent").to_string(), "\"/nothing\": not found");
    assert_eq!(of("b/c").expect_err("hidden").to_string(), "\"/b/c\": not found (excluded by .dockerignore line 4)");
    let required = Selector { required_paths: vec!["b".into()], ..selector("/") };
    let err = content_digest(&source, &required, &NoStatCache).expect_err("hidden").to_string();
    assert_eq!(err, "\"/b\": not found (excluded by .dockerignore line 4)");
}

#[test]
fn a9_03_ignored_files_are_not_even_read() {
    let dir = tree(&["keep", "skip/x", "docs/README.md", "docs/y"]);
    let filter = PathFilter::new(&[], &["skip", "docs", "!docs/README.md"], &[]).expect("valid patterns");
    let source = CopySource { filter: Some(Arc::new(filter)), reset_owner: true, ..CopySource::plain(dir.path()) };
    let cache = Cache::default();
    let of = || content_digest(&source, &selector("."), &cache).expect("a digest");
    let before = of();
    let mut asked: Vec<PathBuf> = std::mem::take(&mut *cache.asked.lock().expect("no panic"));
    asked.sort();
    assert_eq!(asked, [Path::new("docs/README.md"), Path::new("keep")]);
    write(&dir, "skip/x", "changed");
    write(&dir, "skip/new", "");
    write(&dir, "docs/y", "changed");
    assert_eq!(before, of());
    write(&dir, "docs/README.md", "changed");
    assert_ne!(before, of());
}

/// A cache that counts.
#[derive(Default)]
struct Cache {
    known: Mutex<HashMap<(PathBuf, StatKey), Digest>>,
    asked: Mutex<Vec<PathBuf>>,
    seen: Mutex<Vec<(PathBuf, u32)>>,
    hits: AtomicUsize,
}

impl StatCache for Cache {
    fn get(&self, path: &Path, key: &StatKey) -> Option<Digest> {
        self.asked.lock().expect("no panic").push(path.to_owned());
        let known = self.known.lock().expect("no panic").get(&(path.to_owned(), *key)).cloned();
        self.hits.fetch_add(usize::from(known.is_some()), Ordering::Relaxed);
        known
    }
    fn put(&self, path: &Path, key: &StatKey, digest: &Digest, _: bool) {
        self.known.lock().expect("no panic").insert((path.to_owned(), *key), digest.clone());
    }
    fn plain(&self, _: &Path, _: &StatKey) -> Option<[u8; 32]> {
        None
    }
    fn seen(&self, path: &Path, mode: u32) {
        self.seen.lock().expect("no panic").push((path.to_owned(), mode));
    }
}

#[test]
fn what_is_seen_of_unchanged_files_is_told_where_it_is_all_there_is_to_know() {
    let dir = tree(&["a", "d/b", "d/c"]);
    std::fs::hard_link(dir.path().join("d/c"), dir.path().join("d/again")).expect("a second name");
    std::fs::set_permissions(dir.path().join("d/b"), PermissionsExt::from_mode(0o754)).expect("ours");
    std::thread::sleep(Duration::from_millis(150));
    let cache = Cache::default();
    let seen = |reset_owner| {
        let source = CopySource { reset_owner, ..CopySource::plain(dir.path()) };
        content_digest(&source, &selector("/"), &cache).expect("a digest");
        let mut seen = std::mem::take(&mut *cache.seen.lock().expect("no panic"));
        seen.sort();
        seen
    };
    assert_eq!(seen(true), [], "they were read");
    let names: Vec<_> = seen(true).into_iter().map(|(path, mode)| (path.display().to_string(), mode & 0o777)).collect();
    // Several names are one file in a layer.
    assert_eq!((names.len(), &names[1]), (2, &("d/b".to_owned(), 0o754)));
    assert_eq!(seen(false), [], "owners count");
    assert_eq!((split(1_500_000_001), split(-1_500_000_001)), ((1, 500_000_001), (-2, 499_999_999)));
}

#[test]
fn c2_06_unchanged_files_are_not_read_again() {
    let dir = tree(&["a", "d/b", "d/c"]);
    let cache = Cache::default();
    let source = CopySource::plain(dir.path());
    let of = || content_digest(&source, &selector("/"), &cache).expect("a digest");
    of();
    assert!(cache.known.lock().expect("no panic").is_empty(), "files just written may change unnoticed");
    std::thread::sleep(Duration::from_millis(150));
    let first = of();
    assert_eq!(cache.known.lock().expect("no panic").len(), 3);
    assert_eq!((of(), cache.hits.swap(0, Ordering::Relaxed)), (first.clone(), 3));
    // The same size and the same modification time: the change time tells.
    let path = dir.path().join("d/b");
    let modified = std::fs::metadata(&path).expect("a file").modified().expect("a time");
    std::fs::write(&path, "D/B").expect("a file");
    let times = std::fs::FileTimes::new().set_modified(modified);
    std::fs::File::options().write(true).open(&path).expect("it opens").set_times(times).expect("times");
    assert_ne!(of(), first);
    assert_eq!(cache.hits.load(Ordering::Relaxed), 2);
    assert_eq!(of(), content_digest(&source, &selector("/"), &NoStatCache).expect("a digest"));
    let body = cache.known.lock().expect("no panic");
    let content = body.iter().find(|((path, _), _)| path == Path::new("a")).map(|(_, digest)| digest.clone());
    assert_eq!(content, Some(Digest::sha256("a")), "without extended attributes it is the digest of the content");
}

#[test]
fn more_entries_than_anybody_remembers_are_not_all_looked_at() {
    let names: Vec<String> = (0..2000).map(|i| format!("d{}/{i}", i % 4)).collect();
    let dir = tree(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let (source, cache) = (CopySource::plain(dir.path()), Cache::default());
    let few = |most| content_entries(&source, &selector("/"), &cache, most).expect("looks");
    assert_eq!(few(10), None);
    assert!(cache.asked.lock().expect("no panic").len() < names.len(), "the walk must end early");
    // The directories are entries too.
    let all = names.len() + 4;
    assert_eq!(few(all).map(|entries| entries.len()), Some(all));
    assert_eq!(few(all - 1), None);
}

#[test]
fn the_digest_is_pinned() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    write(&dir, "d/a", "content");
    symlink("a", dir.path().join("d/l")).expect("a link");
    chmod(&dir, "d", 0o755);
    chmod(&dir, "d/a", 0o644);
    let source = CopySource { reset_owner: true, ..CopySource::plain(dir.path()) };
    let digest = content_digest(&source, &selector("d"), &NoStatCache).expect("a digest");
    // Another value is another format: then the salt must change too.
    assert_eq!(digest.as_str(), "sha256:aac7f7f3bb1d7da525a48d5208fbf642afbcf915c8cb2999fa661797ed45872d");
}

/// Applies the copy that belongs to `selector` and describes the result.
fn copied(source: &CopySource, selector: &Selector) -> Option<Vec<String>> {
    let dest = tempfile::tempdir().expect("a temporary directory");
    let action = FileActionCopy {
        src: selector.path.clone(),
        dest: "/to/".into(),
        mode: -1,
        timestamp: 0,
        follow_symlink: true,
        dir_copy_contents: true,
        create_dest_path: true,
        allow_wildcard: true,
        allow_empty_wildcard: true,
        include_patterns: selector.include_patterns.clone(),
        exclude_patterns: selector.exclude_patterns.clone(),
        ..FileActionCopy::default()
    };
    copy(source, dest.path(), &action, None).ok()?;
    let mut out: Vec<String> = walkdir::WalkDir::new(dest.path())
        .into_iter()
        .map(|e| e.expect("an entry"))
        .map(|e| {
            let meta = e.path().symlink_metadata().expect("an entry");
            let content =
                if meta.is_file() { std::fs::read_to_string(e.path()).expect("a file") } else { String::new() };
            let path = e.path().strip_prefix(dest.path()).expect("below").display().to_string();
            format!("{path} {:o} {content}", meta.permissions().mode())
        })
        .collect();
    out.sort();
    Some(out)
}

#[derive(Clone, Debug)]
enum Edit {
    Write(String, String),
    Remove(String),
    Mode(String, u32),
    Mkdir(String),
}

fn edit() -> impl Strategy<Value = Edit> {
    let path = "[ab](/[ab]){0,2}";
    prop_oneof![
        (path, "[xy]{0,1}").prop_map(|(p, c)| Edit::Write(p, c)),
        path.prop_map(Edit::Remove),
        (path, prop_oneof![Just(0o644), Just(0o755)]).prop_map(|(p, m)| Edit::Mode(p, m)),
        path.prop_map(Edit::Mkdir),
    ]
}

fn apply(root: &Path, edit: &Edit) {
    // Edits that make no sense in the tree as it is do nothing.
    match edit {
        Edit::Write(path, content) => drop(std::fs::write(root.join(path), content)),
        Edit::Remove(path) => {
            let _ = std::fs::remove_file(root.join(path));
            let _ = std::fs::remove_dir_all(root.join(path));
        }
        Edit::Mode(path, mode) => {
            let mode = if root.join(path).is_dir() { mode | 0o111 } else { *mode };
            let _ = std::fs::set_permissions(root.join(path), std::fs::Permissions::from_mode(mode));
        }
        Edit::Mkdir(path) => drop(std::fs::create_dir_all(root.join(path))),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// The one thing that matters: a copy with another result has another digest.
    #[test]
    fn c4_05_another_result_is_another_digest(
        before in prop::collection::vec(edit(), 3..12),
        after in prop::collection::vec(edit(), 1..4),
        path in prop_oneof![Just("/".to_owned()), Just("a".to_owned()), Just("*".to_owned()), Just("a/*".to_owned())],
        include in prop::collection::vec("(\\*\\*/)?[ab*](/[ab*])?", 0..2),
        exclude in prop::collection::vec("!?(\\*\\*/)?[ab](/[ab*])?", 0..3),
        ignore in prop::collection::vec("!?(\\*\\*/)?[ab*](/[ab])?", 0..3),
    ) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        before.iter().for_each(|e| apply(dir.path(), e));
        let filter = PathFilter::new(&[], &ignore, &[]).expect("valid patterns");
        let source = CopySource { root: dir.path().to_owned(), filter: Some(Arc::new(filter)), reset_owner: true };
        let selector = Selector { include_patterns: include, exclude_patterns: exclude, ..selector(&path) };
        let state = || {
            let digest = content_digest(&source, &selector, &NoStatCache);
            let result = copied(&source, &selector);
            // A copy can still fail where two matches of a pattern collide.
            assert!(digest.is_ok() || result.is_none(), "{digest:?} but {result:?}");
            (digest.ok(), result)
        };
        let old = state();
        prop_assert_eq!(&old, &state(), "the same tree");
        after.iter().for_each(|e| apply(dir.path(), e));
        let new = state();
        if old.1 != new.1 {
            prop_assert_ne!(old.0, new.0, "{:?} became {:?}", old.1, new.1);
        }
    }
}
