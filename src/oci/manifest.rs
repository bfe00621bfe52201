//! Descriptors, manifests and indexes, with the key order and layout upstream writes (SPEC C6.11).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Platform, media_type};
use crate::base::Digest;

/// Points at a blob or manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Media type of the target.
    #[serde(default)]
    pub media_type: String,
    /// Digest of the target's bytes.
    pub digest: Digest,
    /// Bytes of the target.
    pub size: u64,
    /// Other places to fetch it from (foreign layers).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// Free-form annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Platform, on entries of an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Artifact type, on entries of a referrers list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
}

impl Descriptor {
    /// A plain descriptor.
    pub fn new(media_type: impl Into<String>, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.into(),
            digest,
            size,
            urls: Vec::new(),
            annotations: BTreeMap::new(),
            platform: None,
            artifact_type: None,
        }
    }

    /// Describes `bytes`.
    pub fn of_bytes(media_type: impl Into<String>, bytes: &[u8]) -> Self {
        Self::new(media_type, Digest::sha256(bytes), bytes.len() as u64)
    }
}

/// An image manifest of either family.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// Always written (SPEC E4.10); empty when a foreign manifest left it out.
    #[serde(default)]
    pub media_type: String,
    /// Set on artifacts that are not images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The image config.
    pub config: Descriptor,
    /// The layers, bottom first.
    pub layers: Vec<Descriptor>,
    /// What this manifest refers to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Free-form annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// An image index or manifest list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// Always written; empty when a foreign index left it out.
    #[serde(default)]
    pub media_type: String,
    /// Set on artifacts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The manifests, in order.
    pub manifests: Vec<Descriptor>,
    /// What this index refers to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Free-form annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Index {
    /// An index of OCI type over `manifests`.
    #[must_use]
    pub fn new(manifests: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: media_type::OCI_INDEX.into(),
            artifact_type: None,
            manifests,
            subject: None,
            annotations: BTreeMap::new(),
        }
    }
}

/// What a manifest document turned out to be.
#[derive(Debug, Clone)]
pub enum Document {
    /// One image.
    Manifest(Manifest),
    /// Several.
    Index(Index),
}

/// Why a manifest document is refused.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// Not JSON, or not of the expected shape.
    #[error("invalid manifest: {0}")]
    Json(#[from] serde_json::Error),
    /// Docker schema 1.
    #[error("media type {0} is no longer supported")]
    Schema1(String),
    /// Both kinds at once (SPEC E4.10).
    #[error("ambiguous manifest: both \"manifests\" and \"config\" or \"layers\" are present")]
    Ambiguous,
    /// Neither kind.
    #[error("not an image manifest or index (media type \"{0}\")")]
    Unknown(String),
}

/// Parses a manifest or an index. `content_type` is what the server said; the document's own `mediaType` wins.
///
/// # Errors
/// See [`DocumentError`].
pub fn parse_document(bytes: &[u8], content_type: &str) -> Result<Document, DocumentError> {
    let value: serde_json::Value = serde_json::from_slice(bytes)?;
    let has = |key: &str| value.get(key).is_some_and(|v| !v.is_null());
    let named = value.get("mediaType").and_then(|v| v.as_str()).unwrap_or(content_type).to_owned();
    if value.get("schemaVersion").and_then(serde_json::Value::as_u64) == Some(1) || named.contains("manifest.v1+") {
        // OCI types also contain "manifest.v1+", with another prefix.
        if !named.contains("vnd.oci.") {
            return Err(DocumentError::Schema1(named));
        }
    }
    let (index, manifest) = (has("manifests"), has("config") || has("layers"));
    match (index, manifest) {
        (true, true) => Err(DocumentError::Ambiguous),
        (true, false) => Ok(Document::Index(serde_json::from_value(value)?)),
        (false, true) => Ok(Document::Manifest(serde_json::from_value(value)?)),
        (false, false) => Err(DocumentError::Unknown(named)),
    }
}

/// JSON as upstream writes manifests and configs: two spaces of indentation, no final newline.
///
/// # Panics
/// Never: the types here always serialise.
pub fn to_json_pretty(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec_pretty(value).expect("because the image types have string keys only")
}

#[cfg(test)]
mod tests {
    use super::*;

    // SPEC E4.10, E4.01
    #[test]
    fn tells_documents_apart() {
        let digest = Digest::sha256(b"x");
        let d = format!(r#"{{"mediaType":"m","digest":"{digest}","size":1}}"#);
        let manifest = format!(r#"{{"schemaVersion":2,"config":{d},"layers":[{d}]}}"#);
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{d}]}}"#);
        let both = format!(r#"{{"schemaVersion":2,"manifests":[{d}],"config":{d},"layers":[]}}"#);
        assert!(matches!(parse_document(manifest.as_bytes(), ""), Ok(Document::Manifest(_))));
        assert!(matches!(parse_document(index.as_bytes(), ""), Ok(Document::Index(_))));
        assert!(matches!(parse_document(both.as_bytes(), ""), Err(DocumentError::Ambiguous)));
        assert!(matches!(parse_document(br#"{"schemaVersion":1}"#, ""), Err(DocumentError::Schema1(_))));
        assert!(matches!(parse_document(b"{}", "text/html"), Err(DocumentError::Unknown(_))));
    }

    /// What a registry or a layout can hand us in place of an image: an error or an image, never a panic.
    #[test]
    fn mutated_documents_are_survived() {
        let digest = Digest::sha256(b"x");
        let d = format!(
            r#"{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"{digest}","size":1,"annotations":{{"a":"b"}}}}"#
        );
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{d},"layers":[{d},{d}]}}"#
        );
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{d}],"annotations":{{"x":"y"}}}}"#);
        let config = format!(
            r#"{{"created":"2025-01-01T00:00:00Z","architecture":"amd64","os":"linux","variant":"v8","config":{{"Env":["A=b"],"Cmd":["x"],
               "ExposedPorts":{{"80/tcp":{{}}}},"Healthcheck":{{"Test":["NONE"],"Interval":1}},"Labels":{{"l":"v"}},"Volumes":{{"/v":{{}}}}}},
               "rootfs":{{"type":"layers","diff_ids":["{digest}"]}},"history":[{{"created_by":"x","empty_layer":true}}]}}"#
        );
        let seeds = [manifest.as_bytes(), index.as_bytes(), config.as_bytes()];
        crate::base::mutation::each(&seeds, 4_000, |bytes| {
            let _ = parse_document(bytes, "application/vnd.oci.image.index.v1+json");
            if let Ok(config) = serde_json::from_slice::<crate::oci::ImageConfig>(bytes) {
                // What was understood can be written again.
                drop(to_json_pretty(&config));
            }
            if let Ok(text) = std::str::from_utf8(bytes) {
                let _ = crate::oci::Reference::parse_raw(&text.chars().take(300).collect::<String>());
            }
        });
    }
}
