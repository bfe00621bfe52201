//! The tree as text again.
//!
//! Not what was written, but what means the same: parsing it gives an equal tree, places aside.

use std::borrow::Cow;
use std::fmt::Write as _;

use super::ast::{
    Assignment, CommandLine, Directives, Dockerfile, Healthcheck, Heredoc, Instruction, Kind, Switch, Transfer,
    TransferSource, Word,
};
use super::parser::continued;
use super::text::is_blank;

/// Prints a whole file.
#[must_use]
pub fn print(dockerfile: &Dockerfile) -> String {
    let Directives { syntax, escape, check, check_line: _ } = &dockerfile.directives;
    let mut out = String::new();
    let mut directive = |name: &str, value: &str| {
        let _ = writeln!(out, "# {name}={value}");
    };
    if let Some(syntax) = syntax {
        directive("syntax", &syntax.text);
    }
    if let Some(escape) = escape {
        directive("escape", escape.encode_utf8(&mut [0; 4]));
    }
    if let Some(check) = check {
        directive("check", &check.text);
    }
    for instruction in &dockerfile.instructions {
        if !instruction.comments.is_empty() {
            // A blank line, or the first comment could be taken for a directive.
            out.push('\n');
        }
        for comment in &instruction.comments {
            let _ = writeln!(out, "# {comment}");
        }
        Printer { out: &mut out, escape: dockerfile.directives.escape_char(), arguments: false }
            .instruction(instruction);
    }
    out
}

struct Printer<'a> {
    out: &'a mut String,
    escape: char,
    /// The flags are over.
    arguments: bool,
}

impl Printer<'_> {
    fn instruction(&mut self, instruction: &Instruction) {
        self.out.push_str(&instruction.keyword.text);
        match &instruction.kind {
            Kind::From { platform, base, name } => {
                self.flag("platform", platform.as_ref());
                self.plain(&base.text);
                if let Some(name) = name {
                    let _ = write!(self.out, " AS {}", name.text);
                }
            }
            Kind::Arg(declarations) => {
                for arg in declarations {
                    self.plain(&arg.name.text);
                    if let Some(value) = &arg.value {
                        let _ = write!(self.out, "={}", value.text);
                    }
                }
            }
            Kind::Env(assignments) | Kind::Label(assignments) => self.assignments(assignments),
            Kind::Copy(transfer) | Kind::Add(transfer) => self.transfer(transfer),
            Kind::Run(run) => {
                for mount in &run.mounts {
                    self.flag("mount", Some(mount));
                }
                self.flag("network", run.network.as_ref());
                self.flag("security", run.security.as_ref());
                for device in &run.devices {
                    self.flag("device", Some(device));
                }
                self.command(&run.line);
            }
            Kind::Cmd(command) | Kind::Entrypoint(command) => self.command(&command.line),
            Kind::Shell(argv) => self.json(argv),
            Kind::User(word) | Kind::Workdir(word) | Kind::StopSignal(word) => self.plain(&word.text),
            Kind::Maintainer(text) => self.plain(text),
            Kind::Expose(words) => words.iter().for_each(|word| self.plain(&word.text)),
            Kind::Volume(words) => self.list(words),
            Kind::Healthcheck(Healthcheck::None) => self.plain("NONE"),
            Kind::Healthcheck(Healthcheck::Cmd { line, interval, timeout, start_period, start_interval, retries }) => {
                let flags = [
                    ("interval", interval, "ns"),
                    ("timeout", timeout, "ns"),
                    ("start-period", start_period, "ns"),
                    ("start-interval", start_interval, "ns"),
                    ("retries", retries, ""),
                ];
                for (name, value, unit) in flags.into_iter().filter(|(_, value, _)| **value != 0) {
                    let _ = write!(self.out, " --{name}={value}{unit}");
                }
                self.plain("CMD");
                self.command(line);
            }
            // Its heredocs are in the text, but are printed as those of any other.
            Kind::Onbuild { text, .. } => self.plain(text.lines().next().unwrap_or_default()),
        }
        if continued(self.out.rsplit('\n').next().unwrap_or_default(), self.escape).is_some() {
            // White space to the parser, but not the kind that may follow a continuation mark.
            self.out.push('\x0c');
        }
        self.out.push('\n');
        for heredoc in instruction.heredocs() {
            let _ = writeln!(self.out, "{}{}", heredoc.body, heredoc.name);
        }
    }

    /// An argument as it is. The first must not look like a flag.
    fn plain(&mut self, text: &str) {
        if !std::mem::replace(&mut self.arguments, true) && text.starts_with("--") {
            self.out.push_str(" --");
        }
        if self.out.ends_with([self.escape, '\\']) {
            // This blank may be taken for an escaped one; the next one separates.
            self.out.push(' ');
        }
        self.out.push(' ');
        self.out.push_str(text);
    }

    fn flag(&mut self, name: &str, value: Option<&Word>) {
        let Some(value) = value else { return };
        let _ = write!(self.out, " --{name}=");
        for c in value.text.chars() {
            if c.is_whitespace() || c == '\'' || c == '"' || c == self.escape {
                self.out.push(self.escape);
            }
            self.out.push(c);
        }
    }

    fn switch(&mut self, name: &str, value: Option<&Switch>) {
        if let Some(value) = value {
            let _ = write!(self.out, " --{name}={}", value.on);
        }
    }

    fn json(&mut self, argv: &[String]) {
        let strings: Vec<String> = argv.iter().map(|arg| serde_json::Value::from(arg.as_str()).to_string()).collect();
        let _ = write!(self.out, " [{}]", strings.join(", "));
    }

    fn command(&mut self, line: &CommandLine) {
        match line {
            CommandLine::Exec(argv) => self.json(argv),
            CommandLine::Shell(text) if text.is_empty() => {}
            CommandLine::Shell(text) => self.plain(text),
        }
    }

    fn assignments(&mut self, assignments: &[Assignment]) {
        for Assignment { key, value, legacy } in assignments {
            self.plain(&key.text);
            let separator = match legacy {
                false => "=",
                // An escaped blank does not end the key, the one behind it does.
                true if key.text.ends_with(self.escape) => "  ",
                true => " ",
            };
            let _ = write!(self.out, "{separator}{}", value.text);
        }
    }

    fn transfer(&mut self, transfer: &Transfer) {
        self.flag("from", transfer.from.as_ref());
        self.flag("chown", transfer.chown.as_ref());
        self.flag("chmod", transfer.chmod.as_ref());
        self.switch("link", transfer.link.as_ref());
        self.switch("parents", transfer.parents.as_ref());
        for exclude in &transfer.exclude {
            self.flag("exclude", Some(exclude));
        }
        self.flag("checksum", transfer.checksum.as_ref());
        self.switch("keep-git-dir", transfer.keep_git_dir.as_ref());
        self.switch("unpack", transfer.unpack.as_ref());
        if transfer.heredocs().next().is_some() {
            for source in &transfer.sources {
                match source {
                    TransferSource::Path(path) => self.plain(&path.text),
                    TransferSource::Heredoc(heredoc) => self.plain(&opening(heredoc)),
                }
            }
            transfer.dest.iter().for_each(|dest| self.plain(&dest.text));
            return;
        }
        let path = |source: &TransferSource| match source {
            TransferSource::Path(path) => Some(path.clone()),
            TransferSource::Heredoc(_) => None,
        };
        let words: Vec<Word> = transfer.sources.iter().filter_map(path).chain(transfer.dest.clone()).collect();
        self.list(&words);
    }

    /// Blank-separated where that is the same, else a JSON array.
    fn list(&mut self, words: &[Word]) {
        let simple = |word: &Word| {
            let text = word.text.as_str();
            let odd = |c: char| is_blank(c) || c.is_whitespace() || c.is_control();
            !text.is_empty() && !text.contains(odd) && !text.contains("<<") && !text.ends_with(self.escape)
        };
        let looks_like_json = words.first().is_some_and(|word| word.text.starts_with('['));
        if words.iter().all(simple) && !looks_like_json {
            words.iter().for_each(|word| self.plain(&word.text));
        } else {
            self.json(&words.iter().map(|word| word.text.clone()).collect::<Vec<_>>());
        }
    }
}

/// `3<<-"NAME"`
fn opening(heredoc: &Heredoc) -> String {
    let fd = heredoc.fd.map_or_else(String::new, |fd| fd.to_string());
    let dash = if heredoc.chomp { "-" } else { "" };
    let name = heredoc.name.as_str();
    let name: Cow<'_, str> = if !heredoc.expand && !name.contains('\'') {
        format!("'{name}'").into()
    } else {
        let special = |c: char| c.is_whitespace() || matches!(c, '\'' | '"' | '\\');
        let escaped: String = name.chars().flat_map(|c| special(c).then_some('\\').into_iter().chain([c])).collect();
        // Empty quotes also say that a part is quoted.
        if heredoc.expand { escaped.into() } else { format!("{escaped}\"\"").into() }
    };
    format!("{fd}<<{dash}{name}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::print;
    use crate::dockerfile::ast::{Directives, Dockerfile};
    use crate::dockerfile::parser::parse;

    /// All that matters, without places.
    fn shape(dockerfile: &Dockerfile) -> String {
        let Directives { syntax, escape, check, check_line: _ } = &dockerfile.directives;
        let mut out = format!("{syntax:?} {escape:?} {check:?}\n");
        for instruction in &dockerfile.instructions {
            let (keyword, kind) = (&instruction.keyword.text, &instruction.kind);
            out.push_str(&format!("{keyword} {kind:?} {:?}\n", instruction.comments));
        }
        let mut parts = out.split("span: ");
        let mut shape = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            shape.push_str(part.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.'));
        }
        // The trigger's own original text and lines.
        shape
            .split("original: ")
            .map(|part| part.split_once("comments: ").map_or(part, |(_, rest)| rest))
            .map(|part| part.split("lines: (").next().unwrap_or_default())
            .collect()
    }

    #[track_caller]
    fn round_trip(text: &str) -> String {
        let (first, _) = parse(text.as_bytes()).into_result().expect("valid Dockerfile");
        let printed = print(&first);
        let second = parse(printed.as_bytes());
        assert_eq!(second.errors, [], "{printed}");
        assert_eq!(shape(&first), shape(&second.dockerfile), "{printed}");
        printed
    }

    #[test]
    fn printing_normalises() {
        let text = "# syntax=a\n#escape=`\n# check=skip=all\n# lost\n\n# is base\nFROM --platform=\"linux/amd64\" x as base\nRUN --mount=type=secret,id=a` b a `\n\n  b\nCOPY [\"a b\", \"c\"]\n";
        insta::assert_snapshot!(round_trip(text), @r#"
        # syntax=a
        # escape=`
        # check=skip=all

        # is base
        FROM --platform=linux/amd64 x AS base
        RUN --mount=type=secret,id=a` b a   b
        COPY ["a b", "c"]
        "#);
    }

    #[test]
    fn every_instruction_survives() {
        round_trip(
            "ARG a b=\"c d\"\nFROM $a\nARG x=\nENV a=b c='d e'\nENV f g  h\nLABEL \"i j\"=k\nCOPY --from=x --link=false \
             --exclude=*.x a b\nCOPY a <<E 3<<-'F G' <<\"H\" /d\nh\nE\n\ti\n\tF G\nH\nADD --unpack --checksum=z a b\nRUN \
             --network=none --device=x cat <<-EOF | x\n\ta\nEOF\nRUN [\"a\\n\", \"b\"]\nRUN\nCMD -- --x\nRUN --device=y -- --x --z\nEXPOSE -- --a --b\nENTRYPOINT []\nSHELL \
             [\"a\"]\nUSER a:b\nWORKDIR /a b\nEXPOSE 80 90/udp\nVOLUME [\"/a b\"]\nVOLUME /a /b\nSTOPSIGNAL 9\nHEALTHCHECK \
             --interval=1m --retries=3 CMD a b\nHEALTHCHECK NONE\nHEALTHCHECK CMD [\"a\"]\nONBUILD RUN a \\\n b\nONBUILD COPY \
             <<A /\nx\nA\nMAINTAINER me  too\n",
        );
    }

    fn lines() -> impl Strategy<Value = String> {
        let arguments = prop::collection::vec(
            prop_oneof![
                "[a-z$/=:.,*-]{1,6}",
                prop::sample::select(vec![
                    "\"a b\"",
                    "'c'",
                    "\\ ",
                    "\\\\",
                    "<<EOF",
                    "<<-\"E F\"",
                    "<<\\E",
                    "[\"a\"]",
                    "[\"a\", \"b c\"]",
                    "--",
                    "a=b",
                    "k='v w'",
                    "#",
                    "\\\n ",
                    "\\\n#c\n",
                    "CMD",
                    "NONE",
                    "é",
                ])
                .prop_map(str::to_owned),
            ],
            0..6,
        )
        .prop_map(|words| words.join(" "));
        let keywords = prop::sample::select(vec![
            "RUN",
            "RUN --mount=type=a,b='c d'",
            "run --network=none",
            "COPY",
            "COPY --from=x --chmod=1",
            "ADD --unpack",
            "ENV",
            "LABEL",
            "ARG",
            "CMD",
            "ENTRYPOINT",
            "SHELL",
            "USER",
            "WORKDIR",
            "EXPOSE",
            "VOLUME",
            "HEALTHCHECK",
            "HEALTHCHECK --interval=1s",
            "ONBUILD RUN",
            "ONBUILD COPY",
            "ONBUILD ENV",
            "FROM",
            "# check=x\nFROM",
            "# c\nRUN",
        ]);
        (keywords, arguments).prop_map(|(keyword, arguments)| {
            let bodies = if arguments.contains("<<") { "\nbody\nEOF\n\tE F\nE" } else { "" };
            format!("{keyword} {arguments}{bodies}\n")
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn what_is_printed_reads_the_same(text in lines(), tick: bool) {
            let escape = if tick { "# escape=`\n" } else { "" };
            let text = format!("{escape}FROM x\n{text}");
            if parse(text.as_bytes()).errors.is_empty() {
                round_trip(&text);
            }
        }
    }
}
