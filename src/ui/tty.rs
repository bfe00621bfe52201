//! The live view: a header, running steps with their last lines, finished ones folded (SPEC B6.03).

use std::io::{self, Write};
use std::time::{Instant, SystemTime};

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use super::Sink;
use super::state::{State, Vertex};
use super::style::Style;
use crate::base::Event;
use crate::base::events::Outcome;
use crate::base::wording::size;

pub(super) struct Tty {
    style: Style,
    /// Widths of the lines drawn last time, which the next drawing goes over.
    drawn: Vec<usize>,
    last: Option<Instant>,
    notices: Vec<String>,
}

impl Tty {
    pub(super) fn new(style: Style) -> Self {
        Self { style, drawn: Vec::new(), last: None, notices: Vec::new() }
    }

    fn draw(&mut self, state: &State, finished: bool, out: &mut dyn Write) -> io::Result<()> {
        let (width, height) = window();
        let mut text = String::new();
        // A terminal that became narrower has wrapped what was drawn.
        let above: usize = self.drawn.iter().map(|w| w.div_ceil(width).max(1)).sum();
        if above > 0 {
            text.push_str(&format!("\u{1b}[{}A\r", above.min(height)));
        }
        // Notices scroll away above the table.
        let warning = self.style.colors.as_ref().map_or("", |c| c.warning.as_str());
        for notice in self.notices.drain(..) {
            text.push_str(&format!("\r\u{1b}[2K{}\n", paint(&notice, warning)));
        }
        let lines = render(state, finished, SystemTime::now(), width, height, &self.style);
        for line in &lines {
            text.push_str("\r\u{1b}[2K");
            text.push_str(&paint(&line.text, line.color));
            text.push('\n');
        }
        // What was drawn below and is not there any more.
        text.push_str("\u{1b}[J");
        self.drawn = lines.iter().map(|l| l.text.width()).collect();
        self.last = Some(Instant::now());
        out.write_all(text.as_bytes())?;
        out.flush()
    }
}

impl Sink for Tty {
    fn event(&mut self, event: &Event, state: &State, out: &mut dyn Write) -> io::Result<()> {
        match event {
            Event::Notice { text, .. } => self.notices.push(format!("notice: {text}")),
            Event::Warning(w) if w.location.is_none() => self.notices.push(w.short.clone()),
            _ => {}
        }
        if self.last.is_none_or(|l| l.elapsed() >= self.style.rate) { self.draw(state, false, out) } else { Ok(()) }
    }

    fn tick(&mut self, state: &State, out: &mut dyn Write) -> io::Result<()> {
        self.draw(state, false, out)
    }

    fn finish(&mut self, state: &State, out: &mut dyn Write) -> io::Result<()> {
        self.draw(state, true, out)
    }
}

/// Columns of the terminal on standard error, or what is usual.
#[must_use]
pub fn columns() -> usize {
    window().0
}

/// Columns and rows of the terminal on standard error.
fn window() -> (usize, usize) {
    match rustix::termios::tcgetwinsize(rustix::stdio::stderr()) {
        Ok(size) if size.ws_col > 0 => (usize::from(size.ws_col), usize::from(size.ws_row)),
        _ => (80, 24),
    }
}

/// A line of the table.
struct Row<'a> {
    text: String,
    /// SGR parameters; empty for none.
    color: &'a str,
    worth: Worth,
    /// How many steps that have ended it stands for, and how many of them were found in a cache.
    ended: (usize, usize),
}

/// What goes first when room is short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Worth {
    Ended,
    DoneTransfer,
    Output,
    Transfer,
    Running,
}

/// So many cached steps in a row are one.
const CACHED_TOGETHER: usize = 3;

fn paint(text: &str, color: &str) -> String {
    if color.is_empty() { text.to_owned() } else { format!("\u{1b}[{color}m{text}\u{1b}[0m") }
}

fn render<'a>(
    state: &State,
    finished: bool,
    now: SystemTime,
    width: usize,
    height: usize,
    style: &'a Style,
) -> Vec<Row<'a>> {
    let started: Vec<&Vertex> = state.all().filter(|v| v.started.is_some()).collect();
    let done = started.iter().filter(|v| v.outcome.is_some()).count();
    let cached = started.iter().filter(|v| v.outcome == Some(Outcome::Cached)).count();
    let elapsed = state.begun.and_then(|b| now.duration_since(b).ok()).map_or(0.0, |d| d.as_secs_f64());
    let mut header = format!("[+] Building {elapsed:.1}s ({done}/{})", state.order.len());
    if cached > 0 {
        header.push_str(&format!(" {cached} cached"));
    }
    if finished {
        header.push_str(" FINISHED");
    }
    let all = |lines: usize| -> Vec<Row<'_>> {
        let together = |a: &&Vertex, b: &&Vertex| is_cached(a) && is_cached(b);
        let groups = started.chunk_by(together);
        let rows = groups.flat_map(|group| match group {
            [first, .., last] if group.len() >= CACHED_TOGETHER => {
                vec![cached_row(first, last, group.len(), width, style)]
            }
            _ => group.iter().flat_map(|v| rows_of(v, now, width, finished, lines, style)).collect(),
        });
        rows.collect()
    };
    let mut rows = all(style.log_lines);
    let room = height.saturating_sub(2).max(3);
    if !finished && rows.len() > room {
        // Every running step shows as much as the others; those that have ended make room.
        let fits = |rows: &[Row<'_>]| rows.iter().filter(|row| row.worth != Worth::Ended).count() < room;
        for lines in (0..style.log_lines).rev() {
            if fits(&rows) {
                break;
            }
            rows = all(lines);
        }
        fold(&mut rows, room, width);
    }
    rows.insert(0, Row { text: fit(&header, width), color: "", worth: Worth::Running, ended: (0, 0) });
    rows
}

fn is_cached(vertex: &Vertex) -> bool {
    vertex.outcome == Some(Outcome::Cached)
}

/// Several cached steps in one row.
fn cached_row<'a>(first: &Vertex, last: &Vertex, count: usize, width: usize, style: &'a Style) -> Row<'a> {
    // Where in its stage: what is in brackets.
    let place = |vertex: &Vertex| vertex.name.split_inclusive(']').next().unwrap_or_default().to_owned();
    let text = format!(" => CACHED {count} steps: {} … {}", place(first), place(last));
    let color = style.colors.as_ref().map_or("", |colors| colors.run.as_str());
    Row { text: fit(&text, width), color, worth: Worth::Ended, ended: (count, count) }
}

/// Leaves `room` rows: steps that have ended are folded into one row first, then output, then transfers.
fn fold(rows: &mut Vec<Row<'_>>, room: usize, width: usize) {
    let mut excess = (rows.len() + 1).saturating_sub(room);
    let (mut ended, mut cached) = (0, 0);
    for worth in [Worth::Ended, Worth::DoneTransfer, Worth::Output, Worth::Transfer] {
        rows.retain(|row| {
            let drop = row.worth == worth && excess > 0;
            excess -= usize::from(drop);
            if drop {
                ended += row.ended.0;
                cached += row.ended.1;
            }
            !drop
        });
    }
    if ended > 0 {
        let text = format!(" => {ended} earlier steps, {cached} of them cached");
        rows.insert(0, Row { text: fit(&text, width), color: "", worth: Worth::Running, ended: (0, 0) });
    }
}

fn rows_of<'a>(
    vertex: &Vertex,
    now: SystemTime,
    width: usize,
    finished: bool,
    lines: usize,
    style: &'a Style,
) -> Vec<Row<'a>> {
    let colors = style.colors.as_ref();
    let (mark, color) = match &vertex.outcome {
        Some(Outcome::Cached) => ("CACHED ", colors.map(|c| &c.run)),
        Some(Outcome::Failed(_)) => ("ERROR ", colors.map(|c| &c.error)),
        Some(Outcome::Canceled) => ("CANCELED ", colors.map(|c| &c.cancel)),
        Some(Outcome::Done) => ("", colors.map(|c| &c.run)),
        None => ("", None),
    };
    let time = format!("{:.1}s", vertex.seconds(now));
    let name = fit(&format!(" => {mark}{}", vertex.name), width.saturating_sub(time.len() + 1));
    let gap = width.saturating_sub(name.width() + time.len());
    let ended = vertex.outcome.is_some();
    let failed = matches!(vertex.outcome, Some(Outcome::Failed(_)));
    let mut rows = vec![Row {
        text: fit(&format!("{name}{}{time}", " ".repeat(gap)), width),
        color: color.map_or("", String::as_str),
        worth: if ended && !failed { Worth::Ended } else { Worth::Running },
        ended: (usize::from(ended), usize::from(is_cached(vertex))),
    }];
    let mut more = |worth, text: &str| rows.push(Row { text: fit(text, width), color: "", worth, ended: (0, 0) });
    let running = vertex.outcome.is_none() && !finished;
    for item in &vertex.items {
        // What it says is more than what it moved before.
        if item.done && (!running || vertex.has_output()) {
            continue;
        }
        let mut text = format!(" => => {}", short_digests(&item.name));
        match (item.current, item.total) {
            (0, None) => {}
            (current, Some(total)) => text.push_str(&format!(" {} / {}", size(current), size(total))),
            (current, None) => text.push_str(&format!(" {}", size(current))),
        }
        if let (false, Some(rate)) = (item.done, item.rate(now)) {
            text.push_str(&format!(" ({}/s)", size(rate)));
        }
        more(if item.done { Worth::DoneTransfer } else { Worth::Transfer }, &text);
    }
    if running || failed {
        for line in vertex.last_lines(lines) {
            more(Worth::Output, &format!(" => => # {line}"));
        }
    }
    rows
}

/// Digests as far as people read them, so that there is room for what comes after.
fn short_digests(text: &str) -> String {
    const HEX: usize = 64;
    const SHOWN: usize = 12;
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("sha256:") {
        let hex = at + "sha256:".len();
        let digits = rest[hex..].bytes().take_while(u8::is_ascii_hexdigit).count();
        let kept = if digits == HEX { hex + SHOWN } else { hex + digits };
        out.push_str(&rest[..kept]);
        rest = &rest[hex + digits..];
    }
    out + rest
}

/// At most `width` columns; wide characters take two.
pub(super) fn fit(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let (mut out, mut used) = (String::new(), 0);
    for c in text.chars() {
        used += c.width().unwrap_or(0);
        if used + 1 > width {
            break;
        }
        out.push(c);
    }
    if width > 0 {
        out.push('…');
    }
    out
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

    fn shown(state: &State, finished: bool, width: usize, height: usize) -> Vec<String> {
        let style = Style::default();
        render(state, finished, SystemTime::now(), width, height, &style).into_iter().map(|r| r.text).collect()
    }

    #[test]
    fn b6_03_fits_narrow_and_short_terminals() {
        for (width, height) in [(80, 24), (20, 5), (1, 1), (300, 100)] {
            let rows = shown(&state(40), false, width, height);
            assert!(rows.iter().all(|r| r.width() <= width), "{width}: {rows:?}");
            assert!(rows.len() <= height.max(6), "{height}: {} rows", rows.len());
        }
        assert_eq!(
            (fit("日本語テキスト", 6), fit("日本", 4), fit("abc", 0)),
            ("日本…".into(), "日本".into(), String::new())
        );
    }

    #[test]
    fn b6_03_ended_steps_are_folded_where_room_is_short() {
        let rows = shown(&state(40), false, 80, 24);
        assert_eq!(rows[1], " => 25 earlier steps, 0 of them cached", "{rows:#?}");
        assert_eq!(rows.iter().filter(|r| r.contains("# line")).count(), Style::default().log_lines);
        assert_eq!(shown(&state(40), true, 80, 24).len(), 41, "at the end every step is there");
    }

    #[test]
    fn b6_03_cached_steps_are_one_row() {
        let mut state = State::default();
        for (i, outcome) in
            [Outcome::Cached, Outcome::Cached, Outcome::Cached, Outcome::Done, Outcome::Cached].into_iter().enumerate()
        {
            let id = Digest::sha256(i.to_string());
            state.take(&Event::Vertex { id: id.clone(), name: format!("[a {i}/5] RUN x"), inputs: vec![] });
            state.take(&Event::Completed { id, at: SystemTime::now(), outcome });
        }
        let rows = shown(&state, true, 80, 24);
        assert_eq!(rows.len(), 4, "{rows:#?}");
        assert_eq!(rows[1], " => CACHED 3 steps: [a 0/5] … [a 2/5]");
        assert!(rows[3].starts_with(" => CACHED [a 4/5] RUN x"));
    }

    // What a step says goes before what it moved; several show as much as each other.
    #[test]
    fn b6_03_running_steps_share_the_room() {
        let mut state = State::default();
        for i in 0..4 {
            let id = Digest::sha256(i.to_string());
            state.take(&Event::Vertex { id: id.clone(), name: format!("[{i} 1/1] RUN x"), inputs: vec![] });
            let at = SystemTime::now();
            state.take(&Event::Started { id: id.clone(), at });
            state.take(&Event::Progress {
                id: id.clone(),
                item: "extracting".into(),
                current: 1,
                total: None,
                done: true,
                at,
            });
            let data = "line\n".repeat(20).into();
            state.take(&Event::Log { id: id.clone(), stream: Stream::Stdout, data, at });
        }
        let rows = shown(&state, false, 80, 20);
        assert_eq!(rows.iter().filter(|r| r.contains("# line")).count(), 4 * 3, "{rows:#?}");
        assert!(!rows.iter().any(|r| r.contains("extracting")));
    }

    #[test]
    fn b6_03_digests_leave_room_for_numbers() {
        let digest = Digest::sha256("x").to_string();
        assert_eq!(short_digests(&format!("pushing {digest} now")), format!("pushing {} now", &digest[..19]));
        for same in ["sha256:abc", "no digest", "sha256:", ""] {
            assert_eq!(short_digests(same), same);
        }
    }

    #[test]
    fn b6_03_a_line_that_grows_is_seen() {
        let mut state = state(1);
        let id = Digest::sha256("0");
        for text in ["10%\r", "20%\r30%\r", "40%"] {
            let data = text.as_bytes().to_vec().into();
            state.take(&Event::Log { id: id.clone(), stream: Stream::Stdout, data, at: SystemTime::now() });
        }
        assert_eq!(shown(&state, false, 80, 24).last().map(String::as_str), Some(" => => # 40%"));
        let data = b"\r100%\r\n".to_vec().into();
        state.take(&Event::Log { id, stream: Stream::Stdout, data, at: SystemTime::now() });
        assert_eq!(shown(&state, false, 80, 24).last().map(String::as_str), Some(" => => # 100%"));
    }

    #[test]
    fn b6_03_running_steps_show_their_last_lines() {
        let rows = shown(&state(2), false, 80, 24);
        assert!(rows[0].starts_with("[+] Building") && rows[0].contains("(1/2)"));
        assert_eq!(rows.iter().filter(|r| r.starts_with(" => => # line")).count(), Style::default().log_lines);
        assert!(shown(&state(2), true, 80, 24)[0].ends_with("FINISHED"));
    }
}
