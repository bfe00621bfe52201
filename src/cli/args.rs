//! The command line as clap sees it: one definition gives the parser and the help.

mod bake;
mod builders;
mod compare;
mod drop_in;
mod imagetools;
mod manifest;
mod policy;
mod registries;
mod replay;
mod scan;
mod warm;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::ValueParser;
use clap::{ArgAction, Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::base::values::boolean;

pub use bake::Bake;
pub use builders::{Builders, CreateBuilder, RemoveBuilder};
pub use compare::{Diff, Verify};
pub use drop_in::DropIn;
pub use imagetools::{Imagetools, ImagetoolsCreate, ImagetoolsInspect};
pub use manifest::{
    EntryArgs, Manifest, ManifestAdd, ManifestAnnotate, ManifestCreate, ManifestPush, ManifestTransfer,
};
pub use policy::{Policy, PolicyEval, PolicyTest};
pub use registries::{DigestFiles, Pull, Push, RegistryArgs};
pub use replay::{Replay, ReplayBuild, ReplayCommon, ReplayVerify};
pub use scan::ScanArgs;
pub use warm::Warm;

/// Builds container images without a daemon and without root
#[derive(Debug, Parser)]
#[command(name = "rbuild", version, about, disable_help_subcommand = true, max_term_width = 110)]
// Of a flag that takes one value the last one counts, as with docker.
#[command(args_override_self = true)]
#[command(after_help = "`rbuild [OPTIONS] PATH` is short for `rbuild build [OPTIONS] PATH`.")]
pub struct Cli {
    /// Flags of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// The command line's definition. Flags that are on or off take a value too, as docker's do: `--push=false` (SPEC G.02).
    #[must_use]
    pub fn definition() -> clap::Command {
        switches(Self::command())
    }

    /// Parses a command line in our own spelling.
    ///
    /// # Errors
    /// Mistakes, and requests for help.
    pub fn parse_words(words: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> Result<Self, clap::Error> {
        let mut definition = Self::definition();
        let matches = definition.try_get_matches_from_mut(words)?;
        Self::from_arg_matches(&matches).map_err(|e| e.format(&mut definition))
    }
}

impl Command {
    /// The build that the command runs, if it runs one.
    #[must_use]
    pub fn build(&self) -> Option<&Build> {
        match self {
            Self::Build(build) => Some(build),
            Self::Verify(verify) => Some(&verify.build),
            _ => None,
        }
    }

    /// How it says that registries are reached, if it can.
    #[must_use]
    pub fn registries(&self) -> Option<&RegistryArgs> {
        match self {
            Self::Pull(pull) => Some(&pull.registries),
            Self::Push(push) => Some(&push.registries),
            Self::Warm(warm) => Some(&warm.registries),
            Self::Manifest { command } => command.transfer().map(|transfer| &transfer.registries),
            _ => self.build().map(|build| &build.drop_in.registries),
        }
    }
}

/// Flags of a command and of those below it that are on or off take a value.
pub(super) fn switches(command: clap::Command) -> clap::Command {
    command
        .mut_args(|arg| if matches!(arg.get_action(), ArgAction::SetTrue) { switch(arg) } else { arg })
        .mut_subcommands(switches)
}

fn switch(arg: clap::Arg) -> clap::Arg {
    arg.action(ArgAction::Set)
        .num_args(0..=1)
        .require_equals(true)
        .value_name("BOOL")
        .default_missing_value("true")
        .default_value("false")
        .hide_default_value(true)
        .value_parser(go_boolean())
}

pub(super) fn go_boolean() -> ValueParser {
    ValueParser::new(|text: &str| boolean(text).ok_or("expected true or false"))
}

/// Flags of every command.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Whose exit codes are meant: no flag, the way in which the program is called says so
    #[arg(skip)]
    pub codes: super::errors::ExitCodes,
    /// Where the store is [default: $XDG_DATA_HOME/rbuild or ~/.local/share/rbuild]
    #[arg(long, global = true, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// How file systems are put together: auto, overlay or native [default: auto]
    #[arg(long, global = true, value_name = "KIND", value_parser = ["auto", "overlay", "native"], hide_possible_values = true)]
    pub snapshotter: Option<String>,
    /// Isolation of RUN steps: auto, root, userns, userns-one, chroot, ptrace or none [default: auto]
    #[arg(long = "isolation", global = true, value_name = "RUNG")]
    pub isolation: Option<String>,
    /// An emulator for RUN of another architecture: [ARCH=]PATH of a static qemu or of a directory of them (beginning with /
    /// or .), or the name of an image that has them, as tonistiigi/binfmt; can be repeated
    #[arg(long = "emulator", global = true, value_name = "PATH|IMAGE")]
    pub emulator: Vec<String>,
    /// The configuration file [default: $XDG_CONFIG_HOME/rbuild/rbuild.toml or ~/.config/rbuild/rbuild.toml]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Build an image from a Dockerfile
    #[command(alias = "b", args_override_self = true, override_usage = "rbuild [build] [OPTIONS] PATH | -")]
    Build(Box<Build>),
    /// Say what this machine allows, what is missing and how to get it
    Doctor(Doctor),
    /// List the images of the store
    #[command(alias = "ls")]
    Images(Images),
    /// Bring an image from a registry into the store
    Pull(Pull),
    /// Send an image of the store to its registry
    Push(Push),
    /// Put base images into a directory where builds find them before they ask a registry (`build --pull-from`)
    #[command(override_usage = "rbuild warm [OPTIONS] DIR [IMAGE]...")]
    Warm(Warm),
    /// Log in to a registry
    Login(Login),
    /// Forget the login to a registry
    Logout(Logout),
    /// Give an image of the store another name
    Tag {
        /// The image: a name, or the beginning of its digest
        image: String,
        /// The new name, or several
        #[arg(required = true, value_name = "TARGET")]
        targets: Vec<String>,
    },
    /// Take names away from images; what no name needs goes with `rbuild prune`
    #[command(alias = "rmi")]
    Rm {
        /// Names, or beginnings of digests
        #[arg(required_unless_present = "all")]
        images: Vec<String>,
        /// All names that there are
        #[arg(short, long, conflicts_with = "images")]
        all: bool,
        /// An image that is not there is no failure; a digest takes all names of its image away
        #[arg(short, long)]
        force: bool,
    },
    /// Write images of the store to an archive
    Save(Save),
    /// Read images from an archive or a layout directory into the store
    Load(Load),
    /// Write the files of an image of the store to a directory
    Unpack(Unpack),
    /// Show an image of the store in detail
    Inspect(Inspect),
    /// Show how an image of the store was made
    History(History),
    /// Say how two images of the store differ: which files of which layers, and what about them
    Diff(Diff),
    /// Build twice, or once beside a published image, and say what differs
    #[command(override_usage = "rbuild verify [OPTIONS] PATH | -", args_override_self = true)]
    Verify(Verify),
    /// Build an image again from what its provenance says
    #[command(override_usage = "rbuild replay <COMMAND>")]
    Replay {
        /// What to do.
        #[command(subcommand)]
        command: Replay,
    },
    /// Run a program in an image of the store; nothing of it stays
    Run(Run),
    /// Look at images in registries, and put several together, without a store between
    #[command(override_usage = "rbuild imagetools <COMMAND>")]
    Imagetools {
        /// What to do.
        #[command(subcommand)]
        command: Imagetools,
    },
    /// Put lists of images together in the store
    #[command(override_usage = "rbuild manifest <COMMAND>")]
    Manifest {
        /// What to do.
        #[command(subcommand)]
        command: Manifest,
    },
    /// Build what bake files describe
    #[command(alias = "f")]
    Bake(Bake),
    /// Try policies about sources without a build
    #[command(override_usage = "rbuild policy <COMMAND>")]
    Policy {
        /// What to do.
        #[command(subcommand)]
        command: Policy,
    },
    /// Look at builds that were: what they did, how long it took, what their steps said
    #[command(override_usage = "rbuild builds <COMMAND>")]
    Builds {
        /// What to do.
        #[command(subcommand)]
        command: Builds,
    },
    /// Go back into the step in which a build failed
    Debug(Debug),
    /// Say why steps of the last build were not found in the cache
    Explain(Explain),
    /// Say what the store holds and how much space it takes
    Du(Du),
    /// Delete what is not needed from the store
    Prune(Prune),
    /// Manage the store as a whole
    System {
        /// What to do.
        #[command(subcommand)]
        command: System,
    },
    /// Run a command inside the user namespace that builds run in
    Unshare {
        /// The command; a shell if none is given
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<OsString>,
    },
    /// Answer tools that manage builders: there is one, built in
    #[command(hide = true)]
    Builder {
        /// What to do.
        #[command(subcommand)]
        command: Builders,
    },
    /// Print a graph that is read from a file or from standard input, as `buildctl debug dump-llb` does
    #[command(hide = true)]
    Llb(ShowGraph),
    /// Print a completion script for a shell
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write the reference of the commands
    #[command(hide = true)]
    Docs(Docs),
    /// Say who this is to docker
    #[command(hide = true)]
    DockerCliPluginMetadata,
    /// Say where the store is and what this installation can do
    Info {
        /// text, json or a Go template
        #[arg(long, default_value = "text")]
        format: String,
    },
    /// Print version and features
    Version {
        /// text, json or a Go template
        #[arg(short, long, default_value = "text")]
        format: String,
    },
}

/// `rbuild run`: to try what was built.
#[derive(Debug, Args)]
pub struct Run {
    /// The image: a name, or the beginning of its digest; pulled if the store does not have it
    pub image: String,
    /// The program and its arguments [default: what the image says]
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    pub command: Vec<String>,
    /// Let the program read standard input
    #[arg(short, long)]
    pub interactive: bool,
    /// Give the program a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Remove the container afterwards; it is always removed
    #[arg(long)]
    pub rm: bool,
    /// Show a directory or file of this machine: SOURCE:TARGET[:ro] (repeatable)
    #[arg(short, long, value_name = "SPEC")]
    pub volume: Vec<String>,
    /// Put an empty directory in memory at this path (repeatable)
    #[arg(long, value_name = "TARGET")]
    pub tmpfs: Vec<String>,
    /// Set a variable; without a value it is taken from the environment (repeatable)
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,
    /// Set the variables that a file lists, one a line (repeatable)
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<PathBuf>,
    /// Working directory
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// User and group: NAME|UID[:NAME|GID]
    #[arg(short, long)]
    pub user: Option<String>,
    /// The program in place of the image's entrypoint; empty for none
    #[arg(long, value_name = "PROGRAM")]
    pub entrypoint: Option<String>,
    /// Make a port of the program one of this machine: [IP:]PORT:CONTAINERPORT (repeatable)
    #[arg(short, long, value_name = "SPEC")]
    pub publish: Vec<String>,
    /// Network: host, sandbox (its own, from which the machine's loopback is out of reach) or none
    #[arg(long, value_name = "MODE", default_value = "host")]
    pub network: String,
    /// Host name the program sees
    #[arg(long, value_name = "NAME", default_value = "rbuild")]
    pub hostname: String,
    /// Add a line to /etc/hosts: HOST=IP or HOST:IP
    #[arg(long, value_name = "HOST:IP")]
    pub add_host: Vec<String>,
    /// For this platform [default: this machine's]
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<String>,
    /// There is no daemon that would keep it running
    #[arg(short, long, hide = true)]
    pub detach: bool,
    /// Containers end with the command and need no name
    #[arg(long, hide = true, value_name = "NAME")]
    pub name: Option<String>,
}

/// `rbuild builds` (SPEC B8.06-B8.08).
#[derive(Debug, Subcommand)]
pub enum Builds {
    /// List builds
    Ls(ListBuilds),
    /// Show what a build was asked for and what it did
    Inspect(InspectBuild),
    /// Show what the steps of a build said
    Logs {
        /// The build: its ID or the beginning of it, or ^N for the Nth before the last [default: the last]
        build: Option<String>,
        /// plain, rawjson or tty
        #[arg(long, value_name = "KIND", default_value = "plain", value_parser = ["plain", "rawjson", "tty"], hide_possible_values = true)]
        progress: String,
    },
    /// Forget builds, with their logs and what is kept of failed steps
    Rm {
        /// Their IDs, or ^N for the Nth before the last
        builds: Vec<String>,
        /// All of them
        #[arg(short, long)]
        all: bool,
    },
    /// Write what is known of builds, logs included, to an archive: a gzipped OCI layout
    Export(ExportBuilds),
    /// Take over the records and logs that `export` wrote, perhaps on another machine
    Import(ImportBuilds),
    /// Write where the time of a build went
    Trace(TraceBuild),
}

/// `rbuild builds import`.
#[derive(Debug, Args)]
pub struct ImportBuilds {
    /// An archive, `-` for standard input (repeatable) [default: standard input]
    #[arg(short, long, value_name = "FILE")]
    pub file: Vec<PathBuf>,
    /// The same
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,
}

/// `rbuild builds trace`.
#[derive(Debug, Args)]
pub struct TraceBuild {
    /// The build: its ID or the beginning of it, or ^N for the Nth before the last [default: the last]
    pub build: Option<String>,
    /// chrome (for Perfetto and chrome://tracing) or otlp (OpenTelemetry's JSON)
    #[arg(long, default_value = "chrome", value_parser = ["chrome", "otlp"], hide_possible_values = true)]
    pub format: String,
    /// The file [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// There is no server that would show it
    #[arg(long, hide = true)]
    pub addr: Option<String>,
    /// One build at a time
    #[arg(long, hide = true)]
    pub compare: Option<String>,
}

/// `rbuild builds ls`.
#[derive(Debug, Args)]
pub struct ListBuilds {
    /// Only what matches: ref, repository, status (=, !=), startedAt, completedAt, duration (<, >) (repeatable)
    #[arg(long, value_name = "FILTER")]
    pub filter: Vec<String>,
    /// table, json or a Go template
    #[arg(long, default_value = "table")]
    pub format: String,
    /// Do not shorten
    #[arg(long)]
    pub no_trunc: bool,
    /// Only builds of this directory's git repository
    #[arg(long)]
    pub local: bool,
}

/// `rbuild builds inspect`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct InspectBuild {
    /// The build: its ID or the beginning of it, or ^N for the Nth before the last [default: the last]
    pub build: Option<String>,
    /// pretty, json or a Go template
    #[arg(long, default_value = "pretty")]
    pub format: String,
    /// A part of it
    #[command(subcommand)]
    pub part: Option<InspectPart>,
}

/// Parts of a build.
#[derive(Debug, Subcommand)]
pub enum InspectPart {
    /// Print a document of a build: an index, a manifest or a config of its images, provenance, a list of software
    Attachment {
        /// The build: its ID or the beginning of it, or ^N for the Nth before the last [default: the last]
        build: Option<String>,
        /// The document's digest
        digest: Option<String>,
        /// index, manifest, image, provenance, sbom, or the URI of a predicate
        #[arg(long = "type", value_name = "TYPE")]
        kind: Option<String>,
        /// Of this platform's result
        #[arg(long)]
        platform: Option<String>,
    },
}

/// `rbuild builds export`.
#[derive(Debug, Args)]
pub struct ExportBuilds {
    /// Their IDs, or ^N for the Nth before the last [default: the last]
    pub builds: Vec<String>,
    /// All of them
    #[arg(long)]
    pub all: bool,
    /// The archive [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Wait for records to be complete; they always are
    #[arg(long, hide = true)]
    pub finalize: bool,
}

/// `rbuild debug`.
#[derive(Debug, Args)]
pub struct Debug {
    /// The build: its ID or the beginning of it, or ^N for the Nth before the last [default: the last that failed]
    pub build: Option<String>,
    /// The program and its arguments [default: a shell]
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
    /// As this user [default: the step's]
    #[arg(short, long)]
    pub user: Option<String>,
    /// Secret of the step, which is not kept: id=ID[,src=FILE|env=VARIABLE]
    #[arg(long, value_name = "SPEC")]
    pub secret: Vec<String>,
    /// SSH agent or keys of the step: default, ID, ID=SOCKET or ID=KEY[,KEY]
    #[arg(long, value_name = "SPEC")]
    pub ssh: Vec<String>,
}

/// `rbuild login` (SPEC E1.15).
#[derive(Debug, Args)]
pub struct Login {
    /// The registry [default: docker.io]
    pub registry: Option<String>,
    /// User name
    #[arg(short, long)]
    pub username: Option<String>,
    /// Password; seen by everybody on this machine
    #[arg(short, long)]
    pub password: Option<String>,
    /// Take the password from standard input
    #[arg(long)]
    pub password_stdin: bool,
    /// Where to keep it [default: $REGISTRY_AUTH_FILE or docker's config.json]
    #[arg(long, value_name = "FILE")]
    pub authfile: Option<PathBuf>,
    /// Print the name of who is logged in
    #[arg(long)]
    pub get_login: bool,
    /// Accept any certificate of the registry, and plain HTTP
    #[arg(long)]
    pub insecure: bool,
}

/// `rbuild logout` (SPEC E1.16).
#[derive(Debug, Args)]
pub struct Logout {
    /// The registry [default: docker.io]
    pub registry: Option<String>,
    /// Forget all logins
    #[arg(short, long)]
    pub all: bool,
    /// Where they are kept [default: $REGISTRY_AUTH_FILE or docker's config.json]
    #[arg(long, value_name = "FILE")]
    pub authfile: Option<PathBuf>,
}

/// `rbuild system`.
#[derive(Debug, Subcommand)]
pub enum System {
    /// Delete the whole store
    Reset {
        /// Do not ask
        #[arg(short, long)]
        force: bool,
    },
}

/// `rbuild docs`.
#[derive(Debug, Args)]
pub struct Docs {
    /// markdown or man
    #[arg(value_parser = ["markdown", "man"])]
    pub kind: String,
    /// Where the files go
    pub dir: PathBuf,
}

/// `rbuild doctor`.
#[derive(Debug, Args)]
pub struct Doctor {
    /// text or json
    #[arg(long, default_value = "text")]
    pub format: String,
}

/// `rbuild images`.
#[derive(Debug, Args)]
pub struct Images {
    /// Only names that match: NAME, NAME:TAG, * and ? stand for what they do in a shell
    pub pattern: Option<String>,
    /// Only what matches: reference=PATTERN, label=NAME[=VALUE], before=IMAGE, since=IMAGE, until=DURATION|TIME,
    /// dangling=BOOL (repeatable, all must match)
    #[arg(short, long, value_name = "FILTER")]
    pub filter: Vec<String>,
    /// All images; none is hidden
    #[arg(short, long, hide = true)]
    pub all: bool,
    /// table, json or a Go template
    #[arg(long, default_value = "table")]
    pub format: String,
    /// Print digests only
    #[arg(short, long)]
    pub quiet: bool,
    /// Do not shorten digests
    #[arg(long)]
    pub no_trunc: bool,
}

/// `rbuild save`.
#[derive(Debug, Args)]
pub struct Save {
    /// Names, or beginnings of digests
    #[arg(required = true)]
    pub images: Vec<String>,
    /// The archive [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// docker or oci, archives both; oci-dir, a layout directory
    #[arg(long, default_value = "docker", value_parser = ["oci", "docker", "oci-dir"], hide_possible_values = true)]
    pub format: String,
}

/// `rbuild load`.
#[derive(Debug, Args)]
pub struct Load {
    /// OCI or Docker archive, compressed or not, or an OCI layout directory [default: standard input]
    #[arg(short, long, value_name = "PATH")]
    pub input: Option<PathBuf>,
    /// Name for an image that brings none
    #[arg(short, long, value_name = "NAME")]
    pub tag: Option<String>,
    /// Print names only
    #[arg(short, long)]
    pub quiet: bool,
}

/// `rbuild unpack`.
#[derive(Debug, Args)]
pub struct Unpack {
    /// The image: a name, or the beginning of its digest
    pub image: String,
    /// The directory
    #[arg(short, long, value_name = "DIR")]
    pub output: PathBuf,
    /// For this platform [default: this machine's]
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<String>,
}

/// `rbuild inspect`.
#[derive(Debug, Args)]
pub struct Inspect {
    /// Names, or beginnings of digests
    #[arg(required = true)]
    pub images: Vec<String>,
    /// json or a Go template
    #[arg(short, long, default_value = "json")]
    pub format: String,
}

/// `rbuild history`.
#[derive(Debug, Args)]
pub struct History {
    /// The image: a name, or the beginning of its digest
    pub image: String,
    /// For this platform [default: this machine's]
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<String>,
    /// table, json or a Go template
    #[arg(long, default_value = "table")]
    pub format: String,
    /// Do not shorten
    #[arg(long)]
    pub no_trunc: bool,
}

/// How transfers are shown.
#[derive(Debug, Args)]
pub struct ProgressArgs {
    /// Progress on standard error: auto, tty, plain, quiet, none or rawjson
    #[arg(long = "progress", value_name = "KIND")]
    pub kind: Option<String>,
    /// Begin each line of plain progress with the time
    #[arg(long)]
    pub log_timestamp: bool,
    /// Print the digest only
    #[arg(short, long)]
    pub quiet: bool,
}

/// `rbuild llb` (SPEC C1.16).
#[derive(Debug, Args)]
pub struct ShowGraph {
    /// A marshalled definition [default: standard input]
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// For Graphviz, in place of a line of JSON for each operation
    #[arg(long)]
    pub dot: bool,
}

/// `rbuild explain`.
#[derive(Debug, Args)]
pub struct Explain {
    /// The context of the build
    #[arg(default_value = ".")]
    pub context: String,
    /// text or json
    #[arg(long, default_value = "text")]
    pub format: String,
}

/// `rbuild du`.
#[derive(Debug, Args)]
pub struct Du {
    /// Only what matches, e.g. type=exec.cachemount or until=24h (repeatable, all must match)
    #[arg(long, value_name = "FILTER")]
    pub filter: Vec<String>,
    /// table, pretty, json or a Go template
    #[arg(long, default_value = "table", conflicts_with = "verbose")]
    pub format: String,
    /// One record below the other, with all fields
    #[arg(long)]
    pub verbose: bool,
    /// There is no server to wait for
    #[arg(long, hide = true)]
    pub timeout: Option<String>,
}

/// `rbuild prune`.
#[derive(Debug, Args)]
pub struct Prune {
    /// Internal items too: records and logs of builds
    #[arg(short, long)]
    pub all: bool,
    /// Do not ask
    #[arg(short, long)]
    pub force: bool,
    /// Only what matches (repeatable, all must match)
    #[arg(long, value_name = "FILTER")]
    pub filter: Vec<String>,
    /// Delete the least recently used until the store is no larger than this
    #[arg(long, value_name = "BYTES")]
    pub max_used_space: Option<String>,
    /// Delete until this much of the disk is free
    #[arg(long, value_name = "BYTES")]
    pub min_free_space: Option<String>,
    /// Always keep this much
    #[arg(long, value_name = "BYTES", alias = "keep-storage")]
    pub reserved_space: Option<String>,
    /// Only what was not used for this long, e.g. 24h
    #[arg(long, value_name = "DURATION")]
    pub keep_duration: Option<String>,
    /// List what was deleted with all fields
    #[arg(long)]
    pub verbose: bool,
    /// There is no server to wait for
    #[arg(long, hide = true)]
    pub timeout: Option<String>,
}

/// `rbuild build` (SPEC B2).
#[derive(Debug, Clone, Args)]
pub struct Build {
    /// The build context: a directory, or `-` for a Dockerfile on standard input
    #[arg(value_name = "PATH")]
    pub context: Option<String>,

    /// Name of the Dockerfile, `-` for standard input [default: PATH/Dockerfile]
    #[arg(short, long, value_name = "FILE", help_heading = "What to build")]
    pub file: Option<String>,
    /// Stage to build [default: the last one]
    #[arg(long, value_name = "STAGE", help_heading = "What to build")]
    pub target: Option<String>,
    /// Set a build argument; without a value it is taken from the environment
    #[arg(long, value_name = "NAME[=VALUE]", help_heading = "What to build")]
    pub build_arg: Vec<String>,
    /// Who reads the file: auto (Docker's front end is built in, others run as images), image (also Docker's), builtin (no
    /// other) or llb (a definition on standard input, no file)
    #[arg(long, value_name = "KIND", help_heading = "What to build")]
    pub frontend: Option<String>,
    /// Tell a front end that is an image something
    #[arg(long, value_name = "KEY=VALUE", help_heading = "What to build")]
    pub frontend_opt: Vec<String>,
    /// Further context: a directory, docker-image://REF or oci-layout://DIR[:TAG][@DIGEST]
    #[arg(long, value_name = "NAME=VALUE", help_heading = "What to build")]
    pub build_context: Vec<String>,
    /// Check the Dockerfile instead of building it; short for --call=check
    #[arg(long, help_heading = "What to build")]
    pub check: bool,
    /// Answer a question instead of building: check, outline, targets, convertllb or subrequests.describe; format=json for programs
    #[arg(long, alias = "print", value_name = "METHOD[,format=json]", help_heading = "What to build")]
    pub call: Option<String>,
    /// Platforms to build for, e.g. linux/amd64,linux/arm64 (repeatable)
    #[arg(long, value_name = "PLATFORM", value_delimiter = ',', help_heading = "What to build")]
    pub platform: Vec<String>,
    /// Set a label of the image
    #[arg(long, value_name = "NAME[=VALUE]", help_heading = "What to build")]
    pub label: Vec<String>,
    /// Set an annotation: [manifest|index|manifest-descriptor|index-descriptor[[PLATFORM]],…:]NAME=VALUE
    #[arg(long, value_name = "[TYPE:]NAME=VALUE", help_heading = "What to build")]
    pub annotation: Vec<String>,

    /// Name and optionally tag of the image (repeatable)
    #[arg(short, long, value_name = "NAME", help_heading = "Where the result goes")]
    pub tag: Vec<String>,
    /// Output: a directory, `-`, or type=image|registry|oci|docker|local|tar|cacheonly,dest=…,… (repeatable)
    #[arg(short, long, value_name = "SPEC", help_heading = "Where the result goes")]
    pub output: Vec<String>,
    /// Push to the registries of the tags
    #[arg(long, help_heading = "Where the result goes")]
    pub push: bool,
    /// Sign in to the registry of the names (-t) as USER:PASSWORD, this time only; seen by everybody on this machine
    #[arg(long, value_name = "USER[:PASSWORD]", help_heading = "Where the result goes")]
    pub creds: Option<String>,
    /// Upload layers in pieces of at most this size, for registries behind a proxy that limits requests, e.g. 50m
    #[arg(long, value_name = "BYTES", help_heading = "Where the result goes")]
    pub push_chunk_size: Option<String>,
    /// Load into the local docker or podman if one answers, else keep in the store
    #[arg(long, help_heading = "Where the result goes")]
    pub load: bool,
    /// Write the image ID to a file
    #[arg(long, value_name = "FILE", help_heading = "Where the result goes")]
    pub iidfile: Option<PathBuf>,
    /// Write what was built as JSON to a file
    #[arg(long, value_name = "FILE", help_heading = "Where the result goes")]
    pub metadata_file: Option<PathBuf>,

    /// Do not use the cache
    #[arg(long, help_heading = "Cache")]
    pub no_cache: bool,
    /// Do not use the cache for these stages
    #[arg(long, value_name = "STAGE", value_delimiter = ',', help_heading = "Cache")]
    pub no_cache_filter: Vec<String>,
    /// Ask the registry for newer versions of base images
    #[arg(long, help_heading = "Cache", num_args = 0..=1, require_equals = true, value_name = "BOOL", default_missing_value = "true", value_parser = go_boolean())]
    pub pull: Option<bool>,
    /// Cache of another build: an image reference, or type=registry|local|s3|azblob|gha,… (repeatable)
    #[arg(long, value_name = "SPEC", help_heading = "Cache")]
    pub cache_from: Vec<String>,
    /// Write the cache for other builds: type=registry|inline|local|s3|azblob|gha,…,mode=min|max (repeatable)
    #[arg(long, value_name = "SPEC", help_heading = "Cache")]
    pub cache_to: Vec<String>,

    /// Network of RUN steps: default, sandbox (one of their own, or an error), host or none
    #[arg(long, value_name = "MODE", help_heading = "RUN steps")]
    pub network: Option<String>,
    /// Secret for the steps that ask for it: id=ID[,src=FILE|env=VARIABLE]
    #[arg(long, value_name = "SPEC", help_heading = "RUN steps")]
    pub secret: Vec<String>,
    /// SSH agent or keys for RUN --mount=type=ssh: default, ID, ID=SOCKET or ID=KEY[,KEY]
    #[arg(long, value_name = "SPEC", help_heading = "RUN steps")]
    pub ssh: Vec<String>,
    /// Add a line to /etc/hosts: HOST=IP or HOST:IP
    #[arg(long, value_name = "HOST:IP", help_heading = "RUN steps")]
    pub add_host: Vec<String>,
    /// Size of /dev/shm, e.g. 128m
    #[arg(long, value_name = "BYTES", help_heading = "RUN steps", allow_negative_numbers = true)]
    pub shm_size: Option<String>,
    /// Resource limit: NAME=SOFT[:HARD]
    #[arg(long, value_name = "LIMIT", help_heading = "RUN steps")]
    pub ulimit: Vec<String>,
    /// Limit of each step: memory, memory-swap, cpu-shares, cpu-period, cpu-quota, cpuset-cpus or cpuset-mems=VALUE
    #[arg(long, value_name = "NAME=VALUE", help_heading = "RUN steps")]
    pub resource: Vec<String>,
    /// Memory of each step, e.g. 2g; short for --resource memory=BYTES
    #[arg(short, long, value_name = "BYTES", help_heading = "RUN steps", allow_negative_numbers = true)]
    pub memory: Option<String>,
    /// The same for memory and swap together; -1 is unlimited
    #[arg(long, value_name = "BYTES", hide = true, allow_hyphen_values = true)]
    pub memory_swap: Option<String>,
    /// Short for --resource cpu-shares=NUMBER, like the next four
    #[arg(short, long, value_name = "NUMBER", hide = true, allow_negative_numbers = true)]
    pub cpu_shares: Option<String>,
    /// See --resource
    #[arg(long, value_name = "MICROSECONDS", hide = true, allow_negative_numbers = true)]
    pub cpu_period: Option<String>,
    /// See --resource
    #[arg(long, value_name = "MICROSECONDS", hide = true, allow_hyphen_values = true)]
    pub cpu_quota: Option<String>,
    /// See --resource
    #[arg(long, value_name = "LIST", hide = true)]
    pub cpuset_cpus: Option<String>,
    /// See --resource
    #[arg(long, value_name = "LIST", hide = true)]
    pub cpuset_mems: Option<String>,
    /// Processes and threads of each step
    #[arg(long, value_name = "NUMBER", help_heading = "RUN steps", allow_negative_numbers = true, value_parser = clap::value_parser!(u64).range(1..))]
    pub pids_limit: Option<u64>,
    /// Stop a step that takes longer, e.g. 90m; 0 is never (default: 24h)
    #[arg(long, value_name = "DURATION", help_heading = "RUN steps", allow_hyphen_values = true)]
    pub step_timeout: Option<String>,
    /// Allow network.host, security.insecure, device, device=NAME[,alias=NAME] or buildx.local.delete
    #[arg(long, value_name = "ENTITLEMENT", help_heading = "RUN steps")]
    pub allow: Vec<String>,
    /// When a step fails: shell opens one where it failed
    #[arg(long, value_name = "ACTION", help_heading = "RUN steps", value_parser = ["shell"], hide_possible_values = true)]
    pub on_error: Option<String>,
    /// Run the build in a control group below this one, which is made if it is missing
    #[arg(long, value_name = "PATH", help_heading = "RUN steps")]
    pub cgroup_parent: Option<String>,

    /// Progress on standard error: auto, tty, plain, quiet, none or rawjson
    #[arg(long, value_name = "KIND", help_heading = "Messages")]
    pub progress: Option<String>,
    /// Write what the build did and how long it took as JSON to a file
    #[arg(long, value_name = "FILE", help_heading = "Messages")]
    pub summary_file: Option<PathBuf>,
    /// The same as Prometheus metrics
    #[arg(long, value_name = "FILE", help_heading = "Messages")]
    pub metrics_file: Option<PathBuf>,
    /// Write where the time went to a file, in Chrome's trace format
    #[arg(long, value_name = "FILE", help_heading = "Messages")]
    pub trace: Option<PathBuf>,
    /// Print the image ID only
    #[arg(short, long, help_heading = "Messages")]
    pub quiet: bool,
    /// Show each warning with its place in the Dockerfile and what is known about it
    #[arg(short = 'D', long, help_heading = "Messages")]
    pub debug: bool,

    /// What is said of how the image was built: false, true, or fields such as mode=max
    #[arg(long, value_name = "SPEC", help_heading = "Attestations")]
    pub provenance: Option<String>,
    /// The software in the image: true, or generator=IMAGE to scan it with, or generator=builtin
    #[arg(long, value_name = "SPEC", help_heading = "Attestations")]
    pub sbom: Option<String>,
    /// What is said about the image: type=provenance,mode=… or type=sbom,generator=…
    #[arg(long, value_name = "SPEC", help_heading = "Attestations")]
    pub attest: Vec<String>,
    /// There is one builder, built in
    #[arg(long, value_name = "NAME", hide = true)]
    pub builder: Option<String>,
    /// Rules (JSON) that say which sources may be used; also EXPERIMENTAL_BUILDKIT_SOURCE_POLICY
    #[arg(long, value_name = "FILE", help_heading = "What to build")]
    pub source_policy_file: Option<PathBuf>,
    /// Which images have to be signed, as podman's policy.json says it (containers-policy.json(5)); by keys, or by certificates of fulcio
    #[arg(long, value_name = "FILE", help_heading = "What to build")]
    pub signature_policy: Option<PathBuf>,
    /// Rules (Rego) about sources beside FILE.rego: filename=FILE, reset=true, disabled=true, strict=true, log-level=debug
    #[arg(long, value_name = "SPEC", help_heading = "What to build")]
    pub policy: Vec<String>,
    /// Kept so that old command lines work, like the next four (SPEC B2.33)
    #[arg(long, hide = true)]
    pub compress: bool,
    /// No effect
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub rm: Option<String>,
    /// No effect
    #[arg(long, hide = true)]
    pub force_rm: bool,
    /// No effect, announced
    #[arg(long, hide = true)]
    pub squash: bool,
    /// No effect, announced
    #[arg(long, hide = true)]
    pub security_opt: Vec<String>,
    /// What other builders have.
    #[command(flatten)]
    pub drop_in: DropIn,
}
