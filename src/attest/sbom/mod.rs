//! A list of the software in a tree, made without a scanner (SPEC C8.15): what package managers say is installed, and what
//! lock files of languages name. Written as SPDX 2.3.

mod installed;
mod languages;
mod layers;
mod rpm;
mod spdx;

use std::io::{self, Read as _};
use std::path::Path;

pub use layers::name_layers;
pub use spdx::Document;

use sha1::Digest as _;

use crate::base::file;

/// What asks for this generator instead of an image.
pub const BUILT_IN: &str = "builtin";
/// Who writes documents, in SPDX's form.
const TOOL: &str = concat!("Tool: rbuild-", env!("CARGO_PKG_VERSION"));
/// Larger files are no lists of packages.
const MAX_FILE: u64 = 64 << 20;

/// A package that is there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its package URL.
    pub purl: String,
    /// The licence as the package states it, if that is an SPDX expression.
    pub licence: Option<String>,
    /// The file that says so.
    pub found_in: String,
}

/// What is in a tree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// Packages, sorted.
    pub packages: Vec<Package>,
    /// The files that name them, each once.
    pub evidence: Vec<Evidence>,
}

/// A file that says which packages there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// Its path below the root.
    pub path: String,
    /// The SHA-1 of its content in hex: SPDX 2.3 wants it of every file.
    pub sha1: String,
}

/// A tree whose files are read, never outside of it.
pub(super) struct Tree<'a> {
    root: &'a Path,
}

impl Tree<'_> {
    /// A file's text; nothing for what is none, or cannot be read.
    pub(super) fn text(&self, path: &str) -> Option<String> {
        self.bytes(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    pub(super) fn bytes(&self, path: &str) -> Option<Vec<u8>> {
        let file = file::regular_in_root(file::open_dir(self.root).ok()?, Path::new(path)).ok()??;
        let mut bytes = Vec::new();
        file.take(MAX_FILE + 1).read_to_end(&mut bytes).ok()?;
        (bytes.len() as u64 <= MAX_FILE).then_some(bytes)
    }

    /// A file's SHA-1 in hex, however large it is.
    fn sha1(&self, path: &str) -> Option<String> {
        let mut file = file::regular_in_root(file::open_dir(self.root).ok()?, Path::new(path)).ok()??;
        let mut hasher = Sha1Writer(sha1::Sha1::new());
        io::copy(&mut file, &mut hasher).ok()?;
        Some(hasher.0.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// The names in a directory.
    pub(super) fn names(&self, path: &str) -> Vec<String> {
        let names = file::open_dir(self.root).and_then(|root| file::names_in_root(root, Path::new(path)));
        names.unwrap_or_default().into_iter().filter_map(|name| name.into_string().ok()).collect()
    }
}

struct Sha1Writer(sha1::Sha1);

impl io::Write for Sha1Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Everything that is found in a tree, each once, sorted.
#[must_use]
pub fn list(root: &Path) -> Listing {
    let tree = Tree { root };
    let system = installed::System::of(&tree);
    let mut found = installed::packages(&tree, &system);
    found.extend(rpm::packages(&tree, &system));
    found.extend(languages::packages(&tree));
    found.sort();
    found.dedup_by(|a, b| a.purl == b.purl && a.found_in == b.found_in);
    let mut paths: Vec<&str> = found.iter().map(|package| package.found_in.as_str()).collect();
    paths.sort_unstable();
    paths.dedup();
    let evidence =
        paths.iter().filter_map(|path| Some(Evidence { path: (*path).into(), sha1: tree.sha1(path)? })).collect();
    Listing { packages: found, evidence }
}

/// A package URL: `kind/namespace/name@version?qualifiers`.
pub(super) fn purl(kind: &str, namespace: &str, name: &str, version: &str, qualifiers: &[(&str, &str)]) -> String {
    let mut out = format!("pkg:{kind}/");
    if !namespace.is_empty() {
        out.push_str(&namespace.split('/').map(escape).collect::<Vec<_>>().join("/"));
        out.push('/');
    }
    out.push_str(&escape(name));
    if !version.is_empty() {
        out.push('@');
        out.push_str(&escape(version));
    }
    let mut first = true;
    for (key, value) in qualifiers.iter().filter(|(_, value)| !value.is_empty()) {
        out.push(if std::mem::take(&mut first) { '?' } else { '&' });
        out.push_str(&format!("{key}={}", escape(value)));
    }
    out
}

/// Percent-encoding, as package URLs want it.
fn escape(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' | b'~' | b':' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    // SPEC C8.15
    #[test]
    fn package_urls_are_escaped() {
        let qualifiers = [("arch", "amd64"), ("distro", "debian-12"), ("epoch", "")];
        assert_eq!(
            purl("deb", "debian", "libstdc++6", "1:12.2~rc1", &qualifiers),
            "pkg:deb/debian/libstdc%2B%2B6@1:12.2~rc1?arch=amd64&distro=debian-12"
        );
        assert_eq!(purl("npm", "@types", "node", "20", &[]), "pkg:npm/%40types/node@20");
        assert_eq!(purl("golang", "github.com/o", "r", "v1", &[]), "pkg:golang/github.com/o/r@v1");
    }
}
