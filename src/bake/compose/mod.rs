//! Compose files as targets: a service with `build` is one (SPEC B7.24).
//!
//! [`interpolate`] fills variables in, [`dotenv`] reads `.env` and `env_file`, [`model`] puts files together (several, `include`,
//! `extends`), [`schema`] knows their keys, [`shape`] what their values may be, [`service`] says what a service is as a target.

mod dotenv;
mod interpolate;
mod model;
mod schema;
mod service;
mod shape;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::source::{Block, SourceFile};
use super::{BakeError, Surroundings};

/// Files that a definition names, and the environment.
struct World<'a> {
    with: &'a Surroundings<'a>,
    /// Of `.env`; the environment goes before it.
    dotenv: BTreeMap<String, String>,
    /// Variables that are used and not set.
    unset: RefCell<BTreeSet<String>>,
    /// Keys that mean nothing to anybody.
    ignored: RefCell<BTreeSet<String>>,
}

impl World<'_> {
    fn variable(&self, name: &str) -> Option<String> {
        let given = self.with.vars.get(name).cloned();
        given.or_else(|| (self.with.environment)(name)).or_else(|| self.dotenv.get(name).cloned())
    }

    /// A text with its variables filled in.
    fn filled(&self, text: &str) -> Result<String, String> {
        let unset = |name: &str| {
            self.unset.borrow_mut().insert(name.to_owned());
        };
        interpolate::fill(text, &|name| self.variable(name), &unset)
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

/// Targets by name, and what is worth saying about them.
type Targets = (Vec<(String, Block)>, Vec<String>);

/// The targets of all files together, in the order of their services.
pub(super) fn targets(files: &[&SourceFile], with: &Surroundings<'_>) -> Result<Targets, BakeError> {
    let mut world = World { with, dotenv: BTreeMap::new(), unset: RefCell::default(), ignored: RefCell::default() };
    let fault = |reason: String| BakeError::Syntax { file: ".env".into(), reason };
    if let Some(text) = (with.read)(".env").map_err(fault)? {
        world.dotenv = dotenv::parse(&text, &|name| (with.environment)(name)).map_err(fault)?;
    }
    let model = model::of_files(files, &world)?;
    let targets = service::targets(&model, &world)?;
    let warning = |name: &String| format!("the \"{name}\" variable is not set. Defaulting to a blank string");
    let ignored = world.ignored.borrow();
    let ignored = ignored.iter().map(|key| format!("{key}; nothing is made of it"));
    let warnings = world.unset.borrow().iter().map(warning).chain(ignored).collect();
    Ok((targets, warnings))
}
