//! Each instruction's arguments.

use super::{error, errors, kind, one};
use crate::dockerfile::ast::{ArgDeclaration, Assignment, CommandLine, Healthcheck, Kind, TransferSource, Word};
use crate::dockerfile::parser::{parse, parse_trigger};

fn texts(words: &[Word]) -> Vec<&str> {
    words.iter().map(|word| word.text.as_str()).collect()
}

#[test]
fn from_a4_01() {
    let first = |line: &str| parse(line.as_bytes()).into_result().expect(line).0.instructions.remove(0).kind;
    let Kind::From { platform, base, name } = first("FROM --platform=linux/arm64 alpine:$V as Build-1.x_y") else {
        panic!("not FROM")
    };
    assert_eq!(platform.expect("given").text, "linux/arm64");
    assert_eq!(base.text, "alpine:$V");
    assert_eq!(name.expect("given").text, "Build-1.x_y");
    assert!(matches!(first("FROM x"), Kind::From { platform: None, name: None, .. }));
    insta::assert_debug_snapshot!(errors("FROM\nFROM a b\nFROM a to b\nFROM a AS b c\nFROM a AS 1b\nFROM a AS b/c\n"), @r#"
    [
        "dockerfile parse error on line 1: FROM requires either one or three arguments",
        "dockerfile parse error on line 2: FROM requires either one or three arguments",
        "dockerfile parse error on line 3: FROM requires either one or three arguments",
        "dockerfile parse error on line 4: FROM requires either one or three arguments",
        "dockerfile parse error on line 5: invalid name for build stage: \"1b\", name can't start with a number or contain symbols",
        "dockerfile parse error on line 6: invalid name for build stage: \"b/c\", name can't start with a number or contain symbols",
    ]
    "#);
}

#[test]
fn arg_a4_10() {
    let Kind::Arg(args) = kind("ARG a b= c=\"d e\" f='$g'") else { panic!("not ARG") };
    let seen: Vec<_> = args
        .iter()
        .map(|ArgDeclaration { name, value }| (name.text.as_str(), value.as_ref().map(|v| v.text.as_str())))
        .collect();
    assert_eq!(seen, [("a", None), ("b", Some("")), ("c", Some("\"d e\"")), ("f", Some("'$g'"))]);
    insta::assert_snapshot!(error("ARG =x"), @"ARG names can not be blank");
    insta::assert_snapshot!(error("ARG"), @"ARG requires at least one argument");
}

fn pairs(assignments: &[Assignment]) -> Vec<(&str, &str, bool)> {
    assignments.iter().map(|a| (a.key.text.as_str(), a.value.text.as_str(), a.legacy)).collect()
}

#[test]
fn env_a8_01() {
    let Kind::Env(env) = kind("ENV a=1 b=\"2 3\" \\\n  c=x\\ y d= e==") else { panic!("not ENV") };
    assert_eq!(
        pairs(&env),
        [("a", "1", false), ("b", "\"2 3\"", false), ("c", "x\\ y", false), ("d", "", false), ("e", "=", false)],
    );
    let Kind::Env(env) = kind("ENV  key \t a  b = c ") else { panic!("not ENV") };
    assert_eq!(pairs(&env), [("key", "a  b = c", true)]);
    insta::assert_snapshot!(error("ENV"), @"ENV requires at least one argument");
    insta::assert_snapshot!(error("ENV a"), @"ENV must have two arguments");
    insta::assert_snapshot!(error("ENV a=b c"), @r#"Syntax error - can't find = in "c". Must be of the form: name=value"#);
    insta::assert_snapshot!(error("ENV =b"), @"ENV names can not be blank");
}

#[test]
fn label_a8_02() {
    let Kind::Label(labels) = kind("LABEL \"a b\"=c com.x.y=z") else { panic!("not LABEL") };
    assert_eq!(pairs(&labels), [("\"a b\"", "c", false), ("com.x.y", "z", false)]);
    let Kind::Label(labels) = kind("LABEL a b c") else { panic!("not LABEL") };
    assert_eq!(pairs(&labels), [("a", "b c", true)]);
    insta::assert_snapshot!(error("LABEL a"), @"LABEL must have two arguments");
    insta::assert_snapshot!(error("LABEL a=b =c"), @"LABEL names can not be blank");
}

#[test]
fn shell_and_exec_forms_a1_17_a8_03_a8_04() {
    let shell = |text: &str| CommandLine::Shell(text.to_owned());
    let exec = |argv: &[&str]| CommandLine::Exec(argv.iter().map(|arg| (*arg).to_owned()).collect());
    let line = |text: &str| match kind(text) {
        Kind::Cmd(command) | Kind::Entrypoint(command) => command.line,
        Kind::Run(run) => run.line,
        other => panic!("{other:?}"),
    };
    assert_eq!(line("CMD echo  \"a b\" "), shell("echo  \"a b\""));
    assert_eq!(line("CMD [ \"a\", \\\n \"b c\" ]"), exec(&["a", "b c"]));
    assert_eq!(line("ENTRYPOINT []"), exec(&[]));
    assert_eq!(line("CMD"), shell(""));
    assert_eq!(line("RUN ['a']"), shell("['a']"));
    assert_eq!(line("RUN [ -f x ] && y"), shell("[ -f x ] && y"));
    assert_eq!(line("RUN [\"a\", \"b\"]"), exec(&["a", "b"]));
    insta::assert_snapshot!(error("CMD [\"a\", 1]"), @"when using JSON array syntax, arrays must be comprised of strings only");
}

#[test]
fn run_flags_a5() {
    let Kind::Run(run) = kind(
        "RUN --mount=type=cache,target=/c --mount=\"type=secret,id=a b\" --network=none --security=insecure --device=x a",
    ) else {
        panic!("not RUN")
    };
    assert_eq!(texts(&run.mounts), ["type=cache,target=/c", "type=secret,id=a b"]);
    assert_eq!(run.network.expect("given").text, "none");
    assert_eq!(run.security.expect("given").text, "insecure");
    assert_eq!(texts(&run.devices), ["x"]);
    assert_eq!(run.line, CommandLine::Shell("a".into()));
    insta::assert_snapshot!(error("RUN --network=hots a"), @r#"invalid network mode "hots" (did you mean host?)"#);
    insta::assert_snapshot!(error("RUN --security=x a"), @r#"security "x" is not valid"#);
    insta::assert_snapshot!(error("RUN --mount type=bind a"), @"missing a value on flag: --mount");
}

#[test]
fn copy_a6_01_a6_02() {
    let line = "COPY --from=b --chown=1:2 --chmod=u+x --link --parents=false --exclude=*.o --exclude=a a \"b c\" /d/";
    let Kind::Copy(copy) = kind(line) else { panic!("not COPY") };
    let paths: Vec<_> = copy
        .sources
        .iter()
        .map(|source| match source {
            TransferSource::Path(path) => path.text.as_str(),
            TransferSource::Heredoc(heredoc) => panic!("{heredoc:?}"),
        })
        .collect();
    assert_eq!(paths, ["a", "\"b", "c\""], "quotes do not group");
    assert_eq!(copy.dest.expect("given").text, "/d/");
    assert_eq!(copy.from.expect("given").text, "b");
    assert_eq!(copy.chown.expect("given").text, "1:2");
    assert_eq!(copy.chmod.expect("given").text, "u+x");
    assert!(copy.link.expect("given").on);
    assert!(!copy.parents.expect("given").on);
    assert_eq!(texts(&copy.exclude), ["*.o", "a"]);
    assert!(matches!(kind("COPY [\"a b\", \"c\"]"), Kind::Copy(copy) if copy.sources.len() == 1));
    for line in ["COPY", "COPY a", "COPY [\"a\"]", "COPY []"] {
        assert_eq!(
            error(line),
            "COPY requires at least two arguments, but only one was provided. Destination could not be determined",
        );
    }
}

#[test]
fn copy_from_takes_no_variables_a3_10() {
    insta::assert_snapshot!(error("COPY --from=$x a b"), @"variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope as a workaround");
    assert!(matches!(kind("COPY --from= a b"), Kind::Copy(copy) if copy.from.is_none()));
}

#[test]
fn add_a6_03() {
    let Kind::Add(add) = kind("ADD --keep-git-dir --checksum=sha256:1 --unpack=true --link=FALSE a b") else {
        panic!("not ADD")
    };
    assert!(add.keep_git_dir.expect("given").on);
    assert!(add.unpack.expect("given").on);
    assert!(!add.link.expect("given").on);
    assert_eq!(add.checksum.expect("given").text, "sha256:1");
    insta::assert_snapshot!(error("ADD --parents a b"), @"unknown flag: --parents");
    insta::assert_snapshot!(error("ADD a"), @"ADD requires at least two arguments, but only one was provided. Destination could not be determined");
}

#[test]
fn shell_a8_05() {
    assert_eq!(kind("SHELL [\"/bin/bash\", \"-c\"]"), Kind::Shell(vec!["/bin/bash".into(), "-c".into()]));
    insta::assert_snapshot!(error("SHELL /bin/bash -c"), @"SHELL requires the arguments to be in JSON form");
    insta::assert_snapshot!(error("SHELL [\"c:\\x\"]"), @"SHELL requires the arguments to be in JSON form");
    insta::assert_snapshot!(error("SHELL []"), @"SHELL requires at least one argument");
    insta::assert_snapshot!(error("SHELL"), @"SHELL requires at least one argument");
}

#[test]
fn single_arguments_a8_06_a8_07_a8_10_a8_13() {
    assert!(matches!(kind("WORKDIR /a  b"), Kind::Workdir(word) if word.text == "/a  b"));
    assert!(matches!(kind("USER u:g"), Kind::User(word) if word.text == "u:g"));
    assert!(matches!(kind("STOPSIGNAL $S"), Kind::StopSignal(word) if word.text == "$S"));
    assert_eq!(kind("MAINTAINER Me <me@x>"), Kind::Maintainer("Me <me@x>".into()));
    for name in ["WORKDIR", "USER", "STOPSIGNAL", "MAINTAINER"] {
        assert_eq!(error(name), format!("{name} requires exactly one argument"));
    }
}

#[test]
fn lists_a8_08_a8_09() {
    assert!(matches!(kind("EXPOSE 80/tcp  $P 1-2"), Kind::Expose(words) if texts(&words) == ["80/tcp", "$P", "1-2"]));
    assert!(matches!(kind("VOLUME /a /b"), Kind::Volume(words) if texts(&words) == ["/a", "/b"]));
    assert!(matches!(kind("VOLUME [\" /a b \"]"), Kind::Volume(words) if texts(&words) == ["/a b"]));
    insta::assert_snapshot!(error("VOLUME [\"/a\", \" \"]"), @"VOLUME specified can not be an empty string");
    insta::assert_snapshot!(error("VOLUME []"), @"VOLUME requires at least one argument");
    insta::assert_snapshot!(error("EXPOSE"), @"EXPOSE requires at least one argument");
}

#[test]
fn healthcheck_a8_11() {
    assert_eq!(kind("HEALTHCHECK none"), Kind::Healthcheck(Healthcheck::None));
    let line =
        "HEALTHCHECK --interval=5m --timeout=1.5s --start-period=0s --start-interval=1ms --retries=2 CMD [\"a\"]";
    assert_eq!(
        kind(line),
        Kind::Healthcheck(Healthcheck::Cmd {
            line: CommandLine::Exec(vec!["a".into()]),
            interval: 300_000_000_000,
            timeout: 1_500_000_000,
            start_period: 0,
            start_interval: 1_000_000,
            retries: 2,
        }),
    );
    assert!(matches!(
        kind("HEALTHCHECK cmd curl -f x || exit 1"),
        Kind::Healthcheck(Healthcheck::Cmd { line: CommandLine::Shell(text), interval: 0, .. })
            if text == "curl -f x || exit 1"
    ));
    insta::assert_snapshot!(error("HEALTHCHECK"), @"HEALTHCHECK requires at least one argument");
    insta::assert_snapshot!(error("HEALTHCHECK NONE x"), @"HEALTHCHECK NONE takes no arguments");
    insta::assert_snapshot!(error("HEALTHCHECK CMD"), @"Missing command after HEALTHCHECK CMD");
    insta::assert_snapshot!(error("HEALTHCHECK CMD []"), @"Missing command after HEALTHCHECK CMD");
    insta::assert_snapshot!(error("HEALTHCHECK curl x"), @r#"Unknown type "CURL" in HEALTHCHECK (try CMD)"#);
    insta::assert_snapshot!(error("HEALTHCHECK --interval=1us CMD a"), @r#"Interval "interval" cannot be less than 1ms"#);
    insta::assert_snapshot!(error("HEALTHCHECK --start-period=-1s CMD a"), @r#"Interval "start-period" cannot be less than 1ms"#);
    insta::assert_snapshot!(error("HEALTHCHECK --timeout=5 CMD a"), @r#"time: missing unit in duration "5""#);
    insta::assert_snapshot!(error("HEALTHCHECK --retries=-1 CMD a"), @"--retries cannot be negative (-1)");
    insta::assert_snapshot!(error("HEALTHCHECK --retries=x CMD a"), @r#"invalid number of retries: "x""#);
    insta::assert_snapshot!(error("HEALTHCHECK --interva=1s CMD a"), @"unknown flag: --interva (did you mean interval?)");
}

#[test]
fn onbuild_a8_12() {
    let instruction = one("onbuild  Copy --from=x a \\\n  b");
    let Kind::Onbuild { text, instruction: trigger } = instruction.kind else { panic!("not ONBUILD") };
    assert_eq!(text, "Copy --from=x a   b");
    assert_eq!(trigger.keyword.text, "Copy");
    assert_eq!(trigger.keyword.span, 16..20);
    assert_eq!(trigger.lines, (2, 3));
    insta::assert_snapshot!(error("ONBUILD"), @"ONBUILD requires at least one argument");
    insta::assert_snapshot!(error("ONBUILD ONBUILD RUN a"), @"Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed");
    insta::assert_snapshot!(error("ONBUILD from x"), @"FROM isn't allowed as an ONBUILD trigger");
    insta::assert_snapshot!(error("ONBUILD MAINTAINER x"), @"MAINTAINER isn't allowed as an ONBUILD trigger");
    insta::assert_snapshot!(error("ONBUILD COPY a"), @"COPY requires at least two arguments, but only one was provided. Destination could not be determined");
    insta::assert_snapshot!(error("ONBUILD RNU a"), @"unknown instruction: RNU (did you mean RUN?)");
}

#[test]
fn triggers_of_images_a8_12() {
    assert!(matches!(parse_trigger("RUN a", '\\').expect("valid").kind, Kind::Run(_)));
    assert!(matches!(parse_trigger("ENV a=b", '`').expect("valid").kind, Kind::Env(_)));
    let error = |text: &str| parse_trigger(text, '\\').expect_err(text).to_string();
    insta::assert_snapshot!(error("FROM x"), @"dockerfile parse error on line 1: FROM isn't allowed as an ONBUILD trigger");
    insta::assert_snapshot!(error("RUN a\nRUN b"), @"onbuild trigger should be a single expression");
    insta::assert_snapshot!(error(""), @"onbuild trigger should be a single expression");
}
