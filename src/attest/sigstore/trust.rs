//! Whom to believe: `trusted_root.json` of a Sigstore instance, or authorities and logs one by one.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rsa::sha2::{Digest as _, Sha256};
use rustls_pki_types::CertificateDer;
use serde::Deserialize;

use super::certificate::{self, Certificate};
use super::evidence::{Evidence, Signed};
use super::{Signer, Time, log, shown};
use crate::attest::signature::PublicKey;

/// The public instance's, as the Python package `sigstore` 4.5.1 and the crate `sigstore-trust-root` 0.15.1 have it.
const PUBLIC: &str = include_str!("trusted_root.json");

/// When something may be believed, in seconds since 1970.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Window {
    start: Option<i64>,
    end: Option<i64>,
}

impl Window {
    pub(super) fn holds(&self, at: i64) -> bool {
        self.start.is_none_or(|start| start <= at) && self.end.is_none_or(|end| at <= end)
    }
}

/// An authority that issues certificates.
#[derive(Debug, Clone)]
pub(super) struct Authority {
    pub(super) uri: String,
    pub(super) anchors: Vec<CertificateDer<'static>>,
    pub(super) intermediates: Vec<CertificateDer<'static>>,
    pub(super) valid: Window,
}

/// A log, of signatures or of certificates.
#[derive(Debug, Clone)]
pub(super) struct Log {
    pub(super) uri: String,
    /// The digest of its key, which is its name.
    pub(super) id: [u8; 32],
    pub(super) key: PublicKey,
    pub(super) valid: Window,
}

/// Whom to believe.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    pub(super) authorities: Vec<Authority>,
    pub(super) logs: Vec<Log>,
    /// Certificates have to be in one of these; without any it is not asked.
    pub(super) certificate_logs: Vec<Log>,
    /// Authorities for timestamps.
    pub(super) clocks: Vec<Authority>,
}

impl Trust {
    /// Sigstore's public instance.
    ///
    /// # Errors
    /// When what is shipped cannot be read.
    pub fn public() -> Result<Self, String> {
        Self::parse(PUBLIC)
    }

    /// Reads a `trusted_root.json`.
    ///
    /// # Errors
    /// When it is none, or has a key that cannot verify.
    pub fn parse(text: &str) -> Result<Self, String> {
        let root: Root = serde_json::from_str(text).map_err(|e| e.to_string())?;
        if !root.media_type.starts_with("application/vnd.dev.sigstore.trustedroot") {
            return Err(format!("it is no trusted root: its media type is \"{}\"", root.media_type));
        }
        // A log whose key is of a kind that does not verify here is one that is not believed.
        let logs =
            |all: Vec<RootLog>| all.into_iter().filter_map(|log| log.read().transpose()).collect::<Result<Vec<_>, _>>();
        let authorities =
            |all: Vec<RootAuthority>| all.into_iter().map(Authority::try_from).collect::<Result<Vec<_>, _>>();
        let trust = Self {
            authorities: authorities(root.certificate_authorities)?,
            clocks: authorities(root.timestamp_authorities)?,
            logs: logs(root.tlogs)?,
            certificate_logs: logs(root.ctlogs)?,
        };
        if trust.authorities.is_empty() || trust.logs.is_empty() {
            return Err("it needs an authority for certificates and a log".into());
        }
        Ok(trust)
    }

    /// Authorities in PEM and keys of logs, as podman's policies name them. Certificates need to be in no log.
    ///
    /// # Errors
    /// When the authorities are none, or a key cannot verify.
    pub fn of(authorities: &str, logs: &[String]) -> Result<Self, String> {
        let anchors = certificate::in_pem(authorities)?;
        if anchors.is_empty() {
            return Err("it has no certificate in PEM format".into());
        }
        for anchor in &anchors {
            webpki::anchor_from_trusted_cert(anchor).map_err(|e| format!("a certificate cannot be used: {e}"))?;
        }
        let authority = Authority { uri: String::new(), anchors, intermediates: Vec::new(), valid: Window::default() };
        Ok(Self { authorities: vec![authority], ..Self::of_logs(logs)? })
    }

    /// Logs alone, for signatures by keys.
    ///
    /// # Errors
    /// When a key cannot verify.
    pub fn of_logs(logs: &[String]) -> Result<Self, String> {
        let logs = logs.iter().map(|text| {
            let (key, der) = PublicKey::parse_with_der(text).map_err(|e| e.to_string())?;
            let id = Sha256::digest(&der).into();
            Ok::<_, String>(Log { uri: String::new(), id, key, valid: Window::default() })
        });
        Ok(Self { logs: logs.collect::<Result<_, _>>()?, ..Self::default() })
    }

    /// Who made a signature that stands beside this evidence.
    ///
    /// # Errors
    /// Says what does not hold.
    pub fn verify(&self, evidence: &Evidence, signed: &Signed<'_>) -> Result<Signer, String> {
        let leaf = evidence.certificate.as_ref().ok_or("it has no certificate")?;
        let leaf = Certificate::parse(leaf)?;
        if !leaf.key.verifies(signed.message, signed.signature) {
            return Err(format!("it is not a signature by the certificate of {}", leaf.identity.shown()));
        }
        let times = log::times(self, evidence, signed, leaf.der())?;
        for time in &times {
            self.issued(&leaf, &evidence.chain, time)?;
        }
        if !self.certificate_logs.is_empty() {
            let issuers = self.authorities.iter().flat_map(|a| a.anchors.iter().chain(&a.intermediates));
            leaf.is_logged(&self.certificate_logs, issuers)?;
        }
        Ok(Signer { identity: leaf.identity, times })
    }

    /// Whether a log has a signature by a key, whose `SubjectPublicKeyInfo` this is.
    ///
    /// # Errors
    /// Says what does not hold.
    pub fn logged(&self, evidence: &Evidence, signed: &Signed<'_>, key: &[u8]) -> Result<Vec<Time>, String> {
        log::times(self, evidence, signed, key)
    }

    /// Whether an authority issued a certificate, and it was valid at that time.
    fn issued(&self, leaf: &Certificate, chain: &[Vec<u8>], time: &Time) -> Result<(), String> {
        let mut why = format!("no authority is believed at {}", shown(time.at));
        for authority in self.authorities.iter().filter(|authority| authority.valid.holds(time.at)) {
            match leaf.is_issued_by(authority, chain, time.at, certificate::CODE_SIGNING) {
                Ok(()) => return Ok(()),
                Err(reason) => why = reason,
            }
        }
        Err(format!("the certificate of {} does not hold at {}: {why}", leaf.identity.shown(), shown(time.at)))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Root {
    media_type: String,
    #[serde(default)]
    tlogs: Vec<RootLog>,
    #[serde(default)]
    certificate_authorities: Vec<RootAuthority>,
    #[serde(default)]
    ctlogs: Vec<RootLog>,
    #[serde(default)]
    timestamp_authorities: Vec<RootAuthority>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RootLog {
    #[serde(default)]
    base_url: String,
    public_key: RootKey,
    log_id: RootId,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RootId {
    key_id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RootKey {
    raw_bytes: String,
    #[serde(default)]
    valid_for: RootWindow,
}

#[derive(Deserialize, Default)]
struct RootWindow {
    start: Option<jiff::Timestamp>,
    end: Option<jiff::Timestamp>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RootAuthority {
    #[serde(default)]
    uri: String,
    cert_chain: RootChain,
    #[serde(default)]
    valid_for: RootWindow,
}

#[derive(Deserialize)]
struct RootChain {
    certificates: Vec<RootCertificate>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RootCertificate {
    raw_bytes: String,
}

impl From<RootWindow> for Window {
    fn from(window: RootWindow) -> Self {
        Self { start: window.start.map(|time| time.as_second()), end: window.end.map(|time| time.as_second()) }
    }
}

impl RootLog {
    fn read(self) -> Result<Option<Log>, String> {
        let log = self;
        let bad = |why: String| format!("the key of {}: {why}", log.base_url);
        let der = BASE64.decode(&log.public_key.raw_bytes).map_err(|e| bad(e.to_string()))?;
        let Ok(key) = PublicKey::from_der(&der) else { return Ok(None) };
        // Usually the digest of the key, of newer logs of their name too.
        let id = BASE64.decode(&log.log_id.key_id).map_err(|e| bad(e.to_string()))?;
        let id = id.try_into().map_err(|_| bad("its id is not one of 32 bytes".into()))?;
        Ok(Some(Log { uri: log.base_url, id, key, valid: log.public_key.valid_for.into() }))
    }
}

impl TryFrom<RootAuthority> for Authority {
    type Error = String;

    fn try_from(authority: RootAuthority) -> Result<Self, String> {
        let decode =
            |c: RootCertificate| BASE64.decode(c.raw_bytes).map(CertificateDer::from).map_err(|e| e.to_string());
        let chain = authority.cert_chain.certificates.into_iter().map(decode).collect::<Result<Vec<_>, _>>()?;
        // The root comes last.
        let mut intermediates = chain;
        let anchor = intermediates.pop().ok_or("an authority has no certificates")?;
        webpki::anchor_from_trusted_cert(&anchor).map_err(|e| format!("a certificate cannot be used: {e}"))?;
        Ok(Self { uri: authority.uri, anchors: vec![anchor], intermediates, valid: authority.valid_for.into() })
    }
}
