//! What a request reads that is not on this machine, or came on standard input: contexts and Dockerfiles from elsewhere
//! (SPEC B1.02–B1.05). They are solved like any other part of a graph, by the solver that the build then uses, so that
//! each is fetched once and means one thing.

use std::io::{self, Read, Write as _};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use url::Url;

use super::policy::{self, Decided, Gate, MAX_POLICY};
use super::{BuildError, BuildRequest, Builder, Secrets};
use crate::archive::looks_like_archive;
use crate::base::values::boolean;
use crate::base::{Digest, FaultKind};
use crate::cache::backend::object::{ObjectCache, Service};
use crate::dockerfile::gitref::GitRef;
use crate::frontend::remote::{CONTEXT_FILE, RemoteContext, without_credentials};
use crate::frontend::{FrontendError, FrontendOptions};
use crate::policy::Policies;
use crate::solver::Solver;
use crate::source::http::HttpSource;
use crate::store::{Store, StoreError};

/// Larger Dockerfiles are refused.
pub const MAX_DOCKERFILE: u64 = 16 << 20;
/// How much of a downloaded context decides what it is (B1.04).
const PEEK: u64 = 1024;

/// The main build context.
#[derive(Debug, Default)]
pub enum MainContext {
    /// A directory, the one called `context`, or nothing at all.
    #[default]
    Local,
    /// A repository.
    Git(Box<GitRef>),
    /// An archive or a Dockerfile on a web server.
    Url(String),
    /// An archive that is no source of a graph.
    Archive(Stream),
}

/// An archive that can be read once.
pub struct Stream {
    /// Where it comes from, for messages.
    name: String,
    from: Mutex<Option<Origin>>,
}

/// Where an archive comes from.
enum Origin {
    Reader(Box<dyn Read + Send>),
    Object(Box<Service>, String),
    SignedIn(Url),
}

impl Stream {
    /// What a reader gives: standard input, or a file.
    pub fn new(name: impl Into<String>, reader: impl Read + Send + 'static) -> Self {
        Self { name: name.into(), from: Mutex::new(Some(Origin::Reader(Box::new(reader)))) }
    }

    /// An object in a bucket or container (SPEC D2.05, D2.06).
    #[must_use]
    pub fn object(name: impl Into<String>, service: Service, key: String) -> Self {
        Self { name: name.into(), from: Mutex::new(Some(Origin::Object(Box::new(service), key))) }
    }

    /// A file of a server that knows this machine (SPEC D2.04).
    #[must_use]
    pub fn signed_in(name: impl Into<String>, url: Url) -> Self {
        Self { name: name.into(), from: Mutex::new(Some(Origin::SignedIn(url))) }
    }

    fn take(&self) -> Option<Origin> {
        self.from.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Stream({})", self.name)
    }
}

/// Where the Dockerfile is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum DockerfileAt {
    /// In the request.
    #[default]
    Given,
    /// In the main context, at this path or the usual one.
    InContext(Option<String>),
    /// On a web server.
    Url(String),
}

/// Dockerfile and context, ready for the front end.
#[derive(Debug, Clone, Default)]
pub struct Inputs {
    /// Name of the Dockerfile, for messages.
    pub filename: String,
    /// Its text.
    pub dockerfile: Vec<u8>,
    /// The main context, if it is not a directory.
    pub context: Option<RemoteContext>,
    /// Policies about sources, compiled.
    pub(super) policies: Policies,
    /// What they said.
    pub(super) decided: Arc<Decided>,
}

/// What is somewhere else, see [`Builder::files_of`].
#[derive(Debug)]
pub enum Found {
    /// One file.
    File(Vec<u8>),
    /// A tree, and of its files the ones that were asked for.
    Tree(Vec<(String, Vec<u8>)>),
}

impl BuildRequest {
    /// Name and text of the Dockerfile: as given, or as fetched once that was done.
    #[must_use]
    pub fn file(&self) -> (&str, &[u8]) {
        match self.inputs.get() {
            Some(inputs) => (&inputs.filename, &inputs.dockerfile),
            None => (&self.filename, &self.dockerfile),
        }
    }
}

impl Builder {
    /// Fetches what the request does not hold itself. Done once for each request.
    pub(super) async fn inputs<'a>(
        &self,
        request: &'a BuildRequest,
        solver: &Arc<Solver>,
    ) -> Result<&'a Inputs, BuildError> {
        if let Some(known) = request.inputs.get() {
            return Ok(known);
        }
        policy::announce(self, &request.rego.policies);
        let policies = request.policies(&request.rego.policies, &request.filename)?;
        let decided = Arc::default();
        let gate = self.gate_with(request, solver, &policies, &decided);
        if request.dockerfile_at == DockerfileAt::Given {
            gate.local_dockerfile().await?;
        }
        let mut inputs = Inputs {
            filename: request.filename.clone(),
            dockerfile: request.dockerfile.clone(),
            context: self.context(request, solver, &gate).await?,
            ..Inputs::default()
        };
        let file = match (&request.dockerfile_at, &inputs.context) {
            (DockerfileAt::Given, _) => None,
            (DockerfileAt::Url(url), _) => {
                let source = RemoteContext::http(url);
                let name = without_credentials(url).rsplit('/').next().unwrap_or_default().to_owned();
                Some((name, read(&gate, solver, &source, CONTEXT_FILE, MAX_DOCKERFILE + 1).await?))
            }
            (DockerfileAt::InContext(path), Some(context)) => {
                Some(in_context(&gate, path.as_deref(), request.containerfile_first, context, solver).await?)
            }
            (DockerfileAt::InContext(_), None) => {
                return Err(BuildError::Internal("the Dockerfile of a context that is not remote".into()));
            }
        };
        if let Some((name, text)) = file {
            let Some(text) = text else {
                let message = format!("failed to read dockerfile: open {name}: no such file or directory");
                return Err(fault(message, "give another one with -f: a path in the context"));
            };
            if text.len() as u64 > MAX_DOCKERFILE {
                let message = format!("Dockerfile exceeds maximum allowed size: {name} is larger than 16 MiB");
                return Err(fault(message, "is this the Dockerfile?"));
            }
            (inputs.filename, inputs.dockerfile) = (name, text);
        }
        // The context itself is asked about when the build's graph is.
        let beside = match (&inputs.context, &request.dockerfile_at) {
            (Some(context), DockerfileAt::InContext(_)) if request.rego.beside && !context.is_file() => {
                let name = format!("{}.rego", inputs.filename);
                read(&gate, solver, context, &name, MAX_POLICY + 1).await?.map(|text| (name, text))
            }
            _ => None,
        };
        (inputs.policies, inputs.decided) = match beside {
            None => (policies, decided),
            Some((name, text)) => {
                let file = policy::of_context(name, text)?;
                let mut all = request.rego.policies.clone();
                all.insert(0, vec![file]);
                policy::announce(self, &all[..1]);
                (request.policies(&all, &inputs.filename)?, Arc::default())
            }
        };
        Ok(request.inputs.get_or_init(|| inputs))
    }

    /// Reads files of a place that is elsewhere, outside of any build: those of `names` that are there. A web server may have an archive of
    /// them, or one file, which is then what is read, under no name (SPEC B7.21).
    ///
    /// # Errors
    /// When the place cannot be reached, or a file not be read.
    pub async fn files_of(
        &self,
        place: &MainContext,
        secrets: Secrets,
        names: &[String],
        limit: u64,
    ) -> Result<Found, BuildError> {
        let solver = Solver::new(self.bare_environment(secrets, Arc::default()));
        let read = async |context: &RemoteContext, name: &str, limit| {
            let graph = context.definition().graph().map_err(|e| BuildError::Internal(e.to_string()))?;
            Ok::<_, BuildError>(solver.read_file(&Arc::new(graph), name, limit).await?)
        };
        let context = match place {
            MainContext::Git(reference) => RemoteContext::git(reference, false),
            MainContext::Url(url) => {
                let file = RemoteContext::http(url);
                let head = read(&file, CONTEXT_FILE, PEEK).await?.unwrap_or_default();
                if !looks_like_archive(&head) {
                    return Ok(Found::File(read(&file, CONTEXT_FILE, limit).await?.unwrap_or_default()));
                }
                file.unpacked()
            }
            _ => return Err(BuildError::Internal("files of a place that is here".into())),
        };
        let mut found = Vec::new();
        for name in names {
            found.extend(read(&context, name, limit).await?.map(|bytes| (name.clone(), bytes)));
        }
        Ok(Found::Tree(found))
    }

    async fn context(
        &self,
        request: &BuildRequest,
        solver: &Arc<Solver>,
        gate: &Gate<'_>,
    ) -> Result<Option<RemoteContext>, BuildError> {
        Ok(Some(match &request.context {
            MainContext::Local => return Ok(None),
            MainContext::Git(reference) => of_repository(reference, &request.options),
            MainContext::Url(url) => of_server(url, gate, solver).await?,
            MainContext::Archive(stream) => {
                let name = stream.name.clone();
                let from = stream.take().ok_or_else(|| BuildError::Internal(format!("{name} was read before")))?;
                let digest = match from {
                    Origin::Reader(reader) => self.kept(&name, reader).await?,
                    Origin::Object(service, key) => {
                        let (sender, receiver) = tokio::sync::mpsc::channel(4);
                        let place = ObjectCache::new(self.client.clone(), *service, false);
                        let sending = tokio::spawn(async move { place.send(&key, &sender).await });
                        let kept = self.kept(&name, Box::new(Pieces { receiver, piece: Bytes::new() })).await;
                        sending.abort();
                        kept?
                    }
                    Origin::SignedIn(url) => self.archive_of_server(&name, &url).await?,
                };
                RemoteContext::blob(&name, &digest)
            }
        }))
        .map(|context| context.map(|c| c.below(request.context_subdir.as_deref())))
    }

    /// Keeps an archive in the store.
    async fn kept(&self, name: &str, reader: Box<dyn Read + Send>) -> Result<Digest, BuildError> {
        let (store, name) = (self.store.clone(), name.to_owned());
        let kept = tokio::task::spawn_blocking(move || keep(&store, &name, reader)).await;
        kept.map_err(|e| BuildError::Internal(e.to_string()))?
    }

    /// Downloads an archive as whom this machine is.
    async fn archive_of_server(&self, name: &str, url: &Url) -> Result<Digest, BuildError> {
        let files = HttpSource::new(self.store.clone(), self.client.clone(), self.events.clone());
        let digest = files.download_signed_in(url, &Digest::sha256(url.as_str().as_bytes())).await.map_err(|e| {
            let message = format!("cannot read the build context {name}: {e}");
            BuildError::Frontend(FrontendError::outside(e.kind(), message, e.hint()))
        })?;
        let mut head = Vec::new();
        let file = self.store.open_blob(&digest).map_err(|e| store_failed(&e))?;
        file.take(PEEK).read_to_end(&mut head).map_err(|e| fault(format!("cannot read {name}: {e}"), ""))?;
        if looks_like_archive(&head) { Ok(digest) } else { Err(no_archive(name)) }
    }
}

/// The context that is a repository (SPEC B1.03).
pub(super) fn of_repository(reference: &GitRef, options: &FrontendOptions) -> RemoteContext {
    let mut reference = reference.clone();
    let keep = options.build_args.get("BUILDKIT_CONTEXT_KEEP_GIT_DIR");
    if keep.and_then(|text| boolean(text)) == Some(true) {
        reference.keep_git_dir = Some(true);
    }
    // SPEC A4.18: with an epoch files have the time of the commit.
    let epoch = options.build_args.get("SOURCE_DATE_EPOCH").is_some_and(|text| !text.is_empty());
    RemoteContext::git(&reference, epoch || options.epoch.is_some())
}

/// The context that a web server has: what is in an archive, or a file (SPEC B1.04).
pub(super) async fn of_server(url: &str, gate: &Gate<'_>, solver: &Arc<Solver>) -> Result<RemoteContext, BuildError> {
    let file = RemoteContext::http(url);
    let head = read(gate, solver, &file, CONTEXT_FILE, PEEK).await?.unwrap_or_default();
    Ok(if looks_like_archive(&head) { file.unpacked() } else { file })
}

/// Name and text of the Dockerfile inside a remote context.
async fn in_context(
    gate: &Gate<'_>,
    path: Option<&str>,
    containerfile_first: bool,
    context: &RemoteContext,
    solver: &Arc<Solver>,
) -> Result<(String, Option<Vec<u8>>), BuildError> {
    let names: &[&str] = match path {
        // A download that is no archive is the Dockerfile, whatever name was given for one in an archive (B1.04).
        _ if context.is_file() => &[CONTEXT_FILE],
        Some(path) => &[path],
        None if containerfile_first => &["Containerfile", "Dockerfile", "dockerfile"],
        None => &["Dockerfile", "dockerfile", "Containerfile"],
    };
    for name in names {
        if let Some(text) = read(gate, solver, context, name, MAX_DOCKERFILE + 1).await? {
            return Ok(((*name).to_owned(), Some(text)));
        }
    }
    Ok((names[0].to_owned(), None))
}

/// Up to `limit` bytes of a file of a context; `None` if there is none.
async fn read(
    gate: &Gate<'_>,
    solver: &Arc<Solver>,
    context: &RemoteContext,
    path: &str,
    limit: u64,
) -> Result<Option<Vec<u8>>, BuildError> {
    let graph = gate.graph(&context.definition()).await?;
    Ok(solver.read_file(&Arc::new(graph), path, limit).await?)
}

/// What another task sends, as a reader for a thread that may block.
struct Pieces {
    receiver: tokio::sync::mpsc::Receiver<io::Result<Bytes>>,
    piece: Bytes,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.receiver.blocking_recv() {
                Some(piece) => self.piece = piece?,
                None => return Ok(0),
            }
        }
        let n = self.piece.len().min(buffer.len());
        buffer[..n].copy_from_slice(&self.piece.split_to(n));
        Ok(n)
    }
}

/// Takes a stream into the store.
fn keep(store: &Store, name: &str, mut reader: Box<dyn Read + Send>) -> Result<Digest, BuildError> {
    let unreadable = |e: &io::Error| fault(format!("cannot read the build context from {name}: {e}"), "");
    let mut head = Vec::new();
    (&mut reader).take(PEEK).read_to_end(&mut head).map_err(|e| unreadable(&e))?;
    if !looks_like_archive(&head) {
        return Err(no_archive(name));
    }
    let mut reader = io::Cursor::new(head).chain(reader);
    let mut writer = store.blob_writer().map_err(|e| store_failed(&e))?;
    let mut buffer = vec![0; 128 << 10];
    loop {
        let n = match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(unreadable(&e)),
        };
        writer.write_all(&buffer[..n]).map_err(|e| {
            let kind = FaultKind::of_io(&e, FaultKind::Store);
            let message = format!("cannot keep the build context: {e}");
            BuildError::Frontend(FrontendError::outside(kind, message, None))
        })?;
    }
    writer.commit(None).map(|(digest, _)| digest).map_err(|e| store_failed(&e))
}

fn store_failed(error: &StoreError) -> BuildError {
    BuildError::Frontend(FrontendError::outside(error.kind(), error.to_string(), error.hint()))
}

fn no_archive(name: &str) -> BuildError {
    fault(format!("the build context from {name} is no tar archive"), "make it with tar -czf")
}

pub(super) fn fault(message: String, hint: &str) -> BuildError {
    let hint = (!hint.is_empty()).then(|| hint.to_owned());
    BuildError::Frontend(FrontendError::outside(FaultKind::Input, message, hint))
}
