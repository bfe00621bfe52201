//! `rbuild replay`, as `docker buildx replay` has it.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// `rbuild replay`.
#[derive(Debug, Subcommand)]
pub enum Replay {
    /// Build the image again, from the same sources
    #[command(args_override_self = true)]
    Build(ReplayBuild),
    /// Build the image again and say whether it is the same
    #[command(args_override_self = true)]
    Verify(ReplayVerify),
    /// Keep what an image was made from
    #[command(hide = true, disable_help_flag = true)]
    Snapshot {
        /// Whatever it is told.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
}

/// What both have in common.
#[derive(Debug, Clone, Args)]
pub struct ReplayCommon {
    /// The image: [docker-image://]NAME, oci-layout://DIR[:TAG], or a directory that is a layout; or a file with its provenance
    #[arg(value_name = "SUBJECT")]
    pub subject: String,
    /// The image for this platform [default: the only one there is, or this machine's]
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Vec<String>,
    /// Network of RUN steps: default or none [default: that of the build]
    #[arg(long, value_name = "MODE", value_parser = ["default", "none"], hide_possible_values = true)]
    pub network: Option<String>,
    /// Secret that the build had: id=ID[,src=FILE|env=VARIABLE]
    #[arg(long, value_name = "SPEC")]
    pub secret: Vec<String>,
    /// SSH agent or keys that the build had: default, ID, ID=SOCKET or ID=KEY[,KEY]
    #[arg(long, value_name = "SPEC")]
    pub ssh: Vec<String>,
    /// Progress on standard error: auto, tty, plain, quiet, none or rawjson
    #[arg(long, value_name = "KIND")]
    pub progress: Option<String>,
    /// There is one builder, built in
    #[arg(long, value_name = "NAME", hide = true)]
    pub builder: Option<String>,
    /// Where the materials are: provenance alone, that is where they were
    #[arg(long, value_name = "SPEC", hide = true)]
    pub materials: Vec<String>,
    /// Show each warning with its place in the Dockerfile and what is known about it
    #[arg(short = 'D', long)]
    pub debug: bool,
}

/// `rbuild replay build`.
#[derive(Debug, Clone, Args)]
pub struct ReplayBuild {
    /// What to build.
    #[command(flatten)]
    pub common: ReplayCommon,
    /// Say what would be built, and build nothing
    #[arg(long)]
    pub dry_run: bool,
    /// How that is said: pretty or json
    #[arg(long, default_value = "pretty", value_parser = ["pretty", "json"], hide_possible_values = true)]
    pub format: String,
    /// Which sources: materials (those of the build, and no other) or frontend (whatever their names mean now)
    #[arg(long, default_value = "materials", value_name = "MODE", value_parser = ["materials", "frontend"], hide_possible_values = true)]
    pub replay_mode: String,
    /// Name and optionally tag of the image (repeatable)
    #[arg(short, long, value_name = "NAME")]
    pub tag: Vec<String>,
    /// Output: a directory, `-`, or type=image|registry|oci|docker|local|tar|cacheonly,dest=…,… (repeatable)
    #[arg(short, long, value_name = "SPEC")]
    pub output: Vec<String>,
    /// Push to the registries of the tags
    #[arg(long)]
    pub push: bool,
    /// Load into the local docker or podman if one answers, else keep in the store
    #[arg(long)]
    pub load: bool,
}

/// `rbuild replay verify`.
#[derive(Debug, Clone, Args)]
pub struct ReplayVerify {
    /// What to build.
    #[command(flatten)]
    pub common: ReplayCommon,
    /// What has to be the same: digest (every byte) or artifact (files and settings; what differs is said)
    #[arg(long, default_value = "digest", value_name = "MODE", value_parser = ["digest", "artifact"], hide_possible_values = true)]
    pub compare: String,
    /// Do not take what the cache has: build for real
    #[arg(long)]
    pub no_cache: bool,
    /// How differences are said: text or json
    #[arg(long, default_value = "text", value_parser = ["text", "json"], hide_possible_values = true)]
    pub format: String,
    /// Write the verdict (vsa.intoto.jsonl) and the differences (diff.json) into a directory: type=local,dest=DIR, or DIR
    #[arg(short, long, value_name = "SPEC")]
    pub output: Option<PathBuf>,
}
