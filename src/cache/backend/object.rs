//! Caches in object stores: S3 and Azure blobs (SPEC B4.07–B4.09, C7.07, C7.08).
//!
//! Blobs are objects named by their digest, a cache is a JSON object that describes its blobs itself. Signing,
//! credentials and the protocol are the `object_store` crate's.

use std::hash::{BuildHasher as _, RandomState};
use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;
use object_store::aws::AmazonS3Builder;
use object_store::azure::{AzureAuthorizer, AzureConfigKey, MicrosoftAzureBuilder};
use object_store::client::{HttpClient, HttpConnector, HttpRequest, HttpRequestBody};
use object_store::path::Path;
use object_store::{BackoffConfig, ObjectStore, ObjectStoreExt as _, RetryConfig, WriteMultipart};
use tokio::sync::{OnceCell, mpsc};
use tokio::time::timeout;
use url::Url;

use super::document::{annotated, parse_config};
use super::pace::Paced;
use super::{CacheBackend, CacheBlob, CacheError, MountPlace, Moved, Written};
use crate::cache::config::CacheConfig;
use crate::cache::import::{Import, Place};
use crate::cache::mounts::SUFFIX;
use crate::cache::spec::{AzureOptions, S3Options};
use crate::oci::Descriptor;
use crate::registry::{BlobSource, Client, Progress};
use crate::source::{BlobPlace, OBJECT_HOST, PlaceFault};
use crate::store::BlobWriter;

/// The longest silence of a server while a cache is written, and while one is read: a cache that makes us wait is worse
/// than none.
const STALL: Duration = Duration::from_secs(10);
const HASTY_STALL: Duration = Duration::from_secs(5);
/// The longest wait for what follows the last byte of an object.
const COMMIT: Duration = Duration::from_secs(60);
/// Bytes of a part of an upload; smaller blobs go in one piece.
const PART: usize = 8 << 20;
/// The largest cache config that is read.
const MAX_CONFIG: u64 = 64 << 20;

/// Which service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Service {
    /// S3 and what speaks its protocol.
    S3(S3Options),
    /// Azure blob storage.
    Azure(AzureOptions),
}

/// A cache in an object store. Cheap to clone.
#[derive(Clone)]
pub struct ObjectCache {
    inner: Arc<Inner>,
}

struct Inner {
    http: Client,
    service: Service,
    /// How often to try again before giving up, if not as often as the options say.
    retries: usize,
    /// The longest silence.
    stall: Duration,
    store: OnceCell<Arc<dyn ObjectStore>>,
}

/// Hands the crate a client with our proxies and trust.
#[derive(Debug)]
struct Connector {
    client: reqwest::Client,
    /// All requests are held back when some are refused.
    adaptive: bool,
}

impl HttpConnector for Connector {
    fn connect(&self, _: &object_store::ClientOptions) -> object_store::Result<HttpClient> {
        let client = self.client.clone();
        Ok(if self.adaptive { HttpClient::new(Paced::new(client)) } else { HttpClient::new(client) })
    }
}

impl ObjectCache {
    /// The cache in `service`, to be read (`hasty`) or written. Connects to nothing yet.
    #[must_use]
    pub fn new(http: Client, service: Service, hasty: bool) -> Self {
        let (retries, stall) = if hasty { (1, HASTY_STALL) } else { (usize::MAX, STALL) };
        Self { inner: Arc::new(Inner { http, service, retries, stall, store: OnceCell::new() }) }
    }

    /// What the store remembers of where its blobs are. Says nothing about who may read them.
    #[must_use]
    pub fn place(&self) -> Place {
        let (kind, repository) = match &self.inner.service {
            Service::S3(s3) => {
                let endpoint = s3.endpoint_url.clone().unwrap_or_else(|| s3.region.clone());
                ("s3", format!("{endpoint}/{}/{}{}", s3.bucket, s3.prefix, s3.blobs_prefix))
            }
            Service::Azure(azure) => {
                ("azblob", format!("{}/{}/{}{}", azure.account_url, azure.container, azure.prefix, azure.blobs_prefix))
            }
        };
        Place { host: format!("{OBJECT_HOST}{kind}"), repository }
    }

    fn names(&self) -> &[String] {
        match &self.inner.service {
            Service::S3(s3) => &s3.names,
            Service::Azure(azure) => &azure.names,
        }
    }

    fn blob_path(&self, descriptor: &Descriptor) -> Result<Path, CacheError> {
        let (prefix, blobs) = match &self.inner.service {
            Service::S3(s3) => (&s3.prefix, &s3.blobs_prefix),
            Service::Azure(azure) => (&azure.prefix, &azure.blobs_prefix),
        };
        path(&format!("{prefix}{blobs}{}", descriptor.digest))
    }

    fn manifest_path(&self, name: &str) -> Result<Path, CacheError> {
        let (prefix, manifests) = match &self.inner.service {
            Service::S3(s3) => (&s3.prefix, &s3.manifests_prefix),
            Service::Azure(azure) => (&azure.prefix, &azure.manifests_prefix),
        };
        path(&format!("{prefix}{manifests}{name}"))
    }

    async fn store(&self) -> Result<&Arc<dyn ObjectStore>, CacheError> {
        self.inner.store.get_or_try_init(|| self.connect()).await
    }

    async fn connect(&self) -> Result<Arc<dyn ObjectStore>, CacheError> {
        let fail = |e: object_store::Error| CacheError::new(format!("{}: {e}", self.title()));
        let retry = |attempts: usize| RetryConfig {
            backoff: BackoffConfig { init_backoff: Duration::from_millis(100), max_backoff: STALL, base: 2.0 },
            max_retries: attempts.min(self.inner.retries),
            retry_timeout: 3 * self.inner.stall,
        };
        match &self.inner.service {
            Service::S3(s3) => {
                let mut builder = AmazonS3Builder::new()
                    .with_bucket_name(&s3.bucket)
                    .with_region(&s3.region)
                    .with_virtual_hosted_style_request(!s3.use_path_style)
                    .with_allow_http(true)
                    .with_retry(retry(s3.retry_max_attempts.saturating_sub(1)));
                let mut url = "https://amazonaws.com".to_owned();
                if let Some(endpoint) = &s3.endpoint_url {
                    url.clone_from(endpoint);
                    // As the AWS SDK does it: the bucket becomes part of the host's name.
                    builder = builder.with_endpoint(if s3.use_path_style {
                        endpoint.clone()
                    } else {
                        endpoint.replacen("://", &format!("://{}.", s3.bucket), 1)
                    });
                }
                for (key, value) in &s3.credentials.0 {
                    if let Ok(key) = key.parse() {
                        builder = builder.with_config(key, value);
                    }
                }
                let builder = builder.with_http_connector(self.connector(&url).await?);
                Ok(Arc::new(builder.build().map_err(fail)?))
            }
            Service::Azure(azure) => {
                let store = self.azure(azure).await?.build().map_err(fail)?;
                Ok(Arc::new(store))
            }
        }
    }

    async fn azure(&self, azure: &AzureOptions) -> Result<MicrosoftAzureBuilder, CacheError> {
        let mut builder = MicrosoftAzureBuilder::new()
            .with_account(&azure.account_name)
            .with_endpoint(azure.account_url.clone())
            .with_container_name(&azure.container)
            .with_allow_http(true)
            .with_retry(RetryConfig {
                max_retries: self.inner.retries.min(2),
                retry_timeout: 3 * self.inner.stall,
                ..RetryConfig::default()
            });
        for (key, value) in &azure.credentials.0 {
            if let Ok(key) = key.parse::<AzureConfigKey>() {
                builder = builder.with_config(key, value);
            }
        }
        Ok(builder.with_http_connector(self.connector(&azure.account_url).await?))
    }

    async fn connector(&self, url: &str) -> Result<Connector, CacheError> {
        let parsed = Url::parse(url).map_err(|e| CacheError::new(format!("{url} is not a URL: {e}")))?;
        let client = self.inner.http.http(&parsed).await.map_err(|e| CacheError::new(e.to_string()))?;
        let adaptive = matches!(&self.inner.service, Service::S3(s3) if s3.adaptive);
        Ok(Connector { client, adaptive })
    }

    /// Makes the container; Azure has none until somebody does.
    async fn make_container(&self, azure: &AzureOptions) -> Result<(), CacheError> {
        let fail = |e: String| CacheError::new(format!("cannot create container {}: {e}", azure.container));
        let store = self.azure(azure).await?.build().map_err(|e| fail(e.to_string()))?;
        let credential = store.credentials().get_credential().await.map_err(|e| fail(e.to_string()))?;
        let url = format!("{}/{}?restype=container", azure.account_url.trim_end_matches('/'), azure.container);
        let mut request: HttpRequest = HttpRequest::new(HttpRequestBody::empty());
        *request.method_mut() = reqwest::Method::PUT;
        *request.uri_mut() = url.parse().map_err(|_| fail(format!("{url} is not a URL")))?;
        request.headers_mut().insert("content-length", reqwest::header::HeaderValue::from_static("0"));
        AzureAuthorizer::new(&credential, &azure.account_name)
            .try_authorize(&mut request)
            .map_err(|e| fail(e.to_string()))?;
        let client = HttpClient::new(self.connector(&azure.account_url).await?.client);
        let answer = client.execute(request).await.map_err(|e| fail(e.to_string()))?;
        // 409: somebody else was faster.
        if answer.status().is_success() || answer.status().as_u16() == 409 {
            return Ok(());
        }
        Err(fail(format!("status {}", answer.status())))
    }

    /// Waits for the answer to a request that carries so many bytes, as long as a slow line needs for them.
    async fn in_time<T>(&self, at: &Path, bytes: usize, request: impl Future<Output = T>) -> Result<T, CacheError> {
        // 128 KiB a second.
        let patience = self.inner.stall + Duration::from_secs((bytes >> 17) as u64);
        let slow =
            |_| CacheError::silence(format!("no answer for {at} from {} for {} s", self.title(), patience.as_secs()));
        timeout(patience, request).await.map_err(slow)
    }

    /// Writes an object; makes the container where that is what is missing.
    async fn write(&self, at: &Path, bytes: Bytes) -> Result<(), CacheError> {
        let store = self.store().await?;
        match self.in_time(at, bytes.len(), store.put(at, bytes.clone().into())).await? {
            Ok(_) => Ok(()),
            Err(object_store::Error::NotFound { .. }) if matches!(self.inner.service, Service::Azure(_)) => {
                if let Service::Azure(azure) = &self.inner.service {
                    self.make_container(azure).await?;
                }
                let put = self.in_time(at, bytes.len(), store.put(at, bytes.into())).await?;
                put.map(|_| ()).map_err(|e| self.failed("write", at, &e))
            }
            Err(e) => Err(self.failed("write", at, &e)),
        }
    }

    fn failed(&self, attempt: &str, at: &Path, error: &object_store::Error) -> CacheError {
        let missing = matches!(error, object_store::Error::NotFound { .. });
        let hint =
            matches!(error, object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. });
        CacheError {
            missing,
            hint: hint.then(|| "check the credentials, and that they may read and write here".to_owned()),
            ..CacheError::new(format!("cannot {attempt} {at} in {}: {error}", self.title()))
        }
    }

    /// A blob that is old is renewed, so that whoever deletes old objects leaves those in use alone (SPEC B4.07).
    async fn touch(&self, at: &Path, modified: SystemTime) -> Result<(), CacheError> {
        let Service::S3(s3) = &self.inner.service else { return Ok(()) };
        if modified.elapsed().unwrap_or_default() < s3.touch_refresh {
            return Ok(());
        }
        // A copy onto itself needs other metadata; there and back again needs nothing.
        let store = self.store().await?;
        // Others may renew the same blob just now: each has a place of its own.
        let own = RandomState::new().hash_one(at);
        let aside = Path::parse(format!("{at}.{own:016x}.touch")).map_err(|e| CacheError::new(e.to_string()))?;
        store.copy(at, &aside).await.map_err(|e| self.failed("renew", at, &e))?;
        store.copy(&aside, at).await.map_err(|e| self.failed("renew", at, &e))?;
        store.delete(&aside).await.map_err(|e| self.failed("renew", at, &e))
    }

    async fn upload(&self, at: &Path, blob: &CacheBlob, progress: &Progress) -> Result<(), CacheError> {
        let mut pieces = read(blob.source.clone());
        if blob.descriptor.size <= PART as u64 {
            let mut whole = Vec::with_capacity(usize::try_from(blob.descriptor.size).unwrap_or_default());
            while let Some(piece) = pieces.recv().await {
                whole.extend_from_slice(&piece.map_err(|e| CacheError::new(e.to_string()))?);
            }
            return self.write(at, whole.into()).await;
        }
        let parallel = match &self.inner.service {
            Service::S3(s3) => s3.upload_parallelism,
            Service::Azure(_) => 4,
        };
        let store = self.store().await?;
        let begun = self.in_time(at, 0, store.put_multipart(at)).await?;
        let upload = begun.map_err(|e| self.failed("write", at, &e))?;
        let mut upload = WriteMultipart::new_with_chunk_size(upload, PART);
        let mut done = 0;
        while let Some(piece) = pieces.recv().await {
            let piece = match piece {
                Ok(piece) => piece,
                Err(e) => {
                    let _ = upload.abort().await;
                    return Err(CacheError::new(e.to_string()));
                }
            };
            let room = self.in_time(at, parallel * PART, upload.wait_for_capacity(parallel)).await?;
            room.map_err(|e| self.failed("write", at, &e))?;
            done += piece.len() as u64;
            upload.put(piece);
            progress(done);
        }
        let slow = |_| CacheError::new(format!("{at} in {} was not completed in time", self.title()));
        let patience = COMMIT + Duration::from_secs(((parallel * PART) >> 17) as u64);
        let finished = timeout(patience, upload.finish()).await.map_err(slow)?;
        finished.map(|_| ()).map_err(|e| self.failed("write", at, &e))
    }

    /// A whole document.
    async fn document(&self, name: &str) -> Result<Bytes, CacheError> {
        let at = self.manifest_path(name)?;
        let answer = self.get(&at).await?;
        if answer.meta.size > MAX_CONFIG {
            return Err(CacheError::new(format!("{at} in {} is too large", self.title())));
        }
        let mut all = Vec::new();
        let mut pieces = answer.into_stream();
        // What counts is whether bytes still come, not how long all of them take.
        while let Some(piece) = self.in_time(&at, 0, pieces.next()).await? {
            all.extend_from_slice(&piece.map_err(|e| self.failed("read", &at, &e))?);
        }
        Ok(all.into())
    }

    /// Sends any object of the same place, piece by piece; what goes wrong is the last piece.
    pub async fn send(&self, key: &str, pieces: &mpsc::Sender<std::io::Result<Bytes>>) {
        if let Err(error) = self.send_all(key, pieces).await {
            // Whoever reads no more does not want to know.
            let _ = pieces.send(Err(std::io::Error::other(error.to_string()))).await;
        }
    }

    async fn send_all(&self, key: &str, pieces: &mpsc::Sender<std::io::Result<Bytes>>) -> Result<(), CacheError> {
        let at = path(key)?;
        let mut stream = self.get(&at).await?.into_stream();
        while let Some(piece) = self.in_time(&at, 0, stream.next()).await? {
            let piece = piece.map_err(|e| self.failed("read", &at, &e))?;
            if pieces.send(Ok(piece)).await.is_err() {
                break;
            }
        }
        Ok(())
    }

    async fn get(&self, at: &Path) -> Result<object_store::GetResult, CacheError> {
        let store = self.store().await?;
        self.in_time(at, 0, store.get(at)).await?.map_err(|e| self.failed("read", at, &e))
    }
}

fn path(text: &str) -> Result<Path, CacheError> {
    Path::parse(text).map_err(|e| CacheError::new(format!("\"{text}\" cannot be the name of an object: {e}")))
}

/// Reads a blob on a thread that may block, a few pieces ahead.
fn read(source: BlobSource) -> mpsc::Receiver<std::io::Result<Bytes>> {
    let (sender, receiver) = mpsc::channel(4);
    tokio::task::spawn_blocking(move || {
        let mut from = match source.open() {
            Ok(from) => from,
            Err(e) => return drop(sender.blocking_send(Err(e))),
        };
        loop {
            let mut piece = vec![0; 256 << 10];
            match from.read(&mut piece) {
                Ok(0) => return,
                Ok(n) => {
                    piece.truncate(n);
                    if sender.blocking_send(Ok(piece.into())).is_err() {
                        return;
                    }
                }
                Err(e) => return drop(sender.blocking_send(Err(e))),
            }
        }
    });
    receiver
}

#[async_trait]
impl CacheBackend for ObjectCache {
    fn title(&self) -> String {
        match &self.inner.service {
            Service::S3(s3) => format!("s3://{}/{}{}", s3.bucket, s3.prefix, s3.names.join(";")),
            Service::Azure(azure) => {
                let url = azure.account_url.trim_end_matches('/');
                format!("{url}/{}/{}{}", azure.container, azure.prefix, azure.names.join(";"))
            }
        }
    }

    async fn load(&self) -> Result<Vec<Import>, CacheError> {
        let mut found = Vec::new();
        let mut missing = None;
        for name in self.names() {
            let bytes = match self.document(name).await {
                Ok(bytes) => bytes,
                Err(e) if e.missing => {
                    missing = Some(e);
                    continue;
                }
                Err(e) => return Err(e),
            };
            let config = parse_config(&self.title(), &bytes)?;
            found.push(Import::new(&self.title(), self.place(), config, &std::collections::HashMap::new()));
        }
        match missing {
            Some(missing) if found.is_empty() => Err(missing),
            _ => Ok(found),
        }
    }

    async fn put(&self, blob: &CacheBlob, progress: &Progress) -> Result<Moved, CacheError> {
        let at = self.blob_path(&blob.descriptor)?;
        if self.has(&blob.descriptor).await? {
            return Ok(Moved::Nothing);
        }
        self.upload(&at, blob, progress).await?;
        Ok(Moved::Bytes(blob.descriptor.size))
    }

    async fn publish(&self, config: CacheConfig, blobs: &[CacheBlob]) -> Result<Written, CacheError> {
        let json = Bytes::from(annotated(config, blobs).to_json());
        for name in self.names() {
            self.write(&self.manifest_path(name)?, json.clone()).await?;
        }
        Ok(Written { name: self.title(), document: None })
    }

    async fn probe(&self) -> Result<(), CacheError> {
        let Some(name) = self.names().iter().next() else { return Ok(()) };
        let at = self.manifest_path(name)?;
        match self.in_time(&at, 0, self.store().await?.head(&at)).await? {
            // The first one to write makes the place.
            Ok(_) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(self.failed("look for", &at, &e)),
        }
    }

    fn mounts(&self) -> Option<&dyn MountPlace> {
        Some(self)
    }
}

#[async_trait]
impl MountPlace for ObjectCache {
    fn place(&self) -> Place {
        Self::place(self)
    }

    async fn load_mounts(&self, _to_replace: bool) -> Result<Vec<u8>, CacheError> {
        let mut missing = CacheError::missing(format!("{} has no name", self.title()));
        for name in self.names() {
            match self.document(&format!("{name}{SUFFIX}")).await {
                Ok(bytes) => return Ok(bytes.to_vec()),
                Err(e) if e.missing => missing = e,
                Err(e) => return Err(e),
            }
        }
        Err(missing)
    }

    async fn has(&self, blob: &Descriptor) -> Result<bool, CacheError> {
        let at = self.blob_path(blob)?;
        match self.in_time(&at, 0, self.store().await?.head(&at)).await? {
            Ok(meta) if meta.size == blob.size => self.touch(&at, meta.last_modified.into()).await.map(|()| true),
            Ok(_) | Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(e) => Err(self.failed("look for", &at, &e)),
        }
    }

    async fn publish_mounts(&self, document: Vec<u8>, _packs: &[Descriptor]) -> Result<String, CacheError> {
        let document = Bytes::from(document);
        for name in self.names() {
            self.write(&self.manifest_path(&format!("{name}{SUFFIX}"))?, document.clone()).await?;
        }
        Ok(format!("{}{SUFFIX}", self.title()))
    }
}

#[async_trait]
impl BlobPlace for ObjectCache {
    async fn fetch(&self, descriptor: &Descriptor, mut writer: BlobWriter) -> Result<BlobWriter, PlaceFault> {
        let at = self.blob_path(descriptor).map_err(PlaceFault::new)?;
        let found = self.get(&at).await;
        let mut stream = found.map_err(|e| PlaceFault { missing: e.missing, ..PlaceFault::new(e) })?.into_stream();
        loop {
            let next = timeout(self.inner.stall, stream.next()).await;
            let Some(piece) = next.map_err(|_| PlaceFault::new("the server stopped sending"))? else {
                return Ok(writer);
            };
            let piece = piece.map_err(PlaceFault::new)?;
            let written = tokio::task::spawn_blocking(move || writer.write_all(&piece).map(|()| writer)).await;
            writer = written.map_err(PlaceFault::new)?.map_err(PlaceFault::new)?;
        }
    }
}
