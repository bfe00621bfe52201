//! Layer 12: arguments to settings to commands. The only place that reads the environment, prints and exits.
//!
//! [`run`] is the program the user starts; it becomes the broker of a worker (`worker`) for every command that touches
//! the store.

pub mod args;
pub mod attest;
mod bake;
mod broker;
mod build;
mod buildah;
mod buildctl;
mod builders;
mod builds;
mod caches;
mod compare;
pub mod config;
mod contexts;
mod debug;
mod deliver;
mod devices;
mod digest_files;
mod docs;
mod doctor;
mod drop_in;
mod engine;
pub mod errors;
mod foreign;
pub mod grammar;
mod graphs;
mod image_commands;
mod image_filters;
mod imagetools;
mod info;
mod invocation;
mod kaniko;
mod login;
mod manifest;
mod metadata;
mod object_contexts;
mod once;
mod outputs;
mod policies;
mod records;
mod registries;
mod registry_flags;
mod replay;
mod run;
mod runtime;
mod scan;
mod scoped;
pub mod settings;
mod short_names;
mod spelling;
mod stages;
mod step_logs;
mod store_commands;
mod table;
mod telemetry;
mod template;
mod translation;
mod vcs;
mod verify;
mod volumes;
mod warm;
mod worker;

use std::ffi::OsString;
use std::io::Write as _;

use args::{Cli, Command};
use errors::{ExitCodes, Failure};

/// The program: parses, runs, says what went wrong. Gives the exit code.
#[must_use]
pub fn run(args: Vec<OsString>) -> u8 {
    let (args, codes) = match translated(args) {
        Ok(line) => line,
        Err(code) => return code,
    };
    let args = match spelling::ours(args) {
        Ok(args) => args,
        Err(failure) => return finish(Err(failure), codes),
    };
    let mut cli = match parse(&args) {
        Ok(cli) => cli,
        Err(code) => return codes.general(code),
    };
    cli.global.codes = codes;
    let result = match &cli.command {
        Command::Builder { command } => config::Config::load(&cli.global)
            .and_then(|config| builders::run(command, &settings::store_root(&cli.global, &config)?)),
        Command::Completion { shell } => docs::completion(*shell),
        Command::Docs(options) => docs::write(options),
        Command::DockerCliPluginMetadata => builders::plugin_metadata(),
        Command::Version { format } => version(format),
        Command::Doctor(options) => doctor::doctor(&cli.global, options),
        Command::Llb(options) => graphs::show(options),
        Command::Login(options) => login::login(&cli.global, options),
        Command::Logout(options) => login::logout(options),
        _ => worker::start(&cli),
    };
    finish(result, codes)
}

/// A command line in our spelling, and as which program it ends. What is wrong with another builder's was printed then, and the
/// exit code is the error.
fn translated(args: Vec<OsString>) -> Result<(Vec<OsString>, ExitCodes), u8> {
    type Reader = fn(&[OsString]) -> Result<Option<Vec<OsString>>, u8>;
    let builders: [(ExitCodes, Reader); 2] = [(ExitCodes::Kaniko, kaniko::ours), (ExitCodes::Buildah, buildah::ours)];
    for (codes, ours) in builders {
        if let Some(words) = ours(&args).map_err(|code| codes.general(code))? {
            return Ok((words, codes));
        }
    }
    Ok((args, ExitCodes::Kinds))
}

/// Parses our own spelling; help and mistakes are printed and give the exit code.
fn parse(args: &[OsString]) -> Result<Cli, u8> {
    Cli::parse_words(args).map_err(|error| {
        let _ = error.print();
        u8::from(error.use_stderr()) * 2
    })
}

/// Prints a failure and gives the exit code. Codes that are no failure's are what they should be.
fn finish(result: Result<u8, Failure>, codes: ExitCodes) -> u8 {
    match result {
        Ok(code) => code,
        Err(failure) => {
            let _ = failure.print(&mut std::io::stderr(), &errors::Aftermath::default());
            codes.of(&failure)
        }
    }
}

fn version(format: &str) -> Result<u8, Failure> {
    let version = env!("CARGO_PKG_VERSION");
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    match format {
        "text" => print(&format!("rbuild {version} {os}/{arch}\n")),
        "json" => print(&format!("{}\n", serde_json::json!({"version": version, "os": os, "arch": arch}))),
        // Go's templates name fields with a capital.
        _ => {
            let fields = serde_json::json!({"Version": version, "Os": os, "Arch": arch});
            print(&(template::template(format, &fields)? + "\n"))
        }
    }
}

fn unknown_format(format: &str) -> Failure {
    Failure::new(crate::base::FaultKind::Usage, format!("--format: unknown format \"{format}\", expected text or json"))
}

/// Writes data to standard output; a reader that has gone is no failure.
fn print(text: &str) -> Result<u8, Failure> {
    let mut out = std::io::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::new(crate::base::FaultKind::Store, format!("cannot write to standard output: {e}")))
        }
        _ => Ok(0),
    }
}
