//! `rbuild manifest`.

use clap::{ArgAction, Args, Subcommand};

use super::registries::{DigestFiles, RegistryArgs};
use super::{ProgressArgs, go_boolean};

/// `rbuild manifest`: lists of images in the store (SPEC B8.16, D3.34).
#[derive(Debug, Subcommand)]
pub enum Manifest {
    /// Make a list of images in the store
    Create(ManifestCreate),
    /// Add images to a list
    Add(ManifestAdd),
    /// Say more of an image of a list
    Annotate(ManifestAnnotate),
    /// Show a list of the store or of a registry
    Inspect {
        /// Its name
        list: String,
    },
    /// Send a list and its images to a registry
    Push(ManifestPush),
    /// Take images out of a list
    Remove {
        /// The list
        list: String,
        /// Digests, or names of images
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
    },
    /// Delete lists from the store; images that have names stay
    Rm {
        /// Their names
        #[arg(required = true, value_name = "LIST")]
        lists: Vec<String>,
    },
    /// End with 0 if the store has such a list, else with 1
    Exists {
        /// Its name
        list: String,
    },
}

impl Manifest {
    /// How it says that images come and go, if they do.
    #[must_use]
    pub fn transfer(&self) -> Option<&ManifestTransfer> {
        match self {
            Self::Create(args) => Some(&args.transfer),
            Self::Add(args) => Some(&args.transfer),
            Self::Push(args) => Some(&args.transfer),
            Self::Inspect { .. } | Self::Annotate(_) | Self::Remove { .. } | Self::Rm { .. } | Self::Exists { .. } => {
                None
            }
        }
    }
}

/// `rbuild manifest create`.
#[derive(Debug, Args)]
pub struct ManifestCreate {
    /// Its name
    pub list: String,
    /// Images to begin with: names in the store, else in a registry; docker-image://NAME, oci-layout://PATH
    #[arg(value_name = "IMAGE")]
    pub images: Vec<String>,
    /// Further names of it
    #[arg(short, long, value_name = "NAME")]
    pub tag: Vec<String>,
    /// Add to the list if there is one of that name
    #[arg(short = 'a', long)]
    pub amend: bool,
    /// All that there is behind names that are lists themselves, not the image for this machine alone
    #[arg(long)]
    pub all: bool,
    /// Annotate the list
    #[arg(long, value_name = "KEY=VALUE")]
    pub annotation: Vec<String>,
    /// How images are had.
    #[command(flatten)]
    pub transfer: ManifestTransfer,
}

/// `rbuild manifest add`.
#[derive(Debug, Args)]
pub struct ManifestAdd {
    /// The list
    pub list: String,
    /// Images: names in the store, else in a registry; docker-image://NAME, oci-layout://PATH
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<String>,
    /// All that there is behind names that are lists themselves, not the image for this machine alone
    #[arg(long)]
    pub all: bool,
    /// What is said of them.
    #[command(flatten)]
    pub entry: EntryArgs,
    /// How images are had.
    #[command(flatten)]
    pub transfer: ManifestTransfer,
}

/// `rbuild manifest annotate`.
#[derive(Debug, Args)]
pub struct ManifestAnnotate {
    /// The list
    pub list: String,
    /// The digest, or a name of the image
    #[arg(required_unless_present = "index", value_name = "IMAGE")]
    pub image: Option<String>,
    /// Annotations are the list's, not those of an image in it
    #[arg(long, conflicts_with_all = ["image", "arch", "os", "variant", "os_version", "os_features"])]
    pub index: bool,
    /// What is said of it.
    #[command(flatten)]
    pub entry: EntryArgs,
}

/// What is said of an image of a list.
#[derive(Debug, Clone, Default, Args)]
pub struct EntryArgs {
    /// Annotate the image's entry
    #[arg(long, value_name = "KEY=VALUE")]
    pub annotation: Vec<String>,
    /// Another architecture than its config has
    #[arg(long, value_name = "ARCHITECTURE")]
    pub arch: Option<String>,
    /// Another operating system
    #[arg(long, value_name = "OS")]
    pub os: Option<String>,
    /// Another variant of the architecture
    #[arg(long, value_name = "VARIANT")]
    pub variant: Option<String>,
    /// Another version of the operating system
    #[arg(long, value_name = "VERSION")]
    pub os_version: Option<String>,
    /// Features of the operating system
    #[arg(long, value_name = "FEATURE", value_delimiter = ',')]
    pub os_features: Vec<String>,
}

/// `rbuild manifest push`.
#[derive(Debug, Args)]
pub struct ManifestPush {
    /// The list
    pub list: String,
    /// Where to, if not where its name says
    pub target: Option<String>,
    /// Its images too; a list alone would be of no use
    #[arg(long, action = ArgAction::Set, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true", value_parser = go_boolean(), hide = true)]
    pub all: bool,
    /// Delete the list from the store afterwards
    #[arg(long, alias = "purge", short_alias = 'p')]
    pub rm: bool,
    /// Kind of the list, where its images allow a choice: oci or v2s2 [default: what the images are]
    #[arg(short, long, value_name = "KIND", value_parser = ["oci", "v2s2"])]
    pub format: Option<String>,
    /// Upload layers in pieces of at most this size, for registries behind a proxy that limits requests, e.g. 50m
    #[arg(long, value_name = "BYTES")]
    pub push_chunk_size: Option<String>,
    /// What is told of it.
    #[command(flatten)]
    pub digests: DigestFiles,
    /// How it is sent.
    #[command(flatten)]
    pub transfer: ManifestTransfer,
}

/// How images come and go.
#[derive(Debug, Args)]
pub struct ManifestTransfer {
    /// Sign in to the registries of the names as USER:PASSWORD, this time only; seen by everybody on this machine
    #[arg(long, value_name = "USER[:PASSWORD]")]
    pub creds: Option<String>,
    /// How registries are reached.
    #[command(flatten)]
    pub registries: RegistryArgs,
    /// How it is shown.
    #[command(flatten)]
    pub progress: ProgressArgs,
}
