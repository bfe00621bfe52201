//! `rbuild builds`: builds that were, and those under way (SPEC B8.06–B8.08). `rbuild buildx history` is the same.

mod attachment;
mod export;
mod filter;
mod import;

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::args::{Builds, InspectBuild, InspectPart, ListBuilds, TraceBuild};
use super::errors::Failure;
use super::image_commands::usage;
use super::worker::{Inside, store_failure};
use super::{settings, table};
use crate::base::events::Outcome;
use crate::base::values::boolean;
use crate::base::{Events, FaultKind, TraceContext};
use crate::build::attachments::Attachment;
use crate::build::record::{self, BuildRecord, Status};
use crate::ui::otlp::{self, Encoding, Resource};
use crate::ui::{Mode, Progress, Span, Trace};
use filter::Filter;

/// So many lines of a failed step are part of the answer to why a build failed.
const ERROR_LINES: usize = 20;

pub(super) fn run(inside: &Inside, command: &Builds) -> Result<u8, Failure> {
    let store = inside.store(Events::none())?;
    let records = record::records(&store).map_err(|e| store_failure(&e))?;
    match command {
        Builds::Ls(args) => list(&records, args),
        Builds::Inspect(args) => match &args.part {
            None => inspect(one(&records, args.build.as_deref())?, args),
            Some(InspectPart::Attachment { build, digest, kind, platform }) => {
                let wanted = attachment::Wanted::new(digest.as_deref(), kind.as_deref(), platform.as_deref())?;
                attachment::show(one(&records, build.as_deref())?, &wanted)
            }
        },
        Builds::Logs { build, progress } => logs(inside, one(&records, build.as_deref())?, progress),
        Builds::Rm { builds, all } => {
            let wanted = several(&records, builds, *all, "to forget")?;
            for build in wanted {
                if !record::forget(&store, build).map_err(|e| store_failure(&e))? {
                    let message = format!("build {} is under way", build.head.id);
                    if !*all {
                        return Err(usage(message).hint("stop it first"));
                    }
                    let _ = writeln!(std::io::stderr(), "notice: {message}, it is kept");
                    continue;
                }
                super::print(&format!("{}\n", build.head.id))?;
            }
            Ok(0)
        }
        Builds::Export(args) => {
            let newest: Vec<String> =
                if args.builds.is_empty() && !args.all { vec!["^0".into()] } else { args.builds.clone() };
            export::export(&several(&records, &newest, args.all, "to export")?, args.output.as_deref())
        }
        Builds::Import(args) => import::import(&store, &records, args),
        Builds::Trace(args) => trace(one(&records, args.build.as_deref())?, args),
    }
}

/// The build that a reference means: an ID or the beginning of one, alone or at the end of a path as `--metadata-file`
/// has it, or `^N`.
pub(super) fn find<'a>(records: &'a [BuildRecord], reference: &str) -> Result<&'a BuildRecord, Failure> {
    let none = |message: String| usage(message).hint("`rbuild builds ls` lists the builds that are known");
    if records.is_empty() {
        let message = match reference {
            "^0" => "no build is known yet".to_owned(),
            reference => format!("there is no build \"{reference}\": none is known yet"),
        };
        return Err(usage(message)
            .hint("every build leaves a record as it runs; old ones go, and those that `rbuild builds rm` names"));
    }
    if let Some(offset) = reference.strip_prefix('^') {
        let offset: usize =
            offset.parse().map_err(|_| usage(format!("invalid offset \"{reference}\": expected ^N")))?;
        return records
            .get(offset)
            .ok_or_else(|| none(format!("there is no build {reference}: {} are known", records.len())));
    }
    let id = reference.rsplit('/').next().unwrap_or(reference);
    let mut found = records.iter().filter(|record| !id.is_empty() && record.head.id.starts_with(id));
    match (found.next(), found.next()) {
        (Some(record), None) => Ok(record),
        (Some(_), Some(_)) => Err(usage(format!("several builds begin with \"{id}\"")).hint("give more of the ID")),
        (None, _) => Err(none(format!("there is no build \"{reference}\""))),
    }
}

fn one<'a>(records: &'a [BuildRecord], reference: Option<&str>) -> Result<&'a BuildRecord, Failure> {
    find(records, reference.unwrap_or("^0"))
}

fn several<'a>(
    records: &'a [BuildRecord],
    references: &[String],
    all: bool,
    what: &str,
) -> Result<Vec<&'a BuildRecord>, Failure> {
    match (all, references.is_empty()) {
        (true, true) => Ok(records.iter().collect()),
        (true, false) => Err(usage("--all and names of builds exclude each other")),
        (false, true) => Err(usage(format!("name the builds {what}, or give --all"))),
        (false, false) => references.iter().map(|reference| find(records, reference)).collect(),
    }
}

fn list(records: &[BuildRecord], args: &ListBuilds) -> Result<u8, Failure> {
    let filters: Result<Vec<Filter>, String> = args.filter.iter().map(|text| text.parse()).collect();
    let mut filters = filters.map_err(|e| usage(format!("--filter: {e}")))?;
    if args.local {
        let here = std::env::current_dir().ok().and_then(|dir| super::vcs::repository(&dir));
        let here = here.ok_or_else(|| usage("--local: this directory is in no git repository"))?;
        filters.push(Filter::Below(here.root));
    }
    let (mut cells, mut rows) = (Vec::new(), Vec::new());
    for record in records.iter().filter(|record| filters.iter().all(|filter| filter.matches(record))) {
        let (total, done, cached) = record.counts();
        let name = match record.head.name.char_indices().rev().nth(34) {
            Some((at, _)) if !args.no_trunc => format!("..{}", &record.head.name[at + 2..]),
            _ => record.head.name.clone(),
        };
        cells.push(vec![
            record.head.id.clone(),
            name,
            status(record),
            table::ago(record.head.started),
            duration(record.duration()),
        ]);
        rows.push(match args.format.as_str() {
            // As buildx names them where programs read them.
            "json" => json!({
                "ref": full_ref(record), "name": record.head.name, "status": status(record),
                "created_at": record.head.started, "completed_at": record.ended(),
                "total_steps": total, "completed_steps": done, "cached_steps": cached,
            }),
            _ => json!({
                "Ref": record.head.id, "Name": record.head.name, "Status": status(record),
                "CreatedAt": table::ago(record.head.started), "Duration": duration(record.duration()),
            }),
        });
    }
    super::print(&table::rows(&args.format, &["BUILD ID", "NAME", "STATUS", "CREATED AT", "DURATION"], cells, &rows)?)
}

/// With the names of the builder and its node, as `--metadata-file` has it.
fn full_ref(record: &BuildRecord) -> String {
    format!("rbuild/rbuild/{}", record.head.id)
}

fn status(record: &BuildRecord) -> String {
    let text = record.status().as_str();
    let (first, rest) = text.split_at(1);
    first.to_uppercase() + rest
}

/// `1m  5s`.
fn duration(duration: Duration) -> String {
    match duration.as_secs() {
        0..60 => format!("{:.1}s", duration.as_secs_f64()),
        seconds => format!("{}m {:2}s", seconds / 60, seconds % 60),
    }
}

/// Everything that is known of a build, in buildx's words (SPEC B8.07).
fn details(record: &BuildRecord) -> Value {
    let head = &record.head;
    let (total, done, cached) = record.counts();
    let pairs = |map: &std::collections::BTreeMap<String, String>| -> Value {
        map.iter().map(|(name, value)| json!({"Name": name, "Value": value})).collect()
    };
    let images = record.end.iter().flat_map(|end| &end.images);
    let images: Value = images
        .map(
            |image| json!({"Digest": image.digest, "Type": image.media_type, "Size": image.size, "Names": image.names}),
        )
        .collect();
    let attachments = record.attachments.iter();
    let attachments: Value = attachments
        .map(|a| json!({"Digest": a.digest, "Platform": a.platform.as_deref().unwrap_or_default(), "Type": a.kind()}))
        .collect();
    let materials = attachment::materials(record).into_iter();
    let materials: Value = materials.map(|(uri, digests)| json!({"URI": uri, "Digests": digests})).collect();
    let argument = |name: &str| head.build_args.get(name);
    let set = |name: &str| argument(name).is_some_and(|text| boolean(text) == Some(true));
    let steps: Value = record
        .steps
        .iter()
        .map(|step| {
            let (outcome, error) = match &step.completed {
                Some((_, Outcome::Failed(why))) => ("failed", Some(why.clone())),
                Some((_, Outcome::Done)) => ("done", None),
                Some((_, Outcome::Cached)) => ("cached", None),
                Some((_, Outcome::Canceled)) => ("canceled", None),
                None if step.started.is_some() && record.status() == Status::Running => ("running", None),
                None => ("", None),
            };
            json!({
                "Name": step.name, "StartedAt": step.started, "CompletedAt": step.completed.as_ref().map(|c| c.0),
                "Status": outcome, "Error": error, "Log": step.log.map(|number| record.kept.log_path(number)),
            })
        })
        .collect();
    json!({
        "Name": head.name, "Ref": head.id, "Context": head.context, "Dockerfile": head.dockerfile,
        "VCSRepository": head.repository, "VCSRevision": head.revision, "Target": head.target,
        "Platform": head.platforms, "NamedContexts": pairs(&head.named_contexts),
        "StartedAt": head.started, "CompletedAt": record.ended(), "Duration": i64::try_from(record.duration().as_nanos()).unwrap_or(i64::MAX),
        "Status": record.status().as_str(), "Error": why(record),
        "NumCompletedSteps": done, "NumTotalSteps": total, "NumCachedSteps": cached,
        "BuildArgs": pairs(&head.build_args), "Labels": pairs(&head.labels),
        "Config": {
            "Network": head.network, "ExtraHosts": head.extra_hosts, "NoCache": head.no_cache,
            "NoCacheFilter": head.no_cache_filter, "ImageResolveMode": if head.pull { "pull" } else { "local" },
            "MultiPlatform": head.platforms.len() > 1 || set("BUILDKIT_MULTI_PLATFORM"), "Tags": head.tags,
            "ShmSize": head.shm_size, "Ulimit": head.ulimits, "CgroupParent": head.cgroup_parent,
            "Hostname": head.hostname, "SandboxHostname": argument("BUILDKIT_SANDBOX_HOSTNAME"), "CacheMountNS": argument("BUILDKIT_CACHE_MOUNT_NS"),
            "DockerfileCheckConfig": argument("BUILDKIT_DOCKERFILE_CHECK"),
            "SourceDateEpoch": argument("SOURCE_DATE_EPOCH"), "KeepGitDir": set("BUILDKIT_CONTEXT_KEEP_GIT_DIR"),
        },
        "Images": images, "Materials": materials, "Attachments": attachments, "Steps": steps, "Warnings": record.warnings.iter().map(|w| &w.short).collect::<Vec<_>>(),
        "Debug": record.failed.is_some(), "Size": record.kept.size(), "Version": head.version,
    })
}

/// Why a build failed: what was said, and of a step that failed its name and the end of what it said (SPEC B8.07).
fn why(record: &BuildRecord) -> Value {
    let Some(message) = record.error() else { return Value::Null };
    let failed = record.steps.iter().find(|step| matches!(&step.completed, Some((_, Outcome::Failed(_)))));
    let logs = failed.and_then(|step| step.log).and_then(|number| record.last_lines(number, ERROR_LINES).ok());
    json!({"Message": message, "Name": failed.map(|step| &step.name), "Logs": logs.unwrap_or_default()})
}

fn inspect(record: &BuildRecord, args: &InspectBuild) -> Result<u8, Failure> {
    match args.format.as_str() {
        "pretty" | "text" => super::print(&pretty(record)),
        "json" => super::print(&format!("{:#}\n", details(record))),
        template => super::print(&table::rows(template, &[], Vec::new(), &[details(record)])?),
    }
}

fn pretty(record: &BuildRecord) -> String {
    let head = &record.head;
    let (total, done, cached) = record.counts();
    let mut out = String::new();
    let mut line = |name: &str, value: &str| {
        if !value.is_empty() {
            let _ = writeln!(out, "{:<16}{value}", format!("{name}:"));
        }
    };
    line("Name", &head.name);
    line("Build", &head.id);
    line("Context", head.directory.as_deref().unwrap_or(&head.context));
    line("Dockerfile", &head.dockerfile);
    line("VCS Repository", head.repository.as_deref().unwrap_or_default());
    line("VCS Revision", head.revision.as_deref().unwrap_or_default());
    line("Target", head.target.as_deref().unwrap_or_default());
    line("Platforms", &head.platforms.join(", "));
    line("Tags", &head.tags.join(", "));
    out.push('\n');
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(out, "{:<16}{value}", format!("{name}:"));
    };
    line("Started", &table::time(head.started.into()));
    line("Duration", &duration(record.duration()));
    line("Status", &status(record));
    let percent = (cached * 100).checked_div(done).unwrap_or(0);
    line("Build Steps", &format!("{done}/{total} ({percent}% cached)"));
    if let Some(error) = record.error() {
        line("Error", error);
    }
    for (title, map) in
        [("Build Args", &head.build_args), ("Labels", &head.labels), ("Named Contexts", &head.named_contexts)]
    {
        if !map.is_empty() {
            let rows = map.iter().map(|(name, value)| vec![name.clone(), value.clone()]);
            let rows: Vec<Vec<String>> = std::iter::once(vec!["NAME".into(), "VALUE".into()]).chain(rows).collect();
            let _ = write!(out, "\n{title}:\n{}", table::columns(&rows));
        }
    }
    let ran: Vec<_> = record.steps.iter().filter(|step| step.started.is_some()).collect();
    if !ran.is_empty() {
        let rows = ran.iter().map(|step| {
            let end = step.completed.as_ref().map(|c| c.0).or_else(|| record.ended()).unwrap_or_else(Timestamp::now);
            let took = step.started.and_then(|start| Duration::try_from(end - start).ok()).unwrap_or_default();
            let how = match &step.completed {
                Some((_, Outcome::Cached)) => "cached".to_owned(),
                Some((_, Outcome::Failed(_))) => "FAILED".to_owned(),
                Some((_, Outcome::Canceled)) => "canceled".to_owned(),
                Some((_, Outcome::Done)) => duration(took),
                None => format!("{} …", duration(took)),
            };
            vec![how, step.name.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(100).collect()]
        });
        let rows: Vec<Vec<String>> = std::iter::once(vec!["TIME".into(), "STEP".into()]).chain(rows).collect();
        let _ = write!(out, "\nSteps:\n{}", table::columns(&rows));
    }
    let images: Vec<_> = record.end.iter().flat_map(|end| &end.images).collect();
    if !images.is_empty() {
        let rows = images.iter().map(|image| vec![image.digest.to_string(), image.names.join(", ")]);
        let rows: Vec<Vec<String>> = std::iter::once(vec!["DIGEST".into(), "NAMES".into()]).chain(rows).collect();
        let _ = write!(out, "\nImages:\n{}", table::columns(&rows));
    }
    let materials = attachment::materials(record);
    if !materials.is_empty() {
        let rows = materials.into_iter().map(|(uri, digests)| vec![uri, digests.join(", ")]);
        let rows: Vec<Vec<String>> = std::iter::once(vec!["URI".into(), "DIGEST".into()]).chain(rows).collect();
        let _ = write!(out, "\nMaterials:\n{}", table::columns(&rows));
    }
    if !record.attachments.is_empty() {
        let row =
            |a: &Attachment| vec![a.digest.to_string(), a.platform.clone().unwrap_or_default(), a.kind().to_owned()];
        let heading = vec!["DIGEST".into(), "PLATFORM".into(), "TYPE".into()];
        let rows: Vec<Vec<String>> = std::iter::once(heading).chain(record.attachments.iter().map(row)).collect();
        let _ = write!(out, "\nAttachments:\n{}", table::columns(&rows));
    }
    let _ = writeln!(out, "\nLogs:           rbuild builds logs {}", head.id);
    if record.failed.is_some() {
        let _ = writeln!(out, "Look around:    rbuild debug {}", head.id);
    }
    out
}

fn logs(inside: &Inside, record: &BuildRecord, kind: &str) -> Result<u8, Failure> {
    let mode = match kind {
        "rawjson" => Mode::RawJson,
        "tty" => {
            settings::progress(Some("tty"), false, &inside.config)?;
            Mode::Tty
        }
        _ => Mode::Plain,
    };
    let (progress, events) = Progress::start(mode, std::io::stdout(), settings::style()?);
    let result = record.replay(&events);
    drop(events);
    progress.finish(None);
    result.map_err(|e| store_failure(&e))?;
    if let Some(error) = record.error().filter(|_| mode != Mode::RawJson) {
        let mut out = std::io::stdout();
        let excerpt = record.excerpt().unwrap_or_default();
        let written =
            write!(out, "{excerpt}").and_then(|()| writeln!(out, "error: {error}")).and_then(|()| out.flush());
        if let Err(e) = written
            && e.kind() != std::io::ErrorKind::BrokenPipe
        {
            return Err(Failure::new(FaultKind::Store, format!("cannot write to standard output: {e}")));
        }
    }
    Ok(0)
}

/// Where the time went, from the record: steps, not their transfers.
fn trace(record: &BuildRecord, args: &TraceBuild) -> Result<u8, Failure> {
    for (flag, given) in [("--addr", &args.addr), ("--compare", &args.compare)] {
        if given.is_some() {
            return Err(usage(format!("builds trace: {flag} is not supported: nothing is served here"))
                .hint("write a trace with -o FILE; browsers and Perfetto show it"));
        }
    }
    let trace = Trace::default();
    record.replay(&trace.tee(Events::none())).map_err(|e| store_failure(&e))?;
    let text = match args.format.as_str() {
        "chrome" => trace.to_json() + "\n",
        _ => {
            let mut spans = trace.take_new();
            let error = record.error().map(ToOwned::to_owned);
            spans.push(Span::of_build(record.head.started.into(), record.ended().unwrap_or_default().into(), error));
            let service = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
            let attributes = [("service.name", "rbuild"), ("service.version", record.head.version.as_str())];
            let resource = Resource { attributes: attributes.map(service).into(), state: String::new() };
            let bytes = otlp::spans(&TraceContext::root(), &resource, &spans, Encoding::Json);
            String::from_utf8_lossy(&bytes).into_owned() + "\n"
        }
    };
    let Some(path) = &args.output else { return super::print(&text) };
    crate::base::file::write_atomic(path, text.as_bytes()).map_err(|e| {
        Failure::new(FaultKind::of_io(&e, FaultKind::Store), format!("cannot write {}: {e}", path.display()))
    })?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b8_06_times_are_for_people() {
        assert_eq!(duration(Duration::from_millis(1449)), "1.4s");
        assert_eq!(duration(Duration::from_secs(65)), "1m  5s");
        let before =
            |seconds: i64| table::ago(Timestamp::from_second(Timestamp::now().as_second() - seconds).expect("a time"));
        assert_eq!(before(0), "now");
        assert_eq!(before(61), "1 minute ago");
        assert_eq!(before(30 * 3600), "30 hours ago");
        assert_eq!(before(3 * 86_400 + 5), "3 days ago");
        assert_eq!(before(20 * 86_400), "2 weeks ago");
        assert_eq!(before(400 * 86_400), "13 months ago");
        assert_eq!(before(3 * 365 * 86_400), "3 years ago");
        assert_eq!(before(-50), "now", "clocks differ");
    }
}
