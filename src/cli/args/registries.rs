//! Commands and flags about registries.

use std::path::PathBuf;

use clap::Args;

use super::ProgressArgs;

/// How registries are reached, this time only.
#[derive(Debug, Clone, Default, Args)]
pub struct RegistryArgs {
    /// How to reach a registry, this time only: HOST|*[,http=BOOL][,insecure=BOOL][,ca=FILE][,cert=FILE,key=FILE][,certs=DIR]
    /// [,mirror=HOST[/PATH]][,only-mirrors=BOOL] (repeatable)
    #[arg(long, value_name = "SPEC", help_heading = "Registries")]
    pub registry: Vec<String>,
    /// How often a transfer is tried again without any progress in between [default: 5]
    #[arg(long, value_name = "NUMBER", help_heading = "Registries")]
    pub retry: Option<u32>,
    /// The first pause before that; later ones are longer [default: 1s]
    #[arg(long, value_name = "DURATION", help_heading = "Registries")]
    pub retry_delay: Option<String>,
    /// Who is asked for credentials that no file has: env, google, ecr, acr, gitlab, github [default: all]; an empty value is
    /// nobody (repeatable)
    #[arg(long, value_name = "NAME", value_delimiter = ',', help_heading = "Registries")]
    pub credential_helpers: Vec<String>,
    /// Credentials are read from this file alone
    #[arg(long, value_name = "FILE", help_heading = "Registries")]
    pub authfile: Option<PathBuf>,
}

/// Files that say what was pushed.
#[derive(Debug, Clone, Default, Args)]
pub struct DigestFiles {
    /// Write the digest of the image to a file, or send it to an https URL with PUT
    #[arg(long, value_name = "FILE|URL", help_heading = "Where the result goes")]
    pub digest_file: Option<String>,
    /// The same as NAME@DIGEST, a line for each name
    #[arg(long, value_name = "FILE|URL", help_heading = "Where the result goes")]
    pub image_name_with_digest_file: Option<String>,
    /// The same as NAME:TAG@DIGEST
    #[arg(long, value_name = "FILE|URL", help_heading = "Where the result goes")]
    pub image_name_tag_with_digest_file: Option<String>,
    /// Add a line of JSON for each name to a file: what kaniko does in $BUILDER_OUTPUT
    #[arg(long, value_name = "FILE", hide = true)]
    pub images_file: Option<PathBuf>,
}

/// `rbuild pull`.
#[derive(Debug, Args)]
pub struct Pull {
    /// Its name
    pub image: String,
    /// For this platform [default: this machine's]
    #[arg(long, value_name = "PLATFORM", conflicts_with = "all_platforms")]
    pub platform: Option<String>,
    /// Everything that stands behind the name
    #[arg(long)]
    pub all_platforms: bool,
    /// Sign in to the registry of the image as USER:PASSWORD, this time only; seen by everybody on this machine
    #[arg(long, value_name = "USER[:PASSWORD]")]
    pub creds: Option<String>,
    /// How registries are reached.
    #[command(flatten)]
    pub registries: RegistryArgs,
    /// How it is shown.
    #[command(flatten)]
    pub progress: ProgressArgs,
}

/// `rbuild push`.
#[derive(Debug, Args)]
pub struct Push {
    /// The image: a name, or the beginning of its digest
    pub image: String,
    /// Where to, if not where its name says
    pub targets: Vec<String>,
    /// The image is a file or a directory: an archive or an OCI layout with one image, sent as it is
    #[arg(long)]
    pub archive: bool,
    /// A tag that the registry does not let anybody change is no failure
    #[arg(long)]
    pub push_ignore_immutable_tag_errors: bool,
    /// Fail if the image is of the other kind, oci or v2s2: it is sent as it is
    #[arg(long, value_name = "KIND", value_parser = ["oci", "v2s2"], hide_possible_values = true)]
    pub format: Option<String>,
    /// Take the name away from the store afterwards
    #[arg(long, conflicts_with = "archive")]
    pub rm: bool,
    /// Sign in to the registry of the image as USER:PASSWORD, this time only; seen by everybody on this machine
    #[arg(long, value_name = "USER[:PASSWORD]")]
    pub creds: Option<String>,
    /// Upload layers in pieces of at most this size, for registries behind a proxy that limits requests, e.g. 50m
    #[arg(long, value_name = "BYTES")]
    pub push_chunk_size: Option<String>,
    /// How registries are reached.
    #[command(flatten)]
    pub registries: RegistryArgs,
    /// What is told of it.
    #[command(flatten)]
    pub digests: DigestFiles,
    /// How it is shown.
    #[command(flatten)]
    pub progress: ProgressArgs,
}
