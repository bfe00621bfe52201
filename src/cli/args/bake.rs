//! `rbuild bake`.

use std::path::PathBuf;

use clap::Args;

use super::{ProgressArgs, go_boolean};

/// `rbuild bake` (SPEC B7.02).
#[derive(Debug, Args)]
pub struct Bake {
    /// Targets and groups, or patterns of them [default: default]; first the address of a definition that is not here
    pub targets: Vec<String>,
    /// A bake file, `-` for standard input (repeatable) [default: compose files, docker-bake.json, docker-bake.hcl and their .override ones]
    #[arg(short, long, value_name = "FILE", help_heading = "What to build")]
    pub file: Vec<String>,
    /// Change targets: TARGET.KEY[.NAME][+]=VALUE, e.g. *.args.V=1 (repeatable)
    #[arg(long, value_name = "OVERRIDE", help_heading = "What to build")]
    pub set: Vec<String>,
    /// Set a variable (repeatable)
    #[arg(long, value_name = "NAME=VALUE", help_heading = "What to build")]
    pub var: Vec<String>,
    /// Print the targets as JSON and build nothing
    #[arg(long, help_heading = "What to build")]
    pub print: bool,
    /// List targets or variables: targets, variables, or type=targets,format=json
    #[arg(long, value_name = "WHAT", help_heading = "What to build")]
    pub list: Option<String>,
    /// Answer a question about each target instead of building it: check, outline, targets
    #[arg(long, value_name = "METHOD", help_heading = "What to build")]
    pub call: Option<String>,
    /// Short for --call=check
    #[arg(long, help_heading = "What to build")]
    pub check: bool,
    /// Allow fs=PATH, fs.read=PATH, fs.write=PATH, ssh, network.host, security.insecure, device or buildx.local.delete (repeatable)
    #[arg(long, value_name = "ENTITLEMENT", help_heading = "What to build")]
    pub allow: Vec<String>,
    /// Build at most so many targets at the same time [default: all that can be]
    #[arg(short, long, value_name = "N", help_heading = "What to build")]
    pub jobs: Option<std::num::NonZeroUsize>,
    /// What a failure means for other targets: defer-error, they are finished
    #[arg(long, value_name = "MODE", help_heading = "What to build")]
    pub execution: Option<String>,

    /// Load into the local docker or podman if one answers, else keep in the store
    #[arg(long, help_heading = "Where the result goes")]
    pub load: bool,
    /// Push to the registries of the tags
    #[arg(long, help_heading = "Where the result goes")]
    pub push: bool,
    /// Write what was built as JSON to a file, by target
    #[arg(long, value_name = "FILE", help_heading = "Where the result goes")]
    pub metadata_file: Option<PathBuf>,
    /// Short for --set=*.attest=type=provenance,…
    #[arg(long, value_name = "OPTIONS", help_heading = "Where the result goes")]
    pub provenance: Option<String>,
    /// Short for --set=*.attest=type=sbom,…
    #[arg(long, value_name = "OPTIONS", help_heading = "Where the result goes")]
    pub sbom: Option<String>,

    /// Do not use the cache
    #[arg(long, help_heading = "Cache")]
    pub no_cache: bool,
    /// Ask the registry for newer versions of base images
    #[arg(long, help_heading = "Cache", num_args = 0..=1, require_equals = true, value_name = "BOOL", default_missing_value = "true", value_parser = go_boolean())]
    pub pull: Option<bool>,

    /// How every target applies its policies (Rego): disabled=BOOL, strict=BOOL, log-level=LEVEL
    #[arg(long, value_name = "SPEC", help_heading = "What to build")]
    pub policy: Vec<String>,
    /// How it is shown.
    #[command(flatten)]
    pub progress: ProgressArgs,
    /// There is one builder, built in
    #[arg(long, hide = true)]
    pub builder: Option<String>,
}
