//! RUN (SPEC A5): the process, its mounts, its history entry.

use super::convert::{Converter, Progress};
use super::device;
use super::error::{FrontendError, Place};
use super::graph::{Draft, NodeId};
use super::mount::{self, MountKind, MountSpec};
use super::plan::Command;
use super::state::State;
use super::text::{absolute, base_name};
use super::uses;
use super::words::Mode;
use crate::dockerfile::ast::{CommandLine, Run};
use crate::dockerfile::lint::is_secret;
use crate::dockerfile::parser::is_one_heredoc;
use crate::llb::op::{
    CacheOpt, ChownOpt, ExecOp, FileAction, FileActionCopy, FileActionKind, FileActionMkDir, FileActionMkFile, FileOp,
    Kind, Meta, Mount, MountType, NetMode, OpMetadata, SecretEnv, SecretOpt, SecurityMode, TmpfsOpt, UserKind, UserOpt,
};

/// Where a heredoc with a `#!` line is mounted (SPEC A2.06).
const PIPES: &str = "/dev/pipes";
/// What is shown in place of what nobody should read.
const MASK: &str = "****";
/// Name of internal steps that write inline files.
const INLINE_TITLE: &str = "[internal] preparing inline document";

/// A mount whose tree is not yet an input number.
struct TreeMount {
    tree: Option<NodeId>,
    mount: Mount,
}

/// Everything that `--mount` adds to a step.
#[derive(Default)]
struct Mounts {
    list: Vec<TreeMount>,
    secrets: Vec<SecretEnv>,
    agents: usize,
    first_agent: Option<String>,
}

impl Converter<'_> {
    pub(super) fn run_step(
        &mut self,
        state: &mut State,
        command: &Command,
        run: &Run,
        progress: &mut Progress,
    ) -> Result<(), FrontendError> {
        let lines = command.place.lines;
        let mut mounts = Mounts::default();
        let (args, summary) = self.arguments(state, run, &mut mounts, lines)?;
        let specs = self.mount_specs(state, run, &command.place)?;
        for ((spec, source), word) in specs.iter().zip(&command.sources).zip(&run.mounts) {
            state.uses.mount(spec, lines);
            let at = command.place.word(word);
            self.mount(state, spec, *source, &mut mounts, lines).map_err(|error| error.at(&at))?;
        }
        if let Some(size) = self.input.options.shm_size.filter(|size| *size > 0) {
            mounts.push_empty("/dev/shm", MountType::Tmpfs, |mount| mount.tmpfs_opt = Some(TmpfsOpt { size }));
        }
        let network = self.network(run)?;
        let security = security(run)?;
        let mut devices = Vec::new();
        for word in &run.devices {
            let at = command.place.word(word);
            let text = self.expand_text(state, &word.text, Mode::Word, &at)?;
            let mut device = device::parse(&text).map_err(|error| error.at(&at))?;
            if let Some(name) = self.input.options.device_aliases.get(&device.name) {
                device.name.clone_from(name);
            }
            devices.push(device);
        }

        let variables = state.variables();
        let mut shown = variables.clone();
        for name in specs.iter().filter_map(|spec| spec.env.as_ref()) {
            shown.insert(name.clone(), MASK.into());
        }
        // The image keeps them all the same, which is what the check says; a log is read by more people.
        for (_, value) in shown.iter_mut().filter(|(name, value)| is_secret(name) && !value.is_empty()) {
            MASK.clone_into(value);
        }
        let text = format!("{}{summary}", command.instruction.original);
        let title = self.title(progress, &self.caption(&text, Mode::Display, &shown), &state.platform, &variables);

        let mut env = variables;
        if let Some(socket) = &mounts.first_agent {
            env.entry("SSH_AUTH_SOCK".into()).or_insert_with(|| socket.clone());
        }
        let options = &self.input.options;
        for (name, value) in &options.step_env {
            env.entry(name.clone()).or_insert_with(|| value.clone());
        }
        let meta = Meta {
            args: args.clone(),
            env: env.iter().map(|(key, value)| format!("{key}={value}")).collect(),
            cwd: state.cwd().into(),
            user: state.image.config.user.clone(),
            proxy_env: self.meaning.proxy.clone(),
            extra_hosts: options.add_hosts.clone(),
            hostname: self.meaning.hostname.clone().or_else(|| options.hostname.clone()).unwrap_or_default(),
            ulimit: options.ulimits.clone(),
            cgroup_parent: options.cgroup_parent.clone().unwrap_or_default(),
            remove_mount_stubs_recursive: true,
            ..Meta::default()
        };
        let (inputs, list, secretenv) = mounts.lower(state.node);
        let exec = ExecOp {
            meta: Some(meta),
            mounts: list,
            network: network.into(),
            security: security.into(),
            secretenv,
            cdi_devices: devices,
        };
        let metadata = Self::metadata(progress, title, &command.instruction.original);
        self.draft.needs(state.node, "/", lines);
        let platform = Some((&state.platform).into());
        let node = self.draft.add(Kind::Exec(exec), inputs, platform, metadata, vec![lines]);
        let created_by = format!("RUN {}{}", state.argument_prefix(), args.join(" "));
        state.node = Some(node);
        state.layer(created_by);
        Ok(())
    }

    /// The argument list, and what progress shows behind the command.
    fn arguments(
        &mut self,
        state: &State,
        run: &Run,
        mounts: &mut Mounts,
        lines: (u32, u32),
    ) -> Result<(Vec<String>, String), FrontendError> {
        let text = match (&run.line, run.heredocs.as_slice()) {
            // SPEC A5.01: it parses, as `CMD []` does, but there is nothing to run.
            (CommandLine::Exec(args), []) if args.is_empty() => {
                return Err(FrontendError::input("arguments are required")
                    .hint("RUN [] names no program; RUN [\"PROGRAM\", \"ARGUMENT\"] does"));
            }
            (CommandLine::Exec(args), []) => return Ok((args.clone(), String::new())),
            (CommandLine::Exec(args), _) => {
                let message = format!("parsing produced an invalid run command: {}", super::text::list(args));
                return Err(FrontendError::internal(message));
            }
            (CommandLine::Shell(text), []) => return Ok((state.with_shell(text), String::new())),
            (CommandLine::Shell(text), [only]) if is_one_heredoc(text) => {
                let summary = format!(" ({})", summary(&only.body));
                let script = only.content();
                if !script.starts_with("#!") || state.is_windows() {
                    return Ok((state.with_shell(&script), summary));
                }
                let path = format!("/{}", only.name);
                let tree = inline_file(&mut self.draft, &path, 0o755, script.into_bytes(), self.epoch, lines);
                mounts.list.push(TreeMount {
                    tree: Some(tree),
                    mount: Mount { dest: PIPES.into(), readonly: true, output: -1, ..Mount::default() },
                });
                return Ok((vec![format!("{PIPES}{path}")], summary));
            }
            (CommandLine::Shell(text), _) => text,
        };
        // The shell understands heredocs itself.
        let mut script = text.clone();
        for heredoc in &run.heredocs {
            script.push('\n');
            script.push_str(&heredoc.body);
            script.push_str(&heredoc.name);
        }
        Ok((state.with_shell(&script), String::new()))
    }

    fn mount_specs(&mut self, state: &State, run: &Run, place: &Place) -> Result<Vec<MountSpec>, FrontendError> {
        run.mounts
            .iter()
            .map(|word| {
                let at = place.word(word);
                mount::parse(&word.text, &mut |value| self.expand_text(state, value, Mode::Word, &at))
                    .map_err(|error| error.at(&at))
            })
            .collect()
    }

    fn mount(
        &mut self,
        state: &State,
        spec: &MountSpec,
        source: Option<usize>,
        mounts: &mut Mounts,
        lines: (u32, u32),
    ) -> Result<(), FrontendError> {
        match spec.kind {
            MountKind::Secret => {
                mounts.secret(state, spec);
                return Ok(());
            }
            MountKind::Ssh => {
                mounts.agent(state, spec);
                return Ok(());
            }
            _ => {}
        }
        let dest = absolute(state.cwd(), &spec.target);
        if dest == "/" {
            return Err(FrontendError::input("invalid mount target \"/\""));
        }
        if spec.kind == MountKind::Tmpfs {
            mounts.push_empty(&dest, MountType::Tmpfs, |mount| {
                mount.tmpfs_opt = Some(TmpfsOpt { size: spec.size });
                mount.readonly = spec.readonly;
            });
            return Ok(());
        }
        let selector = absolute("/", &spec.source);
        let mut tree = match source {
            Some(id) => match self.finished(id) {
                Some(source) => source.node,
                None => {
                    return Err(FrontendError::input(format!(
                        "cannot mount from stage \"{}\" to \"{}\", stage needs to be defined before current command",
                        spec.from.as_deref().unwrap_or_default(),
                        spec.target
                    ))
                    .hint(self.plan.order_hint(id)));
                }
            },
            None if spec.kind == MountKind::Cache => None,
            None => Some(self.build_context()),
        };
        // It begins empty: there is nothing to select from (A5.04).
        if tree.is_none() && selector != "/" {
            return Err(FrontendError::input(format!("source \"{}\" of a cache mount needs from", spec.source))
                .hint("source selects what a cache begins with; a part of a cache is a cache with an id of its own"));
        }
        self.draft.needs(tree, &selector, lines);
        let mut mount = Mount { dest, readonly: spec.readonly, output: -1, ..Mount::default() };
        if selector != "/" {
            mount.selector = selector;
        }
        if spec.kind == MountKind::Cache {
            mount.set_mount_type(MountType::Cache);
            let id = format!("{}/{}", self.meaning.cache_namespace, uses::cache_id(spec));
            mount.cache_opt = Some(CacheOpt { id, sharing: spec.sharing.unwrap_or_default() });
            if mount.selector.is_empty() && (spec.mode.is_some() || spec.uid.is_some() || spec.gid.is_some()) {
                tree = Some(cache_root(&mut self.draft, tree, spec, self.epoch, lines));
                mount.selector = "/cache".into();
            }
        }
        mounts.list.push(TreeMount { tree, mount });
        Ok(())
    }

    fn network(&self, run: &Run) -> Result<NetMode, FrontendError> {
        let Some(word) = &run.network else { return Ok(self.input.options.network) };
        match word.text.to_ascii_lowercase().as_str() {
            "default" => Ok(self.input.options.network),
            "none" => Ok(NetMode::None),
            "host" => Ok(NetMode::Host),
            _ => Err(FrontendError::input(format!("invalid network mode \"{}\"", word.text))
                .suggest(&word.text, ["default", "none", "host"])),
        }
    }
}

impl Mounts {
    fn push_empty(&mut self, dest: &str, kind: MountType, set: impl FnOnce(&mut Mount)) {
        let mut mount = Mount { dest: dest.into(), output: -1, ..Mount::default() };
        mount.set_mount_type(kind);
        set(&mut mount);
        self.list.push(TreeMount { tree: None, mount });
    }

    /// A secret as a file, a variable, or both (SPEC A5.06).
    fn secret(&mut self, state: &State, spec: &MountSpec) {
        let id = uses::secret_id(spec);
        if let Some(name) = &spec.env {
            self.secrets.push(SecretEnv { id: id.into(), name: name.clone(), optional: !spec.required });
            if spec.target.is_empty() {
                return;
            }
        }
        let dest = match spec.target.as_str() {
            "" => format!("/run/secrets/{}", base_name(id)),
            target => absolute(state.cwd(), target),
        };
        let opt = secret_opt(id, spec, 0o400);
        self.push_empty(&dest, MountType::Secret, |mount| mount.secret_opt = Some(opt));
    }

    /// An agent's socket (SPEC A5.07).
    fn agent(&mut self, state: &State, spec: &MountSpec) {
        let id = uses::agent_id(spec);
        let dest = match spec.target.as_str() {
            "" => format!("/run/buildkit/ssh_agent.{}", self.agents),
            target => absolute(state.cwd(), target),
        };
        self.agents += 1;
        self.first_agent.get_or_insert_with(|| dest.clone());
        let opt = secret_opt(id, spec, 0o600);
        self.push_empty(&dest, MountType::Ssh, |mount| mount.ssh_opt = Some(opt));
    }

    /// Inputs and mounts, the root first. The others are ordered by target, as the reference implementation does, so
    /// that a mount below another's target is not hidden by it.
    fn lower(mut self, root: Option<NodeId>) -> (Vec<NodeId>, Vec<Mount>, Vec<SecretEnv>) {
        self.list.sort_by(|a, b| a.mount.dest.cmp(&b.mount.dest));
        let mut inputs: Vec<NodeId> = Vec::new();
        let mut input = |tree: Option<NodeId>| -> i64 {
            let Some(id) = tree else { return -1 };
            let position = inputs.iter().position(|known| *known == id).unwrap_or_else(|| {
                inputs.push(id);
                inputs.len() - 1
            });
            i64::try_from(position).unwrap_or(i64::MAX)
        };
        let mut out = vec![Mount { input: input(root), dest: "/".into(), ..Mount::default() }];
        for TreeMount { tree, mount } in self.list {
            out.push(Mount { input: input(tree), ..mount });
        }
        (inputs, out, self.secrets)
    }
}

fn secret_opt(id: &str, spec: &MountSpec, mode: u32) -> SecretOpt {
    SecretOpt {
        id: id.into(),
        uid: spec.uid.unwrap_or_default(),
        gid: spec.gid.unwrap_or_default(),
        mode: spec.mode.unwrap_or(mode),
        optional: !spec.required,
    }
}

fn security(run: &Run) -> Result<SecurityMode, FrontendError> {
    match run.security.as_ref().map(|word| word.text.as_str()) {
        None | Some("sandbox") => Ok(SecurityMode::Sandbox),
        Some("insecure") => Ok(SecurityMode::Insecure),
        Some(other) => {
            Err(FrontendError::input(format!("security \"{other}\" is not valid"))
                .suggest(other, ["sandbox", "insecure"]))
        }
    }
}

/// The first line of a script, for progress.
fn summary(body: &str) -> String {
    let mut lines = body.trim().lines();
    let first = lines.next().unwrap_or_default();
    if lines.next().is_some() { format!("{first}...") } else { first.into() }
}

/// A tree with one file.
pub(super) fn inline_file(
    draft: &mut Draft,
    path: &str,
    mode: i32,
    data: Vec<u8>,
    epoch: Option<i64>,
    lines: (u32, u32),
) -> NodeId {
    let timestamp = timestamp(epoch);
    let file = FileActionMkFile { path: path.into(), mode, data, timestamp, ..FileActionMkFile::default() };
    let action = FileAction { input: -1, secondary_input: -1, output: 0, action: Some(FileActionKind::Mkfile(file)) };
    let op = Kind::File(FileOp { actions: vec![action] });
    draft.add(op, Vec::new(), None, OpMetadata::named(INLINE_TITLE), vec![lines])
}

/// The directory that a cache starts with where its owner or mode is asked for, with what `from` has.
fn cache_root(
    draft: &mut Draft,
    tree: Option<NodeId>,
    spec: &MountSpec,
    epoch: Option<i64>,
    lines: (u32, u32),
) -> NodeId {
    let id = |id: Option<u32>| Some(UserOpt { user: Some(UserKind::ById(id.unwrap_or_default())) });
    let dir = FileActionMkDir {
        path: "/cache".into(),
        mode: i32::try_from(spec.mode.unwrap_or(0o755)).unwrap_or(0o755),
        make_parents: false,
        owner: Some(ChownOpt { user: id(spec.uid), group: id(spec.gid) }),
        timestamp: timestamp(epoch),
    };
    let output = if tree.is_some() { -1 } else { 0 };
    let mut actions =
        vec![FileAction { input: -1, secondary_input: -1, output, action: Some(FileActionKind::Mkdir(dir)) }];
    if tree.is_some() {
        let content = FileActionCopy::contents("/", "/cache");
        // Result 1 is the directory: result 0 is the input.
        actions.push(FileAction {
            input: 1,
            secondary_input: 0,
            output: 0,
            action: Some(FileActionKind::Copy(content)),
        });
    }
    let op = Kind::File(FileOp { actions });
    let metadata = OpMetadata::named("[internal] setting cache mount permissions");
    draft.add(op, tree.into_iter().collect(), None, metadata, vec![lines])
}

/// When files made by the builder itself were made: the epoch, or the time of the build.
pub(super) fn timestamp(epoch: Option<i64>) -> i64 {
    epoch.map_or(-1, |seconds| seconds.saturating_mul(1_000_000_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a2_09_summaries() {
        assert_eq!(summary("\n  echo a\n  echo b\n"), "echo a...");
        assert_eq!(summary("echo a\n"), "echo a");
    }

    #[test]
    fn a5_02_the_root_is_first_and_parents_come_before_children() {
        let mut mounts = Mounts::default();
        for dest in ["/b/sub", "/b", "/a"] {
            mounts.push_empty(dest, MountType::Tmpfs, |_| {});
        }
        let (inputs, list, _) = mounts.lower(None);
        assert!(inputs.is_empty());
        let order: Vec<&str> = list.iter().map(|mount| mount.dest.as_str()).collect();
        assert_eq!(order, ["/", "/a", "/b", "/b/sub"]);
        assert_eq!((list[0].input, list[0].output), (-1, 0));
    }
}
