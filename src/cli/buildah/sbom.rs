//! `--sbom` and its like: scanners with their commands, by name (SPEC D3.28).

use super::flags::Sbom;
use crate::cli::errors::Failure;
use crate::cli::settings::usage;
use crate::cli::translation::Translation;

use crate::base::wording::did_you_mean;

const PRESETS: [&str; 6] = ["syft", "syft-cyclonedx", "syft-spdx", "trivy", "trivy-cyclonedx", "trivy-spdx"];

/// What a name stands for: the image, the commands, and how their lists become one.
struct Preset {
    image: &'static str,
    commands: Vec<String>,
    strategy: &'static str,
}

/// What of the image and of the context is scanned alike.
fn preset(name: &str) -> Option<Preset> {
    if !PRESETS.contains(&name) {
        return None;
    }
    let spdx = name.ends_with("-spdx");
    let strategy = match spdx {
        true => "merge-spdx-by-package-name-and-versioninfo",
        false => "merge-cyclonedx-by-component-name-and-version",
    };
    let (image, command): (_, fn(&str, bool) -> String) = match name.starts_with("syft") {
        true => ("ghcr.io/anchore/syft", |what, spdx| {
            let format = if spdx { "spdx-json" } else { "cyclonedx-json" };
            format!("/syft scan -q dir:{what} --output {format}={{OUTPUT}}")
        }),
        false => ("ghcr.io/aquasecurity/trivy", |what, spdx| {
            let format = if spdx { "spdx-json" } else { "cyclonedx" };
            format!("trivy filesystem -q {what} --format {format} --output {{OUTPUT}}")
        }),
    };
    let commands = ["{ROOTFS}", "{CONTEXT}"].map(|what| command(what, spdx)).to_vec();
    Some(Preset { image, commands, strategy })
}

/// Adds the flags that `rbuild build` has for it. What a preset says counts where the command line says nothing.
pub(super) fn add(given: &Sbom, out: &mut Translation) -> Result<(), Failure> {
    let preset = match given.preset.as_deref().filter(|name| !name.is_empty()) {
        None => None,
        Some(name) => Some(preset(name).ok_or_else(|| {
            let near = did_you_mean(name, PRESETS);
            usage(format!("--sbom: unknown preset \"{name}\"{near}; expected {}", PRESETS.join(", ")))
        })?),
    };
    let image = given.sbom_scanner_image.as_deref().or(preset.as_ref().map(|preset| preset.image));
    let strategy = given.sbom_merge_strategy.as_deref().or(preset.as_ref().map(|preset| preset.strategy));
    let usual = preset.as_ref().map(|preset| preset.commands.as_slice()).unwrap_or_default();
    let commands = if given.sbom_scanner_command.is_empty() { usual } else { &given.sbom_scanner_command };
    for (flag, value) in [
        ("sbom-scanner-image", image),
        ("sbom-merge-strategy", strategy),
        ("sbom-output", given.sbom_output.as_deref()),
        ("sbom-purl-output", given.sbom_purl_output.as_deref()),
        ("sbom-image-output", given.sbom_image_output.as_deref()),
        ("sbom-image-purl-output", given.sbom_image_purl_output.as_deref()),
    ] {
        if let Some(value) = value {
            out.add(flag, value);
        }
    }
    commands.iter().for_each(|command| out.add("sbom-scanner-command", command));
    Ok(())
}
