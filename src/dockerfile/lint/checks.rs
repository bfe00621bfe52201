//! The rules that need only the tree, one function each or a few.

use super::{CheckConfig, Rule, Violation};
use crate::dockerfile::ast::{Assignment, Dockerfile, Instruction, Kind};
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

    /// Arguments before the first FROM neither count nor are measured.
    pub(super) fn keyword_casing(&mut self, stages: &Stages<'_>) {
        let first = stages.global_args().len();
        let keywords: Vec<&'a str> =
            self.dockerfile.instructions.iter().skip(first).map(|i| i.keyword.text.as_str()).collect();
        let lower = keywords.iter().filter(|word| **word == word.to_lowercase()).count();
        let upper = keywords.iter().filter(|word| **word == word.to_uppercase()).count();
        let mostly_lower = lower > upper;
        for (offset, keyword) in keywords.into_iter().enumerate() {
            let wanted = if mostly_lower { keyword.to_lowercase() } else { keyword.to_uppercase() };
            if keyword != wanted {
                let message = Rule::consistent_instruction_casing(keyword, mostly_lower);
                self.report(Rule::ConsistentInstructionCasing, message, first + offset, None);
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
        for stage in stages.all() {
            self.stage(stage);
        }
    }

    fn stage(&mut self, stage: &Stage<'_>) {
        let index = Some(stage.index);
        let mut earlier = [None; 3];
        for (offset, instruction) in stage.instructions.iter().enumerate() {
            let position = stage.position + 1 + offset;
            let keyword = &instruction.keyword.text;
            let once = match &instruction.kind {
                Kind::Cmd(_) => Some(0),
                Kind::Entrypoint(_) => Some(1),
                Kind::Healthcheck(_) => Some(2),
                _ => None,
            };
            if let Some(slot) = once
                && let Some(ignored) = Option::replace(&mut earlier[slot], position)
            {
                let message = Rule::multiple_instructions_disallowed(keyword);
                self.report(Rule::MultipleInstructionsDisallowed, message, ignored, index);
            }
            match &instruction.kind {
                Kind::Env(assignments) => {
                    self.legacy(keyword, assignments, position, index);
                    for assignment in assignments.iter().filter(|assignment| is_secret(&assignment.key.text)) {
                        let message = Rule::secrets_used_in_arg_or_env("ENV", &assignment.key.text);
                        self.report(Rule::SecretsUsedInArgOrEnv, message, position, index);
                    }
                }
                Kind::Label(assignments) => self.legacy(keyword, assignments, position, index),
                Kind::Arg(declarations) => {
                    for arg in declarations.iter().filter(|arg| is_secret(&arg.name.text)) {
                        let message = Rule::secrets_used_in_arg_or_env("ARG", &arg.name.text);
                        self.report(Rule::SecretsUsedInArgOrEnv, message, position, index);
                    }
                }
                _ => {}
            }
        }
    }

    fn legacy(&mut self, name: &str, assignments: &[Assignment], position: usize, stage: Option<usize>) {
        if assignments.iter().any(|assignment| assignment.legacy) {
            self.report(Rule::LegacyKeyValueFormat, Rule::legacy_key_value_format(name), position, stage);
        }
    }
}

/// Whether a variable called `key` should not be seen (SPEC A10.16): one of the words between underscores says secret, and none
/// says that it is harmless.
#[must_use]
pub fn is_secret(key: &str) -> bool {
    const SECRET: [&str; 10] =
        ["apikey", "auth", "credential", "credentials", "key", "password", "pword", "passwd", "secret", "token"];
    const HARMLESS: [&str; 3] = ["public", "file", "version"];
    let words = |list: &[&str]| key.split('_').any(|word| list.iter().any(|item| item.eq_ignore_ascii_case(word)));
    words(&SECRET) && !words(&HARMLESS)
}
