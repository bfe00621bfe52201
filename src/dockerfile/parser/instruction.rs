//! One logical line to an instruction: dispatch, and the instructions with simple arguments.

use super::super::ast::{ArgDeclaration, Assignment, Instruction, Kind, Span, Word};
use super::super::diagnostic::Diagnostic;
use super::super::suggest::closest;
use super::super::text::quote;
use super::lines::Logical;
use super::words::{self, FlagWord, Json};
use super::{command, transfer};

/// Every instruction (SPEC A1.14).
pub(super) const NAMES: &[&str] = &[
    "ADD", "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL", "MAINTAINER",
    "ONBUILD", "RUN", "SHELL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR",
];

/// What the parsers of single instructions see.
pub(super) struct Input<'a> {
    pub(super) logical: &'a Logical,
    pub(super) escape: char,
    /// In capitals.
    pub(super) name: String,
    pub(super) keyword: Span,
    pub(super) flags: Vec<FlagWord>,
    /// The arguments, trimmed.
    pub(super) args: Span,
}

impl Input<'_> {
    pub(super) fn text(&self) -> &str {
        &self.logical.text[self.args.clone()]
    }

    pub(super) fn error(&self, message: impl Into<String>) -> Diagnostic {
        let range = if self.args.is_empty() { &self.keyword } else { &self.args };
        self.logical.error(message, range)
    }

    pub(super) fn word(&self, range: Span) -> Word {
        self.logical.word(range)
    }

    /// Words separated by blanks.
    pub(super) fn blank_words(&self) -> Vec<Word> {
        words::blank_words(&self.logical.text, self.args.clone()).into_iter().map(|r| self.word(r)).collect()
    }

    /// The strings of JSON form, placed as a whole since escapes blur single positions.
    pub(super) fn json_words(&self) -> Result<Option<Vec<Word>>, Diagnostic> {
        match words::json(self.text()) {
            None => Ok(None),
            Some(Json::Mixed) => {
                Err(self.error("when using JSON array syntax, arrays must be comprised of strings only"))
            }
            Some(Json::Strings(strings)) => {
                let span = self.logical.span_of(&self.args);
                Ok(Some(strings.into_iter().map(|text| Word { text, span: span.clone() }).collect()))
            }
        }
    }

    /// Splits `--name=value`.
    pub(super) fn flag(flag: &FlagWord) -> (&str, Option<&str>) {
        let body = flag.1.strip_prefix("--").unwrap_or(&flag.1);
        body.split_once('=').map_or((body, None), |(name, value)| (name, Some(value)))
    }

    /// Refuses flags that the instruction does not have (A1.16).
    pub(super) fn only_flags(&self, known: &[&str]) -> Result<(), Diagnostic> {
        for flag in &self.flags {
            let name = Self::flag(flag).0;
            if !known.contains(&name) {
                let mut error = self.logical.error(format!("unknown flag: --{name}"), &flag.0);
                error.suggestion = closest(name, known.iter().copied()).map(|s| format!("--{s}"));
                return Err(error);
            }
        }
        Ok(())
    }

    /// The value of a flag that may be given once.
    pub(super) fn flag_once(&self, name: &str) -> Result<Option<Word>, Diagnostic> {
        let mut given = self.flags.iter().filter(|f| Self::flag(f).0 == name);
        let Some(first) = given.next() else { return Ok(None) };
        if let Some(second) = given.next() {
            return Err(self.logical.error(format!("duplicate flag specified: --{name}"), &second.0));
        }
        match Self::flag(first).1 {
            Some(value) => Ok(Some(Word { text: value.to_owned(), span: self.logical.span_of(&first.0) })),
            None => Err(self.logical.error(format!("missing a value on flag: --{name}"), &first.0)),
        }
    }

    /// The values of a flag that may be repeated.
    pub(super) fn flag_list(&self, name: &str) -> Result<Vec<Word>, Diagnostic> {
        let given = self.flags.iter().filter(|f| Self::flag(f).0 == name);
        given
            .map(|flag| match Self::flag(flag).1 {
                Some(value) => Ok(Word { text: value.to_owned(), span: self.logical.span_of(&flag.0) }),
                None => Err(self.logical.error(format!("missing a value on flag: --{name}"), &flag.0)),
            })
            .collect()
    }
}

pub(super) fn parse(logical: &Logical, escape: char) -> Result<Instruction, Diagnostic> {
    parse_from(logical, 0, escape, false)
}

fn parse_from(logical: &Logical, at: usize, escape: char, trigger: bool) -> Result<Instruction, Diagnostic> {
    let (keyword, rest) = words::keyword(&logical.text, at);
    let name = logical.text[keyword.clone()].to_uppercase();
    if !NAMES.contains(&name.as_str()) {
        let mut error = logical.error(format!("unknown instruction: {}", &logical.text[keyword.clone()]), &keyword);
        error.suggestion = closest(&name, NAMES.iter().copied()).map(ToOwned::to_owned);
        return Err(error);
    }
    if trigger && name == "ONBUILD" {
        return Err(logical.error("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed", &keyword));
    }
    if trigger && (name == "FROM" || name == "MAINTAINER") {
        return Err(logical.error(format!("{name} isn't allowed as an ONBUILD trigger"), &keyword));
    }
    let (flags, start) = words::flags(&logical.text, rest, escape);
    let end = start + logical.text[start..].trim_end().len();
    let input = Input { logical, escape, name, keyword: keyword.clone(), flags, args: start..end };
    let kind = kind(&input, rest)?;
    let original = logical.text[keyword.start..].trim_end().to_owned();
    Ok(Instruction {
        kind,
        keyword: logical.word(keyword),
        span: logical.span.clone(),
        lines: logical.lines,
        original,
        comments: logical.comments.clone(),
    })
}

fn kind(input: &Input<'_>, rest: usize) -> Result<Kind, Diagnostic> {
    let takes_flags = ["ADD", "COPY", "FROM", "HEALTHCHECK", "RUN"];
    if !takes_flags.contains(&input.name.as_str()) && input.name != "ONBUILD" {
        input.only_flags(&[])?;
    }
    Ok(match input.name.as_str() {
        "FROM" => from(input)?,
        "ARG" => arg(input)?,
        "ENV" => Kind::Env(assignments(input)?),
        "LABEL" => Kind::Label(assignments(input)?),
        "COPY" => Kind::Copy(transfer::copy(input)?),
        "ADD" => Kind::Add(transfer::add(input)?),
        "RUN" => Kind::Run(command::run(input)?),
        "CMD" => Kind::Cmd(command::command(input)?),
        "ENTRYPOINT" => Kind::Entrypoint(command::command(input)?),
        "SHELL" => Kind::Shell(command::shell(input)?),
        "HEALTHCHECK" => Kind::Healthcheck(command::healthcheck(input)?),
        "USER" => Kind::User(single(input)?),
        "WORKDIR" => Kind::Workdir(single(input)?),
        "STOPSIGNAL" => Kind::StopSignal(single(input)?),
        "EXPOSE" => match input.blank_words() {
            ports if ports.is_empty() => return Err(at_least_one(input)),
            ports => Kind::Expose(ports),
        },
        "VOLUME" => volume(input)?,
        "MAINTAINER" => Kind::Maintainer(single(input)?.text),
        "ONBUILD" => onbuild(input, rest)?,
        other => return Err(input.error(format!("unknown instruction: {other}"))),
    })
}

pub(super) fn at_least_one(input: &Input<'_>) -> Diagnostic {
    input.error(format!("{} requires at least one argument", input.name))
}

/// The whole argument text as one word.
fn single(input: &Input<'_>) -> Result<Word, Diagnostic> {
    if input.args.is_empty() {
        return Err(input.error(format!("{} requires exactly one argument", input.name)));
    }
    Ok(input.word(input.args.clone()))
}

/// A4.01.
fn from(input: &Input<'_>) -> Result<Kind, Diagnostic> {
    input.only_flags(&["platform"])?;
    let platform = input.flag_once("platform")?;
    let mut words = input.blank_words().into_iter();
    match (words.next(), words.next(), words.next(), words.next()) {
        (Some(base), None, ..) => Ok(Kind::From { platform, base, name: None }),
        (Some(base), Some(keyword), Some(name), None) if keyword.text.eq_ignore_ascii_case("as") => {
            let lower = name.text.to_lowercase();
            let valid = lower.bytes().next().is_some_and(|b| b.is_ascii_lowercase())
                && lower.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b));
            if !valid {
                let message = format!(
                    "invalid name for build stage: {}, name can't start with a number or contain symbols",
                    quote(&name.text)
                );
                return Err(Diagnostic::at(message, name.span, input.logical.lines));
            }
            Ok(Kind::From { platform, base, name: Some(name) })
        }
        _ => Err(input.error("FROM requires either one or three arguments")),
    }
}

/// A4.10.
fn arg(input: &Input<'_>) -> Result<Kind, Diagnostic> {
    let ranges = words::quoted_words(&input.logical.text, input.args.clone(), input.escape);
    if ranges.is_empty() {
        return Err(at_least_one(input));
    }
    let mut found = Vec::new();
    for range in ranges {
        let (name, value) = match input.logical.text[range.clone()].find('=') {
            Some(i) => (range.start..range.start + i, Some(range.start + i + 1..range.end)),
            None => (range.clone(), None),
        };
        if name.is_empty() {
            return Err(input.logical.error("ARG names can not be blank", &range));
        }
        found.push(ArgDeclaration { name: input.word(name), value: value.map(|v| input.word(v)) });
    }
    Ok(Kind::Arg(found))
}

/// A8.01, A8.02.
fn assignments(input: &Input<'_>) -> Result<Vec<Assignment>, Diagnostic> {
    let text = &input.logical.text;
    let ranges = words::quoted_words(text, input.args.clone(), input.escape);
    let Some(first) = ranges.first() else { return Err(at_least_one(input)) };
    let blank = |range: &Span| input.logical.error(format!("{} names can not be blank", input.name), range);
    if !text[first.clone()].contains('=') {
        // The old form: everything behind the first white space is the value.
        let args = &text[input.args.clone()];
        let Some(gap) = args.find(char::is_whitespace) else {
            return Err(input.error(format!("{} must have two arguments", input.name)));
        };
        let key = input.args.start..input.args.start + gap;
        let value = words::skip_space(text, key.end)..input.args.end;
        return Ok(vec![Assignment { key: input.word(key), value: input.word(value), legacy: true }]);
    }
    let mut found = Vec::new();
    for range in ranges {
        let word = &text[range.clone()];
        let Some(i) = word.find('=') else {
            let message =
                format!("Syntax error - can't find = in {}. Must be of the form: name=value", quote(word));
            return Err(input.logical.error(message, &range));
        };
        if i == 0 {
            return Err(blank(&range));
        }
        let (key, value) = (range.start..range.start + i, range.start + i + 1..range.end);
        found.push(Assignment { key: input.word(key), value: input.word(value), legacy: false });
    }
    Ok(found)
}

/// A8.09.
fn volume(input: &Input<'_>) -> Result<Kind, Diagnostic> {
    let volumes = match input.json_words()? {
        Some(words) => words,
        None => input.blank_words(),
    };
    if volumes.is_empty() {
        return Err(at_least_one(input));
    }
    if volumes.iter().any(|v| v.text.trim().is_empty()) {
        return Err(input.error("VOLUME specified can not be an empty string"));
    }
    Ok(Kind::Volume(volumes))
}

/// A8.12.
fn onbuild(input: &Input<'_>, rest: usize) -> Result<Kind, Diagnostic> {
    if input.logical.text[rest..].trim().is_empty() {
        return Err(at_least_one(input));
    }
    let instruction = parse_from(input.logical, rest, input.escape, true)?;
    let mut text = input.logical.text[rest..].trim().to_owned();
    for heredoc in &input.logical.heredocs {
        text.push('\n');
        text.push_str(&heredoc.body);
        text.push_str(&heredoc.name);
    }
    Ok(Kind::Onbuild { text, instruction: Box::new(instruction) })
}
