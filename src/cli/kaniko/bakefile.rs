//! `executor bake FILE [TARGET]` of kaniko's successor: stage and destinations of one target are in a JSON file, everything else is
//! said by the usual flags.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::flags::{Baker, Executor};
use crate::base::FaultKind;
use crate::cli::errors::Failure;
use crate::cli::settings::usage;

/// The file.
#[derive(Deserialize)]
struct File {
    #[serde(default)]
    version: String,
    #[serde(default)]
    targets: BTreeMap<String, Target>,
}

/// One target.
#[derive(Deserialize)]
struct Target {
    /// The stage, if it is not called as the target.
    #[serde(default)]
    target: String,
    #[serde(default)]
    destination: Vec<String>,
}

/// The command line without the file.
///
/// # Errors
/// When the file is none, or does not have the target.
pub(super) fn executor(given: Baker) -> Result<Executor, Failure> {
    let Baker { file: path, selected, set, mut executor } = given;
    let shown = path.display();
    let bytes = std::fs::read(&path);
    let bytes = bytes.map_err(|e| Failure::new(FaultKind::Input, format!("cannot read the bake file {shown}: {e}")))?;
    let mut file: File = serde_json::from_slice(&bytes).map_err(|e| usage(format!("{shown}: {e}")))?;
    if file.version != "1" {
        return Err(usage(format!("{shown}: unsupported version \"{}\", expected \"1\"", file.version))
            .hint("`rbuild bake -f FILE` reads the bake files of docker buildx"));
    }
    let names = || file.targets.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    let name = match (selected, file.targets.keys().next()) {
        (_, None) => return Err(usage(format!("{shown}: it has no targets"))),
        (Some(name), _) if file.targets.contains_key(&name) => name,
        (Some(name), _) => return Err(usage(format!("{shown}: there is no target \"{name}\"; it has {}", names()))),
        (None, Some(only)) if file.targets.len() == 1 => only.clone(),
        (None, _) => return Err(usage(format!("{shown}: it has several targets; name one of {}", names()))),
    };
    let target = file.targets.remove(&name).unwrap_or(Target { target: String::new(), destination: Vec::new() });
    let mut instead = Vec::new();
    for text in &set {
        let field = text.split_once('=').and_then(|(key, value)| Some((key.split_once('.')?, value)));
        match field {
            Some(((of, "destination"), value)) if of == name => instead.push(value.to_owned()),
            Some(((of, "destination"), _)) => return Err(usage(format!("--set {text}: target \"{of}\" is not built"))),
            Some(((_, field), _)) => return Err(usage(format!("--set {text}: field \"{field}\" cannot be set"))),
            None => return Err(usage(format!("--set {text}: expected TARGET.FIELD=VALUE"))),
        }
    }
    executor.target = Some(if target.target.is_empty() { name } else { target.target });
    executor.result.destination.extend(if instead.is_empty() { target.destination } else { instead });
    Ok(executor)
}
