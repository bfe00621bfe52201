//! Certificates of Fulcio: who issued them, whom they name, and that a log of certificates has them.

use rsa::sha2::{Digest as _, Sha256};
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_cert::der::asn1::{OctetString, Utf8StringRef};
use x509_cert::der::{Decode as _, Encode as _};
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{ExtendedKeyUsage, SubjectAltName};
use x509_cert::name::Name;
use x509_cert::serial_number::SerialNumber;

use super::hex;
use super::trust::{Authority, Log};
use crate::attest::signature::PublicKey;

/// Certificates are for signing code.
pub(super) const CODE_SIGNING: &[u8] = &[43, 6, 1, 5, 5, 7, 3, 3];
/// Or for timestamps.
pub(super) const TIME_STAMPING: &[u8] = &[43, 6, 1, 5, 5, 7, 3, 8];
/// Extensions of Fulcio begin so: <https://github.com/sigstore/fulcio/blob/main/docs/oid-info.md>.
const FULCIO: &str = "1.3.6.1.4.1.57264.1.";
/// Where a name stands that is no address.
const OTHER_NAME: &str = "1.3.6.1.4.1.57264.1.7";
/// What logs of certificates say of one (RFC 6962).
const TIMESTAMPS: &str = "1.3.6.1.4.1.11129.2.4.2";
/// Fields of a certificate, by the last number of their extension, as buildx names them.
pub const FIELDS: &[(u32, &str)] = &[
    (9, "buildSignerURI"),
    (10, "buildSignerDigest"),
    (11, "runnerEnvironment"),
    (12, "sourceRepositoryURI"),
    (13, "sourceRepositoryDigest"),
    (14, "sourceRepositoryRef"),
    (15, "sourceRepositoryIdentifier"),
    (16, "sourceRepositoryOwnerURI"),
    (17, "sourceRepositoryOwnerIdentifier"),
    (18, "buildConfigURI"),
    (19, "buildConfigDigest"),
    (20, "buildTrigger"),
    (21, "runInvocationURI"),
    (22, "sourceRepositoryVisibilityAtSigning"),
];

/// Whom a certificate names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// Who issued the certificate: `CN=sigstore-intermediate,O=sigstore.dev`.
    pub certificate_issuer: String,
    /// Who said who it is: the issuer of the OIDC token.
    pub issuer: String,
    /// Mail addresses, addresses of workflows, or names.
    pub subjects: Vec<String>,
    /// Of these the mail addresses.
    pub emails: Vec<String>,
    /// More that is said of a workflow, by buildx's names.
    pub fields: Vec<(&'static str, String)>,
}

impl Identity {
    /// For messages.
    #[must_use]
    pub fn shown(&self) -> String {
        format!("\"{}\" (issuer \"{}\")", self.subjects.join("\", \""), self.issuer)
    }

    /// A field by buildx's name.
    #[must_use]
    pub fn field(&self, name: &str) -> &str {
        self.fields.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value)
    }
}

/// A certificate that signs.
pub(super) struct Certificate {
    der: CertificateDer<'static>,
    parsed: x509_cert::Certificate,
    pub(super) key: PublicKey,
    pub(super) identity: Identity,
}

impl Certificate {
    pub(super) fn parse(der: &[u8]) -> Result<Self, String> {
        let bad = |why: String| format!("its certificate cannot be read: {why}");
        let parsed = x509_cert::Certificate::from_der(der).map_err(|e| bad(e.to_string()))?;
        let key = parsed.tbs_certificate.subject_public_key_info.to_der().map_err(|e| bad(e.to_string()))?;
        let key = PublicKey::from_der(&key).map_err(|e| bad(e.to_string()))?;
        let identity = identity(&parsed).map_err(bad)?;
        Ok(Self { der: CertificateDer::from(der.to_vec()), parsed, key, identity })
    }

    pub(super) fn der(&self) -> &[u8] {
        &self.der
    }

    /// Whether this is its issuer and its number.
    pub(super) fn is_called(&self, issuer: &Name, serial: &SerialNumber) -> bool {
        let own = &self.parsed.tbs_certificate;
        own.issuer == *issuer && own.serial_number == *serial
    }

    /// Whether an authority issued it, for this use, and all certificates in between were valid then.
    pub(super) fn is_issued_by(
        &self,
        authority: &Authority,
        chain: &[Vec<u8>],
        at: i64,
        usage: &'static [u8],
    ) -> Result<(), String> {
        let leaf = webpki::EndEntityCert::try_from(&self.der).map_err(|e| e.to_string())?;
        let anchors = authority.anchors.iter().map(webpki::anchor_from_trusted_cert).collect::<Result<Vec<_>, _>>();
        let anchors = anchors.map_err(|e| e.to_string())?;
        // What came along is no reason to believe anything; it only leads to what is believed.
        let given = chain.iter().map(|der| CertificateDer::from(der.clone()));
        let intermediates: Vec<CertificateDer<'_>> = authority.intermediates.iter().cloned().chain(given).collect();
        let at = u64::try_from(at).map_err(|e| e.to_string())?;
        let time = UnixTime::since_unix_epoch(std::time::Duration::from_secs(at));
        // Authorities in between may say nothing of it, a certificate that signs may not.
        let extensions = self.parsed.tbs_certificate.extensions.iter().flatten();
        let extensions = extensions.filter(|extension| extension.extn_id.to_string() == "2.5.29.37");
        let said = extensions.filter_map(|extension| ExtendedKeyUsage::from_der(extension.extn_value.as_bytes()).ok());
        if !said.flat_map(|usages| usages.0).any(|one| one.as_bytes() == usage) {
            return Err("it is not for this use".into());
        }
        let usage = webpki::KeyUsage::required_if_present(usage);
        leaf.verify_for_usage(webpki::ALL_VERIFICATION_ALGS, &anchors, &intermediates, time, usage, None, None)
            .map(drop)
            .map_err(|e| e.to_string())
    }

    /// Whether a log of certificates says that it has it.
    pub(super) fn is_logged<'a>(
        &self,
        logs: &[Log],
        issuers: impl Iterator<Item = &'a CertificateDer<'static>>,
    ) -> Result<(), String> {
        let mut tbs = self.parsed.tbs_certificate.clone();
        let all = tbs.extensions.take().unwrap_or_default();
        let (said, rest): (Vec<Extension>, Vec<Extension>) =
            all.into_iter().partition(|extension| extension.extn_id.to_string() == TIMESTAMPS);
        let said = said.first().ok_or("no log says that it has the certificate: it has no signed timestamp")?;
        // Signed before the answer was put into the certificate.
        tbs.extensions = Some(rest);
        let tbs = tbs.to_der().map_err(|e| e.to_string())?;
        let list = OctetString::from_der(said.extn_value.as_bytes()).map_err(|e| e.to_string())?;
        let issuers: Vec<[u8; 32]> = issuers
            .filter_map(|issuer| x509_cert::Certificate::from_der(issuer).ok())
            .filter(|issuer| issuer.tbs_certificate.subject == self.parsed.tbs_certificate.issuer)
            .filter_map(|issuer| issuer.tbs_certificate.subject_public_key_info.to_der().ok())
            .map(|key| Sha256::digest(&key).into())
            .collect();
        let mut why = "no log says that it has the certificate".to_owned();
        for said in timestamps(list.as_bytes()).ok_or("its signed timestamps cannot be read")? {
            let Some(log) = logs.iter().find(|log| log.id == said.log) else {
                why = format!("the certificate is in the log {}, which is not believed", hex(&said.log));
                continue;
            };
            let at = i64::try_from(said.at / 1000).unwrap_or(i64::MAX);
            let signed = |issuer: &[u8; 32]| log.key.verifies(&said.signed(issuer, &tbs), said.signature);
            if log.valid.holds(at) && issuers.iter().any(signed) {
                return Ok(());
            }
            why = format!("what {} says of the certificate is not its signature", log.uri);
        }
        Err(why)
    }
}

/// What a log of certificates says.
struct Timestamp<'a> {
    log: [u8; 32],
    /// Milliseconds since 1970.
    at: u64,
    extensions: &'a [u8],
    signature: &'a [u8],
}

impl Timestamp<'_> {
    /// What it signed (RFC 6962 section 3.2).
    fn signed(&self, issuer: &[u8; 32], tbs: &[u8]) -> Vec<u8> {
        let mut out = vec![0, 0];
        out.extend(self.at.to_be_bytes());
        out.extend([0, 1]);
        out.extend(issuer);
        out.extend(&u32::try_from(tbs.len()).unwrap_or(u32::MAX).to_be_bytes()[1..]);
        out.extend(tbs);
        out.extend(u16::try_from(self.extensions.len()).unwrap_or(u16::MAX).to_be_bytes());
        out.extend(self.extensions);
        out
    }
}

/// A list with lengths of two bytes.
fn timestamps(list: &[u8]) -> Option<Vec<Timestamp<'_>>> {
    fn take<'a>(from: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = from.split_at_checked(length)?;
        *from = rest;
        Some(taken)
    }
    fn counted<'a>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
        let length = u16::from_be_bytes(take(from, 2)?.try_into().ok()?);
        take(from, length.into())
    }
    let (mut list, mut out) = (list, Vec::new());
    let mut rest = counted(&mut list)?;
    while !rest.is_empty() {
        let mut one = counted(&mut rest)?;
        // Other versions are skipped.
        if take(&mut one, 1)? != [0] {
            continue;
        }
        let log = take(&mut one, 32)?.try_into().ok()?;
        let at = u64::from_be_bytes(take(&mut one, 8)?.try_into().ok()?);
        let extensions = counted(&mut one)?;
        // SHA-256, and an algorithm that the key knows.
        let hash = take(&mut one, 2)?;
        let signature = counted(&mut one)?;
        if hash.first() == Some(&4) {
            out.push(Timestamp { log, at, extensions, signature });
        }
    }
    Some(out)
}

fn identity(certificate: &x509_cert::Certificate) -> Result<Identity, String> {
    let mut identity =
        Identity { certificate_issuer: certificate.tbs_certificate.issuer.to_string(), ..Identity::default() };
    for extension in certificate.tbs_certificate.extensions.iter().flatten() {
        let (id, value) = (extension.extn_id.to_string(), extension.extn_value.as_bytes());
        if id == "2.5.29.17" {
            let names = SubjectAltName::from_der(value).map_err(|e| e.to_string())?;
            for name in names.0 {
                match name {
                    GeneralName::Rfc822Name(mail) => {
                        identity.emails.push(mail.to_string());
                        identity.subjects.push(mail.to_string());
                    }
                    GeneralName::UniformResourceIdentifier(uri) => identity.subjects.push(uri.to_string()),
                    GeneralName::OtherName(other) if other.type_id.to_string() == OTHER_NAME => {
                        let name = other.value.decode_as::<Utf8StringRef<'_>>().map_err(|e| e.to_string())?;
                        identity.subjects.push(name.to_string());
                    }
                    _ => {}
                }
            }
            continue;
        }
        let Some(number) = id.strip_prefix(FULCIO).and_then(|number| number.parse::<u32>().ok()) else { continue };
        match number {
            // The older form has no encoding.
            1 if identity.issuer.is_empty() => identity.issuer = String::from_utf8_lossy(value).into_owned(),
            8 => identity.issuer = text(value)?,
            _ => {
                if let Some((_, name)) = FIELDS.iter().find(|(known, _)| *known == number) {
                    identity.fields.push((name, text(value)?));
                }
            }
        }
    }
    Ok(identity)
}

fn text(der: &[u8]) -> Result<String, String> {
    Ok(Utf8StringRef::from_der(der).map_err(|e| e.to_string())?.as_str().to_owned())
}

/// Certificates in PEM, as they stand.
pub(super) fn in_pem(text: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    use rustls_pki_types::pem::PemObject as _;
    CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<_, _>>().map_err(|e| e.to_string())
}
