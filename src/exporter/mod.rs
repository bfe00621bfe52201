//! Layer 7: outputs (SPEC B3, C6): registry, OCI and Docker archives, directories, tars, the store.
//!
//! [`spec`] parses what the user asked for, [`image`] turns a chain of layers and a config into blobs and a manifest,
//! the other files write them somewhere. Blobs may be written early; names (tags, `index.json`, final file names) come
//! last, when everything else has succeeded.

mod files;
pub mod image;
mod layout;
mod push;
pub mod spec;

use std::collections::BTreeMap;
use std::path::PathBuf;

pub use spec::{Dest, OutputKind, OutputSpec, SpecError};

use crate::archive::ArchiveError;
use crate::base::events::Outcome;
use crate::base::{Digest, Events, FaultKind};
use crate::exec::file::FileOpError;
use crate::oci::{Descriptor, ImageConfig, Platform, Reference};
use crate::registry::{Client, RegistryError};
use crate::source::image::ImageSource;
use crate::store::{LayerId, Store, StoreError};

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
}

/// What one image output made (SPEC B2.16, C3.21).
#[derive(Debug, Clone)]
pub struct ExportReport {
    /// The manifest.
    pub descriptor: Descriptor,
    /// The image config: the image ID.
    pub config: Digest,
    /// Names it was given.
    pub names: Vec<String>,
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
    #[error("{message}")]
    Source {
        /// For the exit code.
        kind: FaultKind,
        /// One line.
        message: String,
        /// The remedy, where known.
        hint: Option<String>,
    },
    /// The destination.
    #[error("failed to {attempt} {path}: {error}")]
    Io {
        /// What was attempted.
        attempt: &'static str,
        /// Where.
        path: PathBuf,
        /// The system's reason.
        error: std::io::Error,
    },
    /// A defect.
    #[error("{0}")]
    Internal(String),
}

impl ExportError {
    fn io(attempt: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |error| Self::Io { attempt, path, error }
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
            Self::Source { kind, .. } => *kind,
            Self::Io { error, .. } => FaultKind::of_io(error, FaultKind::Store),
            Self::Internal(_) => FaultKind::Internal,
        }
    }

    /// The remedy, where known.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Store(e) => e.hint(),
            Self::Registry(e) => e.hint(),
            Self::Source { hint, .. } => hint.clone(),
            _ => None,
        }
    }
}

/// Writes every output.
///
/// # Errors
/// The first failure; outputs written before it stay, the failed one leaves nothing.
pub async fn export(
    context: &ExportContext<'_>,
    results: &[ImageResult],
    specs: &[OutputSpec],
) -> Result<Vec<ExportReport>, ExportError> {
    let [result] = results else {
        return Err(ExportError::Usage("several platforms in one build are not supported yet".into()));
    };
    let mut reports = Vec::new();
    // Images of the same make are assembled once.
    let mut assembled: BTreeMap<String, image::Assembled> = BTreeMap::new();
    for spec in specs {
        let name = spec.title();
        let id = Digest::sha256(format!("{name}\n{spec:?}"));
        context.events.vertex(&id, name, Vec::new());
        context.events.started(&id);
        let outcome = one(context, result, spec, &id, &mut assembled).await;
        match &outcome {
            Ok(_) => context.events.completed(&id, Outcome::Done),
            Err(error) => context.events.completed(&id, Outcome::Failed(error.to_string())),
        }
        reports.extend(outcome?);
    }
    Ok(reports)
}

async fn one(
    context: &ExportContext<'_>,
    result: &ImageResult,
    spec: &OutputSpec,
    id: &Digest,
    assembled: &mut BTreeMap<String, image::Assembled>,
) -> Result<Option<ExportReport>, ExportError> {
    match spec.kind {
        OutputKind::CacheOnly => return Ok(None),
        OutputKind::Local => return files::local(context, result, spec, id).await.map(|()| None),
        OutputKind::Tar => return files::tar(context, result, spec, id).await.map(|()| None),
        _ => {}
    }
    let key = format!("{:?}", spec.image);
    if !assembled.contains_key(&key) {
        let image = image::assemble(context, result, &spec.image, id).await?;
        assembled.insert(key.clone(), image);
    }
    let image = assembled.get(&key).ok_or_else(|| ExportError::Internal("an image vanished".into()))?;
    match spec.kind {
        OutputKind::Oci => layout::oci(context, image, spec, id).await?,
        OutputKind::Docker => layout::docker(context, image, spec, id).await?,
        _ => {
            if spec.push {
                push::push(context, image, spec, id).await?;
            }
            if spec.store {
                keep(context, image, spec, id).await?;
            }
        }
    }
    let names = spec.names.iter().map(Reference::to_string).collect();
    Ok(Some(ExportReport { descriptor: image.described(), config: image.config.digest.clone(), names }))
}

/// Keeps the image in the store under its names.
async fn keep(
    context: &ExportContext<'_>,
    image: &image::Assembled,
    spec: &OutputSpec,
    id: &Digest,
) -> Result<(), ExportError> {
    for name in &spec.names {
        let (store, name, descriptor) = (context.store.clone(), name.clone(), image.described());
        let shown = format!("naming to {name}");
        blocking(move || Ok(store.tag_image(&name, &descriptor)?)).await?;
        context.events.progress(id, shown, 0, None, true);
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
    context.source.ensure_local(chain, Some(id)).await.map_err(|e| ExportError::Source {
        kind: e.kind(),
        message: e.to_string(),
        hint: e.hint(),
    })
}
