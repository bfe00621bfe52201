//! What stands beside a signature: in a bundle of Sigstore, or in annotations of cosign.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Deserializer};

use super::certificate;

const CERTIFICATE: &str = "dev.sigstore.cosign/certificate";
const CHAIN: &str = "dev.sigstore.cosign/chain";
const BUNDLE: &str = "dev.sigstore.cosign/bundle";
/// More entries or certificates are not looked at: each costs a verification.
const MAX: usize = 16;

/// A signature, and what it is about.
#[derive(Debug, Clone, Copy)]
pub struct Signed<'a> {
    /// What was signed, byte for byte.
    pub message: &'a [u8],
    /// Of an envelope, what is in it.
    pub payload: Option<&'a [u8]>,
    /// The signature.
    pub signature: &'a [u8],
}

/// What stands beside a signature, none of it verified.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Evidence {
    /// In DER.
    pub(super) certificate: Option<Vec<u8>>,
    /// Those between it and an authority.
    pub(super) chain: Vec<Vec<u8>>,
    pub(super) entries: Vec<Entry>,
    /// Each entry has to have its proof, which newer bundles do.
    pub(super) proven: bool,
    /// What authorities for timestamps answered.
    pub(super) stamps: Vec<Vec<u8>>,
}

/// An entry of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) body: Vec<u8>,
    pub(super) log: Vec<u8>,
    pub(super) index: i64,
    /// Seconds since 1970; zero where the log does not say.
    pub(super) integrated: i64,
    /// The log's signature of all this.
    pub(super) promise: Option<Vec<u8>>,
    pub(super) proof: Option<Proof>,
}

/// That an entry is in a log of a certain size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Proof {
    pub(super) index: u64,
    pub(super) size: u64,
    pub(super) root: Vec<u8>,
    pub(super) hashes: Vec<Vec<u8>>,
    /// The log's signature of size and root.
    pub(super) checkpoint: String,
}

impl Evidence {
    /// Reads a bundle's; `None` where it has none, or none that can be read.
    #[must_use]
    pub fn of_bundle(bundle: &[u8]) -> Option<Self> {
        let bundle: Bundle = serde_json::from_slice(bundle).ok()?;
        let material = bundle.verification_material?;
        let mut certificates = Vec::new();
        if let Some(certificate) = material.certificate {
            certificates.push(certificate.raw_bytes);
        }
        certificates.extend(
            material.x509_certificate_chain.into_iter().flat_map(|chain| chain.certificates).map(|c| c.raw_bytes),
        );
        let stamps = material.timestamp_verification_data.unwrap_or_default().rfc3161_timestamps;
        if certificates.len() > MAX || material.tlog_entries.len() > MAX || stamps.len() > MAX {
            return None;
        }
        let mut certificates = certificates.into_iter().map(|text| BASE64.decode(text).ok());
        let certificate = match certificates.next() {
            Some(first) => Some(first?),
            None => None,
        };
        let entries = material.tlog_entries.into_iter().map(BundleEntry::read).collect::<Option<Vec<_>>>()?;
        // The first versions had promises instead.
        let first = ["version=0.1", ".v0.1+json"].iter().any(|version| bundle.media_type.contains(version));
        let stamps = stamps.iter().map(|stamp| BASE64.decode(&stamp.signed_timestamp).ok()).collect::<Option<_>>()?;
        Some(Self { certificate, chain: certificates.collect::<Option<_>>()?, entries, proven: !first, stamps })
    }

    /// Reads those that cosign puts beside a payload; `None` where there are none, or none that can be read.
    #[must_use]
    pub fn of_annotations(annotations: &BTreeMap<String, String>) -> Option<Self> {
        let pem = |name: &str| match annotations.get(name).filter(|text| !text.trim().is_empty()) {
            Some(text) => Some(certificate::in_pem(text).ok()?.into_iter().map(|der| der.to_vec()).collect()),
            None => Some(Vec::new()),
        };
        let (certificates, chain): (Vec<Vec<u8>>, Vec<Vec<u8>>) = (pem(CERTIFICATE)?, pem(CHAIN)?);
        let entries = match annotations.get(BUNDLE) {
            Some(text) => {
                let entry: OldBundle = serde_json::from_str(text).ok()?;
                vec![Entry {
                    body: BASE64.decode(entry.payload.body).ok()?,
                    log: bytes_of(&entry.payload.log_id)?,
                    index: entry.payload.log_index,
                    integrated: entry.payload.integrated_time,
                    promise: Some(BASE64.decode(entry.signed_entry_timestamp).ok()?),
                    proof: None,
                }]
            }
            None => Vec::new(),
        };
        if chain.len() > MAX || (certificates.is_empty() && entries.is_empty()) {
            return None;
        }
        Some(Self { certificate: certificates.into_iter().next(), chain, entries, ..Self::default() })
    }

    /// Whether it has a certificate.
    #[must_use]
    pub fn is_keyless(&self) -> bool {
        self.certificate.is_some()
    }
}

fn bytes_of(hex: &str) -> Option<Vec<u8>> {
    let pairs = hex.as_bytes().chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
    pairs.collect()
}

/// Numbers of 64 bits are texts in protobuf's JSON.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Number(i64),
        Text(String),
    }
    match Either::deserialize(deserializer)? {
        Either::Number(number) => Ok(number),
        Either::Text(text) => text.parse().map_err(serde::de::Error::custom),
    }
}

/// <https://docs.sigstore.dev/about/bundle/>
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bundle {
    #[serde(default)]
    media_type: String,
    verification_material: Option<Material>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Material {
    certificate: Option<Raw>,
    x509_certificate_chain: Option<Chain>,
    #[serde(default)]
    tlog_entries: Vec<BundleEntry>,
    timestamp_verification_data: Option<Stamps>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    raw_bytes: String,
}

#[derive(Deserialize)]
struct Chain {
    certificates: Vec<Raw>,
}

#[derive(Deserialize, Default)]
struct Stamps {
    #[serde(default, rename = "rfc3161Timestamps")]
    rfc3161_timestamps: Vec<Stamp>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stamp {
    signed_timestamp: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BundleEntry {
    #[serde(default, deserialize_with = "number")]
    log_index: i64,
    log_id: LogId,
    #[serde(default, deserialize_with = "number")]
    integrated_time: i64,
    inclusion_promise: Option<Promise>,
    inclusion_proof: Option<BundleProof>,
    canonicalized_body: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LogId {
    key_id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Promise {
    signed_entry_timestamp: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BundleProof {
    #[serde(default, deserialize_with = "number")]
    log_index: i64,
    #[serde(default)]
    root_hash: String,
    #[serde(deserialize_with = "number")]
    tree_size: i64,
    #[serde(default)]
    hashes: Vec<String>,
    checkpoint: Checkpoint,
}

#[derive(Deserialize)]
struct Checkpoint {
    envelope: String,
}

impl BundleEntry {
    fn read(self) -> Option<Entry> {
        let proof = match self.inclusion_proof {
            Some(proof) => Some(Proof {
                index: u64::try_from(proof.log_index).ok()?,
                size: u64::try_from(proof.tree_size).ok()?,
                root: BASE64.decode(proof.root_hash).ok()?,
                hashes: proof.hashes.iter().map(|hash| BASE64.decode(hash).ok()).collect::<Option<_>>()?,
                checkpoint: proof.checkpoint.envelope,
            }),
            None => None,
        };
        let promise = match self.inclusion_promise {
            Some(promise) => Some(BASE64.decode(promise.signed_entry_timestamp).ok()?),
            None => None,
        };
        Some(Entry {
            body: BASE64.decode(self.canonicalized_body).ok()?,
            log: BASE64.decode(self.log_id.key_id).ok()?,
            index: self.log_index,
            integrated: self.integrated_time,
            promise,
            proof,
        })
    }
}

/// cosign's annotation.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct OldBundle {
    signed_entry_timestamp: String,
    payload: OldEntry,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OldEntry {
    body: String,
    integrated_time: i64,
    log_index: i64,
    #[serde(rename = "logID")]
    log_id: String,
}
