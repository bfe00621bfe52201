//! Tests of the copy action, rule by rule.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::dockerfile::matcher::Matcher;
use crate::llb::op::FileActionCopy;

/// A source and a destination; `outside` beside them must never change.
struct Case {
    temp: tempfile::TempDir,
    source: CopySource,
}

/// What COPY asks for (SPEC C1.10).
pub(super) fn action(src: &str, dest: &str) -> FileActionCopy {
    FileActionCopy {
        src: src.into(),
        dest: dest.into(),
        mode: -1,
        timestamp: -1,
        follow_symlink: true,
        dir_copy_contents: true,
        create_dest_path: true,
        allow_wildcard: true,
        allow_empty_wildcard: true,
        ..FileActionCopy::default()
    }
}

impl Case {
    fn new(files: &[&str]) -> Self {
        let temp = tempfile::tempdir().expect("a temporary directory");
        for dir in ["src", "dst", "outside"] {
            std::fs::create_dir(temp.path().join(dir)).expect("a directory");
        }
        std::fs::write(temp.path().join("outside/secret"), "secret").expect("a file");
        let source = CopySource::plain(temp.path().join("src"));
        let case = Self { temp, source };
        for file in files {
            case.write(&format!("src/{file}"), file.trim_end_matches('/'));
        }
        case
    }

    fn path(&self, path: &str) -> PathBuf {
        self.temp.path().join(path)
    }

    /// Makes a file, or with a trailing `/` a directory.
    fn write(&self, path: &str, content: &str) {
        let full = self.path(path);
        if path.ends_with('/') {
            std::fs::create_dir_all(full).expect("a directory");
            return;
        }
        std::fs::create_dir_all(full.parent().expect("a parent")).expect("a directory");
        std::fs::write(full, content).expect("a file");
    }

    fn link(&self, target: &str, path: &str) {
        symlink(target, self.path(path)).expect("a link");
    }

    fn mode(&self, path: &str) -> u32 {
        std::fs::symlink_metadata(self.path(path)).expect("it is there").mode() & 0o7777
    }

    fn chmod(&self, path: &str, mode: u32) {
        std::fs::set_permissions(self.path(path), std::fs::Permissions::from_mode(mode)).expect("chmod");
    }

    fn ignore(&mut self, patterns: &[&str]) {
        let lines: Vec<usize> = (1..=patterns.len()).collect();
        let filter = PathFilter::new(&[], patterns, &lines).expect("valid patterns");
        self.source.filter = Some(Arc::new(filter));
    }

    fn copy(&self, src: &str, dest: &str) -> Result<CopyStats, FileOpError> {
        self.run(&action(src, dest))
    }

    fn run(&self, action: &FileActionCopy) -> Result<CopyStats, FileOpError> {
        let result = copy(&self.source, &self.path("dst"), action, None);
        let outside: Vec<_> = std::fs::read_dir(self.path("outside")).expect("a directory").collect();
        assert_eq!(outside.len(), 1, "something was made outside of the root");
        assert_eq!(std::fs::read_to_string(self.path("outside/secret")).expect("a file"), "secret");
        result
    }

    /// Everything in the destination: path and content, `/` for directories, `-> target` for links.
    fn dest(&self) -> Vec<String> {
        listing(&self.path("dst"))
    }

    fn fails(&self, src: &str, dest: &str) -> String {
        self.copy(src, dest).expect_err("it must fail").to_string()
    }
}

fn listing(root: &Path) -> Vec<String> {
    fn walk(dir: &Path, prefix: &str, out: &mut Vec<String>) {
        let mut names: Vec<OsString> =
            std::fs::read_dir(dir).expect("a directory").map(|e| e.expect("an entry").file_name()).collect();
        names.sort();
        for name in names {
            let path = dir.join(&name);
            let shown = format!("{prefix}{}", name.as_bytes().escape_ascii());
            let kind = std::fs::symlink_metadata(&path).expect("an entry").file_type();
            if kind.is_dir() {
                out.push(format!("{shown}/"));
                walk(&path, &format!("{shown}/"), out);
            } else if kind.is_symlink() {
                out.push(format!("{shown} -> {}", std::fs::read_link(&path).expect("a link").display()));
            } else if kind.is_file() {
                out.push(format!("{shown}: {}", std::fs::read_to_string(&path).expect("a file")));
            } else {
                out.push(format!("{shown}: {kind:?}"));
            }
        }
    }
    let mut out = Vec::new();
    walk(root, "", &mut out);
    out
}

#[test]
fn a6_06_wildcards_match_within_a_component() {
    let case = Case::new(&["a.txt", "b.txt", "c.md", "d/e.txt", "d/f/g.txt"]);
    case.copy("*.txt", "/one/").expect("it copies");
    case.copy("d/*.t?t", "/two/").expect("it copies");
    case.copy("*/f", "/three/").expect("it copies");
    case.copy("[ab].txt", "/four/").expect("it copies");
    case.copy("**", "/five/").expect("it copies");
    assert_eq!(
        case.dest(),
        [
            "five/",
            "five/a.txt: a.txt",
            "five/b.txt: b.txt",
            "five/c.md: c.md",
            "five/e.txt: d/e.txt",
            "five/f/",
            "five/f/g.txt: d/f/g.txt",
            "four/",
            "four/a.txt: a.txt",
            "four/b.txt: b.txt",
            "one/",
            "one/a.txt: a.txt",
            "one/b.txt: b.txt",
            "three/",
            "three/g.txt: d/f/g.txt",
            "two/",
            "two/e.txt: d/e.txt",
        ]
    );
}

#[test]
fn a6_06_paths_collapse_inside_the_root() {
    let case = Case::new(&["d/a"]);
    for src in ["/d/a", "../../d/a", "d/../d/./a", "/../d//a/"] {
        case.copy(src, "/x").expect(src);
        assert_eq!(case.dest(), ["x: d/a"], "{src}");
    }
}

#[test]
fn a6_06_a_backslash_escapes_or_is_a_name() {
    let case = Case::new(&["a*b", "axb", "c\\d"]);
    case.copy("a\\*b", "/one").expect("it copies");
    case.copy("c\\d", "/two").expect("it copies");
    case.copy("a[*]b", "/three/").expect("it copies");
    assert_eq!(case.dest(), ["one: a*b", "three/", "three/a*b: a*b", "two: c\\d"]);
}

#[test]
fn n2_02_a_wildcard_without_matches_copies_nothing() {
    let case = Case::new(&["a"]);
    case.copy("*.none", "/x/").expect("no error");
    case.copy("none/*", "/x/").expect("no error");
    assert_eq!(case.dest(), [""; 0]);
    let strict = FileActionCopy { allow_empty_wildcard: false, ..action("*.none", "/x/") };
    assert_eq!(case.run(&strict).expect_err("none").to_string(), "\"/*.none\": not found");
    assert!(matches!(case.copy("[", "/x"), Err(FileOpError::Pattern { pattern }) if pattern == "["));
}

#[test]
fn a6_07_a_missing_source_is_named_and_so_is_the_line_that_hides_it() {
    let mut case = Case::new(&["a", "secret/key", "b/x"]);
    assert_eq!(case.fails("none", "/x"), "\"/none\": not found");
    assert_eq!(case.fails("a/b", "/x"), "\"/a/b\": not found");
    case.ignore(&["*.log", "secret", "b/*"]);
    case.link("secret/key", "src/alias");
    assert_eq!(case.fails("./secret/key", "/x"), "\"/secret/key\": not found (excluded by .dockerignore line 2)");
    assert_eq!(case.fails("alias", "/x"), "\"/alias\": not found (excluded by .dockerignore line 2)");
    assert_eq!(case.fails("b/x", "/x"), "\"/b/x\": not found (excluded by .dockerignore line 3)");
    let err = case.copy("secret", "/x").expect_err("hidden");
    assert!(
        matches!(&err, FileOpError::NotFound { excluded_by: Some(by), .. } if by.pattern == "secret" && by.line == Some(2)),
        "{err:?}"
    );
    case.copy("b", "/b/").expect("the directory itself is visible");
    assert_eq!(case.dest(), ["b/"]);
}

// SPEC A6.07, G.06
#[test]
fn a6_07_a_name_that_is_nearly_right_is_told() {
    let mut case = Case::new(&["package.json", "README.md", "source/main.rs", "hidden"]);
    let near = |case: &Case, src: &str| match case.copy(src, "/x").expect_err(src) {
        FileOpError::NotFound { near, .. } => near,
        other => panic!("{other}"),
    };
    assert_eq!(near(&case, "packge.json").as_deref(), Some("package.json"));
    assert_eq!(near(&case, "readme.md").as_deref(), Some("README.md"), "another case");
    assert_eq!(near(&case, "sourse/main.rs").as_deref(), Some("source/main.rs"), "the rest is there");
    assert_eq!(near(&case, "sourse/other.rs"), None, "the rest is not there");
    assert_eq!(near(&case, "Source/Main.rs").as_deref(), Some("source/main.rs"), "several names");
    assert_eq!(near(&case, "source/mian.rs").as_deref(), Some("source/main.rs"));
    assert_eq!(near(&case, "something-else"), None);
    case.link("nowhere", "src/link");
    assert_eq!(near(&case, "link/main.rs"), None, "what leads nowhere ends");
    case.ignore(&["hidden"]);
    assert_eq!(near(&case, "hiden"), None, "what is not shown is not told");
}

#[test]
fn a6_08_the_contents_of_directories_are_merged() {
    let case = Case::new(&["d/a", "d/sub/b", "d/empty/"]);
    case.write("dst/app/a", "old");
    case.write("dst/app/sub/kept", "kept");
    case.chmod("dst/app", 0o700);
    case.chmod("src/d", 0o711);
    case.chmod("src/d/sub", 0o750);
    case.copy("d", "/app").expect("it copies");
    let want = ["app/", "app/a: d/a", "app/empty/", "app/sub/", "app/sub/b: d/sub/b", "app/sub/kept: kept"];
    assert_eq!(case.dest(), want);
    // What was there keeps its bits at the top; further down the source's count.
    assert_eq!((case.mode("dst/app"), case.mode("dst/app/sub")), (0o700, 0o750));
    case.copy("d/", "/new").expect("it copies");
    assert_eq!(case.mode("dst/new"), 0o755, "a directory made for contents is like any parent");
    assert_eq!(case.mode("dst/new/sub"), 0o750);
}

#[test]
fn a6_08_conflicts_of_types() {
    let case = Case::new(&["d/x/", "e/y"]);
    case.write("dst/file", "");
    case.write("dst/t/x", "a file");
    case.write("dst/t/y/", "");
    case.link("/t", "dst/u");
    assert_eq!(case.fails("d", "/file"), "cannot copy to non-directory: /file");
    assert_eq!(case.fails("d", "/t"), "cannot copy to non-directory: /t/x");
    assert_eq!(case.fails("e", "/t"), "cannot replace to directory /t/y with file");
    assert_eq!(case.fails("e/y", "/t"), "cannot replace to directory /t/y with file");
    assert_eq!(case.fails("e", "/u"), "cannot replace to directory /t/y with file");
    assert_eq!(case.fails("e/y", "/file/"), "failed to create directory /file/: Not a directory (os error 20)");
    for (src, dest) in [("d", "/t"), ("e", "/t"), ("d", "/file")] {
        let replace = FileActionCopy { always_replace_existing_dest_paths: true, ..action(src, dest) };
        case.run(&replace).expect("it replaces");
    }
    assert_eq!(case.dest(), ["file/", "file/x/", "t/", "t/x/", "t/y: e/y", "u -> /t"]);
}

#[test]
fn a6_09_where_a_file_goes() {
    let case = Case::new(&["f"]);
    case.write("dst/dir/", "");
    case.write("dst/old", "old");
    for (dest, want) in [
        ("/dir", "dst/dir/f"),
        ("/new/", "dst/new/f"),
        ("/new2/.", "dst/new2/f"),
        ("/exact", "dst/exact"),
        ("/p/q/exact", "dst/p/q/exact"),
        ("/old", "dst/old"),
        ("relative", "dst/relative"),
        ("", "dst/f"),
        (".", "dst/f"),
        ("/", "dst/f"),
        ("/up/../../../../down", "dst/down"),
    ] {
        case.copy("f", dest).expect(dest);
        assert_eq!(std::fs::read_to_string(case.path(want)).expect(dest), "f", "{dest}");
        std::fs::remove_file(case.path(want)).expect("it was made");
    }
    assert_eq!((case.mode("dst/new"), case.mode("dst/p"), case.mode("dst/p/q")), (0o755, 0o755, 0o755));
    let strict = FileActionCopy { create_dest_path: false, ..action("f", "/missing/f") };
    let err = case.run(&strict).expect_err("no parent").to_string();
    assert!(err.starts_with("failed to look at /missing/f: "), "{err}");
    case.run(&FileActionCopy { create_dest_path: false, ..action("f", "/dir/f") }).expect("the parent is there");
}

#[test]
fn a6_10_a_source_that_is_a_link_is_followed_and_others_are_kept() {
    let case = Case::new(&["d/a", "d/b"]);
    case.link("d/a", "src/to-file");
    case.link("/d", "src/to-dir");
    case.link("a", "src/d/inner");
    case.link("nowhere", "src/d/dangling");
    case.copy("to-file", "/one/").expect("it copies");
    case.copy("to-dir", "/two/").expect("it copies");
    case.copy("to-dir/b", "/three").expect("it copies");
    case.copy("to-*", "/four/").expect("it copies");
    let keep = FileActionCopy { follow_symlink: false, ..action("to-file", "/five/") };
    case.run(&keep).expect("it copies");
    let two = ["two/", "two/a: d/a", "two/b: d/b", "two/dangling -> nowhere", "two/inner -> a"];
    let four =
        ["four/", "four/a: d/a", "four/b: d/b", "four/dangling -> nowhere", "four/inner -> a", "four/to-file: d/a"];
    let want =
        ["five/", "five/to-file -> d/a"].into_iter().chain(four).chain(["one/", "one/to-file: d/a", "three: d/b"]);
    assert_eq!(case.dest(), want.chain(two).collect::<Vec<_>>());
    assert_eq!(case.fails("d/dangling", "/x"), "\"/d/dangling\": not found");
}

#[test]
fn a6_10_links_in_the_destination_are_resolved_inside_it() {
    let case = Case::new(&["f", "d/x/y"]);
    case.write("dst/real/", "");
    case.link("/real", "dst/abs");
    case.link("../../../../../../real", "dst/up");
    case.link("/made/here", "dst/dangling");
    case.link(case.path("outside").to_str().expect("UTF-8"), "dst/out");
    case.link("/out", "dst/real/x");
    case.copy("f", "/abs/one").expect("it copies");
    case.copy("f", "/up/two").expect("it copies");
    case.copy("f", "/dangling/three").expect("it copies");
    case.copy("f", "/out/secret").expect("it copies, inside");
    assert_eq!(case.fails("d", "/real"), "cannot copy to non-directory: /real/x");
    for made in ["dst/real/one", "dst/real/two", "dst/made/here/three"] {
        assert_eq!(std::fs::read_to_string(case.path(made)).expect(made), "f");
    }
    assert!(case.path(&format!("dst{}/secret", case.path("outside").display())).is_file());
}

#[test]
fn a6_10_a_file_over_a_link_replaces_its_target_or_the_link_inside_a_tree() {
    let case = Case::new(&["f", "d/l"]);
    case.write("dst/target", "old");
    case.link("target", "dst/l");
    case.copy("f", "/l").expect("it copies");
    assert_eq!(case.dest(), ["l -> target", "target: f"]);
    case.copy("d", "/").expect("it copies");
    assert_eq!(case.dest(), ["l: d/l", "target: f"]);
}

#[test]
fn a6_10_hard_links_stay_linked() {
    let case = Case::new(&["d/a", "d/sub/c", "d/other"]);
    for i in 0..40 {
        std::fs::hard_link(case.path("src/d/a"), case.path(&format!("src/d/sub/l{i}"))).expect("a link");
    }
    case.copy("d", "/x").expect("it copies");
    let ino = |p: &str| std::fs::metadata(case.path(p)).expect(p).ino();
    assert!((0..40).all(|i| ino(&format!("dst/x/sub/l{i}")) == ino("dst/x/a")));
    assert_ne!(ino("dst/x/a"), ino("src/d/a"), "never linked to the source");
    assert_ne!(ino("dst/x/other"), ino("dst/x/a"));
    assert_eq!(std::fs::metadata(case.path("dst/x/a")).expect("a file").nlink(), 41);
}

#[test]
fn a6_11_metadata_is_kept() {
    let case = Case::new(&["d/suid", "d/plain", "d/ro/x"]);
    case.chmod("src/d/suid", 0o4751);
    case.chmod("src/d/plain", 0o600);
    let old = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 123_456_789);
    let times = std::fs::FileTimes::new().set_modified(old);
    for path in ["src/d/plain", "src/d/ro"] {
        std::fs::File::open(case.path(path)).expect("it opens").set_times(times).expect("times");
    }
    case.chmod("src/d/ro", 0o555);
    rustix::fs::mknodat(rustix::fs::CWD, case.path("src/d/pipe"), rustix::fs::FileType::Fifo, 0o640.into(), 0)
        .expect("a pipe");
    let _socket = std::os::unix::net::UnixListener::bind(case.path("src/d/socket")).expect("a socket");
    let user_xattrs =
        rustix::fs::setxattr(case.path("src/d/plain"), "user.mime", b"text", rustix::fs::XattrFlags::empty()).is_ok();
    if user_xattrs {
        for name in ["user.overlay.opaque", "user.rootlesscontainers"] {
            rustix::fs::setxattr(case.path("src/d/plain"), name, b"y", rustix::fs::XattrFlags::empty()).expect("xattr");
        }
    } else {
        println!("skipped: this file system has no user extended attributes");
    }
    let stats = case.copy("d", "/x").expect("it copies");
    assert_eq!(case.mode("dst/x/suid"), 0o4751);
    assert_eq!((case.mode("dst/x/plain"), case.mode("dst/x/ro")), (0o600, 0o555));
    for path in ["dst/x/plain", "dst/x/ro"] {
        assert_eq!(std::fs::metadata(case.path(path)).expect(path).modified().expect("a time"), old, "{path}");
    }
    let pipe = std::fs::symlink_metadata(case.path("dst/x/pipe")).expect("a pipe");
    assert!(pipe.file_type().is_fifo() && pipe.mode() & 0o7777 == 0o640);
    assert!(!case.path("dst/x/socket").exists(), "sockets are skipped");
    if user_xattrs {
        let mut names = [0u8; 200];
        let len = rustix::fs::listxattr(case.path("dst/x/plain"), &mut names[..]).expect("xattrs");
        assert_eq!(&names[..len], b"user.mime\0", "marks of overlays and owners are not taken over");
    }
    assert_eq!((stats.entries, stats.bytes), (5, 19));
    case.chmod("src/d/ro", 0o755);
    case.chmod("dst/x/ro", 0o755);
}

#[test]
fn a6_11_a_time_can_be_set_for_everything() {
    let case = Case::new(&["d/sub/a"]);
    case.link("a", "src/d/l");
    case.run(&FileActionCopy { timestamp: 1_500_000_000, ..action("d", "/p/q/") }).expect("it copies");
    for path in ["dst/p", "dst/p/q", "dst/p/q/sub", "dst/p/q/sub/a", "dst/p/q/l"] {
        let stat = std::fs::symlink_metadata(case.path(path)).expect(path);
        assert_eq!((stat.mtime(), stat.mtime_nsec()), (1, 500_000_000), "{path}");
    }
}

#[test]
fn a6_05_chmod_changes_what_is_copied_and_octal_also_made_parents() {
    let case = Case::new(&["d/sub/a", "d/x", "f"]);
    case.chmod("src/d/x", 0o711);
    case.run(&FileActionCopy { mode: 0o750, ..action("d", "/one/two") }).expect("it copies");
    for path in ["dst/one", "dst/one/two", "dst/one/two/sub", "dst/one/two/sub/a", "dst/one/two/x"] {
        assert_eq!(case.mode(path), 0o750, "{path}");
    }
    case.run(&FileActionCopy { mode_str: "u=rwX,go=rX".into(), ..action("d", "/three/four") }).expect("it copies");
    for (path, mode) in [
        ("dst/three", 0o755),
        ("dst/three/four/sub", 0o755),
        ("dst/three/four/sub/a", 0o644),
        ("dst/three/four/x", 0o755),
    ] {
        assert_eq!(case.mode(path), mode, "{path}");
    }
    let bad = case.run(&FileActionCopy { mode_str: "u+q".into(), ..action("f", "/x") }).expect_err("bad").to_string();
    assert!(bad.starts_with("invalid mode \"u+q\""), "{bad}");
}

#[test]
fn a6_04_owners() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: owners can only be set by uid 0");
        return;
    }
    let mut case = Case::new(&["d/sub/a"]);
    case.link("a", "src/d/l");
    for path in ["src/d", "src/d/sub", "src/d/sub/a"] {
        std::os::unix::fs::chown(case.path(path), Some(12), Some(34)).expect("chown");
    }
    let owners = |paths: &[&str]| {
        paths.iter().map(|p| std::fs::symlink_metadata(case.path(p)).map(|m| (m.uid(), m.gid())).expect(p)).collect()
    };
    let run = |source: &CopySource, dest: &str, owner| {
        copy(source, &case.path("dst"), &action("d", dest), owner).expect("it copies");
    };
    // N2.01: another tree's owners are kept, but a directory made for contents is like any parent.
    run(&case.source, "/kept/x", None);
    let kept: Vec<(u32, u32)> =
        owners(&["dst/kept", "dst/kept/x", "dst/kept/x/sub", "dst/kept/x/sub/a", "dst/kept/x/l"]);
    assert_eq!(kept, [(0, 0), (0, 0), (12, 34), (12, 34), (0, 0)]);
    run(&case.source, "/given/x", Some((5, 6)));
    let given: Vec<(u32, u32)> = owners(&["dst/given", "dst/given/x", "dst/given/x/sub/a", "dst/given/x/l"]);
    assert_eq!(given, [(5, 6); 4]);
    let context = CopySource { reset_owner: true, ..case.source.clone() };
    run(&context, "/reset", None);
    let reset: Vec<(u32, u32)> = owners(&["dst/reset/sub", "dst/reset/sub/a"]);
    assert_eq!(reset, [(0, 0); 2]);
    case.source.reset_owner = true;
}

#[test]
fn a6_11_devices_are_copied_but_never_as_deletions() {
    let case = Case::new(&["d/a"]);
    let device = |name: &str, number| {
        let kind = rustix::fs::FileType::CharacterDevice;
        rustix::fs::mknodat(rustix::fs::CWD, case.path(name), kind, 0o600.into(), number)
    };
    if device("src/d/null", rustix::fs::makedev(1, 3)).is_err() || device("src/d/zero", 0).is_err() {
        println!("skipped: devices cannot be made here");
        return;
    }
    let stats = case.copy("d", "/x").expect("it copies");
    let null = std::fs::symlink_metadata(case.path("dst/x/null")).expect("a device");
    assert!(null.file_type().is_char_device() && null.rdev() == rustix::fs::makedev(1, 3));
    assert!(!case.path("dst/x/zero").exists());
    assert_eq!(stats.notes, ["a character device 0:0 was left out: it would mean a deletion"]);
}

#[test]
fn a6_13_exclude_is_relative_to_what_is_copied() {
    let case = Case::new(&["d/a.log", "d/b", "d/sub/c.log", "d/sub/keep.log", "d/sub/e", "d/skip/f", "d/only/x.log"]);
    let exclude = |list: &[&str]| FileActionCopy {
        exclude_patterns: list.iter().map(|s| (*s).to_owned()).collect(),
        ..action("d", "/x")
    };
    case.run(&exclude(&["**/*.log", "!**/keep.log", "skip"])).expect("it copies");
    let want = ["x/", "x/b: d/b", "x/only/", "x/sub/", "x/sub/e: d/sub/e", "x/sub/keep.log: d/sub/keep.log"];
    assert_eq!(case.dest(), want);
    case.run(&FileActionCopy { exclude_patterns: vec!["a*".into()], ..action("d/a.log", "/y") })
        .expect("a file that is named is copied");
    assert!(case.path("dst/y").is_file());
    let err = case.run(&exclude(&["["])).expect_err("a bad pattern").to_string();
    assert_eq!(err, "invalid pattern \"[\": syntax error in pattern");
}

#[test]
fn a6_14_parents_are_made_for_what_is_included() {
    let case = Case::new(&["x/y/a.txt", "x/y/b.md", "x/z/c.txt", "q/"]);
    case.chmod("src/x", 0o711);
    case.chmod("src/x/y", 0o700);
    let include = |src: &str, list: &[&str], required: &[&str]| FileActionCopy {
        include_patterns: list.iter().map(|s| (*s).to_owned()).collect(),
        required_paths: required.iter().map(|s| (*s).to_owned()).collect(),
        ..action(src, "/p/")
    };
    case.run(&include("/x", &["y/*.txt"], &[])).expect("it copies");
    assert_eq!(case.dest(), ["p/", "p/y/", "p/y/a.txt: x/y/a.txt"]);
    assert_eq!(case.mode("dst/p/y"), 0o700);
    case.run(&include("/", &["**/*.txt"], &[])).expect("it copies");
    assert_eq!(case.mode("dst/p/x"), 0o711);
    let want = [
        "p/",
        "p/x/",
        "p/x/y/",
        "p/x/y/a.txt: x/y/a.txt",
        "p/x/z/",
        "p/x/z/c.txt: x/z/c.txt",
        "p/y/",
        "p/y/a.txt: x/y/a.txt",
    ];
    assert_eq!(case.dest(), want);
    case.run(&include("/", &["q"], &["q"])).expect("it copies");
    assert!(case.path("dst/p/q").is_dir());
    case.run(&include("/", &["none/*"], &[])).expect("a pattern may match nothing");
    case.run(&include("/x", &["y/a.txt"], &["/x/y/a.txt"])).expect("required paths count from the root");
    let err = case.run(&include("/x", &["none"], &["/x/none"])).expect_err("a literal must be there").to_string();
    assert_eq!(err, "\"/x/none\": not found");
}

#[test]
fn a9_03_a_context_shows_only_what_is_not_ignored() {
    let mut case =
        Case::new(&["a", "node_modules/m", "docs/README.md", "docs/x", "deep/er/keep", "deep/er/no", "gone/x"]);
    case.ignore(&["node_modules", "docs", "!docs/README.md", "deep/**", "!deep/er/keep", "gone", "!gone/none"]);
    case.copy(".", "/").expect("it copies");
    let want = ["a: a", "deep/", "deep/er/", "deep/er/keep: deep/er/keep", "docs/", "docs/README.md: docs/README.md"];
    assert_eq!(case.dest(), want);
    case.copy("docs/*", "/only/").expect("it copies");
    case.copy("*", "/all/").expect("it copies");
    assert!(case.path("dst/only/README.md").exists() && !case.path("dst/only/x").exists());
    assert!(!case.path("dst/all/m").exists());
}

#[test]
fn a9_03_hidden_directories_and_own_patterns_together() {
    let mut case = Case::new(&["w/x/keep", "w/x/other", "w/y/other"]);
    case.ignore(&["w/*", "!w/x/keep"]);
    let exclude = FileActionCopy { exclude_patterns: vec!["**/keep".into()], ..action("w", "/d/") };
    case.run(&exclude).expect("it copies");
    // `x` is shown because of what the context shows in it, although the copy does not take that.
    assert_eq!(case.dest(), ["d/", "d/x/"]);
}

#[test]
fn hostile_links_and_dots_in_the_source_stay_inside() {
    let case = Case::new(&["d/a", "outside-name"]);
    let outside = case.path("outside");
    case.link("../outside", "src/rel");
    case.link(outside.to_str().expect("UTF-8"), "src/abs");
    case.link("/proc/self/fd", "src/fds");
    case.link("/proc/self/root/etc", "src/procroot");
    case.link("../../../../../../etc/passwd", "src/d/passwd");
    for src in ["rel", "rel/secret", "abs/secret", "fds/0", "procroot/passwd", "/proc/self/fd/0", "../outside/secret"] {
        let err = case.copy(src, "/x").expect_err(src);
        assert!(matches!(err, FileOpError::NotFound { .. }), "{src}: {err}");
    }
    case.copy("rel/*", "/y/").expect("nothing matches");
    case.copy("d", "/z/").expect("links are only text");
    assert_eq!(case.dest(), ["z/", "z/a: d/a", "z/passwd -> ../../../../../../etc/passwd"]);
}

#[test]
fn hostile_links_in_the_destination_stay_inside() {
    let case = Case::new(&["f", "d/fd/x"]);
    case.link("/proc/self/fd", "dst/fds");
    case.link("/proc/self/cwd", "dst/cwd");
    case.link("../outside", "dst/out");
    case.link("../outside/secret", "dst/secret");
    case.copy("f", "/fds/3").expect("made inside");
    case.copy("f", "/cwd/f").expect("made inside");
    case.copy("f", "/out/").expect("made inside");
    case.copy("f", "/secret").expect("made inside");
    for made in ["dst/proc/self/fd/3", "dst/proc/self/cwd/f", "dst/outside/f", "dst/outside/secret"] {
        assert_eq!(std::fs::read_to_string(case.path(made)).expect(made), "f");
    }
}

#[test]
fn a_directory_swapped_for_a_link_meanwhile_leads_nowhere() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let case = Case::new(&["d/x/secret", "d/y/z"]);
    let stop = AtomicBool::new(false);
    let (x, parked) = (case.path("src/d/x"), case.path("src/parked"));
    let mut seen = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                // A directory, a link to the outside, and a directory again.
                let _ = std::fs::rename(&x, &parked);
                let _ = symlink("../../outside", &x);
                let _ = std::fs::remove_file(&x);
                let _ = std::fs::rename(&parked, &x);
            }
        });
        for _ in 0..300 {
            // It may fail; it must not read what the link leads to.
            for (src, dest) in [("d", "/out"), ("d/x/secret", "/out/x/secret"), ("d/*/secret", "/out/x/")] {
                let _ = copy(&case.source, &case.path("dst"), &action(src, dest), None);
                // The link itself may well have been copied: that is only text.
                if case.path("dst/out/x").symlink_metadata().is_ok_and(|m| m.is_dir()) {
                    seen.extend(std::fs::read_to_string(case.path("dst/out/x/secret")));
                }
                let _ = std::fs::remove_dir_all(case.path("dst/out"));
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    seen.sort();
    seen.dedup();
    assert_eq!(seen, ["d/x/secret"], "the copy left its root");
}

#[test]
fn names_need_not_be_utf_8() {
    let mut case = Case::new(&["d/plain"]);
    let odd = OsStr::from_bytes(b"odd\xff\xfename");
    std::fs::write(case.path("src/d").join(odd), "odd").expect("a file");
    std::fs::create_dir(case.path("src/d").join(OsStr::from_bytes(b"dir\xff"))).expect("a directory");
    case.copy("d", "/x").expect("it copies");
    case.copy("d/odd*", "/y/").expect("it copies");
    case.copy("d/o??????????", "/z").expect("nothing matches");
    assert_eq!(
        case.dest(),
        ["x/", "x/dir\\xff/", "x/odd\\xff\\xfename: odd", "x/plain: d/plain", "y/", "y/odd\\xff\\xfename: odd"]
    );
    case.ignore(&["d/odd*"]);
    case.copy("d", "/w").expect("it copies");
    assert!(!case.path("dst/w").join(odd).exists());
}

#[test]
fn a6_08_a_context_root_has_neutral_metadata() {
    let mut case = Case::new(&["a"]);
    case.source.reset_owner = true;
    case.chmod("src", 0o700);
    case.copy("/", "/app").expect("it copies");
    assert_eq!(case.mode("dst/app"), 0o755);
    let kept = FileActionCopy { dir_copy_contents: false, ..action("/", "/whole") };
    case.run(&kept).expect("it copies");
    assert_eq!(case.mode("dst/whole"), 0o755);
    case.chmod("src", 0o755);
}

#[test]
fn c1_10_a_directory_by_name() {
    let case = Case::new(&["d/a"]);
    case.chmod("src/d", 0o711);
    case.write("dst/there/", "");
    let whole = |dest: &str| FileActionCopy { dir_copy_contents: false, ..action("d", dest) };
    case.run(&whole("/there")).expect("it copies");
    case.run(&whole("/new")).expect("it copies");
    assert_eq!(case.dest(), ["new/", "new/a: d/a", "there/", "there/d/", "there/d/a: d/a"]);
    assert_eq!((case.mode("dst/there/d"), case.mode("dst/new")), (0o711, 0o711));
}

#[test]
fn deep_and_wide_trees() {
    let case = Case::new(&[]);
    let mut deep = case.path("src/d");
    for i in 0..200 {
        deep.push(format!("level{i}"));
    }
    std::fs::create_dir_all(&deep).expect("directories");
    std::fs::write(deep.join("bottom"), "bottom").expect("a file");
    for i in 0..1100 {
        std::fs::create_dir_all(case.path(&format!("src/d/wide/{i}/x"))).expect("directories");
    }
    let stats = case.copy("d", "/x").expect("it copies");
    assert_eq!(stats.entries, 2402);
    assert_eq!(stats.bytes, 6);
}

/// Everything that a faithful copy keeps.
fn facts(root: &Path) -> BTreeMap<PathBuf, String> {
    walkdir::WalkDir::new(root)
        .into_iter()
        .map(|e| e.expect("an entry"))
        .map(|e| {
            let m = e.path().symlink_metadata().expect("an entry");
            let content = match () {
                () if m.is_file() => format!("{:?}", std::fs::read(e.path()).expect("a file")),
                () if m.is_symlink() => format!("{:?}", std::fs::read_link(e.path()).expect("a link")),
                () => String::new(),
            };
            let nlink = if m.is_dir() { 0 } else { m.nlink() };
            let facts =
                format!("{:o} {}:{} {}.{} {nlink} {content}", m.mode(), m.uid(), m.gid(), m.mtime(), m.mtime_nsec());
            (e.path().strip_prefix(root).expect("below the root").to_owned(), facts)
        })
        .collect()
}

#[test]
fn copies_as_cp_does() {
    let case = Case::new(&[]);
    // A tree of everything, the same on each run.
    let mut seed = 12345u32;
    let mut random = move |n: u32| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 8) % n
    };
    let mut dirs = vec!["src/t".to_owned()];
    let mut files = Vec::new();
    std::fs::create_dir(case.path("src/t")).expect("a directory");
    for i in 0..200 {
        let dir = &dirs[random(dirs.len() as u32) as usize];
        let path = format!("{dir}/n{i}");
        match random(5) {
            0 => {
                std::fs::create_dir(case.path(&path)).expect("a directory");
                dirs.push(path);
            }
            1 => case.link(&format!("../n{}", random(200)), &path),
            2 if !files.is_empty() => {
                let target: &String = &files[random(files.len() as u32) as usize];
                std::fs::hard_link(case.path(target), case.path(&path)).expect("a link");
            }
            _ => {
                std::fs::write(case.path(&path), "x".repeat(random(200_000) as usize)).expect("a file");
                case.chmod(&path, [0o644, 0o755, 0o600, 0o4755, 0o000][random(5) as usize]);
                files.push(path);
            }
        }
    }
    if !rustix::process::geteuid().is_root() {
        for f in &files {
            case.chmod(f, 0o600);
        }
    }
    let cp = std::process::Command::new("cp").arg("-a").arg(case.path("src/t")).arg(case.path("outside/t")).status();
    if !cp.is_ok_and(|s| s.success()) {
        println!("skipped: there is no cp");
        return;
    }
    let whole = FileActionCopy { dir_copy_contents: false, ..action("t", "/t") };
    copy(&case.source, &case.path("dst"), &whole, None).expect("it copies");
    let (want, got) = (facts(&case.path("outside/t")), facts(&case.path("dst/t")));
    for (path, facts) in &want {
        let short = |s: &str| s.chars().take(80).collect::<String>();
        assert!(
            got.get(path) == Some(facts),
            "{}: {} but cp says {}",
            path.display(),
            got.get(path).map_or("absent".into(), |s| short(s)),
            short(facts)
        );
    }
    assert_eq!(want.len(), got.len());
}

/// A tar archive with one file, owned by 12:34.
fn tar(name: &str) -> Vec<u8> {
    let mut out = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(4);
    header.set_mode(0o604);
    header.set_uid(12);
    header.set_gid(34);
    out.append_data(&mut header, name, &b"data"[..]).expect("an entry");
    out.into_inner().expect("an archive")
}

#[test]
fn a6_17_archives_are_unpacked_when_asked() {
    let case = Case::new(&["text.tar"]);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, &tar("sub/one")).expect("compressed");
    std::fs::write(case.path("src/no-suffix"), gzip.finish().expect("compressed")).expect("a file");
    std::fs::write(case.path("src/b.tar"), tar("two")).expect("a file");
    case.link("/elsewhere", "dst/to");
    let unpack =
        |src: &str, dest: &str| FileActionCopy { attempt_unpack_docker_compatibility: true, ..action(src, dest) };
    case.run(&unpack("no-suffix", "/to")).expect("it unpacks");
    case.run(&unpack("*.tar", "/all/")).expect("it unpacks one and copies the other");
    case.copy("b.tar", "/copied").expect("it copies");
    assert!(case.path("dst/copied").is_file());
    std::fs::remove_file(case.path("dst/copied")).expect("it was made");
    assert_eq!(
        case.dest(),
        [
            "all/",
            "all/text.tar: text.tar",
            "all/two: data",
            "elsewhere/",
            "elsewhere/sub/",
            "elsewhere/sub/one: data",
            "to -> /elsewhere"
        ]
    );
    assert_eq!(case.mode("dst/all/two"), 0o604);
    if rustix::process::geteuid().is_root() {
        copy(&case.source, &case.path("dst"), &unpack("b.tar", "/owned"), Some((7, 8))).expect("it unpacks");
        let owner = |p: &str| std::fs::metadata(case.path(p)).map(|m| (m.uid(), m.gid())).expect(p);
        assert_eq!((owner("dst/all/two"), owner("dst/owned/two")), ((12, 34), (7, 8)));
    }
}

/// What a copy of everything must bring, by definition: each path is looked at by itself, nothing is pruned.
fn by_definition(paths: &[(String, bool)], ignore: &[String], include: &[String], exclude: &[String]) -> Vec<String> {
    let matches = |list: &[String], path: &str| Matcher::new(list).expect("valid patterns").matches(path.as_bytes());
    let inside = |dir: &str, path: &str| path.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'));
    // First what the context shows, with the directories that lead there.
    let itself: Vec<&(String, bool)> = paths.iter().filter(|(p, _)| !matches(ignore, p)).collect();
    let shown =
        paths.iter().filter(|(p, dir)| itself.iter().any(|(s, _)| s == p || *dir && inside(p, s))).collect::<Vec<_>>();
    // Of that what the copy takes, again with the directories that lead there.
    let taken = |p: &str| (include.is_empty() || matches(include, p)) && !matches(exclude, p);
    let mut out: Vec<String> = shown
        .iter()
        .filter(|(p, dir)| taken(p) || *dir && shown.iter().any(|(s, _)| inside(p, s) && taken(s)))
        .map(|(p, _)| p.clone())
        .collect();
    out.sort();
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a9_03_a6_13_a6_14_patterns_choose_as_defined(
        files in prop::collection::btree_set("[abc](/[abc]){0,3}", 1..12),
        ignore in prop::collection::vec("!?(\\*\\*/)?[abc*](/([abc*]|\\*\\*)){0,2}", 0..4),
        include in prop::collection::vec("(\\*\\*/)?[abc*](/[abc*]){0,2}", 0..3),
        exclude in prop::collection::vec("!?(\\*\\*/)?[abc*](/[abc*]){0,2}", 0..3),
    ) {
        let mut case = Case::new(&[]);
        for file in &files {
            // A name that is a directory already, or runs into a file, is left out.
            let path = case.path("src").join(file);
            if std::fs::create_dir_all(path.parent().expect("a parent")).is_ok() && !path.exists() {
                std::fs::write(path, "").expect("a file");
            }
        }
        let paths = |root: &Path| -> Vec<(String, bool)> {
            let walk = walkdir::WalkDir::new(root).min_depth(1).sort_by_file_name().into_iter();
            walk.map(|e| e.expect("an entry"))
                .map(|e| {
                    let path = e.path().strip_prefix(root).expect("below").to_str().expect("UTF-8").to_owned();
                    (path, e.file_type().is_dir())
                })
                .collect()
        };
        let filter = PathFilter::new(&[], &ignore, &[]).expect("valid patterns");
        case.source.filter = Some(Arc::new(filter));
        let action = FileActionCopy {
            include_patterns: include.clone(),
            exclude_patterns: exclude.clone(),
            ..action("/", "/")
        };
        case.run(&action).expect("it copies");
        let mut got: Vec<String> = paths(&case.path("dst")).into_iter().map(|(p, _)| p).collect();
        got.sort();
        let all = paths(&case.path("src"));
        prop_assert_eq!(got, by_definition(&all, &ignore, &include, &exclude), "of {:?}", all);
    }
}
