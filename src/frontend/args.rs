//! Build arguments: global scope, automatic platform arguments, and those with a meaning to the builder.

use indexmap::IndexMap;

use super::epoch::EPOCH;
use super::error::{FrontendError, Place};
use super::uses::Argument;
use super::words::{Lex, Mode};
use crate::dockerfile::ast::{ArgDeclaration, Instruction, Kind};
use crate::llb::op::ProxyEnv;
use crate::oci::Platform;

/// Variables by name, in order of first appearance.
pub(super) type Variables = IndexMap<String, String>;

/// Lets the build context be scanned for software (SPEC C8.13).
pub(super) const SCAN_CONTEXT: &str = "BUILDKIT_SBOM_SCAN_CONTEXT";
/// Lets stages beside the target be scanned.
pub(super) const SCAN_STAGE: &str = "BUILDKIT_SBOM_SCAN_STAGE";
/// Arguments that steer SBOM scanning and never become variables of a step (SPEC A4.17).
const SCAN_ARGS: [&str; 2] = [SCAN_CONTEXT, SCAN_STAGE];

/// Whether a declared argument reaches the environment of a step.
pub(super) fn is_variable(name: &str) -> bool {
    !SCAN_ARGS.contains(&name)
}

/// What build arguments say to the builder.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Meaning {
    /// `BUILDKIT_SANDBOX_HOSTNAME`.
    pub(super) hostname: Option<String>,
    /// `BUILDKIT_CACHE_MOUNT_NS`.
    pub(super) cache_namespace: String,
    /// `BUILDKIT_DOCKERFILE_CHECK`.
    pub(super) checks: Option<String>,
    /// The predefined proxy arguments.
    pub(super) proxy: Option<ProxyEnv>,
}

/// Reads the arguments with builder meaning (SPEC A4.17).
pub(super) fn meaning(args: &IndexMap<String, String>) -> Meaning {
    let mut out = Meaning::default();
    let mut proxy = ProxyEnv::default();
    let mut any_proxy = false;
    for (name, value) in args {
        match name.as_str() {
            // Its meaning is for whoever fetches the context.
            "BUILDKIT_CONTEXT_KEEP_GIT_DIR" => {}
            "BUILDKIT_SANDBOX_HOSTNAME" => out.hostname = Some(value.clone()),
            "BUILDKIT_CACHE_MOUNT_NS" => out.cache_namespace.clone_from(value),
            "BUILDKIT_DOCKERFILE_CHECK" => out.checks = Some(value.clone()),
            // Read by who knows the platforms and the caches.
            "BUILDKIT_MULTI_PLATFORM" | "BUILDKIT_INLINE_CACHE" => {}
            // Read by who keeps records of builds.
            "BUILDKIT_BUILD_NAME" => {}
            // Read where the stages are known.
            SCAN_CONTEXT | SCAN_STAGE => {}
            // Read by who makes attestations.
            "BUILDKIT_ATTEST_PROVENANCE" | "BUILDKIT_ATTEST_SBOM" => {}
            _ => {
                let field = match name.to_ascii_lowercase().as_str() {
                    "http_proxy" => &mut proxy.http_proxy,
                    "https_proxy" => &mut proxy.https_proxy,
                    "ftp_proxy" => &mut proxy.ftp_proxy,
                    "no_proxy" => &mut proxy.no_proxy,
                    "all_proxy" => &mut proxy.all_proxy,
                    _ => continue,
                };
                field.clone_from(value);
                any_proxy = true;
            }
        }
    }
    out.proxy = any_proxy.then_some(proxy);
    out
}

/// The automatic arguments (SPEC A4.15), overridable by build arguments.
pub(super) fn automatic(
    target: &Platform,
    build: &Platform,
    target_stage: &str,
    build_args: &IndexMap<String, String>,
) -> Variables {
    let stage = if target_stage.is_empty() { "default" } else { target_stage };
    let mut out = Variables::new();
    for (prefix, platform) in [("BUILD", build), ("TARGET", target)] {
        for (suffix, value) in [
            ("PLATFORM", platform.to_string()),
            ("OS", platform.os.clone()),
            ("OSVERSION", platform.os_version.clone()),
            ("ARCH", platform.architecture.clone()),
            ("VARIANT", platform.variant.clone()),
        ] {
            out.insert(format!("{prefix}{suffix}"), value);
        }
    }
    out.insert("TARGETSTAGE".into(), stage.into());
    for (name, value) in &mut out {
        if let Some(given) = build_args.get(name) {
            value.clone_from(given);
        }
    }
    out
}

/// The arguments before the first FROM (SPEC A4.11).
#[derive(Debug, Clone, Default)]
pub(super) struct Globals {
    /// Those with a value, the automatic ones included.
    pub(super) values: Variables,
    /// Those that are declared, with a value or without.
    pub(super) declared: Vec<Argument>,
}

impl Globals {
    /// Evaluates global ARG instructions on top of the automatic arguments.
    pub(super) fn new<'a>(
        automatic: Variables,
        instructions: impl IntoIterator<Item = &'a Instruction>,
        build_args: &IndexMap<String, String>,
        lex: Lex,
    ) -> Result<Self, FrontendError> {
        let mut out = Self { values: automatic, declared: Vec::new() };
        for instruction in instructions {
            let Kind::Arg(declarations) = &instruction.kind else { continue };
            for ArgDeclaration { name, value } in declarations {
                let name = &name.text;
                let mut needs = Vec::new();
                let value = match (build_args.get(name), value) {
                    (Some(given), _) => Some(given.clone()),
                    (None, None) => None,
                    (None, Some(word)) => {
                        let expanded = lex
                            .expand(&word.text, Mode::Word, &out.values)
                            .map_err(|error| error.at(&Place::from(instruction).word(word)))?;
                        needs = expanded.used;
                        Some(expanded.text)
                    }
                };
                if let Some(value) = &value {
                    out.values.insert(name.clone(), value.clone());
                }
                let description = instruction.description(name).map(str::to_owned);
                out.declared.push(Argument { name: name.clone(), value, description, lines: instruction.lines, needs });
            }
        }
        Ok(out)
    }

    /// Stages see the number that the epoch came to.
    pub(super) fn set_epoch(&mut self, epoch: Option<i64>) {
        match epoch {
            None => {
                self.values.shift_remove(EPOCH);
            }
            Some(epoch) => {
                if let Some(value) = self.values.get_mut(EPOCH) {
                    *value = epoch.to_string();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(pairs: &[(&str, &str)]) -> IndexMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect()
    }

    #[test]
    fn a4_17_arguments_with_builder_meaning() {
        let fine = args(&[
            ("BUILDKIT_INLINE_CACHE", "1"),
            ("BUILDKIT_SANDBOX_HOSTNAME", "box"),
            ("BUILDKIT_CACHE_MOUNT_NS", "ns"),
            ("OTHER", "x"),
        ]);
        let meaning = meaning(&fine);
        assert_eq!((meaning.hostname.as_deref(), meaning.cache_namespace.as_str()), (Some("box"), "ns"));
    }

    #[test]
    fn a4_14_proxy_arguments_are_matched_in_any_case() {
        let proxy = meaning(&args(&[("HTTP_PROXY", "a"), ("no_proxy", "b")])).proxy.expect("some");
        assert_eq!((proxy.http_proxy.as_str(), proxy.no_proxy.as_str()), ("a", "b"));
        assert_eq!(meaning(&args(&[("X", "y")])).proxy, None);
    }

    #[test]
    fn a4_15_automatic_arguments() {
        let target = Platform::new("linux", "arm64", "");
        let build = Platform::new("linux", "amd64", "");
        let out = automatic(&target, &build, "", &args(&[("TARGETARCH", "mine")]));
        assert_eq!(out["TARGETPLATFORM"], "linux/arm64");
        assert_eq!(out["TARGETARCH"], "mine");
        assert_eq!(out["BUILDARCH"], "amd64");
        assert_eq!(out["TARGETSTAGE"], "default");
        assert_eq!(out["TARGETVARIANT"], "");
    }
}
