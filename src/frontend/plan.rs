//! Which stages there are, what each builds upon, and which of them the target needs (SPEC A4.01–A4.08).

use std::collections::HashMap;
use std::sync::Arc;

use super::args::Globals;
use super::checks::Checks;
use super::contexts::{Content, Contexts, NamedContext};
use super::error::{FrontendError, Place};
use super::mount;
use super::options::NoCache;
use super::words::{Lex, Mode};
use crate::base::wording::did_you_mean;
use crate::dockerfile::Stages;
use crate::dockerfile::ast::{Instruction, Kind, Word};
use crate::dockerfile::lint::Rule;
use crate::oci::{Platform, Reference};

/// Index of a stage in [`Plan::stages`].
pub(super) type StageId = usize;

/// All stages, those of the file first, then images and contexts that are only copied or mounted from.
pub(super) struct Plan {
    /// The stages.
    pub(super) stages: Vec<Stage>,
    /// The stage to build.
    pub(super) target: StageId,
    /// All stages of the file are wanted, whatever the target needs.
    everything: bool,
    /// Stages by lower-case name, in order.
    by_name: HashMap<String, Vec<StageId>>,
    /// How many stages are in the file.
    in_file: usize,
}

/// A stage of the file, or something copied from that stands in for one.
pub(super) struct Stage {
    /// As written.
    pub(super) name: Option<String>,
    /// How progress calls it: its name, `stage-N`, or nothing if it is the only one.
    pub(super) title: String,
    /// Base name after expansion.
    pub(super) base: String,
    /// What it builds upon.
    pub(super) origin: Origin,
    /// A named context took the place of the whole stage.
    pub(super) replaced: bool,
    /// `--platform`.
    pub(super) platform: Option<Platform>,
    /// The FROM, or the instruction that refers to it.
    pub(super) place: Place,
    /// Text of the FROM.
    pub(super) text: String,
    /// What stands above the FROM.
    pub(super) comments: Vec<String>,
    /// Names of the global arguments that the FROM uses.
    pub(super) globals: Vec<String>,
    /// What to do.
    pub(super) commands: Vec<Command>,
    /// Triggers of the base have been put in front of the commands.
    pub(super) triggered: bool,
}

/// What a stage builds upon.
#[derive(Debug, Clone)]
pub(super) enum Origin {
    /// An earlier stage.
    Stage(StageId),
    /// Nothing.
    Scratch,
    /// A named context.
    Context(NamedContext),
    /// An image.
    Image(Reference),
}

/// An instruction and the stages it reads from.
#[derive(Clone)]
pub(super) struct Command {
    /// What to do.
    pub(super) instruction: Arc<Instruction>,
    /// The stage of `COPY --from`, or of each `--mount` in order.
    pub(super) sources: Vec<Option<StageId>>,
    /// It is a trigger of the base.
    pub(super) trigger: bool,
    /// Where to point to: triggers of an image have no place of their own.
    pub(super) place: Place,
}

/// What planning needs to know.
pub(super) struct Outlook<'a> {
    /// For expansions in FROM.
    pub(super) globals: &'a Globals,
    /// How words are expanded.
    pub(super) lex: Lex,
    /// Named contexts.
    pub(super) contexts: &'a Contexts,
    /// Platform to build for.
    pub(super) platform: &'a Platform,
    /// What the first FROM names, whatever it says.
    pub(super) first_base: Option<&'a str>,
}

/// The automatic argument that FROM takes for its platform anyway.
const TARGET: &str = "TARGETPLATFORM";

impl Outlook<'_> {
    /// Names that a FROM may use: those with a value, and those that were declared without one.
    fn known(&self) -> impl Iterator<Item = &str> {
        let declared = self.globals.declared.iter().map(|argument| &argument.name);
        self.globals.values.keys().chain(declared).map(String::as_str)
    }

    fn warn_undefined(&self, unmatched: &[String], checks: &mut Checks, place: &Place) {
        for variable in unmatched.iter().filter(|variable| !self.known().any(|name| name == *variable)) {
            let close = super::words::closest(variable, self.known());
            checks.warn(Rule::UndefinedArgInFrom, Rule::undefined_arg_in_from(variable, close), place);
        }
    }

    /// Of a base whose name came to nothing.
    fn blank_base(&self, text: &str) -> FrontendError {
        let empty = self.globals.declared.iter().rev().find(|argument| text.contains(&argument.name));
        let hint = match empty {
            Some(argument) => format!(
                "{} is declared on line {} without a value: give it a default, or pass --build-arg {}=VALUE",
                argument.name, argument.lines.0, argument.name
            ),
            None => "declare the argument before the first FROM".to_owned(),
        };
        FrontendError::input(format!("base name ({text}) should not be blank")).hint(hint)
    }

    /// What `--platform` of a FROM says, and the arguments that it took it from. The places are of the base, where warnings go,
    /// and of the flag's value.
    fn stage_platform(
        &self,
        word: &Word,
        stage: Option<&str>,
        checks: &mut Checks,
        (base, value): (&Place, &Place),
    ) -> Result<(Platform, Vec<String>), FrontendError> {
        let expanded = self.lex.expand(&word.text, Mode::Word, &self.globals.values)?;
        self.warn_undefined(&expanded.undefined, checks, base);
        let suggest = |mut error: FrontendError| {
            for variable in &expanded.undefined {
                error = error.suggest(variable, self.known());
            }
            if error.hint.is_none() {
                error = error
                    .hint("write os/arch[/variant], e.g. linux/arm64, or one of $BUILDPLATFORM and $TARGETPLATFORM");
            }
            error.at(value)
        };
        if expanded.text.is_empty() {
            return Err(suggest(FrontendError::input(format!("empty platform value from expression {}", word.text))));
        }
        let parsed = expanded.text.parse::<Platform>().map_err(|error| {
            suggest(FrontendError::input(format!("failed to parse platform {}: {error}", word.text)))
        })?;
        // SPEC A10.15, A10.18
        let variables = (expanded.used.as_slice(), expanded.undefined.as_slice());
        let is_target = self.globals.values.get(TARGET) == Some(&expanded.text);
        if matches!(variables, ([only], []) if only == TARGET && is_target) {
            checks.warn(Rule::RedundantTargetPlatform, Rule::redundant_target_platform(&word.text), base);
        }
        // A stage that is named for its platform knows what it does.
        let named = |part: &str| stage.is_some_and(|name| name.to_lowercase().contains(part));
        if variables == (&[], &[]) && !named(&parsed.os) && !named(&parsed.architecture) {
            let message = Rule::from_platform_flag_const_disallowed(&expanded.text);
            checks.warn(Rule::FromPlatformFlagConstDisallowed, message, base);
        }
        Ok((parsed, expanded.used))
    }
}

impl Plan {
    /// Splits the instructions into stages and resolves all names.
    pub(super) fn new(
        instructions: &[Instruction],
        target: Option<&str>,
        outlook: &Outlook<'_>,
        checks: &mut Checks,
    ) -> Result<Self, FrontendError> {
        let mut plan = Self { stages: Vec::new(), target: 0, everything: false, by_name: HashMap::new(), in_file: 0 };
        let mut bodies: Vec<Vec<Instruction>> = Vec::new();
        for instruction in instructions {
            match &instruction.kind {
                Kind::From { .. } => {
                    checks.enter_stage(&instruction.comments);
                    let stage =
                        plan.from(instruction, outlook, checks).map_err(|error| error.at(&Place::from(instruction)))?;
                    if let Some(name) = &stage.name {
                        plan.by_name.entry(name.to_lowercase()).or_default().push(plan.stages.len());
                    }
                    plan.stages.push(stage);
                    bodies.push(Vec::new());
                }
                _ => match bodies.last_mut() {
                    Some(body) => body.push(instruction.clone()),
                    None if matches!(instruction.kind, Kind::Arg(_)) => {}
                    None => {
                        return Err(
                            FrontendError::input("no build stage in current context").at(&Place::from(instruction))
                        );
                    }
                },
            }
        }
        plan.in_file = plan.stages.len();
        if plan.in_file == 0 {
            return Err(FrontendError::input("dockerfile contains no stages to build"));
        }
        plan.target = plan.find_target(target)?;
        for (id, body) in bodies.into_iter().enumerate() {
            if plan.stages[id].replaced {
                continue;
            }
            for instruction in body {
                let place = Place::from(&instruction);
                let command = plan.command(id, Arc::new(instruction), place, false, outlook)?;
                plan.stages[id].commands.push(command);
            }
        }
        plan.check_cycles()?;
        if let [only] = plan.stages.as_mut_slice() {
            only.title.clear();
        }
        Ok(plan)
    }

    /// Counts every stage of the file as needed.
    pub(super) fn want_everything(&mut self) {
        self.everything = true;
    }

    /// The target and what it needs, the nearest first.
    pub(super) fn needed_by_target(&self) -> Vec<StageId> {
        let mut out = vec![self.target];
        let mut seen = vec![false; self.stages.len()];
        seen[self.target] = true;
        let mut next = 0;
        while let Some(id) = out.get(next).copied() {
            next += 1;
            for (need, _) in self.needs(id) {
                if !std::mem::replace(&mut seen[need], true) {
                    out.push(need);
                }
            }
        }
        out
    }

    /// The stages that are needed: the target and what it needs, or everything.
    pub(super) fn reachable(&self) -> Vec<bool> {
        let mut out = vec![false; self.stages.len()];
        let mut stack = if self.everything { (0..self.in_file).collect() } else { vec![self.target] };
        while let Some(id) = stack.pop() {
            if !std::mem::replace(&mut out[id], true) {
                stack.extend(self.needs(id).map(|(dependency, _)| dependency));
            }
        }
        out
    }

    /// Puts triggers in front of the commands of `stage`. Says whether they brought in new dependencies.
    pub(super) fn add_triggers(
        &mut self,
        stage: StageId,
        triggers: Vec<(Arc<Instruction>, Place)>,
        outlook: &Outlook<'_>,
    ) -> Result<bool, FrontendError> {
        self.stages[stage].triggered = true;
        let mut commands = Vec::with_capacity(triggers.len());
        for (instruction, place) in triggers {
            commands.push(self.command(stage, instruction, place, true, outlook)?);
        }
        let new = commands.iter().any(|command| command.sources.iter().any(Option::is_some));
        self.stages[stage].commands.splice(0..0, commands);
        if new {
            self.check_cycles()?;
        }
        Ok(new)
    }

    /// What to do where a stage is wanted before it is there.
    pub(super) fn order_hint(&self, id: StageId) -> String {
        let Stage { title, place, .. } = &self.stages[id];
        format!("stage {title} is defined on line {}: move it further up", place.lines.0)
    }

    /// Whether `id` stands for an image or a context that the file only copies or mounts from.
    pub(super) fn is_external(&self, id: StageId) -> bool {
        id >= self.in_file
    }

    /// Stages of the file by name, for suggestions.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.stages.iter().filter_map(|stage| stage.name.as_deref())
    }

    /// The trigger instructions that `id` leaves to stages built from it.
    pub(super) fn triggers_of(&self, id: StageId) -> Vec<(Arc<Instruction>, Place)> {
        let triggers = self.stages[id].commands.iter().filter_map(|command| match &command.instruction.kind {
            Kind::Onbuild { instruction, .. } => Some((Arc::new((**instruction).clone()), command.place.clone())),
            _ => None,
        });
        triggers.collect()
    }

    fn from(
        &self,
        instruction: &Instruction,
        outlook: &Outlook<'_>,
        checks: &mut Checks,
    ) -> Result<Stage, FrontendError> {
        let Kind::From { platform, base, name } = &instruction.kind else {
            return Err(FrontendError::internal("not a FROM instruction"));
        };
        let place = Place::from(instruction).word(base);
        let mut expanded = outlook.lex.expand(&base.text, Mode::Word, &outlook.globals.values)?;
        match outlook.first_base.filter(|_| self.stages.is_empty()) {
            Some(other) => other.clone_into(&mut expanded.text),
            None => outlook.warn_undefined(&expanded.undefined, checks, &place),
        }
        if expanded.text.is_empty() {
            return Err(outlook.blank_base(&base.text).at(&place));
        }
        let mut used = expanded.used;
        let name = name.as_ref().map(|name| name.text.clone());
        let platform = match platform {
            None => None,
            Some(word) => {
                let at = Place::from(instruction).word(word);
                let (platform, variables) = outlook.stage_platform(word, name.as_deref(), checks, (&place, &at))?;
                used.extend(variables);
                Some(platform)
            }
        };
        let wanted = platform.as_ref().unwrap_or(outlook.platform);
        let replacement = match &name {
            Some(name) => outlook.contexts.find(name, wanted)?,
            None => None,
        };
        let replaced = replacement.is_some();
        let origin = match replacement {
            Some(context) => Origin::Context(context),
            None => self.origin(&expanded.text, self.stages.len(), wanted, outlook)?,
        };
        let title = name.clone().unwrap_or_else(|| format!("stage-{}", self.stages.len()));
        Ok(Stage {
            name,
            title,
            base: expanded.text,
            origin,
            replaced,
            platform,
            place,
            text: instruction.original.clone(),
            comments: instruction.comments.clone(),
            globals: used,
            commands: Vec::new(),
            triggered: false,
        })
    }

    /// Looks up a base name or a `--from` in the order of SPEC A4.02; only stages before `before` are seen.
    fn origin(
        &self,
        name: &str,
        before: StageId,
        platform: &Platform,
        outlook: &Outlook<'_>,
    ) -> Result<Origin, FrontendError> {
        if let Some(id) = self.find(name, before) {
            return Ok(Origin::Stage(id));
        }
        if let Some(context) = outlook.contexts.find(name, platform)? {
            return Ok(Origin::Context(context));
        }
        if name == "scratch" {
            return Ok(Origin::Scratch);
        }
        let reference = name.parse().map_err(|error| {
            let message = format!("failed to parse stage name \"{name}\": {error}");
            let lower = name.to_lowercase();
            let hint = if let Some((_, rest)) = name.split_once("://") {
                format!("an image has no scheme: write {rest}")
            } else if name != lower && lower.parse::<Reference>().is_ok() {
                format!("did you mean {lower}?")
            } else {
                "write [HOST/]NAME[:TAG][@DIGEST]".to_owned()
            };
            FrontendError::input(message).hint(hint)
        })?;
        Ok(Origin::Image(reference))
    }

    /// The last stage with this name before `before` (SPEC A4.19).
    fn find(&self, name: &str, before: StageId) -> Option<StageId> {
        let ids = self.by_name.get(&name.to_lowercase())?;
        ids[..ids.partition_point(|id| *id < before)].last().copied()
    }

    /// What is to be said of names of `--no-cache-filter` that no stage has (SPEC B2.19). BuildKit passes over them, so that
    /// one command line may serve several files.
    pub(super) fn unknown_stages(&self, no_cache: &NoCache) -> Vec<String> {
        let NoCache::Stages(names) = no_cache else { return Vec::new() };
        let unknown = names.iter().filter(|name| !name.is_empty() && !self.by_name.contains_key(&name.to_lowercase()));
        unknown
            .map(|name| format!("--no-cache-filter: no stage is called {name}{}", did_you_mean(name, self.names())))
            .collect()
    }

    fn find_target(&self, target: Option<&str>) -> Result<StageId, FrontendError> {
        let Some(name) = target.filter(|name| !name.is_empty()) else { return Ok(self.in_file - 1) };
        // No name begins with a digit, so a number can only be an index, as buildah and kaniko have it (SPEC A4.07).
        let index = || name.parse::<StageId>().ok().filter(|id| *id < self.in_file);
        self.find(name, self.in_file).or_else(index).ok_or_else(|| {
            let names: Vec<&str> = self.names().collect();
            let error = FrontendError::usage(format!("target stage \"{name}\" could not be found"));
            match names.as_slice() {
                [] => error.hint("no stage of this file has a name: write FROM image AS name"),
                names => {
                    error.suggest(name, names.iter().copied()).hint(format!("the stages are {}", names.join(", ")))
                }
            }
        })
    }

    fn command(
        &mut self,
        stage: StageId,
        instruction: Arc<Instruction>,
        place: Place,
        trigger: bool,
        outlook: &Outlook<'_>,
    ) -> Result<Command, FrontendError> {
        let mut sources = Vec::new();
        let mut find = |plan: &mut Self| -> Result<(), FrontendError> {
            match &instruction.kind {
                Kind::Copy(copy) => {
                    let Some(from) = copy.from.as_ref().filter(|from| !from.text.is_empty()) else { return Ok(()) };
                    let literal = outlook.lex.expand(&from.text, Mode::Word, &super::args::Variables::new())?;
                    if literal.text != from.text {
                        return Err(FrontendError::input(
                            "variable expansion is not supported for --from, define a new stage with FROM using ARG \
                             from global scope as a workaround",
                        ));
                    }
                    let at = place.word(from);
                    let source = plan.copy_source(&from.text, stage, &at, outlook).map_err(|error| error.at(&at))?;
                    if source == stage {
                        return Err(FrontendError::input(format!(
                            "circular dependency detected on stage: {}",
                            plan.stages[stage].title
                        ))
                        .hint("a stage cannot copy from itself: its files are there already")
                        .at(&at));
                    }
                    sources.push(Some(source));
                }
                Kind::Run(run) => {
                    for mount in &run.mounts {
                        let at = place.word(mount);
                        let mut source = || match mount::from_of(&mount.text)? {
                            None => Ok(None),
                            Some(from) => plan.named_source(&from, stage, &at, outlook).map(Some),
                        };
                        sources.push(source().map_err(|error: FrontendError| error.at(&at))?);
                    }
                }
                _ => {}
            }
            Ok(())
        };
        find(self).map_err(|error| error.at(&place))?;
        Ok(Command { instruction, sources, trigger, place })
    }

    fn copy_source(
        &mut self,
        from: &str,
        stage: StageId,
        place: &Place,
        outlook: &Outlook<'_>,
    ) -> Result<StageId, FrontendError> {
        match from.parse::<i64>() {
            Err(_) => self.named_source(from, stage, place, outlook),
            Ok(index) => usize::try_from(index).ok().filter(|index| *index < self.in_file).ok_or_else(|| {
                let last = self.in_file - 1;
                FrontendError::input(format!("invalid stage index {index}"))
                    .hint(format!("the stages of this file are numbered from 0 to {last}"))
            }),
        }
    }

    /// A stage, or a stand-in for the named context or image of this name. A stage that comes later is found too, so
    /// that the error can say so.
    fn named_source(
        &mut self,
        name: &str,
        stage: StageId,
        place: &Place,
        outlook: &Outlook<'_>,
    ) -> Result<StageId, FrontendError> {
        if let Some(id) = self.find(name, stage).or_else(|| self.find(name, self.in_file)) {
            return Ok(id);
        }
        let known = self.stages[self.in_file..].iter().position(|external| external.base == name);
        if let Some(position) = known {
            return Ok(self.in_file + position);
        }
        let origin = self.origin(name, 0, outlook.platform, outlook)?;
        self.stages.push(Stage {
            name: None,
            title: String::new(),
            base: name.into(),
            origin,
            replaced: false,
            platform: None,
            place: place.clone(),
            text: name.into(),
            comments: Vec::new(),
            globals: Vec::new(),
            commands: Vec::new(),
            triggered: true,
        });
        Ok(self.stages.len() - 1)
    }

    fn needs(&self, id: StageId) -> impl Iterator<Item = (StageId, &Place)> {
        let stage = &self.stages[id];
        let base = match stage.origin {
            Origin::Stage(base) => Some((base, &stage.place)),
            _ => None,
        };
        let sources = stage
            .commands
            .iter()
            .flat_map(|command| command.sources.iter().flatten().map(|source| (*source, &command.place)));
        base.into_iter().chain(sources)
    }

    /// Depth first, without recursion: the number of stages is up to whoever wrote the file.
    fn check_cycles(&self) -> Result<(), FrontendError> {
        #[derive(Clone, Copy, PartialEq)]
        enum Mark {
            New,
            Open,
            Done,
        }
        let mut marks = vec![Mark::New; self.stages.len()];
        for start in 0..self.stages.len() {
            if marks[start] != Mark::New {
                continue;
            }
            marks[start] = Mark::Open;
            let mut stack = vec![(start, self.needs(start).collect::<Vec<_>>().into_iter())];
            while let Some((id, rest)) = stack.last_mut() {
                let Some((next, place)) = rest.next() else {
                    marks[*id] = Mark::Done;
                    stack.pop();
                    continue;
                };
                match marks[next] {
                    Mark::Done => {}
                    Mark::Open => {
                        let message = format!("circular dependency detected on stage: {}", self.stages[next].title);
                        return Err(FrontendError::input(message).at(place));
                    }
                    Mark::New => {
                        marks[next] = Mark::Open;
                        stack.push((next, self.needs(next).collect::<Vec<_>>().into_iter()));
                    }
                }
            }
        }
        Ok(())
    }
}

impl Stage {
    /// Steps that progress counts: those that make layers, and the FROM of an image.
    pub(super) fn step_count(&self) -> usize {
        let steps = self.commands.iter().filter(|command| {
            matches!(command.instruction.kind, Kind::Add(_) | Kind::Copy(_) | Kind::Run(_) | Kind::Workdir(_))
        });
        steps.count() + usize::from(matches!(self.origin, Origin::Image(_)))
    }

    /// The image to ask for, if this stage builds upon one.
    pub(super) fn identifier(&self) -> Option<String> {
        match &self.origin {
            Origin::Image(reference) | Origin::Context(NamedContext { content: Content::Image(reference), .. }) => {
                Some(format!("docker-image://{reference}"))
            }
            Origin::Context(NamedContext { content: Content::Layout(layout), .. }) => {
                Some(format!("oci-layout://{layout}"))
            }
            _ => None,
        }
    }
}

/// Warns of base names that are only valid with build arguments (SPEC A10.17). `defaults` are the global arguments
/// without any.
pub(super) fn check_default_bases(stages: &Stages<'_>, defaults: &Globals, lex: Lex, checks: &mut Checks) {
    for stage in stages.all() {
        checks.enter_stage(&stage.from.comments);
        let Ok(name) = lex.expand(&stage.base.text, Mode::Word, &defaults.values) else { return };
        if Reference::parse_raw(&name.text).is_err() {
            let message = Rule::invalid_default_arg_in_from(&stage.base.text);
            checks.warn(Rule::InvalidDefaultArgInFrom, message, &Place::from(stage.from));
        }
    }
}
