//! Shows the lines of a Dockerfile that an error is about (SPEC A1.19).

use std::fmt::Write as _;

/// The named line range of `source` with its surroundings, the lines themselves marked with `>>>`. `None` if the
/// range is not in the file.
///
/// ```text
/// Dockerfile:2
/// --------------------
///    1 |     FROM alpine
///    2 | >>> RNU true
///    3 |     CMD ["sh"]
/// --------------------
/// ```
#[must_use]
pub fn excerpt(file: &str, source: &[u8], lines: (u32, u32)) -> Option<String> {
    const RULE: &str = "--------------------";
    let text = String::from_utf8_lossy(source);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let all: Vec<&str> = text.lines().collect();
    let first = usize::try_from(lines.0).ok()?;
    let last = usize::try_from(lines.1).ok()?.max(first).min(all.len());
    if first < 1 || first > all.len() {
        return None;
    }
    // A single line gets more company than a long instruction, which is its own context.
    let around = if first == last { 2 } else { 1 };
    let from = first.saturating_sub(around).max(1);
    let to = (last + around).min(all.len());

    let mut out = format!("{file}:{first}\n{RULE}\n");
    for number in from..=to {
        let mark = if (first..=last).contains(&number) { ">>>" } else { "   " };
        let line = format!(" {number:3} | {mark} {}", all[number - 1]);
        let _ = writeln!(out, "{}", line.trim_end());
    }
    out.push_str(RULE);
    out.push('\n');
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::excerpt;

    const SOURCE: &[u8] = b"FROM a\nRUN one\nRUN two \\\n  three\nRUN four\r\n\nRUN five\n";

    #[test]
    fn a_single_line_has_two_lines_around_it_a1_19() {
        insta::assert_snapshot!(excerpt("Dockerfile", SOURCE, (5, 5)).expect("line 5 exists"), @r"
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
        insta::assert_snapshot!(excerpt("d/Dockerfile", SOURCE, (3, 4)).expect("lines exist"), @r"
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
        let first = excerpt("f", SOURCE, (1, 1)).expect("line 1 exists");
        assert!(
            first.starts_with("f:1\n--------------------\n   1 | >>> FROM a\n   2 |     RUN one\n   3 | "),
            "{first}"
        );
        let beyond = excerpt("f", SOURCE, (7, 99)).expect("the end is clamped");
        assert!(beyond.contains("   7 | >>> RUN five\n----"), "{beyond}");
        assert_eq!(excerpt("f", SOURCE, (0, 0)), None);
        assert_eq!(excerpt("f", SOURCE, (8, 8)), None);
        assert_eq!(excerpt("f", b"", (1, 1)), None);
    }
}
