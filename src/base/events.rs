//! What happens during a build, as plain data flowing upwards.
//!
//! Modules below `cli` report through [`Events`] and never print. The vocabulary is BuildKit's SolveStatus
//! (SPEC B6.04): vertexes, statuses (progress items of a vertex), logs and warnings, plus notices.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;

use super::Digest;

/// Which stream of a step a log chunk was written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stream {
    /// File descriptor 1.
    Stdout,
    /// File descriptor 2.
    Stderr,
}

/// How a vertex ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It ran and succeeded.
    Done,
    /// Its result was found in a cache.
    Cached,
    /// It failed; the text is one line.
    Failed(String),
    /// It was stopped because something else failed or the user asked.
    Canceled,
}

/// One thing that happened. Times are wall-clock and taken by the sender.
#[derive(Debug, Clone)]
pub enum Event {
    /// A vertex is known. May be sent again; the first one counts.
    Vertex {
        /// Vertex digest, or any digest that identifies an internal step.
        id: Digest,
        /// The name to show (SPEC B6.02).
        name: String,
        /// Digests of its inputs.
        inputs: Vec<Digest>,
    },
    /// A vertex began to run.
    Started {
        /// The vertex.
        id: Digest,
        /// When.
        at: SystemTime,
    },
    /// A vertex ended.
    Completed {
        /// The vertex.
        id: Digest,
        /// When.
        at: SystemTime,
        /// How.
        outcome: Outcome,
    },
    /// Progress of one item (a blob, a transfer) of a vertex.
    Progress {
        /// The vertex.
        id: Digest,
        /// Item name, unique in the vertex, e.g. a blob digest or `transferring context:`.
        item: String,
        /// Bytes so far.
        current: u64,
        /// Bytes in all, where known.
        total: Option<u64>,
        /// The item is complete.
        done: bool,
        /// When.
        at: SystemTime,
    },
    /// Output of a step.
    Log {
        /// The vertex.
        id: Digest,
        /// Where it was written.
        stream: Stream,
        /// Raw bytes, not necessarily whole lines nor UTF-8.
        data: Bytes,
        /// When.
        at: SystemTime,
    },
    /// Something a user should know that is tied to a place in a file or a vertex.
    Warning(Warning),
    /// Something a user should know about the build as a whole, said once per `key`: a weaker rung, a
    /// slower snapshotter, a skipped cache.
    Notice {
        /// Stable identifier; a second notice with the same key is dropped by the sinks.
        key: Cow<'static, str>,
        /// One line.
        text: String,
    },
}

/// A lint or build warning.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Warning {
    /// The vertex it belongs to, if any.
    pub vertex: Option<Digest>,
    /// One line, e.g. `StageNameCasing: Stage name 'X' should be lowercase (line 3)`.
    pub short: String,
    /// More lines.
    pub detail: Vec<String>,
    /// Documentation.
    pub url: Option<String>,
    /// File name and 1-based inclusive line range.
    pub location: Option<(String, u32, u32)>,
}

/// How items begin that say which layer did not have to be sent to a registry; its digest and size follow.
pub const SAVED: [&str; 2] = ["already there: ", "mounted: "];

/// What the progress item begins with that says why a vertex was not found in a cache.
pub const NOT_CACHED: &str = "not cached: ";

/// Where events go. Cheap to clone; sending never blocks for long and never fails.
#[derive(Clone)]
pub struct Events(Arc<dyn Fn(Event) + Send + Sync>);

impl Events {
    /// Sends every event to `sink`.
    pub fn new(sink: impl Fn(Event) + Send + Sync + 'static) -> Self {
        Self(Arc::new(sink))
    }

    /// Drops every event.
    #[must_use]
    pub fn none() -> Self {
        Self::new(|_| {})
    }

    /// Sends one event.
    pub fn send(&self, event: Event) {
        (self.0)(event);
    }

    /// Announces a vertex.
    pub fn vertex(&self, id: &Digest, name: impl Into<String>, inputs: Vec<Digest>) {
        self.send(Event::Vertex { id: id.clone(), name: name.into(), inputs });
    }

    /// Says that a vertex began.
    pub fn started(&self, id: &Digest) {
        self.send(Event::Started { id: id.clone(), at: SystemTime::now() });
    }

    /// Says that a vertex ended.
    pub fn completed(&self, id: &Digest, outcome: Outcome) {
        self.send(Event::Completed { id: id.clone(), at: SystemTime::now(), outcome });
    }

    /// Reports output of a step.
    pub fn log(&self, id: &Digest, stream: Stream, data: impl Into<Bytes>) {
        self.send(Event::Log { id: id.clone(), stream, data: data.into(), at: SystemTime::now() });
    }

    /// Reports progress of an item of a vertex.
    pub fn progress(&self, id: &Digest, item: impl Into<String>, current: u64, total: Option<u64>, done: bool) {
        let item = item.into();
        self.send(Event::Progress { id: id.clone(), item, current, total, done, at: SystemTime::now() });
    }

    /// Says why the result of a vertex was not found.
    pub fn missed(&self, id: &Digest, reason: impl std::fmt::Display) {
        self.progress(id, format!("{NOT_CACHED}{reason}"), 0, None, true);
    }

    /// Warns of something that belongs to no vertex and no place.
    pub fn warning(&self, short: impl Into<String>) {
        let short = short.into();
        self.send(Event::Warning(Warning { vertex: None, short, detail: Vec::new(), url: None, location: None }));
    }

    /// Tells the user something about the build as a whole, once per key.
    pub fn notice(&self, key: impl Into<Cow<'static, str>>, text: impl Into<String>) {
        self.send(Event::Notice { key: key.into(), text: text.into() });
    }
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Events")
    }
}
