//! What is known of all vertices at a moment: the model behind every sink.

use std::collections::{HashMap, VecDeque};
use std::time::SystemTime;

use crate::base::events::{Outcome, Warning};
use crate::base::{Digest, Event};

/// Lines of output kept of each vertex, for the live view and the error message.
const TAIL: usize = 30;
/// Bytes of a line that are kept.
const LINE: usize = 2048;

/// A vertex.
#[derive(Debug, Clone)]
pub(super) struct Vertex {
    pub(super) name: String,
    /// What it builds on.
    pub(super) inputs: Vec<Digest>,
    pub(super) started: Option<SystemTime>,
    pub(super) completed: Option<SystemTime>,
    pub(super) outcome: Option<Outcome>,
    pub(super) tail: VecDeque<String>,
    partial: Vec<u8>,
    /// Transfers and the like, in order of appearance.
    pub(super) items: Vec<Item>,
}

/// A part of a vertex's work that can be counted.
#[derive(Debug, Clone)]
pub(super) struct Item {
    pub(super) name: String,
    /// Bytes so far.
    pub(super) current: u64,
    /// Bytes in all.
    pub(super) total: Option<u64>,
    pub(super) done: bool,
    pub(super) begun: SystemTime,
}

impl Item {
    /// Bytes a second, once it has run long enough to tell. One that stalls becomes slower and slower.
    pub(super) fn rate(&self, now: SystemTime) -> Option<u64> {
        let seconds = now.duration_since(self.begun).ok()?.as_secs_f64();
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "for people"
        )]
        (seconds >= 0.3 && self.current > 0).then(|| (self.current as f64 / seconds) as u64)
    }
}

/// All vertices, in order of appearance.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) order: Vec<Digest>,
    vertices: HashMap<Digest, Vertex>,
    pub(super) begun: Option<SystemTime>,
    /// Warnings of places in the Dockerfile: they are listed at the end.
    pub(super) findings: Vec<Warning>,
}

impl State {
    pub(super) fn vertex(&self, id: &Digest) -> Option<&Vertex> {
        self.vertices.get(id)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Vertex> {
        self.order.iter().filter_map(|id| self.vertices.get(id))
    }

    pub(super) fn take(&mut self, event: &Event) {
        self.begun.get_or_insert_with(SystemTime::now);
        match event {
            Event::Vertex { id, name, inputs } => {
                if !self.vertices.contains_key(id) {
                    self.order.push(id.clone());
                    let vertex = Vertex {
                        name: name.clone(),
                        inputs: inputs.clone(),
                        started: None,
                        completed: None,
                        outcome: None,
                        tail: VecDeque::new(),
                        partial: Vec::new(),
                        items: Vec::new(),
                    };
                    self.vertices.insert(id.clone(), vertex);
                }
            }
            Event::Started { id, at } => {
                if let Some(vertex) = self.vertices.get_mut(id) {
                    vertex.started.get_or_insert(*at);
                }
            }
            Event::Completed { id, at, outcome } => {
                if let Some(vertex) = self.vertices.get_mut(id) {
                    vertex.started.get_or_insert(*at);
                    vertex.completed = Some(*at);
                    vertex.outcome = Some(outcome.clone());
                }
            }
            Event::Progress { id, item, current, total, done, at } => {
                if let Some(vertex) = self.vertices.get_mut(id) {
                    match vertex.items.iter_mut().find(|i| i.name == *item) {
                        Some(known) => {
                            *known = Item { current: *current, total: *total, done: *done, ..known.clone() };
                        }
                        None => vertex.items.push(Item {
                            name: item.clone(),
                            current: *current,
                            total: *total,
                            done: *done,
                            begun: *at,
                        }),
                    }
                }
            }
            Event::Log { id, data, .. } => {
                if let Some(vertex) = self.vertices.get_mut(id) {
                    vertex.log(data);
                }
            }
            Event::Warning(warning) => self.findings.extend(warning.location.is_some().then(|| warning.clone())),
            Event::Notice { .. } => {}
        }
    }
}

/// Whether a vertex of this name is what the user wrote: an instruction, which is numbered in its stage
/// (`[linux/arm64 build 2/4] RUN make`, SPEC B6.02). The others are what is around them: contexts, metadata, exports.
pub(super) fn is_instruction(name: &str) -> bool {
    let Some((inside, _)) = name.strip_prefix('[').and_then(|rest| rest.split_once(']')) else { return false };
    let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let last = inside.rsplit(' ').next().unwrap_or_default();
    last.split_once('/').is_some_and(|(at, of)| number(at) && number(of))
}

impl Vertex {
    fn log(&mut self, data: &[u8]) {
        for piece in data.split_inclusive(|b| *b == b'\n') {
            // What is drawn over need not be kept; a line may end with both.
            let ends = piece.strip_suffix(b"\r\n").or_else(|| piece.strip_suffix(b"\n")).unwrap_or(piece);
            let ends = ends.strip_suffix(b"\r").unwrap_or(ends);
            let piece = match ends.iter().rposition(|b| *b == b'\r') {
                Some(at) => {
                    self.partial.clear();
                    &piece[at + 1..]
                }
                None => piece,
            };
            if self.partial.len() < LINE {
                self.partial.extend_from_slice(&piece[..piece.len().min(LINE)]);
            }
            if piece.ends_with(b"\n") {
                let line = std::mem::take(&mut self.partial);
                self.push(&line);
            }
        }
    }

    /// Whether it has said anything.
    pub(super) fn has_output(&self) -> bool {
        !self.tail.is_empty() || !self.partial.is_empty()
    }

    /// The last `count` lines of its output; one that has not ended yet is among them, as a progress bar's.
    pub(super) fn last_lines(&self, count: usize) -> Vec<String> {
        let open = Some(printable(&self.partial)).filter(|line| !line.is_empty());
        let all: Vec<String> = self.tail.iter().cloned().chain(open).collect();
        all[all.len().saturating_sub(count)..].to_vec()
    }

    fn push(&mut self, line: &[u8]) {
        if self.tail.len() == TAIL {
            self.tail.pop_front();
        }
        self.tail.push_back(printable(line));
    }

    /// Seconds it has run.
    pub(super) fn seconds(&self, now: SystemTime) -> f64 {
        let end = self.completed.unwrap_or(now);
        self.started.and_then(|s| end.duration_since(s).ok()).map_or(0.0, |d| d.as_secs_f64())
    }
}

/// A line without what would disturb a terminal: escape sequences, carriage returns, control characters.
pub(super) fn printable(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let text = text.trim_end_matches(['\n', '\r']);
    // A progress bar draws over itself: only what it drew last counts.
    let text = text.rsplit('\r').next().unwrap_or_default();
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => {
                // CSI and OSC sequences end with a letter or BEL; anything else is two characters.
                match chars.next() {
                    Some('[') => while chars.next().is_some_and(|c| !c.is_ascii_alphabetic()) {},
                    Some(']') => while chars.next().is_some_and(|c| c != '\u{7}') {},
                    _ => {}
                }
            }
            '\t' => out.push_str("    "),
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    // SPEC B6.02
    #[test]
    fn b6_02_what_the_user_wrote_is_numbered() {
        for name in ["[1/2] FROM busybox", "[build 12/13] RUN [ -e x ]", "[linux/amd64->arm64 stage-1 2/2] COPY a b"] {
            assert!(is_instruction(name), "{name}");
        }
        for name in
            ["[internal] load build context", "exporting to image", "[auth] a/b:pull token", "[context x/y] load", "[]"]
        {
            assert!(!is_instruction(name), "{name}");
        }
    }

    #[test]
    fn escape_sequences_do_not_reach_the_terminal() {
        assert_eq!(printable(b"\x1b[31mred\x1b[0m\r\n"), "red");
        assert_eq!(printable(b"10%\r20%\r30%"), "30%");
        assert_eq!(printable(b"\x1b]0;title\x07text\x08"), "text");
    }
}
