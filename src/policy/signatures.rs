//! Functions of policies that verify signatures of images by keys (SPEC B8.09, C8.16). They are ours: buildx knows Sigstore's
//! certificates only. What they verify was found beside the image by [`super::Facts`].

use std::path::PathBuf;
use std::sync::Arc;

use regorus::Value as Rego;
use serde_json::{Value, json};

use super::engine::read;
use crate::attest::signature::{PublicKey, Signatures, Verified};

/// The functions; a policy that calls one of them needs the signatures of images.
pub(super) const FUNCTIONS: &[&str] = &["verify_image_signature", "image_signatures", "image_attestations"];

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
    input: &Value,
) -> anyhow::Result<()> {
    let known = Known { root, signatures: Arc::clone(signatures), image: Rego::from(input["image"].clone()) };
    for name in FUNCTIONS {
        let known = known.clone();
        let function = move |args: Vec<Rego>| match *name {
            "image_attestations" => Ok(Rego::from(Value::Array(known.by(name, &args, attestation)?))),
            "image_signatures" => Ok(Rego::from(Value::Array(known.by(name, &args, signature)?))),
            _ => Ok(Rego::from(!known.by(name, &args, signature)?.is_empty())),
        };
        engine.add_extension((*name).into(), 2, Box::new(function))?;
    }
    Ok(())
}
