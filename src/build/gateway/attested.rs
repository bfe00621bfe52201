//! What a front end attests of its results (SPEC C3.12, C8.04): files of trees that it made, as attestations beside the image.

use std::sync::Arc;

use crate::attest::{Attestation, Predicate};
use crate::base::FaultKind;
use crate::build::{BuildError, BuildRequest};
use crate::frontend::FrontendError;
use crate::frontend::gateway::Attested;
use crate::solver::Solver;

/// Larger ones are refused.
const MAX_SIZE: u64 = 40 << 20;

/// An in-toto predicate.
const IN_TOTO: i32 = 0;
/// A directory of statements.
const BUNDLE: i32 = 1;

/// A statement of a bundle; what it is about is what was built.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Statement {
    predicate_type: String,
    predicate: serde_json::Value,
}

/// Reads what was attested of one result, if any output wants it.
pub(in crate::build) async fn attestations(
    request: &BuildRequest,
    solver: &Arc<Solver>,
    attested: &[Attested],
) -> Result<Vec<Attestation>, BuildError> {
    let mut out = Vec::new();
    if !request.outputs.iter().any(|output| output.takes(false, false)) {
        return Ok(out);
    }
    for one in attested {
        let message = &one.message;
        let path = message.path.trim_matches('/').to_owned();
        let fail = |text: String| {
            let text = format!("the front end attests {}: {text}", if path.is_empty() { "/" } else { &path });
            BuildError::Frontend(FrontendError::outside(FaultKind::Input, text, None))
        };
        if message.subjects.iter().any(|subject| subject.kind != 0) {
            return Err(fail("something about another thing than its result, which is not taken".into()));
        }
        match message.kind {
            IN_TOTO => {
                let bytes = solver.read_file(&one.solved.graph, &path, MAX_SIZE + 1).await?;
                let bytes = bytes.ok_or_else(|| fail("there is no such file".into()))?;
                if bytes.len() as u64 > MAX_SIZE {
                    return Err(fail(format!("more than {} MiB", MAX_SIZE >> 20)));
                }
                let value = serde_json::from_slice(&bytes).map_err(|e| fail(format!("no JSON: {e}")))?;
                out.push(known(&path, message.predicate_type.clone(), value));
            }
            BUNDLE => {
                for (name, bytes) in solver.read_dir(&one.solved.graph, &path, MAX_SIZE).await? {
                    let statement: Statement =
                        serde_json::from_slice(&bytes).map_err(|e| fail(format!("{name} is no statement: {e}")))?;
                    let wanted = &message.predicate_type;
                    if !wanted.is_empty() && *wanted != statement.predicate_type {
                        return Err(fail(format!("{name} is of type \"{}\", not {wanted}", statement.predicate_type)));
                    }
                    out.push(known(&name, statement.predicate_type, statement.predicate));
                }
            }
            other => return Err(fail(format!("there is no kind {other} of attestations"))),
        }
    }
    Ok(out)
}

fn known(path: &str, kind: String, value: serde_json::Value) -> Attestation {
    let predicate = Predicate::Known { kind, value: Arc::new(value), of_image: false };
    let filename = path.rsplit('/').next().unwrap_or(path).to_owned();
    Attestation { predicate, filename, inline_only: false, unasked: false }
}
