//! What is said about a build (SPEC C8): what it was asked for and what it learnt, put together.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::gateway::External;
use super::policy::Gate;
use super::{BuildError, BuildRequest, Builder, DockerfileAt, Inputs, MainContext};
use crate::attest::predicate::{Request, Run, is_told};
use crate::attest::statement::Exported;
use crate::attest::{
    Asked, Attestation, Capture, Material, Predicate, Provenance, ProvenanceOptions, Statement, masked,
};
use crate::base::FaultKind;
use crate::frontend::gateway::options::pairs;
use crate::frontend::remote::RemoteContext;
use crate::frontend::{self, FrontendError, FrontendResult};
use crate::llb::{Graph, Steps};
use crate::oci::Platform;
use crate::solver::Solver;

/// What to say about a build.
#[derive(Debug, Clone, Default)]
pub struct Attest {
    /// What goes with outputs.
    pub asked: Asked,
    /// Provenance is part of the report, whatever goes with outputs.
    pub report: bool,
    /// The repository that the context is in: `source`, `revision`, `localdir:…` (SPEC B5.06).
    pub vcs: BTreeMap<String, String>,
    /// What the machine's owner says about it in provenance (SPEC C8.11).
    pub environment: Map<String, Value>,
}

/// How one platform's result came to be.
pub(super) struct Told {
    /// The provenance, as it was asked for; none only where nobody but the record wants it and an input cannot be told.
    pub(super) provenance: Option<Arc<Provenance>>,
    /// What goes with outputs.
    pub(super) attestations: Vec<Attestation>,
    /// What a record of the build keeps: all that is known, about nothing in particular.
    pub(super) statements: Vec<Statement>,
}

impl Builder {
    /// Tells how a result came to be, once it is there.
    pub(super) async fn tell(
        &self,
        request: &BuildRequest,
        solver: &Arc<Solver>,
        graph: &Arc<Graph>,
        front: &FrontendResult,
        external: Option<&External>,
        began: Timestamp,
    ) -> Result<Told, BuildError> {
        let asked = request.attest.asked.provenance.as_ref();
        let wanted = asked.filter(|p| request.outputs.iter().any(|output| output.takes(p.inline_only, p.unasked)));
        let listed = self.list_software(request, solver, graph, front).await?;
        let options = asked.cloned().unwrap_or_default();
        let finished = Timestamp::now();
        let inputs = self.inputs(request, solver).await?;
        let gate = self.gate(request, solver)?;
        let (mut capture, context) = match captured(&gate, request, inputs, solver, graph).await {
            Ok(captured) => captured,
            // Nothing fails for the sake of a record.
            Err(_) if wanted.is_none() && !request.attest.report => {
                return Ok(Told { provenance: None, attestations: listed.attestations, statements: Vec::new() });
            }
            Err(error) => return Err(error),
        };
        capture.images.extend(listed.scanner);
        capture.images.extend(external.and_then(|front| front.material.clone()));
        let capture = capture.sorted();
        let missing = capture.missing();
        if options.complete_materials && !missing.is_empty() {
            let message = format!("provenance materials are incomplete: {}", missing.join(", "));
            let hint =
                "build from a git repository or a URL, with --network=none; or leave complete-materials=true out";
            return Err(FrontendError::outside(FaultKind::Input, message, None).hint(hint).into());
        }
        // The graph that was solved: its sources are as the policy has them.
        let solved = gate.definition(&front.definition).await?;
        let steps =
            Steps::new(&solved).map_err(|e| BuildError::Internal(format!("the front end made a bad graph: {e}")))?;
        let chain = |((vertex, index), chain)| Some((format!("{}:{index}", steps.names.get(&vertex)?), chain));
        let chains = solver.chains(graph).into_iter().filter_map(chain).collect();
        let used = solver.usage().into_iter();
        let usage = used.filter_map(|(vertex, usage)| Some((steps.names.get(&vertex)?.clone(), usage))).collect();
        let provenance = Provenance {
            request: asked_for(request, inputs, context, external),
            capture,
            run: Run { id: request.id.clone(), started: began, finished },
            builder: Platform::host().normalised(),
            environment: request.attest.environment.clone(),
            steps,
            chains,
            usage,
            options,
        };
        let mut statements = vec![Statement::new(provenance.predicate_type(), Vec::new(), provenance.in_full())];
        statements.extend(listed.attestations.iter().map(|listed| listed.statement(Vec::new(), &Exported::NONE)));
        let provenance = Arc::new(provenance);
        let provenances = wanted.map(|options| attestation(options, &provenance));
        let attestations = listed.attestations.into_iter().chain(provenances).collect();
        Ok(Told { provenance: Some(provenance), attestations, statements })
    }
}

fn attestation(options: &ProvenanceOptions, provenance: &Arc<Provenance>) -> Attestation {
    Attestation {
        predicate: Predicate::Provenance(Arc::clone(provenance)),
        filename: options.filename.clone(),
        inline_only: options.inline_only,
        unasked: options.unasked,
    }
}

/// What a graph, its context and its Dockerfile came from; and the context, if it is not a directory of this machine.
async fn captured(
    gate: &Gate<'_>,
    request: &BuildRequest,
    inputs: &Inputs,
    solver: &Arc<Solver>,
    graph: &Arc<Graph>,
) -> Result<(Capture, Option<Material>), BuildError> {
    let mut capture = solver.capture(graph).await?;
    let mut context = None;
    let named = !matches!(request.context, MainContext::Archive(_));
    if let Some(remote) = inputs.context.as_ref().filter(|_| named) {
        let found = of_remote(gate, solver, remote).await?;
        context = found.first().cloned();
        capture.remote.extend(found);
    }
    // Its ignore file is asked for, whether or not anything else is.
    if matches!(request.context, MainContext::Local) && request.contexts.contains_key("context") {
        capture.locals.push("context".into());
    }
    match &request.dockerfile_at {
        DockerfileAt::Given => capture.locals.push("dockerfile".into()),
        DockerfileAt::Url(url) => capture.remote.extend(of_remote(gate, solver, &RemoteContext::http(url)).await?),
        DockerfileAt::InContext(_) => {}
    }
    Ok((capture.sorted(), context))
}

/// What a remote context came from: what the policy made of its source, as where it was brought in.
async fn of_remote(
    gate: &Gate<'_>,
    solver: &Arc<Solver>,
    context: &RemoteContext,
) -> Result<Vec<Material>, BuildError> {
    let graph = gate.graph(&context.definition()).await?;
    Ok(solver.capture(&Arc::new(graph)).await?.remote)
}

/// The request in BuildKit's words (SPEC C3.19), without what is only about this machine.
fn asked_for(
    request: &BuildRequest,
    inputs: &Inputs,
    context: Option<Material>,
    external: Option<&External>,
) -> Request {
    let options = &request.options;
    let multi = request.multi_platform || request.platforms.len() > 1;
    let mut args = pairs(options, &request.platforms, multi);
    for (name, value) in &options.named_contexts {
        // What a directory of this machine is called is nobody's business.
        let value = match value.strip_prefix("oci-layout://") {
            Some(layout) => format!("oci-layout://{}", layout.rsplit('/').next().unwrap_or_default()),
            None if request.contexts.contains_key(name) => format!("local:{name}"),
            None => masked(value),
        };
        args.insert(format!("context:{name}"), value);
    }
    for (name, value) in external.iter().flat_map(|front| &front.told) {
        args.insert(name.clone(), value.clone());
    }
    args.retain(|name, _| is_told(name));
    let (frontend, version) = match external {
        None => (frontend::BUILT_IN, frontend::DOCKERFILE_VERSION),
        Some(front) => (front.name, ""),
    };
    Request {
        frontend: frontend.into(),
        frontend_version: version.into(),
        args,
        context,
        path: inputs.filename.clone(),
        vcs: request.attest.vcs.clone(),
    }
}
