//! What a policy sees: `input`, as buildx has it (SPEC B8.09).

use serde_json::{Map, Value, json};

use super::{Env, Facts, RegoError, signatures, sources};
use crate::attest::git::GitObjects;
use crate::dockerfile::gitref;
use crate::llb::op::SourceOp;
use crate::oci::{Platform, Reference};

/// Fields of an image that need its digest or its configuration.
const IMAGE_FIELDS: &[&str] = &[
    "checksum",
    "createdTime",
    "labels",
    "user",
    "volumes",
    "workingDir",
    "env",
    "hasProvenance",
    "provenance",
    "signatures",
];
/// Those that need the documents beside it.
const PROVENANCE_FIELDS: &[&str] = &["hasProvenance", "provenance", "signatures"];
/// Fields of a repository that need the server.
const GIT_FIELDS: &[&str] =
    &["tagName", "branch", "ref", "checksum", "commitChecksum", "isSHA256", "isAnnotatedTag", "tag", "commit"];
/// Those that need the objects themselves. They are words that policies use of images too.
pub(super) const OBJECT_FIELDS: &[&str] = &["tag", "commit"];

/// Every field that has to be asked for, as `--fields` names it.
pub const FIELDS: &[(&str, &[&str])] = &[("image", IMAGE_FIELDS), ("git", GIT_FIELDS), ("http", &["checksum"])];

/// What is known of a source.
#[derive(Debug, Clone, Default)]
pub struct Input {
    /// `image`, `git`, `http` or `local`; nothing when it is asked for capabilities.
    kind: Option<&'static str>,
    fields: Map<String, Value>,
    /// Of a repository, if a policy looks at them.
    pub(super) objects: Option<GitObjects>,
    /// Why signatures of an image do not count.
    pub(super) notes: Vec<String>,
}

/// A source as messages name it.
pub(super) fn shown(source: &SourceOp, platform: &Platform) -> String {
    format!("{} ({platform})", source.identifier)
}

impl Input {
    /// What the graph says of a source.
    ///
    /// # Errors
    /// When it is of a kind that policies do not know.
    pub fn new(source: &SourceOp, platform: &Platform) -> Result<Self, String> {
        let identifier = source.identifier.as_str();
        let (scheme, rest) = identifier.split_once("://").ok_or(format!("invalid source identifier: {identifier}"))?;
        let (kind, value) = match scheme {
            "docker-image" => ("image", image(rest, platform)?),
            "http" | "https" => ("http", http(source, scheme)?),
            "git" => ("git", git(source)?),
            "local" => ("local", json!({ "name": rest })),
            // The context on standard input is the client's, as a directory is; other blobs policies have no words for.
            "oci-layout+blob" if !rest.starts_with('/') => ("local", json!({ "name": "context" })),
            _ => return Err(format!("unsupported source scheme: {scheme}")),
        };
        let fields = match value {
            Value::Object(fields) => fields.into_iter().filter(|(_, value)| !is_empty(value)).collect(),
            _ => Map::new(),
        };
        Ok(Self { kind: Some(kind), fields, ..Self::default() })
    }

    /// Asks for the fields that are `wanted` and not known.
    ///
    /// # Errors
    /// When they cannot be had.
    pub async fn resolve(
        &mut self,
        source: &SourceOp,
        platform: &Platform,
        facts: &dyn Facts,
        wanted: &(dyn Fn(&str) -> bool + Sync),
    ) -> Result<(), RegoError> {
        let missing: Vec<&str> = self.missing().into_iter().filter(|field| wanted(field)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let (beside, own): (Vec<&str>, Vec<&str>) =
            missing.into_iter().partition(|field| PROVENANCE_FIELDS.contains(field));
        if self.kind == Some("image") && beside.contains(&"signatures") {
            let found = facts.attestation_signatures(source, platform).await?;
            let trust = facts.trust().map_err(RegoError::Object)?;
            let (verified, refused) = found.by_certificates(&trust);
            self.set("signatures", verified.iter().map(|(form, signer)| signatures::signer(*form, signer)).collect());
            self.notes.extend(refused.into_iter().map(|why| format!("input.image.signatures: {why}")));
        }
        if self.kind == Some("image") && beside.iter().any(|field| *field != "signatures") {
            let provenance = facts.provenance(source, platform).await?.and_then(|provenance| provenance.input());
            self.set("hasProvenance", json!(provenance.is_some()));
            self.set("provenance", provenance.unwrap_or_default());
        }
        match self.kind {
            Some("image") if own.is_empty() => {}
            Some("image") => {
                let found = facts.image(source, platform).await?;
                self.set("checksum", json!(found.digest.to_string()));
                self.configuration(&found.config);
            }
            Some("http") => {
                let pin = facts.pin(source).await?;
                self.set("checksum", json!(pin.checksum));
            }
            Some("git") => {
                if own.iter().any(|field| OBJECT_FIELDS.contains(field)) {
                    self.objects = facts.objects(source).await?;
                    let shown = |bytes: &[u8]| sources::object(bytes).map_err(RegoError::Object);
                    if let Some(objects) = self.objects.clone() {
                        self.set("commit", shown(&objects.commit)?);
                        self.set("tag", objects.tag.map_or(Ok(Value::Null), |tag| shown(&tag))?);
                    }
                }
                let pin = facts.pin(source).await?;
                if let Some(name) = &pin.reference {
                    self.set("ref", json!(name));
                    for (field, prefix) in [("tagName", "refs/tags/"), ("branch", "refs/heads/")] {
                        self.set(field, json!(name.strip_prefix(prefix).unwrap_or_default()));
                    }
                }
                self.set("isSHA256", json!(pin.checksum.len() == 64));
                self.set("commitChecksum", json!(pin.checksum));
                self.set("isAnnotatedTag", json!(pin.tag.is_some()));
                self.set("checksum", json!(pin.tag.unwrap_or(pin.checksum)));
            }
            _ => {}
        }
        Ok(())
    }

    /// Fields that are not known yet.
    fn missing(&self) -> Vec<&'static str> {
        let fields = FIELDS.iter().find(|(kind, _)| self.kind == Some(kind)).map_or(&[][..], |(_, fields)| fields);
        // A whole name of a ref says whether it is a tag, a commit how long it is.
        let settled = |field: &str| match (self.kind, field) {
            (Some("git"), "tagName" | "branch") => self.fields.contains_key("ref"),
            (Some("git"), "isSHA256" | "isAnnotatedTag") => self.fields.contains_key("checksum"),
            _ => false,
        };
        let known = |field: &str| {
            (OBJECT_FIELDS.contains(&field) && self.objects.is_some())
                || self.fields.contains_key(field)
                || settled(field)
        };
        fields.iter().copied().filter(|field| !known(field)).collect()
    }

    /// The configuration's part; what cannot be read says nothing.
    fn configuration(&mut self, config: &[u8]) {
        let Ok(config) = serde_json::from_slice::<Value>(config) else { return };
        self.set("createdTime", config["created"].clone());
        let inner = &config["config"];
        for (field, key) in [("labels", "Labels"), ("env", "Env"), ("user", "User"), ("workingDir", "WorkingDir")] {
            self.set(field, inner[key].clone());
        }
        let volumes: Vec<&String> = inner["Volumes"].as_object().into_iter().flat_map(Map::keys).collect();
        self.set("volumes", json!(volumes));
    }

    fn set(&mut self, field: &str, value: Value) {
        if !is_empty(&value) {
            self.fields.insert(field.into(), value);
        }
    }

    /// As policies see it.
    #[must_use]
    pub fn into_value(self, env: &Env) -> Value {
        let of_build = json!({
            "args": env.args, "labels": env.labels, "filename": env.filename, "target": env.target,
            "capsRequest": self.kind.is_none(),
        });
        let Value::Object(of_build) = of_build else { return Value::Null };
        let of_build: Map<_, _> = of_build.into_iter().filter(|(_, value)| !is_empty(value)).collect();
        let mut input = Map::new();
        if !of_build.is_empty() {
            input.insert("env".into(), Value::Object(of_build));
        }
        if let Some(kind) = self.kind {
            input.insert(kind.into(), Value::Object(self.fields));
        }
        Value::Object(input)
    }
}

/// The fields of a source that nobody has asked for, as `--fields` takes them.
#[must_use]
pub fn unresolved(input: &Input) -> Vec<String> {
    let kind = input.kind.unwrap_or_default();
    input.missing().into_iter().map(|field| format!("{kind}.{field}")).collect()
}

/// What Go leaves out.
pub(super) fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

fn image(text: &str, platform: &Platform) -> Result<Value, String> {
    let reference = Reference::parse_raw(text).map_err(|e| e.to_string())?;
    let bare = Reference { tag: None, digest: None, ..reference.clone() };
    Ok(json!({
        "ref": reference.to_string(), "host": reference.domain, "repo": bare.familiar(), "fullRepo": reference.repository(),
        "tag": reference.tag, "isCanonical": reference.digest.is_some(),
        "checksum": reference.digest.as_ref().map(ToString::to_string),
        "platform": platform.to_string(), "os": platform.os, "arch": platform.architecture, "variant": platform.variant,
    }))
}

fn http(source: &SourceOp, scheme: &str) -> Result<Value, String> {
    let url = url::Url::parse(&source.identifier).map_err(|e| format!("{}: {e}", source.identifier))?;
    let host = url.host_str().unwrap_or_default();
    let host = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
    let mut query: std::collections::BTreeMap<String, Vec<String>> = std::collections::BTreeMap::new();
    for (key, value) in url.query_pairs() {
        query.entry(key.into_owned()).or_default().push(value.into_owned());
    }
    Ok(json!({
        "url": source.identifier, "schema": scheme, "host": host, "path": url.path(), "query": query,
        "hasAuth": source.attrs.contains_key("http.authheadersecret"),
        "checksum": source.attrs.get("http.checksum"),
    }))
}

fn git(source: &SourceOp) -> Result<Value, String> {
    let full = source.attrs.get("git.fullurl");
    let named = source.identifier.trim_start_matches("git://");
    let (address, fragment) = named.split_once('#').unwrap_or((named, ""));
    let (name, subdir) = fragment.split_once(':').unwrap_or((fragment, ""));
    let remote =
        full.map_or_else(|| format!("https://{address}"), |full| full.split('#').next().unwrap_or(full).into());
    let host = gitref::host(&remote);
    let schema = remote.split_once("://").map_or("ssh", |(scheme, _)| scheme);
    let commit = matches!(name.len(), 40 | 64) && name.bytes().all(|b| b.is_ascii_hexdigit());
    let checksum = if commit { Some(name) } else { None };
    Ok(json!({
        "schema": schema, "host": host, "remote": remote, "fullURL": full,
        "ref": if commit || name.starts_with("refs/") { name } else { "" },
        "tagName": name.strip_prefix("refs/tags/"), "branch": name.strip_prefix("refs/heads/"),
        "subDir": subdir.trim_start_matches("./").trim_matches('/'),
        "isCommitRef": commit, "isSHA256": commit && name.len() == 64, "checksum": checksum, "commitChecksum": checksum,
    }))
}
