//! Layer 1: gRPC as the host of a conversation: [`server`] answers calls over one connection, [`Status`] says why one failed
//! (SPEC C3.06, C5.17). Knows nothing of what is said. What calls others is `registry::grpc`, which has their proxies and trust.

pub mod server;

/// `google.rpc.Status`: why a call failed.
#[derive(Clone, PartialEq, prost::Message, thiserror::Error)]
#[error("{message}")]
pub struct Status {
    /// gRPC's number of the kind of failure.
    #[prost(int32, tag = "1")]
    pub code: i32,
    /// For people.
    #[prost(string, tag = "2")]
    pub message: String,
    /// For programs.
    #[prost(message, repeated, tag = "3")]
    pub details: Vec<Any>,
}

/// `google.protobuf.Any`
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Any {
    /// What it is.
    #[prost(string, tag = "1")]
    pub type_url: String,
    /// The thing itself.
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
}

/// gRPC's numbers of the failures that are told here.
pub mod code {
    /// Nobody knows better.
    pub const UNKNOWN: i32 = 2;
    /// The call makes no sense.
    pub const INVALID_ARGUMENT: i32 = 3;
    /// What is asked for does not exist.
    pub const NOT_FOUND: i32 = 5;
    /// What is asked for may not be had.
    pub const PERMISSION_DENIED: i32 = 7;
    /// A limit is reached.
    pub const RESOURCE_EXHAUSTED: i32 = 8;
    /// It cannot be now.
    pub const FAILED_PRECONDITION: i32 = 9;
    /// There is no such call here, or not in this form.
    pub const UNIMPLEMENTED: i32 = 12;
    /// It may be tried again.
    pub const UNAVAILABLE: i32 = 14;
}

impl Status {
    /// A failure of a kind.
    #[must_use]
    pub fn new(code: i32, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: Vec::new() }
    }
}
