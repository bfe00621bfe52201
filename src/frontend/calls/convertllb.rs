//! The graph of the target (SPEC A10.30).

use super::super::error::FrontendError;
use super::super::options::FrontendInput;
use super::super::pipeline::{Scope, Source};
use super::Answer;
use crate::llb::{FrontendHost, json};

/// Converts the target as a build would. There is no shorter form for people, so they see the document too.
pub(super) async fn convertllb(input: &FrontendInput<'_>, host: &dyn FrontendHost) -> Result<Answer, FrontendError> {
    let source = Source::read(input)?;
    let mut checks = source.checks()?;
    let converted = source.convert(input, Scope::Target, host, &mut checks).await?;
    let (_, definition, _) = converted.result(input)?;
    let internal = |error: &dyn std::fmt::Display| FrontendError::internal(format!("cannot show the graph: {error}"));
    let json = json::to_json(&definition).map_err(|error| internal(&error))?;
    let text = serde_json::to_string_pretty(&json).map_err(|error| internal(&error))? + "\n";
    Ok(Answer { json, text, status: 0 })
}
