//! Layer 11: progress for people and machines (SPEC B6).
//!
//! [`Progress`] takes events on a thread of its own and hands them to one of the sinks. Nobody below knows a terminal.

pub mod otlp;
mod plain;
mod rawjson;
mod split;
mod stamped;
mod state;
mod style;
mod summary;
mod terminal;
mod trace;
mod tty;

use std::collections::HashSet;
use std::io::Write;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

pub use split::Split;
pub use style::{Colors, Style};
pub use summary::{Gauge, StepSummary, Summary};
pub use terminal::Connection;
pub use trace::{Span, Trace};
pub use tty::columns;

use crate::base::events::Warning;
use crate::base::{Digest, Event, Events};

/// Kinds of progress (SPEC B2.23).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Lines as things happen.
    Plain,
    /// A table that is drawn again.
    Tty,
    /// JSON lines.
    RawJson,
    /// Nothing.
    Silent,
}

/// Takes events.
trait Sink: Send {
    /// One event.
    fn event(&mut self, event: &Event, state: &state::State, out: &mut dyn Write) -> std::io::Result<()>;
    /// Called now and then while nothing happens.
    fn tick(&mut self, _state: &state::State, _out: &mut dyn Write) -> std::io::Result<()> {
        Ok(())
    }
    /// The end.
    fn finish(&mut self, _state: &state::State, _out: &mut dyn Write) -> std::io::Result<()> {
        Ok(())
    }
}

/// What a failed step said last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedStep {
    /// Its name.
    pub name: String,
    /// The last lines of its output.
    pub tail: Vec<String>,
}

/// What is known when all is over.
#[derive(Debug, Default)]
pub struct Ended {
    /// What the step that failed said last.
    pub step: Option<FailedStep>,
    /// The build in numbers.
    pub summary: Option<Summary>,
    /// Warnings of places in the Dockerfile, also of a build that failed.
    pub findings: Vec<Warning>,
}

/// Runs a sink.
pub struct Progress {
    sender: Option<SyncSender<Message>>,
    thread: Option<JoinHandle<state::State>>,
}

enum Message {
    Event(Event),
    End,
}

/// Events that may wait before a sender does. Room for all of them is made at once.
const QUEUE: usize = 512;

impl Progress {
    /// Starts a sink that writes to `out`.
    #[must_use]
    pub fn start(mode: Mode, out: impl Write + Send + 'static, style: Style) -> (Self, Events) {
        let stamped = mode == Mode::Plain && style.timestamps;
        let out: Box<dyn Write + Send> = if stamped { Box::new(stamped::Stamped::new(out)) } else { Box::new(out) };
        let sink: Option<Box<dyn Sink>> = match mode {
            Mode::Plain => Some(Box::new(plain::Plain::new(style.name_width))),
            Mode::Tty => Some(Box::new(tty::Tty::new(style))),
            Mode::RawJson => Some(Box::new(rawjson::RawJson)),
            Mode::Silent => None,
        };
        let (sender, receiver) = sync_channel(QUEUE);
        let thread = std::thread::Builder::new().name("progress".into()).spawn(move || run(sink, &receiver, out)).ok();
        let events = {
            let sender = sender.clone();
            Events::new(move |event| {
                // The other side is gone only when the program ends.
                let _ = sender.send(Message::Event(event));
            })
        };
        (Self { sender: Some(sender), thread }, events)
    }

    /// Waits until everything sent so far is shown. `failed` is the vertex that ended the build.
    pub fn finish(mut self, failed: Option<&Digest>) -> Ended {
        if let Some(sender) = self.sender.take() {
            let _ = sender.send(Message::End);
        }
        let Some(state) = self.thread.take().and_then(|t| t.join().ok()) else { return Ended::default() };
        let step = failed.and_then(|id| state.vertex(id));
        let step = step.map(|v| FailedStep { name: v.name.clone(), tail: v.tail.iter().cloned().collect() });
        Ended { step, summary: Some(Summary::of(&state, SystemTime::now())), findings: state.findings }
    }
}

fn run(sink: Option<Box<dyn Sink>>, receiver: &Receiver<Message>, mut out: Box<dyn Write + Send>) -> state::State {
    let mut state = state::State::default();
    let mut noticed = HashSet::new();
    let mut sink = sink;
    loop {
        let result = match receiver.recv_timeout(Duration::from_millis(100)) {
            Ok(Message::Event(event)) => {
                if let Event::Notice { key, .. } = &event
                    && !noticed.insert(key.clone())
                {
                    continue;
                }
                state.take(&event);
                sink.as_mut().map_or(Ok(()), |s| s.event(&event, &state, &mut out))
            }
            Err(RecvTimeoutError::Timeout) => sink.as_mut().map_or(Ok(()), |s| s.tick(&state, &mut out)),
            Ok(Message::End) | Err(RecvTimeoutError::Disconnected) => {
                let _ = sink.as_mut().map_or(Ok(()), |s| s.finish(&state, &mut out));
                let _ = out.flush();
                return state;
            }
        };
        // A terminal that is gone must not stop the build.
        if result.is_err() {
            sink = None;
        }
    }
}
