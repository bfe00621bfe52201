//! Signatures of `ssh-keygen -Y sign`, as `gpg.format=ssh` makes them (OpenSSH's PROTOCOL.sshsig).

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD as BASE64, STANDARD_NO_PAD};
use p256::ecdsa::signature::Verifier as _;
use rsa::sha2::{Digest as _, Sha256, Sha512};
use rsa::traits::PublicKeyParts as _;

use crate::ssh::wire::{put_string, take_string, take_u32};

/// How a signature begins.
pub(super) const BEGIN: &str = "-----BEGIN SSH SIGNATURE-----";
const END: &str = "-----END SSH SIGNATURE-----";
/// The only one there is.
pub(super) const VERSION: u32 = 1;
const MAGIC: &[u8] = b"SSHSIG";
/// What git signs for; a signature of a file or of a mail is none of a commit.
const NAMESPACE: &str = "git";
/// Shorter RSA keys are not believed, in bytes of the modulus.
const MIN_RSA: usize = 256;

const ED25519: &str = "ssh-ed25519";
const RSA: &str = "ssh-rsa";
const SK_ED25519: &str = "sk-ssh-ed25519@openssh.com";
const SK_P256: &str = "sk-ecdsa-sha2-nistp256@openssh.com";
/// Types of keys that verify.
pub(super) const TYPES: [&str; 7] =
    [ED25519, "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", RSA, SK_ED25519, SK_P256];

/// A signature as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Signature {
    /// In SSH's wire format.
    pub(super) key: Vec<u8>,
    namespace: Vec<u8>,
    reserved: Vec<u8>,
    hash: Vec<u8>,
    blob: Vec<u8>,
}

impl Signature {
    /// Takes off the armor.
    pub(super) fn parse(armored: &str) -> Result<Self, String> {
        let inner = armored.trim().strip_prefix(BEGIN).and_then(|rest| rest.split_once(END));
        let (inner, _) = inner.ok_or("it has no end")?;
        let text: String = inner.split_whitespace().collect();
        let bytes = BASE64.decode(text).map_err(|e| e.to_string())?;
        let mut rest = bytes.strip_prefix(MAGIC).ok_or("it does not begin with SSHSIG")?;
        let short = "it is cut off";
        let version = take_u32(&mut rest).ok_or(short)?;
        if version != VERSION {
            return Err(format!("it has version {version}, expected {VERSION}"));
        }
        let mut next = || take_string(&mut rest).map(<[u8]>::to_vec).ok_or(short);
        let signature = Self { key: next()?, namespace: next()?, reserved: next()?, hash: next()?, blob: next()? };
        if !rest.is_empty() {
            return Err("something stands behind it".into());
        }
        Ok(signature)
    }

    /// Whether the key that it names made it, of this message. That the key is one of those that count, others say.
    pub(super) fn verify(&self, message: &[u8]) -> Result<(), String> {
        if self.namespace != NAMESPACE.as_bytes() {
            let namespace = String::from_utf8_lossy(&self.namespace).into_owned();
            return Err(format!("it was made for \"{namespace}\", expected \"{NAMESPACE}\""));
        }
        let digest = match self.hash.as_slice() {
            b"sha256" => Sha256::digest(message).to_vec(),
            b"sha512" => Sha512::digest(message).to_vec(),
            other => return Err(format!("it uses the hash {}", String::from_utf8_lossy(other))),
        };
        let mut signed = MAGIC.to_vec();
        for part in [&self.namespace, &self.reserved, &self.hash, &digest] {
            put_string(&mut signed, part);
        }
        verify(&self.key, &signed, &self.blob)
    }
}

/// `SHA256:…`, as `ssh-keygen -l` shows a key.
pub(super) fn fingerprint(key: &[u8]) -> String {
    format!("SHA256:{}", STANDARD_NO_PAD.encode(Sha256::digest(key)))
}

/// A line of a `.pub` file: type, key, and a comment.
pub(super) fn public_key(line: &str) -> Result<Vec<u8>, String> {
    let mut words = line.split_whitespace();
    let name = words.next().unwrap_or_default();
    if !TYPES.contains(&name) {
        let known = TYPES.join(", ");
        return Err(format!("a line begins with \"{name}\", expected the type of an SSH key ({known})"));
    }
    let bytes = BASE64.decode(words.next().unwrap_or_default()).map_err(|e| format!("the {name} key: {e}"))?;
    if take_string(&mut bytes.as_slice()) != Some(name.as_bytes()) {
        return Err(format!("the {name} key is one of another type"));
    }
    // What cannot verify anything is told now, not with the first signature.
    Key::parse(&bytes).map_err(|e| format!("the {name} key: {e}"))?;
    Ok(bytes)
}

enum Key {
    Ed25519(ed25519_dalek::VerifyingKey),
    P256(p256::ecdsa::VerifyingKey),
    P384(p384::ecdsa::VerifyingKey),
    P521(p521::ecdsa::VerifyingKey),
    Rsa(rsa::RsaPublicKey),
    /// A key in a token: what it is for is signed too.
    Token(Box<Key>, Vec<u8>),
}

impl Key {
    fn parse(mut wire: &[u8]) -> Result<Self, String> {
        let short = "it is cut off";
        let mut next = || take_string(&mut wire).ok_or(short);
        let name = String::from_utf8_lossy(next()?).into_owned();
        let key = match name.as_str() {
            ED25519 | SK_ED25519 => {
                let bytes: [u8; 32] = next()?.try_into().map_err(|_| short)?;
                Self::Ed25519(ed25519_dalek::VerifyingKey::from_bytes(&bytes).map_err(|e| e.to_string())?)
            }
            RSA => {
                let (e, n) = (rsa::BigUint::from_bytes_be(next()?), rsa::BigUint::from_bytes_be(next()?));
                let key = rsa::RsaPublicKey::new_with_max_size(n, e, 16384).map_err(|e| e.to_string())?;
                if key.size() < MIN_RSA {
                    return Err(format!("RSA key too short: {} bits, expected 2048", key.n().bits()));
                }
                Self::Rsa(key)
            }
            name if TYPES.contains(&name) => {
                let (curve, point) = (next()?, next()?);
                let bad = |_| "it is not a point of its curve".to_owned();
                match curve {
                    b"nistp256" => Self::P256(p256::ecdsa::VerifyingKey::from_sec1_bytes(point).map_err(bad)?),
                    b"nistp384" => Self::P384(p384::ecdsa::VerifyingKey::from_sec1_bytes(point).map_err(bad)?),
                    b"nistp521" => Self::P521(p521::ecdsa::VerifyingKey::from_sec1_bytes(point).map_err(bad)?),
                    other => return Err(format!("its curve is {}", String::from_utf8_lossy(other))),
                }
            }
            other => return Err(format!("keys of type {other} are not supported")),
        };
        Ok(match name.starts_with("sk-") {
            true => Self::Token(Box::new(key), next()?.to_vec()),
            false => key,
        })
    }
}

/// Verifies a signature in wire format by a key in wire format.
fn verify(key: &[u8], message: &[u8], blob: &[u8]) -> Result<(), String> {
    let mut name = key;
    let name = take_string(&mut name).map(|name| String::from_utf8_lossy(name).into_owned()).unwrap_or_default();
    let mut rest = blob;
    let short = "the signature is cut off";
    let algorithm = take_string(&mut rest).ok_or(short)?;
    let signature = take_string(&mut rest).ok_or(short)?;
    // Signatures of RSA keys say which hash they use; SHA-1, which is called as the key is, is not believed.
    let fits = match name.as_str() {
        RSA => matches!(algorithm, b"rsa-sha2-256" | b"rsa-sha2-512"),
        name => name.as_bytes() == algorithm,
    };
    if !fits {
        return Err(format!("a {name} key made it by {}", String::from_utf8_lossy(algorithm)));
    }
    let bad = || "it is not a signature of this".to_owned();
    match Key::parse(key)? {
        Key::Token(key, application) => {
            // Flags and a counter stand behind it.
            if rest.len() != 5 {
                return Err(short.into());
            }
            let mut signed = Sha256::digest(&application).to_vec();
            signed.extend_from_slice(rest);
            signed.extend_from_slice(&Sha256::digest(message));
            plain(&key, algorithm, &signed, signature).ok_or_else(bad)
        }
        _ if !rest.is_empty() => Err("something stands behind the signature".into()),
        key => plain(&key, algorithm, message, signature).ok_or_else(bad),
    }
}

fn plain(key: &Key, algorithm: &[u8], message: &[u8], signature: &[u8]) -> Option<()> {
    /// A number of SSH without leading zeros, as wide as the curve.
    fn scalar<const N: usize>(number: &[u8]) -> Option<[u8; N]> {
        let start = number.iter().position(|byte| *byte != 0).unwrap_or(number.len());
        let mut wide = [0; N];
        let at = N.checked_sub(number.len() - start)?;
        wide[at..].copy_from_slice(&number[start..]);
        Some(wide)
    }
    let mut rest = signature;
    let mut pair = || Some((take_string(&mut rest)?, take_string(&mut rest)?));
    match key {
        Key::Ed25519(key) => key.verify_strict(message, &ed25519_dalek::Signature::from_slice(signature).ok()?).ok(),
        Key::P256(key) => {
            let (r, s) = pair()?;
            let signature = p256::ecdsa::Signature::from_scalars(scalar::<32>(r)?, scalar::<32>(s)?).ok()?;
            key.verify(message, &signature).ok()
        }
        Key::P384(key) => {
            let (r, s) = pair()?;
            let signature = p384::ecdsa::Signature::from_scalars(scalar::<48>(r)?, scalar::<48>(s)?).ok()?;
            key.verify(message, &signature).ok()
        }
        Key::P521(key) => {
            let (r, s) = pair()?;
            let signature = p521::ecdsa::Signature::from_slice(&[scalar::<66>(r)?, scalar::<66>(s)?].concat()).ok()?;
            key.verify(message, &signature).ok()
        }
        Key::Rsa(key) => {
            let signature = rsa::pkcs1v15::Signature::try_from(signature).ok()?;
            match algorithm {
                b"rsa-sha2-512" => {
                    rsa::pkcs1v15::VerifyingKey::<Sha512>::new(key.clone()).verify(message, &signature).ok()
                }
                _ => rsa::pkcs1v15::VerifyingKey::<Sha256>::new(key.clone()).verify(message, &signature).ok(),
            }
        }
        Key::Token(..) => None,
    }
}
