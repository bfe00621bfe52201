//! What a front end returned as what every front end makes (SPEC C3.20): one graph and one config for each platform.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Answer, Attested, Solved};
use crate::base::FaultKind;
use crate::frontend::{FrontendError, FrontendResult};
use crate::oci::{ImageConfig, Platform};

/// Key of the config of the image.
pub(super) const CONFIG: &str = "containerimage.config";
/// Key of the config of the image that it is based on.
const BASE_CONFIG: &str = "containerimage.base.config";
/// Key of the list of platforms.
const PLATFORMS: &str = "refs.platforms";
/// Key of the time that the result is to have.
const EPOCH: &str = "source.date.epoch";

/// One platform's result and what is attested of it.
pub struct Made {
    /// The result.
    pub result: FrontendResult,
    /// What the front end attests.
    pub attestations: Vec<Attested>,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "PascalCase")]
struct PlatformList {
    #[serde(default)]
    platforms: Vec<Listed>,
}

#[derive(Deserialize, Serialize)]
struct Listed {
    #[serde(rename = "ID")]
    id: String,
    #[serde(rename = "Platform", default)]
    platform: Platform,
}

/// The results of `image`, a front end, in the order of `wanted`; whatever there is if nothing was asked for in particular.
///
/// # Errors
/// When the answer contradicts itself, or is not what was asked for.
pub fn made(answer: Answer, image: &str, wanted: &[Platform]) -> Result<Vec<Made>, FrontendError> {
    let fail = |text: String| FrontendError::outside(FaultKind::Input, format!("the front end {image} {text}"), None);
    let Answer { mut refs, metadata, attestations } = answer;
    let listed: Vec<Listed> = match metadata.get(PLATFORMS) {
        None => Vec::new(),
        Some(text) => {
            let list: PlatformList = serde_json::from_slice(text)
                .map_err(|e| fail(format!("returned {PLATFORMS} that cannot be read: {e}")))?;
            list.platforms
        }
    };
    if refs.is_empty() {
        return Err(fail("returned no result".into()));
    }
    let single = refs.len() == 1 && refs.contains_key("");
    let mut out = Vec::new();
    if single {
        if listed.len() > 1 {
            return Err(fail("returned one result for several platforms".into()));
        }
        let solved = refs.remove("").ok_or_else(|| fail("returned no result".into()))?;
        let named = listed.first().map(|one| (one.id.as_str(), one.platform.clone()));
        let found = Found { metadata: &metadata, id: named.as_ref().map_or("", |(id, _)| id) };
        let asked = named.as_ref().map(|(_, platform)| platform.clone()).or_else(|| wanted.first().cloned());
        out.push(found.made(solved, asked, &attestations).map_err(fail)?);
    } else {
        if listed.is_empty() {
            return Err(fail(format!("returned several results without {PLATFORMS}")));
        }
        for one in &listed {
            let solved = refs.remove(&one.id).ok_or_else(|| fail(format!("returned no result for {}", one.id)))?;
            let found = Found { metadata: &metadata, id: &one.id };
            out.push(found.made(solved, Some(one.platform.clone()), &attestations).map_err(fail)?);
        }
        if let Some(name) = refs.keys().next() {
            return Err(fail(format!("returned a result \"{name}\" that is not in {PLATFORMS}")));
        }
    }
    in_order(out, wanted).map_err(fail)
}

/// What the built-in front end made, as one front end tells another (SPEC C3.11, C3.20); with names for platforms if it was asked for
/// several.
///
/// # Errors
/// When a config cannot be written.
pub fn told(made: &[(FrontendResult, Solved)], several: bool) -> Result<Answer, serde_json::Error> {
    let mut answer = Answer::default();
    let mut platforms = Vec::new();
    for (result, solved) in made {
        let id = result.platform.to_string();
        let key = |name: &str| if several { format!("{name}/{id}") } else { name.to_owned() };
        answer.metadata.insert(key(CONFIG), serde_json::to_vec(&result.config)?);
        if let Some(base) = &result.base_config {
            answer.metadata.insert(key(BASE_CONFIG), serde_json::to_vec(base)?);
        }
        if let Some(epoch) = result.epoch {
            answer.metadata.insert(key(EPOCH), epoch.to_string().into_bytes());
        }
        answer.refs.insert(if several { id.clone() } else { String::new() }, solved.clone());
        platforms.push(Listed { id, platform: result.platform.clone() });
    }
    answer.metadata.insert(PLATFORMS.to_owned(), serde_json::to_vec(&PlatformList { platforms })?);
    Ok(answer)
}

/// The answer to a question, as one front end tells another (SPEC C3.20).
#[must_use]
pub fn answered(answer: &crate::frontend::Answer) -> Answer {
    let mut metadata = BTreeMap::from([
        ("result.json".to_owned(), answer.json.to_string().into_bytes()),
        ("result.txt".to_owned(), answer.text.clone().into_bytes()),
        ("version".to_owned(), b"1.0.0".to_vec()),
    ]);
    if answer.status != 0 {
        metadata.insert("result.statuscode".to_owned(), answer.status.to_string().into_bytes());
    }
    Answer { metadata, ..Answer::default() }
}

/// The answer to a question (SPEC C3.20, A10.25).
///
/// # Errors
/// When there is none.
pub fn answer(metadata: &BTreeMap<String, Vec<u8>>, image: &str) -> Result<crate::frontend::Answer, FrontendError> {
    let fail = |text: &str| FrontendError::outside(FaultKind::Input, format!("the front end {image} {text}"), None);
    let text = |key: &str| metadata.get(key).map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    let json = text("result.json").map(|text| serde_json::from_str(&text)).transpose();
    let json = json.map_err(|e| fail(&format!("answered with malformed JSON: {e}")))?;
    let (Some(json), shown) = (json, text("result.txt")) else { return Err(fail("did not answer the question")) };
    let status = text("result.statuscode").and_then(|code| code.parse().ok()).unwrap_or_default();
    let shown = shown.unwrap_or_else(|| format!("{json:#}\n"));
    Ok(crate::frontend::Answer { json, text: shown, status })
}

/// The results that were asked for, and no others.
fn in_order(made: Vec<Made>, wanted: &[Platform]) -> Result<Vec<Made>, String> {
    let names = |list: Vec<String>| list.join(", ");
    let of = |made: &[Made]| names(made.iter().map(|one| one.result.platform.to_string()).collect());
    match (wanted, made.len()) {
        ([] | [_], 1) => return Ok(made),
        ([], _) => return Err(format!("made results for {}; name those that you want with --platform", of(&made))),
        _ => {}
    }
    let asked = names(wanted.iter().map(ToString::to_string).collect());
    let told = format!("made results for {}, and was asked for {asked}", of(&made));
    if made.len() != wanted.len() {
        return Err(told);
    }
    let mut rest: Vec<Option<Made>> = made.into_iter().map(Some).collect();
    let mut out = Vec::new();
    for platform in wanted {
        let same = |one: &Option<Made>| {
            one.as_ref().is_some_and(|one| one.result.platform.clone().normalised() == platform.clone().normalised())
        };
        let found = rest.iter_mut().find(|one| same(one)).and_then(Option::take);
        out.push(found.ok_or_else(|| told.clone())?);
    }
    Ok(out)
}

/// What is said of one result: under its own name, or for all.
struct Found<'a> {
    metadata: &'a BTreeMap<String, Vec<u8>>,
    id: &'a str,
}

impl Found<'_> {
    fn get(&self, key: &str) -> Option<&[u8]> {
        let own = self.metadata.get(&format!("{key}/{}", self.id));
        own.or_else(|| self.metadata.get(key)).map(Vec::as_slice)
    }

    fn config(&self, key: &str) -> Result<Option<ImageConfig>, String> {
        let parse =
            |bytes: &[u8]| serde_json::from_slice(bytes).map_err(|e| format!("returned a malformed {key}: {e}"));
        self.get(key).filter(|bytes| !bytes.is_empty()).map(parse).transpose()
    }

    fn made(&self, solved: super::Solved, asked: Option<Platform>, attestations: &[Attested]) -> Result<Made, String> {
        let mut config = self.config(CONFIG)?.unwrap_or_default();
        let platform = asked.filter(|p| !p.os.is_empty()).unwrap_or_else(|| match config.os.is_empty() {
            true => Platform::host(),
            false => config.platform(),
        });
        if config.os.is_empty() {
            config.os.clone_from(&platform.os);
            config.architecture.clone_from(&platform.architecture);
            config.variant.clone_from(&platform.variant);
        }
        let base_config = self.config(BASE_CONFIG)?;
        let epoch = match self.get(EPOCH) {
            None => None,
            Some(text) => {
                let text = String::from_utf8_lossy(text);
                Some(text.parse().map_err(|_| format!("returned a malformed {EPOCH}: \"{text}\""))?)
            }
        };
        let result = FrontendResult {
            definition: (*solved.definition).clone(),
            scanned: Vec::new(),
            config,
            platform: platform.normalised(),
            base_layers: base_config.as_ref().map_or(0, |base| base.rootfs.diff_ids.len()),
            base_history: base_config.as_ref().map_or(0, |base| base.history.len()),
            base_config,
            base_name: None,
            epoch,
            warnings: Vec::new(),
            notices: Vec::new(),
        };
        let attestations = attestations.iter().filter(|one| one.platform == self.id).cloned().collect();
        Ok(Made { result, attestations })
    }
}
