//! What refers to an image: signatures, attestations, SBOMs (SPEC E3.15).
//!
//! A registry with the referrers API keeps the list itself. One without it does not know: the list is then an index
//! under the tag `sha256-<hex>`, kept by clients.

use bytes::Bytes;
use reqwest::Method;
use reqwest::StatusCode;
use reqwest::header::{ACCEPT, CONTENT_TYPE, LINK};

use super::answers::next_page;
use super::client::{Client, Inner};
use super::mirrors::{Endpoint, failed};
use super::request::{Call, Payload, Small};
use super::{Fault, RegistryError};
use crate::base::Digest;
use crate::oci::manifest::to_json_pretty;
use crate::oci::{Descriptor, Index, Manifest, Reference, media_type};

/// The largest list that is read.
const MAX_LIST: u64 = 4 << 20;
/// The largest number of pages.
const MAX_PAGES: usize = 64;
/// How often the list of a subject is written before somebody else is believed to write it all the time.
const MAX_WRITES: usize = 5;

impl Client {
    /// Everything that refers to the manifest `subject` of the repository of `repository`; of one artifact type, if
    /// that is named.
    ///
    /// # Errors
    /// See [`Fault`]; that nothing refers to it is none.
    pub async fn referrers(
        &self,
        repository: &Reference,
        subject: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>, RegistryError> {
        let listed = async {
            let place = self.0.origin(repository)?;
            let mut all = match self.0.listed(&place, subject, artifact_type).await? {
                Some(all) => all,
                None => self.0.tagged(&place, subject).await?.manifests,
            };
            // A server may ignore the filter.
            all.retain(|d| artifact_type.is_none_or(|wanted| d.artifact_type.as_deref() == Some(wanted)));
            Ok(all)
        };
        let attempt = format!("failed to list what refers to {}@{subject}", repository.repository());
        listed.await.map_err(failed(attempt))
    }
}

impl Inner {
    /// By the API; `None` where the registry has none.
    async fn listed(
        &self,
        place: &Endpoint,
        subject: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Option<Vec<Descriptor>>, Fault> {
        let filter = artifact_type.map_or_else(String::new, |kind| {
            let query: String =
                url::form_urlencoded::Serializer::new(String::new()).append_pair("artifactType", kind).finish();
            format!("?{query}")
        });
        let mut path = format!("referrers/{subject}{filter}");
        let mut all = Vec::new();
        for _ in 0..MAX_PAGES {
            let call = Call::pull(Method::GET, &place.repository, path).header(ACCEPT, media_type::OCI_INDEX);
            let answer = self.small(&place.host, &call, MAX_LIST).await?;
            match answer.status {
                StatusCode::OK => {}
                StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST | StatusCode::METHOD_NOT_ALLOWED => return Ok(None),
                _ => return Err(answer.unexpected(&Method::GET)),
            }
            // Some answer every unknown path with a page of their own.
            let Ok(index) = serde_json::from_slice::<Index>(&answer.body) else { return Ok(None) };
            all.extend(index.manifests);
            match answer.header(LINK).and_then(|link| next_page(link, &answer.url, &place.repository)) {
                Some(next) => path = next,
                None => break,
            }
        }
        Ok(Some(all))
    }

    /// By the tag; empty where there is none.
    async fn tagged(&self, place: &Endpoint, subject: &Digest) -> Result<Index, Fault> {
        let call = Call::pull(Method::GET, &place.repository, format!("manifests/{}", tag(subject)))
            .header(ACCEPT, media_type::OCI_INDEX);
        let answer = self.small(&place.host, &call, MAX_LIST).await?;
        match answer.status {
            StatusCode::OK => serde_json::from_slice(&answer.body)
                .map_err(|e| Fault::Document(format!("tag {} of {} is no index: {e}", tag(subject), place.repository))),
            StatusCode::NOT_FOUND => Ok(Index::new(Vec::new())),
            _ => Err(answer.unexpected(&Method::GET)),
        }
    }

    /// After a manifest with a subject was put: where the registry did not say that it noticed (`OCI-Subject`) and has
    /// no list, ours is kept up to date.
    pub(super) async fn note_referrer(
        &self,
        place: &Endpoint,
        answer: &Small,
        kind: &str,
        bytes: &Bytes,
    ) -> Result<(), Fault> {
        if answer.header("oci-subject").is_some() {
            return Ok(());
        }
        let Ok(manifest) = serde_json::from_slice::<Manifest>(bytes) else { return Ok(()) };
        // What is said about an image is listed in its index, and nowhere else (as with BuildKit).
        if manifest.artifact_type.as_deref() == Some(media_type::DOCKER_ATTESTATION) {
            return Ok(());
        }
        let Some(subject) = manifest.subject else { return Ok(()) };
        if self.listed(place, &subject.digest, None).await?.is_some() {
            return Ok(());
        }
        let mut descriptor = Descriptor::of_bytes(kind, bytes);
        descriptor.artifact_type = Some(manifest.artifact_type.unwrap_or(manifest.config.media_type));
        descriptor.annotations = manifest.annotations;
        // A tag has no lock: who writes it between our reading and our writing is overwritten, and overwrites us. So ours is looked for
        // again, and added to what is there by then.
        for _ in 0..MAX_WRITES {
            let mut index = self.tagged(place, &subject.digest).await?;
            if index.manifests.iter().any(|d| d.digest == descriptor.digest) {
                return Ok(());
            }
            index.manifests.push(descriptor.clone());
            let mut call = Call::push(Method::PUT, &place.repository, format!("manifests/{}", tag(&subject.digest)))
                .header(CONTENT_TYPE, media_type::OCI_INDEX);
            call.payload = Payload::Bytes(to_json_pretty(&index).into());
            let answer = self.small(&place.host, &call, MAX_LIST).await?;
            if !answer.status.is_success() {
                return Err(answer.unexpected(&Method::PUT));
            }
        }
        match self.tagged(place, &subject.digest).await?.manifests.iter().any(|d| d.digest == descriptor.digest) {
            true => Ok(()),
            false => Err(Fault::Document(format!(
                "tag {} of {} does not keep what is written to it: others write it, too, or the registry forgets",
                tag(&subject.digest),
                place.repository
            ))),
        }
    }
}

/// The tag under which cosign keeps something about `subject`: `sha256-<hex>.sig`.
#[must_use]
pub fn cosign_tag(subject: &Digest, what: &str) -> String {
    format!("{}.{what}", tag(subject))
}

/// `sha256-<hex>`.
fn tag(subject: &Digest) -> String {
    format!("{}-{}", subject.algorithm(), subject.hex())
}
