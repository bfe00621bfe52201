//! Definitions that are elsewhere: in a repository, in an archive or as a file on a web server (SPEC B7.21).

use std::collections::BTreeMap;
use std::sync::Arc;

use super::FILES;
use crate::bake::{MAX_FILE, SourceFile, Target};
use crate::base::Cancel;
use crate::base::FaultKind;
use crate::base::budget::Budget;
use crate::build::{Found, MainContext};
use crate::cli::args::Bake;
use crate::cli::errors::Failure;
use crate::cli::invocation::{Stopped, builder, lent};
use crate::cli::runtime::runtime;
use crate::cli::settings::{self, usage, variable};
use crate::cli::worker::Inside;
use crate::dockerfile::gitref::GitRef;
use crate::frontend::remote::{ArchiveRef, is_url};
use crate::solver::Secrets;
use crate::source::SecretValues;
use crate::ssh::Agent;
use crate::ui::Progress;

/// What the positional arguments say.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Positional {
    /// Where the definition is, if not here.
    pub(super) definition: Option<String>,
    /// What `BAKE_CMD_CONTEXT` is: the second address.
    pub(super) command_context: String,
    /// Targets and groups.
    pub(super) targets: Vec<String>,
}

impl Positional {
    pub(super) fn new(arguments: &[String]) -> Self {
        let mut rest = arguments.iter().peekable();
        let definition = rest.next_if(|text| is_remote(text)).cloned();
        let second = if definition.is_some() { rest.next_if(|text| is_remote(text)).cloned() } else { None };
        let targets: Vec<String> = rest.cloned().collect();
        Self {
            definition,
            command_context: second.unwrap_or_else(|| "cwd://".into()),
            targets: if targets.is_empty() { vec!["default".into()] } else { targets },
        }
    }
}

/// Whether a context or a definition is not on this machine.
pub(super) fn is_remote(text: &str) -> bool {
    is_url(text) || GitRef::parse(text).is_some()
}

/// A tree with a definition, which paths of that are relative to.
#[derive(Debug)]
pub(super) enum Place {
    Git(Box<GitRef>),
    /// An archive on a web server.
    Archive(String),
}

/// The files of a definition, and where it is unless that is one file.
pub(super) fn definition(
    inside: &Inside,
    args: &Bake,
    address: &str,
    names: &[String],
) -> Result<(Vec<SourceFile>, Option<Place>), Failure> {
    let (context, secrets) = match GitRef::parse(address) {
        Some(reference) => {
            let reference = reference.map_err(|e| usage(format!("{address}: {e}")))?;
            let (secrets, agents) = (credentials(&reference), agents(inside, &reference)?);
            let secrets = Secrets { values: secrets, agents, ..Secrets::default() };
            (MainContext::Git(Box::new(reference)), secrets)
        }
        None => (MainContext::Url(address.to_owned()), Secrets::default()),
    };
    let usual = FILES.map(ToOwned::to_owned);
    let wanted = if names.is_empty() { &usual[..] } else { names };
    let (mode, _, style) = settings::shown(&args.progress, &inside.config)?;
    let budget = Budget::detect();
    let (progress, events) = Progress::start(mode, std::io::stderr(), style);
    let runtime = runtime(budget)?;
    let found = runtime.block_on(async {
        let store = inside.store(events.clone()).map_err(Stopped::Early)?;
        let steps = inside.config.steps.clone();
        let builder = builder(inside, &store, budget, &events, &Cancel::default(), steps).map_err(Stopped::Early)?;
        // One byte more, so that what is too large is seen to be.
        builder.files_of(&context, secrets, wanted, MAX_FILE + 1).await.map_err(Stopped::Build)
    });
    drop(events);
    progress.finish(None);
    runtime.shutdown_background();
    let found = match found {
        Ok(found) => found,
        Err(Stopped::Early(failure)) => return Err(failure),
        Err(Stopped::Build(error)) => {
            let failure = Failure::of_build(&error, address, &[], &[]);
            return Err(Failure { message: format!("cannot read the definition: {}", failure.message), ..failure });
        }
    };
    let text = |name: &str, bytes: Vec<u8>| {
        let text = String::from_utf8(bytes);
        let text = text.map_err(|_| Failure::new(FaultKind::Input, format!("bake file {name} is not UTF-8")))?;
        Ok(SourceFile { name: name.to_owned(), text })
    };
    let found = match found {
        Found::File(bytes) => {
            // The name says what it is; a query is no part of it.
            let name = address.split(['?', '#']).next().unwrap_or(address);
            return Ok((vec![text(name, bytes)?], None));
        }
        Found::Tree(found) => found,
    };
    if let Some(missing) = names.iter().find(|name| !found.iter().any(|(known, _)| known == *name)) {
        let message = format!("couldn't find or read bake file {missing} of {address}");
        return Err(Failure::new(FaultKind::Input, message));
    }
    let files = found.into_iter().map(|(name, bytes)| text(&name, bytes)).collect::<Result<_, _>>()?;
    let place = match context {
        MainContext::Git(reference) => Place::Git(reference),
        _ => Place::Archive(address.to_owned()),
    };
    Ok((files, Some(place)))
}

impl Place {
    /// The contexts of a target as they are seen from here; all of the place is still `.` where they are `shown` only.
    pub(super) fn apply(&self, target: &mut Target, shown: bool) {
        target.change_contexts(|path| {
            if shown && path == "." {
                return None;
            }
            if path == "-" || is_remote(path) || path.contains("://") {
                return None;
            }
            match self {
                Self::Git(reference) => Some(reference.below(path).text()),
                Self::Archive(url) => Some(ArchiveRef::at(url, path).text()),
            }
        })
    }
}

/// `BUILDX_BAKE_GIT_AUTH_TOKEN`, `BUILDX_BAKE_GIT_AUTH_HEADER`, with or without `.HOST` (SPEC B5.07).
pub(super) fn credentials(reference: &GitRef) -> SecretValues {
    let mut found = BTreeMap::new();
    for id in ["GIT_AUTH_TOKEN", "GIT_AUTH_HEADER"] {
        for id in [id.to_owned(), format!("{id}.{}", reference.host())] {
            let value = variable(&format!("BUILDX_BAKE_{id}"));
            found.extend(value.map(|value| (id, Arc::new(value.into_bytes()))));
        }
    }
    found
}

/// `BUILDX_BAKE_GIT_SSH`: agents or keys, with commas between them.
fn agents(inside: &Inside, reference: &GitRef) -> Result<BTreeMap<String, Arc<dyn Agent>>, Failure> {
    let by_ssh = reference.remote.starts_with("ssh://") || !reference.remote.contains("://");
    if !by_ssh {
        return Ok(BTreeMap::new());
    }
    let paths = variable("BUILDX_BAKE_GIT_SSH");
    let given: Vec<String> = paths.into_iter().map(|paths| format!("default={paths}")).collect();
    lent(inside, settings::agents(&given, true)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    // SPEC B7.21
    #[test]
    fn b7_21_the_first_arguments_may_be_addresses() {
        let new = |arguments: &[&str]| Positional::new(&arguments.iter().map(ToString::to_string).collect::<Vec<_>>());
        let (git, web) = ("https://h.example/a.git#v1", "https://h.example/b.tar");
        let here = new(&["app", git]);
        assert_eq!((here.definition, here.targets.len()), (None, 2));
        assert_eq!(new(&[]).targets, ["default"]);
        let one = new(&[git, "app"]);
        assert_eq!((one.definition.as_deref(), one.command_context.as_str()), (Some(git), "cwd://"));
        assert_eq!(one.targets, ["app"]);
        let two = new(&[git, web]);
        assert_eq!((two.command_context.as_str(), two.targets), (web, vec!["default".to_owned()]));
    }
}
