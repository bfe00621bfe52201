//! The configuration file: `--config FILE`, else `$XDG_CONFIG_HOME/rbuild/rbuild.toml` (or `~/.config`), else BuildKit's
//! `buildkitd.toml` beside it.
//!
//! Keys are BuildKit's where it has them (SPEC C9.09–C9.11); [`keys`] lists them. Every key is read through
//! [`section::Section`], which refuses what nobody asked for: a misspelt key must not be ignored.

mod keys;
mod section;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use section::{Found, Reader, Section};

pub(super) use keys::page;

use super::args::{Build, Global};
use super::devices::CdiConfig;
use super::errors::Failure;
use super::settings::{self, usage};
use super::{caches, grammar, outputs, warm, worker};
use crate::archive::UnpackLimits;
use crate::base::FaultKind;
use crate::base::duration::parse_span;
use crate::build::record::HistoryLimits;
use crate::exec::run::{DefaultNetwork, DnsOptions, StepOptions};
use crate::store::{Filter, GcCaps, GcPolicy, GcRule, Space};

/// The larger part of a configuration file is a mistake.
const MAX_SIZE: u64 = 1 << 20;
/// Where BuildKit has files about the machine for provenance.
const PROVENANCE_ENV: &str = "/etc/buildkit/provenance.d";
/// BuildKit's file.
const BUILDKITD: &str = "buildkitd.toml";

/// What the file says.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// The file, for messages.
    pub path: PathBuf,
    /// `root`
    pub root: Option<PathBuf>,
    /// `isolation`, a rung that exists.
    pub isolation: Option<String>,
    /// `insecure-entitlements`: what may be allowed; `None` for all.
    pub entitlements: Option<Vec<String>>,
    /// `provenanceEnvDir`
    pub provenance_env: Option<PathBuf>,
    /// `[build]`
    pub build: BuildDefaults,
    /// `[dns]`, `[steps]` and `[worker.oci] networkMode`.
    pub steps: StepOptions,
    /// `[cdi]`
    pub cdi: CdiConfig,
    /// `[unpack]`
    pub unpack: UnpackLimits,
    /// `[log]`
    pub log: LogLimits,
    /// `[history]`
    pub history: HistoryLimits,
    /// `[system] maxRegistryConcurrency`
    pub registry_parallel: Option<usize>,
    /// `[worker.oci] snapshotter`
    pub snapshotter: Option<String>,
    /// `[worker.oci] max-parallelism`
    pub parallelism: Option<usize>,
    /// `[worker.oci]` about collection.
    pub gc: GcPolicy,
    /// `[registry."HOST"]`.
    pub registries: BTreeMap<String, Registry>,
    /// Keys without a meaning here.
    pub notices: Vec<String>,
}

/// What flags of `build` are if they are not given. The values are well-formed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BuildDefaults {
    /// `--platform`
    pub platform: Vec<String>,
    /// `--network`
    pub network: Option<String>,
    /// `--progress`
    pub progress: Option<String>,
    /// `--pull`
    pub pull: Option<bool>,
    /// `--pull-from`
    pub pull_from: Vec<String>,
    /// `--cache-from`
    pub cache_from: Vec<String>,
    /// `--cache-to`
    pub cache_to: Vec<String>,
    /// `--add-host`
    pub add_host: Vec<String>,
    /// `--shm-size`
    pub shm_size: Option<String>,
    /// `--ulimit`
    pub ulimit: Vec<String>,
    /// `--cgroup-parent`, BuildKit's `[worker.oci] defaultCgroupParent`.
    pub cgroup_parent: Option<String>,
}

/// How much of a step's output is shown, in bytes; -1 is all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogLimits {
    /// In all.
    pub size: Option<i64>,
    /// For each second.
    pub speed: Option<i64>,
}

/// How one registry is spoken to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Registry {
    /// Asked before it, in order: `HOST[:PORT][/PATH]`.
    pub mirrors: Option<Vec<String>>,
    /// Plain HTTP.
    pub http: Option<bool>,
    /// Any certificate.
    pub insecure: Option<bool>,
    /// Further roots.
    pub ca: Vec<PathBuf>,
    /// Client key and certificate.
    pub keypair: Option<(PathBuf, PathBuf)>,
    /// Directories in the manner of `certs.d/HOST`.
    pub tlsconfigdir: Vec<PathBuf>,
}

/// Where our configuration is.
fn dir() -> Option<PathBuf> {
    let home = settings::variable("XDG_CONFIG_HOME").map(PathBuf::from);
    home.or_else(|| Some(settings::home()?.join(".config"))).map(|dir| dir.join("rbuild"))
}

impl Config {
    /// Reads the file; without one everything is as usual.
    ///
    /// # Errors
    /// Names the file, the line, the key and the rule.
    pub fn load(global: &Global) -> Result<Self, Failure> {
        if let Some(path) = &global.config {
            return Self::read(path)?
                .ok_or_else(|| usage(format!("cannot read {}: there is no such file", path.display())));
        }
        for name in ["rbuild.toml", BUILDKITD] {
            let Some(dir) = dir() else { break };
            if let Some(config) = Self::read(&dir.join(name))? {
                return Ok(config);
            }
        }
        Ok(Self::default())
    }

    /// Where files are that say something about this machine in provenance (SPEC C8.11).
    #[must_use]
    pub fn provenance_dir(&self) -> PathBuf {
        self.provenance_env.clone().unwrap_or_else(|| PROVENANCE_ENV.into())
    }

    /// `None` if there is no such file.
    fn read(path: &Path) -> Result<Option<Self>, Failure> {
        let bytes = match settings::read_limited(path, MAX_SIZE) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Failure::new(FaultKind::Usage, format!("cannot read {}: {e}", path.display()))),
        };
        if bytes.len() as u64 > MAX_SIZE {
            return Err(usage(format!("{}: it is larger than 1 MiB", path.display())));
        }
        let text = String::from_utf8(bytes).map_err(|_| usage(format!("{}: it is not text", path.display())))?;
        Self::parse(path, &text).map(Some)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, Failure> {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        // Also `buildkitd.default.toml`, which buildx keeps.
        Self::parse_as(path, text, name.starts_with("buildkitd") && name.ends_with(".toml"))
    }

    fn parse_as(path: &Path, text: &str, lenient: bool) -> Result<Self, Failure> {
        let reader = Reader::new(path, text, lenient);
        let mut config = Self { path: path.to_owned(), ..Self::default() };
        config.top(reader.top()?)?;
        config.notices = reader.notices();
        Ok(config)
    }

    fn top(&mut self, mut top: Section<'_>) -> Result<(), Failure> {
        top.never(
            "cache",
            "caches of GitHub's service are neither signed nor verified here",
            "remove the table, and keep a cache that must be trusted in a registry or a bucket with credentials of its own",
        )?;
        top.never(
            "proxyNetwork",
            "the traffic of steps is neither read nor recorded here",
            "remove the key; `network = \"none\"` in [build] keeps steps from any network",
        )?;
        self.root = top.path("root")?;
        self.isolation = checked(top.text("isolation")?, |rung| worker::pinned(rung).map(drop))?;
        if let Some(found) = top.texts("insecure-entitlements")? {
            for name in &found.value {
                outputs::entitlement(name).map_err(|e| found.wrong(e))?;
            }
            self.entitlements = Some(found.value);
        }
        self.provenance_env = top.path("provenanceEnvDir")?;
        self.build = BuildDefaults::read(top.table("build")?)?;
        let mut dns = top.table("dns")?;
        self.steps.dns = DnsOptions {
            nameservers: match dns.texts("nameservers")? {
                Some(found) => found.read(|all| {
                    let address = |text: &String| text.parse().map_err(|_| format!("\"{text}\" is not an IP address"));
                    all.iter().map(address).collect::<Result<Vec<IpAddr>, _>>()
                })?,
                None => Vec::new(),
            },
            options: dns.texts("options")?.map_or_else(Vec::new, |found| found.value),
            search: dns.texts("searchDomains")?.map_or_else(Vec::new, |found| found.value),
        };
        dns.finish()?;
        let mut cdi = top.table("cdi")?;
        self.cdi = CdiConfig {
            disabled: cdi.flag("disabled")?.unwrap_or(false),
            spec_dirs: Some(cdi.paths("specDirs")?).filter(|dirs| !dirs.is_empty()),
            auto_allowed: cdi.texts("autoAllowed")?.map_or_else(Vec::new, |found| found.value),
        };
        cdi.finish()?;
        let mut steps = top.table("steps")?;
        let network = steps.text("network")?;
        for resource in grammar::RESOURCES {
            if let Some(found) = steps.quantity(resource)? {
                found.read(|text| grammar::resource(resource, text, &mut self.steps.resources))?;
            }
        }
        if let Some(found) = steps.number("pids-limit")? {
            let limit = found.read(|n| u64::try_from(*n).map_err(|_| "expected a number of processes"))?;
            self.steps.resources.processes = Some(limit);
        }
        if let Some(found) = steps.texts("emulators")? {
            self.steps.emulators = found.read(|all| all.iter().map(|text| text.parse()).collect::<Result<_, _>>())?;
        }
        if let Some(found) = steps.text("timeout")? {
            self.steps.timeout = Some(found.read(|text| parse_span(text))?);
        }
        steps.finish()?;
        let mut unpack = top.table("unpack")?;
        if let Some(found) = unpack.quantity("max-size")? {
            self.unpack.bytes = found.read(|text| grammar::bytes(text))?;
        }
        if let Some(found) = unpack.number("max-entries")? {
            self.unpack.entries = found.read(|n| u64::try_from(*n).map_err(|_| "expected a number of entries"))?;
        }
        unpack.finish()?;
        let mut log = top.table("log")?;
        let mut limit = |key| match log.number(key)? {
            Some(found) if found.value < -1 => Err(found.wrong("expected bytes, or -1 for all")),
            found => Ok(found.map(|found| found.value)),
        };
        self.log = LogLimits { size: limit("step-max-size")?, speed: limit("step-max-speed")? };
        log.finish()?;
        let mut history = top.table("history")?;
        let usual = HistoryLimits::default();
        self.history = HistoryLimits {
            entries: count(history.number("maxEntries")?)?.unwrap_or(usual.entries),
            age: time(history.quantity("maxAge")?)?.unwrap_or(usual.age),
        };
        history.finish()?;
        let mut system = top.table("system")?;
        self.registry_parallel = count(system.number("maxRegistryConcurrency")?)?;
        system.finish()?;
        let mut worker = top.table("worker")?;
        self.worker(worker.table("oci")?)?;
        worker.finish()?;
        if let Some(found) = network {
            self.steps.network = found.read(|text| {
                DefaultNetwork::from_name(text).ok_or_else(|| format!("\"{text}\" is not auto, sandbox or host"))
            })?;
        }
        for (host, section) in top.named("registry")? {
            self.registries.insert(host, Registry::read(section)?);
        }
        top.finish()
    }

    fn worker(&mut self, mut section: Section<'_>) -> Result<(), Failure> {
        if let Some(found) = section.text("snapshotter")? {
            match found.value.as_str() {
                "auto" | "overlay" | "native" => self.snapshotter = Some(found.value),
                "overlayfs" => self.snapshotter = Some("overlay".into()),
                other => {
                    found.strange(format!("there is no snapshotter \"{other}\"; expected auto, overlay or native"))?
                }
            }
        }
        if let Some(found) = section.text("networkMode")? {
            match found.value.as_str() {
                "auto" => {}
                "host" => self.steps.network = DefaultNetwork::Host,
                other => found.strange(format!("there is no network \"{other}\"; expected auto or host"))?,
            }
        }
        self.build.cgroup_parent = section.text("defaultCgroupParent")?.map(|found| found.value);
        self.parallelism = count(section.number("max-parallelism")?)?;
        let on = section.flag("gc")?.unwrap_or(true);
        let old = space(section.quantity("gckeepstorage")?)?;
        let caps = caps(&mut section)?;
        let caps = GcCaps { reserved: caps.reserved.or(old), ..caps };
        let rules = section.tables("gcpolicy")?;
        let rules = rules.map(|rules| rules.into_iter().map(rule).collect::<Result<Vec<_>, _>>()).transpose()?;
        self.gc = match rules {
            _ if !on => GcPolicy::Off,
            Some(rules) if !rules.is_empty() => GcPolicy::Rules(rules),
            _ => GcPolicy::Usual(caps),
        };
        section.finish()
    }

    /// Refuses what the file does not let `--allow` ask for.
    ///
    /// # Errors
    /// Names the entitlement and the file.
    pub fn permits(&self, entitlement: &str) -> Result<(), Failure> {
        match &self.entitlements {
            Some(permitted) if entitlement != outputs::LOCAL_DELETE && !permitted.iter().any(|p| p == entitlement) => {
                Err(usage(format!(
                    "{entitlement} must not be allowed: insecure-entitlements in {} does not list it",
                    self.path.display()
                )))
            }
            _ => Ok(()),
        }
    }
}

impl BuildDefaults {
    fn read(mut section: Section<'_>) -> Result<Self, Failure> {
        let read = Self {
            platform: each(section.texts("platform")?, |text| outputs::platform(text).map(drop))?,
            network: checked(section.text("network")?, |text| settings::network(text).map(drop))?,
            progress: checked(section.text("progress")?, |text| settings::progress_kind(text).map(drop))?,
            pull: section.flag("pull")?,
            pull_from: each(section.texts("pull-from")?, |text| {
                warm::nearby(&[text.to_owned()]).map(drop).map_err(|e| e.message)
            })?,
            cache_from: each(section.texts("cache-from")?, |text| caches::import(text).map(drop))?,
            cache_to: each(section.texts("cache-to")?, |text| caches::export(text).map(drop))?,
            add_host: each(section.texts("add-host")?, |text| grammar::hosts(text).map(drop))?,
            shm_size: checked(section.quantity("shm-size")?, |text| grammar::bytes(text).map(drop))?,
            ulimit: each(section.texts("ulimit")?, |text| grammar::ulimit(text).map(drop))?,
            cgroup_parent: None,
        };
        section.finish()?;
        Ok(read)
    }

    /// Fills in what neither a flag nor a variable says.
    pub fn fill(&self, args: &mut Build) {
        let fill = |flag: &mut Vec<String>, default: &[String]| {
            if flag.is_empty() {
                flag.extend_from_slice(default);
            }
        };
        if settings::variable("DOCKER_DEFAULT_PLATFORM").is_none() {
            fill(&mut args.platform, &self.platform);
        }
        fill(&mut args.cache_from, &self.cache_from);
        fill(&mut args.cache_to, &self.cache_to);
        fill(&mut args.add_host, &self.add_host);
        fill(&mut args.ulimit, &self.ulimit);
        args.cgroup_parent = args.cgroup_parent.take().or_else(|| self.cgroup_parent.clone());
        args.network = args.network.take().or_else(|| self.network.clone());
        args.shm_size = args.shm_size.take().or_else(|| self.shm_size.clone());
        args.pull = args.pull.or(self.pull);
    }
}

/// A text that a check accepts.
fn checked<E: std::fmt::Display>(
    found: Option<Found<'_, String>>,
    check: impl FnOnce(&str) -> Result<(), E>,
) -> Result<Option<String>, Failure> {
    let Some(found) = found else { return Ok(None) };
    check(&found.value).map_err(|e| found.wrong(e))?;
    Ok(Some(found.value))
}

/// Texts that a check accepts, one by one.
fn each<E: std::fmt::Display>(
    found: Option<Found<'_, Vec<String>>>,
    check: impl Fn(&str) -> Result<(), E>,
) -> Result<Vec<String>, Failure> {
    let Some(found) = found else { return Ok(Vec::new()) };
    for text in &found.value {
        check(text).map_err(|e| found.wrong(e))?;
    }
    Ok(found.value)
}

/// At least one.
fn count(found: Option<Found<'_, i64>>) -> Result<Option<usize>, Failure> {
    let Some(found) = found else { return Ok(None) };
    match usize::try_from(found.value) {
        Ok(count) if count > 0 => Ok(Some(count)),
        _ => Err(found.wrong("expected at least 1")),
    }
}

fn space(found: Option<Found<'_, String>>) -> Result<Option<Space>, Failure> {
    found.map(|found| found.read(|text| grammar::space(text))).transpose()
}

/// A duration, or seconds.
fn time(found: Option<Found<'_, String>>) -> Result<Option<Duration>, Failure> {
    let read = |text: &String| text.parse().map(Duration::from_secs).or_else(|_| parse_span(text));
    found.map(|found| found.read(read)).transpose()
}

fn caps(section: &mut Section<'_>) -> Result<GcCaps, Failure> {
    Ok(GcCaps {
        max_used: space(section.quantity("maxUsedSpace")?)?,
        reserved: space(section.quantity("reservedSpace")?)?,
        min_free: space(section.quantity("minFreeSpace")?)?,
    })
}

/// `[[worker.oci.gcpolicy]]`
fn rule(mut section: Section<'_>) -> Result<GcRule, Failure> {
    let old = space(section.quantity("keepBytes")?)?;
    let caps = caps(&mut section)?;
    let any = match section.texts("filters")? {
        // One text is a list that must match wholly.
        Some(found) => {
            found.read(|texts| texts.iter().map(|text| Filter::parse_all(text)).collect::<Result<Vec<_>, _>>())?
        }
        None => Vec::new(),
    };
    let keep_duration = time(section.quantity("keepDuration")?)?;
    let all = section.flag("all")?.unwrap_or(false);
    section.finish()?;
    Ok(GcRule { all, any, keep_duration, caps: GcCaps { reserved: caps.reserved.or(old), ..caps } })
}

/// Keeps a `buildkitd.toml` where later builds find it, or takes it away again. Whether anything was changed.
///
/// # Errors
/// If it cannot be read, is malformed, or cannot be kept.
pub fn keep_buildkitd(file: Option<&Path>) -> Result<Option<(PathBuf, Vec<String>)>, Failure> {
    let Some(dir) = dir() else { return Ok(None) };
    let kept = dir.join(BUILDKITD);
    let trouble = |e: std::io::Error, what: &str| {
        Failure::new(FaultKind::of_io(&e, FaultKind::Store), format!("cannot {what} {}: {e}", kept.display()))
    };
    match file {
        Some(file) => {
            let text =
                std::fs::read_to_string(file).map_err(|e| usage(format!("cannot read {}: {e}", file.display())))?;
            let config = Config::parse_as(file, &text, true)?;
            std::fs::create_dir_all(&dir).map_err(|e| trouble(e, "write"))?;
            crate::base::file::write_atomic(&kept, text.as_bytes()).map_err(|e| trouble(e, "write"))?;
            Ok(Some((kept, config.notices)))
        }
        None => match std::fs::remove_file(&kept) {
            Ok(()) => Ok(Some((kept, Vec::new()))),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(trouble(e, "remove")),
        },
    }
}

impl Registry {
    fn read(mut section: Section<'_>) -> Result<Self, Failure> {
        let mirrors = section.texts("mirrors")?;
        let mirrors = mirrors.map(|found| {
            found.read(|mirrors| match mirrors.iter().find(|m| m.contains("://") || m.is_empty()) {
                Some(mirror) => Err(format!("\"{mirror}\" is not HOST[:PORT][/PATH]")),
                None => Ok(mirrors.clone()),
            })
        });
        let mut keypair = None;
        for mut pair in section.tables("keypair")?.unwrap_or_default() {
            let (key, cert) = (pair.path("key")?, pair.path("cert")?);
            let (Some(key), Some(cert)) = (key, cert) else {
                return Err(section.wrong("keypair", "it needs key and cert"));
            };
            pair.finish()?;
            if keypair.replace((key, cert)).is_some() {
                return Err(section.wrong("keypair", "only one pair can be used"));
            }
        }
        let read = Self {
            mirrors: mirrors.transpose()?,
            http: section.flag("http")?,
            insecure: section.flag("insecure")?,
            ca: section.paths("ca")?,
            keypair,
            tlsconfigdir: section.paths("tlsconfigdir")?,
        };
        section.finish()?;
        Ok(read)
    }
}

#[cfg(test)]
mod tests;
