//! A stand-in for GitHub's cache service, both versions, that refuses requests of another shape than GitHub's clients
//! send. Entries cannot be changed; look-ups match prefixes, newest first.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use crate::fake_registry::http::{self, Answer, Request, get};

/// The job's token: its claims say what it may read and write.
pub fn token() -> String {
    use base64::Engine as _;
    let claims =
        r#"{"ac":"[{\"Scope\":\"refs/heads/x\",\"Permission\":3},{\"Scope\":\"refs/heads/main\",\"Permission\":1}]"}"#;
    format!("h.{}.s", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(claims))
}

/// Key, bytes sent in order, blocks by name.
type Reserved = (String, Vec<u8>, BTreeMap<String, Vec<u8>>);

#[derive(Default)]
struct State {
    /// Finished entries in the order they came.
    entries: Vec<(String, Vec<u8>)>,
    reserved: BTreeMap<u64, Reserved>,
    counter: u64,
    calls: Vec<String>,
    complaints: Vec<String>,
    address: String,
}

/// A running service.
pub struct FakeGha {
    state: Arc<Mutex<State>>,
    /// Its URL.
    pub url: String,
}

impl FakeGha {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new(Mutex::new(State { address: address.clone(), ..State::default() }));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                std::thread::spawn(move || drop(serve(stream, &state)));
            }
        });
        Self { state, url: format!("http://{address}/") }
    }

    /// Downloads and uploads are sent to this address, which leads here.
    pub fn known_as(&self, address: &str) {
        self.state.lock().unwrap().address = address.to_owned();
    }

    /// Calls of the API since this was last asked, without downloads and uploads.
    pub fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().calls)
    }

    /// What was wrong with requests.
    pub fn complaints(&self) -> Vec<String> {
        self.state.lock().unwrap().complaints.clone()
    }

    /// Keys of all entries.
    pub fn keys(&self) -> Vec<String> {
        self.state.lock().unwrap().entries.iter().map(|(key, _)| key.clone()).collect()
    }

    /// Drops entries, as the service does after some days.
    pub fn expire(&self, prefix: &str) {
        self.state.lock().unwrap().entries.retain(|(key, _)| !key.starts_with(prefix));
    }
}

fn serve(mut stream: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let mut buffer = Vec::new();
    while let Some((mut request, length)) = http::read_head(&mut stream, &mut buffer)? {
        request.body = http::read_body(&mut stream, &mut buffer, length)?;
        let answer = {
            let mut state = state.lock().unwrap();
            let result = state.answer(&request);
            result.unwrap_or_else(|complaint| {
                state.complaints.push(format!("{} {}: {complaint}", request.method, request.target));
                Answer::new(400).with_body("application/json", format!(r#"{{"msg":"{complaint}"}}"#).into_bytes())
            })
        };
        stream.write_all(&answer.to_bytes(request.method == "HEAD"))?;
        if request.header("connection") == Some("close") {
            break;
        }
    }
    Ok(())
}

fn json(value: serde_json::Value) -> Result<Answer, String> {
    Ok(Answer::new(200).with_body("application/json", value.to_string().into_bytes()))
}

impl State {
    fn answer(&mut self, request: &Request) -> Result<Answer, String> {
        let path = request.path().to_owned();
        if let Some(id) = path.strip_prefix("/blobs/") {
            return self.signed(request, id);
        }
        self.calls.push(format!("{} {}", request.method, path.rsplit('/').next().unwrap_or_default()));
        if request.header("authorization") != Some(format!("Bearer {}", token()).as_str()) {
            return Err("no or another token".into());
        }
        if let Some(method) = path.strip_prefix("/twirp/github.actions.results.api.v1.CacheService/") {
            return self.twirp(request, method);
        }
        match path.strip_prefix("/_apis/artifactcache/") {
            Some(rest) => self.rest(request, rest),
            None => Err("no such path".into()),
        }
    }

    fn find(&self, prefixes: &[String]) -> Option<&(String, Vec<u8>)> {
        prefixes.iter().find_map(|prefix| self.entries.iter().rev().find(|(key, _)| key.starts_with(prefix)))
    }

    fn url(&self, id: &str) -> String {
        format!("http://{}/blobs/{id}?sig=abc", self.address)
    }

    fn reserve(&mut self, key: &str) -> Option<u64> {
        if self.entries.iter().any(|(known, _)| known == key) || self.reserved.values().any(|r| r.0 == key) {
            return None;
        }
        self.counter += 1;
        self.reserved.insert(self.counter, (key.to_owned(), Vec::new(), BTreeMap::new()));
        Some(self.counter)
    }

    fn finish(&mut self, key: &str, size: u64) -> Result<(), String> {
        let id = self.reserved.iter().find(|(_, r)| r.0 == key).map(|(id, _)| *id).ok_or("nothing reserved")?;
        let (key, bytes, _) = self.reserved.remove(&id).unwrap();
        if bytes.len() as u64 != size {
            return Err(format!("{} bytes came, {size} were announced", bytes.len()));
        }
        self.entries.push((key, bytes));
        Ok(())
    }

    fn twirp(&mut self, request: &Request, method: &str) -> Result<Answer, String> {
        if request.method != "POST" || request.header("content-type") != Some("application/json") {
            return Err("Twirp takes POST with JSON".into());
        }
        let body: serde_json::Value = serde_json::from_slice(&request.body).map_err(|e| e.to_string())?;
        let key = body["key"].as_str().ok_or("no key")?.to_owned();
        if body["version"].as_str().is_none_or(|v| v.len() != 64) {
            return Err("no version".into());
        }
        match method {
            "GetCacheEntryDownloadURL" => {
                let keys: Vec<String> = serde_json::from_value(body["restore_keys"].clone()).map_err(|e| e.to_string())?;
                // The key alone is not matched, as with GitHub.
                match self.find(&keys) {
                    None => json(serde_json::json!({ "ok": false, "signed_download_url": "", "matched_key": "" })),
                    Some((key, _)) => {
                        let url = self.url(&format!("{}", self.entries.iter().position(|e| e.0 == *key).unwrap()));
                        json(serde_json::json!({ "ok": true, "signed_download_url": url, "matched_key": key }))
                    }
                }
            }
            "CreateCacheEntry" => match self.reserve(&key) {
                None => Ok(Answer::new(409).with_body(
                    "application/json",
                    br#"{"code":"already_exists","msg":"cache entry with the same key, version, and scope already exists"}"#.to_vec(),
                )),
                Some(id) => json(serde_json::json!({ "ok": true, "signed_upload_url": self.url(&format!("up-{id}")) })),
            },
            "FinalizeCacheEntryUpload" => {
                // An int64 is a string in the JSON form of protobuf messages.
                let size = body["size_bytes"].as_str().and_then(|s| s.parse().ok()).ok_or("no size")?;
                self.finish(&key, size)?;
                json(serde_json::json!({ "ok": true, "entry_id": "1" }))
            }
            _ => Err("no such method".into()),
        }
    }

    /// The storage behind signed URLs: Azure blobs.
    fn signed(&mut self, request: &Request, id: &str) -> Result<Answer, String> {
        let query = request.query();
        if get(&query, "sig") != Some("abc") {
            return Err("not signed".into());
        }
        if request.header("authorization").is_some() {
            return Err("the job's token does not belong here".into());
        }
        let Some(id) = id.strip_prefix("up-") else {
            let entry = id.parse::<usize>().ok().and_then(|at| self.entries.get(at));
            return Ok(match entry {
                Some((_, bytes)) => Answer::new(200).with_body("application/octet-stream", bytes.clone()),
                None => Answer::new(404),
            });
        };
        let reserved = self.reserved.get_mut(&id.parse().map_err(|_| "no such upload")?).ok_or("no such upload")?;
        match (request.method.as_str(), get(&query, "comp")) {
            ("PUT", None) if request.header("x-ms-blob-type") == Some("BlockBlob") => {
                reserved.1.clone_from(&request.body);
            }
            ("PUT", Some("block")) => {
                let block = get(&query, "blockid").ok_or("no block ID")?.to_owned();
                reserved.2.insert(block, request.body.clone());
            }
            ("PUT", Some("blocklist")) => {
                let text = String::from_utf8_lossy(&request.body).into_owned();
                for part in text.split("<Latest>").skip(1) {
                    let block = part.split("</Latest>").next().unwrap_or_default();
                    let bytes = reserved.2.get(block).ok_or("an unknown block")?.clone();
                    reserved.1.extend(bytes);
                }
            }
            _ => return Err("no way to upload a blob".into()),
        }
        Ok(Answer::new(201))
    }

    fn rest(&mut self, request: &Request, rest: &str) -> Result<Answer, String> {
        if request.header("accept").is_none_or(|a| !a.contains("api-version=6.0-preview.1")) {
            return Err("no API version".into());
        }
        let body: serde_json::Value = serde_json::from_slice(&request.body).unwrap_or_default();
        match (request.method.as_str(), rest.split('/').collect::<Vec<_>>().as_slice()) {
            ("GET", ["cache"]) => {
                let query = request.query();
                let keys = get(&query, "keys").ok_or("no keys")?.split(',').map(ToOwned::to_owned).collect::<Vec<_>>();
                get(&query, "version").ok_or("no version")?;
                match self.find(&keys) {
                    None => Ok(Answer::new(204)),
                    Some((key, _)) => {
                        let url = self.url(&format!("{}", self.entries.iter().position(|e| e.0 == *key).unwrap()));
                        json(serde_json::json!({ "cacheKey": key, "scope": "refs/heads/x", "archiveLocation": url }))
                    }
                }
            }
            ("POST", ["caches"]) => match self.reserve(body["key"].as_str().ok_or("no key")?) {
                None => Ok(Answer::new(409).with_body(
                    "application/json",
                    br#"{"message":"Cache already exists.","typeKey":"ArtifactCacheItemAlreadyExistsException"}"#
                        .to_vec(),
                )),
                Some(id) => json(serde_json::json!({ "cacheId": id })),
            },
            ("PATCH", ["caches", id]) => {
                let reserved = self.reserved.get_mut(&id.parse().map_err(|_| "bad ID")?).ok_or("bad ID")?;
                let range = request.header("content-range").ok_or("no range")?;
                let (first, last) = range
                    .strip_prefix("bytes ")
                    .and_then(|r| r.strip_suffix("/*"))
                    .and_then(|r| r.split_once('-'))
                    .ok_or("a bad range")?;
                let (first, last): (usize, usize) =
                    (first.parse().map_err(|_| "a bad range")?, last.parse().map_err(|_| "a bad range")?);
                if first != reserved.1.len() || last + 1 - first != request.body.len() {
                    return Err(format!("range {range} does not fit"));
                }
                reserved.1.extend_from_slice(&request.body);
                Ok(Answer::new(204))
            }
            ("POST", ["caches", id]) => {
                let id: u64 = id.parse().map_err(|_| "bad ID")?;
                let key = self.reserved.get(&id).ok_or("bad ID")?.0.clone();
                self.finish(&key, body["size"].as_u64().ok_or("no size")?)?;
                Ok(Answer::new(204))
            }
            _ => Err("no such call".into()),
        }
    }
}
