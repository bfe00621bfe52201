//! SPDX 2.3 as JSON.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::{Listing, Package, TOOL};
use crate::base::Digest;

/// A document about one tree.
pub struct Document<'a> {
    /// What the tree is.
    pub name: &'a str,
    /// When it was made, RFC 3339 with whole seconds.
    pub created: &'a str,
    /// What is in it.
    pub listing: &'a Listing,
}

impl Document<'_> {
    /// The document.
    #[must_use]
    pub fn json(&self) -> Value {
        let mut packages = vec![json!({
            "name": self.name,
            "SPDXID": "SPDXRef-DocumentRoot",
            "downloadLocation": "NOASSERTION",
            "filesAnalyzed": false,
            "primaryPackagePurpose": "CONTAINER",
        })];
        let mut relationships = vec![relation("SPDXRef-DOCUMENT", "DESCRIBES", "SPDXRef-DocumentRoot")];
        // Trees of packages for JavaScript have thousands of both.
        let evidence: HashSet<&str> = self.listing.evidence.iter().map(|file| file.path.as_str()).collect();
        for package in &self.listing.packages {
            let id = id(package);
            relationships.push(relation("SPDXRef-DocumentRoot", "CONTAINS", &id));
            if evidence.contains(package.found_in.as_str()) {
                let mut evident = relation(&id, "OTHER", &file_id(&package.found_in));
                evident["comment"] = "evident-by: the file names the package".into();
                relationships.push(evident);
            }
            packages.push(json!({
                "name": package.name,
                "SPDXID": id,
                "versionInfo": package.version,
                "downloadLocation": "NOASSERTION",
                "filesAnalyzed": false,
                "licenseConcluded": "NOASSERTION",
                "licenseDeclared": declared(package.licence.as_deref()),
                "copyrightText": "NOASSERTION",
                "sourceInfo": format!("found in /{}", package.found_in),
                "externalRefs": [{
                    "referenceCategory": "PACKAGE-MANAGER",
                    "referenceType": "purl",
                    "referenceLocator": package.purl,
                }],
            }));
        }
        let mut files = Vec::new();
        for file in &self.listing.evidence {
            files.push(json!({
                "fileName": format!("./{}", file.path),
                "SPDXID": file_id(&file.path),
                "checksums": [{"algorithm": "SHA1", "checksumValue": file.sha1}],
                "licenseConcluded": "NOASSERTION",
                "copyrightText": "NOASSERTION",
            }));
        }
        let content = Digest::sha256(json!([self.name, self.created, packages, files]).to_string());
        json!({
            "spdxVersion": "SPDX-2.3",
            "dataLicense": "CC0-1.0",
            "SPDXID": "SPDXRef-DOCUMENT",
            "name": self.name,
            "documentNamespace": format!("https://spdx.org/spdxdocs/rbuild-{}", content.hex()),
            "creationInfo": {
                "created": self.created,
                "creators": [TOOL],
            },
            "packages": packages,
            "files": files,
            "relationships": relationships,
        })
    }
}

fn relation(from: &str, kind: &str, to: &str) -> Value {
    json!({"spdxElementId": from, "relationshipType": kind, "relatedSpdxElement": to})
}

/// The identifier of a file.
fn file_id(path: &str) -> String {
    format!("SPDXRef-File-{}", &Digest::sha256(path).hex()[..16])
}

/// Letters, digits, dots and dashes; unique by what the package is and where it was found.
fn id(package: &Package) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' };
    let name: String = package.name.chars().map(plain).collect();
    let unique = Digest::sha256(format!("{} {}", package.purl, package.found_in));
    format!("SPDXRef-Package-{name}-{}", &unique.hex()[..16])
}

/// A licence expression; what is none is not asserted.
fn declared(licence: Option<&str>) -> &str {
    let expression = |text: &&str| {
        let word = |word: &str| {
            ["AND", "OR", "WITH"].contains(&word)
                || (word.contains(|c: char| c.is_ascii_digit()) || KNOWN.contains(&word))
                    && word.chars().all(|c| c.is_ascii_alphanumeric() || "-.+".contains(c))
        };
        let bare = text.replace(['(', ')'], " ");
        let mut words = bare.split_whitespace().peekable();
        words.peek().is_some() && words.all(word)
    };
    licence.filter(expression).unwrap_or("NOASSERTION")
}

/// Identifiers of SPDX without a version.
const KNOWN: [&str; 10] =
    ["MIT", "ISC", "Zlib", "curl", "X11", "PostgreSQL", "OpenSSL", "Unlicense", "bzip2-1.0.6", "MIT-0"];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attest::sbom::Evidence;

    // SPEC C8.15
    #[test]
    fn c8_15_documents_are_spdx() {
        let package = |name: &str, licence: Option<&str>| Package {
            name: name.into(),
            version: "1.0".into(),
            purl: format!("pkg:deb/debian/{name}@1.0"),
            licence: licence.map(ToOwned::to_owned),
            found_in: "var/lib/dpkg/status".into(),
        };
        let packages = vec![package("libc++", Some("MIT AND GPL-2.0-or-later")), package("x", Some("see the file"))];
        let evidence = vec![Evidence { path: "var/lib/dpkg/status".into(), sha1: "00ff".into() }];
        let listing = Listing { packages, evidence };
        let document = Document { name: "app", created: "2026-01-02T03:04:05Z", listing: &listing }.json();
        let text = serde_json::to_string_pretty(&document).expect("JSON");
        insta::assert_snapshot!("spdx", text.replace(env!("CARGO_PKG_VERSION"), "VERSION"));
    }
}
