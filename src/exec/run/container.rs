//! A container: programs that come and go in one root, with its mounts, its network and its host name (SPEC C3.16).
//!
//! Where there are namespaces the first program makes them, the others enter them, and all end with it. Where there are none, each is
//! a step of its own over the same root, and they end with the first all the same.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use rootless::cgroup::StepGroup;
use rootless::step::{Attached, RootSwitch, StepOutcome, StepSpec};
use rootless::{Rung, StepHandles};
use tokio::sync::{mpsc, oneshot, watch};

use super::running::{HeldHandles, accompany, start};
use super::{Attachment, ExecError, Process, RunRequest, RunResult, Runner, give, io_error, place};
use crate::base::{Events, file};
use crate::llb::op::{Meta, SecurityMode};

/// A program to run in a container.
#[derive(Debug)]
pub struct Program {
    /// The process; what is about the container in it is not looked at.
    pub meta: Meta,
    /// What it may do.
    pub security: SecurityMode,
    /// Environment added last, such as secrets.
    pub extra_env: Vec<(String, String)>,
    /// Who it is attached to.
    pub attachment: Attachment,
    /// Takes how it ended. It is dropped when the container ends first.
    pub ended: oneshot::Sender<Result<RunResult, ExecError>>,
}

impl Runner {
    /// Runs programs in one container until nobody is there who could start another, or the first one has ended; those that still
    /// run then are killed. The process of `request` is not run.
    ///
    /// # Errors
    /// When the container cannot be made, or not be taken apart.
    pub async fn run_container(
        &self,
        request: RunRequest<'_>,
        events: &Events,
        mut programs: mpsc::Receiver<Program>,
    ) -> Result<(), ExecError> {
        if self.context.rung == Rung::None {
            return Err(ExecError::NoRung);
        }
        if request.confidential && !self.context.steps_are_separate() {
            return Err(ExecError::NotStarted("a container with secrets, where steps can look into each other".into()));
        }
        let network = self.network(&request, events).await?;
        let (mut spec, files) = self.prepare(&request, &network)?;
        let placement = place(&request, &mut spec)?;
        let held = Arc::new((network, self.group(&spec.id)?));
        let container = Container { runner: self, request: &request, spec, held, first: watch::Sender::new(None) };
        let mut running = FuturesUnordered::new();
        let mut is_first = true;
        loop {
            tokio::select! {
                biased;
                Some(was_first) = running.next(), if !running.is_empty() => {
                    if was_first {
                        break;
                    }
                }
                program = programs.recv() => {
                    let Some(program) = program else { break };
                    running.push(container.run(program, std::mem::take(&mut is_first)));
                }
            }
        }
        // What still runs is killed by being dropped.
        drop(running);
        drop((container, files));
        placement.map_or(Ok(()), |placement| tokio::task::block_in_place(|| placement.remove()))?;
        Ok(())
    }
}

/// What the programs of a container share.
struct Container<'a> {
    runner: &'a Runner,
    request: &'a RunRequest<'a>,
    /// As the first program has it, but for the program.
    spec: StepSpec,
    held: HeldHandles,
    /// The step process of the first program, once there is one.
    first: watch::Sender<Option<u32>>,
}

impl Container<'_> {
    /// Runs a program and says how it ended; gives back whether it was the first one.
    async fn run(&self, program: Program, is_first: bool) -> bool {
        let Program { meta, security, extra_env, attachment, mut ended } = program;
        let result = tokio::select! {
            biased;
            result = self.run_to_end(&meta, security, &extra_env, attachment, is_first) => result,
            // Nobody waits for it any more. It is killed by being dropped.
            () = ended.closed() => return is_first,
        };
        // Nobody may be interested any more.
        let _ = ended.send(result);
        is_first
    }

    async fn run_to_end(
        &self,
        meta: &Meta,
        security: SecurityMode,
        extra_env: &[(String, String)],
        attachment: Attachment,
        is_first: bool,
    ) -> Result<RunResult, ExecError> {
        let mut spec = self.spec_of(meta, security, extra_env)?;
        let Attachment { io, terminal, console, signals } = attachment;
        give(&io, spec.uid, spec.gid);
        spec.attached = Some(Attached { terminal, console: console.filter(|_| is_first) });
        if !is_first {
            spec.mounts = Vec::new();
            if spec.switch == RootSwitch::Pivot {
                let mut first = self.first.subscribe();
                let first = first.wait_for(Option::is_some).await;
                spec.joins = *first.map_err(|e| io_error("wait for a container")(std::io::Error::other(e)))?;
            }
        }
        let spawner = Arc::clone(&self.runner.spawner);
        let begin = move |handles: StepHandles<'_>| spawner.start_attached(&spec, handles, io);
        let (step, held) = start(Arc::clone(&self.held), begin).await?;
        if is_first {
            self.first.send_replace(Some(step.pid()));
        }
        match accompany(step, signals).await? {
            StepOutcome::Exited { code, usage } => {
                let out_of_memory = code != 0 && held.1.as_ref().is_some_and(StepGroup::ran_out_of_memory);
                Ok(RunResult { code, usage, out_of_memory })
            }
            StepOutcome::Failed { message } => Err(ExecError::NotStarted(message)),
        }
    }

    /// The step that a program is.
    fn spec_of(
        &self,
        meta: &Meta,
        security: SecurityMode,
        extra_env: &[(String, String)],
    ) -> Result<StepSpec, ExecError> {
        let root = self.request.root;
        let dir = file::open_dir(root).map_err(io_error(format!("open the root file system {}", root.display())))?;
        let extra: Vec<_> = self.request.extra_env.iter().chain(extra_env).cloned().collect();
        let process = self.runner.process(&dir, meta, &extra, &self.request.extra_groups)?;
        let Process { args, env, cwd, identity, rlimits } = process;
        let insecure = security == SecurityMode::Insecure;
        Ok(StepSpec {
            id: format!("s{}", self.runner.next.fetch_add(1, Ordering::Relaxed)),
            args,
            env,
            cwd,
            uid: identity.uid,
            gid: identity.gid,
            groups: identity.groups,
            rlimits,
            insecure,
            emulation: self.runner.context.emulation(insecure),
            ..self.spec.clone()
        })
    }
}
