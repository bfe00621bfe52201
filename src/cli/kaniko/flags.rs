//! The flags of kaniko's executor, each under its own name and with its own default (SPEC D1).

use std::path::PathBuf;

use clap::{Args, Parser};

/// Builds an image from kaniko's command line: `rbuild kaniko`, or a program called `executor`.
#[derive(Debug, Parser)]
#[command(name = "executor", args_override_self = true, disable_help_subcommand = true, max_term_width = 110)]
#[command(
    after_help = "What each becomes is in docs/from-kaniko.md. `rbuild kaniko warmer --help` is about the warmer."
)]
pub(super) struct Executor {
    /// The Dockerfile: in the context, or else as it is written; or an http(s) URL
    #[arg(short = 'f', long, value_name = "PATH", default_value = "Dockerfile")]
    pub(super) dockerfile: String,
    /// dir://PATH, tar://PATH, tar://stdin, git://…, https://…, s3://BUCKET/OBJECT, gs://BUCKET/OBJECT
    #[arg(short, long, value_name = "CONTEXT", default_value = super::context::WORKSPACE)]
    pub(super) context: String,
    /// The directory of the context that is taken for the whole of it
    #[arg(long, value_name = "DIR", default_value = "", hide_default_value = true)]
    pub(super) context_sub_path: String,
    /// The bucket of a context in Google's storage
    #[arg(short, long, value_name = "NAME", hide = true)]
    pub(super) bucket: Option<String>,
    /// How a git repository is fetched: branch=,single-branch=,recurse-submodules=,insecure-skip-tls=,depth=
    #[arg(long, value_name = "LIST")]
    pub(super) git: Vec<String>,
    /// Set a build argument; without a value it is taken from the environment (repeatable)
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub(super) build_arg: Vec<String>,
    /// Stage to build
    #[arg(long, value_name = "STAGE")]
    pub(super) target: Option<String>,
    /// The platform of the image
    #[arg(long, alias = "customPlatform", value_name = "PLATFORM")]
    pub(super) custom_platform: Option<String>,
    /// Set a label of the image (repeatable)
    #[arg(long, value_name = "NAME=VALUE")]
    pub(super) label: Vec<String>,
    /// Set an annotation of the manifest (repeatable)
    #[arg(long, value_name = "NAME=VALUE")]
    pub(super) annotation: Vec<String>,
    /// What steps may mount: id=ID[,src=FILE][,env=VARIABLE][,type=file|env] (repeatable)
    #[arg(long, value_name = "SPEC")]
    pub(super) secret: Vec<String>,

    #[command(flatten)]
    pub(super) result: ResultFlags,
    #[command(flatten)]
    pub(super) cache: CacheFlags,
    #[command(flatten)]
    pub(super) registries: RegistryFlags,
    #[command(flatten)]
    pub(super) messages: Messages,
    #[command(flatten)]
    pub(super) idle: Idle,
}

/// Pushes an image that was built without a push: `executor push`.
#[derive(Debug, Parser)]
#[command(name = "executor push", args_override_self = true, disable_help_subcommand = true, max_term_width = 110)]
pub(super) struct Pusher {
    /// What --tar-path or --oci-layout-path wrote
    #[arg(value_name = "PATH")]
    pub(super) path: String,
    /// Name to push to (repeatable)
    #[arg(short, long, value_name = "NAME", required = true)]
    pub(super) destination: Vec<String>,
    #[command(flatten)]
    pub(super) digests: Digests,
    #[command(flatten)]
    pub(super) registries: RegistryFlags,
    #[command(flatten)]
    pub(super) messages: Messages,
    #[command(flatten)]
    pub(super) idle: Idle,
}

/// Builds a target of a file that has several: `executor bake`.
#[derive(Debug, Parser)]
#[command(name = "executor bake", args_override_self = true, disable_help_subcommand = true, max_term_width = 110)]
pub(super) struct Baker {
    /// A JSON file with "version" and "targets"
    #[arg(value_name = "FILE")]
    pub(super) file: PathBuf,
    /// Which of them; may be left out where there is one
    #[arg(value_name = "TARGET")]
    pub(super) selected: Option<String>,
    /// Another destination: TARGET.destination=NAME (repeatable)
    #[arg(long, value_name = "TARGET.FIELD=VALUE")]
    pub(super) set: Vec<String>,
    /// Everything else.
    #[command(flatten)]
    pub(super) executor: Executor,
}

/// Puts base images where builds find them: `warmer`.
#[derive(Debug, Parser)]
#[command(name = "warmer", args_override_self = true, disable_help_subcommand = true, max_term_width = 110)]
pub(super) struct Warmer {
    /// An image (repeatable)
    #[arg(short, long, value_name = "NAME")]
    pub(super) image: Vec<String>,
    /// All images that this Dockerfile names
    #[arg(short, long, value_name = "FILE")]
    pub(super) dockerfile: Option<String>,
    /// Set a build argument of the Dockerfile (repeatable)
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub(super) build_arg: Vec<String>,
    /// Where they are put
    #[arg(short, long, value_name = "DIR", default_value = super::CACHE_DIR)]
    pub(super) cache_dir: String,
    /// Fetch what is there already once more
    #[arg(short, long)]
    pub(super) force: bool,
    /// Says nothing here: the executor's own counts, from the time at which an image was fetched
    #[arg(long, value_name = "DURATION", default_value = "336h")]
    pub(super) cache_ttl: String,
    /// The platform of the images
    #[arg(long, alias = "customPlatform", value_name = "PLATFORM")]
    pub(super) custom_platform: Option<String>,
    #[command(flatten)]
    pub(super) registries: RegistryFlags,
    #[command(flatten)]
    pub(super) messages: Messages,
}

/// What is made, and where it goes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Result")]
pub(super) struct ResultFlags {
    /// Name to push to (repeatable)
    #[arg(short, long, value_name = "NAME")]
    pub(super) destination: Vec<String>,
    /// Build without a push
    #[arg(long)]
    pub(super) no_push: bool,
    /// Write a docker archive
    #[arg(long, alias = "tarPath", value_name = "FILE")]
    pub(super) tar_path: Option<String>,
    /// Write an OCI layout
    #[arg(long, value_name = "DIR")]
    pub(super) oci_layout_path: Option<String>,
    /// What is told of it.
    #[command(flatten)]
    pub(super) digests: Digests,
    /// docker or oci [default: oci]
    #[arg(long, value_name = "KIND", default_value = "", hide_default_value = true, value_parser = ["docker", "oci", ""], hide_possible_values = true)]
    pub(super) image_format: String,
    /// gzip or zstd
    #[arg(long, value_name = "KIND", default_value = "gzip", value_parser = ["gzip", "zstd", ""], hide_possible_values = true)]
    pub(super) compression: String,
    /// Its level; -1 is the usual one
    #[arg(long, value_name = "NUMBER", default_value = "-1", allow_hyphen_values = true)]
    pub(super) compression_level: i32,
    /// No times in the image
    #[arg(long)]
    pub(super) reproducible: bool,
    /// One layer for all steps
    #[arg(long)]
    pub(super) single_snapshot: bool,
    /// What is below this path stays out of layers (repeatable)
    #[arg(long, value_name = "PATH")]
    pub(super) ignore_path: Vec<String>,
}

/// Files that say what was pushed.
#[derive(Debug, Args)]
#[command(next_help_heading = "Result")]
pub(super) struct Digests {
    /// Write the digest to a file, or PUT it to an https URL
    #[arg(long, value_name = "FILE|URL")]
    pub(super) digest_file: Option<String>,
    /// The same as NAME@DIGEST
    #[arg(long, value_name = "FILE|URL")]
    pub(super) image_name_with_digest_file: Option<String>,
    /// The same as NAME:TAG@DIGEST
    #[arg(long, value_name = "FILE|URL")]
    pub(super) image_name_tag_with_digest_file: Option<String>,
}

/// Caches.
#[derive(Debug, Args)]
#[command(next_help_heading = "Cache")]
pub(super) struct CacheFlags {
    /// Share the cache through a registry
    #[arg(long)]
    pub(super) cache: bool,
    /// Where it is: a repository, or oci:DIRECTORY [default: DESTINATION/cache]
    #[arg(long, value_name = "REPOSITORY")]
    pub(super) cache_repo: Option<String>,
    /// Where kaniko's warmer puts base images
    #[arg(long, value_name = "DIR", default_value = super::CACHE_DIR)]
    pub(super) cache_dir: String,
    /// Leave out what is older
    #[arg(long, value_name = "DURATION", default_value = "336h")]
    pub(super) cache_ttl: String,
    /// Keep what COPY makes
    #[arg(long)]
    pub(super) cache_copy_layers: bool,
    /// Keep what RUN makes
    #[arg(long, num_args = 0..=1, require_equals = true, value_name = "BOOL", default_value = "true", default_missing_value = "true", value_parser = crate::cli::args::go_boolean(), action = clap::ArgAction::Set)]
    pub(super) cache_run_layers: bool,
    /// Read the cache, write nothing to it
    #[arg(long)]
    pub(super) no_push_cache: bool,
}

/// Registries.
#[derive(Debug, Args)]
#[command(next_help_heading = "Registries")]
pub(super) struct RegistryFlags {
    /// Push over plain HTTP too
    #[arg(long)]
    pub(super) insecure: bool,
    /// Pull over plain HTTP too
    #[arg(long)]
    pub(super) insecure_pull: bool,
    /// The same for one registry (repeatable)
    #[arg(long, value_name = "HOST")]
    pub(super) insecure_registry: Vec<String>,
    /// Push to registries with any certificate
    #[arg(long)]
    pub(super) skip_tls_verify: bool,
    /// Pull from registries with any certificate
    #[arg(long)]
    pub(super) skip_tls_verify_pull: bool,
    /// The same for one registry (repeatable)
    #[arg(long, value_name = "HOST")]
    pub(super) skip_tls_verify_registry: Vec<String>,
    /// A further root certificate for a registry (repeatable)
    #[arg(long, value_name = "HOST=FILE")]
    pub(super) registry_certificate: Vec<String>,
    /// Certificate and key to show to a registry (repeatable)
    #[arg(long, value_name = "HOST=CERT,KEY")]
    pub(super) registry_client_cert: Vec<String>,
    /// A mirror of Docker Hub (repeatable)
    #[arg(long, value_name = "HOST[/PATH]")]
    pub(super) registry_mirror: Vec<String>,
    /// Mirrors of any registry (repeatable)
    #[arg(long, value_name = "REGISTRY=MIRROR[;…]")]
    pub(super) registry_map: Vec<String>,
    /// Do not ask the registry itself where it has mirrors
    #[arg(long)]
    pub(super) skip_default_registry_fallback: bool,
    /// How often a push is tried again
    #[arg(long, value_name = "NUMBER", default_value = "0")]
    pub(super) push_retry: u32,
    /// How often reading a base image is tried again
    #[arg(long, value_name = "NUMBER", default_value = "0")]
    pub(super) image_fs_extract_retry: u32,
    /// How often a download is tried again
    #[arg(long, value_name = "NUMBER", default_value = "0")]
    pub(super) image_download_retry: u32,
    /// A tag that cannot be changed is no failure
    #[arg(long)]
    pub(super) push_ignore_immutable_tag_errors: bool,
    /// Do not ask before the push whether it will be allowed
    #[arg(long)]
    pub(super) skip_push_permission_check: bool,
    /// Who is asked for credentials that no file has: env, google, ecr, acr, gitlab; an empty value is nobody (repeatable)
    #[arg(long, value_name = "NAME")]
    pub(super) credential_helpers: Vec<String>,
}

/// What is said.
#[derive(Debug, Args)]
#[command(next_help_heading = "Messages")]
pub(super) struct Messages {
    /// trace, debug, info, warn, error, fatal or panic
    #[arg(short, long, value_name = "LEVEL", default_value = "info")]
    pub(super) verbosity: String,
    /// color, text or json
    #[arg(long, value_name = "FORMAT", default_value = "color", value_parser = ["color", "text", "json"], hide_possible_values = true)]
    pub(super) log_format: String,
    /// The time in front of each line; --log-format json has it always
    #[arg(long)]
    pub(super) log_timestamp: bool,
}

/// What is always so here, or has no counterpart because nothing is unpacked over the builder's own root.
#[derive(Debug, Args)]
#[command(next_help_heading = "Accepted, without a meaning here")]
pub(super) struct Idle {
    /// full, redo or time: what a step changed is known from its own layer
    #[arg(long, alias = "snapshotMode", value_name = "MODE", default_value = "full", value_parser = ["full", "redo", "time"], hide_possible_values = true)]
    pub(super) snapshot_mode: String,
    /// The same
    #[arg(long)]
    pub(super) use_new_run: bool,
    /// Stages that nothing needs are never built
    #[arg(long)]
    pub(super) skip_unused_stages: bool,
    /// There is nothing to clean up
    #[arg(long)]
    pub(super) cleanup: bool,
    /// The same
    #[arg(long)]
    pub(super) pre_cleanup: bool,
    /// The context is never touched
    #[arg(long)]
    pub(super) preserve_context: bool,
    /// The same: what a build leaves is the image
    #[arg(long)]
    pub(super) materialize: bool,
    /// It may run anywhere
    #[arg(long)]
    pub(super) force: bool,
    /// They are always kept
    #[arg(long)]
    pub(super) force_build_metadata: bool,
    /// Layers are streamed
    #[arg(long, num_args = 0..=1, require_equals = true, value_name = "BOOL", default_value = "true", default_missing_value = "true", value_parser = crate::cli::args::go_boolean(), action = clap::ArgAction::Set)]
    pub(super) compressed_caching: bool,
    /// What is mounted is never in a layer
    #[arg(long, alias = "whitelist-var-run", num_args = 0..=1, require_equals = true, value_name = "BOOL", default_value = "true", default_missing_value = "true", value_parser = crate::cli::args::go_boolean(), action = clap::ArgAction::Set)]
    pub(super) ignore_var_run: bool,
    /// Where the store is put
    #[arg(long, value_name = "DIR", env = "KANIKO_DIR", hide_env = true)]
    pub(super) kaniko_dir: Option<PathBuf>,
}
