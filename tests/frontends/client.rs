//! A gRPC client over standard input and output, as front ends have one.

use bytes::Bytes;
use h2::client::SendRequest;
use prost::Message;
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

    /// Calls a method.
    pub(crate) async fn call<M: Message + Default>(&self, method: &str, message: &impl Message) -> Result<M, Refusal> {
        let uri = format!("http://localhost/{SERVICE}/{method}");
        let request = http::Request::builder().method("POST").uri(uri).header("te", "trailers");
        let request = request.header("content-type", "application/grpc").body(()).expect("valid");
        let mut client = self.0.clone().ready().await.expect("ready");
        let (response, mut send) = client.send_request(request, false).expect("sent");
        let message = message.encode_to_vec();
        let length = u32::try_from(message.len()).expect("short").to_be_bytes();
        let mut rest = Bytes::from([&[0], &length[..], &message].concat());
        while !rest.is_empty() {
            send.reserve_capacity(rest.len());
            let room = std::future::poll_fn(|context| send.poll_capacity(context)).await;
            let Some(Ok(room)) = room else { break };
            let piece = rest.split_to(room.min(rest.len()));
            send.send_data(piece, false).expect("sent");
        }
        let _ = send.send_data(Bytes::new(), true);
        let mut body = response.await.map_err(|e| (-1, e.to_string()))?.into_body();
        let mut bytes = Vec::new();
        while let Some(piece) = body.data().await {
            let piece = piece.map_err(|e| (-1, e.to_string()))?;
            body.flow_control().release_capacity(piece.len()).expect("room");
            bytes.extend_from_slice(&piece);
        }
        let trailers = body.trailers().await.map_err(|e| (-1, e.to_string()))?.expect("trailers");
        let text = |name: &str| trailers.get(name).map(|v| v.to_str().expect("text").to_owned()).unwrap_or_default();
        match text("grpc-status").parse().expect("a number") {
            0 => Ok(M::decode(&bytes[5..]).expect("a message")),
            code => Err((code, text("grpc-message"))),
        }
    }
}
