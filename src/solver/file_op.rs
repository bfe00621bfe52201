//! Runs file operations: actions over mounted trees, one layer per output.

use std::collections::HashMap;
use std::sync::Arc;

use super::tree::{self, Opened, Tree};
use super::{SolveError, Solver, blocking};
use crate::base::events::{Event, Warning};
use crate::exec::file;
use crate::llb::Vertex;
use crate::llb::op::{ChownOpt, FileAction, FileActionKind, FileOp, UserKind};
use crate::store::{LayerId, MountRequest, Mounted};

/// What an action's result is while the operation runs.
enum State {
    /// Being written.
    Open(Vec<LayerId>, Arc<Mounted>),
    /// Ended as a layer.
    Committed(Vec<LayerId>),
}

impl Solver {
    pub(super) async fn file_op(
        self: &Arc<Self>,
        vertex: &Arc<Vertex>,
        op: &FileOp,
        trees: &[Tree],
    ) -> Result<Vec<Vec<LayerId>>, SolveError> {
        if let Some(results) = self.direct_op(vertex, op, trees).await? {
            return Ok(results);
        }
        let bad = || SolveError::internal("a file operation refers to an action that does not come before it");
        let inputs = i64::try_from(trees.len()).unwrap_or(i64::MAX);
        let mut states: HashMap<i64, State> = HashMap::new();
        let mut outputs: Vec<(i64, i64)> = Vec::new();
        // Who else uses an intermediate result decides whether it may be written on in place.
        let users = |n: i64| op.actions.iter().flat_map(|a| [a.input, a.secondary_input]).filter(|&i| i == n).count();
        for (at, action) in op.actions.iter().enumerate() {
            let number = inputs + i64::try_from(at).unwrap_or(0);
            let (base, mounted) = match action.input {
                n if n < inputs => {
                    let base = match usize::try_from(n).ok().and_then(|n| trees.get(n)) {
                        Some(tree) => self.layers(vertex, tree).await?,
                        None => Vec::new(),
                    };
                    let last = users(n) == 1 && self.is_last_reader(vertex, n);
                    let request = MountRequest::writable(Vec::new()).as_last(last);
                    let mounted = self.mount(vertex, &base, request).await?;
                    (base, Arc::new(mounted))
                }
                n => {
                    let is_output = outputs.iter().any(|&(m, _)| m == n);
                    match states.remove(&n).ok_or_else(bad)? {
                        State::Open(base, mounted) if users(n) == 1 && !is_output => (base, mounted),
                        state => {
                            let chain = self.commit(vertex, state).await?;
                            states.insert(n, State::Committed(chain.clone()));
                            let mounted = self.mount(vertex, &chain, MountRequest::writable(Vec::new())).await?;
                            (chain, Arc::new(mounted))
                        }
                    }
                }
            };
            self.act(vertex, action, trees, &mut states, &base, &mounted).await?;
            states.insert(number, State::Open(base, mounted));
            if action.output >= 0 {
                outputs.push((number, action.output));
            }
        }
        let mut results = vec![Vec::new(); outputs.len()];
        for (number, output) in outputs {
            let state = states.remove(&number).ok_or_else(bad)?;
            let chain = self.commit(vertex, state).await?;
            states.insert(number, State::Committed(chain.clone()));
            let slot = usize::try_from(output).ok().and_then(|o| results.get_mut(o));
            *slot.ok_or_else(|| SolveError::internal("the outputs of a file operation are not numbered from 0"))? =
                chain;
        }
        Ok(results)
    }

    async fn commit(&self, vertex: &Arc<Vertex>, state: State) -> Result<Vec<LayerId>, SolveError> {
        let (mut chain, mounted) = match state {
            State::Committed(chain) => return Ok(chain),
            State::Open(chain, mounted) => (chain, mounted),
        };
        let mounted = Arc::try_unwrap(mounted)
            .map_err(|_| SolveError::internal("a tree is committed while it is still written to"))?;
        let place = Arc::clone(vertex);
        let layer = blocking(move || mounted.commit(&place.name()).map_err(|e| tree::store_error(&place, &e))).await?;
        chain.push(layer);
        Ok(chain)
    }

    async fn act(
        self: &Arc<Self>,
        vertex: &Arc<Vertex>,
        action: &FileAction,
        trees: &[Tree],
        states: &mut HashMap<i64, State>,
        base: &[LayerId],
        target: &Arc<Mounted>,
    ) -> Result<(), SolveError> {
        let Some(kind) = action.action.clone() else {
            return Err(SolveError::internal("a file action without a kind"));
        };
        let owner = match owner_of(&kind) {
            Some(owner) => match (self.owner(vertex, owner, action, trees, target).await, &kind) {
                (Ok(owner), _) => Some(owner),
                // Nobody has to own a directory that is there: `USER x` and `WORKDIR` of images that make x later.
                (Err(_), FileActionKind::Mkdir(mkdir)) if file::is_dir(target.root(), &mkdir.path) => return Ok(()),
                (Err(error), _) => return Err(error),
            },
            None => None,
        };
        let source = match &kind {
            FileActionKind::Copy(_) => Some(self.copy_source(vertex, action, trees, states, base).await?),
            _ => None,
        };
        let (target, place, events) = (Arc::clone(target), Arc::clone(vertex), self.env.events.clone());
        blocking(move || {
            let root = target.root();
            let done = match &kind {
                FileActionKind::Copy(copy) => match &source {
                    Some(opened) => file::copy(&opened.source, root, copy, owner).map(|stats| {
                        for note in stats.notes {
                            events.send(warning(&place, note));
                        }
                    }),
                    None => return Err(SolveError::internal("a copy without a source")),
                },
                FileActionKind::Mkfile(mkfile) => file::mkfile(root, mkfile, owner),
                FileActionKind::Mkdir(mkdir) => file::mkdir(root, mkdir, owner),
                FileActionKind::Rm(rm) => file::rm(root, rm),
                FileActionKind::Symlink(symlink) => file::symlink(root, symlink, owner),
            };
            done.map_err(|e| tree::file_error(&place, &e, source.as_ref().and_then(Opened::local)))
        })
        .await
    }

    async fn copy_source(
        self: &Arc<Self>,
        vertex: &Arc<Vertex>,
        action: &FileAction,
        trees: &[Tree],
        states: &mut HashMap<i64, State>,
        base: &[LayerId],
    ) -> Result<Opened, SolveError> {
        let inputs = i64::try_from(trees.len()).unwrap_or(i64::MAX);
        match action.secondary_input {
            n if n < 0 => self.open(vertex, &Tree::Layers(Vec::new())).await,
            n if n < inputs => {
                let tree = usize::try_from(n).ok().and_then(|n| trees.get(n));
                self.open(vertex, tree.ok_or_else(|| SolveError::internal("a copy from an input that is not there"))?)
                    .await
            }
            n if n == action.input => self.open(vertex, &Tree::Layers(base.to_vec())).await,
            n => {
                let state = states.remove(&n);
                let state =
                    state.ok_or_else(|| SolveError::internal("a copy from an action that does not come before it"))?;
                let chain = self.commit(vertex, state).await?;
                states.insert(n, State::Committed(chain.clone()));
                self.open(vertex, &Tree::Layers(chain)).await
            }
        }
    }

    /// Numbers for an owner; names are looked up in the tree the action names (SPEC A6.04).
    async fn owner(
        self: &Arc<Self>,
        vertex: &Arc<Vertex>,
        owner: &ChownOpt,
        action: &FileAction,
        trees: &[Tree],
        target: &Arc<Mounted>,
    ) -> Result<(u32, u32), SolveError> {
        let named = [&owner.user, &owner.group].into_iter().flatten().find_map(|u| match &u.user {
            Some(UserKind::ByName(name)) => Some(name.input),
            _ => None,
        });
        let opened = match named.and_then(|n| usize::try_from(n).ok()).and_then(|n| trees.get(n)) {
            Some(tree) if named != Some(action.input) => Some(self.open(vertex, tree).await?),
            _ => None,
        };
        let (owner, target, place) = (owner.clone(), Arc::clone(target), Arc::clone(vertex));
        blocking(move || {
            let root = match &opened {
                Some(opened) => Some(opened.source.root.as_path()),
                None if named.is_some_and(|n| n >= 0) => Some(target.root()),
                None => None,
            };
            file::resolve_owner(root, &owner).map_err(|e| tree::file_error(&place, &e, None))
        })
        .await
    }
}

/// What a copy could not keep, as a warning of its vertex.
fn warning(vertex: &Vertex, short: String) -> Event {
    Event::Warning(Warning {
        vertex: Some(vertex.digest.clone()),
        short,
        detail: Vec::new(),
        url: None,
        location: None,
    })
}

pub(super) fn owner_of(kind: &FileActionKind) -> Option<&ChownOpt> {
    match kind {
        FileActionKind::Copy(copy) => copy.owner.as_ref(),
        FileActionKind::Mkfile(mkfile) => mkfile.owner.as_ref(),
        FileActionKind::Mkdir(mkdir) => mkdir.owner.as_ref(),
        FileActionKind::Symlink(symlink) => symlink.owner.as_ref(),
        FileActionKind::Rm(_) => None,
    }
}
