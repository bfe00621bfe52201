//! All failed checks at once (SPEC A10.25, A10.27).

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::super::error::{FrontendError, Place};
use super::super::options::{FrontendInput, Warning};
use super::super::pipeline::{Scope, Source};
use super::{Answer, base64, location, put};
use crate::base::FaultKind;
use crate::dockerfile::excerpt::excerpt;
use crate::llb::op::{Kind, Op, OpMetadata, SourceOp};
use crate::llb::{Builder, FrontendHost};

/// Checks the target, or every stage if none is named.
pub(super) async fn lint(input: &FrontendInput<'_>, host: &dyn FrontendHost) -> Result<Answer, FrontendError> {
    let (warnings, error) = findings(input, host).await;
    match error {
        Some(error) if error.kind == FaultKind::Internal => Err(error),
        error => Ok(Answer {
            json: document(input, &warnings, error.as_ref()),
            text: text(input, &warnings, error.as_ref()),
            status: u8::from(!warnings.is_empty() || error.is_some()),
        }),
    }
}

/// What fails, and what keeps the file from being built.
async fn findings(input: &FrontendInput<'_>, host: &dyn FrontendHost) -> (Vec<Warning>, Option<FrontendError>) {
    let source = match Source::read(input) {
        Ok(source) => source,
        Err(mut error) => return (std::mem::take(&mut error.warnings).into_vec(), Some(error)),
    };
    let mut checks = match source.checks() {
        Ok(checks) => checks,
        Err(error) => return (Vec::new(), Some(error)),
    };
    let everything = input.options.target.as_deref().is_none_or(str::is_empty);
    let scope = if everything { Scope::Everything } else { Scope::Target };
    let error = source.convert(input, scope, host, &mut checks).await.err();
    source.lint_rest(&mut checks);
    let error = error.or_else(|| checks.verdict().err());
    (checks.into_warnings(), error)
}

fn document(input: &FrontendInput<'_>, warnings: &[Warning], error: Option<&FrontendError>) -> Value {
    let at = |place: &Option<Place>| place.as_ref().map_or(Value::Null, |place| location(place.lines));
    let warnings: Vec<Value> = warnings
        .iter()
        .map(|warning| {
            let mut out = json!({"ruleName": warning.rule.name()});
            put(&mut out, "description", warning.rule.description());
            put(&mut out, "url", warning.rule.url());
            put(&mut out, "detail", warning.message.as_str());
            put(&mut out, "location", at(&warning.place));
            out
        })
        .collect();
    let source = json!({
        "filename": input.filename,
        "language": "Dockerfile",
        "definition": definition(input),
        "data": base64(input.source),
    });
    let mut out = json!({"warnings": warnings, "sources": [source]});
    if let Some(error) = error {
        let mut build_error = json!({"message": error.message});
        put(&mut build_error, "location", at(&error.place));
        put(&mut out, "buildError", build_error);
    }
    out
}

/// Where the Dockerfile comes from, as LLB.
fn definition(input: &FrontendInput<'_>) -> Value {
    let mut source = SourceOp { identifier: "local://dockerfile".into(), ..SourceOp::default() };
    source.attrs.insert("local.followpaths".into(), json!([input.filename]).to_string());
    let name = format!("[internal] load build definition from {}", input.filename);
    let mut builder = Builder::default();
    let edge = builder.add(&Op { kind: Some(Kind::Source(source)), ..Op::default() }, OpMetadata::named(name), &[]);
    let pb = builder.finish(Some(&edge)).pb;
    let def: Vec<String> = pb.def.iter().map(|bytes| base64(bytes)).collect();
    let metadata: serde_json::Map<String, Value> =
        pb.metadata.into_iter().map(|(digest, op)| (digest, json!({"description": op.description}))).collect();
    json!({"def": def, "metadata": metadata})
}

fn text(input: &FrontendInput<'_>, warnings: &[Warning], error: Option<&FrontendError>) -> String {
    let mut out = String::new();
    let show = |out: &mut String, place: &Option<Place>| {
        let Some(Place { lines, span }) = place else { return };
        let name = input.options.file.as_deref().unwrap_or(input.filename);
        out.extend(excerpt(name, input.source, *lines, span.as_ref()));
    };
    match (warnings.len(), error) {
        (0, None) => out.push_str("Check complete, no warnings found.\n"),
        (0, Some(_)) => {}
        (1, _) => out.push_str("Check complete, 1 warning has been found!\n"),
        (n, _) => out.push_str(&format!("Check complete, {n} warnings have been found!\n")),
    }
    for warning in warnings {
        let page = warning.rule.url().map_or_else(String::new, |url| format!(" - {url}"));
        let _ = writeln!(out, "\nWARNING: {}{page}\n{}", warning.rule, warning.message);
        show(&mut out, &warning.place);
    }
    if let Some(error) = error {
        for error in std::iter::once(error).chain(&error.others) {
            if !out.is_empty() {
                out.push('\n');
            }
            let _ = writeln!(out, "ERROR: {}", error.message);
            show(&mut out, &error.place);
            if let Some(hint) = &error.hint {
                let _ = writeln!(out, "hint: {hint}");
            }
        }
    }
    out
}
