//! What a front end's calls are answered with: the build's own solver, behind the build's own policies and entitlements.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use super::Job;
use super::nested;
use super::process::Program;
use crate::base::Digest;
use crate::base::events::{Event, Warning};
use crate::build::{BuildError, policy};
use crate::dockerfile::pattern::Glob;
use crate::frontend::BUILT_IN;
use crate::frontend::gateway::exec::GatewayContainer;
use crate::frontend::gateway::{Answer, GatewayHost, PinnedSource, Solved};
use crate::grpc::{Status, code};
use crate::llb::containers::NewContainerRequest;
use crate::llb::gateway::{Stat, go_mode};
use crate::llb::op::{Mount, Op, SourceOp};
use crate::llb::{Definition, Graph, HostError, ResolvedImage, strict, with_sources};
use crate::oci::{Platform, Reference};
use crate::solver::SolveError;
use crate::tree::CopySource;
use crate::tree::look::{self, Entry};

/// Front ends may ask other front ends, not for ever.
const MAX_DEPTH: usize = 8;
/// A definition with more operations is refused.
pub(super) const MAX_OPS: usize = 100_000;
/// Names of more than this many entries of a directory are not told.
const MAX_ENTRIES: usize = 100_000;

/// An OCI layout that a front end may use.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    /// What front ends call it.
    pub(super) name: String,
    /// What the command line calls it.
    pub(super) given: Vec<String>,
    /// `oci-layout://DIRECTORY…`, as the user said.
    pub(super) value: String,
    /// What it has there now.
    pub(super) digest: Option<Digest>,
}

/// The builder as a front end sees it.
pub(super) struct FrontHost<'a> {
    pub(super) job: &'a Job<'a>,
    layouts: Vec<Layout>,
    platforms: Vec<Platform>,
    /// Failures that a front end was told of, which it may pass on.
    failures: Mutex<Vec<SolveError>>,
    depth: usize,
}

impl<'a> FrontHost<'a> {
    pub(super) fn new(job: &'a Job<'a>, layouts: Vec<Layout>) -> Self {
        let known = &job.request.options.build_platforms;
        let platforms = if known.is_empty() { vec![Platform::host().normalised()] } else { known.clone() };
        Self { job, layouts, platforms, failures: Mutex::default(), depth: 0 }
    }

    /// What a front end is told of an OCI layout.
    pub(super) fn layout_of(&self, value: &str) -> Option<String> {
        let layout = self.layouts.iter().find(|layout| layout.value == value)?;
        let digest = layout.digest.as_ref().map(|digest| format!("@{digest}")).unwrap_or_default();
        Some(format!("oci-layout://{}{digest}", layout.name))
    }

    /// The failure that a message passes on.
    pub(super) fn failure_in(&self, message: &str) -> Option<SolveError> {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.iter().rev().find(|failure| message.contains(failure.message())).cloned()
    }

    pub(super) fn told(&self, error: SolveError) -> Status {
        let code = match error.is_cancelled() {
            true => code::FAILED_PRECONDITION,
            false => code::UNKNOWN,
        };
        let status = Status::new(code, error.to_string());
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).push(error);
        status
    }

    pub(super) fn build_error(&self, error: BuildError) -> Status {
        match error {
            BuildError::Solve(error) => self.told(error),
            other => Status::new(code::UNKNOWN, other.to_string()),
        }
    }

    /// A source that a front end asks for, as this machine has it; `None` if it stays as it is.
    pub(super) fn allowed(&self, source: &SourceOp) -> Result<Option<SourceOp>, Status> {
        let (scheme, rest) = source.identifier.split_once("://").unwrap_or((&source.identifier, ""));
        match scheme {
            "docker-image" | "git" | "http" | "https" => Ok(None),
            "local" => {
                let known = ["local.session", "local.unique", "local.includepattern", "local.followpaths"];
                let more = ["local.excludepatterns", "local.sharedkeyhint", "local.differ"];
                match source.attrs.keys().find(|name| !known.iter().chain(&more).any(|known| name == known)) {
                    None => Ok(None),
                    Some(name) => {
                        let text = format!("source \"{}\": attribute {name} means nothing here", source.identifier);
                        Err(Status::new(code::UNIMPLEMENTED, text))
                    }
                }
            }
            "oci-layout" => {
                let (path, pin) = match rest.split_once('@') {
                    Some((path, digest)) => (path, Some(digest)),
                    None => (rest, None),
                };
                let name = match source.attrs.get("oci.store").filter(|name| !name.is_empty()) {
                    Some(name) => name.clone(),
                    None => path.to_owned(),
                };
                // Clients may write it as the reference that it is not.
                let same = |layout: &&Layout| {
                    layout.name == name
                        || layout.given.contains(&name)
                        || path.rsplit('/').next().and_then(|last| last.split(':').next()) == Some(&layout.name)
                };
                let Some(layout) = self.layouts.iter().find(same) else {
                    let text = format!("there is no OCI layout \"{name}\" in this build");
                    return Err(Status::new(code::NOT_FOUND, text));
                };
                let identifier = match pin {
                    Some(digest) => format!("{}@{digest}", layout.value.split('@').next().unwrap_or(&layout.value)),
                    None => layout.value.clone(),
                };
                let mut source = SourceOp { identifier, ..source.clone() };
                source.attrs.remove("oci.store");
                source.attrs.remove("oci.session");
                Ok(Some(source))
            }
            _ => {
                let text = format!("source \"{}\" cannot be had by a front end", source.identifier);
                Err(Status::new(code::PERMISSION_DENIED, text))
            }
        }
    }

    /// A graph that is all there: without what would have to be read first.
    pub(super) async fn admit_flat(&self, definition: Definition) -> Result<Solved, Status> {
        let here = match with_sources(&definition, |_: &Op, source| self.allowed(source)) {
            Ok(changed) => changed.into_owned(),
            Err((_, status)) => return Err(status),
        };
        // What makes no sense is the front end's mistake, before anybody is asked about sources.
        here.graph().map_err(|e| Status::new(code::INVALID_ARGUMENT, e.to_string()))?;
        self.allow(here, definition).await
    }

    /// A graph in the words of this machine, and in the front end's, if policies and entitlements let it pass.
    pub(super) async fn allow(&self, definition: Definition, told: Definition) -> Result<Solved, Status> {
        let graph = self.job.gate.graph(&definition).await.map_err(|e| self.build_error(e))?;
        self.job.request.entitlements.check(&graph).map_err(|e| self.build_error(e))?;
        Ok(Solved { definition: Arc::new(definition), told: Arc::new(told), graph: Arc::new(graph) })
    }

    /// The same definition in words that name nothing of this machine: [`Self::allowed`], backwards.
    pub(super) fn outward(&self, definition: &Definition) -> Definition {
        let path = |identifier: &str| {
            let rest = identifier.strip_prefix("oci-layout://")?;
            let rest = rest.split('@').next()?;
            Some(rest.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')).map_or(rest, |(path, _)| path).to_owned())
        };
        let renamed = |_: &Op, source: &SourceOp| {
            let Some(own) = path(&source.identifier) else { return Ok(None) };
            let layout = self.layouts.iter().find(|layout| path(&layout.value).as_ref() == Some(&own));
            let name = layout.map_or("layout", |layout| &layout.name);
            let pin = source.identifier.split_once('@').map(|(_, pin)| format!("@{pin}")).unwrap_or_default();
            Ok::<_, Infallible>(Some(SourceOp { identifier: format!("oci-layout://{name}{pin}"), ..source.clone() }))
        };
        match with_sources(definition, renamed) {
            Ok(changed) => changed.into_owned(),
            Err((_, never)) => match never {},
        }
    }

    /// The inputs that one front end gives another, in the words of this machine.
    async fn inputs(&self, inputs: BTreeMap<String, Definition>) -> Result<BTreeMap<String, Definition>, Status> {
        let mut checked = BTreeMap::new();
        for (name, input) in inputs {
            checked.insert(name, (*self.admit(input).await?.definition).clone());
        }
        Ok(checked)
    }

    pub(super) async fn look<T: Send + 'static>(
        &self,
        graph: &Arc<Graph>,
        path: &str,
        look: impl FnOnce(&CopySource, &str) -> io::Result<T> + Send + 'static,
    ) -> Result<T, Status> {
        let (at, shown) = (path.to_owned(), path.to_owned());
        let looked = self.job.solver.inspect(graph, move |source| look(source, &at)).await;
        let looked = looked.map_err(|e| self.told(e))?;
        match looked.unwrap_or_else(|| Err(io::ErrorKind::NotFound.into())) {
            Ok(found) => Ok(found),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                Err(Status::new(code::NOT_FOUND, format!("open {shown}: no such file or directory")))
            }
            Err(e) => Err(Status::new(code::UNKNOWN, format!("open {shown}: {e}"))),
        }
    }
}

fn host_error(error: HostError) -> Status {
    Status::new(code::UNKNOWN, error.message)
}

fn told(entry: Entry) -> Stat {
    Stat {
        path: entry.name.to_string_lossy().into_owned(),
        mode: go_mode(entry.mode),
        uid: entry.uid,
        gid: entry.gid,
        size: i64::try_from(entry.size).unwrap_or(i64::MAX),
        mod_time: entry.mtime,
        linkname: entry.link.to_string_lossy().into_owned(),
        devmajor: entry.device.0.into(),
        devminor: entry.device.1.into(),
    }
}

#[async_trait::async_trait]
impl GatewayHost for FrontHost<'_> {
    fn platforms(&self) -> &[Platform] {
        &self.platforms
    }

    async fn admit(&self, definition: Definition) -> Result<Solved, Status> {
        let invalid = |text: String| Status::new(code::INVALID_ARGUMENT, text);
        if definition.pb.def.len() > MAX_OPS {
            return Err(invalid(format!("a definition of more than {MAX_OPS} operations")));
        }
        strict::check(&definition).map_err(invalid)?;
        if !nested::has_nested(&definition) {
            return self.admit_flat(definition).await;
        }
        let solved = self.admit_flat(self.expanded(&definition).await?).await?;
        Ok(Solved { told: Arc::new(definition), ..solved })
    }

    async fn evaluate(&self, graph: &Arc<Graph>) -> Result<(), Status> {
        self.job.solver.evaluate(graph).await.map_err(|e| self.told(e))
    }

    async fn read_file(&self, graph: &Arc<Graph>, path: &str, (offset, most): (u64, u64)) -> Result<Vec<u8>, Status> {
        self.look(graph, path, move |source, path| look::read(source, path, offset, most)).await
    }

    async fn read_dir(&self, graph: &Arc<Graph>, path: &str, pattern: Option<&str>) -> Result<Vec<Stat>, Status> {
        let bad = |_| Status::new(code::INVALID_ARGUMENT, "ReadDir: a malformed pattern");
        let pattern = pattern.map(|text| Glob::new(text.as_bytes())).transpose().map_err(bad)?;
        let entries = self.look(graph, path, look::entries).await?;
        if entries.len() > MAX_ENTRIES {
            let text = format!("{path} has more than {MAX_ENTRIES} entries");
            return Err(Status::new(code::RESOURCE_EXHAUSTED, text));
        }
        let shown = |entry: &Entry| pattern.as_ref().is_none_or(|p| p.matches(entry.name.as_encoded_bytes()));
        Ok(entries.into_iter().filter(shown).map(told).collect())
    }

    async fn stat(&self, graph: &Arc<Graph>, path: &str) -> Result<Stat, Status> {
        Ok(told(self.look(graph, path, look::entry).await?))
    }

    async fn resolve_image(&self, asked: SourceOp, platform: &Platform) -> Result<(SourceOp, ResolvedImage), Status> {
        let here = self.allowed(&asked)?;
        let source = here.clone().unwrap_or_else(|| asked.clone());
        let used = self.job.gate.source(&source, platform, true).await.map_err(host_error)?;
        let mut found = self.job.host.known(&used, platform).await.map_err(host_error)?;
        let same = used.identifier == source.identifier;
        found.converted = (!same).then(|| used.identifier.clone());
        // Where a layout is on this machine is nobody's business.
        Ok((if same { asked } else { used }, found))
    }

    async fn pin(&self, source: SourceOp, platform: &Platform) -> Result<PinnedSource, Status> {
        let source = self.allowed(&source)?.unwrap_or(source);
        let used = self.job.gate.source(&source, platform, false).await.map_err(host_error)?;
        let pinned = self.job.solver.source_pin(&used).await.map_err(|e| self.told(e))?;
        let (checksum, reference) = match &pinned {
            Some(pinned) => (policy::checksum(&used, pinned.as_ref()), pinned.reference()),
            None => (String::new(), None),
        };
        Ok(PinnedSource { source: used, checksum, reference: reference.unwrap_or_default() })
    }

    async fn front_end(
        &self,
        name: &str,
        options: BTreeMap<String, String>,
        inputs: BTreeMap<String, Definition>,
    ) -> Result<Answer, Status> {
        if name == BUILT_IN {
            let inputs = self.inputs(inputs).await?;
            return self.built_in(&options, inputs).await;
        }
        if name != "gateway.v0" {
            return Err(Status::new(code::INVALID_ARGUMENT, format!("Solve: there is no front end {name}")));
        }
        if self.depth >= MAX_DEPTH {
            let text = format!("Solve: front ends ask front ends, {MAX_DEPTH} deep");
            return Err(Status::new(code::RESOURCE_EXHAUSTED, text));
        }
        let image = options.get("source").filter(|image| !image.is_empty());
        let image = image.ok_or_else(|| Status::new(code::INVALID_ARGUMENT, "no source specified for gateway"))?;
        let reference: Reference = image
            .parse()
            .map_err(|e| Status::new(code::INVALID_ARGUMENT, format!("\"{image}\" is no image of a front end: {e}")))?;
        let checked = self.inputs(inputs).await?;
        let nested = FrontHost {
            job: self.job,
            layouts: self.layouts.clone(),
            platforms: self.platforms.clone(),
            failures: Mutex::default(),
            depth: self.depth + 1,
        };
        let identifier = format!("docker-image://{reference}");
        let name = reference.familiar();
        let program = Program { identifier: &identifier, name: &name };
        let (answer, _) = nested.run(&program, &options, checked).await.map_err(|e| self.build_error(e))?;
        Ok(answer)
    }

    async fn open_container(
        &self,
        request: NewContainerRequest,
        mounts: Vec<(Mount, Option<Arc<Graph>>)>,
    ) -> Result<Arc<dyn GatewayContainer>, Status> {
        self.container(request, mounts).await
    }

    fn warn(&self, warning: Warning) {
        self.job.builder.events.send(Event::Warning(warning));
    }
}
