//! Objects as text. tests/git_signatures.rs has those that git, gpg and ssh-keygen made.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::{Signer as _, SigningKey};
use rsa::sha2::{Digest as _, Sha512};

use super::*;
use crate::ssh::wire::put_string;

const TREE: &str = "4b825dc642cb6eb9a060e54bf8d69288fbee4904";

fn string(parts: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    parts.iter().for_each(|part| put_string(&mut out, part));
    out
}

fn wire_key(key: &SigningKey) -> Vec<u8> {
    string(&[b"ssh-ed25519", key.verifying_key().as_bytes()])
}

/// What `ssh-keygen -Y sign` makes.
fn sign(key: &SigningKey, namespace: &str, message: &[u8]) -> String {
    let digest = Sha512::digest(message);
    let signed = [b"SSHSIG".to_vec(), string(&[namespace.as_bytes(), b"", b"sha512", &digest])].concat();
    let signature = string(&[b"ssh-ed25519", &key.sign(&signed).to_bytes()]);
    let rest = string(&[&wire_key(key), namespace.as_bytes(), b"", b"sha512", &signature]);
    let armored = BASE64.encode([b"SSHSIG\0\0\0\x01".to_vec(), rest].concat());
    format!("-----BEGIN SSH SIGNATURE-----\n{armored}\n-----END SSH SIGNATURE-----\n")
}

fn keys(key: &SigningKey) -> SourceKeys {
    SourceKeys::parse(&format!("ssh-ed25519 {} ann\n", BASE64.encode(wire_key(key)))).unwrap()
}

fn header(name: &str, armored: &str) -> String {
    format!("{name} {}\n", armored.trim_end().replace('\n', "\n "))
}

// SPEC A7.07: what is signed of a commit is all but its signatures, and a merged tag stays a part of it.
#[test]
fn a7_07_what_is_signed_of_a_commit() {
    let key = SigningKey::from_bytes(&[7; 32]);
    let head = format!(
        "tree {TREE}\nparent {TREE}\nparent {TREE}\nauthor A <B> <a@h> 1700000000 -0130\ncommitter C <c@h> 1 +0000\n"
    );
    let merged = header("mergetag", &format!("object {TREE}\n\n-----BEGIN SSH SIGNATURE-----\nx"));
    let plain = format!("{head}{merged}encoding UTF-8\n\nthe message\n\nin parts\n");
    let (sha1, sha256) = (sign(&key, "git", plain.as_bytes()), sign(&key, "git", b"the other form"));
    for signatures in [header("gpgsig", &sha1), header("gpgsig-sha256", &sha256) + &header("gpgsig", &sha1)] {
        let raw = plain.replace("encoding", &format!("{signatures}encoding"));
        let object = Object::parse(raw.as_bytes()).unwrap();
        assert_eq!(String::from_utf8_lossy(object.signed()), plain);
        assert_eq!((object.kind, object.message.as_str()), (Kind::Commit, "the message\n\nin parts\n"));
        assert_eq!(object.headers("parent").count(), 2);
        assert_eq!(keys(&key).verify_object(&object, false), Ok(()));
        let Some(Signature::Ssh { version: 1, key }) = object.signature() else { panic!("{:?}", object.signature()) };
        assert!(key.starts_with("SHA256:"));
        let author = Actor::from(object.header("author").unwrap());
        assert_eq!((author.name.as_str(), author.email.as_str()), ("A <B>", "a@h"));
        assert_eq!(author.when, Some((1_700_000_000, -5400)));
    }
    let unsigned = Object::parse(plain.as_bytes()).unwrap();
    assert_eq!((unsigned.signature(), unsigned.armored()), (None, None));
}

// SPEC A7.07: the last signature of a tag is the tag's; what looks like one above it belongs to the message.
#[test]
fn a7_07_what_is_signed_of_a_tag() {
    let (key, other) = (SigningKey::from_bytes(&[7; 32]), SigningKey::from_bytes(&[8; 32]));
    let quoted = sign(&other, "git", b"x");
    let plain = format!("object {TREE}\ntype commit\ntag v1\ntagger A <a@h> 1 +0000\n\nversion 1\n{quoted}");
    let raw = format!("{plain}{}", sign(&key, "git", plain.as_bytes()));
    let object = Object::parse(raw.as_bytes()).unwrap();
    assert_eq!(String::from_utf8_lossy(object.signed()), plain);
    assert_eq!(keys(&key).verify_object(&object, false), Ok(()));
    let error = keys(&other).verify_object(&object, false).unwrap_err().to_string();
    assert!(error.starts_with("the tag v1 is signed by SSH key SHA256:") && error.contains("expected SSH key SHA256:"));
}

// SPEC A7.07: a signature of a file is none of a commit.
#[test]
fn a7_07_signatures_for_something_else_do_not_count() {
    let key = SigningKey::from_bytes(&[7; 32]);
    let plain = format!("object {TREE}\ntype commit\ntag v1\n\nversion 1\n");
    for (signature, said) in [
        (sign(&key, "file", plain.as_bytes()), "it was made for \"file\", expected \"git\""),
        (sign(&key, "git", b"x"), "it is not a signature of this"),
        (
            sign(&key, "git", plain.as_bytes()).replace("U1NIU0lHAAAAAQ", "U1NIU0lHAAAAAg"),
            "it has version 2, expected 1",
        ),
        ("-----BEGIN SSH SIGNATURE-----\nU1NI\n-----END SSH SIGNATURE-----".into(), "it does not begin with SSHSIG"),
        ("-----BEGIN SSH SIGNATURE-----\nU1NI\n".into(), "it has no end"),
        ("-----BEGIN PGP SIGNATURE-----\n\nxx\n-----END PGP SIGNATURE-----\n".into(), "which does not count"),
    ] {
        let object = Object::parse(format!("{plain}{signature}").as_bytes()).unwrap();
        let error = keys(&key).verify_object(&object, false).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
    let x509 = "-----BEGIN SIGNED MESSAGE-----\nMIIE\n-----END SIGNED MESSAGE-----";
    let commit = format!("tree {TREE}\nauthor A\ncommitter A\n{}\nmessage\n", header("gpgsig", x509));
    let error = keys(&key).verify_object(&Object::parse(commit.as_bytes()).unwrap(), false).unwrap_err().to_string();
    assert!(error.contains("it is no armored PGP signature"), "{error}");
}

#[test]
fn a7_07_what_is_no_object_is_told() {
    for (raw, said) in [
        ("", "the commit has no tree"),
        ("tree x\nauthor A\n\nmessage", "the commit has no committer"),
        ("object x\n\n", "the tag has no type"),
        (" \n \n\n\n", "the commit has no tree"),
        ("gpgsig\ntree x", "the commit has no author"),
    ] {
        assert_eq!(Object::parse(raw.as_bytes()).unwrap_err(), Unsigned::Malformed(said.into()));
    }
}

#[test]
fn a7_07_keys_that_are_none_are_told() {
    for (text, said) in [
        ("", "it has no public key of PGP or SSH"),
        ("# nothing\n", "it has no public key of PGP or SSH"),
        ("namespaces=\"git\" ssh-ed25519 AAAA", "expected the type of an SSH key"),
        ("ssh-dss AAAA", "expected the type of an SSH key"),
        ("ssh-rsa AAAAC3NzaC1lZDI1NTE5", "the ssh-rsa key is one of another type"),
        ("-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nAAAA\n-----END PGP PUBLIC KEY BLOCK-----", "no readable PGP key"),
        ("-----BEGIN PGP PUBLIC KEY BLOCK-----\n", "it has no PGP public key"),
    ] {
        let error = SourceKeys::parse(text).unwrap_err();
        assert!(error.contains(said), "{text}: {error}");
    }
    let short = rsa::RsaPublicKey::new(rsa::BigUint::from_bytes_be(&[0xff; 128]), 65537u32.into()).unwrap();
    use rsa::traits::PublicKeyParts as _;
    let wire = string(&[b"ssh-rsa", &[1, 0, 1], &short.n().to_bytes_be()]);
    let error = SourceKeys::parse(&format!("ssh-rsa {}", BASE64.encode(wire))).unwrap_err();
    assert_eq!(error, "the ssh-rsa key: RSA key too short: 1024 bits, expected 2048");
}
