//! Runs exec operations: mounts the trees, hands the step to `exec::run`, commits what it wrote.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rootless::step::StepMount;
use rootless::{Rung, WorkerContext};
use rustix::fs::{Mode, OFlags};

use super::tree::{self, Tree};
use super::{SolveError, Solver, blocking, lock, patiently};
use crate::base::{FaultKind, TraceContext, file as base_file};
use crate::cache::key::{self, Part, Selection};
use crate::cache::mounts::{opened_id, shown};
use crate::exec::cdi::{DeviceError, Devices, Edits};
use crate::exec::file;
use crate::exec::run::{self, ExecError, RunRequest, Runner};
use crate::exec::secret::SecretFile;
use crate::llb::Vertex;
use crate::llb::op::{ExecOp, Meta, Mount, MountType, NetMode, SecretEnv, SecurityMode};
use crate::ssh::AgentSocket;
use crate::store::{CacheMount, Company, LayerId, MountRequest, Mounted, Sharing, StoreError, Stub};

/// Where steps find who takes their spans.
const TRACE_SOCKET: &str = "/dev/otel-grpc.sock";
/// No step has more results.
const MAX_OUTPUTS: usize = 1000;

/// What must live as long as the step runs.
#[derive(Default)]
struct Held {
    mounts: Vec<Mounted>,
    /// By id: a step that mounts one at several places has it once.
    caches: BTreeMap<String, CacheMount>,
    /// If it can meet other steps.
    company: Option<Company>,
    /// Nothing can be mounted here: a cache mount is in one place at a time.
    moves_caches: bool,
    secrets: Vec<SecretFile>,
    agents: Vec<AgentSocket>,
    /// What is behind each bind mount: its target, the layers and the path inside them.
    sources: BTreeMap<String, (Vec<LayerId>, PathBuf)>,
    /// Trees beside the root that are results, too.
    outputs: Vec<Output>,
}

impl Held {
    /// Once the step's processes are gone: whether nobody is left who could have been given what it had open.
    fn is_alone(&mut self) -> Result<bool, StoreError> {
        self.company.take().map_or(Ok(true), Company::is_alone)
    }
}

/// A tree that is a result of a step.
struct Output {
    /// Which.
    index: usize,
    /// The layers below what is written.
    chain: Vec<LayerId>,
    /// `None` where nothing can be written.
    mounted: Option<Mounted>,
}

/// A step that is ready to run.
pub(super) struct Ready {
    meta: Meta,
    network: NetMode,
    security: SecurityMode,
    mounts: Vec<StepMount>,
    extra_env: Vec<(String, String)>,
    extra_groups: Vec<u32>,
    shm_size: u64,
    /// It has secrets or agents.
    confidential: bool,
    /// The layers below what it writes.
    pub(super) chain: Vec<LayerId>,
    pub(super) mounted: Mounted,
    aside: Option<PathBuf>,
    held: Held,
}

impl Ready {
    /// For the runner.
    pub(super) fn request(&self, followed: bool) -> RunRequest<'_> {
        let held = &self.held;
        RunRequest {
            meta: &self.meta,
            network: self.network,
            security: self.security,
            root: self.mounted.root(),
            mounts: self.mounts.clone(),
            extra_env: self.extra_env.clone(),
            extra_groups: self.extra_groups.clone(),
            shm_size: self.shm_size,
            confidential: self.confidential,
            aside: self.aside.clone(),
            caches: held.caches.values().collect(),
            followed,
        }
    }

    /// Its root, once it has ended, and the layers below it.
    pub(super) fn into_written(mut self) -> Result<(Mounted, Vec<LayerId>), StoreError> {
        if !self.held.is_alone()? {
            self.mounted.expose();
        }
        Ok((self.mounted, self.chain))
    }

    /// What is behind the bind mount at a target.
    pub(super) fn source(&self, target: &str) -> Option<&(Vec<LayerId>, PathBuf)> {
        self.held.sources.get(target)
    }
}

impl Solver {
    pub(super) async fn exec_op(
        self: &Arc<Self>,
        vertex: &Arc<Vertex>,
        exec: &ExecOp,
        trees: &[Tree],
    ) -> Result<Vec<Vec<LayerId>>, SolveError> {
        if exec.mounts.iter().any(|mount| usize::try_from(mount.output).is_ok_and(|index| index >= MAX_OUTPUTS)) {
            let message = format!("a step with a result number {MAX_OUTPUTS} or above");
            return Err(SolveError::at(vertex, FaultKind::Input, message, None));
        }
        let runner = self.runner(vertex)?;
        self.check_platform(vertex, &runner).await?;
        // Waiting for a turn is not running: the vertex starts afterwards.
        let _turn = tokio::select! {
            turn = self.steps.acquire() => turn.map_err(|_| SolveError::cancelled())?,
            () = self.env.cancel.cancelled() => return Err(SolveError::cancelled()),
        };
        self.env.events.started(&vertex.digest);
        runner.expect_step();

        let ready = self.ready(vertex, exec, trees, &runner, Vec::new()).await?;
        let followed = self.is_before_step(vertex);
        let result = runner
            .run_step(ready.request(followed), &self.env.events, &vertex.digest, self.env.cancel.cancelled())
            .await
            .map_err(|e| run_error(vertex, &e))?;
        self.note_usage(&vertex.digest, &result);
        if !run::is_success(&ready.meta, result.code) {
            let message = run::failure_text(&ready.meta, &result);
            let hint = run::failure_hint(&ready.meta, &result, ready.mounted.root());
            // What filled the disk is not kept there: the next build needs the room.
            let full = run::is_full(ready.mounted.root());
            let kept = if full { None } else { self.keep_failed(vertex, exec, result.code, ready).await };
            return Err(SolveError::exit(vertex, result.code, message, hint, kept));
        }
        let Ready { mounted, chain, mut held, .. } = ready;
        let mut outputs = std::mem::take(&mut held.outputs);
        let is_alone = held.is_alone().map_err(|e| tree::store_error(vertex, &e))?;
        drop(held);
        let root = exec.mounts.iter().find(|mount| mount.dest == "/");
        let written = root.is_some_and(|root| root.output >= 0 && !root.readonly);
        // A step without results is one whose root is as it was.
        let index = root.and_then(|root| usize::try_from(root.output).ok()).or(outputs.is_empty().then_some(0));
        if let Some(index) = index {
            outputs.push(Output { index, chain, mounted: written.then_some(mounted) });
        }
        let mut results = vec![Vec::new(); outputs.iter().map(|output| output.index + 1).max().unwrap_or_default()];
        for Output { index, mut chain, mounted } in outputs {
            if let Some(mut mounted) = mounted {
                if !is_alone {
                    mounted.expose();
                }
                let place = Arc::clone(vertex);
                let commit = move || mounted.commit(&place.name()).map_err(|e| tree::store_error(&place, &e));
                chain.push(blocking(commit).await?);
            }
            results[index] = chain;
        }
        Ok(results)
    }

    /// Who runs steps here.
    pub(super) fn runner(&self, vertex: &Vertex) -> Result<Arc<Runner>, SolveError> {
        self.env.steps.as_ref().map(Arc::clone).map_err(|reason| {
            SolveError::at(
                vertex,
                FaultKind::Isolation,
                "this machine does not allow RUN steps",
                Some(format!("{reason}; `rbuild doctor` shows every probe")),
            )
        })
    }

    /// Mounts everything a step needs, and `more`.
    pub(super) async fn ready(
        self: &Arc<Self>,
        vertex: &Arc<Vertex>,
        exec: &ExecOp,
        trees: &[Tree],
        runner: &Runner,
        more: Vec<StepMount>,
    ) -> Result<Ready, SolveError> {
        let meta = exec.meta.clone().unwrap_or_default();
        let rung = runner.context().rung;
        let devices = devices(vertex, exec, &self.env.devices, rung)?;
        let mut held = Held { moves_caches: !rung.can_mount(), ..Held::default() };
        if can_meet_others(exec, runner.context()) {
            held.company = self.env.store.company().map_err(|e| tree::store_error(vertex, &e))?;
        }
        self.cache_mounts(vertex, exec, trees, &mut held).await?;
        let private = runner.private_volumes().iter().map(|(_, target)| target.as_path());
        let mut volumes = runner.volumes().iter().map(StepMount::target).chain(private);
        if let Some(target) = volumes.next().filter(|_| !rung.can_mount()) {
            let message = format!("--volume {}: isolation {rung} mounts nothing", target.display());
            let hint = "`rbuild doctor` says what would lift that; files can be brought along with COPY";
            return Err(SolveError::at(vertex, FaultKind::Isolation, message, Some(hint.into())));
        }
        // What a step mounts itself at the same place lies above.
        let mut mounts = runner.volumes().to_vec();
        for (source, target) in runner.private_volumes() {
            let (store, dir, place) = (self.env.store.clone(), source.clone(), Arc::clone(vertex));
            let view = blocking(move || store.mount_directory(&dir).map_err(|e| tree::store_error(&place, &e))).await?;
            let source = view.root().to_owned();
            mounts.push(StepMount::Bind { source, target: target.clone(), readonly: false });
            held.mounts.push(view);
        }
        mounts.extend(more);
        mounts.extend(devices.mounts);
        let mut shm_size = 0;
        let mut root: Option<&Mount> = None;
        for mount in in_locking_order(&exec.mounts) {
            if mount.dest == "/" {
                root = Some(mount);
                continue;
            }
            if mount.mount_type == MountType::Tmpfs as i32 && mount.dest == "/dev/shm" {
                shm_size = mount.tmpfs_opt.as_ref().and_then(|o| u64::try_from(o.size).ok()).unwrap_or(0);
                continue;
            }
            if let Ok(index) = usize::try_from(mount.output) {
                mounts.push(self.output_mount(vertex, mount, index, trees, &mut held).await?);
                continue;
            }
            if let Some(mount) = self.step_mount(vertex, mount, trees, &mut held).await? {
                mounts.push(mount);
            }
        }
        let mut extra_env = devices.env;
        let mut confidential = !held.secrets.is_empty() || !held.agents.is_empty();
        let secret = self.secret_env(vertex, &exec.secretenv)?;
        confidential |= !secret.is_empty();
        extra_env.extend(secret);
        if let Some(trace) = &self.env.trace {
            let socket = trace.socket.as_ref().filter(|_| rung.can_mount());
            let (env, mount) = traced(&trace.context, socket, vertex, &meta);
            extra_env.extend(env);
            mounts.extend(mount);
        }

        let root = root.ok_or_else(|| SolveError::internal("an exec operation without a root mount"))?;
        let chain = match usize::try_from(root.input).ok().and_then(|i| trees.get(i)) {
            Some(tree) => self.layers(vertex, tree).await?,
            None => Vec::new(),
        };
        let stubs = runner.stubs(&meta, &mounts);
        let stubs = stubs.into_iter().map(|s| Stub { path: s.path, dir: s.dir }).collect();
        let last = self.is_last_reader(vertex, root.input);
        let mounted = self.mount(vertex, &chain, MountRequest::writable(stubs).as_last(last)).await?;
        let aside = match held.moves_caches {
            true => Some(mounted.aside().map_err(|e| {
                let message = format!("cannot prepare the step's mounts: {e}");
                SolveError::at(vertex, FaultKind::of_io(&e, FaultKind::Store), message, None)
            })?),
            false => None,
        };
        Ok(Ready {
            meta,
            network: NetMode::try_from(exec.network).unwrap_or(NetMode::Unset),
            security: SecurityMode::try_from(exec.security).unwrap_or(SecurityMode::Sandbox),
            mounts,
            extra_env,
            extra_groups: devices.groups,
            shm_size,
            confidential,
            chain,
            mounted,
            aside,
            held,
        })
    }

    /// The secrets that a process has as variables.
    pub(super) fn secret_env(
        &self,
        vertex: &Arc<Vertex>,
        wanted: &[SecretEnv],
    ) -> Result<Vec<(String, String)>, SolveError> {
        let mut out = Vec::new();
        for secret in wanted {
            match self.env.secrets.values.get(&secret.id) {
                Some(value) => {
                    let value = String::from_utf8(value.to_vec()).map_err(|_| {
                        let message =
                            format!("secret \"{}\" is not text and cannot be an environment variable", secret.id);
                        SolveError::at(vertex, FaultKind::Input, message, None)
                    })?;
                    out.push((secret.name.clone(), value));
                }
                None if secret.optional => {}
                None => return Err(missing_secret(vertex, &secret.id)),
            }
        }
        Ok(out)
    }

    /// Refuses steps for another architecture than this machine runs, unless there is an emulator (SPEC A5.18).
    pub(super) async fn check_platform(&self, vertex: &Arc<Vertex>, runner: &Runner) -> Result<(), SolveError> {
        let Some(platform) = vertex.op.platform.as_ref().map(crate::oci::Platform::from) else { return Ok(()) };
        match runner.emulators().provide(&platform, &self.env.images, &self.env.store).await {
            Ok(note) => {
                if let Some(note) = note {
                    self.env.events.notice("emulator", note);
                }
                Ok(())
            }
            Err(why) => {
                let host = crate::oci::Platform::host();
                let message = format!(
                    "runtime execution on platform {platform} not supported: this machine is {host}, and {why}"
                );
                Err(SolveError::at(vertex, FaultKind::Isolation, message, Some(why.hint)))
            }
        }
    }

    /// Prepares one mount; `None` for an optional secret that is not there.
    async fn step_mount(
        self: &Arc<Self>,
        vertex: &Arc<Vertex>,
        mount: &Mount,
        trees: &[Tree],
        held: &mut Held,
    ) -> Result<Option<StepMount>, SolveError> {
        let target = PathBuf::from(&mount.dest);
        let tree = usize::try_from(mount.input).ok().and_then(|i| trees.get(i));
        match MountType::try_from(mount.mount_type).unwrap_or(MountType::Bind) {
            MountType::Bind => {
                let empty = Tree::Layers(Vec::new());
                let (chain, selector) = self.bind_source(vertex, tree.unwrap_or(&empty), &mount.selector).await?;
                let request =
                    if mount.readonly { MountRequest::read_only() } else { MountRequest::writable(Vec::new()) };
                let mounted = self.mount(vertex, &chain, request).await?;
                let source = inside(vertex, mounted.root(), &selector)?;
                held.mounts.push(mounted);
                held.sources.insert(mount.dest.clone(), (chain, selector));
                Ok(Some(StepMount::Bind { source, target, readonly: mount.readonly }))
            }
            MountType::Tmpfs => {
                let size = mount.tmpfs_opt.as_ref().and_then(|o| u64::try_from(o.size).ok()).unwrap_or(0);
                Ok(Some(StepMount::Tmpfs { target, size, mode: 0o755 }))
            }
            MountType::Cache => {
                let cache = opened_id(vertex, mount).and_then(|id| held.caches.get(&id));
                let cache = cache.ok_or_else(|| SolveError::internal("a cache that was not opened"))?;
                Ok(Some(StepMount::Bind { source: cache.path().to_path_buf(), target, readonly: mount.readonly }))
            }
            MountType::Secret => {
                let opt = mount.secret_opt.clone().unwrap_or_default();
                let Some(value) = self.env.secrets.values.get(&opt.id) else {
                    return if opt.optional { Ok(None) } else { Err(missing_secret(vertex, &opt.id)) };
                };
                let dir = self.env.state_dir.clone();
                let secret = SecretFile::write(&dir, value, opt.uid, opt.gid, opt.mode).map_err(|e| {
                    SolveError::at(
                        vertex,
                        FaultKind::Store,
                        format!("cannot hand over secret \"{}\": {e}", opt.id),
                        None,
                    )
                })?;
                let source = secret.path().to_path_buf();
                held.secrets.push(secret);
                Ok(Some(StepMount::Bind { source, target, readonly: true }))
            }
            MountType::Ssh => {
                let opt = mount.ssh_opt.clone().unwrap_or_default();
                let Some(agent) = self.env.secrets.agents.get(&opt.id) else {
                    return if opt.optional { Ok(None) } else { Err(missing_agent(vertex, &opt.id)) };
                };
                let (dir, agent) = (&self.env.state_dir, Arc::clone(agent));
                let socket = AgentSocket::listen(dir, agent, opt.uid, opt.gid, opt.mode).map_err(|e| {
                    let message = format!("cannot hand over ssh agent \"{}\": {e}", opt.id);
                    SolveError::at(vertex, FaultKind::of_io(&e, FaultKind::Store), message, None)
                })?;
                let source = socket.path().to_path_buf();
                held.agents.push(socket);
                Ok(Some(StepMount::Bind { source, target, readonly: true }))
            }
        }
    }

    /// A mount whose tree is a result of the step.
    async fn output_mount(
        self: &Arc<Self>,
        vertex: &Arc<Vertex>,
        mount: &Mount,
        index: usize,
        trees: &[Tree],
        held: &mut Held,
    ) -> Result<StepMount, SolveError> {
        let refused = |kind, why: &str| {
            SolveError::at(vertex, kind, format!("the mount {} cannot be a result: {why}", mount.dest), None)
        };
        if mount.mount_type != MountType::Bind as i32 {
            return Err(refused(FaultKind::Input, "it is not of type bind"));
        }
        if held.moves_caches {
            return Err(refused(FaultKind::Isolation, "this machine mounts nothing, and a copy does not come back"));
        }
        let chain = match usize::try_from(mount.input).ok().and_then(|i| trees.get(i)) {
            Some(tree) => self.layers(vertex, tree).await?,
            None => Vec::new(),
        };
        let request = if mount.readonly { MountRequest::read_only() } else { MountRequest::writable(Vec::new()) };
        let mounted = self.mount(vertex, &chain, request).await?;
        let selector = if mount.selector.is_empty() { "/" } else { &mount.selector };
        let source = inside(vertex, mounted.root(), Path::new(selector))?;
        let mounted = match mount.readonly {
            true => {
                held.mounts.push(mounted);
                None
            }
            false => Some(mounted),
        };
        held.outputs.push(Output { index, chain, mounted });
        Ok(StepMount::Bind { source, target: PathBuf::from(&mount.dest), readonly: mount.readonly })
    }

    /// The layers behind a bind mount and the path inside them. Of a local directory only what is selected is copied.
    async fn bind_source(
        self: &Arc<Self>,
        vertex: &Arc<Vertex>,
        tree: &Tree,
        selector: &str,
    ) -> Result<(Vec<LayerId>, PathBuf), SolveError> {
        let selector = if selector.is_empty() { "/" } else { selector };
        let local = match tree {
            Tree::Layers(chain) => return Ok((chain.clone(), PathBuf::from(selector))),
            Tree::Local(local) => local,
        };
        let selection = Selection { path: selector.into(), follow: true, ..Selection::default() };
        let content = self.content(vertex, tree, &[selection]).await?;
        let key = key::combine(&crate::base::Digest::sha256("bind source"), &[Part::Content(content)]);
        let (store, local, place, src) =
            (self.env.store.clone(), Arc::clone(local), Arc::clone(vertex), selector.to_owned());
        let chain = blocking(move || local.as_layer(&store, &place, &key, &src, "/source")).await?;
        Ok((chain, PathBuf::from("/source")))
    }

    /// Opens every cache mount of the step, in the order of their ids: two steps that each hold one and wait for the
    /// other's would wait for ever.
    async fn cache_mounts(
        self: &Arc<Self>,
        vertex: &Arc<Vertex>,
        exec: &ExecOp,
        trees: &[Tree],
        held: &mut Held,
    ) -> Result<(), SolveError> {
        let mut wanted: BTreeMap<String, (Sharing, &Mount)> = BTreeMap::new();
        for mount in exec.mounts.iter().filter(|m| m.mount_type == MountType::Cache as i32) {
            let id = opened_id(vertex, mount).unwrap_or_default();
            let sharing = match mount.cache_opt.as_ref().map_or(0, |opt| opt.sharing) {
                1 => Sharing::Private,
                2 => Sharing::Locked,
                _ if held.moves_caches => Sharing::Locked,
                _ => Sharing::Shared,
            };
            if held.moves_caches && wanted.contains_key(&id) {
                let message = format!("cache mount \"{}\" is wanted twice in one step", shown(&id));
                let hint = "without mounts (isolation chroot) a cache can be in one place only; give the second an id of its own";
                return Err(SolveError::at(vertex, FaultKind::Isolation, message, Some(hint.into())));
            }
            // Of several wishes for one cache the strictest counts.
            let known = wanted.entry(id).or_insert((sharing, mount));
            known.0 = known.0.max(sharing);
        }
        for (id, (sharing, mount)) in wanted {
            let tree = usize::try_from(mount.input).ok().and_then(|i| trees.get(i));
            let open = self.cache_mount(vertex, &id, sharing, &mount.selector, tree);
            let cache = tokio::select! {
                cache = open => cache?,
                // It may be another process that holds it, for as long as it likes.
                () = self.env.cancel.cancelled() => return Err(SolveError::cancelled()),
            };
            held.caches.insert(id, cache);
        }
        Ok(())
    }

    async fn cache_mount(
        self: &Arc<Self>,
        vertex: &Arc<Vertex>,
        id: &str,
        sharing: Sharing,
        selector: &str,
        from: Option<&Tree>,
    ) -> Result<CacheMount, SolveError> {
        let opened = match from {
            Some(tree) => Some(self.open(vertex, tree).await?),
            None => None,
        };
        lock(&self.opened).insert(id.to_owned());
        let (store, place, id) = (self.env.store.clone(), Arc::clone(vertex), id.to_owned());
        let (this, runtime) = (Arc::clone(self), tokio::runtime::Handle::current());
        let src = if selector.is_empty() { "/".to_owned() } else { selector.to_owned() };
        patiently(move || {
            let fail = |e| tree::store_error(&place, &e);
            let mut seed = |dir: &Path| {
                // This thread may block: it is none of the runtime's.
                runtime.block_on(this.restore_mount(&place.digest, &id, dir));
                let Some(opened) = opened.as_ref().filter(|_| !dir.exists()) else { return Ok(()) };
                let (Some(parent), Some(name)) = (dir.parent(), dir.file_name()) else {
                    return Err(std::io::ErrorKind::InvalidInput.into());
                };
                // The directory itself with what is in it: mode and owner are the source's.
                let everything = crate::llb::op::FileActionCopy {
                    src: src.clone(),
                    dest: format!("/{}", name.to_string_lossy()),
                    mode: -1,
                    timestamp: -1,
                    follow_symlink: true,
                    ..Default::default()
                };
                file::copy(&opened.source, parent, &everything, None).map(|_| ()).map_err(std::io::Error::other)
            };
            store.cache_mount(&id, sharing, Some(&mut seed)).map_err(fail)
        })
        .await
    }
}

/// Whether a step finds a place where another one that runs at the same time can hand it descriptors.
fn can_meet_others(exec: &ExecOp, context: &WorkerContext) -> bool {
    /// From here on a Landlock domain keeps abstract sockets to itself.
    const SCOPES: u32 = 6;
    let is_shared =
        |m: &Mount| m.mount_type == MountType::Cache as i32 && m.cache_opt.as_ref().is_none_or(|o| o.sharing == 0);
    // Where caches move, they are in one step at a time.
    let shares_cache = context.rung.can_mount() && exec.mounts.iter().any(is_shared);
    shares_cache || exec.network != NetMode::None as i32 && context.landlock_abi < SCOPES
}

/// What the runner could not do.
pub(super) fn run_error(vertex: &Vertex, error: &ExecError) -> SolveError {
    match error.kind() {
        FaultKind::Interrupted => SolveError::cancelled(),
        kind => SolveError::at(vertex, kind, error.to_string(), error.hint()),
    }
}

/// SPEC A5.10: what the step is given of the machine's devices.
fn devices(vertex: &Vertex, exec: &ExecOp, devices: &Devices, rung: Rung) -> Result<Edits, SolveError> {
    let refused = |e: DeviceError| SolveError::at(vertex, FaultKind::Input, e.to_string(), e.hint());
    let edits = devices.edits(&exec.cdi_devices).map_err(refused)?;
    if !edits.mounts.is_empty() && !rung.can_mount() {
        let names: Vec<_> = exec.cdi_devices.iter().map(|device| device.name.as_str()).collect();
        let message = format!("device {} cannot be given to a step: isolation {rung} mounts nothing", names.join(", "));
        let hint = "`rbuild doctor` shows what this machine allows".to_owned();
        return Err(SolveError::at(vertex, FaultKind::Isolation, message, Some(hint)));
    }
    Ok(edits)
}

/// What a step has of the trace that the build is part of (SPEC C5.17). It differs in each build and is no part of the step's key.
/// What the image or the Dockerfile says of the one or the other goes before it.
fn traced(
    trace: &TraceContext,
    socket: Option<&PathBuf>,
    vertex: &Vertex,
    meta: &Meta,
) -> (Vec<(String, String)>, Option<StepMount>) {
    let says = |prefix: &str| meta.env.iter().any(|variable| variable.starts_with(prefix));
    let mut env = Vec::new();
    if !says("TRACEPARENT=") {
        let traceparent = trace.traceparent(trace.span(vertex.digest.as_str()));
        env.push(("TRACEPARENT".into(), traceparent));
    }
    let Some(source) = socket.cloned().filter(|_| !says("OTEL_")) else { return (env, None) };
    env.extend([
        ("OTEL_TRACES_EXPORTER".into(), "otlp".into()),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT".into(), format!("unix://{TRACE_SOCKET}")),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL".into(), "grpc".into()),
    ]);
    (env, Some(StepMount::Bind { source, target: TRACE_SOCKET.into(), readonly: true }))
}

/// The mounts, cache mounts by name: steps that wait for two of them must not wait for each other.
fn in_locking_order(mounts: &[Mount]) -> Vec<&Mount> {
    let mut out: Vec<&Mount> = mounts.iter().collect();
    out.sort_by_key(|m| m.cache_opt.as_ref().map(|c| c.id.clone()));
    out
}

fn missing_secret(vertex: &Vertex, id: &str) -> SolveError {
    let hint = format!("give it with --secret id={id},src=FILE or --secret id={id},env=VARIABLE");
    SolveError::at(vertex, FaultKind::Input, format!("secret {id}: not found"), Some(hint))
}

fn missing_agent(vertex: &Vertex, id: &str) -> SolveError {
    let hint = format!("give it with --ssh {id}, --ssh {id}=SOCKET or --ssh {id}=KEY");
    SolveError::at(vertex, FaultKind::Input, format!("ssh agent \"{id}\": not found"), Some(hint))
}

/// The real path of `selector` below a mounted root, with every symlink resolved inside the root.
fn inside(vertex: &Vertex, root: &Path, selector: &Path) -> Result<PathBuf, SolveError> {
    let fail = |e: std::io::Error| {
        let message = format!("cannot mount \"{}\": {e}", selector.display());
        SolveError::at(vertex, FaultKind::Input, message, None)
    };
    let dir = base_file::open_dir(root).map_err(fail)?;
    let relative = selector.strip_prefix("/").unwrap_or(selector);
    let found = base_file::open_in_root(&dir, relative, OFlags::PATH, Mode::empty()).map_err(fail)?;
    let link = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&found));
    std::fs::read_link(link).map_err(fail)
}
