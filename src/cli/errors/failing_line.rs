//! Which line of a RUN failed, where the shell can tell (SPEC A5.16).
//!
//! A shell says `sh: 3: frob: not found`; of a heredoc that is the third line. Where lines were joined by backslashes
//! there is one line for the shell, but what it misses may stand in one of ours only. A message counts if the exit code
//! is the one that goes with it, or if it is the last thing that was said: a script that went on failed for another reason.
//! (What was said on the two streams of a step may arrive in another order.)

use std::sync::OnceLock;

use regex::Regex;

/// The line of the Dockerfile, counted from 1. `lines` are the instruction's, `args` what it ran, `code` how that ended,
/// `said` its output.
pub(super) fn find(source: &str, lines: (u32, u32), args: &[String], code: i32, said: &[String]) -> Option<u32> {
    let [shell, flags, script] = args else { return None };
    if !flags.starts_with('-') || !flags.ends_with('c') {
        return None;
    }
    let name = shell.rsplit('/').next()?;
    let mut said = said.iter().rev().map(|line| line.trim()).filter(|line| !line.is_empty());
    let end = match code {
        126 => Some("ermission denied"),
        127 => Some("not found"),
        _ => None,
    };
    let (number, message) = match end {
        Some(end) => said.filter(|line| line.ends_with(end)).find_map(|line| complaint(line, shell, name))?,
        None => complaint(said.next()?, shell, name)?,
    };
    let first = usize::try_from(lines.0).ok()?.checked_sub(1)?;
    let count = usize::try_from(lines.1).ok()?.checked_sub(first)?;
    let ours: Vec<&str> = source.lines().skip(first).take(count).collect();
    let script: Vec<&str> = script.lines().collect();
    let at = match number {
        Some(number) if script.len() > 1 => by_number(&ours, &script, number),
        _ => None,
    };
    let at = at.or_else(|| by_word(&ours, message.strip_suffix("not found")?))?;
    u32::try_from(first + at + 1).ok()
}

/// The number and the text of a shell's message about itself.
fn complaint<'a>(said: &'a str, shell: &str, name: &str) -> Option<(Option<usize>, &'a str)> {
    static NUMBER: OnceLock<Option<Regex>> = OnceLock::new();
    let rest = said.strip_prefix(shell).or_else(|| said.strip_prefix(name))?.strip_prefix(": ")?;
    let number = NUMBER.get_or_init(|| Regex::new(r"^(?:line )?(\d+): ").ok()).as_ref()?;
    match number.captures(rest) {
        Some(found) => Some((found.get(1)?.as_str().parse().ok(), &rest[found.get(0)?.end()..])),
        None => Some((None, rest)),
    }
}

/// Where line `number` of the script is among the instruction's. The script's lines stand there one below the other.
fn by_number(ours: &[&str], script: &[&str], number: usize) -> Option<usize> {
    let wanted = number.checked_sub(1).filter(|at| *at < script.len())?;
    let starts = |from: usize| {
        script.iter().enumerate().all(|(i, line)| ours.get(from + i).is_some_and(|our| our.trim() == line.trim()))
    };
    // The first line of `RUN cmd <<EOF` is the instruction's own, without its keyword and flags.
    let follows = |from: usize| {
        ours[from].trim_end().ends_with(script[0].trim())
            && script
                .iter()
                .enumerate()
                .skip(1)
                .all(|(i, line)| ours.get(from + i).is_some_and(|our| our.trim() == line.trim()))
    };
    (0..ours.len()).find(|from| starts(*from) || follows(*from)).map(|from| from + wanted)
}

/// The only line that has the word `message` begins with as a word of its own.
fn by_word(ours: &[&str], message: &str) -> Option<usize> {
    let word = message.split(':').next()?.trim();
    if word.is_empty() || word.contains(char::is_whitespace) {
        return None;
    }
    let has = |line: &&str| line.split(|c: char| c.is_whitespace() || ";&|(){}`\"'".contains(c)).any(|w| w == word);
    let mut found = ours.iter().enumerate().filter(|(_, line)| !line.trim_start().starts_with('#') && has(line));
    match (found.next(), found.next()) {
        (Some((at, _)), None) => Some(at),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(source: &str, lines: (u32, u32), script: &str, code: i32, said: &str) -> Option<u32> {
        let args = ["/bin/sh", "-c", script].map(str::to_owned);
        find(source, lines, &args, code, &said.lines().map(str::to_owned).collect::<Vec<_>>())
    }

    fn line(source: &str, lines: (u32, u32), script: &str, said: &str) -> Option<u32> {
        ended(source, lines, script, 127, said)
    }

    // SPEC A5.16
    #[test]
    fn a5_16_the_shell_tells_the_line_of_a_heredoc() {
        let source = "FROM a\nRUN <<EOF\n  set -e\n  true\n  frob --all\nEOF\n";
        let script = "  set -e\n  true\n  frob --all\n";
        for said in ["/bin/sh: 3: frob: not found", "hello\n/bin/sh: line 3: frob: command not found\n"] {
            assert_eq!(line(source, (2, 6), script, said), Some(5), "{said}");
        }
        let went_on = "/bin/sh: 3: frob: not found\nand more";
        assert_eq!(ended(source, (2, 6), script, 1, went_on), None, "it failed for another reason");
        assert_eq!(ended(source, (2, 6), script, 127, went_on), Some(5), "the other stream came later");
        assert_eq!(line(source, (2, 6), script, "/bin/sh: 9: what: strange"), None);
        let source = "RUN --network=none sh <<EOF\ntrue\nfrob\nEOF\n";
        let denied = "/bin/sh: 3: frob: Permission denied";
        assert_eq!(ended(source, (1, 4), "sh <<EOF\ntrue\nfrob\nEOF", 126, denied), Some(3));
    }

    #[test]
    fn a5_16_of_joined_lines_the_one_that_has_the_word() {
        let source = "FROM a\nRUN true && \\\n    # frob\n    frob --all && \\\n    frobnicate\n";
        let script = "true &&     frob --all &&     frobnicate";
        assert_eq!(line(source, (2, 5), script, "/bin/sh: 1: frob: not found"), Some(4));
        assert_eq!(line(source, (2, 5), script, "/bin/sh: frobnicate: not found"), Some(5));
        assert_eq!(line(source, (2, 5), script, "/bin/sh: 1: other: not found"), None);
        assert_eq!(line(source, (2, 5), script, "make: frob: not found"), None, "somebody else says that");
    }
}
