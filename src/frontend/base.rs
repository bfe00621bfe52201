//! Base images: which ones the target needs, their configs, and the triggers they bring (SPEC A4.06, A8.12).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures_util::future::try_join_all;

use super::contexts::{Content, NamedContext};
use super::error::{FrontendError, Place};
use super::plan::{Origin, Outlook, Plan, StageId};
use super::short_names::{self, ShortNames};
use super::words::{closest, parse_trigger};
use crate::base::Digest;
use crate::dockerfile::ast::Instruction;
use crate::llb::{FrontendHost, HostError, ResolveMode};
use crate::oci::{ImageConfig, Platform, Reference};

/// An image that was asked for.
#[derive(Debug, Clone)]
pub(super) struct Resolved {
    /// Digest to pin it to.
    pub(super) digest: Digest,
    /// Its config.
    pub(super) config: ImageConfig,
    /// The image that a policy put in its place (SPEC C9.02).
    pub(super) converted: Option<Reference>,
}

/// Images by identifier and platform.
pub(super) type Images = HashMap<(String, Platform), Resolved>;

/// The platform that the base of `id` is asked for.
pub(super) fn base_platform(plan: &Plan, id: StageId, outlook: &Outlook<'_>) -> Platform {
    plan.stages[id].platform.clone().unwrap_or_else(|| outlook.platform.clone())
}

/// Asks for all images that the target needs and puts their triggers into the plan, until nothing new turns up.
pub(super) async fn resolve(
    plan: &mut Plan,
    outlook: &Outlook<'_>,
    host: &dyn FrontendHost,
    (names, mode): (&ShortNames, ResolveMode),
) -> Result<Images, FrontendError> {
    let mut images = Images::new();
    let mut chosen = HashSet::new();
    loop {
        short_names::choose(plan, outlook, host, (names, mode), &mut chosen).await?;
        let reachable = plan.reachable();
        let converted = fetch(plan, outlook, host, mode, &reachable, &mut images).await?;
        let mut again = !converted.is_empty();
        for (id, context) in converted {
            plan.stages[id].origin = Origin::Context(context);
        }
        for id in (0..reachable.len()).filter(|id| reachable[*id]) {
            if plan.stages[id].triggered || plan.stages[id].replaced {
                continue;
            }
            let triggers = triggers(plan, id, outlook, &images)?;
            again |= plan.add_triggers(id, triggers, outlook)?;
        }
        if !again {
            return Ok(images);
        }
    }
}

/// Asks for the images that are not known yet. Returns the named contexts that are no images under the build's policy, and their stages.
async fn fetch(
    plan: &Plan,
    outlook: &Outlook<'_>,
    host: &dyn FrontendHost,
    mode: ResolveMode,
    reachable: &[bool],
    images: &mut Images,
) -> Result<Vec<(StageId, NamedContext)>, FrontendError> {
    let mut wanted: Vec<((String, Platform), StageId)> = Vec::new();
    for id in (0..reachable.len()).filter(|id| reachable[*id]) {
        if let Origin::Context(NamedContext { title, content: Content::Local(_), .. }) = &plan.stages[id].origin {
            host.ignore_file_read(title);
        }
        let Some(identifier) = plan.stages[id].identifier() else { continue };
        let key = (identifier, base_platform(plan, id, outlook));
        if !images.contains_key(&key) && !wanted.iter().any(|(other, _)| *other == key) {
            wanted.push((key, id));
        }
    }
    let answers = try_join_all(wanted.into_iter().map(|(key, id)| async move {
        let stage = &plan.stages[id];
        let context = match &stage.origin {
            Origin::Context(context) => context.image(),
            _ => None,
        };
        let answer = match (host.resolve_image(&key.0, &key.1, mode, context.as_ref()).await, &stage.origin) {
            (Err(HostError { became: Some(source), .. }), Origin::Context(context)) => {
                let context = context.converted(&source).map_err(|error| error.at(&stage.place))?;
                return Ok(Answer::Other(id, context));
            }
            (answer, _) => answer,
        };
        let answer = answer.map_err(|error| {
            let mut error = FrontendError::from(error).at(&stage.place);
            let stand_in = matches!(stage.origin, Origin::Image(_));
            if let Some(close) = closest(&stage.base, plan.names()).filter(|_| stand_in) {
                let hint = format!("did you mean the stage {close}?");
                // A registry that cannot be reached has a remedy of its own, which is no help against a typing error.
                let other = error.hint.take().map_or_else(String::new, |other| format!(" if not, {other}"));
                error.hint = Some(hint + &other);
            }
            error
        })?;
        let config = serde_json::from_slice(&answer.config).map_err(|error| {
            FrontendError::input(format!("failed to parse image config of {}: {error}", stage.base)).at(&stage.place)
        })?;
        let converted = answer.converted.as_deref().map(|text| {
            let text = text.strip_prefix("docker-image://").unwrap_or(text);
            text.parse::<Reference>().map_err(|error| {
                FrontendError::input(format!("the policy converts {} to {text}: {error}", stage.base)).at(&stage.place)
            })
        });
        let image = Resolved { digest: answer.digest, config, converted: converted.transpose()? };
        Ok::<_, FrontendError>(Answer::Image(key, image))
    }))
    .await?;
    let mut others = Vec::new();
    for answer in answers {
        match answer {
            Answer::Image(key, image) => drop(images.insert(key, image)),
            Answer::Other(id, context) => others.push((id, context)),
        }
    }
    Ok(others)
}

/// What a name stands for.
enum Answer {
    Image((String, Platform), Resolved),
    /// The named context of a stage is something else.
    Other(StageId, NamedContext),
}

fn triggers(
    plan: &Plan,
    id: StageId,
    outlook: &Outlook<'_>,
    images: &Images,
) -> Result<Vec<(Arc<Instruction>, Place)>, FrontendError> {
    let stage = &plan.stages[id];
    if let Origin::Stage(base) = stage.origin {
        return Ok(plan.triggers_of(base));
    }
    let Some(identifier) = stage.identifier() else { return Ok(Vec::new()) };
    let Some(image) = images.get(&(identifier, base_platform(plan, id, outlook))) else { return Ok(Vec::new()) };
    image
        .config
        .config
        .on_build
        .iter()
        .map(|text| {
            let instruction = parse_trigger(text, '\\').map_err(|error| FrontendError {
                message: format!("trigger \"{text}\" of the base image {}: {}", stage.base, error.message),
                ..error
            });
            let mut instruction = instruction.map_err(|error| error.at(&stage.place))?;
            // Its lines are those of a text that is not in the file.
            instruction.lines = stage.place.lines;
            Ok((Arc::new(instruction), Place { lines: stage.place.lines, span: None }))
        })
        .collect()
}
