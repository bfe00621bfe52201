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
            if !name.starts_with("sha256:") {
                entry.tags.insert(name.to_owned(), digest.clone());
            }
            return Answer::new(201).with("Docker-Content-Digest", digest);
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
                self.uploads.insert(session.clone(), repository.to_owned());
                // Relative and absolute in turn, with a query that must survive.
                let path = format!("/v2/{repository}/blobs/uploads/{session}?_state=a%3Db");
                let location = if self.counter.is_multiple_of(2) {
                    path
                } else {
                    format!("{}://{}{path}", self.scheme, self.address)
                };
                Answer::new(202).with("Location", location)
            }
            "PUT" => {
                if get(&query, "_state") != Some("a=b") || self.uploads.remove(session).is_none() {
                    return Answer::error(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry");
                }
                let digest = get(&query, "digest").unwrap_or_default().to_owned();
                if sha256(&request.body) != digest {
                    return Answer::error(400, "DIGEST_INVALID", "provided digest did not match uploaded content");
                }
                let entry = self.repositories.entry(repository.to_owned()).or_default();
                entry.blobs.insert(digest.clone(), request.body.clone());
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
