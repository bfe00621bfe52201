//! Instruction by instruction: a stage's tree, config and history.

use super::args::{Globals, Meaning, Variables};
use super::base::{Images, Resolved, base_platform};
use super::checks::Checks;
use super::contexts::{Content, NamedContext, pinned_layout};
use super::error::{FrontendError, Place};
use super::graph::{Draft, NodeId};
use super::options::{FrontendInput, NoCache};
use super::plan::{Command, Origin, Outlook, Plan, StageId};
use super::remote::RemoteContext;
use super::state::State;
use super::words::{Lex, Mode, closest};
use crate::dockerfile::ast::{Kind as Instruction, Word};
use crate::dockerfile::ignore::IgnoreFile;
use crate::dockerfile::lint::Rule;
use crate::llb::host::RESOLVE_MODE;
use crate::llb::op::{FileAction, FileActionCopy, FileActionKind, FileOp, Kind, OpMetadata, SourceOp};
use crate::oci::{ImageConfig, Platform};

/// Key of [`OpMetadata::description`] that holds an instruction as written (SPEC C1.03).
const COMMAND: &str = "com.docker.dockerfile.v1.command";

/// Everything that the instructions of all stages share.
pub(super) struct Converter<'a> {
    pub(super) input: &'a FrontendInput<'a>,
    pub(super) plan: &'a Plan,
    pub(super) images: &'a Images,
    pub(super) outlook: &'a Outlook<'a>,
    pub(super) globals: &'a Globals,
    pub(super) build_args: &'a indexmap::IndexMap<String, String>,
    pub(super) meaning: &'a Meaning,
    pub(super) epoch: Option<i64>,
    pub(super) lex: Lex,
    pub(super) ignore: IgnoreFile,
    pub(super) checks: &'a mut Checks,
    pub(super) draft: Draft,
    /// The build context, once it is in the graph and if it is no directory.
    pub(super) remote_context: Option<NodeId>,
    /// Finished stages.
    pub(super) states: Vec<Option<State>>,
}

/// Where progress stands in a stage.
pub(super) struct Progress {
    title: String,
    done: usize,
    total: usize,
    trigger: bool,
    ignore_cache: bool,
}

impl Converter<'_> {
    /// Converts every stage that the target needs.
    pub(super) fn run(&mut self) -> Result<(), FrontendError> {
        let plan = self.plan;
        let reachable = plan.reachable();
        self.states = vec![None; plan.stages.len()];
        let externals = (0..plan.stages.len()).filter(|id| plan.is_external(*id));
        let in_file = (0..plan.stages.len()).filter(|id| !plan.is_external(*id));
        for id in externals.chain(in_file).filter(|id| reachable[*id]) {
            let state = self.stage(id).map_err(|error| error.at(&plan.stages[id].place))?;
            self.states[id] = Some(state);
        }
        Ok(())
    }

    fn stage(&mut self, id: StageId) -> Result<State, FrontendError> {
        let plan = self.plan;
        let stage = &plan.stages[id];
        let ignore_cache = match &self.input.options.no_cache {
            NoCache::None => false,
            NoCache::All => true,
            NoCache::Stages(names) => {
                stage.name.as_ref().is_some_and(|own| names.iter().any(|name| name.eq_ignore_ascii_case(own)))
            }
        };
        let total = if plan.is_external(id) { 0 } else { stage.step_count() };
        let mut progress = Progress { title: stage.title.clone(), done: 0, total, trigger: false, ignore_cache };
        self.checks.enter_stage(&stage.comments);
        let mut state = self.base(id, &mut progress)?;
        if stage.replaced || plan.is_external(id) {
            return Ok(state);
        }
        if self.input.options.drop_base_labels && !matches!(stage.origin, Origin::Stage(_)) {
            state.image.config.labels.clear();
        }
        state.begin();
        for (name, value) in &self.input.options.env {
            state.set_env(name, value);
        }
        for command in &stage.commands {
            self.checks.enter(&command.instruction.comments);
            progress.trigger = command.trigger;
            let fresh_run = self.input.options.fresh_runs && matches!(command.instruction.kind, Instruction::Run(_));
            progress.ignore_cache = ignore_cache || fresh_run;
            self.command(&mut state, command, &mut progress).map_err(|error| error.at(&command.place))?;
        }
        Ok(state)
    }

    fn base(&mut self, id: StageId, progress: &mut Progress) -> Result<State, FrontendError> {
        let stage = &self.plan.stages[id];
        let platform = base_platform(self.plan, id, self.outlook);
        match &stage.origin {
            Origin::Stage(base) => match self.states.get(*base).and_then(Option::as_ref) {
                Some(state) => Ok(state.child()),
                None => Err(FrontendError::internal(format!("stage {} was not converted in time", stage.base))),
            },
            Origin::Scratch => Ok(State::scratch(self.outlook.platform)),
            Origin::Context(context) => self.context(context, id, platform),
            Origin::Image(reference) => {
                let Resolved { digest, config, converted } = self.image(id, &platform)?;
                let platform = self.detect_platform(stage.platform.is_none(), &config, platform);
                let name = converted.as_ref().unwrap_or(reference).with_digest(digest);
                let title = self.title(progress, &format!("FROM {name}"), &platform, &Variables::new());
                let node = (!is_empty(&config)).then(|| {
                    let mut metadata = OpMetadata::named(title);
                    metadata.description.insert(COMMAND.into(), stage.text.clone());
                    self.image_source(format!("docker-image://{name}"), &platform, metadata, &stage.place)
                });
                self.check_platform(&stage.base, &config, &platform, &stage.place);
                let mut state = State::on_image(node, config, platform);
                state.base_name = Some(format!("docker-image://{name}"));
                Ok(state)
            }
        }
    }

    fn context(&mut self, context: &NamedContext, id: StageId, platform: Platform) -> Result<State, FrontendError> {
        let place = self.plan.stages[id].place.clone();
        let (title, named) = (&context.title, context.source_title());
        let identifier = match &context.content {
            Content::Empty => return Ok(State::scratch(&platform)),
            Content::Local(name) => {
                let excludes = match self.input.context_ignores.get(title.as_str()) {
                    Some((file, text)) => parse_ignore(file, text)?.texts_and_lines().0,
                    None => Vec::new(),
                };
                let node = self.draft.local(name, named, excludes);
                let mut state = State::scratch(&platform);
                state.node = Some(node);
                return Ok(state);
            }
            Content::Remote(remote) => {
                let remote = RemoteContext { title: named, ..(**remote).clone() };
                let mut state = State::scratch(&platform);
                state.node = Some(remote.add_to(&mut self.draft));
                return Ok(state);
            }
            Content::Given(name) => {
                let Some(given) = self.input.inputs.get(name) else {
                    return Err(FrontendError::usage(format!("invalid input {name} for {title}")));
                };
                let node = self.draft.given(&given.definition);
                return Ok(State::on_tree(node, given.config.clone(), platform));
            }
            Content::Image(reference) => {
                let Resolved { digest, converted, .. } = self.image(id, &platform)?;
                let name = converted.as_ref().unwrap_or(reference).with_digest(digest);
                format!("docker-image://{name}")
            }
            Content::Layout(layout) => {
                let digest = self.image(id, &platform)?.digest;
                pinned_layout(layout, &digest)
            }
        };
        let config = self.image(id, &platform)?.config;
        let base_name = Some(identifier.clone());
        let node =
            (!is_empty(&config)).then(|| self.image_source(identifier, &platform, OpMetadata::named(named), &place));
        let has_own = self.plan.stages[id].replaced && !config.architecture.is_empty() && !config.os.is_empty();
        let platform = if has_own { config.platform() } else { platform };
        Ok(State { base_name, ..State::on_image(node, config, platform) })
    }

    fn image(&self, id: StageId, platform: &Platform) -> Result<Resolved, FrontendError> {
        let stage = &self.plan.stages[id];
        let key = stage.identifier().map(|identifier| (identifier, platform.clone()));
        match key.and_then(|key| self.images.get(&key)) {
            Some(image) => Ok(image.clone()),
            None => Err(FrontendError::internal(format!("image {} was not resolved in time", stage.base))),
        }
    }

    fn image_source(&mut self, identifier: String, platform: &Platform, metadata: OpMetadata, place: &Place) -> NodeId {
        let mut source = SourceOp { identifier, ..SourceOp::default() };
        let mode = self.input.options.image_resolve_mode.attribute();
        if let Some(mode) = mode.filter(|_| source.identifier.starts_with("docker-image://")) {
            source.attrs.insert(RESOLVE_MODE.into(), mode.into());
        }
        self.draft.add(Kind::Source(source), Vec::new(), Some(platform.into()), metadata, vec![place.lines])
    }

    /// Where no platform was asked for and the base exists for another one that this machine runs, that one is taken
    /// (SPEC A4.09).
    fn detect_platform(&self, free: bool, config: &ImageConfig, wanted: Platform) -> Platform {
        let same = |p: &Platform| p.os == config.os && p.architecture == config.architecture;
        if !free || self.input.options.platform.is_some() || same(&wanted) {
            return wanted;
        }
        self.input.options.build_platforms.iter().find(|p| same(p)).cloned().unwrap_or(wanted)
    }

    fn check_platform(&mut self, name: &str, config: &ImageConfig, wanted: &Platform, place: &Place) {
        let actual = config.platform().normalised();
        let wanted = wanted.normalised();
        if actual.os != wanted.os || actual.architecture != wanted.architecture {
            let message = Rule::invalid_base_image_platform(name, &wanted.to_string(), &actual.to_string());
            self.checks.warn(Rule::InvalidBaseImagePlatform, message, place);
        }
    }

    fn command(&mut self, state: &mut State, command: &Command, progress: &mut Progress) -> Result<(), FrontendError> {
        match &command.instruction.kind {
            Instruction::From { .. } => Err(FrontendError::internal("FROM inside a stage")),
            Instruction::Run(run) => self.run_step(state, command, run, progress),
            Instruction::Copy(transfer) => self.transfer(state, command, transfer, false, progress),
            Instruction::Add(transfer) => self.transfer(state, command, transfer, true, progress),
            Instruction::Workdir(path) => self.workdir(state, command, path, progress),
            Instruction::Arg(declarations) => self.arg(state, command, declarations),
            _ => self.configure(state, command),
        }
    }

    /// Expands a word with what the stage has set so far, warning of undefined variables. `place` is that of the
    /// instruction.
    pub(super) fn expand(&mut self, state: &State, word: &Word, place: &Place) -> Result<String, FrontendError> {
        let place = place.word(word);
        self.expand_text(state, &word.text, Mode::Word, &place).map_err(|error| error.at(&place))
    }

    /// [`Converter::expand`] for text that is not a word of its own.
    pub(super) fn expand_text(
        &mut self,
        state: &State,
        word: &str,
        mode: Mode,
        place: &Place,
    ) -> Result<String, FrontendError> {
        // Most words have no variables: the table is then not worth making.
        let variables = if word.contains('$') { state.variables() } else { Variables::new() };
        let expanded = self.lex.expand(word, mode, &variables)?;
        for name in &expanded.undefined {
            if state.args.iter().any(|(declared, _)| declared == name) || !super::args::is_variable(name) {
                continue;
            }
            let globals = self.globals.declared.iter().map(|argument| argument.name.as_str());
            let close = closest(name, variables.keys().map(String::as_str).chain(globals));
            self.checks.warn(Rule::UndefinedVar, Rule::undefined_var(name, close), place);
        }
        Ok(expanded.text)
    }

    /// The name of a step: `[stage 2/3] RUN make` (SPEC B6.02). Counts the step.
    pub(super) fn title(
        &self,
        progress: &mut Progress,
        text: &str,
        platform: &Platform,
        variables: &Variables,
    ) -> String {
        if progress.total == 0 {
            return text.into();
        }
        progress.done += 1;
        let mut out = String::from("[");
        if self.input.options.multi_platform {
            out.push_str(&format!("{platform}{} ", cross(platform, variables)));
        }
        if !progress.title.is_empty() {
            out.push_str(&format!("{} ", progress.title));
        }
        let width = progress.total.to_string().len();
        out.push_str(&format!("{:width$}/{}] ", progress.done, progress.total));
        if progress.trigger {
            out.push_str("ONBUILD ");
        }
        out + text
    }

    /// An instruction as progress shows it: variables expanded, unless nobody is to see what they hold; the keyword in upper case.
    pub(super) fn caption(&self, text: &str, mode: Mode, variables: &Variables) -> String {
        let text = match self.input.options.written_names {
            true => text.to_owned(),
            false => self.lex.expand(text, mode, variables).map_or_else(|_| text.to_owned(), |expanded| expanded.text),
        };
        match text.split_once(' ') {
            Some((keyword, rest)) => format!("{} {rest}", keyword.to_uppercase()),
            None => text.to_uppercase(),
        }
    }

    /// Metadata of a step.
    pub(super) fn metadata(progress: &Progress, title: String, original: &str) -> OpMetadata {
        let mut metadata = OpMetadata::named(title);
        metadata.ignore_cache = progress.ignore_cache;
        metadata.description.insert(COMMAND.into(), original.into());
        metadata
    }

    /// The build context.
    pub(super) fn build_context(&mut self) -> NodeId {
        if let Some(remote) = &self.input.context {
            let draft = &mut self.draft;
            return *self.remote_context.get_or_insert_with(|| remote.add_to(draft));
        }
        if let Some(given) = self.input.inputs.get("context") {
            let draft = &mut self.draft;
            return *self.remote_context.get_or_insert_with(|| draft.given(&given.definition));
        }
        let excludes = self.ignore.texts_and_lines().0;
        self.draft.local("context", "[internal] load build context".into(), excludes)
    }

    /// What of the build context COPY could have taken, as a tree of its own (SPEC C8.13).
    pub(super) fn scanned_context(&mut self) -> NodeId {
        let context = self.build_context();
        self.draft.whole(context);
        let copy = FileActionCopy { create_dest_path: true, ..FileActionCopy::contents("/", "/") };
        let action = FileAction { input: -1, secondary_input: 0, output: 0, action: Some(FileActionKind::Copy(copy)) };
        let kind = Kind::File(FileOp { actions: vec![action] });
        let metadata = OpMetadata::named("[sbom] the build context");
        self.draft.add(kind, vec![context], None, metadata, Vec::new())
    }

    /// The finished stage with this number; `None` if it does not come before the one at work.
    pub(super) fn finished(&self, id: StageId) -> Option<&State> {
        self.states.get(id).and_then(Option::as_ref)
    }
}

impl Progress {
    /// How the stage is called.
    pub(super) fn title(&self) -> &str {
        &self.title
    }

    /// The same step is named once more.
    pub(super) fn again(&mut self) {
        self.done = self.done.saturating_sub(1);
    }
}

/// Reads an ignore file (SPEC A9.04).
pub(super) fn parse_ignore(name: &str, text: &[u8]) -> Result<IgnoreFile, FrontendError> {
    IgnoreFile::parse(name, text).map_err(|error| FrontendError::input(error.to_string()))
}

/// An image without layers is an empty tree; old formats do not list them, but have history.
fn is_empty(config: &ImageConfig) -> bool {
    config.rootfs.diff_ids.is_empty() && config.history.iter().all(|entry| entry.empty_layer)
}

/// `->arm64` where the stage's variables say that it builds for another platform (SPEC B6.02).
fn cross(platform: &Platform, variables: &Variables) -> String {
    let get = |name: &str| variables.get(name).cloned();
    let target = match get("TARGETPLATFORM").and_then(|text| text.parse::<Platform>().ok()) {
        Some(target) => target,
        None => {
            let (os, arch, variant) = (get("TARGETOS"), get("TARGETARCH"), get("TARGETVARIANT"));
            if os.is_none() && arch.is_none() && variant.is_none() {
                return String::new();
            }
            let or = |value: Option<String>, own: &str| value.filter(|v| !v.is_empty()).unwrap_or_else(|| own.into());
            Platform::new(&or(os, &platform.os), &or(arch, &platform.architecture), &variant.unwrap_or_default())
        }
    };
    if target.os != platform.os {
        return format!("->{target}");
    }
    if target.architecture == platform.architecture {
        return String::new();
    }
    let variant = if target.variant.is_empty() { String::new() } else { format!("/{}", target.variant) };
    format!("->{}{variant}", target.architecture)
}
