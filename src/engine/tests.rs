//! Against a stand-in that speaks the part of Docker's API which is used.

use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::net::UnixListener;
use std::sync::{Arc, Mutex};

use super::*;

/// Request line and body.
type Seen = (String, Vec<u8>);

/// Answers one request per connection; keeps the request line and the body.
struct StandIn {
    _dir: tempfile::TempDir,
    endpoint: Endpoint,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl StandIn {
    fn start(status: &'static str, body: &'static str) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("docker.sock");
        let listener = UnixListener::bind(&path).expect("a socket");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let mut reader = BufReader::new(stream.try_clone().expect("clones"));
                let mut head = String::new();
                while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).is_ok_and(|n| n > 0) {}
                if head.is_empty() {
                    continue;
                }
                let mut content = Vec::new();
                if head.to_lowercase().contains("transfer-encoding: chunked") {
                    loop {
                        let mut line = String::new();
                        reader.read_line(&mut line).expect("a size");
                        let size = usize::from_str_radix(line.trim(), 16).unwrap_or(0);
                        let mut chunk = vec![0; size + 2];
                        if reader.read_exact(&mut chunk).is_err() || size == 0 {
                            break;
                        }
                        content.extend_from_slice(&chunk[..size]);
                    }
                }
                let line = head.lines().next().unwrap_or_default().to_owned();
                log.lock().expect("not poisoned").push((line, content));
                let answer =
                    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        Self { _dir: dir, endpoint: Endpoint::Unix(path), seen }
    }

    async fn load(&self, bytes: Vec<u8>) -> Result<Vec<String>, String> {
        let engine = Engine::new(self.endpoint.clone()).expect("an engine");
        let loaded = engine.load(move |out| out.write_all(&bytes).map_err(|e| e.to_string())).await;
        loaded.map_err(|e| match e {
            LoadError::Engine(e) => e.to_string(),
            LoadError::Writer(e) => e,
        })
    }
}

// SPEC B2.14
#[tokio::test]
async fn an_archive_arrives_whole_and_what_was_loaded_is_told() {
    let engine = StandIn::start("200 OK", "{\"stream\":\"Loaded image: app:1\\n\"}\n");
    let archive: Vec<u8> = (0..700_000_u32).map(|n| (n % 251) as u8).collect();
    assert_eq!(engine.load(archive.clone()).await, Ok(vec!["Loaded image: app:1".to_owned()]));
    let seen = engine.seen.lock().expect("not poisoned");
    assert_eq!(seen[0].0, "POST /images/load?quiet=1 HTTP/1.1");
    assert!(seen[0].1 == archive);
}

#[tokio::test]
async fn refusals_are_in_the_engine_s_words() {
    let engine = StandIn::start("200 OK", "{\"error\":\"no space\\nleft\"}\n");
    assert!(engine.load(vec![1]).await.is_err_and(|e| e.ends_with("refused: no space left")));
    let engine = StandIn::start("500 Internal Server Error", "{\"message\":\"broken\"}");
    assert!(engine.load(vec![1; 2_000_000]).await.is_err_and(|e| e.contains("500") && e.ends_with("broken")));
}

#[tokio::test]
async fn a_writer_that_fails_is_the_cause() {
    let engine = StandIn::start("200 OK", "");
    let engine = Engine::new(engine.endpoint.clone()).expect("an engine");
    let loaded = engine.load(|_| Err("a layer is missing")).await;
    assert!(matches!(loaded, Err(LoadError::Writer("a layer is missing"))));
}

// SPEC N2.13
#[tokio::test]
async fn only_containerd_s_store_keeps_indexes() {
    let containerd = r#"{"DriverStatus":[["driver-type","io.containerd.snapshotter.v1"]]}"#;
    for (body, keeps) in [(containerd, true), (r#"{"Driver":"overlay2"}"#, false)] {
        let stand_in = StandIn::start("200 OK", body);
        let engine = Engine::new(stand_in.endpoint.clone()).expect("an engine");
        assert!(engine.keeps_indexes().await.is_ok_and(|k| k == keeps), "{body}");
    }
}

// SPEC B5.03
#[test]
fn addresses() {
    assert_eq!(Endpoint::parse("unix:///run/d.sock", None).ok(), Some(Endpoint::Unix("/run/d.sock".into())));
    let tcp = Endpoint::parse("tcp://docker:2375/", None).expect("valid");
    assert_eq!(tcp.to_string(), "tcp://docker:2375");
    for bad in ["ssh://me@host", "docker.sock", "unix://relative", "tcp://"] {
        assert!(Endpoint::parse(bad, None).is_err(), "{bad}");
    }
    assert!(!Endpoint::Unix("/nowhere/docker.sock".into()).answers());
}

#[tokio::test]
async fn an_engine_that_is_gone_is_unreachable() {
    let engine = Engine::new(Endpoint::Unix("/nowhere/docker.sock".into())).expect("an engine");
    let error = engine.keeps_indexes().await.expect_err("gone");
    assert_eq!(error.kind(), FaultKind::Network);
    assert!(error.to_string().starts_with("cannot reach the engine at unix:///nowhere/docker.sock: "), "{error}");
}
