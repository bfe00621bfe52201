//! One build that a command line asks for: checked before any work, then run with its logs and its record.
//!
//! `rbuild build` runs one, `rbuild verify` the same one twice, `rbuild bake` one for each target.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::args::Build;
use super::broker::BrokeredAgent;
use super::errors::{Aftermath, ExitCodes, Failure};
use super::grammar::CallOptions;
use super::records;
use super::runtime::interrupted;
use super::settings::{self, BuildSettings};
use super::step_logs::{ClipLimits, StepLogs};
use super::worker::{Inside, store_failure};
use crate::base::budget::Budget;
use crate::base::{Cancel, Digest, Events, FaultKind, StepTrace};
use crate::build::attachments::attachments;
use crate::build::record::{self, Recorder};
use crate::build::{BuildError, BuildReport, Builder};
use crate::exec::run::StepOptions;
use crate::frontend::Answer;
use crate::solver::KeptFailure;
use crate::source::git::GitOptions;
use crate::source::{ImageSource, Nearby, Sources};
use crate::ssh::{Agent, AgentSpec};
use crate::store::Store;
use crate::ui::Ended;

/// A build, ready to run.
pub(super) struct Invocation {
    pub(super) args: Build,
    pub(super) settings: BuildSettings,
    pub(super) steps: StepOptions,
    clip: ClipLimits,
    /// Directories that are asked before registries.
    nearby: Vec<Nearby>,
}

/// What a build gave.
pub(super) enum Done {
    Built(BuildReport),
    Answered(Answer, CallOptions),
}

/// Why there is nothing.
pub(super) enum Stopped {
    Early(Failure),
    Build(BuildError),
}

impl Stopped {
    /// The reason, in words.
    pub(super) fn message(&self) -> String {
        match self {
            Self::Early(failure) => failure.message.clone(),
            Self::Build(error) => error.to_string(),
        }
    }
}

/// How a build ended.
pub(super) struct Outcome {
    pub(super) result: Result<Done, Stopped>,
    /// The whole output of the step that failed.
    log: Option<PathBuf>,
}

impl From<Failure> for Outcome {
    fn from(failure: Failure) -> Self {
        Self { result: Err(Stopped::Early(failure)), log: None }
    }
}

impl Outcome {
    /// The vertex that ended the build.
    pub(super) fn vertex(&self) -> Option<&Digest> {
        vertex(&self.result)
    }

    /// The step that failed, if one did and can be entered again.
    pub(super) fn failed_step(&self) -> Option<&KeptFailure> {
        failed_step(&self.result)
    }

    /// Says on standard error why there is nothing; the exit code. `named` may say more of the failure, `enter` is the command
    /// that enters the failed step again.
    pub(super) fn complain(
        &self,
        settings: &BuildSettings,
        ended: &Ended,
        enter: Option<&str>,
        codes: ExitCodes,
        named: impl FnOnce(Failure) -> Failure,
    ) -> u8 {
        let (failure, after) = match &self.result {
            Ok(_) => return 0,
            Err(Stopped::Early(failure)) => (failure.clone(), Aftermath::default()),
            Err(Stopped::Build(error)) => {
                let (name, text) = settings.request.file();
                let step = ended.step.as_ref();
                let said = step.map(|step| step.tail.as_slice()).unwrap_or_default();
                let after = Aftermath { step, log: self.log.as_deref(), enter };
                (Failure::of_build(error, name, text, said), after)
            }
        };
        let failure = named(failure);
        let _ = failure.print(&mut std::io::stderr(), &after);
        codes.of(&failure)
    }
}

fn vertex(result: &Result<Done, Stopped>) -> Option<&Digest> {
    match result {
        Err(Stopped::Build(BuildError::Solve(e))) => e.vertex(),
        _ => None,
    }
}

fn failed_step(result: &Result<Done, Stopped>) -> Option<&KeptFailure> {
    match result {
        Err(Stopped::Build(BuildError::Solve(e))) => e.failed_step(),
        _ => None,
    }
}

impl Invocation {
    /// Everything that can be wrong about a command line is an error here.
    pub(super) fn new(inside: &Inside, args: Build) -> Result<Self, Failure> {
        let mut settings = BuildSettings::new(&args, &inside.config)?;
        let steps = settings::step_options(&args, &inside.config)?;
        let agents = lent(inside, std::mem::take(&mut settings.agents))?;
        settings.request.secrets.agents.extend(agents);
        let clip = ClipLimits::new(inside.config.log)?;
        let (flag, usual) = (&args.drop_in.pull_from, &inside.config.build.pull_from);
        let nearby = super::warm::nearby(if flag.is_empty() { usual } else { flag })?;
        Ok(Self { args, settings, steps, clip, nearby })
    }

    /// Builds, or answers a question. What happens is shown by `shown` and kept in logs and in a record.
    pub(super) async fn run(
        &self,
        inside: &Inside,
        budget: Budget,
        shown: &Events,
        trace: Option<StepTrace>,
    ) -> Outcome {
        let (recorder, logs) = (Recorder::default(), StepLogs::default());
        let events = logs.before(recorder.before(shown.clone()), self.clip);
        for notice in &self.settings.notices {
            events.notice(format!("settings {notice}"), notice.clone());
        }
        let result = self.recorded(inside, budget, &events, (&recorder, &logs), trace).await;
        if let Ok(Done::Built(report)) = &result {
            for (attachment, bytes) in attachments(report) {
                recorder.attach(&attachment, &bytes, &events);
            }
        }
        recorder.end(records::end(&result, self.settings.request.file()), &events);
        let log = vertex(&result).and_then(|vertex| logs.path(vertex));
        Outcome { result, log }
    }

    async fn recorded(
        &self,
        inside: &Inside,
        budget: Budget,
        events: &Events,
        (recorder, logs): (&Recorder, &StepLogs),
        trace: Option<StepTrace>,
    ) -> Result<Done, Stopped> {
        let early = Stopped::Early;
        let Self { args, settings, steps, .. } = self;
        let store = inside.store(events.clone()).map_err(early)?;
        if settings.call.is_none() {
            let history = Arc::new(store.build_history());
            logs.keep(Arc::clone(&history), recorder.clone());
            recorder.begin(history, records::head(args, settings), events);
        }
        let lease = store.lease().map_err(|e| early(store_failure(&e)))?;
        let cancel = Cancel::default();
        let mut builder = builder(inside, &store, budget, events, &cancel, steps.clone()).map_err(early)?;
        builder.trace = trace;
        builder.images.set_nearby(self.nearby.clone());
        let unverified_hosts = args.drop_in.git_unverified.clone();
        if !unverified_hosts.is_empty() {
            let said = format!("certificates of {} are not verified for git", unverified_hosts.join(", "));
            events.notice("git-unverified", said);
            let git = GitOptions { unverified_hosts, ..settings::git(&inside.context.state_dir) };
            builder.sources = Sources::new(&store, &builder.client, events, git);
        }
        let work = async {
            match settings.call {
                Some(how) => Ok(Done::Answered(builder.call(how.call, &settings.request).await?, how)),
                None => builder.build(&settings.request).await.map(Done::Built),
            }
        };
        tokio::pin!(work);
        let result = tokio::select! {
            result = &mut work => result,
            () = interrupted() => {
                cancel.cancel();
                // Steps are killed at once; what else is under way gets a moment to clean up.
                let _ = tokio::time::timeout(std::time::Duration::from_secs(3), &mut work).await;
                return Err(early(Failure::new(FaultKind::Interrupted, "canceled")));
            }
        };
        let result = result.map_err(Stopped::Build);
        drop(lease);
        let failed = failed_step(&result);
        if let Some(failed) = failed {
            recorder.failed(failed, events);
        }
        if settings.call.is_none() {
            // Trouble with old records is the next build's to report.
            let (store, failed, limits) = (store.clone(), failed.is_some(), inside.config.history);
            let _ = tokio::task::spawn_blocking(move || record::tidy(&store, failed, limits)).await;
        }
        // What failed left layers, too.
        if matches!(result, Ok(Done::Built(_)) | Err(Stopped::Build(_))) {
            // Nobody else sets it.
            let _ = inside.leftover.store.set(store);
        }
        result
    }
}

/// Agents by id, reached through the broker.
pub(super) fn lent(inside: &Inside, specs: Vec<AgentSpec>) -> Result<BTreeMap<String, Arc<dyn Agent>>, Failure> {
    let mut agents: BTreeMap<String, Arc<dyn Agent>> = BTreeMap::new();
    for spec in specs {
        // Better now than after ten minutes of steps.
        inside.broker.agent(&spec).map_err(|(message, hint)| {
            let failure = Failure::new(FaultKind::Usage, format!("--ssh {}: {message}", spec.id));
            hint.map_or(failure.clone(), |hint| failure.hint(hint))
        })?;
        let agent = BrokeredAgent { client: Arc::clone(&inside.broker), spec: spec.clone() };
        agents.insert(spec.id, Arc::new(agent));
    }
    Ok(agents)
}

/// What a build is made with here.
pub(super) fn builder(
    inside: &Inside,
    store: &Store,
    budget: Budget,
    events: &Events,
    cancel: &Cancel,
    steps: StepOptions,
) -> Result<Builder, Failure> {
    let client = inside.client(events.clone())?;
    let hasty = inside.hasty_client(events.clone())?;
    let caching = inside.caching_client(events.clone())?;
    let images = ImageSource::with_hasty(store.clone(), client.clone(), hasty.clone(), events.clone());
    let sources = Sources::new(store, &client, events, settings::git(&inside.context.state_dir));
    let steps = inside.runner(steps)?;
    if let Some(moved) = &inside.moved {
        events.notice("isolation", moved.clone());
    }
    if let (Ok(_), Some(weakness)) = (&steps, inside.context.rung.weakness()) {
        let rung = inside.context.rung;
        events.notice("isolation", format!("isolation {rung}: {weakness} (`rbuild doctor` says what would lift that)"));
    }
    Ok(Builder {
        store: store.clone(),
        client,
        hasty,
        caching,
        images,
        sources,
        steps,
        state_dir: inside.context.state_dir.clone(),
        events: events.clone(),
        cancel: cancel.clone(),
        parallelism: inside.config.parallelism.unwrap_or((budget.cpus * 4).max(16)),
        threads: budget.cpus,
        trace: None,
    })
}
