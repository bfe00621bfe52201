//! Says of every step that was not found which of its inputs is the first that differs from last time.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::tree::Tree;
use super::{SolveError, Solver, blocking, lock};
use crate::base::Digest;
use crate::cache::explain::{Explained, Memory, Reason, Trace, TraceEntry, TraceInput};
use crate::cache::key::{self, Dependency, Part};
use crate::llb::op::{Kind, Mount, MountType, NetMode};
use crate::llb::{Graph, Vertex};

/// Entries of one input that are remembered one by one.
const MAX_ENTRIES: usize = 4096;
/// Entries of all inputs together that are remembered.
const MAX_LISTED: usize = 20_000;
/// Steps that are remembered of one project.
const MAX_TRACES: usize = 512;

/// What this build learnt for the next one.
#[derive(Default)]
pub(super) struct Learnt {
    /// What earlier builds left; read when it is first needed.
    before: Option<Arc<Memory>>,
    traces: Vec<Trace>,
    said: Vec<Explained>,
}

impl Solver {
    /// What earlier builds of the same context left.
    async fn memory(&self) -> Arc<Memory> {
        if let Some(memory) = lock(&self.learnt).before.clone() {
            return memory;
        }
        let (store, project) = (self.env.store.clone(), self.env.project.clone());
        let read = blocking(move || Ok(store.memory(&project).and_then(|bytes| serde_json::from_slice(&bytes).ok())));
        let memory: Arc<Memory> = Arc::new(read.await.ok().flatten().unwrap_or_default());
        lock(&self.learnt).before.get_or_insert(memory).clone()
    }

    /// Says why a step was not found, and remembers what it depends on. Trouble here is no trouble of the build.
    pub(super) async fn explain(
        self: &Arc<Self>,
        graph: &Arc<Graph>,
        vertex: &Arc<Vertex>,
        parts: &[Part],
        trees: &[Tree],
    ) {
        let Some(mut now) = trace(graph, vertex, parts) else { return };
        let dependencies = key::dependencies(vertex);
        for (at, tree) in trees.iter().enumerate() {
            let selections = match (&dependencies[at], tree) {
                (Dependency::Content(selections), _) => selections.clone(),
                (Dependency::Definition, Tree::Local(_)) => vec![super::keys::whole()],
                (Dependency::Definition, Tree::Layers(_)) => continue,
            };
            if let Ok(entries) = self.entries(vertex, tree, selections).await {
                now.inputs[at].entries = entries;
            }
        }
        let reason = if vertex.metadata.ignore_cache {
            Reason::NoCache
        } else {
            let memory = self.memory().await;
            let found = memory.find(&now.stage, now.number, &now.text);
            found.map_or(Reason::New, |before| before.compare(&now))
        };
        if !matches!(reason, Reason::New | Reason::NoCache) {
            self.env.events.missed(&vertex.digest, reason.to_string());
        }
        let mut learnt = lock(&self.learnt);
        learnt.traces.push(now);
        learnt.said.push(Explained { step: vertex.name(), cached: false, reason: Some(reason) });
    }

    /// What is selected from a tree; `None` if it is too much to remember.
    async fn entries(
        self: &Arc<Self>,
        vertex: &Arc<Vertex>,
        tree: &Tree,
        selections: Vec<key::Selection>,
    ) -> Result<Option<Vec<TraceEntry>>, SolveError> {
        let opened = self.open(vertex, tree).await?;
        blocking(move || {
            let mut all = Vec::new();
            for selection in &selections {
                let Ok(Some(entries)) = opened.entries(selection, MAX_ENTRIES) else { return Ok(None) };
                all.extend(
                    entries
                        .into_iter()
                        .map(|e| TraceEntry(e.path.trim_start_matches('/').to_owned(), e.mode, e.owner, e.hash)),
                );
                if all.len() > MAX_ENTRIES {
                    return Ok(None);
                }
            }
            all.sort();
            all.dedup();
            Ok(Some(all))
        })
        .await
    }

    /// Keeps what was learnt for the next build of this context. Losing it costs explanations only.
    pub async fn save_explanations(self: &Arc<Self>, graphs: &[Arc<Graph>]) {
        let before = self.memory().await;
        let (mut traces, mut said) = {
            let learnt = lock(&self.learnt);
            (learnt.traces.clone(), learnt.said.clone())
        };
        let vertices = graphs.iter().flat_map(|graph| {
            let order = graph.root.as_ref().map(|root| graph.in_order(root)).unwrap_or_default();
            order.into_iter().map(move |vertex| (graph, vertex))
        });
        for (graph, vertex) in vertices {
            let known = lock(&self.keyed).get(&vertex.digest).and_then(|keyed| keyed.peek().cloned());
            let Some(Ok(keyed)) = known else { continue };
            let Some(hit) = keyed.hit.as_ref().filter(|hit| !hit.source) else { continue };
            if said.iter().any(|known: &Explained| known.step == vertex.name()) {
                continue;
            }
            said.push(Explained { step: vertex.name(), cached: true, reason: None });
            let parts = if hit.parts.is_empty() { &keyed.parts } else { &hit.parts };
            traces.extend(trace(graph, &vertex, parts));
        }
        // Steps of other targets and older texts stay, as far as there is room.
        let is_new = |old: &&Trace| !traces.iter().any(|t| t.stage == old.stage && t.text == old.text);
        let kept: Vec<Trace> = before.traces.iter().filter(is_new).cloned().collect();
        traces.extend(kept);
        traces.truncate(MAX_TRACES);
        // A step that goes back and forth between two states is explained both times.
        let mut listings: Vec<(Digest, Vec<TraceEntry>)> = Vec::new();
        let mut room = MAX_LISTED;
        let new = traces.iter().flat_map(|t| &t.inputs).filter_map(|i| Some((&i.digest, i.entries.as_ref()?)));
        for (digest, entries) in new.chain(before.listings.iter().map(|(digest, entries)| (digest, entries))) {
            if entries.len() > room || listings.iter().any(|(known, _)| known == digest) {
                continue;
            }
            room -= entries.len();
            listings.push((digest.clone(), entries.clone()));
        }
        for input in traces.iter_mut().flat_map(|t| &mut t.inputs) {
            input.entries = None;
        }
        let memory = Memory { traces, listings, last: said };
        if memory == *before {
            return;
        }
        let (store, project) = (self.env.store.clone(), self.env.project.clone());
        let _ = blocking(move || {
            let bytes = serde_json::to_vec(&memory).map_err(|e| SolveError::internal(e.to_string()))?;
            store.set_memory(&project, &bytes).map_err(|e| SolveError::internal(e.to_string()))
        })
        .await;
    }
}

/// What went into a vertex's key; `None` for what is no step.
fn trace(graph: &Graph, vertex: &Vertex, parts: &[Part]) -> Option<Trace> {
    if !matches!(vertex.op.kind, Some(Kind::Exec(_) | Kind::File(_) | Kind::Merge(_) | Kind::Diff(_))) {
        return None;
    }
    let name = vertex.name();
    let (stage, number, text) = split(&name);
    let operation = key::operation(vertex);
    let inputs = vertex
        .inputs
        .iter()
        .zip(parts)
        .map(|(edge, part)| TraceInput {
            what: graph.vertices.get(&edge.vertex).map_or_else(String::new, |input| describe(input)),
            digest: match part {
                Part::Key(key, _) => key.0.clone(),
                Part::Content(digest) => digest.clone(),
            },
            entries: None,
        })
        .collect();
    Some(Trace {
        stage: stage.to_owned(),
        number,
        text: text.to_owned(),
        key: key::combine(&operation, parts).0,
        facts: facts(vertex, text),
        inputs,
    })
}

/// `[build 2/3] COPY a /b` is step 2 of the stage `build`.
fn split(name: &str) -> (&str, u32, &str) {
    let parse = || {
        let (head, text) = name.strip_prefix('[')?.split_once("] ")?;
        let (stage, count) = head.rsplit_once(' ').unwrap_or(("", head));
        Some((stage, count.split_once('/')?.0.trim().parse().ok()?, text))
    };
    parse().unwrap_or(("", 0, name))
}

fn describe(input: &Vertex) -> String {
    let name = input.name();
    match &input.op.kind {
        Some(Kind::Source(source)) => match source.identifier.split_once("://") {
            Some(("local", what)) => format!("context: {what}"),
            Some((_, what)) => format!("base image: {}", what.split('@').next().unwrap_or(what)),
            None => name,
        },
        _ => {
            let text = split(&name).2.to_owned();
            format!("step before: {text}")
        }
    }
}

/// A hash where the value is not for reading.
fn hidden(value: &str) -> String {
    Digest::sha256(value).short().to_owned()
}

fn facts(vertex: &Vertex, text: &str) -> BTreeMap<String, String> {
    let mut facts = BTreeMap::new();
    let mut put = |name: String, value: String| drop(facts.insert(name, value));
    match &vertex.op.kind {
        Some(Kind::Exec(exec)) => {
            let meta = exec.meta.clone().unwrap_or_default();
            put("command".into(), meta.args.last().cloned().unwrap_or_default());
            put("shell".into(), meta.args[..meta.args.len().saturating_sub(1)].join(" "));
            for variable in &meta.env {
                let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
                put(format!("variable {name}"), hidden(value));
            }
            put("directory".into(), meta.cwd.clone());
            put("user".into(), meta.user.clone());
            put("hostname".into(), meta.hostname.clone());
            for host in &meta.extra_hosts {
                put(format!("host {}", host.host), String::new());
            }
            for limit in &meta.ulimit {
                put(format!("limit {}", limit.name), format!("{}:{}", limit.soft, limit.hard));
            }
            let network = NetMode::try_from(exec.network).unwrap_or(NetMode::Unset);
            put("network".into(), format!("{network:?}").to_lowercase());
            put("security".into(), exec.security.to_string());
            for secret in &exec.secretenv {
                put(format!("secret {}", secret.id), format!("variable {}", secret.name));
            }
            for mount in exec.mounts.iter().filter(|m| m.dest != "/") {
                put(format!("mount {}", mount.dest), describe_mount(mount));
            }
        }
        // The text of the instruction has all of its options.
        _ => put("instruction".into(), text.to_owned()),
    }
    if let Some(platform) = &vertex.op.platform {
        put("platform".into(), format!("{}/{}{}", platform.os, platform.architecture, platform.variant));
    }
    facts
}

fn describe_mount(mount: &Mount) -> String {
    let kind = MountType::try_from(mount.mount_type).unwrap_or(MountType::Bind);
    let mut text = format!("{kind:?}").to_lowercase();
    if mount.readonly {
        text.push_str(" ro");
    }
    // The path of a bind mount is known by its content; where a cache mount lives does not matter.
    if let Some(tmpfs) = &mount.tmpfs_opt {
        text.push_str(&format!(" size={}", tmpfs.size));
    }
    if let Some(secret) = &mount.secret_opt {
        text.push_str(&format!(" id={} mode={:o} {}:{}", secret.id, secret.mode, secret.uid, secret.gid));
    }
    if let Some(ssh) = &mount.ssh_opt {
        text.push_str(&format!(" id={} mode={:o}", ssh.id, ssh.mode));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_steps() {
        assert_eq!(split("[build 2/3] COPY a /b"), ("build", 2, "COPY a /b"));
        assert_eq!(split("[2/3] RUN x"), ("", 2, "RUN x"));
        assert_eq!(split("[linux/arm64 s 10/12] RUN [ x ] y"), ("linux/arm64 s", 10, "RUN [ x ] y"));
        assert_eq!(split("[auth] token"), ("", 0, "[auth] token"));
    }
}
