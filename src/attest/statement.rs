//! In-toto statements: what a predicate is about (SPEC C8.04).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Provenance, sbom};
use crate::base::Digest;
use crate::oci::{Descriptor, Platform, Reference};
use crate::store::LayerId;

/// The type of statements.
pub const STATEMENT: &str = "https://in-toto.io/Statement/v1";
/// The type of predicates that list software.
pub const SPDX: &str = "https://spdx.dev/Document";

/// Something that can be said about an image.
#[derive(Debug, Clone)]
pub struct Attestation {
    /// What is said.
    pub predicate: Predicate,
    /// Its name among exported files.
    pub filename: String,
    /// Only where it can stand beside an image.
    pub inline_only: bool,
    /// Nobody asked for it.
    pub unasked: bool,
}

/// What is said.
#[derive(Debug, Clone)]
pub enum Predicate {
    /// How it was built.
    Provenance(Arc<Provenance>),
    /// Something that is known already.
    Known {
        /// Its type, a URI.
        kind: String,
        /// The predicate.
        value: Arc<Value>,
        /// It is an SPDX document about the whole image, whose files are told their layers (SPEC C8.13).
        of_image: bool,
    },
}

/// What a statement is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// A package URL, or the path of a file; others leave it out.
    #[serde(default)]
    pub name: String,
    /// By algorithm, in hex.
    pub digest: BTreeMap<String, String>,
}

impl Subject {
    /// Something with a digest.
    #[must_use]
    pub fn new(name: impl Into<String>, digest: &Digest) -> Self {
        Self { name: name.into(), digest: digest_map(digest) }
    }

    /// An image under its names; one without a name is `_`.
    #[must_use]
    pub fn image(names: &[Reference], platform: &Platform, manifest: &Digest) -> Vec<Self> {
        if names.is_empty() {
            return vec![Self::new("_", manifest)];
        }
        names.iter().map(|name| Self::new(image_purl("docker", name, Some(platform)), manifest)).collect()
    }
}

/// A statement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Statement {
    /// [`STATEMENT`]
    #[serde(rename = "_type")]
    pub kind: String,
    /// The predicate's type.
    pub predicate_type: String,
    /// What it is about.
    pub subject: Vec<Subject>,
    /// What is said; nothing by those who only sign.
    #[serde(default)]
    pub predicate: Value,
}

impl Statement {
    /// Says something about subjects; none says it of a build that may have made nothing.
    #[must_use]
    pub fn new(predicate_type: impl Into<String>, subject: Vec<Subject>, predicate: Value) -> Self {
        Self { kind: STATEMENT.into(), predicate_type: predicate_type.into(), subject, predicate }
    }

    /// Whether it calls itself a statement of in-toto, of any version.
    #[must_use]
    pub fn is_in_toto(&self) -> bool {
        self.kind.starts_with("https://in-toto.io/Statement/")
    }

    /// Compact, as it stands beside images.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("because statements have string keys only")
    }

    /// Indented, as it is exported to files.
    #[must_use]
    pub fn to_pretty(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("because statements have string keys only")
    }

    /// Whether another statement says the same of a build that ran at another time.
    #[must_use]
    pub fn is_same_but_for_the_run(&self, other: &Self) -> bool {
        let timeless = |statement: &Self| {
            let mut statement = statement.clone();
            super::predicate::forget_run(&mut statement.predicate);
            statement
        };
        timeless(self) == timeless(other)
    }
}

/// What an output knows of the image that statements are about.
pub struct Exported<'a> {
    /// The blob of a layer.
    pub layer: &'a dyn Fn(&LayerId) -> Option<Descriptor>,
    /// The blob of the layer that a path below the root came in last.
    pub file: &'a dyn Fn(&Path) -> Option<Digest>,
    /// The version of the rules that it was written by (SPEC C6.04).
    pub compatibility: Option<u32>,
}

impl Exported<'_> {
    /// Of something that has no layers.
    pub const NONE: Exported<'static> = Exported { layer: &|_| None, file: &|_| None, compatibility: None };
}

impl Attestation {
    /// Whether its statement depends on which layer a file came in.
    #[must_use]
    pub fn names_files(&self) -> bool {
        matches!(self.predicate, Predicate::Known { of_image: true, .. })
    }

    /// What it says about `subject`.
    #[must_use]
    pub fn statement(&self, subject: Vec<Subject>, exported: &Exported<'_>) -> Statement {
        let (predicate_type, predicate) = match &self.predicate {
            Predicate::Provenance(provenance) => {
                (provenance.predicate_type().to_owned(), provenance.predicate(exported))
            }
            Predicate::Known { kind, value, of_image } => {
                let mut value = Value::clone(value);
                if *of_image {
                    sbom::name_layers(&mut value, exported.file);
                }
                (kind.clone(), value)
            }
        };
        Statement::new(predicate_type, subject, predicate)
    }
}

/// `{"sha256": "…"}`
pub(super) fn digest_map(digest: &Digest) -> BTreeMap<String, String> {
    BTreeMap::from([(digest.algorithm().to_owned(), digest.hex().to_owned())])
}

/// An image as a package URL. The port of a registry is escaped, as BuildKit escapes it, since consumers compare these names as texts.
pub(super) fn image_purl(kind: &str, name: &Reference, platform: Option<&Platform>) -> String {
    let familiar = Reference { tag: None, digest: None, ..name.clone() }.familiar();
    let mut purl = format!("pkg:{kind}/{}", familiar.replace(':', "%3A"));
    // A name that is a digest only has no version.
    let tag = name.tag.as_deref().or(if name.digest.is_none() { Some("latest") } else { None });
    if let Some(tag) = tag {
        let _ = write!(purl, "@{tag}");
    }
    let digest = name.digest.as_ref().map(|digest| format!("digest={digest}"));
    let platform = platform.map(|platform| format!("platform={}", platform.to_string().replace('/', "%2F")));
    let qualifiers: Vec<String> = digest.into_iter().chain(platform).collect();
    if !qualifiers.is_empty() {
        let _ = write!(purl, "?{}", qualifiers.join("&"));
    }
    purl
}

#[cfg(test)]
mod tests {
    use super::*;

    // SPEC C8.04
    #[test]
    fn c8_04_each_name_is_a_subject() {
        let names: Vec<Reference> = ["app", "ghcr.io/o/app:1", "localhost:5000/app:1"]
            .iter()
            .map(|name| name.parse().expect("valid"))
            .collect();
        let platform: Platform = "linux/amd64".parse().expect("valid");
        let digest = Digest::sha256("manifest");
        let subjects = Subject::image(&names, &platform, &digest);
        let purls: Vec<&str> = subjects.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(
            purls,
            [
                "pkg:docker/app@latest?platform=linux%2Famd64",
                "pkg:docker/ghcr.io/o/app@1?platform=linux%2Famd64",
                "pkg:docker/localhost%3A5000/app@1?platform=linux%2Famd64",
            ]
        );
        assert_eq!(subjects[0].digest["sha256"], digest.hex());
        assert_eq!(Subject::image(&[], &platform, &digest)[0].name, "_");
        let statement = Statement {
            kind: STATEMENT.into(),
            predicate_type: SPDX.into(),
            subject: vec![Subject::new("_", &digest)],
            predicate: serde_json::json!({"a": 1}),
        };
        let text = String::from_utf8(statement.to_bytes()).expect("text");
        assert_eq!(
            text.replace(digest.hex(), "HEX"),
            r#"{"_type":"https://in-toto.io/Statement/v1","predicateType":"https://spdx.dev/Document","subject":[{"name":"_","digest":{"sha256":"HEX"}}],"predicate":{"a":1}}"#
        );
    }
}
