//! Making and comparing trees and archives.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, XattrFlags};

use super::super::entry::{Entry, EntryKind, Timestamp, Xattrs};
use super::super::header;
use super::super::scan::xattrs_of;
use super::super::target::timestamps;
use super::super::writer::{LayerOptions, LayerSummary, LayerWriter};
use super::super::{
    ApplyOptions, ApplySummary, ArchiveError, Buffered, Dialect, DiffStats, apply, diff_overlay, diff_trees,
};
use crate::oci::media_type::Codec;

pub(super) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Says why a test does nothing.
#[expect(clippy::print_stderr, reason = "a test that silently does nothing looks like one that passed")]
pub(super) fn skipped(reason: &str) {
    eprintln!("skipped: {reason}");
}

/// Ids that files here can be given.
pub(super) fn owner() -> (u32, u32) {
    (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
}

pub(super) fn temp() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

pub(super) fn plain() -> LayerOptions {
    LayerOptions { codec: Codec::Uncompressed, ..LayerOptions::default() }
}

/// A layer of these entries with these contents.
pub(super) fn layer(entries: &[(Entry, &[u8])], options: &LayerOptions) -> (Vec<u8>, LayerSummary) {
    let mut writer = LayerWriter::new(Vec::new(), options).expect("valid options");
    for (entry, content) in entries {
        let mut content = *content;
        writer.append(entry, Some(&mut content)).expect("appends");
    }
    writer.finish().expect("finishes")
}

/// A tar with whatever is in the entries, unchecked.
pub(super) fn raw_tar(entries: &[(Entry, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (entry, content) in entries {
        header::encode(entry, &mut out);
        out.extend_from_slice(content);
        out.resize(out.len() + header::padding(content.len() as u64), 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}

pub(super) fn mine(mut entry: Entry) -> Entry {
    (entry.uid, entry.gid) = owner();
    entry
}

pub(super) fn file(path: &str, content: &[u8]) -> Entry {
    mine(Entry::file(path, 0o644, content.len() as u64))
}

pub(super) fn dir(path: &str) -> Entry {
    mine(Entry::dir(path, 0o755))
}

pub(super) fn link(path: &str, target: &str) -> Entry {
    mine(Entry::symlink(path, target))
}

pub(super) fn try_apply(
    tar: &[u8],
    target: &Path,
    dialect: Dialect,
    lowers: &[PathBuf],
) -> Result<ApplySummary, ArchiveError> {
    apply(&mut Buffered::hashed(tar), target, dialect, lowers, &ApplyOptions::default())
}

pub(super) fn native(tar: &[u8], target: &Path) -> ApplySummary {
    try_apply(tar, target, Dialect::Native, &[]).expect("applies")
}

pub(super) fn overlay(tar: &[u8], target: &Path, lowers: &[PathBuf]) -> ApplySummary {
    fs::create_dir_all(target).expect("creates");
    try_apply(tar, target, Dialect::Overlay, lowers).expect("applies")
}

pub(super) type Diff = (Vec<u8>, LayerSummary, DiffStats);

pub(super) fn diff_native(old: Option<&Path>, new: &Path) -> Diff {
    let mut writer = LayerWriter::new(Vec::new(), &plain()).expect("valid options");
    let stats = diff_trees(old, new, &mut writer).expect("diffs");
    let (bytes, summary) = writer.finish().expect("finishes");
    (bytes, summary, stats)
}

pub(super) fn diff_upper(upper: &Path, lowers: &[PathBuf]) -> Diff {
    let mut writer = LayerWriter::new(Vec::new(), &plain()).expect("valid options");
    let stats = diff_overlay(upper, lowers, &mut writer).expect("diffs");
    let (bytes, summary) = writer.finish().expect("finishes");
    (bytes, summary, stats)
}

/// What a summary's index says, one line per entry: for comparing and for reading when a test fails.
pub(super) fn listing(summary: &LayerSummary) -> Vec<String> {
    summary
        .index
        .iter()
        .map(|found| {
            let entry = found.entry;
            let sign = match entry.kind {
                EntryKind::File => '-',
                EntryKind::Dir => 'd',
                EntryKind::Symlink => 'l',
                EntryKind::Hardlink => 'h',
                EntryKind::Char => 'c',
                EntryKind::Block => 'b',
                EntryKind::Fifo => 'p',
                EntryKind::Whiteout => 'w',
            };
            format!("{sign} {}", entry.path.display())
        })
        .collect()
}

/// A file as far as a layer can say it. Times of directories are not part of it: they follow the children.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) kind: char,
    pub(super) mode: u32,
    pub(super) owner: (u32, u32),
    pub(super) mtime: (i64, i64),
    pub(super) content: Vec<u8>,
    pub(super) device: u64,
    pub(super) xattrs: Xattrs,
}

pub(super) fn seen(path: &Path) -> Seen {
    let meta = fs::symlink_metadata(path).expect("exists");
    let kind = meta.file_type();
    let (letter, content) = match () {
        () if kind.is_file() => ('-', fs::read(path).expect("reads")),
        () if kind.is_dir() => ('d', Vec::new()),
        () if kind.is_symlink() => ('l', fs::read_link(path).expect("reads").into_os_string().into_encoded_bytes()),
        () if kind.is_char_device() => ('c', Vec::new()),
        () if kind.is_block_device() => ('b', Vec::new()),
        () if kind.is_fifo() => ('p', Vec::new()),
        () => ('s', Vec::new()),
    };
    Seen {
        kind: letter,
        mode: if letter == 'l' { 0o777 } else { meta.mode() & 0o7777 },
        owner: (meta.uid(), meta.gid()),
        mtime: if letter == 'd' { (0, 0) } else { (meta.mtime(), meta.mtime_nsec()) },
        content,
        device: if matches!(letter, 'b' | 'c') { meta.rdev() } else { 0 },
        xattrs: if matches!(letter, '-' | 'd') { xattrs_of(path).expect("reads") } else { Xattrs::new() },
    }
}

/// Everything below `root`.
pub(super) fn tree(root: &Path) -> BTreeMap<PathBuf, Seen> {
    let mut out = BTreeMap::new();
    for found in walkdir::WalkDir::new(root).min_depth(1) {
        let found = found.expect("walks");
        let path = found.path().strip_prefix(root).expect("below the root").to_owned();
        out.insert(path, seen(found.path()));
    }
    out
}

pub(super) fn set_mtime(path: &Path, time: Timestamp) {
    rustix::fs::utimensat(CWD, path, &timestamps(time), AtFlags::SYMLINK_NOFOLLOW).expect("sets the time");
}

pub(super) fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).expect("sets the attribute");
}

/// Copies one file, not what is in it if it is a directory. `links` keeps hard links together.
pub(super) fn copy_one(from: &Path, to: &Path, links: &mut BTreeMap<u64, PathBuf>) {
    let meta = fs::symlink_metadata(from).expect("exists");
    let kind = meta.file_type();
    if !kind.is_dir() && meta.nlink() > 1 {
        if let Some(first) = links.get(&meta.ino()) {
            fs::hard_link(first, to).expect("links");
            return;
        }
        links.insert(meta.ino(), to.to_owned());
    }
    if kind.is_dir() {
        fs::create_dir(to).expect("creates");
    } else if kind.is_symlink() {
        std::os::unix::fs::symlink(fs::read_link(from).expect("reads"), to).expect("links");
    } else if kind.is_file() {
        fs::write(to, fs::read(from).expect("reads")).expect("writes");
    } else {
        let raw = rustix::fs::FileType::from_raw_mode(meta.mode());
        rustix::fs::mknodat(CWD, to, raw, rustix::fs::Mode::RUSR, meta.rdev()).expect("makes the node");
    }
    if !kind.is_symlink() {
        fs::set_permissions(to, meta.permissions()).expect("sets the mode");
        if kind.is_file() || kind.is_dir() {
            for (name, value) in xattrs_of(from).expect("reads") {
                set_xattr(to, std::str::from_utf8(&name).expect("text"), &value);
            }
        }
    }
    let time = Timestamp { secs: meta.mtime(), nanos: u32::try_from(meta.mtime_nsec()).expect("small") };
    set_mtime(to, time);
}

/// `cp -a`.
pub(super) fn copy_tree(from: &Path, to: &Path) {
    let mut links = BTreeMap::new();
    for found in walkdir::WalkDir::new(from).sort_by_file_name() {
        let found = found.expect("walks");
        let relative = found.path().strip_prefix(from).expect("below the root");
        let target = if relative.as_os_str().is_empty() { to.to_owned() } else { to.join(relative) };
        copy_one(found.path(), &target, &mut links);
    }
    copy_dir_times(from, to);
}

/// Gives directories of `to` the times they have in `from`.
pub(super) fn copy_dir_times(from: &Path, to: &Path) {
    for found in walkdir::WalkDir::new(to) {
        let found = found.expect("walks");
        let source = from.join(found.path().strip_prefix(to).expect("below the root"));
        if found.file_type().is_dir() {
            let meta = fs::symlink_metadata(source).expect("exists");
            let time = Timestamp { secs: meta.mtime(), nanos: u32::try_from(meta.mtime_nsec()).expect("small") };
            // Setting it is a change, too.
            let now = found.metadata().expect("exists");
            if (now.mtime(), now.mtime_nsec()) != (meta.mtime(), meta.mtime_nsec()) {
                set_mtime(found.path(), time);
            }
        }
    }
}

/// A change time that everything made so far has behind it, and nothing made later.
pub(super) fn moment(dir: &Path) -> Timestamp {
    let marker = dir.join("marker");
    let now = || {
        fs::write(&marker, "").expect("writes");
        let meta = fs::metadata(&marker).expect("exists");
        Timestamp { secs: meta.ctime(), nanos: u32::try_from(meta.ctime_nsec()).expect("small") }
    };
    let before = now();
    loop {
        let after = now();
        if after > before {
            return after;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}
