//! Signatures of OpenPGP (RFC 9580, 4880) by keys that are given.
//!
//! The packets and the mathematics are rPGP's. What is ours is what a signature counts for: which hashes and algorithms, that a subkey belongs to
//! its key and may sign, what has expired and what was revoked. BuildKit's rules, where it has some.

use jiff::Timestamp;
use pgp::composed::{Deserializable as _, DetachedSignature, SignedPublicKey};
use pgp::crypto::hash::HashAlgorithm;
use pgp::crypto::public_key::PublicKeyAlgorithm;
use pgp::packet::{PublicKey, PublicSubkey, Signature, SignatureType, SignatureVersion, SubpacketData};
use pgp::ser::Serialize as _;
use pgp::types::{KeyDetails, KeyVersion, PublicParams, Tag, VerifyingKey};
use rsa::traits::PublicKeyParts as _;

/// How a signature begins.
pub(super) const BEGIN: &str = "-----BEGIN PGP SIGNATURE-----";
const END: &str = "-----END PGP SIGNATURE-----";
const BEGIN_KEY: &str = "-----BEGIN PGP PUBLIC KEY BLOCK-----";
const END_KEY: &str = "-----END PGP PUBLIC KEY BLOCK-----";
const BEGIN_PRIVATE: &str = "-----BEGIN PGP PRIVATE KEY BLOCK-----";
/// Shorter RSA keys are not believed, in bits.
const MIN_RSA: usize = 2048;
/// Clocks differ by so much, in seconds.
const SKEW: i64 = 300;
/// A file with more keys, or a key with more signatures and subkeys, is not looked through: each costs a verification.
const MAX_KEYS: usize = 256;
const MAX_PARTS: usize = 1024;

/// Whose signatures count.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keys(Vec<SignedPublicKey>);

/// A signature that stands apart from what it signs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detached(Signature);

/// Why a signature does not count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// None of the keys is the one that the signature names.
    OtherKey,
    /// Something is wrong with the signature or with the key.
    Bad(String),
}

/// A digest that a signature signs: of the content, with something behind it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SignedDigest {
    /// `sha256`, `sha384` or `sha512`.
    pub algorithm: &'static str,
    /// What is hashed behind the content.
    pub suffix: Vec<u8>,
}

/// A key or one of its subkeys.
#[derive(Clone, Copy)]
enum Part<'a> {
    Primary(&'a PublicKey),
    Subkey(&'a PublicSubkey),
}

/// A key that may have made a signature, and until when it was valid.
struct Candidate<'a> {
    key: Part<'a>,
    /// Of the key itself, and of the one it belongs to; seconds since 1970.
    expires: Option<i64>,
    created: i64,
}

impl Keys {
    /// Reads armored keys, whatever stands around them.
    ///
    /// # Errors
    /// When there is none, or one that cannot be read.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.contains(BEGIN_PRIVATE) {
            return Err("it has a private key; the public half is what verifies".into());
        }
        let mut keys = Vec::new();
        for block in blocks(text, BEGIN_KEY, END_KEY) {
            let bad = |e: pgp::errors::Error| format!("it has no readable PGP key: {e}");
            let (found, _) = SignedPublicKey::from_string_many(block).map_err(bad)?;
            for key in found {
                let key = key.map_err(bad)?;
                let parts = key.public_subkeys.iter().map(|subkey| 1 + subkey.signatures.len()).sum::<usize>()
                    + key.details.users.iter().map(|user| 1 + user.signatures.len()).sum::<usize>()
                    + key.details.direct_signatures.len()
                    + key.details.revocation_signatures.len();
                if keys.len() >= MAX_KEYS || parts > MAX_PARTS {
                    return Err(format!("it has more than {MAX_KEYS} keys, or one of more than {MAX_PARTS} parts"));
                }
                keys.push(key);
            }
        }
        if keys.is_empty() {
            return Err("it has no PGP public key".into());
        }
        Ok(Self(keys))
    }

    /// Whether a text has keys in armor.
    #[must_use]
    pub fn are_in(text: &str) -> bool {
        text.contains(BEGIN_KEY) || text.contains(BEGIN_PRIVATE)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Their ids, for messages.
    #[must_use]
    pub fn ids(&self) -> Vec<String> {
        self.0.iter().map(|key| hex(key.legacy_key_id().as_ref())).collect()
    }
}

impl Detached {
    /// Takes off the armor.
    ///
    /// # Errors
    /// When it is no signature.
    pub fn parse(armored: &[u8]) -> Result<Self, String> {
        let text = String::from_utf8_lossy(armored);
        let Some(block) = blocks(&text, BEGIN, END).next() else {
            return Err("it is no armored PGP signature".into());
        };
        let (found, _) = DetachedSignature::from_string(block).map_err(|e| e.to_string())?;
        Ok(Self(found.signature))
    }

    /// Of the packet.
    #[must_use]
    pub fn version(&self) -> u8 {
        self.0.version().into()
    }

    /// The id of the key that says to have made it, in hexadecimal digits.
    #[must_use]
    pub fn key_id(&self) -> Option<String> {
        if let Some(id) = self.0.issuer_key_id().first() {
            return Some(hex(id.as_ref()));
        }
        let fingerprint = self.0.issuer_fingerprint().first().map(|print| format!("{print:x}"))?;
        // Of newer keys it is the beginning, of older ones the end.
        Some(match fingerprint.len() {
            40 => fingerprint[24..].to_owned(),
            _ => fingerprint.chars().take(16).collect(),
        })
    }

    /// Whether one of the keys made it, of these bytes.
    ///
    /// # Errors
    /// Says why not.
    pub fn verify(&self, keys: &Keys, message: &[u8], reject_expired: bool) -> Result<(), Refused> {
        self.by(keys, reject_expired, |key| {
            let verified = match key {
                Part::Primary(key) => self.0.verify(key, message),
                Part::Subkey(key) => self.0.verify(key, message),
            };
            verified.map_err(|e| e.to_string())
        })
    }

    /// Which digest of a file it signs, so that whoever has the file can make it.
    ///
    /// # Errors
    /// When it signs something else.
    pub fn digest(&self) -> Result<SignedDigest, String> {
        let config = self.known()?;
        // Newer signatures hash a salt in front of the content, and those of texts change it.
        if self.0.version() != SignatureVersion::V4 || config.typ != SignatureType::Binary {
            return Err(format!("signatures of version {} and type {:?} are not verified", self.version(), config.typ));
        }
        let algorithm = match config.hash_alg {
            HashAlgorithm::Sha256 => "sha256",
            HashAlgorithm::Sha384 => "sha384",
            _ => "sha512",
        };
        // Version, type, algorithms and the hashed area are hashed as they stand; then comes how much that was.
        let bytes = self.0.to_bytes().map_err(|e| e.to_string())?;
        let length = bytes.get(4..6).map(|length| usize::from(u16::from_be_bytes([length[0], length[1]])));
        let hashed = length.and_then(|length| bytes.get(..6 + length)).ok_or("it is cut off")?;
        let mut suffix = hashed.to_vec();
        suffix.extend([4, 0xff]);
        suffix.extend(u32::try_from(hashed.len()).map_err(|e| e.to_string())?.to_be_bytes());
        Ok(SignedDigest { algorithm, suffix })
    }

    /// Whether one of the keys made it, of what has this [`Detached::digest`].
    ///
    /// # Errors
    /// Says why not.
    pub fn verify_digest(&self, keys: &Keys, digest: &[u8], reject_expired: bool) -> Result<(), Refused> {
        let algorithm = self.known().map_err(Refused::Bad)?.hash_alg;
        self.by(keys, reject_expired, |key| {
            if self.0.signed_hash_value().map(Vec::from).as_deref() != digest.get(..2) {
                return Err("it is a signature of something else".into());
            }
            let signature = self.0.signature().ok_or("it is empty")?;
            let verified = match key {
                Part::Primary(key) => key.verify(algorithm, digest, signature),
                Part::Subkey(key) => key.verify(algorithm, digest, signature),
            };
            verified.map_err(|e| e.to_string())
        })
    }

    /// What the packet says, if it is one that counts.
    fn known(&self) -> Result<&pgp::packet::SignatureConfig, String> {
        let config =
            self.0.config().ok_or_else(|| format!("signatures of version {} are not known", self.version()))?;
        if !matches!(self.0.version(), SignatureVersion::V4 | SignatureVersion::V6) {
            return Err(format!("signatures of version {} are too old", self.version()));
        }
        if !matches!(config.typ, SignatureType::Binary | SignatureType::Text) {
            return Err(format!("it is not a signature of a document ({:?})", config.typ));
        }
        if !matches!(config.hash_alg, HashAlgorithm::Sha256 | HashAlgorithm::Sha384 | HashAlgorithm::Sha512) {
            return Err(format!("it uses the hash {}, expected SHA256, SHA384 or SHA512", config.hash_alg));
        }
        if !matches!(
            config.pub_alg,
            PublicKeyAlgorithm::RSA
                | PublicKeyAlgorithm::RSASign
                | PublicKeyAlgorithm::ECDSA
                | PublicKeyAlgorithm::EdDSALegacy
                | PublicKeyAlgorithm::Ed25519
                | PublicKeyAlgorithm::Ed448
        ) {
            return Err(format!("keys of type {:?} are not believed", config.pub_alg));
        }
        understood(&self.0)?;
        Ok(config)
    }

    fn by(
        &self,
        keys: &Keys,
        reject_expired: bool,
        verify: impl Fn(Part<'_>) -> Result<(), String>,
    ) -> Result<(), Refused> {
        self.known().map_err(Refused::Bad)?;
        let now = Timestamp::now().as_second();
        let made = self.0.created().ok_or_else(|| Refused::Bad("it says no time".into()))?;
        let made = i64::from(made.as_secs());
        if made > now + SKEW {
            return Err(Refused::Bad(format!("it was made at {}, which is in the future", shown(made))));
        }
        if let Some(expires) = after(made, self.0.signature_expiration_time()).filter(|expires| *expires <= now) {
            return Err(Refused::Bad(format!("it expired at {}", shown(expires))));
        }
        let mut refused = Refused::OtherKey;
        for whole in &keys.0 {
            let Some(candidate) = candidate(whole, &self.0) else { continue };
            let checked = candidate.and_then(|candidate| {
                verify(candidate.key)?;
                if made < candidate.created {
                    return Err(format!("it is older than the key, which was made at {}", shown(candidate.created)));
                }
                match candidate.expires {
                    Some(expires) if expires <= made => {
                        Err(format!("the key expired at {}, before it was made", shown(expires)))
                    }
                    Some(expires) if reject_expired && expires <= now => {
                        Err(format!("the key expired at {}", shown(expires)))
                    }
                    _ => Ok(()),
                }
            });
            match checked {
                Ok(()) => return Ok(()),
                Err(why) => refused = Refused::Bad(why),
            }
        }
        Err(refused)
    }
}

/// The part of a key that a signature names, if it may sign; `None` if it names another key.
fn candidate<'a>(whole: &'a SignedPublicKey, signature: &Signature) -> Option<Result<Candidate<'a>, String>> {
    let primary = &whole.primary_key;
    let named = |key: &dyn KeyDetails| {
        let (ids, prints) = (signature.issuer_key_id(), signature.issuer_fingerprint());
        ids.iter().any(|id| **id == key.legacy_key_id()) || prints.iter().any(|print| **print == key.fingerprint())
    };
    let subkey = whole.public_subkeys.iter().find(|subkey| named(&subkey.key));
    if subkey.is_none() && !named(primary) {
        return None;
    }
    Some(certified(whole).and_then(|(flags, expires)| {
        let whole_created = i64::from(primary.created_at().as_secs());
        let Some(subkey) = subkey else {
            strong(primary)?;
            if !flags {
                return Err("the key is not one that signs".into());
            }
            return Ok(Candidate { key: Part::Primary(primary), expires, created: whole_created });
        };
        strong(&subkey.key)?;
        let mut newest: Option<&Signature> = None;
        for binding in &subkey.signatures {
            if !believed(binding) || binding.verify_subkey_binding(primary, &subkey.key).is_err() {
                continue;
            }
            if binding.typ() == Some(SignatureType::SubkeyRevocation) {
                return Err(format!("the subkey was revoked{}", reason(binding)));
            }
            if newest.is_none_or(|known| known.created() < binding.created()) {
                newest = Some(binding);
            }
        }
        let binding = newest.ok_or("the subkey does not belong to the key")?;
        if !binding.key_flags().sign() {
            return Err("the subkey is not one that signs".into());
        }
        // Without the subkey's own word anybody could put it beside a key of theirs.
        let back = binding.embedded_signature().filter(|back| believed(back));
        if back.is_none_or(|back| back.verify_primary_key_binding(&subkey.key, primary).is_err()) {
            return Err("the subkey does not say that it belongs to the key".into());
        }
        let created = i64::from(subkey.key.created_at().as_secs());
        let own = after(created, binding.key_expiration_time());
        let expires = own.into_iter().chain(expires).min();
        Ok(Candidate { key: Part::Subkey(&subkey.key), expires, created: created.max(whole_created) })
    }))
}

/// What a key says of itself: whether it signs, and when it expires.
fn certified(whole: &SignedPublicKey) -> Result<(bool, Option<i64>), String> {
    let primary = &whole.primary_key;
    if !matches!(primary.version(), KeyVersion::V4 | KeyVersion::V6) {
        return Err(format!("keys of version {:?} are too old", primary.version()));
    }
    if let Some(revoked) = whole.details.revocation_signatures.iter().find(|word| word.verify_key(primary).is_ok()) {
        return Err(format!("the key was revoked{}", reason(revoked)));
    }
    let direct =
        whole.details.direct_signatures.iter().filter(|word| believed(word) && word.verify_key(primary).is_ok());
    let users = whole.details.users.iter().flat_map(|user| {
        // What others say of a user is not looked at, and one who was revoked says nothing.
        let own = user
            .signatures
            .iter()
            .filter(|word| believed(word) && word.verify_certification(primary, Tag::UserId, &user.id).is_ok());
        own.max_by_key(|word| word.created()).filter(|word| word.typ() != Some(SignatureType::CertRevocation))
    });
    let newest = direct.chain(users).max_by_key(|word| word.created());
    let newest = newest.ok_or("the key has no valid signature of its own")?;
    let created = i64::from(primary.created_at().as_secs());
    let has_flags = newest
        .config()
        .is_some_and(|config| config.hashed_subpackets().any(|part| matches!(part.data, SubpacketData::KeyFlags(_))));
    // Keys from before there were flags do everything.
    Ok((!has_flags || newest.key_flags().sign(), after(created, newest.key_expiration_time())))
}

/// Whether a signature inside a key counts: keys are older than what they sign, and SHA-1 is not broken for this.
fn believed(signature: &Signature) -> bool {
    let hash = signature.hash_alg();
    !matches!(hash, None | Some(HashAlgorithm::None | HashAlgorithm::Md5 | HashAlgorithm::Ripemd160))
        && understood(signature).is_ok()
}

/// Parts that are marked as critical have to be understood.
fn understood(signature: &Signature) -> Result<(), String> {
    let parts = signature.config().into_iter().flat_map(|config| config.hashed_subpackets());
    for part in parts.filter(|part| part.is_critical) {
        match &part.data {
            SubpacketData::Other(kind, _) | SubpacketData::Experimental(kind, _) => {
                return Err(format!("it has a critical part of type {kind}, which is not known"));
            }
            SubpacketData::Notation(_) => return Err("it has a critical notation".into()),
            _ => {}
        }
    }
    Ok(())
}

/// Keys that are too short are not believed.
fn strong(key: &dyn KeyDetails) -> Result<(), String> {
    match key.public_params() {
        PublicParams::RSA(rsa) if rsa.key.n().bits() < MIN_RSA => {
            Err(format!("RSA key too short: {} bits, expected {MIN_RSA}", rsa.key.n().bits()))
        }
        _ => Ok(()),
    }
}

fn reason(revocation: &Signature) -> String {
    let said = revocation.revocation_reason_string().map(|text| String::from_utf8_lossy(text).trim().to_owned());
    said.filter(|text| !text.is_empty()).map_or_else(String::new, |text| format!(": {text}"))
}

/// Zero means never.
fn after(start: i64, lifetime: Option<pgp::types::Duration>) -> Option<i64> {
    lifetime.map(|lifetime| i64::from(lifetime.as_secs())).filter(|seconds| *seconds > 0).map(|seconds| start + seconds)
}

fn shown(seconds: i64) -> String {
    Timestamp::from_second(seconds).map_or_else(|_| seconds.to_string(), |time| time.to_string())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The parts of a text from `begin` to `end`, both included.
fn blocks<'a>(text: &'a str, begin: &'static str, end: &'static str) -> impl Iterator<Item = &'a str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let start = rest.find(begin)?;
        let length = rest[start..].find(end)? + end.len();
        let block = &rest[start..start + length];
        rest = &rest[start + length..];
        Some(block)
    })
}
