//! Definition keys and content keys.
//!
//! A vertex's key is a digest over its operation, freed from what must not matter, and over one part per dependency.
//! A dependency's part is the key of the input (definition) or the digest of what the operation selects from the
//! input's tree (content), as SPEC C4.03–C4.05 say.

use sha2::{Digest as _, Sha256};

use crate::base::{CacheKey, Digest};
use crate::llb::Vertex;
use crate::llb::op::{ExecOp, FileActionKind, FileOp, Kind, MountType};

/// Changes whenever the way keys are made changes, so that old records become misses.
pub const SALT: &str = "rbuild.v1";

/// What of an input is part of the key.
#[derive(Debug, Clone, PartialEq)]
pub enum Dependency {
    /// The input's own key.
    Definition,
    /// The digest of these selections of the input's tree.
    Content(Vec<Selection>),
}

/// A part of a tree whose content an operation depends on.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Selection {
    /// Path or pattern.
    pub path: String,
    /// `path` is a pattern.
    pub wildcard: bool,
    /// A pattern without matches is fine.
    pub allow_empty: bool,
    /// Follow `path` if it is itself a symlink.
    pub follow: bool,
    /// Only these.
    pub include: Vec<String>,
    /// Not these.
    pub exclude: Vec<String>,
    /// Patterns that must match.
    pub required: Vec<String>,
}

/// One dependency's contribution to a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Key of the input and which of its outputs.
    Key(CacheKey, usize),
    /// Content of the input.
    Content(Digest),
}

/// How each input of `vertex` takes part in its key, in input order.
#[must_use]
pub fn dependencies(vertex: &Vertex) -> Vec<Dependency> {
    let mut deps = vec![Dependency::Definition; vertex.inputs.len()];
    match &vertex.op.kind {
        Some(Kind::File(file)) => file_dependencies(file, &mut deps),
        Some(Kind::Exec(exec)) => exec_dependencies(exec, &mut deps),
        _ => {}
    }
    deps
}

fn file_dependencies(file: &FileOp, deps: &mut [Dependency]) {
    let as_input = |index: i64| usize::try_from(index).ok().filter(|&i| i < deps.len());
    // A tree that is built upon is part of the result as a whole; so is one whose passwd file is read.
    let mut whole: Vec<usize> = file.actions.iter().filter_map(|a| as_input(a.input)).collect();
    whole.extend(
        file.actions
            .iter()
            .filter(|a| !matches!(a.action, Some(FileActionKind::Copy(_))))
            .filter_map(|a| as_input(a.secondary_input)),
    );
    let mut found: Vec<(usize, Selection)> = Vec::new();
    for action in &file.actions {
        let Some(FileActionKind::Copy(copy)) = &action.action else { continue };
        let Some(input) = as_input(action.secondary_input).filter(|i| !whole.contains(i)) else { continue };
        let selection = Selection {
            path: copy.src.clone(),
            wildcard: copy.allow_wildcard,
            allow_empty: copy.allow_empty_wildcard,
            follow: copy.follow_symlink,
            include: copy.include_patterns.clone(),
            exclude: copy.exclude_patterns.clone(),
            required: copy.required_paths.clone(),
        };
        found.push((input, selection));
    }
    for (input, selection) in found {
        match &mut deps[input] {
            Dependency::Content(selections) => selections.push(selection),
            dep => *dep = Dependency::Content(vec![selection]),
        }
    }
}

fn exec_dependencies(exec: &ExecOp, deps: &mut [Dependency]) {
    // An input mounted twice is hashed only if every mount of it may be (C4.04).
    for (input, dep) in deps.iter_mut().enumerate() {
        let mounts = exec.mounts.iter().filter(|m| usize::try_from(m.input) == Ok(input));
        let mut selections = Vec::new();
        let mut all = true;
        for mount in mounts {
            let bind = mount.mount_type == MountType::Bind as i32 || mount.mount_type == MountType::Cache as i32;
            let safe = mount.output < 0 || mount.readonly || matches!(mount.selector.as_str(), "" | "/");
            let hashed = bind && mount.dest != "/" && safe && mount.content_cache != 2;
            all &= hashed;
            selections.push(Selection { path: mount.selector.clone(), follow: true, ..Selection::default() });
        }
        if all && !selections.is_empty() {
            *dep = Dependency::Content(selections);
        }
    }
}

/// The digest of the operation itself, without what must not matter: host addresses, proxies, control groups, names of cache
/// mounts, paths whose content is hashed instead (C4.03, C4.05).
#[must_use]
pub fn operation(vertex: &Vertex) -> Digest {
    use prost::Message as _;
    let mut op = vertex.op.clone();
    let deps = dependencies(vertex);
    let hashed =
        |i: i64| usize::try_from(i).ok().and_then(|i| deps.get(i)).is_some_and(|d| *d != Dependency::Definition);
    op.inputs.clear();
    op.constraints = None;
    match &mut op.kind {
        Some(Kind::Exec(exec)) => {
            if let Some(meta) = &mut exec.meta {
                meta.proxy_env = None;
                meta.cgroup_parent.clear();
                meta.extra_hosts.iter_mut().for_each(|h| h.ip.clear());
            }
            for mount in &mut exec.mounts {
                if let Some(cache) = &mut mount.cache_opt {
                    cache.id.clear();
                    cache.sharing = 0;
                }
                if hashed(mount.input) {
                    mount.selector.clear();
                }
            }
        }
        Some(Kind::File(file)) => {
            for action in &mut file.actions {
                let hashed = hashed(action.secondary_input);
                if let Some(FileActionKind::Copy(copy)) = &mut action.action
                    && hashed
                {
                    // The name a single file arrives under is part of the result; where it came from is not.
                    copy.src = copy.src.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_owned();
                }
            }
        }
        _ => {}
    }
    Digest::sha256(op.encode_to_vec())
}

/// Combines an operation with its dependencies' parts.
#[must_use]
pub fn combine(operation: &Digest, parts: &[Part]) -> CacheKey {
    let mut hasher = Sha256::new();
    hasher.update(format!("{SALT}\nop {operation}\n"));
    for part in parts {
        hasher.update(match part {
            Part::Key(key, output) => format!("key {key} {output}\n"),
            Part::Content(digest) => format!("content {digest}\n"),
        });
    }
    CacheKey(Digest::from_sha256(&hasher.finalize()))
}

/// A key for something outside the graph, e.g. the layers of an image.
#[must_use]
pub fn leaf(kind: &str, identity: &str) -> CacheKey {
    CacheKey(Digest::sha256(format!("{SALT}\n{kind}\n{identity}")))
}

/// What stands for an operation in the records of caches on other machines.
#[must_use]
pub fn record(operation: &Digest) -> Digest {
    Digest::sha256(format!("{SALT}\nrecord {operation}"))
}

/// What stands there for content that was selected from an input.
#[must_use]
pub fn content_record(content: &Digest) -> Digest {
    Digest::sha256(format!("{SALT}\ncontent {content}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llb::op::{ExecOp, FileAction, FileActionCopy, HostIp, Meta, Mount, Op, OpMetadata};
    use crate::llb::{Builder, Edge};

    fn vertex(kind: Kind, inputs: usize) -> Vertex {
        let edges: Vec<Edge> = (0..inputs).map(|i| Edge { vertex: Digest::sha256(i.to_string()), index: 0 }).collect();
        let op = Op { inputs: edges.iter().map(Builder::input).collect(), kind: Some(kind), ..Op::default() };
        Vertex { digest: Digest::sha256("v"), op, inputs: edges, metadata: OpMetadata::default(), location: None }
    }

    fn copy(src: &str) -> Vertex {
        let copy =
            FileActionCopy { src: src.into(), dest: "/d".into(), mode: -1, timestamp: -1, ..FileActionCopy::default() };
        let action = FileAction { input: 0, secondary_input: 1, output: 0, action: Some(FileActionKind::Copy(copy)) };
        vertex(Kind::File(FileOp { actions: vec![action] }), 2)
    }

    fn exec(change: impl Fn(&mut ExecOp)) -> Vertex {
        let root = Mount { input: 0, dest: "/".into(), output: 0, ..Mount::default() };
        let bind = Mount { input: 1, dest: "/src".into(), output: -1, selector: "/a".into(), ..Mount::default() };
        let meta = Meta { args: vec!["true".into()], ..Meta::default() };
        let mut exec = ExecOp { meta: Some(meta), mounts: vec![root, bind], ..ExecOp::default() };
        change(&mut exec);
        vertex(Kind::Exec(exec), 2)
    }

    #[test]
    fn c4_05_copies_depend_on_content_not_on_the_source_directory() {
        let deps = dependencies(&copy("/x/a"));
        assert_eq!(deps[0], Dependency::Definition);
        assert!(matches!(&deps[1], Dependency::Content(s) if s[0].path == "/x/a"));
        assert_eq!(operation(&copy("/x/a")), operation(&copy("/y/a")));
        assert_ne!(operation(&copy("/x/a")), operation(&copy("/x/b")));
    }

    #[test]
    fn c4_03_addresses_and_proxies_do_not_matter_but_names_and_arguments_do() {
        let host = |name: &str, ip: &str| HostIp { host: name.into(), ip: ip.into() };
        let with = |h: HostIp| operation(&exec(move |e| e.meta.as_mut().expect("meta").extra_hosts = vec![h.clone()]));
        assert_eq!(with(host("a", "10.0.0.1")), with(host("a", "10.0.0.2")));
        assert_ne!(with(host("a", "10.0.0.1")), with(host("b", "10.0.0.1")));
        let plain = operation(&exec(|_| {}));
        assert_ne!(plain, operation(&exec(|e| e.meta.as_mut().expect("meta").args.push("x".into()))));
        assert_ne!(plain, operation(&exec(|e| e.network = 2)));
    }

    #[test]
    fn c4_04_the_root_is_never_hashed_and_bind_mounts_are() {
        let deps = dependencies(&exec(|_| {}));
        assert_eq!(deps[0], Dependency::Definition);
        assert!(matches!(&deps[1], Dependency::Content(s) if s[0].path == "/a"));
        let written = dependencies(&exec(|e| e.mounts[1].output = 1));
        assert_eq!(written[1], Dependency::Definition);
    }

    // SPEC N2.20: keys are our own, so nothing has to be left out for the sake of old ones: also a mount that is alone counts.
    #[test]
    fn n2_20_one_plain_mount_is_part_of_the_key() {
        let alone = |change: fn(&mut Mount)| {
            operation(&exec(move |e| {
                e.mounts.truncate(1);
                change(&mut e.mounts[0]);
            }))
        };
        let plain = alone(|_| {});
        assert_eq!(plain, alone(|_| {}));
        assert_ne!(plain, alone(|mount| mount.readonly = true));
        assert_ne!(plain, alone(|mount| mount.selector = "/sub".into()));
        assert_ne!(plain, operation(&exec(|_| {})), "and it is not the key of a step with more");
    }

    #[test]
    fn parts_of_different_kinds_never_collide() {
        let op = Digest::sha256("op");
        let d = Digest::sha256("x");
        let keyed = combine(&op, &[Part::Key(CacheKey(d.clone()), 0)]);
        assert_ne!(keyed, combine(&op, &[Part::Content(d.clone())]));
        assert_ne!(keyed, combine(&op, &[Part::Key(CacheKey(d), 1)]));
    }
}
