//! The questions themselves (SPEC A10.30).

use serde_json::{Value, json};

use super::table::table;
use super::{Answer, Call, put};

impl Call {
    /// Version of the answer's shape.
    fn version(self) -> &'static str {
        match self {
            Self::ConvertLlb => "0.1.0",
            _ => "1.0.0",
        }
    }

    fn description(self) -> &'static str {
        match self {
            Self::Lint => "Lint a Dockerfile",
            Self::Outline => "List all parameters current build target supports",
            Self::Targets => "List all targets current build supports",
            Self::ConvertLlb => "Convert Dockerfile to LLB",
            Self::Describe => "List available subrequest types",
        }
    }

    /// Options that matter, with what they mean.
    fn options(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Outline => &[("target", "Target build stage")],
            _ => &[],
        }
    }

    /// Names of the parts of an answer.
    fn parts(self) -> &'static [&'static str] {
        match self {
            Self::Lint => &["result.json", "result.txt", "result.statuscode"],
            Self::ConvertLlb => &["result.json"],
            _ => &["result.json", "result.txt"],
        }
    }
}

pub(super) fn describe() -> Answer {
    let mut list = Vec::new();
    let mut rows = vec![["NAME", "VERSION", "DESCRIPTION"]];
    for call in Call::ALL {
        let mut out = json!({
            "name": format!("frontend.{}", call.name()),
            "version": call.version(),
            "type": "rpc",
            "description": call.description(),
        });
        let options = call.options().iter().map(|(name, text)| json!({"name": name, "description": text}));
        put(&mut out, "opts", options.collect::<Vec<Value>>());
        put(&mut out, "metadata", call.parts().iter().map(|name| json!({"name": name})).collect::<Vec<Value>>());
        list.push(out);
        rows.push([call.name(), call.version(), call.description()]);
    }
    Answer { json: Value::Array(list), text: table(&rows), status: 0 }
}
