//! kaniko's warmer: `rbuild kaniko warmer …`, or a program called `warmer` (SPEC D1.48).

use super::flags::Warmer;
use super::{progress, registries};
use crate::cli::errors::Failure;
use crate::cli::settings::usage;
use crate::cli::translation::Translation;
use crate::frontend::remote::is_url;

/// The command line as words of `rbuild warm`.
///
/// # Errors
/// For values that mean nothing.
pub(super) fn translate(given: &Warmer) -> Result<Translation, Failure> {
    if given.image.is_empty() && given.dockerfile.is_none() {
        return Err(usage("you must select at least one image to cache, or a dockerfile path to parse"));
    }
    // One image that cannot be had does not stop the others.
    let mut out = Translation { words: vec!["warm".into(), "--keep-going".into()], notices: Vec::new() };
    progress(&given.messages, &mut out)?;
    given.build_arg.iter().for_each(|value| out.add("build-arg", value));
    if let Some(file) = &given.dockerfile {
        if is_url(file) {
            return Err(usage(format!("--dockerfile {file}: the Dockerfile must be a file of this machine"))
                .hint("fetch it first"));
        }
        out.add("file", file);
    }
    if let Some(platform) = given.custom_platform.as_ref().filter(|platform| !platform.is_empty()) {
        out.add("platform", platform);
    }
    out.switch("force", given.force);
    registries(&given.registries, std::iter::empty(), &mut out)?;
    out.words.extend(["--".into(), given.cache_dir.clone()]);
    out.words.extend(given.image.iter().cloned());
    Ok(out)
}
