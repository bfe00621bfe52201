//! `rbuild replay`: an image once more from what its provenance says, as `docker buildx replay` does it.

mod plan;
mod subject;
mod verify;

use std::collections::BTreeSet;

use super::args::{Cli, Command, Replay, ReplayBuild, ReplayCommon};
use super::build;
use super::errors::Failure;
use super::image_commands::usage;
use super::invocation::Invocation;
use super::worker::Inside;
use crate::attest::recipe::Needs;
use crate::base::FaultKind;
use crate::build::replay::pins;
use subject::Subject;

/// What the names of secrets begin with that sources are fetched with, and that no step asks for: a host may come behind.
const FOR_SOURCES: &[&str] = &["GIT_AUTH_TOKEN", "GIT_AUTH_HEADER", "HTTP_AUTH_TOKEN_", "HTTP_AUTH_HEADER_"];

pub(super) fn run(inside: &Inside, command: &Replay) -> Result<u8, Failure> {
    match command {
        Replay::Build(args) => build_again(inside, args),
        Replay::Verify(args) => verify::verify(inside, args),
        Replay::Snapshot { .. } => Err(usage("replay snapshot: materials are not kept anywhere but where they are").hint(
            "`rbuild imagetools create` copies images, `rbuild replay build --dry-run --format=json` lists everything else",
        )),
    }
}

fn build_again(inside: &Inside, args: &ReplayBuild) -> Result<u8, Failure> {
    let subject = subject::load(inside, &args.common)?;
    let mut words = plan::words(&subject, &args.common)?;
    for (flag, values) in [("tag", &args.tag), ("output", &args.output)] {
        words.extend(values.iter().map(|value| format!("--{flag}={value}")));
    }
    words.extend(args.push.then(|| "--push".to_owned()));
    words.extend(args.load.then(|| "--load".to_owned()));
    let invocation = invocation(inside, &subject, &args.common, words, args.replay_mode == "materials")?;
    if invocation.settings.request.outputs.iter().any(|output| output.delete) {
        return Err(usage("--output: mode=delete is not for replay").hint("write into a directory of its own"));
    }
    if args.dry_run {
        return super::print(&plan::plan(&subject, &invocation, args.format == "json"));
    }
    build::run(inside, invocation)
}

/// The build that a subject says it comes from. Nothing has happened yet.
fn invocation(
    inside: &Inside,
    subject: &Subject,
    common: &ReplayCommon,
    words: Vec<String>,
    pinned: bool,
) -> Result<Invocation, Failure> {
    if let Some(spec) = common.materials.iter().find(|spec| *spec != "provenance") {
        return Err(usage(format!("--materials={spec}: not implemented: materials come from where they were"))
            .hint("registries and servers can be mirrored: docs/registries.md"));
    }
    let context = subject.context()?;
    let words = ["rbuild", "build"].map(ToOwned::to_owned).into_iter().chain(words);
    let parsed = Cli::parse_words(words.chain(["--".to_owned(), context])).map_err(|e| {
        let text = e.to_string();
        let line = text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
        Failure::new(FaultKind::Input, format!("the provenance of {}: {line}", subject.shown))
    })?;
    let Command::Build(build) = parsed.command else {
        return Err(Failure::new(FaultKind::Internal, "a replay is no build"));
    };
    let mut invocation = Invocation::new(inside, *build)?;
    let request = &mut invocation.settings.request;
    let secrets: BTreeSet<String> = request.secrets.values.keys().cloned().collect();
    check("secrets", &subject.recipe.secrets, &secrets, &subject.shown)?;
    let agents: BTreeSet<String> = request.secrets.agents.keys().cloned().collect();
    check("ssh entries", &subject.recipe.ssh, &agents, &subject.shown)?;
    if pinned {
        request.policy = pins(&subject.recipe, &format!("the provenance of {}", subject.shown)).map_err(|why| {
            Failure::new(FaultKind::Input, format!("the provenance of {}: {why}", subject.shown))
                .hint("--replay-mode=frontend takes what the names mean now")
        })?;
    }
    Ok(invocation)
}

/// Secrets or agents are those that the build had.
fn check(what: &str, needs: &Needs, given: &BTreeSet<String>, shown: &str) -> Result<(), Failure> {
    let flag = if what == "secrets" { "--secret id=ID,src=FILE" } else { "--ssh ID" };
    let missing = needs.missing(given);
    if !missing.is_empty() {
        return Err(usage(format!("missing required {what}: {}", missing.join(", ")))
            .hint(format!("steps of {shown} had them: give each with {flag}")));
    }
    let mut unknown = needs.unknown(given);
    unknown.retain(|id| !FOR_SOURCES.iter().any(|name| id.starts_with(name)));
    if !unknown.is_empty() {
        return Err(usage(format!("extra {what} not declared in provenance: {}", unknown.join(", ")))
            .hint("no step had them, so that the image cannot come from a build that has"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn secrets_are_those_of_the_build_and_what_sources_are_fetched_with() {
        let needs = Needs(BTreeMap::from([("api".to_owned(), false), ("more".to_owned(), true)]));
        let said = |given: &[&str]| {
            let given = given.iter().map(|id| (*id).to_owned()).collect();
            check("secrets", &needs, &given, "x").err().map(|failure| failure.message)
        };
        assert_eq!(said(&["api"]), None);
        assert_eq!(said(&["api", "GIT_AUTH_TOKEN", "GIT_AUTH_HEADER.h", "HTTP_AUTH_TOKEN_h.example"]), None);
        assert_eq!(said(&["more"]).as_deref(), Some("missing required secrets: api"));
        assert_eq!(said(&["api", "z"]).as_deref(), Some("extra secrets not declared in provenance: z"));
    }
}
