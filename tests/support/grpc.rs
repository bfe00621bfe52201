//! A gRPC server on a loopback port that answers every unary call with one status, and remembers what it was called with: real
//! HTTP/2, without a generated service.

use std::io::Read as _;
use std::sync::{Arc, Mutex};

use bytes::Bytes;

/// A call.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) path: String,
    headers: http::HeaderMap,
    /// Without its frame.
    pub(crate) message: Vec<u8>,
}

impl Call {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// A running server; it ends with the test program.
pub(crate) struct Grpc {
    /// `127.0.0.1:PORT`.
    pub(crate) host: String,
    log: Arc<Mutex<Vec<Call>>>,
}

impl Grpc {
    /// Starts one. A status other than 0 has this message and comes in the headers, as servers do that have nothing else to say.
    pub(crate) fn start(status: u32, message: &'static str) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a socket");
        let host = listener.local_addr().expect("bound").to_string();
        let log = Arc::<Mutex<Vec<Call>>>::default();
        let seen = Arc::clone(&log);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
                while let Ok((socket, _)) = listener.accept().await {
                    // A client that goes away is no failure of the test.
                    tokio::spawn(serve(socket, Arc::clone(&seen), status, message));
                }
            });
        });
        Self { host, log }
    }

    pub(crate) fn calls(&self) -> Vec<Call> {
        self.log.lock().expect("no panic while locked").clone()
    }
}

async fn serve(
    socket: tokio::net::TcpStream,
    seen: Arc<Mutex<Vec<Call>>>,
    status: u32,
    message: &'static str,
) -> Result<(), h2::Error> {
    let mut connection = h2::server::handshake(socket).await?;
    while let Some(request) = connection.accept().await {
        let (request, mut respond) = request?;
        let seen = Arc::clone(&seen);
        tokio::spawn(async move {
            let (head, mut body) = request.into_parts();
            let mut bytes = Vec::new();
            while let Some(piece) = body.data().await {
                let piece = piece?;
                body.flow_control().release_capacity(piece.len())?;
                bytes.extend_from_slice(&piece);
            }
            let (frame, rest) = bytes.split_at(5);
            assert_eq!(
                u32::from_be_bytes([frame[1], frame[2], frame[3], frame[4]]) as usize,
                rest.len(),
                "one message"
            );
            let zipped = head.headers.get("grpc-encoding").is_some_and(|encoding| encoding == "gzip");
            assert_eq!(frame[0], u8::from(zipped), "compressed as the headers say");
            let mut content = rest.to_vec();
            if zipped {
                content.clear();
                flate2::read::GzDecoder::new(rest).read_to_end(&mut content).expect("gzip");
            }
            let call = Call { path: head.uri.path().to_owned(), headers: head.headers, message: content };
            seen.lock().expect("no panic while locked").push(call);
            let answer = http::Response::builder().header("content-type", "application/grpc");
            if status != 0 {
                let answer = answer.header("grpc-status", status).header("grpc-message", message);
                respond.send_response(answer.body(()).expect("valid"), true)?;
                return Ok(());
            }
            let mut send = respond.send_response(answer.body(()).expect("valid"), false)?;
            // An empty message.
            send.send_data(Bytes::from_static(&[0; 5]), false)?;
            let mut trailers = http::HeaderMap::new();
            trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
            send.send_trailers(trailers)
        });
    }
    Ok(())
}
