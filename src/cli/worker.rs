//! Entering the namespaces, and what happens inside.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rootless::binfmt::Emulator;
use rootless::cgroup::{Joined, ParentError};
use rootless::{ProbeInput, ProbeReport, Rung, WorkerCommand, WorkerContext, WorkerOptions};
use rustix::fs::{AtFlags, CWD, Mode};
use tokio::runtime::Runtime;

use super::args::{Cli, Command, Replay, ReplayBuild, ReplayVerify, System};
use super::config::Config;
use super::errors::{ExitCodes, Failure};
use super::once::Once;
use super::{
    bake, broker, build, builds, compare, debug, foreign, image_commands, imagetools, info, manifest, policies,
    registries, replay, run, settings, store_commands, verify, warm,
};
use crate::base::wording::shell_word;
use crate::base::{Events, FaultKind};
use crate::exec::emulation;
use crate::exec::run::{Runner, StepOptions};
use crate::oci::Platform;
use crate::registry::{Anonymous, Client, ClientOptions, RetryPolicy, Timeouts};
use crate::store::{SnapshotterChoice, Store, StoreOptions};

/// Probes, enters, waits. Runs before any thread exists.
pub(super) fn start(cli: &Cli) -> Result<u8, Failure> {
    let global = &cli.global;
    let config = Config::load(global)?;
    let root = settings::store_root(global, &config)?;
    let named = foreign::isolation(&settings::variable)?;
    let pinned = match (&global.isolation, named.as_ref().or(config.isolation.as_ref())) {
        (Some(rung), _) => pinned(rung).map_err(|e| settings::usage(format!("--isolation: {e}")))?,
        (None, Some(rung)) => pinned(rung).map_err(settings::usage)?,
        (None, None) => None,
    };
    let mut report = probe(&root, pinned)?;
    let mut moved = None;
    if report.rung == Rung::Root
        && pinned.is_none()
        && let Some(platform) = emulated(cli, &config)?
        && let Ok(other) = probe(&root, Some(Rung::Userns))
    {
        moved = Some(format!(
            "steps run in isolation userns: it can have an emulator for {platform} of its own, isolation root only one that is \
             registered with the machine"
        ));
        report = other;
    }
    let _joined = cgroup_parent(&cli.command, &config).map(join).transpose()?;
    let options = WorkerOptions::new(&report, state_dir(report.rung)?.join("worker"));
    let isolation = |e: &dyn std::fmt::Display| {
        Failure::new(FaultKind::Isolation, format!("cannot start the worker: {e}"))
            .hint("`rbuild doctor` shows what this machine allows")
    };
    let (socket, theirs) = broker::pair().map_err(|e| isolation(&e))?;
    let blockers =
        report.blockers.iter().map(|b| format!("{}: {}: {}", b.rung, b.what, b.remedy.replace('\n', "; "))).collect();
    let work = Box::new(|fds: Vec<OwnedFd>| work(cli, config, root, &options, blockers, moved, fds));
    let command = WorkerCommand { report: &report, work, fds: vec![theirs] };
    let handle = rootless::spawn_worker(command).map_err(|e| {
        // A report that does not hold any more must not be used again.
        forget_probe(pinned);
        isolation(&e)
    })?;
    let authfile = cli.command.registries().and_then(|registries| registries.authfile.clone());
    broker::serve(socket, authfile).map_err(|e| isolation(&e))?;
    let status = handle.wait().map_err(|e| isolation(&e))?;
    let code = status.code().or_else(|| std::os::unix::process::ExitStatusExt::signal(&status).map(|s| 128 + s));
    Ok(code.and_then(|c| u8::try_from(c).ok()).unwrap_or(1))
}

/// A platform that somebody asks for and that only an emulator of ours can run: none is registered with the machine.
fn emulated(cli: &Cli, config: &Config) -> Result<Option<Platform>, Failure> {
    let platforms = match (&cli.command, cli.command.build()) {
        (_, Some(args)) if args.call.is_none() && !args.check => super::outputs::platforms(args)?,
        // What is malformed is said by who runs it.
        (Command::Run(args), _) => {
            args.platform.iter().filter_map(|text| super::outputs::platform(text).ok()).collect()
        }
        (
            Command::Replay {
                command: Replay::Build(ReplayBuild { common, .. }) | Replay::Verify(ReplayVerify { common, .. }),
            },
            _,
        ) => common.platform.iter().filter_map(|text| super::outputs::platform(text).ok()).collect(),
        _ => return Ok(None),
    };
    let host = Platform::host();
    let mut foreign = platforms.into_iter().filter(|p| p.architecture != host.architecture).peekable();
    if foreign.peek().is_none() {
        return Ok(None);
    }
    let named = !cli.global.emulator.is_empty() || !config.steps.emulators.is_empty();
    let (found, dir) = (Emulator::of_this_machine(), runtime_dir()?);
    let ours = |p: &Platform| named || found.iter().any(|emulator| emulator.architecture == p.architecture);
    Ok(foreign.find(|platform| ours(platform) && !emulation::can_run_now(platform, &dir)))
}

/// Below which control group a build is to run. A question about one runs nothing.
fn cgroup_parent(command: &Command, config: &Config) -> Option<String> {
    let args = command.build().filter(|args| args.call.is_none() && !args.check)?;
    args.cgroup_parent.clone().or_else(|| config.build.cgroup_parent.clone())
}

fn join(parent: String) -> Result<Joined, Failure> {
    rootless::cgroup::join(&parent).map_err(|e| match e {
        ParentError::Name(_) => settings::usage(format!("--cgroup-parent: {e}")),
        _ => Failure::new(FaultKind::Isolation, format!("--cgroup-parent {parent}: {e}")).hint(
            "name a group that is yours: systemd-run --user --scope -p Delegate=yes bash starts in one; in a container \
             mount /sys/fs/cgroup writable",
        ),
    })
}

/// Names of a private directory beside its own, for when that is somebody else's.
const SPARE_NAMES: u8 = 4;

/// A private directory for things that do not outlive the boot.
fn runtime_dir() -> Result<PathBuf, Failure> {
    let uid = rustix::process::getuid().as_raw();
    private_dir([
        settings::variable("XDG_RUNTIME_DIR").map(|d| PathBuf::from(d).join("rbuild")),
        Some(std::env::temp_dir().join(format!("rbuild-{uid}"))),
        Some(PathBuf::from(format!("/dev/shm/rbuild-{uid}"))),
    ])
}

/// Where the worker's own files go: in memory if at all possible, as secrets are among them. A worker that can mount
/// covers the directory with a tmpfs.
fn state_dir(rung: Rung) -> Result<PathBuf, Failure> {
    if rung.can_mount() {
        return runtime_dir();
    }
    let uid = rustix::process::getuid().as_raw();
    private_dir([Some(PathBuf::from(format!("/dev/shm/rbuild-{uid}")))]).or_else(|_| runtime_dir())
}

fn private_dir(candidates: impl IntoIterator<Item = Option<PathBuf>>) -> Result<PathBuf, Failure> {
    let uid = rustix::process::getuid().as_raw();
    // In a user namespace that somebody else made, user 0 finds the directories of the machine's root, or of others in such a namespace.
    let spare = |dir: PathBuf| {
        let mut names = vec![dir.clone()];
        names.extend((1..=SPARE_NAMES).map(|n| {
            let mut name = dir.clone().into_os_string();
            name.push(format!(".{n}"));
            PathBuf::from(name)
        }));
        names
    };
    for dir in candidates.into_iter().flatten().flat_map(spare) {
        let _ = rustix::fs::mkdir(&dir, Mode::RWXU);
        // Others can make such names in /tmp: only a directory that is really ours will do.
        let ours = rustix::fs::statat(CWD, &dir, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|s| s.st_uid == uid && s.st_mode & 0o170_077 == 0o040_000);
        let writable = rustix::fs::access(&dir, rustix::fs::Access::WRITE_OK).is_ok();
        if ours && writable {
            return Ok(dir);
        }
    }
    Err(Failure::new(FaultKind::Store, "there is no place for temporary files")
        .hint("set XDG_RUNTIME_DIR or TMPDIR to a writable directory"))
}

fn probe_file(pinned: Option<Rung>) -> Option<PathBuf> {
    Some(runtime_dir().ok()?.join(format!("probe-{}.json", pinned.map_or("auto", Rung::as_str))))
}

fn forget_probe(pinned: Option<Rung>) {
    if let Some(file) = probe_file(pinned) {
        let _ = std::fs::remove_file(file);
    }
}

/// The machine's report, from this boot's cache where the circumstances are the same.
///
/// A pinned rung is that one or an error.
fn probe(root: &Path, pinned: Option<Rung>) -> Result<ProbeReport, Failure> {
    let input = ProbeInput { store: root, pinned };
    let file = probe_file(pinned);
    let key = rootless::cache_key(&input);
    let kept = file.as_ref().and_then(|f| serde_json::from_slice::<ProbeReport>(&std::fs::read(f).ok()?).ok());
    if let Some(report) = kept.filter(|r| r.cache_key() == key && r.can_run()) {
        return Ok(report);
    }
    let report = rootless::probe(&input);
    if let (Some(file), Ok(text)) = (file, serde_json::to_vec(&report)) {
        // Only a cache, which does not outlive the boot: the next run probes again.
        let _ = crate::base::file::replace(&file, &text);
    }
    let Some(wanted) = pinned.filter(|wanted| *wanted != report.rung) else { return Ok(report) };
    let failure = Failure::new(FaultKind::Isolation, format!("--isolation {wanted}: it does not work here"));
    Err(match report.blockers.iter().find(|b| b.rung == wanted) {
        Some(b) => failure.hint(format!("{} ({}): {}", b.what, b.evidence, b.remedy.replace('\n', "; "))),
        None => failure,
    })
}

/// The rung of this name; `None` for the best one.
pub(super) fn pinned(wanted: &str) -> Result<Option<Rung>, String> {
    // Docker's word for the usual one, and its words for Windows (SPEC B2.33).
    match wanted {
        "auto" | "default" => return Ok(None),
        "process" | "hyperv" => return Err(format!("{wanted} is an isolation of Windows containers")),
        _ => {}
    }
    Rung::from_name(wanted).map(Some).ok_or_else(|| {
        let known: Vec<&str> = std::iter::once("auto").chain(Rung::ALL.iter().map(|r| r.as_str())).collect();
        let hint = crate::base::wording::did_you_mean(wanted, &known);
        format!("unknown rung \"{wanted}\"{hint}; expected {}", known.join(", "))
    })
}

/// Everything a command in the worker starts from.
pub(super) struct Inside {
    pub(super) context: WorkerContext,
    pub(super) root: PathBuf,
    /// It was said on the command line, and has to be said again for the same store.
    root_given: bool,
    pub(super) snapshotter: SnapshotterChoice,
    pub(super) codes: ExitCodes,
    pub(super) blockers: Vec<String>,
    /// Why the rung is another one than usual.
    pub(super) moved: Option<String>,
    pub(super) broker: Arc<broker::BrokerClient>,
    pub(super) config: Config,
    /// What is configured about registries, with nobody's credentials.
    registries: OnceLock<ClientOptions>,
    /// What the command line says about them.
    once: Once,
    /// What nobody need wait for.
    pub(super) leftover: Leftover,
}

/// What is left of a build.
#[derive(Default)]
pub(super) struct Leftover {
    /// Its store, to be made durable.
    pub(super) store: OnceLock<Store>,
    /// Its threads, of which some may still be at work that nobody needs (a copy of what was copied otherwise). To end
    /// them takes longer than to start them.
    runtime: OnceLock<Runtime>,
}

impl Inside {
    /// Ends a runtime when the caller has been told that the build is done.
    pub(super) fn leave(&self, runtime: Runtime) {
        if let Err(runtime) = self.leftover.runtime.set(runtime) {
            runtime.shutdown_background();
        }
    }

    /// A command of rbuild for the same store, to be copied.
    pub(super) fn again(&self, args: &[&str]) -> String {
        let mut out = "rbuild".to_owned();
        if self.root_given {
            out += &format!(" --root {}", shell_word(&self.root.to_string_lossy()));
        }
        args.iter().fold(out, |out, arg| out + " " + &shell_word(arg))
    }

    pub(super) fn store(&self, events: Events) -> Result<Store, Failure> {
        let mounts = self.context.state_dir.join("mounts");
        std::fs::create_dir_all(&mounts).map_err(|e| {
            Failure::new(FaultKind::of_io(&e, FaultKind::Store), format!("cannot create {}: {e}", mounts.display()))
        })?;
        let rung = self.context.rung;
        let snapshotter = match self.snapshotter {
            // A mount would be the whole machine's, or the whole container's.
            SnapshotterChoice::Auto if !rung.can_mount() => {
                let text =
                    format!("isolation {rung} mounts nothing: using the native snapshotter, which keeps whole trees");
                events.notice("native-snapshotter", text);
                SnapshotterChoice::Native
            }
            SnapshotterChoice::Overlay if !rung.can_mount() => {
                let text = format!("the overlay snapshotter is asked for, and isolation {rung} mounts nothing");
                return Err(
                    Failure::new(FaultKind::Isolation, text).hint("leave the choice to rbuild, or ask for native")
                );
            }
            choice => choice,
        };
        let options = StoreOptions { snapshotter, mount_dir: Some(mounts), events };
        Store::open(&self.root, &options).map_err(|e| store_failure(&e))
    }

    /// Who runs programs here, or why nobody can.
    pub(super) fn runner(&self, options: StepOptions) -> Result<Result<Arc<Runner>, String>, Failure> {
        if self.context.rung == Rung::None {
            // Where nothing is in the way, it was asked for.
            let why = match self.blockers.as_slice() {
                [] => "isolation \"none\" runs no steps".to_owned(),
                blockers => blockers.join("; "),
            };
            return Ok(Err(why));
        }
        let runner = Runner::new(self.context.clone(), options);
        Ok(Ok(Arc::new(runner.map_err(|e| Failure::new(e.kind(), e.to_string()))?)))
    }

    /// A registry client that asks the broker for credentials.
    pub(super) fn client(&self, events: Events) -> Result<Client, Failure> {
        Client::new(self.client_options(events)?).map_err(|e| Failure::new(e.kind(), e.to_string()))
    }

    /// One with little patience, for caches that are read: a cache that makes us wait is worse than none.
    pub(super) fn hasty_client(&self, events: Events) -> Result<Client, Failure> {
        let retry = RetryPolicy {
            base: Duration::from_millis(200),
            retries: 1,
            patience: Duration::from_secs(1),
            breaks: 3,
            after_silence: false,
        };
        let timeouts = Timeouts {
            connect: Duration::from_secs(3),
            stall: Duration::from_secs(5),
            commit: Duration::from_secs(5),
            ..Timeouts::default()
        };
        self.client_with(retry, timeouts, events)
    }

    /// One for caches that are written: the image is safe by then, and somebody waits for the end of the build.
    pub(super) fn caching_client(&self, events: Events) -> Result<Client, Failure> {
        let retry = RetryPolicy {
            base: Duration::from_millis(500),
            retries: 2,
            patience: Duration::from_secs(10),
            breaks: 10,
            after_silence: false,
        };
        let timeouts = Timeouts {
            connect: Duration::from_secs(5),
            stall: Duration::from_secs(10),
            commit: Duration::from_secs(60),
            ..Timeouts::default()
        };
        self.client_with(retry, timeouts, events)
    }

    fn client_with(&self, retry: RetryPolicy, timeouts: Timeouts, events: Events) -> Result<Client, Failure> {
        let options = ClientOptions { retry, timeouts, ..self.client_options(events)? };
        Client::new(options).map_err(|e| Failure::new(e.kind(), e.to_string()))
    }

    fn client_options(&self, events: Events) -> Result<ClientOptions, Failure> {
        // Several files, read once for all clients; what is wrong with them is said once.
        let found = match self.registries.get() {
            Some(found) => found,
            None => {
                let read = registries::client_options(&self.config, Arc::new(Anonymous), events.clone())?;
                self.registries.get_or_init(|| read)
            }
        };
        let broker = broker::Broker::new(self.broker.clone(), found.clone(), self.once.helpers(), &events)?;
        Ok(self.once.apply(ClientOptions { credentials: Arc::new(broker), events, ..found.clone() }))
    }
}

pub(super) fn store_failure(error: &crate::store::StoreError) -> Failure {
    let failure = Failure::new(error.kind(), error.to_string());
    match error.hint() {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

/// The worker: inside the namespaces, still single-threaded. `fds` are what the broker speaks through.
fn work(
    cli: &Cli,
    config: Config,
    root: PathBuf,
    options: &WorkerOptions,
    blockers: Vec<String>,
    moved: Option<String>,
    fds: Vec<OwnedFd>,
) -> u8 {
    let inside = match inside(cli, config, root, options, blockers, moved, fds) {
        Ok(inside) => inside,
        Err(failure) => return super::finish(Err(failure), cli.global.codes),
    };
    let code = super::finish(command(&inside, cli), inside.codes);
    keep_house(inside, code);
    code
}

/// What is left after a build. Everything was said and delivered: the broker ends at once, and its user goes on.
fn keep_house(inside: Inside, code: u8) {
    let Leftover { store, runtime } = inside.leftover;
    let housekeeping = store.into_inner().and_then(|store| store.retire().ok());
    if housekeeping.is_some() && rootless::outlive_parent().is_ok() {
        // A broker that cannot be told waits for this process.
        let _ = inside.broker.finished(code);
    }
    if let Some(runtime) = runtime.into_inner() {
        runtime.shutdown_background();
    }
    let Some(housekeeping) = housekeeping else { return };
    // The image is delivered; trouble with housekeeping is the next build's to report.
    let _ = housekeeping.run(&inside.config.gc);
    // Until the very end nobody may reset the store: its locks are free only then.
    std::mem::forget(housekeeping);
}

fn inside(
    cli: &Cli,
    mut config: Config,
    root: PathBuf,
    options: &WorkerOptions,
    blockers: Vec<String>,
    moved: Option<String>,
    fds: Vec<OwnedFd>,
) -> Result<Inside, Failure> {
    let socket = fds.into_iter().next();
    let socket = socket.ok_or_else(|| Failure::new(FaultKind::Internal, "the worker was started wrongly"))?;
    let context = rootless::worker_init(options).map_err(|e| {
        Failure::new(FaultKind::Isolation, e.to_string()).hint("`rbuild doctor` shows what this machine allows")
    })?;
    config.unpack.apply();
    if !cli.global.emulator.is_empty() {
        let named = cli.global.emulator.iter().map(|text| text.parse());
        config.steps.emulators =
            named.collect::<Result<_, _>>().map_err(|e: String| settings::usage(format!("--emulator: {e}")))?;
    }
    Ok(Inside {
        context,
        root,
        root_given: cli.global.root.is_some(),
        snapshotter: match cli.global.snapshotter.as_ref().or(config.snapshotter.as_ref()).map(String::as_str) {
            Some("overlay") => SnapshotterChoice::Overlay,
            Some("native") => SnapshotterChoice::Native,
            _ => SnapshotterChoice::Auto,
        },
        codes: cli.global.codes,
        blockers,
        moved,
        broker: Arc::new(broker::BrokerClient::new(socket)),
        config,
        registries: OnceLock::new(),
        once: Once::new(&cli.command)?,
        leftover: Leftover::default(),
    })
}

fn command(inside: &Inside, cli: &super::Cli) -> Result<u8, Failure> {
    let defect =
        |e: &dyn std::fmt::Display| Failure::new(FaultKind::Internal, format!("the worker was started wrongly: {e}"));
    match &cli.command {
        Command::Bake(args) => bake::bake(inside, args),
        Command::Build(args) => build::build(inside, args),
        Command::Images(args) => image_commands::images(inside, args),
        Command::Pull(args) => image_commands::pull(inside, args),
        Command::Push(args) => image_commands::push(inside, args),
        Command::Warm(args) => warm::warm(inside, args),
        Command::Tag { image, targets } => image_commands::tag(inside, image, targets),
        Command::Rm { images, all, force } => image_commands::rm(inside, images, *all, *force),
        Command::Save(args) => image_commands::save(inside, args),
        Command::Load(args) => image_commands::load(inside, args),
        Command::Unpack(args) => image_commands::unpack(inside, args),
        Command::Inspect(args) => image_commands::inspect(inside, args),
        Command::Diff(args) => compare::diff(inside, args),
        Command::Verify(args) => verify::verify(inside, args),
        Command::History(args) => image_commands::history(inside, args),
        Command::Imagetools { command } => imagetools::run(inside, command),
        Command::Manifest { command } => manifest::run(inside, command),
        Command::Policy { command } => policies::run(inside, command),
        Command::Replay { command } => replay::run(inside, command),
        Command::Run(args) => run::run(inside, args),
        Command::Builds { command } => builds::run(inside, command),
        Command::Debug(args) => debug::debug(inside, args),
        Command::Info { format } => info::info(inside, format),
        Command::Explain(args) => store_commands::explain(inside, args),
        Command::Du(args) => store_commands::du(inside, args),
        Command::Prune(args) => store_commands::prune(inside, args),
        Command::System { command: System::Reset { force } } => store_commands::reset(inside, *force),
        Command::Unshare { command } => store_commands::unshare(command),
        Command::Builder { .. }
        | Command::Completion { .. }
        | Command::Docs(_)
        | Command::DockerCliPluginMetadata
        | Command::Doctor(_)
        | Command::Llb(_)
        | Command::Login(_)
        | Command::Logout(_)
        | Command::Version { .. } => Err(defect(&"this command needs no worker")),
    }
}
