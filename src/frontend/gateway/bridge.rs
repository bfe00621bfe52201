//! The calls of a front end, answered: what it solved so far has names, and is looked into through [`GatewayHost`].

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use prost::Message;
use tokio::sync::{Notify, mpsc, watch};

use super::exec::Containers;
use super::{Answer, Attested, GatewayHost, Solved, SourceQuery, caps, shown};
use crate::base::Digest;
use crate::base::events::Warning;
use crate::grpc::server::{MAX_MESSAGE, Service};
use crate::grpc::{Status, code};
use crate::llb::containers::{NewContainerRequest, ReleaseContainerRequest};
use crate::llb::gateway::{
    ChecksumResponse, Empty, EvaluateRequest, GitMeta, HealthResponse, HttpMeta, ImageMeta, InputsResponse, Moment,
    PingResponse, ReadDirRequest, ReadDirResponse, ReadFileRequest, ReadFileResponse, Ref, RefMap, RefMapDeprecated,
    ResolveImageConfigRequest, ResolveImageConfigResponse, ResolveSourceMetaRequest, ResolveSourceMetaResponse,
    ResultMessage, ResultRefs, ReturnRequest, SERVICE, SolveRequest, SolveResponse, StatFileRequest, StatFileResponse,
    Version, WarnRequest, WorkerRecord,
};
use crate::llb::host::RESOLVE_MODE;
use crate::llb::op::{Platform as PbPlatform, SourceOp};
use crate::llb::{Definition, Graph};
use crate::oci::Platform;

/// What a front end may have solved and not let go: it cannot let go.
const MAX_REFS: usize = 16 << 10;
/// Bytes of all its definitions.
const MAX_DEFINITIONS: usize = 256 << 20;
/// The health service, by which clients see that the host is there.
const HEALTH: &str = "/grpc.health.v1.Health/Check";

/// The call that takes several messages.
const EXEC: &str = "ExecProcess";

/// One run of a front end, as its calls see it.
pub(super) struct Bridge<'a> {
    host: &'a dyn GatewayHost,
    /// Graphs that it is given.
    inputs: BTreeMap<String, Definition>,
    refs: Mutex<Refs>,
    containers: Containers,
    next: AtomicU64,
    outcome: Mutex<Option<Result<Answer, Status>>>,
    ended: Notify,
    /// How many calls are being answered, and how many were: it is at work while this changes.
    activity: watch::Sender<(u64, u64)>,
}

#[derive(Default)]
struct Refs {
    by_name: BTreeMap<String, Solved>,
    bytes: usize,
}

/// Counts a call while it lives.
struct Busy<'a>(&'a watch::Sender<(u64, u64)>);

impl<'a> Busy<'a> {
    fn new(activity: &'a watch::Sender<(u64, u64)>) -> Self {
        activity.send_modify(|(now, ever)| (*now, *ever) = (*now + 1, *ever + 1));
        Self(activity)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|(now, _)| *now -= 1);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn invalid(message: impl Into<String>) -> Status {
    Status::new(code::INVALID_ARGUMENT, message)
}

impl<'a> Bridge<'a> {
    /// A front end that has said nothing yet.
    pub(super) fn new(host: &'a dyn GatewayHost, inputs: BTreeMap<String, Definition>) -> Self {
        Self {
            host,
            inputs,
            refs: Mutex::default(),
            containers: Containers::default(),
            next: AtomicU64::new(0),
            outcome: Mutex::default(),
            ended: Notify::new(),
            activity: watch::Sender::new((0, 0)),
        }
    }

    /// What it made, or why not, once it said so.
    pub(super) fn outcome(&self) -> Option<Result<Answer, Status>> {
        lock(&self.outcome).take()
    }

    /// Waits until it has said what it made.
    pub(super) async fn ended(&self) {
        self.ended.notified().await;
    }

    /// How many calls are being answered, and how many were begun.
    pub(super) fn activity(&self) -> watch::Receiver<(u64, u64)> {
        self.activity.subscribe()
    }

    /// Ends its containers.
    pub(super) async fn release_all(&self) {
        self.containers.release_all().await;
    }

    async fn call(&self, path: &str, message: Bytes) -> Result<Vec<u8>, Status> {
        if path == HEALTH {
            return Ok(HealthResponse { status: 1 }.encode_to_vec());
        }
        let method = method(path);
        let _busy = Busy::new(&self.activity);
        match method {
            Some("Ping") => Ok(self.ping().encode_to_vec()),
            Some("ResolveImageConfig") => Ok(self.image_config(read(message)?).await?.encode_to_vec()),
            Some("ResolveSourceMeta") => Ok(self.source_meta(read(message)?).await?.encode_to_vec()),
            Some("Solve") => Ok(self.solve(read(message)?).await?.encode_to_vec()),
            Some("ReadFile") => Ok(self.read_file(&read(message)?).await?.encode_to_vec()),
            Some("ReadDir") => {
                let request: ReadDirRequest = read(message)?;
                let pattern = Some(request.include_pattern).filter(|pattern| !pattern.is_empty());
                let graph = self.graph(&request.reference)?;
                let entries = self.host.read_dir(&graph, &request.path, pattern.as_deref()).await?;
                Ok(ReadDirResponse { entries }.encode_to_vec())
            }
            Some("StatFile") => {
                let request: StatFileRequest = read(message)?;
                let graph = self.graph(&request.reference)?;
                let stat = Some(self.host.stat(&graph, &request.path).await?);
                Ok(StatFileResponse { stat }.encode_to_vec())
            }
            Some("Evaluate") => {
                let request: EvaluateRequest = read(message)?;
                self.host.evaluate(&self.graph(&request.reference)?).await?;
                Ok(Empty {}.encode_to_vec())
            }
            Some("Inputs") => {
                let definitions = self.inputs.iter().map(|(name, input)| (name.clone(), input.pb.clone())).collect();
                Ok(InputsResponse { definitions }.encode_to_vec())
            }
            Some("Warn") => {
                self.host.warn(warning(read(message)?));
                Ok(Empty {}.encode_to_vec())
            }
            Some("NewContainer") => {
                self.new_container(read(message)?).await?;
                Ok(Empty {}.encode_to_vec())
            }
            Some("ReleaseContainer") => {
                let request: ReleaseContainerRequest = read(message)?;
                self.containers.release(&request.container_id).await?;
                Ok(Empty {}.encode_to_vec())
            }
            Some("Return") => {
                self.end(read(message)?)?;
                Ok(Empty {}.encode_to_vec())
            }
            _ => Err(Status::new(code::UNIMPLEMENTED, format!("there is no call {path} here"))),
        }
    }

    fn ping(&self) -> PingResponse {
        let worker = WorkerRecord {
            id: "rbuild".into(),
            labels: BTreeMap::new(),
            platforms: self.host.platforms().iter().map(Into::into).collect(),
            version: Some(Version {
                package: "rbuild".into(),
                version: env!("CARGO_PKG_VERSION").into(),
                dockerfile: crate::frontend::DOCKERFILE_VERSION.into(),
            }),
        };
        PingResponse { frontend_api_caps: caps::of_calls(), llb_caps: caps::of_llb(), workers: vec![worker] }
    }

    async fn image_config(&self, request: ResolveImageConfigRequest) -> Result<ResolveImageConfigResponse, Status> {
        let identifier = match request.resolver_type {
            0 => match request.reference.contains("://") {
                true => request.reference.clone(),
                false => format!("docker-image://{}", request.reference),
            },
            1 => format!("oci-layout://{}", request.reference.trim_start_matches("oci-layout://")),
            other => return Err(invalid(format!("ResolveImageConfig: there is no resolver type {other}"))),
        };
        let mut source = SourceOp { identifier, ..SourceOp::default() };
        set_mode(&mut source, &request.resolve_mode);
        let platform = self.platform(request.platform.as_ref());
        let (used, found) = self.host.resolve_image(source, &platform, &request.log_name).await?;
        let name = used.identifier.split_once("://").map_or(used.identifier.as_str(), |(_, name)| name).to_owned();
        let reference = if found.converted.is_some() { name } else { request.reference };
        Ok(ResolveImageConfigResponse { digest: found.digest.to_string(), config: found.config.to_vec(), reference })
    }

    async fn source_meta(&self, request: ResolveSourceMetaRequest) -> Result<ResolveSourceMetaResponse, Status> {
        let mut source = request.source.ok_or_else(|| invalid("ResolveSourceMeta: no source"))?;
        let query = request.image.unwrap_or_default();
        let checksum = request.http.and_then(|http| http.checksum_request);
        if let Some(wanted) = checksum.as_ref().filter(|wanted| !(0..=2).contains(&wanted.algo)) {
            return Err(invalid(format!("ResolveSourceMeta: there is no checksum algorithm {}", wanted.algo)));
        }
        let platform = self.platform(request.platform.as_ref());
        let mut response = ResolveSourceMetaResponse::default();
        let scheme = source.identifier.split("://").next().unwrap_or_default().to_owned();
        match scheme.as_str() {
            "docker-image" | "oci-layout" => {
                set_mode(&mut source, &request.resolve_mode);
                let (used, found) = self.host.resolve_image(source, &platform, &request.log_name).await?;
                let config = if query.no_config { Vec::new() } else { found.config.to_vec() };
                let chain = query.attestation_chain || !query.resolve_attestations.is_empty();
                let attestation_chain = match chain {
                    true => self.host.attested(used.clone(), &platform, &query.resolve_attestations).await?,
                    false => None,
                };
                response.image = Some(ImageMeta { digest: found.digest.to_string(), config, attestation_chain });
                response.source = Some(used);
            }
            _ => {
                let objects = request.git.is_some_and(|git| git.return_object);
                let asked = SourceQuery { objects, checksum: checksum.clone() };
                let pin = self.host.pin(source, &platform, asked).await?;
                match scheme.as_str() {
                    "git" => {
                        // What was named is the tag, where that is an object of its own.
                        let (checksum, commit_checksum) = match pin.tag {
                            Some(tag) => (tag, pin.checksum),
                            None => (pin.checksum, String::new()),
                        };
                        let (commit_object, tag_object) = pin.objects.unwrap_or_default();
                        let (reference, tag_object) = (pin.reference, tag_object.unwrap_or_default());
                        response.git =
                            Some(GitMeta { checksum, reference, commit_checksum, commit_object, tag_object });
                    }
                    "http" | "https" => {
                        let (filename, modified) = pin.file.unwrap_or_default();
                        let last_modified = modified.map(|seconds| Moment { seconds, nanos: 0 });
                        let suffix = checksum.unwrap_or_default().suffix;
                        let checksum_response = pin.digest.map(|digest| ChecksumResponse { digest, suffix });
                        let checksum = pin.checksum;
                        response.http = Some(HttpMeta { checksum, filename, last_modified, checksum_response });
                    }
                    _ => {}
                }
                response.source = Some(pin.source);
            }
        }
        Ok(response)
    }

    fn platform(&self, asked: Option<&PbPlatform>) -> Platform {
        let own = || self.host.platforms().first().cloned().unwrap_or_else(Platform::host);
        asked.filter(|platform| !platform.os.is_empty()).map_or_else(own, Into::into)
    }

    async fn solve(&self, request: SolveRequest) -> Result<SolveResponse, Status> {
        let allow = (request.allow_result_return, request.allow_result_array_ref);
        if !request.frontend.is_empty() {
            if request.definition.as_ref().is_some_and(|definition| !definition.def.is_empty()) {
                return Err(invalid("Solve: a definition and a front end at once"));
            }
            let mut inputs = BTreeMap::new();
            for (name, input) in request.frontend_inputs {
                inputs.insert(name, Definition { pb: input });
            }
            let answer = self.host.front_end(&request.frontend, request.frontend_opt, inputs).await?;
            return self.told(answer, allow, request.evaluate).await;
        }
        let definition = Definition { pb: request.definition.unwrap_or_default() };
        let solved = self.host.admit(definition).await?;
        if request.evaluate {
            self.host.evaluate(&solved.graph).await?;
        }
        let reference = self.keep(solved)?;
        Ok(response(reference, allow))
    }

    /// The results of another front end, under names of this one.
    async fn told(&self, answer: Answer, allow: (bool, bool), evaluate: bool) -> Result<SolveResponse, Status> {
        let mut names = BTreeMap::new();
        for (platform, solved) in &answer.refs {
            if evaluate {
                self.host.evaluate(&solved.graph).await?;
            }
            names.insert(platform.clone(), self.keep(solved.clone())?);
        }
        let single = names.get("").filter(|_| names.len() == 1).cloned();
        let refs = match (single, allow.1) {
            (Some(reference), true) => ResultRefs::Ref(reference),
            (Some(reference), false) => ResultRefs::RefDeprecated(reference.id),
            (None, true) => ResultRefs::Refs(RefMap { refs: names }),
            (None, false) => {
                let refs = names.into_iter().map(|(platform, reference)| (platform, reference.id)).collect();
                ResultRefs::RefsDeprecated(RefMapDeprecated { refs })
            }
        };
        let result = ResultMessage { refs: Some(refs), metadata: answer.metadata, attestations: BTreeMap::new() };
        Ok(SolveResponse { reference: String::new(), result: Some(result) })
    }

    /// Gives a result a name.
    fn keep(&self, solved: Solved) -> Result<Ref, Status> {
        let def = Some(solved.told.pb.clone());
        if solved.graph.root.is_none() {
            return Ok(Ref { id: String::new(), def });
        }
        let mut refs = lock(&self.refs);
        refs.bytes += solved.told.pb.encoded_len();
        if refs.by_name.len() >= MAX_REFS || refs.bytes > MAX_DEFINITIONS {
            let text = format!("more than {MAX_REFS} results, or more than {MAX_DEFINITIONS} bytes of definitions");
            return Err(Status::new(code::RESOURCE_EXHAUSTED, text));
        }
        let id = format!("ref-{}", self.next.fetch_add(1, Ordering::Relaxed));
        refs.by_name.insert(id.clone(), solved);
        Ok(Ref { id, def })
    }

    fn solved(&self, name: &str) -> Result<Solved, Status> {
        if name.is_empty() {
            return Ok(Solved::default());
        }
        let unknown = || Status::new(code::NOT_FOUND, format!("there is no result \"{name}\""));
        lock(&self.refs).by_name.get(name).cloned().ok_or_else(unknown)
    }

    fn graph(&self, name: &str) -> Result<Arc<Graph>, Status> {
        Ok(self.solved(name)?.graph)
    }

    async fn read_file(&self, request: &ReadFileRequest) -> Result<ReadFileResponse, Status> {
        let part = |value: i64| u64::try_from(value).map_err(|_| invalid("ReadFile: a range that is negative"));
        let range = request.range.unwrap_or_default();
        let (offset, length) = (part(range.offset)?, part(range.length)?);
        // One byte more says that it is too long.
        let most = MAX_MESSAGE as u64 - 63;
        let wanted = if length == 0 { most } else { length.min(most) };
        let graph = self.graph(&request.reference)?;
        let data = self.host.read_file(&graph, &request.path, (offset, wanted)).await?;
        if length != wanted && data.len() as u64 == most {
            let text = format!("{} is longer than a message: read it in parts", request.path);
            return Err(Status::new(code::RESOURCE_EXHAUSTED, text));
        }
        Ok(ReadFileResponse { data })
    }

    async fn new_container(&self, mut request: NewContainerRequest) -> Result<(), Status> {
        self.containers.check(&request.container_id)?;
        let mut mounts = Vec::new();
        for mut mount in std::mem::take(&mut request.mounts) {
            let result = std::mem::take(&mut mount.result_id);
            let graph = if result.is_empty() { None } else { Some(self.graph(&result)?) };
            mounts.push((mount, graph));
        }
        let name = request.container_id.clone();
        let container = self.host.open_container(request, mounts).await?;
        self.containers.keep(name, container).await
    }

    fn end(&self, request: ReturnRequest) -> Result<(), Status> {
        let outcome = match (request.error, request.result) {
            (Some(error), _) => Err(error),
            (None, Some(result)) => Ok(self.answer(result)?),
            (None, None) => return Err(invalid("Return: neither a result nor an error")),
        };
        let mut known = lock(&self.outcome);
        if known.is_some() {
            return Err(Status::new(code::FAILED_PRECONDITION, "Return: was called before"));
        }
        *known = Some(outcome);
        drop(known);
        self.ended.notify_one();
        Ok(())
    }

    fn answer(&self, result: ResultMessage) -> Result<Answer, Status> {
        let mut refs = BTreeMap::new();
        match result.refs {
            None => {}
            Some(ResultRefs::RefDeprecated(id)) => {
                refs.insert(String::new(), self.solved(&id)?);
            }
            Some(ResultRefs::Ref(one)) => {
                refs.insert(String::new(), self.solved(&one.id)?);
            }
            Some(ResultRefs::RefsDeprecated(map)) => {
                for (platform, id) in map.refs {
                    refs.insert(platform, self.solved(&id)?);
                }
            }
            Some(ResultRefs::Refs(map)) => {
                for (platform, one) in map.refs {
                    refs.insert(platform, self.solved(&one.id)?);
                }
            }
        }
        let mut attestations = Vec::new();
        for (platform, list) in result.attestations {
            for message in list.attestation {
                let solved = self.solved(&message.reference.clone().unwrap_or_default().id)?;
                attestations.push(Attested { platform: platform.clone(), message, solved });
            }
        }
        Ok(Answer { refs, metadata: result.metadata, attestations })
    }
}

#[async_trait::async_trait]
impl Service for Bridge<'_> {
    async fn unary(&self, path: &str, message: Bytes) -> Result<Vec<u8>, Status> {
        self.call(path, message).await
    }

    fn is_stream(&self, path: &str) -> bool {
        method(path) == Some(EXEC)
    }

    async fn stream(
        &self,
        _path: &str,
        messages: mpsc::Receiver<Bytes>,
        answers: mpsc::Sender<Vec<u8>>,
    ) -> Result<(), Status> {
        let _busy = Busy::new(&self.activity);
        self.containers.converse(messages, answers).await
    }
}

/// The call that a path names, if it is one of the service.
fn method(path: &str) -> Option<&str> {
    path.strip_prefix('/')?.strip_prefix(SERVICE)?.strip_prefix('/')
}

fn read<M: Message + Default>(message: Bytes) -> Result<M, Status> {
    M::decode(message).map_err(|e| invalid(format!("a message that cannot be read: {e}")))
}

fn set_mode(source: &mut SourceOp, mode: &str) {
    if !mode.is_empty() {
        source.attrs.insert(RESOLVE_MODE.to_owned(), mode.to_owned());
    }
}

fn response(reference: Ref, (result, array): (bool, bool)) -> SolveResponse {
    if !result {
        return SolveResponse { reference: reference.id, result: None };
    }
    let refs = if array { ResultRefs::Ref(reference) } else { ResultRefs::RefDeprecated(reference.id) };
    let result = ResultMessage { refs: Some(refs), ..ResultMessage::default() };
    SolveResponse { reference: String::new(), result: Some(result) }
}

fn warning(request: WarnRequest) -> Warning {
    let text = |bytes: &[u8]| shown(&String::from_utf8_lossy(bytes));
    let line = |position: &Option<crate::llb::definition::Position>| {
        position.as_ref().and_then(|at| u32::try_from(at.line).ok()).unwrap_or_default()
    };
    let location = request.info.as_ref().zip(request.ranges.first());
    Warning {
        vertex: request.digest.parse::<Digest>().ok(),
        short: text(&request.short),
        detail: request.detail.iter().map(|line| text(line)).collect(),
        url: Some(request.url).filter(|url| !url.is_empty()),
        location: location.map(|(info, range)| (info.filename.clone(), line(&range.start), line(&range.end))),
    }
}
