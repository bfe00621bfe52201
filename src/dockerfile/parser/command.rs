//! RUN, CMD, ENTRYPOINT, SHELL, HEALTHCHECK.

use super::super::ast::{Command, CommandLine, Healthcheck, Run};
use super::super::diagnostic::Diagnostic;
use super::super::text::quote;
use super::instruction::{Input, at_least_one};
use super::words;

/// A1.17: JSON form where it parses, else text for the shell.
fn line(input: &Input<'_>) -> Result<CommandLine, Diagnostic> {
    Ok(match input.json_words()? {
        Some(words) => CommandLine::Exec(words.into_iter().map(|w| w.text).collect()),
        None => CommandLine::Shell(input.text().to_owned()),
    })
}

/// A5.01.
pub(super) fn run(input: &Input<'_>) -> Result<Run, Diagnostic> {
    input.only_flags(&["mount", "network", "security", "device"])?;
    if input.args.is_empty() {
        return Err(at_least_one(input));
    }
    Ok(Run {
        line: line(input)?,
        heredocs: input.logical.heredocs.clone(),
        mounts: input.flag_list("mount")?,
        network: input.flag_once("network")?,
        security: input.flag_once("security")?,
        devices: input.flag_list("device")?,
    })
}

/// A8.03, A8.04.
pub(super) fn command(input: &Input<'_>) -> Result<Command, Diagnostic> {
    if input.args.is_empty() {
        return Err(at_least_one(input));
    }
    Ok(Command { line: line(input)? })
}

/// A8.05.
pub(super) fn shell(input: &Input<'_>) -> Result<Vec<String>, Diagnostic> {
    match input.json_words()? {
        Some(words) if words.is_empty() => Err(at_least_one(input)),
        Some(words) => Ok(words.into_iter().map(|w| w.text).collect()),
        None => Err(input.error("SHELL requires the arguments to be in JSON form")),
    }
}

/// A8.11.
pub(super) fn healthcheck(input: &Input<'_>) -> Result<Healthcheck, Diagnostic> {
    let known = ["interval", "timeout", "start-period", "start-interval", "retries"];
    input.only_flags(&known)?;
    if input.args.is_empty() {
        return Err(at_least_one(input));
    }
    let (kind, rest) = words::keyword(&input.logical.text, input.args.start);
    let word = &input.logical.text[kind.clone()];
    match word.to_uppercase().as_str() {
        "NONE" => {
            if rest < input.args.end {
                return Err(input.error("HEALTHCHECK NONE takes no arguments"));
            }
            return match input.flags.first() {
                Some(flag) => {
                    Err(input.logical.error(format!("unknown flag: --{}", Input::flag(flag).0), &flag.0))
                }
                None => Ok(Healthcheck::None),
            };
        }
        "CMD" => {}
        other => {
            let message = format!("Unknown type {} in HEALTHCHECK (try CMD)", quote(other));
            return Err(input.logical.error(message, &kind));
        }
    }
    let command = Input { args: rest.min(input.args.end)..input.args.end, name: input.name.clone(), flags: Vec::new(), keyword: input.keyword.clone(), ..*input };
    let line = line(&command)?;
    let empty = match &line {
        CommandLine::Exec(words) => words.is_empty(),
        CommandLine::Shell(text) => text.is_empty(),
    };
    if empty {
        return Err(input.error("Missing command after HEALTHCHECK CMD"));
    }
    let retries = match input.flag_once("retries")? {
        None => 0,
        Some(word) if word.text.is_empty() => 0,
        Some(word) => match word.text.parse::<i64>() {
            Ok(n) if n >= 0 => n,
            Ok(n) => {
                let message = format!("--retries cannot be negative ({n})");
                return Err(Diagnostic::at(message, word.span, input.logical.lines));
            }
            Err(_) => {
                let message = format!("--retries {} is not a number", quote(&word.text));
                return Err(Diagnostic::at(message, word.span, input.logical.lines));
            }
        },
    };
    Ok(Healthcheck::Cmd {
        line,
        interval: interval(input, "interval")?,
        timeout: interval(input, "timeout")?,
        start_period: interval(input, "start-period")?,
        start_interval: interval(input, "start-interval")?,
        retries,
    })
}

/// Nanoseconds of a duration flag; 0 inherits.
fn interval(input: &Input<'_>, name: &str) -> Result<i64, Diagnostic> {
    let Some(word) = input.flag_once(name)? else { return Ok(0) };
    if word.text.is_empty() {
        return Ok(0);
    }
    let fail = |message: String| Diagnostic::at(message, word.span.clone(), input.logical.lines);
    let nanos = duration(&word.text).ok_or_else(|| {
        fail(format!("invalid duration {} for --{name}", quote(&word.text)))
            .with_hint("a duration looks like 300ms, 30s or 1m30s")
    })?;
    if nanos != 0 && nanos < 1_000_000 {
        return Err(fail(format!("Interval {} cannot be less than 1ms", quote(name))));
    }
    Ok(nanos)
}

/// Go's `time.ParseDuration` in nanoseconds (SPEC G.03), exact for whole numbers.
fn duration(text: &str) -> Option<i64> {
    if text == "0" {
        return Some(0);
    }
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest.is_empty() {
        return None;
    }
    let mut total: i64 = 0;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number = &rest[..number_end];
        rest = &rest[number_end..];
        let unit_end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit: i64 = match &rest[..unit_end] {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        rest = &rest[unit_end..];
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let whole: i64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        total = total.checked_add(whole.checked_mul(unit)?)?;
        let mut scale = unit;
        for digit in fraction.bytes() {
            if !digit.is_ascii_digit() {
                return None;
            }
            scale /= 10;
            total = total.checked_add(i64::from(digit - b'0') * scale)?;
        }
    }
    Some(if negative { -total } else { total })
}
