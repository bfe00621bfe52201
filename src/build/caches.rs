//! Caches of other machines around a build: read beside everything else, written when the outputs are safe.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;

use super::{BuildError, BuildRequest, Builder, internal};
use crate::base::Events;
use crate::base::events::Outcome;
use crate::cache::backend::gha::GhaCache;
use crate::cache::backend::local::LocalCache;
use crate::cache::backend::object::ObjectCache;
use crate::cache::backend::registry::RegistryCache;
use crate::cache::backend::{CacheBackend, DocumentForm};
use crate::cache::import::{Import, Imports};
use crate::cache::spec::{ImportSpec, Location};
use crate::exporter::ExportContext;
use crate::exporter::cache::{self, CacheTarget};
use crate::llb::Graph;
use crate::oci::ImageConfig;
use crate::solver::{LoadingImports, Solver};

/// How long reading a cache may take, all in all.
const IMPORT_DEADLINE: Duration = Duration::from_secs(20);

impl Builder {
    /// Begins to read the caches.
    pub(super) fn imports(&self, specs: &[ImportSpec]) -> Option<LoadingImports> {
        if specs.is_empty() {
            return None;
        }
        let loads: Vec<_> = specs
            .iter()
            .filter_map(|spec| self.backend(&spec.location, DocumentForm::default(), false, true))
            .map(|backend| tokio::spawn(import(backend, self.events.clone())))
            .collect();
        let all = async move {
            let mut imports = Imports::default();
            for load in loads {
                imports.caches.extend(load.await.unwrap_or_default());
            }
            Arc::new(imports)
        };
        Some(all.boxed().shared())
    }

    /// Writes the caches. A failure is an error unless it is to be ignored; the outputs are safe in any case.
    pub(super) async fn export_caches(
        &self,
        request: &BuildRequest,
        solver: &Arc<Solver>,
        graphs: &[Arc<Graph>],
        context: &ExportContext<'_>,
    ) -> Result<(), BuildError> {
        let mut solved = None;
        for spec in &request.cache_to {
            let Some(backend) = self.backend(&spec.location, spec.form, spec.reset, false) else { continue };
            let graph = match &mut solved {
                Some(graph) => graph,
                None => solved.insert(solver.collect(graphs).await?),
            };
            let target = CacheTarget { backend, options: spec.options.clone() };
            match cache::export(context, graph, &target).await {
                Ok(()) => {}
                Err(error) if spec.options.ignore_error => self.events.warning(error.to_string()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// What reads (`hasty`) or writes a cache; `None` for the inline one, which is written with the image.
    fn backend(
        &self,
        location: &Location,
        form: DocumentForm,
        reset: bool,
        hasty: bool,
    ) -> Option<Box<dyn CacheBackend>> {
        let client = if hasty { &self.hasty } else { &self.client };
        Some(match location {
            Location::Registry { reference, insecure } => {
                // Layers are fetched by whoever reads them, with either client.
                if *insecure {
                    self.client.set_insecure(&reference.domain);
                    self.hasty.set_insecure(&reference.domain);
                }
                Box::new(RegistryCache::new(client.clone(), reference.clone(), form))
            }
            Location::Local { dir, entry } => Box::new(LocalCache::new(dir.clone(), entry.clone(), form, reset)),
            // Layers are fetched from where they are by whoever reads them.
            Location::Object(service) => {
                let cache = ObjectCache::new(client.clone(), service.clone(), if hasty { 1 } else { usize::MAX });
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

/// Reads one cache. Trouble is said once and is a miss (SPEC C7.10).
async fn import(backend: Box<dyn CacheBackend>, events: Events) -> Vec<Import> {
    let title = backend.title();
    let id = internal(&events, &format!("importing cache manifest from {title}"));
    let trouble = match tokio::time::timeout(IMPORT_DEADLINE, backend.load()).await {
        Ok(Ok(imports)) => {
            let records: usize = imports.iter().map(Import::len).sum();
            events.progress(&id, format!("{records} records"), 0, None, true);
            events.completed(&id, Outcome::Done);
            return imports;
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no complete answer within {} seconds", IMPORT_DEADLINE.as_secs()),
    };
    events.completed(&id, Outcome::Failed(trouble.clone()));
    events.warning(format!("cache {title} is not used: {trouble}"));
    Vec::new()
}
