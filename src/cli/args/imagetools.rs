//! `rbuild imagetools`.

use std::path::PathBuf;

use clap::{ArgAction, Args, Subcommand};

use super::{ProgressArgs, go_boolean};

/// `rbuild imagetools` (SPEC B8.01, B8.02).
#[derive(Debug, Subcommand)]
pub enum Imagetools {
    /// Make an image of images: an index over several, or the same under another name
    Create(ImagetoolsCreate),
    /// Show an image of a registry or of an OCI layout
    Inspect(ImagetoolsInspect),
}

/// `rbuild imagetools create`.
#[derive(Debug, Args)]
pub struct ImagetoolsCreate {
    /// Images: names, digests in the repository of the tag, oci-layout://DIR[:TAG], or descriptors as JSON
    #[arg(value_name = "SOURCE")]
    pub sources: Vec<String>,
    /// Annotate the index (index:K=V) or its entries (manifest-descriptor[PLATFORM]:K=V)
    #[arg(long, value_name = "[TYPE:]KEY=VALUE")]
    pub annotation: Vec<String>,
    /// Add to what the first tag has already
    #[arg(long)]
    pub append: bool,
    /// Print the document and write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Files with sources: names, digests or descriptors as JSON
    #[arg(short, long, value_name = "FILE")]
    pub file: Vec<PathBuf>,
    /// Write digest and names to this file
    #[arg(long, value_name = "FILE")]
    pub metadata_file: Option<PathBuf>,
    /// Keep the images for these platforms only
    #[arg(short, long, value_name = "PLATFORM", value_delimiter = ',')]
    pub platform: Vec<String>,
    /// A single image becomes an index too
    #[arg(long, action = ArgAction::Set, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true", value_parser = go_boolean())]
    pub prefer_index: bool,
    /// Names to write: HOST/NAME:TAG or oci-layout://DIR[:TAG]
    #[arg(short, long, value_name = "NAME")]
    pub tag: Vec<String>,
    /// How it is shown.
    #[command(flatten)]
    pub progress: ProgressArgs,
}

/// `rbuild imagetools inspect`.
#[derive(Debug, Args)]
pub struct ImagetoolsInspect {
    /// The image: HOST/NAME[:TAG][@DIGEST] or oci-layout://DIR[:TAG]
    pub name: String,
    /// A Go template over Name, Manifest, Image, Provenance and SBOM
    #[arg(long, value_name = "TEMPLATE")]
    pub format: Option<String>,
    /// The document's exact bytes
    #[arg(long)]
    pub raw: bool,
}
