//! What a service's `build` says, as the attributes of a target.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::super::source::{Block, literal};
use super::super::{BakeError, is_name, target};
use super::model::Model;
use super::{World, dotenv, schema};
use crate::base::values::{boolean, byte_size};
use crate::base::wording::did_you_mean;

/// Attributes that are the same thing under another name.
const SAME: &[(&str, &str)] = &[
    ("dockerfile", "dockerfile"),
    ("dockerfile_inline", "dockerfile-inline"),
    ("context", "context"),
    ("target", "target"),
    ("network", "network"),
    ("tags", "tags"),
    ("platforms", "platforms"),
    ("cache_from", "cache-from"),
    ("cache_to", "cache-to"),
    ("entitlements", "entitlements"),
    ("shm_size", "shm-size"),
    ("ssh", "ssh"),
];

/// All services that are built.
pub(super) fn targets(model: &Model, world: &World<'_>) -> Result<Vec<(String, Block)>, BakeError> {
    for (name, secret) in &model.secrets {
        if !["file", "environment", "external"].iter().any(|key| secret.get(*key).is_some_and(|v| !v.is_null())) {
            let place = format!("secret \"{name}\"");
            return Err(BakeError::value(place, "one of file, environment or external must be set"));
        }
    }
    let mut all = Vec::new();
    for (name, service) in &model.services {
        let place = format!("service \"{name}\"");
        let build = match &service["build"] {
            Value::Null if service["image"].is_null() => {
                // What was meant may be there under another name.
                let unknown = schema::unknown_of_service(service).map_or_else(String::new, |key| format!("; {key}"));
                let reason = format!("neither an image nor a build context is specified{unknown}");
                return Err(BakeError::value(place, reason));
            }
            Value::Null => continue,
            build => build,
        };
        let target = sanitized(name);
        if !is_name(&target) {
            return Err(BakeError::value(place, format!("invalid name \"{target}\": letters, digits, _ and - only")));
        }
        let attributes = attributes(service, build, model, world).map_err(|e| BakeError::value(&place, e))?;
        let attributes = attributes.into_iter().map(|(key, value)| (key, literal(value))).collect();
        all.push((target, Block { attributes, ..Block::default() }));
    }
    Ok(all)
}

/// The name of a service as that of a target.
pub(super) fn sanitized(name: &str) -> String {
    name.replace('.', "_")
}

fn attributes(service: &Value, build: &Value, model: &Model, world: &World<'_>) -> Result<Map<String, Value>, String> {
    let mut out = Map::new();
    for (theirs, ours) in SAME {
        let empty = |value: &Value| value.is_null() || *value == "" || value.as_array().is_some_and(Vec::is_empty);
        if let Some(value) = build.get(*theirs).filter(|value| !empty(value)) {
            let value = shaped(ours, value).map_err(|e| format!("build.{theirs}: {e}"))?;
            out.insert((*ours).to_owned(), value);
        }
    }
    if let (Some(own), Some(platforms)) = (service["platform"].as_str(), build["platforms"].as_array())
        && !platforms.is_empty()
        && !platforms.iter().any(|platform| *platform == *own)
    {
        return Err(format!("service.build.platforms MUST include service.platform \"{own}\""));
    }
    if let Some(bytes) = out.get("shm-size").and_then(Value::as_str).and_then(byte_size) {
        out.insert("shm-size".into(), bytes_text(bytes).into());
    }
    if let Some(Value::Array(keys)) = out.get_mut("ssh") {
        keys.sort_by_key(|key| key["id"].to_string());
    }
    match &build["no_cache_filter"] {
        Value::Null => {}
        stages => {
            let stages = if stages.is_array() { stages.clone() } else { json!([stages]) };
            out.insert("no-cache-filter".into(), stages);
        }
    }
    if ["dockerfile", "dockerfile-inline"].iter().all(|key| out.contains_key(*key)) {
        return Err("build.dockerfile and build.dockerfile_inline are mutually exclusive".into());
    }
    if let Some(contexts) = build["additional_contexts"].as_object() {
        for (context, value) in contexts {
            let Some(other) = value.as_str().and_then(|text| text.strip_prefix("service:")) else { continue };
            let problem = match model.services.get(other) {
                None => "unknown",
                Some(service) if service["build"].is_null() => "non-buildable",
                Some(_) => continue,
            };
            return Err(format!("declares {problem} service \"{other}\" as additional contexts {context}"));
        }
        out.insert("contexts".into(), contexts_of(contexts));
    }
    if let Some(args) = build["args"].as_object() {
        out.insert("args".into(), args_of(args, service, world)?);
    }
    if let Some(labels) = build["labels"].as_object() {
        let label = |(key, value): (&String, &Value)| {
            (key.clone(), if value.is_null() { Value::from("") } else { value.clone() })
        };
        out.insert("labels".into(), Value::Object(labels.iter().map(label).collect()));
    }
    if let Some(hosts) = build["extra_hosts"].as_object() {
        let host = |(name, address): (&String, &Value)| match address {
            Value::Array(several) => {
                (name.clone(), several.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",").into())
            }
            one => (name.clone(), one.clone()),
        };
        out.insert("extra-hosts".into(), Value::Object(hosts.iter().map(host).collect()));
    }
    if let Some(limits) = build["ulimits"].as_object() {
        let limit = |(name, limit): (&String, &Value)| match limit {
            Value::Object(both) => match (both.get("soft"), both.get("hard")) {
                (Some(soft), Some(hard)) => Ok(Value::from(format!("{name}={}:{}", plain(soft), plain(hard)))),
                _ => Err(format!("build.ulimits: {name} needs soft and hard")),
            },
            one => Ok(format!("{name}={0}:{0}", plain(one)).into()),
        };
        out.insert("ulimits".into(), limits.iter().map(limit).collect::<Result<_, _>>()?);
    }
    if let Some(secrets) = build["secrets"].as_array() {
        let secrets = secrets.iter().map(|secret| secret_of(secret, &model.secrets));
        out.insert("secret".into(), secrets.collect::<Result<_, _>>()?);
    }
    let mut attest = Vec::new();
    for kind in ["sbom", "provenance"] {
        let text = plain(&build[kind]);
        attest.extend(match (text.as_str(), boolean(&text)) {
            ("" | "null", _) => None,
            (_, Some(true)) => Some(json!({ "type": kind })),
            (_, Some(false)) => Some(json!({"type": kind, "disabled": "true"})),
            (text, None) => Some(shaped("attest", &json!([format!("type={kind},{text}")]))?[0].clone()),
        });
    }
    if !attest.is_empty() {
        out.insert("attest".into(), attest.into());
    }
    for (theirs, ours) in [("no_cache", "no-cache"), ("pull", "pull")] {
        let text = plain(&build[theirs]);
        match boolean(&text) {
            Some(true) => {
                out.insert(ours.into(), true.into());
            }
            None if !matches!(text.as_str(), "" | "null") => {
                return Err(format!("build.{theirs}: \"{text}\" is no bool"));
            }
            _ => {}
        }
    }
    extension(&build["x-bake"], &mut out)?;
    if out.get("tags").is_none_or(|tags| tags.as_array().is_some_and(Vec::is_empty))
        && let Some(image) = service["image"].as_str().filter(|image| !image.is_empty())
    {
        out.insert("tags".into(), json!([image]));
    }
    Ok(out)
}

/// `x-bake`: attributes of targets that compose files do not have.
fn extension(fields: &Value, out: &mut Map<String, Value>) -> Result<(), String> {
    let Some(fields) = fields.as_object() else { return Ok(()) };
    for (key, value) in fields {
        let place = |e| format!("build.x-bake.{key}: {e}");
        let Some((_, kind)) = target::kind(key).filter(|(key, _)| !matches!(*key, "inherits" | "description")) else {
            return Err(format!("build.x-bake: unsupported attribute {key}{}", did_you_mean(key, target::names())));
        };
        // Several may be written as words of one text.
        let value = match (kind, value) {
            (target::Kind::Texts | target::Kind::Specs, Value::String(text)) => {
                Value::Array(text.split_whitespace().map(Value::from).collect())
            }
            (_, value) => value.clone(),
        };
        let value = shaped(key, &value).map_err(place)?;
        match (out.get_mut(key), value) {
            (Some(Value::Array(mine)), Value::Array(more)) => {
                let more: Vec<Value> = more.into_iter().filter(|item| !mine.contains(item)).collect();
                mine.extend(more);
                if key == "ssh" {
                    mine.sort_by_key(|key| key["id"].to_string());
                }
            }
            (Some(Value::Object(mine)), Value::Object(more)) => {
                for (name, value) in more {
                    mine.entry(name).or_insert(value);
                }
            }
            (_, value) => {
                out.insert(key.clone(), value);
            }
        }
    }
    if let Some(contexts) = out.get("contexts").and_then(Value::as_object) {
        let contexts = contexts_of(contexts);
        out.insert("contexts".into(), contexts);
    }
    Ok(())
}

fn shaped(key: &str, value: &Value) -> Result<Value, String> {
    let Some((key, kind)) = target::kind(key) else { return Ok(value.clone()) };
    target::shaped(key, kind, value).map_err(|e| e.0)
}

/// Another service is another target.
fn contexts_of(contexts: &Map<String, Value>) -> Value {
    let context = |(name, value): (&String, &Value)| {
        let text = plain(value);
        let other = text.strip_prefix("service:").or_else(|| text.strip_prefix("target:"));
        (name.clone(), other.map_or_else(|| text.clone(), |other| format!("target:{}", sanitized(other))).into())
    };
    Value::Object(contexts.iter().map(context).collect())
}

/// Arguments; those without a value come from the service's environment, or the command's.
fn args_of(args: &Map<String, Value>, service: &Value, world: &World<'_>) -> Result<Value, String> {
    let mut own: Option<BTreeMap<String, String>> = None;
    let mut out = Map::new();
    for (name, value) in args {
        if !value.is_null() {
            out.insert(name.clone(), plain(value).into());
            continue;
        }
        if own.is_none() {
            own = Some(environment(service, world)?);
        }
        let found = own.as_ref().and_then(|own| own.get(name).cloned()).or_else(|| world.variable(name));
        out.extend(found.map(|value| (name.clone(), value.into())));
    }
    Ok(Value::Object(out))
}

/// `env_file` and `environment`.
fn environment(service: &Value, world: &World<'_>) -> Result<BTreeMap<String, String>, String> {
    let mut all = BTreeMap::new();
    for file in service["env_file"].as_array().into_iter().flatten() {
        let path = file["path"].as_str().ok_or("env_file: a path is required")?;
        let text = match world.read(path) {
            Err(_) if file["required"] == false => continue,
            text => text.map_err(|e| format!("env_file: {e}"))?,
        };
        all.extend(dotenv::parse(&text, &|name| world.variable(name)).map_err(|e| format!("env_file {path}: {e}"))?);
    }
    for (name, value) in service["environment"].as_object().into_iter().flatten() {
        match value {
            Value::Null => all.extend(world.variable(name).map(|value| (name.clone(), value))),
            value => {
                all.insert(name.clone(), plain(value));
            }
        }
    }
    Ok(all)
}

fn secret_of(secret: &Value, known: &Map<String, Value>) -> Result<Value, String> {
    let id = secret["source"].as_str().ok_or("build.secrets: a secret needs a source")?;
    let found = known.get(id).ok_or_else(|| format!("refers to undefined build secret {id}"))?;
    if matches!(&found["external"], Value::Bool(true) | Value::Object(_)) || found["external"] == "true" {
        return Err(format!("unsupported external secret {id}"));
    }
    let mut out = Map::from_iter([("id".to_owned(), Value::from(id))]);
    for (theirs, ours) in [("file", "src"), ("environment", "env")] {
        if let Some(value) = found[theirs].as_str() {
            out.insert(ours.into(), value.into());
        }
    }
    Ok(Value::Object(out))
}

/// Bytes as compose writes them: four digits that count, and a unit.
fn bytes_text(bytes: u64) -> String {
    #[allow(clippy::cast_precision_loss, reason = "four digits are shown")]
    let mut size = bytes as f64;
    let mut units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"].into_iter().peekable();
    while size >= 1024.0 && units.len() > 1 {
        size /= 1024.0;
        units.next();
    }
    let decimals =
        [(1000.0, 0_usize), (100.0, 1), (10.0, 2)].into_iter().find(|(least, _)| size >= *least).map_or(3, |(_, n)| n);
    let text = format!("{size:.decimals$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{}", units.next().unwrap_or_default())
}

/// A value as the text it is written as.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
