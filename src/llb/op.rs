//! The operations, as protobuf messages with BuildKit's field numbers (SPEC C1.02–C1.15).

use std::collections::BTreeMap;

/// One vertex of the graph (C1.02).
#[derive(Clone, PartialEq, prost::Message)]
pub struct Op {
    /// Edges this op depends on.
    #[prost(message, repeated, tag = "1")]
    pub inputs: Vec<Input>,
    /// What it does; absent on the terminal op.
    #[prost(oneof = "Kind", tags = "2, 3, 4, 5, 6, 7, 8")]
    pub kind: Option<Kind>,
    /// Platform it runs for.
    #[prost(message, optional, tag = "10")]
    pub platform: Option<Platform>,
    /// Worker constraints, kept but without meaning here.
    #[prost(message, optional, tag = "11")]
    pub constraints: Option<WorkerConstraints>,
}

/// The kinds of [`Op`].
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Kind {
    /// Runs a process.
    #[prost(message, tag = "2")]
    Exec(ExecOp),
    /// Brings in content from outside.
    #[prost(message, tag = "3")]
    Source(SourceOp),
    /// Changes files without running anything.
    #[prost(message, tag = "4")]
    File(FileOp),
    /// Runs a definition found in an input.
    #[prost(message, tag = "5")]
    Build(BuildOp),
    /// Stacks trees.
    #[prost(message, tag = "6")]
    Merge(MergeOp),
    /// The change between two trees.
    #[prost(message, tag = "7")]
    Diff(DiffOp),
    /// Groups vertices.
    #[prost(message, tag = "8")]
    Passthrough(PassthroughOp),
}

/// An edge: output `index` of the op with this digest.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Input {
    /// Digest of the op's bytes.
    #[prost(string, tag = "1")]
    pub digest: String,
    /// Which output.
    #[prost(int64, tag = "2")]
    pub index: i64,
}

/// Platform of an op.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Platform {
    /// Go's name.
    #[prost(string, tag = "1")]
    pub architecture: String,
    /// Go's name.
    #[prost(string, tag = "2")]
    pub os: String,
    /// e.g. `v7`.
    #[prost(string, tag = "3")]
    pub variant: String,
    /// Windows builds.
    #[prost(string, tag = "4")]
    pub os_version: String,
    /// Rare.
    #[prost(string, repeated, tag = "5")]
    pub os_features: Vec<String>,
}

impl From<&crate::oci::Platform> for Platform {
    fn from(p: &crate::oci::Platform) -> Self {
        Self {
            architecture: p.architecture.clone(),
            os: p.os.clone(),
            variant: p.variant.clone(),
            os_version: p.os_version.clone(),
            os_features: p.os_features.clone(),
        }
    }
}

impl From<&Platform> for crate::oci::Platform {
    fn from(p: &Platform) -> Self {
        Self {
            architecture: p.architecture.clone(),
            os: p.os.clone(),
            variant: p.variant.clone(),
            os_version: p.os_version.clone(),
            os_features: p.os_features.clone(),
        }
    }
}

/// Filters of a worker.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct WorkerConstraints {
    /// containerd filters.
    #[prost(string, repeated, tag = "1")]
    pub filter: Vec<String>,
}

/// Runs a process (C1.05).
#[derive(Clone, PartialEq, prost::Message)]
pub struct ExecOp {
    /// The process.
    #[prost(message, optional, tag = "1")]
    pub meta: Option<Meta>,
    /// Its mounts; the one at `/` is the root file system.
    #[prost(message, repeated, tag = "2")]
    pub mounts: Vec<Mount>,
    /// Network mode.
    #[prost(enumeration = "NetMode", tag = "3")]
    pub network: i32,
    /// Security mode.
    #[prost(enumeration = "SecurityMode", tag = "4")]
    pub security: i32,
    /// Secrets as environment variables.
    #[prost(message, repeated, tag = "5")]
    pub secretenv: Vec<SecretEnv>,
    /// CDI devices.
    #[prost(message, repeated, tag = "6")]
    pub cdi_devices: Vec<CdiDevice>,
}

/// Network of an [`ExecOp`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum NetMode {
    /// The default network.
    Unset = 0,
    /// The host's.
    Host = 1,
    /// Loopback only.
    None = 2,
}

/// Security mode of an [`ExecOp`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum SecurityMode {
    /// Docker's default capabilities and seccomp profile.
    Sandbox = 0,
    /// Everything the builder itself may.
    Insecure = 1,
}

/// A secret given as an environment variable.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct SecretEnv {
    /// Secret id.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Variable name.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Missing is not an error.
    #[prost(bool, tag = "3")]
    pub optional: bool,
}

/// A CDI device request.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct CdiDevice {
    /// Qualified name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Missing is not an error.
    #[prost(bool, tag = "2")]
    pub optional: bool,
}

/// The process of an [`ExecOp`] (C1.06).
#[derive(Clone, PartialEq, prost::Message)]
pub struct Meta {
    /// Arguments, the program first.
    #[prost(string, repeated, tag = "1")]
    pub args: Vec<String>,
    /// `K=V`.
    #[prost(string, repeated, tag = "2")]
    pub env: Vec<String>,
    /// Working directory.
    #[prost(string, tag = "3")]
    pub cwd: String,
    /// `user[:group]`.
    #[prost(string, tag = "4")]
    pub user: String,
    /// Proxy settings, outside the cache key.
    #[prost(message, optional, tag = "5")]
    pub proxy_env: Option<ProxyEnv>,
    /// Lines for /etc/hosts.
    #[prost(message, repeated, tag = "6")]
    pub extra_hosts: Vec<HostIp>,
    /// UTS host name.
    #[prost(string, tag = "7")]
    pub hostname: String,
    /// Resource limits.
    #[prost(message, repeated, tag = "9")]
    pub ulimit: Vec<Ulimit>,
    /// Parent cgroup.
    #[prost(string, tag = "10")]
    pub cgroup_parent: String,
    /// Remove stub parents too.
    #[prost(bool, tag = "11")]
    pub remove_mount_stubs_recursive: bool,
    /// Exit codes that count as success; none means 0.
    #[prost(int32, repeated, tag = "12")]
    pub valid_exit_codes: Vec<i32>,
}

/// Proxy settings (C5.11).
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ProxyEnv {
    /// HTTP_PROXY
    #[prost(string, tag = "1")]
    pub http_proxy: String,
    /// HTTPS_PROXY
    #[prost(string, tag = "2")]
    pub https_proxy: String,
    /// FTP_PROXY
    #[prost(string, tag = "3")]
    pub ftp_proxy: String,
    /// NO_PROXY
    #[prost(string, tag = "4")]
    pub no_proxy: String,
    /// ALL_PROXY
    #[prost(string, tag = "5")]
    pub all_proxy: String,
}

/// One `--add-host`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct HostIp {
    /// Name.
    #[prost(string, tag = "1")]
    pub host: String,
    /// Address.
    #[prost(string, tag = "2")]
    pub ip: String,
}

/// One `--ulimit`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Ulimit {
    /// Docker's name, e.g. `nofile`.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Soft limit.
    #[prost(int64, tag = "2")]
    pub soft: i64,
    /// Hard limit.
    #[prost(int64, tag = "3")]
    pub hard: i64,
}

/// A mount of an [`ExecOp`] (C1.07).
#[derive(Clone, PartialEq, prost::Message)]
pub struct Mount {
    /// Index into the op's inputs; -1 is an empty tree.
    #[prost(int64, tag = "1")]
    pub input: i64,
    /// Path inside the input.
    #[prost(string, tag = "2")]
    pub selector: String,
    /// Where it appears.
    #[prost(string, tag = "3")]
    pub dest: String,
    /// Output index; -1 discards what is written.
    #[prost(int64, tag = "4")]
    pub output: i64,
    /// Read-only.
    #[prost(bool, tag = "5")]
    pub readonly: bool,
    /// Kind.
    #[prost(enumeration = "MountType", tag = "6")]
    pub mount_type: i32,
    /// For [`MountType::Tmpfs`].
    #[prost(message, optional, tag = "19")]
    pub tmpfs_opt: Option<TmpfsOpt>,
    /// For [`MountType::Cache`].
    #[prost(message, optional, tag = "20")]
    pub cache_opt: Option<CacheOpt>,
    /// For [`MountType::Secret`].
    #[prost(message, optional, tag = "21")]
    pub secret_opt: Option<SecretOpt>,
    /// For [`MountType::Ssh`].
    #[prost(message, optional, tag = "22")]
    pub ssh_opt: Option<SecretOpt>,
    /// Earlier result, for debuggers.
    #[prost(string, tag = "23")]
    pub result_id: String,
    /// Whether the content is part of the cache key: 0 default, 1 on, 2 off.
    #[prost(int32, tag = "24")]
    pub content_cache: i32,
}

/// Kinds of [`Mount`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum MountType {
    /// A tree.
    Bind = 0,
    /// A secret file.
    Secret = 1,
    /// An agent socket.
    Ssh = 2,
    /// A persistent directory.
    Cache = 3,
    /// Memory.
    Tmpfs = 4,
}

/// Options of a tmpfs mount.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct TmpfsOpt {
    /// Bytes; 0 is the kernel's default.
    #[prost(int64, tag = "1")]
    pub size: i64,
}

/// Options of a cache mount.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct CacheOpt {
    /// Identity.
    #[prost(string, tag = "1")]
    pub id: String,
    /// 0 shared, 1 private, 2 locked.
    #[prost(int32, tag = "2")]
    pub sharing: i32,
}

/// Options of a secret or ssh mount.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct SecretOpt {
    /// Identity.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Owner.
    #[prost(uint32, tag = "2")]
    pub uid: u32,
    /// Group.
    #[prost(uint32, tag = "3")]
    pub gid: u32,
    /// Permission bits.
    #[prost(uint32, tag = "4")]
    pub mode: u32,
    /// Missing is not an error.
    #[prost(bool, tag = "5")]
    pub optional: bool,
}

/// Brings in content from outside (C1.08, C2).
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct SourceOp {
    /// `scheme://ref`.
    #[prost(string, tag = "1")]
    pub identifier: String,
    /// Attributes, by scheme.
    #[prost(btree_map = "string, string", tag = "2")]
    pub attrs: BTreeMap<String, String>,
}

/// Changes files (C1.09).
#[derive(Clone, PartialEq, prost::Message)]
pub struct FileOp {
    /// In order; each may build on another's result.
    #[prost(message, repeated, tag = "2")]
    pub actions: Vec<FileAction>,
}

/// One action of a [`FileOp`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct FileAction {
    /// Below the number of inputs: an input; above: the result of action `n - inputs`; -1: an empty tree.
    #[prost(int64, tag = "1")]
    pub input: i64,
    /// The tree copied from, numbered like `input`.
    #[prost(int64, tag = "2")]
    pub secondary_input: i64,
    /// Output index; -1 is intermediate.
    #[prost(int64, tag = "3")]
    pub output: i64,
    /// What to do.
    #[prost(oneof = "FileActionKind", tags = "4, 5, 6, 7, 8")]
    pub action: Option<FileActionKind>,
}

/// The kinds of [`FileAction`].
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum FileActionKind {
    /// Copies from the secondary input.
    #[prost(message, tag = "4")]
    Copy(FileActionCopy),
    /// Writes a file.
    #[prost(message, tag = "5")]
    Mkfile(FileActionMkFile),
    /// Makes a directory.
    #[prost(message, tag = "6")]
    Mkdir(FileActionMkDir),
    /// Removes.
    #[prost(message, tag = "7")]
    Rm(FileActionRm),
    /// Makes a symlink.
    #[prost(message, tag = "8")]
    Symlink(FileActionSymlink),
}

/// Copy (C1.10).
#[derive(Clone, PartialEq, prost::Message)]
pub struct FileActionCopy {
    /// Source path or pattern.
    #[prost(string, tag = "1")]
    pub src: String,
    /// Destination; a trailing `/` means a directory.
    #[prost(string, tag = "2")]
    pub dest: String,
    /// New owner; absent keeps the source's.
    #[prost(message, optional, tag = "3")]
    pub owner: Option<ChownOpt>,
    /// Permission bits; -1 keeps the source's.
    #[prost(int32, tag = "4")]
    pub mode: i32,
    /// Follow a source that is itself a symlink.
    #[prost(bool, tag = "5")]
    pub follow_symlink: bool,
    /// Copy the contents of a directory, not the directory.
    #[prost(bool, tag = "6")]
    pub dir_copy_contents: bool,
    /// Unpack a source that is an archive.
    #[prost(bool, tag = "7")]
    pub attempt_unpack_docker_compatibility: bool,
    /// Make missing parents of the destination.
    #[prost(bool, tag = "8")]
    pub create_dest_path: bool,
    /// `src` is a pattern.
    #[prost(bool, tag = "9")]
    pub allow_wildcard: bool,
    /// A pattern without matches copies nothing.
    #[prost(bool, tag = "10")]
    pub allow_empty_wildcard: bool,
    /// Nanoseconds; -1 keeps the source's.
    #[prost(int64, tag = "11")]
    pub timestamp: i64,
    /// Only these.
    #[prost(string, repeated, tag = "12")]
    pub include_patterns: Vec<String>,
    /// Not these.
    #[prost(string, repeated, tag = "13")]
    pub exclude_patterns: Vec<String>,
    /// Replace what stands at the destination.
    #[prost(bool, tag = "14")]
    pub always_replace_existing_dest_paths: bool,
    /// Symbolic mode, e.g. `u=rwX,go=rX`.
    #[prost(string, tag = "15")]
    pub mode_str: String,
    /// Patterns that must match.
    #[prost(string, repeated, tag = "16")]
    pub required_paths: Vec<String>,
}

impl FileActionCopy {
    /// What copies all that is in the directory `src` into the directory `dest`, as it is.
    #[must_use]
    pub fn contents(src: impl Into<String>, dest: impl Into<String>) -> Self {
        let (src, dest) = (src.into(), dest.into());
        Self { src, dest, mode: -1, timestamp: -1, dir_copy_contents: true, ..Self::default() }
    }
}

/// Mkfile (C1.11).
#[derive(Clone, PartialEq, prost::Message)]
pub struct FileActionMkFile {
    /// Path.
    #[prost(string, tag = "1")]
    pub path: String,
    /// Permission bits.
    #[prost(int32, tag = "2")]
    pub mode: i32,
    /// Content.
    #[prost(bytes = "vec", tag = "3")]
    pub data: Vec<u8>,
    /// Owner; absent is 0:0.
    #[prost(message, optional, tag = "4")]
    pub owner: Option<ChownOpt>,
    /// Nanoseconds; -1 is now.
    #[prost(int64, tag = "5")]
    pub timestamp: i64,
}

/// Mkdir (C1.11).
#[derive(Clone, PartialEq, prost::Message)]
pub struct FileActionMkDir {
    /// Path.
    #[prost(string, tag = "1")]
    pub path: String,
    /// Permission bits.
    #[prost(int32, tag = "2")]
    pub mode: i32,
    /// Make missing parents; an existing directory is fine.
    #[prost(bool, tag = "3")]
    pub make_parents: bool,
    /// Owner; absent is 0:0.
    #[prost(message, optional, tag = "4")]
    pub owner: Option<ChownOpt>,
    /// Nanoseconds; -1 is now.
    #[prost(int64, tag = "5")]
    pub timestamp: i64,
}

/// Rm (C1.11).
#[derive(Clone, PartialEq, prost::Message)]
pub struct FileActionRm {
    /// Path or pattern.
    #[prost(string, tag = "1")]
    pub path: String,
    /// Missing is fine.
    #[prost(bool, tag = "2")]
    pub allow_not_found: bool,
    /// `path` is a pattern.
    #[prost(bool, tag = "3")]
    pub allow_wildcard: bool,
}

/// Symlink (C1.11).
#[derive(Clone, PartialEq, prost::Message)]
pub struct FileActionSymlink {
    /// Target text.
    #[prost(string, tag = "1")]
    pub oldpath: String,
    /// Where the link is made.
    #[prost(string, tag = "2")]
    pub newpath: String,
    /// Owner; absent is 0:0.
    #[prost(message, optional, tag = "3")]
    pub owner: Option<ChownOpt>,
    /// Nanoseconds; -1 is now.
    #[prost(int64, tag = "4")]
    pub timestamp: i64,
}

/// Owner and group of files.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ChownOpt {
    /// Owner.
    #[prost(message, optional, tag = "1")]
    pub user: Option<UserOpt>,
    /// Group.
    #[prost(message, optional, tag = "2")]
    pub group: Option<UserOpt>,
}

/// A user or group.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct UserOpt {
    /// By name or by number.
    #[prost(oneof = "UserKind", tags = "1, 2")]
    pub user: Option<UserKind>,
}

/// The kinds of [`UserOpt`].
#[derive(Clone, PartialEq, Eq, prost::Oneof)]
pub enum UserKind {
    /// Looked up in `/etc/passwd` or `/etc/group` of an input.
    #[prost(message, tag = "1")]
    ByName(NamedUserOpt),
    /// A number.
    #[prost(uint32, tag = "2")]
    ById(u32),
}

/// A user or group by name.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct NamedUserOpt {
    /// Name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The tree whose files are read, numbered like [`FileAction::input`].
    #[prost(int64, tag = "2")]
    pub input: i64,
}

/// Runs a definition found in an input (C1.12).
#[derive(Clone, PartialEq, prost::Message)]
pub struct BuildOp {
    /// -1: the definition is in an input.
    #[prost(int64, tag = "1")]
    pub builder: i64,
    /// Named inputs.
    #[prost(btree_map = "string, message", tag = "2")]
    pub inputs: BTreeMap<String, BuildInput>,
    /// Inline definition.
    #[prost(message, optional, tag = "3")]
    pub def: Option<super::definition::PbDefinition>,
    /// `llbbuild.filename` and others.
    #[prost(btree_map = "string, string", tag = "4")]
    pub attrs: BTreeMap<String, String>,
}

/// An input of a [`BuildOp`].
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct BuildInput {
    /// Index into the op's inputs.
    #[prost(int64, tag = "1")]
    pub input: i64,
}

/// Stacks trees; later ones win (C1.13).
#[derive(Clone, PartialEq, prost::Message)]
pub struct MergeOp {
    /// Bottom first.
    #[prost(message, repeated, tag = "1")]
    pub inputs: Vec<BuildInput>,
}

/// The change between two trees (C1.13).
#[derive(Clone, PartialEq, prost::Message)]
pub struct DiffOp {
    /// Before.
    #[prost(message, optional, tag = "1")]
    pub lower: Option<BuildInput>,
    /// After.
    #[prost(message, optional, tag = "2")]
    pub upper: Option<BuildInput>,
}

/// Forwards inputs (C1.14).
#[derive(Clone, PartialEq, prost::Message)]
pub struct PassthroughOp {
    /// Group.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Inputs that are outputs.
    #[prost(int64, repeated, tag = "2")]
    pub outputs: Vec<i64>,
}

/// What is known of a vertex outside its digest (C1.03).
#[derive(Clone, PartialEq, prost::Message)]
pub struct OpMetadata {
    /// Skip the cache look-up (C4.08).
    #[prost(bool, tag = "1")]
    pub ignore_cache: bool,
    /// `llb.customname` and others.
    #[prost(btree_map = "string, string", tag = "2")]
    pub description: BTreeMap<String, String>,
    /// Whether to export to caches.
    #[prost(message, optional, tag = "4")]
    pub export_cache: Option<ExportCache>,
    /// Capabilities the definition needs.
    #[prost(btree_map = "string, bool", tag = "5")]
    pub caps: BTreeMap<String, bool>,
    /// Display group.
    #[prost(message, optional, tag = "6")]
    pub progress_group: Option<ProgressGroup>,
    /// Limits of this op alone (C1.04), as they came: nothing here sets them.
    #[prost(bytes = "vec", tag = "7")]
    pub linux_resources: Vec<u8>,
}

/// Key of the name to show in [`OpMetadata::description`].
pub const CUSTOM_NAME: &str = "llb.customname";

impl OpMetadata {
    /// Metadata with a name to show.
    pub fn named(name: impl Into<String>) -> Self {
        Self { description: BTreeMap::from([(CUSTOM_NAME.into(), name.into())]), ..Self::default() }
    }
}

/// See [`OpMetadata::export_cache`].
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ExportCache {
    /// The value.
    #[prost(bool, tag = "1")]
    pub value: bool,
}

/// See [`OpMetadata::progress_group`].
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ProgressGroup {
    /// Identity.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Name to show.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Members are also shown alone.
    #[prost(bool, tag = "3")]
    pub weak: bool,
}
