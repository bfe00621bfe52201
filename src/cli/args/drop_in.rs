//! Flags of `rbuild build` that docker's has not: what kaniko's and buildah's users say on their command lines
//! (SPEC D1, D3), under names that collide with nothing.

use std::path::PathBuf;

use clap::Args;

use super::{DigestFiles, RegistryArgs, ScanArgs};

/// See above.
#[derive(Debug, Clone, Args)]
pub struct DropIn {
    /// How registries are reached.
    #[command(flatten)]
    pub registries: RegistryArgs,
    /// Do not ask the registry while the build runs whether the push will be allowed
    #[arg(long, help_heading = "Registries")]
    pub skip_push_permission_check: bool,
    /// A tag that the registry does not let anybody change is no failure of a push
    #[arg(long, help_heading = "Registries")]
    pub push_ignore_immutable_tag_errors: bool,

    /// What is told of the image.
    #[command(flatten)]
    pub digests: DigestFiles,
    /// What is in it.
    #[command(flatten)]
    pub scan: ScanArgs,

    /// Leave out of the caches that are read (--cache-from) what is older, e.g. 336h
    #[arg(long, value_name = "DURATION", help_heading = "Cache")]
    pub cache_ttl: Option<String>,

    /// Rules of what is left out of the context, in place of .dockerignore and .containerignore
    #[arg(long, value_name = "FILE", help_heading = "What to build")]
    pub ignorefile: Option<PathBuf>,
    /// Do not look at the certificate of this git server (repeatable)
    #[arg(long, value_name = "HOST[:PORT]", hide = true)]
    pub git_unverified: Vec<String>,
    /// Build arguments, NAME=VALUE a line; those of --build-arg go before them (repeatable)
    #[arg(long, value_name = "FILE", help_heading = "What to build")]
    pub build_arg_file: Vec<PathBuf>,
    /// The directory of the context, whatever kind it is, that is taken for the whole of it
    #[arg(long, value_name = "DIR", help_heading = "What to build")]
    pub context_sub_path: Option<String>,

    /// Take this image for the first FROM, whatever that says
    #[arg(long, value_name = "IMAGE", help_heading = "What to build")]
    pub from: Option<String>,
    /// Set a variable in every stage, as an ENV at its beginning would; without a value it is taken from the environment, NAME* are all
    /// that begin so (repeatable)
    #[arg(long, value_name = "NAME[=VALUE]", help_heading = "What to build")]
    pub env: Vec<String>,
    /// Leave a variable out of the image (repeatable)
    #[arg(long, value_name = "NAME", help_heading = "What to build")]
    pub unsetenv: Vec<String>,
    /// Leave a label out of the image (repeatable)
    #[arg(long, value_name = "NAME", help_heading = "What to build")]
    pub unsetlabel: Vec<String>,
    /// Whether labels of base images are those of the image, too [default: true]
    #[arg(long, num_args = 0..=1, require_equals = true, value_name = "BOOL", default_missing_value = "true", value_parser = super::go_boolean(), help_heading = "What to build")]
    pub inherit_labels: Option<bool>,
    /// Whether annotations of the base image's manifest are those of the image, too [default: false]
    #[arg(long, num_args = 0..=1, require_equals = true, value_name = "BOOL", default_missing_value = "true", value_parser = super::go_boolean(), help_heading = "What to build")]
    pub inherit_annotations: Option<bool>,
    /// Leave an annotation of the base image out (repeatable)
    #[arg(long, value_name = "NAME", help_heading = "What to build")]
    pub unsetannotation: Vec<String>,
    /// Leave the history out of the image
    #[arg(long, help_heading = "What to build")]
    pub omit_history: bool,
    /// Put what the steps made into one layer: new, on top of those of the base image, or all, with them
    #[arg(long, value_name = "WHAT", value_parser = ["new", "all"], hide_possible_values = true, help_heading = "What to build")]
    pub single_layer: Option<String>,
    /// Keep the stages that the image is made from, as images without a name
    #[arg(long, help_heading = "What to build")]
    pub save_stages: bool,
    /// Say in labels of these images, and of the image, which stage it is and what it builds on: io.buildah.stage.name and .base
    #[arg(long, help_heading = "What to build")]
    pub stage_labels: bool,
    /// Build for all platforms that the base images are for
    #[arg(long, conflicts_with = "platform", help_heading = "What to build")]
    pub all_platforms: bool,
    /// What the image says of its operating system's version
    #[arg(long, value_name = "VERSION", hide = true)]
    pub os_version: Option<String>,
    /// A feature of the operating system that the image says it needs; NAME- takes one away (repeatable)
    #[arg(long, value_name = "NAME", hide = true)]
    pub os_feature: Vec<String>,
    /// In a context that is no directory, Containerfile goes before Dockerfile
    #[arg(long, hide = true)]
    pub containerfile_first: bool,
    /// A further Dockerfile, whose text comes behind that of --file (repeatable)
    #[arg(long, value_name = "FILE", hide = true)]
    pub append_file: Vec<PathBuf>,
    /// Send Dockerfiles whose names end in .in through the C preprocessor, with these flags (repeatable)
    #[arg(long, value_name = "FLAG", hide = true, allow_hyphen_values = true)]
    pub preprocess: Vec<String>,

    /// Run RUN steps even if the cache has them; what they build on is taken from it
    #[arg(long, help_heading = "Cache")]
    pub no_cache_run: bool,
    /// Look for base images in this OCI layout, which `rbuild warm` fills, before a registry is asked: DIR[,max-age=DURATION]; the age
    /// is that of tags (repeatable)
    #[arg(long, value_name = "DIR", help_heading = "Cache")]
    pub pull_from: Vec<String>,
    /// Use base images that the store has, and ask no registry for them
    #[arg(long, help_heading = "Cache")]
    pub pull_never: bool,

    /// Show a directory or file of this machine to every step: SOURCE:TARGET[:ro|:O]; with O each step may change a directory for
    /// itself; the cache does not see it (repeatable)
    #[arg(short, long, value_name = "SPEC", help_heading = "RUN steps")]
    pub volume: Vec<String>,
    /// Give steps a capability beyond the usual ones, or ALL (repeatable)
    #[arg(long, value_name = "NAME", value_delimiter = ',', help_heading = "RUN steps")]
    pub cap_add: Vec<String>,
    /// Take a capability from steps, or ALL (repeatable)
    #[arg(long, value_name = "NAME", value_delimiter = ',', help_heading = "RUN steps")]
    pub cap_drop: Vec<String>,
    /// Put the user of steps into a group, by its number or by its name in the image, too; the cache does not see it (repeatable)
    #[arg(long, value_name = "GROUP", help_heading = "RUN steps")]
    pub group_add: Vec<String>,
    /// Programs of steps gain no privileges by being executed, so sudo does not work; the cache does not see it
    #[arg(long, help_heading = "RUN steps")]
    pub no_new_privileges: bool,
    /// Steps read what is given to rbuild on its standard input, one after the other; the cache does not see it
    #[arg(long, help_heading = "RUN steps")]
    pub stdin: bool,
    /// A name server for steps, in place of the machine's (repeatable)
    #[arg(long, value_name = "ADDRESS", help_heading = "RUN steps")]
    pub dns: Vec<String>,
    /// A search domain for steps (repeatable)
    #[arg(long, value_name = "DOMAIN", help_heading = "RUN steps")]
    pub dns_search: Vec<String>,
    /// An option of name resolution for steps (repeatable)
    #[arg(long, value_name = "OPTION", help_heading = "RUN steps")]
    pub dns_option: Vec<String>,
    /// Let steps see /etc/hosts of the image
    #[arg(long, help_heading = "RUN steps")]
    pub no_hosts: bool,

    /// Names without a registry are those that `registries.conf` says
    #[arg(long, hide = true)]
    pub short_names: bool,
    /// A variable that steps have where the image has none of that name (repeatable)
    #[arg(long, value_name = "NAME=VALUE", hide = true)]
    pub step_env: Vec<String>,
    /// Who translated this command line has read $CONTAINERS_CONF
    #[arg(long, hide = true)]
    pub containers_conf_read: bool,
    /// Write the image ID without sha256: to a file
    #[arg(long, value_name = "FILE", hide = true)]
    pub iidfile_raw: Option<PathBuf>,
    /// Show steps as they are written, not what their variables hold
    #[arg(long, help_heading = "Messages")]
    pub written_names: bool,
    /// Write plain progress of each platform to a file: PREFIX_OS_ARCHITECTURE
    #[arg(long, value_name = "PREFIX", help_heading = "Messages")]
    pub log_split: Option<String>,
    /// Begin each line of plain progress with the time
    #[arg(long, help_heading = "Messages")]
    pub log_timestamp: bool,
    /// Print the image ID at the end, beside all messages
    #[arg(long, hide = true)]
    pub print_id: bool,
}
