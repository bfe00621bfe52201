//! Flags about lists of software that a scanner of the user's own makes (SPEC C8.14, D3.28).

use std::path::PathBuf;

use clap::Args;

/// See above.
#[derive(Debug, Clone, Default, Args)]
pub struct ScanArgs {
    /// An image with a scanner: its commands run as steps, and what they write is a list of software
    #[arg(long, value_name = "IMAGE", help_heading = "Lists of software")]
    pub sbom_scanner_image: Option<String>,
    /// A command of it: {ROOTFS} is the image that is built, {CONTEXT} the context, {OUTPUT} the file to write (repeatable)
    #[arg(long, value_name = "COMMAND", help_heading = "Lists of software", allow_hyphen_values = true)]
    pub sbom_scanner_command: Vec<String>,
    /// How the lists of several commands become one: cat, merge-cyclonedx-by-component-name-and-version or
    /// merge-spdx-by-package-name-and-versioninfo
    #[arg(long, value_name = "STRATEGY", help_heading = "Lists of software")]
    pub sbom_merge_strategy: Option<String>,
    /// Write the list to a file
    #[arg(long, value_name = "FILE", help_heading = "Lists of software")]
    pub sbom_output: Option<PathBuf>,
    /// Write the package URLs in it to a file, as JSON
    #[arg(long, value_name = "FILE", help_heading = "Lists of software")]
    pub sbom_purl_output: Option<PathBuf>,
    /// Put the list into the image
    #[arg(long, value_name = "PATH", help_heading = "Lists of software")]
    pub sbom_image_output: Option<String>,
    /// Put the package URLs into the image
    #[arg(long, value_name = "PATH", help_heading = "Lists of software")]
    pub sbom_image_purl_output: Option<String>,
}
