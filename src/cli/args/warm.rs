//! `rbuild warm`.

use std::path::PathBuf;

use clap::Args;

use super::{ProgressArgs, RegistryArgs};

/// See above (SPEC D1.48).
#[derive(Debug, Args)]
pub struct Warm {
    /// The directory: an OCI layout, made where there is none
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Images
    #[arg(value_name = "IMAGE")]
    pub images: Vec<String>,
    /// All images that this Dockerfile names (repeatable)
    #[arg(short, long, value_name = "FILE")]
    pub file: Vec<PathBuf>,
    /// Set a build argument of these files; without a value it is taken from the environment (repeatable)
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub build_arg: Vec<String>,
    /// For these platforms [default: this machine's]
    #[arg(long, value_name = "PLATFORM", value_delimiter = ',')]
    pub platform: Vec<String>,
    /// Fetch what is there already once more
    #[arg(long)]
    pub force: bool,
    /// An image that cannot be had is no failure, unless there is none that can
    #[arg(long)]
    pub keep_going: bool,
    /// How registries are reached.
    #[command(flatten)]
    pub registries: RegistryArgs,
    /// How it is shown.
    #[command(flatten)]
    pub progress: ProgressArgs,
}
