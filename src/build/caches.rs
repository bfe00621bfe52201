//! Caches of other machines around a build: read beside everything else, written when the outputs are safe.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::FutureExt as _;

use super::writable::Writable;
use super::{BuildError, BuildRequest, Builder, internal};
use crate::base::Events;
use crate::base::events::Outcome;
use crate::cache::backend::gha::GhaCache;
use crate::cache::backend::local::LocalCache;
use crate::cache::backend::object::ObjectCache;
use crate::cache::backend::registry::RegistryCache;
use crate::cache::backend::{CacheBackend, DocumentForm};
use crate::cache::import::Import;
use crate::cache::mounts::{Document, MountChoice, opened_id};
use crate::cache::spec::{ExportSpec, ImportSpec, Location};
use crate::exporter::ExportContext;
use crate::exporter::cache::{self, CacheTarget};
use crate::exporter::mounts::{self, WantedMount};
use crate::llb::Graph;
use crate::llb::op::Kind;
use crate::oci::{Descriptor, ImageConfig};
use crate::solver::{LoadingImports, LoadingMounts, SavedMounts, Solver};

/// How long reading a cache may take, all in all.
const IMPORT_DEADLINE: Duration = Duration::from_secs(20);

impl Builder {
    /// Begins to read the caches, and the lists of the cache mounts that are wanted of them.
    pub(super) fn imports(
        &self,
        specs: &[ImportSpec],
        patience: Duration,
    ) -> (Option<LoadingImports>, Option<LoadingMounts>) {
        let read = |spec: &ImportSpec| self.backend(&spec.location, DocumentForm::default(), false, true);
        let backends: Vec<_> = specs.iter().filter_map(|spec| Some((spec, Arc::from(read(spec)?)))).collect();
        let loading = LoadingImports::new(backends.len(), patience);
        let mut lists = Vec::new();
        for (order, (spec, backend)) in backends.into_iter().enumerate() {
            let backend: Arc<dyn CacheBackend> = backend;
            let load = import(Arc::clone(&backend), loading.clone(), self.events.clone());
            let load = tokio::spawn(young(load, spec.max_age));
            let arriving = loading.clone();
            let load = tokio::spawn(async move {
                let found = load.await.unwrap_or_default();
                let usable = found.is_some();
                arriving.arrive(order, found.unwrap_or_default());
                usable
            });
            if !spec.mounts.is_none() {
                let list = saved_mounts(backend, spec.mounts.clone(), self.events.clone());
                // What is wrong with a cache is said once.
                lists.push(tokio::spawn(async move { load.await.unwrap_or_default().then_some(list)?.await }));
            }
        }
        let imports = (!specs.is_empty()).then_some(loading);
        let mounts = (!lists.is_empty()).then(|| {
            let all = async move {
                let mut found = Vec::new();
                for list in lists {
                    found.extend(list.await.unwrap_or_default());
                }
                Arc::new(found)
            };
            all.boxed().shared()
        });
        (imports, mounts)
    }

    /// The caches that are going to be written; from now on they are asked whether they can be.
    pub(super) fn exports<'a>(&self, request: &'a BuildRequest) -> Vec<(&'a ExportSpec, Writable)> {
        let write = |spec: &'a ExportSpec| {
            let backend = self.backend(&spec.location, spec.form, spec.reset, false)?;
            Some((spec, Writable::new(backend.into())))
        };
        request.cache_to.iter().filter_map(write).collect()
    }

    /// Writes the caches. A failure is an error unless it is to be ignored; the outputs are safe in any case. Gives the
    /// document of the last one that has one.
    pub(super) async fn export_caches(
        &self,
        exports: Vec<(&ExportSpec, Writable)>,
        solver: &Arc<Solver>,
        graphs: &[Arc<Graph>],
        context: &ExportContext<'_>,
    ) -> Result<Option<Descriptor>, BuildError> {
        let (mut solved, mut document) = (None, None);
        for (spec, writable) in exports {
            let graph = match &mut solved {
                Some(graph) => graph,
                None => solved.insert(solver.collect(graphs).await?),
            };
            let checked = writable.check(spec.options.ignore_error).await;
            let target = CacheTarget { backend: Arc::clone(&writable.backend), options: spec.options.clone() };
            let mut exported = cache::export(context, graph, &target, checked).await;
            if exported.is_ok() && !spec.mounts.is_none() {
                let wanted = wanted_mounts(spec, solver, graphs);
                let mounts = mounts::export(context, target.backend.as_ref(), &wanted, spec.mounts_cap).await;
                exported = mounts.and(exported);
            }
            match exported {
                Ok(written) => document = written.or(document),
                Err(error) if spec.options.ignore_error => self.events.warning(error.to_string()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(document)
    }

    /// What reads (`hasty`) or writes a cache; `None` for the inline one, which is written with the image.
    fn backend(
        &self,
        location: &Location,
        form: DocumentForm,
        reset: bool,
        hasty: bool,
    ) -> Option<Box<dyn CacheBackend>> {
        let client = if hasty { &self.hasty } else { &self.caching };
        Some(match location {
            Location::Registry { reference, insecure } => {
                // Layers are fetched by whoever reads them, with either client.
                if *insecure {
                    for client in [&self.client, &self.hasty, &self.caching] {
                        client.set_insecure(&reference.domain);
                    }
                }
                Box::new(RegistryCache::new(client.clone(), reference.clone(), form))
            }
            Location::Local { dir, entry } => Box::new(LocalCache::new(dir.clone(), entry.clone(), form, reset)),
            // Layers are fetched from where they are by whoever reads them.
            Location::Object(service) => {
                let cache = ObjectCache::new(client.clone(), service.clone(), hasty);
                if hasty {
                    self.images.add_place(&cache.place().host, &cache.place().repository, Arc::new(cache.clone()));
                }
                Box::new(cache)
            }
            Location::Gha(options) => {
                let cache = GhaCache::new(client.clone(), options.clone());
                if hasty {
                    self.images.add_place(&cache.place().host, &cache.place().repository, Arc::new(cache.clone()));
                }
                Box::new(cache)
            }
            Location::Inline => return None,
        })
    }
}

/// Puts the records of an inline cache into an image's config, if one was asked for.
pub(super) async fn inline(
    request: &BuildRequest,
    solver: &Arc<Solver>,
    graph: &Arc<Graph>,
    config: &mut ImageConfig,
) -> Result<(), BuildError> {
    let wanted = request.cache_to.iter().any(|spec| spec.location == Location::Inline);
    let solved = if wanted { Some(solver.collect(std::slice::from_ref(graph)).await?) } else { None };
    cache::inline(config, solved.as_ref());
    Ok(())
}

/// The cache mounts that the graphs name and `spec` wants.
fn wanted_mounts(spec: &ExportSpec, solver: &Arc<Solver>, graphs: &[Arc<Graph>]) -> Vec<WantedMount> {
    let vertices = graphs.iter().flat_map(|graph| graph.vertices.values());
    let named = vertices.flat_map(|vertex| {
        let mounts = match &vertex.op.kind {
            Some(Kind::Exec(exec)) => exec.mounts.as_slice(),
            _ => &[],
        };
        mounts.iter().filter_map(|mount| opened_id(vertex, mount))
    });
    let ids: BTreeSet<String> = named.filter(|id| spec.mounts.wants(id)).collect();
    let opened = solver.opened_mounts();
    ids.into_iter().map(|id| WantedMount { opened: opened.contains(&id), id }).collect()
}

/// Reads one cache; `None` if that is not possible. Trouble is said once and is a miss (SPEC C7.10).
async fn import(backend: Arc<dyn CacheBackend>, loading: LoadingImports, events: Events) -> Option<Vec<Import>> {
    let title = backend.title();
    let id = internal(&events, &format!("importing cache manifest from {title}"));
    let loaded = tokio::select! {
        biased;
        loaded = tokio::time::timeout(IMPORT_DEADLINE, backend.load()) => Some(loaded),
        () = loading.over() => None,
    };
    let trouble = match loaded {
        Some(Ok(Ok(imports))) => {
            let records: usize = imports.iter().map(Import::len).sum();
            events.progress(&id, format!("{records} records"), 0, None, true);
            events.completed(&id, Outcome::Done);
            return Some(imports);
        }
        Some(Ok(Err(error))) => error.to_string(),
        Some(Err(_)) => slow(),
        None if loading.were_asked_for() => "it had not answered when the build was done".to_owned(),
        // Everything was here.
        None => {
            events.completed(&id, Outcome::Canceled);
            return None;
        }
    };
    events.completed(&id, Outcome::Failed(trouble.clone()));
    events.warning(format!("cache {title} is not used: {trouble}"));
    None
}

/// What is not older than `max_age` of the caches that come.
async fn young(load: impl Future<Output = Option<Vec<Import>>>, max_age: Option<Duration>) -> Option<Vec<Import>> {
    let mut imports = load.await?;
    if let Some(moment) = max_age.and_then(|age| SystemTime::now().checked_sub(age)) {
        imports.iter_mut().for_each(|import| import.forget_before(moment));
    }
    Some(imports)
}

/// Reads the list of one cache's mounts. There may be none.
async fn saved_mounts(backend: Arc<dyn CacheBackend>, wanted: MountChoice, events: Events) -> Option<SavedMounts> {
    let place = backend.mounts()?;
    let title = format!("the cache mounts of {}", backend.title());
    let read = tokio::time::timeout(IMPORT_DEADLINE, place.load_mounts(false)).await;
    let document = match read {
        Ok(Ok(bytes)) => Document::decode(&title, &bytes).map_err(|e| e.to_string()),
        Ok(Err(error)) if error.missing => return None,
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(slow()),
    };
    match document {
        Ok(document) => Some(SavedMounts { title: backend.title(), place: place.place(), wanted, document }),
        Err(trouble) => {
            events.warning(format!("{title} are not used: {trouble}"));
            None
        }
    }
}

fn slow() -> String {
    format!("no complete answer within {} seconds", IMPORT_DEADLINE.as_secs())
}
