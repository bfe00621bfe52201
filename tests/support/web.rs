//! A web server on a loopback port that answers as a test says, and remembers what it was asked. Also the front of
//! `git http-backend`.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[path = "fake_registry/http.rs"]
#[allow(clippy::duplicate_mod, reason = "unit tests of the registry have it too, out of reach of black-box tests")]
mod http;
pub(crate) use http::{Answer, Request};

/// What happens after a request.
pub(crate) enum Reply {
    /// The answer.
    Whole(Answer),
    /// The answer, but the connection ends after so many bytes of its body.
    Cut(Answer, usize),
    /// An answer that never ends.
    Endless,
}

impl From<Answer> for Reply {
    fn from(answer: Answer) -> Self {
        Self::Whole(answer)
    }
}

/// A running server; ends with the test.
pub(crate) struct Web {
    /// `127.0.0.1:PORT`.
    pub(crate) host: String,
    log: Arc<Mutex<Vec<Request>>>,
    stop: Arc<AtomicBool>,
}

impl Web {
    /// Starts one.
    pub(crate) fn start<R: Into<Reply>>(handler: impl Fn(&Request) -> R + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let host = listener.local_addr().expect("bound").to_string();
        let (log, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let handler = Arc::new(move |request: &Request| handler(request).into());
        let (seen, stopped) = (Arc::clone(&log), Arc::clone(&stop));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let (seen, handler) = (Arc::clone(&seen), Arc::clone(&handler));
                std::thread::spawn(move || {
                    // A client that goes away is no failure of the test.
                    let _ = serve(stream, &seen, &*handler);
                });
            }
        });
        Self { host, log, stop }
    }

    /// One file at every path, with these headers.
    pub(crate) fn file(body: &str, headers: &[(&str, &str)]) -> Self {
        let mut answer = Answer::new(200).with_body("application/octet-stream", body.into());
        for (name, value) in headers {
            answer = answer.with(name, *value);
        }
        Self::start(move |_| answer.clone())
    }

    /// `git http-backend` over the repositories below `root`; with `auth` only for who sends that `Authorization`.
    pub(crate) fn git(root: &Path, auth: Option<&str>) -> Self {
        let (root, auth) = (root.to_path_buf(), auth.map(ToOwned::to_owned));
        Self::start(move |request| match &auth {
            Some(wanted) if request.header("authorization") != Some(wanted) => {
                Answer::new(401).with("WWW-Authenticate", "Basic realm=\"test\"")
            }
            _ => cgi(&root, request),
        })
    }

    /// A URL of it.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.host)
    }

    /// What it was asked so far: method and target.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.requests().iter().map(|r| format!("{} {}", r.method, r.target)).collect()
    }

    /// The whole requests.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.log.lock().expect("no panic while locked").clone()
    }

    /// Forgets what it was asked.
    pub(crate) fn forget(&self) {
        self.log.lock().expect("no panic while locked").clear();
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(&self.host);
    }
}

fn serve(
    mut stream: TcpStream,
    log: &Mutex<Vec<Request>>,
    handler: &dyn Fn(&Request) -> Reply,
) -> Result<(), std::io::Error> {
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    // Who greets with TLS is told that there is none.
    let mut first = [0];
    if stream.peek(&mut first)? == 1 && first[0] == 0x16 {
        return Ok(());
    }
    let mut buffer = Vec::new();
    while let Some((mut request, length)) = http::read_head(&mut stream, &mut buffer)? {
        request.body = if request.header("transfer-encoding").is_some_and(|t| t.contains("chunked")) {
            chunked(&mut stream, &mut buffer)?
        } else {
            http::read_body(&mut stream, &mut buffer, length)?
        };
        log.lock().expect("no panic while locked").push(request.clone());
        match handler(&request) {
            Reply::Whole(answer) => stream.write_all(&answer.to_bytes(request.method == "HEAD"))?,
            Reply::Cut(answer, after) => {
                let bytes = answer.to_bytes(false);
                let head = bytes.len() - answer.body.len();
                stream.write_all(&bytes[..(head + after).min(bytes.len())])?;
                return Ok(());
            }
            Reply::Endless => {
                stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
                loop {
                    stream.write_all(b"1000\r\n")?;
                    stream.write_all(&[0; 0x1000])?;
                    stream.write_all(b"\r\n")?;
                }
            }
        }
    }
    Ok(())
}

fn chunked(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<Vec<u8>, std::io::Error> {
    let mut body = Vec::new();
    loop {
        let end = loop {
            if let Some(at) = buffer.windows(2).position(|w| w == b"\r\n") {
                break at;
            }
            let mut piece = [0; 4096];
            let n = stream.read(&mut piece)?;
            if n == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            buffer.extend_from_slice(&piece[..n]);
        };
        let size = usize::from_str_radix(String::from_utf8_lossy(&buffer[..end]).trim(), 16).unwrap_or_default();
        buffer.drain(..end + 2);
        let mut chunk = http::read_body(stream, buffer, size + 2)?;
        chunk.truncate(size);
        if size == 0 {
            return Ok(body);
        }
        body.extend(chunk);
    }
}

/// Runs `git http-backend` for one request.
fn cgi(root: &Path, request: &Request) -> Answer {
    let query = request.target.split_once('?').map_or("", |(_, q)| q);
    let header = |name: &str| request.header(name).unwrap_or_default().to_owned();
    let mut child = Command::new("git")
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("GIT_CONFIG_COUNT", "1")
        .env("GIT_CONFIG_KEY_0", "safe.directory")
        .env("GIT_CONFIG_VALUE_0", "*")
        .env("REQUEST_METHOD", &request.method)
        .env("PATH_INFO", request.path())
        .env("QUERY_STRING", query)
        .env("CONTENT_TYPE", header("content-type"))
        .env("CONTENT_LENGTH", request.body.len().to_string())
        .env("HTTP_CONTENT_ENCODING", header("content-encoding"))
        .env("GIT_PROTOCOL", header("git-protocol"))
        .env("REMOTE_ADDR", "127.0.0.1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("git is there");
    let mut input = child.stdin.take().expect("piped");
    let body = request.body.clone();
    let writer = std::thread::spawn(move || {
        let _ = input.write_all(&body);
    });
    let output = child.wait_with_output().expect("git ends");
    let _ = writer.join();
    let split = output.stdout.windows(4).position(|w| w == b"\r\n\r\n").unwrap_or(output.stdout.len());
    let head = String::from_utf8_lossy(&output.stdout[..split]).into_owned();
    let mut answer = Answer::new(200);
    for line in head.lines() {
        match line.split_once(": ") {
            Some(("Status", value)) => answer.status = value[..3].parse().unwrap_or(500),
            Some((name, value)) => answer = answer.with(name, value),
            None => {}
        }
    }
    answer.body = output.stdout.get(split + 4..).unwrap_or_default().to_vec();
    answer
}
