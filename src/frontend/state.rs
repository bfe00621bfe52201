//! What a stage is while its instructions are read: a tree, an image config and the variables in force.

use serde_json::json;

use super::args::{Variables, is_variable};
use super::graph::NodeId;
use super::text::absolute;
use super::uses::Uses;
use crate::oci::{History, ImageConfig, Platform};

/// Comment of our history entries (SPEC A8.14).
const HISTORY_COMMENT: &str = "buildkit.dockerfile.v0";
/// What every stage has in `PATH` at least (SPEC A4.03, C5.01).
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A stage in progress.
#[derive(Debug, Clone)]
pub(super) struct State {
    /// The tree; `None` is empty.
    pub(super) node: Option<NodeId>,
    /// The image config so far.
    pub(super) image: ImageConfig,
    /// Config of the image at the bottom, as stored.
    pub(super) base_image: Option<ImageConfig>,
    /// What that image is, with its digest, if it was named.
    pub(super) base_name: Option<String>,
    /// Platform that steps run for.
    pub(super) platform: Platform,
    /// Declared arguments in order, with their values where they have one.
    pub(super) args: Vec<(String, Option<String>)>,
    /// CMD stands in this stage.
    pub(super) cmd_set: bool,
    /// WORKDIR stands in this Dockerfile before.
    pub(super) workdir_set: bool,
    /// What its own instructions take from outside.
    pub(super) uses: Uses,
}

impl State {
    /// The reserved image `scratch` (SPEC A4.03).
    pub(super) fn scratch(platform: &Platform) -> Self {
        let mut image = ImageConfig {
            architecture: platform.architecture.clone(),
            variant: platform.variant.clone(),
            os: platform.os.clone(),
            os_version: platform.os_version.clone(),
            os_features: platform.os_features.clone(),
            ..ImageConfig::default()
        };
        image.config.working_dir = "/".into();
        Self::new(None, image, None, platform.clone())
    }

    /// An image at the bottom.
    pub(super) fn on_image(node: Option<NodeId>, base: ImageConfig, platform: Platform) -> Self {
        let image = ImageConfig { created: None, ..base.clone() };
        Self::new(node, image, Some(base), platform)
    }

    /// A tree that somebody made, with what is said of it.
    pub(super) fn on_tree(node: NodeId, config: Option<ImageConfig>, platform: Platform) -> Self {
        let mut state = Self::scratch(&platform);
        state.node = Some(node);
        if let Some(config) = config {
            state.platform = if config.os.is_empty() { platform } else { config.platform() };
            // Its layers are whatever the tree turns out to have.
            state.image = ImageConfig { created: None, rootfs: Default::default(), ..config };
        }
        state
    }

    fn new(node: Option<NodeId>, image: ImageConfig, base_image: Option<ImageConfig>, platform: Platform) -> Self {
        Self {
            node,
            image,
            base_image,
            base_name: None,
            platform,
            args: Vec::new(),
            cmd_set: false,
            workdir_set: false,
            uses: Uses::default(),
        }
    }

    /// A stage built `FROM` this one: everything, only that it has no CMD of its own (SPEC A4.12).
    pub(super) fn child(&self) -> Self {
        Self { cmd_set: false, uses: Uses::default(), ..self.clone() }
    }

    /// Completes what the base left out, before the first instruction. The base's triggers are among the
    /// instructions and go no further.
    pub(super) fn begin(&mut self) {
        self.image.config.on_build.clear();
        if !self.is_windows() && !self.image.config.env.iter().any(|entry| key_of(entry) == "PATH") {
            self.image.config.env.push(format!("PATH={DEFAULT_PATH}"));
        }
        if !self.image.config.working_dir.is_empty() {
            self.image.config.working_dir = absolute("/", &self.image.config.working_dir);
        }
    }

    /// Whether steps run on Windows.
    pub(super) fn is_windows(&self) -> bool {
        self.platform.os == "windows"
    }

    /// The working directory, absolute.
    pub(super) fn cwd(&self) -> &str {
        match self.image.config.working_dir.as_str() {
            "" => "/",
            dir => dir,
        }
    }

    /// What expansions and steps see: ENV, base image included, goes before ARG, wherever they stand (SPEC A3.11).
    pub(super) fn variables(&self) -> Variables {
        let mut out = Variables::new();
        for entry in &self.image.config.env {
            let (key, value) = entry.split_once('=').unwrap_or((entry, ""));
            out.insert(key.into(), value.into());
        }
        let fixed = out.len();
        for (name, value) in &self.args {
            let Some(value) = value.as_ref().filter(|_| is_variable(name)) else { continue };
            match out.get_index_of(name) {
                Some(at) if at < fixed => {}
                _ => {
                    out.insert(name.clone(), value.clone());
                }
            }
        }
        out
    }

    /// Sets a variable of the image, in place if it exists (SPEC A8.01).
    pub(super) fn set_env(&mut self, key: &str, value: &str) {
        let entry = format!("{key}={value}");
        match self.image.config.env.iter_mut().find(|entry| key_of(entry) == key) {
            Some(old) => *old = entry,
            None => self.image.config.env.push(entry),
        }
    }

    /// Adds a history entry for an instruction without a layer.
    pub(super) fn note(&mut self, created_by: String) {
        self.history(created_by, false);
    }

    /// Adds a history entry for a layer made by a step (SPEC C6.07).
    pub(super) fn layer(&mut self, created_by: String) {
        self.history(created_by + " # buildkit", true);
    }

    /// Adds a history entry as it stands.
    pub(super) fn history(&mut self, created_by: String, layer: bool) {
        let comment = HISTORY_COMMENT.into();
        self.image.history.push(History { created_by, comment, empty_layer: !layer, ..History::default() });
    }

    /// A command in shell form with its shell (SPEC A5.01).
    pub(super) fn with_shell(&self, text: &str) -> Vec<String> {
        let mut out = match self.image.config.shell.as_slice() {
            [] if self.image.os == "windows" => vec!["cmd".into(), "/S".into(), "/C".into()],
            [] => vec!["/bin/sh".into(), "-c".into()],
            shell => shell.to_vec(),
        };
        out.push(text.into());
        out
    }

    /// The prefix `|N k=v … ` of a RUN entry: all arguments in scope, with the values that the step saw (SPEC A4.13).
    pub(super) fn argument_prefix(&self) -> String {
        let variables = self.variables();
        let mut seen = Variables::new();
        for (name, value) in &self.args {
            let value = variables.get(name).or(value.as_ref()).cloned().unwrap_or_default();
            seen.insert(name.clone(), value);
        }
        if seen.is_empty() {
            return String::new();
        }
        let pairs: Vec<String> = seen.iter().map(|(name, value)| format!("{name}={value}")).collect();
        format!("|{} {} ", pairs.len(), pairs.join(" "))
    }

    /// Marks a set of names in one of the config's `{"name": {}}` objects.
    pub(super) fn mark(set: &mut std::collections::BTreeMap<String, serde_json::Value>, name: String) {
        set.insert(name, json!({}));
    }
}

fn key_of(entry: &str) -> &str {
    entry.split_once('=').map_or(entry, |(key, _)| key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        let mut state = State::scratch(&Platform::new("linux", "amd64", ""));
        state.begin();
        state
    }

    #[test]
    fn a3_11_env_goes_before_arg_in_any_order() {
        let mut state = state();
        state.args.push(("A".into(), Some("arg".into())));
        state.set_env("A", "env");
        state.set_env("B", "env");
        state.args.push(("B".into(), Some("arg".into())));
        state.args.push(("C".into(), Some("1".into())));
        state.args.push(("C".into(), Some("2".into())));
        state.args.push(("C".into(), None));
        state.args.push(("BUILDKIT_SBOM_SCAN_STAGE".into(), Some("true".into())));
        let variables = state.variables();
        assert_eq!((variables["A"].as_str(), variables["B"].as_str(), variables["C"].as_str()), ("env", "env", "2"));
        assert!(!variables.contains_key("BUILDKIT_SBOM_SCAN_STAGE"));
        assert_eq!(state.argument_prefix(), "|4 A=env B=env C=2 BUILDKIT_SBOM_SCAN_STAGE=true ");
    }

    #[test]
    fn a4_03_scratch_has_a_path() {
        let state = state();
        assert_eq!(state.image.config.env, [format!("PATH={DEFAULT_PATH}")]);
        assert_eq!(state.cwd(), "/");
        assert_eq!(state.image.architecture, "amd64");
    }

    #[test]
    fn a4_12_children_inherit_arguments_but_not_triggers() {
        let mut parent = state();
        parent.args.push(("A".into(), Some("1".into())));
        parent.image.config.on_build.push("RUN x".into());
        let mut child = parent.child();
        child.begin();
        assert_eq!(child.variables()["A"], "1");
        assert!(child.image.config.on_build.is_empty());
    }
}
