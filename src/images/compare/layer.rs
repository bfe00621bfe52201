//! Two layers, file by file.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use serde::{Serialize, Serializer};

use crate::archive::index::path_order;
use crate::archive::{EntryKind, IndexEntry, Timestamp, TreeIndex};

/// Files of which it is said where their contents begin to differ: so many, each of at most so many bytes.
const EXCERPTS: usize = 32;
pub(super) const LARGEST_EXCERPT: u64 = 1 << 20;
/// Characters of a line that are shown.
const LINE: usize = 120;

/// What is between two layers at one path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileDifference {
    /// The path, without a slash in front.
    #[serde(serialize_with = "lossy")]
    pub path: PathBuf,
    /// In which layer it is.
    pub change: Change,
    /// What is not the same, for a path that is in both.
    pub aspects: Vec<Aspect>,
    /// Where the contents begin to differ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub excerpt: Option<Excerpt>,
}

/// Which of two layers have a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// The first alone.
    OnlyInFirst,
    /// The second alone.
    OnlyInSecond,
    /// Both, and something about it differs.
    Changed,
}

/// Something about a file that is not the same in both layers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Aspect {
    /// `content`, `size`, `kind`, `mode`, `owner`, `time`, `link`, `device`, `opaque`, or `xattr NAME`.
    pub name: String,
    /// In the first layer.
    pub first: String,
    /// In the second layer.
    pub second: String,
}

/// The first difference between two contents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Excerpt {
    /// Of texts: the line, counted from 1, and what it says, shortened.
    Line {
        /// Counted from 1.
        line: usize,
        /// In the first layer.
        first: String,
        /// In the second layer.
        second: String,
    },
    /// Of anything else: the byte, counted from 0.
    Byte {
        /// Counted from 0.
        byte: usize,
    },
}

fn lossy<S: Serializer>(path: &std::path::Path, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&path.to_string_lossy())
}

/// What differs between two layers, in order of the paths.
pub(super) fn differences(first: &TreeIndex, second: &TreeIndex) -> Vec<FileDifference> {
    let (mut a, mut b) = (first.iter().peekable(), second.iter().peekable());
    let mut found = Vec::new();
    let alone = |entry: Option<IndexEntry>, change| {
        entry.map(|e| FileDifference { path: e.entry.path, change, aspects: Vec::new(), excerpt: None })
    };
    loop {
        let order = match (a.peek(), b.peek()) {
            (None, None) => return found,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some(x), Some(y)) => path_order(x.entry.path.as_os_str().as_bytes(), y.entry.path.as_os_str().as_bytes()),
        };
        match order {
            std::cmp::Ordering::Less => found.extend(alone(a.next(), Change::OnlyInFirst)),
            std::cmp::Ordering::Greater => found.extend(alone(b.next(), Change::OnlyInSecond)),
            std::cmp::Ordering::Equal => {
                if let (Some(x), Some(y)) = (a.next(), b.next()) {
                    let aspects = aspects(&x, &y);
                    if !aspects.is_empty() {
                        let path = x.entry.path;
                        found.push(FileDifference { path, change: Change::Changed, aspects, excerpt: None });
                    }
                }
            }
        }
    }
}

fn aspects(first: &IndexEntry, second: &IndexEntry) -> Vec<Aspect> {
    let (a, b) = (&first.entry, &second.entry);
    let mut found = Vec::new();
    let mut compare = |name: &str, first: &dyn Display, second: &dyn Display| {
        let (first, second) = (first.to_string(), second.to_string());
        if first != second {
            found.push(Aspect { name: name.to_owned(), first, second });
        }
    };
    compare("kind", &kind(a.kind), &kind(b.kind));
    if let (Some(x), Some(y)) = (&first.digest, &second.digest) {
        compare("content", x, y);
    }
    compare("size", &a.size, &b.size);
    compare("mode", &format_args!("{:04o}", a.mode), &format_args!("{:04o}", b.mode));
    compare("owner", &format_args!("{}:{}", a.uid, a.gid), &format_args!("{}:{}", b.uid, b.gid));
    compare("time", &time(a.mtime), &time(b.mtime));
    compare("link", &a.link.display(), &b.link.display());
    compare("device", &format_args!("{}:{}", a.device.0, a.device.1), &format_args!("{}:{}", b.device.0, b.device.1));
    compare("opaque", &a.opaque, &b.opaque);
    let names: BTreeSet<_> = a.xattrs.keys().chain(b.xattrs.keys()).collect();
    for name in names {
        let value = |entry: &crate::archive::Entry| match entry.xattrs.get(name) {
            Some(value) => String::from_utf8_lossy(value).into_owned(),
            None => "none".to_owned(),
        };
        compare(&format!("xattr {}", String::from_utf8_lossy(name)), &value(a), &value(b));
    }
    found
}

fn kind(kind: EntryKind) -> &'static str {
    match kind {
        EntryKind::File => "file",
        EntryKind::Dir => "directory",
        EntryKind::Symlink => "symbolic link",
        EntryKind::Hardlink => "hard link",
        EntryKind::Char => "character device",
        EntryKind::Block => "block device",
        EntryKind::Fifo => "named pipe",
        EntryKind::Whiteout => "deletion",
    }
}

fn time(time: Timestamp) -> String {
    let nanos = i32::try_from(time.nanos).unwrap_or_default();
    jiff::Timestamp::new(time.secs, nanos).map_or_else(|_| time.secs.to_string(), |t| t.to_string())
}

/// Files whose contents are worth a second look for where they begin to differ.
pub(super) fn worth_reading(found: &[FileDifference]) -> BTreeSet<PathBuf> {
    let differing = found.iter().filter(|d| d.aspects.iter().any(|a| a.name == "content"));
    differing.take(EXCERPTS).map(|d| d.path.clone()).collect()
}

/// Where two contents begin to differ; nothing if they do not.
pub(super) fn excerpt(first: &[u8], second: &[u8]) -> Option<Excerpt> {
    if first == second {
        return None;
    }
    let same = first.iter().zip(second).take_while(|(a, b)| a == b).count();
    let text = |bytes: &[u8]| std::str::from_utf8(bytes).is_ok_and(|text| !text.contains('\0'));
    if !text(first) || !text(second) {
        return Some(Excerpt::Byte { byte: same });
    }
    let begin = first[..same].iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
    let line = |bytes: &[u8]| {
        let rest = String::from_utf8_lossy(&bytes[begin..]);
        let line = rest.split('\n').next().unwrap_or_default();
        let shown: String = line.chars().take(LINE).map(|c| if c.is_control() { ' ' } else { c }).collect();
        if line.chars().count() > LINE { format!("{shown}…") } else { shown }
    };
    let number = first[..begin].iter().filter(|b| **b == b'\n').count() + 1;
    Some(Excerpt::Line { line: number, first: line(first), second: line(second) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::{ApplyOptions, Content, Entry, LayerOptions, LayerWriter, index_layer};

    fn index(entries: &[(Entry, &[u8])]) -> TreeIndex {
        let options = LayerOptions { codec: crate::oci::media_type::Codec::Uncompressed, ..LayerOptions::default() };
        let mut writer = LayerWriter::new(Vec::new(), &options).expect("a writer");
        for (entry, content) in entries {
            let mut content = *content;
            let content = (entry.kind == EntryKind::File).then_some(&mut content as &mut dyn std::io::Read);
            writer.append_content(entry, content.map(Content::Reader)).expect("an entry");
        }
        let (tar, _) = writer.finish().expect("a layer");
        index_layer(&mut tar.as_slice(), &ApplyOptions::default()).expect("an index").index
    }

    #[test]
    fn every_aspect_is_told() {
        let mut file = Entry::file("a/f", 0o644, 3);
        let first = index(&[(Entry::dir("a", 0o755), b""), (file.clone(), b"abc"), (Entry::symlink("l", "x"), b"")]);
        file.mode = 0o4755;
        file.uid = 7;
        file.mtime = Timestamp::seconds(5);
        file.xattrs.insert(b"user.k".to_vec(), b"v".to_vec());
        let second = index(&[(Entry::dir("a", 0o755), b""), (file, b"abd"), (Entry::symlink("m", "x"), b"")]);
        let found = differences(&first, &second);
        let shown: Vec<(&str, Change)> = found.iter().map(|d| (d.path.to_str().expect("a name"), d.change)).collect();
        assert_eq!(shown, [("a/f", Change::Changed), ("l", Change::OnlyInFirst), ("m", Change::OnlyInSecond)]);
        let aspects: Vec<(&str, &str, &str)> =
            found[0].aspects.iter().skip(1).map(|a| (&*a.name, &*a.first, &*a.second)).collect();
        assert_eq!(found[0].aspects[0].name, "content");
        assert_eq!(
            aspects,
            [
                ("mode", "0644", "4755"),
                ("owner", "0:0", "7:0"),
                ("time", "1970-01-01T00:00:00Z", "1970-01-01T00:00:05Z"),
                ("xattr user.k", "none", "v"),
            ]
        );
        assert_eq!(worth_reading(&found), BTreeSet::from([PathBuf::from("a/f")]));
        assert!(differences(&first, &first).is_empty());
    }

    #[test]
    fn excerpts_show_the_line_or_the_byte() {
        assert_eq!(excerpt(b"same", b"same"), None);
        let line =
            |line, first: &str, second: &str| Some(Excerpt::Line { line, first: first.into(), second: second.into() });
        assert_eq!(excerpt(b"a\nb 1\nc\n", b"a\nb 2\nc\n"), line(2, "b 1", "b 2"));
        assert_eq!(excerpt(b"a\n", b"a\nmore"), line(2, "", "more"));
        assert_eq!(excerpt(b"a\0b", b"a\0c"), Some(Excerpt::Byte { byte: 2 }));
        let long = "x".repeat(500);
        let Some(Excerpt::Line { first, .. }) = excerpt(long.as_bytes(), b"y") else { panic!("no line") };
        assert_eq!(first.chars().count(), LINE + 1);
        // A terminal must not obey what a file says.
        assert_eq!(excerpt(b"\x1b[2J", b"y"), line(1, " [2J", "y"));
    }
}
