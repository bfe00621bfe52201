//! Containers that are no steps (SPEC C3.16): results of graphs, mounted for programs that somebody starts and talks with. What they
//! write is thrown away, and they take no step's turn, since who talks with them may wait for steps.

use std::sync::{Arc, Mutex};

use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot, watch};

use super::exec_op::run_error;
use super::failed::stand_in;
use super::{SolveError, Solver, lock};
use crate::exec::run::{Attachment, ExecError, Program, RunResult};
use crate::llb::op::{ExecOp, HostIp, Meta, Mount, NetMode, Platform, SecretEnv, SecurityMode};
use crate::llb::{Graph, Vertex};

/// Programs on their way to a container.
const QUEUE: usize = 16;
/// How a program ends whose container ends, as a shell tells it.
const KILLED: i32 = 137;

/// A container to make.
#[derive(Debug, Default)]
pub struct ContainerRequest {
    /// For messages.
    pub name: String,
    /// What is mounted, `/` among them, and the graphs whose results that are; without one a bind mount begins empty. Inputs and
    /// outputs of the mounts themselves mean nothing.
    pub mounts: Vec<(Mount, Option<Arc<Graph>>)>,
    /// What its programs are for, if not this machine.
    pub platform: Option<Platform>,
    /// Its network.
    pub network: NetMode,
    /// Names beyond those of DNS.
    pub extra_hosts: Vec<HostIp>,
    /// Its host name; empty for that of steps.
    pub hostname: String,
}

/// A program to run in a container.
#[derive(Debug)]
pub struct ContainerProcess {
    /// What runs. Hosts and host name are the container's.
    pub meta: Meta,
    /// What it may do.
    pub security: SecurityMode,
    /// Secrets that it has as variables.
    pub secretenv: Vec<SecretEnv>,
    /// Who it is attached to.
    pub attachment: Attachment,
}

/// How a container ended, once it has.
type Over = Option<Result<(), SolveError>>;

/// Where it is told how a program ended.
type Ending = oneshot::Receiver<Result<RunResult, ExecError>>;

/// A container. It ends with its first program, when it is told to, and when nobody has it any more.
pub struct Container {
    solver: Arc<Solver>,
    vertex: Arc<Vertex>,
    programs: Mutex<Option<mpsc::Sender<Program>>>,
    over: watch::Receiver<Over>,
}

impl Solver {
    /// Makes a container.
    ///
    /// # Errors
    /// When a graph cannot be solved, or something not be mounted.
    pub async fn open_container(self: &Arc<Self>, request: ContainerRequest) -> Result<Container, SolveError> {
        let ContainerRequest { name, mounts, platform, network, extra_hosts, hostname } = request;
        let meta = Meta { cwd: "/".into(), extra_hosts, hostname, ..Meta::default() };
        let mut exec = ExecOp { meta: Some(meta), network: network as i32, ..ExecOp::default() };
        let mut trees = Vec::new();
        for (mut mount, graph) in mounts {
            (mount.input, mount.output) = (-1, -1);
            if let Some((graph, root)) = graph.as_ref().and_then(|graph| Some((graph, graph.root.as_ref()?))) {
                self.announce(graph, root);
                self.note_steps(graph);
                mount.input = i64::try_from(trees.len()).unwrap_or(-1);
                trees.push(self.edge(graph, root).await?);
            }
            exec.mounts.push(mount);
        }
        let mut vertex = stand_in(&name, &exec);
        vertex.op.platform = platform;
        let vertex = Arc::new(vertex);
        let runner = self.runner(&vertex)?;
        self.check_platform(&vertex, &runner).await?;
        let ready = self.ready(&vertex, &exec, &trees, &runner, Vec::new()).await?;
        let (programs, arriving) = mpsc::channel(QUEUE);
        let (ends, over) = watch::channel(None);
        let (solver, place) = (Arc::clone(self), Arc::clone(&vertex));
        // On a task of its own: it goes on while nobody waits for a program, and ends in order when it is let go.
        drop(tokio::spawn(async move {
            let result = tokio::select! {
                biased;
                () = solver.env.cancel.cancelled() => Err(SolveError::cancelled()),
                result = runner.run_container(ready.request(false), &solver.env.events, arriving) => {
                    result.map_err(|e| run_error(&place, &e))
                }
            };
            drop(ready);
            ends.send_replace(Some(result));
        }));
        Ok(Container { solver: Arc::clone(self), vertex, programs: Mutex::new(Some(programs)), over })
    }
}

impl Container {
    /// Has a program run, behind those that were started before: the first one of all is the container's. What comes back waits for its
    /// end; the program is killed if that is dropped, and when the container ends.
    ///
    /// How it ended is an error when it cannot be started, or the container not be made.
    pub async fn start(
        self: Arc<Self>,
        process: ContainerProcess,
    ) -> BoxFuture<'static, Result<RunResult, SolveError>> {
        let handed_over = self.hand_over(process).await;
        Box::pin(async move {
            let gone = || SolveError::at(&self.vertex, crate::base::FaultKind::Input, "the container has ended", None);
            let Some(end) = handed_over? else {
                self.wait().await?;
                return Err(gone());
            };
            match end.await {
                Ok(result) => result.map_err(|e| run_error(&self.vertex, &e)),
                Err(_) => {
                    self.wait().await?;
                    Ok(RunResult { code: KILLED, usage: Default::default(), out_of_memory: false })
                }
            }
        })
    }

    /// Puts a program into the queue; where its end is told, unless the container has ended.
    async fn hand_over(&self, process: ContainerProcess) -> Result<Option<Ending>, SolveError> {
        let ContainerProcess { meta, security, secretenv, attachment } = process;
        let extra_env = self.solver.secret_env(&self.vertex, &secretenv)?;
        let Some(programs) = lock(&self.programs).clone() else { return Ok(None) };
        let (ended, end) = oneshot::channel();
        let program = Program { meta, security, extra_env, attachment, ended };
        Ok(programs.send(program).await.is_ok().then_some(end))
    }

    /// Ends it with everything that runs in it, and waits until it is gone.
    pub async fn end(&self) {
        drop(lock(&self.programs).take());
        // Whoever waits for a program is told.
        let _ = self.wait().await;
    }

    async fn wait(&self) -> Result<(), SolveError> {
        let mut over = self.over.clone();
        match over.wait_for(Option::is_some).await {
            Ok(end) => end.clone().unwrap_or(Ok(())),
            Err(_) => Err(SolveError::internal("a container ended unexpectedly")),
        }
    }
}
