//! Lines as things happen (SPEC B6.01).

use std::collections::HashMap;
use std::io::{self, Write};

use super::Sink;
use super::state::{State, printable};
use crate::base::events::{NOT_CACHED, Outcome};
use crate::base::wording::size;
use crate::base::{Digest, Event};

#[derive(Default)]
pub(super) struct Plain {
    /// Characters of names that are shown; `None` for all (B5.04, `PROGRESS_NO_TRUNC`).
    name_width: Option<usize>,
    numbers: HashMap<Digest, usize>,
    partial: HashMap<Digest, Vec<u8>>,
    current: Option<Digest>,
}

impl Plain {
    pub(super) fn new(name_width: Option<usize>) -> Self {
        Self { name_width, ..Self::default() }
    }

    /// Writes the header of a vertex when the output switches to it; its number.
    fn switch(&mut self, id: &Digest, state: &State, out: &mut dyn Write) -> io::Result<usize> {
        if self.current.as_ref() == Some(id) {
            return Ok(self.numbers.get(id).copied().unwrap_or(0));
        }
        if let Some(open) = self.current.take() {
            let number = self.numbers.get(&open).copied().unwrap_or(0);
            writeln!(out, "#{number} ...\n")?;
        }
        let next = self.numbers.len() + 1;
        let number = *self.numbers.entry(id.clone()).or_insert(next);
        let name = state.vertex(id).map_or("", |v| v.name.as_str());
        match self.name_width.and_then(|w| name.char_indices().nth(w)) {
            Some((at, _)) => writeln!(out, "#{number} {}...", &name[..at])?,
            None => writeln!(out, "#{number} {name}")?,
        }
        self.current = Some(id.clone());
        Ok(number)
    }

    fn log(&mut self, id: &Digest, number: usize, seconds: f64, data: &[u8], out: &mut dyn Write) -> io::Result<()> {
        let partial = self.partial.entry(id.clone()).or_default();
        for piece in data.split_inclusive(|b| *b == b'\n') {
            partial.extend_from_slice(piece);
            // A line without an end must not fill the memory.
            if piece.ends_with(b"\n") || partial.len() > 64 << 10 {
                writeln!(out, "#{number} {seconds:.3} {}", printable(partial))?;
                partial.clear();
            }
        }
        Ok(())
    }

    fn rest(&mut self, id: &Digest, number: usize, seconds: f64, out: &mut dyn Write) -> io::Result<()> {
        match self.partial.remove(id) {
            Some(rest) if !rest.is_empty() => writeln!(out, "#{number} {seconds:.3} {}", printable(&rest)),
            _ => Ok(()),
        }
    }
}

impl Sink for Plain {
    fn event(&mut self, event: &Event, state: &State, out: &mut dyn Write) -> io::Result<()> {
        match event {
            Event::Vertex { .. } => {}
            Event::Started { id, .. } => {
                self.switch(id, state, out)?;
            }
            Event::Completed { id, at, outcome } => {
                let number = self.switch(id, state, out)?;
                let seconds = state.vertex(id).map_or(0.0, |v| v.seconds(*at));
                self.rest(id, number, seconds, out)?;
                match outcome {
                    Outcome::Cached => writeln!(out, "#{number} CACHED\n")?,
                    Outcome::Done => writeln!(out, "#{number} DONE {seconds:.1}s\n")?,
                    Outcome::Failed(message) => writeln!(out, "#{number} ERROR: {message}\n")?,
                    Outcome::Canceled => writeln!(out, "#{number} CANCELED\n")?,
                }
                self.current = None;
            }
            Event::Log { id, data, at, .. } => {
                let number = self.switch(id, state, out)?;
                let seconds = state.vertex(id).map_or(0.0, |v| v.seconds(*at));
                self.log(id, number, seconds, data, out)?;
            }
            Event::Progress { id, item, current, total, done, .. } => {
                // Transfers in between would flood a log: the end is enough.
                if *done && !item.is_empty() {
                    let number = self.switch(id, state, out)?;
                    match (current, total) {
                        (0, None) if item.starts_with(NOT_CACHED) => writeln!(out, "#{number} {item}")?,
                        (0, None) => writeln!(out, "#{number} {item} done")?,
                        (_, Some(total)) => {
                            writeln!(out, "#{number} {item} {} / {} done", size(*current), size(*total))?
                        }
                        (_, None) => writeln!(out, "#{number} {item} {} done", size(*current))?,
                    }
                }
            }
            Event::Warning(warning) if warning.location.is_some() => {}
            Event::Warning(warning) => writeln!(out, "warning: {}", warning.short)?,
            Event::Notice { text, .. } => writeln!(out, "notice: {text}")?,
        }
        out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::events::Stream;
    use std::time::{Duration, SystemTime};

    fn show(events: &[Event]) -> String {
        let (mut state, mut sink, mut out) = (State::default(), Plain::default(), Vec::new());
        for event in events {
            state.take(event);
            sink.event(event, &state, &mut out).expect("a Vec takes everything");
        }
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn b6_01_the_format() {
        let at = |ms| SystemTime::UNIX_EPOCH + Duration::from_millis(ms);
        let (a, b) = (Digest::sha256("a"), Digest::sha256("b"));
        let vertex = |id: &Digest, name: &str| Event::Vertex { id: id.clone(), name: name.into(), inputs: vec![] };
        let log = |id: &Digest, ms, text: &'static str| Event::Log {
            id: id.clone(),
            stream: Stream::Stdout,
            data: text.into(),
            at: at(ms),
        };
        let text = show(&[
            vertex(&a, "[1/2] RUN a"),
            vertex(&b, "[2/2] RUN b"),
            Event::Started { id: a.clone(), at: at(0) },
            log(&a, 1500, "one\ntwo"),
            Event::Completed { id: b.clone(), at: at(1600), outcome: Outcome::Cached },
            log(&a, 1700, " more\n"),
            Event::Completed { id: a, at: at(2000), outcome: Outcome::Failed("exit code: 1".into()) },
        ]);
        assert_eq!(
            text,
            "#1 [1/2] RUN a\n#1 1.500 one\n#1 ...\n\n#2 [2/2] RUN b\n#2 CACHED\n\n#1 [1/2] RUN a\n#1 1.700 two more\n#1 ERROR: exit code: 1\n\n"
        );
    }
}
