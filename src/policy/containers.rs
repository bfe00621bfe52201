//! Which images may be pulled, in the words of `containers-policy.json(5)` (SPEC D3.26, D3.36): the file that podman, buildah and skopeo
//! read. Keys and certificates of Fulcio verify; keyrings of GPG do not, so that requirements with them are refused when the file is read.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;

use crate::attest::signature::{PublicKey, Signatures, Verified};
use crate::attest::sigstore::Trust;
use crate::oci::Reference;

/// Requirements by where an image comes from.
#[derive(Debug, Clone)]
pub struct SignaturePolicy {
    /// How it is called in messages.
    name: String,
    /// Where nothing else is said.
    default: Vec<Requirement>,
    /// Of images in registries, by scope; the empty one is all of them.
    docker: BTreeMap<String, Vec<Requirement>>,
}

/// What an image needs.
#[derive(Debug, Clone)]
enum Requirement {
    Anything,
    Reject,
    Signed { by: By, identity: Identity },
}

/// Whose signatures count.
#[derive(Debug, Clone)]
enum By {
    /// Of these keys, whose DER is behind them; with a log only what it has taken in.
    Keys { keys: Vec<(PublicKey, Vec<u8>)>, log: Option<Trust> },
    /// Of whom a certificate of these authorities names.
    Certificates { trust: Trust, issuer: String, email: String },
}

impl By {
    fn verified<'s>(&self, signatures: &'s Signatures) -> (Vec<Verified<'s>>, Vec<String>) {
        match self {
            Self::Keys { keys, log: None } => {
                (keys.iter().flat_map(|(key, _)| signatures.by(key)).collect(), Vec::new())
            }
            Self::Keys { keys, log: Some(log) } => {
                let (mut verified, mut refused) = (Vec::new(), Vec::new());
                for (key, der) in keys {
                    let (more, why) = signatures.by_logged(key, der, log);
                    verified.extend(more);
                    refused.extend(why);
                }
                (verified, refused)
            }
            Self::Certificates { trust, issuer, email } => {
                let (found, mut refused) = signatures.by_certificates(trust);
                let mut verified = Vec::new();
                for (signature, signer) in found {
                    if signer.identity.issuer == *issuer && signer.identity.emails.contains(email) {
                        verified.push(signature);
                    } else {
                        let found = signer.identity.shown();
                        refused.push(format!("it is signed by {found}, expected \"{email}\" (issuer \"{issuer}\")"));
                    }
                }
                (verified, refused)
            }
        }
    }
}

/// Which name has to be signed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
enum Identity {
    MatchExact,
    #[default]
    MatchRepoDigestOrExact,
    MatchRepository,
    ExactReference {
        docker_reference: String,
    },
    ExactRepository {
        docker_repository: String,
    },
    #[serde(rename = "remapIdentity")]
    Remapped {
        prefix: String,
        signed_prefix: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    default: Vec<Asked>,
    #[serde(default)]
    transports: BTreeMap<String, BTreeMap<String, Vec<Asked>>>,
}

/// A requirement as it is written.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Asked {
    #[serde(rename = "type")]
    kind: String,
    key_path: Option<String>,
    #[serde(default)]
    key_paths: Vec<String>,
    key_data: Option<String>,
    #[serde(default)]
    key_datas: Vec<String>,
    fulcio: Option<Fulcio>,
    rekor_public_key_path: Option<String>,
    #[serde(default)]
    rekor_public_key_paths: Vec<String>,
    rekor_public_key_data: Option<String>,
    #[serde(default)]
    rekor_public_key_datas: Vec<String>,
    #[serde(default)]
    signed_identity: Identity,
    #[serde(flatten)]
    others: BTreeMap<String, serde::de::IgnoredAny>,
}

/// Whose certificates count, and whom they have to name.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Fulcio {
    ca_path: Option<String>,
    ca_data: Option<String>,
    oidc_issuer: String,
    subject_email: String,
}

impl SignaturePolicy {
    /// Reads a policy; `read` gives the text of a key file.
    ///
    /// # Errors
    /// When it is no such policy, asks for what cannot be verified here, or names a key that cannot be read.
    pub fn parse(name: &str, text: &[u8], read: &dyn Fn(&str) -> Result<String, String>) -> Result<Self, String> {
        let document: Document = serde_json::from_slice(text).map_err(|e| e.to_string())?;
        let requirements = |scope: &str, asked: Vec<Asked>| match asked.is_empty() {
            true => Err(format!("{scope}: there are no requirements")),
            false => asked.into_iter().map(|asked| asked.requirement(scope, read)).collect::<Result<Vec<_>, _>>(),
        };
        let default = requirements("default", document.default)?;
        let mut docker = BTreeMap::new();
        for (transport, scopes) in document.transports {
            for (scope, asked) in scopes {
                let found = requirements(&format!("{transport} \"{scope}\""), asked)?;
                // The others are of images that come from no registry, whose signatures nobody keeps.
                if transport == "docker" {
                    docker.insert(scope, found);
                }
            }
        }
        Ok(Self { name: name.to_owned(), default, docker })
    }

    /// How it is called.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Whether an image's signatures have to be known.
    pub(super) fn verifies(&self, image: &Reference) -> bool {
        self.requirements(image).1.iter().any(|requirement| matches!(requirement, Requirement::Signed { .. }))
    }

    /// Holds an image to its requirements, all of them.
    ///
    /// # Errors
    /// Says which one it does not meet.
    pub(super) fn check(&self, image: &Reference, signatures: &Signatures) -> Result<(), String> {
        let (scope, requirements) = self.requirements(image);
        for requirement in requirements {
            match requirement {
                Requirement::Anything => {}
                Requirement::Reject => return Err(format!("{scope} rejects it")),
                Requirement::Signed { by, identity } => {
                    let (verified, refused) = by.verified(signatures);
                    let mut names = verified.iter().filter_map(|signature| signature.reference());
                    if !names.clone().any(|signed| identity.accepts(image, signed)) {
                        return Err(match names.next() {
                            Some(signed) => format!("it is signed as \"{signed}\", which {scope} does not accept"),
                            None if !refused.is_empty() => {
                                format!("it has no signature that {scope} accepts: {}", refused.join("; "))
                            }
                            None if matches!(by, By::Certificates { .. }) => {
                                format!("it has no signature by a certificate, which {scope} wants")
                            }
                            None => format!("it has no signature by the keys of {scope}"),
                        });
                    }
                }
            }
        }
        Ok(())
    }

    /// The requirements of the most specific scope, and what they are called.
    fn requirements(&self, image: &Reference) -> (String, &[Requirement]) {
        let found = scopes(image).find_map(|scope| Some((format!("\"{scope}\""), self.docker.get(&scope)?)));
        let all = || self.docker.get("").map(|all| ("docker".to_owned(), all));
        let (scope, found) = found.or_else(all).unwrap_or_else(|| ("default".to_owned(), &self.default));
        (scope, found)
    }
}

/// What an image can be called in a policy, from the most specific on.
fn scopes(image: &Reference) -> impl Iterator<Item = String> {
    let mut all = Vec::new();
    let mut text = image.repository();
    all.extend(image.tag.iter().map(|tag| format!("{text}:{tag}")));
    all.extend(image.digest.iter().map(|digest| format!("{text}@{digest}")));
    loop {
        all.push(text.clone());
        match text.rfind('/') {
            Some(at) => text.truncate(at),
            None => break,
        }
    }
    let mut host = text.as_str();
    while let Some((_, parent)) = host.split_once('.') {
        all.push(format!("*.{parent}"));
        host = parent;
    }
    all.into_iter()
}

impl Asked {
    fn requirement(self, scope: &str, read: &dyn Fn(&str) -> Result<String, String>) -> Result<Requirement, String> {
        let fail = |why: String| format!("{scope}: {why}");
        match self.kind.as_str() {
            "insecureAcceptAnything" => return Ok(Requirement::Anything),
            "reject" => return Ok(Requirement::Reject),
            "sigstoreSigned" => {}
            other => {
                return Err(fail(format!("it asks for {other}, which is not verified here; sigstoreSigned is")));
            }
        }
        if let Some(key) = self.others.keys().next() {
            return Err(fail(format!(
                "sigstoreSigned with {key} is not verified here: keys are (keyPath, keyData), and fulcio"
            )));
        }
        // Each with what it is called in messages.
        let texts = |field: &str, paths: &[&String], data: &[&String]| {
            let mut out = Vec::new();
            for path in paths {
                out.push((path.to_string(), read(path).map_err(|e| fail(format!("{path}: {e}")))?));
            }
            for data in data {
                let bytes = BASE64.decode(data).map_err(|e| fail(format!("{field}: {e}")))?;
                out.push((field.to_owned(), String::from_utf8_lossy(&bytes).into_owned()));
            }
            Ok::<_, String>(out)
        };
        let both = |one: &Option<String>, more: &[String]| one.iter().chain(more).cloned().collect::<Vec<_>>();
        let (paths, data) = (both(&self.key_path, &self.key_paths), both(&self.key_data, &self.key_datas));
        let keys = texts("keyData", &paths.iter().collect::<Vec<_>>(), &data.iter().collect::<Vec<_>>())?;
        let keys =
            keys.iter().map(|(name, text)| PublicKey::parse_with_der(text).map_err(|e| fail(format!("{name}: {e}"))));
        let keys = keys.collect::<Result<Vec<_>, _>>()?;
        let paths = both(&self.rekor_public_key_path, &self.rekor_public_key_paths);
        let data = both(&self.rekor_public_key_data, &self.rekor_public_key_datas);
        let logs = texts("rekorPublicKeyData", &paths.iter().collect::<Vec<_>>(), &data.iter().collect::<Vec<_>>())?;
        let log_fault = |e: String| fail(format!("the key of the log (rekorPublicKey…): {e}"));
        let logs: Vec<String> = logs.into_iter().map(|(_, text)| text).collect();
        let by = match (self.fulcio, keys.is_empty()) {
            (Some(_), false) => return Err(fail("sigstoreSigned with keys and with fulcio: one of them".into())),
            (Some(_), true) if logs.is_empty() => {
                return Err(fail(
                    "sigstoreSigned with fulcio needs the key of a log: name it with rekorPublicKeyPath".into(),
                ));
            }
            (Some(fulcio), true) => {
                let (paths, data): (Vec<_>, Vec<_>) =
                    (fulcio.ca_path.iter().collect(), fulcio.ca_data.iter().collect());
                let authorities = texts("caData", &paths, &data)?;
                let [(name, authorities)] = authorities.as_slice() else {
                    return Err(fail("fulcio needs caPath or caData, one of them".into()));
                };
                Trust::of_logs(&logs).map_err(log_fault)?;
                let trust = Trust::of(authorities, &logs).map_err(|e| fail(format!("{name}: {e}")))?;
                By::Certificates { trust, issuer: fulcio.oidc_issuer, email: fulcio.subject_email }
            }
            (None, true) => {
                return Err(fail("sigstoreSigned without a key: name one with keyPath or keyData, or fulcio".into()));
            }
            (None, false) => {
                let log = if logs.is_empty() { None } else { Some(Trust::of_logs(&logs).map_err(log_fault)?) };
                By::Keys { keys, log }
            }
        };
        Ok(Requirement::Signed { by, identity: self.signed_identity })
    }
}

impl Identity {
    /// Whether an image may be used that was signed under this name.
    fn accepts(&self, image: &Reference, signed: &str) -> bool {
        let Ok(signed) = Reference::parse_raw(signed) else { return false };
        match self {
            Self::MatchExact => is_exact(image, &signed),
            Self::MatchRepoDigestOrExact => is_exact_or_by_digest(image, &signed),
            Self::MatchRepository => image.repository() == signed.repository(),
            Self::ExactReference { docker_reference } => {
                Reference::parse_raw(docker_reference).is_ok_and(|wanted| wanted == signed)
            }
            Self::ExactRepository { docker_repository } => {
                Reference::parse_raw(docker_repository).is_ok_and(|wanted| wanted.repository() == signed.repository())
            }
            Self::Remapped { prefix, signed_prefix } => {
                let name = image.repository();
                let rest = name.strip_prefix(prefix).filter(|rest| rest.is_empty() || rest.starts_with('/'));
                let renamed = rest.map(|rest| Reference::parse_raw(&format!("{signed_prefix}{rest}")));
                match renamed {
                    None => is_exact_or_by_digest(image, &signed),
                    Some(Ok(name)) => {
                        let image = Reference { tag: image.tag.clone(), digest: image.digest.clone(), ..name };
                        is_exact_or_by_digest(&image, &signed)
                    }
                    Some(Err(_)) => false,
                }
            }
        }
    }
}

/// Names with a tag are told apart by it, with or without a digest behind it.
fn is_exact(image: &Reference, signed: &Reference) -> bool {
    image.tag.is_some() && image.repository() == signed.repository() && image.tag == signed.tag
}

fn is_exact_or_by_digest(image: &Reference, signed: &Reference) -> bool {
    match (&image.tag, &image.digest) {
        (None, Some(_)) => image.repository() == signed.repository(),
        _ => is_exact(image, signed),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

    use super::*;
    use crate::base::Digest;

    fn image(text: &str) -> Reference {
        Reference::parse_raw(text).unwrap()
    }

    fn parse(text: &str) -> Result<SignaturePolicy, String> {
        SignaturePolicy::parse("policy.json", text.as_bytes(), &|path| Err(format!("no {path}")))
    }

    // SPEC D3.26: the most specific scope counts, and no other.
    #[test]
    fn d3_26_the_most_specific_scope_decides() {
        let accept = r#"[{"type": "insecureAcceptAnything"}]"#;
        let reject = r#"[{"type": "reject"}]"#;
        let text = format!(
            r#"{{"default": {reject}, "transports": {{"docker": {{
                "r.example/a": {accept}, "r.example/a/b:1": {reject}, "*.other.example": {accept}, "docker.io": {accept},
                "docker.io/library/old": {reject}}}, "dir": {{"": {reject}}}}}}}"#
        );
        let policy = parse(&text).unwrap();
        for (name, why) in [
            ("r.example/a/b:2", None),
            ("r.example/a/b:1", Some("\"r.example/a/b:1\" rejects it")),
            ("r.example/ab", Some("default rejects it")),
            ("x.y.other.example/a", None),
            ("other.example/a", Some("default rejects it")),
            ("alpine", None),
            ("old:1", Some("\"docker.io/library/old\" rejects it")),
        ] {
            let checked = policy.check(&image(name), &Signatures::default());
            assert_eq!(checked.err().as_deref(), why, "{name}");
        }
        let all = parse(&format!(r#"{{"default": {reject}, "transports": {{"docker": {{"": {accept}}}}}}}"#)).unwrap();
        assert_eq!(all.check(&image("r.example/a"), &Signatures::default()), Ok(()));
    }

    // SPEC D3.26
    #[test]
    fn d3_26_names_that_may_be_signed() {
        let identity = |text: &str| serde_json::from_str::<Identity>(text).unwrap();
        let digest = format!("r.example/a@{}", Digest::sha256("x"));
        let tagged = format!("r.example/a:1@{}", Digest::sha256("x"));
        let exact = r#"{"type": "matchExact"}"#;
        let usual = r#"{"type": "matchRepoDigestOrExact"}"#;
        let repository = r#"{"type": "matchRepository"}"#;
        let remapped = r#"{"type": "remapIdentity", "prefix": "r.example", "signedPrefix": "vendor.example/x"}"#;
        for (rule, pulled, signed, accepted) in [
            (exact, "r.example/a:1", "r.example/a:1", true),
            (exact, "r.example/a:1", "r.example/a:2", false),
            (exact, "r.example/a:1", "r.example/a", false),
            (exact, &digest, "r.example/a:1", false),
            (exact, &tagged, "r.example/a:1", true),
            (usual, &digest, "r.example/a:1", true),
            (usual, &tagged, "r.example/a:2", false),
            (usual, "r.example/a:1", "r.example/a", false),
            (repository, "r.example/a:1", "r.example/a", true),
            (repository, "r.example/a:1", "r.example/b", false),
            (
                r#"{"type": "exactReference", "dockerReference": "v.example/a:1"}"#,
                "r.example/a:2",
                "v.example/a:1",
                true,
            ),
            (
                r#"{"type": "exactRepository", "dockerRepository": "v.example/a"}"#,
                "r.example/a:2",
                "v.example/a:9",
                true,
            ),
            (remapped, "r.example/a:1", "vendor.example/x/a:1", true),
            (remapped, "r.example/a:1", "r.example/a:1", false),
            (remapped, "r.example.org/a:1", "r.example.org/a:1", true),
            (repository, "r.example/a:1", "", false),
        ] {
            assert_eq!(identity(rule).accepts(&image(pulled), signed), accepted, "{rule} {pulled} {signed}");
        }
    }

    // SPEC D3.26: what cannot be held to is refused when the policy is read.
    #[test]
    fn d3_26_what_is_not_verified_is_refused() {
        for (requirement, why) in [
            (r#"{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "k"}"#, "docker \"r.io\": it asks for signedBy"),
            (r#"{"type": "sigstoreSigned", "fulcio": {}}"#, "missing field `oidcIssuer`"),
            (
                r#"{"type": "sigstoreSigned", "fulcio": {"caPath": "c", "oidcIssuer": "i", "subjectEmail": "e"}}"#,
                "with fulcio needs the key of a log",
            ),
            (r#"{"type": "sigstoreSigned", "pki": {}}"#, "sigstoreSigned with pki is not verified here"),
            (r#"{"type": "sigstoreSigned", "rekorPublicKeyPath": "r"}"#, "docker \"r.io\": r: no r"),
            (r#"{"type": "sigstoreSigned", "keyPath": "k"}"#, "docker \"r.io\": k: no k"),
            (r#"{"type": "sigstoreSigned", "keyData": "eA=="}"#, "keyData: it is not a public key"),
            (r#"{"type": "sigstoreSigned"}"#, "sigstoreSigned without a key"),
            (r#"{"type": "sigstoreSigned", "signedIdentity": {"type": "any"}}"#, "unknown variant `any`"),
        ] {
            let text = format!(
                r#"{{"default": [{{"type": "reject"}}], "transports": {{"docker": {{"r.io": [{requirement}]}}}}}}"#
            );
            let error = parse(&text).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        assert!(parse(r#"{"default": []}"#).unwrap_err().contains("default: there are no requirements"));
        assert!(parse(r#"{"default": [{"type": "reject"}], "others": 1}"#).unwrap_err().contains("unknown field"));
    }
}
