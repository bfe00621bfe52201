//! The language row by row.

use super::super::ast::{CommandLine, Healthcheck, Kind, TransferSource};
use super::*;

fn kinds(text: &str) -> Vec<Kind> {
    parse(text.as_bytes()).unwrap_or_else(|e| panic!("{e}")).file.instructions.into_iter().map(|i| i.kind).collect()
}

fn error(text: &str) -> String {
    parse(text.as_bytes()).err().map_or_else(|| "fine".into(), |e| e.to_string())
}

fn shell(text: &str) -> String {
    match kinds(&format!("FROM a\n{text}")).pop() {
        Some(Kind::Run(run)) => match run.line {
            CommandLine::Shell(line) => line,
            CommandLine::Exec(words) => format!("exec {words:?}"),
        },
        other => panic!("{other:?}"),
    }
}

#[test]
fn a1_01_directives() {
    let parsed = parse(b"# syntax=docker/dockerfile:1\n#escape = `\n# Check=skip=all\nFROM a\nRUN a `\n b\n").expect("valid");
    let directives = parsed.file.directives;
    assert_eq!(directives.syntax.map(|w| w.text).as_deref(), Some("docker/dockerfile:1"));
    assert_eq!(directives.check.map(|w| w.text).as_deref(), Some("skip=all"));
    assert_eq!(directives.escape, Some('`'));
    let late = parse(b"# a comment\n# escape=`\nFROM a\n").expect("valid");
    assert_eq!(late.file.directives.escape, None);
    assert!(error("# escape=x\nFROM a\n").contains("invalid escape token 'x' does not match ` or \\"));
    assert!(error("# syntax=a\n# syntax=b\nFROM a\n").contains("only one syntax parser directive can be used"));
}

#[test]
fn a1_06_comments() {
    assert_eq!(kinds("# c\n  # d\nFROM a\n  RUN x # y\n").len(), 2);
    assert_eq!(shell("RUN a \\\n# comment\n  # another\n b"), "a  b");
    let parsed = parse(b"# one\n# two\nFROM a\n# three\n#\n# four\nRUN x\n\n# five\n\nRUN y\n").expect("valid");
    let comments: Vec<_> = parsed.file.instructions.iter().map(|i| i.comments.join("|")).collect();
    assert_eq!(comments, ["one|two", "four", ""], "A1.07");
}

#[test]
fn a1_08_continuation() {
    assert_eq!(shell("RUN a \\\n  b"), "a   b");
    assert_eq!(shell("RUN a \\  \t\n b"), "a  b", "blanks after the mark");
    assert_eq!(shell("RUN a\\\\\n"), "a\\\\", "an escaped escape is no mark");
    assert_eq!(shell("RUN a \\"), "a", "A1.10: the end of the file ends it");
    assert_eq!(shell("RUN a \\\r\n b\r\n"), "a  b", "A1.12");
    let parsed = parse(b"FROM a\nRUN x \\\n\n y\n").expect("valid");
    assert_eq!(parsed.empty_continuations, [(2, 4)], "A1.09");
}

#[test]
fn a1_12_a_byte_order_mark_is_skipped() {
    assert_eq!(kinds("\u{feff}FROM a\n").len(), 1);
}

#[test]
fn a1_13_empty_files() {
    assert_eq!(error(""), "the Dockerfile cannot be empty");
    assert_eq!(error("# x\n\n"), "file with no instructions");
}

#[test]
fn a1_14_names() {
    assert_eq!(kinds("from a\nrUn b\n").len(), 2);
    assert_eq!(error("FROM a\nRUM x\n"), "dockerfile parse error on line 2: unknown instruction: RUM (did you mean RUN?)");
    assert_eq!(error("FROM a\nINSTALL x\n"), "dockerfile parse error on line 2: unknown instruction: INSTALL");
}

#[test]
fn a1_16_flags() {
    let kinds = kinds("FROM --platform='linux/amd64' a\nCOPY --chown=a:b --link --exclude=x --exclude=y -- --from /z\n");
    assert!(matches!(&kinds[0], Kind::From { platform: Some(p), .. } if p.text == "linux/amd64"));
    let Kind::Copy(copy) = &kinds[1] else { panic!("{kinds:?}") };
    assert_eq!((copy.exclude.len(), copy.link.as_ref().map(|l| l.on)), (2, Some(true)));
    assert!(matches!(&copy.sources[0], TransferSource::Path(p) if p.text == "--from"));
    assert!(error("FROM a\nCOPY --form=x a b\n").ends_with("unknown flag: --form (did you mean --from?)"));
    assert!(error("FROM a\nCOPY --from=x --from=y a b\n").ends_with("duplicate flag specified: --from"));
    assert!(error("FROM a\nCOPY --link= a b\n").ends_with("missing a value on flag: --link"));
    assert!(error("FROM a\nCOPY --link=maybe a b\n").contains("expecting boolean value for flag --link"));
    assert!(error("FROM a\nENV --x a=b\n").ends_with("unknown flag: --x"));
}

#[test]
fn a1_17_json_form() {
    assert_eq!(shell("RUN [\"a\", \"b c\"]"), "exec [\"a\", \"b c\"]");
    assert_eq!(shell("RUN ['a', 'b']"), "['a', 'b']", "single quotes make it shell form");
    assert_eq!(shell("RUN [ -d /x ] && y"), "[ -d /x ] && y");
    assert!(error("FROM a\nRUN [\"a\", 1]\n").ends_with("arrays must be comprised of strings only"));
    let kinds = kinds("FROM a\nCOPY [\"a b\", \"c\", \"/d e/\"]\n");
    let Kind::Copy(copy) = &kinds[1] else { panic!("{kinds:?}") };
    assert_eq!(copy.sources.len(), 2);
    assert_eq!(copy.dest.as_ref().map(|d| d.text.as_str()), Some("/d e/"));
}

#[test]
fn a1_18_env_and_label_words() {
    let kinds = kinds("FROM a\nENV a=b c=\"d e\" f='g h' i=j\\ k\nENV old some value\nLABEL \"a b\"=c\nARG x y=1 z=\"2 3\"\n");
    let text = |k: &Kind| match k {
        Kind::Env(a) | Kind::Label(a) => a.iter().map(|a| format!("{}={}", a.key.text, a.value.text)).collect(),
        Kind::Arg(a) => a.iter().map(|a| format!("{}:{}", a.name.text, a.value.as_ref().map_or("-", |v| &v.text))).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    assert_eq!(text(&kinds[1]), ["a=b", "c=\"d e\"", "f='g h'", "i=j\\ k"]);
    assert_eq!(text(&kinds[2]), ["old=some value"]);
    assert_eq!(text(&kinds[3]), ["\"a b\"=c"]);
    assert_eq!(text(&kinds[4]), ["x:-", "y:1", "z:\"2 3\""]);
    assert!(error("FROM a\nENV x\n").ends_with("ENV must have two arguments"));
    assert!(error("FROM a\nENV a=b c\n").ends_with("Syntax error - can't find = in \"c\". Must be of the form: name=value"));
    assert!(error("FROM a\nENV =b\n").ends_with("ENV names can not be blank"));
    assert!(error("ARG =b\nFROM a\n").ends_with("ARG names can not be blank"));
}

#[test]
fn a2_heredocs() {
    let text = "FROM a\nRUN <<EOF\none\ntwo\nEOF\nRUN cat <<A <<-'B' > x\na\nA\n\tb\n\tB\nCOPY <<f1 <<\"f2\" /d/\n1\nf1\n2\nf2\nRUN echo <<<no\n";
    let kinds = kinds(text);
    let Kind::Run(run) = &kinds[1] else { panic!("{kinds:?}") };
    assert_eq!((run.heredocs[0].body.as_str(), run.heredocs[0].expand), ("one\ntwo\n", true));
    let Kind::Run(run) = &kinds[2] else { panic!("{kinds:?}") };
    assert_eq!((run.heredocs[1].chomp, run.heredocs[1].expand, run.heredocs[1].content().as_str()), (true, false, "b\n"));
    assert_eq!(run.line, CommandLine::Shell("cat <<A <<-'B' > x".into()));
    let Kind::Copy(copy) = &kinds[3] else { panic!("{kinds:?}") };
    assert!(matches!(&copy.sources[1], TransferSource::Heredoc(h) if h.name == "f2" && h.body == "2\n" && !h.expand));
    let Kind::Run(run) = &kinds[4] else { panic!("{kinds:?}") };
    assert!(run.heredocs.is_empty(), "A2.02: a here-string is no heredoc");
    assert!(error("FROM a\nRUN <<EOF\nx\n").contains("unterminated heredoc"));
    assert!(error("FROM a\nCOPY a <<EOF\nx\nEOF\n").ends_with("COPY cannot accept a heredoc as a destination"));
    assert_eq!(shell("RUN 3<<EOF cat\nx\nEOF"), "3<<EOF cat");
}

#[test]
fn a4_01_from() {
    assert!(matches!(&kinds("FROM a AS Name\n")[0], Kind::From { name: Some(n), .. } if n.text == "Name"));
    assert!(error("FROM a b\n").ends_with("FROM requires either one or three arguments"));
    assert!(error("FROM\n").ends_with("FROM requires either one or three arguments"));
    assert!(error("FROM a AS 1x\n").ends_with("invalid name for build stage: \"1x\", name can't start with a number or contain symbols"));
}

#[test]
fn a6_01_copy_needs_two() {
    assert!(error("FROM a\nCOPY x\n").ends_with("COPY requires at least two arguments, but only one was provided. Destination could not be determined"));
}

#[test]
fn a8_11_healthchecks() {
    let kinds = kinds("FROM a\nHEALTHCHECK --interval=1m30s --retries=2 CMD curl x\nHEALTHCHECK none\nHEALTHCHECK CMD [\"a\"]\n");
    assert!(matches!(&kinds[1], Kind::Healthcheck(Healthcheck::Cmd { interval: 90_000_000_000, retries: 2, .. })));
    assert!(matches!(&kinds[2], Kind::Healthcheck(Healthcheck::None)));
    assert!(matches!(&kinds[3], Kind::Healthcheck(Healthcheck::Cmd { line: CommandLine::Exec(_), .. })));
    assert!(error("FROM a\nHEALTHCHECK --interval=1us CMD x\n").ends_with("Interval \"interval\" cannot be less than 1ms"));
    assert!(error("FROM a\nHEALTHCHECK RUN x\n").ends_with("Unknown type \"RUN\" in HEALTHCHECK (try CMD)"));
    assert!(error("FROM a\nHEALTHCHECK --retries=-1 CMD x\n").ends_with("--retries cannot be negative (-1)"));
    assert!(error("FROM a\nHEALTHCHECK CMD\n").ends_with("Missing command after HEALTHCHECK CMD"));
}

#[test]
fn a8_12_onbuild() {
    let kinds = kinds("FROM a\nONBUILD RUN <<E\nx\nE\nONBUILD COPY --from=b /c /d\n");
    assert!(matches!(&kinds[1], Kind::Onbuild { text, .. } if text == "RUN <<E\nx\nE"));
    let Kind::Onbuild { text, instruction } = &kinds[2] else { panic!("{kinds:?}") };
    assert_eq!(text, "COPY --from=b /c /d");
    assert!(matches!(instruction.kind, Kind::Copy(_)));
    assert!(error("FROM a\nONBUILD ONBUILD RUN x\n").ends_with("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"));
    assert!(error("FROM a\nONBUILD FROM x\n").ends_with("FROM isn't allowed as an ONBUILD trigger"));
    assert!(parse_trigger("RUN <<E\nx\nE", '\\').is_ok());
    assert!(parse_trigger("RUN a\nRUN b", '\\').is_err());
}

#[test]
fn spans_point_into_the_file() {
    let text = "FROM a\nCOPY --chown=me \\\n  src \\\n  /dest\n";
    let parsed = parse(text.as_bytes()).expect("valid");
    let Kind::Copy(copy) = &parsed.file.instructions[1].kind else { panic!("a copy") };
    let TransferSource::Path(source) = &copy.sources[0] else { panic!("a path") };
    assert_eq!(&text[source.span.clone()], "src");
    assert_eq!(copy.dest.as_ref().map(|d| &text[d.span.clone()]), Some("/dest"));
    assert_eq!(copy.chown.as_ref().map(|c| &text[c.span.clone()]), Some("--chown=me"));
    assert_eq!(parsed.file.instructions[1].lines, (2, 4));
}

#[test]
fn several_errors_are_found_at_once() {
    let Err(errors) = parse(b"FROM a\nRUM x\nCOPY a\nENV x\n") else { panic!("errors") };
    assert_eq!(errors.0.iter().map(|e| e.lines).collect::<Vec<_>>(), [Some((2, 2)), Some((3, 3)), Some((4, 4))]);
}

#[test]
fn ten_thousand_lines_are_no_trouble() {
    let text = format!("FROM a\n{}", "RUN echo a \\\n  b\nENV a=b c=\"d e\"\nCOPY a b /c/\n".repeat(2500));
    assert_eq!(kinds(&text).len(), 7501);
}

proptest::proptest! {
    #[test]
    fn never_panics(text in "(FROM|RUN|COPY|ENV|ONBUILD|HEALTHCHECK|#|<<|[ \\n\\t\\\\'\"=\\[\\]a-z-]){0,60}") {
        let _ = parse(text.as_bytes());
    }

    #[test]
    fn never_panics_on_bytes(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
        let _ = parse(&bytes);
    }
}
