//! Content digests and the newtypes that keep their meanings apart.

use std::fmt;
use std::io::{self, Write};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::digest::common::hazmat::{SerializableState, SerializedState};
use sha2::{Digest as _, Sha256, Sha512};

/// A content digest as the OCI image specification writes it: `algorithm:hex`.
///
/// Only algorithms whose hex length is known can be parsed: `sha256` and `sha512` (SPEC E3.18).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    text: Box<str>,
    colon: u8,
}

/// Why a text is not a digest.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("invalid digest \"{text}\": {reason}")]
pub struct DigestError {
    text: String,
    reason: &'static str,
}

impl Digest {
    /// The sha256 digest of `bytes`.
    #[must_use]
    pub fn sha256(bytes: impl AsRef<[u8]>) -> Self {
        Self::from_sha256(&Sha256::digest(bytes.as_ref()))
    }

    /// Wraps an already computed sha256 value.
    ///
    /// # Panics
    /// Never for the 32-byte output of a sha256 hasher, which is the only thing to pass here.
    #[must_use]
    pub fn from_sha256(raw: &[u8]) -> Self {
        debug_assert_eq!(raw.len(), 32);
        let mut text = String::with_capacity(7 + raw.len() * 2);
        text.push_str("sha256:");
        push_hex(&mut text, raw);
        Self { text: text.into_boxed_str(), colon: 6 }
    }

    /// `sha256` or `sha512`.
    #[must_use]
    pub fn algorithm(&self) -> &str {
        &self.text[..usize::from(self.colon)]
    }

    /// The lower-case hex part.
    #[must_use]
    pub fn hex(&self) -> &str {
        &self.text[usize::from(self.colon) + 1..]
    }

    /// The first twelve hex digits, for people.
    #[must_use]
    pub fn short(&self) -> &str {
        &self.hex()[..12]
    }

    /// The whole `algorithm:hex` text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// A hasher of this digest's algorithm, to verify content against it.
    #[must_use]
    pub fn hasher(&self) -> Hasher {
        if self.algorithm() == "sha512" { Hasher::Sha512(Box::default()) } else { Hasher::default() }
    }
}

/// Incremental digest computation.
#[derive(Clone)]
pub enum Hasher {
    /// The usual algorithm.
    Sha256(Box<Sha256>),
    /// Accepted on pull.
    Sha512(Box<Sha512>),
}

impl Default for Hasher {
    fn default() -> Self {
        Self::Sha256(Box::default())
    }
}

impl Hasher {
    /// Feeds `bytes`.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(h) => h.update(bytes),
            Self::Sha512(h) => h.update(bytes),
        }
    }

    /// Where a sha256 stands, for [`resume`](Self::resume) to go on from; zeros at its end are left out. `None` for sha512.
    #[must_use]
    pub fn suspend(&self) -> Option<Vec<u8>> {
        let Self::Sha256(h) = self else { return None };
        let state = h.serialize();
        let length = state.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
        Some(state[..length].to_vec())
    }

    /// Goes on from what [`suspend`](Self::suspend) gave; `None` if it did not.
    #[must_use]
    pub fn resume(state: &[u8]) -> Option<Self> {
        let mut whole = SerializedState::<Sha256>::default();
        whole.get_mut(..state.len())?.copy_from_slice(state);
        Some(Self::Sha256(Box::new(Sha256::deserialize(&whole).ok()?)))
    }

    /// Ends the computation.
    #[must_use]
    pub fn finish(self) -> Digest {
        match self {
            Self::Sha256(h) => Digest::from_sha256(&h.finalize()),
            Self::Sha512(h) => Digest { text: format!("sha512:{}", hex(&h.finalize())).into_boxed_str(), colon: 6 },
        }
    }
}

/// Passes bytes on to `inner` while computing their sha256 and counting them.
pub struct DigestWriter<W> {
    inner: W,
    hasher: Hasher,
    written: u64,
}

impl<W> DigestWriter<W> {
    /// Wraps `inner`.
    pub fn new(inner: W) -> Self {
        Self { inner, hasher: Hasher::default(), written: 0 }
    }

    /// Bytes written so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// The inner writer.
    pub fn get_ref(&self) -> &W {
        &self.inner
    }

    /// Gives back the inner writer with the digest and the number of bytes.
    pub fn finish(self) -> (W, Digest, u64) {
        (self.inner, self.hasher.finish(), self.written)
    }
}

impl<W: Write> Write for DigestWriter<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(buf)?;
        self.hasher.update(&buf[..n]);
        self.written += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Lower-case hex.
#[must_use]
pub fn hex(raw: &[u8]) -> String {
    let mut out = String::with_capacity(raw.len() * 2);
    push_hex(&mut out, raw);
    out
}

/// Some tens of thousands of digests are made for one COPY: many digits are appended at once.
fn push_hex(out: &mut String, raw: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [0; 64];
    for part in raw.chunks(text.len() / 2) {
        for (pair, b) in text.chunks_exact_mut(2).zip(part) {
            pair.copy_from_slice(&[DIGITS[usize::from(b >> 4)], DIGITS[usize::from(b & 15)]]);
        }
        let digits = &text[..part.len() * 2];
        out.push_str(std::str::from_utf8(digits).expect("hex digits are ASCII"));
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let fail = |reason| DigestError { text: text.to_owned(), reason };
        let (algorithm, hex) = text.split_once(':').ok_or_else(|| fail("expected algorithm:hex"))?;
        let want = match algorithm {
            "sha256" => 64,
            "sha512" => 128,
            _ => return Err(fail("unsupported algorithm")),
        };
        if hex.len() != want {
            return Err(fail("wrong length"));
        }
        if !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(fail("expected lower-case hex"));
        }
        Ok(Self { text: text.into(), colon: 6 })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

macro_rules! digest_newtype {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Digest);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = DigestError;
            fn from_str(text: &str) -> Result<Self, DigestError> {
                text.parse().map($name)
            }
        }
    };
}

digest_newtype! {
    /// Digest of a layer's *uncompressed* tar stream (OCI image config, `rootfs.diff_ids`).
    DiffId
}
digest_newtype! {
    /// Identity of a stack of layers (OCI image specification, "Layer ChainID").
    ChainId
}
digest_newtype! {
    /// Key under which the solver remembers a result.
    CacheKey
}

impl ChainId {
    /// The chain ID of one layer, or of `layer` on top of `parent`.
    #[must_use]
    pub fn extend(parent: Option<&Self>, layer: &DiffId) -> Self {
        match parent {
            None => Self(layer.0.clone()),
            Some(parent) => Self(Digest::sha256(format!("{parent} {layer}"))),
        }
    }

    /// The chain ID of a whole stack, bottom first; `None` for no layers.
    #[must_use]
    pub fn of(layers: &[DiffId]) -> Option<Self> {
        layers.iter().fold(None, |parent, layer| Some(Self::extend(parent.as_ref(), layer)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn parses_and_prints() {
        let d: Digest = EMPTY.parse().expect("a valid digest");
        assert_eq!(d, Digest::sha256(b""));
        assert_eq!((d.algorithm(), d.short()), ("sha256", "e3b0c44298fc"));
        assert_eq!(serde_json::to_string(&d).expect("serialises"), format!("\"{EMPTY}\""));
    }

    #[test]
    fn refuses_what_is_not_a_digest() {
        for bad in ["", "sha256", "sha256:", "sha256:abc", "md5:d41d8cd98f00b204e9800998ecf8427e"] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
        assert!(EMPTY.to_uppercase().replace("SHA256", "sha256").parse::<Digest>().is_err());
    }

    #[test]
    fn a_computation_goes_on_from_where_it_stood() {
        let bytes: Vec<u8> = (0..5000_u32).map(|i| (i * i) as u8).collect();
        for cut in [0, 1, 64, 1024, 4999] {
            let mut first = Hasher::default();
            first.update(&bytes[..cut]);
            let state = first.suspend().expect("a sha256");
            let mut second = Hasher::resume(&state).expect("a state");
            second.update(&bytes[cut..]);
            assert_eq!(second.finish(), Digest::sha256(&bytes), "{cut}");
        }
        assert!(Hasher::resume(&[7; 500]).is_none());
    }

    #[test]
    fn chain_ids_follow_the_image_specification() {
        let a = DiffId(Digest::sha256(b"a"));
        let b = DiffId(Digest::sha256(b"b"));
        assert_eq!(ChainId::of(std::slice::from_ref(&a)), Some(ChainId(a.0.clone())));
        assert_eq!(ChainId::of(&[a.clone(), b.clone()]), Some(ChainId(Digest::sha256(format!("{a} {b}")))));
        assert_eq!(ChainId::of(&[]), None);
    }
}
