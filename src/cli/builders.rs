//! Answers about builders, for tools that manage them (SPEC B8.14): there is one, it is built in and always ready.
//!
//! Docker's GitHub actions create, inspect and remove builders around each build and read what these commands print.

use std::io::Write as _;
use std::path::Path;

use super::args::Builders;
use super::config;
use super::errors::Failure;
use super::table;
use crate::base::FaultKind;
use crate::oci::Platform;

/// The name of the builder that is there.
const NAME: &str = "rbuild";
/// The release of buildx whose command line this is (SPEC N1.01). Tools choose what they may ask for by it.
const LEVEL: &str = "0.36.0";
/// The release of BuildKit whose build options these are (SPEC N1.01).
const BUILDKIT_LEVEL: &str = "0.32.0";

/// Docker asks each plugin who it is.
pub(super) fn plugin_metadata() -> Result<u8, Failure> {
    let metadata = serde_json::json!({
        "SchemaVersion": "0.1.0",
        "Vendor": "rbuild",
        "Version": format!("v{LEVEL}"),
        "ShortDescription": "rbuild as Docker Buildx: builds without a daemon",
    });
    super::print(&format!("{metadata}\n"))
}

pub(super) fn run(command: &Builders, store: &Path) -> Result<u8, Failure> {
    match command {
        Builders::Version => {
            super::print(&format!("github.com/docker/buildx v{LEVEL} rbuild-{}\n", env!("CARGO_PKG_VERSION")))
        }
        Builders::Create(options) => {
            match options.driver.as_deref() {
                None | Some("docker" | "docker-container") => {}
                Some(other) => {
                    return Err(Failure::new(
                        FaultKind::Usage,
                        format!("builder create: driver {other} is not here: there is one builder, built in"),
                    ));
                }
            }
            match &options.buildkitd_config {
                Some(file) => {
                    let kept = config::keep_buildkitd(Some(Path::new(file)))?;
                    for (path, notices) in kept.iter() {
                        said(&format!("its configuration is now {}", path.display()));
                        notices.iter().for_each(|notice| say(notice));
                    }
                }
                None => said("nothing was created"),
            }
            super::print(&format!("{}\n", options.name.as_deref().unwrap_or(NAME)))
        }
        Builders::Rm(_) => {
            match config::keep_buildkitd(None)? {
                Some((path, _)) => said(&format!("its configuration, {}, was removed", path.display())),
                None => said("nothing was changed"),
            }
            Ok(0)
        }
        Builders::Use { .. } | Builders::Stop { .. } | Builders::Install | Builders::Uninstall => {
            said("nothing was changed");
            Ok(0)
        }
        Builders::Ls { format, .. } => list(format),
        Builders::Inspect { name, builder, .. } => {
            super::print(&inspection(name.as_ref().or(builder.as_ref()).map_or(NAME, String::as_str), store))
        }
    }
}

/// On standard error: what these commands print on standard output is read by programs.
fn said(what: &str) {
    say(&format!("there is one builder, built in; {what}"));
}

fn say(what: &str) {
    let _ = writeln!(std::io::stderr(), "notice: {what}");
}

fn platforms() -> String {
    Platform::host().to_string()
}

/// What tools take for the version of BuildKit, wherever they look.
fn buildkit() -> String {
    format!("v{BUILDKIT_LEVEL}+rbuild-{}", env!("CARGO_PKG_VERSION"))
}

fn list(format: &str) -> Result<u8, Failure> {
    match format {
        "table" => {
            let row = |cells: [&str; 5]| cells.map(ToOwned::to_owned).to_vec();
            super::print(&table::columns(&[
                row(["NAME/NODE", "DRIVER/ENDPOINT", "STATUS", "BUILDKIT", "PLATFORMS"]),
                row([&format!("{NAME}*"), "built-in", "", "", ""]),
                row([&format!(" \\_ {NAME}0"), " \\_ none", "running", &buildkit(), &platforms()]),
            ]))
        }
        _ => {
            let builder = serde_json::json!({
                "Name": NAME, "Driver": "built-in", "Current": true, "Dynamic": false, "DriverEndpoint": "none",
                "Status": "running", "Buildkit": buildkit(), "Platforms": [platforms()], "Error": "",
                "Nodes": [{"Name": format!("{NAME}0"), "Status": "running", "Platforms": [platforms()], "Version": buildkit()}],
            });
            super::print(&table::rows(format, &[], Vec::new(), &[builder])?)
        }
    }
}

/// In the words and columns of `docker buildx inspect`, because that is what is parsed.
fn inspection(name: &str, store: &Path) -> String {
    format!(
        "Name:          {name}\nDriver:        built-in\n\nNodes:\nName:                  {name}0\nEndpoint:              built-in\n\
         Status:                running\nBuildKit version:      {}\nPlatforms:             {}\nLabels:\n store: {}\n",
        buildkit(),
        platforms(),
        store.display(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b8_14_the_inspection_has_the_lines_that_tools_read() {
        let text = inspection("builder-1", Path::new("/store"));
        for line in ["Name:          builder-1", "Status:                running"] {
            assert!(text.lines().any(|l| l == line), "{line} in {text}");
        }
        assert!(text.contains(&format!("Platforms:             {}", Platform::host())));
    }
}
