//! CDI devices (SPEC A5.10, C5.14): which of the machine's devices a step asks for, whether it may have them, and what it
//! then finds in its environment and its file system.
//!
//! A specification is the machine's: whoever may write to its directories decides what a device is. A Dockerfile only
//! names one. It gets it if the user allowed that (`--allow device`), or the specification allows everybody.

mod spec;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rootless::step::StepMount;

use self::spec::{RawEdits, RawMount, RawNode, Spec};
use crate::base::values::boolean;
use crate::llb::op::CdiDevice;

/// Where specifications are; of two with the same device the one in the later directory counts.
pub const SPEC_DIRS: [&str; 3] = ["/etc/cdi", "/var/run/cdi", "/etc/buildkit/cdi"];
/// The class that a device can be asked for by.
const CLASS: &str = "org.mobyproject.buildkit.device.class";
/// A device that needs no leave.
const AUTO_ALLOW: &str = "org.mobyproject.buildkit.device.autoallow";
/// Mount options of a specification that mean something here; those of propagation change nothing in a step.
const OPTIONS: [&str; 16] = [
    "ro", "rw", "bind", "rbind", "nosuid", "suid", "nodev", "dev", "noexec", "exec", "private", "rprivate", "slave",
    "rslave", "shared", "rshared",
];

/// What the user allowed (`--allow device[=NAME]`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Grants {
    /// Every device.
    pub all: bool,
    /// Devices by CDI name.
    pub devices: BTreeSet<String>,
}

/// What a step is given.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Edits {
    /// Environment; it replaces what has the same name.
    pub env: Vec<(String, String)>,
    /// Device nodes, files and directories.
    pub mounts: Vec<StepMount>,
    /// Further supplementary groups.
    pub groups: Vec<u32>,
}

/// Why a step is not given a device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// Nothing describes it.
    #[error("required device \"{name}\" is not registered")]
    NotRegistered {
        /// As the Dockerfile has it.
        name: String,
        /// Where it was looked for, and which files cannot be read.
        hint: String,
    },
    /// The user did not allow it.
    #[error("{} requested by the build but not allowed", many(.0))]
    NotAllowed(Vec<String>),
    /// It cannot be given as it is described.
    #[error("device {name} cannot be given to a step: {what} ({file})", file = file.display())]
    Unusable {
        /// CDI name.
        name: String,
        /// Who describes it.
        file: PathBuf,
        /// What is in the way.
        what: String,
    },
}

fn many(names: &[String]) -> String {
    match names {
        [one] => format!("device {one} is"),
        more => format!("devices {} are", more.join(", ")),
    }
}

impl DeviceError {
    /// What can be done about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NotRegistered { hint, .. } => hint.clone(),
            Self::NotAllowed(names) => match names.as_slice() {
                [one] => format!("give --allow device={one} if this Dockerfile may have it"),
                _ => "give --allow device if this Dockerfile may have every device".into(),
            },
            Self::Unusable { .. } => "run the step where the device is not described, or leave --device out".into(),
        })
    }
}

/// The devices of a machine, and which of them a build may have.
#[derive(Debug, Default)]
pub struct Devices {
    dirs: Vec<PathBuf>,
    auto_allowed: Vec<String>,
    grants: Grants,
    registry: OnceLock<Arc<Registry>>,
}

/// What was read.
#[derive(Debug, Default)]
struct Registry {
    specs: Vec<Spec>,
    /// By CDI name: the file and the device in it; `Err` with both files where two of one directory describe it.
    devices: BTreeMap<String, Result<(usize, usize), [PathBuf; 2]>>,
    /// Files that are no specifications, and why.
    broken: Vec<String>,
}

impl Devices {
    /// Those described in `dirs`. `auto_allowed` are names and kinds that need no grant.
    #[must_use]
    pub fn new(dirs: Vec<PathBuf>, auto_allowed: Vec<String>, grants: Grants) -> Self {
        Self { dirs, auto_allowed, grants, registry: OnceLock::new() }
    }

    /// Refuses what is not allowed, before any work. Where everything is allowed nothing is looked up: a step that is in
    /// the cache needs no device.
    ///
    /// # Errors
    /// See [`DeviceError`].
    pub fn check(&self, wanted: &[CdiDevice]) -> Result<(), DeviceError> {
        if wanted.is_empty() || self.grants.all {
            return Ok(());
        }
        self.allowed(wanted).map(drop)
    }

    /// What a step that wants these is given.
    ///
    /// # Errors
    /// See [`DeviceError`].
    pub fn edits(&self, wanted: &[CdiDevice]) -> Result<Edits, DeviceError> {
        let mut edits = Edits::default();
        if wanted.is_empty() {
            return Ok(edits);
        }
        let registry = self.registry();
        let mut common = BTreeSet::new();
        for name in self.allowed(wanted)? {
            let (at, spec, device) = registry.device(&name)?;
            let mut add = |raw: &RawEdits| {
                edits.add(raw).map_err(|what| DeviceError::Unusable {
                    name: name.clone(),
                    file: spec.path.clone(),
                    what,
                })
            };
            if common.insert(at) {
                add(&spec.edits)?;
            }
            add(&device.edits)?;
        }
        Ok(edits)
    }

    /// The CDI names behind what is wanted, each once.
    fn allowed(&self, wanted: &[CdiDevice]) -> Result<Vec<String>, DeviceError> {
        let mut allowed = BTreeSet::new();
        for name in &self.grants.devices {
            allowed.extend(self.find(name, true)?);
        }
        let (mut out, mut forbidden) = (Vec::new(), Vec::new());
        for device in wanted {
            for name in self.find(&device.name, device.optional)? {
                let free = self.grants.all || allowed.contains(&name) || self.is_free(&name)?;
                let list = if free { &mut out } else { &mut forbidden };
                if !list.contains(&name) {
                    list.push(name);
                }
            }
        }
        if forbidden.is_empty() { Ok(out) } else { Err(DeviceError::NotAllowed(forbidden)) }
    }

    /// The CDI names that a name stands for: a device, the first of a kind (`vendor/class`), all of it
    /// (`vendor/class=*`), or those of a class.
    fn find(&self, name: &str, optional: bool) -> Result<Vec<String>, DeviceError> {
        let registry = self.registry();
        let (kind, device) = name.split_once('=').unwrap_or((name, ""));
        let of_kind = |known: &&String| known.strip_prefix(kind).is_some_and(|rest| rest.starts_with('='));
        let all = || registry.devices.keys();
        let mut out: Vec<String> = match device {
            _ if !kind.contains('/') => Vec::new(),
            "" => all().find(of_kind).into_iter().cloned().collect(),
            "*" => all().filter(of_kind).cloned().collect(),
            _ => all().filter(|known| *known == name).cloned().collect(),
        };
        if out.is_empty() {
            let of_class = |known: &&String| {
                let class = registry.device(known).ok().and_then(|(_, _, device)| device.annotations.get(CLASS));
                class.is_some_and(|class| class == name)
            };
            out = all().filter(of_class).cloned().collect();
        }
        if out.is_empty() && !optional {
            return Err(DeviceError::NotRegistered { name: name.to_owned(), hint: self.where_it_was_looked_for() });
        }
        Ok(out)
    }

    fn where_it_was_looked_for(&self) -> String {
        let dirs: Vec<_> = self.dirs.iter().map(|dir| dir.display().to_string()).collect();
        let hint = match dirs.as_slice() {
            [] => "CDI devices are switched off in the configuration".to_owned(),
            dirs => format!("no CDI specification of it is in {}", dirs.join(", ")),
        };
        let broken = &self.registry().broken;
        if broken.is_empty() { hint } else { format!("{hint}; not read: {}", broken.join("; ")) }
    }

    fn is_free(&self, name: &str) -> Result<bool, DeviceError> {
        let kind = name.split('=').next().unwrap_or(name);
        if self.auto_allowed.iter().any(|free| free == name || free == kind) {
            return Ok(true);
        }
        let registry = self.registry();
        let (_, _, device) = registry.device(name)?;
        Ok(device.annotations.get(AUTO_ALLOW).and_then(|value| boolean(value)) == Some(true))
    }

    /// The machine's devices, read once.
    fn registry(&self) -> Arc<Registry> {
        Arc::clone(self.registry.get_or_init(|| Arc::new(Registry::read(&self.dirs))))
    }
}

impl Registry {
    fn read(dirs: &[PathBuf]) -> Self {
        let mut out = Self::default();
        for dir in dirs {
            let entries = fs::read_dir(dir).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
            let named = |path: &PathBuf| path.extension().is_some_and(|e| e == "json" || e == "yaml" || e == "yml");
            // Not what blocks when it is opened.
            let mut files: Vec<PathBuf> = entries.filter(|path| named(path) && path.is_file()).collect();
            files.sort_unstable();
            let first = out.specs.len();
            for file in files {
                match Spec::read(&file) {
                    Ok(spec) => out.add(spec, first),
                    Err(why) => out.broken.push(format!("{}: {why}", file.display())),
                }
            }
        }
        out
    }

    /// Adds a file; those from `first` on are of the same directory.
    fn add(&mut self, spec: Spec, first: usize) {
        let at = self.specs.len();
        for (number, device) in spec.devices.iter().enumerate() {
            let name = format!("{}={}", spec.kind, device.name);
            let entry = match self.devices.get(&name) {
                Some(Ok((other, _))) if *other >= first => {
                    let other = self.specs.get(*other).map_or(&spec.path, |other| &other.path);
                    Err([other.clone(), spec.path.clone()])
                }
                Some(Err(files)) if files[0].parent() == spec.path.parent() => Err(files.clone()),
                _ => Ok((at, number)),
            };
            self.devices.insert(name, entry);
        }
        self.specs.push(spec);
    }

    fn device(&self, name: &str) -> Result<(usize, &Spec, &spec::Device), DeviceError> {
        let absent = || DeviceError::NotRegistered { name: name.to_owned(), hint: String::new() };
        match self.devices.get(name).ok_or_else(absent)? {
            Ok((at, number)) => {
                let spec = self.specs.get(*at).ok_or_else(absent)?;
                Ok((*at, spec, spec.devices.get(*number).ok_or_else(absent)?))
            }
            Err([one, other]) => Err(DeviceError::Unusable {
                name: name.to_owned(),
                file: one.clone(),
                what: format!("{} describes it too", other.display()),
            }),
        }
    }
}

impl Edits {
    /// Adds what a file asks for; the error says what cannot be had.
    fn add(&mut self, raw: &RawEdits) -> Result<(), String> {
        if let Some((key, _)) = raw.other.iter().find(|(_, value)| !is_nothing(value)) {
            return Err(match key.as_str() {
                "hooks" => "it asks for hooks, which would run as programs of this machine outside of the step".into(),
                key => format!("it asks for {key}, which is not supported"),
            });
        }
        for variable in &raw.env {
            let (name, value) = variable
                .split_once('=')
                .filter(|(name, _)| !name.is_empty())
                .ok_or(format!("env \"{variable}\" is not NAME=VALUE"))?;
            self.env.retain(|(known, _)| known != name);
            self.env.push((name.into(), value.into()));
        }
        for node in &raw.device_nodes {
            self.mount(device_node(node)?);
        }
        for mount in &raw.mounts {
            self.mount(host_mount(mount)?);
        }
        for group in raw.additional_gids.iter().filter(|group| **group != 0) {
            if !self.groups.contains(group) {
                self.groups.push(*group);
            }
        }
        Ok(())
    }

    /// The last one for a place counts.
    fn mount(&mut self, mount: StepMount) {
        self.mounts.retain(|known| known.target() != mount.target());
        self.mounts.push(mount);
    }
}

fn is_nothing(value: &serde_json::Value) -> bool {
    value.is_null()
        || value.as_array().is_some_and(Vec::is_empty)
        || value.as_object().is_some_and(serde_json::Map::is_empty)
}

/// A place in the step, which is not its root.
fn target(path: &Path) -> Result<PathBuf, String> {
    let normal =
        path.components().all(|part| matches!(part, std::path::Component::RootDir | std::path::Component::Normal(_)));
    match path.is_absolute() && normal && path != Path::new("/") {
        true => Ok(path.to_owned()),
        false => Err(format!("\"{}\" is no place in a step", path.display())),
    }
}

/// The machine's node at the path of the step: without privileges no node can be made, and its owner, mode and cgroup rules
/// are the machine's in any case.
fn device_node(node: &RawNode) -> Result<StepMount, String> {
    let target = target(&node.path)?;
    let source = node.host_path.clone().unwrap_or_else(|| node.path.clone());
    let found = fs::metadata(&source).map_err(|e| format!("device node {}: {e}", source.display()))?;
    let kind = found.file_type();
    let kind = match () {
        () if kind.is_char_device() => "c",
        () if kind.is_block_device() => "b",
        () if kind.is_fifo() => "p",
        () => return Err(format!("{} is no device node", source.display())),
    };
    let same_kind = match node.kind.as_str() {
        "" => true,
        // Unbuffered: another word for c.
        "u" => kind == "c",
        other => other == kind,
    };
    let (major, minor) = (rustix::fs::major(found.rdev()), rustix::fs::minor(found.rdev()));
    let numbered = (node.major, node.minor) != (0, 0);
    if !same_kind || numbered && (node.major, node.minor) != (major, minor) {
        let (path, wanted) = (source.display(), &node.kind);
        return Err(format!(
            "{path} is {kind} {major}:{minor} and described as {wanted} {}:{}",
            node.major, node.minor
        ));
    }
    Ok(StepMount::Host { source, target, options: vec!["bind".into()] })
}

fn host_mount(mount: &RawMount) -> Result<StepMount, String> {
    let target = target(&mount.container_path)?;
    let unknown = mount.options.iter().find(|option| !OPTIONS.contains(&option.as_str()));
    match (mount.kind.as_str(), unknown) {
        ("" | "bind", None) => {}
        ("" | "bind", Some(option)) => {
            return Err(format!("mount option {option} of {} is not supported", target.display()));
        }
        (kind, _) => return Err(format!("a mount of type {kind} at {} is not supported", target.display())),
    }
    let source = mount.host_path.clone();
    if !source.is_absolute() {
        return Err(format!("\"{}\" is not an absolute path", source.display()));
    }
    fs::metadata(&source).map_err(|e| format!("mount {}: {e}", source.display()))?;
    let mut options: Vec<String> = vec!["rbind".into()];
    for option in &mount.options {
        match option.as_str() {
            // Submounts too: what is asked for is that the step changes nothing.
            "ro" => options.push("rro".into()),
            "bind" | "rbind" | "private" | "rprivate" | "slave" | "rslave" | "shared" | "rshared" => {}
            other => options.push(other.into()),
        }
    }
    Ok(StepMount::Host { source, target, options })
}

#[cfg(test)]
mod tests;
