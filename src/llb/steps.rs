//! A definition as the numbered steps that provenance tells (SPEC C8.06): operations in the form of Go's client library,
//! which wraps what there is a choice of, and writes numbers as numbers.

use std::collections::BTreeMap;

use prost::Message as _;
use serde_json::{Map, Value, json};

use super::json::{op_json, source_json};
use super::op::Op;
use super::{Definition, DefinitionError};
use crate::base::Digest;
use crate::base::values::split_user;

/// Numbered steps.
#[derive(Debug, Clone, Default)]
pub struct Steps {
    /// `{"id", "op", "inputs"}`, in an order in which they can run; the last names the result.
    pub list: Vec<Value>,
    /// `stepN` by the digest of the operation.
    pub names: BTreeMap<Digest, String>,
    /// Which lines of which files steps come from, by `stepN`, and the files.
    pub source: Option<Value>,
}

impl Steps {
    /// The steps of a definition.
    ///
    /// # Errors
    /// [`DefinitionError::Decode`] for bytes that are no operation.
    pub fn new(definition: &Definition) -> Result<Self, DefinitionError> {
        let mut out = Self::default();
        for (index, bytes) in definition.pb.def.iter().enumerate() {
            let op = Op::decode(bytes.as_slice()).map_err(|source| DefinitionError::Decode { index, source })?;
            let id = format!("step{index}");
            let name = |digest: &str| Some(out.names.get(&digest.parse().ok()?)?.as_str());
            let inputs = op.inputs.iter().filter_map(|input| Some(format!("{}:{}", name(&input.digest)?, input.index)));
            let inputs: Vec<String> = inputs.collect();
            let mut step = json!({"id": id, "op": operation(&Op { inputs: Vec::new(), ..op })});
            if !inputs.is_empty() {
                step["inputs"] = inputs.into();
            }
            out.list.push(step);
            out.names.insert(Digest::sha256(bytes), id);
        }
        out.source = definition.pb.source.as_ref().map(|source| {
            let mut source = source_json(source);
            if let Some(Value::Object(locations)) = source.get_mut("locations") {
                let known = std::mem::take(locations).into_iter();
                *locations = known
                    .filter_map(|(digest, at)| Some((out.names.get(&digest.parse().ok()?)?.clone(), at)))
                    .collect();
            }
            source
        });
        Ok(out)
    }
}

/// An operation: what there is one of is wrapped in `Op`.
fn operation(op: &Op) -> Value {
    let Value::Object(all) = op_json(op) else { return json!({"Op": {}}) };
    let (mut kind, mut out) = (Map::new(), Map::new());
    for (key, value) in all {
        match key.as_str() {
            "platform" | "constraints" => out.insert(key, value),
            _ => kind.insert(key, plain(value)),
        };
    }
    out.shift_insert(0, "Op".into(), Value::Object(kind));
    Value::Object(out)
}

/// Names of enumerations, by member; the place in the list is the number.
const CHOICES: &[(&str, &[&str])] = &[
    ("network", &["UNSET", "HOST", "NONE"]),
    ("security", &["SANDBOX", "INSECURE"]),
    ("mountType", &["BIND", "SECRET", "SSH", "CACHE", "TMPFS"]),
    ("sharing", &["SHARED", "PRIVATE", "LOCKED"]),
    ("contentCache", &["DEFAULT", "ON", "OFF"]),
];
/// Members that are 64-bit numbers.
const LONG: &[&str] = &["input", "secondaryInput", "output", "timestamp", "size", "Soft", "Hard", "builder"];
/// Members of an action on files of which there is one.
const ACTIONS: &[&str] = &["copy", "mkfile", "mkdir", "rm", "symlink"];

fn plain(value: Value) -> Value {
    match value {
        Value::Array(items) => items.into_iter().map(plain).collect(),
        Value::Object(map) => {
            let mut out = Map::new();
            for (key, value) in map {
                let value = member(&key, value);
                match key.as_str() {
                    key if ACTIONS.contains(&key) => out.insert("Action".into(), json!({key: value})),
                    "byName" | "byID" => out.insert("User".into(), json!({key: value})),
                    _ => out.insert(key, value),
                };
            }
            Value::Object(out)
        }
        other => other,
    }
}

fn member(key: &str, value: Value) -> Value {
    let value = match value {
        // Names in it are the user's.
        Value::Object(attributes) if key == "attrs" => {
            let public = |(name, value): (String, Value)| (name, member("identifier", value));
            return Value::Object(attributes.into_iter().map(public).collect());
        }
        Value::String(text) if key == "identifier" => return without_credentials(&text).into(),
        other => other,
    };
    let number = match &value {
        Value::String(text) if LONG.contains(&key) => text.parse::<i64>().ok(),
        Value::String(text) => CHOICES
            .iter()
            .find(|(name, _)| *name == key)
            .and_then(|(_, names)| names.iter().position(|name| name == text))
            .and_then(|at| i64::try_from(at).ok()),
        _ => None,
    };
    number.map_or_else(|| plain(value), Value::from)
}

/// A URL without user and password.
fn without_credentials(text: &str) -> String {
    match split_user(text) {
        // Who a server knows by name only is no secret.
        Some((scheme, user, rest)) if user.contains(':') => format!("{scheme}://{rest}"),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Builder;
    use super::super::op::{
        ChownOpt, ExecOp, FileAction, FileActionKind, FileActionMkDir, FileOp, Kind, Meta, Mount, OpMetadata, SourceOp,
        UserKind, UserOpt,
    };
    use super::*;

    // SPEC C8.08
    #[test]
    fn c8_08_steps_tell_no_passwords() {
        let source = SourceOp {
            identifier: "git://u:p@example.org/r.git#main".into(),
            attrs: BTreeMap::from([("git.fullurl".to_owned(), "https://u:p@example.org/r.git".to_owned())]),
        };
        let op = Op { kind: Some(Kind::Source(source)), ..Op::default() };
        let expected = json!({"Op": {"source": {
            "identifier": "git://example.org/r.git#main",
            "attrs": {"git.fullurl": "https://example.org/r.git"},
        }}});
        assert_eq!(operation(&op), expected);
        assert_eq!(without_credentials("git://git@example.org/r.git"), "git://git@example.org/r.git");
        assert_eq!(without_credentials("docker-image://a@sha256:00"), "docker-image://a@sha256:00");
    }

    // SPEC C8.06
    #[test]
    fn c8_06_steps_are_numbered_and_name_their_inputs() {
        let mut b = Builder::with_source("Dockerfile", b"FROM a\nRUN x\n");
        let source = SourceOp { identifier: "docker-image://a".into(), ..SourceOp::default() };
        let a = b.add(&Op { kind: Some(Kind::Source(source)), ..Op::default() }, OpMetadata::default(), &[(1, 1)]);
        let mount = Mount { dest: "/".into(), mount_type: 3, output: 1, ..Mount::default() };
        let exec = ExecOp {
            meta: Some(Meta { args: vec!["x".into()], ..Meta::default() }),
            mounts: vec![mount],
            network: 2,
            ..ExecOp::default()
        };
        let run = Op { inputs: vec![Builder::input(&a)], kind: Some(Kind::Exec(exec)), ..Op::default() };
        let run = b.add(&run, OpMetadata::default(), &[(2, 2)]);
        let owner = UserOpt { user: Some(UserKind::ById(0)) };
        let mkdir = FileActionMkDir {
            path: "/d".into(),
            owner: Some(ChownOpt { user: Some(owner), group: None }),
            timestamp: -1,
            ..FileActionMkDir::default()
        };
        let action =
            FileAction { secondary_input: -1, action: Some(FileActionKind::Mkdir(mkdir)), ..FileAction::default() };
        let file = Op {
            inputs: vec![Builder::input(&run)],
            kind: Some(Kind::File(FileOp { actions: vec![action] })),
            ..Op::default()
        };
        let file = b.add(&file, OpMetadata::default(), &[]);
        let definition = b.finish(Some(&file));
        let steps = Steps::new(&definition).expect("valid");
        insta::assert_snapshot!("steps", serde_json::to_string_pretty(&steps.list).expect("JSON"));
        assert_eq!(steps.names[&run.vertex], "step1");
        let source = steps.source.expect("lines");
        assert_eq!(source["locations"]["step1"]["locations"][0]["ranges"][0]["start"]["line"], 2);
        assert_eq!(source["infos"][0]["filename"], "Dockerfile");
    }
}
