//! Targets: their attributes, how they merge, and what they are as arguments of a build (SPEC B7.03–B7.05).

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::eval::{self, EvalError, error};
use super::matrix::Part;
use super::scope::Names;
use super::{BakeError, text_map};
use crate::base::values::csv_record;
use crate::base::wording::did_you_mean;

/// What an attribute is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Flag,
    Texts,
    /// Of texts; null takes a key away.
    Map,
    /// `type=registry,ref=…`, or the same as an object.
    Specs,
}

/// What happens to an attribute that two blocks have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Merge {
    Last,
    /// Keys are put together, elements appended unless they are there.
    Both,
    /// As [`Merge::Both`], where an element with the same key takes the other's place.
    By(&'static str),
}

/// Attribute, what it is, how it merges, the flag it is for a build. In the order in which `--print` has them.
const ATTRIBUTES: &[(&str, Kind, Merge, &str)] = &[
    ("description", Kind::Text, Merge::Last, ""),
    ("annotations", Kind::Texts, Merge::Both, "--annotation"),
    ("attest", Kind::Specs, Merge::By("type"), "--attest"),
    ("context", Kind::Text, Merge::Last, ""),
    ("contexts", Kind::Map, Merge::Both, "--build-context"),
    ("dockerfile", Kind::Text, Merge::Last, ""),
    ("dockerfile-inline", Kind::Text, Merge::Last, ""),
    ("args", Kind::Map, Merge::Both, "--build-arg"),
    ("labels", Kind::Map, Merge::Both, "--label"),
    ("tags", Kind::Texts, Merge::Last, "--tag"),
    ("cache-from", Kind::Specs, Merge::Both, "--cache-from"),
    ("cache-to", Kind::Specs, Merge::Last, "--cache-to"),
    ("target", Kind::Text, Merge::Last, "--target"),
    ("secret", Kind::Specs, Merge::By("id"), "--secret"),
    ("ssh", Kind::Specs, Merge::By("id"), "--ssh"),
    ("platforms", Kind::Texts, Merge::Last, "--platform"),
    ("output", Kind::Specs, Merge::Last, "--output"),
    ("pull", Kind::Flag, Merge::Last, "--pull"),
    ("no-cache", Kind::Flag, Merge::Last, "--no-cache"),
    ("network", Kind::Text, Merge::Last, "--network"),
    ("no-cache-filter", Kind::Texts, Merge::Both, "--no-cache-filter"),
    ("shm-size", Kind::Text, Merge::Last, "--shm-size"),
    ("ulimits", Kind::Texts, Merge::Both, "--ulimit"),
    ("call", Kind::Text, Merge::Last, "--call"),
    ("entitlements", Kind::Texts, Merge::Both, "--allow"),
    ("extra-hosts", Kind::Map, Merge::Both, "--add-host"),
    ("resources", Kind::Map, Merge::Both, "--resource"),
    ("policy", Kind::Specs, Merge::Both, "--policy"),
    ("inherits", Kind::Texts, Merge::Last, ""),
];

/// Limits that are numbers.
const COUNTS: [&str; 3] = ["cpu-shares", "cpu-period", "cpu-quota"];

/// What a target consists of: its attributes, and the directory that is its context if nothing else is said.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Target(BTreeMap<&'static str, Value>, Option<String>);

/// A list of texts; one text is a list too.
pub(super) fn texts(value: &Value) -> Result<Vec<String>, EvalError> {
    match value {
        Value::Array(items) => items.iter().filter(|item| !item.is_null()).map(eval::text).collect(),
        Value::Null => Ok(Vec::new()),
        other => error(format!("a list of strings is required, not {}", eval::kind(other))),
    }
}

/// All attributes.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    ATTRIBUTES.iter().map(|(name, ..)| *name)
}

/// What an attribute is, by name.
pub(super) fn kind(name: &str) -> Option<(&'static str, Kind)> {
    ATTRIBUTES.iter().find(|(known, ..)| *known == name).map(|(known, kind, ..)| (*known, *kind))
}

/// A value as the attribute has it.
pub(super) fn shaped(name: &str, kind: Kind, value: &Value) -> Result<Value, EvalError> {
    match kind {
        Kind::Text => eval::text(value).map(Value::from),
        Kind::Flag => eval::boolean(value).map(Value::from),
        Kind::Texts => Ok(texts(value)?.into_iter().map(Value::from).collect()),
        Kind::Map => match value {
            Value::Object(fields) => {
                let field = |(key, value): (&String, &Value)| match value {
                    Value::Null => Ok((key.clone(), Value::Null)),
                    value if name == "resources" && COUNTS.contains(&key.as_str()) => {
                        let text = eval::text(value)?;
                        match text.parse::<i64>() {
                            Ok(_) => Ok((key.clone(), text.into())),
                            Err(_) => error(format!("{key}: \"{text}\" is no number")),
                        }
                    }
                    value => Ok((key.clone(), eval::text(value)?.into())),
                };
                Ok(Value::Object(fields.iter().map(field).collect::<Result<Map<_, _>, EvalError>>()?))
            }
            other => error(format!("a map of strings is required, not {}", eval::kind(other))),
        },
        Kind::Specs => match value {
            Value::Array(items) => {
                let mut out: Vec<Value> = Vec::new();
                for item in items.iter().filter(|item| !item.is_null() && **item != "") {
                    out.extend(registries(name, item).map_or_else(|| Ok(vec![spec(name, item)?]), Ok)?);
                }
                if name == "attest" {
                    once(&mut out);
                }
                Ok(out.into())
            }
            other => error(format!("a list is required, not {}", eval::kind(other))),
        },
    }
}

/// Only the last attestation of a kind counts.
pub(super) fn once(attestations: &mut Vec<Value>) {
    let all = std::mem::take(attestations);
    for (at, item) in all.iter().enumerate() {
        if !all[at + 1..].iter().any(|later| later["type"] == item["type"]) {
            attestations.push(item.clone());
        }
    }
}

/// Caches that are named and nothing else, with commas between them.
fn registries(name: &str, value: &Value) -> Option<Vec<Value>> {
    let text = value.as_str().filter(|text| matches!(name, "cache-from" | "cache-to") && !text.contains('='))?;
    let names = csv_record(text).ok()?;
    Some(names.into_iter().map(|name| serde_json::json!({"type": "registry", "ref": name})).collect())
}

/// `type=registry,ref=a` as an object; the short forms of each attribute too.
fn spec(name: &str, value: &Value) -> Result<Value, EvalError> {
    let text = match value {
        Value::Object(fields) => {
            let field = |(key, value): (&String, &Value)| match value {
                // Keys of `ssh` are a list.
                Value::Array(_) if key == "paths" => Ok((key.clone(), texts(value)?.join(","))),
                value => Ok((key.clone(), eval::text(value)?)),
            };
            let fields = fields.iter().filter(|(_, value)| !value.is_null()).map(field);
            return Ok(text_map(fields.collect::<Result<BTreeMap<_, _>, EvalError>>()?));
        }
        other => eval::text(other)?,
    };
    let parts = csv_record(&text).map_err(EvalError)?;
    let short = |fields: &[(&str, &str)]| {
        Ok(text_map(fields.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))))
    };
    match (name, parts.as_slice()) {
        ("output", [one]) if one == "-" => return short(&[("type", "tar"), ("dest", "-")]),
        ("output", [one]) if !one.contains('=') => return short(&[("type", "local"), ("dest", one)]),
        ("ssh", _) => {
            let (id, paths) = text.split_once('=').unwrap_or((&text, ""));
            let fields = [("id", id), ("paths", paths)];
            return short(if paths.is_empty() { &fields[..1] } else { &fields });
        }
        _ => {}
    }
    let field = |part: &String| match part.split_once('=') {
        Some((key, value)) => Ok((key.trim().to_owned(), value.to_owned())),
        None => error(format!("\"{text}\": {part} is no key=value")),
    };
    let fields = parts.iter().map(field).collect::<Result<BTreeMap<_, _>, EvalError>>()?;
    Ok(text_map(fields))
}

impl Target {
    /// Puts the blocks of one name together.
    pub(super) fn of_parts(name: &str, parts: &[Part<'_>], names: &Names<'_>) -> Result<Self, BakeError> {
        let mut target = Self::default();
        for Part { block, bound } in parts {
            let mut own = Self::default();
            for (key, expression) in &block.attributes {
                if matches!(key.as_str(), "matrix" | "name") {
                    continue;
                }
                let place = || format!("target \"{name}\", {key}");
                let Some((key, kind)) = kind(key) else {
                    let similar = did_you_mean(key, self::names().chain(["matrix", "name"]));
                    return Err(BakeError::value(place(), format!("unsupported attribute{similar}")));
                };
                let value = names.evaluate_with(expression, bound.clone()).map_err(|e| BakeError::value(place(), e))?;
                if value.is_null() {
                    continue;
                }
                let mut value = shaped(key, kind, &value).map_err(|e| BakeError::value(place(), e))?;
                match (key, &mut value) {
                    ("context", Value::String(path)) => *path = names.beside(&block.file, expression, path),
                    ("contexts", Value::Object(paths)) => {
                        for path in paths.values_mut().filter(|path| path.is_string()) {
                            *path = names.beside(&block.file, expression, path.as_str().unwrap_or_default()).into();
                        }
                    }
                    _ => {}
                }
                own.0.insert(key, value);
            }
            target.merge(&own);
        }
        target.1 = parts.first().and_then(|part| names.home(&part.block.file));
        Ok(target)
    }

    /// The directory of another one, where nothing is said of it.
    pub(super) fn at_home(&mut self, other: &Self) {
        self.1.clone_from(&other.1);
    }

    /// Another one on top of this (SPEC B7.05).
    pub(super) fn merge(&mut self, other: &Self) {
        for (key, value) in &other.0 {
            let merge = ATTRIBUTES.iter().find(|(name, ..)| name == key).map_or(Merge::Last, |(_, _, merge, _)| *merge);
            match (merge, self.0.get_mut(key), value) {
                (Merge::Both, Some(Value::Object(mine)), Value::Object(theirs)) => mine.extend(theirs.clone()),
                (Merge::Both, Some(Value::Array(mine)), Value::Array(theirs)) => {
                    for item in theirs {
                        if !mine.contains(item) {
                            mine.push(item.clone());
                        }
                    }
                }
                (Merge::By(id), Some(Value::Array(mine)), Value::Array(theirs)) => {
                    for item in theirs {
                        mine.retain(|known| item.get(id).is_none() || known.get(id) != item.get(id));
                        mine.push(item.clone());
                    }
                }
                _ => {
                    self.0.insert(key, value.clone());
                }
            }
        }
    }

    pub(super) fn inherits(&self) -> Vec<String> {
        self.0.get("inherits").and_then(|value| texts(value).ok()).unwrap_or_default()
    }

    /// With what holds where nothing is said, and without what was taken away.
    pub(super) fn finished(mut self) -> Self {
        self.0.remove("inherits");
        for value in self.0.values_mut() {
            if let Value::Object(fields) = value {
                fields.retain(|_, value| !value.is_null());
            }
        }
        self.0.retain(|_, value| match value {
            Value::Object(fields) => !fields.is_empty(),
            Value::Array(items) => !items.is_empty(),
            _ => true,
        });
        let home = self.1.clone().unwrap_or_else(|| ".".into());
        self.0.entry("context").or_insert_with(|| home.into());
        let dockerfile = self.0.entry("dockerfile").or_insert_with(|| "".into());
        if dockerfile == "" {
            *dockerfile = "Dockerfile".into();
        }
        // Who asks for the machine's network needs it; whoever calls may allow it or not (SPEC B7.22).
        if self.text("network") == Some("host") {
            let mut all = self.0.get("entitlements").and_then(|value| texts(value).ok()).unwrap_or_default();
            if !all.iter().any(|name| name == "network.host") {
                all.push("network.host".into());
            }
            self.0.insert("entitlements", all.into());
        }
        self
    }

    pub(super) fn platforms(&self) -> Vec<String> {
        self.0.get("platforms").and_then(|value| texts(value).ok()).unwrap_or_default()
    }

    /// Other targets whose results this one uses: `target:NAME`.
    pub(super) fn needs(&self) -> Vec<String> {
        let contexts = self.map("contexts").into_values();
        contexts.filter_map(|value| value.strip_prefix("target:").map(ToOwned::to_owned)).collect()
    }

    /// Named contexts that are other targets: the context's name, and the target's.
    #[must_use]
    pub fn linked(&self) -> BTreeMap<String, String> {
        let contexts = self.map("contexts").into_iter();
        contexts.filter_map(|(name, value)| Some((name, value.strip_prefix("target:")?.to_owned()))).collect()
    }

    /// Changes the context and named contexts to what `change` says; nothing leaves one as it is.
    ///
    /// # Errors
    /// Those of `change`.
    pub fn change_contexts(&mut self, change: impl Fn(&str) -> Option<String>) {
        if let Some(context) = self.text("context").and_then(&change) {
            self.set("context", context.into());
        }
        for value in self.0.get_mut("contexts").and_then(Value::as_object_mut).into_iter().flat_map(Map::values_mut) {
            if let Some(text) = value.as_str().filter(|text| !text.starts_with("target:"))
                && let Some(changed) = change(text)
            {
                *value = changed.into();
            }
        }
    }

    /// It is made because others need it, and goes nowhere itself.
    pub(super) fn goes_nowhere(&mut self) {
        for key in ["tags", "cache-to", "attest"] {
            self.0.remove(key);
        }
        self.0.insert("output", serde_json::json!([{"type": "cacheonly"}]));
    }

    pub(super) fn set(&mut self, key: &'static str, value: Value) {
        self.0.insert(key, value);
    }

    pub(super) fn remove(&mut self, key: &str) {
        self.0.remove(key);
    }

    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    /// An attribute that is a text.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(Value::as_str)
    }

    /// An attribute that is a list of specifications, each as fields.
    #[must_use]
    pub fn specs(&self, key: &str) -> Vec<BTreeMap<String, String>> {
        let items = self.0.get(key).and_then(Value::as_array).into_iter().flatten();
        let fields = items.filter_map(Value::as_object).map(|fields| {
            fields.iter().filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
        });
        fields.collect()
    }

    /// An attribute that is a map.
    #[must_use]
    pub fn map(&self, key: &str) -> BTreeMap<String, String> {
        let fields = self.0.get(key).and_then(Value::as_object).into_iter().flatten();
        fields.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
    }

    pub(super) fn description(&self) -> String {
        self.text("description").unwrap_or_default().to_owned()
    }

    /// As `--print` has it: in templates, `${` and `%{` would be read again.
    pub(super) fn printed(&self) -> Value {
        let mut out = Map::new();
        for (name, ..) in ATTRIBUTES {
            if let Some(value) = self.0.get(name) {
                let value = match *name {
                    "annotations" | "args" | "labels" | "tags" | "dockerfile-inline" => escaped(value),
                    "ssh" | "resources" => typed(value),
                    _ => value.clone(),
                };
                out.insert((*name).to_owned(), value);
            }
        }
        Value::Object(out)
    }

    /// What says the same to `rbuild build`, but for the context, the Dockerfile and contexts that are targets.
    #[must_use]
    pub fn arguments(&self) -> Vec<String> {
        let mut out = Vec::new();
        for (name, kind, _, flag) in ATTRIBUTES {
            let Some(value) = self.0.get(name).filter(|_| !flag.is_empty()) else { continue };
            let mut add = |value: String| out.push(format!("{flag}={value}"));
            match kind {
                Kind::Text => add(value.as_str().unwrap_or_default().to_owned()),
                // `--no-cache` takes no value.
                Kind::Flag if *name == "no-cache" => {
                    if value == &Value::Bool(true) {
                        out.push((*flag).to_owned());
                    }
                }
                Kind::Flag => add(value.to_string()),
                Kind::Texts => texts(value).unwrap_or_default().into_iter().for_each(add),
                Kind::Map => {
                    let fields = self.map(name).into_iter();
                    let fields = fields.filter(|(_, value)| *name != "contexts" || !value.starts_with("target:"));
                    fields.for_each(|(key, value)| add(format!("{key}={value}")));
                }
                Kind::Specs => self.specs(name).into_iter().for_each(|fields| add(written(name, &fields))),
            }
        }
        out
    }
}

/// A specification as flags take it.
fn written(name: &str, fields: &BTreeMap<String, String>) -> String {
    if name == "ssh" {
        let id = fields.get("id").map_or("default", String::as_str);
        return fields.get("paths").map_or_else(|| id.to_owned(), |paths| format!("{id}={paths}"));
    }
    let first = ["type", "id"].into_iter().filter_map(|key| Some((key, fields.get(key)?)));
    let rest = fields.iter().filter(|(key, _)| !matches!(key.as_str(), "type" | "id"));
    let all = first.map(|(key, value)| (key.to_owned(), value)).chain(rest.map(|(key, value)| (key.clone(), value)));
    let parts = all.map(|(key, value)| {
        let part = format!("{key}={value}");
        if part.contains([',', '"', '\n']) { format!("\"{}\"", part.replace('"', "\"\"")) } else { part }
    });
    parts.collect::<Vec<_>>().join(",")
}

/// With the numbers and lists that are texts to us.
fn typed(value: &Value) -> Value {
    match value {
        Value::Array(items) => items.iter().map(typed).collect(),
        Value::Object(fields) => {
            let field = |(key, value): (&String, &Value)| {
                let text = value.as_str().unwrap_or_default();
                let value = match (key.as_str(), text.parse::<i64>()) {
                    ("paths", _) => text.split(',').map(Value::from).collect(),
                    (count, Ok(number)) if COUNTS.contains(&count) => number.into(),
                    _ => value.clone(),
                };
                (key.clone(), value)
            };
            Value::Object(fields.iter().map(field).collect())
        }
        other => other.clone(),
    }
}

fn escaped(value: &Value) -> Value {
    match value {
        Value::String(text) => text.replace("${", "$${").replace("%{", "%%{").into(),
        Value::Array(items) => items.iter().map(escaped).collect(),
        Value::Object(fields) => {
            let fields: BTreeMap<&String, &Value> = fields.iter().collect();
            Value::Object(fields.into_iter().map(|(key, value)| (key.clone(), escaped(value))).collect())
        }
        other => other.clone(),
    }
}
