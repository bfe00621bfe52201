//! The flags of `buildah build` and `podman build`, each under its own name (SPEC D3).

use std::path::PathBuf;

use clap::{Args, Parser};

use crate::cli::args::go_boolean;

/// Builds an image from buildah's command line: `rbuild buildah build` (or `bud`), `rbuild podman build`, or a program called
/// `buildah`.
#[derive(Debug, Parser)]
#[command(name = "buildah-build", args_override_self = true, disable_help_subcommand = true, max_term_width = 110)]
#[command(override_usage = "buildah build [OPTIONS] [CONTEXT]")]
#[command(after_help = "What each becomes is in docs/from-buildah.md.")]
pub(super) struct Build {
    /// The build context: a directory, a URL, or `-` [default: .]
    #[arg(value_name = "CONTEXT")]
    pub(super) context: Option<String>,
    /// Containerfile or Dockerfile, one behind the other if repeated; in the context if it is not here
    #[arg(short, long, value_name = "FILE", value_delimiter = ',')]
    pub(super) file: Vec<String>,
    /// Name of the image, or docker://, oci:, oci-archive: or docker-archive: and where it goes (repeatable)
    #[arg(short, long, value_name = "NAME")]
    pub(super) tag: Vec<String>,
    #[command(flatten)]
    pub(super) image: ImageFlags,
    #[command(flatten)]
    pub(super) same: Same,
    #[command(flatten)]
    pub(super) steps: StepFlags,
    #[command(flatten)]
    pub(super) cache: CacheFlags,
    #[command(flatten)]
    pub(super) registries: RegistryFlags,
    #[command(flatten)]
    pub(super) messages: Messages,
    #[command(flatten)]
    pub(super) sbom: Sbom,
    #[command(flatten)]
    pub(super) idle: Idle,
    #[command(flatten)]
    pub(super) refused: Refused,
}

/// What is said in the same words here.
#[derive(Debug, Args)]
#[command(next_help_heading = "As with rbuild")]
pub(super) struct Same {
    /// Set a build argument
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub(super) build_arg: Vec<String>,
    /// Build arguments, one a line
    #[arg(long, value_name = "FILE")]
    pub(super) build_arg_file: Vec<String>,
    /// Further context
    #[arg(long, value_name = "NAME=VALUE")]
    pub(super) build_context: Vec<String>,
    /// Stage to build
    #[arg(long, value_name = "STAGE")]
    pub(super) target: Vec<String>,
    /// Rules of what is left out of the context
    #[arg(long, value_name = "FILE")]
    pub(super) ignorefile: Vec<String>,
    /// Set a label
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub(super) label: Vec<String>,
    /// Set an annotation
    #[arg(long, value_name = "NAME=VALUE")]
    pub(super) annotation: Vec<String>,
    /// Leave a variable out of the image
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub(super) unsetenv: Vec<String>,
    /// Leave a label out of the image
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub(super) unsetlabel: Vec<String>,
    /// Set a variable in every stage
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub(super) env: Vec<String>,
    /// Secret for the steps that ask for it
    #[arg(long, value_name = "SPEC")]
    pub(super) secret: Vec<String>,
    /// SSH agent or keys
    #[arg(long, value_name = "SPEC")]
    pub(super) ssh: Vec<String>,
    /// Add a line to /etc/hosts
    #[arg(long, value_name = "HOST:IP", value_delimiter = ',')]
    pub(super) add_host: Vec<String>,
    /// Resource limit
    #[arg(long, value_name = "LIMIT", value_delimiter = ',')]
    pub(super) ulimit: Vec<String>,
    /// Size of /dev/shm
    #[arg(long, value_name = "BYTES")]
    pub(super) shm_size: Vec<String>,
    /// Memory of each step
    #[arg(short, long, value_name = "BYTES")]
    pub(super) memory: Vec<String>,
    /// Memory and swap
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub(super) memory_swap: Vec<String>,
    /// Weight
    #[arg(short, long, value_name = "NUMBER")]
    pub(super) cpu_shares: Vec<String>,
    /// Period of the CPU limit
    #[arg(long, value_name = "MICROSECONDS")]
    pub(super) cpu_period: Vec<String>,
    /// CPU time within it
    #[arg(long, value_name = "MICROSECONDS", allow_hyphen_values = true)]
    pub(super) cpu_quota: Vec<String>,
    /// CPUs
    #[arg(long, value_name = "LIST")]
    pub(super) cpuset_cpus: Vec<String>,
    /// Memory nodes
    #[arg(long, value_name = "LIST")]
    pub(super) cpuset_mems: Vec<String>,
    /// Control group of the steps
    #[arg(long, value_name = "PATH")]
    pub(super) cgroup_parent: Vec<String>,
    /// Add a capability
    #[arg(long, value_name = "NAME")]
    pub(super) cap_add: Vec<String>,
    /// Drop a capability
    #[arg(long, value_name = "NAME")]
    pub(super) cap_drop: Vec<String>,
    /// Name server
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    pub(super) dns: Vec<String>,
    /// Search domain
    #[arg(long, value_name = "DOMAIN", value_delimiter = ',')]
    pub(super) dns_search: Vec<String>,
    /// Option of name resolution
    #[arg(long, value_name = "OPTION", value_delimiter = ',')]
    pub(super) dns_option: Vec<String>,
    /// Rules about sources
    #[arg(long, value_name = "FILE")]
    pub(super) source_policy_file: Vec<String>,
    /// Write the image ID to a file
    #[arg(long, value_name = "FILE")]
    pub(super) iidfile: Vec<String>,
    /// … without sha256:
    #[arg(long, value_name = "FILE")]
    pub(super) iidfile_raw: Vec<String>,
    /// Write what was built as JSON to a file
    #[arg(long, value_name = "FILE")]
    pub(super) metadata_file: Vec<String>,
    /// Directory or tar of the files: DIR, `-`, or type=local|tar,dest=…
    #[arg(short, long, value_name = "SPEC")]
    pub(super) output: Vec<String>,
    /// How often a transfer is tried again
    #[arg(long, value_name = "NUMBER")]
    pub(super) retry: Vec<String>,
    /// The pause before that
    #[arg(long, value_name = "DURATION")]
    pub(super) retry_delay: Vec<String>,
    /// Credentials
    #[arg(long, value_name = "USER[:PASSWORD]")]
    pub(super) creds: Vec<String>,
    /// File of credentials
    #[arg(long, value_name = "FILE")]
    pub(super) authfile: Vec<String>,
}

/// What the image is.
#[derive(Debug, Args)]
#[command(next_help_heading = "Image")]
pub(super) struct ImageFlags {
    /// Take this image for the first FROM
    #[arg(long, value_name = "IMAGE")]
    pub(super) from: Option<String>,
    /// oci or docker: what the image is in the store and in registries
    #[arg(long, value_name = "FORMAT")]
    pub(super) format: Option<String>,
    /// One layer; podman's leaves those of the base image alone
    #[arg(long)]
    pub(super) squash: bool,
    /// One layer
    #[arg(long)]
    pub(super) squash_all: bool,
    /// Keep a layer for each step, and use those that there are; false makes one layer, without the cache
    #[arg(long, num_args = 0..=1, require_equals = true, value_name = "BOOL", default_missing_value = "true", value_parser = go_boolean())]
    pub(super) layers: Option<bool>,
    /// Set all times to this many seconds since 1970
    #[arg(long, value_name = "SECONDS")]
    pub(super) timestamp: Option<i64>,
    /// Set the image's times to this many seconds since 1970
    #[arg(long, value_name = "SECONDS", conflicts_with = "timestamp")]
    pub(super) source_date_epoch: Option<i64>,
    /// Set later times of files to it, too
    #[arg(long)]
    pub(super) rewrite_timestamp: bool,
    /// No history
    #[arg(long)]
    pub(super) omit_history: bool,
    /// Keep the stages that the image is made from, as images without a name
    #[arg(long)]
    pub(super) save_stages: bool,
    /// Say in labels of these images which stage each is
    #[arg(long)]
    pub(super) stage_labels: bool,
    /// Keep labels of the base image
    #[arg(long, num_args = 0..=1, require_equals = true, value_name = "BOOL", default_value = "true", default_missing_value = "true", value_parser = go_boolean(), action = clap::ArgAction::Set)]
    pub(super) inherit_labels: bool,
    /// Keep annotations of the base image
    #[arg(long, num_args = 0..=1, require_equals = true, value_name = "BOOL", default_value = "true", default_missing_value = "true", value_parser = go_boolean(), action = clap::ArgAction::Set)]
    pub(super) inherit_annotations: bool,
    /// Leave an annotation of the base image out
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub(super) unsetannotation: Vec<String>,
    /// Platforms
    #[arg(long, value_name = "PLATFORM", value_delimiter = ',')]
    pub(super) platform: Vec<String>,
    /// All platforms that the base images are for
    #[arg(long)]
    pub(super) all_platforms: bool,
    /// Architecture
    #[arg(long, value_name = "ARCH")]
    pub(super) arch: Option<String>,
    /// Operating system
    #[arg(long, value_name = "OS")]
    pub(super) os: Option<String>,
    /// Variant of the architecture
    #[arg(long, value_name = "VARIANT")]
    pub(super) variant: Option<String>,
    /// What the image says of its operating system's version
    #[arg(long, value_name = "VERSION")]
    pub(super) os_version: Option<String>,
    /// A feature of the operating system that the image needs; NAME- takes one away
    #[arg(long, value_name = "NAME")]
    pub(super) os_feature: Vec<String>,
    /// Name of an index of the images of all platforms
    #[arg(long, value_name = "NAME")]
    pub(super) manifest: Option<String>,
    /// Whether an annotation of the image tells when it was made [default: false]
    #[arg(long, num_args = 0..=1, require_equals = true, value_name = "BOOL", default_missing_value = "true", value_parser = go_boolean())]
    pub(super) created_annotation: Option<bool>,
    /// gzip or zstd
    #[arg(long, value_name = "KIND", value_parser = ["gzip", "zstd"], hide_possible_values = true)]
    pub(super) compression_format: Option<String>,
    /// Its level
    #[arg(long, value_name = "NUMBER")]
    pub(super) compression_level: Option<i32>,
    /// Compress base layers again
    #[arg(long)]
    pub(super) force_compression: bool,
    /// Write layers to archives as they are
    #[arg(short = 'D', long)]
    pub(super) disable_compression: bool,
}

/// What RUN has.
#[derive(Debug, Args)]
#[command(next_help_heading = "RUN steps")]
pub(super) struct StepFlags {
    /// oci, rootless or chroot
    #[arg(long, value_name = "KIND")]
    pub(super) isolation: Option<String>,
    /// Show a directory or file to every step: SOURCE:TARGET[:OPTIONS]
    #[arg(short, long, value_name = "SPEC")]
    pub(super) volume: Vec<String>,
    /// Show a device to every step: DEVICE[:TARGET[:rwm]]
    #[arg(long, value_name = "SPEC")]
    pub(super) device: Vec<String>,
    /// host, none, private or pasta
    #[arg(long, alias = "net", value_name = "MODE")]
    pub(super) network: Option<String>,
    /// Pass proxies on to steps [default: true]
    #[arg(long, num_args = 0..=1, require_equals = true, value_name = "BOOL", default_missing_value = "true", value_parser = go_boolean())]
    pub(super) http_proxy: Option<bool>,
    /// Variables of steps that `containers.conf` has
    #[arg(skip)]
    pub(super) step_env: Vec<String>,
    /// Steps see /etc/hosts of the image
    #[arg(long)]
    pub(super) no_hosts: bool,
    /// Put the user of steps into a group, too
    #[arg(long, value_name = "GROUP", value_delimiter = ',')]
    pub(super) group_add: Vec<String>,
    /// Let steps read standard input
    #[arg(long)]
    pub(super) stdin: bool,
    /// no-new-privileges, label=…, seccomp=unconfined or apparmor=unconfined
    #[arg(long, value_name = "OPTION")]
    pub(super) security_opt: Vec<String>,
    /// Flags of the C preprocessor, for files whose names end in .in
    #[arg(long, value_name = "FLAG", allow_hyphen_values = true)]
    pub(super) cpp_flag: Vec<String>,
}

/// Caches, and where base images come from.
#[derive(Debug, Args)]
#[command(next_help_heading = "Cache")]
pub(super) struct CacheFlags {
    /// always or true, missing, never or false, newer
    #[arg(long, num_args = 0..=1, require_equals = true, value_name = "POLICY", default_missing_value = "missing")]
    pub(super) pull: Option<String>,
    /// Always pull
    #[arg(long)]
    pub(super) pull_always: bool,
    /// Never pull
    #[arg(long)]
    pub(super) pull_never: bool,
    /// Do not use the cache
    #[arg(long)]
    pub(super) no_cache: bool,
    /// Repository of a cache to read
    #[arg(long, value_name = "REPOSITORY")]
    pub(super) cache_from: Vec<String>,
    /// Repository of a cache to write
    #[arg(long, value_name = "REPOSITORY")]
    pub(super) cache_to: Vec<String>,
    /// Leave out what is older
    #[arg(long, value_name = "DURATION")]
    pub(super) cache_ttl: Option<String>,
}

/// How registries are reached.
#[derive(Debug, Args)]
#[command(next_help_heading = "Registries")]
pub(super) struct RegistryFlags {
    /// Demand HTTPS and valid certificates
    #[arg(long, num_args = 0..=1, require_equals = true, value_name = "BOOL", default_value = "true", default_missing_value = "true", value_parser = go_boolean(), action = clap::ArgAction::Set)]
    pub(super) tls_verify: bool,
    /// A policy.json that accepts every image
    #[arg(long, value_name = "FILE", hide = true)]
    pub(super) signature_policy: Option<PathBuf>,
    /// Directory of certificates
    #[arg(long, value_name = "DIR")]
    pub(super) cert_dir: Option<String>,
}

/// What is said.
#[derive(Debug, Args)]
#[command(next_help_heading = "Messages")]
pub(super) struct Messages {
    /// Print the image ID only
    #[arg(short, long)]
    pub(super) quiet: bool,
    /// Write messages to a file
    #[arg(long, value_name = "FILE")]
    pub(super) logfile: Option<PathBuf>,
    /// Write those of each platform to a file of its own, too: FILE_OS_ARCHITECTURE
    #[arg(long)]
    pub(super) logsplit: bool,
    /// debug says more
    #[arg(long, value_name = "LEVEL", hide = true)]
    pub(super) log_level: Option<String>,
}

/// Lists of software.
#[derive(Debug, Args)]
#[command(next_help_heading = "Lists of software")]
pub(super) struct Sbom {
    /// A scanner with its commands: syft, syft-cyclonedx, syft-spdx, trivy, trivy-cyclonedx or trivy-spdx
    #[arg(long = "sbom", value_name = "PRESET", num_args = 0..=1, require_equals = true, default_missing_value = "syft")]
    pub(super) preset: Option<String>,
    /// The image of a scanner
    #[arg(long, value_name = "IMAGE")]
    pub(super) sbom_scanner_image: Option<String>,
    /// A command of it, with {ROOTFS} or {CONTEXT}, and {OUTPUT}
    #[arg(long, value_name = "COMMAND", allow_hyphen_values = true)]
    pub(super) sbom_scanner_command: Vec<String>,
    /// How the lists of several commands become one
    #[arg(long, value_name = "STRATEGY")]
    pub(super) sbom_merge_strategy: Option<String>,
    /// Write the list to a file
    #[arg(long, value_name = "FILE")]
    pub(super) sbom_output: Option<String>,
    /// Put the list into the image
    #[arg(long, value_name = "PATH")]
    pub(super) sbom_image_output: Option<String>,
    /// Write the package URLs in it to a file
    #[arg(long, value_name = "FILE")]
    pub(super) sbom_purl_output: Option<String>,
    /// Put the package URLs into the image
    #[arg(long, value_name = "PATH")]
    pub(super) sbom_image_purl_output: Option<String>,
}

/// What is always so here.
#[derive(Debug, Args)]
#[command(next_help_heading = "Accepted, always so here")]
pub(super) struct Idle {
    /// Stages run side by side
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32))]
    pub(super) jobs: Option<u32>,
    /// Stages that nothing needs are not built
    #[arg(long, num_args = 0..=1, require_equals = true, value_name = "BOOL", default_value = "true", default_missing_value = "true", value_parser = go_boolean(), action = clap::ArgAction::Set)]
    pub(super) skip_unused_stages: bool,
    /// No containers are left
    #[arg(long, num_args = 0..=1, require_equals = true, value_name = "BOOL", default_missing_value = "true", value_parser = go_boolean())]
    pub(super) rm: Option<bool>,
    /// The same
    #[arg(long, num_args = 0..=1, require_equals = true, value_name = "BOOL", default_missing_value = "true", value_parser = go_boolean())]
    pub(super) force_rm: Option<bool>,
    /// No file /etc/hostname is made for steps
    #[arg(long)]
    pub(super) no_hostname: bool,
    /// No label tells who built the image
    #[arg(long, num_args = 0..=1, require_equals = true, value_name = "BOOL", default_missing_value = "true", value_parser = go_boolean())]
    pub(super) identity_label: Option<bool>,
    /// There are no images of steps
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub(super) layer_label: Vec<String>,
    /// What RUN writes below a VOLUME stays
    #[arg(long, num_args = 0..=1, require_equals = true, value_name = "BOOL", default_missing_value = "true", value_parser = go_boolean())]
    pub(super) compat_volumes: Option<bool>,
    /// private: steps have their own
    #[arg(long, value_name = "MODE")]
    pub(super) ipc: Option<String>,
    /// private
    #[arg(long, value_name = "MODE")]
    pub(super) pid: Option<String>,
    /// private
    #[arg(long, value_name = "MODE")]
    pub(super) uts: Option<String>,
    /// private
    #[arg(long, value_name = "MODE")]
    pub(super) cgroupns: Option<String>,
    /// What docs/ROOTLESS.md says
    #[arg(long, value_name = "MODE")]
    pub(super) userns: Option<String>,
    /// Steps are run without a runtime's program
    #[arg(long, value_name = "PATH")]
    pub(super) runtime: Option<String>,
    /// The same
    #[arg(long, value_name = "FLAG", allow_hyphen_values = true, value_delimiter = ',')]
    pub(super) runtime_flag: Vec<String>,
    /// Layers are compressed when they leave the store
    #[arg(long)]
    pub(super) compress: bool,
    /// Digests are always checked
    #[arg(long)]
    pub(super) disable_content_trust: bool,
    /// Each step says how long it took
    #[arg(long, hide = true)]
    pub(super) log_rusage: bool,
    /// The same
    #[arg(long, value_name = "FILE", hide = true)]
    pub(super) rusage_logfile: Option<String>,
    /// --log-level of buildah says more
    #[arg(long, value_name = "NUMBER", hide = true)]
    pub(super) loglevel: Option<i64>,
    /// Blobs are in the store
    #[arg(long, value_name = "DIR", hide = true)]
    pub(super) blob_cache: Option<String>,
    /// What the machine can do is found out
    #[arg(long, value_name = "DRIVER", hide = true)]
    pub(super) storage_driver: Option<String>,
    /// The same
    #[arg(long, value_name = "OPTION", hide = true)]
    pub(super) storage_opt: Vec<String>,
}

/// What is refused by name.
#[derive(Debug, Args)]
#[command(next_help_heading = "Refused")]
pub(super) struct Refused {
    #[arg(long, hide = true)]
    pub(super) mount: Option<String>,
    #[arg(long, hide = true)]
    pub(super) userns_uid_map: Option<String>,
    #[arg(long, hide = true)]
    pub(super) userns_gid_map: Option<String>,
    #[arg(long, hide = true)]
    pub(super) userns_uid_map_user: Option<String>,
    #[arg(long, hide = true)]
    pub(super) userns_gid_map_group: Option<String>,
    #[arg(long, hide = true)]
    pub(super) hooks_dir: Option<String>,
    #[arg(long, hide = true)]
    pub(super) sign_by: Option<String>,
    #[arg(long, hide = true)]
    pub(super) decryption_key: Option<String>,
    #[arg(long, hide = true)]
    pub(super) cw: Option<String>,
    #[arg(long, hide = true)]
    pub(super) cni_config_dir: Option<String>,
    #[arg(long, hide = true)]
    pub(super) cni_plugin_path: Option<String>,
    #[arg(long, hide = true)]
    pub(super) registries_conf: Option<String>,
}

impl Refused {
    /// Those that were given, and why nothing can be done with them.
    pub(super) fn given(&self) -> Option<(&'static str, &'static str)> {
        const IDS: &str = "ids are mapped as /etc/subuid and /etc/subgid say";
        const SIGNED: &str =
            "images are not signed; `cosign sign` and `skopeo copy --sign-by` do that to one that was pushed";
        const CNI: &str = "steps have networks without plugins";
        [
            ("mount", &self.mount, "write it to the RUN that needs it, or give --volume"),
            ("userns-uid-map", &self.userns_uid_map, IDS),
            ("userns-gid-map", &self.userns_gid_map, IDS),
            ("userns-uid-map-user", &self.userns_uid_map_user, IDS),
            ("userns-gid-map-group", &self.userns_gid_map_group, IDS),
            ("hooks-dir", &self.hooks_dir, "steps are run without hooks"),
            ("sign-by", &self.sign_by, SIGNED),
            ("decryption-key", &self.decryption_key, "encrypted images are not read"),
            ("cw", &self.cw, "images for confidential workloads are not made"),
            ("cni-config-dir", &self.cni_config_dir, CNI),
            ("cni-plugin-path", &self.cni_plugin_path, CNI),
            ("registries-conf", &self.registries_conf, "CONTAINERS_REGISTRIES_CONF names the file"),
        ]
        .into_iter()
        .find_map(|(flag, value, why)| value.as_ref().map(|_| (flag, why)))
    }
}
