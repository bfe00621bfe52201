//! A Sigstore instance of the test's own: authorities, a log of signatures, a log of certificates, and those who sign with them.
#![allow(dead_code, reason = "not every test program makes everything")]
#![allow(missing_docs, unreachable_pub, reason = "a part of test programs")]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::str::FromStr as _;
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use cms::cert::IssuerAndSerialNumber;
use cms::content_info::{CmsVersion, ContentInfo};
use cms::signed_data::{EncapsulatedContentInfo, SignedData, SignerIdentifier, SignerInfo, SignerInfos};
use p256::ecdsa::signature::Signer as _;
use p256::ecdsa::{Signature, SigningKey};
use p256::pkcs8::{EncodePublicKey as _, LineEnding};
use rsa::sha2::{Digest as _, Sha256};
use serde_json::{Value, json};
use x509_cert::attr::{Attribute, Attributes};
use x509_cert::certificate::{TbsCertificate, Version};
use x509_cert::der::asn1::{Any, BitString, GeneralizedTime, Ia5String, ObjectIdentifier, OctetString, Utf8StringRef};
use x509_cert::der::{Decode as _, Encode as _};
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{BasicConstraints, ExtendedKeyUsage, SubjectAltName};
use x509_cert::name::Name;
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};
use x509_cert::time::{Time, Validity};

/// When everything is signed unless a test says otherwise, in seconds since 1970.
pub const NOW: i64 = 1_700_000_000;
pub const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
const IN_TOTO: &str = "application/vnd.in-toto+json";
const FULCIO: &str = "1.3.6.1.4.1.57264.1.";

/// Whom a certificate is for.
#[derive(Clone)]
pub struct Who {
    pub issuer: String,
    pub subject: String,
    /// By the last number of their extension.
    pub fields: Vec<(u32, String)>,
    pub not_before: i64,
    pub not_after: i64,
    /// Whether the log of certificates has it.
    pub logged: bool,
}

impl Who {
    pub fn new(subject: &str, issuer: &str) -> Self {
        let (subject, issuer) = (subject.to_owned(), issuer.to_owned());
        Self { issuer, subject, fields: Vec::new(), not_before: NOW - 60, not_after: NOW + 540, logged: true }
    }

    /// A workflow of GitHub's.
    pub fn workflow(builder: &str, repository: &str, reference: &str) -> Self {
        let builder = format!("https://github.com/{builder}@refs/heads/main");
        let mut who = Self::new(&builder, "https://token.actions.githubusercontent.com");
        let repository = format!("https://github.com/{repository}");
        let fields = [(9, builder), (11, "github-hosted".into()), (12, repository), (14, reference.into())];
        who.fields = fields.into();
        who
    }
}

/// Somebody with a certificate.
pub struct Person {
    key: SigningKey,
    pub certificate: Vec<u8>,
}

/// What a signature is stored as.
pub struct Made {
    /// cosign's annotations, or none.
    pub annotations: Value,
    /// The layer's content.
    pub bytes: Vec<u8>,
}

pub struct Instance {
    pub root: SigningKey,
    pub root_certificate: Vec<u8>,
    pub intermediate: SigningKey,
    pub intermediate_certificate: Vec<u8>,
    pub log: SigningKey,
    pub certificate_log: SigningKey,
    pub clock: SigningKey,
    pub clock_certificate: Vec<u8>,
    /// When the log takes something in.
    pub integrated: i64,
    /// When the authority for timestamps sees something.
    pub stamped: i64,
}

fn key(seed: &str) -> SigningKey {
    SigningKey::from_slice(&Sha256::digest(seed)).unwrap()
}

fn spki(key: &SigningKey) -> Vec<u8> {
    key.verifying_key().to_public_key_der().unwrap().into_vec()
}

pub fn public_pem(key: &SigningKey) -> String {
    key.verifying_key().to_public_key_pem(LineEnding::LF).unwrap()
}

fn sign(key: &SigningKey, message: &[u8]) -> Vec<u8> {
    let signature: Signature = key.sign(message);
    signature.to_der().as_bytes().to_vec()
}

pub fn pem(der: &[u8]) -> String {
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", BASE64.encode(der))
}

fn extension(id: &str, critical: bool, value: Vec<u8>) -> Extension {
    Extension { extn_id: ObjectIdentifier::new(id).unwrap(), critical, extn_value: OctetString::new(value).unwrap() }
}

fn time(at: i64) -> Time {
    let at = UNIX_EPOCH + Duration::from_secs(u64::try_from(at).unwrap());
    Time::GeneralTime(GeneralizedTime::from_system_time(at).unwrap())
}

fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = match u8::try_from(content.len()) {
        Ok(length) if length < 128 => vec![length],
        Ok(length) => vec![0x81, length],
        Err(_) => [&[0x82][..], &u16::try_from(content.len()).unwrap().to_be_bytes()].concat(),
    };
    [&[tag][..], &length, content].concat()
}

fn sequence(parts: &[Vec<u8>]) -> Vec<u8> {
    tlv(0x30, &parts.concat())
}

fn octets(bytes: &[u8]) -> Vec<u8> {
    tlv(4, bytes)
}

/// A certificate before it is signed.
fn tbs(issuer: &str, subject: &str, of: &SigningKey, times: (i64, i64), extensions: Vec<Extension>) -> TbsCertificate {
    TbsCertificate {
        version: Version::V3,
        serial_number: SerialNumber::new(&[7]).unwrap(),
        signature: AlgorithmIdentifierOwned {
            oid: ObjectIdentifier::new("1.2.840.10045.4.3.2").unwrap(),
            parameters: None,
        },
        issuer: Name::from_str(issuer).unwrap(),
        validity: Validity { not_before: time(times.0), not_after: time(times.1) },
        subject: if subject.is_empty() { Name::default() } else { Name::from_str(subject).unwrap() },
        subject_public_key_info: SubjectPublicKeyInfoOwned::from_der(&spki(of)).unwrap(),
        issuer_unique_id: None,
        subject_unique_id: None,
        extensions: Some(extensions),
    }
}

fn issued(tbs: TbsCertificate, by: &SigningKey) -> Vec<u8> {
    let signature = BitString::from_bytes(&sign(by, &tbs.to_der().unwrap())).unwrap();
    let signature_algorithm = tbs.signature.clone();
    x509_cert::Certificate { tbs_certificate: tbs, signature_algorithm, signature }.to_der().unwrap()
}

impl Instance {
    /// Everything in it follows from the seed.
    pub fn new(seed: &str) -> Self {
        let [root, intermediate, log, certificate_log] =
            ["root", "intermediate", "log", "certificates"].map(|part| key(&format!("{seed} {part}")));
        let always = (NOW - 1_000_000, NOW + 100_000_000);
        let authority = |path| {
            let constraints = BasicConstraints { ca: true, path_len_constraint: Some(path) };
            vec![extension("2.5.29.19", true, constraints.to_der().unwrap())]
        };
        let (named, below) = ("CN=sigstore,O=sigstore.dev", "CN=sigstore-intermediate,O=sigstore.dev");
        let root_certificate = issued(tbs(named, named, &root, always, authority(1)), &root);
        let intermediate_certificate = issued(tbs(named, below, &intermediate, always, authority(0)), &root);
        let clock = key(&format!("{seed} clock"));
        let stamping = ExtendedKeyUsage(vec![ObjectIdentifier::new("1.3.6.1.5.5.7.3.8").unwrap()]);
        let stamping = vec![extension("2.5.29.37", true, stamping.to_der().unwrap())];
        let clock_certificate = issued(tbs(named, "CN=clock,O=sigstore.dev", &clock, always, stamping), &root);
        Self {
            root,
            root_certificate,
            intermediate,
            intermediate_certificate,
            log,
            certificate_log,
            clock,
            clock_certificate,
            integrated: NOW,
            stamped: NOW,
        }
    }

    /// `trusted_root.json`
    pub fn trusted_root(&self) -> String {
        let raw = |der: &[u8]| json!({ "rawBytes": BASE64.encode(der) });
        let always = json!({ "start": "2020-01-01T00:00:00Z" });
        let log = |key: &SigningKey, url: &str| {
            json!({
                "baseUrl": url, "hashAlgorithm": "SHA2_256", "logId": { "keyId": BASE64.encode(Sha256::digest(spki(key))) },
                "publicKey": { "rawBytes": BASE64.encode(spki(key)), "keyDetails": "PKIX_ECDSA_P256_SHA_256", "validFor": always },
            })
        };
        json!({
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": [log(&self.log, "https://log.example")], "ctlogs": [log(&self.certificate_log, "https://ct.example")],
            "certificateAuthorities": [{ "uri": "https://ca.example", "validFor": always, "certChain": {
                "certificates": [raw(&self.intermediate_certificate), raw(&self.root_certificate)] } }],
            "timestampAuthorities": [{ "uri": "https://clock.example", "validFor": always, "certChain": {
                "certificates": [raw(&self.clock_certificate), raw(&self.root_certificate)] } }],
        })
        .to_string()
    }

    /// The root alone.
    pub fn root_pem(&self) -> String {
        pem(&self.root_certificate)
    }

    /// Issues a certificate.
    pub fn person(&self, who: &Who) -> Person {
        let of = key(&who.subject);
        let text = |number: u32, value: &str| {
            let value = Utf8StringRef::new(value).unwrap().to_der().unwrap();
            extension(&format!("{FULCIO}{number}"), false, value)
        };
        let subject = Ia5String::new(&who.subject).unwrap();
        let name = match who.subject.contains("://") {
            true => GeneralName::UniformResourceIdentifier(subject),
            false => GeneralName::Rfc822Name(subject),
        };
        let signing = ExtendedKeyUsage(vec![ObjectIdentifier::new("1.3.6.1.5.5.7.3.3").unwrap()]);
        let mut extensions = vec![
            extension("2.5.29.37", false, signing.to_der().unwrap()),
            extension("2.5.29.17", true, SubjectAltName(vec![name]).to_der().unwrap()),
            extension(&format!("{FULCIO}1"), false, who.issuer.clone().into_bytes()),
            text(8, &who.issuer),
        ];
        extensions.extend(who.fields.iter().map(|(number, value)| text(*number, value)));
        let issuer = "CN=sigstore-intermediate,O=sigstore.dev";
        let mut tbs = tbs(issuer, "", &of, (who.not_before, who.not_after), extensions);
        if who.logged {
            let said = self.timestamp(&tbs.to_der().unwrap());
            let said = OctetString::new(said).unwrap().to_der().unwrap();
            let said = extension("1.3.6.1.4.1.11129.2.4.2", false, said);
            tbs.extensions.as_mut().unwrap().push(said);
        }
        Person { key: of, certificate: issued(tbs, &self.intermediate) }
    }

    /// What the log of certificates says of one (RFC 6962).
    fn timestamp(&self, tbs: &[u8]) -> Vec<u8> {
        let at = u64::try_from(NOW * 1000).unwrap().to_be_bytes();
        let length = u32::try_from(tbs.len()).unwrap().to_be_bytes();
        let issuer = Sha256::digest(spki(&self.intermediate));
        let signed = [&[0, 0][..], &at, &[0, 1], &issuer, &length[1..], tbs, &[0, 0]].concat();
        let signature = sign(&self.certificate_log, &signed);
        let short = |length: usize| u16::try_from(length).unwrap().to_be_bytes();
        let id = Sha256::digest(spki(&self.certificate_log));
        let one = [&[0][..], &id, &at, &[0, 0, 4, 3], &short(signature.len()), &signature].concat();
        [&short(one.len() + 2)[..], &short(one.len()), &one].concat()
    }

    fn log_id(&self) -> Vec<u8> {
        Sha256::digest(spki(&self.log)).to_vec()
    }

    /// The log's signature of an entry.
    fn promise(&self, body: &[u8], index: i64) -> Vec<u8> {
        let id: String = self.log_id().iter().map(|byte| format!("{byte:02x}")).collect();
        let said = format!(
            r#"{{"body":"{}","integratedTime":{},"logID":"{id}","logIndex":{index}}}"#,
            BASE64.encode(body),
            self.integrated
        );
        sign(&self.log, said.as_bytes())
    }

    /// An entry of a bundle: the fourth of six in the tree.
    fn entry(&self, body: &[u8], kind: (&str, &str)) -> Value {
        let leaf = |body: &[u8]| Sha256::digest([&[0][..], body].concat()).to_vec();
        let node = |left: &[u8], right: &[u8]| Sha256::digest([&[1][..], left, right].concat()).to_vec();
        let [a, b, c, e, f] = ["a", "b", "c", "e", "f"].map(|other| leaf(other.as_bytes()));
        let left = node(&a, &b);
        let right = node(&e, &f);
        let root = node(&node(&left, &node(&c, &leaf(body))), &right);
        let text = format!("log.example - 1\n6\n{}\n", BASE64.encode(&root));
        let signature = [&self.log_id()[..4], &sign(&self.log, text.as_bytes())].concat();
        let hashes: Vec<String> = [c, left, right].iter().map(|hash| BASE64.encode(hash)).collect();
        json!({
            "logIndex": "1000003", "logId": { "keyId": BASE64.encode(self.log_id()) },
            "kindVersion": { "kind": kind.0, "version": kind.1 }, "integratedTime": self.integrated.to_string(),
            "inclusionPromise": { "signedEntryTimestamp": BASE64.encode(self.promise(body, 1_000_003)) },
            "inclusionProof": {
                "logIndex": "3", "treeSize": "6", "rootHash": BASE64.encode(&root), "hashes": hashes,
                "checkpoint": { "envelope": format!("{text}\n\u{2014} log.example {}\n", BASE64.encode(signature)) },
            },
            "canonicalizedBody": BASE64.encode(body),
        })
    }

    /// A bundle about an image, as cosign makes it since version 3.
    pub fn bundle(&self, by: &Person, image: &str, predicate_type: &str, predicate: &Value) -> Value {
        let statement = json!({
            "_type": "https://in-toto.io/Statement/v1", "predicateType": predicate_type, "predicate": predicate,
            "subject": [{ "digest": { "sha256": image.trim_start_matches("sha256:") } }],
        })
        .to_string();
        let message = format!("DSSEv1 {} {IN_TOTO} {} {statement}", IN_TOTO.len(), statement.len());
        let signature = BASE64.encode(sign(&by.key, message.as_bytes()));
        let hash = |bytes: &[u8]| {
            let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
            json!({ "algorithm": "sha256", "value": hex })
        };
        let body = json!({ "apiVersion": "0.0.1", "kind": "dsse", "spec": {
            "envelopeHash": hash(b"envelope"), "payloadHash": hash(statement.as_bytes()),
            "signatures": [{ "signature": signature, "verifier": BASE64.encode(pem(&by.certificate)) }],
        } })
        .to_string();
        json!({
            "mediaType": BUNDLE,
            "verificationMaterial": {
                "certificate": { "rawBytes": BASE64.encode(&by.certificate) },
                "tlogEntries": [self.entry(body.as_bytes(), ("dsse", "0.0.1"))], "timestampVerificationData": null,
            },
            "dsseEnvelope": { "payloadType": IN_TOTO, "payload": BASE64.encode(&statement), "signatures": [{ "sig": signature }] },
        })
    }

    /// What an authority answers about a signature (RFC 3161).
    pub fn stamp(&self, signature: &[u8]) -> Vec<u8> {
        let sha256 = || AlgorithmIdentifierOwned {
            oid: ObjectIdentifier::new("2.16.840.1.101.3.4.2.1").unwrap(),
            parameters: None,
        };
        let kind = ObjectIdentifier::new("1.2.840.113549.1.9.16.1.4").unwrap();
        let at = jiff::Timestamp::from_second(self.stamped).unwrap().strftime("%Y%m%d%H%M%S.5Z").to_string();
        let imprint = sequence(&[sha256().to_der().unwrap(), octets(&Sha256::digest(signature))]);
        let policy = ObjectIdentifier::new("1.2.3.4").unwrap().to_der().unwrap();
        let info = sequence(&[vec![2, 1, 1], policy, imprint, vec![2, 1, 9], tlv(0x18, at.as_bytes())]);
        let attribute = |id: &str, value: Vec<u8>| Attribute {
            oid: ObjectIdentifier::new(id).unwrap(),
            values: vec![Any::from_der(&value).unwrap()].try_into().unwrap(),
        };
        let attributes: Attributes = vec![
            attribute("1.2.840.113549.1.9.3", kind.to_der().unwrap()),
            attribute("1.2.840.113549.1.9.4", octets(&Sha256::digest(&info))),
        ]
        .try_into()
        .unwrap();
        let signed = sign(&self.clock, &attributes.to_der().unwrap());
        let certificate = x509_cert::Certificate::from_der(&self.clock_certificate).unwrap();
        let own = certificate.tbs_certificate;
        let signer = SignerInfo {
            version: CmsVersion::V1,
            sid: SignerIdentifier::IssuerAndSerialNumber(IssuerAndSerialNumber {
                issuer: own.issuer,
                serial_number: own.serial_number,
            }),
            digest_alg: sha256(),
            signed_attrs: Some(attributes),
            signature_algorithm: AlgorithmIdentifierOwned {
                oid: ObjectIdentifier::new("1.2.840.10045.4.3.2").unwrap(),
                parameters: None,
            },
            signature: OctetString::new(signed).unwrap(),
            unsigned_attrs: None,
        };
        let data = SignedData {
            version: CmsVersion::V3,
            digest_algorithms: vec![sha256()].try_into().unwrap(),
            encap_content_info: EncapsulatedContentInfo {
                econtent_type: kind,
                econtent: Some(Any::from_der(&octets(&info)).unwrap()),
            },
            certificates: None,
            crls: None,
            signer_infos: SignerInfos(vec![signer].try_into().unwrap()),
        };
        let token = ContentInfo {
            content_type: ObjectIdentifier::new("1.2.840.113549.1.7.2").unwrap(),
            content: Any::from_der(&data.to_der().unwrap()).unwrap(),
        };
        sequence(&[sequence(&[vec![2, 1, 0]]), token.to_der().unwrap()])
    }

    /// As [`Instance::signature`], of the second version of the log: an authority says when.
    pub fn stamped_signature(&self, by: &Person, image: &str) -> Value {
        let mut bundle = self.signature(by, image);
        let text = |value: &Value| BASE64.decode(value.as_str().unwrap()).unwrap();
        let payload = text(&bundle["dsseEnvelope"]["payload"]);
        let signature = text(&bundle["dsseEnvelope"]["signatures"][0]["sig"]);
        let body = json!({ "apiVersion": "0.0.2", "kind": "dsse", "spec": { "dsseV002": {
            "payloadHash": { "algorithm": "SHA2_256", "digest": BASE64.encode(Sha256::digest(&payload)) },
            "signatures": [{ "content": BASE64.encode(&signature), "verifier": {
                "keyDetails": "PKIX_ECDSA_P256_SHA_256", "x509Certificate": { "rawBytes": BASE64.encode(&by.certificate) } } }],
        } } })
        .to_string();
        let mut entry = self.entry(body.as_bytes(), ("dsse", "0.0.2"));
        entry["inclusionPromise"] = Value::Null;
        entry["integratedTime"] = "0".into();
        let material = &mut bundle["verificationMaterial"];
        material["tlogEntries"] = json!([entry]);
        material["timestampVerificationData"] =
            json!({ "rfc3161Timestamps": [{ "signedTimestamp": BASE64.encode(self.stamp(&signature)) }] });
        bundle
    }

    /// A bundle that says nothing but that the image is signed.
    pub fn signature(&self, by: &Person, image: &str) -> Value {
        self.bundle(by, image, "https://sigstore.dev/cosign/sign/v1", &json!({}))
    }

    /// A payload with annotations, as cosign makes it until version 2.
    pub fn annotated(&self, by: &Person, image: &str, name: &str) -> Made {
        let bytes = json!({ "critical": {
            "identity": { "docker-reference": name }, "image": { "docker-manifest-digest": image },
            "type": "cosign container image signature",
        }, "optional": null })
        .to_string()
        .into_bytes();
        let signature = sign(&by.key, &bytes);
        self.logged(&bytes, &signature, &pem(&by.certificate)).with(json!({
            "dev.sigstore.cosign/certificate": pem(&by.certificate),
            "dev.sigstore.cosign/chain": pem(&self.intermediate_certificate) + &pem(&self.root_certificate),
        }))
    }

    /// A payload that was signed by a key, whose PEM this is, or by a certificate's.
    pub fn logged(&self, bytes: &[u8], signature: &[u8], key: &str) -> Made {
        let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        let body = json!({ "apiVersion": "0.0.1", "kind": "hashedrekord", "spec": {
            "data": { "hash": { "algorithm": "sha256", "value": hex } },
            "signature": { "content": BASE64.encode(signature), "publicKey": { "content": BASE64.encode(key) } },
        } })
        .to_string();
        let id: String = self.log_id().iter().map(|byte| format!("{byte:02x}")).collect();
        let bundle = json!({
            "SignedEntryTimestamp": BASE64.encode(self.promise(body.as_bytes(), 5)),
            "Payload": { "body": BASE64.encode(&body), "integratedTime": self.integrated, "logIndex": 5, "logID": id },
        });
        let annotations = json!({
            "dev.cosignproject.cosign/signature": BASE64.encode(signature), "dev.sigstore.cosign/bundle": bundle.to_string(),
        });
        Made { annotations, bytes: bytes.to_vec() }
    }
}

impl Made {
    fn with(mut self, more: Value) -> Self {
        for (name, value) in more.as_object().unwrap() {
            self.annotations[name] = value.clone();
        }
        self
    }
}
