//! Questions about a Dockerfile that build nothing (SPEC A10.25–A10.30).
//!
//! [`call`] takes what a build takes and gives an [`Answer`] as JSON and as text. The shapes are those of BuildKit's
//! sub-requests, so that tools which read them need not know who answered.

mod convertllb;
mod describe;
mod lint;
mod outline;
mod table;
mod targets;

use serde_json::{Value, json};

use super::error::FrontendError;
use super::options::FrontendInput;
use crate::llb::FrontendHost;

/// A question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// Which checks fail?
    Lint,
    /// Which arguments, secrets, agents and caches does the target take?
    Outline,
    /// Which stages can be built?
    Targets,
    /// Which graph does the target become?
    ConvertLlb,
    /// Which questions can be asked?
    Describe,
}

/// An answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// For programs.
    pub json: Value,
    /// For people.
    pub text: String,
    /// What the program that asked exits with.
    pub status: u8,
}

impl Call {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Outline, Self::Targets, Self::Lint, Self::ConvertLlb, Self::Describe];

    /// What it is called behind `frontend.`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Lint => "lint",
            Self::Outline => "outline",
            Self::Targets => "targets",
            Self::ConvertLlb => "convertllb",
            Self::Describe => "subrequests.describe",
        }
    }

    /// The question of a name, with or without `frontend.`; `check` is another word for `lint`.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let name = name.strip_prefix("frontend.").unwrap_or(name);
        match name {
            "check" => Some(Self::Lint),
            name => Self::ALL.into_iter().find(|call| call.name() == name),
        }
    }
}

/// Answers a question about a Dockerfile.
///
/// # Errors
/// As [`super::dockerfile_to_llb`]; for [`Call::Lint`] mistakes in the Dockerfile are part of the answer.
pub async fn call(call: Call, input: &FrontendInput<'_>, host: &dyn FrontendHost) -> Result<Answer, FrontendError> {
    match call {
        Call::Lint => lint::lint(input, host).await,
        Call::Outline => outline::outline(input, host).await,
        Call::Targets => targets::targets(input),
        Call::ConvertLlb => convertllb::convertllb(input, host).await,
        Call::Describe => Ok(describe::describe()),
    }
}

/// Lines of the Dockerfile as the location of an answer.
fn location(lines: (u32, u32)) -> Value {
    json!({"ranges": [{"start": {"line": lines.0}, "end": {"line": lines.1}}]})
}

/// Puts a member into an object unless it is empty.
fn put(object: &mut Value, key: &str, value: impl Into<Value>) {
    let value = value.into();
    let empty = match &value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    };
    if let (false, Value::Object(map)) = (empty, object) {
        map.insert(key.into(), value);
    }
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
