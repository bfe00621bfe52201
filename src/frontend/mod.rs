//! Layer 8: a Dockerfile and options become an LLB definition and an image config.
//!
//! Owns what each instruction *means*. Knows nothing of how graphs are executed, stored or exported; reads neither
//! files nor the environment: the Dockerfile and ignore files come in as bytes, images are looked up through
//! [`FrontendHost`]. Start reading at [`dockerfile_to_llb`] and the `pipeline` it follows: that makes a `plan` of the
//! stages, lets `base` ask for the images that the target needs, and has `convert` go through the instructions, adding
//! to a `graph`. [`call`] goes the same way to answer questions. [`front_end`] says who turns a file into a graph; [`gateway`] is for
//! front ends that are images, programs that ask for things themselves.

mod args;
mod base;
mod bases;
mod calls;
mod checks;
mod configure;
mod contexts;
mod convert;
mod device;
mod epoch;
mod error;
mod expose;
pub mod gateway;
mod graph;
mod mount;
mod options;
mod pipeline;
mod plan;
pub mod remote;
mod run;
pub mod sbom;
mod short_names;
mod state;
mod syntax;
#[cfg(test)]
mod tests;
mod text;
mod transfer;
mod uses;
mod words;

pub use bases::{StageOutline, bases, stages};
pub use calls::{Answer, Call, call};
pub use error::{FrontendError, Place};
pub use options::{FrontendInput, FrontendOptions, FrontendResult, GivenTree, NoCache, Warning};
pub use short_names::ShortNames;
pub use syntax::{BUILT_IN, FrontEnd, FrontEnds, ImageFrontEnd, front_end};

use crate::llb::FrontendHost;
use crate::oci::ImageConfig;

use pipeline::{Scope, Source};
use state::State;

/// The release of Docker's front end whose language this one speaks.
pub const DOCKERFILE_VERSION: &str = "1.26";

/// Turns a Dockerfile into the graph of its target stage and the config of the image.
///
/// # Errors
/// See [`FrontendError`]: mistakes in the Dockerfile, unusable options, base images that cannot be resolved.
pub async fn dockerfile_to_llb(
    input: FrontendInput<'_>,
    host: &dyn FrontendHost,
) -> Result<FrontendResult, FrontendError> {
    let source = Source::read(&input)?;
    let mut checks = source.checks()?;
    let converted = source.convert(&input, Scope::Target, host, &mut checks).await;
    let converted = converted.and_then(|converted| checks.verdict().map(|()| converted));
    let converted = match converted {
        Ok(converted) => converted,
        Err(error) => {
            source.lint_rest(&mut checks);
            return Err(FrontendError { warnings: checks.into_warnings().into(), ..error });
        }
    };
    let warnings = checks.into_warnings();
    let epoch = converted.epoch;
    let notices = converted.plan.unknown_stages(&input.options.no_cache);
    let (state, definition, scanned) = converted.result(&input)?;
    let State { mut image, base_image, base_name, .. } = state;
    finish_config(&mut image, &input.options);
    let base_layers = base_image.as_ref().map_or(0, |base| base.rootfs.diff_ids.len());
    let base_history = base_image.as_ref().map_or(0, |base| base.history.len());
    let platform = image.platform();
    let config = image;
    Ok(FrontendResult {
        definition,
        scanned,
        config,
        platform,
        base_config: base_image,
        base_name,
        base_layers,
        base_history,
        epoch,
        warnings,
        notices,
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
