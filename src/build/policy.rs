//! Which sources a build may have: the rules in JSON and the policies in Rego, asked before a source is (SPEC B2.22, C9.01, C9.03).

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::{BuildError, BuildRequest, Builder, inputs};
use crate::attest::git::GitObjects;
use crate::attest::git::pgp::SignedDigest;
use crate::attest::signature::Signatures;
use crate::base::events::{Outcome, Stream};
use crate::base::{Digest, FaultKind};
use crate::llb::op::{Op, SourceOp};
use crate::llb::{Definition, Graph, HostError, PolicyError, with_sources};
use crate::oci::Platform;
use crate::policy::{
    Decision, Env, Facts, ImageFacts, Input, Log, LogLevel, Pin, Policies, PolicyFile, Provenance, RegoError,
    SignaturePolicy, unresolved,
};
use crate::solver::{Secrets, SolveError, Solver};
use crate::source::image::ImageSource;
use crate::source::{Algorithm, Checksum, Pinned};

/// Larger policies are refused.
pub const MAX_POLICY: u64 = 1 << 20;
/// Policies that convert a source more often go in a circle.
const MAX_CONVERSIONS: usize = 20;
/// The step that policies speak in.
const STEP: &str = "loading policies";

/// The policies in Rego that a build asks for.
#[derive(Debug, Clone, Default)]
pub struct RegoRequest {
    /// Those that are on this machine; the files of one belong together.
    pub policies: Vec<Vec<PolicyFile>>,
    /// A Dockerfile in a remote context has the one beside it (`Dockerfile.rego`).
    pub beside: bool,
    /// What is told of them.
    pub level: LogLevel,
    /// Which images have to be signed, in podman's words (SPEC D3.26).
    pub signed: Option<Arc<SignaturePolicy>>,
}

/// What was decided in a build, so that each source is asked about once.
#[derive(Debug, Default)]
pub(super) struct Decided(Mutex<HashMap<(SourceOp, Platform), SourceOp>>);

/// Where sources pass.
pub(super) struct Gate<'a> {
    builder: &'a Builder,
    request: &'a BuildRequest,
    solver: &'a Arc<Solver>,
    policies: &'a Policies,
    decided: &'a Decided,
}

impl BuildRequest {
    /// Compiles policies for this build.
    pub(super) fn policies(&self, policies: &[Vec<PolicyFile>], filename: &str) -> Result<Policies, BuildError> {
        let options = &self.options;
        let env = Env {
            args: options.build_args.clone().into_iter().collect(),
            labels: options.labels.clone().into_iter().collect(),
            filename: filename.rsplit('/').next().unwrap_or(filename).to_owned(),
            target: options.target.clone(),
        };
        let policies = Policies::new(policies, env).map(|policies| policies.with_signed(self.rego.signed.clone()));
        policies.map_err(|e| {
            let hint = e.hint();
            crate::frontend::FrontendError::outside(FaultKind::Input, e.to_string(), hint).into()
        })
    }
}

impl Builder {
    /// The gate of a build whose inputs are there.
    pub(super) fn gate<'a>(
        &'a self,
        request: &'a BuildRequest,
        solver: &'a Arc<Solver>,
    ) -> Result<Gate<'a>, BuildError> {
        let inputs = request.inputs.get();
        let inputs =
            inputs.ok_or_else(|| BuildError::Internal("sources are wanted before the inputs are there".into()))?;
        Ok(self.gate_with(request, solver, &inputs.policies, &inputs.decided))
    }

    /// A gate with the policies that are known so far.
    pub(super) fn gate_with<'a>(
        &'a self,
        request: &'a BuildRequest,
        solver: &'a Arc<Solver>,
        policies: &'a Policies,
        decided: &'a Decided,
    ) -> Gate<'a> {
        Gate { builder: self, request, solver, policies, decided }
    }
}

impl Builder {
    /// Asks policies about a source outside of any build (SPEC B8.09 `policy eval`).
    ///
    /// # Errors
    /// When one says no, or that cannot be found out.
    pub async fn ask_policies(
        &self,
        policies: &Policies,
        source: &SourceOp,
        platform: &Platform,
        log: Log<'_>,
    ) -> Result<Decision, RegoError> {
        let solver = Solver::new(self.bare_environment(Secrets::default(), Arc::default()));
        let lookup = Lookup { images: &self.images, solver: &solver };
        policies.check(source, platform, &lookup, log).await
    }

    /// What policies see of a source, with the fields that are asked for (`image.labels`), and the names of those that are not known.
    ///
    /// # Errors
    /// When it is of a kind that policies do not know, or cannot be looked at.
    pub async fn policy_input(
        &self,
        source: &SourceOp,
        platform: &Platform,
        fields: &[String],
    ) -> Result<(serde_json::Value, Vec<String>), RegoError> {
        let solver = Solver::new(self.bare_environment(Secrets::default(), Arc::default()));
        let lookup = Lookup { images: &self.images, solver: &solver };
        let mut input =
            Input::new(source, platform).map_err(|reason| RegoError::Policy { name: "input".into(), reason })?;
        let wanted = |field: &str| fields.iter().any(|name| name.rsplit('.').next() == Some(field));
        input.resolve(source, platform, &lookup, &wanted).await?;
        let unknown = unresolved(&input);
        Ok((input.into_value(&Env::default()), unknown))
    }
}

/// The policy that came with a remote context; nothing is beside it.
pub(super) fn of_context(name: String, bytes: Vec<u8>) -> Result<PolicyFile, BuildError> {
    if bytes.len() as u64 > MAX_POLICY {
        return Err(inputs::fault(format!("{name} is larger than 1 MiB"), "is this a policy?"));
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(PolicyFile { name, text, root: None }),
        Err(_) => Err(inputs::fault(format!("{name} is not UTF-8"), "is this a policy?")),
    }
}

/// The step that policies speak in.
pub(super) fn announce(builder: &Builder, policies: &[Vec<PolicyFile>]) {
    let names: Vec<String> = policies.iter().flatten().map(PolicyFile::place).collect();
    if !names.is_empty() {
        // What policies say later goes to the same step.
        let id = Digest::sha256(STEP);
        builder.events.vertex(&id, format!("{STEP} {}", names.join(", ")), Vec::new());
        builder.events.started(&id);
        builder.events.completed(&id, Outcome::Done);
    }
}

impl Gate<'_> {
    /// What stands for a source, which is an image if `image`.
    ///
    /// # Errors
    /// When it may not be used, or that cannot be found out.
    pub(super) async fn source(
        &self,
        source: &SourceOp,
        platform: &Platform,
        image: bool,
    ) -> Result<SourceOp, HostError> {
        let json = &self.request.policy;
        let allowed = if image { json.apply_to_image(source) } else { json.apply(source) };
        let allowed = allowed.map_err(refused)?.into_owned();
        self.ask(allowed, platform).await.map_err(by_rego)
    }

    /// Asks the policies in Rego about a Dockerfile that is on this machine: a source like the others, whatever it goes on to use (SPEC B8.09).
    ///
    /// # Errors
    /// When it may not be used.
    pub(super) async fn local_dockerfile(&self) -> Result<(), BuildError> {
        let source = SourceOp { identifier: "local://dockerfile".into(), ..SourceOp::default() };
        match self.ask(source, &Platform::host()).await {
            Ok(_) => Ok(()),
            Err(error) => {
                let HostError { kind, message, hint, .. } = by_rego(error);
                Err(crate::frontend::FrontendError::outside(kind, message, hint).into())
            }
        }
    }

    /// A definition's graph, with every source as the policies have it.
    ///
    /// # Errors
    /// When one may not be used.
    pub(super) async fn graph(&self, definition: &Definition) -> Result<Graph, BuildError> {
        read(&*self.definition(definition).await?)
    }

    /// A definition with every source as the policies have it.
    ///
    /// # Errors
    /// When one may not be used.
    pub(super) async fn definition<'d>(&self, definition: &'d Definition) -> Result<Cow<'d, Definition>, BuildError> {
        let allowed = match self.request.policy.apply_to_graph(definition) {
            Ok(allowed) => allowed,
            Err((at, error)) => return Err(fault(definition, &at, refused(error))?),
        };
        if self.policies.is_empty() {
            return Ok(allowed);
        }
        // What waits for answers comes first; putting them into the graph does not wait.
        let mut sources = Vec::new();
        let collected = with_sources(&allowed, |op, source| {
            sources.push((source.clone(), platform(op)));
            Ok::<_, std::convert::Infallible>(None)
        });
        drop(collected);
        let mut answers = HashMap::new();
        for (source, platform) in sources {
            let answer = self.ask(source.clone(), &platform).await;
            let failed = answer.is_err();
            answers.insert((source, platform), answer);
            if failed {
                break;
            }
        }
        let changed = with_sources(&allowed, |op, source| match answers.remove(&(source.clone(), platform(op))) {
            Some(Ok(new)) => {
                let differs = (new != *source).then(|| new.clone());
                answers.insert((source.clone(), platform(op)), Ok(new));
                Ok(differs)
            }
            Some(Err(error)) => Err(error),
            None => Ok(None),
        });
        match changed {
            Ok(Cow::Owned(changed)) => Ok(Cow::Owned(changed)),
            Ok(Cow::Borrowed(_)) => Ok(allowed),
            Err((at, error)) => Err(fault(&allowed, &at, by_rego(error))?),
        }
    }

    /// Asks the policies in Rego until none changes anything.
    async fn ask(&self, mut source: SourceOp, platform: &Platform) -> Result<SourceOp, RegoError> {
        if self.policies.is_empty() {
            return Ok(source);
        }
        let asked = (source.clone(), platform.clone());
        if let Some(known) = self.decided.0.lock().unwrap_or_else(PoisonError::into_inner).get(&asked) {
            return Ok(known.clone());
        }
        let id = Digest::sha256(STEP);
        let log = |level: LogLevel, text: &str| {
            if level <= self.request.rego.level {
                self.builder.events.log(&id, Stream::Stderr, format!("{text}\n"));
            }
        };
        for _ in 0..MAX_CONVERSIONS {
            let lookup = Lookup { images: &self.builder.images, solver: self.solver };
            match self.policies.check(&source, platform, &lookup, &log).await? {
                Decision::Convert(new) => source = new,
                Decision::Allow => {
                    let mut decided = self.decided.0.lock().unwrap_or_else(PoisonError::into_inner);
                    decided.insert(asked, source.clone());
                    return Ok(source);
                }
            }
        }
        let reason = format!("source \"{}\" is converted more than {MAX_CONVERSIONS} times", asked.0.identifier);
        Err(RegoError::Policy { name: "set".into(), reason })
    }
}

/// Finds out what policies ask for.
struct Lookup<'a> {
    images: &'a ImageSource,
    solver: &'a Arc<Solver>,
}

#[async_trait::async_trait]
impl Facts for Lookup<'_> {
    async fn image(&self, source: &SourceOp, platform: &Platform) -> Result<ImageFacts, HostError> {
        let found = self.images.resolve_op(source, platform).await?;
        Ok(ImageFacts { digest: found.digest, config: found.config })
    }

    async fn provenance(&self, source: &SourceOp, platform: &Platform) -> Result<Option<Provenance>, HostError> {
        let found = self.images.provenance(source, platform).await?;
        Ok(found.map(|(predicate_type, predicate)| Provenance { predicate_type, predicate }))
    }

    async fn signatures(&self, source: &SourceOp, platform: &Platform) -> Result<Signatures, HostError> {
        Ok(self.images.signatures(source, platform).await?)
    }

    async fn attestation_signatures(&self, source: &SourceOp, platform: &Platform) -> Result<Signatures, HostError> {
        Ok(self.images.attestation_signatures(source, platform).await?)
    }

    async fn pin(&self, source: &SourceOp) -> Result<Pin, HostError> {
        let pinned = self.solver.source_pin(source).await.map_err(|e| host_error(&e))?;
        let Some(pinned) = pinned else { return Ok(Pin::default()) };
        Ok(Pin { checksum: checksum(source, pinned.as_ref()), reference: pinned.reference(), tag: pinned.tag() })
    }

    async fn objects(&self, source: &SourceOp) -> Result<Option<GitObjects>, HostError> {
        self.solver.source_objects(source).await.map_err(|e| host_error(&e))
    }

    async fn signed_digest(&self, source: &SourceOp, wanted: &SignedDigest) -> Result<Option<Vec<u8>>, HostError> {
        let algorithm = match wanted.algorithm {
            "sha256" => Algorithm::Sha256,
            "sha384" => Algorithm::Sha384,
            _ => Algorithm::Sha512,
        };
        let checksum = Checksum { algorithm, suffix: wanted.suffix.clone() };
        let made = self.solver.source_checksum(source, checksum).await.map_err(|e| host_error(&e))?;
        Ok(made.map(|made| bytes_of(made.split_once(':').map_or("", |(_, hex)| hex))))
    }
}

/// Of hexadecimal digits.
fn bytes_of(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks_exact(2).filter_map(|pair| std::str::from_utf8(pair).ok());
    digits.filter_map(|pair| u8::from_str_radix(pair, 16).ok()).collect()
}

/// What a pinned source is: the digest of a file, or a commit, which is named without its algorithm.
pub(super) fn checksum(source: &SourceOp, pinned: &dyn Pinned) -> String {
    let digest = pinned.material().digest;
    match source.identifier.starts_with("git://") {
        true => digest.split_once(':').map_or(digest.as_str(), |(_, hex)| hex).to_owned(),
        false => digest,
    }
}

/// An error of the solver, for a front end.
pub(super) fn host_error(error: &SolveError) -> HostError {
    let hint = error.hint().map(ToOwned::to_owned);
    HostError { kind: error.kind(), message: error.to_string(), hint, became: None }
}

fn platform(op: &Op) -> Platform {
    op.platform.as_ref().map_or_else(Platform::host, |p| Platform::new(&p.os, &p.architecture, &p.variant))
}

fn refused(error: PolicyError) -> HostError {
    let (message, hint) = (error.to_string(), Some(error.hint()));
    let became = match error {
        PolicyError::Kind { to, .. } => Some(to),
        _ => None,
    };
    HostError { kind: FaultKind::Input, message, hint, became }
}

fn by_rego(error: RegoError) -> HostError {
    let kind = match &error {
        RegoError::Facts(error) => error.kind,
        _ => FaultKind::Input,
    };
    HostError { kind, message: error.to_string(), hint: error.hint(), became: None }
}

/// An error at the vertex of a definition.
fn fault(definition: &Definition, at: &Digest, error: HostError) -> Result<BuildError, BuildError> {
    let graph = read(definition)?;
    Ok(match graph.vertices.get(at) {
        Some(vertex) => SolveError::refused(vertex, error.kind, error.message, error.hint.unwrap_or_default()).into(),
        None => BuildError::Internal(error.message),
    })
}

fn read(definition: &Definition) -> Result<Graph, BuildError> {
    definition.graph().map_err(|e| BuildError::Internal(format!("the front end made a bad graph: {e}")))
}
