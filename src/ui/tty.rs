//! The live view: a header, running steps with their last lines, finished ones folded (SPEC B6.03).

use std::io::{self, Write};
use std::time::{Duration, Instant, SystemTime};

use super::Sink;
use super::plain::size;
use super::state::{State, Vertex};
use crate::base::Event;
use crate::base::events::Outcome;

/// Lines of output shown below a running step.
const LOG_LINES: usize = 6;
/// Time between two drawings.
const RATE: Duration = Duration::from_millis(80);

pub(super) struct Tty {
    color: bool,
    /// Lines drawn last time, which the next drawing goes over.
    drawn: usize,
    last: Option<Instant>,
    notices: Vec<String>,
}

impl Tty {
    pub(super) fn new(color: bool) -> Self {
        Self { color, drawn: 0, last: None, notices: Vec::new() }
    }

    fn draw(&mut self, state: &State, finished: bool, out: &mut dyn Write) -> io::Result<()> {
        let (width, height) = window();
        let mut text = String::new();
        if self.drawn > 0 {
            text.push_str(&format!("\u{1b}[{}A", self.drawn));
        }
        // Notices scroll away above the table.
        for notice in self.notices.drain(..) {
            text.push_str(&format!("\r\u{1b}[2Knotice: {notice}\n"));
        }
        let lines = render(state, finished, SystemTime::now(), width, height, self.color);
        for line in &lines {
            text.push_str("\r\u{1b}[2K");
            text.push_str(line);
            text.push('\n');
        }
        // What was drawn below and is not there any more.
        text.push_str("\u{1b}[J");
        self.drawn = lines.len();
        self.last = Some(Instant::now());
        out.write_all(text.as_bytes())?;
        out.flush()
    }
}

impl Sink for Tty {
    fn event(&mut self, event: &Event, state: &State, out: &mut dyn Write) -> io::Result<()> {
        match event {
            Event::Notice { text, .. } => self.notices.push(text.clone()),
            Event::Warning(w) => self.notices.push(w.short.clone()),
            _ => {}
        }
        if self.last.is_none_or(|l| l.elapsed() >= RATE) { self.draw(state, false, out) } else { Ok(()) }
    }

    fn tick(&mut self, state: &State, out: &mut dyn Write) -> io::Result<()> {
        self.draw(state, false, out)
    }

    fn finish(&mut self, state: &State, out: &mut dyn Write) -> io::Result<()> {
        self.draw(state, true, out)
    }
}

/// Columns and rows of the terminal on standard error.
fn window() -> (usize, usize) {
    match rustix::termios::tcgetwinsize(rustix::stdio::stderr()) {
        Ok(size) if size.ws_col > 0 => (usize::from(size.ws_col), usize::from(size.ws_row)),
        _ => (80, 24),
    }
}

fn render(state: &State, finished: bool, now: SystemTime, width: usize, height: usize, color: bool) -> Vec<String> {
    let done = state.all().filter(|v| v.outcome.is_some()).count();
    let total = state.order.len();
    let elapsed = state.begun.and_then(|b| now.duration_since(b).ok()).map_or(0.0, |d| d.as_secs_f64());
    let end = if finished { " FINISHED" } else { "" };
    let header = format!("[+] Building {elapsed:.1}s ({done}/{total}){end}");
    let mut rows: Vec<(usize, String)> = Vec::new();
    for vertex in state.all().filter(|v| v.started.is_some()) {
        rows.extend(lines_of(vertex, now, width, finished, color));
    }
    // Where there are more rows than the terminal has: finished steps go first, the oldest first.
    let room = height.saturating_sub(2).max(3);
    if !finished {
        let mut excess = rows.len().saturating_sub(room);
        for weight in 0..3 {
            rows.retain(|(w, _)| {
                let drop = *w == weight && excess > 0;
                excess -= usize::from(drop);
                !drop
            });
        }
    }
    std::iter::once(fit(&header, width)).chain(rows.into_iter().map(|(_, row)| row)).collect()
}

/// The rows of a vertex, each with how much it is worth when room is short.
fn lines_of(vertex: &Vertex, now: SystemTime, width: usize, finished: bool, color: bool) -> Vec<(usize, String)> {
    let (mark, code) = match &vertex.outcome {
        Some(Outcome::Cached) => ("CACHED ", "34"),
        Some(Outcome::Failed(_)) => ("ERROR ", "31"),
        Some(Outcome::Canceled) => ("CANCELED ", "33"),
        Some(Outcome::Done) => ("", "34"),
        None => ("", ""),
    };
    let weight = if vertex.outcome.is_some() { 0 } else { 3 };
    let time = format!("{:.1}s", vertex.seconds(now));
    let name = fit(&format!(" => {mark}{}", vertex.name), width.saturating_sub(time.len() + 1));
    let gap = width.saturating_sub(name.chars().count() + time.len());
    let row = format!("{name}{}{time}", " ".repeat(gap));
    let row = if color && !code.is_empty() { format!("\u{1b}[{code}m{row}\u{1b}[0m") } else { row };
    let mut rows = vec![(weight, row)];
    let running = vertex.outcome.is_none() && !finished;
    for (item, current, total, done) in &vertex.items {
        if *done && !running {
            continue;
        }
        let amount = match (current, total) {
            (0, None) => String::new(),
            (_, Some(total)) => format!("{} / {}", size(*current), size(*total)),
            (_, None) => size(*current),
        };
        rows.push((2, fit(&format!(" => => {item} {amount}"), width)));
    }
    if running || matches!(vertex.outcome, Some(Outcome::Failed(_))) {
        let skip = vertex.tail.len().saturating_sub(LOG_LINES);
        rows.extend(vertex.tail.iter().skip(skip).map(|line| (1, fit(&format!(" => => # {line}"), width))));
    }
    rows
}

/// At most `width` characters.
fn fit(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let keep = width.saturating_sub(1);
    text.chars().take(keep).chain(std::iter::once('…')).take(width).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Digest;
    use crate::base::events::Stream;

    fn state(steps: usize) -> State {
        let mut state = State::default();
        for i in 0..steps {
            let id = Digest::sha256(i.to_string());
            state.take(&Event::Vertex {
                id: id.clone(),
                name: format!("[{i}/{steps}] RUN something that is rather long"),
                inputs: vec![],
            });
            state.take(&Event::Started { id: id.clone(), at: SystemTime::now() });
            let data = "line\n".repeat(20).into();
            state.take(&Event::Log { id: id.clone(), stream: Stream::Stdout, data, at: SystemTime::now() });
            if i + 1 < steps {
                state.take(&Event::Completed { id, at: SystemTime::now(), outcome: Outcome::Done });
            }
        }
        state
    }

    #[test]
    fn b6_03_fits_narrow_and_short_terminals() {
        for (width, height) in [(80, 24), (20, 5), (1, 1), (300, 100)] {
            let rows = render(&state(40), false, SystemTime::now(), width, height, false);
            assert!(rows.iter().all(|r| r.chars().count() <= width.max(5)), "{width}: {rows:?}");
            assert!(rows.len() <= height.max(6), "{height}: {} rows", rows.len());
        }
    }

    #[test]
    fn b6_03_running_steps_show_their_last_lines() {
        let rows = render(&state(2), false, SystemTime::now(), 80, 24, false);
        assert!(rows[0].starts_with("[+] Building") && rows[0].contains("(1/2)"));
        assert_eq!(rows.iter().filter(|r| r.starts_with(" => => # line")).count(), LOG_LINES);
        assert!(render(&state(2), true, SystemTime::now(), 80, 24, false)[0].ends_with("FINISHED"));
    }
}
