//! What a front end says to its host and hears from it: the messages of `moby.buildkit.v1.frontend.LLBBridge` with their field
//! numbers (SPEC C3.08–C3.16). Plain data; who carries them is `frontend::gateway`'s business.

use std::collections::BTreeMap;

use super::definition::{PbDefinition, Range, SourceInfo};
use super::op::{Platform, SourceOp};
use crate::grpc::Status;

/// The service that messages belong to.
pub const SERVICE: &str = "moby.buildkit.v1.frontend.LLBBridge";

/// `Ping`
#[derive(Clone, PartialEq, prost::Message)]
pub struct PingResponse {
    /// What the calls can do.
    #[prost(message, repeated, tag = "1")]
    pub frontend_api_caps: Vec<ApiCap>,
    /// What definitions can ask for.
    #[prost(message, repeated, tag = "2")]
    pub llb_caps: Vec<ApiCap>,
    /// Who builds.
    #[prost(message, repeated, tag = "3")]
    pub workers: Vec<WorkerRecord>,
}

/// A capability.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ApiCap {
    /// Its name.
    #[prost(string, tag = "1")]
    pub id: String,
    /// It is there.
    #[prost(bool, tag = "2")]
    pub enabled: bool,
}

/// A worker.
#[derive(Clone, PartialEq, prost::Message)]
pub struct WorkerRecord {
    /// Its name.
    #[prost(string, tag = "1")]
    pub id: String,
    /// What is known of it.
    #[prost(btree_map = "string, string", tag = "2")]
    pub labels: BTreeMap<String, String>,
    /// What it runs; the first one is its own.
    #[prost(message, repeated, tag = "3")]
    pub platforms: Vec<Platform>,
    /// The program.
    #[prost(message, optional, tag = "5")]
    pub version: Option<Version>,
}

/// A version of the builder.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Version {
    /// Who it is.
    #[prost(string, tag = "1")]
    pub package: String,
    /// Its number.
    #[prost(string, tag = "2")]
    pub version: String,
    /// The language that the built-in front end speaks.
    #[prost(string, tag = "4")]
    pub dockerfile: String,
}

/// `ResolveImageConfig`
#[derive(Clone, PartialEq, prost::Message)]
pub struct ResolveImageConfigRequest {
    /// The image.
    #[prost(string, tag = "1")]
    pub reference: String,
    /// For what; the worker's own if absent.
    #[prost(message, optional, tag = "2")]
    pub platform: Option<Platform>,
    /// `default`, `pull` or `local`.
    #[prost(string, tag = "3")]
    pub resolve_mode: String,
    /// Name to show.
    #[prost(string, tag = "4")]
    pub log_name: String,
    /// 0 a registry, 1 an OCI layout.
    #[prost(int32, tag = "5")]
    pub resolver_type: i32,
    /// The layout's name.
    #[prost(string, tag = "7")]
    pub store_id: String,
}

/// The answer.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ResolveImageConfigResponse {
    /// What the name means.
    #[prost(string, tag = "1")]
    pub digest: String,
    /// The config as stored.
    #[prost(bytes = "vec", tag = "2")]
    pub config: Vec<u8>,
    /// The name that took the place of the one asked for.
    #[prost(string, tag = "3")]
    pub reference: String,
}

/// `ResolveSourceMeta`
#[derive(Clone, PartialEq, prost::Message)]
pub struct ResolveSourceMetaRequest {
    /// The source.
    #[prost(message, optional, tag = "1")]
    pub source: Option<SourceOp>,
    /// For what.
    #[prost(message, optional, tag = "2")]
    pub platform: Option<Platform>,
    /// Name to show.
    #[prost(string, tag = "3")]
    pub log_name: String,
    /// As in [`ResolveImageConfigRequest`].
    #[prost(string, tag = "4")]
    pub resolve_mode: String,
    /// Of a repository.
    #[prost(message, optional, tag = "5")]
    pub git: Option<GitQuery>,
    /// Of an image.
    #[prost(message, optional, tag = "6")]
    pub image: Option<ImageQuery>,
    /// Of a file of a web server.
    #[prost(message, optional, tag = "7")]
    pub http: Option<HttpQuery>,
}

/// What is to be known of a repository.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct GitQuery {
    /// The commit and the tag as git keeps them.
    #[prost(bool, tag = "1")]
    pub return_object: bool,
}

/// What is to be known of a file of a web server.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct HttpQuery {
    /// A further digest of it.
    #[prost(message, optional, tag = "1")]
    pub checksum_request: Option<ChecksumRequest>,
}

/// A digest that somebody wants.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ChecksumRequest {
    /// 0 SHA-256, 1 SHA-384, 2 SHA-512.
    #[prost(int32, tag = "1")]
    pub algo: i32,
    /// What stands behind the content for it.
    #[prost(bytes = "vec", tag = "2")]
    pub suffix: Vec<u8>,
}

/// What is to be known of an image.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ImageQuery {
    /// Not its config.
    #[prost(bool, tag = "1")]
    pub no_config: bool,
    /// What is attested of it, too.
    #[prost(bool, tag = "2")]
    pub attestation_chain: bool,
    /// Of what is attested, predicates of these types.
    #[prost(string, repeated, tag = "3")]
    pub resolve_attestations: Vec<String>,
}

/// The answer.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ResolveSourceMetaResponse {
    /// The source as it will be used.
    #[prost(message, optional, tag = "1")]
    pub source: Option<SourceOp>,
    /// Of an image.
    #[prost(message, optional, tag = "2")]
    pub image: Option<ImageMeta>,
    /// Of a repository.
    #[prost(message, optional, tag = "3")]
    pub git: Option<GitMeta>,
    /// Of a file of a web server.
    #[prost(message, optional, tag = "4")]
    pub http: Option<HttpMeta>,
}

/// What is known of an image.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ImageMeta {
    /// What the name means.
    #[prost(string, tag = "1")]
    pub digest: String,
    /// The config as stored.
    #[prost(bytes = "vec", tag = "2")]
    pub config: Vec<u8>,
    /// What leads from its index to what is attested of it.
    #[prost(message, optional, tag = "3")]
    pub attestation_chain: Option<AttestationChain>,
}

/// What leads from an index to what is attested of one of its images, and who signed that. Documents are known by their digests.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AttestationChain {
    /// The index.
    #[prost(string, tag = "1")]
    pub root: String,
    /// The image.
    #[prost(string, tag = "2")]
    pub image_manifest: String,
    /// The manifest of what is attested of it; empty if there is none.
    #[prost(string, tag = "3")]
    pub attestation_manifest: String,
    /// Manifests of signatures of that.
    #[prost(string, repeated, tag = "4")]
    pub signature_manifests: Vec<String>,
    /// All these, and what belongs to the last ones.
    #[prost(btree_map = "string, message", tag = "5")]
    pub blobs: BTreeMap<String, ChainBlob>,
}

/// A document of a chain.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ChainBlob {
    /// What it is.
    #[prost(message, optional, tag = "1")]
    pub descriptor: Option<ChainDescriptor>,
    /// Its bytes.
    #[prost(bytes = "vec", tag = "2")]
    pub data: Vec<u8>,
}

/// What a document of a chain is.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ChainDescriptor {
    /// Its media type.
    #[prost(string, tag = "1")]
    pub media_type: String,
    /// Its digest.
    #[prost(string, tag = "2")]
    pub digest: String,
    /// Bytes.
    #[prost(int64, tag = "3")]
    pub size: i64,
    /// What whoever lists it says of it.
    #[prost(btree_map = "string, string", tag = "5")]
    pub annotations: BTreeMap<String, String>,
}

/// What is known of a repository.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct GitMeta {
    /// The commit, or the tag that leads to it.
    #[prost(string, tag = "1")]
    pub checksum: String,
    /// Its full name.
    #[prost(string, tag = "2")]
    pub reference: String,
    /// The commit that a tag leads to.
    #[prost(string, tag = "3")]
    pub commit_checksum: String,
    /// The commit as git keeps it.
    #[prost(bytes = "vec", tag = "4")]
    pub commit_object: Vec<u8>,
    /// The tag as git keeps it.
    #[prost(bytes = "vec", tag = "5")]
    pub tag_object: Vec<u8>,
}

/// What is known of a file of a web server.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct HttpMeta {
    /// Digest of its content.
    #[prost(string, tag = "1")]
    pub checksum: String,
    /// Its name.
    #[prost(string, tag = "2")]
    pub filename: String,
    /// When it was changed last, as the server says.
    #[prost(message, optional, tag = "3")]
    pub last_modified: Option<Moment>,
    /// The further digest.
    #[prost(message, optional, tag = "4")]
    pub checksum_response: Option<ChecksumResponse>,
}

/// `google.protobuf.Timestamp`
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Moment {
    /// Since 1970.
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    /// And these.
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

/// A digest that somebody wanted.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ChecksumResponse {
    /// It.
    #[prost(string, tag = "1")]
    pub digest: String,
    /// What stood behind the content for it.
    #[prost(bytes = "vec", tag = "2")]
    pub suffix: Vec<u8>,
}

/// `Solve`
#[derive(Clone, PartialEq, prost::Message)]
pub struct SolveRequest {
    /// The graph.
    #[prost(message, optional, tag = "1")]
    pub definition: Option<PbDefinition>,
    /// Or another front end that makes one.
    #[prost(string, tag = "2")]
    pub frontend: String,
    /// What that is told.
    #[prost(btree_map = "string, string", tag = "3")]
    pub frontend_opt: BTreeMap<String, String>,
    /// The caller understands [`SolveResponse::result`].
    #[prost(bool, tag = "5")]
    pub allow_result_return: bool,
    /// The caller understands [`Ref`].
    #[prost(bool, tag = "6")]
    pub allow_result_array_ref: bool,
    /// Caches that would help.
    #[prost(message, repeated, tag = "12")]
    pub cache_imports: Vec<CacheImport>,
    /// Graphs that the other front end is given.
    #[prost(btree_map = "string, message", tag = "13")]
    pub frontend_inputs: BTreeMap<String, PbDefinition>,
    /// Now, not when somebody reads it.
    #[prost(bool, tag = "14")]
    pub evaluate: bool,
}

/// A cache that would help.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct CacheImport {
    /// Its kind.
    #[prost(string, tag = "1")]
    pub kind: String,
    /// Where it is.
    #[prost(btree_map = "string, string", tag = "2")]
    pub attrs: BTreeMap<String, String>,
}

/// The answer.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SolveResponse {
    /// The result, for callers of old.
    #[prost(string, tag = "1")]
    pub reference: String,
    /// The result.
    #[prost(message, optional, tag = "3")]
    pub result: Option<ResultMessage>,
}

/// `Result`: what a front end made.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ResultMessage {
    /// One tree or several.
    #[prost(oneof = "ResultRefs", tags = "1, 2, 3, 4")]
    pub refs: Option<ResultRefs>,
    /// What is to be known of it, by key (SPEC C3.20).
    #[prost(btree_map = "string, bytes", tag = "10")]
    pub metadata: BTreeMap<String, Vec<u8>>,
    /// What is attested, by platform.
    #[prost(btree_map = "string, message", tag = "12")]
    pub attestations: BTreeMap<String, Attestations>,
}

/// The forms of a result.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum ResultRefs {
    /// One tree, of old.
    #[prost(string, tag = "1")]
    RefDeprecated(String),
    /// Several, of old.
    #[prost(message, tag = "2")]
    RefsDeprecated(RefMapDeprecated),
    /// One tree.
    #[prost(message, tag = "3")]
    Ref(Ref),
    /// Several, by platform.
    #[prost(message, tag = "4")]
    Refs(RefMap),
}

/// See [`ResultRefs::RefsDeprecated`].
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RefMapDeprecated {
    /// By platform.
    #[prost(btree_map = "string, string", tag = "1")]
    pub refs: BTreeMap<String, String>,
}

/// See [`ResultRefs::Refs`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct RefMap {
    /// By platform.
    #[prost(btree_map = "string, message", tag = "1")]
    pub refs: BTreeMap<String, Ref>,
}

/// A result by its name; an empty name is an empty tree.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Ref {
    /// The name.
    #[prost(string, tag = "1")]
    pub id: String,
    /// What it is made of.
    #[prost(message, optional, tag = "2")]
    pub def: Option<PbDefinition>,
}

/// What is attested of one platform's result.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Attestations {
    /// One after the other.
    #[prost(message, repeated, tag = "1")]
    pub attestation: Vec<Attestation>,
}

/// One attestation.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Attestation {
    /// 0 an in-toto predicate, 1 a directory of statements.
    #[prost(int32, tag = "1")]
    pub kind: i32,
    /// Where its content is.
    #[prost(message, optional, tag = "3")]
    pub reference: Option<Ref>,
    /// The file in there.
    #[prost(string, tag = "4")]
    pub path: String,
    /// What the content is.
    #[prost(string, tag = "5")]
    pub predicate_type: String,
    /// What it is about, if not the result.
    #[prost(message, repeated, tag = "6")]
    pub subjects: Vec<Subject>,
}

/// What an attestation is about.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Subject {
    /// 0 the result itself, 1 what is named.
    #[prost(int32, tag = "1")]
    pub kind: i32,
    /// Digests.
    #[prost(string, repeated, tag = "2")]
    pub digest: Vec<String>,
    /// A name.
    #[prost(string, tag = "3")]
    pub name: String,
}

/// `Return`: the end.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ReturnRequest {
    /// What was made.
    #[prost(message, optional, tag = "1")]
    pub result: Option<ResultMessage>,
    /// Or why not.
    #[prost(message, optional, tag = "2")]
    pub error: Option<Status>,
}

/// `ReadFile`
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ReadFileRequest {
    /// Of which result.
    #[prost(string, tag = "1")]
    pub reference: String,
    /// Its path.
    #[prost(string, tag = "2")]
    pub path: String,
    /// Only this part.
    #[prost(message, optional, tag = "3")]
    pub range: Option<FileRange>,
}

/// A part of a file; a length of 0 is the rest.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct FileRange {
    /// Its first byte.
    #[prost(int64, tag = "1")]
    pub offset: i64,
    /// How many.
    #[prost(int64, tag = "2")]
    pub length: i64,
}

/// The answer.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ReadFileResponse {
    /// Content.
    #[prost(bytes = "vec", tag = "1")]
    pub data: Vec<u8>,
}

/// `ReadDir`
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ReadDirRequest {
    /// Of which result.
    #[prost(string, tag = "1")]
    pub reference: String,
    /// Its path.
    #[prost(string, tag = "2")]
    pub path: String,
    /// Only names like this.
    #[prost(string, tag = "3")]
    pub include_pattern: String,
}

/// The answer.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ReadDirResponse {
    /// By name.
    #[prost(message, repeated, tag = "1")]
    pub entries: Vec<Stat>,
}

/// `StatFile`
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct StatFileRequest {
    /// Of which result.
    #[prost(string, tag = "1")]
    pub reference: String,
    /// Its path.
    #[prost(string, tag = "2")]
    pub path: String,
}

/// The answer.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StatFileResponse {
    /// What it is.
    #[prost(message, optional, tag = "1")]
    pub stat: Option<Stat>,
}

/// A file, as fsutil tells of it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Stat {
    /// Its name.
    #[prost(string, tag = "1")]
    pub path: String,
    /// Go's mode bits, see [`go_mode`].
    #[prost(uint32, tag = "2")]
    pub mode: u32,
    /// Owner.
    #[prost(uint32, tag = "3")]
    pub uid: u32,
    /// Group.
    #[prost(uint32, tag = "4")]
    pub gid: u32,
    /// Bytes.
    #[prost(int64, tag = "5")]
    pub size: i64,
    /// Nanoseconds since 1970.
    #[prost(int64, tag = "6")]
    pub mod_time: i64,
    /// Where a symlink leads.
    #[prost(string, tag = "7")]
    pub linkname: String,
    /// Of a device.
    #[prost(int64, tag = "8")]
    pub devmajor: i64,
    /// Of a device.
    #[prost(int64, tag = "9")]
    pub devminor: i64,
}

/// Go's mode bits for a `st_mode`.
#[must_use]
pub fn go_mode(mode: u32) -> u32 {
    let kind = match mode & 0o170_000 {
        0o040_000 => 1 << 31,
        0o120_000 => 1 << 27,
        0o060_000 => 1 << 26,
        0o010_000 => 1 << 25,
        0o140_000 => 1 << 24,
        0o020_000 => 1 << 26 | 1 << 21,
        _ => 0,
    };
    let special = [(0o4000, 1 << 23), (0o2000, 1 << 22), (0o1000, 1 << 20)];
    let special = special.iter().filter(|(bit, _)| mode & bit != 0).fold(0, |all, (_, theirs)| all | theirs);
    kind | special | mode & 0o777
}

/// `Evaluate`
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct EvaluateRequest {
    /// Which result.
    #[prost(string, tag = "1")]
    pub reference: String,
}

/// `Inputs`
#[derive(Clone, PartialEq, prost::Message)]
pub struct InputsResponse {
    /// By name.
    #[prost(btree_map = "string, message", tag = "1")]
    pub definitions: BTreeMap<String, PbDefinition>,
}

/// `Warn`
#[derive(Clone, PartialEq, prost::Message)]
pub struct WarnRequest {
    /// The vertex it is about.
    #[prost(string, tag = "1")]
    pub digest: String,
    /// How bad.
    #[prost(int64, tag = "2")]
    pub level: i64,
    /// One line.
    #[prost(bytes = "vec", tag = "3")]
    pub short: Vec<u8>,
    /// More.
    #[prost(bytes = "vec", repeated, tag = "4")]
    pub detail: Vec<Vec<u8>>,
    /// Where to read on.
    #[prost(string, tag = "5")]
    pub url: String,
    /// The file it is about.
    #[prost(message, optional, tag = "6")]
    pub info: Option<SourceInfo>,
    /// Where in it.
    #[prost(message, repeated, tag = "7")]
    pub ranges: Vec<Range>,
}

/// An answer that says nothing, or a request that asks for nothing in particular.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Empty {}

/// `grpc.health.v1.HealthCheckResponse`; 1 is serving.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct HealthResponse {
    /// See above.
    #[prost(int32, tag = "1")]
    pub status: i32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c3_14_modes_are_go_s() {
        for (unix, go) in [
            (0o100_644, 0o644),
            (0o040_755, 1 << 31 | 0o755),
            (0o120_777, 1 << 27 | 0o777),
            (0o104_755, 1 << 23 | 0o755),
            (0o041_777, 1 << 31 | 1 << 20 | 0o777),
            (0o020_666, 1 << 26 | 1 << 21 | 0o666),
        ] {
            assert_eq!(go_mode(unix), go, "{unix:o}");
        }
    }
}
