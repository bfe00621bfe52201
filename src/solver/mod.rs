//! Layer 7: turns a graph into results: cache look-ups, parallel execution, cancellation.
//!
//! Every vertex is handled once per [`Solver`]: [`Solver::solve`] asks for the root's result; a result asks for its key
//! first ([`keys`]), looks it up, and only on a miss asks for its inputs' results and runs the operation ([`operate`]).
//! So a hit on the last vertex looks at nothing before it but keys. There is no event loop: each vertex is one shared
//! future.

mod beside;
mod capture;
mod collect;
mod container;
mod diff_op;
mod direct;
mod early;
mod error;
mod exec_op;
mod explain;
mod failed;
mod file_op;
mod keys;
mod listed;
mod loading;
mod mounts;
mod operate;
mod remote;
mod source_op;
mod tree;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared, WeakShared, ready};
use tokio::sync::Semaphore;

pub use beside::GivenFile;
pub use container::{Container, ContainerProcess, ContainerRequest};
pub use error::SolveError;
pub use failed::{KeptFailure, Visit};
pub use loading::LoadingImports;
pub use mounts::{LoadingMounts, SavedMounts};
pub use tree::{ContextDir, Tree};

use crate::archive::LayerOptions;
use crate::attest::{Material, StepUsage};
use crate::base::blocking::brief;
use crate::base::events::Outcome;
use crate::base::{CacheKey, Cancel, Digest, Events, StepTrace};
use crate::llb::op::Kind;
use crate::llb::{Edge, Graph, Vertex};
use crate::source::Sources;
use crate::source::image::ImageSource;
use crate::ssh::Agent;
use crate::store::{LayerId, Store};

/// What RUN steps need beyond the graph.
#[derive(Debug, Clone, Default)]
pub struct Secrets {
    /// Secret values by id. Never part of a key, a log or a layer.
    pub values: BTreeMap<String, Arc<Vec<u8>>>,
    /// SSH agents by id.
    pub agents: BTreeMap<String, Arc<dyn Agent>>,
    /// What sources get in place of `values`, where there is something that steps must not have.
    pub for_sources: Option<BTreeMap<String, Arc<Vec<u8>>>>,
}

/// Who wants to know when the layers of a chain are ready; the flag says that the chain is a base image.
pub type LayersReady = Arc<dyn Fn(&[LayerId], bool) + Send + Sync>;

/// Everything a solver works with.
pub struct Environment {
    /// Where results live.
    pub store: Store,
    /// Where base images come from.
    pub images: ImageSource,
    /// Where everything else from outside comes from.
    pub sources: Sources,
    /// Directories of `local://NAME` sources.
    pub contexts: BTreeMap<String, ContextDir>,
    /// Secrets of this build.
    pub secrets: Secrets,
    /// Devices of this machine, and which of them steps may have.
    pub devices: Arc<crate::exec::cdi::Devices>,
    /// How steps are run, or why this machine cannot run any.
    pub steps: Result<Arc<crate::exec::run::Runner>, String>,
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
    /// How the outputs want layers as blobs; `None` if they want directories, or nothing.
    pub layers: Option<LayerOptions>,
    /// Told of chains of the result, as soon as their layers are blobs.
    pub ready: Option<LayersReady>,
    /// What is built, as far as steps of earlier builds are compared with these.
    pub project: String,
    /// Caches of other machines (SPEC B4).
    pub imports: Option<LoadingImports>,
    /// Cache mounts of other machines.
    pub mounts: Option<LoadingMounts>,
}

/// Something computed once, waited for by many.
type Once<T> = Shared<BoxFuture<'static, Result<Arc<T>, SolveError>>>;

/// A vertex that is being solved, or is.
enum Solving {
    /// Stopped when nobody waits for it any more.
    Going(WeakShared<BoxFuture<'static, Result<Arc<Solved>, SolveError>>>),
    Done(Result<Arc<Solved>, SolveError>),
}

impl Solving {
    /// What came of it, if all went well.
    fn result(&self) -> Option<&Arc<Solved>> {
        match self {
            Self::Done(Ok(solved)) => Some(solved),
            _ => None,
        }
    }
}

/// A local tree, by its address, and what of it is selected.
type LocalSelection = (usize, Vec<crate::cache::key::Selection>);

/// Solves graphs, sharing work between them.
pub struct Solver {
    env: Environment,
    steps: Semaphore,
    keyed: Mutex<HashMap<Digest, Once<keys::Keyed>>>,
    solved: Mutex<HashMap<Digest, Solving>>,
    locals: tree::LocalTrees,
    materials: Mutex<BTreeMap<Digest, Material>>,
    /// What selections of local directories contain; the trees live as long as `locals`.
    contents: Mutex<Vec<(LocalSelection, Once<Digest>)>>,
    /// Vertices whose results nothing reads.
    unread: Mutex<HashSet<Digest>>,
    /// Vertices whose layers the outputs want.
    exported: Mutex<HashSet<Digest>>,
    /// Vertices that a step reads.
    before_steps: Mutex<HashSet<Digest>>,
    /// Who reads each vertex's result; `None` for the outputs.
    readers: Mutex<HashMap<Digest, HashSet<Option<Digest>>>>,
    packer: Mutex<Option<early::Packer>>,
    /// Records of other machines' caches that stand for a vertex: by its definition, and what more its content told.
    matched: Mutex<remote::Matched>,
    refined: Mutex<HashMap<Digest, Vec<crate::cache::import::Match>>>,
    /// What went into the content keys of vertices, where they were made.
    parts: Mutex<HashMap<Digest, Vec<crate::cache::key::Part>>>,
    /// Blobs that a cache promised and nobody could give.
    lost: Mutex<HashSet<Digest>>,
    /// Caches whose lost layers were spoken of.
    told_lost: Mutex<BTreeSet<String>>,
    learnt: Mutex<explain::Learnt>,
    /// Vertices that were not cached, and run or ran.
    begun: Mutex<HashSet<Digest>>,
    /// What steps that ran used.
    usage: Mutex<BTreeMap<Digest, StepUsage>>,
    /// Cache mounts that steps opened.
    opened: Mutex<BTreeSet<String>>,
    /// Somebody may live with a failure: it stops nothing but what needs it.
    forgiving: AtomicBool,
}

/// The result of a vertex.
#[derive(Debug)]
pub struct Solved {
    /// The key everything that builds on this vertex uses.
    pub canonical: CacheKey,
    /// One tree per output.
    pub outputs: Vec<Tree>,
    /// Found in the cache.
    pub cached: bool,
    /// Found by its definition key, before anything else was looked at.
    known: bool,
}

impl Solved {
    /// A result that another machine's cache gave after all.
    fn late(hit: keys::Hit) -> Self {
        Self { canonical: hit.canonical, outputs: hit.outputs, cached: true, known: false }
    }
}

impl Solver {
    /// A solver with nothing solved yet.
    #[must_use]
    pub fn new(env: Environment) -> Arc<Self> {
        let steps = Semaphore::new(env.parallelism.max(1));
        Arc::new(Self {
            env,
            steps,
            keyed: Mutex::default(),
            solved: Mutex::default(),
            locals: tree::LocalTrees::default(),
            materials: Mutex::default(),
            contents: Mutex::default(),
            unread: Mutex::default(),
            exported: Mutex::default(),
            before_steps: Mutex::default(),
            readers: Mutex::default(),
            packer: Mutex::default(),
            matched: Mutex::default(),
            refined: Mutex::default(),
            parts: Mutex::default(),
            lost: Mutex::default(),
            told_lost: Mutex::default(),
            learnt: Mutex::default(),
            begun: Mutex::default(),
            usage: Mutex::default(),
            opened: Mutex::default(),
            forgiving: AtomicBool::new(false),
        })
    }

    /// The tree of the graph's root; an empty tree for an empty graph.
    ///
    /// # Errors
    /// The first failure; everything else is stopped then.
    pub async fn solve(self: &Arc<Self>, graph: &Arc<Graph>) -> Result<Tree, SolveError> {
        let Some(root) = &graph.root else { return Ok(Tree::Layers(Vec::new())) };
        self.announce(graph, root);
        self.note_unread(graph);
        self.note_exported(graph);
        self.note_steps(graph);
        self.note_readers(graph);
        let result = self.edge(graph, root).await;
        if result.is_err() {
            self.stop();
        }
        result
    }

    /// Solves a graph for somebody who may live with a failure, and go on with other graphs; nothing is exported yet.
    ///
    /// # Errors
    /// The first failure.
    pub async fn evaluate(self: &Arc<Self>, graph: &Arc<Graph>) -> Result<(), SolveError> {
        let Some(root) = &graph.root else { return Ok(()) };
        self.announce(graph, root);
        self.note_steps(graph);
        self.edge(graph, root).await.map(drop)
    }

    /// Says whether a failure stops everything, as it does at first.
    pub fn set_forgiving(&self, forgiving: bool) {
        self.forgiving.store(forgiving, Ordering::Relaxed);
    }

    /// Stops everything, unless somebody may live with the failure.
    fn stop(&self) {
        if !self.forgiving.load(Ordering::Relaxed) {
            self.env.cancel.cancel();
        }
    }

    /// Names every vertex below `root` in the order in which they can run.
    fn announce(&self, graph: &Graph, root: &Edge) {
        for vertex in graph.in_order(root) {
            let inputs = vertex.inputs.iter().map(|e| e.vertex.clone()).collect();
            self.env.events.vertex(&vertex.digest, vertex.name(), inputs);
        }
    }

    async fn edge(self: &Arc<Self>, graph: &Arc<Graph>, edge: &Edge) -> Result<Tree, SolveError> {
        let solved = self.solved(graph, &edge.vertex).await?;
        solved
            .outputs
            .get(edge.index)
            .cloned()
            .ok_or_else(|| SolveError::internal(format!("vertex {} has no output {}", edge.vertex.short(), edge.index)))
    }

    /// The result of a vertex, computed once. It is computed as long as somebody waits for it.
    fn solved(self: &Arc<Self>, graph: &Arc<Graph>, digest: &Digest) -> Once<Solved> {
        let mut solved = lock(&self.solved);
        match solved.get(digest) {
            Some(Solving::Done(result)) => return ready(result.clone()).boxed().shared(),
            Some(Solving::Going(weak)) => {
                if let Some(known) = weak.upgrade() {
                    return known;
                }
            }
            None => {}
        }
        let (this, graph, id) = (Arc::clone(self), Arc::clone(graph), digest.clone());
        let future = async move {
            let Some(vertex) = graph.vertices.get(&id).cloned() else {
                return Err(SolveError::internal(format!("vertex {} is not in the graph", id.short())));
            };
            // A task of its own, so that independent branches really run side by side.
            let (solver, name) = (Arc::clone(&this), id.clone());
            // What is brought in from outside goes on in any case: programs and files are involved.
            let stops = !matches!(vertex.op.kind, Some(Kind::Source(_)));
            let task = tokio::spawn(async move {
                let result = solver.run_vertex(&graph, &vertex).await.map(Arc::new);
                lock(&solver.solved).insert(id, Solving::Done(result.clone()));
                result
            });
            let mut task = Needed { task, stops, vertex: name, solver: this };
            match (&mut task.task).await {
                Ok(result) => result,
                Err(panic) => Err(SolveError::internal(format!("a task ended unexpectedly: {panic}"))),
            }
        };
        let future = future.boxed().shared();
        if let Some(weak) = future.downgrade() {
            solved.insert(digest.clone(), Solving::Going(weak));
        }
        future
    }

    async fn run_vertex(self: &Arc<Self>, graph: &Arc<Graph>, vertex: &Arc<Vertex>) -> Result<Solved, SolveError> {
        let result = self.find_or_operate(graph, vertex).await;
        if let Ok(solved) = &result {
            self.pack_early(vertex, solved);
        }
        match &result {
            // Said when the key was looked up.
            Ok(solved) if solved.known => {}
            Ok(solved) => {
                let outcome = if solved.cached { Outcome::Cached } else { Outcome::Done };
                self.env.events.completed(&vertex.digest, outcome);
            }
            Err(error) if error.is_cancelled() => self.env.events.completed(&vertex.digest, Outcome::Canceled),
            // An input's failure has been reported by the input.
            Err(error) if error.vertex() == Some(&vertex.digest) => {
                self.env.events.completed(&vertex.digest, Outcome::Failed(error.message().to_owned()));
                self.stop();
            }
            Err(_) => {}
        }
        result
    }
}

/// A task that ends with who waits for it.
struct Needed<T> {
    task: tokio::task::JoinHandle<T>,
    stops: bool,
    vertex: Digest,
    solver: Arc<Solver>,
}

impl<T> Drop for Needed<T> {
    fn drop(&mut self) {
        if self.stops && !self.task.is_finished() {
            self.task.abort();
            if lock(&self.solver.begun).contains(&self.vertex) {
                self.solver.env.events.completed(&self.vertex, Outcome::Canceled);
            }
        }
    }
}

/// Locks a mutex whose holders never panic while holding it.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Runs blocking work off the async threads; [`brief`] tells what it may not wait for.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SolveError> + Send + 'static,
) -> Result<T, SolveError> {
    ended(brief(work).await)
}

/// The same for work that may wait for what other tasks of this process do.
async fn patiently<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SolveError> + Send + 'static,
) -> Result<T, SolveError> {
    ended(tokio::task::spawn_blocking(work).await)
}

fn ended<T>(task: Result<Result<T, SolveError>, tokio::task::JoinError>) -> Result<T, SolveError> {
    task.unwrap_or_else(|panic| Err(SolveError::internal(format!("a task ended unexpectedly: {panic}"))))
}
