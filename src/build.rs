//! Layer 10: a build request to a build report.
//!
//! Runs the front end, solves its graph and hands the result to the exporters. One [`Builder`] serves a whole
//! invocation, so that several requests share work.

pub mod attachments;
mod attest;
mod caches;
mod gateway;
mod inputs;
mod platforms;
mod policy;
pub mod record;
pub mod replay;
mod sbom;
mod writable;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use futures_util::future::try_join_all;
use jiff::Timestamp;
use tokio::sync::OnceCell;

use crate::attest::Statement;
use crate::attest::statement::Exported;
use crate::base::events::Outcome;
use crate::base::{Cancel, Digest, Event, Events, FaultKind, StepTrace};
use crate::cache::spec::{ExportSpec, ImportSpec};
use crate::exec::cdi::Devices;
use crate::exec::run::{RunResult, Runner};
use crate::exporter::cache::CacheExportError;
use crate::exporter::shape::Shape;
use crate::exporter::{self, Ahead, BuildResult, ExportContext, ExportError, ExportReport, ImageResult, OutputSpec};
use crate::frontend::{
    self, Answer, Call, FrontEnd, FrontEnds, FrontendError, FrontendInput, FrontendOptions, FrontendResult,
};
use crate::llb::host::RESOLVE_MODE;
use crate::llb::op::{Kind, NetMode, SecurityMode, SourceOp};
use crate::llb::{FrontendHost, Graph, HostError, InContext, ResolveMode, ResolvedImage, SourcePolicy};
use crate::oci::{Descriptor, Platform};
use crate::registry::Client;
use crate::solver::{ContextDir, Environment, KeptFailure, Secrets, SolveError, Solver, Visit};
use crate::source::Sources;
use crate::source::image::ImageSource;
use crate::store::Store;

use gateway::{Fronts, Job};
use policy::Gate;

pub use attest::Attest;
pub use inputs::{DockerfileAt, Found, Inputs, MAX_DOCKERFILE, MainContext, Stream};
pub use policy::{MAX_POLICY, RegoRequest};

/// What to build.
pub struct BuildRequest {
    /// Identifies the build, see [`new_id`].
    pub id: String,
    /// Name of the Dockerfile, for messages.
    pub filename: String,
    /// Its text.
    pub dockerfile: Vec<u8>,
    /// Where it is, if not here.
    pub dockerfile_at: DockerfileAt,
    /// The main context.
    pub context: MainContext,
    /// The directory of a context that is an archive or a URL which is the context.
    pub context_subdir: Option<String>,
    /// In an archive, a repository or what a server has, `Containerfile` goes before `Dockerfile` (SPEC D3.14).
    pub containerfile_first: bool,
    /// What was fetched for this request.
    pub inputs: OnceLock<Inputs>,
    /// Name and text of the main context's ignore file.
    pub ignore: Option<(String, Vec<u8>)>,
    /// The same for named local contexts.
    pub context_ignores: BTreeMap<String, (String, Vec<u8>)>,
    /// What the front end takes; its platform is set from `platforms`.
    pub options: FrontendOptions,
    /// Which front ends may be used.
    pub front_ends: FrontEnds,
    /// A definition, marshalled, in place of a file that a front end would read (SPEC S2.22).
    pub graph: Option<Vec<u8>>,
    /// What a front end that is an image is told beside what the other options say.
    pub frontend_options: BTreeMap<String, String>,
    /// The directory that the Dockerfile is in, if it is one of this machine.
    pub dockerfile_dir: Option<PathBuf>,
    /// `--platform`, in order; empty for the machine's own.
    pub platforms: Vec<Platform>,
    /// In place of `platforms`: all that the base images are for.
    pub all_platforms: bool,
    /// Show the result as one for several platforms even if there is only one (SPEC A4.17).
    pub multi_platform: bool,
    /// Local directories by context name; the main one is `context`.
    pub contexts: BTreeMap<String, ContextDir>,
    /// Which sources may be used (SPEC C9.01).
    pub policy: SourcePolicy,
    /// What policies in Rego say to them (SPEC B2.22).
    pub rego: RegoRequest,
    /// Secret values by id.
    pub secrets: Secrets,
    /// What steps may have beyond the sandbox (SPEC C5.15).
    pub entitlements: Entitlements,
    /// Outputs; none keeps the result in the cache only.
    pub outputs: Vec<OutputSpec>,
    /// Caches to read, in the order in which they are asked (SPEC B4).
    pub cache_from: Vec<ImportSpec>,
    /// How long the build waits for them, counted from its beginning; later it goes on, and uses each when it comes.
    pub cache_patience: Duration,
    /// Caches to write.
    pub cache_to: Vec<ExportSpec>,
    /// What to say about it.
    pub attest: Attest,
    /// What is taken away from the image.
    pub shape: Shape,
}

/// What steps may have beyond the sandbox (SPEC B2.02).
#[derive(Debug, Clone, Default)]
pub struct Entitlements {
    /// `network.host`
    pub network_host: bool,
    /// `security.insecure`
    pub security_insecure: bool,
    /// `device`
    pub devices: Arc<Devices>,
}

impl Entitlements {
    /// Refuses the first vertex that asks for more.
    fn check(&self, graph: &Graph) -> Result<(), BuildError> {
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
            if let Err(e) = self.devices.check(&exec.cdi_devices) {
                let hint = e.hint().unwrap_or_default();
                return Err(SolveError::refused(vertex, FaultKind::Input, e.to_string(), hint).into());
            }
        }
        Ok(())
    }
}

/// What was built.
#[derive(Debug)]
pub struct BuildReport {
    /// Identifies the build.
    pub id: String,
    /// One per output that makes an image.
    pub exports: Vec<ExportReport>,
    /// How each platform's result came to be, if the request wanted to know (SPEC B2.16).
    pub provenance: Vec<(Platform, serde_json::Value)>,
    /// All that is known of each platform's result, for the record of the build (SPEC B8.07).
    pub statements: Vec<(Platform, Statement)>,
    /// The document of the last cache that was written to a registry or a layout (SPEC C3.21).
    pub cache: Option<Descriptor>,
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
    /// A cache could not be written; the outputs are.
    #[error(transparent)]
    Cache(#[from] CacheExportError),
    /// A defect.
    #[error("{0}")]
    Internal(String),
}

/// Builds that take longer ask first whether their push will be allowed.
const SOON: Duration = Duration::from_millis(250);

/// Builds requests.
pub struct Builder {
    /// Where results live.
    pub store: Store,
    /// Talks to registries.
    pub client: Client,
    /// The same with little patience: for caches, where waiting is worse than building.
    pub hasty: Client,
    /// The same for writing caches, when the outputs are safe.
    pub caching: Client,
    /// Base images.
    pub images: ImageSource,
    /// Everything else from outside.
    pub sources: Sources,
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
    /// The trace that steps are to be part of.
    pub trace: Option<StepTrace>,
    /// Threads for compression.
    pub threads: usize,
}

impl Builder {
    /// Builds one request: every platform in one solver, so that shared stages run once.
    ///
    /// # Errors
    /// See [`BuildError`]; nothing is half-written then.
    pub async fn build(&self, request: &BuildRequest) -> Result<BuildReport, BuildError> {
        let multi = request.multi_platform || request.platforms.len() > 1;
        for output in &request.outputs {
            let index = output.has_index(multi, &request.attest.asked);
            output.check_index(index).map_err(|e| ExportError::Usage(e.0))?;
        }
        // Of layers that become one none goes anywhere.
        let apart = request.shape.single_layer.is_none();
        let start = || Ahead::start(&self.store, &self.client, &self.images, &self.events, &request.outputs);
        let ahead = apart.then(start).flatten();
        let solver = self.solver(request, ahead.as_ref());
        let report = self.build_with(request, &solver, multi).await;
        if let Some(ahead) = ahead {
            let outcome = if report.is_ok() { Outcome::Done } else { Outcome::Canceled };
            ahead.end(outcome).await;
        }
        report
    }

    async fn build_with(
        &self,
        request: &BuildRequest,
        solver: &Arc<Solver>,
        multi: bool,
    ) -> Result<BuildReport, BuildError> {
        let began = Timestamp::now();
        let exports = self.exports(request);
        let inputs = self.inputs(request, solver).await?;
        self.definition_loaded(request, inputs);
        let gate = self.gate(request, solver)?;
        let host = self.host(request, &gate, solver, multi);
        let job = Job { builder: self, request, gate: &gate, solver, host: &host, multi };
        let chosen = frontend::front_end(&inputs.dockerfile, &request.options.build_args, request.front_ends)?;
        let all =
            if request.all_platforms { platforms::of_all_images(&job, inputs, &chosen).await? } else { Vec::new() };
        let targets: Vec<Option<Platform>> = match if all.is_empty() { request.platforms.as_slice() } else { &all } {
            [] => vec![None],
            several => several.iter().cloned().map(Some).collect(),
        };
        let fronts = match (&request.graph, &chosen) {
            (Some(_), _) | (None, FrontEnd::Image(_)) if request.options.is_about_stages() => {
                let text = "--from, --env, --inherit-labels=false and --no-cache-run are about stages, and only the built-in front end tells them";
                return Err(FrontendError::outside(FaultKind::Usage, text, None).into());
            }
            (Some(graph), _) => job.given(graph).await?,
            (None, FrontEnd::BuiltIn) => {
                check_no_options(request)?;
                let fronts = targets.into_iter().map(|p| front_end(&host, definition(request, inputs, p, multi)));
                let fronts = try_join_all(fronts).await;
                self.warn(&inputs.filename, &fronts);
                Fronts { results: fronts?, external: None }
            }
            (None, FrontEnd::Image(image)) => job.fronts(image, inputs).await?,
        };
        let mut graphs = Vec::new();
        for front in &fronts.results {
            let graph = gate.graph(&front.definition).await?;
            request.entitlements.check(&graph)?;
            graphs.push(Arc::new(graph));
        }
        let epoch = fronts.results.first().and_then(|front| front.epoch);
        let context = ExportContext {
            store: &self.store,
            client: &self.client,
            source: &self.images,
            events: &self.events,
            epoch,
            threads: self.threads,
        };
        let mut report = loop {
            let made = self.deliver(request, solver, &graphs, &fronts, began, &context).await;
            match made {
                // A layer that a cache promised: the result is made again without it.
                Err(_) if !self.cancel.is_cancelled() && solver.forget_lost().await? => {}
                made => break made?,
            }
        };
        solver.end_imports().await;
        report.cache = self.export_caches(exports, solver, &graphs, &context).await?;
        Ok(report)
    }

    /// Says which checks failed, each once: every platform finds the same ones again.
    fn warn(&self, filename: &str, fronts: &Result<Vec<FrontendResult>, FrontendError>) {
        let warnings: Vec<&frontend::Warning> = match fronts {
            Ok(fronts) => fronts.iter().flat_map(|front| &front.warnings).collect(),
            Err(error) => error.warnings.iter().collect(),
        };
        let mut said = Vec::new();
        for warning in warnings {
            if !said.contains(&warning) {
                self.events.send(Event::Warning(warning.to_event(filename)));
                said.push(warning);
            }
        }
    }

    /// Runs a program where a step failed, with these secrets and devices.
    ///
    /// # Errors
    /// See [`Solver::visit`].
    pub async fn visit(
        &self,
        failed: &KeptFailure,
        secrets: Secrets,
        devices: Arc<Devices>,
        visit: Visit,
    ) -> Result<RunResult, SolveError> {
        Solver::new(self.bare_environment(secrets, devices)).visit(failed, visit).await
    }

    /// What a solver needs that serves no build.
    fn bare_environment(&self, secrets: Secrets, devices: Arc<Devices>) -> Environment {
        Environment {
            store: self.store.clone(),
            images: self.images.clone(),
            sources: self.sources.clone(),
            contexts: BTreeMap::new(),
            secrets,
            devices,
            steps: self.steps.clone(),
            state_dir: self.state_dir.clone(),
            events: self.events.clone(),
            cancel: self.cancel.clone(),
            parallelism: 1,
            layers: None,
            ready: None,
            project: String::new(),
            imports: None,
            mounts: None,
            trace: self.trace.clone(),
        }
    }

    /// Answers a question about a request's Dockerfile, for its first platform; nothing is built.
    ///
    /// # Errors
    /// See [`BuildError::Frontend`].
    pub async fn call(&self, call: Call, request: &BuildRequest) -> Result<Answer, BuildError> {
        let solver = self.solver(request, None);
        let inputs = self.inputs(request, &solver).await?;
        self.definition_loaded(request, inputs);
        let gate = self.gate(request, &solver)?;
        let host = self.host(request, &gate, &solver, false);
        let platform = request.platforms.first().cloned();
        let chosen = frontend::front_end(&inputs.dockerfile, &request.options.build_args, request.front_ends)?;
        if let FrontEnd::Image(image) = &chosen {
            let job = Job { builder: self, request, gate: &gate, solver: &solver, host: &host, multi: false };
            let question = format!("frontend.{}", call.name());
            return Ok(frontend::gateway::result::answer(
                &job.asked(image, inputs, &question).await?,
                &image.reference.familiar(),
            )?);
        }
        check_no_options(request)?;
        Ok(frontend::call(call, &definition(request, inputs, platform, false), &host).await?)
    }

    /// Solves the graphs and writes the outputs.
    async fn deliver(
        &self,
        request: &BuildRequest,
        solver: &Arc<Solver>,
        graphs: &[Arc<Graph>],
        fronts: &Fronts,
        began: Timestamp,
        context: &ExportContext<'_>,
    ) -> Result<BuildReport, BuildError> {
        let solving = try_join_all(graphs.iter().map(|graph| solver.solve_layers(graph)));
        // A push that will be refused is known before a long build, not after it.
        let solved = self.while_allowed(request, solving).await;
        solver.save_hints();
        solver.save_explanations(graphs).await;
        let mut images = Vec::new();
        let (mut provenance, mut statements) = (Vec::new(), Vec::new());
        let external = fronts.external.as_ref();
        for (at, ((chain, front), graph)) in solved?.into_iter().zip(&fronts.results).zip(graphs).enumerate() {
            let mut config = front.config.clone();
            if external.is_some() {
                gateway::complete_history(&mut config.history, chain.len());
            }
            caches::inline(request, solver, graph, &mut config).await?;
            let told = self.tell(request, solver, graph, front, external, began).await?;
            let attested = external.and_then(|front| front.attestations.get(at)).map_or(&[][..], Vec::as_slice);
            let attested = gateway::attestations(request, solver, attested).await?;
            statements.extend(told.statements.into_iter().map(|statement| (front.platform.clone(), statement)));
            let reported = told.provenance.filter(|_| request.attest.report);
            provenance.extend(reported.map(|told| (front.platform.clone(), told.predicate(&Exported::NONE))));
            let annotations = match &front.base_name {
                Some(base) if request.shape.inherit_annotations => self.annotations_of(base, &front.platform).await?,
                _ => BTreeMap::new(),
            };
            let image = ImageResult {
                platform: front.platform.clone(),
                annotations,
                chain,
                config,
                base_layers: front.base_layers,
                // Front ends that are images write the times into the config themselves.
                dated: front.epoch.filter(|_| external.is_none()),
                attestations: told.attestations.into_iter().chain(attested).collect(),
            };
            images.push(request.shape.apply(context, image).await?);
        }
        let multi = request.multi_platform || request.platforms.len() > 1;
        let exports = exporter::export(context, &BuildResult { images, multi }, &request.outputs).await?;
        Ok(BuildReport { id: request.id.clone(), exports, provenance, statements, cache: None })
    }

    /// What the manifest of a base image is annotated with, but for what is about that image alone.
    async fn annotations_of(&self, base: &str, platform: &Platform) -> Result<BTreeMap<String, String>, BuildError> {
        const OWN: [&str; 3] = [
            "org.opencontainers.image.created",
            "org.opencontainers.image.base.name",
            "org.opencontainers.image.base.digest",
        ];
        let found = self.images.annotations(base, platform).await;
        let mut found =
            found.map_err(|e| FrontendError::outside(e.kind(), format!("--inherit-annotations: {e}"), e.hint()))?;
        found.retain(|name, _| !OWN.contains(&name.as_str()));
        Ok(found)
    }

    /// Waits for `work`, and stops it early if a registry says that the push at the end will not be allowed.
    async fn while_allowed<T>(
        &self,
        request: &BuildRequest,
        work: impl Future<Output = Result<T, SolveError>>,
    ) -> Result<T, BuildError> {
        tokio::pin!(work);
        // A build that is over by then learns it from the push itself, and need not ask twice.
        tokio::select! {
            biased;
            result = &mut work => return Ok(result?),
            () = tokio::time::sleep(SOON) => {}
        }
        let checks = exporter::check_pushes(&self.client, &self.events, &request.outputs);
        tokio::pin!(checks);
        let solved = tokio::select! {
            biased;
            result = &mut work => Some(result),
            allowed = &mut checks => {
                if let Err(error) = allowed {
                    self.cancel.cancel();
                    // Steps under way are ended, not abandoned; why they end is known.
                    let _ = work.await;
                    return Err(error.into());
                }
                None
            }
        };
        match solved {
            None => Ok(work.await?),
            Some(result) => {
                let result = result?;
                checks.await?;
                Ok(result)
            }
        }
    }

    /// One solver serves a request, its context included.
    fn solver(&self, request: &BuildRequest, ahead: Option<&Ahead>) -> Arc<Solver> {
        self.images.set_cache_patience(request.cache_patience);
        let (imports, mounts) = self.imports(&request.cache_from, request.cache_patience);
        Solver::new(Environment {
            store: self.store.clone(),
            images: self.images.clone(),
            sources: self.sources.clone(),
            contexts: self.contexts(request),
            secrets: request.secrets.clone(),
            devices: Arc::clone(&request.entitlements.devices),
            steps: self.steps.clone(),
            state_dir: self.state_dir.clone(),
            events: self.events.clone(),
            cancel: self.cancel.clone(),
            parallelism: self.parallelism,
            trace: self.trace.clone(),
            layers: exporter::wanted_layers(&request.outputs, self.threads)
                .filter(|_| request.shape.single_layer.is_none()),
            ready: ahead.map(Ahead::listener),
            project: project(request),
            imports,
            mounts,
        })
    }

    /// The directories that graphs may read: the contexts, and where the Dockerfile is, for front ends that look there.
    fn contexts(&self, request: &BuildRequest) -> BTreeMap<String, ContextDir> {
        let mut contexts = request.contexts.clone();
        if let Some(dir) = request.dockerfile_dir.clone().or_else(|| self.written_dockerfile(request)) {
            contexts.entry("dockerfile".into()).or_insert_with(|| ContextDir { dir, ..ContextDir::default() });
        }
        contexts
    }

    /// A directory for a Dockerfile that came alone, if its front end has to look for it.
    fn written_dockerfile(&self, request: &BuildRequest) -> Option<PathBuf> {
        let alone =
            matches!(request.dockerfile_at, DockerfileAt::Given) && matches!(request.context, MainContext::Local);
        let chosen = frontend::front_end(&request.dockerfile, &request.options.build_args, request.front_ends);
        if !alone || !matches!(chosen, Ok(FrontEnd::Image(_))) {
            return None;
        }
        let dir = self.state_dir.join(format!("dockerfile-{}", request.id));
        let write = || {
            std::fs::create_dir_all(&dir)?;
            std::fs::write(dir.join(&request.filename), &request.dockerfile)
        };
        match write() {
            Ok(()) => Some(dir),
            Err(e) => {
                self.events.warning(format!("the Dockerfile cannot be put where a front end could read it: {e}"));
                None
            }
        }
    }

    fn host<'a>(
        &'a self,
        request: &'a BuildRequest,
        gate: &'a Gate<'a>,
        solver: &'a Arc<Solver>,
        multi: bool,
    ) -> Host<'a> {
        let (images, events) = (&self.images, &self.events);
        Host { request, images, solver, events, gate, multi, resolved: Mutex::default(), ignored: Mutex::default() }
    }

    /// Shows what was read before there was anything to show it.
    fn definition_loaded(&self, request: &BuildRequest, inputs: &Inputs) {
        let id = internal(&self.events, &format!("[internal] load build definition from {}", inputs.filename));
        self.events.progress(&id, "transferring dockerfile:", inputs.dockerfile.len() as u64, None, true);
        self.events.completed(&id, Outcome::Done);
        // One that is for this Dockerfile alone was read with it.
        let own = |(name, _): &(String, Vec<u8>)| name.starts_with('.');
        if request.contexts.contains_key("context") && request.ignore.as_ref().is_none_or(own) {
            ignore_loaded(&self.events, "context", "internal", request.ignore.as_ref());
        }
    }
}

/// Shows that an ignore file was read: it, and its size.
fn ignore_loaded(events: &Events, context: &str, shown: &str, ignore: Option<&(String, Vec<u8>)>) {
    let (file, text) = ignore.map_or((".dockerignore", &[][..]), |(file, text)| (file, text));
    let id = internal(events, &format!("[{shown}] load {file}"));
    events.progress(&id, format!("transferring {context}:"), text.len() as u64, None, true);
    events.completed(&id, Outcome::Done);
}

/// How progress calls the question of a front end that gave it no name.
fn config_title(identifier: &str) -> String {
    format!("resolve image config for {identifier}")
}

/// The built-in front end takes no options but those that have names here.
fn check_no_options(request: &BuildRequest) -> Result<(), FrontendError> {
    match request.frontend_options.keys().next() {
        None => Ok(()),
        Some(name) => {
            let text = format!("--frontend-opt {name}: the built-in front end has no such option");
            Err(FrontendError::outside(FaultKind::Usage, text, None).hint("it is for front ends that are images"))
        }
    }
}

/// What the built-in front end makes; what it has to say is said.
async fn front_end(host: &Host<'_>, input: FrontendInput<'_>) -> Result<FrontendResult, FrontendError> {
    let result = frontend::dockerfile_to_llb(input, host).await?;
    for notice in &result.notices {
        host.events.notice(notice.clone(), notice.clone());
    }
    Ok(result)
}

/// What the front end reads.
fn definition<'a>(
    request: &'a BuildRequest,
    inputs: &'a Inputs,
    platform: Option<Platform>,
    multi: bool,
) -> FrontendInput<'a> {
    FrontendInput {
        filename: &inputs.filename,
        source: &inputs.dockerfile,
        context: inputs.context.clone(),
        ignore: request.ignore.clone(),
        context_ignores: request.context_ignores.clone(),
        inputs: BTreeMap::new(),
        options: FrontendOptions { platform, multi_platform: multi, ..request.options.clone() },
    }
}

/// A name for a build: 25 letters and digits, as buildx has them.
#[must_use]
pub fn new_id() -> String {
    use std::hash::{BuildHasher as _, RandomState};
    // Each state is seeded from the system's random source.
    let mut number = u128::from(RandomState::new().hash_one(0)) << 64 | u128::from(RandomState::new().hash_one(1));
    let mut id = String::new();
    while id.len() < 25 {
        let digit = u32::try_from(number % 36).unwrap_or_default();
        id.push(char::from_digit(digit, 36).unwrap_or('0'));
        number /= 36;
    }
    id
}

/// What steps of earlier builds are compared with: those of the same context.
#[must_use]
pub fn project(request: &BuildRequest) -> String {
    request.contexts.get("context").map_or_else(|| "-".to_owned(), |context| context.dir.display().to_string())
}

/// Announces an internal step and starts it.
fn internal(events: &Events, name: &str) -> Digest {
    internal_of(events, name, "")
}

/// The same for one of several steps of this name.
fn internal_of(events: &Events, name: &str, which: &str) -> Digest {
    let id = Digest::sha256(format!("{name}{which}"));
    events.vertex(&id, name, Vec::new());
    events.started(&id);
    id
}

/// The builder as the front end sees it.
struct Host<'a> {
    request: &'a BuildRequest,
    images: &'a ImageSource,
    solver: &'a Arc<Solver>,
    events: &'a Events,
    gate: &'a Gate<'a>,
    /// Names carry the platform.
    multi: bool,
    /// Images asked for so far: each platform asks for those of shared stages again.
    resolved: Mutex<BTreeMap<String, Arc<OnceCell<ResolvedImage>>>>,
    /// Named contexts whose ignore files were shown.
    ignored: Mutex<BTreeSet<String>>,
}

#[async_trait::async_trait]
impl FrontendHost for Host<'_> {
    async fn source_time(&self, source: &SourceOp) -> Result<Option<i64>, HostError> {
        let source = self.gate.source(source, &Platform::host(), false).await?;
        self.solver.source_time(&source).await.map_err(|e| policy::host_error(&e))
    }

    async fn resolve_image(
        &self,
        identifier: &str,
        platform: &Platform,
        mode: ResolveMode,
        context: Option<&InContext>,
    ) -> Result<ResolvedImage, HostError> {
        let cell = {
            let mut resolved = self.resolved.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(resolved.entry(format!("{identifier} {platform} {mode:?}")).or_default())
        };
        cell.get_or_try_init(|| self.ask(identifier, platform, mode, context)).await.cloned()
    }

    fn ignore_file_read(&self, context: &str) {
        let new = self.ignored.lock().unwrap_or_else(PoisonError::into_inner).insert(context.to_owned());
        if new {
            let ignore = self.request.context_ignores.get(context);
            ignore_loaded(self.events, context, &format!("context {context}"), ignore);
        }
    }
}

impl Host<'_> {
    /// What a source that may be used is.
    async fn known(&self, source: &SourceOp, platform: &Platform, title: &str) -> Result<ResolvedImage, HostError> {
        let id = internal_of(self.events, title, &platform.to_string());
        let resolved = self.images.resolve_op(source, platform).await.map_err(HostError::from);
        self.ended(&id, &resolved);
        resolved
    }

    async fn ask(
        &self,
        identifier: &str,
        platform: &Platform,
        mode: ResolveMode,
        context: Option<&InContext>,
    ) -> Result<ResolvedImage, HostError> {
        let mut asked = SourceOp { identifier: identifier.to_owned(), ..SourceOp::default() };
        asked.attrs.extend(mode.attribute().map(|mode| (RESOLVE_MODE.to_owned(), mode.to_owned())));
        let source = self.gate.source(&asked, platform, true).await;
        // Of what a policy makes a source of another kind nothing is loaded, and nothing fails.
        if let Err(error @ HostError { became: Some(_), .. }) = source {
            return Err(error);
        }
        let found = async || {
            let source = source?;
            let mut resolved = self.images.resolve_op(&source, platform).await?;
            resolved.converted = (source.identifier != identifier).then_some(source.identifier);
            Ok(resolved)
        };
        let start = |title: &str| internal_of(self.events, title, &platform.to_string());
        match context {
            // Its digest is part of the name, and on this machine.
            Some(context) if identifier.starts_with("oci-layout://") => {
                let found = found().await;
                self.ended(&start(&context.title(found.as_ref().ok().map(|found| &found.digest))), &found);
                found
            }
            _ => {
                let shown = identifier.split_once("://").map_or(identifier, |(_, rest)| rest);
                let prefix = if self.multi { format!("{platform} ") } else { String::new() };
                let usual = || format!("[{prefix}internal] load metadata for {shown}");
                let id = start(&context.map_or_else(usual, |context| context.title(None)));
                let found = found().await;
                self.ended(&id, &found);
                found
            }
        }
    }

    fn ended(&self, id: &Digest, resolved: &Result<ResolvedImage, HostError>) {
        match resolved {
            Ok(_) => self.events.completed(id, Outcome::Done),
            Err(error) => self.events.completed(id, Outcome::Failed(error.to_string())),
        }
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
            Self::Cache(CacheExportError::Layer(e)) => e.kind(),
            Self::Cache(CacheExportError::Backend { .. }) => FaultKind::Remote,
            Self::Internal(_) => FaultKind::Internal,
        }
    }
}
