//! `--set TARGET.KEY[.NAME][+]=VALUE` (SPEC B7.17).

use serde_json::{Map, Value};

use super::BakeError;
use super::target::{Kind, Target, kind, once, shaped};

/// One key of some targets, with all the values that were given for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    pattern: String,
    key: String,
    /// `K` of `args.K`, `ID` of `secret.ID`.
    name: Option<String>,
    /// None takes a build argument from the environment.
    values: Vec<Option<String>>,
    append: bool,
}

impl Override {
    /// Reads all `--set` of a command line; several for the same key belong together.
    ///
    /// # Errors
    /// When one is not of this form, or names a key that targets do not have.
    pub fn parse(texts: &[String], environment: &dyn Fn(&str) -> Option<String>) -> Result<Vec<Self>, BakeError> {
        let mut all: Vec<Self> = Vec::new();
        for text in texts {
            let fault = |why: &str| BakeError::value("--set", format!("invalid override \"{text}\": {why}"));
            let (path, value) = match text.split_once('=') {
                Some((path, value)) => (path, Some(value.to_owned())),
                None => (text.as_str(), None),
            };
            let (path, append) = path.strip_suffix('+').map_or((path, false), |path| (path, true));
            let mut parts = path.splitn(3, '.');
            let (Some(pattern), Some(key)) = (parts.next(), parts.next()) else {
                return Err(fault("expected TARGET.KEY=VALUE"));
            };
            let name = parts.next().map(ToOwned::to_owned);
            // Some keys have a shorter name here than in files.
            let key = match key {
                "platform" => "platforms",
                "secrets" => "secret",
                key => key,
            };
            let known = matches!(key, "load" | "push") || (kind(key).is_some() && key != "inherits");
            if !known {
                return Err(fault(&format!("unknown key \"{key}\"")));
            }
            let mapped = matches!(kind(key), Some((_, Kind::Map)));
            if mapped != name.is_some() && !(key == "secret" && name.is_some()) {
                return Err(fault(if mapped { "expected TARGET.KEY.NAME=VALUE" } else { "this key has no names" }));
            }
            let value = match (key, &name, value) {
                ("args", Some(name), None) => environment(name),
                (_, _, None) => return Err(fault("a value is missing")),
                (_, _, value) => value,
            };
            match all.iter_mut().find(|o| o.pattern == pattern && o.key == key && o.name == name) {
                Some(known) => {
                    known.values.push(value);
                    // They are values of one list; the last says whether what was there before goes.
                    known.append = append;
                }
                None => all.push(Self { pattern: pattern.into(), key: key.into(), name, values: vec![value], append }),
            }
        }
        Ok(all)
    }

    /// The targets it is for.
    #[must_use]
    pub fn pattern(&self) -> &str {
        &self.pattern
    }

    pub(super) fn matches(&self, target: &str) -> bool {
        matches(&self.pattern, target)
    }

    pub(super) fn apply(&self, target: &mut Target) -> Result<(), BakeError> {
        let fault = |e: String| BakeError::value("--set", format!("{}.{}: {e}", self.pattern, self.key));
        let last = self.values.last().cloned().flatten();
        if matches!(self.key.as_str(), "load" | "push") {
            let text = last.unwrap_or_default();
            let wanted = crate::base::values::boolean(&text).ok_or_else(|| fault(format!("\"{text}\" is no bool")))?;
            if wanted {
                target.send(&self.key);
            } else if self.key == "push" {
                target.keep();
            }
            return Ok(());
        }
        let Some((key, kind)) = kind(&self.key) else { return Ok(()) };
        if let (Kind::Map, Some(name)) = (kind, &self.name) {
            let mut fields = target.get(key).and_then(Value::as_object).cloned().unwrap_or_else(Map::new);
            match last {
                // A context that is nowhere is none.
                Some(value) if key == "contexts" && value.is_empty() => fields.shift_remove(name),
                Some(value) => fields.insert(name.clone(), value.into()),
                None => fields.shift_remove(name),
            };
            let value = shaped(key, kind, &Value::Object(fields)).map_err(|e| fault(e.to_string()))?;
            target.set(key, value);
            return Ok(());
        }
        if let (Some(id), Some(source)) = (&self.name, &last) {
            return target.with_secret(id, source).map_err(fault);
        }
        let given: Vec<Value> = self.values.iter().flatten().map(|value| Value::from(value.clone())).collect();
        let value = match kind {
            Kind::Text | Kind::Flag => given.last().cloned().unwrap_or_default(),
            // An empty value takes all away.
            _ => given.into_iter().filter(|value| value != "").collect(),
        };
        let value = shaped(key, kind, &value).map_err(|e| fault(e.to_string()))?;
        let always = matches!(key, "annotations" | "attest" | "entitlements");
        if !(self.append || always) {
            target.remove(key);
        }
        if let (Some(Value::Array(mine)), Value::Array(more)) = (target.get(key), &value) {
            let mut all = mine.clone();
            all.extend(more.iter().filter(|item| !mine.contains(item)).cloned());
            if key == "attest" {
                once(&mut all);
            }
            target.set(key, Value::Array(all));
        } else {
            target.set(key, value);
        }
        Ok(())
    }
}

impl Target {
    /// `--push` and `--load`: outputs that go there are added or changed, files are left alone (SPEC B7.20).
    pub fn send(&mut self, to: &str) {
        let mut outputs: Vec<Value> = self.get("output").and_then(Value::as_array).cloned().unwrap_or_default();
        let kind = |output: &Value| output["type"].as_str().unwrap_or_default().to_owned();
        let files = |output: &Value| matches!(kind(output).as_str(), "local" | "tar");
        if !outputs.is_empty() && outputs.iter().all(files) {
            return;
        }
        if to == "push" {
            let images =
                outputs.iter_mut().filter(|output| matches!(output["type"].as_str(), Some("image" | "registry")));
            let mut any = false;
            for output in images {
                any = true;
                if output["type"] == "image" {
                    output["push"] = "true".into();
                }
            }
            if !any {
                outputs.push(serde_json::json!({"type": "image", "push": "true"}));
            }
        } else if !outputs.iter().any(|output| kind(output) == "docker" && output.get("dest").is_none()) {
            outputs.push(serde_json::json!({"type": "docker"}));
        }
        self.set("output", Value::Array(outputs));
    }
}

impl Target {
    /// `--set TARGET.push=false`: nothing leaves the machine.
    fn keep(&mut self) {
        let Some(mut outputs) = self.get("output").and_then(Value::as_array).cloned() else { return };
        outputs.retain(|output| output["type"] != "registry");
        for output in outputs.iter_mut().filter(|output| output["type"] == "image") {
            output["push"] = "false".into();
        }
        self.set("output", Value::Array(outputs));
    }

    /// `--set TARGET.secret.ID=SOURCE`: another source for a secret that it has.
    fn with_secret(&mut self, id: &str, source: &str) -> Result<(), String> {
        let source = shaped("secret", Kind::Specs, &Value::Array(vec![source.into()])).map_err(|e| e.to_string())?;
        let mut fields = source[0].as_object().cloned().unwrap_or_default();
        if let Some(other) = fields.get("id").and_then(Value::as_str).filter(|other| *other != id) {
            return Err(format!("secret override id \"{other}\" does not match declared secret \"{id}\""));
        }
        fields.insert("id".into(), id.into());
        let mut secrets = self.get("secret").and_then(Value::as_array).cloned().unwrap_or_default();
        let Some(secret) = secrets.iter_mut().find(|secret| secret["id"] == id) else {
            return Err(format!("secret \"{id}\" must be declared before it can be overridden"));
        };
        *secret = Value::Object(fields);
        self.set("secret", Value::Array(secrets));
        Ok(())
    }
}

/// Go's `path.Match`, for names without slashes.
pub(super) fn matches(pattern: &str, name: &str) -> bool {
    fn go(pattern: &[char], name: &[char]) -> bool {
        match pattern {
            [] => name.is_empty(),
            ['*', rest @ ..] => (0..=name.len()).any(|at| go(rest, &name[at..])),
            ['?', rest @ ..] => !name.is_empty() && go(rest, &name[1..]),
            ['[', rest @ ..] => {
                let Some(end) = rest.iter().skip(1).position(|c| *c == ']').map(|at| at + 1) else { return false };
                let (set, after) = (&rest[..end], &rest[end + 1..]);
                let Some((first, name)) = name.split_first() else { return false };
                let (set, negated) = set.strip_prefix(&['^']).map_or((set, false), |set| (set, true));
                let mut inside = false;
                let mut at = 0;
                while at < set.len() {
                    match set.get(at..at + 3) {
                        Some([low, '-', high]) => {
                            inside |= low <= first && first <= high;
                            at += 3;
                        }
                        _ => {
                            inside |= set[at] == *first;
                            at += 1;
                        }
                    }
                }
                inside != negated && go(after, name)
            }
            ['\\', c, rest @ ..] | [c, rest @ ..] => name.first() == Some(c) && go(rest, &name[1..]),
        }
    }
    let characters = |text: &str| text.chars().collect::<Vec<char>>();
    go(&characters(pattern), &characters(name))
}
