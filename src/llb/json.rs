//! A definition as the JSON that BuildKit's Dockerfile front end answers `frontend.convertllb` with (SPEC A10.30).
//!
//! An operation and the source map are in protobuf's JSON mapping: members are named as in `ops.proto` (which capitalises
//! some, such as `OS` and `TmpfsOpt`), 64-bit numbers are texts, enumerations are names, bytes are base64, and what has
//! its default value is left out. Metadata is in the form of Go's client library, whose members have underscores.

use std::collections::BTreeMap;

use base64::Engine as _;
use prost::Message as _;
use serde_json::{Map, Value, json};

use super::definition::{Location, PbDefinition, Position, SourceMap};
use super::op::{
    BuildInput, BuildOp, ChownOpt, ExecOp, FileAction, FileActionCopy, FileActionKind, FileOp, Kind, Meta, Mount, Op,
    OpMetadata, Platform, ProgressGroup, ProxyEnv, SecretOpt, UserKind, UserOpt,
};
use super::{Definition, DefinitionError};
use crate::base::Digest;

/// The document: `def` by digest, the terminal operation among them, `metadata` by digest, and `source`.
///
/// # Errors
/// [`DefinitionError::Decode`] for bytes that are no operation.
pub fn to_json(definition: &Definition) -> Result<Value, DefinitionError> {
    let mut def = BTreeMap::new();
    for (index, bytes) in definition.pb.def.iter().enumerate() {
        let op = Op::decode(bytes.as_slice()).map_err(|source| DefinitionError::Decode { index, source })?;
        def.insert(Digest::sha256(bytes).to_string(), op_json(&op));
    }
    let metadata: Map<String, Value> =
        definition.pb.metadata.iter().map(|(digest, metadata)| (digest.clone(), metadata_json(metadata))).collect();
    let source = definition.pb.source.as_ref().map_or_else(|| json!({}), source_json);
    Ok(json!({"def": def, "metadata": metadata, "source": source}))
}

/// A line of JSON for each operation: `Op`, `Digest` and `OpMetadata`, as `buildctl debug dump-llb` prints them (SPEC C1.16).
///
/// # Errors
/// [`DefinitionError::Decode`] for bytes that are no operation.
pub fn to_lines(definition: &Definition) -> Result<String, DefinitionError> {
    let mut out = String::new();
    for (index, bytes) in definition.pb.def.iter().enumerate() {
        let op = Op::decode(bytes.as_slice()).map_err(|source| DefinitionError::Decode { index, source })?;
        let digest = Digest::sha256(bytes).to_string();
        let metadata = definition.pb.metadata.get(&digest).map_or_else(|| json!({}), metadata_json);
        out.push_str(&format!("{}\n", json!({"Op": op_json(&op), "Digest": digest, "OpMetadata": metadata})));
    }
    Ok(out)
}

/// An object that is filled member by member; a member with its default value is left out.
#[derive(Default)]
struct Object(Map<String, Value>);

impl Object {
    fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        let value = value.into();
        let default = match &value {
            Value::Null | Value::Bool(false) => true,
            Value::Number(number) => number.as_i64() == Some(0),
            Value::String(text) => text.is_empty(),
            Value::Array(items) => items.is_empty(),
            Value::Object(_) | Value::Bool(true) => false,
        };
        if !default {
            self.0.insert(name.into(), value);
        }
        self
    }

    /// A 64-bit number.
    fn long(self, name: &str, value: i64) -> Self {
        if value == 0 { self } else { self.with(name, value.to_string()) }
    }

    /// A map from texts; an empty one is left out.
    fn map<'a, V: 'a>(self, name: &str, map: &'a BTreeMap<String, V>, value: impl Fn(&'a V) -> Value) -> Self {
        if map.is_empty() {
            return self;
        }
        let map: Map<String, Value> = map.iter().map(|(key, item)| (key.clone(), value(item))).collect();
        self.with(name, map)
    }

    /// A list of messages.
    fn list<T>(self, name: &str, items: &[T], value: impl Fn(&T) -> Value) -> Self {
        self.with(name, items.iter().map(value).collect::<Vec<Value>>())
    }

    /// A message that may be absent.
    fn message<T>(self, name: &str, message: Option<&T>, value: impl Fn(&T) -> Value) -> Self {
        match message {
            Some(message) => self.with(name, value(message)),
            None => self,
        }
    }

    /// An enumeration; the first name is the default, and a number without a name stays one.
    fn choice(self, name: &str, value: i32, names: &[&str]) -> Self {
        match usize::try_from(value).ok().and_then(|at| names.get(at)) {
            _ if value == 0 => self,
            Some(text) => self.with(name, *text),
            None => self.with(name, value),
        }
    }

    fn done(self) -> Value {
        Value::Object(self.0)
    }
}

fn base64(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

pub(super) fn op_json(op: &Op) -> Value {
    let out = Object::default().list("inputs", &op.inputs, |input| {
        Object::default().with("digest", input.digest.as_str()).long("index", input.index).done()
    });
    let out = match &op.kind {
        None => out,
        Some(Kind::Exec(exec)) => out.with("exec", exec_json(exec)),
        Some(Kind::Source(source)) => out.with(
            "source",
            Object::default()
                .with("identifier", source.identifier.as_str())
                .map("attrs", &source.attrs, |text| text.as_str().into())
                .done(),
        ),
        Some(Kind::File(file)) => out.with("file", file_json(file)),
        Some(Kind::Build(build)) => out.with("build", build_json(build)),
        Some(Kind::Merge(merge)) => {
            out.with("merge", Object::default().list("inputs", &merge.inputs, input_json).done())
        }
        Some(Kind::Diff(diff)) => out.with(
            "diff",
            Object::default()
                .message("lower", diff.lower.as_ref(), input_json)
                .message("upper", diff.upper.as_ref(), input_json)
                .done(),
        ),
        Some(Kind::Passthrough(pass)) => out.with(
            "passthrough",
            Object::default()
                .with("id", pass.id.as_str())
                .list("outputs", &pass.outputs, |output| output.to_string().into())
                .done(),
        ),
    };
    out.message("platform", op.platform.as_ref(), platform_json)
        .message("constraints", op.constraints.as_ref(), |constraints| {
            Object::default().with("filter", constraints.filter.clone()).done()
        })
        .done()
}

fn platform_json(platform: &Platform) -> Value {
    Object::default()
        .with("Architecture", platform.architecture.as_str())
        .with("OS", platform.os.as_str())
        .with("Variant", platform.variant.as_str())
        .with("OSVersion", platform.os_version.as_str())
        .with("OSFeatures", platform.os_features.clone())
        .done()
}

fn input_json(input: &BuildInput) -> Value {
    Object::default().long("input", input.input).done()
}

fn exec_json(exec: &ExecOp) -> Value {
    Object::default()
        .message("meta", exec.meta.as_ref(), meta_json)
        .list("mounts", &exec.mounts, mount_json)
        .choice("network", exec.network, &["UNSET", "HOST", "NONE"])
        .choice("security", exec.security, &["SANDBOX", "INSECURE"])
        .list("secretenv", &exec.secretenv, |secret| {
            Object::default()
                .with("ID", secret.id.as_str())
                .with("name", secret.name.as_str())
                .with("optional", secret.optional)
                .done()
        })
        .list("cdiDevices", &exec.cdi_devices, |device| {
            Object::default().with("name", device.name.as_str()).with("optional", device.optional).done()
        })
        .done()
}

fn meta_json(meta: &Meta) -> Value {
    let proxy = |proxy: &ProxyEnv| {
        Object::default()
            .with("httpProxy", proxy.http_proxy.as_str())
            .with("httpsProxy", proxy.https_proxy.as_str())
            .with("ftpProxy", proxy.ftp_proxy.as_str())
            .with("noProxy", proxy.no_proxy.as_str())
            .with("allProxy", proxy.all_proxy.as_str())
            .done()
    };
    Object::default()
        .with("args", meta.args.clone())
        .with("env", meta.env.clone())
        .with("cwd", meta.cwd.as_str())
        .with("user", meta.user.as_str())
        .message("proxyEnv", meta.proxy_env.as_ref(), proxy)
        .list("extraHosts", &meta.extra_hosts, |host| {
            Object::default().with("Host", host.host.as_str()).with("IP", host.ip.as_str()).done()
        })
        .with("hostname", meta.hostname.as_str())
        .list("ulimit", &meta.ulimit, |limit| {
            Object::default().with("Name", limit.name.as_str()).long("Soft", limit.soft).long("Hard", limit.hard).done()
        })
        .with("cgroupParent", meta.cgroup_parent.as_str())
        .with("removeMountStubsRecursive", meta.remove_mount_stubs_recursive)
        .with("validExitCodes", meta.valid_exit_codes.clone())
        .done()
}

fn mount_json(mount: &Mount) -> Value {
    let secret = |secret: &SecretOpt| {
        Object::default()
            .with("ID", secret.id.as_str())
            .with("uid", secret.uid)
            .with("gid", secret.gid)
            .with("mode", secret.mode)
            .with("optional", secret.optional)
            .done()
    };
    Object::default()
        .long("input", mount.input)
        .with("selector", mount.selector.as_str())
        .with("dest", mount.dest.as_str())
        .long("output", mount.output)
        .with("readonly", mount.readonly)
        .choice("mountType", mount.mount_type, &["BIND", "SECRET", "SSH", "CACHE", "TMPFS"])
        .message("TmpfsOpt", mount.tmpfs_opt.as_ref(), |tmpfs| Object::default().long("size", tmpfs.size).done())
        .message("cacheOpt", mount.cache_opt.as_ref(), |cache| {
            Object::default()
                .with("ID", cache.id.as_str())
                .choice("sharing", cache.sharing, &["SHARED", "PRIVATE", "LOCKED"])
                .done()
        })
        .message("secretOpt", mount.secret_opt.as_ref(), secret)
        .message("SSHOpt", mount.ssh_opt.as_ref(), secret)
        .with("resultID", mount.result_id.as_str())
        .choice("contentCache", mount.content_cache, &["DEFAULT", "ON", "OFF"])
        .done()
}

fn file_json(file: &FileOp) -> Value {
    Object::default().list("actions", &file.actions, file_action_json).done()
}

fn file_action_json(action: &FileAction) -> Value {
    let out = Object::default()
        .long("input", action.input)
        .long("secondaryInput", action.secondary_input)
        .long("output", action.output);
    match &action.action {
        None => out,
        Some(FileActionKind::Copy(copy)) => out.with("copy", copy_json(copy)),
        Some(FileActionKind::Mkfile(file)) => out.with(
            "mkfile",
            Object::default()
                .with("path", file.path.as_str())
                .with("mode", file.mode)
                .with("data", base64(&file.data))
                .message("owner", file.owner.as_ref(), owner_json)
                .long("timestamp", file.timestamp)
                .done(),
        ),
        Some(FileActionKind::Mkdir(dir)) => out.with(
            "mkdir",
            Object::default()
                .with("path", dir.path.as_str())
                .with("mode", dir.mode)
                .with("makeParents", dir.make_parents)
                .message("owner", dir.owner.as_ref(), owner_json)
                .long("timestamp", dir.timestamp)
                .done(),
        ),
        Some(FileActionKind::Rm(rm)) => out.with(
            "rm",
            Object::default()
                .with("path", rm.path.as_str())
                .with("allowNotFound", rm.allow_not_found)
                .with("allowWildcard", rm.allow_wildcard)
                .done(),
        ),
        Some(FileActionKind::Symlink(link)) => out.with(
            "symlink",
            Object::default()
                .with("oldpath", link.oldpath.as_str())
                .with("newpath", link.newpath.as_str())
                .message("owner", link.owner.as_ref(), owner_json)
                .long("timestamp", link.timestamp)
                .done(),
        ),
    }
    .done()
}

fn copy_json(copy: &FileActionCopy) -> Value {
    Object::default()
        .with("src", copy.src.as_str())
        .with("dest", copy.dest.as_str())
        .message("owner", copy.owner.as_ref(), owner_json)
        .with("mode", copy.mode)
        .with("followSymlink", copy.follow_symlink)
        .with("dirCopyContents", copy.dir_copy_contents)
        .with("attemptUnpackDockerCompatibility", copy.attempt_unpack_docker_compatibility)
        .with("createDestPath", copy.create_dest_path)
        .with("allowWildcard", copy.allow_wildcard)
        .with("allowEmptyWildcard", copy.allow_empty_wildcard)
        .long("timestamp", copy.timestamp)
        .with("includePatterns", copy.include_patterns.clone())
        .with("excludePatterns", copy.exclude_patterns.clone())
        .with("alwaysReplaceExistingDestPaths", copy.always_replace_existing_dest_paths)
        .with("modeStr", copy.mode_str.as_str())
        .with("requiredPaths", copy.required_paths.clone())
        .done()
}

fn owner_json(owner: &ChownOpt) -> Value {
    let one = |user: &UserOpt| match &user.user {
        None => json!({}),
        Some(UserKind::ByName(named)) => {
            json!({"byName": Object::default().with("name", named.name.as_str()).long("input", named.input).done()})
        }
        // A choice that was made is shown, also 0.
        Some(UserKind::ById(id)) => json!({"byID": id}),
    };
    Object::default().message("user", owner.user.as_ref(), one).message("group", owner.group.as_ref(), one).done()
}

fn build_json(build: &BuildOp) -> Value {
    Object::default()
        .long("builder", build.builder)
        .map("inputs", &build.inputs, input_json)
        .message("def", build.def.as_ref(), definition_json)
        .map("attrs", &build.attrs, |text| text.as_str().into())
        .done()
}

/// A definition inside another: protobuf's mapping throughout.
fn definition_json(definition: &PbDefinition) -> Value {
    let metadata = |metadata: &OpMetadata| {
        Object::default()
            .with("ignoreCache", metadata.ignore_cache)
            .map("description", &metadata.description, |text| text.as_str().into())
            .message("exportCache", metadata.export_cache.as_ref(), |export| {
                Object::default().with("Value", export.value).done()
            })
            .map("caps", &metadata.caps, |cap| (*cap).into())
            .message("progressGroup", metadata.progress_group.as_ref(), group_json)
            .done()
    };
    Object::default()
        .list("def", &definition.def, |bytes| base64(bytes).into())
        .map("metadata", &definition.metadata, metadata)
        .message("Source", definition.source.as_ref(), source_json)
        .done()
}

fn metadata_json(metadata: &OpMetadata) -> Value {
    Object::default()
        .with("ignore_cache", metadata.ignore_cache)
        .map("description", &metadata.description, |text| text.as_str().into())
        .message("export_cache", metadata.export_cache.as_ref(), |export| {
            Object::default().with("Value", export.value).done()
        })
        .map("caps", &metadata.caps, |cap| (*cap).into())
        .message("progress_group", metadata.progress_group.as_ref(), group_json)
        .done()
}

fn group_json(group: &ProgressGroup) -> Value {
    Object::default().with("id", group.id.as_str()).with("name", group.name.as_str()).with("weak", group.weak).done()
}

pub(super) fn source_json(source: &SourceMap) -> Value {
    let position = |position: &Position| {
        Object::default().with("line", position.line).with("character", position.character).done()
    };
    let location = |location: &Location| {
        Object::default()
            .with("sourceIndex", location.source_index)
            .list("ranges", &location.ranges, |range| {
                Object::default()
                    .message("start", range.start.as_ref(), position)
                    .message("end", range.end.as_ref(), position)
                    .done()
            })
            .done()
    };
    Object::default()
        .map("locations", &source.locations, |places| {
            Object::default().list("locations", &places.locations, location).done()
        })
        .list("infos", &source.infos, |info| {
            Object::default()
                .with("filename", info.filename.as_str())
                .with("data", base64(&info.data))
                .message("definition", info.definition.as_deref(), definition_json)
                .with("language", info.language.as_str())
                .done()
        })
        .done()
}

#[cfg(test)]
mod tests {
    use super::super::op::{FileActionMkFile, MountType, NamedUserOpt, NetMode, SourceOp, TmpfsOpt};
    use super::*;
    use crate::llb::Builder;

    // SPEC A10.30: names and forms are protobuf's, not ours.
    #[test]
    fn a10_30_operations_have_protobufs_names_numbers_and_defaults() {
        let owner = ChownOpt {
            user: Some(UserOpt { user: Some(UserKind::ById(0)) }),
            group: Some(UserOpt { user: Some(UserKind::ByName(NamedUserOpt { name: "staff".into(), input: 0 })) }),
        };
        let file =
            FileActionMkFile { path: "/a".into(), mode: 0o644, data: b"x".to_vec(), owner: Some(owner), timestamp: -1 };
        let action =
            FileAction { input: 0, secondary_input: -1, output: 0, action: Some(FileActionKind::Mkfile(file)) };
        let op = Op { kind: Some(Kind::File(FileOp { actions: vec![action] })), ..Op::default() };
        assert_eq!(
            op_json(&op),
            json!({"file": {"actions": [{"secondaryInput": "-1", "mkfile": {
                "path": "/a", "mode": 420, "data": "eA==", "timestamp": "-1",
                "owner": {"user": {"byID": 0}, "group": {"byName": {"name": "staff"}}},
            }}]}})
        );
        let mounts = vec![
            Mount { dest: "/".into(), ..Mount::default() },
            Mount {
                input: -1,
                dest: "/t".into(),
                output: -1,
                mount_type: MountType::Tmpfs as i32,
                tmpfs_opt: Some(TmpfsOpt::default()),
                ..Mount::default()
            },
        ];
        let exec = ExecOp {
            meta: Some(Meta {
                proxy_env: Some(ProxyEnv { no_proxy: "x".into(), ..ProxyEnv::default() }),
                ..Meta::default()
            }),
            mounts,
            network: NetMode::None as i32,
            ..ExecOp::default()
        };
        assert_eq!(
            exec_json(&exec),
            json!({"meta": {"proxyEnv": {"noProxy": "x"}}, "network": "NONE", "mounts": [
                {"dest": "/"}, {"input": "-1", "dest": "/t", "output": "-1", "mountType": "TMPFS", "TmpfsOpt": {}},
            ]})
        );
        let platform = Platform { architecture: "arm64".into(), os: "linux".into(), ..Platform::default() };
        assert_eq!(platform_json(&platform), json!({"Architecture": "arm64", "OS": "linux"}));
    }

    #[test]
    fn a10_30_operations_are_found_by_their_digests() {
        let mut builder = Builder::with_source("Dockerfile", b"FROM a");
        let source = SourceOp { identifier: "docker-image://a".into(), ..SourceOp::default() };
        let edge = builder.add(
            &Op { kind: Some(Kind::Source(source)), ..Op::default() },
            OpMetadata { ignore_cache: true, ..OpMetadata::named("from") },
            &[(1, 1)],
        );
        let digest = edge.vertex.to_string();
        let document = to_json(&builder.finish(Some(&edge))).expect("valid");
        assert_eq!(document["def"].as_object().map(Map::len), Some(2));
        assert_eq!(document["def"][&digest], json!({"source": {"identifier": "docker-image://a"}}));
        let last = document["def"].as_object().and_then(|def| def.values().find(|op| op.get("inputs").is_some()));
        assert_eq!(last, Some(&json!({"inputs": [{"digest": digest}]})));
        assert_eq!(
            document["metadata"],
            json!({&digest: {"ignore_cache": true, "description": {"llb.customname": "from"}}})
        );
        assert_eq!(
            document["source"],
            json!({
                "locations": {&digest: {"locations": [{"ranges": [{"start": {"line": 1}, "end": {"line": 1}}]}]}},
                "infos": [{"filename": "Dockerfile", "data": "RlJPTSBh", "language": "Dockerfile"}],
            })
        );
        assert_eq!(to_json(&Definition::default()).expect("valid"), json!({"def": {}, "metadata": {}, "source": {}}));
        let bad = Definition { pb: PbDefinition { def: vec![vec![0xff]], ..PbDefinition::default() } };
        assert!(matches!(to_json(&bad), Err(DefinitionError::Decode { index: 0, .. })));
    }
}
