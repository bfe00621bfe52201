//! Signatures made here. tests/signatures.rs has those of openssl.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use p256::ecdsa::SigningKey;
use p256::ecdsa::signature::Signer as _;
use p256::pkcs8::EncodePublicKey as _;
use serde_json::json;

use super::*;

const DIGEST_OF: &str = "the image";

fn key(seed: u8) -> (SigningKey, PublicKey) {
    let private = SigningKey::from_slice(&[seed; 32]).unwrap();
    let pem = private.verifying_key().to_public_key_pem(p256::pkcs8::LineEnding::LF).unwrap();
    (private, PublicKey::parse(&pem).unwrap())
}

fn sign(private: &SigningKey, message: &[u8]) -> String {
    let signature: p256::ecdsa::Signature = private.sign(message);
    BASE64.encode(signature.to_der())
}

/// cosign's payload and its annotations.
fn payload(private: &SigningKey, image: &Digest) -> (BTreeMap<String, String>, Vec<u8>) {
    let payload = json!({ "critical": {
        "identity": { "docker-reference": "r.example/app" },
        "image": { "docker-manifest-digest": image },
        "type": "cosign container image signature",
    }, "optional": null });
    let payload = payload.to_string().into_bytes();
    ([(SIGNATURE_ANNOTATION.to_owned(), sign(private, &payload))].into(), payload)
}

fn envelope(private: &SigningKey, image: &Digest, predicate_type: &str) -> Value {
    let statement = json!({
        "_type": "https://in-toto.io/Statement/v0.1", "predicateType": predicate_type,
        "subject": [{ "name": "app", "digest": { "sha256": image.hex() } }], "predicate": { "said": true },
    });
    let statement = statement.to_string();
    let signed = format!("DSSEv1 28 application/vnd.in-toto+json {} {statement}", statement.len());
    json!({
        "payload": BASE64.encode(statement), "payloadType": "application/vnd.in-toto+json",
        "signatures": [{ "keyid": "", "sig": sign(private, signed.as_bytes()) }],
    })
}

fn found(image: &Digest, media_type: &str, annotations: &BTreeMap<String, String>, bytes: &[u8]) -> Signatures {
    let mut found = Signatures::of(vec![image.clone()]);
    found.add(media_type, annotations, bytes);
    found
}

// SPEC C8.16: the key that made a signature verifies it, of the image that it names, and nothing else does.
#[test]
fn c8_16_payloads_of_cosign_are_verified() {
    let ((private, public), (_, other)) = (key(7), key(8));
    let image = Digest::sha256(DIGEST_OF);
    let (annotations, bytes) = payload(&private, &image);
    let good = found(&image, SIMPLE_SIGNING, &annotations, &bytes);
    let verified = good.by(&public);
    assert_eq!(verified.len(), 1);
    assert_eq!((verified[0].form, verified[0].reference()), (Form::SimpleSigning, Some("r.example/app")));
    assert!(verified[0].statement().is_none());
    assert!(good.by(&other).is_empty());
    // The same payload beside another image is not about that one.
    let moved = found(&Digest::sha256("another"), SIMPLE_SIGNING, &annotations, &bytes);
    assert_eq!((moved.count(), moved.by(&public).len()), (1, 0));
    // Neither is a payload whose digest was changed afterwards.
    let text = String::from_utf8(bytes).unwrap();
    let forged = text.replace(image.hex(), Digest::sha256("another").hex());
    let forged = found(&Digest::sha256("another"), SIMPLE_SIGNING, &annotations, forged.as_bytes());
    assert_eq!((forged.count(), forged.by(&public).len()), (1, 0));
    // What is no payload of cosign, or has no signature, is none.
    let strange = text.replace("cosign container image signature", "atomic container signature");
    for (annotations, text) in [(&annotations, strange.as_str()), (&BTreeMap::new(), &text), (&annotations, "{}")] {
        let found = found(&image, SIMPLE_SIGNING, annotations, text.as_bytes());
        assert!(found.by(&public).is_empty(), "{text}");
    }
}

// SPEC C8.16, B8.09: envelopes alone and in bundles; one that signs is no attestation.
#[test]
fn c8_16_envelopes_are_verified() {
    let ((private, public), (_, other)) = (key(7), key(8));
    let image = Digest::sha256(DIGEST_OF);
    let none = BTreeMap::new();
    let said = envelope(&private, &image, "https://example.com/said");
    let bundle = json!({
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": { "publicKey": { "hint": "x" } },
        "dsseEnvelope": envelope(&private, &image, SIGNED),
    });
    let alone = found(&image, ENVELOPE, &none, said.to_string().as_bytes());
    let verified = alone.by(&public);
    assert_eq!(verified.len(), 1);
    assert_eq!((verified[0].form, verified[0].reference()), (Form::Envelope, None));
    assert_eq!(verified[0].statement().unwrap().predicate, json!({ "said": true }));
    assert!(alone.by(&other).is_empty());
    let signed = found(&image, "application/vnd.dev.sigstore.bundle.v0.3+json", &none, bundle.to_string().as_bytes());
    let verified = signed.by(&public);
    assert_eq!((verified[0].form, verified[0].reference()), (Form::Bundle, Some("")));
    assert!(verified[0].statement().is_none());
    // A changed statement, another type around the same bytes, and a statement about another image.
    let mut changed = said.clone();
    let text = String::from_utf8(BASE64.decode(said["payload"].as_str().unwrap()).unwrap()).unwrap();
    changed["payload"] = BASE64.encode(text.replace("true", "null")).into();
    let mut typed = said.clone();
    typed["payloadType"] = "application/json".into();
    let elsewhere = envelope(&private, &Digest::sha256("another"), "https://example.com/said");
    for envelope in [changed, typed, elsewhere] {
        let found = found(&image, ENVELOPE, &none, envelope.to_string().as_bytes());
        assert!(found.by(&public).is_empty(), "{envelope}");
    }
}

// SPEC B8.09: what is no key that can verify is told apart.
#[test]
fn b8_09_keys_that_verify_nothing_say_why() {
    let pem = |label: &str| format!("-----BEGIN {label}-----\nMFkw\n-----END {label}-----\n");
    for (text, error) in [
        (String::new(), KeyError::NotAKey),
        ("ssh-ed25519 AAAA".into(), KeyError::NotAKey),
        (pem("PUBLIC KEY"), KeyError::Unsupported),
        (pem("CERTIFICATE"), KeyError::Certificate),
        (pem("ENCRYPTED SIGSTORE PRIVATE KEY"), KeyError::Private),
    ] {
        assert_eq!(PublicKey::parse(&text).unwrap_err(), error, "{text}");
    }
}
