//! What the values of a compose file may be.
//!
//! Of what says how to build: the types of the compose specification. Of the rest only what has a short form is read, as compose
//! itself does before it looks at anything else; what a service is connected with, and whether that is defined, is nobody's
//! business who only builds it.

use std::net::IpAddr;

use serde_json::{Map, Value};

use super::schema::untagged;

/// Types of values.
#[derive(Debug, Clone, Copy)]
enum Shape {
    Text,
    Texts,
    TextOrTexts,
    /// A map of plain values, or a list of texts.
    Pairs,
    Switch,
    Number,
    /// Addresses by name.
    Hosts,
    /// Soft and hard limits by name.
    Limits,
    /// Names, or maps with a source.
    Grants,
    EnvFiles,
}

/// Of a service, and of what it is built from.
const SERVICE: &[(&str, Shape)] =
    &[("image", Shape::Text), ("environment", Shape::Pairs), ("env_file", Shape::EnvFiles), ("platform", Shape::Text)];
const BUILD: &[(&str, Shape)] = &[
    ("additional_contexts", Shape::Pairs),
    ("args", Shape::Pairs),
    ("cache_from", Shape::Texts),
    ("cache_to", Shape::Texts),
    ("context", Shape::Text),
    ("dockerfile", Shape::Text),
    ("dockerfile_inline", Shape::Text),
    ("entitlements", Shape::Texts),
    ("extra_hosts", Shape::Hosts),
    ("isolation", Shape::Text),
    ("labels", Shape::Pairs),
    ("network", Shape::Text),
    ("no_cache", Shape::Switch),
    ("no_cache_filter", Shape::TextOrTexts),
    ("platforms", Shape::Texts),
    ("privileged", Shape::Switch),
    ("provenance", Shape::Switch),
    ("pull", Shape::Switch),
    ("sbom", Shape::Switch),
    ("secrets", Shape::Grants),
    ("shm_size", Shape::Number),
    ("ssh", Shape::Pairs),
    ("tags", Shape::Texts),
    ("target", Shape::Text),
    ("ulimits", Shape::Limits),
];
const SECRET: &[(&str, Shape)] = &[
    ("driver", Shape::Text),
    ("environment", Shape::Text),
    ("file", Shape::Text),
    ("labels", Shape::Pairs),
    ("name", Shape::Text),
    ("template_driver", Shape::Text),
];

/// Looks at the services and secrets of one file, whose variables are filled in.
///
/// # Errors
/// Names the first value that cannot be.
pub(super) fn check(file: &Value) -> Result<(), String> {
    for (name, service) in mapping(&file["services"], "services")?.into_iter().flatten() {
        let place = format!("services.{name}");
        let service = untagged(service);
        let Some(_) = mapping(service, &place)? else { continue };
        shaped(&place, service, SERVICE)?;
        let build = untagged(&service["build"]);
        if !matches!(build, Value::Null | Value::String(_)) {
            let place = format!("{place}.build");
            mapping(build, &place)?;
            shaped(&place, build, BUILD)?;
        }
        short_forms(&place, service)?;
    }
    for (name, secret) in mapping(&file["secrets"], "secrets")?.into_iter().flatten() {
        let place = format!("secrets.{name}");
        mapping(secret, &place)?;
        shaped(&place, untagged(secret), SECRET)?;
    }
    Ok(())
}

/// The fields of a map; nothing has none.
fn mapping<'a>(value: &'a Value, place: &str) -> Result<Option<&'a Map<String, Value>>, String> {
    match untagged(value) {
        Value::Null => Ok(None),
        Value::Object(fields) => Ok(Some(fields)),
        _ => Err(format!("{place} must be a mapping")),
    }
}

fn shaped(place: &str, value: &Value, shapes: &[(&str, Shape)]) -> Result<(), String> {
    for (key, shape) in shapes {
        let field = untagged(&value[*key]);
        if !field.is_null() {
            shape.check(field).map_err(|what| format!("{place}.{key}{what}"))?;
        }
    }
    Ok(())
}

impl Shape {
    /// What a value is not, as the end of a sentence that begins with its place.
    fn check(self, value: &Value) -> Result<(), String> {
        let must = |fits: bool, what: &str| if fits { Ok(()) } else { Err(format!(" must be {what}")) };
        match (self, value) {
            (Self::Text, _) => must(value.is_string(), "a string"),
            (Self::Switch, _) => must(value.is_string() || value.is_boolean(), "a boolean or a string"),
            (Self::Number, _) => must(value.is_string() || value.is_u64() || value.is_i64(), "an integer or a string"),
            (Self::TextOrTexts, Value::String(_)) => Ok(()),
            (Self::Texts | Self::TextOrTexts | Self::Pairs | Self::Hosts, Value::Array(items)) => {
                let wrong = items.iter().position(|item| !plain(item));
                wrong.map_or(Ok(()), |at| Err(format!(".{at} must be a string")))
            }
            (Self::Texts | Self::TextOrTexts, _) => Err(" must be a list".into()),
            (Self::Pairs, Value::Object(fields)) => {
                let wrong = fields.iter().find(|(_, value)| !plain(untagged(value)) && !untagged(value).is_null());
                wrong.map_or(Ok(()), |(key, _)| Err(format!(".{key} must be a string, a number, a boolean or null")))
            }
            // A repository's own key, as a text: `ssh: default`.
            (Self::Pairs, Value::String(_)) => Ok(()),
            (Self::Pairs | Self::Hosts, _) if !value.is_object() => Err(" must be a mapping or a list".into()),
            (Self::Hosts, _) => {
                let address = |value: &Value| match untagged(value) {
                    Value::Array(several) => several.iter().all(Value::is_string),
                    one => one.is_string(),
                };
                let wrong = value.as_object().into_iter().flatten().find(|(_, value)| !address(value));
                wrong.map_or(Ok(()), |(key, _)| Err(format!(".{key} must be an address or a list of them")))
            }
            (Self::Limits, Value::Object(limits)) => {
                limits.iter().try_for_each(|(key, limit)| limited(untagged(limit)).map_err(|e| format!(".{key}{e}")))
            }
            (Self::Limits, _) => Err(" must be a mapping".into()),
            (Self::Grants, Value::Array(items)) => {
                let wrong = items.iter().position(|item| !item.is_string() && !item["source"].is_string());
                wrong.map_or(Ok(()), |at| Err(format!(".{at} must be a name or a mapping with a source")))
            }
            (Self::Grants, _) => Err(" must be a list".into()),
            (Self::EnvFiles, Value::Array(items)) => {
                let wrong = items.iter().position(|item| !item.is_string() && !item["path"].is_string());
                wrong.map_or(Ok(()), |at| Err(format!(".{at} must be a path or a mapping with a path")))
            }
            (Self::EnvFiles, _) => must(value.is_string(), "a path or a list"),
            (Self::Pairs, _) => Ok(()),
        }
    }
}

/// Texts, and what YAML takes for something else though a text was meant.
fn plain(value: &Value) -> bool {
    matches!(value, Value::String(_) | Value::Number(_) | Value::Bool(_))
}

/// A limit: one number, or a soft and a hard one.
fn limited(limit: &Value) -> Result<(), String> {
    let number = |value: &Value| {
        value.is_i64() || value.is_u64() || value.as_str().is_some_and(|text| text.trim().parse::<i64>().is_ok())
    };
    match limit {
        Value::Object(both) if number(&limit["soft"]) && number(&limit["hard"]) && both.len() == 2 => Ok(()),
        Value::Object(_) => Err(" must have a soft and a hard limit, both integers".into()),
        one if number(one) => Ok(()),
        _ => Err(" must be an integer or a mapping".into()),
    }
}

/// What a service may say shortly about volumes, ports and devices.
fn short_forms(place: &str, service: &Value) -> Result<(), String> {
    let each = |key: &str, read: &dyn Fn(&Value) -> Result<(), String>| {
        let all = untagged(&service[key]).as_array().into_iter().flatten();
        all.enumerate().try_for_each(|(at, item)| read(item).map_err(|e| format!("{place}.{key}.{at}: {e}")))
    };
    each("volumes", &|item| match item {
        Value::String(text) => volume(text),
        Value::Object(_) => Ok(()),
        _ => Err("invalid type for service volume mount".into()),
    })?;
    if !matches!(untagged(&service["ports"]), Value::Null | Value::Array(_)) {
        return Err(format!("{place}.ports must be a list"));
    }
    each("ports", &|item| match item {
        Value::String(text) => port(text),
        Value::Number(_) | Value::Object(_) => Ok(()),
        _ => Err("invalid type for port".into()),
    })?;
    each("devices", &|item| match item {
        Value::String(text) if text.split(':').count() > 3 => {
            Err(format!("confusing device mapping, please use long syntax: {text}"))
        }
        Value::String(_) | Value::Object(_) => Ok(()),
        _ => Err("invalid type for device mapping".into()),
    })
}

/// `[SOURCE:]TARGET[:OPTIONS]`, or a drive in place of a letter.
fn volume(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("invalid empty volume spec".into());
    }
    // Docker takes whatever is so short for a path.
    if text.len() <= 2 {
        return Ok(());
    }
    let mut sections: Vec<String> = Vec::new();
    let mut parts = text.split(':').peekable();
    while let Some(part) = parts.next() {
        let drive = part.len() == 1 && part.bytes().all(|b| b.is_ascii_alphabetic());
        sections.push(match parts.peek() {
            Some(_) if drive => format!("{part}:{}", parts.next().unwrap_or_default()),
            _ => part.to_owned(),
        });
    }
    let problem = if sections.iter().any(String::is_empty) {
        "empty section between colons"
    } else if sections.len() > 3 {
        "too many colons"
    } else {
        return Ok(());
    };
    Err(format!("invalid spec: {text}: {problem}"))
}

/// `[[ADDRESS:]PORT:]PORT[/PROTOCOL]`, ports also as ranges.
fn port(text: &str) -> Result<(), String> {
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let mut parts = ports.rsplitn(3, ':');
    let inside = parts.next().unwrap_or_default();
    let outside = parts.next().unwrap_or_default();
    let address = parts.next().unwrap_or_default();
    let address = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
    if !address.is_empty() && address.parse::<IpAddr>().is_err() {
        return Err(format!("invalid IP address: {address}"));
    }
    if inside.is_empty() {
        return Err(format!("no port specified: {text}<empty>"));
    }
    let inside_range = range(inside).ok_or_else(|| format!("invalid containerPort: {inside}"))?;
    if !outside.is_empty() {
        let outside_range = range(outside).ok_or_else(|| format!("invalid hostPort: {outside}"))?;
        let span = |(first, last): (u16, u16)| last - first;
        if span(inside_range) != span(outside_range) && span(inside_range) != 0 {
            return Err(format!("invalid ranges specified for container and host Ports: {inside} and {outside}"));
        }
    }
    match protocol.to_ascii_lowercase().as_str() {
        "" | "tcp" | "udp" | "sctp" => Ok(()),
        _ => Err(format!("invalid proto: {protocol}")),
    }
}

fn range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some((first, last))
}
