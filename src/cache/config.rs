//! The cache config: BuildKit's JSON form of a cache (SPEC C7.01), with keys of our own inside.
//!
//! A record is an operation with links to the records of its inputs, and the layers of its result. Records are found
//! by walking from the inputs: nothing in a config says what its key is.

use serde::{Deserialize, Serialize};

use crate::base::{DiffId, Digest};

/// Media type of the config.
pub const CONFIG_TYPE: &str = "application/vnd.buildkit.cacheconfig.v0";
/// The key of an image config that holds the records of an inline cache (SPEC C7.04).
pub const INLINE_KEY: &str = "moby.buildkit.cache.v0";
/// Annotation of a layer: when it was made.
pub const CREATED_AT: &str = "buildkit/createdat";
/// Annotation of a layer: its diff ID.
pub const UNCOMPRESSED: &str = "containerd.io/uncompressed";

/// A whole cache.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct CacheConfig {
    /// Every layer, each after the one below it.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_default")]
    pub layers: Vec<ConfigLayer>,
    /// Every record.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_default")]
    pub records: Vec<ConfigRecord>,
}

/// A layer on top of another one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConfigLayer {
    /// Its blob.
    pub blob: Digest,
    /// Index of the layer below; -1 for the lowest.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub parent: i64,
    /// What a manifest would say about the blob; only where there is no manifest (SPEC B4.09).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<LayerAnnotations>,
}

/// What is known of a blob.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LayerAnnotations {
    /// Media type of the blob.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// Digest of the stream inside.
    #[serde(rename = "diffID", default, skip_serializing_if = "Option::is_none")]
    pub diff_id: Option<DiffId>,
    /// Bytes of the blob.
    #[serde(default, skip_serializing_if = "is_none_of_it")]
    pub size: u64,
    /// RFC 3339.
    #[serde(default)]
    pub created_at: String,
}

/// An operation, what it depends on, and its results.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConfigRecord {
    /// Results whose layers are a chain of `layers`.
    #[serde(rename = "layers", default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_default")]
    pub results: Vec<ConfigResult>,
    /// Results whose layers are listed one by one.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_default")]
    pub chains: Vec<ConfigChain>,
    /// The operation, or what stands for a source.
    pub digest: Digest,
    /// For each input the records that may stand for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_default")]
    pub inputs: Vec<Vec<ConfigInput>>,
}

/// A result: the layer at its top.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigResult {
    /// Index in `layers`.
    pub layer: usize,
    /// RFC 3339.
    #[serde(default)]
    pub created_at: String,
}

/// A result: all of its layers, bottom first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigChain {
    /// Indices in `layers`.
    #[serde(default, deserialize_with = "null_default")]
    pub layers: Vec<usize>,
    /// RFC 3339.
    #[serde(default)]
    pub created_at: String,
}

/// A link to the record of an input.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ConfigInput {
    /// Which output of the input is meant; empty for the first one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub selector: String,
    /// Index in `records`.
    pub link: usize,
}

impl CacheConfig {
    /// The config as it is stored.
    ///
    /// # Panics
    /// Never: it has string keys only.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("because the config has string keys only")
    }

    /// The records as the value of [`INLINE_KEY`]: a JSON array in base64 (SPEC C7.04).
    ///
    /// # Panics
    /// Never: it has string keys only.
    #[must_use]
    pub fn to_inline(&self) -> String {
        use base64::Engine as _;
        let json = serde_json::to_vec(&self.records).expect("because records have string keys only");
        base64::engine::general_purpose::STANDARD.encode(json)
    }
}

/// The records of an inline cache.
///
/// # Errors
/// One line, for a value that is not what [`CacheConfig::to_inline`] makes.
pub fn from_inline(value: &str) -> Result<Vec<ConfigRecord>, String> {
    use base64::Engine as _;
    let json = base64::engine::general_purpose::STANDARD.decode(value).map_err(|e| e.to_string())?;
    serde_json::from_slice(&json).map_err(|e| e.to_string())
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(n: &i64) -> bool {
    *n == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_none_of_it(n: &u64) -> bool {
    *n == 0
}

/// Go writes `null` for empty lists.
fn null_default<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(d: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    // SPEC C7.01: the form BuildKit writes, Go's `omitempty` included: a parent of 0 is left out.
    #[test]
    fn c7_01_the_json_form() {
        let (a, b) = (Digest::sha256("a"), Digest::sha256("b"));
        let text = format!(
            r#"{{"layers":[{{"blob":"{a}","parent":-1}},{{"blob":"{b}","annotations":{{"mediaType":"m","diffID":"{a}","size":5,"createdAt":"2024-01-01T00:00:00Z"}}}}],"records":[{{"digest":"{a}"}},{{"layers":[{{"layer":1,"createdAt":"2024-01-01T00:00:00Z"}}],"digest":"{b}","inputs":[[{{"link":0}},{{"selector":"1","link":0}}]]}}]}}"#
        );
        let config: CacheConfig = serde_json::from_str(&text).expect("parses");
        assert_eq!((config.layers[0].parent, config.layers[1].parent), (-1, 0));
        assert_eq!(config.records[1].inputs[0][1], ConfigInput { selector: "1".into(), link: 0 });
        assert_eq!(String::from_utf8(config.to_json()).expect("text"), text);
        let foreign = format!(
            r#"{{"layers":null,"records":[{{"chains":[{{"layers":[0],"createdAt":"x"}}],"digest":"{a}","inputs":null}}]}}"#
        );
        let config: CacheConfig = serde_json::from_str(&foreign).expect("parses");
        assert_eq!(config.records[0].chains[0].layers, [0]);
    }

    #[test]
    fn c7_04_inline_is_a_base64_array_of_records() {
        use base64::Engine as _;
        let record = ConfigRecord { results: vec![], chains: vec![], digest: Digest::sha256("a"), inputs: vec![] };
        let config = CacheConfig { layers: Vec::new(), records: vec![record] };
        let value = config.to_inline();
        let json = base64::engine::general_purpose::STANDARD.decode(&value).expect("base64");
        assert!(json.starts_with(b"[{"));
        assert_eq!(from_inline(&value), Ok(config.records));
        assert!(from_inline("!").is_err() && from_inline("e30=").is_err());
    }
}
