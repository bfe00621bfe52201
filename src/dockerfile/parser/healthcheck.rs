//! HEALTHCHECK (SPEC A8.11).

use super::flags::{Flags, Takes};
use super::instruction::command_line;
use super::lines::Slice;
use super::problem::{Parse, Problem};
use crate::base::duration::parse_duration;
use crate::base::wording::quote;
use crate::dockerfile::ast::{Flag, Healthcheck, Word};

const FLAGS: &[(&str, Takes)] = &[
    ("interval", Takes::Text),
    ("timeout", Takes::Text),
    ("start-period", Takes::Text),
    ("start-interval", Takes::Text),
    ("retries", Takes::Text),
];

/// The shortest interval, in nanoseconds.
const MINIMUM: i64 = 1_000_000;

pub(super) fn healthcheck(flags: Vec<Flag>, args: &Slice<'_>) -> Parse<Healthcheck> {
    if args.is_empty() {
        return Err(Problem::new("HEALTHCHECK requires at least one argument"));
    }
    let mut flags = Flags::check(flags, FLAGS)?;
    let text = args.text();
    let kind_len = text.find(char::is_whitespace).unwrap_or(text.len());
    let kind = text[..kind_len].to_uppercase();
    let command = args.from(kind_len).trim();
    match kind.as_str() {
        "NONE" if command.is_empty() => Ok(Healthcheck::None),
        "NONE" => Err(Problem::new("HEALTHCHECK NONE takes no arguments").at(command.span())),
        "CMD" => {
            let line = command_line(&command)?;
            if command.is_empty() || line.is_empty() {
                return Err(Problem::new("Missing command after HEALTHCHECK CMD"));
            }
            let mut interval = |name| flags.text(name).map_or(Ok(0), |word| duration(name, &word));
            Ok(Healthcheck::Cmd {
                line,
                interval: interval("interval")?,
                timeout: interval("timeout")?,
                start_period: interval("start-period")?,
                start_interval: interval("start-interval")?,
                retries: flags.text("retries").map_or(Ok(0), |word| retries(&word))?,
            })
        }
        _ => Err(Problem::new(format!("Unknown type {} in HEALTHCHECK (try CMD)", quote(&kind)))
            .at(args.part(0..kind_len).span())),
    }
}

fn duration(name: &str, word: &Word) -> Parse<i64> {
    match parse_duration(&word.text) {
        Ok(0) => Ok(0),
        Ok(nanos) if nanos >= MINIMUM => Ok(nanos),
        Ok(_) => Err(Problem::new(format!("Interval {} cannot be less than 1ms", quote(name))).at(word.span.clone())),
        Err(message) => {
            Err(Problem::new(message).at(word.span.clone()).hint("write a number and a unit, e.g. 500ms, 30s or 1m30s"))
        }
    }
}

fn retries(word: &Word) -> Parse<i64> {
    let fail = |message| Err(Problem::new(message).at(word.span.clone()));
    match word.text.parse::<i32>() {
        Ok(number) if number < 0 => fail(format!("--retries cannot be negative ({number})")),
        Ok(number) => Ok(i64::from(number)),
        Err(_) => fail(format!("invalid number of retries: {}", quote(&word.text))),
    }
}
