//! The causes of failures, which libcontainer tells only to `tracing`, in processes it cloned.
//!
//! Everything at error level goes as a line into a pipe that those processes share with the step process, which puts
//! the first line (the innermost cause) into the step's outcome. The executor reports through the same pipe.

use std::fmt::{self, Write as _};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::pipe::PipeFlags;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Marks lines of our own executor.
const EXECUTOR: char = '!';
/// Writes up to this many bytes to a pipe are atomic.
const MAX_LINE: usize = 4000;

/// Both ends of the pipe.
pub(super) struct ErrorPipe {
    reader: OwnedFd,
    writer: Arc<OwnedFd>,
}

impl ErrorPipe {
    pub(super) fn new() -> io::Result<Self> {
        let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        Ok(Self { reader, writer: Arc::new(writer) })
    }

    pub(super) fn writer(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.writer)
    }

    /// Sends libcontainer's errors into the pipe from now on.
    pub(super) fn subscribe(&self) {
        // Can only fail if there is a subscriber already, which would be as good.
        let _ = tracing::subscriber::set_global_default(ErrorLines(self.writer()));
    }

    fn lines(&self) -> Vec<String> {
        let mut text = Vec::new();
        let mut buf = [0; 4096];
        while let Ok(n @ 1..) = rustix::io::read(&self.reader, &mut buf) {
            text.extend_from_slice(&buf[..n]);
        }
        String::from_utf8_lossy(&text).lines().map(str::to_owned).collect()
    }

    /// What the executor reported, if it did.
    pub(super) fn executor_report(&self) -> Option<String> {
        self.lines().iter().find_map(|l| l.strip_prefix(EXECUTOR)).map(str::to_owned)
    }

    /// The error with its cause.
    pub(super) fn explain(&self, error: &dyn std::error::Error) -> String {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(inner) = source {
            let inner_text = inner.to_string();
            if !text.contains(&inner_text) {
                let _ = write!(text, ": {inner_text}");
            }
            source = inner.source();
        }
        let lines = self.lines();
        if let Some(own) = lines.iter().find_map(|l| l.strip_prefix(EXECUTOR)) {
            return own.to_owned();
        }
        match lines.first() {
            Some(cause) if !text.contains(cause.as_str()) => format!("{cause} ({text})"),
            _ => text,
        }
    }
}

/// Reports an error of the executor.
pub(super) fn report(writer: &OwnedFd, message: &str) {
    write_line(writer, &format!("{EXECUTOR}{message}"));
}

fn write_line(writer: &OwnedFd, line: &str) {
    let mut line = line.replace('\n', " ");
    let mut end = line.len().min(MAX_LINE);
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    line.truncate(end);
    line.push('\n');
    // A full pipe has the first causes already, which are the ones that count.
    let _ = rustix::io::write(writer, line.as_bytes());
}

struct ErrorLines(Arc<OwnedFd>);

impl Subscriber for ErrorLines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::ERROR
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::ERROR)
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        write_line(&self.0, &line.finish());
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// `message (field: value, …)`.
#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Line {
    fn finish(self) -> String {
        if self.fields.is_empty() { self.message } else { format!("{} ({})", self.message, self.fields) }
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            let _ = write!(self.message, "{value:?}");
            return;
        }
        if !self.fields.is_empty() {
            self.fields.push_str(", ");
        }
        let _ = write!(self.fields, "{}: {value:?}", field.name());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_cause_comes_with_the_error() {
        let pipe = ErrorPipe::new().expect("a pipe");
        tracing::subscriber::with_default(ErrorLines(pipe.writer()), || {
            tracing::error!(path = "/x", "failed to mount");
            tracing::error!("failed to prepare rootfs");
            tracing::warn!("not an error");
        });
        let text = pipe.explain(&io::Error::other("create failed"));
        assert_eq!(text, "failed to mount (path: \"/x\") (create failed)");
    }

    #[test]
    fn the_executors_words_win() {
        let pipe = ErrorPipe::new().expect("a pipe");
        write_line(&pipe.writer, "something");
        report(&pipe.writer, "cannot set the groups:\nno");
        assert_eq!(pipe.explain(&io::Error::other("x")), "cannot set the groups: no");
        report(&pipe.writer, &"é".repeat(5000));
        assert!(pipe.executor_report().is_some_and(|l| l.len() <= MAX_LINE));
    }
}
