//! Front ends that come as images (SPEC C3): programs that make a graph of what they are told, and ask their host on the way.
//!
//! [`speak`] talks with one over its standard input and output; what it asks for goes through [`GatewayHost`]. [`options`] says what
//! it is told, [`result`] makes of what it returned what every front end makes. [`asked`] is what one asks of the front end that is
//! built in, [`exec`] how it talks with programs in containers. Who starts the program, and in what, is not known
//! here.

pub mod asked;
mod bridge;
mod caps;
pub mod exec;
pub mod options;
pub mod result;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::sync::watch;

use crate::base::events::Warning;
use crate::grpc::{Status, server};
use crate::llb::containers::NewContainerRequest;
use crate::llb::gateway::{Attestation, AttestationChain, ChecksumRequest, Stat};
use crate::llb::op::{Mount, SourceOp};
use crate::llb::{Definition, Graph, ResolvedImage};
use crate::oci::Platform;

use bridge::Bridge;
use exec::GatewayContainer;

/// What an HTTP/2 client says first.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How long a front end that has said what it made may take to hang up.
const GRACE: Duration = Duration::from_secs(5);
/// How much of a message is shown.
const MOST_SHOWN: usize = 4 << 10;
/// How much of something that makes no sense is shown.
const SHOWN: usize = 200;

/// A graph that may be solved.
#[derive(Debug, Clone, Default)]
pub struct Solved {
    /// As it goes on to whoever solves it at the end.
    pub definition: Arc<Definition>,
    /// The same in the front end's words, which name nothing of this machine.
    pub told: Arc<Definition>,
    /// With every source as the policies have it.
    pub graph: Arc<Graph>,
}

/// What a front end made.
#[derive(Debug, Default)]
pub struct Answer {
    /// By platform; the only one may be called nothing.
    pub refs: BTreeMap<String, Solved>,
    /// What is to be known of it (SPEC C3.20).
    pub metadata: BTreeMap<String, Vec<u8>>,
    /// What is attested of it.
    pub attestations: Vec<Attested>,
}

/// An attestation and the tree that it is in.
#[derive(Debug, Clone)]
pub struct Attested {
    /// Of which result.
    pub platform: String,
    /// What was said.
    pub message: Attestation,
    /// Where its content is.
    pub solved: Solved,
}

/// What a source is now.
#[derive(Debug, Clone, Default)]
pub struct PinnedSource {
    /// As it will be used.
    pub source: SourceOp,
    /// Its digest, or its commit.
    pub checksum: String,
    /// The full name of a ref.
    pub reference: String,
    /// The object of an annotated tag.
    pub tag: Option<String>,
    /// Name and time of a file of a web server.
    pub file: Option<(String, Option<i64>)>,
    /// Commit and tag as git keeps them, if they were asked for.
    pub objects: Option<(Vec<u8>, Option<Vec<u8>>)>,
    /// The further digest that was asked for.
    pub digest: Option<String>,
}

/// What is to be known of a source beside what it is now.
#[derive(Debug, Clone, Default)]
pub struct SourceQuery {
    /// Commit and tag as git keeps them.
    pub objects: bool,
    /// A further digest.
    pub checksum: Option<ChecksumRequest>,
}

/// The builder as a front end from outside sees it. Answers of failure go to the front end, which may live with them.
#[async_trait::async_trait]
pub trait GatewayHost: Send + Sync {
    /// What this machine can run, its own kind first.
    fn platforms(&self) -> &[Platform];

    /// Checks a graph: that it can be read, and that this build may have what it asks for.
    async fn admit(&self, definition: Definition) -> Result<Solved, Status>;

    /// Solves a graph now.
    async fn evaluate(&self, graph: &Arc<Graph>) -> Result<(), Status>;

    /// Part of a file of a graph's result: from a byte on, so many at most.
    async fn read_file(&self, graph: &Arc<Graph>, path: &str, part: (u64, u64)) -> Result<Vec<u8>, Status>;

    /// What is in a directory of a graph's result, by name; only names like `pattern` if there is one.
    async fn read_dir(&self, graph: &Arc<Graph>, path: &str, pattern: Option<&str>) -> Result<Vec<Stat>, Status>;

    /// What is at a path of a graph's result.
    async fn stat(&self, graph: &Arc<Graph>, path: &str) -> Result<Stat, Status>;

    /// What an image is, and the source that will be used for it. The title is what progress calls the question; empty for the usual one.
    async fn resolve_image(
        &self,
        source: SourceOp,
        platform: &Platform,
        title: &str,
    ) -> Result<(SourceOp, ResolvedImage), Status>;

    /// What another source is.
    async fn pin(&self, source: SourceOp, platform: &Platform, query: SourceQuery) -> Result<PinnedSource, Status>;

    /// What is attested of an image, with the predicates of these types; `None` where nothing is.
    async fn attested(
        &self,
        source: SourceOp,
        platform: &Platform,
        types: &[String],
    ) -> Result<Option<AttestationChain>, Status>;

    /// Lets another front end make a graph.
    async fn front_end(
        &self,
        name: &str,
        options: BTreeMap<String, String>,
        inputs: BTreeMap<String, Definition>,
    ) -> Result<Answer, Status>;

    /// Makes a container: what is mounted in it, and the graphs whose results that are.
    async fn open_container(
        &self,
        request: NewContainerRequest,
        mounts: Vec<(Mount, Option<Arc<Graph>>)>,
    ) -> Result<Arc<dyn GatewayContainer>, Status>;

    /// Tells the user something.
    fn warn(&self, warning: Warning);
}

/// Why a conversation came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// The front end says why.
    #[error("{0}")]
    Said(Status),
    /// It was given up.
    #[error("it asked for nothing for {0:?}")]
    Silent(Duration),
    /// What came is no HTTP/2.
    #[error("its standard output is no conversation with a builder; it begins with \"{0}\"")]
    Nonsense(String),
    /// It broke the rules later.
    #[error("its standard output is no conversation with a builder any more: {0}")]
    Protocol(String),
    /// It ended before it said what it made.
    #[error("it ended without saying what it made")]
    Closed,
}

/// Talks with a front end until it has said what it made.
///
/// # Errors
/// See [`Trouble`]. `patience` is how long it may ask for nothing.
pub async fn speak(
    mut from: impl AsyncRead + Unpin,
    to: impl AsyncWrite + Unpin,
    host: &dyn GatewayHost,
    inputs: BTreeMap<String, Definition>,
    patience: Option<Duration>,
) -> Result<Answer, Trouble> {
    let bridge = Bridge::new(host, inputs);
    let silent = idle(bridge.activity(), patience);
    let serving = async {
        let head = preface(&mut from).await?;
        let io = tokio::io::join(io::Cursor::new(head).chain(from), to);
        server::serve(io, &bridge).await.map_err(|e| Trouble::Protocol(e.to_string()))
    };
    let over = async {
        bridge.ended().await;
        tokio::time::sleep(GRACE).await;
    };
    let end = tokio::select! {
        biased;
        end = serving => end,
        () = over => Ok(()),
        limit = silent => Err(Trouble::Silent(limit)),
    };
    bridge.release_all().await;
    match bridge.outcome() {
        Some(outcome) => outcome.map_err(Trouble::Said),
        None => Err(end.err().unwrap_or(Trouble::Closed)),
    }
}

/// What a front end says, for a terminal: without what moves the cursor, and not without end.
#[must_use]
pub fn shown(text: &str) -> String {
    let plain = |c: char| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c };
    text.chars().take(MOST_SHOWN).map(plain).collect()
}

/// Reads what comes first.
async fn preface(from: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>, Trouble> {
    let mut head = Vec::new();
    let mut buffer = [0; SHOWN];
    while head.len() < PREFACE.len() {
        let n = from.read(&mut buffer).await.map_err(|e| Trouble::Protocol(e.to_string()))?;
        head.extend_from_slice(&buffer[..n]);
        let known = head.len().min(PREFACE.len());
        if head[..known] != PREFACE[..known] || n == 0 && !head.is_empty() {
            return Err(Trouble::Nonsense(head[..head.len().min(SHOWN)].escape_ascii().to_string()));
        }
        if n == 0 {
            return Err(Trouble::Closed);
        }
    }
    Ok(head)
}

/// Returns once nothing was asked, and nothing answered, for so long.
async fn idle(mut activity: watch::Receiver<(u64, u64)>, patience: Option<Duration>) -> Duration {
    let Some(patience) = patience else { return std::future::pending().await };
    loop {
        let (now, _) = *activity.borrow_and_update();
        tokio::select! {
            Ok(()) = activity.changed() => {}
            () = tokio::time::sleep(patience), if now == 0 => return patience,
        }
    }
}

#[cfg(test)]
mod tests;
