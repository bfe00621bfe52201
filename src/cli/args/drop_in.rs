//! Flags of `rbuild build` that docker's has not: what kaniko's and buildah's users say on their command lines
//! (SPEC D1, D3), under names that collide with nothing.

use std::path::PathBuf;

use clap::Args;

/// See above.
#[derive(Debug, Clone, Args)]
pub struct DropIn {
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
    /// Do not ask the registry while the build runs whether the push will be allowed
    #[arg(long, help_heading = "Registries")]
    pub skip_push_permission_check: bool,
    /// A tag that the registry does not let anybody change is no failure of a push
    #[arg(long, help_heading = "Registries")]
    pub push_ignore_immutable_tag_errors: bool,

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

    /// Leave out of the caches that are read (--cache-from) what is older, e.g. 336h
    #[arg(long, value_name = "DURATION", help_heading = "Cache")]
    pub cache_ttl: Option<String>,

    /// Rules of what is left out of the context, in place of .dockerignore and .containerignore
    #[arg(long, value_name = "FILE", help_heading = "What to build")]
    pub ignorefile: Option<PathBuf>,
    /// Build arguments, NAME=VALUE a line; those of --build-arg go before them (repeatable)
    #[arg(long, value_name = "FILE", help_heading = "What to build")]
    pub build_arg_file: Vec<PathBuf>,
    /// The directory of the context, whatever kind it is, that is taken for the whole of it
    #[arg(long, value_name = "DIR", help_heading = "What to build")]
    pub context_sub_path: Option<String>,
}
