//! Caches in GitHub's cache service, both versions of its protocol (SPEC B4.05, C7.09).
//!
//! Blobs are entries named by their digest, shared by all scopes; an index is the newest of the entries that share a
//! prefix, as entries cannot be changed. Reading a cache takes one look-up and one download for each git ref that the
//! token may read; a blob takes a look-up when something reads it, and no request at all when it is exported again.

use std::collections::HashSet;
use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use base64::Engine as _;
use bytes::Bytes;
use futures_util::StreamExt as _;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_RANGE, CONTENT_TYPE, RETRY_AFTER};
use reqwest::{Method, Response, StatusCode, Url};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::OnceCell;
use tokio::time::timeout;

use super::document::{annotated, parse_config};
use super::{CacheBackend, CacheBlob, CacheError, Moved, Written};
use crate::base::Digest;
use crate::cache::config::CacheConfig;
use crate::cache::import::{Import, Place};
use crate::cache::spec::GhaOptions;
use crate::oci::Descriptor;
use crate::registry::{BlobSource, Client, Progress};
use crate::source::{BlobPlace, OBJECT_HOST, PlaceFault};
use crate::store::BlobWriter;

/// Bytes of a piece of an upload.
const PIECE: usize = 16 << 20;
/// The largest index that is read.
const MAX_INDEX: usize = 64 << 20;
/// Twirp's name of the service.
const SERVICE: &str = "twirp/github.actions.results.api.v1.CacheService";
/// What a token may do in a scope: read is 1, write is 2.
const WRITE: u64 = 2;

/// A cache in GitHub's service. Cheap to clone.
#[derive(Clone)]
pub struct GhaCache {
    inner: Arc<Inner>,
}

struct Inner {
    http: Client,
    options: GhaOptions,
    /// Git refs the token knows, with what it may do there.
    scopes: Vec<(String, u64)>,
    client: OnceCell<reqwest::Client>,
    /// Keys of blobs that are there, where the service was asked for all of them.
    present: OnceCell<HashSet<String>>,
}

/// An entry that was found.
struct Entry {
    key: String,
    url: String,
}

impl GhaCache {
    /// The cache that `options` name. Connects to nothing yet.
    #[must_use]
    pub fn new(http: Client, options: GhaOptions) -> Self {
        let scopes = scopes(&options.token.0);
        Self { inner: Arc::new(Inner { http, options, scopes, client: OnceCell::new(), present: OnceCell::new() }) }
    }

    /// What the store remembers of where its blobs are.
    #[must_use]
    pub fn place(&self) -> Place {
        Place { host: format!("{OBJECT_HOST}gha"), repository: self.inner.options.url.clone() }
    }

    async fn client(&self) -> Result<&reqwest::Client, CacheError> {
        let make = || async {
            let url = Url::parse(&self.inner.options.url)
                .map_err(|e| CacheError::new(format!("{} is not a URL: {e}", self.inner.options.url)))?;
            self.inner.http.http(&url).await.map_err(|e| CacheError::new(e.to_string()))
        };
        self.inner.client.get_or_try_init(make).await
    }

    fn index_key(&self, scope: &str) -> String {
        let hash = Digest::sha256(scope);
        format!("index-{}-1-{}", self.inner.options.scope, &hash.hex()[..8])
    }

    /// Sends a request until it has an answer, waiting as the service asks, for as long as `timeout` allows.
    /// A silence is the end: who says nothing for that long will hardly answer.
    async fn send(&self, make: impl Fn(&reqwest::Client) -> reqwest::RequestBuilder) -> Result<Response, CacheError> {
        self.send_bytes(0, make).await
    }

    /// The same with a body of so many bytes, for which a slow line needs time.
    async fn send_bytes(
        &self,
        bytes: usize,
        make: impl Fn(&reqwest::Client) -> reqwest::RequestBuilder,
    ) -> Result<Response, CacheError> {
        let client = self.client().await?;
        // 128 KiB a second.
        let patience = self.inner.options.stall() + Duration::from_secs((bytes >> 17) as u64);
        let started = Instant::now();
        let mut pause = Duration::from_millis(500);
        loop {
            let answer = timeout(patience, make(client).send()).await;
            let trouble = match answer {
                Ok(Ok(answer)) => {
                    let status = answer.status();
                    if status != StatusCode::TOO_MANY_REQUESTS && !status.is_server_error() {
                        return Ok(answer);
                    }
                    let asked = answer.headers().get(RETRY_AFTER).and_then(|v| v.to_str().ok()?.parse().ok());
                    pause = asked.map_or(pause, Duration::from_secs);
                    format!("status {status}")
                }
                Ok(Err(e)) => e.without_url().to_string(),
                Err(_) => {
                    let text = format!("the cache service does not answer: no answer for {} s", patience.as_secs());
                    return Err(CacheError::silence(text));
                }
            };
            if started.elapsed() + pause > self.inner.options.patience() {
                return Err(CacheError::new(format!("the cache service does not answer: {trouble}")));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(30));
        }
    }

    /// Calls a method of the service's second version.
    async fn twirp(&self, method: &str, body: &Value) -> Result<(StatusCode, Value), CacheError> {
        let url = format!("{}/{SERVICE}/{method}", self.inner.options.url.trim_end_matches('/'));
        let answer = self
            .send(|client| {
                client
                    .post(&url)
                    .header(AUTHORIZATION, format!("Bearer {}", self.inner.options.token.0))
                    .header(CONTENT_TYPE, "application/json")
                    .body(body.to_string())
            })
            .await?;
        self.json(answer).await
    }

    /// Asks the service's first version.
    async fn rest(&self, method: Method, path: &str, body: Option<&Value>) -> Result<(StatusCode, Value), CacheError> {
        let url = format!("{}/_apis/artifactcache/{path}", self.inner.options.url.trim_end_matches('/'));
        let answer = self
            .send(|client| {
                let request = client
                    .request(method.clone(), &url)
                    .header(AUTHORIZATION, format!("Bearer {}", self.inner.options.token.0))
                    .header(ACCEPT, "application/json;api-version=6.0-preview.1");
                match body {
                    Some(body) => request.header(CONTENT_TYPE, "application/json").body(body.to_string()),
                    None => request,
                }
            })
            .await?;
        self.json(answer).await
    }

    async fn json(&self, answer: Response) -> Result<(StatusCode, Value), CacheError> {
        let status = answer.status();
        let bytes = self.body(answer).await?;
        Ok((status, serde_json::from_slice(&bytes).unwrap_or(Value::Null)))
    }

    async fn body(&self, answer: Response) -> Result<Vec<u8>, CacheError> {
        let mut all = Vec::new();
        let mut stream = answer.bytes_stream();
        loop {
            let next = timeout(self.inner.options.stall(), stream.next()).await;
            match next.map_err(|_| CacheError::new("the cache service stopped sending"))? {
                None => return Ok(all),
                Some(piece) => {
                    all.extend_from_slice(&piece.map_err(|e| CacheError::new(e.without_url().to_string()))?);
                    if all.len() > MAX_INDEX {
                        return Err(CacheError::new("the cache service sent more than an index can be"));
                    }
                }
            }
        }
    }

    /// The newest entry whose key begins with `prefix`.
    async fn find(&self, prefix: &str) -> Result<Option<Entry>, CacheError> {
        if self.inner.options.version == 2 {
            // The service matches the restore keys alone.
            let body = json!({ "key": prefix, "restore_keys": [prefix], "version": version() });
            let (status, answer) = self.twirp("GetCacheEntryDownloadURL", &body).await?;
            // Twirp says that there is nothing by an answer or by an error.
            if status == StatusCode::NOT_FOUND || (status.is_success() && answer["ok"] != true) {
                return Ok(None);
            }
            let url = text(&answer, "signed_download_url", "signedDownloadUrl");
            let key = text(&answer, "matched_key", "matchedKey").unwrap_or_else(|| prefix.to_owned());
            let url = url.ok_or_else(|| refused("look up", status, &answer))?;
            return Ok(Some(Entry { key, url }));
        }
        let path = format!("cache?keys={}&version={}", escape(prefix), version());
        let (status, answer) = self.rest(Method::GET, &path, None).await?;
        if status == StatusCode::NO_CONTENT || status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let url = text(&answer, "archiveLocation", "archiveLocation");
        let key = text(&answer, "cacheKey", "cacheKey").unwrap_or_else(|| prefix.to_owned());
        let url = url.ok_or_else(|| refused("look up", status, &answer))?;
        Ok(Some(Entry { key, url }))
    }

    async fn download(&self, entry: &Entry) -> Result<Response, CacheError> {
        let answer = self.send(|client| client.get(&entry.url)).await?;
        if !answer.status().is_success() {
            let missing = matches!(answer.status().as_u16(), 404 | 410);
            let error = CacheError::new(format!("cannot download {}: status {}", entry.key, answer.status()));
            return Err(CacheError { missing, ..error });
        }
        Ok(answer)
    }

    /// Writes an entry; false if there is one with this key already.
    async fn create(&self, key: &str, content: &Content<'_>) -> Result<bool, CacheError> {
        if self.inner.options.version == 2 {
            let (status, answer) = self.twirp("CreateCacheEntry", &json!({ "key": key, "version": version() })).await?;
            if exists(status, &answer) || (status.is_success() && answer["ok"] == false) {
                return Ok(false);
            }
            let url = text(&answer, "signed_upload_url", "signedUploadUrl");
            let url = url.ok_or_else(|| refused("reserve", status, &answer))?;
            self.upload_blocks(&url, content).await?;
            let body = json!({ "key": key, "version": version(), "size_bytes": content.size.to_string() });
            let (status, answer) = self.twirp("FinalizeCacheEntryUpload", &body).await?;
            if answer["ok"] != true && !exists(status, &answer) {
                return Err(refused("finish", status, &answer));
            }
            return Ok(true);
        }
        let body = json!({ "key": key, "version": version(), "cacheSize": content.size });
        let (status, answer) = self.rest(Method::POST, "caches", Some(&body)).await?;
        if exists(status, &answer) {
            return Ok(false);
        }
        let id = answer["cacheId"].as_u64().ok_or_else(|| refused("reserve", status, &answer))?;
        let mut at = 0_u64;
        let mut pieces = content.pieces().await?;
        while let Some(piece) = pieces.next().await? {
            let url = format!("{}/_apis/artifactcache/caches/{id}", self.inner.options.url.trim_end_matches('/'));
            let range = format!("bytes {at}-{}/*", at + piece.len() as u64 - 1);
            let answer = self
                .send_bytes(piece.len(), |client| {
                    client
                        .patch(&url)
                        .header(AUTHORIZATION, format!("Bearer {}", self.inner.options.token.0))
                        .header(ACCEPT, "application/json;api-version=6.0-preview.1")
                        .header(CONTENT_TYPE, "application/octet-stream")
                        .header(CONTENT_RANGE, &range)
                        .body(piece.clone())
                })
                .await?;
            if !answer.status().is_success() {
                let (status, answer) = self.json(answer).await?;
                return Err(refused("upload to", status, &answer));
            }
            at += piece.len() as u64;
            (content.progress)(at);
        }
        let (status, answer) =
            self.rest(Method::POST, &format!("caches/{id}"), Some(&json!({ "size": content.size }))).await?;
        if !status.is_success() && !exists(status, &answer) {
            return Err(refused("finish", status, &answer));
        }
        Ok(true)
    }

    /// Uploads to an Azure blob through a signed URL: in one piece, or as blocks and their list.
    async fn upload_blocks(&self, url: &str, content: &Content<'_>) -> Result<(), CacheError> {
        let mut pieces = content.pieces().await?;
        let mut blocks = Vec::new();
        let mut done = 0;
        while let Some(piece) = pieces.next().await? {
            let whole = piece.len() as u64 == content.size;
            let id = base64::engine::general_purpose::STANDARD.encode(format!("{:08}", blocks.len()));
            let target = if whole { url.to_owned() } else { format!("{url}&comp=block&blockid={}", escape(&id)) };
            self.put_signed(&target, whole, piece.clone()).await?;
            blocks.push(id);
            done += piece.len() as u64;
            (content.progress)(done);
            if whole {
                return Ok(());
            }
        }
        let list: String = blocks.iter().map(|id| format!("<Latest>{id}</Latest>")).collect();
        let list = format!("<?xml version=\"1.0\" encoding=\"utf-8\"?><BlockList>{list}</BlockList>");
        self.put_signed(&format!("{url}&comp=blocklist"), false, list.into()).await
    }

    async fn put_signed(&self, url: &str, whole: bool, body: Bytes) -> Result<(), CacheError> {
        let answer = self
            .send_bytes(body.len(), |client| {
                let request = client.put(url).header(CONTENT_TYPE, "application/octet-stream").body(body.clone());
                if whole { request.header("x-ms-blob-type", "BlockBlob") } else { request }
            })
            .await?;
        if answer.status().is_success() {
            return Ok(());
        }
        Err(CacheError::new(format!("cannot upload to the cache service: status {}", answer.status())))
    }

    /// Keys of all blobs, if a token for GitHub's API was given: one request instead of one for each blob.
    async fn present(&self) -> Result<&HashSet<String>, CacheError> {
        let ask = || async {
            let (Some(token), Some(repository)) = (&self.inner.options.ghtoken, &self.inner.options.repository) else {
                return Ok(HashSet::new());
            };
            let mut keys = HashSet::new();
            for page in 1..=100 {
                let url = format!(
                    "{}/repos/{repository}/actions/caches?key=buildkit-blob-1-&per_page=100&page={page}",
                    self.inner.options.api_url.trim_end_matches('/')
                );
                let answer = self
                    .send(|client| {
                        client
                            .get(&url)
                            .header(AUTHORIZATION, format!("Bearer {}", token.0))
                            .header(ACCEPT, "application/vnd.github+json")
                    })
                    .await?;
                let (status, answer) = self.json(answer).await?;
                let Some(list) = answer["actions_caches"].as_array() else {
                    return Err(refused("list", status, &answer));
                };
                keys.extend(list.iter().filter_map(|entry| entry["key"].as_str().map(ToOwned::to_owned)));
                if list.len() < 100 {
                    break;
                }
            }
            Ok(keys)
        };
        self.inner.present.get_or_try_init(ask).await
    }
}

fn blob_key(digest: &Digest) -> String {
    format!("buildkit-blob-1-{digest}")
}

/// Every key has the same version: the hash of what BuildKit's client is called.
fn version() -> String {
    Digest::sha256("|go-actionscache-1.0").hex().to_owned()
}

/// A field under either of the names that JSON forms of protobuf messages use.
fn text(answer: &Value, snake: &str, camel: &str) -> Option<String> {
    let value = answer.get(snake).or_else(|| answer.get(camel))?.as_str()?;
    (!value.is_empty()).then(|| value.to_owned())
}

fn exists(status: StatusCode, answer: &Value) -> bool {
    let said = |field: &str| answer[field].as_str().unwrap_or_default().to_lowercase();
    status == StatusCode::CONFLICT
        || said("code") == "already_exists"
        || said("typeKey").contains("alreadyexists")
        || said("message").contains("already exists")
}

fn refused(what: &str, status: StatusCode, answer: &Value) -> CacheError {
    let detail = ["msg", "message"].iter().find_map(|field| answer[*field].as_str()).unwrap_or_default();
    let hint = matches!(status.as_u16(), 401 | 403)
        .then(|| "ACTIONS_RUNTIME_TOKEN is only valid while its job runs".to_owned());
    CacheError { hint, ..CacheError::new(format!("the cache service refused to {what} an entry: {status} {detail}")) }
}

/// Percent-encoding of a value in a query.
fn escape(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

/// The scopes in a runtime token, with their permissions. It is a JWT whose `ac` claim is JSON in a string.
fn scopes(token: &str) -> Vec<(String, u64)> {
    #[derive(Deserialize)]
    struct Claims {
        #[serde(default)]
        ac: String,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Scope {
        scope: String,
        #[serde(default)]
        permission: u64,
    }
    let parse = || {
        let payload = token.split('.').nth(1)?;
        let json = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?;
        let claims: Claims = serde_json::from_slice(&json).ok()?;
        serde_json::from_str::<Vec<Scope>>(&claims.ac).ok()
    };
    parse().unwrap_or_default().into_iter().map(|s| (s.scope, s.permission)).collect()
}

/// What an entry holds.
struct Content<'a> {
    size: u64,
    source: BlobSource,
    progress: &'a Progress,
}

/// Pieces of [`PIECE`] bytes, the last one shorter.
struct Pieces(Option<Box<dyn std::io::Read + Send>>);

impl Content<'_> {
    /// Opened on a thread that may block: a layer may have to be fetched first.
    async fn pieces(&self) -> Result<Pieces, CacheError> {
        let source = self.source.clone();
        let opened = tokio::task::spawn_blocking(move || source.open()).await;
        let opened = opened.map_err(|e| CacheError::new(e.to_string()))?;
        Ok(Pieces(Some(opened.map_err(|e| CacheError::new(e.to_string()))?)))
    }
}

impl Pieces {
    async fn next(&mut self) -> Result<Option<Bytes>, CacheError> {
        let Some(from) = self.0.take() else { return Ok(None) };
        let read = tokio::task::spawn_blocking(move || {
            let mut piece = Vec::new();
            let mut from = from;
            from.by_ref().take(PIECE as u64).read_to_end(&mut piece).map(|_| (from, piece))
        });
        let (from, piece) =
            read.await.map_err(|e| CacheError::new(e.to_string()))?.map_err(|e| CacheError::new(e.to_string()))?;
        if piece.len() == PIECE {
            self.0 = Some(from);
        }
        Ok((!piece.is_empty()).then(|| piece.into()))
    }
}

#[async_trait]
impl CacheBackend for GhaCache {
    fn title(&self) -> String {
        format!("GitHub's cache service, scope {}", self.inner.options.scope)
    }

    async fn load(&self) -> Result<Vec<Import>, CacheError> {
        let mut found = Vec::new();
        for (scope, _) in &self.inner.scopes {
            let Some(entry) = self.find(&format!("{}#", self.index_key(scope))).await? else { continue };
            let bytes = self.body(self.download(&entry).await?).await?;
            let config = parse_config(&self.title(), &bytes)?;
            found.push(Import::new(&self.title(), self.place(), config, &std::collections::HashMap::new()));
        }
        if found.is_empty() {
            return Err(CacheError::missing(format!("{} has no cache yet", self.title())));
        }
        Ok(found)
    }

    async fn put(&self, blob: &CacheBlob, progress: &Progress) -> Result<Moved, CacheError> {
        let place = self.place();
        if blob.held_by.iter().any(|(host, path)| *host == place.host && *path == place.repository) {
            return Ok(Moved::Nothing);
        }
        let key = blob_key(&blob.descriptor.digest);
        if self.present().await?.contains(&key) {
            return Ok(Moved::Nothing);
        }
        // Whether it is there is what the service says when asked for a place for it: one request fewer.
        let content = Content { size: blob.descriptor.size, source: blob.source.clone(), progress };
        let new = self.create(&key, &content).await?;
        Ok(if new { Moved::Bytes(blob.descriptor.size) } else { Moved::Nothing })
    }

    async fn publish(&self, config: CacheConfig, blobs: &[CacheBlob]) -> Result<Written, CacheError> {
        let json = annotated(config, blobs).to_json();
        let writable = self.inner.scopes.iter().find(|(_, permission)| permission & WRITE != 0);
        let scope = writable.map_or("", |(scope, _)| scope.as_str());
        let key = self.index_key(scope);
        let newest = self.find(&format!("{key}#")).await?;
        let first: u64 = newest.and_then(|e| e.key.rsplit_once('#')?.1.parse::<u64>().ok()).map_or(1, |n| n + 1);
        let progress = crate::registry::no_progress();
        // Another job of the same ref may be faster.
        for number in first..first + 10 {
            let source = BlobSource::bytes(json.clone().into());
            let content = Content { size: json.len() as u64, source, progress: &progress };
            let name = format!("{key}#{number}");
            if self.create(&name, &content).await? {
                return Ok(Written { name, document: None });
            }
        }
        Err(CacheError::new(format!("too many others write {key}")))
    }

    async fn probe(&self) -> Result<(), CacheError> {
        let scope = self.inner.scopes.first().map_or("", |(scope, _)| scope.as_str());
        self.find(&format!("{}#", self.index_key(scope))).await.map(drop)
    }
}

#[async_trait]
impl BlobPlace for GhaCache {
    async fn fetch(&self, descriptor: &Descriptor, mut writer: BlobWriter) -> Result<BlobWriter, PlaceFault> {
        let key = blob_key(&descriptor.digest);
        let entry = self.find(&key).await.map_err(PlaceFault::new)?.filter(|entry| entry.key == key);
        let entry = entry.ok_or_else(|| PlaceFault::missing(format!("{key} is not there any more")))?;
        let mut stream = self.download(&entry).await.map_err(PlaceFault::new)?.bytes_stream();
        loop {
            let next = timeout(self.inner.options.stall(), stream.next()).await;
            let Some(piece) = next.map_err(|_| PlaceFault::new("the server stopped sending"))? else {
                return Ok(writer);
            };
            let piece = piece.map_err(|e| PlaceFault::new(e.without_url()))?;
            let written = tokio::task::spawn_blocking(move || writer.write_all(&piece).map(|()| writer)).await;
            writer = written.map_err(PlaceFault::new)?.map_err(PlaceFault::new)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b4_05_scopes_come_from_the_token() {
        let claims = r#"{"ac":"[{\"Scope\":\"refs/heads/x\",\"Permission\":3},{\"Scope\":\"refs/heads/main\",\"Permission\":1}]"}"#;
        let payload = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(claims);
        let found = scopes(&format!("h.{payload}.s"));
        assert_eq!(found, [("refs/heads/x".to_owned(), 3), ("refs/heads/main".to_owned(), 1)]);
        assert!(scopes("nonsense").is_empty() && scopes("a.b.c").is_empty());
    }
}
