//! What the target takes from outside (SPEC A10.28).

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::super::error::FrontendError;
use super::super::mount::MountKind;
use super::super::options::FrontendInput;
use super::super::pipeline::{Converted, Scope, Source};
use super::super::uses::{Argument, Mounted};
use super::table::table;
use super::{Answer, base64, location, put};
use crate::dockerfile::Stages;
use crate::llb::FrontendHost;

/// Lists the arguments, secrets, agents and caches of the target and of everything that it needs.
pub(super) async fn outline(input: &FrontendInput<'_>, host: &dyn FrontendHost) -> Result<Answer, FrontendError> {
    let source = Source::read(input)?;
    let mut checks = source.checks()?;
    let converted = source.convert(input, Scope::Target, host, &mut checks).await?;
    let stages = Stages::new(&source.file);
    let target = stages.all().get(converted.plan.target);
    let name = target.and_then(|stage| stage.name.as_deref()).unwrap_or_default();
    let description = target.and_then(|stage| stage.from.description(name)).unwrap_or_default();
    let found = Found::of(&converted);

    let mut json = json!({});
    put(&mut json, "name", name);
    put(&mut json, "description", description);
    put(&mut json, "args", found.arguments.iter().map(argument).collect::<Vec<_>>());
    put(&mut json, "secrets", found.of_kind(MountKind::Secret).map(mounted).collect::<Vec<_>>());
    put(&mut json, "ssh", found.of_kind(MountKind::Ssh).map(mounted).collect::<Vec<_>>());
    let cache = |cache: &Mounted| json!({"ID": cache.id, "location": location(cache.lines)});
    put(&mut json, "cache", found.of_kind(MountKind::Cache).map(cache).collect::<Vec<_>>());
    put(&mut json, "sources", vec![base64(input.source)]);
    Ok(Answer { json, text: found.text(name, description), status: 0 })
}

fn argument(argument: &Argument) -> Value {
    let mut out = json!({"name": argument.name});
    put(&mut out, "description", argument.description.as_deref());
    put(&mut out, "value", argument.value.as_deref());
    put(&mut out, "location", location(argument.lines));
    out
}

fn mounted(mounted: &Mounted) -> Value {
    let mut out = json!({"name": mounted.id});
    put(&mut out, "required", mounted.required);
    put(&mut out, "location", location(mounted.lines));
    out
}

/// The declarations that one stage sees, in order.
struct Scopes<'a> {
    own: &'a [Argument],
    globals: &'a [Argument],
}

impl<'a> Scopes<'a> {
    /// The arguments that the stage's own need, directly or not, and those of the global scope that are named. A name
    /// is declared as often as one likes: a default value means the declaration before it, what is told is the last.
    fn reached(&self, names: impl Iterator<Item = &'a str>) -> Vec<&'a Argument> {
        let last = |list: &'a [Argument], end: usize, name: &str| list[..end].iter().rposition(|a| a.name == name);
        let (all, end) = (self.own.len(), self.globals.len());
        let mut open: Vec<(bool, usize)> = (0..all).map(|at| (true, at)).collect();
        open.extend(names.filter_map(|name| last(self.globals, end, name)).map(|at| (false, at)));
        let mut visited = BTreeSet::new();
        while let Some((own, at)) = open.pop() {
            if !visited.insert((own, at)) {
                continue;
            }
            let argument = if own { &self.own[at] } else { &self.globals[at] };
            for name in &argument.needs {
                let before = if own { last(self.own, at, name).map(|at| (true, at)) } else { None };
                let outer = if own { end } else { at };
                open.extend(before.or_else(|| last(self.globals, outer, name).map(|at| (false, at))));
            }
        }
        let told = visited.into_iter().filter_map(|(own, at)| {
            let list = if own { self.own } else { self.globals };
            last(list, list.len(), &list[at].name).map(|last| &list[last])
        });
        told.collect()
    }
}

/// Everything once, in the order of lines.
#[derive(Default)]
struct Found {
    arguments: Vec<Argument>,
    mounts: Vec<Mounted>,
}

impl Found {
    fn of(converted: &Converted) -> Self {
        let mut found = Self::default();
        let mut seen = BTreeSet::new();
        let globals = &converted.globals.declared;
        for id in converted.plan.needed_by_target() {
            let Some(Some(state)) = converted.states.get(id) else { continue };
            let stage = &converted.plan.stages[id];
            let scopes = Scopes { own: &state.uses.arguments, globals };
            let names = stage.globals.iter().chain(&state.uses.inherited);
            for argument in scopes.reached(names.map(String::as_str)) {
                if seen.insert(argument.name.clone()) {
                    found.arguments.push(argument.clone());
                }
            }
            for mount in &state.uses.mounts {
                let known = found.mounts.iter_mut().find(|known| known.kind == mount.kind && known.id == mount.id);
                match known {
                    Some(known) => known.required |= mount.required,
                    None => found.mounts.push(mount.clone()),
                }
            }
        }
        found.arguments.sort_by_key(|argument| argument.lines);
        found.mounts.sort_by_key(|mount| mount.lines);
        found
    }

    fn of_kind(&self, kind: MountKind) -> impl Iterator<Item = &Mounted> {
        self.mounts.iter().filter(move |mount| mount.kind == kind)
    }

    fn text(&self, name: &str, description: &str) -> String {
        let mut parts = Vec::new();
        if !name.is_empty() || !description.is_empty() {
            let mut rows = vec![["TARGET:", if name.is_empty() { "(default)" } else { name }]];
            if !description.is_empty() {
                rows.push(["DESCRIPTION:", description]);
            }
            parts.push(table(&rows));
        }
        if !self.arguments.is_empty() {
            let mut rows = vec![["BUILD ARG", "VALUE", "DESCRIPTION"]];
            rows.extend(self.arguments.iter().map(|Argument { name, value, description, .. }| {
                [name.as_str(), value.as_deref().unwrap_or_default(), description.as_deref().unwrap_or_default()]
            }));
            parts.push(table(&rows));
        }
        for (kind, title) in [(MountKind::Secret, "SECRET"), (MountKind::Ssh, "SSH")] {
            let mut rows = vec![[title, "REQUIRED"]];
            rows.extend(self.of_kind(kind).map(|m| [m.id.as_str(), if m.required { "true" } else { "" }]));
            if rows.len() > 1 {
                parts.push(table(&rows));
            }
        }
        parts.join("\n")
    }
}
