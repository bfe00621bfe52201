//! What steps say: all of it goes to the store, a bounded part of it to the progress display (SPEC A5.17).

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;

use super::config::LogLimits;
use super::errors::Failure;
use super::settings;
use crate::base::events::{Event, Stream};
use crate::base::{Digest, Events, FaultKind};
use crate::build::record::Recorder;
use crate::store::{BuildHistory, StepLog};

/// How much of a step's output is shown; `None` is all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ClipLimits {
    /// Bytes of each stream in all.
    size: Option<u64>,
    /// Bytes of each stream for every second that has begun.
    speed: Option<u64>,
}

impl Default for ClipLimits {
    fn default() -> Self {
        Self { size: Some(2 << 20), speed: Some(200 << 10) }
    }
}

impl ClipLimits {
    /// From `BUILDKIT_STEP_LOG_MAX_SIZE` and `BUILDKIT_STEP_LOG_MAX_SPEED`, else from the configuration; -1 is no limit.
    pub(super) fn new(limits: LogLimits) -> Result<Self, Failure> {
        let read = |name: &str, configured: Option<i64>, default: Option<u64>| match settings::variable(name) {
            None => Ok(configured.map_or(default, |bytes| u64::try_from(bytes).ok())),
            Some(text) => match text.parse::<i64>() {
                Ok(-1) => Ok(None),
                Ok(n) if n >= 0 => Ok(Some(n.unsigned_abs())),
                _ => Err(Failure::new(FaultKind::Usage, format!("{name}={text}: expected bytes, or -1 for no limit"))),
            },
        };
        let default = Self::default();
        Ok(Self {
            size: read("BUILDKIT_STEP_LOG_MAX_SIZE", limits.size, default.size)?,
            speed: read("BUILDKIT_STEP_LOG_MAX_SPEED", limits.speed, default.speed)?,
        })
    }

    /// How many bytes may have been shown after this many seconds have begun, and which limit that is.
    fn at(self, seconds: u64) -> Option<(u64, String)> {
        let speed = self.speed.map(|s| (s.saturating_mul(seconds.max(1)), format!("{}/s", size(s))));
        let all = self.size.map(|s| (s, size(s)));
        match (speed, all) {
            (Some(speed), Some(all)) => Some(if speed.0 <= all.0 { speed } else { all }),
            (speed, all) => speed.or(all),
        }
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        n if n >= 1 << 20 && n.is_multiple_of(1 << 20) => format!("{}MiB", n >> 20),
        n if n >= 1 << 10 && n.is_multiple_of(1 << 10) => format!("{}KiB", n >> 10),
        n => format!("{n}B"),
    }
}

/// One stream of one step.
struct Shown {
    since: SystemTime,
    bytes: u64,
    clipping: bool,
}

#[derive(Default)]
struct State {
    history: Option<(Arc<BuildHistory>, Recorder)>,
    logs: HashMap<Digest, StepLog>,
    /// Paths of the logs, also of steps that have ended.
    paths: HashMap<Digest, PathBuf>,
    shown: HashMap<(Digest, Stream), Shown>,
    broken: bool,
}

/// Between those who report and the progress display.
#[derive(Clone, Default)]
pub(super) struct StepLogs(Arc<Mutex<State>>);

impl StepLogs {
    /// Events that pass through here on their way to `events`.
    pub(super) fn before(&self, events: Events, limits: ClipLimits) -> Events {
        let this = self.clone();
        Events::new(move |event| {
            if let Some(event) = this.take(event, limits, &events) {
                events.send(event);
            }
        })
    }

    /// From now on output is kept, and the record says which log is whose.
    pub(super) fn keep(&self, history: Arc<BuildHistory>, recorder: Recorder) {
        self.lock().history = Some((history, recorder));
    }

    /// The whole log of a step.
    pub(super) fn path(&self, vertex: &Digest) -> Option<PathBuf> {
        self.lock().paths.get(vertex).cloned()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, event: Event, limits: ClipLimits, events: &Events) -> Option<Event> {
        match event {
            Event::Log { id, stream, data, at } => {
                let mut state = self.lock();
                if let Err(e) = state.keep(&id, &data, events)
                    && !std::mem::replace(&mut state.broken, true)
                {
                    events.notice("step-logs", format!("logs of steps are not kept: {e}"));
                }
                let data = state.clip(&id, stream, data, at, limits)?;
                Some(Event::Log { id, stream, data, at })
            }
            Event::Completed { ref id, .. } => {
                // Closes the file.
                self.lock().logs.remove(id);
                Some(event)
            }
            other => Some(other),
        }
    }
}

impl State {
    fn keep(&mut self, id: &Digest, data: &[u8], events: &Events) -> Result<(), String> {
        let Some((history, recorder)) = &self.history else { return Ok(()) };
        if self.broken {
            return Ok(());
        }
        if !self.logs.contains_key(id) {
            let log = history.step_log().map_err(|e| e.to_string())?;
            recorder.log(id, log.number(), events);
            self.paths.insert(id.clone(), log.path().to_owned());
            self.logs.insert(id.clone(), log);
        }
        let Some(log) = self.logs.get_mut(id) else { return Ok(()) };
        log.write(data).map_err(|e| format!("cannot write {}: {e}", log.path().display()))
    }

    /// What of it is shown; where it ends, a line says so, once.
    fn clip(&mut self, id: &Digest, stream: Stream, data: Bytes, at: SystemTime, limits: ClipLimits) -> Option<Bytes> {
        let shown = self.shown.entry((id.clone(), stream)).or_insert(Shown { since: at, bytes: 0, clipping: false });
        let elapsed = at.duration_since(shown.since).unwrap_or_default();
        let seconds = elapsed.as_secs() + u64::from(elapsed.subsec_nanos() > 0);
        let Some((limit, name)) = limits.at(seconds) else { return Some(data) };
        let room = limit.saturating_sub(shown.bytes);
        if data.len() as u64 <= room {
            shown.bytes += data.len() as u64;
            shown.clipping = false;
            return Some(data);
        }
        let kept = data.slice(..usize::try_from(room).unwrap_or(0));
        shown.bytes += room;
        if std::mem::replace(&mut shown.clipping, true) {
            return Some(kept).filter(|kept| !kept.is_empty());
        }
        let whole = self.paths.get(id).map(|path| format!(", the whole log is {}", path.display())).unwrap_or_default();
        let note = format!("\n[output clipped, log limit {name} reached{whole}]\n");
        Some([&kept[..], note.as_bytes()].concat().into())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn clip(state: &mut State, length: usize, at: u64, limits: ClipLimits) -> String {
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(at);
        let id = Digest::sha256("step");
        let shown = state.clip(&id, Stream::Stdout, vec![b'x'; length].into(), at, limits);
        shown.map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default()
    }

    /// SPEC A5.17.
    #[test]
    fn a5_17_output_is_clipped_by_speed_and_size() {
        let limits = ClipLimits { size: Some(25), speed: Some(10) };
        let mut state = State::default();
        assert_eq!(clip(&mut state, 6, 0, limits), "xxxxxx");
        assert_eq!(clip(&mut state, 6, 10, limits), "xxxx\n[output clipped, log limit 10B/s reached]\n");
        assert_eq!(clip(&mut state, 6, 20, limits), "");
        assert_eq!(clip(&mut state, 6, 1100, limits), "xxxxxx");
        assert_eq!(clip(&mut state, 20, 9000, limits), "xxxxxxxxx\n[output clipped, log limit 25B reached]\n");
        assert_eq!(clip(&mut state, 1, 9_000_000, limits), "");
        let none = ClipLimits { size: None, speed: None };
        assert_eq!(clip(&mut state, 1000, 0, none).len(), 1000);
        assert_eq!(ClipLimits::default().at(1), Some((200 << 10, "200KiB/s".into())));
        assert_eq!(ClipLimits::default().at(60), Some((2 << 20, "2MiB".into())));
    }
}
