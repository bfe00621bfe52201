//! What a front end's calls are answered with: the build's own solver, behind the build's own policies and entitlements.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use super::Job;
use super::nested;
use super::process::Program;
use crate::base::Digest;
use crate::base::events::{Event, Warning};
use crate::build::{BuildError, config_title, policy};
use crate::dockerfile::pattern::Glob;
use crate::frontend::BUILT_IN;
use crate::frontend::gateway::exec::GatewayContainer;
use crate::frontend::gateway::{Answer, GatewayHost, PinnedSource, Solved, SourceQuery};
use crate::grpc::{Status, code};
use crate::llb::containers::NewContainerRequest;
use crate::llb::gateway::{AttestationChain, ChainBlob, ChainDescriptor, Stat};
use crate::llb::op::{Mount, Op, SourceOp};
use crate::llb::{Definition, Graph, HostError, ResolvedImage, strict, with_sources};
use crate::oci::{Descriptor, Platform, Reference};
use crate::solver::SolveError;
use crate::source::{Algorithm, Checksum};
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
            "docker-image" | "docker-image+blob" | "git" | "http" | "https" => Ok(None),
            "local" => {
                let known = ["local.session", "local.unique", "local.includepattern", "local.followpaths"];
                let more = ["local.excludepatterns", "local.sharedkeyhint", "local.differ"];
                let listed = ["local.metadatatransfer", "local.metadatatransferexclude"];
                let known = known.iter().chain(&more).chain(&listed);
                match source.attrs.keys().find(|name| !known.clone().any(|known| name == known)) {
                    None => Ok(None),
                    Some(name) => {
                        let text = format!("source \"{}\": attribute {name} means nothing here", source.identifier);
                        Err(Status::new(code::UNIMPLEMENTED, text))
                    }
                }
            }
            "oci-layout" | "oci-layout+blob" => {
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
                let whole = layout.value.split('@').next().unwrap_or(&layout.value);
                let identifier = match (scheme, pin) {
                    ("oci-layout+blob", Some(digest)) => format!("oci-layout+blob://{}@{digest}", directory(whole)),
                    ("oci-layout+blob", None) => {
                        let text = format!("source \"{}\": a blob has a digest", source.identifier);
                        return Err(Status::new(code::INVALID_ARGUMENT, text));
                    }
                    (_, Some(digest)) => format!("{whole}@{digest}"),
                    (_, None) => layout.value.clone(),
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
            let (scheme, _) = identifier.split_once("://")?;
            let layout = matches!(scheme, "oci-layout" | "oci-layout+blob");
            layout.then(|| directory(identifier.split('@').next().unwrap_or(identifier)).to_owned())
        };
        let renamed = |_: &Op, source: &SourceOp| {
            let Some(own) = path(&source.identifier) else { return Ok(None) };
            let scheme = source.identifier.split("://").next().unwrap_or_default();
            let layout = self.layouts.iter().find(|layout| path(&layout.value).as_ref() == Some(&own));
            let name = layout.map_or("layout", |layout| &layout.name);
            let pin = source.identifier.split_once('@').map(|(_, pin)| format!("@{pin}")).unwrap_or_default();
            Ok::<_, Infallible>(Some(SourceOp { identifier: format!("{scheme}://{name}{pin}"), ..source.clone() }))
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

/// The directory of a layout without a digest, `SCHEME://DIRECTORY[:TAG]`.
fn directory(layout: &str) -> &str {
    let rest = layout.split_once("://").map_or(layout, |(_, rest)| rest);
    rest.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')).map_or(rest, |(path, _)| path)
}

fn host_error(error: HostError) -> Status {
    Status::new(code::UNKNOWN, error.message)
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
        Ok(entries.into_iter().filter(shown).map(Entry::told).collect())
    }

    async fn stat(&self, graph: &Arc<Graph>, path: &str) -> Result<Stat, Status> {
        Ok(self.look(graph, path, look::entry).await?.told())
    }

    async fn resolve_image(
        &self,
        asked: SourceOp,
        platform: &Platform,
        title: &str,
    ) -> Result<(SourceOp, ResolvedImage), Status> {
        let here = self.allowed(&asked)?;
        let source = here.clone().unwrap_or_else(|| asked.clone());
        let title = match title {
            "" => config_title(&asked.identifier),
            title => title.to_owned(),
        };
        let used = self.job.gate.source(&source, platform, true).await.map_err(host_error)?;
        let mut found = self.job.host.known(&used, platform, &title).await.map_err(host_error)?;
        let same = used.identifier == source.identifier;
        found.converted = (!same).then(|| used.identifier.clone());
        // Where a layout is on this machine is nobody's business.
        Ok((if same { asked } else { used }, found))
    }

    async fn pin(&self, source: SourceOp, platform: &Platform, query: SourceQuery) -> Result<PinnedSource, Status> {
        let source = self.allowed(&source)?.unwrap_or(source);
        let used = self.job.gate.source(&source, platform, false).await.map_err(host_error)?;
        let solver = self.job.solver;
        let Some(pinned) = solver.source_pin(&used).await.map_err(|e| self.told(e))? else {
            return Ok(PinnedSource { source: used, ..PinnedSource::default() });
        };
        let objects = match query.objects {
            true => solver.source_objects(&used).await.map_err(|e| self.told(e))?,
            false => None,
        };
        let digest = match query.checksum {
            Some(wanted) => {
                let algorithm = match wanted.algo {
                    1 => Algorithm::Sha384,
                    2 => Algorithm::Sha512,
                    _ => Algorithm::Sha256,
                };
                let wanted = Checksum { algorithm, suffix: wanted.suffix };
                solver.source_checksum(&used, wanted).await.map_err(|e| self.told(e))?
            }
            None => None,
        };
        Ok(PinnedSource {
            checksum: policy::checksum(&used, pinned.as_ref()),
            reference: pinned.reference().unwrap_or_default(),
            tag: pinned.tag(),
            file: pinned.file().map(|file| (file.name, file.modified)),
            objects: objects.map(|objects| (objects.commit, objects.tag)),
            digest,
            source: used,
        })
    }

    async fn attested(
        &self,
        source: SourceOp,
        platform: &Platform,
        types: &[String],
    ) -> Result<Option<AttestationChain>, Status> {
        // It is the source as it is used: policies have said what they have to say to it.
        let used = self.allowed(&source)?.unwrap_or(source);
        let chain = self.job.host.images.attestation_chain(&used, platform, types).await;
        let Some(chain) = chain.map_err(|e| host_error(e.into()))? else { return Ok(None) };
        let blob = |(descriptor, data): (Descriptor, Bytes)| {
            let told = ChainDescriptor {
                media_type: descriptor.media_type,
                digest: descriptor.digest.to_string(),
                size: i64::try_from(descriptor.size).unwrap_or(i64::MAX),
                annotations: descriptor.annotations.into_iter().collect(),
            };
            (told.digest.clone(), ChainBlob { descriptor: Some(told), data: data.to_vec() })
        };
        Ok(Some(AttestationChain {
            root: chain.root.to_string(),
            image_manifest: chain.image.to_string(),
            attestation_manifest: chain.attestation.map(|digest| digest.to_string()).unwrap_or_default(),
            signature_manifests: chain.signatures.iter().map(ToString::to_string).collect(),
            blobs: chain.documents.into_iter().map(blob).collect(),
        }))
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
