//! `rbuild diff` and `rbuild verify`.

use clap::Args;

use super::{Build, ProgressArgs};

/// `rbuild diff`.
#[derive(Debug, Args)]
pub struct Diff {
    /// An image of the store: a name, or the beginning of its digest
    pub first: String,
    /// Another
    pub second: String,
    /// text or json
    #[arg(long, default_value = "text", value_parser = ["text", "json"], hide_possible_values = true)]
    pub format: String,
    /// Show all files, not the first twenty of each layer
    #[arg(long)]
    pub all: bool,
    /// How fetching is shown.
    #[command(flatten)]
    pub progress: ProgressArgs,
}

/// `rbuild verify`.
#[derive(Debug, Clone, Args)]
pub struct Verify {
    /// Compare with this image, which is pulled, instead of with a second build
    #[arg(long, value_name = "IMAGE", help_heading = "What to compare")]
    pub against: Option<String>,
    /// text or json
    #[arg(long, default_value = "text", value_parser = ["text", "json"], hide_possible_values = true, help_heading = "What to compare")]
    pub format: String,
    /// Show all files, not the first twenty of each layer
    #[arg(long, help_heading = "What to compare")]
    pub all: bool,
    /// What to build.
    #[command(flatten)]
    pub build: Box<Build>,
}
