//! Arguments and environment to settings, once: the only place that reads the environment.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::args::{Build, Global, ProgressArgs};
use super::attest;
use super::caches;
use super::config::Config;
use super::contexts;
use super::devices::{self, DEVICE};
use super::errors::Failure;
use super::foreign::{CONTAINERS_CONF, CPP_FLAGS, Foreign};
use super::grammar::{self, SecretSource};
use super::outputs;
use super::policies;
use crate::base::FaultKind;
use crate::base::duration::parse_span;
use crate::base::wording::did_you_mean;
use crate::build::{Attest, DockerfileAt, Entitlements, MainContext, RegoRequest};
use crate::exec::cdi::Devices;
use crate::exec::run::{DefaultNetwork, StepOptions};
use crate::frontend::remote::without_credentials;
use crate::frontend::{Call, FrontEnds, FrontendOptions, NoCache};
use crate::llb::ResolveMode;
use crate::llb::op::NetMode;
use crate::registry::cloud::CloudEnvironment;
use crate::registry::{ProxyOptions, TrustOptions};
use crate::solver::Secrets;
use crate::source::git::GitOptions;
use crate::ssh::AgentSpec;
use crate::ui::{Colors, Mode, Style};

/// Larger secrets are refused (SPEC B2.27).
const MAX_SECRET: u64 = 500 << 10;

/// A build, ready to run.
pub struct BuildSettings {
    /// What to build.
    pub request: crate::build::BuildRequest,
    /// How progress is shown.
    pub progress: Mode,
    /// Print the image ID only.
    pub quiet: bool,
    /// Print it as buildah does, beside whatever else is said.
    pub print_id: bool,
    /// Show all that is known of warnings.
    pub debug: bool,
    /// How it looks.
    pub style: Style,
    /// Where the summary goes, as JSON.
    pub summary_file: Option<PathBuf>,
    /// Where the summary goes, as Prometheus text.
    pub metrics_file: Option<PathBuf>,
    /// `--trace`
    pub trace: Option<PathBuf>,
    /// Where the image ID goes.
    pub iidfile: Option<PathBuf>,
    /// Where it goes without the algorithm.
    pub iidfile_raw: Option<PathBuf>,
    /// Where the metadata goes.
    pub metadata_file: Option<PathBuf>,
    /// How much of the provenance is in it, if any.
    pub metadata_provenance: Option<attest::Mode>,
    /// A question to answer instead of building.
    pub call: Option<grammar::CallOptions>,
    /// SSH agents and keys for steps.
    pub agents: Vec<AgentSpec>,
    /// Open a shell where a step failed.
    pub shell_on_error: bool,
    /// Said once, before anything else.
    pub notices: Vec<String>,
}

pub(super) fn usage(message: impl Into<String>) -> Failure {
    Failure::new(FaultKind::Usage, message)
}

/// An environment variable that is set and not empty.
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|v| !v.is_empty())
}

/// An environment variable that is set, be it to nothing.
pub(super) fn variable_or_empty(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// The home directory.
pub fn home() -> Option<PathBuf> {
    variable("HOME").map(PathBuf::from)
}

/// Where the store is (DESIGN section 6).
pub fn store_root(global: &Global, config: &Config) -> Result<PathBuf, Failure> {
    let root = match (global.root.as_ref().or(config.root.as_ref()), variable("XDG_DATA_HOME"), home()) {
        (Some(root), _, _) => root.clone(),
        (None, Some(data), _) if Path::new(&data).is_absolute() => Path::new(&data).join("rbuild"),
        (None, _, Some(home)) => home.join(".local/share/rbuild"),
        (None, _, None) => {
            return Err(
                usage("there is no home directory for the store").hint("set HOME or XDG_DATA_HOME, or give --root DIR")
            );
        }
    };
    std::path::absolute(&root).map_err(|e| usage(format!("--root {}: {e}", root.display())))
}

/// Where Docker's configuration is (SPEC E1.01). Without one of the user, where pods mount it for kaniko (SPEC D1.45).
pub fn docker_config_dir() -> Option<PathBuf> {
    if let Some(named) = variable("DOCKER_CONFIG") {
        return Some(named.into());
    }
    let own = home().map(|home| home.join(".docker"));
    let kaniko = kaniko_dir().join(".docker");
    let has = |dir: &Path| dir.join("config.json").is_file();
    match own {
        Some(own) if has(&own) || !has(&kaniko) => Some(own),
        _ => has(&kaniko).then_some(kaniko),
    }
}

/// Where kaniko's image has its things.
fn kaniko_dir() -> PathBuf {
    variable("KANIKO_DIR").map_or_else(|| "/kaniko".into(), PathBuf::from)
}

/// Proxies of our own traffic (SPEC E2.06).
pub fn proxies() -> ProxyOptions {
    let either = |upper: &str| variable(&upper.to_lowercase()).or_else(|| variable(upper));
    ProxyOptions {
        http: either("HTTP_PROXY"),
        https: either("HTTPS_PROXY"),
        all: either("ALL_PROXY"),
        no_proxy: either("NO_PROXY"),
    }
}

/// What clouds put into the environment for signing in (SPEC E1.14).
pub fn cloud() -> CloudEnvironment {
    let variables = std::env::vars_os().filter_map(|(name, value)| {
        let name = name.into_string().ok().filter(|name| CloudEnvironment::wants(name))?;
        Some((name, value.into_string().ok()?))
    });
    CloudEnvironment { variables: variables.collect(), home: home(), only: None }
}

/// Whom to trust (SPEC E2.03).
pub fn trust() -> TrustOptions {
    let mut host_dirs = vec![PathBuf::from("/etc/docker/certs.d"), PathBuf::from("/etc/containers/certs.d")];
    host_dirs.extend(home().map(|h| h.join(".config/docker/certs.d")));
    TrustOptions {
        cert_file: variable("SSL_CERT_FILE").map(PathBuf::from),
        cert_dirs: variable("SSL_CERT_DIR").map(|d| d.split(':').map(PathBuf::from).collect()).unwrap_or_default(),
        host_dirs,
    }
}

/// How git is run.
pub fn git(state_dir: &Path) -> GitOptions {
    let trust = trust();
    let mut known_hosts: Vec<PathBuf> = home().map(|h| h.join(".ssh/known_hosts")).into_iter().collect();
    known_hosts.push("/etc/ssh/ssh_known_hosts".into());
    GitOptions {
        path: std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into()),
        state_dir: state_dir.to_path_buf(),
        proxies: proxies(),
        ca_file: trust.cert_file,
        ca_dir: trust.cert_dirs.into_iter().next(),
        known_hosts,
        unverified_hosts: Vec::new(),
    }
}

impl BuildSettings {
    /// Whether somebody reads what is said on standard error.
    #[must_use]
    pub fn shows(&self) -> bool {
        matches!(self.progress, Mode::Tty | Mode::Plain)
    }

    /// Everything a build needs to know.
    ///
    /// # Errors
    /// Names the flag and the rule; nothing has happened then.
    pub fn new(args: &Build, config: &Config) -> Result<Self, Failure> {
        let mut notices = config.notices.clone();
        let mut args = args.clone();
        config.build.fill(&mut args);
        args.file = args.file.take().filter(|file| !file.is_empty());
        let args = &args;
        refuse_unsupported(args, &mut notices)?;
        // A variable that was looked at is none that has no meaning.
        let read = |name: &str| match name {
            CPP_FLAGS => !args.drop_in.preprocess.is_empty(),
            CONTAINERS_CONF => args.drop_in.containers_conf_read,
            _ => false,
        };
        let unread = |name: &str| variable(name).filter(|_| !read(name));
        let foreign = Foreign::new(&unread, &mut notices)?;
        // Better now than at the first request.
        super::foreign::registries(&variable)?;
        let stamped = args.drop_in.log_timestamp;
        let (progress, quiet) = progress(stampable(args.progress.as_deref(), stamped)?, args.quiet, config)?;
        let call = call(args)?;
        let mut options = options(args)?;
        if foreign.no_cache {
            options.no_cache = NoCache::All;
        }
        let platforms = outputs::platforms(args)?;
        notices.extend(outputs::odd_platforms(&platforms));
        let all_platforms = args.drop_in.all_platforms;
        let multi_platform = outputs::multi_platform(&options, platforms.len() + if all_platforms { 2 } else { 0 })?;
        let asked = attest::asked(args, &options.build_args, &variable)?;
        // A question has no result to put anywhere (A10.26); the flags are still read for mistakes.
        let outputs = match call {
            Some(_) => outputs::outputs(args, &foreign, multi_platform, &asked, &mut Vec::new()).map(|_| Vec::new())?,
            None => outputs::outputs(args, &foreign, multi_platform, &asked, &mut notices)?,
        };
        let cache_to = caches::exports(args, &options, &mut notices)?;
        files_are_writable(args)?;
        let secrets = secrets(&args.secret)?;
        let (devices, device_aliases) = devices::of_build(args, config)?;
        let options = FrontendOptions { device_aliases, ..options };
        let entitlements = entitlements(args, config, devices)?;
        let context = args.context.clone().unwrap_or_default();
        let is_graph = contexts::is_graph(args);
        if context.is_empty() && !is_graph {
            return Err(usage("please specify build context (e.g. \".\" for the current directory)"));
        }
        let mut request = crate::build::BuildRequest {
            id: crate::build::new_id(),
            filename: String::new(),
            dockerfile: Vec::new(),
            ignore: None,
            context_ignores: BTreeMap::new(),
            options,
            front_ends: front_ends(args.frontend.as_deref())?,
            frontend_options: frontend_options(&args.frontend_opt)?,
            dockerfile_dir: None,
            graph: None,
            platforms,
            all_platforms,
            multi_platform,
            contexts: BTreeMap::new(),
            context: MainContext::Local,
            context_subdir: None,
            dockerfile_at: DockerfileAt::Given,
            containerfile_first: args.drop_in.containerfile_first,
            inputs: OnceLock::new(),
            policy: policies::in_json(args)?,
            rego: RegoRequest::default(),
            secrets,
            entitlements,
            outputs,
            cache_from: caches::imports(args)?,
            cache_patience: cache_patience()?,
            cache_to,
            attest: Attest {
                asked,
                report: false,
                vcs: BTreeMap::new(),
                environment: attest::environment(&config.provenance_dir())?,
            },
            shape: super::drop_in::shape(&args.drop_in),
        };
        let dockerfile = contexts::main_context(args, &context, &mut request)?;
        super::drop_in::complete(&args.drop_in, dockerfile.as_deref(), &mut request, &mut notices)?;
        let beside = dockerfile.as_deref().and_then(std::path::Path::parent);
        request.dockerfile_dir =
            beside.map(|dir| if dir.as_os_str().is_empty() { ".".into() } else { dir.to_path_buf() });
        request.rego = policies::in_rego(args, dockerfile.as_deref())?;
        request.rego.signed = policies::signed(args)?;
        contexts::named_contexts(args, &mut request)?;
        if let MainContext::Git(reference) = &request.context {
            request.secrets.for_sources =
                super::foreign::git_login(&variable, &reference.remote, &request.secrets.values);
        }
        git_labels(args, &mut request, &mut notices);
        let metadata_provenance = attest::metadata(&variable)?;
        request.attest.report = args.metadata_file.is_some() && metadata_provenance.is_some();
        request.attest.vcs = attest::vcs(args, &request, &variable, &mut notices);
        let wants_agent = contexts::want_agent(&request);
        Ok(Self {
            request,
            progress,
            quiet,
            print_id: args.drop_in.print_id,
            debug: args.debug,
            style: Style { timestamps: stamped, ..style()? },
            summary_file: args.summary_file.clone(),
            metrics_file: args.metrics_file.clone(),
            trace: args.trace.clone(),
            iidfile: args.iidfile.clone().filter(|_| call.is_none()),
            iidfile_raw: args.drop_in.iidfile_raw.clone().filter(|_| call.is_none()),
            metadata_file: args.metadata_file.clone(),
            metadata_provenance,
            call,
            agents: agents(&args.ssh, wants_agent)?,
            shell_on_error: shell_on_error(args)?,
            notices,
        })
    }
}

/// Whether all files that are to be written at the end can be, and are different ones.
fn files_are_writable(args: &Build) -> Result<(), Failure> {
    let files = [
        ("--iidfile", &args.iidfile),
        ("--iidfile-raw", &args.drop_in.iidfile_raw),
        ("--metadata-file", &args.metadata_file),
        ("--summary-file", &args.summary_file),
        ("--metrics-file", &args.metrics_file),
        ("--trace", &args.trace),
    ];
    for (n, (flag, path)) in files.iter().enumerate() {
        let Some(path) = path else { continue };
        writable(flag, path)?;
        if let Some((other, _)) = files[..n].iter().find(|(_, earlier)| earlier.as_ref() == Some(path)) {
            return Err(usage(format!("{flag}: {other} writes {}, too", path.display())));
        }
    }
    Ok(())
}

/// What the user and the configuration allow a build.
fn entitlements(args: &Build, config: &Config, devices: Arc<Devices>) -> Result<Entitlements, Failure> {
    let allowed = |name: &str| args.allow.iter().any(|a| a == name);
    let out = Entitlements {
        // Asking for the host's network for the whole build is allowing it (B2.17).
        network_host: args.network.as_deref() == Some("host") || allowed("network.host"),
        security_insecure: allowed("security.insecure"),
        devices,
    };
    for (given, name) in [(out.network_host, "network.host"), (out.security_insecure, "security.insecure")] {
        if given {
            config.permits(name)?;
        }
    }
    Ok(out)
}

/// Labels about the git repository of a local context. Not knowing them fails no build.
fn git_labels(args: &Build, request: &mut crate::build::BuildRequest, notices: &mut Vec<String>) {
    let Some(context) = request.contexts.get("context") else { return };
    let dockerfile = match args.file.as_deref() {
        None => Some(context.dir.join("Dockerfile")),
        Some(file) if file == "-" || file.contains("://") => None,
        Some(file) => Some(PathBuf::from(file)),
    };
    match super::vcs::labels(&context.dir, dockerfile.as_deref(), &variable) {
        Ok(labels) => {
            for (name, value) in labels {
                request.options.labels.entry(name.to_owned()).or_insert(value);
            }
        }
        Err(why) => notices.push(format!("no labels about the git repository: {why}")),
    }
}

/// `RBUILD_CACHE_PATIENCE`. Most caches have come after half a second; what was begun in vain after that is stopped when they
/// come.
fn cache_patience() -> Result<Duration, Failure> {
    const NAME: &str = "RBUILD_CACHE_PATIENCE";
    let given = variable(NAME).map(|text| parse_span(&text).map_err(|e| usage(format!("{NAME}: {e}"))));
    Ok(given.transpose()?.unwrap_or(Duration::from_millis(500)))
}

/// What holds for RUN steps: the configuration's, and what the command line says against it.
pub(super) fn step_options(args: &Build, config: &Config) -> Result<StepOptions, Failure> {
    let mut options = config.steps.clone();
    if args.network.as_deref().or(config.build.network.as_deref()) == Some("sandbox") {
        options.network = DefaultNetwork::Sandbox;
    }
    let short = [
        ("memory", &args.memory),
        ("memory-swap", &args.memory_swap),
        ("cpu-shares", &args.cpu_shares),
        ("cpu-period", &args.cpu_period),
        ("cpu-quota", &args.cpu_quota),
        ("cpuset-cpus", &args.cpuset_cpus),
        ("cpuset-mems", &args.cpuset_mems),
    ];
    for (key, value) in short {
        if let Some(value) = value {
            grammar::resource(key, value, &mut options.resources).map_err(|e| usage(format!("--{key}: {e}")))?;
        }
    }
    for text in &args.resource {
        // Several may be joined by commas.
        for one in text.split(',') {
            let (key, value) = one.split_once('=').unwrap_or((one, ""));
            if let Some((_, Some(other))) =
                short.iter().find(|(k, v)| *k == key && v.as_deref().is_some_and(|v| v != value))
            {
                return Err(usage(format!("--resource: {one} contradicts --{key} {other}")));
            }
            grammar::resource(key, value, &mut options.resources).map_err(|e| usage(format!("--resource: {e}")))?;
        }
    }
    grammar::resources_agree(&options.resources).map_err(|e| {
        let flag = match (&args.memory_swap, args.resource.is_empty()) {
            (Some(_), _) => "--memory-swap",
            (None, false) => "--resource",
            (None, true) => "--memory",
        };
        usage(format!("{flag}: {e}"))
    })?;
    options.cgroup_parent =
        args.cgroup_parent.clone().or_else(|| config.build.cgroup_parent.clone()).unwrap_or_default();
    options.resources.processes = args.pids_limit.or(options.resources.processes);
    super::drop_in::steps(&args.drop_in, &mut options)?;
    if let Some(text) = &args.step_timeout {
        options.timeout = Some(parse_span(text).map_err(|e| usage(format!("--step-timeout: {e}")))?);
    }
    Ok(options)
}

/// Whether a file can be put there at the end, as far as that can be seen now.
fn writable(flag: &str, path: &Path) -> Result<(), Failure> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if path.is_dir() {
        return Err(usage(format!("{flag}: {} is a directory", path.display())));
    }
    if !parent.is_dir() {
        return Err(usage(format!("{flag}: there is no directory {}", parent.display())));
    }
    Ok(())
}

/// What is not done here is refused by name, or said to have no meaning, never ignored.
fn refuse_unsupported(args: &Build, notices: &mut Vec<String>) -> Result<(), Failure> {
    for entitlement in &args.allow {
        // Which device is behind the entitlement's name (`devices`).
        let name = if entitlement.starts_with("device=") { DEVICE } else { entitlement };
        outputs::entitlement(name).map_err(|e| usage(format!("--allow: {e}")))?;
    }
    if args.builder.is_some() {
        notices.push("--builder has no meaning: there is one builder, built in".into());
    }
    for (given, flag) in [(args.squash, "--squash"), (!args.security_opt.is_empty(), "--security-opt")] {
        if given {
            notices.push(format!("{flag} flag is deprecated with BuildKit and has no effect"));
        }
    }
    Ok(())
}

/// `--call`, `--check` (SPEC A10.25, A10.26).
fn call(args: &Build) -> Result<Option<grammar::CallOptions>, Failure> {
    match (&args.call, args.check) {
        (Some(text), check) => {
            let call = grammar::call(text).map_err(|e| usage(format!("--call: {e}")))?;
            if check && call.as_ref().is_none_or(|call| call.call != Call::Lint) {
                return Err(usage("--check and --call ask for different things"));
            }
            Ok(call)
        }
        (None, true) => Ok(Some(grammar::CallOptions::new(Call::Lint))),
        (None, false) => Ok(None),
    }
}

/// What the environment says about the look of progress (SPEC B5.04).
///
/// # Errors
/// Names the variable that is malformed.
pub fn style() -> Result<Style, Failure> {
    let mut style = Style::default();
    let bad = |name: &str, text: &str| usage(format!("{name}: invalid value \"{text}\""));
    if variable("NO_COLOR").is_none() {
        let colors = variable("BUILDKIT_COLORS").map(|text| Colors::parse(&text)).transpose();
        style.colors = Some(colors.map_err(|e| usage(format!("BUILDKIT_COLORS: {e}")))?.unwrap_or_default());
    }
    if let Some(text) = variable("BUILDKIT_TTY_LOG_LINES") {
        style.log_lines =
            text.parse().map_err(|_| bad("BUILDKIT_TTY_LOG_LINES", &text).hint("give a number of lines"))?;
    }
    if let Some(text) = variable("TTY_DISPLAY_RATE") {
        let milliseconds = text.parse().map_err(|_| bad("TTY_DISPLAY_RATE", &text).hint("give milliseconds"))?;
        style.rate = std::time::Duration::from_millis(milliseconds);
    }
    if variable("PROGRESS_NO_TRUNC").is_some_and(|v| v == "0") {
        style.name_width = Some(72);
    }
    Ok(style)
}

/// How progress is shown, and whether only the result is to be printed (SPEC B2.23, B2.25).
///
/// # Errors
/// For kinds that do not exist or contradict `--quiet`.
pub fn progress(kind: Option<&str>, quiet: bool, config: &Config) -> Result<(Mode, bool), Failure> {
    let asked = kind
        .map(|kind| ("--progress", kind.to_owned()))
        .or_else(|| Some(("BUILDKIT_PROGRESS", variable("BUILDKIT_PROGRESS")?)))
        .or_else(|| Some(("build.progress", config.build.progress.clone()?)));
    if let Some((flag, kind)) = &asked {
        progress_kind(kind).map_err(|e| usage(format!("{flag}: {e}")))?;
    }
    if quiet && kind.is_some_and(|p| !["auto", "quiet"].contains(&p)) {
        return Err(usage(format!("progress={} and quiet cannot be used together", kind.unwrap_or_default())));
    }
    if quiet {
        return Ok((Mode::Silent, true));
    }
    let terminal = std::io::stderr().is_terminal() && variable("TERM").is_none_or(|t| t != "dumb");
    Ok(match asked.as_ref().map(|(flag, kind)| (*flag, kind.as_str())) {
        // A file is for all runs, also for those in pipes.
        Some(("build.progress", "tty")) if !std::io::stderr().is_terminal() => (Mode::Plain, false),
        Some((flag, "tty")) if !std::io::stderr().is_terminal() => {
            return Err(usage(format!("{flag}: tty is asked for, and standard error is not a terminal")));
        }
        Some((_, "tty")) => (Mode::Tty, false),
        Some((_, "quiet")) => (Mode::Silent, true),
        Some((_, "none")) => (Mode::Silent, false),
        Some((_, "rawjson")) => (Mode::RawJson, false),
        None | Some((_, "auto")) if terminal => (Mode::Tty, false),
        _ => (Mode::Plain, false),
    })
}

/// The same for commands that show transfers, with how it is drawn.
///
/// # Errors
/// As [`progress`] and [`style`].
pub(super) fn shown(args: &ProgressArgs, config: &Config) -> Result<(Mode, bool, Style), Failure> {
    let (mode, quiet) = progress(stampable(args.kind.as_deref(), args.log_timestamp)?, args.quiet, config)?;
    Ok((mode, quiet, Style { timestamps: args.log_timestamp, ..style()? }))
}

/// The kind of progress that times are wanted in: a table that is drawn again has no place for them.
///
/// # Errors
/// If that is what is asked for.
fn stampable(kind: Option<&str>, stamped: bool) -> Result<Option<&str>, Failure> {
    match kind {
        Some("tty") if stamped => Err(usage("--log-timestamp and --progress=tty cannot be used together")),
        None | Some("auto") if stamped => Ok(Some("plain")),
        kind => Ok(kind),
    }
}

/// Whether there is such a kind of progress.
pub(super) fn progress_kind(kind: &str) -> Result<(), String> {
    let known = ["auto", "tty", "plain", "quiet", "none", "rawjson"];
    if known.contains(&kind) {
        return Ok(());
    }
    Err(format!(
        "invalid progress mode \"{kind}\"{}; expected auto, tty, plain, quiet, none or rawjson",
        did_you_mean(kind, known)
    ))
}

/// `--frontend` (SPEC C3.22, S2.06).
fn front_ends(kind: Option<&str>) -> Result<FrontEnds, Failure> {
    let known = ["auto", "image", "builtin", "llb"];
    match kind {
        None | Some("auto" | "llb" | "") => Ok(FrontEnds::Auto),
        Some("image") => Ok(FrontEnds::Images),
        Some("builtin") => Ok(FrontEnds::BuiltIn),
        Some(other) => Err(usage(format!(
            "--frontend: invalid value \"{other}\"{}; expected auto, image, builtin or llb",
            did_you_mean(other, known)
        ))),
    }
}

/// `--frontend-opt`
fn frontend_options(texts: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    let pair = |text: &String| match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(usage(format!("--frontend-opt: invalid value \"{text}\", expected KEY=VALUE"))),
    };
    texts.iter().map(pair).collect()
}

/// `--network`
pub(super) fn network(mode: &str) -> Result<NetMode, String> {
    match mode {
        // A sandbox is a demand on the machine, not on the Dockerfile: see `step_options`.
        "default" | "" | "sandbox" => Ok(NetMode::Unset),
        "none" => Ok(NetMode::None),
        "host" => Ok(NetMode::Host),
        other => Err(format!("network mode \"{other}\" not supported; expected default, sandbox, host or none")),
    }
}

fn options(args: &Build) -> Result<FrontendOptions, Failure> {
    let (target, cgroup_parent) = (args.target.clone(), args.cgroup_parent.clone());
    let mut options = FrontendOptions { target, cgroup_parent, ..FrontendOptions::default() };
    let mut build_args = Vec::new();
    for file in &args.drop_in.build_arg_file {
        let text = std::fs::read_to_string(file)
            .map_err(|e| usage(format!("--build-arg-file: cannot read {}: {e}", file.display())))?;
        let lines = text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
        build_args.extend(lines.map(ToOwned::to_owned));
    }
    for text in build_args.iter().chain(&args.build_arg) {
        let (key, value) = match text.split_once('=') {
            Some((key, value)) => (key, Some(value.to_owned())),
            None => (text.as_str(), std::env::var(text).ok()),
        };
        if key.is_empty() {
            return Err(usage(format!("--build-arg: invalid key-value pair \"{text}\": empty key")));
        }
        if let Some(value) = value {
            options.build_args.insert(key.to_owned(), value);
        }
    }
    for text in &args.label {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        if key.is_empty() {
            return Err(usage(format!("--label: invalid key-value pair \"{text}\": empty key")));
        }
        options.labels.insert(key.to_owned(), value.to_owned());
    }
    options.file = args.file.as_deref().filter(|file| *file != "-").map(without_credentials);
    options.no_cache = match (args.no_cache, &args.no_cache_filter) {
        (true, _) => NoCache::All,
        (false, stages) if !stages.is_empty() => NoCache::Stages(stages.clone()),
        _ => NoCache::None,
    };
    options.image_resolve_mode = if args.pull == Some(true) { ResolveMode::Pull } else { ResolveMode::Default };
    super::drop_in::stages(&args.drop_in, &mut options)?;
    options.network =
        network(args.network.as_deref().unwrap_or_default()).map_err(|e| usage(format!("--network: {e}")))?;
    for text in &args.add_host {
        options.add_hosts.extend(grammar::hosts(text).map_err(|e| usage(format!("--add-host: {e}")))?);
    }
    if let Some(text) = &args.shm_size {
        let bytes = grammar::bytes(text).map_err(|e| usage(format!("--shm-size: {e}")))?;
        options.shm_size = i64::try_from(bytes).ok();
    }
    for text in &args.ulimit {
        options.ulimits.push(grammar::ulimit(text).map_err(|e| usage(format!("--ulimit: {e}")))?);
    }
    if let Some(text) = variable("SOURCE_DATE_EPOCH") {
        match text.parse() {
            Ok(epoch) => options.epoch = Some(epoch),
            // The name of a context or a stage (A4.18).
            Err(_) => {
                options.build_args.entry("SOURCE_DATE_EPOCH".into()).or_insert(text);
            }
        }
    }
    for name in ["http", "https", "ftp", "no", "all"] {
        // SPEC B2.07: proxies of docker's configuration become build arguments.
        let key = format!("{name}_proxy");
        let upper = key.to_uppercase();
        if options.build_args.contains_key(&key) || options.build_args.contains_key(&upper) {
            continue;
        }
        if let Some(value) = docker_proxy(name) {
            options.build_args.insert(upper, value);
        }
    }
    Ok(options)
}

/// `proxies.default` of docker's configuration.
fn docker_proxy(name: &str) -> Option<String> {
    let text = std::fs::read(docker_config_dir()?.join("config.json")).ok()?;
    let config: serde_json::Value = serde_json::from_slice(&text).ok()?;
    let key = if name == "no" { "noProxy".to_owned() } else { format!("{name}Proxy") };
    config.pointer("/proxies/default")?.get(key)?.as_str().map(ToOwned::to_owned)
}

/// `--on-error`: nobody can use a shell without a terminal.
fn shell_on_error(args: &Build) -> Result<bool, Failure> {
    if args.on_error.is_none() {
        return Ok(false);
    }
    if !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal() {
        return Err(usage("--on-error=shell: there is no terminal for the shell")
            .hint("leave it out; `rbuild debug` enters the failed step later"));
    }
    Ok(true)
}

/// `--secret` (SPEC B2.27).
pub(super) fn secrets(texts: &[String]) -> Result<Secrets, Failure> {
    let mut secrets = Secrets::default();
    for text in texts {
        let (id, source) = grammar::secret(text).map_err(|e| usage(format!("--secret: {e}")))?;
        let variable = match &source {
            SecretSource::Variable(name) => Some(name.clone()),
            SecretSource::Either if std::env::var_os(&id).is_some() => Some(id.clone()),
            _ => None,
        };
        let value = match variable {
            Some(name) => {
                let value = std::env::var_os(&name);
                let value =
                    value.ok_or_else(|| usage(format!("--secret {id}: environment variable {name} is not set")))?;
                std::os::unix::ffi::OsStringExt::into_vec(value)
            }
            None => {
                let path = if let SecretSource::File(path) = &source { path.clone() } else { id.clone() };
                read_limited(Path::new(&path), MAX_SECRET)
                    .map_err(|e| usage(format!("--secret {id}: cannot read {path}: {e}")))?
            }
        };
        if value.len() as u64 > MAX_SECRET {
            return Err(usage(format!("secret {id} too big. max size 500KB")));
        }
        secrets.values.insert(id, Arc::new(value));
    }
    Ok(secrets)
}

/// `--ssh` (SPEC B2.29). Whether they are of any use is for the broker to see. Contexts that the command line itself
/// names by ssh get the user's agent unasked; a Dockerfile does not.
pub(super) fn agents(texts: &[String], wants_agent: bool) -> Result<Vec<AgentSpec>, Failure> {
    let mut agents: Vec<AgentSpec> = Vec::new();
    if texts.is_empty()
        && wants_agent
        && let Some(socket) = variable("SSH_AUTH_SOCK")
    {
        agents.push(AgentSpec { id: "default".into(), paths: vec![socket.into()], raw: false });
    }
    for text in texts {
        let (id, paths, raw) = grammar::ssh(text).map_err(|e| usage(format!("--ssh: {e}")))?;
        let mut paths: Vec<PathBuf> = paths.into_iter().map(PathBuf::from).collect();
        if paths.is_empty() {
            let socket = variable("SSH_AUTH_SOCK").ok_or_else(|| {
                usage(format!("--ssh {id}: there is no agent: SSH_AUTH_SOCK is not set"))
                    .hint(format!("start one with `eval $(ssh-agent)`, or give a key: --ssh {id}=FILE"))
            })?;
            paths.push(socket.into());
        }
        for path in &mut paths {
            *path = std::path::absolute(&*path)
                .map_err(|e| usage(format!("--ssh {id}: cannot find {}: {e}", path.display())))?;
        }
        agents.retain(|agent| agent.id != id);
        agents.push(AgentSpec { id, paths, raw });
    }
    Ok(agents)
}

/// Up to one byte more than `limit` of a file.
pub(super) fn read_limited(path: &Path, limit: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}
