//! What goes into the front end and what comes out of it.

use std::collections::BTreeMap;

use indexmap::IndexMap;

use super::error::Place;
use super::remote::RemoteContext;
use super::short_names::ShortNames;
use crate::dockerfile::lint::{Rule, Violation};
use crate::llb::op::{HostIp, NetMode, Ulimit};
use crate::llb::{Definition, ResolveMode};
use crate::oci::{ImageConfig, Platform};

/// One Dockerfile and how to build it.
#[derive(Debug, Clone, Default)]
pub struct FrontendInput<'a> {
    /// Name to show.
    pub filename: &'a str,
    /// The Dockerfile.
    pub source: &'a [u8],
    /// The build context, if it is not a directory of this machine.
    pub context: Option<RemoteContext>,
    /// Name and content of the ignore file of the build context (SPEC A9.01). Remote contexts have none.
    pub ignore: Option<(String, Vec<u8>)>,
    /// Name and content of the ignore files of named contexts that are directories, by context name.
    pub context_ignores: BTreeMap<String, (String, Vec<u8>)>,
    /// Trees that whoever asks for the build has made, by name (SPEC C3.11); `context` is the build context if `context` above is
    /// none.
    pub inputs: BTreeMap<String, GivenTree>,
    /// Everything else.
    pub options: FrontendOptions,
}

/// A tree that is an input of a front end.
#[derive(Debug, Clone, Default)]
pub struct GivenTree {
    /// What makes it.
    pub definition: Definition,
    /// What a stage that builds upon it begins with.
    pub config: Option<ImageConfig>,
}

/// The options of a build that the front end understands (SPEC C3.19).
#[derive(Debug, Clone, Default)]
pub struct FrontendOptions {
    /// `--file` as it was given, unless it is standard input: what answers for people call the Dockerfile (SPEC A10.25).
    pub file: Option<String>,
    /// `--target`; the last stage if absent or empty.
    pub target: Option<String>,
    /// `--build-arg`.
    pub build_args: IndexMap<String, String>,
    /// `--label`, applied last.
    pub labels: IndexMap<String, String>,
    /// What names without a registry are short for (SPEC D3.36).
    pub short_names: ShortNames,
    /// `--from`: the image of the first FROM, whatever that says (SPEC D3.11).
    pub first_base: Option<String>,
    /// `--env`: variables that every stage begins with (SPEC D3.09).
    pub env: IndexMap<String, String>,
    /// Variables that RUN has where neither the stage nor its arguments have one of that name; the image does not get them
    /// (SPEC D3.36).
    pub step_env: IndexMap<String, String>,
    /// `--inherit-labels=false`: labels of base images stay there (SPEC D3.07).
    pub drop_base_labels: bool,
    /// Steps are called as they are written: what variables hold is not shown (SPEC D1.13).
    pub written_names: bool,
    /// The platform to build for where one was asked for; else the first of `build_platforms`, and the result takes
    /// the platform of its base (SPEC A4.09).
    pub platform: Option<Platform>,
    /// What this machine can run, its own kind first; empty means the machine's own kind.
    pub build_platforms: Vec<Platform>,
    /// `--build-context`: name, possibly with `::platform`, to `docker-image://…`, `oci-layout://…` or a directory.
    pub named_contexts: BTreeMap<String, String>,
    /// `--no-cache`, `--no-cache-filter`.
    pub no_cache: NoCache,
    /// `--no-cache-run`: RUN steps run even if the cache has them, whatever `no_cache` says of others (SPEC D1.22).
    pub fresh_runs: bool,
    /// `--network`.
    pub network: NetMode,
    /// `--add-host`.
    pub add_hosts: Vec<HostIp>,
    /// `--shm-size` in bytes.
    pub shm_size: Option<i64>,
    /// `--allow device=NAME,alias=ALIAS`: what RUN --device calls a device, and its name.
    pub device_aliases: BTreeMap<String, String>,
    /// `--ulimit`.
    pub ulimits: Vec<Ulimit>,
    /// Host name of steps.
    pub hostname: Option<String>,
    /// `--cgroup-parent`.
    pub cgroup_parent: Option<String>,
    /// `--pull`, `--pull-never`.
    pub image_resolve_mode: ResolveMode,
    /// Several platforms are being built: names carry the platform.
    pub multi_platform: bool,
    /// `SOURCE_DATE_EPOCH` of the invocation; a build argument of that name goes before it.
    pub epoch: Option<i64>,
}

impl FrontendOptions {
    /// Whether they change stages in a way that is not in the protocol that front ends in images speak.
    #[must_use]
    pub fn is_about_stages(&self) -> bool {
        self.first_base.is_some() || !self.env.is_empty() || self.drop_base_labels || self.fresh_runs
    }
}

/// Which steps run even if the cache has them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum NoCache {
    /// None.
    #[default]
    None,
    /// All (SPEC B2.18).
    All,
    /// Those of the stages with these names (SPEC B2.19).
    Stages(Vec<String>),
}

/// A Dockerfile turned into a graph and an image config.
#[derive(Debug, Clone)]
pub struct FrontendResult {
    /// The graph of the target stage.
    pub definition: Definition,
    /// Graphs of other stages that a scanner is to see, by name (SPEC C8.13).
    pub scanned: Vec<(String, Definition)>,
    /// The config of the result. Its history holds the base's entries and one for each instruction, its
    /// `rootfs.diff_ids` are those of the base.
    pub config: ImageConfig,
    /// Platform of the result.
    pub platform: Platform,
    /// Config of the image at the bottom, as stored; `None` if the target is not based on an image.
    pub base_config: Option<ImageConfig>,
    /// What that image is: an identifier with its digest. Front ends that are images do not tell.
    pub base_name: Option<String>,
    /// How many layers come from the base image.
    pub base_layers: usize,
    /// How many history entries come from the base image.
    pub base_history: usize,
    /// The epoch in force: of the invocation, of a build argument, or of a global `ARG SOURCE_DATE_EPOCH=…`.
    pub epoch: Option<i64>,
    /// Build checks that failed (SPEC A10.24), in order of appearance.
    pub warnings: Vec<Warning>,
    /// What is to be said that is wrong with no line of the file.
    pub notices: Vec<String>,
}

/// A failed build check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// Which one.
    pub rule: Rule,
    /// One line.
    pub message: String,
    /// Where.
    pub place: Option<Place>,
}

impl Warning {
    /// As an event: `Rule: message (line N)` (SPEC A10.24).
    #[must_use]
    pub fn to_event(&self, filename: &str) -> crate::base::events::Warning {
        let lines = self.place.as_ref().map_or((0, 0), |place| place.lines);
        Violation { rule: self.rule, message: self.message.clone(), lines, stage: None }.to_warning(filename)
    }
}
