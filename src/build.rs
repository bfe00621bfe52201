//! Layer 8: a build request to a build report.
//!
//! Runs the front end, solves its graph and hands the result to the exporters. One [`Builder`] serves a whole
//! invocation, so that several requests share work.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use crate::base::events::Outcome;
use crate::base::{Cancel, Digest, Events, FaultKind};
use crate::exec::run::Runner;
use crate::exporter::{self, ExportContext, ExportError, ExportReport, ImageResult, OutputSpec};
use crate::frontend::{self, Answer, Call, FrontendError, FrontendInput, FrontendOptions, FrontendResult};
use crate::llb::op::{Kind, NetMode, SecurityMode};
use crate::llb::{FrontendHost, Graph, HostError, ResolveMode, ResolvedImage};
use crate::oci::Platform;
use crate::registry::Client;
use crate::solver::{ContextDir, Environment, Secrets, SolveError, Solver, Tree};
use crate::source::image::ImageSource;
use crate::store::Store;

/// What to build.
pub struct BuildRequest {
    /// Name of the Dockerfile, for messages.
    pub filename: String,
    /// Its text.
    pub dockerfile: Vec<u8>,
    /// Name and text of the main context's ignore file.
    pub ignore: Option<(String, Vec<u8>)>,
    /// The same for named local contexts.
    pub context_ignores: BTreeMap<String, (String, Vec<u8>)>,
    /// What the front end takes.
    pub options: FrontendOptions,
    /// Local directories by context name; the main one is `context`.
    pub contexts: BTreeMap<String, ContextDir>,
    /// Secret values by id.
    pub secrets: Secrets,
    /// What steps may have beyond the sandbox (SPEC C5.15).
    pub entitlements: Entitlements,
    /// Outputs; none keeps the result in the cache only.
    pub outputs: Vec<OutputSpec>,
}

/// What steps may have beyond the sandbox (SPEC B2.02).
#[derive(Debug, Clone, Copy, Default)]
pub struct Entitlements {
    /// `network.host`
    pub network_host: bool,
    /// `security.insecure`
    pub security_insecure: bool,
}

impl Entitlements {
    /// Refuses the first vertex that asks for more.
    fn check(self, graph: &Graph) -> Result<(), BuildError> {
        for vertex in graph.vertices.values() {
            let Some(Kind::Exec(exec)) = &vertex.op.kind else { continue };
            let host = exec.network == NetMode::Host as i32 && !self.network_host;
            let insecure = exec.security == SecurityMode::Insecure as i32 && !self.security_insecure;
            if host || insecure {
                let name = if host { "network.host" } else { "security.insecure" };
                let hint = format!("give --allow {name} if this Dockerfile may have it");
                let message = format!("{name} is not allowed");
                return Err(SolveError::refused(vertex, FaultKind::Input, message, hint).into());
            }
        }
        Ok(())
    }
}

/// What was built.
#[derive(Debug)]
pub struct BuildReport {
    /// One per output that makes an image.
    pub exports: Vec<ExportReport>,
    /// Lint findings and other warnings.
    pub warnings: Vec<crate::frontend::Warning>,
}

/// Why a build failed.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The Dockerfile is wrong, or what it names cannot be had.
    #[error(transparent)]
    Frontend(#[from] FrontendError),
    /// A vertex failed.
    #[error(transparent)]
    Solve(#[from] SolveError),
    /// An output could not be written.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// A defect.
    #[error("{0}")]
    Internal(String),
}

/// Builds requests.
pub struct Builder {
    /// Where results live.
    pub store: Store,
    /// Talks to registries.
    pub client: Client,
    /// Base images.
    pub images: ImageSource,
    /// How steps are run, or why not.
    pub steps: Result<Arc<Runner>, String>,
    /// A private directory in memory.
    pub state_dir: PathBuf,
    /// Where progress goes.
    pub events: Events,
    /// Stops everything.
    pub cancel: Cancel,
    /// RUN steps at a time.
    pub parallelism: usize,
    /// Threads for compression.
    pub threads: usize,
}

impl Builder {
    /// Builds one request.
    ///
    /// # Errors
    /// See [`BuildError`]; nothing is half-written then.
    pub async fn build(&self, request: &BuildRequest) -> Result<BuildReport, BuildError> {
        let result = self.front_end(request).await?;
        let graph = Arc::new(
            result
                .definition
                .graph()
                .map_err(|e| BuildError::Internal(format!("the front end made a bad graph: {e}")))?,
        );
        request.entitlements.check(&graph)?;
        let solver = Solver::new(Environment {
            store: self.store.clone(),
            images: self.images.clone(),
            contexts: request.contexts.clone(),
            secrets: request.secrets.clone(),
            steps: self.steps.clone(),
            state_dir: self.state_dir.clone(),
            events: self.events.clone(),
            cancel: self.cancel.clone(),
            parallelism: self.parallelism,
        });
        let solved = solver.solve(&graph).await;
        solver.save_hints();
        let chain = match solved? {
            Tree::Layers(chain) => chain,
            Tree::Local(_) => return Err(BuildError::Internal("the result is a local directory".into())),
        };
        let image =
            ImageResult { platform: result.platform, chain, config: result.config, base_layers: result.base_layers };
        let context = ExportContext {
            store: &self.store,
            client: &self.client,
            source: &self.images,
            events: &self.events,
            epoch: result.epoch,
            threads: self.threads,
        };
        let exports = exporter::export(&context, &[image], &request.outputs).await?;
        Ok(BuildReport { exports, warnings: result.warnings })
    }

    /// Answers a question about a request's Dockerfile; nothing is built.
    ///
    /// # Errors
    /// See [`BuildError::Frontend`].
    pub async fn call(&self, call: Call, request: &BuildRequest) -> Result<Answer, BuildError> {
        let host = Host { images: &self.images, events: &self.events };
        Ok(frontend::call(call, &self.definition(request), &host).await?)
    }

    async fn front_end(&self, request: &BuildRequest) -> Result<FrontendResult, FrontendError> {
        let host = Host { images: &self.images, events: &self.events };
        frontend::dockerfile_to_llb(self.definition(request), &host).await
    }

    /// What the front end reads.
    fn definition<'a>(&self, request: &'a BuildRequest) -> FrontendInput<'a> {
        let id = internal(&self.events, &format!("[internal] load build definition from {}", request.filename));
        self.events.progress(&id, "transferring dockerfile:", request.dockerfile.len() as u64, None, true);
        self.events.completed(&id, Outcome::Done);
        FrontendInput {
            filename: &request.filename,
            source: &request.dockerfile,
            ignore: request.ignore.clone(),
            context_ignores: request.context_ignores.clone(),
            options: request.options.clone(),
        }
    }
}

/// Announces an internal step and starts it.
fn internal(events: &Events, name: &str) -> Digest {
    let id = Digest::sha256(name);
    events.vertex(&id, name, Vec::new());
    events.started(&id);
    id
}

/// The builder as the front end sees it.
struct Host<'a> {
    images: &'a ImageSource,
    events: &'a Events,
}

#[async_trait::async_trait]
impl FrontendHost for Host<'_> {
    async fn resolve_image(
        &self,
        identifier: &str,
        platform: &Platform,
        mode: ResolveMode,
    ) -> Result<ResolvedImage, HostError> {
        let shown = identifier.split_once("://").map_or(identifier, |(_, rest)| rest);
        let id = internal(self.events, &format!("[internal] load metadata for {shown}"));
        let resolved = self.images.resolve(identifier, platform, mode).await;
        match &resolved {
            Ok(_) => self.events.completed(&id, Outcome::Done),
            Err(error) => self.events.completed(&id, Outcome::Failed(error.to_string())),
        }
        resolved.map_err(|e| HostError { kind: e.kind(), message: e.to_string(), hint: e.hint() })
    }
}

impl BuildError {
    /// For the exit code.
    #[must_use]
    pub fn kind(&self) -> FaultKind {
        match self {
            Self::Frontend(e) => e.kind,
            Self::Solve(e) => e.kind(),
            Self::Export(e) => e.kind(),
            Self::Internal(_) => FaultKind::Internal,
        }
    }
}
