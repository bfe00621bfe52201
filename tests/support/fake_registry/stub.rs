//! A server that answers as a function says, and keeps what it was asked.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::http::{self, Answer, Request};

/// A running server; stops when dropped.
pub(crate) struct Stub {
    address: SocketAddr,
    log: Arc<Mutex<Vec<Request>>>,
    stop: Arc<AtomicBool>,
}

impl Stub {
    /// `answer` gives status and JSON body.
    pub(crate) fn start(answer: impl Fn(&Request) -> (u16, String) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
        let address = listener.local_addr().expect("an address");
        let (log, stop, answer) =
            (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)), Arc::new(answer));
        let stub = Self { address, log: Arc::clone(&log), stop: Arc::clone(&stop) };
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let (Ok(mut stream), log, answer) = (stream, Arc::clone(&log), Arc::clone(&answer)) else { continue };
                std::thread::spawn(move || {
                    let mut buffer = Vec::new();
                    while let Ok(Some((mut request, length))) = http::read_head(&mut stream, &mut buffer) {
                        request.body = http::read_body(&mut stream, &mut buffer, length).unwrap_or_default();
                        log.lock().expect("because no test thread panics while holding it").push(request.clone());
                        let (status, body) = answer(&request);
                        let answer = Answer::new(status).with_body("application/json", body.into_bytes());
                        if std::io::Write::write_all(&mut stream, &answer.to_bytes(request.method == "HEAD")).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        stub
    }

    /// `127.0.0.1:PORT`.
    pub(crate) fn host(&self) -> String {
        self.address.to_string()
    }

    /// `http://127.0.0.1:PORT`.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What was asked so far.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.log.lock().expect("because no test thread panics while holding it").clone()
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the listener.
        let _ = TcpStream::connect(self.address);
    }
}

/// A field of a form.
pub(crate) fn field(form: &str, name: &str) -> Option<String> {
    let mut pairs = url::form_urlencoded::parse(form.as_bytes());
    pairs.find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}
