//! `rbuild verify`: whether a build gives the same image every time, or the image that somebody published.

use std::io::Write as _;
use std::ops::ControlFlow;

use super::args::{Build, Verify};
use super::compare::{Shown, say};
use super::errors::Failure;
use super::image_commands::{failure, over, reference, usage};
use super::invocation::{Done, Invocation};
use super::runtime::runtime;
use super::settings;
use super::worker::{Inside, store_failure};
use crate::base::budget::Budget;
use crate::base::{Events, FaultKind};
use crate::build::Attest;
use crate::exporter::ExportReport;
use crate::oci::Descriptor;
use crate::ui::Progress;

/// Files get no later times than this, if nothing else is said.
const EPOCH: &str = "SOURCE_DATE_EPOCH";

pub(super) fn verify(inside: &Inside, args: &Verify) -> Result<u8, Failure> {
    refuse(&args.build)?;
    let against = args.against.as_deref().map(reference).transpose()?;
    // What both results consist of stays as long as they are compared.
    let store = inside.store(Events::none())?;
    let _lease = store.lease().map_err(|e| store_failure(&e))?;
    let mut build = (*args.build).clone();
    let (published, published_name) = match against {
        Some(reference) => {
            let (pulled, _) = super::image_commands::shown(inside, &progress(&build), async |events| {
                let images = over(inside, store.clone(), events)?;
                images.pull(&reference, None).await.map_err(|e| failure(&e))
            })?;
            (Some(pulled), reference.familiar())
        }
        None => (None, "the first build".into()),
    };
    let mut said = Vec::new();
    let epoch = choose_epoch(&mut build);
    let mut once = |build: &Build, heading: &str| {
        let output = vec!["type=image,rewrite-timestamp=true".into()];
        let mut build = Invocation::new(inside, Build { output, ..build.clone() })?;
        forget_attestations(&mut build);
        let notices = &mut build.settings.notices;
        notices.extend(epoch.clone());
        // What was said of the settings before is not said again.
        notices.retain(|notice| !said.contains(notice));
        said.extend_from_slice(notices);
        once(inside, build, heading)
    };
    let first = match published {
        Some(image) => image,
        None => match once(&build, "building once, from the cache where it can be")? {
            ControlFlow::Continue(image) => image,
            ControlFlow::Break(code) => return Ok(code),
        },
    };
    // A build from the cache shows only that the cache gives back what it was given.
    build.no_cache = true;
    let second = match once(&build, "building for comparison, without the cache")? {
        ControlFlow::Continue(image) => image,
        ControlFlow::Break(code) => return Ok(code),
    };
    let images = over(inside, store, Events::none())?;
    let compared = runtime(Budget::detect())?.block_on(images.compare(&first, &second)).map_err(|e| failure(&e))?;
    let second_name = if args.against.is_some() { "the build" } else { "the second build" };
    let how = Shown { first: &published_name, second: second_name, json: args.format == "json", all: args.all };
    say(&compared, &how)
}

fn progress(build: &Build) -> super::args::ProgressArgs {
    super::args::ProgressArgs {
        kind: build.progress.clone(),
        log_timestamp: build.drop_in.log_timestamp,
        quiet: build.quiet,
    }
}

/// Nothing of the builds is kept, so that nothing can be sent, named or told about.
fn refuse(build: &Build) -> Result<(), Failure> {
    let given = [
        (!build.tag.is_empty(), "--tag"),
        (!build.output.is_empty(), "--output"),
        (build.push, "--push"),
        (build.load, "--load"),
        (build.iidfile.is_some(), "--iidfile"),
        (build.metadata_file.is_some(), "--metadata-file"),
        (!build.cache_to.is_empty(), "--cache-to"),
        (build.call.is_some(), "--call"),
        (build.check, "--check"),
        (super::digest_files::asked(&build.drop_in.digests), "--digest-file and its like"),
        (!build.annotation.is_empty(), "--annotation"),
        (build.provenance.is_some() || build.sbom.is_some() || !build.attest.is_empty(), "--attest"),
    ];
    match given.iter().find(|(given, _)| *given) {
        Some((_, flag)) => {
            Err(usage(format!("{flag} has no meaning for rbuild verify, which builds, compares and keeps nothing"))
                .hint("leave it out; what is compared is what such a build would give"))
        }
        None => Ok(()),
    }
}

/// Without an epoch no two builds have the same times. What to say if one had to be chosen.
fn choose_epoch(build: &mut Build) -> Option<String> {
    let named = build.build_arg.iter().any(|text| text.split('=').next() == Some(EPOCH));
    if named || settings::variable(EPOCH).is_some() {
        return None;
    }
    build.build_arg.push(format!("{EPOCH}=0"));
    Some(format!("{EPOCH} is not set: it is taken to be 0 (1970), for both images to have the same times"))
}

/// What is said about an image is no part of what is compared.
pub(super) fn forget_attestations(build: &mut Invocation) {
    build.settings.request.attest = Attest::default();
}

/// One of the builds: its image in the store, or the exit code of a build that failed and has said why.
pub(super) fn once(inside: &Inside, build: Invocation, heading: &str) -> Result<ControlFlow<u8, Descriptor>, Failure> {
    match exported(inside, build, heading)? {
        ControlFlow::Continue(Some(export)) => Ok(ControlFlow::Continue(export.descriptor)),
        ControlFlow::Continue(None) => Err(Failure::new(FaultKind::Internal, "the build gave no image")),
        ControlFlow::Break(code) => Ok(ControlFlow::Break(code)),
    }
}

/// A build that is one of several: what it exported first, or the exit code of a build that failed and has said why.
pub(super) fn exported(
    inside: &Inside,
    mut build: Invocation,
    heading: &str,
) -> Result<ControlFlow<u8, Option<ExportReport>>, Failure> {
    let settings = &mut build.settings;
    if settings.shows() {
        let _ = writeln!(std::io::stderr(), "{heading}");
    }
    let budget = Budget::detect();
    let runtime = runtime(budget)?;
    let (progress, events) = Progress::start(settings.progress, std::io::stderr(), settings.style.clone());
    let outcome = runtime.block_on(build.run(inside, budget, &events, None));
    drop(events);
    let ended = progress.finish(outcome.vertex());
    runtime.shutdown_background();
    match &outcome.result {
        Ok(Done::Built(report)) => Ok(ControlFlow::Continue(report.exports.first().cloned())),
        Ok(Done::Answered(..)) => Err(Failure::new(FaultKind::Internal, "the build gave an answer and no image")),
        Err(_) => {
            Ok(ControlFlow::Break(outcome.complain(&build.settings, &ended, None, inside.codes, |failure| failure)))
        }
    }
}
