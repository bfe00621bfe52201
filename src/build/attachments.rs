//! The documents that the record of a build keeps (SPEC B8.07): what its images consist of besides layers, and what is said
//! about its results.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::BuildReport;
use crate::attest::manifest::PREDICATE_TYPE;
use crate::attest::predicate::SLSA;
use crate::attest::statement::SPDX;
use crate::base::Digest;
use crate::oci::{Descriptor, media_type};

/// A document of a build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// Of its bytes.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    /// Its media type.
    pub media_type: String,
    /// Of a statement, what kind of thing it says: a URI.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predicate: Option<String>,
    /// Of which platform's result it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
}

impl Attachment {
    fn new(descriptor: &Descriptor) -> Self {
        Self {
            digest: descriptor.digest.clone(),
            size: descriptor.size,
            media_type: descriptor.media_type.clone(),
            predicate: descriptor.annotations.get(PREDICATE_TYPE).cloned(),
            platform: descriptor.platform.as_ref().map(ToString::to_string),
        }
    }

    /// What it is: the type of what a statement says, or its media type.
    #[must_use]
    pub fn kind(&self) -> &str {
        self.predicate.as_deref().unwrap_or(&self.media_type)
    }

    /// Whether it is of a kind: `index`, `manifest`, `image`, `provenance`, `sbom`, or what [`Attachment::kind`] says.
    #[must_use]
    pub fn is(&self, kind: &str) -> bool {
        let own = self.kind();
        match kind {
            "index" => media_type::is_index(own),
            "manifest" => media_type::is_manifest(own),
            "image" => [media_type::OCI_CONFIG, media_type::DOCKER_CONFIG].contains(&own),
            "provenance" => own.starts_with(SLSA),
            "sbom" => own == SPDX,
            other => own == other,
        }
    }
}

/// The documents of a build with their bytes, each once: those of its images, then all that is known of its results, then
/// what stands beside the images, which may be less.
#[must_use]
pub fn attachments(report: &BuildReport) -> Vec<(Attachment, Bytes)> {
    let parts = || report.exports.iter().flat_map(|export| &export.parts);
    let part = |part: &crate::exporter::assembly::Document| (Attachment::new(&part.descriptor), part.bytes.clone());
    let (beside, images): (Vec<_>, Vec<_>) =
        parts().map(part).partition(|(attachment, _)| attachment.predicate.is_some());
    let known = report.statements.iter().map(|(platform, statement)| {
        let bytes = statement.to_bytes();
        let mut descriptor = Descriptor::of_bytes(media_type::IN_TOTO, &bytes);
        descriptor.platform = Some(platform.clone());
        descriptor.annotations.insert(PREDICATE_TYPE.into(), statement.predicate_type.clone());
        (Attachment::new(&descriptor), Bytes::from(bytes))
    });
    let mut all: Vec<(Attachment, Bytes)> = Vec::new();
    for (attachment, bytes) in images.into_iter().chain(known).chain(beside) {
        if !all.iter().any(|(other, _)| *other == attachment) {
            all.push((attachment, bytes));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attest::Statement;
    use crate::exporter::ExportReport;
    use crate::exporter::assembly::Document;
    use crate::oci::Platform;

    // SPEC B8.07
    #[test]
    fn b8_07_documents_are_told_by_kind_and_kept_once() {
        let platform: Platform = "linux/amd64".parse().expect("valid");
        let document = |kind: &str, predicate: Option<&str>, platform: Option<&Platform>| {
            let mut descriptor = Descriptor::of_bytes(kind, kind.as_bytes());
            descriptor.platform = platform.cloned();
            descriptor.annotations.extend(predicate.map(|p| (PREDICATE_TYPE.to_owned(), p.to_owned())));
            Document { descriptor, bytes: Bytes::copy_from_slice(kind.as_bytes()) }
        };
        let parts = vec![
            document(media_type::OCI_INDEX, None, None),
            document(media_type::OCI_MANIFEST, None, Some(&platform)),
            document(media_type::OCI_CONFIG, None, Some(&platform)),
            document(media_type::IN_TOTO, Some("https://slsa.dev/provenance/v1"), Some(&platform)),
        ];
        let export = ExportReport {
            descriptor: parts[0].descriptor.clone(),
            config: None,
            created: String::new(),
            names: Vec::new(),
            parts,
        };
        let full = Statement::new("https://slsa.dev/provenance/v1", Vec::new(), serde_json::json!({"all": true}));
        let report = BuildReport {
            id: "x".into(),
            exports: vec![export.clone(), export],
            provenance: Vec::new(),
            statements: vec![(platform, full)],
            cache: None,
        };
        let all = attachments(&report);
        assert_eq!(all.len(), 5, "two outputs of one image");
        let first = |kind: &str| all.iter().find(|(a, _)| a.is(kind)).map(|(a, bytes)| (a.clone(), bytes.clone()));
        for (kind, at) in [("index", 0), ("manifest", 1), ("image", 2), ("provenance", 3)] {
            assert_eq!(first(kind).map(|(a, _)| a), Some(all[at].0.clone()), "{kind}");
        }
        let (attachment, bytes) = first("https://slsa.dev/provenance/v1").expect("there");
        assert_eq!(attachment.platform.as_deref(), Some("linux/amd64"));
        assert!(String::from_utf8_lossy(&bytes).contains(r#""all":true"#), "the full one comes first");
        assert_eq!(attachment.digest, Digest::sha256(&bytes));
        assert_eq!(first("sbom"), None);
    }
}
