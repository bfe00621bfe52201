//! Provenance as policies see it: what buildx takes out of SLSA's two forms (SPEC B8.09, C8.06, C8.07).

use jiff::Timestamp;
use serde_json::{Map, Value, json};

/// What stands beside an image. It is not signed: it tells what its builder says, and whoever can write to the repository can be one.
#[derive(Debug, Clone, PartialEq)]
pub struct Provenance {
    /// The predicate's type, a URI.
    pub predicate_type: String,
    /// The predicate.
    pub predicate: Value,
}

impl Provenance {
    /// `input.image.provenance`; nothing where the predicate tells neither what was built nor who built it.
    pub(super) fn input(&self) -> Option<Value> {
        let v1 = !self.predicate_type.ends_with("/v0.2");
        let at = |v1_path: &str, v02_path: &str| {
            self.predicate.pointer(if v1 { v1_path } else { v02_path }).cloned().unwrap_or_default()
        };
        let build_type = at("/buildDefinition/buildType", "/buildType");
        let builder = at("/runDetails/builder/id", "/builder/id");
        if !is_told(&build_type) && !is_told(&builder) {
            return None;
        }
        let source = at("/buildDefinition/externalParameters/configSource", "/invocation/configSource");
        let request = at("/buildDefinition/externalParameters/request", "/invocation/parameters");
        let args = request["args"].as_object().cloned().unwrap_or_default();
        let build_args =
            args.iter().filter_map(|(name, value)| Some((name.strip_prefix("build-arg:")?, value.clone())));
        let build_args: Map<String, Value> = build_args.map(|(name, value)| (name.to_owned(), value)).collect();
        let config = [
            ("uri", source["uri"].clone()),
            ("digest", source["digest"].clone()),
            ("path", source[if v1 { "path" } else { "entryPoint" }].clone()),
        ];
        let mut out = told([
            ("predicateType", json!(self.predicate_type)),
            ("buildType", build_type),
            ("builderID", builder),
            ("frontend", request["frontend"].clone()),
            ("buildArgs", Value::Object(build_args)),
            ("rawArgs", Value::Object(args)),
        ]);
        // An object in any case, as with buildx.
        out.insert("configSource".into(), Value::Object(told(config)));
        let run = at("/runDetails/metadata", "/metadata");
        if run.is_object() {
            let names = if v1 { V1 } else { V02 };
            let flag = |name: &str| json!(run[name].as_bool().unwrap_or_default());
            out.extend(told([
                ("invocationID", run[names.id].clone()),
                ("startedOn", time(&run[names.started])),
                ("finishedOn", time(&run[names.finished])),
            ]));
            out.insert("reproducible".into(), flag(names.reproducible));
            out.insert("hermetic".into(), flag(names.hermetic));
            let complete = names.complete.iter().map(|(name, member)| {
                ((*name).to_owned(), json!(run[names.completeness][member].as_bool().unwrap_or_default()))
            });
            out.insert("completeness".into(), Value::Object(complete.collect()));
        }
        Some(Value::Object(out))
    }
}

/// What members of the metadata are called.
struct Names {
    id: &'static str,
    started: &'static str,
    finished: &'static str,
    reproducible: &'static str,
    hermetic: &'static str,
    completeness: &'static str,
    /// By buildx, and there.
    complete: &'static [(&'static str, &'static str)],
}

const V1: Names = Names {
    id: "invocationID",
    started: "startedOn",
    finished: "finishedOn",
    reproducible: "buildkit_reproducible",
    hermetic: "buildkit_hermetic",
    completeness: "buildkit_completeness",
    complete: &[("parameters", "request"), ("materials", "resolvedDependencies")],
};

const V02: Names = Names {
    id: "buildInvocationID",
    started: "buildStartedOn",
    finished: "buildFinishedOn",
    reproducible: "reproducible",
    hermetic: "https://mobyproject.org/buildkit@v1#hermetic",
    completeness: "completeness",
    complete: &[("parameters", "parameters"), ("environment", "environment"), ("materials", "materials")],
};

/// A time with whole seconds, as policies compare them.
fn time(value: &Value) -> Value {
    let time: Option<Timestamp> = value.as_str().and_then(|text| text.parse().ok());
    time.and_then(|time| Timestamp::from_second(time.as_second()).ok()).map(|time| time.to_string()).into()
}

fn is_told(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        _ => true,
    }
}

fn told<const N: usize>(members: [(&str, Value); N]) -> Map<String, Value> {
    members.into_iter().filter(|(_, value)| is_told(value)).map(|(name, value)| (name.to_owned(), value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b8_09_both_forms_of_provenance_look_the_same() {
        let args = json!({"build-arg:V": "1", "target": "app"});
        let source =
            |path: &str| json!({"uri": "https://g.example/r.git", "digest": {"sha1": "00ff"}, path: "Dockerfile"});
        let v1 = Provenance {
            predicate_type: "https://slsa.dev/provenance/v1".into(),
            predicate: json!({
                "buildDefinition": {
                    "buildType": "b",
                    "externalParameters": {
                        "configSource": source("path"),
                        "request": {"frontend": "dockerfile.v0", "args": args},
                    },
                },
                "runDetails": {
                    "builder": {"id": "https://ci.example"},
                    "metadata": {
                        "invocationID": "i", "startedOn": "2026-01-02T03:04:05.5Z", "finishedOn": "2026-01-02T03:04:06Z",
                        "buildkit_hermetic": true,
                        "buildkit_completeness": {"request": true, "resolvedDependencies": false},
                    },
                },
            }),
        };
        let v02 = Provenance {
            predicate_type: "https://slsa.dev/provenance/v0.2".into(),
            predicate: json!({
                "buildType": "b", "builder": {"id": "https://ci.example"},
                "invocation": {
                    "configSource": source("entryPoint"),
                    "parameters": {"frontend": "dockerfile.v0", "args": args},
                },
                "metadata": {
                    "buildInvocationID": "i", "buildStartedOn": "2026-01-02T03:04:05.5Z",
                    "buildFinishedOn": "2026-01-02T03:04:06Z",
                    "https://mobyproject.org/buildkit@v1#hermetic": true,
                    "completeness": {"parameters": true, "environment": true, "materials": false},
                },
            }),
        };
        let mut expected = json!({
            "predicateType": v1.predicate_type, "buildType": "b", "builderID": "https://ci.example",
            "frontend": "dockerfile.v0", "buildArgs": {"V": "1"}, "rawArgs": args, "configSource": source("path"),
            "invocationID": "i", "startedOn": "2026-01-02T03:04:05Z", "finishedOn": "2026-01-02T03:04:06Z",
            "reproducible": false, "hermetic": true, "completeness": {"parameters": true, "materials": false},
        });
        assert_eq!(v1.input(), Some(expected.clone()));
        expected["predicateType"] = json!(v02.predicate_type);
        expected["completeness"]["environment"] = json!(true);
        assert_eq!(v02.input(), Some(expected));
        let empty = Provenance { predicate: json!({"buildDefinition": {}}), ..v1 };
        assert_eq!(empty.input(), None);
    }
}
