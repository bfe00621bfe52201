//! Arguments of commands about builders: there is one, so most of them are taken and change nothing (SPEC B8.14).

use clap::{Args, Subcommand};

/// `rbuild builder` (SPEC B8.14).
#[derive(Debug, Subcommand)]
pub enum Builders {
    /// Name the builder
    Create(CreateBuilder),
    /// Choose a builder
    Use {
        /// Its name
        name: Option<String>,
        /// Be the default for the context
        #[arg(long)]
        default: bool,
        /// Be the default for all
        #[arg(long)]
        global: bool,
    },
    /// List builders
    Ls {
        /// table, json or a Go template
        #[arg(long, default_value = "table")]
        format: String,
        /// Do not shorten; nothing is
        #[arg(long)]
        no_trunc: bool,
        /// There is no server to wait for
        #[arg(long)]
        timeout: Option<String>,
    },
    /// Describe a builder
    Inspect {
        /// Its name
        name: Option<String>,
        /// The same
        #[arg(long)]
        builder: Option<String>,
        /// Start it first; it needs no start
        #[arg(long)]
        bootstrap: bool,
        /// There is no server to wait for
        #[arg(long)]
        timeout: Option<String>,
    },
    /// Remove a builder
    Rm(RemoveBuilder),
    /// Stop a builder
    Stop {
        /// Its name
        name: Option<String>,
    },
    /// Be `docker build`
    Install,
    /// Be it no more
    Uninstall,
    /// Print the version in buildx's words
    Version,
}

/// `rbuild builder create`: whatever a tool asks for, the builder is the one that is there.
#[derive(Debug, Args)]
pub struct CreateBuilder {
    /// Endpoint; there is none
    pub endpoint: Option<String>,
    /// Name to print
    #[arg(long)]
    pub name: Option<String>,
    /// docker-container or docker
    #[arg(long)]
    pub driver: Option<String>,
    /// Options of the driver
    #[arg(long)]
    pub driver_opt: Vec<String>,
    /// Flags of the daemon
    #[arg(long, allow_hyphen_values = true)]
    pub buildkitd_flags: Option<String>,
    /// Configuration of the daemon
    #[arg(long)]
    pub buildkitd_config: Option<String>,
    /// Platforms of the node
    #[arg(long)]
    pub platform: Vec<String>,
    /// Name of the node
    #[arg(long)]
    pub node: Option<String>,
    /// Add a node
    #[arg(long)]
    pub append: bool,
    /// Remove a node
    #[arg(long)]
    pub leave: bool,
    /// Start it
    #[arg(long)]
    pub bootstrap: bool,
    /// Choose it
    #[arg(long = "use")]
    pub choose: bool,
    /// There is no server to wait for
    #[arg(long)]
    pub timeout: Option<String>,
}

/// `rbuild builder rm`.
#[derive(Debug, Args)]
pub struct RemoveBuilder {
    /// Their names
    pub names: Vec<String>,
    /// All that are not in use
    #[arg(long)]
    pub all_inactive: bool,
    /// Do not ask
    #[arg(short, long)]
    pub force: bool,
    /// Leave the daemon running
    #[arg(long)]
    pub keep_daemon: bool,
    /// Leave the cache
    #[arg(long)]
    pub keep_state: bool,
    /// There is no server to wait for
    #[arg(long)]
    pub timeout: Option<String>,
}
