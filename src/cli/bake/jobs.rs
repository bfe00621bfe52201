//! The targets of a definition as builds: what each becomes, in which order they run, and what is said at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use indexmap::IndexMap;
use serde_json::{Map, Value};

use super::remote;
use crate::bake::Target;
use crate::base::budget::Budget;
use crate::base::{Event, Events, FaultKind, file};
use crate::build::MainContext;
use crate::cli::args::{Bake, Cli, Command};
use crate::cli::build::{answered, done};
use crate::cli::contexts::context_key;
use crate::cli::errors::{Aftermath, ExitCodes, Failure};
use crate::cli::invocation::{Done, Invocation, Outcome};
use crate::cli::outputs::LOCAL_DELETE;
use crate::cli::runtime::runtime;
use crate::cli::settings;
use crate::cli::worker::Inside;
use crate::frontend::remote::ArchiveRef;
use crate::ui::{Ended, Progress};

/// Failed checks, in the metadata file.
const WARNINGS: &str = "buildx.build.warnings";

/// A target on its way.
struct Job {
    name: String,
    build: Invocation,
    /// Others that it is made of, with the context's name.
    links: BTreeMap<String, String>,
}

/// How all of them ended.
#[derive(Default)]
struct Ends {
    finished: Vec<(Job, Outcome)>,
    /// What they are made of failed.
    never_begun: Vec<Job>,
}

/// Builds the targets, those that others are made of first. The exit code is that of the worst failure.
pub(super) fn build_all(
    inside: &Inside,
    args: &Bake,
    targets: &IndexMap<String, Target>,
    wanted: &[String],
    of_elsewhere: bool,
) -> Result<u8, Failure> {
    let room =
        tempfile::tempdir().map_err(|e| Failure::new(FaultKind::Store, format!("cannot make a directory: {e}")))?;
    let parts: BTreeSet<String> = targets.values().flat_map(|target| target.linked().into_values()).collect();
    let mut jobs = Vec::new();
    for (name, target) in targets {
        let part = parts.contains(name).then(|| room.path().join("parts").join(name));
        let mut job = job(inside, args, name, target, part.as_deref(), room.path())?;
        if let (true, MainContext::Git(reference)) = (of_elsewhere, &job.build.settings.request.context) {
            // What let us read the definition lets us read the contexts; steps do not get it.
            let credentials = remote::credentials(reference);
            let secrets = &mut job.build.settings.request.secrets;
            if !credentials.is_empty() {
                secrets.for_sources.get_or_insert_with(|| secrets.values.clone()).extend(credentials);
            }
        }
        jobs.push(job);
    }
    let (mode, _, style) = settings::shown(&args.progress, &inside.config)?;
    let budget = Budget::detect();
    let runtime = runtime(budget)?;
    let (progress, events) = Progress::start(mode, std::io::stderr(), style);
    let at_once = args.jobs.map_or(usize::MAX, std::num::NonZero::get);
    let ends = runtime.block_on(run_all(inside, jobs, at_once, budget, &events));
    drop(events);
    let first_to_fail = ends.finished.iter().position(|(_, outcome)| outcome.vertex().is_some());
    let ended = progress.finish(first_to_fail.and_then(|at| ends.finished[at].1.vertex()));
    runtime.shutdown_background();
    report(args, wanted, &ends, first_to_fail, &ended)
}

/// Each begins as soon as those it is made of are there.
async fn run_all(inside: &Inside, jobs: Vec<Job>, at_once: usize, budget: Budget, events: &Events) -> Ends {
    let many = jobs.len() > 1;
    let mut ends = Ends { never_begun: jobs, ..Ends::default() };
    let mut running = FuturesUnordered::new();
    loop {
        let made = |name: &String| ends.finished.iter().any(|(job, o)| job.name == *name && o.result.is_ok());
        let (mut ready, later): (Vec<Job>, Vec<Job>) =
            ends.never_begun.drain(..).partition(|job| job.links.values().all(made));
        let free = at_once.saturating_sub(running.len());
        ends.never_begun = ready.split_off(ready.len().min(free));
        ends.never_begun.extend(later);
        for job in ready {
            let shown = if many { of_name(events.clone(), job.name.clone()) } else { events.clone() };
            running.push(async move {
                let outcome = job.build.run(inside, budget, &shown, None).await;
                (job, outcome)
            });
        }
        match running.next().await {
            Some(outcome) => ends.finished.push(outcome),
            None => return ends,
        }
    }
}

/// Says how it went, and writes the metadata of all targets (SPEC B7.23). `ended` is what the display remembers, of the build that
/// was the first to fail.
fn report(
    args: &Bake,
    wanted: &[String],
    ends: &Ends,
    first_to_fail: Option<usize>,
    ended: &Ended,
) -> Result<u8, Failure> {
    let many = ends.finished.len() + ends.never_begun.len() > 1;
    let (mut code, mut metadata, mut warnings) = (0, Map::new(), None);
    let mut failed = !ends.never_begun.is_empty();
    for (at, (job, outcome)) in ends.finished.iter().enumerate() {
        let settings = &job.build.settings;
        let of_job = match &outcome.result {
            Ok(Done::Built(report)) => done(settings, report, &ended.findings)?,
            Ok(Done::Answered(answer, how)) => answered(settings, answer, *how)?,
            Err(_) => {
                failed = true;
                let of_other = Ended::default();
                let shown = if first_to_fail == Some(at) { ended } else { &of_other };
                outcome.complain(settings, shown, None, ExitCodes::Kinds, |failure| of_target(failure, &job.name, many))
            }
        };
        let told = settings.metadata_file.as_ref().filter(|_| outcome.result.is_ok());
        let told = told.and_then(|path| std::fs::read(path).ok());
        if let Some(Ok(Value::Object(mut value))) = told.map(|bytes| serde_json::from_slice(&bytes)) {
            warnings = value.shift_remove(WARNINGS).or(warnings);
            metadata.insert(job.name.clone(), Value::Object(value));
        }
        code = code.max(of_job);
    }
    for job in &ends.never_begun {
        let message = format!("target {}: not built, because what it is made of was not", job.name);
        let _ = Failure::new(FaultKind::Input, message).print(&mut std::io::stderr(), &Aftermath::default());
    }
    if let (Some(path), false) = (&args.metadata_file, failed) {
        metadata.retain(|name, _| wanted.contains(name));
        metadata.extend(warnings.map(|warnings| (WARNINGS.to_owned(), warnings)));
        let text = format!("{:#}\n", Value::Object(metadata));
        file::write_atomic(path, text.as_bytes())
            .map_err(|e| Failure::new(FaultKind::Store, format!("cannot write {}: {e}", path.display())))?;
    }
    Ok(code)
}

fn of_target(failure: Failure, name: &str, many: bool) -> Failure {
    if many { Failure { message: format!("target {name}: {}", failure.message), ..failure } } else { failure }
}

/// A target as the build that it is.
fn job(
    inside: &Inside,
    args: &Bake,
    name: &str,
    target: &Target,
    part: Option<&Path>,
    room: &Path,
) -> Result<Job, Failure> {
    let fault = |e: std::io::Error| Failure::new(FaultKind::Store, format!("cannot make a directory: {e}"));
    let mut words = vec!["rbuild".to_owned(), "build".to_owned()];
    words.extend(target.arguments());
    // What a target may do was asked about for all of them.
    let passed = |allow: &&String| allow.starts_with("device") || *allow == LOCAL_DELETE;
    words.extend(args.allow.iter().filter(passed).map(|allow| format!("--allow={allow}")));
    let links = target.linked();
    if let Some(place) = part {
        std::fs::create_dir_all(place).map_err(fault)?;
        words.push(format!("--output=type=oci,tar=false,compression=uncompressed,dest={}", place.display()));
        words.push("--provenance=false".into());
    }
    let context = target.text("context").unwrap_or(".");
    words.push(format!("--file={}", dockerfile(name, target, context, room)?.display()));
    words.push("--".into());
    words.push(context.to_owned());
    let words: Vec<std::ffi::OsString> = words.into_iter().map(Into::into).collect();
    let parsed = Cli::parse_words(&words).map_err(|e| {
        let text = e.to_string();
        let line = text.lines().next().unwrap_or_default();
        Failure::new(FaultKind::Input, format!("target {name}: {}", line.trim_start_matches("error: ")))
    })?;
    let Command::Build(mut build) = parsed.command else {
        return Err(Failure::new(FaultKind::Internal, format!("target {name} is no build")));
    };
    if args.metadata_file.is_some() {
        build.metadata_file = Some(room.join(format!("{name}.json")));
    }
    build.progress.clone_from(&args.progress.kind);
    let named = |failure: Failure| of_target(failure, name, true);
    let mut build = Invocation::new(inside, *build).map_err(named)?;
    for (context, other) in &links {
        // No flag says it: a layout that one names has to be there, and this one is still to be made.
        let place = format!("oci-layout://{}", room.join("parts").join(other).display());
        build.settings.request.options.named_contexts.insert(context_key(context).map_err(named)?, place);
    }
    Ok(Job { name: name.to_owned(), build, links })
}

/// The Dockerfile's path: inside the context, unlike that of a build.
fn dockerfile(name: &str, target: &Target, context: &str, room: &Path) -> Result<PathBuf, Failure> {
    if let Some(text) = target.text("dockerfile-inline") {
        let dir = room.join("inline").join(name);
        let path = dir.join("Dockerfile");
        let written = std::fs::create_dir_all(&dir).and_then(|()| std::fs::write(&path, text));
        written.map_err(|e| Failure::new(FaultKind::Store, format!("cannot write {}: {e}", path.display())))?;
        return Ok(path);
    }
    let path = target.text("dockerfile").unwrap_or("Dockerfile");
    if let Some(path) = path.strip_prefix("cwd://") {
        // Not in the context, even if that is elsewhere.
        return std::path::absolute(path)
            .map_err(|e| Failure::new(FaultKind::Input, format!("target {name}: cannot find {path}: {e}")));
    }
    Ok(if remote::is_remote(path) {
        path.into()
    } else if remote::is_remote(context) || ArchiveRef::parse(context).is_some() {
        // Absolute is absolute there, not here.
        path.trim_start_matches('/').into()
    } else {
        Path::new(context).join(path)
    })
}

/// Steps say which target they belong to: `[app 1/2] FROM …`.
fn of_name(events: Events, target: String) -> Events {
    Events::new(move |event| {
        events.send(match event {
            Event::Vertex { id, name, inputs } => {
                let name = match name.strip_prefix('[') {
                    Some(rest) => format!("[{target} {rest}"),
                    None => format!("[{target}] {name}"),
                };
                Event::Vertex { id, name, inputs }
            }
            other => other,
        });
    })
}
