//! Files from a server that answers as the test says.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::web::{Answer, Reply, Web};
use super::*;
use crate::base::FaultKind;
use crate::llb::op::SourceOp;
use crate::source::http::{HttpSource, Limits};
use crate::source::kind::{Agents, Pinned, Request, SecretValues, Source};

struct Files {
    fixture: Fixture,
    limits: Limits,
    secrets: SecretValues,
    agents: Agents,
}

impl Files {
    fn new() -> Self {
        Self { fixture: Fixture::new(), limits: Limits::default(), secrets: SecretValues::new(), agents: Agents::new() }
    }

    /// As a new invocation would ask.
    async fn pin(&self, url: &str, attrs: &[(&str, &str)]) -> Result<Arc<dyn Pinned>, SourceError> {
        let retry = RetryPolicy { base: Duration::from_millis(2), ..RetryPolicy::default() };
        let client = Client::new(ClientOptions { retry, ..ClientOptions::default() }).expect("a client");
        let source = HttpSource::with_limits(self.fixture.store.clone(), client, Events::none(), self.limits);
        source.pin(&self.request(&op(url, attrs))).await
    }

    fn request<'a>(&'a self, op: &'a SourceOp) -> Request<'a> {
        static VERTEX: std::sync::OnceLock<Digest> = std::sync::OnceLock::new();
        Request { vertex: VERTEX.get_or_init(|| Digest::sha256(b"")), op, secrets: &self.secrets, agents: &self.agents }
    }

    async fn write(&self, pinned: &Arc<dyn Pinned>, url: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a directory");
        let op = op(url, &[]);
        pinned.materialise(dir.path(), &self.request(&op)).await.expect("written");
        dir
    }

    async fn fails(&self, url: &str, attrs: &[(&str, &str)]) -> SourceError {
        match self.pin(url, attrs).await {
            Ok(pinned) => panic!("{pinned:?} should have failed"),
            Err(error) => error,
        }
    }
}

fn op(url: &str, attrs: &[(&str, &str)]) -> SourceOp {
    let attrs: BTreeMap<String, String> = attrs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    SourceOp { identifier: url.into(), attrs }
}

fn names(dir: &Path) -> Vec<String> {
    std::fs::read_dir(dir).expect("lists").map(|e| e.expect("an entry").file_name().to_string_lossy().into()).collect()
}

#[tokio::test]
async fn c2_05_where_the_name_comes_from() {
    let web = Web::file("x", &[("Content-Disposition", "attachment; filename=\"../sent.txt\"")]);
    let plain = Web::file("x", &[]);
    let files = Files::new();
    for (url, attrs, name) in [
        (web.url("/a/b.txt"), vec![("http.filename", "given")], "given"),
        (web.url("/a/b.txt"), vec![], "sent.txt"),
        (plain.url("/a/b.txt?q=1"), vec![], "b.txt"),
        (plain.url("/"), vec![], "__unnamed__"),
    ] {
        let pinned = files.pin(&url, &attrs).await.expect("pinned");
        assert_eq!(names(files.write(&pinned, &url).await.path()), [name], "{url}");
    }
}

// SPEC A6.18, C2.05
#[tokio::test]
async fn a6_18_an_unchanged_file_is_asked_for_once_and_not_sent() {
    let web = Web::start(|request| match request.header("if-none-match") {
        Some(tags) if tags.contains("\"one\"") => Answer::new(304).with("ETag", "\"one\""),
        _ => Answer::new(200).with_body("text/plain", b"body".to_vec()).with("ETag", "\"one\""),
    });
    let files = Files::new();
    let url = web.url("/f");
    let first = files.pin(&url, &[]).await.expect("pinned");
    assert_eq!(web.asked(), ["GET /f"]);
    web.forget();
    let second = files.pin(&url, &[]).await.expect("pinned");
    assert_eq!(web.asked(), ["HEAD /f"]);
    assert_eq!((first.key(), first.material()), (second.key(), second.material()));
    assert_eq!(first.material().digest, Digest::sha256(b"body").to_string());
}

// SPEC C2.05: what cannot be verified is not fetched.
#[tokio::test]
async fn c2_05_signatures_are_refused_not_ignored() {
    let web = Web::file("x", &[]);
    let files = Files::new();
    for name in ["http.sig.pubkey", "http.sig.armored"] {
        let error = files.fails(&web.url("/f"), &[(name, "key")]).await.to_string();
        assert!(error.contains("http.sig"), "{error}");
    }
    assert!(web.asked().is_empty(), "nothing was downloaded");
}

#[tokio::test]
async fn c2_05_a_server_without_conditions_or_head_is_understood() {
    let web = Web::start(|request| match request.method.as_str() {
        "HEAD" => Answer::new(405),
        _ => Answer::new(200).with_body("text/plain", b"body".to_vec()).with("ETag", "\"one\""),
    });
    let files = Files::new();
    let first = files.pin(&web.url("/f"), &[]).await.expect("pinned").key();
    assert_eq!(files.pin(&web.url("/f"), &[]).await.expect("pinned").key(), first);
    assert_eq!(web.asked(), ["GET /f", "HEAD /f", "GET /f"]);
}

#[tokio::test]
async fn a6_19_a_known_checksum_needs_no_network() {
    let web = Web::file("body", &[("Last-Modified", "Thu, 01 Jan 1970 00:01:00 GMT")]);
    let files = Files::new();
    let url = web.url("/f");
    let right = Digest::sha256(b"body").to_string();
    let first = files.pin(&url, &[("http.checksum", &right)]).await.expect("pinned").key();
    web.forget();
    let again = files.pin(&url, &[("http.checksum", &right)]).await.expect("pinned");
    assert_eq!(again.key(), first, "the modification time is remembered too");
    assert_eq!(web.asked(), [""; 0]);
    let wrong = Digest::sha256(b"other").to_string();
    let error = files.fails(&url, &[("http.checksum", &wrong)]).await;
    assert_eq!(error.to_string(), format!("digest mismatch for {url}: {right} (expected: {wrong})"));
}

#[tokio::test]
async fn a6_20_secrets_stay_with_their_host() {
    let other = Web::file("secret file", &[]);
    let target = other.url("/x");
    let web = Web::start(move |_| Answer::new(302).with("Location", target.clone()));
    let mut files = Files::new();
    files.secrets.insert("HTTP_AUTH_TOKEN_127.0.0.1".into(), Arc::new(b"t0ken\n".to_vec()));
    files.pin(&web.url("/start"), &[]).await.expect("pinned");
    assert_eq!(web.requests()[0].header("authorization"), Some("Bearer t0ken"));
    assert_eq!(other.requests()[0].header("authorization"), None, "another port is another server");
    let (host, url) = (web.host.clone(), web.url("/again"));
    files.secrets.insert(format!("HTTP_AUTH_HEADER_{host}"), Arc::new(b"Basic abc".to_vec()));
    web.forget();
    files.pin(&url, &[]).await.expect("pinned");
    assert_eq!(web.requests()[0].header("authorization"), Some("Basic abc"), "the header goes first");
    web.forget();
    files.secrets.clear();
    files.pin(&url.replace("http://", "http://user:p%40ss@"), &[]).await.expect("pinned");
    assert_eq!(web.requests()[0].header("authorization"), Some("Basic dXNlcjpwQHNz"));
}

/// Knows who this machine is.
struct Machine;

#[async_trait::async_trait]
impl CredentialProvider for Machine {
    async fn credential(&self, _: &Wanted<'_>) -> Result<Option<Credential>, String> {
        Ok(Some(Credential::Basic { username: "oauth2accesstoken".into(), password: "t0ken".into() }))
    }
}

#[tokio::test]
async fn d2_04_only_what_the_user_names_is_asked_for_as_this_machine() {
    let other = Web::file("secret file", &[]);
    let target = other.url("/x");
    let web = Web::start(move |_| Answer::new(302).with("Location", target.clone()));
    let files = Files::new();
    let options = ClientOptions { credentials: Arc::new(Machine), ..ClientOptions::default() };
    let client = Client::new(options).expect("a client");
    let source = HttpSource::new(files.fixture.store.clone(), client, Events::none());
    let (url, vertex) = (web.url("/bucket/object"), Digest::sha256(b""));
    let digest = source.download_signed_in(&url.parse().expect("a URL"), &vertex).await.expect("downloaded");
    assert_eq!(digest, Digest::sha256(b"secret file"));
    assert_eq!(web.requests()[0].header("authorization"), Some("Bearer t0ken"));
    assert_eq!(other.requests()[0].header("authorization"), None, "another port is another server");
    web.forget();
    source.pin(&files.request(&op(&url, &[("http.authheadersecret", "machine")]))).await.expect("pinned");
    assert_eq!(web.requests()[0].header("authorization"), None, "a graph gets nothing");
}

#[tokio::test]
async fn a_download_that_breaks_goes_on_where_it_broke() {
    let body: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    let (count, sent) = (Arc::new(AtomicUsize::new(0)), body.clone());
    let web = Web::start(move |request| {
        let n = count.fetch_add(1, Ordering::SeqCst);
        let from = request.header("range").and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        let from: usize = from.unwrap_or_default();
        let answer = Answer::new(if from > 0 { 206 } else { 200 })
            .with_body("text/plain", sent[from..].to_vec())
            .with("ETag", "\"x\"")
            .with("Content-Range", format!("bytes {from}-{}/{}", sent.len() - 1, sent.len()));
        if n < 2 { Reply::Cut(answer, 150_000) } else { Reply::Whole(answer) }
    });
    let files = Files::new();
    let pinned = files.pin(&web.url("/f"), &[]).await.expect("pinned");
    assert_eq!(pinned.material().digest, Digest::sha256(&body).to_string());
    let ranges: Vec<_> = web.requests().iter().map(|r| r.header("range").is_some()).collect();
    assert_eq!(ranges, [false, true, true]);
    assert!(web.requests()[1..].iter().all(|r| r.header("if-range") == Some("\"x\"")));
}

#[tokio::test]
async fn a_busy_server_is_asked_again_and_a_refusal_is_not() {
    let count = AtomicUsize::new(0);
    let web = Web::start(move |request| match (request.path(), count.fetch_add(1, Ordering::SeqCst)) {
        ("/busy", 0 | 1) => Answer::new(503),
        ("/busy", _) => Answer::new(200).with_body("text/plain", b"x".to_vec()),
        ("/private", _) => Answer::new(401),
        _ => Answer::new(404),
    });
    let files = Files::new();
    files.pin(&web.url("/busy"), &[]).await.expect("pinned");
    web.forget();
    let error = files.fails(&web.url("/gone"), &[]).await;
    assert_eq!(
        error.to_string(),
        format!("failed to load {}: invalid response status 404 Not Found", web.url("/gone"))
    );
    assert_eq!((error.kind(), web.asked().len()), (FaultKind::Remote, 1));
    let error = files.fails(&web.url("/private?sig=secret"), &[]).await;
    assert_eq!(error.kind(), FaultKind::Auth);
    assert!(error.hint().is_some_and(|h| h.contains("HTTP_AUTH_TOKEN_127.0.0.1")), "{:?}", error.hint());
    assert!(!error.to_string().contains("secret"));
}

#[tokio::test]
async fn hostile_servers_come_to_an_end() {
    let web = Web::start(|request| match request.path() {
        "/loop" => Reply::Whole(Answer::new(302).with("Location", "/loop")),
        "/metadata" => Reply::Whole(Answer::new(302).with("Location", "http://169.254.169.254/latest/meta-data/")),
        "/file" => Reply::Whole(Answer::new(302).with("Location", "file:///etc/passwd")),
        "/announced" => Reply::Whole(Answer::new(200).with_body("text/plain", vec![0; 2000])),
        _ => Reply::Endless,
    });
    let mut files = Files::new();
    files.limits = Limits { size: 1000, ..Limits::default() };
    for (path, text) in [
        ("/loop", "redirects more than 10 times"),
        ("/file", "redirect to file, which is not HTTP"),
        ("/metadata", "redirect to the link-local address http://169.254.169.254/latest/meta-data/"),
        ("/announced", "is larger than 1000 bytes"),
        ("/endless", "is larger than 1000 bytes"),
    ] {
        let error = files.fails(&web.url(path), &[]).await.to_string();
        assert!(error.contains(text), "{path}: {error}");
    }
    for url in ["http://169.254.169.254/latest/", "http://[fd00:ec2::254]/", "http://metadata.google.internal./x"] {
        let error = files.fails(url, &[]).await.to_string();
        assert!(error.contains("the metadata service of a cloud is not for builds"), "{url}: {error}");
    }
    files.limits = Limits { size: u64::MAX, time: Duration::from_millis(200), ..Limits::default() };
    let error = files.fails(&web.url("/endless"), &[]).await.to_string();
    assert!(error.contains("takes longer than"), "{error}");
    let blobs = files.fixture.dir.path().join("store/oci/blobs/sha256");
    assert_eq!(names(&blobs), [""; 0], "nothing is kept");
}

#[tokio::test]
async fn b5_11_proxies_are_for_other_machines() {
    let proxy = Web::file("from the proxy", &[]);
    let files = Files::new();
    let proxies = crate::registry::ProxyOptions { http: Some(proxy.host.clone()), ..Default::default() };
    let client = Client::new(ClientOptions { proxies, ..ClientOptions::default() }).expect("a client");
    let source = HttpSource::new(files.fixture.store.clone(), client, Events::none());
    let far = op("http://files.example/f", &[]);
    source.pin(&files.request(&far)).await.expect("pinned");
    assert_eq!(proxy.asked(), ["GET http://files.example/f"]);
    let web = Web::file("direct", &[]);
    let near = op(&web.url("/f"), &[]);
    source.pin(&files.request(&near)).await.expect("pinned");
    assert_eq!(web.asked(), ["GET /f"]);
}
