//! Where the time went: spans for OpenTelemetry ([`super::otlp`]) and for Chrome's trace format (`--trace FILE`): open it in
//! Perfetto or `chrome://tracing`.
//!
//! One span for each vertex and for each item of one (a blob, a transfer). Spans that overlap are on different lines.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::base::events::Outcome;
use crate::base::{Digest, Event, Events};

/// Collects spans.
#[derive(Debug, Clone, Default)]
pub struct Trace(Arc<Mutex<Spans>>);

#[derive(Debug, Default)]
struct Spans {
    names: HashMap<Digest, String>,
    open: HashMap<(Digest, String), SystemTime>,
    closed: Vec<Span>,
    /// How many of these [`Trace::take_new`] gave already.
    taken: usize,
}

/// Something that took time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// The vertex that it is, or is part of; `None` for the build as a whole.
    pub vertex: Option<Digest>,
    /// The item of the vertex, if it is one.
    pub item: Option<String>,
    /// What people read.
    pub name: String,
    /// Its beginning.
    pub from: SystemTime,
    /// Its end.
    pub to: SystemTime,
    /// done, cached, failed or canceled
    pub outcome: &'static str,
    /// What went wrong.
    pub error: Option<String>,
    /// How much was moved.
    pub bytes: Option<u64>,
}

impl Span {
    /// A build as a whole.
    #[must_use]
    pub fn of_build(from: SystemTime, to: SystemTime, error: Option<String>) -> Self {
        let (name, outcome) = ("rbuild build".into(), if error.is_some() { "failed" } else { "done" });
        Self { vertex: None, item: None, name, from, to, outcome, error, bytes: None }
    }
}

impl Trace {
    /// Takes note of every event on its way to `events`.
    #[must_use]
    pub fn tee(&self, events: Events) -> Events {
        let trace = self.clone();
        Events::new(move |event| {
            trace.0.lock().unwrap_or_else(PoisonError::into_inner).event(&event);
            events.send(event);
        })
    }

    /// What ended since this was asked last.
    #[must_use]
    pub fn take_new(&self) -> Vec<Span> {
        let mut spans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let new = spans.closed[spans.taken..].to_vec();
        spans.taken = spans.closed.len();
        new
    }

    /// What was collected so far, as JSON. Times are in microseconds since the first span began.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut spans = self.0.lock().unwrap_or_else(PoisonError::into_inner).closed.clone();
        spans.sort_by_key(|span| (span.from, std::cmp::Reverse(span.to)));
        let start = spans.first().map_or(UNIX_EPOCH, |span| span.from);
        let micros = |from: SystemTime, to: SystemTime| {
            u64::try_from(to.duration_since(from).unwrap_or_default().as_micros()).unwrap_or(u64::MAX)
        };
        // The end of the last span on each line.
        let mut lines: Vec<SystemTime> = Vec::new();
        let mut events = Vec::new();
        for span in spans {
            let free = lines.iter().position(|end| *end <= span.from);
            let line = free.unwrap_or(lines.len());
            match lines.get_mut(line) {
                Some(end) => *end = span.to,
                None => lines.push(span.to),
            }
            events.push(serde_json::json!({
                "name": span.name,
                "cat": if span.item.is_some() { "item" } else { "vertex" },
                "ph": "X",
                "ts": micros(start, span.from),
                "dur": micros(span.from, span.to),
                "pid": 1,
                "tid": line + 1,
                "args": {"outcome": span.outcome},
            }));
        }
        serde_json::json!({"displayTimeUnit": "ms", "traceEvents": events}).to_string()
    }
}

impl Spans {
    fn event(&mut self, event: &Event) {
        match event {
            Event::Vertex { id, name, .. } => {
                self.names.entry(id.clone()).or_insert_with(|| name.clone());
            }
            Event::Started { id, at } => {
                self.open.entry((id.clone(), String::new())).or_insert(*at);
            }
            Event::Completed { id, at, outcome } => {
                let (outcome, error) = match outcome {
                    Outcome::Done => ("done", None),
                    Outcome::Cached => ("cached", None),
                    Outcome::Failed(why) => ("failed", Some(why.clone())),
                    Outcome::Canceled => ("canceled", None),
                };
                let name = self.names.get(id).cloned().unwrap_or_else(|| id.to_string());
                // What never began lasted no time.
                let from = self.open.remove(&(id.clone(), String::new())).unwrap_or(*at);
                let vertex = Some(id.clone());
                self.closed.push(Span { vertex, item: None, name, from, to: *at, outcome, error, bytes: None });
            }
            Event::Progress { id, item, current, done, at, .. } => {
                let key = (id.clone(), item.clone());
                if *done {
                    self.closed.push(Span {
                        from: self.open.remove(&key).unwrap_or(*at),
                        to: *at,
                        vertex: Some(key.0),
                        item: Some(key.1),
                        name: item.clone(),
                        outcome: "done",
                        error: None,
                        bytes: Some(*current),
                    });
                } else {
                    self.open.entry(key).or_insert(*at);
                }
            }
            Event::Log { .. } | Event::Warning(_) | Event::Notice { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn spans_that_overlap_are_on_lines_of_their_own() {
        let trace = Trace::default();
        let events = trace.tee(Events::none());
        let at = |ms| UNIX_EPOCH + Duration::from_millis(ms);
        for (name, from, to) in [("a", 10, 30), ("b", 20, 40), ("c", 30, 35)] {
            let id = Digest::sha256(name);
            events.vertex(&id, name, Vec::new());
            events.send(Event::Started { id: id.clone(), at: at(from) });
            events.send(Event::Completed { id, at: at(to), outcome: Outcome::Done });
        }
        let json: serde_json::Value = serde_json::from_str(&trace.to_json()).expect("valid JSON");
        let spans: Vec<(String, u64, u64, u64)> = json["traceEvents"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|s| {
                let number = |key: &str| s[key].as_u64().expect("a number");
                (s["name"].as_str().expect("a name").to_owned(), number("ts"), number("dur"), number("tid"))
            })
            .collect();
        let span = |name: &str, ts, dur, tid| (name.to_owned(), ts, dur, tid);
        assert_eq!(spans, [span("a", 0, 20_000, 1), span("b", 10_000, 20_000, 2), span("c", 20_000, 5_000, 1)]);
    }
}
