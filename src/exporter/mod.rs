//! Layer 9: outputs (SPEC B3, C6): registry, OCI and Docker archives, directories, tars, the store.
//!
//! [`spec`] parses what the user asked for, [`image`] turns a chain of layers and a config into blobs and a manifest,
//! [`assembly`] puts an index over those of several platforms, the other files write them somewhere. Everything is
//! prepared first: blobs in registries, files under temporary names. Names (tags, `index.json`, final file names) come
//! last, when every output is ready.

mod ahead;
pub mod annotations;
pub mod assembly;
pub mod cache;
mod files;
pub mod image;
pub mod layout;
mod load;
pub mod mounts;
mod push;
pub mod shape;
pub mod spec;
mod staging;

use std::collections::BTreeMap;
use std::path::Path;

pub use ahead::Ahead;
pub use spec::{Dest, EpochChoice, OutputKind, OutputSpec, SpecError};

use crate::archive::{ArchiveError, LayerOptions};
use crate::attest::Attestation;
use crate::base::events::Outcome;
use crate::base::{Digest, Events, FaultKind, PathError};
use crate::engine::EngineError;
use crate::exec::file::FileOpError;
use crate::oci::{Descriptor, ImageConfig, Platform, Reference};
use crate::registry::{Client, RegistryError};
use crate::source::SourceError;
use crate::source::image::ImageSource;
use crate::store::{LayerId, MountRequest, Store, StoreError};

/// What exporters work with.
pub struct ExportContext<'a> {
    /// Where the layers are.
    pub store: &'a Store,
    /// Talks to registries.
    pub client: &'a Client,
    /// Fetches layers that were never read.
    pub source: &'a ImageSource,
    /// Where progress goes.
    pub events: &'a Events,
    /// `SOURCE_DATE_EPOCH` in seconds (SPEC C6.09).
    pub epoch: Option<i64>,
    /// Threads for compression.
    pub threads: usize,
}

/// One platform's result.
#[derive(Debug, Clone)]
pub struct ImageResult {
    /// Its platform.
    pub platform: Platform,
    /// Its layers, bottom first.
    pub chain: Vec<LayerId>,
    /// Its config; `rootfs` is filled in here.
    pub config: ImageConfig,
    /// How many of the layers came with the base image.
    pub base_layers: usize,
    /// The time that the front end dated the image by, in seconds since 1970. An output that switches its own epoch off keeps it, and
    /// leaves file times alone (SPEC A4.18, C6.09).
    pub dated: Option<i64>,
    /// What is said about it.
    pub attestations: Vec<Attestation>,
    /// Annotations of its manifest that came with the base image; those of an output go before them.
    pub annotations: BTreeMap<String, String>,
}

/// What a build made: one image per platform.
#[derive(Debug, Clone)]
pub struct BuildResult {
    /// In the order asked for; never empty.
    pub images: Vec<ImageResult>,
    /// Outputs show several platforms: an index, a directory for each. Also true for one platform with
    /// `BUILDKIT_MULTI_PLATFORM` (SPEC A4.17).
    pub multi: bool,
}

/// What one image output made (SPEC B2.16, C3.21).
#[derive(Debug, Clone)]
pub struct ExportReport {
    /// The manifest or index.
    pub descriptor: Descriptor,
    /// The image config: the image ID. An index has none.
    pub config: Option<Digest>,
    /// RFC 3339 time of the image; empty if it has none.
    pub created: String,
    /// Names it was given.
    pub names: Vec<String>,
    /// Its documents: index, manifests, configs, statements; with their platforms.
    pub parts: Vec<assembly::Document>,
}

impl ExportReport {
    /// The image ID: digest of the config, or of the index (SPEC B2.12).
    #[must_use]
    pub fn id(&self) -> &Digest {
        self.config.as_ref().unwrap_or(&self.descriptor.digest)
    }
}

/// Why an output failed.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The output as asked for makes no sense with this result.
    #[error("{0}")]
    Usage(String),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A layer could not be written or read.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// Files could not be written.
    #[error(transparent)]
    Files(#[from] FileOpError),
    /// A base layer could not be fetched.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Docker or podman.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The destination.
    #[error(transparent)]
    Io(#[from] PathError),
    /// A defect.
    #[error("{0}")]
    Internal(String),
}

impl ExportError {
    fn io(attempt: &'static str, path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        move |error| Self::Io(PathError::at(attempt, path)(error))
    }

    /// For the exit code.
    #[must_use]
    pub fn kind(&self) -> FaultKind {
        match self {
            Self::Usage(_) => FaultKind::Usage,
            Self::Store(e) => e.kind(),
            Self::Registry(e) => e.kind(),
            Self::Archive(e) => e.kind(),
            Self::Files(_) => FaultKind::Store,
            Self::Source(e) => e.kind(),
            Self::Engine(e) => e.kind(),
            Self::Io(e) => e.kind(),
            Self::Internal(_) => FaultKind::Internal,
        }
    }

    /// The remedy, where known.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Store(e) => e.hint(),
            Self::Registry(e) => e.hint(),
            Self::Source(e) => e.hint(),
            Self::Engine(e) => e.hint(),
            _ => None,
        }
    }
}

/// How all of `specs` want new layers, if they want blobs, all want the same, and times stay as they are.
#[must_use]
pub fn wanted_layers(specs: &[OutputSpec], threads: usize) -> Option<LayerOptions> {
    let (first, others) = specs.split_first()?;
    let blobs = |spec: &OutputSpec| spec.kind.is_image() && !spec.unpack && !spec.image.rewrite_timestamp;
    let wants = |spec: &OutputSpec| (spec.image.codec, spec.image.level);
    if !specs.iter().all(blobs) || others.iter().any(|spec| wants(spec) != wants(first)) {
        return None;
    }
    let (codec, level) = wants(first);
    Some(LayerOptions { codec, level, threads, ..LayerOptions::default() })
}

/// Finds out whether the pushes among `specs` will be allowed. Only a refusal counts: a registry that cannot be reached
/// now may well be there when the build is done.
///
/// # Errors
/// The first refusal.
pub async fn check_pushes(client: &Client, events: &Events, specs: &[OutputSpec]) -> Result<(), ExportError> {
    let mut repositories: BTreeMap<String, &Reference> = BTreeMap::new();
    for spec in specs.iter().filter(|spec| spec.kind == OutputKind::Image && spec.push && !spec.unasked) {
        for name in &spec.names {
            if spec.insecure {
                client.set_insecure(&name.domain);
            }
            repositories.insert(name.repository(), name);
        }
    }
    let checks = repositories.into_values().map(|name| async move {
        match client.check_push(name).await {
            Err(error) if error.kind() == FaultKind::Auth || error.is_not_found() => Err(ExportError::from(error)),
            Err(error) => {
                events.notice("push-check", format!("whether the push will be allowed is not known yet: {error}"));
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    });
    futures_util::future::try_join_all(checks).await.map(drop)
}

/// An output that is complete but for its name.
enum Ready {
    /// A file.
    File(staging::StagedFile),
    /// An OCI or Docker archive.
    Archive(Box<layout::StagedArchive>),
    /// A directory tree.
    Tree(staging::StagedTree),
    /// A layout directory.
    Layout(layout::StagedLayout),
    /// Work that shows at once: standard output.
    Later(Box<dyn FnOnce() -> Result<(), ExportError> + Send>),
    /// An archive for docker or podman.
    Load(Box<load::Load>),
    /// Pushed blobs.
    Push(Box<push::Pushed>),
    /// Nothing to publish.
    Nothing,
}

/// One output between preparation and publication.
struct Job<'a> {
    spec: &'a OutputSpec,
    id: Digest,
    ready: Ready,
    assembly: Option<assembly::Assembly>,
    names: Vec<Reference>,
}

/// Writes every output. Prepares them all before it publishes any, pushes last.
///
/// # Errors
/// The first failure. If it comes up during preparation, nothing was published and the old files are as they were.
pub async fn export(
    context: &ExportContext<'_>,
    result: &BuildResult,
    specs: &[OutputSpec],
) -> Result<Vec<ExportReport>, ExportError> {
    let mut jobs: Vec<Job<'_>> = Vec::new();
    // Images of the same make are assembled once.
    let mut assembled: BTreeMap<String, assembly::Assembly> = BTreeMap::new();
    let mut failed = None;
    for (at, spec) in specs.iter().enumerate() {
        let name = spec.title();
        let id = Digest::sha256(format!("{at} {name}"));
        context.events.vertex(&id, name, Vec::new());
        context.events.started(&id);
        match prepare(context, result, spec, &id, &mut assembled).await {
            Ok(job) => jobs.push(job),
            Err(error) => {
                context.events.completed(&id, Outcome::Failed(error.to_string()));
                failed = Some(error);
                break;
            }
        }
    }
    if failed.is_none() {
        // A registry is seen by others and cannot be undone: it comes last.
        jobs.sort_by_key(|job| matches!(job.ready, Ready::Push(_)));
    }
    let mut reports: Vec<(usize, ExportReport)> = Vec::new();
    for job in jobs {
        if failed.is_some() {
            context.events.completed(&job.id, Outcome::Canceled);
            continue;
        }
        let (id, spec) = (job.id.clone(), job.spec);
        match publish(context, job).await {
            Ok(report) => {
                context.events.completed(&id, Outcome::Done);
                let at = specs.iter().position(|s| std::ptr::eq(s, spec)).unwrap_or_default();
                reports.extend(report.map(|r| (at, r)));
            }
            Err(error) => {
                context.events.completed(&id, Outcome::Failed(error.to_string()));
                failed = Some(error);
            }
        }
    }
    reports.sort_by_key(|(at, _)| *at);
    match failed {
        Some(error) => Err(error),
        None => Ok(reports.into_iter().map(|(_, report)| report).collect()),
    }
}

async fn prepare<'a>(
    context: &ExportContext<'_>,
    result: &BuildResult,
    spec: &'a OutputSpec,
    id: &Digest,
    assembled: &mut BTreeMap<String, assembly::Assembly>,
) -> Result<Job<'a>, ExportError> {
    let said = result.images.iter().flat_map(|image| &image.attestations);
    let attests = said.clone().any(|a| spec.takes(a.inline_only, a.unasked));
    spec.check_index(result.multi || attests).map_err(|e| ExportError::Usage(e.0))?;
    let job = |ready| Job { spec, id: id.clone(), ready, assembly: None, names: Vec::new() };
    match spec.kind {
        OutputKind::CacheOnly => return Ok(job(Ready::Nothing)),
        OutputKind::Local => return files::local(context, result, spec, id).await.map(job),
        OutputKind::Tar => return files::tar(context, result, spec, id).await.map(job),
        _ => {}
    }
    let platforms: Vec<Platform> = result.images.iter().map(|i| i.platform.clone()).collect();
    if let Some(stray) = spec.image.annotations.stray(&platforms) {
        context.events.notice("annotations", format!("annotations for {stray} have no effect: it is not built"));
    }
    let taken: Vec<bool> = said.map(|a| spec.takes(a.inline_only, a.unasked)).collect();
    // Statements name the image.
    let named = spec.names.iter().filter(|_| attests).collect::<Vec<_>>();
    let key = format!("{:?} {taken:?} {named:?} {}", spec.image, spec.append);
    if !assembled.contains_key(&key) {
        let made = assembly::assemble(context, result, spec, id).await?;
        assembled.insert(key.clone(), made);
    }
    let made = assembled.get(&key).ok_or_else(|| ExportError::Internal("an image vanished".into()))?;
    let names = names(spec, &made.root().descriptor.digest)?;
    let ready = match (spec.kind, &spec.engine) {
        (OutputKind::Docker, Some(endpoint)) => load::prepare(context, made, endpoint, &names, id).await?,
        (OutputKind::Oci | OutputKind::Docker, _) => layout::prepare(context, made, spec, &names, id).await?,
        _ if spec.push => Ready::Push(Box::new(push::prepare(context, made, spec, &names, id).await?)),
        _ => Ready::Nothing,
    };
    if spec.kind == OutputKind::Image && spec.unpack {
        for image in &result.images {
            fetch(context, &image.chain, id).await?;
            let (store, chain) = (context.store.clone(), image.chain.clone());
            blocking(move || Ok(store.mount(&chain, &MountRequest::read_only()).map(drop)?)).await?;
        }
        context.events.progress(id, "unpacking", 0, None, true);
    }
    Ok(Job { assembly: Some(made.clone()), names, ..job(ready) })
}

/// The names of an image: those asked for, and the one it has by its digest (SPEC C6.01).
fn names(spec: &OutputSpec, digest: &Digest) -> Result<Vec<Reference>, ExportError> {
    let mut names = spec.names.clone();
    if let Some(prefix) = &spec.dangling_prefix
        && (names.is_empty() || !spec.dangling_empty_only)
    {
        let name = format!("{prefix}@{digest}").parse();
        names.push(name.map_err(|e| ExportError::Usage(format!("dangling-name-prefix: {e}")))?);
    }
    Ok(names)
}

async fn publish(context: &ExportContext<'_>, job: Job<'_>) -> Result<Option<ExportReport>, ExportError> {
    let Job { spec, id, ready, assembly, mut names } = job;
    match ready {
        Ready::File(file) => blocking(move || file.publish()).await?,
        Ready::Archive(archive) => blocking(move || archive.publish()).await?,
        Ready::Tree(tree) => blocking(move || tree.publish()).await?,
        Ready::Layout(layout) => blocking(move || layout.publish()).await?,
        Ready::Later(work) => blocking(work).await?,
        Ready::Load(load) => load.publish(context, &id).await?,
        Ready::Push(pushed) => pushed.publish(context, &id).await?,
        Ready::Nothing => {}
    }
    let Some(mut assembly) = assembly else { return Ok(None) };
    let mut turn = None;
    if spec.append {
        let store = context.store.clone();
        turn = Some(blocking(move || Ok(store.lock_names()?)).await?);
        assembly = assembly::with_kept(context, spec, assembly).await?;
        names = self::names(spec, &assembly.root().descriptor.digest)?;
    }
    let descriptor = assembly.root().descriptor;
    if spec.kind == OutputKind::Image && spec.store {
        keep(context, &descriptor, &names, spec.name_canonical, &id).await?;
    }
    drop(turn);
    let names = names.iter().map(Reference::to_string).collect();
    let (config, created, parts) = (assembly.config(), assembly.created(), assembly.parts());
    Ok(Some(ExportReport { descriptor, config, created, names, parts }))
}

/// Keeps the image in the store under its names.
async fn keep(
    context: &ExportContext<'_>,
    descriptor: &Descriptor,
    names: &[Reference],
    canonical: bool,
    id: &Digest,
) -> Result<(), ExportError> {
    for name in names {
        let pinned = (canonical && name.digest.is_none()).then(|| name.with_digest(descriptor.digest.clone()));
        for name in std::iter::once(name.clone()).chain(pinned) {
            let shown = format!("naming to {name}");
            let (store, descriptor) = (context.store.clone(), descriptor.clone());
            blocking(move || Ok(store.tag_image(&name, &descriptor)?)).await?;
            context.events.progress(id, shown, 0, None, true);
        }
    }
    Ok(())
}

/// Runs blocking work off the async threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ExportError> + Send + 'static,
) -> Result<T, ExportError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(panic) => Err(ExportError::Internal(format!("a task ended unexpectedly: {panic}"))),
    }
}

/// Fetches layers that nothing has read so far.
async fn fetch(context: &ExportContext<'_>, chain: &[LayerId], id: &Digest) -> Result<(), ExportError> {
    Ok(context.source.ensure_local(chain, Some(id)).await?)
}
