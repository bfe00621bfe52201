//! Entries of a log of transparency (Rekor): that the log has them, since when, and that they are about a signature.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rsa::sha2::{Digest as _, Sha256};
use serde_json::{Value, json};

use super::evidence::{Entry, Evidence, Proof, Signed};
use super::trust::{Log, Trust};
use super::{Time, hex, shown, timestamp};
use crate::attest::signature::PublicKey;

/// When logs say that they took in a signature by this certificate or key, whose DER this is. All entries have to hold.
pub(super) fn times(trust: &Trust, evidence: &Evidence, signed: &Signed<'_>, key: &[u8]) -> Result<Vec<Time>, String> {
    if evidence.entries.is_empty() {
        return Err("no log of transparency has it: there is no entry".into());
    }
    let mut times = Vec::new();
    for entry in &evidence.entries {
        times.extend(held(&trust.logs, entry, evidence.proven)?);
        is_about(&entry.body, signed, key)?;
    }
    let mut why = "no log has signed the time of an entry, and no authority one".to_owned();
    // One that does not hold says nothing; the certificate has to have been valid at each that does.
    for stamp in &evidence.stamps {
        match timestamp::time(&trust.clocks, stamp, signed.signature) {
            Ok(time) => times.push(time),
            Err(reason) => why = reason,
        }
    }
    if times.is_empty() {
        return Err(format!("nothing says when it was made: {why}"));
    }
    Ok(times)
}

/// Whether a log has an entry; the time that it has signed.
fn held(logs: &[Log], entry: &Entry, proven: bool) -> Result<Option<Time>, String> {
    let known = logs.iter().filter(|log| log.id.as_slice() == entry.log);
    let log = known.clone().next();
    let log = log.ok_or_else(|| format!("its entry is in the log {}, which is not believed", hex(&entry.log)))?;
    match &entry.proof {
        Some(proof) => is_included(proof, &entry.body, log)?,
        None if proven => return Err("its entry has no proof of inclusion, which bundles of this version have".into()),
        None if entry.promise.is_none() => {
            return Err("its entry has neither a proof of inclusion nor the log's promise".into());
        }
        None => {}
    }
    let Some(promise) = &entry.promise else { return Ok(None) };
    let said = json!({
        "body": BASE64.encode(&entry.body), "integratedTime": entry.integrated, "logID": hex(&entry.log),
        "logIndex": entry.index,
    });
    if !log.key.verifies(said.to_string().as_bytes(), promise) {
        return Err("the entry is not what the log has signed".into());
    }
    let at = entry.integrated;
    if !log.valid.holds(at) {
        return Err(format!("the key of the log is not believed at {}", shown(at)));
    }
    Ok(Some(Time { log: true, uri: log.uri.clone(), at }))
}

/// Whether a proof leads from an entry to a root that the log has signed (RFC 6962 section 2.1.1, C2SP's signed notes).
fn is_included(proof: &Proof, body: &[u8], log: &Log) -> Result<(), String> {
    let leaf: [u8; 32] = Sha256::new().chain_update([0]).chain_update(body).finalize().into();
    let root = root(leaf, proof).ok_or("its proof of inclusion does not fit the size of the log")?;
    if root.as_slice() != proof.root {
        return Err("its proof of inclusion leads to another root".into());
    }
    let note = proof.checkpoint.as_str();
    let bad = "the checkpoint of its proof cannot be read";
    let (text, signatures) = note.split_once("\n\n").ok_or(bad)?;
    let text = format!("{text}\n");
    let mut lines = text.lines().skip(1);
    let size: u64 = lines.next().and_then(|line| line.parse().ok()).ok_or(bad)?;
    let signed = lines.next().and_then(|line| BASE64.decode(line).ok()).ok_or(bad)?;
    if size != proof.size || signed != root {
        return Err("its proof of inclusion is not about the root that the log has signed".into());
    }
    let signatures = signatures.lines().filter_map(|line| line.strip_prefix("\u{2014} ")?.rsplit_once(' '));
    let signatures = signatures.filter_map(|(_, text)| BASE64.decode(text).ok());
    // In front of a signature stands which key made it; ours has to have made one.
    let ours = signatures
        .into_iter()
        .any(|signature| signature.get(4..).is_some_and(|signature| log.key.verifies(text.as_bytes(), signature)));
    if ours { Ok(()) } else { Err("the checkpoint of its proof is not signed by the log".into()) }
}

/// The root that hashes lead to from a leaf.
fn root(leaf: [u8; 32], proof: &Proof) -> Option<[u8; 32]> {
    if proof.index >= proof.size {
        return None;
    }
    let node = |left: &[u8], right: &[u8]| -> [u8; 32] {
        Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
    };
    let (mut at, mut last, mut hash) = (proof.index, proof.size - 1, leaf);
    for sibling in &proof.hashes {
        if sibling.len() != 32 || last == 0 {
            return None;
        }
        if at & 1 == 1 || at == last {
            hash = node(sibling, &hash);
            while at & 1 == 0 && at != 0 {
                at >>= 1;
                last >>= 1;
            }
        } else {
            hash = node(&hash, sibling);
        }
        at >>= 1;
        last >>= 1;
    }
    (last == 0).then_some(hash)
}

/// Signatures, each with the DER of the certificate or key that made it.
type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// Whether an entry is about a signature, and about the certificate or key that made it.
fn is_about(body: &[u8], signed: &Signed<'_>, key: &[u8]) -> Result<(), String> {
    let entry: Value = serde_json::from_slice(body).map_err(|e| format!("its entry cannot be read: {e}"))?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (kind, version) = (text(&entry["kind"]), text(&entry["apiVersion"]));
    let spec = &entry["spec"];
    let plain = |value: &Value| BASE64.decode(value.as_str().unwrap_or_default()).unwrap_or_default();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let payload = signed.payload.unwrap_or_default();
    // What was hashed; what the entry says that the digest is; and its signatures, each with its certificate or key.
    let (hashed, digest, pairs): (&[u8], Option<String>, Pairs) = match (kind.as_str(), version.as_str()) {
        ("hashedrekord", "0.0.1") => {
            let signature = &spec["signature"];
            let pair = (plain(&signature["content"]), of_pem(&plain(&signature["publicKey"]["content"])));
            (signed.message, in_hex(&spec["data"]["hash"]), vec![pair])
        }
        ("hashedrekord", "0.0.2") => {
            let (data, signature) = (&spec["hashedRekordV002"]["data"], &spec["hashedRekordV002"]["signature"]);
            (signed.message, in_base64(data), vec![(plain(&signature["content"]), verifier(&signature["verifier"]))])
        }
        ("dsse", "0.0.1") => {
            let pairs = list(&spec["signatures"]);
            let pairs = pairs.iter().map(|one| (plain(&one["signature"]), of_pem(&plain(&one["verifier"]))));
            (payload, in_hex(&spec["payloadHash"]), pairs.collect())
        }
        ("dsse", "0.0.2") => {
            let pairs = list(&spec["dsseV002"]["signatures"]);
            let pairs = pairs.iter().map(|one| (plain(&one["content"]), verifier(&one["verifier"])));
            (payload, in_base64(&spec["dsseV002"]["payloadHash"]), pairs.collect())
        }
        ("intoto", "0.0.2") => {
            let pairs = list(&spec["content"]["envelope"]["signatures"]);
            // Encoded twice.
            let twice = |value: &Value| BASE64.decode(plain(value)).unwrap_or_default();
            let pairs = pairs.iter().map(|one| (twice(&one["sig"]), of_pem(&plain(&one["publicKey"]))));
            (payload, in_hex(&spec["content"]["payloadHash"]), pairs.collect())
        }
        _ => return Err(format!("entries of the kind \"{kind}\" {version} are not verified")),
    };
    let other = |what: &str| Err(format!("its entry is about another {what}"));
    if digest != Some(hex(&Sha256::digest(hashed))) {
        return other("content");
    }
    let keys: Vec<Vec<u8>> =
        pairs.into_iter().filter(|(signature, _)| signature == signed.signature).map(|(_, key)| key).collect();
    match keys.iter().any(|found| found == key) {
        true => Ok(()),
        false if keys.is_empty() => other("signature"),
        false => other("certificate or key"),
    }
}

/// `{"algorithm": "sha256", "value": "…"}`
fn in_hex(hash: &Value) -> Option<String> {
    let value = hash["value"].as_str().filter(|_| hash["algorithm"].as_str() == Some("sha256"));
    value.map(ToOwned::to_owned)
}

/// `{"algorithm": "SHA2_256", "digest": "…"}`
fn in_base64(hash: &Value) -> Option<String> {
    let digest = hash["digest"].as_str().filter(|_| hash["algorithm"].as_str() == Some("SHA2_256"))?;
    Some(hex(&BASE64.decode(digest).ok()?))
}

/// The DER of a certificate or a key in PEM.
fn of_pem(pem: &[u8]) -> Vec<u8> {
    let pem = String::from_utf8_lossy(pem);
    let certificates = super::certificate::in_pem(&pem).unwrap_or_default();
    let of_key = || PublicKey::parse_with_der(&pem).map(|(_, der)| der).unwrap_or_default();
    certificates.first().map_or_else(of_key, |der| der.to_vec())
}

/// The DER of a certificate or a key of Rekor 2.
fn verifier(verifier: &Value) -> Vec<u8> {
    let raw = ["x509Certificate", "publicKey"].iter().find_map(|kind| verifier[*kind]["rawBytes"].as_str());
    BASE64.decode(raw.unwrap_or_default()).unwrap_or_default()
}
