//! `rbuild verify`: whether a build gives the same image every time, or the image that somebody published.

use std::io::Write as _;

use super::args::{Build, Verify};
use super::build::{Done, Kept, Stopped, lend_agents, run};
use super::compare::{Shown, say};
use super::errors::{Aftermath, Failure};
use super::image_commands::{failure, open, reference, runtime, usage};
use super::records;
use super::settings::{self, BuildSettings};
use super::step_logs::{ClipLimits, StepLogs};
use super::worker::Inside;
use crate::base::budget::Budget;
use crate::base::{Events, FaultKind};
use crate::build::record::Recorder;
use crate::build::{Attest, BuildError};
use crate::exporter::OutputSpec;
use crate::oci::Descriptor;
use crate::ui::Progress;

/// Files get no later times than this, if nothing else is said.
const EPOCH: &str = "SOURCE_DATE_EPOCH";

pub(super) fn verify(inside: &Inside, args: &Verify) -> Result<u8, Failure> {
    refuse(&args.build)?;
    let against = args.against.as_deref().map(reference).transpose()?;
    // What both results consist of stays as long as they are compared.
    let (images, _lease) = open(inside, Events::none())?;
    let mut build = (*args.build).clone();
    let (published, published_name) = match against {
        Some(reference) => {
            let (pulled, _) = super::image_commands::shown(inside, &progress(&build), async |events| {
                let (images, _lease) = open(inside, events)?;
                images.pull(&reference, None).await.map_err(|e| failure(&e))
            })?;
            (Some(pulled), reference.familiar())
        }
        None => (None, "the first build".into()),
    };
    let mut notices = Vec::new();
    choose_epoch(&mut build, &mut notices);
    let first = match published {
        Some(image) => image,
        None => match once(inside, &build, "building once, from the cache where it can be", &mut notices)? {
            Ok(image) => image,
            Err(code) => return Ok(code),
        },
    };
    // A build from the cache shows only that the cache gives back what it was given.
    build.no_cache = true;
    let second = match once(inside, &build, "building for comparison, without the cache", &mut notices)? {
        Ok(image) => image,
        Err(code) => return Ok(code),
    };
    let compared = runtime()?.block_on(images.compare(&first, &second)).map_err(|e| failure(&e))?;
    let second_name = if args.against.is_some() { "the build" } else { "the second build" };
    let how = Shown { first: &published_name, second: second_name, json: args.format == "json", all: args.all };
    say(&compared, &how)
}

fn progress(build: &Build) -> super::args::ProgressArgs {
    super::args::ProgressArgs { kind: build.progress.clone(), quiet: build.quiet }
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
        (super::digest_files::asked(&build.drop_in), "--digest-file and its like"),
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

/// Without an epoch no two builds have the same times.
fn choose_epoch(build: &mut Build, notices: &mut Vec<String>) {
    let named = build.build_arg.iter().any(|text| text.split('=').next() == Some(EPOCH));
    if !named && settings::variable(EPOCH).is_none() {
        build.build_arg.push(format!("{EPOCH}=0"));
        notices.push(format!("{EPOCH} is not set: it is taken to be 0 (1970), for both images to have the same times"));
    }
}

/// One of the builds: its image in the store, or the exit code of a build that failed and has said why.
fn once(
    inside: &Inside,
    args: &Build,
    heading: &str,
    notices: &mut Vec<String>,
) -> Result<Result<Descriptor, u8>, Failure> {
    let output = "type=image,rewrite-timestamp=true";
    let mut args = args.clone();
    args.output = vec![output.into()];
    let mut settings = BuildSettings::new(&args, &inside.config)?;
    let steps = settings::step_options(&args, &inside.config)?;
    lend_agents(inside, &mut settings)?;
    settings.request.attest = Attest::default();
    settings.request.outputs =
        vec![OutputSpec::parse(output).map_err(|e| Failure::new(FaultKind::Internal, e.to_string()))?];
    notices.append(&mut settings.notices);
    if settings.shows() {
        let _ = writeln!(std::io::stderr(), "{heading}");
    }
    let clip = ClipLimits::new(inside.config.log)?;
    let runtime = runtime()?;
    let (progress, events) = Progress::start(settings.progress, std::io::stderr(), settings.style.clone());
    let (recorder, logs) = (Recorder::default(), StepLogs::default());
    let events = logs.before(recorder.before(events), clip);
    // They hold for both builds and are said once.
    for notice in notices.drain(..) {
        events.notice(format!("settings {notice}"), notice);
    }
    let kept = Kept { logs: &logs, recorder: &recorder, head: records::head(&args, &settings) };
    let result = runtime.block_on(async {
        let result = run(inside, &settings, Budget::detect(), events.clone(), kept, steps, None).await;
        recorder.end(records::end(&result), &events);
        result
    });
    drop(events);
    let failed = match &result {
        Err(Stopped::Build(BuildError::Solve(e))) => e.vertex().cloned(),
        _ => None,
    };
    let ended = progress.finish(failed.as_ref());
    runtime.shutdown_background();
    match result {
        Ok(Done::Built(report)) => match report.exports.into_iter().next() {
            Some(export) => Ok(Ok(export.descriptor)),
            None => Err(Failure::new(FaultKind::Internal, "the build gave no image")),
        },
        Ok(Done::Answered(..)) => Err(Failure::new(FaultKind::Internal, "the build gave an answer and no image")),
        Err(Stopped::Early(failure)) => Err(failure),
        Err(Stopped::Build(error)) => {
            let (name, text) = settings.request.file();
            let said = ended.step.as_ref().map(|step| step.tail.as_slice()).unwrap_or_default();
            let failure = Failure::of_build(&error, name, text, said);
            let log = failed.as_ref().and_then(|vertex| logs.path(vertex));
            let after = Aftermath { step: ended.step.as_ref(), log: log.as_deref(), enter: None };
            let _ = failure.print(&mut std::io::stderr(), &after);
            Ok(Err(failure.code()))
        }
    }
}
