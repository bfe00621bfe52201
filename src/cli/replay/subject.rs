//! What is to be built again: an image with its provenance, or provenance alone.

use std::path::Path;

use base64::Engine as _;
use serde_json::Value;

use super::super::args::ReplayCommon;
use super::super::errors::Failure;
use super::super::image_commands::{failure, usage};
use super::super::outputs;
use super::super::runtime::runtime;
use super::super::settings::read_limited;
use super::super::worker::Inside;
use crate::attest::Recipe;
use crate::attest::predicate::SLSA;
use crate::base::budget::Budget;
use crate::base::{Events, FaultKind};
use crate::images::remote::{Origin, Place, RemoteImages};
use crate::oci::{Descriptor, Platform};

/// Larger provenance is refused.
const MAX_PROVENANCE: u64 = 64 << 20;

/// What is to be built again.
pub(super) struct Subject {
    /// What it is called in messages.
    pub(super) shown: String,
    /// Where the image is; provenance may be all there is.
    pub(super) image: Option<(Place, Descriptor)>,
    /// What it is for, where that is known.
    pub(super) platform: Option<Platform>,
    /// How it was made.
    pub(super) recipe: Recipe,
}

impl Subject {
    /// The main context, which has to be somewhere else.
    pub(super) fn context(&self) -> Result<String, Failure> {
        let recipe = &self.recipe;
        let mut locals = recipe.locals.clone();
        let of_machine = |value: &str| ["local:", "oci-layout://", "input:"].iter().any(|kind| value.starts_with(kind));
        locals.extend(recipe.options("context:").filter(|(_, v)| of_machine(v)).map(|(name, _)| name.to_owned()));
        let context = recipe.context.clone().or_else(|| recipe.args.get("context").cloned());
        if context.is_none() && !locals.iter().any(|name| name == "context") {
            locals.push("context (stdin)".into());
        }
        locals.sort();
        locals.dedup();
        match context {
            Some(context) if locals.is_empty() => Ok(context),
            _ => Err(self.local(&locals)),
        }
    }

    fn local(&self, names: &[String]) -> Failure {
        let message = format!("the image was built from local inputs that replay cannot fetch: {}", names.join(", "));
        let vcs = &self.recipe.vcs;
        let repository = vcs.get("source").zip(vcs.get("revision")).filter(|(_, commit)| !commit.ends_with("-dirty"));
        let hint = match repository {
            Some((source, commit)) => {
                let below = vcs.get("localdir:context").filter(|dir| *dir != ".").map(|dir| format!(":{dir}"));
                let source = if source.ends_with(".git") { source.clone() } else { format!("{source}.git") };
                let context = format!("{source}#{commit}{}", below.unwrap_or_default());
                format!(
                    "it comes from a working tree of {source}: `rbuild verify --against {} {context}` compares with that",
                    self.shown
                )
            }
            None => format!("`rbuild verify --against {} DIR` compares with what a directory here gives", self.shown),
        };
        Failure::new(FaultKind::Input, message).hint(hint)
    }
}

/// Finds the image and reads its provenance.
pub(super) fn load(inside: &Inside, common: &ReplayCommon) -> Result<Subject, Failure> {
    let text = common.subject.trim();
    let wanted = wanted(&common.platform)?;
    let path = Path::new(text);
    let is_reference = text.starts_with("docker-image://") || text.starts_with("oci-layout://");
    if !is_reference && path.is_file() {
        let recipe = recipe(&of_file(path)?, text)?;
        return Ok(Subject { shown: text.to_owned(), image: None, platform: wanted, recipe });
    }
    let name = match text.strip_prefix("docker-image://") {
        Some(name) => name.to_owned(),
        None if !is_reference && path.is_dir() => format!("oci-layout://{text}"),
        None => text.to_owned(),
    };
    let place = Place::parse(&name).map_err(|e| failure(&e))?;
    let shown = name;
    let images = RemoteImages::new(inside.client(Events::none())?, Events::none());
    let runtime = runtime(Budget::detect())?;
    let origins =
        runtime.block_on(async { images.origins(&images.look(&place).await?).await }).map_err(|e| failure(&e))?;
    let origin = chosen(origins, wanted.as_ref(), &shown)?;
    let Some(predicate) = &origin.provenance else {
        let message = format!("no SLSA provenance attestation found for {shown}");
        return Err(Failure::new(FaultKind::Input, message).hint("build and push it with --provenance=mode=max"));
    };
    let recipe = recipe(predicate, &shown)?;
    let image = Some((place.at(&origin.descriptor.digest), origin.descriptor));
    Ok(Subject { shown, image, platform: origin.platform.or(wanted), recipe })
}

/// The platform that is asked for.
fn wanted(texts: &[String]) -> Result<Option<Platform>, Failure> {
    let texts: Vec<&str> = texts.iter().flat_map(|text| text.split(',')).map(str::trim).collect();
    if texts.contains(&"all") {
        return Err(usage("--platform \"all\" is not supported by replay: one image is built again at a time"));
    }
    let platforms = texts.iter().map(|text| outputs::platform(text)).collect::<Result<Vec<_>, _>>();
    let platforms = platforms.map_err(|e| usage(format!("--platform: {e}")))?;
    match <[Platform; 1]>::try_from(platforms) {
        Ok([platform]) => Ok(Some(platform)),
        Err(none) if none.is_empty() => Ok(None),
        Err(_) => Err(usage("--platform: one image is built again at a time")),
    }
}

/// The image that is meant.
fn chosen(mut origins: Vec<Origin>, wanted: Option<&Platform>, shown: &str) -> Result<Origin, Failure> {
    let only = origins.len() == 1;
    let is = |origin: &Origin, platform: &Platform| {
        origin.platform.as_ref().map(|p| p.clone().normalised()) == Some(platform.clone().normalised())
    };
    let host = Platform::host();
    let at = match wanted {
        // Nothing says what it is for; whoever asks knows.
        Some(_) if only && origins[0].platform.is_none() => Some(0),
        Some(platform) => origins.iter().position(|origin| is(origin, platform)),
        None if only => Some(0),
        None => origins.iter().position(|origin| is(origin, &host)),
    };
    match at {
        Some(at) => Ok(origins.swap_remove(at)),
        None => {
            let platform = wanted.unwrap_or(&host);
            let there: Vec<String> = origins.iter().filter_map(|o| Some(o.platform.as_ref()?.to_string())).collect();
            Err(Failure::new(FaultKind::Input, format!("{shown} has no image for {platform}"))
                .hint(format!("name one with --platform: {}", there.join(", "))))
        }
    }
}

fn recipe(predicate: &Value, shown: &str) -> Result<Recipe, Failure> {
    let fail = |why: &str| Failure::new(FaultKind::Input, format!("the provenance of {shown}: {why}"));
    let recipe = Recipe::read(predicate).map_err(|why| fail(&why))?;
    if !recipe.complete {
        let message = "provenance was recorded with mode=min: build arguments, labels and secrets are not told";
        return Err(fail(message).hint("build the image with --provenance=mode=max"));
    }
    Ok(recipe)
}

/// The predicate of a file: a statement, one in an envelope, or lines of those.
fn of_file(path: &Path) -> Result<Value, Failure> {
    let fail = |why: String| Failure::new(FaultKind::Input, format!("{}: {why}", path.display()));
    let bytes = read_limited(path, MAX_PROVENANCE).map_err(|e| fail(e.to_string()))?;
    if bytes.len() as u64 > MAX_PROVENANCE {
        return Err(fail("larger than 64 MiB".into()));
    }
    let documents: Vec<Value> = match serde_json::from_slice(&bytes) {
        Ok(one) => vec![one],
        Err(whole) => {
            let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty());
            lines
                .map(serde_json::from_slice)
                .collect::<Result<_, _>>()
                .map_err(|_| fail(format!("no JSON: {whole}")))?
        }
    };
    for document in documents {
        if let Some(predicate) = statement(document).map_err(fail)? {
            return Ok(predicate);
        }
    }
    Err(fail("no SLSA provenance statement found".into()))
}

/// What a statement says, if it is about provenance. What is signed is not taken unverified (SPEC B8.10).
fn statement(document: Value) -> Result<Option<Value>, String> {
    let is_bundle =
        document["mediaType"].as_str().is_some_and(|kind| kind.starts_with("application/vnd.dev.sigstore."));
    if is_bundle || document.get("verificationMaterial").is_some() {
        return Err(
            "a Sigstore bundle, whose signature cannot be verified here; its statement alone can be read".into()
        );
    }
    let mut document = match document["payload"].as_str() {
        Some(_) if document["signatures"].as_array().is_some_and(|all| !all.is_empty()) => {
            return Err(
                "a signed envelope, whose signature cannot be verified here; its statement alone can be read".into()
            );
        }
        Some(payload) => {
            let bytes =
                base64::engine::general_purpose::STANDARD.decode(payload).map_err(|e| format!("payload: {e}"))?;
            serde_json::from_slice(&bytes).map_err(|e| format!("payload: {e}"))?
        }
        None => document,
    };
    let about = document["predicateType"].as_str().is_some_and(|kind| kind.starts_with(SLSA));
    Ok(about.then(|| document["predicate"].take()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn statements_are_found_and_signed_ones_refused() {
        let plain = json!({"predicateType": "https://slsa.dev/provenance/v1", "predicate": {"a": 1}});
        assert_eq!(statement(plain.clone()), Ok(Some(json!({"a": 1}))));
        let payload = base64::engine::general_purpose::STANDARD.encode(plain.to_string());
        assert_eq!(statement(json!({"payload": payload})), Ok(Some(json!({"a": 1}))));
        assert_eq!(statement(json!({"predicateType": "https://spdx.dev/Document", "predicate": {}})), Ok(None));
        let signed = statement(json!({"payload": payload, "signatures": [{"sig": "x"}]}));
        assert!(signed.is_err_and(|e| e.contains("signed envelope")));
        let bundle = json!({"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json"});
        assert!(statement(bundle).is_err_and(|e| e.contains("Sigstore bundle")));
    }

    #[test]
    fn one_platform_is_chosen() {
        let origin = |platform: Option<&str>| Origin {
            descriptor: Descriptor::of_bytes("", b""),
            platform: platform.map(|text| text.parse().expect("valid")),
            provenance: None,
        };
        let choose = |platforms: &[Option<&str>], wanted: Option<&str>| {
            let origins = platforms.iter().map(|p| origin(*p)).collect();
            let wanted: Option<Platform> = wanted.map(|text| text.parse().expect("valid"));
            let found = chosen(origins, wanted.as_ref(), "x").map_err(|e| format!("{} {:?}", e.message, e.hint))?;
            Ok::<_, String>(found.platform.map(|p| p.to_string()))
        };
        let two = [Some("linux/arm64"), Some("linux/s390x")];
        assert_eq!(choose(&two, Some("linux/s390x")), Ok(Some("linux/s390x".into())));
        assert_eq!(choose(&two[..1], None), Ok(Some("linux/arm64".into())));
        assert_eq!(choose(&[None], Some("linux/arm64")), Ok(None));
        let none = choose(&two, Some("linux/amd64")).expect_err("none");
        assert!(none.contains("no image for linux/amd64") && none.contains("linux/arm64, linux/s390x"), "{none}");
        assert!(wanted(&["all".into()]).is_err_and(|e| e.message.contains("\"all\" is not supported by replay")));
        assert!(wanted(&["linux/amd64,linux/arm64".into()]).is_err());
    }
}
