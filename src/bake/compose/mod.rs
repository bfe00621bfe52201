//! Compose files as targets: a service with `build` is one (SPEC B7.24).
//!
//! [`interpolate`] fills variables in, [`dotenv`] reads `.env` and `env_file`, [`model`] puts files together (several, `include`,
//! `extends`), [`service`] says what a service is as a target.

mod dotenv;
mod interpolate;
mod model;
mod service;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde_json::Value;

use super::source::{Block, SourceFile};
use super::{BakeError, Surroundings};

/// Files that a definition names, and the environment.
struct World<'a> {
    with: &'a Surroundings<'a>,
    /// Of `.env`; the environment goes before it.
    dotenv: BTreeMap<String, String>,
}

impl World<'_> {
    fn variable(&self, name: &str) -> Option<String> {
        let given = self.with.vars.get(name).cloned();
        given.or_else(|| (self.with.environment)(name)).or_else(|| self.dotenv.get(name).cloned())
    }

    /// A file that has to be there.
    fn read(&self, path: &str) -> Result<String, String> {
        (self.with.read)(path)?.ok_or_else(|| format!("there is no file {path}"))
    }
}

/// Whether a text without a telling name is a compose file.
pub(super) fn looks_like(text: &str) -> bool {
    crate::base::yaml::parse(text, model::TAGS).is_ok_and(|value| value.get("services").is_some_and(Value::is_object))
}

/// The targets of all files together, with the names of their services' order.
pub(super) fn targets(files: &[&SourceFile], with: &Surroundings<'_>) -> Result<Vec<(String, Block)>, BakeError> {
    let mut world = World { with, dotenv: BTreeMap::new() };
    let fault = |reason: String| BakeError::Syntax { file: ".env".into(), reason };
    if let Some(text) = (with.read)(".env").map_err(fault)? {
        world.dotenv = dotenv::parse(&text, &|name| (with.environment)(name)).map_err(fault)?;
    }
    let model = model::of_files(files, &world)?;
    service::targets(&model, &world)
}
