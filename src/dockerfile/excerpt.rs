//! Shows the lines of a Dockerfile that an error is about (SPEC A1.19).

use std::fmt::Write as _;

use super::ast::Span;

/// Longer lines are cut: what is in them cannot be seen anyway.
const WIDTH: usize = 160;

/// The named line range of `source` with its surroundings, the lines themselves marked with `>>>` and, where `span` is
/// only a part of one line, that part underlined. `None` if the range is not in the file.
///
/// ```text
/// Dockerfile:2
/// --------------------
///    1 |     FROM alpine
///    2 | >>> RUN --mount=type=bnd true
///      |         ^^^^^^^^^^^^^^^^
///    3 |     CMD ["sh"]
/// --------------------
/// ```
#[must_use]
pub fn excerpt(file: &str, source: &[u8], lines: (u32, u32), span: Option<&Span>) -> Option<String> {
    marked_excerpt(file, source, lines, span.and_then(|span| part_of_line(source, span)), lines.0)
}

/// The same, with one of the lines named as the place and underlined.
#[must_use]
pub fn excerpt_of_line(file: &str, source: &[u8], lines: (u32, u32), line: u32) -> Option<String> {
    let number = usize::try_from(line).ok()?;
    let text = String::from_utf8_lossy(source);
    let text = text.lines().nth(number.checked_sub(1)?)?;
    let indent = text.len() - text.trim_start().len();
    let place = Marked { line: number, before: text[..indent].to_owned(), text: text.trim().to_owned() };
    marked_excerpt(file, source, lines, Some(place), line)
}

/// `place` is the line that the heading names.
fn marked_excerpt(file: &str, source: &[u8], lines: (u32, u32), marked: Option<Marked>, place: u32) -> Option<String> {
    const RULE: &str = "--------------------";
    let text = String::from_utf8_lossy(source);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let all: Vec<&str> = text.lines().collect();
    let first = usize::try_from(lines.0).ok()?;
    let last = usize::try_from(lines.1).ok()?.max(first).min(all.len());
    if first < 1 || first > all.len() {
        return None;
    }
    // A single line gets more company than a long instruction, which is its own context. Of a very long one only the
    // surroundings of the place are shown.
    let around = if first == last { 2 } else { 1 };
    let (mut from, mut to) = (first.saturating_sub(around).max(1), (last + around).min(all.len()));
    if last - first > 20 {
        let middle = marked.as_ref().map_or(first, |marked| marked.line);
        (from, to) = (from.max(middle.saturating_sub(5)), to.min(middle + 5));
    }

    let mut out = format!("{file}:{place}\n{RULE}\n");
    for number in from..=to {
        let mark = if (first..=last).contains(&number) { ">>>" } else { "   " };
        let shown = readable(all[number - 1]);
        let line = format!(" {number:3} | {mark} {shown}");
        let _ = writeln!(out, "{}", line.trim_end());
        if let Some(marked) = marked.as_ref().filter(|marked| marked.line == number) {
            let before = readable(&marked.before).chars().count();
            let len = readable(&marked.text).chars().count().max(1);
            if before + len <= WIDTH {
                let _ = writeln!(out, "     |     {}{}", " ".repeat(before), "^".repeat(len));
            }
        }
    }
    out.push_str(RULE);
    out.push('\n');
    Some(out)
}

/// A line as it is shown: tabs take one column so that what is below it fits, and nothing in it steers a terminal.
fn readable(line: &str) -> String {
    let mut out: String = line.chars().map(|c| if c == '\t' { ' ' } else { c }).collect();
    out.retain(|c| !c.is_control());
    match out.char_indices().nth(WIDTH) {
        Some((at, _)) => format!("{}…", &out[..at]),
        None => out,
    }
}

/// Part of a line.
struct Marked {
    /// Counted from 1.
    line: usize,
    /// What stands before it in the line.
    before: String,
    text: String,
}

/// Where a span is, if it is part of one line but not all of it.
fn part_of_line(source: &[u8], span: &Span) -> Option<Marked> {
    let text = source.get(span.clone())?;
    let start = source[..span.start].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let rest = &source[start..];
    let line = rest.split(|byte| *byte == b'\n').next()?;
    if text.is_empty() || text.contains(&b'\n') || line.trim_ascii() == text.trim_ascii() {
        return None;
    }
    let number = source[..start].iter().filter(|byte| **byte == b'\n').count() + 1;
    let before = String::from_utf8_lossy(&source[start..span.start]);
    Some(Marked {
        line: number,
        before: before.trim_start_matches('\u{feff}').to_owned(),
        text: String::from_utf8_lossy(text).into_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::excerpt;

    const SOURCE: &[u8] = b"FROM a\nRUN one\nRUN two \\\n  three\nRUN four\r\n\nRUN five\n";

    #[test]
    fn one_line_of_an_instruction_is_the_place_a1_19() {
        insta::assert_snapshot!(super::excerpt_of_line("Dockerfile", SOURCE, (3, 4), 4).expect("line 4 exists"), @r"
        Dockerfile:4
        --------------------
           2 |     RUN one
           3 | >>> RUN two \
           4 | >>>   three
             |       ^^^^^
           5 |     RUN four
        --------------------
        ");
        assert_eq!(super::excerpt_of_line("Dockerfile", SOURCE, (3, 4), 99), None);
    }

    #[test]
    fn a_single_line_has_two_lines_around_it_a1_19() {
        insta::assert_snapshot!(excerpt("Dockerfile", SOURCE, (5, 5), None).expect("line 5 exists"), @r"
        Dockerfile:5
        --------------------
           3 |     RUN two \
           4 |       three
           5 | >>> RUN four
           6 |
           7 |     RUN five
        --------------------
        ");
    }

    #[test]
    fn a_range_is_marked_as_a_whole_a1_19() {
        insta::assert_snapshot!(excerpt("d/Dockerfile", SOURCE, (3, 4), None).expect("lines exist"), @r"
        d/Dockerfile:3
        --------------------
           2 |     RUN one
           3 | >>> RUN two \
           4 | >>>   three
           5 |     RUN four
        --------------------
        ");
    }

    #[test]
    fn the_edges_of_the_file_are_respected() {
        let first = excerpt("f", SOURCE, (1, 1), None).expect("line 1 exists");
        assert!(
            first.starts_with("f:1\n--------------------\n   1 | >>> FROM a\n   2 |     RUN one\n   3 | "),
            "{first}"
        );
        let beyond = excerpt("f", SOURCE, (7, 99), None).expect("the end is clamped");
        assert!(beyond.contains("   7 | >>> RUN five\n----"), "{beyond}");
        assert_eq!(excerpt("f", SOURCE, (0, 0), None), None);
        assert_eq!(excerpt("f", SOURCE, (8, 8), None), None);
        assert_eq!(excerpt("f", b"", (1, 1), None), None);
    }

    #[test]
    fn a1_19_a_part_of_a_line_is_underlined() {
        let source = "FROM a\nRUN\t--mount=ä \u{1b}[31m x\nRUN \\\n  --bad y\n".as_bytes();
        insta::assert_snapshot!(excerpt("f", source, (2, 2), Some(&(11..21))).expect("line 2 exists"), @r"
        f:2
        --------------------
           1 |     FROM a
           2 | >>> RUN --mount=ä [31m x
             |         ^^^^^^^^^
           3 |     RUN \
           4 |       --bad y
        --------------------
        ");
        let at = source.len() - 8..source.len() - 3;
        let second = excerpt("f", source, (3, 4), Some(&at)).expect("lines exist");
        assert!(second.contains("   4 | >>>   --bad y\n     |       ^^^^^\n"), "{second}");
        let whole = excerpt("f", source, (1, 1), Some(&(0..6))).expect("line 1 exists");
        assert!(!whole.contains('^'), "{whole}");
        assert!(excerpt("f", source, (1, 1), Some(&(0..999))).is_some(), "a span of another text does no harm");
    }

    #[test]
    fn long_lines_and_long_instructions_are_cut() {
        let long = format!("FROM {}\n", "x".repeat(1000));
        assert!(excerpt("f", long.as_bytes(), (1, 1), None).expect("exists").len() < 300);
        let many = format!("FROM a\nRUN {}x\n", "a && \\\n".repeat(100));
        assert!(excerpt("f", many.as_bytes(), (2, 102), None).expect("exists").lines().count() < 15);
    }
}
