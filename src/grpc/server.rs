//! gRPC over one connection, such as a pair of pipes or a socket: HTTP/2 without TLS, where the host is the server (SPEC C3.06,
//! C5.17). Knows nothing of what is said.

use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use super::{Status, code};

/// Longer messages are refused, in either direction.
pub(crate) const MAX_MESSAGE: usize = 16 << 20;
/// Calls at a time.
const MAX_CALLS: u32 = 64;
/// What a caller may send before it is read.
const WINDOW: u32 = 1 << 20;
/// Messages of a stream on their way.
const QUEUE: usize = 16;

/// Answers calls.
#[async_trait::async_trait]
pub(crate) trait Service: Sync {
    /// One message for another.
    async fn unary(&self, path: &str, message: Bytes) -> Result<Vec<u8>, Status>;

    /// Whether a call takes several messages, and gives several.
    fn is_stream(&self, path: &str) -> bool;

    /// Messages for messages, until this returns.
    async fn stream(
        &self,
        path: &str,
        messages: mpsc::Receiver<Bytes>,
        answers: mpsc::Sender<Vec<u8>>,
    ) -> Result<(), Status>;
}

/// Calls that ask for nothing: taken back, without a message, or with one that is none. Nobody makes many of them.
const MAX_WASTED: u32 = 1000;

/// Serves one connection until the other side ends it.
pub(crate) async fn serve(io: impl AsyncRead + AsyncWrite + Unpin, service: &dyn Service) -> Result<(), h2::Error> {
    let mut builder = h2::server::Builder::new();
    builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOW).max_concurrent_streams(MAX_CALLS);
    builder.max_header_list_size(64 << 10);
    let mut connection = builder.handshake::<_, Bytes>(io).await?;
    // On this task, which also moves the connection on: what a call waits for is done elsewhere.
    let mut calls = FuturesUnordered::new();
    let mut wasted = 0;
    loop {
        tokio::select! {
            request = connection.accept() => match request {
                Some(request) => {
                    let (request, respond) = request?;
                    calls.push(answer(service, request, respond));
                }
                None => return Ok(()),
            },
            Some(asked) = calls.next() => {
                wasted += u32::from(!asked);
                if wasted > MAX_WASTED {
                    return Err(h2::Reason::ENHANCE_YOUR_CALM.into());
                }
            }
        }
    }
}

/// Answers one call. That the caller is gone is no failure of anybody. Whether it asked for anything.
async fn answer(service: &dyn Service, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) -> bool {
    let path = request.uri().path().to_owned();
    let mut body = Body { stream: request.into_body(), buffer: BytesMut::new() };
    let head = Response::builder().header("content-type", "application/grpc").body(());
    let Ok(mut send) = head.map_err(drop).and_then(|head| respond.send_response(head, false).map_err(drop)) else {
        return false;
    };
    let (asked, result) = if service.is_stream(&path) {
        (true, stream(service, &path, body, &mut send).await)
    } else {
        match body.message().await {
            Ok(Some(message)) => match unary(service, &path, message).await {
                Ok(answer) if push(&mut send, &answer).await.is_err() => return true,
                result => (true, result.map(drop)),
            },
            Ok(None) => (false, Err(Status::new(code::INVALID_ARGUMENT, "a call without a message"))),
            Err(status) => (false, Err(status)),
        }
    };
    let _ = send.send_trailers(trailers(result.err()));
    asked
}

async fn unary(service: &dyn Service, path: &str, message: Bytes) -> Result<Vec<u8>, Status> {
    let answer = service.unary(path, message).await?;
    if answer.len() > MAX_MESSAGE {
        let text =
            format!("the answer has {} bytes, more than the {MAX_MESSAGE} that a message may have", answer.len());
        return Err(Status::new(code::RESOURCE_EXHAUSTED, text));
    }
    Ok(answer)
}

async fn stream(
    service: &dyn Service,
    path: &str,
    mut body: Body,
    send: &mut h2::SendStream<Bytes>,
) -> Result<(), Status> {
    let (to_service, messages) = mpsc::channel(QUEUE);
    let (answers, mut from_service) = mpsc::channel::<Vec<u8>>(QUEUE);
    let reading = async move {
        loop {
            match body.message().await {
                Ok(Some(message)) => {
                    if to_service.send(message).await.is_err() {
                        return Ok(());
                    }
                }
                Ok(None) => return Ok(()),
                Err(status) => return Err(status),
            }
        }
    };
    let writing = async {
        while let Some(answer) = from_service.recv().await {
            if push(send, &answer).await.is_err() {
                return;
            }
        }
    };
    let work = service.stream(path, messages, answers);
    let reading = async {
        match reading.await {
            // The caller says no more; the answers go on.
            Ok(()) => std::future::pending().await,
            Err(status) => status,
        }
    };
    let done = async { tokio::join!(work, writing).0 };
    tokio::select! {
        result = done => result,
        status = reading => Err(status),
    }
}

/// The messages of a call.
struct Body {
    stream: RecvStream,
    buffer: BytesMut,
}

impl Body {
    /// The next one; `None` at the end.
    async fn message(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            if let Some(head) = self.buffer.first_chunk::<5>() {
                if head[0] != 0 {
                    return Err(Status::new(code::UNIMPLEMENTED, "compressed messages are not understood"));
                }
                let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
                if length > MAX_MESSAGE {
                    let text = format!("a message of {length} bytes, more than the {MAX_MESSAGE} that one may have");
                    return Err(Status::new(code::RESOURCE_EXHAUSTED, text));
                }
                if self.buffer.len() >= 5 + length {
                    self.buffer.advance(5);
                    return Ok(Some(self.buffer.split_to(length).freeze()));
                }
            }
            let Some(piece) = self.stream.data().await else {
                let rest = self.buffer.len();
                return match rest {
                    0 => Ok(None),
                    _ => Err(Status::new(code::INVALID_ARGUMENT, "a message that ends early")),
                };
            };
            let gone = |e: h2::Error| Status::new(code::UNKNOWN, e.to_string());
            let piece = piece.map_err(gone)?;
            self.stream.flow_control().release_capacity(piece.len()).map_err(gone)?;
            self.buffer.extend_from_slice(&piece);
        }
    }
}

/// Sends one message as fast as it is taken.
async fn push(send: &mut h2::SendStream<Bytes>, message: &[u8]) -> Result<(), h2::Error> {
    let mut head = vec![0];
    head.extend_from_slice(&u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    head.extend_from_slice(message);
    let mut rest = Bytes::from(head);
    while !rest.is_empty() {
        send.reserve_capacity(rest.len());
        let room = match std::future::poll_fn(|context| send.poll_capacity(context)).await {
            Some(room) => room?,
            None => return Err(h2::Reason::CANCEL.into()),
        };
        let piece = rest.split_to(room.min(rest.len()));
        if !piece.is_empty() {
            send.send_data(piece, false)?;
        }
    }
    Ok(())
}

/// How a call ended.
fn trailers(status: Option<Status>) -> HeaderMap {
    use base64::Engine as _;
    use prost::Message as _;
    let mut trailers = HeaderMap::new();
    let Some(status) = status else {
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        return trailers;
    };
    trailers.insert("grpc-status", HeaderValue::from(status.code));
    if let Ok(text) = HeaderValue::from_str(&escaped(&status.message)) {
        trailers.insert("grpc-message", text);
    }
    if !status.details.is_empty() {
        let bytes = base64::engine::general_purpose::STANDARD_NO_PAD.encode(status.encode_to_vec());
        // Headers have a limit, and details are for those who look at them only.
        if let Some(value) = HeaderValue::from_str(&bytes).ok().filter(|value| value.len() < 8 << 10) {
            trailers.insert("grpc-status-details-bin", value);
        }
    }
    trailers
}

/// Text as gRPC has it in headers. Long ones are cut: headers have a limit.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes().take(4 << 10) {
        match byte {
            b'%' => out.push_str("%25"),
            0x20..=0x7e => out.push(char::from(byte)),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Echo;

    #[async_trait::async_trait]
    impl Service for Echo {
        async fn unary(&self, path: &str, message: Bytes) -> Result<Vec<u8>, Status> {
            match path {
                "/fail" => Err(Status::new(code::NOT_FOUND, "nicht da: ü 100%")),
                "/big" => Ok(vec![0; MAX_MESSAGE + 1]),
                _ => Ok(message.to_vec()),
            }
        }

        fn is_stream(&self, path: &str) -> bool {
            path == "/stream"
        }

        async fn stream(
            &self,
            _path: &str,
            mut messages: mpsc::Receiver<Bytes>,
            answers: mpsc::Sender<Vec<u8>>,
        ) -> Result<(), Status> {
            while let Some(message) = messages.recv().await {
                answers.send(message.to_vec()).await.map_err(|_| Status::default())?;
            }
            Ok(())
        }
    }

    /// What comes back for raw bytes of a call: its body, and its trailers.
    async fn call(path: &str, body: Vec<u8>) -> (Vec<u8>, HeaderMap) {
        let (ours, theirs) = tokio::io::duplex(64 << 10);
        let served = async { serve(ours, &Echo).await };
        let client = async {
            let (client, connection) = h2::client::handshake(theirs).await.expect("a connection");
            let exchange = async {
                let mut client = client.ready().await.expect("ready");
                let request = Request::builder().method("POST").uri(format!("http://x{path}")).body(()).expect("valid");
                let (response, mut send) = client.send_request(request, false).expect("sent");
                let mut rest = Bytes::from(body);
                while !rest.is_empty() {
                    send.reserve_capacity(rest.len());
                    let room = std::future::poll_fn(|cx| send.poll_capacity(cx)).await;
                    let Some(Ok(room)) = room else { break };
                    let piece = rest.split_to(room.min(rest.len()));
                    if send.send_data(piece, false).is_err() {
                        break;
                    }
                }
                let _ = send.send_data(Bytes::new(), true);
                let mut body = response.await.expect("an answer").into_body();
                let mut out = Vec::new();
                while let Some(piece) = body.data().await {
                    let piece = piece.expect("a piece");
                    body.flow_control().release_capacity(piece.len()).expect("room");
                    out.extend_from_slice(&piece);
                }
                (out, body.trailers().await.expect("trailers").expect("trailers"))
            };
            tokio::select! { done = exchange => done, end = connection => panic!("{end:?}") }
        };
        tokio::select! { done = client => done, end = served => panic!("{end:?}") }
    }

    fn framed(message: &[u8]) -> Vec<u8> {
        let length = u32::try_from(message.len()).expect("short").to_be_bytes();
        [&[0], &length[..], message].concat()
    }

    // SPEC C3.06
    #[tokio::test]
    async fn c3_06_messages_come_back_whole() {
        let long = vec![7; 3 << 20];
        for message in [&b""[..], b"x", &long] {
            let (body, trailers) = call("/echo", framed(message)).await;
            assert_eq!((body == framed(message), trailers["grpc-status"].to_str().expect("text")), (true, "0"));
        }
        let several = [framed(b"a"), framed(b""), framed(b"bc")].concat();
        assert_eq!(call("/stream", several.clone()).await.0, several);
    }

    #[tokio::test]
    async fn what_is_wrong_with_a_call_is_told() {
        let status = |trailers: &HeaderMap| {
            let text = |name: &str| trailers[name].to_str().expect("text").to_owned();
            (text("grpc-status"), text("grpc-message"))
        };
        let (_, trailers) = call("/fail", framed(b"")).await;
        assert_eq!(status(&trailers), ("5".into(), "nicht da: %C3%BC 100%25".into()));
        for (path, body, expected) in [
            ("/echo", vec![1, 0, 0, 0, 0], "compressed"),
            ("/echo", vec![0, 0xff, 0xff, 0xff, 0xff], "a message of 4294967295 bytes"),
            ("/stream", vec![0, 0xff, 0xff, 0xff, 0xff], "a message of 4294967295 bytes"),
            ("/echo", vec![0, 0, 0, 0, 9, 1], "ends early"),
            ("/echo", vec![], "without a message"),
            ("/big", framed(b""), "the answer has 16777217 bytes"),
        ] {
            let (_, trailers) = call(path, body).await;
            assert!(status(&trailers).1.contains(expected), "{path}: {trailers:?}");
        }
    }
}
