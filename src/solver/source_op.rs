//! Sources: images and directories are what they are; the others are pinned first and brought in only on a miss.

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::keys::{Hit, Keyed};
use super::tree::{self, Tree};
use super::{SolveError, Solved, Solver, blocking, lock, patiently};
use crate::attest::git::GitObjects;
use crate::base::{CacheKey, FaultKind, file};
use crate::cache::key;
use crate::llb::op::{Kind, Op, OpMetadata, SourceOp};
use crate::llb::{Builder, Graph, Vertex};
use crate::source::{Checksum, Pinned, Request, SourceError};
use crate::store::{CacheRecord, LayerId, MountRequest};
use crate::tree::CopySource;

impl Solver {
    /// The key of a source, and its tree if that costs nothing or is in the cache.
    pub(super) async fn source(self: &Arc<Self>, vertex: &Arc<Vertex>, source: &SourceOp) -> Result<Keyed, SolveError> {
        let (scheme, rest) = source.identifier.split_once("://").unwrap_or((source.identifier.as_str(), ""));
        match scheme {
            "docker-image" | "oci-layout" => {
                let platform = vertex.op.platform.as_ref().map_or_else(crate::oci::Platform::host, Into::into);
                let layers = self.env.images.layers_op(source, &platform).await;
                let layers = layers.map_err(|e| failed(vertex, &e))?;
                let canonical = key::leaf("image", layers.last().map_or("scratch", |l| l.as_str()));
                let outputs = vec![Tree::Layers(layers)];
                Ok(Keyed::found(canonical.clone(), Hit { canonical, outputs, source: true, parts: Vec::new() }))
            }
            "local" => {
                let local = self.locals.open(&self.env, vertex, rest, source).await?;
                let listed = crate::source::local::listed(source);
                let listed = listed.map_err(|e| SolveError::at(vertex, FaultKind::Input, e.to_string(), None))?;
                if let Some(whole) = listed {
                    return self.list(vertex, local, whole).await;
                }
                // Whoever depends on it asks for its content; this key is never used for anything else.
                let canonical = key::leaf("local", vertex.digest.as_str());
                let outputs = vec![Tree::Local(local)];
                let hit = Hit { canonical, outputs, source: true, parts: Vec::new() };
                Ok(Keyed { key: None, parts: Vec::new(), hit: Some(hit), pinned: None, renewed: None })
            }
            _ => self.pin(vertex, source, scheme).await,
        }
    }

    async fn pin(self: &Arc<Self>, vertex: &Arc<Vertex>, source: &SourceOp, scheme: &str) -> Result<Keyed, SolveError> {
        let Some(kind) = self.env.sources.of(scheme) else {
            let message = format!("source \"{}\" is not supported yet", source.identifier);
            return Err(SolveError::at(vertex, FaultKind::Input, message, None));
        };
        let request = self.request(vertex, source);
        let pinned = self.unless_cancelled(kind.pin(&request)).await?.map_err(|e| failed(vertex, &e))?;
        lock(&self.materials).insert(vertex.digest.clone(), pinned.material());
        let key = key::leaf(scheme, &pinned.key());
        let hit = self.look_up(vertex, &key).await?.map(|hit| Hit { source: true, ..hit });
        Ok(Keyed { key: Some(key), parts: Vec::new(), hit, pinned: Some(pinned), renewed: None })
    }

    /// The tree of a pinned source, made by whoever comes first.
    pub(super) async fn bring_in(
        self: &Arc<Self>,
        vertex: &Arc<Vertex>,
        key: &CacheKey,
        pinned: &Arc<dyn Pinned>,
    ) -> Result<Solved, SolveError> {
        let Some(Kind::Source(source)) = &vertex.op.kind else {
            return Err(SolveError::internal("a pinned vertex that is no source"));
        };
        let solved = |outputs| Solved { canonical: key.clone(), outputs, cached: false, known: false };
        let lock = {
            let (store, key, vertex) = (self.env.store.clone(), key.clone(), Arc::clone(vertex));
            patiently(move || store.key_lock(&key).map_err(|e| tree::store_error(&vertex, &e))).await?
        };
        if let Some(hit) = self.look_up(vertex, key).await? {
            return Ok(solved(hit.outputs));
        }
        let mounted = self.mount(vertex, &[], MountRequest::writable(Vec::new())).await?;
        let request = self.request(vertex, source);
        let made = self.unless_cancelled(pinned.materialise(mounted.root(), &request)).await?;
        made.map_err(|e| failed(vertex, &e))?;
        let (store, key, place) = (self.env.store.clone(), key.clone(), Arc::clone(vertex));
        let chain = blocking(move || {
            let fail = |e| tree::store_error(&place, &e);
            let layer = mounted.commit(&place.name()).map_err(fail)?;
            store.put_record(&CacheRecord::new(&key, vec![vec![layer.clone()]], &place.name())).map_err(fail)?;
            Ok(vec![layer])
        })
        .await?;
        drop(lock);
        Ok(solved(vec![Tree::Layers(chain)]))
    }

    fn request<'a>(&'a self, vertex: &'a Vertex, op: &'a SourceOp) -> Request<'a> {
        let given = &self.env.secrets;
        let secrets = given.for_sources.as_ref().unwrap_or(&given.values);
        Request { vertex: &vertex.digest, op, secrets, agents: &given.agents }
    }

    /// Downloads end with the build.
    async fn unless_cancelled<T>(&self, work: impl Future<Output = T>) -> Result<T, SolveError> {
        tokio::select! {
            done = work => Ok(done),
            () = self.env.cancel.cancelled() => Err(SolveError::cancelled()),
        }
    }

    /// Seconds since 1970 at which the content of a source was made, where it knows (SPEC A4.18).
    ///
    /// # Errors
    /// When the source cannot be had.
    pub async fn source_time(self: &Arc<Self>, source: &SourceOp) -> Result<Option<i64>, SolveError> {
        let (vertex, pinned) = self.source_now(source).await?;
        let Some(pinned) = pinned else { return Ok(None) };
        let request = self.request(&vertex, source);
        self.unless_cancelled(pinned.time(&request)).await?.map_err(|e| failed(&vertex, &e))
    }

    /// What git keeps of a commit, if the source is one.
    ///
    /// # Errors
    /// When the source cannot be had.
    pub async fn source_objects(self: &Arc<Self>, source: &SourceOp) -> Result<Option<GitObjects>, SolveError> {
        let (vertex, pinned) = self.source_now(source).await?;
        let Some(pinned) = pinned else { return Ok(None) };
        let request = self.request(&vertex, source);
        self.unless_cancelled(pinned.objects(&request)).await?.map_err(|e| failed(&vertex, &e))
    }

    /// A digest of a file's content, if the source is one.
    ///
    /// # Errors
    /// When the source cannot be had.
    pub async fn source_checksum(
        self: &Arc<Self>,
        source: &SourceOp,
        wanted: Checksum,
    ) -> Result<Option<String>, SolveError> {
        let (vertex, pinned) = self.source_now(source).await?;
        let Some(pinned) = pinned else { return Ok(None) };
        let request = self.request(&vertex, source);
        self.unless_cancelled(pinned.checksum(&request, wanted)).await?.map_err(|e| failed(&vertex, &e))
    }

    /// What a source is now; `None` for a kind that is not asked.
    ///
    /// # Errors
    /// When the source cannot be had.
    pub async fn source_pin(self: &Arc<Self>, source: &SourceOp) -> Result<Option<Arc<dyn Pinned>>, SolveError> {
        Ok(self.source_now(source).await?.1)
    }

    async fn source_now(
        self: &Arc<Self>,
        source: &SourceOp,
    ) -> Result<(Arc<Vertex>, Option<Arc<dyn Pinned>>), SolveError> {
        let mut builder = Builder::default();
        let op = Op { kind: Some(Kind::Source(source.clone())), ..Op::default() };
        let root = builder.add(&op, OpMetadata::named("[internal] load what a source is"), &[]);
        let graph = builder.finish(Some(&root)).graph();
        let graph = Arc::new(graph.map_err(|e| SolveError::internal(e.to_string()))?);
        let vertex = graph.vertices.get(&root.vertex).cloned();
        let vertex = vertex.ok_or_else(|| SolveError::internal("a source that is in no graph"))?;
        let keyed = self.keyed(&graph, &vertex.digest).await?;
        Ok((vertex, keyed.pinned.clone()))
    }

    /// Up to `limit` bytes of a file of a graph's result; `None` if there is no such file.
    ///
    /// # Errors
    /// When the graph cannot be solved, or the file not be read.
    pub async fn read_file(
        self: &Arc<Self>,
        graph: &Arc<Graph>,
        path: &str,
        limit: u64,
    ) -> Result<Option<Vec<u8>>, SolveError> {
        let Some(root) = &graph.root else { return Ok(None) };
        let Some(vertex) = graph.vertices.get(&root.vertex).cloned() else { return Ok(None) };
        // Not as a result: it is read, and no output wants its layers.
        self.announce(graph, root);
        let tree = self.edge(graph, root).await?;
        let opened = self.open(&vertex, &tree).await?;
        let path = PathBuf::from(path.trim_start_matches('/'));
        blocking(move || match read_regular(&opened.source.root, &path, limit) {
            Ok(Some(bytes)) => Ok(Some(bytes)),
            Ok(None) => {
                let message = format!("cannot read {}: not a regular file", path.display());
                Err(SolveError::at(&vertex, FaultKind::Input, message, None))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => {
                let message = format!("cannot read {}: {e}", path.display());
                Err(SolveError::at(&vertex, FaultKind::Input, message, None))
            }
        })
        .await
    }
}

impl Solver {
    /// Looks at the tree of a graph's result with its filter; `None` for an empty graph.
    ///
    /// # Errors
    /// When the graph cannot be solved, or the tree not be opened.
    pub async fn inspect<T: Send + 'static>(
        self: &Arc<Self>,
        graph: &Arc<Graph>,
        look: impl FnOnce(&CopySource) -> T + Send + 'static,
    ) -> Result<Option<T>, SolveError> {
        let root = graph.root.as_ref().and_then(|root| Some((root, graph.vertices.get(&root.vertex).cloned()?)));
        let Some((root, vertex)) = root else { return Ok(None) };
        self.announce(graph, root);
        self.note_steps(graph);
        let tree = self.edge(graph, root).await?;
        let opened = self.open(&vertex, &tree).await?;
        blocking(move || Ok(Some(look(&opened.source)))).await
    }

    /// The layers of a graph's result, also where that is a directory of this machine.
    ///
    /// # Errors
    /// As [`Solver::solve`].
    pub async fn solve_layers(self: &Arc<Self>, graph: &Arc<Graph>) -> Result<Vec<LayerId>, SolveError> {
        let tree = self.solve(graph).await?;
        match (&tree, graph.root.as_ref().and_then(|root| graph.vertices.get(&root.vertex))) {
            (Tree::Layers(chain), _) => Ok(chain.clone()),
            (tree, Some(vertex)) => self.layers(vertex, tree).await,
            (_, None) => Err(SolveError::internal("a result that is in no graph")),
        }
    }

    /// Looks at the tree of a graph's result; `None` if that is empty.
    ///
    /// # Errors
    /// When the graph cannot be solved, or the tree not be opened.
    pub async fn look<T: Send + 'static>(
        self: &Arc<Self>,
        graph: &Arc<Graph>,
        look: impl FnOnce(&Path) -> T + Send + 'static,
    ) -> Result<Option<T>, SolveError> {
        let root = graph.root.as_ref().and_then(|root| Some((root, graph.vertices.get(&root.vertex).cloned()?)));
        let Some((root, vertex)) = root else { return Ok(None) };
        let tree = self.edge(graph, root).await?;
        let opened = self.open(&vertex, &tree).await?;
        blocking(move || Ok(Some(look(&opened.source.root)))).await
    }

    /// The regular files of a directory of a graph's result, by name, hidden ones left out; none if there is no such directory.
    ///
    /// # Errors
    /// When the graph cannot be solved, a file not be read, or one has more than `limit` bytes.
    pub async fn read_dir(
        self: &Arc<Self>,
        graph: &Arc<Graph>,
        path: &str,
        limit: u64,
    ) -> Result<BTreeMap<String, Vec<u8>>, SolveError> {
        let root = graph.root.as_ref().and_then(|root| Some((root, graph.vertices.get(&root.vertex).cloned()?)));
        let Some((root, vertex)) = root else { return Ok(BTreeMap::new()) };
        self.announce(graph, root);
        let tree = self.edge(graph, root).await?;
        let opened = self.open(&vertex, &tree).await?;
        let path = PathBuf::from(path.trim_start_matches('/'));
        blocking(move || {
            let read = || {
                let mut files = BTreeMap::new();
                for name in file::names_in_root(file::open_dir(&opened.source.root)?, &path)? {
                    let at = path.join(&name);
                    let name = name.to_string_lossy().into_owned();
                    if name.starts_with('.') {
                        continue;
                    }
                    let Some(bytes) = read_regular(&opened.source.root, &at, limit + 1)? else { continue };
                    if bytes.len() as u64 > limit {
                        let text = format!("{} has more than {} MiB", at.display(), limit >> 20);
                        return Err(io::Error::other(text));
                    }
                    files.insert(name, bytes);
                }
                Ok(files)
            };
            read().map_err(|e: io::Error| {
                let message = format!("cannot read {}: {e}", path.display());
                SolveError::at(&vertex, FaultKind::Input, message, None)
            })
        })
        .await
    }
}

/// The beginning of a regular file below `root`, wherever links want to lead; `None` for what is something else.
fn read_regular(root: &Path, path: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let Some(opened) = file::regular_in_root(file::open_dir(root)?, path)? else { return Ok(None) };
    let mut bytes = Vec::new();
    opened.take(limit).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

fn failed(vertex: &Vertex, error: &SourceError) -> SolveError {
    SolveError::at(vertex, error.kind(), error.to_string(), error.hint())
}
