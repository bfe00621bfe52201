//! Public keys that verify signatures: what `cosign generate-key-pair` and `openssl pkey -pubout` write.

use p256::ecdsa::signature::Verifier as _;
use p256::ecdsa::signature::hazmat::PrehashVerifier as _;
use p256::pkcs8::DecodePublicKey as _;
use rsa::pkcs1::DecodeRsaPublicKey as _;
use rsa::sha2::{Digest as _, Sha256};
use rsa::traits::PublicKeyParts as _;

/// Shorter RSA keys are not believed, in bytes of the modulus.
const MIN_RSA: usize = 256;

/// Why a text is no key that can verify.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// It is something else.
    #[error("it is not a public key in PEM format")]
    NotAKey,
    /// Nobody should have put it there.
    #[error("it is a private key; a policy needs the public half")]
    Private,
    /// A certificate says whose key it holds only to those who trust its issuer.
    #[error("it is a certificate, and issuers are not looked at; give the public key alone")]
    Certificate,
    /// A kind that verifies nothing here.
    #[error("keys of this kind are not supported: ECDSA (P-256, P-384), Ed25519 and RSA from 2048 bits are")]
    Unsupported,
}

/// A key whose signatures are believed.
#[derive(Debug, Clone)]
pub enum PublicKey {
    /// ECDSA over P-256 with SHA-256: cosign's own keys.
    P256(p256::ecdsa::VerifyingKey),
    /// ECDSA over P-384 with SHA-384, or with SHA-256 as cosign did until version 2.
    P384(p384::ecdsa::VerifyingKey),
    /// Ed25519.
    Ed25519(ed25519_dalek::VerifyingKey),
    /// RSA with PKCS #1 v1.5 and SHA-256.
    Rsa(Box<rsa::pkcs1v15::VerifyingKey<Sha256>>),
}

impl PublicKey {
    /// Reads a key in PEM: a `SubjectPublicKeyInfo`, or an RSA key of PKCS #1.
    ///
    /// # Errors
    /// When the text is no such key, or of a kind that is not supported.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let text = text.trim();
        let label = text.lines().next().and_then(|line| line.strip_prefix("-----BEGIN ")?.strip_suffix("-----"));
        let rsa = match label {
            Some("PUBLIC KEY") => {
                if let Ok(key) = p256::ecdsa::VerifyingKey::from_public_key_pem(text) {
                    return Ok(Self::P256(key));
                }
                if let Ok(key) = p384::ecdsa::VerifyingKey::from_public_key_pem(text) {
                    return Ok(Self::P384(key));
                }
                if let Ok(key) = ed25519_dalek::VerifyingKey::from_public_key_pem(text) {
                    return Ok(Self::Ed25519(key));
                }
                rsa::RsaPublicKey::from_public_key_pem(text).ok()
            }
            Some("RSA PUBLIC KEY") => rsa::RsaPublicKey::from_pkcs1_pem(text).ok(),
            Some("CERTIFICATE") => return Err(KeyError::Certificate),
            Some(other) if other.ends_with("PRIVATE KEY") => return Err(KeyError::Private),
            _ => return Err(KeyError::NotAKey),
        };
        let long = rsa.filter(|key| key.size() >= MIN_RSA).ok_or(KeyError::Unsupported)?;
        Ok(Self::Rsa(Box::new(rsa::pkcs1v15::VerifyingKey::new(long))))
    }

    /// Reads a key as [`PublicKey::parse`] does, and gives its `SubjectPublicKeyInfo` too.
    ///
    /// # Errors
    /// As [`PublicKey::parse`].
    pub fn parse_with_der(text: &str) -> Result<(Self, Vec<u8>), KeyError> {
        use p256::pkcs8::EncodePublicKey as _;
        let key = Self::parse(text)?;
        let der = match &key {
            Self::P256(key) => key.to_public_key_der(),
            Self::P384(key) => key.to_public_key_der(),
            Self::Ed25519(key) => key.to_public_key_der(),
            Self::Rsa(key) => AsRef::<rsa::RsaPublicKey>::as_ref(key.as_ref()).to_public_key_der(),
        };
        Ok((key, der.map_err(|_| KeyError::NotAKey)?.into_vec()))
    }

    /// Reads a `SubjectPublicKeyInfo` in DER.
    ///
    /// # Errors
    /// When it is of a kind that is not supported.
    pub fn from_der(der: &[u8]) -> Result<Self, KeyError> {
        if let Ok(key) = p256::ecdsa::VerifyingKey::from_public_key_der(der) {
            return Ok(Self::P256(key));
        }
        if let Ok(key) = p384::ecdsa::VerifyingKey::from_public_key_der(der) {
            return Ok(Self::P384(key));
        }
        if let Ok(key) = ed25519_dalek::VerifyingKey::from_public_key_der(der) {
            return Ok(Self::Ed25519(key));
        }
        let rsa = rsa::RsaPublicKey::from_public_key_der(der).ok().filter(|key| key.size() >= MIN_RSA);
        Ok(Self::Rsa(Box::new(rsa::pkcs1v15::VerifyingKey::new(rsa.ok_or(KeyError::Unsupported)?))))
    }

    /// Whether the signature is this key's, of what has this digest; of keys that sign digests.
    #[must_use]
    pub fn verifies_digest(&self, digest: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::P256(key) => p256::ecdsa::Signature::from_der(signature)
                .is_ok_and(|signature| key.verify_prehash(digest, &signature).is_ok()),
            Self::P384(key) => p384::ecdsa::Signature::from_der(signature)
                .is_ok_and(|signature| key.verify_prehash(digest, &signature).is_ok()),
            Self::Ed25519(_) => false,
            Self::Rsa(key) => rsa::pkcs1v15::Signature::try_from(signature)
                .is_ok_and(|signature| key.verify_prehash(digest, &signature).is_ok()),
        }
    }

    /// Whether the signature is this key's, of this message. Signatures of ECDSA are in ASN.1, as X.509 and cosign have them.
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::P256(key) => p256::ecdsa::Signature::from_der(signature)
                .is_ok_and(|signature| key.verify(message, &signature).is_ok()),
            Self::P384(key) => p384::ecdsa::Signature::from_der(signature).is_ok_and(|signature| {
                key.verify(message, &signature).is_ok()
                    || key.verify_prehash(&Sha256::digest(message), &signature).is_ok()
            }),
            Self::Ed25519(key) => ed25519_dalek::Signature::from_slice(signature)
                .is_ok_and(|signature| key.verify_strict(message, &signature).is_ok()),
            Self::Rsa(key) => rsa::pkcs1v15::Signature::try_from(signature)
                .is_ok_and(|signature| key.verify(message, &signature).is_ok()),
        }
    }
}
