//! Signatures of a made instance. tests/signatures.rs has them in registries.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Trust, maker};
use crate::attest::signature::Signatures;
use crate::base::Digest;
use maker::{Instance, NOW, Who};

const ISSUER: &str = "https://accounts.example";
const SIMPLE_SIGNING: &str = "application/vnd.dev.cosign.simplesigning.v1+json";

fn ann() -> Who {
    Who::new("ann@h.example", ISSUER)
}

fn image() -> Digest {
    Digest::sha256("image")
}

/// Who signed the image by a bundle, or why nobody did.
fn by_bundle(trust: &Trust, bundle: &Value) -> Result<Vec<String>, String> {
    let mut found = Signatures::of(vec![image()]);
    found.add_bundle(bundle.to_string().as_bytes());
    told(&found, trust)
}

fn by_annotations(trust: &Trust, annotations: &Value, bytes: &[u8]) -> Result<Vec<String>, String> {
    let mut found = Signatures::of(vec![image()]);
    let annotations: BTreeMap<String, String> = serde_json::from_value(annotations.clone()).unwrap();
    found.add(SIMPLE_SIGNING, &annotations, bytes);
    told(&found, trust)
}

fn told(found: &Signatures, trust: &Trust) -> Result<Vec<String>, String> {
    let (verified, refused) = found.by_certificates(trust);
    match refused.is_empty() {
        true => Ok(verified.iter().map(|(_, signer)| signer.identity.shown()).collect()),
        false => Err(refused.join("; ")),
    }
}

#[test]
fn b8_09_the_public_instance_is_shipped() {
    let trust = Trust::public().unwrap();
    assert_eq!((trust.authorities.len(), trust.logs.len(), trust.certificate_logs.len()), (2, 2, 2));
    // The older log is called by the digest of its key.
    assert_eq!(super::hex(&trust.logs[0].id), "c0d23d6ad406973f9559f3ba2d1ca01f84147d8ffc5b8445c224f98b9591801d");
    let made = Instance::new("x");
    let bundle = made.signature(&made.person(&ann()), image().as_str());
    let error = by_bundle(&trust, &bundle).unwrap_err();
    assert!(error.starts_with("its entry is in the log ") && error.ends_with(", which is not believed"), "{error}");
}

// SPEC B8.09, C8.16: bundles and cosign's annotations; who signed is what the certificate says.
#[test]
fn c8_16_certificates_are_verified() {
    let made = Instance::new("x");
    let trust = Trust::parse(&made.trusted_root()).unwrap();
    let by = made.person(&ann());
    let who = "\"ann@h.example\" (issuer \"https://accounts.example\")".to_owned();
    assert_eq!(by_bundle(&trust, &made.signature(&by, image().as_str())), Ok(vec![who.clone()]));
    let annotated = made.annotated(&by, image().as_str(), "r.example/a");
    assert_eq!(by_annotations(&trust, &annotated.annotations, &annotated.bytes), Ok(vec![who]));
    let workflow = made.person(&Who::workflow("docker/x/.github/workflows/build.yml", "a/b", "refs/tags/v1"));
    let mut found = Signatures::of(vec![image()]);
    found.add_bundle(made.signature(&workflow, image().as_str()).to_string().as_bytes());
    let (verified, _) = found.by_certificates(&trust);
    let signer = &verified[0].1;
    assert_eq!(signer.identity.certificate_issuer, "CN=sigstore-intermediate,O=sigstore.dev");
    assert_eq!(signer.identity.subjects, ["https://github.com/docker/x/.github/workflows/build.yml@refs/heads/main"]);
    assert_eq!(signer.identity.field("sourceRepositoryURI"), "https://github.com/a/b");
    assert_eq!(signer.identity.field("sourceRepositoryRef"), "refs/tags/v1");
    assert_eq!((signer.times.len(), signer.times[0].at, signer.times[0].log), (1, NOW, true));
    assert_eq!(signer.times[0].uri, "https://log.example");
    // What is signed for another image is none of this one's.
    let other = made.signature(&by, Digest::sha256("other").as_str());
    assert_eq!(by_bundle(&trust, &other), Err("its signatures by certificates are about another image".into()));
}

// SPEC C8.16, D3.26: a certificate counts for what was signed while it was valid, by an authority and a log that are believed.
#[test]
fn c8_16_what_certificates_do_not_vouch_for() {
    let made = Instance::new("x");
    let trust = Trust::parse(&made.trusted_root()).unwrap();
    let says = |who: &Who, made: &Instance| {
        by_bundle(&trust, &made.signature(&made.person(who), image().as_str())).unwrap_err()
    };
    let expired = Who { not_before: NOW - 900, not_after: NOW - 300, ..ann() };
    let error = says(&expired, &made);
    assert!(error.contains("\"ann@h.example\"") && error.contains("does not hold at 2023-11-14T22:13:20Z"), "{error}");
    assert!(says(&Who { not_before: NOW + 60, ..ann() }, &made).contains("does not hold at 2023-11-14T22:13:20Z"));
    // The log took it in later than the certificate lived.
    let late = Instance { integrated: NOW + 3600, ..Instance::new("x") };
    assert!(says(&ann(), &late).contains("does not hold at 2023-11-14T23:13:20Z"));
    let error = says(&Who { logged: false, ..ann() }, &made);
    assert_eq!(error, "no log says that it has the certificate: it has no signed timestamp");
    // Another instance that writes to the same log.
    let foreign = Instance { log: Instance::new("x").log, ..Instance::new("y") };
    assert!(says(&ann(), &foreign).contains("does not hold at"));
    // podman's way: the root alone, and no log of certificates.
    let log = [maker::public_pem(&made.log)];
    let podman = Trust::of(&made.root_pem(), &log).unwrap();
    let person = made.person(&Who { logged: false, ..ann() });
    let annotated = made.annotated(&person, image().as_str(), "r.example/a");
    assert!(by_annotations(&podman, &annotated.annotations, &annotated.bytes).is_ok());
    let other = Trust::of(&Instance::new("y").root_pem(), &log).unwrap();
    let error = by_annotations(&other, &annotated.annotations, &annotated.bytes).unwrap_err();
    assert!(error.contains("does not hold at 2023-11-14T22:13:20Z: "), "{error}");
    let unknown = Trust::of(&made.root_pem(), &[maker::public_pem(&Instance::new("y").log)]).unwrap();
    assert!(
        by_annotations(&unknown, &annotated.annotations, &annotated.bytes)
            .unwrap_err()
            .contains("which is not believed")
    );
}

/// A change of a bundle.
type Change<'a> = &'a dyn Fn(&mut Value);

// SPEC C8.16: whatever is changed afterwards is told, and so is what is missing.
#[test]
fn c8_16_changed_entries_do_not_count() {
    let made = Instance::new("x");
    let trust = Trust::parse(&made.trusted_root()).unwrap();
    let (by, other) = (made.person(&ann()), made.person(&Who::new("eve@h.example", ISSUER)));
    let foreign = made.signature(&other, image().as_str());
    let entry = "/verificationMaterial/tlogEntries/0";
    let at = |path: &str| format!("{entry}/{path}");
    let cases: &[(Change<'_>, &str)] = &[
        (&|b| *b.pointer_mut(&at("integratedTime")).unwrap() = json!("1700000001"), "not what the log has signed"),
        (&|b| *b.pointer_mut(&at("logIndex")).unwrap() = json!("4"), "not what the log has signed"),
        (&|b| *b.pointer_mut(&at("canonicalizedBody")).unwrap() = json!("e30="), "leads to another root"),
        (&|b| *b.pointer_mut(&at("inclusionProof/logIndex")).unwrap() = json!("2"), "leads to another root"),
        (&|b| *b.pointer_mut(&at("inclusionProof/logIndex")).unwrap() = json!("6"), "does not fit the size"),
        (&|b| *b.pointer_mut(&at("inclusionProof/treeSize")).unwrap() = json!("7"), "proof of inclusion"),
        (&|b| *b.pointer_mut(&at("inclusionProof/hashes")).unwrap() = json!([]), "does not fit the size"),
        (&|b| *b.pointer_mut(&at("inclusionProof/checkpoint/envelope")).unwrap() = json!("x"), "cannot be read"),
        (
            &|b| {
                let envelope = b.pointer_mut(&at("inclusionProof/checkpoint/envelope")).unwrap();
                *envelope = envelope.as_str().unwrap().replace("log.example - 1", "log.example - 2").into();
            },
            "is not signed by the log",
        ),
        (&|b| *b.pointer_mut(&at("inclusionProof")).unwrap() = Value::Null, "has no proof of inclusion"),
        (
            &|b| {
                b["mediaType"] = "application/vnd.dev.sigstore.bundle+json;version=0.1".into();
                *b.pointer_mut(&at("inclusionProof")).unwrap() = Value::Null;
                *b.pointer_mut(&at("inclusionPromise")).unwrap() = Value::Null;
            },
            "neither a proof of inclusion nor the log's promise",
        ),
        (&|b| *b.pointer_mut(&at("inclusionPromise")).unwrap() = Value::Null, "nothing says when it was made"),
        (&|b| b["verificationMaterial"]["tlogEntries"] = json!([]), "there is no entry"),
        (
            &|b| *b.pointer_mut(entry).unwrap() = foreign.pointer(entry).unwrap().clone(),
            "its entry is about another signature",
        ),
        (
            &|b| b["verificationMaterial"]["certificate"] = foreign["verificationMaterial"]["certificate"].clone(),
            "not a signature by the certificate of \"eve@h.example\"",
        ),
        (
            &|b| b["dsseEnvelope"]["signatures"] = foreign["dsseEnvelope"]["signatures"].clone(),
            "not a signature by the certificate of \"ann@h.example\"",
        ),
        (&|b| b["verificationMaterial"]["certificate"]["rawBytes"] = "AAAA".into(), "its certificate cannot be read"),
    ];
    for (change, said) in cases {
        let mut bundle = made.signature(&by, image().as_str());
        change(&mut bundle);
        let error = by_bundle(&trust, &bundle).expect_err(said);
        assert!(error.contains(said), "{said}: {error}");
    }
    // The first version of bundles had the promise alone.
    let mut first = made.signature(&by, image().as_str());
    first["mediaType"] = "application/vnd.dev.sigstore.bundle+json;version=0.1".into();
    *first.pointer_mut(&at("inclusionProof")).unwrap() = Value::Null;
    assert!(by_bundle(&trust, &first).is_ok());
    let annotated = made.annotated(&by, image().as_str(), "r.example/a");
    for (name, said) in [("bundle", "there is no entry"), ("certificate", "")] {
        let mut annotations = annotated.annotations.clone();
        annotations.as_object_mut().unwrap().remove(&format!("dev.sigstore.cosign/{name}"));
        match by_annotations(&trust, &annotations, &annotated.bytes) {
            Ok(nobody) => assert!(nobody.is_empty() && said.is_empty()),
            Err(error) => assert!(error.contains(said), "{error}"),
        }
    }
}

// SPEC C8.16: where the log does not sign the time of an entry, an authority for timestamps says when.
#[test]
fn c8_16_authorities_for_timestamps_say_when() {
    let made = Instance::new("x");
    let trust = Trust::parse(&made.trusted_root()).unwrap();
    let by = made.person(&ann());
    let bundle = made.stamped_signature(&by, image().as_str());
    let mut found = Signatures::of(vec![image()]);
    found.add_bundle(bundle.to_string().as_bytes());
    let (verified, refused) = found.by_certificates(&trust);
    assert_eq!(refused, Vec::<String>::new());
    let time = &verified[0].1.times[0];
    assert_eq!((time.at, time.log, time.uri.as_str()), (NOW, false, "https://clock.example"));
    let late = Instance { stamped: NOW + 3600, ..Instance::new("x") };
    let error = by_bundle(&trust, &late.stamped_signature(&by, image().as_str())).unwrap_err();
    assert!(error.contains("does not hold at 2023-11-14T23:13:20Z"), "{error}");
    let stamps = "/verificationMaterial/timestampVerificationData/rfc3161Timestamps";
    let stamp = |answer: Vec<u8>| {
        use base64::Engine as _;
        let mut bundle = bundle.clone();
        let answer = base64::engine::general_purpose::STANDARD.encode(answer);
        *bundle.pointer_mut(stamps).unwrap() = json!([{ "signedTimestamp": answer }]);
        by_bundle(&trust, &bundle).unwrap_err()
    };
    assert!(
        stamp(made.stamp(b"another")).contains("nothing says when it was made: its timestamp is of another signature")
    );
    assert!(stamp(Vec::new()).contains("its timestamp cannot be read"));
    assert!(stamp(vec![0x30, 5, 0x30, 3, 2, 1, 2]).contains("the authority refused"));
    let signature = {
        use base64::Engine as _;
        let text = bundle["dsseEnvelope"]["signatures"][0]["sig"].as_str().unwrap();
        base64::engine::general_purpose::STANDARD.decode(text).unwrap()
    };
    let foreign = Instance::new("y").stamp(&signature);
    assert!(stamp(foreign).contains("its timestamp is not the authority's signature"));
    let good = made.stamp(&signature);
    for at in 0..good.len() {
        let mut changed = good.clone();
        changed[at] ^= 1;
        // Some bytes say nothing that is signed; none may move the time.
        let mut other = bundle.clone();
        use base64::Engine as _;
        let answer = base64::engine::general_purpose::STANDARD.encode(changed);
        *other.pointer_mut(stamps).unwrap() = json!([{ "signedTimestamp": answer }]);
        let mut found = Signatures::of(vec![image()]);
        found.add_bundle(other.to_string().as_bytes());
        assert!(found.by_certificates(&trust).0.iter().all(|(_, signer)| signer.times[0].at == NOW), "byte {at}");
    }
}

// Rubbish of every length is no evidence, and no reason to stop.
#[test]
fn c8_16_rubbish_is_no_signature() {
    let made = Instance::new("x");
    let trust = Trust::parse(&made.trusted_root()).unwrap();
    let by = made.person(&ann());
    let bundle = made.signature(&by, image().as_str()).to_string();
    for length in 0..bundle.len() {
        let mut found = Signatures::of(vec![image()]);
        found.add_bundle(&bundle.as_bytes()[..length]);
        assert!(found.by_certificates(&trust).0.is_empty());
    }
    for length in 0..by.certificate.len() {
        assert!(super::certificate::Certificate::parse(&by.certificate[..length]).is_err());
    }
    for (text, said) in [
        ("{}", "missing field"),
        ("{\"mediaType\": \"x\"}", "it is no trusted root"),
        ("{\"mediaType\": \"application/vnd.dev.sigstore.trustedroot+json;version=0.1\"}", "it needs an authority"),
    ] {
        assert!(Trust::parse(text).unwrap_err().contains(said));
    }
    assert!(Trust::of("nothing", &[]).unwrap_err().contains("no certificate"));
}
