//! Instructions about the image config (SPEC A8), ARG and WORKDIR.

use super::convert::{Converter, Progress};
use super::error::{FrontendError, Place};
use super::expose;
use super::plan::Command;
use super::run::timestamp;
use super::state::State;
use super::text::{absolute, duration, is_signal, list, quoted_list};
use super::transfer::owner;
use super::uses::Argument;
use super::words::Mode;
use crate::base::wording::quote;
use crate::dockerfile::ast::{ArgDeclaration, Assignment, CommandLine, Healthcheck, Kind as Instruction, Word};
use crate::dockerfile::lint::Rule;
use crate::llb::op::{FileAction, FileActionKind, FileActionMkDir, FileOp, Kind};
use crate::oci::HealthConfig;

impl Converter<'_> {
    /// ENV, LABEL and the other instructions that only change the config.
    pub(super) fn configure(&mut self, state: &mut State, command: &Command) -> Result<(), FrontendError> {
        let place = &command.place;
        match &command.instruction.kind {
            Instruction::Env(pairs) => {
                let mut text = String::from("ENV");
                for (key, value) in self.assignments(state, pairs, place)? {
                    text.push_str(&format!(" {key}={value}"));
                    state.set_env(&key, &value);
                }
                state.note(text);
            }
            Instruction::Label(pairs) => {
                let mut text = String::from("LABEL");
                for (key, value) in self.assignments(state, pairs, place)? {
                    text.push_str(&format!(" {key}={value}"));
                    state.image.config.labels.insert(key, value);
                }
                state.note(text);
            }
            Instruction::Cmd(cmd) => {
                state.cmd_set = true;
                self.check_form(state, command, &cmd.line);
                let args = command_args(state, &cmd.line);
                state.note(format!("CMD {}", quoted_list(&args)));
                state.image.config.cmd = Some(args).filter(|args| !args.is_empty());
                state.image.config.args_escaped = true;
            }
            Instruction::Entrypoint(entrypoint) => {
                self.check_form(state, command, &entrypoint.line);
                let args = command_args(state, &entrypoint.line);
                state.note(format!("ENTRYPOINT {}", quoted_list(&args)));
                state.image.config.entrypoint = Some(args).filter(|args| !args.is_empty());
                if !state.cmd_set {
                    state.image.config.cmd = None;
                }
            }
            Instruction::Shell(shell) => {
                state.image.config.shell.clone_from(shell);
                state.note(format!("SHELL {}", list(shell)));
            }
            Instruction::User(word) => {
                let user = self.expand(state, word, place)?;
                state.note(format!("USER {user}"));
                state.image.config.user = user;
            }
            Instruction::Expose(words) => self.expose(state, words, place)?,
            Instruction::Volume(words) => {
                let mut volumes = Vec::with_capacity(words.len());
                for word in words {
                    let volume = self.expand(state, word, place)?;
                    if volume.is_empty() {
                        return Err(FrontendError::input("VOLUME specified can not be an empty string"));
                    }
                    volumes.push(volume);
                }
                state.note(format!("VOLUME {}", list(&volumes)));
                for volume in volumes {
                    State::mark(&mut state.image.config.volumes, volume);
                }
            }
            Instruction::StopSignal(word) => {
                let signal = self.expand(state, word, place)?;
                if state.is_windows() {
                    return Err(FrontendError::input("STOPSIGNAL is not supported on Windows"));
                }
                if !is_signal(&signal) {
                    return Err(FrontendError::input(format!("invalid signal: {signal}"))
                        .hint("write the name of a signal, e.g. SIGTERM, or its number")
                        .at(&place.word(word)));
                }
                state.note(format!("STOPSIGNAL {signal}"));
                state.image.config.stop_signal = signal;
            }
            Instruction::Healthcheck(check) => {
                let config = health_config(check);
                state.note(health_text(&config));
                state.image.config.healthcheck = Some(config);
            }
            // No history entry: it says nothing about this image.
            Instruction::Onbuild { text, .. } => state.image.config.on_build.push(text.clone()),
            Instruction::Maintainer(name) => {
                state.note(format!("MAINTAINER {name}"));
                state.image.author.clone_from(name);
            }
            other => return Err(FrontendError::internal(format!("unexpected instruction {other:?}"))),
        }
        Ok(())
    }

    /// ARG inside a stage (SPEC A4.10–A4.13). A name may be made of variables, too.
    pub(super) fn arg(
        &mut self,
        state: &mut State,
        command: &Command,
        declarations: &[ArgDeclaration],
    ) -> Result<(), FrontendError> {
        let place = &command.place;
        let mut declared = Vec::with_capacity(declarations.len());
        let mut text = String::from("ARG");
        for ArgDeclaration { name, value } in declarations {
            let key = self.expand(state, name, place)?;
            if key.is_empty() {
                // Its variables are not set: there is nothing to declare.
                continue;
            }
            let mut inherited = false;
            let value = match (self.build_args.get(&key), value) {
                (Some(given), _) => Some(given.clone()),
                (None, Some(word)) => Some(self.expand(state, word, place)?),
                (None, None) => {
                    let value = self.globals.values.get(&key).cloned();
                    inherited = value.is_some();
                    value
                }
            };
            if inherited {
                state.uses.inherited.push(key.clone());
            } else {
                let description = command.instruction.description(&name.text).map(str::to_owned);
                let (name, value, lines) = (key.clone(), value.clone(), place.lines);
                state.uses.arguments.push(Argument { name, value, description, lines, needs: Vec::new() });
            }
            text.push_str(&format!(" {key}"));
            if let Some(value) = &value {
                text.push_str(&format!("={value}"));
            }
            declared.push((key, value));
        }
        // All values are those of before the instruction (SPEC A3.08).
        state.args.extend(declared);
        state.note(text);
        Ok(())
    }

    /// WORKDIR (SPEC A8.06).
    pub(super) fn workdir(
        &mut self,
        state: &mut State,
        command: &Command,
        path: &Word,
        progress: &mut Progress,
    ) -> Result<(), FrontendError> {
        let place = &command.place;
        let path = self.expand(state, path, place)?;
        if !state.workdir_set && !path.starts_with('/') && !state.is_windows() {
            // Only the first one: the others are relative to it. That of the base image may change (SPEC A10.10).
            self.checks.warn(Rule::WorkdirRelativePath, Rule::workdir_relative_path(&path), place);
        }
        state.workdir_set = true;
        let dir = absolute(state.cwd(), &path);
        state.image.config.working_dir.clone_from(&dir);
        let created_by = format!("WORKDIR {dir}");
        if dir == "/" {
            state.note(created_by);
            return Ok(());
        }
        let input = if state.node.is_some() { 0 } else { -1 };
        let user = &state.image.config.user;
        let mkdir = FileActionMkDir {
            path: dir,
            mode: 0o755,
            make_parents: true,
            owner: (!user.is_empty()).then(|| owner(user, input)),
            timestamp: timestamp(self.epoch),
        };
        let action = FileAction { input, secondary_input: -1, output: 0, action: Some(FileActionKind::Mkdir(mkdir)) };
        let variables = state.variables();
        let caption = self.caption(&command.instruction.original, Mode::Word, &variables);
        let title = self.title(progress, &caption, &state.platform, &variables);
        let mut metadata = Self::metadata(progress, title, &command.instruction.original);
        // Making a directory once more cannot change anything.
        metadata.ignore_cache = false;
        self.draft.needs(state.node, "/", place.lines);
        let op = Kind::File(FileOp { actions: vec![action] });
        let inputs = state.node.into_iter().collect();
        state.node = Some(self.draft.add(op, inputs, None, metadata, vec![place.lines]));
        state.history(created_by, true);
        Ok(())
    }

    fn expose(&mut self, state: &mut State, words: &[Word], place: &Place) -> Result<(), FrontendError> {
        let variables = state.variables();
        let mut exposed = Vec::new();
        // As BuildKit does, so that histories are the same: in the order of what is written, not of the numbers.
        let mut words: Vec<&Word> = words.iter().collect();
        words.sort_by(|a, b| a.text.cmp(&b.text));
        for word in words {
            // For the warnings about undefined variables.
            self.expand(state, word, place)?;
            for spec in self.lex.expand_words(&word.text, &variables)? {
                self.check_port(&spec, place);
                let port = expose::parse(&spec).map_err(|message| {
                    FrontendError::input(message)
                        .hint("write PORT[-PORT][/tcp|/udp|/sctp]; ports go from 0 to 65535")
                        .at(&place.word(word))
                })?;
                exposed.push(port);
            }
        }
        let texts = expose::ports(&exposed);
        state.note(format!("EXPOSE {}", list(&texts)));
        for text in texts {
            State::mark(&mut state.image.config.exposed_ports, text);
        }
        Ok(())
    }

    /// SPEC A10.07: a shell between the runtime and the program keeps signals from it, unless the shell was chosen.
    fn check_form(&mut self, state: &State, command: &Command, line: &CommandLine) {
        if matches!(line, CommandLine::Shell(_)) && state.image.config.shell.is_empty() {
            let message = Rule::json_args_recommended(&command.instruction.keyword.text);
            self.checks.warn(Rule::JSONArgsRecommended, message, &command.place);
        }
    }

    /// SPEC A10.21, A10.22.
    fn check_port(&mut self, spec: &str, place: &Place) {
        let (address, protocol) = spec.split_once('/').unwrap_or((spec, ""));
        if protocol != protocol.to_lowercase() {
            self.checks.warn(Rule::ExposeProtoCasing, Rule::expose_proto_casing(spec), place);
        }
        if address.contains(':') {
            self.checks.warn(Rule::ExposeInvalidFormat, Rule::expose_invalid_format(spec), place);
        }
    }

    /// Both sides of `k=v`, all with the values of before the instruction (SPEC A3.08).
    fn assignments(
        &mut self,
        state: &State,
        pairs: &[Assignment],
        place: &Place,
    ) -> Result<Vec<(String, String)>, FrontendError> {
        pairs
            .iter()
            .map(|pair| {
                let key = self.expand(state, &pair.key, place)?;
                Ok((key, self.expand(state, &pair.value, place)?))
            })
            .collect()
    }
}

fn command_args(state: &State, line: &CommandLine) -> Vec<String> {
    match line {
        CommandLine::Exec(args) => args.clone(),
        CommandLine::Shell(text) => state.with_shell(text),
    }
}

fn health_config(check: &Healthcheck) -> HealthConfig {
    match check {
        Healthcheck::None => HealthConfig { test: vec!["NONE".into()], ..HealthConfig::default() },
        Healthcheck::Cmd { line, interval, timeout, start_period, start_interval, retries } => {
            let test = match line {
                CommandLine::Exec(args) => std::iter::once("CMD".to_owned()).chain(args.iter().cloned()).collect(),
                CommandLine::Shell(text) => vec!["CMD-SHELL".into(), text.clone()],
            };
            HealthConfig {
                test,
                interval: *interval,
                timeout: *timeout,
                start_period: *start_period,
                start_interval: *start_interval,
                retries: *retries,
            }
        }
    }
}

/// As BuildKit's `%q` shows it: durations are texts, and the number of retries is a character.
fn health_text(config: &HealthConfig) -> String {
    let test: Vec<String> = config.test.iter().map(|word| quote(word)).collect();
    let times = [config.interval, config.timeout, config.start_period, config.start_interval];
    let times: Vec<String> = times.into_iter().map(|time| quote(&duration(time))).collect();
    let retries = u32::try_from(config.retries).ok().and_then(char::from_u32).unwrap_or(char::REPLACEMENT_CHARACTER);
    let retries = match retries {
        '\'' => "\\'".to_owned(),
        '"' => "\"".to_owned(),
        other => quote(&other.to_string()).trim_matches('"').to_owned(),
    };
    format!("HEALTHCHECK &{{{} {} '{retries}'}}", list(&test), times.join(" "))
}
