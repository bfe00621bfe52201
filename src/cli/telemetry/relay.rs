//! What steps have to say to the collector of spans (SPEC C5.17): a socket that takes OTLP over gRPC and passes each message on as
//! the build's own spans go. The collector's address and headers stay here.

use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::target::{TRACES, Target};
use crate::base::socket::ServedSocket;
use crate::grpc::server::{self, Service};
use crate::grpc::{Status, code};
use crate::registry::Client;
use crate::ui::otlp::Encoding;

/// Listens below `dir`; `None` if the collector does not take the protobuf that steps send. Needs a tokio runtime.
///
/// # Errors
/// The file system's.
pub(super) fn listen(dir: &Path, target: &Target, client: &Client) -> io::Result<Option<ServedSocket>> {
    if target.encoding() != Encoding::Protobuf {
        return Ok(None);
    }
    let relay = Arc::new(Relay { target: target.clone(), client: target.client(client) });
    let serve = move |step| {
        let relay = Arc::clone(&relay);
        async move {
            // A program that breaks off, or speaks something else, harms nobody but itself.
            let _ = server::serve(step, &*relay).await;
        }
    };
    // Whoever the step runs as may say what it did.
    ServedSocket::listen(dir, "otel", (0, 0), 0o666, serve).map(Some)
}

struct Relay {
    target: Target,
    client: Client,
}

#[async_trait::async_trait]
impl Service for Relay {
    async fn unary(&self, path: &str, message: Bytes) -> Result<Vec<u8>, Status> {
        if path.trim_start_matches('/') != TRACES.method() {
            return Err(Status::new(code::UNIMPLEMENTED, "only spans are taken here"));
        }
        let sent = tokio::time::timeout(self.target.timeout, self.target.send(&self.client, message.into())).await;
        let sent = sent.unwrap_or_else(|_| Err("it does not answer in time".into()));
        // Who waits here is an exporter in the step, which knows what to do about a collector that is away.
        sent.map_err(|why| Status::new(code::UNAVAILABLE, format!("the collector: {why}")))?;
        // An empty answer: everything was taken.
        Ok(Vec::new())
    }

    fn is_stream(&self, _: &str) -> bool {
        false
    }

    async fn stream(&self, _: &str, _: mpsc::Receiver<Bytes>, _: mpsc::Sender<Vec<u8>>) -> Result<(), Status> {
        Err(Status::new(code::UNIMPLEMENTED, "spans come one message at a time"))
    }
}
