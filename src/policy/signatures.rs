//! Functions of policies that verify signatures of images by keys and certificates (SPEC B8.09, C8.16). But for `artifact_attestation` they
//! are ours: buildx knows certificates of Sigstore's public instance only. What they verify was found beside the image by [`super::Facts`].

use std::path::PathBuf;
use std::sync::Arc;

use regorus::Value as Rego;
use serde_json::{Value, json};

use super::engine::read;
use super::sources::Left;
use crate::attest::signature::{PublicKey, Signatures, Verified};
use crate::attest::sigstore::{Signer, Trust};
use crate::base::Digest;

/// The functions; a policy that calls one of them needs the signatures of images.
pub(super) const FUNCTIONS: &[&str] = &["verify_image_signature", "image_signatures", "image_attestations", KEYLESS];

/// Lists signatures by certificates.
const KEYLESS: &str = "keyless_signatures";
/// Verifies a bundle about a download.
const ARTIFACT: &str = "artifact_attestation";
/// Larger bundles are not read.
const MAX_BUNDLE: u64 = 16 << 20;
/// The instance that everybody uses.
const PUBLIC: &str = "public";

/// Larger files are no keys.
const MAX_KEY: u64 = 64 << 10;
/// How a key begins that stands in the policy itself.
const PEM: &str = "-----BEGIN ";

/// What the functions know.
#[derive(Clone)]
struct Known {
    root: Option<PathBuf>,
    signatures: Arc<Signatures>,
    /// The image the policy is asked about.
    image: Rego,
    /// Or the download.
    http: Rego,
    left: Left,
}

impl Known {
    /// Verifies by the key of the second argument; nothing is verified of an image other than the one in question, such as a test's.
    fn by<T>(&self, name: &str, args: &[Rego], each: impl Fn(Verified<'_>) -> Option<T>) -> anyhow::Result<Vec<T>> {
        let key = args.get(1).and_then(|key| key.as_string().ok()).map(ToString::to_string).unwrap_or_default();
        let text = if key.starts_with(PEM) {
            key.clone()
        } else {
            let bytes = read(self.root.as_deref(), &key, MAX_KEY).map_err(|e| anyhow::anyhow!("{name}: {key}: {e}"))?;
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let shown = if key.starts_with(PEM) { "the key" } else { &key };
        let parsed = PublicKey::parse(&text).map_err(|e| anyhow::anyhow!("{name}: {shown}: {e}"))?;
        if args.first() != Some(&self.image) {
            return Ok(Vec::new());
        }
        Ok(self.signatures.by(&parsed).into_iter().filter_map(each).collect())
    }

    /// Everything that certificates of the instance in the second argument signed.
    fn keyless(&self, args: &[Rego]) -> anyhow::Result<Value> {
        let name = args.get(1).and_then(|name| name.as_string().ok()).map(ToString::to_string).unwrap_or_default();
        let trust = match name.as_str() {
            PUBLIC => Trust::public(),
            name => read(self.root.as_deref(), name, MAX_BUNDLE)
                .and_then(|bytes| Trust::parse(&String::from_utf8_lossy(&bytes))),
        };
        let trust = trust.map_err(|e| anyhow::anyhow!("{KEYLESS}: {name}: {e}"))?;
        if args.first() != Some(&self.image) {
            return Ok(json!([]));
        }
        let (verified, refused) = self.signatures.by_certificates(&trust);
        refused.iter().for_each(|why| self.left.note(KEYLESS, why));
        if verified.is_empty() && refused.is_empty() {
            self.left.note(KEYLESS, "it has no signature by a certificate");
        }
        Ok(verified.iter().map(|(form, signed)| signer(*form, signed)).collect())
    }

    /// Who signed a bundle about the download; false where nobody did.
    fn artifact(&self, args: &[Rego]) -> anyhow::Result<Value> {
        let path = args.get(1).and_then(|path| path.as_string().ok()).map(ToString::to_string).unwrap_or_default();
        let bytes =
            read(self.root.as_deref(), &path, MAX_BUNDLE).map_err(|e| anyhow::anyhow!("{ARTIFACT}: {path}: {e}"))?;
        let trust = Trust::public().map_err(|e| anyhow::anyhow!("{ARTIFACT}: {e}"))?;
        if self.http == Rego::Undefined || args.first() != Some(&self.http) {
            self.left.note(ARTIFACT, "it is not given input.http");
            return Ok(json!(false));
        }
        let digest = self.http["checksum"].as_string().ok().and_then(|digest| digest.parse::<Digest>().ok());
        let mut found = Signatures::of(digest.into_iter().collect());
        found.add_bundle(&bytes);
        let (verified, refused) = found.by_certificates(&trust);
        refused.iter().for_each(|why| self.left.note(ARTIFACT, why));
        if verified.is_empty() && refused.is_empty() {
            self.left.note(ARTIFACT, &format!("{path} has no signature by a certificate about the download"));
        }
        Ok(verified.first().map_or(json!(false), |(form, signed)| signer(*form, signed)))
    }
}

/// A signature by a certificate, in buildx's words.
pub(super) fn signer(verified: Verified<'_>, signer: &Signer) -> Value {
    let identity = &signer.identity;
    let mut who = json!({
        "certificateIssuer": identity.certificate_issuer, "issuer": identity.issuer,
        "subjectAlternativeName": identity.subjects.first(),
    });
    for (name, value) in identity.fields.iter().filter(|(_, value)| !value.is_empty()) {
        who[*name] = value.as_str().into();
    }
    let times = signer.times.iter().map(|time| {
        let kind = if time.log { "Tlog" } else { "TimestampAuthority" };
        json!({ "type": kind, "uri": time.uri, "timestamp": jiff::Timestamp::from_second(time.at).ok().map(|at| at.to_string()) })
    });
    let mut out = json!({
        "kind": kind(signer), "type": verified.form.name(), "signer": who, "timestamps": times.collect::<Vec<_>>(),
    });
    if let Some(reference) = verified.reference().filter(|reference| !reference.is_empty()) {
        out["dockerReference"] = reference.into();
    }
    if let Some(statement) = verified.statement() {
        out["predicateType"] = statement.predicate_type.as_str().into();
    }
    out
}

/// What kind of signer it is, by buildx's names.
fn kind(signer: &Signer) -> &'static str {
    let identity = &signer.identity;
    let github = identity.certificate_issuer == "CN=sigstore-intermediate,O=sigstore.dev"
        && identity.issuer == "https://token.actions.githubusercontent.com"
        && identity.field("runnerEnvironment") == "github-hosted";
    // The workflow is named twice: as who signs, and as what was built.
    let builder = identity.field("buildSignerURI");
    let builders = ["github-builder", "github-builder-experimental"]
        .map(|name| format!("https://github.com/docker/{name}/.github/workflows/"));
    let is_builder =
        builders.iter().any(|known| builder.starts_with(known)) && identity.subjects.iter().any(|s| s == builder);
    match github {
        true if is_builder => "docker-github-builder",
        true if !identity.field("sourceRepositoryURI").is_empty() => "self-signed-github-repo",
        _ => "self-signed",
    }
}

/// A signature as policies see it, in buildx's words.
fn signature(verified: Verified<'_>) -> Option<Value> {
    let mut out = json!({ "kind": "self-signed", "type": verified.form.name() });
    match verified.reference()? {
        "" => {}
        reference => out["dockerReference"] = reference.into(),
    }
    Some(out)
}

fn attestation(verified: Verified<'_>) -> Option<Value> {
    let statement = verified.statement()?;
    Some(json!({ "predicateType": statement.predicate_type, "predicate": statement.predicate }))
}

/// Adds the functions to an engine that is asked about `input`.
pub(super) fn extend(
    engine: &mut regorus::Engine,
    root: Option<PathBuf>,
    signatures: &Arc<Signatures>,
    left: &Left,
    input: &Value,
) -> anyhow::Result<()> {
    let of = |kind: &str| input.get(kind).map_or(Rego::Undefined, |value| Rego::from(value.clone()));
    let (image, http) = (of("image"), of("http"));
    let known = Known { root, signatures: Arc::clone(signatures), image, http, left: left.clone() };
    let artifact = known.clone();
    engine.add_extension(
        ARTIFACT.into(),
        2,
        Box::new(move |args: Vec<Rego>| Ok(Rego::from(artifact.artifact(&args)?))),
    )?;
    for name in FUNCTIONS {
        let known = known.clone();
        let function = move |args: Vec<Rego>| match *name {
            "image_attestations" => Ok(Rego::from(Value::Array(known.by(name, &args, attestation)?))),
            KEYLESS => Ok(Rego::from(known.keyless(&args)?)),
            "image_signatures" => Ok(Rego::from(Value::Array(known.by(name, &args, signature)?))),
            _ => Ok(Rego::from(!known.by(name, &args, signature)?.is_empty())),
        };
        engine.add_extension((*name).into(), 2, Box::new(function))?;
    }
    Ok(())
}
