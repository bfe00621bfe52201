//! How long setting up TLS may take (SPEC E2.08), apart from how long it takes to reach the server.
//!
//! HTTP clients have one limit for both. When a handshake begins, TLS looks for what is known of the server from earlier: that is
//! noticed here, on the thread that makes the connection, and from then on time is counted.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::NamedGroup;
use rustls::client::{
    ClientConfig, ClientSessionMemoryCache, ClientSessionStore, Resumption, Tls12ClientSessionValue,
    Tls13ClientSessionValue,
};
use rustls::pki_types::ServerName;
use tokio::time::Sleep;
use tower_layer::Layer;
use tower_service::Service;

/// What a failure says.
pub(super) const TOO_LONG: &str = "no TLS handshake in time";
/// Servers that are remembered.
const REMEMBERED: usize = 256;

thread_local! {
    /// A handshake began since this was last looked at.
    static BEGAN: Cell<bool> = const { Cell::new(false) };
}

/// Makes handshakes noticed that begin with this configuration.
pub(super) fn watch(config: &mut ClientConfig) {
    config.resumption = Resumption::store(Arc::new(Noticing(ClientSessionMemoryCache::new(REMEMBERED))));
}

/// What is known of servers, and when somebody asks for it.
#[derive(Debug)]
struct Noticing(ClientSessionMemoryCache);

impl ClientSessionStore for Noticing {
    fn set_kx_hint(&self, server: ServerName<'static>, group: NamedGroup) {
        self.0.set_kx_hint(server, group);
    }

    fn kx_hint(&self, server: &ServerName<'_>) -> Option<NamedGroup> {
        BEGAN.set(true);
        self.0.kx_hint(server)
    }

    fn set_tls12_session(&self, server: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.0.set_tls12_session(server, value);
    }

    fn tls12_session(&self, server: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        BEGAN.set(true);
        self.0.tls12_session(server)
    }

    fn remove_tls12_session(&self, server: &ServerName<'static>) {
        self.0.remove_tls12_session(server);
    }

    fn insert_tls13_ticket(&self, server: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.0.insert_tls13_ticket(server, value);
    }

    fn take_tls13_ticket(&self, server: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        BEGAN.set(true);
        self.0.take_tls13_ticket(server)
    }
}

/// Ends connections whose handshake takes longer.
#[derive(Debug, Clone, Copy)]
pub(super) struct HandshakeLimit(pub(super) Duration);

impl<S> Layer<S> for HandshakeLimit {
    type Service = Limited<S>;

    fn layer(&self, inner: S) -> Limited<S> {
        Limited { inner, limit: self.0 }
    }
}

/// Makes connections.
#[derive(Debug, Clone)]
pub(super) struct Limited<S> {
    inner: S,
    limit: Duration,
}

/// Any error.
type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl<S, R> Service<R> for Limited<S>
where
    S: Service<R, Error = BoxError>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Connecting<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: R) -> Self::Future {
        Connecting { connection: Box::pin(self.inner.call(request)), limit: self.limit, end: None }
    }
}

/// A connection that is being made.
pub(super) struct Connecting<F> {
    connection: Pin<Box<F>>,
    limit: Duration,
    /// When the handshake has taken too long, if there is one.
    end: Option<Pin<Box<Sleep>>>,
}

impl<F, T> Future for Connecting<F>
where
    F: Future<Output = Result<T, BoxError>>,
{
    type Output = Result<T, BoxError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        BEGAN.set(false);
        let polled = self.connection.as_mut().poll(context);
        if BEGAN.replace(false) {
            // A proxy's own handshake is one, and the server's behind it is another.
            self.end = Some(Box::pin(tokio::time::sleep(self.limit)));
        }
        match (polled, &mut self.end) {
            (Poll::Pending, Some(end)) => {
                end.as_mut().poll(context).map(|()| Err(io::Error::new(io::ErrorKind::TimedOut, TOO_LONG).into()))
            }
            (polled, _) => polled,
        }
    }
}
