//! Going back into the step in which a build failed: `rbuild debug`, and `--on-error=shell` right after it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{IsTerminal as _, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::args::Debug;
use super::broker::BrokeredAgent;
use super::builds;
use super::devices;
use super::errors::Failure;
use super::image_commands::usage;
use super::runtime::runtime;
use super::settings;
use super::worker::{Inside, store_failure};
use crate::base::budget::Budget;
use crate::base::{Cancel, Event, Events, FaultKind};
use crate::build::record;
use crate::exec::run::StepOptions;
use crate::solver::{KeptFailure, Secrets, Visit};
use crate::ui::Connection;

pub(super) fn debug(inside: &Inside, args: &Debug) -> Result<u8, Failure> {
    let mut secrets = settings::secrets(&args.secret)?;
    for spec in settings::agents(&args.ssh, false)? {
        inside.broker.agent(&spec).map_err(|(message, _)| usage(format!("--ssh {}: {message}", spec.id)))?;
        let agent = BrokeredAgent { client: Arc::clone(&inside.broker), spec: spec.clone() };
        secrets.agents.insert(spec.id, Arc::new(agent));
    }
    let store = inside.store(Events::none())?;
    let records = record::records(&store).map_err(|e| store_failure(&e))?;
    let record = match &args.build {
        Some(reference) => builds::find(&records, reference)?,
        None => records.iter().find(|r| r.failed.is_some()).ok_or_else(|| {
            usage("there is no failed step to go into").hint("`rbuild builds ls` lists the builds that are known")
        })?,
    };
    let failed = record.failed.as_ref().ok_or_else(|| {
        let message =
            format!("build {} has no failed step to go into: it is {}", record.head.id, record.status().as_str());
        usage(message).hint("only RUN steps that ended with an error are kept")
    })?;
    drop(store);
    let (command, user, steps) = (args.command.clone(), args.user.clone(), inside.config.steps.clone());
    enter(inside, failed, secrets, command, user, steps)
}

/// `--on-error=shell`: with the secrets of the build.
pub(super) fn after_failure(
    inside: &Inside,
    failed: &KeptFailure,
    secrets: Secrets,
    steps: StepOptions,
) -> Result<(), Failure> {
    let _ = writeln!(std::io::stderr(), "\na shell where it failed; the build ends when you leave it (exit, Ctrl-D)");
    enter(inside, failed, secrets, Vec::new(), None, steps).map(|_| ())
}

fn enter(
    inside: &Inside,
    failed: &KeptFailure,
    secrets: Secrets,
    command: Vec<String>,
    user: Option<String>,
    steps: StepOptions,
) -> Result<u8, Failure> {
    let terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    if command.is_empty() && !terminal {
        return Err(usage("there is no terminal for a shell").hint("name a program: rbuild debug BUILD -- COMMAND"));
    }
    say_what_is_missing(failed, &secrets);
    if command.is_empty() {
        let _ = writeln!(std::io::stderr(), "failed here: {}", failed.args().join(" "));
    }
    let mut env = Vec::new();
    if terminal {
        env.push(format!("TERM={}", settings::variable("TERM").unwrap_or_else(|| "xterm".into())));
    }
    let events = Events::new(|event| {
        if let Event::Notice { text, .. } = event {
            let _ = writeln!(std::io::stderr(), "notice: {text}");
        }
    });
    let runtime = runtime(Budget::detect())?;
    let store = inside.store(events.clone())?;
    let lease = store.lease().map_err(|e| store_failure(&e))?;
    let result = runtime.block_on(async {
        let builder = super::invocation::builder(inside, &store, Budget::detect(), &events, &Cancel::default(), steps)?;
        let (connection, attachment) = Connection::open(true, terminal)
            .map_err(|e| Failure::new(FaultKind::Isolation, format!("cannot attach to the program: {e}")))?;
        let visit = Visit { args: command, env, user, busybox: busybox(), attachment };
        let result = builder.visit(failed, secrets, devices::all(&inside.config), visit).await;
        connection.finish();
        result.map_err(|e| {
            let failure = Failure::new(e.kind(), e.to_string());
            e.hint().map_or(failure.clone(), |hint| failure.hint(hint))
        })
    });
    drop(lease);
    runtime.shutdown_background();
    Ok(u8::try_from(result?.code).unwrap_or(1))
}

/// Secrets are not kept with the step.
fn say_what_is_missing(failed: &KeptFailure, given: &Secrets) {
    let (secrets, agents) = failed.secrets();
    let secrets: BTreeSet<_> = secrets.into_iter().filter(|id| !given.values.contains_key(id)).collect();
    let agents: BTreeSet<_> = agents.into_iter().filter(|id| !given.agents.contains_key(id)).collect();
    for (flag, ids) in [("--secret id=", secrets), ("--ssh ", agents)] {
        for id in ids {
            let _ = writeln!(
                std::io::stderr(),
                "notice: the step had {flag}{id}, which is not kept; give it again to have it here"
            );
        }
    }
}

/// A busybox of this machine that needs no libraries.
fn busybox() -> Option<PathBuf> {
    let path = settings::variable("PATH").unwrap_or_default();
    let dirs = path.split(':').chain(["/bin", "/usr/bin", "/usr/local/bin", "/usr/lib/initramfs-tools/bin"]);
    let names = ["busybox", "busybox.static", "busybox-static"];
    dirs.filter(|dir| dir.starts_with('/'))
        .flat_map(|dir| names.map(|name| Path::new(dir).join(name)))
        .find(|path| is_static(path).unwrap_or(false))
}

/// Whether a program is a 64-bit ELF file that names no dynamic loader.
fn is_static(path: &Path) -> std::io::Result<bool> {
    const HEADERS_AT: usize = 32;
    const INTERPRETER: u32 = 3;
    let mut head = Vec::new();
    File::open(path)?.take(4096).read_to_end(&mut head)?;
    let number = |at: usize, bytes: usize| {
        let slice = head.get(at..at + bytes)?;
        Some(slice.iter().rev().fold(0u64, |all, byte| all << 8 | u64::from(*byte)))
    };
    // 64 bits, little-endian: every machine this runs on.
    if head.get(..6) != Some(b"\x7fELF\x02\x01") {
        return Ok(false);
    }
    let (Some(at), Some(size), Some(count)) = (number(HEADERS_AT, 8), number(54, 2), number(56, 2)) else {
        return Ok(false);
    };
    let kinds = (0..count).map(|i| number(usize::try_from(at + i * size).unwrap_or(usize::MAX - 8), 4));
    let kinds: Option<Vec<u64>> = kinds.collect();
    Ok(kinds.is_some_and(|kinds| !kinds.contains(&u64::from(INTERPRETER))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_without_a_loader_are_recognised() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("program");
        let mut elf = b"\x7fELF\x02\x01".to_vec();
        elf.resize(64 + 2 * 56, 0);
        (elf[32], elf[54], elf[56]) = (64, 56, 2);
        (elf[64], elf[64 + 56]) = (1, 1);
        std::fs::write(&file, &elf).expect("written");
        assert!(is_static(&file).expect("readable"));
        elf[64 + 56] = 3;
        std::fs::write(&file, &elf).expect("written");
        assert!(!is_static(&file).expect("readable"));
        std::fs::write(&file, "#!/bin/sh\n").expect("written");
        assert!(!is_static(&file).expect("readable"));
        assert!(is_static(&dir.path().join("nothing")).is_err());
    }
}
