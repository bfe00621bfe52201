//! Timestamps of authorities (RFC 3161): that something was there at a moment.

use cms::content_info::ContentInfo;
use cms::signed_data::{SignedData, SignerIdentifier};
use rsa::sha2::{Digest as _, Sha256, Sha384, Sha512};
use x509_cert::der::asn1::{Any, ObjectIdentifier, OctetString};
use x509_cert::der::{Decode as _, Encode as _, Reader as _, SliceReader, Tag, Tagged as _};

use super::Time;
use super::certificate::{self, Certificate};
use super::trust::Authority;

const SIGNED_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.2");
/// What such an authority signs.
const TIME: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.16.1.4");
const CONTENT_TYPE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.3");
const MESSAGE_DIGEST: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.4");

/// When an authority saw a signature.
pub(super) fn time(authorities: &[Authority], answer: &[u8], signature: &[u8]) -> Result<Time, String> {
    let bad = |e: x509_cert::der::Error| format!("its timestamp cannot be read: {e}");
    let data = signed_data(answer).map_err(bad)?.ok_or("its timestamp is none: the authority refused")?;
    if data.encap_content_info.econtent_type != TIME {
        return Err("its timestamp is about something else than a time".into());
    }
    let content = data.encap_content_info.econtent.as_ref().ok_or("its timestamp is empty")?;
    let content = content.value();
    let stamp = Stamp::parse(content).map_err(bad)?;
    if stamp.digest != hash(&stamp.algorithm, signature)? {
        return Err("its timestamp is of another signature".into());
    }
    let [signer] = data.signer_infos.0.as_slice() else { return Err("its timestamp has not one signature".into()) };
    let attributes = signer.signed_attrs.as_ref().ok_or("its timestamp signs no digest")?;
    let attribute = |id: ObjectIdentifier| attributes.iter().find(|attribute| attribute.oid == id)?.values.get(0);
    let digest = attribute(MESSAGE_DIGEST).and_then(|value| value.decode_as::<OctetString>().ok());
    let kind = attribute(CONTENT_TYPE).and_then(|value| value.decode_as::<ObjectIdentifier>().ok());
    if kind != Some(TIME) || digest.map(OctetString::into_bytes) != Some(hash(&signer.digest_alg.oid, content)?) {
        return Err("its timestamp is not what the authority has signed".into());
    }
    let signed = attributes.to_der().map_err(bad)?;
    let digest = hash(&signer.digest_alg.oid, &signed)?;
    let mut why = "no authority for timestamps that is believed made its timestamp".to_owned();
    for authority in authorities.iter().filter(|authority| authority.valid.holds(stamp.at)) {
        let known = authority.intermediates.iter().chain(&authority.anchors).map(|der| der.to_vec());
        let given: Vec<Vec<u8>> = certificates(&data);
        for der in known.chain(given.iter().cloned()) {
            let Ok(certificate) = Certificate::parse(&der) else { continue };
            if !names(&signer.sid, &certificate) {
                continue;
            }
            if !certificate.key.verifies_digest(&digest, signer.signature.as_bytes()) {
                why = "its timestamp is not the authority's signature".into();
                continue;
            }
            match certificate.is_issued_by(authority, &given, stamp.at, certificate::TIME_STAMPING) {
                Ok(()) => return Ok(Time { log: false, uri: authority.uri.clone(), at: stamp.at }),
                Err(reason) => why = format!("the certificate of its timestamp does not hold: {reason}"),
            }
        }
    }
    Err(why)
}

/// What an authority answered; `None` if it refused.
fn signed_data(answer: &[u8]) -> Result<Option<SignedData>, x509_cert::der::Error> {
    let mut reader = SliceReader::new(answer)?;
    let token = reader.sequence(|reader| {
        let status: Any = reader.decode()?;
        let granted = SliceReader::new(status.value())?.decode::<u8>()?;
        if granted > 1 {
            reader.read_slice(reader.remaining_len())?;
            return Ok(None);
        }
        Ok(Some(ContentInfo::decode(reader)?))
    })?;
    match token {
        Some(token) if token.content_type == SIGNED_DATA => Ok(Some(token.content.decode_as()?)),
        _ => Ok(None),
    }
}

/// `TSTInfo`: what was seen, and when.
struct Stamp {
    algorithm: ObjectIdentifier,
    digest: Vec<u8>,
    at: i64,
}

impl Stamp {
    fn parse(der: &[u8]) -> Result<Self, x509_cert::der::Error> {
        let mut reader = SliceReader::new(der)?;
        reader.sequence(|reader| {
            let (_version, _policy): (Any, Any) = (reader.decode()?, reader.decode()?);
            let (algorithm, digest) = reader.sequence(|reader| {
                let algorithm: Any = reader.decode()?;
                let algorithm = SliceReader::new(algorithm.value())?.decode::<ObjectIdentifier>()?;
                Ok((algorithm, reader.decode::<OctetString>()?.into_bytes()))
            })?;
            let (_serial, time): (Any, Any) = (reader.decode()?, reader.decode()?);
            reader.read_slice(reader.remaining_len())?;
            // It may have fractions of seconds.
            let text = String::from_utf8_lossy(time.value()).into_owned();
            let seconds = text.split(['.', 'Z']).next().unwrap_or_default();
            let at = jiff::civil::DateTime::strptime("%Y%m%d%H%M%S", seconds);
            let at = at.and_then(|at| at.to_zoned(jiff::tz::TimeZone::UTC));
            match (time.tag(), at) {
                (Tag::GeneralizedTime, Ok(at)) => Ok(Self { algorithm, digest, at: at.timestamp().as_second() }),
                _ => Err(Tag::GeneralizedTime.value_error()),
            }
        })
    }
}

fn hash(algorithm: &ObjectIdentifier, bytes: &[u8]) -> Result<Vec<u8>, String> {
    match algorithm.to_string().as_str() {
        "2.16.840.1.101.3.4.2.1" => Ok(Sha256::digest(bytes).to_vec()),
        "2.16.840.1.101.3.4.2.2" => Ok(Sha384::digest(bytes).to_vec()),
        "2.16.840.1.101.3.4.2.3" => Ok(Sha512::digest(bytes).to_vec()),
        other => Err(format!("its timestamp uses the hash {other}, expected SHA-256, SHA-384 or SHA-512")),
    }
}

fn certificates(data: &SignedData) -> Vec<Vec<u8>> {
    let all = data.certificates.iter().flat_map(|set| set.0.iter());
    all.filter_map(|choice| match choice {
        cms::cert::CertificateChoices::Certificate(certificate) => certificate.to_der().ok(),
        cms::cert::CertificateChoices::Other(_) => None,
    })
    .collect()
}

/// Whether a signature names this certificate.
fn names(signer: &SignerIdentifier, certificate: &Certificate) -> bool {
    match signer {
        SignerIdentifier::IssuerAndSerialNumber(named) => certificate.is_called(&named.issuer, &named.serial_number),
        SignerIdentifier::SubjectKeyIdentifier(_) => true,
    }
}
