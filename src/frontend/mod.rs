//! Layer 6: a Dockerfile and options become an LLB definition and an image config.
//!
//! Owns what each instruction *means*. Knows nothing of how graphs are executed, stored or exported; reads neither
//! files nor the environment: the Dockerfile and ignore files come in as bytes, images are looked up through
//! [`FrontendHost`]. Start reading at [`dockerfile_to_llb`]: it makes a `plan` of the stages, lets `base` ask for the
//! images that the target needs, and has `convert` go through the instructions, adding to a `graph`.

mod args;
mod base;
mod checks;
mod configure;
mod contexts;
mod convert;
mod error;
mod expose;
mod graph;
mod mount;
mod options;
mod plan;
mod run;
mod state;
#[cfg(test)]
mod tests;
mod text;
mod transfer;
mod words;

pub use error::{FrontendError, Place};
pub use options::{FrontendInput, FrontendOptions, FrontendResult, NoCache, Warning};

use indexmap::IndexMap;

use crate::dockerfile::Stages;
use crate::dockerfile::ignore::IgnoreFile;
use crate::llb::FrontendHost;
use crate::oci::{ImageConfig, Platform};

use args::Globals;
use checks::Checks;
use contexts::Contexts;
use convert::Converter;
use plan::{Outlook, Plan};
use state::State;

/// Turns a Dockerfile into the graph of its target stage and the config of the image.
///
/// # Errors
/// See [`FrontendError`]: mistakes in the Dockerfile, unusable options, base images that cannot be resolved.
pub async fn dockerfile_to_llb(
    input: FrontendInput<'_>,
    host: &dyn FrontendHost,
) -> Result<FrontendResult, FrontendError> {
    let options = &input.options;
    let meaning = args::meaning(&options.build_args)?;
    let (file, warnings) = words::parse(input.source)?;
    if let Some(syntax) = &file.directives.syntax {
        check_syntax(&syntax.text, &options.build_args)?;
    }
    let mut checks = Checks::new(meaning.checks.as_deref(), &file)?;

    let build_platform = options.build_platforms.first().cloned().unwrap_or_else(Platform::host);
    let platform = options.platform.clone().unwrap_or_else(|| build_platform.clone());
    let lex = words::Lex::new(file.directives.escape_char());
    let target = options.target.as_deref().filter(|name| !name.is_empty());
    let stages = Stages::new(&file);
    let last_stage = stages.all().last().and_then(|stage| stage.name.as_deref());
    let target_name = target.or(last_stage).unwrap_or_default();
    let automatic = args::automatic(&platform, &build_platform, target_name, &options.build_args);
    if let Ok(defaults) = Globals::new(automatic.clone(), stages.global_args(), &IndexMap::new(), lex) {
        plan::check_default_bases(&stages, &defaults, lex, &mut checks);
    }
    let mut globals = Globals::new(automatic, stages.global_args(), &options.build_args, lex)?;
    let mut build_args = options.build_args.clone();
    let epoch = args::resolve_epoch(options, &mut build_args, &globals)?;
    globals.set_epoch(epoch);

    let contexts = Contexts::new(&options.named_contexts);
    let outlook = Outlook { globals: &globals, lex, contexts: &contexts, platform: &platform };
    let mut plan = Plan::new(&file.instructions, target, &outlook, &mut checks)?;
    let images = base::resolve(&mut plan, &outlook, host, options.image_resolve_mode).await?;

    let built: Vec<bool> =
        plan.reachable().iter().zip(&plan.stages).map(|(needed, stage)| *needed && !stage.replaced).collect();
    checks.lint(&file, &warnings, &built);

    let ignore = match &input.ignore {
        Some((name, text)) => convert::parse_ignore(name, text)?,
        None => IgnoreFile::default(),
    };
    let mut converter = Converter {
        input: &input,
        plan: &plan,
        images: &images,
        outlook: &outlook,
        globals: &globals,
        build_args: &build_args,
        meaning: &meaning,
        epoch,
        lex,
        ignore,
        checks,
        draft: graph::Draft::default(),
        states: Vec::new(),
    };
    converter.run()?;
    let Some(state) = converter.states.get_mut(plan.target).and_then(Option::take) else {
        return Err(FrontendError::internal("the target was not converted"));
    };
    let warnings = converter.checks.finish()?;
    let definition = converter.draft.finish(state.node, input.filename, input.source);
    let State { mut image, base_image, .. } = state;
    finish_config(&mut image, options);
    let base_layers = base_image.as_ref().map_or(0, |base| base.rootfs.diff_ids.len());
    let base_history = base_image.as_ref().map_or(0, |base| base.history.len());
    let platform = image.platform();
    let config = image;
    Ok(FrontendResult {
        definition,
        config,
        platform,
        base_config: base_image,
        base_layers,
        base_history,
        epoch,
        warnings,
    })
}

/// Labels of the command line, and the platform that was asked for (SPEC B2.13, A4.09).
fn finish_config(image: &mut ImageConfig, options: &FrontendOptions) {
    for (name, value) in &options.labels {
        image.config.labels.insert(name.clone(), value.clone());
    }
    if let Some(wanted) = &options.platform {
        let same = wanted.os == image.os && wanted.architecture == image.architecture;
        image.os.clone_from(&wanted.os);
        image.architecture.clone_from(&wanted.architecture);
        if !wanted.variant.is_empty() || !same {
            image.variant.clone_from(&wanted.variant);
        }
        if !wanted.os_version.is_empty() || !same {
            image.os_version.clone_from(&wanted.os_version);
        }
        if !wanted.os_features.is_empty() {
            image.os_features.clone_from(&wanted.os_features);
        }
    }
    let normal = image.platform().normalised();
    (image.os, image.architecture, image.variant) = (normal.os, normal.architecture, normal.variant);
}

/// `# syntax=` may name Docker's front end, which ours stands in for; others are refused (SPEC C3.01).
fn check_syntax(text: &str, build_args: &IndexMap<String, String>) -> Result<(), FrontendError> {
    let image = text.split_whitespace().next().unwrap_or_default();
    if build_args.contains_key("BUILDKIT_SYNTAX") || image == "dockerfile.v0" || args::is_dockerfile_frontend(image) {
        return Ok(());
    }
    Err(FrontendError::input(format!("the front end image {image} of the syntax directive is not supported yet")).hint(
        "only Dockerfile syntax can be built: remove the directive, or pass --build-arg BUILDKIT_SYNTAX=dockerfile.v0",
    ))
}
