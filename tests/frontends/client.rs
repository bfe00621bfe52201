//! A gRPC client over standard input and output, as front ends have one.

use bytes::Bytes;
use h2::client::SendRequest;
use prost::Message;
use rbuild::llb::containers::ExecMessage;
use rbuild::llb::gateway::SERVICE;
use tokio::io::{AsyncRead, AsyncWrite};

/// A connection to the builder.
pub(crate) struct Client(SendRequest<Bytes>);

/// Why a call failed: gRPC's number, and the text.
pub(crate) type Refusal = (i32, String);

impl Client {
    /// Connects; the connection is moved on by the runtime.
    pub(crate) async fn connect(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        let (client, connection) = h2::client::handshake(io).await.expect("a connection");
        tokio::spawn(connection);
        Self(client)
    }

    /// Begins a conversation about a process. What is wrong with it is told when something is heard.
    pub(crate) async fn converse(&self) -> Result<Conversation, Refusal> {
        let uri = format!("http://localhost/{SERVICE}/ExecProcess");
        let request = http::Request::builder().method("POST").uri(uri).header("te", "trailers");
        let request = request.header("content-type", "application/grpc").body(()).expect("valid");
        let mut client = self.0.clone().ready().await.expect("ready");
        let (response, send) = client.send_request(request, false).expect("sent");
        let body = response.await.map_err(|e| (-1, e.to_string()))?.into_body();
        Ok(Conversation { send, body, bytes: Vec::new() })
    }

    /// Calls a method.
    pub(crate) async fn call<M: Message + Default>(&self, method: &str, message: &impl Message) -> Result<M, Refusal> {
        let uri = format!("http://localhost/{SERVICE}/{method}");
        let request = http::Request::builder().method("POST").uri(uri).header("te", "trailers");
        let request = request.header("content-type", "application/grpc").body(()).expect("valid");
        let mut client = self.0.clone().ready().await.expect("ready");
        let (response, mut send) = client.send_request(request, false).expect("sent");
        push(&mut send, &message.encode_to_vec()).await;
        let _ = send.send_data(Bytes::new(), true);
        let mut body = response.await.map_err(|e| (-1, e.to_string()))?.into_body();
        let mut bytes = Vec::new();
        while let Some(piece) = body.data().await {
            let piece = piece.map_err(|e| (-1, e.to_string()))?;
            body.flow_control().release_capacity(piece.len()).expect("room");
            bytes.extend_from_slice(&piece);
        }
        match trailer(&mut body).await? {
            None => Ok(M::decode(&bytes[5..]).expect("a message")),
            Some(refusal) => Err(refusal),
        }
    }
}

/// Several messages in both directions. Dropped, it is hung up.
pub(crate) struct Conversation {
    send: h2::SendStream<Bytes>,
    body: h2::RecvStream,
    bytes: Vec<u8>,
}

impl Conversation {
    /// Says something.
    pub(crate) async fn say(&mut self, message: &ExecMessage) {
        push(&mut self.send, &message.encode_to_vec()).await;
    }

    /// What is said next; nothing at the end.
    pub(crate) async fn hear(&mut self) -> Result<Option<ExecMessage>, Refusal> {
        loop {
            if let Some(head) = self.bytes.first_chunk::<5>() {
                let end = 5 + u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
                if self.bytes.len() >= end {
                    let message = ExecMessage::decode(&self.bytes[5..end]).expect("a message");
                    self.bytes.drain(..end);
                    return Ok(Some(message));
                }
            }
            let Some(piece) = self.body.data().await else {
                return trailer(&mut self.body).await?.map_or(Ok(None), Err);
            };
            let piece = piece.map_err(|e| (-1, e.to_string()))?;
            self.body.flow_control().release_capacity(piece.len()).expect("room");
            self.bytes.extend_from_slice(&piece);
        }
    }
}

/// Sends one message; nobody may take it any more.
async fn push(send: &mut h2::SendStream<Bytes>, message: &[u8]) {
    let length = u32::try_from(message.len()).expect("short").to_be_bytes();
    let mut rest = Bytes::from([&[0], &length[..], message].concat());
    while !rest.is_empty() {
        send.reserve_capacity(rest.len());
        let room = std::future::poll_fn(|context| send.poll_capacity(context)).await;
        let Some(Ok(room)) = room else { break };
        let piece = rest.split_to(room.min(rest.len()));
        if send.send_data(piece, false).is_err() {
            break;
        }
    }
}

/// Why a call failed, if it did.
async fn trailer(body: &mut h2::RecvStream) -> Result<Option<Refusal>, Refusal> {
    let trailers = body.trailers().await.map_err(|e| (-1, e.to_string()))?.expect("trailers");
    let text = |name: &str| trailers.get(name).map(|v| v.to_str().expect("text").to_owned()).unwrap_or_default();
    match text("grpc-status").parse().expect("a number") {
        0 => Ok(None),
        code => Ok(Some((code, text("grpc-message")))),
    }
}
