//! Layer 4: talks to OCI and Docker registries: resolve, pull, push, credentials.
//!
//! Together with the cache backends the only place that knows HTTP. Reads no environment: proxies, trust and
//! credentials come in through [`ClientOptions`]. Knows nothing of the store: blobs leave through a writer and
//! enter through a [`BlobSource`]. Start reading at [`Client`]; one request's way through authentication,
//! redirects and retries is `request.rs`.

pub mod answers;
pub mod challenge;
pub mod cloud;
pub mod credential;
pub mod docker_config;
pub mod error;
pub mod login;
pub mod options;

mod auth;
mod client;
mod flight;
pub mod grpc;
mod handshake;
pub mod helper;
mod host;
mod mirrors;
mod pull;
mod push;
mod referrers;
mod request;
mod resolve;
mod scopes;
mod tls;
mod transport;
mod upload;
pub mod web;

pub use client::{BlobSource, Client, FetchedManifest, Progress, PushOutcome, no_progress};
pub use credential::{Anonymous, Credential, CredentialProvider, Wanted};
pub use error::{Fault, RegistryError};
pub use mirrors::{Mirror, Permitted, Pulls, Route};
pub use options::{ClientOptions, HostOptions, ProxyOptions, RetryPolicy, Timeouts, TrustOptions};
pub use referrers::cosign_tag;
pub use tls::engine_tls;

#[cfg(test)]
#[path = "../../tests/support/fake_registry/mod.rs"]
pub(crate) mod fake_registry;
#[cfg(test)]
mod tests;
