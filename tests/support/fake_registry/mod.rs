//! A registry that lives in the test's process and misbehaves on request.
//!
//! `FakeRegistry::start()` listens on a loopback port; [`FakeRegistry::fault`] scripts failures;
//! [`FakeRegistry::requests`] tells what it was asked. Uses nothing of rbuild, so that unit tests and black-box tests
//! can both include it. `http.rs` is the protocol, `api.rs` the registry, `auth.rs` who may do what.

#![allow(dead_code, reason = "each test program uses a part of it")]

mod api;
mod auth;
pub(crate) mod http;
pub(crate) mod stub;

use std::collections::HashMap;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

#[allow(unused_imports, reason = "each test program uses a part of it")]
pub(crate) use auth::{Auth, Tokens};
pub(crate) use http::Request;

/// What goes wrong with a request.
#[derive(Debug, Clone)]
pub(crate) enum Action {
    /// Answer with this status, these headers and this body instead.
    Status(u16, Vec<(&'static str, String)>, String),
    /// Serve the answer, but close the connection after so many bytes of its body.
    CutAfter(usize),
    /// Serve the answer with one bit of the body flipped.
    Corrupt,
    /// Serve the answer with only so many bytes, and a `Content-Length` that agrees.
    Truncate(usize),
    /// Close the connection without an answer.
    Close,
    /// Close the connection after reading so many bytes of the request's body.
    CloseAfterReading(usize),
    /// Read the request's head and never answer, until the other side hangs up.
    Hold,
    /// Take the whole request, carry it out, and close without an answer.
    LoseAnswer,
    /// Send nothing for so long, then serve the answer.
    Delay(Duration),
    /// All tokens given out so far end in the middle of the request: it is taken, and refused.
    EndTokens,
    /// All tokens given out so far end, and the connection is closed after reading so many bytes of the request's body.
    EndTokensAfterReading(usize),
    /// Serve the answer's body in pieces of so many bytes, with a pause before each.
    Trickle(usize, Duration),
    /// Ignore a `Range` header.
    IgnoreRange,
    /// Serve the answer without this header.
    Without(&'static str),
}

/// A scripted failure.
#[derive(Debug, Clone)]
struct Rule {
    method: &'static str,
    path: String,
    left: usize,
    action: Action,
}

/// One repository.
#[derive(Debug, Default, Clone)]
pub(crate) struct Repository {
    /// By digest.
    pub(crate) blobs: HashMap<String, Vec<u8>>,
    /// By digest: media type and bytes.
    pub(crate) manifests: HashMap<String, (String, Vec<u8>)>,
    /// To digests.
    pub(crate) tags: HashMap<String, String>,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) repositories: HashMap<String, Repository>,
    /// Repository and what arrived, by session.
    pub(crate) uploads: HashMap<String, (String, Vec<u8>)>,
    /// Broken uploads can be continued.
    pub(crate) resumable: bool,
    /// It has the referrers API.
    pub(crate) has_referrers: bool,
    counter: u64,
    auth: Auth,
    tokens: Vec<auth::Issued>,
    rules: Vec<Rule>,
    log: Vec<Request>,
    address: String,
    scheme: &'static str,
    in_flight: usize,
    busiest: usize,
}

impl State {
    /// Everything works again.
    pub(crate) fn forget_faults(&mut self) {
        self.rules.clear();
    }

    /// Digests of blobs with more than `size` bytes.
    pub(crate) fn large_blobs(&self, size: usize) -> Vec<String> {
        let blobs = self.repositories.values().flat_map(|r| r.blobs.iter());
        blobs.filter(|(_, bytes)| bytes.len() > size).map(|(digest, _)| digest.clone()).collect()
    }
}

/// A running registry; stops when dropped.
pub(crate) struct FakeRegistry {
    state: Arc<Mutex<State>>,
    address: SocketAddr,
    stop: Arc<AtomicBool>,
}

impl FakeRegistry {
    /// Starts an empty registry over plain HTTP that lets everybody do everything.
    pub(crate) fn start() -> Self {
        Self::launch(None)
    }

    /// The same over TLS.
    pub(crate) fn start_tls(config: Arc<rustls::ServerConfig>) -> Self {
        Self::launch(Some(config))
    }

    /// Starts one that talks to those only who have a certificate of ours.
    pub(crate) fn start_closed() -> Self {
        use rustls::pki_types::pem::PemObject as _;
        use rustls::pki_types::{CertificateDer, PrivateKeyDer};
        let chain =
            |bytes: &[u8]| CertificateDer::pem_slice_iter(bytes).collect::<Result<Vec<_>, _>>().expect("certificates");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut clients = rustls::RootCertStore::empty();
        clients.add_parsable_certificates(chain(include_bytes!("../tls/clients.crt")));
        let clients =
            rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(clients), Arc::clone(&provider));
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions of TLS")
            .with_client_cert_verifier(clients.build().expect("roots"))
            .with_single_cert(
                chain(include_bytes!("../tls/server.crt")),
                PrivateKeyDer::from_pem_slice(include_bytes!("../tls/server.key")).expect("a key"),
            )
            .expect("a configuration");
        Self::start_tls(Arc::new(config))
    }

    fn launch(tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
        let address = listener.local_addr().expect("an address");
        let scheme = if tls.is_some() { "https" } else { "http" };
        let state = Arc::new(Mutex::new(State { address: address.to_string(), scheme, ..State::default() }));
        let stop = Arc::new(AtomicBool::new(false));
        let registry = Self { state: Arc::clone(&state), address, stop: Arc::clone(&stop) };
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let (Ok(stream), state, tls) = (stream, Arc::clone(&state), tls.clone()) else { continue };
                // Broken connections are part of the game.
                std::thread::spawn(move || drop(serve(stream, tls, &state)));
            }
        });
        registry
    }

    /// `127.0.0.1:PORT`, as in image names.
    pub(crate) fn host(&self) -> String {
        self.address.to_string()
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("because no test thread panics while holding it")
    }

    /// Who may do what.
    pub(crate) fn set_auth(&self, auth: Auth) {
        self.state().auth = auth;
    }

    /// Lets the next `times` requests with this method (`*` for any) and this text in the path fail.
    pub(crate) fn fault(&self, method: &'static str, path: &str, times: usize, action: Action) {
        self.state().rules.push(Rule { method, path: path.to_owned(), left: times, action });
    }

    /// What was asked so far, in order of arrival.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.state().log.clone()
    }

    /// How many requests had this method and this text in the path.
    pub(crate) fn count(&self, method: &str, path: &str) -> usize {
        self.state().log.iter().filter(|r| r.method == method && r.target.contains(path)).count()
    }

    /// The largest number of blob downloads that were under way at once.
    pub(crate) fn busiest(&self) -> usize {
        self.state().busiest
    }

    /// All tokens given out so far stop working.
    pub(crate) fn revoke_tokens(&self) {
        self.state().tokens.clear();
    }

    /// Stores a blob; gives its digest.
    pub(crate) fn put_blob(&self, repository: &str, bytes: &[u8]) -> String {
        let digest = sha256(bytes);
        let mut state = self.state();
        let repository = state.repositories.entry(repository.to_owned()).or_default();
        repository.blobs.insert(digest.clone(), bytes.to_vec());
        digest
    }

    /// Stores a manifest, under a tag where one is given; gives its digest.
    pub(crate) fn put_manifest(&self, repository: &str, tag: Option<&str>, media_type: &str, bytes: &[u8]) -> String {
        let digest = sha256(bytes);
        let mut state = self.state();
        let repository = state.repositories.entry(repository.to_owned()).or_default();
        repository.manifests.insert(digest.clone(), (media_type.to_owned(), bytes.to_vec()));
        if let Some(tag) = tag {
            repository.tags.insert(tag.to_owned(), digest.clone());
        }
        digest
    }

    /// A blob of a repository.
    pub(crate) fn blob(&self, repository: &str, digest: &str) -> Option<Vec<u8>> {
        self.state().repositories.get(repository)?.blobs.get(digest).cloned()
    }
}

impl Drop for FakeRegistry {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the listener.
        let _ = TcpStream::connect(self.address);
    }
}

/// `sha256:…` of some bytes.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    let hex: String = sha2::Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
    format!("sha256:{hex}")
}

fn serve(stream: TcpStream, tls: Option<Arc<rustls::ServerConfig>>, state: &Mutex<State>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    if let Some(config) = tls {
        let connection = rustls::ServerConnection::new(config).map_err(std::io::Error::other)?;
        let mut stream = rustls::StreamOwned::new(connection, stream);
        let result = converse(&mut stream, state);
        // After a handshake that failed, flushing would wait for the rest of it, and keep open what the client was told is over.
        if !stream.conn.is_handshaking() {
            stream.conn.send_close_notify();
            let _ = stream.flush();
        }
        return result;
    }
    let mut first = [0];
    if stream.peek(&mut first)? == 1 && first[0] == 0x16 {
        // A TLS greeting: answered as Go's server does.
        let mut stream = stream;
        return stream.write_all(b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTPS request to an HTTP server.\n");
    }
    converse(&mut { stream }, state)
}

fn converse<S: std::io::Read + Write>(stream: &mut S, state: &Mutex<State>) -> std::io::Result<()> {
    let lock = || state.lock().expect("because no test thread panics while holding it");
    let mut buffer = Vec::new();
    while let Some((mut request, length)) = http::read_head(stream, &mut buffer)? {
        let action = {
            let mut state = lock();
            let found = state.rules.iter_mut().find(|rule| {
                rule.left > 0
                    && (rule.method == "*" || rule.method == request.method)
                    && request.target.contains(&rule.path)
            });
            found.map(|rule| {
                rule.left -= 1;
                rule.action.clone()
            })
        };
        if let Some(Action::Hold) = action {
            lock().log.push(request);
            // A body that nobody takes in soon fills the connection.
            while !matches!(stream.read(&mut [0]), Ok(0) | Err(_)) {}
            return Ok(());
        }
        if let Some(Action::EndTokens | Action::EndTokensAfterReading(_)) = action {
            lock().tokens.clear();
        }
        if let Some(Action::CloseAfterReading(n) | Action::EndTokensAfterReading(n)) = action {
            let arrived = http::read_body(stream, &mut buffer, n.min(length))?;
            lock().partial(&request, &arrived);
            lock().log.push(request);
            return Ok(());
        }
        request.body = http::read_body(stream, &mut buffer, length)?;
        let transfer = request.method == "GET" && request.target.contains("/blobs/");
        let answer = {
            let mut state = lock();
            state.log.push(request.clone());
            if transfer {
                state.in_flight += 1;
                state.busiest = state.busiest.max(state.in_flight);
            }
            match &action {
                Some(Action::Status(code, headers, body)) => {
                    let mut answer = http::Answer::new(*code).with_body("application/json", body.clone().into_bytes());
                    answer.headers.extend(headers.iter().map(|(k, v)| ((*k).to_owned(), v.clone())));
                    Some(answer)
                }
                Some(Action::Close) => None,
                Some(Action::IgnoreRange) => {
                    request.headers.retain(|(name, _)| name != "range");
                    Some(state.answer(&request))
                }
                _ => Some(state.answer(&request)),
            }
        };
        if transfer {
            // Long enough for parallel transfers to meet.
            std::thread::sleep(Duration::from_millis(5));
        }
        let result = answer.map(|answer| send(stream, &request, answer, action.as_ref()));
        if transfer {
            lock().in_flight -= 1;
        }
        match result {
            Some(Ok(true)) => {}
            Some(Err(e)) => return Err(e),
            Some(Ok(false)) | None => return Ok(()),
        }
    }
    Ok(())
}

/// Sends the answer as `action` has it; false when the connection is to be closed.
fn send<S: Write>(
    stream: &mut S,
    request: &Request,
    mut answer: http::Answer,
    action: Option<&Action>,
) -> std::io::Result<bool> {
    let head_only = request.method == "HEAD";
    match action {
        Some(Action::LoseAnswer) => return Ok(false),
        Some(Action::CutAfter(n)) => {
            let wire = answer.to_bytes(head_only);
            let head = wire.len() - if head_only { 0 } else { answer.body.len() };
            stream.write_all(&wire[..(head + n).min(wire.len())])?;
            stream.flush()?;
            return Ok(false);
        }
        Some(Action::Corrupt) => {
            if let Some(byte) = answer.body.first_mut() {
                *byte ^= 1;
            }
        }
        Some(Action::Truncate(n)) => answer.body.truncate(*n),
        Some(Action::Delay(time)) => std::thread::sleep(*time),
        Some(Action::Without(name)) => answer.headers.retain(|(k, _)| !k.eq_ignore_ascii_case(name)),
        _ => {}
    }
    let wire = answer.to_bytes(head_only);
    if let Some(Action::Trickle(size, pause)) = action {
        for piece in wire.chunks(*size) {
            std::thread::sleep(*pause);
            stream.write_all(piece)?;
            stream.flush()?;
        }
        return Ok(true);
    }
    stream.write_all(&wire)?;
    stream.flush()?;
    Ok(true)
}
