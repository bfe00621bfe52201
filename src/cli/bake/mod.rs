//! `rbuild bake`: several builds that files describe (SPEC B7).
//!
//! The definition is evaluated by [`crate::bake`]; [`privileges`] asks whether what it wants of this machine was allowed. Each target
//! becomes the command line of a build, so that it means what that means; they run side by side, those that others are made of first.

mod privileges;
mod remote;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::path::{Component, Path, PathBuf};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use indexmap::IndexMap;
use serde_json::{Map, Value};

use super::args::{Bake, Cli, Command};
use super::build::{answered, done};
use super::contexts::context_key;
use super::errors::{Aftermath, Failure};
use super::image_commands::usage;
use super::invocation::{Done, Invocation, Outcome};
use super::outputs::LOCAL_DELETE;
use super::print;
use super::runtime::runtime;
use super::settings::{self, read_limited, variable, variable_or_empty};
use super::worker::Inside;
use crate::bake::{BakeError, MAX_FILE, Override, SourceFile, Surroundings, Target};
use crate::base::budget::Budget;
use crate::base::values::{boolean, csv_record};
use crate::base::{Event, Events, FaultKind, file};
use crate::build::MainContext;
use crate::oci::Platform;
use crate::ui::{Ended, Progress};
use remote::Positional;

/// Where definitions are looked for, in this order (SPEC B7.01).
const FILES: [&str; 8] = [
    "compose.yaml",
    "compose.yml",
    "docker-compose.yml",
    "docker-compose.yaml",
    "docker-bake.json",
    "docker-bake.hcl",
    "docker-bake.override.json",
    "docker-bake.override.hcl",
];

/// Failed checks, in the metadata file.
const WARNINGS: &str = "buildx.build.warnings";

pub(super) fn bake(inside: &Inside, args: &Bake) -> Result<u8, Failure> {
    if let Some(mode) = args.execution.as_deref().filter(|mode| *mode != "defer-error") {
        return Err(usage(format!("--execution: \"{mode}\" is not supported"))
            .hint("defer-error is what is done: what does not need a target that failed is finished"));
    }
    let environment = |name: &str| {
        let off = variable("BUILDX_BAKE_DISABLE_VARS_ENV_LOOKUP").is_some_and(|text| boolean(&text) != Some(false));
        if off { None } else { variable_or_empty(name) }
    };
    let Positional { definition, command_context, targets: names } = Positional::new(&args.targets);
    let elsewhere = definition.is_some();
    let read = move |path: &str| match path {
        // Nobody said that somebody else's definition may look around here.
        path if elsewhere && path != ".env" => {
            Err(format!("{path}: a definition that is elsewhere cannot name files by include, extends or env_file"))
        }
        path => read_beside(path),
    };
    let relative = variable("BUILDX_BAKE_FILE_RELATIVE_PATHS").is_some_and(|text| boolean(&text) != Some(false));
    let with = Surroundings {
        vars: vars(&args.var)?,
        environment: &environment,
        local_platform: Platform::host().to_string(),
        command_context,
        home: settings::home().map(|home| home.display().to_string()),
        beside: relative.then_some(&beside),
        read: &read,
    };
    let (files, place) = files(inside, args, definition.as_deref())?;
    let bake = crate::bake::Bake::new(&files, &with).map_err(|e| failure(&e))?;
    for warning in bake.warnings() {
        let _ = writeln!(std::io::stderr(), "warning: {warning}");
    }
    if let Some(list) = &args.list {
        return listed(&bake, list);
    }
    let overrides = Override::parse(&overrides(args), &environment).map_err(|e| failure(&e))?;
    let mut targets = bake.resolve(&names, &overrides).map_err(|e| failure(&e))?;
    let wanted = bake.members(&names).map_err(|e| failure(&e))?;
    for (name, target) in &mut targets {
        if !wanted.contains(name) {
            continue;
        }
        for (given, to) in [(args.push, "push"), (args.load, "load")] {
            if given {
                target.send(to);
            }
        }
    }
    if args.print {
        for (name, target) in &mut targets {
            place.as_ref().map_or(Ok(()), |place| place.apply(name, target, true))?;
        }
        return print(&format!("{:#}\n", bake.printed(&names, &targets).map_err(|e| failure(&e))?));
    }
    for (name, target) in &mut targets {
        if let Some(place) = &place {
            place.apply(name, target, false)?;
        }
        let here = |path: &str| Ok::<_, Failure>(path.strip_prefix("cwd://").map(in_directory));
        target.change_contexts(here)?;
    }
    privileges::check(&targets, &privileges::Allowed { flags: &args.allow, set: &args.set, elsewhere })?;
    build_all(inside, args, &targets, &wanted, elsewhere)
}

fn failure(error: &BakeError) -> Failure {
    let kind = match error {
        BakeError::Value { place, .. } if place.starts_with("--") => FaultKind::Usage,
        _ => FaultKind::Input,
    };
    let failure = Failure::new(kind, error.to_string());
    match error {
        BakeError::Missing(_) | BakeError::NoMatch(_) => failure.hint("rbuild bake --list=targets shows what there is"),
        _ => failure,
    }
}

/// A file that a compose file names; nothing if there is none.
fn read_beside(path: &str) -> Result<Option<String>, String> {
    let path = Path::new(path);
    // As docker has it, a directory `.env` is none.
    if !path.is_file() {
        return Ok(None);
    }
    let bytes = read_limited(path, MAX_FILE).map_err(|e| e.to_string())?;
    String::from_utf8(bytes).map(Some).map_err(|_| "not UTF-8".into())
}

/// `--var`; without a value it is taken from the environment.
fn vars(texts: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    let var = |text: &String| match text.split_once('=') {
        Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
        None => match variable_or_empty(text) {
            Some(value) => Ok((text.clone(), value)),
            None => Err(usage(format!("--var {text}: expected NAME=VALUE"))),
        },
    };
    texts.iter().map(var).collect()
}

/// What flags that stand for overrides say.
fn overrides(args: &Bake) -> Vec<String> {
    let mut all = args.set.clone();
    if args.no_cache {
        all.push("*.no-cache=true".into());
    }
    if let Some(pull) = args.pull {
        all.push(format!("*.pull={pull}"));
    }
    for (kind, given) in [("provenance", &args.provenance), ("sbom", &args.sbom)] {
        all.extend(given.as_ref().map(|text| match boolean(text) {
            Some(true) => format!("*.attest=type={kind}"),
            Some(false) => format!("*.attest=type={kind},disabled=true"),
            None => format!("*.attest=type={kind},{text}"),
        }));
    }
    all.extend(args.call.iter().map(|call| format!("*.call={call}")));
    if args.check {
        all.push("*.call=check".into());
    }
    all.extend(args.policy.iter().map(|policy| format!("*.policy+={policy}")));
    all
}

/// A path of a bake file, from where the command was called (SPEC B5.07).
fn beside(file: &str, path: &str) -> String {
    let elsewhere = path.contains("://") || path.starts_with("target:") || path == "-" || remote::is_remote(path);
    let directory = Path::new(file).parent().filter(|dir| !dir.as_os_str().is_empty());
    match directory {
        Some(directory) if !elsewhere && !file.contains("://") && !Path::new(path).is_absolute() => {
            cleaned(&directory.join(path))
        }
        _ => path.to_owned(),
    }
}

/// A path without detours, by its words alone.
fn cleaned(path: &Path) -> String {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if out.file_name().is_some() && !out.ends_with("..") => {
                out.pop();
            }
            part => out.push(part),
        }
    }
    if out.as_os_str().is_empty() { ".".into() } else { out.display().to_string() }
}

/// What is behind `cwd://`; nothing is the directory itself.
fn in_directory(path: &str) -> String {
    if path.is_empty() { ".".into() } else { path.into() }
}

/// The definition's files: `-f`, `BUILDX_BAKE_FILE`, or the usual ones; and the place that their paths are relative to, if not here.
fn files(
    inside: &Inside,
    args: &Bake,
    address: Option<&str>,
) -> Result<(Vec<SourceFile>, Option<remote::Place>), Failure> {
    let separator = ["BUILDX_BAKE_PATH_SEPARATOR", "BUILDX_BAKE_FILE_SEPARATOR"].into_iter().find_map(variable);
    let separator = separator.unwrap_or_else(|| ":".into());
    let of_variable = variable("BUILDX_BAKE_FILE");
    let named: Vec<String> = match (&args.file, of_variable) {
        (given, _) if !given.is_empty() => given.clone(),
        (_, Some(list)) if !list.trim().is_empty() => list.split(separator.as_str()).map(ToOwned::to_owned).collect(),
        _ => Vec::new(),
    };
    let (here, there): (Vec<String>, Vec<String>) =
        named.into_iter().partition(|name| address.is_none() || name.starts_with("cwd://"));
    let (mut all, place) = match address {
        Some(address) => remote::definition(inside, args, address, &there)?,
        None => (Vec::new(), None),
    };
    let here = match address {
        None if here.is_empty() => {
            FILES.into_iter().filter(|name| Path::new(name).exists()).map(ToOwned::to_owned).collect()
        }
        _ => here,
    };
    for name in here {
        all.push(local_file(name)?);
    }
    if all.is_empty() {
        let message = format!("couldn't find a bake definition {}: {}", address.unwrap_or("here"), FILES.join(", "));
        return Err(Failure::new(FaultKind::Input, message).hint("name one with -f FILE"));
    }
    Ok((all, place))
}

fn local_file(name: String) -> Result<SourceFile, Failure> {
    let bytes = match name.strip_prefix("cwd://").unwrap_or(&name) {
        "-" => {
            let mut bytes = Vec::new();
            std::io::stdin().take(MAX_FILE + 1).read_to_end(&mut bytes).map(|_| bytes)
        }
        path => read_limited(Path::new(path), MAX_FILE),
    };
    let bytes =
        bytes.map_err(|e| Failure::new(FaultKind::Input, format!("couldn't find or read bake file {name}: {e}")))?;
    let text = String::from_utf8(bytes);
    let text = text.map_err(|_| Failure::new(FaultKind::Input, format!("bake file {name} is not UTF-8")))?;
    Ok(SourceFile { name, text })
}

/// `--list` (SPEC B7.19).
fn listed(bake: &crate::bake::Bake, what: &str) -> Result<u8, Failure> {
    let fields = csv_record(what).map_err(|e| usage(format!("--list: {e}")))?;
    let (mut kind, mut json) = ("targets".to_owned(), false);
    for field in fields {
        match field.split_once('=').unwrap_or(("type", &field)) {
            ("type", value) => value.clone_into(&mut kind),
            ("format", "json") => json = true,
            ("format", "table") => json = false,
            _ => {
                return Err(usage(format!("--list: invalid value {field}"))
                    .hint("targets, variables, or type=targets,format=json"));
            }
        }
    }
    let (heads, rows): (&[&str], Vec<Vec<String>>) = match kind.as_str() {
        "targets" => {
            (&["target", "description"], bake.listed().into_iter().map(|(name, text)| vec![name, text]).collect())
        }
        "variables" => {
            let row = |v: &crate::bake::VariableInfo| {
                vec![v.name.clone(), v.kind.clone(), v.value.clone(), v.description.clone()]
            };
            (&["variable", "type", "value", "description"], bake.variables().iter().map(row).collect())
        }
        other => {
            return Err(usage(format!("--list: unknown type \"{other}\""))
                .hint("targets, variables, or type=targets,format=json"));
        }
    };
    if json {
        let object = |row: &Vec<String>| {
            let names = heads.iter().map(|head| if matches!(*head, "target" | "variable") { "name" } else { head });
            let fields = names.zip(row).filter(|(name, value)| *name == "name" || !value.is_empty());
            fields.map(|(name, value)| (name.to_owned(), Value::from(value.clone()))).collect::<Map<_, _>>()
        };
        return print(&format!("{:#}\n", Value::Array(rows.iter().map(|row| Value::Object(object(row))).collect())));
    }
    let heads: Vec<String> = heads.iter().map(|head| head.to_uppercase()).collect();
    print(&super::table::columns(&[vec![heads], rows].concat()))
}

/// A target on its way.
struct Job {
    name: String,
    build: Invocation,
    /// Others that it is made of, with the context's name.
    links: BTreeMap<String, String>,
}

fn build_all(
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
    let (mode, _) = settings::progress(args.progress.kind.as_deref(), args.progress.quiet, &inside.config)?;
    let budget = Budget::detect();
    let runtime = runtime(budget)?;
    let (progress, events) = Progress::start(mode, std::io::stderr(), settings::style()?);
    let many = jobs.len() > 1;
    let mut waiting: Vec<Job> = jobs;
    let mut finished: Vec<(Job, Outcome)> = Vec::new();
    runtime.block_on(async {
        let mut running = FuturesUnordered::new();
        loop {
            // Each begins as soon as those it is made of are there.
            let made = |name: &String| finished.iter().any(|(job, o)| job.name == *name && o.result.is_ok());
            let (mut ready, later): (Vec<Job>, Vec<Job>) =
                waiting.drain(..).partition(|job| job.links.values().all(made));
            let free = args.jobs.map_or(usize::MAX, std::num::NonZero::get).saturating_sub(running.len());
            waiting = ready.split_off(ready.len().min(free));
            waiting.extend(later);
            for job in ready {
                let shown = if many { of_name(events.clone(), job.name.clone()) } else { events.clone() };
                running.push(async move {
                    let outcome = job.build.run(inside, budget, &shown, None).await;
                    (job, outcome)
                });
            }
            match running.next().await {
                Some(outcome) => finished.push(outcome),
                None => break,
            }
        }
    });
    drop(events);
    let first_to_fail = finished.iter().find(|(_, outcome)| outcome.vertex().is_some());
    let first_to_fail = first_to_fail.map(|(job, outcome)| (job.name.clone(), outcome));
    let ended = progress.finish(first_to_fail.as_ref().and_then(|(_, outcome)| outcome.vertex()));
    runtime.shutdown_background();
    let (mut code, mut metadata, mut warnings) = (0, Map::new(), None);
    for (job, outcome) in &finished {
        let settings = &job.build.settings;
        let of_job = match &outcome.result {
            Ok(Done::Built(report)) => {
                let code = done(settings, report, &ended.findings)?;
                let told = settings.metadata_file.as_ref().and_then(|path| std::fs::read(path).ok());
                if let Some(Ok(Value::Object(mut value))) = told.map(|bytes| serde_json::from_slice(&bytes)) {
                    // Of all targets together (SPEC B7.23).
                    warnings = value.shift_remove(WARNINGS).or(warnings);
                    metadata.insert(job.name.clone(), Value::Object(value));
                }
                code
            }
            Ok(Done::Answered(answer, how)) => answered(answer, *how)?,
            Err(_) => {
                // What the display remembers is one step's, that of the first target to fail.
                let of_other = Ended::default();
                let shown = first_to_fail.as_ref().filter(|(name, _)| *name == job.name).map_or(&of_other, |_| &ended);
                outcome.complain(settings, shown, None, |failure| of_target(failure, &job.name, many))
            }
        };
        code = code.max(of_job);
    }
    for job in &waiting {
        let message = format!("target {}: not built, because what it is made of was not", job.name);
        let _ = Failure::new(FaultKind::Input, message).print(&mut std::io::stderr(), &Aftermath::default());
    }
    if let (Some(path), 0) = (&args.metadata_file, code) {
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
    } else if remote::is_remote(context) {
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
