//! `rbuild policy`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// `rbuild policy` (SPEC B8.09).
#[derive(Debug, Subcommand)]
pub enum Policy {
    /// Ask the policy of a Dockerfile about a source
    Eval(PolicyEval),
    /// Run the tests of a policy: the rules called test_… of files *_test.rego
    Test(PolicyTest),
    /// Print the JSON Schema of what policies see
    JsonSchema,
}

/// `rbuild policy eval`.
#[derive(Debug, Args)]
pub struct PolicyEval {
    /// docker-image://NAME, a repository, a URL, or a directory
    pub source: String,
    /// Fields to look up for --print, e.g. image.labels
    #[arg(long, value_name = "FIELD", value_delimiter = ',')]
    pub fields: Vec<String>,
    /// The Dockerfile whose policy it is: FILE.rego
    #[arg(short, long = "file", visible_alias = "filename", value_name = "FILE", default_value = "Dockerfile")]
    pub file: PathBuf,
    /// For which platform
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<String>,
    /// Print what policies see of the source, and ask none
    #[arg(long)]
    pub print: bool,
}

/// `rbuild policy test`.
#[derive(Debug, Args)]
pub struct PolicyTest {
    /// A directory with files *_test.rego, or one of them
    pub path: PathBuf,
    /// The Dockerfile whose policy it is: FILE.rego
    #[arg(long, value_name = "FILE", default_value = "Dockerfile")]
    pub filename: PathBuf,
    /// Only tests whose names contain this
    #[arg(long, value_name = "TEXT")]
    pub run: Option<String>,
}
