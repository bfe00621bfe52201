//! `rbuild doctor`: what this machine allows, and how to get more.

use std::fmt::Write as _;

use rootless::ProbeInput;

use super::args::{Doctor, Global};
use super::config::Config;
use super::errors::Failure;
use super::settings;
use crate::base::FaultKind;

/// Exit code 0 where steps can run, 10 where not.
pub(super) fn doctor(global: &Global, options: &Doctor) -> Result<u8, Failure> {
    let config = Config::load(global)?;
    let root = settings::store_root(global, &config)?;
    let report = rootless::doctor(&ProbeInput { store: &root, pinned: None });
    let can_run = report.probe.can_run();
    let text = match options.format.as_str() {
        "json" => {
            let mut value =
                serde_json::to_value(&report).map_err(|e| Failure::new(FaultKind::Internal, e.to_string()))?;
            value["weakness"] = report.probe.rung.weakness().into();
            value["rung"] = serde_json::to_value(report.probe.rung).unwrap_or_default();
            value["blockers"] = serde_json::to_value(&report.probe.blockers).unwrap_or_default();
            format!("{}\n", serde_json::to_string_pretty(&value).unwrap_or_default())
        }
        "text" => {
            let mut out = format!("isolation: {}\n", report.probe.rung);
            let _ = writeln!(out, "store:     {}\n", root.display());
            for fact in &report.facts {
                let mark = match fact.good {
                    Some(true) => "✓",
                    Some(false) => "✗",
                    None => "·",
                };
                let _ = writeln!(out, "  {mark} {}: {}", fact.name, fact.value);
            }
            let _ = writeln!(out, "\nwhat works here (each was performed):");
            for operation in &report.operations {
                if operation.works {
                    let _ = writeln!(out, "  ✓ {}", operation.name);
                } else {
                    let _ = writeln!(out, "  ✗ {}: {}", operation.name, operation.evidence);
                }
            }
            let _ = writeln!(out, "\nrungs, best first:");
            for status in &report.rungs {
                let mark = if status.works { "✓" } else { "✗" };
                let chosen = if status.rung == report.probe.rung { " (used)" } else { "" };
                let _ = writeln!(out, "  {mark} {}: {}{chosen}", status.rung, status.rung.summary());
            }
            // What lies below the one in use is nobody's concern.
            for status in report.rungs.iter().take_while(|s| s.rung != report.probe.rung) {
                for blocker in &status.blockers {
                    let _ = writeln!(out, "\n{} is not available: {}", blocker.rung, blocker.what);
                    let _ = writeln!(out, "  evidence: {}", blocker.evidence);
                    let _ = writeln!(out, "  remedy:   {}", blocker.remedy.replace('\n', "\n            "));
                }
            }
            let verdict =
                if can_run { "RUN steps work here" } else { "RUN steps do not work here; COPY, ENV and the like do" };
            let _ = writeln!(out, "\n{verdict}");
            if let Some(weakness) = report.probe.rung.weakness() {
                let _ = writeln!(out, "{weakness}");
            }
            out
        }
        other => return Err(super::unknown_format(other)),
    };
    super::print(&text)?;
    Ok(if can_run { 0 } else { super::errors::exit_code(FaultKind::Isolation) })
}
