//! Golden tests: Dockerfile text to graph and config.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Mutex;

use super::{FrontendError, FrontendInput, FrontendOptions, FrontendResult, dockerfile_to_llb};
use crate::base::{Digest, FaultKind};
use crate::llb::{FrontendHost, HostError, InContext, ResolveMode, ResolvedImage, dump};
use crate::oci::Platform;

mod args;
mod calls;
mod checks;
mod config;
mod copy;
mod hostile;
mod run;
mod stages;

/// Knows a few images; every other one does not exist.
#[derive(Default)]
pub(super) struct Host {
    extra: BTreeMap<String, String>,
    /// All images are for this platform.
    only: Option<Platform>,
    asked: Mutex<Vec<String>>,
    /// How progress is to call questions about images of named contexts.
    titles: Mutex<Vec<String>>,
    /// Contexts whose ignore files were used.
    ignored: Mutex<Vec<String>>,
}

/// Part of a config: one layer, so that the image is not empty.
const ONE_LAYER: &str = r#""rootfs":{"type":"layers","diff_ids":["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]}"#;

impl Host {
    /// Adds an image whose config has these members.
    pub(super) fn with(mut self, identifier: &str, config: &str) -> Self {
        self.extra.insert(identifier.into(), config.into());
        self
    }

    /// What was asked for.
    pub(super) fn asked(&self) -> Vec<String> {
        let mut out = self.asked.lock().expect("no panic while locked").clone();
        out.sort();
        out
    }

    fn config(&self, identifier: &str, platform: &Platform) -> Option<String> {
        let platform = self.only.as_ref().unwrap_or(platform);
        let platform = format!(r#""architecture":"{}","os":"{}""#, platform.architecture, platform.os);
        if let Some(members) = self.extra.get(identifier) {
            return Some(format!("{{{platform},{members},{ONE_LAYER}}}"));
        }
        let members = match identifier.strip_prefix("docker-image://docker.io/library/")? {
            "alpine:latest" | "golang:1" | "busybox:latest" => r#""config":{"Env":["PATH=/bin"]}"#,
            "user:latest" => {
                r#""config":{"User":"app","WorkingDir":"/srv/app","Env":["PATH=/bin","LANG=C"],"Cmd":["sh"],"Shell":["/bin/bash","-c"]},"history":[{"created_by":"base"}]"#
            }
            "onbuild:latest" => r#""config":{"OnBuild":["RUN one","COPY --from=busybox /bin/x /x"]}"#,
            "empty:latest" => return Some(format!("{{{platform},\"config\":{{}}}}")),
            _ => return None,
        };
        Some(format!("{{{platform},{members},{ONE_LAYER}}}"))
    }
}

#[async_trait::async_trait]
impl FrontendHost for Host {
    async fn source_time(&self, source: &crate::llb::op::SourceOp) -> Result<Option<i64>, HostError> {
        self.asked.lock().expect("no panic while locked").push(format!("time of {}", source.identifier));
        Ok(Some(1_234_567_890))
    }

    fn ignore_file_read(&self, context: &str) {
        self.ignored.lock().expect("no panic while locked").push(context.to_owned());
    }

    async fn resolve_image(
        &self,
        identifier: &str,
        platform: &Platform,
        mode: ResolveMode,
        context: Option<&InContext>,
    ) -> Result<ResolvedImage, HostError> {
        let _ = mode;
        self.titles.lock().expect("no panic while locked").extend(context.map(|context| context.title(None)));
        self.asked.lock().expect("no panic while locked").push(format!("{identifier} {platform}"));
        match self.config(identifier, platform) {
            Some(config) => {
                Ok(ResolvedImage { digest: Digest::sha256(identifier), config: config.into(), converted: None })
            }
            None => {
                let hint = identifier.contains("offli").then(|| "check the network".to_owned());
                let message = format!("{identifier}: not found");
                Err(HostError { kind: FaultKind::Remote, message, hint, became: None })
            }
        }
    }
}

/// Options for linux/amd64, asked for by name.
pub(super) fn options() -> FrontendOptions {
    let platform = Platform::new("linux", "amd64", "");
    FrontendOptions { platform: Some(platform.clone()), build_platforms: vec![platform], ..FrontendOptions::default() }
}

/// Options with build arguments.
pub(super) fn with_args(args: &[(&str, &str)]) -> FrontendOptions {
    FrontendOptions { build_args: args.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(), ..options() }
}

/// Converts with everything to choose.
pub(super) fn convert_with(
    text: &str,
    options: FrontendOptions,
    ignore: Option<&str>,
    host: &Host,
) -> Result<FrontendResult, FrontendError> {
    let input = FrontendInput {
        filename: "Dockerfile",
        source: text.as_bytes(),
        ignore: ignore.map(|text| (".dockerignore".into(), text.as_bytes().to_vec())),
        options,
        ..FrontendInput::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(dockerfile_to_llb(input, host))
}

/// Converts with the usual options.
pub(super) fn convert(text: &str) -> FrontendResult {
    convert_with(text, options(), None, &Host::default()).unwrap_or_else(|error| panic!("{error}"))
}

/// The error of a Dockerfile: message, hint, lines.
pub(super) fn error_of(text: &str) -> String {
    show_error(&convert_with(text, options(), None, &Host::default()).expect_err("should fail"))
}

/// An error as text.
pub(super) fn show_error(error: &FrontendError) -> String {
    let mut out = String::new();
    if let Some(place) = &error.place {
        let _ = write!(out, "{}-{}: ", place.lines.0, place.lines.1);
    }
    out.push_str(&error.message);
    if let Some(hint) = &error.hint {
        let _ = write!(out, " [hint: {hint}]");
    }
    out
}

/// The graph as text, long digests cut.
pub(super) fn graph(result: &FrontendResult) -> String {
    shorten(&dump::to_text(&result.definition).expect("a valid definition"))
}

/// The config as text without the base's layers, and the warnings.
pub(super) fn config(result: &FrontendResult) -> String {
    let mut value = serde_json::to_value(&result.config).expect("serialises");
    if let Some(object) = value.as_object_mut() {
        object.shift_remove("rootfs");
    }
    let mut out = serde_json::to_string_pretty(&value).expect("serialises");
    for warning in warnings(result) {
        let _ = write!(out, "\nwarning: {warning}");
    }
    shorten(&out)
}

/// Failed checks as text.
pub(super) fn warnings(result: &FrontendResult) -> Vec<String> {
    let line = |place: &Option<super::Place>| place.as_ref().map_or(0, |place| place.lines.0);
    result.warnings.iter().map(|w| format!("{}: {} (line {})", w.rule, w.message, line(&w.place))).collect()
}

/// What the history says, empty layers in parentheses.
pub(super) fn history(result: &FrontendResult) -> Vec<String> {
    let entries = result.config.history.iter();
    entries.map(|e| if e.empty_layer { format!("({})", e.created_by) } else { e.created_by.clone() }).collect()
}

/// Names of all vertices in order.
pub(super) fn names(result: &FrontendResult) -> Vec<String> {
    let numbered = |line: &str| line.strip_prefix('#').and_then(|l| l.split_once(' ')).map(|(_, name)| name.to_owned());
    graph(result).lines().filter_map(numbered).collect()
}

fn shorten(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("sha256:") {
        let hex = after.bytes().take_while(u8::is_ascii_hexdigit).count();
        out.push_str(before);
        out.push_str("sha256:");
        out.push_str(&after[..hex.min(6)]);
        rest = &after[hex..];
    }
    out + rest
}
