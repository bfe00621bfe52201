//! Puts compose files together: variables, short forms, `include`, `extends`, later files over earlier ones.

use serde_json::{Map, Value, json};

use super::super::BakeError;
use super::super::source::SourceFile;
use super::{World, schema, shape};
use crate::base::yaml;

/// What of a base is taken away, or replaced instead of merged.
pub(super) const TAGS: &[&str] = &["!reset", "!override"];

/// Files that include each other, and services that extend each other.
const MAX_DEPTH: usize = 20;

/// Services and secrets, in their long forms.
#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) services: Map<String, Value>,
    pub(super) secrets: Map<String, Value>,
}

/// All files, in their order.
pub(super) fn of_files(files: &[&SourceFile], world: &World<'_>) -> Result<Model, BakeError> {
    let mut all = Value::Object(Map::new());
    for file in files {
        let fault = |reason| BakeError::Syntax { file: file.name.clone(), reason };
        merge(&mut all, document(&file.text, "", world, 0).map_err(fault)?);
    }
    untagged(&mut all);
    let mut part = |name: &str| match all[name].take() {
        Value::Object(fields) => fields,
        _ => Map::new(),
    };
    Ok(Model { services: part("services"), secrets: part("secrets") })
}

/// A file's `services` and `secrets`; `dir` is where its paths begin.
fn document(text: &str, dir: &str, world: &World<'_>, depth: usize) -> Result<Value, String> {
    if depth > MAX_DEPTH {
        return Err("files include each other in a circle".into());
    }
    let mut value = yaml::parse(text, TAGS)?;
    schema::check(&value, &|key| {
        world.ignored.borrow_mut().insert(key);
    })?;
    let Value::Object(top) = &mut value else { return Err("a map is required".into()) };
    if !["services", "secrets", "include"].iter().any(|key| top.contains_key(*key)) {
        return Err("empty compose file: it has no services".into());
    }
    let mut all = json!({});
    for entry in list(top.get("include").cloned().unwrap_or_default()) {
        let (paths, base) = match &entry {
            Value::Object(fields) => {
                (list(fields.get("path").cloned().unwrap_or_default()), fields.get("project_directory"))
            }
            one => (vec![one.clone()], None),
        };
        for path in paths {
            let path = world.filled(path.as_str().ok_or("include: a path is required")?)?;
            let path = join(dir, &path);
            let base = match base.and_then(Value::as_str) {
                Some(base) => join(dir, base),
                None => parent(&path),
            };
            let text = world.read(&path).map_err(|e| format!("include: {e}"))?;
            merge(&mut all, document(&text, &base, world, depth + 1).map_err(|e| format!("include {path}: {e}"))?);
        }
    }
    let mut own = json!({});
    for key in ["services", "secrets"] {
        if let Some(part) = top.remove(key) {
            own[key] = filled(part, world).map_err(|e| format!("{key}: {e}"))?;
        }
    }
    shape::check(&own)?;
    if let Some(services) = own["services"].as_object_mut() {
        for (name, service) in services.iter_mut() {
            if service.is_null() {
                *service = json!({});
            }
            long_form(service, dir).map_err(|e| format!("service \"{name}\": {e}"))?;
        }
        let before = services.clone();
        for (name, service) in services.iter_mut() {
            *service = extended(name, &before, dir, world, depth).map_err(|e| format!("service \"{name}\": {e}"))?;
        }
    }
    if let Some(secrets) = own["secrets"].as_object_mut() {
        for secret in secrets.values_mut() {
            if let Some(Value::String(file)) = secret.get_mut("file") {
                *file = join(dir, file);
            }
        }
    }
    merge(&mut all, own);
    Ok(all)
}

/// A service with what it extends below it.
fn extended(
    name: &str,
    services: &Map<String, Value>,
    dir: &str,
    world: &World<'_>,
    depth: usize,
) -> Result<Value, String> {
    if depth > MAX_DEPTH {
        return Err("services extend each other in a circle".into());
    }
    let own = services.get(name).ok_or_else(|| format!("there is no service \"{name}\" to extend"))?.clone();
    let (base, file) = match own.get("extends") {
        None | Some(Value::Null) => return Ok(own),
        Some(Value::String(base)) => (base.clone(), None),
        Some(fields) => {
            let base = fields["service"].as_str().ok_or("extends: a service is required")?;
            (base.to_owned(), fields["file"].as_str())
        }
    };
    let mut below = match file {
        None => extended(&base, services, dir, world, depth + 1)?,
        Some(file) => {
            let path = join(dir, file);
            let text = world.read(&path).map_err(|e| format!("extends: {e}"))?;
            let other =
                document(&text, &parent(&path), world, depth + 1).map_err(|e| format!("extends {path}: {e}"))?;
            let found = other["services"].get(&base);
            found.cloned().ok_or_else(|| format!("there is no service \"{base}\" in {path} to extend"))?
        }
    };
    merge(&mut below, own);
    Ok(below)
}

/// Variables in all texts.
fn filled(value: Value, world: &World<'_>) -> Result<Value, String> {
    Ok(match value {
        Value::String(text) => Value::String(world.filled(&text)?),
        Value::Array(items) => items.into_iter().map(|item| filled(item, world)).collect::<Result<_, _>>()?,
        Value::Object(fields) => {
            let field = |(key, value)| match filled(value, world) {
                Ok(value) => Ok((key, value)),
                Err(e) => Err(format!("{key}: {e}")),
            };
            Value::Object(fields.into_iter().map(field).collect::<Result<_, String>>()?)
        }
        other => other,
    })
}

/// One is a list too.
fn list(value: Value) -> Vec<Value> {
    match value {
        Value::Null => Vec::new(),
        Value::Array(items) => items,
        one => vec![one],
    }
}

/// What can be written shortly is written at length, and paths begin where the command was called.
fn long_form(service: &mut Value, dir: &str) -> Result<(), String> {
    if !service.is_object() {
        return Err("a map is required".into());
    }
    tagged(service, "environment", |value| pairs(value, &["="]))?;
    tagged(service, "env_file", |value| {
        let entry = |entry: Value| match entry {
            Value::String(path) => json!({"path": join(dir, &path)}),
            Value::Object(mut fields) => {
                if let Some(Value::String(path)) = fields.get_mut("path") {
                    *path = join(dir, path);
                }
                Value::Object(fields)
            }
            other => other,
        };
        Ok(list(value).into_iter().map(entry).collect())
    })?;
    tagged(service, "build", |value| {
        let mut build = match value {
            Value::Null => return Ok(Value::Null),
            Value::String(context) => json!({ "context": context }),
            fields @ Value::Object(_) => fields,
            _ => return Err("build: a context or a map is required".into()),
        };
        let context = build.get("context").and_then(Value::as_str);
        if context.is_some() || !dir.is_empty() {
            build["context"] = place(dir, context.unwrap_or(".")).into();
        }
        for key in ["args", "labels"] {
            tagged(&mut build, key, |value| pairs(value, &["="]))?;
        }
        tagged(&mut build, "extra_hosts", |value| pairs(value, &["=", ":"]))?;
        tagged(&mut build, "additional_contexts", |value| {
            let mut all = pairs(value, &["="])?;
            for context in all.as_object_mut().into_iter().flat_map(Map::values_mut) {
                if let Value::String(text) = context {
                    *text = place(dir, text);
                }
            }
            Ok(all)
        })?;
        tagged(&mut build, "secrets", |value| {
            let entry = |entry| if let Value::String(source) = entry { json!({ "source": source }) } else { entry };
            Ok(list(value).into_iter().map(entry).collect())
        })?;
        tagged(&mut build, "ssh", |value| match value {
            Value::Object(keys) => Ok(keys
                .into_iter()
                .map(|(id, path)| match path {
                    Value::String(path) => Value::String(format!("{id}={path}")),
                    _ => Value::String(id),
                })
                .collect()),
            other => Ok(Value::Array(list(other))),
        })?;
        Ok(build)
    })
}

/// Changes a field, with or without a tag.
fn tagged(object: &mut Value, key: &str, change: impl FnOnce(Value) -> Result<Value, String>) -> Result<(), String> {
    let Some(field) = object.get_mut(key) else { return Ok(()) };
    let field = match TAGS.iter().find(|tag| field.get(**tag).is_some()) {
        Some(tag) => &mut field[*tag],
        None => field,
    };
    *field = change(field.take()).map_err(|e| format!("{key}: {e}"))?;
    Ok(())
}

/// `[A=1, B]` as `{A: 1, B: null}`.
fn pairs(value: Value, separators: &[&str]) -> Result<Value, String> {
    match value {
        Value::Array(items) => {
            let pair = |item: Value| {
                let text = match item {
                    Value::String(text) => text,
                    Value::Number(_) | Value::Bool(_) => item.to_string(),
                    _ => return Err("NAME=VALUE is required".to_owned()),
                };
                Ok(match separators.iter().find_map(|separator| text.split_once(separator)) {
                    Some((name, value)) => (name.to_owned(), value.into()),
                    None => (text, Value::Null),
                })
            };
            Ok(Value::Object(items.into_iter().map(pair).collect::<Result<_, _>>()?))
        }
        Value::Null => Ok(Value::Object(Map::new())),
        fields @ Value::Object(_) => Ok(fields),
        _ => Err("a map or a list of NAME=VALUE is required".into()),
    }
}

/// One on top of another: maps by key, lists appended, the rest replaced.
fn merge(below: &mut Value, above: Value) {
    match (below, above) {
        (Value::Object(mine), Value::Object(theirs)) if !theirs.contains_key("!override") => {
            for (key, value) in theirs {
                if value.get("!reset").is_some() {
                    mine.shift_remove(&key);
                } else if let Some(known) = mine.get_mut(&key) {
                    merge(known, value);
                } else {
                    mine.insert(key, value);
                }
            }
        }
        (Value::Array(mine), Value::Array(theirs)) => {
            for item in theirs {
                if !mine.contains(&item) {
                    mine.push(item);
                }
            }
        }
        (below, mut above) => {
            *below = match above.get_mut("!override") {
                Some(value) => value.take(),
                None => above,
            };
        }
    }
}

/// Takes away tags that had nothing to say anything against.
fn untagged(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| value.get("!reset").is_none());
            for value in fields.values_mut() {
                if let Some(inner) = value.get_mut("!override") {
                    *value = inner.take();
                }
                untagged(value);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(untagged),
        _ => {}
    }
}

/// A context: a path begins at `dir`, all else is left alone.
fn place(dir: &str, text: &str) -> String {
    let elsewhere = text.contains("://")
        || ["service:", "target:", "github.com/", "git@"].iter().any(|start| text.starts_with(start));
    if elsewhere { text.to_owned() } else { join(dir, text) }
}

/// A path below a directory, without `.` and with as few `..` as can be.
fn join(dir: &str, path: &str) -> String {
    let whole = if path.starts_with('/') { path.to_owned() } else { format!("{dir}/{path}") };
    let absolute = path.starts_with('/') || dir.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in whole.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if absolute => {}
            part => parts.push(part),
        }
    }
    match (absolute, parts.is_empty()) {
        (true, _) => format!("/{}", parts.join("/")),
        (false, true) => ".".into(),
        (false, false) => parts.join("/"),
    }
}

fn parent(path: &str) -> String {
    path.rsplit_once('/').map_or(String::new(), |(dir, _)| if dir.is_empty() { "/".into() } else { dir.into() })
}
