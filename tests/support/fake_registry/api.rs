//! What a registry does: the distribution API over a map.

use super::http::{Answer, Request, get};
use super::{State, sha256};

impl State {
    pub(super) fn answer(&mut self, request: &Request) -> Answer {
        let path = request.path().to_owned();
        if path == "/token" {
            return self.token(request);
        }
        if let Some(digest) = path.strip_prefix("/storage/") {
            // A storage server behind the registry: serves any blob and must never see credentials.
            let found = self.repositories.values().find_map(|r| r.blobs.get(digest)).cloned();
            return found.map_or_else(|| Answer::new(404), |bytes| ranged(request, &bytes));
        }
        let Some(path) = path.strip_prefix("/v2/") else { return Answer::new(404) };
        if path.is_empty() {
            return self.refusal(request, "", "pull").unwrap_or_else(|| Answer::new(200));
        }
        let action = if matches!(request.method.as_str(), "GET" | "HEAD") { "pull" } else { "push" };
        for (kind, handler) in [
            ("/blobs/uploads/", Self::upload as fn(&mut Self, &Request, &str, &str) -> Answer),
            ("/blobs/", Self::blob),
            ("/manifests/", Self::manifest),
            ("/referrers/", Self::referrers),
        ] {
            if let Some((repository, name)) = path.split_once(kind) {
                if let Some(refusal) = self.refusal(request, repository, action) {
                    return refusal;
                }
                return handler(self, request, repository, name);
            }
        }
        Answer::error(404, "NAME_UNKNOWN", "repository name not known to registry")
    }

    fn blob(&mut self, request: &Request, repository: &str, digest: &str) -> Answer {
        match self.repositories.get(repository).and_then(|r| r.blobs.get(digest)) {
            Some(bytes) => ranged(request, bytes),
            None => Answer::error(404, "BLOB_UNKNOWN", "blob unknown to registry"),
        }
    }

    fn manifest(&mut self, request: &Request, repository: &str, name: &str) -> Answer {
        if request.method == "PUT" {
            let digest = sha256(&request.body);
            if name.starts_with("sha256:") && name != digest {
                return Answer::error(400, "DIGEST_INVALID", "provided digest did not match uploaded content");
            }
            let media_type = request.header("content-type").unwrap_or_default().to_owned();
            let entry = self.repositories.entry(repository.to_owned()).or_default();
            entry.manifests.insert(digest.clone(), (media_type, request.body.clone()));
            let manifest: serde_json::Value = serde_json::from_slice(&request.body).unwrap_or_default();
            let subject = manifest["subject"]["digest"].as_str().filter(|_| self.has_referrers).map(ToOwned::to_owned);
            if !name.starts_with("sha256:") {
                entry.tags.insert(name.to_owned(), digest.clone());
            }
            let answer = Answer::new(201).with("Docker-Content-Digest", digest);
            return match subject {
                Some(subject) => answer.with("OCI-Subject", subject),
                None => answer,
            };
        }
        let unknown = || Answer::error(404, "MANIFEST_UNKNOWN", "manifest unknown");
        let Some(entry) = self.repositories.get(repository) else { return unknown() };
        let digest = entry.tags.get(name).map_or(name, String::as_str);
        match entry.manifests.get(digest) {
            None => unknown(),
            Some((media_type, bytes)) => {
                Answer::new(200).with("Docker-Content-Digest", digest).with_body(media_type, bytes.clone())
            }
        }
    }

    fn referrers(&mut self, request: &Request, repository: &str, subject: &str) -> Answer {
        if !self.has_referrers {
            return Answer::new(404);
        }
        let wanted = get(&request.query(), "artifactType").map(ToOwned::to_owned);
        let list = |(digest, (media_type, bytes)): (&String, &(String, Vec<u8>))| {
            let manifest: serde_json::Value = serde_json::from_slice(bytes).ok()?;
            let fits = manifest["subject"]["digest"] == subject;
            let kind = manifest["artifactType"].as_str().or(manifest["config"]["mediaType"].as_str())?.to_owned();
            (fits && wanted.as_ref().is_none_or(|w| *w == kind)).then(|| {
                serde_json::json!({"mediaType": media_type, "digest": digest, "size": bytes.len(), "artifactType": kind})
            })
        };
        let found: Vec<_> =
            self.repositories.get(repository).into_iter().flat_map(|r| &r.manifests).filter_map(list).collect();
        let index = serde_json::json!({"schemaVersion": 2, "manifests": found});
        let answer = Answer::new(200);
        let answer = if wanted.is_some() { answer.with("OCI-Filters-Applied", "artifactType") } else { answer };
        answer.with_body("application/vnd.oci.image.index.v1+json", index.to_string().into_bytes())
    }

    /// Keeps what arrived of an upload whose connection broke.
    pub(super) fn partial(&mut self, request: &Request, bytes: &[u8]) {
        let session = request.path().rsplit('/').next().unwrap_or_default().to_owned();
        if self.resumable
            && let Some((_, kept)) = self.uploads.get_mut(&session)
        {
            kept.extend_from_slice(bytes);
        }
    }

    fn upload(&mut self, request: &Request, repository: &str, session: &str) -> Answer {
        let query = request.query();
        match request.method.as_str() {
            "POST" => {
                if let (Some(digest), Some(from)) = (get(&query, "mount"), get(&query, "from")) {
                    let from = from.to_owned();
                    if let Some(refusal) = self.refusal(request, &from, "pull") {
                        return refusal;
                    }
                    let bytes = self.repositories.get(&from).and_then(|r| r.blobs.get(digest)).cloned();
                    if let Some(bytes) = bytes {
                        let entry = self.repositories.entry(repository.to_owned()).or_default();
                        entry.blobs.insert(digest.to_owned(), bytes);
                        return Answer::new(201).with("Location", format!("/v2/{repository}/blobs/{digest}"));
                    }
                }
                self.counter += 1;
                let session = format!("session-{}", self.counter);
                self.uploads.insert(session.clone(), (repository.to_owned(), Vec::new()));
                // Relative and absolute in turn, with a query that must survive.
                let path = format!("/v2/{repository}/blobs/uploads/{session}?_state=a%3Db");
                let location = if self.counter.is_multiple_of(2) {
                    path
                } else {
                    format!("{}://{}{path}", self.scheme, self.address)
                };
                Answer::new(202).with("Location", location)
            }
            "GET" if self.resumable => match self.uploads.get(session) {
                None => Answer::error(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry"),
                Some((_, kept)) => Answer::new(204)
                    .with("Location", format!("/v2/{repository}/blobs/uploads/{session}?_state=a%3Db"))
                    .with("Range", format!("0-{}", kept.len().saturating_sub(1))),
            },
            "PATCH" => {
                let Some((_, body)) = self.uploads.get_mut(session) else {
                    return Answer::error(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry");
                };
                let start = request.header("content-range").and_then(|r| r.split('-').next()?.parse::<usize>().ok());
                if start != Some(body.len()) {
                    return Answer::new(416);
                }
                body.extend_from_slice(&request.body);
                let range = format!("0-{}", body.len().saturating_sub(1));
                // The session goes on under another name.
                let kept = self.uploads.remove(session).unwrap_or_default();
                self.counter += 1;
                let session = format!("session-{}", self.counter);
                self.uploads.insert(session.clone(), kept);
                let path = format!("/v2/{repository}/blobs/uploads/{session}?_state=a%3Db");
                Answer::new(202).with("Location", path).with("Range", range)
            }
            "PUT" => {
                let known = if get(&query, "_state") == Some("a=b") { self.uploads.remove(session) } else { None };
                let Some((_, mut body)) = known else {
                    return Answer::error(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry");
                };
                let start = request.header("content-range").and_then(|r| r.split('-').next()?.parse::<usize>().ok());
                if start.is_some_and(|start| start != body.len()) {
                    return Answer::new(416);
                }
                body.extend_from_slice(&request.body);
                let digest = get(&query, "digest").unwrap_or_default().to_owned();
                if sha256(&body) != digest {
                    return Answer::error(400, "DIGEST_INVALID", "provided digest did not match uploaded content");
                }
                let entry = self.repositories.entry(repository.to_owned()).or_default();
                entry.blobs.insert(digest.clone(), body);
                Answer::new(201).with("Docker-Content-Digest", digest)
            }
            "DELETE" => Answer::new(if self.uploads.remove(session).is_some() { 204 } else { 404 }),
            _ => Answer::new(405),
        }
    }
}

fn ranged(request: &Request, bytes: &[u8]) -> Answer {
    let range =
        request.header("range").and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    match range {
        Some(start) if start < bytes.len() => Answer::new(206)
            .with("Content-Range", format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len()))
            .with_body("application/octet-stream", bytes[start..].to_vec()),
        Some(_) => Answer::new(416),
        None => Answer::new(200).with_body("application/octet-stream", bytes.to_vec()),
    }
}
