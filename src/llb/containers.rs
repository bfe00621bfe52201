//! What front ends and their host say about containers (SPEC C3.16).

use super::op::{HostIp, Meta, Mount, Platform, SecretEnv};
use crate::grpc::Status;

/// `NewContainer`
#[derive(Clone, PartialEq, prost::Message)]
pub struct NewContainerRequest {
    /// What the front end calls it.
    #[prost(string, tag = "1")]
    pub container_id: String,
    /// What is mounted; results are named by [`Mount::result_id`].
    #[prost(message, repeated, tag = "2")]
    pub mounts: Vec<Mount>,
    /// A [`super::op::NetMode`].
    #[prost(int32, tag = "3")]
    pub network: i32,
    /// What its programs are for.
    #[prost(message, optional, tag = "4")]
    pub platform: Option<Platform>,
    /// Names beyond those of DNS.
    #[prost(message, repeated, tag = "6")]
    pub extra_hosts: Vec<HostIp>,
    /// Its host name.
    #[prost(string, tag = "7")]
    pub hostname: String,
}

/// `ReleaseContainer`
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ReleaseContainerRequest {
    /// Which.
    #[prost(string, tag = "1")]
    pub container_id: String,
}

/// `ExecProcess`, in both directions.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ExecMessage {
    /// What the front end calls the process.
    #[prost(string, tag = "1")]
    pub process_id: String,
    /// What is said of it.
    #[prost(oneof = "ExecInput", tags = "2, 3, 4, 5, 6, 7, 8")]
    pub input: Option<ExecInput>,
}

/// What is said of a process.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum ExecInput {
    /// To the host: start it.
    #[prost(message, tag = "2")]
    Init(InitMessage),
    /// Bytes for, or of, one of its descriptors.
    #[prost(message, tag = "3")]
    File(FdMessage),
    /// To the host: its terminal has another size.
    #[prost(message, tag = "4")]
    Resize(ResizeMessage),
    /// It runs.
    #[prost(message, tag = "5")]
    Started(StartedMessage),
    /// It has ended.
    #[prost(message, tag = "6")]
    Exit(ExitMessage),
    /// There is nothing more to say of it.
    #[prost(message, tag = "7")]
    Done(DoneMessage),
    /// To the host: send it a signal.
    #[prost(message, tag = "8")]
    Signal(SignalMessage),
}

/// A process to start.
#[derive(Clone, PartialEq, prost::Message)]
pub struct InitMessage {
    /// Where.
    #[prost(string, tag = "1")]
    pub container_id: String,
    /// What.
    #[prost(message, optional, tag = "2")]
    pub meta: Option<Meta>,
    /// Which of its descriptors 0 to 2 somebody writes to, or reads.
    #[prost(uint32, repeated, tag = "3")]
    pub fds: Vec<u32>,
    /// They are one terminal.
    #[prost(bool, tag = "4")]
    pub tty: bool,
    /// A [`super::op::SecurityMode`].
    #[prost(int32, tag = "5")]
    pub security: i32,
    /// Secrets that it has as variables.
    #[prost(message, repeated, tag = "6")]
    pub secretenv: Vec<SecretEnv>,
}

/// Bytes of a descriptor.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct FdMessage {
    /// Which.
    #[prost(uint32, tag = "1")]
    pub fd: u32,
    /// Nothing comes after these.
    #[prost(bool, tag = "2")]
    pub eof: bool,
    /// The bytes.
    #[prost(bytes = "vec", tag = "3")]
    pub data: Vec<u8>,
}

/// A size of a terminal, in characters.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct ResizeMessage {
    /// Lines.
    #[prost(uint32, tag = "1")]
    pub rows: u32,
    /// Columns.
    #[prost(uint32, tag = "2")]
    pub cols: u32,
}

/// See [`ExecInput::Started`].
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct StartedMessage {}

/// How a process ended.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ExitMessage {
    /// Its exit code; 255 where it has none.
    #[prost(uint32, tag = "1")]
    pub code: u32,
    /// Why it was no success.
    #[prost(message, optional, tag = "2")]
    pub error: Option<Status>,
}

/// See [`ExecInput::Done`].
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct DoneMessage {}

/// A signal.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct SignalMessage {
    /// Its name, with or without `SIG`.
    #[prost(string, tag = "1")]
    pub name: String,
}
