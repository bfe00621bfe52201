//! Values of `--cache-from` and `--cache-to` (SPEC B2.09, B4): which cache, with which options.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::backend::local::Entry;
use super::backend::object::Service;
use super::backend::{DocumentForm, ExportOptions};
use super::mounts::{self, MountChoice};
use crate::base::duration::parse_span;
use crate::base::values::{boolean, byte_size};
use crate::oci::Reference;
use crate::oci::media_type::{Codec, Family};

/// Where a cache is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// Under a reference of a registry; what an inline cache is imported from, too.
    Registry {
        /// The reference.
        reference: Reference,
        /// Accept any certificate, or none.
        insecure: bool,
    },
    /// In the config of the image that is exported.
    Inline,
    /// In a directory.
    Local {
        /// The directory, absolute.
        dir: PathBuf,
        /// Which of its caches.
        entry: Entry,
    },
    /// In an object store.
    Object(Service),
    /// In GitHub's cache service.
    Gha(GhaOptions),
}

/// A text that is not for showing.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Hidden<T>(pub T);

impl<T> std::fmt::Debug for Hidden<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("…")
    }
}

/// `type=s3` (SPEC B4.07).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Options {
    /// The bucket.
    pub bucket: String,
    /// Its region.
    pub region: String,
    /// What the names of all objects begin with.
    pub prefix: String,
    /// What the names of blobs go on with.
    pub blobs_prefix: String,
    /// What the names of caches go on with.
    pub manifests_prefix: String,
    /// Names of caches.
    pub names: Vec<String>,
    /// Another service than Amazon's.
    pub endpoint_url: Option<String>,
    /// The bucket is part of the path, not of the host's name.
    pub use_path_style: bool,
    /// Settings of the credential chain: `aws_access_key_id` and so on.
    pub credentials: Hidden<BTreeMap<String, String>>,
    /// Blobs that were not written for so long are renewed.
    pub touch_refresh: Duration,
    /// Parts of a blob that are uploaded at a time.
    pub upload_parallelism: usize,
    /// How often a request is tried.
    pub retry_max_attempts: usize,
    /// A refusal slows down all requests (`retry_mode=adaptive`).
    pub adaptive: bool,
}

/// `type=azblob` (SPEC B4.08).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AzureOptions {
    /// URL of the account.
    pub account_url: String,
    /// Its name.
    pub account_name: String,
    /// The container.
    pub container: String,
    /// What the names of all objects begin with.
    pub prefix: String,
    /// What the names of blobs go on with.
    pub blobs_prefix: String,
    /// What the names of caches go on with.
    pub manifests_prefix: String,
    /// Names of caches.
    pub names: Vec<String>,
    /// Settings of the credential chain: `azure_storage_account_key` and so on.
    pub credentials: Hidden<BTreeMap<String, String>>,
}

/// `type=gha` (SPEC B4.05).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GhaOptions {
    /// The cache's name among those of a git ref.
    pub scope: String,
    /// URL of the service.
    pub url: String,
    /// Version of the protocol, 1 or 2.
    pub version: u8,
    /// The job's token.
    pub token: Hidden<String>,
    /// How long an export may wait for a service that is busy or out of order, for each request.
    pub timeout: Duration,
    /// The cache is only read: waiting is worse than building.
    pub hasty: bool,
    /// A token for GitHub's API.
    pub ghtoken: Option<Hidden<String>>,
    /// Owner and name of the repository.
    pub repository: Option<String>,
    /// URL of GitHub's API.
    pub api_url: String,
}

impl GhaOptions {
    /// How long a request may take, with all its retries.
    #[must_use]
    pub fn patience(&self) -> Duration {
        if self.hasty { Duration::from_secs(3) } else { self.timeout }
    }

    /// The longest silence of the service.
    #[must_use]
    pub fn stall(&self) -> Duration {
        Duration::from_secs(if self.hasty { 5 } else { 20 })
    }
}

/// A cache to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportSpec {
    /// Where it is.
    pub location: Location,
    /// Which of its cache mounts are restored.
    pub mounts: MountChoice,
    /// What is older is left out (SPEC D1.21).
    pub max_age: Option<Duration>,
}

/// A cache to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportSpec {
    /// Where it is.
    pub location: Location,
    /// What is written, and what failing means.
    pub options: ExportOptions,
    /// How it is written, where there is a choice.
    pub form: DocumentForm,
    /// `local`: delete whatever no entry needs.
    pub reset: bool,
    /// Which cache mounts are written beside it.
    pub mounts: MountChoice,
    /// Bytes of mounts, as they are on the disk, that it may hold.
    pub mounts_cap: u64,
}

impl ExportSpec {
    /// A cache with the defaults of everything.
    #[must_use]
    pub fn of(location: Location) -> Self {
        Self {
            location,
            options: ExportOptions::default(),
            form: DocumentForm::default(),
            reset: false,
            mounts: MountChoice::None,
            mounts_cap: mounts::DEFAULT_CAP,
        }
    }
}

/// Why a value is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SpecError(pub String);

fn fail<T>(text: impl Into<String>) -> Result<T, SpecError> {
    Err(SpecError(text.into()))
}

/// A field of the CSV record: a key with or without a value.
pub type Field = (String, Option<String>);

/// The types there are.
const TYPES: &[&str] = &["registry", "inline", "local", "s3", "azblob", "gha"];

/// Looks up an environment variable; only `cli` has an environment.
pub type Variables<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The fields of one value, taken one after the other, so that what is left over can be refused.
struct Fields {
    flag: &'static str,
    kind: String,
    left: Vec<(String, String)>,
}

impl Fields {
    fn new(flag: &'static str, fields: &[Field]) -> Result<Self, SpecError> {
        let mut left = Vec::new();
        let mut kind = None;
        for (key, value) in fields {
            let Some(value) = value else { return fail(format!("invalid field \"{key}\": expected key=value")) };
            if key == "type" { kind = Some(value.clone()) } else { left.push((key.clone(), value.clone())) }
        }
        let Some(kind) = kind.filter(|k| !k.is_empty()) else {
            return fail("type required, e.g. type=registry,ref=host/app:cache");
        };
        if !TYPES.contains(&kind.as_str()) {
            return fail(format!("unknown cache type \"{kind}\": expected {}", TYPES.join(", ")));
        }
        Ok(Self { flag, kind, left })
    }

    /// The last value of a key counts.
    fn take(&mut self, key: &str) -> Option<String> {
        let found = self.left.iter().rev().find(|(k, _)| k == key).map(|(_, v)| v.clone());
        self.left.retain(|(k, _)| k != key);
        found.filter(|v| !v.is_empty())
    }

    fn require(&mut self, key: &str) -> Result<String, SpecError> {
        let what = if self.flag == "cache-from" { "importer" } else { "exporter" };
        let kind = self.kind.clone();
        self.take(key).ok_or_else(|| SpecError(format!("{kind} cache {what} requires {key}")))
    }

    fn boolean(&mut self, key: &str) -> Result<Option<bool>, SpecError> {
        let Some(text) = self.take(key) else { return Ok(None) };
        let known = boolean(&text).map(Some);
        known.ok_or_else(|| SpecError(format!("invalid value \"{text}\" of {key}: expected true or false")))
    }

    fn number(&mut self, key: &str) -> Result<Option<usize>, SpecError> {
        let Some(text) = self.take(key) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| SpecError(format!("{key}=\"{text}\" is not a number")))
    }

    fn duration(&mut self, key: &str) -> Result<Option<Duration>, SpecError> {
        let Some(text) = self.take(key) else { return Ok(None) };
        parse_span(&text).map(Some).map_err(|e| SpecError(format!("{key}: {e}")))
    }

    fn size(&mut self, key: &str) -> Result<Option<u64>, SpecError> {
        let Some(text) = self.take(key) else { return Ok(None) };
        let bytes = byte_size(&text);
        bytes.map(Some).ok_or_else(|| SpecError(format!("{key}=\"{text}\" is not a size such as 500mb or 4gb")))
    }

    /// `mounts=true`, or the ids of some, as in `mounts=/root/.cache/pip;npm`.
    fn mounts(&mut self) -> Result<MountChoice, SpecError> {
        let Some(text) = self.take("mounts") else { return Ok(MountChoice::None) };
        let choice = match boolean(&text) {
            Some(true) => MountChoice::All,
            Some(false) => return Ok(MountChoice::None),
            None => MountChoice::Ids(text.split(';').filter(|id| !id.is_empty()).map(ToOwned::to_owned).collect()),
        };
        if matches!(self.kind.as_str(), "inline" | "gha") {
            let kind = &self.kind;
            return fail(format!("{kind} caches have no place for cache mounts: use registry, local, s3 or azblob"));
        }
        Ok(choice)
    }

    fn done(self, known: &[&str]) -> Result<(), SpecError> {
        match self.left.first() {
            None => Ok(()),
            Some((key, _)) => {
                let all = known.iter().chain(&["mounts", "mounts-max-size"]).copied();
                let near = crate::base::wording::closest(key, all);
                let hint = near.map_or_else(String::new, |k| format!(" (did you mean {k}?)"));
                fail(format!("unexpected key '{key}' for cache type {}{hint}", self.kind))
            }
        }
    }

    fn reference(&mut self) -> Result<Reference, SpecError> {
        let text = self.require("ref")?;
        text.parse().map_err(|e| SpecError(format!("invalid ref \"{text}\": {e}")))
    }

    fn dir(&mut self, key: &str) -> Result<PathBuf, SpecError> {
        let text = self.require(key)?;
        std::path::absolute(&text).map_err(|e| SpecError(format!("{key}={text}: {e}")))
    }
}

/// References without any `=` are registries (SPEC B2.09).
fn references(fields: &[Field]) -> Option<Result<Vec<Reference>, SpecError>> {
    if fields.iter().any(|(_, value)| value.is_some()) {
        return None;
    }
    let parse = |text: &str| text.parse().map_err(|e| SpecError(format!("invalid ref \"{text}\": {e}")));
    Some(fields.iter().map(|(text, _)| parse(text)).collect())
}

/// One `--cache-from` value.
///
/// # Errors
/// Names the key and the rule.
pub fn import(fields: &[Field], env: Variables<'_>) -> Result<Vec<ImportSpec>, SpecError> {
    if let Some(references) = references(fields) {
        let spec = |reference| ImportSpec {
            location: Location::Registry { reference, insecure: false },
            mounts: MountChoice::None,
            max_age: None,
        };
        return Ok(references?.into_iter().map(spec).collect());
    }
    let mut fields = Fields::new("cache-from", fields)?;
    let mounts = fields.mounts()?;
    let location = match fields.kind.as_str() {
        "registry" => {
            let (reference, insecure) = (fields.reference()?, fields.boolean("registry.insecure")?.unwrap_or(false));
            fields.done(&["ref", "registry.insecure"])?;
            Location::Registry { reference, insecure }
        }
        "local" => {
            let dir = fields.dir("src")?;
            let tag = fields.take("tag");
            let entry = match fields.take("digest") {
                Some(digest) => {
                    Entry::Digest(digest.parse().map_err(|e| SpecError(format!("invalid value of digest: {e}")))?)
                }
                None => Entry::Tag(tag.unwrap_or_else(|| "latest".into())),
            };
            fields.done(&["src", "tag", "digest"])?;
            Location::Local { dir, entry }
        }
        "s3" => {
            let options = s3(&mut fields, env)?;
            fields.done(S3_KEYS)?;
            Location::Object(Service::S3(options))
        }
        "azblob" => {
            let options = azure(&mut fields, env)?;
            fields.done(AZURE_KEYS)?;
            Location::Object(Service::Azure(options))
        }
        "gha" => {
            let Some(options) = gha(&mut fields, env, true)? else { return Ok(Vec::new()) };
            fields.done(GHA_KEYS)?;
            Location::Gha(options)
        }
        _ => return fail("an inline cache is imported from its image: use type=registry,ref=IMAGE"),
    };
    Ok(vec![ImportSpec { location, mounts, max_age: None }])
}

/// One `--cache-to` value.
///
/// # Errors
/// Names the key and the rule.
pub fn export(fields: &[Field], env: Variables<'_>) -> Result<Vec<ExportSpec>, SpecError> {
    if let Some(references) = references(fields) {
        let spec = |reference| ExportSpec::of(Location::Registry { reference, insecure: false });
        return Ok(references?.into_iter().map(spec).collect());
    }
    let mut fields = Fields::new("cache-to", fields)?;
    let options = options(&mut fields)?;
    let mounts = fields.mounts()?;
    let mounts_cap = fields.size("mounts-max-size")?;
    if mounts.is_none() && mounts_cap.is_some() {
        return fail("mounts-max-size means nothing without mounts=true");
    }
    let common = ["mode", "ignore-error"];
    let compression = ["compression", "compression-level", "force-compression"];
    let document = ["oci-mediatypes", "image-manifest"];
    let mut reset = false;
    let mut form = DocumentForm::default();
    let location = match fields.kind.as_str() {
        "registry" => {
            let (reference, insecure) = (fields.reference()?, fields.boolean("registry.insecure")?.unwrap_or(false));
            form = self::form(&mut fields)?;
            fields.done(&[&common[..], &compression, &document, &["ref", "registry.insecure"]].concat())?;
            Location::Registry { reference, insecure }
        }
        "local" => {
            let dir = fields.dir("dest")?;
            let tag = fields.take("tag").unwrap_or_else(|| "latest".into());
            reset = fields.boolean("reset")?.unwrap_or(false);
            form = self::form(&mut fields)?;
            fields.done(&[&common[..], &compression, &document, &["dest", "tag", "reset"]].concat())?;
            Location::Local { dir, entry: Entry::Tag(tag) }
        }
        "s3" => {
            let options = s3(&mut fields, env)?;
            fields.done(&[&common[..], &compression, S3_KEYS].concat())?;
            Location::Object(Service::S3(options))
        }
        "azblob" => {
            let options = azure(&mut fields, env)?;
            fields.done(&[&common[..], &compression, AZURE_KEYS].concat())?;
            Location::Object(Service::Azure(options))
        }
        "gha" => {
            let Some(mut gha) = gha(&mut fields, env, false)? else { return Ok(Vec::new()) };
            fields.done(&[&common[..], &compression, GHA_KEYS].concat())?;
            if options.ignore_error {
                // Who can do without the cache does not wait for a service that is busy for minutes.
                gha.timeout = gha.timeout.min(GHA_PATIENCE);
            }
            Location::Gha(gha)
        }
        _ => {
            if options.everything {
                // BuildKit takes it and exports less than asked for; nobody is helped by that.
                return fail("inline cache only supports mode=min: use type=registry for mode=max");
            }
            fields.done(&common)?;
            Location::Inline
        }
    };
    let mounts_cap = mounts_cap.unwrap_or(mounts::DEFAULT_CAP);
    Ok(vec![ExportSpec { location, options, form, reset, mounts, mounts_cap }])
}

fn options(fields: &mut Fields) -> Result<ExportOptions, SpecError> {
    let everything = match fields.take("mode").as_deref() {
        None | Some("min") => false,
        Some("max") => true,
        Some(other) => return fail(format!("invalid mode \"{other}\": expected min or max")),
    };
    let ignore_error = fields.boolean("ignore-error")?.unwrap_or(false);
    let mut options = ExportOptions { everything, ignore_error, ..ExportOptions::default() };
    if fields.kind == "inline" {
        return Ok(options);
    }
    options.codec = match fields.take("compression").as_deref() {
        None | Some("gzip") => Codec::Gzip,
        Some("zstd") => Codec::Zstd,
        Some("uncompressed") => Codec::Uncompressed,
        Some("estargz") => return fail("compression=estargz is not supported yet; use gzip, zstd or uncompressed"),
        Some(other) => {
            return fail(format!("invalid compression \"{other}\": expected gzip, zstd or uncompressed"));
        }
    };
    if let Some(level) = fields.take("compression-level") {
        let number = level.parse::<i32>();
        let number = number.map_err(|_| SpecError(format!("compression-level \"{level}\" is not a number")))?;
        options.level = Some(number);
    }
    options.force = fields.boolean("force-compression")?.unwrap_or(false);
    Ok(options)
}

const S3_KEYS: &[&str] = &[
    "bucket",
    "region",
    "prefix",
    "blobs_prefix",
    "manifests_prefix",
    "name",
    "endpoint_url",
    "use_path_style",
    "access_key_id",
    "secret_access_key",
    "session_token",
    "touch_refresh",
    "upload_parallelism",
    "disable_accept_encoding",
    "retry_mode",
    "retry_max_attempts",
];

/// Variables of Amazon's credential chain that are handed on.
const AWS_VARIABLES: &[&str] = &[
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_ENDPOINT_URL_STS",
    "AWS_METADATA_ENDPOINT",
];

fn s3(fields: &mut Fields, env: Variables<'_>) -> Result<S3Options, SpecError> {
    let named = |value: Option<String>, key: &str, variable: &str| {
        let value = value.or_else(|| env(variable));
        value.ok_or_else(|| SpecError(format!("{key} ({variable}) not set for s3 cache")))
    };
    let bucket = named(fields.take("bucket"), "bucket", "AWS_BUCKET")?;
    let region = named(fields.take("region"), "region", "AWS_REGION")?;
    let mut credentials = BTreeMap::new();
    let (id, secret) = (fields.take("access_key_id"), fields.take("secret_access_key"));
    let token = fields.take("session_token");
    match (id, secret) {
        (Some(id), Some(secret)) => {
            credentials.insert("aws_access_key_id".to_owned(), id);
            credentials.insert("aws_secret_access_key".to_owned(), secret);
            credentials.extend(token.map(|token| ("aws_session_token".to_owned(), token)));
        }
        (None, None) => {
            credentials.extend(AWS_VARIABLES.iter().filter_map(|name| Some((name.to_lowercase(), env(name)?))));
        }
        _ => return fail("access_key_id and secret_access_key belong together"),
    }
    let adaptive = match fields.take("retry_mode").as_deref() {
        None | Some("standard") => false,
        Some("adaptive") => true,
        Some(mode) => return fail(format!("invalid retry_mode \"{mode}\": expected standard or adaptive")),
    };
    // Requests never carry such a header in their signature, so there is nothing to switch off.
    fields.boolean("disable_accept_encoding")?;
    Ok(S3Options {
        bucket,
        region,
        prefix: fields.take("prefix").unwrap_or_default(),
        blobs_prefix: fields.take("blobs_prefix").unwrap_or_else(|| "blobs/".into()),
        manifests_prefix: fields.take("manifests_prefix").unwrap_or_else(|| "manifests/".into()),
        names: names(fields),
        endpoint_url: fields
            .take("endpoint_url")
            .or_else(|| env("AWS_ENDPOINT_URL_S3"))
            .or_else(|| env("AWS_ENDPOINT_URL")),
        use_path_style: fields.boolean("use_path_style")?.unwrap_or(false),
        credentials: Hidden(credentials),
        touch_refresh: fields.duration("touch_refresh")?.unwrap_or(Duration::from_secs(24 * 3600)),
        upload_parallelism: fields.number("upload_parallelism")?.unwrap_or(4).clamp(1, 64),
        retry_max_attempts: fields.number("retry_max_attempts")?.unwrap_or(3).clamp(1, 20),
        adaptive,
    })
}

/// `name=a;b`.
fn names(fields: &mut Fields) -> Vec<String> {
    let text = fields.take("name").unwrap_or_else(|| "buildkit".into());
    text.split(';').filter(|name| !name.is_empty()).map(ToOwned::to_owned).collect()
}

const AZURE_KEYS: &[&str] = &[
    "account_url",
    "account_name",
    "container",
    "prefix",
    "blobs_prefix",
    "manifests_prefix",
    "name",
    "secret_access_key",
];

/// Variables of Azure's credential chain that are handed on.
const AZURE_VARIABLES: &[&str] = &[
    "AZURE_CLIENT_ID",
    "AZURE_CLIENT_SECRET",
    "AZURE_TENANT_ID",
    "AZURE_FEDERATED_TOKEN_FILE",
    "AZURE_AUTHORITY_HOST",
    "AZURE_STORAGE_SAS_KEY",
];

fn azure(fields: &mut Fields, env: Variables<'_>) -> Result<AzureOptions, SpecError> {
    let either = |value: Option<String>, variable: &str| value.or_else(|| env(variable));
    let url = either(fields.take("account_url"), "BUILDKIT_AZURE_STORAGE_ACCOUNT_URL");
    let Some(account_url) = url else {
        return fail("account_url ($BUILDKIT_AZURE_STORAGE_ACCOUNT_URL) not set for azblob cache");
    };
    let parsed = url::Url::parse(&account_url).map_err(|e| SpecError(format!("account_url {account_url}: {e}")))?;
    // The first part of the host's name is the account's.
    let first = parsed.host_str().and_then(|host| host.split('.').next()).unwrap_or_default().to_owned();
    let name = either(fields.take("account_name"), "BUILDKIT_AZURE_STORAGE_ACCOUNT_NAME");
    let mut credentials = BTreeMap::new();
    match fields.take("secret_access_key") {
        Some(key) => drop(credentials.insert("azure_storage_account_key".to_owned(), key)),
        None => credentials.extend(AZURE_VARIABLES.iter().filter_map(|name| Some((name.to_lowercase(), env(name)?)))),
    }
    Ok(AzureOptions {
        account_name: name.unwrap_or(first),
        account_url: account_url.trim_end_matches('/').to_owned(),
        container: either(fields.take("container"), "BUILDKIT_AZURE_STORAGE_CONTAINER")
            .unwrap_or_else(|| "buildkit-cache".into()),
        prefix: either(fields.take("prefix"), "BUILDKIT_AZURE_STORAGE_PREFIX").unwrap_or_default(),
        blobs_prefix: fields.take("blobs_prefix").unwrap_or_else(|| "blobs/".into()),
        manifests_prefix: fields.take("manifests_prefix").unwrap_or_else(|| "manifests/".into()),
        names: names(fields),
        credentials: Hidden(credentials),
    })
}

/// How long an export that may fail waits for a service that is busy.
const GHA_PATIENCE: Duration = Duration::from_secs(15);

const GHA_KEYS: &[&str] = &["scope", "url", "url_v2", "token", "version", "timeout", "ghtoken", "repository"];

/// `None` where there is no such service: outside of a workflow the cache is left out, as with buildx (SPEC B4.05).
fn gha(fields: &mut Fields, env: Variables<'_>, hasty: bool) -> Result<Option<GhaOptions>, SpecError> {
    let truthy = |text: String| matches!(text.to_lowercase().as_str(), "1" | "true" | "yes" | "on");
    let v2 = fields.take("url_v2");
    let prefers_v2 = env("ACTIONS_CACHE_SERVICE_V2").is_some_and(truthy);
    let v2 = v2.or_else(|| if prefers_v2 { env("ACTIONS_RESULTS_URL") } else { None });
    let v1 = fields.take("url").or_else(|| env("ACTIONS_CACHE_URL")).or_else(|| env("ACTIONS_RESULTS_URL"));
    let version = match fields.take("version").as_deref() {
        None => {
            if v2.is_some() {
                2
            } else {
                1
            }
        }
        Some("1") => 1,
        Some("2") => 2,
        Some(other) => return fail(format!("invalid version \"{other}\" of the cache service: expected 1 or 2")),
    };
    let url = if version == 2 { v2.or_else(|| env("ACTIONS_RESULTS_URL")).or(v1) } else { v1 };
    let token = fields.take("token").or_else(|| env("ACTIONS_RUNTIME_TOKEN"));
    let options = GhaOptions {
        scope: fields.take("scope").unwrap_or_else(|| "buildkit".into()),
        url: url.clone().unwrap_or_default(),
        version,
        token: Hidden(token.clone().unwrap_or_default()),
        timeout: fields.duration("timeout")?.unwrap_or(Duration::from_secs(600)),
        hasty,
        ghtoken: fields.take("ghtoken").map(Hidden),
        repository: fields.take("repository").or_else(|| env("GITHUB_REPOSITORY")),
        api_url: env("GITHUB_API_URL").unwrap_or_else(|| "https://api.github.com".into()),
    };
    Ok((url.is_some() && token.is_some()).then_some(options))
}

fn form(fields: &mut Fields) -> Result<DocumentForm, SpecError> {
    let oci = fields.boolean("oci-mediatypes")?.unwrap_or(true);
    let image_manifest = fields.boolean("image-manifest")?;
    if !oci && image_manifest == Some(true) {
        return fail(
            "invalid configuration for remote cache, OCI mediatypes are required for image-manifest cache format",
        );
    }
    Ok(DocumentForm {
        family: if oci { Family::Oci } else { Family::Docker },
        image_manifest: image_manifest.unwrap_or(oci),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> Vec<Field> {
        let pair = |f: &str| match f.split_once('=') {
            Some((k, v)) => (k.to_owned(), Some(v.to_owned())),
            None => (f.to_owned(), None),
        };
        text.split(',').map(pair).collect()
    }

    fn none(_: &str) -> Option<String> {
        None
    }

    fn to(text: &str) -> Result<ExportSpec, String> {
        export(&fields(text), &none).map(|mut all| all.remove(0)).map_err(|e| e.0)
    }

    // SPEC B2.09
    #[test]
    fn b2_09_references_alone_are_registries() {
        let all = import(&fields("user/app:cache,other"), &none).expect("valid");
        let names: Vec<String> = all
            .iter()
            .map(|spec| match &spec.location {
                Location::Registry { reference, .. } => reference.to_string(),
                other => format!("{other:?}"),
            })
            .collect();
        assert_eq!(names, ["docker.io/user/app:cache", "docker.io/library/other:latest"]);
        assert!(!export(&fields("user/app:cache"), &none).expect("valid")[0].options.everything);
    }

    #[test]
    fn b4_03_and_b4_04_options() {
        let spec = to("type=registry,ref=a/b,mode=max,compression=zstd,compression-level=7,force-compression=true,oci-mediatypes=false,ignore-error=1").expect("valid");
        assert!(spec.options.everything && spec.options.ignore_error && spec.options.force);
        assert_eq!((spec.options.codec, spec.options.level), (Codec::Zstd, Some(7)));
        assert_eq!(spec.form, DocumentForm { family: Family::Docker, image_manifest: false });
        let spec = to("type=local,dest=/x,tag=t,reset=true,image-manifest=false").expect("valid");
        assert_eq!(spec.location, Location::Local { dir: "/x".into(), entry: Entry::Tag("t".into()) });
        assert!(spec.reset && !spec.form.image_manifest);
        assert_eq!(to("type=inline").expect("valid").location, Location::Inline);
        let from = import(&fields("type=local,src=/x"), &none).expect("valid");
        assert_eq!(from[0].location, Location::Local { dir: "/x".into(), entry: Entry::Tag("latest".into()) });
    }

    #[test]
    fn b4_errors_name_the_rule() {
        for (text, expected) in [
            ("ref=a", "type required"),
            ("type=redis,x=y", "unknown cache type \"redis\""),
            ("type=registry,mode=max", "registry cache exporter requires ref"),
            ("type=local,mode=max", "local cache exporter requires dest"),
            ("type=registry,ref=a,mode=full", "invalid mode \"full\""),
            ("type=registry,ref=A B", "invalid ref"),
            ("type=registry,ref=a,ignore-eror=true", "did you mean ignore-error?"),
            ("type=registry,ref=a,compression=lz4", "invalid compression"),
            ("type=registry,ref=a,oci-mediatypes=false,image-manifest=true", "OCI mediatypes are required"),
            ("type=registry,ref=a,force-compression=maybe", "expected true or false"),
            ("type=inline,mode=max", "only supports mode=min"),
            ("type=inline,compression=zstd", "unexpected key 'compression'"),
        ] {
            let error = to(text).expect_err(text);
            assert!(error.contains(expected), "{text}: {error}");
        }
        let error = |text: &str| import(&fields(text), &none).expect_err(text).0;
        assert!(error("type=inline,ref=a").contains("type=registry,ref=IMAGE"));
        assert!(error("type=local,src=/x,digest=abc").contains("invalid value of digest"));
        assert!(error("type=local,tag=x").contains("local cache importer requires src"));
    }

    // SPEC B4.07
    #[test]
    fn b4_07_options_of_s3() {
        let env = |name: &str| match name {
            "AWS_BUCKET" => Some("b".to_owned()),
            "AWS_REGION" => Some("r".to_owned()),
            "AWS_ACCESS_KEY_ID" => Some("id".to_owned()),
            "AWS_ROLE_ARN" => Some("arn".to_owned()),
            _ => None,
        };
        let of = |text: &str| match export(&fields(text), &env).map(|mut all| all.remove(0).location) {
            Ok(Location::Object(Service::S3(s3))) => Ok(s3),
            other => Err(format!("{other:?}")),
        };
        let s3 = of("type=s3,name=a;b,touch_refresh=1h30m,endpoint_url=http://x,use_path_style=true").expect("valid");
        assert_eq!((s3.bucket.as_str(), s3.region.as_str(), s3.names.len()), ("b", "r", 2));
        assert_eq!((s3.blobs_prefix.as_str(), s3.manifests_prefix.as_str()), ("blobs/", "manifests/"));
        assert_eq!((s3.touch_refresh, s3.upload_parallelism), (Duration::from_secs(5400), 4));
        assert_eq!(s3.credentials.0.keys().collect::<Vec<_>>(), ["aws_access_key_id", "aws_role_arn"]);
        let s3 = of("type=s3,bucket=x,access_key_id=a,secret_access_key=geheim").expect("valid");
        assert_eq!((s3.bucket.as_str(), s3.credentials.0.len()), ("x", 2));
        assert!(!format!("{s3:?}").contains("geheim"), "secrets are not shown");
        assert!(of("type=s3,access_key_id=a").is_err_and(|e| e.contains("belong together")));
        assert!(of("type=s3,retry_mode=adaptive").is_ok_and(|s3| s3.adaptive) && !s3.adaptive);
        assert!(of("type=s3,retry_mode=fast").is_err_and(|e| e.contains("expected standard or adaptive")));
        assert!(of("type=s3,touch_refresh=soon").is_err_and(|e| e.contains("touch_refresh: invalid duration")));
        let missing = import(&fields("type=s3,bucket=b"), &none).expect_err("no region").0;
        assert_eq!(missing, "region (AWS_REGION) not set for s3 cache");
    }

    // SPEC B4.08
    #[test]
    fn b4_08_options_of_azure() {
        let from =
            import(&fields("type=azblob,account_url=https://acc.blob.core.windows.net/,secret_access_key=k"), &none);
        let Location::Object(Service::Azure(azure)) = from.expect("valid").remove(0).location else { panic!("azure") };
        assert_eq!((azure.account_name.as_str(), azure.container.as_str()), ("acc", "buildkit-cache"));
        assert_eq!(azure.account_url, "https://acc.blob.core.windows.net");
        assert!(import(&fields("type=azblob,name=x"), &none).expect_err("no url").0.contains("account_url"));
    }

    // SPEC B4.05: outside of a workflow there is no such cache, and that is no error.
    #[test]
    fn b4_05_options_of_gha() {
        assert_eq!(export(&fields("type=gha,mode=max"), &none), Ok(Vec::new()));
        let env = |v2: bool| {
            move |name: &str| match name {
                "ACTIONS_CACHE_URL" => Some("https://one/".to_owned()),
                "ACTIONS_RESULTS_URL" => Some("https://two/".to_owned()),
                "ACTIONS_RUNTIME_TOKEN" => Some("t".to_owned()),
                "ACTIONS_CACHE_SERVICE_V2" if v2 => Some("True".to_owned()),
                _ => None,
            }
        };
        let of = |text: &str, v2| match export(&fields(text), &env(v2)).map(|mut all| all.remove(0).location) {
            Ok(Location::Gha(gha)) => gha,
            other => panic!("{other:?}"),
        };
        let (one, two) = (of("type=gha", false), of("type=gha,scope=x,timeout=5m", true));
        assert_eq!((one.url.as_str(), one.version, one.scope.as_str()), ("https://one/", 1, "buildkit"));
        assert_eq!((two.url.as_str(), two.version, two.timeout), ("https://two/", 2, Duration::from_secs(300)));
        assert_eq!(of("type=gha,version=2", false).url, "https://two/");
        // A service that is busy is not waited for long where the cache may be done without.
        assert_eq!(
            (one.timeout, of("type=gha,ignore-error=true", true).timeout),
            (Duration::from_secs(600), GHA_PATIENCE)
        );
        assert!(export(&fields("type=gha,version=3"), &env(true)).is_err());
    }
}
