//! Signatures of images, and of statements about them, as cosign makes them (SPEC B8.09, C8.16).
//!
//! [`Signatures`] is what was found beside an image. It says nothing until a [`PublicKey`], or a certificate by a [`Trust`], has verified
//! it: whoever may write to a repository can put anything there. Three forms are read: cosign's payload of simple signing, envelopes of
//! DSSE, and Sigstore's bundles of such envelopes.

mod key;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use serde_json::Value;

use super::Statement;
use super::sigstore::{self, Evidence, Signer, Trust};
use crate::base::Digest;
use crate::oci::media_type;

pub use key::{KeyError, PublicKey};

/// Behind `sha256-<hex>`: the tags where cosign keeps signatures and signed statements.
pub const TAGS: [&str; 2] = ["sig", "att"];

/// cosign's payload, "simple signing" of atomic hosts.
const SIMPLE_SIGNING: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// Where the signature of such a payload is.
const SIGNATURE_ANNOTATION: &str = "dev.cosignproject.cosign/signature";
/// A signed statement.
const ENVELOPE: &str = "application/vnd.dsse.envelope.v1+json";
/// Sigstore's bundles; `.v0.3+json` or `+json;version=0.1` comes behind it.
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle";
/// Artifacts with cosign's layers begin so: `application/vnd.dev.cosign.artifact.sig.v1+json`.
const COSIGN_ARTIFACT: &str = "application/vnd.dev.cosign.artifact.";
/// What newer versions of cosign say of an image where they only sign it.
const SIGNED: &str = "https://sigstore.dev/cosign/sign/v1";
/// What cosign's payload calls itself.
const SIMPLE_SIGNING_TYPE: &str = "cosign container image signature";

/// How a signature is stored, by buildx's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// cosign's payload beside its signature.
    SimpleSigning,
    /// An envelope of DSSE.
    Envelope,
    /// An envelope in a bundle of Sigstore.
    Bundle,
}

impl Form {
    /// `type` of a signature in policies.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::SimpleSigning => "simplesigning-v1",
            Self::Envelope => "dsse",
            Self::Bundle => "bundle-v0.3",
        }
    }
}

/// What is signed.
#[derive(Debug, Clone, PartialEq)]
pub enum Claim {
    /// An image.
    Image {
        /// Of its manifest or index.
        digest: Digest,
        /// The name it was signed under; empty where none is told.
        reference: String,
    },
    /// A statement.
    Statement(Statement),
}

impl Claim {
    /// Whether it is about the image with this digest.
    fn is_about(&self, image: &Digest) -> bool {
        match self {
            Self::Image { digest, .. } => digest == image,
            Self::Statement(statement) => {
                let mut subjects = statement.subject.iter();
                subjects.any(|subject| subject.digest.get(image.algorithm()).is_some_and(|hex| hex == image.hex()))
            }
        }
    }

    /// Whether it says nothing but that the image is signed.
    fn is_signature(&self) -> bool {
        match self {
            Self::Image { .. } => true,
            Self::Statement(statement) => statement.predicate_type == SIGNED,
        }
    }
}

/// One signature as it was found.
#[derive(Debug, Clone, PartialEq)]
struct Signed {
    form: Form,
    /// What was signed, byte for byte.
    message: Vec<u8>,
    /// Of an envelope, what is in it.
    payload: Option<Vec<u8>>,
    signature: Vec<u8>,
    /// What stands beside it: a certificate, and what logs say.
    evidence: Option<Evidence>,
    claim: Claim,
}

impl Signed {
    fn shown(&self) -> sigstore::Signed<'_> {
        sigstore::Signed { message: &self.message, payload: self.payload.as_deref(), signature: &self.signature }
    }
}

/// The signatures beside an image.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Signatures {
    /// Digests that mean the image: of its index, and of the platform's manifest in it.
    image: Vec<Digest>,
    found: Vec<Signed>,
}

/// A signature that a key has verified, of the image it was found beside.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Verified<'a> {
    /// How it is stored.
    pub form: Form,
    claim: &'a Claim,
}

impl<'a> Verified<'a> {
    /// The name the image was signed under, if this is a signature of the image itself; empty where the form has none.
    #[must_use]
    pub fn reference(&self) -> Option<&'a str> {
        match self.claim {
            Claim::Image { reference, .. } => Some(reference),
            Claim::Statement(_) => self.claim.is_signature().then_some(""),
        }
    }

    /// What is attested of the image, if this is more than a signature.
    #[must_use]
    pub fn statement(&self) -> Option<&'a Statement> {
        match self.claim {
            Claim::Statement(statement) if !self.claim.is_signature() => Some(statement),
            _ => None,
        }
    }
}

impl Signatures {
    /// None yet, of the image that these digests mean.
    #[must_use]
    pub fn of(image: Vec<Digest>) -> Self {
        Self { image, found: Vec::new() }
    }

    /// Adds what a layer of an artifact holds. What cannot be read is no signature: it makes nobody trust the image.
    pub fn add(&mut self, media_type: &str, annotations: &BTreeMap<String, String>, bytes: &[u8]) {
        if media_type == SIMPLE_SIGNING {
            let signature = annotations.get(SIGNATURE_ANNOTATION).map(String::as_str).unwrap_or_default();
            let evidence = Evidence::of_annotations(annotations);
            self.found.extend(simple_signing(bytes, signature).map(|signed| Signed { evidence, ..signed }));
        } else if media_type == ENVELOPE {
            let evidence = Evidence::of_annotations(annotations);
            let found = serde_json::from_slice(bytes).into_iter().flat_map(|e| signed(&e, Form::Envelope));
            self.found.extend(found.map(|signed| Signed { evidence: evidence.clone(), ..signed }));
        } else if media_type.starts_with(BUNDLE) {
            let bundle: Option<Bundle> = serde_json::from_slice(bytes).ok();
            let envelope = bundle.and_then(|bundle| bundle.dsse_envelope);
            let evidence = Evidence::of_bundle(bytes);
            let found = envelope.iter().flat_map(|e| signed(e, Form::Bundle));
            self.found.extend(found.map(|signed| Signed { evidence: evidence.clone(), ..signed }));
        }
    }

    /// Adds a bundle.
    pub fn add_bundle(&mut self, bytes: &[u8]) {
        self.add(BUNDLE, &BTreeMap::new(), bytes);
    }

    /// How many were found, whoever made them.
    #[must_use]
    pub fn count(&self) -> usize {
        self.found.len()
    }

    /// Those that are about the image and that the key made.
    #[must_use]
    pub fn by(&self, key: &PublicKey) -> Vec<Verified<'_>> {
        let about = self.about();
        let verified = about.filter(|signed| key.verifies(&signed.message, &signed.signature));
        verified.map(|signed| Verified { form: signed.form, claim: &signed.claim }).collect()
    }
}

impl Signatures {
    fn about(&self) -> impl Iterator<Item = &Signed> {
        self.found.iter().filter(|signed| self.image.iter().any(|image| signed.claim.is_about(image)))
    }

    /// Those that are about the image and that somebody made whom a certificate names, and why the others do not count.
    #[must_use]
    pub fn by_certificates(&self, trust: &Trust) -> (Vec<(Verified<'_>, Signer)>, Vec<String>) {
        let (mut verified, mut refused) = (Vec::new(), Vec::new());
        for signed in self.about() {
            let Some(evidence) = signed.evidence.as_ref().filter(|evidence| evidence.is_keyless()) else { continue };
            match trust.verify(evidence, &signed.shown()) {
                Ok(signer) => verified.push((Verified { form: signed.form, claim: &signed.claim }, signer)),
                Err(why) => refused.push(why),
            }
        }
        if self.found.iter().any(|signed| signed.evidence.as_ref().is_some_and(Evidence::is_keyless))
            && self.about().all(|signed| !signed.evidence.as_ref().is_some_and(Evidence::is_keyless))
        {
            refused.push("its signatures by certificates are about another image".into());
        }
        (verified, refused)
    }

    /// Those of [`Signatures::by`] that a log of `trust` has taken in, and why the others do not count.
    #[must_use]
    pub fn by_logged(&self, key: &PublicKey, der: &[u8], trust: &Trust) -> (Vec<Verified<'_>>, Vec<String>) {
        let (mut verified, mut refused) = (Vec::new(), Vec::new());
        for signed in self.about().filter(|signed| key.verifies(&signed.message, &signed.signature)) {
            let none = Evidence::default();
            match trust.logged(signed.evidence.as_ref().unwrap_or(&none), &signed.shown(), der) {
                Ok(_) => verified.push(Verified { form: signed.form, claim: &signed.claim }),
                Err(why) => refused.push(why),
            }
        }
        (verified, refused)
    }
}

/// Whether an artifact that refers to an image may hold its signatures.
#[must_use]
pub fn is_signature(artifact_type: &str) -> bool {
    artifact_type.starts_with(BUNDLE) || artifact_type.starts_with(COSIGN_ARTIFACT) || artifact_type == ENVELOPE
}

/// Whether [`Signatures::add`] reads layers of this type.
#[must_use]
pub fn is_read(media_type: &str) -> bool {
    media_type == SIMPLE_SIGNING || media_type == ENVELOPE || media_type.starts_with(BUNDLE)
}

/// <https://github.com/secure-systems-lab/dsse/blob/v1.0.0/envelope.md>
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    payload: String,
    payload_type: String,
    signatures: Vec<EnvelopeSignature>,
}

#[derive(Deserialize)]
struct EnvelopeSignature {
    sig: String,
}

/// What counts of Sigstore's bundle: <https://docs.sigstore.dev/about/bundle/>.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bundle {
    dsse_envelope: Option<Envelope>,
}

/// <https://github.com/sigstore/cosign/blob/main/specs/SIGNATURE_SPEC.md>
fn simple_signing(payload: &[u8], signature: &str) -> Option<Signed> {
    let document: Value = serde_json::from_slice(payload).ok()?;
    let critical = &document["critical"];
    if critical["type"].as_str() != Some(SIMPLE_SIGNING_TYPE) {
        return None;
    }
    let digest = critical["image"]["docker-manifest-digest"].as_str()?.parse().ok()?;
    let reference = critical["identity"]["docker-reference"].as_str().unwrap_or_default().to_owned();
    Some(Signed {
        form: Form::SimpleSigning,
        message: payload.to_vec(),
        payload: None,
        signature: BASE64.decode(signature).ok()?,
        evidence: None,
        claim: Claim::Image { digest, reference },
    })
}

/// An envelope's statement under each of its signatures; none where it holds something else.
fn signed(envelope: &Envelope, form: Form) -> Vec<Signed> {
    let Ok(payload) = BASE64.decode(&envelope.payload) else { return Vec::new() };
    let statement = serde_json::from_slice::<Statement>(&payload).ok();
    let statement = statement.filter(|s| envelope.payload_type == media_type::IN_TOTO && s.is_in_toto());
    let Some(statement) = statement else { return Vec::new() };
    let message = pre_authentication(&envelope.payload_type, &payload);
    let signatures = envelope.signatures.iter().filter_map(|signature| BASE64.decode(&signature.sig).ok());
    signatures
        .map(|signature| Signed {
            form,
            message: message.clone(),
            payload: Some(payload.clone()),
            signature,
            evidence: None,
            claim: Claim::Statement(statement.clone()),
        })
        .collect()
}

/// What is signed of an envelope: `DSSEv1`, and type and payload with their lengths, so that neither can pass for the other.
fn pre_authentication(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut message = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len()).into_bytes();
    message.extend_from_slice(payload);
    message
}
