//! The rules that need only the tree, one function each or a few.

use super::{CheckConfig, Rule, Violation};
use crate::dockerfile::ast::{Assignment, CommandLine, Dockerfile, Instruction, Kind, Word};
use crate::dockerfile::diagnostic::Diagnostic;
use crate::dockerfile::stages::{RESERVED, Stage, Stages};
use crate::dockerfile::text::is_blank;

pub(super) struct Checker<'a> {
    dockerfile: &'a Dockerfile,
    base: &'a CheckConfig,
    /// By position of the instruction.
    configs: Vec<CheckConfig>,
    pub(super) found: Vec<Violation>,
}

/// What a stage hands on to the stages built on it.
#[derive(Clone, Copy, Default)]
struct Inherited {
    workdir: bool,
    shell: bool,
}

impl<'a> Checker<'a> {
    pub(super) fn new(dockerfile: &'a Dockerfile, base: &'a CheckConfig) -> Self {
        let configs = base.per_instruction(&dockerfile.instructions);
        Self { dockerfile, base, configs, found: Vec::new() }
    }

    /// `position` is that of the instruction whose `# check=` counts.
    fn report(&mut self, rule: Rule, message: String, position: usize, stage: Option<usize>) {
        if self.configs[position].allows(rule) {
            let lines = self.dockerfile.instructions[position].lines;
            self.found.push(Violation { rule, message, lines, stage });
        }
    }

    pub(super) fn parser_warnings(&mut self, warnings: &[Diagnostic]) {
        for warning in warnings {
            let (Some(rule), Some(lines)) = (warning.rule, warning.lines) else { continue };
            let above = self.dockerfile.instructions.partition_point(|i| i.lines.0 <= lines.0);
            let config = above.checked_sub(1).map_or(self.base, |position| &self.configs[position]);
            if config.allows(rule) {
                self.found.push(Violation { rule, message: warning.message.clone(), lines, stage: None });
            }
        }
    }

    /// What the reference implementation checks while parsing, whether or not the stage is built.
    pub(super) fn instructions(&mut self, stages: &Stages<'_>) {
        let dockerfile = self.dockerfile;
        let globals = stages.global_args().len();
        for (position, instruction) in dockerfile.instructions.iter().enumerate() {
            match &instruction.kind {
                Kind::From { name: Some(name), .. } => {
                    if name.text != name.text.to_lowercase() {
                        self.report(Rule::StageNameCasing, Rule::stage_name_casing(&name.text), position, None);
                    }
                    self.as_casing(instruction, position);
                    let names = [name.text.to_lowercase()];
                    self.description("FROM", &names, instruction, position);
                }
                Kind::Arg(declarations) => {
                    let names: Vec<_> = declarations.iter().map(|arg| arg.name.text.clone()).collect();
                    self.description("ARG", &names, instruction, position);
                    if position < globals {
                        for name in names.iter().filter(|name| is_secret(name)) {
                            let message = Rule::secrets_used_in_arg_or_env("ARG", name);
                            self.report(Rule::SecretsUsedInArgOrEnv, message, position, None);
                        }
                    }
                }
                Kind::Maintainer(_) => {
                    self.report(Rule::MaintainerDeprecated, Rule::maintainer_deprecated(), position, None);
                }
                _ => {}
            }
        }
    }

    fn as_casing(&mut self, instruction: &Instruction, position: usize) {
        let from = &instruction.keyword.text;
        // The tree does not keep the keyword: it is the word before the last.
        let Some(keyword) = instruction.original.split(is_blank).filter(|word| !word.is_empty()).rev().nth(1) else {
            return;
        };
        let matches = if *from == from.to_lowercase() {
            keyword == keyword.to_lowercase()
        } else if *from == from.to_uppercase() {
            keyword == keyword.to_uppercase()
        } else {
            return;
        };
        if !matches {
            self.report(Rule::FromAsCasing, Rule::from_as_casing(from, keyword), position, None);
        }
    }

    fn description(&mut self, keyword: &str, names: &[String], instruction: &Instruction, position: usize) {
        let Some(last) = instruction.comments.last() else { return };
        let first_word = last.split(' ').next().unwrap_or_default();
        if names.iter().any(|name| name == first_word) {
            return;
        }
        let example = if let [name] = names { name } else { "<arg_key>" };
        let message = Rule::invalid_definition_description(keyword, example);
        self.report(Rule::InvalidDefinitionDescription, message, position, None);
    }

    pub(super) fn keyword_casing(&mut self) {
        let keywords: Vec<&'a str> = self.dockerfile.instructions.iter().map(|i| i.keyword.text.as_str()).collect();
        let lower = keywords.iter().filter(|word| **word == word.to_lowercase()).count();
        let upper = keywords.iter().filter(|word| **word == word.to_uppercase()).count();
        let mostly_lower = lower > upper;
        for (position, keyword) in keywords.into_iter().enumerate() {
            let wanted = if mostly_lower { keyword.to_lowercase() } else { keyword.to_uppercase() };
            if keyword != wanted {
                let message = Rule::consistent_instruction_casing(keyword, mostly_lower);
                self.report(Rule::ConsistentInstructionCasing, message, position, None);
            }
        }
    }

    pub(super) fn stage_names(&mut self, stages: &Stages<'_>) {
        for (index, stage) in stages.all().iter().enumerate() {
            let Some(name) = &stage.name else { continue };
            if RESERVED.contains(&name.as_str()) {
                self.report(Rule::ReservedStageName, Rule::reserved_stage_name(name), stage.position, None);
            }
            if stages.all()[..index].iter().any(|earlier| earlier.name.as_ref() == Some(name)) {
                self.report(Rule::DuplicateStageName, Rule::duplicate_stage_name(name), stage.position, None);
            }
        }
    }

    /// What the reference implementation checks only for stages that it builds.
    pub(super) fn stages(&mut self, stages: &Stages<'_>) {
        let mut inherited: Vec<Inherited> = Vec::new();
        for stage in stages.all() {
            self.platform(stage);
            // A base behind a variable is some image; nothing is known of it.
            let from = stages.base(stage.index, &stage.base.text).map(|base| inherited[base]).unwrap_or_default();
            inherited.push(self.stage(stage, from));
        }
    }

    fn stage(&mut self, stage: &Stage<'_>, mut state: Inherited) -> Inherited {
        let index = Some(stage.index);
        let mut earlier = [None; 3];
        for (offset, instruction) in stage.instructions.iter().enumerate() {
            let position = stage.position + 1 + offset;
            let once = match &instruction.kind {
                Kind::Cmd(_) => Some((0, "CMD")),
                Kind::Entrypoint(_) => Some((1, "ENTRYPOINT")),
                Kind::Healthcheck(_) => Some((2, "HEALTHCHECK")),
                _ => None,
            };
            if let Some((slot, name)) = once
                && let Some(ignored) = Option::replace(&mut earlier[slot], position)
            {
                let message = Rule::multiple_instructions_disallowed(name);
                self.report(Rule::MultipleInstructionsDisallowed, message, ignored, index);
            }
            match &instruction.kind {
                Kind::Cmd(command) | Kind::Entrypoint(command)
                    if !state.shell && matches!(command.line, CommandLine::Shell(_)) =>
                {
                    let message = Rule::json_args_recommended(&instruction.keyword.text.to_uppercase());
                    self.report(Rule::JSONArgsRecommended, message, position, index);
                }
                Kind::Shell(_) => state.shell = true,
                Kind::Workdir(path) => {
                    // What a variable holds is unknown here and mostly absolute.
                    if !state.workdir && !path.text.starts_with(['/', '$', '\\', '"', '\'']) {
                        let message = Rule::workdir_relative_path(&path.text);
                        self.report(Rule::WorkdirRelativePath, message, position, index);
                    }
                    state.workdir = true;
                }
                Kind::Env(assignments) => {
                    self.legacy("ENV", assignments, position, index);
                    for assignment in assignments.iter().filter(|assignment| is_secret(&assignment.key.text)) {
                        let message = Rule::secrets_used_in_arg_or_env("ENV", &assignment.key.text);
                        self.report(Rule::SecretsUsedInArgOrEnv, message, position, index);
                    }
                }
                Kind::Label(assignments) => self.legacy("LABEL", assignments, position, index),
                Kind::Arg(declarations) => {
                    for arg in declarations.iter().filter(|arg| is_secret(&arg.name.text)) {
                        let message = Rule::secrets_used_in_arg_or_env("ARG", &arg.name.text);
                        self.report(Rule::SecretsUsedInArgOrEnv, message, position, index);
                    }
                }
                Kind::Expose(ports) => self.ports(ports, position, index),
                _ => {}
            }
        }
        state
    }

    fn legacy(&mut self, name: &str, assignments: &[Assignment], position: usize, stage: Option<usize>) {
        if assignments.iter().any(|assignment| assignment.legacy) {
            self.report(Rule::LegacyKeyValueFormat, Rule::legacy_key_value_format(name), position, stage);
        }
    }

    fn ports(&mut self, ports: &[Word], position: usize, stage: Option<usize>) {
        for port in ports.iter().map(|port| port.text.as_str()).filter(|port| !port.contains('$')) {
            let (address, protocol) = port.split_once('/').unwrap_or((port, ""));
            if protocol != protocol.to_lowercase() {
                self.report(Rule::ExposeProtoCasing, Rule::expose_proto_casing(port), position, stage);
            }
            if address.contains(':') {
                self.report(Rule::ExposeInvalidFormat, Rule::expose_invalid_format(port), position, stage);
            }
        }
    }

    fn platform(&mut self, stage: &Stage<'_>) {
        let Some(platform) = stage.platform.map(|platform| platform.text.as_str()) else { return };
        let index = Some(stage.index);
        if matches!(platform, "$TARGETPLATFORM" | "${TARGETPLATFORM}") {
            let message = Rule::redundant_target_platform(platform);
            self.report(Rule::RedundantTargetPlatform, message, stage.position, index);
        }
        // A stage that is named for its platform knows what it does.
        let named_for_it = |name: &String| platform.split('/').take(2).any(|part| name.contains(part));
        if !platform.contains('$') && !stage.name.as_ref().is_some_and(named_for_it) {
            let message = Rule::from_platform_flag_const_disallowed(platform);
            self.report(Rule::FromPlatformFlagConstDisallowed, message, stage.position, index);
        }
    }
}

/// SPEC A10.16: one of the words between underscores says secret, and none says that it is harmless.
fn is_secret(key: &str) -> bool {
    const SECRET: [&str; 10] =
        ["apikey", "auth", "credential", "credentials", "key", "password", "pword", "passwd", "secret", "token"];
    const HARMLESS: [&str; 3] = ["public", "file", "version"];
    let words = |list: &[&str]| key.split('_').any(|word| list.iter().any(|item| item.eq_ignore_ascii_case(word)));
    words(&SECRET) && !words(&HARMLESS)
}
