//! `rbuild info`: where things are and what this installation can do (SPEC B8.14).

use std::fmt::Write as _;

use serde_json::json;

use super::errors::Failure;
use super::table;
use super::worker::{Inside, store_failure};
use crate::base::Events;
use crate::oci::Platform;
use crate::store::SnapshotterChoice;

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
    let value = json!({
        "Version": env!("CARGO_PKG_VERSION"), "Os": std::env::consts::OS, "Arch": std::env::consts::ARCH,
        "Platform": Platform::host().to_string(), "Root": inside.root,
        "Snapshotter": snapshotter, "Isolation": rung.to_string(), "IsolationSummary": rung.summary(),
        "UserIds": uids, "GroupIds": gids, "Landlock": inside.context.landlock_abi,
        "Images": images, "Builds": builds, "Size": used,
    });
    if format != "text" {
        return super::print(&table::rows(format, &[], Vec::new(), &[value])?);
    }
    let mut out = String::new();
    for (name, text) in [
        ("Version", env!("CARGO_PKG_VERSION").to_owned()),
        ("Platform", Platform::host().to_string()),
        ("Store", inside.root.display().to_string()),
        ("Used", table::size(used)),
        ("Images", images.to_string()),
        ("Builds", format!("{builds} (`rbuild builds ls`)")),
        ("Snapshotter", format!("{snapshotter} ({chosen})")),
        ("Isolation", format!("{rung}: {} (`rbuild doctor` says more)", rung.summary())),
        ("Ids", format!("{uids} users, {gids} groups")),
    ] {
        let _ = writeln!(out, "{:<15}{text}", format!("{name}:"));
    }
    super::print(&out)
}
