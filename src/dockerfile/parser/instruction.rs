//! One logical line becomes one instruction (SPEC A1.14–A1.18, A6.01–A6.03, A8).

use super::flags::{self, Flags, Takes};
use super::healthcheck::healthcheck;
use super::heredoc::{self, Start};
use super::lines::{Cursor, Slice};
use super::problem::{Parse, Problem};
use super::words::{blank_separated, exec_form, list, quoted_words};
use crate::base::wording::quote;
use crate::dockerfile::ast::{
    ArgDeclaration, Assignment, Command, CommandLine, Flag, Heredoc, Instruction, Kind, Run, Transfer, TransferSource,
    Word,
};
use crate::dockerfile::text::is_blank;

/// Every instruction there is.
pub(super) const KEYWORDS: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

const COPY_FLAGS: &[(&str, Takes)] = &[
    ("from", Takes::Text),
    ("chown", Takes::Text),
    ("chmod", Takes::Text),
    ("link", Takes::Switch),
    ("parents", Takes::Switch),
    ("exclude", Takes::List),
];

const ADD_FLAGS: &[(&str, Takes)] = &[
    ("chown", Takes::Text),
    ("chmod", Takes::Text),
    ("link", Takes::Switch),
    ("exclude", Takes::List),
    ("checksum", Takes::Text),
    ("keep-git-dir", Takes::Switch),
    ("unpack", Takes::Switch),
];

const RUN_FLAGS: &[(&str, Takes)] =
    &[("mount", Takes::List), ("network", Takes::Text), ("security", Takes::Text), ("device", Takes::List)];

/// What reading an instruction needs beside its line.
pub(super) struct Reader<'c, 's> {
    /// Stands behind the line; heredoc bodies are taken from it.
    pub(super) cursor: &'c mut Cursor<'s>,
    pub(super) escape: char,
    /// End of the last heredoc read.
    heredoc_end: Option<usize>,
}

impl<'c, 's> Reader<'c, 's> {
    pub(super) fn new(cursor: &'c mut Cursor<'s>, escape: char) -> Self {
        Self { cursor, escape, heredoc_end: None }
    }

    /// Reads the instruction on `line`. Bodies of heredocs are consumed even if the instruction is wrong, so that
    /// they are not taken for instructions.
    pub(super) fn read(&mut self, line: &Slice<'_>, comments: Vec<String>, trigger: bool) -> Parse<Instruction> {
        let text = line.text();
        let keyword = line.part(0..text.find(is_blank).unwrap_or(text.len()));
        let rest = line.from(keyword.text().len());
        let name = keyword.text().to_uppercase();
        if trigger {
            check_trigger(&name).map_err(|problem| problem.at(keyword.span()))?;
        }
        let (flags, args) = flags::extract(&rest, self.escape);
        let kind = self.kind(&name, &keyword, flags, args)?;
        let mut span = line.span();
        span.end = self.heredoc_end.unwrap_or(span.end);
        let source = self.cursor.source;
        let lines = (source.line_of(span.start), source.line_of(span.end.saturating_sub(1)));
        Ok(Instruction { kind, keyword: keyword.word(), span, lines, original: text.to_owned(), comments })
    }

    fn kind(&mut self, name: &str, keyword: &Slice<'_>, flags: Vec<Flag>, args: Slice<'_>) -> Parse<Kind> {
        match name {
            "RUN" => return self.run(flags, &args).map(Kind::Run),
            "COPY" => return self.transfer("COPY", COPY_FLAGS, flags, &args).map(Kind::Copy),
            "ADD" => return self.transfer("ADD", ADD_FLAGS, flags, &args).map(Kind::Add),
            "ONBUILD" => {
                Flags::check(flags, &[])?;
                return self.onbuild(&args);
            }
            "HEALTHCHECK" => return healthcheck(flags, &args).map(Kind::Healthcheck),
            "FROM" => return from(flags, &args),
            _ => {}
        }
        if !KEYWORDS.contains(&name) {
            return Err(self.unknown(keyword, &args));
        }
        Flags::check(flags, &[])?;
        let single = || {
            if args.is_empty() {
                return Err(Problem::new(format!("{name} requires exactly one argument")));
            }
            Ok(args.word())
        };
        let several = |words: Vec<_>| {
            if words.is_empty() {
                return Err(Problem::new(format!("{name} requires at least one argument")));
            }
            Ok(words)
        };
        Ok(match name {
            "ARG" => Kind::Arg(declarations(&args, self.escape)?),
            "ENV" => Kind::Env(assignments(name, &args, self.escape)?),
            "LABEL" => Kind::Label(assignments(name, &args, self.escape)?),
            "CMD" => Kind::Cmd(Command { line: command_line(&args)? }),
            "ENTRYPOINT" => Kind::Entrypoint(Command { line: command_line(&args)? }),
            "SHELL" => Kind::Shell(shell(&args)?),
            "USER" => Kind::User(single()?),
            "WORKDIR" => Kind::Workdir(single()?),
            "STOPSIGNAL" => Kind::StopSignal(single()?),
            "MAINTAINER" => Kind::Maintainer(single()?.text),
            "EXPOSE" => Kind::Expose(several(blank_separated(&args).iter().map(Slice::word).collect())?),
            _ => Kind::Volume(volumes(several(list(&args)?)?)?),
        })
    }

    fn unknown(&mut self, keyword: &Slice<'_>, args: &Slice<'_>) -> Problem {
        // Were it spelt right, it would have had its heredocs.
        if let Ok(starts) = heredoc::starts(args, false) {
            let before = self.cursor.clone();
            if starts.iter().any(|start| start.read(self.cursor).is_err()) {
                *self.cursor = before;
            }
        }
        let text = keyword.text();
        let problem = Problem::new(format!("unknown instruction: {text}")).at(keyword.span()).suggest(text, KEYWORDS);
        match text.chars().find(|c| c.is_whitespace()) {
            Some(c) => problem.hint(format!("the white space in it is U+{:04X}, not a plain space", u32::from(c))),
            None if problem.suggestion.is_some() => problem,
            None => problem.hint(format!(
                "a command needs RUN in front; to go on with the line above, end that one with {}",
                self.escape
            )),
        }
    }

    fn heredocs(&mut self, starts: &[Start<'_>]) -> Parse<Vec<Heredoc>> {
        let mut bodies = Vec::new();
        for start in starts {
            let (heredoc, end) = start.read(self.cursor)?;
            if self.cursor.source.invalid_in(&heredoc.span).is_some() {
                return Err(Problem::new("heredoc is not valid UTF-8").at(heredoc.span));
            }
            self.heredoc_end = Some(end);
            bodies.push(heredoc);
        }
        Ok(bodies)
    }

    fn run(&mut self, flags: Vec<Flag>, args: &Slice<'_>) -> Parse<Run> {
        let line = command_line(args)?;
        let heredocs = match &line {
            CommandLine::Shell(_) => self.heredocs(&heredoc::starts(args, false)?)?,
            CommandLine::Exec(_) => Vec::new(),
        };
        let mut flags = Flags::check(flags, RUN_FLAGS)?;
        let run = Run {
            line,
            heredocs,
            mounts: flags.list("mount"),
            network: flags.text("network"),
            security: flags.text("security"),
            devices: flags.list("device"),
        };
        one_of(run.network.as_ref(), &["default", "none", "host"], |mode| format!("invalid network mode {mode}"))?;
        one_of(run.security.as_ref(), &["sandbox", "insecure"], |mode| format!("security {mode} is not valid"))?;
        Ok(run)
    }

    fn transfer(&mut self, name: &str, known: &[(&str, Takes)], flags: Vec<Flag>, args: &Slice<'_>) -> Parse<Transfer> {
        let mut sources = match exec_form(args)? {
            Some(_) => list(args)?.into_iter().map(TransferSource::Path).collect(),
            None => self.sources(args)?,
        };
        let mut flags = Flags::check(flags, known)?;
        if sources.len() < 2 {
            let source = match sources.first() {
                Some(TransferSource::Path(path)) => path.text.as_str(),
                _ => "SOURCE",
            };
            return Err(Problem::new(format!(
                "{name} requires at least two arguments, but only one was provided. Destination could not be determined"
            ))
            .hint(format!("write {name} {source} DESTINATION; the working directory is .")));
        }
        let dest = match sources.pop() {
            Some(TransferSource::Path(dest)) => Some(dest),
            _ => {
                let problem = Problem::new(format!("{name} cannot accept a heredoc as a destination"));
                return Err(problem.hint(format!("put the heredoc first: {name} <<NAME DESTINATION")));
            }
        };
        let from = flags.text("from");
        if let Some(from) = from.as_ref().filter(|from| from.text.contains('$')) {
            return Err(Problem::new(
                "variable expansion is not supported for --from, define a new stage with FROM using ARG from global \
                 scope as a workaround",
            )
            .at(from.span.clone()));
        }
        Ok(Transfer {
            sources,
            dest,
            from,
            chown: flags.text("chown"),
            chmod: flags.text("chmod"),
            link: flags.switch("link"),
            parents: flags.switch("parents"),
            exclude: flags.list("exclude"),
            checksum: flags.text("checksum"),
            keep_git_dir: flags.switch("keep-git-dir"),
            unpack: flags.switch("unpack"),
        })
    }

    /// Blank-separated paths with heredocs among them; a heredoc's delimiter may hold quoted blanks.
    fn sources(&mut self, args: &Slice<'_>) -> Parse<Vec<TransferSource>> {
        let starts = heredoc::starts(args, true)?;
        let bodies = self.heredocs(&starts)?;
        let mut sources = Vec::new();
        let paths = |part: Slice<'_>, sources: &mut Vec<_>| {
            sources.extend(blank_separated(&part).iter().map(|path| TransferSource::Path(path.word())));
        };
        let mut at = 0;
        for (start, body) in starts.iter().zip(bodies) {
            paths(args.part(at..start.range.start), &mut sources);
            sources.push(TransferSource::Heredoc(body));
            at = start.range.end;
        }
        paths(args.from(at), &mut sources);
        Ok(sources)
    }

    fn onbuild(&mut self, args: &Slice<'_>) -> Parse<Kind> {
        if args.is_empty() {
            return Err(Problem::new("ONBUILD requires at least one argument"));
        }
        let instruction = Box::new(self.read(args, Vec::new(), true)?);
        let mut text = args.text().to_owned();
        for heredoc in instruction.heredocs() {
            text.push('\n');
            text.push_str(&heredoc.body);
            text.push_str(&heredoc.name);
        }
        Ok(Kind::Onbuild { text, instruction })
    }
}

/// SPEC A8.12.
fn check_trigger(name: &str) -> Parse<()> {
    match name {
        "ONBUILD" => Err(Problem::new("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")),
        "FROM" | "MAINTAINER" => Err(Problem::new(format!("{name} isn't allowed as an ONBUILD trigger"))),
        _ => Ok(()),
    }
}

fn one_of(word: Option<&Word>, known: &[&str], message: impl Fn(String) -> String) -> Parse<()> {
    match word {
        Some(word) if !known.contains(&word.text.as_str()) => Err(Problem::new(message(quote(&word.text)))
            .at(word.span.clone())
            .suggest(&word.text, known.iter().copied())),
        _ => Ok(()),
    }
}

/// Exec form if it is a JSON array, else shell form (SPEC A1.17).
pub(super) fn command_line(args: &Slice<'_>) -> Parse<CommandLine> {
    Ok(match exec_form(args)? {
        Some(argv) => CommandLine::Exec(argv),
        None => CommandLine::Shell(args.text().to_owned()),
    })
}

/// SPEC A4.01.
fn from(flags: Vec<Flag>, args: &Slice<'_>) -> Parse<Kind> {
    let mut flags = Flags::check(flags, &[("platform", Takes::Text)])?;
    let words = blank_separated(args);
    let (base, name) = match words.as_slice() {
        [base] => (base, None),
        [base, keyword, name] if keyword.text().eq_ignore_ascii_case("as") => (base, Some(name)),
        _ => {
            let comment = words.iter().any(|word| word.text().starts_with('#'));
            let hint = if comment { "a comment needs a line of its own" } else { "write FROM image [AS name]" };
            return Err(Problem::new("FROM requires either one or three arguments").hint(hint));
        }
    };
    if let Some(name) = name.filter(|name| !valid_stage_name(name.text())) {
        return Err(Problem::new(format!(
            "invalid name for build stage: {}, name can't start with a number or contain symbols",
            quote(name.text())
        ))
        .at(name.span())
        .hint("begin with a letter; letters, digits, -, _ and . may follow"));
    }
    Ok(Kind::From { platform: flags.text("platform"), base: base.word(), name: name.map(Slice::word) })
}

/// `^[a-z][a-z0-9-_.]*$` in lower case.
fn valid_stage_name(name: &str) -> bool {
    name.to_lowercase().starts_with(|c: char| c.is_ascii_lowercase())
        && name.to_lowercase().chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c))
}

/// SPEC A4.10.
fn declarations(args: &Slice<'_>, escape: char) -> Parse<Vec<ArgDeclaration>> {
    let words = quoted_words(args, escape);
    if words.is_empty() {
        return Err(Problem::new("ARG requires at least one argument"));
    }
    let declaration = |word: &Slice<'_>| match word.text().find('=') {
        Some(0) => Err(Problem::new("ARG names can not be blank").at(word.span())),
        Some(at) => Ok(ArgDeclaration { name: word.part(0..at).word(), value: Some(word.from(at + 1).word()) }),
        None => Ok(ArgDeclaration { name: word.word(), value: None }),
    };
    words.iter().map(declaration).collect()
}

/// SPEC A8.01–A8.02.
fn assignments(name: &str, args: &Slice<'_>, escape: char) -> Parse<Vec<Assignment>> {
    let words = quoted_words(args, escape);
    let Some(first) = words.first() else {
        return Err(Problem::new(format!("{name} requires at least one argument")));
    };
    if !first.text().contains('=') {
        let text = args.text();
        let Some(end) = text.find(is_blank) else {
            return Err(Problem::new(format!("{name} must have two arguments"))
                .at(args.span())
                .hint(format!("write {name} {}=VALUE", args.text())));
        };
        let value = args.from(end + text[end..].find(|c| !is_blank(c)).unwrap_or(0));
        return Ok(vec![Assignment { key: args.part(0..end).word(), value: value.word(), legacy: true }]);
    }
    let assignment = |word: &Slice<'_>| match word.text().find('=') {
        Some(0) => Err(Problem::new(format!("{name} names can not be blank")).at(word.span())),
        Some(at) => Ok(Assignment { key: word.part(0..at).word(), value: word.from(at + 1).word(), legacy: false }),
        None => Err(Problem::new(format!(
            "Syntax error - can't find = in {}. Must be of the form: name=value",
            quote(word.text())
        ))
        .at(word.span())
        .hint("put a value with spaces into quotes: NAME=\"two words\"")),
    };
    words.iter().map(assignment).collect()
}

/// SPEC A8.05.
fn shell(args: &Slice<'_>) -> Parse<Vec<String>> {
    match exec_form(args)? {
        Some(argv) if !argv.is_empty() => Ok(argv),
        None if !args.is_empty() => {
            let problem = Problem::new("SHELL requires the arguments to be in JSON form").at(args.span());
            Err(problem
                .hint("write an array of double-quoted strings, e.g. [\"/bin/sh\", \"-c\"]; double each backslash"))
        }
        _ => Err(Problem::new("SHELL requires at least one argument")),
    }
}

/// SPEC A8.09.
fn volumes(words: Vec<Word>) -> Parse<Vec<Word>> {
    let trimmed = |word: Word| {
        let text = word.text.trim().to_owned();
        if text.is_empty() {
            return Err(Problem::new("VOLUME specified can not be an empty string").at(word.span));
        }
        Ok(Word { text, span: word.span })
    };
    words.into_iter().map(trimmed).collect()
}
