//! `rbuild build` inside the worker.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Arc;

use super::args::Build;
use super::broker::BrokeredAgent;
use super::errors::{Aftermath, Failure};
use super::grammar::CallOptions;
use super::settings::{self, BuildSettings};
use super::step_logs::{ClipLimits, StepLogs};
use super::telemetry::{self, Telemetry};
use super::worker::{Inside, store_failure};
use super::{debug, digest_files, records};
use crate::base::budget::Budget;
use crate::base::events::Warning;
use crate::base::{Cancel, Events, FaultKind, TraceContext, file};
use crate::build::attachments::attachments;
use crate::build::record::{self, Head, Recorder};
use crate::build::{BuildError, BuildReport, Builder};
use crate::dockerfile::excerpt::excerpt;
use crate::exec::run::StepOptions;
use crate::frontend::Answer;
use crate::source::{ImageSource, Sources};
use crate::ssh::{Agent, AgentSpec};
use crate::store::Store;
use crate::ui::{Ended, Progress, Summary, Trace, columns};

pub(super) fn build(inside: &Inside, args: &Build) -> Result<u8, Failure> {
    let mut settings = BuildSettings::new(args, &inside.config)?;
    let steps = settings::step_options(args, &inside.config)?;
    lend_agents(inside, &mut settings)?;
    for path in settings.iidfile.iter().chain(&settings.iidfile_raw) {
        // An old ID must not be taken for the new one (B2.12).
        let _ = std::fs::remove_file(path);
    }
    let clip = ClipLimits::new(inside.config.log)?;
    let budget = Budget::detect();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(budget.cpus.clamp(2, 8))
        .enable_all()
        .build()
        .map_err(|e| Failure::new(FaultKind::Internal, format!("cannot start threads: {e}")))?;
    let (progress, events) = Progress::start(settings.progress, std::io::stderr(), settings.style.clone());
    let plan = telemetry::Plan::new(&settings::variable);
    settings.notices.extend(plan.notices);
    let trace = (settings.trace.is_some() || plan.spans.is_some()).then(Trace::default);
    let events = trace.as_ref().map_or(events.clone(), |trace| trace.tee(events));
    let recorder = Recorder::default();
    let events = recorder.before(events);
    let logs = StepLogs::default();
    let events = logs.before(events, clip);
    for notice in &settings.notices {
        events.notice(format!("settings {notice}"), notice.clone());
    }
    let context = plan.spans.as_ref().map(|exporter| exporter.context);
    let kept = Kept { logs: &logs, recorder: &recorder, head: records::head(args, &settings) };
    let result = runtime.block_on(async {
        let client = inside.hasty_client(Events::none()).ok();
        let sending = plan.spans.zip(trace.clone()).zip(client);
        let sending = sending.map(|((exporter, trace), client)| Telemetry::start(exporter, trace, &client));
        let result = run(inside, &settings, budget, events.clone(), kept, steps.clone(), context).await;
        if let Ok(Done::Built(report)) = &result {
            for (attachment, bytes) in attachments(report) {
                recorder.attach(&attachment, &bytes, &events);
            }
        }
        recorder.end(records::end(&result), &events);
        if let Some(sending) = sending {
            sending.finish(result.as_ref().err().map(Stopped::message), &events).await;
        }
        result
    });
    drop(events);
    let failed = match &result {
        Err(Stopped::Build(BuildError::Solve(e))) => e.vertex().cloned(),
        _ => None,
    };
    let Ended { step, summary, findings } = progress.finish(failed.as_ref());
    let log = failed.as_ref().and_then(|vertex| logs.path(vertex));
    if let (Some(exporter), Some(summary), None) = (plan.metrics, &summary, settings.call)
        && let Ok(client) = inside.hasty_client(Events::none())
        && let Some(trouble) = runtime.block_on(exporter.send(&client, summary, result.is_ok()))
        && settings.shows()
    {
        let _ = writeln!(std::io::stderr(), "notice: {trouble}");
    }
    let told = match &result {
        Ok(Done::Built(built)) if digest_files::asked(&args.drop_in) => inside
            .client(Events::none())
            .and_then(|client| runtime.block_on(digest_files::write(&args.drop_in, built, &client))),
        _ => Ok(()),
    };
    match &result {
        Ok(Done::Built(_)) => inside.leave(runtime),
        // What goes on must not hold up the end, nor be in the way of a look at what failed.
        _ => runtime.shutdown_background(),
    }
    if let (Some(summary), None) = (&summary, settings.call) {
        report(&settings, summary, result.is_ok())?;
    }
    if let (Some(path), Some(trace)) = (&settings.trace, trace) {
        write(path, trace.to_json().as_bytes())?;
    }
    if settings.shows() {
        let (name, text) = settings.request.file();
        list(&findings, settings.debug.then_some((name, text)));
    }
    match result {
        Ok(Done::Built(report)) => told.and_then(|()| done(&settings, &report, &findings)),
        Ok(Done::Answered(answer, how)) => answered(&answer, how),
        Err(Stopped::Early(failure)) => Err(failure),
        Err(Stopped::Build(error)) => {
            let kept = match &error {
                BuildError::Solve(e) => e.failed_step(),
                _ => None,
            };
            let failure = {
                let (name, text) = settings.request.file();
                let said = step.as_ref().map(|step| step.tail.as_slice()).unwrap_or_default();
                Failure::of_build(&error, name, text, said)
            };
            let enter = kept.map(|_| inside.again(&["debug", &settings.request.id]));
            let after = Aftermath { step: step.as_ref(), log: log.as_deref(), enter: enter.as_deref() };
            let _ = failure.print(&mut std::io::stderr(), &after);
            if let (true, Some(kept)) = (settings.shell_on_error, kept) {
                debug::after_failure(inside, kept, settings.request.secrets.clone(), steps)?;
            }
            Ok(failure.code())
        }
    }
}

/// Steps reach the agents of the request through the broker.
pub(super) fn lend_agents(inside: &Inside, settings: &mut BuildSettings) -> Result<(), Failure> {
    let agents = lent(inside, std::mem::take(&mut settings.agents))?;
    settings.request.secrets.agents.extend(agents);
    Ok(())
}

/// Agents by id, reached through the broker.
pub(super) fn lent(inside: &Inside, specs: Vec<AgentSpec>) -> Result<BTreeMap<String, Arc<dyn Agent>>, Failure> {
    let mut agents: BTreeMap<String, Arc<dyn Agent>> = BTreeMap::new();
    for spec in specs {
        // Better now than after ten minutes of steps.
        inside.broker.agent(&spec).map_err(|(message, hint)| {
            let failure = Failure::new(FaultKind::Usage, format!("--ssh {}: {message}", spec.id));
            hint.map_or(failure.clone(), |hint| failure.hint(hint))
        })?;
        let agent = BrokeredAgent { client: Arc::clone(&inside.broker), spec: spec.clone() };
        agents.insert(spec.id, Arc::new(agent));
    }
    Ok(agents)
}

pub(super) enum Done {
    Built(BuildReport),
    Answered(Answer, CallOptions),
}

pub(super) enum Stopped {
    Early(Failure),
    Build(BuildError),
}

impl Stopped {
    fn message(&self) -> String {
        match self {
            Self::Early(failure) => failure.message.clone(),
            Self::Build(error) => error.to_string(),
        }
    }
}

/// Where what happens is kept.
pub(super) struct Kept<'a> {
    pub(super) logs: &'a StepLogs,
    pub(super) recorder: &'a Recorder,
    pub(super) head: Head,
}

/// One build, or the answer to a question.
pub(super) async fn run(
    inside: &Inside,
    settings: &BuildSettings,
    budget: Budget,
    events: Events,
    kept: Kept<'_>,
    steps: StepOptions,
    trace: Option<TraceContext>,
) -> Result<Done, Stopped> {
    let early = Stopped::Early;
    let store = inside.store(events.clone()).map_err(early)?;
    if settings.call.is_none() {
        let history = Arc::new(store.build_history());
        kept.logs.keep(Arc::clone(&history), kept.recorder.clone());
        kept.recorder.begin(history, kept.head, &events);
    }
    let lease = store.lease().map_err(|e| early(store_failure(&e)))?;
    let cancel = Cancel::default();
    let mut builder = builder(inside, &store, budget, &events, &cancel, steps).map_err(early)?;
    builder.trace = trace;
    let work = async {
        match settings.call {
            Some(how) => Ok(Done::Answered(builder.call(how.call, &settings.request).await?, how)),
            None => builder.build(&settings.request).await.map(Done::Built),
        }
    };
    tokio::pin!(work);
    let result = tokio::select! {
        result = &mut work => result,
        () = interrupted() => {
            cancel.cancel();
            // Steps are killed at once; what else is under way gets a moment to clean up.
            let _ = tokio::time::timeout(std::time::Duration::from_secs(3), &mut work).await;
            return Err(Stopped::Early(Failure::new(FaultKind::Interrupted, "canceled")));
        }
    };
    let result = result.map_err(Stopped::Build);
    drop(lease);
    let failed = match &result {
        Err(Stopped::Build(BuildError::Solve(e))) => e.failed_step(),
        _ => None,
    };
    if let Some(failed) = failed {
        kept.recorder.failed(failed, &events);
    }
    if settings.call.is_none() {
        // Trouble with old records is the next build's to report.
        let (store, failed, limits) = (store.clone(), failed.is_some(), inside.config.history);
        let _ = tokio::task::spawn_blocking(move || record::tidy(&store, failed, limits)).await;
    }
    // What failed left layers, too.
    if matches!(result, Ok(Done::Built(_)) | Err(Stopped::Build(_))) {
        // Nobody else sets it.
        let _ = inside.leftover.store.set(store);
    }
    result
}

/// What a build is made with here.
pub(super) fn builder(
    inside: &Inside,
    store: &Store,
    budget: Budget,
    events: &Events,
    cancel: &Cancel,
    steps: StepOptions,
) -> Result<Builder, Failure> {
    let client = inside.client(events.clone())?;
    let hasty = inside.hasty_client(events.clone())?;
    let caching = inside.caching_client(events.clone())?;
    let images = ImageSource::with_hasty(store.clone(), client.clone(), hasty.clone(), events.clone());
    let sources = Sources::new(store, &client, events, settings::git(&inside.context.state_dir));
    let steps = inside.runner(steps)?;
    if let Some(moved) = &inside.moved {
        events.notice("isolation", moved.clone());
    }
    if let (Ok(_), Some(weakness)) = (&steps, inside.context.rung.weakness()) {
        let rung = inside.context.rung;
        events.notice("isolation", format!("isolation {rung}: {weakness} (`rbuild doctor` says what would lift that)"));
    }
    Ok(Builder {
        store: store.clone(),
        client,
        hasty,
        caching,
        images,
        sources,
        steps,
        state_dir: inside.context.state_dir.clone(),
        events: events.clone(),
        cancel: cancel.clone(),
        parallelism: inside.config.parallelism.unwrap_or((budget.cpus * 4).max(16)),
        threads: budget.cpus,
        trace: None,
    })
}

/// SIGINT, SIGTERM or SIGHUP.
pub(super) async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
    let waits = kinds.into_iter().filter_map(|kind| signal(kind).ok()).map(|mut s| {
        Box::pin(async move {
            s.recv().await;
        })
    });
    futures_util::future::select_all(waits).await;
}

/// Prints an answer (SPEC A10.25, A10.26).
pub(super) fn answered(answer: &Answer, how: CallOptions) -> Result<u8, Failure> {
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
        let wanted = super::settings::variable("BUILDX_METADATA_WARNINGS").is_some();
        let text = super::metadata::metadata(report, settings.metadata_provenance, if wanted { findings } else { &[] });
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
