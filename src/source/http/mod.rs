//! Files from web servers (SPEC A6.18–A6.20, C2.05).
//!
//! A download is a blob of the store. What a server said of it (`ETag`, `Last-Modified`) is remembered, so that a later
//! build asks whether it is still the same before it downloads it again; with a checksum and a download that fits,
//! nobody is asked. Start reading at [`HttpSource`]; one request's way is in [`fetch`].

mod fetch;

use std::path::Path;
use std::sync::Arc;

use reqwest::Url;
use reqwest::header::{ACCEPT, HeaderMap, HeaderName, HeaderValue, USER_AGENT};

use super::SourceError;
use super::file::{self, FileAttributes, newest_entry, safe_name};
use super::kind::{Agents, Checksum, FileFacts, Pinned, Request, SecretValues, Source};
use super::once::Told;
use crate::attest::{Material, masked};
use crate::base::values::{percent_decode, split_user};
use crate::base::{Digest, Events};
use crate::llb::op::SourceOp;
use crate::registry::{Client, Credential, web};
use crate::store::{Download, Store};
use fetch::{Fetch, Found};

pub use fetch::Limits;

/// Name of a file that has none.
const UNNAMED: &str = "__unnamed__";

/// Downloads files. Cheap to clone.
#[derive(Clone)]
pub struct HttpSource(Arc<Inner>);

struct Inner {
    store: Store,
    client: Client,
    events: Events,
    limits: Limits,
    told: Told<Download>,
}

impl HttpSource {
    /// A source over a store and an HTTP client.
    #[must_use]
    pub fn new(store: Store, client: Client, events: Events) -> Self {
        Self::with_limits(store, client, events, Limits::default())
    }

    /// The same with other limits.
    #[must_use]
    pub fn with_limits(store: Store, client: Client, events: Events, limits: Limits) -> Self {
        Self(Arc::new(Inner { store, client, events, limits, told: Told::default() }))
    }

    /// Downloads a file as whom this machine is to the host of `url`, which takes bearer tokens (SPEC D2.04); without a credential
    /// as anybody. Only for what the user names himself: a graph that could ask for this could read whatever he may read.
    ///
    /// # Errors
    /// As for every source, and if a credential cannot be had.
    pub async fn download_signed_in(&self, url: &Url, vertex: &Digest) -> Result<Digest, SourceError> {
        const ID: &str = "machine";
        let host = url.host_str().unwrap_or_default();
        let credential = self.0.client.credential(host).await;
        let credential = credential.map_err(|reason| SourceError::Secret { host: host.to_owned(), reason })?;
        let token = match credential {
            Some(Credential::Basic { password, .. }) => Some(format!("Bearer {password}")),
            _ => None,
        };
        let secrets: SecretValues =
            token.map(|token| (ID.to_owned(), Arc::new(token.into_bytes()))).into_iter().collect();
        let mut op = SourceOp { identifier: url.to_string(), ..SourceOp::default() };
        op.attrs.insert("http.authheadersecret".into(), ID.into());
        let request = Request { vertex, op: &op, secrets: &secrets, agents: &Agents::default() };
        let fetch = self.fetch(url, &request)?;
        let attributes = FileAttributes::parse(&op)?;
        let download = self.settle(url, &attributes, &fetch).await?;
        let (source, url, name) = (self.clone(), url.clone(), String::new());
        let file = PinnedFile { source, url, attributes, download, name };
        file.ensure_here(&request).await?;
        Ok(file.download.digest)
    }

    fn fetch<'a>(&'a self, url: &Url, request: &Request<'a>) -> Result<Fetch<'a>, SourceError> {
        Ok(Fetch {
            client: &self.0.client,
            store: &self.0.store,
            events: &self.0.events,
            limits: &self.0.limits,
            vertex: request.vertex,
            url: url.clone(),
            auth: authorization(url, request)?,
            headers: headers(request)?,
        })
    }

    /// Work with the store, off the async threads.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, SourceError> + Send + 'static,
    ) -> Result<T, SourceError> {
        let store = self.0.store.clone();
        tokio::task::spawn_blocking(move || work(&store)).await.map_err(|e| SourceError::Internal(e.to_string()))?
    }

    /// What the server has, or what is known to fit the checksum.
    async fn settle(&self, url: &Url, attributes: &FileAttributes, fetch: &Fetch<'_>) -> Result<Download, SourceError> {
        let address = url.to_string();
        let known = self.blocking(move |store| Ok(store.downloads(&address)?)).await?;
        if let Some(wanted) = &attributes.checksum
            && let Some(download) = known.iter().find(|d| d.digest == *wanted)
        {
            return Ok(download.clone());
        }
        let download = match fetch.ask(&known, attributes.checksum.as_ref()).await? {
            Found::Known(download) | Found::New(download) => download,
        };
        if let Some(wanted) = attributes.checksum.as_ref().filter(|wanted| **wanted != download.digest) {
            let (url, expected) = (web::show(url), wanted.clone());
            return Err(SourceError::Mismatch { url, expected, actual: download.digest });
        }
        let (address, row) = (url.to_string(), download.clone());
        self.blocking(move |store| Ok(store.remember_download(&address, &row)?)).await?;
        Ok(download)
    }
}

#[async_trait::async_trait]
impl Source for HttpSource {
    async fn pin(&self, request: &Request<'_>) -> Result<Arc<dyn Pinned>, SourceError> {
        let url = parse_url(&request.op.identifier)?;
        let attributes = FileAttributes::parse(request.op)?;
        let fetch = self.fetch(&url, request)?;
        let checksum = attributes.checksum.as_ref().map_or("", Digest::as_str);
        let settle = self.settle(&url, &attributes, &fetch);
        let download = self.0.told.once(format!("{url} {checksum} {}", fetch.conditions()), settle).await?;
        let name = attributes.name.clone().or_else(|| download.filename.clone());
        let name = name.unwrap_or_else(|| safe_name(url.path()).unwrap_or_else(|| UNNAMED.into()));
        Ok(Arc::new(PinnedFile { source: self.clone(), url, attributes, download, name }))
    }
}

/// A file whose content is settled.
struct PinnedFile {
    source: HttpSource,
    url: Url,
    attributes: FileAttributes,
    download: Download,
    name: String,
}

impl std::fmt::Debug for PinnedFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PinnedFile({}, {})", web::show(&self.url), self.download.digest)
    }
}

impl PinnedFile {
    /// The file in the store, even if it was collected.
    async fn ensure_here(&self, request: &Request<'_>) -> Result<(), SourceError> {
        let digest = self.download.digest.clone();
        let here = self.source.blocking(move |store| Ok(store.has_blob(&digest)?.is_some())).await?;
        if !here {
            // Results made from it were still there until now, the file itself was collected.
            let fetch = self.source.fetch(&self.url, request)?;
            let again = match fetch.ask(&[], Some(&self.download.digest)).await? {
                Found::Known(download) | Found::New(download) => download,
            };
            if again.digest != self.download.digest {
                let (url, expected) = (web::show(&self.url), self.download.digest.clone());
                return Err(SourceError::Mismatch { url, expected, actual: again.digest });
            }
        }
        Ok(())
    }
}

#[async_trait::async_trait]
impl Pinned for PinnedFile {
    fn key(&self) -> String {
        let FileAttributes { mode, uid, gid, .. } = &self.attributes;
        let modified = self.download.modified.unwrap_or_default();
        format!("{}\n{}\n{mode:o} {uid}:{gid} {modified}", self.download.digest, self.name)
    }

    fn file(&self) -> Option<FileFacts> {
        Some(FileFacts { name: self.name.clone(), modified: self.download.modified })
    }

    async fn checksum(&self, request: &Request<'_>, wanted: Checksum) -> Result<Option<String>, SourceError> {
        self.ensure_here(request).await?;
        let digest = self.download.digest.clone();
        self.source.blocking(move |store| Ok(Some(file::checksum(store, &digest, &wanted)?))).await
    }

    fn material(&self) -> Material {
        Material { uri: masked(self.url.as_str()), digest: self.download.digest.to_string() }
    }

    async fn time(&self, request: &Request<'_>) -> Result<Option<i64>, SourceError> {
        if self.download.modified.is_some() {
            return Ok(self.download.modified);
        }
        self.ensure_here(request).await?;
        let digest = self.download.digest.clone();
        self.source.blocking(move |store| newest_entry(store, &digest)).await
    }

    async fn materialise(&self, dest: &Path, request: &Request<'_>) -> Result<(), SourceError> {
        self.ensure_here(request).await?;
        let (attributes, digest, name) = (self.attributes.clone(), self.download.digest.clone(), self.name.clone());
        let (dest, modified) = (dest.to_path_buf(), self.download.modified.unwrap_or_default());
        self.source.blocking(move |store| attributes.write(store, &digest, &dest, &name, modified)).await
    }
}

fn parse_url(identifier: &str) -> Result<Url, SourceError> {
    let invalid = |reason: String| SourceError::Identifier { identifier: without_credentials(identifier), reason };
    let mut url = Url::parse(identifier).map_err(|e| invalid(e.to_string()))?;
    if url.host_str().is_none_or(str::is_empty) {
        return Err(invalid("there is no host".into()));
    }
    url.set_fragment(None);
    Ok(url)
}

/// Text of a URL that may be broken, for messages.
fn without_credentials(text: &str) -> String {
    split_user(text).map_or_else(|| text.to_owned(), |(scheme, _, rest)| format!("{scheme}://{rest}"))
}

/// `Authorization` for `url`: the secrets of SPEC A6.20, else what the URL itself says.
fn authorization(url: &Url, request: &Request<'_>) -> Result<Option<HeaderValue>, SourceError> {
    let value = match secret(url, request) {
        Some(value) => value,
        None if !url.username().is_empty() || url.password().is_some() => {
            use base64::Engine as _;
            let parts = [url.username(), url.password().unwrap_or_default()].map(percent_decode);
            let pair = parts.join(&b':');
            format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair)).into_bytes()
        }
        None => return Ok(None),
    };
    let mut value = HeaderValue::from_bytes(&value)
        .map_err(|_| SourceError::Secret { host: web::show(url), reason: "it is not the value of a header".into() })?;
    value.set_sensitive(true);
    Ok(Some(value))
}

fn secret(url: &Url, request: &Request<'_>) -> Option<Vec<u8>> {
    let named = |values: &SecretValues, id: &str| values.get(id).map(|v| v.trim_ascii_end().to_vec());
    if let Some(id) = request.op.attrs.get("http.authheadersecret").filter(|id| !id.is_empty()) {
        return named(request.secrets, id);
    }
    let host = url.host_str().unwrap_or_default();
    let with_port = url.port().map(|port| format!("{host}:{port}"));
    for host in with_port.iter().map(String::as_str).chain([host]) {
        if let Some(value) = named(request.secrets, &format!("HTTP_AUTH_HEADER_{host}")) {
            return Some(value);
        }
        if let Some(token) = named(request.secrets, &format!("HTTP_AUTH_TOKEN_{host}")) {
            return Some([b"Bearer ", token.as_slice()].concat());
        }
    }
    None
}

/// `http.header.NAME`; only two names are honoured.
fn headers(request: &Request<'_>) -> Result<HeaderMap, SourceError> {
    let mut out = HeaderMap::new();
    for (name, value) in &request.op.attrs {
        // Whoever asks for a signature must not get a file that nobody verified (C2.05).
        if name.starts_with("http.sig.") && !value.is_empty() {
            return Err(SourceError::Attribute { name: "http.sig (not supported)", value: value.clone() });
        }
        let Some(name) = name.strip_prefix("http.header.") else { continue };
        let known: HeaderName = match name.to_ascii_lowercase().as_str() {
            "accept" => ACCEPT,
            "user-agent" => USER_AGENT,
            _ => continue,
        };
        let fail = |_| SourceError::Attribute { name: "http.header", value: value.clone() };
        out.insert(known, HeaderValue::from_str(value).map_err(fail)?);
    }
    Ok(out)
}
