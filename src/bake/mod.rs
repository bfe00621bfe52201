//! Layer 1: bake files, which describe several builds at once (SPEC B7).
//!
//! Files in, targets out. [`source`] reads HCL, its JSON form and [`compose`] files into blocks, [`scope`] gives names their values, [`eval`] and
//! [`functions`] evaluate, [`target`] says what a target's attributes are and how they merge, [`overrides`] what `--set` changes.
//! [`Bake`] is all of it. Building the targets is the command line's business.

mod compose;
mod eval;
mod functions;
mod matrix;
mod overrides;
mod scope;
mod source;
mod target;
#[cfg(test)]
mod tests;
mod values;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use indexmap::IndexMap;
use serde_json::{Map, Value, json};

use scope::Names;
use source::Sources;

pub use eval::EvalError;
pub use overrides::Override;
pub use source::SourceFile;
pub use target::Target;

/// Larger definitions are refused (SPEC B7.21).
pub const MAX_FILE: u64 = 2 << 20;

/// Why a bake file says nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BakeError {
    /// A file that cannot be read as what it is.
    #[error("{file}: {reason}")]
    Syntax {
        /// The file.
        file: String,
        /// Why, with the place where it is known.
        reason: String,
    },
    /// Something that has no value, or one that cannot be used.
    #[error("{place}: {reason}")]
    Value {
        /// `target "app", tags`
        place: String,
        /// Why.
        reason: String,
    },
    /// A name that nothing has.
    #[error("failed to find target {0}")]
    Missing(String),
    /// A pattern that fits nothing.
    #[error("could not find any target matching \"{0}\"")]
    NoMatch(String),
}

impl BakeError {
    fn value(place: impl Into<String>, reason: impl ToString) -> Self {
        Self::Value { place: place.into(), reason: reason.to_string() }
    }
}

/// Reads a file, see [`Surroundings::read`].
pub type ReadFile = dyn Fn(&str) -> Result<Option<String>, String>;

/// The name of a bake file, and a path in it.
pub type Beside = dyn Fn(&str, &str) -> String;

/// What a definition is evaluated with.
pub struct Surroundings<'a> {
    /// `--var`.
    pub vars: BTreeMap<String, String>,
    /// Variables of the environment; nothing where they are not to be looked at.
    pub environment: &'a dyn Fn(&str) -> Option<String>,
    /// `BAKE_LOCAL_PLATFORM`.
    pub local_platform: String,
    /// `BAKE_CMD_CONTEXT`.
    pub command_context: String,
    /// `homedir()`.
    pub home: Option<String>,
    /// A file's path as it is from where the command was called; without it, it is that already (SPEC B5.07).
    pub beside: Option<&'a Beside>,
    /// The text of a file that a compose file names, from where the command was called; nothing if there is none.
    pub read: &'a ReadFile,
}

/// A variable, for `--list=variables`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VariableInfo {
    /// Its name.
    pub name: String,
    /// Its type, if one is given.
    pub kind: String,
    /// Its value, as JSON if it is no text.
    pub value: String,
    /// What it is for.
    pub description: String,
}

/// Groups and targets as they are after everything was evaluated.
#[derive(Debug, Clone, Default)]
pub struct Bake {
    targets: IndexMap<String, Target>,
    groups: IndexMap<String, Group>,
    variables: Vec<VariableInfo>,
    warnings: Vec<String>,
}

#[derive(Debug, Clone, Default)]
struct Group {
    targets: Vec<String>,
    description: String,
    /// It stands for the targets that a matrix makes of one.
    matrix: bool,
}

impl Bake {
    /// Evaluates files, in their order.
    ///
    /// # Errors
    /// See [`BakeError`].
    pub fn new(files: &[SourceFile], with: &Surroundings<'_>) -> Result<Self, BakeError> {
        let sources = Sources::read(files, with)?;
        let names = Names::new(&sources, with);
        let (variables, warnings) = (names.variables()?, sources.warnings.clone());
        let mut bake = Self { variables, warnings, ..Self::default() };
        for (kind, name) in
            sources.groups.keys().map(|n| ("group", n)).chain(sources.targets.keys().map(|n| ("target", n)))
        {
            if !is_name(name) {
                let place = format!("{kind} \"{name}\"");
                return Err(BakeError::value(place, format!("invalid name \"{name}\": letters, digits, _ and - only")));
            }
        }
        for (name, blocks) in &sources.groups {
            let mut group = Group::default();
            for block in blocks {
                for (key, expression) in &block.attributes {
                    let place = || format!("group \"{name}\", {key}");
                    let value = names.evaluate(expression).map_err(|e| BakeError::value(place(), e))?;
                    match key.as_str() {
                        "targets" => group.targets = target::texts(&value).map_err(|e| BakeError::value(place(), e))?,
                        "description" => group.description = value.as_str().unwrap_or_default().to_owned(),
                        _ => {
                            let reason = "not supported: a group has targets and description only";
                            return Err(BakeError::value(place(), reason));
                        }
                    }
                }
            }
            bake.groups.insert(name.clone(), group);
        }
        let expanded = names.expanded()?;
        for (name, parts) in &expanded.targets {
            bake.targets.insert(name.clone(), Target::of_parts(name, parts, &names)?);
        }
        for (name, targets) in &expanded.groups {
            let group = Group { targets: targets.clone(), matrix: true, ..Group::default() };
            bake.groups.insert(name.clone(), group);
        }
        Ok(bake)
    }

    /// What is worth saying about the files.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The targets of some names, groups taken apart, each resolved, in the order in which they are named.
    ///
    /// # Errors
    /// When a name is unknown, an override does not fit, or targets inherit from each other.
    pub fn resolve(&self, names: &[String], overrides: &[Override]) -> Result<IndexMap<String, Target>, BakeError> {
        for given in overrides {
            if !self.targets.keys().any(|name| given.matches(name)) {
                return Err(BakeError::value(
                    "--set",
                    format!("could not find any target matching '{}'", given.pattern()),
                ));
            }
        }
        let found = self.members(names)?;
        let mut out = IndexMap::new();
        for name in found {
            let target = self.inherited(&name, overrides, &mut Vec::new())?;
            out.insert(name, target.finished());
        }
        // What others are made of comes along.
        loop {
            let needed = out.values().flat_map(Target::needs);
            let Some(name) = needed.into_iter().find(|name| !out.contains_key(name)) else { break };
            let mut target = self.inherited(&name, overrides, &mut Vec::new())?;
            target.goes_nowhere();
            out.insert(name, target.finished());
        }
        for name in out.keys() {
            Self::check_links(&out, name, &mut Vec::new())?;
        }
        Ok(out)
    }

    /// The targets that names stand for, without what those are made of.
    ///
    /// # Errors
    /// When a name is unknown.
    pub fn members(&self, names: &[String]) -> Result<Vec<String>, BakeError> {
        let mut found = Vec::new();
        for name in self.named(names)? {
            self.expand(&name, &mut found, &mut BTreeSet::new())?;
        }
        Ok(found)
    }

    /// Groups and targets that names and patterns stand for; a service's name with dots is that of its target.
    fn named(&self, names: &[String]) -> Result<Vec<String>, BakeError> {
        let mut all: Vec<String> = Vec::new();
        for name in names {
            let name = name.replace('.', "_");
            let found: Vec<String> = if name.contains(['*', '?', '[', ']']) {
                let known = self.groups.keys().chain(self.targets.keys());
                known.filter(|known| overrides::matches(&name, known)).cloned().collect()
            } else {
                vec![name.clone()]
            };
            if found.is_empty() {
                return Err(BakeError::NoMatch(name));
            }
            for name in found {
                if !all.contains(&name) {
                    all.push(name);
                }
            }
        }
        Ok(all)
    }

    /// Whether what targets are made of can be made at all, and for their platforms (SPEC B7.16).
    fn check_links(targets: &IndexMap<String, Target>, name: &str, path: &mut Vec<String>) -> Result<(), BakeError> {
        let Some(target) = targets.get(name) else { return Ok(()) };
        let place = || format!("target \"{name}\", contexts");
        path.push(name.to_owned());
        for other in target.linked().into_values() {
            if other == name {
                return Err(BakeError::value(place(), "a target cannot link to itself"));
            }
            if path.contains(&other) {
                return Err(BakeError::value(place(), format!("infinite loop from {name} to {other}")));
            }
            let (mine, theirs) = (target.platforms(), targets.get(&other).map(Target::platforms).unwrap_or_default());
            if mine.len() > 1 && theirs.len() > 1 && !mine.iter().all(|platform| theirs.contains(platform)) {
                return Err(BakeError::value(
                    place(),
                    format!(
                        "target {other} can't be used by {name} because its platforms {mine:?} are not a subset of {theirs:?}"
                    ),
                ));
            }
            Self::check_links(targets, &other, path)?;
        }
        path.pop();
        Ok(())
    }

    fn expand(&self, name: &str, out: &mut Vec<String>, seen: &mut BTreeSet<String>) -> Result<(), BakeError> {
        if !seen.insert(name.to_owned()) {
            return Ok(());
        }
        match self.groups.get(name) {
            // A group may hold the target of its own name.
            Some(group) => group.targets.iter().try_for_each(|inner| {
                if inner == name && self.targets.contains_key(name) {
                    out.extend((!out.contains(inner)).then(|| inner.clone()));
                    return Ok(());
                }
                self.expand(inner, out, seen)
            }),
            None if self.targets.contains_key(name) => {
                if !out.iter().any(|known| known == name) {
                    out.push(name.to_owned());
                }
                Ok(())
            }
            None => Err(BakeError::Missing(name.to_owned())),
        }
    }

    fn inherited(&self, name: &str, overrides: &[Override], path: &mut Vec<String>) -> Result<Target, BakeError> {
        let place = || format!("target \"{name}\", inherits");
        if path.iter().any(|outer| outer == name) {
            return Err(BakeError::value(place(), format!("infinite recursion: {}", path.join(" → "))));
        }
        let Some(own) = self.targets.get(name) else {
            if self.groups.get(name).is_some_and(|group| group.matrix) {
                return Err(BakeError::value(place(), "a target with a matrix cannot be inherited"));
            }
            return Err(BakeError::Missing(name.to_owned()));
        };
        path.push(name.to_owned());
        let mut target = Target::default();
        for parent in own.inherits() {
            target.merge(&self.inherited(&parent, overrides, path)?);
        }
        path.pop();
        target.merge(own);
        target.at_home(own);
        for given in overrides.iter().filter(|given| given.matches(name)) {
            given.apply(&mut target)?;
        }
        Ok(target)
    }

    /// Groups and targets, for `--list=targets`: name and description.
    #[must_use]
    pub fn listed(&self) -> Vec<(String, String)> {
        let groups = self.groups.iter().map(|(name, group)| {
            let members = group.targets.join(", ");
            let text = if group.description.is_empty() { members } else { group.description.clone() };
            (name.clone(), text)
        });
        let targets = self.targets.iter().filter(|(name, _)| !self.groups.contains_key(*name));
        let mut all: Vec<_> =
            groups.chain(targets.map(|(name, target)| (name.clone(), target.description()))).collect();
        all.sort_by_key(|(name, _)| (name != "default", name.clone()));
        all
    }

    /// Variables, for `--list=variables`.
    #[must_use]
    pub fn variables(&self) -> &[VariableInfo] {
        &self.variables
    }

    /// The document of `--print` (SPEC B7.18).
    ///
    /// # Errors
    /// When a name is unknown.
    pub fn printed(&self, names: &[String], targets: &IndexMap<String, Target>) -> Result<Value, BakeError> {
        let names = self.named(names)?;
        let mut groups: BTreeMap<String, Value> = BTreeMap::new();
        let mut pending = names.clone();
        while let Some(name) = pending.pop() {
            if let Some(group) = self.groups.get(&name)
                && !groups.contains_key(&name)
            {
                groups.insert(name.clone(), group.printed());
                pending.extend(group.targets.clone());
            }
        }
        // What was asked for is the default of what is printed.
        let known = groups.get("default").and_then(|group| group["targets"].as_array()).cloned().unwrap_or_default();
        let default = known.iter().filter_map(Value::as_str).map(ToOwned::to_owned);
        let is_group = groups.contains_key("default");
        let asked = names.into_iter().filter(|name| name != "default" || !is_group);
        let members: BTreeSet<String> = default.chain(asked).collect();
        groups.entry("default".into()).or_insert_with(|| json!({}))["targets"] = json!(members);
        let shown: BTreeMap<&String, Value> = targets.iter().map(|(name, target)| (name, target.printed())).collect();
        Ok(json!({ "group": groups, "target": shown }))
    }
}

impl Group {
    fn printed(&self) -> Value {
        let mut out = Map::new();
        if !self.description.is_empty() {
            out.insert("description".into(), self.description.clone().into());
        }
        let mut targets: Vec<&String> = Vec::new();
        for target in &self.targets {
            if !targets.contains(&target) {
                targets.push(target);
            }
        }
        out.insert("targets".into(), json!(targets));
        Value::Object(out)
    }
}

/// What may name a target or group (SPEC B7.08).
fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

/// Values that were found before.
type Memory<T> = RefCell<BTreeMap<String, T>>;

/// An object of texts.
fn text_map(fields: impl IntoIterator<Item = (String, String)>) -> Value {
    Value::Object(fields.into_iter().map(|(key, value)| (key, Value::String(value))).collect::<Map<_, _>>())
}
