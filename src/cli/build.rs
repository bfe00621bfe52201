//! `rbuild build` inside the worker.

use std::io::Write as _;
use std::ops::ControlFlow;
use std::os::unix::fs::OpenOptionsExt as _;

use super::args::Build;
use super::errors::Failure;
use super::grammar::CallOptions;
use super::invocation::{Done, Invocation, Stopped};
use super::runtime::runtime;
use super::scan::Scan;
use super::settings::{self, BuildSettings};
use super::telemetry::{self, Telemetry};
use super::worker::Inside;
use super::{debug, digest_files, metadata, stages};
use crate::base::budget::Budget;
use crate::base::events::Warning;
use crate::base::values::boolean;
use crate::base::{Events, FaultKind, StepTrace, file};
use crate::build::BuildReport;
use crate::dockerfile::excerpt::excerpt;
use crate::frontend::Answer;
use crate::ui::{Progress, Split, Summary, Trace, columns};

pub(super) fn build(inside: &Inside, args: &Build) -> Result<u8, Failure> {
    let mut args = args.clone();
    let scan = Scan::wanted(&args)?;
    if stages::wanted(&args)? {
        match stages::save(inside, &args)? {
            ControlFlow::Continue(rest) => args = rest,
            ControlFlow::Break(code) => return Ok(code),
        }
    }
    let invocation = match scan.as_ref().map(|scan| scan.run(inside, &args)).transpose()? {
        None => Invocation::new(inside, args)?,
        Some(ControlFlow::Continue(rest)) => rest,
        Some(ControlFlow::Break(code)) => return Ok(code),
    };
    run(inside, invocation)
}

/// Builds, shows it, and writes what was asked for about it.
pub(super) fn run(inside: &Inside, mut invocation: Invocation) -> Result<u8, Failure> {
    let files = &invocation.settings;
    for path in files.iidfile.iter().chain(&files.iidfile_raw) {
        // An old ID must not be taken for the new one (B2.12).
        let _ = std::fs::remove_file(path);
    }
    let plan = telemetry::Plan::new(&settings::variable);
    invocation.settings.notices.extend(plan.notices);
    let settings = &invocation.settings;
    let budget = Budget::detect();
    let runtime = runtime(budget)?;
    let split = invocation.args.drop_in.log_split.as_deref().map(|prefix| log_split(prefix, settings)).transpose()?;
    let (progress, events) = Progress::start(settings.progress, std::io::stderr(), settings.style.clone());
    let events = split.as_ref().map_or_else(|| events.clone(), |split| split.tee(events.clone()));
    let trace = (settings.trace.is_some() || plan.spans.is_some()).then(Trace::default);
    let events = trace.as_ref().map_or(events.clone(), |trace| trace.tee(events));
    let context = plan.spans.as_ref().map(|exporter| StepTrace { context: exporter.context, socket: None });
    let outcome = runtime.block_on(async {
        let client = inside.hasty_client(Events::none()).ok();
        let sending = plan.spans.zip(trace.clone()).zip(client);
        let sending = sending
            .map(|((exporter, trace), client)| Telemetry::start(exporter, trace, &client, &inside.context.state_dir));
        let context = sending.as_ref().map(Telemetry::for_steps).or(context);
        let outcome = invocation.run(inside, budget, &events, context).await;
        if let Some(sending) = sending {
            sending.finish(outcome.result.as_ref().err().map(Stopped::message), &events).await;
        }
        outcome
    });
    drop(events);
    let ended = progress.finish(outcome.vertex());
    if let Some(split) = split {
        split.finish();
    }
    if let (Some(exporter), Some(summary), None) = (plan.metrics, &ended.summary, settings.call)
        && let Ok(client) = inside.hasty_client(Events::none())
        && let Some(trouble) = runtime.block_on(exporter.send(&client, summary, outcome.result.is_ok()))
        && settings.shows()
    {
        let _ = writeln!(std::io::stderr(), "notice: {trouble}");
    }
    let told = match &outcome.result {
        Ok(Done::Built(built)) if digest_files::asked(&invocation.args.drop_in.digests) => {
            match built.exports.first() {
                // The first output that is an image counts.
                Some(image) => inside.client(Events::none()).and_then(|client| {
                    let names: Vec<_> = image.names.iter().filter_map(|name| name.parse().ok()).collect();
                    let digest = &image.descriptor.digest;
                    runtime.block_on(digest_files::write(&invocation.args.drop_in.digests, digest, &names, &client))
                }),
                None => Ok(()),
            }
        }
        _ => Ok(()),
    };
    match &outcome.result {
        Ok(Done::Built(_)) => inside.leave(runtime),
        // What goes on must not hold up the end, nor be in the way of a look at what failed.
        _ => runtime.shutdown_background(),
    }
    if let (Some(summary), None) = (&ended.summary, settings.call) {
        report(settings, summary, outcome.result.is_ok())?;
    }
    if let (Some(path), Some(trace)) = (&settings.trace, trace) {
        write(path, trace.to_json().as_bytes())?;
    }
    if settings.shows() {
        let (name, text) = settings.request.file();
        list(&ended.findings, settings.debug.then_some((name, text)));
    }
    match &outcome.result {
        Ok(Done::Built(report)) => told.and_then(|()| done(settings, report, &ended.findings)),
        Ok(Done::Answered(answer, how)) => answered(settings, answer, *how),
        Err(_) => {
            let kept = outcome.failed_step();
            let enter = kept.map(|_| inside.again(&["debug", &settings.request.id]));
            let code = outcome.complain(settings, &ended, enter.as_deref(), inside.codes, |failure| failure);
            if let (true, Some(kept)) = (settings.shell_on_error, kept) {
                debug::after_failure(inside, kept, settings.request.secrets.clone(), invocation.steps.clone())?;
            }
            Ok(code)
        }
    }
}

/// Prints an answer (SPEC A10.25, A10.26) and writes it into the metadata file (SPEC B2.16), whatever it says.
pub(super) fn answered(settings: &BuildSettings, answer: &Answer, how: CallOptions) -> Result<u8, Failure> {
    if let Some(path) = &settings.metadata_file {
        write(path, metadata::of_answer(answer).as_bytes())?;
    }
    if how.json {
        super::print(&format!("{:#}\n", answer.json))?;
    } else {
        super::print(&answer.text)?;
    }
    Ok(if how.ignore_status { 0 } else { answer.status })
}

/// The build in numbers: for people, and where scripts and fleets asked for it.
fn report(settings: &BuildSettings, summary: &Summary, succeeded: bool) -> Result<(), Failure> {
    if succeeded && settings.shows() {
        let _ = writeln!(std::io::stderr(), "{}", summary.text(columns()));
    }
    if let Some(path) = &settings.summary_file {
        write(path, summary.json().as_bytes())?;
    }
    if let Some(path) = &settings.metrics_file {
        write(path, summary.prometheus(succeeded).as_bytes())?;
    }
    Ok(())
}

/// `--log-split`: files as buildah calls them (SPEC D3.31).
fn log_split(prefix: &str, settings: &BuildSettings) -> Result<Split, Failure> {
    let request = &settings.request;
    if request.all_platforms {
        return Err(settings::usage("--log-split: which platforms --all-platforms are is not known yet")
            .hint("name them with --platform"));
    }
    let host = [crate::oci::Platform::host()];
    let platforms = if request.platforms.is_empty() { &host[..] } else { &request.platforms };
    let open = |platform: &crate::oci::Platform| {
        let path = format!("{prefix}_{}_{}", platform.os, platform.architecture);
        let file = std::fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&path);
        let file = file.map_err(|e| settings::usage(format!("--log-split: cannot write {path}: {e}")))?;
        Ok((platform.to_string(), file))
    };
    let files = platforms.iter().map(open).collect::<Result<Vec<_>, Failure>>()?;
    Ok(Split::start(files, &settings.style))
}

fn write(path: &std::path::Path, bytes: &[u8]) -> Result<(), Failure> {
    file::write_atomic(path, bytes).map_err(|e| {
        Failure::new(FaultKind::of_io(&e, FaultKind::Store), format!("cannot write {}: {e}", path.display()))
    })
}

/// Failed checks, whether the build went well or not (SPEC A10.24, B6.06). With the Dockerfile at hand, each with all that
/// is known of it.
fn list(findings: &[Warning], dockerfile: Option<(&str, &[u8])>) {
    if findings.is_empty() {
        return;
    }
    let mut err = std::io::stderr();
    let plural = if findings.len() == 1 { "warning" } else { "warnings" };
    let more = if dockerfile.is_none() { " (use --debug to expand)" } else { "" };
    let _ = writeln!(err, "\n{} {plural} found{more}:", findings.len());
    for warning in findings {
        let _ = writeln!(err, " - {}", warning.short);
        let Some((name, text)) = dockerfile else { continue };
        for line in &warning.detail {
            let _ = writeln!(err, "{line}");
        }
        if let Some(url) = &warning.url {
            let _ = writeln!(err, "More info: {url}");
        }
        let place = warning.location.as_ref().and_then(|(_, first, last)| excerpt(name, text, (*first, *last), None));
        let _ = writeln!(err, "{}", place.unwrap_or_default());
    }
    let _ = writeln!(err);
}

/// Files and output after success.
pub(super) fn done(settings: &BuildSettings, report: &BuildReport, findings: &[Warning]) -> Result<u8, Failure> {
    let image = report.exports.first();
    if let (Some(path), Some(image)) = (&settings.iidfile, image) {
        write(path, image.id().as_str().as_bytes())?;
    }
    if let (Some(path), Some(image)) = (&settings.iidfile_raw, image) {
        write(path, image.id().hex().as_bytes())?;
    }
    if let Some(path) = &settings.metadata_file {
        let wanted = settings::variable("BUILDX_METADATA_WARNINGS").and_then(|text| boolean(&text)) == Some(true);
        let text = metadata::metadata(report, settings.metadata_provenance, if wanted { findings } else { &[] });
        write(path, text.as_bytes())?;
    }
    if settings.print_id
        && let Some(image) = image
    {
        return super::print(&format!("{}\n", image.id().hex()));
    }
    if settings.quiet
        && let Some(image) = image
    {
        return super::print(&format!("{}\n", image.id()));
    }
    Ok(0)
}
