//! Steps that failed: what is kept of them, and going back in.
//!
//! What the step wrote is committed as a layer of its own, which no cache record names; collection treats it like any
//! other. [`KeptFailure`] refers to layers only, so it can be entered by another process, long after the build.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost::Message as _;
use rootless::step::StepMount;
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::exec_op::{Ready, run_error};
use super::tree::Tree;
use super::{SolveError, Solver, blocking};
use crate::base::{Digest, FaultKind, file};
use crate::cache::mounts::opened_id;
use crate::exec::run::{Attachment, RunResult};
use crate::llb::Vertex;
use crate::llb::op::{CUSTOM_NAME, ExecOp, Kind, MountType, Op, OpMetadata};
use crate::store::{LayerId, MountRequest};

/// Everything that is needed to enter the root of a failed step again. Values of secrets are not in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptFailure {
    /// Its name, as progress shows it.
    pub name: String,
    /// Its exit code.
    pub code: i32,
    /// What it wrote before it failed.
    pub written: LayerId,
    /// The operation, as protobuf in base64; the inputs of its mounts are indexes of `chains`.
    op: String,
    /// Layers, bottom first; the first chain is the root, with what the step wrote.
    chains: Vec<Vec<LayerId>>,
}

/// Who goes into a failed step, and what for.
pub struct Visit {
    /// The program and its arguments; empty for a shell.
    pub args: Vec<String>,
    /// Environment beyond the step's, as `K=V`.
    pub env: Vec<String>,
    /// As whom, if not as the step's user.
    pub user: Option<String>,
    /// A program that needs no libraries and is a shell when its first argument says so, for roots without one.
    pub busybox: Option<PathBuf>,
    /// Where it reads and writes.
    pub attachment: Attachment,
}

/// Where a shell of ours is, in roots that have none.
const OUR_SHELL: &str = "/.rbuild/busybox";

impl KeptFailure {
    fn exec(&self) -> Option<ExecOp> {
        ExecOp::decode(STANDARD.decode(&self.op).ok()?.as_slice()).ok()
    }

    /// Ids of the secrets and agents that the step had.
    #[must_use]
    pub fn secrets(&self) -> (Vec<String>, Vec<String>) {
        let Some(exec) = self.exec() else { return (Vec::new(), Vec::new()) };
        let mounted = exec.mounts.iter().filter_map(|m| Some(m.secret_opt.as_ref()?.id.clone()));
        let secrets = mounted.chain(exec.secretenv.iter().map(|s| s.id.clone())).collect();
        (secrets, exec.mounts.iter().filter_map(|m| Some(m.ssh_opt.as_ref()?.id.clone())).collect())
    }

    /// The program that failed, with its arguments.
    #[must_use]
    pub fn args(&self) -> Vec<String> {
        self.exec().and_then(|exec| exec.meta).map(|meta| meta.args).unwrap_or_default()
    }
}

impl Solver {
    /// Keeps what a failed step wrote. `None` if that is not possible: the failure is the news, not this.
    pub(super) async fn keep_failed(
        self: &Arc<Self>,
        vertex: &Arc<Vertex>,
        exec: &ExecOp,
        code: i32,
        ready: Ready,
    ) -> Option<KeptFailure> {
        let mut exec = exec.clone();
        let mut chains = vec![Vec::new()];
        for mount in &mut exec.mounts {
            if mount.dest == "/" {
                mount.input = 0;
            } else if let Some((chain, path)) = ready.source(&mount.dest) {
                mount.input = i64::try_from(chains.len()).ok()?;
                mount.selector = path.to_str()?.to_owned();
                chains.push(chain.clone());
            } else {
                // A cache mount that exists needs no seed, but is called by it.
                let id = opened_id(vertex, mount);
                if let (Some(id), Some(opt)) = (id, &mut mount.cache_opt) {
                    opt.id = id;
                }
                mount.input = -1;
            }
        }
        let name = vertex.name();
        let description = format!("failed: {name}");
        let (mounted, mut chain) = ready.into_written().ok()?;
        let written = blocking(move || mounted.commit(&description).map_err(|e| SolveError::internal(e.to_string())));
        let written = written.await.ok()?;
        chain.push(written.clone());
        chains[0] = chain;
        Some(KeptFailure { name, code, written, op: STANDARD.encode(exec.encode_to_vec()), chains })
    }

    /// Runs a program where a step failed: in its root, with its environment, working directory, user and mounts. What
    /// the program writes to the root is thrown away. Secrets that are not given are left out.
    ///
    /// # Errors
    /// If what is needed was collected meanwhile, or the program cannot be started.
    pub async fn visit(self: &Arc<Self>, failed: &KeptFailure, visit: Visit) -> Result<RunResult, SolveError> {
        let gone = || SolveError::internal(format!("what is kept of \"{}\" cannot be read", failed.name));
        let mut exec = failed.exec().ok_or_else(gone)?;
        let secrets = &self.env.secrets;
        exec.mounts.retain(|mount| match MountType::try_from(mount.mount_type) {
            Ok(MountType::Secret) => mount.secret_opt.as_ref().is_none_or(|s| secrets.values.contains_key(&s.id)),
            Ok(MountType::Ssh) => mount.ssh_opt.as_ref().is_none_or(|s| secrets.agents.contains_key(&s.id)),
            _ => true,
        });
        exec.secretenv.retain(|secret| secrets.values.contains_key(&secret.id));
        let meta = exec.meta.get_or_insert_default();
        for variable in visit.env {
            let name = variable.split('=').next().unwrap_or_default().to_owned();
            meta.env.retain(|e| e.split('=').next() != Some(&name));
            meta.env.push(variable);
        }
        if let Some(user) = visit.user {
            meta.user = user;
        }
        let meta_args = meta.args.clone();
        meta.args = visit.args;
        let vertex = Arc::new(stand_in(&failed.name, &exec));
        for id in failed.chains.iter().flatten() {
            if self.env.store.layer(id).is_err() {
                let message = format!("what is needed of \"{}\" was collected", failed.name);
                let hint = "build it again: the step fails again and is kept again".to_owned();
                return Err(SolveError::at(&vertex, FaultKind::Usage, message, Some(hint)));
            }
        }
        let root = failed.chains.first().map(Vec::as_slice).unwrap_or_default();
        let mut tools = Vec::new();
        if let Some(meta) = exec.meta.as_mut().filter(|meta| meta.args.is_empty()) {
            let shell = self.shell(&vertex, root, &meta_args).await?;
            meta.args = match (shell, visit.busybox) {
                (Some(shell), _) => shell,
                (None, Some(source)) => {
                    tools.push(StepMount::Bind { source, target: OUR_SHELL.into(), readonly: true });
                    vec![OUR_SHELL.into(), "sh".into()]
                }
                (None, None) => {
                    let hint = "name a program that the image has, or put a static busybox (Debian: busybox-static) \
                                where $PATH finds it";
                    let message = "there is no shell in the image, and no static busybox on this machine";
                    return Err(SolveError::at(&vertex, FaultKind::Usage, message, Some(hint.into())));
                }
            };
        }
        let runner = self.runner(&vertex)?;
        let trees: Vec<Tree> = failed.chains.iter().cloned().map(Tree::Layers).collect();
        let ready = self.ready(&vertex, &exec, &trees, &runner, tools).await?;
        let never = std::future::pending();
        let result = runner.run_attached(ready.request(false), &self.env.events, visit.attachment, never).await;
        result.map_err(|e| run_error(&vertex, &e))
    }

    /// A shell that the root has: a comfortable one, or the one the step used.
    async fn shell(
        self: &Arc<Self>,
        vertex: &Arc<Vertex>,
        root: &[LayerId],
        args: &[String],
    ) -> Result<Option<Vec<String>>, SolveError> {
        let mounted = self.mount(vertex, root, MountRequest::read_only()).await?;
        let own = args.first().filter(|_| args.get(1).is_some_and(|flag| flag.starts_with('-') && flag.ends_with('c')));
        let candidates = ["/bin/bash"].into_iter().chain(own.map(String::as_str)).chain(["/bin/sh", "/bin/ash"]);
        let dir = file::open_dir(mounted.root()).map_err(|e| SolveError::internal(e.to_string()))?;
        let found = candidates.filter(|path| path.starts_with('/')).find(|path| {
            let path = Path::new(path.trim_start_matches('/'));
            file::open_in_root(&dir, path, OFlags::PATH, Mode::empty()).is_ok()
        });
        Ok(found.map(|path| vec![path.to_owned()]))
    }
}

/// A vertex to report under: the one that failed is not in any graph here.
pub(super) fn stand_in(name: &str, exec: &ExecOp) -> Vertex {
    let mut metadata = OpMetadata::default();
    metadata.description.insert(CUSTOM_NAME.to_owned(), name.to_owned());
    let op = Op { kind: Some(Kind::Exec(exec.clone())), ..Op::default() };
    Vertex { digest: Digest::sha256(name), op, inputs: Vec::new(), metadata, location: None }
}
