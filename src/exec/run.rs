//! Runs the process of an `ExecOp` over a mounted root file system.
//!
//! Turns an op's [`Meta`] into a step of the `rootless` crate: user, environment, working directory, name resolution and
//! limits; then passes its output on as events and its end as a result. Knows nothing of where the root came from.

mod container;
mod error;
mod running;

use std::fs;
use std::future::Future;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rootless::Capabilities;
pub use rootless::cgroup::Resources;
use rootless::cgroup::StepGroup;
use rootless::step::{
    Attached, Emulation, Network, Rlimit, RootSwitch, STEP_VERSION, StepMount, StepOutcome, StepSpec, Usage,
};
use rootless::{Rung, SealedExe, StepHandles, StepIo, StepSignal, WorkerContext};
use rustix::fs::{Mode, OFlags};
use tokio::sync::RwLock;
use tokio::sync::mpsc::UnboundedReceiver;

use super::emulators::{EmulatorSource, Emulators};
pub use super::hosts::DnsOptions;
pub use super::network::DefaultNetwork;
use super::network::{self, Networks, StepNetwork};
use super::place::Placement;
use super::spawner::Spawner;
use super::targets;
pub use super::user::UserError;
use super::{cwd, hosts, user};
use crate::base::{Digest, Events, blocking, file};
use crate::llb::op::{Meta, NetMode, ProxyEnv, SecurityMode};
use crate::store::CacheMount;

pub use container::Program;
pub use error::ExecError;
use error::io_error;
use running::{KILLED, accompany, follow, in_time, start};

/// SPEC C5.01.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// SPEC C5.02.
pub const DEFAULT_HOSTNAME: &str = "buildkitsandbox";
/// SPEC C5.07.
const DEFAULT_SHM: u64 = 64 << 20;
/// Where steps look names up first.
const HOSTS: &str = "/etc/hosts";

/// A mountpoint that must exist in the root file system but must not enter the layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountStub {
    /// Absolute path inside the root.
    pub path: PathBuf,
    /// Directory or file.
    pub dir: bool,
}

/// One RUN.
#[derive(Debug)]
pub struct RunRequest<'a> {
    /// The process.
    pub meta: &'a Meta,
    /// Network mode.
    pub network: NetMode,
    /// Security mode.
    pub security: SecurityMode,
    /// The mounted root file system, writable.
    pub root: &'a Path,
    /// Mounts beside the standard ones; their targets exist (see [`required_stubs`]). Parents are mounted first.
    pub mounts: Vec<StepMount>,
    /// Environment added last, replacing what has the same name, e.g. secrets.
    pub extra_env: Vec<(String, String)>,
    /// Supplementary groups beside the user's.
    pub extra_groups: Vec<u32>,
    /// Bytes of /dev/shm; 0 for the default of 64 MiB. (A tmpfs mount on `/dev/shm` does the same.)
    pub shm_size: u64,
    /// The step has secrets or agents in its environment or mounts.
    pub confidential: bool,
    /// An empty directory outside of `root` on its file system, where the rung cannot mount.
    pub aside: Option<PathBuf>,
    /// The cache mounts among `mounts`, which are lent to the root where the rung cannot mount.
    pub caches: Vec<&'a CacheMount>,
    /// Another step comes after this one: what it needs is made ready while this one runs.
    pub followed: bool,
}

/// Who a program is attached to.
#[derive(Debug)]
pub struct Attachment {
    /// What it reads and writes.
    pub io: StepIo,
    /// Standard input is a terminal, and the program's to control.
    pub terminal: bool,
    /// The name of that terminal, where this process sees it.
    pub console: Option<PathBuf>,
    /// Signals to pass on.
    pub signals: UnboundedReceiver<StepSignal>,
}

/// Where the output of a program goes.
enum Output<'a> {
    Events(&'a Digest),
    Attached(Attachment),
}

/// How a RUN ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunResult {
    /// Exit code; 128 + signal for a signal.
    pub code: i32,
    /// What it used.
    pub usage: Usage,
    /// The kernel killed a process because memory ran out.
    pub out_of_memory: bool,
}

/// What holds for all steps of a worker.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StepOptions {
    /// Name resolution.
    pub dns: DnsOptions,
    /// The network of steps that ask for none in particular.
    pub network: DefaultNetwork,
    /// Limits that somebody asked for: they are set, or the step fails.
    pub resources: Resources,
    /// Emulators of other architectures that somebody named.
    pub emulators: Vec<EmulatorSource>,
    /// The control group below which this process runs; empty for where it was started.
    pub cgroup_parent: String,
    /// What of this machine every step sees, by the command line's will; no key knows of it (SPEC D3.10).
    pub volumes: Vec<StepMount>,
    /// The same of directories that each step may change for itself: nothing of that stays (SPEC D3.10).
    pub private_volumes: Vec<(PathBuf, PathBuf)>,
    /// Steps see `/etc/hosts` of the image.
    pub no_hosts: bool,
    /// Those of root.
    pub capabilities: Capabilities,
    /// Groups of every step's user beside those that the image gives it, by number or by name (SPEC D3.19).
    pub groups: Vec<String>,
    /// No program of a step gains privileges by being executed (SPEC D3.19).
    pub no_new_privileges: bool,
    /// Steps read what this program has as its standard input (SPEC D3.31).
    pub input: bool,
    /// How long a step may take; `None` for [`DEFAULT_TIMEOUT`], zero for ever.
    pub timeout: Option<Duration>,
}

/// Nobody waits longer for a step.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
/// Processes and threads of a user among all steps, where nobody asked for a limit: a fork bomb ends before the machine.
const DEFAULT_PROCESSES: u64 = 16_384;

/// Starts steps. One per worker.
pub struct Runner {
    context: WorkerContext,
    spawner: Arc<Spawner>,
    options: StepOptions,
    networks: Arc<Networks>,
    /// Why steps cannot have networks of their own, once that is known.
    no_network: OnceLock<String>,
    /// A step had one.
    had_network: AtomicBool,
    emulators: Emulators,
    /// What steps read, if they read what this program does.
    input: Option<OwnedFd>,
    next: AtomicU64,
    /// Held alone by confidential steps where steps cannot be kept apart.
    together: RwLock<()>,
}

impl Runner {
    /// A runner for this worker.
    ///
    /// # Errors
    /// When the program cannot be protected from the steps, or an emulator that was named is none.
    pub fn new(context: WorkerContext, options: StepOptions) -> Result<Self, ExecError> {
        let exe = match context.switch() {
            RootSwitch::Pivot => SealedExe::new().map_err(io_error("protect the program from the steps it runs"))?,
            RootSwitch::Chroot | RootSwitch::Traced => SealedExe::out_of_reach(),
        };
        let (networks, no_network) = (Arc::<Networks>::default(), OnceLock::new());
        if context.switch() != RootSwitch::Pivot {
            let _ = no_network.set(format!("isolation {} has no namespaces", context.rung));
        }
        let emulators = Emulators::new(&context, &options.emulators)?;
        let input = options.input.then(running::input).transpose()?;
        let (next, together) = (AtomicU64::new(0), RwLock::new(()));
        let had_network = AtomicBool::new(false);
        let spawner = Arc::new(Spawner::new(exe));
        Ok(Self { context, spawner, options, networks, no_network, had_network, emulators, input, next, together })
    }

    /// To be called when a step will run soon: its process and its network are made meanwhile.
    pub fn expect_step(&self) {
        if self.context.rung == Rung::None {
            return;
        }
        // Control groups of version 2 can be made only where no process is beside them.
        if self.options.resources.is_empty() {
            self.spawner.expect();
        }
        if self.options.network != DefaultNetwork::Host && self.no_network.get().is_none() {
            self.networks.expect();
        }
    }

    /// Who makes programs of other architectures run.
    #[must_use]
    pub fn emulators(&self) -> &Emulators {
        &self.emulators
    }

    /// How long a step may take, if somebody said; zero is for ever.
    #[must_use]
    pub fn timeout(&self) -> Option<Duration> {
        self.options.timeout
    }

    /// What every step sees of this machine.
    #[must_use]
    pub fn volumes(&self) -> &[StepMount] {
        &self.options.volumes
    }

    /// Directories of this machine that each step may change for itself, and where it sees them.
    #[must_use]
    pub fn private_volumes(&self) -> &[(PathBuf, PathBuf)] {
        &self.options.private_volumes
    }

    /// The mountpoints of a step; see [`required_stubs`].
    #[must_use]
    pub fn stubs(&self, meta: &Meta, mounts: &[StepMount]) -> Vec<MountStub> {
        let mut stubs = required_stubs(meta, mounts);
        stubs.retain(|stub| !self.options.no_hosts || stub.path != Path::new(HOSTS));
        stubs
    }

    /// The worker it runs steps for.
    #[must_use]
    pub fn context(&self) -> &WorkerContext {
        &self.context
    }

    /// Runs one step to its end. Output goes to `events` as it comes. When `cancel` completes, or the returned future is
    /// dropped, every process of the step is killed at once.
    ///
    /// # Errors
    /// When the step could not be started or was canceled. A non-zero exit code is not an error here.
    pub async fn run_step(
        &self,
        request: RunRequest<'_>,
        events: &Events,
        vertex: &Digest,
        cancel: impl Future<Output = ()> + Send,
    ) -> Result<RunResult, ExecError> {
        self.run(request, events, Output::Events(vertex), cancel).await
    }

    /// Runs a program that somebody is attached to; nothing of its output becomes an event.
    ///
    /// # Errors
    /// As [`Runner::run_step`].
    pub async fn run_attached(
        &self,
        request: RunRequest<'_>,
        events: &Events,
        attachment: Attachment,
        cancel: impl Future<Output = ()> + Send,
    ) -> Result<RunResult, ExecError> {
        self.run(request, events, Output::Attached(attachment), cancel).await
    }

    async fn run(
        &self,
        request: RunRequest<'_>,
        events: &Events,
        output: Output<'_>,
        cancel: impl Future<Output = ()> + Send,
    ) -> Result<RunResult, ExecError> {
        if self.context.rung == Rung::None {
            return Err(ExecError::NoRung);
        }
        // What a front end asks for only the command line can give: it is too late to go there. Who looks around in a step is
        // where he came from.
        if matches!(output, Output::Events(_)) && request.meta.cgroup_parent != self.options.cgroup_parent {
            return Err(ExecError::CgroupParent(request.meta.cgroup_parent.clone()));
        }
        let separate = self.context.steps_are_separate();
        if request.confidential && !separate {
            events.notice(
                "confidential-alone",
                "steps with secrets run alone: /proc is shared between steps here and the kernel has no Landlock",
            );
        }
        let mut cancel = std::pin::pin!(cancel);
        let work = async {
            let (_alone, _shared) = match (separate, request.confidential) {
                (true, _) => (None, None),
                (false, true) => (Some(self.together.write().await), None),
                (false, false) => (None, Some(self.together.read().await)),
            };
            let network = self.network(&request, events).await?;
            let (mut spec, files) = self.prepare(&request, &network)?;
            let placement = place(&request, &mut spec)?;
            let held = Arc::new((network, self.group(&spec.id)?));
            let kills = self.context.groups.out_of_memory();
            let spawner = Arc::clone(&self.spawner);
            let outcome = match output {
                Output::Events(vertex) => {
                    let ends = self.input.as_ref().map(running::ends).transpose()?;
                    if let Some((io, _)) = &ends {
                        give(io, spec.uid, spec.gid);
                        spec.attached = Some(Attached { terminal: false, console: None });
                    }
                    let begin = move |handles: StepHandles<'_>| match ends {
                        None => spawner.start(&spec, handles),
                        Some((io, [stdout, stderr])) => {
                            let mut step = spawner.start_attached(&spec, handles, io)?;
                            (step.stdout, step.stderr) = (Some(stdout), Some(stderr));
                            Ok(step)
                        }
                    };
                    let (step, held) = start(held, begin).await?;
                    // Where there are no namespaces, nothing of ours waits beside a program that runs.
                    if request.followed && self.context.switch() == RootSwitch::Pivot {
                        self.expect_step();
                    }
                    (in_time(self.options.timeout, follow(step, events, vertex)).await, held)
                }
                Output::Attached(Attachment { io, terminal, console, signals }) => {
                    give(&io, spec.uid, spec.gid);
                    spec.attached = Some(Attached { terminal, console });
                    let begin = move |handles: StepHandles<'_>| spawner.start_attached(&spec, handles, io);
                    let (step, held) = start(held, begin).await?;
                    // Somebody is there who can end it: time is not limited.
                    (accompany(step, signals).await, held)
                }
            };
            let (outcome, held) = outcome;
            let out_of_memory = |code| {
                held.1.as_ref().is_some_and(StepGroup::ran_out_of_memory)
                    || code == KILLED && self.context.groups.out_of_memory() > kills
            };
            let outcome = outcome.map(|outcome| match outcome {
                StepOutcome::Exited { code, usage } => {
                    Ok(RunResult { code, usage, out_of_memory: code != 0 && out_of_memory(code) })
                }
                StepOutcome::Failed { message } => Err(ExecError::NotStarted(message)),
            });
            drop((files, held));
            let taken_out = placement.map_or(Ok(()), |p| tokio::task::block_in_place(|| p.remove()));
            match outcome?? {
                // A step that failed on its own has the better explanation.
                result if result.code != 0 => Ok(result),
                result => Ok(taken_out.map(|()| result)?),
            }
        };
        // Dropping the unfinished work drops the running step, which kills it.
        tokio::select! {
            biased;
            () = &mut cancel => Err(ExecError::Canceled),
            result = work => result,
        }
    }

    /// The network of a step (SPEC A5.08, C5.12).
    async fn network(&self, request: &RunRequest<'_>, events: &Events) -> Result<Way, ExecError> {
        match (request.network, self.options.network) {
            (NetMode::None, _) => return Ok(Way::None),
            (NetMode::Host, _) | (_, DefaultNetwork::Host) => return Ok(Way::Host),
            (NetMode::Unset, _) => {}
        }
        let reason = match (self.no_network.get(), loopback_proxy(request.meta)) {
            (Some(reason), _) => reason.clone(),
            (None, Some(proxy)) => format!("the proxy {proxy} is on its loopback"),
            (None, None) => {
                let wants_host = request.meta.extra_hosts.iter().any(|h| h.ip == hosts::HOST_GATEWAY);
                let networks = Arc::clone(&self.networks);
                let opening = blocking::brief(move || networks.open(&resolv_conf(), wants_host));
                match opening.await.map_err(io::Error::other).flatten() {
                    Ok(network) => {
                        self.had_network.store(true, Ordering::Relaxed);
                        return Ok(Way::Own(network));
                    }
                    // Where it was possible before, it is not the machine that forbids it: no step gets more than the
                    // others because something ran out.
                    Err(e) if self.had_network.load(Ordering::Relaxed) => {
                        return Err(ExecError::NoNetwork(e.to_string()));
                    }
                    Err(e) => self.no_network.get_or_init(|| e.to_string()).clone(),
                }
            }
        };
        if self.options.network == DefaultNetwork::Sandbox {
            return Err(ExecError::NoNetwork(reason));
        }
        events.notice("network", format!("steps share the network of this machine: {reason}"));
        Ok(Way::Host)
    }

    /// The control group of a step, where somebody asked for limits; where nobody did, a bound on its processes if that is
    /// easily had (in a user namespace a plain resource limit does it).
    fn group(&self, id: &str) -> Result<Option<StepGroup>, ExecError> {
        let name = format!("{}{}-{id}", rootless::cgroup::PREFIX, std::process::id());
        let groups = &self.context.groups;
        if !self.options.resources.is_empty() {
            return Ok(Some(groups.create(&name, &self.options.resources, true)?));
        }
        if matches!(self.context.rung, Rung::Userns | Rung::UsernsOne) {
            return Ok(None);
        }
        let processes = Resources { processes: Some(DEFAULT_PROCESSES), ..Resources::default() };
        Ok(groups.create(&name, &processes, false).ok())
    }

    /// The step, and the files it needs for as long as it runs.
    fn prepare(&self, request: &RunRequest<'_>, way: &Way) -> Result<(StepSpec, StepFiles), ExecError> {
        let meta = request.meta;
        let root = file::open_dir(request.root)
            .map_err(io_error(format!("open the root file system {}", request.root.display())))?;
        let process = self.process(&root, meta, &request.extra_env, &request.extra_groups)?;
        let hostname = if meta.hostname.is_empty() { DEFAULT_HOSTNAME } else { &meta.hostname };
        let id = format!("s{}", self.next.fetch_add(1, Ordering::Relaxed));
        let files = StepFiles::write(
            self.context.state_dir.join("f").join(&id),
            &hosts::hosts(hostname, &meta.extra_hosts, way.host_gateway()),
            &self.resolv_conf(way),
        )?;
        let mut mounts = files.mounts();
        mounts.retain(|mount| !self.options.no_hosts || mount.target() != Path::new(HOSTS));
        mounts.extend(request.mounts.iter().cloned());
        // Parents first; among equals the last one is on top, as asked for.
        mounts.sort_by_key(|m| m.target().components().count());
        targets::check(request.root, &mounts)?;
        let spec = StepSpec {
            version: STEP_VERSION,
            id,
            rootfs: request.root.to_owned(),
            state_dir: self.context.state_dir.clone(),
            args: process.args,
            env: process.env,
            cwd: process.cwd,
            uid: process.identity.uid,
            gid: process.identity.gid,
            groups: process.identity.groups,
            hostname: hostname.to_owned(),
            mounts,
            network: way.mode(),
            shm_size: if request.shm_size == 0 { DEFAULT_SHM } else { request.shm_size },
            rlimits: process.rlimits,
            capabilities: self.options.capabilities,
            insecure: request.security == SecurityMode::Insecure,
            no_new_privileges: self.options.no_new_privileges,
            proc_mode: self.context.proc_mode,
            switch: self.context.switch(),
            emulation: self.context.emulation(request.security == SecurityMode::Insecure),
            fresh_sys: self.context.rung == Rung::Root,
            cgroup_dir: self.context.cgroup_dir.clone(),
            attached: None,
            joins: None,
        };
        Ok((spec, files))
    }

    /// What of a step is about its process alone. Makes the working directory if it is not in the root.
    fn process(
        &self,
        root: &OwnedFd,
        meta: &Meta,
        extra_env: &[(String, String)],
        extra_groups: &[u32],
    ) -> Result<Process, ExecError> {
        let mut identity = user::resolve(root, &meta.user)?;
        identity.groups.extend(extra_groups);
        identity.groups.extend(user::groups(root, &self.options.groups)?);
        self.check_mapped(&identity)?;
        let dir = if meta.cwd.is_empty() { Path::new("/") } else { Path::new(&meta.cwd) };
        cwd::ensure(root, dir, (identity.uid, identity.gid))
            .map_err(|source| ExecError::Cwd { path: dir.to_owned(), source })?;
        Ok(Process {
            args: meta.args.clone(),
            env: environment(meta, extra_env, identity.home.as_deref()),
            cwd: dir.to_owned(),
            rlimits: self.limits(meta)?,
            identity,
        })
    }

    fn limits(&self, meta: &Meta) -> Result<Vec<Rlimit>, ExecError> {
        let mut out = limits(meta)?;
        if !out.iter().any(|l| l.name == "core") {
            // A program that crashes would leave its memory, secrets and all, as a file in the layer. It may ask for that itself.
            let now = rustix::process::getrlimit(rustix::process::Resource::Core);
            out.push(Rlimit { name: "core".into(), soft: 0, hard: now.maximum.unwrap_or(u64::MAX) });
        }
        let bound =
            matches!(self.context.rung, Rung::Userns | Rung::UsernsOne) && !out.iter().any(|l| l.name == "nproc");
        if bound {
            // Never more than there is: raising a limit is not ours.
            let now = rustix::process::getrlimit(rustix::process::Resource::Nproc);
            let most = now.maximum.unwrap_or(u64::MAX).min(DEFAULT_PROCESSES);
            out.push(Rlimit { name: "nproc".into(), soft: now.current.unwrap_or(u64::MAX).min(most), hard: most });
        }
        Ok(out)
    }

    fn check_mapped(&self, identity: &user::Identity) -> Result<(), ExecError> {
        if matches!(self.context.emulation(false), Emulation::Ids | Emulation::Errno | Emulation::Paths) {
            return Ok(());
        }
        let ids = &self.context.ids;
        let available = |ranges: &[rootless::idmap::IdRange]| {
            let texts: Vec<_> = ranges.iter().map(|r| format!("{}-{}", r.start, r.start + (r.count - 1))).collect();
            if texts.is_empty() { "none".to_owned() } else { texts.join(", ") }
        };
        if !ids.has_uid(identity.uid) {
            return Err(ExecError::UnmappedId { kind: "user", id: identity.uid, available: available(&ids.uids) });
        }
        match identity.groups.iter().find(|g| !ids.has_gid(**g)) {
            Some(id) => Err(ExecError::UnmappedId { kind: "group", id: *id, available: available(&ids.gids) }),
            None => Ok(()),
        }
    }

    fn resolv_conf(&self, way: &Way) -> String {
        let upstream = fs::read_to_string("/run/systemd/resolve/resolv.conf").ok();
        hosts::resolv_conf(&resolv_conf(), upstream.as_deref(), way.servers(), &self.options.dns)
    }
}

/// Puts what a step is to see into its tree, where the rung cannot mount it.
fn place<'a>(request: &'a RunRequest<'_>, spec: &mut StepSpec) -> Result<Option<Placement<'a>>, ExecError> {
    let (Some(aside), RootSwitch::Chroot | RootSwitch::Traced) = (&request.aside, spec.switch) else { return Ok(None) };
    let mounts = std::mem::take(&mut spec.mounts);
    let placed =
        tokio::task::block_in_place(|| Placement::new(request.root, aside, &mounts, &request.caches, spec.emulation));
    Ok(Some(placed?))
}

/// What of a step is about its process alone.
struct Process {
    args: Vec<String>,
    env: Vec<String>,
    cwd: PathBuf,
    identity: user::Identity,
    rlimits: Vec<Rlimit>,
}

/// What the program has open it may open again by name; where that cannot be had, it has it open.
fn give(io: &StepIo, uid: u32, gid: u32) {
    for fd in [&io.stdin, &io.stdout, &io.stderr] {
        let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
        let _ = rustix::fs::fchown(fd, Some(uid), Some(gid));
    }
}

/// The machine's; without one there is none.
fn resolv_conf() -> String {
    fs::read_to_string("/etc/resolv.conf").unwrap_or_default()
}

/// A proxy the step is told of that only this machine itself can reach.
fn loopback_proxy(meta: &Meta) -> Option<String> {
    let settings = proxy_variables(meta.proxy_env.as_ref()?);
    settings
        .into_iter()
        .find(|(name, value)| !name.eq_ignore_ascii_case("NO_PROXY") && network::is_on_loopback(value))
        .map(|(name, _)| name)
}

/// How a step is connected.
#[derive(Debug)]
enum Way {
    Host,
    None,
    Own(StepNetwork),
}

impl Way {
    fn mode(&self) -> Network {
        match self {
            Self::Host => Network::Host,
            Self::None => Network::None,
            Self::Own(_) => Network::Own,
        }
    }

    fn namespace(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Own(network) => Some(network.namespace()),
            Self::Host | Self::None => None,
        }
    }

    /// What `host-gateway` stands for.
    fn host_gateway(&self) -> Ipv4Addr {
        match self {
            Self::Own(_) => network::addresses::HOST_V4,
            // The machine, or as much of it as there is.
            Self::Host | Self::None => Ipv4Addr::LOCALHOST,
        }
    }

    fn servers(&self) -> hosts::Servers<'_> {
        match self {
            Self::Host => hosts::Servers::All,
            Self::None => hosts::Servers::NotLoopback,
            Self::Own(network) => hosts::Servers::These(&network::addresses::NAME_SERVERS[..network.name_servers]),
        }
    }
}

/// The files bound over `/etc/hosts` and `/etc/resolv.conf`; removed when dropped.
struct StepFiles(PathBuf);

impl StepFiles {
    fn write(dir: PathBuf, hosts: &str, resolv_conf: &str) -> Result<Self, ExecError> {
        fs::create_dir_all(&dir).map_err(io_error(format!("create {}", dir.display())))?;
        let files = Self(dir);
        for (name, text) in [("hosts", hosts), ("resolv.conf", resolv_conf)] {
            let path = files.0.join(name);
            fs::write(&path, text)
                .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o644)))
                .map_err(io_error(format!("write {}", path.display())))?;
        }
        Ok(files)
    }

    fn mounts(&self) -> Vec<StepMount> {
        ["hosts", "resolv.conf"]
            .iter()
            .map(|name| StepMount::Bind {
                source: self.0.join(name),
                target: Path::new("/etc").join(name),
                readonly: true,
            })
            .collect()
    }
}

impl Drop for StepFiles {
    fn drop(&mut self) {
        // On a tmpfs that goes away with the worker.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The mountpoints the root of a step must have, for the store to make before the mount (SPEC C5.18).
///
/// What lies below another mount is not in the root and not listed.
#[must_use]
pub fn required_stubs(meta: &Meta, mounts: &[StepMount]) -> Vec<MountStub> {
    let _ = meta;
    let mut out: Vec<MountStub> = ["/proc", "/dev", "/sys"].map(|p| MountStub { path: p.into(), dir: true }).into();
    out.extend(["/etc/hosts", "/etc/resolv.conf"].map(|p| MountStub { path: p.into(), dir: false }));
    let mut sorted: Vec<&StepMount> = mounts.iter().collect();
    sorted.sort_by_key(|m| m.target().components().count());
    for mount in sorted {
        let target = mount.target();
        let covered = out.iter().any(|s| s.path == target || (s.dir && target.starts_with(&s.path)));
        if covered || target == Path::new("/") {
            continue;
        }
        let dir = match mount {
            StepMount::Bind { source, .. } | StepMount::Host { source, .. } => source.is_dir(),
            StepMount::Tmpfs { .. } => true,
        };
        out.push(MountStub { path: target.to_owned(), dir });
    }
    out
}

/// The exit code of what could not be run because it is not there, as shells have it.
const NOT_FOUND: i32 = 127;

/// The error text of a step that failed (SPEC A5.16, C4.14).
#[must_use]
pub fn failure_text(meta: &Meta, result: &RunResult) -> String {
    let memory = if result.out_of_memory { ": cannot allocate memory" } else { "" };
    format!("process \"{}\" did not complete successfully: exit code: {}{memory}", meta.args.join(" "), result.code)
}

/// What a failed step's end says beyond its code: the memory ran out, there is no room left below `root`, or what was to run is
/// not there.
#[must_use]
pub fn failure_hint(meta: &Meta, result: &RunResult, root: &Path) -> Option<String> {
    let program = meta.args.first().map_or("", String::as_str);
    let hint = if result.out_of_memory {
        "the kernel killed a process of the step because memory ran out (--memory, or the machine's)".into()
    } else if is_full(root) {
        "the store's file system is full (`rbuild prune` frees what no build needs; --root names another place)".into()
    } else if result.code == NOT_FOUND && lacks(root, program) {
        format!(
            "there is no {program} in the image: build upon one that has it, or name the program (RUN [\"program\", …], SHELL)"
        )
    } else {
        return None;
    };
    Some(hint)
}

/// Whether nothing is at the absolute path `program` below `root`.
fn lacks(root: &Path, program: &str) -> bool {
    let look = |root| file::open_in_root(&root, Path::new(program), OFlags::PATH, Mode::empty());
    let found = file::open_dir(root).and_then(look);
    program.starts_with('/') && found.is_err_and(|e| e.kind() == io::ErrorKind::NotFound)
}

/// Whether nothing can be written below `root` any more.
#[must_use]
pub fn is_full(root: &Path) -> bool {
    rustix::fs::statvfs(root).is_ok_and(|room| room.f_bavail == 0 || room.f_files > 0 && room.f_favail == 0)
}

/// Whether `code` counts as success for this process.
#[must_use]
pub fn is_success(meta: &Meta, code: i32) -> bool {
    if meta.valid_exit_codes.is_empty() { code == 0 } else { meta.valid_exit_codes.contains(&code) }
}

/// The complete environment of a step (SPEC C5.01, C5.11, A5.15).
fn environment(meta: &Meta, extra: &[(String, String)], home: Option<&str>) -> Vec<String> {
    let mut env = meta.env.clone();
    let has =
        |env: &[String], name: &str| env.iter().any(|e| e.strip_prefix(name).is_some_and(|rest| rest.starts_with('=')));
    if !has(&env, "PATH") {
        env.push(format!("PATH={DEFAULT_PATH}"));
    }
    for (name, value) in meta.proxy_env.as_ref().map(proxy_variables).unwrap_or_default() {
        if !has(&env, &name) {
            env.push(format!("{name}={value}"));
        }
    }
    for (name, value) in extra {
        env.retain(|e| e.split('=').next() != Some(name));
        env.push(format!("{name}={value}"));
    }
    if !has(&env, "HOME") {
        env.push(format!("HOME={}", home.unwrap_or("/")));
    }
    env
}

/// Each setting in both spellings.
fn proxy_variables(proxy: &ProxyEnv) -> Vec<(String, String)> {
    [
        ("HTTP_PROXY", &proxy.http_proxy),
        ("HTTPS_PROXY", &proxy.https_proxy),
        ("FTP_PROXY", &proxy.ftp_proxy),
        ("NO_PROXY", &proxy.no_proxy),
        ("ALL_PROXY", &proxy.all_proxy),
    ]
    .into_iter()
    .filter(|(_, value)| !value.is_empty())
    .flat_map(|(name, value)| [(name.to_owned(), value.clone()), (name.to_ascii_lowercase(), value.clone())])
    .collect()
}

/// `--ulimit` (SPEC C5.09); -1 is unlimited.
fn limits(meta: &Meta) -> Result<Vec<Rlimit>, ExecError> {
    meta.ulimit
        .iter()
        .map(|l| {
            let limit = |value: i64| u64::try_from(value).unwrap_or(u64::MAX);
            let (soft, hard) = (limit(l.soft), limit(l.hard));
            if soft > hard {
                return Err(ExecError::Ulimit { name: l.name.clone(), soft: l.soft, hard: l.hard });
            }
            Ok(Rlimit { name: l.name.clone(), soft, hard })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llb::op::Ulimit;

    /// SPEC C5.01, C5.11, A5.15.
    #[test]
    fn the_environment_is_completed() {
        let mut meta = Meta { env: vec!["A=1".into()], ..Meta::default() };
        assert_eq!(environment(&meta, &[], None), ["A=1", &format!("PATH={DEFAULT_PATH}"), "HOME=/"]);
        meta.env = vec!["PATH=/x".into(), "HOME=".into(), "http_proxy=mine".into(), "TOKEN=old".into()];
        meta.proxy_env = Some(ProxyEnv { http_proxy: "http://p:1".into(), ..ProxyEnv::default() });
        let extra = [("TOKEN".to_owned(), "new".to_owned())];
        let env = environment(&meta, &extra, Some("/home/app"));
        assert_eq!(env, ["PATH=/x", "HOME=", "http_proxy=mine", "HTTP_PROXY=http://p:1", "TOKEN=new"]);
    }

    /// SPEC C5.18.
    #[test]
    fn stubs_are_what_the_root_itself_must_have() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = dir.path().join("f");
        fs::write(&file, "").expect("writable");
        let bind = |source: &Path, target: &str| StepMount::Bind {
            source: source.into(),
            target: target.into(),
            readonly: true,
        };
        let mounts = [
            bind(dir.path(), "/cache/deep"),
            bind(dir.path(), "/cache"),
            bind(&file, "/run/secrets/x"),
            StepMount::Tmpfs { target: "/dev/shm".into(), size: 0, mode: 0o1777 },
            bind(dir.path(), "/cachet"),
        ];
        let stubs = required_stubs(&Meta::default(), &mounts);
        let texts: Vec<_> =
            stubs.iter().map(|s| format!("{}{}", s.path.display(), if s.dir { "/" } else { "" })).collect();
        assert_eq!(
            texts,
            ["/proc/", "/dev/", "/sys/", "/etc/hosts", "/etc/resolv.conf", "/cache/", "/cachet/", "/run/secrets/x"]
        );
    }

    /// SPEC A5.16.
    #[test]
    fn a_failure_reads_as_buildkits() {
        let meta = Meta { args: vec!["/bin/sh".into(), "-c".into(), "false".into()], ..Meta::default() };
        let result = |code, out_of_memory| RunResult { code, usage: Usage::default(), out_of_memory };
        assert!(failure_text(&meta, &result(137, true)).ends_with("exit code: 137: cannot allocate memory"));
        assert_eq!(
            failure_text(&meta, &result(1, false)),
            "process \"/bin/sh -c false\" did not complete successfully: exit code: 1"
        );
        assert!(is_success(&meta, 0) && !is_success(&meta, 1));
        let root = tempfile::tempdir().expect("a directory");
        let hint = |code| failure_hint(&meta, &result(code, false), root.path());
        assert!(hint(127).is_some_and(|hint| hint.starts_with("there is no /bin/sh in the image")));
        assert_eq!(hint(1), None);
        std::fs::create_dir(root.path().join("bin")).expect("a directory");
        std::fs::write(root.path().join("bin/sh"), "").expect("a file");
        assert_eq!(hint(127), None, "the shell is there, so it was something that it ran");
        assert!(is_success(&Meta { valid_exit_codes: vec![0, 3], ..meta }, 3));
    }

    /// SPEC C5.09.
    #[test]
    fn limits_may_be_unlimited_but_not_upside_down() {
        let ulimit =
            |soft, hard| Meta { ulimit: vec![Ulimit { name: "nofile".into(), soft, hard }], ..Meta::default() };
        assert_eq!(limits(&ulimit(5, -1)).expect("valid")[0].hard, u64::MAX);
        assert!(limits(&ulimit(-1, 5)).is_err());
    }
}
