//! The way from a Dockerfile to its stages, which builds and calls share.

use indexmap::IndexMap;

use super::args::{self, Globals, Meaning};
use super::base;
use super::checks::Checks;
use super::contexts::Contexts;
use super::convert::{self, Converter};
use super::epoch::Surroundings;
use super::error::FrontendError;
use super::graph::{Draft, NodeId};
use super::options::FrontendInput;
use super::plan::{self, Outlook, Plan, StageId};
use super::state::State;
use super::words;
use crate::base::values::boolean;
use crate::dockerfile::ast::Dockerfile;
use crate::dockerfile::ignore::IgnoreFile;
use crate::dockerfile::{Diagnostic, Parsed, Stages};
use crate::llb::{Definition, FrontendHost};
use crate::oci::Platform;

/// A Dockerfile that can be read.
pub(super) struct Source {
    pub(super) file: Dockerfile,
    warnings: Vec<Diagnostic>,
    meaning: Meaning,
}

/// Which stages are converted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// The target and what it needs.
    Target,
    /// All, needed or not.
    Everything,
}

/// Stages turned into trees and configs.
pub(super) struct Converted {
    pub(super) plan: Plan,
    /// By stage; `None` where it was not asked for.
    pub(super) states: Vec<Option<State>>,
    pub(super) draft: Draft,
    pub(super) globals: Globals,
    pub(super) epoch: Option<i64>,
    /// The build context, where it is to be scanned for software.
    context: Option<NodeId>,
}

/// Graphs by name.
type Named = Vec<(String, Definition)>;

impl Converted {
    /// The target, its graph, and those of other stages that are to be scanned for software, by name.
    pub(super) fn result(mut self, input: &FrontendInput<'_>) -> Result<(State, Definition, Named), FrontendError> {
        let (names, nodes): (Vec<String>, Vec<_>) = self.scanned(input).into_iter().unzip();
        let Some(state) = self.states.get_mut(self.plan.target).and_then(Option::take) else {
            return Err(FrontendError::internal("the target was not converted"));
        };
        let roots: Vec<_> = std::iter::once(state.node).chain(nodes).collect();
        let mut definitions = self.draft.finish_all(&roots, input.filename, input.source).into_iter();
        let definition = definitions.next().unwrap_or_default();
        Ok((state, definition, names.into_iter().zip(definitions).collect()))
    }

    /// The context, and stages beside the target, where an argument says so (SPEC C8.13).
    fn scanned(&self, input: &FrontendInput<'_>) -> Vec<(String, Option<NodeId>)> {
        let wanted = |id: StageId, state: &State| {
            let name = self.plan.stages[id].name.as_deref();
            scans(args::SCAN_STAGE, name, state, &self.globals, &input.options.build_args)
        };
        let mut stages = self.plan.needed_by_target();
        stages.sort_unstable();
        let others = stages.into_iter().filter(|id| *id != self.plan.target && !self.plan.is_external(*id));
        let scanned = others.filter_map(|id| {
            let state = self.states.get(id)?.as_ref().filter(|state| wanted(id, state))?;
            Some((self.plan.stages[id].name.clone().unwrap_or_else(|| format!("stage-{id}")), state.node))
        });
        let context = self.context.map(|node| ("context".to_owned(), Some(node)));
        context.into_iter().chain(scanned).collect()
    }
}

/// Whether an argument that steers scanning says yes to a stage: a boolean for all of them, or their names. It counts in the
/// stage, in front of all of them, and on the command line.
fn scans(
    argument: &str,
    stage: Option<&str>,
    state: &State,
    globals: &Globals,
    build_args: &IndexMap<String, String>,
) -> bool {
    let own = state.args.iter().rev().find(|(name, _)| name == argument).and_then(|(_, value)| value.as_deref());
    let others = || globals.values.get(argument).or_else(|| build_args.get(argument)).map(String::as_str);
    let Some(text) = own.or_else(others) else { return false };
    let named = |name: &str| text.split(',').any(|part| part.trim().eq_ignore_ascii_case(name));
    boolean(text).unwrap_or_else(|| stage.is_some_and(named))
}

impl Source {
    /// Reads the arguments with builder meaning, and parses the file.
    pub(super) fn read(input: &FrontendInput<'_>) -> Result<Self, FrontendError> {
        let arguments = &input.options.build_args;
        let meaning = args::meaning(arguments);
        let Parsed { dockerfile: file, errors, warnings } = crate::dockerfile::parse(input.source);
        let source = Self { file, warnings, meaning };
        if errors.is_empty() {
            return Ok(source);
        }
        // What stands before the first mistake can be checked all the same.
        let end = errors.iter().filter_map(|error| error.lines).map(|(line, _)| line).min().unwrap_or_default();
        let mut found = Vec::new();
        if let Ok(mut checks) = source.checks() {
            source.lint_rest(&mut checks);
            found = checks.into_warnings();
            found.retain(|warning| warning.place.as_ref().is_some_and(|place| place.lines.0 < end));
        }
        Err(FrontendError { warnings: found.into(), ..words::mistakes(errors) })
    }

    /// The checks as the file and the build arguments want them.
    pub(super) fn checks(&self) -> Result<Checks, FrontendError> {
        Checks::new(self.meaning.checks.as_deref(), &self.file)
    }

    /// Applies the checks that need only the tree; `built` says which stages count.
    pub(super) fn lint(&self, checks: &mut Checks, built: &[bool]) {
        checks.lint(&self.file, &self.warnings, built);
    }

    /// Applies the checks of the tree, of all stages, unless it was done: for a way that ended early.
    pub(super) fn lint_rest(&self, checks: &mut Checks) {
        if !checks.linted {
            self.lint(checks, &vec![true; self.file.instructions.len()]);
        }
    }

    /// Plans the stages, asks for the images they need, and goes through their instructions.
    pub(super) async fn convert(
        &self,
        input: &FrontendInput<'_>,
        scope: Scope,
        host: &dyn FrontendHost,
        checks: &mut Checks,
    ) -> Result<Converted, FrontendError> {
        let options = &input.options;
        let build_platform = options.build_platforms.first().cloned().unwrap_or_else(Platform::host);
        let platform = options.platform.clone().unwrap_or_else(|| build_platform.clone());
        let lex = words::Lex::new(self.file.directives.escape_char());
        let target = options.target.as_deref().filter(|name| !name.is_empty());
        let stages = Stages::new(&self.file);
        let last_stage = stages.all().last().and_then(|stage| stage.name.as_deref());
        let target_name = target.or(last_stage).unwrap_or_default();
        let automatic = args::automatic(&platform, &build_platform, target_name, &options.build_args);
        if let Ok(defaults) = Globals::new(automatic.clone(), stages.global_args(), &IndexMap::new(), lex) {
            plan::check_default_bases(&stages, &defaults, lex, checks);
        }
        let mut globals = Globals::new(automatic, stages.global_args(), &options.build_args, lex)?;
        let mut build_args = options.build_args.clone();
        let contexts = Contexts::new(&options.named_contexts);
        let surroundings =
            Surroundings { input, globals: &globals, stages: &stages, contexts: &contexts, platform: &platform, lex };
        let epoch = surroundings.epoch(&mut build_args, host).await?;
        globals.set_epoch(epoch);

        let first_base = options.first_base.as_deref();
        let outlook = Outlook { globals: &globals, lex, contexts: &contexts, platform: &platform, first_base };
        let mut plan = Plan::new(&self.file.instructions, target, &outlook, checks)?;
        if scope == Scope::Everything {
            plan.want_everything();
        }
        let images =
            base::resolve(&mut plan, &outlook, host, (&options.short_names, options.image_resolve_mode)).await?;

        let built: Vec<bool> =
            plan.reachable().iter().zip(&plan.stages).map(|(needed, stage)| *needed && !stage.replaced).collect();
        self.lint(checks, &built);

        let ignore = match &input.ignore {
            Some((name, text)) => convert::parse_ignore(name, text)?,
            None => IgnoreFile::default(),
        };
        let mut converter = Converter {
            input,
            plan: &plan,
            images: &images,
            outlook: &outlook,
            globals: &globals,
            build_args: &build_args,
            meaning: &self.meaning,
            epoch,
            lex,
            ignore,
            checks,
            draft: Draft::default(),
            remote_context: None,
            states: Vec::new(),
        };
        converter.run()?;
        let target = converter.finished(plan.target);
        let name = plan.stages[plan.target].name.as_deref();
        let wanted = target.is_some_and(|state| scans(args::SCAN_CONTEXT, name, state, &globals, &options.build_args));
        let context = wanted.then(|| converter.scanned_context());
        let Converter { draft, states, .. } = converter;
        Ok(Converted { plan, states, draft, globals, epoch, context })
    }
}
