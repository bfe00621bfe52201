//! What rpm has installed: its database, as far as it is SQLite, which it is since Fedora 33 and RHEL 9.

use std::io::Write as _;

use rusqlite::{Connection, OpenFlags};

use super::installed::System;
use super::{Package, Tree, purl};

const PLACES: [&str; 2] = ["usr/lib/sysimage/rpm/rpmdb.sqlite", "var/lib/rpm/rpmdb.sqlite"];

// Tags of a header.
const NAME: u32 = 1000;
const VERSION: u32 = 1001;
const RELEASE: u32 = 1002;
const EPOCH: u32 = 1003;
const LICENSE: u32 = 1014;
const ARCH: u32 = 1022;

// Types of entries.
const INT32: u32 = 4;
const STRING: u32 = 6;
const STRINGS: u32 = 9;

pub(super) fn packages(tree: &Tree<'_>, system: &System) -> Vec<Package> {
    let mut found = Vec::new();
    for path in PLACES {
        let Some(bytes) = tree.bytes(path) else { continue };
        for header in headers(&bytes).unwrap_or_default() {
            found.extend(package(&Header(&header), system, path));
        }
    }
    found
}

/// The headers in a database. It is copied first: SQLite opens by path, and a path of the tree may lead out of it.
fn headers(bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut copy = tempfile::NamedTempFile::new().ok()?;
    copy.write_all(bytes).ok()?;
    let database = Connection::open_with_flags(copy.path(), OpenFlags::SQLITE_OPEN_READ_ONLY).ok()?;
    let mut query = database.prepare("SELECT blob FROM Packages").ok()?;
    let rows = query.query_map((), |row| row.get::<_, Vec<u8>>(0)).ok()?;
    Some(rows.flatten().collect())
}

fn package(header: &Header<'_>, system: &System, path: &str) -> Option<Package> {
    let name = header.text(NAME)?;
    // Keys that packages are signed with are no packages.
    if name == "gpg-pubkey" {
        return None;
    }
    let version = format!("{}-{}", header.text(VERSION)?, header.text(RELEASE)?);
    let (arch, epoch) = (header.text(ARCH).unwrap_or_default(), header.number(EPOCH).map(|n| n.to_string()));
    let qualifiers =
        [("arch", arch.as_str()), ("distro", &system.distro), ("epoch", epoch.as_deref().unwrap_or_default())];
    let namespace = if system.id.is_empty() { "redhat" } else { &system.id };
    Some(Package {
        purl: purl("rpm", namespace, &name, &version, &qualifiers),
        name,
        version,
        licence: header.text(LICENSE),
        found_in: path.into(),
    })
}

/// A header: the number of entries and of bytes, the entries, the bytes that they point into.
struct Header<'a>(&'a [u8]);

impl Header<'_> {
    fn word(&self, at: usize) -> Option<u32> {
        Some(u32::from_be_bytes(self.0.get(at..at.checked_add(4)?)?.try_into().ok()?))
    }

    /// Type of an entry, and where its bytes are.
    fn entry(&self, tag: u32) -> Option<(u32, usize)> {
        let count = usize::try_from(self.word(0)?).ok()?.min(self.0.len() / 16);
        let at = (0..count).map(|n| 8 + 16 * n).find(|at| self.word(*at) == Some(tag))?;
        let offset = usize::try_from(self.word(at + 8)?).ok()?;
        Some((self.word(at + 4)?, (8 + 16 * count).checked_add(offset)?))
    }

    fn text(&self, tag: u32) -> Option<String> {
        let (kind, at) = self.entry(tag)?;
        if ![STRING, STRINGS].contains(&kind) {
            return None;
        }
        let bytes = self.0.get(at..)?;
        let end = bytes.iter().position(|byte| *byte == 0)?;
        Some(String::from_utf8_lossy(&bytes[..end]).into_owned())
    }

    fn number(&self, tag: u32) -> Option<u32> {
        let (kind, at) = self.entry(tag)?;
        if kind == INT32 { self.word(at) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header as rpm writes it.
    fn header(texts: &[(u32, &str)], epoch: u32) -> Vec<u8> {
        let (mut index, mut data) = (Vec::new(), epoch.to_be_bytes().to_vec());
        let mut entry = |tag: u32, kind: u32, offset: usize| {
            for word in [tag, kind, u32::try_from(offset).expect("small"), 1] {
                index.extend(word.to_be_bytes());
            }
        };
        entry(EPOCH, INT32, 0);
        for (tag, text) in texts {
            entry(*tag, STRING, data.len());
            data.extend(text.bytes().chain([0]));
        }
        let mut out = u32::try_from(texts.len() + 1).expect("small").to_be_bytes().to_vec();
        out.extend(u32::try_from(data.len()).expect("small").to_be_bytes());
        out.extend(index);
        out.extend(data);
        out
    }

    // SPEC C8.15
    #[test]
    fn c8_15_rpms_are_read_from_their_database() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join(PLACES[0]);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        let database = Connection::open(&path).expect("a database");
        database.execute_batch("CREATE TABLE Packages (hnum INTEGER PRIMARY KEY, blob BLOB)").expect("a table");
        let bash = header(
            &[(NAME, "bash"), (VERSION, "5.2"), (RELEASE, "1.fc40"), (LICENSE, "GPL-3.0-or-later"), (ARCH, "x86_64")],
            2,
        );
        for blob in
            [bash.clone(), header(&[(NAME, "gpg-pubkey"), (VERSION, "1"), (RELEASE, "2")], 0), bash[..20].to_vec()]
        {
            database.execute("INSERT INTO Packages (blob) VALUES (?1)", [blob]).expect("a row");
        }
        drop(database);
        let system = System { id: "fedora".into(), distro: "fedora-40".into() };
        let found = packages(&Tree { root: dir.path() }, &system);
        let purls: Vec<&str> = found.iter().map(|package| package.purl.as_str()).collect();
        assert_eq!(purls, ["pkg:rpm/fedora/bash@5.2-1.fc40?arch=x86_64&distro=fedora-40&epoch=2"]);
        assert_eq!(found[0].licence.as_deref(), Some("GPL-3.0-or-later"));
        for end in 0..bash.len() {
            // Whatever is in a tree, nothing worse comes of it than nothing.
            let _ = package(&Header(&bash[..end]), &system, "x");
        }
    }
}
