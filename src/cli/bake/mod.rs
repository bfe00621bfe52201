//! `rbuild bake`: several builds that files describe (SPEC B7).
//!
//! The definition is evaluated by [`crate::bake`]; [`privileges`] asks whether what it wants of this machine was allowed. Each target
//! becomes the command line of a build, so that it means what that means ([`jobs`]).

mod jobs;
mod privileges;
mod remote;

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::path::{Component, Path, PathBuf};

use serde_json::{Map, Value};

use super::args::Bake;
use super::errors::Failure;
use super::image_commands::usage;
use super::policies;
use super::print;
use super::settings::{self, read_limited, variable, variable_or_empty};
use super::worker::Inside;
use crate::bake::{BakeError, MAX_FILE, Override, SourceFile, Surroundings};
use crate::base::FaultKind;
use crate::base::values::{boolean, csv_record};
use crate::oci::Platform;
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
    let overrides = Override::parse(&overrides(args)?, &environment).map_err(|e| failure(&e))?;
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
        for target in targets.values_mut() {
            if let Some(place) = &place {
                place.apply(target, true);
            }
        }
        return print(&format!("{:#}\n", bake.printed(&names, &targets).map_err(|e| failure(&e))?));
    }
    for target in targets.values_mut() {
        if let Some(place) = &place {
            place.apply(target, false);
        }
        target.change_contexts(|path| path.strip_prefix("cwd://").map(in_directory));
    }
    privileges::check(&targets, &privileges::Allowed { flags: &args.allow, set: &args.set, elsewhere })?;
    jobs::build_all(inside, args, &targets, &wanted, elsewhere)
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
fn overrides(args: &Bake) -> Result<Vec<String>, Failure> {
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
    all.extend(policies::of_every_target(&args.policy)?);
    Ok(all)
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
