//! A definition as text for people and golden tests.
//!
//! Vertices are numbered in topological order, so that the text does not change with every digest.

use std::collections::HashMap;
use std::fmt::Write as _;

use super::op::{
    ChownOpt, ExecOp, FileAction, FileActionKind, FileOp, Kind, Mount, MountType, NetMode, Op, SecretOpt, SecurityMode,
    UserKind, UserOpt,
};
use super::{Definition, DefinitionError};

/// Writes every vertex with all that distinguishes it; equal definitions give equal text.
///
/// # Errors
/// See [`Definition::graph`].
pub(crate) fn to_text(definition: &Definition) -> Result<String, DefinitionError> {
    let graph = definition.graph()?;
    let Some(root) = &graph.root else { return Ok("scratch\n".into()) };
    let mut out = String::new();
    let mut numbers: HashMap<crate::base::Digest, usize> = HashMap::new();
    let last = definition.pb.def.len().saturating_sub(1);
    for bytes in &definition.pb.def[..last] {
        let digest = crate::base::Digest::sha256(bytes);
        let Some(vertex) = graph.vertices.get(&digest) else { continue };
        let number = numbers.len() + 1;
        numbers.entry(digest).or_insert(number);
        let inputs: Vec<String> = vertex.inputs.iter().map(|e| edge(&numbers, e)).collect();
        let mut line = |text: String| {
            let _ = writeln!(out, "{text}");
        };
        line(format!("#{number} {}", vertex.name()));
        if let Some((file, ranges)) = &vertex.location {
            let ranges: Vec<String> =
                ranges.iter().map(|&(a, b)| if a == b { a.to_string() } else { format!("{a}-{b}") }).collect();
            line(format!("   at {file}:{}", ranges.join(",")));
        }
        if vertex.metadata.ignore_cache {
            line("   ignore cache".into());
        }
        if let Some(platform) = &vertex.op.platform {
            line(format!("   platform {}", crate::oci::Platform::from(platform)));
        }
        for text in body(&vertex.op, &inputs) {
            line(format!("   {text}"));
        }
    }
    let _ = writeln!(out, "result {}", edge(&numbers, root));
    Ok(out)
}

fn edge(numbers: &HashMap<crate::base::Digest, usize>, edge: &super::Edge) -> String {
    let number = numbers.get(&edge.vertex).copied().unwrap_or_default();
    if edge.index == 0 { format!("#{number}") } else { format!("#{number}:{}", edge.index) }
}

fn body(op: &Op, inputs: &[String]) -> Vec<String> {
    match &op.kind {
        None => vec!["nothing".into()],
        Some(Kind::Source(source)) => std::iter::once(format!("source {}", source.identifier))
            .chain(source.attrs.iter().map(|(key, value)| format!("  {key} = {value}")))
            .collect(),
        Some(Kind::Exec(exec)) => exec_lines(exec, inputs),
        Some(Kind::File(file)) => file_lines(file, inputs),
        Some(Kind::Merge(merge)) => {
            let trees: Vec<String> = merge.inputs.iter().map(|i| tree(i.input, inputs)).collect();
            vec![format!("merge {}", trees.join(" "))]
        }
        Some(Kind::Diff(diff)) => {
            let side = |side: &Option<super::op::BuildInput>| {
                side.as_ref().map_or_else(|| "scratch".into(), |i| tree(i.input, inputs))
            };
            vec![format!("diff {} {}", side(&diff.lower), side(&diff.upper))]
        }
        Some(Kind::Build(build)) => vec![format!("build {}", tree(build.builder, inputs))],
        Some(Kind::Passthrough(pass)) => vec![format!("passthrough {} {}", pass.id, inputs.join(" "))],
    }
}

fn tree(index: i64, inputs: &[String]) -> String {
    match usize::try_from(index) {
        Err(_) => "scratch".into(),
        Ok(index) => match inputs.get(index) {
            Some(input) => input.clone(),
            None => format!("action {}", index - inputs.len()),
        },
    }
}

fn exec_lines(exec: &ExecOp, inputs: &[String]) -> Vec<String> {
    let meta = exec.meta.clone().unwrap_or_default();
    let mut out = vec![format!("exec {:?}", meta.args)];
    let mut field = |name: &str, value: String| {
        if !value.is_empty() {
            out.push(format!("  {name} {value}"));
        }
    };
    for variable in &meta.env {
        field("env", variable.clone());
    }
    field("cwd", meta.cwd.clone());
    field("user", meta.user.clone());
    field("hostname", meta.hostname.clone());
    field("cgroup", meta.cgroup_parent.clone());
    if !meta.remove_mount_stubs_recursive {
        field("stubs", "keep parents".into());
    }
    if !meta.valid_exit_codes.is_empty() {
        field("exit codes", format!("{:?}", meta.valid_exit_codes));
    }
    if let Some(proxy) = &meta.proxy_env {
        field("proxy", format!("{proxy:?}"));
    }
    for host in &meta.extra_hosts {
        field("host", format!("{} {}", host.host, host.ip));
    }
    for limit in &meta.ulimit {
        field("ulimit", format!("{}={}:{}", limit.name, limit.soft, limit.hard));
    }
    if exec.network() != NetMode::Unset {
        field("network", format!("{:?}", exec.network()).to_lowercase());
    }
    if exec.security() != SecurityMode::Sandbox {
        field("security", format!("{:?}", exec.security()).to_lowercase());
    }
    for secret in &exec.secretenv {
        field("secret env", format!("{} from {}{}", secret.name, secret.id, optional(secret.optional)));
    }
    for mount in &exec.mounts {
        field("mount", mount_text(mount, inputs));
    }
    out
}

fn optional(flag: bool) -> &'static str {
    if flag { " optional" } else { "" }
}

fn mount_text(mount: &Mount, inputs: &[String]) -> String {
    let kind = mount.mount_type();
    let mut out = format!("{} {}", mount.dest, format!("{kind:?}").to_lowercase());
    if matches!(kind, MountType::Bind | MountType::Cache) {
        let _ = write!(out, " {}", tree(mount.input, inputs));
    }
    if !mount.selector.is_empty() {
        let _ = write!(out, " selector={}", mount.selector);
    }
    if mount.readonly {
        out.push_str(" ro");
    }
    if mount.output >= 0 {
        let _ = write!(out, " output={}", mount.output);
    }
    if let Some(tmpfs) = &mount.tmpfs_opt {
        let _ = write!(out, " size={}", tmpfs.size);
    }
    if let Some(cache) = &mount.cache_opt {
        let sharing = ["shared", "private", "locked"];
        let sharing = usize::try_from(cache.sharing).ok().and_then(|i| sharing.get(i)).unwrap_or(&"?");
        let _ = write!(out, " id={} sharing={sharing}", cache.id);
    }
    let secret = |out: &mut String, opt: &SecretOpt| {
        let _ =
            write!(out, " id={} owner={}:{} mode={:04o}{}", opt.id, opt.uid, opt.gid, opt.mode, optional(opt.optional));
    };
    if let Some(opt) = mount.secret_opt.as_ref().or(mount.ssh_opt.as_ref()) {
        secret(&mut out, opt);
    }
    out
}

fn file_lines(file: &FileOp, inputs: &[String]) -> Vec<String> {
    file.actions
        .iter()
        .enumerate()
        .map(|(number, action)| {
            let output = if action.output >= 0 { format!(" -> output {}", action.output) } else { String::new() };
            format!("action {number}: on {}: {}{output}", tree(action.input, inputs), action_text(action, inputs))
        })
        .collect()
}

fn action_text(action: &FileAction, inputs: &[String]) -> String {
    let time = |timestamp: i64| if timestamp == -1 { String::new() } else { format!(" time={timestamp}") };
    match &action.action {
        None => "nothing".into(),
        Some(FileActionKind::Copy(copy)) => {
            let mut out = format!("copy {} {} to {}", tree(action.secondary_input, inputs), copy.src, copy.dest);
            out.push_str(&owner(copy.owner.as_ref()));
            if copy.mode != -1 {
                let _ = write!(out, " mode={:04o}", copy.mode);
            }
            if !copy.mode_str.is_empty() {
                let _ = write!(out, " mode={}", copy.mode_str);
            }
            for (flag, name) in [
                (copy.follow_symlink, "follow"),
                (copy.dir_copy_contents, "contents"),
                (copy.attempt_unpack_docker_compatibility, "unpack"),
                (copy.create_dest_path, "mkdest"),
                (copy.allow_wildcard, "wildcard"),
                (copy.allow_empty_wildcard, "emptywildcard"),
                (copy.always_replace_existing_dest_paths, "replace"),
            ] {
                if flag {
                    let _ = write!(out, " {name}");
                }
            }
            for (patterns, name) in [
                (&copy.include_patterns, "include"),
                (&copy.exclude_patterns, "exclude"),
                (&copy.required_paths, "require"),
            ] {
                if !patterns.is_empty() {
                    let _ = write!(out, " {name}={patterns:?}");
                }
            }
            out + &time(copy.timestamp)
        }
        Some(FileActionKind::Mkfile(file)) => {
            let data = String::from_utf8_lossy(&file.data);
            let owner = owner(file.owner.as_ref());
            format!("mkfile {} mode={:04o}{owner}{} {data:?}", file.path, file.mode, time(file.timestamp))
        }
        Some(FileActionKind::Mkdir(dir)) => {
            let parents = if dir.make_parents { " parents" } else { "" };
            let owner = owner(dir.owner.as_ref());
            format!("mkdir {} mode={:04o}{parents}{owner}{}", dir.path, dir.mode, time(dir.timestamp))
        }
        Some(FileActionKind::Rm(rm)) => {
            let missing = if rm.allow_not_found { " missing-ok" } else { "" };
            let wildcard = if rm.allow_wildcard { " wildcard" } else { "" };
            format!("rm {}{missing}{wildcard}", rm.path)
        }
        Some(FileActionKind::Symlink(link)) => {
            let owner = owner(link.owner.as_ref());
            format!("symlink {} to {}{owner}{}", link.newpath, link.oldpath, time(link.timestamp))
        }
    }
}

fn owner(owner: Option<&ChownOpt>) -> String {
    let Some(owner) = owner else { return String::new() };
    let one = |user: &Option<UserOpt>| match user.as_ref().and_then(|u| u.user.as_ref()) {
        None => String::new(),
        Some(UserKind::ById(id)) => id.to_string(),
        Some(UserKind::ByName(name)) => name.name.clone(),
    };
    let group = owner.group.as_ref().map(|_| format!(":{}", one(&owner.group))).unwrap_or_default();
    format!(" owner={}{group}", one(&owner.user))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llb::Builder;
    use crate::llb::op::{OpMetadata, SourceOp};

    #[test]
    fn text_names_inputs_by_number() {
        let mut builder = Builder::with_source("Dockerfile", b"");
        let source = Op {
            kind: Some(Kind::Source(SourceOp { identifier: "x://y".into(), ..SourceOp::default() })),
            ..Op::default()
        };
        let from = builder.add(&source, OpMetadata::named("first"), &[(1, 2)]);
        let exec = ExecOp { mounts: vec![Mount { dest: "/".into(), ..Mount::default() }], ..ExecOp::default() };
        let op = Op { inputs: vec![Builder::input(&from)], kind: Some(Kind::Exec(exec)), ..Op::default() };
        let run = builder.add(&op, OpMetadata::named("second"), &[]);
        let text = to_text(&builder.finish(Some(&run))).expect("valid");
        insta::assert_snapshot!(text, @r"
        #1 first
           at Dockerfile:1-2
           source x://y
        #2 second
           exec []
             stubs keep parents
             mount / bind #1 output=0
        result #2
        ");
        assert_eq!(to_text(&Definition::default()).expect("valid"), "scratch\n");
    }
}
