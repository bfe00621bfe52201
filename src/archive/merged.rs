//! Several tree indexes seen as one file system: what COPY, content keys and look-ups of owners need to know of a parent, without
//! its directories.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::entry::EntryKind;
use super::index::{IndexEntry, TreeIndex};
use super::target::names;

/// Several indexes seen as one file system, bottom first.
pub struct MergedIndex<'a> {
    layers: Vec<&'a TreeIndex>,
}

impl<'a> MergedIndex<'a> {
    /// Over `layers`, bottom first.
    #[must_use]
    pub fn new(layers: impl IntoIterator<Item = &'a TreeIndex>) -> Self {
        Self { layers: layers.into_iter().collect() }
    }

    /// What the file system has at exactly `path` (symlinks are not followed); `None` if nothing, or deleted.
    #[must_use]
    pub fn lookup(&self, path: &Path) -> Option<IndexEntry> {
        for layer in self.layers.iter().rev() {
            if let Some(found) = layer.lookup(path) {
                return Some(found).filter(|f| f.entry.kind != EntryKind::Whiteout);
            }
            if hides_below(layer, path) {
                return None;
            }
        }
        None
    }

    /// Follows symlinks inside the file system: the real path and what is there, if anything is. `None` when the way leads
    /// through something that is neither directory nor symlink, or in a circle.
    #[must_use]
    pub fn resolve(&self, path: &Path) -> Option<(PathBuf, Option<IndexEntry>)> {
        let mut left: VecDeque<OsString> = names(path).collect();
        let (mut real, mut hops, mut last) = (PathBuf::new(), 0, self.lookup(Path::new("")));
        while let Some(name) = left.pop_front() {
            if name == ".." {
                real.pop();
                last = self.lookup(&real);
                continue;
            }
            let next = real.join(&name);
            let found = self.lookup(&next);
            match found.as_ref().map(|f| f.entry.kind) {
                Some(EntryKind::Symlink) => {
                    hops += 1;
                    if hops > 40 {
                        return None;
                    }
                    let target = found.map(|f| f.entry.link).unwrap_or_default();
                    if target.is_absolute() {
                        real = PathBuf::new();
                        last = self.lookup(&real);
                    }
                    for name in names(&target).rev() {
                        left.push_front(name);
                    }
                }
                None | Some(EntryKind::Dir) => (real, last) = (next, found),
                Some(_) if left.is_empty() => (real, last) = (next, found),
                Some(_) => return None,
            }
        }
        Some((real, last))
    }

    /// What is directly inside `dir` (a real path), in order.
    #[must_use]
    pub fn children(&self, dir: &Path) -> Vec<IndexEntry> {
        let mut seen = BTreeMap::new();
        for layer in self.layers.iter().rev() {
            for child in layer.children(dir) {
                seen.entry(child.entry.path.clone()).or_insert(child);
            }
            let here = layer.lookup(dir);
            if here.is_some_and(|h| h.entry.kind != EntryKind::Dir || h.entry.opaque) || hides_below(layer, dir) {
                break;
            }
        }
        seen.into_values().filter(|c| c.entry.kind != EntryKind::Whiteout).collect()
    }
}

/// Whether `layer` hides what lower layers have at `path`, through one of the directories above.
fn hides_below(layer: &TreeIndex, path: &Path) -> bool {
    path.ancestors()
        .skip(1)
        .filter_map(|ancestor| layer.lookup(ancestor))
        .any(|found| found.entry.kind != EntryKind::Dir || found.entry.opaque)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::entry::Entry;
    use crate::archive::index::IndexBuilder;

    fn index(entries: &[Entry]) -> TreeIndex {
        let mut builder = IndexBuilder::default();
        for entry in entries {
            builder.push(entry, None, 0, 512);
        }
        builder.finish()
    }

    fn layers() -> [TreeIndex; 3] {
        [
            index(&[
                Entry::dir("etc", 0o755),
                Entry::file("etc/passwd", 0o644, 5),
                Entry::file("etc/shadow", 0o600, 5),
                Entry::symlink("lib", "usr/lib"),
                Entry::dir("usr", 0o755),
                Entry::dir("usr/lib", 0o755),
                Entry::file("usr/lib/libc", 0o755, 9),
                Entry::dir("var", 0o755),
                Entry::file("var/old", 0o644, 1),
            ]),
            index(&[
                Entry::symlink("circle", "circle"),
                Entry::file("etc/passwd", 0o600, 6),
                Entry::whiteout("etc/shadow"),
                Entry::symlink("usr/lib/up", "../../etc"),
                Entry { opaque: true, ..Entry::dir("var", 0o700) },
                Entry::symlink("var/abs", "/lib/libc"),
            ]),
            index(&[Entry::file("new", 0o644, 0)]),
        ]
    }

    fn found(merged: &MergedIndex<'_>, path: &str) -> Option<(String, Option<u32>)> {
        merged
            .resolve(Path::new(path))
            .map(|(real, entry)| (real.to_str().expect("text").to_owned(), entry.map(|e| e.entry.mode)))
    }

    #[test]
    fn upper_layers_win_and_hide() {
        let layers = layers();
        let merged = MergedIndex::new(&layers);
        let mode = |path: &str| merged.lookup(Path::new(path)).map(|found| found.entry.mode);
        assert_eq!(mode("etc/passwd"), Some(0o600));
        assert_eq!(mode("etc/shadow"), None);
        assert_eq!(mode("var"), Some(0o700));
        assert_eq!(mode("var/old"), None, "the directory is opaque");
        assert_eq!(mode("lib/libc"), None, "symlinks are not followed");
        let names = |dir: &str| -> Vec<String> {
            merged.children(Path::new(dir)).iter().map(|c| c.entry.path.display().to_string()).collect()
        };
        assert_eq!(names(""), ["circle", "etc", "lib", "new", "usr", "var"]);
        assert_eq!(names("etc"), ["etc/passwd"]);
        assert_eq!(names("var"), ["var/abs"]);
        assert_eq!(names("usr/lib"), ["usr/lib/libc", "usr/lib/up"]);
    }

    #[test]
    fn symlinks_are_resolved_inside() {
        let layers = layers();
        let merged = MergedIndex::new(&layers);
        let there = |path: &str, mode| Some((path.to_owned(), mode));
        assert_eq!(found(&merged, "/lib/libc"), there("usr/lib/libc", Some(0o755)));
        assert_eq!(found(&merged, "lib/up/passwd"), there("etc/passwd", Some(0o600)));
        assert_eq!(found(&merged, "lib/../etc"), there("usr/etc", None), "`..` is the real parent");
        assert_eq!(found(&merged, "var/abs"), there("usr/lib/libc", Some(0o755)));
        assert_eq!(found(&merged, "../../etc/./passwd"), there("etc/passwd", Some(0o600)));
        assert_eq!(found(&merged, "lib/missing/deep"), there("usr/lib/missing/deep", None));
        assert_eq!(found(&merged, "circle"), None);
        assert_eq!(found(&merged, "etc/passwd/x"), None);
    }
}
