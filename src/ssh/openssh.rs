//! OpenSSH's own container for private keys (its PROTOCOL.key), where it is not encrypted.

use base64::Engine as _;

use super::keys::{Curve, Key, KeyError, damaged};
use super::wire::{take_string, take_u32};

const MAGIC: &[u8] = b"openssh-key-v1\0";

/// Reads the one key of the file.
pub(super) fn parse(text: &str) -> Result<Key, KeyError> {
    let body: String = text.lines().map(str::trim).filter(|line| !line.starts_with('-')).collect();
    let bytes = base64::engine::general_purpose::STANDARD.decode(body).map_err(damaged)?;
    let mut rest = bytes.strip_prefix(MAGIC).ok_or_else(|| damaged("it does not begin as it should"))?;
    let cipher = take_string(&mut rest).ok_or_else(short)?;
    if cipher != b"none" {
        return Err(KeyError::Encrypted);
    }
    // The key derivation and its options.
    let (_, _) = (take_string(&mut rest).ok_or_else(short)?, take_string(&mut rest).ok_or_else(short)?);
    match take_u32(&mut rest) {
        Some(1) => {}
        Some(n) => return Err(damaged(format!("{n} keys in one file"))),
        None => return Err(short()),
    }
    let _public = take_string(&mut rest).ok_or_else(short)?;
    let mut private = take_string(&mut rest).ok_or_else(short)?;
    if take_u32(&mut private) != take_u32(&mut private) {
        return Err(damaged("its check numbers differ"));
    }
    key(&mut private)
}

fn key(from: &mut &[u8]) -> Result<Key, KeyError> {
    let kind = String::from_utf8_lossy(take_string(from).ok_or_else(short)?).into_owned();
    let mut field = || take_string(from).ok_or_else(short);
    if let Some(curve) = kind.strip_prefix("ecdsa-sha2-") {
        let curve = Curve::named(curve).ok_or_else(|| KeyError::Unsupported(kind.clone()))?;
        let (_name, _point, scalar) = (field()?, field()?, field()?);
        return Key::elliptic(curve, scalar);
    }
    match kind.as_str() {
        "ssh-ed25519" => {
            let (_public, pair) = (field()?, field()?);
            let seed = pair.get(..32).ok_or_else(short)?;
            Key::ed25519(seed)
        }
        "ssh-rsa" => {
            let number = |bytes: &[u8]| rsa::BigUint::from_bytes_be(bytes);
            let (n, e, d) = (number(field()?), number(field()?), number(field()?));
            let _inverse = field()?;
            let primes = vec![number(field()?), number(field()?)];
            Key::rsa(rsa::RsaPrivateKey::from_components(n, e, d, primes).map_err(damaged)?)
        }
        _ => Err(KeyError::Unsupported(kind)),
    }
}

fn short() -> KeyError {
    damaged("it ends too early")
}
