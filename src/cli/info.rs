//! `rbuild info`: where things are and what this installation can do (SPEC B8.14, C9.15).

use std::fmt::Write as _;

use rootless::Rung;
use serde_json::{Value, json};

use super::errors::Failure;
use super::worker::{Inside, store_failure};
use super::{settings, table};
use crate::base::Events;
use crate::exec::emulators::Emulators;
use crate::oci::Platform;
use crate::store::{PruneOptions, SnapshotterChoice};

pub(super) fn info(inside: &Inside, format: &str) -> Result<u8, Failure> {
    let store = inside.store(Events::none())?;
    let usage = store.disk_usage().map_err(|e| store_failure(&e))?;
    let images = store.images().map_err(|e| store_failure(&e))?.len();
    let builds = store.builds().map_err(|e| store_failure(&e))?.len();
    let used: u64 = usage.iter().map(|record| record.size).sum();
    let snapshotter = store.snapshotter_name().map_err(|e| store_failure(&e))?;
    let chosen = if inside.snapshotter == SnapshotterChoice::Auto { "auto" } else { "asked for" };
    let rung = inside.context.rung;
    let (uids, gids) = inside.context.ids.sizes();
    let emulators = Emulators::new(&inside.context, &inside.config.steps.emulators);
    let emulated = emulators.map_err(|e| settings::usage(e.to_string()))?.platforms();
    let platforms: Vec<String> = emulated.iter().map(ToString::to_string).collect();
    let rules = store.gc_rules(&inside.config.gc).map_err(|e| store_failure(&e))?;
    let controllers: serde_json::Map<String, Value> =
        inside.context.groups.controllers().into_iter().map(|(name, ours)| (name.to_owned(), ours.into())).collect();
    let limits: Vec<&str> = controllers.iter().filter(|(_, ours)| **ours == true).map(|(name, _)| &**name).collect();
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    let value = json!({
        "Version": env!("CARGO_PKG_VERSION"), "Os": std::env::consts::OS, "Arch": std::env::consts::ARCH,
        "Platform": Platform::host().to_string(), "Root": inside.root,
        "Snapshotter": snapshotter, "Isolation": rung.to_string(), "IsolationSummary": rung.summary(),
        "UserIds": uids, "GroupIds": gids, "Landlock": inside.context.landlock_abi,
        "Platforms": platforms, "Kernel": kernel,
        "UserNamespace": matches!(rung, Rung::Userns | Rung::UsernsOne),
        // Whether limits of steps can be set with it.
        "ControlGroups": controllers, "GcPolicy": rules.iter().map(rule).collect::<Vec<_>>(),
        "Images": images, "Builds": builds, "Size": used,
    });
    if format != "text" {
        return super::print(&table::rows(format, &[], Vec::new(), &[value])?);
    }
    let mut out = String::new();
    for (name, text) in [
        ("Version", env!("CARGO_PKG_VERSION").to_owned()),
        ("Platforms", platforms.join(", ")),
        ("Kernel", kernel),
        ("Store", inside.root.display().to_string()),
        ("Used", table::size(used)),
        ("Images", images.to_string()),
        ("Builds", format!("{builds} (`rbuild builds ls`)")),
        ("Snapshotter", format!("{snapshotter} ({chosen})")),
        ("Isolation", format!("{rung}: {} (`rbuild doctor` says more)", rung.summary())),
        ("Ids", format!("{uids} users, {gids} groups")),
        ("Limits", if limits.is_empty() { "none: no control group of its own".into() } else { limits.join(", ") }),
        ("Collection", collection(&rules)),
    ] {
        let _ = writeln!(out, "{:<15}{text}", format!("{name}:"));
    }
    super::print(&out)
}

/// A rule of the collection, as `builder inspect` of buildx and BuildKit's `debug workers` name its parts (SPEC C9.15).
fn rule(rule: &PruneOptions) -> Value {
    let mut filters: Vec<String> = rule.filters.iter().map(ToString::to_string).collect();
    filters.extend(rule.any.iter().map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")));
    json!({
        "All": rule.all, "Filters": filters, "KeepSeconds": rule.keep_duration.map(|d| d.as_secs()),
        "MaxUsedSpace": rule.max_used_space, "ReservedSpace": rule.reserved_space, "MinFreeSpace": rule.min_free_space,
    })
}

fn collection(rules: &[PruneOptions]) -> String {
    match rules.iter().filter_map(|rule| rule.max_used_space).min() {
        None if rules.is_empty() => "off".into(),
        None => format!("{} rules without a cap", rules.len()),
        Some(cap) => format!("after builds, above {}", table::size(cap)),
    }
}
