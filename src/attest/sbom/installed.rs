//! What dpkg and apk have installed.

use super::{Package, Tree, purl};

/// Which distribution a tree is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct System {
    /// `ID` of os-release.
    pub(super) id: String,
    /// `ID-VERSION`, for package URLs.
    pub(super) distro: String,
}

impl System {
    pub(super) fn of(tree: &Tree<'_>) -> Self {
        let text = tree.text("etc/os-release").or_else(|| tree.text("usr/lib/os-release")).unwrap_or_default();
        let value = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            line.map(|value| value.trim().trim_matches(['"', '\'']).to_owned()).unwrap_or_default()
        };
        let (id, version) = (value("ID"), value("VERSION_ID"));
        let distro = if version.is_empty() { id.clone() } else { format!("{id}-{version}") };
        Self { id, distro }
    }
}

pub(super) fn packages(tree: &Tree<'_>, system: &System) -> Vec<Package> {
    let mut found = Vec::new();
    for path in ["var/lib/dpkg/status".to_owned()].into_iter().chain(distroless(tree)) {
        if let Some(text) = tree.text(&path) {
            found.extend(dpkg(&text, system, &path));
        }
    }
    for path in ["lib/apk/db/installed", "usr/lib/apk/db/installed"] {
        if let Some(text) = tree.text(path) {
            found.extend(apk(&text, system, path));
        }
    }
    found
}

/// Images without a package manager have a file for each package.
fn distroless(tree: &Tree<'_>) -> Vec<String> {
    const DIR: &str = "var/lib/dpkg/status.d";
    tree.names(DIR).into_iter().filter(|name| !name.ends_with(".md5sums")).map(|name| format!("{DIR}/{name}")).collect()
}

/// Stanzas of `Key: value` lines.
fn stanzas(text: &str) -> impl Iterator<Item = &str> {
    text.split("\n\n").filter(|stanza| !stanza.trim().is_empty())
}

fn field<'a>(stanza: &'a str, key: &str) -> Option<&'a str> {
    stanza.lines().find_map(|line| line.strip_prefix(key)).map(str::trim).filter(|value| !value.is_empty())
}

fn dpkg(text: &str, system: &System, path: &str) -> Vec<Package> {
    let namespace = if system.id.is_empty() { "debian" } else { &system.id };
    let package = |stanza: &str| {
        // What was removed but for its configuration is not there.
        if field(stanza, "Status:").is_some_and(|status| !status.ends_with(" installed")) {
            return None;
        }
        let (name, version) = (field(stanza, "Package:")?, field(stanza, "Version:")?);
        let arch = field(stanza, "Architecture:").unwrap_or_default();
        // `Source: name (version)`
        let source =
            field(stanza, "Source:").map(|source| source.replace([' ', '('], "@").replace(')', "").replace("@@", "@"));
        let qualifiers =
            [("arch", arch), ("distro", &system.distro), ("upstream", source.as_deref().unwrap_or_default())];
        Some(Package {
            name: name.into(),
            version: version.into(),
            purl: purl("deb", namespace, name, version, &qualifiers),
            licence: None,
            found_in: path.into(),
        })
    };
    stanzas(text).filter_map(package).collect()
}

fn apk(text: &str, system: &System, path: &str) -> Vec<Package> {
    let namespace = if system.id.is_empty() { "alpine" } else { &system.id };
    let package = |stanza: &str| {
        let (name, version) = (field(stanza, "P:")?, field(stanza, "V:")?);
        let qualifiers = [
            ("arch", field(stanza, "A:").unwrap_or_default()),
            ("distro", system.distro.as_str()),
            ("upstream", field(stanza, "o:").filter(|origin| *origin != name).unwrap_or_default()),
        ];
        Some(Package {
            name: name.into(),
            version: version.into(),
            purl: purl("apk", namespace, name, version, &qualifiers),
            licence: field(stanza, "L:").map(ToOwned::to_owned),
            found_in: path.into(),
        })
    };
    stanzas(text).filter_map(package).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    // SPEC C8.15
    #[test]
    fn c8_15_dpkg_and_apk_say_what_is_installed() {
        let dir = tempfile::tempdir().expect("a directory");
        let put = |path: &str, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            std::fs::write(path, text).expect("written");
        };
        put("etc/os-release", "NAME=x\nID=debian\nVERSION_ID=\"12\"\n");
        put(
            "var/lib/dpkg/status",
            "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nSource: glibc (2.36-9)\nVersion: 2.36-9+deb12u4\nDescription: x\n more\n\n\
             Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n\n",
        );
        put("var/lib/dpkg/status.d/tzdata", "Package: tzdata\nVersion: 2024a\nArchitecture: all\n");
        put("lib/apk/db/installed", "C:Q1x=\nP:musl\nV:1.2.5-r0\nA:x86_64\nL:MIT\no:musl\n\n");
        let tree = Tree { root: dir.path() };
        let found = packages(&tree, &System::of(&tree));
        let purls: Vec<&str> = found.iter().map(|package| package.purl.as_str()).collect();
        assert_eq!(
            purls,
            [
                "pkg:deb/debian/libc6@2.36-9%2Bdeb12u4?arch=amd64&distro=debian-12&upstream=glibc%402.36-9",
                "pkg:deb/debian/tzdata@2024a?arch=all&distro=debian-12",
                "pkg:apk/debian/musl@1.2.5-r0?arch=x86_64&distro=debian-12",
            ]
        );
        assert_eq!(found[2].licence.as_deref(), Some("MIT"));
    }

    #[test]
    fn a_link_leads_nowhere_outside_of_the_tree() {
        let (dir, outside) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
        std::fs::write(outside.path().join("package"), "Package: x\nVersion: 1\n").expect("written");
        std::fs::create_dir_all(dir.path().join("var/lib/dpkg")).expect("made");
        std::os::unix::fs::symlink(outside.path(), dir.path().join("var/lib/dpkg/status.d")).expect("linked");
        let tree = Tree { root: dir.path() };
        assert_eq!(tree.names("var/lib/dpkg/status.d"), [""; 0]);
        // What would be waited for is nothing.
        rustix::fs::mknodat(
            rustix::fs::CWD,
            dir.path().join("var/lib/dpkg/status"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .expect("a pipe");
        assert_eq!(tree.bytes("var/lib/dpkg/status"), None);
    }
}
