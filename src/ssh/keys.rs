//! Private keys from files: unencrypted PEM in OpenSSH's own format, PKCS#1, SEC1 and PKCS#8 (SPEC B2.29).

use ed25519_dalek::pkcs8::DecodePrivateKey as _;
use rsa::pkcs1::DecodeRsaPrivateKey as _;
use rsa::signature::{SignatureEncoding as _, Signer as _};
use rsa::traits::PublicKeyParts as _;

use super::openssh;
use super::wire::{put_number, put_string};

/// Flags of a sign request.
const RSA_SHA2_256: u32 = 2;
const RSA_SHA2_512: u32 = 4;

/// Why a file cannot be used as a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// It is not what it should be.
    #[error("it is not a private key in PEM format")]
    NotAKey,
    /// Somebody would have to be asked.
    #[error("it is protected by a passphrase")]
    Encrypted,
    /// A kind that cannot sign here.
    #[error("keys of type {0} are not supported")]
    Unsupported(String),
    /// The label is right, the content is not.
    #[error("it is damaged: {0}")]
    Damaged(String),
}

/// A key that can sign.
pub(super) struct Key {
    /// The public half in the SSH wire format.
    public: Vec<u8>,
    private: Private,
}

enum Private {
    Rsa(rsa::RsaPrivateKey),
    Ed25519(ed25519_dalek::SigningKey),
    P256(p256::ecdsa::SigningKey),
    P384(p384::ecdsa::SigningKey),
    P521(p521::ecdsa::SigningKey),
}

/// The curves of ECDSA keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Curve {
    P256,
    P384,
    P521,
}

impl Curve {
    /// By SSH's name.
    pub(super) fn named(name: &str) -> Option<Self> {
        [Self::P256, Self::P384, Self::P521].into_iter().find(|curve| curve.name() == name)
    }

    fn name(self) -> &'static str {
        match self {
            Self::P256 => "nistp256",
            Self::P384 => "nistp384",
            Self::P521 => "nistp521",
        }
    }

    /// Bytes of a scalar.
    fn size(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key")
    }
}

impl Key {
    /// Reads a key file's text.
    pub(super) fn parse(text: &str) -> Result<Self, KeyError> {
        let label = text
            .lines()
            .find_map(|line| line.trim().strip_prefix("-----BEGIN ")?.strip_suffix("-----"))
            .ok_or(KeyError::NotAKey)?;
        // RFC 1421's way, which PKCS#1 and SEC1 files have of being encrypted.
        if label.starts_with("ENCRYPTED ") || text.contains("Proc-Type: 4,ENCRYPTED") {
            return Err(KeyError::Encrypted);
        }
        match label {
            "OPENSSH PRIVATE KEY" => openssh::parse(text),
            "RSA PRIVATE KEY" => Self::rsa(rsa::RsaPrivateKey::from_pkcs1_pem(text).map_err(damaged)?),
            "EC PRIVATE KEY" => Self::one_of([
                p256::SecretKey::from_sec1_pem(text).ok().map(|k| Self::elliptic(Curve::P256, &k.to_bytes())),
                p384::SecretKey::from_sec1_pem(text).ok().map(|k| Self::elliptic(Curve::P384, &k.to_bytes())),
                p521::SecretKey::from_sec1_pem(text).ok().map(|k| Self::elliptic(Curve::P521, &k.to_bytes())),
            ])
            .ok_or_else(|| KeyError::Unsupported("EC with this curve".into()))?,
            "PRIVATE KEY" => Self::one_of([
                rsa::RsaPrivateKey::from_pkcs8_pem(text).ok().map(Self::rsa),
                ed25519_dalek::SigningKey::from_pkcs8_pem(text).ok().map(|k| Self::ed25519(k.as_bytes())),
                p256::SecretKey::from_pkcs8_pem(text).ok().map(|k| Self::elliptic(Curve::P256, &k.to_bytes())),
                p384::SecretKey::from_pkcs8_pem(text).ok().map(|k| Self::elliptic(Curve::P384, &k.to_bytes())),
                p521::SecretKey::from_pkcs8_pem(text).ok().map(|k| Self::elliptic(Curve::P521, &k.to_bytes())),
            ])
            .ok_or_else(|| KeyError::Unsupported("PKCS#8 with this algorithm".into()))?,
            "DSA PRIVATE KEY" => Err(KeyError::Unsupported("DSA".into())),
            _ => Err(KeyError::NotAKey),
        }
    }

    fn one_of<const N: usize>(readings: [Option<Result<Self, KeyError>>; N]) -> Option<Result<Self, KeyError>> {
        readings.into_iter().flatten().next()
    }

    /// The public half in the SSH wire format.
    pub(super) fn public(&self) -> &[u8] {
        &self.public
    }

    /// The signature in the SSH wire format; `None` for what this key does not do (SHA-1 signatures).
    pub(super) fn sign(&self, data: &[u8], flags: u32) -> Option<Vec<u8>> {
        let elliptic = |curve: Curve, signature: &[u8]| {
            let (r, s) = signature.split_at(curve.size());
            let mut out = Vec::new();
            put_number(&mut out, r);
            put_number(&mut out, s);
            (format!("ecdsa-sha2-{}", curve.name()), out)
        };
        let (algorithm, signature) = match &self.private {
            Private::Rsa(key) if flags & RSA_SHA2_512 != 0 => {
                let signer = rsa::pkcs1v15::SigningKey::<rsa::sha2::Sha512>::new(key.clone());
                ("rsa-sha2-512".to_owned(), signer.try_sign(data).ok()?.to_vec())
            }
            Private::Rsa(key) if flags & RSA_SHA2_256 != 0 => {
                let signer = rsa::pkcs1v15::SigningKey::<rsa::sha2::Sha256>::new(key.clone());
                ("rsa-sha2-256".to_owned(), signer.try_sign(data).ok()?.to_vec())
            }
            Private::Rsa(_) => return None,
            Private::Ed25519(key) => ("ssh-ed25519".to_owned(), key.try_sign(data).ok()?.to_vec()),
            Private::P256(key) => {
                let signature: p256::ecdsa::Signature = key.try_sign(data).ok()?;
                elliptic(Curve::P256, &signature.to_bytes())
            }
            Private::P384(key) => {
                let signature: p384::ecdsa::Signature = key.try_sign(data).ok()?;
                elliptic(Curve::P384, &signature.to_bytes())
            }
            Private::P521(key) => {
                let signature: p521::ecdsa::Signature = key.try_sign(data).ok()?;
                elliptic(Curve::P521, &signature.to_bytes())
            }
        };
        let mut out = Vec::new();
        put_string(&mut out, algorithm.as_bytes());
        put_string(&mut out, &signature);
        Some(out)
    }

    /// An RSA key.
    pub(super) fn rsa(key: rsa::RsaPrivateKey) -> Result<Self, KeyError> {
        key.validate().map_err(damaged)?;
        let mut public = Vec::new();
        put_string(&mut public, b"ssh-rsa");
        put_number(&mut public, &key.e().to_bytes_be());
        put_number(&mut public, &key.n().to_bytes_be());
        Ok(Self { public, private: Private::Rsa(key) })
    }

    /// An Ed25519 key by its 32 bytes of seed.
    pub(super) fn ed25519(seed: &[u8]) -> Result<Self, KeyError> {
        let key = ed25519_dalek::SigningKey::try_from(seed).map_err(damaged)?;
        let mut public = Vec::new();
        put_string(&mut public, b"ssh-ed25519");
        put_string(&mut public, key.verifying_key().as_bytes());
        Ok(Self { public, private: Private::Ed25519(key) })
    }

    /// An ECDSA key by its scalar, big-endian and of any length.
    pub(super) fn elliptic(curve: Curve, scalar: &[u8]) -> Result<Self, KeyError> {
        let start = scalar.iter().position(|byte| *byte != 0).unwrap_or(scalar.len());
        let significant = &scalar[start..];
        let mut padded = vec![0; curve.size().saturating_sub(significant.len())];
        padded.extend(significant);
        let (point, private) = match curve {
            Curve::P256 => {
                let key = p256::ecdsa::SigningKey::from_slice(&padded).map_err(damaged)?;
                (key.verifying_key().to_encoded_point(false).as_bytes().to_vec(), Private::P256(key))
            }
            Curve::P384 => {
                let key = p384::ecdsa::SigningKey::from_slice(&padded).map_err(damaged)?;
                (key.verifying_key().to_encoded_point(false).as_bytes().to_vec(), Private::P384(key))
            }
            Curve::P521 => {
                let key = p521::ecdsa::SigningKey::from_slice(&padded).map_err(damaged)?;
                let public = p521::ecdsa::VerifyingKey::from(&key);
                (public.to_encoded_point(false).as_bytes().to_vec(), Private::P521(key))
            }
        };
        let mut public = Vec::new();
        put_string(&mut public, format!("ecdsa-sha2-{}", curve.name()).as_bytes());
        put_string(&mut public, curve.name().as_bytes());
        put_string(&mut public, &point);
        Ok(Self { public, private })
    }
}

/// The label is right, the content is not.
pub(super) fn damaged(error: impl std::fmt::Display) -> KeyError {
    KeyError::Damaged(error.to_string())
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::{Command, Stdio};

    use base64::Engine as _;
    use rsa::sha2::Digest as _;

    use super::*;

    fn generate(dir: &Path, name: &str, args: &[&str]) -> Option<String> {
        let path = dir.join(name);
        let made = Command::new("ssh-keygen").args(["-q", "-f"]).arg(&path).args(args).output().ok()?;
        assert!(made.status.success(), "{args:?}: {}", String::from_utf8_lossy(&made.stderr));
        Some(std::fs::read_to_string(path).expect("readable"))
    }

    /// SPEC B2.29. Keys as ssh-keygen makes them; its own public half is the oracle, and it verifies the signatures.
    #[test]
    #[expect(clippy::print_stderr, reason = "how a test says that it was skipped")]
    fn b2_29_keys_of_every_kind_and_format() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        // Several of those whose scalars begin with zeros often.
        let kinds: [&[&str]; 12] = [
            &["-t", "ed25519"],
            &["-t", "rsa", "-b", "2048"],
            &["-t", "ecdsa", "-b", "256"],
            &["-t", "ecdsa", "-b", "384"],
            &["-t", "ecdsa", "-b", "521"],
            &["-t", "ecdsa", "-b", "521"],
            &["-t", "ecdsa", "-b", "521"],
            &["-t", "rsa", "-b", "2048", "-m", "PEM"],
            &["-t", "ecdsa", "-b", "256", "-m", "PEM"],
            &["-t", "ecdsa", "-b", "521", "-m", "PEM"],
            &["-t", "rsa", "-b", "2048", "-m", "PKCS8"],
            &["-t", "ecdsa", "-b", "384", "-m", "PKCS8"],
        ];
        for (n, kind) in kinds.iter().enumerate() {
            let name = format!("key{n}");
            let Some(text) = generate(dir.path(), &name, &[*kind, &["-N", ""]].concat()) else {
                eprintln!("skipped: no ssh-keygen");
                return;
            };
            let key = Key::parse(&text).unwrap_or_else(|e| panic!("{kind:?}: {e}"));
            let public = std::fs::read_to_string(dir.path().join(format!("{name}.pub"))).expect("readable");
            let encoded = base64::engine::general_purpose::STANDARD.encode(key.public());
            assert_eq!(public.split(' ').nth(1), Some(encoded.as_str()), "{kind:?}");
            verify(dir.path(), &public, &key, kind);
        }
        let rsa = std::fs::read_to_string(dir.path().join("key1")).expect("readable");
        assert_eq!(Key::parse(&rsa).expect("valid").sign(b"data", 0), None, "no SHA-1");
        for (n, format) in ["RFC4716", "PEM", "PKCS8"].iter().enumerate() {
            let kind = ["-t", "ecdsa", "-m", format, "-N", "secret"];
            let text = generate(dir.path(), &format!("locked{n}"), &kind).expect("made");
            assert_eq!(Key::parse(&text).expect_err("locked"), KeyError::Encrypted, "{format}");
        }
    }

    /// Has ssh-keygen verify a signature of ours, wrapped as its PROTOCOL.sshsig says.
    fn verify(dir: &Path, public: &str, key: &Key, kind: &[&str]) {
        use std::io::Write as _;
        let hash = rsa::sha2::Sha512::digest(b"data");
        let mut tail = Vec::new();
        for part in [&b"file"[..], b"", b"sha512"] {
            put_string(&mut tail, part);
        }
        let mut signed = b"SSHSIG".to_vec();
        signed.extend(&tail);
        put_string(&mut signed, &hash);
        let mut blob = b"SSHSIG\0\0\0\x01".to_vec();
        put_string(&mut blob, key.public());
        blob.extend(&tail);
        put_string(&mut blob, &key.sign(&signed, RSA_SHA2_512).expect("signs"));
        let armour = base64::engine::general_purpose::STANDARD.encode(blob);
        let lines: Vec<&str> =
            armour.as_bytes().chunks(70).map(|line| std::str::from_utf8(line).expect("ASCII")).collect();
        let text = format!("-----BEGIN SSH SIGNATURE-----\n{}\n-----END SSH SIGNATURE-----\n", lines.join("\n"));
        std::fs::write(dir.join("signature"), text).expect("writes");
        std::fs::write(dir.join("signers"), format!("me {public}")).expect("writes");
        let mut child = Command::new("ssh-keygen")
            .args(["-Y", "verify", "-n", "file", "-I", "me", "-f", "signers", "-s", "signature"])
            .current_dir(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starts");
        child.stdin.take().expect("a pipe").write_all(b"data").expect("writes");
        let output = child.wait_with_output().expect("ends");
        assert!(output.status.success(), "{kind:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// An Ed25519 key in PKCS#8, as OpenSSL makes them (RFC 8410's example).
    #[test]
    fn b2_29_ed25519_in_pkcs8() {
        let text = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
                    -----END PRIVATE KEY-----\n";
        let key = Key::parse(text).expect("valid");
        assert!(key.public().starts_with(b"\0\0\0\x0bssh-ed25519"));
    }

    #[test]
    fn b2_29_what_is_not_a_key_is_said() {
        for (text, error) in [
            ("", KeyError::NotAKey),
            ("hello", KeyError::NotAKey),
            ("-----BEGIN CERTIFICATE-----\n", KeyError::NotAKey),
            ("-----BEGIN DSA PRIVATE KEY-----\n", KeyError::Unsupported("DSA".into())),
        ] {
            assert_eq!(Key::parse(text).expect_err("refused"), error);
        }
        let error = Key::parse("-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----\n");
        assert!(matches!(error.expect_err("refused"), KeyError::Damaged(_)));
    }
}
