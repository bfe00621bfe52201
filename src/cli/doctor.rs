//! `rbuild doctor`: what this machine allows, and how to get more.

use std::fmt::Write as _;

use rootless::ProbeInput;

use super::args::{Doctor, Global};
use super::errors::Failure;
use super::settings;
use crate::base::FaultKind;

/// Exit code 0 where steps can run, 10 where not.
pub(super) fn doctor(global: &Global, options: &Doctor) -> Result<u8, Failure> {
    let root = settings::store_root(global)?;
    let report = rootless::doctor(&ProbeInput { store: &root });
    let can_run = report.probe.can_run();
    let text = match options.format.as_str() {
        "json" => {
            let mut value =
                serde_json::to_value(&report).map_err(|e| Failure::new(FaultKind::Internal, e.to_string()))?;
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
            for blocker in &report.probe.blockers {
                let _ = writeln!(out, "\n{} is not available: {}", blocker.rung, blocker.what);
                let _ = writeln!(out, "  evidence: {}\n  remedy:   {}", blocker.evidence, blocker.remedy);
            }
            let verdict =
                if can_run { "RUN steps work here" } else { "RUN steps do not work here; COPY, ENV and the like do" };
            let _ = writeln!(out, "\n{verdict}");
            out
        }
        other => return Err(super::unknown_format(other)),
    };
    super::print(&text)?;
    Ok(if can_run { 0 } else { super::errors::exit_code(FaultKind::Isolation) })
}
