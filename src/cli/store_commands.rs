//! Commands on the store as a whole: du, prune, system reset, unshare.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};

use super::args::{Du, Explain, Prune};
use super::errors::Failure;
use super::grammar;
use super::table::{size, time};
use super::worker::{Inside, store_failure};
use crate::base::duration::parse_span;
use crate::base::{Events, FaultKind};
use crate::cache::explain::Memory;
use crate::store::{Filter, PruneOptions, UsageRecord};

fn json(value: &serde_json::Value) -> Result<u8, Failure> {
    super::print(&format!("{}\n", serde_json::to_string_pretty(value).unwrap_or_default()))
}

fn filters(texts: &[String]) -> Result<Vec<Filter>, Failure> {
    let mut out = Vec::new();
    for text in texts {
        let all = Filter::parse_all(text);
        out.extend(all.map_err(|e| Failure::new(FaultKind::Usage, format!("--filter: {e}")))?);
    }
    Ok(out)
}

fn record_json(r: &UsageRecord) -> serde_json::Value {
    serde_json::json!({
        "ID": r.id, "Type": r.kind.name(), "Description": r.description, "Size": r.size, "Reclaimable": r.reclaimable > 0,
        "CreatedAt": time(r.created), "LastUsedAt": time(r.last_used), "UsageCount": r.usage, "InUse": r.in_use,
        "Mutable": r.mutable, "Shared": r.shared, "Parents": r.parents,
    })
}

fn table(records: &[UsageRecord], verbose: bool) -> String {
    let mut out = String::new();
    if verbose {
        for r in records {
            let _ = writeln!(
                out,
                "ID:\t\t{}\nType:\t\t{}\nDescription:\t{}\nSize:\t\t{}\nReclaimable:\t{}\nCreated at:\t{}\nLast used:\t{}\nUsage count:\t{}\nParents:\t{}\n",
                r.id,
                r.kind.name(),
                r.description,
                size(r.size),
                r.reclaimable > 0,
                time(r.created),
                time(r.last_used),
                r.usage,
                r.parents.join(", ")
            );
        }
        return out;
    }
    let _ = writeln!(out, "{:<28} {:<18} {:<12} {:<12} DESCRIPTION", "ID", "TYPE", "RECLAIMABLE", "SIZE");
    for r in records {
        let id: String = r.id.chars().take(28).collect();
        let description: String = r.description.chars().take(60).collect();
        let _ = writeln!(
            out,
            "{id:<28} {:<18} {:<12} {:<12} {description}",
            r.kind.name(),
            r.reclaimable > 0,
            size(r.size)
        );
    }
    out
}

/// Why steps of the last build of a context were not found in the cache.
pub(super) fn explain(inside: &Inside, args: &Explain) -> Result<u8, Failure> {
    let fail = |message: String| Failure::new(FaultKind::Usage, message);
    let project = match args.context.as_str() {
        "-" => "-".to_owned(),
        context => {
            let path = std::fs::canonicalize(context).map_err(|e| fail(format!("cannot find {context}: {e}")))?;
            path.display().to_string()
        }
    };
    let store = inside.store(Events::none())?;
    let memory = store.memory(&project).and_then(|bytes| serde_json::from_slice::<Memory>(&bytes).ok());
    let memory = memory.ok_or_else(|| {
        fail(format!("nothing is remembered of builds of {project}")).hint("build it, then ask again")
    })?;
    match args.format.as_str() {
        "json" => json(&serde_json::json!(memory.last)),
        "text" => {
            let mut out = String::new();
            for step in &memory.last {
                let why = match &step.reason {
                    Some(reason) => reason.to_string(),
                    None => "CACHED".to_owned(),
                };
                let _ = writeln!(out, "{}\n    {why}", step.step);
            }
            super::print(&out)
        }
        other => Err(super::unknown_format(other)),
    }
}

pub(super) fn du(inside: &Inside, args: &Du) -> Result<u8, Failure> {
    let store = inside.store(Events::none())?;
    store.settle().map_err(|e| store_failure(&e))?;
    let wanted = filters(&args.filter)?;
    let mut records = store.disk_usage().map_err(|e| store_failure(&e))?;
    records.retain(|r| wanted.iter().all(|f| f.matches(r)));
    match args.format.as_str() {
        "json" => json(&serde_json::Value::Array(records.iter().map(record_json).collect())),
        format @ ("text" | "table" | "pretty") => {
            let mut out = table(&records, args.verbose || format == "pretty");
            let total: u64 = records.iter().map(|r| r.size).sum();
            let free: u64 = records.iter().map(|r| r.reclaimable).sum();
            let shared: u64 = records.iter().filter(|r| r.shared).map(|r| r.size).sum();
            let _ = writeln!(
                out,
                "\nShared:\t\t{}\nPrivate:\t{}\nReclaimable:\t{}\nTotal:\t\t{}",
                size(shared),
                size(total - shared),
                size(free),
                size(total)
            );
            super::print(&out)
        }
        template => {
            let rows: Vec<serde_json::Value> = records.iter().map(record_json).collect();
            super::print(&super::table::rows(template, &[], Vec::new(), &rows)?)
        }
    }
}

pub(super) fn prune(inside: &Inside, args: &Prune) -> Result<u8, Failure> {
    let limit = |flag: &str, text: &Option<String>| match text {
        Some(text) => {
            grammar::bytes(text).map(Some).map_err(|e| Failure::new(FaultKind::Usage, format!("{flag}: {e}")))
        }
        None => Ok(None),
    };
    let span =
        |text: &String| parse_span(text).map_err(|e| Failure::new(FaultKind::Usage, format!("--keep-duration: {e}")));
    let options = PruneOptions {
        all: args.all,
        keep_duration: args.keep_duration.as_ref().map(span).transpose()?,
        filters: filters(&args.filter)?,
        max_used_space: limit("--max-used-space", &args.max_used_space)?,
        min_free_space: limit("--min-free-space", &args.min_free_space)?,
        reserved_space: limit("--reserved-space", &args.reserved_space)?,
        ..PruneOptions::default()
    };
    if !args.force {
        confirm("This removes everything from the store that no image needs and no build uses.")?;
    }
    let store = inside.store(Events::none())?;
    store.settle().map_err(|e| store_failure(&e))?;
    let report = store.prune(&options).map_err(|e| store_failure(&e))?;
    let mut out = table(&report.removed, args.verbose);
    let _ = writeln!(out, "Total:\t{}", size(report.bytes));
    super::print(&out)
}

fn confirm(what: &str) -> Result<(), Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::new(FaultKind::Usage, "there is nobody to ask for confirmation").hint("give --force"));
    }
    let _ = write!(std::io::stderr(), "{what}\nGo on? [y/N] ");
    let mut answer = String::new();
    let _ = std::io::stdin().read_line(&mut answer);
    if ["y", "yes"].contains(&answer.trim().to_lowercase().as_str()) {
        return Ok(());
    }
    Err(Failure::new(FaultKind::Interrupted, "canceled"))
}

pub(super) fn reset(inside: &Inside, force: bool) -> Result<u8, Failure> {
    if !force {
        confirm(&format!("This deletes the whole store in {}: images, cache, cache mounts.", inside.root.display()))?;
    }
    crate::store::reset(&inside.root).map_err(|e| store_failure(&e))?;
    Ok(0)
}

/// Runs a command in the namespaces of the worker.
pub(super) fn unshare(command: &[OsString]) -> Result<u8, Failure> {
    let shell = super::settings::variable("SHELL").unwrap_or_else(|| "/bin/sh".into());
    let program = command.first().cloned().unwrap_or_else(|| shell.into());
    let status = std::process::Command::new(&program).args(command.iter().skip(1)).status();
    let status =
        status.map_err(|e| Failure::new(FaultKind::Usage, format!("cannot run {}: {e}", program.display())))?;
    let code = status.code().or_else(|| std::os::unix::process::ExitStatusExt::signal(&status).map(|s| 128 + s));
    Ok(code.and_then(|c| u8::try_from(c).ok()).unwrap_or(1))
}
